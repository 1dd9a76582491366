//! The broker, played with transcripts and with random operations.

mod access;
pub(crate) mod kept;
mod limits;
mod observers;
mod persistence;
mod properties;
pub(crate) mod script;
pub(crate) mod stage;
mod trace;
pub(crate) mod transcripts;
