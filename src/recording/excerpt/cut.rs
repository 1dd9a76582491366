//! Where an excerpt is cut out.

use super::{Excerpt, later};
use crate::recording::{Event, EventFilter, Purpose, RecordingInfo, Sieve};

/// Which part of a recording is cut out; made of the events once, used as often as they are read.
#[derive(Clone, Debug)]
pub struct Cut {
    filter: EventFilter,
    sieve: Sieve,
}

impl Cut {
    /// Goes through `events`, all of the recording's, if the filter makes that necessary.
    ///
    /// # Errors
    /// Those of the events.
    pub fn new<I, E>(filter: EventFilter, events: impl FnOnce() -> Result<I, E>) -> Result<Self, E>
    where
        I: Iterator<Item = Result<Event, E>>,
    {
        let timeless = EventFilter { start: None, until: None, ..filter.clone() };
        let mut sieve = Sieve::new(timeless, Purpose::Keep);
        if filter.asks_for_clients() {
            sieve.learn(events()?)?;
        }
        Ok(Self { filter, sieve })
    }

    /// What is known of the excerpt before its events are read: it begins later, and its events are not counted.
    pub fn info(&self, of: &RecordingInfo) -> RecordingInfo {
        let mut info = of.clone();
        if let Some(start) = self.filter.start {
            info.started_at = later(info.started_at, start);
        }
        if !self.filter.topics.is_empty() {
            info.topics = self.filter.topics.iter().map(|filter| filter.as_str().to_owned()).collect();
        }
        if !self.filter.is_everything() {
            info.sha256 = None;
        }
        info
    }

    /// Cuts the excerpt out of `events`, all of the recording's.
    pub fn of<I>(&self, events: I) -> Excerpt<I> {
        let EventFilter { start, until, .. } = self.filter;
        Excerpt::new(events, self.sieve.clone(), start, until)
    }
}
