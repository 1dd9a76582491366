//! What `WatchEvents` streams: told by the tap as packets pass, and by the event bus.
//!
//! The tap's part runs on the threads that carry traffic, so it only copies what may be wanted into a bounded queue.
//! Everything else (decoding, following connections, filtering) is done by the reader of the stream.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Control, ControlError,
    fields::Fields,
    lossy::{self, Entry, LossyReceiver, LossySender},
    pb,
    recorded_event::{close_cause, direction as direction_of, packet_type, type_of},
    recordings, time,
};
use crate::{
    auth::Action,
    broker::BrokerEvent,
    event::{Happening, Watcher, What},
    mock::MockEvent,
    packet::{self, ControlPacket, PacketIdentifier, ReasonCode, TopicFilter, TopicName},
    recording::{
        CloseCause, ConnectionInfo, Connections, Direction, Event as RecordedEvent,
        EventKind as RecordedKind, FaultInjected, NamePattern, Seen,
    },
    session::ConnectionId,
    tap::{Attachment, Observation, Observed, Observer},
};

/// What a watcher may fall behind before it misses events.
const QUEUE_EVENTS: usize = 4096;
const QUEUE_BYTES: usize = 4 << 20;

use pb::{EventKind, PacketType, server_event::Event};

/// Which events a watcher wants.
#[derive(Clone, Debug)]
pub struct EventFilter {
    /// Empty: all.
    kinds: Vec<EventKind>,
    topics: Vec<TopicFilter>,
    clients: Vec<NamePattern>,
    types: Vec<PacketType>,
    raw: bool,
}

impl EventFilter {
    pub fn checked(fields: &mut Fields, request: &pb::WatchEventsRequest) -> Self {
        Self {
            kinds: fields.choices("kinds", &request.kinds),
            topics: fields.filters("topics", &request.topics),
            clients: request.clients.iter().map(|text| NamePattern::new(text.as_str())).collect(),
            types: fields.choices("types", &request.types),
            raw: request.include_raw,
        }
    }

    fn wants_kind(&self, kind: EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Whether a packet of this type may become, or help to tell, an event.
    fn wants_packet(&self, kind: u8) -> bool {
        let tells_of_clients = matches!(kind, 1 | 2 | 8 | 9 | 10 | 11 | 14);
        let listed = || PacketType::try_from(i32::from(kind)).is_ok_and(|kind| self.wants_type(kind));
        tells_of_clients || (self.wants_kind(EventKind::Packet) && listed())
    }

    fn wants_type(&self, kind: PacketType) -> bool {
        self.types.is_empty() || self.types.contains(&kind)
    }

    fn wants_client(&self, client: &str) -> bool {
        self.clients.is_empty() || self.clients.iter().any(|pattern| pattern.matches(client))
    }

    fn wants_subscription(&self, filter: &str) -> bool {
        self.topics.is_empty()
            || self.topics.iter().any(|topic| topic.as_str() == filter)
            || TopicName::parse(filter).is_ok_and(|topic| self.topics.iter().any(|t| t.matches(&topic)))
    }

    fn wants_topic(&self, topic: Option<&TopicName>) -> bool {
        self.topics.is_empty()
            || topic.is_some_and(|topic| self.topics.iter().any(|filter| filter.matches(topic)))
    }

    fn wants(&self, event: &Event) -> bool {
        let (kind, client) = match event {
            Event::ConnectionOpened(event) => (EventKind::ConnectionOpened, Some(&event.client_id)),
            Event::ConnectionClosed(event) => (EventKind::ConnectionClosed, Some(&event.client_id)),
            Event::ClientConnected(event) => (EventKind::ClientConnected, Some(&event.client_id)),
            Event::ClientDisconnected(event) => (EventKind::ClientDisconnected, Some(&event.client_id)),
            Event::Subscribed(event) => (EventKind::Subscribed, Some(&event.client_id)),
            Event::Unsubscribed(event) => (EventKind::Unsubscribed, Some(&event.client_id)),
            Event::MessageDropped(event) => (EventKind::MessageDropped, Some(&event.client_id)),
            Event::Packet(event) => (EventKind::Packet, Some(&event.client_id)),
            Event::Recording(_) => (EventKind::Recording, None),
            Event::Replay(_) => (EventKind::Replay, None),
            Event::Mock(event) => (EventKind::Mock, Some(&event.client_id)),
            Event::Webhook(_) => (EventKind::Webhook, None),
            Event::Fault(event) => (EventKind::Fault, Some(&event.client_id)),
            Event::Gap(_) => return true,
        };
        self.wants_kind(kind)
            && client.is_none_or(|client| self.wants_client(client))
            && match event {
                Event::Subscribed(event) | Event::Unsubscribed(event) => {
                    self.wants_subscription(&event.filter)
                }
                Event::Mock(event) => self.wants_subscription(&event.topic),
                Event::Webhook(event) => self.wants_subscription(&event.topic),
                Event::Fault(event) => {
                    self.wants_type(event.r#type())
                        && self.wants_topic(TopicName::parse(&event.topic).ok().as_ref())
                }
                _ => true,
            }
    }
}

/// Everything that happens from now on and passes the filter.
pub fn events(
    control: Control,
    filter: EventFilter,
) -> impl Stream<Item = Result<pb::ServerEvent, ControlError>> + Send + 'static {
    let watcher = control.parts().events.watch();
    let (sender, queue) = lossy::channel(QUEUE_EVENTS, QUEUE_BYTES);
    let attachment = control.parts().tap.attach(Arc::new(Copier { sender, filter: filter.clone() }));
    let follower = Follower::new(filter);
    let watch = Watch { control, queue, watcher, follower, ready: VecDeque::new(), _attachment: attachment };
    stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok(event), watch))
    })
}

