//! Redacting parts of JSON text, the rest of which keeps its bytes.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};
use serde_json_path::{JsonPath, NormalizedPath, PathElement};

/// What a path found becomes.
pub enum Replacement {
    Removed,
    /// JSON.
    Text(String),
}

/// Replaces what `path` finds in `payload`; `replace` is given each as JSON. Answers with how many there were and the
/// new text; `None` for a payload that is no JSON, or in which a name comes twice: paths find only one of them, and
/// readers differ in which one they take.
pub fn redact(
    payload: &[u8],
    path: &JsonPath,
    replace: &dyn Fn(&str) -> Replacement,
) -> Option<(u64, Option<String>)> {
    let text = std::str::from_utf8(payload).ok()?;
    let Unambiguous(value) = serde_json::from_str(text).ok()?;
    let found = path.query_located(&value);
    let mut places = Places::default();
    for node in found.iter() {
        places.add(node.location());
    }
    if places.is_none() {
        return Some((0, None));
    }
    let mut writer = Writer { replace, count: 0 };
    let mut out = String::with_capacity(text.len());
    let root: &RawValue = serde_json::from_str(text).ok()?;
    if !writer.write(root, &places, &mut out) {
        // The whole of it is gone.
        out.clear();
    }
    Some((writer.count, Some(out)))
}

/// Whether `payload` was perhaps meant to be JSON with something in it, so that what cannot be read may hold what is
/// looked for.
pub fn is_meant_as_json(payload: &[u8]) -> bool {
    let text = payload.strip_prefix("\u{feff}".as_bytes()).unwrap_or(payload).trim_ascii_start();
    matches!(text.first(), Some(b'{' | b'['))
}

/// A value without names that come twice in one object.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(text.into())
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(Unambiguous(element)) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Value::Array(elements))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut members = serde_json::Map::new();
                while let Some((name, Unambiguous(member))) = map.next_entry::<String, _>()? {
                    if members.insert(name, member).is_some() {
                        return Err(serde::de::Error::custom("a name comes twice"));
                    }
                }
                Ok(Value::Object(members))
            }
        }
        deserializer.deserialize_any(Values).map(Self)
    }
}

/// Places in a value, as a tree.
#[derive(Default)]
struct Places {
    /// Whether this place itself was found, and so all of it.
    is_found: bool,
    members: BTreeMap<String, Places>,
    elements: BTreeMap<usize, Places>,
}

impl Places {
    fn add(&mut self, path: &NormalizedPath<'_>) {
        let mut place = self;
        for element in path.iter() {
            place = match element {
                PathElement::Name(name) => place.members.entry((*name).to_owned()).or_default(),
                PathElement::Index(index) => place.elements.entry(*index).or_default(),
            };
        }
        place.is_found = true;
    }

    fn is_none(&self) -> bool {
        !self.is_found && self.members.is_empty() && self.elements.is_empty()
    }
}

struct Writer<'a> {
    replace: &'a dyn Fn(&str) -> Replacement,
    count: u64,
}

impl Writer<'_> {
    /// Appends `value`; `false` if it is removed.
    fn write(&mut self, value: &RawValue, places: &Places, out: &mut String) -> bool {
        if places.is_found {
            self.count += 1;
            return match (self.replace)(value.get()) {
                Replacement::Removed => false,
                Replacement::Text(text) => {
                    out.push_str(&text);
                    true
                }
            };
        }
        if !places.members.is_empty()
            && let Ok(members) = members(value)
        {
            self.write_object(members, places, out);
        } else if !places.elements.is_empty()
            && let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(value.get())
        {
            self.write_array(&elements, places, out);
        } else {
            out.push_str(value.get());
        }
        true
    }

    fn write_object(&mut self, members: Vec<(Cow<'_, str>, &RawValue)>, places: &Places, out: &mut String) {
        out.push('{');
        let mut is_first = true;
        for (name, value) in members {
            let before = out.len();
            if !std::mem::take(&mut is_first) {
                out.push(',');
            }
            out.push_str(&serde_json::to_string(&name).expect("text into memory"));
            out.push(':');
            let kept = match places.members.get(&*name) {
                Some(places) => self.write(value, places, out),
                None => {
                    out.push_str(value.get());
                    true
                }
            };
            if !kept {
                out.truncate(before);
                is_first = out.ends_with('{');
            }
        }
        out.push('}');
    }

    fn write_array(&mut self, elements: &[&RawValue], places: &Places, out: &mut String) {
        out.push('[');
        for (index, value) in elements.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            let kept = match places.elements.get(&index) {
                Some(places) => self.write(value, places, out),
                None => {
                    out.push_str(value.get());
                    true
                }
            };
            if !kept {
                // Those behind it keep their places.
                out.push_str("null");
            }
        }
        out.push(']');
    }
}

