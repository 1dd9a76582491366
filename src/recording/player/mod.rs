//! Playing a recording again: which messages, and when.
//!
//! A [`Player`] is asked what is due and answers with PUBLISH packets that stand for themselves:
//! Topic Aliases resolved, retransmissions left out. Deadlines are computed from the anchor by
//! whole nanoseconds, never by adding up what was waited, so there is no drift.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Connections, Direction, Event, EventKind, LongPackets, NamePattern, in_pieces};
use crate::packet::{ControlPacket, Property, ProtocolVersion, Publish, TopicFilter, TopicName};

/// Speeds are kept as multiples of this: 1/3 then strays by a nanosecond in half an hour.
const SPEED_UNITS: u128 = 1_000_000_000_000;
const NANOS_PER_SECOND: f64 = 1e9;

/// How fast time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// 0.001 to 1000; 2 takes half the recorded time.
    Factor(f64),
    /// Does not wait at all.
    Max,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("speed {0:?} is neither a number from 0.001 to 1000 nor max (or 0)")]
pub struct BadSpeed(String);

impl FromStr for Speed {
    type Err = BadSpeed;

    fn from_str(text: &str) -> Result<Self, BadSpeed> {
        match text.trim().parse::<f64>() {
            _ if text.trim().eq_ignore_ascii_case("max") => Ok(Self::Max),
            Ok(0.0) => Ok(Self::Max),
            Ok(factor) if (0.001..=1000.0).contains(&factor) => Ok(Self::Factor(factor)),
            Ok(_) | Err(_) => Err(BadSpeed(text.to_owned())),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Factor(factor) => factor.fmt(f),
            Self::Max => f.write_str("max"),
        }
    }
}

impl Speed {
    /// How long `recorded` nanoseconds take.
    fn scale(self, recorded: u128) -> u128 {
        match self {
            Self::Factor(factor) => {
                // At least 1: a factor of 0 cannot be typed, but can be constructed.
                let units = ((factor * SPEED_UNITS as f64).round() as u128).max(1);
                recorded.saturating_mul(SPEED_UNITS) / units
            }
            Self::Max => 0,
        }
    }
}

/// How often the selection is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// At least 1.
    Times(u32),
    Forever,
}

impl FromStr for Repeat {
    type Err = BadRepeat;

    fn from_str(text: &str) -> Result<Self, BadRepeat> {
        match text.trim().parse() {
            _ if text.trim().eq_ignore_ascii_case("forever") => Ok(Self::Forever),
            Ok(times) if times > 0 => Ok(Self::Times(times)),
            Ok(_) | Err(_) => Err(BadRepeat(text.to_owned())),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a number from 1 nor forever")]
pub struct BadRepeat(String);

/// When what is selected is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    pub speed: Speed,
    /// Silences between selected messages are at most this long, in recorded time: at speed 2 they
    /// take half of it.
    pub max_gap: Option<Duration>,
    /// Messages a second, at most.
    pub rate: Option<f64>,
    pub repeat: Repeat,
}

impl Default for Pace {
    /// As recorded, once.
    fn default() -> Self {
        Self { speed: Speed::Factor(1.0), max_gap: None, rate: None, repeat: Repeat::Times(1) }
    }
}

/// Which messages are sent. The default is every message that clients published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Empty means all.
    pub topics: Vec<TopicFilter>,
    pub exclude_topics: Vec<TopicFilter>,
    /// Empty means all; else the client identifier has to match one.
    pub clients: Vec<NamePattern>,
    /// Offset in the recording, like the next.
    pub start: Option<Duration>,
    /// Up to and without this offset.
    pub until: Option<Duration>,
    /// From `start` (or 0) on.
    pub duration: Option<Duration>,
    /// Plays what servers delivered instead: for recordings of a subscriber.
    pub deliveries: bool,
}

impl Selection {
    fn end(&self) -> Duration {
        let by_duration = self.duration.map(|duration| self.start.unwrap_or_default() + duration);
        by_duration.into_iter().chain(self.until).min().unwrap_or(Duration::MAX)
    }

    fn played(&self) -> Direction {
        match self.deliveries {
            true => Direction::ServerToClient,
            false => Direction::ClientToServer,
        }
    }

