//! Any file, whatever its format.

use std::{io::Cursor, path::Path};

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::{
    packet::{Property, ProtocolVersion, QoS},
    recording::{
        CloseCause, Direction, Event, EventKind, InForce,
        sample::{self, connack, connect, events, from_client, from_server, identified, info, open, publish},
    },
};

/// One of each kind.
fn session() -> Vec<Event> {
    let qos_1 = identified(publish(Some("a/b"), b"{\"v\":1}", vec![]), QoS::AtLeastOnce, 4, false);
    let alias = |topic| publish(topic, b"\xff\0", vec![Property::TopicAlias(1)]);
    let EventKind::Packet { bytes: retained, .. } = from_client(publish(Some("kept"), b"1", vec![])) else {
        unreachable!("it makes packets")
    };
    events([
        (0, 0, EventKind::Anchor(info().started_at)),
        (0, 0, EventKind::State(Box::new(InForce { client_identifier: None, packet: retained }))),
        (0, 1, open()),
        (1, 1, connect("dev-1", ProtocolVersion::V5)),
        (2, 1, connack(false, ProtocolVersion::V5)),
        (1_203_412, 1, from_client(qos_1)),
        (1_203_500, 1, from_server(alias(Some("c")))),
        (1_203_600, 1, from_server(alias(None))),
        (1_203_600, 1, EventKind::Fault(Box::new(sample::fault("drop", "{}")))),
        (1_250_000, 0, EventKind::Mark("after\nwarm-up".to_owned())),
        (1_250_000, 0, EventKind::Gap { events: 3, bytes: 99 }),
        (1_260_000, 1, EventKind::Raw { direction: Direction::ClientToServer, bytes: vec![0xf0, 1].into() }),
        (61_000_100, 1, EventKind::Close(CloseCause::ClientFin)),
    ])
}

fn write(format: RecordingFormat) -> Vec<u8> {
    write_events(format, &session())
}

fn write_events(format: RecordingFormat, events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    let give = || Ok::<_, std::io::Error>(events.iter().cloned().map(Ok));
    write_recording(format, &mut out, &info(), give).unwrap();
    out
}

fn read(bytes: &[u8], options: &ReadOptions) -> Result<(FileHead, Vec<Event>), FileError> {
    let file = RecordingFile::open(Cursor::new(bytes), options)?;
    let head = file.head().clone();
    Ok((head, file.into_events()?.collect::<Result<_, _>>()?))
}

#[test]
fn formats_that_keep_everything_give_back_what_was_written() {
    let (head, _) = read(&write(RecordingFormat::Json), &ReadOptions::default()).unwrap();
    for format in
        [RecordingFormat::Json, RecordingFormat::Ndjson, RecordingFormat::Mcap, RecordingFormat::Pcapng]
    {
        let bytes = write(format);
        let (again, events) = read(&bytes, &ReadOptions::default()).unwrap();
        assert_eq!(events, session(), "{}", format.name());
        // How many there are is not known of a capture.
        assert_eq!(
            FileHead { entries: 0, ..again },
            FileHead { entries: 0, ..head.clone() },
            "{}",
            format.name()
        );
        assert_eq!(sniff(Cursor::new(&bytes), None).unwrap(), format);
    }
}

#[test]
fn a_recording_that_ends_before_its_connections_has_no_more_events_afterwards() {
    let events = &session()[..8];
    for format in
        [RecordingFormat::Json, RecordingFormat::Ndjson, RecordingFormat::Mcap, RecordingFormat::Pcapng]
    {
        let (_, again) = read(&write_events(format, events), &ReadOptions::default()).unwrap();
        assert_eq!(again, events, "{}", format.name());
    }
}

