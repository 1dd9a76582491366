//! Mocks from a recording: what answers the clients of a device as the device did, without it.
//!
//! [`Inference`] keeps what clients published, within bounds. At the end requests and answers are paired (`pairing`), topics
//! that differ in levels become one pattern (`topic`), and what answers have in common with their requests becomes
//! templates (`answer`, `value`, `payload`), with delays like those recorded (`delay`).

mod answer;
mod delay;
mod document;
mod log;
mod pairing;
mod payload;
#[cfg(test)]
mod tests;
mod topic;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use self::{
    answer::{Answerer, Case, Family},
    log::Log,
    pairing::{Exchange, Pairs, Route},
};
use super::MockSpec;
use crate::recording::{Event, NamePattern};

/// Notes that are kept.
const NOTES_MAX: usize = 100;
/// Mocks that are made; nobody reads more.
const MOCKS_MAX: usize = 500;
/// Bytes of all mocks together, so that an answer of the API holds them, escaped and as comments.
const MOCKS_BYTES_MAX: usize = 1 << 20;
/// Characters of a note.
const NOTE_LEN_MAX: usize = 400;
/// Messages that telemetry has at least, and how much of their mean gap the gaps may vary.
const TELEMETRY_MIN: usize = 5;
const TELEMETRY_JITTER: f64 = 0.25;

#[derive(Clone, Debug, Default)]
pub struct InferenceOptions {
    /// The devices to mock: only they answer. `None`: every client.
    pub responders: Option<NamePattern>,
    /// When the recording began: tells times in payloads from other texts.
    pub started_at: Option<jiff::Timestamp>,
    /// Whether what clients publish at a steady pace becomes mocks, too.
    pub telemetry: bool,
}

/// Learns from the events of a recording how requests are answered.
///
/// Memory is bounded: about 100,000 messages and 32 MiB of their payloads and names, of one topic 1,000 messages.
#[derive(Debug)]
pub struct Inference {
    options: InferenceOptions,
    log: Log,
}

/// Mocks, and what people should know about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inferred {
    pub mocks: Vec<MockSpec>,
    pub notes: Vec<String>,
    /// Requests that had an answer.
    pub pairs: u64,
}

impl Inference {
    pub fn new(options: InferenceOptions) -> Self {
        Self { options, log: Log::default() }
    }

    /// Takes the events in their order.
    pub fn observe(&mut self, event: &Event) {
        self.log.add(event);
    }

    pub fn finish(self) -> Inferred {
        let Self { options, log } = self;
        let pairs = Pairs::find(&log, options.responders.as_ref());
        let started = options.started_at.map_or(0.0, |at| at.as_nanosecond() as f64 / 1e9);
        let mut answerer = Answerer::default();
        let mut notes = Vec::new();
        let mut paired = BTreeSet::new();
        for (route, exchanges) in &pairs.exchanges {
            let unanswered = pairs.unanswered.get(route).map_or(&[][..], Vec::as_slice);
            paired.extend(exchanges.iter().flat_map(|one| one.answers.iter().copied().chain([one.request])));
            paired.extend(unanswered);
            for (family, exchanges) in families(&log, route, exchanges) {
                notes.push(pairs_note(&log, &family, &exchanges, unanswered));
                let cases: Vec<_> =
                    exchanges.iter().map(|exchange| Case::new(&log, exchange, started)).collect();
                answerer.add(&family, &cases.iter().collect::<Vec<_>>());
            }
        }
        for (route, unanswered) in &pairs.unanswered {
            if !pairs.exchanges.contains_key(route) && !unanswered.is_empty() {
                notes.push(format!(
                    "{} had no answer",
                    count(
                        unanswered.len(),
                        "request with a Response Topic",
                        "requests with a Response Topic"
                    )
                ));
            }
        }
        if options.telemetry {
            telemetry(&log, &options, &paired, started, &mut answerer);
        }
        notes.append(&mut answerer.notes);
        notes.extend(log_notes(&log, answerer.mocks.is_empty()));
        let mut mocks = answerer.mocks;
        let mut bytes = 0;
        let fitting = mocks.iter().take(MOCKS_MAX).take_while(|mock| {
            bytes += serde_json::to_string(mock).map_or(0, |text| text.len());
            bytes <= MOCKS_BYTES_MAX
        });
        let fitting = fitting.count();
        if fitting < mocks.len() {
            let left_out = count(mocks.len() - fitting, "mock is", "mocks are");
            notes.insert(0, format!("{left_out} left out: nobody reads so many"));
            mocks.truncate(fitting);
        }
        notes.truncate(NOTES_MAX);
        notes.iter_mut().for_each(shorten);
        let pairs = pairs.exchanges.values().map(Vec::len).sum::<usize>() as u64;
        Inferred { mocks, notes, pairs }
    }
}

impl Inferred {
    /// A `mqtt:` section for the settings file; what stands above it says what it was made from.
    pub fn to_yaml(&self, recording: &str) -> String {
        document::yaml(self, recording)
    }
}

