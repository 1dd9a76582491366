//! Control Packet types and the fixed header that every packet starts with.

use super::{DecodeError, ProtocolVersion};

/// The type of a Control Packet; its number is the upper half of the first byte [section 2.1.2].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::Connack,
        Self::Publish,
        Self::Puback,
        Self::Pubrec,
        Self::Pubrel,
        Self::Pubcomp,
        Self::Subscribe,
        Self::Suback,
        Self::Unsubscribe,
        Self::Unsuback,
        Self::Pingreq,
        Self::Pingresp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The type that [`name`](Self::name) names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|packet| packet.name() == name)
    }

    /// The name the standard prints, in capitals: `PUBLISH`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// The type that the first byte of a packet names, its flags aside; `None` for type 0.
    #[inline]
    pub const fn of(first_byte: u8) -> Option<Self> {
        match first_byte >> 4 {
            0 => None,
            number => Some(Self::ALL[number as usize - 1]),
        }
    }

    /// The type that `first_byte` names, with its flags checked [MQTT-2.1.3-1].
    #[inline]
    pub fn parse(first_byte: u8, protocol: ProtocolVersion) -> Result<Self, DecodeError> {
        let flags = first_byte & 0x0F;
        match Self::of(first_byte) {
            Some(Self::Publish) if flags & 0b0110 == 0b0110 => Err(DecodeError::QoS { field: "PUBLISH" }),
            Some(Self::Publish) if flags & 0b1110 == 0b1000 => Err(DecodeError::DupAtMostOnce),
            Some(Self::Publish) => Ok(Self::Publish),
            None => Err(DecodeError::ReservedType(0)),
            Some(Self::Auth) if protocol < ProtocolVersion::V5 => Err(DecodeError::ReservedType(15)),
            Some(packet) if packet.flags_are_valid(flags, protocol) => Ok(packet),
            Some(packet) => Err(DecodeError::Flags { packet: packet.name(), flags }),
        }
    }

    fn flags_are_valid(self, flags: u8, protocol: ProtocolVersion) -> bool {
        // MQTT 3.1 sends these three at QoS 1, and repeats them with DUP.
        let may_repeat = matches!(self, Self::Pubrel | Self::Subscribe | Self::Unsubscribe);
        flags == self.reserved_flags() || protocol == ProtocolVersion::V31 && may_repeat && flags == 0b1010
    }

    /// The lower half of the first byte, of all types but PUBLISH.
    const fn reserved_flags(self) -> u8 {
        match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// The first byte of a packet of this type, of all types but PUBLISH.
    pub(super) const fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.reserved_flags()
    }
}

impl std::fmt::Display for PacketType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The lengths that a fixed header says; its first byte is [`PacketType::parse`]'s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FixedHeader {
    /// 2 to 5.
    pub(super) len: usize,
    /// Remaining Length: what follows the fixed header.
    pub(super) remaining: usize,
}

impl FixedHeader {
    /// `None` while bytes are missing.
    #[inline]
    pub(super) fn parse(start: &[u8]) -> Result<Option<Self>, DecodeError> {
        match *start {
            // Nearly every packet is shorter than 128 bytes, or than 16 KiB.
            [_, low @ 0..=0x7F, ..] => Ok(Some(Self { len: 2, remaining: usize::from(low) })),
            [_, low, high @ 1..=0x7F, ..] => {
                Ok(Some(Self { len: 3, remaining: usize::from(low & 0x7F) | usize::from(high) << 7 }))
            }
            _ => Self::parse_long(start),
        }
    }

    #[cold]
    fn parse_long(start: &[u8]) -> Result<Option<Self>, DecodeError> {
        const BAD: DecodeError = DecodeError::VariableByteInteger { field: "remaining length" };
        let mut remaining = 0;
        for (index, byte) in start.iter().skip(1).enumerate() {
            remaining |= usize::from(byte & 0x7F) << (7 * index);
            match byte {
                // A last byte of zero says nothing: fewer would have done [MQTT-1.5.5-1].
                0 if index > 0 => return Err(BAD),
                0..=0x7F => return Ok(Some(Self { len: 2 + index, remaining })),
                _ if index == 3 => return Err(BAD),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The size of the whole packet.
    pub(super) fn size(self) -> usize {
        self.len + self.remaining
    }
}
