//! Compares two streams of events.

use std::{collections::HashMap, sync::Arc};

#[cfg(test)]
use super::allowance::Allowance;
use super::{
    Identity, Judged, Level, Place, Rules, Scope, Told, TooDifferent, Verdict,
    bucket::{Bucket, Item},
    outcome::{Outcome, Tally},
    scope::Demand,
    side::Side,
    too_different::{WAITING_BYTES_MAX, WAITING_MAX},
    verdict::Timeline,
    waiting::Waiting,
};
use crate::recording::Event;

/// Packets whose time is kept for the timeline, of each side.
const TIMES_MAX: usize = 20_000;

/// Is told what is expected and what is observed, each in its own order, and says in what they differ.
pub struct Verifier {
    level: Level,
    rules: Arc<Rules>,
    expected: Side,
    observed: Side,
    buckets: HashMap<Arc<Bucket>, Open>,
    outstanding: u64,
    /// Packets of what is expected that wait, less those of what was observed.
    ahead: i64,
    waiting: usize,
    waiting_bytes: usize,
    waiting_max: usize,
    outcome: Outcome,
    timeline: Timeline,
    incomplete: Option<TooDifferent>,
}

/// A bucket that was seen.
#[derive(Default)]
struct Open {
    /// Of level count, nothing.
    waiting: Option<Waiting>,
    tally: Tally,
    /// Where the first one is, and whether it was expected.
    first: Option<(Place, bool)>,
}

impl Verifier {
    pub fn new(level: Level, judged: Judged, identity: Identity, rules: Arc<Rules>) -> Self {
        Self {
            level,
            rules,
            expected: Side::new(true, level, judged, identity),
            observed: Side::new(false, level, judged, identity),
            buckets: HashMap::new(),
            outstanding: 0,
            ahead: 0,
            waiting: 0,
            waiting_bytes: 0,
            waiting_max: WAITING_MAX,
            outcome: Outcome::default(),
            timeline: Timeline::default(),
            incomplete: None,
        }
    }

    #[cfg(test)]
    pub(super) fn limited(mut self, waiting_max: usize, known_max: usize) -> Self {
        self.waiting_max = waiting_max;
        self.expected.limit(Allowance::limited(known_max));
        self.observed.limit(Allowance::limited(known_max));
        self
    }

    /// Judges a part of what it is told; said before anything is told.
    pub fn scoped(mut self, scope: Scope) -> Self {
        let scope = Arc::new(scope);
        self.expected.set_scope(scope.clone());
        self.observed.set_scope(scope);
        self
    }

    /// A connection that is observed, and whose CONNECT was not yet, is what became of one that is expected: it is of the
    /// same client and session, whatever it calls itself. Without that, clients are known by their identifiers, those without
    /// one by the order of their CONNECTs, and sessions by how many clean starts there were. As long as the expected CONNECT
    /// was not told, only a client without identifier is matched.
    pub fn stands_for(&mut self, observed: u32, expected: u32) {
        let line = self.expected.stood_for(expected);
        self.observed.stand(observed, line);
    }

    /// Names the client of a connection that is expected, and whose CONNECT was not told, should it have no identifier.
    pub fn call_expected(&mut self, connection: u32, name: String) {
        self.expected.call(connection, name);
    }

    /// The same of one that is observed.
    pub fn call_observed(&mut self, connection: u32, name: String) {
        self.observed.call(connection, name);
    }

    /// Calls clients of what is observed by other names: the recorded ones.
    pub fn rename_observed(&mut self, names: impl Fn(&str) -> String + Send + 'static) {
        self.observed.rename(names);
    }

    /// Calls clients of what is expected by other names.
    pub fn rename_expected(&mut self, names: impl Fn(&str) -> String + Send + 'static) {
        self.expected.rename(names);
    }

    /// The next event of what is expected.
    ///
    /// # Errors
    /// [`TooDifferent`], from then on for all events; what came so far is judged by [`finish`](Self::finish), which does not
    /// call it passed.
    pub fn expect(&mut self, event: &Event) -> Result<(), TooDifferent> {
        self.take(true, event, Demand::Required)
    }

    /// The same of what may as well not come.
    ///
    /// # Errors
    /// As [`expect`](Self::expect).
    pub fn allow(&mut self, event: &Event) -> Result<(), TooDifferent> {
        self.take(true, event, Demand::Allowed)
    }

