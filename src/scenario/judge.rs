//! Whether what is expected has come.

use std::time::Duration;

use super::{
    expectation::Expectation,
    inbox::{Inbox, Received},
};
use crate::{
    amount::counted,
    journal::{Message, MessageMatch, MessageOrigin, Nearest, beginning},
    mock::PayloadView,
};

/// Of those that did not match, as many are looked at for the nearest one.
const LOOKED_AT: usize = 2_000;

/// Messages that are read at once: others have to get at the inbox, too.
const READ_AT_ONCE: usize = 1_000;

/// Bytes of a payload that are told.
const PAYLOAD_SHOWN: usize = 200;

/// One of the clients that are to receive messages.
#[derive(Debug)]
pub struct Listener {
    /// Its number, as in [`Received::client`].
    pub client: u32,
    /// As texts call it.
    pub name: String,
    /// Which messages are meant, by place in the judge's list.
    pub matcher: usize,
}

/// Judges one expectation: messages and the time are put in, at last a [`Judgement`] comes out.
///
/// It reads on from where each client's cursor stood when it began, whatever others read meanwhile.
#[derive(Debug)]
pub struct Judge<'e> {
    expectation: &'e Expectation,
    matchers: Vec<(MessageMatch, String)>,
    /// By client number.
    listeners: Vec<(Listener, u64)>,
    began: Duration,
    start: u64,
    /// The position that was not looked at yet.
    next: u64,
    /// How many there are, of all together, or by listener.
    counts: Vec<u64>,
    /// Which were counted: listener and position.
    taken: Vec<(usize, u64)>,
    /// When there were enough, where they have to stay enough.
    reached: Option<Duration>,
    is_behind: bool,
}

/// What came of an expectation.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub has_passed: bool,
    /// How many messages were counted.
    pub counted: u64,
    /// What is wrong, for people; empty if nothing.
    pub failure: String,
    /// That came nearest to being what was missing, or was one too many.
    pub nearest: Option<NearestMessage>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NearestMessage {
    /// Who received it.
    pub client: String,
    /// Since the run began.
    pub at: Duration,
    pub topic: String,
    /// As text, its beginning.
    pub payload: String,
    pub qos: u8,
    pub retain: bool,
    /// In what it differs from what was expected; nothing if it is one too many.
    pub differences: Vec<String>,
}

impl<'e> Judge<'e> {
    /// `matchers` say which messages are meant, and how to say that; `listeners` are in the order of their numbers.
    pub fn new(
        expectation: &'e Expectation,
        matchers: Vec<(MessageMatch, String)>,
        listeners: Vec<Listener>,
        inbox: &Inbox,
        now: Duration,
    ) -> Self {
        let listeners: Vec<(Listener, u64)> = listeners
            .into_iter()
            .map(|listener| {
                let cursor = inbox.cursor(listener.client);
                (listener, cursor)
            })
            .collect();
        let start = listeners.iter().map(|(_, cursor)| *cursor).min().unwrap_or(0);
        let counts = if expectation.is_each { vec![0; listeners.len()] } else { vec![0] };
        Self {
            expectation,
            matchers,
            listeners,
            began: now,
            start,
            next: start,
            counts,
            taken: Vec::new(),
            reached: None,
            is_behind: false,
        }
    }

    /// Looks at what is new, and says what comes of it, if that is known by `now`.
    pub fn judge(&mut self, inbox: &Inbox, now: Duration) -> Option<Judgement> {
        if inbox.is_full() {
            return Some(self.failed("more was received than is kept (scenarios.bytes)".to_owned(), None));
        }
        self.read(inbox);
        if self.is_behind { None } else { self.decide(inbox, now) }
    }

    /// Whether there is more to read at once, before anything is known.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// When it has to be asked again, if no message comes.
    pub fn deadline(&self) -> Duration {
        match (self.expectation.within, self.expectation.lasting, self.reached) {
            (Some(_), Some(lasting), Some(reached)) => reached + lasting,
            (Some(within), _, _) => self.began + within,
            (None, lasting, _) => self.began + lasting.unwrap_or_default(),
        }
    }

    /// The clients and positions that were counted: what is expected next is behind them.
    pub fn taken(&self) -> impl Iterator<Item = (u32, u64)> {
        self.taken.iter().map(|&(listener, position)| (self.listeners[listener].0.client, position))
    }

