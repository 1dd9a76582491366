//! Listening sockets, who would come out at one, and what to do when accepting fails.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::url::MqttUrl;

/// Connections the kernel keeps until they are accepted: a fleet that reconnects all at once.
const BACKLOG: i32 = 1024;

/// How long to leave the listener alone when the system is out of descriptors or memory: until then
/// accepting would fail again at once, and spin.
const OUT_OF_RESOURCES_PAUSE: Duration = Duration::from_millis(100);

/// How long a name may take to be resolved at the start, where nobody waits for an answer yet.
const RESOLVING_MAX: Duration = Duration::from_secs(5);

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

/// Has the kernel notice peers that are gone without a word, among those that `listener` accepts: it asks after
/// `idle` and gives up after as long again. A peer that acknowledges nothing of what it was sent, or takes nothing of
/// it, is given up after `unacknowledged`. Zero leaves either to the system.
///
/// # Errors
/// What the system says.
pub fn watch_peers(listener: &TcpListener, idle: Duration, unacknowledged: Duration) -> io::Result<()> {
    // Who is accepted inherits it, so that it costs nothing for each.
    let socket = SockRef::from(listener);
    if !idle.is_zero() {
        keep_alive(&socket, idle)?;
    }
    #[cfg(target_os = "linux")]
    if !unacknowledged.is_zero() {
        socket.set_tcp_user_timeout(Some(unacknowledged))?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
    Ok(())
}

/// As [`watch_peers`], of one connection.
pub(super) fn keep_alive(socket: &SockRef<'_>, idle: Duration) -> io::Result<()> {
    const PROBES: u32 = 4;
    let interval = (idle / PROBES).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Whether who connects to `url` comes out at `listener`: a proxy there would be its own upstream.
///
/// A name that cannot be resolved now may be later, so it leads nowhere.
pub async fn leads_to(url: &MqttUrl, listener: SocketAddr) -> bool {
    if url.port != listener.port() {
        return false;
    }
    match timeout(RESOLVING_MAX, lookup_host((url.host.as_str(), url.port))).await {
        Ok(Ok(mut addresses)) => addresses.any(|address| accepts(listener.ip(), address.ip())),
        _ => false,
    }
}

/// Whether a listener on `listener` accepts what is sent to `target` on its port.
fn accepts(listener: IpAddr, target: IpAddr) -> bool {
    let (listener, target) = (listener.to_canonical(), target.to_canonical());
    if !listener.is_unspecified() {
        // Connecting to no address in particular is connecting to the loopback.
        return listener == target || (target.is_unspecified() && listener.is_loopback());
    }
    // One on all IPv6 addresses is on those of IPv4, too, unless the system was told otherwise.
    let is_of_family = target.is_ipv4() || listener.is_ipv6();
    is_of_family && (target.is_loopback() || target.is_unspecified() || is_ours(target))
}

/// Whether `address` is one of this host's. Nothing is sent: the kernel is asked for the address
/// that it would send from, which is the same one.
fn is_ours(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, DISCARD))?;
        socket.local_addr()
    };
    source().is_ok_and(|source| source.ip() == address)
}

/// A port to name where none matters.
const DISCARD: u16 = 9;

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

    #[cfg(target_os = "linux")]
    #[test]
    fn who_is_accepted_is_watched_as_the_listener_says() {
        let listener = bind("127.0.0.1", 0).expect("a free port");
        listener.set_nonblocking(false).expect("a socket");
        watch_peers(&listener, Duration::from_secs(60), Duration::from_secs(90)).expect("Linux can");
        let _client =
            std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (accepted, _) = listener.accept().expect("a client");
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().expect("a socket"));
        assert_eq!(socket.tcp_keepalive_time().expect("a socket"), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().expect("a socket"), Duration::from_secs(15));
        assert_eq!(socket.tcp_user_timeout().expect("a socket"), Some(Duration::from_secs(90)));
    }

    #[tokio::test]
    async fn a_url_that_leads_to_a_listener_is_found() {
        for (listener, url, leads) in [
            ("127.0.0.1:7", "mqtt://127.0.0.1:7", true),
            ("127.0.0.1:7", "mqtt://localhost:7", true),
            ("127.0.0.1:7", "mqtt://0.0.0.0:7", true),
            ("127.0.0.1:7", "mqtt://127.0.0.1:8", false),
            ("127.0.0.1:7", "mqtt://127.0.0.2:7", false),
            ("127.0.0.1:7", "mqtt://192.0.2.1:7", false),
            ("0.0.0.0:7", "mqtt://localhost:7", true),
            ("0.0.0.0:7", "mqtt://127.0.0.2:7", true),
            ("0.0.0.0:7", "mqtt://[::ffff:127.0.0.1]:7", true),
            ("0.0.0.0:7", "mqtt://[::1]:7", false),
            ("0.0.0.0:7", "mqtt://192.0.2.1:7", false),
            ("[::]:7", "mqtt://127.0.0.1:7", true),
            ("[::]:7", "mqtt://[::1]:7", true),
            ("[::]:7", "mqtt://name.invalid:7", false),
        ] {
            let url = url.parse().expect(url);
            assert_eq!(leads_to(&url, listener.parse().expect(listener)).await, leads, "{url} at {listener}");
        }
    }

    #[test]
    fn addresses_of_this_host_are_known() {
        assert!(is_ours(Ipv4Addr::LOCALHOST.into()));
        // Set aside for examples.
        assert!(!is_ours(Ipv4Addr::new(192, 0, 2, 1).into()));
    }
}
