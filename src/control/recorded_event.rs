//! Events of a recording, decoded and filtered for people.

use prost::Message;

use super::{MESSAGE_MAX, fields::Fields, pb, properties, time};
use crate::{
    packet::{ControlPacket, TopicFilter},
    recording::{CloseCause, Connections, Direction, Event, EventKind, Seen},
};

use pb::recorded_event::Kind;

/// Bytes of an event. A page or an element of a stream adds its own field and the next page's token to it.
const EVENT_MAX: usize = MESSAGE_MAX - 1024;

/// Which events of a recording are wanted.
#[derive(Clone, Debug, Default)]
pub struct RecordedEventFilter {
    topics: Vec<TopicFilter>,
    types: Vec<pb::PacketType>,
    connections: Vec<u32>,
    direction: Option<pb::Direction>,
}

impl RecordedEventFilter {
    pub fn checked(fields: &mut Fields, filter: Option<&pb::EventFilter>) -> Self {
        let Some(filter) = filter else { return Self::default() };
        Self {
            topics: fields.filters("filter.topics", &filter.topics),
            types: fields.choices("filter.types", &filter.types),
            connections: filter.connections.clone(),
            direction: fields.choice("filter.direction", filter.direction),
        }
    }

    fn wants(&self, event: &Event, seen: Option<&Seen>) -> bool {
        let (direction, kind) = match &event.kind {
            EventKind::Packet { direction, bytes } => (Some(*direction), packet_type(bytes)),
            EventKind::Raw { direction, .. } => (Some(*direction), None),
            _ => (None, None),
        };
        let topic = seen.and_then(|seen| seen.topic.as_ref());
        (self.connections.is_empty() || self.connections.contains(&event.connection))
            && self.direction.is_none_or(|wanted| direction.is_some_and(|d| self::direction(d) == wanted))
            && (self.types.is_empty() || kind.is_some_and(|kind| self.types.contains(&kind)))
            && (self.topics.is_empty()
                || topic.is_some_and(|topic| self.topics.iter().any(|filter| filter.matches(topic))))
    }
}

/// Shows events in their order; has to see all of them, because what a packet means depends on those before.
#[derive(Debug, Default)]
pub struct Shower {
    filter: RecordedEventFilter,
    connections: Connections,
}

impl Shower {
    pub fn new(filter: RecordedEventFilter) -> Self {
        Self { filter, connections: Connections::new() }
    }

    /// Follows `event` without showing it.
    pub fn skip(&mut self, event: &Event) {
        self.connections.follow(event);
    }

    /// The event as the API says it, if it is wanted. Fits into a message.
    pub fn show(&mut self, event: &Event) -> Option<pb::RecordedEvent> {
        let seen = self.connections.follow(event);
        self.filter.wants(event, seen.as_ref()).then(|| {
            fit(pb::RecordedEvent {
                seq: event.seq,
                at: Some(time::duration(event.at)),
                connection: event.connection,
                kind: Some(kind(&event.kind, seen)),
            })
        })
    }
}

/// Leaves the bytes out of an event that is too large for a message.
fn fit(mut event: pb::RecordedEvent) -> pb::RecordedEvent {
    let is_too_large = |event: &pb::RecordedEvent| event.encoded_len() > EVENT_MAX;
    if !is_too_large(&event) {
        return event;
    }
    match &mut event.kind {
        Some(Kind::Packet(packet)) => {
            packet.raw.clear();
            packet.raw_omitted = true;
            if let Some(publish) = &mut packet.publish {
                publish.payload.clear();
            }
        }
        Some(Kind::Raw(raw)) => {
            raw.raw.clear();
            raw.raw_omitted = true;
        }
        _ => {}
    }
    if is_too_large(&event)
        && let Some(Kind::Packet(pb::RecordedPacket { publish: Some(publish), .. })) = &mut event.kind
    {
        publish.properties = None;
    }
    event
}

