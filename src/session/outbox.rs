//! Bytes that wait to be written to one Network Connection.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Capacity that an emptied outbox keeps for the next batch.
///
/// A read batch is 256 KiB, and what it causes fits in as much; more than that was a burst.
const KEPT_CAPACITY: usize = 256 * 1024;

/// Written bytes that are let go of while others wait, so that a slow client's buffer does not grow
/// with all it was ever sent.
const COMPACTED: usize = 16 * 1024;

/// Encoded packets in the order they leave.
///
/// Small packets are gathered in one buffer; long payloads are kept as shared slices, so that a
/// fan-out does not copy them for each receiver.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Bytes of our own. The first `written` have left.
    gathered: BytesMut,
    written: usize,
    /// What most outboxes never have: one word while there is none.
    extra: Option<Box<Extra>>,
    len: usize,
}

#[derive(Debug, Default)]
struct Extra {
    /// Shared slices, each behind so many bytes of `gathered`.
    shared: VecDeque<(usize, Bytes)>,
    /// What may not leave yet, in the order of the batches.
    holds: VecDeque<Hold>,
}

/// Bytes behind it may leave when a batch of changes is durable.
#[derive(Debug)]
struct Hold {
    /// Bytes between it and the hold before it, or the front.
    ahead: usize,
    batch: u64,
}

impl Outbox {
    /// Bytes that wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes at the front that may be written.
    #[inline]
    pub fn writable(&self) -> usize {
        match self.extra.as_ref().and_then(|extra| extra.holds.front()) {
            Some(hold) => hold.ahead,
            None => self.len,
        }
    }

    /// Keeps what is appended from here on until `batch`, no earlier one than that of any hold before,
    /// is [released](Self::release); whether nothing was to wait for it yet.
    pub fn hold(&mut self, batch: u64) -> bool {
        let len = self.len;
        let holds = &mut self.extra.get_or_insert_default().holds;
        if holds.back().is_some_and(|last| last.batch >= batch) {
            return false;
        }
        let ahead = len - holds.iter().map(|hold| hold.ahead).sum::<usize>();
        holds.push_back(Hold { ahead, batch });
        true
    }

