//! Retained messages, in the order of their topics' levels.
//!
//! Keys have U+0000 in place of `/`. No topic holds that character, and it sorts before all
//! others, so everything below a level stands together and a wildcard filter is answered by
//! jumping from one candidate to the next.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
    time::Instant,
};

use crate::{
    packet::{QoS, TopicFilter},
    session::{Lookup, RetainedScan, StoredMessage, SubscriptionKey},
};

/// The retained messages of all topics.
#[derive(Debug, Default)]
pub struct Retained {
    messages: BTreeMap<Box<[u8]>, Entry>,
    bytes: usize,
    expiries: BTreeMap<(Instant, u64), Box<[u8]>>,
    stored: u64,
    key: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    message: Arc<StoredMessage>,
    /// The client identifier of its publisher; `None` for the server itself.
    publisher: Option<Arc<str>>,
    /// Counts what was stored, up to this one.
    serial: u64,
}

impl Entry {
    /// Whether `scan` is to find it, if its topic matches.
    fn is_for(&self, scan: &RetainedScan) -> bool {
        let Lookup { qos, not_from, .. } = &scan.lookup;
        let is_own = not_from.is_some() && self.publisher == *not_from;
        let qos = self.message.as_message().qos.min(*qos);
        let until = scan.until[usize::from(qos != QoS::AtMostOnce)];
        !is_own && self.serial <= until
    }

    /// Where it stands among the expiries.
    fn expiry(&self) -> Option<(Instant, u64)> {
        self.message.expires_at().map(|at| (at, self.serial))
    }
}

/// What a look for the next retained message found.
#[derive(Debug)]
pub enum Step {
    Found(Arc<StoredMessage>),
    /// Enough was looked at for one turn.
    Pause,
    Done,
}

