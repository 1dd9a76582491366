//! JSON to messages and back: proto3's mapping, with exact payloads.
//!
//! Field names go out as in the proto; camelCase is taken too. 64-bit integers are numbers. Fields that carry the
//! `json_payload` option hold a payload that any JSON value may stand for, those that carry `json_value` a JSON value, and
//! those that carry `json_short` are taken in short forms, as `options.proto` says.

use std::{borrow::Cow, collections::HashMap, fmt, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use bytes::Bytes;
use jiff::SignedDuration;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, EnumValueDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage, SerializeOptions, Value,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::{Error as _, SerializeMap, SerializeSeq},
};
use serde_json::value::RawValue;

/// What is wrong with which field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// From the request message: `properties.user_properties[0].name`; empty for the message itself.
    pub path: String,
    pub what: String,
}

impl FieldError {
    fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.what),
            path => write!(f, "{path}: {}", self.what),
        }
    }
}

/// Sets the fields that the JSON object `text` names.
///
/// # Errors
/// [`FieldError`] for text that is no JSON object, a name that `message` has no field for, one that stands twice, and a
/// value that its field can't hold. `path` says where `message` is in the request.
pub fn read(message: &mut DynamicMessage, text: &str, path: &str) -> Result<(), FieldError> {
    let entries: Entries<'_> = serde_json::from_str(text)
        .map_err(|error| FieldError::new(path, format!("expected a JSON object: {error}")))?;
    for (name, value) in entries.0 {
        if has_members(&message.descriptor(), &name) {
            if value.get() == "null" {
                continue;
            }
            let members: Entries<'_> = serde_json::from_str(value.get()).map_err(|error| {
                FieldError::new(join(path, &name), format!("expected an object: {error}"))
            })?;
            for (member, value) in members.0 {
                read_member(message, &format!("{name}.{member}"), value, path)?;
            }
        } else {
            read_member(message, &name, value, path)?;
        }
    }
    Ok(())
}

fn read_member(
    message: &mut DynamicMessage,
    name: &str,
    value: &RawValue,
    path: &str,
) -> Result<(), FieldError> {
    let (field, encoding) = field_named(&message.descriptor(), name)
        .ok_or_else(|| FieldError::new(join(path, name), "no such field"))?;
    let path = join(path, field.name());
    if value.get() == "null" && !(is_value(&field) && field.kind() == Kind::Bytes) {
        return Ok(());
    }
    let (value, of_whole) = match field_of_whole(&field) {
        Some(whole) => {
            let (by_path, rest) = split_tests(&whole, value.get());
            (Cow::Owned(by_path), rest.map(|rest| (whole, rest)))
        }
        None => (Cow::Borrowed(value.get()), None),
    };
    if let Some((whole, test)) = of_whole {
        let test = scalar(&whole, &whole.kind(), &test, &path)?;
        set(message, &whole, test, &path)?;
    }
    let value = match encoding {
        Encoding::Base64 => Value::Bytes(bytes_of_base64(&value, &path)?),
        Encoding::Alias if field.is_list() => Value::List(entries_of_alias(&field, &value, &path)?),
        Encoding::Plain | Encoding::Alias => field_value(&field, &value, &path)?,
    };
    set(message, &field, value, &path)
}

fn set(
    message: &mut DynamicMessage,
    field: &FieldDescriptor,
    value: Value,
    path: &str,
) -> Result<(), FieldError> {
    if message.has_field(field) || other_of_oneof(message, field).is_some() {
        return Err(FieldError::new(path, "is set twice"));
    }
    message.set_field(field, value);
    Ok(())
}

/// Sets the field at `path` (`filter.topics`) to `text` from a query or a path; a repeated field gets one more.
///
/// # Errors
/// As [`read`].
pub fn read_parameter(message: &mut DynamicMessage, path: &str, text: &str) -> Result<(), FieldError> {
    read_parameter_at(message, path, text, path)
}

fn read_parameter_at(
    message: &mut DynamicMessage,
    rest: &str,
    text: &str,
    path: &str,
) -> Result<(), FieldError> {
    let (name, rest) = match rest.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (rest, None),
    };
    let (field, encoding) =
        field_named(&message.descriptor(), name).ok_or_else(|| FieldError::new(path, "no such field"))?;
    match (rest, field.kind()) {
        (Some(rest), Kind::Message(_)) if !field.is_list() && !field.is_map() => {
            let Value::Message(inner) = message.get_field_mut(&field) else {
                unreachable!("a field of kind message holds a message")
            };
            return read_parameter_at(inner, rest, text, path);
        }
        (Some(_), _) => return Err(FieldError::new(path, "no such field")),
        (None, _) => {}
    }
    let quoted = serde_json::to_string(text).map_err(|error| FieldError::new(path, error.to_string()))?;
    let value = match (field.kind(), encoding) {
        (_, Encoding::Base64) => Value::Bytes(bytes_of_base64(&quoted, path)?),
        (Kind::Bool, _) => Value::Bool(match text {
            "true" | "" => true,
            "false" => false,
            _ => return Err(FieldError::new(path, format!("expected true or false, got {text:?}"))),
        }),
        (kind, _) => scalar(&field, &kind, &quoted, path)?,
    };
    if field.is_list() {
        if let Some(list) = message.get_field_mut(&field).as_list_mut() {
            list.push(value);
        }
    } else if field.is_map() {
        return Err(FieldError::new(path, "can't stand in a query"));
    } else if message.has_field(&field) {
        return Err(FieldError::new(path, "is set twice"));
    } else {
        message.set_field(&field, value);
    }
    Ok(())
}

