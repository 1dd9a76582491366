//! Which messages are meant, as people write it: in scenarios, over the API, and at the command line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::MessageOrigin;
use crate::mock::OneOrMore;

/// What has to hold of a message; what is absent always does. The shape is that of a mock's `when`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct MatchSpec {
    /// Topic Filters, one of which has to match. Absent: `#`, which leaves topics alone that begin with `$`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<OneOrMoreTopics>,
    /// Client identifier of who published it; `*` stands for any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// One of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<OneOrMore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// A text or JSON value other than an object that it equals (an object: `{"equals": {…}}`); or, by JSONPath (`$.a.b`), tests of the values it selects, one of which has to
    /// pass each; tests that stand beside them by their own names are of the payload as a whole.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub payload: Value,
    /// Found anywhere in the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_regex: Option<String>,
    /// By name, tests of User Properties.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user: BTreeMap<String, Value>,
    /// One of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origins>,
}

impl From<&str> for MatchSpec {
    /// Those whose topic this Topic Filter matches.
    fn from(filter: &str) -> Self {
        Self { topic: Some(OneOrMoreTopics::One(filter.to_owned())), ..Self::default() }
    }
}

impl From<String> for MatchSpec {
    /// As from a `&str`.
    fn from(filter: String) -> Self {
        filter.as_str().into()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a topic filter, or a list of them")]
pub enum OneOrMoreTopics {
    One(String),
    More(Vec<String>),
}

impl OneOrMoreTopics {
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(topic) => std::slice::from_ref(topic),
            Self::More(topics) => topics,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected client, will, api, mock or replay, or a list of them")]
pub enum Origins {
    One(MessageOrigin),
    More(Vec<MessageOrigin>),
}

impl Origins {
    pub fn as_slice(&self) -> &[MessageOrigin] {
        match self {
            Self::One(origin) => std::slice::from_ref(origin),
            Self::More(origins) => origins,
        }
    }
}
