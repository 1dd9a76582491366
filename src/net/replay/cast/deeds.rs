//! What stand-ins do.

use std::{sync::Arc, time::Instant};

use tracing::debug;

use super::{
    CONNECTING_MAX, Cast, Unwritten,
    actor::{Actor, Pending, Stage},
    connection_id,
    figures::Shape,
};
use crate::{
    net::{
        client::{Client, ClientError, ClientSession, Publisher, Reporting, Sent, TryPublish},
        replay::{
            lateness::Cause,
            mailbox::{Slot, Told},
        },
    },
    packet::{Connect, ControlPacket, Properties, ProtocolVersion, Publish, QoS},
    recording::{
        CloseCause,
        player::{Doing, End},
    },
};

pub(super) enum Step {
    Done,
    /// Until something moves.
    Wait,
}

impl Step {
    pub fn is_wait(&self) -> bool {
        matches!(self, Self::Wait)
    }
}

impl Cast {
    pub(super) fn act(&mut self, number: usize, pending: &mut Pending) -> Step {
        match std::mem::replace(&mut pending.act.doing, Doing::Stay) {
            Doing::Connect(connect) if self.connecting >= CONNECTING_MAX => {
                pending.act.doing = Doing::Connect(connect);
                if !self.to_connect.contains(&number) {
                    self.to_connect.push_back(number);
                }
                Step::Wait
            }
            Doing::Connect(connect) => {
                self.connect(number, pending, *connect);
                Step::Done
            }
            Doing::Send(packet) => match *packet {
                ControlPacket::Publish(publish) => self.publish(number, pending, publish),
                packet => self.request(number, pending, packet),
            },
            Doing::Release(of) => {
                self.release(number, of);
                pending.act.doing = Doing::Release(of);
                Step::Done
            }
            Doing::SendRaw(bytes) => {
                let raw = bytes.clone();
                self.send(number, pending, Doing::SendRaw(raw), |publisher, seq| {
                    publisher.try_send_raw(&bytes, seq)
                });
                Step::Done
            }
            Doing::Disconnect(disconnect) => {
                // A server may act on it before it has handled what came before.
                let actor = self.actors.get_mut(&number);
                if actor.is_some_and(|actor| !actor.unconfirmed.is_empty() && !actor.is_confirmed()) {
                    pending.held_up_by = Cause::Causality;
                    pending.act.doing = Doing::Disconnect(disconnect);
                    return Step::Wait;
                }
                let mut scaled = disconnect.clone();
                self.guise.disconnect(&mut scaled);
                self.send(number, pending, Doing::Disconnect(disconnect), |publisher, seq| {
                    publisher.try_disconnect(scaled, seq)
                });
                if let Some(actor) = self.actors.get_mut(&number) {
                    actor.has_disconnected = true;
                }
                Step::Done
            }
            Doing::Settle => match self.actors.get_mut(&number).is_some_and(Actor::is_confirmed) {
                true => {
                    self.is_judged_from_now(number);
                    Step::Done
                }
                false => {
                    pending.act.doing = Doing::Settle;
                    Step::Wait
                }
            },
            Doing::End(end) => self.end_when_handled(number, pending, end),
            Doing::Stay => {
                self.was_kept(number);
                self.figures.left(Instant::now(), None, Cause::Scheduler);
                Step::Done
            }
            // Those are nobody's.
            Doing::Prime(_) | Doing::Retain(_) | Doing::Stand { .. } => Step::Done,
        }
    }

    fn connect(&mut self, number: usize, pending: &Pending, connect: Connect) {
        let options = self.guise.options(connect);
        let client_identifier = options.client_identifier.clone();
        // Of a client that comes again before its old connection has ended, the server ends that.
        let session = self.take_session(number, &client_identifier);
        let now = Instant::now();
        for seq in session.tags() {
            self.requests.move_to(seq, number, now);
        }
        self.requests.may_be_answered(pending.seq, now);
        let Some(actor) = self.actors.get_mut(&number) else { return };
        actor.stage = Stage::Connecting;
        actor.connect_seq = pending.seq;
        actor.connect_due = (pending.deadline, pending.held_up_by);
        let slot = Arc::new(Slot::new(self.mailbox.clone(), number));
        let is_hidden = actor.is_hidden();
        let reporting =
            (!is_hidden).then(|| Reporting { tap: self.tap.clone(), connection: connection_id(number) });
        if let Some(judge) = self.judge.as_ref().filter(|_| !is_hidden) {
            judge.stands_for(connection_id(number), actor.connection, self.preparation.is_some());
        }
        let mailbox = self.mailbox.clone();
        self.connecting += 1;
        self.runtime.spawn(async move {
            let client = Client::stand_in(options, slot, reporting, session).await;
            mailbox.put(number, Told::Connected(client));
        });
    }

