//! What connections have come to.

use std::time::Instant;

use tracing::debug;

use super::{
    Cast, Unwritten,
    actor::{Pending, Stage},
    connection_id,
    requests::Kind,
};
use crate::{
    net::client::{Client, ClientError, Outcome},
    packet::ControlPacket,
    recording::{
        CloseCause,
        player::{Doing, Offer},
    },
};

impl Cast {
    pub(super) fn connected(&mut self, number: usize, result: Result<Client, ClientError>) {
        self.connecting -= 1;
        self.ready.extend(self.to_connect.pop_front());
        let Some(actor) = self.actors.get_mut(&number) else {
            // It was dismissed meanwhile.
            self.tap.close(Instant::now(), connection_id(number), CloseCause::RecordingEnded);
            return;
        };
        let seq = actor.connect_seq;
        let (connection, is_hidden) = (actor.connection, actor.is_hidden());
        let (deadline, held_up_by) = actor.connect_due;
        let introduced_at = match &result {
            Ok(client) => Some(client.introduced_at()),
            Err(ClientError::Unreachable { .. }) => None,
            Err(_) => Some(Instant::now()),
        };
        if let Some(at) = introduced_at.filter(|_| !is_hidden) {
            self.figures.packets += 1;
            self.figures.left(at, deadline, held_up_by);
        }
        match result {
            Ok(client) => {
                self.figures.connections += usize::from(!is_hidden);
                if let Some(offer) = self.answers.offer(connection) {
                    for lack in offer.lacks(&Offer::of(&client.limits().properties)) {
                        self.figures.warn(lack);
                    }
                }
                let publisher = client.publisher();
                actor.stage = Stage::Live(client, publisher);
            }
            Err(error) => {
                actor.stage = Stage::Over;
                let client = actor.name();
                if !is_hidden {
                    self.tap.close(Instant::now(), connection_id(number), CloseCause::ServerFin);
                }
                let is_as_it_was = match &error {
                    ClientError::Unreachable { .. } => !self.answers.has_answer(seq),
                    _ => self.answers.was_turned_away(connection),
                };
                match error {
                    error if is_as_it_was => debug!(%error, "a connection was refused, as it was then"),
                    error @ ClientError::Unreachable { .. } if self.figures.connections == 0 => {
                        self.figures.unreachable = Some(error);
                    }
                    error => {
                        self.figures.falls_short(format!("{client}: {error}"));
                        self.figures.refusal.get_or_insert(error);
                    }
                }
            }
        }
        self.requests.end(seq);
    }

    pub(super) fn closed(&mut self, number: usize, error: &ClientError) {
        let Some(actor) = self.actors.get_mut(&number) else { return };
        if actor.leaving_since.is_some() {
            if matches!(error, ClientError::Disconnected { reason_code, .. } if reason_code.is_error()) {
                let text = format!("{}: {error}", actor.name());
                self.figures.falls_short(text);
            }
            self.leave(number, false);
            return;
        }
        match std::mem::replace(&mut actor.stage, Stage::Over) {
            Stage::Live(client, publisher) => {
                debug!(%error, client = %actor.client_identifier, "the target has ended a connection");
                drop(publisher);
                actor.asked_at = None;
                let session = client.leave(false);
                if actor.is_hidden() {
                    let text = format!("{}: {error}", actor.name());
                    self.figures.falls_short(text);
                } else {
                    actor.stage = Stage::Closed(session, error.to_string());
                    self.tap.close(Instant::now(), connection_id(number), CloseCause::ServerFin);
                }
            }
            // It is told before whoever connects has heard.
            other => actor.stage = other,
        }
        if let Some(actor) = self.actors.get_mut(&number) {
            for (seq, _) in std::mem::take(&mut actor.unconfirmed) {
                self.unconfirmed.remove(&seq);
                self.requests.wake(seq);
            }
        }
    }

    /// The server has handled what was sent before the PINGREQ with this ticket.
    pub(super) fn confirmed(&mut self, number: usize, ticket: u64) {
        let Some(actor) = self.actors.get_mut(&number) else { return };
        if ticket >= actor.confirming {
            actor.asked_at = None;
        }
        let is_shown = |needed: &u64| *needed <= ticket;
        let confirmed: Vec<u64> =
            actor.unconfirmed.iter().filter(|(_, needed)| is_shown(needed)).map(|(seq, _)| *seq).collect();
        for seq in confirmed {
            actor.unconfirmed.remove(&seq);
            self.unconfirmed.remove(&seq);
            self.requests.wake(seq);
        }
    }

