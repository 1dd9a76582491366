//! How many messages there have to be.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    amount::counted,
    field::{BadField, Checks},
};

/// A number, which means exactly that many, or bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or bounds: {gte, gt, lte, lt, eq}")]
pub enum CountSpec {
    Exactly(u64),
    Within(CountBounds),
}

impl Default for CountSpec {
    fn default() -> Self {
        Self::at_least(1)
    }
}

impl From<u64> for CountSpec {
    fn from(number: u64) -> Self {
        Self::Exactly(number)
    }
}

impl From<std::ops::RangeInclusive<u64>> for CountSpec {
    fn from(range: std::ops::RangeInclusive<u64>) -> Self {
        Self::Within(CountBounds {
            gte: Some(*range.start()),
            lte: Some(*range.end()),
            ..CountBounds::default()
        })
    }
}

impl CountSpec {
    pub fn at_least(number: u64) -> Self {
        Self::Within(CountBounds { gte: Some(number), ..CountBounds::default() })
    }
}

/// What is given has to hold, all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct CountBounds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<u64>,
}

/// A [`CountSpec`] that was checked: both ends are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    min: u64,
    max: u64,
}

impl Count {
    /// # Errors
    /// That there is no such number, or nothing is said.
    pub fn new(spec: CountSpec) -> Result<Self, Vec<BadField>> {
        let bounds = match spec {
            CountSpec::Exactly(number) => return Ok(Self { min: number, max: number }),
            CountSpec::Within(bounds) => bounds,
        };
        let mut checks = Checks::default();
        if bounds == CountBounds::default() {
            checks.refuse("", "says none of eq, gte, gt, lte and lt");
        }
        let above = bounds.gt.map(|gt| checks.keep("gt", gt.checked_add(1).ok_or("leaves no number")));
        let below = bounds.lt.map(|lt| checks.keep("lt", lt.checked_sub(1).ok_or("leaves no number")));
        let min = [bounds.eq, bounds.gte, above.flatten()].into_iter().flatten().max().unwrap_or(0);
        let max = [bounds.eq, bounds.lte, below.flatten()].into_iter().flatten().min().unwrap_or(u64::MAX);
        if checks.is_empty() && min > max {
            checks.refuse("", format_args!("no number is at least {min} and at most {max}"));
        }
        checks.done(Some(Self { min, max }))
    }

    pub const fn at_least(min: u64) -> Self {
        Self { min, max: u64::MAX }
    }

    pub fn min(&self) -> u64 {
        self.min
    }

    pub fn max(&self) -> Option<u64> {
        (self.max < u64::MAX).then_some(self.max)
    }

    pub fn contains(&self, number: u64) -> bool {
        (self.min..=self.max).contains(&number)
    }

    /// Whether there are enough of them, however many are too many.
    pub fn is_reached(&self, number: u64) -> bool {
        number >= self.min
    }

    /// Whether there are so many that more would not help.
    pub fn is_exceeded(&self, number: u64) -> bool {
        number > self.max
    }
}

/// `exactly 3 messages`, `at least 1 message`, `2 to 5 messages`.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (0, 0) => f.write_str("no message"),
            (0, u64::MAX) => f.write_str("any number of messages"),
            (min, max) if min == max => write!(f, "exactly {}", counted(min, "message")),
            (min, u64::MAX) => write!(f, "at least {}", counted(min, "message")),
            (0, max) => write!(f, "at most {}", counted(max, "message")),
            (min, max) => write!(f, "{min} to {}", counted(max, "message")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `json` and shows what it means, or what is wrong with it.
    fn check(json: &str, expected: &str) {
        let shown = match serde_json::from_str::<CountSpec>(json).map(Count::new) {
            Err(error) => error.to_string(),
            Ok(Err(bad)) => BadField::listed(&bad),
            Ok(Ok(count)) => count.to_string(),
        };
        assert_eq!(shown, expected, "{json}");
    }

    #[test]
    fn a_count_is_a_number_or_bounds() {
        check("3", "exactly 3 messages");
        check("0", "no message");
        check(r#"{"gte": 1}"#, "at least 1 message");
        check(r#"{"gt": 1, "gte": 1}"#, "at least 2 messages");
        check(r#"{"gte": 2, "lt": 6}"#, "2 to 5 messages");
        check(r#"{"lte": 1}"#, "at most 1 message");
        check(r#"{"gte": 0}"#, "any number of messages");
        check(r#"{"eq": 4, "lte": 9}"#, "exactly 4 messages");
    }

    #[test]
    fn what_no_number_is_within_is_refused() {
        check("{}", "says none of eq, gte, gt, lte and lt");
        check(r#"{"gt": 5, "lt": 4}"#, "no number is at least 6 and at most 3");
        check(r#"{"lt": 0}"#, "lt: leaves no number");
        check(r#"{"gt": 18446744073709551615}"#, "gt: leaves no number");
        check("-1", "expected a number, or bounds: {gte, gt, lte, lt, eq}");
        check(r#"{"atleast": 1}"#, "expected a number, or bounds: {gte, gt, lte, lt, eq}");
    }

    #[test]
    fn enough_is_not_too_many() {
        let count = Count::new(CountSpec::Exactly(2)).expect("a number");
        let judged = |number| (count.is_reached(number), count.contains(number), count.is_exceeded(number));
        assert_eq!(judged(1), (false, false, false));
        assert_eq!(judged(2), (true, true, false));
        assert_eq!(judged(3), (true, false, true));
    }
}
