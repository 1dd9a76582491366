//! What `mosquitto_sub -F %J` and `-F %j` print: a line a message that was delivered.
//!
//! `%j` prints the payload as text, up to its first zero byte; `%J` reads it as JSON and prints that
//! anew, so numbers and white space may differ from what was sent. Either way `payloadlen` is the
//! length it had, which tells both forms apart and what is not exact.

use std::fmt;

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    amount::counted,
    packet::{PacketIdentifier, PayloadEncoding, Properties, Property, Publish, QoS, TopicName, Utf8String},
    recording::{
        Direction, Event, FileError, FileErrorKind, FilePlace,
        assembly::{Assembly, BadMember, Message},
        json::{Place, parse_property},
        moment::{Moment, Timeline},
    },
};

/// Makes deliveries of lines.
#[derive(Debug, Default)]
pub struct MosquittoLines {
    assembly: Assembly,
    timeline: Timeline,
    /// Whose payload is not, byte for byte, the one that was delivered.
    inexact: u64,
    messages: u64,
}

#[derive(Deserialize)]
struct Line<'a> {
    /// RFC 3339 since version 2, before that Unix seconds.
    #[serde(borrow)]
    tst: &'a RawValue,
    topic: String,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: u8,
    payloadlen: Option<usize>,
    mid: Option<u16>,
    #[serde(default, deserialize_with = "properties")]
    properties: Properties,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

impl MosquittoLines {
    /// The time of the line `text`.
    pub fn started_at(text: &[u8], place: Place) -> Result<Option<Timestamp>, FileError> {
        let text = String::from_utf8_lossy(text);
        let line: Line<'_> = serde_json::from_str(&text).map_err(|error| unreadable(&error, place))?;
        Ok(Timeline::started_at(moment(&line).map_err(|bad| invalid(bad, place))?))
    }

    /// Adds the line `text`, which stood at `place`.
    pub fn add(&mut self, text: &[u8], place: Place) -> Result<(), FileError> {
        let Ok(valid) = std::str::from_utf8(text) else { return self.add_binary(text, place) };
        let line: Line<'_> = serde_json::from_str(valid).map_err(|error| unreadable(&error, place))?;
        let payload = payload(&line).map_err(|bad| invalid(bad, place))?;
        self.add_line(line, payload).map_err(|bad| invalid(bad, place))
    }

    /// A line whose payload is no UTF-8, which `%j` prints as it is.
    fn add_binary(&mut self, text: &[u8], place: Place) -> Result<(), FileError> {
        let Payload { payload } = serde_json::from_slice(text).map_err(|error| unreadable(&error, place))?;
        let text = String::from_utf8_lossy(text);
        let line: Line<'_> = serde_json::from_str(&text).map_err(|error| unreadable(&error, place))?;
        self.add_line(line, payload.0).map_err(|bad| invalid(bad, place))
    }

    fn add_line(&mut self, line: Line<'_>, payload: Vec<u8>) -> Result<(), BadMember> {
        let at = self.timeline.at(moment(&line)?).map_err(|reason| ("tst", reason))?;
        self.inexact += u64::from(line.payloadlen.is_some_and(|len| len != payload.len()));
        let qos = match line.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            other => return Err(("qos", format!("{other} is not 0, 1 or 2"))),
        };
        let publish = Publish {
            dup: false,
            qos,
            retain: line.retain != 0,
            topic: Some(TopicName::parse(&line.topic).map_err(|error| ("topic", error.to_string()))?),
            packet_identifier: line.mid.filter(|_| qos != QoS::AtMostOnce).and_then(PacketIdentifier::new),
            properties: line.properties,
            payload: payload.into(),
        };
        let direction = Direction::ServerToClient;
        let message = Message { client_identifier: None, protocol: None, direction, publish };
        self.assembly.push_message(at, message)?;
        self.messages += 1;
        Ok(())
    }

    pub fn next_ready(&mut self) -> Option<Event> {
        self.assembly.next_ready()
    }

    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "lines of mosquitto_sub: what a subscriber was delivered; who published it, acknowledgements and \
             Wills are not in them ({})",
            counted(self.messages, "message")
        )];
        if self.inexact > 0 {
            notes.push(format!(
                "{} with a payload that is not, byte for byte, the one delivered: %J prints JSON anew, %j ends \
                 at a zero byte",
                counted(self.inexact, "message")
            ));
        }
        notes.extend(self.timeline.notes());
        notes
    }
}

