//! Which format a file has.

use std::io::{BufRead, BufReader, Read, Seek};

use super::{FileError, FileErrorKind, FilePlace, RecordingFormat};
use crate::recording::json::{START, Scanner};

/// Bytes that files which are no recordings begin with, though one may be in them.
const COMPRESSED: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
];

const MCAP: &[u8] = b"\x89MCAP0\r\n";
/// pcapng, and pcap of either byte order with micro- and nanoseconds.
const CAPTURES: [&[u8]; 5] =
    [b"\x0a\x0d\x0d\x0a", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d"];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Bytes of the first line that are looked at for a comma.
const LINE_MAX: usize = 4096;

/// The format of the file by its content, or by what its name says where the content does not tell.
///
/// # Errors
/// [`FileError`] for a file that is empty or like no format, and for compressed ones.
pub fn sniff<R: Read + Seek>(
    mut input: R,
    named: Option<RecordingFormat>,
) -> Result<RecordingFormat, FileError> {
    input.rewind().map_err(FileError::io)?;
    let mut start = Vec::with_capacity(LINE_MAX);
    input.by_ref().take(LINE_MAX as u64).read_to_end(&mut start).map_err(FileError::io)?;
    if start.is_empty() {
        return Err(error(FileErrorKind::Truncated, "the file is empty"));
    }
    if let Some((_, name)) = COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        let reason = format!("this is a {name} file: decompress it first");
        return Err(error(FileErrorKind::Unsupported, reason));
    }
    if start.starts_with(MCAP) {
        return Ok(RecordingFormat::Mcap);
    }
    if CAPTURES.iter().any(|magic| start.starts_with(magic)) {
        return Ok(RecordingFormat::Pcapng);
    }
    let text = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&start);
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {
            input.rewind().map_err(FileError::io)?;
            return of_object(BufReader::new(input), named);
        }
        Some(_) if is_row(text) => return Ok(RecordingFormat::Csv),
        _ => {}
    }
    named.ok_or_else(|| {
        let names = RecordingFormat::ALL.map(RecordingFormat::name).join(", ");
        error(FileErrorKind::Unsupported, format!("this is in none of the formats that are read: {names}"))
    })
}

fn error(kind: FileErrorKind, reason: impl Into<String>) -> FileError {
    FileError { kind, place: FilePlace::Unknown, path: String::new(), reason: reason.into() }
}

/// What one at least is in, of an object that is a line of a recording.
const OF_LINES: [&str; 10] =
    ["format", "version", "t_ms", "tst", "seq", "conn", "dir", "kind", "type", "raw"];

/// Of a file that begins with an object: JSON if that holds a list of events or messages, lines if it
/// ends without and may be one. Where it is broken before that, the name decides, so that the error is
/// one of its format.
fn of_object(input: impl BufRead, named: Option<RecordingFormat>) -> Result<RecordingFormat, FileError> {
    let look = || -> Result<Option<RecordingFormat>, FileError> {
        let mut scanner = Scanner::new(input, START);
        scanner.skip_byte_order_mark("")?;
        scanner.expect(b'{', "")?;
        let mut may_be_line = false;
        let mut goes_on = !scanner.accept(b'}', "")?;
        while goes_on {
            let name = scanner.name("")?;
            // A GAP has a number of events, a MOCK one of messages.
            if matches!(name.as_str(), "events" | "messages") && scanner.peek("")? == Some(b'[') {
                return Ok(Some(RecordingFormat::Json));
            }
            may_be_line |= OF_LINES.contains(&name.as_str());
            scanner.value(None, "")?;
            goes_on = scanner.goes_on(b'}', "")?;
        }
        Ok(may_be_line.then_some(RecordingFormat::Ndjson))
    };
    match look() {
        Ok(Some(format)) => Ok(format),
        Ok(None) => {
            let reason =
                "this is no recording: the object at its beginning has neither events, messages nor a t_ms";
            Err(error(FileErrorKind::Unsupported, reason))
        }
        Err(_) if named == Some(RecordingFormat::Ndjson) => Ok(RecordingFormat::Ndjson),
        Err(_) => Ok(RecordingFormat::Json),
    }
}

/// Whether the first line is text with a comma.
fn is_row(text: &[u8]) -> bool {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.contains(&b',') && !line.iter().any(|byte| byte.is_ascii_control() && !b"\t\r".contains(byte))
}
