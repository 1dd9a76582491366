//! How far a replay is.

use std::time::Duration;

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
    /// How long sending takes, of all passes; `None` like `total`, and in modes other than publish where it does not follow from
    /// the speed alone.
    pub planned_span: Option<Duration>,
    /// Where what is selected of the recording ends; `None` while planning.
    pub end: Option<Duration>,
}
