//! REST by the proto's `google.api.http` annotations: every request becomes a gRPC call in this process.
//!
//! There is no handler per rpc and no second description of the API. Answers are JSON; server streams are SSE for
//! `Accept: text/event-stream`, else NDJSON; an rpc that speaks `google.api.HttpBody` is a plain download or upload.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    response::{IntoResponse, Response, sse},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};
use tokio::time::timeout;
use tonic::{Code, Status, client::Grpc, metadata::MetadataValue, service::Routes};

use super::{
    access::check_role,
    binding::{BadBinding, Binding, BodyField, Found, find},
    codec::DynamicCodec,
    grpc::routes,
    json,
    status::{Refusal, status_json, with_reason},
    traced::CONTEXT_HEADERS,
};
use crate::{
    auth::Role,
    config::ApiLimits,
    control::{Control, MESSAGE_MAX, export_progress, pb},
};

/// The REST twin of gRPC routes.
#[derive(Clone)]
pub struct Rest {
    bindings: Arc<[Binding]>,
    routes: Routes,
    message_max: usize,
    body_max: usize,
    body_timeout: Duration,
}

type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<DynamicMessage, Status>> + Send>>;

impl Rest {
    /// # Errors
    /// [`BadBinding`] when the pool holds an rpc that can't be served.
    pub fn new(pool: &DescriptorPool, control: Control, limits: &ApiLimits) -> Result<Self, BadBinding> {
        // A message is no longer than the JSON of it; of an import the pieces are as they come.
        let message_max = limits.body_bytes.max(MESSAGE_MAX);
        Ok(Self {
            bindings: Binding::all(pool)?.into(),
            routes: routes(control, message_max),
            message_max,
            body_max: limits.body_bytes,
            body_timeout: limits.body_timeout,
        })
    }

    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// Whether a call streams; false where there is nothing to call.
    ///
    /// # Errors
    /// PERMISSION_DENIED for a lesser role than it needs.
    pub fn check(&self, method: &Method, path: &str, role: Role) -> Result<bool, Status> {
        let Found::Binding(binding, _) = find(&self.bindings, method, path) else { return Ok(false) };
        check_role(role, binding.role)?;
        Ok(binding.lasts)
    }

    /// Answers a caller who [may](Self::check) ask.
    pub async fn handle(&self, request: Request) -> Response {
        self.answer(request).await.unwrap_or_else(IntoResponse::into_response)
    }

    async fn answer(&self, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        let (binding, captures) = match find(&self.bindings, &parts.method, parts.uri.path()) {
            Found::Binding(binding, captures) => (binding, captures),
            Found::OtherMethods(methods) => {
                return Ok(method_not_allowed(parts.uri.path(), &parts.method, &methods));
            }
            Found::Nothing => {
                let text = format!("nothing is at {}", parts.uri.path());
                return Err(with_reason(Code::NotFound, "PATH_NOT_FOUND", text).into());
            }
        };
        let mut message = DynamicMessage::new(binding.rpc.input());
        for (name, value) in &captures {
            json::read_parameter(&mut message, name, value)?;
        }
        let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        for (name, value) in query {
            json::read_parameter(&mut message, &name, &value)?;
        }
        if binding.rpc.is_client_streaming() {
            return self.upload(binding, message, &parts.headers, body).await;
        }
        read_body(&mut message, binding, self.whole(body).await?)?;
        self.call(binding, message, &parts.headers).await
    }

    async fn call(
        &self,
        binding: &Binding,
        message: DynamicMessage,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let output = binding.rpc.output();
        let (path, codec) = (grpc_path(binding)?, DynamicCodec(output.clone()));
        let request = in_trace(tonic::Request::new(message), headers);
        let mut grpc = self.grpc();
        if !binding.rpc.is_server_streaming() {
            let answer = grpc.unary(request, path, codec).await?;
            return Ok(json_response(json::write(answer.get_ref())));
        }
        let answers: Answers = Box::pin(grpc.server_streaming(request, path, codec).await?.into_inner());
        if output.full_name() == HTTP_BODY {
            return download(answers).await;
        }
        let answers = answers.map(|answer| answer.map(|message| json::write(&message)));
        Ok(if wants_events(headers) { events(answers) } else { lines(answers) })
    }

