//! Who may call the control plane, and what they may do.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::users::Digest256;
use crate::field::BadField;

/// What a caller of the control plane may do; each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Read,
    /// Run tests.
    Control,
    /// What can't be undone, or sends traffic elsewhere.
    Admin,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Control => "control",
            Self::Admin => "admin",
        }
    }
}

/// Who may call, as it is written in settings: `name`, `role`, and one of the rest.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiTokenSpec {
    /// What logs call the caller.
    pub name: String,
    pub role: Role,
    /// What it sends; `token_sha256` keeps that out of the file.
    #[serde(default, deserialize_with = "secret")]
    pub token: Option<String>,
    /// Of the token's bytes, 64 hexadecimal digits.
    #[serde(default)]
    pub token_sha256: Option<String>,
    /// The common name of a client certificate.
    #[serde(default)]
    pub certificate: Option<String>,
}

/// Everybody who may call; empty when everybody may.
#[derive(Clone, Default, PartialEq)]
pub struct ApiTokens(Vec<ApiToken>);

/// One who may call. Of a token only the digest is kept.
#[derive(Clone, PartialEq)]
pub struct ApiToken {
    name: Box<str>,
    role: Role,
    proof: Proof,
}

#[derive(Clone, PartialEq)]
enum Proof {
    Token(Digest256),
    Certificate(Box<str>),
}

impl ApiTokens {
    /// # Errors
    /// What is wrong with which of `specs`, never with a token in it.
    pub fn new(specs: &[ApiTokenSpec]) -> Result<Self, (usize, Vec<BadField>)> {
        let mut tokens: Vec<ApiToken> = Vec::new();
        for (position, spec) in specs.iter().enumerate() {
            let token = ApiToken::new(spec).map_err(|bad| (position, vec![bad]))?;
            if tokens.iter().any(|other| other.name == token.name) {
                return Err((position, vec![bad("name", format!("\"{}\" is there twice", token.name))]));
            }
            // Two roles of one proof: nobody could say which counts.
            if tokens.iter().any(|other| other.proof == token.proof) {
                let field = if spec.certificate.is_some() { "certificate" } else { "token" };
                return Err((position, vec![bad(field, "is that of another entry".to_owned())]));
            }
            tokens.push(token);
        }
        Ok(Self(tokens))
    }

    /// Adds a token that may do everything.
    #[must_use]
    pub fn with_admin(mut self, name: &str, token: &str) -> Self {
        self.0.push(ApiToken { name: name.into(), role: Role::Admin, proof: Proof::Token(digest(token)) });
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has_role(&self, role: Role) -> bool {
        self.0.iter().any(|token| token.role == role)
    }

    /// Whether somebody is known by a certificate.
    pub fn name_certificates(&self) -> bool {
        self.0.iter().any(|token| matches!(token.proof, Proof::Certificate(_)))
    }

    /// Whose token it is. Takes as long for one that is nobody's, however much of it is right.
    pub fn of_token(&self, token: &str) -> Option<&ApiToken> {
        let given = digest(token);
        let mut found = None;
        for candidate in &self.0 {
            let Proof::Token(digest) = &candidate.proof else { continue };
            let is_same: Choice = digest.ct_eq(&given);
            if bool::from(is_same) {
                found = Some(candidate);
            }
        }
        found
    }

    /// Whose certificate it is, by its common name.
    pub fn of_certificate(&self, common_name: &str) -> Option<&ApiToken> {
        self.0
            .iter()
            .find(|token| matches!(&token.proof, Proof::Certificate(name) if name.as_ref() == common_name))
    }
}

impl fmt::Debug for ApiTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|token| (&token.name, token.role))).finish()
    }
}

