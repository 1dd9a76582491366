//! The flight recorder: keeps the last minutes in memory, and writes them down when it is asked to.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    runtime::Handle,
    sync::{Mutex, mpsc},
    time::MissedTickBehavior,
};

use super::{
    CLOCK_LOOK, Reason, Trigger, Triggers,
    capture::{Capture, Sink},
    notes,
};
use crate::{
    recording::{
        Anchors, CloseCause, Direction, Event, EventKind, EventRing, InForce, LongPackets, RecordingInfo,
        RecordingSpec, RingLimits, Window,
        redact::{Redaction, RedactionReport, Redactor},
    },
    store::{RecordingWriter, Store, StoreError},
    tap::{Attachment, Tap},
};

/// Triggers that have fired and wait for a snapshot; their cool-down makes more of them unlikely.
const FIRED_MAX: usize = 4;

/// What a flight recorder keeps, and when it is to be asked.
#[derive(Clone, Debug)]
pub struct FlightOptions {
    pub limits: RingLimits,
    pub triggers: Vec<Trigger>,
    /// Between two triggers that fire.
    pub cooldown: Duration,
}

/// Keeps what a [`Tap`] reported last. Never holds up traffic, and keeps no passwords.
pub struct FlightRecorder {
    capture: Arc<Capture<RingSink>>,
    fired: Mutex<mpsc::Receiver<Reason>>,
    /// Of every snapshot.
    redaction: OnceLock<Redaction>,
    _attachment: Attachment,
}

/// What was written.
#[derive(Debug)]
pub struct Snapshot {
    pub info: RecordingInfo,
    /// Subscriptions and retained messages in force that found no room.
    pub left_out: u64,
    /// What redaction changed, if it was asked for.
    pub redacted: Option<RedactionReport>,
    /// What whoever uses it would miss, for people.
    pub notes: Vec<String>,
}

impl FlightRecorder {
    /// Keeps what `tap` reports from now on.
    pub fn start(tap: &Tap, spec: &RecordingSpec, options: FlightOptions) -> Self {
        let FlightOptions { limits, triggers, cooldown } = options;
        let (sender, fired) = mpsc::channel(FIRED_MAX);
        let sink = RingSink {
            ring: EventRing::new(limits),
            anchors: Anchors::new(),
            triggers: (!triggers.is_empty()).then(|| Triggers::new(triggers, cooldown)),
            fired: sender,
        };
        let capture = Arc::new(Capture::new(Instant::now(), spec, sink, None));
        capture.push_apart(RingSink::look_at_clock);
        let attachment = tap.attach(capture.clone());
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(keep_looking(Arc::downgrade(&capture)));
        }
        Self { capture, fired: Mutex::new(fired), redaction: OnceLock::new(), _attachment: attachment }
    }

    /// Has every snapshot redacted, whoever asks for it. What was said first holds.
    pub fn redact_snapshots(&self, redaction: Redaction) {
        let _ = self.redaction.set(redaction);
    }

    /// Why a trigger fired, as soon as one does.
    pub async fn fired(&self) -> Reason {
        match self.fired.lock().await.recv().await {
            Some(why) => why,
            // The other end is within.
            None => std::future::pending().await,
        }
    }

    /// Writes what is kept as a recording, with `why` as its last mark. Rules of `spec` come behind those of every
    /// snapshot, whose key gives way to theirs. Blocks.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when the name is taken; what the store refuses.
    pub fn snapshot(
        &self,
        store: &Store,
        mut spec: RecordingSpec,
        why: &Reason,
    ) -> Result<Snapshot, StoreError> {
        if let Some(of_all) = self.redaction.get() {
            let Redaction { rules, key } =
                spec.redaction.unwrap_or_else(|| Redaction { rules: Vec::new(), key: of_all.key.clone() });
            let rules = of_all.rules.iter().cloned().chain(rules).collect();
            spec.redaction = Some(Redaction { rules, key });
        }
        let mut taken = None;
        self.capture.push_apart(|sink, now| taken = Some((sink.ring.window(now), now)));
        let (window, now) = taken.expect("it was just set");
        let started_at = window.started_at.unwrap_or_else(Timestamp::now);
        let left_out = window.left_out;
        let redactor = spec.redaction.clone().map(Redactor::new);
        let mut writing = Writing {
            redactor,
            writer: store.begin_snapshot(spec, started_at)?,
            start: window.start,
            numbers: HashMap::new(),
            next_number: 1,
            long: LongPackets::default(),
            up: HashSet::new(),
            in_pieces: 0,
            has_raw: false,
        };
        match writing.write_all(window, now, started_at, why) {
            Ok(()) => {
                let mut notes: Vec<String> = notes::long_messages(writing.in_pieces).into_iter().collect();
                if writing.has_raw {
                    // Which of it is in the window is not known any more.
                    let overwritten = notes::overwritten(self.capture.overwritten());
                    notes.extend(overwritten.map(|note| format!("since the server began, {note}")));
                }
                let redacted = writing.redactor.map(|redactor| redactor.report().clone());
                Ok(Snapshot { info: writing.writer.finish()?, left_out, redacted, notes })
            }
            Err(error) => {
                // A failed writer has nothing to abandon, and the first error is the one to tell.
                let _ = writing.writer.abandon();
                Err(error)
            }
        }
    }
}

