//! Mocks that answer as was recorded.
//!
//! All exchanges of a family (one route, one pattern of topics) are explained at once. What stays unexplained is tried
//! again in groups: by a level of the topic, or by a value of the request. What no group explains comes in the recorded
//! order, if there is one, or at random.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::Value as Json;

use super::{
    delay,
    log::{Log, Message},
    pairing::{Exchange, Route},
    payload::{Form, Kind, Text, Value},
    topic::{self, Pattern},
    value::{Explained, Recorded, Source, can_escape, escaped},
};
use crate::mock::{MockSpec, Mode, PropertiesSpec, ResponseSpec, Then, Trigger, USUAL_PRIORITY, WhenSpec};

/// Exchanges that a mock is inferred from, the first ones.
const EXCHANGES_MAX: usize = 500;
/// Answers to one request.
const ANSWERS_MAX: usize = 16;
/// Values of a request's field that get a mock each; with more it is no kind of request but a datum.
const VALUES_MAX: usize = 8;
/// Levels of a topic that get a mock each.
const LEVELS_MAX: usize = 32;
/// Fields of requests by which groups are tried.
const CRITERIA_MAX: usize = 16;
/// How often groups are divided again.
const DEPTH_MAX: usize = 3;
/// Entries of a sequence, and of a choice between answers of different forms.
const ENTRIES_MAX: usize = 16;
/// Stages, if each came but once.
const STAGES_MAX: usize = 4;
/// Part of the requests that have the usual number of answers; the others have lost some.
const USUAL_MIN: f64 = 0.9;

/// One request with its answers, taken apart.
pub struct Case {
    levels: Vec<String>,
    client: String,
    request: Form,
    user: BTreeMap<String, String>,
    answers: Vec<Answer>,
}

struct Answer {
    /// Seconds since 1970.
    sent: f64,
    /// Milliseconds since the answer before it, or the request.
    delay_ms: f64,
    levels: Vec<String>,
    payload: Bytes,
    form: Form,
    qos: u8,
    retain: bool,
    properties: PropertiesSpec,
}

impl Case {
    pub fn new(log: &Log, exchange: &Exchange, started: f64) -> Self {
        let request = &log.messages[exchange.request];
        let levels = |message: &Message| log.text(message.topic).split('/').map(str::to_owned).collect();
        let mut before = request.at;
        let answers = exchange.answers.iter().take(ANSWERS_MAX).map(|index| {
            let message = &log.messages[*index];
            let delay_ms = message.at.saturating_sub(before).as_secs_f64() * 1000.0;
            before = message.at;
            Answer {
                sent: started + message.at.as_secs_f64(),
                delay_ms,
                levels: levels(message),
                payload: message.payload.clone(),
                form: Form::of(&message.payload),
                qos: message.qos,
                retain: message.retain,
                properties: message.properties.clone(),
            }
        });
        Self {
            answers: answers.collect(),
            levels: levels(request),
            client: log.text(request.client).to_owned(),
            request: Form::of(&request.payload),
            user: request.properties.user.clone(),
        }
    }

    /// A message that nobody asked for.
    pub fn unasked(log: &Log, index: usize, started: f64) -> Self {
        let case = Self::new(log, &Exchange { request: index, answers: vec![index] }, started);
        Self {
            request: Form::Binary,
            user: BTreeMap::new(),
            client: String::new(),
            levels: Vec::new(),
            ..case
        }
    }

