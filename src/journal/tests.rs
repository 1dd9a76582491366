//! What a ring keeps, against a list that is cut by hand.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{interceptor::Run, packet::QoS};

/// What is told of a message.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    at: u64,
    topic: String,
    properties: Vec<u8>,
    payload: Vec<u8>,
    is_shared: bool,
    qos: u8,
    retain: bool,
    client: &'static str,
    origin: MessageOrigin,
    is_kept: bool,
}

fn push(segment: &mut Segment, told: &Told) {
    let shared = told.is_shared.then(|| Bytes::copy_from_slice(&told.payload));
    let noted = Noted {
        topic: &told.topic,
        properties: &told.properties,
        payload: &told.payload,
        shared: shared.as_ref(),
        qos: QoS::try_from(told.qos).expect("0 to 2"),
        retain: told.retain,
        client_identifier: told.client,
        origin: told.origin,
        is_kept: told.is_kept,
    };
    segment.push(Duration::from_nanos(told.at), &noted);
}

fn read(message: &KeptMessage<'_>, is_shared: bool) -> (u64, Told) {
    let told = Told {
        at: message.at.as_nanos() as u64,
        topic: message.topic.to_owned(),
        properties: message.properties.to_vec(),
        payload: message.payload.to_vec(),
        is_shared,
        qos: message.qos.into(),
        retain: message.retain,
        client: ["", "dev-1", "a client with a long name"]
            .into_iter()
            .find(|name| *name == message.client_identifier)
            .expect("one of those that publish"),
        origin: message.origin,
        is_kept: message.is_kept,
    };
    (message.sequence, told)
}

fn told() -> impl Strategy<Value = Told> {
    let text = (0..3u64, "[a-z/]{1,12}", prop::collection::vec(any::<u8>(), 0..8));
    // Some are as long as those that are shared.
    let payload = prop_oneof![
        8 => (0..200usize, Just(false)),
        1 => (Just(128 << 10), any::<bool>()),
    ];
    let client = prop::sample::select(vec!["", "dev-1", "a client with a long name"]);
    let origins = vec![MessageOrigin::Client, MessageOrigin::Will, MessageOrigin::Api, MessageOrigin::Mock];
    let flags = (0..3u8, any::<bool>(), any::<bool>(), prop::sample::select(origins));
    (text, payload, client, flags).prop_map(
        |((at, topic, properties), (len, is_shared), client, (qos, retain, is_kept, origin))| Told {
            at,
            topic,
            properties,
            payload: (0..len).map(|byte| byte as u8).collect(),
            is_shared,
            qos,
            retain,
            client,
            origin,
            is_kept,
        },
    )
}

/// What is done to a ring.
#[derive(Clone, Debug)]
enum Step {
    Take(Vec<Told>),
    Clear,
    /// Holds what is read, so that nothing can be appended to it.
    Hold,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(told(), 0..6).prop_map(Step::Take),
        1 => Just(Step::Clear),
        2 => Just(Step::Hold),
    ]
}