    /// Sends a request's body in pieces, the first together with what stood in path and query.
    async fn upload(
        &self,
        binding: &Binding,
        mut message: DynamicMessage,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refusal> {
        let BodyField::Field(field) = &binding.body else {
            let text = "this call streams its request: use gRPC";
            return Err(with_reason(Code::Unimplemented, "UNSUPPORTED", text).into());
        };
        let (field, input) = (field.clone(), binding.rpc.input());
        let failed = Arc::new(Mutex::new(None));
        let failure = failed.clone();
        let limit = self.body_timeout;
        let pieces = stream::unfold(body.into_data_stream(), move |mut pieces| {
            let failure = failure.clone();
            async move {
                let why = match timeout(limit, pieces.next()).await {
                    Ok(Some(Ok(piece))) => return Some((piece, pieces)),
                    Ok(None) => return None,
                    Ok(Some(Err(error))) => error.to_string(),
                    Err(_) => format!("nothing came for {} s", limit.as_secs()),
                };
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                None
            }
        });
        // One piece at least, so that an empty body arrives as an empty file.
        let pieces = stream::once(async { Bytes::new() }).chain(pieces);
        let messages = Box::pin(pieces).map(move |piece| {
            if let Value::Message(file) = message.get_field_mut(&field) {
                file.set_field_by_name("data", Value::Bytes(piece));
            }
            std::mem::replace(&mut message, DynamicMessage::new(input.clone()))
        });
        let codec = DynamicCodec(binding.rpc.output());
        let request = in_trace(tonic::Request::new(messages), headers);
        let answer = self.grpc().client_streaming(request, grpc_path(binding)?, codec).await;
        if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(bad_body(format!("the body ended early: {error}")));
        }
        match answer {
            Ok(answer) => Ok(json_response(json::write(answer.get_ref()))),
            Err(status) if status.code() == Code::ResourceExhausted => {
                Err(Refusal { status, http: Some(StatusCode::PAYLOAD_TOO_LARGE) })
            }
            Err(status) => Err(status.into()),
        }
    }

    fn grpc(&self) -> Grpc<Routes> {
        Grpc::new(self.routes.clone())
            .max_decoding_message_size(self.message_max)
            .max_encoding_message_size(self.message_max)
    }

