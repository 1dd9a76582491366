//! What stands after events of all kinds, and that the account of it is kept.

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::{
    packet::{Properties, QoS, Suback, Unsuback},
    recording::{
        CloseCause, record,
        sample::{connack, from_client, open, packet, publish, text},
    },
};

const V5: ProtocolVersion = ProtocolVersion::V5;
const ONE: PacketIdentifier = match PacketIdentifier::new(1) {
    Some(one) => one,
    None => unreachable!(),
};

fn connect(client: &str, change: impl FnOnce(&mut Connect)) -> EventKind {
    let mut connect = Connect {
        protocol: V5,
        clean_start: true,
        keep_alive: 60,
        properties: Properties::new(),
        client_identifier: text(client),
        will: None,
        username: None,
        password: None,
    };
    change(&mut connect);
    packet(Direction::ClientToServer, V5, ControlPacket::Connect(Box::new(connect)))
}

fn subscribe(filters: &[&str], identifier: Option<u32>) -> [EventKind; 2] {
    let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..Default::default() };
    let subscription = |filter: &&str| Subscription { filter: TopicFilter::parse(filter).unwrap(), options };
    let subscribe = Subscribe {
        packet_identifier: ONE,
        properties: Properties(identifier.map(Property::SubscriptionIdentifier).into_iter().collect()),
        subscriptions: filters.iter().map(subscription).collect(),
    };
    // The last one is refused, the others are granted less than was asked for.
    let mut reason_codes = vec![ReasonCode(1); filters.len()];
    if let [.., _, last] = &mut reason_codes[..] {
        *last = ReasonCode::NOT_AUTHORIZED;
    }
    let suback = Suback { packet_identifier: ONE, properties: Properties::new(), reason_codes };
    [
        packet(Direction::ClientToServer, V5, ControlPacket::Subscribe(subscribe)),
        packet(Direction::ServerToClient, V5, ControlPacket::Suback(suback)),
    ]
}

fn unsubscribe(filter: &str) -> [EventKind; 2] {
    let filters = vec![TopicFilter::parse(filter).unwrap()];
    let (packet_identifier, properties) = (ONE, Properties::new());
    let unsubscribe = Unsubscribe { packet_identifier, properties: properties.clone(), filters };
    let unsuback = Unsuback { packet_identifier, properties, reason_codes: vec![ReasonCode::SUCCESS] };
    [
        packet(Direction::ClientToServer, V5, ControlPacket::Unsubscribe(unsubscribe)),
        packet(Direction::ServerToClient, V5, ControlPacket::Unsuback(unsuback)),
    ]
}

fn retained(topic: Option<&str>, payload: &[u8], properties: Vec<Property>) -> EventKind {
    from_client(Publish { retain: true, ..publish(topic, payload, properties) })
}

/// What is in force at the last second, after events with a second each.
fn after(limit: usize, events: impl IntoIterator<Item = (u64, u32, EventKind)>, at: u64) -> String {
    let mut standing = Standing::new(limit);
    for (seconds, connection, kind) in events {
        standing.follow(&Event { seq: 1, at: Duration::from_secs(seconds), connection, kind });
    }
    let mut text = String::new();
    for (connection, kind) in standing.events(Duration::from_secs(at)) {
        text += &match kind {
            EventKind::Open(info) => {
                let client = info.client_identifier.unwrap_or_default();
                format!("{connection} {client} {}\n", info.protocol.map_or("?", ProtocolVersion::name))
            }
            EventKind::State(state) => match state.decode().unwrap() {
                ControlPacket::Subscribe(subscribe) => {
                    let filters: Vec<String> = subscribe
                        .subscriptions
                        .iter()
                        .map(|one| format!("{} at {}", one.filter.as_str(), one.options.qos))
                        .collect();
                    let identifier = subscribe.properties.subscription_identifier();
                    let client = state.client_identifier.unwrap();
                    format!("{client} subscribed {} {identifier:?}\n", filters.join(", "))
                }
                ControlPacket::Publish(publish) => format!(
                    "{} = {} {:?}\n",
                    publish.topic.unwrap().as_str(),
                    publish.payload.escape_ascii(),
                    publish.properties.0,
                ),
                other => format!("{other:?}\n"),
            },
            other => format!("{other:?}\n"),
        };
    }
    text += &format!("{} left out", standing.left_out(Duration::from_secs(at)));
    text
}

