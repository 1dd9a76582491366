//! Reading one recording, a block at a time.

use std::iter::FusedIterator;

use ulid::Ulid;

use super::{Database, StoreError, block_key, guard, parse_id};
use crate::recording::{
    Event, RecordingInfo, RecordingState,
    block::{BadBlock, Block, EventDecoder},
};

/// The events of a recording in order; memory does not grow with the recording. Ends after the
/// first error.
pub struct EventReader {
    database: Database,
    id: Ulid,
    name: String,
    next_block: u64,
    decoder: EventDecoder,
    from_seq: u64,
    /// How many there have to be; unknown while recording.
    expected: Option<u64>,
    done: bool,
}

impl EventReader {
    pub(super) fn open(database: &Database, info: &RecordingInfo, from_seq: u64) -> Result<Self, StoreError> {
        let mut reader = Self {
            database: database.clone(),
            id: parse_id(&info.id)?,
            name: info.name.clone(),
            next_block: 0,
            decoder: EventDecoder::new(),
            from_seq,
            expected: (info.state != RecordingState::Recording).then_some(info.events),
            done: false,
        };
        if from_seq > 1 {
            reader.next_block = reader.block_with(from_seq)?;
        }
        Ok(reader)
    }

    /// The block that holds the start of event `seq`, or the last one.
    fn block_with(&self, seq: u64) -> Result<u64, StoreError> {
        let range = block_key(self.id, 0)..=block_key(self.id, u64::MAX);
        let last = guard(|| Ok(self.database.blocks.range(range).next_back().transpose()?))?;
        let Some(last) = last else { return Ok(0) };
        let last: [u8; 8] = last.0[16..].try_into().expect("block keys have 24 bytes");
        // The blocks below `low` start at `seq` or before it, those from `high` on behind it.
        let (mut low, mut high) = (0, u64::from_be_bytes(last).saturating_add(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.block(middle)?.is_some_and(|block| block.first_seq <= seq) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut found = low.saturating_sub(1);
        while found > 0 && self.block(found)?.is_some_and(|block| block.continues) {
            found -= 1;
        }
        Ok(found)
    }

    fn block(&self, number: u64) -> Result<Option<Block>, StoreError> {
        let sealed = guard(|| Ok(self.database.blocks.get(block_key(self.id, number))?))?;
        let Some(sealed) = sealed else { return Ok(None) };
        Block::open(&sealed).map(Some).map_err(|reason| self.damaged(number, &reason))
    }

    fn advance(&mut self) -> Result<Option<Event>, StoreError> {
        loop {
            let current = self.next_block.saturating_sub(1);
            let next = self.decoder.next_event();
            match next.map_err(|reason| self.damaged(current, &reason))? {
                Some(event) if event.seq < self.from_seq => {}
                // Of a recording that failed: in memory, and never to be on the disk.
                Some(event) if self.expected.is_some_and(|expected| event.seq > expected) => return Ok(None),
                Some(event) => return Ok(Some(event)),
                None => {
                    let Some(block) = self.block(self.next_block)? else { return self.at_the_end() };
                    let number = self.next_block;
                    let fed = self.decoder.feed(block);
                    fed.map_err(|reason| self.damaged(number, &reason))?;
                    self.next_block += 1;
                }
            }
        }
    }

    fn at_the_end(&self) -> Result<Option<Event>, StoreError> {
        let read = self.decoder.next_seq().max(1) - 1;
        match self.expected {
            Some(expected) if read < expected => {
                let reason = format!("the rest is missing, there should be {expected} events");
                Err(self.damaged(self.next_block, &reason))
            }
            _ => Ok(None),
        }
    }

    fn damaged(&self, block: u64, reason: &dyn ToString) -> StoreError {
        StoreError::Damaged {
            recording: self.name.clone(),
            block,
            event: self.decoder.next_seq().max(1),
            reason: reason.to_string(),
        }
    }
}

impl Iterator for EventReader {
    type Item = Result<Event, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl FusedIterator for EventReader {}

/// How the blocks of a recording that was cut short end.
pub(super) struct Tail {
    /// Blocks up to here hold whole events.
    pub whole_blocks: u64,
    /// What is wrong with the block after those.
    pub damage: Option<BadBlock>,
}

/// Reads all whole events that there are, damaged end or not.
pub(super) fn read_whole(
    database: &Database,
    id: Ulid,
    mut each: impl FnMut(&Event),
    mut each_block: impl FnMut(&Block),
) -> Result<Tail, StoreError> {
    let mut decoder = EventDecoder::new();
    let (mut whole_blocks, mut pending) = (0, Vec::new());
    for number in 0.. {
        let Some(sealed) = database.blocks.get(block_key(id, number))? else {
            // The end, unless there are more: a store that lost a part of its end may have holes.
            let further = block_key(id, number)..=block_key(id, u64::MAX);
            let Some((_, sealed)) = database.blocks.range(further).next().transpose()? else { break };
            let found = Block::open(&sealed).map_or(0, |block| block.first_seq);
            let damage = BadBlock::OutOfOrder { expected: decoder.next_seq().max(1), found };
            return Ok(Tail { whole_blocks, damage: Some(damage) });
        };
        let read = Block::open(&sealed).and_then(|block| {
            decoder.feed(block.clone())?;
            let mut events = Vec::new();
            while let Some(event) = decoder.next_event()? {
                events.push(event);
            }
            Ok((block, events))
        });
        match read {
            Ok((block, events)) => {
                pending.push(block);
                events.iter().for_each(&mut each);
            }
            Err(damage) => return Ok(Tail { whole_blocks, damage: Some(damage) }),
        }
        if !decoder.is_partial() {
            whole_blocks = number + 1;
            pending.drain(..).for_each(|block| each_block(&block));
        }
    }
    Ok(Tail { whole_blocks, damage: None })
}
