//! The CSV format: `timestamp,topic,payload,qos,retain`, a row a message.
//!
//! What the common recorders of MQTT write and spreadsheets read. There are no connections, no
//! acknowledgements and no properties in it, so it is the one format that keeps the messages alone.
//! A payload that is no text, or would be taken for something else, is written `base64:…`.

mod read;
mod rows;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    read::{CsvEvents, CsvReader},
    write::CsvWriter,
};

/// The columns, in the order that holds without a header.
const COLUMNS: [&str; 5] = ["timestamp", "topic", "payload", "qos", "retain"];
/// What stands before a payload in base64.
const BASE64: &str = "base64:";