fn session(change: impl FnOnce(&mut Connect)) -> Vec<(u64, u32, EventKind)> {
    let mut events = vec![(0, 1, open()), (0, 1, connect("dev", change)), (0, 1, connack(false, V5))];
    events.extend(subscribe(&["a/+", "refused"], Some(3)).map(|kind| (1, 1, kind)));
    events.extend(subscribe(&["b"], None).map(|kind| (1, 1, kind)));
    events
}

#[test]
fn granted_subscriptions_are_in_force_until_they_are_given_up() {
    let mut events = session(|_| {});
    expect![[r#"
            1 dev 5.0
            dev subscribed b at 1 None
            dev subscribed a/+ at 1 Some(3)
            0 left out"#]]
    .assert_eq(&after(1 << 20, events.clone(), 2));
    events.extend(unsubscribe("a/+").map(|kind| (2, 1, kind)));
    expect![[r#"
            1 dev 5.0
            dev subscribed b at 1 None
            0 left out"#]]
    .assert_eq(&after(1 << 20, events, 2));
}

#[test]
fn a_session_outlives_its_connection_for_its_expiry_interval() {
    let close = (10, 1, EventKind::Close(CloseCause::ClientFin));
    let mut events = session(|_| {});
    events.push(close.clone());
    expect!["0 left out"].assert_eq(&after(1 << 20, events, 10));
    let expiry = |connect: &mut Connect| connect.properties.push(Property::SessionExpiryInterval(5));
    let mut events = session(expiry);
    events.push(close.clone());
    expect![[r#"
            dev subscribed b at 1 None
            dev subscribed a/+ at 1 Some(3)
            0 left out"#]]
    .assert_eq(&after(1 << 20, events.clone(), 14));
    expect!["0 left out"].assert_eq(&after(1 << 20, events.clone(), 15));
    // It goes on, then it begins anew.
    events.extend([(11, 2, open()), (11, 2, connect("dev", expiry)), (11, 2, connack(true, V5))]);
    expect![[r#"
            2 dev 5.0
            dev subscribed b at 1 None
            dev subscribed a/+ at 1 Some(3)
            0 left out"#]]
    .assert_eq(&after(1 << 20, events.clone(), 20));
    events.extend([(21, 3, open()), (21, 3, connect("dev", expiry)), (21, 3, connack(false, V5))]);
    events.push((21, 2, EventKind::Close(CloseCause::ServerFin)));
    expect![[r#"
            3 dev 5.0
            0 left out"#]]
    .assert_eq(&after(1 << 20, events, 30));
}

#[test]
fn retained_messages_are_the_last_of_their_topics_aliases_resolved() {
    let alias = || vec![Property::TopicAlias(1)];
    let mut events = session(|_| {});
    events.extend([
        (2, 1, from_client(publish(Some("x"), b"no", alias()))),
        (2, 1, retained(None, b"one", alias())),
        (2, 1, retained(Some("y"), b"two", vec![Property::MessageExpiryInterval(10)])),
        (2, 1, retained(Some("z"), b"three", Vec::new())),
        (3, 1, retained(Some("z"), b"", Vec::new())),
        (4, 1, EventKind::Gap { events: 1, bytes: 1 }),
        (4, 1, retained(None, b"nobody knows of what", alias())),
        (
            5,
            1,
            packet(
                Direction::ServerToClient,
                V5,
                ControlPacket::Publish(Publish { retain: true, ..publish(Some("x"), b"late", Vec::new()) }),
            ),
        ),
    ]);
    expect![[r#"
            1 dev 5.0
            dev subscribed b at 1 None
            dev subscribed a/+ at 1 Some(3)
            x = one []
            y = two [MessageExpiryInterval(7)]
            0 left out"#]]
    .assert_eq(&after(1 << 20, events.clone(), 5));
    expect![[r#"
            1 dev 5.0
            dev subscribed b at 1 None
            dev subscribed a/+ at 1 Some(3)
            x = one []
            0 left out"#]]
    .assert_eq(&after(1 << 20, events, 12));
}

#[test]
fn a_will_is_retained_where_the_client_leaves_without_goodbye() {
    let will = |connect: &mut Connect| {
        connect.will = Some(Will {
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: Properties(vec![Property::WillDelayInterval(1)]),
            topic: TopicName::parse("gone").unwrap(),
            payload: "yes".into(),
        });
    };
    let mut events = session(will);
    events.push((2, 1, EventKind::Close(CloseCause::ClientRst)));
    expect![[r#"
            gone = yes []
            0 left out"#]]
    .assert_eq(&after(1 << 20, events, 2));
    let mut events = session(will);
    let goodbye = ControlPacket::Disconnect(Disconnect::new(ReasonCode::SUCCESS));
    events.push((2, 1, packet(Direction::ClientToServer, V5, goodbye)));
    events.push((2, 1, EventKind::Close(CloseCause::ClientFin)));
    expect!["0 left out"].assert_eq(&after(1 << 20, events, 2));
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut events = session(|_| {});
    events.push((2, 1, retained(Some("x"), &[0; 4000], Vec::new())));
    events.push((2, 1, retained(Some("y"), b"small", Vec::new())));
    expect![[r#"
            1 dev 5.0
            dev subscribed b at 1 None
            dev subscribed a/+ at 1 Some(3)
            y = small []
            1 left out"#]]
    .assert_eq(&after(2000, events, 2));
}

#[test]
fn what_has_expired_makes_room_and_what_is_cleared_is_left_out_no_longer() {
    let expiring = |topic| retained(Some(topic), &[0; 300], vec![Property::MessageExpiryInterval(5)]);
    let mut events = session(|_| {});
    events.extend([(2, 1, expiring("x")), (2, 1, expiring("y")), (2, 1, expiring("z"))]);
    expect!["1 left out"].assert_eq(last_line(&after(1800, events.clone(), 6)));
    // It would have expired as well.
    expect!["0 left out"].assert_eq(last_line(&after(1800, events.clone(), 7)));
    events.push((8, 1, retained(Some("live"), &[1; 400], Vec::new())));
    events.push((8, 1, retained(Some("large"), &[1; 4000], Vec::new())));
    let text = after(1800, events.clone(), 8);
    assert!(text.contains("live = "), "{text}");
    expect!["1 left out"].assert_eq(last_line(&text));
    events.push((9, 1, retained(Some("large"), b"", Vec::new())));
    expect!["0 left out"].assert_eq(last_line(&after(1800, events, 9)));
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn what_open_connections_have_under_way_counts() {
    let mut standing = Standing::new(10_000);
    let filter = "f".repeat(1000);
    for number in 1..=50 {
        let will = Will {
            qos: QoS::AtMostOnce,
            retain: true,
            properties: Properties::new(),
            topic: TopicName::parse("gone").unwrap(),
            payload: vec![0; 500].into(),
        };
        let [asking, _] = subscribe(&[&filter], None);
        let alias = vec![Property::TopicAlias(1)];
        let kinds = [
            open(),
            connect(&number.to_string(), |connect| connect.will = Some(will)),
            connack(false, V5),
            from_client(publish(Some(&"t".repeat(1000)), b"", alias)),
            asking,
        ];
        for kind in kinds {
            standing.follow(&Event { seq: 1, at: Duration::ZERO, connection: number, kind });
        }
        assert!(standing.held + standing.aliases.size() <= 10_000);
    }
    assert!(standing.left_out(Duration::ZERO) > 40, "{}", standing.left_out(Duration::ZERO));
}

proptest! {
    #[test]
    fn whatever_comes_its_account_is_kept(
        kinds in proptest::collection::vec((record::tests::kind(200), 0_u32..4), 0..40),
        seed in 0_usize..1000,
    ) {
        let mut standing = Standing::new(1000 + seed);
        let known = session(|_| {}).into_iter().map(|(_, connection, kind)| (kind, connection));
        for (at, (kind, connection)) in (0..).zip(known.chain(kinds)) {
            standing.follow(&Event { seq: 1, at: Duration::from_secs(at), connection, kind });
            let sessions: usize = standing.sessions.iter().map(|(client, session)| {
                let subscriptions = session.subscriptions.values();
                session_size(client) + subscriptions.map(|(one, _)| subscription_size(one)).sum::<usize>()
            }).sum();
            let retained: usize = standing.retained.values().map(Retained::size).sum();
            let opens: usize = standing.connections.values().map(Open::size).sum();
            prop_assert_eq!(standing.held, sessions + retained + opens);
            prop_assert!(standing.held + standing.aliases.size() <= standing.limit);
            let ends = standing.sessions.values().filter_map(|session| session.ends_at).count()
                + standing.retained.values().filter_map(|retained| retained.expires_at).count();
            prop_assert_eq!(standing.ends.len(), ends);
        }
    }
}
