//! The Rust snippets of the user guide, against a server of ours.
//!
//! Mended where they would not compile with today's rumqttc (its async client is `AsyncClient`, and
//! an event loop has to be polled for anything to be sent) and for the port, which is free here.

use std::time::Duration;

use bytes::Bytes;
use mockforge::{RunningServer, mqtt::metrics};
use rumqttc::{AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, QoS};

use crate::running::{self, Alone};

/// What the guide calls `create_client()`: each call a client identifier of its own.
fn create_client(server: &RunningServer, client_id: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(client_id, "localhost", server.port());
    options.set_keep_alive(Duration::from_secs(5));
    AsyncClient::new(options, 10)
}

#[tokio::test]
async fn test_mqtt_connection() {
    let server = running::start().await;
    let mut mqttoptions = MqttOptions::new("test-client", "localhost", server.port());
    mqttoptions.set_keep_alive(Duration::from_secs(5));

    let (_client, mut eventloop) = AsyncClient::new(mqttoptions, 10);

    // Connection should succeed
    let event = eventloop.poll().await.unwrap();
    assert!(matches!(event, Event::Incoming(Packet::ConnAck(_))));
}

#[tokio::test]
async fn test_publish_subscribe() {
    let server = running::start().await;
    let (client, mut eventloop) = create_client(&server, "publish-subscribe");

    // Subscribe
    client.subscribe("test/topic", QoS::AtLeastOnce).await.unwrap();

    // Publish
    client.publish("test/topic", QoS::AtLeastOnce, false, "hello").await.unwrap();

    // Verify message received
    loop {
        match eventloop.poll().await.unwrap() {
            Event::Incoming(Packet::Publish(p)) => {
                assert_eq!(p.topic, "test/topic");
                assert_eq!(p.payload, Bytes::from("hello"));
                break;
            }
            _ => continue,
        }
    }
}

#[tokio::test]
async fn test_qos2_exactly_once() {
    let server = running::start().await;
    let (client, mut eventloop) = create_client(&server, "qos2");

    client.subscribe("qos2/test", QoS::ExactlyOnce).await.unwrap();
    client.publish("qos2/test", QoS::ExactlyOnce, false, "important").await.unwrap();

    // Verify full QoS 2 handshake
    let mut received_publish = false;
    let mut received_pubcomp = false;

    while !received_publish || !received_pubcomp {
        match eventloop.poll().await.unwrap() {
            Event::Incoming(Packet::Publish(_)) => received_publish = true,
            Event::Incoming(Packet::PubComp(_)) => received_pubcomp = true,
            _ => {}
        }
    }

    assert!(received_publish && received_pubcomp);
}

#[tokio::test]
async fn test_retained_messages() {
    let server = running::start().await;
    let (client1, mut eventloop1) = create_client(&server, "retainer");

    // Publish retained message
    client1.publish("retained/topic", QoS::AtLeastOnce, true, "retained-value").await.unwrap();
    while !matches!(eventloop1.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}

    // New client should receive retained message on subscribe
    let (client2, mut eventloop2) = create_client(&server, "newcomer");
    client2.subscribe("retained/topic", QoS::AtLeastOnce).await.unwrap();

    loop {
        match eventloop2.poll().await.unwrap() {
            Event::Incoming(Packet::Publish(p)) => {
                assert!(p.retain);
                assert_eq!(p.payload, Bytes::from("retained-value"));
                break;
            }
            _ => continue,
        }
    }
}

#[tokio::test]
async fn test_last_will() {
    let server = running::start().await;

    // Subscribe to will topic from another client
    let (observer, mut obs_eventloop) = create_client(&server, "observer");
    observer.subscribe("clients/status", QoS::AtLeastOnce).await.unwrap();
    while !matches!(obs_eventloop.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}

    let mut options = MqttOptions::new("will-client", "localhost", server.port());
    options.set_last_will(LastWill::new("clients/status", "offline", QoS::AtLeastOnce, false));

    let (client, mut eventloop) = AsyncClient::new(options, 10);
    assert!(matches!(eventloop.poll().await.unwrap(), Event::Incoming(Packet::ConnAck(_))));

    // Abruptly disconnect will-client (simulating crash)
    drop(client);
    drop(eventloop);

    // Observer should receive LWT message
    loop {
        if let Event::Incoming(Packet::Publish(p)) = obs_eventloop.poll().await.unwrap() {
            assert_eq!((p.topic.as_str(), p.payload), ("clients/status", Bytes::from("offline")));
            break;
        }
    }
}

#[tokio::test]
async fn broker_stats_are_those_of_the_server_started_last() {
    let alone = Alone::begin().await;
    let _first = alone.start().await;
    let server = alone.start().await;
    let (_client, mut eventloop) = create_client(&server, "counted");
    assert!(matches!(eventloop.poll().await.unwrap(), Event::Incoming(Packet::ConnAck(_))));

    let stats = metrics::get_broker_stats().await;
    println!("Active connections: {}", stats.active_connections);
    println!("Messages/sec: {}", stats.messages_per_second);
    assert_eq!(stats.active_connections, 1);
}