/// The members of an object in their order, as often as they came.
fn members(value: &RawValue) -> serde_json::Result<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(name) = map.next_key_seed(Name)? {
                members.push((name, map.next_value()?));
            }
            Ok(members)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(serde::de::Error::custom("an array is no object"))
        }
    }
    serde_json::Deserializer::from_str(value.get()).deserialize_map(Members)
}

/// A member's name, borrowed where it has no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str, path: &str, how: fn(&str) -> Replacement) -> Option<(u64, Option<String>)> {
        redact(text.as_bytes(), &JsonPath::parse(path).unwrap(), &how)
    }

    fn masked(text: &str, path: &str) -> String {
        redacted(text, path, |_| Replacement::Text("\"*\"".to_owned())).unwrap().1.unwrap()
    }

    fn removed(text: &str, path: &str) -> String {
        redacted(text, path, |_| Replacement::Removed).unwrap().1.unwrap()
    }

    #[test]
    fn what_is_not_redacted_keeps_its_bytes() {
        let text = r#"{ "z":1.50, "user" : {"email": "a@b", "n": 12345678901234567890123}, "a":[1, 2] }"#;
        assert_eq!(
            masked(text, "$.user.email"),
            r#"{"z":1.50,"user":{"email":"*","n":12345678901234567890123},"a":[1, 2]}"#
        );
        assert_eq!(
            masked(text, "$.a[1]"),
            r#"{"z":1.50,"user":{"email": "a@b", "n": 12345678901234567890123},"a":[1,"*"]}"#
        );
    }

    #[test]
    fn what_is_removed_leaves_no_comma_behind() {
        let text = r#"{"a":1,"b":2,"c":3}"#;
        for (path, left) in [
            ("$.a", r#"{"b":2,"c":3}"#),
            ("$.b", r#"{"a":1,"c":3}"#),
            ("$.c", r#"{"a":1,"b":2}"#),
            ("$.*", "{}"),
            ("$", ""),
        ] {
            assert_eq!(removed(text, path), left);
        }
        assert_eq!(removed("[1,2,3]", "$[0]"), "[null,2,3]");
    }

    #[test]
    fn names_that_are_escaped_are_found() {
        assert_eq!(masked(r#"{"\u0061":1}"#, "$.a"), r#"{"a":"*"}"#);
        assert_eq!(masked(r#"{"a\"b":1}"#, r#"$["a\"b"]"#), r#"{"a\"b":"*"}"#);
    }

    #[test]
    fn everything_that_a_path_finds_is_replaced() {
        let text = r#"[{"pin":1,"in":{"pin":[2]}},{"pin":null}]"#;
        let (count, text) = redacted(text, "$..pin", |_| Replacement::Text("0".to_owned())).unwrap();
        assert_eq!((count, text.unwrap().as_str()), (3, r#"[{"pin":0,"in":{"pin":0}},{"pin":0}]"#));
        assert_eq!(redacted("{}", "$.a", |_| Replacement::Removed).unwrap(), (0, None));
    }

    #[test]
    fn what_is_no_json_is_told() {
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let ambiguous = r#"{"a":{"pin":1},"a":{}}"#;
        for text in ["", "{", "pin: 1", "\u{0}", r#"{"n":1e999}"#, r#"{"n":"\ud800"}"#, &deep, ambiguous] {
            assert!(redacted(text, "$..pin", |_| Replacement::Removed).is_none(), "{text:?}");
        }
        assert!(redact(b"\xff", &JsonPath::parse("$").unwrap(), &|_| Replacement::Removed).is_none());
    }
}
