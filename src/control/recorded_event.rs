//! Events of a recording, decoded and filtered for people.

use prost::Message;

use super::{MESSAGE_MAX, event_text::event_text, pb, properties, time};
use crate::{
    packet::{ControlPacket, PacketType},
    recording::{
        CloseCause, Direction, Event, EventFilter, EventKind, FaultInjected, InForce, Purpose, Seen, Sieve,
        Sifted,
    },
};

use pb::recorded_event::Kind;

/// Bytes of an event. A page or an element of a stream adds its own field and the next page's token to it.
const EVENT_MAX: usize = MESSAGE_MAX - 1024;

/// Shows events in their order; has to see all of them, because what a packet means depends on those before.
#[derive(Debug)]
pub struct Shower {
    sieve: Sieve,
}

impl Shower {
    /// Shows those that `filter` means.
    pub fn new(filter: EventFilter) -> Self {
        Self { sieve: Sieve::new(filter, Purpose::Look) }
    }

    /// Goes through all events beforehand, if that is needed to have each in its place.
    ///
    /// # Errors
    /// Those of the events.
    pub fn learn<E>(&mut self, events: impl IntoIterator<Item = Result<Event, E>>) -> Result<(), E> {
        self.sieve.learn(events)
    }

    /// The wanted events whose turn is now that `event` has come, as the API says them. Each fits into a message.
    pub fn show(&mut self, event: Event) -> impl Iterator<Item = pb::RecordedEvent> + use<> {
        let number = event.connection;
        // A CLOSE makes it forgotten.
        let before = self.client(number);
        let sifted = self.sieve.push(event);
        let client = self.client(number).or(before).unwrap_or_default();
        sifted.into_iter().map(move |sifted| shown(sifted, client.clone()))
    }

    fn client(&self, number: u32) -> Option<String> {
        self.sieve.connections().get(number)?.client().map(str::to_owned)
    }
}

fn shown((event, seen): Sifted, client_id: String) -> pb::RecordedEvent {
    let text = event_text(&event, seen.as_ref());
    fit(pb::RecordedEvent {
        client_id,
        text,
        seq: event.seq,
        at: Some(time::duration(event.at)),
        connection: event.connection,
        kind: Some(kind(&event.kind, seen)),
    })
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
        Some(Kind::State(state)) => {
            state.raw.clear();
            state.filters.clear();
            state.raw_omitted = true;
            if let Some(publish) = &mut state.publish {
                publish.payload.clear();
            }
        }
        Some(Kind::Fault(fault)) => {
            (fault.received, fault.sent) = (None, None);
            fault.raw_omitted = true;
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
        EventKind::Fault(fault) => Kind::Fault(recorded_fault(fault)),
        EventKind::State(in_force) => Kind::State(recorded_state(in_force)),
        EventKind::Anchor(wall) => Kind::Anchor(time::timestamp_of_jiff(*wall)),
        EventKind::Gap { events, bytes } => Kind::Gap(pb::CaptureGap { events: *events, bytes: *bytes }),
    }
}

fn recorded_state(in_force: &InForce) -> pb::RecordedState {
    let decoded = in_force.decode();
    let (publish, filters) = match decoded {
        Some(ControlPacket::Publish(publish)) => {
            let topic = publish.topic.clone();
            (self::publish(Seen { packet: Ok(ControlPacket::Publish(publish)), topic }), Vec::new())
        }
        Some(ControlPacket::Subscribe(subscribe)) => {
            let filters = subscribe.subscriptions.iter();
            (None, filters.map(|subscription| subscription.filter.as_str().to_owned()).collect())
        }
        _ => (None, Vec::new()),
    };
    pb::RecordedState {
        client_id: in_force.client_identifier.clone(),
        raw: in_force.packet.clone(),
        publish,
        filters,
        raw_omitted: false,
    }
}