    fn take_session(&mut self, number: usize, client_identifier: &str) -> ClientSession {
        let before = self.before(number).to_vec();
        for other in before.into_iter().rev() {
            match self.actors.get_mut(&other).map(|actor| &mut actor.stage) {
                Some(Stage::Live(_, publisher)) => return publisher.take_session(),
                Some(Stage::Closed(session, _)) => return std::mem::take(session),
                Some(Stage::Waiting | Stage::Connecting | Stage::Over) | None => {}
            }
        }
        self.sessions.remove(client_identifier).unwrap_or_default()
    }

    fn publish(&mut self, number: usize, pending: &mut Pending, mut publish: Publish) -> Step {
        let Some(publisher) = self.actors.get(&number).and_then(Actor::publisher) else {
            self.cannot(number, pending, &Doing::Send(Box::new(ControlPacket::Publish(publish))));
            return Step::Done;
        };
        if publisher.protocol() != ProtocolVersion::V5 {
            publish.properties = Properties::new();
        }
        let shape = Shape::of(&publish);
        match publisher.try_publish(publish, pending.seq) {
            Ok(sent) => {
                self.published(number, pending, &shape, sent);
                Step::Done
            }
            Err(TryPublish::Failed(error)) => {
                let client = self.name(number);
                match error {
                    ClientError::Capability(capability) => {
                        *self.figures.incapable.entry(capability).or_default() += 1;
                    }
                    error => {
                        self.figures.unsent += 1;
                        self.figures.error(format!("{client}: {error}"));
                    }
                }
                self.requests.end(pending.seq);
                Step::Done
            }
            Err(TryPublish::Busy(again)) => {
                self.make_room(number);
                Self::wait_for_room(pending, again, Cause::FlowControl)
            }
            Err(TryPublish::Full(again)) => Self::wait_for_room(pending, again, Cause::Socket),
        }
    }

    fn published(&mut self, number: usize, pending: &Pending, shape: &Shape, sent: Sent) {
        self.sent(number, pending, sent, true);
        let seq = pending.seq;
        // One of QoS 2 is answered once it is let go of.
        if shape.qos != QoS::ExactlyOnce {
            self.requests.may_be_answered(seq, Instant::now());
        } else if self.requests.get(seq).is_some_and(|request| request.is_released) {
            self.release(number, seq);
        }
        if let Some(before) = shape.topic.clone().and_then(|topic| self.last_on.insert(topic, seq))
            && let Some(of) = self.unconfirmed.remove(&before)
            && let Some(actor) = self.actors.get_mut(&of)
        {
            actor.unconfirmed.remove(&before);
            self.requests.wake(before);
        }
        let Some(actor) = self.actors.get_mut(&number) else { return };
        if shape.qos == QoS::AtMostOnce {
            let ticket = actor.confirming;
            actor.unconfirmed.insert(seq, ticket);
            self.unconfirmed.insert(seq, number);
            self.requests.end(seq);
        }
        if !actor.is_hidden() {
            self.figures.message(shape);
        }
    }

    fn wait_for_room(pending: &mut Pending, publish: Publish, cause: Cause) -> Step {
        pending.held_up_by = cause;
        pending.act.doing = Doing::Send(Box::new(ControlPacket::Publish(publish)));
        Step::Wait
    }

    /// Lets go of QoS 2 messages that are due to be, although something else is before that: it waits for their room.
    fn make_room(&mut self, number: usize) {
        let Some(actor) = self.actors.get_mut(&number).filter(|actor| actor.releases > 0) else { return };
        actor.releases = 0;
        let (mut released, before) = (Vec::new(), actor.queue.len());
        actor.queue.retain(|pending| match pending.act.doing {
            Doing::Release(of) => {
                released.push(of);
                false
            }
            _ => true,
        });
        self.queued -= before - actor.queue.len();
        for of in released {
            self.release(number, of);
        }
    }

    fn release(&mut self, number: usize, of: u64) {
        self.requests.release(of, Instant::now());
        if let Some(publisher) = self.actors.get(&number).and_then(Actor::publisher)
            && let Err(error) = publisher.try_release(of)
        {
            debug!(%error, "a message is not released");
        }
    }

