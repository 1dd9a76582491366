//! What has to have come before an act, and how long that is waited for.

use std::time::{Duration, Instant};

use super::{
    Cast, LONG_LOOK_INTERVAL, PATIENCE,
    actor::{Actor, Pending, Stage},
    requests::{Kind, Request},
};
use crate::{
    net::replay::lateness::Cause,
    recording::player::{After, Doing, End},
};

impl Cast {
    /// Whether something has to come before `pending`.
    pub(super) fn is_held_up(&mut self, number: usize, pending: &mut Pending) -> bool {
        if pending.is_free {
            return false;
        }
        let lacks = self.lacks(number, pending);
        if lacks {
            pending.held_up_by = Cause::Causality;
        } else {
            pending.is_free = true;
            (pending.give_up_at, pending.waits_since) = (None, None);
            self.wake_followers(number);
            self.figures.position = self.figures.position.max(pending.at);
        }
        lacks
    }

    /// How long `pending` waits before it is looked at what for.
    pub(super) fn patience_of(&self, pending: &Pending) -> Duration {
        match pending.act.after.last() {
            Some(After::Delivered(_)) => self.delivery_patience,
            _ => LONG_LOOK_INTERVAL,
        }
    }

    fn lacks(&mut self, number: usize, pending: &mut Pending) -> bool {
        let Some(actor) = self.actors.get(&number) else { return false };
        if matches!(actor.stage, Stage::Connecting) {
            return true;
        }
        let delivered = match self.delivered.get(&actor.client_identifier) {
            Some(count) => *count,
            None => actor.delivered,
        };
        if matches!(pending.act.doing, Doing::Connect(_)) {
            let is_behind = |actor: &Actor| {
                let is_earlier = |front: &Pending| front.seq < pending.seq;
                actor.leaving_since.is_some() || actor.queue.front().is_some_and(is_earlier)
            };
            let before = self.before(number).iter().rev();
            let before = before.copied().find(|other| self.actors.get(other).is_some_and(is_behind));
            if let Some(before) = before.and_then(|before| self.actors.get_mut(&before)) {
                if before.followers.last() != Some(&number) {
                    before.followers.push(number);
                }
                return true;
            }
        }
        while let Some(after) = pending.act.after.last().copied() {
            let lacks = match after {
                After::Answered(seq) => self.is_awaited(seq),
                After::Received(seq) => {
                    self.is_awaited(seq) && self.requests.get(seq).is_some_and(|open| !open.is_received)
                }
                After::Handled(seq) => self.is_awaited(seq) || self.is_unconfirmed(seq),
                After::Common(count) => !self.requests.has_common(count),
                After::Delivered(count) => delivered < count,
            };
            if lacks {
                self.register(number, pending, after);
                return true;
            }
            pending.act.after.pop();
            // What is waited for next may take as long again.
            (pending.give_up_at, pending.waits_since) = (None, None);
        }
        false
    }

    fn register(&mut self, number: usize, pending: &mut Pending, after: After) {
        if pending.waits_for.replace(after) == Some(after) {
            return;
        }
        match after {
            After::Answered(seq) | After::Received(seq) | After::Handled(seq) => {
                self.requests.wait(seq, number);
            }
            After::Common(count) => self.requests.wait_for_common(count, number),
            After::Delivered(_) => {}
        }
    }

    /// Whether the answer to a request is still to come. That of one that was not answered in the recording is waited for
    /// as long as its client is there.
    fn is_awaited(&self, seq: u64) -> bool {
        let Some(request) = self.requests.get(seq) else { return false };
        request.since.is_none() || self.answers.has_answer(seq) || self.is_live(request.number)
    }

    pub(super) fn is_live(&self, number: usize) -> bool {
        self.actors.get(&number).is_some_and(|actor| actor.publisher().is_some())
    }

    /// Whether a QoS 0 message may not have been handled; asks the server if that is not known.
    fn is_unconfirmed(&self, seq: u64) -> bool {
        let Some(actor) = self.unconfirmed.get(&seq).and_then(|number| self.actors.get(number)) else {
            return false;
        };
        // Nobody can tell any more of a connection that has ended.
        let (Some(publisher), Some(&ticket)) = (actor.publisher(), actor.unconfirmed.get(&seq)) else {
            return false;
        };
        publisher.pings_sent() >= ticket || publisher.send_ping().is_ok()
    }

    /// Looks at what the act that `number` waits with lacks, and goes on without it if that has taken too long.
    pub(super) fn give_up(&mut self, number: usize, now: Instant) {
        let client = self.name(number);
        let Some(pending) = self.actors.get_mut(&number).and_then(|actor| actor.queue.front_mut()) else {
            return;
        };
        let has_waited = pending.waits_since.is_some_and(|since| since + PATIENCE <= now);
        match pending.act.after.last().copied() {
            // What is missing is judged by itself.
            Some(After::Delivered(_)) if has_waited || self.heard_at + self.delivery_patience <= now => {
                pending.act.after.pop();
            }
            // As long as others get on, it may come.
            Some(After::Delivered(_)) => {}
            Some(After::Handled(seq)) if !self.requests.is_open(seq) && has_waited => {
                self.figures.falls_short(format!(
                    "{client}: no sign within {PATIENCE:?} that the message before was handled"
                ));
                self.unconfirmed.remove(&seq);
                self.requests.wake(seq);
            }
            Some(After::Answered(seq) | After::Received(seq) | After::Handled(seq)) => {
                self.lose_if_late(seq, now);
            }
            Some(After::Common(count)) => {
                for seq in self.requests.open_common(count) {
                    self.lose_if_late(seq, now);
                }
            }
            None => self.give_up_act(number, &client, has_waited, now),
        }
        if let Some(pending) = self.actors.get_mut(&number).and_then(|actor| actor.queue.front_mut()) {
            pending.give_up_at = Some(now + LONG_LOOK_INTERVAL);
        }
        self.ready.push_back(number);
    }