fn recorded_fault(fault: &FaultInjected) -> pb::RecordedFault {
    pb::RecordedFault {
        rule: fault.rule.clone(),
        action: fault.action.clone(),
        detail: fault.detail.clone().into(),
        client_id: fault.client_identifier.clone(),
        direction: direction(fault.direction).into(),
        r#type: type_of(fault.packet_type).into(),
        nth: fault.nth,
        topic: fault.topic.clone(),
        received: fault.received.clone(),
        sent: fault.sent.clone(),
        raw_omitted: false,
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

pub fn type_of(packet_type: PacketType) -> pb::PacketType {
    // Both have the standard's numbers.
    pb::PacketType::try_from(packet_type as i32).unwrap_or_default()
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
        control::{event_filter::event_filter, fields::Fields},
        packet::{Property, ProtocolVersion},
        recording::sample::{self, connect, from_client, text},
    };

    /// The last of `kinds` as it is shown.
    fn shown(kinds: impl IntoIterator<Item = EventKind>) -> pb::RecordedEvent {
        let mut shower = Shower::new(EventFilter::default());
        let kinds = kinds.into_iter().map(|kind| (0, 1, kind));
        sample::events(kinds).into_iter().flat_map(|event| shower.show(event)).last().unwrap()
    }

    fn publish_of(payload: usize, properties: Vec<Property>) -> (bool, pb::RecordedPublish) {
        let publish = from_client(sample::publish(Some("t"), &vec![0; payload], properties));
        let event = shown([connect("dev", ProtocolVersion::V5), publish]);
        assert!(event.encoded_len() <= EVENT_MAX);
        let Some(Kind::Packet(packet)) = event.kind else { panic!("{event:?}") };
        assert_eq!(packet.raw.is_empty(), packet.raw_omitted);
        (packet.raw_omitted, packet.publish.unwrap())
    }

    fn fault(change: impl FnOnce(&mut FaultInjected)) -> EventKind {
        let mut fault = sample::fault("latency", r#"{"ms":23.4}"#);
        change(&mut fault);
        EventKind::Fault(Box::new(fault))
    }

    #[test]
    fn a_fault_is_shown_without_its_bytes_if_they_are_too_many() {
        let of = |event: pb::RecordedEvent| match event.kind {
            Some(Kind::Fault(fault)) => fault,
            other => panic!("{other:?}"),
        };
        let small = of(shown([fault(|fault| fault.received = Some(vec![1; 3].into()))]));
        let expected = pb::RecordedFault {
            rule: "some-latency".to_owned(),
            action: "latency".to_owned(),
            detail: r#"{"ms":23.4}"#.into(),
            client_id: "dev-1".to_owned(),
            direction: pb::Direction::ClientToServer.into(),
            r#type: pb::PacketType::Publish.into(),
            nth: 7,
            topic: "a/b".to_owned(),
            received: Some(vec![1; 3].into()),
            sent: None,
            raw_omitted: false,
        };
        assert_eq!(small, expected);
        let large = of(shown([fault(|fault| fault.received = Some(vec![1; 20_000_000].into()))]));
        assert_eq!(large, pb::RecordedFault { received: None, raw_omitted: true, ..expected });
    }

    #[test]
    fn faults_pass_a_filter_as_their_packets_do() {
        let wants = |filter: pb::EventFilter, change: fn(&mut FaultInjected)| {
            let mut fields = Fields::new();
            let filter = event_filter(&mut fields, "filter", Some(&filter));
            fields.finish().unwrap();
            let mut events = sample::events([(0, 1, fault(change))]);
            Shower::new(filter).show(events.remove(0)).next().is_some()
        };
        let topics = || pb::EventFilter { topics: vec!["a/+".to_owned()], ..Default::default() };
        let types = |kind: pb::PacketType| pb::EventFilter { types: vec![kind.into()], ..Default::default() };
        let to =
            |direction: pb::Direction| pb::EventFilter { direction: direction.into(), ..Default::default() };
        assert!(wants(pb::EventFilter::default(), |_| {}));
        assert!(wants(topics(), |_| {}));
        assert!(!wants(topics(), |fault| fault.topic = "b".to_owned()));
        assert!(!wants(topics(), |fault| fault.topic.clear()));
        assert!(wants(types(pb::PacketType::Publish), |_| {}));
        assert!(!wants(types(pb::PacketType::Puback), |_| {}));
        assert!(wants(to(pb::Direction::ClientToServer), |_| {}));
        assert!(!wants(to(pb::Direction::ServerToClient), |_| {}));
        assert!(!wants(pb::EventFilter { connections: vec![2], ..Default::default() }, |_| {}));
    }

    #[test]
    fn packet_types_have_the_same_numbers() {
        for kind in PacketType::ALL {
            assert_eq!(type_of(kind).as_str_name(), format!("PACKET_TYPE_{}", kind.name()));
        }
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
