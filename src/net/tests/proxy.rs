//! The proxy between raw sockets, and before our own broker.

use socket2::SockRef;
use tokio::net::TcpListener;

use super::*;
use crate::{
    interceptor::Interception,
    net::{ClientError, ProxyEvent, ProxyHandle, ProxyOptions, spawn_proxy},
    packet::ReasonCode,
    recording::{CloseCause, Direction},
    relay::RelayLimits,
    tap::Observed,
};

pub(super) struct TestProxy {
    pub(super) address: SocketAddr,
    handle: ProxyHandle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tap: Tap,
    events: Arc<Mutex<Vec<ProxyEvent>>>,
    pub(super) chaos: Chaos,
}

impl TestProxy {
    pub(super) fn start(upstream: SocketAddr) -> Self {
        Self::start_under("[]", upstream)
    }

    pub(super) fn start_under(rules: &str, upstream: SocketAddr) -> Self {
        Self::start_with(rules, upstream, ConnectionLimits { total: 100, ..Default::default() })
    }

    pub(super) fn start_with(rules: &str, upstream: SocketAddr, connections: ConnectionLimits) -> Self {
        let (chaos, watch) = chaos(rules);
        let listener = bind("127.0.0.1", 0).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (metrics, tap) = (Arc::new(Metrics::new()), Tap::new());
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let options = ProxyOptions {
            interception: Box::new(Interception::default),
            chaos: watch,
            upstream: url(upstream),
            admission: Admission::new(connections),
            upstream_timeout: PATIENCE,
            connect_timeout: PATIENCE,
            threads: 2,
            guests: None,
            gate: Gate::open_already(),
            limits: RelayLimits { hold: 1000, record: 100_000 },
            tap: tap.clone(),
            metrics: Arc::clone(&metrics),
            on_event: Box::new(move |event| told.lock().expect("no panic").push(event)),
        };
        let handle = spawn_proxy(vec![listener], options).expect("threads");
        Self { address, handle, metrics, tap, events, chaos }
    }

    async fn client(&self, name: &str, protocol: ProtocolVersion) -> Client {
        soon(Client::connect(ClientOptions { protocol, ..options(self.address, name) })).await.expect(name)
    }
}

/// A proxy, a client of it and what the upstream sees of that client.
async fn between() -> (TestProxy, Raw, Raw) {
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy = TestProxy::start(upstream.local_addr().expect("bound"));
    let client = Raw::connect(proxy.address).await;
    let (server, _) = soon(upstream.accept()).await.expect("the proxy connects");
    (proxy, client, Raw::new(server))
}

/// Bytes of packets, one of them longer than what is held, and one that is no packet at the end.
fn stream_of(first: ControlPacket, direction_is_up: bool) -> Vec<u8> {
    let encode = |packet| Frame::encode(packet, ProtocolVersion::V311).expect("encodes").bytes;
    let mut stream = encode(first).to_vec();
    for size in [0, 10, 5000, 3, 120_000, 1] {
        let message = publish("a/topic", QoS::AtMostOnce, vec![b'x'; size]);
        stream.extend_from_slice(&encode(ControlPacket::Publish(message)));
        stream.extend_from_slice(if direction_is_up { b"\xc0\x00" } else { b"\xd0\x00" });
    }
    stream.extend_from_slice(b"\x30\xff\xff\xff\xff\xff and what follows");
    stream
}