    fn give_up_act(&mut self, number: usize, client: &str, has_waited: bool, now: Instant) {
        let Some(actor) = self.actors.get_mut(&number) else { return };
        let is_heard = actor.heard_at.is_some_and(|heard_at| heard_at + PATIENCE > now);
        let is_moving = actor.has_written() || is_heard;
        let Some(pending) = actor.queue.front_mut() else { return };
        match &pending.act.doing {
            // Others are in its way, and have patience of their own.
            Doing::Connect(_) => {}
            _ if !pending.is_free || !has_waited => {}
            Doing::Settle => {
                self.figures.falls_short(format!("{client}: what stood is not certain to stand again"));
                self.skip(number);
                self.is_judged_from_now(number);
            }
            Doing::End(End::ByServer) => {
                self.figures
                    .falls_short(format!("{client}: the target did not close the connection as recorded"));
                self.skip(number);
                self.end(number, End::Fin);
            }
            // They wait for a sign that all was handled.
            Doing::End(_) | Doing::Disconnect(_) => self.give_up_confirming(number),
            _ if is_moving => pending.waits_since = Some(now),
            // It takes no more.
            _ => self.fail(number, client),
        }
    }

    /// The server has not said whether it has handled what was sent, and is not asked again.
    pub(super) fn give_up_confirming(&mut self, number: usize) {
        let client = self.name(number);
        if let Some(actor) = self.actors.get_mut(&number) {
            actor.give_up_confirming();
            let text = format!("{client}: no PINGRESP within {PATIENCE:?}: what was sent may not be handled");
            self.figures.falls_short(text);
            self.ready.push_back(number);
        }
    }

    /// Nothing more can be done over a connection.
    fn fail(&mut self, number: usize, client: &str) {
        let Some(actor) = self.actors.get_mut(&number) else { return };
        let queue = std::mem::take(&mut actor.queue);
        actor.releases = 0;
        for pending in queue {
            self.dequeued(&pending);
            self.not_sent(number, &pending, client, &format!("nothing moved within {PATIENCE:?}"));
        }
        self.leave(number, false);
    }

    /// Takes off the act that waits.
    fn skip(&mut self, number: usize) {
        let taken = self.actors.get_mut(&number).and_then(|actor| actor.queue.pop_front());
        if let Some(pending) = taken {
            self.dequeued(&pending);
        }
    }

    fn lose_if_late(&mut self, seq: u64, now: Instant) {
        if self.requests.get(seq).is_some_and(|request| self.is_late(request, now)) {
            self.lose(seq);
        }
    }

    /// Whether the answer to a request is not waited for any longer: its client is there, it could have come, and for long
    /// nothing has; or nobody comes again.
    fn is_late(&self, request: &Request, now: Instant) -> bool {
        if !self.is_live(request.number) {
            return self.is_settling && self.queued == 0 && self.connecting == 0;
        }
        let heard_at = self.actors.get(&request.number).and_then(|actor| actor.heard_at);
        request
            .since
            .is_some_and(|since| heard_at.map_or(since, |heard_at| heard_at.max(since)) + PATIENCE <= now)
    }

    /// The answer to a request will not be waited for.
    fn lose(&mut self, seq: u64) {
        let Some(request) = self.requests.end(seq) else { return };
        if !self.answers.has_answer(seq) {
            return;
        }
        let client = self.name(request.number);
        let what = match request.kind {
            Kind::Message => {
                self.figures.lost += 1;
                "a message was not acknowledged"
            }
            Kind::Subscription => {
                self.figures.fell_short = true;
                "a subscription was not answered"
            }
            Kind::Connect => {
                self.figures.fell_short = true;
                "a connection was not answered"
            }
        };
        self.figures.error(format!("{client}: {what} within {PATIENCE:?}"));
    }

    pub(super) fn give_up_requests(&mut self, now: Instant) {
        let late = self.requests.iter().filter(|(_, request)| self.is_late(request, now));
        let late: Vec<u64> = late.map(|(seq, _)| seq).collect();
        for seq in late {
            self.lose(seq);
        }
    }

    /// Connections that take no more bytes have ended.
    pub(super) fn give_up_unwritten(&mut self, now: Instant) {
        let mut stuck: Vec<usize> = self.unwritten.values().map(|unwritten| unwritten.number).collect();
        stuck.sort_unstable();
        stuck.dedup();
        for number in stuck {
            let Some(actor) = self.actors.get_mut(&number) else { continue };
            if actor.has_written() {
                actor.wrote_at = now;
            } else if actor.wrote_at + PATIENCE <= now {
                let client = self.name(number);
                self.fail(number, &client);
            }
        }
    }
}
