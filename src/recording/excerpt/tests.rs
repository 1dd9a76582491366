//! What an excerpt of two clients' events holds.

use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::{
    packet::{
        Ack, ControlPacket, PacketIdentifier, Properties, Property, ProtocolVersion, Publish, QoS,
        ReasonCode, Suback, Subscribe, Subscription, SubscriptionOptions, TopicFilter,
    },
    recording::{
        Direction, EventFilter, NamePattern, RecordingInfo, record,
        sample::{self, ack, connack, connect, from_client, identified, open, publish},
    },
};

const V5: ProtocolVersion = ProtocolVersion::V5;

fn message(topic: Option<&str>, payload: &str, alias: Option<u16>) -> EventKind {
    from_client(publish(topic, payload.as_bytes(), alias.map(Property::TopicAlias).into_iter().collect()))
}

fn retained(topic: &str, payload: &str) -> EventKind {
    from_client(Publish { retain: true, ..publish(Some(topic), payload.as_bytes(), Vec::new()) })
}

fn subscribe(filters: &[&str]) -> [EventKind; 2] {
    let packet_identifier = PacketIdentifier::MIN;
    let subscriptions = filters.iter().map(|filter| Subscription {
        filter: TopicFilter::parse(filter).unwrap(),
        options: SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() },
    });
    let subscriptions: Vec<_> = subscriptions.collect();
    let reason_codes = (0..filters.len()).map(|n| [ReasonCode(1), ReasonCode(0x87)][n % 2]).collect();
    let properties = Properties::new;
    let asked = Subscribe { packet_identifier, properties: properties(), subscriptions };
    let granted = Suback { packet_identifier, properties: properties(), reason_codes };
    [
        sample::packet(Direction::ClientToServer, V5, ControlPacket::Subscribe(asked)),
        sample::packet(Direction::ServerToClient, V5, ControlPacket::Suback(granted)),
    ]
}

/// Two clients, one second between any two events.
fn events() -> Vec<Event> {
    let [asked, granted] = subscribe(&["a/#", "refused"]);
    let wall: Timestamp = "2026-11-26T12:00:00.5Z".parse().unwrap();
    let last = identified(publish(Some("a/y"), b"3", Vec::new()), QoS::AtLeastOnce, 7, false);
    sample::events(
        [
            (0, EventKind::Anchor(wall)),
            (1, open()),
            (2, open()),
            (1, connect("pub", V5)),
            (1, connack(false, V5)),
            (2, connect("sub", V5)),
            (2, connack(false, V5)),
            (2, asked),
            (2, granted),
            (1, retained("a/x", "old")),
            (1, message(Some("a/x"), "1", Some(5))),
            (1, retained("b", "gone")),
            (1, retained("b", "")),
            // From here on.
            (1, message(None, "2", Some(5))),
            (1, message(None, "2b", Some(5))),
            (0, EventKind::Mark("half".to_owned())),
            (2, EventKind::Close(CloseCause::ClientRst)),
            (1, from_client(last)),
            (1, ack(ControlPacket::Puback as fn(Ack) -> _, 7)),
        ]
        .into_iter()
        .zip(0..)
        .map(|((connection, kind), at)| (at * 1_000_000, connection, kind)),
    )
}

fn given() -> Result<impl Iterator<Item = Result<Event, Infallible>>, Infallible> {
    Ok(events().into_iter().map(Ok))
}

fn line(event: &Event) -> String {
    let what = match &event.kind {
        EventKind::Packet { bytes, .. } => ControlPacket::decode(bytes, V5).unwrap().to_string(),
        EventKind::State(in_force) => {
            let client = in_force.client_identifier.as_deref().unwrap_or("retained");
            format!("STATE {client}: {}", in_force.decode().unwrap())
        }
        EventKind::Open(info) if info.already_open => {
            format!("OPEN already, {}", info.client_identifier.as_deref().unwrap_or("?"))
        }
        EventKind::Anchor(wall) => format!("ANCHOR {wall}"),
        EventKind::Close(cause) => format!("CLOSE {}", cause.name()),
        kind => kind.name().to_owned(),
    };
    format!("{} {}s {}: {what}\n", event.seq, event.at.as_secs_f64(), event.connection)
}

fn check(filter: EventFilter, expected: expect_test::Expect) {
    let cut = Cut::new(filter, given).unwrap();
    let mut excerpt = cut.of(given().unwrap());
    let mut text: String = excerpt.by_ref().map(|event| line(&event.unwrap())).collect();
    text.extend(excerpt.notes().iter().map(|note| format!("note: {note}\n")));
    expected.assert_eq(&text);
}

fn seconds(start: Option<u64>, until: Option<u64>) -> EventFilter {
    EventFilter {
        start: start.map(Duration::from_secs),
        until: until.map(Duration::from_secs),
        ..EventFilter::default()
    }
}