/// The tap's side: copies what may be wanted.
struct Copier {
    sender: LossySender<Observation>,
    filter: EventFilter,
}

impl Observer for Copier {
    fn observe(&self, observation: &Observation) {
        let (what, size) = match &observation.what {
            Observed::Packet { direction, bytes } => {
                if !self.filter.wants_packet(bytes.first().map_or(0, |first| first >> 4)) {
                    return;
                }
                // A slice would keep the whole read buffer alive.
                let bytes = Bytes::copy_from_slice(bytes);
                (Observed::Packet { direction: *direction, bytes: bytes.clone() }, bytes.len())
            }
            Observed::Raw { direction, bytes } => {
                if !self.filter.wants_kind(EventKind::Packet) || !self.filter.types.is_empty() {
                    return;
                }
                let bytes = Bytes::copy_from_slice(bytes);
                (Observed::Raw { direction: *direction, bytes: bytes.clone() }, bytes.len())
            }
            Observed::Fault(fault) => {
                if !self.filter.wants_kind(EventKind::Fault) {
                    return;
                }
                let mut fault = fault.clone();
                if self.filter.raw && fault.packet_type != packet::PacketType::Connect {
                    fault.detach();
                } else {
                    (fault.received, fault.sent) = (None, None);
                }
                let size = fault.size();
                (Observed::Fault(fault), size)
            }
            // Nobody asks for it.
            Observed::InForce(_) => return,
            what => (what.clone(), 0),
        };
        let observation = Observation { at: observation.at, connection: observation.connection, what };
        self.sender.offer(observation, size);
    }
}

/// The reader's side.
struct Watch {
    control: Control,
    queue: LossyReceiver<Observation>,
    watcher: Watcher,
    follower: Follower,
    ready: VecDeque<pb::ServerEvent>,
    _attachment: Attachment,
}

