//! A JSON Schema of the settings file, made from the table and from the types of what stands in its lists.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value as Json, json};

use super::{
    ProxySpec,
    setting::{
        ACL, AFFECTED_TOPICS, ALLOWED_HOSTS, API_TOKENS, CHAOS_RULES, Given, Kind, MOCKS, PROXIES,
        RING_TRIGGERS, SETTINGS, Setting, USERS, WEBHOOKS,
    },
};
use crate::{
    auth::{AclRuleSpec, ApiTokenSpec, UserSpec},
    fault::{PROFILES, RuleSpec},
    log::LEVELS,
    mock::MockSpec,
    recorder::TriggerSpec,
    webhook::WebhookSpec,
};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Of `mockforge.yaml`, for editors and other validators. It says of a file's shape what a program can know without
/// looking further; whether a topic or a template is a good one, `config check` says.
pub fn schema() -> Json {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut root = section("Settings of mockforge.");
    for setting in SETTINGS {
        let mut names = setting.key.split('.').peekable();
        let mut within = &mut root;
        while let Some(name) = names.next() {
            let keys = within["properties"].as_object_mut().expect("it is a section");
            within = match names.peek() {
                Some(_) => keys.entry(name).or_insert_with(|| section(&heading(name))),
                None => keys.entry(name).or_insert_with(|| value(setting, &mut generator)),
            };
        }
    }
    let mut definitions: Map<String, Json> = generator.take_definitions(true);
    definitions.values_mut().for_each(on_one_line);
    let mut schema = json!({"$schema": DRAFT, "title": "mockforge.yaml"});
    let members = schema.as_object_mut().expect("it is an object");
    members.append(root.as_object_mut().expect("it is an object"));
    members.insert("$defs".to_owned(), definitions.into());
    schema
}

/// A key with nothing behind it says nothing, and so does a section.
fn section(description: &str) -> Json {
    json!({
        "description": description,
        "type": ["object", "null"],
        "properties": {},
        "additionalProperties": false,
    })
}

fn heading(name: &str) -> String {
    format!("Settings of `{name}`.")
}

fn value(setting: &Setting, generator: &mut SchemaGenerator) -> Json {
    let mut schema = match setting.kind {
        Kind::Switch => json!({"enum": [true, false, "on", "off", "yes", "no", null]}),
        Kind::Integer { min, max: u64::MAX } => json!({"type": ["integer", "null"], "minimum": min}),
        Kind::Integer { min, max } => json!({"type": ["integer", "null"], "minimum": min, "maximum": max}),
        Kind::Fraction { min, max } => json!({"type": ["number", "null"], "minimum": min, "maximum": max}),
        Kind::Number => json!({"anyOf": [{"type": ["integer", "null"], "minimum": 0}, {"const": ""}]}),
        Kind::Text(_) if setting.key == "mqtt.chaos.profile" => {
            json!({"enum": PROFILES.iter().copied().map(Json::from).chain(["".into(), Json::Null]).collect::<Vec<_>>()})
        }
        // Filters are for validators, the names for editors.
        Kind::Text(_) if setting.key == "log.level" => {
            json!({"anyOf": [{"enum": LEVELS}, {"type": ["string", "null"]}]})
        }
        Kind::Text(_) | Kind::Secret(_) => json!({"type": ["string", "null"]}),
        Kind::Choice(names) => {
            let names: Vec<Json> = names.iter().map(|name| json!(name)).chain([Json::Null]).collect();
            json!({"enum": names})
        }
        Kind::List => {
            let list = list_of(setting.key).map(|list| list(generator)).unwrap_or_default();
            json!({"anyOf": [list, {"type": "null"}]})
        }
    };
    let default = setting.kind.read(&Given::Spelled(setting.default.to_owned()));
    let default = default.map(|value| value.to_json()).unwrap_or_default();
    let members = schema.as_object_mut().expect("it is an object");
    if !default.is_null() {
        members.insert("default".to_owned(), default);
    }
    members.insert("description".to_owned(), setting.about.into());
    schema
}

/// What the list of that key holds.
fn list_of(key: &str) -> Option<fn(&mut SchemaGenerator) -> Json> {
    fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Json {
        generator.subschema_for::<Vec<T>>().to_value()
    }
    Some(match key {
        MOCKS => of::<MockSpec>,
        WEBHOOKS => of::<WebhookSpec>,
        CHAOS_RULES => of::<RuleSpec>,
        USERS => of::<UserSpec>,
        ACL => of::<AclRuleSpec>,
        PROXIES => of::<ProxySpec>,
        API_TOKENS => of::<ApiTokenSpec>,
        RING_TRIGGERS => of::<TriggerSpec>,
        ALLOWED_HOSTS | AFFECTED_TOPICS => of::<String>,
        _ => return None,
    })
}

/// Descriptions without the line breaks of the source.
fn on_one_line(schema: &mut Json) {
    match schema {
        Json::Object(members) => {
            for (name, value) in members {
                match value {
                    Json::String(text) if name == "description" => *text = text.replace('\n', " "),
                    value => on_one_line(value),
                }
            }
        }
        Json::Array(entries) => entries.iter_mut().for_each(on_one_line),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_says_what_it_holds() {
        for setting in SETTINGS.iter().filter(|setting| matches!(setting.kind, Kind::List)) {
            assert!(list_of(setting.key).is_some(), "{}", setting.key);
        }
    }

    #[test]
    fn every_setting_is_there_with_its_default() {
        let schema = schema();
        for setting in SETTINGS {
            let pointer = setting.key.replace('.', "/properties/");
            let found = schema.pointer(&format!("/properties/{pointer}")).expect(setting.key);
            assert_eq!(found["description"], setting.about);
            let default = setting.kind.read(&Given::Spelled(setting.default.to_owned())).expect(setting.key);
            assert_eq!(found["default"], default.to_json(), "{}", setting.key);
        }
    }

    /// Calls `f` with each schema of an object, and where it is.
    fn each_object(schema: &Json, at: &str, f: &mut impl FnMut(&Json, &str)) {
        if schema.get("properties").is_some() {
            f(schema, at);
        }
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            match (&**keyword, value) {
                ("properties" | "$defs", Json::Object(members)) => {
                    members.iter().for_each(|(name, value)| each_object(value, &format!("{at}.{name}"), f));
                }
                ("items" | "additionalProperties", value) => each_object(value, &format!("{at}[]"), f),
                ("anyOf" | "oneOf" | "allOf", Json::Array(entries)) => {
                    entries.iter().for_each(|value| each_object(value, at, f));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_key_says_what_it_is() {
        let schema = schema();
        let (mut keys, is_said) = (0, |schema: &Json| schema["description"].is_string());
        each_object(&schema, "", &mut |object, at| {
            for (key, value) in object["properties"].as_object().expect("an object") {
                let text = value.to_string();
                let of_type = text.split_once("#/$defs/").and_then(|(_, rest)| rest.split('"').next());
                let of_type = of_type.map(|name| &schema["$defs"][name]);
                assert!(is_said(value) || of_type.is_some_and(is_said), "{at}.{key}: {text}");
                keys += 1;
            }
        });
        assert!(keys > 200, "{keys}");
    }

    #[test]
    fn unknown_keys_are_refused_everywhere() {
        each_object(&schema(), "", &mut |object, at| {
            assert_eq!(object["additionalProperties"], false, "{at}")
        });
    }
}
