//! Which messages are played, and when.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    packet::{ControlPacket, Properties, Property, ProtocolVersion, QoS, TopicFilter},
    recording::{
        CloseCause, ConnectionInfo, Direction, EventKind, NamePattern,
        sample::{
            ack, connack, connect, events, from_client, from_server, identified, open, packet, publish, text,
        },
    },
};

const V5: ProtocolVersion = ProtocolVersion::V5;

fn as_recorded(events: &[Event]) -> impl Iterator<Item = Result<Event, ()>> {
    events.iter().cloned().map(Ok)
}

/// Plays everything; the offset from the anchor of each step.
fn play(recorded: &[Event], selection: Selection, pace: Pace) -> Vec<(Duration, Step<Message>)> {
    let anchor = Instant::now();
    let mut player = Player::new(as_recorded(recorded), Messages::new(selection), &pace, anchor);
    let (mut now, mut steps) = (anchor, Vec::new());
    loop {
        match player.poll(now).unwrap() {
            Poll::Due(step) => steps.push((step.deadline.unwrap_or(anchor) - anchor, step)),
            Poll::Wait(until) => {
                assert!(until > now);
                now = until;
            }
            Poll::Rewind => player.rewind(as_recorded(recorded)),
            Poll::Paused => panic!("nobody paused it"),
            Poll::Done => return steps,
        }
    }
}

fn topics(steps: &[(Duration, Step<Message>)]) -> Vec<&str> {
    steps.iter().map(|(_, step)| step.item.publish.topic.as_ref().unwrap().as_str()).collect()
}

fn millis(steps: &[(Duration, Step<Message>)]) -> Vec<u128> {
    steps.iter().map(|(offset, _)| offset.as_millis()).collect()
}

/// One client that sends a message to each topic, at that many milliseconds.
fn session(messages: &[(u64, &str)]) -> Vec<Event> {
    let mut kinds = vec![(0, 1, open()), (0, 1, connect("dev-1", V5)), (0, 1, connack(false, V5))];
    kinds.extend(
        messages.iter().map(|(at, topic)| (at * 1000, 1, from_client(publish(Some(topic), b"x", vec![])))),
    );
    let end = messages.last().map_or(0, |(at, _)| at * 1000 + 500_000);
    kinds.push((end, 1, EventKind::Close(CloseCause::ClientFin)));
    events(kinds)
}

fn at_speed(factor: f64) -> Pace {
    Pace { speed: Speed::Factor(factor), ..Pace::default() }
}

proptest! {
    #[test]
    fn replay_at_a_speed_keeps_the_order_and_scales_the_gaps(
        gaps in proptest::collection::vec(0_u64..5_000_000_000, 1..40),
        speed in prop_oneof![Just(0.001), Just(0.5), Just(2.0), Just(1000.0), 0.001..1000.0],
    ) {
        let mut at = Duration::from_secs(3);
        let mut recorded = session(&[]);
        recorded.pop();
        for (seq, gap) in (4..).zip(&gaps) {
            at += Duration::from_nanos(*gap);
            let kind = from_client(publish(Some("t"), b"", vec![]));
            recorded.push(Event { seq, at, connection: 1, kind });
        }
        let first = recorded[3].at;
        let steps = play(&recorded, Selection::default(), at_speed(speed));
        prop_assert_eq!(steps.len(), gaps.len());
        for ((offset, step), event) in steps.iter().zip(&recorded[3..]) {
            prop_assert_eq!(step.seq, event.seq);
            let exact = (event.at - first).as_nanos() as f64 / speed;
            let stray = (offset.as_nanos() as f64 - exact).abs();
            prop_assert!(stray <= 1.0 + exact * 1e-9, "{} instead of {}", offset.as_nanos(), exact);
        }
    }
}

#[test]
fn deadlines_do_not_drift() {
    // A third of a millisecond each, a day long.
    let recorded: Vec<Event> = session(&[(0, "a"), (86_400_000, "b")]);
    let steps = play(&recorded, Selection::default(), at_speed(3.0));
    assert_eq!(steps[1].0, Duration::from_secs(28_800));
    let steps = play(&recorded, Selection::default(), at_speed(1.0 / 3.0));
    let exact = Duration::from_secs(259_200);
    assert!(steps[1].0.abs_diff(exact) < Duration::from_micros(1), "{:?}", steps[1].0);
}

#[test]
fn at_maximum_speed_nothing_waits() {
    let pace = Pace { speed: Speed::Max, ..Pace::default() };
    assert_eq!(millis(&play(&session(&[(1, "a"), (9000, "b")]), Selection::default(), pace)), [0, 0]);
}

