//! Why the control plane refuses, and how gRPC says so.

use std::fmt;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{config::ConfigError, field::BadField, net::TooManyWaiters};

/// The domain of the reasons in `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "mockforge";

/// Why an rpc failed. Becomes a [`Status`] that carries `ErrorInfo` (reason, domain) and, for bad input, `BadRequest`
/// with the path of each field.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{}", Listed(.0))]
    BadFields(Vec<BadField>),
    /// A line for each thing that is wrong.
    #[error("{0}")]
    BadConfig(ConfigError),
    #[error("there is no mockforge.yaml any more")]
    SettingsGone,
    #[error("no MQTT server runs in this process: start one with `mockforge serve --mqtt`")]
    NoServer,
    #[error("this server is a proxy: {0} are its upstream's")]
    NoBroker(&'static str),
    #[error("the server is stopping")]
    Stopping,
    #[error("{0} is switched off here")]
    Unsupported(&'static str),
    #[error("no client {client_id:?} {what}")]
    ClientNotFound { client_id: String, what: &'static str },
    #[error("{}", of_upstream(upstream, what))]
    UpstreamUnavailable { upstream: String, what: String },
    #[error("{0}")]
    RecordingNotFound(String),
    #[error("a recording called {name:?} exists already")]
    RecordingExists { name: String },
    #[error("recording {name:?} is still being made")]
    RecordingActive { name: String },
    #[error("recording {name:?} is not being made by this server")]
    RecordingEnded { name: String },
    #[error("{0}")]
    NothingMeant(String),
    #[error("no flight recorder is running: start the server with --ring, or set recorder.ring_bytes")]
    NoRing,
    #[error("the file is no recording: {0}")]
    BadFile(String),
    #[error("the file cannot be read here: {0}")]
    UnsupportedFile(String),
    #[error("the file is longer than {limit} bytes (http.limits.import_bytes)")]
    FileTooLong { limit: u64 },
    #[error(
        "files that are being imported are longer than {limit} bytes together (http.limits.import_bytes)"
    )]
    ImportsTooLong { limit: u64 },
    #[error("the store can't be used: {0}")]
    Store(String),
    #[error("{0}")]
    StoreLocked(String),
    #[error("{0}")]
    StoreDamaged(String),
    #[error("{0}")]
    RecordingDamaged(String),
    #[error("messages are not kept here: journal.messages or journal.bytes is 0")]
    NoJournal,
    #[error(transparent)]
    TooManyWaiters(#[from] TooManyWaiters),
    #[error("no mock {id:?}")]
    MockNotFound { id: String },
    #[error("a mock {id:?} exists already")]
    MockExists { id: String },
    #[error("there are {0} mocks already")]
    TooManyMocks(usize),
    #[error("no webhook {id:?}")]
    WebhookNotFound { id: String },
    #[error("a webhook {id:?} exists already")]
    WebhookExists { id: String },
    #[error("there are {0} webhooks already")]
    TooManyWebhooks(usize),
    #[error("webhook {webhook:?} has no delivery {delivery:?} in its log, or it was not tried yet")]
    DeliveryNotFound { webhook: String, delivery: String },
    #[error("the message of delivery {delivery:?} was too large to be kept")]
    DeliveryNotKept { delivery: String },
    #[error("the queue of webhook {id:?} is full")]
    WebhookQueueFull { id: String },
    #[error("no proxy {id:?}")]
    ProxyNotFound { id: String },
    #[error("a proxy {id:?} exists already")]
    ProxyExists { id: String },
    #[error("there may be {0} proxies at most (mqtt.limits.proxies)")]
    TooManyProxies(usize),
    #[error("the server's own proxy is what mqtt.upstream says")]
    OwnProxy,
    #[error("cannot listen on {address}: {what}")]
    CannotListen { address: String, what: String },
    #[error("no connection {connection} is open at proxy {proxy:?}")]
    ConnectionNotFound { proxy: String, connection: u64 },
    #[error("no rule {id:?}")]
    RuleNotFound { id: String },
    #[error("a rule {id:?} exists already")]
    RuleExists { id: String },
    #[error("there may be {limit} rules at most")]
    TooManyRules { limit: usize },
    #[error("{0}")]
    NoScript(String),
    #[error("{scope} has no state {key:?}")]
    StateNotFound { scope: String, key: String },
    #[error("{0}")]
    StateFull(String),
    #[error("no replay {id:?}")]
    ReplayNotFound { id: String },
    #[error("replay {id} has ended")]
    ReplayEnded { id: String },
    #[error("replay {id} is running: its report is there when it has ended")]
    ReplayRunning { id: String },
    #[error("{0}")]
    WrongMode(&'static str),
    #[error("{limit} replays are running already")]
    TooManyReplays { limit: usize },
    #[error("the log of this process is not ours: whoever started it has its own")]
    NoLog,
    #[error("no run {id:?}")]
    RunNotFound { id: String },
    #[error("run {id} goes on: its report is there when it has ended")]
    RunRunning { id: String },
    #[error("{limit} scenarios are running already (scenarios.runs)")]
    TooManyRuns { limit: usize },
    #[error("{0}")]
    Internal(String),
}

struct Listed<'a>(&'a [BadField]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, field) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{field}")?;
        }
        Ok(())
    }
}

