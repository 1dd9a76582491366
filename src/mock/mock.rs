//! A mock that was checked: what [`MockSpec`] means.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    MockSpec, Mode, ResponseSpec, Trigger,
    condition::Condition,
    delay::read_delay,
    payload::Payload,
    properties::PropertyTemplates,
    query::Query,
    subject::Subject,
    template::{RenderError, Renderer, Surroundings, Template},
};
use crate::{
    delay::{DELAY_MAX, Delay},
    field::{BadField, Checks},
    likeness::unknown,
    packet::{Properties, Property, QoS, TopicFilter, TopicName},
    session::Origin,
    trace::{TRACEPARENT, TRACESTATE, user_property},
};

/// Reads a file for a payload.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> Result<Bytes, String>;

/// A mock, ready to fire.
#[derive(Debug)]
pub struct Mock {
    pub spec: MockSpec,
    /// What topics, or filters of subscriptions, it is for; `None` for the other triggers.
    pub filter: Option<TopicFilter>,
    captures: Captures,
    pub condition: Condition,
    reply_to: Option<Query>,
    pub responses: Vec<Response>,
    pub set_state: Vec<(String, StateValue)>,
}

/// Names of levels.
#[derive(Clone, Debug, Default)]
pub struct Captures(Vec<(usize, String)>);

/// One answer.
#[derive(Debug)]
pub struct Response {
    payload: Payload,
    topic: Option<Template>,
    qos: QoS,
    retain: bool,
    pub delay: Delay,
    properties: PropertyTemplates,
    expiry: Option<u32>,
    /// At least 1.
    pub count: u64,
    pub interval: Duration,
    pub weight: f64,
    needs: Needs,
}

/// What is written to state.
#[derive(Debug)]
pub enum StateValue {
    Fixed(Value),
    Text(Template, Needs),
    /// Texts in it are templates.
    Json(Payload, Needs),
}

/// Which values templates name.
#[derive(Debug, Default)]
pub struct Needs(BTreeSet<&'static str>);

/// An answer, ready to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub topic: TopicName,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Properties,
    /// Message Expiry Interval, seconds.
    pub expiry: Option<u32>,
    pub origin: Origin,
}

/// Where the values of a rendering come from.
pub struct Reading<'a> {
    pub subject: &'a Subject<'a>,
    /// How often the mock fired.
    pub count: u64,
    pub around: &'a Surroundings,
}

/// The longest payload taken from a file, or written in base64.
pub const PAYLOAD_MAX: usize = 16 << 20;

const ID_MAX: usize = 128;
const RESPONSES_MAX: usize = 10_000;

