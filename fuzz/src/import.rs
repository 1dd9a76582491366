//! Files of any format: read, written in every format, and read again.

use std::{
    io::{self, Cursor},
    time::Duration,
};

use jiff::Timestamp;
use mockforge::recording::{
    Event, FileError, ReadOptions, RecordingFile, RecordingFormat, RecordingInfo, RecordingSource,
    RecordingState, write_recording,
};

use super::Source;

/// Events that are looked at of one file.
const EVENTS_MAX: usize = 5_000;

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let flags = source.byte();
    let options = ReadOptions {
        format: match flags & 7 {
            0 => Some(RecordingFormat::Json),
            1 => Some(RecordingFormat::Ndjson),
            2 => Some(RecordingFormat::Mcap),
            3 => Some(RecordingFormat::Pcapng),
            4 => Some(RecordingFormat::Csv),
            _ => None,
        },
        recover: flags & 8 != 0,
        keep_credentials: flags & 16 != 0,
        ..ReadOptions::default()
    };
    let Some(events) = read(source.rest(), &options) else { return };
    for format in RecordingFormat::ALL {
        let Some(file) = write(format, &events) else { continue };
        let plain = ReadOptions { format: Some(format), keep_credentials: true, ..ReadOptions::default() };
        let again = read(&file, &plain);
        assert!(again.is_some(), "{}: what was written is no recording", format.name());
        if matches!(format, RecordingFormat::Json | RecordingFormat::Ndjson | RecordingFormat::Mcap) {
            assert_eq!(again.as_ref(), Some(&events), "{}", format.name());
        }
    }
}

/// All events of a file; `None` for a file that is refused.
fn read(file: &[u8], options: &ReadOptions) -> Option<Vec<Event>> {
    let opened = match RecordingFile::open(Cursor::new(file), options) {
        Ok(opened) => opened,
        Err(error) => return refuse(&error),
    };
    let mut read = match opened.into_events() {
        Ok(read) => read,
        Err(error) => return refuse(&error),
    };
    let mut events = Vec::new();
    for event in read.by_ref().take(EVENTS_MAX) {
        match event {
            Ok(event) => events.push(event),
            Err(error) => return refuse(&error),
        }
    }
    read.notes();
    for pair in events.windows(2) {
        assert!(pair[0].at <= pair[1].at && pair[0].seq < pair[1].seq, "{pair:?}");
    }
    Some(events)
}

fn refuse(error: &FileError) -> Option<Vec<Event>> {
    assert!(!error.reason.is_empty());
    None
}

/// `None` for events that the format has no place for.
fn write(format: RecordingFormat, events: &[Event]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let give = || Ok::<_, io::Error>(events.iter().cloned().map(Ok));
    write_recording(format, &mut out, &info(), give).ok().map(|_| out)
}

fn info() -> RecordingInfo {
    RecordingInfo {
        id: "01JD3ZJ8Y0000000000000000A".to_owned(),
        name: "fuzz".to_owned(),
        state: RecordingState::Complete,
        source: RecordingSource::import(),
        started_at: Timestamp::UNIX_EPOCH,
        duration: Duration::ZERO,
        events: 0,
        packets: 0,
        connections: 0,
        bytes: 0,
        gaps: 0,
        sha256: None,
        tool_version: "0.1.0".to_owned(),
        topics: Vec::new(),
        seed: None,
        edits: Vec::new(),
    }
}
