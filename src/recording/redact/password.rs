//! Keeping passwords out of recordings.
//!
//! The Password of a CONNECT is replaced by the eight bytes [`PLACEHOLDER`] before the packet is
//! queued or stored: the packet stays valid and still says that there was one, and not even its
//! length is kept. Bytes that begin like a CONNECT but do not parse are searched the same way; if
//! the password's place cannot be told, everything behind the Keep Alive is overwritten with `*`.
//! The rest of a long packet that is recorded in pieces is never taken for a CONNECT; where its beginning is missing, the
//! name of the protocol tells the two apart.

use std::{collections::HashMap, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    packet::{Frame, PacketType, fixed_header_len, put_variable},
    recording::{Direction, Event, EventKind, bytes_to_come},
};

/// What is recorded in place of a Password.
pub const PLACEHOLDER: &[u8; 8] = b"redacted";

/// As they stand in a CONNECT [MQTT-3.1.2-1].
const PROTOCOL_NAMES: [&[u8]; 2] = [b"\0\x04MQTT", b"\0\x06MQIsdp"];
const WILL: u8 = 0x04;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;
/// Bytes that will not end while the connection is open.
const UNTIL_CLOSE: usize = usize::MAX;

/// The CONNECT in `packet` without its password; `None` for one without, and for anything else.
pub fn redact_packet(packet: &Bytes) -> Option<Bytes> {
    if !is_connect(packet) {
        return None;
    }
    match Password::find(packet) {
        Password::Absent => None,
        Password::At { body, password } => Some(replace(packet, body, password)),
        Password::Anywhere => Some(mask(packet)),
    }
}

/// A CONNECT that was changed on its way, or the part of it that was passed on. What it says now may
/// hide where the password was, so nothing is told of all that could hold it.
pub fn redact_changed(connect: &Bytes) -> Bytes {
    mask(connect)
}

/// Hides passwords in what one client sends and what does not parse, in however many pieces it comes.
#[derive(Clone, Debug, Default)]
pub struct RawPasswords {
    /// Bytes of a CONNECT that are still to come.
    masked: usize,
    /// Bytes of another packet that are still to come.
    passed: usize,
    /// Whether a packet was read, so that others begin where they should.
    is_up: bool,
}

impl RawPasswords {
    /// Of a connection that had its CONNECT already if it `is_up`.
    pub fn new(is_up: bool) -> Self {
        Self { is_up, ..Self::default() }
    }

    /// Whether a packet was read.
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// A packet was read: the next one begins behind it, and whatever was taken for a CONNECT has ended.
    pub fn packet(&mut self) {
        *self = Self::new(true);
    }

    /// Nobody knows how many bytes are missing: the next one may be of any packet. What is masked stays so.
    pub fn gap(&mut self) {
        self.passed = 0;
    }

    /// The next piece without a password; `None` if it may stay.
    pub fn redact(&mut self, bytes: &Bytes) -> Option<Bytes> {
        let (masked, rest) = self.split(bytes);
        let (passed, next) = rest.split_at(self.passed.min(rest.len()));
        self.passed -= passed.len();
        let redacted =
            if self.may_begin_connect(next) { Some(self.begin(&bytes.slice_ref(next))) } else { None };
        if self.is_up && redacted.is_none() && !next.is_empty() {
            self.passed = bytes_to_come(next).unwrap_or(0);
        }
        if masked.is_empty() && redacted.is_none() {
            return None;
        }
        Some([&masked[..], passed, redacted.as_deref().unwrap_or(next)].concat().into())
    }

    /// What still belongs to a CONNECT, overwritten, and what follows it.
    pub fn split<'a>(&mut self, bytes: &'a [u8]) -> (Bytes, &'a [u8]) {
        let (masked, rest) = bytes.split_at(self.masked.min(bytes.len()));
        if !masked.is_empty() {
            self.skip(masked.len() as u64);
        }
        (Bytes::from(vec![b'*'; masked.len()]), rest)
    }

    /// So many bytes are missing.
    pub fn skip(&mut self, count: u64) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if self.masked == 0 {
            self.passed = self.passed.saturating_sub(count);
        } else if self.masked != UNTIL_CLOSE {
            self.masked = self.masked.saturating_sub(count);
        }
    }

    /// Where packets are read, `bytes` may also be from the middle of a long one whose beginning is missing.
    fn may_begin_connect(&self, bytes: &[u8]) -> bool {
        is_connect(bytes) && (!self.is_up || names_protocol(bytes))
    }

    fn begin(&mut self, connect: &Bytes) -> Bytes {
        let size = Frame::size(connect).ok().flatten();
        self.masked = match size {
            Some(size) if size >= connect.len() => size - connect.len(),
            // Where it ends is anybody's guess, or what follows it was overwritten, too, and may go on.
            _ => UNTIL_CLOSE,
        };
        match Password::find(connect) {
            Password::At { body, password } => replace(connect, body, password),
            // A good one in a bad place.
            Password::Absent if size == Some(connect.len()) => connect.clone(),
            Password::Absent | Password::Anywhere => mask(connect),
        }
    }
}

