//! Webhooks against receivers of every kind.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Arc, Mutex, OnceLock, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{Semaphore, mpsc},
};
use tokio_rustls::rustls;

use super::{
    sink::{Reply, Sink, ok, status},
    soon,
};
use crate::{
    interceptor::Interest,
    mock::{Occasion, State, StateScope},
    net::{WebhookError, WebhookHandle, WebhookOptions},
    packet::QoS,
    webhook::{DeliveryState, RoutedMessage, Secret, WebhookDelivery, WebhookEvent, WebhookSpec, signature},
};

struct Office {
    handle: WebhookHandle,
    state: Arc<Mutex<State>>,
    events: mpsc::UnboundedReceiver<WebhookEvent>,
}

impl Office {
    fn start() -> Self {
        Self::bounded(16 << 20)
    }

    fn bounded(queue_bytes: usize) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(State::default()));
        let handle = WebhookHandle::start(WebhookOptions {
            template_steps: 1_000_000,
            runtime: Handle::current(),
            environment: BTreeMap::new(),
            folder: std::env::temp_dir(),
            state: Arc::clone(&state),
            seed: 1,
            queue_bytes,
            interest: Interest::default(),
            // The test may be over.
            on_event: Box::new(move |event| drop(sender.send(event))),
        });
        Self { handle, state, events }
    }

    /// With one webhook `h` for `t/#`.
    fn with(url: &str, fields: Value) -> Self {
        let office = Self::start();
        office.handle.create(spec(url, fields)).expect("a good spec");
        office
    }

    fn publish(&self, topic: &str, payload: impl Into<Bytes>) {
        self.handle.matcher().offer(topic, || message(topic, payload));
    }

    async fn event(&mut self) -> WebhookEvent {
        soon(self.events.recv()).await.expect("the handle is held")
    }

    /// The last delivery, once nothing waits any more.
    async fn last(&self) -> WebhookDelivery {
        soon(self.handle.emptied("h")).await;
        self.handle.deliveries("h").expect("the webhook is there").swap_remove(0)
    }

    /// Delivered, failed, dropped, retried, queued.
    fn figures(&self) -> [u64; 5] {
        let view = self.handle.get("h").expect("the webhook is there");
        [view.delivered, view.failed, view.dropped, view.retried, view.queued]
    }
}

fn spec(url: &str, fields: Value) -> WebhookSpec {
    let mut all = json!({"id": "h", "topic": "t/#", "url": url, "backoff_ms": 1});
    let Value::Object(fields) = fields else { panic!("fields of a spec") };
    all.as_object_mut().expect("an object").extend(fields);
    serde_json::from_value(all).expect("a spec")
}

fn message(topic: &str, payload: impl Into<Bytes>) -> RoutedMessage {
    let occasion = Occasion {
        topic: topic.to_owned(),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        client_identifier: "dev".to_owned(),
        ..Occasion::default()
    };
    RoutedMessage { occasion, at: Timestamp::now() }
}

