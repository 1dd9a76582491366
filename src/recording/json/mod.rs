//! The JSON format of recordings: portable, readable, hand-writable, nothing lost.
//!
//! An object with what is known of the recording, `connections` (a summary for readers) and
//! `events`, one a line. Times are milliseconds with the nanoseconds as decimals, never a binary
//! fraction. What a packet says is spelt out, and `raw` (base64) is there when encoding the fields
//! would not give its bytes; where it is there, it is what counts. `seq` is for readers too: events
//! are numbered by their place. A file may leave out what it can: [`JsonReader`] also takes
//! `{"version":1,"messages":[{"t_ms":0,"topic":"a/b","payload":"on"}]}`.
//!
//! There is no checksum in the file: it is meant to be edited.

mod element;
mod fields;
mod read;
mod scanner;
mod time;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    read::{JsonEvents, JsonReader},
    write::{JsonWriter, write_event},
};

pub(in crate::recording) use self::{
    element::{Elements, Shape},
    fields::{Members, parse_property},
    read::{read_head, read_head_member},
    scanner::{Place, START, Scanner},
    write::{head_members, write_head_line},
};

/// What the file says it is.
pub const FORMAT: &str = "mockforge.mqtt.session";
/// The major version written, and the only one there is to read.
pub const VERSION: u64 = 1;
