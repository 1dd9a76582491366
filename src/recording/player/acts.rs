//! What recorded clients did, for whoever stands in for them: connections, subscriptions, messages and ends, each with
//! what had come to the client before it.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use super::{Answers, Priming, Script, Selection, Skipped, priming::guessed};
use crate::{
    packet::{
        Connect, ControlPacket, Disconnect, PacketIdentifier, Property, Publish, QoS, ReasonCode, Suback,
        Subscribe, TopicName, Unsuback,
    },
    recording::{
        CloseCause, ConnectionInfo, Connections, Direction, Event, EventKind, InForce, Seen,
        standing::Standing,
    },
};

/// Keep alive of connections whose CONNECT is not in the recording, in seconds.
pub(super) const KEEP_ALIVE: u16 = 60;

/// What has to have come before an act for it to mean the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Causality {
    /// Nothing: acts have their times alone.
    None,
    /// What the client itself had been answered; the answers to everybody's SUBSCRIBE and UNSUBSCRIBE, which decide who
    /// gets a message; and the message before it on the same topic, if another client sent that.
    #[default]
    Session,
    /// Every answer that anybody had got.
    Global,
}

/// Something that a client does.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// What has to have come before.
    pub after: Vec<After>,
    pub doing: Doing,
    /// Requests whose answers concern everybody, in the order of these; each is told once, by the first act behind its
    /// answer.
    pub common: Vec<u64>,
}

impl Act {
    /// Whether it sends a message.
    pub fn is_message(&self) -> bool {
        matches!(&self.doing, Doing::Send(packet) if matches!(**packet, ControlPacket::Publish(_)))
    }
}

