//! The store as a whole.

use std::{
    fs::{self, File},
    io::Cursor,
    time::Instant,
};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::recording::{
    CloseCause, ConnectionInfo, Direction, Event, EventFilter, EventKind, ReadOptions, RecordingFormat,
    RecordingSource, RecordingState,
    sample::{self, connack, connect, from_client, publish},
};

fn open(folder: &TempDir) -> Store {
    Store::open(StoreOptions::new(folder.path())).unwrap()
}

fn spec(name: &str) -> RecordingSpec {
    RecordingSpec { name: Some(name.to_owned()), ..RecordingSpec::new(RecordingSource::broker()) }
}

fn packet(len: usize) -> EventKind {
    // Does not compress.
    let mut state = len as u32 | 1;
    let bytes: Vec<u8> = (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect();
    EventKind::Packet { direction: Direction::ClientToServer, bytes: bytes.into() }
}

fn read(store: &Store, id: &str, from_seq: u64) -> Result<Vec<Event>, StoreError> {
    store.events(id, from_seq).unwrap().collect()
}

/// A recording of `count` small packets.
fn record(store: &Store, name: &str, count: u64) -> RecordingInfo {
    let writer = store.begin(spec(name)).unwrap();
    for index in 0..count {
        writer.append(Duration::from_micros(index), 1, packet(40)).unwrap();
    }
    writer.finish().unwrap()
}

/// A recording that an export gives back: with everything a client does at its beginning.
fn record_session(store: &Store, name: &str) -> RecordingInfo {
    let writer = store
        .begin(RecordingSpec { source: RecordingSource::proxy("mqtt://b:1883"), seed: Some(7), ..spec(name) })
        .unwrap();
    let v5 = crate::packet::ProtocolVersion::V5;
    let kinds = [
        EventKind::Open(Box::new(ConnectionInfo {
            transport: "tcp".to_owned(),
            ..ConnectionInfo::default()
        })),
        connect("dev", v5),
        connack(false, v5),
        from_client(publish(Some("a/b"), b"{\"n\":1}", vec![])),
        from_client(publish(Some("a/b"), b"\xff\0", vec![])),
        from_client(publish(Some("big"), &[7; 200_000], vec![])),
        EventKind::Raw { direction: Direction::ClientToServer, bytes: Bytes::from_static(b"\xff\xff") },
        EventKind::Close(CloseCause::ServerFin),
    ];
    for (index, kind) in (1..).zip(kinds) {
        writer.append(Duration::from_nanos(index * 1_000_003), 1, kind).unwrap();
    }
    writer.append(Duration::from_secs(1), 0, EventKind::Mark("end".to_owned())).unwrap();
    writer.finish().unwrap()
}

#[test]
fn what_was_recorded_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let recorded = record_session(&store, "orders");
    let events = read(&store, &recorded.id, 1).unwrap();
    assert_eq!((recorded.state, recorded.events, recorded.packets), (RecordingState::Complete, 9, 5));
    assert_eq!(recorded.duration, Duration::from_secs(1));
    drop(store);
    let store = open(&folder);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&recorded));
    assert_eq!(store.find("orders").unwrap(), recorded);
    assert_eq!(store.find(&recorded.id.to_lowercase()).unwrap(), recorded);
    assert_eq!(read(&store, &recorded.id, 1).unwrap(), events);
}

#[test]
fn nothing_goes_to_the_blobs_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let writer = store.begin(spec("large")).unwrap();
    for len in [10, 16 << 10, 4000, 16 << 10, 20 << 10, 1 << 20, 3, 100_000] {
        writer.append(Duration::ZERO, 1, packet(len)).unwrap();
    }
    let info = writer.finish().unwrap();
    drop(store);
    let blobs = folder.path().join("store").join("blobs");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
    assert_eq!(read(&open(&folder), &info.id, 1).unwrap().len(), 8);
}

#[test]
fn reading_may_begin_at_any_event() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let writer = store.begin(spec("long")).unwrap();
    for index in 0..600_u64 {
        writer
            .append(Duration::from_micros(index), 1, packet(if index % 100 == 50 { 60_000 } else { 70 }))
            .unwrap();
    }
    let info = writer.finish().unwrap();
    let all = read(&store, &info.id, 1).unwrap();
    for from in [0, 1, 2, 50, 51, 52, 53, 151, 152, 333, 599, 600, 601, 9999] {
        let expected: Vec<&Event> = all.iter().filter(|event| event.seq >= from).collect();
        let events = read(&store, &info.id, from).unwrap();
        assert_eq!(events.iter().collect::<Vec<_>>(), expected, "from {from}");
    }
}

