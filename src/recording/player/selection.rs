//! Which part of a recording is played.

use std::{sync::Arc, time::Duration};

use crate::{
    packet::{TopicFilter, TopicName},
    recording::{Direction, NamePattern, Renamed},
};

/// Which messages are sent, by recorded names. The default is every message that clients published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Empty means all.
    pub topics: Vec<TopicFilter>,
    pub exclude_topics: Vec<TopicFilter>,
    /// Empty means all; else the client identifier has to match one.
    pub clients: Vec<NamePattern>,
    /// Offset in the recording, like the next.
    pub start: Option<Duration>,
    /// Up to and without this offset.
    pub until: Option<Duration>,
    /// From `start` (or 0) on.
    pub duration: Option<Duration>,
    /// Plays what servers delivered instead: for recordings of a subscriber.
    pub deliveries: bool,
    /// Of what is played under other names than it was recorded.
    pub renamed: Option<Arc<Renamed>>,
}

impl Selection {
    /// Offset at which it ends, and without it.
    pub fn end(&self) -> Duration {
        let by_duration = self.duration.map(|duration| self.start.unwrap_or_default() + duration);
        by_duration.into_iter().chain(self.until).min().unwrap_or(Duration::MAX)
    }

    /// Whether only time selects.
    pub fn is_of_all_clients_and_topics(&self) -> bool {
        self.clients.is_empty() && self.has_all_topics()
    }

    pub(in crate::recording) fn has_all_topics(&self) -> bool {
        self.topics.is_empty() && self.exclude_topics.is_empty()
    }

    /// The place nearest to `at` that is selected.
    pub fn clamp(&self, at: Duration) -> Duration {
        at.max(self.start.unwrap_or_default()).min(self.end())
    }

    pub(super) fn played(&self) -> Direction {
        match self.deliveries {
            true => Direction::ServerToClient,
            false => Direction::ClientToServer,
        }
    }

    pub(in crate::recording) fn has_topic(&self, topic: &TopicName) -> bool {
        if let Some(has) = self.renamed.as_ref().and_then(|renamed| renamed.has_topic(topic)) {
            return has;
        }
        (self.topics.is_empty() || self.topics.iter().any(|filter| filter.matches(topic)))
            && !self.exclude_topics.iter().any(|filter| filter.matches(topic))
    }

    pub(in crate::recording) fn has_client(&self, client: Option<&str>) -> bool {
        let client = client.unwrap_or_default();
        if let Some(has) = self.renamed.as_ref().and_then(|renamed| renamed.has_client(client)) {
            return has;
        }
        self.clients.is_empty() || self.clients.iter().any(|pattern| pattern.matches(client))
    }
}

/// PUBLISH packets that were not played, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Not selected, by topic, client or time.
    pub unselected: u64,
    /// Sent again by the client because no acknowledgement had come.
    pub retransmissions: u64,
    /// Their Topic Alias was set before the recording began.
    pub unknown_aliases: u64,
    /// Longer than `recorder.packet_bytes`, and so in pieces.
    pub in_pieces: u64,
    /// Do not decode, or the protocol version of the connection is not known.
    pub unreadable: u64,
}
