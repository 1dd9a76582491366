//! Captures of connections in which everything that happens on a network happens, and files of ours.

use std::{collections::HashMap, io::Cursor, net::SocketAddr};

use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::{
    frame::{Flags, put_segment},
    *,
};
use crate::{
    packet::{ControlPacket, Property, ProtocolVersion, QoS},
    recording::{
        CloseCause, ConnectionInfo, Direction, Event, EventKind, FileError, FileErrorKind, FilePlace,
        InForce, MockFired, RecordingInfo, record,
        sample::{self, connack, connect, events, fault, from_client, from_server, info, publish},
    },
};

/// 2026-11-22T12:00:00Z.
const START: u64 = 1_795_348_800_000_000_000;
const CLIENT: &str = "10.0.0.7:40000";
const SERVER: &str = "10.0.0.1:1883";

fn bytes_of(kind: EventKind) -> Bytes {
    match kind {
        EventKind::Packet { bytes, .. } => bytes,
        _ => unreachable!("a packet"),
    }
}

/// What scripts call the packets by.
fn vocabulary() -> HashMap<&'static str, Bytes> {
    let message = |topic, len| bytes_of(from_client(publish(Some(topic), &vec![b'.'; len], Vec::new())));
    let ack = |make: fn(crate::packet::Ack) -> ControlPacket| bytes_of(sample::ack(make, 7));
    let qos_1 = sample::identified(publish(Some("q"), b"!", Vec::new()), QoS::AtLeastOnce, 7, false);
    let v311 = |packet| bytes_of(sample::packet(Direction::ClientToServer, ProtocolVersion::V311, packet));
    HashMap::from([
        ("connect", bytes_of(connect("a", ProtocolVersion::V5))),
        ("connect311", bytes_of(connect("a", ProtocolVersion::V311))),
        ("connack", bytes_of(connack(false, ProtocolVersion::V5))),
        ("connack311", bytes_of(connack(false, ProtocolVersion::V311))),
        (
            "secret",
            Bytes::from_static(b"\x10\x1c\0\x04MQTT\x05\xc2\0\x3c\x03\x21\0\x05\0\x01c\0\x01u\0\x06secret"),
        ),
        ("p1", message("t/1", 10)),
        ("p2", message("t/2", 20)),
        ("p3", message("t/3", 30)),
        ("q", bytes_of(from_client(qos_1))),
        ("old", v311(ControlPacket::Publish(publish(Some("t/1"), b"{\"v\":1}", Vec::new())))),
        ("puback", ack(ControlPacket::Puback)),
        ("ping", Bytes::from_static(b"\xc0\0")),
        ("pong", Bytes::from_static(b"\xd0\0")),
        ("bye", Bytes::from_static(b"\xe0\0")),
        ("junk", Bytes::from_static(b"\xff\xfejunk")),
        ("tls", Bytes::from_static(b"\x16\x03\x01\x02\0hello")),
        ("http", Bytes::from_static(b"GET / HTTP/1.1\r\n")),
    ])
}

/// One end of the connection that a script is about.
struct End {
    address: SocketAddr,
    /// Of its SYN.
    first: u32,
    /// Everything it says, as far as the script went.
    said: Vec<u8>,
    /// Where a word begins in that.
    words: HashMap<String, usize>,
    has_finished: bool,
}

impl End {
    fn new(address: &str, first: u32) -> Self {
        let address = address.parse().unwrap();
        Self { address, first, said: Vec::new(), words: HashMap::new(), has_finished: false }
    }

    fn sequence(&self, position: usize) -> u32 {
        self.first.wrapping_add(1).wrapping_add(position as u32)
    }

    fn next(&self) -> u32 {
        self.sequence(self.said.len()).wrapping_add(u32::from(self.has_finished))
    }
}

/// A pcap file, microseconds of this machine's byte order, of what a script says. Lines are
/// `c> WORDS` for what the client sends in one segment, `s> WORDS` for the server and `c! WORDS` for what
/// was sent and not captured; a word that comes again is sent again; `p1[2-5]` is a part of it. Others are
/// `SYN`, `FIN`, `RST`, `ACK`. `reconnect` goes on with another connection from the same port, and
/// `wait 200` lets milliseconds pass; every line takes one.
fn capture(script: &str) -> Vec<u8> {
    capture_between(CLIENT, SERVER, script)
}

