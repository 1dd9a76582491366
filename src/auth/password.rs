//! Passwords as files keep them: hashes that are slow to make.

use std::{fmt, ops::RangeInclusive, sync::Arc};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use bytes::Bytes;
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

/// KiB. What hashes of ours cost is what OWASP's cheat sheet of 2023 asks for at least: about 20 ms.
const MEMORY: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// KiB: 256 MiB, for one check at a time.
const MEMORY_MAX: u32 = 256 << 10;

/// Memory times passes, in KiB: about a second.
const WORK_MAX: u32 = 1 << 20;

const LANES_MAX: u32 = 16;

/// About a second, too. mosquitto writes 101, or 1000.
const ITERATIONS_MAX: u32 = 1_000_000;

/// Bytes of a password that may be right: so many of those that wait to be checked take no more than a few MiB.
pub const LONGEST_PASSWORD: usize = 4096;

const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;

/// Bytes of salts and hashes that others made.
const SALT_LENS: RangeInclusive<usize> = 8..=64;
const HASH_LENS: RangeInclusive<usize> = 16..=64;

/// What is kept of a password: argon2id in the PHC string format, or a hash of mosquitto's password file.
#[derive(Clone, PartialEq)]
pub struct PasswordHash {
    method: Method,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    /// `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH`
    Argon2id { memory: u32, passes: u32, lanes: u32 },
    /// `$7$ITERATIONS$SALT$HASH`, of mosquitto: PBKDF2 with HMAC-SHA-512.
    Pbkdf2 { iterations: u32 },
    /// `$6$SALT$HASH`, of mosquitto before 2.0: SHA-512 of password and salt, which is quick to guess.
    Sha512,
}

/// Why text is no [`PasswordHash`]. Never shows any of it: it may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    #[error("expected the hash of a password, which `mockforge passwd --hash` makes")]
    Plain,
    #[error("expected $argon2id$, or $7$ or $6$ of mosquitto; `mockforge passwd --hash` makes one")]
    Method,
    #[error("expected $argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH")]
    Argon2id,
    #[error("expected $7$ITERATIONS$SALT$HASH")]
    Pbkdf2,
    #[error("expected $6$SALT$HASH")]
    Sha512,
    #[error("{what} is {min} to {max}")]
    Cost { what: &'static str, min: u32, max: u32 },
}

impl PasswordHash {
    /// Reads what [`make`](Self::make) or mosquitto wrote.
    ///
    /// # Errors
    /// [`BadHash`], also for one that costs more than a check may.
    pub fn parse(text: &str) -> Result<Self, BadHash> {
        let (method, rest) =
            text.strip_prefix('$').and_then(|rest| rest.split_once('$')).ok_or(BadHash::Plain)?;
        match method {
            "argon2id" => Self::parse_argon2id(rest),
            "7" => {
                let (iterations, rest) = rest.split_once('$').ok_or(BadHash::Pbkdf2)?;
                let iterations = number(iterations).ok_or(BadHash::Pbkdf2)?;
                cost("the number of iterations", iterations, 1, ITERATIONS_MAX)?;
                Self::of_mosquitto(Method::Pbkdf2 { iterations }, rest).ok_or(BadHash::Pbkdf2)
            }
            "6" => Self::of_mosquitto(Method::Sha512, rest).ok_or(BadHash::Sha512),
            _ => Err(BadHash::Method),
        }
    }

    fn parse_argon2id(rest: &str) -> Result<Self, BadHash> {
        let parts = || {
            let (parameters, rest) = rest.strip_prefix("v=19$")?.split_once('$')?;
            let (salt, hash) = rest.split_once('$')?;
            let mut parameters = parameters.split(',');
            let mut parameter = |name| number(parameters.next()?.strip_prefix(name)?);
            let (memory, passes, lanes) = (parameter("m=")?, parameter("t=")?, parameter("p=")?);
            if parameters.next().is_some() {
                return None;
            }
            let salt = bytes(&BASE64_STANDARD_NO_PAD, salt, SALT_LENS)?;
            let hash = bytes(&BASE64_STANDARD_NO_PAD, hash, HASH_LENS)?;
            Some((memory, passes, lanes, salt, hash))
        };
        let (memory, passes, lanes, salt, hash) = parts().ok_or(BadHash::Argon2id)?;
        cost("p", lanes, 1, LANES_MAX)?;
        // What the algorithm needs, and what we can afford.
        cost("m", memory, Params::MIN_M_COST * lanes, MEMORY_MAX)?;
        cost("t", passes, 1, WORK_MAX / memory)?;
        Ok(Self { method: Method::Argon2id { memory, passes, lanes }, salt, hash })
    }

    fn of_mosquitto(method: Method, rest: &str) -> Option<Self> {
        let (salt, hash) = rest.split_once('$')?;
        let salt = bytes(&BASE64_STANDARD, salt, SALT_LENS)?;
        let hash = bytes(&BASE64_STANDARD, hash, HASH_LENS).filter(|hash| hash.len() == 64)?;
        Some(Self { method, salt, hash })
    }

    /// The text of a hash of `password`. `salt` should be what nobody can foretell.
    pub fn make(password: &[u8], salt: [u8; SALT_LEN]) -> String {
        let mut hash = [0; HASH_LEN];
        argon2id(MEMORY, PASSES, LANES, password, &salt, &mut hash);
        let (salt, hash) = (BASE64_STANDARD_NO_PAD.encode(salt), BASE64_STANDARD_NO_PAD.encode(hash));
        format!("$argon2id$v=19$m={MEMORY},t={PASSES},p={LANES}${salt}${hash}")
    }

