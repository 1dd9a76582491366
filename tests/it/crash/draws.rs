//! Draws that are the same for the same seed, and what the environment asks for.

/// A number the environment may set, such as `MOCKFORGE_CRASH_ROUNDS`.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// SplitMix64.
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64, key: u64) -> Self {
        Self(seed.wrapping_mul(1_000_003) ^ key.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