fn capture_between(client: &str, server: &str, script: &str) -> Vec<u8> {
    let vocabulary = vocabulary();
    let mut file = pcap_head(1);
    let mut ends = [End::new(client, u32::MAX - 20), End::new(server, 5000)];
    let mut now = START;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(milliseconds) = line.strip_prefix("wait ") {
            now += milliseconds.parse::<u64>().unwrap() * 1_000_000;
            continue;
        }
        if line == "reconnect" {
            ends = [0, 1].map(|end| End::new([client, server][end], ends[end].first.wrapping_add(90_000)));
            continue;
        }
        let (who, words) = line.split_once(' ').unwrap();
        let from = usize::from(who.starts_with('s'));
        let acknowledged = ends[1 - from].next();
        let mut flags = Flags::Push;
        let (mut start, mut payload) = (None, Vec::new());
        for word in words.split(' ') {
            flags = match word {
                "SYN" if from == 0 => Flags::Syn,
                "SYN" => Flags::SynAck,
                "FIN" => Flags::Fin,
                "RST" => Flags::Rst,
                "ACK" => Flags::Ack,
                _ => {
                    let (name, range) = word.split_once('[').unwrap_or((word, ""));
                    let packet = &vocabulary[name.split('#').next().unwrap()];
                    let end = &mut ends[from];
                    let position = *end.words.entry(name.to_owned()).or_insert_with(|| {
                        end.said.extend_from_slice(packet);
                        end.said.len() - packet.len()
                    });
                    let (begin, behind) = range.trim_end_matches(']').split_once('-').unwrap_or(("", ""));
                    let begin = begin.parse().unwrap_or(0);
                    let behind = behind.parse().unwrap_or(packet.len());
                    start = start.or(Some(end.sequence(position + begin)));
                    payload.extend_from_slice(&packet[begin..behind]);
                    flags
                }
            };
        }
        let sequence = match flags {
            Flags::Syn | Flags::SynAck => ends[from].first,
            _ => start.unwrap_or(ends[from].next()),
        };
        ends[from].has_finished |= flags == Flags::Fin;
        if who.ends_with('>') {
            let addresses = [&ends[from].address, &ends[1 - from].address];
            let mut frame = Vec::new();
            put_segment(addresses, [sequence, acknowledged], flags, &payload, &mut frame);
            put_record(now, &frame, &mut file);
        }
        now += 1_000_000;
    }
    file
}

fn pcap_head(link: u32) -> Vec<u8> {
    let mut head = Vec::new();
    for word in [0xA1B2_C3D4, 0x0004_0002, 0, 0, 65_535, link] {
        head.extend_from_slice(&u32::to_le_bytes(word));
    }
    head
}

fn put_record(at: u64, frame: &[u8], file: &mut Vec<u8>) {
    let len = frame.len() as u32;
    for word in [(at / 1_000_000_000) as u32, (at % 1_000_000_000 / 1000) as u32, len, len] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(frame);
}

fn read(file: &[u8], options: PcapOptions) -> Result<(Vec<Event>, Vec<String>), FileError> {
    let mut events = PcapReader::open_with(Cursor::new(file), options)?.into_events()?;
    let read = events.by_ref().collect::<Result<_, _>>()?;
    Ok((read, events.notes()))
}

/// A line an event and a line a note.
fn shown(file: &[u8], options: PcapOptions) -> String {
    let words = vocabulary();
    let name = |bytes: &Bytes| {
        let word = words.iter().find(|(_, packet)| *packet == bytes).map(|(word, _)| (*word).to_owned());
        word.unwrap_or_else(|| format!("\"{}\"", bytes.escape_ascii()))
    };
    let (events, notes) = match read(file, options) {
        Ok(read) => read,
        Err(error) => return format!("error: {error}\n"),
    };
    let mut text = String::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.seq, index as u64 + 1);
        assert!(index == 0 || events[index - 1].at <= event.at);
        let what = match &event.kind {
            EventKind::Open(info) => {
                let (peer, listener) = (info.peer.as_deref(), info.listener.as_deref());
                let version = info.protocol.map(|protocol| format!(", level {}", protocol.level()));
                let version = version.unwrap_or_default();
                let before = if info.already_open { " already" } else { "" };
                format!("open{before} {} > {}{version}", peer.unwrap_or("?"), listener.unwrap_or("?"))
            }
            EventKind::Packet { direction, bytes } => format!("{} {}", direction.name(), name(bytes)),
            EventKind::Raw { direction, bytes } => format!("{} raw {}", direction.name(), name(bytes)),
            EventKind::Close(cause) => format!("close {}", cause.name()),
            EventKind::Gap { events, bytes } => format!("gap of {events}, {bytes} bytes"),
            EventKind::Mark(label) => format!("mark {label}"),
            other => other.name().to_owned(),
        };
        text += &format!("{} {} {what}\n", event.at.as_millis(), event.connection);
    }
    for note in notes {
        text += &format!("note: {note}\n");
    }
    text
}

fn check(script: &str, expected: Expect) {
    expected.assert_eq(&shown(&capture(script), PcapOptions::default()));
}

