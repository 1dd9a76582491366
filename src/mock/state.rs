//! The small store that mocks read and write.
//!
//! Values are found by scope and key; counters and walks, which helpers of templates keep here, by key alone. All of it
//! is bounded, so that a mock whose keys come from messages cannot eat the memory.

use std::{collections::BTreeMap, fmt, io};

use serde_json::{Map, Value};

/// Bytes of a key.
const KEY_LEN_MAX: usize = 256;

/// Whose value it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateScope {
    Global,
    /// By client identifier.
    Client(String),
}

/// A scope is `global` or `client:` and a client identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected \"global\" or \"client:\" and a client identifier, not \"{0}\"")]
pub struct BadStateScope(pub String);

impl StateScope {
    /// Reads what [`Display`](fmt::Display) prints.
    ///
    /// # Errors
    /// [`BadStateScope`], also for a client identifier of no bytes.
    pub fn parse(text: &str) -> Result<Self, BadStateScope> {
        match text.split_once(':') {
            None if text == "global" => Ok(Self::Global),
            Some(("client", identifier)) if !identifier.is_empty() => Ok(Self::Client(identifier.to_owned())),
            _ => Err(BadStateScope(text.to_owned())),
        }
    }
}

impl fmt::Display for StateScope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => formatter.write_str("global"),
            Self::Client(identifier) => write!(formatter, "client:{identifier}"),
        }
    }
}

/// There is no room for another value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state store is full: {0}")]
pub struct StateFull(pub String);

/// Why a value was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Full(#[from] StateFull),
    #[error("a key of the state store has 1 to {KEY_LEN_MAX} bytes, not {0}")]
    BadKey(usize),
    #[error("a value of {size} bytes of JSON exceeds the limit of {limit}")]
    ValueTooLarge { size: usize, limit: usize },
}

/// How much a [`State`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLimits {
    /// Values of all scopes together.
    pub entries: usize,
    /// Bytes of one value as compact JSON.
    pub value_len: usize,
    /// Bytes of all values as compact JSON, with their keys.
    pub total_len: usize,
    /// Counters, and as many walks.
    pub counters: usize,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self { entries: 10_000, value_len: 256 << 10, total_len: 16 << 20, counters: 10_000 }
    }
}

/// JSON values by scope and key, counters and walks by key.
#[derive(Debug, Default)]
pub struct State {
    limits: StateLimits,
    global: Values,
    clients: BTreeMap<String, Values>,
    entries: usize,
    total_len: usize,
    counters: BTreeMap<String, i64>,
    walks: BTreeMap<String, f64>,
}

type Values = BTreeMap<String, Entry>;

#[derive(Debug)]
struct Entry {
    value: Value,
    /// What it counts for in [`StateLimits::total_len`].
    len: usize,
}

/// A walk at random that stays between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Walk {
    pub start: f64,
    /// The farthest that one step goes, up or down.
    pub step: f64,
    pub min: f64,
    pub max: f64,
}

