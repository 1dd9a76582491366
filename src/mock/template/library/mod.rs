//! The helpers: what templates call by name.
//!
//! A row says how a helper is called, so that calls are checked when a template is parsed; its function gets arguments
//! that were evaluated, and answers in JSON's types.

mod clock;
mod data;
mod faker;
mod logic;
mod number;
mod random;
mod text;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
};

use serde_json::Value;
use serde_json_path::JsonPath;

use self::number::Num;
use super::Surroundings;
use crate::{draws::Draws, mock::State};

pub(super) use self::{
    data::{member, query},
    logic::is_true,
};

/// Bytes that a rendering, or one value on the way, may have.
pub(super) const OUTPUT_LEN_MAX: usize = 16 << 20;

/// One helper.
#[derive(Debug)]
pub(super) struct Helper {
    pub name: &'static str,
    /// Its arguments, as people write them: `min max [digits]`.
    arguments: &'static str,
    pub at_least: usize,
    pub at_most: usize,
    /// By position; the last one goes for the rest, too.
    kinds: &'static [Kind],
    pub named: &'static [(&'static str, Kind)],
    /// Whether `{{#name …}}` is a condition.
    pub opens_block: bool,
    run: Run,
}

type Run = for<'v> fn(&mut Given<'_, 'v>) -> Result<Slot<'v>, Failure>;

/// What an argument has to be, as far as a literal shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    /// Also a number and a truth value, as they print.
    Text,
    /// Also a text that is one.
    Number,
    Whole,
    Query,
    /// Only the renderer knows which may be read.
    Variable,
}

/// A value on its way from one helper to the next.
#[derive(Clone, Debug)]
pub(super) enum Slot<'v> {
    Value(Cow<'v, Value>),
    /// A number that prints with exactly these digits; to another helper, it is a number like any other.
    Fixed(String),
    /// What is to be said about it where it is needed.
    Missing(String),
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Which `default` and conditions forgive.
    Missing(String),
    Other(String),
}

/// A call whose arguments were evaluated.
pub(super) struct Given<'c, 'v> {
    pub arguments: &'c [Slot<'v>],
    pub named: &'c [(&'static str, Slot<'v>)],
    /// Read already, if it was a literal.
    pub query: Option<&'c JsonPath>,
    pub environment: &'c BTreeMap<String, String>,
    pub around: &'c mut Surroundings,
}

pub(super) fn find(name: &str) -> Option<&'static Helper> {
    all().find(|helper| helper.name == name)
}

/// What `{{#name …}}` is a condition by.
pub(super) fn find_condition(name: &str) -> Option<&'static Helper> {
    conditions().find(|helper| helper.name == name)
}

pub(super) fn conditions() -> impl Iterator<Item = &'static Helper> {
    logic::CONDITIONS.iter().chain(all().filter(|helper| helper.opens_block))
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    all().map(|helper| helper.name)
}

pub(super) fn all() -> impl Iterator<Item = &'static Helper> {
    [
        clock::HELPERS,
        random::HELPERS,
        number::HELPERS,
        text::HELPERS,
        logic::HELPERS,
        data::HELPERS,
        faker::HELPERS,
    ]
    .into_iter()
    .flatten()
}

/// Calls a helper of which all arguments are literals, to see whether it can do it at all.
///
/// # Errors
/// What it says.
pub(super) fn rehearse(
    helper: &Helper,
    arguments: &[&Value],
    named: &[(&'static str, &Value)],
    query: Option<&JsonPath>,
) -> Result<(), String> {
    if helper.kinds.contains(&Kind::Variable) {
        return Ok(());
    }
    let arguments: Vec<_> = arguments.iter().map(|value| Slot::Value(Cow::Borrowed(value))).collect();
    let named: Vec<_> =
        named.iter().map(|(name, value)| (*name, Slot::Value(Cow::Borrowed(*value)))).collect();
    let mut around =
        Surroundings { draws: Draws::new(0), now: jiff::Timestamp::UNIX_EPOCH, state: Default::default() };
    let mut given = Given {
        arguments: &arguments,
        named: &named,
        query,
        environment: &BTreeMap::new(),
        around: &mut around,
    };
    match helper.run(&mut given) {
        Err(Failure::Other(reason)) => Err(reason),
        _ => Ok(()),
    }
}

impl Helper {
    const fn new(name: &'static str, arguments: &'static str, kinds: &'static [Kind], run: Run) -> Self {
        let (at_least, at_most) = (kinds.len(), kinds.len());
        Self { name, arguments, at_least, at_most, kinds, named: &[], opens_block: false, run }
    }

    /// Takes so many arguments instead of one for each kind.
    const fn taking(self, at_least: usize, at_most: usize) -> Self {
        Self { at_least, at_most, ..self }
    }

    const fn named(self, named: &'static [(&'static str, Kind)]) -> Self {
        Self { named, ..self }
    }

    const fn opening_blocks(self) -> Self {
        Self { opens_block: true, ..self }
    }

    pub fn kind(&self, index: usize) -> Kind {
        self.kinds.get(index).or(self.kinds.last()).copied().unwrap_or(Kind::Any)
    }

    /// How it is called, between backticks: `random_int min max`.
    pub fn usage(&self) -> String {
        format!("`{}`", format!("{} {}", self.name, self.arguments).trim_end())
    }

    pub fn says(&self, reason: &str) -> String {
        format!("{}: {reason}", self.name)
    }

    pub fn run<'v>(&self, given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
        let mut slot = (self.run)(given);
        let len = match &slot {
            Ok(Slot::Value(value)) => value.as_str().map_or(0, str::len),
            _ => 0,
        };
        if len > OUTPUT_LEN_MAX {
            slot = Err(too_long());
        }
        match slot {
            Err(Failure::Other(reason)) => Err(Failure::Other(self.says(&reason))),
            slot => slot,
        }
    }
}