    /// The body, if it comes in time and is no longer than it may be.
    async fn whole(&self, body: Body) -> Result<Bytes, Refusal> {
        let too_long = || Refusal {
            status: with_reason(
                Code::ResourceExhausted,
                "BODY_TOO_LONG",
                format!("the body is longer than {} bytes (http.limits.body_bytes)", self.body_max),
            ),
            http: Some(StatusCode::PAYLOAD_TOO_LARGE),
        };
        // What says so at once is not waited for.
        if body.size_hint().lower() > self.body_max as u64 {
            return Err(too_long());
        }
        match timeout(self.body_timeout, Limited::new(body, self.body_max).collect()).await {
            Ok(Ok(bytes)) => Ok(bytes.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
            Ok(Err(error)) => Err(bad_body(format!("the body ended early: {error}"))),
            Err(_) => {
                let seconds = self.body_timeout.as_secs();
                let text = format!("the body took longer than {seconds} s");
                let status = with_reason(Code::DeadlineExceeded, "BODY_TOO_SLOW", text);
                Err(Refusal { status, http: Some(StatusCode::REQUEST_TIMEOUT) })
            }
        }
    }
}

fn bad_body(text: impl Into<String>) -> Refusal {
    with_reason(Code::InvalidArgument, "BAD_BODY", text).into()
}

/// With what the caller says of the trace that it is part of.
fn in_trace<T>(mut request: tonic::Request<T>, headers: &HeaderMap) -> tonic::Request<T> {
    for name in CONTEXT_HEADERS {
        let value = headers.get(name).and_then(|value| MetadataValue::try_from(value.as_bytes()).ok());
        if let Some(value) = value {
            request.metadata_mut().insert(name, value);
        }
    }
    request
}

/// What rpcs speak whose twin is a plain download or upload.
pub const HTTP_BODY: &str = "google.api.HttpBody";

fn grpc_path(binding: &Binding) -> Result<http::uri::PathAndQuery, Refusal> {
    let path = http::uri::PathAndQuery::try_from(binding.grpc_path());
    path.map_err(|error| Status::internal(error.to_string()).into())
}

/// PATCH replaces what stands in the body, unless the query has a mask of its own.
fn mask(message: &mut DynamicMessage, field: &FieldDescriptor, text: &str) -> Result<(), Refusal> {
    let Some(mask) = message.descriptor().get_field_by_name("update_mask") else { return Ok(()) };
    let Kind::Message(replaced) = field.kind() else { return Ok(()) };
    let has_paths = |mask: &DynamicMessage| {
        mask.get_field_by_name("paths")
            .is_some_and(|paths| paths.as_list().is_some_and(|paths| !paths.is_empty()))
    };
    if message.get_field(&mask).as_message().is_some_and(has_paths) {
        return Ok(());
    }
    let paths: Vec<_> = json::paths(&replaced, text)?.into_iter().map(Value::String).collect();
    if paths.is_empty() {
        // Without a mask, it would take the place of all there is.
        return Err(bad_body("PATCH changes what stands in the body, and nothing does"));
    }
    if let Value::Message(mask) = message.get_field_mut(&mask) {
        mask.set_field_by_name("paths", Value::List(paths));
    }
    Ok(())
}

fn read_body(message: &mut DynamicMessage, binding: &Binding, bytes: Bytes) -> Result<(), Refusal> {
    if bytes.is_empty() {
        return Ok(());
    }
    let text =
        std::str::from_utf8(&bytes).map_err(|error| bad_body(format!("the body is no UTF-8: {error}")))?;
    match &binding.body {
        BodyField::Absent => return Err(bad_body("this call takes no body")),
        BodyField::Whole => json::read(message, text, "").map_err(|error| match error.path.as_str() {
            "" => bad_body(error.what),
            _ => error.into(),
        })?,
        BodyField::Field(field) => {
            if let Value::Message(inner) = message.get_field_mut(field) {
                json::read(inner, text, field.name()).map_err(|error| match error.path == field.name() {
                    true => bad_body(error.what),
                    false => error.into(),
                })?;
            }
            if binding.method == Method::PATCH {
                mask(message, field, text)?;
            }
        }
    }
    Ok(())
}

// ---- answers

/// On a line that ends, as a terminal likes it.
pub fn json_response(mut text: String) -> Response {
    text.push('\n');
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// Says which methods a path takes.
pub fn method_not_allowed(path: &str, method: &Method, methods: &[Method]) -> Response {
    let names = |method: &Method| match method.as_str() {
        "GET" => "GET, HEAD".to_owned(),
        name => name.to_owned(),
    };
    let allowed = methods.iter().map(names).collect::<Vec<_>>().join(", ");
    let refusal = Refusal {
        status: with_reason(
            Code::Unimplemented,
            "METHOD_NOT_ALLOWED",
            format!("{path} takes {allowed}, not {method}"),
        ),
        http: Some(StatusCode::METHOD_NOT_ALLOWED),
    };
    let mut response = refusal.into_response();
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// Whether server-sent events are named, and lines are not liked better.
pub fn wants_events(headers: &HeaderMap) -> bool {
    let events = quality(headers, "text/event-stream");
    events > 0.0 && events >= quality(headers, "application/x-ndjson")
}

/// How well a caller likes what it names as a media type, from 0 to 1 [RFC 9110 section 12.5.1]; 0 for one not named.
fn quality(headers: &HeaderMap, media_type: &str) -> f32 {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let named = values.flat_map(|value| value.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        parts.next().filter(|name| name.eq_ignore_ascii_case(media_type))?;
        let weight = parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('='));
        Some(weight.and_then(|weight| weight.trim().parse().ok()).unwrap_or(1.0))
    });
    named.fold(0.0, f32::max)
}

/// Server-sent events; an error is the last one, called `error`.
fn events(answers: impl Stream<Item = Result<String, Status>> + Send + 'static) -> Response {
    let events = answers.map(|answer| {
        Ok::<_, Infallible>(match answer {
            Ok(text) => sse::Event::default().data(text),
            Err(status) => sse::Event::default().event("error").data(status_json(&status)),
        })
    });
    sse::Sse::new(events).keep_alive(sse::KeepAlive::default()).into_response()
}

/// A line each; an error is the last one, `{"error": {…}}`.
fn lines(answers: impl Stream<Item = Result<String, Status>> + Send + 'static) -> Response {
    let lines = answers.map(|answer| {
        Ok::<_, Infallible>(match answer {
            Ok(text) => text + "\n",
            Err(status) => format!("{{\"error\":{}}}\n", status_json(&status)),
        })
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response()
}

/// The pieces' bytes, one after the other. An error before the first is an answer; a later one breaks the download off.
async fn download(mut answers: Answers) -> Result<Response, Refusal> {
    let text = |message: &DynamicMessage| {
        let kind = message.get_field_by_name("content_type")?;
        kind.as_str().filter(|kind| !kind.is_empty()).map(ToOwned::to_owned)
    };
    let first = answers.next().await.transpose()?;
    let kind = first.as_ref().and_then(text).and_then(|kind| HeaderValue::try_from(kind).ok());
    let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let name = first.as_ref().and_then(file_name);
    let pieces = stream::iter(first.map(Ok)).chain(answers).map(|piece| {
        piece.map(|mut message| match message.take_field_by_name("data") {
            Some(Value::Bytes(bytes)) => bytes,
            _ => Bytes::new(),
        })
    });
    let mut response = ([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces)).into_response();
    if let Some(name) = name {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition(&name));
    }
    Ok(response)
}

/// What a file may be called, from the description of a download's first piece.
fn file_name(piece: &DynamicMessage) -> Option<String> {
    let piece = pb::google::api::HttpBody::decode(piece.encode_to_vec().as_slice()).ok()?;
    Some(export_progress(&piece)?.file_name)
}

/// Names may hold any letters: those that old clients cannot read are replaced, and the others get all.
fn disposition(name: &str) -> HeaderValue {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ';
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        text += &format!("; filename*=UTF-8''{encoded}");
    }
    HeaderValue::try_from(text).expect("what is no plain letter is encoded")
}
