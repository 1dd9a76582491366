//! A packet together with its bytes, and cutting a byte stream into such frames.

use bytes::{Bytes, BytesMut};

use super::{
    Connect, ControlPacket, DecodeError, EncodeError, PacketType, ProtocolVersion, PublishRef,
    packet_type::FixedHeader,
};

/// A Control Packet and the bytes it was received in or is sent as.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub bytes: Bytes,
    pub packet: ControlPacket,
}

impl Frame {
    /// Decodes `bytes`, which hold exactly one packet.
    pub fn decode(bytes: Bytes, protocol: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet = ControlPacket::decode(&bytes, protocol)?;
        Ok(Self { bytes, packet })
    }

    pub fn encode(packet: ControlPacket, protocol: ProtocolVersion) -> Result<Self, EncodeError> {
        let mut bytes = BytesMut::new();
        packet.encode(protocol, &mut bytes)?;
        Ok(Self { bytes: bytes.freeze(), packet })
    }

    /// The size of the packet that `start` begins, from its fixed header alone.
    ///
    /// `None` while the fixed header is incomplete.
    pub fn size(start: &[u8]) -> Result<Option<usize>, DecodeError> {
        Ok(FixedHeader::parse(start)?.map(FixedHeader::size))
    }
}

/// Where in its packets one direction of a byte stream is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Begun {
    /// Between two packets.
    #[default]
    Nothing,
    /// Behind these bytes of one.
    Bytes(Bytes),
    /// So many bytes before the end of one.
    Left(usize),
    /// Nobody knows: bytes that are no packets.
    Unknown,
}

impl Begun {
    /// Behind `bytes`, which a packet begins with if there are any.
    pub fn behind(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::Nothing,
            bytes => Self::Bytes(Bytes::copy_from_slice(bytes)),
        }
    }
}

/// Cuts what a peer sends into frames, whatever pieces it arrives in.
///
/// The first packet of a connection is CONNECT; until one came, or
/// [`set_protocol`](Self::set_protocol) was called, nothing else is accepted [MQTT-3.1.0-1]. The
/// first error is the last word: every later call returns it again.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    /// Unknown until a CONNECT was seen or [`set_protocol`](Self::set_protocol) said.
    protocol: Option<ProtocolVersion>,
    max_packet_size: u32,
    /// The same of packets other than PUBLISH; no more.
    max_control_size: u32,
    failed: Option<Box<DecodeError>>,
}

impl FrameReader {
    /// `max_packet_size` counts the fixed header, as Maximum Packet Size does.
    pub fn new(max_packet_size: usize) -> Self {
        let max_packet_size = u32::try_from(max_packet_size).unwrap_or(u32::MAX);
        Self {
            buffer: BytesMut::new(),
            protocol: None,
            max_packet_size,
            max_control_size: max_packet_size,
            failed: None,
        }
    }

    /// Packets other than PUBLISH, and what a PUBLISH has before its payload, may be no longer than `size`.
    pub fn limit_control_packets(&mut self, size: usize) {
        self.max_control_size = u32::try_from(size).unwrap_or(u32::MAX).min(self.max_packet_size);
    }

    /// Also known after a CONNECT that was an error, if its protocol name and version were none.
    pub fn protocol(&self) -> Option<ProtocolVersion> {
        self.protocol
    }

    /// For the side that sent the CONNECT.
    pub fn set_protocol(&mut self, protocol: ProtocolVersion) {
        self.protocol = Some(protocol);
    }

