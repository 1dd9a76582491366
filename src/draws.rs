//! Random numbers that depend on what they are for, and on nothing else.
//!
//! A stream of draws is found by a seed and a few keys (a rule, a client, a count): other streams, threads and the speed
//! of a run never shift it, so the same seed gives the same numbers whatever else goes on.

use std::convert::Infallible;

/// One stream of draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draws {
    state: u64,
}

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed ^ GOLDEN) }
    }

    /// The stream of `key` below this one. The order of keys counts, where one ends and the next begins, too.
    #[must_use]
    pub fn of(&self, key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        let mut state = mix(self.state ^ (key.len() as u64).wrapping_mul(GOLDEN));
        for chunk in key.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = mix(state.rotate_left(23) ^ u64::from_le_bytes(word));
        }
        Self { state }
    }

    /// The stream of a number below this one.
    #[must_use]
    pub fn nth(&self, number: u64) -> Self {
        self.of(number.to_le_bytes())
    }

    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// From 0 up to, but without, 1.
    pub fn fraction(&mut self) -> f64 {
        // The 53 bits that a double holds.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number with both ends; `min` if they are the wrong way round.
    pub fn between(&mut self, min: i64, max: i64) -> i64 {
        let span = (i128::from(max) - i128::from(min) + 1).max(1) as u128;
        // The high half of the product is even enough: a span is far below 2^64 in practice.
        let drawn = (u128::from(self.next_u64()) * span) >> 64;
        (i128::from(min) + drawn as i128) as i64
    }

    /// By a normal distribution of mean 0 and standard deviation 1.
    pub fn normal(&mut self) -> f64 {
        // Box and Muller; the first fraction must not be 0.
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.fraction()).cos()
    }
}

/// For libraries that draw by themselves.
impl rand::TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// 2^64 divided by the golden ratio, odd: the step of Weyl's sequence.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function: every bit of the input reaches every bit of the output.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_keys_alone() {
        let draw =
            |seed, keys: &[&str]| keys.iter().fold(Draws::new(seed), |draws, key| draws.of(key)).next_u64();
        assert_eq!(draw(1, &["a", "b"]), draw(1, &["a", "b"]));
        let others = [draw(2, &["a", "b"]), draw(1, &["b", "a"]), draw(1, &["ab"]), draw(1, &["a", "b\0"])];
        assert!(others.iter().all(|&other| other != draw(1, &["a", "b"])), "{others:?}");
    }

    #[test]
    fn draws_are_even_and_within_their_bounds() {
        let mut draws = Draws::new(7);
        let mut counts = [0; 6];
        for _ in 0..60_000 {
            counts[(draws.between(-2, 3) + 2) as usize] += 1;
            assert!((0.0..1.0).contains(&draws.fraction()));
        }
        // Four standard deviations of a binomial with 60,000 trials and p = 1/6.
        assert!(counts.iter().all(|count: &i32| (count - 10_000).abs() < 4 * 92), "{counts:?}");
        assert_eq!(draws.between(5, 5), 5);
        assert_eq!(draws.between(5, 1), 5);
        let whole_range = draws.between(i64::MIN, i64::MAX);
        assert_ne!(whole_range, draws.between(i64::MIN, i64::MAX));
    }

    #[test]
    fn normal_draws_have_mean_and_deviation() {
        let mut draws = Draws::new(11);
        let drawn: Vec<f64> = (0..20_000).map(|_| draws.normal()).collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        let variance = drawn.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
