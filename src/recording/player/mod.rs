//! Playing a recording again: what, and when.
//!
//! A [`Player`] is asked what is due. What that is a [`Script`] reads off the recording's events: [`Messages`] that stand
//! for themselves, or the [`Acts`] of recorded clients. When it is due a [`Timeline`] says.

mod acts;
mod answers;
mod messages;
mod pace;
mod plan;
mod priming;
mod schedule;
mod selection;
mod server;
mod speed;
#[cfg(test)]
mod tests;
mod timeline;

use std::time::{Duration, Instant};

pub use acts::{Act, Acts, After, Causality, Doing, End};
pub use answers::{Answers, Offer};
pub use messages::{Message, Messages};
pub use pace::{BadRepeat, Pace, Repeat};
pub use plan::{ClientKey, Plan, plan, plan_acts, plan_parts};
pub use priming::{Priming, StandIn, guessed};
pub use selection::{Selection, Skipped};
pub use server::{Binding, Line, Part, Parts, Prompt, Prompter, Ready, Reply, Said, TooLong};
pub use speed::{BadSpeed, Speed};
pub use timeline::{Due, Timeline};

use super::Event;
use schedule::{Planned, Schedule, Scheduled};

/// Reads what is to be done off a recording's events.
pub trait Script {
    type Item;

    /// What has to be done before anything that `event` asks for; asked before [`take`](Self::take).
    fn before(&mut self, _event: &Event) -> Option<Self::Item> {
        None
    }

    /// Whether an item has no time of its own: it comes even where playing is paused.
    fn is_timeless(_item: &Self::Item) -> bool {
        false
    }

    /// What `event` asks for.
    fn take(&mut self, event: &Event) -> Option<Self::Item>;

    /// Begins again: the recording's first event comes next, and what comes before `from` is not played, nor what is
    /// not selected.
    fn restart(&mut self, from: Duration);

    /// Nothing at or behind this offset is played.
    fn end(&self) -> Duration;

    fn skipped(&self) -> &Skipped;
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Poll<T> {
    Due(Step<T>),
    /// Nothing before then.
    Wait(Instant),
    /// Nothing until it is resumed.
    Paused,
    /// Another pass begins: hand the events over again with [`Player::rewind`]. Only if the pace
    /// repeats.
    Rewind,
    Done,
}

/// Something that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<T> {
    /// When it was due; `None` where nothing has a time, at speed `max` without a rate.
    pub deadline: Option<Instant>,
    /// In the recording.
    pub seq: u64,
    pub at: Duration,
    /// As recorded: what came over one connection goes over one again.
    pub connection: u32,
    /// From 0.
    pub pass: u32,
    pub item: T,
}

/// Plays a recording.
pub struct Player<I, S: Script> {
    schedule: Schedule<I, S>,
    timeline: Timeline,
    /// Read, but not due yet.
    next: Option<Box<Planned<S::Item>>>,
}

impl<I, S, E> Player<I, S>
where
    I: Iterator<Item = Result<Event, E>>,
    S: Script,
{
    /// Plays `events` (from the first one of the recording on) so that the first item is due at
    /// `anchor`.
    pub fn new(events: I, script: S, pace: &Pace, anchor: Instant) -> Self {
        let schedule = Schedule::new(events, script, pace.max_gap, pace.repeat);
        Self { schedule, timeline: Timeline::new(pace, anchor), next: None }
    }

    /// What is due at `now`.
    ///
    /// # Errors
    /// Those of the events.
    pub fn poll(&mut self, now: Instant) -> Result<Poll<S::Item>, E> {
        let planned = match self.next.take() {
            Some(planned) => planned,
            None => match self.schedule.next()? {
                Scheduled::Item(planned) => planned,
                Scheduled::Rewind => return Ok(Poll::Rewind),
                Scheduled::Done => return Ok(Poll::Done),
            },
        };
        if S::is_timeless(&planned.item) {
            let Planned { seq, at, connection, pass, item, .. } = *planned;
            return Ok(Poll::Due(Step { deadline: None, seq, at, connection, pass, item }));
        }
        let due = self.timeline.due(planned.position, now);
        match due {
            Due::At(deadline) if deadline <= now => {
                let deadline = self.timeline.is_timed().then_some(deadline);
                self.timeline.play(planned.position, now);
                let Planned { seq, at, connection, pass, item, .. } = *planned;
                return Ok(Poll::Due(Step { deadline, seq, at, connection, pass, item }));
            }
            _ => self.next = Some(planned),
        }
        Ok(match due {
            Due::At(deadline) => Poll::Wait(deadline),
            Due::Paused => Poll::Paused,
        })
    }

    /// Starts the next pass with the events from the first one on again.
    pub fn rewind(&mut self, events: I) {
        self.schedule.rewind(events);
    }

    /// Has what comes next in the pass that has just begun be due at `now`, however long that was waited for.
    pub fn begin_pass(&mut self, now: Instant) {
        self.timeline.jump(now, self.schedule.pass_position);
    }

    /// Goes on with what was recorded from `from` on; `events` are all of the recording's.
    pub fn seek(&mut self, events: I, from: Duration, now: Instant) {
        let position = self.timeline.position(now);
        self.next = None;
        self.timeline.jump(now, position);
        self.schedule.jump(events, from, position);
    }

    /// Goes on at `now` with what follows the item played last.
    pub fn go_on(&mut self, now: Instant) {
        let position = self.timeline.last_position();
        self.timeline.jump(now, position);
    }

    /// Reads what follows the end of what is played, up to `until`, for whoever looks on.
    ///
    /// # Errors
    /// Those of the events.
    pub fn read_on(&mut self, until: Duration) -> Result<(), E> {
        self.schedule.read_on(until)
    }

    pub fn timeline(&mut self) -> &mut Timeline {
        &mut self.timeline
    }

    pub fn skipped(&self) -> &Skipped {
        self.schedule.script.skipped()
    }

    /// Time from the anchor to the last item played so far.
    pub fn planned_span(&self) -> Duration {
        self.timeline.span()
    }
}
