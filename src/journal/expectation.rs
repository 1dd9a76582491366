//! What messages are expected, and whether they came.

use serde::{Deserialize, Serialize};

use super::{Count, CountSpec, MatchSpec, Message, MessageMatch};
use crate::field::Checks;

/// An expectation as people write it; without a count, of at least one message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ExpectationSpec {
    #[serde(rename = "match")]
    pub meant: MatchSpec,
    pub count: CountSpec,
}

/// So many of such messages.
#[derive(Clone, Debug)]
pub struct Expectation {
    pub meant: MessageMatch,
    pub count: Count,
}

impl Expectation {
    /// # Errors
    /// Everything that is wrong, by field.
    pub fn new(spec: &ExpectationSpec) -> Result<Self, Checks> {
        let mut checks = Checks::default();
        let meant = MessageMatch::new(&spec.meant).map_err(|bad| checks.adopt("match", bad.into())).ok();
        let count = Count::new(spec.count).map_err(|bad| checks.adopt("count", bad.into())).ok();
        let made = meant.zip(count).map(|(meant, count)| Self { meant, count });
        checks.done(made).map_err(Checks::from)
    }
}

/// Sees messages in their order, and says of each expectation what became of it.
#[derive(Debug)]
pub struct Judging<'e> {
    expectations: &'e [Expectation],
    found: Vec<u64>,
    /// Whether each has to be met behind the one before it.
    is_ordered: bool,
    /// The one that is to be met next, and how many messages of it came behind the one before.
    stage: usize,
    behind: u64,
}

/// What became of an expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub has_passed: bool,
    /// How many came.
    pub found: u64,
    /// For people: `expected exactly 3 messages, found 1`.
    pub text: String,
    /// Whether more would have been needed.
    pub is_short: bool,
}

impl<'e> Judging<'e> {
    pub fn new(expectations: &'e [Expectation], is_ordered: bool) -> Self {
        let mut judging =
            Self { expectations, found: vec![0; expectations.len()], is_ordered, stage: 0, behind: 0 };
        judging.skip_met();
        judging
    }

    /// Takes the next message; `meant` is told of each expectation, by position, that it is one of.
    pub fn see(&mut self, message: &Message<'_>, mut meant: impl FnMut(usize)) {
        let stage = self.stage;
        for (position, expectation) in self.expectations.iter().enumerate() {
            if !expectation.meant.matches(message) {
                continue;
            }
            self.found[position] += 1;
            meant(position);
            // A message meets one of those that follow each other.
            if position == stage {
                self.behind += 1;
                self.skip_met();
            }
        }
    }

    /// Goes on to the next expectation that is not met.
    fn skip_met(&mut self) {
        while let Some(expectation) = self.expectations.get(self.stage)
            && expectation.count.is_reached(self.behind)
        {
            self.stage += 1;
            self.behind = 0;
        }
    }

    pub fn judgements(&self) -> Vec<Judgement> {
        self.expectations.iter().enumerate().map(|(position, one)| self.judge(position, one)).collect()
    }

    fn judge(&self, position: usize, Expectation { count, .. }: &Expectation) -> Judgement {
        let found = self.found[position];
        let is_late = self.is_ordered && position >= self.stage && count.is_reached(found);
        let text = if is_late {
            let behind = if position == self.stage { self.behind } else { 0 };
            // People count from 1, so this is the one before.
            format!(
                "expected {count} behind those of expectation {position}, found {behind} of {found} there"
            )
        } else {
            format!("expected {count}, found {found}")
        };
        Judgement {
            has_passed: count.contains(found) && !is_late,
            found,
            text,
            is_short: !count.is_reached(found) || is_late,
        }
    }
}
