//! One direction of a TCP connection, put in order.
//!
//! Of bytes that came twice the first ones count. What came ahead waits for what is missing, until
//! somebody decides that it is lost.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What a piece that waits costs beside its bytes.
const PIECE_COST: usize = 96;
/// No window of TCP is larger: what is further away belongs to another connection.
const WINDOW_MAX: u64 = 1 << 30;

#[derive(Debug, Default)]
pub struct Stream {
    /// The sequence number at `position`; `None` before anything was seen.
    next: Option<u32>,
    /// Bytes before the next one, the first one counting as 2^32 so that what is before it has a place.
    position: u64,
    /// What came ahead, by position; pieces do not overlap.
    ahead: BTreeMap<u64, Bytes>,
    held: usize,
    /// Up to where the other side said it had received.
    acknowledged: u64,
    end: Option<u64>,
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed<'a> {
    /// This much of it is what comes next.
    Next(&'a [u8]),
    /// It came before what is missing.
    Ahead,
    /// It had been there before.
    Again,
    /// It cannot belong here.
    Astray,
}

impl Stream {
    pub fn is_begun(&self) -> bool {
        self.next.is_some()
    }

    /// The next byte is that of `sequence`.
    pub fn begin(&mut self, sequence: u32) {
        *self = Self { next: Some(sequence), position: 1 << 32, acknowledged: 1 << 32, ..Self::default() };
    }

    /// Bytes that wait, and what it costs to keep them.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Puts `bytes` in their place.
    pub fn insert<'a>(&mut self, sequence: u32, bytes: &'a [u8]) -> Placed<'a> {
        let Some(start) = self.place(sequence) else { return Placed::Astray };
        let Some(known) = self.position.checked_sub(start) else {
            let before = self.held;
            self.keep(start, bytes);
            return if self.held > before { Placed::Ahead } else { Placed::Again };
        };
        let fresh = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
        // Up to what came ahead: that is there already.
        let limit = self.ahead.keys().next().map_or(u64::MAX, |ahead| ahead - self.position);
        let (taken, rest) = fresh.split_at(usize::try_from(limit).unwrap_or(usize::MAX).min(fresh.len()));
        let after = self.position + taken.len() as u64;
        self.keep(after, rest);
        self.advance(after);
        if taken.is_empty() { Placed::Again } else { Placed::Next(taken) }
    }

    /// What had come ahead and is next now.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        let entry = self.ahead.first_entry().filter(|entry| *entry.key() == self.position)?;
        let piece = entry.remove();
        self.held -= piece.len() + PIECE_COST;
        self.advance(self.position + piece.len() as u64);
        Some(piece)
    }

    /// The other side has received what is before `sequence`.
    pub fn acknowledge(&mut self, sequence: u32) {
        if let Some(place) = self.place(sequence) {
            self.acknowledged = self.acknowledged.max(place);
        }
    }

    /// The stream ends before `sequence`.
    pub fn set_end(&mut self, sequence: u32) {
        if self.end.is_none() {
            self.end = self.place(sequence);
        }
    }

    /// The stream ends before the next byte.
    pub fn end_here(&mut self) {
        self.end = Some(self.position);
    }

    /// Whether all up to its end was there.
    pub fn is_at_end(&self) -> bool {
        self.end.is_some_and(|end| self.position >= end)
    }

    /// Whether bytes are missing that the other side has received.
    pub fn lacks_acknowledged(&self) -> bool {
        // A FIN counts as one.
        let last = self.end.map_or(self.acknowledged, |end| self.acknowledged.min(end));
        self.position < last
    }

    /// Whether all that is missing is what the other side has acknowledged, and is as long as a FIN. No
    /// packet is a single byte.
    pub fn lacks_end_only(&self) -> bool {
        self.end.is_none() && self.ahead.is_empty() && self.acknowledged == self.position + 1
    }

    /// Gives up what is missing before the next piece that is there; how many bytes that were.
    /// With nothing ahead it is what the other side has received.
    pub fn skip(&mut self) -> Option<u64> {
        let last = self.end.map_or(self.acknowledged, |end| self.acknowledged.min(end));
        let next = self.ahead.keys().next().copied().unwrap_or(last);
        let missing = next.checked_sub(self.position).filter(|missing| *missing > 0)?;
        self.advance(next);
        Some(missing)
    }

    fn advance(&mut self, position: u64) {
        if let Some(next) = &mut self.next {
            *next = next.wrapping_add((position - self.position) as u32);
        }
        self.position = position;
    }

    /// Where `sequence` is, if that is near enough.
    fn place(&self, sequence: u32) -> Option<u64> {
        let distance = i64::from(sequence.wrapping_sub(self.next?) as i32);
        if distance.unsigned_abs() > WINDOW_MAX {
            return None;
        }
        self.position.checked_add_signed(distance)
    }

    /// Keeps what is not there yet of `bytes`, which belong behind the position.
    fn keep(&mut self, mut start: u64, mut bytes: &[u8]) {
        if let Some((before, piece)) = self.ahead.range(..=start).next_back() {
            let covered = (before + piece.len() as u64).saturating_sub(start);
            (start, bytes) = behind(start, bytes, covered);
        }
        while !bytes.is_empty() {
            let following = self.ahead.range(start..).next().map(|(at, piece)| (*at, piece.len()));
            let free = following.map_or(u64::MAX, |(at, _)| at - start);
            let piece = &bytes[..usize::try_from(free).unwrap_or(usize::MAX).min(bytes.len())];
            if !piece.is_empty() {
                self.held += piece.len() + PIECE_COST;
                self.ahead.insert(start, Bytes::copy_from_slice(piece));
            }
            let Some((at, len)) = following else { return };
            (start, bytes) = behind(start, bytes, at + len as u64 - start);
        }
    }
}