impl Retained {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Topic, property and payload bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// In the order of their topics' levels.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<StoredMessage>> {
        self.messages.values().map(|entry| &entry.message)
    }

    /// The same behind `topic`, with their publishers; from the first on if it is `None`.
    pub fn after(
        &self,
        topic: Option<&[u8]>,
    ) -> impl Iterator<Item = (&Arc<StoredMessage>, Option<&Arc<str>>)> {
        let key: Option<Vec<u8>> = topic.map(|topic| topic.iter().map(|&byte| sortable(byte)).collect());
        let from = key.as_deref().map_or(Unbounded, Excluded);
        let entries = self.messages.range::<[u8], _>((from, Unbounded));
        entries.map(|(_, entry)| (&entry.message, entry.publisher.as_ref()))
    }

    /// What `topic` has retained.
    pub fn get(&mut self, topic: &[u8]) -> Option<&StoredMessage> {
        self.set_key(topic);
        self.messages.get(&*self.key).map(|entry| &*entry.message)
    }

    /// Gives no serial number up to `serial` again.
    pub fn go_on_after(&mut self, serial: u64) {
        self.stored = self.stored.max(serial);
    }

    /// Keeps `message` as its topic's, in place of any before it [MQTT-3.3.1-5]; returns its serial
    /// number and that of the one before.
    pub fn store(&mut self, message: Arc<StoredMessage>, publisher: Option<Arc<str>>) -> (u64, Option<u64>) {
        self.stored += 1;
        (self.stored, self.restore(self.stored, message, publisher))
    }

    /// The same of a message that was stored before, when its serial number was `serial`.
    pub fn restore(
        &mut self,
        serial: u64,
        message: Arc<StoredMessage>,
        publisher: Option<Arc<str>>,
    ) -> Option<u64> {
        self.go_on_after(serial);
        self.set_key(message.as_message().topic);
        self.bytes += message.size();
        let entry = Entry { message, publisher, serial };
        if let Some(at) = entry.expiry() {
            self.expiries.insert(at, self.key.as_slice().into());
        }
        // Most are new topics, so the key is allocated before it is known to be needed.
        let before = self.messages.insert(self.key.as_slice().into(), entry);
        self.forget(before)
    }

    /// Removes what `topic` has retained [MQTT-3.3.1-6]; returns its serial number.
    pub fn remove(&mut self, topic: &[u8]) -> Option<u64> {
        self.set_key(topic);
        let before = self.messages.remove(&*self.key);
        self.forget(before)
    }

    /// The client of `scan` missed QoS 0 messages: what is retained of them is to be looked up.
    pub fn extend(&self, scan: &mut RetainedScan) {
        scan.until[0] = self.stored;
    }

    /// When the next message expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first_key_value().map(|((at, _), _)| *at)
    }

    /// Deletes a message that has expired [MQTT-3.3.2-5], if there is one; returns its serial number.
    pub fn expire(&mut self, now: Instant) -> Option<u64> {
        let first = self.expiries.first_entry().filter(|first| first.key().0 <= now)?;
        let key = first.remove();
        let before = self.messages.remove(&key);
        self.forget(before)
    }

    /// All messages with their serial numbers and publishers, in the order of their topics' levels.
    #[cfg(any(test, fuzzing))]
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Arc<StoredMessage>, Option<&Arc<str>>)> {
        self.messages.values().map(|entry| (entry.serial, &entry.message, entry.publisher.as_ref()))
    }

    /// The next message that `scan` has not been given, looking at no more than `budget` topics.
    pub fn next(&self, scan: &mut RetainedScan, now: Instant, budget: &mut usize) -> Step {
        loop {
            if *budget == 0 {
                return Step::Pause;
            }
            *budget -= 1;
            let rest = (Included(scan.from.as_slice()), Unbounded);
            let Some((key, entry)) = self.messages.range::<[u8], _>(rest).next() else { return Step::Done };
            match compare(&scan.pattern, key) {
                Verdict::Match => {
                    scan.from.clear();
                    scan.from.extend_from_slice(key);
                    scan.from.push(0);
                    if entry.is_for(scan) && !entry.message.is_expired(now) {
                        return Step::Found(entry.message.clone());
                    }
                }
                Verdict::Below => {
                    scan.from.clear();
                    scan.from.extend_from_slice(key);
                    scan.from.push(0);
                }
                Verdict::Level { prefix, level } => {
                    scan.from.clear();
                    scan.from.extend_from_slice(&key[..prefix]);
                    scan.from.extend_from_slice(&scan.pattern[level.0..level.1]);
                }
                Verdict::After { prefix } => {
                    scan.from.clear();
                    scan.from.extend_from_slice(&key[..prefix]);
                    scan.from.push(1);
                }
                Verdict::AfterDollar => {
                    scan.from.clear();
                    scan.from.push(b'$' + 1);
                }
                Verdict::Done => return Step::Done,
            }
        }
    }

    /// Begins looking for what the `filter` of a subscription matches.
    pub fn scan(&self, subscription: SubscriptionKey, filter: &TopicFilter, lookup: Lookup) -> RetainedScan {
        let pattern: Box<[u8]> = filter.pattern().bytes().map(sortable).collect();
        let wildcard = pattern.iter().position(|&byte| byte == b'+' || byte == b'#');
        // What stands before the first wildcard, without the separator, so that `a/#` finds `a`.
        let from = match wildcard {
            None => pattern.to_vec(),
            Some(at) => pattern[..at.saturating_sub(1)].to_vec(),
        };
        RetainedScan {
            subscription,
            until: [self.stored; 2],
            pattern,
            from,
            lookup,
            after: 0,
            is_of_figures: false,
        }
    }

    fn set_key(&mut self, topic: &[u8]) {
        self.key.clear();
        self.key.extend(topic.iter().map(|&byte| sortable(byte)));
    }

    /// Its serial number.
    fn forget(&mut self, before: Option<Entry>) -> Option<u64> {
        let entry = before?;
        self.bytes -= entry.message.size();
        if let Some(expiry) = entry.expiry() {
            self.expiries.remove(&expiry);
        }
        Some(entry.serial)
    }
}

