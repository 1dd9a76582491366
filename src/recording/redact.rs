//! Keeping passwords out of recordings.
//!
//! The Password of a CONNECT is replaced by the eight bytes [`PLACEHOLDER`] before the packet is
//! queued or stored: the packet stays valid and still says that there was one, and not even its
//! length is kept. Bytes that begin like a CONNECT but do not parse are searched the same way; if
//! the password's place cannot be told, everything behind the Keep Alive is overwritten with `*`.

use bytes::{BufMut, Bytes, BytesMut};

/// What is recorded in place of a Password.
pub const PLACEHOLDER: &[u8; 8] = b"redacted";

const CONNECT: u8 = 0x10;
const WILL: u8 = 0x04;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// The CONNECT in `packet` without its password; `None` for one without, and for anything else.
pub fn redact_packet(packet: &Bytes) -> Option<Bytes> {
    let mut rest = Cursor::of_connect(packet)?;
    let body = rest.position;
    let password = rest.password()??;
    let end = rest.position;
    let before = &packet[body..password - 2];
    let after = &packet[end..];
    let remaining = before.len() + 2 + PLACEHOLDER.len() + after.len();
    let mut redacted = BytesMut::with_capacity(5 + remaining);
    redacted.put_u8(packet[0]);
    let mut left = remaining;
    while left >= 0x80 {
        redacted.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    redacted.put_u8(left as u8);
    redacted.put_slice(before);
    redacted.put_u16(PLACEHOLDER.len() as u16);
    redacted.put_slice(PLACEHOLDER);
    redacted.put_slice(after);
    Some(redacted.freeze())
}

/// The same for bytes that a client sent first and that do not parse.
pub fn redact_raw(bytes: &Bytes) -> Option<Bytes> {
    if bytes.first()? & 0xf0 != CONNECT {
        return None;
    }
    if let Some(redacted) = redact_packet(bytes) {
        return Some(redacted);
    }
    Some(mask(bytes))
}

/// A CONNECT that was changed on its way, or the part of it that was passed on. What it says now may
/// hide where the password was, so nothing is told of all that could hold it.
pub fn redact_changed(connect: &Bytes) -> Bytes {
    mask(connect)
}

fn mask(connect: &Bytes) -> Bytes {
    // Fixed header, protocol name, level, flags and Keep Alive hold nothing secret; where they end
    // is anybody's guess once something is wrong before that, so the usual length is taken.
    let start = 12.min(connect.len());
    let mut masked = BytesMut::from(&connect[..]);
    masked[start..].fill(b'*');
    masked.freeze()
}

/// Walks the fields of a CONNECT, whatever else may be wrong with it.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    /// Behind the fixed header.
    fn of_connect(bytes: &'a [u8]) -> Option<Self> {
        if bytes.first()? & 0xf0 != CONNECT {
            return None;
        }
        let mut cursor = Self { bytes, position: 1 };
        cursor.length()?;
        Some(cursor)
    }

    /// Where the password's bytes start, leaving the cursor at their end; the inner `None` when the
    /// flags say that there is none, the outer one when the place cannot be told.
    fn password(&mut self) -> Option<Option<usize>> {
        self.field()?;
        let level = self.byte()?;
        let flags = self.byte()?;
        self.skip(2)?;
        // Bit 7 marks a bridge's connection in mosquitto's dialect of 3.1.1.
        let has_properties = level & 0x7f >= 5;
        if has_properties {
            self.properties()?;
        }
        self.field()?;
        if flags & WILL != 0 {
            if has_properties {
                self.properties()?;
            }
            self.field()?;
            self.field()?;
        }
        if flags & USER_NAME != 0 {
            self.field()?;
        }
        if flags & PASSWORD == 0 {
            return Some(None);
        }
        let start = self.position + 2;
        self.field()?;
        Some(Some(start))
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.position)?;
        self.position += 1;
        Some(byte)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.position = self.position.checked_add(count).filter(|end| *end <= self.bytes.len())?;
        Some(())
    }

    /// A field with a length of two bytes before it.
    fn field(&mut self) -> Option<()> {
        let len = usize::from(self.byte()?) << 8 | usize::from(self.byte()?);
        self.skip(len)
    }

    fn properties(&mut self) -> Option<()> {
        let len = self.length()?;
        self.skip(len)
    }

    /// A Variable Byte Integer.
    fn length(&mut self) -> Option<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V311: &[u8] = b"\x10\x1f\0\x04MQTT\x04\xc6\0\x3c\0\x01c\0\x01w\0\x02hi\0\x01u\0\x06secret";
    const V5: &[u8] = b"\x10\x1c\0\x04MQTT\x05\xc2\0\x3c\x03\x21\0\x05\0\x01c\0\x01u\0\x06secret";

    #[test]
    fn a_password_is_replaced_and_the_packet_stays_valid() {
        let redacted = redact_packet(&Bytes::from_static(V311)).unwrap();
        assert_eq!(
            &redacted[..],
            b"\x10\x21\0\x04MQTT\x04\xc6\0\x3c\0\x01c\0\x01w\0\x02hi\0\x01u\0\x08redacted"
        );
        let frame = crate::packet::Frame::decode(redacted, crate::packet::ProtocolVersion::V311).unwrap();
        assert!(matches!(frame.packet, crate::packet::ControlPacket::Connect(connect)
            if connect.password.as_deref() == Some(PLACEHOLDER)));
        let redacted = redact_packet(&Bytes::from_static(V5)).unwrap();
        assert_eq!(
            &redacted[..],
            b"\x10\x1e\0\x04MQTT\x05\xc2\0\x3c\x03\x21\0\x05\0\x01c\0\x01u\0\x08redacted"
        );
    }

    #[test]
    fn what_holds_no_password_is_left_alone() {
        let without = Bytes::from_static(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c");
        assert_eq!(redact_packet(&without), None);
        assert_eq!(redact_packet(&Bytes::from_static(b"\xc0\0")), None);
        assert_eq!(redact_raw(&Bytes::from_static(b"GET / HTTP/1.1")), None);
        assert_eq!(redact_packet(&Bytes::new()), None);
    }

    #[test]
    fn a_connect_that_was_changed_gives_its_password_away_neither() {
        for position in 0..V311.len() {
            let mut changed = BytesMut::from(V311);
            changed[position] ^= 0x40;
            let redacted = redact_changed(&changed.freeze());
            assert!(!redacted.windows(2).any(|two| two == b"cr"), "changed at {position}");
        }
    }

    #[test]
    fn a_connect_that_does_not_parse_gives_its_password_away_neither() {
        for end in 1..V311.len() {
            let redacted = redact_raw(&Bytes::from_static(&V311[..end])).unwrap();
            assert!(!redacted.windows(2).any(|two| two == b"se"), "cut at {end}");
        }
        let whole = redact_raw(&Bytes::from_static(V311)).unwrap();
        assert!(whole.ends_with(PLACEHOLDER));
    }
}
