//! The MCAP format as a whole.

use std::io::Cursor;

use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::{
    record::{Content, Fields, Opcode, put_record},
    *,
};
use crate::{
    packet::{Property, ProtocolVersion},
    recording::{
        CloseCause, Direction, Event, EventKind, FileError, FileErrorKind, FilePlace, RecordingInfo,
        RecordingState, json,
        sample::{connack, connect, events, from_client, from_server, info, open, publish},
    },
};

#[derive(Debug)]
struct Failed(#[allow(dead_code, reason = "Debug prints it")] String);

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

fn write_with(info: &RecordingInfo, events: &[Event]) -> Vec<u8> {
    let give = || Ok::<_, Failed>(events.iter().cloned().map(Ok::<_, Failed>));
    McapWriter::new(Vec::new()).write(info, give).unwrap()
}

fn write(events: &[Event]) -> Vec<u8> {
    write_with(&info(), events)
}

fn read(file: &[u8]) -> Result<Vec<Event>, FileError> {
    McapReader::open(Cursor::new(file))?.into_events().collect()
}

type Recovered<'a> = (McapReader<Cursor<&'a [u8]>>, Vec<Event>);

fn recover(file: &[u8]) -> Result<Recovered<'_>, FileError> {
    let mut reader = McapReader::recover(Cursor::new(file))?;
    let events: Result<Vec<Event>, FileError> = reader.events().collect();
    Ok((reader, events?))
}

