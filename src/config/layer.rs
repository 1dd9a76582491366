//! What one source (file, environment, flags) said, before it is checked.

use std::collections::BTreeMap;

use super::{
    error::{ConfigError, Origin},
    problems::Problems,
    setting::{Given, PREFIX, SETTINGS},
};
use crate::likeness::most_alike;

/// Settings by key, as typed.
#[derive(Debug, Default)]
pub struct Layer {
    given: BTreeMap<&'static str, (Given, Origin)>,
}

/// A flag that says a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The setting's key: `mqtt.port`.
    pub key: &'static str,
    /// With its dashes: `--mqtt-port`.
    pub name: &'static str,
    pub value: String,
}

impl Layer {
    pub fn insert(&mut self, key: &'static str, given: Given, origin: Origin) {
        self.given.insert(key, (given, origin));
    }

    pub fn get(&self, key: &str) -> Option<&(Given, Origin)> {
        self.given.get(key)
    }

    /// This layer's values, and `below`'s where this one has none.
    pub fn or(mut self, below: Self) -> Self {
        for (key, said) in below.given {
            self.given.entry(key).or_insert(said);
        }
        self
    }

    pub fn from_flags(flags: Vec<Flag>) -> Self {
        let mut layer = Self::default();
        for flag in flags {
            layer.insert(flag.key, Given::Spelled(flag.value), Origin::Flag(flag.name));
        }
        layer
    }

    /// Takes the variables that start with `MOCKFORGE_`; an empty one counts as not set. One that is none of ours is a problem,
    /// [`ConfigError::UnknownVariable`]: a typo in `MOCKFORGE_API_TOKEN` would leave the control plane open.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (String, String)>,
        problems: &mut Problems,
    ) -> Self {
        let known: Vec<(String, &'static str)> =
            SETTINGS.iter().map(|setting| (setting.variable(), setting.key)).collect();
        let mut layer = Self::default();
        for (name, value) in variables {
            if !name.starts_with(PREFIX) {
                continue;
            }
            if let Some((_, key)) = known.iter().find(|(variable, _)| *variable == name) {
                if !value.is_empty() {
                    layer.insert(key, Given::Spelled(value), Origin::Variable(name));
                }
                continue;
            }
            let names = known.iter().map(|(variable, _)| variable.as_str());
            let (nearest, _) = nearest(&name, names).expect("the table has rows");
            problems.add(ConfigError::UnknownVariable { name, nearest: nearest.to_owned() });
        }
        layer
    }
}

/// The key as it stands in the table.
///
/// # Errors
/// [`ConfigError::UnknownKey`] with the nearest one; `by` is who said it.
pub fn setting_key(key: &str, by: &'static str) -> Result<&'static str, ConfigError> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
        return Ok(setting.key);
    }
    let (nearest, _) = nearest(key, SETTINGS.iter().map(|setting| setting.key)).expect("the table has rows");
    Err(ConfigError::UnknownKey {
        origin: Origin::Flag(by),
        key: key.to_owned(),
        section: String::new(),
        hint: format!("did you mean {nearest}?"),
    })
}

/// The most alike of `names`, and how much, from 0 to 1. The prefix that all variables share counts
/// for nothing.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, f64)> {
    fn own(name: &str) -> &str {
        name.strip_prefix(PREFIX).unwrap_or(name)
    }
    let names: Vec<&str> = names.into_iter().collect();
    let (alike, likeness) = most_alike(own(name), names.iter().map(|known| own(known)))?;
    names.into_iter().find(|known| own(known) == alike).map(|known| (known, likeness))
}
