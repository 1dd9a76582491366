//! What nobody can foretell, from a seed that nobody knows.

use sha2::{Digest, Sha256};

use super::users::{Digest256, sign};

/// Draws that are the same for the same seed, and tell nothing of it or of each other.
pub struct Random {
    secret: Digest256,
    drawn: u64,
}

impl Random {
    /// `seed` must not be guessable where anybody could listen.
    pub fn new(seed: u64) -> Self {
        Self { secret: Sha256::digest(seed.to_be_bytes()).into(), drawn: 0 }
    }

    /// Something new for `purpose`.
    pub fn draw(&mut self, purpose: &str) -> [u8; 32] {
        self.drawn += 1;
        self.of(purpose, &self.drawn.to_be_bytes())
    }

    /// What always belongs to `name`.
    pub fn of(&self, purpose: &str, name: &[u8]) -> Digest256 {
        sign(&self.secret, &[purpose.as_bytes(), name])
    }
}
