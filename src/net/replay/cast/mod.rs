//! Connections that stand in for recorded clients, each doing what its client did as soon as it is due and what has to
//! have come before has come.

mod actor;
mod causality;
mod deeds;
mod figures;
mod guise;
mod outcomes;
mod priming;
mod requests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tracing::debug;

use self::{
    actor::{Actor, Pending, Stage},
    priming::Preparation,
    requests::{Kind, Request, Requests},
};
use super::{
    judge::Judge,
    lateness::Cause,
    mailbox::{Mailbox, Told},
};
use crate::{
    net::client::ClientSession,
    packet::{Connect, ControlPacket, ReasonCode, TopicName},
    recording::{
        CloseCause,
        player::{Act, Answers, Doing},
    },
    session::ConnectionId,
    tap::Tap,
};

pub(super) use figures::Figures;
pub(super) use guise::Guise;

/// How long nothing may move before it is gone on without what should.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that leaves waits for the messages that it had got by then.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(2);
/// The same where not everything is played: those who sent them may not be there.
const DELIVERY_PATIENCE_OF_A_PART: Duration = Duration::from_millis(250);
/// How often it is looked for what takes too long.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The same of requests and bytes, which are many.
const LONG_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Acts that may wait before no more are read, and the bytes of their messages.
const QUEUED_MAX: usize = 20_000;
const QUEUED_SIZE_MAX: usize = 64 << 20;
/// Connections that are opened at the same time.
const CONNECTING_MAX: usize = 64;

/// All connections of a replay.
pub(super) struct Cast {
    guise: Guise,
    run: String,
    runtime: Handle,
    mailbox: Arc<Mailbox>,
    judge: Option<Arc<Judge>>,
    tap: Tap,
    answers: Answers,
    /// Those that are not through, by number, from 1.
    actors: HashMap<usize, Actor>,
    last_number: usize,
    /// By recorded connection.
    by_connection: HashMap<u32, usize>,
    /// Of each client, in the order they came.
    by_client: HashMap<String, Vec<usize>>,
    /// What clients have begun, for their next connection.
    sessions: HashMap<String, ClientSession>,
    /// Messages that clients with an identifier have got.
    delivered: HashMap<String, u64>,
    /// When something other than an answer to PINGREQ was last heard.
    heard_at: Instant,
    requests: Requests,
    /// Whose QoS 0 messages without a sign that they were handled are: the last one of each topic.
    unconfirmed: HashMap<u64, usize>,
    last_on: HashMap<TopicName, u64>,
    /// What waits for the kernel.
    unwritten: HashMap<u64, Unwritten>,
    /// Acts that wait, and bytes of their messages.
    queued: usize,
    queued_size: usize,
    /// How many are opening a connection, and who waits to.
    connecting: usize,
    to_connect: VecDeque<usize>,
    /// Of those that only help to bring about what stands, how many are not through.
    hidden: usize,
    /// Those that may go on.
    ready: VecDeque<usize>,
    preparation: Option<Preparation>,
    delivery_patience: Duration,
    /// Whether all was read: nobody comes again.
    is_settling: bool,
    /// When it is next looked for what takes too long.
    next_look: Instant,
    next_long_look: Instant,
    pub figures: Figures,
}

struct Unwritten {
    number: usize,
    deadline: Option<Instant>,
    is_message: bool,
}

impl Cast {
    /// `answers` are the recorded server's.
    pub fn new(
        guise: Guise,
        run: String,
        runtime: Handle,
        mailbox: Arc<Mailbox>,
        judge: Option<Arc<Judge>>,
        answers: Answers,
    ) -> Self {
        let tap = judge.as_ref().map_or_else(Tap::new, |judge| judge.tap.clone());
        let now = Instant::now();
        Self {
            guise,
            run,
            runtime,
            mailbox,
            judge,
            tap,
            answers,
            actors: HashMap::new(),
            last_number: 0,
            by_connection: HashMap::new(),
            by_client: HashMap::new(),
            sessions: HashMap::new(),
            delivered: HashMap::new(),
            heard_at: now,
            requests: Requests::default(),
            unconfirmed: HashMap::new(),
            last_on: HashMap::new(),
            unwritten: HashMap::new(),
            queued: 0,
            queued_size: 0,
            connecting: 0,
            to_connect: VecDeque::new(),
            hidden: 0,
            ready: VecDeque::new(),
            preparation: None,
            delivery_patience: DELIVERY_PATIENCE,
            is_settling: false,
            next_look: now,
            next_long_look: now,
            figures: Figures::default(),
        }
    }

