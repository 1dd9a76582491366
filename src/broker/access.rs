//! Who is let in by a password or without one, and what the access rules let clients do.

use std::{sync::Arc, time::Instant};

use crate::{
    auth::{Access, Acl, Action, Decision, Login, Permissions, Subject},
    packet::{Connect, QoS, ReasonCode, TopicFilter, Utf8String},
    session::{Acknowledged, ConnectionId, Delivery, Repeats, Standing, State, SubscriptionKey},
};

use super::{Broker, BrokerEvent, Output, Timer};

/// Subscriptions and waiting messages looked at in one turn when rules have changed.
const RECHECKS_PER_TURN: usize = 256;

const WRONG: &str = "user name or password is wrong";
pub(super) const BUSY: &str = "too many logins at a time";

/// What came of a [`PasswordCheck`](crate::auth::PasswordCheck).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Right,
    Wrong,
    /// There was no time for it.
    NotDone,
}

/// What is still to be looked at after rules have changed.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    pub due: Option<Instant>,
    /// Counts changes of [`Access`].
    generation: u64,
    /// Of Sessions from this index on, the subscriptions have not been looked at.
    next: usize,
    /// Of the Session before, those that are left.
    found: Vec<(u32, SubscriptionKey)>,
    /// Of Sessions from this index on, what waits has not been looked at.
    next_queue: usize,
    /// The place in the queue of that Session behind which it goes on.
    place: u64,
}

impl Broker {
    /// Puts other users and rules into force. Who is connected stays, as the user it is; from now on the new
    /// rules decide, also about subscriptions and waiting messages that are there: those that are not allowed any
    /// more end, in turns.
    pub fn set_access(&mut self, now: Instant, access: Access) {
        if self.access == access {
            return;
        }
        if self.access.accounts != access.accounts {
            self.remembered.forget();
        }
        self.access = access;
        self.permissions.clear();
        let Recheck { due, generation, .. } = self.recheck;
        self.recheck = Recheck { due, generation: generation + 1, ..Recheck::default() };
        self.timers.set(&mut self.recheck.due, Some(now), Timer::Recheck);
    }

    /// Whether the password of a client is being checked: what it sends waits until that is done.
    pub fn is_checking(&mut self, id: ConnectionId) -> bool {
        self.find_connection(id)
            .is_some_and(|index| self.connections[index as usize].state == State::Checking)
    }

    /// What came of an [`Output::Check`].
    pub fn handle_checked(&mut self, now: Instant, id: ConnectionId, checked: Checked) {
        let Some(index) = self.find_connection(id) else { return };
        if self.connections[index as usize].state != State::Checking {
            return;
        }
        let (generation, connect) = (self.checking.remove(&index), self.held.take(index));
        let (Some(generation), Some(connect)) = (generation, connect) else { return };
        match checked {
            Checked::NotDone => self.refuse_login(index, &connect, ReasonCode::SERVER_BUSY, BUSY),
            // Users have changed since it began.
            _ if generation != self.recheck.generation => self.log_in(now, index, *connect),
            Checked::Wrong => {
                self.refuse_login(index, &connect, ReasonCode::BAD_USER_NAME_OR_PASSWORD, WRONG);
            }
            Checked::Right => {
                if let (Some(name), Some(password)) = (&connect.username, &connect.password) {
                    self.remembered.note(now, name.as_str(), password);
                }
                self.accept(now, index, *connect, Standing::Proven, None);
            }
        }
    }

    /// The client has waited long enough.
    pub(super) fn give_up_checking(&mut self, index: u32) {
        self.checking.remove(&index);
        if let Some(connect) = self.held.take(index) {
            self.refuse_login(index, &connect, ReasonCode::SERVER_BUSY, BUSY);
        }
    }

    /// Decides about a CONNECT that names no authentication method.
    pub(super) fn log_in(&mut self, now: Instant, index: u32, mut connect: Connect) {
        if let Some(identity) = self.identities.get(&index) {
            connect.username = Utf8String::new(&**identity).filter(|name| !name.is_empty());
            return match &connect.username {
                Some(_) => self.accept(now, index, connect, Standing::Proven, None),
                None => {
                    let text = "the certificate's name cannot be a user's";
                    self.refuse_login(index, &connect, ReasonCode::NOT_AUTHORIZED, text);
                }
            };
        }
        let (name, password) = (connect.username.as_ref().map(Utf8String::as_str), connect.password.as_ref());
        if let (Some(name), Some(password)) = (name, password)
            && self.remembered.knows(now, name, password)
        {
            return self.accept(now, index, connect, Standing::Proven, None);
        }
        match self.access.log_in(name, password) {
            Login::Anonymous => self.accept(now, index, connect, Standing::Claimed, None),
            Login::Wrong => self.refuse_login(index, &connect, ReasonCode::BAD_USER_NAME_OR_PASSWORD, WRONG),
            Login::NotAuthorized => {
                let text = "a user name and a password are required";
                self.refuse_login(index, &connect, ReasonCode::NOT_AUTHORIZED, text);
            }
            Login::Check(check) => {
                if let Err(connect) = self.held.hold(index, Box::new(connect)) {
                    return self.refuse_login(index, &connect, ReasonCode::SERVER_BUSY, BUSY);
                }
                let connection = &mut self.connections[index as usize];
                connection.state = State::Checking;
                let address = connection.address.map(|address| address.ip());
                self.outputs.push_back(Output::Check { connection: connection.id, address, check });
                self.checking.insert(index, self.recheck.generation);
            }
        }
    }

