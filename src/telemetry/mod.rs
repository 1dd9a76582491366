//! OpenTelemetry: traces and metrics for whoever collects them, over OTLP.
//!
//! What moves messages only ends spans, which puts them into a bounded queue that wakes nobody until a batch is there; the
//! SDK's own threads send them on. Metrics are those of [`Metrics::families`], read when they are exported.

mod exporter;
mod instruments;
mod span;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use opentelemetry::{
    Context, InstrumentationScope, KeyValue, metrics::MeterProvider as _, trace::TracerProvider as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler as SdkSampler, SdkTracer, SdkTracerProvider, Span,
        SpanData, SpanProcessor,
    },
};
use tokio::{task::spawn_blocking, time::timeout};
use tracing::warn;

pub use opentelemetry::trace::SpanKind;

pub use self::span::{ActiveSpan, current_context, with_context};
use crate::{
    config::{Sampler, TelemetryConfig},
    metrics::{Family, Metrics},
    trace::{TraceContext, Traced, Tracer},
};

/// How long what is left may take to be sent when the server ends.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// Takes spans, if they are exported; clones share it. The default exports nothing.
#[derive(Clone, Default)]
pub struct Telemetry(Option<Arc<Running>>);

struct Running {
    config: TelemetryConfig,
    traces: Option<Traces>,
    metrics: Mutex<Option<SdkMeterProvider>>,
}

struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    counts: Arc<Counts>,
}

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    exported: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    /// Of so many that waited.
    fn settle(&self, count: u64, were_taken: bool) {
        self.waiting.fetch_sub(count, Relaxed);
        let counter = if were_taken { &self.exported } else { &self.dropped };
        counter.fetch_add(count, Relaxed);
    }
}

impl Telemetry {
    /// Exports spans as `config` says, from now on; what is wrong with the way to the collector is in the log, and then none are.
    pub async fn start(config: &TelemetryConfig) -> Self {
        if config.traces.is_none() && config.metrics.is_none() {
            return Self::default();
        }
        let traces = match &config.traces {
            Some(target) => {
                let counts = Arc::new(Counts::default());
                match exporter::spans(target, Arc::clone(&counts)).await {
                    Ok(exporter) => Some(Traces::start(config, exporter, counts)),
                    Err(error) => {
                        warn!(%error, "traces are not exported");
                        None
                    }
                }
            }
            None => None,
        };
        Self(Some(Arc::new(Running { config: config.clone(), traces, metrics: Mutex::default() })))
    }

    /// Exports all figures that there are sources of now, as the settings say.
    pub async fn export_metrics(&self, metrics: &Arc<Metrics>) {
        let Some((running, target)) =
            self.0.as_ref().and_then(|running| Some((running, running.config.metrics.as_ref()?)))
        else {
            return;
        };
        let exporter = match exporter::metrics(target).await {
            Ok(exporter) => exporter,
            Err(error) => {
                warn!(%error, "metrics are not exported");
                return;
            }
        };
        let reader = PeriodicReader::builder(exporter).with_interval(running.config.metric_interval).build();
        let provider =
            SdkMeterProvider::builder().with_reader(reader).with_resource(resource(&running.config)).build();
        instruments::register(&provider.meter_with_scope(scope()), metrics).await;
        *running.metrics.lock().unwrap_or_else(PoisonError::into_inner) = Some(provider);
    }

    fn running_traces(&self) -> Option<&Traces> {
        self.0.as_ref()?.traces.as_ref()
    }

    /// Whether spans are exported.
    pub fn traces(&self) -> bool {
        self.running_traces().is_some()
    }

    /// A span that begins now and ends when it is dropped; `None` if it is not to be kept.
    pub fn span(
        &self,
        name: impl Into<String>,
        kind: SpanKind,
        parent: Option<TraceContext>,
    ) -> Option<ActiveSpan> {
        let traces = self.running_traces()?;
        ActiveSpan::begin(&traces.tracer, name.into(), kind, parent, Instant::now())
    }

    /// For a thread that moves messages; `None` where it need not look for traces in them.
    pub fn tracer(&self) -> Option<Box<dyn Tracer>> {
        Some(Box::new(MessageTracer(self.running_traces()?.tracer.clone())))
    }

    /// What became of spans.
    pub fn families(&self) -> Vec<Family> {
        let figure = |figure: fn(&Counts) -> &AtomicU64| {
            self.running_traces().map_or(0, |traces| figure(&traces.counts).load(Relaxed))
        };
        vec![
            Family::counter("mockforge_spans_exported_total", "Spans sent over OTLP.")
                .value(figure(|counts| &counts.exported)),
            Family::counter("mockforge_spans_dropped_total", "Spans that could not be sent over OTLP.")
                .value(figure(|counts| &counts.dropped)),
        ]
    }

