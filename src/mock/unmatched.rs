//! Messages that no mock answered, and how near one came.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::{Mock, subject::Occasion};
use crate::{
    likeness::ALIKE,
    packet::{QoS, TopicFilter, TopicName},
};

/// How many are kept.
const MESSAGES_MAX: usize = 256;

/// As much as is kept of a payload.
const PAYLOAD_MAX: usize = 1 << 10;

/// The last messages that no mock matched.
#[derive(Debug, Default)]
pub struct Unmatched {
    /// Newest last.
    kept: VecDeque<Kept>,
}

#[derive(Clone, Debug)]
struct Kept {
    topic: String,
    client_identifier: String,
    payload: Bytes,
    qos: QoS,
    again: Arc<Again>,
    /// The mock that the topic matched, and what else did not.
    nearest: Option<(String, String)>,
}

/// A message that comes again and again is just counted, without a lock.
#[derive(Debug)]
pub struct Again {
    /// Not once others took its place in the list.
    is_listed: AtomicBool,
    count: AtomicU64,
    first: (Instant, Timestamp),
    /// Nanoseconds since the first one.
    last: AtomicU64,
}

impl Again {
    pub fn is_listed(&self) -> bool {
        self.is_listed.load(Relaxed)
    }

    pub fn count(&self, now: Instant) {
        self.count.fetch_add(1, Relaxed);
        let since = now.saturating_duration_since(self.first.0).as_nanos();
        self.last.store(since as u64, Relaxed);
    }

    fn last_at(&self) -> Timestamp {
        let since = SignedDuration::from_nanos(self.last.load(Relaxed) as i64);
        self.first.1.checked_add(since).unwrap_or(self.first.1)
    }
}

/// A message that no mock matched.
#[derive(Clone, Debug, PartialEq)]
pub struct UnmatchedMessage {
    pub topic: String,
    pub client_identifier: String,
    /// Its beginning.
    pub payload: Bytes,
    pub qos: QoS,
    /// How often one came on the topic from the client that came first.
    pub count: u64,
    pub at: Timestamp,
    /// The mock that came nearest; empty if there is none like it.
    pub nearest: String,
    pub difference: String,
}

impl Unmatched {
    /// Keeps a message; further ones like it are counted in what is returned.
    pub fn note(
        &mut self,
        now: Instant,
        clock: Timestamp,
        occasion: &Occasion,
        nearest: Option<(String, String)>,
    ) -> Arc<Again> {
        let is_it = |kept: &Kept| {
            kept.topic == occasion.topic && kept.client_identifier == occasion.client_identifier
        };
        if let Some(position) = self.kept.iter().rposition(is_it)
            && let Some(mut kept) = self.kept.remove(position)
        {
            kept.again.count(now);
            kept.nearest = nearest;
            kept.payload = beginning(&occasion.payload);
            kept.qos = occasion.qos;
            let again = Arc::clone(&kept.again);
            self.kept.push_back(kept);
            return again;
        }
        if self.kept.len() >= MESSAGES_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            oldest.again.is_listed.store(false, Relaxed);
        }
        let again = Arc::new(Again {
            is_listed: AtomicBool::new(true),
            count: AtomicU64::new(1),
            first: (now, clock),
            last: AtomicU64::new(0),
        });
        self.kept.push_back(Kept {
            topic: occasion.topic.clone(),
            client_identifier: occasion.client_identifier.clone(),
            payload: beginning(&occasion.payload),
            qos: occasion.qos,
            again: Arc::clone(&again),
            nearest,
        });
        again
    }

    pub fn clear(&mut self) {
        for kept in self.kept.drain(..) {
            kept.again.is_listed.store(false, Relaxed);
        }
    }

    /// What there is now; `mocks` are those that messages concern.
    pub fn snapshot(&self, mocks: Vec<Arc<Mock>>) -> UnmatchedSnapshot {
        UnmatchedSnapshot { kept: self.kept.iter().cloned().collect(), mocks }
    }
}

/// Messages that no mock matched, and the mocks there were.
#[derive(Debug)]
pub struct UnmatchedSnapshot {
    kept: Vec<Kept>,
    mocks: Vec<Arc<Mock>>,
}

