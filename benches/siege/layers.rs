//! The client's side of TLS and WebSocket, as far as attackers need it.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::Result;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Takes every server for the one it was to reach.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub fn tls() -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// What a client says first.
pub fn client_hello() -> Vec<u8> {
    let mut connection = ClientConnection::new(tls(), name()).expect("a good configuration");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("memory");
    hello
}

pub async fn handshake(config: Arc<ClientConfig>, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(config).connect(name(), stream).await
}

pub fn upgrade(address: SocketAddr) -> String {
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
}

/// Upgrades a connection and sends `packet` in a frame; what the first frame that comes back holds.
pub async fn ask(stream: &mut TcpStream, address: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(upgrade(address).as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let len = u8::try_from(packet.len()).ok().filter(|len| *len < 126).expect("short");
    // Masked by zeros.
    stream.write_all(&[&[0x82, 0x80 | len, 0, 0, 0, 0], packet].concat()).await?;
    let mut frame = [0; 2];
    stream.read_exact(&mut frame).await?;
    let mut answer = vec![0; frame[1].into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
