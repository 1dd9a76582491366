//! What a relay passes on and reports, whatever the pieces.

mod asking;

use proptest::prelude::*;

use super::*;

const UP: Direction = Direction::ClientToServer;
const DOWN: Direction = Direction::ServerToClient;

const CONNECT: &[u8] = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev";
const SUBSCRIBE: &[u8] = b"\x82\x0c\x00\x07\x00\x03a/+\x01\x00\x01b\x00";
const UNSUBSCRIBE: &[u8] = b"\xa2\x05\x00\x08\x00\x01b";
const PUBLISH: &[u8] = b"\x32\x09\x00\x03a/b\x00\x01hi";
const DISCONNECT: &[u8] = b"\xe0\x00";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";
const SUBACK: &[u8] = b"\x90\x04\x00\x07\x01\x00";
const UNSUBACK: &[u8] = b"\xb0\x02\x00\x08";
const DELIVERY: &[u8] = b"\x30\x07\x00\x03a/bhi";
/// Well delimited, but a QoS of 3.
const MALFORMED: &[u8] = b"\x36\x03\x00\x01a";

/// Has `relay` take `pieces`; returns what was passed on and what was reported.
fn feed(
    relay: &mut Relay,
    direction: Direction,
    pieces: &[&[u8]],
    is_observed: bool,
) -> (Vec<u8>, Vec<Report>) {
    let (mut passed, mut reports) = (Vec::new(), Vec::new());
    for piece in pieces {
        match relay.receive(direction, piece, Watch::observing(is_observed), &mut reports) {
            Forward::Received => passed.extend_from_slice(piece),
            Forward::Bytes(bytes) => passed.extend_from_slice(&bytes),
        }
    }
    (passed, reports)
}

fn connected() -> Relay {
    let mut relay = Relay::new(RelayLimits::default());
    feed(&mut relay, UP, &[CONNECT], false);
    relay
}

fn reported(reports: &[Report]) -> Vec<(bool, &[u8])> {
    reports
        .iter()
        .filter_map(|report| match report {
            Report::Identified { .. } => None,
            Report::Packet { bytes, .. } => Some((true, &bytes[..])),
            Report::Raw { bytes, .. } => Some((false, &bytes[..])),
        })
        .collect()
}

#[test]
fn a_packet_that_is_refused_for_its_first_byte_is_not_held() {
    let mut relay = connected();
    let (first, second) = MALFORMED.split_at(3);
    assert_eq!(feed(&mut relay, UP, &[first], true), (first.to_vec(), vec![]));
    let (passed, reports) = feed(&mut relay, UP, &[second, PUBLISH], true);
    assert_eq!(passed, [second, PUBLISH].concat());
    assert_eq!(reported(&reports), [(false, MALFORMED), (true, PUBLISH)]);
    // AUTH in 3.1.1, and its length is not known yet.
    let (passed, reports) = feed(&mut relay, UP, &[b"\xff\xff"], true);
    assert_eq!(passed, b"\xff\xff");
    assert_eq!(reported(&reports), [(false, &b"\xff\xff"[..])]);
}

#[test]
fn a_packet_is_reported_when_it_is_whole_and_only_then_passed_on() {
    let mut relay = connected();
    let (first, second) = PUBLISH.split_at(6);
    assert_eq!(feed(&mut relay, UP, &[first], true), (vec![], vec![]));
    let (passed, reports) = feed(&mut relay, UP, &[second], true);
    assert_eq!(passed, PUBLISH);
    assert_eq!(reported(&reports), [(true, PUBLISH)]);
}

#[test]
fn unobserved_everything_is_passed_on_at_once() {
    let mut relay = connected();
    for byte in [PUBLISH, SUBSCRIBE].concat() {
        assert_eq!(feed(&mut relay, UP, &[&[byte]], false).0, [byte]);
    }
    assert_eq!(relay.take_counts().published, [0, 1, 0]);
}