impl Mock {
    /// As [`new`](Self::new), of a mock that may have no id yet.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn unnamed(spec: MockSpec, read_file: ReadFile<'_>) -> Result<Self, Vec<BadField>> {
        if !spec.id.is_empty() {
            return Self::new(spec, read_file);
        }
        let mut mock = Self::new(MockSpec { id: "unnamed".to_owned(), ..spec }, read_file)?;
        mock.spec.id.clear();
        Ok(mock)
    }

    /// # Errors
    /// Every field that is wrong.
    pub fn new(spec: MockSpec, read_file: ReadFile<'_>) -> Result<Self, Vec<BadField>> {
        let mut checks = Checks::default();
        check_id(&mut checks, &spec.id);
        let (filter, captures) = match spec.on {
            Trigger::Publish | Trigger::Subscribe => read_filter(&mut checks, "topic", &spec.topic),
            Trigger::Connect => {
                if !spec.topic.is_empty() {
                    checks.refuse(
                        "topic",
                        "has no meaning with on: connect; say where answers go in responses[0].topic",
                    );
                }
                (None, Captures::default())
            }
            Trigger::Interval => {
                if spec.topic.contains("{{") {
                    checks.refuse("topic", "is no template with on: interval; responses[0].topic is one");
                } else if !spec.topic.is_empty() {
                    checks.keep("topic", TopicName::parse(&spec.topic));
                }
                (None, Captures::default())
            }
        };
        let condition = match &spec.when {
            None => Condition::default(),
            Some(when) => Condition::new(when).unwrap_or_else(|bad| {
                checks.adopt("when", bad);
                Condition::default()
            }),
        };
        if spec.on != Trigger::Publish && !spec.route {
            checks.refuse("route", "is for on: publish alone");
        }
        match (spec.on, spec.interval_ms) {
            (Trigger::Interval, None) => checks.refuse("interval_ms", "is required with on: interval"),
            (Trigger::Interval, Some(0)) => checks.refuse("interval_ms", "is at least 1"),
            (Trigger::Interval, Some(interval)) if Duration::from_millis(interval) > DELAY_MAX => {
                checks.refuse("interval_ms", format_args!("is at most {}", DELAY_MAX.as_millis()));
            }
            (Trigger::Interval, Some(_)) | (_, None) => {}
            (_, Some(_)) => checks.refuse("interval_ms", "is for on: interval alone"),
        }
        let reply_to = spec.reply_to.as_deref().and_then(|path| checks.keep("reply_to", Query::parse(path)));
        let mock_qos = checks.keep("qos", QoS::try_from(spec.qos)).unwrap_or_default();
        let listed: Vec<(String, &ResponseSpec)> = match (&spec.response, &*spec.responses) {
            (Some(_), [_, ..]) => {
                checks.refuse("responses", "stands beside response; say one or the other");
                Vec::new()
            }
            (Some(one), []) => vec![("response".to_owned(), one)],
            (None, several) => {
                several.iter().enumerate().map(|(index, one)| (format!("responses[{index}]"), one)).collect()
            }
        };
        if listed.len() > RESPONSES_MAX {
            checks.refuse(
                "responses",
                format_args!("has at most {RESPONSES_MAX} entries, not {}", listed.len()),
            );
        }
        if spec.mode != Mode::Sequence && spec.then != super::Then::Repeat {
            checks.refuse("then", "is for mode: sequence alone");
        }
        let mut responses = Vec::with_capacity(listed.len());
        for (path, response) in listed {
            match Response::new(response, mock_qos, &captures, read_file) {
                Ok(response) => responses.push(response),
                Err(bad) => checks.adopt(&path, bad),
            }
            let is_homeless = match spec.on {
                Trigger::Connect => true,
                Trigger::Interval => spec.topic.is_empty(),
                Trigger::Publish | Trigger::Subscribe => false,
            };
            if is_homeless && response.topic.is_none() {
                checks
                    .refuse(format!("{path}.topic"), "is required: nothing else says where the answer goes");
            }
        }
        if spec.mode == Mode::Weighted
            && !responses.is_empty()
            && responses.iter().all(|one| one.weight == 0.0)
        {
            checks.refuse("responses", "have no weight at all");
        }
        let mut set_state = Vec::new();
        for (key, value) in &spec.set_state {
            let path = format!("set_state.{key}");
            if key.is_empty() {
                checks.refuse("set_state", "has a key without a name");
            }
            if let Some(value) = checks.keep(&*path, StateValue::new(value, &captures)) {
                set_state.push((key.clone(), value));
            }
        }
        checks.finish()?;
        Ok(Self { spec, filter, captures, condition, reply_to, responses, set_state })
    }

    /// Of two mocks of the same priority, the one with the higher number goes first: levels that are said, before levels
    /// that are not.
    pub fn specificity(&self) -> u64 {
        let Some(filter) = &self.filter else { return 0 };
        // Of the first 21 levels: 3 for a name, 2 for `+`, 1 for none any more, 0 for `#`.
        let mut levels = filter.levels();
        (0..21).fold(0, |rank, _| {
            rank << 2
                | match levels.next() {
                    Some("#") => 0,
                    Some("+") => 2,
                    Some(_) => 3,
                    None => 1,
                }
        })
    }

    /// Makes the answer that `response` is to what `reading` has.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn answer(
        &self,
        response: &Response,
        reading: &Reading<'_>,
        renderer: &mut Renderer,
    ) -> Result<Answer, String> {
        let occasion = reading.subject.occasion;
        let values = response.needs.values(reading, &self.captures);
        // One stream of draws for the whole answer, in the order of its fields.
        let mut around = reading.around.clone();
        let mut part = 0;
        let mut render = |template: &Template| {
            part += 1;
            around.draws = reading.around.draws.nth(part);
            renderer.render(template, &values, around.clone())
        };
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let payload = response.payload.render(&mut render).map_err(|error| failed("payload", &error))?;
        let (topic, is_reply) = match &response.topic {
            Some(template) => {
                let topic = render(template).map_err(|error| failed("topic", &error))?;
                let is_reply =
                    occasion.properties.response_topic().is_some_and(|asked| asked.as_str() == topic);
                (
                    TopicName::parse(&topic).map_err(|error| failed(&format!("topic {topic:?}"), &error))?,
                    is_reply,
                )
            }
            None => self.destination(reading.subject)?,
        };
        if is_own_topic(topic.as_str()) {
            return Err(format!("topic {:?}: {ONLY_THE_SERVER}", topic.as_str()));
        }
        let mut properties = response.properties.render(&mut render)?;
        if is_reply
            && properties.correlation_data().is_none()
            && let Some(data) = occasion.properties.correlation_data()
        {
            properties.push(Property::CorrelationData(data.clone()));
        }
        // What answers in the place of a service passes traces on as one does.
        for name in [TRACEPARENT, TRACESTATE] {
            if user_property(&properties, name).is_none() {
                let all = occasion.properties.user_properties();
                let given = all.filter(|(found, _)| found.as_str() == name);
                let given: Vec<_> =
                    given.map(|(name, value)| Property::UserProperty(name.clone(), value.clone())).collect();
                properties.0.extend(given);
            }
        }
        Ok(Answer {
            topic,
            payload,
            qos: response.qos,
            retain: response.retain,
            properties,
            expiry: response.expiry,
            origin: Origin::Synthetic { depth: occasion.synthetic.unwrap_or(0).saturating_add(1) },
        })
    }

    /// Where an answer goes that does not say so itself; whether that is where the client asked for it.
    fn destination(&self, subject: &Subject<'_>) -> Result<(TopicName, bool), String> {
        let occasion = subject.occasion;
        if let Some(topic) = occasion.properties.response_topic() {
            let topic = topic.as_str();
            let parsed =
                TopicName::parse(topic).map_err(|error| format!("the response topic {topic:?}: {error}"))?;
            return Ok((parsed, true));
        }
        let named = match self.reply_to.as_ref().zip(subject.json()) {
            Some((path, json)) => path.find(json, occasion.payload.len())?,
            None => Vec::new(),
        };
        match named.first() {
            Some(Value::String(topic)) => {
                let parsed =
                    TopicName::parse(topic).map_err(|error| format!("reply_to {topic:?}: {error}"))?;
                Ok((parsed, true))
            }
            Some(other) => Err(format!("reply_to is {other}, no topic")),
            None => {
                let own = if self.spec.on == Trigger::Interval { &self.spec.topic } else { &occasion.topic };
                let topic = TopicName::parse(own).map_err(|error| {
                    format!("nothing says where the answer goes, and {own:?} cannot be: {error}")
                })?;
                Ok((topic, false))
            }
        }
    }

    /// The value that `set_state` writes.
    pub fn state_value(
        &self,
        value: &StateValue,
        reading: &Reading<'_>,
        renderer: &mut Renderer,
    ) -> Result<Value, RenderError> {
        match value {
            StateValue::Fixed(value) => Ok(value.clone()),
            StateValue::Text(template, needs) => {
                let values = needs.values(reading, &self.captures);
                let text = renderer.render(template, &values, reading.around.clone())?;
                // What a template makes of a number is one again.
                Ok(match serde_json::from_str(&text) {
                    Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => value,
                    _ => Value::String(text),
                })
            }
            StateValue::Json(payload, needs) => {
                let values = needs.values(reading, &self.captures);
                let mut part = 0;
                let rendered = payload.render(|template| {
                    part += 1;
                    let around =
                        Surroundings { draws: reading.around.draws.nth(part), ..reading.around.clone() };
                    renderer.render(template, &values, around)
                })?;
                Ok(serde_json::from_slice(&rendered).unwrap_or_default())
            }
        }
    }
}

