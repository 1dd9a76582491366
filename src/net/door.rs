//! The door for clients that come in TLS or over WebSocket.
//!
//! Their handshakes are done on a thread of its own, each within a time, so that neither a signature nor a client that says
//! nothing holds up those that are being served. A [`Guest`] whose handshakes are done goes to the threads that serve.

use std::{
    cell::RefCell,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::Connection;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{LocalSet, spawn_local},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    admission::{Admission, Pass, Refused},
    listener::{Gate, accept},
    local_thread,
    tls::ServerTls,
    transport::{Layers, Tls, Transport, WebSocket, WebSocketOptions, establish, transport_name},
};
use crate::{metrics::Metrics, tap::Way};

/// Guests on their way to the threads that serve: further ones wait at the door.
const GUESTS_WAITING: usize = 256;

/// Handshakes that fail and are told in a second; of more, only how many they were.
const TOLD_A_SECOND: u32 = 10;

/// A listener, and what is laid on what it accepts.
pub struct Entrance {
    pub listener: TcpListener,
    pub tls: Option<Arc<ServerTls>>,
    pub web_socket: Option<WebSocketOptions>,
}

impl Entrance {
    /// With the port in use.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }
}

/// The user name that a client has proved by its certificate, if that is asked for.
pub type Identify = Box<dyn Fn(&Connection) -> Option<Box<str>> + Send>;

pub struct DoorOptions {
    /// Who may come in at all.
    pub admission: Arc<Admission>,
    /// For all handshakes of a client together.
    pub handshake_timeout: Duration,
    /// Nobody is accepted before it is open.
    pub gate: Gate,
    pub metrics: Arc<Metrics>,
    pub identify: Identify,
    /// The broker's address, for clients' ways through a proxy.
    pub upstream: Option<String>,
}

/// A client whose handshakes are done.
pub struct Guest {
    pub(super) socket: GuestSocket,
    pub(super) peer: SocketAddr,
    pub(super) way: Arc<Way>,
    /// See [`DoorOptions::identify`].
    pub(super) identity: Option<Box<str>>,
    pub(super) accepted_at: Instant,
    pub(super) pass: Pass,
}

/// A socket that is registered nowhere, and what lies on it.
pub(super) struct GuestSocket {
    tcp: std::net::TcpStream,
    layers: Layers,
}

impl GuestSocket {
    /// On the thread that serves it, in the context of its runtime.
    pub(super) fn into_transport(self) -> io::Result<Transport> {
        Ok(Transport::layered(TcpStream::from_std(self.tcp)?, self.layers))
    }
}

/// Where guests come out. The door is shut when it is dropped.
pub type Guests = mpsc::Receiver<Guest>;

/// Starts the thread that receives guests at `entrances`.
///
/// # Errors
/// When the system refuses a thread, or an event queue for it.
pub fn spawn_door(entrances: Vec<Entrance>, options: DoorOptions) -> io::Result<Guests> {
    let (guests, received) = mpsc::channel(GUESTS_WAITING);
    let (listeners, layers): (Vec<_>, Vec<_>) = entrances
        .into_iter()
        .map(|entrance| (entrance.listener, (entrance.tls, entrance.web_socket)))
        .unzip();
    local_thread::start("door".to_owned(), listeners, move |runtime, listeners| {
        let door = Rc::new(Door { options, guests, sparing: RefCell::default() });
        LocalSet::new().block_on(&runtime, async move {
            for (listener, (tls, web_socket)) in listeners.into_iter().zip(layers) {
                spawn_local(Rc::clone(&door).receive(listener, Layout { tls, web_socket }));
            }
            door.guests.closed().await;
        });
    })?;
    Ok(received)
}

struct Door {
    options: DoorOptions,
    guests: mpsc::Sender<Guest>,
    sparing: RefCell<Sparing>,
}

/// What is laid on a connection.
struct Layout {
    tls: Option<Arc<ServerTls>>,
    web_socket: Option<WebSocketOptions>,
}

