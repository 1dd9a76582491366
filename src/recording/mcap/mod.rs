//! The MCAP format of recordings: compact, indexed, compressed in chunks, nothing lost.
//!
//! What an event says is the JSON that the JSON format has on its line, so `mcap cat --json` prints
//! it and every tool that shows JSON can plot a payload. As there, `raw` (base64) rides in it where
//! the spelt-out fields would not give the packet's bytes, and only there: the text is compressed,
//! and bytes that stood beside it in base64 would not be.
//!
//! - The header's profile is `x-mockforge-mqtt`, and what is known of the recording is the metadata
//!   record `mockforge.mqtt.session`: the members that head the JSON format. Those that are texts
//!   stand as they are, the others as JSON.
//! - All channels have the schema `mockforge.mqtt.Event`. `c2s/TOPIC` and `s2c/TOPIC` are what
//!   clients published and what they were sent on a topic, for as many topics as may have channels
//!   of their own; `packets` is every other packet and RAW, `events` everything else.
//! - Log and publish time are the recording's start and the offset; the sequence is `seq`. The order
//!   in the file is the order of events.
//! - Everything has a CRC-32, so a flipped bit is an error that names its place.
//!
//! Files of other programs are taken as far as their channels have that schema; so what other tools
//! filter, sort or merge can be read again.

mod read;
mod record;
mod walk;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    read::{McapEvents, McapReader},
    write::McapWriter,
};

/// First and last in every file; the `0` is the format's major version.
const MAGIC: [u8; 8] = *b"\x89MCAP0\r\n";
const PROFILE: &str = "x-mockforge-mqtt";
const SCHEMA_NAME: &str = "mockforge.mqtt.Event";
const MESSAGE_ENCODING: &str = "json";
const LZ4: &str = "lz4";
