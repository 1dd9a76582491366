//! What may differ: fields left out, values by type, tolerance or pattern, messages in any order.

use std::collections::{BTreeMap, HashSet};

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::{
    change::{self, Change},
    json,
};
use crate::{
    likeness::plain,
    packet::{TopicFilter, TopicName},
};

/// Rules in one file.
const RULES_MAX: usize = 1000;

/// What may differ in messages, by topic; all rules whose topic matches apply.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

/// Why rules cannot be read; says where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRules(String);

#[derive(Debug)]
struct Rule {
    topic: TopicFilter,
    is_skipped: bool,
    is_unordered: bool,
    /// Names of fields, and of groups of them (`properties`).
    ignored_fields: Vec<String>,
    ignored: Vec<JsonPath>,
    loose: Vec<(JsonPath, Loose)>,
}

/// How a value is compared that need not be the same.
#[derive(Debug)]
enum Loose {
    Type,
    /// By at most this much.
    Absolute(f64),
    /// By at most this share of what is expected.
    Relative(f64),
    Pattern(Regex),
}

/// A payload without some of what it has.
pub struct Masked {
    /// Without what is ignored.
    pub exact: Vec<u8>,
    /// Without what need not be the same either; equal ones may still differ in that.
    pub loose: Vec<u8>,
}

/// A rule as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSpec {
    topic: Option<String>,
    #[serde(default)]
    skip: bool,
    #[serde(default)]
    unordered: bool,
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default, rename = "type")]
    types: Vec<String>,
    #[serde(default)]
    tolerance: BTreeMap<String, Tolerance>,
    #[serde(default)]
    regex: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Tolerance {
    Absolute(f64),
    Text(String),
}

impl Rules {
    /// Reads a list of rules, YAML or JSON.
    ///
    /// # Errors
    /// [`BadRules`] with line and column where the text cannot be read, else with the rule and its key.
    pub fn parse(text: &str) -> Result<Self, BadRules> {
        let specs: Option<Vec<RuleSpec>> =
            serde_saphyr::from_str(text).map_err(|error| bad_syntax(&error))?;
        let specs = specs.unwrap_or_default();
        if specs.len() > RULES_MAX {
            return Err(BadRules(format!(
                "{} rules are more than the {RULES_MAX} there may be",
                specs.len()
            )));
        }
        let rules = specs.into_iter().enumerate().map(|(index, spec)| Rule::new(index, spec));
        rules.collect::<Result<_, _>>().map(Self)
    }

    fn of<'a>(&'a self, topic: &'a TopicName) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(move |rule| rule.topic.matches(topic))
    }

    /// Whether messages of `topic` are not compared at all.
    pub fn skips(&self, topic: &TopicName) -> bool {
        self.of(topic).any(|rule| rule.is_skipped)
    }

    pub fn is_unordered(&self, topic: &TopicName) -> bool {
        self.of(topic).any(|rule| rule.is_unordered)
    }

    pub fn ignores_field(&self, topic: &TopicName, field: &str) -> bool {
        let is_in = |group: &str| field.strip_prefix(group).is_some_and(|rest| rest.starts_with('.'));
        self.of(topic).any(|rule| rule.ignored_fields.iter().any(|name| name == field || is_in(name)))
    }

    /// What is left of the payload, if the rules look at any of it and it is JSON.
    pub fn masked(&self, topic: &TopicName, payload: &[u8]) -> Option<Masked> {
        if !self.looks_inside(topic) {
            return None;
        }
        let mut value = json::parse(payload)?;
        for path in self.of(topic).flat_map(|rule| &rule.ignored) {
            blank(&mut value, path);
        }
        let exact = serde_json::to_vec(&value).ok()?;
        for (path, _) in self.of(topic).flat_map(|rule| &rule.loose) {
            blank(&mut value, path);
        }
        Some(Masked { exact, loose: serde_json::to_vec(&value).ok()? })
    }

    /// What the payload has of numbers that need not be the same, by rule and place.
    pub fn loose_numbers(&self, topic: &TopicName, payload: &[u8]) -> Vec<f64> {
        let Some(value) = json::parse(payload).filter(|_| self.looks_inside(topic)) else {
            return Vec::new();
        };
        let loose = self.of(topic).flat_map(|rule| &rule.loose);
        loose.flat_map(|(path, _)| path.query(&value).all()).filter_map(json::number).collect()
    }

    /// In what two payloads of `topic` differ that the rules do not allow; `None` if no rule looks inside of them or they
    /// are not both JSON.
    pub fn changes(&self, topic: &TopicName, expected: &[u8], observed: &[u8]) -> Option<Vec<Change>> {
        if !self.looks_inside(topic) {
            return None;
        }
        let (first, second) = (json::parse(expected)?, json::parse(observed)?);
        let mut changes = Vec::new();
        let mut ignored: HashSet<String> = HashSet::new();
        for path in self.of(topic).flat_map(|rule| &rule.ignored) {
            ignored.extend(places(path, &first).into_keys().chain(places(path, &second).into_keys()));
        }
        for (path, loose) in self.of(topic).flat_map(|rule| &rule.loose) {
            let (mut in_first, mut in_second) = (places(path, &first), places(path, &second));
            // What is left out altogether is left out here, too.
            in_first.retain(|place, _| !ignored.contains(place));
            in_second.retain(|place, _| !ignored.contains(place));
            for (place, value) in &in_first {
                let other = in_second.get(place);
                if !other.is_some_and(|other| loose.allows(value, other)) {
                    changes.push(Change::new(
                        place,
                        Some(json::shown(value)),
                        other.map(|other| json::shown(other)),
                    ));
                }
            }
            for (place, value) in in_second.iter().filter(|(place, _)| !in_first.contains_key(*place)) {
                changes.push(Change::new(place, None, Some(json::shown(value))));
            }
        }
        let (mut plain_first, mut plain_second) = (first.clone(), second.clone());
        for path in self.of(topic).flat_map(Rule::paths) {
            blank(&mut plain_first, path);
            blank(&mut plain_second, path);
        }
        changes.extend(change::of_values(&plain_first, &plain_second));
        Some(changes)
    }

    fn looks_inside(&self, topic: &TopicName) -> bool {
        self.of(topic).any(Rule::looks_inside) && !self.ignores_field(topic, "payload")
    }
}

