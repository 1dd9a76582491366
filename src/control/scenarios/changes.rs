//! What runs of scenarios have changed in the server, and what was there before the first of them did.
//!
//! All runs of a server share it: of what several have changed, each would take what another has set for what was there
//! before. When the last of those that changed a thing ends, it is put back, unless it is not what they have left there any
//! more: then somebody else has changed it, which stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::{
    control::Control,
    fault::RuleView,
    mock::{MockView, StateScope},
};

/// By what it is that was changed. Whoever makes a change holds the lock until it is noted.
#[derive(Default)]
pub struct Changes {
    /// By id.
    pub rules: ChangesOf<String, RuleView>,
    /// By id.
    pub mocks: ChangesOf<String, MockView>,
    pub state: ChangesOf<(StateScope, String), Value>,
    pub seed: ChangesOf<(), u64>,
}

type ChangesOf<K, T> = BTreeMap<K, Change<T>>;

/// A thing that runs have changed; `None` where there was none, or is none since.
pub struct Change<T> {
    before: Option<T>,
    /// As a run left it last.
    after: Option<T>,
    /// Ids of those that go on.
    runs: BTreeSet<String>,
}

/// Who changes something.
#[derive(Clone, Copy)]
pub struct Author<'a> {
    pub run: &'a str,
    /// Whether it is to stay when the run has ended.
    pub keeps: bool,
}

/// What can tell whether it is still what a run has left.
pub trait Thing {
    fn is_left(after: Option<&Self>, now: Option<&Self>) -> bool;
}

impl Thing for RuleView {
    fn is_left(after: Option<&Self>, now: Option<&Self>) -> bool {
        // Whoever changes a rule makes another, though it may say the same.
        after.map(|view| Arc::as_ptr(&view.rule)) == now.map(|view| Arc::as_ptr(&view.rule))
    }
}

impl Thing for MockView {
    fn is_left(after: Option<&Self>, now: Option<&Self>) -> bool {
        after.map(|view| Arc::as_ptr(&view.mock)) == now.map(|view| Arc::as_ptr(&view.mock))
    }
}

impl Thing for Value {
    /// Mocks change what a run has set, and are no others. Calls that change it take it off the list.
    fn is_left(_: Option<&Self>, _: Option<&Self>) -> bool {
        true
    }
}

impl Thing for u64 {
    fn is_left(after: Option<&Self>, now: Option<&Self>) -> bool {
        after == now
    }
}

impl<T> Change<T> {
    pub fn before(&self) -> Option<&T> {
        self.before.as_ref()
    }
}

/// Notes that a thing was changed, from what to what.
pub fn note<K: Ord, T: Thing>(
    changes: &mut ChangesOf<K, T>,
    author: Author<'_>,
    key: K,
    before: Option<T>,
    after: Option<T>,
) {
    if author.keeps {
        // It stays, whoever else has changed it before.
        changes.remove(&key);
        return;
    }
    let run = author.run.to_owned();
    match changes.get_mut(&key) {
        Some(change) if T::is_left(change.after.as_ref(), before.as_ref()) => {
            change.after = after;
            change.runs.insert(run);
        }
        _ => _ = changes.insert(key, Change { before, after, runs: BTreeSet::from([run]) }),
    }
}

/// Takes off the list what no run that goes on has changed, once this one has ended.
fn ended<K: Ord + Clone, T>(changes: &mut ChangesOf<K, T>, run: &str) -> Vec<(K, Change<T>)> {
    let is_over = |change: &mut Change<T>| change.runs.remove(run) && change.runs.is_empty();
    let keys: Vec<K> =
        changes.iter_mut().filter_map(|(key, change)| is_over(change).then(|| key.clone())).collect();
    let mut over: Vec<_> = keys.into_iter().filter_map(|key| changes.remove_entry(&key)).collect();
    // What goes makes room for what comes back.
    over.sort_by_key(|(_, change)| change.before.is_some());
    over
}

