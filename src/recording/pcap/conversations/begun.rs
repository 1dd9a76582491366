//! How a TCP connection began, as one of its first segments tells.

use crate::recording::pcap::{cutter::begins_with_connect, segment::Segment};

/// How a connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// Which of the sides.
    pub(super) client: usize,
    /// Of the client's SYN.
    pub(super) first_sequence: u32,
}

impl Begun {
    /// What a segment from the side `from` tells, if it is one of the first.
    pub(super) fn by(from: usize, segment: &Segment<'_>) -> Option<Self> {
        let (client, behind) = match (segment.is_syn, segment.acknowledged) {
            (true, None) => return Some(Self { client: from, first_sequence: segment.sequence }),
            (true, Some(acknowledged)) => (1 - from, acknowledged),
            _ if begins_with_connect(segment.payload) == Some(true) => (from, segment.sequence),
            _ => return None,
        };
        Some(Self { client, first_sequence: behind.wrapping_sub(1) })
    }
}
