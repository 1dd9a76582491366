//! Reading a recording from JSON.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{BufReader, Read, Seek, SeekFrom},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    FORMAT, JsonError, JsonErrorKind, VERSION,
    fields::{BadMember, NO_DETAIL, PacketFields, is_object},
    scanner::{Place, START, Scanner},
    time::Millis,
};
use crate::{
    likeness::nearest,
    packet::{ControlPacket, Frame, PacketIdentifier, PacketType, PayloadEncoding, ProtocolVersion, QoS},
    recording::{
        CloseCause, ConnectionInfo, Connections, Direction, Event, EventKind, FaultInjected, MockFired,
        RecordingSource, RecordingState,
    },
};

/// A JSON file that was gone through once, so that it is known to be whole.
#[derive(Debug)]
pub struct JsonReader<R> {
    input: R,
    head: JsonHead,
    list: List,
    declared: HashMap<u32, Declared>,
}

/// What a file says of the recording as a whole; what it leaves out is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonHead {
    pub id: Option<String>,
    pub name: Option<String>,
    pub started_at: Option<Timestamp>,
    pub state: Option<RecordingState>,
    pub source: Option<RecordingSource>,
    pub tool_version: Option<String>,
    pub topics: Vec<String>,
    /// What the server drew random values from.
    pub seed: Option<u64>,
    /// Times that the recorder left something out.
    pub gaps: u64,
    /// Elements of `events` (or `messages`).
    pub entries: u64,
}

/// The list that holds the events.
#[derive(Clone, Copy, Debug)]
struct List {
    name: &'static str,
    /// Behind its bracket.
    start: Place,
}

/// An element of `connections`, for files whose events leave it out.
#[derive(Debug, Deserialize)]
struct Declared {
    conn: u32,
    client_id: Option<String>,
    protocol: Option<u8>,
    peer: Option<String>,
}

impl<R: Read + Seek> JsonReader<R> {
    /// Goes through the file, which begins where `input` does.
    ///
    /// # Errors
    /// [`JsonError`] for a file that is not whole, that is not a recording, or whose major version is
    /// not known. The events are looked at when they are read.
    pub fn open(mut input: R) -> Result<Self, JsonError> {
        input.rewind().map_err(|error| JsonError {
            kind: JsonErrorKind::Io,
            line: 0,
            column: 0,
            path: String::new(),
            reason: error.to_string(),
        })?;
        let mut scanner = Scanner::new(BufReader::new(&mut input), START);
        let (mut head, mut declared) = (JsonHead::default(), HashMap::new());
        let (mut events, mut messages) = (None, None);
        scanner.expect(b'{', "")?;
        let mut goes_on = !scanner.accept(b'}', "")?;
        while goes_on {
            let name = scanner.name("")?;
            match name.as_str() {
                "events" => events = Some(skip_list(&mut scanner, "events")?),
                "messages" => messages = Some(skip_list(&mut scanner, "messages")?),
                "connections" => {
                    for one in read::<Vec<Declared>>(&mut scanner, "connections")?.unwrap_or_default() {
                        declared.insert(one.conn, one);
                    }
                }
                _ => read_head(&mut scanner, &name, &mut head)?,
            }
            goes_on = scanner.goes_on(b'}', "")?;
        }
        if scanner.peek("")?.is_some() {
            return Err(scanner.error(JsonErrorKind::Invalid, "", "something stands behind the end"));
        }
        let Some((list, entries)) = events.or(messages) else {
            let reason = "the file has neither events nor messages";
            return Err(scanner.error(JsonErrorKind::Invalid, "", reason));
        };
        drop(scanner);
        head.entries = entries;
        Ok(Self { input, head, list, declared })
    }

    pub fn head(&self) -> &JsonHead {
        &self.head
    }

    /// The events from the first one on, as often as called.
    pub fn events(&mut self) -> Result<JsonEvents<&mut R>, JsonError> {
        JsonEvents::new(&mut self.input, self.list, &self.declared)
    }

    /// The events, with the file.
    pub fn into_events(self) -> Result<JsonEvents<R>, JsonError> {
        JsonEvents::new(self.input, self.list, &self.declared)
    }
}

/// Goes past a list of events, counting its elements.
fn skip_list<R: std::io::BufRead>(
    scanner: &mut Scanner<R>,
    name: &'static str,
) -> Result<(List, u64), JsonError> {
    scanner.expect(b'[', name)?;
    let list = List { name, start: scanner.place() };
    let mut count = 0;
    let mut goes_on = !scanner.accept(b']', name)?;
    while goes_on {
        let path = format!("{name}[{count}]");
        scanner.value(None, &path)?;
        count += 1;
        goes_on = scanner.goes_on(b']', &path)?;
    }
    Ok((list, count))
}