#[test]
fn long_silences_are_shortened() {
    let recorded = session(&[(100, "a"), (200, "b"), (60_200, "c"), (60_300, "d")]);
    let pace = Pace { max_gap: Some(Duration::from_secs(1)), ..at_speed(2.0) };
    assert_eq!(millis(&play(&recorded, Selection::default(), pace)), [0, 50, 550, 600]);
}

#[test]
fn a_rate_holds_back_bursts_only() {
    let recorded = session(&[(0, "a"), (1, "b"), (2, "c"), (1000, "d"), (1050, "e")]);
    let pace = Pace { rate: Some(10.0), ..Pace::default() };
    assert_eq!(millis(&play(&recorded, Selection::default(), pace)), [0, 100, 200, 1000, 1100]);
    let pace = Pace { rate: Some(10.0), speed: Speed::Max, ..Pace::default() };
    assert_eq!(millis(&play(&recorded, Selection::default(), pace)), [0, 100, 200, 300, 400]);
}

#[test]
fn a_loop_goes_on_where_the_recording_ended() {
    // The connection closes half a second after the last message.
    let recorded = session(&[(100, "a"), (200, "b")]);
    let pace = Pace { repeat: Repeat::Times(3), ..Pace::default() };
    let steps = play(&recorded, Selection::default(), pace);
    assert_eq!(millis(&steps), [0, 100, 600, 700, 1200, 1300]);
    assert_eq!(steps.last().unwrap().1.pass, 2);
    let nothing = Selection { topics: vec![TopicFilter::parse("none").unwrap()], ..Selection::default() };
    assert_eq!(play(&recorded, nothing, Pace { repeat: Repeat::Forever, ..Pace::default() }), []);
}

#[test]
fn messages_are_selected_by_topic_client_and_time() {
    let recorded = session(&[(0, "a/1"), (10, "b/1"), (20, "a/2"), (30, "a/3"), (40, "$SYS/x")]);
    let filters =
        |texts: &[&str]| texts.iter().map(|text| TopicFilter::parse(text).unwrap()).collect::<Vec<_>>();
    let check = |selection: Selection, expected: &[&str]| {
        assert_eq!(topics(&play(&recorded, selection, Pace::default())), expected);
    };
    let ms = |ms| Some(Duration::from_millis(ms));
    let all = Selection::default();
    check(all.clone(), &["a/1", "b/1", "a/2", "a/3", "$SYS/x"]);
    check(
        Selection { topics: filters(&["a/#"]), exclude_topics: filters(&["+/2"]), ..all.clone() },
        &["a/1", "a/3"],
    );
    check(Selection { start: ms(10), until: ms(30), ..all.clone() }, &["b/1", "a/2"]);
    check(Selection { start: ms(15), duration: ms(10), ..all.clone() }, &["a/2"]);
    check(
        Selection { clients: vec![NamePattern::new("dev-?")], topics: filters(&["b/1"]), ..all.clone() },
        &["b/1"],
    );
    check(Selection { clients: vec![NamePattern::new("app*")], ..all.clone() }, &[]);
    let until = Selection { start: ms(20), ..all };
    assert_eq!(millis(&play(&recorded, until, Pace::default())), [0, 10, 20]);
}

#[test]
fn topic_aliases_are_resolved_for_each_connection() {
    let alias = |number| Property::TopicAlias(number);
    let aliased = |topic, number| from_client(publish(topic, b"", vec![alias(number)]));
    let recorded = events([
        (0, 1, open()),
        (0, 1, connect("c", V5)),
        (
            0,
            2,
            EventKind::Open(Box::new(ConnectionInfo {
                already_open: true,
                protocol: Some(V5),
                ..ConnectionInfo::default()
            })),
        ),
        (1, 1, aliased(Some("one"), 1)),
        (2, 2, aliased(None, 1)),
        (3, 2, aliased(Some("two"), 1)),
        (4, 1, aliased(None, 1)),
        (5, 2, aliased(None, 1)),
        (6, 1, aliased(Some("three"), 1)),
        (7, 1, aliased(None, 1)),
    ]);
    let steps = play(&recorded, Selection::default(), Pace::default());
    assert_eq!(topics(&steps), ["one", "two", "one", "two", "three", "three"]);
    assert!(steps.iter().all(|(_, step)| step.item.publish.properties.is_empty()));
    let plan = plan(as_recorded(&recorded), Selection::default(), Pace::default(), Instant::now()).unwrap();
    assert_eq!(plan.skipped, Skipped { unknown_aliases: 1, ..Skipped::default() });
    assert_eq!((plan.messages, plan.connections(false), plan.connections(true)), (6, 2, 1));
}

