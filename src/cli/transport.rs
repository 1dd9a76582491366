//! The way to a [`Control`](crate::control): a running server's port, or one in this process.
//!
//! Both carry the generated clients, so a command is written once.

use std::{convert::Infallible, time::Duration};

use anyhow::Context;
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body, transport::Endpoint};
use tower::{BoxError, ServiceExt, util::BoxCloneSyncService};

use super::exit::{Exit, Failure};
use crate::{
    config::{Config, ListenConfig},
    control::{
        Control,
        pb::{
            GetServerInfoRequest, ServerInfo, admin_client::AdminClient, broker_client::BrokerClient,
            chaos_client::ChaosClient, mocks_client::MocksClient, recordings_client::RecordingsClient,
            replays_client::ReplaysClient, state_client::StateClient, webhooks_client::WebhooksClient,
        },
    },
    gateway,
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
        let routes = ServiceExt::<Request<Body>>::map_err(gateway::routes(control.clone()), never);
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
        let address = match server {
            Some(address) => address.to_owned(),
            None => control_address(config)?,
        };
        let transport = Self::open(&address, config.api_token.as_deref()).await.map_err(|error| {
            let hint = if server.is_some() {
                "is it running, and is that its HTTP or gRPC address?"
            } else {
                "start one with `mockforge serve --mqtt`, or say where it is with --server"
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
        let Ok(address) = control_address(config) else { return Ok(None) };
        let Ok(transport) = Self::open(&address, config.api_token.as_deref()).await else { return Ok(None) };
        match transport.info().await {
            Ok(info) => Ok(Some((transport, info))),
            Err(status) if status.code() == tonic::Code::Unauthenticated => {
                Err(Failure::from(status).context(format!("the server on {address} refuses to answer")))
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

    async fn open(address: &str, token: Option<&str>) -> anyhow::Result<Self> {
        let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let channel = Endpoint::from_shared(url)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(root_cause)?;
        let authorization = token
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

    pub fn chaos(&self) -> ChaosClient<Inner> {
        ChaosClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn recordings(&self) -> RecordingsClient<Inner> {
        RecordingsClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    pub fn replays(&self) -> ReplaysClient<Inner> {
        ReplaysClient::new(self.inner.clone()).max_decoding_message_size(MESSAGE_MAX)
    }
}

fn never<T>(never: Infallible) -> T {
    match never {}
}

/// Where the settings say a server of ours listens: gRPC, else HTTP, which answers gRPC as well.
fn control_address(config: &Config) -> Result<String, Failure> {
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
    Ok(ListenConfig { host: host.to_owned(), ..listener.clone() }.address())
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
        assert_eq!(control_address(&config).unwrap(), "127.0.0.1:50051");
        config.grpc.host = "::".to_owned();
        assert_eq!(control_address(&config).unwrap(), "[::1]:50051");
        config.grpc.enabled = false;
        assert_eq!(control_address(&config).unwrap(), "127.0.0.1:3000");
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