/// The paths of the fields that the JSON object `text` names: what a request with it replaces. Messages in it count field by
/// field, unless they are empty.
///
/// # Errors
/// As [`read`].
pub fn paths(message: &MessageDescriptor, text: &str) -> Result<Vec<String>, FieldError> {
    let mut found = Vec::new();
    collect_paths(message, text, "", &mut found)?;
    Ok(found)
}

fn collect_paths(
    message: &MessageDescriptor,
    text: &str,
    path: &str,
    found: &mut Vec<String>,
) -> Result<(), FieldError> {
    let entries: Entries<'_> = serde_json::from_str(text)
        .map_err(|error| FieldError::new(path, format!("expected a JSON object: {error}")))?;
    for (name, value) in entries.0 {
        let (field, _) =
            field_named(message, &name).ok_or_else(|| FieldError::new(join(path, &name), "no such field"))?;
        if let Some(whole) = field_of_whole(&field).filter(|_| value.get() != "null")
            && let (_, Some(_)) = split_tests(&whole, value.get())
        {
            found.push(join(path, whole.name()));
        }
        let path = join(path, field.name());
        let before = found.len();
        if let Kind::Message(inner) = field.kind()
            && !field.is_list()
            && !field.is_map()
            && !is_well_known(&inner)
            && value.get().starts_with('{')
        {
            collect_paths(&inner, value.get(), &path, found)?;
        }
        if found.len() == before {
            found.push(path);
        }
    }
    Ok(())
}

/// The JSON text of `message`, all fields without presence included.
pub fn write(message: &DynamicMessage) -> String {
    // Nothing here fails to serialise but a well-known type outside its range, which is our own mistake.
    serde_json::to_string(&Json(message)).unwrap_or_else(|error| {
        tracing::error!(message = message.descriptor().full_name(), %error, "answer is no JSON");
        "{}".to_owned()
    })
}

// ---- names

enum Encoding {
    Plain,
    /// `x_base64` for the payload `x`.
    Base64,
    /// As the settings file has it.
    Alias,
}

fn field_named(message: &MessageDescriptor, name: &str) -> Option<(FieldDescriptor, Encoding)> {
    let plain = |name: &str| message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
    if let Some(field) = plain(name) {
        return Some((field, Encoding::Plain));
    }
    let spelled = snake_case(name);
    let by_alias = message.fields().find(|field| alias(field).is_some_and(|alias| alias == spelled));
    if let Some(field) = by_alias {
        return Some((field, Encoding::Alias));
    }
    let stem = name.strip_suffix("_base64").or_else(|| name.strip_suffix("Base64"))?;
    plain(stem).filter(is_payload).map(|field| (field, Encoding::Base64))
}

/// Whether the field carries the `json_payload` option.
pub fn is_payload(field: &FieldDescriptor) -> bool {
    carries(field, "mockforge.mqtt.v1.json_payload")
}

/// Whether the field carries the `json_value` option.
pub fn is_value(field: &FieldDescriptor) -> bool {
    carries(field, "mockforge.mqtt.v1.json_value")
}

/// Whether the field carries the `json_short` option.
pub fn takes_short_forms(field: &FieldDescriptor) -> bool {
    carries(field, "mockforge.mqtt.v1.json_short")
}

/// What the settings file calls the field.
pub fn alias(field: &FieldDescriptor) -> Option<String> {
    named_by(field, "mockforge.mqtt.v1.json_alias")
}

/// The field beside a map of tests that tests the whole.
pub fn field_of_whole(field: &FieldDescriptor) -> Option<FieldDescriptor> {
    let name = named_by(field, "mockforge.mqtt.v1.json_whole")?;
    field.parent_message().get_field_by_name(&name)
}

/// Whether `name` is an object of the settings file that stands for several fields.
fn has_members(message: &MessageDescriptor, name: &str) -> bool {
    message.get_field_by_name(name).is_none()
        && message.fields().any(|field| {
            alias(&field).is_some_and(|alias| alias.split_once('.').is_some_and(|(of, _)| of == name))
        })
}

fn carries(field: &FieldDescriptor, option: &str) -> bool {
    field
        .parent_pool()
        .get_extension_by_name(option)
        .is_some_and(|option| field.options().get_extension(&option).as_bool() == Some(true))
}

fn named_by(field: &FieldDescriptor, option: &str) -> Option<String> {
    let option = field.parent_pool().get_extension_by_name(option)?;
    let options = field.options();
    options
        .has_extension(&option)
        .then(|| options.get_extension(&option).as_str().map(str::to_owned))
        .flatten()
}

fn other_of_oneof(message: &DynamicMessage, field: &FieldDescriptor) -> Option<FieldDescriptor> {
    field.containing_oneof()?.fields().find(|other| message.has_field(other))
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

// ---- reading

/// An object's members in their order, values as they stood.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    entries.push((Cow::Owned(name), map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Tests by JSONPath, and those of the whole that stand beside or instead of them, as JSON.
fn split_tests(whole: &FieldDescriptor, text: &str) -> (String, Option<String>) {
    let Some(entries) = from_json::<Entries<'_>>(text) else {
        return ("{}".to_owned(), Some(text.to_owned()));
    };
    let is_of_whole = |name: &str| match whole.kind() {
        Kind::Message(tests) => field_named(&tests, name).is_some(),
        _ => false,
    };
    let (of_whole, by_path): (Vec<_>, Vec<_>) =
        entries.0.into_iter().partition(|(name, _)| is_of_whole(name));
    let rest = (!of_whole.is_empty()).then(|| object(&of_whole));
    (object(&by_path), rest)
}