impl Kind {
    /// # Errors
    /// What is wrong with a literal.
    pub fn check(self, value: &Value) -> Result<(), String> {
        match self {
            Self::Any | Self::Variable => Ok(()),
            Self::Text if value.is_array() || value.is_object() => Err(format!("{value} is no text")),
            Self::Text => Ok(()),
            Self::Number => Num::of(value).map(drop),
            Self::Whole => Num::of(value)?.whole().map(drop),
            Self::Query => match value {
                Value::String(text) => query(text).map(drop),
                _ => Err(format!("{} is no JSONPath", shown(value))),
            },
        }
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

impl From<Value> for Slot<'_> {
    fn from(value: Value) -> Self {
        Self::Value(Cow::Owned(value))
    }
}

impl From<String> for Slot<'_> {
    fn from(text: String) -> Self {
        Value::String(text).into()
    }
}

impl From<bool> for Slot<'_> {
    fn from(truth: bool) -> Self {
        Value::Bool(truth).into()
    }
}

impl Slot<'_> {
    /// Nothing where it is missing.
    pub fn get(&self) -> Option<Cow<'_, Value>> {
        match self {
            Self::Value(value) => Some(Cow::Borrowed(value)),
            Self::Fixed(text) => Some(Cow::Owned(Value::Number(text.parse().ok()?))),
            Self::Missing(_) => None,
        }
    }

    /// # Errors
    /// That it is missing.
    pub fn value(&self) -> Result<Cow<'_, Value>, Failure> {
        match self {
            Self::Missing(reason) => Err(Failure::Missing(reason.clone())),
            _ => self.get().ok_or_else(|| "the result is no number".to_owned().into()),
        }
    }

    /// As it prints.
    ///
    /// # Errors
    /// That it is missing.
    pub fn text(&self) -> Result<Cow<'_, str>, Failure> {
        match self {
            Self::Value(value) => Ok(text_of(value)),
            Self::Fixed(text) => Ok(Cow::Borrowed(text)),
            Self::Missing(reason) => Err(Failure::Missing(reason.clone())),
        }
    }
}

impl<'v> Given<'_, 'v> {
    fn has(&self, index: usize) -> bool {
        index < self.arguments.len()
    }

    fn value(&self, index: usize) -> Result<Cow<'_, Value>, Failure> {
        self.arguments[index].value()
    }

    fn text(&self, index: usize) -> Result<Cow<'_, str>, Failure> {
        self.arguments[index].text()
    }

    fn num(&self, index: usize) -> Result<Num, Failure> {
        Ok(Num::of(&*self.value(index)?)?)
    }

    fn real(&self, index: usize) -> Result<f64, Failure> {
        Ok(self.num(index)?.real())
    }

    fn whole(&self, index: usize) -> Result<i64, Failure> {
        Ok(self.num(index)?.whole()?)
    }

    /// How many digits behind the point, if this argument is there.
    fn digits(&self, index: usize) -> Result<Option<usize>, Failure> {
        if !self.has(index) {
            return Ok(None);
        }
        let digits = self.whole(index)?;
        // A double has no more than 17 that mean anything.
        match usize::try_from(digits) {
            Ok(digits @ 0..=17) => Ok(Some(digits)),
            _ => Err(format!("expected 0 to 17 digits, not {digits}").into()),
        }
    }

    fn named(&self, name: &str) -> Option<&Slot<'v>> {
        self.named.iter().find(|(given, _)| *given == name).map(|(_, slot)| slot)
    }

    fn draws(&mut self) -> &mut Draws {
        &mut self.around.draws
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic left behind is a whole store all the same.
        self.around.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `{{x}}` prints.
pub(super) fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::String(text) => Cow::Borrowed(text),
        Value::Bool(truth) => Cow::Borrowed(if *truth { "true" } else { "false" }),
        Value::Number(number) => Cow::Owned(number::plain(number)),
        Value::Array(_) | Value::Object(_) => Cow::Owned(value.to_string()),
    }
}

/// A value in a message, no longer than is fit to read.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn too_long() -> Failure {
    format!("the result has more than {} MiB", OUTPUT_LEN_MAX >> 20).into()
}
