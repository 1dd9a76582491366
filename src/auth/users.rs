//! Who may log in, and what proves it.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::Random;

/// What each guess of a password costs, at least [RFC 7677, section 4].
const ITERATIONS_MIN: u32 = 4096;

/// Above it, deriving keys from a password takes clients many seconds.
const ITERATIONS_MAX: u32 = 10_000_000;

const SALT_LEN: usize = 16;

/// 256 bits: a SHA-256 digest, a key of SCRAM, a signature.
pub(super) type Digest256 = [u8; 32];

/// Users as they are configured: passwords are still there.
///
/// Text with a user per line, or separated by commas: `name:password`, or in place of the password
/// `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY` with Base64 in it, as PostgreSQL writes it.
/// The latter for passwords that hold commas or line breaks, too.
#[derive(Clone, Default, PartialEq)]
pub struct UserList(Vec<(String, Credential)>);

#[derive(Clone, PartialEq)]
enum Credential {
    Password(String),
    Verifier(Verifier),
}

/// Why text is no [`UserList`]. Names users, never their passwords.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUsers {
    #[error("user {0}: expected name:password")]
    NoPassword(usize),
    #[error("user {0} has no name")]
    NoName(usize),
    #[error("user \"{0}\" is there twice")]
    Twice(String),
    #[error("user \"{0}\": name or password has a character that SASLprep prohibits")]
    Prohibited(String),
    #[error("user \"{0}\": expected SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY")]
    Verifier(String),
    #[error("user \"{0}\": expected {ITERATIONS_MIN} to {ITERATIONS_MAX} iterations")]
    Iterations(String),
}

impl UserList {
    /// # Errors
    /// [`BadUsers`] names the first user, or the position from 1, that is wrong.
    pub fn parse(text: &str) -> Result<Self, BadUsers> {
        let mut users: Vec<(String, Credential)> = Vec::new();
        let entries = text.split([',', '\n', '\r']).map(str::trim).filter(|entry| !entry.is_empty());
        for (position, entry) in (1..).zip(entries) {
            let (name, secret) = entry.split_once(':').ok_or(BadUsers::NoPassword(position))?;
            if name.is_empty() {
                return Err(BadUsers::NoName(position));
            }
            let name = prepare(name).ok_or_else(|| BadUsers::Prohibited(name.to_owned()))?;
            if users.iter().any(|(other, _)| *other == name) {
                return Err(BadUsers::Twice(name));
            }
            let credential = match secret.strip_prefix("SCRAM-SHA-256$") {
                Some(verifier) => Credential::Verifier(Verifier::parse(verifier, &name)?),
                None if secret.is_empty() => return Err(BadUsers::NoPassword(position)),
                None => {
                    Credential::Password(prepare(secret).ok_or_else(|| BadUsers::Prohibited(name.clone()))?)
                }
            };
            users.push((name, credential));
        }
        Ok(Self(users))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for UserList {
    /// The names alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Text as SCRAM compares it: with SASLprep (RFC 4013) applied, `None` where that prohibits it.
pub(super) fn prepare(text: &str) -> Option<String> {
    stringprep::saslprep(text).ok().filter(|text| !text.is_empty()).map(|text| text.into_owned())
}

/// Everybody who may log in.
pub struct Users {
    verifiers: BTreeMap<String, Verifier>,
    random: Random,
    /// What somebody who is not there seems to be derived with.
    iterations: u32,
}

impl Users {
    /// Derives what is kept from passwords, which takes milliseconds for each. `seed` makes salts and
    /// nonces: it must not be guessable where anybody could listen.
    pub fn new(list: &UserList, seed: u64) -> Self {
        let random = Random::new(seed);
        let verifier = |name: &str, credential: &Credential| match credential {
            Credential::Verifier(verifier) => verifier.clone(),
            Credential::Password(password) => Verifier::of_password(password, salt_of(&random, name)),
        };
        let verifiers: BTreeMap<_, _> =
            list.0.iter().map(|(name, credential)| (name.clone(), verifier(name, credential))).collect();
        let mut counts = BTreeMap::<u32, usize>::new();
        for verifier in verifiers.values() {
            *counts.entry(verifier.iterations).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|&(_, count)| count);
        let iterations = most.map_or(ITERATIONS_MIN, |(iterations, _)| iterations);
        Self { verifiers, random, iterations }
    }

    /// Whether nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.verifiers.is_empty()
    }

    /// What the user `name` has to know. For one that is not there too: what most of them look like,
    /// so that nobody learns who is.
    pub(super) fn verifier(&self, name: &str) -> Verifier {
        self.verifiers.get(name).cloned().unwrap_or_else(|| Verifier {
            salt: salt_of(&self.random, name),
            iterations: self.iterations,
            stored_key: self.random.of("nobody's key", name.as_bytes()),
            server_key: self.random.of("nobody's server key", name.as_bytes()),
        })
    }

    /// A text that was never given before and cannot be foretold.
    pub(super) fn nonce(&mut self) -> String {
        BASE64_STANDARD.encode(&self.random.draw("nonce")[..18])
    }
}

fn salt_of(random: &Random, name: &str) -> Vec<u8> {
    random.of("salt", name.as_bytes())[..SALT_LEN].to_vec()
}

/// What is kept of a password.
#[derive(Clone, PartialEq)]
pub(super) struct Verifier {
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
    pub(super) stored_key: Digest256,
    pub(super) server_key: Digest256,
}

impl Verifier {
    fn of_password(password: &str, salt: Vec<u8>) -> Self {
        let iterations = ITERATIONS_MIN;
        let salted: Digest256 =
            pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), &salt, iterations);
        let stored_key = Sha256::digest(sign(&salted, &[b"Client Key"])).into();
        let server_key = sign(&salted, &[b"Server Key"]);
        Self { salt, iterations, stored_key, server_key }
    }

