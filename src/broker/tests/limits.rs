//! What no transcript shows: counters, events, memory, and sizes no text file should hold.

use std::{
    io::IoSlice,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    broker::{Broker, BrokerEvent, Closing, Limits, Output},
    packet::{
        ControlPacket, FrameReader, PacketIdentifier, PacketType, PlainAck, Properties, ProtocolVersion,
        Publish, QoS, ReasonCode, Subscribe, Subscription, SubscriptionOptions, TopicFilter, TopicName,
    },
    session::{Connection, ConnectionId, Peer, Session},
};

use super::{
    script::{Player, generous},
    stage::{Bare, bare},
};

fn play(player: &mut Player<Bare>, script: &str) -> Vec<String> {
    script.lines().map(str::trim).filter(|line| !line.is_empty()).flat_map(|line| player.play(line)).collect()
}

/// A broker with clients 1 to `count` connected, whose outboxes are empty.
fn broker_with(count: u64, limits: Limits, protocol: ProtocolVersion) -> (Broker, Instant) {
    let now = Instant::now();
    let mut broker = Broker::new(now, limits, 1);
    for id in 1..=count {
        let text = format!("CONNECT c{id} v={}", protocol.name());
        broker.handle_open(now, ConnectionId(id), Peer { address: None, transport: "tcp", identity: None });
        broker.handle_packet(now, ConnectionId(id), text.parse().expect("a CONNECT"));
        drain(&mut broker, ConnectionId(id));
    }
    while broker.poll_output().is_some() {}
    (broker, now)
}

/// Takes the bytes that wait for `id`.
fn drain(broker: &mut Broker, id: ConnectionId) -> Vec<u8> {
    let outbox = broker.outbox(id).expect("a connection");
    let mut bytes = Vec::new();
    while !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = outbox.chunks(&mut slices);
        let chunk: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        outbox.advance(chunk.len());
        bytes.extend(chunk);
    }
    bytes
}

fn packets(bytes: &[u8], protocol: ProtocolVersion) -> Vec<ControlPacket> {
    let mut reader = FrameReader::new(usize::MAX);
    reader.set_protocol(protocol);
    reader.buffer().extend_from_slice(bytes);
    std::iter::from_fn(|| reader.next_frame().expect("packets")).map(|frame| frame.packet).collect()
}

fn publish(topic: &str, payload: impl Into<Bytes>) -> ControlPacket {
    ControlPacket::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::parse(topic).expect("a topic")),
        packet_identifier: None,
        properties: Properties::new(),
        payload: payload.into(),
    })
}

fn subscribe(filters: impl IntoIterator<Item = String>) -> ControlPacket {
    let subscription = |text: String| Subscription {
        filter: TopicFilter::parse(&text).expect("a filter"),
        options: SubscriptionOptions::default(),
    };
    ControlPacket::Subscribe(Subscribe {
        packet_identifier: PacketIdentifier::MIN,
        properties: Properties::new(),
        subscriptions: filters.into_iter().map(subscription).collect(),
    })
}

#[test]
fn counters_tell_what_happened() {
    let mut player = bare(Limits { queue_messages: 1, retained_messages: 1, ..generous() });
    play(
        &mut player,
        "sub> CONNECT alice session_expiry=100
         sub> SUBSCRIBE 1 a qos=2, b qos=1
         pub> CONNECT bob v=3.1.1
         pub> PUBLISH a \"0\"
         pub> PUBLISH a qos=1 id=1 retain=true \"12345\"
         pub> PUBLISH b retain=true \"no room\"
         pub> PUBLISH a qos=2 id=2 \"2\"
         sub!
         pub> PUBLISH a qos=1 id=3 \"queued\"
         pub> PUBLISH a qos=1 id=4 \"dropped\"
         pub> PUBLISH a qos=1 id=5 \"dropped\"",
    );
    let stats = player.stage.broker.stats();
    assert_eq!((stats.clients_connected, stats.sessions), (1, 2));
    assert_eq!((stats.subscriptions_active, stats.subscriptions_total), (2, 2));
    assert_eq!((stats.published, stats.delivered), ([2, 4, 1], [2, 1, 1]));
    assert_eq!((stats.inflight, stats.queued, stats.dropped_queue_full), (2, 1, 2));
    assert_eq!((stats.retained_messages, stats.retained_bytes, stats.dropped_retained), (1, 6, 1));
    let drops = player.stage.events.iter().filter(|event| matches!(event, BrokerEvent::Dropped { .. }));
    assert_eq!(drops.count(), 1, "a run of drops is reported once");
}

