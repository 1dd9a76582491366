//! The codec against its packet table, and its laws.

mod generator;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use generator::{any_packet, any_version};

/// A row of tests/data/packets.txt, whose head explains the format.
pub struct Row {
    pub line: usize,
    pub protocol: ProtocolVersion,
    pub bytes: Bytes,
    /// Whether the encoder writes these bytes.
    canonical: bool,
    pub expected: Result<&'static str, &'static str>,
}

pub fn rows() -> impl Iterator<Item = Row> {
    let lines = include_str!("../../tests/data/packets.txt").lines().enumerate();
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(index, line)| {
        let (input, canonical, text) = match line.split_once(" => ") {
            Some((input, text)) => (input, true, text),
            None => line.split_once(" ~> ").map(|(input, text)| (input, false, text)).expect(line),
        };
        let (protocol, hex) = input.split_once(' ').expect(line);
        Row {
            line: index + 1,
            protocol: protocol.parse().expect(line),
            bytes: parse_hex(hex),
            canonical,
            expected: text.strip_prefix('!').map_or(Ok(text), Err),
        }
    })
}

fn parse_hex(hex: &str) -> Bytes {
    let digits: Vec<char> = hex.chars().filter(|c| *c != ' ').collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex digits"))
        .collect()
}

fn encode(packet: &ControlPacket, protocol: ProtocolVersion) -> Bytes {
    let mut out = BytesMut::new();
    packet.encode(protocol, &mut out).expect("a packet that was decoded or generated");
    out.freeze()
}

/// A reader of what comes before and after any packet but CONNECT, which says its version itself.
fn reader_of(row: &Row) -> FrameReader {
    let mut reader = FrameReader::new(usize::MAX);
    if row.bytes[0] >> 4 != PacketType::Connect as u8 {
        reader.set_protocol(row.protocol);
    }
    reader
}

#[test]
fn rows_decode_to_their_text_or_their_error() {
    for row in rows() {
        let line = row.line;
        match (Frame::decode(row.bytes.clone(), row.protocol), row.expected) {
            (Ok(frame), Ok(text)) => {
                assert_eq!(frame.packet.to_string(), text, "line {line}");
                assert_eq!(frame.bytes, row.bytes, "line {line}");
            }
            (Err(error), Err(expected)) => {
                assert_eq!(format!("{} {error}", error.reason_code()), expected, "line {line}");
            }
            (decoded, expected) => panic!("line {line}: expected {expected:?}, got {decoded:?}"),
        }
    }
}

#[test]
fn rows_encode_to_their_bytes() {
    for row in rows().filter(|row| row.expected.is_ok()) {
        let line = row.line;
        let packet = ControlPacket::decode(&row.bytes, row.protocol).unwrap();
        let encoded = encode(&packet, row.protocol);
        assert_eq!(encoded == row.bytes, row.canonical, "line {line}: {encoded:02x?}");
        assert_eq!(packet.encoded_len(row.protocol), encoded.len(), "line {line}");
        assert_eq!(ControlPacket::decode(&encoded, row.protocol).as_ref(), Ok(&packet), "line {line}");
    }
}

#[test]
fn rows_parse_from_their_text() {
    for row in rows() {
        let (line, Ok(text)) = (row.line, row.expected) else { continue };
        let packet = ControlPacket::decode(&row.bytes, row.protocol).unwrap();
        let parsed = ControlPacket::parse_text(text, row.protocol).unwrap();
        assert_eq!(show_password(parsed), show_password(packet), "line {line}");
    }
}

/// The packet with the password that its text form shows.
fn show_password(packet: ControlPacket) -> ControlPacket {
    match packet {
        ControlPacket::Connect(mut connect) => {
            connect.password = connect.password.map(|_| Bytes::from("***"));
            ControlPacket::Connect(connect)
        }
        other => other,
    }
}

