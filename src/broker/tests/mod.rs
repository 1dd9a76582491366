//! The broker, played with transcripts and with random operations.

mod access;
mod limits;
mod properties;
pub(crate) mod script;
pub(crate) mod stage;
pub(crate) mod transcripts;
