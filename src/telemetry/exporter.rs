//! The ways to a collector: OpenTelemetry's exporters, with our TLS below and our log above them.

use std::{
    error::Error,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, uri::Scheme};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter as ExportSpans},
};
use tokio::{runtime::Handle, task::spawn_blocking};
use tokio_rustls::TlsConnector;
use tonic::{
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tower::service_fn;
use tracing::{info, warn};

use super::Counts;
use crate::{
    config::{ExporterConfig, Protocol},
    net::tls::{ClientTls, ClientTlsOptions, TlsError, connect_tls},
};

/// Of an answer that says what is wrong.
const ANSWER_MAX: usize = 64 << 10;

/// Why nothing is exported.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Endpoint(#[from] tonic::transport::Error),
    #[error("{0}")]
    Build(#[from] ExporterBuildError),
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// How one collector is reached.
enum Way {
    Grpc(Channel, MetadataMap),
    Http(Box<Poster>),
}

/// Spans to a collector; `counts` is told what became of them.
pub(super) async fn spans(
    target: &ExporterConfig,
    counts: Arc<Counts>,
) -> Result<Told<SpanExporter>, ExporterError> {
    let exporter = match way(target).await? {
        Way::Grpc(channel, metadata) => SpanExporter::builder()
            .with_tonic()
            .with_channel(channel)
            .with_metadata(metadata)
            .with_timeout(target.timeout)
            .build()?,
        Way::Http(poster) => SpanExporter::builder()
            .with_http()
            .with_http_client(*poster)
            .with_endpoint(&target.endpoint)
            .with_timeout(target.timeout)
            .build()?,
    };
    Ok(Told::new("traces", target, exporter, counts))
}

/// Metrics to a collector.
pub(super) async fn metrics(target: &ExporterConfig) -> Result<Told<MetricExporter>, ExporterError> {
    let builder = MetricExporter::builder().with_temporality(Temporality::Cumulative);
    let exporter = match way(target).await? {
        Way::Grpc(channel, metadata) => builder
            .with_tonic()
            .with_channel(channel)
            .with_metadata(metadata)
            .with_timeout(target.timeout)
            .build()?,
        Way::Http(poster) => builder
            .with_http()
            .with_http_client(*poster)
            .with_endpoint(&target.endpoint)
            .with_timeout(target.timeout)
            .build()?,
    };
    Ok(Told::new("metrics", target, exporter, Arc::default()))
}

async fn way(target: &ExporterConfig) -> Result<Way, ExporterError> {
    let headers = headers(target);
    match target.protocol {
        Protocol::Grpc => Ok(Way::Grpc(channel(target).await?, MetadataMap::from_headers(headers))),
        Protocol::HttpProtobuf => {
            let tls = tls(target, &[]).await?;
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config((*tls.config()).clone())
                .https_or_http()
                .enable_http1()
                .build();
            let client = Client::builder(TokioExecutor::new()).build(connector);
            let runtime = Handle::current();
            Ok(Way::Http(Box::new(Poster { client, headers, runtime, patience: target.timeout })))
        }
    }
}

fn headers(target: &ExporterConfig) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &target.headers {
        match (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.append(name, value);
            }
            _ => warn!(name, "a header of OTEL_EXPORTER_OTLP_HEADERS is none, and left out"),
        }
    }
    headers
}

async fn tls(target: &ExporterConfig, alpn: &[&[u8]]) -> Result<ClientTls, ExporterError> {
    let options = ClientTlsOptions {
        ca_path: target.ca_path.clone(),
        certificate: target.certificate.clone(),
        insecure: false,
        alpn: alpn.iter().map(|name| name.to_vec()).collect(),
    };
    Ok(spawn_blocking(move || ClientTls::load(&options)).await??)
}

async fn channel(target: &ExporterConfig) -> Result<Channel, ExporterError> {
    let endpoint = Endpoint::from_shared(target.endpoint.clone())?;
    let endpoint = endpoint.connect_timeout(target.timeout).tcp_nodelay(true);
    if endpoint.uri().scheme() != Some(&Scheme::HTTPS) {
        return Ok(endpoint.connect_lazy());
    }
    let connector = TlsConnector::from(tls(target, &[b"h2"]).await?.config());
    let connect = service_fn(move |uri: Uri| {
        let connector = connector.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(connect_tls(&connector, &uri).await?)) }
    });
    Ok(endpoint.connect_with_connector_lazy(connect))
}

/// Posts from threads that have no runtime, as the exporters' are.
struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: HeaderMap,
    runtime: Handle,
    patience: Duration,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poster")
    }
}

#[tonic::async_trait]
impl HttpClient for Poster {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut request = request.map(Full::new);
        request.headers_mut().extend(self.headers.clone());
        let (client, patience) = (self.client.clone(), self.patience);
        let answer = self.runtime.spawn(async move {
            let answered = async {
                let (head, body) = client.request(request).await?.into_parts();
                let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
                Ok::<_, HttpError>(Response::from_parts(head, body))
            };
            match tokio::time::timeout(patience, answered).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} ms", patience.as_millis()).into()),
            }
        });
        answer.await?
    }
}

/// An exporter whose failures are in the log: once, however long they last.
#[derive(Debug)]
pub(super) struct Told<E> {
    what: &'static str,
    endpoint: String,
    exporter: E,
    is_down: AtomicBool,
    counts: Arc<Counts>,
}

impl<E> Told<E> {
    fn new(what: &'static str, target: &ExporterConfig, exporter: E, counts: Arc<Counts>) -> Self {
        Self { what, endpoint: target.endpoint.clone(), exporter, is_down: AtomicBool::new(false), counts }
    }

    fn tell(&self, outcome: &OTelSdkResult) {
        let Self { what, endpoint, .. } = self;
        match outcome {
            Ok(()) => {
                if self.is_down.swap(false, Relaxed) {
                    info!("{what} are taken again by {endpoint}");
                }
            }
            // Its own end.
            Err(OTelSdkError::AlreadyShutdown) => {}
            Err(error) => {
                if !self.is_down.swap(true, Relaxed) {
                    warn!(error = %cause(error), "{what} are not taken by {endpoint}");
                }
            }
        }
    }
}

/// What lies below all that says that something lies below.
fn cause<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    std::iter::successors(Some(error), |error| (*error).source()).last().unwrap_or(error)
}

impl ExportSpans for Told<SpanExporter> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let outcome = self.exporter.export(batch).await;
        self.tell(&outcome);
        self.counts.settle(count, outcome.is_ok());
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl PushMetricExporter for Told<MetricExporter> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let outcome = self.exporter.export(metrics).await;
        self.tell(&outcome);
        outcome
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
