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

mod fields;
mod read;
mod scanner;
mod time;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    read::{JsonEvents, JsonHead, JsonReader},
    write::{JsonWriter, write_event},
};

/// What the file says it is.
pub const FORMAT: &str = "mockforge.mqtt.session";
/// The major version written, and the only one there is to read.
pub const VERSION: u64 = 1;

/// What is wrong with a file, and where.
#[derive(Debug)]
pub struct JsonError {
    pub kind: JsonErrorKind,
    /// From 1.
    pub line: u64,
    /// In bytes, from 1.
    pub column: u64,
    /// `events[16].qos`; counts from 0. Empty for the file as a whole.
    pub path: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonErrorKind {
    /// The file could not be read.
    Io,
    /// A format or version that is not ours to read.
    Unsupported,
    /// The file ends too early.
    Truncated,
    /// Not JSON, or not what has to stand there.
    Invalid,
}

impl JsonError {
    /// Whether the recording in the file is damaged, rather than the file unreadable or foreign.
    pub fn is_damage(&self) -> bool {
        matches!(self.kind, JsonErrorKind::Truncated | JsonErrorKind::Invalid)
    }
}

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for JsonError {}
