//! The pcapng format of recordings, and captures of real traffic.
//!
//! [`PcapWriter`] makes up Ethernet, IP and TCP around the bytes of a recording, so that Wireshark and
//! everything that reads its files shows them: a handshake where a connection was opened, segments with
//! valid checksums, FIN or RST as it ended. The server's port is always 1883, by which dissectors know
//! MQTT, also where the traffic had been encrypted. What is no traffic (marks, faults, gaps and so on) is
//! a datagram that reads as syslog. The event itself, as JSON, is the comment of its packet; what is known
//! of the recording is the comment of the file. So [`PcapReader`] gives back what was written.
//!
//! A real capture is read as `capture` (the file), [`segment`] (link layer, IP and TCP headers),
//! [`stream`] (one direction of a TCP connection put in order), [`cutter`] (its MQTT packets) and
//! [`conversations`] (all connections). What had to be left out or assumed is counted in [`notes`].

mod capture;
mod conversations;
mod cutter;
mod frame;
mod notes;
mod read;
mod segment;
mod stream;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    read::{PcapEvents, PcapOptions, PcapReader},
    write::PcapWriter,
};

/// By which dissectors know MQTT that is not encrypted.
const MQTT_PORT: u16 = 1883;
/// Where syslog is sent.
const SYSLOG_PORT: u16 = 514;
/// The comment of a segment whose bytes were recorded as no packets.
const RAW: &str = "RAW: bytes that are no packet";
