//! The `OTEL_*` variables of the OpenTelemetry specification: where traces and metrics are sent, if anywhere.
//!
//! As the specification wants it, a value that is wrong is ignored with a warning.

use std::{path::PathBuf, time::Duration};

/// What the name of every variable of the specification starts with.
pub const PREFIX: &str = "OTEL_";

/// What is exported and how; nothing unless a variable names an endpoint or an exporter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TelemetryConfig {
    pub traces: Option<ExporterConfig>,
    pub metrics: Option<ExporterConfig>,
    /// Attributes of who sends it, the service's name among them.
    pub resource: Vec<(String, String)>,
    pub sampler: Sampler,
    pub batch: BatchConfig,
    /// Between two exports of metrics.
    pub metric_interval: Duration,
}

/// Where one of them is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct ExporterConfig {
    /// `http://` or `https://`; with HTTP, all of the URL.
    pub endpoint: String,
    pub protocol: Protocol,
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
    /// PEM file of the authorities of its certificate.
    pub ca_path: Option<PathBuf>,
    /// PEM files of the certificate to show, and of its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// Which spans are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether one that joins a trace goes by what was decided there.
    pub follows_parent: bool,
    /// Of the others, from 0 to 1.
    pub ratio: f64,
}

/// How spans are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// Until what there is is sent.
    pub delay: Duration,
    /// Spans that wait; more are dropped and counted.
    pub queue: usize,
    /// Sent together at most.
    pub batch: usize,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { follows_parent: true, ratio: 1.0 }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), queue: 2048, batch: 512 }
    }
}

impl TelemetryConfig {
    /// Reads them from `environment`; the second is what is wrong with any.
    pub fn read(environment: &[(String, String)]) -> (Self, Vec<String>) {
        let mut variables = Variables { environment, warnings: Vec::new() };
        let config = Self::checked(&mut variables);
        (config, variables.warnings)
    }

    fn checked(variables: &mut Variables<'_>) -> Self {
        let is_disabled =
            variables.read("OTEL_SDK_DISABLED", |text| match text.to_ascii_lowercase().as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err("expected true or false".to_owned()),
            });
        if is_disabled == Some(true) {
            return Self::default();
        }
        let batch = BatchConfig::default();
        let default = Self {
            traces: variables.exporter("TRACES", "v1/traces", "OTEL_BSP_EXPORT_TIMEOUT"),
            metrics: variables.exporter("METRICS", "v1/metrics", "OTEL_METRIC_EXPORT_TIMEOUT"),
            ..Self::default()
        };
        if default.traces.is_none() && default.metrics.is_none() {
            return default;
        }
        Self {
            resource: variables.resource(),
            sampler: variables.sampler(),
            batch: BatchConfig {
                delay: variables.milliseconds("OTEL_BSP_SCHEDULE_DELAY").unwrap_or(batch.delay),
                queue: variables.count("OTEL_BSP_MAX_QUEUE_SIZE").unwrap_or(batch.queue),
                batch: variables.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").unwrap_or(batch.batch),
            },
            metric_interval: variables
                .milliseconds("OTEL_METRIC_EXPORT_INTERVAL")
                .unwrap_or(Duration::from_secs(60)),
            ..default
        }
    }
}

struct Variables<'a> {
    environment: &'a [(String, String)],
    warnings: Vec<String>,
}

