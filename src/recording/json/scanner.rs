//! Finding values in a JSON file without holding the file.
//!
//! Only the outer two levels are taken apart here; a value's text is handed to serde_json. What is
//! skipped is not checked beyond its brackets and strings.

use std::io::{BufRead, ErrorKind};

use crate::recording::{FileError, FileErrorKind, FilePlace};

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In bytes, from 0.
    pub offset: u64,
    /// From 1.
    pub line: u64,
    /// In bytes, from 1.
    pub column: u64,
}

/// Bytes of one value that is kept: the largest packet there is, in base64, and more.
const VALUE_MAX: usize = 512 << 20;

pub const START: Place = Place { offset: 0, line: 1, column: 1 };

/// Reads JSON forwards, knowing where it is.
pub struct Scanner<R> {
    input: R,
    place: Place,
}

impl<R: BufRead> Scanner<R> {
    /// `input` stands at `place` of the file.
    pub fn new(input: R, place: Place) -> Self {
        Self { input, place }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    pub fn error(&self, kind: FileErrorKind, path: &str, reason: impl Into<String>) -> FileError {
        let Place { line, column, .. } = self.place;
        let place = FilePlace::Line { line, column };
        FileError { kind, place, path: path.to_owned(), reason: reason.into() }
    }

    /// Goes past the mark that some editors put at the beginning of text.
    pub fn skip_byte_order_mark(&mut self, path: &str) -> Result<(), FileError> {
        for byte in [0xEF, 0xBB, 0xBF] {
            if self.look(path)? != Some(byte) {
                break;
            }
            self.step(byte);
        }
        Ok(())
    }

    /// The next byte that is not white space; `None` at the end of the file.
    pub fn peek(&mut self, path: &str) -> Result<Option<u8>, FileError> {
        while let Some(byte) = self.look(path)? {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(Some(byte));
            }
            self.step(byte);
        }
        Ok(None)
    }

    /// Takes `wanted`, after white space.
    pub fn expect(&mut self, wanted: u8, path: &str) -> Result<(), FileError> {
        match self.peek(path)? {
            Some(found) if found == wanted => {
                self.step(found);
                Ok(())
            }
            Some(found) => {
                let reason = format!("expected '{}', found {}", char::from(wanted), shown(found));
                Err(self.error(FileErrorKind::Invalid, path, reason))
            }
            None => Err(self.truncated(path)),
        }
    }

    /// Behind an element or member: `true` when another one follows, `false` when `end` was taken.
    pub fn goes_on(&mut self, end: u8, path: &str) -> Result<bool, FileError> {
        match self.peek(path)? {
            Some(b',') => {
                self.step(b',');
                Ok(true)
            }
            _ => self.expect(end, path).map(|()| false),
        }
    }

    /// Takes `byte` if it is next.
    pub fn accept(&mut self, byte: u8, path: &str) -> Result<bool, FileError> {
        let is_next = self.peek(path)? == Some(byte);
        if is_next {
            self.step(byte);
        }
        Ok(is_next)
    }

    /// A member's name with its colon.
    pub fn name(&mut self, path: &str) -> Result<String, FileError> {
        let mut text = Vec::new();
        if self.peek(path)? != Some(b'"') {
            self.expect(b'"', path)?;
        }
        self.string(Some(&mut text), path)?;
        let name = serde_json::from_slice(&text)
            .map_err(|error| self.error(FileErrorKind::Invalid, path, error.to_string()))?;
        self.expect(b':', path)?;
        Ok(name)
    }

    /// Goes past one value, appending its text to `text`; says where it began.
    pub fn value(&mut self, mut text: Option<&mut Vec<u8>>, path: &str) -> Result<Place, FileError> {
        let Some(first) = self.peek(path)? else { return Err(self.truncated(path)) };
        let start = self.place;
        match first {
            b'"' => self.string(text, path)?,
            b'{' | b'[' => {
                let mut open = 0_u64;
                loop {
                    let Some(byte) = self.look(path)? else { return Err(self.truncated(path)) };
                    match byte {
                        b'"' => {
                            self.string(text.as_deref_mut(), path)?;
                            continue;
                        }
                        b'{' | b'[' => open += 1,
                        b'}' | b']' => open -= 1,
                        _ => {}
                    }
                    self.take(byte, text.as_deref_mut(), path)?;
                    if open == 0 {
                        break;
                    }
                }
            }
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                while let Some(byte) = self.look(path)? {
                    if matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n') {
                        break;
                    }
                    self.take(byte, text.as_deref_mut(), path)?;
                }
            }
            other => {
                let reason = format!("expected a value, found {}", shown(other));
                return Err(self.error(FileErrorKind::Invalid, path, reason));
            }
        }
        Ok(start)
    }

    fn string(&mut self, mut text: Option<&mut Vec<u8>>, path: &str) -> Result<(), FileError> {
        let mut is_first = true;
        let mut escaped = false;
        loop {
            let Some(byte) = self.look(path)? else { return Err(self.truncated(path)) };
            self.take(byte, text.as_deref_mut(), path)?;
            if byte == b'"' && !is_first && !escaped {
                return Ok(());
            }
            escaped = byte == b'\\' && !escaped;
            is_first = false;
        }
    }

    fn look(&mut self, path: &str) -> Result<Option<u8>, FileError> {
        loop {
            match self.input.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let reason = error.to_string();
                    return Err(self.error(FileErrorKind::Io, path, reason));
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

    /// As [`step`](Self::step), into `text`.
    fn take(&mut self, byte: u8, text: Option<&mut Vec<u8>>, path: &str) -> Result<(), FileError> {
        self.step(byte);
        if let Some(text) = text {
            if text.len() == VALUE_MAX {
                let reason = format!("a value is longer than {} MiB", VALUE_MAX >> 20);
                return Err(self.error(FileErrorKind::Invalid, path, reason));
            }
            text.push(byte);
        }
        Ok(())
    }

    fn truncated(&self, path: &str) -> FileError {
        self.error(FileErrorKind::Truncated, path, "the file ends here, in the middle")
    }
}

fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("'{}'", char::from(byte)) } else { format!("byte {byte:#04x}") }
}
