//! What is left of packets when rules have been applied.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{
    packet::{
        Auth, Connack, Connect, ControlPacket, PacketIdentifier, Properties, Property, ProtocolVersion, QoS,
        ReasonCode, Subscribe, Subscription, SubscriptionOptions, TopicFilter, TopicName, Will,
    },
    recording::{
        ConnectionInfo, Direction, Event, EventKind, FaultInjected, InForce, MockFired, record,
        sample::{self, from_client, open, publish, text},
    },
};

const V5: ProtocolVersion = ProtocolVersion::V5;
const V311: ProtocolVersion = ProtocolVersion::V311;

fn redaction(rules: &[&str]) -> Redaction {
    Redaction {
        rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        key: RedactionKey::new("key"),
    }
}

fn line(event: &Event, protocol: ProtocolVersion) -> String {
    let packet = |bytes: &Bytes, protocol| match ControlPacket::decode(bytes, protocol) {
        Ok(packet) => packet.to_string(),
        Err(error) => format!("{} ({error})", bytes.escape_ascii()),
    };
    let optional =
        |bytes: &Option<Bytes>| bytes.as_ref().map_or("-".to_owned(), |bytes| packet(bytes, protocol));
    match &event.kind {
        EventKind::Packet { bytes, .. } => packet(bytes, protocol),
        EventKind::Raw { bytes, .. } => format!("RAW {}", bytes.escape_ascii()),
        EventKind::Open(info) => format!("OPEN {:?} {:?}", info.peer, info.client_identifier),
        EventKind::Mark(label) => format!("MARK {label}"),
        EventKind::Mock(fired) => format!("MOCK {} {} {}", fired.mock, fired.client_identifier, fired.topic),
        EventKind::Fault(fault) => format!(
            "FAULT {} {} {} {} / {}",
            fault.client_identifier,
            fault.topic,
            fault.detail,
            optional(&fault.received),
            optional(&fault.sent)
        ),
        EventKind::State(in_force) => {
            format!("STATE {:?} {}", in_force.client_identifier, packet(&in_force.packet, V5))
        }
        kind => kind.name().to_owned(),
    }
}

fn redacted(rules: &[&str], protocol: ProtocolVersion, kinds: impl IntoIterator<Item = EventKind>) -> String {
    let mut redactor = Redactor::new(redaction(rules));
    let events = sample::events(kinds.into_iter().map(|kind| (0, 1, kind)));
    let mut out: String =
        events.into_iter().map(|event| line(&redactor.redact(event), protocol) + "\n").collect();
    let RedactionReport { rules, passwords, hidden, not_json, events } = redactor.report();
    for RuleReport { rule, values, events } in rules {
        out += &format!("{rule}: {values} in {events}\n");
    }
    out += &format!("{events} events, passwords {passwords}, hidden {hidden}, not JSON {not_json}\n");
    out
}

fn bytes_of(packet: ControlPacket, protocol: ProtocolVersion) -> Bytes {
    let mut bytes = BytesMut::new();
    packet.encode(protocol, &mut bytes).unwrap();
    bytes.freeze()
}

