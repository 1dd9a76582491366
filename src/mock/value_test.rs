//! What is tested of one value, of whatever it is.

use regex::Regex;
use serde_json::Value;

use super::TestSpec;
use crate::{field::Checks, likeness::plain};

/// What is tested of one value.
#[derive(Clone, Debug, Default)]
pub struct ValueTest {
    equals: Option<Value>,
    regex: Option<Regex>,
    exists: Option<bool>,
    gt: Option<f64>,
    gte: Option<f64>,
    lt: Option<f64>,
    lte: Option<f64>,
}

impl ValueTest {
    /// A plain value means `equals`.
    ///
    /// # Errors
    /// What is wrong with it, by field.
    pub fn new(spec: &Value) -> Result<Self, Checks> {
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

    pub fn holds(&self, value: Option<&Value>) -> bool {
        self.check(value).is_ok()
    }

    /// # Errors
    /// What of it does not hold, for people: `is 3, not greater than 5`.
    pub fn check(&self, value: Option<&Value>) -> Result<(), String> {
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

    /// Passes if it does for any of the values; with none of them, for nothing.
    ///
    /// # Errors
    /// As [`check`](Self::check), of the first value.
    pub fn check_any<'v>(&self, values: impl Iterator<Item = &'v Value>) -> Result<(), String> {
        let mut difference = None;
        for value in values {
            match self.check(Some(value)) {
                Ok(()) => return Ok(()),
                Err(other) => difference = difference.or(Some(other)),
            }
        }
        difference.map_or_else(|| self.check(None), Err)
    }

    /// The value that is asked for, if it is a certain one.
    pub fn equals(&self) -> Option<&Value> {
        self.equals.as_ref()
    }
}

/// Whether a number, the first, is within a bound.
type Bound = fn(f64, f64) -> bool;

impl TestSpec {
    fn deserialize_from(value: &Value) -> Result<Self, String> {
        serde_json::from_value(value.clone()).map_err(|error| {
            let reason = plain(&error.to_string());
            // Where no slip of the pen, it was meant as a value to compare with.
            let is_value = reason.starts_with("unknown key") && reason.contains("known are");
            if is_value { format!("{reason}; an object is compared with equals") } else { reason }
        })
    }
}

/// Memory that one expression may take.
const REGEX_BYTES: usize = 1 << 20;

/// The last line of what the library draws over several.
pub fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim().trim_start_matches("error: ").to_owned()
}

/// Numbers by their value, so that 1 and 1.0 are the same, wherever they stand.
pub fn equal(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let has = |(key, one): (&String, &Value)| other.get(key).is_some_and(|other| equal(one, other));
            one.len() == other.len() && one.iter().all(has)
        }
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
pub fn shown(value: &Value) -> String {
    const MOST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