fn object(members: &[(Cow<'_, str>, &RawValue)]) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name.as_ref())))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// The one entry that an alias stands for, or the names and values of an object.
fn entries_of_alias(field: &FieldDescriptor, text: &str, path: &str) -> Result<Vec<Value>, FieldError> {
    let Kind::Message(kind) = field.kind() else {
        return Ok(vec![scalar(field, &field.kind(), text, path)?]);
    };
    if !is_pair(&kind) {
        return Ok(vec![scalar(field, &field.kind(), text, path)?]);
    }
    let pairs: Entries<'_> = serde_json::from_str(text)
        .map_err(|error| FieldError::new(path, format!("expected an object: {error}")))?;
    let pair = |(name, value): (Cow<'_, str>, &RawValue)| {
        let text = format!("{{\"name\":{},\"value\":{value}}}", serde_json::Value::from(name.as_ref()));
        scalar(field, &field.kind(), &text, &format!("{path}[{name:?}]"))
    };
    pairs.0.into_iter().map(pair).collect()
}

/// Whether a list of such messages is an object in the settings file.
pub fn is_pair(message: &MessageDescriptor) -> bool {
    message.fields().map(|field| field.name().to_owned()).eq(["name", "value"])
}

fn field_value(field: &FieldDescriptor, text: &str, path: &str) -> Result<Value, FieldError> {
    let parsed = |error: serde_json::Error, what| FieldError::new(path, format!("expected {what}: {error}"));
    if field.is_map() {
        let entries: Entries<'_> = serde_json::from_str(text).map_err(|error| parsed(error, "an object"))?;
        let Kind::Message(entry) = field.kind() else { unreachable!("a map's kind is its entry") };
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let mut map = HashMap::new();
        for (name, raw) in entries.0 {
            let path = format!("{path}[{name:?}]");
            let quoted =
                serde_json::to_string(&name).map_err(|error| FieldError::new(&*path, error.to_string()))?;
            let key: MapKey = scalar(&key, &key.kind(), &quoted, &path)?
                .into_map_key()
                .ok_or_else(|| FieldError::new(&*path, "is no key"))?;
            map.insert(key, scalar(field, &value.kind(), raw.get(), &path)?);
        }
        return Ok(Value::Map(map));
    }
    if field.is_list() {
        if takes_short_forms(field) && !text.starts_with('[') {
            return Ok(Value::List(vec![scalar(field, &field.kind(), text, path)?]));
        }
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| parsed(error, "an array"))?;
        let items = items
            .into_iter()
            .enumerate()
            .map(|(index, raw)| scalar(field, &field.kind(), raw.get(), &format!("{path}[{index}]")));
        return Ok(Value::List(items.collect::<Result<_, _>>()?));
    }
    scalar(field, &field.kind(), text, path)
}

fn scalar(field: &FieldDescriptor, kind: &Kind, text: &str, path: &str) -> Result<Value, FieldError> {
    let long = takes_short_forms(field).then(|| long_form(kind, text)).flatten();
    let text = long.as_deref().unwrap_or(text);
    let expected = |what: &str| FieldError::new(path, format!("expected {what}, got {}", excerpt(text)));
    Ok(match kind {
        Kind::Bool => Value::Bool(from_json(text).ok_or_else(|| expected("true or false"))?),
        Kind::String if is_value(field) && !text.starts_with('"') => Value::String(compact(text)),
        Kind::String => Value::String(from_json(text).ok_or_else(|| expected("a string"))?),
        Kind::Bytes if is_payload(field) => {
            Value::Bytes(payload_of_json(text).ok_or_else(|| expected("a JSON value"))?)
        }
        Kind::Bytes if is_value(field) => Value::Bytes(Bytes::from(compact(text))),
        Kind::Bytes => Value::Bytes(bytes_of_base64(text, path)?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(
            integer(text).and_then(|n| n.try_into().ok()).ok_or_else(|| expected("a 32-bit integer"))?,
        ),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(
            integer(text).and_then(|n| n.try_into().ok()).ok_or_else(|| expected("a 64-bit integer"))?,
        ),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(
            integer(text)
                .and_then(|n| n.try_into().ok())
                .ok_or_else(|| expected("an integer from 0 to 4294967295"))?,
        ),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(
            integer(text)
                .and_then(|n| n.try_into().ok())
                .ok_or_else(|| expected("an integer from 0 to 18446744073709551615"))?,
        ),
        Kind::Double => Value::F64(number(text).ok_or_else(|| expected("a number"))?),
        #[allow(clippy::cast_possible_truncation, reason = "the field has no more digits")]
        Kind::Float => Value::F32(number(text).ok_or_else(|| expected("a number"))? as f32),
        Kind::Enum(kind) => Value::EnumNumber(
            enum_number(kind, text)
                .ok_or_else(|| expected(&format!("one of {}", names_of(kind).join(", "))))?,
        ),
        Kind::Message(kind) if kind.full_name() == FIELD_MASK => {
            Value::Message(field_mask(kind, text, path)?)
        }
        Kind::Message(kind) if is_well_known(kind) => {
            let mut json = serde_json::Deserializer::from_str(text);
            let message = DynamicMessage::deserialize(kind.clone(), &mut json)
                .map_err(|error| FieldError::new(path, error.to_string()))?;
            Value::Message(message)
        }
        Kind::Message(kind) => {
            let mut message = DynamicMessage::new(kind.clone());
            read(&mut message, text, path)?;
            Value::Message(message)
        }
    })
}

/// Paths a comma apart, in either spelling.
fn field_mask(kind: &MessageDescriptor, text: &str, path: &str) -> Result<DynamicMessage, FieldError> {
    let paths = from_json::<String>(text).ok_or_else(|| {
        FieldError::new(path, "expected paths of fields, a comma apart, in a text".to_owned())
    })?;
    let paths = paths.split(',').map(str::trim).filter(|path| !path.is_empty());
    let paths = paths.map(|path| Value::String(snake_case(path))).collect();
    let mut mask = DynamicMessage::new(kind.clone());
    mask.set_field_by_name("paths", Value::List(paths));
    Ok(mask)
}

fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// What a short form stands for, as `options.proto` says; `None` for what is none.
fn long_form(kind: &Kind, text: &str) -> Option<String> {
    let is_text = text.starts_with('"');
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    match kind {
        Kind::String if is_number => Some(format!("\"{text}\"")),
        Kind::Message(kind) if kind.full_name() == "google.protobuf.Duration" => {
            let duration = match from_json::<String>(text) {
                Some(text) => text.parse::<SignedDuration>().ok()?.try_into().ok()?,
                None => Duration::try_from_secs_f64(from_json::<f64>(text)? / 1000.0).ok()?,
            };
            Some(format!("\"{}.{:09}s\"", duration.as_secs(), duration.subsec_nanos()))
        }
        Kind::Message(kind) if kind.get_field(1).is_some_and(|first| is_value(&first)) => {
            let first = kind.get_field(1)?;
            let is_alone = kind.fields().len() == 1;
            let is_long = from_json::<Entries<'_>>(text).is_some_and(|members| match &members.0[..] {
                [(name, _)] if is_alone => name == first.name(),
                _ => !is_alone,
            });
            (!is_long).then(|| format!("{{\"{}\":{text}}}", first.name()))
        }
        Kind::Message(kind) if !is_well_known(kind) && is_number => {
            Some(format!("{{\"{}\":{text}}}", kind.get_field(1)?.name()))
        }
        Kind::Message(kind) if !is_well_known(kind) && is_text => Some(format!("{{{text}:{{}}}}")),
        Kind::Message(kind) if !is_well_known(kind) => match &from_json::<Entries<'_>>(text)?.0[..] {
            [(name, nothing)]
                if nothing.get() == "null" && kind.get_field_by_name(name).is_none_or(is_message) =>
            {
                Some(format!("{{{}:{{}}}}", serde_json::to_string(name).ok()?))
            }
            members if !members.is_empty() => {
                let knows = |kind: &MessageDescriptor| {
                    members.iter().all(|(name, _)| field_named(kind, name).is_some())
                };
                if members.iter().any(|(name, _)| field_named(kind, name).is_some()) {
                    return None;
                }
                let meant = kind
                    .fields()
                    .find(|field| matches!(field.kind(), Kind::Message(inner) if knows(&inner)))?;
                Some(format!("{{\"{}\":{text}}}", meant.name()))
            }
            _ => None,
        },
        _ => None,
    }
}

