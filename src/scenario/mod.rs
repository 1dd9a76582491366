//! Scenarios: what many clients do, and what they are expected to see.
//!
//! A [`Scenario`] is read from what people write, with a [`Problem`] for each thing that is wrong. What its clients receive is
//! kept in an [`Inbox`], of which a [`Judge`] reads until an [`Expectation`] has passed or failed. Templates draw from seed,
//! step, client and count alone. What came of a run is a [`RunReport`].

mod client;
mod expectation;
mod inbox;
mod judge;
mod problem;
mod remembered;
mod rendering;
mod report;
#[expect(clippy::module_inception, reason = "the room and the thing in it")]
mod scenario;
mod spec;
mod step;
#[cfg(test)]
mod tests;

pub use client::{Group, Introduction, Selected};
pub use expectation::Expectation;
pub use inbox::{Inbox, Received};
pub use judge::{Judge, Judgement, Listener, NearestMessage};
pub use problem::Problem;
pub use remembered::Remembered;
pub use rendering::{Rendering, Speaker, Stream};
pub use report::{RunFigures, RunReport, RunVerdict, StepResult, StepStatus};
pub use scenario::{Scenario, identifiers};
pub use spec::{DisconnectMode, OnFailure, RecordSpec, ReplayMode, ReplaySpec, VerifyLevel};
pub use step::{Action, HttpStep, PublishStep, Step, SubscribeStep, UnsubscribeStep};