#[test]
fn the_client_and_its_subscriptions_are_known_observed_or_not() {
    for is_observed in [false, true] {
        for cut in 1..SUBSCRIBE.len() {
            let mut relay = Relay::new(RelayLimits::default());
            let (_, reports) = feed(&mut relay, UP, &[&CONNECT[..cut], &CONNECT[cut..]], is_observed);
            assert!(reports.contains(&Report::Identified {
                client_identifier: "dev".to_owned(),
                protocol: ProtocolVersion::V311
            }));
            feed(&mut relay, DOWN, &[CONNACK], is_observed);
            feed(&mut relay, UP, &[&SUBSCRIBE[..cut], &SUBSCRIBE[cut..]], is_observed);
            assert_eq!(relay.subscriptions().len(), 0, "nothing is granted yet");
            feed(&mut relay, DOWN, &[&SUBACK[..3], &SUBACK[3..]], is_observed);
            assert_eq!(relay.subscriptions().keys().collect::<Vec<_>>(), ["a/+", "b"]);
            let counts = relay.take_counts();
            assert_eq!((counts.subscribed, counts.subscriptions), (2, 2));
            feed(&mut relay, UP, &[UNSUBSCRIBE], is_observed);
            feed(&mut relay, DOWN, &[UNSUBACK], is_observed);
            assert_eq!(relay.subscriptions().keys().collect::<Vec<_>>(), ["a/+"]);
            assert_eq!(relay.take_counts().subscriptions, -1);
        }
    }
}

#[test]
fn a_malformed_packet_is_reported_raw_and_those_behind_it_as_packets() {
    let mut relay = connected();
    let stream = [PUBLISH, MALFORMED, PUBLISH].concat();
    let (passed, reports) = feed(&mut relay, UP, &[&stream], true);
    assert_eq!(passed, stream);
    assert_eq!(reported(&reports), [(true, PUBLISH), (false, MALFORMED), (true, PUBLISH)]);
}

#[test]
fn what_is_not_mqtt_at_all_is_raw_from_then_on() {
    let mut relay = Relay::new(RelayLimits::default());
    let (passed, reports) = feed(&mut relay, UP, &[b"GET / HTTP/1.1\r\n", b"Host: x\r\n"], true);
    assert_eq!(passed, b"GET / HTTP/1.1\r\nHost: x\r\n");
    assert!(reported(&reports).iter().all(|(is_packet, _)| !is_packet));
    let mut relay = connected();
    let (passed, reports) = feed(&mut relay, UP, &[b"\x30\xff\xff\xff\xff\xff", PUBLISH], true);
    assert_eq!(passed.len(), 6 + PUBLISH.len());
    assert_eq!(reported(&reports), [(false, &b"\x30\xff\xff\xff\xff\xff"[..]), (false, PUBLISH)]);
}

#[test]
fn a_long_packet_is_passed_on_in_pieces_and_still_reported_whole() {
    let limits = RelayLimits { hold: 16, record: 64 };
    let mut relay = Relay::new(limits);
    feed(&mut relay, UP, &[CONNECT], true);
    let long = [&b"\x30\x30\x00\x01a"[..], &[b'x'; 45]].concat();
    let (passed, reports) = feed(&mut relay, UP, &[&long[..20], &long[20..40]], true);
    assert_eq!((passed.len(), reported(&reports).len()), (40, 0));
    let end = [&long[40..], PUBLISH, &PUBLISH[..3]].concat();
    let (passed, reports) = feed(&mut relay, UP, &[&end], true);
    assert_eq!(passed, end[..end.len() - 3]);
    assert_eq!(reported(&reports), [(true, &long[..]), (true, PUBLISH)]);
    assert_eq!(relay.take_counts().published, [1, 1, 0]);
}

#[test]
fn a_packet_too_long_to_record_is_reported_in_raw_pieces() {
    let limits = RelayLimits { hold: 16, record: 32 };
    let mut relay = Relay::new(limits);
    feed(&mut relay, UP, &[CONNECT], true);
    let long = [&b"\x30\x30\x00\x01a"[..], &[b'x'; 45]].concat();
    let (passed, reports) = feed(&mut relay, UP, &[&long[..20], &long[20..], PUBLISH], true);
    assert_eq!(passed, [&long[..], PUBLISH].concat());
    assert_eq!(reported(&reports), [(false, &long[..20]), (false, &long[20..]), (true, PUBLISH)]);
}

