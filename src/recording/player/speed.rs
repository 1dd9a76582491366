//! How fast time passes.

use std::{fmt, str::FromStr, time::Duration};

use super::timeline::nanos;

/// Speeds are kept as multiples of this: 1/3 then strays by a nanosecond in half an hour.
const SPEED_UNITS: u128 = 1_000_000_000_000;

/// How fast time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// 0.001 to 1000; 2 takes half the recorded time.
    Factor(f64),
    /// Does not wait at all.
    Max,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("speed {0:?} is neither a number from 0.001 to 1000 nor max (or 0)")]
pub struct BadSpeed(String);

impl FromStr for Speed {
    type Err = BadSpeed;

    fn from_str(text: &str) -> Result<Self, BadSpeed> {
        match text.trim().parse::<f64>() {
            _ if text.trim().eq_ignore_ascii_case("max") => Ok(Self::Max),
            Ok(0.0) => Ok(Self::Max),
            Ok(factor) if (0.001..=1000.0).contains(&factor) => Ok(Self::Factor(factor)),
            Ok(_) | Err(_) => Err(BadSpeed(text.to_owned())),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Factor(factor) => factor.fmt(f),
            Self::Max => f.write_str("max"),
        }
    }
}

impl Speed {
    /// How long what took `recorded` takes.
    pub fn takes(self, recorded: Duration) -> Duration {
        nanos(self.scale(recorded.as_nanos()))
    }

    /// How long `recorded` nanoseconds take.
    pub(in crate::recording) fn scale(self, recorded: u128) -> u128 {
        match self {
            Self::Factor(factor) => {
                // At least 1: a factor of 0 cannot be typed, but can be constructed.
                let units = ((factor * SPEED_UNITS as f64).round() as u128).max(1);
                recorded.saturating_mul(SPEED_UNITS) / units
            }
            Self::Max => 0,
        }
    }

    /// How much of the recording `elapsed` nanoseconds are; nothing where nothing is waited for.
    pub(super) fn recorded(self, elapsed: u128) -> u128 {
        match self {
            Self::Factor(factor) => {
                let units = ((factor * SPEED_UNITS as f64).round() as u128).max(1);
                elapsed.saturating_mul(units) / SPEED_UNITS
            }
            Self::Max => 0,
        }
    }
}