#[test]
fn a_message_in_pieces_is_not_sent_and_the_plan_says_so() {
    let raw = |bytes: &'static [u8]| EventKind::Raw {
        direction: Direction::ClientToServer,
        bytes: bytes::Bytes::from_static(bytes),
    };
    let recorded = events([
        (0, 1, open()),
        (0, 1, connect("c", V5)),
        (1, 1, from_client(publish(Some("a"), b"1", vec![]))),
        (2, 1, raw(b"\x30\x07\0\x01a\0")),
        // Looks like another one.
        (3, 1, raw(b"\x30\x7f\0")),
        (4, 1, raw(b"\x30\x05\0\x01b\0")),
        (5, 1, raw(b"x")),
        // Never came to its end.
        (6, 1, raw(b"\x30\x05\0\x01a\0")),
        (7, 1, EventKind::Close(CloseCause::ClientRst)),
    ]);
    let warning = |selection| {
        let plan = plan(as_recorded(&recorded), selection, Pace::default(), Instant::now()).unwrap();
        plan.left_out_warning().unwrap_or_default()
    };
    let in_a = Selection { topics: vec![TopicFilter::parse("a").unwrap()], ..Selection::default() };
    assert_eq!(warning(in_a), "1 message longer than recorder.packet_bytes is in raw pieces and is not sent");
    assert_eq!(
        warning(Selection::default()),
        "2 messages longer than recorder.packet_bytes are in raw pieces and are not sent"
    );
    assert_eq!(warning(Selection { deliveries: true, ..Selection::default() }), "");
}

#[test]
fn a_retransmission_is_not_sent_twice() {
    let message = |topic, qos, identifier, dup| {
        from_client(identified(publish(Some(topic), b"", vec![]), qos, identifier, dup))
    };
    let (one, two) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
    let recorded = events([
        (0, 1, open()),
        (0, 1, connect("c", V5)),
        (0, 1, connack(false, V5)),
        // Begun before the recording: nobody has seen it.
        (0, 1, message("before", one, 9, true)),
        (0, 1, message("a", one, 1, false)),
        (0, 1, message("a", one, 1, true)),
        (0, 1, ack(ControlPacket::Puback, 1)),
        (0, 1, message("b", one, 1, false)),
        (0, 1, message("c", two, 2, false)),
        (0, 1, ack(ControlPacket::Pubrec, 2)),
        (0, 1, message("c", two, 2, true)),
        (0, 1, EventKind::Close(CloseCause::ClientRst)),
        // The session goes on, and "b" is still unacknowledged.
        (0, 2, open()),
        (0, 2, connect("c", V5)),
        (0, 2, connack(true, V5)),
        (0, 2, message("b", one, 1, true)),
        (0, 2, ack(ControlPacket::Puback, 1)),
        (0, 2, EventKind::Close(CloseCause::ClientRst)),
        // A new session knows nothing of it.
        (0, 3, open()),
        (0, 3, connect("c", V5)),
        (0, 3, connack(false, V5)),
        (0, 3, message("c", two, 2, true)),
    ]);
    let steps = play(&recorded, Selection::default(), Pace::default());
    assert_eq!(topics(&steps), ["before", "a", "b", "c", "c"]);
    assert!(steps.iter().all(|(_, step)| !step.item.publish.dup));
    let plan = plan(as_recorded(&recorded), Selection::default(), Pace::default(), Instant::now()).unwrap();
    assert_eq!(plan.skipped.retransmissions, 3);
}

#[test]
fn of_a_subscriber_recording_the_deliveries_are_played() {
    let recorded = events([
        (0, 1, open()),
        (0, 1, connect("mf-sub", V5)),
        (0, 1, connack(false, V5)),
        (0, 1, from_client(publish(Some("sent"), b"", vec![]))),
        (
            0,
            1,
            from_server(publish(
                Some("delivered"),
                b"",
                vec![Property::SubscriptionIdentifier(7), Property::ContentType(text("x"))],
            )),
        ),
    ]);
    let deliveries = Selection { deliveries: true, ..Selection::default() };
    let steps = play(&recorded, deliveries, Pace::default());
    assert_eq!(topics(&steps), ["delivered"]);
    assert_eq!(steps[0].1.item.publish.properties, Properties(vec![Property::ContentType(text("x"))]));
    assert_eq!(topics(&play(&recorded, Selection::default(), Pace::default())), ["sent"]);
}

