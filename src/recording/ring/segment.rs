//! A part of the memory and of the time that a ring keeps.

use bytes::Bytes;

use crate::recording::{
    Event,
    record::{self, BadRecord, nanoseconds},
};

/// Events one behind the other that go as a whole, in `records`.
#[derive(Clone, Debug)]
pub(super) struct Segment<R> {
    /// Offsets, nanoseconds: of the event before the first, of the first and of the last.
    pub(super) base: u64,
    pub(super) first_at: u64,
    pub(super) last_at: u64,
    pub(super) records: R,
}

impl Segment<Bytes> {
    pub(super) fn events(self) -> Records {
        Records { records: self.records, before: self.base }
    }
}

/// Events one behind the other.
pub(super) struct Records {
    pub(super) records: Bytes,
    pub(super) before: u64,
}

impl Records {
    fn read(&mut self) -> Result<Option<Event>, BadRecord> {
        let Some(len) = record::record_len(&self.records)? else { return Ok(None) };
        if len > self.records.len() {
            return Ok(None);
        }
        let event = record::decode(&self.records.split_to(len), 0, self.before)?;
        self.before = nanoseconds(event.at);
        Ok(Some(event))
    }
}

impl Iterator for Records {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        // What was encoded here decodes.
        self.read().ok().flatten()
    }
}
