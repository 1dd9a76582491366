//! Reading messages from CSV.

use std::io::{BufReader, Read, Seek};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{BASE64, COLUMNS, rows::Rows};
use crate::{
    packet::{Properties, Publish, QoS, TopicName},
    recording::{
        Direction, Event, FileError, FileErrorKind, FileHead, FilePlace,
        assembly::{Assembly, Message},
        moment::{Moment, Timeline},
    },
};

/// A CSV file that was gone through once, so that it is known to be whole.
#[derive(Debug)]
pub struct CsvReader<R> {
    input: R,
    head: FileHead,
    columns: Columns,
}

/// Where in a row stands what.
#[derive(Clone, Debug)]
struct Columns {
    /// As [`COLUMNS`]; `None` for one that is not there.
    at: [Option<usize>; 5],
    /// Fields of every row.
    len: usize,
    has_header: bool,
    /// Names of columns that mean nothing.
    unknown: Vec<String>,
}

/// Columns without which there is no message.
const REQUIRED: usize = 3;
/// Names that recorders give the columns besides ours.
const ALIASES: [(&str, usize); 8] = [
    ("time", 0),
    ("ts", 0),
    ("tst", 0),
    ("datetime", 0),
    ("message", 2),
    ("data", 2),
    ("value", 2),
    ("retained", 4),
];

impl Columns {
    fn of(rows: &Rows<impl std::io::BufRead>) -> Result<Self, FileError> {
        let names: Vec<_> = (0..rows.len()).filter_map(|index| rows.get(index)).map(name).collect();
        let has_header = names.iter().any(|name| name == COLUMNS[1]);
        if !has_header {
            let len = rows.len();
            if !(REQUIRED..=COLUMNS.len()).contains(&len) {
                let reason = format!("{len} fields; a row has {} to {}", REQUIRED, COLUMNS.len());
                let order = COLUMNS.join(",");
                return Err(rows.invalid(
                    0,
                    "",
                    format!("{reason}: {order}, and a payload with commas is quoted"),
                ));
            }
            let at = std::array::from_fn(|index| Some(index).filter(|index| *index < len));
            return Ok(Self { at, len, has_header, unknown: Vec::new() });
        }
        let mut columns = Self { at: [None; 5], len: names.len(), has_header, unknown: Vec::new() };
        for (index, name) in names.into_iter().enumerate() {
            let ours = COLUMNS.iter().position(|column| *column == name);
            let alias = || ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, column)| *column);
            match ours.or_else(alias) {
                Some(column) if columns.at[column].is_some() => {
                    let reason = format!("there are two columns for the {}", COLUMNS[column]);
                    return Err(rows.invalid(index, "", reason));
                }
                Some(column) => columns.at[column] = Some(index),
                None => columns.unknown.push(name),
            }
        }
        match columns.at[..REQUIRED].iter().position(Option::is_none) {
            Some(missing) => {
                Err(rows.invalid(0, "", format!("the header has no column {:?}", COLUMNS[missing])))
            }
            None => Ok(columns),
        }
    }
}

fn name(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim().to_ascii_lowercase()
}

impl<R: Read + Seek> CsvReader<R> {
    /// Goes through the file, which begins where `input` does.
    ///
    /// # Errors
    /// [`FileError`] for a file whose rows are not alike or do not end. What stands in them is looked
    /// at when the events are read.
    pub fn open(mut input: R) -> Result<Self, FileError> {
        input.rewind().map_err(FileError::io)?;
        let mut rows = Rows::new(BufReader::new(&mut input));
        if !rows.advance()? {
            return Err(FileError {
                kind: FileErrorKind::Truncated,
                place: FilePlace::Unknown,
                path: String::new(),
                reason: "the file has no rows".to_owned(),
            });
        }
        let columns = Columns::of(&rows)?;
        let mut head = FileHead::default();
        let mut goes_on = !columns.has_header || rows.advance()?;
        while goes_on {
            if rows.len() != columns.len {
                let reason = format!(
                    "{} fields, the first row has {}; a payload with commas is quoted",
                    rows.len(),
                    columns.len
                );
                return Err(rows.invalid(0, "", reason));
            }
            if head.entries == 0 {
                head.started_at = Timeline::started_at(moment(&rows, &columns)?);
            }
            head.entries += 1;
            goes_on = rows.advance()?;
        }
        drop(rows);
        Ok(Self { input, head, columns })
    }

    pub fn head(&self) -> &FileHead {
        &self.head
    }

