//! The server's part in one recorded connection.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{Line, Reply};
use crate::{
    packet::{
        Ack, Connack, Connect, ControlPacket, Properties, Property, ProtocolVersion, Publish, QoS,
        ReasonCode, Suback, Subscribe, Subscription, TopicFilter, TopicName, Unsuback, Unsubscribe,
        Utf8String,
    },
    recording::{ClientNames, Event, EventKind, NameTemplate, Rewrite, Rewriter},
};

/// First byte of the packet.
const CONNECT: u8 = 0x10;

/// What one recorded server said over one connection, and to what.
#[derive(Debug)]
pub struct Part {
    /// As recorded.
    pub client_identifier: String,
    /// `None` if it was never answered.
    pub connack: Option<Connack>,
    /// Whether the recording has its end.
    pub ends: bool,
    pub(super) connection: u32,
    /// `None` if its CONNECT came before the recording.
    pub(super) manner: Option<Manner>,
    pub(super) cues: Vec<Cue>,
    /// Those of messages that have not been given, by topic and payload, and by topic; some were given meanwhile.
    same: HashMap<u64, VecDeque<u32>>,
    topics: HashMap<TopicName, VecDeque<u32>>,
    requests: HashMap<Request, VecDeque<u32>>,
    /// Required cues that have not been given.
    lacking: usize,
    /// What was recorded, as far as it has not been [told](Self::told); only for whoever judges.
    pub(super) events: VecDeque<Event>,
    /// The event of the latest cue that was given.
    given_up_to: u64,
    /// What the client is called now, if otherwise.
    name: Option<String>,
    renaming: Option<Rewriter>,
}

/// What a client did, and what came of it.
#[derive(Debug)]
pub(super) struct Cue {
    pub doing: Doing,
    /// Of its event.
    pub seq: u64,
    /// The Reason Codes that it was answered; empty where it was not.
    pub answer: SmallVec<[ReasonCode; 8]>,
    pub completion: ReasonCode,
    pub lines: Vec<Line>,
    /// Whether the client may as well leave it out.
    pub is_optional: bool,
    pub is_given: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Doing {
    Connect,
    Publish { topic: TopicName, payload: Bytes },
    Request(Request),
}

/// SUBSCRIBE or UNSUBSCRIBE, by its Topic Filters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    Subscribe(Vec<TopicFilter>),
    Unsubscribe(Vec<TopicFilter>),
}

/// How a client connects, beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    protocol: ProtocolVersion,
    clean_start: bool,
    has_will: bool,
    has_username: bool,
}

impl Manner {
    pub fn of(connect: &Connect) -> Self {
        Self {
            protocol: connect.protocol,
            clean_start: connect.clean_start,
            has_will: connect.will.is_some(),
            has_username: connect.username.is_some(),
        }
    }
}

impl Cue {
    pub fn new(doing: Doing, seq: u64) -> Self {
        let (answer, completion) = (SmallVec::new(), ReasonCode::SUCCESS);
        Self { doing, seq, answer, completion, lines: Vec::new(), is_optional: false, is_given: false }
    }
}

impl Part {
    /// For a client that is not in the recording: nothing that it does is known.
    pub fn of_nobody() -> Self {
        let mut part = Self::new("", 0, None);
        part.connack = Some(Connack {
            session_present: false,
            reason_code: ReasonCode::SUCCESS,
            properties: Properties::new(),
        });
        part
    }

    pub(super) fn new(client_identifier: &str, connection: u32, manner: Option<Manner>) -> Self {
        Self {
            client_identifier: client_identifier.to_owned(),
            connack: None,
            ends: false,
            connection,
            manner,
            cues: Vec::new(),
            same: HashMap::new(),
            topics: HashMap::new(),
            requests: HashMap::new(),
            lacking: 0,
            events: VecDeque::new(),
            given_up_to: 0,
            name: None,
            renaming: None,
        }
    }

    /// Once all cues are there.
    pub(super) fn index(&mut self) {
        for (place, cue) in (0..).zip(&self.cues) {
            self.lacking += usize::from(!cue.is_optional);
            match &cue.doing {
                Doing::Connect => {}
                Doing::Publish { topic, payload } => {
                    self.same.entry(digest(topic, payload)).or_default().push_back(place);
                    self.topics.entry(topic.clone()).or_default().push_back(place);
                }
                Doing::Request(request) => {
                    self.requests.entry(request.clone()).or_default().push_back(place);
                }
            }
        }
    }

