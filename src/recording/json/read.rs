//! Reading a recording from JSON.

use std::{
    collections::HashMap,
    io::{BufReader, Read, Seek, SeekFrom},
};

use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    FORMAT, VERSION,
    element::{Elements, Shape, parse},
    scanner::{Place, START, Scanner},
};
use crate::{
    packet::ProtocolVersion,
    recording::{ConnectionInfo, Event, FileError, FileErrorKind, FileHead, RecordingState},
};

/// A JSON file that was gone through once, so that it is known to be whole.
#[derive(Debug)]
pub struct JsonReader<R> {
    input: R,
    head: FileHead,
    list: List,
    declared: HashMap<u32, ConnectionInfo>,
    /// Where the file ends, if that is in the middle.
    cut: Option<FileError>,
}

/// The list that holds the events.
#[derive(Clone, Copy, Debug)]
struct List {
    name: &'static str,
    shape: Shape,
    /// Behind its bracket.
    start: Place,
}

/// An element of `connections`, for files whose events leave it out.
#[derive(Debug, Deserialize)]
struct Declared {
    conn: u32,
    client_id: Option<String>,
    protocol: Option<u8>,
    peer: Option<String>,
}

impl<R: Read + Seek> JsonReader<R> {
    /// Goes through the file, which begins where `input` does.
    ///
    /// # Errors
    /// [`FileError`] for a file that is not whole, that is not a recording, or whose major version is
    /// not known. The events are looked at when they are read.
    pub fn open(input: R) -> Result<Self, FileError> {
        let mut reader = Self::recover(input)?;
        match reader.cut.take() {
            Some(cut) => Err(cut),
            None => Ok(reader),
        }
    }

    /// Takes of a file that was cut off the events that are whole; the recording counts as interrupted then.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for files that end among their events.
    pub fn recover(mut input: R) -> Result<Self, FileError> {
        input.rewind().map_err(FileError::io)?;
        let mut scanner = Scanner::new(BufReader::new(&mut input), START);
        let (mut head, mut declared) = (FileHead::default(), HashMap::new());
        let (mut events, mut messages, mut cut) = (None, None, None);
        scanner.skip_byte_order_mark("")?;
        scanner.expect(b'{', "")?;
        let mut goes_on = !scanner.accept(b'}', "")?;
        while goes_on {
            let name = scanner.name("")?;
            match name.as_str() {
                "events" => events = Some(skip_list(&mut scanner, "events", Shape::Event, &mut cut)?),
                "messages" => messages = Some(skip_list(&mut scanner, "messages", Shape::Message, &mut cut)?),
                _ => read_member(&mut scanner, &name, &mut head, &mut declared)?,
            }
            if cut.is_some() {
                break;
            }
            goes_on = match scanner.goes_on(b'}', "") {
                Err(error) if error.kind == FileErrorKind::Truncated && events.is_some() => {
                    cut = Some(error);
                    false
                }
                other => other?,
            };
        }
        if scanner.peek("")?.is_some() {
            return Err(scanner.error(FileErrorKind::Invalid, "", "something stands behind the end"));
        }
        let Some((list, entries)) = events.or(messages) else {
            let reason = "the file has neither events nor messages";
            return Err(scanner.error(FileErrorKind::Invalid, "", reason));
        };
        drop(scanner);
        head.entries = entries;
        if cut.is_some() {
            head.state = Some(RecordingState::Interrupted);
        }
        Ok(Self { input, head, list, declared, cut })
    }

    pub fn head(&self) -> &FileHead {
        &self.head
    }

    /// What of the file is not taken, for people.
    pub fn notes(&self) -> Vec<String> {
        self.cut.iter().map(|cut| format!("{cut}: what is whole before was taken")).collect()
    }

    /// The events from the first one on, as often as called.
    pub fn events(&mut self) -> Result<JsonEvents<&mut R>, FileError> {
        JsonEvents::new(&mut self.input, self.list, self.declared.clone(), self.head.entries)
    }

    /// The events, with the file.
    pub fn into_events(self) -> Result<JsonEvents<R>, FileError> {
        JsonEvents::new(self.input, self.list, self.declared, self.head.entries)
    }
}

/// Goes past a list of events, counting its elements that are whole; `cut` says where the file ends if
/// that is before the list does.
fn skip_list<R: std::io::BufRead>(
    scanner: &mut Scanner<R>,
    name: &'static str,
    shape: Shape,
    cut: &mut Option<FileError>,
) -> Result<(List, u64), FileError> {
    scanner.expect(b'[', name)?;
    let list = List { name, shape, start: scanner.place() };
    let mut count = 0;
    let mut goes_on = !scanner.accept(b']', name)?;
    while goes_on {
        let path = format!("{name}[{count}]");
        let whole = scanner.value(None, &path).and_then(|_| {
            count += 1;
            scanner.goes_on(b']', &path)
        });
        goes_on = match whole {
            Err(error) if error.kind == FileErrorKind::Truncated => {
                *cut = Some(error);
                false
            }
            other => other?,
        };
    }
    Ok((list, count))
}

