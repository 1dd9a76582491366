//! Checking the fields of a request, all of them before one is refused.

use std::{fmt, time::Duration};

use super::ControlError;
use crate::{
    field::BadField,
    packet::{QoS, TopicFilter, TopicName},
};

/// Of what is waited for.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Collects what is wrong with a request.
///
/// Every method answers `None` for a field it complained about; after [`finish`](Self::finish) said `Ok` there was none.
#[derive(Debug, Default)]
pub struct Fields {
    bad: Vec<BadField>,
}

impl Fields {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn refuse(&mut self, path: impl Into<String>, what: impl fmt::Display) {
        self.bad.push(BadField { path: path.into(), what: what.to_string() });
    }

    /// Notes an error about the field.
    pub fn keep<T, E: fmt::Display>(&mut self, path: impl Into<String>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.refuse(path, error)).ok()
    }

    pub fn required(&mut self, path: &str, text: &str) {
        if text.is_empty() {
            self.refuse(path, "is required");
        }
    }

    /// For requests of which there is nothing else to check: paths, and texts that may not be empty.
    pub fn require(texts: &[(&str, &str)]) -> Result<(), ControlError> {
        let mut fields = Self::new();
        for (path, text) in texts {
            fields.required(path, text);
        }
        fields.finish()
    }

    pub fn topic(&mut self, path: &str, text: &str) -> Option<TopicName> {
        self.keep(path, TopicName::parse(text))
    }

    pub fn filters(&mut self, path: &str, texts: &[String]) -> Vec<TopicFilter> {
        let parsed = texts.iter().enumerate();
        parsed
            .filter_map(|(index, text)| {
                let parsed = TopicFilter::parse(text).map_err(|error| format!("filter {text:?}: {error}"));
                self.keep(format!("{path}[{index}]"), parsed)
            })
            .collect()
    }

    pub fn qos(&mut self, path: &str, value: u32) -> Option<QoS> {
        match value {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => {
                self.refuse(path, format_args!("QoS is 0, 1 or 2, not {value}"));
                None
            }
        }
    }

    /// A length of time that is not negative, and at most 100 years; `None` when absent.
    pub fn duration(&mut self, path: &str, value: Option<&prost_types::Duration>) -> Option<Duration> {
        let value = *value?;
        let duration = Duration::try_from(value).map_err(|_| "is not negative");
        let duration = duration.and_then(|duration| match duration <= LONGEST {
            true => Ok(duration),
            false => Err("is at most 100 years"),
        });
        self.keep(path, duration)
    }

    /// A number of an enum; `None`, without complaint, when unspecified.
    pub fn choice<T: TryFrom<i32> + Default + PartialEq>(&mut self, path: &str, value: i32) -> Option<T> {
        match T::try_from(value) {
            Ok(choice) => (choice != T::default()).then_some(choice),
            Err(_) => {
                self.refuse(path, format_args!("has no value {value}"));
                None
            }
        }
    }

    /// The same for a list, where unspecified is an error.
    pub fn choices<T: TryFrom<i32> + Default + PartialEq>(&mut self, path: &str, values: &[i32]) -> Vec<T> {
        let mut choices = Vec::with_capacity(values.len());
        for (index, &value) in values.iter().enumerate() {
            match T::try_from(value) {
                Ok(choice) if choice != T::default() => choices.push(choice),
                _ => self.refuse(format!("{path}[{index}]"), format_args!("has no value {value}")),
            }
        }
        choices
    }

    /// # Errors
    /// [`ControlError::BadFields`] when there is any.
    pub fn finish(self) -> Result<(), ControlError> {
        if self.bad.is_empty() { Ok(()) } else { Err(ControlError::BadFields(self.bad)) }
    }
}