fn is_message(field: FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(_))
}

const FIELD_MASK: &str = "google.protobuf.FieldMask";

/// Types that JSON writes in ways of their own: times, durations.
pub fn is_well_known(message: &MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
}

fn from_json<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// An integer, as a number or (as proto3 writes 64-bit ones) in a string.
fn integer(text: &str) -> Option<i128> {
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    text.parse().ok().or_else(|| {
        // proto3 takes 1.0 and 1e3 for integers as well.
        let number: f64 = text.parse().ok()?;
        #[allow(clippy::cast_possible_truncation, reason = "checked to be an integer of at most 2^53")]
        (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i128)
    })
}

fn number(text: &str) -> Option<f64> {
    match from_json::<String>(text).as_deref() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(text) => from_json(text),
        None => from_json(text),
    }
}

/// A number may be one without a name, as over gRPC: who takes the request says what it thinks of it.
fn enum_number(kind: &EnumDescriptor, text: &str) -> Option<i32> {
    match from_json::<String>(text) {
        Some(name) => match kind.get_value_by_name(&name).or_else(|| by_short_name(kind, &name)) {
            Some(value) => Some(value.number()),
            None => name.parse().ok(),
        },
        None => integer(text)?.try_into().ok(),
    }
}

/// What may be said for a value, without the one that says nothing.
fn names_of(kind: &EnumDescriptor) -> Vec<String> {
    let names = kind.values().filter(|value| value.number() != 0 || !value.name().ends_with("UNSPECIFIED"));
    names.map(|value| short_name(kind, value.name()).unwrap_or_else(|| value.name().to_owned())).collect()
}

/// `csv` for `RECORDING_FORMAT_CSV`.
pub fn short_name(kind: &EnumDescriptor, name: &str) -> Option<String> {
    let unspecified = kind.get_value(0)?;
    let prefix = unspecified.name().strip_suffix("UNSPECIFIED")?;
    name.strip_prefix(prefix).map(str::to_ascii_lowercase)
}

