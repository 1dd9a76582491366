//! How long something waits: always as long, or drawn each time.

use std::time::Duration;

use crate::draws::Draws;

/// The longest delay, also of one that is drawn: a day.
pub const DELAY_MAX: Duration = Duration::from_secs(86_400);

/// Milliseconds, all but the first drawn each time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    Fixed(f64),
    Uniform { min: f64, max: f64 },
    Normal { mean: f64, sd: f64 },
    Lognormal { median: f64, sigma: f64 },
}

impl Delay {
    pub fn draw(&self, draws: &mut Draws) -> Duration {
        let milliseconds = match *self {
            Self::Fixed(delay) => delay,
            Self::Uniform { min, max } => min + (max - min) * draws.fraction(),
            Self::Normal { mean, sd } => mean + sd * draws.normal(),
            Self::Lognormal { median, sigma } => median * (sigma * draws.normal()).exp(),
        };
        // What is negative or no number becomes 0.
        let milliseconds =
            if milliseconds > 0.0 { milliseconds.min(DELAY_MAX.as_millis() as f64) } else { 0.0 };
        Duration::from_secs_f64(milliseconds / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_delays_have_the_distribution_asked_for() {
        let median_of = |delay: Delay| {
            let mut draws = Draws::new(3);
            let mut drawn: Vec<Duration> = (0..2_001).map(|_| delay.draw(&mut draws)).collect();
            drawn.sort();
            (drawn[0].as_secs_f64() * 1e3, drawn[1_000].as_secs_f64() * 1e3, drawn[2_000].as_secs_f64() * 1e3)
        };
        assert_eq!(median_of(Delay::Fixed(12.5)), (12.5, 12.5, 12.5));
        let (least, median, most) = median_of(Delay::Uniform { min: 10.0, max: 20.0 });
        assert!(least >= 10.0 && most <= 20.0 && (median - 15.0).abs() < 0.5, "{least} {median} {most}");
        let (least, median, _) = median_of(Delay::Normal { mean: 5.0, sd: 5.0 });
        assert!(least == 0.0 && (median - 5.0).abs() < 0.5, "{least} {median}");
        let (least, median, most) = median_of(Delay::Lognormal { median: 8.0, sigma: 0.5 });
        assert!(least > 0.0 && (median - 8.0).abs() < 0.4 && most > 20.0, "{least} {median} {most}");
    }
}