#[test]
fn the_first_of_raw_pieces_has_the_topic() {
    let limits = RelayLimits { hold: 16, record: 32 };
    let long = [&b"\x30\x30\x00\x1ea"[..], &[b'x'; 45]].concat();
    let mut relay = Relay::new(limits);
    feed(&mut relay, UP, &[CONNECT], true);
    let (passed, reports) =
        feed(&mut relay, UP, &[&long[..3], &long[3..20], &long[20..40], &long[40..]], true);
    assert_eq!(passed, long);
    assert_eq!(reported(&reports), [(false, &long[..40]), (false, &long[40..])]);
    // One that has none is not lost.
    let mut relay = Relay::new(limits);
    feed(&mut relay, UP, &[CONNECT], true);
    let endless = [&b"\x30\x30\x00\xff"[..], &[b'x'; 46]].concat();
    let (_, reports) = feed(&mut relay, UP, &[&endless[..20], &endless[20..], PUBLISH], true);
    assert_eq!(reported(&reports), [(false, &endless[..]), (true, PUBLISH)]);
    feed(&mut relay, UP, &[&endless[..20]], true);
    let mut reports = Vec::new();
    assert!(relay.finish(UP, true, &mut reports).is_empty());
    assert_eq!(reported(&reports), [(false, &endless[..20])]);
}

#[test]
fn an_observer_that_comes_within_a_packet_is_told_of_the_next() {
    let mut relay = connected();
    let (first, second) = PUBLISH.split_at(6);
    feed(&mut relay, UP, &[first], false);
    let (passed, reports) = feed(&mut relay, UP, &[&[second, PUBLISH].concat()], true);
    assert_eq!(passed, [second, PUBLISH].concat());
    assert_eq!(reported(&reports), [(true, PUBLISH)]);
}

#[test]
fn what_a_direction_ends_with_is_passed_on_though_it_is_no_packet() {
    let mut relay = connected();
    feed(&mut relay, UP, &[&PUBLISH[..5]], true);
    let mut reports = Vec::new();
    assert_eq!(relay.finish(UP, true, &mut reports), PUBLISH[..5]);
    assert_eq!(reported(&reports), [(false, &PUBLISH[..5])]);
}

#[test]
fn a_packet_of_our_own_fits_only_between_two_others() {
    let mut relay = connected();
    feed(&mut relay, DOWN, &[&DELIVERY[..4]], false);
    assert!(!relay.is_between_packets(DOWN));
    feed(&mut relay, DOWN, &[&DELIVERY[4..]], false);
    assert!(relay.is_between_packets(DOWN));
}

proptest! {
    /// Whatever the pieces, and whenever somebody observes: the bytes that leave are the bytes
    /// that came, and an observer who was always there saw exactly them.
    #[test]
    fn the_bytes_that_leave_are_the_bytes_that_came(
        packets in prop::collection::vec(
            prop::sample::select(vec![PUBLISH, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, MALFORMED]), 0..20),
        tail in prop::collection::vec(any::<u8>(), 0..20),
        sizes in prop::collection::vec((1usize..40, any::<bool>()), 1..50),
        hold in 4usize..20,
        always in any::<bool>(),
    ) {
        let mut stream = CONNECT.to_vec();
        stream.extend(packets.concat());
        stream.extend(tail);
        let mut relay = Relay::new(RelayLimits { hold, record: 2 * hold });
        let (mut passed, mut reports) = (Vec::new(), Vec::new());
        let mut rest = &stream[..];
        for (size, is_observed) in sizes.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(size.min(rest.len()));
            let (some, more) = feed(&mut relay, UP, &[piece], always || is_observed);
            passed.extend(some);
            reports.extend(more);
            prop_assert!(stream.starts_with(&passed));
            rest = behind;
        }
        passed.extend(relay.finish(UP, true, &mut reports));
        prop_assert_eq!(&passed, &stream);
        if always {
            let seen: Vec<u8> = reported(&reports).iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
            prop_assert_eq!(seen, stream);
        }
    }
}