    /// What follows the method's name in PostgreSQL's form.
    fn parse(text: &str, name: &str) -> Result<Self, BadUsers> {
        let parts = || {
            let (first, keys) = text.split_once('$')?;
            let (iterations, salt) = first.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let key = |text: &str| BASE64_STANDARD.decode(text).ok()?.try_into().ok();
            let salt = BASE64_STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
            Some(Self {
                iterations: iterations.parse().ok()?,
                salt,
                stored_key: key(stored_key)?,
                server_key: key(server_key)?,
            })
        };
        let verifier = parts().ok_or_else(|| BadUsers::Verifier(name.to_owned()))?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&verifier.iterations) {
            return Err(BadUsers::Iterations(name.to_owned()));
        }
        Ok(verifier)
    }
}

/// HMAC-SHA-256 of the parts one after the other.
pub(super) fn sign(key: &[u8], parts: &[&[u8]]) -> Digest256 {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_a_line_or_a_comma_apart() {
        let list = UserList::parse("alice:secret, bob:with: colons\n\n carol:SCRAM-SHA-256$4096:AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
            .expect("a list");
        assert_eq!(format!("{list:?}"), r#"{"alice", "bob", "carol"}"#);
        assert!(list.0[1].1 == Credential::Password("with: colons".to_owned()));
        assert!(UserList::parse(" \n").expect("nobody").is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        let wrong = |text| UserList::parse(text).expect_err("wrong").to_string();
        assert_eq!(wrong("a:b,hunter2"), "user 2: expected name:password");
        assert_eq!(wrong("a:"), "user 1: expected name:password");
        assert_eq!(wrong(":hunter2"), "user 1 has no name");
        assert_eq!(wrong("a:hunter2,a:other"), "user \"a\" is there twice");
        assert_eq!(
            wrong("a:hunter\u{7}"),
            "user \"a\": name or password has a character that SASLprep prohibits"
        );
        let form = "user \"a\": expected SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY";
        for text in ["a:SCRAM-SHA-256$", "a:SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", "a:SCRAM-SHA-256$x:AAAA$b"] {
            assert_eq!(wrong(text), form);
        }
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(
            wrong(&format!("a:SCRAM-SHA-256$1:AAAA${key}:{key}")),
            "user \"a\": expected 4096 to 10000000 iterations"
        );
    }

    #[test]
    fn who_is_not_there_looks_like_somebody() {
        let users = Users::new(&UserList::parse("alice:secret").expect("a list"), 7);
        let (one, again, other) =
            (users.verifier("mallory"), users.verifier("mallory"), users.verifier("trudy"));
        assert!(one.salt == again.salt && one.salt != other.salt);
        assert_eq!((one.salt.len(), one.iterations), (SALT_LEN, users.verifier("alice").iterations));
    }
}
