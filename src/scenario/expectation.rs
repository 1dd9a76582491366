//! What is expected of what clients receive.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;

use super::{
    client::Selected,
    rendering::{ROOTS, Rendering, Speaker, Stream, read_template},
    spec::ExpectSpec,
};
use crate::{
    field::{BadField, Checks},
    journal::{Count, CountSpec, MatchSpec, MessageMatch, beginning},
    likeness::plain,
    mock::Template,
};

/// How long messages are waited for, and how long nothing may come, where nothing is said of it.
const USUAL_WITHIN: Duration = Duration::from_secs(5);
const USUAL_LASTING: Duration = Duration::from_secs(1);

/// So many messages that look so, received by these clients, by then.
#[derive(Debug)]
pub struct Expectation {
    /// Never empty.
    pub of: Vec<Selected>,
    pub count: Count,
    /// Whether each client has to get so many, not all together.
    pub is_each: bool,
    /// By when there have to be enough.
    pub within: Option<Duration>,
    /// How long it has to hold: from the beginning, or from when there were enough.
    pub lasting: Option<Duration>,
    looks: Looks,
}

/// What messages look like.
#[derive(Debug)]
enum Looks {
    Same(Box<MessageMatch>, String),
    /// Texts are templates, so it is another for each client.
    Own(Value),
}

impl Expectation {
    /// `looks` are the keys of a [`MatchSpec`].
    pub fn new(
        checks: &mut Checks,
        path: &str,
        spec: &ExpectSpec,
        of: Vec<Selected>,
        looks: Value,
    ) -> Option<Self> {
        let count = match &spec.count {
            None => Some(Count::at_least(1)),
            Some(value) => match CountSpec::deserialize(value).map_err(|error| plain(&error.to_string())) {
                Ok(count) => adopt(checks, &format!("{path}.count"), Count::new(count)),
                Err(what) => {
                    checks.refuse(format!("{path}.count"), what);
                    None
                }
            },
        };
        if looks.get("origin").is_some() {
            checks.refuse(format!("{path}.origin"), "is not known of what a client receives");
        }
        let is_template = has_templates(&looks);
        let looks = match is_template {
            true => {
                check_templates(checks, path, &looks)?;
                // Whether it becomes something that can be is tried once.
                let rendering = Rendering::new("scenario", "run", 0);
                let speaker = Speaker { client: "client", client_id: "client-1", i: 1, n: 1, pass: 1 };
                let mut stream = rendering.stream("1", &speaker, jiff::Timestamp::UNIX_EPOCH);
                let tried = checks.keep(path, rendered(&looks, &mut stream))?;
                adopt(checks, path, read(&tried))?;
                Looks::Own(looks)
            }
            false => {
                let matcher = adopt(checks, path, read(&looks))?;
                Looks::Same(Box::new(matcher), described(&looks))
            }
        };
        let (count, mut within, mut lasting) =
            (count?, spec.within.map(|span| span.0), spec.lasting.map(|span| span.0));
        if within.is_none() && lasting.is_none() {
            match count.min() {
                0 => lasting = Some(USUAL_LASTING),
                _ => within = Some(USUAL_WITHIN),
            }
        }
        Some(Self { of, count, is_each: spec.each, within, lasting, looks })
    }

    /// Which messages are meant, and how that is said, if it is the same for all clients.
    pub fn shared(&self) -> Option<(&MessageMatch, &str)> {
        match &self.looks {
            Looks::Same(matcher, said) => Some((matcher, said)),
            Looks::Own(_) => None,
        }
    }

    /// The same for one client.
    ///
    /// # Errors
    /// What templates do not become, for people.
    pub fn rendered(&self, stream: &mut Stream<'_>) -> Result<(MessageMatch, String), String> {
        match &self.looks {
            Looks::Same(matcher, said) => Ok((matcher.as_ref().clone(), said.clone())),
            Looks::Own(looks) => {
                let looks = rendered(looks, stream)?;
                let matcher = read(&looks).map_err(|bad| BadField::listed(&bad))?;
                Ok((matcher, described(&looks)))
            }
        }
    }

    /// `within 5 s`, `for 1 s`, `within 5 s, and for 1 s from then on`.
    pub fn period(&self) -> String {
        let seconds = |span: Duration| format!("{} s", span.as_secs_f64());
        match (self.within, self.lasting) {
            (Some(within), Some(lasting)) => {
                format!("within {}, and for {} from then on", seconds(within), seconds(lasting))
            }
            (Some(within), None) => format!("within {}", seconds(within)),
            (None, lasting) => format!("for {}", seconds(lasting.unwrap_or_default())),
        }
    }
}

fn read(looks: &Value) -> Result<MessageMatch, Vec<BadField>> {
    let spec: MatchSpec = serde_path_to_error::deserialize(looks).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let strange = reason.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
        let path = match strange {
            Some((key, _)) => key.to_owned(),
            None if path == "." => String::new(),
            None => path,
        };
        vec![BadField { path, what: plain(&reason) }]
    })?;
    MessageMatch::new(&spec)
}

fn adopt<T>(checks: &mut Checks, path: &str, result: Result<T, Vec<BadField>>) -> Option<T> {
    result.map_err(|bad| checks.adopt(path, bad.into())).ok()
}

fn has_templates(looks: &Value) -> bool {
    match looks {
        Value::String(text) => text.contains("{{"),
        Value::Array(items) => items.iter().any(has_templates),
        Value::Object(members) => members.values().any(has_templates),
        _ => false,
    }
}

fn check_templates(checks: &mut Checks, path: &str, looks: &Value) -> Option<()> {
    match looks {
        Value::String(text) if text.contains("{{") => read_template(checks, path, text, &ROOTS).map(drop),
        Value::Array(items) => items.iter().try_for_each(|item| check_templates(checks, path, item)),
        Value::Object(members) => members
            .iter()
            .try_for_each(|(key, member)| check_templates(checks, &format!("{path}.{key}"), member)),
        _ => Some(()),
    }
}

fn rendered(looks: &Value, stream: &mut Stream<'_>) -> Result<Value, String> {
    Ok(match looks {
        Value::String(text) if text.contains("{{") => {
            let template = Template::parse(text).map_err(|error| error.to_string())?;
            Value::String(stream.render(&template).map_err(|error| error.to_string())?)
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| rendered(item, stream)).collect::<Result<_, _>>()?)
        }
        Value::Object(members) => {
            let members = members.iter().map(|(key, member)| Ok((key.clone(), rendered(member, stream)?)));
            Value::Object(members.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

/// `topic st/+, payload "offline"`: as it was asked, in one line.
fn described(looks: &Value) -> String {
    let Value::Object(members) = looks else { return String::new() };
    let mut parts: Vec<String> = Vec::new();
    // The topic first, by which messages are known.
    let (topic, others): (Vec<_>, Vec<_>) = members.iter().partition(|(key, _)| *key == "topic");
    for (key, value) in topic.into_iter().chain(others) {
        let value = match value {
            Value::String(text) if key == "topic" => text.clone(),
            other => other.to_string(),
        };
        let short = beginning(&value, DESCRIBED_MAX);
        let more = if short.len() < value.len() { "…" } else { "" };
        parts.push(format!("{key} {short}{more}"));
    }
    parts.join(", ")
}

/// Bytes of one value in a description.
const DESCRIBED_MAX: usize = 200;
