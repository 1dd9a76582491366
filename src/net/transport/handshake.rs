//! How TLS and WebSocket are laid on a TCP connection, from either end.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection, pki_types::ServerName,
};
use tokio::net::TcpStream;

use super::{
    channel::{Channel, Tcp, invalid},
    frames::{Frames, Role},
    layered::Layers,
    upgrade::{self, WebSocketOptions, WebSocketRequest},
};

/// Which end of TLS we are.
pub(in crate::net) enum Tls {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

/// And of WebSocket.
pub(in crate::net) enum WebSocket<'a> {
    Server(&'a WebSocketOptions),
    Client(&'a WebSocketRequest),
}

/// Does the handshakes that are asked for; whoever calls gives them a time. The certificates that the peer has shown can be
/// looked at with `seen`.
///
/// # Errors
/// `InvalidData` with what the peer did wrong, which it was told if its protocol has a word for it.
pub(in crate::net) async fn establish(
    tcp: &TcpStream,
    tls: Option<Tls>,
    web_socket: Option<WebSocket<'_>>,
    seen: impl FnOnce(&Connection),
) -> io::Result<Layers> {
    let mut channel = match tls {
        None => Channel::Plain,
        Some(tls) => {
            let mut connection = match tls {
                Tls::Server(config) => ServerConnection::new(config).map(Connection::from),
                Tls::Client(config, name) => ClientConnection::new(config, name).map(Connection::from),
            }
            .map_err(|error| invalid(&error))?;
            shake_hands(tcp, &mut connection).await?;
            seen(&connection);
            Channel::tls(connection)
        }
    };
    let Some(web_socket) = web_socket else { return Ok(Layers::new(channel, None, Vec::new())) };
    let (frames, early) = match web_socket {
        WebSocket::Server(offer) => {
            let early = upgrade::accept(tcp, &mut channel, offer).await?;
            (Frames::new(Role::Server, offer.frame_max), early)
        }
        WebSocket::Client(request) => {
            let early = upgrade::request(tcp, &mut channel, request).await?;
            (Frames::new(Role::Client, u64::MAX), early)
        }
    };
    Ok(Layers::new(channel, Some(frames), early))
}

async fn shake_hands(tcp: &TcpStream, tls: &mut Connection) -> io::Result<()> {
    loop {
        write_all(tcp, tls).await?;
        if !tls.is_handshaking() {
            return Ok(());
        }
        match tls.read_tls(&mut Tcp(tcp)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tcp.readable().await?;
                continue;
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = tls.process_new_packets() {
            // What went wrong matters more than whether the peer could be told.
            let _ = write_all(tcp, tls).await;
            return Err(invalid(&error));
        }
    }
}

async fn write_all(tcp: &TcpStream, tls: &mut Connection) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut Tcp(tcp)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
