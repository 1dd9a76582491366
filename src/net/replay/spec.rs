//! What is replayed, where to and how.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{OnMiss, VerifySpec};
use crate::{
    metrics::Metrics,
    net::MqttUrl,
    recording::{
        Event, NameTemplate, RUN_LEN,
        player::{Causality, Pace, Selection},
    },
};

/// Opens the events of a recording from the first one on; called once for the plan and once for
/// each pass. Reading may block.
pub type EventSource = Arc<dyn Fn() -> Result<Events, EventsError> + Send + Sync>;
pub type Events = Box<dyn Iterator<Item = Result<Event, EventsError>> + Send>;
pub type EventsError = Box<dyn std::error::Error + Send + Sync>;

/// What to replay, where to and how.
#[derive(Clone)]
pub struct ReplaySpec {
    /// Part of the names that clients are given.
    pub run: String,
    pub events: EventSource,
    /// With the credentials that every connection uses.
    pub target: MqttUrl,
    /// Of mode client: where the same is done, to compare what comes back from both.
    pub other_target: Option<MqttUrl>,
    pub selection: Selection,
    pub pace: Pace,
    pub mode: Mode,
    /// Whether it stands still until it is told to go on.
    pub start_paused: bool,
    /// Of mode client: what has to have come before an act.
    pub causality: Causality,
    /// Of mode client: keep alive and expiry intervals are divided by the speed.
    pub scale_intervals: bool,
    /// Of mode server: where it listens.
    pub listen: SocketAddr,
    pub on_miss: OnMiss,
    /// Of mode server: what live clients are called, where not as they were.
    pub names: Option<NameTemplate>,
    /// Of mode server: how long it serves at most; `None` is until all was played.
    pub patience: Option<Duration>,
    /// Of mode server: it goes on until it is told to [finish](super::ReplayHandle::finish), though all was played.
    pub until_finished: bool,
    /// Of mode server: whether what recorded clients did has to be done again, all of it; that what came in place of it went
    /// through to the target excuses it anyway.
    pub is_strict: bool,
    /// `None` compares nothing.
    pub verify: Option<VerifySpec>,
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
            run: drawn_run(),
            events,
            target,
            other_target: None,
            selection: Selection::default(),
            pace: Pace::default(),
            mode: Mode::default(),
            start_paused: false,
            causality: Causality::default(),
            scale_intervals: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            on_miss: OnMiss::default(),
            names: None,
            patience: None,
            until_finished: false,
            is_strict: true,
            verify: None,
            as_one: false,
            max_lateness: None,
            allow_empty: false,
            gaps: 0,
            warnings: Vec::new(),
            metrics: None,
        }
    }
}

impl ReplaySpec {
    /// Whether clients of ours may do less than was recorded.
    pub(super) fn may_be_left(&self) -> bool {
        !self.is_strict || self.on_miss == OnMiss::Passthrough
    }
}

/// What tells a replay from others, drawn.
pub fn drawn_run() -> String {
    // The last part is the random one; short enough for the 23 characters that 3.1 allows.
    ulid::Ulid::new().to_string().to_ascii_lowercase().split_off(26 - RUN_LEN)
}

/// How a recording is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Sends the messages that clients published.
    #[default]
    Publish,
    /// Has our connections be the recorded clients.
    Client,
    /// Plays the recorded server to live clients.
    Server,
}
