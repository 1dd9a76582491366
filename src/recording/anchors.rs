//! When a recording is due another look at the wall clock.

use std::time::Duration;

use jiff::Timestamp;

/// At least so often.
pub const ANCHOR_INTERVAL: Duration = Duration::from_secs(10);

/// A wall clock that is off by more than this from where the monotonic one says it should be was set.
const STEP: Duration = Duration::from_millis(50);

/// The anchors of one recording.
#[derive(Debug, Default)]
pub struct Anchors {
    last: Option<(Duration, Timestamp)>,
}

impl Anchors {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether what the wall clock says at offset `at` is to be noted: it is the first time, it was
    /// long ago, or the clock was set since.
    pub fn is_due(&mut self, at: Duration, wall: Timestamp) -> bool {
        let is_due = match self.last {
            None => true,
            Some((then, said)) => {
                let passed = at.saturating_sub(then);
                let step = wall.duration_since(said).as_nanos() - passed.as_nanos().cast_signed();
                passed >= ANCHOR_INTERVAL || step.unsigned_abs() > STEP.as_nanos()
            }
        };
        if is_due {
            self.last = Some((at, wall));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offsets, in milliseconds, at which a clock that says so is noted.
    fn noted(readings: impl IntoIterator<Item = (u64, i64)>) -> Vec<u64> {
        let mut anchors = Anchors::new();
        let wall = |ms| Timestamp::from_millisecond(ms).expect("within range");
        let due = readings
            .into_iter()
            .filter(|&(at, ms)| anchors.is_due(Duration::from_millis(at), wall(ms)))
            .map(|(at, _)| at);
        due.collect()
    }

    #[test]
    fn the_clock_is_noted_at_the_start_and_every_ten_seconds() {
        let quarters = (0..100).map(|n: u64| (n * 250, 1_000_000 + n.cast_signed() * 250));
        assert_eq!(noted(quarters), [0, 10_000, 20_000]);
    }

    #[test]
    fn a_step_of_more_than_50_ms_either_way_is_noted_at_once_and_a_smaller_one_is_not() {
        assert_eq!(noted([(0, 0), (250, 300), (500, 449)]), [0, 500]);
        assert_eq!(noted([(0, 0), (250, 301), (500, 551), (750, 700)]), [0, 250, 750]);
        assert_eq!(noted([(0, 0), (250, -3_600_000)]), [0, 250]);
    }
}
