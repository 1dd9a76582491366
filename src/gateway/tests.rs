//! The gateway before a real broker, called without a port.

mod access;
mod chaos;
mod limits;
mod messages;

use std::{net::SocketAddr, time::Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use super::*;
use crate::{
    auth::ApiTokens,
    broker::Limits,
    control::{Addresses, BrokerServer, ControlParts, fault_families},
    event::{EventBus, What},
    fault::{Chaos, ChaosHooks, ChaosOptions},
    interceptor::Interest,
    journal::JournalLimits,
    metrics::Metrics,
    net::{
        Admission, Asking, BrokerOptions, ChaosWatch, Client, ClientOptions, Gate, JournalHandle, MockHandle,
        MockOptions, WebhookHandle, WebhookOptions, bind, spawn_broker,
        tests::{
            sink::{Sink, ok, status},
            soon,
        },
    },
    packet::{PacketType, QoS, Subscription, SubscriptionOptions, TopicFilter},
    recording::{FaultInjected, sample},
    session::ConnectionId,
    store::StoreOptions,
    tap::Tap,
};

/// A broker with its control plane.
struct Server {
    control: Control,
    gateway: Gateway,
    mqtt: SocketAddr,
    tap: Tap,
    chaos: Chaos,
    _folder: TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(Access::default(), ApiLimits::default())
    }

    fn start_with(access: Access, limits: ApiLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = bind("127.0.0.1", 0).unwrap();
        let mqtt = listener.local_addr().unwrap();
        let (tap, events) = (Tap::new(), EventBus::new());
        let metrics = std::sync::Arc::new(Metrics::new());
        let bus = events.clone();
        let (interest, bus_of_webhooks) = (Interest::default(), events.clone());
        let mocks = MockOptions { interest: interest.clone(), ..MockOptions::default() };
        let mocks = MockHandle::new(mocks, Box::new(|_| {}));
        let webhooks = WebhookHandle::start(WebhookOptions {
            template_steps: 1_000_000,
            runtime: tokio::runtime::Handle::current(),
            environment: Default::default(),
            folder: folder.path().to_owned(),
            state: mocks.shared_state(),
            seed: 1,
            queue_bytes: 16 << 20,
            interest: interest.clone(),
            on_event: Box::new(move |event| bus_of_webhooks.emit(What::Webhook(event))),
        });
        let journal = JournalHandle::new(JournalLimits::default(), &interest);
        let asking = Asking { interest, mocks, webhooks, journal, tracer: None };
        let (bus_of_faults, options) = (events.clone(), ChaosOptions { seed: 7, ..ChaosOptions::default() });
        let (chaos, chaos_watch) =
            ChaosWatch::start(options, 1 << 20, move |fault| bus_of_faults.emit_fault(fault));
        let options = BrokerOptions {
            chaos: chaos_watch,
            interception: asking.interception(None),
            broker: Limits::default().into(),
            admission: Admission::new(Default::default()),
            seed: 1,
            tracer: None,
            guests: None,
            persistence: None,
            gate: Gate::open_already(),
            tap: tap.clone(),
            metrics: metrics.clone(),
            on_event: Box::new(move |event| bus.emit(What::Broker(event))),
        };
        let broker = spawn_broker(vec![listener], options).unwrap();
        let figures = broker.clone();
        metrics.attach_broker(Box::new(move || {
            let figures = figures.clone();
            Box::pin(async move { figures.run(|broker, _| broker.stats()).await.ok() })
        }));
        let asked = chaos.clone();
        metrics.attach_families(Box::new(move || fault_families(&asked)));
        let control = Control::new(ControlParts {
            telemetry: Default::default(),
            certificates: Vec::new(),
            server: Some(std::sync::Arc::new(BrokerServer::new(broker, tap.clone()))),
            tap: tap.clone(),
            metrics,
            events,
            folder: None,
            store: StoreOptions::new(folder.path()),
            on_overload: crate::recording::OnOverload::Block,
            import_bytes: limits.import_bytes,
            settings: None,
            scenarios: crate::config::ScenarioLimits::default(),
            tokens: access.tokens.clone(),
            flight: None,
            durability: None,
            addresses: Addresses { mqtt: Some(mqtt), ..Addresses::default() },
            stop: CancellationToken::new(),
            proxies: None,
            mocks: asking.mocks,
            webhooks: Some(asking.webhooks),
            journal: Some(asking.journal),
            chaos: chaos.clone(),
        });
        let gateway = Gateway::new(control.clone(), access, limits).unwrap();
        Self { control, gateway, mqtt, tap, chaos, _folder: folder }
    }

    /// Parts of a process without a server.
    fn alone() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::new(ControlParts::alone(StoreOptions::new(folder.path())));
        let gateway = Gateway::new(control.clone(), Access::default(), ApiLimits::default()).unwrap();
        let tap = Tap::new();
        let chaos = Chaos::new(ChaosOptions::default(), ChaosHooks::default());
        let mqtt = ([127, 0, 0, 1], 1).into();
        Self { control, gateway, mqtt, tap, chaos, _folder: folder }
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Response {
        let request = Request::builder().method(method).uri(format!("http://localhost:3000{path}"));
        self.gateway.http().oneshot(request.body(body.into()).unwrap()).await.unwrap()
    }

    async fn json(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let (parts, body) = self.send(method, path, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&body);
        (parts.status, value.unwrap_or_else(|_| panic!("no JSON: {}", body.escape_ascii())))
    }

    async fn ok(&self, method: &str, path: &str, body: impl Into<Body>) -> Value {
        let (status, value) = self.json(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {value}");
        value
    }

    /// Status, reason and message of a refusal.
    async fn refusal(&self, method: &str, path: &str, body: impl Into<Body>) -> (u16, String, String) {
        let (status, value) = self.json(method, path, body).await;
        let reason = value["details"][0]["reason"].as_str().unwrap_or_default().to_owned();
        (status.as_u16(), reason, value["message"].as_str().unwrap().to_owned())
    }

    async fn client(&self, client_identifier: &str) -> Client {
        let url = format!("mqtt://{}", self.mqtt).parse().unwrap();
        Client::connect(ClientOptions::new(url, client_identifier)).await.unwrap()
    }

    async fn subscriber(&self, client_identifier: &str, filter: &str) -> Client {
        let client = self.client(client_identifier).await;
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
        let subscription = Subscription { filter: TopicFilter::parse(filter).unwrap(), options };
        client.subscribe(vec![subscription], Default::default()).await.unwrap();
        client
    }
}

/// Callers by name, role and token.
fn tokens(callers: &[(&str, &str, &str)]) -> Access {
    let specs = callers.iter().map(|(name, role, token)| json!({"name": name, "role": role, "token": token}));
    let specs: Vec<_> = serde_json::from_value(specs.collect()).unwrap();
    Access { tokens: ApiTokens::new(&specs).unwrap().into(), ..Access::default() }
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The next piece of a streamed answer.
async fn piece(body: &mut Body) -> String {
    let frame = body.frame().await.expect("the stream goes on").unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn the_guides_curl_calls_answer() {
    let server = Server::start();
    let mut subscriber = server.subscriber("app", "sensors/#").await;
    let body = r#"{
    "topic": "sensors/device1/temp",
    "payload": {"value": 25.5},
    "qos": 1,
    "retain": false
  }"#;
    let published = server.ok("POST", "/__mockforge/mqtt/publish", body).await;
    assert_eq!(published, json!({"receivers": 1, "reason_code": 0}));
    let message = subscriber.next_message().await.unwrap();
    assert_eq!(message.payload, Bytes::from_static(br#"{"value":25.5}"#));
    assert_eq!((message.topic.unwrap().as_str(), message.qos), ("sensors/device1/temp", QoS::AtLeastOnce));

    let subscriptions = server.ok("GET", "/__mockforge/mqtt/subscriptions", "").await;
    assert_eq!(subscriptions["subscriptions"][0]["filter"], "sensors/#");
    assert_eq!(subscriptions["subscriptions"][0]["client_id"], "app");
    assert_eq!(subscriptions["total_size"], 1);

    let stats = server.ok("GET", "/__mockforge/mqtt/stats", "").await;
    assert_eq!(stats["active_connections"], 1);
    assert_eq!(stats["subscriptions_active"], 1);
    assert_eq!(stats["messages_delivered"]["qos1"], 1);
}

#[tokio::test]
async fn payloads_arrive_byte_for_byte_and_are_streamed_as_they_were() {
    let server = Server::start();
    let answer = server.send("GET", "/__mockforge/mqtt/messages/stream?filter=%23&qos=2", "").await;
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let mut body = answer.into_body();
    for (payload, seen) in [
        (r#""payload": {"z": 9007199254740993, "a": 1.0}"#, r#""payload":{"z":9007199254740993,"a":1.0}"#),
        (r#""payload": "on""#, r#""payload":"on""#),
        (r#""payload_base64": "AP8=""#, r#""payload_base64":"AP8=""#),
        (r#""payload": null"#, r#""payload":"""#),
    ] {
        let request = format!(r#"{{"topic": "t", "qos": 2, {payload}}}"#);
        server.ok("POST", "/__mockforge/mqtt/publish", request).await;
        let line = piece(&mut body).await;
        assert!(line.contains(seen), "{line}");
    }
}

#[tokio::test]
async fn the_index_names_every_route() {
    let server = Server::start();
    for path in ["/__mockforge", "/__mockforge/"] {
        let index = server.ok("GET", path, "").await;
        let routes = index["routes"].as_array().unwrap();
        for route in [
            json!({"method": "GET", "path": "/__mockforge/health"}),
            json!({"method": "GET", "path": "/__mockforge/metrics"}),
            json!({"method": "GET", "path": "/__mockforge/openapi.json"}),
            json!({
                "method": "POST",
                "path": "/__mockforge/recordings/{id}:stop",
                "rpc": "mockforge.mqtt.v1.Recordings.StopRecording",
            }),
        ] {
            assert!(routes.contains(&route), "{route} is not in: {index}");
        }
        assert_eq!(routes.len(), server.gateway.rest.bindings().len() + 3);
    }
}

#[tokio::test]
async fn answers_end_with_a_line_break() {
    let server = Server::start();
    for path in ["/__mockforge", "/__mockforge/health", "/__mockforge/mqtt/stats", "/__mockforge/nothing"] {
        let answer = text(server.send("GET", path, "").await).await;
        assert!(answer.ends_with("}\n"), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn properties_reach_subscribers() {
    let server = Server::start();
    let mut subscriber = server.subscriber("app", "#").await;
    let properties = json!({
        "content_type": "text/plain", "response_topic": "reply", "correlation_data": "AQI=",
        "message_expiry_interval": "30s", "user_properties": [{"name": "k", "value": "v"}, {"name": "k", "value": "w"}]
    });
    let request = json!({"topic": "t", "payload": "x", "properties": properties}).to_string();
    server.ok("POST", "/__mockforge/mqtt/publish", request).await;
    let shown = format!("{:?}", subscriber.next_message().await.unwrap().properties);
    for part in
        ["text/plain", "\"reply\"", "\\x01\\x02", "UserProperty(\"k\", \"v\")", "UserProperty(\"k\", \"w\")"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(
        shown.contains("MessageExpiryInterval(30)") || shown.contains("MessageExpiryInterval(29)"),
        "{shown}"
    );
}

#[tokio::test]
async fn bad_requests_name_the_field_and_the_reason() {
    let server = Server::start();
    let publish = "/__mockforge/mqtt/publish";
    let bad = |message: &str| (400, "BAD_FIELD".to_owned(), message.to_owned());
    assert_eq!(
        server.refusal("POST", publish, r#"{"topic": "a/#", "qos": 3}"#).await,
        bad("topic: wildcard '#' in a topic name; qos: QoS is 0, 1 or 2, not 3")
    );
    assert_eq!(server.refusal("POST", publish, r#"{"topik": "a"}"#).await, bad("topik: no such field"));
    assert_eq!(
        server.refusal("GET", "/__mockforge/mqtt/clients?page_token=%21", "").await,
        bad("page_token: is no token of this list")
    );
    assert_eq!(server.refusal("GET", "/__mockforge/mqtt/stats?x=1", "").await, bad("x: no such field"));
    assert_eq!(
        server.refusal("DELETE", "/__mockforge/mqtt/clients/x?reason_code=4", "").await,
        bad("reason_code: is a code from 128 to 162 that a server may send, not 4")
    );
    assert_eq!(
        server.refusal("GET", "/__mockforge/mqtt/messages/stream?filter=$share/g/t", "").await,
        bad("filter: a shared subscription would take messages from those who share it")
    );
    let spec = r#"{"recording": "r", "target": "mqtt://localhost"}"#;
    let (status, reason, message) = server.refusal("POST", "/__mockforge/replays", spec).await;
    assert_eq!((status, reason.as_str()), (404, "RECORDING_NOT_FOUND"), "{message}");
}

#[tokio::test]
async fn unknown_paths_methods_and_long_bodies_are_refused_in_json() {
    let server = Server::start();
    let refusal = async |method: &str, path: &str, body: Vec<u8>| {
        let (status, reason, message) = server.refusal(method, path, body).await;
        (status, format!("{reason}: {message}"))
    };
    let nothing = refusal("GET", "/__mockforge/nothing", Vec::new()).await;
    assert_eq!(nothing, (404, "PATH_NOT_FOUND: nothing is at /__mockforge/nothing".to_owned()));
    let publish = "/__mockforge/mqtt/publish";
    let other = refusal("GET", publish, Vec::new()).await;
    assert_eq!(other, (405, format!("METHOD_NOT_ALLOWED: {publish} takes POST, not GET")));
    assert_eq!(server.send("GET", publish, "").await.headers()["allow"], "POST");
    let long = vec![b' '; crate::control::MESSAGE_MAX + 1];
    let (status, text) = refusal("POST", publish, long).await;
    assert_eq!((status, text.split(':').next()), (413, Some("BODY_TOO_LONG")));
    for (method, path, body) in
        [("POST", publish, &b"\xff"[..]), ("POST", publish, b"no JSON"), ("GET", "/__mockforge/info", b"{}")]
    {
        let (status, text) = refusal(method, path, body.to_vec()).await;
        assert_eq!((status, text.split(':').next()), (400, Some("BAD_BODY")), "{text}");
    }
}

#[tokio::test]
async fn refusals_over_grpc_have_their_reasons() {
    let limits = ApiLimits { message_bytes: 100, requests: 1, ..ApiLimits::default() };
    let server = Server::start_with(Access::default(), limits);
    let ask = async |path: &str, kind: &str, body: Vec<u8>| {
        let request = Request::post(format!("http://localhost{path}")).header("content-type", kind);
        server.gateway.grpc().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    };
    let reason = |answer: &Response| {
        let status = Status::from_header_map(answer.headers()).unwrap();
        (status.code(), status.get_details_error_info().unwrap().reason)
    };
    let (kind, publish) = ("application/grpc", "/mockforge.mqtt.v1.Broker/Publish");
    for path in ["/mockforge.mqtt.v1.Broker/Nothing", "/grpc.health.v1.Health/Nothing"] {
        let unknown = ask(path, kind, Vec::new()).await;
        assert_eq!(reason(&unknown), (Code::Unimplemented, "RPC_UNKNOWN".to_owned()));
    }
    let too_long = ask(publish, kind, vec![0, 0, 0, 1, 0]).await;
    assert_eq!(reason(&too_long), (Code::OutOfRange, "MESSAGE_TOO_LONG".to_owned()));
    let busy = ask(publish, kind, Vec::new()).await;
    assert_eq!(reason(&busy), (Code::ResourceExhausted, "TOO_MANY_CALLS".to_owned()));
    drop(too_long);
    for kind in ["application/json", "text/plain", ""] {
        let answer = ask(publish, kind, Vec::new()).await;
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(text(answer).await.contains("NO_GRPC"), "{kind}");
    }
}

#[test]
fn server_sent_events_are_for_those_who_ask_for_them() {
    let wants = |accept: &[&'static str]| {
        let named = accept.iter().map(|accept| (header::ACCEPT, HeaderValue::from_static(accept)));
        rest::wants_events(&named.collect())
    };
    for accept in [
        &["text/event-stream"][..],
        &["TEXT/Event-Stream"],
        &["text/html", "text/event-stream;q=0.2"],
        &["application/x-ndjson;q=0.5, text/event-stream; charset=utf-8; Q=0.9"],
        &["text/event-stream, application/x-ndjson"],
    ] {
        assert!(wants(accept), "{accept:?}");
    }
    for accept in [
        &[][..],
        &["*/*"],
        &["text/event-stream;q=0"],
        &["text/event-stream ; q=0.000, */*"],
        &["text/event-stream;q=0.3, application/x-ndjson"],
        &["text/event-streams", "application/x; a=text/event-stream"],
    ] {
        assert!(!wants(accept), "{accept:?}");
    }
}

#[tokio::test]
async fn clients_are_listed_and_disconnected() {
    let server = Server::start();
    let mut client = server.subscriber("dev/1", "a").await;
    let listed = server.ok("GET", "/__mockforge/mqtt/clients", "").await;
    assert_eq!(listed["clients"][0]["client_id"], "dev/1");
    assert_eq!(listed["clients"][0]["protocol"], "PROTOCOL_VERSION_V5_0");
    let one = server.ok("GET", "/__mockforge/mqtt/clients/dev%2F1", "").await;
    assert_eq!((&one["connected"], &one["subscriptions"]), (&json!(true), &json!(1)));
    server.ok("DELETE", "/__mockforge/mqtt/clients/dev%2F1", "").await;
    let error = client.next_message().await.unwrap_err().to_string();
    assert!(error.contains("administrative action"), "{error}");
    let (status, reason, _) = server.refusal("GET", "/__mockforge/mqtt/clients/nobody", "").await;
    assert_eq!((status, reason.as_str()), (404, "CLIENT_NOT_FOUND"));
}

#[tokio::test]
async fn a_recording_is_made_listed_exported_imported_and_replayed() {
    let server = Server::start();
    let started = server.ok("POST", "/__mockforge/recordings", r#"{"name": "orders"}"#).await;
    assert_eq!(started["state"], "RECORDING_STATE_RECORDING");
    let (status, reason, _) =
        server.refusal("POST", "/__mockforge/recordings", r#"{"name": "orders"}"#).await;
    assert_eq!((status, reason.as_str()), (409, "RECORDING_EXISTS"));

    let tail = server.send("GET", "/__mockforge/recordings/orders/events:tail", "").await;
    let device = server.client("dev").await;
    for number in 0..3 {
        let payload = Bytes::from(format!("{{\"n\":{number}}}"));
        device.publish(publish("t/1", payload)).await.unwrap().acked().await.unwrap();
    }
    let first = piece(&mut tail.into_body()).await;
    assert!(first.contains(r#""opened":"#), "{first}");
    let marked = server.ok("POST", "/__mockforge/recordings/orders:mark", r#"{"label": "half"}"#).await;
    assert_eq!(marked["name"], "orders");
    let (status, reason, _) = server.refusal("DELETE", "/__mockforge/recordings/orders", "").await;
    assert_eq!((status, reason.as_str()), (400, "RECORDING_ACTIVE"));
    let stopped = server.ok("POST", "/__mockforge/recordings/orders:stop", "").await;
    assert_eq!(stopped["state"], "RECORDING_STATE_COMPLETE");
    assert_eq!(stopped["source"]["kind"], "RECORDING_SOURCE_KIND_BROKER");
    let (status, reason, _) = server.refusal("POST", "/__mockforge/recordings/orders:stop", "").await;
    assert_eq!((status, reason.as_str()), (400, "RECORDING_ENDED"));

    let page = "/__mockforge/recordings/orders/events?filter.types=PACKET_TYPE_PUBLISH&page_size=2";
    let events = server.ok("GET", page, "").await;
    let payloads = |events: &Value| -> Vec<Value> {
        let events = events["events"].as_array().unwrap().iter();
        events.map(|event| event["packet"]["publish"]["payload"].clone()).collect()
    };
    assert_eq!(payloads(&events), [json!({"n": 0}), json!({"n": 1})]);
    let next = format!("{page}&page_token={}", events["next_page_token"].as_str().unwrap());
    let events = server.ok("GET", &next, "").await;
    assert_eq!(payloads(&events), [json!({"n": 2})]);
    assert_eq!(events["next_page_token"], "");

    let summary = server.ok("GET", "/__mockforge/recordings/orders/summary", "").await;
    assert_eq!(summary["connections"][0]["client_id"], "dev");
    assert_eq!((&summary["topics"][0]["topic"], &summary["marks"]), (&json!("t/1"), &json!(["half"])));
    assert_eq!(summary["topics"][0]["client_to_server"], 3);

    let exported = server.send("GET", "/__mockforge/recordings/orders:export", "").await;
    assert_eq!(exported.headers()["content-type"], "application/json");
    let file = text(exported).await;
    assert!(file.contains("mockforge.mqtt.session"), "{file}");
    let imported = server.ok("POST", "/__mockforge/recordings:import?name=again", file.clone()).await;
    assert_eq!((&imported["name"], &imported["sha256"]), (&json!("again"), &stopped["sha256"]));
    let (status, reason, message) =
        server.refusal("POST", "/__mockforge/recordings:import?name=bad", file[..200].to_owned()).await;
    assert_eq!((status, reason.as_str()), (400, "BAD_FILE"), "{message}");
    for (format, kind) in [
        ("ndjson", "application/x-ndjson"),
        ("mcap", "application/octet-stream"),
        ("pcapng", "application/vnd.tcpdump.pcap"),
        ("csv", "text/csv; charset=utf-8"),
    ] {
        let path = format!("/__mockforge/recordings/orders:export?format={format}&filter.topics=t/%23");
        let exported = server.send("GET", &path, "").await;
        assert_eq!(exported.headers()["content-type"], kind);
        let name = format!("attachment; filename=\"orders.{format}\"");
        assert_eq!(exported.headers()["content-disposition"], name.as_str());
        let file = exported.into_body().collect().await.unwrap().to_bytes();
        let path = "/__mockforge/recordings:import?name=carried&recover=true";
        let imported = server.ok("POST", path, file).await;
        assert_eq!(imported["name"], "carried", "{imported}");
        server.ok("DELETE", "/__mockforge/recordings/carried", "").await;
    }
    let path = "/__mockforge/recordings:import?format=csv&ports=70000";
    let (status, _, message) = server.refusal("POST", path, "1,a,b").await;
    assert_eq!((status, message.as_str()), (400, "ports[0]: is 1 to 65535"));
    let (status, reason, _) = server.refusal("POST", "/__mockforge/recordings:import", "PK\x03\x04").await;
    assert_eq!((status, reason.as_str()), (400, "UNSUPPORTED_FILE"));
    let (status, _, message) =
        server.refusal("GET", "/__mockforge/recordings/orders:export?format=yaml", "").await;
    assert_eq!(status, 400, "{message}");
    let listed = server.ok("GET", "/__mockforge/recordings?page_size=1", "").await;
    assert_eq!((&listed["total_size"], &listed["recordings"][0]["name"]), (&json!(2), &json!("orders")));

    let plan = server.ok("POST", "/__mockforge/replays:plan", r#"{"recording": "again"}"#).await;
    assert_eq!((&plan["messages"], &plan["topics"][0]["count"]), (&json!(3), &json!(3)));
    let mut subscriber = server.subscriber("app", "#").await;
    let replay = server.ok("POST", "/__mockforge/replays", r#"{"recording": "again", "speed": 0}"#).await;
    let watched = text(
        server
            .send("GET", &format!("/__mockforge/replays/{}:watch", replay["id"].as_str().unwrap()), "")
            .await,
    )
    .await;
    let last: Value = serde_json::from_str(watched.lines().last().unwrap()).unwrap();
    assert_eq!(last["state"], "REPLAY_STATE_COMPLETED", "{last}");
    assert_eq!((&last["verdict"], &last["exit_code"]), (&json!("REPLAY_VERDICT_PASSED"), &json!(0)));
    assert_eq!(last["report"]["sent"], 3);
    let report = format!("/__mockforge/replays/{}/report?format=", replay["id"].as_str().unwrap());
    let written = async |format| {
        let answer = server.ok("GET", &format!("{report}{format}"), "").await;
        answer["report"].as_str().unwrap().to_owned()
    };
    assert!(written("json").await.contains(r#""passed": true"#));
    assert!(written("text").await.contains("3 acknowledged: passed"));
    let junit = written("junit").await;
    assert!(junit.contains(r#"tests="1" failures="0""#) && junit.contains("sent 3 of 3 messages"), "{junit}");
    for number in 0..3 {
        let message = subscriber.next_message().await.unwrap();
        assert_eq!(message.payload, Bytes::from(format!("{{\"n\":{number}}}")));
    }
    server.ok("DELETE", "/__mockforge/recordings/orders", "").await;
    let (status, reason, _) = server.refusal("GET", "/__mockforge/recordings/orders", "").await;
    assert_eq!((status, reason.as_str()), (404, "RECORDING_NOT_FOUND"));
    server.control.close().await;
}

#[tokio::test]
async fn events_are_watched_as_server_sent_events() {
    let server = Server::start();
    let request = Request::get(
        "http://localhost/__mockforge/events?kinds=EVENT_KIND_CLIENT_CONNECTED&kinds=EVENT_KIND_SUBSCRIBED\
         &kinds=EVENT_KIND_PACKET&types=PACKET_TYPE_PUBLISH&kinds=EVENT_KIND_CLIENT_DISCONNECTED",
    )
    .header("accept", "text/event-stream");
    let answer = server.gateway.http().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let client = server.subscriber("dev", "a/+").await;
    client.publish(publish("b", Bytes::from_static(b"12345"))).await.unwrap().acked().await.unwrap();
    client.disconnect(crate::packet::ReasonCode::SUCCESS).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 4 {
        let event = piece(&mut body).await;
        let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event}"));
        events.push(serde_json::from_str::<Value>(data.trim()).unwrap());
    }
    assert_eq!(events[0]["client_connected"]["client_id"], "dev");
    assert_eq!(events[1]["subscribed"]["filter"], "a/+");
    assert_eq!(events[1]["subscribed"]["qos"], 1);
    let packet = &events[2]["packet"];
    assert_eq!((&packet["topic"], &packet["payload_size"]), (&json!("b"), &json!(5)));
    assert_eq!(packet["direction"], "DIRECTION_CLIENT_TO_SERVER");
    assert_eq!(events[3]["client_disconnected"]["reason_code"], 0);
}

#[tokio::test]
async fn faults_are_told_to_watchers_and_kept() {
    let server = Server::start();
    let watch = |more: &str| {
        let path = format!("/__mockforge/events?kinds=EVENT_KIND_FAULT{more}");
        let server = &server;
        async move { server.send("GET", &path, "").await.into_body() }
    };
    let mut all = watch("&include_raw=true").await;
    let mut some = watch("&topics=b&types=PACKET_TYPE_PUBLISH&clients=dev-*").await;
    server.ok("POST", "/__mockforge/recordings", r#"{"name": "r"}"#).await;
    for (packet_type, topic) in
        [(PacketType::Publish, "a"), (PacketType::Connect, ""), (PacketType::Publish, "b")]
    {
        server.tap.fault(Instant::now(), ConnectionId(9), || FaultInjected {
            packet_type,
            topic: topic.to_owned(),
            sent: Some(Bytes::from_static(b"\x10secret")),
            ..sample::fault("latency", r#"{"ms":23.4}"#)
        });
    }
    let fault = |json: String| serde_json::from_str::<Value>(&json).unwrap()["fault"].take();
    let first = fault(piece(&mut all).await);
    let expected = json!({
        "connection": 9, "rule": "some-latency", "action": "latency", "detail": {"ms": 23.4},
        "client_id": "dev-1", "direction": "DIRECTION_CLIENT_TO_SERVER", "type": "PACKET_TYPE_PUBLISH",
        "nth": 7, "topic": "a", "sent": "EHNlY3JldA==",
    });
    assert_eq!(first, expected);
    let connect = fault(piece(&mut all).await);
    assert_eq!((&connect["type"], &connect["sent"]), (&json!("PACKET_TYPE_CONNECT"), &Value::Null));
    let only = fault(piece(&mut some).await);
    assert_eq!((&only["topic"], &only["sent"]), (&json!("b"), &Value::Null));

    let stopped = server.ok("POST", "/__mockforge/recordings/r:stop", "").await;
    assert_eq!(stopped["seed"], 7);
    let page = server.ok("GET", "/__mockforge/recordings/r/events?filter.topics=a", "").await;
    assert_eq!(page["events"][0]["fault"]["detail"], json!({"ms": 23.4}));
    let summary = server.ok("GET", "/__mockforge/recordings/r/summary", "").await;
    assert_eq!(
        summary["faults"],
        json!([{"action": "latency", "client_to_server": 3, "server_to_client": 0}])
    );
    server.control.close().await;
}

#[tokio::test]
async fn a_recordings_states_are_told_to_watchers_and_streams_end_with_the_server() {
    let server = Server::start();
    let request =
        pb::WatchEventsRequest { kinds: vec![pb::EventKind::Recording.into()], ..Default::default() };
    let mut events = server.control.watch_events(request).await.unwrap();
    server.ok("POST", "/__mockforge/recordings", r#"{"name": "r"}"#).await;
    server.ok("POST", "/__mockforge/shutdown", "").await;
    let mut states = Vec::new();
    while let Some(event) = events.next().await {
        if let Some(pb::server_event::Event::Recording(recording)) = event.unwrap().event {
            states.push(recording.state());
        }
    }
    assert!(states.is_empty() || states == [pb::RecordingState::Recording], "{states:?}");
    assert!(server.control.stop().is_cancelled());
    server.control.close().await;
    let health = server.send("GET", "/__mockforge/health", "").await;
    assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn without_a_server_recordings_work_and_the_rest_says_so() {
    let server = Server::alone();
    let (status, reason, message) = server.refusal("GET", "/__mockforge/mqtt/stats", "").await;
    assert_eq!((status, reason.as_str()), (400, "NO_SERVER"), "{message}");
    let listed = server.ok("GET", "/__mockforge/recordings", "").await;
    assert_eq!(listed["recordings"], json!([]));
    let health = server.ok("GET", "/__mockforge/health", "").await;
    assert_eq!(health["services"]["mockforge.mqtt.v1.Broker"], "NOT_SERVING");
    assert_eq!(health["services"]["mockforge.mqtt.v1.Recordings"], "SERVING");
    let (_, reason, _) =
        server.refusal("POST", "/__mockforge/replays:plan", r#"{"recording": "none"}"#).await;
    assert_eq!(reason, "RECORDING_NOT_FOUND");
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let server = Server::start();
    let answer = server.send("GET", "/__mockforge/metrics", "").await;
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(text(answer).await.contains("mqtt_connections_total{status=\"active\"} 0"));
}

#[tokio::test]
async fn generated_clients_work_in_process_and_errors_keep_their_details() {
    let server = Server::start();
    let mut broker =
        pb::broker_client::BrokerClient::new(routes(server.control.clone(), crate::control::MESSAGE_MAX));
    let status: Status =
        broker.publish(pb::PublishRequest { topic: "+".to_owned(), ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().unwrap().reason, "BAD_FIELD");
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "topic");
}

#[tokio::test]
async fn both_ports_serve_grpc_with_health_and_reflection_until_shutdown() {
    let server = Server::start_with(tokens(&[("all", "admin", "secret")]), ApiLimits::default());
    let (http, grpc) = (port().await, port().await);
    let addresses = [&http, &grpc].map(|port| port.listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let served =
        tokio::spawn(serve(server.gateway.clone(), Some(http), Some(grpc), stop.clone().cancelled_owned()));
    for address in addresses {
        let channel =
            tonic::transport::Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap();
        let mut admin = pb::admin_client::AdminClient::new(channel.clone());
        let refused = admin.get_server_info(pb::GetServerInfoRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        let mut request = tonic::Request::new(pb::GetServerInfoRequest {});
        request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
        let info = admin.get_server_info(request).await.unwrap().into_inner();
        assert_eq!((info.mode(), info.mqtt_address), (pb::ServerMode::Broker, server.mqtt.to_string()));

        let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        let service = "mockforge.mqtt.v1.Broker".to_owned();
        let answer = health.check(tonic_health::pb::HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status, 1);

        let mut reflection =
            tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
        let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(
                tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
                    String::new(),
                ),
            ),
        };
        let mut request = tonic::Request::new(tokio_stream::once(ask));
        request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
        let mut answers = reflection.server_reflection_info(request).await.unwrap().into_inner();
        let answer = format!("{:?}", answers.next().await.unwrap().unwrap());
        for service in grpc::SERVICES {
            assert!(answer.contains(service), "{service} in {answer}");
        }
    }
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn health_is_watched_until_the_server_stops() {
    let server = Server::start();
    let port = port().await;
    let address = port.listener.local_addr().unwrap();
    let stop = server.control.stop().clone();
    let served =
        tokio::spawn(serve(server.gateway.clone(), None, Some(port), stop.clone().cancelled_owned()));
    let channel = tonic::transport::Endpoint::new(format!("http://{address}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let of = |service: &str| tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
    let unknown = health.check(of("nobody")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.get_details_error_info().unwrap().reason, "SERVICE_NOT_FOUND");
    let mut known = health.watch(of("mockforge.mqtt.v1.Broker")).await.unwrap().into_inner();
    let mut nobodys = health.watch(of("nobody")).await.unwrap().into_inner();
    assert_eq!(known.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(nobodys.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    {
        let mut next = std::pin::pin!(nobodys.message());
        assert!(futures_util::poll!(&mut next).is_pending());
    }
    stop.cancel();
    assert_eq!(known.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(known.message().await.unwrap().is_none() && nobodys.message().await.unwrap().is_none());
    // Sooner than calls are cut off.
    soon(served).await.unwrap();
}

async fn port() -> Port {
    Port { listener: tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), tls: None }
}

fn publish(topic: &str, payload: Bytes) -> crate::packet::Publish {
    crate::packet::Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Some(crate::packet::TopicName::parse(topic).unwrap()),
        packet_identifier: None,
        properties: Default::default(),
        payload,
    }
}

#[tokio::test]
async fn head_is_answered_like_get_without_the_body() {
    let server = Server::start();
    for path in ["/__mockforge/health", "/__mockforge/metrics", "/__mockforge/recordings"] {
        let get = server.send("GET", path, "").await;
        let head = server.send("HEAD", path, "").await;
        assert_eq!((head.status(), get.status()), (StatusCode::OK, StatusCode::OK), "{path}");
        assert_eq!(head.headers()["content-type"], get.headers()["content-type"], "{path}");
        assert_eq!(head.into_body().collect().await.unwrap().to_bytes(), "", "{path}");
    }
}

#[tokio::test]
async fn a_path_takes_its_own_methods_and_no_other() {
    let server = Server::start();
    for path in ["", "/", "/health", "/metrics", "/openapi.json", "/info"] {
        for method in ["DELETE", "POST", "PUT", "PATCH", "TRACE", "OPTIONS"] {
            let answer = server.send(method, &format!("/__mockforge{path}"), "").await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(answer.headers()["allow"], "GET, HEAD", "{method} {path}");
        }
    }
    assert_eq!(server.send("PUT", "/__mockforge/log:x", "").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_wrong_with_no_field_is_said_without_one() {
    let server = Server::start();
    let (_, _, message) = server.refusal("POST", "/__mockforge/recordings", "no JSON").await;
    assert!(message.starts_with("expected a JSON object"), "{message}");
}

#[tokio::test]
async fn what_is_read_of_a_mock_can_be_written_back() {
    let server = Server::start();
    let mock = json!({
        "id": "it",
        "on": "MOCK_TRIGGER_PUBLISH",
        "topic": "a/{{b}}",
        "enabled": false,
        "qos": 1,
        "when": {
            "client": "d*",
            "qos": [1, 2],
            "retain": true,
            "payload": {"$.a": {"equals": {"x": 1}, "exists": true}, "$.n": {"gt": 1.5, "lte": 3}},
            "payload_text": {"regex": "^a"},
            "user": {"k": {"equals": "v"}, "n": {"equals": "\"5\""}},
            "state": {"s": {"lt": 2, "gte": -1}},
            "nth": {"first": 3, "after": 1, "every": 2},
        },
        "priority": -1,
        "continue": true,
        "route": false,
        "reply_to": "$.r",
        "responses": [
            {"payload": {"b": 1, "a": "{{b}}"}, "topic": "r/{{b}}", "qos": 2, "retain": true, "delay": {"fixed_ms": 2.5},
             "properties": {"content_type": "t", "message_expiry_interval": 5, "payload_format_indicator": 1,
                            "response_topic": "x", "correlation_data": "d",
                            "user_properties": [{"name": "n", "value": "v"}]},
             "repeat_count": 2, "repeat_interval_ms": 10, "weight": 0.5},
            {"payload_bytes": "AP8=", "delay": {"uniform": {"min_ms": 1, "max_ms": 2}}},
            {"payload": "text", "delay": {"normal": {"mean_ms": 1, "sd_ms": 2}}},
            {"delay": {"lognormal": {"median_ms": 1, "sigma": 2}}},
        ],
        "mode": "MOCK_MODE_SEQUENCE",
        "then": "MOCK_THEN_LAST",
        "scope": "MOCK_SCOPE_CLIENT",
        "set_state": {"k": {"value": {"n": 1}}, "t": {"value": "text {{b}}"}},
        "trigger_on_synthetic": true,
    });
    let created = server.ok("POST", "/__mockforge/mocks", mock.to_string()).await;
    for (name, value) in mock.as_object().unwrap() {
        if name != "responses" && name != "when" {
            assert_eq!(&created[name], value, "{name}");
        }
    }
    assert_eq!(created["responses"][0]["payload"], json!({"b": 1, "a": "{{b}}"}));
    assert_eq!(created["when"]["payload"]["$.n"]["gt"], 1.5);
    let read = server.ok("GET", "/__mockforge/mocks/it", "").await;
    assert_eq!(read, created);
    let written = server.ok("PUT", "/__mockforge/mocks/it", read.to_string()).await;
    assert_eq!(written, read);
    assert_eq!(server.ok("GET", "/__mockforge/mocks", "").await["total_size"], 1);
    server.ok("DELETE", "/__mockforge/mocks/it", "").await;
    assert_eq!(server.ok("GET", "/__mockforge/mocks", "").await["total_size"], 0);
}

#[tokio::test]
async fn a_mock_that_cannot_be_is_refused_with_the_path_of_each_field() {
    let server = Server::start();
    let refusal = |body: Value| {
        let server = &server;
        async move { server.refusal("POST", "/__mockforge/mocks", body.to_string()).await }
    };
    let (status, reason, message) = refusal(json!({
        "topic": "a/#/b",
        "when": {"qos": [3], "payload": {"a": {}, "$.x": {"regex": "("}}},
        "responses": [{"payload": "{{random_itn 1 2}}", "qos": 300}, {"delay": {"uniform": {"min_ms": 2, "max_ms": 1}}}],
    }))
    .await;
    assert_eq!((status, reason.as_str()), (400, "BAD_FIELD"), "{message}");
    expect_test::expect![
        "mock.when.payload.a: a JSONPath begins with $; mock.responses[0].qos: is 0, 1 or 2, not 300"
    ]
    .assert_eq(&message);
    let (status, reason, message) = refusal(json!({
        "topic": "a/#/b",
        "when": {"qos": [3], "payload": {"$.x": {"regex": "("}}},
        "responses": [{"payload": "{{random_itn 1 2}}"}, {"delay": {"uniform": {"min_ms": 2, "max_ms": 1}}}],
    }))
    .await;
    assert_eq!((status, reason.as_str()), (400, "BAD_FIELD"), "{message}");
    expect_test::expect![[r#"mock.topic: level 1: '#' stands alone and last; mock.when.qos: QoS 3 is none of 0, 1 and 2; mock.when.payload.$.x.regex: unclosed group; mock.responses[0].payload: line 1, column 1: unknown helper "random_itn"; did you mean "random_int"?; mock.responses[1].delay: min 2 is more than max 1"#]].assert_eq(&message);
    let file = refusal(json!({"topic": "a", "responses": [{"payload_file": "/etc/hostname"}]})).await;
    expect_test::expect![[
        r#"mock.responses[0].payload_file: "/etc/hostname" is not a path below the settings file's folder"#
    ]]
    .assert_eq(&file.2);

    server.ok("POST", "/__mockforge/mocks", r#"{"id": "x", "topic": "a"}"#).await;
    assert_eq!(refusal(json!({"id": "x", "topic": "a"})).await.1, "MOCK_EXISTS");
    for (method, path, body) in [("GET", "", ""), ("DELETE", "", ""), ("POST", ":fire", "{}")] {
        let refusal = server.refusal(method, &format!("/__mockforge/mocks/y{path}"), body).await;
        assert_eq!((refusal.0, refusal.1.as_str()), (404, "MOCK_NOT_FOUND"), "{method} {path}");
    }
    let other = server.refusal("PUT", "/__mockforge/mocks/x", r#"{"id": "z", "topic": "a"}"#).await;
    assert_eq!((other.0, other.1.as_str()), (400, "BAD_FIELD"), "{}", other.2);
}

#[tokio::test]
async fn state_is_read_and_written_by_scope_and_key() {
    let server = Server::start();
    let put = |path: &'static str, body: &'static str| server.ok("PUT", path, body);
    assert_eq!(
        put("/__mockforge/state/global/mode", r#"{"value": {"b": 1, "a": [2]}}"#).await,
        json!({"scope": "global", "key": "mode", "value": {"b": 1, "a": [2]}}),
    );
    put("/__mockforge/state/client:d1/mode", r#"{"value": "eco"}"#).await;
    assert_eq!(server.ok("GET", "/__mockforge/state/client:d1/mode", "").await["value"], "eco");
    let listed = server.ok("GET", "/__mockforge/state?scope=client:d1", "").await;
    assert_eq!((&listed["total_size"], &listed["entries"][0]["key"]), (&json!(1), &json!("mode")));
    server.ok("DELETE", "/__mockforge/state/global/mode", "").await;
    for (path, status, reason) in [
        ("/__mockforge/state/global/mode", 404, "STATE_NOT_FOUND"),
        ("/__mockforge/state/elsewhere/mode", 400, "BAD_FIELD"),
    ] {
        let refusal = server.refusal("GET", path, "").await;
        assert_eq!((refusal.0, refusal.1.as_str()), (status, reason), "{}", refusal.2);
    }
    server.ok("POST", "/__mockforge/state:reset", "{}").await;
    assert_eq!(server.ok("GET", "/__mockforge/state", "").await["total_size"], 0);
}

#[tokio::test]
async fn webhooks_are_made_shown_changed_listed_and_removed() {
    let server = Server::start();
    let mut sink = Sink::start(|_| ok()).await;
    let webhook = json!({
        "topic": "a/{{device}}", "url": sink.url, "headers": {"X-A": "{{device}}"}, "body": {"v": "{{payload.v}}"},
        "timeout": "0.25s", "when": {"payload": {"$.v": {"gt": 1}}}, "secret": "s3cret", "queue": 5,
    });
    let body = webhook.to_string().replace(r#"{"v":"{{payload.v}}"}"#, r#""{\"v\":\"{{payload.v}}\"}""#);
    let made = server.ok("POST", "/__mockforge/webhooks", body).await;
    assert_eq!(made["id"], "webhook-1");
    assert_eq!(
        (&made["method"], &made["enabled"], &made["from_settings"]),
        (&json!("POST"), &json!(true), &json!(false))
    );
    assert_eq!(
        (&made["timeout"], &made["backoff_max"], &made["retries"]),
        (&json!("0.250s"), &json!("30s"), &json!(5))
    );
    assert_eq!((&made["queue"], &made["when"]["payload"]["$.v"]["gt"]), (&json!(5), &json!(1.0)));
    assert!(made.get("secret").is_none(), "{made}");

    let device = server.client("dev").await;
    for value in [1, 2] {
        let payload = Bytes::from(format!("{{\"v\":{value}}}"));
        device.publish(publish("a/d1", payload)).await.unwrap().acked().await.unwrap();
    }
    let request = sink.next().await;
    assert_eq!((request.body.as_str(), request.header("x-a")), (r#"{"v":"2"}"#, "d1"));
    assert!(request.header("x-mockforge-signature").starts_with("t="));

    let of_webhook = "/__mockforge/webhooks/webhook-1";
    assert_eq!(server.ok("GET", of_webhook, "").await["topic"], "a/{{device}}");
    let changed = json!({"topic": "b", "url": sink.url}).to_string();
    assert_eq!(server.ok("PUT", of_webhook, changed).await["topic"], "b");
    device.publish(publish("b", Bytes::from_static(b"x"))).await.unwrap().acked().await.unwrap();
    // The secret stays.
    sink.next().await.header("x-mockforge-signature");
    server
        .ok("POST", "/__mockforge/webhooks", json!({"id": "x", "topic": "c", "url": sink.url}).to_string())
        .await;
    let listed = server.ok("GET", "/__mockforge/webhooks?page_size=1", "").await;
    assert_eq!((&listed["webhooks"][0]["id"], &listed["total_size"]), (&json!("webhook-1"), &json!(2)));
    let next = format!("/__mockforge/webhooks?page_token={}", listed["next_page_token"].as_str().unwrap());
    assert_eq!(server.ok("GET", &next, "").await["webhooks"][0]["id"], "x");
    for path in [of_webhook, "/__mockforge/webhooks/x"] {
        server.ok("DELETE", path, "").await;
    }
    assert_eq!(server.ok("GET", "/__mockforge/webhooks", "").await["webhooks"], json!([]));
    let (status, reason, _) = server.refusal("GET", of_webhook, "").await;
    assert_eq!((status, reason.as_str()), (404, "WEBHOOK_NOT_FOUND"));
}

#[tokio::test]
async fn webhooks_are_tested_and_their_deliveries_listed_and_sent_again() {
    let server = Server::start();
    let mut sink = Sink::start(|number| if number < 2 { status("404 No") } else { ok() }).await;
    let request = pb::WatchEventsRequest {
        kinds: vec![pb::EventKind::Webhook.into()],
        topics: vec!["t/#".to_owned()],
        ..Default::default()
    };
    let mut events = server.control.watch_events(request).await.unwrap();
    let webhook = json!({"id": "h", "topic": "t/+", "url": sink.url});
    server.ok("POST", "/__mockforge/webhooks", webhook.to_string()).await;
    let tested = server.ok("POST", "/__mockforge/webhooks/h:test", r#"{"payload": {"v": 1}}"#).await;
    assert_eq!((&tested["state"], &tested["status"]), (&json!("DELIVERY_STATE_FAILED"), &json!(404)));
    assert_eq!((&tested["topic"], &tested["request_body"]["payload"]), (&json!("test"), &json!({"v": 1})));
    assert_eq!(sink.next().await.header("x-mockforge-delivery"), tested["id"].as_str().unwrap());

    let published = json!({"topic": "t/1", "payload": "x"}).to_string();
    server.ok("POST", "/__mockforge/mqtt/publish", published).await;
    let first = sink.next().await;
    assert!(first.body.contains(r#""client_id":null"#), "{}", first.body);
    let Some(pb::server_event::Event::Webhook(event)) = soon(events.next()).await.unwrap().unwrap().event
    else {
        panic!("no event of a webhook");
    };
    assert_eq!((&*event.webhook, &*event.topic, &*event.error), ("h", "t/1", "answered 404 Not Found"));
    assert_eq!((&*event.delivery, event.attempts), (first.header("x-mockforge-delivery"), 1));
    let of_webhook = "/__mockforge/webhooks/h";
    let log = server.ok("GET", &format!("{of_webhook}/deliveries?states=DELIVERY_STATE_FAILED"), "").await;
    assert_eq!((&log["total_size"], &log["deliveries"][1]["id"]), (&json!(2), &tested["id"]));
    let failed = log["deliveries"][0]["id"].as_str().unwrap();
    assert_eq!(first.header("x-mockforge-delivery"), failed);

    let again = server.ok("POST", &format!("{of_webhook}/deliveries/{failed}:redeliver"), "").await;
    assert_eq!(again["state"], "DELIVERY_STATE_PENDING");
    let second = sink.next().await;
    assert_eq!((second.body, second.head.contains(again["id"].as_str().unwrap())), (first.body, true));
    assert_eq!(server.ok("POST", &format!("{of_webhook}:test"), r#"{"topic": "t/2"}"#).await["status"], 200);
    let refusal = server.refusal("POST", &format!("{of_webhook}/deliveries/none:redeliver"), "").await;
    assert_eq!((refusal.0, &*refusal.1), (404, "DELIVERY_NOT_FOUND"));
    let refusal = server.refusal("POST", &format!("{of_webhook}:test"), r#"{"topic": "t/+"}"#).await;
    assert_eq!((refusal.0, &*refusal.2), (400, "topic: wildcard '+' in a topic name"));
}

#[tokio::test]
async fn bad_webhooks_name_the_fields_of_the_request() {
    let server = Server::start();
    let webhook = json!({
        "id": "h", "topic": "a/#/b", "url": "http://h/{{topik}}", "headers": {"X-A": "{{payloat}}"}, "timeout": "0s",
        "when": {"qos": [3], "payload": {"$.a": {"regex": "("}}}, "ca_file": "../ca.pem",
    });
    let (status, reason, message) =
        server.refusal("POST", "/__mockforge/webhooks", webhook.to_string()).await;
    assert_eq!((status, reason.as_str()), (400, "BAD_FIELD"));
    expect_test::expect![[r#"
        webhook.timeout: is 1 to 600000 ms, not 0
        webhook.topic: level 1: '#' stands alone and last
        webhook.when.qos: QoS 3 is none of 0, 1 and 2
        webhook.when.payload.$.a.regex: unclosed group
        webhook.headers.X-A: unknown value "payloat"; did you mean "payload"?
        webhook.url: unknown value "topik"; did you mean "topic"?
        webhook.ca_file: "../ca.pem" is not a path below the settings file's folder"#]]
    .assert_eq(&message.replace("; webhook.", "\nwebhook."));
    let good = json!({"id": "h", "topic": "a", "url": "http://127.0.0.1:9/"}).to_string();
    server.ok("POST", "/__mockforge/webhooks", good.clone()).await;
    let (status, reason, _) = server.refusal("POST", "/__mockforge/webhooks", good).await;
    assert_eq!((status, reason.as_str()), (409, "WEBHOOK_EXISTS"));
    let other = json!({"id": "i", "topic": "a", "url": "http://127.0.0.1:9/"}).to_string();
    let (status, _, message) = server.refusal("PUT", "/__mockforge/webhooks/h", other).await;
    assert_eq!((status, message.contains("webhook.id: ")), (400, true), "{message}");
    let alone = Server::alone();
    let (status, reason, _) = alone.refusal("GET", "/__mockforge/webhooks", "").await;
    assert_eq!((status, reason.as_str()), (400, "NO_SERVER"));
}
