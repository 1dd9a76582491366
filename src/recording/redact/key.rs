//! The key of a redaction's hashes.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// What hashes are keyed with: the same value is the same hash wherever the key is the same, and without the key nobody
/// can find out which value it was by trying.
#[derive(Clone, PartialEq, Eq)]
pub struct RedactionKey(Vec<u8>);

impl RedactionKey {
    pub fn new(key: impl Into<Vec<u8>>) -> Self {
        Self(key.into())
    }

    /// `h-` and 16 hexadecimal digits: a client identifier, a topic level and JSON text may be that.
    pub(super) fn hash(&self, value: &[u8]) -> String {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("any length will do");
        mac.update(value);
        let digest = mac.finalize().into_bytes();
        let (first, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        format!("h-{:016x}", u64::from_be_bytes(*first))
    }
}

impl fmt::Debug for RedactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedactionKey(***)")
    }
}
