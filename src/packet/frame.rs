//! A packet together with its bytes, and cutting a byte stream into such frames.

use bytes::{Bytes, BytesMut};

use super::{
    Connect, ControlPacket, DecodeError, EncodeError, PacketType, ProtocolVersion, packet_type::FixedHeader,
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
    max_packet_size: usize,
    failed: Option<DecodeError>,
}

impl FrameReader {
    /// `max_packet_size` counts the fixed header, as Maximum Packet Size does.
    pub fn new(max_packet_size: usize) -> Self {
        Self { buffer: BytesMut::new(), protocol: None, max_packet_size, failed: None }
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
            return Err(error.clone());
        }
        let next = self.try_next_frame();
        if let Err(error) = &next {
            self.failed = Some(error.clone());
        }
        next
    }

    #[inline]
    fn try_next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let Some(&first_byte) = self.buffer.first() else { return Ok(None) };
        if self.protocol.is_none() && PacketType::of(first_byte) != Some(PacketType::Connect) {
            return Err(DecodeError::NotConnect);
        }
        let size = Frame::size(&self.buffer)?;
        if let Some(size) = size
            && size > self.max_packet_size
        {
            return Err(DecodeError::TooLarge { size, limit: self.max_packet_size });
        }
        match size {
            Some(size) if size <= self.buffer.len() => self.cut(size).map(Some),
            _ => {
                // Why wait for the rest of what will be refused? A CONNECT's flags are the same in
                // every version.
                PacketType::parse(first_byte, self.protocol.unwrap_or(ProtocolVersion::V5))?;
                self.make_room(size.unwrap_or(0));
                Ok(None)
            }
        }
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