#[test]
fn rows_arrive_in_any_two_pieces() {
    const NEXT: &[u8] = &[0xC0, 0x00];
    for row in rows().filter(|row| row.expected.is_ok()) {
        let packet = ControlPacket::decode(&row.bytes, row.protocol).unwrap();
        for split in 0..row.bytes.len() {
            let context = format!("line {}, first {split} bytes", row.line);
            let (first, second) = row.bytes.split_at(split);
            let mut reader = reader_of(&row);
            reader.buffer().extend_from_slice(first);
            assert_eq!(reader.next_frame(), Ok(None), "{context}");
            reader.buffer().extend_from_slice(second);
            reader.buffer().extend_from_slice(NEXT);
            let frame = reader.next_frame().unwrap().expect(&context);
            assert_eq!((&frame.packet, &frame.bytes), (&packet, &row.bytes), "{context}");
            assert_eq!(reader.next_frame().unwrap().map(|frame| frame.packet), Some(ControlPacket::Pingreq));
            assert_eq!(reader.next_frame(), Ok(None), "{context}");
            assert_eq!(reader.take_rest(), Bytes::new(), "{context}");
        }
    }
}

#[test]
fn forbidden_rows_are_refused_in_place_too() {
    for row in rows() {
        let (line, Err(expected)) = (row.line, row.expected) else { continue };
        let mut input = &row.bytes[..];
        let mut reader = reader_of(&row);
        let error = match reader.next_in_place(&mut input) {
            Ok(Some(bytes)) => ControlPacket::decode_copied(bytes, reader.protocol().unwrap()).err(),
            Ok(None) => {
                // Too short: the rest may come, or not.
                continue;
            }
            Err(error) => Some(error),
        };
        let error = error.unwrap_or_else(|| panic!("line {line} was accepted"));
        assert_eq!(format!("{} {error}", error.reason_code()), expected, "line {line}");
    }
}

#[test]
fn a_plain_acknowledgement_is_what_the_decoder_says() {
    for row in rows() {
        let Some(plain) = PlainAck::read(&row.bytes) else { continue };
        let decoded = ControlPacket::decode(&row.bytes, row.protocol).unwrap();
        assert_eq!(decoded.packet_type(), plain.packet, "line {}", row.line);
        assert_eq!(decoded, plain.into(), "line {}", row.line);
    }
    assert_eq!(PlainAck::read(&[0x40, 2, 0, 0]), None);
    assert_eq!(PlainAck::read(&[0x60, 2, 0, 1]), None);
    assert_eq!(PlainAck::read(&[0x40, 3, 0, 1, 0]), None);
}

