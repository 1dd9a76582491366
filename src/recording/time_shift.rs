//! Timestamps in JSON payloads, moved from when a recording was made to when it is played.

use std::time::Duration;

use bytes::Bytes;
use jiff::{Timestamp, tz::Offset};
use serde_json_path::JsonPath;

use super::{
    player::Speed,
    redact::json::{Replacement, redact},
};

/// Smaller numbers are no times: as seconds, 1973.
const EPOCH_MIN: i128 = 100_000_000;
/// From where a number says milliseconds, microseconds and nanoseconds; as seconds, the year 5138.
const MILLIS_FROM: i128 = 100_000_000_000;
const MICROS_FROM: i128 = MILLIS_FROM * 1000;
const NANOS_FROM: i128 = MICROS_FROM * 1000;
const NANOS_PER_SECOND: i128 = 1_000_000_000;
/// Digits of a fraction that are kept exactly.
const DIGITS_MAX: usize = 9;

/// Where times stand, and how they move: what was recorded so long after `recorded_at` is played that long, divided by the
/// speed, after `played_at`. At speed `max` as at 1.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeShift {
    pub paths: Vec<JsonPath>,
    pub recorded_at: Timestamp,
    pub played_at: Timestamp,
    pub speed: Speed,
}

impl TimeShift {
    /// `payload` with other times, of a copy that begins `later`, as recorded. `None` for one that is no JSON, or has none.
    pub fn apply(&self, payload: &[u8], later: Duration) -> Option<Bytes> {
        let mut shifted: Option<String> = None;
        for path in &self.paths {
            let text = shifted.as_ref().map_or(payload, String::as_bytes);
            let replace =
                |value: &str| Replacement::Text(self.value(value, later).unwrap_or_else(|| value.to_owned()));
            let (_, replaced) = redact(text, path, &replace)?;
            shifted = replaced.or(shifted);
        }
        shifted.map(Bytes::from)
    }

    /// A number keeps its unit and its digits, a text its zone and the digits of its fraction.
    fn value(&self, json: &str, later: Duration) -> Option<String> {
        if json.starts_with('"') {
            let text: String = serde_json::from_str(json).ok()?;
            return serde_json::to_string(&self.text(&text, later)?).ok();
        }
        self.number(json, later)
    }

    fn number(&self, text: &str, later: Duration) -> Option<String> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole: i128 = whole.parse().ok()?;
        if whole < EPOCH_MIN
            || fraction.len() > DIGITS_MAX
            || fraction.bytes().any(|byte| !byte.is_ascii_digit())
        {
            return None;
        }
        let unit = match whole {
            NANOS_FROM.. => 1,
            MICROS_FROM.. => 1000,
            MILLIS_FROM.. => 1_000_000,
            _ => NANOS_PER_SECOND,
        };
        // In the last digit's unit; nothing is rounded on the way there.
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let digits = whole.checked_mul(scale)? + fraction.parse::<i128>().unwrap_or_default();
        let nanos = digits.checked_mul(unit)? / scale;
        let shifted = self.shifted(nanos, later).checked_mul(scale)?.div_euclid(unit);
        let (whole, rest) = (shifted.div_euclid(scale), shifted.rem_euclid(scale));
        Some(match fraction.len() {
            0 => whole.to_string(),
            width => format!("{whole}.{rest:0width$}"),
        })
    }

    /// RFC 3339, with `T` or a space.
    fn text(&self, text: &str, later: Duration) -> Option<String> {
        const SECONDS_LEN: usize = "2026-11-26T14:31:29".len();
        let (seconds, rest) = text.split_at_checked(SECONDS_LEN)?;
        let separator = seconds.as_bytes()[10];
        if !matches!(separator, b'T' | b't' | b' ') {
            return None;
        }
        let zone_at = rest.find(['Z', 'z', '+', '-'])?;
        let (fraction, zone) = rest.split_at(zone_at);
        let width = match fraction.as_bytes() {
            [] => 0,
            [b'.', digits @ ..] if !digits.is_empty() && digits.len() <= DIGITS_MAX => digits.len(),
            _ => return None,
        };
        let timestamp: Timestamp = text.parse().ok()?;
        let offset = if zone.eq_ignore_ascii_case("z") { Offset::UTC } else { offset(zone)? };
        let shifted = Timestamp::from_nanosecond(self.shifted(timestamp.as_nanosecond(), later)).ok()?;
        let civil = offset.to_datetime(shifted);
        let (date, time) = (civil.date(), civil.time());
        let mut out = format!("{date}{}{}", char::from(separator), time.strftime("%H:%M:%S"));
        if width > 0 {
            let digits = format!("{:09}", time.subsec_nanosecond());
            out += &format!(".{}", &digits[..width]);
        }
        Some(out + zone)
    }

    /// Nanoseconds since 1970.
    fn shifted(&self, nanos: i128, later: Duration) -> i128 {
        let since =
            nanos - self.recorded_at.as_nanosecond() + i128::try_from(later.as_nanos()).unwrap_or_default();
        let distance = match self.speed {
            Speed::Max => since.unsigned_abs(),
            speed => speed.scale(since.unsigned_abs()),
        };
        let distance = i128::try_from(distance).unwrap_or(i128::MAX / 2);
        self.played_at.as_nanosecond() + if since < 0 { -distance } else { distance }
    }
}

