//! Instants, which mean something in one process only, as times of day.

use std::time::{Duration, Instant, SystemTime};

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    instant: Instant,
    /// Milliseconds since 1970.
    wall: u64,
}

impl Anchor {
    pub fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::new(Instant::now(), u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn new(instant: Instant, wall: u64) -> Self {
        Self { instant, wall }
    }

    /// In milliseconds since 1970.
    pub fn to_wall(self, at: Instant) -> u64 {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        if at >= self.instant {
            self.wall.saturating_add(millis(at - self.instant))
        } else {
            self.wall.saturating_sub(millis(self.instant - at))
        }
    }

    /// What is before this process could have known it is now, which is as much in the past; what is
    /// past all reckoning is in a hundred years.
    pub fn to_instant(self, wall: u64) -> Instant {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
        if wall >= self.wall {
            let ahead = Duration::from_millis(wall - self.wall);
            self.instant.checked_add(ahead).unwrap_or(self.instant + CENTURY)
        } else {
            self.instant.checked_sub(Duration::from_millis(self.wall - wall)).unwrap_or(self.instant)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_the_same_instant_again() {
        let anchor = Anchor::new(Instant::now(), 1_700_000_000_000);
        for millis in [0, 1, 250, 86_400_000, 4_294_967_295_000] {
            let later = anchor.instant + Duration::from_millis(millis);
            assert_eq!(anchor.to_instant(anchor.to_wall(later)), later);
        }
        let earlier = anchor.instant.checked_sub(Duration::from_millis(20)).unwrap();
        assert_eq!(anchor.to_wall(earlier), 1_699_999_999_980);
        assert_eq!(anchor.to_instant(1_699_999_999_980), earlier);
    }

    #[test]
    fn times_that_no_instant_can_hold_are_past_or_far_off() {
        let anchor = Anchor::now();
        assert!(anchor.to_instant(0) <= anchor.instant);
        assert!(anchor.to_instant(u64::MAX) > anchor.instant + Duration::from_secs(1 << 31));
    }
}