    /// Calls the client otherwise, and topics whose levels are its name with it.
    pub(super) fn rename(&mut self, name: &str) {
        if name == self.client_identifier {
            return;
        }
        self.name = Some(name.to_owned());
        if name.is_empty() || self.client_identifier.is_empty() {
            return;
        }
        for line in self.cues.iter_mut().flat_map(|cue| &mut cue.lines) {
            if let super::Said::Message(publish) = &mut line.what {
                rename_message(publish, &self.client_identifier, name);
            }
        }
        let Ok(rewrite) = Rewrite::new(&[], Some(NameTemplate::exactly(name))) else { return };
        let rewrite = rewrite.following(ClientNames::one(&self.client_identifier));
        self.renaming = Some(Rewriter::new(rewrite, "", 1, Duration::ZERO));
    }

    /// What follows the CONNACK.
    pub fn connected(&mut self) -> Vec<Line> {
        match self.cues.first() {
            Some(cue) if cue.doing == Doing::Connect && !cue.is_given => self.give(0).lines,
            _ => Vec::new(),
        }
    }

    /// What a live client's `packet` gets: what the recorded client got for the same, else what any server would say. An
    /// event that comes earlier or later than it did counts as well; a message has to have the same payload, or, if none
    /// has, the same topic.
    pub fn reply(&mut self, packet: &ControlPacket) -> Reply {
        let name = self.name.take();
        let place = self.find(packet, name.as_deref().unwrap_or_default());
        self.name = name;
        let given = place.map(|place| self.give(place));
        let is_known = given.is_some() || !is_judged(packet);
        let Given { answer, completion, lines } = given.unwrap_or_default();
        let answer = match packet {
            ControlPacket::Publish(publish) => acknowledged(publish, &answer),
            ControlPacket::Subscribe(subscribe) => Some(granted(subscribe, &answer)),
            ControlPacket::Unsubscribe(unsubscribe) => Some(unsubscribed(unsubscribe, &answer)),
            ControlPacket::Pingreq => Some(ControlPacket::Pingresp),
            _ => None,
        };
        Reply { is_known, answer, completion, lines }
    }

    /// Whether a client called `name` would be known to do `packet`.
    pub(super) fn knows(&mut self, packet: &ControlPacket, name: &str) -> bool {
        self.find(packet, name).is_some()
    }

    /// What the recorded client did and nobody has done yet.
    pub fn lacking(&self) -> usize {
        self.lacking
    }

    /// Whether the recorded client did nothing but connect.
    pub(super) fn is_silent(&self) -> bool {
        !self.cues.iter().any(|cue| cue.doing != Doing::Connect)
    }

    /// The recorded events up to the last that the client has repeated, with its name; each once.
    pub fn told(&mut self) -> Vec<Event> {
        let mut told = Vec::new();
        while self.events.front().is_some_and(|event| event.seq <= self.given_up_to) {
            told.extend(self.next_event());
        }
        told
    }

    /// The next recorded event that was not told.
    pub fn next_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        let mut event = match &mut self.renaming {
            Some(renaming) => renaming.apply(event),
            None => event,
        };
        if let (Some(name), EventKind::Packet { bytes, .. }) = (&self.name, &mut event.kind)
            && bytes.first() == Some(&CONNECT)
            && let Some(mut connect) = Connect::read(bytes)
            && let Some(name) = Utf8String::new(name.as_str())
        {
            // One without a name has no levels that follow it.
            connect.client_identifier = name;
            let protocol = connect.protocol;
            let mut encoded = BytesMut::new();
            if ControlPacket::Connect(connect).encode(protocol, &mut encoded).is_ok() {
                *bytes = encoded.freeze();
            }
        }
        Some(event)
    }

    /// Whether its CONNECT came before the recording.
    pub fn lacks_connect(&self) -> bool {
        self.manner.is_none()
    }

    /// The connection that it had in the recording.
    pub fn connection(&self) -> u32 {
        self.connection
    }

    /// The place of the first cue that was not given and that `packet` of a client called `name` gives.
    fn find(&mut self, packet: &ControlPacket, name: &str) -> Option<usize> {
        let recorded = self.client_identifier.as_str();
        let renamed = |text: &str| renamed(text, name, recorded);
        let filter = |filter: &TopicFilter| {
            let other = renamed(filter.as_str()).and_then(|text| TopicFilter::parse(&text).ok());
            other.unwrap_or_else(|| filter.clone())
        };
        let place = match packet {
            ControlPacket::Publish(publish) => {
                let topic = publish.topic.as_ref()?;
                let other = renamed(topic.as_str()).and_then(|text| TopicName::parse(&text).ok());
                let topic = other.as_ref().unwrap_or(topic);
                let cues = &self.cues;
                let same = self.same.get_mut(&digest(topic, &publish.payload));
                let is_same = |place: u32| {
                    matches!(&cues[place as usize].doing,
                        Doing::Publish { topic: of, payload } if of == topic && *payload == publish.payload)
                };
                let same = same.and_then(|places| first_open(cues, places, is_same));
                same.or_else(|| first_open(cues, self.topics.get_mut(topic)?, |_| true))
            }
            ControlPacket::Subscribe(subscribe) => {
                let filters = subscribe.subscriptions.iter().map(|one| filter(&one.filter));
                let request = Request::Subscribe(filters.collect());
                first_open(&self.cues, self.requests.get_mut(&request)?, |_| true)
            }
            ControlPacket::Unsubscribe(unsubscribe) => {
                let request = Request::Unsubscribe(unsubscribe.filters.iter().map(filter).collect());
                first_open(&self.cues, self.requests.get_mut(&request)?, |_| true)
            }
            _ => None,
        };
        place.map(|place| place as usize)
    }

    fn give(&mut self, place: usize) -> Given {
        let cue = &mut self.cues[place];
        cue.is_given = true;
        self.lacking -= usize::from(!cue.is_optional);
        self.given_up_to = self.given_up_to.max(cue.seq);
        Given {
            answer: std::mem::take(&mut cue.answer),
            completion: cue.completion,
            lines: std::mem::take(&mut cue.lines),
        }
    }
}

