//! Connections with layers over real sockets on 127.0.0.1, against each other and against sockets alone.

use std::{
    future::Future,
    io::{self, IoSlice, Write},
    net::Shutdown,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{PrivatePkcs8KeyDer, ServerName},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{ReadHalf, Tls, Transport, WebSocket, WebSocketOptions, WebSocketRequest, WriteHalf, establish};
use crate::net::tests::soon;

/// What is laid on TCP.
const LAYOUTS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

struct Trusted {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Trusted {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let provider = Arc::new(ring::default_provider());
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a key and its certificate");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { server: Arc::new(server), client: Arc::new(client) }
    }
}

fn offer() -> WebSocketOptions {
    WebSocketOptions { frame_max: 1 << 24, origins: Vec::new() }
}

fn request() -> WebSocketRequest {
    WebSocketRequest { host: "localhost".to_owned(), path: "/mqtt".to_owned() }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("a connection"), server.expect("a connection").0)
}

/// Both ends of a connection: the client's and the server's.
async fn pair(has_tls: bool, has_web_socket: bool) -> (Transport, Transport) {
    let trusted = Trusted::new();
    let (client, server) = sockets().await;
    let (offer, request) = (offer(), request());
    let name = ServerName::try_from("localhost").expect("a name");
    let layers = tokio::join!(
        establish(
            &client,
            has_tls.then_some(Tls::Client(trusted.client, name)),
            has_web_socket.then_some(WebSocket::Client(&request)),
            |_| {},
        ),
        establish(
            &server,
            has_tls.then_some(Tls::Server(trusted.server)),
            has_web_socket.then_some(WebSocket::Server(&offer)),
            |_| {},
        ),
    );
    let (of_client, of_server) = (layers.0.expect("a handshake"), layers.1.expect("a handshake"));
    (Transport::layered(client, of_client), Transport::layered(server, of_server))
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 131 % 251) as u8).collect()
}

/// All that comes, and how it ended.
async fn read_all(mut half: ReadHalf) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    let end = half.read_to_end(&mut all).await.map(drop);
    (all, end)
}

/// Each of `layouts`, one after the other.
async fn each<F: Future<Output = ()>>(mut check: impl FnMut(Transport, Transport) -> F) {
    for (has_tls, has_web_socket) in LAYOUTS {
        let (client, server) = soon(pair(has_tls, has_web_socket)).await;
        soon(check(client, server)).await;
    }
}

#[tokio::test]
async fn much_passes_both_ways_at_once_and_both_ends_learn_of_the_end() {
    each(|client, server| async move {
        let sent = bytes(3 << 20);
        let ends = [client, server].map(|end| {
            let sent = sent.clone();
            tokio::spawn(async move {
                let (read, write) = end.split();
                let writing = async {
                    for part in sent.chunks(100_003) {
                        write.write_all(part).await.expect("a peer that reads");
                    }
                    assert!(write.finish());
                };
                let ((), (received, end)) = tokio::join!(writing, read_all(read));
                end.expect("an end as it should be");
                assert!(received == sent);
            })
        });
        for end in ends {
            end.await.expect("no panic");
        }
    })
    .await;
}

