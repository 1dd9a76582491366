//! What stand-ins have done.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::super::{
    TopicCount,
    lateness::{Cause, LatenessRecorder},
};
use crate::{
    net::client::{Capability, ClientError},
    packet::{Publish, QoS, ReasonCode, TopicName},
};

/// Errors that are told.
const ERRORS_NAMED: usize = 20;

#[derive(Default)]
pub(in crate::net::replay) struct Figures {
    /// Messages.
    pub sent: u64,
    pub bytes: u64,
    pub acked: u64,
    pub lost: u64,
    pub unsent: u64,
    /// Packets of any kind.
    pub packets: u64,
    pub connections: usize,
    /// Messages that the recorded server did not refuse.
    pub refused: BTreeMap<ReasonCode, u64>,
    pub incapable: HashMap<Capability, u64>,
    pub topics: BTreeMap<String, TopicCount>,
    pub lateness: LatenessRecorder,
    pub first_at: Option<Instant>,
    pub last_at: Option<Instant>,
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
    /// Whether something other than messages did not go as it did: a subscription, a connection.
    pub fell_short: bool,
    /// Why the target cannot be reached.
    pub unreachable: Option<ClientError>,
    /// Why it refused the first one of those whom the recorded server did not.
    pub refusal: Option<ClientError>,
    /// Recorded place of the last act.
    pub position: Duration,
}

/// What is counted of a message.
pub(super) struct Shape {
    pub topic: Option<TopicName>,
    pub qos: QoS,
    /// Of its payload, in bytes.
    size: u64,
}

impl Shape {
    pub fn of(publish: &Publish) -> Self {
        Self { topic: publish.topic.clone(), qos: publish.qos, size: publish.payload.len() as u64 }
    }
}

impl Figures {
    pub fn error(&mut self, text: String) {
        if self.errors.len() < ERRORS_NAMED && !self.errors.contains(&text) {
            self.errors.push(text);
        }
    }

    pub fn falls_short(&mut self, text: String) {
        self.fell_short = true;
        self.error(text);
    }

    pub fn warn(&mut self, text: String) {
        if self.warnings.len() < ERRORS_NAMED && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// A message is on its way.
    pub(super) fn message(&mut self, message: &Shape) {
        let bytes = message.size;
        self.sent += 1;
        self.bytes += bytes;
        let topic = message.topic.as_ref().map_or("", |topic| topic.as_str());
        let count = match self.topics.get_mut(topic) {
            Some(count) => count,
            None => self.topics.entry(topic.to_owned()).or_default(),
        };
        count.messages += 1;
        count.bytes += bytes;
    }

    /// The last byte of something left at `at`; `deadline` is `None` where lateness means nothing.
    pub fn left(&mut self, at: Instant, deadline: Option<Instant>, cause: Cause) {
        self.first_at.get_or_insert(at);
        self.last_at = self.last_at.max(Some(at));
        if let Some(deadline) = deadline {
            let lateness = at.saturating_duration_since(deadline);
            self.lateness.record(cause, lateness.max(Duration::from_nanos(1)));
        }
    }
}