    /// Whether anything waits for a batch.
    pub fn has_holds(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.holds.is_empty())
    }

    /// Lets go what waited for batches up to `batch`.
    pub fn release(&mut self, batch: u64) {
        let Some(extra) = &mut self.extra else { return };
        let mut ahead = 0;
        while let Some(hold) = extra.holds.front().filter(|hold| hold.batch <= batch) {
            ahead += hold.ahead;
            extra.holds.pop_front();
        }
        if let Some(next) = extra.holds.front_mut() {
            next.ahead += ahead;
        }
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends a copy of `bytes` with `identifier` in place of the two bytes at `at`.
    ///
    /// # Panics
    /// When there are no such two bytes.
    #[inline]
    pub fn extend_numbered(&mut self, bytes: &[u8], at: usize, identifier: u16) {
        let start = self.gathered.len() + at;
        self.extend(bytes);
        self.gathered[start..start + 2].copy_from_slice(&identifier.to_be_bytes());
    }

    /// Appends `bytes` without copying them.
    pub fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.extra.get_or_insert_default().shared.push_back((self.gathered.len(), bytes));
    }

    /// Appends whatever `encode` appends to the buffer it is given.
    pub fn append<R>(&mut self, encode: impl FnOnce(&mut BytesMut) -> R) -> R {
        let before = self.gathered.len();
        let result = encode(&mut self.gathered);
        self.len += self.gathered.len() - before;
        result
    }

    /// Fills `slices` for a vectored write of what is [writable](Self::writable), from the front;
    /// returns how many were filled.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut start = self.written;
        let mut filled = 0;
        let mut left = self.writable();
        let mut fill = |bytes: &'a [u8]| {
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            if !bytes.is_empty()
                && let Some(slice) = slices.get_mut(filled)
            {
                *slice = IoSlice::new(bytes);
                filled += 1;
            }
            filled < slices.len() && left > 0
        };
        for (behind, bytes) in self.extra.iter().flat_map(|extra| extra.shared.iter()) {
            if !(fill(&self.gathered[start..*behind]) && fill(bytes)) {
                return filled;
            }
            start = *behind;
        }
        fill(&self.gathered[start..]);
        filled
    }

    /// Forgets the first `count` bytes: they were written, or nobody is left to take them.
    ///
    /// # Panics
    /// When `count` is more than [`len`](Self::len).
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len, "cannot forget {count} of {} bytes", self.len);
        self.len -= count;
        if self.len == 0 {
            return self.clear();
        }
        if let Some(hold) = self.extra.as_mut().and_then(|extra| extra.holds.front_mut()) {
            assert!(count <= hold.ahead, "cannot forget {count} bytes before a hold behind {}", hold.ahead);
            hold.ahead -= count;
        }
        let mut left = count;
        while left > 0 {
            let first = self.extra.as_mut().and_then(|extra| extra.shared.front_mut());
            let own = first.as_ref().map_or(self.gathered.len(), |(behind, _)| *behind) - self.written;
            if left <= own {
                self.written += left;
                break;
            }
            self.written += own;
            left -= own;
            let Some((_, bytes)) = first else { break };
            if left < bytes.len() {
                bytes.advance(left);
                break;
            }
            left -= bytes.len();
            if let Some(extra) = &mut self.extra {
                extra.shared.pop_front();
            }
        }
        if self.written >= COMPACTED && self.written * 2 >= self.gathered.len() {
            self.compact();
        }
    }

    /// Nothing waits any more.
    fn clear(&mut self) {
        self.written = 0;
        if let Some(extra) = &mut self.extra {
            extra.shared.clear();
            extra.holds.clear();
        }
        if self.gathered.capacity() > KEPT_CAPACITY {
            self.gathered = BytesMut::new();
        } else {
            self.gathered.clear();
        }
    }

    /// Moves what waits to the front.
    fn compact(&mut self) {
        let written = std::mem::take(&mut self.written);
        let waiting = self.gathered.len() - written;
        self.gathered.copy_within(written.., 0);
        self.gathered.truncate(waiting);
        for (behind, _) in self.extra.iter_mut().flat_map(|extra| extra.shared.iter_mut()) {
            *behind -= written;
        }
    }

    /// Gives back the memory of an outbox that has been empty for a while.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything the outbox holds, in order.
    fn content(outbox: &Outbox) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = outbox.chunks(&mut slices);
        slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn bytes_leave_in_the_order_they_came_whether_copied_or_shared() {
        let mut outbox = Outbox::default();
        outbox.extend(b"one ");
        outbox.push(Bytes::from_static(b"two "));
        outbox.push(Bytes::from_static(b"three "));
        outbox.extend(b"four");
        assert_eq!(content(&outbox), b"one two three four");
        assert_eq!(outbox.len(), 18);
    }

    #[test]
    fn every_partial_write_leaves_exactly_the_rest() {
        for written in 0..=18 {
            let mut outbox = Outbox::default();
            outbox.extend(b"one ");
            outbox.push(Bytes::from_static(b"two "));
            outbox.push(Bytes::from_static(b"three "));
            outbox.extend(b"four");
            outbox.advance(written);
            outbox.extend(b"!");
            assert_eq!(content(&outbox), &b"one two three four!"[written..]);
            assert_eq!(outbox.len(), 19 - written);
        }
    }

    #[test]
    fn a_slow_client_leaves_exactly_the_rest_however_long_it_takes() {
        let mut outbox = Outbox::default();
        let (mut sent, mut read) = (Vec::new(), 0);
        for round in 0..2_000_usize {
            let bytes: Vec<u8> = (0..round * 7 % 90).map(|index| (round + index) as u8).collect();
            sent.extend_from_slice(&bytes);
            if round % 5 == 0 {
                outbox.push(bytes.into());
            } else {
                outbox.extend(&bytes);
            }
            // Reads a little less than what was sent, with a pause now and then.
            let count = if round % 50 < 40 { outbox.len().min(round * 11 % 100) } else { 0 };
            outbox.advance(count);
            read += count;
            let mut slices = [IoSlice::new(&[]); 400];
            let filled = outbox.chunks(&mut slices);
            let waiting: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            let seen = waiting.len();
            assert_eq!(waiting, sent[read..read + seen], "round {round}");
            assert!(seen == outbox.len() || filled == 400, "round {round}");
        }
        assert!(outbox.gathered.len() < COMPACTED * 3, "{}", outbox.gathered.len());
    }

    #[test]
    fn what_is_behind_a_hold_stays_until_its_batch_is_durable() {
        let mut outbox = Outbox::default();
        outbox.extend(b"now ");
        assert!(outbox.hold(3));
        outbox.extend(b"three ");
        assert!(!outbox.hold(3), "what follows waits for it anyway");
        outbox.push(Bytes::from_static(b"as well "));
        assert!(outbox.hold(5));
        outbox.push(Bytes::from_static(b"five "));
        assert!(outbox.hold(6));
        outbox.extend(b"six");
        assert_eq!((content(&outbox), outbox.len()), (b"now ".to_vec(), 26));
        outbox.advance(2);
        outbox.release(2);
        assert_eq!(content(&outbox), b"w ");
        outbox.release(4);
        assert_eq!(content(&outbox), b"w three as well ");
        outbox.advance(9);
        outbox.release(6);
        assert_eq!(content(&outbox), b"s well five six");
        outbox.hold(7);
        outbox.extend(b"!");
        // Nobody is left to take any of it.
        outbox.advance(outbox.len());
        outbox.extend(b"again");
        assert_eq!(content(&outbox), b"again");
    }

    #[test]
    fn an_identifier_is_filled_in_where_it_belongs() {
        let mut outbox = Outbox::default();
        outbox.extend(b"ab");
        outbox.extend_numbered(b"c__d", 1, 0x3132);
        assert_eq!(content(&outbox), b"abc12d");
    }

    #[test]
    fn a_small_array_of_slices_is_filled_from_the_front() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"a"));
        outbox.push(Bytes::from_static(b"b"));
        let mut slices = [IoSlice::new(&[]); 1];
        assert_eq!(outbox.chunks(&mut slices), 1);
        assert_eq!(&*slices[0], b"a");
    }
}