/// The exchanges of a route by pattern of their requests' topics.
fn families(log: &Log, route: &Route, exchanges: &[Exchange]) -> Vec<(Family, Vec<Exchange>)> {
    let topic = |exchange: &Exchange| log.text(log.messages[exchange.request].topic);
    // A mock's topic cannot hold such names.
    let sound = || exchanges.iter().filter(|exchange| !topic(exchange).contains("{{"));
    let patterns = self::topic::generalised(sound().map(topic));
    let mut families: Vec<(Family, Vec<Exchange>)> =
        patterns.into_iter().map(|pattern| (Family::new(route.clone(), pattern), Vec::new())).collect();
    let mut known: BTreeMap<log::Name, usize> = BTreeMap::new();
    for exchange in sound() {
        let name = log.messages[exchange.request].topic;
        let found = known.get(&name).copied();
        let found = found.or_else(|| {
            families.iter().position(|(family, _)| self::topic::matches(&family.pattern, topic(exchange)))
        });
        if let Some(index) = found {
            known.insert(name, index);
            families[index].1.push(exchange.clone());
        }
    }
    families.retain(|(_, exchanges)| !exchanges.is_empty());
    families
}

/// `devices/{{device_id}}/cmd: 12 requests answered by d1, d2 (on devices/d1/reply, …)`
fn pairs_note(log: &Log, family: &Family, exchanges: &[Exchange], unanswered: &[usize]) -> String {
    const NAMES_MAX: usize = 3;
    let names = |names: BTreeSet<&str>| {
        let mut text = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
        if names.len() > NAMES_MAX {
            let _ = write!(text, " and {} more", names.len() - NAMES_MAX);
        }
        text
    };
    let answers =
        || exchanges.iter().flat_map(|exchange| &exchange.answers).map(|index| &log.messages[*index]);
    let clients = names(answers().map(|message| log.text(message.client)).collect());
    let topics = names(answers().map(|message| log.text(message.topic)).collect());
    let how = match &family.route {
        Route::ResponseTopic => "by Response Topic".to_owned(),
        Route::ReplyTo(path) => format!("by {path}"),
        Route::Topic => "by topic".to_owned(),
    };
    let requests = count(exchanges.len(), "request", "requests");
    let mut note = format!("{}: {requests} answered {how} on {topics} by {clients}", family.topic());
    let without = unanswered
        .iter()
        .filter(|index| topic::matches(&family.pattern, log.text(log.messages[**index].topic)))
        .count();
    if without > 0 {
        let _ = write!(note, "; {without} more had no answer");
    }
    note
}

/// What keeps a recording from saying more.
fn log_notes(log: &Log, found_none: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let clients: BTreeSet<_> = log.messages.iter().map(|message| message.client).collect();
    if found_none {
        notes.push(match (log.messages.len(), clients.len()) {
            (0, _) if log.deliveries > 0 => {
                "no client published anything: a recording of deliveries alone does not say who answers whom".to_owned()
            }
            (0, _) => "no client published anything".to_owned(),
            (_, 1) => "only one client published: an answer comes from another one".to_owned(),
            (messages, clients) => format!(
                "{messages} messages of {clients} clients were looked at: none has a Response Topic that was answered, \
                 names the topic of its answer, or is regularly followed by another client's message on a related topic"
            ),
        });
    }
    let left_out = log.left_out;
    for (number, why) in [
        (left_out.plenty, "because their topics had 1,000 already"),
        (left_out.too_long, "because their payloads are longer than 64 KiB"),
        (left_out.no_room, "because the recording is too long: they are its last ones"),
        (left_out.unreadable, "because they cannot be read"),
    ] {
        if number > 0 {
            notes.push(format!("{} left out {why}", count(number as usize, "packet is", "packets are")));
        }
    }
    notes
}

/// Adds a mock for each topic that one client published on at a steady pace.
fn telemetry(
    log: &Log,
    options: &InferenceOptions,
    paired: &BTreeSet<usize>,
    started: f64,
    answerer: &mut Answerer,
) {
    let mut by_topic: BTreeMap<log::Name, Vec<usize>> = BTreeMap::new();
    for index in (0..log.messages.len()).filter(|index| !paired.contains(index)) {
        by_topic.entry(log.messages[index].topic).or_default().push(index);
    }
    for (topic, indexes) in by_topic {
        let message = |index: &usize| &log.messages[*index];
        let client = log.messages[indexes[0]].client;
        let is_mocked = options.responders.as_ref().is_none_or(|pattern| pattern.matches(log.text(client)));
        if indexes.len() < TELEMETRY_MIN
            || !is_mocked
            || indexes.iter().any(|index| message(index).client != client)
        {
            continue;
        }
        let mut gaps: Vec<f64> = indexes
            .windows(2)
            .map(|pair| (message(&pair[1]).at - message(&pair[0]).at).as_secs_f64() * 1000.0)
            .collect();
        gaps.sort_by(f64::total_cmp);
        let (mean, sd) = delay::moments(gaps.iter().copied());
        let interval_ms = delay::quantile(&gaps, 0.5).round() as u64;
        if interval_ms == 0 || sd > TELEMETRY_JITTER * mean || log.text(topic).contains("{{") {
            continue;
        }
        let cases: Vec<_> = indexes.iter().map(|index| Case::unasked(log, *index, started)).collect();
        let client = log.text(client);
        answerer.notes.push(format!("{}: {client} publishes about every {interval_ms} ms", log.text(topic)));
        answerer.add_interval(log.text(topic), interval_ms, &cases.iter().collect::<Vec<_>>());
    }
}

fn shorten(note: &mut String) {
    if let Some((end, _)) = note.char_indices().nth(NOTE_LEN_MAX) {
        note.truncate(end);
        note.push('…');
    }
}

fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}