#[tokio::test]
async fn a_message_is_posted_as_json() {
    let mut sink = Sink::start(|_| ok()).await;
    let office = Office::with(&sink.url, json!({"headers": {"X-Source": "mqtt"}}));
    office.publish("other", "1");
    office.publish("t/a", r#"{"v":1}"#);
    let request = sink.next().await;
    assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("x-source"), "mqtt");
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!((request.header("x-mockforge-webhook"), request.header("x-mockforge-attempt")), ("h", "1"));
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!(
        (&body["topic"], &body["payload"], &body["client_id"]),
        (&json!("t/a"), &json!({"v": 1}), &json!("dev"))
    );
    let delivery = office.last().await;
    assert_eq!(request.header("x-mockforge-delivery"), delivery.id.to_string());
    assert_eq!(
        (delivery.state, delivery.status, delivery.attempts),
        (DeliveryState::Delivered, Some(200), 1)
    );
    assert_eq!((delivery.url, delivery.error), (sink.url, String::new()));
    assert_eq!(
        (&delivery.request_body[..], &delivery.response_body[..]),
        (request.body.as_bytes(), &b"hi"[..])
    );
    assert!(delivery.ended_at.is_some() && delivery.duration.is_some());
    assert_eq!(office.figures(), [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_server_error_is_tried_again_with_the_same_request() {
    let mut sink = Sink::start(|number| if number == 0 { status("500 No") } else { ok() }).await;
    let office = Office::with(&sink.url, json!({}));
    office.publish("t/a", "x");
    let (first, second) = (sink.next().await, sink.next().await);
    assert_eq!((first.header("x-mockforge-attempt"), second.header("x-mockforge-attempt")), ("1", "2"));
    assert_eq!(first.header("x-mockforge-delivery"), second.header("x-mockforge-delivery"));
    assert_eq!(first.body, second.body);
    let delivery = office.last().await;
    assert_eq!(
        (delivery.state, delivery.attempts, delivery.error),
        (DeliveryState::Delivered, 2, String::new())
    );
    assert_eq!(office.figures(), [1, 0, 0, 1, 0]);
    assert_eq!(office.handle.get("h").expect("it is there").last_error, "answered 500 Internal Server Error");
}

#[tokio::test]
async fn a_message_is_given_up_after_its_retries_and_told_of() {
    let sink = Sink::start(|_| status("503 No")).await;
    let mut office = Office::with(&sink.url, json!({"retries": 2}));
    office.publish("t/a", "x");
    let event = office.event().await;
    assert_eq!((&*event.webhook, &*event.topic, event.attempts), ("h", "t/a", 3));
    let delivery = office.last().await;
    assert_eq!(event.delivery, delivery.id.to_string());
    assert_eq!((delivery.state, delivery.status, delivery.attempts), (DeliveryState::Failed, Some(503), 3));
    assert_eq!(office.figures(), [0, 1, 0, 2, 0]);
}

/// How the only attempt with such a receiver fails.
async fn failure(url: &str, fields: Value) -> WebhookDelivery {
    let office = Office::with(url, fields);
    office.publish("t/a", "x");
    let delivery = office.last().await;
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Failed, 1));
    delivery
}

#[tokio::test]
async fn a_slow_receiver_is_not_waited_for() {
    let sink = Sink::start(|_| Reply::Never).await;
    let delivery = failure(&sink.url, json!({"timeout_ms": 30, "retries": 0})).await;
    assert_eq!((&*delivery.error, delivery.status), ("no answer within 30 ms", None));
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all";
    let sink = Sink::start(move |_| Reply::Raw(head.to_vec())).await;
    let delivery = failure(&sink.url, json!({"timeout_ms": 30, "retries": 0})).await;
    assert_eq!(delivery.error, "no answer within 30 ms");
}

#[tokio::test]
async fn a_closed_port_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    drop(listener);
    let delivery = failure(&url, json!({"retries": 0})).await;
    assert!(delivery.error.contains("Connection refused"), "{}", delivery.error);
}

#[tokio::test]
async fn what_is_no_http_fails() {
    let sink = Sink::start(|_| Reply::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec())).await;
    let delivery = failure(&sink.url, json!({"retries": 0})).await;
    assert!(delivery.error.contains("HTTP"), "{}", delivery.error);
    let head: Vec<u8> = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".repeat(20_000)].concat();
    let sink = Sink::start(move |_| Reply::Raw(head.clone())).await;
    let delivery = failure(&sink.url, json!({"retries": 0})).await;
    assert!(delivery.error.contains("too large"), "{}", delivery.error);
}

#[tokio::test]
async fn a_redirect_is_neither_followed_nor_tried_again() {
    let reply = b"HTTP/1.1 307 Over there\r\nlocation: http://other/\r\ncontent-length: 0\r\n\r\n";
    let sink = Sink::start(move |_| Reply::Raw(reply.to_vec())).await;
    let delivery = failure(&sink.url, json!({})).await;
    assert!(delivery.error.ends_with("not followed, this one points to http://other/"), "{}", delivery.error);
}