#[test]
fn views_show_clients_and_subscriptions() {
    let mut player = bare(generous());
    play(
        &mut player,
        "sub> CONNECT bob keep_alive=30 username=u session_expiry=100
         sub> SUBSCRIBE 1 sub_id=7 b/+ qos=1, a qos=2 rap=true, $share/g/x/#
         gone> CONNECT alice v=3.1.1 clean=false
         gone!
         sub> UNSUBSCRIBE 2 a",
    );
    let clients = player.stage.broker.clients();
    let names: Vec<&str> = clients.iter().map(|client| client.client_identifier.as_str()).collect();
    assert_eq!(names, ["alice", "bob"]);
    assert_eq!((clients[0].connection, clients[0].protocol), (None, ProtocolVersion::V311));
    assert_eq!((clients[1].username.as_deref(), clients[1].keep_alive), (Some("u"), 30));
    assert_eq!((clients[1].subscriptions, clients[1].clean_start), (2, true));
    let subscriptions = player.stage.broker.subscriptions();
    let filters: Vec<&str> = subscriptions.iter().map(|view| view.filter.as_str()).collect();
    assert_eq!(filters, ["$share/g/x/#", "b/+"]);
    assert_eq!(subscriptions[1].subscription_identifier, Some(7));
}

#[test]
fn events_tell_who_came_and_went() {
    let mut player = bare(generous());
    play(
        &mut player,
        "one> CONNECT alice
         one> SUBSCRIBE 1 a qos=1
         one> UNSUBSCRIBE 2 a
         one> DISCONNECT 0x04",
    );
    let connection = ConnectionId(1);
    let client_identifier = || "alice".to_owned();
    assert_eq!(
        player.stage.events,
        [
            BrokerEvent::ClientConnected {
                connection,
                client_identifier: client_identifier(),
                username: None,
                protocol: ProtocolVersion::V5,
                session_present: false,
            },
            BrokerEvent::Subscribed {
                connection,
                client_identifier: "alice".into(),
                filter: "a".to_owned(),
                qos: QoS::AtLeastOnce
            },
            BrokerEvent::Unsubscribed { connection, filter: "a".to_owned() },
            BrokerEvent::ClientDisconnected {
                connection,
                client_identifier: client_identifier(),
                reason: Some(ReasonCode::DISCONNECT_WITH_WILL),
            },
        ]
    );
}

#[test]
fn a_connection_that_broke_ends_without_a_reason() {
    let mut player = bare(generous());
    play(&mut player, "one> CONNECT alice\none!");
    let lost = BrokerEvent::ClientDisconnected {
        connection: ConnectionId(1),
        client_identifier: "alice".to_owned(),
        reason: None,
    };
    assert_eq!(player.stage.events.last(), Some(&lost));
}

#[test]
fn flush_is_said_once_until_the_outbox_is_empty() {
    let (mut broker, now) = broker_with(2, generous(), ProtocolVersion::V311);
    broker.handle_packet(now, ConnectionId(1), subscribe(["a".to_owned()]));
    for _ in 0..3 {
        broker.handle_packet(now, ConnectionId(2), publish("a", "hi"));
    }
    let flushes = |broker: &mut Broker| {
        std::iter::from_fn(|| broker.poll_output())
            .filter(|output| *output == Output::Flush(ConnectionId(1)))
            .count()
    };
    assert_eq!(flushes(&mut broker), 1);
    broker.outbox(ConnectionId(1)).expect("a connection").advance(1);
    broker.handle_flushed(now, ConnectionId(1));
    broker.handle_packet(now, ConnectionId(2), publish("a", "hi"));
    assert_eq!(flushes(&mut broker), 0, "there still are bytes");
    drain(&mut broker, ConnectionId(1));
    broker.handle_packet(now, ConnectionId(2), publish("a", "hi"));
    assert_eq!(flushes(&mut broker), 1);
}

