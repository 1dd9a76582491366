//! The rows of a CSV file (RFC 4180), without holding the file.

use std::{
    io::{BufRead, ErrorKind},
    ops::Range,
};

use crate::recording::{
    FileError, FileErrorKind, FilePlace,
    json::{Place, START},
};

/// Bytes of a row: the largest packet there is, in base64, and more.
const ROW_MAX: usize = 512 << 20;
/// Fields of a row. More are no messages, and each takes memory.
const FIELDS_MAX: usize = 1000;

/// Reads rows forwards, knowing where it is.
#[derive(Debug)]
pub struct Rows<R> {
    input: R,
    place: Place,
    /// The fields' bytes, one after the other.
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    range: Range<usize>,
    start: Place,
}

impl<R: BufRead> Rows<R> {
    /// `input` stands at the beginning of the file.
    pub fn new(input: R) -> Self {
        Self { input, place: START, bytes: Vec::new(), fields: Vec::new() }
    }

    /// Takes the next row that is not empty; `false` at the end of the file.
    pub fn advance(&mut self) -> Result<bool, FileError> {
        if self.place == START {
            for byte in [0xEF, 0xBB, 0xBF] {
                if self.look()? != Some(byte) {
                    break;
                }
                self.step(byte);
            }
        }
        while self.look()?.is_some() {
            self.row()?;
            if self.fields.len() > 1 || !self.bytes.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn row(&mut self) -> Result<(), FileError> {
        self.bytes.clear();
        self.fields.clear();
        loop {
            let (start, from) = (self.place, self.bytes.len());
            if self.fields.len() == FIELDS_MAX {
                return Err(self.error(FileErrorKind::Invalid, self.place, "", "too many fields"));
            }
            if self.look()? == Some(b'"') {
                self.quoted(start)?
            } else {
                self.bare()?
            }
            self.fields.push(Field { range: from..self.bytes.len(), start });
            match self.look()? {
                Some(b',') => self.step(b','),
                Some(end) => {
                    self.step(end);
                    if end == b'\r' && self.look()? == Some(b'\n') {
                        self.step(b'\n');
                    }
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    }

    /// A field up to its comma or the end of the line.
    fn bare(&mut self) -> Result<(), FileError> {
        while let Some(byte) = self.look()? {
            if matches!(byte, b',' | b'\n' | b'\r') {
                return Ok(());
            }
            self.take(byte)?;
        }
        Ok(())
    }

    /// A field in quotes, of which those inside are doubled.
    fn quoted(&mut self, start: Place) -> Result<(), FileError> {
        self.step(b'"');
        loop {
            let Some(byte) = self.look()? else {
                let reason = "the file ends in a quoted field that begins here";
                return Err(self.error(FileErrorKind::Truncated, start, "", reason));
            };
            if byte != b'"' {
                self.take(byte)?;
                continue;
            }
            self.step(byte);
            match self.look()? {
                Some(b'"') => self.take(b'"')?,
                Some(b',' | b'\n' | b'\r') | None => return Ok(()),
                Some(_) => {
                    let reason =
                        "something stands behind the quote that ends a field; quotes inside are doubled";
                    return Err(self.error(FileErrorKind::Invalid, self.place, "", reason));
                }
            }
        }
    }

    /// Fields of the row.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// The bytes of a field; `None` if the row has no such field.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.fields.get(index).map(|field| &self.bytes[field.range.clone()])
    }

    /// What is wrong with a field, which errors call `name`; the row as a whole if it has no such
    /// field.
    pub fn invalid(&self, index: usize, name: &str, reason: impl Into<String>) -> FileError {
        let field = self.fields.get(index).or(self.fields.first());
        let start = field.map_or(self.place, |field| field.start);
        self.error(FileErrorKind::Invalid, start, name, reason)
    }

    fn error(&self, kind: FileErrorKind, at: Place, path: &str, reason: impl Into<String>) -> FileError {
        let place = FilePlace::Line { line: at.line, column: at.column };
        FileError { kind, place, path: path.to_owned(), reason: reason.into() }
    }

    fn take(&mut self, byte: u8) -> Result<(), FileError> {
        if self.bytes.len() == ROW_MAX {
            let reason = format!("a row is longer than {} MiB", ROW_MAX >> 20);
            return Err(self.error(FileErrorKind::Invalid, self.place, "", reason));
        }
        self.bytes.push(byte);
        self.step(byte);
        Ok(())
    }

    fn look(&mut self) -> Result<Option<u8>, FileError> {
        loop {
            match self.input.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let reason = error.to_string();
                    return Err(self.error(FileErrorKind::Io, self.place, "", reason));
                }
            }
        }
    }

    /// Takes the byte that [`look`](Self::look) has shown.
    fn step(&mut self, byte: u8) {
        self.input.consume(1);
        self.place.offset += 1;
        self.place.column += 1;
        if byte == b'\n' {
            self.place.line += 1;
            self.place.column = 1;
        }
    }
}
