//! What a relay asks about, and what becomes of messages that are intercepted.

use std::sync::{Arc, Mutex};

use super::{super::*, CONNACK, CONNECT, DOWN, UP};
use crate::interceptor::{Interceptor, Interest, Party};

const CONNECT_5: &[u8] = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03dev";
/// Topic Alias Maximum is 10.
const CONNACK_5: &[u8] = b"\x20\x06\x00\x00\x03\x22\x00\x0a";
const REFUSED: &[u8] = b"\x20\x02\x00\x05";

/// Intercepts messages whose topics begin with `keep`, and notes all that it is asked about.
struct Keeper(Arc<Mutex<Vec<String>>>);

impl Interceptor for Keeper {
    fn ask(&mut self, _: Instant, offered: &Offered<'_>) -> Verdict {
        let payload = match offered.payload {
            Payload::Copied(bytes) => bytes.len(),
            Payload::Shared(bytes) => bytes.len(),
        };
        self.0.lock().expect("no panic").push(format!("{} {payload}", offered.topic));
        match offered.topic.starts_with("keep") {
            true => Verdict::Intercept,
            false => Verdict::Route,
        }
    }
}

/// A relay, and who is asked.
struct World {
    relay: Relay,
    interception: Interception,
    interest: Interest,
    asked: Arc<Mutex<Vec<String>>>,
    is_observed: bool,
    reports: Vec<Report>,
}

impl World {
    fn new(limits: RelayLimits) -> Self {
        let (interest, asked) = (Interest::default(), Arc::<Mutex<Vec<String>>>::default());
        let interception = Interception::new(Box::new(Keeper(asked.clone())), interest.clone());
        let relay = Relay::new(limits);
        let world = Self { relay, interception, interest, asked, is_observed: false, reports: Vec::new() };
        world.mocks(true);
        world
    }

    /// Behind CONNECT and CONNACK.
    fn connected(protocol: ProtocolVersion, limits: RelayLimits) -> Self {
        let mut world = Self::new(limits);
        let (connect, connack) = match protocol {
            ProtocolVersion::V5 => (CONNECT_5, CONNACK_5),
            _ => (CONNECT, CONNACK),
        };
        assert_eq!(world.up(connect), connect);
        assert_eq!(world.down(connack), connack);
        world
    }

    fn mocks(&self, are_there: bool) {
        self.interest.set(Party::Mocks, are_there);
    }

    fn receive(&mut self, direction: Direction, bytes: &[u8]) -> Vec<u8> {
        let (now, connection) = (Instant::now(), ConnectionId(1));
        let is_active = self.interception.is_active();
        let asked = is_active.then_some(Asked { interception: &mut self.interception, now, connection });
        let watch = Watch { is_observed: self.is_observed, asked };
        match self.relay.receive(direction, bytes, watch, &mut self.reports) {
            Forward::Received => bytes.to_vec(),
            Forward::Bytes(bytes) => bytes.to_vec(),
        }
    }

    fn up(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.receive(UP, bytes)
    }

    fn down(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.receive(DOWN, bytes)
    }

    fn resume(&mut self) -> Vec<u8> {
        assert!(self.relay.is_resumable());
        let (now, connection) = (Instant::now(), ConnectionId(1));
        let asked = Some(Asked { interception: &mut self.interception, now, connection });
        let watch = Watch { is_observed: self.is_observed, asked };
        self.relay.resume(watch, &mut self.reports).to_vec()
    }

    fn replies(&mut self) -> Vec<u8> {
        self.relay.take_replies().to_vec()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }
}

/// A PUBLISH of MQTT 5 if it has an alias, which 0 stands for the lack of.
fn message(protocol: ProtocolVersion, qos: QoS, topic: &str, alias: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = alias.to_be_bytes();
    let properties = [0x23, high, low];
    let publish = PublishRef {
        dup: false,
        qos,
        retain: false,
        packet_identifier: (qos > QoS::AtMostOnce).then(|| PacketIdentifier::new(7).expect("above 0")),
        topic,
        properties: if alias > 0 { &properties } else { &[] },
        payload,
    };
    let mut bytes = BytesMut::new();
    publish.encode(protocol, &mut bytes).expect("it is short");
    bytes.to_vec()
}

