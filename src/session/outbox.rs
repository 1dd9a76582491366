//! Bytes that wait to be written to one Network Connection.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Capacity that an emptied outbox keeps for the next batch.
///
/// A read batch is 256 KiB, and what it causes fits in as much; more than that was a burst.
const KEPT_CAPACITY: usize = 256 * 1024;

/// Encoded packets in the order they leave.
///
/// Small packets are gathered in one buffer; long payloads are kept as shared slices, so that a
/// fan-out does not copy them for each receiver.
#[derive(Debug, Default)]
pub struct Outbox {
    whole: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends `bytes` without copying them.
    pub fn push(&mut self, bytes: Bytes) {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
        self.len += bytes.len();
        self.whole.push_back(bytes);
    }

    /// Appends whatever `encode` appends to the buffer it is given.
    pub fn append<R>(&mut self, encode: impl FnOnce(&mut BytesMut) -> R) -> R {
        let before = self.tail.len();
        let result = encode(&mut self.tail);
        self.len += self.tail.len() - before;
        result
    }

    /// Fills `slices` for a vectored write, from the front; returns how many were filled.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let waiting = self.whole.iter().map(|bytes| &bytes[..]).chain(tail);
        let mut filled = 0;
        for (slice, bytes) in slices.iter_mut().zip(waiting) {
            *slice = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes: they were written.
    ///
    /// # Panics
    /// When `count` is more than [`len`](Self::len).
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len, "cannot forget {count} of {} bytes", self.len);
        self.len -= count;
        let mut left = count;
        while let Some(first) = self.whole.front_mut() {
            if first.len() > left {
                first.advance(left);
                return;
            }
            left -= first.len();
            self.whole.pop_front();
        }
        if left < self.tail.len() {
            self.tail.advance(left);
        } else if self.tail.capacity() > KEPT_CAPACITY {
            self.tail = BytesMut::new();
        } else {
            self.tail.clear();
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
    fn a_small_array_of_slices_is_filled_from_the_front() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"a"));
        outbox.push(Bytes::from_static(b"b"));
        let mut slices = [IoSlice::new(&[]); 1];
        assert_eq!(outbox.chunks(&mut slices), 1);
        assert_eq!(&*slices[0], b"a");
    }
}