/// Writes until nothing is taken any more; how much was.
fn fill(write: &WriteHalf, source: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        match write.try_write(&[IoSlice::new(&source[taken..]), IoSlice::new(b"")]) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer_and_gets_all_when_it_reads() {
    each(|client, server| async move {
        let (read, _write) = client.split();
        let (_read, write) = server.split();
        let sent = bytes(16 << 20);
        let taken = fill(&write, &sent);
        let polled =
            std::future::poll_fn(|context| Poll::Ready(write.poll_writable(context).is_ready())).await;
        assert!(!polled, "with bytes waiting there is no room");
        // All that was taken is on its way, whoever else writes nothing more.
        assert!(write.finish());
        let (received, end) = read_all(read).await;
        end.expect("an end as it should be");
        assert_eq!(received.len(), taken);
        assert!(received == sent[..taken]);
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_for_room_is_woken() {
    each(|client, server| async move {
        let (read, _write) = client.split();
        let (_read, write) = server.split();
        let sent = bytes(16 << 20);
        let taken = fill(&write, &sent);
        let reading = tokio::spawn(read_all(read));
        write.writable().await.expect("a peer that reads");
        assert!(fill(&write, &sent[taken..]) > 0);
        drop((write, _read));
        reading.await.expect("no panic").1.expect("an end as it should be");
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_seen_as_one() {
    each(|client, server| async move {
        let (read, write) = server.split();
        write.reset();
        drop(read);
        let (read, _write) = client.split();
        let (received, end) = read_all(read).await;
        assert_eq!(received.len(), 0);
        assert_eq!(end.expect_err("no orderly end").kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn who_reads_slowly_and_is_given_up_keeps_no_socket() {
    each(|client, server| async move {
        let (_read, write) = server.split();
        fill(&write, &bytes(16 << 20));
        drop((_read, write));
        // What the kernel had is read, and then there is an end, one way or the other.
        let (read, _write) = client.split();
        let _ = read_all(read).await;
    })
    .await;
}

/// The server's end of a WebSocket over plain TCP, and a client that writes what it likes.
async fn web_socket() -> (TcpStream, Transport) {
    let (mut client, server) = sockets().await;
    let offer = offer();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    let sent = [request.as_bytes(), b"\x82\x82\0\0\0\0hi"].concat();
    client.write_all(&sent).await.expect("a server that reads");
    let layers =
        establish(&server, None, Some(WebSocket::Server(&offer)), |_| {}).await.expect("a handshake");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("an answer"));
    }
    (client, Transport::layered(server, layers))
}

#[tokio::test]
async fn what_was_sent_along_with_the_request_is_read() {
    let (_client, server) = soon(web_socket()).await;
    let (mut read, _write) = server.split();
    let mut two = [0; 2];
    soon(read.read_exact(&mut two)).await.expect("two bytes");
    assert_eq!(&two, b"hi");
}

#[tokio::test]
async fn pongs_that_nobody_reads_stop_the_reading() {
    let (client, server) = soon(web_socket()).await;
    SockRef::from(&client).set_recv_buffer_size(1).expect("a small buffer");
    let (mut read, _write) = server.split();
    let ping = [&b"\x89\xFD\0\0\0\0"[..], &[b'x'; 125]].concat();
    let pings = ping.repeat(1000);
    let mut sink = [0; 4096];
    assert_eq!(soon(read.read(&mut sink)).await.expect("what came first"), 2);
    let reading = tokio::spawn(async move { read.read(&mut sink).await });
    // Far more than what may wait: at some time the server's receive buffer is full, too.
    let mut sent = 0;
    let writing = async {
        loop {
            sent += client.try_write(&pings).unwrap_or(0);
            match tokio::time::timeout(Duration::from_millis(500), client.writable()).await {
                Ok(writable) => writable.expect("a server that is there"),
                Err(_) => return,
            }
        }
    };
    soon(writing).await;
    assert!(sent < 64 << 20, "{sent} bytes of pings were read");
    reading.abort();
}

#[tokio::test]
async fn a_text_frame_ends_the_connection_with_its_status() {
    let (mut client, server) = soon(web_socket()).await;
    let (mut read, write) = server.split();
    client.write_all(b"\x81\x81\0\0\0\0x").await.expect("a server that reads");
    let mut sink = [0; 64];
    assert_eq!(soon(read.read(&mut sink)).await.expect("what came first"), 2);
    let error = soon(read.read(&mut sink)).await.expect_err("refused");
    assert_eq!(error.to_string(), "a WebSocket text frame: MQTT is sent in binary ones");
    let mut close = [0; 4];
    soon(client.read_exact(&mut close)).await.expect("a Close frame");
    assert_eq!(close, [0x88, 2, 0x03, 0xEB]);
    drop((read, write));
    assert_eq!(soon(client.read(&mut sink)).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_close_frame_is_an_end_and_is_answered() {
    let (mut client, server) = soon(web_socket()).await;
    let (mut read, write) = server.split();
    client.write_all(b"\x88\x82\0\0\0\0\x03\xE8").await.expect("a server that reads");
    let mut sink = [0; 64];
    assert_eq!(soon(read.read(&mut sink)).await.expect("what came first"), 2);
    assert_eq!(soon(read.read(&mut sink)).await.expect("the end"), 0);
    assert!(write.finish());
    let mut rest = Vec::new();
    soon(client.read_to_end(&mut rest)).await.expect("an end as it should be");
    assert_eq!(rest, [0x88, 2, 0x03, 0xE8]);
}

#[tokio::test]
async fn what_is_no_tls_is_told_so() {
    let trusted = Trusted::new();
    let (mut client, server) = sockets().await;
    client.write_all(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0").await.expect("a server that reads");
    let refused = establish(&server, Some(Tls::Server(trusted.server)), None, |_| {});
    let error = soon(refused).await.err().expect("refused");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    server.into_std().expect("a socket").shutdown(Shutdown::Write).expect("open");
    let mut alert = Vec::new();
    soon(client.read_to_end(&mut alert)).await.expect("an end as it should be");
    // A fatal alert, of TLS 1.2 as far as its record says.
    assert_eq!((alert[0], alert[5]), (0x15, 2));
}

#[tokio::test]
async fn what_follows_the_end_of_tls_is_nothing() {
    let trusted = Trusted::new();
    let (client, server) = sockets().await;
    let name = ServerName::try_from("localhost").expect("a name");
    let accepted = establish(&server, Some(Tls::Server(trusted.server)), None, |_| {});
    let client = client.into_std().expect("a socket");
    let sending = tokio::task::spawn_blocking(move || {
        let mut client = client;
        client.set_nonblocking(false).expect("a socket");
        let mut tls = rustls::ClientConnection::new(trusted.client, name).expect("a good configuration");
        tls.complete_io(&mut client).expect("a handshake");
        tls.writer().write_all(b"the last").expect("room");
        tls.send_close_notify();
        let mut sent = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut sent).expect("room");
        }
        // More than is read of TLS at once.
        sent.resize(sent.len() + 12_000, 0x17);
        client.write_all(&sent).expect("a server that reads");
        client
    });
    let layers = soon(accepted).await.expect("a handshake");
    let _client = soon(sending).await.expect("no panic");
    let (read, _write) = Transport::layered(server, layers).split();
    let (received, end) = soon(read_all(read)).await;
    end.expect("an end as it should be");
    assert_eq!(received, b"the last");
}

#[tokio::test]
async fn behind_our_own_end_nothing_is_answered() {
    let (mut client, server) = soon(web_socket()).await;
    let (mut read, write) = server.split();
    assert!(write.finish());
    let ping = [&b"\x89\xFD\0\0\0\0"[..], &[b'x'; 125]].concat();
    client.write_all(&ping.repeat(2000)).await.expect("a server that reads");
    client.shutdown().await.expect("open");
    let mut received = Vec::new();
    soon(read.read_to_end(&mut received)).await.expect("an end as it should be");
    assert_eq!(received, b"hi");
    let mut rest = Vec::new();
    soon(client.read_to_end(&mut rest)).await.expect("an end as it should be");
    assert_eq!(rest, [0x88, 2, 0x03, 0xE8]);
}

#[tokio::test]
async fn frames_without_end_that_bring_nothing_give_others_their_turn() {
    let (client, server) = soon(web_socket()).await;
    let Transport::Layered(layered) = &server else { panic!("a WebSocket") };
    let layered = Arc::clone(layered);
    let mut buffer = [0; 4096];
    let first = std::future::poll_fn(|context| layered.poll_read(context, &mut buffer));
    assert_eq!(soon(first).await.expect("what came first"), 2);
    let empty = b"\x82\x80\0\0\0\0".repeat(100_000);
    let mut sent = 0;
    while sent < empty.len() {
        match client.try_write(&empty[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent > 2 * super::layered::TURN_BYTES, "{sent} bytes");
    soon(layered.tcp().readable()).await.expect("a socket");
    let is_pending =
        std::future::poll_fn(|context| Poll::Ready(layered.poll_read(context, &mut buffer).is_pending()))
            .await;
    assert!(is_pending);
    let mut byte = [std::mem::MaybeUninit::uninit()];
    assert_eq!(SockRef::from(layered.tcp()).peek(&mut byte).expect("bytes that were left for later"), 1);
}

#[tokio::test]
async fn what_came_before_a_mistake_counts() {
    let (mut client, server) = soon(web_socket()).await;
    let (mut read, _write) = server.split();
    client.write_all(b"\x82\x83\0\0\0\0all\x81\x81\0\0\0\0x").await.expect("a server that reads");
    let mut received = Vec::new();
    let error = soon(read.read_to_end(&mut received)).await.expect_err("a text frame");
    assert_eq!((&received[..], error.kind()), (&b"hiall"[..], io::ErrorKind::InvalidData));
}
