//! `GET /__mockforge/openapi.json`: the REST API as OpenAPI 3.1, made of the proto files, comments included.
//!
//! Objects stand for messages as requests take them in their plain forms, and as answers have them: with the proto's field
//! names, 64-bit integers as numbers, enums by name. What else is taken (camelCase, numbers of enums, `null` for what is
//! absent) is not described.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use prost_reflect::{
    EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    OneofDescriptor, ServiceDescriptor,
};
use serde_json::{Map, Value, json};

use super::{
    METRICS_PATH,
    access::HEALTH_PATH,
    binding::{Binding, BodyField},
    json::{
        alias, field_of_whole, is_pair, is_payload, is_value, is_well_known, short_name, takes_short_forms,
    },
    rest::HTTP_BODY,
};
use crate::auth::Role;

pub const PATH: &str = "/__mockforge/openapi.json";
const COMPONENTS: &str = "#/components/schemas/";

/// The document, written when it is first asked for.
#[derive(Clone, Default)]
pub struct OpenApi(Arc<OnceLock<Bytes>>);

impl OpenApi {
    pub fn answer(&self, bindings: &[Binding]) -> Response {
        let text = self.0.get_or_init(|| Bytes::from(document(bindings).to_string() + "\n"));
        let kind = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, kind)], text.clone()).into_response()
    }
}

/// The document that describes `bindings`.
pub fn document(bindings: &[Binding]) -> Value {
    let mut writer = Writer::default();
    let (mut paths, mut tags) = (Map::new(), BTreeMap::new());
    let mut seen = BTreeSet::new();
    for binding in bindings {
        let service = binding.rpc.parent_service();
        tags.insert(service.name().to_owned(), writer.comments.of_service(service));
        let operation = writer.operation(binding, seen.insert(binding.rpc.full_name().to_owned()));
        let path = paths.entry(binding.template.to_string()).or_insert_with(|| json!({}));
        path[binding.method.as_str().to_lowercase()] = operation;
    }
    paths.insert(HEALTH_PATH.to_owned(), health());
    paths.insert(METRICS_PATH.to_owned(), metrics());
    let mut schemas = writer.schemas;
    schemas.insert("google.rpc.Status".to_owned(), status());
    let tags: Vec<Value> =
        tags.into_iter().map(|(name, about)| json!({"name": name, "description": about})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "mockforge",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The control plane of mockforge over HTTP. The same calls are there over gRPC, on this port and its own; \
                errors are google.rpc.Status with a reason that programs can go by.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the server has tokens (`api_token`, `api_tokens`). `x-required-role` is the least that \
                        a caller has to be allowed.",
                },
            },
            "responses": {
                "error": {
                    "description": "Refused, or failed. The HTTP status is the one that fits the code. Calls say the reasons that are \
                        theirs; any call may be refused with BAD_FIELD, BAD_BODY, BODY_TOO_LONG (413), BODY_TOO_SLOW (408), \
                        METHOD_NOT_ALLOWED (405), PATH_NOT_FOUND, TOO_MANY_CALLS, TOKEN_MISSING, TOKEN_WRONG, ROLE_TOO_LOW, \
                        FOREIGN_HOST or FOREIGN_ORIGIN.",
                    "content": {"application/json": {"schema": {"$ref": format!("{COMPONENTS}google.rpc.Status")}}},
                },
            },
        },
        "security": [{}, {"token": []}],
    })
}

/// Writes operations, and the schemas they need.
#[derive(Default)]
struct Writer {
    comments: Comments,
    schemas: Map<String, Value>,
}