#[tokio::test]
async fn both_directions_carry_exactly_the_bytes_that_were_sent_whatever_the_pieces() {
    let connack = ControlPacket::Connack(crate::packet::Connack {
        session_present: false,
        reason_code: ReasonCode::SUCCESS,
        properties: Properties::new(),
    });
    let up = stream_of(connect("dev", ProtocolVersion::V311), true);
    let down = stream_of(connack, false);
    for is_observed in [false, true] {
        for piece in [1 << 20, 4096, 997, 61] {
            let (proxy, mut client, mut server) = between().await;
            let log = Arc::new(Log::default());
            let attachment = is_observed.then(|| proxy.tap.attach(log.clone()));
            // The CONNECT first: a server says nothing before it.
            let size = Frame::size(&up).expect("a packet").expect("whole");
            client.write(&up[..size]).await;
            assert_eq!(server.read(size).await, up[..size]);
            let (mut client_read, mut client_write) = client.stream.split();
            let (mut server_read, mut server_write) = server.stream.split();
            let (mut arrived_up, mut arrived_down) = (Vec::new(), Vec::new());
            let send = async |to: &mut (dyn tokio::io::AsyncWrite + Unpin), bytes: &[u8]| {
                for part in bytes.chunks(piece) {
                    to.write_all(part).await.expect("written");
                    tokio::task::yield_now().await;
                }
                to.shutdown().await.expect("shut down");
            };
            soon(async {
                tokio::join!(
                    send(&mut client_write, &up[size..]),
                    send(&mut server_write, &down),
                    async { server_read.read_to_end(&mut arrived_up).await.expect("FIN") },
                    async { client_read.read_to_end(&mut arrived_down).await.expect("FIN") },
                )
            })
            .await;
            assert!(arrived_up == up[size..], "client to server, pieces of {piece}, observed: {is_observed}");
            assert!(arrived_down == down, "server to client, pieces of {piece}, observed: {is_observed}");
            until(|| proxy.handle.clients().is_empty().then_some(())).await;
            if let Some(attachment) = attachment {
                drop(attachment);
                let log = log.take();
                for (wanted, all) in [(Direction::ClientToServer, &up), (Direction::ServerToClient, &down)] {
                    let seen: Vec<u8> = log
                        .iter()
                        .filter_map(|seen| match &seen.what {
                            Observed::Packet { direction, bytes } | Observed::Raw { direction, bytes }
                                if *direction == wanted =>
                            {
                                Some(bytes.to_vec())
                            }
                            _ => None,
                        })
                        .flatten()
                        .collect();
                    assert!(seen == *all, "{wanted:?} in pieces of {piece}");
                }
            }
            let view = proxy.metrics.view().await;
            assert_eq!((view.published, view.delivered), ([6, 0, 0], [6, 0, 0]));
            assert_eq!((view.bytes_received, view.bytes_sent), (up.len() as u64, down.len() as u64));
        }
    }
}