#[test]
fn a_connection_from_its_first_packet_to_its_last() {
    check(
        "c> SYN
         s> SYN
         c> ACK
         c> connect
         s> connack
         c> p1 q
         s> puback
         c> bye
         c> FIN
         s> FIN
         c> ACK",
        expect![[r#"
            1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            3 1 c2s connect
            4 1 s2c connack
            5 1 c2s p1
            5 1 c2s q
            6 1 s2c puback
            7 1 c2s bye
            9 1 close client_fin
        "#]],
    );
}

#[test]
fn packets_in_pieces_out_of_order_overlapping_and_again() {
    check(
        "c> SYN
         s> SYN
         c> connect[0-3]
         c> connect[3-]
         s> connack
         c! p1
         c> p2
         c> p3[0-9]
         c> p1 p2[0-4]
         c> p3[4-]
         c> p2 p3
         s> RST",
        expect![[r#"
            1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            3 1 c2s connect
            4 1 s2c connack
            8 1 c2s p1
            8 1 c2s p2
            9 1 c2s p3
            11 1 close server_rst
            note: 2 segments came out of order
            note: 1 segment came again
        "#]],
    );
}

#[test]
fn what_the_capture_lacks_is_a_gap_and_packets_go_on_behind_it() {
    check(
        "c> SYN
         s> SYN
         c> connect
         s> connack
         c> p1 p2[0-5]
         c! p2[5-]
         c> p3
         s> ACK
         wait 200
         c> ping
         s> pong
         c> p1#2 p2#2
         c> FIN
         s> FIN",
        expect![[r#"
            1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            2 1 c2s connect
            3 1 s2c connack
            4 1 c2s p1
            208 1 c2s raw "0\x1a\x00\x03t"
            208 1 gap of 1, 23 bytes
            208 1 c2s p3
            208 1 c2s ping
            209 1 s2c pong
            210 1 c2s p1
            210 1 c2s p2
            212 1 close client_fin
            note: 1 hole in the TCP streams, 23 bytes in all: there is a GAP for each
            note: 1 segment came out of order
        "#]],
    );
}

#[test]
fn a_fin_that_the_capture_lacks_is_no_gap() {
    check(
        "c> SYN
         s> SYN
         c> connect
         s> connack
         c> bye
         c! FIN
         s> FIN
         c> ACK
         wait 200
         c> ACK",
        expect![[r#"
            1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            2 1 c2s connect
            3 1 s2c connack
            4 1 c2s bye
            6 1 close client_fin
        "#]],
    );
}

#[test]
fn nothing_behind_a_hole_is_taken_for_a_packet_before_one_begins() {
    check(
        "c> SYN
         s> SYN
         c> connect
         s> connack
         c! p1[0-9]
         c> p1[9-]
         s> ACK
         c> p2
         c> RST",
        expect![[r#"
            1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            2 1 c2s connect
            3 1 s2c connack
            8 1 gap of 1, 9 bytes
            8 1 c2s raw "........."
            8 1 c2s p2
            8 1 close client_rst
            note: 1 hole in the TCP streams, 9 bytes in all: there is a GAP for each
            note: 2 segments came out of order
        "#]],
    );
}

#[test]
fn a_connection_that_was_open_before_is_followed_from_where_packets_begin() {
    check(
        "c> p1[4-] ping
         s> pong
         c> q
         s> puback
         c> p2",
        expect![[r#"
            0 1 open already 10.0.0.7:40000 > 10.0.0.1:1883, level 5
            0 1 c2s raw "t/1\x00..........\xc0\x00"
            1 1 s2c pong
            2 1 c2s q
            3 1 s2c puback
            4 1 c2s p2
            4 1 close recording_ended
            note: 1 connection was open before the capture began: the client identifier is not known
        "#]],
    );
    check(
        "s> pong
         c> old",
        expect![[r#"
            0 1 open already 10.0.0.7:40000 > 10.0.0.1:1883, level 4
            0 1 s2c pong
            1 1 c2s old
            1 1 close recording_ended
            note: 1 connection was open before the capture began: the client identifier is not known
        "#]],
    );
}

#[test]
fn a_connect_shows_mqtt_on_any_port_and_nothing_else_does() {
    let other = "10.0.0.1:9999";
    let mut file = capture_between(
        CLIENT,
        other,
        "c> SYN
         s> SYN
         c> connect311[0-1]
         c> connect311[1-]
         s> connack311
         c> old",
    );
    let append = |file: &mut Vec<u8>, client: &str, script: &str| {
        file.extend_from_slice(&capture_between(client, other, script)[24..]);
    };
    append(&mut file, "10.0.0.8:40001", "c> SYN\ns> SYN\nc> tls\ns> tls");
    append(&mut file, "10.0.0.8:40002", "c> SYN\ns> SYN\nc> http\nc> FIN");
    append(&mut file, "10.0.0.8:40003", "c> SYN\ns> SYN\ns> junk");
    append(&mut file, "10.0.0.8:40004", "c> SYN\ns> RST");
    append(&mut file, "10.0.0.8:40005", "c> old");
    append(&mut file, "10.0.0.8:40006", "c> connect\ns> connack");
    expect![[r#"
        1 1 open 10.0.0.7:40000 > 10.0.0.1:9999
        3 1 c2s connect311
        4 1 s2c connack311
        5 1 c2s old
        5 2 open 10.0.0.8:40006 > 10.0.0.1:9999
        5 2 c2s connect
        5 2 s2c connack
        5 1 close recording_ended
        5 2 close recording_ended
        note: 1 connection was open before the capture began, to port 9999, and left out, though others to it are MQTT: --port 9999 takes such connections
        note: 3 TCP connections are not MQTT and left out: 1 of TLS, 1 of text (perhaps WebSocket), 1 without a word of the client
        note: 16 frames are earlier than the frame before, by up to 0.005000 s; taken as simultaneous
    "#]]
    .assert_eq(&shown(&file, PcapOptions::default()));
    let ports = vec![9999];
    expect![[r#"
        0 1 open already 10.0.0.8:40005 > 10.0.0.1:9999, level 4
        0 1 c2s old
        0 1 close recording_ended
        note: 1 connection was open before the capture began: the client identifier is not known
    "#]]
    .assert_eq(&shown(
        &capture_between("10.0.0.8:40005", other, "c> old"),
        PcapOptions { ports, ..PcapOptions::default() },
    ));
}

#[test]
fn a_port_that_is_used_again_is_another_connection() {
    check(
        "c> SYN
         c> SYN
         s> SYN
         c> connect
         s> connack
         reconnect
         c> SYN
         s> SYN
         c> connect
         s> connack
         c> FIN
         s> FIN
         c> connect
         reconnect
         c! SYN
         s> SYN
         c> connect
         s> RST",
        expect![[r#"
            2 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            3 1 c2s connect
            4 1 s2c connack
            5 1 close timeout
            6 2 open 10.0.0.7:40000 > 10.0.0.1:1883
            7 2 c2s connect
            8 2 s2c connack
            10 2 close client_fin
            13 3 open 10.0.0.7:40000 > 10.0.0.1:1883
            14 3 c2s connect
            15 3 close server_rst
            note: 1 connection has no end in the capture: closed as `timeout` where the client used the port again
        "#]],
    );
}

#[test]
fn what_a_client_says_that_is_no_packet_is_kept_as_bytes() {
    check(
        "c> SYN
         s> SYN
         c> junk
         c> connect
         s> FIN
         c> FIN",
        expect![[r#"
            1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            2 1 c2s raw junk
            3 1 c2s raw connect
            5 1 close server_fin
        "#]],
    );
}

#[test]
fn passwords_are_replaced_unless_they_are_asked_for() {
    let script = "c> SYN
         s> SYN
         c> secret
         s> connack";
    check(
        script,
        expect![[r#"
            1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            2 1 c2s "\x10\x1e\x00\x04MQTT\x05\xc2\x00<\x03!\x00\x05\x00\x01c\x00\x01u\x00\x08redacted"
            3 1 s2c connack
            3 1 close recording_ended
            note: 1 password was replaced
        "#]],
    );
    let kept = PcapOptions { keep_credentials: true, ..PcapOptions::default() };
    expect![[r#"
        1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
        2 1 c2s secret
        3 1 s2c connack
        3 1 close recording_ended
    "#]]
    .assert_eq(&shown(&capture(script), kept));
    // Also where a part of the CONNECT is missing.
    check(
        "c> SYN
         s> SYN
         c> secret[0-14]
         c! secret[14-20]
         c> secret[20-] ping
         c> p1
         s> ACK
         c> RST",
        expect![[r#"
            1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
            7 1 c2s raw "\x10\x1c\x00\x04MQTT\x05\xc2\x00<**"
            7 1 gap of 1, 6 bytes
            7 1 c2s raw "**********"
            7 1 c2s ping
            7 1 c2s p1
            7 1 close client_rst
            note: 1 hole in the TCP streams, 6 bytes in all: there is a GAP for each
            note: 2 segments came out of order
            note: 2 pieces of bytes that do not parse and may hold a password: overwritten there
        "#]],
    );
}

#[test]
fn every_link_layer_gives_the_same() {
    let script = "c> SYN
         s> SYN
         c> connect
         s> connack";
    let ethernet = capture(script);
    let expected = read(&ethernet, PcapOptions::default()).unwrap().0;
    let vlan = |rest: &[u8]| [&[0; 12], &[0x88, 0xA8, 0, 5, 0x81, 0, 0, 6, 8, 0][..], rest].concat();
    type Layer<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let layers: [(u32, Layer<'_>); 8] = [
        (0, &|rest| [&[2, 0, 0, 0], rest].concat()),
        (0, &|rest| [&[0, 0, 0, 2], rest].concat()),
        (108, &|rest| [&[0, 0, 0, 2], rest].concat()),
        (1, &vlan),
        (101, &|rest| rest.to_vec()),
        (228, &|rest| rest.to_vec()),
        (113, &|rest| [&[0; 14], &[8, 0][..], rest].concat()),
        (276, &|rest| [&[8, 0], &[0; 18][..], rest].concat()),
    ];
    for (link, layer) in layers {
        let mut file = pcap_head(link);
        for (at, frame) in frames(&ethernet) {
            put_record(at, &layer(&frame[14..]), &mut file);
        }
        assert_eq!(read(&file, PcapOptions::default()).unwrap().0, expected, "link type {link}");
    }
    let version_6 = capture_between("[fe80::7]:40000", "[fe80::1]:1883", script);
    assert_eq!(read(&version_6, PcapOptions::default()).unwrap().0.len(), expected.len());
    // With a hop-by-hop header before TCP.
    let mut extended = pcap_head(1);
    for (at, frame) in frames(&version_6) {
        let mut longer = [&frame[..54], &[6, 0, 1, 4, 0, 0, 0, 0], &frame[54..]].concat();
        longer[18..20].copy_from_slice(&((frame.len() - 54 + 8) as u16).to_be_bytes());
        longer[20] = 0;
        put_record(at, &longer, &mut extended);
    }
    let same = read(&extended, PcapOptions::default()).unwrap().0;
    assert_eq!(same, read(&version_6, PcapOptions::default()).unwrap().0);
}

/// The frames of a pcap file as tests write it.
fn frames(file: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let (mut frames, mut rest) = (Vec::new(), &file[24..]);
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let len = word(8) as usize;
        let at = u64::from(word(0)) * 1_000_000_000 + u64::from(word(4)) * 1000;
        frames.push((at, rest[16..16 + len].to_vec()));
        rest = &rest[16 + len..];
    }
    frames
}

#[test]
fn every_kind_of_file_gives_the_same() {
    let ours = capture("c> SYN\ns> SYN\nc> connect\ns> connack");
    let expected = read(&ours, PcapOptions::default()).unwrap().0;
    let frames = frames(&ours);
    for (magic, ticks) in [(0xA1B2_C3D4_u32, 1000), (0xA1B2_3C4D, 1)] {
        for is_big in [false, true] {
            let word = |value: u32| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
            let half = |value: u16| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
            let mut file = [&word(magic)[..], &half(2), &half(4)].concat();
            file.extend([0, 0, 65_535, 1].map(word).concat());
            for (at, frame) in &frames {
                let (seconds, nanos) = ((at / 1_000_000_000) as u32, (at % 1_000_000_000) as u32);
                let len = frame.len() as u32;
                file.extend([seconds, nanos / ticks, len, len].map(word).concat());
                file.extend(frame);
            }
            assert_eq!(read(&file, PcapOptions::default()).unwrap().0, expected);
            let sections = [is_big, !is_big].map(|is_big| pcapng(&frames, is_big, 6));
            assert_eq!(read(&sections[0], PcapOptions::default()).unwrap().0, expected);
            // What comes twice adds nothing.
            assert_eq!(read(&sections.concat(), PcapOptions::default()).unwrap().0.len(), expected.len());
            let binary = pcapng(&frames, is_big, 0x80 | 30);
            assert_eq!(read(&binary, PcapOptions::default()).unwrap().0.len(), expected.len());
        }
    }
}

/// A section with an unknown block, an interface of this resolution and the frames.
fn pcapng(frames: &[(u64, Vec<u8>)], is_big: bool, resolution: u8) -> Vec<u8> {
    let word = |value: u32| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
    let block = |kind: u32, body: Vec<u8>| {
        let len = word(body.len() as u32 + 12);
        [&word(kind)[..], &len, &body, &len].concat()
    };
    let mut file = block(0x0A0D_0D0A, [&word(0x1A2B_3C4D)[..], &half(1), &half(0), &[0xFF; 8]].concat());
    file.extend(block(0x0BAD, vec![7; 8]));
    let resolution_option = [&half(9)[..], &half(1), &[resolution, 0, 0, 0], &[0; 4]].concat();
    file.extend(block(1, [&half(1)[..], &half(0), &word(0), &resolution_option].concat()));
    for (at, frame) in frames {
        let ticks = match resolution {
            6 => at / 1000,
            _ => ((u128::from(*at) << 30) / 1_000_000_000) as u64,
        };
        let len = frame.len() as u32;
        let mut body = [0, (ticks >> 32) as u32, ticks as u32, len, len].map(word).concat();
        body.extend(frame);
        body.resize(body.len().next_multiple_of(4), 0);
        file.extend(block(6, body));
    }
    file
}

#[test]
fn frames_that_hold_no_segment_are_counted() {
    let mut file = capture("c> SYN\ns> SYN\nc> connect\nc> p1");
    let datagram = |protocol: u8, fragment: u8| {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, fragment, 0, 64, protocol, 0, 0]);
        frame.resize(60, 1);
        frame
    };
    put_record(START, &datagram(17, 0), &mut file);
    put_record(START, &datagram(6, 0x20), &mut file);
    put_record(START, &datagram(6, 0)[..30], &mut file);
    put_record(START, &[vec![0; 12], vec![8, 6], vec![0; 28]].concat(), &mut file);
    let frames = frames(&file);
    // The last message as a capture that takes 68 bytes of each frame has it.
    let cut = &frames[3].1;
    let mut short = pcap_head(1);
    for (index, (at, frame)) in frames.iter().enumerate() {
        put_record(*at, frame, &mut short);
        if index == 3 {
            let start = short.len() - cut.len();
            short.truncate(start + 58);
            short[start - 8..start - 4].copy_from_slice(&58_u32.to_le_bytes());
        }
    }
    expect![[r#"
        1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
        2 1 c2s connect
        3 1 c2s raw "0\x10\x00\x03"
        3 1 close recording_ended
        note: 1 segment was cut short: capture with a larger snap length
        note: 2 frames are not TCP and left out
        note: 1 IP fragment was left out: they are not put together
        note: 1 frame has headers that are cut or make no sense
        note: 4 frames are earlier than the frame before, by up to 0.003000 s; taken as simultaneous
    "#]]
    .assert_eq(&shown(&short, PcapOptions::default()));
}

#[derive(Debug)]
struct Failed(#[allow(dead_code, reason = "Debug prints it")] String);

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

fn write_with(info: &RecordingInfo, events: &[Event]) -> (Vec<u8>, Vec<String>) {
    let give = || Ok::<_, Failed>(events.iter().cloned().map(Ok::<_, Failed>));
    PcapWriter::new(Vec::new()).write(info, give).unwrap()
}

fn write(events: &[Event]) -> Vec<u8> {
    write_with(&info(), events).0
}

/// Everything that a recording can hold.
fn everything() -> Vec<Event> {
    let v5 = ProtocolVersion::V5;
    let alias = Property::TopicAlias(1);
    let opened = |peer: &str, listener: &str, transport: &str| {
        EventKind::Open(Box::new(ConnectionInfo {
            peer: Some(peer.to_owned()),
            listener: Some(listener.to_owned()),
            transport: transport.to_owned(),
            upstream: Some("mqtt://broker".to_owned()),
            ..ConnectionInfo::default()
        }))
    };
    let already = EventKind::Open(Box::new(ConnectionInfo {
        already_open: true,
        client_identifier: Some("old".to_owned()),
        protocol: Some(ProtocolVersion::V311),
        ..ConnectionInfo::default()
    }));
    let old = publish(Some("o"), b"1", Vec::new());
    let raw =
        |direction, bytes: &'static [u8]| EventKind::Raw { direction, bytes: Bytes::from_static(bytes) };
    let retained = InForce { client_identifier: None, packet: Bytes::from_static(b"\x31\x05\0\x01r\0x") };
    events([
        (0, 0, EventKind::State(Box::new(retained))),
        (0, 1, already),
        (1, 0, EventKind::Anchor("2026-11-22T12:00:00Z".parse().unwrap())),
        (5, 2, opened("127.0.0.1:50000", "127.0.0.1:8883", "tls")),
        (6, 2, connect("dev-1", v5)),
        (7, 2, connack(false, v5)),
        (8, 1, sample::packet(Direction::ClientToServer, ProtocolVersion::V311, ControlPacket::Publish(old))),
        (9, 2, from_client(publish(Some("big"), &[b'x'; 300_000], vec![alias.clone()]))),
        (10, 3, opened("[::1]:50001", "0.0.0.0:1883", "ws")),
        (11, 3, raw(Direction::ClientToServer, b"\x10\x7fnot whole")),
        (12, 3, raw(Direction::ServerToClient, b"\x30")),
        (13, 0, EventKind::Mark("after \"warm-up\"\n ü".to_owned())),
        (14, 2, from_server(publish(None, b"again", vec![alias]))),
        (15, 2, EventKind::Fault(Box::new(fault("drop", "{\"ms\":5}")))),
        (15, 0, EventKind::Mock(Box::new(MockFired { mock: "m".to_owned(), ..MockFired::default() }))),
        (16, 0, EventKind::Gap { events: 3, bytes: 120 }),
        (17, 3, EventKind::Gap { events: 1, bytes: 9 }),
        (18, 3, EventKind::Close(CloseCause::Fault)),
        (19, 2, EventKind::Close(CloseCause::Timeout)),
        (20, 4, opened("127.0.0.1:50000", "127.0.0.1:8883", "tcp")),
        (20, 5, opened("127.0.0.1:50000", "127.0.0.1:8883", "tcp")),
        (21, 4, EventKind::Close(CloseCause::ClientRst)),
        (22, 5, EventKind::Close(CloseCause::ClientFin)),
        (23, 1, EventKind::Close(CloseCause::RecordingEnded)),
    ])
}

#[test]
fn what_was_written_is_read_again() {
    let (file, notes) = write_with(&info(), &everything());
    assert_eq!(notes, ["the addresses of 2 connections are made up"]);
    let reader = PcapReader::open(Cursor::new(&file)).unwrap();
    let head = reader.head().clone();
    assert_eq!(head.id, Some(info().id));
    assert_eq!(head.name, Some(info().name));
    assert_eq!(head.started_at, Some(info().started_at));
    assert_eq!(head.source, Some(info().source));
    let mut events = reader.into_events().unwrap();
    let again: Vec<Event> = events.by_ref().map(Result::unwrap).collect();
    for (event, again) in everything().iter().zip(&again) {
        assert_eq!(event, again);
    }
    assert_eq!(again.len(), everything().len());
    assert_eq!(events.notes(), Vec::<String>::new());
}

#[test]
fn an_event_that_is_too_long_for_a_comment_is_there_by_name() {
    let mut long = fault("corrupt", "{}");
    long.received = Some(Bytes::from(vec![0; 60_000]));
    let (file, notes) = write_with(&info(), &events([(1, 0, EventKind::Fault(Box::new(long)))]));
    assert_eq!(
        notes,
        ["1 event is too long for a comment, which holds 65,535 bytes: only the name is there"]
    );
    expect![[r#"
        0 0 mark FAULT (too long to be shown)
    "#]]
    .assert_eq(&shown(&file, PcapOptions::default()));
}

#[test]
fn a_comment_that_somebody_put_on_a_packet_is_a_mark() {
    let ours = capture("c> SYN\ns> SYN\nc> connect\ns> connack");
    let mut file = pcapng(&frames(&ours), false, 6);
    // The last block again, with a comment.
    let last = frames(&ours).pop().unwrap().1.len().next_multiple_of(4) + 32;
    let mut block = file.split_off(file.len() - last);
    block.truncate(last - 4);
    block.extend(b"\x01\0\x09\0look here\0\0\0\0\0\0\0");
    let len = (block.len() as u32 + 4).to_le_bytes();
    block[4..8].copy_from_slice(&len);
    file.extend([&block[..], &len].concat());
    expect![[r#"
        1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
        2 1 c2s connect
        3 0 mark look here
        3 1 s2c connack
        3 1 close recording_ended
    "#]]
    .assert_eq(&shown(&file, PcapOptions::default()));
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let error = |file: &[u8]| match read(file, PcapOptions::default()) {
        Ok(_) => "none".to_owned(),
        Err(error) => format!("{:?}: {error}", error.kind),
    };
    let good = capture("c> SYN\ns> SYN\nc> connect");
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let ours = write(&everything());
    let ours_with = |at: usize, bytes: &[u8]| {
        let mut file = ours.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let section_len = u32::from_le_bytes(ours[4..8].try_into().unwrap()) as usize;
    let errors = [
        error(b""),
        error(b"PK\x03\x04"),
        error(&with(4, &[3])),
        error(&with(20, &[105])),
        error(&with(32, &[0xFF, 0xFF, 0xFF, 0x7F])),
        error(&good[..good.len() - 1]),
        error(&good[..30]),
        error(&ours_with(8, b"MAGI")),
        error(&ours_with(4, &[0xFF; 4])),
        error(&ours_with(12, &[2])),
        error(&ours_with(section_len + 4, &[13])),
        error(&ours_with(section_len - 4, &[0])),
        error(&ours_with(section_len, &[6])),
        error(&ours[..ours.len() - 2]),
    ];
    expect![[r#"
        Unsupported: byte 0: this is no pcap or pcapng file
        Unsupported: byte 0: this is no pcap or pcapng file
        Unsupported: byte 4: version 3.4 of pcap is not supported, this program reads version 2
        Unsupported: byte 20: link type 105 is not supported: Ethernet, Linux cooked, loopback and raw IP are
        Invalid: byte 32: a captured packet of 2147483647 bytes; the most there can be is 1048576
        Truncated: byte 265: the file ends in a packet
        Truncated: byte 30: the file ends in a packet's header
        Invalid: byte 8: neither byte order makes sense of this section's magic
        Invalid: byte 4: a block of 4294967295 bytes; 28 to 2097152, in fours, are possible
        Unsupported: byte 12: version 2.0 of pcapng is not supported, this program reads version 1
        Invalid: byte 392: a block of 13 bytes; 12 to 2097152, in fours, are possible
        Invalid: byte 384: the block at byte 0 is of 388 bytes and says 256 at its end
        Invalid: byte 388: interface 1 is not described
        Truncated: byte 324282: the file ends in a block's last length
    "#]]
    .assert_eq(&(errors.join("\n") + "\n"));
}

#[test]
fn a_file_that_ends_in_the_middle_can_be_taken_as_far_as_it_goes() {
    let good = capture("c> SYN\ns> SYN\nc> connect\ns> connack");
    let cut = &good[..good.len() - 1];
    assert!(matches!(
        read(cut, PcapOptions::default()),
        Err(FileError { kind: FileErrorKind::Truncated, place: FilePlace::Byte(_), .. })
    ));
    let options = PcapOptions { recover: true, ..PcapOptions::default() };
    expect![[r#"
        1 1 open 10.0.0.7:40000 > 10.0.0.1:1883
        2 1 c2s connect
        2 1 close recording_ended
        note: byte 340: the file ends in a packet: what is before byte 266 was taken
    "#]]
    .assert_eq(&shown(cut, options));
}

/// The kinds of any recording, put on connections that are opened before and closed after.
fn any_recording() -> impl Strategy<Value = Vec<Event>> {
    let step = (record::tests::kind(3000), 1..4_u32, 0..1_000_000_u64);
    prop::collection::vec(step, 0..40).prop_map(|steps| {
        let (mut kinds, mut at) = (Vec::new(), 0);
        let mut open: HashMap<u32, u32> = HashMap::new();
        let mut opened = 0;
        for (kind, slot, passed) in steps {
            at += passed;
            let number = match open.get(&slot) {
                _ if matches!(kind, EventKind::Mark(_) | EventKind::Anchor(_) | EventKind::State(_)) => 0,
                Some(number) => *number,
                None => {
                    opened += 1;
                    open.insert(slot, opened);
                    kinds.push((at, opened, EventKind::Open(Box::default())));
                    opened
                }
            };
            let kind = match kind {
                EventKind::Open(_) => continue,
                // Of one whole packet.
                EventKind::Packet { direction, bytes } => {
                    let len = bytes.len().min(127);
                    let packet = [&[0x30, len as u8], &bytes[..len]].concat();
                    EventKind::Packet { direction, bytes: packet.into() }
                }
                // Longer ones come back in pieces.
                EventKind::Raw { direction, bytes } => {
                    let bytes = bytes.slice(..bytes.len().min(1400));
                    if bytes.is_empty() {
                        continue;
                    }
                    EventKind::Raw { direction, bytes }
                }
                EventKind::Close(cause) => {
                    open.remove(&slot);
                    EventKind::Close(cause)
                }
                kind => kind,
            };
            kinds.push((at, number, kind));
        }
        let mut left: Vec<u32> = open.into_values().collect();
        left.sort_unstable();
        kinds.extend(
            left.into_iter().map(|number| (at, number, EventKind::Close(CloseCause::RecordingEnded))),
        );
        events(kinds)
    })
}

proptest! {
    #[test]
    fn reading_what_was_written_gives_it_back(recording in any_recording()) {
        let file = write(&recording);
        let options = PcapOptions { keep_credentials: true, ..PcapOptions::default() };
        let (again, _) = read(&file, options).unwrap();
        prop_assert_eq!(again, recording);
    }

    /// Segments of any size in any order, some of them again; nothing lost.
    #[test]
    fn however_segments_come_the_packets_are_the_same(
        cuts in prop::collection::vec(1..60_usize, 0..40),
        swaps in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let words = vocabulary();
        let said: Vec<Bytes> = ["connect", "p1", "q", "p2", "p3", "ping", "p1", "q", "bye"].map(|word| words[word].clone()).into();
        let stream = said.concat();
        let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let mut file = pcap_head(1);
        let mut put = |ends: [&SocketAddr; 2], numbers, flags, payload: &[u8]| {
            let mut frame = Vec::new();
            put_segment(ends, numbers, flags, payload, &mut frame);
            put_record(START, &frame, &mut file);
        };
        let first = u32::MAX - 40;
        put([&client, &server], [first, 0], Flags::Syn, &[]);
        put([&server, &client], [10, first.wrapping_add(1)], Flags::SynAck, &[]);
        let (mut pieces, mut start) = (Vec::new(), 0);
        for cut in cuts.into_iter().chain([stream.len()]) {
            let end = (start + cut).min(stream.len());
            if end > start {
                pieces.push((start, end));
            }
            start = end;
        }
        let count = pieces.len();
        for index in swaps.iter().filter(|_| count > 1) {
            let index = index.index(count - 1);
            pieces.swap(index, index + 1);
        }
        for index in again {
            let piece = pieces[index.index(pieces.len())];
            pieces.insert(index.index(pieces.len()), piece);
        }
        for (start, end) in pieces {
            let sequence = first.wrapping_add(1).wrapping_add(start as u32);
            put([&client, &server], [sequence, 11], Flags::Push, &stream[start..end]);
        }
        let (events, _) = read(&file, PcapOptions::default()).unwrap();
        let packets: Vec<Bytes> = events
            .into_iter()
            .filter_map(|event| match event.kind {
                EventKind::Packet { bytes, .. } => Some(bytes),
                _ => None,
            })
            .collect();
        prop_assert_eq!(packets, said);
    }

    /// Whatever part of a capture is missing, nothing is made up: each packet was sent.
    #[test]
    fn of_what_is_left_of_a_capture_no_packet_is_wrong(kept in prop::collection::vec(any::<bool>(), 14)) {
        let whole = capture(
            "c> SYN
             s> SYN
             c> connect
             s> connack
             c> p1[0-9]
             c> p1[9-] p2[0-3]
             c> p2[3-9]
             c> p2[9-] p3 q[0-2]
             s> puback[0-1]
             c> q[2-] ping
             s> puback[1-] pong
             c> p1#2
             c> FIN
             s> FIN",
        );
        let mut file = pcap_head(1);
        for ((at, frame), _) in frames(&whole).iter().zip(&kept).filter(|(_, kept)| **kept) {
            put_record(*at, frame, &mut file);
        }
        let words = vocabulary();
        for event in read(&file, PcapOptions::default()).unwrap().0 {
            if let EventKind::Packet { bytes, .. } = event.kind {
                prop_assert!(words.values().any(|word| *word == bytes), "{}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn damaged_files_end_in_an_error_or_give_events(
        is_ours in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        recover in any::<bool>(),
    ) {
        let mut file = match is_ours {
            true => write(&everything()),
            false => capture("c> SYN\ns> SYN\nc> connect\nc> p1 q[0-3]\ns> connack\nc> q[3-] p3\nc> FIN\ns> FIN"),
        };
        for (index, value) in flips {
            let at = index.index(file.len());
            file[at] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        let _ = read(&file, PcapOptions { recover, ..PcapOptions::default() });
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        magic in prop::sample::select(vec![&b"\xd4\xc3\xb2\xa1\x02\0\x04\0"[..], b"\x0a\x0d\x0d\x0a", b""]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = read(&[magic, &bytes].concat(), PcapOptions::default());
    }

    #[test]
    fn arbitrary_frames_never_panic(
        link in prop::sample::select(vec![0, 1, 101, 113, 276]),
        frames in prop::collection::vec((0..3_usize, prop::collection::vec(any::<u8>(), 0..120)), 0..10),
    ) {
        let mut file = pcap_head(link);
        for (kind, bytes) in frames {
            let start: &[u8] = match kind {
                0 => &[],
                1 => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0x45, 0],
                _ => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xDD, 0x60, 0, 0, 0],
            };
            put_record(START, &[start, &bytes].concat(), &mut file);
        }
        let _ = read(&file, PcapOptions::default());
    }
}

#[test]
fn a_length_that_is_only_announced_takes_no_memory() {
    // Each of these connections begins a packet of 256 MiB.
    let mut file = pcap_head(1);
    let server = SERVER.parse().unwrap();
    let connect = bytes_of(connect("a", ProtocolVersion::V5));
    for port in 1..20_000 {
        let client = SocketAddr::new("10.0.0.7".parse().unwrap(), port);
        let mut put = |ends: [&SocketAddr; 2], numbers, flags, payload: &[u8]| {
            let mut frame = Vec::new();
            put_segment(ends, numbers, flags, payload, &mut frame);
            put_record(START, &frame, &mut file);
        };
        put([&client, &server], [0, 0], Flags::Syn, &[]);
        put([&server, &client], [0, 1], Flags::SynAck, &[]);
        put(
            [&client, &server],
            [1, 1],
            Flags::Push,
            &[&connect[..], b"\x30\xff\xff\xff\x7f\0\x01a"].concat(),
        );
    }
    let (events, _) = read(&file, PcapOptions::default()).unwrap();
    assert_eq!(events.len(), 19_999 * 4);
}