impl State {
    pub fn new(limits: StateLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// What `{{state.key}}` prints: the client's own value, else the one of all.
    pub fn find(&self, client_identifier: &str, key: &str) -> Option<&Value> {
        let own = self.clients.get(client_identifier).and_then(|values| values.get(key));
        own.or_else(|| self.global.get(key)).map(|entry| &entry.value)
    }

    /// What `{{state}}` is for a client: the values of all, its own before them.
    pub fn seen_by(&self, client_identifier: &str) -> Map<String, Value> {
        let own = self.clients.get(client_identifier).into_iter().flatten();
        self.global.iter().chain(own).map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
    }

    /// The value of exactly this scope.
    pub fn get(&self, scope: &StateScope, key: &str) -> Option<&Value> {
        self.values_of(scope)?.get(key).map(|entry| &entry.value)
    }

    /// Every value, the global ones first, then by client identifier; by key within.
    pub fn list(&self) -> impl Iterator<Item = (StateScope, &str, &Value)> {
        let global = self.global.iter().map(|(key, entry)| (StateScope::Global, &**key, &entry.value));
        let own = self.clients.iter().flat_map(|(identifier, values)| {
            values.iter().map(|(key, entry)| (StateScope::Client(identifier.clone()), &**key, &entry.value))
        });
        global.chain(own)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Writes a value over the one that was there.
    ///
    /// # Errors
    /// [`StateError`]; the old value then stays.
    pub fn set(&mut self, scope: &StateScope, key: &str, value: Value) -> Result<(), StateError> {
        check_key(key)?;
        let size = json_len(&value);
        if size > self.limits.value_len {
            return Err(StateError::ValueTooLarge { size, limit: self.limits.value_len });
        }
        let len = size + key.len();
        let old = self.values_of(scope).and_then(|values| values.get(key)).map(|entry| entry.len);
        if old.is_none() && self.entries >= self.limits.entries {
            return Err(StateFull(format!("it holds {} values", self.entries)).into());
        }
        let total_len = self.total_len - old.unwrap_or_default() + len;
        if total_len > self.limits.total_len {
            let limit = self.limits.total_len;
            return Err(StateFull(format!("{total_len} bytes exceed the limit of {limit}")).into());
        }
        let values = match scope {
            StateScope::Global => &mut self.global,
            StateScope::Client(identifier) => self.clients.entry(identifier.clone()).or_default(),
        };
        values.insert(key.to_owned(), Entry { value, len });
        self.entries += usize::from(old.is_none());
        self.total_len = total_len;
        Ok(())
    }

    /// Takes a value out of exactly this scope.
    pub fn delete(&mut self, scope: &StateScope, key: &str) -> Option<Value> {
        let removed = match scope {
            StateScope::Global => self.global.remove(key)?,
            StateScope::Client(identifier) => {
                let values = self.clients.get_mut(identifier)?;
                let removed = values.remove(key)?;
                if values.is_empty() {
                    self.clients.remove(identifier);
                }
                removed
            }
        };
        self.entries -= 1;
        self.total_len -= removed.len;
        Some(removed.value)
    }

    /// Empties all of it, counters and walks too; the limits stay.
    pub fn reset(&mut self) {
        *self = Self::new(self.limits);
    }

    /// The next number of a counter: `start`, then always `step` more. It stops at the ends of what 64 bits hold.
    ///
    /// # Errors
    /// [`StateError`] for a new counter only.
    pub fn count(&mut self, key: &str, start: i64, step: i64) -> Result<i64, StateError> {
        if let Some(count) = self.counters.get_mut(key) {
            *count = count.saturating_add(step);
            return Ok(*count);
        }
        check_key(key)?;
        if self.counters.len() >= self.limits.counters {
            return Err(StateFull(format!("it holds {} counters", self.counters.len())).into());
        }
        self.counters.insert(key.to_owned(), start);
        Ok(start)
    }

    /// The next place of a walk: its start, then one step on. `fraction`, from 0 to 1, chooses the step between the
    /// farthest down and the farthest up.
    ///
    /// # Errors
    /// [`StateError`] for a new walk only.
    pub fn walk(&mut self, key: &str, walk: Walk, fraction: f64) -> Result<f64, StateError> {
        let within = |place: f64| place.min(walk.max).max(walk.min);
        if let Some(place) = self.walks.get_mut(key) {
            *place = within(*place + (fraction * 2.0 - 1.0) * walk.step);
            return Ok(*place);
        }
        check_key(key)?;
        if self.walks.len() >= self.limits.counters {
            return Err(StateFull(format!("it holds {} walks", self.walks.len())).into());
        }
        let place = within(walk.start);
        self.walks.insert(key.to_owned(), place);
        Ok(place)
    }

    fn values_of(&self, scope: &StateScope) -> Option<&Values> {
        match scope {
            StateScope::Global => Some(&self.global),
            StateScope::Client(identifier) => self.clients.get(identifier),
        }
    }
}

fn check_key(key: &str) -> Result<(), StateError> {
    if (1..=KEY_LEN_MAX).contains(&key.len()) { Ok(()) } else { Err(StateError::BadKey(key.len())) }
}

/// The length of a value as compact JSON, without writing it anywhere.
fn json_len(value: &Value) -> usize {
    struct Counted(usize);
    impl io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, value).expect("a value is JSON, and counting does not fail");
    counted.0
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    /// Runs lines like `global k = 1`, `client:a k`, `delete global k`, `reset` and shows what each says, then the store.
    fn check(limits: StateLimits, script: &str, expected: Expect) {
        let mut state = State::new(limits);
        let mut said = String::new();
        for line in script.lines().map(str::trim) {
            let answer = match line.split(' ').collect::<Vec<_>>()[..] {
                ["reset"] => {
                    state.reset();
                    "done".to_owned()
                }
                ["delete", scope, key] => show(state.delete(&scope_of(scope), key).as_ref()),
                ["find", client, key] => show(state.find(client, key)),
                ["count", key] => say(state.count(key, 1, 2)),
                [scope, key] => show(state.get(&scope_of(scope), key)),
                [scope, key, "=", value] => {
                    let value = serde_json::from_str(value).expect("JSON");
                    say(state.set(&scope_of(scope), key, value).map(|()| "done"))
                }
                _ => panic!("no such line: {line}"),
            };
            writeln!(said, "{line}: {answer}").expect("a String");
        }
        for (scope, key, value) in state.list() {
            writeln!(said, "holds {scope} {key} {value}").expect("a String");
        }
        expected.assert_eq(&said);
    }

    fn scope_of(text: &str) -> StateScope {
        StateScope::parse(text).expect("a scope")
    }

    fn show(value: Option<&Value>) -> String {
        value.map_or("nothing".to_owned(), Value::to_string)
    }

    fn say<T: fmt::Display, E: fmt::Display>(result: Result<T, E>) -> String {
        result.map_or_else(|error| error.to_string(), |answer| answer.to_string())
    }

    #[test]
    fn a_clients_own_value_stands_before_the_one_of_all() {
        check(
            StateLimits::default(),
            "global mode = \"day\"
             client:a mode = \"night\"
             find a mode
             find b mode
             client:b mode
             delete client:a mode
             delete client:a mode
             find a mode",
            expect![[r#"
                global mode = "day": done
                client:a mode = "night": done
                find a mode: "night"
                find b mode: "day"
                client:b mode: nothing
                delete client:a mode: "night"
                delete client:a mode: nothing
                find a mode: "day"
                holds global mode "day"
            "#]],
        );
    }

    #[test]
    fn a_full_store_refuses_new_values_and_keeps_old_ones() {
        let limits = StateLimits { entries: 2, value_len: 8, total_len: 16, counters: 1 };
        check(
            limits,
            "global a = 1
             global b = 2
             global c = 3
             global b = \"a_text_too_long\"
             global b = \"123456\"
             global a = \"123456\"
             count x
             count x
             count y
             global a
             reset
             count y
             global c = 3",
            expect![[r#"
                global a = 1: done
                global b = 2: done
                global c = 3: the state store is full: it holds 2 values
                global b = "a_text_too_long": a value of 17 bytes of JSON exceeds the limit of 8
                global b = "123456": done
                global a = "123456": the state store is full: 18 bytes exceed the limit of 16
                count x: 1
                count x: 3
                count y: the state store is full: it holds 1 counters
                global a: 1
                reset: done
                count y: 1
                global c = 3: done
                holds global c 3
            "#]],
        );
    }

    #[test]
    fn keys_have_1_to_256_bytes() {
        let mut state = State::default();
        let mut set = |key: &str| state.set(&StateScope::Global, key, json!(1));
        assert_eq!(set(""), Err(StateError::BadKey(0)));
        assert_eq!(set(&"k".repeat(256)), Ok(()));
        let error = set(&"k".repeat(257)).expect_err("257 bytes");
        assert_eq!(error.to_string(), "a key of the state store has 1 to 256 bytes, not 257");
        assert_eq!(state.count("", 1, 1), Err(StateError::BadKey(0)));
    }

    #[test]
    fn what_is_counted_is_what_is_there() {
        let mut state = State::default();
        let scopes = [StateScope::Global, StateScope::Client("a".to_owned())];
        for round in 0..3 {
            for scope in &scopes {
                state.set(scope, "k", json!("x".repeat(round * 10))).expect("room");
            }
        }
        assert_eq!((state.len(), state.total_len), (2, 2 * (20 + 2 + 1)));
        assert_eq!(state.seen_by("a").len(), 1);
        for scope in &scopes {
            state.delete(scope, "k").expect("a value");
        }
        assert_eq!((state.len(), state.total_len, state.clients.len()), (0, 0, 0));
    }

    #[test]
    fn a_walk_starts_at_its_start_and_stays_within_its_bounds() {
        let mut state = State::default();
        let walk = Walk { start: 20.0, step: 4.0, min: 15.0, max: 22.0 };
        let places = [0.0, 0.75, 0.9, 0.0, 0.0, 0.5]
            .map(|fraction| state.walk("temp", walk, fraction).expect("room for a walk"));
        assert_eq!(places, [20.0, 22.0, 22.0, 18.0, 15.0, 15.0]);
        let outside = Walk { start: 99.0, ..walk };
        assert_eq!(state.walk("other", outside, 0.5), Ok(22.0));
    }

    #[test]
    fn scopes_are_read_as_they_are_printed() {
        for scope in [StateScope::Global, StateScope::Client("a:b c".to_owned())] {
            assert_eq!(StateScope::parse(&scope.to_string()), Ok(scope));
        }
        for bad in ["", "client", "client:", "Global", "global:x"] {
            let error = StateScope::parse(bad).expect_err("no scope").to_string();
            let expected = "expected \"global\" or \"client:\" and a client identifier, not ";
            assert_eq!(error, format!("{expected}\"{bad}\""));
        }
    }
}
