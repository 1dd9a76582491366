//! What waits for one client: it is offline, slow, or has its Receive Maximum in flight.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::LazyLock,
    time::Instant,
};

use foldhash::fast::FixedState;

use crate::packet::QoS;

use super::{Delivery, Empty, Lookup, RetainedScan, SubscriptionKey};

/// Messages and lookups of retained messages in the order in which they came about, so that no
/// message overtakes another one of its topic [MQTT-4.6.0-5]. Messages are bounded in number and
/// bytes; of lookups there is one for each subscription.
#[derive(Debug, Default)]
pub struct Queue {
    /// With their places.
    messages: VecDeque<(u64, Delivery)>,
    /// Only while there are any.
    scans: Option<Box<Scans>>,
    /// The place of what comes next.
    next_place: u64,
    bytes: usize,
    /// When the first message may expire; `None` if none does.
    first_expiry: Option<Instant>,
    /// How many messages waited when the first of a run was refused, so that it is reported once. A
    /// run ends when half of them are gone.
    refused_at: Option<usize>,
    /// Whether the client may have missed QoS 0 messages that are retained, since the last lookup.
    has_missed: bool,
}

/// Lookups by their places.
#[derive(Debug, Default)]
struct Scans {
    by_place: BTreeMap<u64, RetainedScan>,
    /// Those of QoS 0 subscriptions.
    at_most_once: BTreeSet<u64>,
    places: HashMap<(SubscriptionKey, bool), u64, FixedState>,
}

/// What to go on with.
#[derive(Debug)]
pub enum Next<'a> {
    /// The message in front, no longer in the queue.
    Message(Delivery),
    /// A lookup, and the place where it stays until [`Queue::finish`].
    Retained(u64, &'a mut RetainedScan),
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull {
    /// Whether the one before it still found room.
    pub is_first: bool,
}

impl Empty for Queue {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Queue> = LazyLock::new(Queue::default);
        &EMPTY
    }
}

