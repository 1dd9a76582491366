//! Makes parts of a recording's events.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    Line, Part, Said,
    part::{Cue, Doing, Manner, Request},
};
use crate::{
    packet::{
        Connack, ControlPacket, PacketIdentifier, Properties, Property, ReasonCode, TopicFilter, TopicName,
    },
    recording::{CloseCause, Connections, Direction, Event, EventKind, player::Selection},
};

/// Bytes of a recording that is played as a server: it is held in memory.
const SIZE_MAX: usize = 1 << 30;
/// What an event costs beside its bytes, about: a cue or a line, and its place in three indexes.
const EVENT_SIZE: usize = 400;

/// The recording is too long to be held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recording needs over {} MiB, too much to be played as a server: select a part of it", SIZE_MAX >> 20)]
pub struct TooLong;

pub struct Reader {
    /// Whether events are kept.
    is_judged: bool,
    connections: Connections,
    /// Those that have begun, in the order they did.
    parts: Vec<Begun>,
    by_number: HashMap<u32, usize>,
    /// The latest connection of each client.
    latest: HashMap<String, u32>,
    clients: HashMap<String, Unfinished>,
    deliveries: u64,
    /// Offsets of the first and the last of them.
    span: Option<(Duration, Duration)>,
    size: usize,
}

/// Exchanges of one client that outlive a connection.
#[derive(Default)]
struct Unfinished {
    sent: HashSet<PacketIdentifier>,
    received: HashSet<PacketIdentifier>,
}

struct Begun {
    part: Part,
    /// When the last cue was given.
    cued_at: Duration,
    /// Whose answer has not come: the place of its cue.
    unanswered: HashMap<PacketIdentifier, usize>,
    /// Whose PUBCOMP has not come.
    incomplete: HashMap<PacketIdentifier, usize>,
    has_ended: bool,
}

impl Reader {
    pub fn new(is_judged: bool) -> Self {
        Self {
            is_judged,
            connections: Connections::new(),
            parts: Vec::new(),
            by_number: HashMap::new(),
            latest: HashMap::new(),
            clients: HashMap::new(),
            deliveries: 0,
            span: None,
            size: 0,
        }
    }

    /// # Errors
    /// [`TooLong`].
    pub fn take(&mut self, event: Event, selection: &Selection) -> Result<(), TooLong> {
        self.size += event.kind.size() + EVENT_SIZE;
        if self.size > SIZE_MAX {
            return Err(TooLong);
        }
        let seen = self.connections.follow(&event);
        match (&event.kind, seen) {
            (EventKind::Open(info), _) if info.is_up() => {
                let client = info.client_identifier.clone().unwrap_or_default();
                if selection.has_client(Some(&client)) {
                    let begun = self.begin(&event, &client, None);
                    begun.part.connack = Some(accepted());
                }
            }
            (EventKind::Packet { direction, .. }, Some(seen)) => {
                let Ok(packet) = seen.packet else { return Ok(()) };
                match direction {
                    Direction::ClientToServer => self.client_sent(&event, packet, seen.topic, selection),
                    Direction::ServerToClient => self.server_sent(&event, packet, seen.topic, selection),
                }
            }
            (EventKind::Close(cause), _) => {
                let cause = *cause;
                self.keep(event.clone());
                self.close(&event, cause);
                return Ok(());
            }
            _ => {}
        }
        self.keep(event);
        Ok(())
    }

    /// The parts; how many messages they have, and how long that took.
    pub fn into_parts(self) -> (Vec<Part>, u64, Duration) {
        let span = self.span.map_or(Duration::ZERO, |(first, last)| last - first);
        let parts = self.parts.into_iter().map(|mut begun| {
            // Nobody has seen that it was not answered.
            if begun.part.connack.is_none() && !begun.part.ends {
                begun.part.connack = Some(accepted());
            }
            begun.part.index();
            begun.part
        });
        (parts.collect(), self.deliveries, span)
    }

