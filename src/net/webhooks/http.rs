//! The HTTP client that webhooks and scenarios send through.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, uri::Scheme};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::{
    sync::OnceCell,
    task::spawn_blocking,
    time::{timeout, timeout_at},
};

use crate::webhook::Authorities;

/// How long a connection is kept for the next request: less than servers usually keep theirs.
const IDLE: Duration = Duration::from_secs(30);

/// Connections kept to one receiver: as many requests as one webhook may send at the same time.
const IDLE_CONNECTIONS: usize = 64;

/// Bytes of an answer's head; servers allow clients 8 to 64 KiB.
const HEAD_MAX: usize = 64 << 10;

/// Of an answer's body, so much is read, and waited for so long, to use the connection again.
const DRAINED_MAX: usize = 64 << 10;
const DRAIN_WAIT: Duration = Duration::from_millis(200);

pub type SecureClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Sends requests.
pub struct Http {
    plain: Client<HttpConnector, Full<Bytes>>,
    /// Trusts whom the system trusts; made at the first request that needs it.
    secure: OnceCell<SecureClient>,
    /// Of an answer's body.
    kept: usize,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Of the body, about as many bytes as are kept.
    pub beginning: Bytes,
}

impl Http {
    /// Keeps so many bytes of an answer's body.
    pub fn new(kept: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { plain: builder().build(connector), secure: OnceCell::new(), kept }
    }

    /// Sends a request, once, and reads the beginning of what is answered. `secure` is for receivers with authorities
    /// of their own.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        secure: Option<&SecureClient>,
        patience: Duration,
    ) -> Result<Answer, String> {
        let deadline = tokio::time::Instant::now() + patience;
        let exchange = async {
            let response = self.request(request, secure).await?;
            let (head, mut body) = response.into_parts();
            let beginning = read_beginning(&mut body, self.kept).await;
            let beginning =
                beginning.map_err(|error| format!("in the body of the answer: {}", explain(&error)))?;
            Ok::<_, String>((Answer { status: head.status, headers: head.headers, beginning }, body))
        };
        let (answer, rest) = match timeout_at(deadline, exchange).await {
            Ok(exchanged) => exchanged?,
            Err(_) => return Err(format!("no answer within {} ms", patience.as_millis())),
        };
        // When it fails, the connection is closed, and that is all.
        let _ = timeout(DRAIN_WAIT, drain(rest)).await;
        Ok(answer)
    }

    async fn request(
        &self,
        request: Request<Bytes>,
        secure: Option<&SecureClient>,
    ) -> Result<Response<Incoming>, String> {
        let is_secure = request.uri().scheme() == Some(&Scheme::HTTPS);
        let request = request.map(Full::new);
        let response = match (is_secure, secure) {
            (false, _) => self.plain.request(request).await,
            (true, Some(secure)) => secure.request(request).await,
            (true, None) => self.secure.get_or_try_init(trusting_the_system).await?.request(request).await,
        };
        response.map_err(|error| explain(&error))
    }
}

/// Trusts these authorities, and no other.
pub(super) fn trusting(authorities: &Authorities) -> SecureClient {
    secure_client(authorities.roots().clone())
}

async fn trusting_the_system() -> Result<SecureClient, String> {
    let loaded =
        spawn_blocking(rustls_native_certs::load_native_certs).await.map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    // The system's may hold some that are too old to be understood.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let why = loaded.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("the system has no certificates of authorities{why}; ca_file may name some"));
    }
    Ok(secure_client(roots))
}

fn secure_client(roots: RootCertStore) -> SecureClient {
    // Named here, as a process has one default, and whoever uses this library may have set another.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers for all versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .wrap_connector(connector);
    builder().build(connector)
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .http1_max_buf_size(HEAD_MAX);
    builder
}

async fn read_beginning(body: &mut Incoming, kept: usize) -> Result<Bytes, hyper::Error> {
    let mut beginning = BytesMut::new();
    while beginning.len() < kept
        && let Some(frame) = body.frame().await
    {
        if let Some(data) = frame?.data_ref() {
            beginning.extend_from_slice(&data[..data.len().min(kept - beginning.len())]);
        }
    }
    Ok(beginning.freeze())
}

async fn drain(mut body: Incoming) {
    let mut drained = 0;
    while drained < DRAINED_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        drained += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// An error with its causes, without those that say nothing.
fn explain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(why) = untrusted(error) {
            return why;
        }
        let text = error.to_string();
        // Wrappers often print what they wrap; this client's own says no more than that it failed.
        if !error.is::<hyper_util::client::legacy::Error>() && texts.last() != Some(&text) {
            texts.push(text);
        }
        next = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

/// What TLS says, which I/O errors wrap, maybe each other.
fn untrusted(error: &(dyn Error + 'static)) -> Option<String> {
    let mut innermost = error;
    while let Some(inner) = innermost.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        innermost = inner;
    }
    Some(match innermost.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the receiver's certificate is of an authority that is not trusted; ca_file may name it"
                .to_owned()
        }
        other => format!("TLS: {other}"),
    })
}
