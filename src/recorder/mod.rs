//! The observer that records.
//!
//! What the tap reports is numbered, stripped of passwords and encoded where it is reported, under
//! one lock: that makes the total order. Writing happens on the store's thread. When as much waits
//! as the recorder may hold, or when everything has to be durable before it is passed on, producers
//! wait in [`Tap::ready`]; or else, if that was asked for, events are left out and a GAP counts them.
//! A [`FlightRecorder`] keeps the last of them in memory.

mod capture;
mod flight;
mod notes;
mod overload;
mod prepared;
mod reason;
mod store_sink;
#[cfg(test)]
mod tests;
mod trigger;
mod triggers;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{broadcast, watch};

use self::store_sink::StoreSink;
pub use self::{
    capture::{Capture, Sink},
    flight::{FlightOptions, FlightRecorder, Snapshot},
    prepared::Prepared,
    reason::Reason,
    trigger::{Trigger, TriggerKind, TriggerSpec},
    triggers::Triggers,
};
use crate::{
    recording::{Event, EventKind, RecordingInfo, RecordingSpec, redact::RedactionReport},
    store::{Backlog, Store, StoreError},
    tap::{Attachment, Tap},
};

/// Between two looks at the wall clock: how late a step may be noted.
const CLOCK_LOOK: Duration = Duration::from_millis(250);

/// Records what a [`Tap`] reports. Dropped without [`stop`](Self::stop) it leaves an INTERRUPTED
/// recording.
pub struct Recorder {
    capture: Arc<Capture<StoreSink>>,
    backlog: Backlog,
    attachment: Arc<Mutex<Option<Attachment>>>,
    failed: watch::Receiver<bool>,
}

impl Recorder {
    /// Begins a recording of what `tap` reports from now on.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when the name is taken.
    pub fn start(store: &Store, tap: &Tap, spec: RecordingSpec) -> Result<Self, StoreError> {
        Ok(Prepared::begin(store, spec)?.attach(tap, []))
    }

    /// What was recorded so far.
    pub fn info(&self) -> RecordingInfo {
        self.backlog.info()
    }

    /// Puts a label between what was observed before and after.
    pub fn mark(&self, label: &str) {
        self.capture.push_apart(|sink, at| sink.push(at, 0, EventKind::Mark(label.to_owned())));
    }

    /// Says that something is missing here, and how much of it if that is known.
    pub fn gap(&self, events: u64, bytes: u64) {
        self.capture.gap(events, bytes);
    }

    /// The events from now on. A receiver that lags learns how many it missed.
    pub fn tail(&self) -> broadcast::Receiver<Arc<Event>> {
        self.capture.with_sink(|sink| sink.subscribe())
    }

    /// What whoever uses the recording would miss, for people.
    pub fn notes(&self) -> Vec<String> {
        self.capture.notes()
    }

    /// What redaction changed so far; `None` if there is none.
    pub fn redaction_report(&self) -> Option<RedactionReport> {
        self.capture.with_sink(|sink| sink.redaction_report())
    }

    /// Resolves when the store has refused a write: the recording is FAILED and the traffic goes on.
    pub async fn failed(&self) {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            // The recording ended in another way and cannot fail any more.
            std::future::pending::<()>().await;
        }
    }

    /// Ends the recording and deletes it. Blocks.
    pub fn abandon(&self) -> Result<(), StoreError> {
        lock(&self.attachment).take();
        match self.capture.with_sink(StoreSink::end) {
            Some(writer) => writer.abandon(),
            None => Ok(()),
        }
    }

    /// Ends the recording: everything observed so far is durable, and it is COMPLETE.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the store had refused a write.
    pub async fn stop(&self) -> Result<RecordingInfo, StoreError> {
        lock(&self.attachment).take();
        self.capture.close_all();
        let writer = self.capture.with_sink(StoreSink::end);
        let Some(writer) = writer else { return Err(StoreError::Closed) };
        let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
        finished.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Before the writer goes, so that nothing is observed that cannot be written.
        lock(&self.attachment).take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
