//! Writing a recording as MCAP.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use serde_json::Value;

use super::{
    LZ4, MAGIC, MESSAGE_ENCODING, PROFILE, SCHEMA_NAME,
    record::{FOOTER_LEN, MESSAGE_HEADER_LEN, Opcode, PREFIX_LEN, put_record},
};
use crate::{
    packet::ControlPacket,
    recording::{
        Connections, Direction, Event, EventKind, RecordingInfo,
        connections::Seen,
        json::{FORMAT, head_members, write_event},
        record::nanoseconds,
    },
};

const SCHEMA: &str = include_str!("event.schema.json");
const SCHEMA_ID: u16 = 1;
/// About how much text a chunk holds; an event is in one chunk, however long. It is also what a cut
/// file loses at its end.
const CHUNK_LEN: usize = 1 << 20;
/// Chunks get twice as long each time there are so many more, up to [`CHUNK_LEN_MAX`], because the
/// index at the file's end is held in memory.
const CHUNKS_PER_LEN: u32 = 1024;
const CHUNK_LEN_MAX: usize = 16 << 20;
/// Topics with channels of their own, in each direction: tools list channels, and each costs 10
/// bytes of every index it is in.
const TOPICS_MAX: usize = 1000;
/// Longer topics have no channel of their own.
const TOPIC_LEN_MAX: usize = 1024;

/// Where packets go that have no channel of their topic.
const PACKETS: &str = "packets";
/// Where what is no packet goes.
const EVENTS: &str = "events";

/// Writes recordings; memory grows with the number of open connections, and by a hundred bytes and
/// ten a topic with each chunk.
pub struct McapWriter<W> {
    out: Tally<W>,
    chunk: Chunk,
    channels: Channels,
    summary: Summary,
}

/// Counts and sums up what it passes on.
struct Tally<W> {
    inner: W,
    position: u64,
    crc: crc32fast::Hasher,
}

/// The chunk being filled.
#[derive(Default)]
struct Chunk {
    records: Vec<u8>,
    /// By channel: time and offset of each message.
    index: BTreeMap<u16, Vec<(u64, u64)>>,
    start_time: u64,
    end_time: u64,
}

/// The channels there are so far, numbered from 1.
#[derive(Default)]
struct Channels {
    by_topic: [HashMap<String, u16>; 2],
    plain: HashMap<&'static str, u16>,
    /// The records of all, for the summary.
    records: Vec<u8>,
    /// Messages in each.
    counts: Vec<u64>,
}

/// What the end of the file says about the rest of it.
#[derive(Default)]
struct Summary {
    chunk_indexes: Vec<u8>,
    chunks: u32,
    metadata_index: Vec<u8>,
    start_time: u64,
    end_time: u64,
}

impl<W: Write> McapWriter<W> {
    pub fn new(out: W) -> Self {
        let out = Tally { inner: out, position: 0, crc: crc32fast::Hasher::new() };
        let (chunk, channels, summary) = Default::default();
        Self { out, chunk, channels, summary }
    }

    /// Writes the whole file.
    ///
    /// # Errors
    /// Those of the events, or of the writer as one.
    pub fn write<I, E>(
        mut self,
        info: &RecordingInfo,
        mut events: impl FnMut() -> Result<I, E>,
    ) -> Result<W, E>
    where
        I: Iterator<Item = Result<Event, E>>,
        E: From<io::Error>,
    {
        self.begin(info)?;
        let started_at = info.started_at.as_nanosecond();
        let mut connections = Connections::new();
        let mut text = Vec::new();
        for event in events()? {
            let event = event?;
            let seen = connections.follow(&event);
            text.clear();
            write_event(&event, seen.as_ref(), &connections, &mut text);
            let time = started_at + i128::from(nanoseconds(event.at));
            // Before 1970 there is no time in MCAP; the event's own says what it was.
            let time = u64::try_from(time.max(0)).unwrap_or(u64::MAX);
            self.add(&event, seen.as_ref(), time, &text)?;
            if matches!(event.kind, EventKind::Close(_)) {
                connections.forget_client(event.connection);
            }
        }
        self.end_chunk()?;
        self.end()?;
        self.out.inner.flush()?;
        Ok(self.out.inner)
    }