/// What came of a cue.
#[derive(Default)]
struct Given {
    answer: SmallVec<[ReasonCode; 8]>,
    completion: ReasonCode,
    lines: Vec<Line>,
}

/// The first of `places` whose cue was not given and `is_meant`; forgets those before it that were given.
fn first_open(cues: &[Cue], places: &mut VecDeque<u32>, is_meant: impl Fn(u32) -> bool) -> Option<u32> {
    while places.front().is_some_and(|&place| cues[place as usize].is_given) {
        places.pop_front();
    }
    places.iter().copied().find(|&place| !cues[place as usize].is_given && is_meant(place))
}

fn digest(topic: &TopicName, payload: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    topic.as_str().hash(&mut hasher);
    payload.hash(&mut hasher);
    hasher.finish()
}

/// Whether it matters that the recorded client did it, too.
fn is_judged(packet: &ControlPacket) -> bool {
    matches!(packet, ControlPacket::Publish(_) | ControlPacket::Subscribe(_) | ControlPacket::Unsubscribe(_))
}

fn acknowledged(publish: &Publish, recorded: &[ReasonCode]) -> Option<ControlPacket> {
    let reason_code = recorded.first().copied().unwrap_or(ReasonCode::SUCCESS);
    let ack =
        Ack { packet_identifier: publish.packet_identifier?, reason_code, properties: Properties::new() };
    match publish.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(ControlPacket::Puback(ack)),
        QoS::ExactlyOnce => Some(ControlPacket::Pubrec(ack)),
    }
}

fn granted(subscribe: &Subscribe, recorded: &[ReasonCode]) -> ControlPacket {
    let granted = |one: &Subscription| ReasonCode(u8::from(one.options.qos));
    let reason_codes = if recorded.len() == subscribe.subscriptions.len() {
        recorded.to_vec()
    } else {
        subscribe.subscriptions.iter().map(granted).collect()
    };
    let packet_identifier = subscribe.packet_identifier;
    ControlPacket::Suback(Suback { packet_identifier, properties: Properties::new(), reason_codes })
}

fn unsubscribed(unsubscribe: &Unsubscribe, recorded: &[ReasonCode]) -> ControlPacket {
    let reason_codes = if recorded.len() == unsubscribe.filters.len() {
        recorded.to_vec()
    } else {
        vec![ReasonCode::SUCCESS; unsubscribe.filters.len()]
    };
    let packet_identifier = unsubscribe.packet_identifier;
    ControlPacket::Unsuback(Unsuback { packet_identifier, properties: Properties::new(), reason_codes })
}

/// `text` with the levels that are `from` called `to`; `None` if none is.
fn renamed(text: &str, from: &str, to: &str) -> Option<String> {
    if from.is_empty() || to.is_empty() || from == to || !text.split('/').any(|level| level == from) {
        return None;
    }
    let levels = text.split('/').map(|level| if level == from { to } else { level });
    Some(levels.collect::<Vec<_>>().join("/"))
}

fn rename_message(publish: &mut Publish, from: &str, to: &str) {
    let topic = publish.topic.as_ref().and_then(|topic| renamed(topic.as_str(), from, to));
    if let Some(topic) = topic.and_then(|text| TopicName::parse(&text).ok()) {
        publish.topic = Some(topic);
    }
    for property in &mut publish.properties.0 {
        if let Property::ResponseTopic(topic) = property
            && let Some(other) = renamed(topic.as_str(), from, to).and_then(Utf8String::new)
        {
            *topic = other;
        }
    }
}
