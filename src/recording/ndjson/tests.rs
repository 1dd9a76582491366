//! The NDJSON format as a whole.

use std::io::Cursor;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{
    packet::ProtocolVersion,
    recording::{
        CloseCause, Event, EventKind, FileError, FileErrorKind, RecordingState,
        json::{JsonReader, JsonWriter},
        sample::{connect, events, from_client, from_server, identified, info, open, publish},
    },
};

fn write(events: &[Event]) -> String {
    let give = || Ok::<_, std::io::Error>(events.iter().cloned().map(Ok));
    String::from_utf8(NdjsonWriter::new(Vec::new()).write(&info(), give).unwrap()).unwrap()
}

fn read(text: &[u8]) -> Result<(Vec<Event>, Vec<String>), FileError> {
    let mut events = NdjsonReader::open(Cursor::new(text), false)?.into_events()?;
    let read = events.by_ref().collect::<Result<_, _>>()?;
    Ok((read, events.notes()))
}

/// The events of `text` as JSON, and the notes.
fn check(text: impl AsRef<[u8]>, expected: Expect) {
    let shown = match read(text.as_ref()) {
        Ok((events, notes)) => {
            let mut lines: Vec<String> = write(&events).lines().skip(1).map(str::to_owned).collect();
            lines.pop();
            lines.extend(notes.iter().map(|note| format!("note: {note}")));
            lines.join("\n")
        }
        Err(error) => format!("{:?}: {error}", error.kind),
    };
    expected.assert_eq(&shown);
}

fn session() -> Vec<Event> {
    let qos_1 =
        identified(publish(Some("a/b"), b"{\"v\":1}", vec![]), crate::packet::QoS::AtLeastOnce, 4, false);
    events([
        (0, 1, open()),
        (1, 1, connect("dev-1", ProtocolVersion::V5)),
        (1_203_412, 1, from_client(qos_1)),
        (1_203_500, 1, from_server(publish(Some("c"), b"\xff\0", vec![]))),
        (1_250_000, 0, EventKind::Mark("after\nwarm-up".to_owned())),
        (61_000_100, 1, EventKind::Close(CloseCause::ClientFin)),
    ])
}