#[tokio::test]
async fn of_a_huge_answer_the_beginning_is_read() {
    let reply =
        [b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n".to_vec(), vec![b'x'; 3_000_000]].concat();
    let mut sink = Sink::start(move |_| Reply::Raw(reply.clone())).await;
    let office = Office::with(&sink.url, json!({}));
    office.publish("t/a", "x");
    let delivery = office.last().await;
    assert_eq!((delivery.state, &delivery.response_body[..]), (DeliveryState::Delivered, &[b'x'; 1024][..]));
    office.publish("t/a", "y");
    sink.next().await;
    assert!(sink.next().await.body.contains("\"y\""));
}

#[tokio::test]
async fn connections_are_used_again() {
    let sink = Sink::start(|_| ok()).await;
    let office = Office::with(&sink.url, json!({}));
    for _ in 0..5 {
        office.publish("t/a", "x");
        office.last().await;
    }
    assert_eq!(sink.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn requests_are_in_the_order_of_the_messages_whatever_fails() {
    let mut sink = Sink::start(|number| if number % 3 == 1 { status("500 No") } else { ok() }).await;
    let office = Office::with(&sink.url, json!({"body": "fixed", "queue": 30}));
    for number in 0..20 {
        office.publish(&format!("t/{number}"), "x");
    }
    office.last().await;
    let deliveries = office.handle.deliveries("h").expect("it is there");
    let mut ended: Vec<_> = deliveries.iter().map(|delivery| (delivery.ended_at, &*delivery.topic)).collect();
    assert!(ended.is_sorted_by_key(|&(at, _)| std::cmp::Reverse(at)));
    ended.reverse();
    assert!(
        ended.iter().enumerate().all(|(number, (_, topic))| *topic == format!("t/{number}")),
        "{ended:?}"
    );
    assert_eq!(sink.next().await.body, "fixed");
    assert_eq!(office.figures()[0], 20);
}

/// A receiver that answers so many requests as permits are added.
async fn gated_sink() -> (Arc<Semaphore>, Sink) {
    let permits = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&permits);
    (gate, Sink::start(move |_| Reply::Once(Arc::clone(&permits))).await)
}

#[tokio::test]
async fn a_full_queue_drops_what_comes_and_counts_it() {
    let (gate, mut sink) = gated_sink().await;
    let office = Office::with(&sink.url, json!({"queue": 3, "body": ""}));
    office.publish("t/first", "x");
    sink.next().await;
    for number in 0..5 {
        office.publish(&format!("t/{number}"), "x");
    }
    assert_eq!(office.figures(), [0, 0, 2, 0, 4]);
    let waiting = office.handle.deliveries("h").expect("it is there");
    let states: Vec<_> = waiting.iter().map(|delivery| (&*delivery.topic, delivery.state)).collect();
    let pending = |topic| (topic, DeliveryState::Pending);
    assert_eq!(states, [pending("t/2"), pending("t/1"), pending("t/0"), pending("t/first")]);
    gate.add_permits(4);
    assert_eq!(office.last().await.topic, "t/2");
    assert_eq!(office.figures(), [4, 0, 2, 0, 0]);
}

#[tokio::test]
async fn the_memory_of_a_queue_is_bounded() {
    let (gate, mut sink) = gated_sink().await;
    let office = Office::bounded(4 << 20);
    office.handle.create(spec(&sink.url, json!({"body": ""}))).expect("a good spec");
    let payload = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..20 {
        office.publish("t/a", payload.clone());
    }
    sink.next().await;
    assert_eq!(office.figures(), [0, 0, 17, 0, 3]);
    gate.add_permits(3);
    office.last().await;
    office.publish("t/a", payload);
    gate.add_permits(1);
    office.last().await;
    assert_eq!(office.figures(), [4, 0, 17, 0, 0]);
}

#[tokio::test]
async fn so_many_requests_go_out_at_the_same_time_as_the_webhook_says() {
    let (gate, mut sink) = gated_sink().await;
    let office = Office::with(&sink.url, json!({"concurrency": 3, "body": ""}));
    for _ in 0..6 {
        office.publish("t/a", "x");
    }
    for _ in 0..3 {
        sink.next().await;
    }
    assert!(sink.requests.try_recv().is_err());
    office.handle.update("h", spec(&sink.url, json!({"concurrency": 5, "body": ""}))).expect("a good spec");
    for _ in 0..2 {
        sink.next().await;
    }
    gate.add_permits(6);
    office.last().await;
    assert_eq!(office.figures()[0], 6);
}

#[tokio::test]
async fn each_attempt_is_signed() {
    let mut sink = Sink::start(|number| if number == 0 { status("500 No") } else { ok() }).await;
    let office = Office::with(&sink.url, json!({"secret": "key"}));
    office.publish("t/a", "x");
    for _ in 0..2 {
        let request = sink.next().await;
        let header = request.header("x-mockforge-signature");
        let seconds = header.strip_prefix("t=").and_then(|rest| rest.split_once(',')).expect("a time").0;
        let seconds = seconds.parse().expect("a number");
        assert!(Timestamp::now().as_second() - seconds < 60);
        assert_eq!(header, signature(&Secret("key".to_owned()), seconds, request.body.as_bytes()));
    }
    let view = office.handle.get("h").expect("it is there");
    assert!(view.has_secret && view.spec.secret.is_none());
    office.handle.update("h", spec(&sink.url, json!({}))).expect("a good spec");
    assert!(office.handle.get("h").expect("it is there").has_secret);
}

/// A receiver with a certificate for 127.0.0.1, and a file with its authority.
async fn secure_sink(name: &str) -> (Sink, tempfile::NamedTempFile) {
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("good parameters");
    authority.distinguished_name.push(rcgen::DnType::CommonName, name);
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).expect("a certificate");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .expect("good parameters")
        .signed_by(&key, &rcgen::Issuer::new(authority, authority_key))
        .expect("a certificate");
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(authority_certificate.pem().as_bytes()).expect("it is written");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .expect("a good certificate");
    (Sink::listen(Arc::new(|_| ok()), Some(Arc::new(config).into())).await, file)
}

#[tokio::test]
async fn tls_receivers_are_checked_against_the_file_of_authorities() {
    let (mut sink, file) = secure_sink("one").await;
    let (_other, other_file) = secure_sink("other").await;
    let path = |file: &tempfile::NamedTempFile| {
        file.path().file_name().and_then(|name| name.to_str()).expect("text").to_owned()
    };
    let office = Office::with(&sink.url, json!({"ca_file": path(&file)}));
    office.publish("t/a", "x");
    assert!(sink.next().await.body.contains("\"t/a\""));
    assert_eq!(office.last().await.state, DeliveryState::Delivered);
    let delivery = failure(&sink.url, json!({"ca_file": path(&other_file), "retries": 0})).await;
    assert_eq!(
        delivery.error,
        "the receiver's certificate is of an authority that is not trusted; ca_file may name it"
    );
    let missing = office.handle.update("h", spec(&sink.url, json!({"ca_file": "nowhere/ca.pem"})));
    let Err(WebhookError::Bad(bad)) = missing else { panic!("{missing:?}") };
    assert_eq!(bad[0].path, "ca_file");
    let elsewhere = file.path().to_str().expect("text");
    let outside = office.handle.update("h", spec(&sink.url, json!({"ca_file": elsewhere})));
    let Err(WebhookError::Bad(bad)) = outside else { panic!("{outside:?}") };
    assert!(bad[0].what.ends_with("is not a path below the settings file's folder"), "{bad:?}");
    office
        .handle
        .replace_all(vec![spec(&sink.url, json!({"id": "s", "ca_file": elsewhere}))])
        .expect("a file");
    let kept = spec(&sink.url, json!({"id": "s", "ca_file": elsewhere, "enabled": false}));
    office.handle.update("s", kept).expect("what the settings say may stay");
}

#[tokio::test]
async fn a_delivery_is_sent_again_with_the_same_body_to_where_the_webhook_points_now() {
    let bad = Sink::start(|_| status("404 No")).await;
    let mut good = Sink::start(|_| ok()).await;
    let office = Office::with(&bad.url, json!({}));
    office.publish("t/a", "x");
    let failed = office.last().await;
    office.handle.update("h", spec(&good.url, json!({}))).expect("a good spec");
    let again = office.handle.redeliver("h", &failed.id.to_string()).expect("it is in the log");
    assert!(again.state == DeliveryState::Pending && again.id != failed.id);
    let request = good.next().await;
    assert_eq!(request.body.as_bytes(), &failed.request_body[..]);
    assert_eq!(request.header("x-mockforge-delivery"), again.id.to_string());
    let last = office.last().await;
    assert_eq!((last.id, last.state), (again.id, DeliveryState::Delivered));
    assert_eq!(office.figures(), [1, 1, 0, 0, 0]);
    let unknown = office.handle.redeliver("h", "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    assert!(matches!(unknown, Err(WebhookError::DeliveryNotFound { .. })), "{unknown:?}");
}

#[tokio::test]
async fn a_large_message_is_not_kept_to_be_sent_again() {
    let sink = Sink::start(|_| ok()).await;
    let office = Office::with(&sink.url, json!({}));
    office.publish("t/a", vec![b'x'; 100_000]);
    let delivery = office.last().await;
    assert_eq!((delivery.state, delivery.request_body.len()), (DeliveryState::Delivered, 64 << 10));
    let id = delivery.id.to_string();
    assert_eq!(office.handle.redeliver("h", &id), Err(WebhookError::NotKept(id.clone())));
}

#[tokio::test]
async fn a_test_is_one_request_that_counts_nowhere() {
    let sink = Sink::start(|number| if number == 0 { status("500 No") } else { ok() }).await;
    let office = Office::with(&sink.url, json!({"enabled": false}));
    assert!(!office.handle.is_active());
    let first = soon(office.handle.test("h", message("other", "x"))).await.expect("it is there");
    assert_eq!((first.state, first.status, first.attempts), (DeliveryState::Failed, Some(500), 1));
    let second = soon(office.handle.test("h", message("other", "x"))).await.expect("it is there");
    assert_eq!((second.state, second.error.as_str()), (DeliveryState::Delivered, ""));
    let log = office.handle.deliveries("h").expect("it is there");
    assert_eq!(log, [second, first]);
    assert_eq!(office.figures(), [0; 5]);
    assert_eq!(
        soon(office.handle.test("other", message("t", ""))).await,
        Err(WebhookError::NotFound("other".to_owned()))
    );
}

#[tokio::test]
async fn webhooks_are_made_changed_and_removed() {
    let office = Office::start();
    let handle = &office.handle;
    let named = |id: &str, topic: &str| WebhookSpec {
        id: id.to_owned(),
        topic: topic.to_owned(),
        url: "http://127.0.0.1:9/".to_owned(),
        ..WebhookSpec::default()
    };
    let mut matcher = handle.matcher();
    assert!(!handle.is_active() && matcher.find("t/a") == 0);
    assert_eq!(handle.create(named("", "t/#")).expect("a good spec").spec.id, "webhook-1");
    assert_eq!(handle.create(named("x", "t/+")).expect("a good spec").spec.id, "x");
    assert_eq!(handle.create(named("x", "t/+")), Err(WebhookError::Exists("x".to_owned())));
    assert_eq!((handle.is_active(), matcher.find("t/a"), matcher.find("t/a/b")), (true, 2, 1));
    handle.update("x", named("", "u")).expect("a good spec");
    assert_eq!((matcher.find("t/a"), matcher.find("u")), (1, 1));
    assert!(matches!(handle.update("x", named("y", "u")), Err(WebhookError::Bad(_))));
    handle.delete("webhook-1").expect("it is there");
    assert_eq!(handle.delete("webhook-1"), Err(WebhookError::NotFound("webhook-1".to_owned())));
    assert!(matcher.find("t/a") == 0 && handle.list().len() == 1);
    handle.update("x", WebhookSpec { enabled: false, ..named("x", "u") }).expect("a good spec");
    assert!(matcher.find("u") == 0 && !handle.is_active());
}

#[tokio::test]
async fn settings_replace_their_own_webhooks_and_leave_what_is_as_it_was() {
    let (gate, mut sink) = gated_sink().await;
    let office = Office::with(&sink.url, json!({"id": "api", "topic": "api"}));
    let url = sink.url.clone();
    let of_file = |id: &str, topic: &str| spec(&url, json!({"id": id, "topic": topic, "body": ""}));
    let ids = || office.handle.list().into_iter().map(|view| view.spec.id).collect::<Vec<_>>();
    office.handle.replace_all(vec![of_file("h", "t/#"), of_file("", "u")]).expect("good specs");
    assert_eq!(ids(), ["api", "h", "webhook-2"]);
    office.publish("t/a", "x");
    sink.next().await;
    office.publish("t/b", "x");
    let bad = office.handle.replace_all(vec![of_file("new", "a"), of_file("api", "b#"), of_file("new", "a")]);
    let Err(WebhookError::Bad(bad)) = bad else { panic!("{bad:?}") };
    let paths: Vec<_> = bad.iter().map(|bad| &*bad.path).collect();
    assert_eq!(paths, ["[1].id", "[1].topic", "[2].id"]);
    office.handle.replace_all(vec![of_file("h", "t/#"), of_file("new", "a")]).expect("good specs");
    assert_eq!(ids(), ["api", "h", "new"]);
    assert_eq!(office.figures()[4], 2);
    gate.add_permits(2);
    assert_eq!(office.last().await.topic, "t/b");
    let from_settings: Vec<_> = office.handle.list().iter().map(|view| view.from_settings).collect();
    assert_eq!(from_settings, [false, true, true]);
}

#[tokio::test]
async fn a_webhook_is_removed_with_what_waits_for_it() {
    let (gate, mut sink) = gated_sink().await;
    let office = Office::with(&sink.url, json!({"body": ""}));
    for _ in 0..3 {
        office.publish("t/a", "x");
    }
    sink.next().await;
    office.handle.delete("h").expect("it is there");
    gate.add_permits(10);
    office.handle.create(spec(&sink.url, json!({"body": ""}))).expect("the id is free");
    office.publish("t/b", "x");
    assert_eq!(office.last().await.topic, "t/b");
    sink.next().await;
    assert!(sink.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_disabled_webhook_keeps_what_waits_until_it_is_enabled() {
    let (gate, mut sink) = gated_sink().await;
    let office = Office::with(&sink.url, json!({"body": ""}));
    office.publish("t/a", "x");
    sink.next().await;
    office.publish("t/b", "x");
    office.handle.update("h", spec(&sink.url, json!({"body": "", "enabled": false}))).expect("a good spec");
    office.publish("t/c", "x");
    gate.add_permits(1);
    while office.figures() != [1, 0, 0, 0, 1] {
        tokio::task::yield_now().await;
    }
    office.handle.update("h", spec(&sink.url, json!({"body": ""}))).expect("a good spec");
    gate.add_permits(1);
    assert_eq!(office.last().await.topic, "t/b");
}

#[tokio::test]
async fn a_webhook_disabled_between_attempts_goes_on_once_it_is_enabled() {
    let known = Arc::new(OnceLock::<WebhookHandle>::new());
    let handle = Arc::clone(&known);
    let switch = |handle: &WebhookHandle, enabled| {
        let spec = handle.get("h").expect("it is there").spec;
        handle.update("h", WebhookSpec { enabled, ..spec }).expect("a good spec");
    };
    let mut sink = Sink::start(move |number| {
        if number > 0 {
            return ok();
        }
        switch(handle.get().expect("it is known"), false);
        status("500 No")
    })
    .await;
    let office = Office::with(&sink.url, json!({}));
    known.set(office.handle.clone()).ok().expect("only here");
    office.publish("t/a", "x");
    sink.next().await;
    // Nothing happens, which only time can show: the wait between attempts is 1 ms.
    let next = tokio::time::timeout(Duration::from_millis(50), sink.requests.recv()).await;
    assert!(next.is_err(), "{next:?}");
    assert_eq!(office.figures()[4], 1);
    switch(&office.handle, true);
    assert_eq!(sink.next().await.header("x-mockforge-attempt"), "2");
    assert_eq!(office.last().await.state, DeliveryState::Delivered);
}

/// Whoever looks at `when` waits for the state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_looked_at_is_in_the_queue() {
    let mut sink = Sink::start(|_| ok()).await;
    let fields = json!({"when": {"state": {"mode": "on"}}, "queue": 5});
    let office = Office::with(&sink.url, fields);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (hold, held) = tokio::sync::oneshot::channel();
    let state = Arc::clone(&office.state);
    let holder = std::thread::spawn(move || {
        let _guard = state.lock().expect("no panic");
        hold.send(()).expect("the test waits");
        let _ = released.recv();
    });
    held.await.expect("it is held");
    for _ in 0..20 {
        office.publish("t/a", "x");
        assert!(office.figures()[4] > 0);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(office.figures(), [0, 0, 15, 0, 5]);
    assert_eq!(office.handle.deliveries("h").expect("it is there").len(), 5);
    soon(office.handle.close(Duration::from_millis(10))).await;
    assert_eq!(office.figures(), [0, 5, 15, 0, 0]);
    release.send(()).expect("it is held until now");
    holder.join().expect("no panic");
    assert_eq!(office.figures(), [0, 5, 15, 0, 0]);
    assert!(sink.requests.try_recv().is_err());
}

#[tokio::test]
async fn what_is_not_shown_stays_when_it_is_written_back() {
    let mut sink = Sink::start(|number| if number == 0 { status("404 No") } else { ok() }).await;
    let url = format!("{}?token=t0&a=1", sink.url);
    let fields = json!({"headers": {"Authorization": "Bearer t0", "X-A": "1"}, "secret": "t0"});
    let office = Office::with(&url, fields);
    let shown = office.handle.get("h").expect("it is there").spec;
    assert_eq!((&*shown.headers["Authorization"], &*shown.headers["X-A"]), ("********", "1"));
    assert!(shown.url.ends_with("/hook?token=********&a=1"), "{}", shown.url);
    let changed = WebhookSpec { method: "PUT".to_owned(), ..shown.clone() };
    assert_eq!(office.handle.update("h", changed.clone()).expect("a good spec").spec, changed);
    office.publish("t/a", "x");
    let request = sink.next().await;
    assert!(request.head.starts_with("PUT /hook?token=t0&a=1 "), "{}", request.head);
    assert_eq!(request.header("authorization"), "Bearer t0");
    request.header("x-mockforge-signature");
    let delivery = office.last().await;
    assert!(!format!("{delivery:?}").contains("t0"), "{delivery:?}");
    let Err(WebhookError::Bad(bad)) = office.handle.create(WebhookSpec { id: "new".to_owned(), ..shown })
    else {
        panic!("nothing is known for the masks");
    };
    assert_eq!(bad.iter().map(|bad| &*bad.path).collect::<Vec<_>>(), ["url", "headers.Authorization"]);
}

#[tokio::test]
async fn closing_gives_what_waits_a_bounded_time_and_counts_the_rest_as_failed() {
    let mut sink = Sink::start(|_| ok()).await;
    let office = Office::with(&sink.url, json!({}));
    office.publish("t/a", "x");
    soon(office.handle.close(Duration::from_secs(20))).await;
    sink.next().await;
    assert_eq!(office.figures(), [1, 0, 0, 0, 0]);

    let sink = Sink::start(|_| Reply::Never).await;
    let office = Office::with(&sink.url, json!({}));
    for _ in 0..3 {
        office.publish("t/a", "x");
    }
    soon(office.handle.close(Duration::from_millis(10))).await;
    office.publish("t/a", "x");
    assert_eq!(office.figures()[..3], [0, 3, 1]);
    assert_eq!(office.handle.create(spec(&sink.url, json!({}))), Err(WebhookError::Closed));
}

#[tokio::test]
async fn only_what_a_condition_holds_of_is_sent_and_nth_counts_that() {
    let mut sink = Sink::start(|_| ok()).await;
    let when = json!({"payload": {"$.v": {"gt": 1}}, "state": {"mode": "on"}, "nth": {"every": 2}});
    let fields = json!({"when": when, "body": "{{payload.v}} {{count}} {{state.mode}}"});
    let office = Office::with(&sink.url, fields.clone());
    let publish = |values: &[u32]| {
        for value in values {
            office.publish("t/a", format!("{{\"v\":{value}}}"));
        }
    };
    publish(&[2, 3]);
    office.publish("t/a", "no JSON");
    soon(office.handle.emptied("h")).await;
    let mode = "on".into();
    office.state.lock().expect("no panic").set(&StateScope::Global, "mode", mode).expect("there is room");
    publish(&[1, 4, 5, 1, 6, 7]);
    assert_eq!([sink.next().await.body, sink.next().await.body], ["5 1 on", "7 2 on"]);
    publish(&[8]);
    soon(office.handle.emptied("h")).await;
    office.handle.update("h", spec(&sink.url, fields)).expect("a good spec");
    publish(&[9, 10]);
    assert_eq!(sink.next().await.body, "10 3 on");
    soon(office.handle.emptied("h")).await;
    assert_eq!(office.figures(), [3, 0, 0, 0, 0]);
}