    fn request(&mut self, number: usize, pending: &mut Pending, packet: ControlPacket) -> Step {
        let publisher = self.actors.get(&number).and_then(Actor::publisher);
        if publisher.is_some_and(|publisher| !publisher.may_request()) {
            pending.held_up_by = Cause::FlowControl;
            pending.act.doing = Doing::Send(Box::new(packet));
            return Step::Wait;
        }
        let doing = Doing::Send(Box::new(packet.clone()));
        self.send(number, pending, doing, |publisher, seq| publisher.try_request(packet, seq));
        self.requests.may_be_answered(pending.seq, Instant::now());
        Step::Done
    }

    fn send(
        &mut self,
        number: usize,
        pending: &Pending,
        doing: Doing,
        send: impl FnOnce(&Publisher, u64) -> Result<Sent, ClientError>,
    ) {
        let Some(publisher) = self.actors.get(&number).and_then(Actor::publisher) else {
            self.cannot(number, pending, &doing);
            return;
        };
        match send(publisher, pending.seq) {
            Ok(sent) => self.sent(number, pending, sent, false),
            Err(error) => {
                let client = self.name(number);
                self.figures.falls_short(format!("{client}: {error}"));
                self.requests.end(pending.seq);
            }
        }
    }

    fn sent(&mut self, number: usize, pending: &Pending, sent: Sent, is_message: bool) {
        let Some(actor) = self.actors.get_mut(&number) else { return };
        actor.has_sent();
        self.requests.sent(pending.seq);
        if actor.is_hidden() {
            return;
        }
        self.figures.packets += 1;
        let deadline = pending.deadline;
        match sent {
            Sent::Written(at) => self.figures.left(at, deadline, pending.held_up_by),
            Sent::Waiting => {
                self.unwritten.insert(pending.seq, Unwritten { number, deadline, is_message });
            }
        }
    }

    fn end_when_handled(&mut self, number: usize, pending: &mut Pending, end: End) -> Step {
        let Some(actor) = self.actors.get_mut(&number) else { return Step::Done };
        let waits = match end {
            End::ByServer => actor.publisher().is_some(),
            // Bytes that the kernel has not sent yet would be lost with a reset.
            End::Rst => !actor.is_confirmed(),
            End::Fin => !actor.unconfirmed.is_empty() && !actor.is_confirmed(),
        };
        if waits {
            pending.held_up_by = Cause::Causality;
            pending.act.doing = Doing::End(end);
            return Step::Wait;
        }
        let is_hidden = actor.is_hidden();
        self.end(number, end);
        // When the server ends a connection is its affair.
        let deadline = pending.deadline.filter(|_| end != End::ByServer);
        if !is_hidden {
            self.figures.left(Instant::now(), deadline, pending.held_up_by);
        }
        Step::Done
    }

    pub(super) fn end(&mut self, number: usize, end: End) {
        if end != End::ByServer {
            self.was_kept(number);
        }
        let Some(actor) = self.actors.get_mut(&number) else { return };
        match &actor.stage {
            // Whoever comes next waits until the server knows.
            Stage::Live(_, publisher) if end == End::Fin => {
                publisher.close_half();
                actor.leaving_since.get_or_insert_with(Instant::now);
            }
            Stage::Live(..) | Stage::Closed(..) => self.leave(number, end == End::Rst),
            Stage::Waiting => actor.stage = Stage::Over,
            Stage::Connecting | Stage::Over => {}
        }
    }

    /// The connection is no more; what it has not finished is for the client's next one.
    pub(super) fn leave(&mut self, number: usize, is_reset: bool) {
        let Some(actor) = self.actors.get_mut(&number) else { return };
        let session = match std::mem::replace(&mut actor.stage, Stage::Over) {
            Stage::Live(client, publisher) => {
                drop(publisher);
                let cause = if is_reset { CloseCause::ClientRst } else { CloseCause::ClientFin };
                let session = client.leave(is_reset);
                if !actor.is_hidden() {
                    self.tap.close(Instant::now(), connection_id(number), cause);
                }
                session
            }
            Stage::Closed(session, _) => session,
            stage @ (Stage::Waiting | Stage::Connecting) => {
                actor.stage = stage;
                return;
            }
            Stage::Over => return,
        };
        (actor.leaving_since, actor.asked_at) = (None, None);
        let client_identifier = actor.client_identifier.clone();
        let is_last = self.by_client.get(&client_identifier).is_some_and(|all| all.last() == Some(&number));
        // One that came later has taken over what there was.
        if is_last {
            self.sessions.insert(client_identifier, session);
        }
        self.wake_followers(number);
        self.ready.push_back(number);
    }
}
