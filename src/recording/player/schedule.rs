//! What is played, in order, with its position; nothing here knows what time it is.

use std::time::Duration;

use super::{Repeat, Script};
use crate::recording::Event;

pub enum Scheduled<T> {
    Item(Box<Planned<T>>),
    Rewind,
    Done,
}

/// Something to be done, with its position.
pub struct Planned<T> {
    /// Nanoseconds of what is played.
    pub position: u128,
    pub seq: u64,
    pub at: Duration,
    pub connection: u32,
    pub pass: u32,
    pub item: T,
}

/// The items of a recording with their positions.
pub struct Schedule<I, S> {
    events: I,
    pub script: S,
    max_gap: Option<Duration>,
    repeat: Repeat,
    pub pass: u32,
    /// Recorded nanoseconds, like the next three: of the first item of this pass.
    first_at: Option<u128>,
    /// Of the last one.
    last_at: u128,
    /// Of the last event in the selected span.
    pub span_end: u128,
    /// Taken out of silences so far in this pass.
    removed: u128,
    /// Where the first item of this pass stands.
    pub pass_position: u128,
    /// Read, but something comes before it.
    held: Option<Event>,
}

impl<I, S, E> Schedule<I, S>
where
    I: Iterator<Item = Result<Event, E>>,
    S: Script,
{
    pub fn new(events: I, script: S, max_gap: Option<Duration>, repeat: Repeat) -> Self {
        Self {
            events,
            script,
            max_gap,
            repeat,
            pass: 0,
            first_at: None,
            last_at: 0,
            span_end: 0,
            removed: 0,
            pass_position: 0,
            held: None,
        }
    }

    pub fn next(&mut self) -> Result<Scheduled<S::Item>, E> {
        let end = self.script.end();
        loop {
            let event = match self.held.take() {
                Some(event) => event,
                None => {
                    let Some(event) = self.events.next().transpose()? else { break };
                    if event.at >= end {
                        break;
                    }
                    self.span_end = event.at.as_nanos();
                    if let Some(item) = self.script.before(&event) {
                        let planned = self.plan(&event, item);
                        self.held = Some(event);
                        return Ok(Scheduled::Item(Box::new(planned)));
                    }
                    event
                }
            };
            if let Some(item) = self.script.take(&event) {
                return Ok(Scheduled::Item(Box::new(self.plan(&event, item))));
            }
        }
        Ok(self.end_of_pass())
    }

    pub fn read_on(&mut self, until: Duration) -> Result<(), E> {
        while let Some(event) = self.events.next().transpose()?
            && event.at < until
        {}
        Ok(())
    }

    /// From the first to the last item of this pass, as recorded.
    pub fn recorded_span(&self) -> u128 {
        self.last_at.saturating_sub(self.first_at.unwrap_or_default())
    }

    fn plan(&mut self, event: &Event, item: S::Item) -> Planned<S::Item> {
        let at = event.at.as_nanos();
        let first_at = *self.first_at.get_or_insert_with(|| {
            self.last_at = at;
            at
        });
        if let Some(max_gap) = self.max_gap {
            self.removed += at.saturating_sub(self.last_at).saturating_sub(max_gap.as_nanos());
        }
        self.last_at = at;
        let recorded = at.saturating_sub(first_at).saturating_sub(self.removed);
        Planned {
            position: self.pass_position + recorded,
            seq: event.seq,
            at: event.at,
            connection: event.connection,
            pass: self.pass,
            item,
        }
    }

    fn end_of_pass(&self) -> Scheduled<S::Item> {
        let more = match self.repeat {
            Repeat::Times(times) => self.pass + 1 < times,
            Repeat::Forever => true,
        };
        // Without an item there would be no end to it.
        if more && self.first_at.is_some() { Scheduled::Rewind } else { Scheduled::Done }
    }

    /// A pass lasts until the last event that is selected by time, item or not.
    pub fn rewind(&mut self, events: I) {
        let silence = self.span_end.saturating_sub(self.last_at);
        let silence = self.max_gap.map_or(silence, |max_gap| silence.min(max_gap.as_nanos()));
        self.pass_position += self.recorded_span().saturating_sub(self.removed) + silence;
        self.restart(events, Duration::ZERO);
        self.pass += 1;
        self.first_at = None;
        self.last_at = 0;
    }

    /// Goes on with what was recorded from `from` on, which stands at `position`.
    pub fn jump(&mut self, events: I, from: Duration, position: u128) {
        self.restart(events, from);
        self.pass_position = position;
        self.first_at = Some(from.as_nanos());
        self.last_at = from.as_nanos();
    }

    fn restart(&mut self, events: I, from: Duration) {
        self.events = events;
        self.held = None;
        self.script.restart(from);
        self.removed = 0;
    }
}
