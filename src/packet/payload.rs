//! Payloads as JSON values, text or base64: whichever is the most readable and loses nothing.

use std::{collections::BTreeSet, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

/// How a payload is written where JSON is: in recordings, and in what webhooks send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadEncoding {
    Json,
    Utf8,
    Base64,
}

impl PayloadEncoding {
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Utf8 => "utf8",
            Self::Base64 => "base64",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Json, Self::Utf8, Self::Base64].into_iter().find(|encoding| encoding.name() == name)
    }

    /// Appends `payload` as a JSON value; returns how.
    pub fn write(payload: &[u8], out: &mut Vec<u8>) -> Self {
        if is_canonical(payload) {
            out.extend_from_slice(payload);
            return Self::Json;
        }
        if let Ok(text) = std::str::from_utf8(payload) {
            serde_json::to_writer(out, text).expect("text into memory");
            return Self::Utf8;
        }
        out.push(b'"');
        out.extend_from_slice(BASE64_STANDARD.encode(payload).as_bytes());
        out.push(b'"');
        Self::Base64
    }

    /// The bytes that the JSON value `value` stands for; none for `None`.
    ///
    /// Without an encoding text stands for itself, and every other value for its JSON.
    ///
    /// # Errors
    /// For people, when the value is not what its encoding says.
    pub fn parse(value: Option<&str>, encoding: Option<Self>) -> Result<Vec<u8>, String> {
        let value = value.unwrap_or("null");
        let is_text = value.starts_with('"');
        let text = || serde_json::from_str::<String>(value).map_err(|_| "payload is not text".to_owned());
        match encoding {
            None if is_text => Ok(text()?.into_bytes()),
            None if value == "null" => Ok(Vec::new()),
            Some(Self::Json) | None => Ok(compact(value)),
            Some(Self::Utf8) => Ok(text()?.into_bytes()),
            Some(Self::Base64) => {
                BASE64_STANDARD.decode(text()?).map_err(|error| format!("payload: {error}"))
            }
        }
    }
}

/// JSON without the white space between its tokens.
fn compact(json: &str) -> Vec<u8> {
    let (mut out, mut in_string, mut escaped) = (Vec::with_capacity(json.len()), false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
    out
}

/// Whether parsing `payload` as JSON and printing it compactly gives the same bytes, whatever tool
/// does it: no white space, no other spelling of a number or a character, no name twice.
fn is_canonical(payload: &[u8]) -> bool {
    // Cheap and common: text and binary payloads do not begin like this.
    let begins = payload.first().is_some_and(|first| b"{[\"-0123456789tfn".contains(first));
    if !begins {
        return false;
    }
    let mut printed = Vec::with_capacity(payload.len());
    let mut json = serde_json::Deserializer::from_slice(payload);
    let parsed = Printer(&mut printed).deserialize(&mut json);
    parsed.is_ok() && json.end().is_ok() && printed == payload
}

/// Prints what is parsed, in the same order.
struct Printer<'a>(&'a mut Vec<u8>);

impl Printer<'_> {
    fn print<E: Error>(self, value: &(impl serde::Serialize + ?Sized)) -> Result<(), E> {
        serde_json::to_writer(self.0, value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Printer<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Printer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.print(&())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.print(&value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.print(&value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.print(&value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.print(&value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.print(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        let mut separator = false;
        loop {
            // The separator stands before an element that may not come.
            let len = self.0.len();
            if separator {
                self.0.push(b',');
            }
            if seq.next_element_seed(Printer(self.0))?.is_none() {
                self.0.truncate(len);
                break;
            }
            separator = true;
        }
        self.0.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.push(b'{');
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.is_empty() {
                self.0.push(b',');
            }
            Printer(self.0).print(&name)?;
            self.0.push(b':');
            map.next_value_seed(Printer(self.0))?;
            if !names.insert(name) {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        self.0.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(payload: &[u8]) -> PayloadEncoding {
        let mut written = Vec::new();
        let encoding = PayloadEncoding::write(payload, &mut written);
        let text = String::from_utf8(written).unwrap();
        assert_eq!(PayloadEncoding::parse(Some(&text), Some(encoding)).unwrap(), payload, "{text}");
        encoding
    }

    #[test]
    fn only_what_every_tool_prints_the_same_way_is_a_json_value() {
        for json in [
            "{\"value\":23.5}",
            "1",
            "-7",
            "true",
            "null",
            "[]",
            "{}",
            "[1,[2,{\"a\":[]}]]",
            "\"text\"",
            "\"é\\n\"",
        ] {
            assert_eq!(round_trip(json.as_bytes()), PayloadEncoding::Json, "{json}");
        }
        for text in [
            "",
            "on",
            "1.50",
            "1e5",
            "-0",
            "01",
            "+1",
            "{\"a\": 1}",
            " 1",
            "1 ",
            "[1,]",
            "\"\\u00e9\"",
            "\"\\/\"",
            "{\"a\":1,\"a\":2}",
            "18446744073709551616",
            "1 2",
            "{\"b\":1,\"a\":1.0e2}",
            "NaN",
            "nul",
        ] {
            assert_eq!(round_trip(text.as_bytes()), PayloadEncoding::Utf8, "{text}");
        }
        assert_eq!(round_trip(b"\xff"), PayloadEncoding::Base64);
        assert_eq!(round_trip(b"{\"a\":\"\xff\"}"), PayloadEncoding::Base64);
    }

    #[test]
    fn hand_written_payloads_mean_what_they_look_like() {
        let bytes = |value, encoding| {
            PayloadEncoding::parse(value, encoding).map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(bytes(Some("\"on\""), None).unwrap(), "on");
        assert_eq!(
            bytes(Some("{ \"a b\" : [ 1.50,\n \"x\\\" y\" ] }"), None).unwrap(),
            "{\"a b\":[1.50,\"x\\\" y\"]}"
        );
        assert_eq!(bytes(None, None).unwrap(), "");
        assert_eq!(bytes(None, Some(PayloadEncoding::Json)).unwrap(), "null");
        assert!(bytes(Some("7"), Some(PayloadEncoding::Utf8)).is_err());
        assert!(bytes(Some("\"*\""), Some(PayloadEncoding::Base64)).is_err());
    }

    proptest! {
        #[test]
        fn any_payload_survives(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            round_trip(&payload);
        }

        #[test]
        fn any_text_survives(payload in "[\\[\\]{}\",:0-9.eE+\\- a\\\\u]{0,12}") {
            round_trip(payload.as_bytes());
        }
    }
}