    /// Where to append what was read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole packet, or `None` when more bytes are needed. A CONNECT sets the protocol.
    /// Checked before anything is buffered for it: a packet over the limit is an error as soon as
    /// its fixed header is there.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err((**error).clone());
        }
        let next = self.try_next_frame();
        if let Err(error) = &next {
            self.failed = Some(Box::new(error.clone()));
        }
        next
    }

    #[inline]
    fn try_next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        match self.measure(&self.buffer)? {
            Some(size) if size <= self.buffer.len() => self.cut(size).map(Some),
            size => {
                self.make_room(size.unwrap_or(0));
                Ok(None)
            }
        }
    }

    /// Takes the bytes of the next whole packet off the front of `input`, for bytes that follow what was
    /// already returned while nothing is [buffered](Self::buffer). They are yet to be decoded.
    ///
    /// `None` when `input` holds no whole packet any more: what is left of it belongs into the buffer.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame), for what its fixed header tells about a packet and a CONNECT
    /// about its version; the last word just as well.
    #[inline]
    pub fn next_in_place<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
        debug_assert!(self.buffer.is_empty(), "a packet has begun before");
        if let Some(error) = &self.failed {
            return Err((**error).clone());
        }
        let next = self.try_next_in_place(input);
        if let Err(error) = &next {
            self.failed = Some(Box::new(error.clone()));
        }
        next
    }

    #[inline]
    fn try_next_in_place<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
        let Some(size) = self.measure(input)? else { return Ok(None) };
        let Some((bytes, rest)) = input.split_at_checked(size) else { return Ok(None) };
        if self.protocol.is_none() {
            self.protocol = Some(Connect::peek_protocol(bytes)?);
        }
        *input = rest;
        Ok(Some(bytes))
    }

    /// Moves from the front of `input` to the buffer what the packet that has begun there still lacks.
    pub fn complete(&mut self, input: &mut &[u8]) {
        loop {
            let missing = match Frame::size(&self.buffer) {
                Ok(Some(size)) => size.saturating_sub(self.buffer.len()),
                // The fixed header is not whole.
                Ok(None) => 1,
                Err(_) => 0,
            };
            let (part, rest) = input.split_at(missing.min(input.len()));
            if part.is_empty() {
                return;
            }
            self.buffer.extend_from_slice(part);
            *input = rest;
        }
    }

    /// The size of the packet that `start` begins, if enough of it is there to tell.
    #[inline(always)]
    fn measure(&self, start: &[u8]) -> Result<Option<usize>, DecodeError> {
        let Some(&first_byte) = start.first() else { return Ok(None) };
        if self.protocol.is_none() && PacketType::of(first_byte) != Some(PacketType::Connect) {
            return Err(DecodeError::NotConnect);
        }
        let size = Frame::size(start)?;
        if let Some(size) = size
            && size > self.max_control_size as usize
        {
            let limit = match PacketType::of(first_byte) {
                Some(PacketType::Publish) => self.max_packet_size,
                _ => self.max_control_size,
            } as usize;
            if size > limit {
                return Err(DecodeError::TooLarge { size, limit });
            }
        }
        if size.is_none_or(|size| size > start.len()) {
            // Why wait for the rest of what will be refused? A CONNECT's flags are the same in
            // every version.
            PacketType::parse(first_byte, self.protocol.unwrap_or(ProtocolVersion::V5))?;
        }
        Ok(size)
    }

    #[inline]
    fn cut(&mut self, size: usize) -> Result<Frame, DecodeError> {
        let bytes = self.buffer.split_to(size).freeze();
        match self.decode(&bytes) {
            Ok(packet) => Ok(Frame { bytes, packet }),
            Err(error) => {
                let behind = std::mem::replace(&mut self.buffer, BytesMut::from(&bytes[..]));
                self.buffer.unsplit(behind);
                Err(error)
            }
        }
    }

    #[inline]
    fn decode(&mut self, bytes: &Bytes) -> Result<ControlPacket, DecodeError> {
        let protocol = match self.protocol {
            Some(protocol) => protocol,
            None => *self.protocol.insert(Connect::peek_protocol(bytes)?),
        };
        let limit = self.max_control_size as usize;
        if bytes.len() > limit {
            // A PUBLISH, then. Decoded, each of its properties would take many times as much.
            let head = bytes.len() - PublishRef::decode(bytes, protocol)?.payload.len();
            if head > limit {
                return Err(DecodeError::TooLarge { size: head, limit });
            }
        }
        ControlPacket::decode(bytes, protocol)
    }

    /// Reserves for a packet of `size` bytes, but no more than the peer has shown it will send.
    fn make_room(&mut self, size: usize) {
        const LEAST: usize = 4 * 1024;
        let missing = size.saturating_sub(self.buffer.len());
        self.buffer.reserve(missing.min(self.buffer.len().max(LEAST)));
    }

    /// Everything not yet returned as a frame, for passing on or recording bytes that do not parse:
    /// the packet that was an error included.
    pub fn take_rest(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }
}