impl Writer {
    fn operation(&mut self, binding: &Binding, is_first: bool) -> Value {
        let rpc = &binding.rpc;
        let captures: BTreeSet<&str> = binding.template.captures().collect();
        let about = self.comments.of_method(rpc);
        let name = format!("{}_{}", rpc.parent_service().name(), rpc.name());
        let mut operation = json!({
            "operationId": if is_first { name } else { format!("{name}_{}", binding.method.as_str().to_lowercase()) },
            "tags": [rpc.parent_service().name()],
            "summary": summary(&about),
            "description": about,
            "x-required-role": match binding.role {
                Role::Read => "read",
                Role::Control => "control",
                Role::Admin => "admin",
            },
            "x-rpc": rpc.full_name(),
            "responses": {"200": self.answer(rpc), "default": {"$ref": "#/components/responses/error"}},
        });
        let mut parameters = Vec::new();
        for field in rpc.input().fields() {
            let in_body = match &binding.body {
                BodyField::Absent => false,
                BodyField::Whole => true,
                BodyField::Field(body) => body == &field,
            };
            if captures.contains(field.name()) {
                let mut schema = self.one(&field, &field.kind());
                schema["minLength"] = json!(1);
                parameters.push(json!({
                    "name": field.name(),
                    "in": "path",
                    "required": true,
                    "description": self.comments.of_field(&field),
                    "schema": schema,
                }));
            } else if !in_body {
                self.query(&mut parameters, &field, "", &mut Vec::new());
            }
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = self.body(binding, &captures) {
            operation["requestBody"] = body;
        }
        operation
    }

    /// Parameters for a field, those of messages by their paths.
    fn query(
        &mut self,
        parameters: &mut Vec<Value>,
        field: &FieldDescriptor,
        path: &str,
        within: &mut Vec<MessageDescriptor>,
    ) {
        let name = format!("{path}{}", field.name());
        match field.kind() {
            _ if field.is_map() => return,
            Kind::Message(inner) if !is_well_known(&inner) => {
                // Lists of messages, and messages within themselves, can't stand in a query.
                if !field.is_list() && !within.contains(&inner) {
                    within.push(inner.clone());
                    for field in inner.fields() {
                        self.query(parameters, &field, &format!("{name}."), within);
                    }
                    within.pop();
                }
                return;
            }
            _ => {}
        }
        let schema = self.one(field, &field.kind());
        let about = self.comments.of_field(field);
        let mut parameter = json!({"name": name, "in": "query", "description": about});
        if is_required(&about) && path.is_empty() {
            parameter["required"] = true.into();
        }
        parameter["schema"] =
            if field.is_list() { json!({"type": "array", "items": schema}) } else { schema };
        parameters.push(parameter);
    }

    fn body(&mut self, binding: &Binding, captures: &BTreeSet<&str>) -> Option<Value> {
        let (schema, required) = match &binding.body {
            BodyField::Absent => return None,
            BodyField::Field(_) if binding.rpc.is_client_streaming() => {
                let file = json!({"schema": {"type": "string", "format": "binary"}});
                return Some(json!({"content": {"application/octet-stream": file}}));
            }
            BodyField::Whole if captures.is_empty() => {
                let input = binding.rpc.input();
                let required = input.fields().any(|field| is_required(&self.comments.of_field(&field)));
                (self.reference(&input), required)
            }
            BodyField::Whole => {
                let fields: Vec<_> =
                    binding.rpc.input().fields().filter(|field| !captures.contains(field.name())).collect();
                let schema = self.object(&fields, &[]);
                let required = schema.get("required").is_some();
                (schema, required)
            }
            BodyField::Field(field) => {
                let mut schema = self.one(field, &field.kind());
                if binding.method == Method::PATCH
                    && let Kind::Message(message) = field.kind()
                {
                    let fields: Vec<_> = message.fields().collect();
                    schema = self.object(&fields, &message.oneofs().collect::<Vec<_>>());
                    schema.as_object_mut()?.remove("required");
                }
                (schema, true)
            }
        };
        Some(json!({"required": required, "content": {"application/json": {"schema": schema}}}))
    }

    fn answer(&mut self, rpc: &MethodDescriptor) -> Value {
        let output = rpc.output();
        if output.full_name() == HTTP_BODY {
            let file = json!({"schema": {"type": "string", "format": "binary"}});
            return json!({"description": "The file.", "content": {"*/*": file}});
        }
        let schema = self.reference(&output);
        let mut about = self.comments.of_message(&output);
        if about.is_empty() {
            about = "Done.".to_owned();
        }
        if !rpc.is_server_streaming() {
            return json!({"description": about, "content": {"application/json": {"schema": schema}}});
        }
        let name = output.full_name();
        let lines = format!(
            "A line each, an object `{name}`; an error is the last one, `{{\"error\": …}}` with a google.rpc.Status."
        );
        let events = format!(
            "An event each, its data an object `{name}`; an error is the last one, called `error`, with a google.rpc.Status."
        );
        json!({
            "description": about,
            "content": {
                "application/x-ndjson": {"schema": {"type": "string", "description": lines}, "x-item-schema": schema},
                "text/event-stream": {"schema": {"type": "string", "description": events}, "x-item-schema": schema},
            },
        })
    }

    // ---- schemas

    /// A reference to the schema of a message, which is written if it isn't yet.
    fn reference(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.full_name();
        if !self.schemas.contains_key(name) {
            // Before its fields, which may lead back to it.
            self.schemas.insert(name.to_owned(), Value::Null);
            let fields: Vec<_> = message.fields().collect();
            let mut schema = self.object(&fields, &message.oneofs().collect::<Vec<_>>());
            describe(&mut schema, &self.comments.of_message(message));
            self.schemas.insert(name.to_owned(), schema);
        }
        json!({"$ref": format!("{COMPONENTS}{name}")})
    }

    fn object(&mut self, fields: &[FieldDescriptor], oneofs: &[OneofDescriptor]) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for field in fields {
            let about = self.comments.of_field(field);
            let mut schema = self.field(field);
            describe(&mut schema, &about);
            if is_payload(field) {
                let base64 = json!({
                    "type": "string",
                    "contentEncoding": "base64",
                    "description": format!("The bytes of `{}` where they are no text, or may not be taken for any.", field.name()),
                });
                properties.insert(format!("{}_base64", field.name()), base64);
            } else if is_required(&about) {
                required.push(field.name().to_owned());
            }
            properties.insert(field.name().to_owned(), schema);
        }
        for field in fields {
            self.aliased(field, &mut properties);
        }
        let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        let one_of: Vec<Value> = oneofs.iter().filter(|one| !one.is_synthetic()).map(at_most_one).collect();
        if !one_of.is_empty() {
            schema["allOf"] = one_of.into();
        }
        schema
    }

