//! The memory that all connections of a thread are read into, one at a time.

use std::{
    collections::VecDeque,
    io,
    task::{Poll, ready},
};

use bytes::{Bytes, BytesMut};

/// What one read takes at most.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Chunks that wait for the last slice of them to be written, before they are used again. More than
/// these are left to the allocator.
const LENT_MAX: usize = 8;

/// Chunks that are filled by one read each. Whoever needs bytes for longer than until the next read
/// slices them: the chunk is used again when the slices are gone.
#[derive(Default)]
pub(super) struct Scratch {
    chunk: Option<BytesMut>,
    lent: VecDeque<Bytes>,
}

impl Scratch {
    /// Has `read` fill a chunk; the chunk and how much of it was filled. To be
    /// [given back](Self::give_back) when all of it was looked at.
    pub(super) fn read(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<(Bytes, usize)>> {
        let mut chunk = match self.chunk.take() {
            Some(chunk) => chunk,
            None => self.reclaim(),
        };
        let result = read(&mut chunk);
        if !matches!(result, Poll::Ready(Ok(1..))) {
            self.chunk = Some(chunk);
            let count = ready!(result)?;
            return Poll::Ready(Ok((Bytes::new(), count)));
        }
        let count = ready!(result)?;
        Poll::Ready(Ok((chunk.freeze(), count)))
    }

    /// A chunk that nobody has slices of any more, or a new one.
    fn reclaim(&mut self) -> BytesMut {
        for _ in 0..self.lent.len() {
            let Some(chunk) = self.lent.pop_front() else { break };
            match chunk.try_into_mut() {
                Ok(chunk) => return chunk,
                Err(chunk) => self.lent.push_back(chunk),
            }
        }
        BytesMut::zeroed(CHUNK_BYTES)
    }

    pub(super) fn give_back(&mut self, chunk: Bytes) {
        match chunk.try_into_mut() {
            Ok(chunk) if chunk.len() == CHUNK_BYTES => self.chunk = Some(chunk),
            Err(chunk) if chunk.len() == CHUNK_BYTES && self.lent.len() < LENT_MAX => {
                self.lent.push_back(chunk);
            }
            // Nothing was read, or so many are lent already.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(scratch: &mut Scratch, bytes: &[u8]) -> Bytes {
        let fill = |chunk: &mut [u8]| {
            chunk[..bytes.len()].copy_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        };
        let Poll::Ready(Ok((chunk, count))) = scratch.read(fill) else { panic!("nothing was read") };
        assert_eq!(&chunk[..count], bytes);
        chunk
    }

    #[test]
    fn a_chunk_is_used_again_at_once_unless_somebody_keeps_a_slice() {
        let mut scratch = Scratch::default();
        let first = read(&mut scratch, b"one");
        let place = first.as_ptr();
        scratch.give_back(first);
        let second = read(&mut scratch, b"two");
        assert_eq!(second.as_ptr(), place);
        let kept = second.slice(..3);
        scratch.give_back(second);
        let third = read(&mut scratch, b"three");
        assert_ne!(third.as_ptr(), place);
        assert_eq!(kept, "two");
        drop(kept);
        // The third is still being looked at.
        let fourth = read(&mut scratch, b"four");
        assert_eq!(fourth.as_ptr(), place);
        scratch.give_back(third);
        scratch.give_back(fourth);
    }

    #[test]
    fn no_more_chunks_wait_than_may() {
        let mut scratch = Scratch::default();
        let mut kept = Vec::new();
        for _ in 0..LENT_MAX * 2 {
            let chunk = read(&mut scratch, b"x");
            kept.push(chunk.slice(..1));
            scratch.give_back(chunk);
        }
        assert_eq!(scratch.lent.len(), LENT_MAX);
        assert!(kept.iter().all(|slice| slice == "x"));
    }

    #[test]
    fn what_was_not_filled_is_tried_again() {
        let mut scratch = Scratch::default();
        assert!(scratch.read(|_| Poll::Pending).is_pending());
        let failed = scratch.read(|_| Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())));
        assert!(matches!(failed, Poll::Ready(Err(_))));
        assert!(matches!(scratch.read(|_| Poll::Ready(Ok(0))), Poll::Ready(Ok((_, 0)))));
        assert!(scratch.chunk.is_some());
    }
}