    fn begin(&mut self, event: &Event, client: &str, manner: Option<Manner>) -> &mut Begun {
        let place = self.parts.len();
        self.by_number.insert(event.connection, place);
        self.latest.insert(client.to_owned(), event.connection);
        self.parts.push(Begun::new(Part::new(client, event.connection, manner), event));
        &mut self.parts[place]
    }

    fn keep(&mut self, event: Event) {
        if self.is_judged
            && let Some(&place) = self.by_number.get(&event.connection)
        {
            self.parts[place].part.events.push_back(event);
        }
    }

    fn client_sent(
        &mut self,
        event: &Event,
        packet: ControlPacket,
        topic: Option<TopicName>,
        selection: &Selection,
    ) {
        if let ControlPacket::Connect(connect) = &packet {
            let client = connect.client_identifier.as_str();
            if !selection.has_client(Some(client)) {
                return;
            }
            if connect.clean_start {
                self.clients.remove(client);
            }
            self.begin(event, client, Some(Manner::of(connect)));
            return;
        }
        let Some(begun) = self.by_number.get(&event.connection).map(|&place| &mut self.parts[place]) else {
            return;
        };
        let unfinished = self.clients.entry(begun.part.client_identifier.clone()).or_default();
        let (doing, identifier, is_optional) = match packet {
            ControlPacket::Publish(publish) => {
                let Some(topic) = topic else { return };
                let identifier = publish.packet_identifier;
                let is_open = identifier.is_some_and(|identifier| !unfinished.sent.insert(identifier));
                if is_open && publish.dup && begun.awaits(identifier) {
                    return;
                }
                // Where ours were answered, it need not be sent again.
                let is_optional = is_open && publish.dup || !selection.has_topic(&topic);
                (Doing::Publish { topic, payload: publish.payload }, identifier, is_optional)
            }
            ControlPacket::Subscribe(subscribe) => {
                let filters: Vec<TopicFilter> =
                    subscribe.subscriptions.into_iter().map(|one| one.filter).collect();
                let identifier = Some(subscribe.packet_identifier);
                (Doing::Request(Request::Subscribe(filters)), identifier, false)
            }
            ControlPacket::Unsubscribe(unsubscribe) => {
                let identifier = Some(unsubscribe.packet_identifier);
                (Doing::Request(Request::Unsubscribe(unsubscribe.filters)), identifier, false)
            }
            ControlPacket::Puback(ack) | ControlPacket::Pubcomp(ack) => {
                unfinished.received.remove(&ack.packet_identifier);
                return;
            }
            ControlPacket::Pubrec(ack) => {
                if ack.reason_code.is_error() {
                    unfinished.received.remove(&ack.packet_identifier);
                }
                return;
            }
            // What follows a DISCONNECT is the client's own end.
            ControlPacket::Disconnect(_) => {
                begun.has_ended = true;
                return;
            }
            _ => return,
        };
        begun.cue(Cue { is_optional, ..Cue::new(doing, event.seq) }, identifier, event.at);
    }

