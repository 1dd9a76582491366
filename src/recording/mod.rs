//! Recordings: what was captured, the formats it is kept in, and playing it again.
//!
//! Everything is derived from a stream of [`Event`]s whose raw bytes are the truth. [`Connections`]
//! follows that stream and knows what it says about clients, sessions and topic aliases; [`json`],
//! [`ndjson`] and [`mcap`] write and read all of it, [`pcap`] its traffic, [`csv`] its messages, and a [`RecordingFile`] is
//! any of them; [`block`] has it as stored pieces, and a [`player::Player`] schedules it again.

mod aliases;
mod anchors;
mod assembly;
pub mod block;
mod client_names;
mod client_sample;
mod connections;
mod crossing;
pub mod csv;
mod event;
mod excerpt;
mod exchanges;
mod file;
mod filter;
mod in_force;
mod info;
pub mod json;
mod lines;
mod long_packets;
pub mod mcap;
mod meeting;
mod merge;
mod moment;
mod multiply;
mod name_pattern;
pub mod ndjson;
pub mod pcap;
pub mod player;
mod record;
pub mod redact;
mod renamed;
mod replay_client;
mod rewrite;
mod ring;
#[cfg(test)]
pub(crate) mod sample;
mod sieve;
mod standing;
mod time_shift;
mod topic_names;

pub use anchors::{ANCHOR_INTERVAL, Anchors};
pub use client_names::{ClientNames, TooManyNames};
pub use client_sample::{BadShare, ClientSample};
pub use connections::{Connection, Connections, Seen, Unreadable};
pub use crossing::{Crossing, crossing};
pub use event::{CloseCause, ConnectionInfo, Direction, Event, EventKind, FaultInjected, MockFired};
pub use excerpt::{Cut, Excerpt};
pub use file::{
    FileError, FileErrorKind, FileEvents, FileHead, FilePlace, ReadOptions, RecordingFile, RecordingFormat,
    sniff, write_recording,
};
pub use filter::{EventFilter, Purpose};
pub use in_force::InForce;
pub use info::{Counts, OnOverload, RecordingInfo, RecordingSource, RecordingSpec, RecordingState};
pub use long_packets::{LongPacket, LongPackets, PublishStart, bytes_to_come, in_pieces};
pub use meeting::{Meeting, TooManyToTell, meeting};
pub use merge::{Merge, shifts};
pub use multiply::{BadCopies, Copies, Multiplied};
pub use name_pattern::NamePattern;
pub use player::{Pace, Plan, Player, Poll, Repeat, Selection, Skipped, Speed, Step};
pub use renamed::{BadNames, Renamed};
pub use replay_client::{RUN_LEN, is_replay, replay_client, without_run};
pub use rewrite::{BadRewrite, NameTemplate, Rewrite, Rewriter};
pub use ring::{EventRing, RingLimits, Window};
pub use sieve::{Sieve, Sifted};
pub use standing::Standing;
pub use time_shift::TimeShift;
pub use topic_names::{TooManyTopics, TopicNames};