    /// What a template can print, given the names that `pattern` has for levels.
    fn sources(&self, pattern: &Pattern) -> Vec<Source> {
        let source = |expression: String, name: &str, text: &str, kind| Source {
            expression,
            name: name.to_owned(),
            text: text.to_owned(),
            kind,
        };
        let mut sources = Vec::new();
        for (name, level) in topic::names(pattern).into_iter().zip(&self.levels) {
            if let Some(name) = name {
                sources.push(source(name.clone(), &name, level, Kind::Plain));
            }
        }
        for value in self.request.values().iter().filter(|value| value.kind != Kind::Null) {
            if let Some(expression) = &value.expression {
                sources.push(source(expression.clone(), value.name(), &value.text, value.kind));
            }
        }
        if !self.client.is_empty() {
            sources.push(source("client_id".to_owned(), "client_id", &self.client, Kind::Plain));
        }
        let is_name = |name: &str| {
            name.starts_with(|letter: char| letter.is_ascii_alphabetic())
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        for (name, value) in self.user.iter().filter(|(name, _)| is_name(name)) {
            sources.push(source(format!("user.{name}"), name, value, Kind::Plain));
        }
        sources
    }
}

/// What exchanges have in common that become mocks together.
#[derive(Clone)]
pub struct Family {
    pub route: Route,
    pub pattern: Pattern,
    /// What the payload of a request has to be.
    when: serde_json::Map<String, Json>,
    depth: usize,
}

/// Mocks for one family after the other.
#[derive(Default)]
pub struct Answerer {
    pub mocks: Vec<MockSpec>,
    pub notes: Vec<String>,
}

/// The answers of a mock, as far as they were explained.
struct Attempt {
    responses: Vec<ResponseSpec>,
    qos: u8,
    /// Where values vary that nothing explains.
    unexplained: Vec<String>,
    /// Numbers that are drawn.
    drawn: usize,
    /// Whether answers have different forms, so that no template fits all.
    has_forms: bool,
}

/// Cases that become mocks together.
type Groups<'a> = Vec<(Family, Vec<&'a Case>)>;

/// Why a group of requests is one: its key among groups.
enum Criterion {
    Level(usize),
    Value(String),
}

impl Family {
    pub fn new(route: Route, pattern: Pattern) -> Self {
        Self { route, pattern, when: serde_json::Map::new(), depth: 0 }
    }

    pub fn topic(&self) -> String {
        topic::show(&self.pattern)
    }

    /// A name for things of this family, with what it is about.
    fn key(&self, path: &str) -> String {
        let fixed = self.pattern.iter().flatten().map(String::as_str);
        let when = self.when.values().filter_map(Json::as_str);
        let key = fixed.chain(when).chain([path.trim_start_matches("$.")]).collect::<Vec<_>>().join(".");
        key.replace(['"', '\\', '{', '}'], "")
    }

    fn mock(&self, attempt: Attempt) -> MockSpec {
        let mut responses = attempt.responses;
        let response = (responses.len() == 1).then(|| responses.pop()).flatten();
        let when = WhenSpec { payload: Json::Object(self.when.clone()), ..WhenSpec::default() };
        MockSpec {
            topic: self.topic(),
            qos: attempt.qos,
            when: (!self.when.is_empty()).then_some(when),
            priority: USUAL_PRIORITY - i32::try_from(self.when.len()).unwrap_or_default(),
            reply_to: match &self.route {
                Route::ReplyTo(path) => Some(path.clone()),
                Route::ResponseTopic | Route::Topic => None,
            },
            response,
            responses,
            ..MockSpec::default()
        }
    }
}

impl Answerer {
    /// Adds the mocks that answer as in `cases`.
    pub fn add(&mut self, family: &Family, cases: &[&Case]) {
        let cases = &cases[..cases.len().min(EXCHANGES_MAX)];
        let attempt = Attempt::new(family, cases);
        if attempt.unexplained.is_empty() && attempt.drawn == 0 {
            return self.mocks.push(family.mock(attempt));
        }
        if family.depth < DEPTH_MAX
            && let Some(groups) = divided(family, cases, &attempt)
        {
            for (family, cases) in groups {
                self.add(&family, &cases);
            }
            return;
        }
        if attempt.unexplained.is_empty() {
            return self.mocks.push(family.mock(attempt));
        }
        if let Some(mock) = in_order(family, cases, &attempt.unexplained) {
            self.notes.push(format!("{}: answers come in the order they were recorded in", family.topic()));
            return self.mocks.push(mock);
        }
        let places = attempt.unexplained.join(", ");
        self.notes.push(format!(
            "{}: nothing explains {places}; what comes is drawn from what was seen",
            family.topic()
        ));
        let mock = if attempt.has_forms { any_form(family, cases) } else { family.mock(attempt) };
        self.mocks.push(mock);
    }

    /// Adds a mock that sends what `cases` have, every `interval_ms`.
    pub fn add_interval(&mut self, topic: &str, interval_ms: u64, cases: &[&Case]) {
        let pattern = topic.split('/').map(|level| Some(level.to_owned())).collect();
        let family = Family::new(Route::ResponseTopic, pattern);
        let attempt = Attempt::new(&family, &cases[..cases.len().min(EXCHANGES_MAX)]);
        let mut mock = family.mock(attempt);
        if let Some(response) = &mut mock.response {
            response.delay_ms = None;
        }
        self.mocks.push(MockSpec { on: Trigger::Interval, interval_ms: Some(interval_ms), ..mock });
    }
}