    /// The property that the settings file has for a field.
    fn aliased(&mut self, field: &FieldDescriptor, properties: &mut Map<String, Value>) {
        let Some(name) = alias(field) else { return };
        let about = format!("`{}`, as the settings file writes it.", field.name());
        let mut schema = match field.kind() {
            Kind::Message(kind) if field.is_list() && is_pair(&kind) => {
                json!({"type": "object", "additionalProperties": {"type": "string"}})
            }
            kind if field.is_list() => json!({"allOf": [self.one(field, &kind)]}),
            kind => self.one(field, &kind),
        };
        describe(&mut schema, &about);
        match name.split_once('.') {
            None => _ = properties.insert(name, schema),
            Some((name, member)) => {
                let object = json!({
                    "type": "object",
                    "description": "As the settings file writes it.",
                    "properties": {},
                    "additionalProperties": false,
                });
                properties.entry(name).or_insert(object)["properties"][member] = schema;
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("a map's kind is its entry") };
            let value = entry.map_entry_value_field();
            let mut schema =
                json!({"type": "object", "additionalProperties": self.one(field, &value.kind())});
            if entry.map_entry_key_field().kind() != Kind::String {
                schema["propertyNames"] = json!({"pattern": "^[0-9]+$"});
            }
            if let Some(whole) = field_of_whole(field) {
                let about = format!("Without paths: `{}`.", whole.name());
                schema = json!({"anyOf": [schema, {"description": about}]});
            }
            return schema;
        }
        if !field.is_list() {
            return self.one(field, &field.kind());
        }
        let item = self.one(field, &field.kind());
        let list = json!({"type": "array", "items": item});
        if takes_short_forms(field) { json!({"anyOf": [list, item]}) } else { list }
    }

