//! How long an answer waits.

use std::time::Duration;

use super::{DelayDraw, DelaySpec};
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
    /// # Errors
    /// What is wrong, for people.
    pub fn new(spec: Option<DelaySpec>) -> Result<Self, String> {
        let delay = match spec {
            None => Self::Fixed(0.0),
            Some(DelaySpec::Fixed(delay)) => Self::Fixed(delay),
            Some(DelaySpec::Drawn(draw)) => match draw {
                DelayDraw {
                    min: Some(min),
                    max: Some(max),
                    mean: None,
                    sd: None,
                    median: None,
                    sigma: None,
                } => {
                    if min > max {
                        return Err(format!("min {min} is more than max {max}"));
                    }
                    Self::Uniform { min, max }
                }
                DelayDraw {
                    mean: Some(mean),
                    sd: Some(sd),
                    min: None,
                    max: None,
                    median: None,
                    sigma: None,
                } => Self::Normal { mean, sd },
                DelayDraw {
                    median: Some(median),
                    sigma: Some(sigma),
                    min: None,
                    max: None,
                    mean: None,
                    sd: None,
                } => Self::Lognormal { median, sigma },
                _ => {
                    return Err(
                        "is a number, or one of {min, max}, {mean, sd} and {median, sigma}".to_owned()
                    );
                }
            },
        };
        let longest = DELAY_MAX.as_millis() as f64;
        let numbers = match delay {
            Self::Fixed(one) => [one, one],
            Self::Uniform { min, max } => [min, max],
            Self::Normal { mean, sd } => [mean, sd],
            Self::Lognormal { median, sigma } => [median, sigma],
        };
        match numbers.iter().find(|number| !(0.0..=longest).contains(*number)) {
            Some(wrong) => Err(format!("is from 0 to {longest} milliseconds, not {wrong}")),
            None => Ok(delay),
        }
    }

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
        let median_of = |json: &str| {
            let delay = Delay::new(Some(serde_json::from_str(json).expect("a delay"))).expect("a good one");
            let mut draws = Draws::new(3);
            let mut drawn: Vec<Duration> = (0..2_001).map(|_| delay.draw(&mut draws)).collect();
            drawn.sort();
            (drawn[0].as_secs_f64() * 1e3, drawn[1_000].as_secs_f64() * 1e3, drawn[2_000].as_secs_f64() * 1e3)
        };
        assert_eq!(median_of("12.5"), (12.5, 12.5, 12.5));
        let (least, median, most) = median_of(r#"{"min": 10, "max": 20}"#);
        assert!(least >= 10.0 && most <= 20.0 && (median - 15.0).abs() < 0.5, "{least} {median} {most}");
        let (least, median, _) = median_of(r#"{"mean": 5, "sd": 5}"#);
        assert!(least == 0.0 && (median - 5.0).abs() < 0.5, "{least} {median}");
        let (least, median, most) = median_of(r#"{"median": 8, "sigma": 0.5}"#);
        assert!(least > 0.0 && (median - 8.0).abs() < 0.4 && most > 20.0, "{least} {median} {most}");
    }

    #[test]
    fn delays_that_say_too_little_or_too_much_are_refused() {
        let refused =
            |json: &str| Delay::new(Some(serde_json::from_str(json).expect("a delay"))).unwrap_err();
        assert_eq!(
            refused(r#"{"min": 1}"#),
            "is a number, or one of {min, max}, {mean, sd} and {median, sigma}"
        );
        assert_eq!(refused(r#"{"min": 2, "max": 1}"#), "min 2 is more than max 1");
        assert_eq!(refused("-1"), "is from 0 to 86400000 milliseconds, not -1");
    }
}
