//! Writing a recording as JSON.

use std::{io, io::Write};

use super::{
    FORMAT, VERSION,
    fields::{Members, NO_DETAIL, is_object, write_packet},
    time::Millis,
};
use crate::{
    packet::{ControlPacket, PacketType, ProtocolVersion},
    recording::{
        Connections, Event, EventKind, FaultInjected, InForce, RecordingInfo, RecordingState,
        connections::Connection, connections::Seen, record::nanoseconds,
    },
};

/// Writes recordings; memory grows with the number of connections, not of events.
pub struct JsonWriter<W> {
    out: W,
}

impl<W: Write> JsonWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes the whole file. `events` is called twice, as what is said of the connections stands
    /// first, and has to give all events both times.
    ///
    /// # Errors
    /// Those of the events, or of the writer as one.
    pub fn write<I, E>(
        mut self,
        info: &RecordingInfo,
        mut events: impl FnMut() -> Result<I, E>,
    ) -> Result<W, E>
    where
        I: Iterator<Item = Result<Event, E>>,
        E: From<io::Error>,
    {
        let mut connections = Connections::new();
        let mut last_seq = 0;
        for event in events()? {
            let event = event?;
            last_seq = event.seq;
            connections.outline(&event);
        }
        let mut line = Vec::new();
        write_head(info, &mut line);
        line.extend_from_slice(b",\n  \"connections\": [");
        for (index, (number, connection)) in connections.into_sorted().into_iter().enumerate() {
            line.extend_from_slice(if index == 0 { b"\n    " } else { b",\n    " });
            write_connection(number, &connection, &mut line);
            self.flush_line(&mut line)?;
        }
        line.extend_from_slice(b"],\n  \"events\": [");
        let mut connections = Connections::new();
        // Of a recording that goes on, no more than what the connections were taken from.
        for (index, event) in
            events()?.take_while(|event| !matches!(event, Ok(event) if event.seq > last_seq)).enumerate()
        {
            let event = event?;
            line.extend_from_slice(if index == 0 { b"\n    " } else { b",\n    " });
            let seen = connections.follow(&event);
            write_event(&event, seen.as_ref(), &connections, &mut line);
            self.flush_line(&mut line)?;
        }
        line.extend_from_slice(b"]\n}\n");
        self.flush_line(&mut line)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn flush_line(&mut self, line: &mut Vec<u8>) -> io::Result<()> {
        self.out.write_all(line)?;
        line.clear();
        Ok(())
    }
}

fn write_head(info: &RecordingInfo, out: &mut Vec<u8>) {
    for (index, (name, value)) in head_members(info).into_iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"{\n  " } else { b",\n  " });
        out.extend_from_slice(format!("\"{name}\": {value}").as_bytes());
    }
}

/// Appends what is known of the recording as one JSON object on one line.
pub fn write_head_line(info: &RecordingInfo, out: &mut Vec<u8>) {
    let mut members = Members::begin(out);
    for (name, value) in head_members(info) {
        members.plain(name, value);
    }
    members.end();
}

/// What is known of the recording: names, and values as JSON.
pub fn head_members(info: &RecordingInfo) -> Vec<(&'static str, String)> {
    let text = |text: &str| serde_json::to_string(text).expect("text into memory");
    // What is exported does not go on, even if the recording does.
    let state = match info.state {
        RecordingState::Recording => RecordingState::Interrupted,
        ended => ended,
    };
    let mut source = Vec::new();
    let mut members = Members::begin(&mut source);
    members.text("kind", &info.source.kind);
    members.optional_text("upstream", info.source.upstream.as_deref());
    members.end();
    let mut head = vec![
        ("format", text(FORMAT)),
        ("version", VERSION.to_string()),
        ("id", text(&info.id)),
        ("name", text(&info.name)),
        ("started_at", text(&info.started_at.to_string())),
        ("state", text(state.name())),
        ("source", String::from_utf8(source).expect("JSON is text")),
        ("tool_version", text(&info.tool_version)),
    ];
    head.extend(info.seed.map(|seed| ("seed", seed.to_string())));
    for (name, texts) in [("topics", &info.topics), ("edits", &info.edits)] {
        if !texts.is_empty() {
            let texts: Vec<String> = texts.iter().map(|one| text(one)).collect();
            head.push((name, format!("[{}]", texts.join(", "))));
        }
    }
    head.push(("gaps", info.gaps.to_string()));
    head
}

fn write_connection(number: u32, connection: &Connection, out: &mut Vec<u8>) {
    let mut members = Members::begin(out);
    members.plain("conn", number);
    if let Some(session) = connection.session {
        members.plain("session", session);
    }
    members.optional_text("client_id", connection.client_identifier.as_deref());
    members.optional_text("assigned_client_id", connection.assigned_client_identifier.as_deref());
    if let Some(protocol) = connection.protocol {
        members.plain("protocol", protocol.level());
    }
    if let Some(clean_start) = connection.clean_start {
        members.plain("clean_start", clean_start);
    }
    if let Some(keep_alive) = connection.keep_alive {
        members.plain("keep_alive", keep_alive);
    }
    members.optional_text("peer", connection.info.peer.as_deref());
    members.plain("opened_ms", Millis(nanoseconds(connection.opened_at)));
    if let Some((at, cause)) = connection.closed {
        members.plain("closed_ms", Millis(nanoseconds(at)));
        members.text("close", cause.name());
    }
    members.end();
}

