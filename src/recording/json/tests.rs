//! The JSON format as a whole.

use std::{io::Cursor, time::Duration};

use bytes::{Bytes, BytesMut};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{
    packet::{
        ControlPacket, PacketIdentifier, PacketType, Properties, Property, ProtocolVersion, Publish, QoS,
        Subscribe, Subscription, SubscriptionOptions, TopicFilter, TopicName,
    },
    recording::{
        CloseCause, Direction, Event, EventKind, FaultInjected, FileError, FileErrorKind, FilePlace, InForce,
        RecordingInfo, RecordingState,
        player::{Pace, Selection, plan},
        sample::{self, connack, connect, events, from_client, info, open, publish, text},
    },
};

#[derive(Debug)]
struct Failed(#[allow(dead_code, reason = "Debug prints it")] String);

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

fn write(events: &[Event]) -> String {
    let give = || Ok::<_, Failed>(events.iter().cloned().map(Ok::<_, Failed>));
    String::from_utf8(JsonWriter::new(Vec::new()).write(&info(), give).unwrap()).unwrap()
}

fn read(json: &str) -> Result<Vec<Event>, FileError> {
    JsonReader::open(Cursor::new(json))?.into_events()?.collect()
}

fn check_round_trip(events: &[Event]) -> String {
    let json = write(events);
    let again = read(&json).unwrap_or_else(|error| panic!("{error}\n{json}"));
    assert_eq!(again, events, "{json}");
    let value: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(value["events"].as_array().unwrap().len(), events.len());
    json
}

#[test]
fn a_recording_reads_like_this() {
    let qos_1 = Publish {
        qos: QoS::AtLeastOnce,
        packet_identifier: PacketIdentifier::new(4),
        ..publish(Some("sensors/d1/temp"), b"{\"value\":23.5}", Vec::new())
    };
    let alias = Property::TopicAlias(1);
    let user = |name, value| Property::UserProperty(text(name), text(value));
    let events = events([
        (0, 1, open()),
        (1, 1, connect("dev-1", ProtocolVersion::V5)),
        (2, 1, connack(false, ProtocolVersion::V5)),
        (1_203_412, 1, from_client(qos_1)),
        (1_203_500, 1, from_client(publish(Some("a"), b"on", vec![alias.clone()]))),
        (1_203_600, 1, from_client(publish(None, b"\xff", vec![alias]))),
        (1_203_700, 1, from_client(publish(Some("a"), b"", vec![user("k", "v"), user("k", "w")]))),
        (1_250_000, 0, EventKind::Mark("after warm-up".to_owned())),
        (1_250_000, 0, EventKind::Gap { events: 3, bytes: 99 }),
        (
            1_260_000,
            1,
            EventKind::Raw { direction: Direction::ServerToClient, bytes: Bytes::from_static(b"\xf0") },
        ),
        (61_000_100, 1, EventKind::Close(CloseCause::ClientFin)),
    ]);
    let json = check_round_trip(&events);
    expect![[r#"
        {
          "format": "mockforge.mqtt.session",
          "version": 1,
          "id": "01JD3ZJ8Y0000000000000000A",
          "name": "orders",
          "started_at": "2026-11-22T12:00:00.000000001Z",
          "state": "complete",
          "source": {"kind": "proxy", "upstream": "mqtt://broker:1883"},
          "tool_version": "0.1.0",
          "gaps": 0,
          "connections": [
            {"conn": 1, "session": 1, "client_id": "dev-1", "protocol": 5, "clean_start": true, "keep_alive": 60, "peer": "127.0.0.1:40000", "opened_ms": 0.000000, "closed_ms": 61000.100000, "close": "client_fin"}],
          "events": [
            {"seq": 1, "t_ms": 0.000000, "conn": 1, "kind": "OPEN", "peer": "127.0.0.1:40000", "transport": "tcp"},
            {"seq": 2, "t_ms": 0.001000, "conn": 1, "dir": "c2s", "type": "CONNECT", "protocol": 5, "client_id": "dev-1", "clean_start": true, "keep_alive": 60, "raw": "EBIABE1RVFQFAgA8AAAFZGV2LTE="},
            {"seq": 3, "t_ms": 0.002000, "conn": 1, "dir": "s2c", "type": "CONNACK", "session_present": false, "reason_code": 0, "raw": "IAMAAAA="},
            {"seq": 4, "t_ms": 1203.412000, "conn": 1, "dir": "c2s", "type": "PUBLISH", "topic": "sensors/d1/temp", "qos": 1, "retain": false, "packet_id": 4, "payload": {"value":23.5}, "payload_encoding": "json"},
            {"seq": 5, "t_ms": 1203.500000, "conn": 1, "dir": "c2s", "type": "PUBLISH", "topic": "a", "qos": 0, "retain": false, "properties": {"topic_alias": 1}, "payload": "on", "payload_encoding": "utf8"},
            {"seq": 6, "t_ms": 1203.600000, "conn": 1, "dir": "c2s", "type": "PUBLISH", "topic": "a", "qos": 0, "retain": false, "properties": {"topic_alias": 1}, "payload": "/w==", "payload_encoding": "base64", "raw": "MAcAAAMjAAH/"},
            {"seq": 7, "t_ms": 1203.700000, "conn": 1, "dir": "c2s", "type": "PUBLISH", "topic": "a", "qos": 0, "retain": false, "properties": {"user_properties": [["k", "v"], ["k", "w"]]}, "payload": "", "payload_encoding": "utf8"},
            {"seq": 8, "t_ms": 1250.000000, "kind": "MARK", "label": "after warm-up"},
            {"seq": 9, "t_ms": 1250.000000, "kind": "GAP", "events": 3, "bytes": 99},
            {"seq": 10, "t_ms": 1260.000000, "conn": 1, "dir": "s2c", "kind": "RAW", "raw": "8A=="},
            {"seq": 11, "t_ms": 61000.100000, "conn": 1, "kind": "CLOSE", "cause": "client_fin"}]
        }
    "#]]
    .assert_eq(&json);
}

#[test]
fn faults_read_like_this() {
    let fault = |fault| EventKind::Fault(Box::new(fault));
    let sent = Some(Bytes::from_static(b"\x30\x05\0\x01ao\x91"));
    let answered = FaultInjected {
        direction: Direction::ServerToClient,
        packet_type: PacketType::Puback,
        topic: String::new(),
        received: Some(Bytes::from_static(b"\x40\x02\0\x01")),
        ..sample::fault("drop", "{}")
    };
    let nameless = FaultInjected {
        rule: String::new(),
        client_identifier: String::new(),
        ..sample::fault("latency", r#"{"ms":23.4}"#)
    };
    let events = events([
        (0, 1, open()),
        (1, 1, fault(FaultInjected { sent, ..sample::fault("corrupt", r#"{"changes":[[6,255]]}"#) })),
        (2, 1, fault(answered)),
        (3, 1, fault(nameless)),
    ]);
    let json = check_round_trip(&events);
    let lines: String =
        json.lines().skip_while(|line| !line.contains("FAULT")).collect::<Vec<_>>().join("\n");
    expect![[r#"
            {"seq": 2, "t_ms": 0.001000, "conn": 1, "kind": "FAULT", "rule": "some-corrupt", "action": "corrupt", "detail": {"changes":[[6,255]]}, "client_id": "dev-1", "dir": "c2s", "type": "PUBLISH", "nth": 7, "topic": "a/b", "sent": "MAUAAWFvkQ=="},
            {"seq": 3, "t_ms": 0.002000, "conn": 1, "kind": "FAULT", "rule": "some-drop", "action": "drop", "client_id": "dev-1", "dir": "s2c", "type": "PUBACK", "nth": 7, "received": "QAIAAQ=="},
            {"seq": 4, "t_ms": 0.003000, "conn": 1, "kind": "FAULT", "action": "latency", "detail": {"ms":23.4}, "dir": "c2s", "type": "PUBLISH", "nth": 7, "topic": "a/b"}]
        }"#]]
    .assert_eq(&lines);
}

#[test]
fn a_fault_written_by_hand_loads() {
    let json = r#"{"events":[
        {"t_ms": 1, "kind": "FAULT", "action": "drop"},
        {"t_ms": 1, "kind": "FAULT", "action": "latency", "detail": { "ms" : 1.50,
            "why": "a b" }, "nth": 2, "conn": 3, "client_id": "dev-1"}]}"#;
    let events = read(json).unwrap();
    let numbers: Vec<_> = events.iter().map(|event| (event.connection, event.kind.name())).collect();
    assert_eq!(numbers, [(1, "OPEN"), (1, "FAULT"), (3, "OPEN"), (3, "FAULT")]);
    let faults: Vec<FaultInjected> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Fault(fault) => Some(FaultInjected::clone(fault)),
            _ => None,
        })
        .collect();
    let first = FaultInjected {
        rule: String::new(),
        client_identifier: String::new(),
        topic: String::new(),
        nth: 1,
        ..sample::fault("drop", "{}")
    };
    let second = FaultInjected {
        client_identifier: "dev-1".to_owned(),
        nth: 2,
        ..FaultInjected { action: "latency".to_owned(), ..first.clone() }
    };
    let second = FaultInjected { detail: r#"{"ms":1.50,"why":"a b"}"#.to_owned(), ..second };
    assert_eq!(faults, [first, second]);
}

#[test]
fn details_that_are_no_object_leave_the_file_whole() {
    for detail in ["", "7", "{", "{}]", r#"{"a":1} "#] {
        let fault = EventKind::Fault(Box::new(sample::fault("drop", detail)));
        let again = read(&write(&events([(0, 1, open()), (0, 1, fault)]))).unwrap();
        assert_eq!(again[1].kind, EventKind::Fault(Box::new(sample::fault("drop", "{}"))), "{detail}");
    }
}

#[test]
fn the_seed_and_what_it_was_made_of_are_kept() {
    for seed in [None, Some(0), Some(u64::MAX)] {
        let edits = seed.map(|seed| format!("trimmed \"{seed}\"")).into_iter().collect();
        let info = RecordingInfo { seed, edits, ..info() };
        let give = || Ok::<_, Failed>(std::iter::empty::<Result<Event, Failed>>());
        let json = String::from_utf8(JsonWriter::new(Vec::new()).write(&info, give).unwrap()).unwrap();
        assert_eq!(json.contains("\"seed\": "), seed.is_some());
        let read = JsonReader::open(Cursor::new(json)).unwrap();
        assert_eq!((read.head().seed, &read.head().edits), (seed, &info.edits));
    }
}

#[test]
fn a_session_goes_on_over_a_new_connection_if_the_server_says_so() {
    let v311 = ProtocolVersion::V311;
    let mut kinds = Vec::new();
    for (number, session_present) in [(1, false), (2, true), (3, false), (4, true)] {
        kinds.extend([
            (0, number, open()),
            (0, number, connect("c", v311)),
            (0, number, connack(session_present, v311)),
        ]);
    }
    kinds.extend([(0, 5, open()), (0, 5, connect("d", v311)), (0, 6, open()), (0, 6, connect("c", v311))]);
    let json: serde_json::Value = serde_json::from_str(&check_round_trip(&events(kinds))).unwrap();
    let connections = json["connections"].as_array().unwrap();
    let sessions: Vec<_> = connections.iter().map(|connection| connection["session"].as_u64()).collect();
    // The last two were never accepted.
    assert_eq!(sessions, [Some(1), Some(1), Some(2), Some(2), None, None]);
}

#[test]
fn a_short_list_of_messages_written_by_hand_loads() {
    let json = r#"{"messages":[
        {"t_ms":0,"topic":"a/b","payload":"on"},
        {"t_ms":0.5,"topic":"a/c","payload":{"n": [1, 2.50]},"qos":1,"retain":true,"client_id":"dev"},
        {"t_ms":1e3,"topic":"a/b","payload":"/w==","payload_encoding":"base64","note":"ignored"},
        {"t_ms":1000,"topic":"a/d","qos":2,"client_id":"dev"}
    ],"version":1}"#;
    let events = read(json).unwrap();
    let kinds: Vec<_> =
        events.iter().map(|event| (event.connection, event.kind.name(), event.at.as_micros())).collect();
    assert_eq!(
        kinds,
        [
            (1, "OPEN", 0),
            (1, "PACKET", 0),
            (2, "OPEN", 500),
            (2, "PACKET", 500),
            (1, "PACKET", 1_000_000),
            (2, "PACKET", 1_000_000)
        ]
    );
    let bytes = |index: usize| match &events[index].kind {
        EventKind::Packet { bytes, .. } => &bytes[..],
        other => panic!("{other:?}"),
    };
    assert_eq!(bytes(1), b"\x30\x07\0\x03a/bon");
    assert_eq!(bytes(3), b"\x33\x15\0\x03a/c\0\x01{\"n\":[1,2.50]}".as_slice());
    assert_eq!(bytes(4), b"\x30\x06\0\x03a/b\xff");
    assert_eq!(bytes(5), b"\x34\x07\0\x03a/d\0\x02");
    let plan = plan(
        read(json).unwrap().into_iter().map(Ok::<_, ()>),
        Selection::default(),
        Pace::default(),
        std::time::Instant::now(),
    );
    assert_eq!(plan.unwrap().messages, 4);
    check_round_trip(&events);
}

#[test]
fn keys_come_in_any_order_and_what_is_unknown_is_left_alone() {
    let json = r#"{"events": [
            {"topic": "a", "payload": 1, "t_ms": 5, "conn": 7, "type": "PUBLISH", "properties": {"content_type": "x", "later": {}}},
            {"t_ms": 5.000001, "kind": "MARK", "label": "m", "later": [1, {"a": "]}"}]}
        ], "later": {"events": [{}]}, "connections": [{"protocol": 5, "conn": 7, "client_id": "c"}],
        "name": "n", "version": 1.7, "format": "mockforge.mqtt.session"}"#;
    let mut reader = JsonReader::open(Cursor::new(json)).unwrap();
    assert_eq!((reader.head().name.as_deref(), reader.head().entries), (Some("n"), 2));
    let events: Vec<Event> = reader.events().unwrap().map(Result::unwrap).collect();
    assert_eq!(events, reader.events().unwrap().map(Result::unwrap).collect::<Vec<_>>());
    let EventKind::Open(info) = &events[0].kind else { panic!("{events:?}") };
    assert_eq!((info.client_identifier.as_deref(), info.protocol), (Some("c"), Some(ProtocolVersion::V5)));
    let EventKind::Packet { bytes, .. } = &events[1].kind else { panic!("{events:?}") };
    assert_eq!(&bytes[..], b"\x30\x09\0\x01a\x04\x03\0\x01x1");
    assert_eq!(events[2].at, Duration::from_nanos(5_000_001));
}

#[test]
fn a_file_without_events_loads() {
    for json in ["{\"version\":1,\"events\":[]}", " { \"messages\" : [ ] } ", &write(&[])] {
        assert_eq!(read(json).unwrap(), []);
    }
}

fn check_error(json: &str, kind: FileErrorKind, expected: Expect) {
    let error = read(json).expect_err(json);
    assert_eq!(error.kind, kind, "{error}");
    expected.assert_eq(&error.to_string());
}

#[test]
fn what_is_damaged_is_named_with_its_place() {
    use FileErrorKind::{Invalid, Truncated, Unsupported};
    let event =
        |members: &str| format!("{{\"events\":[\n  {{\"t_ms\":1,\"kind\":\"MARK\"}},\n  {{{members}}}\n]}}");
    check_error("", Truncated, expect!["line 1, column 1: the file ends here, in the middle"]);
    check_error(
        "{\"events\":[{\"t_ms\":1},\n{\"t_ms\"",
        Truncated,
        expect!["line 2, column 8: events[1]: the file ends here, in the middle"],
    );
    check_error("{\"events\":[]} x", Invalid, expect!["line 1, column 15: something stands behind the end"]);
    check_error(
        "{\"version\":2,\"events\":[]}",
        Unsupported,
        expect!["line 1, column 13: version: version 2 is not supported, this program reads version 1"],
    );
    check_error(
        "{\"format\":\"other\",\"events\":[]}",
        Unsupported,
        expect![[r#"line 1, column 18: format: format "other" is not "mockforge.mqtt.session""#]],
    );
    check_error(
        "{\"version\":1}",
        Invalid,
        expect!["line 1, column 14: the file has neither events nor messages"],
    );
    check_error("[1]", Invalid, expect!["line 1, column 1: expected '{', found '['"]);
    check_error(
        "{\"name\":\n 7,\"events\":[]}",
        Invalid,
        expect!["line 2, column 2: name: invalid type: integer `7`, expected a string"],
    );
    check_error(
        "{\"events\":[{\"t_ms\":1} {\"t_ms\":1}]}",
        Invalid,
        expect!["line 1, column 23: events[0]: expected ']', found '{'"],
    );
    check_error(
        &event("\"t_ms\":0,\"kind\":\"MARK\""),
        Invalid,
        expect!["line 3, column 3: events[1].t_ms: 0.000000 is before the event before it at 1.000000"],
    );
    check_error(&event("\"kind\":\"MARK\""), Invalid, expect!["line 3, column 3: events[1].t_ms: missing"]);
    check_error(
        &event("\"t_ms\":1,\n   \"topic\":\"a\",\"qos\":\"one\""),
        Invalid,
        expect![[r#"line 4, column 26: events[1].qos: invalid type: string "one", expected u8"#]],
    );
    check_error(
        &event("\"t_ms\":1,\"topic\":\"a/#\""),
        Invalid,
        expect!["line 3, column 3: events[1].topic: wildcard '#' in a topic name"],
    );
    check_error(
        &event("\"t_ms\":1,\"topc\":\"a\""),
        Invalid,
        expect![[r#"line 3, column 3: events[1].topic: missing; there is "topc", did you mean "topic"?"#]],
    );
    check_error(
        &event("\"t_ms\":1,\"type\":\"PUBLISH\""),
        Invalid,
        expect!["line 3, column 3: events[1].topic: missing"],
    );
    check_error(
        &event("\"t_ms\":1,\"topic\":\"a\",\"qos\":1"),
        Invalid,
        expect!["line 3, column 3: events[1].packet_id: missing, and QoS 1 and 2 need it"],
    );
    check_error(
        &event("\"t_ms\":1,\"type\":\"CONNECT\""),
        Invalid,
        expect![[r#"line 3, column 3: events[1].raw: missing, and a packet of type "CONNECT" needs it"#]],
    );
    check_error(
        &event("\"t_ms\":1,\"type\":\"CONNECT\",\"raw\":\"EA==\""),
        Invalid,
        expect!["line 3, column 3: events[1].raw: not exactly one packet"],
    );
    check_error(
        &event("\"t_ms\":1,\"topic\":\"a\",\"properties\":{\"receive_maximum\":-1}"),
        Invalid,
        expect![
            "line 3, column 59: events[1].properties: receive_maximum: invalid value: integer `-1`, expected u16"
        ],
    );
    let fault = |members: &str| event(&format!("\"t_ms\":1,\"kind\":\"FAULT\",{members}"));
    check_error(
        &fault("\"acton\":\"drop\""),
        Invalid,
        expect![[r#"line 3, column 3: events[1].action: missing; there is "acton", did you mean "action"?"#]],
    );
    check_error(
        &fault("\"action\":\"drop\",\"type\":\"PUBLISHED\""),
        Invalid,
        expect![[r#"line 3, column 3: events[1].type: unknown type "PUBLISHED""#]],
    );
    check_error(
        &fault("\"action\":\"drop\",\"dir\":\"up\""),
        Invalid,
        expect![[r#"line 3, column 3: events[1].dir: "up" is not c2s or s2c"#]],
    );
    check_error(
        &fault("\"action\":\"latency\",\"detail\":5"),
        Invalid,
        expect!["line 3, column 3: events[1].detail: not an object"],
    );
    check_error(
        &fault("\"action\":\"drop\",\"nth\":-1"),
        Invalid,
        expect!["line 3, column 51: events[1].nth: invalid value: integer `-1`, expected u64"],
    );
    check_error(
        &fault("\"action\":\"drop\",\"sent\":\"=\""),
        Invalid,
        expect!["line 3, column 3: events[1].sent: Invalid symbol 61, offset 0."],
    );
    check_error(
        &event("\"t_ms\":1,\"topic\":\"a\",\"payload\":[1,,2]"),
        Invalid,
        expect!["line 3, column 38: events[1].payload: expected value"],
    );
}

#[test]
fn every_truncation_of_a_file_is_an_error() {
    let events = events([
        (0, 1, open()),
        (1, 1, connect("dev-1", ProtocolVersion::V5)),
        (9, 1, from_client(publish(Some("a"), b"\"q\\\"\"", Vec::new()))),
    ]);
    let json = write(&events);
    for end in 0..json.trim_end().len() {
        let error = read(&json[..end]).expect_err("cut");
        assert_eq!(error.kind, FileErrorKind::Truncated, "cut at {end}: {error}");
        assert!(matches!(error.place, FilePlace::Line { line: 1.., .. }));
    }
}

fn any_publish() -> impl Strategy<Value = Publish> {
    let words = || "[a-z\u{e9}/]{1,6}";
    let property = prop_oneof![
        words().prop_map(|word| Property::ContentType(text(&word))),
        words().prop_map(|word| Property::ResponseTopic(text(&word))),
        proptest::collection::vec(any::<u8>(), 0..5).prop_map(|data| Property::CorrelationData(data.into())),
        any::<u32>().prop_map(Property::MessageExpiryInterval),
        (0_u8..2).prop_map(Property::PayloadFormatIndicator),
        (1_u16..3).prop_map(Property::TopicAlias),
        (words(), words()).prop_map(|(name, value)| Property::UserProperty(text(&name), text(&value))),
        (words(), words()).prop_map(|(name, value)| Property::UserProperty(text(&name), text(&value))),
    ];
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..30),
        "[\\[{}\",:0-9.e\\]]{0,10}".prop_map(String::into_bytes),
        ".{0,10}".prop_map(String::into_bytes),
    ];
    let topic = proptest::option::weighted(0.8, words());
    (
        topic,
        payload,
        proptest::collection::vec(property, 0..6),
        0_u8..3,
        any::<bool>(),
        any::<bool>(),
        1_u16..9,
    )
        .prop_map(|(topic, payload, mut properties, qos, dup, retain, identifier)| {
            // Only user properties may stand twice.
            let mut seen = std::collections::HashSet::new();
            properties.retain(|property| {
                matches!(property, Property::UserProperty(..)) || seen.insert(property.identifier())
            });
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)];
            let has_alias = properties.iter().any(|property| matches!(property, Property::TopicAlias(_)));
            let topic = if has_alias { topic } else { Some(topic.unwrap_or("t".to_owned())) };
            Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic: topic.map(|topic| TopicName::parse(&topic).unwrap()),
                packet_identifier: PacketIdentifier::new(identifier).filter(|_| qos != QoS::AtMostOnce),
                properties: Properties(properties),
                payload: payload.into(),
            }
        })
}

proptest! {
    #[test]
    fn any_messages_survive(publishes in proptest::collection::vec((any_publish(), any::<u32>()), 1..8)) {
        let mut at = 0;
        let mut kinds = vec![(0, 1, open()), (0, 1, connect("c", ProtocolVersion::V5))];
        for (publish, delta) in publishes {
            at += u64::from(delta);
            kinds.push((at, 1, from_client(publish)));
        }
        let events = events(kinds);
        let json = check_round_trip(&events);
        prop_assert_eq!(write(&read(&json).unwrap()), json);
    }

    #[test]
    fn any_events_survive(kinds in proptest::collection::vec(crate::recording::record::tests::kind(20), 0..8)) {
        let mut all = vec![(0, 1, open())];
        // Random bytes are no packet; whatever the connection speaks, a PINGREQ is one.
        all.extend(kinds.into_iter().map(|kind| match kind {
            EventKind::Packet { direction, .. } => EventKind::Packet { direction, bytes: Bytes::from_static(b"\xc0\0") },
            // Nothing comes after it, so what follows would be of a new connection.
            EventKind::Close(_) => EventKind::Mark("closed".to_owned()),
            other => other,
        }).map(|kind| (1, 1, kind)));
        check_round_trip(&events(all));
    }

    #[test]
    fn arbitrary_text_never_panics(json in "[{}\\[\\]\",:a-z0-9 \n]{0,60}") {
        let _ = read(&json);
        let _ = read(&format!("{{\"events\":[{json}]}}"));
    }
}

#[test]
fn what_was_in_force_and_the_wall_clock_are_kept() {
    let encoded = |packet: ControlPacket| {
        let mut bytes = BytesMut::new();
        packet.encode(ProtocolVersion::V5, &mut bytes).unwrap();
        bytes.freeze()
    };
    let retained = Publish { retain: true, ..publish(Some("a/b"), b"on", vec![]) };
    let subscribe = Subscribe {
        packet_identifier: PacketIdentifier::new(1).unwrap(),
        properties: Properties::new(),
        subscriptions: vec![Subscription {
            filter: TopicFilter::parse("a/#").unwrap(),
            options: SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() },
        }],
    };
    let state = |client: Option<&str>, packet| {
        EventKind::State(Box::new(InForce { client_identifier: client.map(str::to_owned), packet }))
    };
    let events = events([
        (0, 0, state(None, encoded(ControlPacket::Publish(retained)))),
        (0, 0, state(Some("dev-1"), encoded(ControlPacket::Subscribe(subscribe)))),
        (10, 0, EventKind::Anchor("2026-11-22T12:00:10.000000123Z".parse().unwrap())),
    ]);
    let json = write(&events);
    let lines: Vec<&str> = json.lines().filter(|line| line.contains("seq")).map(str::trim).collect();
    expect![[r#"
        {"seq": 1, "t_ms": 0.000000, "kind": "STATE", "type": "PUBLISH", "topic": "a/b", "qos": 0, "retain": true, "payload": "on", "payload_encoding": "utf8"},
        {"seq": 2, "t_ms": 0.000000, "kind": "STATE", "client_id": "dev-1", "type": "SUBSCRIBE", "packet_id": 1, "filters": [{"filter": "a/#", "qos": 1, "no_local": false, "retain_as_published": false, "retain_handling": 0}], "raw": "ggkAAQAAA2EvIwE="},
        {"seq": 3, "t_ms": 0.010000, "kind": "ANCHOR", "wall": "2026-11-22T12:00:10.000000123Z"}]"#]].assert_eq(&lines.join("\n"));
    assert_eq!(read(&json).unwrap(), events);
    let bad = r#"{"events": [{"t_ms": 0, "kind": "STATE", "type": "PUBACK", "packet_id": 1}]}"#;
    expect!["line 1, column 13: events[0].type: STATE is a PUBLISH or SUBSCRIBE of MQTT 5"]
        .assert_eq(&read(bad).unwrap_err().to_string());
    let bad = r#"{"events": [{"t_ms": 0, "kind": "ANCHOR"}]}"#;
    expect!["line 1, column 13: events[0].wall: missing"].assert_eq(&read(bad).unwrap_err().to_string());
}

#[test]
fn of_a_file_that_was_cut_off_what_is_whole_can_be_had() {
    let events =
        events([(0, 1, open()), (1, 1, connect("dev-1", ProtocolVersion::V5)), (2, 0, mark("half"))]);
    let json = write(&events);
    let recover = |len: usize| {
        let reader = JsonReader::recover(Cursor::new(&json.as_bytes()[..len])).unwrap();
        let (notes, state) = (reader.notes(), reader.head().state);
        (reader.into_events().unwrap().collect::<Result<Vec<_>, _>>().unwrap(), notes, state)
    };
    let (all, notes, state) = recover(json.len());
    assert_eq!((all, notes, state), (events.clone(), vec![], Some(RecordingState::Complete)));
    for (len, left) in
        [(json.len() - 2, 3), (json.find("MARK").unwrap(), 2), (json.find("\"seq\": 1").unwrap(), 0)]
    {
        let (some, notes, state) = recover(len);
        assert_eq!((some.as_slice(), state), (&events[..left], Some(RecordingState::Interrupted)));
        assert_eq!(notes.len(), 1);
        assert!(JsonReader::open(Cursor::new(&json.as_bytes()[..len])).is_err());
    }
    let (_, notes, _) = recover(json.find("MARK").unwrap());
    expect![
        "line 16, column 43: events[2]: the file ends here, in the middle: what is whole before was taken"
    ]
    .assert_eq(&notes[0]);
}

fn mark(label: &str) -> EventKind {
    EventKind::Mark(label.to_owned())
}
