//! Recordings: what was captured, the formats it is kept in, and playing it again.
//!
//! Everything is derived from a stream of [`Event`]s whose raw bytes are the truth. [`Connections`]
//! follows that stream and knows what it says about clients, sessions and topic aliases; [`json`]
//! writes and reads it as text, [`block`] as stored pieces, and a [`player::Player`] schedules it
//! again.

pub mod block;
mod connections;
mod event;
mod info;
pub mod json;
pub mod player;
mod record;
pub mod redact;
mod replay_client;
#[cfg(test)]
pub(crate) mod sample;

pub use connections::{Connection, Connections, Seen, Unreadable};
pub use event::{CloseCause, ConnectionInfo, Direction, Event, EventKind, FaultInjected, MockFired};
pub use info::{Counts, RecordingInfo, RecordingSource, RecordingSpec, RecordingState};
pub use player::{ClientPattern, Pace, Plan, Player, Poll, Repeat, Selection, Skipped, Speed, Step};
pub use replay_client::{RUN_LEN, is_replay, replay_client, without_run};
