//! What playing a recording would do.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Acts, Causality, Doing, End, Message, Messages, Pace, Priming, Repeat, Script, Selection, Skipped, Speed,
    Step, Timeline,
    schedule::{Planned, Schedule, Scheduled},
    timeline::nanos,
};
use crate::{
    packet::{ControlPacket, Properties, Property, ProtocolVersion, Publish},
    recording::{CloseCause, Connections, Direction, Event, EventKind, in_pieces},
};

/// Whose messages share a connection of ours: one recorded client may have come several times.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey {
    /// `Err` has the connection's number, where the recording does not name its client.
    pub client: Result<Arc<str>, u32>,
    pub protocol: ProtocolVersion,
}

impl ClientKey {
    pub fn of(step: &Step<Message>) -> Self {
        Self::new(&step.item, step.connection)
    }

    fn new(message: &Message, connection: u32) -> Self {
        let client = message.client_identifier.as_ref().filter(|name| !name.is_empty());
        Self { client: client.cloned().ok_or(connection), protocol: message.protocol }
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
    /// Where what is selected by time ends.
    pub end: Duration,
    /// Events that the recorder could not keep.
    pub missing: u64,
    /// Whether anything has an expiry interval, or a Will a delay.
    pub has_expiry: bool,
    /// What else is done, by what it is; empty for messages that stand for themselves.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Plan {
    /// How many connections a replay opens.
    pub fn connections(&self, as_one: bool) -> usize {
        if as_one { self.clients.len().min(1) } else { self.clients.len() }
    }

    fn message(&mut self, publish: &Publish) {
        self.messages += 1;
        self.payload_bytes += publish.payload.len() as u64;
        self.has_expiry |= expires(&publish.properties);
        let topic = publish.topic.as_ref().map_or("", |topic| topic.as_str());
        match self.topics.get_mut(topic) {
            Some(count) => *count += 1,
            None => _ = self.topics.insert(topic.to_owned(), 1),
        }
    }

    fn count(&mut self, what: &'static str, how_many: usize) {
        if how_many > 0 {
            *self.counts.entry(what).or_default() += how_many as u64;
        }
    }

    fn prime(&mut self, priming: &Priming) {
        let Priming { retained, connected, away, .. } = priming;
        let stand_ins = || connected.iter().chain(away);
        self.count("retain", retained.len());
        self.count("connect", stand_ins().count());
        self.count("subscribe", stand_ins().map(|client| client.subscribes.len()).sum());
        self.count("disconnect", away.len());
    }

    /// What may surprise whoever expects all messages to be sent.
    pub fn left_out_warning(&self) -> Option<String> {
        let messages = self.skipped.in_pieces;
        let verb = if messages == 1 { "is" } else { "are" };
        (messages > 0).then(|| format!("{} and {verb} not sent", in_pieces(messages)))
    }
}

/// What playing the messages of one pass of `events` would do, without doing it; any `now` will do.
///
/// # Errors
/// Those of the events.
pub fn plan<E>(
    events: impl Iterator<Item = Result<Event, E>>,
    selection: Selection,
    pace: Pace,
    now: Instant,
) -> Result<Plan, E> {
    let mut known = HashSet::new();
    planned(events, Messages::new(selection), pace, now, |plan, planned| {
        plan.message(&planned.item.publish);
        let key = ClientKey::new(&planned.item, planned.connection);
        if !known.contains(&key) {
            known.insert(key.clone());
            plan.clients.push(key);
        }
    })
}

/// The same for all that the recorded clients did. Counts are by `connect`, `publish`, `subscribe`, `unsubscribe`,
/// `disconnect`, `raw`, `retain`, and how connections end: `fin`, `rst`, `server_end`, `stay`; with what it takes to bring about
/// what stands where it begins.
///
/// # Errors
/// Those of the events.
pub fn plan_acts<E>(
    events: impl Iterator<Item = Result<Event, E>>,
    selection: Selection,
    pace: Pace,
    now: Instant,
) -> Result<Plan, E> {
    let acts = Acts::new(selection, Causality::None, false);
    planned(events, acts, pace, now, |plan, planned| {
        let doing = &planned.item.doing;
        plan.has_expiry |= doing.has_expiry();
        match (doing, doing.name()) {
            (Doing::Prime(priming), _) => plan.prime(priming),
            (_, Some(what)) => plan.count(what, 1),
            (_, None) => {}
        }
        if let Doing::Send(packet) = doing
            && let ControlPacket::Publish(publish) = &**packet
        {
            plan.message(publish);
        }
    })
}

fn planned<S: Script, E>(
    events: impl Iterator<Item = Result<Event, E>>,
    script: S,
    pace: Pace,
    now: Instant,
    mut note: impl FnMut(&mut Plan, &Planned<S::Item>),
) -> Result<Plan, E> {
    let mut missing = 0;
    let events = events.inspect(|event| missing += event.as_ref().map_or(0, missing_in));
    let mut schedule = Schedule::new(events, script, pace.max_gap, Repeat::Times(1));
    // Only the offset of the last item counts, from an anchor that nobody waits for.
    let mut timeline = Timeline::new(&pace, now);
    let mut plan = Plan::default();
    while let Scheduled::Item(planned) = schedule.next()? {
        timeline.play(planned.position, now);
        note(&mut plan, &planned);
    }
    plan.recorded_span = nanos(schedule.recorded_span());
    plan.planned_span = timeline.span();
    plan.end = nanos(schedule.span_end);
    plan.skipped = schedule.script.skipped().clone();
    drop(schedule);
    plan.missing = missing;
    Ok(plan)
}

/// What the recorded server did, for live clients that do what the recorded ones did. Messages are those that are
/// delivered; counts are by `connect`, `publish`, `subscribe` and `unsubscribe`, which are awaited, and `answer`,
/// `delivery` and `server_end`.
///
/// # Errors
/// Those of the events.
pub fn plan_parts<E>(
    events: impl Iterator<Item = Result<Event, E>>,
    selection: &Selection,
    speed: Speed,
) -> Result<Plan, E> {
    let (mut plan, mut connections) = (Plan::default(), Connections::new());
    let (mut played, mut span) = (HashSet::new(), None);
    for event in events {
        let event = event?;
        if event.at >= selection.end() {
            break;
        }
        plan.missing += missing_in(&event);
        let seen = connections.follow(&event);
        if let EventKind::Close(cause) = event.kind {
            connections.forget(event.connection);
            if played.remove(&event.connection)
                && matches!(cause, CloseCause::ServerFin | CloseCause::ServerRst)
            {
                plan.count("server_end", 1);
            }
            continue;
        }
        let EventKind::Packet { direction, .. } = event.kind else { continue };
        let Some((Ok(packet), topic)) = seen.map(|seen| (seen.packet, seen.topic)) else { continue };
        if let ControlPacket::Connect(connect) = &packet
            && selection.has_client(Some(connect.client_identifier.as_str()))
        {
            played.insert(event.connection);
        }
        if !played.contains(&event.connection) {
            continue;
        }
        span = Some((span.map_or(event.at, |(first, _)| first), event.at));
        match (direction, packet) {
            (Direction::ServerToClient, ControlPacket::Publish(mut publish)) => {
                // What is sent again is up to the live session.
                if let Some(topic) = topic.filter(|topic| !publish.dup && selection.has_topic(topic)) {
                    publish.topic = Some(topic);
                    plan.message(&publish);
                    plan.count("delivery", 1);
                }
            }
            (
                Direction::ServerToClient,
                ControlPacket::Connack(_)
                | ControlPacket::Puback(_)
                | ControlPacket::Pubrec(_)
                | ControlPacket::Suback(_)
                | ControlPacket::Unsuback(_),
            ) => plan.count("answer", 1),
            (Direction::ClientToServer, ControlPacket::Connect(_)) => plan.count("connect", 1),
            (Direction::ClientToServer, ControlPacket::Publish(publish)) if !publish.dup => {
                plan.count("publish", 1)
            }
            (Direction::ClientToServer, ControlPacket::Subscribe(_)) => plan.count("subscribe", 1),
            (Direction::ClientToServer, ControlPacket::Unsubscribe(_)) => plan.count("unsubscribe", 1),
            _ => {}
        }
    }
    plan.recorded_span = span.map_or(Duration::ZERO, |(first, last)| last - first);
    plan.planned_span = speed.takes(plan.recorded_span);
    Ok(plan)
}

/// A file may leave the number out; something is missing all the same.
fn missing_in(event: &Event) -> u64 {
    match event.kind {
        EventKind::Gap { events, .. } => events.max(1),
        _ => 0,
    }
}

impl Doing {
    /// What it is counted as; `None` for what goes with a message.
    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Connect(_) => "connect",
            Self::Send(packet) => match **packet {
                ControlPacket::Publish(_) => "publish",
                ControlPacket::Subscribe(_) => "subscribe",
                _ => "unsubscribe",
            },
            Self::Stand { .. } => "subscribe",
            Self::Release(_) | Self::Settle | Self::Prime(_) => return None,
            Self::SendRaw(_) => "raw",
            Self::Disconnect(_) => "disconnect",
            Self::End(End::Fin) => "fin",
            Self::End(End::Rst) => "rst",
            Self::End(End::ByServer) => "server_end",
            Self::Stay => "stay",
            Self::Retain(_) => "retain",
        })
    }

    /// Whether it says how long something lasts, other than keep alive.
    pub fn has_expiry(&self) -> bool {
        match self {
            Self::Connect(connect) => {
                let will = connect.will.as_ref();
                expires(&connect.properties) || will.is_some_and(|will| expires(&will.properties))
            }
            Self::Send(packet) => {
                matches!(&**packet, ControlPacket::Publish(publish) if expires(&publish.properties))
            }
            Self::Disconnect(disconnect) => expires(&disconnect.properties),
            _ => false,
        }
    }
}