    /// Not everything is played.
    pub fn of_a_part(self) -> Self {
        Self { delivery_patience: DELIVERY_PATIENCE_OF_A_PART, ..self }
    }

    /// Whether so many acts wait that no more are to be read.
    pub fn is_full(&self) -> bool {
        self.queued >= QUEUED_MAX || self.queued_size >= QUEUED_SIZE_MAX
    }

    /// Has the client of recorded connection `connection` do `act`, as soon as it can.
    pub fn perform(
        &mut self,
        connection: u32,
        seq: u64,
        at: Duration,
        deadline: Option<Instant>,
        mut act: Act,
    ) {
        self.requests.concern_all(std::mem::take(&mut act.common));
        if let Doing::Connect(connect) = &act.doing {
            self.cast_for(connect, connection);
        }
        let number = match &act.doing {
            Doing::Stand { client_identifier, .. } => {
                self.by_client.get(client_identifier).and_then(|numbers| numbers.last())
            }
            _ => self.by_connection.get(&connection),
        };
        match number.copied() {
            Some(number) => {
                if let Doing::Stand { subscribe, .. } = act.doing {
                    act.doing = Doing::Send(Box::new(ControlPacket::Subscribe(*subscribe)));
                }
                self.queue(number, seq, at, deadline, act);
                self.ready.push_back(number);
                self.go_on_all();
            }
            // What it did then was in vain, too.
            None if self.answers.was_turned_away(connection) => {}
            None => self.count_unsent(&act.doing, &format!("connection {connection}"), "it is not there"),
        }
    }

    /// A stand-in for whoever connects with `connect`.
    fn cast_for(&mut self, connect: &Connect, connection: u32) -> usize {
        self.last_number += 1;
        let number = self.last_number;
        let client_identifier = connect.client_identifier.as_str();
        match connection {
            0 => self.hidden += 1,
            _ => _ = self.by_connection.insert(connection, number),
        }
        if !client_identifier.is_empty() {
            self.by_client.entry(client_identifier.to_owned()).or_default().push(number);
        }
        self.actors.insert(number, Actor::new(client_identifier, connection));
        number
    }

    fn queue(&mut self, number: usize, seq: u64, at: Duration, deadline: Option<Instant>, mut act: Act) {
        let Some(actor) = self.actors.get_mut(&number) else { return };
        let mut size = 0;
        let kind = match &mut act.doing {
            Doing::Connect(_) => Some(Kind::Connect),
            Doing::Send(packet) => match &mut **packet {
                // One of QoS 0 is open until it has left.
                ControlPacket::Publish(publish) => {
                    self.guise.message(publish);
                    size = publish.payload.len();
                    Some(Kind::Message)
                }
                _ => Some(Kind::Subscription),
            },
            _ => None,
        };
        if let Some(kind) = kind {
            self.requests.begin(seq, number, kind);
        }
        actor.releases += usize::from(matches!(act.doing, Doing::Release(_)));
        actor.queue.push_back(Pending {
            seq,
            at,
            deadline,
            act,
            size,
            held_up_by: Cause::Scheduler,
            is_free: false,
            waits_for: None,
            waits_since: None,
            give_up_at: None,
        });
        self.queued += 1;
        self.queued_size += size;
    }

    /// An act waits no longer.
    fn dequeued(&mut self, pending: &Pending) {
        self.queued -= 1;
        self.queued_size -= pending.size;
    }

    /// Hears what connections have told.
    pub fn hear(&mut self) {
        for (number, told) in self.mailbox.take() {
            match told {
                Told::Connected(result) => self.connected(number, result),
                Told::Written(seq, at) => {
                    if self.unwritten.get(&seq).is_some_and(|unwritten| unwritten.number == number)
                        && let Some(unwritten) = self.unwritten.remove(&seq)
                    {
                        self.figures.left(at, unwritten.deadline, Cause::Socket);
                    }
                }
                Told::Unsent(seq) => self.unsent(number, seq),
                Told::Received(seq) => self.requests.received(seq, number),
                Told::Ended(seq, outcome) => {
                    self.heard_at = Instant::now();
                    self.ended(number, seq, &outcome);
                }
                Told::Delivered(count) => {
                    let count = count.swap(0, Relaxed);
                    self.heard_at = Instant::now();
                    if let Some(actor) = self.actors.get_mut(&number) {
                        match actor.client_identifier.as_str() {
                            "" => actor.delivered += count,
                            name => match self.delivered.get_mut(name) {
                                Some(before) => *before += count,
                                None => _ = self.delivered.insert(name.to_owned(), count),
                            },
                        }
                    }
                }
                Told::PingAnswered(ticket) => self.confirmed(number, ticket),
                Told::Closed(error) => self.closed(number, &error),
            }
            self.ready.push_back(number);
            self.go_on_all();
        }
    }

