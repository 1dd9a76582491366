//! Writing a recording to a file of any format.

use std::io::{self, Write};

use super::RecordingFormat;
use crate::recording::{
    Event, RecordingInfo, csv::CsvWriter, json::JsonWriter, mcap::McapWriter, ndjson::NdjsonWriter,
    pcap::PcapWriter,
};

/// Writes the whole file and answers what the format cannot hold, in notes for people. `events` is
/// called as often as the format needs it, and has to give the same events each time.
///
/// # Errors
/// Those of the events, or of the writer as one.
pub fn write_recording<W, I, E>(
    format: RecordingFormat,
    out: W,
    info: &RecordingInfo,
    events: impl FnMut() -> Result<I, E>,
) -> Result<Vec<String>, E>
where
    W: Write,
    I: Iterator<Item = Result<Event, E>>,
    E: From<io::Error>,
{
    match format {
        RecordingFormat::Json => JsonWriter::new(out).write(info, events).map(|_| Vec::new()),
        RecordingFormat::Ndjson => NdjsonWriter::new(out).write(info, events).map(|_| Vec::new()),
        RecordingFormat::Mcap => McapWriter::new(out).write(info, events).map(|_| Vec::new()),
        RecordingFormat::Csv => CsvWriter::new(out).write(info, events).map(|(_, notes)| notes),
        RecordingFormat::Pcapng => PcapWriter::new(out).write(info, events).map(|(_, notes)| notes),
    }
}
