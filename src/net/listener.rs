//! Listening sockets, and what to do when accepting fails.

use std::{
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Connections the kernel keeps until they are accepted: a fleet that reconnects all at once.
const BACKLOG: i32 = 1024;

/// How long to leave the listener alone when the system is out of descriptors or memory: until then
/// accepting would fail again at once, and spin.
const OUT_OF_RESOURCES_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket on `host`, which may be a name; port 0 takes a free one.
///
/// # Errors
/// What the system says, for the last address of `host` that was tried.
pub fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match bind_address(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn bind_address(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A server started again must not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Keeps clients waiting in the kernel's backlog until it is opened, so that what has to be there
/// first (a recording of everything) is there before the first of them.
#[derive(Clone, Debug, Default)]
pub struct Gate(CancellationToken);

impl Gate {
    /// A gate that was never shut.
    pub fn open_already() -> Self {
        let gate = Self::default();
        gate.open();
        gate
    }

    pub fn open(&self) {
        self.0.cancel();
    }

    pub async fn opened(&self) {
        self.0.cancelled().await;
    }
}

/// The next connection, with Nagle's algorithm off: what is written together is already one write.
///
/// Never fails: a connection that was gone before it was accepted is passed over, and a system
/// that is out of descriptors is given time.
pub async fn accept(listener: &tokio::net::TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Fails only for a connection that is gone already; reading will tell.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(OUT_OF_RESOURCES_PAUSE).await;
            }
        }
    }
}

/// Errors that accept(2) passes on from the connection it would have returned.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_0_takes_a_free_one_and_says_which() {
        let listener = bind("localhost", 0).expect("a free port");
        assert_ne!(listener.local_addr().expect("bound").port(), 0);
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let first = bind("127.0.0.1", 0).expect("a free port");
        let port = first.local_addr().expect("bound").port();
        assert_eq!(bind("127.0.0.1", port).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