#[test]
fn forbidden_rows_are_refused_byte_by_byte_too() {
    for row in rows() {
        let (line, Err(expected)) = (row.line, row.expected) else { continue };
        let mut reader = reader_of(&row);
        let error = row
            .bytes
            .iter()
            .find_map(|byte| {
                reader.buffer().extend_from_slice(&[*byte]);
                reader.next_frame().map(|frame| assert_eq!(frame, None, "line {line}")).err()
            })
            .unwrap_or_else(|| panic!("line {line} was accepted"));
        assert_eq!(format!("{} {error}", error.reason_code()), expected, "line {line}");
        assert_eq!(reader.next_frame(), Err(error), "line {line}");
        assert!(row.bytes.starts_with(&reader.take_rest()), "line {line}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    for row in rows().filter(|row| row.expected.is_ok()) {
        for len in 0..row.bytes.len() {
            let error = Frame::decode(row.bytes.slice(..len), row.protocol).unwrap_err();
            assert!(
                matches!(error, DecodeError::Truncated { .. }),
                "line {}, {len} bytes: {error}",
                row.line
            );
        }
    }
}

#[test]
fn a_body_cut_short_is_another_packet_or_an_error() {
    for row in rows().filter(|row| row.bytes.len() < 128) {
        for len in 0..row.bytes.len().saturating_sub(2) {
            let mut bytes = vec![row.bytes[0], len as u8];
            bytes.extend_from_slice(&row.bytes[2..2 + len]);
            if let Ok(packet) = ControlPacket::decode(&bytes.into(), row.protocol) {
                let encoded = encode(&packet, row.protocol);
                assert_eq!(ControlPacket::decode(&encoded, row.protocol), Ok(packet), "line {}", row.line);
            }
        }
    }
}

#[test]
fn payload_and_strings_are_slices_of_the_frame() {
    let frame = parse_hex("30 0c 0003 612f62 03 23 0001 68 69 21");
    let ControlPacket::Publish(publish) = ControlPacket::decode(&frame, ProtocolVersion::V5).unwrap() else {
        panic!("not a PUBLISH")
    };
    assert_eq!(publish.payload.as_ptr(), frame[11..].as_ptr());
    assert_eq!(publish.topic.unwrap().as_str().as_ptr(), frame[4..].as_ptr());
}

#[test] // [MQTT-3.1.0-1]
fn nothing_comes_before_connect() {
    let mut reader = FrameReader::new(100);
    reader.buffer().extend_from_slice(&[0x30]);
    assert_eq!(reader.next_frame(), Err(DecodeError::NotConnect));
    assert_eq!(reader.next_frame(), Err(DecodeError::NotConnect));
    assert_eq!(reader.take_rest(), &[0x30][..]);
    assert_eq!(reader.protocol(), None);
}

#[test]
fn connect_sets_the_protocol_even_when_the_rest_of_it_is_wrong() {
    let mut reader = FrameReader::new(100);
    reader.buffer().extend_from_slice(&parse_hex("10 0e 0004 4d515454 05 03 0000 00 0001 61 c000"));
    assert_eq!(reader.next_frame(), Err(DecodeError::ReservedBits { field: "connect flags" }));
    assert_eq!(reader.protocol(), Some(ProtocolVersion::V5));
    assert_eq!(reader.take_rest(), parse_hex("10 0e 0004 4d515454 05 03 0000 00 0001 61 c000"));
}

#[test]
fn later_packets_are_decoded_as_the_first_connect_said() {
    let mut reader = FrameReader::new(100);
    let publish = parse_hex("30 04 0001 61 00");
    reader.buffer().extend_from_slice(&parse_hex("10 0d 0004 4d515454 04 02 0000 0001 61"));
    reader.buffer().extend_from_slice(&publish);
    reader.next_frame().unwrap().expect("CONNECT");
    let frame = reader.next_frame().unwrap().expect("PUBLISH");
    assert_eq!(frame.packet.to_string(), r#"PUBLISH a "\x00""#);
}

#[test]
fn a_packet_over_the_limit_is_refused_at_its_fixed_header() {
    let mut reader = FrameReader::new(1000);
    reader.set_protocol(ProtocolVersion::V5);
    reader.buffer().extend_from_slice(&[0x30, 0xE6, 0x07]);
    let error = reader.next_frame().unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { size: 1001, limit: 1000 });
    assert_eq!(error.reason_code(), ReasonCode::PACKET_TOO_LARGE);

    let mut reader = FrameReader::new(1001);
    reader.set_protocol(ProtocolVersion::V5);
    reader.buffer().extend_from_slice(&[0x30, 0xE6, 0x07]);
    assert_eq!(reader.next_frame(), Ok(None));
}

#[test]
fn packets_other_than_publish_and_what_a_publish_has_before_its_payload_have_a_limit_of_their_own() {
    let reader = |protocol| {
        let mut reader = FrameReader::new(1000);
        reader.limit_control_packets(100);
        reader.set_protocol(protocol);
        reader
    };
    // A SUBSCRIBE, at its fixed header.
    for (remaining, refused) in [(98, false), (99, true)] {
        let mut reader = reader(ProtocolVersion::V5);
        reader.buffer().extend_from_slice(&[0x82, remaining]);
        let expected = DecodeError::TooLarge { size: 101, limit: 100 };
        assert_eq!(reader.next_frame(), if refused { Err(expected) } else { Ok(None) });
    }
    // A PUBLISH whose properties end at byte 100, and at the one behind.
    for (text, refused) in [(90, false), (91, true)] {
        let mut frame = parse_hex("30 b2 01 0001 61").to_vec();
        frame.extend_from_slice(&[3 + text, 0x03, 0, text]);
        frame.resize(frame.len() + usize::from(text), b'x');
        frame.resize(3 + 0xb2, b'y');
        let mut reader = reader(ProtocolVersion::V5);
        reader.buffer().extend_from_slice(&frame);
        match reader.next_frame() {
            Ok(frame) => assert!(frame.is_some() && !refused),
            Err(error) => {
                assert_eq!((error, refused), (DecodeError::TooLarge { size: 101, limit: 100 }, true))
            }
        }
    }
}

#[test]
fn an_announced_length_is_not_allocated() {
    let mut reader = FrameReader::new(usize::MAX);
    reader.set_protocol(ProtocolVersion::V5);
    reader.buffer().extend_from_slice(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    assert_eq!(reader.next_frame(), Ok(None));
    assert!(reader.buffer().capacity() < 16 * 1024, "{} bytes", reader.buffer().capacity());
}

#[test]
fn a_longest_string_passes_and_a_longer_one_is_refused_by_the_encoder() {
    let mut publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::parse(&"/".repeat(65_535)).unwrap()),
        packet_identifier: None,
        properties: Properties::new(),
        payload: Bytes::new(),
    };
    let packet = ControlPacket::Publish(publish.clone());
    let encoded = encode(&packet, ProtocolVersion::V5);
    assert_eq!(ControlPacket::decode(&encoded, ProtocolVersion::V5), Ok(packet));

    publish.properties.push(Property::CorrelationData(vec![0; 65_536].into()));
    check_encode_error(
        publish.into(),
        ProtocolVersion::V5,
        EncodeError::FieldTooLong { field: "Correlation Data", len: 65_536 },
    );
}