    fn has_topic(&self, topic: &TopicName) -> bool {
        (self.topics.is_empty() || self.topics.iter().any(|filter| filter.matches(topic)))
            && !self.exclude_topics.iter().any(|filter| filter.matches(topic))
    }

    fn has_client(&self, client: Option<&str>) -> bool {
        let client = client.unwrap_or_default();
        self.clients.is_empty() || self.clients.iter().any(|pattern| pattern.matches(client))
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Poll {
    Due(Step),
    /// Nothing before then.
    Wait(Instant),
    /// Another pass begins: hand the events over again with [`Player::rewind`]. Only if the pace
    /// repeats.
    Rewind,
    Done,
}

/// One message to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When to send it; at speed `max` without a rate, the anchor.
    pub deadline: Instant,
    /// In the recording.
    pub seq: u64,
    pub at: Duration,
    /// As recorded: what came over one connection goes over one again.
    pub connection: u32,
    /// `None` if the recording does not know it.
    pub client_identifier: Option<Arc<str>>,
    pub protocol: ProtocolVersion,
    /// Has a topic and neither Topic Alias nor DUP; the packet identifier is the recorded one.
    pub publish: Publish,
    /// From 0.
    pub pass: u32,
}

/// PUBLISH packets that were not played, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Not selected, by topic, client or time.
    pub unselected: u64,
    /// Sent again by the client because no acknowledgement had come.
    pub retransmissions: u64,
    /// Their Topic Alias was set before the recording began.
    pub unknown_aliases: u64,
    /// Longer than `recorder.packet_bytes`, and so in pieces.
    pub in_pieces: u64,
    /// Do not decode, or the protocol version of the connection is not known.
    pub unreadable: u64,
}

/// Schedules the messages of a recording.
pub struct Player<I> {
    schedule: Schedule<I>,
    anchor: Instant,
    /// Read, but not due yet.
    next: Option<Planned>,
}

impl<I, E> Player<I>
where
    I: Iterator<Item = Result<Event, E>>,
{
    /// Plays `events` (from the first one of the recording on) so that the first message is due at
    /// `anchor`.
    pub fn new(events: I, selection: Selection, pace: Pace, anchor: Instant) -> Self {
        Self { schedule: Schedule::new(events, selection, pace), anchor, next: None }
    }

    /// What is due at `now`.
    ///
    /// # Errors
    /// Those of the events.
    pub fn poll(&mut self, now: Instant) -> Result<Poll, E> {
        let planned = match self.next.take() {
            Some(planned) => planned,
            None => match self.schedule.next()? {
                Scheduled::Message(planned) => *planned,
                Scheduled::Rewind => return Ok(Poll::Rewind),
                Scheduled::Done => return Ok(Poll::Done),
            },
        };
        let deadline = self.anchor + planned.offset;
        if deadline > now {
            self.next = Some(planned);
            return Ok(Poll::Wait(deadline));
        }
        Ok(Poll::Due(planned.step(deadline)))
    }

    /// Starts the next pass with the events from the first one on again.
    pub fn rewind(&mut self, events: I) {
        self.schedule.rewind(events);
    }

    pub fn skipped(&self) -> &Skipped {
        &self.schedule.skipped
    }

    /// Recorded time between the first and the last message read so far, of this pass.
    pub fn recorded_span(&self) -> Duration {
        nanos(self.schedule.last_at.saturating_sub(self.schedule.first_at.unwrap_or_default()))
    }

    /// Time from the anchor to the last message read so far.
    pub fn planned_span(&self) -> Duration {
        nanos(self.schedule.last_offset)
    }
}

/// Whose messages share a connection of ours: one recorded client may have come several times.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey {
    /// `Err` has the connection's number, where the recording does not name its client.
    pub client: Result<Arc<str>, u32>,
    pub protocol: ProtocolVersion,
}

impl ClientKey {
    pub fn of(step: &Step) -> Self {
        Self::new(step.client_identifier.as_ref(), step.connection, step.protocol)
    }

    fn new(client: Option<&Arc<str>>, connection: u32, protocol: ProtocolVersion) -> Self {
        Self { client: client.filter(|name| !name.is_empty()).cloned().ok_or(connection), protocol }
    }
}

