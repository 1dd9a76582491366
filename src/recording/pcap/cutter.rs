//! The MQTT packets in one direction of a connection.
//!
//! A connection that was seen from its beginning is cut as a broker would: after the first error there is
//! nothing but bytes. Where something is missing, at the beginning or later, packets go on at the first
//! piece that reads like the beginning of one; what is before is kept as bytes.

use bytes::{Buf, Bytes, BytesMut};

use crate::{
    packet::{Connect, ControlPacket, Frame, PacketType, ProtocolVersion, fixed_header_len},
    recording::Direction,
};

/// What both directions of a connection have in common.
#[derive(Debug, Default)]
pub struct Dialect {
    pub protocol: Option<ProtocolVersion>,
    /// The CONNECT was not seen: the version is told from what can be read in one only.
    pub is_joined: bool,
    /// What was written by this program: packets are what a fixed header says they are.
    pub is_trusted: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Packet(Bytes),
    Raw(Bytes),
}

#[derive(Debug)]
pub struct Cutter {
    direction: Direction,
    /// Of a packet that has begun.
    buffer: BytesMut,
    step: Step,
    /// Whether something is missing, so that bytes that make no sense are no surprise.
    may_recover: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    In,
    /// Until a piece reads like packets.
    Out,
    /// For good.
    Broken,
}

impl Cutter {
    /// For a direction whose next byte begins a packet.
    pub fn new(direction: Direction) -> Self {
        Self { direction, buffer: BytesMut::new(), step: Step::In, may_recover: false }
    }

    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Nobody knows where in a packet the next byte is; what had begun is bytes.
    pub fn lose(&mut self, out: &mut Vec<Piece>) {
        self.flush(out);
        if self.step != Step::Broken {
            (self.step, self.may_recover) = (Step::Out, true);
        }
    }

    /// There will be no more of the packet that has begun.
    pub fn flush(&mut self, out: &mut Vec<Piece>) {
        let rest = self.buffer.split().freeze();
        if !rest.is_empty() {
            out.push(Piece::Raw(rest));
        }
    }

    /// Cuts what came next, in one piece.
    pub fn push(&mut self, piece: &[u8], dialect: &mut Dialect, out: &mut Vec<Piece>) {
        if self.step == Step::Out && self.reads_like_packets(piece, dialect) {
            self.step = Step::In;
        }
        if self.step != Step::In {
            out.push(Piece::Raw(Bytes::copy_from_slice(piece)));
            return;
        }
        self.buffer.extend_from_slice(piece);
        loop {
            match self.next_packet(dialect) {
                Ok(Some(packet)) => out.push(Piece::Packet(packet)),
                Ok(None) => return,
                Err(NoPacket) => break,
            }
        }
        self.step = if self.may_recover { Step::Out } else { Step::Broken };
        self.flush(out);
    }

    fn next_packet(&mut self, dialect: &mut Dialect) -> Result<Option<Bytes>, NoPacket> {
        let Some(&first) = self.buffer.first() else { return Ok(None) };
        if !self.may_begin(first, dialect) {
            return Err(NoPacket);
        }
        let Some(size) = Frame::size(&self.buffer).map_err(|_| NoPacket)? else { return Ok(None) };
        if size > self.buffer.len() {
            return Ok(None);
        }
        // What is small gets bytes of its own, what is large keeps those it came in.
        const COPIED_MAX: usize = 4096;
        let packet = match size {
            0..COPIED_MAX => Bytes::copy_from_slice(&self.buffer[..size]),
            _ => {
                let rest = self.buffer.split_off(size);
                std::mem::replace(&mut self.buffer, rest).freeze()
            }
        };
        let accepted = accept(&packet, self.direction, dialect);
        match (accepted, size) {
            (true, 0..COPIED_MAX) => self.buffer.advance(size),
            (true, _) => {}
            (false, 0..COPIED_MAX) => return Err(NoPacket),
            (false, _) => {
                let behind = std::mem::replace(&mut self.buffer, BytesMut::from(&packet[..]));
                self.buffer.unsplit(behind);
                return Err(NoPacket);
            }
        }
        Ok(Some(packet))
    }

    /// Whether to wait for the packet that `first` begins.
    fn may_begin(&self, first: u8, dialect: &Dialect) -> bool {
        let Some(kind) = PacketType::of(first) else { return false };
        if dialect.is_trusted {
            return true;
        }
        let is_known = dialect.protocol.is_some() || dialect.is_joined;
        (is_known || kind == PacketType::Connect && self.direction == Direction::ClientToServer)
            && PacketType::parse(first, dialect.protocol.unwrap_or(ProtocolVersion::V5)).is_ok()
    }