fn with_identifier(mut packet: Vec<u8>, topic: &str, identifier: u8) -> Vec<u8> {
    packet[2 + 2 + topic.len() + 1] = identifier;
    packet
}

fn numbered(qos: QoS, topic: &str, identifier: u8) -> Vec<u8> {
    with_identifier(message(ProtocolVersion::V311, qos, topic, 0, b"hi"), topic, identifier)
}

/// With `alias`, which a topic may come with.
fn aliased(topic: &str, alias: u16) -> Vec<u8> {
    message(ProtocolVersion::V5, QoS::AtMostOnce, topic, alias, b"hi")
}

fn v5() -> World {
    World::connected(ProtocolVersion::V5, RelayLimits::default())
}

fn v311() -> World {
    World::connected(ProtocolVersion::V311, RelayLimits::default())
}

#[test]
fn exactly_what_is_not_intercepted_passes_wherever_the_stream_is_cut() {
    use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    let plain = |topic| message(ProtocolVersion::V311, AtMostOnce, topic, 0, b"hi");
    let repeated = |mut packet: Vec<u8>| {
        packet[0] |= 0b1000;
        packet
    };
    let open = [
        plain("open"),
        numbered(AtLeastOnce, "open", 1),
        numbered(ExactlyOnce, "open", 2),
        repeated(numbered(ExactlyOnce, "open", 2)),
        b"\x62\x02\x00\x02".to_vec(),
        b"\xc0\x00".to_vec(),
    ];
    let kept = [
        plain("keep"),
        numbered(AtLeastOnce, "keep", 3),
        numbered(ExactlyOnce, "keep", 4),
        repeated(numbered(ExactlyOnce, "keep", 4)),
        b"\x62\x02\x00\x04".to_vec(),
        plain("keep"),
    ];
    let stream: Vec<u8> =
        open.iter().zip(&kept).flat_map(|(open, kept)| [open.clone(), kept.clone()].concat()).collect();
    let (acks, pubcomp) = (b"\x40\x02\x00\x03\x50\x02\x00\x04\x50\x02\x00\x04", b"\x70\x02\x00\x04");
    for is_observed in [false, true] {
        for cut in 0..stream.len() {
            let mut world = v311();
            world.is_observed = is_observed;
            let mut passed = world.up(&stream[..cut]);
            passed.extend(world.up(&stream[cut..]));
            assert_eq!(passed, open.concat(), "cut at {cut}");
            let wanted = ["open 2", "keep 2", "open 2", "keep 2", "open 2", "keep 2", "keep 2"];
            assert_eq!(world.asked(), wanted, "cut at {cut}");
            // PUBCOMP waits for nothing, the others for the acks of those before.
            assert_eq!(world.replies(), pubcomp, "cut at {cut}");
            world.down(b"\x50\x02\x00\x02");
            assert_eq!(world.replies(), b"");
            world.down(b"\x40\x02\x00\x01");
            assert_eq!(world.replies(), acks, "cut at {cut}");
        }
        let mut world = v311();
        world.is_observed = is_observed;
        let passed: Vec<u8> = stream.iter().flat_map(|byte| world.up(&[*byte])).collect();
        assert_eq!((passed, world.asked().len()), (open.concat(), 7));
    }
}

#[test] // [MQTT-4.6.0-2], [MQTT-4.6.0-3]
fn an_ack_of_our_own_waits_for_those_of_earlier_messages_however_they_arrive() {
    for is_observed in [false, true] {
        let mut world = v311();
        world.is_observed = is_observed;
        for (topic, identifier) in [("open", 1), ("keep", 2), ("open", 3), ("keep", 4)] {
            world.up(&numbered(QoS::AtLeastOnce, topic, identifier));
        }
        assert!(!world.relay.has_replies());
        for byte in b"\x40\x02\x00\x01" {
            world.down(&[*byte]);
        }
        assert_eq!(world.replies(), b"\x40\x02\x00\x02");
        // A PUBLISH of the server's is in between.
        world.mocks(false);
        world.down(b"\x30\x03\x00\x01a\x40\x02\x00\x03\x30\x03\x00");
        assert!(world.relay.has_replies() && !world.relay.is_between_packets(DOWN) || is_observed);
        world.down(b"\x01a");
        assert!(world.relay.is_between_packets(DOWN));
        assert_eq!(world.replies(), b"\x40\x02\x00\x04");
    }
}