impl Variables<'_> {
    /// As the specification has it, an empty one is not set.
    fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.environment.iter().find(|(found, _)| found == name)?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn read<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                // Headers hold credentials.
                let shown =
                    if name.contains("HEADERS") { String::new() } else { format!(", found {text:?}") };
                let warning = format!("{name} is ignored: {why}{shown}");
                // Some are read for traces and for metrics.
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
                None
            }
        }
    }

    fn milliseconds(&mut self, name: &str) -> Option<Duration> {
        self.read(name, |text| match text.parse() {
            Ok(0) | Err(_) => Err("expected milliseconds, a whole number above 0".to_owned()),
            // A year: timers take no more.
            Ok(milliseconds) => Ok(Duration::from_millis(u64::min(milliseconds, 365 * 86_400_000))),
        })
    }

    fn count(&mut self, name: &str) -> Option<usize> {
        self.read(name, |text| match text.parse() {
            Ok(0) | Err(_) => Err("expected a whole number above 0".to_owned()),
            Ok(count) => Ok(usize::min(count, 1 << 20)),
        })
    }

    /// Of a signal, `TRACES` or `METRICS`, else of all.
    fn of_signal(&self, signal: &str, what: &str) -> Option<(String, bool)> {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
        let shared = format!("OTEL_EXPORTER_OTLP_{what}");
        [(own, true), (shared, false)].into_iter().find(|(name, _)| self.text(name).is_some())
    }

    fn read_of_signal<T>(
        &mut self,
        signal: &str,
        what: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (name, _) = self.of_signal(signal, what)?;
        self.read(&name, read)
    }

    /// `limit` is the variable that bounds what an export may take, beside the exporter's own.
    fn exporter(&mut self, signal: &str, path: &str, limit: &str) -> Option<ExporterConfig> {
        let named = self.read(&format!("OTEL_{signal}_EXPORTER"), |text| match text {
            "otlp" => Ok(true),
            // It is scraped anyway.
            "none" | "prometheus" => Ok(false),
            _ => Err("expected otlp or none".to_owned()),
        });
        let endpoint = self.of_signal(signal, "ENDPOINT");
        if named == Some(false) || named.is_none() && endpoint.is_none() {
            return None;
        }
        let protocol = self.read_of_signal(signal, "PROTOCOL", |text| match text {
            "grpc" => Ok(Protocol::Grpc),
            "http/protobuf" => Ok(Protocol::HttpProtobuf),
            _ => Err("expected grpc or http/protobuf".to_owned()),
        });
        let url = endpoint.as_ref().and_then(|(name, _)| self.read(name, check_url));
        if endpoint.is_some() && url.is_none() {
            // What was meant for somebody goes to nobody else.
            return None;
        }
        // Nothing but gRPC is answered on its port.
        let is_grpc_port = url.as_deref().is_some_and(|url| url.trim_end_matches('/').ends_with(":4317"));
        let protocol = protocol.unwrap_or(if is_grpc_port { Protocol::Grpc } else { Protocol::HttpProtobuf });
        let is_own = endpoint.is_some_and(|(_, is_own)| is_own);
        let endpoint = match (protocol, url) {
            (Protocol::Grpc, url) => url.unwrap_or_else(|| "http://localhost:4317".to_owned()),
            (Protocol::HttpProtobuf, Some(url)) if is_own => url,
            (Protocol::HttpProtobuf, url) => {
                let url = url.unwrap_or_else(|| "http://localhost:4318".to_owned());
                format!("{}/{path}", url.trim_end_matches('/'))
            }
        };
        // Only for the warning.
        self.read_of_signal(signal, "COMPRESSION", |text| match text {
            "none" => Ok(()),
            _ => Err("what is sent is not compressed".to_owned()),
        });
        let file =
            |variables: &mut Self, what| variables.read_of_signal(signal, what, |text| Ok(text.into()));
        let ca_path = file(self, "CERTIFICATE");
        let certificate = file(self, "CLIENT_CERTIFICATE").zip(file(self, "CLIENT_KEY"));
        let timeout = self.of_signal(signal, "TIMEOUT").and_then(|(name, _)| self.milliseconds(&name));
        let timeout = timeout.unwrap_or(Duration::from_secs(10));
        let limit = self.milliseconds(limit).unwrap_or(Duration::from_secs(30));
        Some(ExporterConfig {
            endpoint,
            protocol,
            headers: self.read_of_signal(signal, "HEADERS", pairs).unwrap_or_default(),
            timeout: timeout.min(limit),
            ca_path,
            certificate,
        })
    }

    fn resource(&mut self) -> Vec<(String, String)> {
        let mut all = self.read("OTEL_RESOURCE_ATTRIBUTES", pairs).unwrap_or_default();
        if let Some(name) = self.text("OTEL_SERVICE_NAME") {
            all.retain(|(key, _)| key != "service.name");
            all.push(("service.name".to_owned(), name));
        }
        for (key, value) in
            [("service.name", env!("CARGO_PKG_NAME")), ("service.version", env!("CARGO_PKG_VERSION"))]
        {
            if !all.iter().any(|(known, _)| known == key) {
                all.push((key.to_owned(), value.to_owned()));
            }
        }
        all
    }

    fn sampler(&mut self) -> Sampler {
        let named = self.read("OTEL_TRACES_SAMPLER", |text| {
            let (follows_parent, own) = match text.strip_prefix("parentbased_") {
                Some(own) => (true, own),
                None => (false, text),
            };
            match own {
                "always_on" => Ok((follows_parent, Some(1.0))),
                "always_off" => Ok((follows_parent, Some(0.0))),
                "traceidratio" => Ok((follows_parent, None)),
                _ => Err("expected always_on, always_off or traceidratio, parentbased_ before it or not"
                    .to_owned()),
            }
        });
        let Some((follows_parent, ratio)) = named else { return Sampler::default() };
        let ratio = ratio.or_else(|| {
            self.read("OTEL_TRACES_SAMPLER_ARG", |text| match text.parse() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
                _ => Err("expected a number from 0 to 1".to_owned()),
            })
        });
        Sampler { follows_parent, ratio: ratio.unwrap_or(1.0) }
    }
}