/// `csv` for `RECORDING_FORMAT_CSV`: what stands before UNSPECIFIED may be left out, in any case.
fn by_short_name(kind: &EnumDescriptor, name: &str) -> Option<EnumValueDescriptor> {
    let unspecified = kind.get_value(0)?;
    let prefix = unspecified.name().strip_suffix("UNSPECIFIED")?;
    kind.get_value_by_name(&format!("{prefix}{}", name.to_ascii_uppercase()))
}

/// Both alphabets, padding optional, as proto3 takes it.
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

fn bytes_of_base64(text: &str, path: &str) -> Result<Bytes, FieldError> {
    from_json::<String>(text)
        .and_then(|text| BASE64.decode(&text).or_else(|_| BASE64_URL.decode(&text)).ok())
        .map(Bytes::from)
        .ok_or_else(|| FieldError::new(path, format!("expected base64 text, got {}", excerpt(text))))
}

/// Enough of a value to recognise it.
fn excerpt(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

// ---- payloads

/// The payload that a JSON value stands for.
fn payload_of_json(text: &str) -> Option<Bytes> {
    match text.as_bytes().first()? {
        b'"' => from_json::<String>(text).map(Bytes::from),
        b'n' => Some(Bytes::new()),
        _ => Some(Bytes::from(compact(text))),
    }
}

/// JSON without the white space between tokens, otherwise as it was.
fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_string = c == '"';
        }
        out.push(c);
    }
    out
}

/// The JSON value that stands for exactly this payload, if one other than a string does.
fn json_of_payload(payload: &[u8]) -> Option<&RawValue> {
    let text = std::str::from_utf8(payload).ok()?;
    let raw: &RawValue = matches!(payload.first()?, b'{' | b'[' | b'-' | b'0'..=b'9' | b't' | b'f')
        .then(|| from_json(text))
        .flatten()?;
    (raw.get() == text && compact(text) == text).then_some(raw)
}

// ---- writing

struct Json<'a>(&'a DynamicMessage);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        if is_well_known(&message.descriptor()) {
            return message.serialize_with_options(
                serializer,
                &SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true),
            );
        }
        let mut map = serializer.serialize_map(None)?;
        for field in message.descriptor().fields() {
            if field.supports_presence() && !message.has_field(&field) {
                continue;
            }
            let value = message.get_field(&field);
            match value.as_bytes() {
                Some(payload) if is_payload(&field) => write_payload(&mut map, field.name(), payload)?,
                Some(value) if is_value(&field) => write_value(&mut map, field.name(), value)?,
                _ => map.serialize_entry(field.name(), &JsonField(&field, &value))?,
            }
        }
        map.end()
    }
}

fn write_payload<M: SerializeMap>(map: &mut M, name: &str, payload: &[u8]) -> Result<(), M::Error> {
    if let Some(raw) = json_of_payload(payload) {
        map.serialize_entry(name, raw)
    } else if let Ok(text) = std::str::from_utf8(payload) {
        map.serialize_entry(name, text)
    } else {
        map.serialize_entry(&format!("{name}_base64"), &STANDARD.encode(payload))
    }
}

fn write_value<M: SerializeMap>(map: &mut M, name: &str, value: &[u8]) -> Result<(), M::Error> {
    let text = String::from_utf8_lossy(value);
    match from_json::<&RawValue>(&text) {
        Some(raw) => map.serialize_entry(name, raw),
        None => map.serialize_entry(name, &text),
    }
}

struct JsonField<'a>(&'a FieldDescriptor, &'a Value);