#[test]
fn the_order_of_acks_is_given_up_for_a_server_that_never_acknowledges() {
    let mut world = v311();
    for identifier in 0..1024u16 {
        let mut packet = numbered(QoS::AtLeastOnce, "open", 0);
        packet[8..10].copy_from_slice(&(identifier + 1).to_be_bytes());
        world.up(&packet);
    }
    world.up(&numbered(QoS::AtLeastOnce, "keep", 9));
    assert_eq!(world.replies(), b"\x40\x02\x00\x09");
}

#[test] // [MQTT-3.2.0-1]
fn messages_wait_for_a_connack_and_nobody_is_asked_about_those_of_a_client_that_is_refused() {
    let messages = [numbered(QoS::AtLeastOnce, "keep", 1), numbered(QoS::AtLeastOnce, "open", 2)].concat();
    let stream = [CONNECT, b"\xc0\x00", &messages].concat();
    let start = CONNECT.len() + 2;
    for is_observed in [false, true] {
        for cut in 0..=stream.len() {
            for connack in [CONNACK, REFUSED] {
                let mut world = World::new(RelayLimits::default());
                world.is_observed = is_observed;
                let mut passed = world.up(&stream[..cut]);
                passed.extend(world.up(&stream[cut..]));
                assert_eq!(passed, stream[..start], "cut at {cut}");
                assert!(world.relay.is_waiting() && world.asked().is_empty() && !world.relay.has_replies());
                world.down(&connack[..1]);
                world.down(&connack[1..]);
                let resumed = world.resume();
                match connack == CONNACK {
                    true => {
                        assert_eq!(resumed, numbered(QoS::AtLeastOnce, "open", 2));
                        assert_eq!(world.asked(), ["keep 2", "open 2"]);
                        assert_eq!(world.replies(), b"\x40\x02\x00\x01");
                        assert_eq!(world.relay.take_counts().accepted, Some(false));
                    }
                    false => {
                        assert_eq!(resumed, messages);
                        assert_eq!(world.up(&messages), messages);
                        assert_eq!((world.asked(), world.replies()), (vec![], vec![]));
                        assert_eq!(world.relay.take_counts().accepted, None);
                    }
                }
            }
        }
    }
}

#[test]
fn what_waits_for_a_connack_is_bounded_and_not_lost() {
    let limits = RelayLimits { hold: 64, record: 1 << 20 };
    let packet = numbered(QoS::AtLeastOnce, "keep", 1);
    let connack_that_is_none: &[u8] = b"\x00\x00";
    let mut world = World::new(limits);
    assert_eq!(world.up(&[CONNECT, &packet].concat()), CONNECT);
    assert_eq!(world.up(&packet), b"");
    let mut all = [&packet[..], &packet].concat();
    for _ in 0..4 {
        all.extend_from_slice(&packet);
    }
    assert_eq!(world.up(&packet.repeat(4)), all);
    assert_eq!(world.up(&packet), packet);
    assert!(world.asked().is_empty());
    world.down(CONNACK);
    assert_eq!(world.up(&packet), b"");
    assert_eq!(world.asked(), ["keep 2"]);

    let mut world = World::new(limits);
    world.up(&[CONNECT, &packet].concat());
    world.down(connack_that_is_none);
    assert_eq!(world.resume(), packet);

    let mut world = World::new(limits);
    world.up(&[CONNECT, &packet, &packet[..3]].concat());
    let rest = world.relay.finish(UP, false, &mut Vec::new());
    assert_eq!(rest, [&packet[..], &packet[..3]].concat());
    assert!(world.asked().is_empty());

    // All in one piece that is too long.
    let mut world = World::new(limits);
    let stream = [CONNECT.to_vec(), packet.repeat(10)].concat();
    assert_eq!(world.up(&stream), stream);
}