#[test]
fn a_recording_reads_like_this() {
    let text = write(&session());
    expect![[r#"
        {"format": "mockforge.mqtt.session", "version": 1, "id": "01JD3ZJ8Y0000000000000000A", "name": "orders", "started_at": "2026-11-22T12:00:00.000000001Z", "state": "complete", "source": {"kind": "proxy", "upstream": "mqtt://broker:1883"}, "tool_version": "0.1.0", "gaps": 0}
        {"seq": 1, "t_ms": 0.000000, "conn": 1, "kind": "OPEN", "peer": "127.0.0.1:40000", "transport": "tcp"}
        {"seq": 2, "t_ms": 0.001000, "conn": 1, "dir": "c2s", "type": "CONNECT", "protocol": 5, "client_id": "dev-1", "clean_start": true, "keep_alive": 60, "raw": "EBIABE1RVFQFAgA8AAAFZGV2LTE="}
        {"seq": 3, "t_ms": 1203.412000, "conn": 1, "dir": "c2s", "type": "PUBLISH", "topic": "a/b", "qos": 1, "retain": false, "packet_id": 4, "payload": {"v":1}, "payload_encoding": "json"}
        {"seq": 4, "t_ms": 1203.500000, "conn": 1, "dir": "s2c", "type": "PUBLISH", "topic": "c", "qos": 0, "retain": false, "payload": "/wA=", "payload_encoding": "base64"}
        {"seq": 5, "t_ms": 1250.000000, "kind": "MARK", "label": "after\nwarm-up"}
        {"seq": 6, "t_ms": 61000.100000, "conn": 1, "kind": "CLOSE", "cause": "client_fin"}
        {"kind": "END", "events": 6}
    "#]]
    .assert_eq(&text);
    assert_eq!(read(text.as_bytes()).unwrap(), (session(), vec![]));
}

#[test]
fn the_head_is_that_of_the_json_format() {
    let give = || Ok::<_, std::io::Error>(session().into_iter().map(Ok));
    let json = JsonWriter::new(Vec::new()).write(&info(), give).unwrap();
    let json = JsonReader::open(Cursor::new(json)).unwrap();
    let lines = NdjsonReader::open(Cursor::new(write(&session())), false).unwrap();
    assert_eq!(lines.head(), json.head());
}

#[test]
fn events_alone_are_enough() {
    let text = write(&session());
    let lines: Vec<_> = text.lines().collect();
    let events = lines[1..7].join("\n\n  ");
    assert_eq!(read(events.as_bytes()).unwrap(), (session(), vec![]));
}

#[test]
fn messages_in_the_short_form_are_taken() {
    check(
        r#"{"t_ms": 0, "topic": "a/b", "payload": "on", "qos": 1}
           {"t_ms": 5.5, "topic": "a/c", "payload": {"x": 1}, "client_id": "dev"}"#,
        expect![[r#"
            {"seq": 1, "t_ms": 0.000000, "conn": 1, "kind": "OPEN", "already_open": true, "protocol": 4}
            {"seq": 2, "t_ms": 0.000000, "conn": 1, "dir": "c2s", "type": "PUBLISH", "topic": "a/b", "qos": 1, "retain": false, "packet_id": 1, "payload": "on", "payload_encoding": "utf8"}
            {"seq": 3, "t_ms": 5.500000, "conn": 2, "kind": "OPEN", "already_open": true, "client_id": "dev", "protocol": 4}
            {"seq": 4, "t_ms": 5.500000, "conn": 2, "dir": "c2s", "type": "PUBLISH", "topic": "a/c", "qos": 0, "retain": false, "payload": {"x":1}, "payload_encoding": "json"}"#]],
    );
}

#[test] // as mosquitto_sub 2.0.11 prints them
fn lines_of_mosquitto_sub_are_deliveries() {
    let text = br#"{"tst":"2026-11-26T08:29:21.875722Z+0000","topic":"a/b","qos":1,"retain":0,"payloadlen":21,"mid":7,"properties":{"user-properties":{"k":"v","k":"w"},"content-type":"text","correlation-data":"abc","response-topic":"r/t","payload-format-indicator":1,"message-expiry-interval":30},"payload":"{\"v\": 1.50, \"n\":\"\u00e9\"}"}
{"tst":"2026-11-26T08:29:21.887676Z+0000","topic":"a/c","qos":0,"retain":0,"payloadlen":2,"payload":"17"}
{"tst":"2026-11-26T08:29:21.935524Z+0000","topic":"a/d","qos":0,"retain":1,"payloadlen":0,"payload":null}
{"tst":"2026-11-26T08:29:22.012507Z+0000","topic":"a/x","qos":0,"retain":0,"payloadlen":2,"payload":"a"}
"#;
    let mut text = text.to_vec();
    let position = text.iter().rposition(|byte| *byte == b'a').unwrap();
    text[position] = 0xff;
    check(
        &text,
        expect![[r#"
            {"seq": 1, "t_ms": 0.000000, "conn": 1, "kind": "OPEN", "already_open": true, "protocol": 5}
            {"seq": 2, "t_ms": 0.000000, "conn": 1, "dir": "s2c", "type": "PUBLISH", "topic": "a/b", "qos": 1, "retain": false, "packet_id": 7, "properties": {"user_properties": [["k", "v"], ["k", "w"]], "content_type": "text", "correlation_data": "YWJj", "response_topic": "r/t", "payload_format_indicator": 1, "message_expiry_interval": 30}, "payload": "{\"v\": 1.50, \"n\":\"é\"}", "payload_encoding": "utf8"}
            {"seq": 3, "t_ms": 11.954000, "conn": 2, "kind": "OPEN", "already_open": true, "protocol": 4}
            {"seq": 4, "t_ms": 11.954000, "conn": 2, "dir": "s2c", "type": "PUBLISH", "topic": "a/c", "qos": 0, "retain": false, "payload": 17, "payload_encoding": "json"}
            {"seq": 5, "t_ms": 59.802000, "conn": 2, "dir": "s2c", "type": "PUBLISH", "topic": "a/d", "qos": 0, "retain": true, "payload": "", "payload_encoding": "utf8"}
            {"seq": 6, "t_ms": 136.785000, "conn": 2, "dir": "s2c", "type": "PUBLISH", "topic": "a/x", "qos": 0, "retain": false, "payload": "/w==", "payload_encoding": "base64"}
            note: lines of mosquitto_sub: what a subscriber was delivered; who published it, acknowledgements and Wills are not in them (4 messages)
            note: 1 message with a payload that is not, byte for byte, the one delivered: %J prints JSON anew, %j ends at a zero byte"#]],
    );
    let reader = NdjsonReader::open(Cursor::new(&text), false).unwrap();
    assert_eq!(reader.head().started_at.unwrap().to_string(), "2026-11-26T08:29:21.875722Z");
    assert!(reader.head().source.as_ref().unwrap().is_subscriber());
}

#[test]
fn payloads_of_both_forms_of_mosquitto_sub_are_told_apart_by_their_length() {
    let payload = |payload: &str, len: usize| {
        let line = format!(
            r#"{{"tst":"2026-11-26T08:29:21Z+0100","topic":"a","qos":0,"retain":0,"payloadlen":{len},"payload":{payload}}}"#
        );
        let (events, notes) = read(line.as_bytes()).unwrap();
        let EventKind::Packet { bytes, .. } = &events[1].kind else { panic!("{events:?}") };
        (String::from_utf8_lossy(&bytes[5..]).into_owned(), notes.len() == 1)
    };
    assert_eq!(payload(r#""on""#, 2), ("on".to_owned(), true));
    assert_eq!(payload(r#""on""#, 4), ("\"on\"".to_owned(), true));
    assert_eq!(payload("1.5", 3), ("1.5".to_owned(), true));
    assert_eq!(payload("1.5", 4), ("1.5".to_owned(), false));
    assert_eq!(payload("null", 4), ("null".to_owned(), true));
    assert_eq!(payload("null", 0), (String::new(), true));
}

#[test]
fn a_file_has_one_kind_of_lines() {
    let (event, message, mosquitto) = (
        r#"{"t_ms": 0, "conn": 1, "dir": "c2s", "type": "PINGREQ"}"#,
        r#"{"t_ms": 0, "topic": "a", "payload": "on"}"#,
        r#"{"tst": "2026-11-26T08:29:21Z+0000", "topic": "a", "payloadlen": 2, "payload": "on"}"#,
    );
    check(
        format!("{event}\n{mosquitto}"),
        expect![
            "Invalid: line 2, column 1: a line of mosquitto_sub among lines of which the first is an event: a file has one kind"
        ],
    );
    check(
        format!("{mosquitto}\n  {event}"),
        expect![
            "Invalid: line 2, column 3: an event among lines of which the first is a line of mosquitto_sub: a file has one kind"
        ],
    );
    check(
        format!("{message}\n{event}"),
        expect![
            "Invalid: line 2, column 1: an event among lines of which the first is a message: a file has one kind"
        ],
    );
}

#[test]
fn errors_name_the_place() {
    check("", expect!["Truncated: line 1, column 1: the file has no lines"]);
    check("\n \n", expect!["Truncated: line 3, column 1: the file has no lines"]);
    check("{}\n[]", expect!["Invalid: line 2, column 1: each line is an object, this one is not"]);
    check("{}\n{\"a\":\n1}", expect!["Invalid: line 2, column 1: the object does not end with its line"]);
    check(
        "{\"version\": 2}\n",
        expect![
            "Unsupported: line 1, column 14: version: version 2 is not supported, this program reads version 1"
        ],
    );
    check("{\"version\": 1}\n{\"kind\": \"GAP\"}", expect!["Invalid: line 2, column 1: t_ms: missing"]);
    check(
        "{\"t_ms\": 5, \"kind\": \"MARK\"}\n{\"t_ms\": 4, \"kind\": \"MARK\"}\n",
        expect!["Invalid: line 2, column 1: t_ms: 4.000000 is before the event before it at 5.000000"],
    );
    check(
        "{\"t_ms\": 5, \"kind\": \"MARK\", \"label\": 7}\n",
        expect![[r#"Invalid: line 1, column 38: label: invalid type: integer `7`, expected a string"#]],
    );
    check(
        "{\"tst\": \"noon\", \"topic\": \"a\", \"payload\": \"on\"}\n",
        expect![[
            r#"Invalid: line 1, column 1: tst: "noon" is no time: neither RFC 3339, as 2026-11-22T12:00:00Z, nor a Unix time"#
        ]],
    );
}

#[test]
fn a_file_that_was_cut_off_is_an_error_or_recovered() {
    let text = write(&session());
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let in_a_line = lines[..4].concat() + "{\"seq\": 4, \"t";
    check(&in_a_line, expect!["Truncated: line 5, column 1: the file ends here, in the middle of a line"]);
    let reader = NdjsonReader::open(Cursor::new(&in_a_line), true).unwrap();
    assert_eq!(reader.head().state, Some(RecordingState::Interrupted));
    let mut events = reader.into_events().unwrap();
    assert_eq!(events.by_ref().map(Result::unwrap).collect::<Vec<_>>(), session()[..3]);
    assert_eq!(events.notes(), ["the last line was cut off and is left out"]);

    // Between two lines.
    let (events, notes) = read(lines[..4].concat().as_bytes()).unwrap();
    assert_eq!(events, session()[..3]);
    assert_eq!(notes, ["the file has no line for its end: events may be missing there"]);
    let without_one = [&lines[..3], &lines[4..]].concat().concat();
    check(
        without_one,
        expect![
            "Invalid: line 8, column 1: the end counts 6 events, there are 5: lines are missing or were added; without this line the file can be read"
        ],
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(cut in 0..2000_usize, flips in prop::collection::vec((0..2000_usize, any::<u8>()), 0..4)) {
        let mosquitto = "{\"tst\":\"2026-11-26T08:29:21.875722Z+0000\",\"topic\":\"a/b\",\"qos\":1,\"payloadlen\":21,\"payload\":{\"a\":1}}\n";
        for text in [write(&session()), mosquitto.repeat(5)] {
            let mut bytes = text.into_bytes();
            for (at, byte) in &flips {
                let at = at % bytes.len();
                bytes[at] = *byte;
            }
            bytes.truncate(bytes.len() - cut % bytes.len());
            for recover in [false, true] {
                let reader = NdjsonReader::open(Cursor::new(&bytes), recover);
                let Ok(events) = reader.and_then(NdjsonReader::into_events) else { continue };
                let read: Vec<_> = events.collect();
                for (event, seq) in read.iter().flatten().zip(1..) {
                    prop_assert_eq!(event.seq, seq);
                }
                prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
            }
        }
    }

    #[test]
    fn random_bytes_are_no_recording(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(events) = NdjsonReader::open(Cursor::new(&bytes), true).and_then(NdjsonReader::into_events) {
            events.for_each(drop);
        }
    }
}

#[test]
fn an_error_is_of_damage_where_the_file_is() {
    let error = NdjsonReader::open(Cursor::new(b"{\"a\": 1"), false).unwrap_err();
    assert_eq!((error.kind, error.is_damage()), (FileErrorKind::Truncated, true));
}
