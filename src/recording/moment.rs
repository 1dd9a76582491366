//! When messages were, as those who log them say it: by the wall clock.

use std::time::Duration;

use jiff::{Timestamp, civil::DateTime, tz::Offset};

use super::record::nanoseconds;
use crate::amount::counted;

/// A time in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Wall {
        at: Timestamp,
        /// Whether it did not say from where, and was taken for UTC.
        assumed_utc: bool,
    },
    /// Since the recording began.
    Offset(Duration),
}

/// Seconds below this are an offset rather than a time before 1973.
const OFFSET_MAX: u64 = 100_000_000;
const NANOS_PER_SECOND: i128 = 1_000_000_000;

impl Moment {
    /// Parses RFC 3339, also with a space for the `T` and as mosquitto_sub prints it
    /// (`…Z+0100`), or a Unix time: in seconds, milli-, micro- or nanoseconds, told apart by
    /// their size. A number of seconds below 100,000,000 counts from the recording's beginning.
    ///
    /// # Errors
    /// For people, when it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Self::of_number(text).ok_or_else(|| bad(text));
        }
        let told = text.replacen("Z+", "+", 1).replacen("Z-", "-", 1);
        if let Ok(at) = told.parse::<Timestamp>() {
            return Ok(Self::Wall { at, assumed_utc: false });
        }
        let civil = text.parse::<DateTime>().map_err(|_| bad(text))?;
        let at = Offset::UTC.to_timestamp(civil).map_err(|_| bad(text))?;
        Ok(Self::Wall { at, assumed_utc: true })
    }

    fn of_number(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if fraction.contains('.') {
            return None;
        }
        let units: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // 10^11 s are in the year 5138, and as milliseconds in 1973; and so on.
        let per_unit: i128 = match units {
            0..100_000_000_000 => NANOS_PER_SECOND,
            100_000_000_000..100_000_000_000_000 => 1_000_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1_000,
            _ => 1,
        };
        let mut nanos = i128::from(units) * per_unit;
        let mut digit_is = per_unit;
        for digit in fraction.bytes() {
            digit_is /= 10;
            nanos += i128::from(digit - b'0') * digit_is;
        }
        if units < OFFSET_MAX {
            return Some(Self::Offset(Duration::from_nanos(u64::try_from(nanos).ok()?)));
        }
        Some(Self::Wall { at: Timestamp::from_nanosecond(nanos).ok()?, assumed_utc: false })
    }
}

fn bad(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!("{shown:?} is no time: neither RFC 3339, as 2026-11-22T12:00:00Z, nor a Unix time")
}

/// Makes offsets of moments, the first of which is the beginning.
#[derive(Debug, Default)]
pub struct Timeline {
    begun: Option<Moment>,
    last: Duration,
    went_back: u64,
    assumed_utc: bool,
}

impl Timeline {
    /// The wall clock at the recording's offset 0, if `first` says.
    pub fn started_at(first: Moment) -> Option<Timestamp> {
        match first {
            Moment::Wall { at, .. } => Some(at),
            Moment::Offset(_) => None,
        }
    }

    /// The offset of the next message, never before the last one.
    ///
    /// # Errors
    /// For people, when one time counts from the beginning and another does not, or is 584 years
    /// later.
    pub fn at(&mut self, moment: Moment) -> Result<Duration, String> {
        let at = match (*self.begun.get_or_insert(moment), moment) {
            (Moment::Wall { at: begun, .. }, Moment::Wall { at, assumed_utc }) => {
                self.assumed_utc |= assumed_utc;
                let nanos = at.as_nanosecond() - begun.as_nanosecond();
                let nanos = u64::try_from(nanos.max(-1) + 1).map_err(|_| "too long after the first")?;
                // One more than there are, so that what was before the first is seen.
                match nanos.checked_sub(1) {
                    Some(nanos) => Duration::from_nanos(nanos),
                    None => return Ok(self.clamp()),
                }
            }
            (Moment::Offset(_), Moment::Offset(at)) => at,
            (Moment::Wall { .. }, Moment::Offset(_)) => {
                return Err("counts from the beginning, the first does not".to_owned());
            }
            (Moment::Offset(_), Moment::Wall { .. }) => {
                return Err("is of the wall clock, the first counts from the beginning".to_owned());
            }
        };
        if at < self.last {
            return Ok(self.clamp());
        }
        debug_assert!(u128::from(nanoseconds(at)) == at.as_nanos());
        self.last = at;
        Ok(at)
    }

    fn clamp(&mut self) -> Duration {
        self.went_back += 1;
        self.last
    }

    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.went_back > 0 {
            notes.push(format!(
                "{} of an earlier time than the message before: they were given its time",
                counted(self.went_back, "message")
            ));
        }
        if self.assumed_utc {
            notes.push("times that do not say from where were taken for UTC".to_owned());
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(text: &str) -> String {
        match Moment::parse(text) {
            Ok(Moment::Wall { at, assumed_utc: false }) => at.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_a_time_is_understood() {
        for text in [
            "2026-11-22T12:00:00.25Z",
            "2026-11-22T13:00:00.25+01:00",
            "2026-11-22 12:00:00.25+0000",
            "2026-11-22T12:00:00.250000Z+0000",
            "2026-11-22T13:00:00.250000Z+0100",
            "2026-11-22T11:00:00.250000Z-0100",
            "1795348800.25",
            "1795348800250",
            "1795348800250.0",
            "1795348800250000",
            "1795348800250000000",
        ] {
            assert_eq!(wall(text), "2026-11-22T12:00:00.25Z", "{text}");
        }
        assert_eq!(Moment::parse("1.5"), Ok(Moment::Offset(Duration::from_millis(1500))));
        assert_eq!(Moment::parse("0"), Ok(Moment::Offset(Duration::ZERO)));
        let civil = Moment::parse("2026-11-22 12:00:00").unwrap();
        assert!(matches!(civil, Moment::Wall { assumed_utc: true, .. }));
    }

    #[test]
    fn what_is_no_time_is_said() {
        for text in ["", ".", "yesterday", "1.2.3", "-5", "1e9", "99999999999999999999999", "12:00"] {
            assert!(Moment::parse(text).is_err() || text == "." || text.is_empty(), "{text}");
        }
        assert_eq!(
            Moment::parse("yesterday").unwrap_err(),
            "\"yesterday\" is no time: neither RFC 3339, as 2026-11-22T12:00:00Z, nor a Unix time"
        );
    }

    #[test]
    fn times_never_go_back_and_the_notes_say_so() {
        let mut timeline = Timeline::default();
        let mut at = |text| timeline.at(Moment::parse(text).unwrap()).unwrap().as_millis();
        assert_eq!(at("2026-11-22T12:00:00Z"), 0);
        assert_eq!(at("2026-11-22T11:00:00Z"), 0);
        assert_eq!(at("2026-11-22T12:00:01Z"), 1000);
        assert_eq!(at("2026-11-22T12:00:00.5Z"), 1000);
        assert_eq!(
            timeline.notes(),
            ["2 messages of an earlier time than the message before: they were given its time"]
        );
        assert!(timeline.at(Moment::Offset(Duration::ZERO)).is_err());
    }
}