impl UnmatchedSnapshot {
    /// Those on topics that `filter` matches, if there is one, newest first, each with the mock that came nearest.
    pub fn list(&self, filter: Option<&TopicFilter>) -> Vec<UnmatchedMessage> {
        let is_wanted = |kept: &&Kept| match filter {
            None => true,
            Some(filter) => TopicName::parse(&kept.topic).is_ok_and(|topic| filter.matches(&topic)),
        };
        let message = |kept: &Kept| {
            let (nearest, difference) = match &kept.nearest {
                Some(nearest) => nearest.clone(),
                None => nearest_topic(&kept.topic, &self.mocks),
            };
            UnmatchedMessage {
                topic: kept.topic.clone(),
                client_identifier: kept.client_identifier.clone(),
                payload: kept.payload.clone(),
                qos: kept.qos,
                count: kept.again.count.load(Relaxed),
                at: kept.again.last_at(),
                nearest,
                difference,
            }
        };
        let mut messages: Vec<UnmatchedMessage> =
            self.kept.iter().rev().filter(is_wanted).map(message).collect();
        messages.sort_by_key(|message| std::cmp::Reverse(message.at));
        messages
    }
}

/// A copy, so that no read buffer is kept.
fn beginning(payload: &Bytes) -> Bytes {
    Bytes::copy_from_slice(&payload[..payload.len().min(PAYLOAD_MAX)])
}

/// The mock whose filter has most levels in common with `topic`, and where they part.
fn nearest_topic(topic: &str, mocks: &[Arc<Mock>]) -> (String, String) {
    let levels: Vec<&str> = topic.split('/').take(LEVELS_MAX).collect();
    // What is cheap to tell first: a slip of the pen is looked for only in the best of them.
    let mut ranked: Vec<(f64, &Arc<Mock>)> =
        mocks.iter().map(|mock| (agreement(&levels, &mock.spec.topic, false).0, mock)).collect();
    let best = CANDIDATES.min(ranked.len());
    if best < ranked.len() {
        ranked.select_nth_unstable_by(best, |(one, _), (other, _)| other.total_cmp(one));
    }
    let compared = ranked[..best].iter().map(|(_, mock)| (agreement(&levels, &mock.spec.topic, true), mock));
    match compared.max_by(|(one, _), (other, _)| one.0.total_cmp(&other.0)) {
        Some(((likeness, difference), mock)) if likeness > LIKE_IT => {
            (mock.spec.id.clone(), format!("the topic does not match {}: {difference}", mock.spec.topic))
        }
        _ => (String::new(), "no mock has a topic like it".to_owned()),
    }
}

/// More than one wildcard makes alike.
const LIKE_IT: f64 = 0.5;

/// Levels that are compared, and mocks whose levels are compared letter by letter.
const LEVELS_MAX: usize = 64;
const CANDIDATES: usize = 64;

/// Longer levels are the same or not.
const LETTERS_MAX: usize = 64;

/// How much of a filter agrees with the levels of a topic, and the first place where it does not.
fn agreement(levels: &[&str], filter: &str, by_letter: bool) -> (f64, String) {
    let mut likeness = 0.0;
    let mut difference = None;
    let mut count = 0;
    let mut last = "";
    for (level, wanted) in filter.split('/').take(LEVELS_MAX).enumerate() {
        (count, last) = (level + 1, wanted);
        match levels.get(level) {
            _ if wanted == "#" => break,
            Some(found) if *found == wanted => likeness += 1.0,
            Some(_) if wanted == "+" || wanted.starts_with("{{") => likeness += 0.5,
            Some(found) => {
                if by_letter && found.len() <= LETTERS_MAX && wanted.len() <= LETTERS_MAX {
                    // A slip of the pen is nearer than another word.
                    let alike = strsim::normalized_damerau_levenshtein(found, wanted);
                    likeness += if alike >= ALIKE { alike } else { 0.0 };
                }
                difference.get_or_insert((level, Some(*found), wanted));
            }
            None => {
                likeness -= 0.25;
                difference.get_or_insert((level, None, wanted));
            }
        }
    }
    let has_more = levels.len() > count && last != "#";
    if has_more {
        likeness -= 0.25;
    }
    if !by_letter {
        return (likeness, String::new());
    }
    let told = match difference {
        Some((level, Some(found), wanted)) => format!("level {level} is {found:?}, not {wanted:?}"),
        Some((level, None, wanted)) => format!("it ends before level {level}, {wanted:?}"),
        None if has_more => format!("it has a level {count} more: {:?}", levels[count]),
        None => "wildcards leave topics with $ alone".to_owned(),
    };
    (likeness, told)
}