fn read_head<R: std::io::BufRead>(
    scanner: &mut Scanner<R>,
    name: &str,
    head: &mut JsonHead,
) -> Result<(), JsonError> {
    match name {
        "format" => {
            let format = read::<String>(scanner, name)?.unwrap_or_else(|| FORMAT.to_owned());
            if format != FORMAT {
                let reason = format!("format {format:?} is not {FORMAT:?}");
                return Err(scanner.error(JsonErrorKind::Unsupported, name, reason));
            }
        }
        "version" => {
            let version = read::<f64>(scanner, name)?.unwrap_or(VERSION as f64);
            if version.trunc() != VERSION as f64 {
                let reason =
                    format!("version {version} is not supported, this program reads version {VERSION}");
                return Err(scanner.error(JsonErrorKind::Unsupported, name, reason));
            }
        }
        "id" => head.id = read(scanner, name)?,
        "name" => head.name = read(scanner, name)?,
        "started_at" => {
            let text = read::<String>(scanner, name)?;
            let parsed = text.map(|text| text.parse::<Timestamp>()).transpose();
            head.started_at =
                parsed.map_err(|error| scanner.error(JsonErrorKind::Invalid, name, error.to_string()))?;
        }
        "state" => head.state = read(scanner, name)?,
        "source" => head.source = read(scanner, name)?,
        "tool_version" => head.tool_version = read(scanner, name)?,
        "seed" => head.seed = read(scanner, name)?,
        "gaps" => head.gaps = read::<u64>(scanner, name)?.unwrap_or_default(),
        "topics" => head.topics = read::<Vec<String>>(scanner, name)?.unwrap_or_default(),
        _ => {
            scanner.value(None, name)?;
        }
    }
    Ok(())
}

/// Reads the value of member `name`; `None` for null.
fn read<T: DeserializeOwned>(
    scanner: &mut Scanner<impl std::io::BufRead>,
    name: &str,
) -> Result<Option<T>, JsonError> {
    let mut text = Vec::new();
    let start = scanner.value(Some(&mut text), name)?;
    parse(&text, start, name)
}

/// Parses the text that stood at `start`.
fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], start: Place, path: &str) -> Result<T, JsonError> {
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
        inner if inner.starts_with('[') => format!("{path}{inner}"),
        inner => format!("{path}.{inner}"),
    };
    Err(JsonError { kind: JsonErrorKind::Invalid, line, column, path, reason })
}

/// The events of a file in order; memory does not grow with their number. Ends after the first
/// error.
pub struct JsonEvents<R> {
    scanner: Scanner<BufReader<R>>,
    list: List,
    index: u64,
    goes_on: bool,
    text: Vec<u8>,
    assembly: Assembly,
}

impl<R: Read + Seek> JsonEvents<R> {
    fn new(mut input: R, list: List, declared: &HashMap<u32, Declared>) -> Result<Self, JsonError> {
        let sought = input.seek(SeekFrom::Start(list.start.offset));
        let mut scanner = Scanner::new(BufReader::new(input), list.start);
        sought.map_err(|error| scanner.error(JsonErrorKind::Io, list.name, error.to_string()))?;
        let goes_on = !scanner.accept(b']', list.name)?;
        let declared = declared.iter().map(|(number, one)| (*number, one.info())).collect();
        let assembly = Assembly { declared, next_seq: 1, ..Assembly::default() };
        Ok(Self { scanner, list, index: 0, goes_on, text: Vec::new(), assembly })
    }

    fn advance(&mut self) -> Result<Option<Event>, JsonError> {
        loop {
            if let Some(event) = self.assembly.ready.pop_front() {
                return Ok(Some(event));
            }
            if !self.goes_on {
                return Ok(None);
            }
            let path = format!("{}[{}]", self.list.name, self.index);
            self.text.clear();
            let start = self.scanner.value(Some(&mut self.text), &path)?;
            let added = match self.list.name {
                "events" => self.assembly.add_event(&self.text, start, &path),
                _ => self.assembly.add_message(&self.text, start, &path),
            };
            added.map_err(|bad| bad.at(&self.text, start, &path))?;
            self.index += 1;
            self.goes_on = self.scanner.goes_on(b']', &path)?;
        }
    }
}

impl<R: Read + Seek> Iterator for JsonEvents<R> {
    type Item = Result<Event, JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            self.goes_on = false;
        }
        next
    }
}

impl Declared {
    fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            already_open: true,
            client_identifier: self.client_id.clone(),
            protocol: self.protocol.and_then(ProtocolVersion::from_level),
            peer: self.peer.clone(),
            ..ConnectionInfo::default()
        }
    }
}