    /// Goes on without what took too long. Answers with when to look again.
    pub fn look(&mut self, now: Instant) -> Instant {
        if now < self.next_look {
            return self.next_look;
        }
        self.next_look = now + LOOK_INTERVAL;
        let is_past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (mut late, mut leaving, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for (number, actor) in &self.actors {
            if actor.queue.front().is_some_and(|pending| is_past(pending.give_up_at)) {
                late.push(*number);
            }
            if is_past(actor.leaving_since.map(|since| since + PATIENCE)) {
                leaving.push(*number);
            }
            if is_past(actor.asked_at.map(|asked_at| asked_at + PATIENCE)) {
                silent.push(*number);
            }
        }
        for number in late {
            self.give_up(number, now);
        }
        for number in silent {
            self.give_up_confirming(number);
        }
        for number in leaving {
            // The server keeps its half of the connection open.
            self.leave(number, false);
        }
        if now >= self.next_long_look {
            self.next_long_look = now + LONG_LOOK_INTERVAL;
            if self.is_settling {
                // A client may have come again with some since.
                self.release_held();
            }
            self.give_up_requests(now);
            self.give_up_unwritten(now);
        }
        self.go_on_all();
        self.next_look
    }

    /// Whether all is done that was due, and answered, and everybody who leaves has left; asks servers whether they have
    /// handled all.
    pub fn is_idle(&mut self) -> bool {
        if self.queued > 0 || self.connecting > 0 || !self.unwritten.is_empty() {
            return false;
        }
        if self
            .requests
            .iter()
            .any(|(seq, request)| self.answers.has_answer(seq) || self.is_live(request.number))
        {
            return false;
        }
        let mut is_idle = true;
        for actor in self.actors.values_mut() {
            is_idle &= actor.is_confirmed() && actor.leaving_since.is_none();
        }
        is_idle
    }

    /// All was read: nobody comes again, and messages whose PUBREL is not in the recording are let go of.
    pub fn settle(&mut self) {
        self.is_settling = true;
        self.release_held();
    }

    fn release_held(&mut self) {
        let now = Instant::now();
        for publisher in self.actors.values().filter_map(Actor::publisher) {
            match publisher.try_release_all() {
                Ok(released) => {
                    released.into_iter().for_each(|seq| self.requests.may_be_answered(seq, now));
                }
                Err(error) => debug!(%error, "messages are not released"),
            }
        }
    }

    /// Has all that are still connected take their leave, says what did not go as it did, and begins anew.
    pub fn dismiss(&mut self) {
        let numbers: Vec<usize> = self.actors.keys().copied().collect();
        for number in numbers {
            self.was_kept(number);
        }
        for (seq, request) in self.take_leave() {
            if self.answers.has_answer(seq) {
                self.figures.lost += u64::from(request.kind == Kind::Message);
                self.figures.fell_short |= request.kind != Kind::Message;
            }
        }
    }

    /// The same without a word: what was not done need not be.
    pub fn forget(&mut self) {
        self.take_leave();
    }

    /// Answers with what was asked for and not answered.
    fn take_leave(&mut self) -> Vec<(u64, Request)> {
        let runtime = self.runtime.clone();
        let mut leaving = Vec::new();
        let mut numbers: Vec<usize> = self.actors.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            if self.actors.get(&number).is_some_and(|actor| actor.leaving_since.is_some()) {
                self.leave(number, false);
            }
            let Some(actor) = self.actors.remove(&number) else { continue };
            if let Stage::Live(client, publisher) = actor.stage {
                drop(publisher);
                leaving.push((number, actor.connection, client));
            }
        }
        let tap = self.tap.clone();
        runtime.block_on(async move {
            let ends = leaving.into_iter().map(|(number, connection, client)| {
                let tap = tap.clone();
                async move {
                    if let Err(error) = client.disconnect(ReasonCode::SUCCESS).await {
                        debug!(%error, "a connection did not end well");
                    }
                    if connection != 0 {
                        tap.close(Instant::now(), connection_id(number), CloseCause::RecordingEnded);
                    }
                }
            });
            futures_util::future::join_all(ends).await;
        });
        self.by_connection.clear();
        self.by_client.clear();
        self.sessions.clear();
        self.delivered.clear();
        self.unconfirmed.clear();
        self.last_on.clear();
        self.unwritten.clear();
        self.ready.clear();
        self.to_connect.clear();
        (self.queued, self.queued_size, self.hidden) = (0, 0, 0);
        self.preparation = None;
        self.is_settling = false;
        self.requests.clear()
    }

