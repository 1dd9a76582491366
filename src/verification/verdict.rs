//! What a comparison found.

use std::{collections::BTreeMap, time::Duration};

use super::{Difference, DifferenceKind, Level, Owner, TooDifferent};

/// What was compared and in what it differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub level: Level,
    /// Packets that were expected; of level count, messages.
    pub expected: u64,
    pub observed: u64,
    /// In both, equal.
    pub matched: u64,
    /// By kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// Messages that were sent again and are as they should be.
    pub repeated: u64,
    /// Packets of exchanges that differ because their message does; not counted as differences.
    pub consequences: u64,
    /// The first ones, by the place they have in the recording.
    pub differences: Vec<Difference>,
    /// What was compared of each receiver, by name.
    pub sessions: Vec<SessionVerdict>,
    /// When each judged packet came on both sides; only of the first ones.
    pub timeline: Timeline,
    /// Why not all was judged, if it was not.
    pub incomplete: Option<TooDifferent>,
}

/// Of one session, or of subscribers that share.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionVerdict {
    pub owner: Owner,
    pub expected: u64,
    pub observed: u64,
    pub matched: u64,
    pub differences: u64,
}

impl SessionVerdict {
    pub fn new(owner: Owner) -> Self {
        Self { owner, expected: 0, observed: 0, matched: 0, differences: 0 }
    }
}

/// When what was expected and observed came, since each began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    pub expected: Vec<Duration>,
    pub observed: Vec<Duration>,
}

impl Verdict {
    /// Nothing was compared.
    pub fn nothing(level: Level) -> Self {
        Self {
            level,
            expected: 0,
            observed: 0,
            matched: 0,
            counts: BTreeMap::new(),
            repeated: 0,
            consequences: 0,
            differences: Vec::new(),
            sessions: Vec::new(),
            timeline: Timeline::default(),
            incomplete: None,
        }
    }

    /// Whether all is as expected, and something was.
    pub fn has_passed(&self) -> bool {
        self.is_complete() && self.difference_count() == 0 && self.expected > 0
    }

    /// Whether all was judged.
    pub fn is_complete(&self) -> bool {
        self.incomplete.is_none()
    }

    /// Whether there was nothing to judge.
    pub fn is_empty(&self) -> bool {
        self.expected == 0 && self.observed == 0
    }

    /// What is counted.
    pub fn things(&self) -> &'static str {
        match self.level {
            Level::Packets => "packets",
            Level::Count | Level::Payload => "messages",
        }
    }

    pub fn difference_count(&self) -> u64 {
        self.counts.values().sum()
    }

    pub fn count(&self, kind: DifferenceKind) -> u64 {
        self.counts.get(kind.name()).copied().unwrap_or_default()
    }
}