/// What a replay would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Of one pass.
    pub messages: u64,
    pub payload_bytes: u64,
    /// In the order they first send.
    pub clients: Vec<ClientKey>,
    /// Messages of each.
    pub topics: HashMap<String, u64>,
    /// From the first to the last message as recorded, and as it would be played.
    pub recorded_span: Duration,
    pub planned_span: Duration,
    pub skipped: Skipped,
    /// Events that the recorder could not keep.
    pub missing: u64,
    /// Whether a message has a Message Expiry Interval.
    pub has_expiry: bool,
}

impl Plan {
    /// How many connections a replay opens.
    pub fn connections(&self, as_one: bool) -> usize {
        if as_one { self.clients.len().min(1) } else { self.clients.len() }
    }

    /// What may surprise whoever expects all messages to be sent.
    pub fn left_out_warning(&self) -> Option<String> {
        let messages = self.skipped.in_pieces;
        let verb = if messages == 1 { "is" } else { "are" };
        (messages > 0).then(|| format!("{} and {verb} not sent", in_pieces(messages)))
    }
}

/// What playing one pass of `events` would do, without doing it.
///
/// # Errors
/// Those of the events.
pub fn plan<E>(
    events: impl Iterator<Item = Result<Event, E>>,
    selection: Selection,
    pace: Pace,
) -> Result<Plan, E> {
    let mut missing = 0;
    let events = events.inspect(|event| {
        if let Ok(Event { kind: EventKind::Gap { events, .. }, .. }) = event {
            // A file may leave the number out; something is missing all the same.
            missing += (*events).max(1);
        }
    });
    let mut schedule = Schedule::new(events, selection, Pace { repeat: Repeat::Times(1), ..pace });
    let (mut plan, mut known) = (Plan::default(), HashSet::new());
    while let Scheduled::Message(planned) = schedule.next()? {
        plan.messages += 1;
        plan.payload_bytes += planned.publish.payload.len() as u64;
        plan.has_expiry |= has_expiry_interval(&planned.publish);
        let topic = planned.publish.topic.as_ref().map_or("", |topic| topic.as_str());
        match plan.topics.get_mut(topic) {
            Some(count) => *count += 1,
            None => _ = plan.topics.insert(topic.to_owned(), 1),
        }
        let key = ClientKey::new(planned.client_identifier.as_ref(), planned.connection, planned.protocol);
        if !known.contains(&key) {
            known.insert(key.clone());
            plan.clients.push(key);
        }
    }
    plan.recorded_span = nanos(schedule.last_at.saturating_sub(schedule.first_at.unwrap_or_default()));
    plan.planned_span = nanos(schedule.last_offset);
    plan.skipped = std::mem::take(&mut schedule.skipped);
    drop(schedule);
    plan.missing = missing;
    Ok(plan)
}

fn has_expiry_interval(publish: &Publish) -> bool {
    publish.properties.iter().any(|property| matches!(property, Property::MessageExpiryInterval(_)))
}

enum Scheduled {
    Message(Box<Planned>),
    Rewind,
    Done,
}

/// A message with its offset from the anchor.
struct Planned {
    offset: Duration,
    seq: u64,
    at: Duration,
    connection: u32,
    client_identifier: Option<Arc<str>>,
    protocol: ProtocolVersion,
    publish: Publish,
    pass: u32,
}

impl Planned {
    fn step(self, deadline: Instant) -> Step {
        let Self { seq, at, connection, client_identifier, protocol, publish, pass, .. } = self;
        Step { deadline, seq, at, connection, client_identifier, protocol, publish, pass }
    }
}

/// The messages with their offsets from the anchor; nothing here knows what time it is.
struct Schedule<I> {
    events: I,
    selection: Selection,
    pace: Pace,
    connections: Connections,
    long: LongPackets,
    exchanges: Exchanges,
    /// By recorded connection, made once.
    clients: HashMap<u32, Arc<str>>,
    skipped: Skipped,
    pass: u32,
    /// Recorded nanoseconds, like the next three: of the first message of this pass.
    first_at: Option<u128>,
    /// Of the last one.
    last_at: u128,
    /// Of the last event in the selected span.
    span_end: u128,
    /// Taken out of silences so far in this pass.
    removed: u128,
    /// Nanoseconds from the anchor to the first message of this pass.
    pass_offset: u128,
    /// To the last message.
    last_offset: u128,
    /// Where the rate was last not what held messages back, and the messages since.
    rate_from: u128,
    rate_count: u128,
}