impl ControlError {
    pub fn bad_field(path: impl Into<String>, what: impl fmt::Display) -> Self {
        Self::BadFields(vec![BadField { path: path.into(), what: what.to_string() }])
    }

    /// The fields that are bad, if that is why.
    pub fn fields(&self) -> impl Iterator<Item = &BadField> {
        let fields = if let Self::BadFields(fields) = self { fields.as_slice() } else { &[] };
        fields.iter()
    }

    pub fn code(&self) -> Code {
        match self {
            Self::BadFields(_) | Self::BadConfig(_) | Self::BadFile(_) | Self::UnsupportedFile(_) => {
                Code::InvalidArgument
            }
            Self::NoServer
            | Self::SettingsGone
            | Self::NoBroker(_)
            | Self::NoRing
            | Self::NoJournal
            | Self::NothingMeant(_)
            | Self::RecordingActive { .. }
            | Self::RecordingEnded { .. }
            | Self::DeliveryNotKept { .. }
            | Self::ReplayEnded { .. }
            | Self::ReplayRunning { .. }
            | Self::OwnProxy
            | Self::CannotListen { .. }
            | Self::RunRunning { .. }
            | Self::WrongMode(_)
            | Self::NoLog
            | Self::NoScript(_) => Code::FailedPrecondition,
            Self::Unsupported(_) => Code::Unimplemented,
            Self::ClientNotFound { .. }
            | Self::RecordingNotFound(_)
            | Self::ReplayNotFound { .. }
            | Self::RunNotFound { .. }
            | Self::MockNotFound { .. }
            | Self::WebhookNotFound { .. }
            | Self::DeliveryNotFound { .. }
            | Self::RuleNotFound { .. }
            | Self::ProxyNotFound { .. }
            | Self::ConnectionNotFound { .. }
            | Self::StateNotFound { .. } => Code::NotFound,
            Self::RecordingExists { .. }
            | Self::MockExists { .. }
            | Self::WebhookExists { .. }
            | Self::RuleExists { .. }
            | Self::ProxyExists { .. } => Code::AlreadyExists,
            Self::UpstreamUnavailable { .. }
            | Self::Stopping
            | Self::Store(_)
            | Self::StoreLocked(_)
            | Self::ImportsTooLong { .. } => Code::Unavailable,
            Self::RecordingDamaged(_) | Self::StoreDamaged(_) => Code::DataLoss,
            Self::TooManyReplays { .. }
            | Self::TooManyRuns { .. }
            | Self::FileTooLong { .. }
            | Self::TooManyMocks(_)
            | Self::TooManyWaiters(_)
            | Self::TooManyWebhooks(_)
            | Self::WebhookQueueFull { .. }
            | Self::TooManyRules { .. }
            | Self::TooManyProxies(_)
            | Self::StateFull(_) => Code::ResourceExhausted,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// What a program goes by; stays when texts change.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadFields(_) => "BAD_FIELD",
            Self::BadConfig(_) => "BAD_CONFIG",
            Self::SettingsGone => "SETTINGS_GONE",
            Self::NoServer => "NO_SERVER",
            Self::NoBroker(_) => "NO_BROKER",
            Self::Stopping => "STOPPING",
            Self::Unsupported(_) => "UNSUPPORTED",
            Self::ClientNotFound { .. } => "CLIENT_NOT_FOUND",
            Self::UpstreamUnavailable { .. } => "UPSTREAM_UNAVAILABLE",
            Self::RecordingNotFound(_) => "RECORDING_NOT_FOUND",
            Self::RecordingExists { .. } => "RECORDING_EXISTS",
            Self::RecordingActive { .. } => "RECORDING_ACTIVE",
            Self::RecordingEnded { .. } => "RECORDING_ENDED",
            Self::NothingMeant(_) => "NOTHING_MEANT",
            Self::NoRing => "NO_RING",
            Self::NoJournal => "NO_JOURNAL",
            Self::TooManyWaiters(_) => "TOO_MANY_WAITERS",
            Self::BadFile(_) => "BAD_FILE",
            Self::UnsupportedFile(_) => "UNSUPPORTED_FILE",
            Self::FileTooLong { .. } => "FILE_TOO_LONG",
            Self::ImportsTooLong { .. } => "IMPORTS_TOO_LONG",
            Self::Store(_) => "STORE_UNAVAILABLE",
            Self::StoreLocked(_) => "STORE_LOCKED",
            Self::StoreDamaged(_) => "STORE_DAMAGED",
            Self::RecordingDamaged(_) => "RECORDING_DAMAGED",
            Self::MockNotFound { .. } => "MOCK_NOT_FOUND",
            Self::MockExists { .. } => "MOCK_EXISTS",
            Self::TooManyMocks(_) => "TOO_MANY_MOCKS",
            Self::WebhookNotFound { .. } => "WEBHOOK_NOT_FOUND",
            Self::WebhookExists { .. } => "WEBHOOK_EXISTS",
            Self::TooManyWebhooks(_) => "TOO_MANY_WEBHOOKS",
            Self::DeliveryNotFound { .. } => "DELIVERY_NOT_FOUND",
            Self::DeliveryNotKept { .. } => "DELIVERY_NOT_KEPT",
            Self::WebhookQueueFull { .. } => "WEBHOOK_QUEUE_FULL",
            Self::ProxyNotFound { .. } => "PROXY_NOT_FOUND",
            Self::ProxyExists { .. } => "PROXY_EXISTS",
            Self::TooManyProxies(_) => "TOO_MANY_PROXIES",
            Self::OwnProxy => "OWN_PROXY",
            Self::CannotListen { .. } => "CANNOT_LISTEN",
            Self::ConnectionNotFound { .. } => "CONNECTION_NOT_FOUND",
            Self::RuleNotFound { .. } => "RULE_NOT_FOUND",
            Self::RuleExists { .. } => "RULE_EXISTS",
            Self::TooManyRules { .. } => "TOO_MANY_RULES",
            Self::NoScript(_) => "NO_SCRIPT",
            Self::StateNotFound { .. } => "STATE_NOT_FOUND",
            Self::StateFull(_) => "STATE_FULL",
            Self::ReplayNotFound { .. } => "REPLAY_NOT_FOUND",
            Self::ReplayEnded { .. } => "REPLAY_ENDED",
            Self::ReplayRunning { .. } => "REPLAY_RUNNING",
            Self::WrongMode(_) => "WRONG_MODE",
            Self::TooManyReplays { .. } => "TOO_MANY_REPLAYS",
            Self::NoLog => "NO_LOG",
            Self::RunNotFound { .. } => "RUN_NOT_FOUND",
            Self::RunRunning { .. } => "RUN_RUNNING",
            Self::TooManyRuns { .. } => "TOO_MANY_RUNS",
            Self::Internal(_) => "INTERNAL",
        }
    }
}

impl From<ControlError> for Status {
    fn from(error: ControlError) -> Self {
        let mut details = ErrorDetails::with_error_info(error.reason(), ERROR_DOMAIN, []);
        let violations: Vec<FieldViolation> = match &error {
            ControlError::BadFields(fields) => {
                fields.iter().map(|field| FieldViolation::new(&field.path, &field.what)).collect()
            }
            ControlError::BadConfig(error) => {
                let problems = error.problems().into_iter();
                problems.map(|problem| FieldViolation::new(problem.path, problem.text)).collect()
            }
            _ => Vec::new(),
        };
        if !violations.is_empty() {
            details.set_bad_request(violations);
        }
        Self::with_error_details(error.code(), error.to_string(), details)
    }
}

/// With the upstream's name, once.
fn of_upstream(upstream: &str, what: &str) -> String {
    if what.contains(upstream) { what.to_owned() } else { format!("upstream {upstream}: {what}") }
}