impl Attempt {
    fn new(family: &Family, cases: &[&Case]) -> Self {
        let mut attempt =
            Self { responses: Vec::new(), qos: 0, unexplained: Vec::new(), drawn: 0, has_forms: false };
        let usual = most_common(cases.iter().map(|case| case.answers.len())).unwrap_or_default();
        let fitting: Vec<&Case> = cases.iter().copied().filter(|case| case.answers.len() == usual).collect();
        if (fitting.len() as f64) < USUAL_MIN * cases.len() as f64 {
            attempt.unexplained.push("how many answers there are".to_owned());
        }
        let sources: Vec<_> = fitting.iter().map(|case| case.sources(&family.pattern)).collect();
        let mut qos = Vec::new();
        for place in 0..usual {
            let answers: Vec<&Answer> = fitting.iter().map(|case| &case.answers[place]).collect();
            qos.push(most_common(answers.iter().map(|answer| answer.qos)).unwrap_or_default());
            let prefix = if usual > 1 { format!("{place}.") } else { String::new() };
            let response = attempt.response(family, &answers, &sources, &prefix);
            attempt.responses.push(response);
        }
        attempt.qos = most_common(qos.iter().copied()).unwrap_or_default();
        for (response, qos) in attempt.responses.iter_mut().zip(qos) {
            response.qos = (qos != attempt.qos).then_some(qos);
        }
        attempt
    }

    fn response(
        &mut self,
        family: &Family,
        answers: &[&Answer],
        sources: &[Vec<Source>],
        prefix: &str,
    ) -> ResponseSpec {
        let mut response = ResponseSpec {
            retain: most_common(answers.iter().map(|answer| answer.retain)).unwrap_or_default(),
            delay_ms: delay::fit(answers.iter().map(|answer| answer.delay_ms).collect()),
            ..ResponseSpec::default()
        };
        let sent: Vec<f64> = answers.iter().map(|answer| answer.sent).collect();
        let context = Context { sources, sent: &sent };
        if family.route == Route::Topic {
            response.topic = self.topic(answers, &context);
        }
        self.payload(&mut response, family, answers, &context, prefix);
        response.properties = self.properties(answers, &context);
        response
    }

    fn topic(&mut self, answers: &[&Answer], context: &Context) -> Option<String> {
        let depth = answers.first()?.levels.len();
        if answers.iter().any(|answer| answer.levels.len() != depth) {
            self.unexplained.push("where answers go".to_owned());
            return Some(escaped(&answers[0].levels.join("/")));
        }
        let level = |index: usize| {
            let texts = answers.iter().map(|answer| Some(answer.levels[index].as_str()));
            self.text(texts, context, "where answers go").unwrap_or_default()
        };
        Some((0..depth).map(level).collect::<Vec<_>>().join("/"))
    }

    fn payload(
        &mut self,
        response: &mut ResponseSpec,
        family: &Family,
        answers: &[&Answer],
        context: &Context,
        prefix: &str,
    ) {
        let Some(first) = answers.first() else { return };
        let texts: Option<Vec<&Text>> = answers
            .iter()
            .map(|answer| match &answer.form {
                Form::Text(text) => Some(text),
                Form::Binary => None,
            })
            .collect();
        let one_form = texts.filter(|texts| texts.iter().all(|text| text.around == texts[0].around));
        let Some(texts) = one_form else {
            if answers.iter().any(|answer| answer.payload != first.payload) {
                self.has_forms = true;
                self.unexplained.push("the form of payloads".to_owned());
            }
            return as_it_was(response, &first.payload);
        };
        let mut template = String::new();
        let mut is_sound = true;
        for (index, around) in texts[0].around.iter().enumerate() {
            is_sound &= can_escape(around);
            template += &escaped(around);
            let Some(value) = texts[0].values.get(index) else { continue };
            let values: Vec<&Value> = texts.iter().map(|text| &text.values[index]).collect();
            is_sound &= values.iter().all(|value| can_escape(&value.raw));
            let path = format!("{prefix}{}", value.path.trim_start_matches("$."));
            let key = family.key(&path);
            let recorded = Recorded { values, sources: context.sources, sent: context.sent, key };
            let place = if value.path.is_empty() { "payloads" } else { &value.path };
            template += &self.note(recorded.explain(), place);
        }
        if !is_sound {
            if answers.iter().any(|answer| answer.payload != first.payload) {
                self.has_forms = true;
                self.unexplained.push("payloads with braces".to_owned());
            }
            return as_it_was(response, &first.payload);
        }
        response.payload = (!template.is_empty()).then_some(Json::String(template));
    }

