//! A live client, and the part that is played to it.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tracing::debug;

use super::{
    OnMiss, Seat, Session, Stage, Wire,
    session::{Acknowledged, Receiving, Waiting},
    upstream::{Answered, Failed, NotAsked, Upstream, acknowledgement},
};
use crate::{
    net::{ClientOptions, replay::lateness::Cause},
    packet::{
        Ack, Connack, Connect, ControlPacket, Disconnect, Frame, PacketIdentifier, Properties, Property,
        ProtocolVersion, Publish, QoS, ReasonCode, Suback, TopicName, Unsuback, Utf8String,
    },
    recording::{
        CloseCause, Direction,
        player::{Binding, Line, Part, Prompt, Reply, Said},
    },
    session::ConnectionId,
};

/// How long a client may take to say who it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages of QoS 1 and 2 that may be unacknowledged, where a client does not say.
const RECEIVE_MAXIMUM: usize = 65_535;
/// Packets of one client that are handled before others get their turn.
const TURN_PACKETS: usize = 256;
/// Topics of one client that have an alias, in bytes.
const ALIASES_SIZE_MAX: usize = 256 << 10;

/// A connection after its CONNECT.
pub struct Play<'a> {
    stage: &'a Stage,
    wire: Wire<'a>,
    id: ConnectionId,
    peer: SocketAddr,
    connect: Box<Connect>,
    seat: Seat,
    part: Part,
    role: Role,
    /// What was not reported yet; `None` once it was, and everything is.
    unreported: Option<Vec<Passed>>,
    session: Session,
    limits: Limits,
    aliases: HashMap<u16, TopicName>,
    aliases_size: usize,
    prompts: mpsc::UnboundedReceiver<Prompt>,
    /// Lines that were put down and have not come.
    pending: usize,
    /// Whether it has done more than to connect.
    has_acted: bool,
    /// Whether it counts among those that play.
    is_playing: bool,
    last_heard: Instant,
    upstream: Option<Upstream>,
    /// Whether the target was asked for messages.
    has_subscribed: bool,
}

/// What passed, and when.
type Passed = (Instant, Direction, Bytes);

/// Whom the client stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The client of its part.
    Recorded,
    /// One of several, as far as it has shown.
    Open,
    /// A recorded client that was refused, and comes more often than it did.
    Refused,
    Nobody,
}

/// What the client and the recorded server allow.
struct Limits {
    receive_maximum: usize,
    packet_size_max: usize,
    /// Zero is off.
    keep_alive: Duration,
    topic_alias_maximum: u16,
    maximum_qos: QoS,
    takes_retained: bool,
    keeps_session: bool,
}

/// How a connection ends.
#[derive(Debug)]
struct Ending {
    cause: CloseCause,
    /// Said to clients of MQTT 5.
    reason_code: Option<ReasonCode>,
    is_reset: bool,
}

impl Ending {
    fn silent(cause: CloseCause) -> Self {
        Self { cause, reason_code: None, is_reset: false }
    }

    fn said(reason_code: ReasonCode) -> Self {
        Self { cause: CloseCause::ServerFin, reason_code: Some(reason_code), is_reset: false }
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::OutOfMemory => Self::said(ReasonCode::QUOTA_EXCEEDED),
            _ => Self::silent(CloseCause::ClientRst),
        }
    }
}

/// Plays to one live client, to its end.
pub async fn attend(stage: &Stage, stream: TcpStream, peer: SocketAddr, id: ConnectionId) {
    let mut wire = Wire::new(stage, stream);
    let mut ending = stage.ending.subscribe();
    let first = tokio::select! {
        first = timeout(CONNECT_TIMEOUT, first_packet(&mut wire)) => first.ok().flatten(),
        _ = ending.wait_for(|is_ending| *is_ending) => return,
    };
    let Some((connect, bytes)) = first else {
        stage.figures().silent += 1;
        return wire.close(false).await;
    };
    stage.figures().connections += 1;
    stage.stirred();
    let seat = tokio::select! {
        seat = stage.seat(&connect) => seat,
        _ = ending.wait_for(|is_ending| *is_ending) => return,
    };
    let mut play = Play::new(stage, wire, (id, peer), connect, seat);
    let takeover = Arc::clone(&play.seat.takeover);
    let end = tokio::select! {
        end = play.run(bytes) => end,
        () = takeover.notified() => Ending::said(ReasonCode::SESSION_TAKEN_OVER),
        _ = ending.wait_for(|is_ending| *is_ending) => {
            Ending { cause: CloseCause::RecordingEnded, ..Ending::said(ReasonCode::SERVER_SHUTTING_DOWN) }
        }
    };
    let end = match end.reason_code {
        Some(ReasonCode::SESSION_TAKEN_OVER | ReasonCode::SERVER_SHUTTING_DOWN) => {
            play.catch_up().await.unwrap_or(end)
        }
        _ => end,
    };
    debug!(connection = %id, ?end, "a client is gone");
    let is_reset = end.is_reset;
    if let Some(wire) = play.leave(end) {
        wire.close(is_reset).await;
    }
}