#[test]
fn a_recording_that_goes_on_can_be_read_as_far_as_it_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let writer = store.begin(spec("live")).unwrap();
    for index in 1..=100 {
        writer.append(Duration::from_micros(index), 1, packet(10)).unwrap();
    }
    writer.wait_durable(100);
    assert_eq!(read(&store, "live", 91).unwrap().len(), 10);
    let info = store.find("live").unwrap();
    assert_eq!((info.state, info.events), (RecordingState::Recording, 100));
    assert!(matches!(store.delete(&info.id), Err(StoreError::StillRecording { .. })));
    writer.finish().unwrap();
}

#[test]
fn names_are_unique_and_what_is_not_there_is_answered_with_what_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let error = |result: Result<RecordingInfo, StoreError>| result.unwrap_err().to_string();
    assert_eq!(error(store.find("x")), "no recording \"x\"; there are no recordings");
    record(&store, "orders", 1);
    record(&store, "alarms", 1);
    assert_eq!(error(store.find("order")), "no recording \"order\"; there is orders, alarms");
    let taken = store.begin(spec("orders")).map(drop).unwrap_err();
    assert!(matches!(taken, StoreError::AlreadyExists { name } if name == "orders"));
    for bad in ["", "a/b", "a\nb", &"x".repeat(201)] {
        assert!(matches!(store.begin(spec(bad)).map(drop), Err(StoreError::InvalidName { .. })), "{bad:?}");
    }
    let id = store.find("alarms").unwrap().id;
    for bad in [&id, &id.to_ascii_lowercase()] {
        let refused = store.begin(spec(bad)).map(drop).unwrap_err().to_string();
        assert!(refused.contains("must not read as an id"), "{refused}");
    }
    let unnamed = |store: &Store| {
        let spec = RecordingSpec::new(RecordingSource::broker());
        store.begin(spec).unwrap().finish().unwrap().name
    };
    let (first, second) = (unnamed(&store), unnamed(&store));
    assert!(first.starts_with("recording-2"), "{first}");
    assert_ne!(first, second);
}

#[test]
fn deleting_frees_the_name_and_removes_the_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let kept = record(&store, "kept", 500);
    let writer = store.begin(spec("gone")).unwrap();
    for _ in 0..600 {
        writer.append(Duration::ZERO, 1, packet(5000)).unwrap();
    }
    let gone = writer.finish().unwrap();
    assert!(store.inner.database().unwrap().blocks.len() > 2 * 256);
    store.delete("gone").unwrap();
    assert!(matches!(store.find(&gone.id), Err(StoreError::NotFound { .. })));
    record(&store, "gone", 3);
    // Part of it may still be there; opening finds it.
    drop(store);
    let store = open(&folder);
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(read(&store, &kept.id, 1).unwrap().len(), 500);
    let blocks = store.inner.database().unwrap().blocks;
    while blocks.len() > 20 {
        // The thread works in the background while it is asked for nothing.
        std::thread::yield_now();
    }
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let second = Store::open(StoreOptions::new(folder.path()));
    assert!(matches!(second, Err(StoreError::Locked { .. })), "{second:?}");
    drop(store);
    open(&folder);
}

#[test]
fn a_damaged_store_is_moved_aside_and_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    let config = folder.path().join("store").join("conf");
    fs::write(&config, b"not what sled wrote there").unwrap();
    let store = open(&folder);
    let aside = store.moved_aside().expect("it was damaged").to_owned();
    assert_eq!(fs::read(aside.join("conf")).unwrap(), b"not what sled wrote there");
    assert_eq!(store.list().unwrap(), []);
    record(&store, "goes on", 1);
}

#[test]
fn a_reader_of_a_damaged_store_is_told_where_it_went_until_a_new_one_is_made() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    fs::write(folder.path().join("store").join("conf"), b"not what sled wrote there").unwrap();
    let reading = StoreOptions { for_reading: true, ..StoreOptions::new(folder.path()) };
    for _ in 0..2 {
        let Err(StoreError::MovedAside { moved_to, .. }) = Store::open(reading.clone()) else {
            panic!("an empty store is shown for a damaged one")
        };
        assert_eq!(moved_to, folder.path().join("store.damaged-1"));
    }
    assert!(folder.path().join("store.damaged-1").join("conf").exists());
    assert!(open(&folder).moved_aside().is_none());
    Store::open(reading).unwrap();
}

