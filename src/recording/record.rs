//! One event as the bytes it is stored in.
//!
//! ```text
//! length      varint, of everything after it
//! kind        one byte, see `Kind`
//! delta       varint, nanoseconds since the event before (since 0 for the first)
//! connection  varint
//! body        PACKET, RAW: the bytes; MARK: the text; CLOSE: the cause's number; GAP: two varints;
//!             MOCK: messages as a varint, then mock, client identifier and topic, each as length and text;
//!             FAULT: flags, packet type, n as a varint, then rule, action, detail, client identifier
//!             and topic, each as length and text, then what was received and what was sent as far
//!             as the flags say they are there, each as length and bytes;
//!             STATE: a flag, client identifier as length and text if it says so, then the packet;
//!             ANCHOR: nanoseconds since 1970 as a varint, the lowest bit set before that;
//!             OPEN: flags, protocol level or 0, transport, then peer, listener, upstream and client
//!             identifier as far as the flags say they are there, each as length and text
//! ```
//! Varints hold seven bits a byte, lowest first. A record depends on the event before it alone, not
//! on how records are cut into blocks, so the SHA-256 over all of them belongs to the events. Bytes
//! after a body and kinds that are not known come from later versions of this format: an error.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::{CloseCause, ConnectionInfo, Direction, Event, EventKind, FaultInjected, InForce, MockFired};
use crate::packet::{PacketType, ProtocolVersion};

const OPEN: u8 = 1;
const PACKET_FROM_CLIENT: u8 = 2;
const PACKET_FROM_SERVER: u8 = 3;
const RAW_FROM_CLIENT: u8 = 4;
const RAW_FROM_SERVER: u8 = 5;
const CLOSE: u8 = 6;
const MARK: u8 = 7;
const GAP: u8 = 8;
const MOCK: u8 = 9;
const FAULT: u8 = 10;
const STATE: u8 = 11;
const ANCHOR: u8 = 12;

const HAS_PEER: u8 = 1;
const HAS_LISTENER: u8 = 2;
const HAS_UPSTREAM: u8 = 4;
const HAS_CLIENT_IDENTIFIER: u8 = 8;
const ALREADY_OPEN: u8 = 16;

const FROM_SERVER: u8 = 1;
const HAS_RECEIVED: u8 = 2;
const HAS_SENT: u8 = 4;

