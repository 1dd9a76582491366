//! Times and durations, as the proto says them.

use std::time::{Duration, Instant, SystemTime};

/// What a duration is in the proto; one too long for it is cut.
pub fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

pub fn timestamp(value: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(value)
}

pub fn timestamp_of_jiff(value: jiff::Timestamp) -> prost_types::Timestamp {
    timestamp(value.into())
}

/// The wall clock's time of an instant, as the clock goes now.
pub fn timestamp_of_instant(value: Instant) -> prost_types::Timestamp {
    let (now, clock) = (Instant::now(), SystemTime::now());
    timestamp(match value.checked_duration_since(now) {
        Some(ahead) => clock + ahead,
        None => clock - now.duration_since(value),
    })
}