#[test]
fn a_client_that_authenticates_by_more_packets_is_not_made_to_wait() {
    let connect = b"\x10\x16\x00\x04MQTT\x05\x02\x00\x3c\x05\x15\x00\x02up\x00\x04name";
    let mut world = World::new(RelayLimits::default());
    let packet = aliased("keep", 0);
    let all = [&connect[..], &packet, b"\xf0\x00"].concat();
    assert_eq!(world.up(&all), all);
    world.down(b"\xf0\x00");
    world.down(CONNACK_5);
    assert_eq!(world.up(&packet), b"");
    assert_eq!(world.asked().len(), 1);
}

#[test]
fn the_server_learns_an_alias_that_it_missed_though_nobody_intercepts_any_more() {
    let mut world = v5();
    assert_eq!(world.up(&aliased("keep", 1)), b"");
    world.mocks(false);
    assert_eq!(world.up(&aliased("", 1)), aliased("keep", 1));
    assert_eq!(world.up(&aliased("", 1)), aliased("", 1));
    let packet = aliased("", 1);
    assert_eq!(
        (world.up(&packet[..3]), world.up(&packet[3..])),
        (packet[..3].to_vec(), packet[3..].to_vec())
    );
}

#[test]
fn an_alias_that_changes_while_nobody_asks_is_known_afterwards() {
    let mut world = v5();
    world.up(&aliased("keep", 1));
    for topic in ["b", "c"] {
        world.mocks(false);
        let packet = aliased(topic, 1);
        assert_eq!([world.up(&packet[..4]), world.up(&packet[4..])].concat(), packet);
        world.mocks(true);
        world.asked();
        assert_eq!(world.up(&aliased("", 1)), aliased("", 1));
        assert_eq!(world.asked(), [format!("{topic} 2")]);
    }
}

#[test]
fn an_exchange_that_was_begun_here_ends_here_though_nobody_intercepts_any_more() {
    // Plain; with a Reason Code; with a Reason Code and properties.
    for pubrel in
        [&b"\x62\x02\x00\x07"[..], b"\x62\x03\x00\x07\x92", b"\x62\x08\x00\x07\x00\x04\x1f\x00\x01x"]
    {
        for cut in 0..pubrel.len() {
            for is_on in [false, true] {
                let mut world = v5();
                world.up(&message(ProtocolVersion::V5, QoS::ExactlyOnce, "keep", 0, b"hi"));
                assert_eq!(world.replies(), b"\x50\x02\x00\x07");
                world.mocks(is_on);
                assert_eq!([world.up(&pubrel[..cut]), world.up(&pubrel[cut..])].concat(), b"");
                assert_eq!(world.replies(), b"\x70\x02\x00\x07");
                assert_eq!(world.up(pubrel), pubrel, "it is not ours any more");
            }
        }
    }
}

#[test]
fn a_long_message_with_an_alias_that_the_server_missed_gets_its_topic_in_front() {
    for record in [128, 1 << 20] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let long = message(ProtocolVersion::V5, qos, "", 1, &[b'x'; 300]);
            let wanted = message(ProtocolVersion::V5, qos, "keep", 1, &[b'x'; 300]);
            for is_on in [false, true] {
                for cut in 0..long.len() {
                    let mut world = World::connected(ProtocolVersion::V5, RelayLimits { hold: 64, record });
                    world.up(&aliased("keep", 1));
                    world.mocks(is_on);
                    let passed = [world.up(&long[..cut]), world.up(&long[cut..])].concat();
                    if passed.is_empty() {
                        // Whole before it had to be passed on, it could be kept.
                        assert!(cut < 20 && is_on);
                        continue;
                    }
                    assert_eq!(passed, wanted, "cut at {cut}");
                    assert_eq!(world.up(&aliased("", 1)), if is_on { vec![] } else { aliased("", 1) });
                }
            }
        }
    }
}

