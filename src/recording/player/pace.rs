//! When what is selected is played.

use std::{str::FromStr, time::Duration};

use super::Speed;

/// How often the selection is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// At least 1.
    Times(u32),
    Forever,
}

impl FromStr for Repeat {
    type Err = BadRepeat;

    fn from_str(text: &str) -> Result<Self, BadRepeat> {
        match text.trim().parse() {
            _ if text.trim().eq_ignore_ascii_case("forever") => Ok(Self::Forever),
            Ok(times) if times > 0 => Ok(Self::Times(times)),
            Ok(_) | Err(_) => Err(BadRepeat(text.to_owned())),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a number from 1 nor forever")]
pub struct BadRepeat(String);

/// When what is selected is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    pub speed: Speed,
    /// Silences between selected messages are at most this long, in recorded time: at speed 2 they
    /// take half of it.
    pub max_gap: Option<Duration>,
    /// Messages a second, at most.
    pub rate: Option<f64>,
    pub repeat: Repeat,
}

impl Default for Pace {
    /// As recorded, once.
    fn default() -> Self {
        Self { speed: Speed::Factor(1.0), max_gap: None, rate: None, repeat: Repeat::Times(1) }
    }
}
