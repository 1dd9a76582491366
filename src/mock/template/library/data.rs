//! Helpers that reach into data.

use std::borrow::Cow;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::{Failure, Given, Helper, Kind::*, Slot, shown};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("jsonpath", "value path", &[Any, Query], jsonpath),
    Helper::new("json", "value", &[Any], |given| Ok(given.value(0)?.to_string().into())),
    Helper::new("lookup", "value key", &[Any, Any], lookup),
    Helper::new("env", "name", &[Variable], env),
];

/// Bytes of a JSONPath.
const QUERY_LEN_MAX: usize = 1024;
/// Brackets and parentheses within each other.
const QUERY_NESTING_MAX: usize = 8;

/// # Errors
/// What is wrong with it; and that it is too long or too deep, for its parser has no limit.
pub(in super::super) fn query(text: &str) -> Result<JsonPath, String> {
    let mut depth = 0usize;
    let mut deepest = 0;
    for letter in text.bytes() {
        match letter {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if text.len() > QUERY_LEN_MAX || deepest > QUERY_NESTING_MAX {
        return Err(format!(
            "a JSONPath has at most {QUERY_LEN_MAX} bytes and {QUERY_NESTING_MAX} levels of brackets"
        ));
    }
    JsonPath::parse(text).map_err(|error| {
        let text = shown(&Value::from(text));
        format!("{text} is no JSONPath from character {} on", error.position() + 1)
    })
}

/// The value of one match, the list of several.
fn jsonpath<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let arguments = given.arguments;
    let value = arguments[0].value()?;
    let parsed;
    let query = match given.query {
        Some(query) => query,
        None => {
            parsed = query(&given.text(1)?)?;
            &parsed
        }
    };
    let found = query.query(&value).all();
    match found[..] {
        [] => Err(Failure::Missing(format!("nothing is at \"{query}\""))),
        [one] => Ok(one.clone().into()),
        _ => Ok(Value::Array(found.into_iter().cloned().collect()).into()),
    }
}

fn lookup<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let arguments = given.arguments;
    let key = arguments[1].text()?;
    let found = match &arguments[0] {
        Slot::Value(Cow::Borrowed(value)) => member(value, &key).map(Cow::Borrowed),
        slot => member(&*slot.value()?, &key).cloned().map(Cow::Owned),
    };
    match found {
        Some(value) => Ok(Slot::Value(value)),
        None => {
            let key = shown(&Value::String(key.into_owned()));
            Err(Failure::Missing(format!("there is no {key}")))
        }
    }
}

/// What is below a value: by name in an object, by index from 0 in a list.
pub(in super::super) fn member<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(members) => members.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    }
}

fn env<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let name = given.text(0)?;
    match given.environment.get(&*name) {
        Some(value) => Ok(value.clone().into()),
        None => Err(format!(
            "{name} may not be read: `mqtt.mock_env` lists the variables that templates may read"
        )
        .into()),
    }
}
