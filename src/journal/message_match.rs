//! Which messages are meant, checked.

use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use super::{
    MatchSpec, Message, MessageOrigin, Nearness, OneOrMoreTopics,
    nearness::{Tally, beginning, likeness, topic_likeness},
};
use crate::{
    field::{BadField, Checks},
    mock::{OneOrMore, PayloadTests, PayloadView, ValueTest, adopt, equal, one_line, shown},
    packet::{QoS, TopicFilter},
    recording::NamePattern,
};

/// What each part counts for when messages are ordered by how near they came: a message of the right topic is nearer
/// than one of another that has all else.
const TOPIC: f64 = 4.0;
const PAYLOAD: f64 = 2.0;
const OTHER: f64 = 1.0;

/// Bytes of a payload that are told of, and compared by likeness.
const PAYLOAD_SHOWN: usize = 80;

/// Differences within JSON that are told of, and values that are looked at to find them.
const JSON_DIFFERENCES: usize = 5;
const JSON_VALUES: usize = 10_000;

/// Memory that a regular expression may take.
const REGEX_BYTES: usize = 1 << 20;

/// Topic Filters of one match.
const TOPICS_MAX: usize = 1_000;

/// A [`MatchSpec`] that was checked.
#[derive(Clone, Debug)]
pub struct MessageMatch {
    /// One of these; never empty.
    topics: Vec<TopicFilter>,
    client: Option<NamePattern>,
    qos: Vec<QoS>,
    retain: Option<bool>,
    payload: PayloadTests,
    payload_regex: Option<Regex>,
    user: Vec<(String, ValueTest)>,
    origin: Vec<MessageOrigin>,
}

impl MessageMatch {
    /// # Errors
    /// Everything that is wrong, by field.
    pub fn new(spec: &MatchSpec) -> Result<Self, Vec<BadField>> {
        let mut checks = Checks::default();
        let given = spec.topic.as_ref().map_or(&[][..], |topics| topics.as_slice());
        if given.len() > TOPICS_MAX {
            checks.refuse("topic", format_args!("has at most {TOPICS_MAX} filters, not {}", given.len()));
        }
        let is_list = matches!(spec.topic, Some(OneOrMoreTopics::More(_)));
        let mut topics: Vec<TopicFilter> = Vec::new();
        for (index, text) in given.iter().take(TOPICS_MAX).enumerate() {
            let path = if is_list { format!("topic[{index}]") } else { "topic".to_owned() };
            topics.extend(checks.keep(path, TopicFilter::parse(text)));
        }
        if given.is_empty() {
            topics.extend(TopicFilter::parse("#"));
        }
        let qos = match &spec.qos {
            None => &[][..],
            Some(OneOrMore::One(qos)) => std::slice::from_ref(qos),
            Some(OneOrMore::More(several)) => several,
        };
        let qos = qos.iter().filter_map(|&qos| checks.keep("qos", QoS::try_from(qos))).collect();
        let payload = adopt(&mut checks, "payload", PayloadTests::new(&spec.payload));
        let payload_regex = spec.payload_regex.as_ref().and_then(|pattern| {
            let made = RegexBuilder::new(pattern).size_limit(REGEX_BYTES).build();
            checks.keep("payload_regex", made.map_err(|error| one_line(&error)))
        });
        let mut user = Vec::new();
        for (name, test) in &spec.user {
            let test = adopt(&mut checks, &format!("user.{name}"), ValueTest::new(test));
            user.extend(test.map(|test| (name.clone(), test)));
        }
        checks.done(payload.map(|payload| Self {
            topics,
            client: spec.client.as_ref().map(NamePattern::new),
            qos,
            retain: spec.retain,
            payload,
            payload_regex,
            user,
            origin: spec.origin.as_ref().map_or_else(Vec::new, |origins| origins.as_slice().to_vec()),
        }))
    }

    /// One of them matches every message that is meant.
    pub fn topics(&self) -> &[TopicFilter] {
        &self.topics
    }

    pub fn matches(&self, message: &Message<'_>) -> bool {
        self.matches_topic(message.topic) && self.matches_rest(message)
    }

    fn matches_topic(&self, topic: &str) -> bool {
        self.topics.iter().any(|filter| filter.matches_str(topic))
    }

