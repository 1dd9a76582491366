//! Writing one recording.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering, mpsc::TrySendError},
    time::Duration,
};

use super::{
    Inner, StoreError,
    keeper::{Command, Compare, Ending},
    pipe::{Pipe, Pushed},
};
use crate::recording::{Event, EventKind, RecordingInfo, RecordingState};

/// Appends events to a recording in state RECORDING; dropped without [`finish`](Self::finish) it
/// leaves an INTERRUPTED one.
pub struct RecordingWriter {
    store: Arc<Inner>,
    pipe: Arc<Pipe>,
    finished: bool,
}

/// How far a recording is, for those who have to wait for it.
#[derive(Clone)]
pub struct Backlog(Arc<Pipe>);

impl Backlog {
    /// What is known so far.
    pub fn info(&self) -> RecordingInfo {
        self.0.info()
    }

    /// Whether the queue holds as much as it may.
    pub fn is_full(&self) -> bool {
        self.0.is_full()
    }

    /// Whether everything has to be durable before it is passed on.
    pub fn is_durable_first(&self) -> bool {
        self.0.is_durable_first()
    }

    /// What a producer has to wait for before it passes on what was pushed so far; `None` when
    /// there is room and nothing has to be durable first.
    pub fn readiness(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let seq = self.0.awaited_seq()?;
        let pipe = self.0.clone();
        Some(async move { pipe.settle(seq).await })
    }
}

impl RecordingWriter {
    pub(super) fn new(store: Arc<Inner>, pipe: Arc<Pipe>) -> Self {
        Self { store, pipe, finished: false }
    }

    /// Appends an event, waiting for room. An offset before that of the last event counts as that
    /// one. Returns the event's number.
    ///
    /// # Errors
    /// [`StoreError::Failed`] once the store has refused a write.
    pub fn append(&self, at: Duration, connection: u32, kind: EventKind) -> Result<u64, StoreError> {
        if self.pipe.is_full() {
            self.pipe.wait_for_room();
        }
        match self.push(at, connection, kind) {
            Some(event) => Ok(event.seq),
            None => Err(self.refusal()),
        }
    }

    /// Appends an event without waiting, past the limit of memory if need be; `None` once the
    /// recording has failed or its store was closed.
    pub fn push(&self, at: Duration, connection: u32, kind: EventKind) -> Option<Event> {
        let (event, pushed) = self.pipe.push(at, connection, kind)?;
        if pushed == Pushed::ToSchedule {
            self.schedule();
        }
        Some(event)
    }

    /// How much of the memory the queue takes; above 1 if more was pushed than there is room for.
    pub fn fill(&self) -> f64 {
        self.pipe.fill()
    }

    pub fn backlog(&self) -> Backlog {
        Backlog(self.pipe.clone())
    }

    /// Whether nothing more is taken: the store refused a write or was closed.
    pub fn has_ended(&self) -> bool {
        self.pipe.has_ended()
    }

    /// The number of the last event that would survive a power cut.
    pub fn durable_seq(&self) -> u64 {
        self.pipe.durable_seq()
    }

    /// Blocks until `seq` is durable, at most about a flush interval; or never will be.
    pub fn wait_durable(&self, seq: u64) {
        self.pipe.wait_durable(seq);
    }

    /// Has `run` called, on the store's thread, if the store refuses a write.
    pub fn on_failure(&self, run: impl FnOnce() + Send + 'static) {
        self.pipe.on_failure(Box::new(run));
    }

    /// What is known so far.
    pub fn info(&self) -> RecordingInfo {
        self.pipe.info()
    }

    /// Ends the recording in state COMPLETE; everything appended is durable afterwards. Blocks.
    pub fn finish(self) -> Result<RecordingInfo, StoreError> {
        self.finish_as(RecordingState::Complete)
    }

    /// Ends the recording in `state`.
    pub(super) fn finish_as(self, state: RecordingState) -> Result<RecordingInfo, StoreError> {
        self.end(Ending::Keep(state))
    }

    /// Ends the recording in `state`, unless `compare` finds what is there instead: then that is answered, and what was
    /// written deleted.
    pub(super) fn finish_unless(
        self,
        state: RecordingState,
        compare: Compare,
    ) -> Result<RecordingInfo, StoreError> {
        self.end(Ending::Compare(state, compare))
    }

    /// Deletes what was written.
    pub fn abandon(self) -> Result<(), StoreError> {
        self.end(Ending::Forget).map(drop)
    }

    fn end(mut self, ending: Ending) -> Result<RecordingInfo, StoreError> {
        self.finished = true;
        let pipe = self.pipe.clone();
        self.store.ask(|reply| Command::Finish { pipe, ending, reply: Some(reply) })
    }

    fn schedule(&self) {
        if let Err(TrySendError::Full(_)) = self.store.commands.try_send(Command::Drain(self.pipe.clone())) {
            // The next event tries again, and the next flush looks by itself.
            self.pipe.scheduled.store(false, Ordering::Relaxed);
        }
    }

    fn refusal(&self) -> StoreError {
        let name = self.pipe.info().name;
        match self.pipe.failure() {
            Some(reason) => StoreError::Failed { name, reason },
            None => StoreError::Ended { name },
        }
    }
}

impl Drop for RecordingWriter {
    fn drop(&mut self) {
        // One that has failed or whose store was closed is dealt with.
        if !self.finished && !self.pipe.has_ended() {
            let ending = Ending::Keep(RecordingState::Interrupted);
            let pipe = self.pipe.clone();
            // Fails only if the store is closed meanwhile, which ends the recording as well.
            let _ = self.store.commands.send(Command::Finish { pipe, ending, reply: None });
        }
    }
}