#[test]
fn a_long_message_is_asked_about_once_it_is_whole_and_passes_whatever_the_verdict() {
    let limits = RelayLimits { hold: 64, record: 1 << 20 };
    let mut world = World::connected(ProtocolVersion::V311, limits);
    let long = message(ProtocolVersion::V311, QoS::ExactlyOnce, "keep", 0, &[b'x'; 300]);
    let mut passed = Vec::new();
    for piece in long.chunks(50) {
        assert!(!world.relay.take_asked());
        passed.extend(world.up(piece));
    }
    assert_eq!(passed, long);
    assert!(world.relay.take_asked());
    assert_eq!((world.asked(), world.replies()), (vec!["keep 300".to_owned()], vec![]));
    // The server has the exchange.
    assert_eq!(world.up(b"\x62\x02\x00\x07"), b"\x62\x02\x00\x07");
}

#[test]
fn with_webhooks_alone_bytes_pass_as_they_come() {
    let mut world = v5();
    world.mocks(false);
    world.interest.set(Party::Webhooks, true);
    let stream = [aliased("a", 1), aliased("", 1), b"\xc0\x00".to_vec(), aliased("keep", 0)].concat();
    for byte in &stream {
        assert_eq!(world.up(&[*byte]), [*byte]);
    }
    assert_eq!(world.asked(), ["a 2", "a 2", "keep 2"]);
    assert_eq!(world.up(&stream), stream);
    assert_eq!(world.asked(), ["a 2", "a 2", "keep 2"]);
    assert!(!world.relay.has_replies());
}

