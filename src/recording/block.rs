//! Sealed blocks: the pieces a recording is stored in.
//!
//! The records of all events (see `record.rs`) form one stream, and blocks are cut
//! from it: between two events where possible, about [`TARGET_LEN`] bytes each. An event up to
//! [`WHOLE_LEN`] stays whole; a longer one has blocks of its own, as many as it needs.
//!
//! ```text
//!  0  format version, 1       8  first seq, u64       24  raw length, u32
//!  1  flags                  16  base time, u64, ns   28  events that start here, u32
//!  2  zero                   32  CRC-32 of all bytes but these four, u32
//! 36  the records, compressed with LZ4 unless the flags say not
//! ```
//! Numbers are little-endian. The base time is the offset of the event before the first one.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Event,
    record::{self, BadRecord, nanoseconds},
};

/// About how many bytes of records a block holds. Larger values would leave sled's log for files
/// that it never syncs, and blocks this size already compress to three quarters.
pub const TARGET_LEN: usize = 4 << 10;
/// The longest record kept in one piece, and the length of the pieces of longer ones: a packet of
/// 16 KiB with what a record adds to it.
pub const WHOLE_LEN: usize = (16 << 10) + 32;
/// The longest sealed block there can be: one whole record that follows others, incompressible.
pub const SEALED_LEN_MAX: usize = TARGET_LEN + WHOLE_LEN + HEADER_LEN;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 36;
const CRC_AT: usize = 32;
/// The block starts in the middle of an event.
const CONTINUES: u8 = 1;
/// The last event of the block goes on in the next one.
const CONTINUED: u8 = 2;
/// The records are not compressed: they would not have become smaller.
const STORED: u8 = 4;

/// Why stored bytes are no block, or no block of this place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBlock {
    #[error("block of {0} bytes is too short for its header")]
    Truncated(usize),
    #[error("block format version {0} is not supported, this version reads {VERSION}")]
    Version(u8),
    #[error("checksum {computed:08x} instead of {stored:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("block cannot be decompressed")]
    Compression,
    #[error("block starts with event {found} instead of event {expected}")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("the end of event {0} is missing")]
    MissingEnd(u64),
    #[error("event {seq}: {reason}")]
    Record { seq: u64, reason: BadRecord },
}

/// A piece of the stream of records, with what its header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Of the first event that starts here; of the event that is continued if none does.
    pub first_seq: u64,
    /// Nanoseconds: the offset of the event before the first one.
    pub base_time: u64,
    /// Events that start here.
    pub count: u32,
    pub continues: bool,
    pub continued: bool,
    pub records: Bytes,
}

