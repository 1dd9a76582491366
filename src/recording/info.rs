//! What is known of a recording as a whole.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Event, EventFilter, EventKind, redact::Redaction};

/// What `recordings show` prints: a recording without its events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingInfo {
    /// A ULID.
    pub id: String,
    /// Unique in its store, chosen by people.
    pub name: String,
    pub state: RecordingState,
    pub source: RecordingSource,
    /// Wall clock at the recording's offset 0.
    #[serde(with = "timestamp")]
    pub started_at: Timestamp,
    /// The offset of the last event.
    pub duration: Duration,
    pub events: u64,
    /// Events that are whole packets.
    pub packets: u64,
    pub connections: u64,
    /// Of packets and of bytes that do not parse.
    pub bytes: u64,
    /// Times that the recorder left something out.
    pub gaps: u64,
    /// Of the stored form of the events, in lower-case hexadecimal; `None` until it has ended.
    pub sha256: Option<String>,
    pub tool_version: String,
    /// Capture filter: only PUBLISH packets on these topics were kept. Empty means all.
    #[serde(default)]
    pub topics: Vec<String>,
    /// What the server drew random values from when it began; `None` if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How it was made of others, for people; the last edit last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<String>,
}

impl RecordingInfo {
    /// Takes over what was counted.
    pub fn set_counts(&mut self, counts: &Counts) {
        self.duration = counts.duration;
        self.events = counts.events;
        self.packets = counts.packets;
        self.connections = counts.connections;
        self.bytes = counts.bytes;
        self.gaps = counts.gaps;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordingState {
    Recording,
    Complete,
    /// The process died; what had been flushed is there.
    Interrupted,
    /// The store refused a write.
    Failed,
}

impl RecordingState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Complete => "complete",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for RecordingState {
    /// In capitals, as people read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_ascii_uppercase())
    }
}

/// Where a recording's events come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingSource {
    /// `broker`, `proxy`, `subscriber` (deliveries of a foreign broker) or `import`.
    pub kind: String,
    /// URL of the real broker behind a proxy or a subscriber.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

impl RecordingSource {
    pub fn broker() -> Self {
        Self { kind: "broker".to_owned(), upstream: None }
    }

    pub fn proxy(upstream: impl Into<String>) -> Self {
        Self { kind: "proxy".to_owned(), upstream: Some(upstream.into()) }
    }

    pub fn subscriber(upstream: impl Into<String>) -> Self {
        Self { kind: "subscriber".to_owned(), upstream: Some(upstream.into()) }
    }

    pub fn import() -> Self {
        Self { kind: "import".to_owned(), upstream: None }
    }

    /// Whether only deliveries were seen: they, not what clients published, are what is played.
    pub fn is_subscriber(&self) -> bool {
        self.kind == "subscriber"
    }
}

/// What to record and how.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordingSpec {
    /// `recording-<date-time>` when `None`.
    pub name: Option<String>,
    pub source: RecordingSource,
    /// What is kept, with what it takes to read it.
    pub filter: EventFilter,
    /// Keeps the passwords of CONNECT packets.
    pub keep_credentials: bool,
    /// What the server draws random values from.
    pub seed: Option<u64>,
    pub on_overload: OnOverload,
    /// What never gets onto the disk.
    pub redaction: Option<Redaction>,
}

/// What gives way when as much waits for the disk as a recorder may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOverload {
    /// The traffic: nothing is left out.
    #[default]
    Block,
    /// The recording: a GAP counts what is left out.
    Drop,
}

impl OnOverload {
    /// `block` or `drop`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Drop => "drop",
        }
    }

    /// The one that [`name`](Self::name) names.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Block, Self::Drop].into_iter().find(|one| one.name() == name)
    }
}

impl RecordingSpec {
    /// Everything from `source`, without passwords, under a name made from the time.
    pub fn new(source: RecordingSource) -> Self {
        Self {
            name: None,
            source,
            filter: EventFilter::default(),
            keep_credentials: false,
            seed: None,
            on_overload: OnOverload::Block,
            redaction: None,
        }
    }
}

/// What is counted while events go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub duration: Duration,
    pub events: u64,
    pub packets: u64,
    pub connections: u64,
    pub bytes: u64,
    pub gaps: u64,
}

impl Counts {
    pub fn add(&mut self, event: &Event) {
        self.events += 1;
        self.duration = self.duration.max(event.at);
        match &event.kind {
            EventKind::Open(_) => self.connections += 1,
            EventKind::Packet { bytes, .. } => {
                self.packets += 1;
                self.bytes += bytes.len() as u64;
            }
            EventKind::Raw { bytes, .. } => self.bytes += bytes.len() as u64,
            EventKind::Gap { .. } => self.gaps += 1,
            EventKind::Close(_)
            | EventKind::Mark(_)
            | EventKind::Mock(_)
            | EventKind::Fault(_)
            | EventKind::State(_)
            | EventKind::Anchor(_) => {}
        }
    }
}

/// RFC 3339 with all digits; jiff's own serde support would be another feature for one field.
mod timestamp {
    use super::*;

    pub fn serialize<S: Serializer>(timestamp: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(timestamp)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
