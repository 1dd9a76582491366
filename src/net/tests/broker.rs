//! The broker thread, seen by our own client, by rumqttc and by raw bytes.

use rumqttc::{AsyncClient, Event as Rumqttc, EventLoop, MqttOptions, Packet};

use super::*;
use crate::{
    net::{ClientError, Stopped},
    packet::ReasonCode,
    recording::{CloseCause, Direction},
    tap::Observed,
};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[tokio::test] // [MQTT-4.2-1], [MQTT3-7.1.1-1]
async fn messages_of_every_qos_arrive_in_order_between_both_versions() {
    let broker = TestBroker::new();
    for from in VERSIONS {
        for to in VERSIONS {
            let sender = broker.client("sender", from).await;
            let mut receiver = broker.client("receiver", to).await;
            let granted = soon(receiver.subscribe(filters("t/#", QoS::ExactlyOnce), Properties::new())).await;
            assert_eq!(granted.expect("granted").reason_codes, [ReasonCode::GRANTED_QOS_2]);
            for qos in LEVELS {
                let mut receipts = Vec::new();
                for number in 0..500 {
                    let message = publish("t/a", qos, format!("{number}"));
                    receipts.push(soon(sender.publish(message)).await.expect("sent"));
                }
                for number in 0..500 {
                    let message = soon(receiver.next_message()).await.expect("a message");
                    assert_eq!((message.qos, &message.payload[..]), (qos, format!("{number}").as_bytes()));
                }
                for receipt in receipts {
                    assert_eq!(soon(receipt.acked()).await.expect("acked"), ReasonCode::SUCCESS);
                }
            }
            soon(sender.disconnect(ReasonCode::SUCCESS)).await.expect("disconnected");
            soon(receiver.disconnect(ReasonCode::SUCCESS)).await.expect("disconnected");
        }
    }
    let view = broker.metrics.view().await;
    assert_eq!(view.published, [2000, 2000, 2000]);
}

async fn rumqttc_event(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) -> Packet {
    loop {
        if let Rumqttc::Incoming(packet) = soon(events.poll()).await.expect("connected")
            && wanted(&packet)
        {
            return packet;
        }
    }
}

