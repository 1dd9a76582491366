//! What is to be redacted, and how: the rules as people write them.

use std::{fmt, str::FromStr};

use regex::bytes::Regex;
use serde_json_path::JsonPath;

use crate::{packet::TopicFilter, recording::NamePattern};

/// Longer patterns are refused.
const PATTERN_MAX: usize = 4096;
/// Bytes that a compiled pattern may take.
const COMPILED_MAX: usize = 1 << 20;

/// One kind of thing that must not be in a recording, and what stands in its place.
///
/// As text `WHAT=HOW`: `json:$.user.email=hash`, `client_id=hash`, `topic:devices/+/#=hash`,
/// `text:[\w.]+@[\w.]+=mask`, `user_property:token=remove`, `json:$.pin=constant:0000`.
#[derive(Clone, Debug)]
pub struct RedactionRule {
    text: String,
    pub(super) what: What,
    pub(super) how: How,
}

/// What is redacted.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// What a JSONPath finds in payloads that are JSON.
    Json(Box<JsonPath>),
    /// What a pattern matches, wherever text or a payload is.
    Text(Regex),
    /// Values of User Properties of this name.
    UserProperty(NamePattern),
    /// Wherever one is told.
    ClientIdentifier,
    /// Of CONNECT, with what authentication exchanges hold.
    UserName,
    /// Levels of topics and of filters that stand where this filter has `+`.
    TopicLevels(TopicFilter),
    /// Address of the client.
    Peer,
}

/// What stands in the place of what is redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    Remove,
    /// The same for the same, as long as the key is.
    Hash,
    /// `***`.
    Mask,
    Constant(String),
}

/// Why text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    #[error("expected WHAT=HOW, such as client_id=hash or json:$.user.email=mask")]
    Form,
    #[error(
        "{0:?} is none of json:$.PATH, text:REGEX, user_property:NAME, client_id, username, topic:FILTER and peer"
    )]
    What(String),
    #[error("{0:?} is none of remove, hash, mask and constant:TEXT")]
    How(String),
    #[error("JSONPath {path:?}: {reason}")]
    Path { path: String, reason: String },
    #[error("pattern {pattern:?}: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("filter {filter:?}: {reason}")]
    Filter { filter: String, reason: String },
    #[error("a user property has a name")]
    NoName,
    #[error("{what} cannot be removed, only hashed, masked or replaced: packets need one")]
    NeedsOne { what: &'static str },
    #[error("{0:?} cannot stand in a topic level, which holds none of '/', '+' and '#' and is not empty")]
    NoLevel(String),
    #[error("a constant has at most 1000 bytes and no U+0000")]
    Constant,
}

impl RedactionRule {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The rule without what may be what it takes out: patterns, and what paths compare with.
    pub fn discreet(&self) -> String {
        let what = match &self.what {
            What::Text(_) => "text",
            What::Json(_) if self.text.contains('?') => "json",
            _ => return self.text.clone(),
        };
        let how = match self.how {
            How::Remove => "remove",
            How::Hash => "hash",
            How::Mask => "mask",
            How::Constant(_) => "constant:…",
        };
        format!("{what}:…={how}")
    }

