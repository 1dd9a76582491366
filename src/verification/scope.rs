//! Which part of what is told is judged.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use crate::{
    packet::{TopicFilter, TopicName},
    recording::{NamePattern, Renamed, Selection},
};

/// Messages outside that are remembered: the last ones, and up to as many before them. About 16 bytes each.
const OUTSIDE_MAX: usize = 1_000_000;

/// Clients, topics and time that are judged; the default is everything.
///
/// Clients and topics hold for both sides. Time is that of what is expected: what comes before `start` is not expected, and
/// what comes from `end` on may come and need not, because what was sent just before is answered and delivered after it.
/// Connections, sessions, subscriptions and exchanges outside are followed all the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// As they are called on the expected side, if they are not `renamed`. Empty means all; `*` also means those without
    /// identifier.
    pub clients: Vec<NamePattern>,
    /// Of messages and their acknowledgements. Empty means all.
    pub topics: Vec<TopicFilter>,
    pub exclude_topics: Vec<TopicFilter>,
    pub start: Duration,
    pub end: Duration,
    /// What is played under other names than it was recorded, on both sides.
    pub renamed: Option<Arc<Renamed>>,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            clients: Vec::new(),
            topics: Vec::new(),
            exclude_topics: Vec::new(),
            start: Duration::ZERO,
            end: Duration::MAX,
            renamed: None,
        }
    }
}

impl From<&Selection> for Scope {
    fn from(selection: &Selection) -> Self {
        let start = selection.start.unwrap_or_default();
        let by_duration = selection.duration.map(|duration| start.saturating_add(duration));
        Self {
            clients: selection.clients.clone(),
            topics: selection.topics.clone(),
            exclude_topics: selection.exclude_topics.clone(),
            start,
            end: by_duration.into_iter().chain(selection.until).min().unwrap_or(Duration::MAX),
            renamed: selection.renamed.clone(),
        }
    }
}

/// What is asked of something that is expected; of what is observed, whether it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    Required,
    /// May be there and need not.
    Allowed,
    /// Not judged.
    Ignored,
}

impl Demand {
    /// The less of both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ignored, _) | (_, Self::Ignored) => Self::Ignored,
            (Self::Allowed, _) | (_, Self::Allowed) => Self::Allowed,
            (Self::Required, Self::Required) => Self::Required,
        }
    }
}

impl Scope {
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// `client` is empty for one without identifier.
    pub fn has_client(&self, client: &str) -> bool {
        if let Some(has) = self.renamed.as_ref().and_then(|renamed| renamed.has_client(client)) {
            return has;
        }
        self.clients.is_empty() || self.clients.iter().any(|pattern| pattern.matches(client))
    }

    /// One whose topic is not known is none of those that are named.
    pub fn has_topic(&self, topic: Option<&TopicName>) -> bool {
        let Some(topic) = topic else { return self.topics.is_empty() };
        if let Some(has) = self.renamed.as_ref().and_then(|renamed| renamed.has_topic(topic)) {
            return has;
        }
        (self.topics.is_empty() || self.topics.iter().any(|filter| filter.matches(topic)))
            && !self.exclude_topics.iter().any(|filter| filter.matches(topic))
    }

    pub fn demand_at(&self, at: Duration) -> Demand {
        match at {
            at if at < self.start => Demand::Ignored,
            at if at >= self.end => Demand::Allowed,
            _ => Demand::Required,
        }
    }
}

/// Messages that were published outside of a scope, so that nobody can ask for their delivery.
#[derive(Default)]
pub struct Outside {
    recent: HashSet<u64>,
    older: HashSet<u64>,
}

impl Outside {
    pub fn add(&mut self, topic: &TopicName, payload: &[u8]) {
        if self.recent.len() >= OUTSIDE_MAX {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(digest(topic, payload));
    }

    /// The same was published inside, too.
    pub fn remove(&mut self, topic: &TopicName, payload: &[u8]) {
        if self.is_empty() {
            return;
        }
        let digest = digest(topic, payload);
        self.recent.remove(&digest);
        self.older.remove(&digest);
    }

    pub fn has(&self, topic: &TopicName, payload: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let digest = digest(topic, payload);
        self.recent.contains(&digest) || self.older.contains(&digest)
    }

    fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.older.is_empty()
    }
}

fn digest(topic: &TopicName, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, payload).hash(&mut hasher);
    hasher.finish()
}