    /// Whether `piece` can be packets, the last of them not whole.
    fn reads_like_packets(&self, piece: &[u8], dialect: &Dialect) -> bool {
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            let protocol = dialect.protocol.unwrap_or(ProtocolVersion::V5);
            let Ok(kind) = PacketType::parse(first, protocol) else { return false };
            if !is_sent(kind, self.direction) {
                return false;
            }
            let size = match Frame::size(rest) {
                Ok(Some(size)) => size,
                // A few bytes of a header say nothing, unless packets came before.
                Ok(None) => return rest.len() < piece.len(),
                Err(_) => return false,
            };
            let Some(packet) = rest.get(..size) else { return begins_like(kind, rest, size) };
            let packet = Bytes::copy_from_slice(packet);
            let versions = match dialect.protocol {
                Some(protocol) => vec![protocol],
                None => vec![ProtocolVersion::V311, ProtocolVersion::V5],
            };
            if !versions.into_iter().any(|version| ControlPacket::decode(&packet, version).is_ok()) {
                return false;
            }
            rest = &rest[size..];
        }
        !piece.is_empty()
    }
}

struct NoPacket;

/// Whether `packet` is one; learns the version from it.
fn accept(packet: &Bytes, direction: Direction, dialect: &mut Dialect) -> bool {
    let is_connect =
        direction == Direction::ClientToServer && PacketType::of(packet[0]) == Some(PacketType::Connect);
    if is_connect {
        // It brings its own version.
        let Some(connect) = Connect::read(packet) else { return dialect.is_trusted };
        dialect.protocol = Some(connect.protocol);
        return true;
    }
    if dialect.is_trusted {
        return true;
    }
    if let Some(protocol) = dialect.protocol {
        return ControlPacket::decode(packet, protocol).is_ok();
    }
    let is_readable = |version| ControlPacket::decode(packet, version).is_ok();
    match (is_readable(ProtocolVersion::V311), is_readable(ProtocolVersion::V5)) {
        (true, false) => dialect.protocol = Some(ProtocolVersion::V311),
        (false, true) => dialect.protocol = Some(ProtocolVersion::V5),
        // Of a message in 3.1.1 that would be a payload that begins with valid properties.
        (true, true) if PacketType::of(packet[0]) == Some(PacketType::Publish) => {
            dialect.protocol = Some(ProtocolVersion::V5);
        }
        (true, true) => {}
        (false, false) => return false,
    }
    true
}

fn is_sent(kind: PacketType, direction: Direction) -> bool {
    match kind {
        PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::Pingreq => {
            direction == Direction::ClientToServer
        }
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
            direction == Direction::ServerToClient
        }
        _ => true,
    }
}

/// Whether `start` may be that of a packet of `size` bytes.
fn begins_like(kind: PacketType, start: &[u8], size: usize) -> bool {
    if kind != PacketType::Publish {
        // No others are that long.
        return size <= 64 * 1024;
    }
    let header_len = fixed_header_len(start);
    let Some([high, low, rest @ ..]) = start.get(header_len..) else { return false };
    let topic_len = usize::from(u16::from_be_bytes([*high, *low]));
    let topic = &rest[..topic_len.min(rest.len())];
    let readable = match std::str::from_utf8(topic) {
        Ok(_) => true,
        // Cut in the middle of a character.
        Err(error) => error.error_len().is_none() && topic.len() < topic_len,
    };
    header_len + 2 + topic_len <= size
        && readable
        && !topic.iter().any(|byte| matches!(byte, 0 | b'#' | b'+'))
}

/// Whether what a client sent first is, or may become, a CONNECT; `None` while that is open.
pub fn begins_with_connect(start: &[u8]) -> Option<bool> {
    let Some((0x10, rest)) = start.split_first() else { return start.first().map(|_| false) };
    let len = rest.iter().take(4).take_while(|byte| **byte & 0x80 != 0).count();
    if len == 4 {
        return Some(false);
    }
    let name = rest.get(len + 1..)?;
    let names = [b"\0\x04MQTT".as_slice(), b"\0\x06MQIsdp"];
    match names.iter().any(|known| name.starts_with(known)) {
        true => Some(true),
        false if names.iter().any(|known| known.starts_with(name)) => None,
        false => Some(false),
    }
}
