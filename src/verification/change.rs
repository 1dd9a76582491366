//! In what two packets differ, field by field.

use serde::Serialize;
use serde_json::Value;

use super::{Rules, bucket::Item, content::Content, json, plain::Plain};

/// Changes that are told of one packet.
const CHANGES_MAX: usize = 20;
/// Fields of a packet that are compared one by one.
const FIELDS_MAX: usize = 200;
/// Bytes of a payload that are told where it is no text.
const BYTES_MAX: usize = 32;
/// Characters of a path that are told.
const PATH_MAX: usize = 200;
/// Characters of a value that are told.
const VALUE_MAX: usize = 120;

/// A field with another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// A JSONPath into the payload (`$.value`), or the name of a field (`qos`, `properties.content_type`).
    pub path: String,
    /// As text; `None` where there is none.
    pub expected: Option<String>,
    pub observed: Option<String>,
}

impl Change {
    pub fn new(path: impl Into<String>, expected: Option<String>, observed: Option<String>) -> Self {
        let short = |value: String| shortened(&value, VALUE_MAX);
        let path = shortened(&path.into(), PATH_MAX);
        Self { path, expected: expected.map(short), observed: observed.map(short) }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let (expected, observed) = (text(&self.expected), text(&self.observed));
        write!(f, "{}: {} → {}", Plain(&self.path), Plain(&expected), Plain(&observed))
    }
}

/// At most `len` characters of `text`.
pub fn shortened(text: &str, len: usize) -> String {
    match text.char_indices().nth(len) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// In what two packets differ; nothing if the rules allow it.
pub fn of_items(expected: &Item, observed: &Item, rules: &Rules) -> Vec<Change> {
    let (first, second) = (expected.content(rules), observed.content(rules));
    let mut changes = of_fields(&first, &second);
    if let (Some(one), Some(other)) = (&first.payload, &second.payload)
        && one != other
    {
        let by_rules = expected.message().and_then(|(topic, _)| rules.changes(topic, one, other));
        changes.extend(by_rules.unwrap_or_else(|| of_payloads(one, other)));
    }
    changes.truncate(CHANGES_MAX);
    changes
}

fn of_fields(expected: &Content, observed: &Content) -> Vec<Change> {
    let value = |content: &Content, path: &str| {
        content.fields.iter().find(|field| field.path == path).map(|field| field.value.to_string())
    };
    let mut changes = Vec::new();
    for field in expected.fields.iter().take(FIELDS_MAX) {
        let other = value(observed, &field.path);
        if other.as_deref() != Some(&*field.value) {
            changes.push(Change::new(field.path.to_string(), Some(field.value.to_string()), other));
        }
    }
    for field in observed.fields.iter().take(FIELDS_MAX) {
        if value(expected, &field.path).is_none() {
            changes.push(Change::new(field.path.to_string(), None, Some(field.value.to_string())));
        }
    }
    if changes.is_empty() && expected.fields != observed.fields {
        let count = |content: &Content| Some(content.fields.len().to_string());
        changes.push(Change::new("fields", count(expected), count(observed)));
    }
    // Where User Properties come and go, so do their places.
    let is_order = |change: &Change| change.path.ends_with(".user");
    if changes.iter().any(|change| !is_order(change) && change.path.contains(".user")) {
        changes.retain(|change| !is_order(change));
    }
    changes
}

fn of_payloads(expected: &[u8], observed: &[u8]) -> Vec<Change> {
    if let (Some(first), Some(second)) = (json::parse(expected), json::parse(observed)) {
        let changes = of_values(&first, &second);
        if !changes.is_empty() {
            return changes;
        }
        // Else the same JSON in other bytes: other spaces, another order of members.
    }
    vec![Change::new("payload", Some(payload(expected)), Some(payload(observed)))]
}

fn payload(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => format!("{:?}", shortened(text, VALUE_MAX)),
        Err(_) => {
            let start: Vec<String> =
                payload.iter().take(BYTES_MAX).map(|byte| format!("{byte:02x}")).collect();
            format!("{} bytes {}", payload.len(), start.join(" "))
        }
    }
}

/// In what two values differ, by path, in the order of the first.
pub fn of_values(expected: &Value, observed: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&mut changes, "$".to_owned(), Some(expected), Some(observed));
    changes
}

fn compare(changes: &mut Vec<Change>, path: String, expected: Option<&Value>, observed: Option<&Value>) {
    if changes.len() >= CHANGES_MAX || expected == observed {
        return;
    }
    match (expected, observed) {
        (Some(Value::Object(first)), Some(Value::Object(second))) => {
            let added = second.keys().filter(|name| !first.contains_key(*name));
            for name in first.keys().chain(added) {
                compare(changes, format!("{path}{}", member(name)), first.get(name), second.get(name));
            }
        }
        (Some(Value::Array(first)), Some(Value::Array(second))) => {
            for index in 0..first.len().max(second.len()) {
                compare(changes, format!("{path}[{index}]"), first.get(index), second.get(index));
            }
        }
        _ => {
            let text = |value: Option<&Value>| value.map(json::shown);
            changes.push(Change::new(path, text(expected), text(observed)));
        }
    }
}

/// `.name`, or `['a name']` where it is not a plain one.
fn member(name: &str) -> String {
    let is_plain = !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|one| one.is_alphanumeric() || one == '_');
    if is_plain {
        format!(".{name}")
    } else {
        format!("['{}']", name.replace('\\', r"\\").replace('\'', r"\'"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_differ_by_path() {
        let told = |expected, observed| {
            of_values(&expected, &observed).iter().map(Change::to_string).collect::<Vec<_>>().join("\n")
        };
        expect_test::expect![[r#"
            $.a.b[1]: 2 → 3
            $.a.b[2]: nothing → 4
            $['c d']: "x" → nothing
            $.new: nothing → null"#]]
        .assert_eq(&told(
            json!({"a": {"b": [1, 2]}, "c d": "x", "same": 1}),
            json!({"a": {"b": [1, 3, 4]}, "same": 1, "new": null}),
        ));
        assert_eq!(told(json!(1), json!({"a": 1})), "$: 1 → {\"a\":1}");
        assert_eq!(told(json!([1, {"a": []}]), json!([1, {"a": []}])), "");
    }

    #[test]
    fn what_is_told_is_bounded() {
        let many = |add: u32| Value::from((0..1000).map(|n| n + add).collect::<Vec<_>>());
        assert_eq!(of_values(&many(0), &many(1)).len(), CHANGES_MAX);
        let long = Change::new("$", Some("ü".repeat(1000)), None);
        assert_eq!(long.expected.unwrap().chars().count(), VALUE_MAX + 1);
    }
}
