//! What callers can't make us do: every limit at its edge, and that others are served meanwhile.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;

/// A server on a port.
struct Served {
    _server: Server,
    address: SocketAddr,
    _serving: JoinHandle<()>,
}

impl Served {
    async fn start(access: Access, limits: ApiLimits) -> Self {
        let server = Server::start_with(access, limits);
        let port = port().await;
        let address = port.listener.local_addr().unwrap();
        let serving = serve(server.gateway.clone(), Some(port), None, std::future::pending());
        Self { _server: server, address, _serving: tokio::spawn(serving) }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The status line of the answer to a request in this text, on a connection of its own.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        status_line(&mut stream).await
    }
}

/// Empty when the connection ends.
async fn status_line(stream: &mut TcpStream) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => line.push(byte[0]),
            _ => return String::new(),
        }
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

/// Waits for the other side to close.
async fn ended(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut rest).await;
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

fn post(path: &str, length: usize, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
}

const OK: &str = "HTTP/1.1 200 OK";
const HEALTH: &str = "/__mockforge/health";
const PUBLISH: &str = "/__mockforge/mqtt/publish";

fn limits(change: impl FnOnce(&mut ApiLimits)) -> ApiLimits {
    let mut limits = ApiLimits::default();
    change(&mut limits);
    limits
}

