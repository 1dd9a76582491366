//! One thing that is not as expected.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

use super::{Change, bucket::Item, change::shortened, plain::Plain};
use crate::{packet::PacketType, recording::Direction};

/// Characters of a packet that are told.
const TEXT_MAX: usize = 1000;

/// A client identifier from one clean start to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session {
    /// `#n` for the n-th client that sent none.
    pub client: String,
    /// From 1: how many clean starts there were, the first CONNECT included.
    pub epoch: u32,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            0 | 1 => f.write_str(&self.client),
            epoch => write!(f, "{} (session {epoch})", self.client),
        }
    }
}

/// Whose packets a bucket holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    Session(Arc<Session>),
    /// Subscribers that share; the filter without `$share/NAME/`.
    Group {
        name: Arc<str>,
        filter: Arc<str>,
    },
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(session) => session.fmt(f),
            Self::Group { name, filter } => write!(f, "$share/{name}/{filter}"),
        }
    }
}

/// What a bucket's packets are about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Messages of a topic.
    Messages(Arc<str>),
    /// Packets of one type that are part of exchanges about messages of a topic.
    Exchanges(u8, Arc<str>),
    /// SUBSCRIBE and UNSUBSCRIBE, or their answers.
    Subscriptions,
    /// CONNECT, CONNACK, AUTH, DISCONNECT and the end.
    Connection,
    /// PUBLISH packets whose topic is not known.
    UnknownTopics,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages(topic) => f.write_str(topic),
            Self::Exchanges(packet, topic) => {
                let name = PacketType::ALL
                    .into_iter()
                    .find(|kind| *kind as u8 == *packet)
                    .map_or("", PacketType::name);
                match &**topic {
                    // Its message was not seen.
                    "" => write!(f, "{name} of an unknown message"),
                    topic => write!(f, "{name} of {topic}"),
                }
            }
            Self::Subscriptions => f.write_str("subscriptions"),
            Self::Connection => f.write_str("connection"),
            Self::UnknownTopics => f.write_str("unknown topics"),
        }
    }
}

/// Where something stands in its stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub seq: u64,
    pub at: Duration,
    pub connection: u32,
}

/// A packet that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub place: Place,
    /// As recordings show it, the payload cut short.
    pub text: String,
}

impl Told {
    pub fn of(item: &Item) -> Self {
        Self { place: item.place, text: shortened(&item.thing.to_string(), TEXT_MAX) }
    }

    /// Something that is not told.
    pub fn place(place: Place) -> Self {
        Self { place, text: String::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// Expected and not observed.
    Missing,
    /// Observed and not expected.
    Unexpected,
    /// Observed in its place with other fields.
    Changed,
    /// Observed in another place among the messages of its topic.
    Moved,
    /// Observed more often than expected.
    Duplicate,
    /// Of level count: another number of messages.
    Count,
}

impl DifferenceKind {
    pub const ALL: [Self; 6] =
        [Self::Missing, Self::Unexpected, Self::Changed, Self::Moved, Self::Duplicate, Self::Count];

    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unexpected => "unexpected",
            Self::Changed => "changed",
            Self::Moved => "moved",
            Self::Duplicate => "duplicate",
            Self::Count => "count",
        }
    }
}

/// One thing that is not as expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub kind: DifferenceKind,
    pub owner: Owner,
    pub direction: Direction,
    pub subject: Subject,
    pub expected: Option<Told>,
    pub observed: Option<Told>,
    /// Of a changed one.
    pub changes: Vec<Change>,
    /// What else is known of it, for people; empty for nothing.
    pub remark: String,
}

impl fmt::Display for Difference {
    /// In one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, owner, direction, subject, expected, observed, changes, remark } = self;
        let (owner, subject) = (owner.to_string(), subject.to_string());
        write!(f, "{} {} {} {}", kind.name(), Plain(&owner), direction.name(), Plain(&subject))?;
        let text =
            |told: &Option<Told>| told.as_ref().map_or(String::new(), |told| Plain(&told.text).to_string());
        match kind {
            DifferenceKind::Changed | DifferenceKind::Count => {
                let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
                write!(f, ": {}", changes.join("; "))?;
            }
            DifferenceKind::Missing => write!(f, ": {}", text(expected))?,
            DifferenceKind::Unexpected | DifferenceKind::Duplicate => write!(f, ": {}", text(observed))?,
            DifferenceKind::Moved => write!(f, ": {}", text(observed))?,
        }
        if remark.is_empty() { Ok(()) } else { write!(f, " ({})", Plain(remark)) }
    }
}
