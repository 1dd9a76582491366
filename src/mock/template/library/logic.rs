//! Helpers that compare and judge. To them, a missing value is like `null`.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::{Number, Value};

use super::{Failure, Given, Helper, Kind::*, Slot};

pub(super) const HELPERS: &[Helper] = &[
    condition("eq", |given| Ok(equal(&*at(given, 0)?, &*at(given, 1)?).into())),
    condition("ne", |given| Ok((!equal(&*at(given, 0)?, &*at(given, 1)?)).into())),
    condition("lt", |given| ordered(given, Ordering::is_lt)),
    condition("lte", |given| ordered(given, Ordering::is_le)),
    condition("gt", |given| ordered(given, Ordering::is_gt)),
    condition("gte", |given| ordered(given, Ordering::is_ge)),
    Helper::new("and", "a b …", &[Any], |given| Ok(truths(given).all(|truth| truth).into()))
        .taking(1, usize::MAX)
        .opening_blocks(),
    Helper::new("or", "a b …", &[Any], |given| Ok(truths(given).any(|truth| truth).into()))
        .taking(1, usize::MAX)
        .opening_blocks(),
    Helper::new("not", "a", &[Any], |given| Ok(truths(given).all(|truth| !truth).into())).opening_blocks(),
    Helper::new("default", "value fallback", &[Any], default).taking(2, usize::MAX),
];

/// Open blocks and do nothing else.
pub(super) const CONDITIONS: &[Helper] = &[
    Helper::new("if", "value [includeZero=true]", &[Any], |given| Ok(holds(given).into()))
        .named(&[("includeZero", Any)])
        .opening_blocks(),
    Helper::new("unless", "value [includeZero=true]", &[Any], |given| Ok((!holds(given)).into()))
        .named(&[("includeZero", Any)])
        .opening_blocks(),
];

const fn condition(name: &'static str, run: super::Run) -> Helper {
    Helper::new(name, "a b", &[Any, Any], run).opening_blocks()
}

/// As in Handlebars: nothing, 0, an empty text, list or object, and `false` are false.
pub(in super::super) fn is_true(value: &Value, zero_counts: bool) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => zero_counts || number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

fn holds(given: &Given<'_, '_>) -> bool {
    let zero_counts =
        given.named("includeZero").and_then(Slot::get).is_some_and(|value| is_true(&value, false));
    given.arguments[0].get().is_some_and(|value| is_true(&value, zero_counts))
}

/// The first value that is there and not `null`.
fn default<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let (last, others) = given.arguments.split_last().expect("at least two arguments");
    let is_there = |slot: &&Slot<'_>| match slot {
        Slot::Value(value) => !value.is_null(),
        Slot::Fixed(_) => true,
        Slot::Missing(_) => false,
    };
    match others.iter().find(is_there).unwrap_or(last) {
        Slot::Missing(reason) => Err(Failure::Missing(reason.clone())),
        slot => Ok(slot.clone()),
    }
}

fn at<'g>(given: &'g Given<'_, '_>, index: usize) -> Result<Cow<'g, Value>, Failure> {
    match &given.arguments[index] {
        Slot::Missing(_) => Ok(Cow::Owned(Value::Null)),
        slot => slot.value(),
    }
}

fn truths(given: &Given<'_, '_>) -> impl Iterator<Item = bool> {
    given.arguments.iter().map(|slot| slot.get().is_some_and(|value| is_true(&value, false)))
}

/// Numbers by what they count, whichever way they are written; the rest by type and content.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            compare_numbers(one, other).is_some_and(Ordering::is_eq)
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(name, one)| other.get(name).is_some_and(|other| equal(one, other));
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other,
    }
}

/// False where two values have no order.
fn ordered<'v>(given: &mut Given<'_, 'v>, holds: fn(Ordering) -> bool) -> Result<Slot<'v>, Failure> {
    Ok(compare(&*at(given, 0)?, &*at(given, 1)?).is_some_and(holds).into())
}

/// Numbers, also with a text that is one; texts among each other; truth values.
fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    let number = |text: &str| text.trim().parse::<Number>().ok();
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => compare_numbers(one, other),
        (Value::Number(one), Value::String(other)) => compare_numbers(one, &number(other)?),
        (Value::String(one), Value::Number(other)) => compare_numbers(&number(one)?, other),
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

fn compare_numbers(one: &Number, other: &Number) -> Option<Ordering> {
    match (one.as_i128(), other.as_i128()) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}