impl Response {
    fn new(
        spec: &ResponseSpec,
        mock_qos: QoS,
        captures: &Captures,
        read_file: ReadFile<'_>,
    ) -> Result<Self, Checks> {
        let mut checks = Checks::default();
        let payload = match (&spec.payload, &spec.payload_file, &spec.payload_base64) {
            (None, None, None) => Some(Payload::Fixed(Bytes::new())),
            (Some(payload), None, None) => {
                let text = match payload {
                    Value::String(text) => text.clone(),
                    Value::Null => String::new(),
                    other => other.to_string(),
                };
                checks.keep("payload", Payload::parse(&text))
            }
            (None, Some(file), None) => checks.keep("payload_file", read_file(file)).map(Payload::Fixed),
            (None, None, Some(text)) => {
                let bytes = STANDARD.decode(text.trim()).map_err(|error| format!("is no base64: {error}"));
                checks.keep("payload_base64", bytes).map(|bytes| Payload::Fixed(bytes.into()))
            }
            _ => {
                checks.refuse(
                    "payload",
                    "is said more than once: payload, payload_file and payload_base64 exclude each other",
                );
                None
            }
        };
        if let Some(Payload::Fixed(bytes)) = &payload
            && bytes.len() > PAYLOAD_MAX
        {
            checks.refuse(
                "payload",
                format_args!("has {} bytes; at most {PAYLOAD_MAX} are allowed", bytes.len()),
            );
        }
        let topic = spec.topic.as_deref().and_then(|topic| {
            let template = checks.keep("topic", Template::parse(topic))?;
            if let Some(literal) = template.as_literal() {
                checks.keep("topic", TopicName::parse(literal));
                if is_own_topic(literal) {
                    checks.refuse("topic", ONLY_THE_SERVER);
                }
            }
            Some(template)
        });
        let qos = match spec.qos {
            None => mock_qos,
            Some(qos) => checks.keep("qos", QoS::try_from(qos)).unwrap_or_default(),
        };
        let delay = checks.keep("delay_ms", read_delay(spec.delay_ms));
        let properties = PropertyTemplates::new(&mut checks, "properties", &spec.properties);
        let (count, interval) = spec.repeat.map_or((1, 0), |repeat| (repeat.count, repeat.interval_ms));
        if count == 0 {
            checks.refuse("repeat.count", "is at least 1");
        }
        let interval = Duration::from_millis(interval);
        if interval > DELAY_MAX {
            checks.refuse("repeat.interval_ms", format_args!("is at most {}", DELAY_MAX.as_millis()));
        }
        let weight = spec.weight.unwrap_or(1.0);
        if !(0.0..=1e9).contains(&weight) {
            checks.refuse("weight", format_args!("is from 0 to 1e9, not {weight}"));
        }
        let mut needs = Needs::default();
        let by_field = payload.iter().flat_map(Payload::templates).map(|template| ("payload", template));
        let by_field = by_field.chain(topic.iter().map(|template| ("topic", template)));
        let by_field = by_field.chain(properties.templates().map(|template| ("properties", template)));
        for (field, template) in by_field {
            checks.keep(field, needs.add(template, captures));
        }
        match (payload, delay) {
            (Some(payload), Some(delay)) if checks.is_empty() => Ok(Self {
                payload,
                topic,
                qos,
                retain: spec.retain,
                delay,
                properties,
                expiry: spec.properties.message_expiry_interval,
                count,
                interval,
                weight,
                needs,
            }),
            _ => Err(checks),
        }
    }
}

