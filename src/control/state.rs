//! The rpcs of `State`: what mocks read and write.

use serde_json::Value;

use super::{Control, ControlError, fields::Fields, page::PageRequest, pb};
use crate::mock::{StateError, StateScope};

impl Control {
    pub async fn get_state(&self, request: pb::GetStateRequest) -> Result<pb::StateEntry, ControlError> {
        let (scope, key) = named(&request.scope, &request.key)?;
        let value = self.mocks()?.state().get(&scope, &key).cloned();
        value.map(|value| entry(&scope, &key, &value)).ok_or_else(|| not_found(&scope, &key))
    }

    pub async fn set_state(&self, request: pb::SetStateRequest) -> Result<pb::StateEntry, ControlError> {
        let (scope, key) = named(&request.scope, &request.key)?;
        if request.value.is_empty() {
            return Err(ControlError::bad_field("value", "is required"));
        }
        let value = json_or_text(&request.value).map_err(|error| ControlError::bad_field("value", error))?;
        let written = {
            let mut changes = self.scenario_changes();
            let written = self.mocks()?.state().set(&scope, &key, value.clone());
            if written.is_ok() {
                changes.state.remove(&(scope.clone(), key.clone()));
            }
            written
        };
        written.map_err(|error| match error {
            StateError::Full(full) => ControlError::StateFull(full.to_string()),
            StateError::BadKey(_) => ControlError::bad_field("key", error),
            StateError::ValueTooLarge { .. } => ControlError::bad_field("value", error),
        })?;
        Ok(entry(&scope, &key, &value))
    }

    pub async fn delete_state(&self, request: pb::DeleteStateRequest) -> Result<(), ControlError> {
        let (scope, key) = named(&request.scope, &request.key)?;
        let mut changes = self.scenario_changes();
        changes.state.remove(&(scope.clone(), key.clone()));
        match self.mocks()?.state().delete(&scope, &key) {
            Some(_) => Ok(()),
            None => Err(not_found(&scope, &key)),
        }
    }

    pub async fn list_state(
        &self,
        request: pb::ListStateRequest,
    ) -> Result<pb::ListStateResponse, ControlError> {
        let page = PageRequest::new("state", request.page_size, &request.page_token)?;
        let scope = match &*request.scope {
            "" => None,
            text => Some(parsed(text)?),
        };
        let entries: Vec<pb::StateEntry> = {
            let state = self.mocks()?.state();
            let listed = state.list().filter(|(of, ..)| scope.as_ref().is_none_or(|scope| scope == of));
            listed.map(|(scope, key, value)| entry(&scope, key, value)).collect()
        };
        let page = page.cut(entries, |entry| format!("{}\0{}", entry.scope, entry.key), |entry| entry);
        Ok(pb::ListStateResponse { entries: page.items, next_page_token: page.next, total_size: page.total })
    }

    pub async fn reset_state(&self, _: pb::ResetStateRequest) -> Result<(), ControlError> {
        let mut changes = self.scenario_changes();
        self.mocks()?.state().reset();
        changes.state.clear();
        Ok(())
    }
}

fn named(scope: &str, key: &str) -> Result<(StateScope, String), ControlError> {
    let mut fields = Fields::new();
    fields.required("scope", scope);
    fields.required("key", key);
    fields.finish()?;
    Ok((parsed(scope)?, key.to_owned()))
}

fn parsed(scope: &str) -> Result<StateScope, ControlError> {
    StateScope::parse(scope).map_err(|error| ControlError::bad_field("scope", error))
}

fn not_found(scope: &StateScope, key: &str) -> ControlError {
    ControlError::StateNotFound { scope: scope.to_string(), key: key.to_owned() }
}

fn entry(scope: &StateScope, key: &str, value: &Value) -> pb::StateEntry {
    pb::StateEntry { scope: scope.to_string(), key: key.to_owned(), value: json_bytes(value) }
}

/// JSON as the proto says it: a text is its bytes, everything else its compact JSON. A text that would be taken for JSON, or
/// for none at all, is said as JSON, too, in quotes, so that it stays one.
pub fn json_bytes(value: &Value) -> bytes::Bytes {
    match value {
        Value::String(text) if !text.is_empty() && !is_json(text) => text.clone().into(),
        other => other.to_string().into(),
    }
}

/// The other way round: what is no JSON is a text.
///
/// # Errors
/// That it is neither, or JSON that is not kept here, such as the number 1e400.
pub fn json_or_text(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is neither JSON nor UTF-8 text")?;
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(error) if is_json(text) => Err(format!("is JSON that can't be kept: {error}")),
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

/// By its form, whatever its numbers and however deep.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_of_a_value_is_read_as_that_value() {
        for value in
            [json!("on"), json!("42"), json!(""), json!("null"), json!("1e400"), json!("{"), json!(null)]
        {
            assert_eq!(json_or_text(&json_bytes(&value)), Ok(value));
        }
        assert_eq!(json_or_text(b"42"), Ok(json!(42)));
        assert_eq!(json_or_text(b"\xff"), Err("is neither JSON nor UTF-8 text".to_owned()));
    }

    #[test]
    fn a_number_that_is_too_large_is_refused() {
        let refused = Err("is JSON that can't be kept: number out of range at line 1 column 11".to_owned());
        assert_eq!(json_or_text(br#"{"a": 1e400}"#), refused);
    }
}
