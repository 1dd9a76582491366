//! From places in a recording to moments, and back.

use std::time::{Duration, Instant};

use super::{Pace, Speed};

const NANOS_PER_SECOND: f64 = 1e9;

/// Where playing is, and when what comes is due. Moments are computed from an anchor, never by adding up what was waited,
/// so there is no drift; whatever changes the course sets a new anchor.
///
/// Positions are nanoseconds of what is played, at speed 1: silences shortened, all passes one behind the other.
#[derive(Clone, Debug)]
pub struct Timeline {
    speed: Speed,
    /// Items a second.
    rate: Option<f64>,
    anchor: Instant,
    anchor_position: u128,
    /// Where it stands still.
    paused_at: Option<u128>,
    /// Items that do not wait.
    free: u64,
    /// Nanoseconds since the anchor at which the rate was last not what held items back, and items since.
    rate_from: u128,
    rate_count: u128,
    /// Of the last item.
    last_position: u128,
    last_offset: u128,
}

/// When an item is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    At(Instant),
    /// When it is resumed.
    Paused,
}

impl Timeline {
    pub fn new(pace: &Pace, anchor: Instant) -> Self {
        Self {
            speed: pace.speed,
            rate: pace.rate.filter(|rate| *rate > 0.0),
            anchor,
            anchor_position: 0,
            paused_at: None,
            free: 0,
            rate_from: 0,
            rate_count: 0,
            last_position: 0,
            last_offset: 0,
        }
    }

    /// When the next item, which stands at `position`, is due.
    pub fn due(&self, position: u128, now: Instant) -> Due {
        if self.free > 0 {
            return Due::At(now);
        }
        match self.paused_at {
            Some(_) => Due::Paused,
            None => Due::At(self.anchor + nanos(self.offset(position))),
        }
    }

    /// The item at `position` is played.
    pub fn play(&mut self, position: u128, now: Instant) {
        self.last_position = position;
        if self.free > 0 {
            self.free -= 1;
            self.anchor_at(now, position);
            if self.paused_at.is_some() {
                self.paused_at = Some(position);
            }
            return;
        }
        let by_speed = self.by_speed(position);
        let offset = self.offset(position);
        if self.rate_count == 0 || offset == by_speed {
            (self.rate_from, self.rate_count) = (offset, 1);
        } else {
            self.rate_count += 1;
        }
        self.last_offset = offset;
    }

    /// Time from the anchor to the last item that was played.
    pub fn span(&self) -> Duration {
        nanos(self.last_offset)
    }

    pub fn speed(&self) -> Speed {
        self.speed
    }

    /// Whether items have times at all, and are not just played one after the other.
    pub fn is_timed(&self) -> bool {
        self.speed != Speed::Max || self.rate.is_some()
    }

    /// Of the item that was played last.
    pub fn last_position(&self) -> u128 {
        self.last_position
    }

    pub fn is_paused(&self) -> bool {
        self.paused_at.is_some()
    }

    pub fn position(&self, now: Instant) -> u128 {
        if let Some(position) = self.paused_at {
            return position;
        }
        match self.speed {
            Speed::Max => self.last_position,
            speed => {
                let elapsed = now.saturating_duration_since(self.anchor).as_nanos();
                self.anchor_position + speed.recorded(elapsed)
            }
        }
    }

    pub fn set_speed(&mut self, now: Instant, speed: Speed) {
        let position = self.position(now);
        self.speed = speed;
        self.anchor_at(now, position);
    }

    pub fn pause(&mut self, now: Instant) {
        if self.paused_at.is_none() {
            self.paused_at = Some(self.position(now));
        }
    }

    pub fn resume(&mut self, now: Instant) {
        if let Some(position) = self.paused_at.take() {
            self.anchor_at(now, position);
        }
    }

    /// Plays the next `count` items at once; goes on from the last of them, or stands still there.
    pub fn burst(&mut self, count: u64) {
        self.free = self.free.saturating_add(count);
    }