/// Appends `event` as one JSON object on one line; `seen` is what [`Connections::follow`] said of
/// it.
pub fn write_event(event: &Event, seen: Option<&Seen>, connections: &Connections, out: &mut Vec<u8>) {
    let mut members = Members::begin(out);
    members.plain("seq", event.seq);
    members.plain("t_ms", Millis(nanoseconds(event.at)));
    if event.connection != 0 {
        members.plain("conn", event.connection);
    }
    match &event.kind {
        EventKind::Packet { direction, bytes } => {
            members.text("dir", direction.name());
            let kind = bytes.first().and_then(|first| PacketType::of(*first));
            members.text("type", kind.map_or("UNKNOWN", PacketType::name));
            let protocol = connections.get(event.connection).and_then(|connection| connection.protocol);
            let is_whole = match (seen.map(|seen| (&seen.packet, &seen.topic)), protocol) {
                (Some((Ok(packet), topic)), Some(protocol)) => {
                    write_packet(packet, topic.as_ref(), protocol, bytes, &mut members)
                }
                _ => false,
            };
            if !is_whole {
                members.base64("raw", bytes);
            }
        }
        EventKind::Raw { direction, bytes } => {
            members.text("dir", direction.name());
            members.text("kind", event.kind.name());
            members.base64("raw", bytes);
        }
        EventKind::Open(info) => {
            members.text("kind", event.kind.name());
            members.optional_text("peer", info.peer.as_deref());
            members.optional_text("listener", info.listener.as_deref());
            if !info.transport.is_empty() {
                members.text("transport", &info.transport);
            }
            members.optional_text("upstream", info.upstream.as_deref());
            if info.already_open {
                members.plain("already_open", true);
            }
            members.optional_text("client_id", info.client_identifier.as_deref());
            if let Some(protocol) = info.protocol {
                members.plain("protocol", protocol.level());
            }
        }
        EventKind::Close(cause) => {
            members.text("kind", event.kind.name());
            members.text("cause", cause.name());
        }
        EventKind::Mark(label) => {
            members.text("kind", event.kind.name());
            members.text("label", label);
        }
        EventKind::Mock(fired) => {
            members.text("kind", event.kind.name());
            members.text("mock", &fired.mock);
            if !fired.client_identifier.is_empty() {
                members.text("client_id", &fired.client_identifier);
            }
            if !fired.topic.is_empty() {
                members.text("topic", &fired.topic);
            }
            members.plain("messages", fired.messages);
        }
        EventKind::Fault(fault) => {
            members.text("kind", event.kind.name());
            write_fault(fault, &mut members);
        }
        EventKind::State(in_force) => {
            members.text("kind", event.kind.name());
            write_in_force(in_force, &mut members);
        }
        EventKind::Anchor(wall) => {
            members.text("kind", event.kind.name());
            members.text("wall", &wall.to_string());
        }
        EventKind::Gap { events, bytes } => {
            members.text("kind", event.kind.name());
            members.plain("events", events);
            members.plain("bytes", bytes);
        }
    }
    members.end();
}

fn write_in_force(in_force: &InForce, members: &mut Members<'_>) {
    let InForce { client_identifier, packet } = in_force;
    members.optional_text("client_id", client_identifier.as_deref());
    let decoded = in_force.decode();
    let kind = packet.first().and_then(|first| PacketType::of(*first));
    members.text("type", kind.map_or("UNKNOWN", PacketType::name));
    let is_whole = decoded.is_some_and(|decoded| {
        let topic = match &decoded {
            ControlPacket::Publish(publish) => publish.topic.clone(),
            _ => None,
        };
        write_packet(&decoded, topic.as_ref(), ProtocolVersion::V5, packet, members)
    });
    if !is_whole {
        members.base64("raw", packet);
    }
}

fn write_fault(fault: &FaultInjected, members: &mut Members<'_>) {
    members.optional_text("rule", some(&fault.rule));
    members.text("action", &fault.action);
    // The file stays JSON whatever it holds.
    if fault.detail != NO_DETAIL && is_object(&fault.detail) {
        members.name("detail").extend_from_slice(fault.detail.as_bytes());
    }
    members.optional_text("client_id", some(&fault.client_identifier));
    members.text("dir", fault.direction.name());
    members.text("type", fault.packet_type.name());
    members.plain("nth", fault.nth);
    members.optional_text("topic", some(&fault.topic));
    for (name, bytes) in [("received", &fault.received), ("sent", &fault.sent)] {
        if let Some(bytes) = bytes {
            members.base64(name, bytes);
        }
    }
}

/// `None` for an empty text, which is left out.
fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
