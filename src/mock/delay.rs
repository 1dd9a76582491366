//! How long an answer waits.

use super::{DelayDraw, DelaySpec};
use crate::delay::{DELAY_MAX, Delay};

/// Nothing said: not at all.
///
/// # Errors
/// What is wrong, for people.
pub fn read_delay(spec: Option<DelaySpec>) -> Result<Delay, String> {
    let delay = match spec {
        None => Delay::Fixed(0.0),
        Some(DelaySpec::Fixed(delay)) => Delay::Fixed(delay),
        Some(DelaySpec::Drawn(draw)) => match draw {
            DelayDraw { min: Some(min), max: Some(max), mean: None, sd: None, median: None, sigma: None } => {
                if min > max {
                    return Err(format!("min {min} is more than max {max}"));
                }
                Delay::Uniform { min, max }
            }
            DelayDraw { mean: Some(mean), sd: Some(sd), min: None, max: None, median: None, sigma: None } => {
                Delay::Normal { mean, sd }
            }
            DelayDraw {
                median: Some(median),
                sigma: Some(sigma),
                min: None,
                max: None,
                mean: None,
                sd: None,
            } => Delay::Lognormal { median, sigma },
            _ => {
                return Err("is a number, or one of {min, max}, {mean, sd} and {median, sigma}".to_owned());
            }
        },
    };
    let longest = DELAY_MAX.as_millis() as f64;
    let numbers = match delay {
        Delay::Fixed(one) => [one, one],
        Delay::Uniform { min, max } => [min, max],
        Delay::Normal { mean, sd } => [mean, sd],
        Delay::Lognormal { median, sigma } => [median, sigma],
    };
    match numbers.iter().find(|number| !(0.0..=longest).contains(*number)) {
        Some(wrong) => Err(format!("is from 0 to {longest} milliseconds, not {wrong}")),
        None => Ok(delay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Delay, String> {
        read_delay(Some(serde_json::from_str(json).expect("a delay")))
    }

    #[test]
    fn a_number_is_fixed_and_a_pair_a_distribution() {
        assert_eq!(read("12.5"), Ok(Delay::Fixed(12.5)));
        assert_eq!(read(r#"{"min": 10, "max": 20}"#), Ok(Delay::Uniform { min: 10.0, max: 20.0 }));
        assert_eq!(read(r#"{"mean": 5, "sd": 4}"#), Ok(Delay::Normal { mean: 5.0, sd: 4.0 }));
        assert_eq!(read(r#"{"median": 8, "sigma": 0.5}"#), Ok(Delay::Lognormal { median: 8.0, sigma: 0.5 }));
        assert_eq!(read_delay(None), Ok(Delay::Fixed(0.0)));
    }

    #[test]
    fn delays_that_say_too_little_or_too_much_are_refused() {
        let refused = |json: &str| read(json).unwrap_err();
        assert_eq!(
            refused(r#"{"min": 1}"#),
            "is a number, or one of {min, max}, {mean, sd} and {median, sigma}"
        );
        assert_eq!(refused(r#"{"min": 2, "max": 1}"#), "min 2 is more than max 1");
        assert_eq!(refused("-1"), "is from 0 to 86400000 milliseconds, not -1");
    }
}
