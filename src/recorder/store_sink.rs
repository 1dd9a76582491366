//! Where a recorder's events go: to the store, and to whoever follows them live.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::{capture::Sink, overload::Overload};
use crate::{
    recording::{
        Anchors, Event, EventKind, OnOverload, RecordingSpec,
        redact::{RedactionReport, Redactor},
    },
    store::RecordingWriter,
};

/// Events a receiver of the live tail may be behind before it misses some.
const TAIL_LEN: usize = 1024;

/// Where a recorder's events go.
pub struct StoreSink {
    /// `None` once stopped.
    pub(super) writer: Option<RecordingWriter>,
    /// `None` if nothing may be left out.
    overload: Option<Overload>,
    tail: broadcast::Sender<Arc<Event>>,
    anchors: Anchors,
    /// `None` if everything may be kept.
    redactor: Option<Box<Redactor>>,
}

impl StoreSink {
    pub fn new(writer: RecordingWriter, spec: &RecordingSpec) -> Self {
        Self {
            writer: Some(writer),
            overload: (spec.on_overload == OnOverload::Drop).then(Overload::default),
            tail: broadcast::Sender::new(TAIL_LEN),
            anchors: Anchors::new(),
            redactor: spec
                .redaction
                .clone()
                .map(|redaction| Box::new(Redactor::new(redaction).keep_credentials(spec.keep_credentials))),
        }
    }

    /// The events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.tail.subscribe()
    }

    /// What redaction changed so far; `None` if there is none.
    pub fn redaction_report(&self) -> Option<RedactionReport> {
        self.redactor.as_ref().map(|redactor| redactor.report().clone())
    }

    #[inline]
    fn write(&mut self, at: Duration, connection: u32, kind: EventKind) {
        let Some(writer) = &self.writer else { return };
        let kind = match &mut self.redactor {
            Some(redactor) => redactor.redact(Event { seq: 0, at, connection, kind }).kind,
            None => kind,
        };
        let Some(event) = writer.push(at, connection, kind) else { return };
        if self.tail.receiver_count() > 0 {
            // Nobody being left meanwhile is no error.
            let _ = self.tail.send(Arc::new(detached(event)));
        }
    }

    pub fn look_at_clock(&mut self, at: Duration) {
        let wall = Timestamp::now();
        if self.anchors.is_due(at, wall) {
            self.push(at, 0, EventKind::Anchor(wall));
        }
    }

    /// Nothing more is taken; what was left out last is counted.
    pub fn end(&mut self) -> Option<RecordingWriter> {
        if let Some(gap) = self.overload.as_mut().and_then(Overload::take_gap) {
            self.write(Duration::ZERO, 0, gap);
        }
        self.writer.take()
    }
}

impl Sink for StoreSink {
    fn push(&mut self, at: Duration, connection: u32, kind: EventKind) {
        let Some(writer) = &self.writer else { return };
        if let Some(overload) = &mut self.overload {
            if !overload.takes(writer.fill(), connection, &kind) {
                return;
            }
            if let Some(gap) = overload.take_gap() {
                self.write(at, 0, gap);
            }
        }
        self.write(at, connection, kind);
    }
}

/// The event with bytes of its own: a tail that is read slowly keeps no read buffer alive.
fn detached(mut event: Event) -> Event {
    event.kind.detach();
    event
}