    /// Answers the CONNECT of a client that is not let in, and closes.
    pub(super) fn refuse_login(&mut self, index: u32, connect: &Connect, reason: ReasonCode, text: &str) {
        match reason {
            ReasonCode::BAD_USER_NAME_OR_PASSWORD => self.stats.refused_credentials += 1,
            ReasonCode::SERVER_BUSY => self.stats.refused_busy += 1,
            _ => self.stats.refused_not_authorized += 1,
        }
        self.outputs.push_back(Output::Emit(BrokerEvent::Refused {
            connection: self.connections[index as usize].id,
            client_identifier: connect.client_identifier.as_str().to_owned(),
            username: connect.username.as_ref().map(|name| name.as_str().to_owned()),
            reason,
        }));
        self.refuse_with(index, reason, Some(text));
    }

    /// Whether the Will of a CONNECT is one that the client may publish; asked once, not when it is published.
    pub(super) fn may_have_will(&mut self, connect: &Connect, standing: Standing) -> bool {
        let Some(will) = connect.will.as_ref().filter(|_| !self.access.acl.is_empty()) else { return true };
        let user = connect.username.as_ref().map(Utf8String::as_str);
        let Access { accounts, acl, .. } = &self.access;
        let subject = match standing {
            Standing::Proven => user,
            Standing::Claimed => None,
        };
        let subject = Subject {
            client_identifier: connect.client_identifier.as_str(),
            user: subject,
            groups: subject.map_or(&[], |user| accounts.groups(user)),
        };
        let (decision, _) = acl.may_publish(&mut acl.permissions(&subject), will.topic.as_str());
        if let Decision::Denied(rule) = decision {
            self.outputs.push_back(Output::Emit(BrokerEvent::NotAuthorized {
                client_identifier: subject.client_identifier.into(),
                username: subject.user.map(Into::into),
                action: Action::Publish,
                topic: will.topic.as_str().to_owned(),
                rule,
            }));
        }
        decision.is_allowed()
    }

    /// Whether the rules, of which there are some, let a client publish to `topic`.
    pub(super) fn may_publish(&mut self, session: u32, topic: &str) -> bool {
        let Some((acl, permissions)) = self.rules_for(session) else { return true };
        let (decision, is_first) = acl.may_publish(permissions, topic);
        let Decision::Denied(rule) = decision else { return true };
        self.stats.dropped_not_authorized += 1;
        if is_first {
            self.report_denied(session, Action::Publish, topic, rule);
        }
        false
    }

    /// The same of subscribing to `filter`.
    pub(super) fn may_subscribe(&mut self, session: u32, filter: &TopicFilter) -> bool {
        let Some((acl, permissions)) = self.rules_for(session) else { return true };
        let Decision::Denied(rule) = acl.may_subscribe(permissions, filter) else { return true };
        self.stats.refused_subscriptions += 1;
        self.report_denied(session, Action::Subscribe, filter.as_str(), rule);
        false
    }

    /// The rules, and what they say of a client; `None` if they do not concern it.
    fn rules_for(&mut self, session: u32) -> Option<(&Acl, &mut Permissions)> {
        let Self { sessions, access: Access { accounts, acl, .. }, permissions, .. } = self;
        let state = &sessions[session as usize];
        let permissions = permissions.entry(session).or_insert_with(|| {
            let user = state.proven_user();
            let groups = user.map_or(&[][..], |user| accounts.groups(user));
            acl.permissions(&Subject { client_identifier: &state.client_identifier, user, groups })
        });
        Some((acl, permissions))
    }

    fn report_denied(&mut self, session: u32, action: Action, topic: &str, rule: Option<usize>) {
        let state = &self.sessions[session as usize];
        self.outputs.push_back(Output::Emit(BrokerEvent::NotAuthorized {
            client_identifier: Arc::clone(&state.client_identifier),
            username: state.proven_user().map(Into::into),
            action,
            topic: topic.to_owned(),
            rule,
        }));
    }

