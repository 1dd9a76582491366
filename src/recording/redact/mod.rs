//! Keeping out of recordings what must not be in them, or taking it out of one that is there.
//!
//! [`RedactionRule`]s say what and how; a [`Redactor`] applies them to each event before it is stored or written. It looks
//! wherever the thing may be: a client identifier is in CONNECT, CONNACK, OPEN, MOCK, FAULT and STATE. What cannot be read
//! cannot be searched either, so it is hidden as a whole. Passwords have a module of their own, because they are never
//! recorded unless asked for.

pub(super) mod json;
mod key;
mod pass;
mod password;
mod redactor;
mod report;
mod rule;
#[cfg(test)]
mod tests;

use std::fmt;

use self::pass::Pass;
pub use self::{
    key::RedactionKey,
    password::{PLACEHOLDER, Passwords, RawPasswords, redact_changed, redact_packet},
    redactor::Redactor,
    report::{RedactionReport, RuleReport},
    rule::{BadRule, RedactionRule},
};

/// Rules and the key of their hashes.
#[derive(Clone, Debug, PartialEq)]
pub struct Redaction {
    /// Applied one after the other.
    pub rules: Vec<RedactionRule>,
    pub key: RedactionKey,
}

/// The rules, one after the other, as far as they tell nothing of what they take out: what was redacted says so.
impl fmt::Display for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<String> = self.rules.iter().map(RedactionRule::discreet).collect();
        let rules = rules.join(", ");
        // A pattern may match what another rule says.
        f.write_str(&Pass::new(self).words(&rules).unwrap_or(rules))
    }
}
