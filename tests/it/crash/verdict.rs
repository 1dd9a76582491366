//! Which promises were broken, by the events of a trial alone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use super::{
    ledger::{ClientNumber, Event, Micros, SERVER, What},
    plan::{MessageId, matches},
    wire::Protocol,
};

/// What a server promises of its state after it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It is that of any acknowledgement that was sent.
    Strict,
    /// It is one that the server had so long ago at most, the state as a whole.
    Relaxed(Micros),
    /// It is empty.
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    SessionLost,
    /// One that had expired, or of a server that keeps none.
    SessionKept,
    Lost,
    Twice,
    OutOfOrder,
    /// Delivered for a subscription that had been ended.
    Unsubscribed,
    /// What is retained is older than what was acknowledged, or was never published.
    Retained,
    /// A Will of a client that was back in time.
    Will,
    /// From before a kill, of a server that keeps nothing.
    FromBefore,
    /// A server that ended by itself did not say so.
    NoDisconnect,
    /// A packet that is wrong whatever happened.
    Packet,
    /// The process or its log.
    Server,
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub kind: Kind,
    /// Where it was seen, or else promised.
    pub run: u32,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?} in run {}: {}", self.kind, self.run, self.text)
    }
}

/// Who takes part, by client number.
#[derive(Clone, Debug)]
pub struct Party {
    pub name: String,
    pub protocol: Protocol,
}

/// All that `events` show.
pub fn violations(promise: Promise, parties: &[Party], events: &[Event]) -> Vec<Violation> {
    let mut judge = Judge { promise, parties, events, ends: ends(events), found: Vec::new() };
    let messages = judge.messages();
    judge.packets();
    judge.sessions();
    judge.farewells();
    judge.retained(&messages);
    judge.deliveries(&messages);
    judge.found
}

/// How each run that ended did.
fn ends(events: &[Event]) -> HashMap<u32, (Micros, bool)> {
    let of_server = events.iter().filter(|event| event.client == SERVER);
    let end = |event: &Event| match event.what {
        What::Killed => Some((event.run, (event.at, true))),
        What::Terminated => Some((event.run, (event.at, false))),
        _ => None,
    };
    of_server.filter_map(end).collect()
}

struct Judge<'a> {
    promise: Promise,
    parties: &'a [Party],
    events: &'a [Event],
    /// When a run ended, and whether by a kill.
    ends: HashMap<u32, (Micros, bool)>,
    found: Vec<Violation>,
}

/// When something was read or sent, over a connection to which run.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Micros,
    run: u32,
}

impl fmt::Display for Moment {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:.6} s in run {}", self.at as f64 / 1e6, self.run)
    }
}

impl Event {
    fn moment(&self) -> Moment {
        Moment { at: self.at, run: self.run }
    }
}

#[derive(Debug)]
struct Fate {
    topic: &'static str,
    qos: u8,
    deletes: bool,
    sent: Moment,
    acknowledged: Option<Moment>,
    /// Up to here it may have been passed on: of QoS 2 only once it is released, as servers may do it.
    completed: Option<Moment>,
}

/// One subscription of one client, as it was asked for and ended again.
#[derive(Default)]
struct Subscription {
    qos: u8,
    acts: Vec<Act>,
}

struct Act {
    on: bool,
    asked: Micros,
    granted: Option<Moment>,
}

struct Delivery {
    moment: Moment,
    qos: u8,
    settled: Option<Moment>,
}