fn expires(properties: &Properties) -> bool {
    properties.iter().any(|property| {
        matches!(
            property,
            Property::MessageExpiryInterval(_)
                | Property::SessionExpiryInterval(_)
                | Property::WillDelayInterval(_)
        )
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::recording::sample::script;

    const PAIR: &str = "
        1 open
        1 c2s CONNECT app v=5
        1 s2c CONNACK session_present=false
        1 c2s SUBSCRIBE 1 t/# qos=1
        1 s2c SUBACK 1 1
        2 open
        2 c2s CONNECT dev v=5 session_expiry=60
        2 s2c CONNACK session_present=false
        2 c2s PUBLISH t/1 qos=1 id=7 xyz
        2 s2c PUBACK 7
        1 s2c PUBLISH t/1 xyz
        2 c2s PUBLISH t/1 qos=2 id=8 x
        2 s2c PUBREC 8
        2 c2s PUBREL 8
        2 s2c PUBCOMP 8
        1 c2s DISCONNECT
        1 close client_fin
        2 close server_fin";

    fn events() -> impl Iterator<Item = Result<Event, ()>> {
        script(PAIR).into_iter().map(Ok)
    }

    #[test]
    fn a_plan_of_acts_says_what_clients_do() {
        let pace = Pace { speed: Speed::Factor(2.0), ..Pace::default() };
        let plan = plan_acts(events(), Selection::default(), pace, Instant::now()).unwrap();
        expect![[
            r#"{"connect": 2, "disconnect": 1, "fin": 1, "publish": 2, "server_end": 1, "subscribe": 1}"#
        ]]
        .assert_eq(&format!("{:?}", plan.counts));
        assert_eq!((plan.messages, plan.payload_bytes, plan.topics["t/1"]), (2, 4, 2));
        assert_eq!(plan.planned_span, plan.recorded_span / 2);
        assert!(plan.has_expiry);
    }

    #[test]
    fn a_plan_of_parts_says_what_is_awaited_and_what_follows() {
        let plan = plan_parts(events(), &Selection::default(), Speed::Factor(4.0)).unwrap();
        expect![[
            r#"{"answer": 5, "connect": 2, "delivery": 1, "publish": 2, "server_end": 1, "subscribe": 1}"#
        ]]
        .assert_eq(&format!("{:?}", plan.counts));
        assert_eq!((plan.messages, plan.payload_bytes, plan.topics["t/1"]), (1, 3, 1));
        assert_eq!(plan.planned_span, plan.recorded_span / 4);
        let nobody =
            Selection { clients: vec![crate::recording::NamePattern::new("x")], ..Selection::default() };
        assert_eq!(plan_parts(events(), &nobody, Speed::Max).unwrap(), Plan::default());
    }
}