    fn properties(&mut self, answers: &[&Answer], context: &Context) -> PropertiesSpec {
        fn constant<T: Clone + PartialEq>(mut values: impl Iterator<Item = Option<T>>) -> Option<T> {
            let first = values.next()??;
            values.all(|value| value.as_ref() == Some(&first)).then_some(first)
        }
        let all = || answers.iter().map(|answer| &answer.properties);
        let mut user = BTreeMap::new();
        for name in answers.first().into_iter().flat_map(|answer| answer.properties.user.keys()) {
            let texts = answers.iter().map(|answer| answer.properties.user.get(name).map(String::as_str));
            // Templates of their own have no name for what is in one answer and not in the next.
            if let Some(template) = self.text(texts, context, &format!("user property {name}")) {
                user.insert(name.clone(), template);
            }
        }
        PropertiesSpec {
            payload_format_indicator: constant(all().map(|properties| properties.payload_format_indicator)),
            message_expiry_interval: constant(all().map(|properties| properties.message_expiry_interval)),
            content_type: constant(all().map(|properties| properties.content_type.as_deref().map(escaped))),
            response_topic: None,
            correlation_data: None,
            user,
        }
    }

    /// A template for texts that are no payload; `None` if one is absent.
    fn text<'a>(
        &mut self,
        texts: impl Iterator<Item = Option<&'a str>>,
        context: &Context,
        place: &str,
    ) -> Option<String> {
        let plain = |text: &str| Value {
            path: String::new(),
            expression: None,
            raw: text.to_owned(),
            text: text.to_owned(),
            kind: Kind::Plain,
        };
        let values: Vec<Value> = texts.map(|text| text.map(plain)).collect::<Option<_>>()?;
        let recorded = Recorded {
            values: values.iter().collect(),
            sources: context.sources,
            sent: context.sent,
            key: place.to_owned(),
        };
        Some(self.note(recorded.explain(), place))
    }

    fn note(&mut self, explained: Explained, place: &str) -> String {
        match &explained {
            Explained::Exact(_) => {}
            Explained::Drawn(_) => self.drawn += 1,
            Explained::Unexplained(_) if self.unexplained.iter().any(|known| known == place) => {}
            Explained::Unexplained(_) => self.unexplained.push(place.to_owned()),
        }
        explained.template()
    }
}

struct Context<'a> {
    sources: &'a [Vec<Source>],
    sent: &'a [f64],
}

/// Sends `payload` byte for byte.
fn as_it_was(response: &mut ResponseSpec, payload: &[u8]) {
    let text = std::str::from_utf8(payload).ok().filter(|text| can_escape(text) && !text.contains('\0'));
    match text {
        Some("") => {}
        Some(text) => response.payload = Some(Json::String(escaped(text))),
        None => response.payload_base64 = Some(BASE64_STANDARD.encode(payload)),
    }
}

/// How badly a family explains its cases: the less the better.
fn cost(family: &Family, cases: &[&Case]) -> (usize, usize) {
    let attempt = Attempt::new(family, cases);
    let unexplained = match attempt.unexplained.len() {
        0 => 0,
        // A fixed order is half an explanation.
        _ if in_order(family, cases, &attempt.unexplained).is_some() => 1,
        more => 1 + more,
    };
    (unexplained, attempt.drawn)
}

