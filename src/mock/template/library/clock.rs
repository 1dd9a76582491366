//! Helpers that tell the time.

use jiff::{SignedDuration, Timestamp, fmt::temporal::DateTimePrinter, tz::TimeZone};
use serde_json::Value;

use super::{Failure, Given, Helper, Kind::*, Slot};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("now", "[format] [offset=\"-5m\"]", &[Text], now)
        .taking(0, 1)
        .named(&[("offset", Text), ("format", Text)]),
    Helper::new("timestamp_ms", "[offset=\"-5m\"]", &[], |given| {
        Ok(Value::from(instant(given)?.as_millisecond()).into())
    })
    .named(&[("offset", Text)]),
];

/// RFC 3339 with milliseconds.
const RFC3339: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

fn now<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let instant = instant(given)?;
    let Some(format) = given.arguments.first().or_else(|| given.named("format")) else {
        return Ok(RFC3339.timestamp_to_string(&instant).into());
    };
    let format = format.text()?;
    match &*format {
        "epoch" | "unix" => Ok(Value::from(instant.as_second()).into()),
        "epoch_ms" => Ok(Value::from(instant.as_millisecond()).into()),
        "rfc3339" => Ok(RFC3339.timestamp_to_string(&instant).into()),
        format if !format.contains('%') => Err(format!(
            "\"{format}\" is no time format: expected one like \"%Y-%m-%d %H:%M:%S\", or epoch, epoch_ms or rfc3339"
        )
        .into()),
        format => jiff::fmt::strtime::format(format, &instant.to_zoned(TimeZone::UTC))
            .map(Slot::from)
            .map_err(|error| format!("\"{format}\" is no time format: {error}").into()),
    }
}

fn instant(given: &Given<'_, '_>) -> Result<Timestamp, Failure> {
    let now = given.around.now;
    let Some(offset) = given.named("offset") else { return Ok(now) };
    let text = offset.text()?;
    let offset = offset_of(&text)?;
    now.checked_add(offset).map_err(|_| format!("no calendar reaches {text} from now").into())
}

/// `-5m`, `+1h30m`, `90s`, `250ms`; days have 24 hours, weeks 7 days.
fn offset_of(text: &str) -> Result<SignedDuration, String> {
    let bad = || format!("\"{text}\" is no offset: expected one like -5m, +1h30m, 90s, 2d or 250ms");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut millis = 0i64;
    while !rest.is_empty() || millis == 0 && text.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|letter: char| !letter.is_ascii_lowercase()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(bad()),
        };
        let number: i64 = number.parse().map_err(|_| bad())?;
        millis = number.checked_mul(unit).and_then(|part| millis.checked_add(part)).ok_or_else(bad)?;
        rest = behind;
    }
    if text.len() <= 1 { Err(bad()) } else { Ok(SignedDuration::from_millis(sign * millis)) }
}