    /// All but the topic; what costs least comes first.
    pub fn matches_rest(&self, message: &Message<'_>) -> bool {
        self.has_qos(message)
            && self.retain.is_none_or(|retain| retain == message.retain)
            && self.has_origin(message)
            && self.client.as_ref().is_none_or(|client| client.matches(message.client_identifier))
            && self.user.iter().all(|(name, test)| check_user(message, name, test).is_ok())
            && self.payload_regex.as_ref().is_none_or(|regex| regex.is_match(message.payload.bytes()))
            && self.payload.check(&message.payload).is_ok()
    }

    fn has_qos(&self, message: &Message<'_>) -> bool {
        self.qos.is_empty() || self.qos.contains(&message.qos)
    }

    fn has_origin(&self, message: &Message<'_>) -> bool {
        self.origin.is_empty() || self.origin.contains(&message.origin)
    }

    /// How near a message came that is none of those meant.
    pub fn differences(&self, message: &Message<'_>) -> Nearness {
        let mut tally = Tally::default();
        if self.matches_topic(message.topic) {
            tally.holds(TOPIC);
        } else {
            let alike = |filter| topic_likeness(message.topic, filter);
            let nearest = self.topics.iter().map(alike).fold(0.0, f64::max);
            tally.differs(TOPIC, nearest, self.topic_difference(message.topic));
        }
        if let Some(client) = &self.client {
            if client.matches(message.client_identifier) {
                tally.holds(OTHER);
            } else {
                let (found, wanted) = (message.client_identifier, client.as_str());
                let said = format!("the client is {}, not {}", quoted(found), quoted(wanted));
                tally.differs(OTHER, likeness(found, wanted), said);
            }
        }
        if self.has_qos(message) {
            tally.holds(if self.qos.is_empty() { 0.0 } else { OTHER });
        } else {
            let wanted = listed(self.qos.iter().map(QoS::to_string));
            tally.differs(OTHER, 0.5, format!("the QoS is {}, not {wanted}", message.qos));
        }
        if let Some(retain) = self.retain {
            match retain == message.retain {
                true => tally.holds(OTHER),
                false => tally.differs(OTHER, 0.5, format!("retain is {}, not {retain}", message.retain)),
            }
        }
        if self.has_origin(message) {
            tally.holds(if self.origin.is_empty() { 0.0 } else { OTHER });
        } else {
            let wanted = listed(self.origin.iter().map(|origin| origin.name().to_owned()));
            let said = format!("the origin is {}, not {wanted}", message.origin.name());
            tally.differs(OTHER, 0.5, said);
        }
        for (name, test) in &self.user {
            match check_user(message, name, test) {
                Ok(()) => tally.holds(OTHER),
                Err(difference) => tally.differs(OTHER, 0.0, difference),
            }
        }
        self.payload_differences(&message.payload, &mut tally);
        tally.done()
    }

    fn topic_difference(&self, topic: &str) -> String {
        let dollar =
            topic.starts_with('$') && self.topics.iter().all(|filter| !filter.as_str().starts_with('$'));
        let why = if dollar { ", which leaves alone what begins with $" } else { "" };
        let some = self.topics.iter().take(3).map(|filter| quoted(filter.as_str()));
        let more = if self.topics.len() > 3 { " or another" } else { "" };
        format!("the topic is {}, not {}{more}{why}", quoted(topic), listed(some))
    }

    fn payload_differences(&self, payload: &PayloadView<'_>, tally: &mut Tally) {
        if let Some(regex) = &self.payload_regex {
            if regex.is_match(payload.bytes()) {
                tally.holds(PAYLOAD);
            } else {
                let (found, pattern) = (shown_payload(payload), regex.as_str());
                tally.differs(
                    PAYLOAD,
                    0.0,
                    format!("the payload is {found}, which {pattern:?} does not find"),
                );
            }
        }
        let mut outcomes = self.payload.outcomes(payload);
        if let Some(test) = self.payload.whole() {
            match outcomes.next() {
                None | Some(Ok(())) => tally.holds(PAYLOAD),
                Some(Err(difference)) => whole_difference(test, payload, difference, tally),
            }
        }
        for outcome in outcomes {
            match outcome {
                Ok(()) => tally.holds(PAYLOAD),
                // JSON at all is nearer than none.
                Err(difference) => {
                    let alike = if payload.json().is_some() { 0.2 } else { 0.0 };
                    tally.differs(PAYLOAD, alike, difference);
                }
            }
        }
    }
}

