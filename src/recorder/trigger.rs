//! What makes a flight recorder write down what it has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    field::{BadField, Checks},
    mock::{Condition, WhenSpec},
    packet::TopicFilter,
};

/// A trigger as people write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TriggerSpec {
    pub on: TriggerKind,
    /// Topic Filter of messages; absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// What has to hold of the message, as mocks say it; nothing of state and counts.
    pub when: WhenSpec,
}

/// What a trigger looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TriggerKind {
    /// A PUBLISH, from a client or to one.
    #[default]
    Message,
    /// A DISCONNECT or a CONNACK with a Reason Code of 0x80 and above.
    Error,
}

/// A trigger that was checked.
#[derive(Clone, Debug)]
pub enum Trigger {
    Error,
    Message { topic: Option<TopicFilter>, condition: Box<Condition> },
}

impl Trigger {
    /// # Errors
    /// Everything that is wrong, by field.
    pub fn new(spec: &TriggerSpec) -> Result<Self, Vec<BadField>> {
        let mut checks = Checks::default();
        if spec.on == TriggerKind::Error {
            if spec.topic.is_some() || spec.when != WhenSpec::default() {
                checks.refuse("on", "goes with neither topic nor when if it is error");
            }
            return checks.done(Some(Self::Error));
        }
        let topic = spec.topic.as_deref().map(TopicFilter::parse);
        let topic = topic.and_then(|parsed| checks.keep("topic", parsed));
        if !spec.when.state.is_empty() {
            checks.refuse("when.state", "is for mocks alone");
        }
        if spec.when.nth.is_some() {
            checks.refuse("when.nth", "is for mocks alone");
        }
        let condition = Condition::new(&spec.when).map_err(|bad| checks.adopt("when", bad)).ok();
        checks.done(condition.map(|condition| Self::Message { topic, condition: Box::new(condition) }))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn trigger(spec: serde_json::Value) -> Result<Trigger, String> {
        let spec: TriggerSpec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
        Trigger::new(&spec).map_err(|bad| bad.iter().map(BadField::to_string).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn what_is_wrong_is_said_by_field() {
        for (spec, wrong) in [
            (json!({"on": "nothing"}), expect!["unknown variant `nothing`, expected `message` or `error`"]),
            (
                json!({"on": "error", "topic": "a"}),
                expect!["on: goes with neither topic nor when if it is error"],
            ),
            (
                json!({"topic": "a/#/b", "when": {"state": {"a": 1}, "nth": 2}}),
                expect![
                    "topic: level 1: '#' stands alone and last; when.state: is for mocks alone; when.nth: is for mocks alone"
                ],
            ),
            (
                json!({"when": {"payload": {"$..[": 1}}}),
                expect![[
                    r#"when.payload.$..[: "$..[" is no JSONPath: must start with lowercase alpha or '_' at column 4"#
                ]],
            ),
        ] {
            wrong.assert_eq(&trigger(spec).unwrap_err());
        }
    }
}
