//! Which message answers which.
//!
//! Three kinds of evidence, the surest first: an MQTT 5 Response Topic, a topic for the answer in the payload, and a
//! topic on which messages follow those on another one. A message that answers is not looked at again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::{
    delay,
    log::{Log, Message, Name},
    payload::{Form, Value},
};
use crate::recording::NamePattern;

/// An answer that comes later is taken for a message of its own. Longer than what clients usually wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Where only topics and times speak: a device that needs longer cannot be told from one that just talks.
const SUCCESSION_WITHIN: Duration = Duration::from_secs(10);
/// Requests that wait for their answers at a time, for each place that answers go to.
const PENDING_MAX: usize = 1000;
/// Messages before an answer among which its request is looked for.
const LOOK_BACK: usize = 64;
/// Pairs of topics that are looked into.
const CANDIDATES_MAX: usize = 10_000;
/// Requests on a topic by which it is judged whether another one answers it.
const JUDGED_MAX: usize = 200;
/// Part of the requests that have to be answered; the rest may have been lost.
const ANSWERED_MIN: f64 = 0.9;
/// Part of the messages on the topic of answers that have to be answers: who talks unasked does not answer.
const SOLICITED_MIN: f64 = 0.9;
/// Twice may be chance.
const REQUESTS_MIN: usize = 3;
/// Of the time between two requests: answers come sooner, else the next request follows the answer as much.
const LATENCY_MAX: f64 = 0.5;
/// Requests whose gaps vary by this part of their mean come at no fixed pace; what follows them at once follows them.
const IRREGULAR: f64 = 0.2;
/// Levels of topics that answers go to.
const ANSWER_WORDS: [&str; 17] = [
    "reply",
    "replies",
    "response",
    "responses",
    "res",
    "resp",
    "rsp",
    "result",
    "results",
    "ack",
    "acks",
    "answer",
    "answers",
    "accepted",
    "rejected",
    "confirm",
    "done",
];

/// A request and what answered it, in the order it came; numbers of messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    pub request: usize,
    pub answers: Vec<usize>,
}

/// How answers find their way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// To the Response Topic of the request.
    ResponseTopic,
    /// To the topic that the request's payload has at this JSONPath.
    ReplyTo(String),
    /// To a topic that depends on the request's.
    Topic,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Pairs {
    /// In the order of their requests.
    pub exchanges: BTreeMap<Route, Vec<Exchange>>,
    /// Requests that were known as such and had no answer.
    pub unanswered: BTreeMap<Route, Vec<usize>>,
}

impl Pairs {
    /// Only clients that `responders` matches answer.
    pub fn find(log: &Log, responders: Option<&NamePattern>) -> Self {
        let may_answer =
            |message: &Message| responders.is_none_or(|pattern| pattern.matches(log.text(message.client)));
        let is_answerer: Vec<bool> = log.messages.iter().map(may_answer).collect();
        let mut finder =
            Finder { log, is_answerer, used: vec![false; log.messages.len()], pairs: Self::default() };
        finder.by_response_topic();
        finder.by_reply_to();
        finder.by_succession();
        finder.pairs
    }
}

struct Finder<'a> {
    log: &'a Log,
    is_answerer: Vec<bool>,
    /// Messages whose part is known.
    used: Vec<bool>,
    pairs: Pairs,
}

/// A request that may yet be answered.
struct Pending {
    request: usize,
    answers: Vec<usize>,
}

