//! What tests of several rooms need.

use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha512};

/// A hash of `password` that takes no time to check.
pub fn quick_hash(password: &str) -> String {
    let salt = b"somesalt";
    let hash = Sha512::new().chain_update(password).chain_update(salt).finalize();
    format!("$6${}${}", BASE64_STANDARD.encode(salt), BASE64_STANDARD.encode(hash))
}
