//! `when`: what has to hold of an occasion beside its topic.

use regex::Regex;
use serde_json::Value;

use super::{NthSpec, OneOrMore, State, TestSpec, WhenSpec, query::Query, subject::Subject};
use crate::{field::Checks, likeness::plain, packet::QoS, recording::NamePattern};

/// Conditions that were checked; none of them always holds.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    client: Option<NamePattern>,
    qos: Vec<QoS>,
    retain: Option<bool>,
    payload: Vec<(Query, Test)>,
    payload_text: Option<Test>,
    user: Vec<(String, Test)>,
    state: Vec<(String, Test)>,
    nth: Option<NthSpec>,
}

impl Condition {
    pub fn new(spec: &WhenSpec) -> Result<Self, Checks> {
        let mut checks = Checks::default();
        let mut condition = Self {
            client: spec.client.as_ref().map(NamePattern::new),
            retain: spec.retain,
            nth: spec.nth,
            ..Self::default()
        };
        let qos = match &spec.qos {
            None => &[][..],
            Some(OneOrMore::One(qos)) => std::slice::from_ref(qos),
            Some(OneOrMore::More(several)) => several,
        };
        condition.qos = qos.iter().filter_map(|&qos| checks.keep("qos", QoS::try_from(qos))).collect();
        match &spec.payload {
            Value::Null => {}
            Value::Object(tests) => {
                let (paths, whole): (Vec<_>, Vec<_>) =
                    tests.iter().partition(|(key, _)| key.starts_with('$'));
                for (path, test) in paths {
                    let place = format!("payload.{path}");
                    let parsed = checks.keep(&*place, Query::parse(path));
                    let test = adopt(&mut checks, &place, Test::new(test));
                    condition.payload.extend(parsed.zip(test));
                }
                if !whole.is_empty() {
                    let whole = whole.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                    condition.payload_text = adopt(&mut checks, "payload", Test::new(&Value::Object(whole)));
                }
            }
            plain => condition.payload_text = adopt(&mut checks, "payload", Test::new(plain)),
        }
        for (tests, into, name) in
            [(&spec.user, &mut condition.user, "user"), (&spec.state, &mut condition.state, "state")]
        {
            for (key, test) in tests {
                let test = adopt(&mut checks, &format!("{name}.{key}"), Test::new(test));
                into.extend(test.map(|test| (key.clone(), test)));
            }
        }
        if let Some(NthSpec::One(0)) = spec.nth {
            checks.refuse("nth", "counts from 1");
        }
        if let Some(NthSpec::Among(among)) = spec.nth {
            if among.every == Some(0) {
                checks.refuse("nth.every", "is at least 1");
            }
            if among.first.is_none() && among.after.is_none() && among.every.is_none() {
                checks.refuse("nth", "says none of first, after and every");
            }
        }
        if checks.is_empty() { Ok(condition) } else { Err(checks) }
    }

    /// Whether everything but `nth` holds.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        self.check_message(subject)?;
        self.check_state(subject, state)
    }

    /// The part of [`check`](Self::check) that needs no state.
    ///
    /// # Errors
    /// What does not hold, for people.
    pub fn check_message(&self, subject: &Subject<'_>) -> Result<(), String> {
        let occasion = subject.occasion;
        if let Some(client) = &self.client
            && !client.matches(&occasion.client_identifier)
        {
            return Err(format!("the client is {:?}, not {:?}", occasion.client_identifier, client.as_str()));
        }
        if !self.qos.is_empty() && !self.qos.contains(&occasion.qos) {
            let wanted: Vec<String> = self.qos.iter().map(QoS::to_string).collect();
            return Err(format!("the QoS is {}, not {}", occasion.qos, wanted.join(" or ")));
        }
        if let Some(retain) = self.retain
            && retain != occasion.retain
        {
            return Err(format!("retain is {}, not {retain}", occasion.retain));
        }
        if let Some(test) = &self.payload_text {
            let json = subject.json();
            let text = Value::String(subject.text().into_owned());
            // As the text it is, or as the JSON that it may be.
            test.check(Some(&text))
                .or_else(|difference| match json {
                    Some(json) => test.check(Some(json)).map_err(|_| difference),
                    None => Err(difference),
                })
                .map_err(|difference| format!("the payload {difference}"))?;
        }
        if !self.payload.is_empty()
            && subject.json().is_none()
            && self.payload.iter().any(|(_, test)| !test.holds(None))
        {
            return Err("the payload is no JSON".to_owned());
        }
        for (path, test) in &self.payload {
            let found = match subject.json() {
                Some(json) => path.find(json, occasion.payload.len())?,
                None => Vec::new(),
            };
            check_any(test, found.iter().copied()).map_err(|difference| format!("{path} {difference}"))?;
        }
        for (name, test) in &self.user {
            let values: Vec<Value> = subject.user(name).map(Value::from).collect();
            check_any(test, values.iter())
                .map_err(|difference| format!("user property {name} {difference}"))?;
        }
        Ok(())
    }

    /// Whether there is anything for [`check_state`](Self::check_state) to look at.
    pub fn reads_state(&self) -> bool {
        !self.state.is_empty()
    }

    /// The other part of [`check`](Self::check).
    ///
    /// # Errors
    /// What does not hold, for people.
    pub fn check_state(&self, subject: &Subject<'_>, state: &State) -> Result<(), String> {
        for (key, test) in &self.state {
            test.check(state.find(&subject.occasion.client_identifier, key))
                .map_err(|difference| format!("state {key} {difference}"))?;
        }
        Ok(())
    }

    /// Whether the `count`-th occasion, from 1, that all else holds for is one of those asked for.
    pub fn is_turn(&self, count: u64) -> bool {
        match self.nth {
            None => true,
            Some(NthSpec::One(nth)) => count == nth,
            Some(NthSpec::Among(among)) => {
                among.first.is_none_or(|first| count <= first)
                    && among.after.is_none_or(|after| count > after)
                    && among.every.is_none_or(|every| count.is_multiple_of(every))
            }
        }
    }
}

