//! Cutting what one side sends into packets, of which those that are too long to be held pass in pieces.

use bytes::{Bytes, BytesMut};

use crate::packet::{Begun, Frame};

/// One direction of a byte stream.
#[derive(Debug)]
pub(super) struct Cutter {
    buffer: BytesMut,
    /// Bytes of `buffer` that were passed on before the stream was taken over.
    passed: usize,
    /// Bytes of the packet at hand that are still to come, which pass as they are.
    left: usize,
    /// Whether there are no packets any more.
    is_blind: bool,
    /// Longer packets pass in pieces.
    longest: usize,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Packet(Bytes),
    /// The beginning of a packet of `size` bytes that is not held until it is whole; the rest comes in parts.
    Begin {
        bytes: Bytes,
        size: usize,
    },
    /// Bytes that are no whole packet, or of one that began before: to be passed on as they are.
    Part(Bytes),
}

impl Cutter {
    pub fn new(begun: Begun, longest: usize) -> Self {
        let mut cutter = Self { buffer: BytesMut::new(), passed: 0, left: 0, is_blind: false, longest };
        match begun {
            Begun::Nothing => {}
            Begun::Bytes(bytes) => {
                cutter.passed = bytes.len();
                cutter.buffer = bytes.into();
            }
            Begun::Left(left) => cutter.left = left,
            Begun::Unknown => cutter.is_blind = true,
        }
        cutter
    }

    pub fn push(&mut self, input: &[u8]) {
        self.buffer.extend_from_slice(input);
    }