    /// Ends subscriptions that are not allowed any more, and drops what waits because of them, as much as a turn
    /// takes.
    pub(super) fn recheck(&mut self, now: Instant) {
        self.recheck.due = None;
        if self.access.acl.is_empty() {
            return;
        }
        let mut left = RECHECKS_PER_TURN;
        while left > 0 {
            if let Some((session, key)) = self.recheck.found.pop() {
                self.recheck_subscription(now, session, key);
                left -= 1;
            } else if self.recheck.next < self.sessions.capacity() {
                let index = self.recheck.next;
                self.recheck.next += 1;
                if let Some(session) = self.sessions.get(index) {
                    self.recheck.found =
                        session.subscriptions.keys().map(|&key| (index as u32, key)).collect();
                    // So that the same run always does the same.
                    self.recheck.found.sort_unstable();
                }
                left -= 1;
            } else if self.recheck.next_queue < self.sessions.capacity() {
                // Behind all subscriptions: what is handed on goes to those that may have it.
                left -= self.recheck_queue(now, left).min(left);
            } else {
                return;
            }
        }
        self.timers.set(&mut self.recheck.due, Some(now), Timer::Recheck);
    }

    /// Drops what waits for a client that may not have it any more; how much was looked at, no more than `count`.
    fn recheck_queue(&mut self, now: Instant, count: usize) -> usize {
        let (index, after) = (self.recheck.next_queue, self.recheck.place);
        (self.recheck.next_queue, self.recheck.place) = (index + 1, 0);
        let has_messages = self.sessions.get(index).is_some_and(|session| !session.queue.is_empty());
        if !has_messages || self.rules_for(index as u32).is_none() {
            return 1;
        }
        let Self { sessions, access: Access { acl, .. }, permissions, .. } = self;
        let Some(permissions) = permissions.get(&(index as u32)) else { return 1 };
        let mut looked = 0;
        let (taken, next) = sessions[index].queue.take_out(after, count, |delivery| {
            looked += 1;
            acl.may_receive(permissions, topic_of(delivery))
        });
        if let Some(place) = next {
            (self.recheck.next_queue, self.recheck.place) = (index, place);
        }
        for delivery in taken {
            self.end_delivery(now, index as u32, delivery.record);
            self.withhold(now, delivery);
        }
        looked
    }

    /// Ends the exchanges of messages that a client may not have any more, before it is sent them again.
    pub(super) fn recheck_repeats(&mut self, now: Instant, session: u32, repeats: &mut Repeats) {
        if self.access.acl.is_empty() || self.rules_for(session).is_none() {
            return;
        }
        let Self { sessions, access: Access { acl, .. }, permissions, .. } = self;
        let Some(permissions) = permissions.get(&session) else { return };
        let Some(inflight) = sessions[session as usize].inflight.changed() else { return };
        let (mut withheld, mut released) = (Vec::new(), Vec::new());
        repeats.publishes.retain(|&identifier| {
            let Some(delivery) = inflight.published(identifier) else { return true };
            if acl.may_receive(permissions, topic_of(delivery)) {
                return true;
            }
            withheld.push(delivery.clone());
            if delivery.qos == QoS::ExactlyOnce {
                // The client may have it, and keeps the identifier until PUBREL.
                if let Acknowledged::Released { record, serial, order, .. } =
                    inflight.pubrec(identifier, false)
                {
                    released.push((record, (serial, order)));
                }
                repeats.releases.push(identifier);
            } else {
                inflight.complete(identifier);
            }
            false
        });
        let number = sessions[session as usize].number;
        if let Some(journal) = self.journal.as_deref_mut().filter(|_| number != 0) {
            for (record, place) in released {
                journal.release_delivery(now, number, record, place, &mut self.outputs);
            }
        }
        for delivery in withheld {
            if delivery.qos != QoS::ExactlyOnce {
                self.end_delivery(now, session, delivery.record);
            }
            // What was sent of QoS 2 stays with its receiver [MQTT-4.8.2-5].
            match delivery.qos {
                QoS::ExactlyOnce => self.stats.dropped_not_authorized += 1,
                _ => self.withhold(now, delivery),
            }
        }
    }

    /// What a member of a shared subscription may not have is for another one.
    fn withhold(&mut self, now: Instant, delivery: Delivery) {
        match delivery.share {
            Some(_) => self.hand_on(now, delivery),
            None => self.stats.dropped_not_authorized += 1,
        }
    }

    fn recheck_subscription(&mut self, now: Instant, session: u32, key: SubscriptionKey) {
        // It may have ended since, and its Session, too.
        let is_there =
            self.sessions.get(session as usize).is_some_and(|state| state.subscriptions.contains_key(&key));
        if !is_there {
            return;
        }
        let text = self.subscriptions.filter(key);
        if TopicFilter::parse(&text).is_ok_and(|filter| self.may_subscribe(session, &filter)) {
            return;
        }
        self.remove_subscription(now, session, key);
        let state = &mut self.sessions[session as usize];
        if let Some(queue) = state.queue.changed() {
            queue.drop_scans(key);
        }
        if let Some(index) = state.connection {
            let connection = self.connections[index as usize].id;
            self.outputs.push_back(Output::Emit(BrokerEvent::Unsubscribed { connection, filter: text }));
        }
    }
}

fn topic_of(delivery: &Delivery) -> &str {
    std::str::from_utf8(delivery.message.as_message().topic).expect("a Topic Name is UTF-8")
}
