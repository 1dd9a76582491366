//! What a ring held at a moment.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::segment::Segment;
use crate::recording::{Event, EventKind};

/// What a ring held at a moment, as the beginning of a recording and what follows.
#[derive(Debug)]
pub struct Window {
    /// When it began, if an anchor tells.
    pub started_at: Option<Timestamp>,
    /// Of the ring; offsets of the recording count from here.
    pub start: Duration,
    /// What was in force then.
    pub opening: Vec<(u32, EventKind)>,
    /// Subscriptions and retained messages that are missing in `opening`.
    pub left_out: u64,
    pub(super) segments: Vec<Segment<Bytes>>,
}

impl Window {
    /// The events of the window, at their offsets in the ring. What was told of in force meanwhile is not among them.
    pub fn into_events(self) -> impl Iterator<Item = Event> {
        let events = self.segments.into_iter().flat_map(Segment::events);
        events.filter(|event| !matches!(event.kind, EventKind::State(_)))
    }
}