/// The CONNECT and its bytes; `None` if something else comes, or nothing any more.
async fn first_packet(wire: &mut Wire<'_>) -> Option<(Box<Connect>, Bytes)> {
    loop {
        match wire.next() {
            Ok(Some(Frame { packet: ControlPacket::Connect(connect), bytes })) => {
                return Some((connect, bytes));
            }
            Ok(None) if !wire.has_ended() => wire.moved(true).await.ok()?,
            Ok(_) => return None,
            Err(error) => {
                let reason_code = error.reason_code();
                if reason_code != ReasonCode::UNSUPPORTED_PROTOCOL_VERSION {
                    return None;
                }
                let connack = Connack { session_present: false, reason_code, properties: Properties::new() };
                let _ = wire.put(&ControlPacket::Connack(connack));
                return None;
            }
        }
    }
}

impl<'a> Play<'a> {
    fn new(
        stage: &'a Stage,
        wire: Wire<'a>,
        (id, peer): (ConnectionId, SocketAddr),
        connect: Box<Connect>,
        seat: Seat,
    ) -> Self {
        Self {
            stage,
            wire,
            id,
            peer,
            limits: Limits::of(&connect),
            connect,
            seat,
            part: Part::of_nobody(),
            role: Role::Nobody,
            unreported: Some(Vec::new()),
            session: Session::default(),
            aliases: HashMap::new(),
            aliases_size: 0,
            prompts: stage.prompts(id.0),
            pending: 0,
            has_acted: false,
            is_playing: false,
            last_heard: Instant::now(),
            upstream: None,
            has_subscribed: false,
        }
    }

    async fn run(&mut self, connect: Bytes) -> Ending {
        match self.enter(connect).await {
            Err(ending) => ending,
            Ok(()) => loop {
                if let Err(ending) = self.turn().await {
                    break ending;
                }
            },
        }
    }

    /// Finds out who it is, and answers its CONNECT.
    async fn enter(&mut self, bytes: Bytes) -> Result<(), Ending> {
        let binding = self.stage.parts().bind(self.id.0, &self.connect);
        let connack = match binding {
            Binding::Part(part) => {
                let connack = part.connack.clone();
                self.take_part(*part);
                connack
            }
            Binding::Open(connack) => {
                self.role = Role::Open;
                connack
            }
            Binding::Refused(connack) => {
                self.role = Role::Refused;
                Some(connack)
            }
            Binding::Nobody if self.stage.on_miss == OnMiss::Disconnect => {
                self.report(Direction::ClientToServer, bytes);
                let reason_code = ReasonCode::NOT_AUTHORIZED;
                let connack = Connack { session_present: false, reason_code, properties: Properties::new() };
                self.put(&ControlPacket::Connack(connack))?;
                self.has_acted = true;
                let mut figures = self.stage.figures();
                figures.missed += 1;
                figures.error(format!("{} was refused: it is not in the recording", self.name()));
                return Err(Ending::silent(CloseCause::ServerFin));
            }
            Binding::Nobody => self.part.connack.clone(),
        };
        self.report(Direction::ClientToServer, bytes);
        // One that was never answered is not: it waits, until the recorded server closes or it gives up.
        if let Some(mut connack) = connack {
            self.adapt(&mut connack);
            let is_refused = connack.reason_code.is_error();
            if is_refused {
                // Connecting was all that it could do; what followed was the end.
                self.part.connected();
            }
            self.put(&ControlPacket::Connack(connack))?;
            if is_refused {
                return Err(Ending::silent(CloseCause::ServerFin));
            }
        }
        self.session.resume();
        self.send_next()?;
        let lines = self.part.connected();
        self.follow(lines);
        self.note_progress();
        Ok(())
    }