impl StateValue {
    fn new(value: &Value, captures: &Captures) -> Result<Self, String> {
        let mut needs = Needs::default();
        let Value::String(text) = value else {
            let payload = Payload::parse(&value.to_string()).map_err(|error| error.to_string())?;
            if let Payload::Fixed(_) = payload {
                return Ok(Self::Fixed(value.clone()));
            }
            payload.templates().try_for_each(|template| needs.add(template, captures))?;
            return Ok(Self::Json(payload, needs));
        };
        let template = Template::parse(text).map_err(|error| error.to_string())?;
        if let Some(literal) = template.as_literal() {
            return Ok(Self::Fixed(Value::from(literal)));
        }
        needs.add(&template, captures)?;
        Ok(Self::Text(template, needs))
    }
}

impl Needs {
    /// # Errors
    /// The first name that no occasion has a value for.
    pub fn add(&mut self, template: &Template, captures: &Captures) -> Result<(), String> {
        for root in template.roots() {
            if captures.0.iter().any(|(_, name)| name == root) {
                continue;
            }
            let known = Subject::ROOTS.into_iter().chain(["state", "count"]).find(|known| *known == root);
            let Some(known) = known else {
                let names = captures
                    .0
                    .iter()
                    .map(|(_, name)| name.as_str())
                    .chain(Subject::ROOTS)
                    .chain(["state", "count"]);
                return Err(unknown("value", root, names));
            };
            self.0.insert(known);
        }
        Ok(())
    }