/// Groups of `cases` that explain more than all of them together, if there are any.
fn divided<'a>(family: &Family, cases: &[&'a Case], whole: &Attempt) -> Option<Groups<'a>> {
    let whole_cost = if whole.unexplained.is_empty() { (0, whole.drawn) } else { cost(family, cases) };
    let mut best: Option<((usize, usize, usize), Groups<'a>)> = None;
    let criteria = criteria(family, cases);
    let grouped = criteria.iter().filter_map(|criterion| groups(family, cases, criterion));
    for groups in grouped.take(CRITERIA_MAX) {
        let smallest = groups.iter().map(|(_, cases)| cases.len()).min().unwrap_or_default();
        let (mut unexplained, mut drawn) = (0, 0);
        for (family, cases) in &groups {
            let (of_group, drawn_of_group) = cost(family, cases);
            unexplained += of_group * cases.len();
            drawn += drawn_of_group * cases.len();
        }
        let explains_more = unexplained < whole_cost.0 * cases.len();
        // One number explains itself, two may be equal by chance.
        let draws_less = unexplained == whole_cost.0 * cases.len()
            && drawn < whole_cost.1 * cases.len()
            && (smallest >= 3 || smallest == 2 && drawn == 0);
        let rank = (unexplained, drawn, groups.len());
        if (explains_more || draws_less) && best.as_ref().is_none_or(|(least, _)| rank < *least) {
            best = Some((rank, groups));
        }
    }
    best.map(|(_, groups)| groups)
}

fn criteria(family: &Family, cases: &[&Case]) -> Vec<Criterion> {
    let open = family.pattern.iter().enumerate().filter(|(_, level)| level.is_none());
    let mut criteria: Vec<_> = open.map(|(index, _)| Criterion::Level(index)).collect();
    let mut paths = BTreeSet::new();
    // The first requests have the fields that matter.
    for case in cases.iter().take(VALUES_MAX) {
        for value in case.request.values() {
            if !value.is_identifier()
                && !family.when.contains_key(&value.path)
                && paths.insert(value.path.clone())
            {
                criteria.push(Criterion::Value(value.path.clone()));
            }
        }
    }
    criteria
}

fn groups<'a>(family: &Family, cases: &[&'a Case], criterion: &Criterion) -> Option<Groups<'a>> {
    let mut groups: BTreeMap<Option<&str>, Vec<&Case>> = BTreeMap::new();
    let mut kinds = BTreeSet::new();
    for case in cases {
        let key = match criterion {
            Criterion::Level(index) => case.levels.get(*index).map(String::as_str),
            Criterion::Value(path) => {
                let value = case
                    .request
                    .values()
                    .iter()
                    .find(|value| value.path == *path && value.kind != Kind::Null);
                kinds.extend(value.map(|value| value.kind as u8));
                value.map(|value| value.raw.as_str())
            }
        };
        groups.entry(key).or_default().push(case);
    }
    let max = if matches!(criterion, Criterion::Level(_)) { LEVELS_MAX } else { VALUES_MAX };
    if groups.len() < 2 || groups.len() > max {
        return None;
    }
    // What never comes twice explains everything, or nothing. Words are believed while they are few.
    let are_words = !kinds.contains(&(Kind::Number as u8));
    if cases.len() < 2 * groups.len() && !(are_words && cases.len() <= VALUES_MAX) {
        return None;
    }
    let family_of = |key: Option<&str>| {
        let mut family = Family { depth: family.depth + 1, ..family.clone() };
        match (criterion, key) {
            (Criterion::Level(index), Some(level)) => family.pattern[*index] = Some(level.to_owned()),
            (Criterion::Value(path), Some(raw)) if path.is_empty() => {
                family.when.insert("equals".to_owned(), Json::String(raw.to_owned()));
            }
            (Criterion::Value(path), Some(raw)) => {
                family.when.insert(path.clone(), serde_json::from_str(raw).unwrap_or(Json::Null));
            }
            (_, None) => {}
        }
        family
    };
    Some(groups.into_iter().map(|(key, cases)| (family_of(key), cases)).collect())
}

