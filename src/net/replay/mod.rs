//! Replaying a recording's messages to a broker (publish mode).
//!
//! [`start`] runs a replay on threads of its own: one keeps the schedule and writes messages at their
//! deadlines, whatever the rest of the program does; a small runtime beside it reads the acks.

mod lateness;
mod read_ahead;
mod schedule;
mod tally;

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::{client::Capability, url::MqttUrl};
use crate::{
    metrics::Metrics,
    packet::ReasonCode,
    recording::{
        Event,
        player::{Pace, Plan, Selection, Skipped, Speed},
    },
};

pub use lateness::{Cause, Lateness, Quantiles};

/// Opens the events of a recording from the first one on; called once for the plan and once for
/// each pass. Reading may block.
pub type EventSource = Arc<dyn Fn() -> Result<Events, EventsError> + Send + Sync>;
pub type Events = Box<dyn Iterator<Item = Result<Event, EventsError>> + Send>;
pub type EventsError = Box<dyn std::error::Error + Send + Sync>;

/// What to replay, where to and how.
#[derive(Clone)]
pub struct ReplaySpec {
    pub events: EventSource,
    /// With the credentials that every connection uses.
    pub target: MqttUrl,
    pub selection: Selection,
    pub pace: Pace,
    /// All over one connection, in place of one for each recorded client.
    pub as_one: bool,
    /// What p100 of the lateness may be.
    pub max_lateness: Option<Duration>,
    /// Whether having nothing to send is fine.
    pub allow_empty: bool,
    /// How many gaps the recording is known to have, whether or not its events tell.
    pub gaps: u64,
    /// What is known to surprise; the report repeats it.
    pub warnings: Vec<String>,
    pub metrics: Option<Arc<Metrics>>,
}

impl ReplaySpec {
    /// Everything, as recorded.
    pub fn new(events: EventSource, target: MqttUrl) -> Self {
        Self {
            events,
            target,
            selection: Selection::default(),
            pace: Pace::default(),
            as_one: false,
            max_lateness: None,
            allow_empty: false,
            gaps: 0,
            warnings: Vec::new(),
            metrics: None,
        }
    }
}

/// What a replay is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Reads the recording once, to know what is to be sent over how many connections.
    #[default]
    Planning,
    Connecting,
    Playing,
    /// All is sent; acks are awaited.
    Settling,
    Ended,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayProgress {
    pub phase: Phase,
    /// Messages of all passes; `None` while planning, and if there is no end.
    pub total: Option<u64>,
    pub sent: u64,
    pub acked: u64,
    /// In the recording, of the message sent last.
    pub position: Duration,
    /// Since the first message was due.
    pub elapsed: Duration,
    /// How long sending takes, of all passes; `None` like `total`.
    pub planned_span: Option<Duration>,
}

/// How a replay ended; a later one in this list does not hide an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    Cancelled,
    /// The recording could not be read to its end, or has gaps.
    Damaged,
    /// The target could not be reached or refused a connection.
    Unreachable,
    /// Not everything was sent and acknowledged.
    Incomplete,
    /// There was nothing to send.
    Nothing,
    /// Over `max_lateness`.
    Late,
    Passed,
}

/// What a replay did.
#[derive(Clone, Debug)]
pub struct ReplayReport {
    /// Part of the client identifiers that were used: `mf-<run>-<n>`.
    pub run: String,
    pub target: String,
    pub outcome: ReplayOutcome,
    /// What went wrong, for people, in the order it did.
    pub errors: Vec<String>,
    /// What may surprise.
    pub warnings: Vec<String>,
    /// Messages to be sent by one pass.
    pub planned: u64,
    /// Passes that were begun.
    pub passes: u32,
    /// Those that were opened.
    pub connections: usize,
    pub sent: u64,
    /// QoS 1 and 2 messages whose exchange was completed with success.
    pub acked: u64,
    /// QoS 1 and 2 messages that were sent and not acknowledged.
    pub unacked: u64,
    /// Refused by the target with an ack, by Reason Code.
    pub refused: BTreeMap<ReasonCode, u64>,
    /// Not sent because the target had said that it does not take them.
    pub incapable: Vec<(Capability, u64)>,
    /// Not sent because their connection had ended.
    pub unsent: u64,
    /// Payload bytes sent.
    pub bytes: u64,
    pub topics: BTreeMap<String, TopicCount>,
    /// Left out of the plan, of one pass.
    pub skipped: Skipped,
    /// As in the spec.
    pub gaps: u64,
    /// Events that the recorder could not keep.
    pub missing: u64,
    pub speed: Speed,
    /// From the first to the last message of one pass, as recorded.
    pub recorded_span: Duration,
    /// The same at the speed asked for; of all passes, if they were played to their end.
    pub planned_span: Duration,
    /// From the first to the last message that was sent.
    pub actual_span: Duration,
    /// All 0 at speed `max` without a rate, where nothing has a time.
    pub lateness: Lateness,
}