fn connect(protocol: ProtocolVersion) -> EventKind {
    let user_property = |value| Property::UserProperty(text("token"), text(value));
    let (mut properties, mut will_properties) = (Properties::new(), Properties::new());
    if protocol == V5 {
        properties.push(user_property("tok-1"));
        properties.push(Property::AuthenticationMethod(text("SCRAM-SHA-256")));
        properties.push(Property::AuthenticationData(Bytes::from_static(b"n,,n=bob")));
        will_properties.push(user_property("tok-2"));
        will_properties.push(Property::ResponseTopic(text("devices/dev-1/answer")));
    }
    let connect = Connect {
        protocol,
        clean_start: true,
        keep_alive: 0,
        properties,
        client_identifier: text("dev-1"),
        will: Some(Will {
            qos: QoS::AtMostOnce,
            retain: false,
            properties: will_properties,
            topic: TopicName::parse("devices/dev-1/gone").unwrap(),
            payload: Bytes::from_static(br#"{"user":{"email":"bob@example.org"}}"#),
        }),
        username: Some(text("bob")),
        password: Some(Bytes::from_static(b"secret")),
    };
    sample::packet(Direction::ClientToServer, protocol, ControlPacket::Connect(Box::new(connect)))
}

fn subscribe(filters: &[&str]) -> ControlPacket {
    let subscriptions = filters.iter().map(|filter| Subscription {
        filter: TopicFilter::parse(filter).unwrap(),
        options: SubscriptionOptions::default(),
    });
    ControlPacket::Subscribe(Subscribe {
        packet_identifier: PacketIdentifier::MIN,
        properties: Properties::new(),
        subscriptions: subscriptions.collect(),
    })
}

/// Everything that can tell of `dev-1`, `bob` and his mail.
fn tell_tale(protocol: ProtocolVersion) -> Vec<EventKind> {
    let payload = br#"{"id":"dev-1","user":{"email":"bob@example.org","age":40},"n":1.50}"#;
    let mut kinds = vec![
        EventKind::Open(Box::new(ConnectionInfo {
            peer: Some("10.1.2.3:4000".to_owned()),
            client_identifier: Some("dev-1".to_owned()),
            protocol: Some(protocol),
            ..ConnectionInfo::default()
        })),
        connect(protocol),
        sample::packet(
            Direction::ClientToServer,
            protocol,
            ControlPacket::Publish(publish(Some("devices/dev-1/data"), payload, Vec::new())),
        ),
        sample::packet(
            Direction::ClientToServer,
            protocol,
            subscribe(&["devices/dev-1/+", "devices/+/data", "devices/#", "$share/g/devices/dev-1/cmd"]),
        ),
        EventKind::Mark("bob@example.org called".to_owned()),
        EventKind::Mock(Box::new(MockFired {
            mock: "m".to_owned(),
            client_identifier: "dev-1".to_owned(),
            topic: "devices/dev-1/+".to_owned(),
            messages: 1,
        })),
        EventKind::Fault(Box::new(FaultInjected {
            topic: "devices/dev-1/data".to_owned(),
            sent: Some(bytes_of(
                ControlPacket::Publish(publish(Some("devices/dev-1/data"), payload, Vec::new())),
                protocol,
            )),
            received: Some(Bytes::from_static(b"\x30\x7fdev-1 bob@example.org")),
            ..sample::fault("corrupt", r#"{"was":"bob@example.org"}"#)
        })),
        EventKind::State(Box::new(InForce {
            client_identifier: Some("dev-1".to_owned()),
            packet: bytes_of(subscribe(&["devices/dev-1/cmd"]), V5),
        })),
        EventKind::State(Box::new(InForce {
            client_identifier: None,
            packet: bytes_of(
                ControlPacket::Publish(publish(Some("devices/dev-1/data"), payload, Vec::new())),
                V5,
            ),
        })),
        EventKind::Raw {
            direction: Direction::ClientToServer,
            bytes: Bytes::from_static(b"GET /dev-1 bob@example.org"),
        },
    ];
    if protocol == V5 {
        let assigned = Connack {
            session_present: false,
            reason_code: ReasonCode::SUCCESS,
            properties: Properties(vec![
                Property::AssignedClientIdentifier(text("dev-1")),
                Property::ReasonString(text("hello bob@example.org")),
                Property::ResponseInformation(text("devices/dev-1/answers")),
            ]),
        };
        let auth = Auth {
            reason_code: ReasonCode(0x18),
            properties: Properties(vec![
                Property::AuthenticationMethod(text("SCRAM-SHA-256")),
                Property::AuthenticationData(Bytes::from_static(b"c=biws,n=bob")),
            ]),
        };
        let aliased = |topic, payload: &[u8]| {
            let properties = vec![
                Property::TopicAlias(1),
                Property::UserProperty(text("token"), text("tok-3")),
                Property::CorrelationData(Bytes::from_static(b"bob@example.org#1")),
            ];
            from_client(publish(topic, payload, properties))
        };
        kinds.push(sample::packet(Direction::ServerToClient, V5, ControlPacket::Connack(assigned)));
        kinds.push(sample::packet(Direction::ServerToClient, V5, ControlPacket::Auth(auth)));
        kinds.push(aliased(Some("devices/dev-1/x"), payload));
        kinds.push(aliased(None, payload));
    }
    kinds
}

const ALL: [&str; 7] = [
    "json:$.id=hash",
    "json:$.user.email=remove",
    "text:[a-z]+@[a-z.]+=mask",
    "user_property:tok*=hash",
    "client_id=hash",
    "username=constant:somebody",
    "topic:devices/+/#=hash",
];

#[test]
fn everything_that_tells_is_redacted_and_the_same_stays_the_same() {
    expect_test::expect![[r#"
        OPEN Some("10.1.2.3:4000") Some("h-3c66a23b3d4462ec")
        CONNECT h-3c66a23b3d4462ec v=5 user=token:h-3df557bc082257c2 auth_method=SCRAM-SHA-256 auth_data=redacted will=devices/h-3c66a23b3d4462ec/gone:"{\"user\":{}}" will_user=token:h-19811acb0286aa06 will_response_topic=devices/h-3c66a23b3d4462ec/answer username=somebody password=***
        PUBLISH devices/h-3c66a23b3d4462ec/data "{\"id\":\"h-3c66a23b3d4462ec\",\"user\":{\"age\":40},\"n\":1.50}"
        SUBSCRIBE 1 devices/h-3c66a23b3d4462ec/+, devices/+/data, devices/#, $share/g/devices/h-3c66a23b3d4462ec/cmd
        MARK *** called
        MOCK m h-3c66a23b3d4462ec devices/h-3c66a23b3d4462ec/+
        FAULT h-3c66a23b3d4462ec devices/h-3c66a23b3d4462ec/data {"was":"***"} 0********************** (packet runs past the end of the packet) / PUBLISH devices/h-3c66a23b3d4462ec/data "{\"id\":\"h-3c66a23b3d4462ec\",\"user\":{\"age\":40},\"n\":1.50}"
        STATE Some("h-3c66a23b3d4462ec") SUBSCRIBE 1 devices/h-3c66a23b3d4462ec/cmd
        STATE None PUBLISH devices/h-3c66a23b3d4462ec/data "{\"id\":\"h-3c66a23b3d4462ec\",\"user\":{\"age\":40},\"n\":1.50}"
        RAW G*************************
        CONNACK session_present=false assigned_client_id=h-3c66a23b3d4462ec reason_string="hello ***" response_information=devices/h-3c66a23b3d4462ec/answers
        AUTH 0x18 auth_method=SCRAM-SHA-256 auth_data=redacted
        PUBLISH devices/h-3c66a23b3d4462ec/x alias=1 user=token:h-8d60906f3bbfb140 correlation_data=***#1 "{\"id\":\"h-3c66a23b3d4462ec\",\"user\":{\"age\":40},\"n\":1.50}"
        PUBLISH "" alias=1 user=token:h-8d60906f3bbfb140 correlation_data=***#1 "{\"id\":\"h-3c66a23b3d4462ec\",\"user\":{\"age\":40},\"n\":1.50}"
        json:$.id=hash: 5 in 5
        json:$.user.email=remove: 6 in 6
        text:[a-z]+@[a-z.]+=mask: 5 in 5
        user_property:tok*=hash: 4 in 3
        client_id=hash: 6 in 6
        username=constant:somebody: 3 in 2
        topic:devices/+/#=hash: 12 in 9
        14 events, passwords 1, hidden 2, not JSON 0
    "#]].assert_eq(&redacted(&ALL, V5, tell_tale(V5)));
}

#[test]
fn the_same_before_mqtt_5() {
    expect_test::expect![[r#"
        OPEN Some("10.1.2.3:4000") Some("h-3c66a23b3d4462ec")
        CONNECT h-3c66a23b3d4462ec v=3.1.1 will=devices/h-3c66a23b3d4462ec/gone:"{\"user\":{}}" username=somebody password=***
        PUBLISH devices/h-3c66a23b3d4462ec/data "{\"id\":\"h-3c66a23b3d4462ec\",\"user\":{\"age\":40},\"n\":1.50}"
        SUBSCRIBE 1 devices/h-3c66a23b3d4462ec/+, devices/+/data, devices/#, $share/g/devices/h-3c66a23b3d4462ec/cmd
        MARK *** called
        MOCK m h-3c66a23b3d4462ec devices/h-3c66a23b3d4462ec/+
        FAULT h-3c66a23b3d4462ec devices/h-3c66a23b3d4462ec/data {"was":"***"} 0********************** (packet runs past the end of the packet) / PUBLISH devices/h-3c66a23b3d4462ec/data "{\"id\":\"h-3c66a23b3d4462ec\",\"user\":{\"age\":40},\"n\":1.50}"
        STATE Some("h-3c66a23b3d4462ec") SUBSCRIBE 1 devices/h-3c66a23b3d4462ec/cmd
        STATE None PUBLISH devices/h-3c66a23b3d4462ec/data "{\"id\":\"h-3c66a23b3d4462ec\",\"user\":{\"age\":40},\"n\":1.50}"
        RAW G*************************
        json:$.id=hash: 3 in 3
        json:$.user.email=remove: 4 in 4
        text:[a-z]+@[a-z.]+=mask: 2 in 2
        user_property:tok*=hash: 0 in 0
        client_id=hash: 5 in 5
        username=constant:somebody: 1 in 1
        topic:devices/+/#=hash: 9 in 7
        10 events, passwords 1, hidden 2, not JSON 0
    "#]].assert_eq(&redacted(&ALL, V311, tell_tale(V311)));
}

#[test]
fn what_is_removed_leaves_valid_packets() {
    let rules = ["username=remove", "user_property:*=remove", "peer=remove", "json:$=remove"];
    expect_test::expect![[r#"
        OPEN None None
        CONNECT dev-1 v=3.1.1 will=devices/dev-1/gone:""
        username=remove: 1 in 1
        user_property:*=remove: 0 in 0
        peer=remove: 1 in 1
        json:$=remove: 1 in 1
        2 events, passwords 1, hidden 0, not JSON 0
    "#]]
    .assert_eq(&redacted(&rules, V311, [open(), connect(V311)]));
    expect_test::expect![[r#"
        OPEN None None
        CONNECT dev-1 v=5 auth_method=SCRAM-SHA-256 auth_data=redacted will=devices/dev-1/gone:"" will_response_topic=devices/dev-1/answer password=***
        username=remove: 2 in 1
        user_property:*=remove: 2 in 1
        peer=remove: 1 in 1
        json:$=remove: 1 in 1
        2 events, passwords 1, hidden 0, not JSON 0
    "#]].assert_eq(&redacted(&rules, V5, [open(), connect(V5)]));
}

#[test]
fn without_rules_passwords_alone_are_taken_out() {
    let text = redacted(&[], V5, tell_tale(V5));
    assert!(text.ends_with("1 events, passwords 1, hidden 0, not JSON 0\n"), "{text}");
    let raw = EventKind::Raw {
        direction: Direction::ClientToServer,
        bytes: Bytes::from_static(b"\x10\x1a\0\x04MQTT\x04\xc3\0\x3c\0\x01c\0\x03bob\0\x06secret"),
    };
    let text = redacted(&[], V5, [raw]);
    assert!(!text.contains("secret") && text.contains("passwords 1"), "{text}");
}

#[test]
fn hashes_depend_on_the_key_and_the_value_alone() {
    let hash = |key: &str, value: &str| RedactionKey::new(key).hash(value.as_bytes());
    assert_eq!(hash("key", "dev-1"), hash("key", "dev-1"));
    assert_ne!(hash("key", "dev-1"), hash("key", "dev-2"));
    assert_ne!(hash("key", "dev-1"), hash("other", "dev-1"));
    // Written down, because hashes of one key have to stay what they are.
    expect_test::expect!["h-3c66a23b3d4462ec"].assert_eq(&hash("key", "dev-1"));
    assert_eq!(format!("{:?}", RedactionKey::new("key")), "RedactionKey(***)");
}

#[test]
fn a_topic_that_a_pattern_leaves_nothing_of_is_masked() {
    let kinds = [connect(V5), from_client(publish(Some("secret"), b"secret secret", Vec::new()))];
    expect_test::expect![[r#"
        CONNECT dev-1 v=5 user=token:tok-1 auth_method=SCRAM-SHA-256 auth_data="n,,n=bob" will=devices/dev-1/gone:"{\"user\":{\"email\":\"bob@example.org\"}}" will_user=token:tok-2 will_response_topic=devices/dev-1/answer username=bob password=***
        PUBLISH *** " "
        text:secret=remove: 3 in 1
        2 events, passwords 1, hidden 0, not JSON 0
    "#]].assert_eq(&redacted(&["text:secret=remove"], V5, kinds));
}

#[test]
fn json_that_cannot_be_searched_is_hidden_as_a_whole() {
    let deep = format!("{{\"pin\":4711,\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    for payload in [
        r#"{"user":{"pin":4711},"user":{}}"#,
        r#" {"pin":4711,"n":1e999}"#,
        r#"[{"pin":4711},"\ud800"]"#,
        "\u{feff}{\"pin\":4711}",
        r#"{"pin":4711}{"pin":4711}"#,
        &deep,
    ] {
        let message = from_client(publish(Some("a"), payload.as_bytes(), Vec::new()));
        let text = redacted(&["json:$..pin=remove"], V5, [connect(V5), message]);
        assert!(
            text.contains("PUBLISH a \"***\"") && text.contains("hidden 1, not JSON 0"),
            "{payload}: {text}"
        );
    }
    let message = from_client(publish(Some("a"), b"pin 4711", Vec::new()));
    let text = redacted(&["json:$..pin=remove"], V5, [connect(V5), message]);
    assert!(text.contains("PUBLISH a \"pin 4711\"") && text.contains("hidden 0, not JSON 1"), "{text}");
}

#[test]
fn a_filter_for_all_below_names_the_level_itself() {
    let subscribes =
        sample::packet(Direction::ClientToServer, V5, subscribe(&["d/secret/#", "d/secret/x/#"]));
    let text = redacted(&["topic:d/+=mask"], V5, [connect(V5), subscribes]);
    assert!(text.contains("SUBSCRIBE 1 d/***/#, d/secret/x/#"), "{text}");
}

#[test]
fn topics_of_the_server_are_none_of_first_level_rules() {
    let kinds = [connect(V5), from_client(publish(Some("$SYS/broker"), b"", Vec::new()))];
    let text = redacted(&["topic:+/#=hash"], V5, kinds);
    assert!(text.contains("PUBLISH $SYS/broker"), "{text}");
}

#[test]
fn what_cannot_be_read_is_hidden_and_what_is_too_short_to_tell_is_not() {
    let unread = |bytes: &'static [u8]| EventKind::Packet {
        direction: Direction::ClientToServer,
        bytes: Bytes::from_static(bytes),
    };
    // Of a connection whose version nobody knows.
    let kinds = [unread(b"\x30\x08\0\x05dev-1x"), unread(b"\x40\x02\0\x01"), unread(b"\xc0\0")];
    expect_test::expect![[r#"
        0********* (packet runs past the end of the packet)
        PUBACK 1
        PINGREQ
        client_id=hash: 0 in 0
        1 events, passwords 0, hidden 1, not JSON 0
    "#]]
    .assert_eq(&redacted(&["client_id=hash"], V5, kinds));
}

#[test]
fn an_event_without_anything_to_redact_keeps_its_bytes() {
    let message = publish(Some("a/b"), br#"{"n": 1}"#, vec![Property::UserProperty(text("n"), text("v"))]);
    let mut redactor = Redactor::new(redaction(&ALL));
    for event in sample::events([(0, 1, sample::connect("", V5)), (0, 1, from_client(message))]) {
        assert_eq!(redactor.redact(event.clone()), event);
    }
    assert_eq!(redactor.report().events, 0);
}

proptest! {
    #[test]
    fn nothing_that_a_pattern_matches_is_left_and_no_event_is_lost(
        kinds in proptest::collection::vec(record::tests::kind(60), 1..30),
    ) {
        let mut redactor = Redactor::new(redaction(&ALL));
        let kinds = [connect(V5)].into_iter().chain(kinds);
        for event in sample::events(kinds.map(|kind| (0, 1, kind))) {
            let (seq, name, at) = (event.seq, event.kind.name(), event.at);
            let redacted = redactor.redact(event);
            prop_assert_eq!((redacted.seq, redacted.kind.name(), redacted.at), (seq, name, at));
        }
    }

    #[test]
    fn a_secret_is_gone_wherever_it_stood(at in 0_usize..4, prefix in "[a-z /]{0,9}", suffix in "[a-z /]{0,9}") {
        let secret = format!("{prefix}bob@example.org{suffix}");
        let topic = ["t", &secret][usize::from(at == 0)];
        let property = Property::UserProperty(text(["n", &secret][usize::from(at == 1)]), text(["v", &secret][usize::from(at == 2)]));
        let payload = ["p", &secret][usize::from(at == 3)];
        let kinds = [connect(V5), from_client(publish(Some(topic), payload.as_bytes(), vec![property]))];
        let text = redacted(&["text:bob@example.org=hash"], V5, kinds);
        prop_assert!(!text.contains("bob@example.org:") && !text.lines().nth(1).unwrap_or_default().contains("bob@"), "{}", text);
    }
}