proptest! {
    #[test]
    fn a_ring_has_the_last_messages_as_they_were(
        steps in prop::collection::vec(step(), 1..40),
        limit in prop::sample::select(vec![1, 3, 10, 1_000]),
    ) {
        // So many bytes that it is the number that decides, but for one that is too long altogether.
        let bytes = 16 << 20;
        let mut ring = Ring::new(JournalLimits { messages: limit, bytes });
        let (mut kept, mut next) = (VecDeque::new(), 1u64);
        let mut evicted = 0;
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Take(messages) => {
                    let mut segment = Segment::default();
                    for message in messages {
                        push(&mut segment, &message);
                        kept.push_back((next, message));
                        next += 1;
                    }
                    ring.take(&mut segment);
                    prop_assert!(segment.is_empty());
                }
                Step::Clear => {
                    prop_assert_eq!(ring.clear(), kept.len() as u64);
                    kept.clear();
                }
                Step::Hold => held.extend(ring.read(ring.oldest())),
            }
            while kept.len() as u64 > limit {
                kept.pop_front();
                evicted += 1;
            }
            prop_assert_eq!((ring.next(), ring.messages()), (next, kept.len() as u64));
            prop_assert_eq!(ring.evicted(), evicted);
            prop_assert_eq!(ring.bytes() == 0, kept.is_empty());
        }
        // Forwards and backwards, from anywhere.
        for start in [0, next.saturating_sub(limit), next / 2, next] {
            let wanted: Vec<_> = kept.iter().filter(|(sequence, _)| *sequence >= start).collect();
            let (mut cursor, mut found) = (start, Vec::new());
            while let Some(chunk) = ring.read(cursor) {
                prop_assert!(chunk.first() >= cursor && chunk.end() > cursor);
                let shared = |sequence| kept.iter().find(|(other, _)| *other == sequence).is_some_and(|(_, told)| told.is_shared);
                found.extend(chunk.iter().map(|message| read(&message, shared(message.sequence))));
                cursor = chunk.end();
            }
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), wanted);
            let (mut cursor, mut sequences) = (start, Vec::new());
            while let Some(chunk) = ring.read_back(cursor) {
                let before: Vec<u64> =
                    chunk.iter().map(|message| message.sequence).filter(|sequence| *sequence < cursor).collect();
                prop_assert!(!before.is_empty());
                sequences.extend(before.into_iter().rev());
                cursor = chunk.first();
            }
            let wanted: Vec<u64> =
                kept.iter().rev().map(|(sequence, _)| *sequence).filter(|sequence| *sequence < start).collect();
            prop_assert_eq!(sequences, wanted);
        }
        // What somebody looks at is as it was.
        for chunk in held {
            prop_assert_eq!(chunk.iter().count() as u64, chunk.end() - chunk.first());
        }
    }

    #[test]
    fn a_ring_stays_within_its_bytes(
        messages in prop::collection::vec(told(), 1..60),
        limit in prop::sample::select(vec![1usize, 500, 5_000, 200_000]),
        reader in prop::option::of(1..30u64),
    ) {
        let mut ring = Ring::new(JournalLimits { messages: 1_000, bytes: limit });
        ring.set_reader(reader);
        let most = if reader.is_some() { limit * 4 + (192 << 10) } else { limit };
        for message in &messages {
            let mut segment = Segment::default();
            push(&mut segment, message);
            let is_too_long = segment.size() > limit;
            let before = ring.next();
            ring.take(&mut segment);
            prop_assert!(ring.bytes() <= most, "{} of {limit} bytes", ring.bytes());
            // The newest is there, unless there is no room for it alone.
            prop_assert_eq!(ring.read(before).is_none(), is_too_long);
        }
        prop_assert_eq!(ring.next(), messages.len() as u64 + 1);
        prop_assert_eq!(ring.evicted() + ring.messages(), messages.len() as u64);
    }
}

