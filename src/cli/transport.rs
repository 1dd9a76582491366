//! The way to a [`Control`](crate::control): a running server's port, or one in this process.
//!
//! Both carry the generated clients, so a command is written once.

use std::{convert::Infallible, fmt, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use http::{HeaderValue, Request, Response, Uri, header::AUTHORIZATION};
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsConnector;
use tonic::{Status, body::Body, transport::Endpoint};
use tower::{BoxError, ServiceExt, service_fn, util::BoxCloneSyncService};
use tracing::warn;

use super::exit::{Exit, Failure};
use crate::{
    config::{ClientTlsConfig, Config, ListenConfig},
    control::{
        self, Control,
        pb::{
            GetServerInfoRequest, ServerInfo, admin_client::AdminClient, broker_client::BrokerClient,
            chaos_client::ChaosClient, mocks_client::MocksClient, proxies_client::ProxiesClient,
            recordings_client::RecordingsClient, replays_client::ReplaysClient,
            scenarios_client::ScenariosClient, state_client::StateClient,
            verification_client::VerificationClient, webhooks_client::WebhooksClient,
        },
    },
    gateway,
    net::tls::{ClientTls, ClientTlsOptions, connect_tls},
};

/// Long enough for a loaded machine, short enough to wait for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A server of ours answers at once, if slowly under load.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Exports and subscriptions have no upper size of their own; one message of MQTT is up to 256 MiB.
const MESSAGE_MAX: usize = 512 << 20;

type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// Carries requests to a `Control`.
#[derive(Clone)]
pub struct Transport {
    inner: Inner,
    /// The one in this process that nobody else closes.
    control: Option<Control>,
}

impl Transport {
    /// To the server in this process.
    pub fn to_server(control: &Control) -> Self {
        let routes = ServiceExt::<Request<Body>>::map_err(
            gateway::routes(control.clone(), control::MESSAGE_MAX),
            never,
        );
        Self { inner: Inner::new(routes), control: None }
    }

    /// To a `Control` of its own, without a server. Has to be [closed](Self::close).
    pub fn alone(control: Control) -> Self {
        Self { control: Some(control.clone()), ..Self::to_server(&control) }
    }

    /// Makes what was done last: a store of our own is written and closed.
    pub async fn close(self) {
        if let Some(control) = self.control {
            control.close().await;
        }
    }

    /// Connects to the server that `--server` names, else to the one the settings say.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] when nothing answers there, or something else does.
    pub async fn connect(server: Option<&str>, config: &Config) -> Result<(Self, ServerInfo), Failure> {
        let place = match server {
            Some(address) => Place::named(address)?,
            None => Place::of_settings(config)?,
        };
        let address = place.to_string();
        let transport = Self::open(&place, config).await.map_err(|error| {
            let hint = match server {
                Some(_) if place.is_tls => {
                    "is it running, is that its HTTP or gRPC address, and does it speak TLS there?"
                }
                Some(_) => "is it running, and is that its HTTP or gRPC address?",
                None => "start one with `mockforge serve --mqtt`, or say where it is with --server",
            };
            Failure::new(
                Exit::Unreachable,
                anyhow::anyhow!("no server answers on {address} ({error:#}); {hint}"),
            )
        })?;
        let info = transport.info().await.map_err(|status| {
            let failure = Failure::from(status);
            let context = format!("what listens on {address} refuses to answer");
            // It said no, in whatever words: no server of ours can be asked there.
            Failure { exit: Exit::Unreachable, ..failure }.context(context)
        })?;
        Ok((transport, info))
    }

    /// Like [`connect`](Self::connect) without `--server`, `None` when no server of ours answers.
    ///
    /// # Errors
    /// When one does answer and refuses.
    pub async fn find(config: &Config) -> Result<Option<(Self, ServerInfo)>, Failure> {
        let Ok(place) = Place::of_settings(config) else { return Ok(None) };
        let Ok(transport) = Self::open(&place, config).await else { return Ok(None) };
        match transport.info().await {
            Ok(info) => Ok(Some((transport, info))),
            Err(status) if status.code() == tonic::Code::Unauthenticated => {
                Err(Failure::from(status).context(format!("the server on {place} refuses to answer")))
            }
            // Some other program has the port.
            Err(_) => Ok(None),
        }
    }

    /// Who answers; some other program might never.
    async fn info(&self) -> Result<ServerInfo, Status> {
        let mut admin = self.admin();
        match tokio::time::timeout(ANSWER_TIMEOUT, admin.get_server_info(GetServerInfoRequest {})).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }

    async fn open(place: &Place, config: &Config) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(place.url())?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let channel = if place.is_tls {
            let connector = tls_connector(config).await?;
            let connect = service_fn(move |uri: Uri| {
                let connector = connector.clone();
                async move { connect_tls(&connector, &uri).await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connect).await
        } else {
            endpoint.connect().await
        };
        let channel = channel.map_err(root_cause)?;
        if config.client_token.is_some() && !place.is_tls && !place.is_on_this_host() {
            warn!(%place, "the token is sent in clear: whoever is in between can read it; say https://");
        }
        let authorization = config
            .client_token
            .as_deref()
            .map(|token| HeaderValue::try_from(format!("Bearer {token}")))
            .transpose()
            .context("the API token can't be sent as a header")?;
        let channel = channel.map_err(BoxError::from).map_request(move |mut request: Request<Body>| {
            if let Some(authorization) = &authorization {
                request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            }
            request
        });
        Ok(Self { inner: Inner::new(channel), control: None })
    }

    pub fn admin(&self) -> AdminClient<Inner> {
        AdminClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn broker(&self) -> BrokerClient<Inner> {
        BrokerClient::new(self.inner.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    pub fn mocks(&self) -> MocksClient<Inner> {
        MocksClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn state(&self) -> StateClient<Inner> {
        StateClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn webhooks(&self) -> WebhooksClient<Inner> {
        WebhooksClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn proxies(&self) -> ProxiesClient<Inner> {
        ProxiesClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn chaos(&self) -> ChaosClient<Inner> {
        ChaosClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn verification(&self) -> VerificationClient<Inner> {
        VerificationClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn recordings(&self) -> RecordingsClient<Inner> {
        RecordingsClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn scenarios(&self) -> ScenariosClient<Inner> {
        ScenariosClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn replays(&self) -> ReplaysClient<Inner> {
        ReplaysClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }
}

fn never<T>(never: Infallible) -> T {
    match never {}
}

/// Where a server is, or should be.
struct Place {
    is_tls: bool,
    /// `host:port`.
    address: String,
}

impl Place {
    /// As it was typed, with or without a scheme.
    ///
    /// # Errors
    /// A scheme that is neither `http` nor `https`: taken for `http`, a slip would send the token in clear.
    fn named(text: &str) -> Result<Self, Failure> {
        let (is_tls, address) = match text.split_once("://") {
            Some((scheme, address)) if scheme.eq_ignore_ascii_case("https") => (true, address),
            Some((scheme, address)) if scheme.eq_ignore_ascii_case("http") => (false, address),
            Some((scheme, _)) => {
                return Err(Failure::usage(format!(
                    "--server: expected http:// or https://, found {scheme}://"
                )));
            }
            None => (false, text),
        };
        Ok(Self { is_tls, address: address.trim_end_matches('/').to_owned() })
    }

    /// Where the settings say a server of ours listens: gRPC, else HTTP, which answers gRPC as well.
    fn of_settings(config: &Config) -> Result<Self, Failure> {
        let listener = [&config.grpc, &config.http]
            .into_iter()
            .find(|listener| listener.enabled && listener.port != 0)
            .ok_or_else(|| Failure::usage("the settings name no fixed control port; say --server ADDR"))?;
        // A server on all addresses is on this host's own, too.
        let host = match listener.host.as_str() {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            host => host,
        };
        let address = ListenConfig { host: host.to_owned(), ..listener.clone() }.address();
        Ok(Self { is_tls: listener.tls.is_some(), address })
    }

    fn is_on_this_host(&self) -> bool {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https://" } else { "" };
        write!(f, "{scheme}{}", self.address)
    }
}

/// As `client.tls` says. Authorities that a server's own settings name are for its callers: one of those could pass for
/// the server.
async fn tls_connector(config: &Config) -> anyhow::Result<TlsConnector> {
    let of_folder = |path: &PathBuf| config.folder.join(path);
    let ClientTlsConfig { ca_path, certificate, insecure } = &config.client_tls;
    let options = ClientTlsOptions {
        ca_path: ca_path.as_ref().map(of_folder),
        certificate: certificate.as_ref().map(|(cert, key)| (of_folder(cert), of_folder(key))),
        insecure: *insecure,
        alpn: vec![b"h2".to_vec()],
    };
    if *insecure {
        warn!(
            "the server's certificate is not verified: whoever is in between can read and change everything"
        );
    }
    let tls = tokio::task::spawn_blocking(move || ClientTls::load(&options)).await??;
    Ok(TlsConnector::from(tls.config()))
}

/// tonic wraps "connection refused" three times over.
fn root_cause(error: tonic::transport::Error) -> anyhow::Error {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    anyhow::Error::msg(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_looked_for_on_this_host() {
        let mut config = Config::default();
        let place = |config: &Config| Place::of_settings(config).unwrap().to_string();
        assert_eq!(place(&config), "127.0.0.1:50051");
        config.grpc.host = "::".to_owned();
        assert_eq!(place(&config), "[::1]:50051");
        config.grpc.enabled = false;
        assert_eq!(place(&config), "127.0.0.1:3000");
    }

    #[test]
    fn a_server_is_named_with_or_without_a_scheme() {
        for (text, shown, url) in [
            ("a:1", "a:1", "http://a:1"),
            ("http://a:1", "a:1", "http://a:1"),
            ("https://a:1/", "https://a:1", "https://a:1"),
            ("HTTPS://a:1", "https://a:1", "https://a:1"),
        ] {
            let place = Place::named(text).unwrap();
            assert_eq!((place.to_string().as_str(), place.url().as_str()), (shown, url));
        }
        for text in ["htps://a:1", "grpcs://a:1", "://a:1"] {
            assert!(Place::named(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_in_clear_is_for_this_host() {
        for (text, expected) in [
            ("localhost:1", true),
            ("127.0.0.9:1", true),
            ("[::1]:1", true),
            ("10.0.0.1:1", false),
            ("localhost.example:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            assert_eq!(Place::named(text).unwrap().is_on_this_host(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn no_server_is_exit_code_3_and_says_what_to_do() {
        let mut config = Config::default();
        // Bound and dropped at once: a port that nobody listens on.
        config.grpc.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let failure = Transport::connect(None, &config).await.err().unwrap();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(format!("{:#}", failure.error).contains("mockforge serve --mqtt"), "{:#}", failure.error);
        assert!(Transport::find(&config).await.unwrap().is_none());
    }
}