#[tokio::test]
async fn a_body_has_a_longest_length() {
    let limit = 2048;
    let served = Served::start(Access::default(), limits(|limits| limits.body_bytes = limit)).await;
    let body = |length: usize| format!("{:<length$}", r#"{"topic": "t"}"#);
    assert_eq!(served.ask(&post(PUBLISH, limit, &body(limit))).await, OK);
    let too_long = "HTTP/1.1 413 Payload Too Large";
    assert_eq!(served.ask(&post(PUBLISH, limit + 1, &body(limit + 1))).await, too_long);
    // Refused for its length alone.
    assert_eq!(served.ask(&post(PUBLISH, 1 << 40, "")).await, too_long);
    let chunk = body(limit + 1);
    let chunked = format!(
        "POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n",
        chunk.len()
    );
    assert_eq!(served.ask(&chunked).await, too_long);
}

#[tokio::test]
async fn an_import_has_a_longest_length() {
    let server = Server::start_with(Access::default(), limits(|limits| limits.import_bytes = 1024));
    let import = "/__mockforge/recordings:import?name=a&format=json";
    let (status, _, message) = server.refusal("POST", import, vec![b' '; 1024]).await;
    assert_eq!(status, 400, "{message}");
    let (status, reason, _) = server.refusal("POST", import, vec![b' '; 1025]).await;
    assert_eq!((status, reason.as_str()), (413, "FILE_TOO_LONG"));
}

#[tokio::test]
async fn imports_have_a_greatest_length_together() {
    let server = Server::start_with(Access::default(), limits(|limits| limits.import_bytes = 1024));
    let import = "/__mockforge/recordings:import?name=a&format=json";
    let (pieces, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let first = server.refusal("POST", import, body);
    let meanwhile = async {
        // All but the last few have been taken when the last is sent.
        for _ in 0..300 {
            soon(pieces.send(Ok(Bytes::from_static(b" ")))).await.unwrap();
        }
        let (status, reason, _) = server.refusal("POST", import, vec![b' '; 1000]).await;
        assert_eq!((status, &*reason), (503, "IMPORTS_TOO_LONG"));
        drop(pieces);
    };
    let ((status, _, message), ()) = tokio::join!(first, meanwhile);
    assert_eq!(status, 400, "{message}");
    // What they had is given back.
    let (status, _, message) = server.refusal("POST", import, vec![b' '; 1024]).await;
    assert_eq!(status, 400, "{message}");
}

#[tokio::test]
async fn a_head_has_a_longest_length_and_most_lines() {
    let served = Served::start(Access::default(), limits(|limits| limits.headers = 20)).await;
    let lines = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    assert_eq!(served.ask(&get(HEALTH, &lines(19))).await, OK);
    let too_large = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(served.ask(&get(HEALTH, &lines(20))).await, too_large);
    let limit = ApiLimits::default().header_bytes;
    let long = |length: usize| format!("x: {}\r\n", "y".repeat(length));
    assert_eq!(served.ask(&get(HEALTH, &long(limit - 1024))).await, OK);
    let answer = served.ask(&get(HEALTH, &long(limit + 1024))).await;
    assert!(answer == too_large || answer.is_empty(), "{answer}");
}

#[tokio::test]
async fn connections_are_counted_and_given_back() {
    let served = Served::start(Access::default(), limits(|limits| limits.connections = 2)).await;
    let (mut one, mut two) = (served.connect().await, served.connect().await);
    for stream in [&mut one, &mut two] {
        stream.write_all(get(HEALTH, "").as_bytes()).await.unwrap();
        assert_eq!(status_line(stream).await, OK);
    }
    ended(served.connect().await).await;
    drop(one);
    let again = async {
        while served.ask(&get(HEALTH, "")).await != OK {
            tokio::task::yield_now().await;
        }
    };
    soon(again).await;
}

#[tokio::test]
async fn calls_are_counted_and_given_back_with_their_answer() {
    let one = |limits: &mut ApiLimits| (limits.requests, limits.streaming_requests) = (1, 1);
    let server = Server::start_with(Access::default(), limits(one));
    let stream = server.send("GET", "/__mockforge/events", "").await;
    let (status, _) = server.json("GET", "/__mockforge/events", "").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    // Those that stream keep nobody from the others.
    let answer = server.send("GET", "/__mockforge/info", "").await;
    let (status, _) = server.json("GET", "/__mockforge/info", "").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    // Whether it lives can be asked all the same.
    server.ok("GET", HEALTH, "").await;
    drop((stream, answer));
    server.ok("GET", "/__mockforge/info", "").await;
    drop(server.send("GET", "/__mockforge/events", "").await);
}

#[tokio::test]
async fn readers_take_at_most_half_of_the_calls() {
    let callers = [("eyes", "read", "r"), ("ci", "control", "c")];
    let limits = limits(|limits| (limits.requests, limits.streaming_requests) = (4, 4));
    let server = Server::start_with(tokens(&callers), limits);
    let ask = async |path: &str, token: &str| {
        let request = Request::get(format!("http://localhost:3000{path}"));
        let request = request.header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap();
        server.gateway.http().oneshot(request).await.unwrap()
    };
    for path in ["/__mockforge/events", "/__mockforge/info"] {
        let mut held = Vec::new();
        for (token, expected) in [("r", 200), ("r", 200), ("r", 429), ("c", 200), ("c", 200), ("c", 429)] {
            let answer = ask(path, token).await;
            assert_eq!(answer.status().as_u16(), expected, "{path} {token}");
            if expected == 200 {
                held.push(answer);
            }
        }
    }
    let figures = text(ask("/__mockforge/metrics", "r").await).await;
    assert!(figures.contains("mockforge_api_refused_total{reason=\"too_many_calls\"} 4\n"), "{figures}");
}

/// A connection with health's Watch under way, which needs no token; over HTTP/1, where nothing else ends it.
async fn watch_health(served: &Served) -> TcpStream {
    let mut stream = served.connect().await;
    let head =
        "POST /grpc.health.v1.Health/Watch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\n";
    // One message, of no bytes.
    let request = format!("{head}Content-Length: 5\r\n\r\n\0\0\0\0\0");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status_line(&mut stream).await, OK);
    stream
}

#[tokio::test]
async fn strangers_keep_nobody_out_who_has_a_token() {
    let callers = [("ops", "admin", "a")];
    let served = Served::start(tokens(&callers), limits(|limits| limits.connections = 8)).await;
    let mut own = served.connect().await;
    let info = get("/__mockforge/info", "Authorization: Bearer a\r\n");
    own.write_all(info.as_bytes()).await.unwrap();
    assert_eq!(status_line(&mut own).await, OK);
    let mut watches = Vec::new();
    for _ in 0..8 {
        watches.push(watch_health(&served).await);
        assert_eq!(served.ask(&info).await, OK);
        assert_eq!(served.ask(&get(HEALTH, "")).await, OK);
    }
    // The oldest of them had to go, and the one who had shown a token had not.
    ended(watches.swap_remove(0)).await;
    let mut rest = Vec::new();
    own.write_all(get("/__mockforge/info", "Authorization: Bearer a\r\nConnection: close\r\n").as_bytes())
        .await
        .unwrap();
    own.read_to_end(&mut rest).await.unwrap();
    assert!(rest.windows(OK.len()).any(|line| line == OK.as_bytes()), "{}", rest.escape_ascii());
}

#[tokio::test(start_paused = true)]
async fn a_stranger_watches_health_for_a_while_only() {
    let served = Served::start(tokens(&[("ops", "admin", "a")]), ApiLimits::default()).await;
    let long = ApiLimits::default().idle_timeout * 2;
    let watch = watch_health(&served).await;
    assert!(tokio::time::timeout(long, ended(watch)).await.is_ok());
    // Where nobody needs a token nobody is a stranger.
    let open = Served::start(Access::default(), ApiLimits::default()).await;
    let watch = watch_health(&open).await;
    assert!(tokio::time::timeout(long, ended(watch)).await.is_err());
}

#[tokio::test]
async fn tokens_that_are_taken_back_end_what_they_began() {
    let access = tokens(&[("ops", "admin", "a"), ("ci", "control", "c")]);
    let in_force = access.tokens.clone();
    let served = Served::start(access, ApiLimits::default()).await;
    let mut stream = served.connect().await;
    let events = get("/__mockforge/events", "Authorization: Bearer c\r\n");
    stream.write_all(events.as_bytes()).await.unwrap();
    assert_eq!(status_line(&mut stream).await, OK);
    in_force.set((*tokens(&[("ops", "admin", "a")]).tokens.get()).clone());
    ended(stream).await;
    assert_eq!(served.ask(&events).await, "HTTP/1.1 401 Unauthorized");
    assert_eq!(served.ask(&get("/__mockforge/info", "Authorization: Bearer a\r\n")).await, OK);
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_or_says_it_slowly_is_let_go() {
    let served = Served::start(Access::default(), ApiLimits::default()).await;
    let silent = served.connect().await;
    let mut half = served.connect().await;
    half.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut preface = served.connect().await;
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut idle = served.connect().await;
    idle.write_all(get(HEALTH, "").as_bytes()).await.unwrap();
    assert_eq!(status_line(&mut idle).await, OK);
    for stream in [silent, half, preface, idle] {
        ended(stream).await;
    }
    assert_eq!(served.ask(&get(HEALTH, "")).await, OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let served = Served::start(Access::default(), ApiLimits::default()).await;
    assert_eq!(served.ask(&post(PUBLISH, 100, "{")).await, "HTTP/1.1 408 Request Timeout");
    let import = "/__mockforge/recordings:import?name=a";
    assert_eq!(served.ask(&post(import, 100, "{")).await, "HTTP/1.1 400 Bad Request");
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_of_an_answer_is_let_go() {
    let served = Served::start(Access::default(), ApiLimits::default()).await;
    let mut stream = served.connect().await;
    let index = get("/__mockforge", "");
    // Asks on without reading until nothing goes in any more, and then for good.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_secs(1), stream.write_all(index.as_bytes())).await
    {
        if written.is_err() {
            return;
        }
    }
    while stream.write_all(b"x").await.is_ok() {}
}

#[tokio::test]
async fn a_message_over_grpc_has_a_longest_length() {
    let limit = 4096;
    let served = Served::start(Access::default(), limits(|limits| limits.message_bytes = limit)).await;
    let channel = tonic::transport::Endpoint::new(format!("http://{}", served.address)).unwrap();
    let mut broker = pb::broker_client::BrokerClient::new(channel.connect().await.unwrap());
    let publish = |payload: usize| pb::PublishRequest {
        topic: "t".to_owned(),
        payload: vec![b'x'; payload].into(),
        ..Default::default()
    };
    // Tag and length of the topic and of the payload.
    let beside = prost::Message::encoded_len(&publish(limit)) - limit;
    broker.publish(publish(limit - beside)).await.unwrap();
    assert_eq!(broker.publish(publish(limit - beside + 1)).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn calls_on_one_connection_are_counted() {
    let served = Served::start(Access::default(), limits(|limits| limits.streams = 2)).await;
    let channel = tonic::transport::Endpoint::new(format!("http://{}", served.address)).unwrap();
    let mut admin = pb::admin_client::AdminClient::new(channel.connect().await.unwrap());
    // The first answer says that the server's settings, with the limit, have arrived.
    admin.get_server_info(pb::GetServerInfoRequest {}).await.unwrap();
    let one = admin.watch_events(pb::WatchEventsRequest::default()).await.unwrap();
    let two = admin.watch_events(pb::WatchEventsRequest::default()).await.unwrap();
    let mut other = admin.clone();
    let mut third = std::pin::pin!(other.get_server_info(pb::GetServerInfoRequest {}));
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut third).is_pending());
        tokio::task::yield_now().await;
    }
    drop((one, two));
    third.await.unwrap();
}

#[tokio::test]
async fn nesting_is_as_deep_as_the_contract_and_payloads_as_they_are() {
    let server = Server::start();
    let deep = 1 << 20;
    let payload = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let body = format!(r#"{{"topic": "deep", "payload": {payload}}}"#);
    server.ok("POST", PUBLISH, body).await;
    let body = format!(r#"{{"topic": "deep", "properties": {payload}}}"#);
    let (status, reason, _) = server.refusal("POST", PUBLISH, body).await;
    assert_eq!((status, reason.as_str()), (400, "BAD_FIELD"));
    // No message holds one of its own kind, so what is read message by message has an end.
    let pool = pb::pool();
    for message in pool.all_messages().filter(|message| message.full_name().starts_with("mockforge.")) {
        let (mut below, mut seen) = (vec![message.clone()], std::collections::BTreeSet::new());
        while let Some(one) = below.pop() {
            for kind in one.fields().filter_map(|field| field.kind().as_message().cloned()) {
                assert_ne!(kind.full_name(), message.full_name());
                if seen.insert(kind.full_name().to_owned()) {
                    below.push(kind);
                }
            }
        }
    }
}

#[tokio::test]
async fn paths_are_taken_as_they_stand() {
    let server = Server::start();
    for path in [
        "/__mockforge/mqtt/../info",
        "/__mockforge/mqtt/%2e%2e/info",
        "/__mockforge//info",
        "//__mockforge/info",
        "/__mockforge/info/",
        "/__mockforge/info%00",
        "/__mockforge/%69nfo",
        "/__MOCKFORGE/info",
        "/__mockforge/info;a=b",
        "/__mockforge/recordings/x:export:stop:stop",
    ] {
        let (status, ..) = server.refusal("GET", path, "").await;
        assert!(status == 404 || status == 405, "{path}: {status}");
    }
    // An id is decoded once, and names nothing but a thing in a list.
    for id in ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "%252e%252e", "x%3Astop", &"a".repeat(8000)] {
        for (method, path) in [
            ("GET", format!("/__mockforge/recordings/{id}")),
            ("DELETE", format!("/__mockforge/recordings/{id}")),
            ("GET", format!("/__mockforge/recordings/{id}:export")),
            ("GET", format!("/__mockforge/mocks/{id}")),
            ("GET", format!("/__mockforge/webhooks/{id}")),
            ("GET", format!("/__mockforge/mqtt/clients/{id}")),
            ("GET", format!("/__mockforge/state/global/{id}")),
        ] {
            let (status, ..) = server.refusal(method, &path, "").await;
            assert!(status == 404 || status == 400, "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn pages_have_a_largest_size() {
    let server = Server::start();
    let listed = server.ok("GET", "/__mockforge/mqtt/clients?page_size=4294967295", "").await;
    assert_eq!(listed["total_size"], 0);
}