    fn server_sent(
        &mut self,
        event: &Event,
        packet: ControlPacket,
        topic: Option<TopicName>,
        selection: &Selection,
    ) {
        let Some(begun) = self.by_number.get(&event.connection).map(|&place| &mut self.parts[place]) else {
            return;
        };
        let unfinished = self.clients.entry(begun.part.client_identifier.clone()).or_default();
        match packet {
            ControlPacket::Connack(connack) => begun.part.connack = Some(connack),
            ControlPacket::Publish(mut publish) => {
                let Some(topic) = topic.filter(|topic| selection.has_topic(topic)) else { return };
                let is_open = publish
                    .packet_identifier
                    .is_some_and(|identifier| !unfinished.received.insert(identifier));
                // What is sent again is up to the live session.
                if is_open && publish.dup {
                    return;
                }
                publish.dup = false;
                publish.topic = Some(topic);
                publish.packet_identifier = None;
                publish.properties.retain(|property| !matches!(property, Property::TopicAlias(_)));
                self.deliveries += 1;
                self.span = Some((self.span.map_or(event.at, |(first, _)| first), event.at));
                begun.says(event.at, Said::Message(Box::new(publish)));
            }
            ControlPacket::Puback(ack) => {
                unfinished.sent.remove(&ack.packet_identifier);
                begun.answers(ack.packet_identifier, &[ack.reason_code]);
            }
            ControlPacket::Pubrec(ack) => {
                if ack.reason_code.is_error() {
                    unfinished.sent.remove(&ack.packet_identifier);
                }
                if let Some(place) = begun.answers(ack.packet_identifier, &[ack.reason_code]) {
                    begun.incomplete.insert(ack.packet_identifier, place);
                }
            }
            ControlPacket::Pubcomp(ack) => {
                unfinished.sent.remove(&ack.packet_identifier);
                if let Some(place) = begun.incomplete.remove(&ack.packet_identifier) {
                    begun.part.cues[place].completion = ack.reason_code;
                }
            }
            ControlPacket::Suback(suback) => {
                begun.answers(suback.packet_identifier, &suback.reason_codes);
            }
            ControlPacket::Unsuback(unsuback) => {
                begun.answers(unsuback.packet_identifier, &unsuback.reason_codes);
            }
            ControlPacket::Disconnect(disconnect) => {
                // Taking over is up to the live client.
                if disconnect.reason_code != ReasonCode::SESSION_TAKEN_OVER {
                    begun.says(event.at, Said::Disconnect(disconnect.reason_code));
                }
                begun.has_ended = true;
            }
            _ => {}
        }
    }

    fn close(&mut self, event: &Event, cause: CloseCause) {
        self.connections.forget(event.connection);
        let Some(place) = self.by_number.remove(&event.connection) else { return };
        let begun = &mut self.parts[place];
        begun.part.ends = cause != CloseCause::RecordingEnded;
        let client = &begun.part.client_identifier;
        let was_taken_over = !client.is_empty() && self.latest.get(client) != Some(&event.connection);
        if begun.has_ended || was_taken_over {
            return;
        }
        let is_reset = match cause {
            CloseCause::ServerFin | CloseCause::Proxy => false,
            CloseCause::ServerRst | CloseCause::Fault => true,
            // A client that falls silent does so again.
            CloseCause::ClientFin
            | CloseCause::ClientRst
            | CloseCause::Timeout
            | CloseCause::RecordingEnded => return,
        };
        begun.says(event.at, Said::Close { is_reset });
    }
}

fn accepted() -> Connack {
    Connack { session_present: false, reason_code: ReasonCode::SUCCESS, properties: Properties::new() }
}

impl Begun {
    fn new(mut part: Part, event: &Event) -> Self {
        part.cues.push(Cue::new(Doing::Connect, event.seq));
        Self {
            part,
            cued_at: event.at,
            unanswered: HashMap::new(),
            incomplete: HashMap::new(),
            has_ended: false,
        }
    }

    /// Whether the message with this identifier is on its way over this connection.
    fn awaits(&self, identifier: Option<PacketIdentifier>) -> bool {
        let is_known = |identifier| {
            self.unanswered.contains_key(&identifier) || self.incomplete.contains_key(&identifier)
        };
        identifier.is_some_and(is_known)
    }

    fn cue(&mut self, cue: Cue, identifier: Option<PacketIdentifier>, at: Duration) {
        let place = self.part.cues.len();
        self.part.cues.push(cue);
        self.cued_at = at;
        if let Some(identifier) = identifier {
            self.unanswered.insert(identifier, place);
        }
    }

    /// The place of the cue that is answered so.
    fn answers(&mut self, identifier: PacketIdentifier, reason_codes: &[ReasonCode]) -> Option<usize> {
        let place = self.unanswered.remove(&identifier)?;
        self.part.cues[place].answer.extend_from_slice(reason_codes);
        Some(place)
    }

    /// The last cue before it is its anchor.
    fn says(&mut self, at: Duration, what: Said) {
        if let Some(cue) = self.part.cues.last_mut() {
            cue.lines.push(Line { delay: at.saturating_sub(self.cued_at), what });
        }
    }
}