#[test]
fn a_long_payload_is_shared_with_every_receiver_and_not_copied() {
    let (mut broker, now) = broker_with(3, generous(), ProtocolVersion::V5);
    broker.handle_packet(now, ConnectionId(1), subscribe(["a".to_owned()]));
    broker.handle_packet(now, ConnectionId(2), subscribe(["+".to_owned()]));
    for id in [1, 2] {
        drain(&mut broker, ConnectionId(id));
    }
    let payload = Bytes::from(vec![7; 100_000]);
    broker.handle_packet(now, ConnectionId(3), publish("a", payload.clone()));
    for id in [1, 2] {
        let mut slices = [IoSlice::new(&[]); 4];
        let outbox = broker.outbox(ConnectionId(id)).expect("a connection");
        assert_eq!(outbox.chunks(&mut slices), 2);
        assert_eq!(slices[1].as_ptr(), payload.as_ptr());
        let bytes = drain(&mut broker, ConnectionId(id));
        assert_eq!(packets(&bytes, ProtocolVersion::V5), [publish("a", payload.clone())]);
    }
}

#[test]
fn a_topic_of_thirty_thousand_levels_is_published_retained_and_matched() {
    let (mut broker, now) = broker_with(1, generous(), ProtocolVersion::V311);
    let deep = vec!["x"; 30_000].join("/");
    let wild = vec!["+"; 30_000].join("/");
    broker.handle_packet(now, ConnectionId(1), subscribe([deep.clone(), wild, "#".to_owned()]));
    drain(&mut broker, ConnectionId(1));
    let ControlPacket::Publish(mut message) = publish(&deep, "hi") else { panic!("a PUBLISH") };
    message.retain = true;
    broker.handle_packet(now, ConnectionId(1), ControlPacket::Publish(message.clone()));
    message.retain = false;
    assert_eq!(
        packets(&drain(&mut broker, ConnectionId(1)), ProtocolVersion::V311),
        [ControlPacket::Publish(message)]
    );
    broker.handle_packet(now, ConnectionId(1), subscribe(["x/#".to_owned()]));
    assert_eq!(packets(&drain(&mut broker, ConnectionId(1)), ProtocolVersion::V311).len(), 2);
}