    /// Sends what is left, for a bounded time, and ends.
    pub async fn close(&self) {
        let Some(running) = &self.0 else { return };
        let traces = running.traces.as_ref().map(|traces| traces.provider.clone());
        let metrics = running.metrics.lock().unwrap_or_else(PoisonError::into_inner).take();
        // They wait for threads of their own. What was not taken is in the log.
        let traces = traces.map(|traces| spawn_blocking(move || traces.shutdown_with_timeout(CLOSE_WAIT)));
        let metrics =
            metrics.map(|metrics| spawn_blocking(move || metrics.shutdown_with_timeout(CLOSE_WAIT)));
        let all = join_all(traces.into_iter().chain(metrics));
        if timeout(CLOSE_WAIT + Duration::from_secs(1), all).await.is_err() {
            warn!("not all telemetry was taken in time");
        }
    }
}

impl Traces {
    fn start(
        config: &TelemetryConfig,
        exporter: exporter::Told<opentelemetry_otlp::SpanExporter>,
        counts: Arc<Counts>,
    ) -> Self {
        let batch = BatchConfigBuilder::default()
            .with_max_queue_size(config.batch.queue)
            .with_max_export_batch_size(config.batch.batch.min(config.batch.queue))
            .with_scheduled_delay(config.batch.delay)
            .build();
        let processor = Counted {
            limit: config.batch.queue as u64,
            counts: Arc::clone(&counts),
            processor: BatchSpanProcessor::builder(exporter).with_batch_config(batch).build(),
        };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(sampler(config.sampler))
            .with_resource(resource(config))
            .build();
        let tracer = provider.tracer_with_scope(scope());
        Self { provider, tracer, counts }
    }
}

fn sampler(sampler: Sampler) -> SdkSampler {
    let own = match sampler.ratio {
        ratio if ratio >= 1.0 => SdkSampler::AlwaysOn,
        ratio if ratio <= 0.0 => SdkSampler::AlwaysOff,
        ratio => SdkSampler::TraceIdRatioBased(ratio),
    };
    if sampler.follows_parent { SdkSampler::ParentBased(Box::new(own)) } else { own }
}

fn resource(config: &TelemetryConfig) -> Resource {
    let attributes = config.resource.iter();
    let attributes = attributes.map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty().with_attributes(attributes).build()
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION")).build()
}

/// Counts what finds no room, which the SDK does not tell.
#[derive(Debug)]
struct Counted {
    limit: u64,
    counts: Arc<Counts>,
    processor: BatchSpanProcessor,
}

impl SpanProcessor for Counted {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.counts.waiting.fetch_add(1, Relaxed) >= self.limit {
            self.counts.settle(1, false);
            return;
        }
        self.processor.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// Makes a span of each message that belongs to a trace.
struct MessageTracer(SdkTracer);

impl Tracer for MessageTracer {
    fn routed(&mut self, message: &Traced<'_>) {
        let (name, parent) = ("publish".to_owned(), Some(message.context));
        let Some(mut span) = ActiveSpan::begin(&self.0, name, SpanKind::Server, parent, message.at) else {
            return;
        };
        span.set("messaging.system", "mqtt");
        span.set("messaging.operation.name", "publish");
        span.set("messaging.operation.type", "send");
        span.set_text("messaging.destination.name", message.topic);
        if !message.client_identifier.is_empty() {
            span.set_text("messaging.client.id", message.client_identifier);
        }
        span.set("messaging.message.body.size", message.payload_size as i64);
        span.set("mqtt.qos", i64::from(message.qos as u8));
        if message.retain {
            span.set("mqtt.retain", true);
        }
        if let Some(receivers) = message.receivers {
            span.set("mqtt.receivers", receivers as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{
        SpanId, TraceFlags, TraceId,
        trace::{SpanContext, TraceContextExt, TraceState},
    };
    use opentelemetry_sdk::trace::{SamplingDecision, ShouldSample};

    use super::*;

    #[test]
    fn a_span_is_kept_as_its_parent_or_by_its_trace() {
        let parent = |is_sampled| {
            let flags = if is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
            let ids = (TraceId::from_bytes([1; 16]), SpanId::from_bytes([1; 8]));
            let span = SpanContext::new(ids.0, ids.1, flags, true, TraceState::NONE);
            Some(Context::new().with_remote_span_context(span))
        };
        for (follows_parent, ratio, parent, expected) in [
            (true, 1.0, None, true),
            (true, 0.0, None, false),
            (true, 1.0, parent(false), false),
            (true, 0.0, parent(true), true),
            (false, 1.0, parent(false), true),
            (false, 0.0, parent(true), false),
        ] {
            let trace = TraceId::from_bytes([7; 16]);
            let sampled = sampler(Sampler { follows_parent, ratio }).should_sample(
                parent.as_ref(),
                trace,
                "x",
                &SpanKind::Server,
                &[],
                &[],
            );
            let is_kept = sampled.decision == SamplingDecision::RecordAndSample;
            assert_eq!(is_kept, expected, "{follows_parent} {ratio}");
        }
    }
}
