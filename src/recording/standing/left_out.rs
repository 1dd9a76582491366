//! What found no room in a [`Standing`](super::Standing).

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};

/// Of what found no room: those beyond are only counted.
const LEFT_OUT_MAX: usize = 4096;

/// What found no room and is in force all the same.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftOut {
    /// By a hash.
    known: HashMap<u64, Missing>,
    /// Those that are not in `known`.
    beyond: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Missing {
    pub(super) ends_at: Option<Duration>,
    /// A hash of the client identifier, for a subscription.
    pub(super) client: Option<u64>,
}

impl LeftOut {
    pub(super) fn insert(&mut self, hash: u64, missing: Missing) {
        if self.known.len() < LEFT_OUT_MAX || self.known.contains_key(&hash) {
            self.known.insert(hash, missing);
        } else {
            self.beyond += 1;
        }
    }

    pub(super) fn remove(&mut self, hash: u64) {
        self.known.remove(&hash);
        self.settle();
    }

    /// The session of a client is gone.
    pub(super) fn forget(&mut self, client: &str) {
        if !self.known.is_empty() {
            let client = hash(&client);
            self.known.retain(|_, missing| missing.client != Some(client));
            self.settle();
        }
    }

    /// Nobody knows what became of those beyond; they count until there is room again.
    fn settle(&mut self) {
        if self.known.is_empty() {
            self.beyond = 0;
        }
    }

    pub(super) fn count(&self, at: Duration) -> u64 {
        let in_force = |missing: &&Missing| missing.ends_at.is_none_or(|end| end > at);
        self.known.values().filter(in_force).count() as u64 + self.beyond
    }
}

/// The key of a subscription.
pub(super) fn subscription_hash(client: &str, filter: &str) -> u64 {
    hash(&(client, filter))
}

/// Other keys.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