/// A mock that gives the recorded answers in their order, if there is one: a cycle that came at least twice, or stages
/// that each came once.
fn in_order(family: &Family, cases: &[&Case], unexplained: &[String]) -> Option<MockSpec> {
    if cases.len() < 2 || cases.iter().any(|case| case.answers.len() != 1) {
        return None;
    }
    let forms: Vec<String> =
        cases.iter().map(|case| unexplained_part(&case.answers[0], unexplained)).collect();
    let (steps, then) = if let Some(period) = period(&forms) {
        let steps =
            (0..period).map(|step| cases.iter().copied().skip(step).step_by(period).collect()).collect();
        (steps, Then::Repeat)
    } else if let Some(stages) = stages(&forms) {
        (stages.into_iter().map(|range| cases[range].to_vec()).collect(), Then::Last)
    } else if cases.len() <= ENTRIES_MAX && cases.iter().all(|case| !is_json(&case.answers[0].form)) {
        (cases.iter().map(|case| vec![*case]).collect::<Vec<_>>(), Then::Repeat)
    } else {
        return None;
    };
    let all = Attempt::new(family, cases);
    let mut responses = Vec::new();
    for step in &steps {
        let attempt = Attempt::new(family, step);
        let mut response = attempt.responses.into_iter().next()?;
        response.qos = (attempt.qos != all.qos).then_some(attempt.qos);
        responses.push(response);
    }
    let delay = all.responses.first().and_then(|response| response.delay_ms);
    for response in &mut responses {
        // Steps have too few samples each to tell.
        response.delay_ms = delay;
    }
    let mode = Mode::Sequence;
    Some(MockSpec { response: None, responses, mode, then, ..family.mock(all) })
}

fn is_json(form: &Form) -> bool {
    matches!(form, Form::Text(text) if text.is_json())
}

/// What an order is looked for in: the form of the payload, and the values that nothing else explains.
fn unexplained_part(answer: &Answer, places: &[String]) -> String {
    match &answer.form {
        Form::Text(text) => {
            let values =
                text.values.iter().filter(|value| value.path.is_empty() || places.contains(&value.path));
            let values: Vec<&str> = values.map(|value| value.raw.as_str()).collect();
            format!("{}\n{}", text.around.join("\0"), values.join("\0"))
        }
        Form::Binary => BASE64_STANDARD.encode(&answer.payload),
    }
}

/// After how many it begins again, if it does so at least once as a whole.
fn period(forms: &[String]) -> Option<usize> {
    let max = (forms.len() / 2).min(ENTRIES_MAX);
    (2..=max)
        .find(|period| forms.iter().zip(&forms[*period..]).all(|(one, next)| one == next))
        .filter(|_| forms.iter().any(|form| form != &forms[0]))
}

/// Runs of equal ones, if no form comes back once it is over. Where none comes twice, only a few are believed to be stages.
fn stages(forms: &[String]) -> Option<Vec<std::ops::Range<usize>>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    let mut known = BTreeSet::new();
    for (index, form) in forms.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if forms[run.start] == *form => run.end = index + 1,
            _ if !known.insert(form) => return None,
            _ => runs.push(index..index + 1),
        }
    }
    let is_some =
        (2..=ENTRIES_MAX).contains(&runs.len()) && (runs.len() < forms.len() || forms.len() <= STAGES_MAX);
    is_some.then_some(runs)
}

/// A mock that gives answers of each form as often as they were seen.
fn any_form(family: &Family, cases: &[&Case]) -> MockSpec {
    let mut by_form: BTreeMap<String, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        let form = case.answers.iter().map(|answer| match &answer.form {
            Form::Text(text) if text.is_json() => text.around.join("\0"),
            Form::Text(_) | Form::Binary => unexplained_part(answer, &[]),
        });
        by_form.entry(form.collect::<Vec<_>>().join("\n")).or_default().push(case);
    }
    let mut forms: Vec<Vec<&Case>> = by_form.into_values().collect();
    forms.sort_by_key(|cases| std::cmp::Reverse(cases.len()));
    forms.truncate(ENTRIES_MAX);
    let usual = &forms[0];
    if forms.iter().any(|cases| cases.iter().any(|case| case.answers.len() != 1)) {
        return family.mock(Attempt::new(family, usual));
    }
    let mut responses = Vec::new();
    for cases in &forms {
        let attempt = Attempt::new(family, cases);
        responses.extend(attempt.responses.into_iter().next().map(|response| ResponseSpec {
            weight: (cases.len() != 1).then_some(cases.len() as f64),
            qos: Some(attempt.qos),
            ..response
        }));
    }
    let mock = family.mock(Attempt::new(family, usual));
    for response in &mut responses {
        response.qos = response.qos.filter(|qos| *qos != mock.qos);
    }
    MockSpec { response: None, responses, mode: Mode::Weighted, ..mock }
}

/// The first of those that are seen most often.
fn most_common<T: Copy + Ord>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts
        .into_iter()
        .max_by_key(|(value, count)| (*count, std::cmp::Reverse(*value)))
        .map(|(value, _)| value)
}