/// Why a payload as a whole is not what was asked for: of two JSON values, where they differ.
fn whole_difference(test: &ValueTest, payload: &PayloadView<'_>, difference: String, tally: &mut Tally) {
    match (test.equals(), payload.json()) {
        (Some(wanted @ (Value::Object(_) | Value::Array(_))), Some(found)) => {
            let mut differences = JsonDifferences::default();
            differences.compare("$", found, wanted);
            let JsonDifferences { told, looked_at, different, .. } = differences;
            if told.is_empty() {
                return tally.differs(PAYLOAD, 0.0, difference);
            }
            let alike = 1.0 - different as f64 / looked_at.max(1) as f64;
            // All of them together are one matter.
            tally.differs(PAYLOAD, alike, told.join("; "));
        }
        (Some(Value::String(wanted)), _) => {
            let alike = likeness(&payload.text(), wanted);
            let found = shown_payload(payload);
            tally.differs(PAYLOAD, alike, format!("the payload is {found}, not {}", shown_text(wanted)));
        }
        _ => tally.differs(PAYLOAD, 0.2, difference),
    }
}

/// Where two JSON values differ.
#[derive(Default)]
struct JsonDifferences {
    told: Vec<String>,
    looked_at: usize,
    different: usize,
}

impl JsonDifferences {
    /// The parser allows 128 levels.
    fn compare(&mut self, path: &str, found: &Value, wanted: &Value) {
        self.looked_at += 1;
        if self.looked_at > JSON_VALUES {
            return;
        }
        match (found, wanted) {
            (Value::Object(found), Value::Object(wanted)) => {
                for (key, value) in wanted {
                    let path = member(path, key);
                    match found.get(key) {
                        Some(found) => self.compare(&path, found, value),
                        None => self.tell(|| format!("{path} is missing")),
                    }
                }
                for (key, value) in found.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                    let path = member(path, key);
                    self.tell(|| format!("{path} is there: {}", shown(value)));
                }
            }
            (Value::Array(found), Value::Array(wanted)) => {
                for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                    self.compare(&format!("{path}[{index}]"), found, wanted);
                }
                if found.len() != wanted.len() {
                    self.tell(|| format!("{path} has {} items, not {}", found.len(), wanted.len()));
                }
            }
            _ if equal(found, wanted) => {}
            _ => self.tell(|| format!("{path} is {}, not {}", shown(found), shown(wanted))),
        }
    }

    fn tell(&mut self, said: impl FnOnce() -> String) {
        self.different += 1;
        match self.told.len() {
            JSON_DIFFERENCES => self.told.push("and more".to_owned()),
            fewer if fewer < JSON_DIFFERENCES => self.told.push(said()),
            _ => {}
        }
    }
}

/// As JSONPath writes it: `$.a`, or `$['a b']`.
fn member(path: &str, key: &str) -> String {
    let is_plain = !key.is_empty() && key.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    if is_plain { format!("{path}.{key}") } else { format!("{path}['{}']", shortened(key)) }
}

fn check_user(message: &Message<'_>, name: &str, test: &ValueTest) -> Result<(), String> {
    test.check_texts(message.user(name)).map_err(|difference| format!("user property {name} {difference}"))
}

/// `a`, `a or b`, `a, b or c`.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let last = names.pop().unwrap_or_default();
    if names.is_empty() { last } else { format!("{} or {last}", names.join(", ")) }
}

fn quoted(name: &str) -> String {
    format!("{:?}", shortened(name))
}

fn shown_payload(payload: &PayloadView<'_>) -> String {
    let bytes = payload.bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) => shown_text(text),
        Err(_) => format!("{} bytes that are no text", bytes.len()),
    }
}

fn shown_text(text: &str) -> String {
    let short = shortened(text);
    if short.len() < text.len() {
        format!("{short:?}… ({} bytes)", text.len())
    } else {
        format!("{text:?}")
    }
}