/// Takes passwords out of the events of a recording, in their order.
#[derive(Debug, Default)]
pub struct Passwords {
    /// Of connections that are open.
    raw: HashMap<u32, RawPasswords>,
}

impl Passwords {
    /// Whether the event is not as it was.
    pub fn redact(&mut self, event: &mut Event) -> bool {
        match &mut event.kind {
            EventKind::Open(info) => {
                self.raw.insert(event.connection, RawPasswords::new(info.is_up()));
                false
            }
            EventKind::Packet { direction, bytes } => {
                if *direction == Direction::ClientToServer {
                    self.raw.entry(event.connection).or_default().packet();
                }
                set(bytes, redact_packet)
            }
            EventKind::Raw { direction: Direction::ClientToServer, bytes } => {
                let raw = self.raw.entry(event.connection).or_default();
                set(bytes, |bytes| raw.redact(bytes))
            }
            EventKind::Fault(fault) if fault.packet_type == PacketType::Connect => {
                let mut is_changed = false;
                for bytes in [&mut fault.received, &mut fault.sent].into_iter().flatten() {
                    is_changed |= set(bytes, |bytes| Some(redact_changed(bytes)));
                }
                is_changed
            }
            EventKind::Close(_) => {
                self.raw.remove(&event.connection);
                false
            }
            EventKind::Gap { .. } => {
                match event.connection {
                    0 => self.raw.values_mut().for_each(RawPasswords::gap),
                    number => _ = self.raw.get_mut(&number).map(RawPasswords::gap),
                }
                false
            }
            _ => false,
        }
    }
}

/// Whether they are others now.
fn set(bytes: &mut Bytes, redact: impl FnOnce(&Bytes) -> Option<Bytes>) -> bool {
    match redact(bytes) {
        Some(redacted) if redacted != *bytes => {
            *bytes = redacted;
            true
        }
        _ => false,
    }
}

fn is_connect(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| PacketType::of(*first) == Some(PacketType::Connect))
}

/// Whether the name of the protocol follows the fixed header, as far as `bytes` go.
fn names_protocol(bytes: &[u8]) -> bool {
    // A length of more than four bytes is none, and what is behind those four may be good again.
    let name = bytes.get(fixed_header_len(bytes).min(5)..).unwrap_or_default();
    PROTOCOL_NAMES.iter().any(|known| known.iter().zip(name).all(|(known, byte)| known == byte))
}

/// The packet's bytes with another password. Those behind it have no business there: they may be the rest
/// of a password whose length is wrong.
fn replace(packet: &[u8], body: usize, password: Range<usize>) -> Bytes {
    let before = &packet[body..password.start - 2];
    let after = packet.len() - password.end;
    let remaining = before.len() + 2 + PLACEHOLDER.len() + after;
    let mut redacted = BytesMut::with_capacity(5 + remaining);
    redacted.put_u8(packet[0]);
    put_variable(remaining, |byte| redacted.put_u8(byte));
    redacted.put_slice(before);
    redacted.put_u16(PLACEHOLDER.len() as u16);
    redacted.put_slice(PLACEHOLDER);
    redacted.put_bytes(b'*', after);
    redacted.freeze()
}

fn mask(connect: &Bytes) -> Bytes {
    // Fixed header, protocol name, level, flags and Keep Alive hold nothing secret; where they end
    // is anybody's guess once something is wrong before that, so the usual length is taken.
    let start = 12.min(connect.len());
    let mut masked = BytesMut::from(&connect[..]);
    masked[start..].fill(b'*');
    masked.freeze()
}

/// Where a CONNECT has its password.
enum Password {
    /// The flags say that there is none, and nothing is left over.
    Absent,
    At {
        /// Behind the fixed header.
        body: usize,
        password: Range<usize>,
    },
    /// Nobody can tell.
    Anywhere,
}

