//! A server inside another program: `Server::builder()` and what it answers with.

use std::{net::TcpListener, time::Duration};

use mockforge::{
    RunningServer, Server, StartError, WaitError,
    control::{ControlError, pb},
    journal::MatchSpec,
    mock::{MockSpec, ResponseSpec},
};
use rumqttc::{AsyncClient, Client, Event, EventLoop, MqttOptions, Packet, Publish, QoS};
use serde_json::json;

use crate::running::{start, start_as};

fn client_of(server: &RunningServer, client_id: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(client_id, server.address().ip().to_string(), server.port());
    options.set_keep_alive(Duration::from_secs(5));
    AsyncClient::new(options, 10)
}

async fn connected(server: &RunningServer, client_id: &str) -> (AsyncClient, EventLoop) {
    let (client, mut eventloop) = client_of(server, client_id);
    assert!(matches!(eventloop.poll().await.unwrap(), Event::Incoming(Packet::ConnAck(_))));
    (client, eventloop)
}

async fn next_message(eventloop: &mut EventLoop) -> Publish {
    loop {
        if let Event::Incoming(Packet::Publish(publish)) = eventloop.poll().await.unwrap() {
            return publish;
        }
    }
}

async fn subscribed(server: &RunningServer, client_id: &str, filter: &str) -> (AsyncClient, EventLoop) {
    let (client, mut eventloop) = connected(server, client_id).await;
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    while !matches!(eventloop.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    (client, eventloop)
}

#[tokio::test]
async fn what_the_program_publishes_reaches_its_device() {
    let server = start().await;
    let (_client, mut eventloop) = subscribed(&server, "device", "devices/d1/set").await;
    let published = server.publish("devices/d1/set", "on").await.unwrap();
    assert_eq!(published.receivers, Some(1));
    assert_eq!(next_message(&mut eventloop).await.payload, "on");
    assert_eq!(server.clients().await.unwrap()[0].client_id, "device");
    assert_eq!(server.stats().await.active_connections, 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_device_is_waited_for_and_who_is_there_instead_is_told() {
    let server = start().await;
    let device = async {
        let (client, mut eventloop) = subscribed(&server, "device-7", "devices/+/set").await;
        (next_message(&mut eventloop).await.payload, client)
    };
    let test = async {
        let limit = Duration::from_secs(10);
        assert_eq!(server.wait_for_client("device-*", limit).await.unwrap().client_id, "device-7");
        let there = server.wait_for_subscriber("devices/d1/set", limit).await.unwrap();
        assert_eq!((there.client_id, there.filter), ("device-7".to_owned(), "devices/+/set".to_owned()));
        let late = server.wait_for_client("other", Duration::ZERO).await.unwrap_err().to_string();
        assert_eq!(late, "no client \"other\" connected within 0ns; there is device-7");
        let late = server.wait_for_subscriber("a", Duration::ZERO).await.unwrap_err().to_string();
        assert_eq!(late, "nobody subscribed to \"a\" within 0ns; there is devices/+/set");
        let wrong = server.wait_for_subscriber("a/#", limit).await.unwrap_err();
        assert!(matches!(wrong, WaitError::Control(_)), "{wrong}");
        server.publish("devices/d1/set", "on").await.unwrap();
    };
    let ((payload, _client), ()) = tokio::join!(device, test);
    assert_eq!(payload, "on");
}

#[tokio::test]
async fn mocks_answer_from_the_start_and_from_when_they_are_added() {
    let mock = MockSpec {
        topic: "devices/+/get".to_owned(),
        response: Some(ResponseSpec { payload: Some(json!({"on": true})), ..Default::default() }),
        ..Default::default()
    };
    let server = start_as(Server::builder().mock(mock)).await;
    server.mocks().add_yaml("{id: late, topic: late, response: {payload: yes indeed}}").unwrap();
    let (client, mut eventloop) = subscribed(&server, "device", "#").await;
    client.publish("devices/d1/get", QoS::AtMostOnce, false, "?").await.unwrap();
    assert_eq!(next_message(&mut eventloop).await.payload, "?");
    assert_eq!(next_message(&mut eventloop).await.payload, r#"{"on":true}"#);
    client.publish("late", QoS::AtMostOnce, false, "?").await.unwrap();
    assert_eq!(next_message(&mut eventloop).await.payload, "?");
    assert_eq!(next_message(&mut eventloop).await.payload, "yes indeed");

    let fired: Vec<u64> = server.mocks().list().iter().map(|mock| mock.figures.fired).collect();
    assert_eq!(fired, [1, 1]);
    server.mocks().remove("late").await.unwrap();
    assert_eq!(server.mocks().list().len(), 1);
    server.mocks().clear().await.unwrap();
    assert_eq!(server.mocks().list().len(), 0);
}

#[tokio::test]
async fn a_mock_or_a_rule_that_is_wrong_is_named() {
    let server = start().await;
    let error = server.mocks().add_yaml("- topic: a/#/b\n  response: {payload: x}").unwrap_err().to_string();
    assert!(error.contains("mock:1:10: [0].topic: "), "{error}");
    let error = server.mocks().add_yaml("{topic: a, response: {payload: '{{'}}").unwrap_err().to_string();
    assert!(error.contains("[0].response.payload: "), "{error}");
    let error = server.chaos().add_yaml("{actions: [explode]}").unwrap_err().to_string();
    assert!(error.contains("rule:1:"), "{error}");

    let refused = Server::builder().mock(MockSpec::default()).start().await.unwrap_err();
    assert!(matches!(&refused, StartError::Refused { what: "mock", position: 0, .. }), "{refused}");
}

#[tokio::test]
async fn chaos_disconnects_a_device_and_is_reset() {
    let server = start().await;
    let rules = server.chaos().add_yaml("{match: {types: [PUBLISH], direction: c2s}, actions: [disconnect]}");
    assert_eq!(rules.unwrap().len(), 1);
    let (client, mut eventloop) = connected(&server, "device").await;
    client.publish("a", QoS::AtMostOnce, false, "x").await.unwrap();
    while eventloop.poll().await.is_ok() {}
    assert_eq!(server.chaos().faults().await.unwrap()[0].client_id, "device");

    server.chaos().reset().await.unwrap();
    let (client, mut eventloop) = subscribed(&server, "device", "a").await;
    client.publish("a", QoS::AtMostOnce, false, "y").await.unwrap();
    assert_eq!(next_message(&mut eventloop).await.payload, "y");
}

#[tokio::test]
async fn a_recording_is_made_exported_and_played_again() {
    let server = start().await;
    let recording = server.recordings().start("hello").await.unwrap();
    let (client, mut eventloop) = subscribed(&server, "device", "a").await;
    client.publish("a", QoS::AtLeastOnce, false, "x").await.unwrap();
    next_message(&mut eventloop).await;
    recording.mark("said").await.unwrap();
    let recording = recording.stop().await.unwrap();
    assert_eq!(recording.state(), pb::RecordingState::Complete);
    let events = server.recordings().events("hello").await.unwrap();
    let is_mark = |event: &pb::RecordedEvent| matches!(&event.kind, Some(pb::recorded_event::Kind::Mark(mark)) if mark.label == "said");
    assert!(events.iter().any(is_mark), "{events:?}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hello.json");
    server.recordings().export("hello", &path).await.unwrap();
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(file["format"], "mockforge.mqtt.session");

    let spec = pb::ReplaySpec { recording: "hello".to_owned(), speed: Some(0.0), ..Default::default() };
    let replay = tokio::spawn({
        let recordings = server.recordings();
        async move { recordings.replay(spec).await }
    });
    assert_eq!(next_message(&mut eventloop).await.payload, "x");
    // The device acknowledges while its event loop is polled.
    let replay = tokio::select! {
        replay = replay => replay.unwrap().unwrap(),
        error = async { loop { if let Err(error) = eventloop.poll().await { break error } } } => panic!("{error}"),
    };
    assert_eq!(replay.verdict(), pb::ReplayVerdict::Passed);

    let error = server.recordings().start("hello").await.err().expect("it is taken").to_string();
    assert!(error.contains("hello"), "{error}");
    let export = server.recordings().export("nothing", &path).await.unwrap_err();
    assert!(export.to_string().contains("nothing"), "{export}");
    assert!(path.exists(), "what was there before stays");
}

#[tokio::test]
async fn a_dropped_server_ends_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_as(Server::builder().store(folder.path())).await;
    let address = server.address();
    let _goes_on = server.recordings().start("last words").await.unwrap();
    let (client, mut eventloop) = connected(&server, "device").await;
    client.publish("a", QoS::AtLeastOnce, false, "x").await.unwrap();
    while !matches!(eventloop.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}
    let (mocks, recordings) = (server.mocks(), server.recordings());
    drop(server);

    TcpListener::bind(address).expect("the port is free");
    assert!(eventloop.poll().await.is_err(), "the device was disconnected");
    assert!(matches!(mocks.clear().await, Err(ControlError::Stopping)));
    assert!(matches!(recordings.get("last words").await, Err(ControlError::Stopping)));

    let server = start_as(Server::builder().store(folder.path())).await;
    let recording = server.recordings().get("last words").await.unwrap();
    assert_eq!(recording.state(), pb::RecordingState::Complete);
}

#[test]
fn programs_without_a_runtime_start_one_too() {
    let server = Server::builder().start_blocking().unwrap();
    let mut options = MqttOptions::new("device", "127.0.0.1", server.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut connection) = Client::new(options, 10);
    client.subscribe("a", QoS::AtLeastOnce).unwrap();
    for event in connection.iter() {
        if let Event::Incoming(Packet::SubAck(_)) = event.unwrap() {
            break;
        }
    }
    let published = server.block_on(server.publish("a", "x")).unwrap();
    assert_eq!(published.receivers, Some(1));
    for event in connection.iter() {
        if let Event::Incoming(Packet::Publish(publish)) = event.unwrap() {
            assert_eq!(publish.payload, "x");
            break;
        }
    }
    server.block_on(server.clients()).unwrap();
}

#[tokio::test]
async fn a_proxy_stands_before_another_server() {
    let broker = start().await;
    let proxy = start_as(Server::builder().upstream(&broker.url())).await;
    let (_client, mut eventloop) = subscribed(&proxy, "device", "a").await;
    broker.publish("a", "x").await.unwrap();
    assert_eq!(next_message(&mut eventloop).await.payload, "x");
    assert_eq!(proxy.stats().await.active_connections, 1);
}

#[tokio::test]
async fn the_builder_goes_before_a_settings_file_and_that_before_its_own_defaults() {
    let yaml = "mqtt: {port: 1, limits: {maximum_qos: 0}}\nhttp: {port: 0, enabled: true}";
    let server = start_as(Server::builder().config_text(yaml).port(0)).await;
    assert_ne!(server.port(), 1);
    assert!(server.addresses().http.is_some());
    assert_eq!(server.addresses().grpc, None);
    let server = start_as(Server::builder().http_port(0).grpc_port(0)).await;
    assert!(server.addresses().http.is_some() && server.addresses().grpc.is_some());
}

#[tokio::test]
async fn a_setting_that_is_wrong_is_named() {
    let error = |builder: mockforge::ServerBuilder| async { builder.start().await.unwrap_err().to_string() };
    assert_eq!(
        error(Server::builder().set("mqtt.prot", 1)).await,
        "Server::builder(): unknown key \"mqtt.prot\"; did you mean mqtt.port?"
    );
    let text = error(Server::builder().set("mqtt.limits.maximum_qos", 3)).await;
    assert!(text.starts_with("Server::builder(): mqtt.limits.maximum_qos: "), "{text}");
    let text = error(Server::builder().config_text("mqtt:\n  prot: 1")).await;
    assert!(text.starts_with("config_text:2:3: unknown key \"prot\""), "{text}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = error(Server::builder().port(taken.local_addr().unwrap().port())).await;
    assert!(text.starts_with("cannot listen for MQTT on 127.0.0.1:"), "{text}");
}

#[tokio::test]
async fn messages_are_waited_for_from_before_and_from_then_on() {
    let server = start().await;
    let messages = server.messages();
    let (client, mut eventloop) = connected(&server, "device").await;
    client.publish("devices/d1/state", QoS::AtLeastOnce, false, r#"{"v":3}"#).await.unwrap();
    while !matches!(eventloop.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}
    let state = messages.wait_for("devices/+/state", Duration::from_secs(10)).await.unwrap();
    assert_eq!((state.topic.as_str(), state.client_identifier.as_str()), ("devices/d1/state", "device"));

    let cursor = messages.cursor().unwrap();
    let waiting = tokio::spawn({
        let messages = messages.clone();
        async move { messages.wait_for_count("devices/#", 2, Some(cursor), Duration::from_secs(10)).await }
    });
    server.publish("devices/d2/state", "a").await.unwrap();
    server.publish("devices/d3/state", "b").await.unwrap();
    let payloads: Vec<_> = waiting.await.unwrap().unwrap().into_iter().map(|entry| entry.payload).collect();
    assert_eq!(payloads, ["a", "b"]);
    assert_eq!(messages.count("devices/#").await.unwrap(), 3);
    messages.expect("devices/#", 3).await.unwrap();
    assert_eq!(messages.find("devices/d3/#").await.unwrap().len(), 1);
    assert_eq!(messages.clear().unwrap(), 3);
    assert_eq!(messages.count("#").await.unwrap(), 0);
}

#[tokio::test]
async fn what_did_not_come_is_told_with_what_came_nearest() {
    let server = start().await;
    server.publish("devices/d1/state", r#"{"v":3}"#).await.unwrap();
    let meant = MatchSpec { payload: json!({"$.v": {"gt": 5}}), ..MatchSpec::from("devices/+/state") };
    let error = server.messages().wait_for(meant.clone(), Duration::from_millis(1)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("expected at least 1 message on devices/+/state within 1ms, found 0"), "{text}");
    assert!(text.contains("devices/d1/state") && text.contains("$.v"), "{text}");
    let error = server.messages().expect(meant, 1).await.unwrap_err().to_string();
    assert!(error.contains("expected exactly 1 message, found 0"), "{error}");
    let error = server.messages().expect("devices/#".to_owned(), 0).await.unwrap_err().to_string();
    assert_eq!(error, "expected no message, found 1\n  came: #1 devices/d1/state {\"v\":3} from api");
    server.messages().expect("devices/#", 1..=2).await.unwrap();
    let error = server.messages().count("a/#/b").await.unwrap_err().to_string();
    assert!(error.contains("topic"), "{error}");
}
