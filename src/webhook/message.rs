//! A routed message as webhooks see it, and the JSON object that tells of it.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{json, value::RawValue};

use crate::{
    mock::Occasion,
    packet::{PayloadEncoding, Properties, Utf8String},
};

/// What a message's memory comes to beside its texts and payload; about right is enough.
const OVERHEAD: usize = 256;

/// A message that was routed, as it was published.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutedMessage {
    pub occasion: Occasion,
    pub at: jiff::Timestamp,
}

impl RoutedMessage {
    /// Bytes of memory.
    pub fn size(&self) -> usize {
        let Occasion { topic, payload, properties, client_identifier, username, .. } = &self.occasion;
        let username = username.as_ref().map_or(0, String::len);
        OVERHEAD + topic.len() + payload.len() + properties.encoded_len() + client_identifier.len() + username
    }

    /// The body of a request that has no template for it.
    pub fn to_json(&self) -> Bytes {
        let Occasion { topic, payload, qos, retain, properties, client_identifier, .. } = &self.occasion;
        let mut out = Vec::with_capacity(payload.len() + OVERHEAD);
        out.extend_from_slice(b"{\"topic\":");
        write(topic, &mut out);
        out.extend_from_slice(b",\"payload\":");
        // To a receiver JSON is JSON, with whatever white space.
        let encoding = match serde_json::from_slice::<&RawValue>(payload) {
            Ok(json) => {
                out.extend_from_slice(json.get().as_bytes());
                PayloadEncoding::Json
            }
            Err(_) => PayloadEncoding::write(payload, &mut out),
        };
        for (name, value) in [
            ("payload_encoding", json!(encoding.name())),
            ("qos", json!(u8::from(*qos))),
            ("retain", json!(retain)),
            ("client_id", json!(Some(client_identifier).filter(|name| !name.is_empty()))),
            // RFC 3339, UTC, milliseconds.
            ("timestamp", json!(format!("{:.3}", self.at))),
        ] {
            out.push(b',');
            write(name, &mut out);
            out.push(b':');
            write(&value, &mut out);
        }
        let properties = Told::of(properties);
        if !properties.is_empty() {
            out.extend_from_slice(b",\"properties\":");
            write(&properties, &mut out);
        }
        out.push(b'}');
        out.into()
    }
}

/// Properties as the JSON object tells them.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format_indicator: Option<u8>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user: Vec<Pair<'a>>,
}

#[derive(Serialize)]
struct Pair<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> Told<'a> {
    fn of(properties: &'a Properties) -> Self {
        let pair = |(name, value): (&'a Utf8String, &'a Utf8String)| Pair {
            name: name.as_str(),
            value: value.as_str(),
        };
        Self {
            content_type: properties.content_type().map(Utf8String::as_str),
            response_topic: properties.response_topic().map(Utf8String::as_str),
            correlation_data: properties.correlation_data().map(|data| BASE64_STANDARD.encode(data)),
            payload_format_indicator: properties.payload_format_indicator(),
            message_expiry_interval: properties.message_expiry_interval(),
            user: properties.user_properties().map(pair).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.content_type.is_none()
            && self.response_topic.is_none()
            && self.correlation_data.is_none()
            && self.payload_format_indicator.is_none()
            && self.message_expiry_interval.is_none()
            && self.user.is_empty()
    }
}

fn write(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("JSON into memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Property, QoS};

    fn text(text: &str) -> Utf8String {
        Utf8String::new(text).expect("a good string")
    }

    fn message(payload: &'static [u8]) -> RoutedMessage {
        let occasion = Occasion {
            topic: "orders/7/created".to_owned(),
            payload: Bytes::from_static(payload),
            qos: QoS::AtLeastOnce,
            client_identifier: "shop".to_owned(),
            ..Occasion::default()
        };
        RoutedMessage { occasion, at: "2026-11-22T12:00:00.1239Z".parse().expect("a time") }
    }

    #[track_caller]
    fn check(message: &RoutedMessage, json: &str) {
        assert_eq!(std::str::from_utf8(&message.to_json()).expect("text"), json);
    }

    #[test]
    fn a_payload_that_is_json_is_a_value_as_it_stands() {
        let rest = r#""qos":1,"retain":false,"client_id":"shop","timestamp":"2026-11-22T12:00:00.123Z"}"#;
        for (payload, told) in [
            (&br#"{"total":9.5}"#[..], r#"{"total":9.5},"payload_encoding":"json""#),
            (b" {\"total\": 9.50}\n", r#"{"total": 9.50},"payload_encoding":"json""#),
            (b"on", r#""on","payload_encoding":"utf8""#),
            (b"", r#""","payload_encoding":"utf8""#),
            (b"\xff\x00", r#""/wA=","payload_encoding":"base64""#),
        ] {
            check(&message(payload), &format!(r#"{{"topic":"orders/7/created","payload":{told},{rest}"#));
        }
    }

    #[test]
    fn properties_are_told_if_there_are_any_and_client_id_always() {
        let mut message = message(b"1");
        message.occasion.client_identifier.clear();
        message.occasion.properties = Properties(vec![
            Property::PayloadFormatIndicator(1),
            Property::MessageExpiryInterval(60),
            Property::ContentType(text("text/plain")),
            Property::ResponseTopic(text("r")),
            Property::CorrelationData(Bytes::from_static(&[0xff])),
            Property::UserProperty(text("a"), text("1")),
            Property::UserProperty(text("a"), text("2")),
            Property::SubscriptionIdentifier(5),
        ]);
        check(
            &message,
            concat!(
                r#"{"topic":"orders/7/created","payload":1,"payload_encoding":"json","qos":1,"retain":false,"#,
                r#""client_id":null,"timestamp":"2026-11-22T12:00:00.123Z","properties":{"content_type":"text/plain","#,
                r#""response_topic":"r","correlation_data":"/w==","payload_format_indicator":1,"#,
                r#""message_expiry_interval":60,"user":[{"name":"a","value":"1"},{"name":"a","value":"2"}]}}"#,
            ),
        );
    }
}
