//! Whole servers in this process.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc, oneshot},
};

use super::*;
use crate::{
    config::{Flag, Sources},
    control::pb,
    net::{
        Client, ClientError, ClientOptions,
        tests::{
            sink::{Received, Reply, Sink, ok, status},
            soon,
        },
        tls::{DevelopmentCertificates, DevelopmentOptions, DevelopmentPair},
    },
    packet::{Properties, Publish, QoS, Subscription, SubscriptionOptions, TopicFilter, TopicName},
};

fn config(folder: &std::path::Path, more: &[(&'static str, String)]) -> Config {
    let flag = |key, value: String| Flag { key, name: "--test", value };
    let mut flags = vec![
        flag("mqtt.enabled", "true".to_owned()),
        flag("mqtt.host", "127.0.0.1".to_owned()),
        flag("mqtt.port", "0".to_owned()),
        flag("http.port", "0".to_owned()),
        flag("grpc.port", "0".to_owned()),
        flag("store.path", folder.to_str().expect("text").to_owned()),
    ];
    flags.extend(more.iter().map(|(key, value)| flag(key, value.clone())));
    Config::load(Sources { flags, ..Sources::default() }).expect("valid settings")
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn a_server_serves_mqtt_and_its_figures_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::bind(config(folder.path(), &[])).await.expect("free ports");
    let Addresses { mqtt: Some(mqtt), http: Some(http), grpc: Some(_), .. } = server.addresses() else {
        panic!("{:?}", server.addresses());
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async move { _ = stopped.await }));
    let mut client =
        Client::connect(ClientOptions::new(MqttUrl::of_listener(mqtt), "one")).await.expect("connected");
    let metrics = get(http, "/__mockforge/metrics").await;
    assert!(metrics.contains("\nmqtt_connections_total{status=\"active\"} 1\n"), "{metrics}");
    assert!(!folder.path().join("store").exists(), "the store is opened when it is first needed");
    stop.send(()).expect("it runs");
    assert!(matches!(client.next_message().await, Err(ClientError::Disconnected { .. })));
    running.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_proxy_is_a_server_with_an_upstream() {
    let folder = tempfile::tempdir().expect("a folder");
    let upstream = Server::bind(config(folder.path(), &[])).await.expect("free ports");
    let at = upstream.addresses().mqtt.expect("enabled");
    let settings = config(folder.path(), &[("mqtt.upstream", format!("mqtt://{at}"))]);
    let proxy = Server::bind(settings).await.expect("free ports");
    let url = MqttUrl::of_listener(proxy.addresses().mqtt.expect("enabled"));
    let control = upstream.control().clone();
    for server in [upstream, proxy] {
        tokio::spawn(server.run(std::future::pending()));
    }
    let client = Client::connect(ClientOptions::new(url, "through")).await.expect("connected");
    client.ping().await.expect("answered");
    let clients = control.list_clients(Default::default()).await.expect("a broker").clients;
    assert_eq!(clients[0].client_id, "through");
}

#[tokio::test]
async fn a_proxy_before_itself_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    // Not held: there is no way to name the port that port 0 takes.
    let port = bind("127.0.0.1", 0).expect("a free port").local_addr().expect("bound").port();
    let upstream = format!("mqtt://localhost:{port}");
    let settings =
        config(folder.path(), &[("mqtt.port", port.to_string()), ("mqtt.upstream", upstream.clone())]);
    let Err(error) = Server::bind(settings).await else { panic!("it would loop") };
    let says = "leads back to this proxy, which listens on";
    assert_eq!(error.to_string(), format!("mqtt.upstream: {upstream} {says} 127.0.0.1:{port}"));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = bind("127.0.0.1", 0).expect("a free port").local_addr().expect("bound");
    let _held = std::net::TcpListener::bind(taken).expect("still free");
    let settings = config(folder.path(), &[("mqtt.port", taken.port().to_string())]);
    let Err(error) = Server::bind(settings).await else { panic!("bound twice") };
    assert!(error.to_string().starts_with(&format!("cannot listen for MQTT on {taken}: ")), "{error}");
}

/// A running server.
struct Running {
    control: Control,
    url: MqttUrl,
    addresses: Addresses,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<io::Result<()>>,
    _folder: tempfile::TempDir,
}

impl Running {
    async fn start(settings: &[(&'static str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::bind(config(folder.path(), settings)).await.expect("free ports");
        let control = server.control().clone();
        let addresses = server.addresses();
        let url = MqttUrl::of_listener(addresses.mqtt.expect("enabled"));
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(server.run(async move { _ = stopped.await }));
        Self { control, url, addresses, stop, ended, _folder: folder }
    }

    async fn client(&self, client_identifier: &str) -> Client {
        Client::connect(ClientOptions::new(self.url.clone(), client_identifier)).await.expect("connected")
    }

    async fn webhook(&self, id: &str) -> pb::Webhook {
        self.control.get_webhook(pb::GetWebhookRequest { id: id.to_owned() }).await.expect("it is there")
    }

    async fn deliveries(&self, id: &str) -> Vec<pb::WebhookDelivery> {
        let request = pb::ListDeliveriesRequest { id: id.to_owned(), ..Default::default() };
        self.control.list_deliveries(request).await.expect("it is there").deliveries
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        soon(self.ended).await.expect("no panic").expect("no error");
    }
}

/// Publishes with QoS 1, and returns once that is acknowledged.
async fn publish(client: &Client, topic: &str, payload: &'static str) {
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Some(TopicName::parse(topic).expect("a topic")),
        packet_identifier: None,
        properties: Properties::new(),
        payload: payload.into(),
    };
    let receipt = client.publish(publish).await.expect("connected");
    soon(receipt.acked()).await.expect("acknowledged");
}

/// Topic and client identifier that a webhook was told.
fn told(request: &Received) -> (String, Option<String>) {
    let body: serde_json::Value = serde_json::from_str(&request.body).expect("JSON");
    (body["topic"].as_str().expect("text").to_owned(), body["client_id"].as_str().map(str::to_owned))
}

fn webhooks(yaml: &str) -> (&'static str, String) {
    ("mqtt.webhooks", yaml.to_owned())
}

#[tokio::test]
async fn the_guides_webhook_is_sent_the_documented_json() {
    let mut sink = Sink::start(|_| ok()).await;
    let guide = r#"
    - topic: "orders/+/created"
      url: "http://localhost:8080/webhook/order"
      method: POST
      headers:
        X-Source: "mqtt"
"#;
    let settings = guide.replace("http://localhost:8080/webhook/order", &sink.url);
    let server = Running::start(&[webhooks(&settings)]).await;
    let shop = server.client("shop").await;
    publish(&shop, "orders/7/cancelled", "{}").await;
    publish(&shop, "orders/7/created", r#"{"total":9.5}"#).await;
    let request = sink.next().await;
    assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!((request.header("x-source"), request.header("content-type")), ("mqtt", "application/json"));
    let (start, rest) = request.body.split_once(r#","timestamp":""#).expect("a time");
    assert_eq!(
        start,
        r#"{"topic":"orders/7/created","payload":{"total":9.5},"payload_encoding":"json","qos":1,"retain":false,"client_id":"shop""#
    );
    let time = rest.strip_suffix("\"}").expect("its end");
    assert!(
        time.len() == "2026-11-22T12:00:00.123Z".len() && time.parse::<jiff::Timestamp>().is_ok(),
        "{time}"
    );
    let webhook = server.webhook("webhook-1").await;
    assert!(webhook.from_settings && webhook.dropped == 0);
    drop(shop);
    server.stop().await;
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_holds_up_nobody_and_its_queue_is_bounded() {
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    let mut sink = Sink::start(move |_| Reply::Once(Arc::clone(&permits))).await;
    let settings = format!("[{{id: h, topic: 't/#', url: '{}', queue: 3}}]", sink.url);
    let server = Running::start(&[webhooks(&settings)]).await;
    let mut client = server.client("dev").await;
    let subscription = Subscription {
        filter: TopicFilter::parse("t/#").expect("a filter"),
        options: SubscriptionOptions::default(),
    };
    client.subscribe(vec![subscription], Properties::new()).await.expect("subscribed");
    publish(&client, "t/first", "x").await;
    sink.next().await;
    for _ in 0..20 {
        publish(&client, "t/more", "x").await;
    }
    for _ in 0..21 {
        soon(client.next_message()).await.expect("routed");
    }
    let webhook = soon(async {
        loop {
            let webhook = server.webhook("h").await;
            if webhook.dropped + webhook.queued == 21 {
                return webhook;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((webhook.delivered, webhook.dropped, webhook.queued), (0, 17, 4));
    let log = server.deliveries("h").await;
    assert!(log.iter().all(|delivery| delivery.state() == pb::DeliveryState::Pending), "{log:?}");
    let topics: Vec<&str> = log.iter().map(|delivery| &*delivery.topic).collect();
    assert_eq!(topics, ["t/more", "t/more", "t/more", "t/first"]);
    gate.add_permits(4);
    drop(client);
    let control = server.control.clone();
    // What waits is sent before the server ends.
    server.stop().await;
    let metrics = control.metrics_text().await;
    for line in [
        "mqtt_webhook_deliveries_total{webhook=\"h\",outcome=\"delivered\"} 4",
        "mqtt_webhook_deliveries_total{webhook=\"h\",outcome=\"dropped\"} 17",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn a_receiver_that_fails_or_is_down_is_told_of_and_holds_up_nobody() {
    let failing = Sink::start(|_| status("500 No")).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    let settings = format!(
        "[{{id: failing, topic: 't', url: '{}', retries: 1, backoff_ms: 1}}, \
         {{id: down, topic: 't', url: 'http://{closed}/', retries: 1, backoff_ms: 1}}]",
        failing.url
    );
    let server = Running::start(&[webhooks(&settings)]).await;
    let kinds = vec![pb::EventKind::Webhook.into()];
    let request = pb::WatchEventsRequest { kinds, ..Default::default() };
    let mut events = server.control.watch_events(request).await.expect("a stream");
    let client = server.client("dev").await;
    publish(&client, "t", "1").await;
    publish(&client, "t", "2").await;
    for _ in 0..4 {
        soon(events.next()).await.expect("it goes on").expect("an event");
    }
    for (id, status, error) in
        [("failing", Some(500), "answered 500 Internal Server Error"), ("down", None, "Connection refused")]
    {
        let log = server.deliveries(id).await;
        assert_eq!(log.len(), 2);
        for delivery in &log {
            let state = (delivery.state(), delivery.attempts, delivery.status);
            assert_eq!(state, (pb::DeliveryState::Failed, 2, status));
            assert!(delivery.error.contains(error), "{}", delivery.error);
        }
        let webhook = server.webhook(id).await;
        assert_eq!((webhook.failed, webhook.retried), (2, 2));
    }
    drop(client);
    server.stop().await;
}

/// Intercepts `ask` and publishes `answer`.
fn answering() -> (&'static str, String) {
    ("mqtt.mocks", "[{topic: ask, route: false, response: {topic: answer, payload: x}}]".to_owned())
}

#[tokio::test]
async fn a_mocks_answer_is_told_and_what_a_mock_keeps_is_not() {
    let mut sink = Sink::start(|_| ok()).await;
    let settings = format!("[{{id: h, topic: '#', url: '{}'}}]", sink.url);
    let server = Running::start(&[answering(), webhooks(&settings)]).await;
    let client = server.client("dev").await;
    publish(&client, "ask", "x").await;
    assert_eq!(told(&sink.next().await), ("answer".to_owned(), None));
    publish(&client, "other", "x").await;
    assert_eq!(told(&sink.next().await), ("other".to_owned(), Some("dev".to_owned())));
    drop(client);
    server.stop().await;
    assert!(sink.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_proxy_tells_of_what_passes_and_of_what_it_publishes() {
    let mut sink = Sink::start(|_| ok()).await;
    let upstream = Running::start(&[]).await;
    let settings = format!("[{{id: h, topic: '#', url: '{}'}}]", sink.url);
    let proxy =
        Running::start(&[("mqtt.upstream", upstream.url.to_string()), answering(), webhooks(&settings)])
            .await;
    let client = proxy.client("dev").await;
    publish(&client, "ask", "x").await;
    assert_eq!(told(&sink.next().await), ("answer".to_owned(), None));
    publish(&client, "other", "x").await;
    assert_eq!(told(&sink.next().await), ("other".to_owned(), Some("dev".to_owned())));
    let request =
        pb::PublishRequest { topic: "api".to_owned(), payload: "x".into(), qos: 1, ..Default::default() };
    proxy.control.publish(request).await.expect("published");
    assert_eq!(told(&sink.next().await), ("api".to_owned(), None));
    drop(client);
    proxy.stop().await;
    upstream.stop().await;
    assert!(sink.requests.try_recv().is_err());
}

/// An upstream that takes whoever comes, and says nothing of what they publish. What it reads goes to the receiver.
async fn silent_upstream() -> (String, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("mqtt://{}", listener.local_addr().expect("bound"));
    let (sender, read) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let sender = sender.clone();
            tokio::spawn(async move {
                stream.read_u8().await.expect("a CONNECT");
                stream.write_all(&[0x20, 3, 0, 0, 0]).await.expect("a CONNACK is sent");
                let mut buffer = Vec::new();
                while stream.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
                    // The test may be over.
                    let _ = sender.send(std::mem::take(&mut buffer));
                }
            });
        }
    });
    (url, read)
}

#[tokio::test]
async fn an_answer_that_is_not_acknowledged_does_not_keep_others() {
    let (upstream, mut read) = silent_upstream().await;
    let mocks =
        "[{id: m, topic: ask, route: false, response: {topic: answer, payload: x, qos: 1}}]".to_owned();
    let proxy = Running::start(&[("mqtt.upstream", upstream), ("mqtt.mocks", mocks)]).await;
    // Not even together do they wait as long as for acknowledgements of four.
    soon(async {
        for _ in 0..5 {
            let request = pb::FireMockRequest { id: "m".to_owned(), ..Default::default() };
            proxy.control.fire_mock(request).await.expect("it is there");
            while let Some(bytes) = read.recv().await
                && !bytes.windows(6).any(|window| window == b"answer")
            {}
        }
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_tried_once_for_a_batch() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = format!("mqtt://{}", listener.local_addr().expect("bound"));
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.expect("a connection"));
            count.fetch_add(1, SeqCst);
        }
    });
    let response = "{topic: answer, payload: x}";
    let mocks =
        format!("[{{id: m, topic: ask, mode: all, responses: [{response}, {response}, {response}]}}]");
    let proxy = Running::start(&[("mqtt.upstream", upstream), ("mqtt.mocks", mocks)]).await;
    let request = pb::FireMockRequest { id: "m".to_owned(), ..Default::default() };
    assert_eq!(proxy.control.fire_mock(request).await.expect("it is there").scheduled, 3);
    soon(async {
        let request = pb::GetMockRequest { id: "m".to_owned() };
        while proxy.control.get_mock(request.clone()).await.expect("it is there").failed < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(accepted.load(SeqCst), 1);
    proxy.stop().await;
}

#[test]
fn seeds_that_are_drawn_are_numbers_that_json_keeps() {
    for _ in 0..100 {
        let seed = drawn_seed();
        assert_eq!(seed as f64 as u64, seed);
        assert!(seed < 1 << 53);
    }
}

#[tokio::test]
async fn certificates_are_read_again_while_connections_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |force| {
        let options = DevelopmentOptions { folder: folder.path().to_owned(), force, ..Default::default() };
        DevelopmentCertificates::make(&options).expect("written")
    };
    let made = make(false);
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let settings = [
        ("mqtt.tls.enabled", "true".to_owned()),
        ("mqtt.tls.port", "0".to_owned()),
        ("mqtt.tls.cert_path", path(&made.server.cert_path)),
        ("mqtt.tls.key_path", path(&made.server.key_path)),
    ];
    let server = Server::bind(config(folder.path(), &settings)).await.expect("free ports");
    let control = server.control().clone();
    let port = server.addresses().mqtts.expect("TLS is on").port();
    let running = tokio::spawn(server.run(std::future::pending()));

    // Only this certificate is trusted, so whoever connects has seen it.
    let seen = folder.path().join("seen.crt");
    let connect = async |name: &str| {
        let url = format!("mqtts://127.0.0.1:{port}#cafile={}", path(&seen));
        Client::connect(ClientOptions::new(url.parse().expect("a URL"), name)).await
    };
    std::fs::copy(&made.server.cert_path, &seen).expect("copied");
    let open = connect("before").await.expect("connected");

    make(true);
    assert_eq!(control.reload_certificates().await, Ok(1));
    let error = connect("distrustful").await.err().expect("another certificate").to_string();
    assert!(error.contains("of an authority that is not trusted"), "{error}");
    std::fs::copy(&made.server.cert_path, &seen).expect("copied");
    let next = connect("next").await.expect("connected");

    std::fs::write(&made.server.cert_path, "").expect("written");
    let error = control.reload_certificates().await.expect_err("nothing in it").to_string();
    assert!(error.ends_with("server.crt: no certificate in PEM in it; it is empty"), "{error}");
    let last = connect("last").await.expect("the one before stays");
    for client in [open, next, last] {
        client.disconnect(ReasonCode::SUCCESS).await.expect("it was connected all the time");
    }
    running.abort();
}

#[tokio::test]
async fn what_an_upstream_is_believed_by_is_read_again_with_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |name: &str, force| {
        let folder = folder.path().join(name);
        let options = DevelopmentOptions { folder, force, ..Default::default() };
        DevelopmentCertificates::make(&options).expect("written")
    };
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let tls = |pair: &DevelopmentPair| {
        [
            ("mqtt.tls.enabled", "true".to_owned()),
            ("mqtt.tls.port", "0".to_owned()),
            ("mqtt.tls.cert_path", path(&pair.cert_path)),
            ("mqtt.tls.key_path", path(&pair.key_path)),
        ]
    };
    let (first, second) = (make("upstream", false), make("proxy", false));
    let upstream = Running::start(&tls(&first.server)).await;
    let believed = folder.path().join("believed.crt");
    let copy = |from: &std::path::Path, to: &std::path::Path| std::fs::copy(from, to).expect("copied");
    copy(&first.authority.cert_path, &believed);
    let port = upstream.addresses.mqtts.expect("TLS is on").port();
    let mut settings = tls(&second.server).to_vec();
    settings.push(("mqtt.upstream", format!("mqtts://127.0.0.1:{port}")));
    settings.push(("mqtt.upstream_tls.ca_path", path(&believed)));
    let proxy = Running::start(&settings).await;
    let port = proxy.addresses.mqtts.expect("TLS is on").port();
    // Only this certificate is trusted, so whoever connects has seen it.
    let seen = folder.path().join("seen.crt");
    copy(&second.server.cert_path, &seen);
    let connect = async |name: &str| {
        let url = format!("mqtts://127.0.0.1:{port}#cafile={}", path(&seen));
        Client::connect(ClientOptions::new(url.parse().expect("a URL"), name)).await
    };
    let open = connect("open").await.expect("connected");

    // One file is wrong: neither it nor the listener's, which is good, changes anything.
    make("proxy", true);
    std::fs::write(&believed, "").expect("written");
    let error = proxy.control.reload_certificates().await.expect_err("nothing in it").to_string();
    assert!(error.ends_with("believed.crt: no certificate in PEM in it; it is empty"), "{error}");
    let next = connect("next").await.expect("all stays");

    copy(&second.authority.cert_path, &believed);
    assert_eq!(proxy.control.reload_certificates().await, Ok(2));
    copy(&second.server.cert_path, &seen);
    assert!(connect("distrusting").await.is_err(), "the upstream is of another authority");
    copy(&first.authority.cert_path, &believed);
    assert_eq!(proxy.control.reload_certificates().await, Ok(2));
    let last = connect("last").await.expect("connected");
    for client in [open, next, last] {
        client.disconnect(ReasonCode::SUCCESS).await.expect("it was connected all the time");
    }
    proxy.stop().await;
    upstream.stop().await;
}

async fn apply(
    server: &Running,
    yaml: &str,
    validate_only: bool,
) -> Result<pb::ApplyConfigResponse, tonic::Status> {
    let request = pb::ApplyConfigRequest { yaml: yaml.to_owned(), name: String::new(), validate_only };
    server.control.apply_config(request).await.map_err(tonic::Status::from)
}

async fn mock_ids(server: &Running) -> Vec<String> {
    let mocks = server.control.list_mocks(Default::default()).await.expect("a server").mocks;
    mocks.into_iter().map(|mock| mock.id).collect()
}

#[tokio::test]
async fn a_settings_file_is_put_into_force_while_the_server_runs() {
    let server = Running::start(&[("mqtt.mocks", "[{id: old, topic: a}]".to_owned())]).await;
    let yaml = "mqtt:\n  max_connections: 5\n  chaos: {rules: [{id: cut, actions: [drop]}]}\n  webhooks: [{id: hook, topic: a, url: \
                'http://127.0.0.1:1'}]\n";
    let changes = |answer: pb::ApplyConfigResponse| {
        let changes = answer.changes.into_iter().map(|change| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let entries = |bytes: &[u8]| match serde_json::from_slice::<Vec<serde_json::Value>>(bytes) {
                Ok(list) => list.len().to_string(),
                Err(_) => text(bytes),
            };
            let at_once = change.effect() == pb::ConfigEffect::AtOnce;
            format!("{} {} {} {at_once}", change.key, entries(&change.before), entries(&change.after))
        });
        changes.collect::<Vec<_>>()
    };
    // The flags of this server go before the file, so its mocks stay.
    let would = ["mqtt.max_connections 1000 5 false", "mqtt.chaos.rules 0 1 true", "mqtt.webhooks 0 1 true"];
    assert_eq!(changes(apply(&server, yaml, true).await.expect("good")), would);
    assert!(server.control.list_rules(Default::default()).await.expect("a server").rules.is_empty());
    assert_eq!(changes(apply(&server, yaml, false).await.expect("good")), would);
    assert_eq!(server.control.list_rules(Default::default()).await.expect("a server").rules[0].id, "cut");
    assert_eq!(server.webhook("hook").await.topic, "a");
    assert_eq!(mock_ids(&server).await, ["old"]);
    assert_eq!(changes(apply(&server, yaml, false).await.expect("good")), [""; 0]);

    let shown = async |section: &str| {
        let request = pb::GetConfigRequest { section: section.to_owned() };
        server.control.get_config(request).await.map(|answer| answer.settings)
    };
    let [limit] = &shown("mqtt.max_connections").await.expect("there")[..] else { panic!("one") };
    assert_eq!(
        (&*limit.value, &*limit.origin, limit.next_value.as_deref()),
        (&b"1000"[..], "default", Some(&b"5"[..]))
    );
    let [rules] = &shown("mqtt.chaos.rules").await.expect("there")[..] else { panic!("one") };
    assert_eq!((&*rules.origin, &rules.next_value), ("config:3", &None));
    assert!(shown("mqtt.chaos").await.expect("there").len() > 5);
    assert!(shown("mqtt.cha").await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn a_settings_file_that_is_wrong_changes_nothing_and_says_all_that_is() {
    use tonic_types::StatusExt;

    let server = Running::start(&[]).await;
    let yaml =
        "mqtt:\n  prot: 1\n  mocks: [{topic: 'a/#/b'}]\n  chaos: {rules: [{id: cut, actions: [drop]}]}\n";
    let status = apply(&server, yaml, false).await.expect_err("it is wrong");
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("a reason").reason, "BAD_CONFIG");
    let fields = &details.bad_request().expect("fields").field_violations;
    let fields: Vec<_> = fields.iter().map(|field| (&*field.field, &*field.description)).collect();
    assert_eq!(
        fields,
        [
            ("mqtt.prot", r#"config:2:3: unknown key "prot" in mqtt; did you mean "port"?"#),
            ("mqtt.mocks[0].topic", "config:3:19: mqtt.mocks[0].topic: level 1: '#' stands alone and last"),
        ]
    );
    // Good by itself, but not beside what was made over the API.
    let webhook = pb::Webhook {
        id: "taken".to_owned(),
        topic: "a".to_owned(),
        url: "http://127.0.0.1:1".to_owned(),
        ..Default::default()
    };
    let request = pb::CreateWebhookRequest { webhook: Some(webhook) };
    server.control.create_webhook(request).await.expect("made");
    let yaml = "mqtt:\n  mocks: [{id: new, topic: a}]\n  chaos: {rules: [{id: cut, actions: [drop]}]}\n  webhooks: [{id: taken, \
                topic: b, url: 'http://127.0.0.1:1'}]\n";
    for validate_only in [true, false] {
        let status = apply(&server, yaml, validate_only).await.expect_err("the id is taken");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("fields").field_violations[0].field, "mqtt.webhooks[0].id");
    }
    assert!(server.control.list_rules(Default::default()).await.expect("a server").rules.is_empty());
    assert_eq!(mock_ids(&server).await, [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn the_settings_file_wins_when_it_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mockforge.yaml");
    std::fs::write(&file, "mqtt: {mocks: [{id: on-disk, topic: a}]}\n").expect("written");
    let flags = config(folder.path(), &[]).sources.flags;
    let sources = Sources { file: crate::config::ConfigFile::At(file.clone()), flags, ..Sources::default() };
    let server = Server::bind(Config::load(sources).expect("good")).await.expect("free ports");
    let control = server.control().clone();
    let running = tokio::spawn(server.run(std::future::pending()));
    let ids = async || {
        let mocks = control.list_mocks(Default::default()).await.expect("a server").mocks;
        mocks.into_iter().map(|mock| mock.id).collect::<Vec<_>>()
    };
    let yaml = "mqtt: {mocks: [{id: sent, topic: a}]}\n".to_owned();
    let request = pb::ApplyConfigRequest { yaml, ..Default::default() };
    control.apply_config(request).await.expect("good");
    assert_eq!(ids().await, ["sent"]);
    std::fs::write(&file, "mqtt: {mocks: [{id: on-disk, topic: b}], port: 7}\n").expect("written");
    assert_eq!(
        control.read_settings_again().await.expect("good").at_next_start,
        [""; 0],
        "a flag says the port"
    );
    assert_eq!(ids().await, ["on-disk"]);
    std::fs::remove_file(&file).expect("it was there");
    assert!(control.read_settings_again().await.is_err());
    assert_eq!(ids().await, ["on-disk"]);
    running.abort();
}