    /// Whether it is of `password`. Takes milliseconds, as it is meant to, up to about a second.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let mut hash = vec![0; self.hash.len()];
        match self.method {
            Method::Argon2id { memory, passes, lanes } => {
                argon2id(memory, passes, lanes, password, &self.salt, &mut hash);
            }
            Method::Pbkdf2 { iterations } => {
                pbkdf2_hmac::<Sha512>(password, &self.salt, iterations, &mut hash);
            }
            Method::Sha512 => {
                hash.copy_from_slice(
                    &Sha512::new().chain_update(password).chain_update(&self.salt).finalize(),
                );
            }
        }
        hash.ct_eq(&self.hash).into()
    }
}

impl fmt::Debug for PasswordHash {
    /// The method alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.method.fmt(f)
    }
}

fn argon2id(memory: u32, passes: u32, lanes: u32, password: &[u8], salt: &[u8], hash: &mut [u8]) {
    let parameters =
        Params::new(memory, passes, lanes, Some(hash.len())).expect("within what parsing allows");
    let mut blocks = vec![Block::default(); parameters.block_count()];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into_with_memory(password, salt, hash, &mut blocks)
        .expect("the lengths are within the algorithm's");
}

/// Digits alone: `parse` would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn cost(what: &'static str, value: u32, min: u32, max: u32) -> Result<(), BadHash> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(BadHash::Cost { what, min, max }) }
}

fn bytes(engine: &impl Engine, text: &str, lens: RangeInclusive<usize>) -> Option<Box<[u8]>> {
    engine.decode(text).ok().filter(|bytes| lens.contains(&bytes.len())).map(Vec::into_boxed_slice)
}

/// A password that is to be compared with a hash.
#[derive(Clone, PartialEq)]
pub struct PasswordCheck {
    pub(super) hash: Arc<PasswordHash>,
    pub(super) password: Bytes,
    /// Whether it is wrong whatever comes of it: that must not be seen from how long it takes.
    pub(super) is_in_vain: bool,
}

impl PasswordCheck {
    /// Whether the password is right. Takes milliseconds.
    pub fn run(&self) -> bool {
        self.hash.is_of(&self.password) && !self.is_in_vain
    }
}

impl fmt::Debug for PasswordCheck {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PasswordCheck").field(&self.hash).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of the reference implementation's own tests.
    const ARGON2ID: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    /// As `mosquitto_passwd` 2.0.11 wrote it.
    const PBKDF2: &str = "$7$101$ar30PKIJSYBBKv/m$n3r9Qrnd0n+o31bhC0uS2hdxVymNI0nBVPBRQ4eVfBrgekxVjiOQfIW3fJHm2Kx4eRikqSUU7d1pEcY0a8oCdg==";

    const SHA512: &str = "$6$MDEyMzQ1Njc4OWFi$qEXipeLbgxRlwd06QHfY5WITkUZg0jLg9SZbXzq3ifXjfj+v3GbJGrSfC5PAg3UNCS+UFfbhUIZX4bmIAs330w==";

    #[test]
    fn a_hash_is_of_its_password_alone() {
        let text = PasswordHash::make(b"secret", *b"0123456789abcdef");
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$"), "{text}");
        let hash = PasswordHash::parse(&text).expect("what was made");
        assert!(hash.is_of(b"secret"));
        assert!(!hash.is_of(b"Secret") && !hash.is_of(b""));
        assert!(!format!("{hash:?}").contains('$'));
    }

    #[test]
    fn hashes_of_others_are_understood() {
        for (text, password) in [(ARGON2ID, "password"), (PBKDF2, "secret"), (SHA512, "secret")] {
            let hash = PasswordHash::parse(text).expect("a hash");
            assert!(hash.is_of(password.as_bytes()) && !hash.is_of(b"another"), "{text}");
        }
    }

    #[test]
    fn what_costs_too_much_or_is_no_hash_is_refused() {
        let hash = &ARGON2ID[ARGON2ID.find("$c29").expect("the salt")..];
        let wrong = |text: &str| PasswordHash::parse(text).expect_err(text).to_string();
        let parameters = |parameters: &str| wrong(&format!("$argon2id$v=19${parameters}{hash}"));
        assert_eq!(parameters("m=4194304,t=1,p=1"), "m is 8 to 262144");
        assert_eq!(parameters("m=8,t=1,p=2"), "m is 16 to 262144");
        assert_eq!(parameters("m=65536,t=17,p=1"), "t is 1 to 16");
        assert_eq!(parameters("m=65536,t=0,p=1"), "t is 1 to 16");
        assert_eq!(parameters("m=65536,t=1,p=17"), "p is 1 to 16");
        for text in ["m=64,t=1", "m=64,t=1,p=1,x=1", "t=1,m=64,p=1", "m=+64,t=1,p=1", "m=99999999999,t=1,p=1"]
        {
            assert_eq!(parameters(text), BadHash::Argon2id.to_string(), "{text}");
        }
        assert_eq!(wrong("$argon2id$m=64,t=1,p=1$c29tZXNhbHQ$AAAA"), BadHash::Argon2id.to_string());
        assert_eq!(wrong("$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$AAAA"), BadHash::Method.to_string());
        assert_eq!(wrong("$7$2000000$c29tZXNhbHQ=$AAAA"), "the number of iterations is 1 to 1000000");
        assert_eq!(wrong("$7$x$c29tZXNhbHQ=$AAAA"), BadHash::Pbkdf2.to_string());
        assert_eq!(wrong("$6$c29tZXNhbHQ=$AAAA"), BadHash::Sha512.to_string());
        for text in ["", "hunter2", "$hunter2", "hunter2$x$"] {
            assert_eq!(wrong(text), BadHash::Plain.to_string(), "{text}");
        }
    }
}
