//! What a client is answered in the server's place, in the order of its messages.
//!
//! An ack of our own waits for the server's acks of messages that the client sent before [section 4.6].

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::packet::{PacketIdentifier, PacketType, fixed_header_len};

#[derive(Default)]
pub(super) struct Answers {
    /// Acks that the client is owed, from the first of the server's that is outstanding.
    owed: VecDeque<Owed>,
    /// What may be sent.
    ready: BytesMut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    ByServer(PacketIdentifier),
    ByUs(PacketType, PacketIdentifier),
}

impl Answers {
    /// Beyond as many acks the order is given up: a server that never acknowledges must not make clients wait for ours.
    /// Clients seldom have more in flight.
    const OWED_MAX: usize = 1024;

    /// The server gets a message of QoS 1 or 2.
    pub fn expect(&mut self, identifier: PacketIdentifier) {
        self.owe(Owed::ByServer(identifier));
    }

    /// The server does not get a message, which is acknowledged here: by PUBACK or PUBREC.
    pub fn acknowledge(&mut self, packet: PacketType, identifier: PacketIdentifier) {
        self.owe(Owed::ByUs(packet, identifier));
        self.settle();
    }

    /// At once: PUBCOMP is in no order but that of PUBREL [MQTT-4.6.0-4].
    pub fn complete(&mut self, identifier: PacketIdentifier) {
        self.put(PacketType::Pubcomp, identifier);
    }

    /// Whether the server's acks are to be shown to [`note`](Self::note).
    pub fn is_waiting(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The server sent PUBACK or PUBREC.
    pub fn note(&mut self, ack: &[u8]) {
        let at = fixed_header_len(ack);
        let Some(&[high, low]) = ack.get(at..at + 2) else { return };
        let identifier = PacketIdentifier::new(u16::from_be_bytes([high, low]));
        self.owed.retain(|owed| !matches!(owed, Owed::ByServer(other) if Some(*other) == identifier));
        self.settle();
    }

    /// Bytes that may be sent.
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    pub fn take(&mut self) -> Bytes {
        self.ready.split().freeze()
    }

    fn owe(&mut self, owed: Owed) {
        if self.owed.len() >= Self::OWED_MAX {
            self.owed.retain(|owed| matches!(owed, Owed::ByUs(..)));
            self.settle();
        }
        self.owed.push_back(owed);
    }

    /// Makes ready what waits for nothing.
    fn settle(&mut self) {
        while let Some(&Owed::ByUs(packet, identifier)) = self.owed.front() {
            self.put(packet, identifier);
            self.owed.pop_front();
        }
    }

    fn put(&mut self, packet: PacketType, identifier: PacketIdentifier) {
        let [high, low] = identifier.get().to_be_bytes();
        self.ready.extend_from_slice(&[(packet as u8) << 4, 2, high, low]);
    }
}
