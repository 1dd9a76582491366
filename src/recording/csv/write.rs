//! Writing messages as CSV.

use std::{
    io::{self, Write},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};

use super::{BASE64, COLUMNS};
use crate::{
    amount::counted,
    packet::{ControlPacket, Publish, TopicName},
    recording::{Connections, Direction, Event, EventKind, LongPacket, LongPackets, RecordingInfo},
};

/// Writes the messages of recordings: what clients published, of a subscriber's recording what it was
/// delivered. Memory grows with the number of open connections.
pub struct CsvWriter<W> {
    out: W,
    lost: Lost,
}

/// What has no place in the file.
#[derive(Default)]
struct Lost {
    /// Messages whose topic is not known.
    nameless: u64,
    /// Messages that are in pieces.
    in_pieces: u64,
    repeated: u64,
    with_properties: u64,
    packets: u64,
    others: u64,
    clients: u64,
}

impl<W: Write> CsvWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, lost: Lost::default() }
    }

    /// Writes the whole file, and answers what is not in it; `events` is called once.
    ///
    /// # Errors
    /// Those of the events, or of the writer as one.
    pub fn write<I, E>(
        mut self,
        info: &RecordingInfo,
        mut events: impl FnMut() -> Result<I, E>,
    ) -> Result<(W, Vec<String>), E>
    where
        I: Iterator<Item = Result<Event, E>>,
        E: From<io::Error>,
    {
        writeln!(self.out, "{}", COLUMNS.join(","))?;
        let of_messages = match info.source.is_subscriber() {
            true => Direction::ServerToClient,
            false => Direction::ClientToServer,
        };
        let mut connections = Connections::new();
        let mut long = LongPackets::default();
        let mut row = Vec::new();
        for event in events()? {
            let event = event?;
            let seen = connections.follow(&event);
            let is_up = || connections.get(event.connection).is_some_and(|one| one.protocol.is_some());
            if let Some(packet) = long.follow(&event, is_up) {
                self.lost.count_piece(packet.is_message(of_messages), &packet);
                continue;
            }
            match &event.kind {
                EventKind::Packet { direction, .. } => match seen.map(|seen| (seen.packet, seen.topic)) {
                    Some((Ok(ControlPacket::Publish(publish)), topic)) if *direction == of_messages => {
                        if let Some(topic) = topic {
                            self.lost.count(&publish);
                            write_row(wall(info.started_at, event.at), &topic, &publish, &mut row);
                            self.out.write_all(&row)?;
                            row.clear();
                        } else {
                            self.lost.nameless += 1;
                        }
                    }
                    _ => self.lost.packets += 1,
                },
                EventKind::Open(_) => self.lost.clients += 1,
                EventKind::Close(_) => connections.forget_client(event.connection),
                _ => self.lost.others += 1,
            }
        }
        self.out.flush()?;
        Ok((self.out, self.lost.notes()))
    }
}

/// What the wall clock said, had nobody set it since the beginning.
fn wall(started_at: Timestamp, at: Duration) -> Timestamp {
    let at = SignedDuration::try_from(at).unwrap_or(SignedDuration::MAX);
    started_at.checked_add(at).unwrap_or(Timestamp::MAX)
}

fn write_row(at: Timestamp, topic: &TopicName, publish: &Publish, row: &mut Vec<u8>) {
    row.extend_from_slice(at.to_string().as_bytes());
    row.push(b',');
    write_field(topic.as_str(), row);
    row.push(b',');
    match std::str::from_utf8(&publish.payload) {
        Ok(text) if is_plain(text) => write_field(text, row),
        _ => {
            row.extend_from_slice(BASE64.as_bytes());
            row.extend_from_slice(BASE64_STANDARD.encode(&publish.payload).as_bytes());
        }
    }
    row.extend_from_slice(format!(",{},{}\n", publish.qos as u8, publish.retain).as_bytes());
}

/// Whether text survives the tools that CSV passes through, and is not taken for base64.
fn is_plain(text: &str) -> bool {
    !text.starts_with(BASE64) && !text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

fn write_field(text: &str, row: &mut Vec<u8>) {
    let needs_quotes = text.contains([',', '"', '\r', '\n']) || text.trim() != text;
    if needs_quotes {
        row.push(b'"');
        row.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        row.push(b'"');
    } else {
        row.extend_from_slice(text.as_bytes());
    }
}

impl Lost {
    fn count(&mut self, publish: &Publish) {
        self.repeated += u64::from(publish.dup);
        self.with_properties += u64::from(!publish.properties.is_empty());
    }

    /// What never comes to its end is no packet.
    fn count_piece(&mut self, is_message: bool, packet: &LongPacket) {
        self.others += u64::from(packet.is_first);
        if packet.is_whole() {
            self.others -= 1;
            *(if is_message { &mut self.in_pieces } else { &mut self.packets }) += 1;
        }
    }

    fn notes(&self) -> Vec<String> {
        let Self { nameless, in_pieces, repeated, with_properties, packets, others, clients } = self;
        let parts = [
            (*nameless, "message", "without a known topic left out"),
            (*in_pieces, "message", "longer than recorder.packet_bytes left out"),
            (*packets, "other packet", "left out"),
            (*others, "mark, fault or other event", "left out"),
            (*clients, "connection", "not told apart"),
            (*with_properties, "message", "written without properties"),
            (*repeated, "message", "written though sent again (DUP)"),
        ];
        let parts = parts.iter().filter(|(count, ..)| *count > 0);
        let parts: Vec<_> =
            parts.map(|(count, noun, what)| format!("{} {what}", counted(*count, noun))).collect();
        if parts.is_empty() {
            Vec::new()
        } else {
            vec![format!("CSV has messages alone: {}", parts.join(", "))]
        }
    }
}