    /// What templates read: the values named, and what levels are called.
    pub fn values(&self, reading: &Reading<'_>, captures: &Captures) -> Value {
        let mut values = Map::new();
        for &name in &self.0 {
            let value = match name {
                "count" => json!(reading.count),
                "state" => {
                    let state =
                        reading.around.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    Value::Object(state.seen_by(&reading.subject.occasion.client_identifier))
                }
                name => reading.subject.value(name).unwrap_or_default(),
            };
            values.insert(name.to_owned(), value);
        }
        for (level, name) in &captures.0 {
            let part = reading.subject.occasion.topic.split('/').nth(*level);
            values.insert(name.clone(), json!(part));
        }
        Value::Object(values)
    }
}

/// A filter in which `{{name}}` is a named `+`.
pub fn read_filter(checks: &mut Checks, path: &str, text: &str) -> (Option<TopicFilter>, Captures) {
    if text.is_empty() {
        checks.refuse(path, "is required");
        return (None, Captures::default());
    }
    let mut captures = Captures::default();
    let mut levels = Vec::new();
    for (level, part) in text.split('/').enumerate() {
        let Some(name) = part.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) else {
            if part.contains("{{") || part.contains("}}") {
                checks.refuse(path, format_args!("level {level}: {{{{name}}}} stands alone in its level"));
                return (None, captures);
            }
            levels.push(part);
            continue;
        };
        let name = name.trim();
        let is_name = name.starts_with(|first: char| first.is_alphabetic() || first == '_')
            && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
        if !is_name {
            checks.refuse(path, format_args!("level {level}: {name:?} is no name: letters, digits and _"));
        } else if Subject::ROOTS.contains(&name)
            || ["state", "count", "this"].contains(&name)
            || Template::is_helper(name)
        {
            checks
                .refuse(path, format_args!("level {level}: {name:?} is what templates call something else"));
        } else if captures.0.iter().any(|(_, other)| other == name) {
            checks.refuse(path, format_args!("level {level}: {name:?} is the name of two levels"));
        } else {
            captures.0.push((level, name.to_owned()));
        }
        levels.push("+");
    }
    let filter = TopicFilter::parse(&levels.join("/"));
    let filter = checks.keep(path, filter);
    if filter.as_ref().is_some_and(TopicFilter::is_shared) {
        checks.refuse(path, "shared subscriptions are for clients");
        return (None, captures);
    }
    (filter, captures)
}

const ONLY_THE_SERVER: &str = "only the server publishes below $SYS";

fn is_own_topic(topic: &str) -> bool {
    topic.starts_with("$SYS/")
}

/// Ids stand in paths, logs and metrics.
pub fn check_id(checks: &mut Checks, id: &str) {
    let is_good = |letter: char| letter.is_alphanumeric() || "-_.:@+".contains(letter);
    if id.is_empty() || id.chars().count() > ID_MAX || !id.chars().all(is_good) {
        checks.refuse("id", format_args!("has 1 to {ID_MAX} letters, digits and -_.:@+, unlike {id:?}"));
    }
}
