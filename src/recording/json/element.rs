//! Events, made of the JSON objects that stand for them.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    fields::{NO_DETAIL, PacketFields, is_object},
    scanner::Place,
    time::Millis,
};
use crate::{
    likeness::nearest,
    packet::{Frame, PacketType, PayloadEncoding, ProtocolVersion, Publish},
    recording::{
        CloseCause, ConnectionInfo, Direction, Event, EventKind, FaultInjected, FileError, FileErrorKind,
        FilePlace, InForce, MockFired,
        assembly::{Assembly, BadMember, Message, encode},
        record::nanoseconds,
    },
};

/// What is wrong with an element.
enum Bad {
    Json(FileError),
    Member(&'static str, String),
}

impl From<FileError> for Bad {
    fn from(error: FileError) -> Self {
        Self::Json(error)
    }
}

impl From<BadMember> for Bad {
    fn from((member, reason): BadMember) -> Self {
        Self::Member(member, reason)
    }
}

impl Bad {
    /// In the element `text`, which stood at `start`.
    fn at(self, text: &[u8], start: Place, path: &str) -> FileError {
        let (member, mut reason) = match self {
            Self::Json(error) => return error,
            Self::Member(member, reason) => (member, reason),
        };
        if reason.starts_with(MISSING)
            && let Some(name) = misspelt(text, member)
        {
            reason += &format!("; there is {name:?}, did you mean {member:?}?");
        }
        FileError {
            kind: FileErrorKind::Invalid,
            place: FilePlace::Line { line: start.line, column: start.column },
            path: if path.is_empty() { member.to_owned() } else { format!("{path}.{member}") },
            reason,
        }
    }
}

/// How the reason begins where a member is.
const MISSING: &str = "missing";

/// The name in the object `text` that was meant to be `member`, which it lacks. Names that mean
/// nothing are left alone, so this one was.
fn misspelt(text: &[u8], member: &str) -> Option<String> {
    let members: HashMap<String, serde::de::IgnoredAny> = serde_json::from_slice(text).ok()?;
    // A map has no order, and of two as like one has to be told.
    let mut names: Vec<String> = members.into_keys().collect();
    names.sort_unstable();
    let lowered: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    let found = nearest(member, lowered.iter().map(String::as_str))?;
    let position = lowered.iter().position(|name| name == found)?;
    Some(names.swap_remove(position))
}

/// The members of any event that are not a packet's.
#[derive(Deserialize)]
struct EventFields<'a> {
    #[serde(borrow)]
    t_ms: Option<&'a RawValue>,
    conn: Option<u32>,
    dir: Option<String>,
    kind: Option<String>,
    #[serde(rename = "type")]
    packet_type: Option<String>,
    raw: Option<String>,
    label: Option<String>,
    mock: Option<String>,
    topic: Option<String>,
    messages: Option<u64>,
    rule: Option<String>,
    action: Option<String>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    nth: Option<u64>,
    received: Option<String>,
    sent: Option<String>,
    events: Option<u64>,
    bytes: Option<u64>,
    wall: Option<String>,
    cause: Option<String>,
    peer: Option<String>,
    listener: Option<String>,
    transport: Option<String>,
    upstream: Option<String>,
    already_open: Option<bool>,
    client_id: Option<String>,
    protocol: Option<u8>,
}

/// The members of an element of `messages` that are not the packet's.
#[derive(Deserialize)]
struct MessageFields<'a> {
    #[serde(borrow)]
    t_ms: Option<&'a RawValue>,
    client_id: Option<String>,
    protocol: Option<u8>,
}

/// What an element stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An event.
    Event,
    /// A message, in the short form.
    Message,
}

/// Makes events of elements.
#[derive(Debug, Default)]
pub struct Elements {
    assembly: Assembly,
}

impl Elements {
    /// `declared` is what the file says of connections.
    pub fn new(declared: HashMap<u32, ConnectionInfo>) -> Self {
        Self { assembly: Assembly::new(declared) }
    }

    /// The next event that is whole.
    pub fn next_ready(&mut self) -> Option<Event> {
        self.assembly.next_ready()
    }

    /// Adds the element `text`, which stood at `start`; errors call it `path`.
    ///
    /// # Errors
    /// [`FileError`] when it stands for nothing.
    pub fn add(&mut self, shape: Shape, text: &[u8], start: Place, path: &str) -> Result<(), FileError> {
        let added = match shape {
            Shape::Event => self.add_event(text, start, path),
            Shape::Message => self.add_message(text, start, path),
        };
        added.map_err(|bad| bad.at(text, start, path))
    }