fn moment(line: &Line<'_>) -> Result<Moment, BadMember> {
    let text = line.tst.get();
    Moment::parse(text.trim_matches('"')).map_err(|reason| ("tst", reason))
}

fn payload(line: &Line<'_>) -> Result<Vec<u8>, BadMember> {
    let value = line.payload.map(RawValue::get);
    // Text is what `%j` prints of any payload, and `%J` of one that is a JSON string.
    if let (Some(value), Some(len)) = (value, line.payloadlen)
        && value.starts_with('"')
        && value.len() == len
        && serde_json::from_str::<String>(value).is_ok_and(|text| text.len() != len)
    {
        return Ok(value.as_bytes().to_vec());
    }
    // A payload `null` is printed like none.
    if value.is_none() && line.payloadlen == Some(4) {
        return Ok(b"null".to_vec());
    }
    PayloadEncoding::parse(value, None).map_err(|reason| ("payload", reason))
}

fn invalid((member, reason): BadMember, place: Place) -> FileError {
    let Place { line, column, .. } = place;
    let place = FilePlace::Line { line, column };
    FileError { kind: FileErrorKind::Invalid, place, path: member.to_owned(), reason }
}

fn unreadable(error: &serde_json::Error, place: Place) -> FileError {
    let reason = error.to_string();
    let reason = reason.split(" at line").next().unwrap_or_default().to_owned();
    let column = place.column + (error.column() as u64).saturating_sub(1);
    let place = FilePlace::Line { line: place.line, column };
    FileError { kind: FileErrorKind::Invalid, place, path: String::new(), reason }
}

/// Of a line that is no UTF-8.
#[derive(Deserialize)]
struct Payload {
    payload: ByteText,
}

/// Text that is taken as its bytes.
struct ByteText(Vec<u8>);

impl<'de> Deserialize<'de> for ByteText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = ByteText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<ByteText, E> {
                Ok(ByteText(bytes.to_vec()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

/// Named as mosquitto names them, names of user properties more than once if need be.
fn properties<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Properties, D::Error> {
    struct InOrder;

    impl<'de> Visitor<'de> for InOrder {
        type Value = Properties;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of properties")
        }

        fn visit_unit<E: Error>(self) -> Result<Properties, E> {
            Ok(Properties::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Properties, A::Error> {
            let mut properties = Properties::new();
            let text =
                |text: String| Utf8String::new(text).ok_or(A::Error::custom("text too long or with U+0000"));
            while let Some(name) = map.next_key::<String>()? {
                match name.as_str() {
                    "user-properties" | "user-property" => {
                        for (name, value) in map.next_value::<Pairs>()?.0 {
                            properties.push(Property::UserProperty(text(name)?, text(value)?));
                        }
                    }
                    "correlation-data" => {
                        let data = map.next_value::<String>()?.into_bytes();
                        properties.push(Property::CorrelationData(data.into()));
                    }
                    // The topic is spelt out, and what the alias meant is not known.
                    "topic-alias" => drop(map.next_value::<serde::de::IgnoredAny>()?),
                    "subscription-identifier" => {
                        properties.push(Property::SubscriptionIdentifier(map.next_value()?));
                    }
                    name => {
                        let value = map.next_value::<&RawValue>()?;
                        parse_property(&name.replace('-', "_"), value.get(), &mut properties)
                            .map_err(|reason| A::Error::custom(format!("{name}: {reason}")))?;
                    }
                }
            }
            Ok(properties)
        }
    }

    deserializer.deserialize_any(InOrder)
}

/// The members of an object in their order, none lost.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}