/// `+01:00`, `-0330`.
fn offset(zone: &str) -> Option<Offset> {
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let digits: String = zone.get(1..)?.chars().filter(|letter| *letter != ':').collect();
    let (hours, minutes) = digits.split_at_checked(2)?;
    let minutes: i32 = if minutes.is_empty() { 0 } else { minutes.parse().ok()? };
    Offset::from_seconds(sign * (hours.parse::<i32>().ok()? * 3600 + minutes * 60)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded at 2026-01-01T00:00:00Z, played a day later.
    fn shifted(speed: Speed, paths: &[&str], payload: &str) -> Option<String> {
        let recorded_at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let shift = TimeShift {
            paths: paths.iter().map(|path| JsonPath::parse(path).unwrap()).collect(),
            recorded_at,
            played_at: recorded_at + Duration::from_secs(86_400),
            speed,
        };
        let shifted = shift.apply(payload.as_bytes(), Duration::from_secs(1));
        shifted.map(|payload| String::from_utf8(payload.to_vec()).unwrap())
    }

    #[track_caller]
    fn check(value: &str, wanted: &str) {
        let shifted = shifted(Speed::Factor(2.0), &["$.ts"], &format!(r#"{{"ts":{value},"n":1}}"#));
        assert_eq!(shifted.unwrap(), format!(r#"{{"ts":{wanted},"n":1}}"#));
    }

    #[test]
    fn numbers_keep_their_unit_and_their_digits() {
        // Nine seconds after the recording began, of a copy that begins one second later, at twice the speed.
        check("1767225609", "1767312005");
        check("1767225609000", "1767312005000");
        check("1767225609000000", "1767312005000000");
        check("1767225609000000000", "1767312005000000000");
        check("1767225609.500", "1767312005.250");
        check("1767225609123.4", "1767312005061.7");
        // Before it began.
        check("1767225579", "1767311990");
    }

    #[test]
    fn texts_keep_their_zone_and_their_digits() {
        check(r#""2026-01-01T00:00:09Z""#, r#""2026-01-02T00:00:05Z""#);
        check(r#""2026-01-01T00:00:09.500Z""#, r#""2026-01-02T00:00:05.250Z""#);
        check(r#""2026-01-01 01:00:09+01:00""#, r#""2026-01-02 01:00:05+01:00""#);
        check(r#""2025-12-31t20:30:09.123456789-03:30""#, r#""2026-01-01t20:30:05.061728394-03:30""#);
    }

    #[test]
    fn what_is_no_time_stays() {
        for value in [
            "12",
            "-1767225609",
            "1.7e9",
            "true",
            "null",
            r#""today""#,
            r#""2026-01-01T00:00:09""#,
            "[1767225609]",
        ] {
            check(value, value);
        }
    }

    #[test]
    fn all_paths_are_looked_at_and_what_has_none_keeps_its_bytes() {
        let payload = r#"{ "a": {"at": 1767225609}, "b": [1767225609, "x"] }"#;
        assert_eq!(
            shifted(Speed::Max, &["$.a.at", "$.b[0]", "$.c"], payload).unwrap(),
            r#"{"a":{"at":1767312010},"b":[1767312010,"x"]}"#
        );
        for payload in ["1767225609 and more", r#"{ "other": 1 }"#, ""] {
            assert_eq!(shifted(Speed::Max, &["$.ts"], payload), None);
        }
    }
}