    /// What the recorded server said, for this client.
    fn adapt(&mut self, connack: &mut Connack) {
        // [MQTT-3.2.2-2]
        connack.session_present &= !self.connect.clean_start;
        let unfinished = self.seat.session.take();
        if connack.session_present {
            self.session = unfinished.unwrap_or_default();
        }
        self.limits.adapt(connack);
        if self.wire.protocol() != ProtocolVersion::V5 {
            return;
        }
        let is_nameless = self.connect.client_identifier.is_empty();
        let has_name = connack.properties.assigned_client_identifier().is_some();
        if !is_nameless {
            connack.properties.retain(|property| !matches!(property, Property::AssignedClientIdentifier(_)));
        } else if !has_name && !connack.reason_code.is_error() {
            // [MQTT-3.1.3-7]
            let name = Utf8String::new(format!("mockforge-{}", self.id)).unwrap_or_default();
            connack.properties.push(Property::AssignedClientIdentifier(name));
        }
    }

    /// One round: what has been read is heard, what waits is written, and something new is waited for.
    async fn turn(&mut self) -> Result<(), Ending> {
        let mut heard = 0;
        let mut is_held = false;
        while heard < TURN_PACKETS {
            is_held = !self.hears_more();
            if is_held {
                break;
            }
            let frame = match self.wire.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    let rest = self.wire.rest();
                    self.show();
                    self.stage.tap.raw(Instant::now(), self.id, Direction::ClientToServer, rest);
                    return Err(Ending::said(error.reason_code()));
                }
            };
            heard += 1;
            self.hear(frame)?;
        }
        if heard > 0 {
            self.last_heard = Instant::now();
            self.note_progress();
        }
        self.wire.flush()?;
        if heard == TURN_PACKETS || is_held && self.hears_more() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let has_room = self.wire.has_room();
        if !is_held && self.wire.has_ended() {
            return Err(Ending::silent(CloseCause::ClientFin));
        }
        let is_timed = !self.limits.keep_alive.is_zero() && !self.waits_for_target();
        let heard_by = is_timed.then(|| self.last_heard + self.limits.keep_alive);
        // What the target sends waits there while the client acknowledges nothing.
        let takes_messages = self.session.waiting() == 0;
        tokio::select! {
            Some(prompt) = self.prompts.recv(), if has_room => {
                self.prompted(prompt)?;
                // Others that are due go with it.
                while self.wire.has_room() && let Ok(prompt) = self.prompts.try_recv() {
                    self.prompted(prompt)?;
                }
                self.note_progress();
            }
            moved = self.wire.moved(!is_held) => moved?,
            answered = answered(self.upstream.as_mut(), takes_messages, is_held), if has_room => match answered {
                Some(answered) => self.answered(answered)?,
                // It was not to be heard meanwhile.
                None => self.last_heard = Instant::now(),
            },
            () = until(heard_by) => {
                let reason_code = Some(ReasonCode::KEEP_ALIVE_TIMEOUT);
                return Err(Ending { cause: CloseCause::Timeout, reason_code, is_reset: false });
            }
        }
        Ok(())
    }

    /// Whether as much waits for the target as may: what the client sends meanwhile waits with the client.
    fn waits_for_target(&self) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| !upstream.has_room())
    }

    /// Whether what the client does next can be answered, or passed on.
    fn hears_more(&self) -> bool {
        self.wire.has_room() && !self.waits_for_target()
    }

    /// Hears what has come by now, before it is made to end: how it ends by itself, if it does.
    async fn catch_up(&mut self) -> Option<Ending> {
        // The runtime looks what has come.
        tokio::task::yield_now().await;
        if let Err(error) = self.wire.read() {
            return Some(error.into());
        }
        while self.hears_more()
            && let Ok(Some(frame)) = self.wire.next()
        {
            if let Err(ending) = self.hear(frame) {
                return Some(ending);
            }
        }
        self.wire.has_ended().then(|| Ending::silent(CloseCause::ClientFin))
    }

    fn hear(&mut self, Frame { bytes, packet }: Frame) -> Result<(), Ending> {
        if packet != ControlPacket::Pingreq {
            self.stage.stirred();
        }
        match packet {
            ControlPacket::Publish(publish) => self.publish(publish, bytes),
            ControlPacket::Subscribe(_) | ControlPacket::Unsubscribe(_) => self.asked(packet, bytes),
            ControlPacket::Puback(ack) => {
                let acknowledged = self.session.puback(ack.packet_identifier);
                self.acknowledged(acknowledged, bytes)
            }
            ControlPacket::Pubcomp(ack) => {
                let acknowledged = self.session.pubcomp(ack.packet_identifier);
                self.acknowledged(acknowledged, bytes)
            }
            ControlPacket::Pubrec(ack) => {
                let acknowledged = self.session.pubrec(&ack);
                if matches!(acknowledged, Acknowledged::Completed { .. }) {
                    return self.acknowledged(acknowledged, bytes);
                }
                let is_passed = acknowledged == Acknowledged::Released { is_passed: true };
                if !is_passed {
                    self.report_shown(Direction::ClientToServer, bytes);
                }
                let reason_code = match acknowledged {
                    Acknowledged::Unknown => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                    _ => ReasonCode::SUCCESS,
                };
                let pubrel = ControlPacket::Pubrel(Ack { reason_code, ..Ack::new(ack.packet_identifier) });
                self.put_told(&pubrel, !is_passed)
            }
            ControlPacket::Pubrel(ack) => {
                let released = self.session.released(ack.packet_identifier);
                let is_untold = released.is_some_and(|receiving| receiving.is_untold);
                if !is_untold {
                    self.report_shown(Direction::ClientToServer, bytes);
                }
                // Whoever repeats it may not have heard that it was done.
                let reason_code = released.map_or(ReasonCode::SUCCESS, |receiving| receiving.completion);
                let pubcomp = ControlPacket::Pubcomp(Ack { reason_code, ..Ack::new(ack.packet_identifier) });
                self.put_told(&pubcomp, !is_untold)
            }
            ControlPacket::Pingreq => self.put(&ControlPacket::Pingresp),
            ControlPacket::Disconnect(disconnect) => {
                if !self.is_over() {
                    self.report(Direction::ClientToServer, bytes);
                }
                if let Some(interval) = disconnect.properties.session_expiry_interval() {
                    self.limits.keeps_session = interval > 0;
                }
                Err(Ending::silent(CloseCause::ClientFin))
            }
            // A second one, and what only servers send; and nobody has asked for another authentication.
            ControlPacket::Connect(_)
            | ControlPacket::Connack(_)
            | ControlPacket::Suback(_)
            | ControlPacket::Unsuback(_)
            | ControlPacket::Pingresp
            | ControlPacket::Auth(_) => {
                self.report_shown(Direction::ClientToServer, bytes);
                Err(Ending::said(ReasonCode::PROTOCOL_ERROR))
            }
        }
    }

    fn publish(&mut self, mut publish: Publish, bytes: Bytes) -> Result<(), Ending> {
        if let Err(reason_code) = self.allowed(&mut publish) {
            self.report_shown(Direction::ClientToServer, bytes);
            return Err(Ending::said(reason_code));
        }
        if let (QoS::ExactlyOnce, Some(identifier)) = (publish.qos, publish.packet_identifier)
            && let Some(receiving) = self.session.receiving(identifier)
        {
            // It is there already.
            let Receiving { is_untold, is_answered, .. } = *receiving;
            if !is_untold {
                self.report_shown(Direction::ClientToServer, bytes);
            }
            return match is_answered {
                true => self.put_told(&ControlPacket::Pubrec(Ack::new(identifier)), !is_untold),
                false => Ok(()),
            };
        }
        if publish.qos == QoS::AtLeastOnce
            && let Some(reason_code) = self.session.answered_before(&publish)
        {
            self.report_shown(Direction::ClientToServer, bytes);
            return self.put(&acknowledgement(&publish, reason_code));
        }
        self.asked(ControlPacket::Publish(publish), bytes)
    }

    /// Resolves the topic's alias.
    ///
    /// # Errors
    /// Why a server that says what the recorded one did does not take the message.
    fn allowed(&mut self, publish: &mut Publish) -> Result<(), ReasonCode> {
        if publish.qos > self.limits.maximum_qos {
            return Err(ReasonCode::QOS_NOT_SUPPORTED);
        }
        if publish.retain && !self.limits.takes_retained {
            return Err(ReasonCode::RETAIN_NOT_SUPPORTED);
        }
        let Some(alias) = publish.properties.topic_alias() else { return Ok(()) };
        // [MQTT-3.3.2-9]
        if alias == 0 || alias > self.limits.topic_alias_maximum {
            return Err(ReasonCode::TOPIC_ALIAS_INVALID);
        }
        match &publish.topic {
            Some(topic) => {
                let before = self.aliases.insert(alias, topic.clone());
                self.aliases_size -= before.map_or(0, |before| before.as_str().len());
                self.aliases_size += topic.as_str().len();
                if self.aliases_size > ALIASES_SIZE_MAX { Err(ReasonCode::QUOTA_EXCEEDED) } else { Ok(()) }
            }
            None => {
                publish.topic = self.aliases.get(&alias).cloned();
                publish.topic.as_ref().map(|_| ()).ok_or(ReasonCode::PROTOCOL_ERROR)
            }
        }
    }

    /// A client's message, or request to the server.
    fn asked(&mut self, packet: ControlPacket, bytes: Bytes) -> Result<(), Ending> {
        self.has_acted = true;
        if self.role == Role::Open
            && let Some(part) = self.stage.parts().take(self.id.0, &self.connect, &packet)
        {
            self.take_part(part);
            let lines = self.part.connected();
            self.follow(lines);
        }
        let Reply { is_known, answer, completion, lines } = self.part.reply(&packet);
        let is_passed = !is_known && self.stage.on_miss == OnMiss::Passthrough;
        // Nobody knows what it did then.
        let is_beyond = !is_known && self.is_over();
        let (is_answered, is_untold) = (!is_passed, is_passed || is_beyond);
        if let ControlPacket::Publish(publish) = &packet
            && let (QoS::ExactlyOnce, Some(identifier)) = (publish.qos, publish.packet_identifier)
        {
            self.session.receive(identifier, Receiving { completion, is_passed, is_answered, is_untold });
        }
        if !is_untold {
            self.stage.expect(&mut self.part);
            self.report_shown(Direction::ClientToServer, bytes);
        }
        if is_passed || !is_known && !is_beyond {
            self.missed(&packet);
            match self.stage.on_miss {
                OnMiss::Disconnect => return Err(Ending::said(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR)),
                OnMiss::Passthrough => return self.pass(packet),
                OnMiss::Ignore | OnMiss::Fail => {}
            }
        }
        if let Some(answer) = answer {
            self.put_answer(&packet, &answer, !is_untold)?;
        }
        self.follow(lines);
        Ok(())
    }

    fn put_answer(
        &mut self,
        packet: &ControlPacket,
        answer: &ControlPacket,
        is_told: bool,
    ) -> Result<(), Ending> {
        match (packet, answer) {
            (ControlPacket::Publish(publish), ControlPacket::Puback(ack)) => {
                self.session.acknowledge(publish, ack.reason_code);
            }
            (_, ControlPacket::Pubrec(ack)) if ack.reason_code.is_error() => {
                self.session.released(ack.packet_identifier);
            }
            _ => {}
        }
        self.put_told(answer, is_told)
    }

    fn missed(&self, packet: &ControlPacket) {
        let mut figures = self.stage.figures();
        figures.missed += 1;
        let verb = match self.stage.on_miss {
            OnMiss::Fail => "did what is not in the recording",
            OnMiss::Disconnect => "was disconnected for what is not in the recording",
            OnMiss::Ignore | OnMiss::Passthrough => return,
        };
        figures.error(format!("{} {verb}: {packet:.60}", self.name()));
    }

    /// Has the target answer `packet`.
    fn pass(&mut self, packet: ControlPacket) -> Result<(), Ending> {
        self.has_subscribed |= matches!(packet, ControlPacket::Subscribe(_));
        let options = || ClientOptions {
            protocol: self.wire.protocol(),
            ..ClientOptions::new(self.stage.target.clone(), self.connect.client_identifier.as_str())
        };
        let upstream = self.upstream.get_or_insert_with(|| Upstream::new(options()));
        match upstream.ask(packet) {
            Ok(()) => Ok(()),
            Err(failed) => self.not_passed(*failed),
        }
    }

    /// Something came from the target.
    fn answered(&mut self, answered: Answered) -> Result<(), Ending> {
        self.stage.stirred();
        match answered {
            Answered::Message(publish) => self.deliver(Waiting { publish, deadline: None, is_passed: true }),
            Answered::Packet(answer) => {
                if let ControlPacket::Pubrec(ack) = &answer {
                    if ack.reason_code.is_error() {
                        self.session.released(ack.packet_identifier);
                    } else if let Some(receiving) = self.session.receiving(ack.packet_identifier) {
                        receiving.is_answered = true;
                    }
                }
                self.put_told(&answer, false)
            }
            Answered::Lost(error) => {
                let text = format!("{}: {error}", self.name());
                self.stage.figures().shortfall(text);
                // What it has subscribed to there is lost, which only a connection that ends tells.
                match self.has_subscribed {
                    true => Err(Ending::silent(CloseCause::ServerFin)),
                    false => Ok(()),
                }
            }
            Answered::Failed(failed) => self.not_passed(*failed),
        }
    }

    /// The target was not asked, or did not answer: the client is told.
    fn not_passed(&mut self, Failed { packet, error }: Failed) -> Result<(), Ending> {
        {
            let text = format!("{}: {packet:.60} did not reach the target: {error}", self.name());
            let mut figures = self.stage.figures();
            figures.unpassed += 1;
            figures.error(text);
            if let NotAsked::Client(error) = error
                && NotAsked::Client(error.clone()).is_unreachable()
            {
                figures.unreachable.get_or_insert(error);
            }
        }
        let reason_code = ReasonCode::UNSPECIFIED_ERROR;
        let is_v5 = self.wire.protocol() == ProtocolVersion::V5;
        let answer = match &packet {
            ControlPacket::Publish(Publish { qos: QoS::AtMostOnce, .. }) => return Ok(()),
            // Nothing else says so before MQTT 5 [MQTT3-3.3.5-2].
            ControlPacket::Publish(_) if !is_v5 => return Err(Ending::silent(CloseCause::ServerFin)),
            ControlPacket::Publish(publish) => {
                if let Some(identifier) = publish.packet_identifier {
                    self.session.released(identifier);
                }
                acknowledgement(publish, reason_code)
            }
            ControlPacket::Subscribe(subscribe) => ControlPacket::Suback(Suback {
                packet_identifier: subscribe.packet_identifier,
                properties: Properties::new(),
                reason_codes: vec![reason_code; subscribe.subscriptions.len()],
            }),
            ControlPacket::Unsubscribe(unsubscribe) => ControlPacket::Unsuback(Unsuback {
                packet_identifier: unsubscribe.packet_identifier,
                properties: Properties::new(),
                reason_codes: vec![reason_code; unsubscribe.filters.len()],
            }),
            _ => return Ok(()),
        };
        self.put_told(&answer, false)
    }

    /// It is known whose part is played.
    fn take_part(&mut self, part: Part) {
        self.role = Role::Recorded;
        self.part = part;
        self.is_playing = true;
        self.stage.playing.fetch_add(1, Relaxed);
        let (live, recorded) = (self.connect.client_identifier.as_str(), &self.part.client_identifier);
        let mut figures = self.stage.figures();
        figures.played += 1;
        if live != recorded {
            figures.cast.add(format!("{} plays {}", shown(live), shown(recorded)));
        }
        drop(figures);
        if let Some(judge) = &self.stage.judge {
            judge.stands_for(self.id, self.part.connection(), self.part.lacks_connect());
        }
    }

    fn follow(&mut self, lines: Vec<Line>) {
        self.pending += lines.len();
        self.stage.follow(self.id.0, lines);
    }

    fn prompted(&mut self, Prompt { what, deadline, .. }: Prompt) -> Result<(), Ending> {
        self.pending -= 1;
        self.stage.moved();
        match what {
            Said::Message(publish) => self.deliver(Waiting { publish, deadline, is_passed: false }),
            Said::Disconnect(reason_code) => Err(Ending::said(reason_code)),
            Said::Close { is_reset } => {
                let cause = if is_reset { CloseCause::ServerRst } else { CloseCause::ServerFin };
                Err(Ending { is_reset, ..Ending::silent(cause) })
            }
        }
    }

    fn deliver(&mut self, mut waiting: Waiting) -> Result<(), Ending> {
        let protocol = self.wire.protocol();
        if protocol != ProtocolVersion::V5 {
            waiting.publish.properties = Properties::new();
        }
        if waiting.publish.qos != QoS::AtMostOnce {
            waiting.publish.packet_identifier = PacketIdentifier::new(1);
        }
        let packet = ControlPacket::Publish(*waiting.publish);
        let is_too_long = packet.encoded_len(protocol) > self.limits.packet_size_max;
        let ControlPacket::Publish(publish) = packet else { return Ok(()) };
        waiting.publish = Box::new(publish);
        if is_too_long {
            // Nor would any server send it [MQTT-3.1.2-24].
            self.stage.figures().too_long += 1;
            return Ok(());
        }
        if waiting.publish.qos == QoS::AtMostOnce {
            let packet = ControlPacket::Publish(*waiting.publish);
            return self.put_message(&packet, waiting.deadline, Cause::Scheduler, waiting.is_passed);
        }
        let is_first = self.session.waiting() == 0;
        self.session.put_off(waiting);
        let cause = if is_first { Cause::Scheduler } else { Cause::FlowControl };
        match self.session.next(self.limits.receive_maximum) {
            Some((packet, first)) => {
                let (deadline, is_passed) =
                    first.map_or((None, false), |first| (first.deadline, first.is_passed));
                self.put_message(&packet, deadline, cause, is_passed)
            }
            None => Ok(()),
        }
    }

    /// Sends what may be sent of what waits.
    fn send_next(&mut self) -> Result<(), Ending> {
        while let Some((packet, first)) = self.session.next(self.limits.receive_maximum) {
            match first {
                Some(first) => {
                    self.put_message(&packet, first.deadline, Cause::FlowControl, first.is_passed)?;
                }
                None => self.put(&packet)?,
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, acknowledged: Acknowledged, bytes: Bytes) -> Result<(), Ending> {
        if acknowledged != (Acknowledged::Completed { is_passed: true }) {
            self.report_shown(Direction::ClientToServer, bytes);
        }
        if acknowledged != Acknowledged::Unknown {
            self.stage.figures().acked += 1;
        }
        self.send_next()
    }

    fn put_message(
        &mut self,
        packet: &ControlPacket,
        deadline: Option<Instant>,
        cause: Cause,
        is_passed: bool,
    ) -> Result<(), Ending> {
        if let ControlPacket::Publish(publish) = packet {
            self.stage.figures().message(publish);
        }
        self.put_told(packet, !is_passed)?;
        self.wire.mark(deadline, cause);
        Ok(())
    }

    fn put(&mut self, packet: &ControlPacket) -> Result<(), Ending> {
        self.put_told(packet, true)
    }

    /// Whoever judges is told of it if it `is_told`.
    fn put_told(&mut self, packet: &ControlPacket, is_told: bool) -> Result<(), Ending> {
        match self.wire.put(packet) {
            Ok(()) => {
                self.stage.figures().packets += 1;
                if is_told && self.stage.judge.is_some() && *packet != ControlPacket::Pingresp {
                    let bytes = self.wire.last_put();
                    self.report(Direction::ServerToClient, bytes);
                }
                Ok(())
            }
            Err(error) => {
                // It was recorded of another version of the protocol, perhaps.
                let text = format!("{}: {packet:.60} cannot be sent: {error}", self.name());
                self.stage.figures().shortfall(text);
                // Who waits for it, or we for its acknowledgement, would wait for ever.
                Err(Ending::silent(CloseCause::ServerFin))
            }
        }
    }

    /// Tells whoever judges, once it is known that the client does more than to connect.
    fn report(&mut self, direction: Direction, bytes: Bytes) {
        if self.stage.judge.is_none() {
            return;
        }
        match &mut self.unreported {
            Some(unreported) => unreported.push((Instant::now(), direction, bytes)),
            None => self.stage.tap.packet(Instant::now(), self.id, direction, bytes),
        }
        if self.role == Role::Recorded {
            self.show();
        }
    }

    /// The same; it does more than to connect.
    fn report_shown(&mut self, direction: Direction, bytes: Bytes) {
        self.show();
        self.report(direction, bytes);
    }

    fn show(&mut self) {
        let Some(unreported) = self.unreported.take() else { return };
        let at = unreported.first().map_or_else(Instant::now, |(at, ..)| *at);
        let tap = &self.stage.tap;
        tap.open(at, self.id, Some(self.peer), self.stage.way.clone());
        tap.identify(self.id, self.connect.client_identifier.as_str(), self.wire.protocol());
        self.stage.expect(&mut self.part);
        for (at, direction, bytes) in unreported {
            tap.packet(at, self.id, direction, bytes);
        }
        // A CONNECT that the recording does not have is as good as any.
        if let Some(judge) = &self.stage.judge {
            judge.is_judged_from_now(self.id);
        }
    }

    /// Whether the recording was over with its client connected, and all was done and said that it has.
    fn is_over(&self) -> bool {
        self.role == Role::Recorded && !self.part.ends && self.part.lacking() == 0 && self.pending == 0
    }

    /// The same, and nothing is on its way.
    fn has_finished(&self) -> bool {
        self.is_over() && self.session.is_idle()
    }

    /// Whether there is still something to do in its part.
    fn note_progress(&mut self) {
        if self.role != Role::Recorded {
            return;
        }
        let is_done = self.has_finished();
        if self.is_playing == is_done {
            self.is_playing = !is_done;
            match is_done {
                true => self.stage.playing.fetch_sub(1, Relaxed),
                false => self.stage.playing.fetch_add(1, Relaxed),
            };
        }
    }

    /// Ends it for everybody else; what the client has still to be told is written afterwards.
    fn leave(mut self, ending: Ending) -> Option<Wire<'a>> {
        let stage = self.stage;
        if self.role == Role::Open {
            let left = stage.parts().leave(self.id.0, &self.connect);
            match left {
                Some(part) => {
                    self.take_part(part);
                    // That was all it did.
                    self.part.connected();
                }
                None => self.role = Role::Nobody,
            }
        }
        if self.role == Role::Recorded {
            self.show();
        }
        let was_ended = ending.cause == CloseCause::RecordingEnded;
        // What the target has sent is no part of it.
        self.session.forget_passed();
        let is_cut_short = was_ended && self.role == Role::Recorded && !self.has_finished();
        let has_shown = self.unreported.is_none();
        if let Some(reason_code) = ending.reason_code
            && self.wire.protocol() == ProtocolVersion::V5
        {
            let disconnect = Disconnect { reason_code, properties: Properties::new() };
            let _ = self.put(&ControlPacket::Disconnect(disconnect));
        }
        if has_shown {
            let cause = if self.is_over() { CloseCause::RecordingEnded } else { ending.cause };
            stage.tap.close(Instant::now(), self.id, cause);
        }
        let Self { wire, mut seat, mut part, mut session, prompts, .. } = self;
        stage.expect_rest(&mut part);
        let keeps_session = self.limits.keeps_session && self.role == Role::Recorded;
        let mut unsaid = 0;
        for what in stage.forget(self.id.0, prompts) {
            match what {
                Said::Message(publish) if keeps_session && publish.qos != QoS::AtMostOnce => {
                    session.put_off(Waiting { publish, deadline: None, is_passed: false });
                }
                Said::Message(_) => unsaid += 1,
                Said::Disconnect(_) | Said::Close { .. } => {}
            }
        }
        {
            let mut figures = stage.figures();
            if !keeps_session {
                figures.unacknowledged += session.unacknowledged() as u64;
            }
            // Once it is over, nobody comes back for what waits.
            if was_ended || !keeps_session {
                unsaid += session.waiting() as u64;
            }
            figures.cut_short += u64::from(is_cut_short);
            match was_ended {
                true => figures.cut_messages += unsaid,
                false => figures.unsaid += unsaid,
            }
            match (self.role, self.has_acted) {
                (Role::Recorded, _) => figures.lacking += part.lacking() as u64,
                (Role::Refused, _) => {}
                (_, true) => figures.strangers.add(shown(self.connect.client_identifier.as_str())),
                (_, false) => figures.idlers.add(shown(self.connect.client_identifier.as_str())),
            }
        }
        // The last one's end is still to be heard of by whoever judges.
        if self.is_playing {
            stage.moved();
            stage.playing.fetch_sub(1, Relaxed);
        }
        seat.session = None;
        stage.leave(&seat, keeps_session.then_some(session));
        stage.stirred();
        drop(seat);
        (!matches!(ending.cause, CloseCause::ClientRst)).then_some(wire)
    }

    fn name(&self) -> String {
        shown(self.connect.client_identifier.as_str())
    }
}