    fn add_event(&mut self, text: &[u8], start: Place, path: &str) -> Result<(), Bad> {
        let fields: EventFields<'_> = parse(text, start, path)?;
        let at = self.time(fields.t_ms)?;
        let kind = match fields.kind.as_deref() {
            Some("OPEN") => EventKind::Open(Box::new(open_info(&fields)?)),
            Some("CLOSE") => {
                let name = fields.cause.as_deref().ok_or(("cause", MISSING.to_owned()))?;
                let cause =
                    CloseCause::from_name(name).ok_or(("cause", format!("unknown cause {name:?}")))?;
                EventKind::Close(cause)
            }
            Some("MARK") => EventKind::Mark(fields.label.clone().unwrap_or_default()),
            Some("MOCK") => EventKind::Mock(Box::new(MockFired {
                mock: fields.mock.clone().unwrap_or_default(),
                client_identifier: fields.client_id.clone().unwrap_or_default(),
                topic: fields.topic.clone().unwrap_or_default(),
                messages: fields.messages.unwrap_or(0),
            })),
            Some("FAULT") => EventKind::Fault(Box::new(fault(&fields)?)),
            Some("STATE") => {
                let bytes = packet_of(&fields, text, start, path, ProtocolVersion::V5)?;
                let in_force = InForce { client_identifier: fields.client_id.clone(), packet: bytes };
                let Some(_) = in_force.decode() else {
                    return Err(Bad::Member("type", "STATE is a PUBLISH or SUBSCRIBE of MQTT 5".to_owned()));
                };
                EventKind::State(Box::new(in_force))
            }
            Some("ANCHOR") => {
                let text = fields.wall.as_deref().ok_or(("wall", MISSING.to_owned()))?;
                EventKind::Anchor(text.parse().map_err(|error: jiff::Error| ("wall", error.to_string()))?)
            }
            Some("GAP") => {
                EventKind::Gap { events: fields.events.unwrap_or(0), bytes: fields.bytes.unwrap_or(0) }
            }
            Some("RAW") => EventKind::Raw {
                direction: direction(&fields)?,
                bytes: raw(&fields)?.ok_or(("raw", MISSING.to_owned()))?,
            },
            Some("PACKET") | None => {
                let direction = direction(&fields)?;
                let number = fields.conn.unwrap_or(1);
                let protocol = self.assembly.protocol(at, number);
                let bytes = packet_of(&fields, text, start, path, protocol.unwrap_or(ProtocolVersion::V311))?;
                EventKind::Packet { direction, bytes }
            }
            // Kinds of later versions of the format do not change what the others mean, but leaving
            // them out silently would.
            Some(other) => return Err(Bad::Member("kind", format!("unknown kind {other:?}"))),
        };
        let belongs_to_none = matches!(
            kind,
            EventKind::Mark(_)
                | EventKind::Mock(_)
                | EventKind::State(_)
                | EventKind::Anchor(_)
                | EventKind::Gap { .. }
        );
        let default = u32::from(!belongs_to_none);
        let connection = fields.conn.unwrap_or(default);
        self.assembly.push(at, connection, kind);
        Ok(())
    }

    fn add_message(&mut self, text: &[u8], start: Place, path: &str) -> Result<(), Bad> {
        let fields: MessageFields<'_> = parse(text, start, path)?;
        let at = self.time(fields.t_ms)?;
        let publish = parse::<PacketFields<'_>>(text, start, path)?.publish()?;
        let message = Message {
            client_identifier: fields.client_id,
            protocol: protocol(fields.protocol)?,
            direction: Direction::ClientToServer,
            // What identifiers the file has are those of other connections.
            publish: Publish { packet_identifier: None, ..publish },
        };
        Ok(self.assembly.push_message(at, message)?)
    }

    fn time(&self, text: Option<&RawValue>) -> Result<Duration, Bad> {
        let text = text.ok_or(("t_ms", MISSING.to_owned()))?;
        let Millis(at) = Millis::parse(text.get()).map_err(|error| ("t_ms", error.to_string()))?;
        let (at, last) = (Duration::from_nanos(at), self.assembly.last_at());
        if at < last {
            let (at, last) = (Millis(nanoseconds(at)), Millis(nanoseconds(last)));
            return Err(Bad::Member("t_ms", format!("{at} is before the event before it at {last}")));
        }
        Ok(at)
    }
}

fn open_info(fields: &EventFields<'_>) -> Result<ConnectionInfo, Bad> {
    Ok(ConnectionInfo {
        peer: fields.peer.clone(),
        listener: fields.listener.clone(),
        transport: fields.transport.clone().unwrap_or_default(),
        upstream: fields.upstream.clone(),
        already_open: fields.already_open.unwrap_or(false),
        client_identifier: fields.client_id.clone(),
        protocol: protocol(fields.protocol)?,
    })
}

