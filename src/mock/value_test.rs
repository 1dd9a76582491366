//! What is tested of one value, of whatever it is.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::{Number, Value};

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
            (self.gt, Ordering::is_gt, "greater than"),
            (self.gte, Ordering::is_ge, "at least"),
            (self.lt, Ordering::is_lt, "less than"),
            (self.lte, Ordering::is_le, "at most"),
        ];
        for (bound, holds, name) in bounds {
            let Some(bound) = bound else { continue };
            let Some(number) = number(value) else { return Err(format!("is {}, no number", shown())) };
            if !against_bound(&number, bound).is_some_and(holds) {
                return Err(format!("is {}, not {name} {bound}", told(&number)));
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

    /// The same of what is always text, such as User Properties: each as the text it is, or as the number or other JSON that
    /// it may be.
    ///
    /// # Errors
    /// As [`check`](Self::check), of the first text.
    pub fn check_texts<'v>(&self, texts: impl Iterator<Item = &'v str>) -> Result<(), String> {
        let wants_other = self.equals.as_ref().is_some_and(|wanted| !wanted.is_string());
        let mut difference = None;
        for text in texts {
            let Err(other) = self.check(Some(&Value::from(text))) else { return Ok(()) };
            let read = wants_other.then(|| serde_json::from_str(text).ok()).flatten();
            if read.is_some_and(|json: Value| self.holds(Some(&json))) {
                return Ok(());
            }
            difference = difference.or(Some(other));
        }
        difference.map_or_else(|| self.check(None), Err)
    }

    /// The value that is asked for, if it is a certain one.
    pub fn equals(&self) -> Option<&Value> {
        self.equals.as_ref()
    }
}

/// Whether a number that is less than a bound, or the same, or greater, is within it.
type Bound = fn(Ordering) -> bool;

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

/// Numbers by their value, so that 1 and 1.0 are the same, wherever they stand; integers exactly.
pub fn equal(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Number(one), Value::Number(other)) => match (integer(one), integer(other)) {
            (Some(one), Some(other)) => one == other,
            _ => one.as_f64() == other.as_f64(),
        },
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

fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Number(number) => Some(number.clone()),
        // As payloads that are just a number come.
        Value::String(text) => {
            let text = text.trim();
            let whole =
                text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
            whole.ok().or_else(|| Number::from_f64(text.parse().ok()?))
        }
        _ => None,
    }
}

fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// How a number compares with a bound, by the exact value of either; `None` if the bound is none.
fn against_bound(number: &Number, bound: f64) -> Option<Ordering> {
    match integer(number) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "what is beyond the range stays beyond those of 64 bits"
        )]
        Some(number) if bound.fract() == 0.0 => Some(number.cmp(&(bound as i128))),
        _ => number.as_f64()?.partial_cmp(&bound),
    }
}

/// As people write it: 5, not 5.0.
fn told(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => value.to_string(),
        _ => number.to_string(),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(test: Value, value: Value, expected: Result<(), &str>) {
        let test = ValueTest::new(&test).expect("a good test");
        assert_eq!(test.check(Some(&value)), expected.map_err(str::to_owned));
    }

    #[test]
    fn integers_are_compared_exactly_and_other_numbers_as_doubles() {
        check(
            json!(9_007_199_254_740_992_u64),
            json!(9_007_199_254_740_993_u64),
            Err("is 9007199254740993, not 9007199254740992"),
        );
        check(json!(u64::MAX), json!(u64::MAX), Ok(()));
        check(json!(u64::MAX), json!(u64::MAX - 1), Err("is 18446744073709551614, not 18446744073709551615"));
        check(json!([1, {"a": -1}]), json!([1.0, {"a": -1.0}]), Ok(()));
        check(json!({"gt": 9_007_199_254_740_992.0}), json!(9_007_199_254_740_993_u64), Ok(()));
        check(json!({"lt": -9_007_199_254_740_992.0}), json!("-9007199254740993"), Ok(()));
        check(
            json!({"lte": 9_007_199_254_740_992.0}),
            json!(9_007_199_254_740_993_u64),
            Err("is 9007199254740993, not at most 9007199254740992"),
        );
        check(json!({"lt": 1e300, "gt": -1e300}), json!(u64::MAX), Ok(()));
        check(json!({"gte": 2.5, "lt": 5}), json!(2), Err("is 2, not at least 2.5"));
        check(json!({"gt": 5}), json!(5.0), Err("is 5, not greater than 5"));
    }

    #[track_caller]
    fn check_texts(test: Value, texts: &[&str], expected: Result<(), &str>) {
        let test = ValueTest::new(&test).expect("a good test");
        assert_eq!(test.check_texts(texts.iter().copied()), expected.map_err(str::to_owned));
    }

    #[test]
    fn a_text_is_the_number_that_it_says() {
        check_texts(json!(5), &["4", "5"], Ok(()));
        check_texts(json!({"equals": 5, "regex": "^5$"}), &["5"], Ok(()));
        check_texts(json!({"equals": "5"}), &["5"], Ok(()));
        check_texts(json!(true), &["true"], Ok(()));
        check_texts(json!(5), &["6", "x"], Err(r#"is "6", not 5"#));
        check_texts(json!("05"), &["5"], Err(r#"is "5", not "05""#));
        check_texts(json!(5), &[], Err("is missing"));
    }
}