impl Limits {
    fn of(connect: &Connect) -> Self {
        let properties = &connect.properties;
        let keeps_session = match connect.protocol {
            ProtocolVersion::V5 => properties.session_expiry_interval().is_some_and(|interval| interval > 0),
            _ => !connect.clean_start,
        };
        Self {
            receive_maximum: properties.receive_maximum().map_or(RECEIVE_MAXIMUM, usize::from),
            packet_size_max: properties.maximum_packet_size().map_or(usize::MAX, |size| size as usize),
            keep_alive: grace(connect.keep_alive),
            topic_alias_maximum: 0,
            maximum_qos: QoS::ExactlyOnce,
            takes_retained: true,
            keeps_session,
        }
    }

    /// What the server says counts [MQTT-3.1.2-21].
    fn adapt(&mut self, connack: &Connack) {
        let properties = &connack.properties;
        if let Some(seconds) = properties.server_keep_alive() {
            self.keep_alive = grace(seconds);
        }
        self.topic_alias_maximum = properties.topic_alias_maximum().unwrap_or(0);
        let maximum_qos = properties.maximum_qos().and_then(|qos| QoS::try_from(qos).ok());
        self.maximum_qos = maximum_qos.unwrap_or(QoS::ExactlyOnce);
        self.takes_retained = properties.retain_available().unwrap_or(true);
    }
}

/// How long a client may be silent [MQTT-3.1.2-22].
fn grace(keep_alive_seconds: u16) -> Duration {
    Duration::from_secs(keep_alive_seconds.into()) * 3 / 2
}

/// A client identifier, for people.
pub fn shown(client_identifier: &str) -> String {
    match client_identifier {
        "" => "a client without identifier".to_owned(),
        name => format!("{name:?}"),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn answered(
    upstream: Option<&mut Upstream>,
    takes_messages: bool,
    wants_room: bool,
) -> Option<Answered> {
    match upstream {
        Some(upstream) => upstream.next(takes_messages, wants_room).await,
        None => std::future::pending().await,
    }
}