impl Finder<'_> {
    fn message(&self, index: usize) -> &Message {
        &self.log.messages[index]
    }

    /// Whether `answer` may answer `request` as far as senders and times go.
    fn may_answer(&self, request: usize, answer: usize, within: Duration) -> bool {
        let (request, message) = (self.message(request), self.message(answer));
        self.is_answerer[answer]
            && request.client != message.client
            && message.at.saturating_sub(request.at) <= within
    }

    /// Whether the recording, or what was kept of the topic, ended too early for an answer.
    fn ended_early(&self, request: usize, topic: Option<Name>) -> bool {
        let end = topic.and_then(|topic| self.log.full_at.get(&topic)).copied().unwrap_or(self.log.end());
        let request = self.message(request);
        self.log.full_at.get(&request.topic).is_some_and(|full| *full <= request.at)
            || end.saturating_sub(request.at) < SUCCESSION_WITHIN
    }

    fn by_response_topic(&mut self) {
        type Place = (Name, Option<Bytes>);
        let mut pending: HashMap<Place, VecDeque<Pending>> = HashMap::new();
        let mut over = Vec::new();
        for index in 0..self.log.messages.len() {
            let message = self.message(index);
            let place: Place = (message.topic, message.correlation_data.clone());
            if let Some(waiting) = pending.get_mut(&place)
                && let Some(request) =
                    answered(waiting, |pending| self.may_answer(pending.request, index, ANSWER_WITHIN))
            {
                request.answers.push(index);
                self.used[index] = true;
                continue;
            }
            if let Some(topic) = message.response_topic {
                let place = (topic, message.correlation_data.clone());
                self.used[index] = true;
                let waiting = pending.entry(place).or_default();
                if waiting.len() == PENDING_MAX {
                    over.extend(waiting.pop_front());
                }
                waiting.push_back(Pending { request: index, answers: Vec::new() });
            }
        }
        over.extend(pending.into_values().flatten());
        self.keep(&Route::ResponseTopic, over);
    }

    fn by_reply_to(&mut self) {
        // Requests by the path that names a topic of this recording.
        let mut by_path: BTreeMap<String, Vec<Pending>> = BTreeMap::new();
        let mut waiting: HashMap<Name, VecDeque<(String, Pending)>> = HashMap::new();
        for index in 0..self.log.messages.len() {
            if self.used[index] {
                continue;
            }
            let message = self.message(index);
            if let Some(queue) = waiting.get_mut(&message.topic) {
                let identifiers = identifiers(&message.payload);
                let log = self.log;
                let mut open = queue
                    .iter_mut()
                    .filter(|(_, pending)| self.may_answer(pending.request, index, ANSWER_WITHIN));
                let named = open.by_ref().find(|(_, pending)| {
                    !identifiers.is_empty()
                        && shares_identifier(
                            &self::identifiers(&log.messages[pending.request].payload),
                            &identifiers,
                        )
                });
                let request = match named {
                    Some((_, pending)) => Some(pending),
                    None => {
                        let open = queue.iter_mut().map(|(_, pending)| pending);
                        answered_of(open, |pending| self.may_answer(pending.request, index, ANSWER_WITHIN))
                    }
                };
                if let Some(request) = request {
                    request.answers.push(index);
                    continue;
                }
            }
            if let Some((path, topic)) = self.reply_to(message) {
                let queue = waiting.entry(topic).or_default();
                if queue.len() == PENDING_MAX
                    && let Some((path, pending)) = queue.pop_front()
                {
                    by_path.entry(path).or_default().push(pending);
                }
                queue.push_back((path, Pending { request: index, answers: Vec::new() }));
            }
        }
        for (path, pending) in waiting.into_values().flatten() {
            by_path.entry(path).or_default().push(pending);
        }
        for (path, mut pending) in by_path {
            pending.sort_by_key(|pending| pending.request);
            let answered = pending.iter().filter(|pending| !pending.answers.is_empty()).count();
            if answered == 0 || (answered as f64) < ANSWERED_MIN * pending.len() as f64 {
                continue;
            }
            for pending in &pending {
                self.used[pending.request] = true;
                for answer in &pending.answers {
                    self.used[*answer] = true;
                }
            }
            self.keep(&Route::ReplyTo(path), pending);
        }
    }

    /// Where in its payload a message names another topic of this recording.
    fn reply_to(&self, message: &Message) -> Option<(String, Name)> {
        // A topic has levels; a word that happens to be a topic says nothing.
        if !message.payload.contains(&b'/') {
            return None;
        }
        let Form::Text(text) = Form::of(&message.payload) else { return None };
        let json = text.is_json().then_some(text.values)?;
        json.into_iter().find_map(|value| {
            let topic = value.text.contains('/').then(|| self.log.find(&value.text)).flatten()?;
            (topic != message.topic).then_some((value.path, topic))
        })
    }

    fn keep(&mut self, route: &Route, mut pending: Vec<Pending>) {
        pending.sort_by_key(|pending| pending.request);
        let are_answered = pending.iter().any(|pending| !pending.answers.is_empty());
        for Pending { request, answers } in pending {
            if !answers.is_empty() {
                self.pairs.exchanges.entry(route.clone()).or_default().push(Exchange { request, answers });
            } else if !are_answered || !self.ended_early(request, None) {
                self.pairs.unanswered.entry(route.clone()).or_default().push(request);
            }
        }
    }

    fn by_succession(&mut self) {
        let mut relations: BTreeMap<Shape, Vec<Candidate>> = BTreeMap::new();
        for candidate in self.candidates() {
            let shape = shape(self.log.text(candidate.request), self.log.text(candidate.answer));
            relations.entry(shape).or_default().push(candidate);
        }
        let by_topic = self.by_topic();
        let mut judged: Vec<_> = relations
            .into_values()
            .filter_map(|candidates| {
                self.judge(&candidates, &by_topic).map(|strength| (strength, candidates))
            })
            .collect();
        judged.sort_by(|(one, _), (other, _)| other.cmp(one));
        // Who answers does not ask on the same topic: of two that contradict each other the stronger holds.
        let (mut asking, mut answering) = (BTreeSet::new(), BTreeSet::new());
        let mut merged: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut unanswered = Vec::new();
        let mut taken = vec![false; self.log.messages.len()];
        for (strength, mut candidates) in judged {
            candidates.retain(|one| !answering.contains(&one.request) && !asking.contains(&one.answer));
            candidates.retain(|one| {
                let free = by_topic[&one.answer].iter().filter(|index| !taken[**index]).count();
                free > 0
            });
            if candidates.is_empty() || self.judge(&candidates, &by_topic).is_none() {
                continue;
            }
            for candidate in &candidates {
                asking.insert(candidate.request);
                answering.insert(candidate.answer);
                let (requests, answers) = (&by_topic[&candidate.request], &by_topic[&candidate.answer]);
                for exchange in self.match_up(requests, answers, strength.identified > 0) {
                    let answers =
                        exchange.answers.into_iter().filter(|answer| !taken[*answer]).collect::<Vec<_>>();
                    if answers.is_empty() {
                        unanswered.push(exchange.request);
                        continue;
                    }
                    answers.iter().for_each(|answer| taken[*answer] = true);
                    merged.entry(exchange.request).or_default().extend(answers);
                }
            }
        }
        unanswered.retain(|request| !merged.contains_key(request) && !self.ended_early(*request, None));
        unanswered.sort_unstable();
        unanswered.dedup();
        if !merged.is_empty() {
            let exchanges = merged.into_iter().map(|(request, mut answers)| {
                answers.sort_unstable();
                Exchange { request, answers }
            });
            self.pairs.exchanges.insert(Route::Topic, exchanges.collect());
            self.pairs.unanswered.insert(Route::Topic, unanswered);
        }
    }

    fn by_topic(&self) -> BTreeMap<Name, Vec<usize>> {
        let mut by_topic: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
        for (index, message) in self.log.messages.iter().enumerate().filter(|(index, _)| !self.used[*index]) {
            by_topic.entry(message.topic).or_default().push(index);
        }
        by_topic
    }

    /// Pairs of topics of which one was seen behind the other and that have something in common.
    fn candidates(&self) -> Vec<Candidate> {
        let mut found: BTreeMap<(Name, Name), bool> = BTreeMap::new();
        let mut before: VecDeque<(usize, Vec<Value>)> = VecDeque::new();
        for index in (0..self.log.messages.len()).filter(|index| !self.used[*index]) {
            let message = self.message(index);
            let own = identifiers(&message.payload);
            while before.front().is_some_and(|(first, _)| {
                before.len() == LOOK_BACK || message.at - self.message(*first).at > SUCCESSION_WITHIN
            }) {
                before.pop_front();
            }
            if self.is_answerer[index] {
                let mut seen = BTreeSet::new();
                for (earlier, theirs) in before.iter().rev() {
                    let request = self.message(*earlier);
                    if request.client == message.client || request.topic == message.topic {
                        continue;
                    }
                    let is_shared = shares_identifier(theirs, &own);
                    if !is_shared && !seen.insert(request.topic) {
                        continue;
                    }
                    let key = (request.topic, message.topic);
                    if let Some(known) = found.get_mut(&key) {
                        *known |= is_shared;
                    } else if found.len() < CANDIDATES_MAX
                        && (is_shared || has_common_level(self.log.text(key.0), self.log.text(key.1)))
                    {
                        found.insert(key, is_shared);
                    }
                }
            }
            before.push_back((index, own));
        }
        let candidate = |((request, answer), has_identifier)| Candidate { request, answer, has_identifier };
        found.into_iter().map(candidate).collect()
    }

    /// The requests on one topic, answered by messages on the other or not.
    fn match_up(&self, requests: &[usize], answers: &[usize], by_identifier: bool) -> Vec<Exchange> {
        let mut exchanges: Vec<Exchange> = Vec::new();
        let mut open: VecDeque<(usize, Vec<Value>)> = VecDeque::new();
        let (mut next, mut answers) = (requests.iter().peekable(), answers.iter().peekable());
        loop {
            match (next.peek(), answers.peek()) {
                (Some(&&request), answer) if answer.is_none_or(|answer| request < **answer) => {
                    next.next();
                    let at = self.message(request).at;
                    while open.front().is_some_and(|(first, _)| {
                        let first = self.message(exchanges[*first].request).at;
                        open.len() == LOOK_BACK || at - first > SUCCESSION_WITHIN
                    }) {
                        open.pop_front();
                    }
                    let own =
                        if by_identifier { identifiers(&self.message(request).payload) } else { Vec::new() };
                    open.push_back((exchanges.len(), own));
                    exchanges.push(Exchange { request, answers: Vec::new() });
                }
                (_, Some(&&answer)) => {
                    answers.next();
                    let theirs =
                        if by_identifier { identifiers(&self.message(answer).payload) } else { Vec::new() };
                    let mut fitting = open.iter().filter(|(at, own)| {
                        self.may_answer(exchanges[*at].request, answer, SUCCESSION_WITHIN)
                            && (!by_identifier || shares_identifier(own, &theirs))
                    });
                    let first = fitting.clone().find(|(at, _)| exchanges[*at].answers.is_empty());
                    let at = first.or_else(|| fitting.next_back()).map(|(at, _)| *at);
                    if let Some(at) = at {
                        exchanges[at].answers.push(answer);
                    }
                }
                _ => return exchanges,
            }
        }
    }

    /// How much speaks for it that messages on these topics answer others; `None`: not enough.
    fn judge(&self, candidates: &[Candidate], by_topic: &BTreeMap<Name, Vec<usize>>) -> Option<Strength> {
        let by_identifier = candidates.iter().filter(|one| one.has_identifier).count() * 2 > candidates.len();
        if by_identifier && let Some(strength) = self.judge_as(candidates, true, by_topic) {
            return Some(strength);
        }
        self.judge_as(candidates, false, by_topic)
    }

    fn judge_as(
        &self,
        candidates: &[Candidate],
        by_identifier: bool,
        by_topic: &BTreeMap<Name, Vec<usize>>,
    ) -> Option<Strength> {
        let (request, answer) = (self.log.text(candidates[0].request), self.log.text(candidates[0].answer));
        let has_word = answers_by_name(request, answer);
        if !has_word && self.are_peers(&candidates[0], by_topic) {
            return None;
        }
        let (mut requests, mut answered, mut answers, mut solicited) = (0, 0, 0, 0);
        let mut latencies = Vec::new();
        let mut gaps = Vec::new();
        let mut topics = BTreeSet::new();
        for candidate in candidates {
            let (asking, answering) = (&by_topic[&candidate.request], &by_topic[&candidate.answer]);
            let end = asking.get(JUDGED_MAX).copied().unwrap_or(usize::MAX);
            let asking = &asking[..asking.len().min(JUDGED_MAX)];
            let answering = &answering[..answering.partition_point(|index| *index < end)];
            let exchanges = self.match_up(asking, answering, by_identifier);
            for exchange in &exchanges {
                if exchange.answers.is_empty() && self.ended_early(exchange.request, Some(candidate.answer)) {
                    continue;
                }
                requests += 1;
                answered += usize::from(!exchange.answers.is_empty());
                solicited += exchange.answers.len();
                if let Some(first) = exchange.answers.first() {
                    topics.insert(candidate.request);
                    latencies
                        .push((self.message(*first).at - self.message(exchange.request).at).as_secs_f64());
                }
            }
            let gap = |pair: &[Exchange]| {
                (self.message(pair[1].request).at - self.message(pair[0].request).at).as_secs_f64()
            };
            gaps.extend(exchanges.windows(2).map(gap));
            answers += answering.iter().filter(|index| self.is_answerer[**index]).count();
        }
        if answered == 0 || (answered as f64) < ANSWERED_MIN * requests as f64 {
            return None;
        }
        if by_identifier {
            // One exchange alone has to say it twice.
            let is_enough = answered >= 2 || has_word;
            return is_enough.then_some(Strength { identified: 1, has_word, topics: topics.len(), answered });
        }
        latencies.sort_by(f64::total_cmp);
        gaps.sort_by(f64::total_cmp);
        let is_prompt =
            gaps.is_empty() || delay::quantile(&latencies, 0.5) <= LATENCY_MAX * delay::quantile(&gaps, 0.5);
        let (mean, sd) = delay::moments(gaps.iter().copied());
        let (_, jitter) = delay::moments(latencies.iter().copied());
        let is_locked = gaps.len() >= REQUESTS_MIN && sd > IRREGULAR * mean && jitter < 0.5 * sd;
        let shares_levels = topics.len() >= 2;
        let is_enough = answered >= REQUESTS_MIN
            && (solicited as f64) >= SOLICITED_MIN * answers as f64
            && is_prompt
            && (has_word || shares_levels || is_locked);
        is_enough.then_some(Strength { identified: 0, has_word, topics: topics.len(), answered })
    }

    /// Whether two topics are two of a kind: one level differs and the payloads look the same. Sensors that take their
    /// readings together are.
    fn are_peers(&self, candidate: &Candidate, by_topic: &BTreeMap<Name, Vec<usize>>) -> bool {
        let (one, other) = (self.log.text(candidate.request), self.log.text(candidate.answer));
        let differing = one.split('/').zip(other.split('/')).filter(|(one, other)| one != other).count();
        if one.split('/').count() != other.split('/').count() || differing != 1 {
            return false;
        }
        let form = |name: &Name| by_topic[name].first().map(|first| Form::of(&self.message(*first).payload));
        match (form(&candidate.request), form(&candidate.answer)) {
            (Some(Form::Text(one)), Some(Form::Text(other))) => one.around == other.around,
            (one, other) => one == other,
        }
    }
}