#[test]
fn a_reader_makes_no_store_and_names_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nowhere");
    let reading = StoreOptions { for_reading: true, ..StoreOptions::new(&path) };
    let error = Store::open(reading).err().unwrap().to_string();
    assert_eq!(error, format!("there is no store in {}", path.display()));
    assert!(!path.exists());
}

#[test]
fn a_snapshot_is_called_by_when_it_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let spec = RecordingSpec::new(RecordingSource::import());
    let writer = open(&folder).begin_snapshot(spec, Timestamp::UNIX_EPOCH).unwrap();
    let info = writer.finish().unwrap();
    assert_eq!(info.started_at, Timestamp::UNIX_EPOCH);
    assert!(info.name.starts_with("flight-2"), "{}", info.name);
}

#[test]
fn names_are_told_up_to_ten_and_the_rest_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    for number in 10..22 {
        record(&store, &format!("r-{number}"), 1);
    }
    let error = store.find("r-1").unwrap_err().to_string();
    assert!(error.ends_with(" and 2 more"), "{error}");
}

#[test]
fn a_damaged_block_is_named_with_recording_and_event() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let info = record(&store, "orders", 1000);
    let blocks = store.inner.database().unwrap().blocks;
    let id = parse_id(&info.id).unwrap();
    let mut third = blocks.get(block_key(id, 2)).unwrap().unwrap().to_vec();
    *third.last_mut().unwrap() ^= 1;
    blocks.insert(block_key(id, 2), third).unwrap();
    let mut reader = store.events(&info.id, 1).unwrap();
    let whole = reader.by_ref().take_while(Result::is_ok).count() as u64;
    let Err(error) = read(&store, &info.id, 1) else { panic!("{whole} events") };
    let StoreError::Damaged { recording, block, event, reason } = &error else { panic!("{error}") };
    assert_eq!((recording.as_str(), *block, *event), ("orders", 2, whole + 1));
    assert!(reason.starts_with("checksum"), "{reason}");
    assert!(error.is_damage());
    assert!(reader.next().is_none());
    blocks.remove(block_key(id, 2)).unwrap();
    assert!(read(&store, &info.id, 1).unwrap_err().is_damage());
}

#[test]
fn an_end_that_is_missing_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let info = record(&store, "orders", 1000);
    let blocks = store.inner.database().unwrap().blocks;
    let last = blocks.last().unwrap().unwrap().0;
    blocks.remove(last).unwrap();
    let error = read(&store, &info.id, 1).unwrap_err().to_string();
    assert!(error.contains("there should be 1000 events"), "{error}");
}

#[test]
fn closing_the_store_interrupts_what_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let writer = store.begin(spec("live")).unwrap();
    writer.append(Duration::ZERO, 1, packet(10)).unwrap();
    store.close();
    assert!(matches!(writer.append(Duration::ZERO, 1, packet(10)), Err(StoreError::Ended { .. })));
    assert!(matches!(store.list(), Err(StoreError::Closed)));
    assert!(matches!(writer.finish(), Err(StoreError::Closed)));
    drop(store);
    let info = open(&folder).find("live").unwrap();
    assert_eq!((info.state, info.events), (RecordingState::Interrupted, 1));
}

#[test]
fn a_store_is_closed_when_nobody_holds_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    assert!(is_released_within(&path, Duration::ZERO));
    let held = File::create(&path).unwrap();
    held.lock().unwrap();
    assert!(!is_released_within(&path, Duration::from_millis(5)));
    let waiting = std::thread::spawn(move || is_released_within(&path, RELEASE_WAIT));
    drop(held);
    assert!(waiting.join().unwrap());
}

#[test]
fn a_reader_that_goes_on_does_not_hold_up_closing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    record(&store, "orders", 500);
    let mut events = store.events("orders", 1).unwrap();
    events.next().unwrap().unwrap();
    let began = Instant::now();
    store.close();
    assert!(began.elapsed() < RELEASE_WAIT);
    assert_eq!(events.count(), 499);
}

