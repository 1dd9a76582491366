//! What one source (file, environment, flags) said, before it is checked.

use std::collections::BTreeMap;

use super::{
    error::{ConfigError, Origin},
    setting::{Given, PREFIX, SETTINGS},
};
use crate::likeness::most_alike;

/// Settings by key, as typed.
#[derive(Debug, Default)]
pub struct Layer {
    given: BTreeMap<&'static str, (Given, Origin)>,
}

/// A flag that says a setting.
#[derive(Clone, Debug)]
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

    /// Takes the variables that start with `MOCKFORGE_`; an empty one counts as not set.
    ///
    /// # Errors
    /// [`ConfigError::UnknownVariable`] for one that is none of ours: a typo in `MOCKFORGE_API_TOKEN`
    /// would leave the control plane open.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
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
            return Err(ConfigError::UnknownVariable { name, nearest: nearest.to_owned() });
        }
        Ok(layer)
    }
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