fn check_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match (rest, text.parse::<http::Uri>()) {
        (Some(rest), Ok(_)) if !rest.is_empty() && !rest.contains('@') => Ok(text.to_owned()),
        _ => Err("expected http://host:port or https://host:port".to_owned()),
    }
}

/// `key=value,key=value`, with percent signs as in URLs.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let decoded = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text.trim()).decode_utf8();
        decoded.map(std::borrow::Cow::into_owned).map_err(|_| "it is no UTF-8".to_owned())
    };
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((decoded(key)?, decoded(value)?)),
            _ => Err("expected key=value, a comma apart".to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (TelemetryConfig, Vec<String>) {
        let owned: Vec<_> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        TelemetryConfig::read(&owned)
    }

    fn endpoints(config: &TelemetryConfig) -> [Option<(&str, Protocol)>; 2] {
        [&config.traces, &config.metrics]
            .map(|exporter| exporter.as_ref().map(|exporter| (exporter.endpoint.as_str(), exporter.protocol)))
    }

    #[test]
    fn nothing_is_exported_unless_an_endpoint_or_an_exporter_is_named() {
        for variables in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "x")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), ("OTEL_SDK_DISABLED", "TRUE")],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"),
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "prometheus"),
            ],
        ] {
            let (config, warnings) = read(variables);
            assert_eq!((endpoints(&config), warnings), ([None, None], Vec::new()), "{variables:?}");
        }
    }

    #[test]
    fn endpoints_and_protocols_are_those_of_the_signal_or_of_all() {
        use Protocol::{Grpc, HttpProtobuf};
        let all = "OTEL_EXPORTER_OTLP_ENDPOINT";
        for (variables, expected) in [
            (
                &[(all, "http://a:4318/base/")][..],
                [
                    Some(("http://a:4318/base/v1/traces", HttpProtobuf)),
                    Some(("http://a:4318/base/v1/metrics", HttpProtobuf)),
                ],
            ),
            (&[(all, "https://a:4317")], [Some(("https://a:4317", Grpc)); 2]),
            (
                &[(all, "http://a:1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
                [Some(("http://a:1", Grpc)); 2],
            ),
            (
                &[
                    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a:1/x"),
                    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
                    ("OTEL_METRICS_EXPORTER", "otlp"),
                ],
                [Some(("http://a:1/x", HttpProtobuf)), Some(("http://localhost:4317", Grpc))],
            ),
        ] {
            let (config, warnings) = read(variables);
            assert_eq!((endpoints(&config), warnings), (expected, Vec::new()), "{variables:?}");
        }
    }

    #[test]
    fn the_rest_is_read() {
        let (config, warnings) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, a = b"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=y,deployment.environment=test"),
            ("OTEL_SERVICE_NAME", "x"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1500"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "5000"),
        ]);
        assert_eq!(warnings, Vec::<String>::new());
        let (traces, metrics) = (config.traces.expect("they are on"), config.metrics.expect("they are on"));
        let headers = [("authorization", "Bearer x"), ("a", "b")];
        assert_eq!(traces.headers, headers.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!([traces.timeout, metrics.timeout], [Duration::from_millis(250), Duration::from_secs(5)]);
        assert_eq!(config.sampler, Sampler { follows_parent: true, ratio: 0.25 });
        assert_eq!((config.batch.queue, config.metric_interval), (10, Duration::from_millis(1500)));
        let resource = [
            ("deployment.environment", "test"),
            ("service.name", "x"),
            ("service.version", env!("CARGO_PKG_VERSION")),
        ];
        assert_eq!(config.resource, resource.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_wrong_is_ignored_and_told_without_secrets() {
        let (config, warnings) = read(&[
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_METRICS_EXPORTER", "console"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ]);
        let (endpoint, protocol) = ("http://localhost:4318/v1/traces", Protocol::HttpProtobuf);
        assert_eq!(endpoints(&config), [Some((endpoint, protocol)), None]);
        assert_eq!((config.sampler, config.batch), (Sampler::default(), BatchConfig::default()));
        for name in [
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "OTEL_EXPORTER_OTLP_HEADERS",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_TRACES_SAMPLER",
            "OTEL_METRICS_EXPORTER",
            "OTEL_BSP_SCHEDULE_DELAY",
        ] {
            assert!(
                warnings.iter().any(|warning| warning.starts_with(&format!("{name} is ignored"))),
                "{name}"
            );
        }
        assert!(!warnings.concat().contains("secret"));
    }
}