#[test]
fn export_import_export_is_the_same_file() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = folders.each_ref().map(open);
    let recorded = record_session(&stores[0], "orders");
    let export = |store: &Store| {
        let mut file = Vec::new();
        store.export("orders", RecordingFormat::Json, EventFilter::default(), &mut file, |_| ()).unwrap();
        file
    };
    let file = export(&stores[0]);
    let imported = stores[1].import(Cursor::new(&file), &ReadOptions::default(), None).unwrap().info;
    assert_eq!(imported, recorded);
    assert_eq!(export(&stores[1]), file);
    assert_eq!(read(&stores[1], "orders", 1).unwrap(), read(&stores[0], "orders", 1).unwrap());
}

#[test]
fn an_import_is_kept_once_unless_a_name_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let recorded = record_session(&store, "orders");
    let mut file = Vec::new();
    store.export(&recorded.id, RecordingFormat::Json, EventFilter::default(), &mut file, |_| ()).unwrap();
    let again = store.import(Cursor::new(&file), &ReadOptions::default(), None).unwrap();
    assert_eq!((again.info, again.is_new), (recorded.clone(), false));
    assert_eq!(store.list().unwrap().len(), 1);
    let copy = store.import(Cursor::new(&file), &ReadOptions::default(), Some("copy")).unwrap();
    assert!(copy.is_new);
    let copy = copy.info;
    assert_eq!((copy.name.as_str(), &copy.sha256), ("copy", &recorded.sha256));
    assert_ne!(copy.id, recorded.id);
    let again = store.import(Cursor::new(&file), &ReadOptions::default(), Some("copy")).unwrap();
    assert_eq!((again.info, again.is_new), (copy.clone(), false));
    let edited = String::from_utf8(file).unwrap().replace("{\"n\":1}", "{\"n\":2}");
    let taken = store.import(Cursor::new(&edited), &ReadOptions::default(), Some("copy"));
    assert!(matches!(taken, Err(StoreError::AlreadyExists { .. })));
    let edited = store.import(Cursor::new(edited), &ReadOptions::default(), None).unwrap().info;
    assert_eq!(edited.name, "orders-2");
    assert_ne!(edited.sha256, recorded.sha256);
    assert_eq!(store.list().unwrap().len(), 3);
}

#[test]
fn a_file_that_is_there_already_stays_there_where_only_one_copy_has_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let recorded = record_session(&store, "orders");
    let mut file = Vec::new();
    store.export(&recorded.id, RecordingFormat::Json, EventFilter::default(), &mut file, |_| ()).unwrap();
    let size = store.check(&recorded.id).unwrap().bytes;
    store.close();
    drop(store);

    let retention = Retention { bytes: Some(size * 3 / 2), age: None };
    let store = Store::open(StoreOptions { retention, ..StoreOptions::new(folder.path()) }).unwrap();
    for name in [None, Some("orders")] {
        let again = store.import(Cursor::new(&file), &ReadOptions::default(), name).unwrap();
        assert_eq!((again.info.sha256, again.is_new), (recorded.sha256.clone(), false), "{name:?}");
        assert!(left(&store, &["orders"]), "{name:?}");
    }
    let longer = String::from_utf8(file).unwrap().replace("{\"n\":1}", "{\"n\":2}");
    let taken = store.import(Cursor::new(longer), &ReadOptions::default(), Some("orders"));
    assert!(matches!(taken, Err(StoreError::AlreadyExists { .. })), "{taken:?}");
    assert!(left(&store, &["orders"]));
}

#[test]
fn a_file_without_an_id_is_known_by_its_start_and_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let import = |file: &str| {
        let options = ReadOptions { format: Some(RecordingFormat::Csv), ..ReadOptions::default() };
        store.import(Cursor::new(file), &options, None).unwrap()
    };
    let row = "2026-11-22T12:00:00Z,a/b,on,0,false\n";
    let first = import(row);
    let again = import(row);
    assert_eq!((again.info.id, again.is_new), (first.info.id, false));
    assert!(import(&row.replace("12:00", "13:00")).is_new);
    assert!(import(&row.replace("on", "off")).is_new);
    assert_eq!(store.list().unwrap().len(), 3);
}