impl Queue {
    /// Messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is nothing to go on with, neither a message nor a lookup.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.scans.is_none()
    }

    /// Topic, property and payload bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends `delivery` unless the queue would exceed `messages` or `bytes`.
    pub fn push(&mut self, delivery: Delivery, messages: usize, bytes: usize) -> Result<(), QueueFull> {
        let size = delivery.message.size();
        if self.messages.len() >= messages || self.bytes.saturating_add(size) > bytes {
            return Err(self.refuse());
        }
        self.append(delivery);
        Ok(())
    }

    fn take_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }

    /// Notes that a message for this client was dropped; tells whether it is the first of a run.
    pub fn refuse(&mut self) -> QueueFull {
        let is_first = self.refused_at.is_none();
        self.refused_at.get_or_insert(self.messages.len());
        self.has_missed = true;
        QueueFull { is_first }
    }

    /// The client was away.
    pub fn miss(&mut self) {
        self.has_missed = true;
    }

    /// Whether lookups have to go further than they were to, and forgets it.
    pub fn take_missed(&mut self) -> bool {
        std::mem::take(&mut self.has_missed)
    }

    /// There is room again: unless the queue is still long, the next drop begins a new run.
    pub fn recover(&mut self) {
        if self.refused_at.is_some_and(|count| self.messages.len() * 2 <= count) {
            self.refused_at = None;
        }
    }

    /// The next thing to do; if nothing of QoS 1 or 2 may begin, a lookup for a QoS 0 subscription,
    /// whose messages need not wait.
    pub fn next(&mut self, may_begin: bool) -> Option<Next<'_>> {
        let Some(scans) = &mut self.scans else {
            return if may_begin { self.pop().map(Next::Message) } else { None };
        };
        let place = match may_begin {
            true => *scans.by_place.first_key_value()?.0,
            false => *scans.at_most_once.first()?,
        };
        if may_begin && self.messages.front().is_some_and(|(first, _)| *first < place) {
            return self.pop().map(Next::Message);
        }
        let scan = self.scans.as_mut()?.by_place.get_mut(&place)?;
        Some(Next::Retained(place, scan))
    }

    /// Takes the first message.
    pub fn pop(&mut self) -> Option<Delivery> {
        let (_, delivery) = self.messages.pop_front()?;
        self.bytes -= delivery.message.size();
        self.recover();
        if self.messages.is_empty() {
            // A burst is no reason to keep its memory.
            self.messages.shrink_to(16);
        }
        Some(delivery)
    }

    /// Takes out messages that `keep` says no to. It looks at `count` of them behind the place `after`, from the
    /// beginning at 0; also returns the place to go on behind, if there are more.
    pub fn take_out(
        &mut self,
        after: u64,
        count: usize,
        mut keep: impl FnMut(&Delivery) -> bool,
    ) -> (Vec<Delivery>, Option<u64>) {
        let start = self.messages.partition_point(|(place, _)| *place <= after);
        let end = self.messages.len().min(start + count);
        let last = if end < self.messages.len() { self.messages.get(end - 1) } else { None };
        let next = last.map(|(place, _)| *place);
        let mut taken = Vec::new();
        for (index, (place, delivery)) in (start..).zip(self.messages.split_off(start)) {
            if index >= end || keep(&delivery) {
                self.messages.push_back((place, delivery));
            } else {
                self.bytes -= delivery.message.size();
                taken.push(delivery);
            }
        }
        self.recover();
        (taken, next)
    }

    /// Appends a lookup, in place of one that is left for the same subscription.
    pub fn push_scan(&mut self, scan: RetainedScan) {
        let place = self.take_place();
        let scans = self.scans.get_or_insert_default();
        if let Some(before) = scans.places.insert(scan.key(), place) {
            scans.by_place.remove(&before);
            scans.at_most_once.remove(&before);
        }
        if scan.lookup.qos == QoS::AtMostOnce {
            scans.at_most_once.insert(place);
        }
        scans.by_place.insert(place, scan);
    }

    /// The lookup at `place` has found everything.
    pub fn finish(&mut self, place: u64) {
        let Some(scans) = &mut self.scans else { return };
        if let Some(scan) = scans.by_place.remove(&place) {
            scans.places.remove(&scan.key());
            scans.at_most_once.remove(&place);
        }
        if scans.by_place.is_empty() {
            self.scans = None;
        }
    }

    /// A subscription has been replaced: the lookups that are left for it go on as `lookup` says.
    pub fn replace_scans(&mut self, subscription: SubscriptionKey, lookup: &Lookup) {
        let Some(scans) = &mut self.scans else { return };
        for is_of_figures in [false, true] {
            let Some(&place) = scans.places.get(&(subscription, is_of_figures)) else { continue };
            let Some(scan) = scans.by_place.get_mut(&place) else { continue };
            scan.lookup.clone_from(lookup);
            match lookup.qos {
                QoS::AtMostOnce => scans.at_most_once.insert(place),
                _ => scans.at_most_once.remove(&place),
            };
        }
    }

    /// Drops the lookups for a subscription.
    pub fn drop_scans(&mut self, subscription: SubscriptionKey) {
        for is_of_figures in [false, true] {
            let key = (subscription, is_of_figures);
            if let Some(&place) = self.scans.as_ref().and_then(|scans| scans.places.get(&key)) {
                self.finish(place);
            }
        }
    }

    /// The record of the last message; 0 for none.
    pub fn last_record(&self) -> u64 {
        self.messages.back().map_or(0, |(_, delivery)| delivery.record)
    }

    /// The lookup that is left for a subscription, among the clients' messages.
    pub fn scan(&self, subscription: SubscriptionKey) -> Option<&RetainedScan> {
        let scans = self.scans.as_ref()?;
        scans.by_place.get(scans.places.get(&(subscription, false))?)
    }

    /// All that are left.
    pub fn scans_mut(&mut self) -> impl Iterator<Item = &mut RetainedScan> {
        self.scans.iter_mut().flat_map(|scans| scans.by_place.values_mut())
    }

    /// Deletes messages that have expired [MQTT-3.3.2-5], and tells `deleted` of each.
    pub fn expire(&mut self, now: Instant, mut deleted: impl FnMut(Delivery)) {
        if self.first_expiry.is_none_or(|at| at > now) {
            return;
        }
        for (place, delivery) in std::mem::take(&mut self.messages) {
            if delivery.message.is_expired(now) {
                deleted(delivery);
            } else {
                self.messages.push_back((place, delivery));
            }
        }
        let messages = || self.messages.iter().map(|(_, delivery)| &delivery.message);
        self.bytes = messages().map(|message| message.size()).sum();
        self.first_expiry = messages().filter_map(|message| message.expires_at()).min();
    }

    /// The messages that wait, in their order.
    pub fn messages(&self) -> impl Iterator<Item = &Delivery> {
        self.messages.iter().map(|(_, delivery)| delivery)
    }

    /// Appends what waited when another process had it, whatever the limits are now.
    pub fn restore(&mut self, delivery: Delivery) {
        self.append(delivery);
    }

    fn append(&mut self, delivery: Delivery) {
        self.bytes += delivery.message.size();
        if let Some(at) = delivery.message.expires_at() {
            self.first_expiry = Some(self.first_expiry.map_or(at, |first| first.min(at)));
        }
        let place = self.take_place();
        self.messages.push_back((place, delivery));
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::session::{MessageRef, Payload};

    fn delivery(topic: u8, expires_at: Option<Instant>) -> Delivery {
        let message = MessageRef {
            topic: &[topic],
            properties: b"pp",
            payload: Payload::Copied(b"x"),
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at,
            packet: None,
        };
        Delivery {
            message: Arc::new(message.store()),
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_identifiers: Default::default(),
            share: None,
            record: 0,
        }
    }

    fn scan(node: u32, qos: QoS) -> RetainedScan {
        RetainedScan {
            subscription: SubscriptionKey { node, share: None },
            pattern: Box::default(),
            from: Vec::new(),
            until: [0; 2],
            lookup: Lookup { qos, ..Lookup::default() },
            after: 0,
            is_of_figures: false,
        }
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Push(u8, u64),
        Scan(u32, bool),
        Replace(u32, bool),
        Drop(u32),
        Next(bool),
        Expire(u64),
        TakeOut(u8, usize),
    }

    fn any_operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            4 => (any::<u8>(), 0..20_u64).prop_map(|(topic, expiry)| Operation::Push(topic, expiry)),
            2 => (0..4_u32, any::<bool>()).prop_map(|(node, free)| Operation::Scan(node, free)),
            1 => (0..4_u32, any::<bool>()).prop_map(|(node, free)| Operation::Replace(node, free)),
            1 => (0..4_u32).prop_map(Operation::Drop),
            4 => any::<bool>().prop_map(Operation::Next),
            1 => (0..20_u64).prop_map(Operation::Expire),
            1 => (any::<u8>(), 1..4_usize).prop_map(|(least, count)| Operation::TakeOut(least, count)),
        ]
    }

    /// A message by topic and expiry, or a lookup by subscription and whether it is of QoS 0.
    #[derive(Clone, Debug, PartialEq)]
    enum Entry {
        Message(u8, u64),
        Scan(u32, bool),
    }

    impl Entry {
        fn expiry(&self) -> u64 {
            match self {
                Self::Message(_, expiry) => *expiry,
                Self::Scan(..) => 0,
            }
        }
    }

    fn take(queue: &mut Queue, may_begin: bool) -> Option<Entry> {
        let (place, entry) = match queue.next(may_begin)? {
            Next::Message(delivery) => {
                return Some(Entry::Message(delivery.message.as_message().topic[0], 0));
            }
            Next::Retained(place, scan) => {
                (place, Entry::Scan(scan.subscription.node, scan.lookup.qos == QoS::AtMostOnce))
            }
        };
        queue.finish(place);
        Some(entry)
    }

    fn qos(is_free: bool) -> QoS {
        if is_free { QoS::AtMostOnce } else { QoS::AtLeastOnce }
    }

    proptest! {
        #[test]
        fn a_queue_is_a_list(operations in prop::collection::vec(any_operation(), 0..60)) {
            let start = Instant::now();
            let at = |seconds| start + Duration::from_secs(seconds);
            let (mut queue, mut list) = (Queue::default(), Vec::new());
            for operation in operations {
                match operation {
                    Operation::Push(topic, expiry) => {
                        let expires_at = (expiry > 0).then(|| at(expiry));
                        let is_full = list.iter().filter(|entry| matches!(entry, Entry::Message(..))).count() >= 5;
                        prop_assert_eq!(queue.push(delivery(topic, expires_at), 5, 100).is_err(), is_full);
                        if !is_full {
                            list.push(Entry::Message(topic, expiry));
                        }
                    }
                    Operation::Scan(node, is_free) => {
                        queue.push_scan(scan(node, qos(is_free)));
                        list.retain(|entry| !matches!(entry, Entry::Scan(other, _) if *other == node));
                        list.push(Entry::Scan(node, is_free));
                    }
                    Operation::Replace(node, is_free) => {
                        let subscription = SubscriptionKey { node, share: None };
                        queue.replace_scans(subscription, &Lookup { qos: qos(is_free), ..Lookup::default() });
                        for entry in &mut list {
                            if matches!(entry, Entry::Scan(other, _) if *other == node) {
                                *entry = Entry::Scan(node, is_free);
                            }
                        }
                    }
                    Operation::Drop(node) => {
                        queue.drop_scans(SubscriptionKey { node, share: None });
                        list.retain(|entry| !matches!(entry, Entry::Scan(other, _) if *other == node));
                    }
                    Operation::Next(may_begin) => {
                        let can_run = |entry: &Entry| may_begin || matches!(entry, Entry::Scan(_, true));
                        let expected = list.iter().position(can_run).map(|index| list.remove(index));
                        let expected = expected.map(|entry| match entry {
                            Entry::Message(topic, _) => Entry::Message(topic, 0),
                            scan => scan,
                        });
                        prop_assert_eq!(take(&mut queue, may_begin), expected);
                    }
                    Operation::TakeOut(least, count) => {
                        let (mut after, mut topics) = (Some(0), Vec::new());
                        let topic = |delivery: &Delivery| delivery.message.as_message().topic[0];
                        while let Some(place) = after {
                            let (mut looked, keep) = (0, |delivery: &Delivery| topic(delivery) >= least);
                            let (taken, next) = queue.take_out(place, count, |delivery| {
                                looked += 1;
                                keep(delivery)
                            });
                            prop_assert!(looked <= count && (next.is_none() || looked == count));
                            topics.extend(taken.iter().map(topic));
                            after = next;
                        }
                        let is_out = |entry: &Entry| matches!(entry, Entry::Message(topic, _) if *topic < least);
                        let out: Vec<u8> = list
                            .extract_if(.., |entry| is_out(entry))
                            .filter_map(|entry| if let Entry::Message(topic, _) = entry { Some(topic) } else { None })
                            .collect();
                        prop_assert_eq!(topics, out);
                    }
                    Operation::Expire(now) => {
                        let before = list.len();
                        let is_expired = |entry: &Entry| matches!(entry, Entry::Message(_, 1..) if entry.expiry() <= now);
                        list.retain(|entry| !is_expired(entry));
                        let mut deleted = 0;
                        queue.expire(at(now), |_| deleted += 1);
                        prop_assert_eq!(deleted, before - list.len());
                    }
                }
                let messages = list.iter().filter(|entry| matches!(entry, Entry::Message(..))).count();
                prop_assert_eq!((queue.len(), queue.bytes()), (messages, messages * 4));
                prop_assert_eq!(queue.is_empty(), list.is_empty());
            }
        }
    }
}