impl Judge<'_> {
    fn find(&mut self, kind: Kind, run: u32, text: impl Into<String>) {
        self.found.push(Violation { kind, run, text: text.into() });
    }

    fn name(&self, client: ClientNumber) -> &str {
        self.parties.get(usize::from(client)).map_or("server", |party| &party.name)
    }

    /// Whether what was read then is promised to outlast the end of that run.
    fn is_sure(&self, moment: Moment) -> bool {
        let Some(&(ended, is_killed)) = self.ends.get(&moment.run) else { return true };
        match self.promise {
            Promise::Strict => true,
            Promise::Relaxed(interval) => !is_killed || moment.at + interval <= ended,
            Promise::Empty => false,
        }
    }

    fn messages(&mut self) -> BTreeMap<MessageId, Fate> {
        let mut messages = BTreeMap::new();
        for event in self.events {
            match event.what {
                What::Sent { message, topic, qos, deletes } => {
                    let fate = Fate {
                        topic,
                        qos,
                        deletes,
                        sent: event.moment(),
                        acknowledged: None,
                        completed: None,
                    };
                    messages.insert(message, fate);
                }
                What::Acknowledged { message } => {
                    let fate: &mut Fate = messages.get_mut(&message).expect("it was sent");
                    fate.acknowledged.get_or_insert(event.moment());
                }
                What::Completed { message } => {
                    let fate = messages.get_mut(&message).expect("it was sent");
                    fate.completed = Some(event.moment());
                }
                _ => {}
            }
        }
        messages
    }

    fn packets(&mut self) {
        for event in self.events {
            if let What::Broken { text } = &event.what {
                let text = format!("{}: {text}", self.name(event.client));
                self.find(if event.client == SERVER { Kind::Server } else { Kind::Packet }, event.run, text);
            }
        }
    }

    fn sessions(&mut self) {
        let mut created: HashMap<ClientNumber, Moment> = HashMap::new();
        let mut lasting = HashSet::new();
        let mut attempts: HashMap<(ClientNumber, u32), u32> = HashMap::new();
        for event in self.events {
            let name = self.name(event.client).to_owned();
            match event.what {
                What::Connecting => *attempts.entry((event.client, event.run)).or_default() += 1,
                What::Connected { is_present: false } => {
                    if let Some(earlier) = created.insert(event.client, event.moment())
                        && (earlier.run == event.run
                            || self.is_sure(earlier)
                            || lasting.contains(&event.client))
                    {
                        let text = format!(
                            "{name} got Session Present 0 at {}, though a CONNACK of its session came at {earlier}",
                            event.moment()
                        );
                        self.find(Kind::SessionLost, event.run, text);
                    }
                    lasting.remove(&event.client);
                }
                What::Connected { is_present: true } => {
                    // What has outlasted one kill is on the disk.
                    if created.get(&event.client).is_some_and(|moment| moment.run < event.run) {
                        lasting.insert(event.client);
                    }
                    let is_first =
                        attempts.get(&(event.client, event.run)).is_none_or(|attempts| *attempts == 1);
                    if self.promise == Promise::Empty && is_first {
                        let text = format!("{name} got Session Present 1 at {}", event.moment());
                        self.find(Kind::SessionKept, event.run, text);
                    }
                }
                What::Outlived => {
                    let text =
                        format!("{name} got Session Present 1 at {}, after its expiry", event.moment());
                    self.find(Kind::SessionKept, event.run, text);
                }
                _ => {}
            }
        }
    }

    /// No connection was ended but by an end of the server, and if that was asked to end, it said so.
    fn farewells(&mut self) {
        let mut connected = HashSet::new();
        for event in self.events {
            match event.what {
                What::Connected { .. } => {
                    connected.insert(event.client);
                }
                What::Ended { is_own, reason } => {
                    let was_connected = connected.remove(&event.client);
                    if is_own || !was_connected {
                        continue;
                    }
                    let name = self.name(event.client).to_owned();
                    match self.ends.get(&event.run) {
                        Some((ended, true)) if event.at >= *ended => {}
                        Some((ended, false)) if event.at >= *ended => {
                            let is_v5 = self.parties[usize::from(event.client)].protocol == Protocol::V5;
                            if is_v5 && reason != Some(SERVER_SHUTTING_DOWN) {
                                let text =
                                    format!("{name} was told {reason:x?} when the server was asked to end");
                                self.find(Kind::NoDisconnect, event.run, text);
                            }
                        }
                        _ => {
                            let text =
                                format!("{name} was cut off at {}, reason {reason:x?}", event.moment());
                            self.find(Kind::Packet, event.run, text);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn retained(&mut self, messages: &BTreeMap<MessageId, Fate>) {
        // A topic has one publisher, so its messages are in the order of their numbers.
        let mut by_topic: HashMap<&str, Vec<(u32, &Fate)>> = HashMap::new();
        for (id, fate) in messages {
            by_topic.entry(fate.topic).or_default().push((id.number, fate));
        }
        for event in self.events {
            let What::Retained { topic, number, asked } = event.what else { continue };
            let mut may_be = vec![];
            let mut is_certain = false;
            for (candidate, fate) in by_topic.get(topic).into_iter().flatten() {
                if self.promise == Promise::Empty && fate.sent.run != event.run {
                    continue;
                }
                // Of QoS 2 a server may retain it when it is released.
                let is_promised = fate.acknowledged.zip(fate.completed).is_some_and(|moments| {
                    let is_there = |moment: Moment| moment.run == event.run || self.is_sure(moment);
                    moments.1.at < asked && is_there(moments.0) && is_there(moments.1)
                });
                if is_promised {
                    may_be.clear();
                    is_certain = true;
                }
                if fate.sent.at < event.at {
                    may_be.push((*candidate, *fate));
                }
            }
            let is_right = match number {
                Some(number) => may_be.iter().any(|(candidate, fate)| *candidate == number && !fate.deletes),
                None => !is_certain || may_be.iter().any(|(_, fate)| fate.deletes),
            };
            if !is_right {
                let said = |(number, fate): &(u32, &Fate)| {
                    let what = if fate.deletes { "deletion" } else { "message" };
                    match fate.completed {
                        Some(moment) => format!("{what} {number}, complete at {moment}"),
                        None => format!("{what} {number}, sent at {}", fate.sent),
                    }
                };
                let text = format!(
                    "{topic} had {} when asked at {:.6} s; it may have {}",
                    number.map_or("nothing".to_owned(), |number| format!("message {number}")),
                    asked as f64 / 1e6,
                    may_be.iter().map(said).collect::<Vec<_>>().join("; ")
                );
                self.find(Kind::Retained, event.run, text);
            }
        }
    }

    fn deliveries(&mut self, messages: &BTreeMap<MessageId, Fate>) {
        let subscriptions = self.subscriptions();
        let groups = groups(&subscriptions);
        let receiver = |client| groups.get(&client).copied().unwrap_or(client);
        let mut got: HashMap<(ClientNumber, MessageId), Vec<Delivery>> = HashMap::new();
        let mut last: HashMap<_, (u32, Moment)> = HashMap::new();
        for event in self.events {
            match event.what {
                What::Delivered { message, topic, qos } => {
                    let moment = event.moment();
                    self.delivery(event, messages.get(&message), &subscriptions);
                    let deliveries = got.entry((receiver(event.client), message)).or_default();
                    let is_first = deliveries.is_empty();
                    deliveries.push(Delivery { moment, qos, settled: None });
                    if is_first && !groups.contains_key(&event.client) {
                        // A server may pass QoS 2 messages on when they are released, so they are a stream of their own.
                        let published_qos = messages.get(&message).map_or(0, |fate| fate.qos);
                        let stream = (event.client, message.publisher, topic, qos, published_qos);
                        if let Some((number, earlier)) = last.insert(stream, (message.number, moment))
                            && number > message.number
                        {
                            let text = format!(
                                "{} got {message} on {topic} at QoS {qos} at {moment}, after number {number} at {earlier}",
                                self.name(event.client)
                            );
                            self.find(Kind::OutOfOrder, event.run, text);
                        }
                    }
                }
                What::Settled { message } => {
                    let deliveries = got.get_mut(&(receiver(event.client), message));
                    if let Some(last) = deliveries.and_then(|deliveries| deliveries.last_mut()) {
                        last.settled = Some(event.moment());
                    }
                }
                _ => {}
            }
        }
        self.repetitions(&got);
        if self.promise != Promise::Empty {
            // Of those who share, one answers for all.
            let answerable = subscriptions.iter().filter(|((client, _), _)| receiver(*client) == *client);
            let answerable: Vec<_> =
                answerable.map(|((client, filter), own)| (*client, *filter, own)).collect();
            self.losses(messages, &answerable, |client, message| got.contains_key(&(client, message)));
        }
    }

    fn subscriptions(&self) -> Subscriptions {
        let mut subscriptions: BTreeMap<_, Subscription> = BTreeMap::new();
        for event in self.events {
            match event.what {
                What::Asked { filter, qos, on } => {
                    let subscription = subscriptions.entry((event.client, filter)).or_default();
                    subscription.qos = subscription.qos.max(qos);
                    subscription.acts.push(Act { on, asked: event.at, granted: None });
                }
                What::Granted { filter, on } => {
                    let acts =
                        &mut subscriptions.get_mut(&(event.client, filter)).expect("it was asked for").acts;
                    let act = acts.last_mut().expect("it was asked for");
                    assert_eq!(act.on, on, "{filter}");
                    act.granted = Some(event.moment());
                }
                _ => {}
            }
        }
        subscriptions
    }

    /// Whether it may come at all.
    fn delivery(&mut self, event: &Event, fate: Option<&Fate>, subscriptions: &Subscriptions) {
        let What::Delivered { message, topic, qos } = event.what else { return };
        let name = self.name(event.client).to_owned();
        let at = event.moment();
        let Some(fate) = fate.filter(|fate| fate.topic == topic) else {
            let text = format!("{name} got {message} on {topic} at {at}, which nobody sent there");
            return self.find(Kind::Packet, event.run, text);
        };
        if topic.starts_with(NEVER) {
            let text =
                format!("{name} got the Will on {topic} at {at}, whose client came back within its delay");
            self.find(Kind::Will, event.run, text);
        }
        if self.promise == Promise::Empty && fate.sent.run != event.run {
            let text = format!("{name} got {message} on {topic} at {at}, which was sent at {}", fate.sent);
            self.find(Kind::FromBefore, event.run, text);
        }
        let own = subscriptions.range((event.client, "")..(event.client + 1, ""));
        let matching: Vec<_> =
            own.filter(|((_, filter), _)| matches(unshared(filter), topic)).map(|(_, own)| own).collect();
        let granted = matching.iter().map(|own| own.qos).max().unwrap_or_default();
        if qos > granted.min(fate.qos) {
            let text = format!("{name} got {message} on {topic} at QoS {qos}, granted was {granted}");
            self.find(Kind::Packet, event.run, text);
        }
        if matching.iter().all(|own| self.is_off(own, fate)) {
            let text = format!(
                "{name} got {message} on {topic} at {at}, which was sent at {} when no subscription was left",
                fate.sent
            );
            self.find(Kind::Unsubscribed, event.run, text);
        }
    }

    /// Whether the message was handled while the subscription was certainly not there.
    fn is_off(&self, subscription: &Subscription, fate: &Fate) -> bool {
        let acts = &subscription.acts;
        let off = acts.iter().enumerate().filter(|(_, act)| !act.on);
        off.into_iter().any(|(index, act)| {
            let Some(granted) = act.granted.filter(|granted| self.is_sure(*granted)) else { return false };
            let until = acts[index..].iter().find(|later| later.on).map_or(Micros::MAX, |later| later.asked);
            granted.at <= fate.sent.at && fate.completed.map_or(Micros::MAX, |moment| moment.at) <= until
        })
    }

    /// Whether the subscription was certainly there when the message was handled.
    fn is_on(&self, subscription: &Subscription, fate: &Fate) -> bool {
        let acts = &subscription.acts;
        acts.iter().enumerate().filter(|(_, act)| act.on).any(|(index, act)| {
            let Some(granted) = act.granted.filter(|granted| self.is_sure(*granted)) else { return false };
            let until = acts[index..].iter().find(|later| !later.on).map_or(Micros::MAX, |later| later.asked);
            granted.at <= fate.sent.at && fate.completed.map_or(Micros::MAX, |moment| moment.at) <= until
        })
    }

    fn repetitions(&mut self, got: &HashMap<(ClientNumber, MessageId), Vec<Delivery>>) {
        let mut twice = Vec::new();
        for ((client, message), deliveries) in got {
            let exact: Vec<&Delivery> = deliveries.iter().filter(|delivery| delivery.qos == 2).collect();
            for pair in exact.windows(2) {
                let [first, second] = pair else { continue };
                if !self.may_be_undone(first, second) {
                    twice.push((second.moment, *client, *message, first.moment, first.settled));
                }
            }
        }
        twice.sort_by_key(|(moment, ..)| moment.at);
        for (second, client, message, first, settled) in twice {
            let settled = settled.map_or("not released".to_owned(), |moment| format!("released at {moment}"));
            let name = self.name(client);
            let text = format!("{name} got {message} at QoS 2 at {first}, {settled}, and again at {second}");
            self.find(Kind::Twice, second.run, text);
        }
    }

    /// Whether a kill between the two took away what the server knew of the first.
    fn may_be_undone(&self, first: &Delivery, second: &Delivery) -> bool {
        let Promise::Relaxed(interval) = self.promise else { return self.promise == Promise::Empty };
        let is_undone = |moment: Moment| match self.ends.get(&moment.run) {
            Some((ended, is_killed)) => *is_killed && moment.at + interval > *ended,
            None => false,
        };
        let is_over = second.moment.run > first.moment.run;
        is_over && (is_undone(first.moment) || first.settled.is_some_and(is_undone))
    }

    fn losses(
        &mut self,
        messages: &BTreeMap<MessageId, Fate>,
        subscriptions: &[(ClientNumber, &'static str, &Subscription)],
        is_delivered: impl Fn(ClientNumber, MessageId) -> bool,
    ) {
        let mut by_topic: HashMap<&str, Vec<_>> = HashMap::new();
        for (id, fate) in messages {
            let Some(acknowledged) = fate.acknowledged.filter(|moment| self.is_sure(*moment)) else {
                continue;
            };
            if fate.topic.starts_with(NEVER) {
                continue;
            }
            let matching = by_topic.entry(fate.topic).or_insert_with(|| {
                let all = subscriptions.iter();
                all.filter(|(_, filter, _)| matches(unshared(filter), fate.topic)).collect()
            });
            for (client, filter, subscription) in matching.iter() {
                if self.is_on(subscription, fate) && !is_delivered(*client, *id) {
                    let text = format!(
                        "{} never got {id} on {} at QoS {}, for {filter} at QoS {}: sent at {}, acknowledged at {acknowledged}",
                        self.name(*client),
                        fate.topic,
                        fate.qos,
                        subscription.qos,
                        fate.sent,
                    );
                    self.find(Kind::Lost, acknowledged.run, text);
                }
            }
        }
    }
}

type Subscriptions = BTreeMap<(ClientNumber, &'static str), Subscription>;

/// Of each client with a shared subscription the first client with the same one, who stands for all.
fn groups(subscriptions: &Subscriptions) -> HashMap<ClientNumber, ClientNumber> {
    let mut first: HashMap<&str, ClientNumber> = HashMap::new();
    let shared = subscriptions.keys().filter(|(_, filter)| filter.starts_with("$share/"));
    shared.map(|(client, filter)| (*client, *first.entry(filter).or_insert(*client))).collect()
}

/// Reason Code of a DISCONNECT.
const SERVER_SHUTTING_DOWN: u8 = 0x8b;

/// Topics of Wills whose clients are always back in time.
pub const NEVER: &str = "w/never";

/// The filter of a shared subscription without what says so.
pub fn unshared(filter: &str) -> &str {
    filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientNumber = 0;
    const OTHER: ClientNumber = 1;
    const FIRST: MessageId = MessageId { publisher: 9, number: 1 };
    const SECOND: MessageId = MessageId { publisher: 9, number: 2 };
    const FILTER: &str = "t/#";

    /// Events of run and client, a millisecond apart.
    fn found(promise: Promise, events: &[(u32, ClientNumber, What)]) -> Vec<Kind> {
        let party = |name: &str| Party { name: name.to_owned(), protocol: Protocol::V5 };
        let event = |(index, (run, client, what)): (usize, &(u32, ClientNumber, What))| Event {
            at: 1000 * (index as Micros + 1),
            run: *run,
            client: *client,
            what: what.clone(),
        };
        let events: Vec<Event> = events.iter().enumerate().map(event).collect();
        let found = violations(promise, &[party("one"), party("other")], &events);
        found.into_iter().map(|violation| violation.kind).collect()
    }

    fn asked(on: bool) -> What {
        What::Asked { filter: FILTER, qos: 2, on }
    }

    fn granted(on: bool) -> What {
        What::Granted { filter: FILTER, on }
    }

    fn sent(message: MessageId) -> What {
        What::Sent { message, topic: "t/a", qos: 2, deletes: false }
    }

    fn acknowledged(message: MessageId) -> What {
        What::Acknowledged { message }
    }

    fn completed(message: MessageId) -> What {
        What::Completed { message }
    }

    fn delivered(message: MessageId) -> What {
        What::Delivered { message, topic: "t/a", qos: 2 }
    }

    /// What follows a subscription.
    fn subscribed(events: &[(u32, ClientNumber, What)]) -> Vec<(u32, ClientNumber, What)> {
        [&[(1, CLIENT, asked(true)), (1, CLIENT, granted(true))], events].concat()
    }

    const KILLED: (u32, ClientNumber, What) = (1, SERVER, What::Killed);
    const INTERVAL: Promise = Promise::Relaxed(2500);

    #[test]
    fn acknowledged_messages_have_to_come_if_they_are_old_enough() {
        let events = subscribed(&[(1, OTHER, sent(FIRST)), (1, OTHER, acknowledged(FIRST)), KILLED]);
        assert_eq!(found(Promise::Strict, &events), [Kind::Lost]);
        assert_eq!(found(INTERVAL, &events), []);
        let later = [(1, OTHER, sent(SECOND)), (1, OTHER, sent(SECOND)), KILLED];
        assert_eq!(found(INTERVAL, &[&events[..4], &later].concat()), [Kind::Lost]);
        assert_eq!(found(Promise::Strict, &[&events[..], &[(2, CLIENT, delivered(FIRST))]].concat()), []);
        // One that nobody acknowledged may be lost, or come.
        let unacknowledged = subscribed(&[(1, OTHER, sent(FIRST)), KILLED]);
        assert_eq!(found(Promise::Strict, &unacknowledged), []);
    }

    #[test]
    fn qos_2_comes_once_unless_the_first_time_may_have_been_forgotten() {
        let once = subscribed(&[(1, OTHER, sent(FIRST)), (1, CLIENT, delivered(FIRST))]);
        let again = (2, CLIENT, delivered(FIRST));
        assert_eq!(found(Promise::Strict, &[&once[..], &[KILLED, again.clone()]].concat()), [Kind::Twice]);
        assert_eq!(found(INTERVAL, &[&once[..], &[KILLED, again.clone()]].concat()), []);
        // The same run forgets nothing.
        assert_eq!(found(INTERVAL, &[&once[..], &[(1, CLIENT, delivered(FIRST))]].concat()), [Kind::Twice]);
        let wait = (1, OTHER, sent(SECOND));
        let waited = [&once[..], &[wait.clone(), wait.clone()]].concat();
        assert_eq!(found(INTERVAL, &[&waited[..], &[KILLED, again.clone()]].concat()), [Kind::Twice]);
        let settled = (1, CLIENT, What::Settled { message: FIRST });
        assert_eq!(found(INTERVAL, &[&waited[..], &[settled, KILLED, again]].concat()), []);
    }

    #[test]
    fn subscriptions_count_from_their_acknowledgements_on() {
        let message =
            [(1, OTHER, sent(FIRST)), (1, OTHER, acknowledged(FIRST)), (1, OTHER, completed(FIRST))];
        let ended = [(1, CLIENT, asked(false)), (1, CLIENT, granted(false))];
        let gone = subscribed(&[&ended[..], &message].concat());
        assert_eq!(found(Promise::Strict, &gone), []);
        let came = [&gone[..], &[(1, CLIENT, delivered(FIRST))]].concat();
        assert_eq!(found(Promise::Strict, &came), [Kind::Unsubscribed]);
        // A server may pass it on no sooner than it is released.
        let again = [(1, CLIENT, asked(true)), (1, CLIENT, granted(true))];
        let late = subscribed(&[&ended[..], &message[..2], &again, &message[2..]].concat());
        assert_eq!(found(Promise::Strict, &[&late[..], &[(1, CLIENT, delivered(FIRST))]].concat()), []);
        // Between request and acknowledgement either is right.
        let between = subscribed(&[&ended[..1], &message, &ended[1..]].concat());
        assert_eq!(found(Promise::Strict, &between), []);
        let came = [&between[..], &[(1, CLIENT, delivered(FIRST))]].concat();
        assert_eq!(found(Promise::Strict, &came), []);
    }

    #[test]
    fn sessions_are_there_again_and_first_deliveries_in_order() {
        let connected = |run, is_present| (run, CLIENT, What::Connected { is_present });
        let ended = (1, CLIENT, What::Ended { is_own: false, reason: None });
        let lost = [connected(1, false), KILLED, ended.clone(), connected(2, false)];
        assert_eq!(found(Promise::Strict, &lost), [Kind::SessionLost]);
        assert_eq!(found(INTERVAL, &lost), []);
        assert_eq!(found(Promise::Empty, &lost), []);
        let killed_again = (2, SERVER, What::Killed);
        let lost_later = [&lost[..3], &[connected(2, true), killed_again, connected(3, false)]].concat();
        assert_eq!(found(INTERVAL, &lost_later), [Kind::SessionLost]);
        let kept = [connected(1, false), KILLED, ended.clone(), connected(2, true)];
        assert_eq!(found(Promise::Strict, &kept), []);
        assert_eq!(found(Promise::Empty, &kept), [Kind::SessionKept]);
        let asked_to_end = [connected(1, false), (1, SERVER, What::Terminated), ended];
        assert_eq!(found(Promise::Strict, &asked_to_end), [Kind::NoDisconnect]);
        let messages = [(1, OTHER, sent(FIRST)), (1, OTHER, sent(SECOND))];
        let turned =
            [&messages[..], &[(1, CLIENT, delivered(SECOND)), (1, CLIENT, delivered(FIRST))]].concat();
        assert_eq!(found(Promise::Strict, &subscribed(&turned)), [Kind::OutOfOrder]);
    }

    #[test]
    fn those_who_share_a_subscription_are_one_receiver() {
        const SHARED: &str = "$share/g/t/#";
        let member = |client| {
            let asked = What::Asked { filter: SHARED, qos: 2, on: true };
            [(1, client, asked), (1, client, What::Granted { filter: SHARED, on: true })]
        };
        let message = [(1, SERVER, sent(FIRST)), (1, SERVER, acknowledged(FIRST))];
        let events = [&member(CLIENT)[..], &member(OTHER), &message].concat();
        assert_eq!(found(Promise::Strict, &events), [Kind::Lost]);
        let once = [&events[..], &[(1, OTHER, delivered(FIRST))]].concat();
        assert_eq!(found(Promise::Strict, &once), []);
        let twice = [&once[..], &[(2, CLIENT, delivered(FIRST))]].concat();
        assert_eq!(found(Promise::Strict, &twice), [Kind::Twice]);
    }

    #[test]
    fn retained_is_what_was_acknowledged_last_or_sent_since() {
        let retained = |number| (2, CLIENT, What::Retained { topic: "t/a", number, asked: 4500 });
        let events = [
            (1, OTHER, sent(FIRST)),
            (1, OTHER, acknowledged(FIRST)),
            (1, OTHER, completed(FIRST)),
            (1, OTHER, sent(SECOND)),
        ];
        for (number, right) in [(Some(1), true), (Some(2), true), (None, false), (Some(3), false)] {
            let found = found(Promise::Strict, &[&events[..], &[retained(number)]].concat());
            assert_eq!(found.is_empty(), right, "{number:?}: {found:?}");
        }
        let done = [(1, OTHER, acknowledged(SECOND)), (1, OTHER, completed(SECOND))];
        let newer = [&events[..1], &events[3..], &done, &[retained(Some(1))]].concat();
        assert_eq!(found(Promise::Strict, &newer), [Kind::Retained]);
        let lost = [&events[..3], &[KILLED, retained(None)]].concat();
        assert_eq!(found(Promise::Strict, &lost), [Kind::Retained]);
        assert_eq!(found(INTERVAL, &lost), []);
        // What was promised just before a kill is not promised anew by the PUBCOMP that comes after it.
        let again = [&events[..2], &[KILLED, (2, OTHER, completed(FIRST)), retained(None)]].concat();
        assert_eq!(found(Promise::Strict, &again), [Kind::Retained]);
        assert_eq!(found(INTERVAL, &again), []);
    }
}