/// Two topics, the second of which may have answers to messages on the first.
#[derive(Debug)]
struct Candidate {
    request: Name,
    answer: Name,
    has_identifier: bool,
}

/// More is stronger, the first field first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Strength {
    identified: u8,
    has_word: bool,
    topics: usize,
    answered: usize,
}

/// What two topics have in common: pairs of the same shape are judged together.
type Shape = (Vec<Option<String>>, Vec<Result<usize, String>>);

fn shape(request: &str, answer: &str) -> Shape {
    let from: Vec<&str> = request.split('/').collect();
    let to: Vec<&str> = answer.split('/').collect();
    let place = |(index, level): (usize, &&str)| match from.get(index) == Some(level) {
        true => Ok(index),
        false => from.iter().position(|one| one == level).ok_or_else(|| (*level).to_owned()),
    };
    let to: Vec<_> = to.iter().enumerate().map(place).collect();
    let own = |(index, level): (usize, &&str)| (!to.contains(&Ok(index))).then(|| (*level).to_owned());
    (from.iter().enumerate().map(own).collect(), to)
}

fn has_common_level(one: &str, other: &str) -> bool {
    one.split('/').any(|level| !level.is_empty() && other.split('/').any(|theirs| theirs == level))
}

/// Whether `answer` has a level, or a part of one, that says so and `request` has not.
fn answers_by_name(request: &str, answer: &str) -> bool {
    let words = |topic: &str| -> BTreeSet<String> {
        topic.to_lowercase().split(['/', '-', '_', '.']).map(str::to_owned).collect()
    };
    let (request, answer) = (words(request), words(answer));
    ANSWER_WORDS.iter().any(|word| answer.contains(*word) && !request.contains(*word))
}