impl<I, E> Schedule<I>
where
    I: Iterator<Item = Result<Event, E>>,
{
    fn new(events: I, selection: Selection, pace: Pace) -> Self {
        Self {
            events,
            selection,
            pace,
            connections: Connections::new(),
            long: LongPackets::default(),
            exchanges: Exchanges::default(),
            clients: HashMap::new(),
            skipped: Skipped::default(),
            pass: 0,
            first_at: None,
            last_at: 0,
            span_end: 0,
            removed: 0,
            pass_offset: 0,
            last_offset: 0,
            rate_from: 0,
            rate_count: 0,
        }
    }

    fn next(&mut self) -> Result<Scheduled, E> {
        let end = self.selection.end();
        while let Some(event) = self.events.next() {
            let event = event?;
            if event.at >= end {
                break;
            }
            self.span_end = event.at.as_nanos();
            if let Some((publish, protocol)) = self.message(&event) {
                return Ok(Scheduled::Message(Box::new(self.plan(&event, publish, protocol))));
            }
        }
        Ok(self.end_of_pass())
    }

    /// The PUBLISH in `event`, if it is to be played.
    fn message(&mut self, event: &Event) -> Option<(Publish, ProtocolVersion)> {
        let seen = self.connections.follow(event);
        self.skipped.in_pieces += u64::from(self.ends_in_pieces(event));
        let (direction, bytes) = match &event.kind {
            EventKind::Packet { direction, bytes } => (*direction, bytes),
            EventKind::Close(_) => {
                self.connections.forget(event.connection);
                self.clients.remove(&event.connection);
                return None;
            }
            _ => return None,
        };
        let played = self.selection.played();
        let seen = seen.expect("a packet was seen");
        let connection = self.connections.get(event.connection).expect("it was just followed");
        if direction != played {
            if let Ok(packet) = &seen.packet {
                self.exchanges.acknowledge(event.connection, connection.session, packet);
            }
            return None;
        }
        let is_publish = bytes.first().is_some_and(|first| first >> 4 == 3);
        let mut publish = match seen.packet {
            Ok(ControlPacket::Publish(publish)) => publish,
            Ok(_) => return None,
            Err(_) => {
                self.skipped.unreadable += u64::from(is_publish);
                return None;
            }
        };
        let protocol = connection.protocol.expect("it was decoded by it");
        let again = self.exchanges.is_retransmission(event.connection, connection.session, &publish);
        let Some(topic) = seen.topic else {
            self.skipped.unknown_aliases += 1;
            return None;
        };
        let selected = event.at >= self.selection.start.unwrap_or_default()
            && self.selection.has_topic(&topic)
            && self.selection.has_client(connection.client());
        if !selected {
            self.skipped.unselected += 1;
            return None;
        }
        if again {
            self.skipped.retransmissions += 1;
            return None;
        }
        publish.topic = Some(topic);
        publish.dup = false;
        // Neither belongs to the message: one names its topic on that connection, the other is the
        // server's word to a subscriber [MQTT-3.3.4-6].
        publish.properties.0.retain(|property| {
            !matches!(property, Property::TopicAlias(_) | Property::SubscriptionIdentifier(_))
        });
        Some((publish, protocol))
    }

    /// Whether `event` is the last piece of a message that would be played, were it whole.
    fn ends_in_pieces(&mut self, event: &Event) -> bool {
        let connection = self.connections.get(event.connection);
        let is_up = || connection.is_some_and(|connection| connection.protocol.is_some());
        let Some(packet) = self.long.follow(event, is_up) else { return false };
        packet.is_whole()
            && packet.is_message(self.selection.played())
            && event.at >= self.selection.start.unwrap_or_default()
            && packet.topic.is_none_or(|topic| self.selection.has_topic(&topic))
            && self.selection.has_client(connection.and_then(|connection| connection.client()))
    }

    fn plan(&mut self, event: &Event, publish: Publish, protocol: ProtocolVersion) -> Planned {
        let at = event.at.as_nanos();
        let first_at = *self.first_at.get_or_insert_with(|| {
            self.last_at = at;
            at
        });
        if let Some(max_gap) = self.pace.max_gap {
            self.removed += at.saturating_sub(self.last_at).saturating_sub(max_gap.as_nanos());
        }
        self.last_at = at;
        let recorded = at.saturating_sub(first_at).saturating_sub(self.removed);
        let offset = self.hold_back(self.pass_offset + self.pace.speed.scale(recorded));
        self.last_offset = offset;
        let client_identifier = self.client(event.connection);
        Planned {
            offset: nanos(offset),
            seq: event.seq,
            at: event.at,
            connection: event.connection,
            client_identifier,
            protocol,
            publish,
            pass: self.pass,
        }
    }

    /// `offset`, or later if the rate asks for it: multiples of the interval since the rate was
    /// last kept by itself.
    fn hold_back(&mut self, offset: u128) -> u128 {
        let Some(rate) = self.pace.rate.filter(|rate| *rate > 0.0) else { return offset };
        let earliest = self.rate_from + (self.rate_count as f64 * NANOS_PER_SECOND / rate).ceil() as u128;
        if self.rate_count == 0 || offset >= earliest {
            self.rate_from = offset;
            self.rate_count = 1;
            return offset;
        }
        self.rate_count += 1;
        earliest
    }

    fn client(&mut self, number: u32) -> Option<Arc<str>> {
        let client = self.connections.get(number)?.client()?;
        match self.clients.get(&number) {
            Some(known) if &**known == client => Some(known.clone()),
            _ => {
                let client: Arc<str> = client.into();
                self.clients.insert(number, client.clone());
                Some(client)
            }
        }
    }

    fn end_of_pass(&self) -> Scheduled {
        let more = match self.pace.repeat {
            Repeat::Times(times) => self.pass + 1 < times,
            Repeat::Forever => true,
        };
        // Without a message there would be no end to it.
        if more && self.first_at.is_some() { Scheduled::Rewind } else { Scheduled::Done }
    }

    /// A pass lasts until the last event that is selected by time, message or not.
    fn rewind(&mut self, events: I) {
        let first_at = self.first_at.unwrap_or_default();
        let silence = self.span_end.saturating_sub(self.last_at);
        let silence = self.pace.max_gap.map_or(silence, |max_gap| silence.min(max_gap.as_nanos()));
        let recorded = self.last_at.saturating_sub(first_at).saturating_sub(self.removed) + silence;
        self.pass_offset = (self.pass_offset + self.pace.speed.scale(recorded)).max(self.last_offset);
        self.events = events;
        self.connections = Connections::new();
        self.long = LongPackets::default();
        self.exchanges = Exchanges::default();
        self.clients.clear();
        self.pass += 1;
        self.first_at = None;
        self.last_at = 0;
        self.removed = 0;
    }
}

