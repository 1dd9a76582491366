//! The broker, played with transcripts and with random operations.

mod limits;
mod properties;
mod stage;
mod transcripts;