#[test]
fn a_long_filter_counts_as_several_subscriptions() {
    let limits = Limits { subscriptions_per_client: 100, ..generous() };
    let (mut broker, now) = broker_with(1, limits, ProtocolVersion::V5);
    let deep = |levels: usize| vec!["x"; levels].join("/");
    let filters = [deep(30_000), deep(2_000), deep(3_000), "y".repeat(60_000)];
    broker.handle_packet(now, ConnectionId(1), subscribe(filters));
    let heard = packets(&drain(&mut broker, ConnectionId(1)), ProtocolVersion::V5);
    let ControlPacket::Suback(suback) = &heard[0] else { panic!("no SUBACK: {heard:?}") };
    let (granted, refused) = (ReasonCode::SUCCESS, ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(suback.reason_codes, [refused, granted, granted, refused]);
}

#[test]
fn two_thousand_filters_in_one_subscribe_are_all_granted() {
    let (mut broker, now) = broker_with(1, generous(), ProtocolVersion::V5);
    broker.handle_packet(now, ConnectionId(1), subscribe((0..2_000).map(|number| format!("f/{number}/+"))));
    let heard = packets(&drain(&mut broker, ConnectionId(1)), ProtocolVersion::V5);
    let ControlPacket::Suback(suback) = &heard[0] else { panic!("no SUBACK: {heard:?}") };
    assert_eq!(suback.reason_codes, [ReasonCode::SUCCESS; 2_000]);
    assert_eq!(broker.stats().subscriptions_active, 2_000);
}

#[test] // [MQTT-4.7.3-3], [MQTT3-4.7.3-3]
fn the_longest_topics_strings_and_client_identifiers_work() {
    let mut player = bare(generous());
    let long = "x".repeat(65_535);
    play(&mut player, &format!("one> CONNECT {long} v=3.1.1\n one> SUBSCRIBE 1 {long}"));
    let heard = play(&mut player, &format!("one> PUBLISH {long} \"hi\""));
    assert_eq!(heard, [format!("one< PUBLISH {long} \"hi\"")]);
    assert_eq!(player.stage.broker.clients()[0].client_identifier, long);
}

#[test] // [MQTT-2.2.1-4]
fn when_all_identifiers_are_in_use_messages_wait() {
    let (mut broker, now) = broker_with(2, generous(), ProtocolVersion::V311);
    let text = "SUBSCRIBE 1 a qos=1".parse().expect("a SUBSCRIBE");
    broker.handle_packet(now, ConnectionId(1), text);
    drain(&mut broker, ConnectionId(1));
    let ControlPacket::Publish(mut message) = publish("a", "x") else { panic!("a PUBLISH") };
    message.qos = QoS::AtLeastOnce;
    message.packet_identifier = Some(PacketIdentifier::MIN);
    for _ in 0..65_540 {
        broker.handle_packet(now, ConnectionId(2), ControlPacket::Publish(message.clone()));
        drain(&mut broker, ConnectionId(2));
    }
    let stats = broker.stats();
    assert_eq!((stats.inflight, stats.queued), (65_535, 5));
    drain(&mut broker, ConnectionId(1));
    broker.handle_packet(now, ConnectionId(1), "PUBACK 4711".parse().expect("a PUBACK"));
    let heard = packets(&drain(&mut broker, ConnectionId(1)), ProtocolVersion::V311);
    assert!(matches!(&heard[..], [ControlPacket::Publish(publish)]
        if publish.packet_identifier == PacketIdentifier::new(4711)));
}

#[test]
fn a_client_that_reads_no_answers_is_disconnected() {
    let (mut broker, now) = broker_with(1, Limits { outbox_bytes: 1_000, ..generous() }, ProtocolVersion::V5);
    for _ in 0..1_000_000 {
        broker.handle_packet(now, ConnectionId(1), ControlPacket::Pingreq);
    }
    let closing = std::iter::from_fn(|| broker.poll_output()).find_map(|output| match output {
        Output::Close(_, closing) => Some(closing),
        _ => None,
    });
    assert_eq!(closing, Some(Closing::Refused(ReasonCode::QUOTA_EXCEEDED)));
    assert!(drain(&mut broker, ConnectionId(1)).len() < 1_100_000);
}

#[test]
fn retained_messages_are_sent_in_turns_and_all_of_them() {
    let (mut broker, now) = broker_with(1, generous(), ProtocolVersion::V311);
    for number in 0..10_000 {
        let ControlPacket::Publish(mut message) = publish(&format!("r/{number}/x"), "kept") else {
            panic!("a PUBLISH")
        };
        message.retain = true;
        broker.handle_packet(now, ConnectionId(1), ControlPacket::Publish(message));
    }
    broker.handle_packet(now, ConnectionId(1), subscribe(["r/+/x".to_owned()]));
    let first = packets(&drain(&mut broker, ConnectionId(1)), ProtocolVersion::V311).len();
    assert!(first < 5_000, "one turn sends a part: {first}");
    let mut heard = first;
    while broker.next_timeout() == Some(now) {
        broker.handle_timeout(now);
        let in_turn = packets(&drain(&mut broker, ConnectionId(1)), ProtocolVersion::V311).len();
        assert!(in_turn < 5_000, "one turn sends a part: {in_turn}");
        heard += in_turn;
        broker.handle_flushed(now, ConnectionId(1));
        let is_over = broker.next_timeout() != Some(now);
        assert!(is_over || drain(&mut broker, ConnectionId(1)).is_empty(), "the next turn is the timer's");
    }
    assert_eq!(heard, 10_001);
}

#[test]
fn an_idle_client_is_small() {
    let size = size_of::<Connection>() + size_of::<Session>();
    assert!(size <= 1_000, "{size} bytes");
}

#[test]
fn assigned_client_identifiers_depend_on_the_seed_alone() {
    let assigned = |seed| {
        let mut broker = Broker::new(Instant::now(), generous(), seed);
        broker.handle_open(
            Instant::now(),
            ConnectionId(1),
            Peer { address: None, transport: "tcp", identity: None },
        );
        broker.handle_packet(Instant::now(), ConnectionId(1), "CONNECT \"\"".parse().expect("a CONNECT"));
        broker.clients()[0].client_identifier.clone()
    };
    assert_eq!(assigned(1), assigned(1));
    assert_ne!(assigned(1), assigned(2));
}

#[test]
fn a_queue_that_stays_full_is_reported_once() {
    let mut player = bare(Limits { queue_messages: 10, ..generous() });
    play(&mut player, "sub> CONNECT sub receive_maximum=1\nsub> SUBSCRIBE 1 a qos=1\npub> CONNECT pub");
    for number in 1..60 {
        play(&mut player, "pub> PUBLISH a qos=1 id=1\npub> PUBLISH a qos=1 id=1");
        play(&mut player, &format!("sub> PUBACK {number}"));
    }
    let count = |player: &Player<Bare>| {
        player.stage.events.iter().filter(|event| matches!(event, BrokerEvent::Dropped { .. })).count()
    };
    assert_eq!(count(&player), 1);
    // Once it was half empty, the next drop begins a new run.
    for number in 60..70 {
        play(&mut player, &format!("sub> PUBACK {number}"));
    }
    for _ in 0..30 {
        play(&mut player, "pub> PUBLISH a qos=1 id=1");
    }
    assert_eq!(count(&player), 2);
}

/// Clients 1 to `count` that are subscribed to `a`, and one more that publishes.
fn with_subscribers(count: u64, qos: QoS, limits: Limits) -> (Broker, Instant) {
    let (mut broker, now) = broker_with(count + 1, limits, ProtocolVersion::V311);
    let filter = TopicFilter::parse("a").expect("a filter");
    let options = SubscriptionOptions { qos, ..Default::default() };
    for id in 1..=count {
        let subscribe = Subscribe {
            packet_identifier: PacketIdentifier::MIN,
            properties: Properties::new(),
            subscriptions: vec![Subscription { filter: filter.clone(), options }],
        };
        broker.handle_packet(now, ConnectionId(id), ControlPacket::Subscribe(subscribe));
        drain(&mut broker, ConnectionId(id));
    }
    (broker, now)
}

fn waiting(broker: &mut Broker, count: u64) -> Vec<usize> {
    (1..=count).map(|id| broker.outbox(ConnectionId(id)).expect("a connection").len()).collect()
}

#[test]
fn clients_that_do_not_read_have_so_much_waiting_together_and_who_reads_gets_everything() {
    let limits = Limits { waiting_bytes: 1 << 20, outbox_bytes: 1 << 20, ..generous() };
    let (mut broker, now) = with_subscribers(11, QoS::AtMostOnce, limits);
    let (publisher, reader) = (ConnectionId(12), ConnectionId(11));
    let mut heard = 0;
    for _ in 0..200 {
        broker.handle_packet(now, publisher, publish("a", vec![b'x'; 10_000]));
        heard += packets(&drain(&mut broker, reader), ProtocolVersion::V311).len();
    }
    assert_eq!(heard, 200);
    let sum: usize = waiting(&mut broker, 10).iter().sum();
    assert!((1 << 19..(1 << 20) + 10 * (64 << 10)).contains(&sum), "{sum} bytes wait");
    assert_eq!(broker.waiting_bytes(), sum);
    // One that comes now has its share.
    drain(&mut broker, ConnectionId(1));
    for _ in 0..200 {
        broker.handle_packet(now, publisher, publish("a", vec![b'x'; 10_000]));
        drain(&mut broker, reader);
    }
    let share = waiting(&mut broker, 1)[0];
    assert!((64 << 10..80 << 10).contains(&share), "{share} bytes are one's share");
    // Once they have read, all have room again.
    (2..=10).for_each(|id| _ = drain(&mut broker, ConnectionId(id)));
    let later = now + Duration::from_secs(1);
    for _ in 0..20 {
        broker.handle_packet(later, publisher, publish("a", vec![b'x'; 10_000]));
        (2..=11).for_each(|id| _ = drain(&mut broker, ConnectionId(id)));
    }
    assert!(waiting(&mut broker, 1)[0] > 200_000);
}

#[test]
fn what_is_queued_and_in_flight_is_part_of_what_waits() {
    let limits = Limits { waiting_bytes: 1 << 20, queue_bytes: 16 << 20, ..generous() };
    let (mut broker, now) = with_subscribers(3, QoS::AtLeastOnce, limits);
    let mut message = publish("a", vec![b'x'; 10_000]);
    let ControlPacket::Publish(fields) = &mut message else { unreachable!("a PUBLISH") };
    fields.qos = QoS::AtLeastOnce;
    fields.packet_identifier = PacketIdentifier::new(1);
    for _ in 0..500 {
        broker.handle_packet(now, ConnectionId(4), message.clone());
        // All is read, and nothing acknowledged.
        (1..=4).for_each(|id| _ = drain(&mut broker, ConnectionId(id)));
    }
    let in_all = broker.waiting_bytes();
    assert!((1 << 19..(1 << 20) + 6 * (80 << 10)).contains(&in_all), "{in_all} bytes wait");
    assert!(broker.stats().dropped_queue_full > 0);
    // What is acknowledged waits no more.
    for id in 1..=3 {
        for identifier in 1..=u16::MAX {
            let ack = PlainAck {
                packet: PacketType::Puback,
                packet_identifier: PacketIdentifier::new(identifier).expect("from 1"),
            };
            broker.handle_plain_ack(now, ConnectionId(id), ack);
            drain(&mut broker, ConnectionId(id));
        }
    }
    assert_eq!(broker.waiting_bytes(), 0);
}
