//! Takes a packet's body apart, field by field.

use bytes::Bytes;

use super::{
    BadTopic, DecodeError, PacketIdentifier, PacketType, ReasonCode, TopicFilter, TopicName,
    packet_type::FixedHeader, string, topic,
};

/// The body of the one packet that `frame` holds.
#[inline]
pub(super) fn open(frame: &[u8]) -> Result<Reader<'_>, DecodeError> {
    let header = FixedHeader::parse(frame)?.ok_or(DecodeError::Truncated { field: "fixed header" })?;
    match frame.len().checked_sub(header.size()) {
        Some(0) => Ok(Reader::new(&frame[header.len..])),
        Some(count) => Err(DecodeError::TrailingBytes { packet: "the packet", count }),
        None => Err(DecodeError::Truncated { field: "packet" }),
    }
}

/// What is left of a packet; every method takes one field from its front.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Everything that is left.
    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Checks that nothing is left.
    #[inline]
    pub(super) fn finish(&self, packet: PacketType) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { packet: packet.name(), count }),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// A Variable Byte Integer [section 1.5.5].
    #[inline]
    pub(super) fn variable(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        match self.rest {
            [value @ 0..=0x7F, rest @ ..] => {
                self.rest = rest;
                Ok(u32::from(*value))
            }
            _ => self.variable_long(field),
        }
    }

    fn variable_long(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.u8(field)?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            match byte {
                // A last byte of zero says nothing: fewer would have done [MQTT-1.5.5-1].
                0 if index > 0 => break,
                0..=0x7F => return Ok(value),
                _ => {}
            }
        }
        Err(DecodeError::VariableByteInteger { field })
    }

    /// Binary Data [section 1.5.6].
    #[inline]
    pub(super) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u16(field)?;
        self.take(usize::from(len), field)
    }

    /// A UTF-8 Encoded String [section 1.5.4].
    #[inline]
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        string::check(self.binary(field)?).map_err(|bad| bad.in_field(field))
    }

    #[inline]
    pub(super) fn packet_identifier(&mut self, packet: PacketType) -> Result<PacketIdentifier, DecodeError> {
        let value = self.u16("packet identifier")?;
        PacketIdentifier::new(value).ok_or(DecodeError::PacketIdentifier { packet: packet.name() })
    }

    pub(super) fn reason_code(&mut self, packet: PacketType) -> Result<ReasonCode, DecodeError> {
        let code = ReasonCode(self.u8("reason code")?);
        if !code.is_allowed_in(packet) {
            return Err(DecodeError::ReasonCode { packet: packet.name(), code: code.0 });
        }
        Ok(code)
    }

    /// A Topic Name or nothing, which may stand for a Topic Alias.
    #[inline]
    pub(super) fn topic_name_or_alias(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.binary(field)?;
        if topic::is_plain(bytes) {
            // SAFETY: a plain topic is ASCII.
            return Ok(unsafe { std::str::from_utf8_unchecked(bytes) });
        }
        let text = string::check(bytes).map_err(|bad| bad.in_field(field))?;
        match topic::check_name(text) {
            Ok(()) | Err(BadTopic::Empty) => Ok(text),
            Err(problem) => Err(DecodeError::TopicName { field, problem }),
        }
    }

    pub(super) fn topic_name(
        &mut self,
        frame: &Bytes,
        field: &'static str,
    ) -> Result<TopicName, DecodeError> {
        match self.topic_name_or_alias(field)? {
            "" => Err(DecodeError::TopicName { field, problem: BadTopic::Empty }),
            text => Ok(TopicName::slice(frame, text)),
        }
    }

    pub(super) fn topic_filter(&mut self, frame: &Bytes) -> Result<TopicFilter, DecodeError> {
        let text = self.text("topic filter")?;
        topic::check_filter(text).map_err(DecodeError::TopicFilter)?;
        Ok(TopicFilter::slice(frame, text))
    }
}
