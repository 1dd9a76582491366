//! The NDJSON format of recordings: JSON, a line an event.
//!
//! The first line is the head of the JSON format, then come its event objects, then a line that says
//! how many there were, so that a file that was cut off between two lines is told from a whole one.
//! Head and end may be missing: what `tail` prints and what people write can be read, too. Instead
//! of events there may be messages in the short form of the JSON format, or what `mosquitto_sub -F %J`
//! and `-F %j` print, in which case a file has nothing else.

mod mosquitto;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    read::{NdjsonEvents, NdjsonReader},
    write::NdjsonWriter,
};

/// What the last line says it is.
const END: &str = "END";