/// Messages sent to a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicCount {
    pub messages: u64,
    /// Of payload.
    pub bytes: u64,
}

impl ReplayOutcome {
    /// As every command of ours exits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Incomplete => 1,
            Self::Unreachable => 3,
            Self::Nothing => 4,
            Self::Damaged => 5,
            Self::Late => 6,
            Self::Cancelled => 130,
        }
    }
}

impl fmt::Display for ReplayOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::Damaged => "recording damaged or with gaps",
            Self::Unreachable => "target unreachable",
            Self::Incomplete => "not everything was sent and acknowledged",
            Self::Nothing => "nothing was sent",
            Self::Late => "too late",
            Self::Passed => "passed",
        })
    }
}

impl ReplayReport {
    pub fn exit_code(&self) -> u8 {
        self.outcome.exit_code()
    }
}

/// A replay that runs, or has ended. Dropping every handle does not stop it.
#[derive(Clone)]
pub struct ReplayHandle {
    progress: watch::Receiver<ReplayProgress>,
    report: watch::Receiver<Option<Arc<ReplayReport>>>,
    cancel: Arc<Cancel>,
}

impl ReplayHandle {
    pub fn progress(&self) -> watch::Receiver<ReplayProgress> {
        self.progress.clone()
    }

    /// Ends the replay before its next message.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// The report, if the replay has ended.
    pub fn report(&self) -> Option<Arc<ReplayReport>> {
        self.report.borrow().clone()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the replay's thread did.
    pub async fn wait(&self) -> Arc<ReplayReport> {
        let mut report = self.report.clone();
        let ended = report.wait_for(Option::is_some).await.expect("a replay ends with a report");
        Arc::clone(ended.as_ref().expect("it was just waited for"))
    }
}

/// Says to the schedule's thread, wherever it waits, that it is over.
pub(super) struct Cancel {
    is_cancelled: AtomicBool,
    thread: std::sync::OnceLock<thread::Thread>,
    tally: Arc<tally::Tally>,
}

impl Cancel {
    fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
        self.tally.wake();
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Relaxed)
    }
}

/// Why a recording with gaps does not pass: with `gaps` that its head knows of, and `missing` events
/// that others tell of. A plan says the same as the replay.
pub(crate) fn gaps_error(gaps: u64, missing: u64) -> Option<String> {
    match (gaps, missing) {
        (0, 0) => None,
        (1, 0) => Some("a gap is known in the recording".to_owned()),
        (_, 0) => Some(format!("{gaps} gaps are known in the recording")),
        (_, 1) => Some("an event is missing in the recording".to_owned()),
        _ => Some(format!("{missing} events are missing in the recording")),
    }
}

/// What may surprise about the messages of `plan`.
pub(crate) fn expiry_warning(plan: &Plan, speed: Speed) -> Option<String> {
    let text = "messages have a Message Expiry Interval, which is sent as recorded whatever the speed";
    (plan.has_expiry && speed != Speed::Factor(1.0)).then(|| text.to_owned())
}

/// Starts a replay.
///
/// # Errors
/// When the system refuses a thread, or an event queue for it.
pub fn start(spec: ReplaySpec) -> io::Result<ReplayHandle> {
    let (progress, watch_progress) = watch::channel(ReplayProgress::default());
    let (report, watch_report) = watch::channel(None);
    let tally = Arc::new(tally::Tally::default());
    let cancel = Arc::new(Cancel {
        is_cancelled: AtomicBool::new(false),
        thread: std::sync::OnceLock::new(),
        tally: Arc::clone(&tally),
    });
    // Of its own, so that acks are read whatever the caller's runtime is busy with.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("replay-io")
        .enable_all()
        .build()?;
    let told = Arc::clone(&cancel);
    let thread = thread::Builder::new().name("replay".to_owned()).spawn(move || {
        let run = schedule::Run::new(spec, runtime, told, tally, progress);
        report.send_replace(Some(Arc::new(run.run())));
    })?;
    // Set once, here.
    let _ = cancel.thread.set(thread.thread().clone());
    Ok(ReplayHandle { progress: watch_progress, report: watch_report, cancel })
}
