//! The CSV format as a whole.

use std::io::Cursor;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{
    packet::{ControlPacket, Frame, Property, ProtocolVersion, QoS},
    recording::{
        CloseCause, Event, EventKind, FileError, RecordingSource,
        sample::{connect, events, from_client, from_server, identified, info, open, publish, text},
    },
};

fn read(text: &[u8]) -> Result<(Vec<Event>, Vec<String>), FileError> {
    let mut events = CsvReader::open(Cursor::new(text))?.into_events()?;
    let read = events.by_ref().collect::<Result<_, _>>()?;
    Ok((read, events.notes()))
}

fn write(events: &[Event], source: RecordingSource) -> (String, Vec<String>) {
    let give = || Ok::<_, std::io::Error>(events.iter().cloned().map(Ok));
    let info = crate::recording::RecordingInfo { source, ..info() };
    let (text, notes) = CsvWriter::new(Vec::new()).write(&info, give).unwrap();
    (String::from_utf8(text).unwrap(), notes)
}

/// The messages in `text`, and the notes.
fn check(text: impl AsRef<[u8]>, expected: Expect) {
    expected.assert_eq(&shown(text));
}

fn shown(text: impl AsRef<[u8]>) -> String {
    match read(text.as_ref()) {
        Ok((events, notes)) => {
            let messages = events.iter().filter_map(|event| match &event.kind {
                EventKind::Packet { bytes, direction } => {
                    let packet = Frame::decode(bytes.clone(), ProtocolVersion::V311).unwrap().packet;
                    let ControlPacket::Publish(publish) = packet else { panic!("{packet:?}") };
                    Some(format!(
                        "{:?} {} {} {:?} {} {}",
                        event.at,
                        direction.name(),
                        publish.topic.unwrap().as_str(),
                        publish.payload,
                        publish.qos as u8,
                        publish.retain
                    ))
                }
                _ => None,
            });
            let notes = notes.iter().map(|note| format!("note: {note}"));
            messages.chain(notes).collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("{:?}: {error}", error.kind),
    }
}

#[test]
fn rows_are_messages_with_and_without_a_header() {
    let rows =
        "2026-11-22T12:00:00Z,a/b,on,0,false\r\n2026-11-22T12:00:01.5Z,\"a,b\",\"{\"\"v\"\": 1}\",1,true\r\n";
    let expected = expect![[r#"
        0ns c2s a/b b"on" 0 false
        1.5s c2s a,b b"{\"v\": 1}" 1 true"#]];
    expected.assert_eq(&shown(rows));
    expected.assert_eq(&shown(format!("timestamp,topic,payload,qos,retain\n{rows}")));
    expected.assert_eq(&shown(format!("\u{feff}Timestamp,Topic,Payload,QoS,Retain\n{rows}")));
    check(
        "topic,qos,message,time,client\na/b,2,on,1795348800,me\n\na/c,,\"two\nlines\",1795348801.25,me",
        expect![[r#"
            0ns c2s a/b b"on" 2 false
            1.25s c2s a/c b"two\nlines" 0 false
            note: columns that mean nothing here were left out: "client""#]],
    );
    check(
        "0.5,a,x\n1,b,y",
        expect![[r#"
        500ms c2s a b"x" 0 false
        1s c2s b b"y" 0 false"#]],
    );
    check("1795348800000,a,base64:/wA=\n", expect![[r#"0ns c2s a b"\xff\0" 0 false"#]]);
    // Latin-1 is nobody's business.
    check(b"1795348800000,a,\xe9\n", expect![[r#"0ns c2s a b"\xe9" 0 false"#]]);
    check("timestamp,topic,payload\n", expect![""]);
}

#[test]
fn errors_name_line_column_and_what_is_wrong() {
    check("", expect!["Truncated: the file has no rows"]);
    check(
        "now,a,b,0,false",
        expect![[
            r#"Invalid: line 1, column 1: timestamp: "now" is no time: neither RFC 3339, as 2026-11-22T12:00:00Z, nor a Unix time"#
        ]],
    );
    check("time,topic\n", expect![[r#"Invalid: line 1, column 1: the header has no column "payload""#]]);
    check(
        "1,a,b\n2,a,b,3,false",
        expect!["Invalid: line 2, column 1: 5 fields, the first row has 3; a payload with commas is quoted"],
    );
    check(
        "1,a,{x,y},z,0,1,2",
        expect![
            "Invalid: line 1, column 1: 8 fields; a row has 3 to 5: timestamp,topic,payload,qos,retain, and a payload with commas is quoted"
        ],
    );
    check("1,a,b,3,false", expect![[r#"Invalid: line 1, column 7: qos: "3" is not 0, 1 or 2"#]]);
    check("1,a,b,1,fal", expect![[r#"Invalid: line 1, column 9: retain: "fal" is not true or false"#]]);
    check("1,a/#,b", expect!["Invalid: line 1, column 3: topic: wildcard '#' in a topic name"]);
    check(
        "1,a,base64:?",
        expect!["Invalid: line 1, column 5: payload: behind \"base64:\": Invalid symbol 63, offset 0."],
    );
    check(
        "1,a,\"b",
        expect!["Truncated: line 1, column 5: the file ends in a quoted field that begins here"],
    );
    check(
        "1,a,\"b\"c\n",
        expect![
            "Invalid: line 1, column 8: something stands behind the quote that ends a field; quotes inside are doubled"
        ],
    );
    check(
        "1,a,b\n1795348800,a,b",
        expect![
            "Invalid: line 2, column 1: timestamp: is of the wall clock, the first counts from the beginning"
        ],
    );
    check(",".repeat(5000), expect!["Invalid: line 1, column 1001: too many fields"]);
}

#[test]
fn a_recording_reads_like_this_and_says_what_is_missing() {
    let qos_1 = identified(publish(Some("a,b"), b"{\"v\":1}", vec![]), QoS::AtLeastOnce, 4, true);
    let user = Property::UserProperty(text("k"), text("v"));
    let alias = Property::TopicAlias(1);
    let events = events([
        (0, 1, open()),
        (1, 1, connect("dev-1", ProtocolVersion::V5)),
        (1_203_412, 1, from_client(qos_1)),
        (1_203_413, 1, from_client(publish(Some("a"), b"base64:", vec![user]))),
        (1_203_414, 1, from_client(publish(Some("b"), b"x", vec![alias.clone()]))),
        (1_203_415, 1, from_client(publish(None, b"\xff", vec![alias.clone()]))),
        (1_203_416, 1, from_client(publish(None, b"", vec![Property::TopicAlias(2)]))),
        (1_203_500, 1, from_server(publish(Some("c"), b" two\nlines", vec![]))),
        (1_250_000, 0, EventKind::Mark("warm".to_owned())),
        (61_000_100, 1, EventKind::Close(CloseCause::ClientFin)),
    ]);
    let shown = |source| {
        let (text, notes) = write(&events, source);
        text + &notes.join("\n")
    };
    expect![[r#"
        timestamp,topic,payload,qos,retain
        2026-11-22T12:00:01.203412001Z,"a,b","{""v"":1}",1,false
        2026-11-22T12:00:01.203413001Z,a,base64:YmFzZTY0Og==,0,false
        2026-11-22T12:00:01.203414001Z,b,x,0,false
        2026-11-22T12:00:01.203415001Z,b,base64:/w==,0,false
        CSV has messages alone: 1 message without a known topic left out, 2 other packets left out, 1 mark, fault or other event left out, 1 connection not told apart, 3 messages written without properties, 1 message written though sent again (DUP)"#]]
    .assert_eq(&shown(RecordingSource::broker()));
    expect![[r#"
        timestamp,topic,payload,qos,retain
        2026-11-22T12:00:01.203500001Z,c," two
        lines",0,false
        CSV has messages alone: 6 other packets left out, 1 mark, fault or other event left out, 1 connection not told apart"#]]
    .assert_eq(&shown(RecordingSource::subscriber("mqtt://b")));
}

proptest! {
    #[test]
    fn messages_survive_whatever_is_in_them(
        messages in prop::collection::vec(("[ -~é\n\r\"]{1,8}", prop::collection::vec(any::<u8>(), 0..20), 0..1000_u64), 1..20)
    ) {
        let mut at = 0;
        let of = |(topic, payload, gap): &(String, Vec<u8>, u64)| {
            at += gap;
            let topic = topic.replace(['+', '#'], "x");
            (at, 1, from_client(publish(Some(&topic), payload, vec![])))
        };
        let kinds: Vec<_> = messages.iter().map(of).collect();
        let first = kinds[0].0;
        let v5 = events([(0, 1, open()), (0, 1, connect("c", ProtocolVersion::V5))].into_iter().chain(kinds.clone()));
        let (text, _) = write(&v5, RecordingSource::broker());
        let (again, notes) = read(text.as_bytes()).unwrap();
        prop_assert_eq!(notes, Vec::<String>::new());
        prop_assert_eq!(again.len(), messages.len() + 1);
        for (event, (at, _, kind)) in again[1..].iter().zip(&kinds) {
            prop_assert_eq!(event.at.as_micros() as u64, at - first);
            let (EventKind::Packet { bytes, .. }, EventKind::Packet { bytes: before, .. }) = (&event.kind, kind) else { panic!() };
            let packet = |bytes: &bytes::Bytes, version| Frame::decode(bytes.clone(), version).unwrap().packet;
            prop_assert_eq!(packet(bytes, ProtocolVersion::V311), packet(before, ProtocolVersion::V5));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop_oneof![Just(b','), Just(b'"'), Just(b'\n'), Just(b'1'), any::<u8>()], 0..200)) {
        if let Ok(events) = CsvReader::open(Cursor::new(&bytes)).and_then(CsvReader::into_events) {
            events.for_each(drop);
        }
    }
}

#[test]
fn messages_in_pieces_are_told_from_other_events() {
    let raw = |bytes: &'static [u8]| EventKind::Raw {
        direction: crate::recording::Direction::ClientToServer,
        bytes: bytes::Bytes::from_static(bytes),
    };
    let events = events([
        (0, 1, open()),
        (0, 1, connect("dev", ProtocolVersion::V311)),
        (1, 1, raw(b"\x30\x06\0\x01a")),
        (2, 1, raw(b"one")),
        (3, 1, raw(b"no packet")),
    ]);
    let (_, notes) = write(&events, RecordingSource::broker());
    expect![[r#"
        CSV has messages alone: 1 message longer than recorder.packet_bytes left out, 1 other packet left out, 1 mark, fault or other event left out, 1 connection not told apart"#]]
    .assert_eq(&notes.join("\n"));
}
