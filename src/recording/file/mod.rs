//! What the files that recordings are carried in have in common.

mod open;
mod sniff;
#[cfg(test)]
mod tests;
mod write;

use std::{fmt, path::Path};

use jiff::Timestamp;

use super::{RecordingSource, RecordingState};

pub use self::{
    open::{FileEvents, ReadOptions, RecordingFile},
    sniff::sniff,
    write::write_recording,
};

/// A format that recordings are carried in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordingFormat {
    /// One object: portable, readable, hand-writable, nothing lost.
    Json,
    /// The same, a line an event.
    Ndjson,
    /// Compact, indexed, compressed in chunks, nothing lost.
    Mcap,
    /// Packets in a TCP that is made up, as Wireshark reads it.
    Pcapng,
    /// `timestamp,topic,payload,qos,retain`: messages alone.
    Csv,
}

impl RecordingFormat {
    pub const ALL: [Self; 5] = [Self::Json, Self::Ndjson, Self::Mcap, Self::Pcapng, Self::Csv];

    /// How names of files end, and what that says.
    pub const ENDINGS: [(&str, Self); 8] = [
        ("json", Self::Json),
        ("ndjson", Self::Ndjson),
        ("jsonl", Self::Ndjson),
        ("mcap", Self::Mcap),
        ("pcapng", Self::Pcapng),
        ("pcap", Self::Pcapng),
        ("cap", Self::Pcapng),
        ("csv", Self::Csv),
    ];

    /// `json`, `ndjson` and so on.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Mcap => "mcap",
            Self::Pcapng => "pcapng",
            Self::Csv => "csv",
        }
    }

    /// As HTTP calls it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Mcap => "application/octet-stream",
            Self::Pcapng => "application/vnd.tcpdump.pcap",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }

    /// The format that [`name`](Self::name) names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// What the end of a file's name says; `None` if that says nothing.
    pub fn of_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Self::ENDINGS.into_iter().find(|(ending, _)| *ending == extension).map(|(_, format)| format)
    }
}

/// What a file says of the recording as a whole; what it leaves out is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileHead {
    pub id: Option<String>,
    pub name: Option<String>,
    pub started_at: Option<Timestamp>,
    pub state: Option<RecordingState>,
    pub source: Option<RecordingSource>,
    pub tool_version: Option<String>,
    pub topics: Vec<String>,
    /// What the server drew random values from.
    pub seed: Option<u64>,
    /// How it was made of others, for people.
    pub edits: Vec<String>,
    /// Times that the recorder left something out.
    pub gaps: u64,
    /// Events, as far as that is known before they are read.
    pub entries: u64,
}

/// What is wrong with a file, and where.
#[derive(Debug)]
pub struct FileError {
    pub kind: FileErrorKind,
    pub place: FilePlace,
    /// `events[16].qos`; counts from 0. Empty for the file as a whole.
    pub path: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileErrorKind {
    /// The file could not be read.
    Io,
    /// A format or version that is not ours to read.
    Unsupported,
    /// The file ends too early.
    Truncated,
    /// Not what has to stand there.
    Invalid,
}

/// Where in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilePlace {
    #[default]
    Unknown,
    /// Both from 1, the column in bytes.
    Line { line: u64, column: u64 },
    /// From 0.
    Byte(u64),
}

impl FileError {
    /// Of a file that could not be read, wherever.
    pub fn io(error: std::io::Error) -> Self {
        let (place, path) = (FilePlace::Unknown, String::new());
        Self { kind: FileErrorKind::Io, place, path, reason: error.to_string() }
    }

    /// Whether the recording in the file is damaged, rather than the file unreadable or foreign.
    pub fn is_damage(&self) -> bool {
        matches!(self.kind, FileErrorKind::Truncated | FileErrorKind::Invalid)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            FilePlace::Unknown => {}
            FilePlace::Line { line, column } => write!(f, "line {line}, column {column}: ")?,
            FilePlace::Byte(offset) => write!(f, "byte {offset}: ")?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for FileError {}
