//! A span for each rpc, however it is carried: joined to the trace that its `traceparent` names.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use hyper::body::Frame;
use tonic::Code;

use super::grpc::SERVICES;
use crate::{
    telemetry::{ActiveSpan, SpanKind, Telemetry, with_context},
    trace::{TRACEPARENT, TRACESTATE, TraceContext},
};

/// What of a REST call's headers its rpc is called with, so that it joins the same trace.
pub const CONTEXT_HEADERS: [&str; 2] = [TRACEPARENT, TRACESTATE];

/// Calls of our own services, with a span each; others pass.
pub async fn traced(State(telemetry): State<Telemetry>, request: Request, next: Next) -> Response {
    let parent = context_of(request.headers());
    let Some(span) = begin(&telemetry, request.uri().path(), parent) else {
        return with_context(parent, next.run(request)).await;
    };
    let answer = with_context(Some(span.context()), next.run(request)).await;
    let mut watched = Watched { body: Body::empty(), span, has_status: false };
    // An answer that is nothing but a refusal says so here.
    watched.note(answer.headers());
    answer.map(|body| Body::new(Watched { body, ..watched }))
}

fn context_of(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
}

fn begin(telemetry: &Telemetry, path: &str, parent: Option<TraceContext>) -> Option<ActiveSpan> {
    let name = path.strip_prefix('/')?;
    let (service, method) = name.split_once('/')?;
    if !SERVICES.contains(&service) {
        return None;
    }
    let mut span = telemetry.span(name, SpanKind::Server, parent)?;
    span.set("rpc.system", "grpc");
    span.set_text("rpc.service", service);
    span.set_text("rpc.method", method);
    Some(span)
}

/// The body of an answer, whose end is the span's.
struct Watched {
    body: Body,
    span: ActiveSpan,
    has_status: bool,
}

impl Watched {
    fn note(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let Some(code) = text("grpc-status").and_then(|code| code.parse::<i32>().ok()) else { return };
        if std::mem::replace(&mut self.has_status, true) {
            return;
        }
        self.span.set("rpc.grpc.status_code", i64::from(code));
        // Of a server's span the others are the caller's errors.
        let is_ours = [
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
        ];
        if is_ours.contains(&Code::from_i32(code)) {
            let message = text("grpc-message").unwrap_or_default();
            self.span.fail(percent_encoding::percent_decode_str(message).decode_utf8_lossy());
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            this.note(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