/// QoS 1 and 2 exchanges that wait for their acknowledgement, by session.
#[derive(Default)]
struct Exchanges {
    open: HashSet<(Owner, u16)>,
}

/// Who an exchange belongs to: the session, or the connection while that is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Session(u32),
    Connection(u32),
}

impl Owner {
    fn new(connection: u32, session: Option<u32>) -> Self {
        session.map_or(Self::Connection(connection), Self::Session)
    }
}

impl Exchanges {
    /// Whether `publish` repeats one that is not acknowledged yet; else its exchange begins.
    fn is_retransmission(&mut self, connection: u32, session: Option<u32>, publish: &Publish) -> bool {
        let Some(identifier) = publish.packet_identifier else { return false };
        let is_new = self.open.insert((Owner::new(connection, session), identifier.get()));
        publish.dup && !is_new
    }

    /// What the other side said. A PUBREC without an error goes on until PUBCOMP.
    fn acknowledge(&mut self, connection: u32, session: Option<u32>, packet: &ControlPacket) {
        let identifier = match packet {
            ControlPacket::Puback(ack) | ControlPacket::Pubcomp(ack) => ack.packet_identifier,
            ControlPacket::Pubrec(ack) if ack.reason_code.is_error() => ack.packet_identifier,
            _ => return,
        };
        // Either may have begun it: a client may publish before its CONNACK has come.
        self.open.remove(&(Owner::new(connection, session), identifier.get()));
        self.open.remove(&(Owner::Connection(connection), identifier.get()));
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