impl ApiToken {
    fn new(spec: &ApiTokenSpec) -> Result<Self, BadField> {
        if spec.name.is_empty() {
            return Err(bad("name", "is required".to_owned()));
        }
        let proof = match (&spec.token, &spec.token_sha256, &spec.certificate) {
            (Some(token), None, None) => {
                check_token(token).map_err(|what| bad("token", what))?;
                Proof::Token(digest(token))
            }
            (None, Some(digest), None) => Proof::Token(
                parse_digest(digest)
                    .ok_or_else(|| bad("token_sha256", "expected 64 hexadecimal digits".to_owned()))?,
            ),
            (None, None, Some(name)) if name.is_empty() => {
                return Err(bad("certificate", "must not be empty".to_owned()));
            }
            (None, None, Some(name)) => Proof::Certificate(name.as_str().into()),
            _ => {
                let what = "expected one of token, token_sha256 and certificate".to_owned();
                return Err(bad("", what));
            }
        };
        Ok(Self { name: spec.name.as_str().into(), role: spec.role, proof })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn role(&self) -> Role {
        self.role
    }
}

/// Whether `token` can stand in a header as it is.
///
/// # Errors
/// What is wrong with it, without it.
pub fn check_token(token: &str) -> Result<(), String> {
    if token.is_empty() {
        Err("must not be empty".to_owned())
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("expected visible ASCII characters without spaces".to_owned())
    } else {
        Ok(())
    }
}

/// Tokens are random and long, unlike passwords: what is slow to guess needs no slow hash.
fn digest(token: &str) -> Digest256 {
    Sha256::digest(token.as_bytes()).into()
}

fn parse_digest(text: &str) -> Option<Digest256> {
    let mut digest = Digest256::default();
    let is_hex = text.len() == 2 * digest.len() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

fn bad(path: &str, what: String) -> BadField {
    BadField { path: path.to_owned(), what }
}

/// An error that shows nothing of what was there.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::String(text) => Ok(Some(text)),
        _ => Err(D::Error::custom("expected text (in quotes, if it looks like a number)")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokens(specs: serde_json::Value) -> Result<ApiTokens, String> {
        let specs: Vec<ApiTokenSpec> = serde_json::from_value(specs).map_err(|error| error.to_string())?;
        ApiTokens::new(&specs)
            .map_err(|(position, bad)| format!("[{position}].{}: {}", bad[0].path, bad[0].what))
    }

    #[test]
    fn a_token_is_known_by_itself_or_its_digest() {
        let tokens = tokens(json!([
            {"name": "ci", "role": "control", "token": "s3cret"},
            // printf abc | sha256sum
            {"name": "eyes", "role": "read", "token_sha256": "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"},
            {"name": "ops", "role": "admin", "certificate": "ops"},
        ]))
        .unwrap();
        let role = |found: Option<&ApiToken>| found.map(|token| (token.name().to_owned(), token.role()));
        assert_eq!(role(tokens.of_token("s3cret")), Some(("ci".to_owned(), Role::Control)));
        assert_eq!(role(tokens.of_token("abc")), Some(("eyes".to_owned(), Role::Read)));
        assert_eq!(role(tokens.of_token("s3cre")), None);
        assert_eq!(role(tokens.of_token("")), None);
        assert_eq!(role(tokens.of_token("ops")), None);
        assert_eq!(role(tokens.of_certificate("ops")), Some(("ops".to_owned(), Role::Admin)));
        assert_eq!(role(tokens.of_certificate("s3cret")), None);
    }

    #[test]
    fn each_role_may_do_what_the_lesser_ones_may() {
        assert!(Role::Read < Role::Control && Role::Control < Role::Admin);
    }

    #[test]
    fn what_is_wrong_is_named_without_the_token() {
        let entry = |entry: serde_json::Value| tokens(json!([entry])).unwrap_err();
        let one = "[0].: expected one of token, token_sha256 and certificate";
        assert_eq!(entry(json!({"name": "a", "role": "read"})), one);
        assert_eq!(entry(json!({"name": "a", "role": "read", "token": "x", "certificate": "y"})), one);
        assert_eq!(
            entry(json!({"name": "a", "role": "read", "token": "s3 cret"})),
            "[0].token: expected visible ASCII characters without spaces"
        );
        assert_eq!(
            entry(json!({"name": "a", "role": "read", "token": 73571})),
            "expected text (in quotes, if it looks like a number)"
        );
        assert_eq!(
            entry(json!({"name": "a", "role": "read", "token_sha256": "+a".repeat(32)})),
            "[0].token_sha256: expected 64 hexadecimal digits"
        );
        assert!(
            entry(json!({"name": "a", "role": "root", "token": "x"})).contains("`read`, `control`, `admin`")
        );
        let twice = json!([{"name": "a", "role": "read", "token": "x"}, {"name": "b", "role": "admin", "token": "x"}]);
        assert_eq!(tokens(twice).unwrap_err(), "[1].token: is that of another entry");
    }

    #[test]
    fn nothing_of_a_token_is_shown() {
        let tokens = tokens(json!([{"name": "ci", "role": "control", "token": "s3cret"}])).unwrap();
        assert_eq!(format!("{tokens:?}"), r#"{"ci": Control}"#);
    }
}