fn sortable(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

/// How a topic stands to a filter, or where the next candidate is.
#[derive(Debug, PartialEq)]
enum Verdict {
    Match,
    /// Only longer topics below this one may match.
    Below,
    /// Below `key[..prefix]`, the filter's level comes later.
    Level {
        prefix: usize,
        level: (usize, usize),
    },
    /// Nothing more below `key[..prefix]`.
    After {
        prefix: usize,
    },
    AfterDollar,
    Done,
}

fn compare(pattern: &[u8], key: &[u8]) -> Verdict {
    // Where the present levels start; past the end once they are used up.
    let (mut wanted_at, mut at) = (0, 0);
    loop {
        let wanted_end = level_end(pattern, wanted_at);
        let wanted = (wanted_at <= pattern.len()).then(|| &pattern[wanted_at..wanted_end]);
        let end = level_end(key, at);
        let level = (at <= key.len()).then(|| &key[at..end]);
        match (wanted, level) {
            (Some(b"#" | b"+"), Some(level)) if at == 0 && level.starts_with(b"$") => {
                return Verdict::AfterDollar;
            }
            (Some(b"#"), _) | (None, None) => return Verdict::Match,
            (Some(_), None) => return Verdict::Below,
            (None, Some(_)) => return Verdict::After { prefix: at - 1 },
            (Some(b"+"), Some(_)) => {}
            (Some(wanted), Some(level)) => match level.cmp(wanted) {
                Ordering::Equal => {}
                Ordering::Less => return Verdict::Level { prefix: at, level: (wanted_at, wanted_end) },
                Ordering::Greater if at == 0 => return Verdict::Done,
                Ordering::Greater => return Verdict::After { prefix: at - 1 },
            },
        }
        wanted_at = wanted_end + 1;
        at = end + 1;
    }
}

fn level_end(text: &[u8], start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    rest.iter().position(|&byte| byte == 0).map_or(text.len(), |len| start + len)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        packet::TopicName,
        session::{MessageRef, Payload},
    };

    fn message(topic: &str, expires_at: Option<Instant>) -> Arc<StoredMessage> {
        let message = MessageRef {
            topic: topic.as_bytes(),
            properties: &[],
            payload: Payload::Copied(b"x"),
            qos: QoS::AtMostOnce,
            retain: true,
            expires_at,
            packet: None,
        };
        Arc::new(message.store())
    }

    /// Topics that `filter` finds, and how many were looked at.
    fn find(retained: &Retained, filter: &str, now: Instant) -> (Vec<String>, usize) {
        let subscription = SubscriptionKey { node: 0, share: None };
        let filter = TopicFilter::parse(filter).expect("a valid filter");
        let mut scan =
            retained.scan(subscription, &filter, Lookup { qos: QoS::AtLeastOnce, ..Lookup::default() });
        let (mut found, mut budget) = (Vec::new(), usize::MAX);
        while let Step::Found(message) = retained.next(&mut scan, now, &mut budget) {
            found.push(String::from_utf8(message.as_message().topic.to_vec()).expect("UTF-8"));
        }
        (found, usize::MAX - budget)
    }

    #[test]
    fn a_wildcard_jumps_over_what_it_cannot_match() {
        let mut retained = Retained::default();
        for device in 0..10 {
            for sensor in 0..1000 {
                retained.store(message(&format!("d{device}/s{sensor}/value"), None), None);
            }
        }
        let (found, looked_at) = find(&retained, "+/s7/value", Instant::now());
        assert_eq!(found.len(), 10);
        assert!(looked_at < 60, "{looked_at} topics were looked at");
    }

    #[test]
    fn expired_messages_are_not_found_and_then_deleted() {
        let now = Instant::now();
        let mut retained = Retained::default();
        retained.store(message("a", Some(now + Duration::from_secs(5))), None);
        retained.store(message("b", None), None);
        let later = now + Duration::from_secs(5);
        assert_eq!(find(&retained, "#", later).0, ["b"]);
        assert_eq!((retained.expire(later), retained.expire(later)), (Some(1), None));
        assert_eq!((retained.len(), retained.bytes()), (1, 2));
        assert_eq!(retained.next_expiry(), None);
    }

    proptest! {
        #[test]
        fn finds_exactly_what_the_filter_matches_in_order(
            topics in prop::collection::btree_set("[ab$ 0]{0,2}(/[ab$ 0]{0,2}){0,3}", 0..60),
            filter in "([ab$]{1,2}|\\+|)(/([ab]{0,2}|\\+)){0,3}(/#)?",
        ) {
            let Ok(filter) = TopicFilter::parse(&filter) else { return Ok(()) };
            let mut retained = Retained::default();
            let mut expected = Vec::new();
            for text in &topics {
                let Ok(topic) = TopicName::parse(text) else { continue };
                retained.store(message(text, None), None);
                if filter.matches(&topic) {
                    expected.push(text.clone());
                }
            }
            expected.sort_by_key(|topic| topic.replace('/', "\0"));
            prop_assert_eq!(find(&retained, filter.as_str(), Instant::now()).0, expected);
        }
    }
}