/// Why stored bytes are no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("the event ends in its {0}")]
    Truncated(&'static str),
    #[error("{0} is longer than 64 bits")]
    LongNumber(&'static str),
    #[error("unknown event kind {0}")]
    UnknownKind(u8),
    #[error("unknown {field} {value}")]
    UnknownValue { field: &'static str, value: u64 },
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    #[error("{0} bytes after the end of the event")]
    Trailing(usize),
}

/// Nanoseconds of an offset; those past 584 years are cut.
pub fn nanoseconds(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

/// Appends `event`; `before` is the offset of the event before it in nanoseconds.
pub fn encode(event: &Event, before: u64, out: &mut Vec<u8>) {
    let (kind, body_len) = match &event.kind {
        EventKind::Open(info) => (OPEN, open_len(info)),
        EventKind::Packet { direction: Direction::ClientToServer, bytes } => {
            (PACKET_FROM_CLIENT, bytes.len())
        }
        EventKind::Packet { direction: Direction::ServerToClient, bytes } => {
            (PACKET_FROM_SERVER, bytes.len())
        }
        EventKind::Raw { direction: Direction::ClientToServer, bytes } => (RAW_FROM_CLIENT, bytes.len()),
        EventKind::Raw { direction: Direction::ServerToClient, bytes } => (RAW_FROM_SERVER, bytes.len()),
        EventKind::Close(_) => (CLOSE, 1),
        EventKind::Mark(label) => (MARK, label.len()),
        EventKind::Mock(fired) => (MOCK, mock_len(fired)),
        EventKind::Fault(fault) => (FAULT, fault_len(fault)),
        EventKind::State(in_force) => (STATE, in_force_len(in_force)),
        EventKind::Anchor(wall) => (ANCHOR, varint_len(zigzag(*wall))),
        EventKind::Gap { events, bytes } => (GAP, varint_len(*events) + varint_len(*bytes)),
    };
    let delta = nanoseconds(event.at).saturating_sub(before);
    let connection = u64::from(event.connection);
    let len = 1 + varint_len(delta) + varint_len(connection) + body_len;
    out.reserve(varint_len(len as u64) + len);
    put_varint(len as u64, out);
    out.push(kind);
    put_varint(delta, out);
    put_varint(connection, out);
    match &event.kind {
        EventKind::Open(info) => put_open(info, out),
        EventKind::Packet { bytes, .. } | EventKind::Raw { bytes, .. } => out.extend_from_slice(bytes),
        EventKind::Close(cause) => out.push(close_number(*cause)),
        EventKind::Mark(label) => out.extend_from_slice(label.as_bytes()),
        EventKind::Mock(fired) => put_mock(fired, out),
        EventKind::Fault(fault) => put_fault(fault, out),
        EventKind::State(in_force) => put_in_force(in_force, out),
        EventKind::Anchor(wall) => put_varint(zigzag(*wall), out),
        EventKind::Gap { events, bytes } => {
            put_varint(*events, out);
            put_varint(*bytes, out);
        }
    }
}

/// How long the record that `start` begins is, its length field included; `None` when that field
/// is not whole yet.
pub fn record_len(start: &[u8]) -> Result<Option<usize>, BadRecord> {
    let mut rest = start;
    match take_varint(&mut rest, "length") {
        Ok(len) => {
            let field = start.len() - rest.len();
            usize::try_from(len)
                .ok()
                .and_then(|len| len.checked_add(field))
                .map(Some)
                .ok_or(BadRecord::LongNumber("length"))
        }
        Err(BadRecord::Truncated(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a record says before its body, without taking it apart.
#[derive(Debug)]
pub struct Outline<'a> {
    /// Of the whole record.
    pub len: usize,
    /// Nanoseconds since the event before.
    pub delta: u64,
    pub connection: u64,
    /// Which way a whole packet went, and its bytes; `None` for other events.
    pub packet: Option<(Direction, &'a [u8])>,
}

/// The outline of the record that `start` begins.
pub fn outline(start: &[u8]) -> Result<Outline<'_>, BadRecord> {
    let len = record_len(start)?.filter(|len| *len <= start.len()).ok_or(BadRecord::Truncated("length"))?;
    let mut rest = &start[..len];
    take_varint(&mut rest, "length")?;
    let kind = take_byte(&mut rest, "kind")?;
    let delta = take_varint(&mut rest, "delta")?;
    let connection = take_varint(&mut rest, "connection")?;
    let packet = match kind {
        PACKET_FROM_CLIENT => Some((Direction::ClientToServer, rest)),
        PACKET_FROM_SERVER => Some((Direction::ServerToClient, rest)),
        _ => None,
    };
    Ok(Outline { len, delta, connection, packet })
}

/// Decodes `record`, exactly one; packets are slices of it.
pub fn decode(record: &Bytes, seq: u64, before: u64) -> Result<Event, BadRecord> {
    let mut rest = &record[..];
    let len = take_varint(&mut rest, "length")?;
    if (rest.len() as u64) < len {
        return Err(BadRecord::Truncated("body"));
    }
    let kind = take_byte(&mut rest, "kind")?;
    let delta = take_varint(&mut rest, "delta")?;
    let connection = take_varint(&mut rest, "connection")?;
    let connection = u32::try_from(connection)
        .map_err(|_| BadRecord::UnknownValue { field: "connection", value: connection })?;
    let body = record.slice(record.len() - rest.len()..);
    let at = before
        .checked_add(delta)
        .map(Duration::from_nanos)
        .ok_or(BadRecord::UnknownValue { field: "delta", value: delta })?;
    let kind = decode_body(kind, body)?;
    Ok(Event { seq, at, connection, kind })
}

fn decode_body(kind: u8, bytes: Bytes) -> Result<EventKind, BadRecord> {
    let direction = match kind {
        PACKET_FROM_CLIENT | RAW_FROM_CLIENT => Direction::ClientToServer,
        _ => Direction::ServerToClient,
    };
    let mut rest = &bytes[..];
    let kind = match kind {
        PACKET_FROM_CLIENT | PACKET_FROM_SERVER => return Ok(EventKind::Packet { direction, bytes }),
        RAW_FROM_CLIENT | RAW_FROM_SERVER => return Ok(EventKind::Raw { direction, bytes }),
        MARK => return Ok(EventKind::Mark(text(rest, "label")?)),
        OPEN => EventKind::Open(Box::new(take_open(&mut rest)?)),
        MOCK => EventKind::Mock(Box::new(take_mock(&mut rest)?)),
        FAULT => EventKind::Fault(Box::new(take_fault(&mut rest, &bytes)?)),
        STATE => return take_in_force(&bytes).map(|in_force| EventKind::State(Box::new(in_force))),
        ANCHOR => EventKind::Anchor(take_wall(&mut rest)?),
        CLOSE => {
            let number = take_byte(&mut rest, "close cause")?;
            let cause = CloseCause::ALL.get(usize::from(number)).copied();
            EventKind::Close(
                cause.ok_or(BadRecord::UnknownValue { field: "close cause", value: u64::from(number) })?,
            )
        }
        GAP => EventKind::Gap {
            events: take_varint(&mut rest, "lost events")?,
            bytes: take_varint(&mut rest, "lost bytes")?,
        },
        other => return Err(BadRecord::UnknownKind(other)),
    };
    if rest.is_empty() { Ok(kind) } else { Err(BadRecord::Trailing(rest.len())) }
}

fn close_number(cause: CloseCause) -> u8 {
    let position = CloseCause::ALL.iter().position(|one| *one == cause);
    position.expect("ALL holds every cause") as u8
}

/// The optional texts of an OPEN with their flags, in the order they are stored.
fn open_texts(info: &ConnectionInfo) -> [(u8, Option<&str>); 4] {
    [
        (HAS_PEER, info.peer.as_deref()),
        (HAS_LISTENER, info.listener.as_deref()),
        (HAS_UPSTREAM, info.upstream.as_deref()),
        (HAS_CLIENT_IDENTIFIER, info.client_identifier.as_deref()),
    ]
}

fn text_len(text: &str) -> usize {
    varint_len(text.len() as u64) + text.len()
}

fn mock_len(fired: &MockFired) -> usize {
    let MockFired { mock, client_identifier, topic, messages } = fired;
    varint_len(*messages) + text_len(mock) + text_len(client_identifier) + text_len(topic)
}

fn put_mock(fired: &MockFired, out: &mut Vec<u8>) {
    put_varint(fired.messages, out);
    for text in [&fired.mock, &fired.client_identifier, &fired.topic] {
        put_text(text, out);
    }
}

fn take_mock(rest: &mut &[u8]) -> Result<MockFired, BadRecord> {
    Ok(MockFired {
        messages: take_varint(rest, "messages")?,
        mock: take_text(rest, "mock")?,
        client_identifier: take_text(rest, "client identifier")?,
        topic: take_text(rest, "topic")?,
    })
}

/// The texts of a FAULT, in the order they are stored.
fn fault_texts(fault: &FaultInjected) -> [&str; 5] {
    let FaultInjected { rule, action, detail, client_identifier, topic, .. } = fault;
    [rule, action, detail, client_identifier, topic]
}

/// The bytes of a FAULT that may be there, with their flags, in the order they are stored.
fn fault_bytes(fault: &FaultInjected) -> [(u8, Option<&[u8]>); 2] {
    [(HAS_RECEIVED, fault.received.as_deref()), (HAS_SENT, fault.sent.as_deref())]
}

fn fault_len(fault: &FaultInjected) -> usize {
    let texts = fault_texts(fault).into_iter().map(text_len).sum::<usize>();
    let bytes = fault_bytes(fault).into_iter().filter_map(|(_, bytes)| bytes);
    let bytes = bytes.map(|bytes| varint_len(bytes.len() as u64) + bytes.len()).sum::<usize>();
    2 + varint_len(fault.nth) + texts + bytes
}

fn put_fault(fault: &FaultInjected, out: &mut Vec<u8>) {
    let mut flags = match fault.direction {
        Direction::ClientToServer => 0,
        Direction::ServerToClient => FROM_SERVER,
    };
    for (flag, bytes) in fault_bytes(fault) {
        flags |= if bytes.is_some() { flag } else { 0 };
    }
    out.push(flags);
    out.push(fault.packet_type as u8);
    put_varint(fault.nth, out);
    for text in fault_texts(fault) {
        put_text(text, out);
    }
    for bytes in fault_bytes(fault).into_iter().filter_map(|(_, bytes)| bytes) {
        put_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

/// `rest` is the end of `record`, which packets are slices of.
fn take_fault(rest: &mut &[u8], record: &Bytes) -> Result<FaultInjected, BadRecord> {
    let flags = take_byte(rest, "flags")?;
    let direction =
        if flags & FROM_SERVER != 0 { Direction::ServerToClient } else { Direction::ClientToServer };
    let number = take_byte(rest, "packet type")?;
    let packet_type = PacketType::ALL.into_iter().find(|kind| *kind as u8 == number);
    let packet_type =
        packet_type.ok_or(BadRecord::UnknownValue { field: "packet type", value: u64::from(number) })?;
    let nth = take_varint(rest, "n")?;
    let rule = take_text(rest, "rule")?;
    let action = take_text(rest, "action")?;
    let detail = take_text(rest, "detail")?;
    let client_identifier = take_text(rest, "client identifier")?;
    let topic = take_text(rest, "topic")?;
    let mut optional = |flag: u8, field| {
        let bytes = (flags & flag != 0).then(|| take_bytes(rest, field)).transpose();
        bytes.map(|bytes| bytes.map(|bytes| record.slice_ref(bytes)))
    };
    let (received, sent) = (optional(HAS_RECEIVED, "received bytes")?, optional(HAS_SENT, "sent bytes")?);
    Ok(FaultInjected {
        rule,
        action,
        detail,
        client_identifier,
        direction,
        packet_type,
        nth,
        topic,
        received,
        sent,
    })
}

fn in_force_len(in_force: &InForce) -> usize {
    1 + in_force.client_identifier.as_deref().map_or(0, text_len) + in_force.packet.len()
}

fn put_in_force(in_force: &InForce, out: &mut Vec<u8>) {
    match &in_force.client_identifier {
        Some(client_identifier) => {
            out.push(1);
            put_text(client_identifier, out);
        }
        None => out.push(0),
    }
    out.extend_from_slice(&in_force.packet);
}

fn take_in_force(bytes: &Bytes) -> Result<InForce, BadRecord> {
    let mut rest = &bytes[..];
    let client_identifier = match take_byte(&mut rest, "flags")? {
        0 => None,
        1 => Some(take_text(&mut rest, "client identifier")?),
        other => return Err(BadRecord::UnknownValue { field: "flags", value: u64::from(other) }),
    };
    Ok(InForce { client_identifier, packet: bytes.slice_ref(rest) })
}

/// Nanoseconds since 1970, so that small ones of either sign are small.
fn zigzag(wall: Timestamp) -> u64 {
    let nanoseconds = wall.as_nanosecond().clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
    ((nanoseconds << 1) ^ (nanoseconds >> 63)) as u64
}

fn take_wall(rest: &mut &[u8]) -> Result<Timestamp, BadRecord> {
    let number = take_varint(rest, "wall clock")?;
    let nanoseconds = (number >> 1) as i64 ^ -((number & 1) as i64);
    Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_err(|_| BadRecord::UnknownValue { field: "wall clock", value: number })
}

fn open_len(info: &ConnectionInfo) -> usize {
    let texts = open_texts(info).into_iter().filter_map(|(_, text)| text).map(text_len).sum::<usize>();
    2 + text_len(&info.transport) + texts
}

fn put_open(info: &ConnectionInfo, out: &mut Vec<u8>) {
    let texts = open_texts(info);
    let mut flags = if info.already_open { ALREADY_OPEN } else { 0 };
    for (flag, text) in texts {
        flags |= if text.is_some() { flag } else { 0 };
    }
    out.push(flags);
    out.push(info.protocol.map_or(0, |protocol| protocol as u8));
    put_text(&info.transport, out);
    for text in texts.into_iter().filter_map(|(_, text)| text) {
        put_text(text, out);
    }
}

fn take_open(rest: &mut &[u8]) -> Result<ConnectionInfo, BadRecord> {
    let flags = take_byte(rest, "flags")?;
    let protocol = match take_byte(rest, "protocol")? {
        0 => None,
        3 => Some(ProtocolVersion::V31),
        4 => Some(ProtocolVersion::V311),
        5 => Some(ProtocolVersion::V5),
        other => return Err(BadRecord::UnknownValue { field: "protocol", value: u64::from(other) }),
    };
    let transport = take_text(rest, "transport")?;
    let mut optional = |flag: u8, field| (flags & flag != 0).then(|| take_text(rest, field)).transpose();
    Ok(ConnectionInfo {
        peer: optional(HAS_PEER, "peer")?,
        listener: optional(HAS_LISTENER, "listener")?,
        transport,
        upstream: optional(HAS_UPSTREAM, "upstream")?,
        already_open: flags & ALREADY_OPEN != 0,
        client_identifier: optional(HAS_CLIENT_IDENTIFIER, "client identifier")?,
        protocol,
    })
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn take_text(rest: &mut &[u8], field: &'static str) -> Result<String, BadRecord> {
    text(take_bytes(rest, field)?, field)
}

fn take_bytes<'a>(rest: &mut &'a [u8], field: &'static str) -> Result<&'a [u8], BadRecord> {
    let len = take_varint(rest, field)?;
    let len = usize::try_from(len).map_err(|_| BadRecord::Truncated(field))?;
    let (bytes, after) = rest.split_at_checked(len).ok_or(BadRecord::Truncated(field))?;
    *rest = after;
    Ok(bytes)
}

fn text(bytes: &[u8], field: &'static str) -> Result<String, BadRecord> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| BadRecord::NotText(field))
}

fn take_byte(rest: &mut &[u8], field: &'static str) -> Result<u8, BadRecord> {
    let (&first, after) = rest.split_first().ok_or(BadRecord::Truncated(field))?;
    *rest = after;
    Ok(first)
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8], field: &'static str) -> Result<u64, BadRecord> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(rest, field)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BadRecord::LongNumber(field))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn direction() -> impl Strategy<Value = Direction> {
        prop_oneof![Just(Direction::ClientToServer), Just(Direction::ServerToClient)]
    }

    fn info() -> impl Strategy<Value = ConnectionInfo> {
        let text = || proptest::option::of(".{0,8}");
        let protocol = prop_oneof![
            Just(None),
            Just(Some(ProtocolVersion::V31)),
            Just(Some(ProtocolVersion::V311)),
            Just(Some(ProtocolVersion::V5))
        ];
        (text(), text(), ".{0,4}", text(), any::<bool>(), text(), protocol).prop_map(
            |(peer, listener, transport, upstream, already_open, client_identifier, protocol)| {
                ConnectionInfo {
                    peer,
                    listener,
                    transport,
                    upstream,
                    already_open,
                    client_identifier,
                    protocol,
                }
            },
        )
    }

    fn fault(max_len: usize) -> impl Strategy<Value = FaultInjected> {
        let bytes = || {
            let bytes = proptest::collection::vec(any::<u8>(), 0..max_len).prop_map(Bytes::from);
            proptest::option::of(bytes)
        };
        let texts = (".{0,9}", ".{0,9}", ".{0,9}", ".{0,9}");
        // Always a JSON object.
        let detail = prop_oneof![
            Just("{}".to_owned()),
            any::<u32>().prop_map(|ms| format!(r#"{{"ms":{ms}.25,"reason":"a b"}}"#))
        ];
        let packet_type = proptest::sample::select(&PacketType::ALL);
        (texts, detail, direction(), packet_type, any::<u64>(), bytes(), bytes()).prop_map(
            |(
                (rule, action, client_identifier, topic),
                detail,
                direction,
                packet_type,
                nth,
                received,
                sent,
            )| {
                FaultInjected {
                    rule,
                    action,
                    detail,
                    client_identifier,
                    direction,
                    packet_type,
                    nth,
                    topic,
                    received,
                    sent,
                }
            },
        )
    }

    pub fn kind(max_len: usize) -> impl Strategy<Value = EventKind> {
        let bytes = move || proptest::collection::vec(any::<u8>(), 0..max_len).prop_map(Bytes::from);
        prop_oneof![
            info().prop_map(|info| EventKind::Open(Box::new(info))),
            (direction(), bytes()).prop_map(|(direction, bytes)| EventKind::Packet { direction, bytes }),
            (direction(), bytes()).prop_map(|(direction, bytes)| EventKind::Raw { direction, bytes }),
            proptest::sample::select(&CloseCause::ALL).prop_map(EventKind::Close),
            ".{0,20}".prop_map(EventKind::Mark),
            (".{0,9}", ".{0,9}", ".{0,9}", any::<u64>()).prop_map(
                |(mock, client_identifier, topic, messages)| {
                    EventKind::Mock(Box::new(MockFired { mock, client_identifier, topic, messages }))
                }
            ),
            fault(max_len).prop_map(|fault| EventKind::Fault(Box::new(fault))),
            // Always a PUBLISH of MQTT 5.
            (proptest::option::of(".{0,9}"), "[a-z]{0,9}").prop_map(|(client_identifier, payload)| {
                let len = 4 + payload.len() as u8;
                let packet = [&[0x31, len, 0, 1, b'a', 0], payload.as_bytes()].concat().into();
                EventKind::State(Box::new(InForce { client_identifier, packet }))
            }),
            any::<i64>().prop_map(|nanoseconds| {
                EventKind::Anchor(
                    Timestamp::from_nanosecond(i128::from(nanoseconds)).expect("64 bits are in range"),
                )
            }),
            (any::<u64>(), any::<u64>()).prop_map(|(events, bytes)| EventKind::Gap { events, bytes }),
        ]
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_it_back(
            kind in kind(200), before in any::<u32>(), delta in any::<u32>(), connection in any::<u32>(),
        ) {
            let at = Duration::from_nanos(u64::from(before) + u64::from(delta));
            let event = Event { seq: 7, at, connection, kind };
            let mut record = Vec::new();
            encode(&event, u64::from(before), &mut record);
            prop_assert_eq!(record_len(&record), Ok(Some(record.len())));
            let record = Bytes::from(record);
            prop_assert_eq!(decode(&record, 7, u64::from(before)), Ok(event));
            for end in 0..record.len() {
                prop_assert!(decode(&record.slice(..end), 7, 0).is_err(), "cut at {}", end);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = record_len(&bytes);
            let _ = decode(&Bytes::from(bytes), 1, u64::MAX);
        }
    }
}
