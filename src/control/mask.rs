//! Updates of parts: `google.protobuf.FieldMask`.

use prost::Message;
use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value};
use prost_types::FieldMask;

use super::{ControlError, pb};

/// The mask, if it names anything: an empty one says no more than an absent one.
pub fn said(mask: Option<&FieldMask>) -> Option<&FieldMask> {
    mask.filter(|mask| !mask.paths.is_empty())
}

/// `given` with the fields of `current` that `mask` does not name; without a mask, `given`.
///
/// # Errors
/// `update_mask.paths[0]: …` for a path that leads to no field of the message called `name`.
pub fn masked<M: Message + Default>(
    name: &str,
    current: M,
    given: M,
    mask: Option<&FieldMask>,
) -> Result<M, ControlError> {
    let Some(mask) = said(mask).filter(|mask| mask.paths.iter().all(|path| path != "*")) else {
        return Ok(given);
    };
    let (mut merged, given) = (dynamic(name, &current)?, dynamic(name, &given)?);
    for (position, path) in mask.paths.iter().enumerate() {
        if !replace(&mut merged, &given, path) {
            let what = format_args!("{path:?} is no field of it, or one within a list");
            return Err(ControlError::bad_field(format!("update_mask.paths[{position}]"), what));
        }
    }
    merged.transcode_to().map_err(|error| ControlError::Internal(error.to_string()))
}

fn dynamic(name: &str, message: &impl Message) -> Result<DynamicMessage, ControlError> {
    let described = pb::pool().get_message_by_name(&format!("{}.{name}", pb::PACKAGE));
    let described = described.ok_or_else(|| ControlError::Internal(format!("no message {name}")))?;
    DynamicMessage::decode(described, message.encode_to_vec().as_slice())
        .map_err(|error| ControlError::Internal(error.to_string()))
}

/// Makes the field at `path` what it is in `from`, absent where it is absent; whether there is such a field.
fn replace(message: &mut DynamicMessage, from: &DynamicMessage, path: &str) -> bool {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let described = message.descriptor();
    let found = described.get_field_by_name(name).or_else(|| described.get_field_by_json_name(name));
    let Some(field) = found else { return false };
    match rest {
        None if from.has_field(&field) => message.set_field(&field, from.get_field(&field).into_owned()),
        None => message.clear_field(&field),
        Some(rest) => {
            let is_message = matches!(field.kind(), Kind::Message(_)) && !field.is_list() && !field.is_map();
            let from = from.get_field(&field);
            return match (message.get_field_mut(&field), &*from) {
                (Value::Message(inner), Value::Message(from)) if is_message => replace(inner, from, rest),
                _ => false,
            };
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mask: &[&str]) -> Result<pb::ChaosRule, String> {
        let rule = |id: &str, client: &str, nth: Option<u64>, actions: usize| pb::ChaosRule {
            id: id.to_owned(),
            enabled: Some(true),
            r#match: Some(pb::ChaosMatch { client: vec![client.to_owned()], ..Default::default() }),
            when: nth.map(|nth| pb::ChaosWhen {
                every_nth: Some(nth),
                first_n: Some(9),
                ..Default::default()
            }),
            actions: vec![pb::ChaosAction::default(); actions],
            ..Default::default()
        };
        let mask = FieldMask { paths: mask.iter().map(|&path| path.to_owned()).collect() };
        let given = pb::ChaosRule { enabled: None, ..rule("given", "new", Some(2), 3) };
        masked("ChaosRule", rule("current", "old", Some(1), 1), given, Some(&mask))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn fields_that_are_not_named_stay() {
        let rule = check(&["when.every_nth", "actions"]).unwrap();
        assert_eq!((rule.id.as_str(), rule.enabled, rule.actions.len()), ("current", Some(true), 3));
        assert_eq!(rule.r#match.unwrap().client, ["old"]);
        assert_eq!(rule.when.map(|when| (when.every_nth, when.first_n)), Some((Some(2), Some(9))));
    }

    #[test]
    fn a_field_that_is_named_and_not_given_is_taken_away() {
        assert_eq!(check(&["enabled"]).unwrap().enabled, None);
        assert_eq!(check(&["when.max_count"]).unwrap().when.unwrap().every_nth, Some(1));
    }

    #[test]
    fn a_star_or_nothing_is_all_of_it_and_names_may_be_in_camel_case() {
        assert_eq!(check(&["*"]).unwrap().id, "given");
        assert_eq!(check(&[]).unwrap().id, "given");
        assert_eq!(check(&["when.everyNth"]).unwrap().when.unwrap().every_nth, Some(2));
    }

    #[test]
    fn a_path_that_leads_nowhere_is_a_bad_field() {
        for path in ["nothing", "when.nothing", "id.x", "actions.drop", ""] {
            let expected = format!("update_mask.paths[0]: {path:?} is no field of it, or one within a list");
            assert_eq!(check(&[path]), Err(expected));
        }
    }
}