    /// The next event of what is observed.
    ///
    /// # Errors
    /// As [`expect`](Self::expect).
    pub fn observe(&mut self, event: &Event) -> Result<(), TooDifferent> {
        self.take(false, event, Demand::Required)
    }

    /// The next event of what is observed, which is followed and not judged: what was done to have what was in force at the
    /// beginning, and what came of it. Answers to it are not judged either, whenever they come.
    pub fn observe_unjudged(&mut self, event: &Event) {
        // Whoever goes on hears of it.
        _ = self.take(false, event, Demand::Ignored);
    }

    /// The same of what is expected.
    pub fn expect_unjudged(&mut self, event: &Event) {
        _ = self.take(true, event, Demand::Ignored);
    }

    /// How much of what is required was not observed in its place yet.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Whether more waits of what is expected than of what was observed: to hear what was observed next lets less wait. Of
    /// level count nothing waits, and as many of both are to be told.
    pub fn is_observation_behind(&self) -> bool {
        self.ahead > 0
    }

    /// How many more wait of what is expected than of what was observed.
    pub fn ahead(&self) -> u64 {
        self.ahead.try_into().unwrap_or_default()
    }

    /// What is left over has no like.
    pub fn finish(mut self) -> Verdict {
        let mut buckets: Vec<_> = self.buckets.drain().collect();
        buckets.sort_by(|one, other| one.0.cmp(&other.0));
        for (bucket, open) in buckets {
            match open.waiting {
                Some(waiting) => waiting.finish(&self.rules, &mut |finding| self.outcome.found(finding)),
                None => {
                    let first = open.first.map(|(place, is_expected)| (Told::place(place), is_expected));
                    self.outcome.count(&bucket, open.tally, first);
                }
            }
        }
        self.outcome.repeated(self.observed.repeated);
        self.outcome.verdict(self.level, self.timeline, self.incomplete)
    }

    fn take(&mut self, is_expected: bool, event: &Event, demand: Demand) -> Result<(), TooDifferent> {
        if let Some(incomplete) = self.incomplete {
            return Err(incomplete);
        }
        let side = if is_expected { &mut self.expected } else { &mut self.observed };
        let item = side.read(event, &self.rules, demand);
        let is_too_large = side.is_too_large();
        if let Some(item) = item {
            self.push(is_expected, item);
        }
        let is_too_much = self.waiting > self.waiting_max || self.waiting_bytes > WAITING_BYTES_MAX;
        self.incomplete = match (is_too_large, is_too_much) {
            (true, _) => Some(TooDifferent::Known),
            (false, true) => Some(TooDifferent::Waiting),
            (false, false) => None,
        };
        self.incomplete.map_or(Ok(()), Err)
    }

    fn push(&mut self, is_expected: bool, item: Item) {
        let times = if is_expected { &mut self.timeline.expected } else { &mut self.timeline.observed };
        if times.len() < TIMES_MAX {
            times.push(item.place.at);
        }
        if !self.buckets.contains_key(&item.bucket) {
            self.buckets.insert(item.bucket.clone(), Open::default());
        }
        let open = self.buckets.get_mut(&item.bucket).expect("was inserted if it was not there");
        self.outcome.seen(is_expected, &item);
        let outstanding = open.outstanding();
        match (is_expected, item.is_required()) {
            (true, true) => open.tally.expected += 1,
            (true, false) => open.tally.allowed += 1,
            (false, _) => open.tally.observed += 1,
        }
        if self.level == Level::Count {
            open.first.get_or_insert((item.place, is_expected));
            self.ahead += if is_expected { 1 } else { -1 };
        } else {
            let waiting = open.waiting.get_or_insert_with(|| Waiting::of(&item));
            let (before, ahead) = (waiting.len(), waiting.ahead());
            self.waiting_bytes += item.size;
            let (outcome, bytes) = (&mut self.outcome, &mut self.waiting_bytes);
            waiting.push(is_expected, item, &self.rules, &mut |finding| {
                *bytes = bytes.saturating_sub(finding.size());
                outcome.found(finding);
            });
            self.waiting = (self.waiting + waiting.len()).saturating_sub(before);
            self.ahead += waiting.ahead() - ahead;
        }
        self.outstanding = self.outstanding + open.outstanding() - outstanding;
    }
}

impl Open {
    fn outstanding(&self) -> u64 {
        match &self.waiting {
            Some(waiting) => waiting.required_len() as u64,
            None => self.tally.expected.saturating_sub(self.tally.observed),
        }
    }
}
