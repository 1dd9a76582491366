//! What became of the messages that were sent: told by the connections, waited for by the schedule.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::lateness::{Cause, LatenessRecorder};
use crate::{
    net::client::{Outcome, Sink},
    packet::ReasonCode,
};

/// Shared by the schedule and all connections of a replay. Tags number messages.
#[derive(Default)]
pub(super) struct Tally {
    state: Mutex<TallyState>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct TallyState {
    /// QoS 1 and 2 messages that were sent and whose exchange has not ended.
    pub open: HashSet<u64>,
    pub acked: u64,
    pub refused: BTreeMap<ReasonCode, u64>,
    pub lost: u64,
    /// Messages of QoS 0 that waited for the kernel when their connection ended.
    pub unsent: u64,
    pub lateness: LatenessRecorder,
    /// When the last byte of any message was handed to the kernel.
    pub last_written: Option<Instant>,
    /// Messages that wait for the kernel: when they were due.
    waiting: HashMap<u64, Option<Instant>>,
    /// Of messages that had left before they were known to wait; `None` of those that never will.
    already_written: HashMap<u64, Option<Instant>>,
    /// Changes with everything that a connection tells.
    pub steps: u64,
}

impl Tally {
    pub fn state(&self) -> MutexGuard<'_, TallyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message is about to be sent whose exchange will be told to end.
    pub fn open(&self, tag: u64) {
        self.state().open.insert(tag);
    }

    /// It was not sent after all.
    pub fn withdraw(&self, tag: u64) {
        self.state().open.remove(&tag);
    }

    /// A message left at `at`; `deadline` is `None` where lateness means nothing.
    pub fn written(&self, at: Instant, deadline: Option<Instant>, cause: Cause) {
        self.state().record(at, deadline, cause);
    }

    /// A message waits for the kernel: its connection will tell.
    pub fn waits(&self, tag: u64, deadline: Option<Instant>) {
        let mut state = self.state();
        match state.already_written.remove(&tag) {
            Some(Some(at)) => state.record(at, deadline, Cause::Socket),
            Some(None) => {}
            None => _ = state.waiting.insert(tag, deadline),
        }
    }

    /// Waits until `found` finds something, at most until `until`.
    pub fn wait<R>(&self, until: Instant, mut found: impl FnMut(&TallyState) -> Option<R>) -> Option<R> {
        let mut state = self.state();
        loop {
            if let Some(found) = found(&state) {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has whoever waits look again.
    pub fn wake(&self) {
        self.state().steps += 1;
        self.changed.notify_all();
    }
}

impl TallyState {
    fn record(&mut self, at: Instant, deadline: Option<Instant>, cause: Cause) {
        self.last_written = self.last_written.max(Some(at));
        if let Some(deadline) = deadline {
            let lateness = at.saturating_duration_since(deadline);
            self.lateness.record(cause, lateness.max(Duration::from_nanos(1)));
        }
    }

    pub fn unacked(&self) -> u64 {
        self.open.len() as u64 + self.lost
    }

    pub fn is_waiting_to_be_written(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Sink for Tally {
    fn written(&self, tag: u64, at: Instant) {
        let mut state = self.state();
        match state.waiting.remove(&tag) {
            Some(deadline) => state.record(at, deadline, Cause::Socket),
            None => _ = state.already_written.insert(tag, Some(at)),
        }
        state.steps += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn unsent(&self, tag: u64) {
        let mut state = self.state();
        if state.waiting.remove(&tag).is_none() {
            state.already_written.insert(tag, None);
        }
        // Those of others are told to be lost.
        state.unsent += u64::from(!state.open.contains(&tag));
        state.steps += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn ended(&self, tag: u64, outcome: Outcome) {
        let mut state = self.state();
        state.open.remove(&tag);
        match outcome {
            Outcome::Acked(reason) if reason.is_error() => *state.refused.entry(reason).or_default() += 1,
            Outcome::Acked(_) => state.acked += 1,
            Outcome::Lost(_) => state.lost += 1,
        }
        state.steps += 1;
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_left_before_it_was_known_to_wait_is_measured_all_the_same() {
        let (tally, due) = (Tally::default(), Instant::now());
        tally.waits(1, Some(due));
        assert!(tally.state().is_waiting_to_be_written());
        Sink::written(&tally, 1, due + Duration::from_millis(2));
        Sink::written(&tally, 2, due + Duration::from_millis(2));
        tally.waits(2, Some(due));
        assert!(!tally.state().is_waiting_to_be_written());
        assert_eq!(tally.state().lateness.summary().socket.count, 2);
    }

    #[test]
    fn an_exchange_ends_acked_refused_or_lost() {
        let tally = Tally::default();
        for tag in 1..=4 {
            tally.open(tag);
        }
        tally.ended(1, Outcome::Acked(ReasonCode::NO_MATCHING_SUBSCRIBERS));
        tally.ended(2, Outcome::Acked(ReasonCode::NOT_AUTHORIZED));
        tally.ended(
            3,
            Outcome::Lost(crate::net::ClientError::Closed { target: "mqtt://broker:1883".to_owned() }),
        );
        let state = tally.state();
        assert_eq!((state.acked, state.lost, state.unacked()), (1, 1, 2));
        assert_eq!(state.refused.get(&ReasonCode::NOT_AUTHORIZED), Some(&1));
    }
}
