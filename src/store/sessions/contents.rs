//! How much is in the records: what is found when the store is opened has to come to the same.

use std::{fmt, ops::Range};

use sled::IVec;

/// Of all records but `V`, `J` and `C`, which holds this: four numbers of eight bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub records: u64,
    /// Of the records' checksums, so that the order they come in does not matter.
    pub sum: u64,
    /// The parts of batches there were when this was written: the first is the first still, and more may follow.
    pub parts: Range<u64>,
}

impl Contents {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(checksum(key, value));
    }

    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(checksum(key, value));
    }

    pub fn encode(&self) -> IVec {
        let numbers = [self.records, self.sum, self.parts.start, self.parts.end];
        numbers.map(u64::to_be_bytes).as_flattened().into()
    }

    pub fn decode(value: &[u8]) -> Option<Self> {
        let (numbers, rest) = value.as_chunks::<8>();
        let numbers = rest.is_empty().then(|| numbers.iter().map(|bytes| u64::from_be_bytes(*bytes)))?;
        match numbers.collect::<Vec<_>>()[..] {
            [records, sum, start, end] if start <= end => Some(Self { records, sum, parts: start..end }),
            _ => None,
        }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records of sum {:016x}", self.records, self.sum)
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    u64::from(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_the_same_in_any_order_and_again_after_a_change_is_taken_back() {
        let mut one = Contents { parts: 3..5, ..Contents::default() };
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        let mut other = Contents { parts: 3..5, ..Contents::default() };
        other.add(b"b", b"2");
        other.add(b"c", b"3");
        assert_ne!(one, other);
        other.add(b"a", b"1");
        other.remove(b"c", b"3");
        assert_eq!(one, other);
        assert_eq!(Contents::decode(&one.encode()), Some(one.clone()));
        for bytes in [&one.encode()[1..], &[], &[0xff; 40]] {
            assert_eq!(Contents::decode(bytes), None);
        }
    }
}