#[test]
fn what_a_version_cannot_say_is_refused_by_the_encoder() {
    let parse = |text: &str| text.parse::<ControlPacket>().unwrap();
    check_encode_error(
        parse("AUTH 0x18 auth_method=m"),
        ProtocolVersion::V311,
        EncodeError::NotInVersion { packet: "AUTH", version: "3.1.1" },
    );
    check_encode_error(parse(r#"PUBLISH "" alias=1"#), ProtocolVersion::V311, EncodeError::TopicMissing);
    check_encode_error(parse("PUBLISH a qos=1"), ProtocolVersion::V5, EncodeError::PacketIdentifier);
    check_encode_error(parse("PUBLISH a id=1"), ProtocolVersion::V5, EncodeError::PacketIdentifier);
    check_encode_error(
        parse("CONNECT a v=3.1.1 password=x"),
        ProtocolVersion::V5,
        EncodeError::PasswordAlone,
    );
    check_encode_error(
        parse("SUBSCRIBE 1 a sub_id=268435456"),
        ProtocolVersion::V5,
        EncodeError::ValueTooLarge { field: "Subscription Identifier", value: 268_435_456 },
    );
}

#[track_caller]
fn check_encode_error(packet: ControlPacket, protocol: ProtocolVersion, expected: EncodeError) {
    let mut out = BytesMut::from("before");
    assert_eq!(packet.encode(protocol, &mut out), Err(expected));
    assert_eq!(out, "before");
    assert_eq!(packet.encoded_len(protocol), 0);
}

#[test]
fn a_packet_longer_than_a_remaining_length_can_say_is_refused_by_the_encoder() {
    let publish = PublishRef {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_identifier: None,
        topic: "a",
        properties: &[],
        payload: &vec![0; 268_435_455 - 3],
    };
    let mut out = BytesMut::new();
    publish.encode_head(ProtocolVersion::V311, &mut out).unwrap();
    assert_eq!(&out[..], b"\x30\xff\xff\xff\x7f\x00\x01a");
    let error = publish.encode_head(ProtocolVersion::V5, &mut out).unwrap_err();
    assert_eq!(error, EncodeError::TooLarge(268_435_461));
}

#[test] // [section 3.2.2.3 of 3.1.1], [MQTT3-3.9.3-2]
fn reason_codes_become_return_codes_before_mqtt_5() {
    let check = |text: &str, hex: &str| {
        let packet: ControlPacket = text.parse().unwrap();
        assert_eq!(encode(&packet, ProtocolVersion::V311), parse_hex(hex), "{text}");
    };
    check("CONNACK session_present=true", "20 02 01 00");
    check("CONNACK 0x84 reason_string=x", "20 02 00 01");
    check("CONNACK 0x85", "20 02 00 02");
    check("CONNACK 0x88", "20 02 00 03");
    check("CONNACK 0x97", "20 02 00 03");
    check("CONNACK 0x86", "20 02 00 04");
    check("CONNACK 0x87", "20 02 00 05");
    check("CONNACK 0x8a", "20 02 00 05");
    check("SUBACK 1 0x02 0x97 user=a:b", "90 04 0001 02 80");
    check("UNSUBACK 1 0x11", "b0 02 0001");
    check("PUBACK 7 0x10", "40 02 0007");
    check("DISCONNECT 0x8e", "e0 00");
    check("SUBSCRIBE 1 a qos=1 nl=true rh=2 sub_id=5", "82 06 0001 0001 61 01");
}

#[test]
fn text_that_is_no_packet_says_what_is_wrong() {
    let check = |text: &str, expected: &str| {
        assert_eq!(text.parse::<ControlPacket>().unwrap_err().to_string(), expected, "{text}");
    };
    check("", r#"no packet is called """#);
    check("publish a", r#"no packet is called "publish""#);
    check("PUBLISH qos=1", "PUBLISH needs a topic name");
    check("PUBLISH a qos=3", "qos cannot be 3: QoS 3 is none of 0, 1 and 2");
    check("PUBLISH a colour=red", r#"PUBLISH has no field "colour""#);
    check("PUBLISH a/+", "a field cannot be a/+: wildcard '+' in a topic name");
    check(r#"PUBLISH a "x" "y""#, r#"PUBLISH has no field "\"y\"""#);
    check(
        r#"PUBLISH a "\q""#,
        r#"a field cannot be "\q": a backslash goes before x and two hex digits, n, r, t, " or \"#,
    );
    check(r#"PUBLISH a "x"#, r#"a field cannot be "x: the closing quote is missing"#);
    check("PUBACK", "PUBACK needs a packet identifier");
    check("PUBACK 0", "a field cannot be 0: a packet identifier is never 0");
    check("PINGREQ now", r#"PINGREQ has no field "now""#);
    check("CONNECT a user=b", "user cannot be b: no ':' in it");
    check("CONNECT a will_qos=1", r#"CONNECT has no field "will_qos""#);
    check("SUBSCRIBE 1 a/#/b", "a field cannot be a/#/b: level 1: '#' stands alone and last");
}

#[test]
fn text_is_read_with_defaults_spelled_out_and_payloads_bare() {
    let check = |text: &str, expected: &str| {
        assert_eq!(text.parse::<ControlPacket>().unwrap().to_string(), expected);
    };
    check("CONNECT alice clean=true keep_alive=0", "CONNECT alice v=5");
    check("CONNECT alice v=311 will=a:b will_retain=false", "CONNECT alice v=3.1.1 will=a:b");
    check("PUBLISH a/x qos=1 id=7 hi", r#"PUBLISH a/x qos=1 id=7 "hi""#);
    check(r#"PUBLISH a "\n\r\t\x41\\\"""#, r#"PUBLISH a "\x0a\x0d\x09A\\\"""#);
    check("CONNACK", "CONNACK session_present=false");
    check("SUBACK 1 0 1 128", "SUBACK 1 0x00 0x01 0x80");
    check("SUBSCRIBE 1 a qos=0, b rh=0", "SUBSCRIBE 1 a, b");
}

#[test]
fn a_precision_cuts_the_payload_shown() {
    let packet: ControlPacket = r#"PUBLISH a "0123456789""#.parse().unwrap();
    assert_eq!(format!("{packet:.4}"), r#"PUBLISH a "0123"… (10 bytes)"#);
    assert_eq!(format!("{packet:.10}"), r#"PUBLISH a "0123456789""#);
}

#[track_caller]
fn check_match(filter: &str, matching: &[&str], others: &[&str]) {
    let filter = TopicFilter::parse(filter).unwrap();
    for topic in matching {
        assert!(filter.matches(&TopicName::parse(topic).unwrap()), "{filter} does not match {topic}");
    }
    for topic in others {
        assert!(!filter.matches(&TopicName::parse(topic).unwrap()), "{filter} matches {topic}");
    }
}

#[test] // [section 4.7.1], [MQTT-4.7.2-1], [MQTT-4.7.3-4]
fn filters_match_level_by_level() {
    check_match("a/b", &["a/b"], &["a", "a/b/", "/a/b", "A/b", "a/b/c"]);
    check_match("sport/#", &["sport", "sport/", "sport/a/b"], &["sports", "a/sport"]);
    check_match("#", &["a", "/", "a/b"], &["$SYS", "$SYS/x"]);
    check_match("+", &["a", "ü"], &["/a", "a/", "$SYS", "/"]);
    check_match("+/+", &["/a", "a/", "/", "a/b"], &["a", "$SYS/x"]);
    check_match("/+", &["/a", "/", "/$a"], &["a", "/a/"]);
    check_match("a/+/c", &["a/b/c", "a//c", "a/$b/c"], &["a/c", "a/b/b/c"]);
    check_match("a/+/#", &["a/b", "a/", "a/b/c/d"], &["a"]);
    check_match("$SYS/#", &["$SYS", "$SYS/x"], &["SYS/x"]);
    check_match("$SYS/+", &["$SYS/x"], &["$SYS", "$SYS/x/y"]);
    check_match("$share/g/a/#", &["a", "a/b"], &["$share/g/a"]);
    check_match("$share/g/#", &["a"], &["$SYS/a"]);
    check_match("$share/g//", &["/"], &["a"]);
}

#[test]
fn shared_subscriptions_are_taken_apart() {
    let shared = TopicFilter::parse("$share/group/a/+").unwrap();
    assert_eq!((shared.share_name(), shared.pattern()), (Some("group"), "a/+"));
    let plain = TopicFilter::parse("$shared/group/a").unwrap();
    assert_eq!((plain.share_name(), plain.pattern()), (None, "$shared/group/a"));
}

#[test]
fn thirty_thousand_levels_match_without_recursion() {
    let topic = vec!["a"; 30_000].join("/");
    let filter = vec!["+"; 30_000].join("/");
    check_match(&filter, &[&topic], &[&format!("{topic}/a")]);
}

/// The definition of section 4.7 word for word, level by level.
fn matches_naively(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => matches_naively(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && matches_naively(filter, topic),
        _ => false,
    }
}

proptest! {
    #[test]
    fn matching_equals_a_naive_matcher(
        filter in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "+"]), 1..5),
        ends_in_wildcard: bool,
        topic in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 1..5),
    ) {
        let filter = if ends_in_wildcard { [&filter[..], &["#"]].concat() } else { filter };
        let (Ok(parsed), Ok(name)) =
            (TopicFilter::parse(&filter.join("/")), TopicName::parse(&topic.join("/"))) else { return Ok(()) };
        prop_assert_eq!(parsed.matches(&name), matches_naively(&filter, &topic));
    }

    #[test]
    fn decoding_what_was_encoded_gives_it_back(
        (protocol, packet) in any_version().prop_flat_map(|v| (Just(v), any_packet(v))),
    ) {
        let encoded = encode(&packet, protocol);
        prop_assert_eq!(packet.encoded_len(protocol), encoded.len());
        prop_assert_eq!(ControlPacket::decode(&encoded, protocol), Ok(packet));
    }

    #[test]
    fn parsing_what_was_shown_gives_it_back(
        (protocol, packet) in any_version().prop_flat_map(|v| (Just(v), any_packet(v))),
    ) {
        let text = packet.to_string();
        prop_assert_eq!(ControlPacket::parse_text(&text, protocol), Ok(show_password(packet)), "{}", text);
    }

    #[test]
    fn a_publish_in_place_is_the_owned_one(
        (protocol, publish) in any_version().prop_flat_map(|v| (Just(v), generator::publish(v))),
    ) {
        let encoded = encode(&publish.clone().into(), protocol);
        let in_place = PublishRef::decode(&encoded, protocol).unwrap();
        prop_assert_eq!(&in_place.to_publish(&encoded), &publish);
        prop_assert_eq!(in_place.encoded_len(protocol), encoded.len());
        let mut out = BytesMut::new();
        in_place.encode(protocol, &mut out).unwrap();
        prop_assert_eq!(&out[..], &encoded[..]);
    }

    #[test]
    fn frames_come_out_whatever_pieces_they_arrive_in(
        (protocol, packets, sizes) in any_version().prop_flat_map(|v| (
            Just(v),
            prop::collection::vec(any_packet(v), 1..6),
            prop::collection::vec(1_usize..20, 1..40),
        )),
    ) {
        let mut stream = BytesMut::new();
        for packet in &packets {
            packet.encode(protocol, &mut stream).unwrap();
        }
        let mut reader = FrameReader::new(usize::MAX);
        reader.set_protocol(protocol);
        let (mut rest, mut heard) = (&stream[..], Vec::new());
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(rest.len().min(*size));
            rest = behind;
            reader.buffer().extend_from_slice(piece);
            while let Some(frame) = reader.next_frame().unwrap() {
                heard.push(frame.packet);
            }
        }
        prop_assert_eq!(heard, packets);
    }

    #[test]
    fn in_place_or_buffered_the_same_packets_come_out(
        (protocol, packets, sizes) in any_version().prop_flat_map(|v| (
            Just(v),
            prop::collection::vec(any_packet(v), 1..6),
            prop::collection::vec(1_usize..60, 1..40),
        )),
    ) {
        let mut stream = BytesMut::new();
        for packet in &packets {
            packet.encode(protocol, &mut stream).unwrap();
        }
        let mut reader = FrameReader::new(usize::MAX);
        reader.set_protocol(protocol);
        let (mut rest, mut heard) = (&stream[..], Vec::new());
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (mut piece, behind) = rest.split_at(rest.len().min(*size));
            rest = behind;
            loop {
                if !reader.buffer().is_empty() {
                    reader.complete(&mut piece);
                    match reader.next_frame().unwrap() {
                        Some(frame) => heard.push(frame.packet),
                        None => break,
                    }
                } else if let Some(bytes) = reader.next_in_place(&mut piece).unwrap() {
                    heard.push(ControlPacket::decode_copied(bytes, protocol).unwrap());
                } else {
                    reader.buffer().extend_from_slice(piece);
                    break;
                }
            }
        }
        prop_assert_eq!(heard, packets);
    }

    #[test]
    fn arbitrary_bodies_decode_to_something_encodable_or_not_at_all(
        protocol in any_version(),
        first_byte: u8,
        body in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        check_arbitrary([&[first_byte, body.len() as u8], &body[..]].concat().into(), protocol)?;
    }

    #[test]
    fn damaged_packets_decode_to_something_encodable_or_not_at_all(
        (protocol, packet) in any_version().prop_flat_map(|v| (Just(v), any_packet(v))),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&packet, protocol).to_vec();
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        check_arbitrary(bytes.into(), protocol)?;
    }

    #[test]
    fn arbitrary_streams_never_panic_nor_grow_the_buffer(
        limit in 0_usize..300_000_000,
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
    ) {
        for protocol in [None, Some(ProtocolVersion::V31), Some(ProtocolVersion::V311), Some(ProtocolVersion::V5)] {
            let mut reader = FrameReader::new(limit);
            if let Some(protocol) = protocol {
                reader.set_protocol(protocol);
            }
            for piece in &pieces {
                reader.buffer().extend_from_slice(piece);
                while let Ok(Some(_)) = reader.next_frame() {}
                prop_assert!(reader.buffer().capacity() < 16 * 1024);
            }
        }
    }

    #[test]
    fn arbitrary_text_never_panics(name in prop::sample::select(PacketType::ALL.to_vec()), rest in ".{0,60}") {
        let _ = format!("{name} {rest}").parse::<ControlPacket>();
    }
}

fn check_arbitrary(bytes: Bytes, protocol: ProtocolVersion) -> Result<(), TestCaseError> {
    if let Ok(packet) = ControlPacket::decode(&bytes, protocol) {
        let encoded = encode(&packet, protocol);
        prop_assert!(encoded.len() <= bytes.len());
        prop_assert_eq!(ControlPacket::decode(&encoded, protocol), Ok(packet));
    }
    Ok(())
}
