//! A webhook as people write it, in `mockforge.yaml` and over the API.
//!
//! Nothing here is checked beyond its shape; [`Webhook::new`](super::Webhook::new) does that and says which field is wrong.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::mock::WhenSpec;

/// How many there may be: each has a task and a log.
pub const WEBHOOKS_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["topic", "url"]))]
pub struct WebhookSpec {
    /// Unique among webhooks; empty gets a free `webhook-1`, `webhook-2` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// A Topic Filter in which `{{name}}` is a named `+`. Required.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// `http://` or `https://`, a template. Required.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Of HTTP.
    #[serde(skip_serializing_if = "is_usual_method")]
    #[schemars(!skip_serializing_if)]
    pub method: String,
    /// By name; values are templates.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A template; any value but a text is taken as its compact JSON. Absent: the message as a JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Whether it gets messages.
    #[serde(skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub enabled: bool,
    /// What else has to hold of a message; absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<WhenSpec>,
    /// For one attempt, connecting included.
    #[serde(skip_serializing_if = "is_usual_timeout")]
    #[schemars(!skip_serializing_if)]
    pub timeout_ms: u64,
    /// Attempts after the first one.
    #[serde(skip_serializing_if = "is_usual_retries")]
    #[schemars(!skip_serializing_if)]
    pub retries: u32,
    /// Before the first retry; twice as long before each further one.
    #[serde(skip_serializing_if = "is_usual_backoff")]
    #[schemars(!skip_serializing_if)]
    pub backoff_ms: u64,
    /// The longest of those waits.
    #[serde(skip_serializing_if = "is_usual_backoff_max")]
    #[schemars(!skip_serializing_if)]
    pub backoff_max_ms: u64,
    /// Messages that may wait.
    #[serde(skip_serializing_if = "is_usual_queue")]
    #[schemars(!skip_serializing_if)]
    pub queue: u32,
    /// Requests at the same time; with 1 they go out in the order of the messages, and one that is tried again holds
    /// back those behind it.
    #[serde(skip_serializing_if = "is_usual_concurrency")]
    #[schemars(!skip_serializing_if)]
    pub concurrency: u32,
    /// Key of the signature; absent: none is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// PEM file with the authorities that an `https` receiver's certificate is checked against, instead of the system's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca_file: String,
}

impl Default for WebhookSpec {
    fn default() -> Self {
        Self {
            id: String::new(),
            topic: String::new(),
            url: String::new(),
            method: USUAL_METHOD.to_owned(),
            headers: BTreeMap::new(),
            body: None,
            enabled: true,
            when: None,
            timeout_ms: USUAL_TIMEOUT_MS,
            retries: USUAL_RETRIES,
            backoff_ms: USUAL_BACKOFF_MS,
            backoff_max_ms: USUAL_BACKOFF_MAX_MS,
            queue: USUAL_QUEUE,
            concurrency: 1,
            secret: None,
            ca_file: String::new(),
        }
    }
}

const USUAL_METHOD: &str = "POST";
const USUAL_TIMEOUT_MS: u64 = 5000;
const USUAL_RETRIES: u32 = 5;
const USUAL_BACKOFF_MS: u64 = 500;
const USUAL_BACKOFF_MAX_MS: u64 = 30_000;
const USUAL_QUEUE: u32 = 1000;

/// What must not be seen where it is printed for people.
#[derive(Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

/// What serde says of a value that does not fit shows it.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("expected text (in quotes, if it looks like a number)")),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

/// Gives those without an id a free one, the same ones each time; `is_taken` says which are not.
pub fn name_webhooks(specs: &mut [WebhookSpec], is_taken: impl Fn(&str) -> bool) {
    for index in 0..specs.len() {
        if specs[index].id.is_empty() {
            let is_taken = |id: &str| is_taken(id) || specs.iter().any(|spec| spec.id == id);
            specs[index].id = free_id(index + 1, is_taken);
        }
    }
}

/// `webhook-n`, with the first `n` from `first` on that is free.
pub fn free_id(first: usize, is_taken: impl Fn(&str) -> bool) -> String {
    let mut ids = (first..).map(|number| format!("webhook-{number}"));
    ids.find(|id| !is_taken(id)).expect("not all numbers are taken")
}

fn is_usual_method(method: &str) -> bool {
    method == USUAL_METHOD
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_true(value: &bool) -> bool {
    *value
}

macro_rules! is_usual {
    ($($name:ident: $type:ty = $usual:expr;)*) => {
        $(fn $name(value: &$type) -> bool {
            *value == $usual
        })*
    };
}

is_usual! {
    is_usual_timeout: u64 = USUAL_TIMEOUT_MS;
    is_usual_retries: u32 = USUAL_RETRIES;
    is_usual_backoff: u64 = USUAL_BACKOFF_MS;
    is_usual_backoff_max: u64 = USUAL_BACKOFF_MAX_MS;
    is_usual_queue: u32 = USUAL_QUEUE;
    is_usual_concurrency: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_not_written_and_unknown_fields_are_refused() {
        let spec: WebhookSpec =
            serde_json::from_str(r#"{"topic":"a/+","url":"http://h","body":{"t":"{{topic}}"},"queue":7}"#)
                .expect("a spec");
        assert_eq!(
            spec,
            WebhookSpec {
                topic: "a/+".to_owned(),
                url: "http://h".to_owned(),
                body: Some(serde_json::json!({"t": "{{topic}}"})),
                queue: 7,
                ..WebhookSpec::default()
            }
        );
        assert_eq!(
            serde_json::to_string(&spec).expect("JSON"),
            r#"{"topic":"a/+","url":"http://h","body":{"t":"{{topic}}"},"queue":7}"#
        );
        assert!(serde_json::from_str::<WebhookSpec>(r#"{"uri":"http://h"}"#).is_err());
    }

    #[test]
    fn a_secret_is_not_printed() {
        let spec = WebhookSpec { secret: Some(Secret("s3cr3t".to_owned())), ..WebhookSpec::default() };
        assert!(!format!("{spec:?}").contains("s3cr3t"));
        let error = serde_json::from_str::<Secret>("12345").expect_err("no text").to_string();
        assert!(!error.contains("12345"), "{error}");
    }
}
