//! Durations as people type and read them: `500ms`, `30s`, `1m30s`.

use std::time::Duration;

/// # Errors
/// What is wrong, with an example.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("a duration is not negative".to_owned());
    }
    if !text.is_empty() && text.parse::<f64>().is_ok() {
        return Err(format!("a unit is missing: {text}ms, {text}s or {text}m"));
    }
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "expected a duration such as 500ms, 30s or 1m30s".to_owned())
}

/// Three significant units would be noise: `1.234 s`, `12.3 ms`, `2 min 03 s`.
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if duration.is_zero() {
        "0 s".to_owned()
    } else if duration < Duration::from_millis(1) {
        format!("{:.0} µs", seconds * 1e6)
    } else if duration < Duration::from_secs(1) {
        format!("{:.1} ms", seconds * 1e3)
    } else if duration < Duration::from_secs(120) {
        format!("{seconds:.3} s")
    } else if duration < Duration::from_secs(7200) {
        let seconds = duration.as_secs();
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    } else {
        let minutes = duration.as_secs() / 60;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// From the contract's type; a negative one counts as zero.
pub fn from_proto(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).unwrap_or_default()
}

/// To the contract's type; what doesn't fit is its maximum.
pub fn to_proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration)
        .unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 999_999_999 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_spellings_are_read() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("1m", 60_000), ("1m30s", 90_000), ("1.5s", 1500)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_told_so() {
        assert_eq!(parse("30").unwrap_err(), "a unit is missing: 30ms, 30s or 30m");
    }

    #[test]
    fn nonsense_and_negative_durations_are_refused() {
        for text in ["", "soon", "-5s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("-1").unwrap_err(), "a duration is not negative");
    }

    #[test]
    fn durations_are_shown_with_a_fitting_unit() {
        for (micros, text) in [
            (0, "0 s"),
            (750, "750 µs"),
            (12_340, "12.3 ms"),
            (1_234_567, "1.235 s"),
            (125_000_000, "2 min 05 s"),
            (7_500_000_000, "2 h 05 min"),
        ] {
            assert_eq!(show(Duration::from_micros(micros)), text);
        }
    }
}