#[tokio::test]
async fn a_client_that_others_wrote_gets_what_it_publishes() {
    let broker = TestBroker::new();
    let mut options = MqttOptions::new("other", "127.0.0.1", broker.address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe("qos2/test", rumqttc::QoS::ExactlyOnce).await.expect("queued");
    rumqttc_event(&mut events, |packet| matches!(packet, Packet::SubAck(_))).await;
    client.publish("qos2/test", rumqttc::QoS::ExactlyOnce, false, "important").await.expect("queued");
    let (mut received, mut completed) = (false, false);
    while !received || !completed {
        match rumqttc_event(&mut events, |_| true).await {
            Packet::Publish(publish) => received = publish.payload == "important",
            Packet::PubComp(_) => completed = true,
            _ => {}
        }
    }
}

#[tokio::test]
async fn packets_arrive_whatever_pieces_they_are_sent_in() {
    let broker = TestBroker::new();
    let mut receiver = broker.client("receiver", ProtocolVersion::V5).await;
    soon(receiver.subscribe(filters("t", QoS::AtMostOnce), Properties::new())).await.expect("granted");
    let mut raw = Raw::login(broker.address, "raw", ProtocolVersion::V311).await;
    let big = vec![b'x'; 60_000];
    let mut stream = Vec::new();
    for payload in [&b"one"[..], &big, b"two", b"three"] {
        let message = ControlPacket::Publish(publish("t", QoS::AtMostOnce, payload.to_vec()));
        stream.extend_from_slice(&Frame::encode(message, ProtocolVersion::V311).expect("encodes").bytes);
    }
    for piece in stream.chunks(7001) {
        raw.write(piece).await;
    }
    for payload in [&b"one"[..], &big, b"two", b"three"] {
        assert_eq!(soon(receiver.next_message()).await.expect("a message").payload, payload);
    }
}

#[tokio::test]
async fn a_packet_that_had_begun_when_its_connection_ended_is_seen_as_bytes() {
    let broker = TestBroker::new();
    let begun = b"\x30\x14\x00\x01ahal";
    for is_taken_over in [false, true] {
        let log = Arc::new(Log::default());
        let _attachment = broker.tap.attach(log.clone());
        let mut raw = Raw::login(broker.address, "half", ProtocolVersion::V5).await;
        // Its answer says that what follows was read, too.
        raw.write(&[b"\xc0\x00".as_slice(), begun].concat()).await;
        assert_eq!(raw.packet().await, Some(ControlPacket::Pingresp));
        if is_taken_over {
            drop(broker.client("half", ProtocolVersion::V5).await);
        }
        drop(raw);
        let seen = until(|| {
            let mut seen = log.0.lock().expect("no panic").clone();
            let first = seen.first()?.connection;
            seen.retain(|seen| seen.connection == first);
            matches!(seen.last()?.what, Observed::Close(_)).then_some(seen)
        })
        .await;
        let before = &seen[seen.len() - 2].what;
        let Observed::Raw { direction: Direction::ClientToServer, bytes } = before else {
            panic!("taken over: {is_taken_over}: {before:?}")
        };
        assert_eq!(bytes[..], begun[..], "taken over: {is_taken_over}");
    }
}

#[tokio::test] // [MQTT-4.13.1-1]
async fn a_malformed_packet_is_answered_with_a_disconnect_and_a_clean_close() {
    let broker = TestBroker::new();
    let mut raw = Raw::login(broker.address, "bad", ProtocolVersion::V5).await;
    let other = broker.client("other", ProtocolVersion::V5).await;
    // A PUBLISH with QoS 3, and much behind it that nobody will read.
    let mut bytes = b"\x36\x03\x00\x01a".to_vec();
    bytes.extend([0; 100_000]);
    raw.write(&bytes).await;
    let Some(ControlPacket::Disconnect(disconnect)) = raw.packet().await else { panic!("no DISCONNECT") };
    assert_eq!(disconnect.reason_code, ReasonCode::MALFORMED_PACKET);
    assert_eq!(raw.packet().await, None);
    soon(other.subscribe(filters("t", QoS::AtMostOnce), Properties::new())).await.expect("still served");
}

#[tokio::test] // [MQTT-3.1.4-1], section 3.2.2.2
async fn a_malformed_connect_is_answered_in_its_version() {
    let broker = TestBroker::new();
    // Receive Maximum 0.
    let v5 = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3c\x03\x21\x00\x00\x00\x03dev";
    for observed in [false, true] {
        let log = Arc::new(Log::default());
        let _attachment = observed.then(|| broker.tap.attach(log));
        let mut client = broker.raw().await;
        client.write(v5).await;
        assert_eq!(client.read_to_end().await, b"\x20\x03\x00\x82\x00", "observed: {observed}");
        // The reserved flag of a 3.1.1 CONNECT.
        let mut client = broker.raw().await;
        client.write(b"\x10\x0f\x00\x04MQTT\x04\x03\x00\x3c\x00\x03dev").await;
        assert_eq!(client.read_to_end().await, b"", "observed: {observed}");
    }
}

#[tokio::test]
async fn a_packet_over_the_maximum_is_refused_as_soon_as_its_length_is_known() {
    let broker = TestBroker::start(Limits { max_packet_size: 1000, ..Limits::default() }, 10);
    let mut raw = Raw::login(broker.address, "big", ProtocolVersion::V5).await;
    raw.write(&[0x30, 0xff, 0xff, 0xff, 0x7f]).await;
    let Some(ControlPacket::Disconnect(disconnect)) = raw.packet().await else { panic!("no DISCONNECT") };
    assert_eq!(disconnect.reason_code, ReasonCode::PACKET_TOO_LARGE);
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_does_not_stall_others() {
    let limits = Limits { outbox_bytes: 64 << 10, ..Limits::default() };
    let broker = TestBroker::start(limits, 10);
    let mut slow = Raw::login(broker.address, "slow", ProtocolVersion::V5).await;
    slow.write(b"\x82\x07\x00\x01\x00\x00\x01#\x00").await;
    assert!(matches!(slow.packet().await, Some(ControlPacket::Suback(_))));
    let mut quick = broker.client("quick", ProtocolVersion::V5).await;
    soon(quick.subscribe(filters("#", QoS::AtMostOnce), Properties::new())).await.expect("granted");
    let sender = broker.client("sender", ProtocolVersion::V5).await;
    // More than any kernel keeps for a socket that is not read.
    let payload = Bytes::from(vec![0; 32 << 10]);
    for _ in 0..1000 {
        soon(sender.publish(publish("t", QoS::AtMostOnce, payload.clone()))).await.expect("sent");
        assert_eq!(soon(quick.next_message()).await.expect("a message").payload.len(), payload.len());
    }
    let stats = broker.handle.run(|broker, _| broker.stats()).await.expect("runs");
    assert!(stats.dropped_queue_full > 0, "{stats:?}");
    // It reads again, and its next message arrives whole.
    let read = async {
        loop {
            match slow.packet().await {
                Some(ControlPacket::Publish(publish)) if &publish.payload[..] == b"end" => return,
                Some(_) => {}
                None => panic!("closed"),
            }
        }
    };
    let send = async {
        loop {
            sender.publish(publish("t", QoS::AtMostOnce, &b"end"[..])).await.expect("sent");
            sender.ping().await.expect("answered");
        }
    };
    tokio::select! {
        () = soon(read) => {}
        () = send => {}
    }
}

#[tokio::test]
async fn more_clients_than_allowed_are_told_so() {
    let broker = TestBroker::start(Limits::default(), 1);
    let _first = broker.client("first", ProtocolVersion::V5).await;
    for (protocol, reason) in [
        (ProtocolVersion::V5, ReasonCode::QUOTA_EXCEEDED),
        (ProtocolVersion::V311, ReasonCode::SERVER_UNAVAILABLE),
    ] {
        let refused = Client::connect(ClientOptions { protocol, ..options(broker.address, "second") });
        let Err(ClientError::Refused { reason_code, .. }) = soon(refused).await else {
            panic!("not refused")
        };
        assert_eq!(reason_code, reason);
    }
    assert_eq!(broker.metrics.view().await.connections_refused, 2);
}

#[tokio::test]
async fn an_observer_sees_every_packet_once_with_its_bytes() {
    let broker = TestBroker::new();
    let log = Arc::new(Log::default());
    let attachment = broker.tap.attach(log.clone());
    let mut raw = broker.raw().await;
    raw.frames.set_protocol(ProtocolVersion::V311);
    let connect =
        Frame::encode(connect("seen", ProtocolVersion::V311), ProtocolVersion::V311).expect("encodes");
    raw.write(&connect.bytes).await;
    let connack = raw.read(4).await;
    let subscribe = b"\x82\x06\x00\x01\x00\x01t\x00";
    raw.write(subscribe).await;
    let suback = raw.read(5).await;
    let messages = [b"\x30\x04\x00\x01ta".to_vec(), b"\x30\x04\x00\x01tb".to_vec()].concat();
    raw.write(&messages).await;
    let delivered = raw.read(messages.len()).await;
    raw.write(b"\xe0\x00").await;
    assert_eq!(raw.read_to_end().await, b"");
    drop(raw);
    let log = until(|| {
        let is_closed = |seen: &Observation| matches!(seen.what, Observed::Close(_));
        let is_over = log.0.lock().expect("no panic").iter().any(is_closed);
        is_over.then(|| log.take())
    })
    .await;
    drop(attachment);
    let bytes_of = |wanted: Direction| -> Vec<u8> {
        log.iter()
            .filter_map(|seen| match &seen.what {
                Observed::Packet { direction, bytes } if *direction == wanted => Some(bytes.to_vec()),
                _ => None,
            })
            .flatten()
            .collect()
    };
    assert_eq!(
        bytes_of(Direction::ClientToServer),
        [&connect.bytes[..], subscribe, &messages, b"\xe0\x00"].concat()
    );
    assert_eq!(bytes_of(Direction::ServerToClient), [connack, suback, delivered].concat());
    assert!(matches!(log.first().map(|seen| &seen.what), Some(Observed::Open(_))));
    assert!(matches!(log.last().map(|seen| &seen.what), Some(Observed::Close(CloseCause::ClientFin))));
    assert_eq!(log.len(), 2 + 9, "{log:#?}");
}

#[tokio::test]
async fn shutting_down_tells_clients_and_ends_the_thread() {
    let broker = TestBroker::new();
    let mut client = broker.client("last", ProtocolVersion::V5).await;
    soon(broker.handle.shut_down()).await;
    match soon(client.next_message()).await {
        Err(ClientError::Disconnected { reason_code, .. }) => {
            assert_eq!(reason_code, ReasonCode::SERVER_SHUTTING_DOWN);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(broker.handle.run(|_, _| ()).await, Err(Stopped));
    assert_eq!(broker.metrics.view().await.connections_active, 0);
}

#[tokio::test]
async fn a_request_that_panics_fails_alone() {
    let broker = TestBroker::new();
    assert_eq!(broker.handle.run(|_, _| panic!("on purpose")).await, Err::<(), _>(Stopped));
    assert_eq!(broker.handle.run(|_, _| 7).await, Ok(7));
}

#[tokio::test]
async fn who_is_not_there_or_does_not_want_us_is_told_apart() {
    let free = bind("127.0.0.1", 0).expect("a free port").local_addr().expect("bound");
    match Client::connect(options(free, "nobody")).await {
        Err(error @ ClientError::Unreachable { .. }) => {
            assert!(error.to_string().starts_with(&format!("cannot reach mqtt://{free}: ")), "{error}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("connected to nobody"),
    }
}

#[tokio::test]
async fn a_message_beyond_what_the_server_takes_is_an_error_and_nothing_is_sent() {
    let broker = TestBroker::start(Limits { max_packet_size: 1000, ..Limits::default() }, 10);
    let client = broker.client("big", ProtocolVersion::V5).await;
    match client.publish(publish("t", QoS::AtLeastOnce, vec![0; 2000])).await {
        Err(ClientError::Capability(_)) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("sent"),
    }
    soon(client.ping()).await.expect("still connected");
}

#[tokio::test]
async fn the_receive_maximum_is_respected_and_all_are_acknowledged() {
    let broker = TestBroker::start(Limits { receive_maximum: 3, ..Limits::default() }, 10);
    let client = broker.client("many", ProtocolVersion::V5).await;
    assert_eq!(client.limits().receive_maximum, 3);
    let publisher = client.publisher();
    let mut receipts = Vec::new();
    for number in 0..100 {
        let message = publish("t", QoS::ExactlyOnce, format!("{number}"));
        receipts.push(soon(client.publish(message)).await.expect("sent"));
        assert!(publisher.unacknowledged() <= 3);
    }
    for receipt in receipts {
        assert!(!soon(receipt.acked()).await.expect("acked").is_error());
    }
}