#[tokio::test]
async fn an_unreachable_upstream_gets_the_client_a_connack_and_an_event() {
    let free = bind("127.0.0.1", 0).expect("a free port").local_addr().expect("bound");
    let proxy = TestProxy::start(free);
    let log = Arc::new(Log::default());
    let attachment = proxy.tap.attach(log.clone());
    for protocol in [ProtocolVersion::V5, ProtocolVersion::V311] {
        let refused = Client::connect(ClientOptions { protocol, ..options(proxy.address, "dev") });
        match soon(refused).await {
            Err(ClientError::Refused { reason_code, .. }) => {
                assert_eq!(reason_code, ReasonCode::SERVER_UNAVAILABLE);
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("connected to nobody"),
        }
    }
    assert_eq!(proxy.handle.stats().upstream_failures, 2);
    let events = proxy.events.lock().expect("no panic").clone();
    assert_eq!(events.len(), 2);
    assert!(matches!(&events[0], ProxyEvent::UpstreamUnreachable { error, .. } if error.contains("refused")));
    until(|| proxy.handle.clients().is_empty().then_some(())).await;
    drop(attachment);
    let packets = log.take().into_iter().filter(|seen| matches!(seen.what, Observed::Packet { .. })).count();
    assert_eq!(packets, 4, "CONNECT and CONNACK, twice");
}

#[tokio::test]
async fn a_half_closed_client_still_hears_the_server() {
    let (_proxy, mut client, mut server) = between().await;
    client.write(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev").await;
    soon(client.stream.shutdown()).await.expect("shut down");
    assert_eq!(server.read_to_end().await.len(), 17);
    server.write(b"\x20\x02\x00\x00").await;
    assert_eq!(client.read(4).await, b"\x20\x02\x00\x00");
    drop(server);
    assert_eq!(client.read_to_end().await, b"");
}

#[tokio::test]
async fn a_reset_by_one_side_is_a_reset_for_the_other_and_the_cause_is_seen() {
    for client_resets in [true, false] {
        let (proxy, mut client, mut server) = between().await;
        let log = Arc::new(Log::default());
        let attachment = proxy.tap.attach(log.clone());
        client.write(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev").await;
        server.read(17).await;
        let (resetting, mut other, cause) = match client_resets {
            true => (client, server, CloseCause::ClientRst),
            false => (server, client, CloseCause::ServerRst),
        };
        SockRef::from(&resetting.stream).set_linger(Some(Duration::ZERO)).expect("set");
        drop(resetting);
        let error = soon(other.stream.read_u8()).await.expect_err("the other side is gone");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        until(|| proxy.handle.clients().is_empty().then_some(())).await;
        let seen = until(|| {
            let log = log.0.lock().expect("no panic");
            log.iter().find_map(|seen| match seen.what {
                Observed::Close(cause) => Some(cause),
                _ => None,
            })
        });
        assert_eq!(seen.await, cause);
        drop(attachment);
    }
}

#[tokio::test]
async fn what_was_held_of_a_packet_is_reported_whoever_ends_the_connection() {
    for client_resets in [true, false] {
        let (proxy, mut client, mut server) = between().await;
        let log = Arc::new(Log::default());
        let attachment = proxy.tap.attach(log.clone());
        let connect = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev";
        // A part of a PUBLISH goes with it: once CONNECT is through, that was read, too.
        client.write(&[&connect[..], b"\x30\x20\x00\x01aPART"].concat()).await;
        server.read(17).await;
        let resetting = if client_resets { client } else { server };
        SockRef::from(&resetting.stream).set_linger(Some(Duration::ZERO)).expect("set");
        drop(resetting);
        until(|| proxy.handle.clients().is_empty().then_some(())).await;
        let raw = log.take().iter().find_map(|seen| match &seen.what {
            Observed::Raw { bytes, .. } => Some(bytes.clone()),
            _ => None,
        });
        assert_eq!(raw.as_deref(), Some(&b"\x30\x20\x00\x01aPART"[..]), "client resets: {client_resets}");
        drop(attachment);
    }
}

#[tokio::test]
async fn what_a_server_says_last_arrives_though_the_client_was_still_sending() {
    let (_proxy, mut client, mut server) = between().await;
    client.write(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev").await;
    server.read(17).await;
    server.write(b"\x20\x02\x00\x05").await;
    drop(server);
    assert_eq!(client.read(4).await, b"\x20\x02\x00\x05");
    client.write(&[0; 1000]).await;
    assert_eq!(client.read_to_end().await, b"");
}

#[tokio::test]
async fn no_more_is_read_than_the_other_side_takes() {
    let (_proxy, client, server) = between().await;
    let chunk = vec![0; 64 << 10];
    // The kernel's buffers of both connections are finite, and the proxy's are small: a writer that
    // nobody reads from has to stop.
    const MORE_THAN_ANY_KERNEL_KEEPS: usize = 256 << 20;
    let mut written = 0;
    loop {
        match client.stream.try_write(&chunk) {
            Ok(count) => written += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let room = tokio::time::timeout(Duration::from_millis(300), client.stream.writable()).await;
                if room.is_err() {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(written < MORE_THAN_ANY_KERNEL_KEEPS, "it buffers without limit");
    }
    drop(server);
}

#[tokio::test]
async fn clients_and_their_subscriptions_are_seen_and_can_be_disconnected() {
    let broker = TestBroker::new();
    let proxy = TestProxy::start(broker.address);
    let mut one = proxy.client("one", ProtocolVersion::V5).await;
    let two = proxy.client("two", ProtocolVersion::V311).await;
    soon(one.subscribe(filters("b/#", QoS::AtLeastOnce), Properties::new())).await.expect("granted");
    soon(one.subscribe(filters("a", QoS::AtMostOnce), Properties::new())).await.expect("granted");
    let mut names: Vec<_> = proxy
        .handle
        .clients()
        .into_iter()
        .map(|client| (client.identity.expect("sent").client_identifier, client.subscriptions))
        .collect();
    names.sort();
    assert_eq!(names, [("one".to_owned(), 2), ("two".to_owned(), 0)]);
    let filters: Vec<_> = proxy.handle.subscriptions().into_iter().map(|granted| granted.filter).collect();
    assert_eq!(filters, ["a", "b/#"]);
    assert_eq!(proxy.metrics.view().await.subscriptions_active, 2);
    let receipt = soon(two.publish(publish("b/c", QoS::ExactlyOnce, &b"hi"[..]))).await.expect("sent");
    assert_eq!(soon(receipt.acked()).await.expect("acked"), ReasonCode::SUCCESS);
    assert_eq!(&soon(one.next_message()).await.expect("a message").payload[..], b"hi");
    assert!(proxy.handle.disconnect("one", ReasonCode::ADMINISTRATIVE_ACTION));
    assert!(!proxy.handle.disconnect("nobody", ReasonCode::ADMINISTRATIVE_ACTION));
    match soon(one.next_message()).await {
        Err(ClientError::Disconnected { reason_code, .. }) => {
            assert_eq!(reason_code, ReasonCode::ADMINISTRATIVE_ACTION);
        }
        other => panic!("{other:?}"),
    }
    until(|| (proxy.handle.clients().len() == 1).then_some(())).await;
    assert_eq!(proxy.metrics.view().await.subscriptions_active, 0);
    soon(proxy.handle.shut_down()).await;
    assert!(soon(two.ping()).await.is_err());
}