    /// Bytes that wait for the rest of their packet, or to be taken.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.passed
    }

    /// From here on there are no packets.
    pub fn go_blind(&mut self) {
        self.is_blind = true;
    }

    /// Whether what is taken next goes on with a packet that began before.
    pub fn goes_on(&self) -> bool {
        self.left > 0 && !self.is_blind
    }

    /// Whether what is taken next begins a packet.
    pub fn is_between_packets(&self) -> bool {
        self.left == 0 && self.passed == 0 && !self.is_blind
    }

    /// What the next packet begins with.
    pub fn next_first_byte(&self) -> Option<u8> {
        let is_begin = self.left == 0 && self.passed == 0 && !self.is_blind;
        self.buffer.first().filter(|_| is_begin).copied()
    }

    /// With `in_pieces` a packet is not held until it is whole.
    pub fn next(&mut self, in_pieces: bool) -> Option<Piece> {
        if self.buffer.is_empty() {
            return None;
        }
        if self.is_blind {
            return self.take_part(self.buffer.len());
        }
        if self.left > 0 {
            let count = self.left.min(self.buffer.len());
            self.left -= count;
            return self.take_part(count);
        }
        // Packet type 0 is reserved [section 2.1.2].
        let size = if self.buffer[0] >> 4 == 0 { None } else { Frame::size(&self.buffer).ok() };
        match size {
            None => {
                self.is_blind = true;
                self.take_part(self.buffer.len())
            }
            Some(None) if in_pieces => {
                self.is_blind = true;
                self.take_part(self.buffer.len())
            }
            Some(None) => None,
            Some(Some(size)) if size > self.longest || (in_pieces && size > self.buffer.len()) => {
                let count = size.min(self.buffer.len());
                self.left = size - count;
                if self.passed > 0 {
                    return self.take_part(count);
                }
                let bytes = Bytes::copy_from_slice(&self.buffer[..count]);
                self.advance(count);
                Some(Piece::Begin { bytes, size })
            }
            Some(Some(size)) if size <= self.buffer.len() => {
                if self.passed > 0 {
                    return self.take_part(size);
                }
                // Whoever holds a packet must not keep those read with it alive.
                let packet = Bytes::copy_from_slice(&self.buffer[..size]);
                self.advance(size);
                Some(Piece::Packet(packet))
            }
            Some(Some(_)) => None,
        }
    }

    /// What waits for the rest of a packet that will never be whole.
    pub fn take_rest(&mut self) -> Bytes {
        let count = self.buffer.len();
        match self.take_part(count) {
            Some(Piece::Part(bytes)) => bytes,
            _ => Bytes::new(),
        }
    }

    fn take_part(&mut self, count: usize) -> Option<Piece> {
        let passed = std::mem::take(&mut self.passed).min(count);
        let part = Bytes::copy_from_slice(&self.buffer[passed..count]);
        self.advance(count);
        Some(Piece::Part(part))
    }

    fn advance(&mut self, count: usize) {
        if count == self.buffer.len() {
            // Most connections have sent whole packets when they fall silent.
            self.buffer = BytesMut::new();
        } else {
            _ = self.buffer.split_to(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(begun: Begun, longest: usize, stream: &[u8], cut: usize) -> Vec<Piece> {
        let mut cutter = Cutter::new(begun, longest);
        let mut pieces = Vec::new();
        for input in [&stream[..cut], &stream[cut..]] {
            cutter.push(input);
            pieces.extend(std::iter::from_fn(|| cutter.next(false)).filter(|piece| *piece != part(&[])));
        }
        pieces
    }

    fn part(bytes: &[u8]) -> Piece {
        Piece::Part(Bytes::copy_from_slice(bytes))
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Packet(bytes) | Piece::Begin { bytes, .. } | Piece::Part(bytes) => bytes.to_vec(),
            })
            .collect()
    }

    const STREAM: [u8; 15] = [0xd0, 0, 0x40, 2, 0, 9, 0x30, 5, 0, 1, b'a', b'x', b'y', 0xd0, 0];

    #[test]
    fn packets_are_whole_wherever_the_input_is_cut() {
        for cut in 0..=STREAM.len() {
            let found = pieces(Begun::Nothing, 100, &STREAM, cut);
            assert_eq!(found.len(), 4, "cut at {cut}: {found:?}");
            assert!(found.iter().all(|piece| matches!(piece, Piece::Packet(_))));
            assert_eq!(joined(&found), STREAM);
        }
    }

    #[test]
    fn a_packet_that_began_before_passes_and_the_next_one_is_whole() {
        for cut in 0..=9 {
            let begun = Bytes::copy_from_slice(&STREAM[..3]).slice(2..);
            let found = pieces(Begun::Bytes(begun), 100, &STREAM[3..12], cut);
            assert_eq!(found[0], part(&STREAM[3..6]), "cut at {cut}");
            let found = pieces(Begun::Left(3), 100, &STREAM[3..], cut);
            assert_eq!(joined(&found[..found.len() - 2]), STREAM[3..6], "cut at {cut}");
            assert_eq!(
                found[found.len() - 2..],
                [
                    Piece::Packet(Bytes::copy_from_slice(&STREAM[6..13])),
                    Piece::Packet(Bytes::copy_from_slice(&STREAM[13..])),
                ]
            );
        }
    }

    #[test]
    fn long_packets_pass_in_pieces_and_the_next_one_is_whole() {
        for cut in 0..=STREAM.len() {
            let found = pieces(Begun::Nothing, 6, &STREAM, cut);
            assert_eq!(joined(&found), STREAM, "cut at {cut}");
            let last = found.last();
            assert_eq!(last, Some(&Piece::Packet(Bytes::copy_from_slice(&STREAM[13..]))), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_packet_passes_from_there_on() {
        let found = pieces(Begun::Nothing, 100, &[0xd0, 0, 0x00, 1, 0xd0, 0], 3);
        assert_eq!(found[0], Piece::Packet(Bytes::from_static(&[0xd0, 0])));
        assert_eq!(joined(&found[1..]), [0x00, 1, 0xd0, 0]);
        assert!(found[1..].iter().all(|piece| matches!(piece, Piece::Part(_))));
    }
}