    /// What it waits for: by itself enough is enough, and the rest is for what is expected next.
    fn stops_when_reached(&self) -> bool {
        self.expectation.lasting.is_none() && self.expectation.count.max().is_none()
    }

    fn read(&mut self, inbox: &Inbox) {
        self.next = self.next.max(inbox.start());
        let stop = self.next + READ_AT_ONCE as u64;
        self.is_behind = false;
        while let Some(message) = inbox.get(self.next) {
            if self.next == stop {
                self.is_behind = true;
                return;
            }
            let position = self.next;
            let Ok(place) = self.listeners.binary_search_by_key(&message.client, |(one, _)| one.client)
            else {
                self.next += 1;
                continue;
            };
            // What came later is for what is expected next.
            if message.at > self.deadline() {
                return;
            }
            self.next += 1;
            let bucket = if self.expectation.is_each { place } else { 0 };
            let has_enough =
                self.stops_when_reached() && self.expectation.count.is_reached(self.counts[bucket]);
            let (listener, cursor) = &self.listeners[place];
            if has_enough || position < *cursor || !matches(&self.matchers[listener.matcher].0, message) {
                continue;
            }
            self.counts[bucket] += 1;
            self.taken.push((place, position));
            if self.reached.is_none() && self.has_reached() {
                self.reached = Some(message.at.max(self.began));
            }
        }
    }

    fn has_reached(&self) -> bool {
        self.counts.iter().all(|&count| self.expectation.count.is_reached(count))
    }

    fn decide(&mut self, inbox: &Inbox, now: Duration) -> Option<Judgement> {
        let Expectation { count, within, lasting, .. } = self.expectation;
        if self.reached.is_none() && self.has_reached() {
            self.reached = Some(self.began);
        }
        if let Some(bucket) = self.counts.iter().position(|&number| count.is_exceeded(number)) {
            return Some(self.exceeded(inbox, bucket));
        }
        let is_over = now >= self.deadline();
        let passed = match (within, lasting) {
            // Enough, and it is to stay so.
            (Some(_), Some(_)) => self.reached.is_some() && is_over,
            // Whether there will be too many is known at the end.
            (Some(_), None) if count.min() == 0 => is_over,
            (Some(_), None) => self.has_reached(),
            // From the beginning.
            (None, _) if !self.has_reached() => return Some(self.missing(inbox)),
            (None, _) => is_over,
        };
        match passed {
            true => Some(Judgement {
                has_passed: true,
                counted: self.taken.len() as u64,
                failure: String::new(),
                nearest: None,
            }),
            false if is_over => Some(self.missing(inbox)),
            false => None,
        }
    }

    fn failed(&self, failure: String, nearest: Option<NearestMessage>) -> Judgement {
        Judgement { has_passed: false, counted: self.taken.len() as u64, failure, nearest }
    }

    /// `at least 2 messages (topic a/+) within 5 s`
    fn wanted(&self, matcher: usize) -> String {
        let said = match &*self.matchers[matcher].1 {
            "" => String::new(),
            said => format!(" ({said})"),
        };
        let each = if self.expectation.is_each { " for each" } else { "" };
        format!("{}{said}{each} {}", self.expectation.count, self.expectation.period())
    }

    fn exceeded(&self, inbox: &Inbox, bucket: usize) -> Judgement {
        let is_each = self.expectation.is_each;
        let last = self.taken.iter().rev().find(|(listener, _)| !is_each || *listener == bucket);
        let surplus = last.and_then(|&(listener, position)| {
            let message = inbox.get(position)?;
            Some(self.shown(listener, message, Vec::new()))
        });
        let matcher = self.listeners[bucket].0.matcher;
        let who = if is_each { format!("{} ", self.listeners[bucket].0.name) } else { String::new() };
        let failure = format!("expected {}; {who}got {}", self.wanted(matcher), self.counts[bucket]);
        self.failed(failure, surplus)
    }

