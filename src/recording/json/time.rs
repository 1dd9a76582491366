//! Times as decimal milliseconds, exact to the nanosecond.

use std::fmt;

const NANOS_PER_MILLI: u64 = 1_000_000;
/// Digits behind the point that say whole nanoseconds.
const DECIMALS: i64 = 6;

/// Nanoseconds, printed as milliseconds with all their digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / NANOS_PER_MILLI, self.0 % NANOS_PER_MILLI)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTime {
    #[error("a time is a number of milliseconds")]
    NotANumber,
    #[error("a time is not negative")]
    Negative,
    #[error("a time is at most 584 years")]
    TooLong,
}

impl Millis {
    /// Parses a JSON number, exponent or not; digits below a nanosecond are cut.
    pub fn parse(text: &str) -> Result<Self, BadTime> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                (mantissa, exponent.parse::<i64>().map_err(|_| BadTime::NotANumber)?)
            }
            None => (text, 0),
        };
        let (is_negative, digits) = match mantissa.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, mantissa),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Err(BadTime::NotANumber);
        }
        // How many of the digits are nanoseconds and above.
        let kept = whole.len() as i64 + exponent.saturating_add(DECIMALS);
        let mut nanos = 0_u64;
        let mut significant = whole.bytes().chain(fraction.bytes());
        for _ in 0..kept.clamp(0, 400) {
            let digit = significant.next().map_or(0, |byte| u64::from(byte - b'0'));
            nanos =
                nanos.checked_mul(10).and_then(|nanos| nanos.checked_add(digit)).ok_or(BadTime::TooLong)?;
        }
        if is_negative && nanos > 0 { Err(BadTime::Negative) } else { Ok(Self(nanos)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_nanosecond_survives(nanos in any::<u64>()) {
            prop_assert_eq!(Millis::parse(&Millis(nanos).to_string()), Ok(Millis(nanos)));
        }
    }

    #[test]
    fn what_other_tools_print_is_understood() {
        let nanos = |text| Millis::parse(text).map(|millis| millis.0);
        assert_eq!(nanos("1203.412"), Ok(1_203_412_000));
        assert_eq!(nanos("0"), Ok(0));
        assert_eq!(nanos("-0.0"), Ok(0));
        assert_eq!(nanos("1e-06"), Ok(1));
        assert_eq!(nanos("1.5E3"), Ok(1_500_000_000));
        assert_eq!(nanos("0.0000019"), Ok(1));
        assert_eq!(nanos("-1"), Err(BadTime::Negative));
        assert_eq!(nanos("1e300"), Err(BadTime::TooLong));
        assert_eq!(nanos("0e999999999999"), Ok(0));
        assert_eq!(nanos("\"1\""), Err(BadTime::NotANumber));
        assert_eq!(nanos("1.2.3"), Err(BadTime::NotANumber));
        assert_eq!(nanos(""), Err(BadTime::NotANumber));
    }
}