    /// The schema of one value of a field.
    fn one(&mut self, field: &FieldDescriptor, kind: &Kind) -> Value {
        let whole = |min: Value, max: Value, format| json!({"type": "integer", "format": format, "minimum": min, "maximum": max});
        let schema = match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String if is_value(field) => json!({}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes if is_payload(field) || is_value(field) => json!({}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::Float => json!({"type": "number", "format": "float"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => whole(i32::MIN.into(), i32::MAX.into(), "int32"),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => whole(i64::MIN.into(), i64::MAX.into(), "int64"),
            Kind::Uint32 | Kind::Fixed32 => whole(0.into(), u32::MAX.into(), "uint32"),
            Kind::Uint64 | Kind::Fixed64 => whole(0.into(), u64::MAX.into(), "uint64"),
            Kind::Enum(kind) => self.choice(kind),
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
                "google.protobuf.Duration" => duration(),
                "google.protobuf.FieldMask" => json!({"type": "string"}),
                _ => self.reference(message),
            },
        };
        if !takes_short_forms(field) {
            return schema;
        }
        let short = match kind {
            Kind::Message(message) if message.full_name() == "google.protobuf.Duration" => {
                json!({"type": ["number", "string"], "description": "Milliseconds, or a text such as `250ms` or `1m30s`."})
            }
            Kind::Message(message) => match message.get_field(1).map(|first| (first.kind(), first)) {
                Some((_, first)) if is_value(&first) => {
                    json!({"description": format!("`{}` alone.", first.name())})
                }
                Some((Kind::Double | Kind::Uint32 | Kind::Uint64, first)) => {
                    json!({"type": "number", "description": format!("`{}` alone.", first.name())})
                }
                _ => {
                    let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
                    json!({"type": "string", "enum": names, "description": "A member of which nothing has to be said."})
                }
            },
            Kind::String => json!({"type": "number"}),
            _ => return schema,
        };
        let mut forms = vec![schema, short];
        if let Kind::Message(message) = kind {
            // What tells one of its messages from the others stands alone.
            let inner = message.fields().filter_map(|field| field.kind().as_message().cloned());
            let told = inner.filter(|inner| inner.fields().any(|field| alias(&field).is_some()));
            forms.extend(told.map(|inner| self.reference(&inner)).collect::<Vec<_>>());
        }
        json!({"anyOf": forms})
    }

    fn choice(&mut self, kind: &EnumDescriptor) -> Value {
        let name = kind.full_name();
        if !self.schemas.contains_key(name) {
            let mut about = self.comments.of_enum(kind);
            about += "\n";
            let mut names = Vec::new();
            for value in kind.values() {
                let meaning = self.comments.of_value(kind, value.name());
                about += &format!("\n- `{}`: {}", value.name(), meaning.replace('\n', " "));
                names.push(value.name().to_owned());
            }
            let short = kind.values().filter(|value| value.number() != 0);
            let short: Vec<_> = short.filter_map(|value| short_name(kind, value.name())).collect();
            if !short.is_empty() {
                about += "\n\nAnswers have the long names; the short ones, in any case, are taken, too.";
            }
            names.extend(short);
            self.schemas
                .insert(name.to_owned(), json!({"type": "string", "enum": names, "description": about}));
        }
        json!({"$ref": format!("{COMPONENTS}{name}")})
    }
}

/// Of a oneof, no two may be given.
fn at_most_one(oneof: &OneofDescriptor) -> Value {
    let names: Vec<String> = oneof
        .fields()
        .flat_map(|field| {
            let base64 = is_payload(&field).then(|| format!("{}_base64", field.name()));
            [Some(field.name().to_owned()), base64].into_iter().flatten()
        })
        .collect();
    let required: Vec<Value> = names.iter().map(|name| json!({"required": [name]})).collect();
    let none = json!({"not": {"anyOf": required}});
    json!({"oneOf": required.into_iter().chain([none]).collect::<Vec<_>>()})
}

fn describe(schema: &mut Value, about: &str) {
    if !about.is_empty() {
        schema["description"] = about.into();
    }
}

/// Our comments say so in these words.
fn is_required(about: &str) -> bool {
    about.split([' ', '\n']).any(|word| matches!(word, "Required." | "Required;" | "Required,"))
}

/// The first sentence, which ends before a second one or a line.
fn summary(about: &str) -> String {
    let paragraph = about.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    match paragraph.find(". ") {
        Some(end) => paragraph[..=end].to_owned(),
        None => paragraph,
    }
}

fn duration() -> Value {
    json!({
        "type": "string",
        "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$",
        "description": "Seconds, such as `1.5s`.",
    })
}

fn status() -> Value {
    json!({
        "type": "object",
        "description": "Why a call was refused, or failed.",
        "properties": {
            "code": {"type": "integer", "description": "The gRPC status code (google.rpc.Code)."},
            "message": {"type": "string", "description": "For people."},
            "details": {
                "type": "array",
                "description": "google.rpc.ErrorInfo, whose `reason` programs can go by, and of bad input google.rpc.BadRequest with \
                    the path of each field.",
                "items": {
                    "type": "object",
                    "properties": {
                        "@type": {"type": "string"},
                        "reason": {"type": "string"},
                        "domain": {"type": "string"},
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                        "field_violations": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "field": {"type": "string", "description": "Its path in the request."},
                                    "description": {"type": "string", "description": "What is wrong with it."},
                                },
                                "required": ["field", "description"],
                            },
                        },
                    },
                    "required": ["@type"],
                },
            },
        },
        "required": ["code", "message", "details"],
        "additionalProperties": false,
    })
}