impl Rule {
    fn new(index: usize, spec: RuleSpec) -> Result<Self, BadRules> {
        let bad = |key: &str, what: &dyn std::fmt::Display| BadRules(format!("[{index}].{key}: {what}"));
        let path = |key: &str, text: &str| {
            JsonPath::parse(text).map_err(|error| bad(key, &format_args!("{text:?} is no JSONPath: {error}")))
        };
        let topic = spec.topic.as_deref().unwrap_or("#");
        let topic = TopicFilter::parse(topic).map_err(|error| bad("topic", &error))?;
        let mut rule = Self {
            topic,
            is_skipped: spec.skip,
            is_unordered: spec.unordered,
            ignored_fields: Vec::new(),
            ignored: Vec::new(),
            loose: Vec::new(),
        };
        for text in spec.ignore {
            match text.starts_with('$') {
                true => rule.ignored.push(path("ignore", &text)?),
                false if is_field(&text) => rule.ignored_fields.push(text),
                false => {
                    let what = format!(
                        "{text:?} is neither a JSONPath ($.value) nor payload, qos, retain, properties or properties.NAME"
                    );
                    return Err(bad("ignore", &what));
                }
            }
        }
        for text in spec.types {
            rule.loose.push((path("type", &text)?, Loose::Type));
        }
        for (text, tolerance) in spec.tolerance {
            let key = format!("tolerance.{text}");
            rule.loose.push((
                path("tolerance", &text)?,
                Loose::tolerance(tolerance).map_err(|what| bad(&key, &what))?,
            ));
        }
        for (text, pattern) in spec.regex {
            let key = format!("regex.{text}");
            let pattern = Regex::new(&pattern).map_err(|error| bad(&key, &error))?;
            rule.loose.push((path("regex", &text)?, Loose::Pattern(pattern)));
        }
        Ok(rule)
    }

    fn looks_inside(&self) -> bool {
        !self.ignored.is_empty() || !self.loose.is_empty()
    }

    fn paths(&self) -> impl Iterator<Item = &JsonPath> {
        self.ignored.iter().chain(self.loose.iter().map(|(path, _)| path))
    }
}

impl Loose {
    fn tolerance(tolerance: Tolerance) -> Result<Self, String> {
        let bad = || "is a number, or a share such as 1%".to_owned();
        match tolerance {
            Tolerance::Absolute(most) if most >= 0.0 => Ok(Self::Absolute(most)),
            Tolerance::Absolute(_) => Err(bad()),
            Tolerance::Text(text) => {
                let share = text.strip_suffix('%').and_then(|share| share.trim().parse::<f64>().ok());
                let share = share.filter(|share| share.is_finite() && *share >= 0.0);
                share.map(|share| Self::Relative(share / 100.0)).ok_or_else(bad)
            }
        }
    }

    fn allows(&self, expected: &Value, observed: &Value) -> bool {
        if expected == observed {
            return true;
        }
        let within = |most: &dyn Fn(f64) -> f64| match (json::number(expected), json::number(observed)) {
            (Some(one), Some(other)) => (one - other).abs() <= most(one.abs()),
            _ => false,
        };
        match self {
            Self::Type => json::are_of_one_type(expected, observed),
            Self::Absolute(most) => within(&|_| *most),
            Self::Relative(share) => within(&|size| share * size),
            Self::Pattern(pattern) => match observed {
                Value::String(text) if json::number(observed).is_none() => pattern.is_match(text),
                other => pattern.is_match(&json::shown(other)),
            },
        }
    }
}

/// What `path` finds, by normalized path.
fn places<'v>(path: &JsonPath, value: &'v Value) -> BTreeMap<String, &'v Value> {
    path.query_located(value).iter().map(|node| (node.location().to_string(), node.node())).collect()
}

/// Takes what `path` finds out of `value`; elements of arrays leave `null`, so that the others keep their places.
fn blank(value: &mut Value, path: &JsonPath) {
    let found: Vec<String> =
        path.query_located(value).iter().map(|node| node.location().to_json_pointer()).collect();
    for pointer in found {
        let Some((parent, name)) = pointer.rsplit_once('/') else {
            *value = Value::Null;
            continue;
        };
        match value.pointer_mut(parent) {
            Some(Value::Object(members)) => {
                members.remove(&name.replace("~1", "/").replace("~0", "~"));
            }
            Some(Value::Array(elements)) => {
                if let Some(element) = name.parse().ok().and_then(|index: usize| elements.get_mut(index)) {
                    *element = Value::Null;
                }
            }
            _ => {}
        }
    }
}

/// What the parser says, with the place before it.
fn bad_syntax(error: &serde_saphyr::Error) -> BadRules {
    let error = error.without_snippet();
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    match error.location() {
        Some(place) => {
            BadRules(format!("line {}, column {}: {}", place.line(), place.column(), plain(reason)))
        }
        None => BadRules(plain(reason)),
    }
}

fn is_field(name: &str) -> bool {
    matches!(name, "payload" | "qos" | "retain" | "properties")
        || name.strip_prefix("properties.").is_some_and(|rest| !rest.is_empty())
}