    /// What was thought to be sent has not left, because its connection has ended.
    pub(super) fn unsent(&mut self, number: usize, seq: u64) {
        if self.unwritten.get(&seq).is_none_or(|unwritten| unwritten.number != number) {
            return;
        }
        let Some(Unwritten { is_message, .. }) = self.unwritten.remove(&seq) else { return };
        if self.requests.get(seq).is_some_and(|request| request.kind == Kind::Message) {
            // It is sent again over the client's next connection, or told to be lost.
            return;
        }
        self.figures.packets -= 1;
        self.figures.sent -= u64::from(is_message);
        self.figures.unsent += 1;
        let client = self.name(number);
        self.figures.error(format!("{client}: not sent, because its connection had ended"));
    }

    /// The connection of `pending` is not there.
    pub(super) fn cannot(&mut self, number: usize, pending: &Pending, doing: &Doing) {
        let Some(actor) = self.actors.get(&number) else { return };
        let client = actor.name();
        let why = match &actor.stage {
            Stage::Closed(_, why) => format!("its connection had ended: {why}"),
            _ => "its connection had ended".to_owned(),
        };
        let was_turned_away = self.answers.was_turned_away(actor.connection);
        self.requests.end(pending.seq);
        if !was_turned_away {
            self.count_not_sent(number, doing, &client, &why);
        }
    }

    pub(super) fn not_sent(&mut self, number: usize, pending: &Pending, client: &str, why: &str) {
        self.requests.end(pending.seq);
        self.count_not_sent(number, &pending.act.doing, client, why);
    }

    fn count_not_sent(&mut self, number: usize, doing: &Doing, client: &str, why: &str) {
        let is_hidden = self.actors.get(&number).is_some_and(|actor| actor.is_hidden());
        if is_hidden {
            self.figures.falls_short(format!("{client}: what stood does not stand again, because {why}"));
        } else {
            self.count_unsent(doing, client, why);
        }
    }

    pub(super) fn count_unsent(&mut self, doing: &Doing, client: &str, why: &str) {
        match doing {
            Doing::End(_) | Doing::Stay | Doing::Settle | Doing::Release(_) => {}
            Doing::Send(packet) if matches!(**packet, ControlPacket::Publish(_)) => {
                self.figures.unsent += 1;
                self.figures.error(format!("{client}: not sent, because {why}"));
            }
            _ => self.figures.falls_short(format!("{client}: not done, because {why}")),
        }
    }

    /// The client has the connection still, or ends it itself: the target must not have done so.
    pub(super) fn was_kept(&mut self, number: usize) {
        if let Some(actor) = self.actors.get(&number)
            && let Stage::Closed(_, why) = &actor.stage
            && !actor.has_disconnected
        {
            let text = format!("{}: ended by the target, not as recorded: {why}", actor.name());
            self.figures.falls_short(text);
        }
    }

    pub(super) fn ended(&mut self, number: usize, seq: u64, outcome: &Outcome) {
        let is_hidden = match self.actors.get_mut(&number) {
            Some(actor) => {
                actor.heard_at = Some(Instant::now());
                actor.is_hidden()
            }
            None => false,
        };
        if self.requests.get(seq).is_none_or(|request| request.number != number) {
            return;
        }
        let Some(request) = self.requests.end(seq) else { return };
        let is_message = request.kind == Kind::Message && !is_hidden;
        match outcome {
            Outcome::Acked(reason) if reason.is_error() => {
                if self.answers.was_refused(seq, *reason) {
                    // As it should be.
                } else if is_message {
                    *self.figures.refused.entry(*reason).or_default() += 1;
                } else {
                    let what = if is_hidden { "what stood" } else { "a subscription" };
                    let client = self.name(number);
                    self.figures.falls_short(format!("{client}: {what} was refused: {}", reason.name()));
                }
            }
            Outcome::Acked(_) => self.figures.acked += u64::from(is_message),
            // Nor was it answered then.
            Outcome::Lost(_) if !self.answers.has_answer(seq) => {}
            Outcome::Lost(_) if is_message => self.figures.lost += 1,
            Outcome::Lost(error) => {
                let client = self.name(number);
                self.figures.falls_short(format!("{client}: {error}"));
            }
        }
    }
}