#[test]
fn an_import_has_the_passwords_of_its_file_only_if_asked_for() {
    const CONNECT: &[u8] = b"\x10\x1a\0\x04MQTT\x04\xc2\0\x3c\0\x01c\0\x03bob\0\x06secret";
    let client_sent = Direction::ClientToServer;
    let raw = |bytes| EventKind::Raw { direction: client_sent, bytes: Bytes::from_static(bytes) };
    for format in
        [RecordingFormat::Json, RecordingFormat::Ndjson, RecordingFormat::Mcap, RecordingFormat::Pcapng]
    {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let writer = store.begin(spec("secrets")).unwrap();
        let append = |connection, kind| writer.append(Duration::ZERO, connection, kind).unwrap();
        append(1, sample::open());
        append(1, EventKind::Packet { direction: client_sent, bytes: Bytes::from_static(CONNECT) });
        append(2, sample::open());
        append(2, raw(b"\x10\xff\xff\xff\xff\0\x04MQTT"));
        append(2, raw(b"secret"));
        writer.finish().unwrap();
        let mut file = Vec::new();
        store.export("secrets", format, EventFilter::default(), &mut file, |_| ()).unwrap();
        for keep_credentials in [false, true] {
            let options = ReadOptions { keep_credentials, ..ReadOptions::default() };
            let name = if keep_credentials { "with" } else { "without" };
            let imported = store.import(Cursor::new(&file), &options, Some(name)).unwrap();
            let told = read(&store, name, 1).unwrap();
            let secrets = told.iter().filter(|event| match &event.kind {
                EventKind::Packet { bytes, .. } | EventKind::Raw { bytes, .. } => {
                    bytes.windows(6).any(|six| six == b"secret")
                }
                _ => false,
            });
            assert_eq!(secrets.count(), if keep_credentials { 2 } else { 0 }, "{format:?}");
            let is_told = imported.notes.iter().any(|note| note.contains("replaced"));
            assert_eq!(is_told, !keep_credentials, "{format:?}: {:?}", imported.notes);
        }
    }
}

#[test]
fn a_file_that_is_damaged_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let file = r#"{"messages":[{"t_ms":0,"topic":"a","payload":"on"},{"t_ms":1,"topic":""}]}"#;
    let error = store.import(Cursor::new(file), &ReadOptions::default(), None).unwrap_err();
    assert!(error.is_damage());
    assert!(error.to_string().contains("messages[1].topic"), "{error}");
    assert_eq!(store.list().unwrap(), []);
    let good = file.replace("\"\"", "\"b\"");
    let info = store.import(Cursor::new(good), &ReadOptions::default(), None).unwrap().info;
    assert!(info.name.starts_with("import-"));
    assert_eq!((info.events, info.packets, info.source.kind.as_str()), (3, 2, "import"));
}

/// Whether these are left once the store has looked.
fn left(store: &Store, names: &[&str]) -> bool {
    // It looks between two commands, so before the last of these.
    for _ in 0..2 {
        store.begin(spec("barrier")).unwrap().abandon().unwrap();
    }
    let mut found: Vec<String> = store.list().unwrap().into_iter().map(|info| info.name).collect();
    found.sort();
    found == names
}

#[test]
fn the_oldest_recordings_go_when_there_are_too_many_bytes_and_none_that_is_being_made() {
    let folder = tempfile::tempdir().unwrap();
    let open =
        |retention| Store::open(StoreOptions { retention, ..StoreOptions::new(folder.path()) }).unwrap();
    let store = open(Retention::default());
    let fill = |writer: &RecordingWriter| {
        let mut draws = crate::draws::Draws::new(7);
        for _ in 0..40 {
            // What does not compress.
            let bytes: Vec<u8> = (0..125).flat_map(|_| draws.next_u64().to_le_bytes()).collect();
            let kind = EventKind::Packet { direction: Direction::ClientToServer, bytes: bytes.into() };
            writer.append(Duration::ZERO, 1, kind).unwrap();
        }
    };
    for name in ["a", "b", "c"] {
        let writer = store.begin(spec(name)).unwrap();
        fill(&writer);
        writer.finish().unwrap();
    }
    assert!(left(&store, &["a", "b", "c"]));
    store.close();
    drop(store);

    // Two of the three have room; the end of a command is when it looks.
    let store = open(Retention { bytes: Some(100_000), age: None });
    let running = store.begin(spec("running")).unwrap();
    assert!(left(&store, &["b", "c", "running"]));
    fill(&running);
    running.wait_durable(40);
    store.begin(spec("next")).unwrap().finish().unwrap();
    assert!(left(&store, &["c", "next", "running"]));
    running.finish().unwrap();
    store.close();
    drop(store);

    let store = open(Retention { bytes: None, age: Some(Duration::ZERO) });
    assert!(left(&store, &[]));
}