impl Serialize for JsonField<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::I64(value) => serializer.serialize_i64(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            Value::U64(value) => serializer.serialize_u64(*value),
            Value::F32(value) if value.is_finite() => serializer.serialize_f32(*value),
            Value::F64(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::F32(value) => serializer.serialize_str(not_finite(f64::from(*value))),
            Value::F64(value) => serializer.serialize_str(not_finite(*value)),
            Value::String(value) => serializer.serialize_str(value),
            Value::Bytes(value) => serializer.serialize_str(&STANDARD.encode(value)),
            Value::EnumNumber(number) => {
                match self.0.kind().as_enum().and_then(|kind| kind.get_value(*number)) {
                    Some(value) => serializer.serialize_str(value.name()),
                    None => serializer.serialize_i32(*number),
                }
            }
            Value::Message(message) => Json(message).serialize(serializer),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&JsonField(self.0, item))?;
                }
                list.end()
            }
            Value::Map(entries) => {
                let Kind::Message(entry) = self.0.kind() else {
                    return Err(S::Error::custom("a map's kind is its entry"));
                };
                let field = entry.map_entry_value_field();
                let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key_text(key), value)).collect();
                entries.sort_by(|one, two| one.0.cmp(&two.0));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(&key, &JsonField(&field, value))?;
                }
                map.end()
            }
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::control::pb;

    fn message(name: &str) -> DynamicMessage {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        DynamicMessage::new(pool.get_message_by_name(&format!("mockforge.mqtt.v1.{name}")).unwrap())
    }

    fn publish(json: &str) -> Result<pb::PublishRequest, String> {
        let mut request = message("PublishRequest");
        read(&mut request, json, "").map_err(|error| error.to_string())?;
        Ok(request.transcode_to().unwrap())
    }

    /// The payload that a request with this JSON value publishes.
    #[track_caller]
    fn check(json: &str, payload: &[u8]) {
        let request = publish(&format!(r#"{{"topic": "a", "payload": {json}}}"#)).unwrap();
        assert_eq!(request.payload.escape_ascii().to_string(), payload.escape_ascii().to_string());
    }

    #[test]
    fn a_payload_keeps_key_order_digits_and_escapes() {
        check(r#"{"value": 25.5}"#, br#"{"value":25.5}"#);
        check(r#" {"z": 1, "a" : 9007199254740993 }"#, br#"{"z":1,"a":9007199254740993}"#);
        check(
            "[1.0, 1e3,\t-0, 123456789012345678901234567890]",
            b"[1.0,1e3,-0,123456789012345678901234567890]",
        );
        check(r#"{"a b": "c  \" d\\", "e": "\u00e9"}"#, br#"{"a b":"c  \" d\\","e":"\u00e9"}"#);
        check(r#"{"a":1,"a":2}"#, br#"{"a":1,"a":2}"#);
        check("true", b"true");
    }

    #[test]
    fn a_string_is_its_bytes_and_null_is_none() {
        check(r#""on""#, b"on");
        check(r#""{\"a\": 1}""#, br#"{"a": 1}"#);
        check(r#""\u00e9\n""#, "é\n".as_bytes());
        check("null", b"");
        check(r#""""#, b"");
    }

    #[test]
    fn base64_takes_any_bytes() {
        let payload = |json| publish(json).map(|request| request.payload.to_vec());
        assert_eq!(payload(r#"{"payload_base64": "AP8="}"#), Ok(vec![0, 255]));
        assert_eq!(payload(r#"{"payloadBase64": "AP8"}"#), Ok(vec![0, 255]));
        assert_eq!(payload(r#"{"payload_base64": "_-8"}"#), Ok(vec![255, 239]));
        assert_eq!(
            payload(r#"{"payload": 1, "payload_base64": "AP8="}"#),
            Err("payload: is set twice".to_owned())
        );
        assert_eq!(
            payload(r#"{"payload_base64": "!"}"#),
            Err(r#"payload: expected base64 text, got "!""#.to_owned())
        );
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        for (payload, json) in [
            (&b"{\"a\":1}"[..], r#""payload":{"a":1}"#),
            (b"{\"a\": 1}", r#""payload":"{\"a\": 1}""#),
            (b"9007199254740993", r#""payload":9007199254740993"#),
            (b"23.50", r#""payload":23.50"#),
            (b"null", r#""payload":"null""#),
            (b"\"on\"", r#""payload":"\"on\"""#),
            (b"on", r#""payload":"on""#),
            (b"", r#""payload":"""#),
            (b"\x00\xff", r#""payload_base64":"AP8=""#),
        ] {
            let request = pb::PublishRequest { payload: payload.into(), ..Default::default() };
            let mut dynamic = message("PublishRequest");
            dynamic.transcode_from(&request).unwrap();
            let text = write(&dynamic);
            assert!(text.contains(json), "{text}");
            assert_eq!(publish(&text).unwrap(), request, "{text}");
        }
    }

    /// The bytes of a value that REST says so, and that it is answered as it came.
    #[track_caller]
    fn check_value(json: &str, bytes: &str) {
        let mut dynamic = message("SetStateRequest");
        read(&mut dynamic, &format!(r#"{{"value": {json}}}"#), "").unwrap();
        let request: pb::SetStateRequest = dynamic.transcode_to().unwrap();
        assert_eq!(request.value, bytes.as_bytes());
        assert!(write(&dynamic).contains(&format!(r#""value":{}"#, compact(json))), "{}", write(&dynamic));
    }

    #[test]
    fn a_value_is_json_text_and_a_string_stays_one() {
        check_value("42", "42");
        check_value(r#""42""#, r#""42""#);
        check_value(r#""on""#, r#""on""#);
        check_value(r#""""#, r#""""#);
        check_value("null", "null");
        check_value(r#""null""#, r#""null""#);
        check_value(r#"{"b": 9007199254740993, "a": "{}"}"#, r#"{"b":9007199254740993,"a":"{}"}"#);
        let mut entry = message("StateEntry");
        entry.transcode_from(&pb::StateEntry { value: "on {".into(), ..Default::default() }).unwrap();
        assert!(write(&entry).contains(r#""value":"on {""#), "{}", write(&entry));
        let refused = read(&mut entry, r#"{"value_base64": "AP8="}"#, "").unwrap_err();
        assert_eq!(refused.to_string(), "value_base64: no such field");
    }

    #[test]
    fn names_are_taken_in_both_spellings() {
        let expected = Ok(Some("text/plain".to_owned()));
        let content_type = |json| publish(json).map(|r| r.properties.and_then(|p| p.content_type));
        assert_eq!(content_type(r#"{"properties": {"content_type": "text/plain"}}"#), expected);
        assert_eq!(content_type(r#"{"properties": {"contentType": "text/plain"}}"#), expected);
    }

    #[test]
    fn errors_name_the_field() {
        let error = |json| publish(json).unwrap_err();
        assert_eq!(error(r#"{"topics": "a"}"#), "topics: no such field");
        assert_eq!(
            error(r#"{"properties": {"user_properties": [{"name": "a"}, {"name": 1}]}}"#),
            "properties.user_properties[1].name: expected a string, got 1"
        );
        assert_eq!(error(r#"{"properties": {"x": 1}}"#), "properties.x: no such field");
        assert_eq!(error(r#"{"qos": -1}"#), "qos: expected an integer from 0 to 4294967295, got -1");
        assert_eq!(error(r#"{"retain": "yes"}"#), r#"retain: expected true or false, got "yes""#);
        assert_eq!(error(r#"{"qos": 1, "qos": 2}"#), "qos: is set twice");
        assert!(error("[1]").starts_with("expected a JSON object: "));
        assert!(error(r#"{"topic": "a""#).contains("line 1 column 13"), "{}", error(r#"{"topic": "a""#));
    }

    #[test]
    fn parameters_reach_nested_and_repeated_fields() {
        let mut request = message("ListEventsRequest");
        for (path, text) in [
            ("id", "orders"),
            ("filter.topics", "a/#"),
            ("filter.topics", "b"),
            ("filter.types", "PACKET_TYPE_PUBLISH"),
            ("filter.types", "8"),
            ("pageSize", "5"),
        ] {
            read_parameter(&mut request, path, text).unwrap();
        }
        let request: pb::ListEventsRequest = request.transcode_to().unwrap();
        let filter = request.filter.unwrap();
        assert_eq!(filter.topics, ["a/#", "b"]);
        assert_eq!(filter.types, [3, 8]);
        assert_eq!((request.id.as_str(), request.page_size), ("orders", 5));

        let mut request = message("ListEventsRequest");
        let mut error = |path, text| read_parameter(&mut request, path, text).unwrap_err().to_string();
        assert_eq!(error("filter.topic", "a"), "filter.topic: no such field");
        assert_eq!(
            error("page_size", "many"),
            r#"page_size: expected an integer from 0 to 4294967295, got "many""#
        );
    }

    #[test]
    fn an_update_mask_takes_both_spellings() {
        let mut request = message("UpdateRuleRequest");
        read_parameter(&mut request, "update_mask", "when.every_nth, when.maxCount,enabled").unwrap();
        let request: pb::UpdateRuleRequest = request.transcode_to().unwrap();
        assert_eq!(request.update_mask.unwrap().paths, ["when.every_nth", "when.max_count", "enabled"]);
    }

    #[test]
    fn an_enum_is_told_by_its_short_names() {
        let mut request = message("ExportRecordingRequest");
        let error = read_parameter(&mut request, "format", "xml").unwrap_err().to_string();
        assert!(error.contains("expected one of json, ndjson, mcap, pcapng, csv, got"), "{error}");
    }

    #[test]
    fn integers_are_numbers_enums_are_names_and_times_are_text() {
        let mut recording = message("Recording");
        recording
            .transcode_from(&pb::Recording {
                state: pb::RecordingState::Complete.into(),
                events: u64::MAX,
                duration: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                ..Default::default()
            })
            .unwrap();
        let text = write(&recording);
        assert!(text.contains(r#""state":"RECORDING_STATE_COMPLETE""#), "{text}");
        assert!(text.contains(r#""events":18446744073709551615"#), "{text}");
        assert!(text.contains(r#""duration":"1.500s""#), "{text}");
        assert!(text.contains(r#""name":"""#) && !text.contains("started_at"), "{text}");
    }

    /// A rule in short forms, and the same as it is answered.
    #[track_caller]
    fn check_short(short: &str, long: &str) {
        let answered = |json| -> serde_json::Value {
            let mut rule = message("ChaosRule");
            read(&mut rule, json, "rule").unwrap();
            serde_json::from_str(&write(&rule)).unwrap()
        };
        let expected: serde_json::Value = serde_json::from_str(long).unwrap();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&answered(short)[name], value, "{short}");
        }
        assert_eq!(answered(long), answered(short), "{short}");
    }

    #[test]
    fn short_forms_stand_for_long_ones_where_the_contract_says_so() {
        check_short(
            r#"{"match": {"client": "dev-*", "types": "publish", "qos": 1}}"#,
            r#"{"match": {"client": ["dev-*"], "proxy": [], "topic": [], "types": ["publish"], "qos": [1]}}"#,
        );
        check_short(r#"{"actions": [{"drop": null}]}"#, r#"{"actions": [{"drop": {}}]}"#);
        check_short(r#"{"actions": "drop"}"#, r#"{"actions": [{"drop": {}}]}"#);
        check_short(
            r#"{"actions": ["takeover", {"latency": 12.5}, {"reason_code": 151}, {"reason_code": "0x97"}]}"#,
            r#"{"actions": [{"takeover": {}}, {"latency": {"ms": 12.5}}, {"reason_code": "151"}, {"reason_code": "0x97"}]}"#,
        );
        for (short, long) in [
            ("250", "0.250s"),
            (r#""250ms""#, "0.250s"),
            (r#""1.5 s""#, "1.500s"),
            (r#""2m""#, "120s"),
            (r#""1h""#, "3600s"),
        ] {
            check_short(
                &format!(r#"{{"actions": [{{"blackhole": {{"duration": {short}}}}}]}}"#),
                &format!(r#"{{"actions": [{{"blackhole": {{"duration": "{long}"}}}}]}}"#),
            );
        }
    }

    /// A message as the settings file writes it, and as its proto's form reads.
    #[track_caller]
    fn check_settings(name: &str, of_settings: &str, long: &str) {
        let answered = |json| -> serde_json::Value {
            let mut dynamic = message(name);
            read(&mut dynamic, json, "").unwrap_or_else(|error| panic!("{error}: {json}"));
            serde_json::from_str(&write(&dynamic)).unwrap()
        };
        assert_eq!(answered(of_settings), answered(long), "{of_settings}");
    }

    #[test]
    fn mocks_are_taken_as_the_settings_write_them() {
        let check = |of_settings, long| check_settings("Mock", of_settings, long);
        check(
            r#"{"topic": "a", "on": "subscribe", "response": {"topic": "b", "payload": {"on": true}, "delay_ms": 5}}"#,
            r#"{"topic": "a", "on": 2, "responses": [{"topic": "b", "payload": {"on": true}, "delay": {"fixed_ms": 5}}]}"#,
        );
        check(
            r#"{"responses": [{"delay_ms": {"min": 1, "max": 2}}, {"delay_ms": {"mean": 3, "sd": 1}}, {"delay_ms": {"median": 4, "sigma": 0.5}}]}"#,
            r#"{"responses": [{"delay": {"uniform": {"min_ms": 1, "max_ms": 2}}}, {"delay": {"normal": {"mean_ms": 3, "sd_ms": 1}}},
                {"delay": {"lognormal": {"median_ms": 4, "sigma": 0.5}}}]}"#,
        );
        check(
            r#"{"response": {"payload_base64": "AP8=", "repeat": {"count": 3, "interval_ms": 10}, "properties": {"user": {"a": "1", "name": "2"}}}}"#,
            r#"{"responses": [{"payload_bytes": "AP8=", "repeat_count": 3, "repeat_interval_ms": 10,
                "properties": {"user_properties": [{"name": "a", "value": "1"}, {"name": "name", "value": "2"}]}}]}"#,
        );
        check(
            r#"{"when": {"qos": 1, "nth": 3, "user": {"a": "1", "b": {"exists": false}}, "state": {"k": null},
                "payload": {"$.a": 5, "$.b": {"gt": 1}, "regex": "x"}}}"#,
            r#"{"when": {"qos": [1], "nth": {"is": 3}, "user": {"a": {"equals": "1"}, "b": {"exists": false}},
                "state": {"k": {"equals": null}}, "payload": {"$.a": {"equals": 5}, "$.b": {"gt": 1}}, "payload_text": {"regex": "x"}}}"#,
        );
        check(r#"{"when": {"payload": "on"}}"#, r#"{"when": {"payload_text": {"equals": "on"}}}"#);
        check(
            r#"{"when": {"payload": {"equals": {"a": 1}}}}"#,
            r#"{"when": {"payload_text": {"equals": {"a": 1}}}}"#,
        );
        check(
            r#"{"set_state": {"a": 1, "b": "x", "c": {"d": 1}, "e": {}, "f": {"value": "y"}}}"#,
            r#"{"set_state": {"a": {"value": 1}, "b": {"value": "x"}, "c": {"value": {"d": 1}}, "e": {"value": {}}, "f": {"value": "y"}}}"#,
        );
        check_settings(
            "Webhook",
            r#"{"timeout_ms": 250, "backoff_ms": 1, "body": {"a": "{{topic}}", "n": 1.0}, "when": {"payload": {"$.a": 5}}}"#,
            r#"{"timeout": "0.250s", "backoff": "0.001s", "body": "{\"a\":\"{{topic}}\",\"n\":1.0}",
                "when": {"payload": {"$.a": {"equals": 5}}}}"#,
        );
    }

    #[test]
    fn what_is_wrong_with_a_mock_of_the_settings_is_told_with_its_place() {
        let error = |json| read(&mut message("Mock"), json, "mock").unwrap_err().to_string();
        assert_eq!(error(r#"{"response": {"paylod": 1}}"#), "mock.responses.paylod: no such field");
        assert!(error(r#"{"response": [{}]}"#).starts_with("mock.responses: expected a JSON object"));
        assert_eq!(error(r#"{"response": {}, "responses": [{}]}"#), "mock.responses: is set twice");
        assert_eq!(
            error(r#"{"when": {"payload": {"$.v": {"gtt": 1}}}}"#),
            "mock.when.payload[\"$.v\"].gtt: no such field"
        );
        assert_eq!(
            error(r#"{"response": {"delay_ms": {"min": 1, "sd": 2}}}"#),
            "mock.responses.delay.min: no such field"
        );
        assert_eq!(
            error(r#"{"response": {"repeat": {"often": 1}}}"#),
            "mock.responses.repeat.often: no such field"
        );
        let replaced = |json| paths(&message("Mock").descriptor(), json).unwrap();
        assert_eq!(
            replaced(r#"{"response": {}, "when": {"payload": "on"}}"#),
            ["responses", "when.payload_text", "when.payload"]
        );
        assert_eq!(replaced(r#"{"when": {"payload": {"$.a": 1}}}"#), ["when.payload"]);
    }

    #[test]
    fn short_forms_of_nothing_are_refused() {
        let error = |json| read(&mut message("ChaosRule"), json, "rule").unwrap_err().to_string();
        assert_eq!(error(r#"{"actions": ["explode"]}"#), "rule.actions[0].explode: no such field");
        assert_eq!(error(r#"{"id": 5}"#), "rule.id: expected a string, got 5");
        assert_eq!(
            error(r#"{"match": {"qos": "one"}}"#),
            "rule.match.qos: expected an integer from 0 to 4294967295, got \"one\""
        );
        let error = error(r#"{"actions": [{"blackhole": {"duration": "soon"}}]}"#);
        assert!(error.starts_with("rule.actions[0].blackhole.duration: "), "{error}");
    }
}
