//! One span, from its beginning until it is dropped.

use std::{
    future::Future,
    time::{Instant, SystemTime},
};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::trace::TraceContext;

/// Attributes and texts may be as long as a topic or a client identifier; beyond it a span is not worth its size.
const TEXT_MAX: usize = 1024;

/// A span that is under way; it ends when it is dropped.
pub struct ActiveSpan {
    span: Span,
    context: TraceContext,
}

tokio::task_local! {
    /// The span of the call that this task answers.
    static CURRENT: TraceContext;
}

/// Runs `f` as part of what `context` names.
pub async fn with_context<F: Future>(context: Option<TraceContext>, f: F) -> F::Output {
    match context {
        Some(context) => CURRENT.scope(context, f).await,
        None => f.await,
    }
}

/// What [`with_context`] said of the task that calls it.
pub fn current_context() -> Option<TraceContext> {
    CURRENT.try_with(|context| *context).ok()
}

impl ActiveSpan {
    /// `None` if the sampler does not keep it.
    pub(super) fn begin(
        tracer: &SdkTracer,
        name: String,
        kind: SpanKind,
        parent: Option<TraceContext>,
        began_at: Instant,
    ) -> Option<Self> {
        let began_at = SystemTime::now() - began_at.elapsed();
        let builder = tracer.span_builder(name).with_kind(kind).with_start_time(began_at);
        let parent = match parent {
            Some(parent) => Context::new().with_remote_span_context(remote(parent)),
            None => Context::new(),
        };
        let span = tracer.build_with_context(builder, &parent);
        let context = span.span_context();
        let context = TraceContext {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
            is_sampled: context.is_sampled(),
        };
        span.is_recording().then_some(Self { span, context })
    }

    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    /// As [`set`](Self::set), of a text that may be long.
    pub fn set_text(&mut self, key: &'static str, text: &str) {
        let end = match text.len() {
            0..=TEXT_MAX => text.len(),
            _ => (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0),
        };
        self.set(key, text[..end].to_owned());
    }

    /// That it came to nothing good.
    pub fn fail(&mut self, message: impl Into<String>) {
        self.span.set_status(Status::error(message.into()));
    }

    /// What its children say of it.
    pub fn context(&self) -> TraceContext {
        self.context
    }
}

/// A span of somebody else.
fn remote(context: TraceContext) -> SpanContext {
    let flags = if context.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    SpanContext::new(
        TraceId::from_bytes(context.trace_id),
        SpanId::from_bytes(context.span_id),
        flags,
        true,
        TraceState::NONE,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_known_within_it_and_nowhere_else() {
        let context = TraceContext { trace_id: [1; 16], span_id: [2; 8], is_sampled: true };
        assert_eq!(with_context(Some(context), async { current_context() }).await, Some(context));
        assert_eq!(current_context(), None);
    }
}
