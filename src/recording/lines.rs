//! The lines of a text file, without holding the file.

use std::io::{BufRead, ErrorKind, Read};

use super::{
    FileError, FileErrorKind, FilePlace,
    json::{Place, START},
};

/// Bytes of a line: the largest packet there is, in base64, and more.
const LINE_MAX: usize = 512 << 20;

/// Reads lines forwards, knowing where it is.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    /// Of the line that was read last, and of the next one.
    place: Place,
    next: Place,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// `input` stands at the beginning of the file.
    pub fn new(input: R) -> Self {
        Self { input, place: START, next: START, line: Vec::new() }
    }

    /// Takes the next line, white space and byte order mark removed, that is not empty; `false` at
    /// the end of the file.
    pub fn advance(&mut self) -> Result<bool, FileError> {
        loop {
            self.place = self.next;
            self.line.clear();
            let mut limited = (&mut self.input).take(LINE_MAX as u64);
            let read = loop {
                match limited.read_until(b'\n', &mut self.line) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            let len = read.map_err(|error| self.error(FileErrorKind::Io, error.to_string()))?;
            if len == 0 {
                return Ok(false);
            }
            if len == LINE_MAX && self.line.last() != Some(&b'\n') {
                let reason = format!("a line is longer than {} MiB", LINE_MAX >> 20);
                return Err(self.error(FileErrorKind::Invalid, reason));
            }
            self.next.offset += len as u64;
            self.next.line += 1;
            if !self.text().is_empty() {
                return Ok(true);
            }
        }
    }

    /// The line, without white space around it.
    pub fn text(&self) -> &[u8] {
        let line = match self.place.offset {
            0 => self.line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.line),
            _ => &self.line,
        };
        line.trim_ascii()
    }

    /// Where the text begins.
    pub fn place(&self) -> Place {
        let before = self.line.len() - self.line.trim_ascii_start().len();
        let before = before as u64;
        Place { offset: self.place.offset + before, column: self.place.column + before, ..self.place }
    }

    /// Whether the line ends as lines do.
    pub fn is_ended(&self) -> bool {
        self.line.last() == Some(&b'\n')
    }

    pub fn error(&self, kind: FileErrorKind, reason: impl Into<String>) -> FileError {
        let Place { line, column, .. } = self.place();
        let place = FilePlace::Line { line, column };
        FileError { kind, place, path: String::new(), reason: reason.into() }
    }
}
