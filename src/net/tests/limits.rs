//! What connections beyond a limit get, at the broker and at a proxy.

use tokio::{net::TcpSocket, task::LocalSet};

use super::{
    interception::{CONNACK, CONNECT, Relays, send, settle},
    proxy::TestProxy,
    *,
};
use crate::{net::pipe::End, packet::ReasonCode};

/// A broker, or a proxy in front of one, that admits `connections`.
struct Door {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    _broker: TestBroker,
    _proxy: Option<TestProxy>,
}

impl Door {
    fn both(connections: ConnectionLimits) -> [Self; 2] {
        let broker = TestBroker::start_under("[]", Limits::default(), connections);
        let behind = TestBroker::new();
        let proxy = TestProxy::start_with("[]", behind.address, connections);
        let (address, metrics) = (broker.address, Arc::clone(&broker.metrics));
        let of_broker = Self { address, metrics, _broker: broker, _proxy: None };
        let (address, metrics) = (proxy.address, Arc::clone(&proxy.metrics));
        [of_broker, Self { address, metrics, _broker: behind, _proxy: Some(proxy) }]
    }

    /// A connection from `source`, an address of the loopback network.
    async fn connect_from(&self, source: &str) -> Raw {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(source.parse().expect(source), 0)).expect("an address of this host");
        Raw::new(soon(socket.connect(self.address)).await.expect("a connection"))
    }
}

/// What a client is answered by CONNACK; it says nothing else.
async fn answer(raw: &mut Raw, name: &str, protocol: ProtocolVersion) -> ReasonCode {
    raw.frames.set_protocol(protocol);
    raw.send(super::connect(name, protocol), protocol).await;
    match raw.packet().await {
        Some(ControlPacket::Connack(connack)) => connack.reason_code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_address_beyond_its_limit_is_told_so_while_others_are_admitted() {
    for door in Door::both(ConnectionLimits { total: 100, per_address: 1, ..Default::default() }) {
        let mut first = door.connect_from("127.0.0.1").await;
        assert_eq!(answer(&mut first, "first", ProtocolVersion::V5).await, ReasonCode::SUCCESS);
        let mut second = door.connect_from("127.0.0.1").await;
        assert_eq!(answer(&mut second, "second", ProtocolVersion::V5).await, ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(second.read_to_end().await, b"");
        let mut older = door.connect_from("127.0.0.1").await;
        let refused = answer(&mut older, "older", ProtocolVersion::V311).await;
        assert_eq!(refused, ReasonCode::SERVER_UNAVAILABLE);
        let mut other = door.connect_from("127.0.0.2").await;
        assert_eq!(answer(&mut other, "other", ProtocolVersion::V5).await, ReasonCode::SUCCESS);
        assert_eq!(door.metrics.view().await.connections_refused, 2);
        // What ended makes room.
        drop(first);
        soon(async {
            let mut again = door.connect_from("127.0.0.1").await;
            while answer(&mut again, "again", ProtocolVersion::V5).await != ReasonCode::SUCCESS {
                again = door.connect_from("127.0.0.1").await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn clients_beyond_the_rate_are_told_so() {
    for door in Door::both(ConnectionLimits { rate: 1, ..Default::default() }) {
        let mut answers = Vec::new();
        // However slow this machine is, they do not come at one a second.
        let mut clients = Vec::new();
        for _ in 0..60 {
            clients.push(door.connect_from("127.0.0.1").await);
        }
        for (number, client) in clients.iter_mut().enumerate() {
            answers.push(answer(client, &format!("client-{number}"), ProtocolVersion::V5).await);
        }
        assert_eq!(answers[0], ReasonCode::SUCCESS);
        assert!(answers.contains(&ReasonCode::CONNECTION_RATE_EXCEEDED));
        answers.retain(|answer| *answer != ReasonCode::CONNECTION_RATE_EXCEEDED);
        assert!(answers.iter().all(|answer| *answer == ReasonCode::SUCCESS), "{answers:?}");
    }
}

#[tokio::test]
async fn beyond_those_that_are_told_connections_are_closed_at_once() {
    for door in Door::both(ConnectionLimits { total: 0, ..Default::default() }) {
        let mut told = Vec::new();
        for _ in 0..64 {
            told.push(door.connect_from("127.0.0.1").await);
        }
        let mut beyond = door.connect_from("127.0.0.1").await;
        assert_eq!(beyond.read_to_end().await, b"");
        let last = told.last_mut().expect("some");
        assert_eq!(answer(last, "last", ProtocolVersion::V5).await, ReasonCode::QUOTA_EXCEEDED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxied_client_without_a_connect_in_time_is_cut_off() {
    let test = async {
        let relays = Relays::new();
        let ((silent, _), (slow, _)) = (relays.open().await, relays.open().await);
        let ((foreign, _), (served, server)) = (relays.open().await, relays.open().await);
        // Whether that is welcome, the server says.
        send(&foreign, b"\x00GET").await;
        send(&served, CONNECT).await;
        for byte in &CONNECT[..CONNECT.len() - 1] {
            send(&slow, &[*byte]).await;
            tokio::time::advance(PATIENCE / CONNECT.len() as u32).await;
        }
        assert!(slow.take().1.is_none(), "there is time left");
        tokio::time::advance(PATIENCE / 10).await;
        settle().await;
        assert_eq!((silent.take().1, slow.take().1), (Some(End::Fin), Some(End::Fin)));
        relays.answer(server, CONNACK).await;
        assert_eq!(served.take().0, CONNACK);
        assert_eq!(foreign.take().1, None);
    };
    LocalSet::new().run_until(test).await;
}