fn kind(kind: &EventKind, seen: Option<Seen>) -> Kind {
    match kind {
        EventKind::Open(info) => Kind::Opened(pb::ConnectionOpened {
            peer: info.peer.clone().unwrap_or_default(),
            listener: info.listener.clone().unwrap_or_default(),
            transport: info.transport.clone(),
            upstream: info.upstream.clone().unwrap_or_default(),
            already_open: info.already_open,
            client_id: info.client_identifier.clone(),
            protocol: info.protocol.map_or(0, |protocol| protocol as i32),
        }),
        EventKind::Packet { direction, bytes } => Kind::Packet(pb::RecordedPacket {
            direction: self::direction(*direction).into(),
            r#type: packet_type(bytes).unwrap_or_default().into(),
            raw: bytes.clone(),
            publish: seen.and_then(publish),
            raw_omitted: false,
        }),
        EventKind::Raw { direction, bytes } => {
            let direction = self::direction(*direction).into();
            Kind::Raw(pb::RawBytes { direction, raw: bytes.clone(), raw_omitted: false })
        }
        EventKind::Close(cause) => Kind::Closed(pb::ConnectionClosed { cause: close_cause(*cause).into() }),
        EventKind::Mark(label) => Kind::Mark(pb::Mark { label: label.clone() }),
        EventKind::Mock(fired) => Kind::Mock(pb::RecordedMock {
            mock: fired.mock.clone(),
            client_id: fired.client_identifier.clone(),
            topic: fired.topic.clone(),
            messages: fired.messages,
        }),
        EventKind::Gap { events, bytes } => Kind::Gap(pb::CaptureGap { events: *events, bytes: *bytes }),
    }
}

fn publish(seen: Seen) -> Option<pb::RecordedPublish> {
    let Ok(ControlPacket::Publish(publish)) = seen.packet else { return None };
    Some(pb::RecordedPublish {
        topic: seen.topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default(),
        qos: publish.qos as u32,
        retain: publish.retain,
        dup: publish.dup,
        packet_identifier: publish.packet_identifier.map(|identifier| u32::from(identifier.get())),
        properties: properties::shown(&publish.properties),
        payload: publish.payload,
    })
}

/// The type that the first byte says.
pub fn packet_type(bytes: &[u8]) -> Option<pb::PacketType> {
    let kind = pb::PacketType::try_from(i32::from(bytes.first()? >> 4)).ok()?;
    (kind != pb::PacketType::Unspecified).then_some(kind)
}

pub fn close_cause(cause: CloseCause) -> pb::CloseCause {
    match cause {
        CloseCause::ClientFin => pb::CloseCause::ClientFin,
        CloseCause::ClientRst => pb::CloseCause::ClientRst,
        CloseCause::ServerFin => pb::CloseCause::ServerFin,
        CloseCause::ServerRst => pb::CloseCause::ServerRst,
        CloseCause::Timeout => pb::CloseCause::Timeout,
        CloseCause::Proxy => pb::CloseCause::Proxy,
        CloseCause::Fault => pb::CloseCause::Fault,
        CloseCause::RecordingEnded => pb::CloseCause::RecordingEnded,
    }
}

pub fn direction(direction: Direction) -> pb::Direction {
    match direction {
        Direction::ClientToServer => pb::Direction::ClientToServer,
        Direction::ServerToClient => pb::Direction::ServerToClient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::{Property, ProtocolVersion},
        recording::sample::{self, connect, from_client, text},
    };

    /// The last of `kinds` as it is shown.
    fn shown(kinds: impl IntoIterator<Item = EventKind>) -> pb::RecordedEvent {
        let mut shower = Shower::new(RecordedEventFilter::default());
        let kinds = kinds.into_iter().map(|kind| (0, 1, kind));
        sample::events(kinds).iter().filter_map(|event| shower.show(event)).last().unwrap()
    }

    fn publish_of(payload: usize, properties: Vec<Property>) -> (bool, pb::RecordedPublish) {
        let publish = from_client(sample::publish(Some("t"), &vec![0; payload], properties));
        let event = shown([connect("dev", ProtocolVersion::V5), publish]);
        assert!(event.encoded_len() <= EVENT_MAX);
        let Some(Kind::Packet(packet)) = event.kind else { panic!("{event:?}") };
        assert_eq!(packet.raw.is_empty(), packet.raw_omitted);
        (packet.raw_omitted, packet.publish.unwrap())
    }

    #[test]
    fn properties_stay_while_they_fit() {
        let content_type = || Property::ContentType(text("text/plain"));
        let (omitted, publish) = publish_of(10, vec![content_type()]);
        assert!(!omitted && publish.payload.len() == 10);
        let (omitted, publish) = publish_of(20_000_000, vec![content_type()]);
        assert!(omitted && publish.payload.is_empty());
        assert_eq!(publish.properties.unwrap().content_type(), "text/plain");
        let name = "n".repeat(60_000);
        let many = vec![Property::UserProperty(text(&name), text(&name)); 200];
        let (omitted, publish) = publish_of(1, many);
        assert!(omitted && publish.properties.is_none());
        assert_eq!(publish.topic, "t");
    }
}
