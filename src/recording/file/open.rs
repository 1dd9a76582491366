//! Reading a recording from a file of any format.

use std::io::{Read, Seek};

use super::{FileError, FileHead, RecordingFormat, sniff::sniff};
use crate::recording::{
    Event,
    csv::{CsvEvents, CsvReader},
    json::{JsonEvents, JsonReader},
    mcap::{McapEvents, McapReader},
    ndjson::{NdjsonEvents, NdjsonReader},
    pcap::{PcapEvents, PcapOptions, PcapReader},
};

/// How a file is to be read.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Its format; `None` for what its content says.
    pub format: Option<RecordingFormat>,
    /// What its name says, for content that fits several formats or none.
    pub named: Option<RecordingFormat>,
    /// Of a capture: TCP ports of servers on which everything is MQTT; 1883 if there are none.
    pub ports: Vec<u16>,
    /// Keeps the passwords of CONNECT packets. Of other files than captures, whoever keeps the events sees to it.
    pub keep_credentials: bool,
    /// Takes what is whole of a file that was cut off, where its format has pieces that are.
    pub recover: bool,
}

impl ReadOptions {
    fn of_capture(&self) -> PcapOptions {
        let usual = PcapOptions::default();
        PcapOptions {
            ports: if self.ports.is_empty() { usual.ports } else { self.ports.clone() },
            keep_credentials: self.keep_credentials,
            recover: self.recover,
        }
    }
}

/// A file that was gone through as far as it takes to know that it is whole.
#[derive(Debug)]
pub enum RecordingFile<R> {
    Json(JsonReader<R>),
    Ndjson(NdjsonReader<R>),
    Mcap(Box<McapReader<R>>),
    Pcapng(Box<PcapReader<R>>),
    Csv(CsvReader<R>),
}

impl<R: Read + Seek> RecordingFile<R> {
    /// Goes through the file, which begins where `input` does.
    ///
    /// # Errors
    /// [`FileError`] for a file that is not whole or no recording. The events are looked at when they
    /// are read.
    pub fn open(mut input: R, options: &ReadOptions) -> Result<Self, FileError> {
        let format = match options.format {
            Some(format) => format,
            None => sniff(&mut input, options.named)?,
        };
        match format {
            RecordingFormat::Json if options.recover => Ok(Self::Json(JsonReader::recover(input)?)),
            RecordingFormat::Json => Ok(Self::Json(JsonReader::open(input)?)),
            RecordingFormat::Ndjson => Ok(Self::Ndjson(NdjsonReader::open(input, options.recover)?)),
            RecordingFormat::Mcap if options.recover => Ok(Self::Mcap(Box::new(McapReader::recover(input)?))),
            RecordingFormat::Mcap => Ok(Self::Mcap(Box::new(McapReader::open(input)?))),
            RecordingFormat::Csv => Ok(Self::Csv(CsvReader::open(input)?)),
            RecordingFormat::Pcapng => {
                Ok(Self::Pcapng(Box::new(PcapReader::open_with(input, options.of_capture())?)))
            }
        }
    }

    pub fn format(&self) -> RecordingFormat {
        match self {
            Self::Json(_) => RecordingFormat::Json,
            Self::Ndjson(_) => RecordingFormat::Ndjson,
            Self::Mcap(_) => RecordingFormat::Mcap,
            Self::Pcapng(_) => RecordingFormat::Pcapng,
            Self::Csv(_) => RecordingFormat::Csv,
        }
    }

    pub fn head(&self) -> &FileHead {
        match self {
            Self::Json(reader) => reader.head(),
            Self::Ndjson(reader) => reader.head(),
            Self::Mcap(reader) => reader.head(),
            Self::Pcapng(reader) => reader.head(),
            Self::Csv(reader) => reader.head(),
        }
    }

    /// # Errors
    /// [`FileError`] if the file can no longer be read.
    pub fn into_events(self) -> Result<FileEvents<R>, FileError> {
        Ok(match self {
            Self::Json(reader) => {
                let notes = reader.notes();
                FileEvents::Json(Box::new(reader.into_events()?), notes)
            }
            Self::Ndjson(reader) => FileEvents::Ndjson(Box::new(reader.into_events()?)),
            Self::Mcap(reader) => FileEvents::Mcap(Box::new(reader.into_events())),
            Self::Pcapng(reader) => FileEvents::Pcapng(Box::new(reader.into_events()?)),
            Self::Csv(reader) => FileEvents::Csv(Box::new(reader.into_events()?)),
        })
    }
}

/// The events of a file in order; ends after the first error.
pub enum FileEvents<R: Read> {
    Json(Box<JsonEvents<R>>, Vec<String>),
    Ndjson(Box<NdjsonEvents<R>>),
    Mcap(Box<McapEvents<R>>),
    Pcapng(Box<PcapEvents<R>>),
    Csv(Box<CsvEvents<R>>),
}

impl<R: Read + Seek> FileEvents<R> {
    /// What was not taken or had to be assumed; complete once the events are.
    pub fn notes(&self) -> Vec<String> {
        match self {
            Self::Json(_, notes) => notes.clone(),
            Self::Ndjson(events) => events.notes(),
            Self::Mcap(events) => events.notes().to_vec(),
            Self::Pcapng(events) => events.notes(),
            Self::Csv(events) => events.notes(),
        }
    }
}

impl<R: Read + Seek> Iterator for FileEvents<R> {
    type Item = Result<Event, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Json(events, _) => events.next(),
            Self::Ndjson(events) => events.next(),
            Self::Mcap(events) => events.next(),
            Self::Pcapng(events) => events.next(),
            Self::Csv(events) => events.next(),
        }
    }
}