    fn begin(&mut self, info: &RecordingInfo) -> io::Result<()> {
        self.out.write_all(&MAGIC)?;
        let mut record = Vec::new();
        put_record(Opcode::Header, &mut record, |content| {
            content.text(PROFILE);
            content.text(concat!("mockforge ", env!("CARGO_PKG_VERSION")));
        });
        self.out.write_all(&record)?;
        record.clear();
        let head = head(info);
        put_record(Opcode::Metadata, &mut record, |content| {
            content.text(FORMAT);
            content.map(head.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        });
        put_record(Opcode::MetadataIndex, &mut self.summary.metadata_index, |content| {
            content.u64(self.out.position);
            content.u64(record.len() as u64);
            content.text(FORMAT);
        });
        self.out.write_all(&record)
    }

    fn add(&mut self, event: &Event, seen: Option<&Seen>, time: u64, text: &[u8]) -> io::Result<()> {
        let channel = self.channels.of(event, seen, &mut self.chunk.records);
        let chunk = &mut self.chunk;
        if chunk.index.is_empty() {
            chunk.start_time = time;
        }
        chunk.end_time = time;
        chunk.index.entry(channel).or_default().push((time, chunk.records.len() as u64));
        chunk.records.reserve(PREFIX_LEN + MESSAGE_HEADER_LEN + text.len());
        put_record(Opcode::Message, &mut chunk.records, |content| {
            content.u16(channel);
            // 32 bits are all there is room for; the text has the whole number.
            content.u32(event.seq as u32);
            content.u64(time);
            content.u64(time);
            content.bytes(text);
        });
        if chunk.records.len() >= chunk_len(self.summary.chunks) {
            self.end_chunk()?;
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        if self.chunk.index.is_empty() {
            return Ok(());
        }
        let Chunk { records, index, start_time, end_time } = std::mem::take(&mut self.chunk);
        if self.summary.chunks == 0 {
            self.summary.start_time = start_time;
        }
        self.summary.end_time = end_time;
        let packed = compress(&records)?;
        let chunk_start = self.out.position;
        let mut record = Vec::with_capacity(packed.len() + 64);
        put_record(Opcode::Chunk, &mut record, |content| {
            content.u64(start_time);
            content.u64(end_time);
            content.u64(records.len() as u64);
            content.u32(crc32fast::hash(&records));
            content.text(LZ4);
            content.u64(packed.len() as u64);
            content.bytes(&packed);
        });
        self.out.write_all(&record)?;
        let chunk_len = record.len() as u64;
        let index_start = self.out.position;
        let mut offsets = Vec::with_capacity(index.len());
        for (channel, messages) in index {
            offsets.push((channel, self.out.position));
            record.clear();
            put_record(Opcode::MessageIndex, &mut record, |content| {
                content.u16(channel);
                content.list(messages, |(time, offset), content| {
                    content.u64(time);
                    content.u64(offset);
                });
            });
            self.out.write_all(&record)?;
        }
        let index_len = self.out.position - index_start;
        put_record(Opcode::ChunkIndex, &mut self.summary.chunk_indexes, |content| {
            content.u64(start_time);
            content.u64(end_time);
            content.u64(chunk_start);
            content.u64(chunk_len);
            content.list(offsets, |(channel, offset), content| {
                content.u16(channel);
                content.u64(offset);
            });
            content.u64(index_len);
            content.text(LZ4);
            content.u64(packed.len() as u64);
            content.u64(records.len() as u64);
        });
        self.summary.chunks += 1;
        // The next one is as long.
        self.chunk.records = records;
        self.chunk.records.clear();
        Ok(())
    }

    /// Writes the summary: schema, channels, statistics and indexes again, for who reads backwards.
    fn end(&mut self) -> io::Result<()> {
        let crc = self.out.crc.clone().finalize();
        let mut record = Vec::new();
        put_record(Opcode::DataEnd, &mut record, |content| content.u32(crc));
        self.out.write_all(&record)?;
        let summary_start = self.out.position;
        self.out.crc = crc32fast::Hasher::new();
        let mut schema = Vec::new();
        put_schema(&mut schema);
        let mut statistics = Vec::new();
        let Summary { chunk_indexes, chunks, metadata_index, start_time, end_time } =
            std::mem::take(&mut self.summary);
        let counts = &self.channels.counts;
        put_record(Opcode::Statistics, &mut statistics, |content| {
            content.u64(counts.iter().sum());
            content.u16(1);
            content.u32(counts.len() as u32);
            content.u32(0);
            content.u32(1);
            content.u32(chunks);
            content.u64(start_time);
            content.u64(end_time);
            content.list((1..).zip(counts), |(channel, count), content| {
                content.u16(channel);
                content.u64(*count);
            });
        });
        let groups = [
            (Opcode::Schema, schema),
            (Opcode::Channel, std::mem::take(&mut self.channels.records)),
            (Opcode::Statistics, statistics),
            (Opcode::MetadataIndex, metadata_index),
            (Opcode::ChunkIndex, chunk_indexes),
        ];
        let mut offsets = Vec::new();
        for (opcode, records) in groups.into_iter().filter(|(_, records)| !records.is_empty()) {
            put_record(Opcode::SummaryOffset, &mut offsets, |content| {
                content.u8(opcode as u8);
                content.u64(self.out.position);
                content.u64(records.len() as u64);
            });
            self.out.write_all(&records)?;
        }
        let offsets_start = self.out.position;
        self.out.write_all(&offsets)?;
        let mut footer = vec![Opcode::Footer as u8];
        for number in [FOOTER_LEN as u64, summary_start, offsets_start] {
            footer.extend_from_slice(&number.to_le_bytes());
        }
        self.out.write_all(&footer)?;
        let crc = self.out.crc.clone().finalize();
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.write_all(&MAGIC)
    }
}

/// The members that head the JSON format, those that are texts as they are.
fn head(info: &RecordingInfo) -> Vec<(String, String)> {
    let text = |value: String| match serde_json::from_str(&value) {
        Ok(Value::String(text)) => text,
        _ => value,
    };
    head_members(info).into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect()
}

fn put_schema(out: &mut Vec<u8>) {
    put_record(Opcode::Schema, out, |content| {
        content.u16(SCHEMA_ID);
        content.text(SCHEMA_NAME);
        content.text("jsonschema");
        content.text(SCHEMA);
    });
}

fn chunk_len(chunks: u32) -> usize {
    let doublings = (chunks / CHUNKS_PER_LEN).min(CHUNK_LEN_MAX.ilog2());
    (CHUNK_LEN << doublings).min(CHUNK_LEN_MAX)
}

fn compress(records: &[u8]) -> io::Result<Vec<u8>> {
    let frame = FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(frame, Vec::with_capacity(records.len() / 4));
    encoder.write_all(records)?;
    Ok(encoder.finish()?)
}

impl Channels {
    /// The channel for `event`; one that is new is appended to `records`, and the schema before the
    /// first.
    fn of(&mut self, event: &Event, seen: Option<&Seen>, records: &mut Vec<u8>) -> u16 {
        let channel = match (&event.kind, seen.map(|seen| (&seen.packet, &seen.topic))) {
            (EventKind::Packet { direction, .. }, Some((Ok(ControlPacket::Publish(_)), Some(topic)))) => {
                self.of_topic(*direction, topic.as_str(), records)
            }
            (EventKind::Packet { .. } | EventKind::Raw { .. }, _) => None,
            _ => Some(self.plain(EVENTS, records)),
        };
        let channel = channel.unwrap_or_else(|| self.plain(PACKETS, records));
        self.counts[usize::from(channel) - 1] += 1;
        channel
    }

    /// `None` for a topic that has no channel of its own.
    fn of_topic(&mut self, direction: Direction, topic: &str, records: &mut Vec<u8>) -> Option<u16> {
        let known = &self.by_topic[direction as usize];
        if let Some(channel) = known.get(topic) {
            return Some(*channel);
        }
        if known.len() >= TOPICS_MAX || topic.len() > TOPIC_LEN_MAX {
            return None;
        }
        let name = format!("{}/{topic}", direction.name());
        let channel = self.add(&name, &[("dir", direction.name()), ("topic", topic)], records);
        self.by_topic[direction as usize].insert(topic.to_owned(), channel);
        Some(channel)
    }

    fn plain(&mut self, name: &'static str, records: &mut Vec<u8>) -> u16 {
        if let Some(channel) = self.plain.get(name) {
            return *channel;
        }
        let channel = self.add(name, &[], records);
        self.plain.insert(name, channel);
        channel
    }

    fn add(&mut self, name: &str, metadata: &[(&str, &str)], records: &mut Vec<u8>) -> u16 {
        if self.counts.is_empty() {
            put_schema(records);
        }
        self.counts.push(0);
        let channel = self.counts.len() as u16;
        let start = records.len();
        put_record(Opcode::Channel, records, |content| {
            content.u16(channel);
            content.u16(SCHEMA_ID);
            content.text(name);
            content.text(MESSAGE_ENCODING);
            content.map(metadata.iter().copied());
        });
        self.records.extend_from_slice(&records[start..]);
        channel
    }
}

impl<W: Write> Tally<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.position += bytes.len() as u64;
        self.crc.update(bytes);
        Ok(())
    }
}
