//! What a mock looks at: a message, a subscription or a client, and who it is of.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::payload_tests::PayloadView;
use crate::packet::{Properties, Property, QoS};

/// What made a mock fire, kept until its answers are sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Occasion {
    /// Of a subscription, its filter; empty for a client that connected, and for nothing but time.
    pub topic: String,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Properties,
    /// Empty when no client is behind it.
    pub client_identifier: String,
    pub username: Option<String>,
    /// Whether a mock, a webhook, a replay or the API made the message, and how many mocks led to it.
    pub synthetic: Option<u8>,
    /// Id of the proxy it passed, whose upstream is to get the answers; `None`: the server itself.
    pub via: Option<Arc<str>>,
}

impl Occasion {
    /// What its memory comes to, about.
    pub fn size(&self) -> usize {
        let texts =
            self.topic.len() + self.client_identifier.len() + self.username.as_ref().map_or(0, String::len);
        let properties = self.properties.encoded_len() + self.properties.0.len() * size_of::<Property>();
        size_of::<Self>() + texts + self.payload.len() + properties
    }
}

/// An [`Occasion`] that is being looked at, by any number of mocks.
pub struct Subject<'a> {
    pub occasion: &'a Occasion,
    payload: PayloadView<'a>,
}

impl<'a> Subject<'a> {
    pub fn new(occasion: &'a Occasion) -> Self {
        Self { occasion, payload: PayloadView::new(&occasion.payload) }
    }

    pub fn payload(&self) -> &PayloadView<'a> {
        &self.payload
    }

    /// The payload, if it is JSON of no more than 4 MiB.
    pub fn json(&self) -> Option<&Value> {
        self.payload.json()
    }

    /// The payload as text; what is no UTF-8 in it is replaced.
    pub fn text(&self) -> std::borrow::Cow<'a, str> {
        self.payload.text()
    }

    /// Values of the User Properties called `name`.
    pub fn user(&self, name: &str) -> impl Iterator<Item = &str> {
        self.occasion.properties.iter().filter_map(move |property| match property {
            Property::UserProperty(key, value) if key.as_str() == name => Some(value.as_str()),
            _ => None,
        })
    }

    /// The value that templates call `root`, unless it is nothing that an occasion has.
    pub fn value(&self, root: &str) -> Option<Value> {
        let occasion = self.occasion;
        Some(match root {
            "topic" => json!(occasion.topic),
            "topic_parts" => occasion.topic.split('/').collect(),
            "payload" => self.json().cloned().unwrap_or(Value::Null),
            "payload_raw" => json!(self.text()),
            "client_id" => json!(occasion.client_identifier),
            "username" => json!(occasion.username),
            "qos" => json!(u8::from(occasion.qos)),
            "retain" => json!(occasion.retain),
            "properties" => properties(&occasion.properties),
            "user" => user_properties(&occasion.properties),
            _ => return None,
        })
    }

    /// Every `root` that [`value`](Self::value) knows.
    pub const ROOTS: [&'static str; 10] = [
        "topic",
        "topic_parts",
        "payload",
        "payload_raw",
        "client_id",
        "username",
        "qos",
        "retain",
        "properties",
        "user",
    ];
}

/// As templates see them: by the names that the API has for them.
fn properties(properties: &Properties) -> Value {
    let mut values = Map::new();
    for property in properties.iter() {
        let (name, value) = match property {
            Property::PayloadFormatIndicator(value) => ("payload_format_indicator", json!(value)),
            Property::MessageExpiryInterval(seconds) => ("message_expiry_interval", json!(seconds)),
            Property::ContentType(text) => ("content_type", json!(text.as_str())),
            Property::ResponseTopic(text) => ("response_topic", json!(text.as_str())),
            Property::CorrelationData(data) => ("correlation_data", json!(String::from_utf8_lossy(data))),
            _ => continue,
        };
        values.insert(name.to_owned(), value);
    }
    Value::Object(values)
}

/// Of several with one name, the first.
fn user_properties(properties: &Properties) -> Value {
    let mut values = Map::new();
    for property in properties.iter() {
        if let Property::UserProperty(name, value) = property {
            values.entry(name.as_str().to_owned()).or_insert_with(|| json!(value.as_str()));
        }
    }
    Value::Object(values)
}