    fn check(&self) -> Result<(), BadRule> {
        let needed = match self.what {
            What::ClientIdentifier => Some("a client identifier"),
            What::TopicLevels(_) => Some("a topic level"),
            _ => None,
        };
        if let (Some(what), How::Remove) = (needed, &self.how) {
            return Err(BadRule::NeedsOne { what });
        }
        let How::Constant(text) = &self.how else { return Ok(()) };
        if text.len() > 1000 || text.contains('\0') {
            return Err(BadRule::Constant);
        }
        match self.what {
            What::TopicLevels(_) if text.is_empty() || text.contains(['/', '+', '#']) => {
                Err(BadRule::NoLevel(text.clone()))
            }
            What::ClientIdentifier if text.is_empty() => {
                Err(BadRule::NeedsOne { what: "a client identifier" })
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for RedactionRule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let text = text.trim();
        // Paths and patterns may hold `=`, and so may constants.
        let (what, how) = match text.rfind("=constant:") {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => text.rsplit_once('=').ok_or(BadRule::Form)?,
        };
        let rule = Self { text: text.to_owned(), what: what.parse()?, how: how.parse()? };
        rule.check()?;
        Ok(rule)
    }
}

impl fmt::Display for RedactionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for RedactionRule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for What {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind.trim() {
            "json" => match JsonPath::parse(rest) {
                Ok(path) => Ok(Self::Json(Box::new(path))),
                Err(error) => {
                    Err(BadRule::Path { path: rest.to_owned(), reason: error.message().to_owned() })
                }
            },
            "text" => pattern(rest).map(Self::Text),
            "user_property" if rest.is_empty() => Err(BadRule::NoName),
            "user_property" => Ok(Self::UserProperty(NamePattern::new(rest))),
            "topic" => filter(rest).map(Self::TopicLevels),
            "client_id" if rest.is_empty() => Ok(Self::ClientIdentifier),
            "username" if rest.is_empty() => Ok(Self::UserName),
            "peer" if rest.is_empty() => Ok(Self::Peer),
            _ => Err(BadRule::What(text.to_owned())),
        }
    }
}

fn pattern(text: &str) -> Result<Regex, BadRule> {
    let bad = |reason: &str| BadRule::Pattern { pattern: text.to_owned(), reason: reason.to_owned() };
    if text.len() > PATTERN_MAX {
        return Err(bad("is too long"));
    }
    let pattern = regex::bytes::RegexBuilder::new(text).size_limit(COMPILED_MAX).build();
    let pattern = pattern.map_err(|error| {
        // The last line says it; those before draw the place.
        bad(error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: "))
    })?;
    // It would be everywhere and nowhere.
    if pattern.is_match(b"") { Err(bad("matches the empty text, which is everywhere")) } else { Ok(pattern) }
}

fn filter(text: &str) -> Result<TopicFilter, BadRule> {
    let bad = |reason: String| BadRule::Filter { filter: text.to_owned(), reason };
    let filter = TopicFilter::parse(text).map_err(|error| bad(error.to_string()))?;
    if !filter.levels().any(|level| level == "+") {
        return Err(bad("has no +, which stands for a level to redact".to_owned()));
    }
    Ok(filter)
}

impl FromStr for How {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        match text.trim() {
            "remove" => Ok(Self::Remove),
            "hash" => Ok(Self::Hash),
            "mask" => Ok(Self::Mask),
            _ => match text.split_once(':') {
                Some(("constant", constant)) => Ok(Self::Constant(constant.to_owned())),
                _ => Err(BadRule::How(text.to_owned())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_what_and_how() {
        let read = |text: &str| {
            let rule: RedactionRule = text.parse().unwrap();
            (rule.to_string(), rule.how)
        };
        assert_eq!(read(" client_id=hash"), ("client_id=hash".to_owned(), How::Hash));
        assert_eq!(read(r"json:$.a[?@.b=='c'].d=remove").1, How::Remove);
        assert_eq!(read(r"text:pin=\d+=mask").1, How::Mask);
        assert_eq!(read("json:$.url=constant:a=b").1, How::Constant("a=b".to_owned()));
        assert_eq!(read("user_property:x-*=constant:").1, How::Constant(String::new()));
        for text in ["topic:devices/+/#=hash", "username=remove", "peer=remove"] {
            read(text);
        }
    }

    #[test]
    fn what_is_no_rule_is_told_so_that_one_can_mend_it() {
        let texts = [
            "client_id",
            "clientid=hash",
            "client_id=md5",
            "client_id=remove",
            "json:user=hash",
            "text:(=mask",
            "text:a*=mask",
            "topic:a/b=hash",
            "topic:a/#/+=hash",
            "topic:a/+=remove",
            "topic:a/+=constant:x/y",
            "user_property:=hash",
        ];
        let told: Vec<_> = texts
            .iter()
            .map(|text| format!("{text}: {}", text.parse::<RedactionRule>().unwrap_err()))
            .collect();
        expect_test::expect![[r#"
            client_id: expected WHAT=HOW, such as client_id=hash or json:$.user.email=mask
            clientid=hash: "clientid" is none of json:$.PATH, text:REGEX, user_property:NAME, client_id, username, topic:FILTER and peer
            client_id=md5: "md5" is none of remove, hash, mask and constant:TEXT
            client_id=remove: a client identifier cannot be removed, only hashed, masked or replaced: packets need one
            json:user=hash: JSONPath "user": parser error
            text:(=mask: pattern "(": unclosed group
            text:a*=mask: pattern "a*": matches the empty text, which is everywhere
            topic:a/b=hash: filter "a/b": has no +, which stands for a level to redact
            topic:a/#/+=hash: filter "a/#/+": level 1: '#' stands alone and last
            topic:a/+=remove: a topic level cannot be removed, only hashed, masked or replaced: packets need one
            topic:a/+=constant:x/y: "x/y" cannot stand in a topic level, which holds none of '/', '+' and '#' and is not empty
            user_property:=hash: a user property has a name
        "#]].assert_eq(&(told.join("\n") + "\n"));
    }
}