fn shortened(text: &str) -> &str {
    beginning(text, PAYLOAD_SHOWN)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::packet::{Properties, Property};

    fn properties(user: &[(&str, &str)]) -> Properties {
        let text = |text: &str| text.try_into().expect("short");
        user.iter().map(|(name, value)| Property::UserProperty(text(name), text(value))).collect()
    }

    fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Message<'a> {
        Message {
            topic,
            payload: PayloadView::new(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Cow::Owned(properties(&[("k", "1"), ("k", "2")])),
            client_identifier: "dev-7",
            origin: MessageOrigin::Client,
        }
    }

    fn parse(spec: Value) -> Result<MessageMatch, Vec<BadField>> {
        MessageMatch::new(&serde_json::from_value(spec).expect("a match"))
    }

    /// What differs between a message at QoS 1 of `dev-7` and each of the matches; `meant` if it is.
    fn check(topic: &str, payload: &str, specs: &[Value], expected: Expect) {
        let message = message(topic, payload.as_bytes());
        let mut said = String::new();
        for spec in specs {
            let meant = parse(spec.clone()).expect("a good match");
            let Nearness { score, differences } = meant.differences(&message);
            let is_meant = differences.is_empty();
            assert_eq!(is_meant, meant.matches(&message), "{spec}");
            assert_eq!(is_meant, score >= 1.0, "{spec}");
            let outcome = if is_meant { "meant".to_owned() } else { differences.join(" | ") };
            said += &format!("{spec}\n  {outcome}\n");
        }
        expected.assert_eq(&said);
    }

    #[test]
    fn what_differs_is_named_one_by_one() {
        check(
            "sensors/d1/temp",
            r#"{"v": 3, "unit": "c", "list": [1, {"x": 2}]}"#,
            &[
                json!({}),
                json!({"topic": "sensors/+/temp", "qos": [1, 2], "origin": "client", "client": "dev-*"}),
                json!({"topic": ["a/#", "sensors/d2/temp"], "client": "app", "qos": 0, "retain": true}),
                json!({"origin": ["will", "api"], "user": {"k": "2", "other": {"exists": true}}}),
                json!({"user": {"k": 2}}),
                json!({"user": {"k": {"equals": 3}}}),
                json!({"payload": {"$.v": {"gt": 5}, "$.unit": "c", "$.w": {"exists": true}}}),
                json!({"payload": {"$.v": 3.0, "$.list[*].x": 2, "regex": "unit"}}),
                json!({"payload": {"equals": {"v": 4, "unit": "c", "a b": 1, "list": [1, {"x": 3}, 5]}}}),
                json!({"payload": {"equals": {"v": 3.0, "unit": "c", "list": [1, {"x": 2}]}}}),
                json!({"payload": "on", "payload_regex": "^x"}),
            ],
            expect![[r#"
                {}
                  meant
                {"client":"dev-*","origin":"client","qos":[1,2],"topic":"sensors/+/temp"}
                  meant
                {"client":"app","qos":0,"retain":true,"topic":["a/#","sensors/d2/temp"]}
                  the topic is "sensors/d1/temp", not "a/#" or "sensors/d2/temp" | the client is "dev-7", not "app" | the QoS is 1, not 0 | retain is false, not true
                {"origin":["will","api"],"user":{"k":"2","other":{"exists":true}}}
                  the origin is client, not will or api | user property other is missing
                {"user":{"k":2}}
                  meant
                {"user":{"k":{"equals":3}}}
                  user property k is "1", not 3
                {"payload":{"$.unit":"c","$.v":{"gt":5},"$.w":{"exists":true}}}
                  $.v is 3, not greater than 5 | $.w is missing
                {"payload":{"$.list[*].x":2,"$.v":3.0,"regex":"unit"}}
                  meant
                {"payload":{"equals":{"a b":1,"list":[1,{"x":3},5],"unit":"c","v":4}}}
                  $['a b'] is missing; $.list[1].x is 2, not 3; $.list has 2 items, not 3; $.v is 3, not 4
                {"payload":{"equals":{"list":[1,{"x":2}],"unit":"c","v":3.0}}}
                  meant
                {"payload":"on","payload_regex":"^x"}
                  the payload is "{\"v\": 3, \"unit\": \"c\", \"list\": [1, {\"x\": 2}]}", which "^x" does not find | the payload is "{\"v\": 3, \"unit\": \"c\", \"list\": [1, {\"x\": 2}]}", not "on"
            "#]],
        );
    }

    #[test]
    fn a_payload_is_a_text_a_json_value_or_bytes() {
        check(
            "a",
            "23.50",
            &[json!({"payload": 23.5}), json!({"payload": "23.50"}), json!({"payload": 23})],
            expect![[r#"
                {"payload":23.5}
                  meant
                {"payload":"23.50"}
                  meant
                {"payload":23}
                  the payload is "23.50", not 23
            "#]],
        );
        check(
            "a",
            "",
            &[
                json!({"payload": ""}),
                json!({"payload": {"$.v": {"exists": false}}}),
                json!({"payload": {"$.v": 1}}),
            ],
            expect![[r#"
                {"payload":""}
                  meant
                {"payload":{"$.v":{"exists":false}}}
                  meant
                {"payload":{"$.v":1}}
                  the payload is no JSON
            "#]],
        );
        let bytes = message("a", b"\xff\xfe");
        let meant = parse(json!({"payload": "on"})).expect("a match");
        assert_eq!(
            meant.differences(&bytes).differences,
            [r#"the payload is 2 bytes that are no text, not "on""#]
        );
        assert!(parse(json!({"payload_regex": r"(?-u)\xff"})).is_ok_and(|meant| meant.matches(&bytes)));
    }

    #[test]
    fn topics_that_begin_with_a_dollar_are_meant_only_by_name() {
        check(
            "$SYS/x",
            "",
            &[json!({}), json!({"topic": "$SYS/#"}), json!({"topic": "+/x"})],
            expect![[r##"
            {}
              the topic is "$SYS/x", not "#", which leaves alone what begins with $
            {"topic":"$SYS/#"}
              meant
            {"topic":"+/x"}
              the topic is "$SYS/x", not "+/x", which leaves alone what begins with $
        "##]],
        );
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once_by_field() {
        let bad = parse(json!({
            "topic": ["a/#/b", "ok", ""], "qos": [1, 3], "payload": {"$.[": 1, "$.a": {"regx": "x"}, "$.b": {"celsius": 1}, "regex": "("},
            "payload_regex": "[", "user": {"k": {"gt": 1, "lq": 2}},
        }));
        expect![[r#"
            topic[0]: level 1: '#' stands alone and last
            topic[2]: a topic filter has at least one character
            qos: QoS 3 is none of 0, 1 and 2
            payload.$.[: "$.[" is no JSONPath: in dot member name, must start with lowercase alpha or '_' at column 3
            payload.$.a: unknown key "regx"
            did you mean "regex"?
            payload.$.b: unknown key "celsius"
            known are equals, regex, exists, gt, gte, lt, lte
            an object is compared with equals
            payload.regex: unclosed group
            payload_regex: unclosed character class
            user.k: unknown key "lq"
            did you mean "lt"?"#]].assert_eq(&BadField::listed(&bad.expect_err("much is wrong")).replace("; ", "\n"));
        let unknown = serde_json::from_value::<MatchSpec>(json!({"topics": "a"})).expect_err("no such key");
        assert!(unknown.to_string().starts_with("unknown field `topics`"), "{unknown}");
    }

    #[test]
    fn what_is_told_of_a_long_payload_is_short() {
        let long = format!(r#"{{"v": "{}"}}"#, "é".repeat(500_000));
        let message = message("a", long.as_bytes());
        for spec in [
            json!({"payload": "x"}),
            json!({"payload": {"$.v": 1}}),
            json!({"payload": {"equals": {"v": 1}}}),
        ] {
            let differences = parse(spec).expect("a match").differences(&message).differences.join("");
            assert!(differences.len() < 500, "{} bytes", differences.len());
        }
    }

    #[test]
    fn differences_of_large_json_end() {
        let list: Vec<u32> = (0..50_000).collect();
        let payload = json!({"list": list}).to_string();
        let wanted: Vec<u32> = (1..50_001).collect();
        let meant = parse(json!({"payload": {"equals": {"list": wanted}}})).expect("a match");
        let said = meant.differences(&message("a", payload.as_bytes())).differences.join("");
        assert!(said.starts_with("$.list[0] is 0, not 1; ") && said.ends_with("; and more"), "{said}");
    }

    /// Two of each, so that half of what is generated is meant.
    fn a_spec() -> impl Strategy<Value = Value> {
        let topic = prop::option::of(prop::sample::select(vec!["a/b", "a/+", "+/c", "#", "a/b/#", "$x/#"]));
        let client = prop::option::of(prop::sample::select(vec!["dev-1", "dev-*", "*"]));
        let qos = prop::option::of(prop::collection::vec(0..3u8, 1..3));
        let retain = prop::option::of(any::<bool>());
        let origin = prop::option::of(prop::sample::select(vec!["client", "api"]));
        let payload = prop::option::of(prop::sample::select(vec![
            json!("on"),
            json!(1),
            json!({"equals": {"v": 1}}),
            json!({"$.v": 1}),
            json!({"$.v": {"gt": 1}}),
            json!({"$.v": {"exists": false}}),
        ]));
        let user = prop::option::of(prop::sample::select(vec!["1", "2"]));
        (topic, client, qos, retain, origin, payload, user).prop_map(
            |(topic, client, qos, retain, origin, payload, user)| {
                let mut spec = serde_json::Map::new();
                let mut put =
                    |key: &str, value: Option<Value>| spec.extend(value.map(|value| (key.to_owned(), value)));
                put("topic", topic.map(Value::from));
                put("client", client.map(Value::from));
                put("qos", qos.map(Value::from));
                put("retain", retain.map(Value::from));
                put("origin", origin.map(Value::from));
                put("payload", payload);
                put("user", user.map(|value| json!({"k": value})));
                Value::Object(spec)
            },
        )
    }

    /// The same decision, straight from the spec.
    fn is_meant(spec: &Value, message: &Message<'_>) -> bool {
        let bytes = message.payload.bytes();
        let json: Option<Value> = serde_json::from_slice(bytes).ok();
        let v = json.as_ref().and_then(|json| json.get("v"));
        let number = v.and_then(Value::as_i64);
        let payload = match spec.get("payload").map(Value::to_string).as_deref() {
            None => true,
            Some(r#""on""#) => bytes == b"on",
            Some("1") => bytes == b"1",
            Some(r#"{"equals":{"v":1}}"#) => json == Some(json!({"v": 1})),
            Some(r#"{"$.v":1}"#) => number == Some(1),
            Some(r#"{"$.v":{"gt":1}}"#) => number.is_some_and(|v| v > 1),
            Some(_) => v.is_none(),
        };
        let topic = match spec.get("topic").and_then(Value::as_str) {
            None | Some("#") => !message.topic.starts_with('$'),
            Some("a/+") => {
                message.topic.split_once('/').is_some_and(|(first, rest)| first == "a" && !rest.contains('/'))
            }
            Some("+/c") => message
                .topic
                .split_once('/')
                .is_some_and(|(first, rest)| !first.starts_with('$') && rest == "c"),
            Some("a/b/#") => message.topic == "a/b" || message.topic.starts_with("a/b/"),
            Some("$x/#") => message.topic == "$x" || message.topic.starts_with("$x/"),
            Some(exactly) => message.topic == exactly,
        };
        let client = match spec.get("client").and_then(Value::as_str) {
            None | Some("*") => true,
            Some("dev-*") => message.client_identifier.starts_with("dev-"),
            Some(exactly) => message.client_identifier == exactly,
        };
        let qos = spec.get("qos").and_then(Value::as_array);
        payload
            && topic
            && client
            && qos.is_none_or(|qos| qos.contains(&json!(u8::from(message.qos))))
            && spec.get("retain").is_none_or(|retain| *retain == json!(message.retain))
            && spec.get("origin").is_none_or(|origin| *origin == json!(message.origin))
            && spec.pointer("/user/k").is_none_or(|value| message.user("k").any(|user| value == user))
    }

    proptest! {
        #[test]
        fn a_match_decides_as_a_naive_one_and_names_what_differs(
            spec in a_spec(),
            topic in prop::sample::select(vec!["a/b", "a/c", "a", "a/b/c", "$x/c", "$x"]),
            payload in prop::sample::select(vec!["on", "1", "", r#"{"v":1}"#, r#"{"v":2}"#, r#"{"w":1}"#, "{"]),
            client in prop::sample::select(vec!["dev-1", "dev-2", "app", ""]),
            (qos, retain) in (0..3u8, any::<bool>()),
            origin in prop::sample::select(vec![MessageOrigin::Client, MessageOrigin::Api, MessageOrigin::Will]),
            user in prop::option::of(prop::sample::select(vec!["1", "2"])),
        ) {
            let message = Message {
                topic,
                payload: PayloadView::new(payload.as_bytes()),
                qos: QoS::try_from(qos).expect("0 to 2"),
                retain,
                properties: Cow::Owned(properties(&user.map_or(Vec::new(), |value| vec![("k", value)]))),
                client_identifier: client,
                origin,
            };
            let meant = parse(spec.clone()).expect("a good match");
            prop_assert_eq!(meant.matches(&message), is_meant(&spec, &message));
            let nearness = meant.differences(&message);
            prop_assert_eq!(nearness.differences.is_empty(), meant.matches(&message));
            prop_assert_eq!(nearness.score >= 1.0, meant.matches(&message));
        }
    }
}
