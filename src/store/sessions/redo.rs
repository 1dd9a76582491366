//! A batch as it is made durable: all its changes, in parts under keys of their own, before they get
//! to the records.
//!
//! That is a fraction of the work of writing records, and what is queued and soon delivered never has
//! to get to them. It also keeps batches whole: sled may lose part of what it was given between two
//! syncs if that is more than a segment.
//!
//! A part is its number in the batch and how many there are, four bytes each, then its share of the
//! changes; all of them together are, for each change, the key behind its length, then 0 for a record
//! that is gone, or one more than the length of the value, and the value.

use std::{collections::BTreeMap, ops::Range};

use sled::IVec;

use super::record::{self, BadRecord, PART_LEN, REDO, Reader, put_bytes, put_varint};
use crate::store::StoreError;

/// What is under a key now; `None` if nothing is.
pub type Write = (IVec, Option<IVec>);

/// Key by key, the last write.
pub type Writes = BTreeMap<IVec, Option<IVec>>;

const HEAD_LEN: usize = 8;

/// The parts that hold `writes`.
pub fn encode(writes: &[Write]) -> Vec<IVec> {
    let mut bytes = Vec::new();
    for (key, value) in writes {
        put_bytes(key, &mut bytes);
        match value {
            None => bytes.push(0),
            Some(value) => {
                put_varint(value.len() as u64 + 1, &mut bytes);
                bytes.extend_from_slice(value);
            }
        }
    }
    let chunks = bytes.chunks(PART_LEN - HEAD_LEN);
    let count = (chunks.len() as u32).to_be_bytes();
    (0_u32..)
        .zip(chunks)
        .map(|(index, chunk)| [&index.to_be_bytes(), &count, chunk].concat().into())
        .collect()
}

fn decode(bytes: &[u8], writes: &mut Writes) -> Result<(), BadRecord> {
    let mut reader = Reader(bytes);
    while !reader.0.is_empty() {
        let key = IVec::from(reader.bytes("key of a change")?);
        let value = match reader.varint("length of a change")? {
            0 => None,
            len => Some(IVec::from(reader.take(len - 1, "change")?)),
        };
        writes.insert(key, value);
    }
    Ok(())
}

/// What batches have left.
#[derive(Debug, Default, PartialEq)]
pub struct Left {
    pub writes: Writes,
    /// Numbers of the parts that are there.
    pub parts: Range<u64>,
    /// Numbers of the parts of a batch that never was durable.
    pub torn: Range<u64>,
}

/// Reads all parts there are; if there are none, the next one gets number `next`.
///
/// The first may be from the midst of a batch, of which the others have been removed: what they said is in
/// the records.
pub fn read(db: &sled::Tree, next: u64) -> Result<Left, StoreError> {
    let mut left = Left { parts: next..next, ..Left::default() };
    let mut next = None;
    let mut batch: Vec<u8> = Vec::new();
    // Of the batch: its first part, how many it has, and the next one.
    let mut expected: Option<(u64, u32, u32)> = None;
    let mut has_begun = false;
    for entry in db.scan_prefix([REDO]) {
        let (key, part) = entry?;
        if key.len() != 9 || next.is_some_and(|next| next != record::first_number(&key)) {
            return Err(StoreError::Corrupted("changes are missing".to_owned()));
        }
        let number = record::first_number(&key);
        if next.is_none() {
            left.parts.start = number;
        }
        next = Some(number + 1);
        let head = part.split_at_checked(HEAD_LEN);
        let (head, bytes) = head.ok_or_else(|| StoreError::Corrupted("changes are cut off".to_owned()))?;
        let four = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (index, count) = (four(0), four(4));
        match expected {
            None if index > 0 && !has_begun => continue,
            None => expected = Some((number, count, 0)),
            Some(_) => {}
        }
        let Some((first, of, at)) = expected else { continue };
        has_begun = true;
        if (of, at) != (count, index) {
            return Err(StoreError::Corrupted("changes do not belong together".to_owned()));
        }
        batch.extend_from_slice(bytes);
        expected = Some((first, of, at + 1));
        if at + 1 == of {
            decode(&batch, &mut left.writes)
                .map_err(|bad| StoreError::Corrupted(format!("changes of a batch: {bad}")))?;
            batch.clear();
            expected = None;
        }
    }
    left.parts.end = next.unwrap_or(left.parts.end);
    left.torn = left.parts.end..left.parts.end;
    if let Some((first, _, _)) = expected {
        left.torn.start = first;
        left.parts.end = first;
    }
    Ok(left)
}