impl Block {
    /// Appends the block as it is stored.
    pub fn seal(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let packed_max = lz4_flex::block::get_maximum_output_size(self.records.len());
        out.resize(start + HEADER_LEN + packed_max, 0);
        let packed = lz4_flex::block::compress_into(&self.records, &mut out[start + HEADER_LEN..]);
        // Both cases keep what comes out smallest; an error would mean that the buffer was short.
        let stored = match packed {
            Ok(len) if len < self.records.len() => {
                out.truncate(start + HEADER_LEN + len);
                false
            }
            Ok(_) | Err(_) => {
                out.truncate(start + HEADER_LEN);
                out.extend_from_slice(&self.records);
                true
            }
        };
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let flags = flag(self.continues, CONTINUES) | flag(self.continued, CONTINUED) | flag(stored, STORED);
        let sealed = &mut out[start..];
        sealed[0] = VERSION;
        sealed[1] = flags;
        sealed[8..16].copy_from_slice(&self.first_seq.to_le_bytes());
        sealed[16..24].copy_from_slice(&self.base_time.to_le_bytes());
        sealed[24..28].copy_from_slice(&(self.records.len() as u32).to_le_bytes());
        sealed[28..32].copy_from_slice(&self.count.to_le_bytes());
        let crc = checksum(sealed);
        sealed[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    }

    /// Checks and unpacks what [`seal`](Self::seal) made.
    pub fn open(sealed: &[u8]) -> Result<Self, BadBlock> {
        if sealed.len() < HEADER_LEN {
            return Err(BadBlock::Truncated(sealed.len()));
        }
        // The version first: what another version's checksum covers is not known here.
        if sealed[0] != VERSION {
            return Err(BadBlock::Version(sealed[0]));
        }
        let (header, packed) = sealed.split_at(HEADER_LEN);
        let (mut numbers, flags) = (&header[8..], header[1]);
        let first_seq = numbers.get_u64_le();
        let base_time = numbers.get_u64_le();
        let raw_len = numbers.get_u32_le() as usize;
        let count = numbers.get_u32_le();
        let (stored, computed) = (numbers.get_u32_le(), checksum(sealed));
        if stored != computed {
            return Err(BadBlock::Checksum { stored, computed });
        }
        let records = if flags & STORED != 0 {
            Bytes::copy_from_slice(packed)
        } else if raw_len <= SEALED_LEN_MAX {
            let raw = lz4_flex::block::decompress(packed, raw_len).map_err(|_| BadBlock::Compression)?;
            Bytes::from(raw)
        } else {
            return Err(BadBlock::Compression);
        };
        if records.len() != raw_len {
            return Err(BadBlock::Compression);
        }
        let (continues, continued) = (flags & CONTINUES != 0, flags & CONTINUED != 0);
        Ok(Self { first_seq, base_time, count, continues, continued, records })
    }
}

fn checksum(sealed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sealed[..CRC_AT]);
    hasher.update(&sealed[HEADER_LEN..]);
    hasher.finalize()
}

/// Cuts a stream of events into blocks.
#[derive(Debug)]
pub struct BlockBuilder {
    next_seq: u64,
    /// Offset of the last event, nanoseconds.
    last_at: u64,
    /// Of the block being filled.
    first_seq: u64,
    base_time: u64,
    records: Vec<u8>,
}

impl Default for BlockBuilder {
    fn default() -> Self {
        Self { next_seq: 1, last_at: 0, first_seq: 1, base_time: 0, records: Vec::new() }
    }
}

impl BlockBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The number the next event has to have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Nanoseconds: the offset of the last event, which the next one's must not be below.
    pub fn last_at(&self) -> u64 {
        self.last_at
    }

    /// Bytes of records in the block being filled.
    pub fn pending(&self) -> usize {
        self.records.len()
    }

    /// Adds `event`, whose `seq` is [`next_seq`](Self::next_seq); appends to `full` the blocks
    /// that this completes. Returns how many bytes the event takes.
    pub fn push(&mut self, event: &Event, full: &mut VecDeque<Block>) -> usize {
        debug_assert_eq!(event.seq, self.next_seq);
        let start = self.records.len();
        if start == 0 {
            self.records.reserve(TARGET_LEN + TARGET_LEN / 4);
        }
        record::encode(event, self.last_at, &mut self.records);
        self.next_seq += 1;
        let before = self.last_at;
        self.last_at = nanoseconds(event.at).max(before);
        let len = self.records.len() - start;
        if len > WHOLE_LEN {
            self.cut_long(start, before, full);
        } else if self.records.len() >= TARGET_LEN {
            full.extend(self.cut());
        }
        len
    }

    /// Ends the block being filled early; `None` when it is empty.
    pub fn cut(&mut self) -> Option<Block> {
        if self.records.is_empty() {
            return None;
        }
        let block = Block {
            first_seq: self.first_seq,
            base_time: self.base_time,
            count: (self.next_seq - self.first_seq) as u32,
            continues: false,
            continued: false,
            records: std::mem::take(&mut self.records).into(),
        };
        self.first_seq = self.next_seq;
        self.base_time = self.last_at;
        Some(block)
    }

    /// Gives the last event, whose record starts at `start`, blocks of its own.
    fn cut_long(&mut self, start: usize, before: u64, full: &mut VecDeque<Block>) {
        let mut record = Bytes::from(self.records.split_off(start));
        let seq = self.next_seq - 1;
        if !self.records.is_empty() {
            full.push_back(Block {
                first_seq: self.first_seq,
                base_time: self.base_time,
                count: (seq - self.first_seq) as u32,
                continues: false,
                continued: false,
                records: std::mem::take(&mut self.records).into(),
            });
        }
        let mut continues = false;
        while !record.is_empty() {
            let piece = record.split_to(record.len().min(WHOLE_LEN));
            full.push_back(Block {
                first_seq: seq,
                base_time: before,
                count: u32::from(!continues),
                continues,
                continued: !record.is_empty(),
                records: piece,
            });
            continues = true;
        }
        self.first_seq = self.next_seq;
        self.base_time = self.last_at;
    }
}