    fn go_on_all(&mut self) {
        loop {
            for number in self.requests.take_woken() {
                if let Some(front) = self.actors.get_mut(&number).and_then(|actor| actor.queue.front_mut()) {
                    front.waits_for = None;
                }
                self.ready.push_back(number);
            }
            match self.ready.pop_front() {
                Some(number) => self.go_on(number),
                None if self.preparation.is_some() && self.queued == 0 && self.hidden == 0 => self.prepare(),
                None => return,
            }
        }
    }

    fn go_on(&mut self, number: usize) {
        loop {
            let Some(actor) = self.actors.get_mut(&number) else { return };
            let Some(mut pending) = actor.queue.pop_front() else {
                self.retire(number);
                return;
            };
            if self.is_held_up(number, &mut pending) || self.act(number, &mut pending).is_wait() {
                let patience = if pending.is_free { PATIENCE } else { self.patience_of(&pending) };
                let now = Instant::now();
                pending.waits_since.get_or_insert(now);
                pending.give_up_at.get_or_insert(now + patience);
                if let Some(actor) = self.actors.get_mut(&number) {
                    actor.queue.push_front(pending);
                }
                return;
            }
            if matches!(pending.act.doing, Doing::Release(_))
                && let Some(actor) = self.actors.get_mut(&number)
            {
                actor.releases -= 1;
            }
            self.dequeued(&pending);
            self.wake_followers(number);
        }
    }

    /// Forgets a stand-in that is through.
    fn retire(&mut self, number: usize) {
        if !self.actors.get(&number).is_some_and(|actor| matches!(actor.stage, Stage::Over)) {
            return;
        }
        self.wake_followers(number);
        let Some(actor) = self.actors.remove(&number) else { return };
        self.hidden -= usize::from(actor.is_hidden());
        if self.by_connection.get(&actor.connection) == Some(&number) {
            self.by_connection.remove(&actor.connection);
        }
        if let Some(numbers) = self.by_client.get_mut(&actor.client_identifier) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_client.remove(&actor.client_identifier);
            }
        }
        for seq in actor.unconfirmed.into_keys() {
            self.unconfirmed.remove(&seq);
            self.requests.wake(seq);
        }
    }

    fn wake_followers(&mut self, number: usize) {
        if let Some(actor) = self.actors.get_mut(&number) {
            self.ready.extend(std::mem::take(&mut actor.followers));
        }
    }

    /// The client's connections before this one.
    fn before(&self, number: usize) -> &[usize] {
        let client_identifier = self.actors.get(&number).map_or("", |actor| &actor.client_identifier);
        let numbers = self.by_client.get(client_identifier).map_or(&[][..], Vec::as_slice);
        let place = numbers.iter().position(|other| *other == number);
        &numbers[..place.unwrap_or_default()]
    }

    /// How people know it.
    fn name(&self, number: usize) -> String {
        self.actors.get(&number).map_or_else(String::new, Actor::name)
    }

    /// It stands as it stood: what comes from now on counts.
    fn is_judged_from_now(&mut self, number: usize) {
        if let Some(actor) = self.actors.get_mut(&number) {
            actor.delivered = 0;
            self.delivered.remove(&actor.client_identifier);
        }
        if let Some(judge) = &self.judge {
            judge.is_judged_from_now(connection_id(number));
        }
    }
}

fn connection_id(number: usize) -> ConnectionId {
    ConnectionId(number as u64)
}