fn health() -> Value {
    let word = json!({"type": "string", "enum": ["SERVING", "NOT_SERVING"]});
    let schema = json!({
        "type": "object",
        "properties": {"status": word, "services": {"type": "object", "additionalProperties": word}},
        "required": ["status", "services"],
        "additionalProperties": false,
    });
    let answer =
        |about: &str| json!({"description": about, "content": {"application/json": {"schema": schema}}});
    json!({"get": {
        "operationId": "Health",
        "summary": "Whether the server and each of its services can work.",
        "security": [{}],
        "responses": {"200": answer("It serves."), "503": answer("It is stopping.")},
    }})
}

fn metrics() -> Value {
    let text = json!({"text/plain": {"schema": {"type": "string"}}});
    json!({"get": {
        "operationId": "Metrics",
        "summary": "All figures, as Prometheus reads them.",
        "x-required-role": "read",
        "responses": {
            "200": {"description": "Figures of now and since the start.", "content": text},
            "default": {"$ref": "#/components/responses/error"},
        },
    }})
}

/// What stands before things in the proto files.
#[derive(Default)]
struct Comments {
    /// By file, then by path in it.
    files: BTreeMap<String, BTreeMap<Vec<i32>, String>>,
}

impl Comments {
    fn of_service(&mut self, service: &ServiceDescriptor) -> String {
        self.at(&service.parent_file(), service.path())
    }

    fn of_method(&mut self, rpc: &MethodDescriptor) -> String {
        self.at(&rpc.parent_service().parent_file(), rpc.path())
    }

    fn of_message(&mut self, message: &MessageDescriptor) -> String {
        self.at(&message.parent_file(), message.path())
    }

    fn of_field(&mut self, field: &FieldDescriptor) -> String {
        self.at(&field.parent_message().parent_file(), field.path())
    }

    fn of_enum(&mut self, kind: &EnumDescriptor) -> String {
        self.at(&kind.parent_file(), kind.path())
    }