/// Puts events together again from the blocks of a recording in order.
#[derive(Debug, Default)]
pub struct EventDecoder {
    /// Of the next event; 0 before the first block.
    next_seq: u64,
    last_at: u64,
    /// What is left of the current block.
    rest: Bytes,
    /// Whether the current block's last event goes on in the next.
    continued: bool,
    /// The beginning of an event that goes on in the next block.
    partial: BytesMut,
}

impl EventDecoder {
    /// Starts with whatever block is fed first.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of the event that comes next; 0 before the first block.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether the block fed last ends in the middle of an event.
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Takes the next block; call when [`next_event`](Self::next_event) says `None`.
    ///
    /// # Errors
    /// When the block is not the one that follows.
    pub fn feed(&mut self, block: Block) -> Result<(), BadBlock> {
        if self.is_partial() != block.continues && self.next_seq != 0 {
            return Err(BadBlock::MissingEnd(self.next_seq));
        }
        if self.next_seq == 0 {
            self.next_seq = block.first_seq;
            self.last_at = block.base_time;
        } else if block.first_seq != self.next_seq {
            return Err(BadBlock::OutOfOrder { expected: self.next_seq, found: block.first_seq });
        }
        self.continued = block.continued;
        self.rest = block.records;
        Ok(())
    }

    /// The next event; `None` when another block is needed.
    pub fn next_event(&mut self) -> Result<Option<Event>, BadBlock> {
        let seq = self.next_seq;
        let bad = |reason| BadBlock::Record { seq, reason };
        if self.rest.is_empty() {
            return Ok(None);
        }
        if self.is_partial() {
            self.partial.extend_from_slice(&std::mem::take(&mut self.rest));
            if self.continued {
                return Ok(None);
            }
            let record = self.partial.split().freeze();
            if record::record_len(&record).map_err(bad)? != Some(record.len()) {
                return Err(BadBlock::MissingEnd(seq));
            }
            return self.decode(&record).map(Some);
        }
        match record::record_len(&self.rest).map_err(bad)? {
            Some(len) if len <= self.rest.len() => {
                let record = self.rest.split_to(len);
                self.decode(&record).map(Some)
            }
            _ if self.continued => {
                self.partial = BytesMut::from(&std::mem::take(&mut self.rest)[..]);
                Ok(None)
            }
            _ => Err(BadBlock::MissingEnd(seq)),
        }
    }