impl Password {
    fn find(connect: &[u8]) -> Self {
        Cursor::find_password(connect).unwrap_or(Self::Anywhere)
    }
}

/// Walks the fields of a CONNECT, whatever else may be wrong with it.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    /// `None` when the fields do not fit what is there.
    fn find_password(connect: &'a [u8]) -> Option<Password> {
        let mut cursor = Self { bytes: connect, position: 1 };
        cursor.length()?;
        let body = cursor.position;
        cursor.field()?;
        // Bit 7 marks a bridge's connection in mosquitto's dialect of 3.1.1.
        let has_properties = match cursor.byte()? & 0x7f {
            3 | 4 => false,
            5 => true,
            _ => return None,
        };
        let flags = cursor.byte()?;
        cursor.skip(2)?;
        if has_properties {
            cursor.properties()?;
        }
        cursor.field()?;
        if flags & WILL != 0 {
            if has_properties {
                cursor.properties()?;
            }
            cursor.field()?;
            cursor.field()?;
        }
        if flags & USER_NAME != 0 {
            cursor.field()?;
        }
        if flags & PASSWORD == 0 {
            return (cursor.position == connect.len()).then_some(Password::Absent);
        }
        let start = cursor.position + 2;
        cursor.field()?;
        Some(Password::At { body, password: start..cursor.position })
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
        assert_eq!(redacted_raw(&[b"GET / HTTP/1.1"]), b"GET / HTTP/1.1");
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
            let redacted = redacted_raw(&[&V311[..end], &V311[end..]]);
            assert!(!redacted.windows(2).any(|two| two == b"se" || two == b"cr"), "cut at {end}");
        }
        assert!(redacted_raw(&[V311]).ends_with(PLACEHOLDER));
    }

    #[test]
    fn a_connect_whose_end_nobody_knows_is_overwritten_until_the_connection_closes() {
        let endless = b"\x10\xff\xff\xff\xff\0\x04MQTT\x04\xc2\0\x3c\0\x01c\0\x01u\0\x06";
        for pieces in [[&endless[..], b"sec", b"ret"], [b"\x10", &endless[1..], b"secret"]] {
            let redacted = redacted_raw(&pieces);
            assert!(!redacted.windows(2).any(|two| two == b"se" || two == b"re"), "{redacted:?}");
        }
    }

    #[test]
    fn what_stands_behind_a_password_is_overwritten() {
        // Its length says two bytes less than there are.
        let mut short = V311.to_vec();
        short[26] = 4;
        let expected = b"\x10\x23\0\x04MQTT\x04\xc6\0\x3c\0\x01c\0\x01w\0\x02hi\0\x01u\0\x08redacted**";
        assert_eq!(short[25..27], [0, 4]);
        assert_eq!(redacted_raw(&[&short]), expected);
        assert_eq!(redact_packet(&Bytes::from(short)).unwrap(), &expected[..]);
    }

    #[test]
    fn a_packet_that_hides_where_its_password_is_is_masked() {
        let mut level = V311.to_vec();
        level[8] = 9;
        let mut flags = V311.to_vec();
        flags[9] &= !PASSWORD;
        for packet in [level, flags, V311[..30].to_vec()] {
            let redacted = redact_packet(&Bytes::from(packet.clone())).unwrap();
            assert!(redacted[12..].iter().all(|byte| *byte == b'*'), "{packet:?}");
        }
    }

    #[test]
    fn the_rest_of_a_long_packet_is_no_connect_whatever_it_looks_like() {
        let mut raw = RawPasswords::default();
        raw.packet();
        let pieces: [&[u8]; 4] = [b"\x30\x30\0\x01t", V311, b"\x10\xff", b"0123456789"];
        for piece in pieces {
            assert_eq!(raw.redact(&Bytes::from_static(piece)), None, "{piece:?}");
        }
        // Behind it there may be one, in the same piece, too.
        let mut both = raw.clone();
        both.passed = 2;
        let piece = [b"ab".as_slice(), V311].concat();
        let redacted = both.redact(&piece.into()).unwrap();
        assert!(redacted.starts_with(b"ab\x10") && redacted.ends_with(PLACEHOLDER), "{redacted:?}");
        assert!(raw.redact(&Bytes::from_static(V311)).unwrap().ends_with(PLACEHOLDER));
    }

    #[test]
    fn the_middle_of_a_packet_whose_beginning_is_missing_is_no_connect() {
        let mut raw = RawPasswords::new(true);
        let stays = |raw: &mut RawPasswords, piece: &'static [u8]| {
            assert_eq!(raw.redact(&Bytes::from_static(piece)), None, "{piece:?}");
        };
        stays(&mut raw, b"\x10\x7fsome of the payload");
        stays(&mut raw, b"\x1f\xff\xff\xff\xffsome of the payload");
        raw.packet();
        stays(&mut raw, b"\x30\x30\0\x01t");
        stays(&mut raw, b"0123456789");
    }

    #[test]
    fn a_second_connect_in_raw_is_searched() {
        let endless = b"\x10\xff\xff\xff\xff\0\x04MQTT\x04\xc2\0\x3c\0\x01c\0\x01u\0\x06secret";
        let old = b"\x10\x1b\0\x06MQIsdp\x03\xc2\0\x3c\0\x01c\0\x01u\0\x06secret";
        for connect in [V311, V5, old, endless] {
            for end in 1..=connect.len() {
                let mut raw = RawPasswords::new(true);
                let pieces = [&connect[..end], &connect[end..]].map(Bytes::copy_from_slice);
                let redacted = pieces.map(|piece| raw.redact(&piece).unwrap_or(piece)).concat();
                assert!(
                    !redacted.windows(2).any(|two| two == b"se" || two == b"cr"),
                    "{connect:?} cut at {end}"
                );
            }
        }
    }

    #[test]
    fn what_was_masked_ends_with_the_next_packet() {
        let mut raw = RawPasswords::default();
        assert!(raw.redact(&Bytes::from_static(b"\x10\xff\xff\xff\xffno end to it")).is_some());
        raw.packet();
        assert_eq!(raw.redact(&Bytes::from_static(b"\x30\x30\0\x01tlong")), None);
    }

    #[test]
    fn who_never_sent_a_packet_has_every_piece_searched() {
        assert!(redacted_raw(&[b"\x30\x7f\0\x01t", V311]).ends_with(PLACEHOLDER));
    }

    #[test]
    fn a_long_packet_in_a_file_stays_as_it_is() {
        use crate::recording::sample;

        let mut passwords = Passwords::default();
        let raw = |bytes: &'static [u8]| EventKind::Raw {
            direction: Direction::ClientToServer,
            bytes: Bytes::from_static(bytes),
        };
        let start = raw(b"\x30\x80\x01\0\x01t");
        let connect = sample::connect("dev", crate::packet::ProtocolVersion::V311);
        let kinds = [sample::open(), connect, start, raw(V311)];
        for mut event in sample::events(kinds.map(|kind| (0, 1, kind))) {
            assert!(!passwords.redact(&mut event), "{event:?}");
        }
    }

    #[test]
    fn a_gap_ends_a_long_packet() {
        use crate::{packet::ProtocolVersion::V311 as PROTOCOL, recording::sample};

        let raw = |bytes: &'static [u8]| EventKind::Raw {
            direction: Direction::ClientToServer,
            bytes: Bytes::from_static(bytes),
        };
        for (connection, is_changed) in [(0, true), (1, true), (2, false)] {
            let mut passwords = Passwords::default();
            let events = sample::events([
                (0, 1, sample::open()),
                (1, 1, sample::connect("dev", PROTOCOL)),
                (2, 1, raw(b"\x30\x80\x01\0\x01t")),
                (3, connection, EventKind::Gap { events: 1, bytes: 0 }),
                (4, 1, raw(V311)),
            ]);
            let changed: Vec<_> = events.into_iter().map(|mut event| passwords.redact(&mut event)).collect();
            assert_eq!(changed, [false, false, false, false, is_changed], "a gap of {connection}");
        }
    }

    #[test]
    fn what_was_redacted_stays_as_it_is() {
        for pieces in [[V311, b"x"], [&V311[..20], &V311[20..]], [b"\x10", &V311[1..]]] {
            let (mut first, mut second) = (RawPasswords::default(), RawPasswords::default());
            for piece in pieces {
                let piece = Bytes::from_static(piece);
                let once = first.redact(&piece).unwrap_or(piece);
                assert_eq!(second.redact(&once).unwrap_or_else(|| once.clone()), once);
            }
        }
    }

    fn redacted_raw(pieces: &[&[u8]]) -> Vec<u8> {
        let mut raw = RawPasswords::default();
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece));
        pieces.flat_map(|piece| raw.redact(&piece).unwrap_or(piece)).collect()
    }
}