#[test]
fn an_alias_beyond_what_is_remembered_reaches_the_server() {
    let mut world = v5();
    let packet = aliased("keep", 11);
    assert_eq!(world.up(&packet), packet);
    assert_eq!(world.up(&aliased("keep", 10)), b"");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Never intercepts.
    fn packets() -> impl Strategy<Value = Vec<u8>> {
        let topics = prop::sample::select(vec![("a", 0), ("b", 0), ("a", 1), ("b", 1), ("", 1), ("c", 2)]);
        let qos = prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
        let message = (topics, qos, 0usize..60).prop_map(|((topic, alias), qos, len)| {
            message(ProtocolVersion::V5, qos, topic, alias, &vec![b'x'; len])
        });
        let others: Vec<&[u8]> =
            vec![b"\x62\x02\x00\x07", b"\x62\x03\x00\x07\x92", b"\xc0\x00", b"\x36\x03\x00\x01a"];
        prop_oneof![4 => message, 1 => prop::sample::select(others).prop_map(<[u8]>::to_vec)]
    }

    proptest! {
        /// Whoever asks and observes when, and whatever the pieces: what nobody intercepts leaves as it came, and
        /// each message is asked about once as long as somebody asks.
        #[test]
        fn what_nobody_intercepts_leaves_as_it_came(
            packets in prop::collection::vec(packets(), 0..20),
            sizes in prop::collection::vec((1usize..60, 0u8..8), 1..50),
            // Not less than what comes before a payload.
            hold in 12usize..80,
            always in any::<bool>(),
            login in 0usize..10,
        ) {
            // Aliases are used after they are set.
            let first = message(ProtocolVersion::V5, QoS::AtMostOnce, "a", 1, b"");
            let mut packets = [vec![first], packets].concat();
            // After one that the server refuses for its first byte nothing may be readable any more.
            packets.retain(|packet| !always || packet[0] != 0x36);
            let stream = packets.concat();
            let mut world = World::new(RelayLimits { hold, record: 1 << 20 });
            let mut passed = world.up(CONNECT_5);
            let mut rest = &stream[..];
            if always {
                world.down(CONNACK_5);
            }
            for (turn, (size, flags)) in sizes.into_iter().cycle().enumerate() {
                if turn == login && !always {
                    world.down(CONNACK_5);
                    if world.relay.is_resumable() {
                        passed.extend(world.resume());
                    }
                }
                if rest.is_empty() && turn >= login {
                    break;
                }
                world.is_observed = flags & 1 > 0;
                world.interest.set(Party::Mocks, flags & 2 > 0);
                world.interest.set(Party::Webhooks, flags & 4 > 0 || always && flags & 2 == 0);
                let (piece, behind) = rest.split_at(size.min(rest.len()));
                passed.extend(world.up(piece));
                rest = behind;
            }
            passed.extend(world.relay.finish(UP, true, &mut Vec::new()));
            prop_assert_eq!(&passed, &[CONNECT_5, &stream].concat());
            prop_assert!(!world.relay.has_replies());
            let mut topics = std::collections::HashMap::new();
            let wanted: Vec<String> = packets
                .iter()
                .filter_map(|packet| {
                    let publish = PublishRef::decode(packet, ProtocolVersion::V5).ok()?;
                    let alias = alias_of(&publish);
                    let topic = match (alias, publish.topic) {
                        (Some(alias), "") => topics[&alias],
                        (alias, topic) => {
                            topics.extend(alias.map(|alias| (alias, topic)));
                            topic
                        }
                    };
                    Some(format!("{topic} {}", publish.payload.len()))
                })
                .collect();
            let asked = world.asked();
            if always {
                prop_assert_eq!(asked, wanted);
            } else {
                // Some of them, in their order.
                let mut wanted = wanted.iter();
                prop_assert!(asked.iter().all(|asked| wanted.any(|wanted| wanted == asked)));
            }
        }

        /// Whoever comes and goes, and whatever the pieces: the server knows every alias that it is sent, each message
        /// reaches it with the topic that the client meant, and of those that none may intercept all do.
        #[test]
        fn aliases_mean_to_the_server_what_they_mean_to_the_client(
            packets in prop::collection::vec(
                (prop::sample::select(vec!["open", "keep", "", ""]), 1u16..4, 0usize..60), 1..30),
            sizes in prop::collection::vec((1usize..60, 0u8..8), 1..50),
            (hold, record) in (18usize..80, 0usize..60).prop_map(|(hold, more)| (hold, hold + more)),
        ) {
            let (mut stream, mut meant, mut topics) = (Vec::new(), Vec::new(), [None; 4]);
            for (number, (topic, alias, len)) in packets.into_iter().enumerate() {
                let known = &mut topics[usize::from(alias)];
                let topic = if topic.is_empty() && known.is_none() { "keep" } else { topic };
                if !topic.is_empty() {
                    *known = Some(topic);
                }
                let payload = vec![number as u8; len];
                stream.extend(message(ProtocolVersion::V5, QoS::AtMostOnce, topic, alias, &payload));
                meant.push((known.expect("it was set"), payload));
            }
            let mut world = World::connected(ProtocolVersion::V5, RelayLimits { hold, record });
            let (mut passed, mut rest) = (Vec::new(), &stream[..]);
            for (size, flags) in sizes.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                world.is_observed = flags & 1 > 0;
                world.interest.set(Party::Mocks, flags & 2 > 0);
                world.interest.set(Party::Webhooks, flags & 4 > 0);
                let (piece, behind) = rest.split_at(size.min(rest.len()));
                passed.extend(world.up(piece));
                rest = behind;
            }
            let (mut passed, mut arrived, mut topics) = (&passed[..], Vec::new(), [None; 4]);
            while let Ok(Some(size)) = Frame::size(passed) {
                let packet;
                (packet, passed) = passed.split_at(size);
                let publish = PublishRef::decode(packet, ProtocolVersion::V5).expect("well-formed");
                let known = &mut topics[usize::from(alias_of(&publish).expect("all have one"))];
                if !publish.topic.is_empty() {
                    *known = Some(publish.topic);
                }
                prop_assert!(known.is_some(), "the server does not know what an alias stands for");
                arrived.push((known.unwrap_or_default(), publish.payload.to_vec()));
            }
            prop_assert!(passed.is_empty());
            let mut arrived = arrived.iter().peekable();
            for message in &meant {
                let has_arrived = arrived.next_if_eq(&message).is_some();
                prop_assert!(has_arrived || message.0 == "keep", "{message:?} is missing");
            }
            prop_assert_eq!(arrived.next(), None);
        }
    }
}
