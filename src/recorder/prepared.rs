//! Between the start of a recording and the first event of it: where it may still fail, or block.

use std::{
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{runtime::Handle, sync::watch, time::MissedTickBehavior};

use super::{CLOCK_LOOK, Recorder, capture::Capture, lock, store_sink::StoreSink};
use crate::{
    recording::{InForce, OnOverload, RecordingSpec},
    store::{RecordingWriter, Store, StoreError},
    tap::{Attachment, Tap},
};

/// A recording that has begun, of which nothing is observed yet. Dropped, it leaves an INTERRUPTED
/// recording.
pub struct Prepared {
    writer: RecordingWriter,
    spec: RecordingSpec,
    /// Looks at the clock; `None` where there is no runtime.
    runtime: Option<Handle>,
}

impl Prepared {
    /// Begins a recording. Blocks for as long as the store takes.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when the name is taken.
    pub fn begin(store: &Store, spec: RecordingSpec) -> Result<Self, StoreError> {
        let writer = store.begin(spec.clone())?;
        Ok(Self { writer, spec, runtime: Handle::try_current().ok() })
    }

    /// Records what `tap` reports from now on, and before that what is `in_force`. Does not block.
    pub fn attach(self, tap: &Tap, in_force: impl IntoIterator<Item = InForce>) -> Recorder {
        let Self { writer, spec, runtime } = self;
        let attachment: Arc<Mutex<Option<Attachment>>> = Arc::default();
        let (set_failed, failed) = watch::channel(false);
        let to_detach = Arc::downgrade(&attachment);
        writer.on_failure(move || {
            // The traffic goes on without us.
            drop(to_detach.upgrade().and_then(|attachment| lock(&attachment).take()));
            set_failed.send_replace(true);
        });
        let origin = origin_of(writer.info().started_at);
        let backlog = writer.backlog();
        let waited_for = (spec.on_overload == OnOverload::Block).then(|| backlog.clone());
        let sink = StoreSink::new(writer, &spec);
        let capture = Arc::new(Capture::new(origin, &spec, sink, waited_for));
        capture.push_apart(|sink, at| sink.look_at_clock(at));
        *lock(&attachment) = Some(tap.attach(capture.clone()));
        for state in in_force {
            capture.report_in_force(state);
        }
        if let Some(runtime) = runtime {
            runtime.spawn(keep_looking(Arc::downgrade(&capture)));
        }
        // It may have failed before there was anything to detach.
        if *failed.borrow() {
            lock(&attachment).take();
        }
        Recorder { capture, backlog, attachment, failed }
    }
}

/// The recording's offset 0 on the monotonic clock: what the wall clock said then is on record.
fn origin_of(started_at: Timestamp) -> Instant {
    let now = Instant::now();
    let since = Timestamp::now().duration_since(started_at);
    // A clock that was set meanwhile says nothing.
    let since = Duration::try_from(since).ok().filter(|since| *since < CLOCK_LOOK);
    since.and_then(|since| now.checked_sub(since)).unwrap_or(now)
}

/// Looks at the wall clock until the recording has ended.
async fn keep_looking(capture: Weak<Capture<StoreSink>>) {
    let mut look = tokio::time::interval(CLOCK_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let Some(capture) = capture.upgrade() else { return };
        if capture.with_sink(|sink| sink.writer.is_none()) {
            return;
        }
        capture.push_apart(StoreSink::look_at_clock);
    }
}