/// What has to have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum After {
    /// The last answer to the request with this sequence number.
    Answered(u64),
    /// The answers to so many of the requests that acts have told in [`Act::common`].
    Common(u64),
    /// Whatever shows that the server has handled the message with this sequence number.
    Handled(u64),
    /// The PUBREC of the message with this sequence number, which was not let go of yet: it may have been passed on, or
    /// will be at its PUBREL.
    Received(u64),
    /// So many messages, and releases of messages, over all connections of the client.
    Delivered(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Doing {
    /// Connects and says who it is.
    Connect(Box<Connect>),
    /// A PUBLISH has its topic; SUBSCRIBE and UNSUBSCRIBE are as recorded. Packet Identifiers mean nothing.
    Send(Box<ControlPacket>),
    /// Sends PUBREL for the message with this sequence number, or as soon as its PUBREC has come: many servers pass a
    /// message of QoS 2 on at its PUBREL.
    Release(u64),
    /// Bytes that are no packet.
    SendRaw(Bytes),
    Disconnect(Disconnect),
    End(End),
    /// The connection was still open when the recording ended.
    Stay,
    /// Waits until all that was sent is handled; no recording has it.
    Settle,
    /// Brings about what stands where playing begins.
    Prime(Box<Priming>),
    /// Retains a message that was there without a packet that says so.
    Retain(Box<Publish>),
    /// Has a client subscribe to what it had subscribed to without a packet that says so.
    Stand {
        client_identifier: String,
        subscribe: Box<Subscribe>,
    },
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It closes.
    Fin,
    /// It resets.
    Rst,
    /// The server did; the client waits for that.
    ByServer,
}

/// Reads acts off a recording's events.
pub struct Acts {
    selection: Selection,
    causality: Causality,
    awaits_deliveries: bool,
    /// What came before is brought about, not done.
    start: Duration,
    /// What stands, as long as nothing is done.
    prologue: Option<Prologue>,
    connections: Connections,
    clients: HashMap<u32, Client>,
    /// Requests without their answer, by session.
    open: HashMap<Owner, HashMap<(Kind, PacketIdentifier), Request>>,
    /// How many answers concerned everybody: those that decide who gets messages, or all of them.
    common: u64,
    /// Those that no act has told yet.
    untold: Vec<u64>,
    /// The last message to a topic: whose, and which.
    last_on: HashMap<TopicName, (u32, u64)>,
    /// Messages that clients have got, over all their connections: what comes late over one may come early over the next.
    delivered: HashMap<String, u64>,
    /// QoS 2 messages whose PUBREL has not come, and their topics.
    unreleased: HashMap<u64, TopicName>,
    skipped: Skipped,
    answers: Option<Answers>,
}

/// What comes before the first act.
#[derive(Default)]
struct Prologue {
    standing: Standing,
    /// Of connections that are open.
    connects: HashMap<u32, Connect>,
    /// Without their answer, by connection.
    subscribing: HashMap<u32, Vec<Subscribe>>,
}

/// One connection.
#[derive(Default)]
struct Client {
    /// Whether it takes part.
    is_selected: bool,
    has_connected: bool,
    /// Answers since its last act.
    answered: Vec<u64>,
    /// How many of the common answers it has waited for.
    common_seen: u64,
    /// Where it has no identifier; others keep their count over all their connections.
    delivered: u64,
    has_disconnected: bool,
    /// Seconds.
    keep_alive: u16,
    /// When it last sent something.
    sent_at: Duration,
    /// Whether the server has sent DISCONNECT.
    was_dismissed: bool,
    /// Whether its CONNECT came before the recording began.
    is_up: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Session(u32),
    Connection(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Connect,
    Message,
    Subscription,
}

struct Request {
    seq: u64,
    is_selected: bool,
}

impl Acts {
    /// `awaits_deliveries` has a client that leaves wait for the messages it had got by then.
    pub fn new(selection: Selection, causality: Causality, awaits_deliveries: bool) -> Self {
        let start = selection.start.unwrap_or_default();
        Self {
            selection,
            causality,
            awaits_deliveries,
            start,
            prologue: Some(Prologue::default()),
            connections: Connections::new(),
            clients: HashMap::new(),
            open: HashMap::new(),
            common: 0,
            untold: Vec::new(),
            last_on: HashMap::new(),
            delivered: HashMap::new(),
            unreleased: HashMap::new(),
            skipped: Skipped::default(),
            answers: None,
        }
    }

    /// Notes how the server answered.
    pub fn noting_answers(self) -> Self {
        Self { answers: Some(Answers::default()), ..self }
    }

    /// What was noted so far.
    pub fn into_answers(self) -> Answers {
        self.answers.unwrap_or_default()
    }

    /// Whether `event` only says what stands where playing begins.
    fn is_before(&self, event: &Event) -> bool {
        let says_what_stands = match &event.kind {
            EventKind::Open(info) => info.already_open,
            EventKind::State(_) | EventKind::Anchor(_) | EventKind::Mark(_) => true,
            _ => false,
        };
        self.prologue.is_some() && (event.at < self.start || says_what_stands)
    }

    /// Ends the prologue: what it has come to.
    fn prime(&mut self, prologue: Prologue) -> Option<Act> {
        let Self { selection, clients, .. } = self;
        let stands = |(number, kind): &(u32, EventKind)| match kind {
            EventKind::Open(_) => clients.get(number).is_some_and(|client| client.stands()),
            _ => true,
        };
        let mut events = prologue.standing.events(self.start);
        events.retain(stands);
        let left_out = prologue.standing.left_out(self.start);
        let mut priming = Priming::new(
            events,
            prologue.connects,
            prologue.subscribing,
            |client| selection.has_client(client),
            |topic| selection.has_topic(topic),
        );
        priming.left_out = left_out;
        let doing = Doing::Prime(Box::new(priming));
        match &doing {
            Doing::Prime(priming) if priming.is_empty() => None,
            _ => Some(Act { after: Vec::new(), doing, common: Vec::new() }),
        }
    }

    fn read(&mut self, event: &Event) -> Option<Act> {
        let number = event.connection;
        let seen = self.connections.follow(event);
        match &event.kind {
            EventKind::Open(info) => {
                self.clients.insert(number, Client { is_up: info.is_up(), ..Client::default() });
                if info.is_up() {
                    return self.stand_in(event, info);
                }
            }
            EventKind::Packet { direction: Direction::ClientToServer, .. } => {
                return self.client_sent(event, seen?);
            }
            EventKind::Packet { direction: Direction::ServerToClient, .. } => self.server_sent(event, &seen?),
            EventKind::Raw { direction: Direction::ClientToServer, bytes } => {
                let takes_part = self.clients.get(&number).is_some_and(|client| client.is_selected);
                return takes_part.then(|| self.act(event, Doing::SendRaw(bytes.clone()), Vec::new()));
            }
            EventKind::Close(cause) => return self.close(event, *cause),
            EventKind::State(in_force) => return self.in_force(event, in_force),
            EventKind::Raw { .. }
            | EventKind::Mark(_)
            | EventKind::Mock(_)
            | EventKind::Fault(_)
            | EventKind::Anchor(_)
            | EventKind::Gap { .. } => {}
        }
        None
    }

    fn client_sent(&mut self, event: &Event, seen: Seen) -> Option<Act> {
        let number = event.connection;
        let Ok(packet) = seen.packet else {
            self.skipped.unreadable += 1;
            return None;
        };
        if let ControlPacket::Connect(connect) = packet {
            return self.connect(event, connect);
        }
        let takes_part = self.clients.get(&number).is_some_and(|client| client.is_selected);
        if let Some(client) = self.clients.get_mut(&number) {
            client.sent_at = event.at;
        }
        match packet {
            ControlPacket::Publish(publish) => self.publish(event, publish, seen.topic, takes_part),
            ControlPacket::Subscribe(ref subscribe) => {
                let identifier = subscribe.packet_identifier;
                self.request(event, Kind::Subscription, identifier, takes_part);
                if let Some(prologue) = &mut self.prologue {
                    prologue.subscribing.entry(number).or_default().push(subscribe.clone());
                }
                takes_part.then(|| self.act(event, Doing::Send(Box::new(packet)), Vec::new()))
            }
            ControlPacket::Unsubscribe(ref unsubscribe) => {
                let identifier = unsubscribe.packet_identifier;
                self.request(event, Kind::Subscription, identifier, takes_part);
                takes_part.then(|| self.act(event, Doing::Send(Box::new(packet)), Vec::new()))
            }
            ControlPacket::Disconnect(disconnect) => {
                let client = self.clients.entry(number).or_default();
                client.has_disconnected = true;
                takes_part.then(|| self.act(event, Doing::Disconnect(disconnect), self.deliveries(number)))
            }
            ControlPacket::Pubrel(ack) => {
                let owners = [self.owner(number), Owner::Connection(number)];
                let mut asked =
                    owners.into_iter().map(|owner| self.asked(owner, Kind::Message, ack.packet_identifier));
                let seq = asked.find_map(|asked| asked).filter(|request| request.is_selected)?.seq;
                // What others sent to its topic meanwhile came before, where servers pass it on now.
                let topic = self.unreleased.remove(&seq);
                let after = topic.and_then(|topic| self.behind_the_last_on(&topic, number));
                takes_part.then(|| self.act(event, Doing::Release(seq), after.into_iter().collect()))
            }
            // Live sessions answer, and keep themselves alive.
            _ => None,
        }
    }

    fn connect(&mut self, event: &Event, connect: Box<Connect>) -> Option<Act> {
        let number = event.connection;
        let is_selected = self.selection.has_client(Some(connect.client_identifier.as_str()));
        let client = self.clients.entry(number).or_default();
        if std::mem::replace(&mut client.has_connected, true) {
            // A second one is against the protocol, and sent as it is.
            let EventKind::Packet { bytes, .. } = &event.kind else { return None };
            let bytes = bytes.clone();
            return is_selected.then(|| self.act(event, Doing::SendRaw(bytes), Vec::new()));
        }
        client.is_selected = is_selected;
        (client.keep_alive, client.sent_at) = (connect.keep_alive, event.at);
        if let Some(answers) = &mut self.answers {
            answers.connects(connect.protocol);
        }
        if let Some(prologue) = &mut self.prologue {
            prologue.connects.insert(number, (*connect).clone());
        }
        self.request(event, Kind::Connect, PacketIdentifier::MIN, is_selected);
        is_selected.then(|| self.act(event, Doing::Connect(connect), Vec::new()))
    }

    /// For a client that was connected before without a CONNECT in the recording.
    fn stand_in(&mut self, event: &Event, info: &ConnectionInfo) -> Option<Act> {
        let name = info.client_identifier.as_deref().unwrap_or_default();
        let is_selected = self.selection.has_client(Some(name));
        let client = self.clients.entry(event.connection).or_default();
        (client.has_connected, client.is_selected) = (true, is_selected);
        let connect = guessed(name, info.protocol?);
        is_selected.then(|| self.act(event, Doing::Connect(Box::new(connect)), Vec::new()))
    }

    /// What stood where another recording began that is merged into this one.
    fn in_force(&mut self, event: &Event, in_force: &InForce) -> Option<Act> {
        match (in_force.decode()?, &in_force.client_identifier) {
            (ControlPacket::Publish(publish), _) => {
                let is_meant = self.selection.has_topic(publish.topic.as_ref()?);
                is_meant.then(|| self.act(event, Doing::Retain(Box::new(publish)), Vec::new()))
            }
            (ControlPacket::Subscribe(subscribe), Some(client)) => {
                let stand =
                    Doing::Stand { client_identifier: client.clone(), subscribe: Box::new(subscribe) };
                self.selection.has_client(Some(client)).then(|| self.act(event, stand, Vec::new()))
            }
            _ => None,
        }
    }

    fn publish(
        &mut self,
        event: &Event,
        mut publish: Publish,
        topic: Option<TopicName>,
        takes_part: bool,
    ) -> Option<Act> {
        let number = event.connection;
        if let Some(identifier) = publish.packet_identifier {
            let owners = [self.owner(number), Owner::Connection(number)];
            let is_open = |owner: &Owner| self.asked(*owner, Kind::Message, identifier).is_some();
            if publish.dup && owners.iter().any(is_open) {
                self.skipped.retransmissions += u64::from(takes_part);
                return None;
            }
        }
        let Some(topic) = topic else {
            self.skipped.unknown_aliases += u64::from(takes_part);
            return None;
        };
        let is_meant = takes_part && self.selection.has_topic(&topic) && event.at >= self.start;
        if let Some(identifier) = publish.packet_identifier {
            self.request(event, Kind::Message, identifier, is_meant);
        }
        if !is_meant {
            self.skipped.unselected += 1;
            return None;
        }
        let mut after: Vec<After> = self.common(number).into_iter().collect();
        if self.causality != Causality::None {
            after.extend(self.behind_the_last_on(&topic, number));
            self.last_on.insert(topic.clone(), (number, event.seq));
            if publish.qos == QoS::ExactlyOnce {
                self.unreleased.insert(event.seq, topic.clone());
            }
        }
        publish.topic = Some(topic);
        publish.dup = false;
        publish.properties.retain(|property| !matches!(property, Property::TopicAlias(_)));
        Some(self.act(event, Doing::Send(Box::new(ControlPacket::Publish(publish))), after))
    }

    /// What shows that the server has the last message to `topic`, if another client than that of connection `number` sent
    /// it.
    fn behind_the_last_on(&self, topic: &TopicName, number: u32) -> Option<After> {
        let (_, seq) = self.last_on.get(topic).copied().filter(|(other, _)| *other != number)?;
        Some(match self.unreleased.contains_key(&seq) {
            true => After::Received(seq),
            false => After::Handled(seq),
        })
    }

    fn server_sent(&mut self, event: &Event, seen: &Seen) {
        let number = event.connection;
        let Ok(packet) = &seen.packet else { return };
        let (kind, identifier) = match packet {
            ControlPacket::Connack(connack) => {
                if let Some(answers) = &mut self.answers {
                    answers.connected(number, connack);
                }
                (Kind::Connect, PacketIdentifier::MIN)
            }
            ControlPacket::Puback(ack) | ControlPacket::Pubcomp(ack) => {
                (Kind::Message, ack.packet_identifier)
            }
            ControlPacket::Pubrec(ack) if ack.reason_code.is_error() => {
                (Kind::Message, ack.packet_identifier)
            }
            ControlPacket::Suback(suback) => (Kind::Subscription, suback.packet_identifier),
            ControlPacket::Unsuback(unsuback) => (Kind::Subscription, unsuback.packet_identifier),
            ControlPacket::Disconnect(_) => {
                self.clients.entry(number).or_default().was_dismissed = true;
                return;
            }
            // One that is sent again may not be live, and what is retained depends on what was there before.
            ControlPacket::Publish(publish) if publish.dup || publish.retain => return,
            ControlPacket::Publish(_) | ControlPacket::Pubrel(_) => {
                let is_done = self.prologue.is_none();
                *self.delivered(number) += u64::from(is_done);
                return;
            }
            _ => return,
        };
        let reason_code = match packet {
            ControlPacket::Puback(ack) | ControlPacket::Pubcomp(ack) | ControlPacket::Pubrec(ack) => {
                ack.reason_code
            }
            ControlPacket::Suback(Suback { reason_codes, .. })
            | ControlPacket::Unsuback(Unsuback { reason_codes, .. }) => {
                reason_codes.iter().copied().max().unwrap_or(ReasonCode::SUCCESS)
            }
            _ => ReasonCode::SUCCESS,
        };
        let owners = [self.owner(number), Owner::Connection(number)];
        if let (Kind::Subscription, Some(prologue)) = (kind, &mut self.prologue)
            && let Some(subscribing) = prologue.subscribing.get_mut(&number)
        {
            subscribing.retain(|subscribe| subscribe.packet_identifier != identifier);
        }
        let request =
            owners.into_iter().find_map(|owner| self.open.get_mut(&owner)?.remove(&(kind, identifier)));
        let Some(request) = request.filter(|request| request.is_selected) else { return };
        if let Some(answers) = &mut self.answers {
            answers.answers(request.seq, reason_code);
        }
        let client = self.clients.entry(number).or_default();
        match self.causality {
            Causality::None => {}
            Causality::Session => {
                client.answered.push(request.seq);
                if kind == Kind::Subscription {
                    self.concerns_all(request.seq);
                }
            }
            Causality::Global => self.concerns_all(request.seq),
        }
    }

    fn close(&mut self, event: &Event, cause: CloseCause) -> Option<Act> {
        let number = event.connection;
        let after = self.deliveries(number);
        let client = self.clients.get(&number)?;
        let (takes_part, has_connected) = (client.is_selected, client.has_connected);
        let doing = match cause {
            // Behind a DISCONNECT either closes.
            _ if client.has_disconnected => Doing::End(End::Fin),
            // It said nothing for so long that the server gave it up; who stands in keeps itself alive.
            CloseCause::ServerFin | CloseCause::ServerRst if client.was_silent(event.at) => {
                Doing::End(End::Rst)
            }
            // So does either behind the server's, which the client heard.
            _ if client.was_dismissed => Doing::End(End::ByServer),
            CloseCause::ClientFin | CloseCause::Proxy => Doing::End(End::Fin),
            CloseCause::ClientRst | CloseCause::Fault | CloseCause::Timeout => Doing::End(End::Rst),
            CloseCause::ServerFin | CloseCause::ServerRst => Doing::End(End::ByServer),
            CloseCause::RecordingEnded => Doing::Stay,
        };
        let act = (takes_part && has_connected).then(|| self.act(event, doing, after));
        self.connections.forget(number);
        self.clients.remove(&number);
        if let Some(prologue) = &mut self.prologue {
            prologue.connects.remove(&number);
            prologue.subscribing.remove(&number);
        }
        self.open.remove(&Owner::Connection(number));
        act
    }

    /// A request waits for its answer.
    fn request(&mut self, event: &Event, kind: Kind, identifier: PacketIdentifier, is_selected: bool) {
        let owner = match kind {
            Kind::Connect => Owner::Connection(event.connection),
            Kind::Message | Kind::Subscription => self.owner(event.connection),
        };
        // What was asked before playing begins is not asked again.
        let is_selected = is_selected && self.prologue.is_none();
        // Where no answer was recorded at all, as in what is written by hand, each is expected.
        if let (true, Some(answers)) = (is_selected, &mut self.answers)
            && (kind == Kind::Connect || answers.offer(event.connection).is_some())
        {
            answers.is_asked(event.seq);
        }
        let of_owner = self.open.entry(owner).or_default();
        of_owner.insert((kind, identifier), Request { seq: event.seq, is_selected });
    }

    fn asked(&self, owner: Owner, kind: Kind, identifier: PacketIdentifier) -> Option<&Request> {
        self.open.get(&owner)?.get(&(kind, identifier))
    }

    fn owner(&self, connection: u32) -> Owner {
        let session = self.connections.get(connection).and_then(|connection| connection.session);
        session.map_or(Owner::Connection(connection), Owner::Session)
    }

    fn act(&mut self, event: &Event, doing: Doing, mut after: Vec<After>) -> Act {
        if self.causality == Causality::Global {
            after.extend(self.common(event.connection));
        }
        if let Some(client) = self.clients.get_mut(&event.connection) {
            after.extend(client.answered.drain(..).map(After::Answered));
        }
        Act { after, doing, common: Vec::new() }
    }

    fn concerns_all(&mut self, seq: u64) {
        self.common += 1;
        self.untold.push(seq);
    }

    /// Answers that concern everybody, if any came since the connection's last act that waited for them.
    fn common(&mut self, connection: u32) -> Option<After> {
        let client = self.clients.get_mut(&connection)?;
        let seen = std::mem::replace(&mut client.common_seen, self.common);
        (seen < self.common).then_some(After::Common(self.common))
    }

    fn name_of(&self, connection: u32) -> Option<&str> {
        let known = self.connections.get(connection)?;
        known.client_identifier.as_deref().filter(|name| !name.is_empty())
    }

    /// How many messages its client has got.
    fn delivered(&mut self, connection: u32) -> &mut u64 {
        match self.name_of(connection).map(str::to_owned) {
            Some(name) => self.delivered.entry(name).or_default(),
            None => &mut self.clients.entry(connection).or_default().delivered,
        }
    }

    fn deliveries(&self, connection: u32) -> Vec<After> {
        let delivered = match self.name_of(connection) {
            Some(name) => self.delivered.get(name).copied().unwrap_or_default(),
            None => self.clients.get(&connection).map_or(0, |client| client.delivered),
        };
        match self.awaits_deliveries && delivered > 0 {
            true => vec![After::Delivered(delivered)],
            false => Vec::new(),
        }
    }
}

impl Client {
    /// Whether it is connected and means to stay so.
    fn stands(&self) -> bool {
        (self.has_connected || self.is_up) && !self.has_disconnected
    }

    /// Whether it had let its keep alive pass by `at`: half as much again, with some patience.
    fn was_silent(&self, at: Duration) -> bool {
        let keep_alive = Duration::from_secs(self.keep_alive.into());
        !keep_alive.is_zero() && at.saturating_sub(self.sent_at) >= keep_alive * 7 / 5
    }
}

impl Script for Acts {
    type Item = Act;

    fn before(&mut self, event: &Event) -> Option<Act> {
        if self.is_before(event) {
            return None;
        }
        let prologue = self.prologue.take()?;
        self.prime(prologue)
    }

    fn is_timeless(act: &Act) -> bool {
        matches!(act.doing, Doing::Prime(_))
    }

    fn take(&mut self, event: &Event) -> Option<Act> {
        if self.is_before(event) {
            if let Some(prologue) = &mut self.prologue {
                prologue.standing.follow(event);
            }
            self.read(event);
            return None;
        }
        let mut act = self.read(event)?;
        act.common = std::mem::take(&mut self.untold);
        Some(act)
    }

    fn restart(&mut self, from: Duration) {
        let skipped = std::mem::take(&mut self.skipped);
        let selection = std::mem::take(&mut self.selection);
        let fresh = Self::new(selection, self.causality, self.awaits_deliveries);
        *self = Self { skipped, start: fresh.start.max(from), ..fresh };
    }

    fn end(&self) -> Duration {
        self.selection.end()
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::recording::{NamePattern, player::StandIn, sample::script};

    /// What clients do, a line each: sequence number, connection, act and what has to have come before.
    fn told(acts: &mut Acts, events: &[Event]) -> String {
        let mut out = String::new();
        for event in events {
            let prime = acts.before(event);
            for Act { after, doing, common } in prime.into_iter().chain(acts.take(event)) {
                let after: Vec<String> = after.iter().map(|one| format!("{one:?}")).collect();
                out += &format!("{} {} {}", event.seq, event.connection, what(doing));
                if !after.is_empty() {
                    out += &format!(" after {}", after.join(", "));
                }
                if !common.is_empty() {
                    out += &format!(" common {common:?}");
                }
                out += "\n";
            }
        }
        out
    }

    fn what(doing: Doing) -> String {
        match doing {
            Doing::Connect(connect) => ControlPacket::Connect(connect).to_string(),
            Doing::Send(packet) => packet.to_string(),
            Doing::Release(seq) => format!("release {seq}"),
            Doing::SendRaw(bytes) => format!("raw {bytes:02x?}"),
            Doing::Disconnect(disconnect) => ControlPacket::Disconnect(disconnect).to_string(),
            Doing::End(end) => format!("end {end:?}"),
            Doing::Stay => "stay".to_owned(),
            Doing::Settle => "settle".to_owned(),
            Doing::Retain(publish) => format!("retain {}", ControlPacket::Publish(*publish)),
            Doing::Stand { client_identifier, subscribe } => {
                format!("{client_identifier} stands {}", ControlPacket::Subscribe(*subscribe))
            }
            Doing::Prime(priming) => {
                let Priming { retained, connected, away, left_out } = *priming;
                assert_eq!(left_out, 0);
                let mut out = "prime".to_owned();
                for publish in retained {
                    out += &format!("\n  {}", ControlPacket::Publish(publish));
                }
                for StandIn { connection, connect, wipes, subscribes } in connected.into_iter().chain(away) {
                    out += &format!("\n  {connection} {}", ControlPacket::Connect(Box::new(connect)));
                    out += if wipes { " behind a clean one" } else { "" };
                    for subscribe in subscribes {
                        out += &format!(", {}", ControlPacket::Subscribe(subscribe));
                    }
                }
                out
            }
        }
    }

    #[track_caller]
    fn check(causality: Causality, text: &str, wanted: Expect) {
        let mut acts = Acts::new(Selection::default(), causality, true);
        wanted.assert_eq(&told(&mut acts, &script(text)));
    }

    const PAIR: &str = "
        1 open
        1 c2s CONNECT app v=5
        1 s2c CONNACK session_present=false
        1 c2s SUBSCRIBE 1 t/# qos=1
        2 open
        2 c2s CONNECT dev v=5 clean=false keep_alive=30 will=st:gone
        1 s2c SUBACK 1 1
        2 s2c CONNACK session_present=false
        2 c2s PUBLISH t/1 qos=2 id=7 x
        2 s2c PUBREC 7
        2 c2s PUBREL 7
        2 s2c PUBCOMP 7
        1 s2c PUBLISH t/1 qos=1 id=1 x
        1 c2s PUBACK 1
        1 c2s PUBLISH t/1 y
        2 c2s PINGREQ
        2 s2c PINGRESP
        2 close client_rst
        1 c2s DISCONNECT
        1 close server_fin";

    #[test]
    fn clients_wait_for_what_they_had_been_answered_and_for_subscriptions() {
        check(
            Causality::Session,
            PAIR,
            expect![[r#"
                2 1 CONNECT app v=5
                4 1 SUBSCRIBE 1 t/# qos=1 after Answered(2)
                6 2 CONNECT dev v=5 clean=false keep_alive=30 will=st:gone
                9 2 PUBLISH t/1 qos=2 id=7 "x" after Common(1), Answered(6) common [4]
                11 2 release 9
                15 1 PUBLISH t/1 "y" after Common(1), Handled(9), Answered(4)
                18 2 end Rst after Answered(9)
                19 1 DISCONNECT after Delivered(1)
                20 1 end Fin after Delivered(1)
            "#]],
        );
    }

    #[test]
    fn nothing_is_waited_for_but_deliveries_or_every_answer_is() {
        check(
            Causality::None,
            PAIR,
            expect![[r#"
            2 1 CONNECT app v=5
            4 1 SUBSCRIBE 1 t/# qos=1
            6 2 CONNECT dev v=5 clean=false keep_alive=30 will=st:gone
            9 2 PUBLISH t/1 qos=2 id=7 "x"
            11 2 release 9
            15 1 PUBLISH t/1 "y"
            18 2 end Rst
            19 1 DISCONNECT after Delivered(1)
            20 1 end Fin after Delivered(1)
        "#]],
        );
        check(
            Causality::Global,
            PAIR,
            expect![[r#"
                2 1 CONNECT app v=5
                4 1 SUBSCRIBE 1 t/# qos=1 after Common(1) common [2]
                6 2 CONNECT dev v=5 clean=false keep_alive=30 will=st:gone after Common(1)
                9 2 PUBLISH t/1 qos=2 id=7 "x" after Common(3) common [4, 6]
                11 2 release 9
                15 1 PUBLISH t/1 "y" after Common(4), Handled(9) common [9]
                18 2 end Rst after Common(4)
                19 1 DISCONNECT after Delivered(1)
                20 1 end Fin after Delivered(1)
            "#]],
        );
    }

    #[test]
    fn what_is_sent_again_is_left_out_and_aliases_are_spelt_out() {
        check(
            Causality::Session,
            "1 open
            1 c2s CONNECT dev v=5 clean=false
            1 s2c CONNACK session_present=false
            1 c2s PUBLISH t alias=1 qos=1 id=1 x
            1 close server_rst
            2 open
            2 c2s CONNECT dev v=5 clean=false
            2 s2c CONNACK session_present=true
            2 c2s PUBLISH t qos=1 id=1 dup=true x
            2 s2c PUBACK 1
            2 c2s PUBLISH t alias=2 y
            2 c2s PUBLISH \"\" alias=2 z
            2 close recording_ended",
            expect![[r#"
                2 1 CONNECT dev v=5 clean=false
                4 1 PUBLISH t qos=1 id=1 "x" after Answered(2)
                5 1 end ByServer
                7 2 CONNECT dev v=5 clean=false
                11 2 PUBLISH t "y" after Handled(4), Answered(7), Answered(4)
                12 2 PUBLISH t "z"
                13 2 stay
            "#]],
        );
    }

    #[test]
    fn clients_and_topics_are_selected() {
        let clients = vec![NamePattern::new("dev*")];
        let exclude_topics = vec![crate::packet::TopicFilter::parse("t/2").unwrap()];
        let selection = Selection { clients, exclude_topics, ..Selection::default() };
        let mut acts = Acts::new(selection, Causality::Session, false);
        let events = script(
            "1 open
            1 c2s CONNECT app v=5
            1 c2s PUBLISH t/1 x
            2 open
            2 c2s CONNECT dev-1 v=5
            2 c2s PUBLISH t/1 x
            2 c2s PUBLISH t/2 x
            2 c2s SUBSCRIBE 1 a
            1 close client_fin
            2 close client_fin",
        );
        expect![[r#"
            5 2 CONNECT dev-1 v=5
            6 2 PUBLISH t/1 "x"
            8 2 SUBSCRIBE 1 a
            10 2 end Fin
        "#]]
        .assert_eq(&told(&mut acts, &events));
        assert_eq!(acts.skipped().unselected, 2);
    }

    /// Two clients, of which one stays; what is retained; a session that waits.
    const LATER: &str = "
        1 open
        1 c2s CONNECT app v=5 will=st:gone
        1 s2c CONNACK session_present=false
        1 c2s SUBSCRIBE 1 t/# qos=1
        1 s2c SUBACK 1 1
        2 open
        2 c2s CONNECT dev v=4 clean=false
        2 s2c CONNACK session_present=false
        2 c2s SUBSCRIBE 1 cmd qos=1
        2 s2c SUBACK 1 1
        2 c2s PUBLISH t/state qos=1 retain=true id=3 on
        2 s2c PUBACK 3
        1 s2c PUBLISH t/state qos=1 id=1 on
        3 open
        3 c2s CONNECT old v=4 clean=false
        3 s2c CONNACK session_present=false
        3 c2s SUBSCRIBE 1 x qos=1
        3 s2c SUBACK 1 1
        3 c2s DISCONNECT
        3 close client_fin
        2 c2s PUBLISH t/1 qos=2 id=4 x
        2 s2c PUBREC 4
        2 c2s PUBREL 4
        2 c2s PUBLISH t/2 y
        2 c2s SUBSCRIBE 2 more qos=1
        2 s2c SUBACK 2 1
        2 c2s PUBLISH t/3 z
        1 c2s DISCONNECT
        1 close server_fin";

    #[test]
    fn what_stands_at_the_start_is_brought_about() {
        let events = script(LATER);
        let start = Some(events[22].at);
        let mut acts = Acts::new(Selection { start, ..Selection::default() }, Causality::Session, true);
        expect![[r#"
            23 2 prime
              PUBLISH t/state qos=1 id=1 retain=true "on"
              1 CONNECT app v=5 will=st:gone, SUBSCRIBE 1 t/# qos=1
              2 CONNECT dev v=3.1.1 clean=false behind a clean one, SUBSCRIBE 1 cmd qos=1
              0 CONNECT old v=5 keep_alive=60 session_expiry=3600, SUBSCRIBE 1 x qos=1
            24 2 PUBLISH t/2 "y"
            25 2 SUBSCRIBE 2 more qos=1
            27 2 PUBLISH t/3 "z" after Common(1), Answered(25) common [25]
            28 1 DISCONNECT
            29 1 end Fin
        "#]]
        .assert_eq(&told(&mut acts, &events));
        acts.restart(events[25].at);
        expect![[r#"
            26 2 prime
              PUBLISH t/state qos=1 id=1 retain=true "on"
              1 CONNECT app v=5 will=st:gone, SUBSCRIBE 1 t/# qos=1
              2 CONNECT dev v=3.1.1 clean=false behind a clean one, SUBSCRIBE 1 cmd qos=1, SUBSCRIBE 2 more qos=1
              0 CONNECT old v=5 keep_alive=60 session_expiry=3600, SUBSCRIBE 1 x qos=1
            27 2 PUBLISH t/3 "z"
            28 1 DISCONNECT
            29 1 end Fin
        "#]]
        .assert_eq(&told(&mut acts, &events));
    }
}