impl Watch {
    async fn next(&mut self) -> Option<pb::ServerEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            tokio::select! {
                entry = self.queue.next() => match entry? {
                    Entry::Item(observation) => self.follow(&observation),
                    Entry::Gap(missed) => self.push_gap(missed),
                },
                happening = self.watcher.recv() => match happening {
                    Ok(happening) => self.tell(happening),
                    Err(RecvError::Lagged(missed)) => self.push_gap(missed),
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    fn push_gap(&mut self, missed: u64) {
        let at = Some(time::timestamp(std::time::SystemTime::now()));
        self.ready.push_back(pb::ServerEvent { at, event: Some(Event::Gap(pb::Gap { missed })) });
    }

    fn follow(&mut self, observation: &Observation) {
        let at = time::timestamp_of_instant(observation.at);
        for event in self.follower.follow(observation) {
            self.ready.push_back(pb::ServerEvent { at: Some(at), event: Some(event) });
        }
    }

    fn tell(&mut self, happening: Happening) {
        let event = match happening.what {
            What::Broker(BrokerEvent::Dropped { client_identifier, reason }) => {
                Event::MessageDropped(pb::DropEvent {
                    client_id: client_identifier,
                    reason: reason.name().to_owned(),
                })
            }
            What::Broker(BrokerEvent::NotAuthorized {
                client_identifier, action: Action::Publish, ..
            }) => Event::MessageDropped(pb::DropEvent {
                client_id: client_identifier.to_string(),
                reason: "not_authorized".to_owned(),
            }),
            What::Mock(MockEvent::Fired(fired)) => Event::Mock(pb::MockEvent {
                mock: fired.mock,
                client_id: fired.client_identifier,
                topic: fired.topic,
                scheduled: fired.scheduled,
                error: String::new(),
            }),
            What::Mock(MockEvent::Failed { mock, client_identifier, topic, error, .. }) => {
                Event::Mock(pb::MockEvent { mock, client_id: client_identifier, topic, scheduled: 0, error })
            }
            What::Webhook(event) => Event::Webhook(pb::WebhookEvent {
                webhook: event.webhook,
                topic: event.topic,
                error: event.error,
                delivery: event.delivery,
                attempts: event.attempts,
            }),
            // The tap tells the same, of a proxy as well.
            What::Broker(_) => return,
            What::Recording(info) => Event::Recording(recordings::recording(*info)),
            What::Replay(id) => match self.control.replay(&id) {
                Some(replay) => Event::Replay(replay),
                None => return,
            },
        };
        if self.follower.filter.wants(&event) {
            let at = Some(time::timestamp(happening.at));
            self.ready.push_back(pb::ServerEvent { at, event: Some(event) });
        }
    }
}

/// Makes events of observations.
struct Follower {
    filter: EventFilter,
    /// What packets mean, by connection: client identifier, protocol version, topic aliases.
    known: Connections,
    connections: HashMap<ConnectionId, Connection>,
}

/// What is known of an open connection beside.
#[derive(Default)]
struct Connection {
    peer: String,
    transport: String,
    /// Whether its CONNECT was accepted.
    connected: bool,
    /// The Reason Code of the DISCONNECT that passed.
    reason: Option<ReasonCode>,
    /// Filters that wait for SUBACK and UNSUBACK. A client that never gets one has at most 65,535 of them, and they go
    /// with the connection.
    subscribing: HashMap<PacketIdentifier, Vec<String>>,
    unsubscribing: HashMap<PacketIdentifier, Vec<String>>,
}

impl Follower {
    fn new(filter: EventFilter) -> Self {
        Self { filter, known: Connections::new(), connections: HashMap::new() }
    }

    /// The events that `observation` stands for and the filter lets through.
    fn follow(&mut self, observation: &Observation) -> Vec<Event> {
        let id = observation.connection;
        let kind = match &observation.what {
            Observed::Open(info) => RecordedKind::Open(info.clone()),
            Observed::Packet { direction, bytes } => {
                RecordedKind::Packet { direction: *direction, bytes: bytes.clone() }
            }
            Observed::Raw { direction, bytes } => {
                RecordedKind::Raw { direction: *direction, bytes: bytes.clone() }
            }
            Observed::Close(cause) => RecordedKind::Close(*cause),
            // The bus tells it.
            Observed::Mock(_) | Observed::InForce(_) => return Vec::new(),
            Observed::Fault(fault) => {
                let event = Event::Fault(fault_event(id, fault));
                return if self.filter.wants(&event) { vec![event] } else { Vec::new() };
            }
        };
        let event = RecordedEvent { seq: 0, at: Duration::ZERO, connection: number(id), kind };
        let seen = self.known.follow(&event);
        let mut events = match &observation.what {
            Observed::Mock(_) | Observed::Fault(_) | Observed::InForce(_) => Vec::new(),
            Observed::Open(info) => self.opened(id, info),
            Observed::Close(cause) => self.closed(id, *cause),
            Observed::Raw { direction, bytes } => vec![Event::Packet(pb::PacketEvent {
                connection: id.0,
                client_id: self.client(id),
                direction: direction_of(*direction).into(),
                size: bytes.len() as u64,
                raw: if self.filter.raw { bytes.clone() } else { Bytes::new() },
                ..Default::default()
            })],
            Observed::Packet { direction, bytes } => {
                let passing = self.passing(id, *direction, bytes, seen.as_ref());
                let led_to = seen.map(|seen| self.led_to(id, seen)).unwrap_or_default();
                passing.map(Event::Packet).into_iter().chain(led_to).collect()
            }
        };
        events.retain(|event| self.filter.wants(event));
        events
    }

    fn opened(&mut self, id: ConnectionId, info: &ConnectionInfo) -> Vec<Event> {
        let connection = Connection {
            peer: info.peer.clone().unwrap_or_default(),
            transport: info.transport.clone(),
            connected: info.client_identifier.is_some(),
            ..Connection::default()
        };
        self.connections.insert(id, connection);
        if info.already_open {
            Vec::new()
        } else {
            vec![Event::ConnectionOpened(self.connection_event(id, None))]
        }
    }

    fn closed(&mut self, id: ConnectionId, cause: CloseCause) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(Connection { connected: true, reason, .. }) = self.connections.get(&id) {
            let reason = reason.unwrap_or(match cause {
                CloseCause::Timeout => ReasonCode::KEEP_ALIVE_TIMEOUT,
                _ => ReasonCode::UNSPECIFIED_ERROR,
            });
            events.push(Event::ClientDisconnected(pb::ClientEvent {
                reason_code: u32::from(reason.0),
                ..self.client_event(id)
            }));
        }
        events.push(Event::ConnectionClosed(self.connection_event(id, Some(cause))));
        self.connections.remove(&id);
        self.known.forget(number(id));
        events
    }

    /// The packet itself, if packets of its kind are wanted.
    fn passing(
        &self,
        id: ConnectionId,
        direction: Direction,
        bytes: &Bytes,
        seen: Option<&Seen>,
    ) -> Option<pb::PacketEvent> {
        let kind = packet_type(bytes)?;
        let topic = seen.and_then(|seen| seen.topic.as_ref());
        if !self.filter.wants_topic(topic) || !self.filter.wants_type(kind) {
            return None;
        }
        let raw = self.filter.raw && kind != PacketType::Connect;
        let mut event = pb::PacketEvent {
            connection: id.0,
            client_id: self.client(id),
            direction: direction_of(direction).into(),
            r#type: kind.into(),
            size: bytes.len() as u64,
            raw: if raw { bytes.clone() } else { Bytes::new() },
            ..Default::default()
        };
        if let Some(Seen { packet: Ok(ControlPacket::Publish(publish)), .. }) = seen {
            event.topic = topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default();
            event.qos = publish.qos as u32;
            event.retain = publish.retain;
            event.payload_size = publish.payload.len() as u64;
        }
        Some(event)
    }

    /// What a packet says of its client and its subscriptions.
    fn led_to(&mut self, id: ConnectionId, seen: Seen) -> Vec<Event> {
        let connection = self.connections.entry(id).or_default();
        match seen.packet {
            Ok(ControlPacket::Connack(connack)) if !connack.reason_code.is_error() => {
                connection.connected = true;
                vec![Event::ClientConnected(pb::ClientEvent {
                    session_present: connack.session_present,
                    ..self.client_event(id)
                })]
            }
            Ok(ControlPacket::Disconnect(disconnect)) => {
                connection.reason = Some(disconnect.reason_code);
                Vec::new()
            }
            Ok(ControlPacket::Subscribe(subscribe)) => {
                let filters = subscribe.subscriptions.iter();
                let filters = filters.map(|one| one.filter.as_str().to_owned()).collect();
                connection.subscribing.insert(subscribe.packet_identifier, filters);
                Vec::new()
            }
            Ok(ControlPacket::Suback(suback)) => {
                let filters = connection.subscribing.remove(&suback.packet_identifier).unwrap_or_default();
                let granted = filters.into_iter().zip(&suback.reason_codes);
                granted
                    .filter(|(_, reason)| !reason.is_error())
                    .map(|(filter, reason)| {
                        Event::Subscribed(self.subscription_event(id, filter, u32::from(reason.0)))
                    })
                    .collect()
            }
            Ok(ControlPacket::Unsubscribe(unsubscribe)) => {
                let filters = unsubscribe.filters.iter().map(|filter| filter.as_str().to_owned()).collect();
                connection.unsubscribing.insert(unsubscribe.packet_identifier, filters);
                Vec::new()
            }
            Ok(ControlPacket::Unsuback(unsuback)) => {
                let filters =
                    connection.unsubscribing.remove(&unsuback.packet_identifier).unwrap_or_default();
                let ended = filters.into_iter();
                ended.map(|filter| Event::Unsubscribed(self.subscription_event(id, filter, 0))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn client(&self, id: ConnectionId) -> String {
        let connection = self.known.get(number(id));
        connection.and_then(|connection| connection.client()).unwrap_or_default().to_owned()
    }

    fn connection_event(&self, id: ConnectionId, cause: Option<CloseCause>) -> pb::ConnectionEvent {
        let connection = self.connections.get(&id);
        pb::ConnectionEvent {
            connection: id.0,
            peer: connection.map(|connection| connection.peer.clone()).unwrap_or_default(),
            transport: connection.map(|connection| connection.transport.clone()).unwrap_or_default(),
            client_id: self.client(id),
            cause: cause.map_or(pb::CloseCause::Unspecified, close_cause).into(),
        }
    }

    fn client_event(&self, id: ConnectionId) -> pb::ClientEvent {
        let protocol = self.known.get(number(id)).and_then(|connection| connection.protocol);
        pb::ClientEvent {
            connection: id.0,
            client_id: self.client(id),
            protocol: protocol.map_or(0, |protocol| protocol as i32),
            ..Default::default()
        }
    }

    fn subscription_event(&self, id: ConnectionId, filter: String, qos: u32) -> pb::SubscriptionEvent {
        pb::SubscriptionEvent { connection: id.0, client_id: self.client(id), filter, qos }
    }
}

fn fault_event(id: ConnectionId, fault: &FaultInjected) -> pb::FaultEvent {
    pb::FaultEvent {
        connection: id.0,
        rule: fault.rule.clone(),
        action: fault.action.clone(),
        detail: fault.detail.clone().into(),
        client_id: fault.client_identifier.clone(),
        direction: direction_of(fault.direction).into(),
        r#type: type_of(fault.packet_type).into(),
        nth: fault.nth,
        topic: fault.topic.clone(),
        received: fault.received.clone(),
        sent: fault.sent.clone(),
    }
}

/// Connections are told apart by the lower half of their number: four thousand million of them are not open at once.
#[allow(clippy::cast_possible_truncation, reason = "see above")]
fn number(id: ConnectionId) -> u32 {
    id.0 as u32
}
