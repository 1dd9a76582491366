//! What a replay as the server did.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    net::{
        ClientError,
        replay::{
            TopicCount,
            lateness::{Cause, LatenessRecorder},
        },
    },
    packet::{Publish, TopicName},
};

/// Errors, and clients of each kind, that are told.
const NAMED: usize = 20;
/// Topics that are counted one by one: the recording's, and those of the target.
const TOPICS_MAX: usize = 100_000;

#[derive(Default)]
pub struct Figures {
    /// Messages.
    pub sent: u64,
    pub bytes: u64,
    pub topics: BTreeMap<String, TopicCount>,
    pub packets: u64,
    /// Exchanges that clients have completed.
    pub acked: u64,
    pub connections: usize,
    /// Parts that somebody played.
    pub played: u64,
    /// What recorded clients did and those who played them did not.
    pub lacking: u64,
    /// Parts that we ended before they were over.
    pub cut_short: u64,
    /// Recorded messages that were not sent because of that.
    pub cut_messages: u64,
    /// Recorded messages that had no time to be sent: their client had left.
    pub unsaid: u64,
    /// Recorded messages that were longer than their client takes.
    pub too_long: u64,
    pub unacknowledged: u64,
    /// What clients did and no recorded one had done.
    pub missed: u64,
    /// Of those, what the target could not be asked.
    pub unpassed: u64,
    /// Whether something else went wrong that is no client's fault.
    pub fell_short: bool,
    /// Clients that are not in the recording, and did something.
    pub strangers: Named,
    /// Those that did nothing but connect.
    pub idlers: Named,
    /// Who plays whom, by another name.
    pub cast: Named,
    /// Connections that never said who they are.
    pub silent: u64,
    pub errors: Vec<String>,
    /// The first error of a target that could not be reached.
    pub unreachable: Option<ClientError>,
    pub lateness: LatenessRecorder,
    pub first_at: Option<Instant>,
    pub last_at: Option<Instant>,
}

/// Some that are named, of more.
#[derive(Default)]
pub struct Named {
    pub count: u64,
    names: BTreeSet<String>,
}

impl Named {
    pub fn add(&mut self, name: String) {
        // The same one again is not another.
        if self.names.len() >= NAMED {
            self.count += u64::from(!self.names.contains(&name));
        } else {
            self.count += u64::from(self.names.insert(name));
        }
    }

    /// `one`, or `many` with their number in front; and which.
    pub fn sentence(&self, one: &str, many: &str) -> Option<String> {
        let names = self.names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let rest = if self.count > self.names.len() as u64 { " …" } else { "" };
        match self.count {
            0 => None,
            1 => Some(format!("{one}: {names}")),
            count => Some(format!("{count} {many}: {names}{rest}")),
        }
    }
}

impl Figures {
    pub fn error(&mut self, text: String) {
        if self.errors.len() < NAMED {
            self.errors.push(text);
        }
    }

    /// The same, of what is no client's fault and counted nowhere else.
    pub fn shortfall(&mut self, text: String) {
        self.fell_short = true;
        self.error(text);
    }

    /// A message is about to be sent.
    pub fn message(&mut self, publish: &Publish) {
        let len = publish.payload.len() as u64;
        self.sent += 1;
        self.bytes += len;
        let topic = publish.topic.as_ref().map_or("", TopicName::as_str);
        if !self.topics.contains_key(topic) {
            if self.topics.len() >= TOPICS_MAX {
                return;
            }
            self.topics.insert(topic.to_owned(), TopicCount::default());
        }
        if let Some(count) = self.topics.get_mut(topic) {
            count.messages += 1;
            count.bytes += len;
        }
    }

    /// A message left at `at`.
    pub fn left(&mut self, at: Instant, deadline: Option<Instant>, cause: Cause) {
        self.first_at.get_or_insert(at);
        self.last_at = Some(at);
        if let Some(deadline) = deadline {
            let lateness = at.saturating_duration_since(deadline);
            self.lateness.record(cause, lateness.max(Duration::from_nanos(1)));
        }
    }
}
