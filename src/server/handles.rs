//! Handles on parts of a running server: each is a clone of the same, and may outlive it; then what it is asked for comes to
//! nothing.

mod chaos;
mod messages;
mod mocks;
mod recordings;

pub use chaos::ChaosRules;
pub use messages::{Messages, MessagesError, Unexpected};
pub use mocks::Mocks;
pub use recordings::{ActiveRecording, Recordings};