#[test]
fn content_says_the_format_and_names_only_where_it_does_not() {
    let sniffed = |content: &[u8], name: &str| match sniff(
        Cursor::new(content),
        RecordingFormat::of_path(Path::new(name)),
    ) {
        Ok(format) => format.name().to_owned(),
        Err(error) => format!("{:?}: {error}", error.kind),
    };
    let of: Vec<String> = [
        (&b"{\"version\": 1, \"messages\": []}"[..], "x.csv"),
        (b"\xef\xbb\xbf \n{\"version\": 1,\n\"events\": [", ""),
        (b"{\"version\": 1}\n", "x.json"),
        (b"{\"kind\": \"GAP\", \"events\": 3}\n{\"t_ms\"", ""),
        (b"{\"kind\": \"MOCK\", \"messages\": 3}", ""),
        (b"{\"a\": 1}", "x.json"),
        (b"{\n\"a\": {\"t_ms\": 1}\n}", "x.ndjson"),
        (b"{\"version\": 1, \"ev", "x.ndjson"),
        (b"{\"version\": 1, \"ev", "x.jsonl"),
        (b"{\"version\": 1, \"ev", "x.mcap"),
        (b"timestamp,topic,payload\n", "x.json"),
        (b"\x89MCAP0\r\n", "x.json"),
        (b"\x0a\x0d\x0d\x0a", ""),
        (b"\x4d\x3c\xb2\xa1", ""),
        (b"no comma\n", "x.csv"),
        (b"no comma\n1,2", ""),
        (b"", "x.csv"),
        (b"\x1f\x8b\x08", "x.json"),
        (b"PK\x03\x04", "x.json"),
        (b"\0,\0", ""),
    ]
    .into_iter()
    .map(|(content, name)| sniffed(content, name))
    .collect();
    expect![[r#"
        json
        json
        ndjson
        ndjson
        ndjson
        Unsupported: this is no recording: the object at its beginning has neither events, messages nor a t_ms
        Unsupported: this is no recording: the object at its beginning has neither events, messages nor a t_ms
        ndjson
        ndjson
        json
        csv
        mcap
        pcapng
        pcapng
        csv
        Unsupported: this is in none of the formats that are read: json, ndjson, mcap, pcapng, csv
        Truncated: the file is empty
        Unsupported: this is a gzip file: decompress it first
        Unsupported: this is a zip file: decompress it first
        Unsupported: this is in none of the formats that are read: json, ndjson, mcap, pcapng, csv
    "#]]
    .assert_eq(&(of.join("\n") + "\n"));
}

#[test]
fn a_format_that_is_asked_for_is_taken_at_its_word() {
    let options = ReadOptions { format: Some(RecordingFormat::Json), ..ReadOptions::default() };
    let error = read(&write(RecordingFormat::Csv), &options).unwrap_err();
    assert_eq!(error.to_string(), "line 1, column 1: expected '{', found 't'");
}

#[test]
fn formats_have_names_that_files_end_in() {
    for format in RecordingFormat::ALL {
        assert_eq!(RecordingFormat::from_name(format.name()), Some(format));
        assert_eq!(
            RecordingFormat::of_path(Path::new(&format!("a.b/X.{}", format.name().to_uppercase()))),
            Some(format)
        );
    }
    assert_eq!(RecordingFormat::of_path(Path::new("capture.pcap")), Some(RecordingFormat::Pcapng));
    for path in ["json", "a.txt", "a.json.gz", ""] {
        assert_eq!(RecordingFormat::of_path(Path::new(path)), None, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_any_reader_panic(
        at in any::<prop::sample::Index>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        recover in any::<bool>(),
    ) {
        let mut bytes = write(*at.get(&RecordingFormat::ALL));
        for (index, byte) in flips {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let options = ReadOptions { recover, ..ReadOptions::default() };
        let Ok(file) = RecordingFile::open(Cursor::new(&bytes), &options) else { return Ok(()) };
        let Ok(events) = file.into_events() else { return Ok(()) };
        let (mut seq, mut last) = (0, std::time::Duration::ZERO);
        let mut failed = false;
        for event in events {
            prop_assert!(!failed, "nothing comes behind an error");
            match event {
                Ok(event) => {
                    seq += 1;
                    prop_assert_eq!(event.seq, seq);
                    prop_assert!(event.at >= last);
                    last = event.at;
                }
                Err(_) => failed = true,
            }
        }
    }
}