    /// The events, with the file.
    ///
    /// # Errors
    /// [`FileError`] if the file can no longer be read.
    pub fn into_events(self) -> Result<CsvEvents<R>, FileError> {
        let Self { mut input, head, columns } = self;
        input.rewind().map_err(FileError::io)?;
        let mut rows = Rows::new(BufReader::new(input));
        if columns.has_header {
            rows.advance()?;
        }
        let (assembly, timeline) = (Assembly::default(), Timeline::default());
        Ok(CsvEvents { rows, columns, left: head.entries, failed: false, assembly, timeline })
    }
}

/// The events of a file in order: its messages, and the connection they came over. Ends after the
/// first error.
pub struct CsvEvents<R> {
    rows: Rows<BufReader<R>>,
    columns: Columns,
    /// Rows that are still to be read.
    left: u64,
    failed: bool,
    assembly: Assembly,
    timeline: Timeline,
}

impl<R: Read + Seek> CsvEvents<R> {
    /// What was not taken or had to be assumed; complete once the events are.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.columns.unknown.is_empty() {
            let names: Vec<_> = self.columns.unknown.iter().map(|name| format!("{name:?}")).collect();
            notes.push(format!("columns that mean nothing here were left out: {}", names.join(", ")));
        }
        notes.extend(self.timeline.notes());
        notes
    }

    fn advance(&mut self) -> Result<Option<Event>, FileError> {
        loop {
            let ready = self.assembly.next_ready();
            if ready.is_some() || self.left == 0 {
                return Ok(ready);
            }
            self.left -= 1;
            if !self.rows.advance()? || self.rows.len() != self.columns.len {
                return Err(self.rows.invalid(0, "", "the file was changed while it was read"));
            }
            self.add()?;
        }
    }

    fn add(&mut self) -> Result<(), FileError> {
        let (rows, columns) = (&self.rows, &self.columns);
        let field = |column: usize| columns.at[column].and_then(|index| rows.get(index)).unwrap_or_default();
        let bad = |column: usize, reason: String| {
            rows.invalid(columns.at[column].unwrap_or_default(), COLUMNS[column], reason)
        };
        let at = self.timeline.at(moment(rows, columns)?).map_err(|reason| bad(0, reason))?;
        let topic = std::str::from_utf8(field(1)).map_err(|_| bad(1, "it is no UTF-8".to_owned()))?;
        let publish = Publish {
            dup: false,
            qos: qos(field(3)).map_err(|reason| bad(3, reason))?,
            retain: flag(field(4)).map_err(|reason| bad(4, reason))?,
            topic: Some(TopicName::parse(topic).map_err(|error| bad(1, error.to_string()))?),
            packet_identifier: None,
            properties: Properties::new(),
            payload: payload(field(2)).map_err(|reason| bad(2, reason))?.into(),
        };
        let direction = Direction::ClientToServer;
        let message = Message { client_identifier: None, protocol: None, direction, publish };
        self.assembly.push_message(at, message).map_err(|(_, reason)| bad(1, reason))
    }
}

impl<R: Read + Seek> Iterator for CsvEvents<R> {
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

fn moment(rows: &Rows<impl std::io::BufRead>, columns: &Columns) -> Result<Moment, FileError> {
    let index = columns.at[0].unwrap_or_default();
    let text = String::from_utf8_lossy(rows.get(index).unwrap_or_default());
    Moment::parse(&text).map_err(|reason| rows.invalid(index, COLUMNS[0], reason))
}

fn qos(field: &[u8]) -> Result<QoS, String> {
    match field.trim_ascii() {
        b"" | b"0" => Ok(QoS::AtMostOnce),
        b"1" => Ok(QoS::AtLeastOnce),
        b"2" => Ok(QoS::ExactlyOnce),
        other => Err(format!("{} is not 0, 1 or 2", shown(other))),
    }
}

fn flag(field: &[u8]) -> Result<bool, String> {
    match field.trim_ascii().to_ascii_lowercase().as_slice() {
        b"" | b"0" | b"false" => Ok(false),
        b"1" | b"true" => Ok(true),
        other => Err(format!("{} is not true or false", shown(other))),
    }
}

/// Bytes as they stand there, whatever they are, unless they say that they are base64.
fn payload(field: &[u8]) -> Result<Vec<u8>, String> {
    match field.strip_prefix(BASE64.as_bytes()) {
        Some(encoded) => {
            BASE64_STANDARD.decode(encoded).map_err(|error| format!("behind {BASE64:?}: {error}"))
        }
        None => Ok(field.to_vec()),
    }
}

fn shown(field: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(field).chars().take(40).collect();
    format!("{text:?}")
}