#[test]
fn packets_that_came_together_are_the_messages_that_they_are() {
    let publish = |topic: &str, qos: u8, payload: &[u8]| {
        let mut packet = vec![0x30 | qos << 1, 0, 0, topic.len() as u8];
        packet.extend_from_slice(topic.as_bytes());
        packet.extend_from_slice(if qos > 0 { &[0, 7] } else { &[] });
        packet.extend_from_slice(payload);
        packet[1] = packet.len() as u8 - 2;
        packet
    };
    let packets = [publish("a/b", 0, b"1"), publish("a", 1, b""), publish("c", 2, b"three")];
    let mut segment = Segment::default();
    let run = Run { packets: &packets.concat(), count: 3, v5: false, client_identifier: "dev-1" };
    segment.push_run(Duration::from_secs(1), &run);
    let v5 = [&[0x31, 12, 0, 1, b't', 7, 0x26, 0, 1, b'k', 0, 1, b'v', b'x'][..]].concat();
    let run = Run { packets: &v5, count: 1, v5: true, client_identifier: "mf-abcdefgh-1" };
    segment.push_run(Duration::from_secs(2), &run);
    let mut ring = Ring::new(JournalLimits::default());
    ring.take(&mut segment);
    assert_eq!(ring.messages(), 4);
    let chunk = ring.read(2).expect("there are some");
    let told: Vec<_> = chunk
        .iter()
        .map(|message| {
            let payload = String::from_utf8_lossy(message.payload);
            format!(
                "{} {}s {} {} {:?} {payload:?} {} {} {}",
                message.sequence,
                message.at.as_secs(),
                message.client_identifier,
                message.origin.name(),
                message.topic,
                message.qos,
                message.retain,
                message.view().user("k").collect::<String>(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            r#"2 1s dev-1 client "a" "" 1 false "#,
            r#"3 1s dev-1 client "c" "three" 2 false "#,
            r#"4 2s mf-abcdefgh-1 replay "t" "x" 0 true v"#,
        ]
    );
}

#[test]
fn a_reader_that_falls_behind_keeps_messages_for_a_while() {
    let message = Told {
        at: 1,
        topic: "a".to_owned(),
        properties: Vec::new(),
        payload: vec![0; 500],
        is_shared: false,
        qos: 0,
        retain: false,
        client: "dev-1",
        origin: MessageOrigin::Client,
        is_kept: false,
    };
    let mut ring = Ring::new(JournalLimits { messages: 5, bytes: 5_000 });
    let take = |ring: &mut Ring| {
        let mut segment = Segment::default();
        push(&mut segment, &message);
        ring.take(&mut segment);
    };
    ring.set_reader(Some(3));
    for _ in 0..20 {
        take(&mut ring);
    }
    assert_eq!((ring.oldest(), ring.messages()), (3, 18));
    // It is gone, or has seen all.
    ring.set_reader(None);
    assert_eq!((ring.oldest(), ring.messages()), (16, 5));
    ring.set_reader(Some(16));
    for _ in 0..100 {
        take(&mut ring);
    }
    assert!(ring.oldest() > 16, "it fell behind too far");
    assert!(ring.bytes() <= 4 * 5_000 + 1_000, "{} bytes", ring.bytes());
}

fn judged(expectations: &[(&str, CountSpec)], is_ordered: bool, topics: &[&str]) -> Vec<String> {
    let expectations: Vec<Expectation> = expectations
        .iter()
        .map(|(topic, count)| Expectation {
            meant: MessageMatch::new(&MatchSpec {
                topic: Some(OneOrMoreTopics::One((*topic).to_owned())),
                ..MatchSpec::default()
            })
            .expect("a topic filter"),
            count: Count::new(*count).expect("a number"),
        })
        .collect();
    let mut judging = Judging::new(&expectations, is_ordered);
    for topic in topics {
        let message = KeptMessage {
            sequence: 1,
            at: Duration::ZERO,
            topic,
            properties: &[],
            payload: &[],
            qos: QoS::AtMostOnce,
            retain: false,
            client_identifier: "",
            origin: MessageOrigin::Client,
            is_kept: false,
        };
        judging.see(&message.view(), |_| {});
    }
    let shown = |judgement: Judgement| {
        format!("{}{}", if judgement.has_passed { "" } else { "not " }, judgement.text)
    };
    judging.judgements().into_iter().map(shown).collect()
}

#[test]
fn expectations_are_counted_each_by_itself() {
    let expectations =
        [("a/#", CountSpec::Exactly(2)), ("b", CountSpec::at_least(1)), ("c", CountSpec::Exactly(0))];
    assert_eq!(
        judged(&expectations, false, &["b", "a/1", "a/2"]),
        [
            "expected exactly 2 messages, found 2",
            "expected at least 1 message, found 1",
            "expected no message, found 0"
        ]
    );
    assert_eq!(
        judged(&expectations, false, &["a/1", "c"]),
        [
            "not expected exactly 2 messages, found 1",
            "not expected at least 1 message, found 0",
            "not expected no message, found 1"
        ]
    );
}

#[test]
fn in_order_each_is_met_behind_the_one_before() {
    let expectations =
        [("a", CountSpec::at_least(2)), ("+", CountSpec::at_least(1)), ("b", CountSpec::at_least(1))];
    let met = [
        "expected at least 2 messages, found 2",
        "expected at least 1 message, found 4",
        "expected at least 1 message, found 1",
    ];
    assert_eq!(judged(&expectations, true, &["a", "a", "x", "b"]), met);
    // The second takes what comes next, so there is nothing left for the third.
    assert_eq!(
        judged(&expectations, true, &["b", "a", "a", "b"]),
        [
            "expected at least 2 messages, found 2",
            "expected at least 1 message, found 4",
            "not expected at least 1 message behind those of expectation 2, found 0 of 2 there"
        ]
    );
    // None at all is met from the start.
    let none = [("a", CountSpec::Exactly(0)), ("b", CountSpec::at_least(1))];
    assert_eq!(
        judged(&none, true, &["b"]),
        ["expected no message, found 0", "expected at least 1 message, found 1"]
    );
}