/// What is wrong with an element.
enum Bad {
    Json(JsonError),
    Member(&'static str, String),
}

impl From<JsonError> for Bad {
    fn from(error: JsonError) -> Self {
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
    fn at(self, text: &[u8], start: Place, path: &str) -> JsonError {
        let (member, mut reason) = match self {
            Self::Json(error) => return error,
            Self::Member(member, reason) => (member, reason),
        };
        if reason.starts_with(MISSING)
            && let Some(name) = misspelt(text, member)
        {
            reason += &format!("; there is {name:?}, did you mean {member:?}?");
        }
        JsonError {
            kind: JsonErrorKind::Invalid,
            line: start.line,
            column: start.column,
            path: format!("{path}.{member}"),
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

/// Makes events of elements.
#[derive(Default)]
struct Assembly {
    declared: HashMap<u32, ConnectionInfo>,
    next_seq: u64,
    last_at: u64,
    connections: Connections,
    opened: HashSet<u32>,
    ready: VecDeque<Event>,
    /// Of `messages`: the connection for a client and a protocol, with its last packet identifier.
    clients: HashMap<(Option<String>, ProtocolVersion), (u32, PacketIdentifier)>,
}

impl Assembly {
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
                self.ensure_open(at, number);
                let bytes = match raw(&fields)? {
                    Some(bytes) => whole_packet(bytes)?,
                    None => {
                        let packet = parse::<PacketFields<'_>>(text, start, path)?
                            .build(fields.packet_type.as_deref().unwrap_or("PUBLISH"))?;
                        let protocol = self.connections.get(number).and_then(|one| one.protocol);
                        encode(packet, protocol.unwrap_or(ProtocolVersion::V311))?
                    }
                };
                EventKind::Packet { direction, bytes }
            }
            // Kinds of later versions of the format do not change what the others mean, but leaving
            // them out silently would.
            Some(other) => return Err(Bad::Member("kind", format!("unknown kind {other:?}"))),
        };
        let belongs_to_none = matches!(kind, EventKind::Mark(_) | EventKind::Mock(_) | EventKind::Gap { .. });
        let default = u32::from(!belongs_to_none);
        let connection = fields.conn.unwrap_or(default);
        if !matches!(kind, EventKind::Open(_)) {
            self.ensure_open(at, connection);
        }
        self.push(at, connection, kind);
        Ok(())
    }

    fn add_message(&mut self, text: &[u8], start: Place, path: &str) -> Result<(), Bad> {
        let fields: MessageFields<'_> = parse(text, start, path)?;
        let at = self.time(fields.t_ms)?;
        let mut publish = parse::<PacketFields<'_>>(text, start, path)?.publish()?;
        // 3.1.1 reaches every broker; what only MQTT 5 can say asks for that.
        let needed = if publish.properties.is_empty() { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
        let protocol = protocol(fields.protocol)?.unwrap_or(needed);
        let next = self.clients.len() as u32 + 1;
        let first = PacketIdentifier::new(u16::MAX).expect("not zero");
        let key = (fields.client_id.clone(), protocol);
        let (number, identifier) = self.clients.entry(key).or_insert((next, first));
        if publish.qos != QoS::AtMostOnce {
            *identifier = identifier.next();
            publish.packet_identifier = Some(*identifier);
        }
        let number = *number;
        let info = ConnectionInfo {
            already_open: true,
            client_identifier: fields.client_id,
            protocol: Some(protocol),
            ..ConnectionInfo::default()
        };
        self.declared.insert(number, info);
        self.ensure_open(at, number);
        let bytes = encode(ControlPacket::Publish(publish), protocol)?;
        self.push(at, number, EventKind::Packet { direction: Direction::ClientToServer, bytes });
        Ok(())
    }

    fn time(&mut self, text: Option<&RawValue>) -> Result<Duration, Bad> {
        let text = text.ok_or(("t_ms", MISSING.to_owned()))?;
        let Millis(at) = Millis::parse(text.get()).map_err(|error| ("t_ms", error.to_string()))?;
        if at < self.last_at {
            let reason = format!("{} is before the event before it at {}", Millis(at), Millis(self.last_at));
            return Err(Bad::Member("t_ms", reason));
        }
        self.last_at = at;
        Ok(Duration::from_nanos(at))
    }

    /// Adds the OPEN of a connection whose own is not in the file.
    fn ensure_open(&mut self, at: Duration, number: u32) {
        if number != 0 && !self.opened.contains(&number) {
            let mut info = self.declared.get(&number).cloned().unwrap_or_default();
            info.already_open = true;
            info.protocol = info.protocol.or(Some(ProtocolVersion::V311));
            self.push(at, number, EventKind::Open(Box::new(info)));
        }
    }

    fn push(&mut self, at: Duration, connection: u32, kind: EventKind) {
        match kind {
            EventKind::Open(_) => {
                self.opened.insert(connection);
            }
            EventKind::Close(_) => self.connections.forget(connection),
            _ => {}
        }
        let event = Event { seq: self.next_seq, at, connection, kind };
        self.next_seq += 1;
        self.connections.outline(&event);
        self.ready.push_back(event);
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

fn encode(packet: ControlPacket, protocol: ProtocolVersion) -> Result<Bytes, Bad> {
    let name = packet.name();
    if let ControlPacket::Publish(publish) = &packet
        && publish.qos != QoS::AtMostOnce
        && publish.packet_identifier.is_none()
    {
        return Err(Bad::Member("packet_id", "missing, and QoS 1 and 2 need it".to_owned()));
    }
    let mut encoded = BytesMut::new();
    packet.encode(protocol, &mut encoded).map_err(|error| Bad::Member("type", error.to_string()))?;
    let encoded = encoded.freeze();
    // What is written by hand may ask for what no packet can say.
    Frame::decode(encoded.clone(), protocol)
        .map_err(|error| Bad::Member("type", format!("this {name} is not valid: {error}")))?;
    Ok(encoded)
}
