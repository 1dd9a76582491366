//! What commands print on standard output: text for people, JSON for programs.

use std::{
    io::{self, Write},
    path::Path,
    sync::LazyLock,
};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize;
use serde_json::value::RawValue;

use super::file::{is_standard_output, named};
pub use crate::amount::counted as count;
use crate::{control::pb, gateway};

/// What `-o` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// # Errors
/// What was expected, and what else may have been meant.
pub fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        file if file.contains(['.', '/']) || is_standard_output(Path::new(file)) => {
            Err(format!("expected text or json; the file to write is --output {file}"))
        }
        _ => Err("expected text or json".to_owned()),
    }
}

/// Prints `text` and a line's end.
///
/// # Errors
/// If standard output can't be written to, or is closed.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut write = || {
        stdout.write_all(text.as_ref().as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    };
    write().map_err(|error| named(Path::new("-"), error))
}

/// A line of text or JSON about the file at `path`: on standard error where the file itself goes to standard output.
pub fn line_beside(path: &Path, text: impl AsRef<str>) -> io::Result<()> {
    match is_standard_output(path) {
        true => writeln!(io::stderr(), "{}", text.as_ref()),
        false => line(text),
    }
}

/// What to say when a file of `bytes` is written.
pub fn wrote(path: &Path, size: u64) -> String {
    match is_standard_output(path) {
        true => format!("wrote {} to standard output", bytes(size)),
        false => format!("wrote {} ({})", path.display(), bytes(size)),
    }
}

/// Whether a person watches standard error; progress is drawn there.
pub fn is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}

/// `message`, of the contract's type `name`, in the JSON that REST speaks.
pub fn json(name: &str, message: &impl Message) -> Box<RawValue> {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(pb::DESCRIPTORS).expect("the build made it"));
    let descriptor = POOL
        .get_message_by_name(&format!("mockforge.mqtt.v1.{name}"))
        .expect("commands name types of the contract");
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("it was encoded from the same contract");
    RawValue::from_string(gateway::json::write(&message)).expect("the gateway writes JSON")
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// If standard output is closed.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_string(value)?)
}

/// Columns as wide as their widest cell, two spaces between; the first row is the heading. What clients chose may hold
/// anything, so control characters are escaped and long cells cut.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The widest cell, in characters.
const CELL_MAX: usize = 160;

/// Text that clients chose, fit for one line of a terminal.
pub fn cell(cell: &str) -> String {
    let mut text = String::with_capacity(cell.len().min(CELL_MAX));
    for (count, letter) in cell.chars().enumerate() {
        if count == CELL_MAX {
            text.push('…');
            break;
        }
        match letter.is_control() {
            true => text.extend(letter.escape_default()),
            false => text.push(letter),
        }
    }
    text
}

/// `812 B`, `56.2 KiB`.
pub fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

/// RFC 3339 in UTC, to the second; `-` without a time.
pub fn time(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(|time| jiff::Timestamp::new(time.seconds, 0).ok())
        .map_or_else(|| "-".to_owned(), |time| time.to_string())
}

/// The same to the millisecond.
pub fn time_ms(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok())
        .map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
}

/// The name of a value of an enum of the contract without its type's prefix, in lower case:
/// `RECORDING_STATE_COMPLETE` is `complete`.
pub fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_spaces() {
        let rows = [["ID", "NAME"], ["1", "orders"], ["12", ""]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|&c| c.to_owned()).collect()).collect();
        assert_eq!(table(&rows), "ID  NAME\n1   orders\n12");
    }

    #[test]
    fn what_clients_chose_breaks_no_table_and_no_terminal() {
        let rows = vec![vec!["a\nb\x1b[31m".to_owned(), "x".repeat(1_000)]];
        assert_eq!(table(&rows), format!("a\\nb\\u{{1b}}[31m  {}…", "x".repeat(CELL_MAX)));
    }

    #[test]
    fn json_has_the_protos_field_names_and_numbers() {
        let recording = pb::Recording { id: "01J".into(), events: u64::MAX, ..Default::default() };
        let value: serde_json::Value = serde_json::from_str(json("Recording", &recording).get()).unwrap();
        assert_eq!(value["events"], u64::MAX);
        assert_eq!(value["state"], "RECORDING_STATE_UNSPECIFIED");
        assert_eq!(value["tool_version"], "");
    }

    #[test]
    fn sizes_are_shown_with_a_fitting_unit() {
        assert_eq!([bytes(812), bytes(57_550), bytes(1 << 20)], ["812 B", "56.2 KiB", "1.0 MiB"]);
    }
}