#[test]
fn what_cannot_be_read_is_counted() {
    let unknown =
        EventKind::Open(Box::new(ConnectionInfo { already_open: true, ..ConnectionInfo::default() }));
    let recorded = events([
        (0, 1, unknown),
        (0, 1, from_client(publish(Some("a"), b"", vec![]))),
        (0, 1, packet(Direction::ClientToServer, V5, ControlPacket::Pingreq)),
    ]);
    let plan = plan(as_recorded(&recorded), Selection::default(), Pace::default(), Instant::now()).unwrap();
    assert_eq!(plan, Plan { skipped: Skipped { unreadable: 1, ..Skipped::default() }, ..Plan::default() });
}

#[test]
fn an_error_in_the_events_comes_out() {
    let recorded = session(&[(0, "a")]);
    let failing = as_recorded(&recorded).take(4).chain([Err(())]);
    let now = Instant::now();
    let mut player = Player::new(failing, Messages::new(Selection::default()), &Pace::default(), now);
    assert!(matches!(player.poll(now), Ok(Poll::Due(_))));
    assert_eq!(player.poll(now), Err(()));
}

#[test]
fn speeds_and_repeats_are_written_like_this() {
    let speed = |text: &str| text.parse::<Speed>().map_err(|error| error.to_string());
    assert_eq!(speed("2.0"), Ok(Speed::Factor(2.0)));
    assert_eq!(speed("max"), Ok(Speed::Max));
    assert_eq!(speed("0"), Ok(Speed::Max));
    assert_eq!(speed("0.001").unwrap().to_string(), "0.001");
    for bad in ["-1", "0.0001", "1001", "fast", "NaN", ""] {
        assert!(speed(bad).is_err(), "{bad}");
    }
    assert_eq!("3".parse(), Ok(Repeat::Times(3)));
    assert_eq!("forever".parse(), Ok(Repeat::Forever));
    assert!("0".parse::<Repeat>().is_err() && "-1".parse::<Repeat>().is_err());
}

/// The next item: its topic, and milliseconds from `from` to when it was due, which is when it is played.
fn next<I>(player: &mut Player<I, Messages>, from: Instant) -> Option<(String, u128)>
where
    I: Iterator<Item = Result<Event, ()>>,
{
    let mut now = from;
    loop {
        match player.poll(now).unwrap() {
            Poll::Due(step) => {
                let topic = step.item.publish.topic.unwrap().as_str().to_owned();
                return Some((topic, (now - from).as_millis()));
            }
            Poll::Wait(until) => now = until,
            Poll::Paused | Poll::Rewind | Poll::Done => return None,
        }
    }
}

#[test]
fn a_pass_begins_when_it_is_told_to_however_long_that_took() {
    let recorded = session(&[(100, "a"), (400, "b")]);
    let pace = Pace { repeat: Repeat::Times(2), ..Pace::default() };
    let start = Instant::now();
    let mut player = Player::new(as_recorded(&recorded), Messages::new(Selection::default()), &pace, start);
    assert_eq!(next(&mut player, start), Some(("a".to_owned(), 0)));
    assert_eq!(next(&mut player, start), Some(("b".to_owned(), 300)));
    assert_eq!(next(&mut player, start), None);
    player.rewind(as_recorded(&recorded));
    let later = start + Duration::from_secs(60);
    player.begin_pass(later);
    assert_eq!(next(&mut player, later), Some(("a".to_owned(), 0)));
    assert_eq!(next(&mut player, later), Some(("b".to_owned(), 300)));
}

#[test]
fn what_is_sought_comes_at_once_and_the_rest_in_its_time() {
    let recorded = session(&[(100, "a"), (400, "b"), (500, "c"), (900, "d")]);
    let pace = Pace { speed: Speed::Factor(2.0), ..Pace::default() };
    let start = Instant::now();
    let mut player = Player::new(as_recorded(&recorded), Messages::new(Selection::default()), &pace, start);
    assert_eq!(next(&mut player, start), Some(("a".to_owned(), 0)));
    player.seek(as_recorded(&recorded), Duration::from_millis(450), start);
    assert_eq!(next(&mut player, start), Some(("c".to_owned(), 25)));
    player.seek(as_recorded(&recorded), Duration::from_millis(400), start);
    assert_eq!(next(&mut player, start), Some(("b".to_owned(), 0)));
    player.timeline().pause(start);
    player.seek(as_recorded(&recorded), Duration::from_millis(900), start);
    assert_eq!(next(&mut player, start), None);
    player.timeline().resume(start);
    assert_eq!(next(&mut player, start), Some(("d".to_owned(), 0)));
    player.seek(as_recorded(&recorded), Duration::from_secs(9), start);
    assert_eq!(next(&mut player, start), None);
}