/// The values of a payload that may identify it.
fn identifiers(payload: &[u8]) -> Vec<Value> {
    if !matches!(payload.first(), Some(b'{' | b'[' | b' ' | b'\n' | b'\t' | b'\r')) {
        return Vec::new();
    }
    let Form::Text(text) = Form::of(payload) else { return Vec::new() };
    if !text.is_json() {
        return Vec::new();
    }
    text.values.into_iter().filter(Value::is_identifier).collect()
}

fn shares_identifier(one: &[Value], other: &[Value]) -> bool {
    one.iter().any(|value| !value.text.is_empty() && other.iter().any(|theirs| theirs.text == value.text))
}

/// Which of the waiting requests the next answer is for: the first without one, else the last.
fn answered(waiting: &mut VecDeque<Pending>, may: impl Fn(&Pending) -> bool) -> Option<&mut Pending> {
    answered_of(waiting.iter_mut(), may)
}

fn answered_of<'a>(
    waiting: impl Iterator<Item = &'a mut Pending>,
    may: impl Fn(&Pending) -> bool,
) -> Option<&'a mut Pending> {
    let mut last = None;
    for pending in waiting.filter(|pending| may(pending)) {
        if pending.answers.is_empty() {
            return Some(pending);
        }
        last = Some(pending);
    }
    last
}