/// A window on its way to the store.
struct Writing {
    writer: RecordingWriter,
    redactor: Option<Redactor>,
    start: Duration,
    /// In the recording, by those in the ring.
    numbers: HashMap<u32, u32>,
    next_number: u32,
    long: LongPackets,
    /// Connections, as numbered in the ring, that had a packet.
    up: HashSet<u32>,
    /// Messages that are in pieces.
    in_pieces: u64,
    /// Whether clients sent what is no packet.
    has_raw: bool,
}

impl Writing {
    fn write_all(
        &mut self,
        mut window: Window,
        now: Duration,
        started_at: Timestamp,
        why: &Reason,
    ) -> Result<(), StoreError> {
        self.write(self.start, 0, EventKind::Anchor(started_at))?;
        for (connection, kind) in std::mem::take(&mut window.opening) {
            self.write(self.start, connection, kind)?;
        }
        for Event { at, connection, kind, .. } in window.into_events() {
            self.write(at, connection, kind)?;
        }
        let why = match &self.redactor {
            Some(redactor) => why.redacted(redactor),
            None => why.clone(),
        };
        self.write(now, 0, EventKind::Mark(why.to_string()))?;
        let mut open: Vec<u32> = self.numbers.values().copied().collect();
        open.sort_unstable();
        let end = now.saturating_sub(self.start);
        for connection in open {
            self.writer.append(end, connection, EventKind::Close(CloseCause::RecordingEnded))?;
        }
        Ok(())
    }

    fn write(&mut self, at: Duration, connection: u32, kind: EventKind) -> Result<(), StoreError> {
        let is_last = matches!(kind, EventKind::Close(_));
        let number = match connection {
            0 => 0,
            _ => *self.numbers.entry(connection).or_insert_with(|| {
                self.next_number += 1;
                self.next_number - 1
            }),
        };
        if is_last {
            self.numbers.remove(&connection);
        }
        let at = at.saturating_sub(self.start);
        let event = Event { seq: 0, at, connection, kind };
        self.note(&event);
        let kind = event.kind;
        let kind = match &mut self.redactor {
            Some(redactor) => redactor.redact(Event { seq: 0, at, connection: number, kind }).kind,
            None => kind,
        };
        self.writer.append(at, number, kind).map(drop)
    }
}

impl Writing {
    fn note(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Packet { .. } => drop(self.up.insert(event.connection)),
            EventKind::Raw { direction, .. } => self.has_raw |= *direction == Direction::ClientToServer,
            _ => {}
        }
        let is_up = self.up.contains(&event.connection);
        let long = self.long.follow(event, || is_up);
        let is_long =
            long.is_some_and(|packet| packet.is_whole() && packet.is_message(Direction::ClientToServer));
        self.in_pieces += u64::from(is_long);
    }
}

/// Looks at the wall clock for as long as the recorder is there.
async fn keep_looking(capture: Weak<Capture<RingSink>>) {
    let mut look = tokio::time::interval(CLOCK_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let Some(capture) = capture.upgrade() else { return };
        capture.push_apart(RingSink::look_at_clock);
    }
}

struct RingSink {
    ring: EventRing,
    anchors: Anchors,
    triggers: Option<Triggers>,
    fired: mpsc::Sender<Reason>,
}

impl Sink for RingSink {
    fn push(&mut self, at: Duration, connection: u32, kind: EventKind) {
        let event = Event { seq: 0, at, connection, kind };
        self.ring.push(&event);
        if let Some(triggers) = &mut self.triggers
            && let Some(why) = triggers.check(&event)
        {
            // As many snapshots as wait already will tell of this, too.
            let _ = self.fired.try_send(why);
        }
    }

    fn told_in_force(&mut self, at: Duration, in_force: &InForce) {
        self.push(at, 0, EventKind::State(Box::new(in_force.clone())));
    }
}

impl RingSink {
    fn look_at_clock(&mut self, at: Duration) {
        let wall = Timestamp::now();
        if self.anchors.is_due(at, wall) {
            self.push(at, 0, EventKind::Anchor(wall));
        }
    }
}
