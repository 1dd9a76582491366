//! Deadlines, so that a tick looks at what is due and at nothing else.

use std::{collections::BTreeSet, time::Instant};

/// What falls due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// No CONNECT yet, or Keep Alive.
    Connection(u32),
    SessionExpiry(u32),
    WillDelay(u32),
    /// Sending retained messages goes on after other connections had their turn.
    RetainedScan(u32),
    /// The next retained message expires.
    RetainedExpiry,
    /// The `$SYS` topics are published again.
    Figures,
    /// Looking whether subscriptions are still allowed goes on.
    Recheck,
}

/// At most one deadline for each timer: its owner keeps the time, with which it is found here.
#[derive(Debug, Default)]
pub struct Timers {
    deadlines: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Moves `timer` from `current` to `at`; `None` stops it.
    pub fn set(&mut self, current: &mut Option<Instant>, at: Option<Instant>, timer: Timer) {
        if *current == at {
            return;
        }
        if let Some(before) = *current {
            self.deadlines.remove(&(before, timer));
        }
        if let Some(at) = at {
            self.deadlines.insert((at, timer));
        }
        *current = at;
    }

    pub fn next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes the first timer that is due by `now`; its owner must forget the time.
    pub fn pop(&mut self, now: Instant) -> Option<Timer> {
        let &(at, timer) = self.deadlines.first().filter(|(at, _)| *at <= now)?;
        self.deadlines.remove(&(at, timer));
        Some(timer)
    }
}
