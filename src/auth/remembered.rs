//! Passwords that were right, so that clients that come again need not be waited for.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use foldhash::fast::FixedState;
use subtle::ConstantTimeEq;

use super::users::{Digest256, sign};

/// A fleet that loses its connections is back by then; whoever has read the memory of this process in
/// between can guess faster.
const KEPT: Duration = Duration::from_secs(600);

/// The last right password of each user, as a digest that is quick to make, and of use only with the key.
pub struct Remembered {
    key: Digest256,
    by_user: HashMap<Box<str>, (Digest256, Instant), FixedState>,
}

impl Remembered {
    /// `key` must not be guessable.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, by_user: HashMap::default() }
    }

    /// Whether this password was found right a while ago.
    pub fn knows(&mut self, now: Instant, user: &str, password: &[u8]) -> bool {
        let Some((known, until)) = self.by_user.get(user) else { return false };
        if *until <= now {
            self.by_user.remove(user);
            return false;
        }
        known.ct_eq(&self.digest(user, password)).into()
    }

    /// `password` was found right: only then, so there are never more than there are users.
    pub fn note(&mut self, now: Instant, user: &str, password: &[u8]) {
        self.by_user.insert(user.into(), (self.digest(user, password), now + KEPT));
    }

    /// Users have changed.
    pub fn forget(&mut self) {
        self.by_user = HashMap::default();
    }

    fn digest(&self, user: &str, password: &[u8]) -> Digest256 {
        // The length keeps the end of one from being the beginning of the other.
        sign(&self.key, &[&user.len().to_be_bytes(), user.as_bytes(), password])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_password_is_known_and_for_a_while() {
        let now = Instant::now();
        let mut remembered = Remembered::new([7; 32]);
        assert!(!remembered.knows(now, "alice", b"secret"));
        remembered.note(now, "alice", b"secret");
        assert!(remembered.knows(now, "alice", b"secret"));
        assert!(!remembered.knows(now, "alice", b"Secret"));
        assert!(!remembered.knows(now, "alic", b"esecret"));
        assert!(!remembered.knows(now, "bob", b"secret"));
        assert!(remembered.knows(now + KEPT - Duration::from_nanos(1), "alice", b"secret"));
        assert!(!remembered.knows(now + KEPT, "alice", b"secret"));
        assert!(remembered.by_user.is_empty());
        remembered.note(now, "alice", b"other");
        assert!(!remembered.knows(now, "alice", b"secret"));
        remembered.forget();
        assert!(!remembered.knows(now, "alice", b"other"));
    }
}