    fn missing(&self, inbox: &Inbox) -> Judgement {
        let is_each = self.expectation.is_each;
        let lacking: Vec<usize> = (0..self.counts.len())
            .filter(|&bucket| !self.expectation.count.is_reached(self.counts[bucket]))
            .collect();
        let first = lacking.first().copied().unwrap_or(0);
        let counts = if is_each {
            let name = &self.listeners[first].0.name;
            let others = match lacking.len() {
                0 | 1 => String::new(),
                more => format!(", and {} too few", counted(more as u64 - 1, "other")),
            };
            format!("{name} got {}{others}", self.counts[first])
        } else {
            format!("got {}", self.counts[first])
        };
        let (nearest, seen) = self.nearest(inbox, |listener| !is_each || lacking.contains(&listener));
        let nothing = if seen == 0 && self.taken.is_empty() { ", and no other message" } else { "" };
        let passed_over = match self.passed_over(inbox) {
            0 => String::new(),
            count => format!(
                "; {} came before what earlier steps have read (what comes in any order is expected in `parallel`)",
                counted(count, "such message")
            ),
        };
        let matcher = self.listeners[first.min(self.listeners.len() - 1)].0.matcher;
        let failure = format!("expected {}; {counts}{nothing}{passed_over}", self.wanted(matcher));
        self.failed(failure, nearest)
    }

    /// Of those that were not counted, the one that came nearest; and how many there are.
    fn nearest(&self, inbox: &Inbox, concerns: impl Fn(usize) -> bool) -> (Option<NearestMessage>, usize) {
        let mut nearest = Nearest::default();
        let mut seen = 0;
        let taken: std::collections::BTreeSet<u64> =
            self.taken.iter().map(|&(_, position)| position).collect();
        let first = self.next.saturating_sub(LOOKED_AT as u64).max(self.start).max(inbox.start());
        for position in first..self.next {
            let Some(message) = inbox.get(position) else { break };
            let place = self.listeners.binary_search_by_key(&message.client, |(one, _)| one.client);
            let Ok(place) = place else { continue };
            let (listener, cursor) = &self.listeners[place];
            if position < *cursor || taken.contains(&position) || !concerns(place) {
                continue;
            }
            seen += 1;
            let nearness = self.matchers[listener.matcher].0.differences(&view(message));
            nearest.offer(nearness, || (place, position));
        }
        let best = nearest.into_vec().into_iter().next();
        let best = best.and_then(|(nearness, (place, position))| {
            Some(self.shown(place, inbox.get(position)?, nearness.differences))
        });
        (best, seen)
    }

    /// How many that are meant were passed over by what was expected before.
    fn passed_over(&self, inbox: &Inbox) -> u64 {
        let first = self.next.saturating_sub(LOOKED_AT as u64).max(inbox.start());
        let mut count = 0;
        for position in first..self.next {
            let Some(message) = inbox.get(position) else { break };
            let place = self.listeners.binary_search_by_key(&message.client, |(one, _)| one.client);
            let Ok(place) = place else { continue };
            let (listener, cursor) = &self.listeners[place];
            let was_passed = position < *cursor && !inbox.was_counted(position);
            count += u64::from(was_passed && matches(&self.matchers[listener.matcher].0, message));
        }
        count
    }

    fn shown(&self, listener: usize, message: &Received, differences: Vec<String>) -> NearestMessage {
        let text = String::from_utf8_lossy(&message.payload);
        let short = beginning(&text, PAYLOAD_SHOWN);
        let more = if short.len() < text.len() { "…" } else { "" };
        NearestMessage {
            client: self.listeners[listener].0.name.clone(),
            at: message.at,
            topic: message.topic.to_string(),
            payload: format!("{short}{more}"),
            qos: message.qos.into(),
            retain: message.retain,
            differences,
        }
    }
}

/// `dev[3] got "st/a" with payload "online" at 1.204 s: the payload is "online", not "offline"`
impl std::fmt::Display for NearestMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client, at, topic, payload, .. } = self;
        write!(f, "{client} got {topic:?} with payload {payload:?} at {:.3} s", at.as_secs_f64())?;
        match self.differences.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.differences.join("; ")),
        }
    }
}

fn matches(matcher: &MessageMatch, message: &Received) -> bool {
    matcher.matches(&view(message))
}

fn view(message: &Received) -> Message<'_> {
    Message {
        topic: &message.topic,
        payload: PayloadView::new(&message.payload),
        qos: message.qos,
        retain: message.retain,
        properties: std::borrow::Cow::Borrowed(&message.properties),
        // A receiver is not told.
        client_identifier: "",
        origin: MessageOrigin::Client,
    }
}