fn check_round_trip(events: &[Event]) -> Vec<u8> {
    let file = write(events);
    let mut reader = McapReader::open(Cursor::new(&file)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(reader.head().entries, events.len() as u64);
    assert_eq!(reader.notes(), Vec::<String>::new());
    for _ in 0..2 {
        let again: Result<Vec<Event>, FileError> = reader.events().collect();
        assert_eq!(again.unwrap_or_else(|error| panic!("{error}")), events);
    }
    file
}

/// A session whose events are of every channel.
fn session() -> Vec<Event> {
    let alias = Property::TopicAlias(1);
    events([
        (0, 1, open()),
        (1, 1, connect("dev-1", ProtocolVersion::V5)),
        (2, 1, connack(false, ProtocolVersion::V5)),
        (1000, 1, from_client(publish(Some("a/b"), b"{\"value\":23.5}", vec![alias.clone()]))),
        (1001, 1, from_server(publish(Some("a/b"), b"on", vec![]))),
        (2000, 1, from_client(publish(None, b"\xff", vec![alias]))),
        (2000, 0, EventKind::Mark("after warm-up".to_owned())),
        (
            2500,
            1,
            EventKind::Raw { direction: Direction::ServerToClient, bytes: Bytes::from_static(b"\xf0") },
        ),
        (3000, 1, EventKind::Close(CloseCause::ClientFin)),
    ])
}

/// Many messages that do not compress, so that there are several chunks.
fn long_session() -> Vec<Event> {
    let mut state = 1_u32;
    let mut payload = || {
        let next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        std::iter::repeat_with(next).take(40_000).collect::<Vec<u8>>()
    };
    let begin = [(0, 1, open()), (0, 1, connect("dev-1", ProtocolVersion::V5))];
    let messages = (0..60_u64).map(|index| (index, 1, from_client(publish(Some("big"), &payload(), vec![]))));
    events(begin.into_iter().chain(messages.collect::<Vec<_>>()))
}

/// Each record of a file or chunk, with its opcode and content.
fn records(mut bytes: &[u8]) -> Vec<(Opcode, &[u8])> {
    let mut records = Vec::new();
    while let [opcode, len @ ..] = bytes
        && let Some((len, rest)) = len.split_first_chunk()
    {
        let (content, rest) = rest.split_at(u64::from_le_bytes(*len) as usize);
        records.push((Opcode::of(*opcode).unwrap(), content));
        bytes = rest;
    }
    records
}

#[test]
fn a_file_consists_of_this() {
    let file = check_round_trip(&session());
    let mut text = String::new();
    for (opcode, content) in records(&file[MAGIC.len()..file.len() - MAGIC.len()]) {
        text += opcode.name();
        let mut fields = Fields(content);
        match opcode {
            Opcode::Metadata => {
                text += &format!(" {}", fields.text("").unwrap());
                for (name, value) in fields.map("").unwrap() {
                    text += &format!("\n  {name}: {value}");
                }
            }
            Opcode::Channel => {
                let (id, schema) = (fields.u16("").unwrap(), fields.u16("").unwrap());
                let (topic, encoding) = (fields.text("").unwrap(), fields.text("").unwrap());
                let metadata = fields.map("").unwrap();
                text += &format!(" {id} {topic} {encoding} schema={schema} {metadata:?}");
            }
            Opcode::MessageIndex => text += &format!(" of {}", fields.u16("").unwrap()),
            Opcode::Statistics => {
                text += &format!(" {} messages", fields.u64("").unwrap());
                text += &format!(" {} schemas", fields.u16("").unwrap());
                text += &format!(" {} channels", fields.u32("").unwrap());
            }
            _ => {}
        }
        text.push('\n');
    }
    expect![[r#"
        header
        metadata mockforge.mqtt.session
          format: mockforge.mqtt.session
          version: 1
          id: 01JD3ZJ8Y0000000000000000A
          name: orders
          started_at: 2026-11-22T12:00:00.000000001Z
          state: complete
          source: {"kind": "proxy", "upstream": "mqtt://broker:1883"}
          tool_version: 0.1.0
          gaps: 0
        chunk
        message index of 1
        message index of 2
        message index of 3
        message index of 4
        data end
        schema
        channel 1 events json schema=1 []
        channel 2 packets json schema=1 []
        channel 3 c2s/a/b json schema=1 [("dir", "c2s"), ("topic", "a/b")]
        channel 4 s2c/a/b json schema=1 [("dir", "s2c"), ("topic", "a/b")]
        statistics 9 messages 1 schemas 4 channels
        metadata index
        chunk index
        summary offset
        summary offset
        summary offset
        summary offset
        summary offset
        footer
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_message_is_the_line_of_the_json_format() {
    let events = session();
    let give = || Ok::<_, Failed>(events.iter().cloned().map(Ok::<_, Failed>));
    let json = String::from_utf8(json::JsonWriter::new(Vec::new()).write(&info(), give).unwrap()).unwrap();
    let lines: Vec<&str> = json.lines().filter(|line| line.contains("\"seq\":")).collect();
    let file = write(&events);
    let all = records(&file[MAGIC.len()..file.len() - MAGIC.len()]);
    let chunk = all.iter().find(|(opcode, _)| *opcode == Opcode::Chunk).unwrap().1;
    let packed = &chunk[32 + LZ4.len() + 8..];
    let mut unpacked = Vec::new();
    std::io::copy(&mut lz4_flex::frame::FrameDecoder::new(packed), &mut unpacked).unwrap();
    let messages = records(&unpacked).into_iter().filter(|(opcode, _)| *opcode == Opcode::Message);
    let start = u64::try_from(info().started_at.as_nanosecond()).unwrap();
    for (((_, content), event), line) in messages.zip(&events).zip(&lines) {
        let mut fields = Fields(content);
        fields.u16("channel").unwrap();
        assert_eq!(fields.u32("sequence").unwrap(), event.seq as u32);
        assert_eq!(fields.u64("log time").unwrap(), start + event.at.as_nanos() as u64);
        fields.u64("publish time").unwrap();
        assert_eq!(std::str::from_utf8(fields.0).unwrap(), line.trim().trim_end_matches([',', ']']));
    }
    assert_eq!(lines.len(), events.len());
}

#[test]
fn what_is_known_of_the_recording_is_kept() {
    let infos = [
        info(),
        RecordingInfo {
            // Texts that could be taken for something else.
            name: "7".to_owned(),
            tool_version: "null".to_owned(),
            state: RecordingState::Failed,
            topics: vec!["a/#".to_owned(), "\"".to_owned()],
            seed: Some(u64::MAX),
            edits: vec!["trimmed".to_owned(), "redacted from \"x\"".to_owned()],
            gaps: 3,
            started_at: "1969-12-31T23:59:59Z".parse().unwrap(),
            ..info()
        },
    ];
    for info in infos {
        let file = write_with(&info, &session());
        let reader = McapReader::open(Cursor::new(&file)).unwrap();
        let head = reader.head();
        assert_eq!(head.id.as_ref(), Some(&info.id));
        assert_eq!(head.name.as_ref(), Some(&info.name));
        assert_eq!(head.started_at, Some(info.started_at));
        assert_eq!(head.state, Some(info.state));
        assert_eq!(head.source.as_ref(), Some(&info.source));
        assert_eq!(head.tool_version.as_ref(), Some(&info.tool_version));
        assert_eq!((&head.topics, &head.edits), (&info.topics, &info.edits));
        assert_eq!((head.seed, head.gaps, head.entries), (info.seed, info.gaps, 9));
        assert_eq!(read(&file).unwrap(), session());
    }
}

#[test]
fn a_recording_without_events_is_a_file_without_chunks() {
    check_round_trip(&[]);
}

#[test]
fn long_recordings_have_several_chunks() {
    let events = long_session();
    let file = check_round_trip(&events);
    let all = records(&file[MAGIC.len()..file.len() - MAGIC.len()]);
    let chunks = all.iter().filter(|(opcode, _)| *opcode == Opcode::Chunk).count();
    assert_eq!(chunks, 3);
}

#[test]
fn topics_beyond_the_limit_share_a_channel() {
    let long = "x".repeat(1025);
    let topics = (0..1100).map(|number| format!("t/{number}")).chain([long, "t/5".to_owned()]);
    let begin = [(0, 1, open()), (0, 1, connect("dev-1", ProtocolVersion::V5))];
    let messages = topics.map(|topic| (0, 1, from_client(publish(Some(&topic), b"", vec![]))));
    let file = check_round_trip(&events(begin.into_iter().chain(messages)));
    let all = records(&file[MAGIC.len()..file.len() - MAGIC.len()]);
    assert_eq!(all.iter().filter(|(opcode, _)| *opcode == Opcode::Channel).count(), 1000 + 2);
}

#[test]
fn packets_behind_the_end_of_their_connection_are_kept() {
    let message = || from_client(publish(Some("a"), b"on", vec![Property::MessageExpiryInterval(1)]));
    check_round_trip(&events([
        (0, 1, open()),
        (0, 1, connect("dev-1", ProtocolVersion::V5)),
        (0, 1, message()),
        (0, 1, EventKind::Close(CloseCause::Fault)),
        (0, 1, message()),
    ]));
}

#[test]
fn every_cut_is_an_error_that_names_the_byte_and_what_stands_before_can_be_had() {
    let events = session();
    let file = write(&events);
    for end in 0..file.len() {
        let error = read(&file[..end]).expect_err("cut");
        assert_eq!(error.kind, FileErrorKind::Truncated, "cut at {end}: {error}");
        assert!(matches!(error.place, FilePlace::Byte(byte) if byte <= end as u64), "cut at {end}: {error}");
        if let Ok((reader, some)) = recover(&file[..end]) {
            assert!(some.is_empty() || some == events, "cut at {end}");
            assert_eq!(reader.head().entries, some.len() as u64);
            assert_eq!(reader.head().name.as_deref(), Some("orders"));
        }
    }
    expect!["byte 373: chunk: the file ends in the middle: the chunk that begins here has 2143 bytes, the file 1000"]
        .assert_eq(&read(&file[..1000]).unwrap_err().to_string());
}

#[test]
fn a_cut_file_gives_what_is_whole_when_it_is_asked_to() {
    let events = long_session();
    let file = write(&events);
    let (reader, some) = recover(&file[..file.len() / 2]).unwrap();
    assert_eq!((some.len(), reader.head().state), (22, Some(RecordingState::Interrupted)));
    assert_eq!(some, events[..22]);
    let notes = reader.notes();
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].starts_with("the file is damaged, and events were taken up to there: byte 1073041: chunk: "),
        "{}",
        notes[0]
    );
    // Nothing is missing where only the summary is.
    let (reader, all) = recover(&file[..file.len() - 1]).unwrap();
    assert_eq!((all.len(), reader.head().state), (events.len(), Some(RecordingState::Complete)));
    assert!(reader.damage().is_some());
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_no_wrong_event_is_given() {
    let events = session();
    let file = write(&events);
    for byte in (0..file.len()).step_by(5) {
        let mut damaged = file.clone();
        damaged[byte] ^= 1 << (byte % 8);
        let error = McapReader::open(Cursor::new(&damaged)).map(drop).expect_err("flipped");
        let _ = error.to_string();
        if let Ok((_, some)) = recover(&damaged) {
            assert!(some.is_empty() || some == events, "byte {byte}: {error}");
        }
    }
}

/// A file that says it has these records between its beginning and its end.
fn file_of(data: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    put_record(Opcode::Header, &mut file, |content| {
        content.text("");
        content.text("someone else");
    });
    data(&mut file);
    put_record(Opcode::DataEnd, &mut file, |content| content.u32(0));
    put_record(Opcode::Footer, &mut file, |content| content.bytes(&[0; 20]));
    file.extend_from_slice(&MAGIC);
    file
}

fn put_channel(out: &mut Vec<u8>, id: u16, schema: &str, encoding: &str) {
    put_record(Opcode::Schema, out, |content| {
        content.u16(id);
        content.text(schema);
        content.text("jsonschema");
        content.text("{}");
    });
    put_record(Opcode::Channel, out, |content| {
        content.u16(id);
        content.u16(id);
        content.text(&format!("/topic-{id}"));
        content.text(encoding);
        content.map([]);
    });
}

fn put_message(out: &mut Vec<u8>, channel: u16, data: &[u8]) {
    put_record(Opcode::Message, out, |content| {
        content.u16(channel);
        content.bytes(&[0; 20]);
        content.bytes(data);
    });
}

fn put_chunk(out: &mut Vec<u8>, compression: &str, len: u64, packed: &[u8]) {
    put_record(Opcode::Chunk, out, |content: &mut Content<'_>| {
        content.bytes(&[0; 16]);
        content.u64(len);
        content.u32(0);
        content.text(compression);
        content.u64(packed.len() as u64);
        content.bytes(packed);
    });
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

const MARK: &[u8] = br#"{"t_ms":1,"kind":"MARK","label":"m"}"#;

#[test]
fn files_of_other_programs_are_taken_as_far_as_the_schema_is_ours() {
    let ours = |out: &mut Vec<u8>| {
        put_channel(out, 1, SCHEMA_NAME, "json");
        put_channel(out, 2, "sensor_msgs/Imu", "cdr");
        put_message(out, 1, MARK);
        put_message(out, 2, b"\0\0");
        put_message(out, 2, b"\0\0");
    };
    let mut inside = Vec::new();
    ours(&mut inside);
    let files = [
        file_of(ours),
        file_of(|out| put_chunk(out, "", inside.len() as u64, &inside)),
        file_of(|out| put_chunk(out, "lz4", inside.len() as u64, &lz4(&inside))),
        file_of(|out| {
            put_record(Opcode::Attachment, out, |content| content.bytes(b"anything"));
            out.extend_from_slice(b"\x90\x01\0\0\0\0\0\0\0x");
            ours(out);
        }),
    ];
    for (file, has_attachment) in files.iter().zip([false, false, false, true]) {
        let reader = McapReader::open(Cursor::new(file)).unwrap();
        let mut notes = reader.notes();
        assert_eq!(reader.into_events().collect::<Result<Vec<_>, _>>().unwrap().len(), 1);
        assert_eq!(notes.len(), if has_attachment { 2 } else { 1 });
        expect!["left out: 2 messages on channels without the schema mockforge.mqtt.Event (/topic-2)"]
            .assert_eq(&notes.remove(0));
    }
}

fn check_error(file: &[u8], kind: FileErrorKind, expected: Expect) {
    let error = read(file).expect_err("it is not right");
    expected.assert_eq(&error.to_string());
    assert_eq!(error.kind, kind, "{error}");
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    use FileErrorKind::{Invalid, Truncated, Unsupported};
    check_error(
        b"{\"events\":[]}",
        Invalid,
        expect!["byte 0: this is not an MCAP file: it does not begin as one"],
    );
    check_error(b"", Truncated, expect!["byte 0: the file ends here, in the middle"]);
    check_error(
        b"\x89MCAP1\r\n",
        Unsupported,
        expect![[r#"byte 0: MCAP of version "1" is not supported, this program reads "0""#]],
    );
    check_error(
        &file_of(|out| put_channel(out, 1, "other", "json")),
        Unsupported,
        expect![[r#"there is no recording in it: no channel has the schema "mockforge.mqtt.Event""#]],
    );
    check_error(
        &file_of(|out| put_chunk(out, "zstd", 5, b"12345")),
        Unsupported,
        expect![[
            r#"byte 37: chunk: compression "zstd" is not supported, this program reads "lz4" and ""; tools that write MCAP can write it so"#
        ]],
    );
    check_error(
        &file_of(|out| {
            put_record(Opcode::Metadata, out, |content| {
                content.text("mockforge.mqtt.session");
                content.map([("version", "2")]);
            });
        }),
        Unsupported,
        expect!["byte 37: version: version 2 is not supported, this program reads version 1"],
    );
    check_error(
        &file_of(|out| {
            put_record(Opcode::Metadata, out, |content| {
                content.text("mockforge.mqtt.session");
                content.map([("started_at", "yesterday")]);
            });
        }),
        Invalid,
        expect![
            "byte 37: started_at: failed to parse four digit integer as year: invalid digit, expected 0-9 but got y"
        ],
    );
    check_error(
        &file_of(|out| {
            put_channel(out, 1, SCHEMA_NAME, "json");
            put_message(out, 1, MARK);
            put_message(out, 1, br#"{"t_ms":0,"kind":"MARK"}"#);
        }),
        Invalid,
        expect!["byte 196: events[1].t_ms: 0.000000 is before the event before it at 1.000000"],
    );
    check_error(
        &file_of(|out| {
            put_channel(out, 1, SCHEMA_NAME, "json");
            put_message(out, 1, b"{\"t_ms\":1,\"topic\":\"a\",\"qos\":9}");
        }),
        Invalid,
        expect!["byte 129: events[0].qos: 9 is not 0, 1 or 2"],
    );
}

#[test]
fn lengths_that_lie_are_errors_before_they_cost_memory() {
    use FileErrorKind::{Invalid, Truncated};
    let giant = (1_u64 << 62).to_le_bytes();
    let mut inside = Vec::new();
    put_channel(&mut inside, 1, SCHEMA_NAME, "json");
    put_message(&mut inside, 1, MARK);
    check_error(
        &file_of(|out| {
            out.push(Opcode::Message as u8);
            out.extend_from_slice(&giant);
        }),
        Truncated,
        expect![
            "byte 37: message: the file ends in the middle: the message that begins here has 4611686018427387904 bytes, the file 96"
        ],
    );
    check_error(
        &file_of(|out| {
            let mut lying = inside.clone();
            lying.push(Opcode::Message as u8);
            lying.extend_from_slice(&giant);
            put_chunk(out, "lz4", lying.len() as u64, &lz4(&lying));
        }),
        Invalid,
        expect!["byte 37: chunk: a record in it has 4611686018427387904 bytes, and there are 0"],
    );
    // A gigabyte announced, nothing of it there.
    check_error(
        &file_of(|out| {
            let mut lying = inside.clone();
            lying.push(Opcode::Message as u8);
            lying.extend_from_slice(&(1_u64 << 30).to_le_bytes());
            put_chunk(out, "lz4", 1 << 40, &lz4(&lying));
        }),
        Invalid,
        expect!["byte 37: chunk: there is less in it than it announces"],
    );
    // Compressed to a 255th: what is not announced is not unpacked.
    check_error(
        &file_of(|out| {
            put_chunk(out, "lz4", inside.len() as u64, &lz4(&[&inside[..], &[0; 10 << 20]].concat()))
        }),
        Invalid,
        expect!["byte 37: chunk: there is more in it than it announces"],
    );
    check_error(
        &file_of(|out| put_chunk(out, "lz4", 50, b"\x04\x22\x4d\x18")),
        Invalid,
        expect!["byte 37: chunk: there is less in it than it announces"],
    );
    check_error(
        &file_of(|out| put_chunk(out, "lz4", 50, b"12345")),
        Invalid,
        expect!["byte 37: chunk: it cannot be decompressed: what is compressed ends too early"],
    );
    check_error(
        &file_of(|out| put_chunk(out, "lz4", 50, b"\x04\x22\x4d\x18\0\0\0\0\0\0\0\0\0\0\0\0")),
        Invalid,
        expect!["byte 37: chunk: it cannot be decompressed: version 0 of LZ4 frames is not known"],
    );
    check_error(
        &file_of(|out| put_record(Opcode::Metadata, out, |content| content.bytes(&[0; (1 << 20) + 1]))),
        Invalid,
        expect!["byte 37: metadata: 1048577 bytes; there are at most 1048576"],
    );
    check_error(
        &file_of(|out| put_record(Opcode::Chunk, out, |content| content.u8(1))),
        Invalid,
        expect!["byte 37: chunk: it does not say how it is compressed"],
    );
    check_error(
        &file_of(|out| {
            let mut nested = Vec::new();
            put_chunk(&mut nested, "", inside.len() as u64, &inside);
            put_chunk(out, "", nested.len() as u64, &nested);
        }),
        Invalid,
        expect!["byte 37: chunk: no chunk has its place in a chunk"],
    );
}

#[test]
fn a_file_that_is_cut_within_its_first_chunk_is_not_recovered_as_nothing() {
    let file = write(&session());
    let mut refused = 0;
    for cut in 0..file.len() {
        match recover(&file[..cut]) {
            Ok((_, some)) => assert!(!some.is_empty(), "cut at {cut}"),
            Err(error) => {
                refused += u32::from(error.reason.ends_with("; no whole chunk of events stands before it"));
            }
        }
    }
    assert!(refused > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_events_survive(kinds in proptest::collection::vec(crate::recording::record::tests::kind(20), 0..8)) {
        let mut all = vec![(0, 1, open())];
        // Random bytes are no packet; whatever the connection speaks, a PINGREQ is one.
        all.extend(kinds.into_iter().map(|kind| match kind {
            EventKind::Packet { direction, .. } => EventKind::Packet { direction, bytes: Bytes::from_static(b"\xc0\0") },
            other => other,
        }).map(|kind| (1, 1, kind)));
        check_round_trip(&events(all));
    }

    #[test]
    fn damaged_files_never_panic(
        cut in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let events = session();
        let mut file = write(&events);
        for (index, byte) in changes {
            let index = index.index(file.len());
            file[index] = byte;
        }
        file.truncate(cut.index(file.len() + 1));
        file.extend(tail);
        let _ = read(&file);
        if let Ok((_, some)) = recover(&file) {
            prop_assert!(some.is_empty() || some == events);
        }
    }

    #[test]
    fn arbitrary_records_never_panic(
        records in proptest::collection::vec((0_u8..20, proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
        packed in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut inside = Vec::new();
        put_channel(&mut inside, 0, SCHEMA_NAME, "json");
        for (opcode, content) in records {
            inside.push(opcode);
            inside.extend_from_slice(&(content.len() as u64).to_le_bytes());
            inside.extend(content);
        }
        let files = [
            file_of(|out| out.extend_from_slice(&inside)),
            file_of(|out| put_chunk(out, "", inside.len() as u64, &inside)),
            file_of(|out| put_chunk(out, "lz4", inside.len() as u64, &lz4(&inside))),
            file_of(|out| put_chunk(out, "lz4", 100, &[b"\x04\x22\x4d\x18", &packed[..]].concat())),
        ];
        for file in files {
            let _ = read(&file);
            let _ = recover(&file);
        }
    }
}