#[test]
fn an_excerpt_begins_with_what_stands() {
    check(
        seconds(Some(13), None),
        expect_test::expect![[r#"
                1 0s 0: ANCHOR 2026-11-26T12:00:13.5Z
                2 0s 1: OPEN already, pub
                3 0s 2: OPEN already, sub
                4 0s 0: STATE sub: SUBSCRIBE 1 a/# qos=1
                5 0s 0: STATE retained: PUBLISH a/x retain=true "old"
                6 0s 1: PUBLISH a/x alias=5 "2"
                7 1s 1: PUBLISH "" alias=5 "2b"
                8 2s 0: MARK
                9 3s 2: CLOSE client_rst
                10 4s 1: PUBLISH a/y qos=1 id=7 "3"
                11 5s 1: PUBACK 7
                note: 1 PUBLISH has its topic spelled out: the topic alias was set before the excerpt begins
            "#]],
    );
}

#[test]
fn an_excerpt_that_ends_early_closes_what_is_open() {
    check(
        seconds(Some(11), Some(15)),
        expect_test::expect![[r#"
                1 0s 0: ANCHOR 2026-11-26T12:00:11.5Z
                2 0s 1: OPEN already, pub
                3 0s 2: OPEN already, sub
                4 0s 0: STATE sub: SUBSCRIBE 1 a/# qos=1
                5 0s 0: STATE retained: PUBLISH a/x retain=true "old"
                6 0s 1: PUBLISH b retain=true "gone"
                7 1s 1: PUBLISH b retain=true
                8 2s 1: PUBLISH a/x alias=5 "2"
                9 3s 1: PUBLISH "" alias=5 "2b"
                10 4s 1: CLOSE recording_ended
                11 4s 2: CLOSE recording_ended
                note: 1 PUBLISH has its topic spelled out: the topic alias was set before the excerpt begins
            "#]],
    );
}

#[test]
fn an_excerpt_of_a_client_has_its_connections_and_what_stands_for_it() {
    let clients = vec![NamePattern::new("pub")];
    check(
        EventFilter { clients, ..seconds(Some(17), None) },
        expect_test::expect![[r#"
            1 0s 0: ANCHOR 2026-11-26T12:00:17.5Z
            2 0s 1: OPEN already, pub
            3 0s 0: STATE retained: PUBLISH a/x retain=true "old"
            4 0s 1: PUBLISH a/y qos=1 id=7 "3"
            5 1s 1: PUBACK 7
        "#]],
    );
}

#[test]
fn an_excerpt_of_topics_leaves_other_messages_out() {
    let topics = vec![TopicFilter::parse("b").unwrap()];
    check(
        EventFilter { topics, ..seconds(Some(11), None) },
        expect_test::expect![[r#"
            1 0s 0: ANCHOR 2026-11-26T12:00:11.5Z
            2 0s 1: OPEN already, pub
            3 0s 2: OPEN already, sub
            4 0s 0: STATE sub: SUBSCRIBE 1 a/# qos=1
            5 0s 1: PUBLISH b retain=true "gone"
            6 1s 1: PUBLISH b retain=true
            7 4s 0: MARK
            8 5s 2: CLOSE client_rst
        "#]],
    );
}

#[test]
fn an_excerpt_of_everything_is_the_recording() {
    let cut = Cut::new(EventFilter::default(), given).unwrap();
    let all: Vec<Event> = cut.of(given().unwrap()).map(Result::unwrap).collect();
    assert_eq!(all, events());
    let info = RecordingInfo { sha256: Some("0".to_owned()), ..sample::info() };
    assert_eq!(cut.info(&info), info);
}

#[test]
fn an_excerpt_behind_the_end_says_what_stood_there() {
    check(
        seconds(Some(60), None),
        expect_test::expect![[r#"
            1 0s 0: ANCHOR 2026-11-26T12:01:00.5Z
            2 0s 1: OPEN already, pub
            3 0s 0: STATE retained: PUBLISH a/x retain=true "old"
        "#]],
    );
}

#[test]
fn an_excerpt_begins_when_its_part_did() {
    let topics = vec![TopicFilter::parse("b").unwrap()];
    let cut = Cut::new(EventFilter { topics, ..seconds(Some(90), None) }, given).unwrap();
    let info = cut.info(&RecordingInfo { sha256: Some("0".to_owned()), ..sample::info() });
    assert_eq!(info.started_at.to_string(), "2026-11-22T12:01:30.000000001Z");
    assert_eq!((info.topics, info.sha256), (vec!["b".to_owned()], None));
}

proptest! {
    #[test]
    fn an_excerpt_is_a_recording_whatever_the_events(
        kinds in proptest::collection::vec((record::tests::kind(40), 0_u32..4), 0..40),
        start in 0_u64..45,
        length in 1_u64..45,
    ) {
        let kinds = kinds.into_iter().zip(0..).map(|((kind, connection), at)| (at * 1_000_000, connection, kind));
        let events = sample::events(kinds);
        let given = || Ok::<_, Infallible>(events.iter().cloned().map(Ok));
        let clients = vec![NamePattern::new("*")];
        let filter = EventFilter { clients, ..seconds(Some(start), Some(start + length)) };
        let cut = Cut::new(filter, given)?;
        let excerpt: Vec<Event> = cut.of(given()?).map(Result::unwrap).collect();
        let (mut connections, mut at) = (0, Duration::ZERO);
        for (event, seq) in excerpt.iter().zip(1..) {
            prop_assert_eq!(event.seq, seq);
            prop_assert!(event.at >= at && event.at <= Duration::from_secs(length));
            prop_assert!(event.connection <= connections + 1);
            (connections, at) = (connections.max(event.connection), event.at);
        }
        let within = events.iter().filter(|event| (start..start + length).contains(&event.at.as_secs()));
        let marks = |kind: &EventKind| matches!(kind, EventKind::Mark(_) | EventKind::Gap { .. });
        let kept = excerpt.iter().filter(|event| marks(&event.kind));
        prop_assert_eq!(kept.count(), within.filter(|event| marks(&event.kind)).count());
    }
}