fn protocol(level: Option<u8>) -> Result<Option<ProtocolVersion>, Bad> {
    let known = |level| {
        ProtocolVersion::from_level(level).ok_or(Bad::Member("protocol", format!("{level} is not 3, 4 or 5")))
    };
    level.map(known).transpose()
}

fn direction(fields: &EventFields<'_>) -> Result<Direction, Bad> {
    let Some(name) = fields.dir.as_deref() else { return Ok(Direction::ClientToServer) };
    Direction::from_name(name).ok_or(Bad::Member("dir", format!("{name:?} is not c2s or s2c")))
}

/// The packet that an element is about, from its bytes or else its fields.
fn packet_of(
    fields: &EventFields<'_>,
    text: &[u8],
    start: Place,
    path: &str,
    protocol: ProtocolVersion,
) -> Result<Bytes, Bad> {
    if let Some(bytes) = raw(fields)? {
        return whole_packet(bytes);
    }
    let packet = parse::<PacketFields<'_>>(text, start, path)?
        .build(fields.packet_type.as_deref().unwrap_or("PUBLISH"))?;
    Ok(encode(packet, protocol)?)
}

fn raw(fields: &EventFields<'_>) -> Result<Option<Bytes>, Bad> {
    base64("raw", fields.raw.as_deref())
}

fn base64(member: &'static str, text: Option<&str>) -> Result<Option<Bytes>, Bad> {
    let decoded = text.map(|text| BASE64_STANDARD.decode(text)).transpose();
    let decoded = decoded.map_err(|error| Bad::Member(member, error.to_string()))?;
    Ok(decoded.map(Bytes::from))
}

/// What is not said is said of the first PUBLISH of a client.
fn fault(fields: &EventFields<'_>) -> Result<FaultInjected, Bad> {
    let packet_type = match fields.packet_type.as_deref() {
        None => PacketType::Publish,
        Some(name) => PacketType::from_name(name)
            .ok_or_else(|| Bad::Member("type", format!("unknown type {name:?}")))?,
    };
    Ok(FaultInjected {
        rule: fields.rule.clone().unwrap_or_default(),
        action: fields.action.clone().ok_or(("action", MISSING.to_owned()))?,
        detail: detail(fields.detail)?,
        client_identifier: fields.client_id.clone().unwrap_or_default(),
        direction: direction(fields)?,
        packet_type,
        nth: fields.nth.unwrap_or(1),
        topic: fields.topic.clone().unwrap_or_default(),
        received: base64("received", fields.received.as_deref())?,
        sent: base64("sent", fields.sent.as_deref())?,
    })
}

/// As it stands, but for white space: numbers keep their digits.
fn detail(value: Option<&RawValue>) -> Result<String, Bad> {
    let Some(value) = value else { return Ok(NO_DETAIL.to_owned()) };
    let compact = PayloadEncoding::parse(Some(value.get()), Some(PayloadEncoding::Json));
    let compact = compact.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    compact.filter(|text| is_object(text)).ok_or_else(|| Bad::Member("detail", "not an object".to_owned()))
}

fn whole_packet(bytes: Bytes) -> Result<Bytes, Bad> {
    match Frame::size(&bytes) {
        Ok(Some(size)) if size == bytes.len() => Ok(bytes),
        Ok(_) => Err(Bad::Member("raw", "not exactly one packet".to_owned())),
        Err(error) => Err(Bad::Member("raw", error.to_string())),
    }
}

/// Parses the text that stood at `start`.
pub fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], start: Place, path: &str) -> Result<T, FileError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let parsed = serde_path_to_error::deserialize(&mut json);
    let (inner, error) = match parsed {
        Ok(value) => match json.end() {
            Ok(()) => return Ok(value),
            Err(error) => (String::new(), error),
        },
        Err(error) => (error.path().to_string(), error.into_inner()),
    };
    // serde_json counts from the start of the text.
    let (line, column) = match error.line() as u64 {
        0 | 1 => (start.line, start.column + (error.column() as u64).saturating_sub(1)),
        further => (start.line + further - 1, error.column() as u64),
    };
    let reason = error.to_string();
    let reason = reason.split(" at line").next().unwrap_or_default().to_owned();
    let path = match inner.as_str() {
        "." | "" => path.to_owned(),
        inner if path.is_empty() => inner.to_owned(),
        inner if inner.starts_with('[') => format!("{path}{inner}"),
        inner => format!("{path}.{inner}"),
    };
    Err(FileError { kind: FileErrorKind::Invalid, place: FilePlace::Line { line, column }, path, reason })
}