    fn decode(&mut self, record: &Bytes) -> Result<Event, BadBlock> {
        let event = record::decode(record, self.next_seq, self.last_at)
            .map_err(|reason| BadBlock::Record { seq: self.next_seq, reason })?;
        self.next_seq += 1;
        self.last_at = nanoseconds(event.at);
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::recording::{Direction, EventKind, record};

    fn packet(seq: u64, len: usize) -> Event {
        let bytes = (0..len).map(|index| (index.wrapping_mul(2_654_435_761) >> 7) as u8).collect::<Vec<_>>();
        Event {
            seq,
            at: Duration::from_micros(seq),
            connection: 1,
            kind: EventKind::Packet { direction: Direction::ClientToServer, bytes: bytes.into() },
        }
    }

    fn cut(events: &[Event], mut cut_after: impl FnMut(usize) -> bool) -> Vec<Block> {
        let (mut builder, mut blocks) = (BlockBuilder::new(), VecDeque::new());
        for (index, event) in events.iter().enumerate() {
            builder.push(event, &mut blocks);
            if cut_after(index) {
                blocks.extend(builder.cut());
            }
        }
        blocks.extend(builder.cut());
        blocks.into()
    }

    fn read(sealed: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<Event>, BadBlock> {
        let (mut decoder, mut events) = (EventDecoder::new(), Vec::new());
        for sealed in sealed {
            decoder.feed(Block::open(&sealed)?)?;
            while let Some(event) = decoder.next_event()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn seal(block: &Block) -> Vec<u8> {
        let mut sealed = Vec::new();
        block.seal(&mut sealed);
        sealed
    }

    #[test]
    fn long_packets_are_cut_and_shorter_ones_stay_whole() {
        let lens = [10, 16_000, 20, 16_380, 100_000, 30, 16 << 10, 50_000, 5];
        let events: Vec<Event> = (1..).zip(lens).map(|(seq, len)| packet(seq, len)).collect();
        let blocks = cut(&events, |_| false);
        assert!(blocks.iter().all(|block| block.records.len() <= TARGET_LEN + WHOLE_LEN));
        assert!(blocks.iter().all(|block| seal(block).len() <= SEALED_LEN_MAX));
        assert_eq!(blocks.iter().map(|block| block.count as usize).sum::<usize>(), events.len());
        assert_eq!(blocks.iter().filter(|block| block.continues).count(), 6 + 3);
        assert_eq!(read(blocks.iter().map(seal)), Ok(events));
    }

    #[test]
    fn a_missing_or_swapped_block_is_noticed() {
        let events: Vec<Event> = (1..=200).map(|seq| packet(seq, 100)).collect();
        let mut blocks: Vec<Vec<u8>> = cut(&events, |_| false).iter().map(seal).collect();
        let missing = blocks.remove(2);
        let error = read(blocks.clone()).unwrap_err();
        assert!(matches!(error, BadBlock::OutOfOrder { expected, found } if expected < found), "{error}");
        blocks.insert(3, missing);
        assert!(read(blocks).is_err());
        let long = cut(&[packet(1, 50_000), packet(2, 5)], |_| false);
        let without_end = long.iter().filter(|block| !block.continues || block.continued).map(seal);
        assert_eq!(read(without_end), Err(BadBlock::MissingEnd(1)));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealed = seal(&cut(&[packet(1, 40)], |_| false)[0]);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::open(&damaged).is_err(), "bit {bit}");
        }
        for end in 0..sealed.len() {
            assert!(Block::open(&sealed[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn reading_may_start_at_any_block_that_starts_with_an_event() {
        let events: Vec<Event> = (1..=300).map(|seq| packet(seq, 60)).collect();
        let blocks = cut(&events, |_| false);
        assert!(blocks.len() > 3);
        let from = blocks[2].first_seq as usize;
        assert_eq!(read(blocks[2..].iter().map(seal)), Ok(events[from - 1..].to_vec()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn blocks_give_back_the_events_wherever_they_were_cut(
            kinds in proptest::collection::vec((record::tests::kind(40_000), any::<u16>(), any::<bool>()), 1..20),
        ) {
            let mut at = Duration::ZERO;
            let mut cuts = Vec::new();
            let events: Vec<Event> = (1..).zip(kinds).map(|(seq, (kind, delta, cut))| {
                at += Duration::from_nanos(u64::from(delta));
                cuts.push(cut);
                Event { seq, at, connection: 1, kind }
            }).collect();
            let blocks = cut(&events, |index| cuts[index]);
            let whole: Vec<u8> = cut(&events, |_| false).iter().flat_map(|block| block.records.to_vec()).collect();
            let pieces: Vec<u8> = blocks.iter().flat_map(|block| block.records.to_vec()).collect();
            prop_assert_eq!(whole, pieces);
            prop_assert_eq!(read(blocks.iter().map(seal)), Ok(events));
        }
    }
}