    fn of_value(&mut self, kind: &EnumDescriptor, name: &str) -> String {
        let value = kind.get_value_by_name(name);
        value.map(|value| self.at(&kind.parent_file(), value.path())).unwrap_or_default()
    }

    fn at(&mut self, file: &FileDescriptor, path: &[i32]) -> String {
        let of_file = self.files.entry(file.name().to_owned()).or_insert_with(|| comments(file));
        of_file.get(path).cloned().unwrap_or_default()
    }
}

fn comments(file: &FileDescriptor) -> BTreeMap<Vec<i32>, String> {
    // Google's own are about its products.
    if !file.name().starts_with("mockforge/") {
        return BTreeMap::new();
    }
    let locations = file.file_descriptor_proto().source_code_info.iter().flat_map(|info| &info.location);
    let with_comments = locations.filter_map(|location| {
        let lines = location.leading_comments.as_deref()?.lines();
        let lines: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
        Some((location.path.clone(), lines.join("\n").trim().to_owned()))
    });
    with_comments.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::pb;

    fn made() -> (Vec<Binding>, Value) {
        let bindings = Binding::all(pb::pool()).unwrap();
        let document = document(&bindings);
        (bindings, document)
    }

    #[test]
    fn every_binding_is_an_operation_that_says_what_it_is_about() {
        let (bindings, document) = made();
        let mut ids = BTreeSet::new();
        for binding in &bindings {
            let operation =
                &document["paths"][binding.template.to_string()][binding.method.as_str().to_lowercase()];
            assert_eq!(operation["x-rpc"], binding.rpc.full_name());
            assert!(ids.insert(operation["operationId"].to_string()), "{operation}");
            assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 5), "{operation}");
            let captures: Vec<_> = binding.template.captures().collect();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let of_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
            assert_eq!(of_path.map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), captures);
        }
        let operations = document["paths"].as_object().unwrap().values();
        let operations: usize = operations.map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(operations, bindings.len() + 2);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_field_is_described() {
        let (_, document) = made();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let reference = reference.split('"').next().unwrap();
            let found = document.pointer(reference.strip_prefix('#').unwrap());
            assert!(found.is_some_and(Value::is_object), "{reference}");
        }
        for (name, schema) in schemas.iter().filter(|(name, _)| name.starts_with(pb::PACKAGE)) {
            assert!(schema["description"].is_string(), "{name}");
            for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                assert!(schema["description"].is_string(), "{name}.{field}");
            }
        }
    }

    #[test]
    fn payloads_short_forms_and_choices_are_said_as_they_are_taken() {
        let (_, document) = made();
        let schema = |name: &str, field: &str| {
            let name = format!("{}.{name}", pb::PACKAGE);
            document["components"]["schemas"][name]["properties"][field].clone()
        };
        assert_eq!(schema("PublishRequest", "payload").as_object().unwrap().len(), 1);
        assert_eq!(schema("PublishRequest", "payload_base64")["contentEncoding"], "base64");
        assert_eq!(schema("ChaosRule", "actions")["anyOf"][0]["type"], "array");
        assert_eq!(schema("ChaosAction", "latency")["anyOf"][1]["type"], "number");
        assert!(schema("Mock", "response").is_object() && schema("MockResponse", "delay_ms").is_object());
        assert_eq!(schema("MockResponse", "repeat")["properties"]["count"]["type"], "integer");
        let format = &document["components"]["schemas"]["mockforge.mqtt.v1.RecordingFormat"];
        assert!(format["enum"].as_array().unwrap().contains(&"csv".into()), "{format}");
        let publish = &document["components"]["schemas"]["mockforge.mqtt.v1.PublishRequest"];
        assert_eq!(publish["required"], json!(["topic"]));
        let stream = &document["paths"]["/__mockforge/events"]["get"]["responses"]["200"]["content"];
        assert!(stream["text/event-stream"].is_object() && stream["application/x-ndjson"].is_object());
    }
}