/// Passes if it does for any of the values; with none of them, for nothing.
fn check_any<'v>(test: &Test, values: impl Iterator<Item = &'v Value>) -> Result<(), String> {
    let mut difference = None;
    for value in values {
        match test.check(Some(value)) {
            Ok(()) => return Ok(()),
            Err(other) => difference = difference.or(Some(other)),
        }
    }
    difference.map_or_else(|| test.check(None), Err)
}

fn adopt<T>(checks: &mut Checks, path: &str, result: Result<T, Checks>) -> Option<T> {
    result.map_err(|bad| checks.adopt(path, bad)).ok()
}

/// What is wrong with a JSONPath, as people read it.
pub fn bad_path(path: &str, error: &serde_json_path::ParseError) -> String {
    if !path.starts_with('$') {
        return format!("{path:?} is no JSONPath: one begins with $");
    }
    // Counted from 0, whatever the library says.
    let column = error.position() + 1;
    match error.message() {
        "parser error" => format!("{path:?} is no JSONPath: it cannot be read from column {column} on"),
        message => format!("{path:?} is no JSONPath: {message} at column {column}"),
    }
}

/// What is tested of one value.
#[derive(Clone, Debug, Default)]
struct Test {
    equals: Option<Value>,
    regex: Option<Regex>,
    exists: Option<bool>,
    gt: Option<f64>,
    gte: Option<f64>,
    lt: Option<f64>,
    lte: Option<f64>,
}

impl Test {
    fn new(spec: &Value) -> Result<Self, Checks> {
        let mut checks = Checks::default();
        let Value::Object(_) = spec else {
            return Ok(Self { equals: Some(spec.clone()), ..Self::default() });
        };
        let Some(spec) = checks.keep("", TestSpec::deserialize_from(spec)) else { return Err(checks) };
        let regex = spec.regex.as_deref().and_then(|pattern| {
            let compiled = regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES).build();
            checks.keep("regex", compiled.map_err(|error| one_line(&error)))
        });
        if !checks.is_empty() {
            return Err(checks);
        }
        let TestSpec { equals, exists, gt, gte, lt, lte, .. } = spec;
        Ok(Self { equals, regex, exists, gt, gte, lt, lte })
    }

    fn holds(&self, value: Option<&Value>) -> bool {
        self.check(value).is_ok()
    }

    fn check(&self, value: Option<&Value>) -> Result<(), String> {
        let Some(value) = value else {
            return match self.exists {
                Some(false) => Ok(()),
                _ => Err("is missing".to_owned()),
            };
        };
        let shown = || shown(value);
        if self.exists == Some(false) {
            return Err(format!("is there: {}", shown()));
        }
        if let Some(wanted) = &self.equals
            && !equal(value, wanted)
        {
            return Err(format!("is {}, not {wanted}", shown()));
        }
        if let Some(regex) = &self.regex {
            let text = match value {
                Value::String(text) => std::borrow::Cow::Borrowed(text.as_str()),
                other => other.to_string().into(),
            };
            if !regex.is_match(&text) {
                return Err(format!("is {}, which {:?} does not find", shown(), regex.as_str()));
            }
        }
        let bounds: [(Option<f64>, Bound, &str); 4] = [
            (self.gt, |value, bound| value > bound, "greater than"),
            (self.gte, |value, bound| value >= bound, "at least"),
            (self.lt, |value, bound| value < bound, "less than"),
            (self.lte, |value, bound| value <= bound, "at most"),
        ];
        for (bound, holds, name) in bounds {
            let Some(bound) = bound else { continue };
            let Some(number) = number(value) else { return Err(format!("is {}, no number", shown())) };
            if !holds(number, bound) {
                return Err(format!("is {number}, not {name} {bound}"));
            }
        }
        Ok(())
    }
}

/// Whether a number, the first, is within a bound.
type Bound = fn(f64, f64) -> bool;

impl TestSpec {
    fn deserialize_from(value: &Value) -> Result<Self, String> {
        serde_json::from_value(value.clone()).map_err(|error| plain(&error.to_string()))
    }
}

/// Memory that one expression may take.
const REGEX_BYTES: usize = 1 << 20;

/// The last line of what the library draws over several.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim().trim_start_matches("error: ").to_owned()
}

/// Numbers by their value, so that 1 and 1.0 are the same.
fn equal(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        _ => value == wanted,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        // As payloads that are just a number come.
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// As much of a value as a message has room for.
fn shown(value: &Value) -> String {
    const MOST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