/// The line that a file of lines may begin with: all but its events.
pub fn read_head(text: &[u8], start: Place) -> Result<(FileHead, HashMap<u32, ConnectionInfo>), FileError> {
    let mut scanner = Scanner::new(text, start);
    let (mut head, mut declared) = (FileHead::default(), HashMap::new());
    scanner.expect(b'{', "")?;
    let mut goes_on = !scanner.accept(b'}', "")?;
    while goes_on {
        let name = scanner.name("")?;
        read_member(&mut scanner, &name, &mut head, &mut declared)?;
        goes_on = scanner.goes_on(b'}', "")?;
    }
    if scanner.peek("")?.is_some() {
        return Err(scanner.error(FileErrorKind::Invalid, "", "something stands behind the object"));
    }
    Ok((head, declared))
}

/// Takes one member of a head, its value as JSON.
pub fn read_head_member(name: &str, value: &str, head: &mut FileHead) -> Result<(), FileError> {
    read_member(&mut Scanner::new(value.as_bytes(), START), name, head, &mut HashMap::new())
}

fn read_member<R: std::io::BufRead>(
    scanner: &mut Scanner<R>,
    name: &str,
    head: &mut FileHead,
    declared: &mut HashMap<u32, ConnectionInfo>,
) -> Result<(), FileError> {
    match name {
        "format" => {
            let format = read::<String>(scanner, name)?.unwrap_or_else(|| FORMAT.to_owned());
            if format != FORMAT {
                let reason = format!("format {format:?} is not {FORMAT:?}");
                return Err(scanner.error(FileErrorKind::Unsupported, name, reason));
            }
        }
        "version" => {
            let version = read::<f64>(scanner, name)?.unwrap_or(VERSION as f64);
            if version.trunc() != VERSION as f64 {
                let reason =
                    format!("version {version} is not supported, this program reads version {VERSION}");
                return Err(scanner.error(FileErrorKind::Unsupported, name, reason));
            }
        }
        "id" => head.id = read(scanner, name)?,
        "name" => head.name = read(scanner, name)?,
        "started_at" => {
            let text = read::<String>(scanner, name)?;
            let parsed = text.map(|text| text.parse::<Timestamp>()).transpose();
            head.started_at =
                parsed.map_err(|error| scanner.error(FileErrorKind::Invalid, name, error.to_string()))?;
        }
        "state" => head.state = read(scanner, name)?,
        "source" => head.source = read(scanner, name)?,
        "tool_version" => head.tool_version = read(scanner, name)?,
        "seed" => head.seed = read(scanner, name)?,
        "gaps" => head.gaps = read::<u64>(scanner, name)?.unwrap_or_default(),
        "edits" => head.edits = read::<Vec<String>>(scanner, name)?.unwrap_or_default(),
        "topics" => head.topics = read::<Vec<String>>(scanner, name)?.unwrap_or_default(),
        "connections" => {
            for one in read::<Vec<Declared>>(scanner, name)?.unwrap_or_default() {
                declared.insert(one.conn, one.info());
            }
        }
        _ => {
            scanner.value(None, name)?;
        }
    }
    Ok(())
}

/// Reads the value of member `name`; `None` for null.
fn read<T: DeserializeOwned>(
    scanner: &mut Scanner<impl std::io::BufRead>,
    name: &str,
) -> Result<Option<T>, FileError> {
    let mut text = Vec::new();
    let start = scanner.value(Some(&mut text), name)?;
    parse(&text, start, name)
}

/// The events of a file in order; memory does not grow with their number. Ends after the first
/// error.
pub struct JsonEvents<R> {
    scanner: Scanner<BufReader<R>>,
    list: List,
    index: u64,
    entries: u64,
    goes_on: bool,
    failed: bool,
    text: Vec<u8>,
    elements: Elements,
}

impl<R: Read + Seek> JsonEvents<R> {
    fn new(
        mut input: R,
        list: List,
        declared: HashMap<u32, ConnectionInfo>,
        entries: u64,
    ) -> Result<Self, FileError> {
        let sought = input.seek(SeekFrom::Start(list.start.offset));
        let scanner = Scanner::new(BufReader::new(input), list.start);
        sought.map_err(|error| scanner.error(FileErrorKind::Io, list.name, error.to_string()))?;
        let goes_on = entries > 0;
        let elements = Elements::new(declared);
        Ok(Self { scanner, list, index: 0, entries, goes_on, failed: false, text: Vec::new(), elements })
    }

    fn advance(&mut self) -> Result<Option<Event>, FileError> {
        loop {
            if let Some(event) = self.elements.next_ready() {
                return Ok(Some(event));
            }
            if !self.goes_on {
                return Ok(None);
            }
            let path = format!("{}[{}]", self.list.name, self.index);
            self.text.clear();
            let start = self.scanner.value(Some(&mut self.text), &path)?;
            self.elements.add(self.list.shape, &self.text, start, &path)?;
            self.index += 1;
            self.goes_on = self.index < self.entries && self.scanner.goes_on(b']', &path)?;
        }
    }
}

impl<R: Read + Seek> Iterator for JsonEvents<R> {
    type Item = Result<Event, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}

impl Declared {
    fn info(self) -> ConnectionInfo {
        ConnectionInfo {
            already_open: true,
            client_identifier: self.client_id,
            protocol: self.protocol.and_then(ProtocolVersion::from_level),
            peer: self.peer,
            ..ConnectionInfo::default()
        }
    }
}
