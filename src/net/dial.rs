//! Connections of our own to a broker, by its URL: TCP, and what is laid on it.

use std::{io, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::{net::TcpStream, task::spawn_blocking};
use tracing::warn;

use super::{
    listener::keep_alive,
    tls::{ClientTls, ClientTlsOptions, TlsError},
    transport::{Tls, Transport, WebSocket, WebSocketRequest, establish},
    url::{MqttUrl, Trust},
};

/// A broker that is gone without a word is noticed after twice that.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Connects, and does the handshakes that the URL asks for; whoever calls gives it a time.
///
/// # Errors
/// `InvalidInput` for files that cannot be used, `InvalidData` where a handshake fails, and what the system says.
pub(super) async fn dial(url: &MqttUrl) -> io::Result<Transport> {
    let tls = match url.scheme.has_tls() {
        false => None,
        true => {
            let name = ClientTls::server_name(&url.host).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no name of a server", url.host))
            })?;
            let tls =
                trusted(url).await.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            Some(Tls::Client(tls.config(), name))
        }
    };
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
    stream.set_nodelay(true)?;
    keep_alive(&SockRef::from(&stream), KEEPALIVE)?;
    let request = url
        .scheme
        .is_web_socket()
        .then(|| WebSocketRequest { host: url.authority(), path: url.path.clone() });
    if tls.is_none() && request.is_none() {
        return Ok(stream.into());
    }
    let layers = establish(&stream, tls, request.as_ref().map(WebSocket::Client), |_| {}).await?;
    Ok(Transport::layered(stream, layers))
}

/// Whether a broker can be reached at `url`, TLS and WebSocket included; whoever calls gives it a time.
///
/// # Errors
/// Why it cannot.
pub async fn reach(url: &MqttUrl) -> io::Result<()> {
    dial(url).await.map(drop)
}

/// Reads what `url` names, so that what is wrong with it is known before the first connection. All copies of the URL go by
/// what is returned, also when that is read again.
///
/// # Errors
/// The file, and what is wrong with it.
pub async fn prepare(url: &MqttUrl) -> Result<Option<Arc<ClientTls>>, TlsError> {
    match url.scheme.has_tls() {
        true => Ok(Some(Arc::clone(trusted(url).await?))),
        false => Ok(None),
    }
}

async fn trusted(url: &MqttUrl) -> Result<&Arc<ClientTls>, TlsError> {
    url.read.0.get_or_try_init(|| load(url.trust.clone())).await
}

async fn load(trust: Trust) -> Result<Arc<ClientTls>, TlsError> {
    let Trust { cafile, cert, key, insecure } = trust;
    if insecure {
        warn!("servers' certificates are not verified: whoever is in between can read and change everything");
    }
    let options =
        ClientTlsOptions { ca_path: cafile, certificate: cert.zip(key), insecure, alpn: Vec::new() };
    match spawn_blocking(move || ClientTls::load(&options)).await {
        Ok(loaded) => loaded.map(Arc::new),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