impl Control {
    pub(in crate::control) fn scenario_changes(&self) -> MutexGuard<'_, Changes> {
        // Lists are whole between any two calls.
        self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts back what this run was the last to have changed.
    pub fn put_back(&self, run: &str) {
        let (Ok(chaos), Ok(mocks)) = (self.chaos(), self.mocks()) else { return };
        let mut changes = self.scenario_changes();
        let mut failures = Vec::new();
        for (id, change) in ended(&mut changes.rules, run) {
            if !is_left(&change, chaos.rule(&id).ok(), run, &format!("the rule {id:?}")) {
                continue;
            }
            let put = match &change.before {
                Some(before) => chaos.restore(before),
                None if change.after.is_some() => chaos.delete(&id),
                None => Ok(()),
            };
            failures.extend(put.err().map(|error| error.to_string()));
        }
        for (id, change) in ended(&mut changes.mocks, run) {
            if !is_left(&change, mocks.get(&id).ok(), run, &format!("the mock {id:?}")) {
                continue;
            }
            let put = match &change.before {
                Some(before) => mocks.restore(before),
                None if change.after.is_some() => mocks.delete(&id),
                None => Ok(()),
            };
            failures.extend(put.err().map(|error| error.to_string()));
        }
        for ((scope, key), change) in ended(&mut changes.state, run) {
            let mut state = mocks.state();
            let put = match change.before {
                Some(before) => state.set(&scope, &key, before),
                None => {
                    state.delete(&scope, &key);
                    Ok(())
                }
            };
            failures.extend(put.err().map(|error| error.to_string()));
        }
        for ((), change) in ended(&mut changes.seed, run) {
            if is_left(&change, Some(chaos.seed()), run, "the seed")
                && let Some(before) = change.before
            {
                failures.extend(self.put_seed(before).err().map(|error| error.to_string()));
            }
        }
        for error in failures {
            tracing::warn!(run, error, "what a scenario has changed cannot be put back");
        }
    }
}

fn is_left<T: Thing>(change: &Change<T>, now: Option<T>, run: &str, what: &str) -> bool {
    let is_left = T::is_left(change.after.as_ref(), now.as_ref());
    if !is_left {
        tracing::info!(run, what, "somebody else has changed it since the scenario did; it stays");
    }
    is_left
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Author<'static> = Author { run: "one", keeps: false };
    const TWO: Author<'static> = Author { run: "two", keeps: false };
    const KEEPER: Author<'static> = Author { run: "keeper", keeps: true };

    /// Changes a seed from 1 on, as `script` says: `one 5` sets it, `-one` ends that run; nobody else is `by hand`.
    fn check(script: &str, expected: u64) {
        let mut changes = ChangesOf::<(), u64>::new();
        let mut now = 1;
        for word in script.split(", ") {
            let author = |name: &str| match name {
                "one" => Some(ONE),
                "two" => Some(TWO),
                "keeper" => Some(KEEPER),
                _ => None,
            };
            match word.strip_prefix('-') {
                Some(run) => {
                    for ((), change) in ended(&mut changes, run) {
                        if u64::is_left(change.after.as_ref(), Some(&now)) {
                            now = change.before.expect("there is always one");
                        }
                    }
                }
                None => {
                    let (name, value) = word.split_once(' ').expect("who and what");
                    let value = value.parse().expect("a number");
                    if let Some(author) = author(name) {
                        note(&mut changes, author, (), Some(now), Some(value));
                    }
                    now = value;
                }
            }
        }
        assert_eq!(now, expected, "{script}");
    }

    #[test]
    fn what_runs_have_changed_is_put_back_when_the_last_of_them_ends() {
        check("one 5, -one", 1);
        check("one 5, two 6, -one", 6);
        check("one 5, two 6, -one, -two", 1);
        check("one 5, two 6, -two, -one", 1);
        check("one 5, two 6, one 7, -one, -two", 1);
    }

    #[test]
    fn what_somebody_else_has_changed_meanwhile_stays() {
        check("one 5, hand 9, -one", 9);
        check("one 5, hand 9, two 6, -two", 9);
        check("one 5, hand 9, two 6, -one, -two", 9);
        check("one 5, two 6, hand 9, -two, -one", 9);
    }

    #[test]
    fn what_a_run_that_keeps_has_set_stays() {
        check("keeper 5, -keeper", 5);
        check("one 5, keeper 6, -one, -keeper", 6);
        check("one 5, keeper 5, -keeper, -one", 5);
        check("keeper 5, one 6, -keeper, -one", 5);
    }
}
