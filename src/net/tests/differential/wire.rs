//! The stage of scripts on a server at an address: real sockets, and nothing known of what is
//! behind them.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    broker::tests::script::{Heard, Stage},
    net::tests::PATIENCE,
    packet::{Frame, ReasonCode},
    session::ApplicationMessage,
};

const PINGREQ: &[u8] = &[0xC0, 0];
const PINGRESP: &[u8] = &[0xD0, 0];

pub struct Wire {
    address: SocketAddr,
    connections: Vec<Connection>,
}

#[derive(Default)]
struct Connection {
    /// `None` once the script has broken it or the server has closed it.
    stream: Option<TcpStream>,
    /// What came since it was told last; begins with a packet.
    received: Vec<u8>,
    /// PINGREQ packets of the script since then.
    pings: usize,
    /// Whether the server has closed it since then.
    was_closed: bool,
}

impl Wire {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connections: Vec::new() }
    }
}

impl Connection {
    /// Waits until the server has handled everything it was sent, or has closed.
    ///
    /// A server answers packets in their order, so what they cause on this connection is there once
    /// PINGRESP is.
    fn settle(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        // A server that has closed is found out by reading.
        let _ = stream.write_all(PINGREQ);
        let mut buffer = [0; 4096];
        while pongs(&self.received).count() <= self.pings {
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                    panic!("the server neither answers nor closes: {error}")
                }
                Ok(_) | Err(_) => {
                    self.stream = None;
                    self.was_closed = true;
                    return;
                }
            }
        }
        // The last one is not for the script to hear.
        let at = pongs(&self.received).last().expect("one more than the script asked for");
        self.received.drain(at..at + PINGRESP.len());
    }

    /// What came, as far as packets are whole.
    fn take(&mut self) -> Vec<u8> {
        self.pings = 0;
        let whole = packets(&self.received).last().map_or(0, |(start, packet)| start + packet.len());
        let rest = self.received.split_off(whole);
        std::mem::replace(&mut self.received, rest)
    }
}

/// The whole packets that `bytes` begin with, and where each starts.
fn packets(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(start..)?;
        let packet = rest.get(..Frame::size(rest).ok()??)?;
        start += packet.len();
        Some((start - packet.len(), packet))
    })
}

/// Where PINGRESP packets start.
fn pongs(bytes: &[u8]) -> impl Iterator<Item = usize> {
    packets(bytes).filter(|(_, packet)| *packet == PINGRESP).map(|(start, _)| start)
}

impl Stage for Wire {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn open(&mut self) -> usize {
        let stream = TcpStream::connect(self.address).expect("the broker listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        self.connections.push(Connection { stream: Some(stream), ..Connection::default() });
        self.connections.len() - 1
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) {
        let connection = &mut self.connections[connection];
        connection.pings += usize::from(bytes == PINGREQ);
        if let Some(stream) = &mut connection.stream {
            // As above.
            let _ = stream.write_all(bytes);
        }
        // Before the others: what it causes for them is on its way then.
        connection.settle();
    }

    fn break_off(&mut self, connection: usize) {
        if let Some(stream) = self.connections[connection].stream.take() {
            // A server that closed first needs not to be told.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Twice round: what the end of a connection causes may come after the first PINGRESP.
    fn hear(&mut self) -> Vec<Heard> {
        for _ in 0..2 {
            self.connections.iter_mut().for_each(Connection::settle);
        }
        let told = self.connections.iter_mut().enumerate().map(|(number, connection)| Heard {
            connection: number,
            bytes: connection.take(),
            is_closed: std::mem::take(&mut connection.was_closed),
        });
        told.filter(|heard| heard.is_closed || !heard.bytes.is_empty()).collect()
    }

    fn set_stalled(&mut self, _: usize, _: bool) {
        panic!("how much a kernel buffers is not the broker's doing");
    }

    fn publish(&mut self, _: ApplicationMessage) {
        panic!("brokers have no control plane in common");
    }

    fn disconnect(&mut self, _: &str, _: ReasonCode) {
        panic!("brokers have no control plane in common");
    }

    fn shut_down(&mut self) {
        panic!("brokers have no control plane in common");
    }

    fn pass(&mut self, _: Duration) {
        panic!("time is real here");
    }
}