/// What is left of `bytes` at `start` behind its first `count`.
fn behind(start: u64, bytes: &[u8], count: u64) -> (u64, &[u8]) {
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len());
    (start + count as u64, &bytes[count..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Inserts pieces of `text` given as ranges; what comes out, and what became of each.
    fn put(first: u32, text: &[u8], ranges: &[(usize, usize)]) -> (Vec<u8>, Vec<&'static str>) {
        let mut stream = Stream::default();
        stream.begin(first);
        let (mut out, mut became) = (Vec::new(), Vec::new());
        for (start, end) in ranges {
            let placed = stream.insert(first.wrapping_add(*start as u32), &text[*start..*end]);
            became.push(match placed {
                Placed::Next(bytes) => {
                    out.extend_from_slice(bytes);
                    "next"
                }
                Placed::Ahead => "ahead",
                Placed::Again => "again",
                Placed::Astray => "astray",
            });
            while let Some(piece) = stream.next_piece() {
                out.extend_from_slice(&piece);
            }
        }
        (out, became)
    }

    #[test]
    fn pieces_that_come_out_of_order_again_or_overlapping_are_put_in_order() {
        let (out, became) = put(u32::MAX - 3, b"0123456789", &[(0, 2), (4, 6), (0, 3), (5, 10), (2, 5)]);
        assert_eq!(out, b"0123456789");
        assert_eq!(became, ["next", "ahead", "next", "ahead", "next"]);
        let (out, became) = put(0, b"0123456789", &[(8, 9), (2, 4), (1, 10), (0, 10), (3, 9)]);
        assert_eq!(out, b"0123456789");
        assert_eq!(became, ["ahead", "ahead", "ahead", "next", "again"]);
    }

    #[test]
    fn what_is_lost_is_counted() {
        let mut stream = Stream::default();
        stream.begin(100);
        assert_eq!(stream.insert(110, b"abc"), Placed::Ahead);
        assert!(!stream.lacks_acknowledged());
        stream.acknowledge(120);
        assert!(stream.lacks_acknowledged());
        assert_eq!(stream.skip(), Some(10));
        assert_eq!(stream.next_piece().as_deref(), Some(&b"abc"[..]));
        assert_eq!(stream.skip(), Some(7));
        assert_eq!(stream.skip(), None);
        assert_eq!(stream.held(), 0);
        assert_eq!(stream.insert(119, b"yz"), Placed::Next(b"z"));
        assert_eq!(stream.insert(100 + (1 << 31), b"z"), Placed::Astray);
    }

    proptest! {
        #[test]
        fn whatever_the_order_the_bytes_are_the_same(
            first in any::<u32>(),
            text in prop::collection::vec(any::<u8>(), 1..200),
            ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30),
        ) {
            let mut ranges: Vec<(usize, usize)> = ranges
                .into_iter()
                .map(|(a, b)| (a.index(text.len() + 1), b.index(text.len() + 1)))
                .map(|(a, b)| (a.min(b), a.max(b)))
                .collect();
            ranges.push((0, text.len()));
            let (out, _) = put(first, &text, &ranges);
            prop_assert_eq!(out, text);
        }
    }
}