    /// Goes on from `position`.
    pub fn jump(&mut self, now: Instant, position: u128) {
        self.free = 0;
        self.anchor_at(now, position);
        if self.paused_at.is_some() {
            self.paused_at = Some(position);
        }
    }

    fn anchor_at(&mut self, now: Instant, position: u128) {
        (self.anchor, self.anchor_position) = (now, position);
        (self.rate_from, self.rate_count) = (0, 0);
        self.last_position = position;
        self.last_offset = 0;
    }

    fn by_speed(&self, position: u128) -> u128 {
        self.speed.scale(position.saturating_sub(self.anchor_position))
    }

    /// Nanoseconds from the anchor: by the speed, or later if the rate asks for it, by multiples of its interval.
    fn offset(&self, position: u128) -> u128 {
        let by_speed = self.by_speed(position);
        match self.rate {
            Some(rate) if self.rate_count > 0 => {
                let waited = (self.rate_count as f64 * NANOS_PER_SECOND / rate).ceil() as u128;
                by_speed.max(self.rate_from + waited)
            }
            _ => by_speed,
        }
    }
}

pub(super) fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::player::Repeat;

    fn pace(speed: f64, rate: Option<f64>) -> Pace {
        Pace { speed: Speed::Factor(speed), max_gap: None, rate, repeat: Repeat::Times(1) }
    }

    const SECOND: u128 = 1_000_000_000;

    /// Milliseconds after `from` at which the item at `seconds` is due.
    fn due(timeline: &Timeline, from: Instant, seconds: f64) -> u128 {
        match timeline.due((seconds * 1e9) as u128, from) {
            Due::At(at) => (at - from).as_millis(),
            Due::Paused => panic!("it is paused"),
        }
    }

    #[test]
    fn a_change_of_speed_counts_from_where_it_happens() {
        let start = Instant::now();
        let mut timeline = Timeline::new(&pace(1.0, None), start);
        assert_eq!(due(&timeline, start, 10.0), 10_000);
        let now = start + Duration::from_secs(4);
        timeline.set_speed(now, Speed::Factor(2.0));
        assert_eq!(due(&timeline, now, 10.0), 3000);
        assert_eq!(timeline.position(now + Duration::from_secs(1)), 6 * SECOND);
        timeline.set_speed(now + Duration::from_secs(1), Speed::Max);
        assert_eq!(due(&timeline, now, 10.0), 1000);
    }

    #[test]
    fn what_is_paused_goes_on_where_it_stood() {
        let start = Instant::now();
        let mut timeline = Timeline::new(&pace(2.0, None), start);
        timeline.pause(start + Duration::from_secs(1));
        assert_eq!(timeline.due(4 * SECOND, start), Due::Paused);
        let later = start + Duration::from_secs(100);
        timeline.resume(later);
        assert_eq!(due(&timeline, later, 4.0), 1000);
    }

    #[test]
    fn steps_move_what_is_paused_and_bursts_what_runs() {
        let start = Instant::now();
        let mut timeline = Timeline::new(&pace(1.0, None), start);
        timeline.pause(start);
        timeline.burst(2);
        for seconds in [1, 5] {
            assert_eq!(timeline.due(seconds * SECOND, start), Due::At(start));
            timeline.play(seconds * SECOND, start);
        }
        assert_eq!(timeline.due(6 * SECOND, start), Due::Paused);
        timeline.resume(start);
        assert_eq!(due(&timeline, start, 6.0), 1000);
        timeline.burst(1);
        timeline.play(60 * SECOND, start);
        assert_eq!(due(&timeline, start, 61.0), 1000);
    }

    #[test]
    fn a_rate_holds_back_by_multiples_of_its_interval() {
        let start = Instant::now();
        let mut timeline = Timeline::new(&pace(1.0, Some(3.0)), start);
        let mut offsets = Vec::new();
        for millis in [0, 0, 0, 0, 2000, 2100] {
            let position = millis * 1_000_000;
            offsets.push(due(&timeline, start, millis as f64 / 1000.0));
            timeline.play(position, start);
        }
        assert_eq!(offsets, [0, 333, 666, 1000, 2000, 2333]);
    }
}
