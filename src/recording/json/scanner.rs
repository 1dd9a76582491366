//! Finding values in a JSON file without holding the file.
//!
//! Only the outer two levels are taken apart here; a value's text is handed to serde_json. What is
//! skipped is not checked beyond its brackets and strings.

use std::io::{BufRead, ErrorKind};

use super::{JsonError, JsonErrorKind};

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

    pub fn error(&self, kind: JsonErrorKind, path: &str, reason: impl Into<String>) -> JsonError {
        let Place { line, column, .. } = self.place;
        JsonError { kind, line, column, path: path.to_owned(), reason: reason.into() }
    }

    /// The next byte that is not white space; `None` at the end of the file.
    pub fn peek(&mut self, path: &str) -> Result<Option<u8>, JsonError> {
        while let Some(byte) = self.look(path)? {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(Some(byte));
            }
            self.step(byte);
        }
        Ok(None)
    }

    /// Takes `wanted`, after white space.
    pub fn expect(&mut self, wanted: u8, path: &str) -> Result<(), JsonError> {
        match self.peek(path)? {
            Some(found) if found == wanted => {
                self.step(found);
                Ok(())
            }
            Some(found) => {
                let reason = format!("expected '{}', found {}", char::from(wanted), shown(found));
                Err(self.error(JsonErrorKind::Invalid, path, reason))
            }
            None => Err(self.truncated(path)),
        }
    }

    /// Behind an element or member: `true` when another one follows, `false` when `end` was taken.
    pub fn goes_on(&mut self, end: u8, path: &str) -> Result<bool, JsonError> {
        match self.peek(path)? {
            Some(b',') => {
                self.step(b',');
                Ok(true)
            }
            _ => self.expect(end, path).map(|()| false),
        }
    }

    /// Takes `byte` if it is next.
    pub fn accept(&mut self, byte: u8, path: &str) -> Result<bool, JsonError> {
        let is_next = self.peek(path)? == Some(byte);
        if is_next {
            self.step(byte);
        }
        Ok(is_next)
    }

    /// A member's name with its colon.
    pub fn name(&mut self, path: &str) -> Result<String, JsonError> {
        let mut text = Vec::new();
        if self.peek(path)? != Some(b'"') {
            self.expect(b'"', path)?;
        }
        self.string(Some(&mut text), path)?;
        let name = serde_json::from_slice(&text)
            .map_err(|error| self.error(JsonErrorKind::Invalid, path, error.to_string()))?;
        self.expect(b':', path)?;
        Ok(name)
    }

    /// Goes past one value, appending its text to `text`; says where it began.
    pub fn value(&mut self, mut text: Option<&mut Vec<u8>>, path: &str) -> Result<Place, JsonError> {
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
                    self.step(byte);
                    if let Some(text) = text.as_deref_mut() {
                        text.push(byte);
                    }
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
                    self.step(byte);
                    if let Some(text) = text.as_deref_mut() {
                        text.push(byte);
                    }
                }
            }
            other => {
                let reason = format!("expected a value, found {}", shown(other));
                return Err(self.error(JsonErrorKind::Invalid, path, reason));
            }
        }
        Ok(start)
    }

    fn string(&mut self, mut text: Option<&mut Vec<u8>>, path: &str) -> Result<(), JsonError> {
        let mut is_first = true;
        let mut escaped = false;
        loop {
            let Some(byte) = self.look(path)? else { return Err(self.truncated(path)) };
            self.step(byte);
            if let Some(text) = text.as_deref_mut() {
                text.push(byte);
            }
            if byte == b'"' && !is_first && !escaped {
                return Ok(());
            }
            escaped = byte == b'\\' && !escaped;
            is_first = false;
        }
    }

    fn look(&mut self, path: &str) -> Result<Option<u8>, JsonError> {
        loop {
            match self.input.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let reason = error.to_string();
                    return Err(self.error(JsonErrorKind::Io, path, reason));
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

    fn truncated(&self, path: &str) -> JsonError {
        self.error(JsonErrorKind::Truncated, path, "the file ends here, in the middle")
    }
}

fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("'{}'", char::from(byte)) } else { format!("byte {byte:#04x}") }
}