impl Layout {
    fn name(&self) -> &'static str {
        transport_name(self.tls.is_some(), self.web_socket.is_some())
    }
}

impl Door {
    async fn receive(self: Rc<Self>, listener: tokio::net::TcpListener, layout: Layout) {
        let way = Arc::new(Way {
            listener: listener.local_addr().ok(),
            transport: layout.name(),
            upstream: self.options.upstream.clone(),
        });
        let layout = Rc::new(layout);
        self.options.gate.opened().await;
        loop {
            let (tcp, peer) = accept(&listener).await;
            let pass = match self.options.admission.admit(peer) {
                Ok(pass) => pass,
                Err(Refused { reason, .. }) => {
                    // Telling it so would take the handshakes that it is refused.
                    self.options.metrics.connection_refused();
                    debug!(%peer, reason = reason.name(), "a connection is refused");
                    continue;
                }
            };
            let (door, layout, way) = (Rc::clone(&self), Rc::clone(&layout), Arc::clone(&way));
            spawn_local(async move { door.let_in(tcp, peer, &layout, way, pass).await });
        }
    }

    async fn let_in(&self, tcp: TcpStream, peer: SocketAddr, layout: &Layout, way: Arc<Way>, pass: Pass) {
        let tls = layout.tls.as_ref().map(|tls| Tls::Server(tls.config()));
        let web_socket = layout.web_socket.as_ref().map(WebSocket::Server);
        let accepted_at = tokio::time::Instant::now().into_std();
        let mut identity = None;
        let seen = |connection: &Connection| identity = (self.options.identify)(connection);
        let established = timeout(self.options.handshake_timeout, establish(&tcp, tls, web_socket, seen));
        let layers = match established.await {
            Ok(Ok(layers)) => layers,
            Ok(Err(error)) => return self.refuse(peer, layout, &error),
            Err(_) => return self.refuse(peer, layout, &"it took too long"),
        };
        match tcp.into_std() {
            // Without anybody to serve it, the server is about to end.
            Ok(tcp) => {
                let socket = GuestSocket { tcp, layers };
                let _ = self.guests.send(Guest { socket, peer, way, identity, accepted_at, pass }).await;
            }
            Err(error) => warn!(%peer, %error, "cannot hand a connection over"),
        }
    }

    fn refuse(&self, peer: SocketAddr, layout: &Layout, error: &dyn std::fmt::Display) {
        self.options.metrics.connection_refused();
        let transport = layout.name();
        match self.sparing.borrow_mut().tell(Instant::now()) {
            Told::This => warn!(%peer, transport, %error, "a handshake failed"),
            Told::Others(count) => {
                warn!(%peer, transport, %error, unsaid = count, "a handshake failed, as did others");
            }
            Told::Nothing => debug!(%peer, transport, %error, "a handshake failed"),
        }
    }
}

/// Keeps whoever connects from filling the log.
#[derive(Default)]
struct Sparing {
    since: Option<Instant>,
    told: u32,
    unsaid: u64,
}

/// What is said of an event.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    This,
    /// That, and that so many before it were not told.
    Others(u64),
    Nothing,
}

impl Sparing {
    fn tell(&mut self, now: Instant) -> Told {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told == TOLD_A_SECOND {
            self.unsaid += 1;
            return Told::Nothing;
        }
        self.told += 1;
        match std::mem::take(&mut self.unsaid) {
            0 => Told::This,
            count => Told::Others(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_events_in_a_second_ten_are_told_and_later_how_many_were_not() {
        let mut sparing = Sparing::default();
        let now = Instant::now();
        let told: Vec<_> = (0..13).map(|_| sparing.tell(now)).collect();
        assert_eq!(told.iter().filter(|told| **told == Told::This).count(), 10);
        assert_eq!(told[10..], [Told::Nothing, Told::Nothing, Told::Nothing]);
        assert_eq!(sparing.tell(now + Duration::from_secs(1)), Told::Others(3));
        assert_eq!(sparing.tell(now + Duration::from_secs(1)), Told::This);
    }
}
