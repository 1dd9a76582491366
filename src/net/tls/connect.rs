//! TCP with TLS to where a URL leads.

use std::io;

use http::Uri;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ClientTls, explain};

/// Connects to a URL's host, on port 443 if it says none.
///
/// # Errors
/// Why not, in words that say what can be done about it.
pub async fn connect_tls(connector: &TlsConnector, uri: &Uri) -> io::Result<TlsStream<TcpStream>> {
    let host = uri.host().unwrap_or_default();
    let name = ClientTls::server_name(host)
        .ok_or_else(|| io::Error::other(format!("{host} is no name of a server")))?;
    let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(443));
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    connector.connect(name, stream).await.map_err(|error| {
        let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        io::Error::other(of_tls.map_or_else(|| error.to_string(), explain))
    })
}
