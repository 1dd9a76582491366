//! What becomes of a store whose process is killed, or whose files are cut off.
//!
//! Each test has a few rounds; `MOCKFORGE_CRASH_ROUNDS=100` asks for more, and
//! `MOCKFORGE_CRASH_SEED` for other ones.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Child, Command as Process, Stdio},
};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::recording::{Direction, Event, EventKind, RecordingSource, RecordingState};

/// Set for a child process: the folder of its store.
const CHILD_FOLDER: &str = "MOCKFORGE_TEST_STORE";
/// What a crash may cost.
const FLUSH_INTERVAL: Duration = Duration::from_millis(20);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Draws that are the same for the same seed.
struct Draws(u64);

impl Draws {
    fn new(test: u64) -> Self {
        Self(number("MOCKFORGE_CRASH_SEED", 1).wrapping_mul(1_000_003) ^ test)
    }

    /// Below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}

/// What event `seq` of recording `name` holds: nothing that another one does, and it does not
/// compress. One in a hundred has several blocks.
fn kind(name: &str, seq: u64) -> EventKind {
    let mut draws = Draws(crc32fast::hash(name.as_bytes()).into());
    draws.0 ^= seq << 32;
    let len = if seq.is_multiple_of(97) { 50_000 } else { 8 + draws.below(300) };
    let bytes: Bytes = (0..len.div_ceil(8)).flat_map(|_| draws.below(u64::MAX).to_le_bytes()).collect();
    EventKind::Packet { direction: Direction::ClientToServer, bytes }
}

fn open(folder: &Path) -> Store {
    Store::open(StoreOptions { flush_interval: FLUSH_INTERVAL, ..StoreOptions::new(folder) }).unwrap()
}

/// A recording of a thousand events.
fn record(store: &Store, name: &str) -> Result<RecordingInfo, StoreError> {
    let spec = RecordingSpec { name: Some(name.to_owned()), ..RecordingSpec::new(RecordingSource::broker()) };
    let writer = store.begin(spec)?;
    for seq in 1..=1000 {
        writer.append(Duration::from_micros(seq), 1, kind(name, seq))?;
    }
    writer.finish()
}

fn begin(store: &Store, name: &str) -> RecordingWriter {
    let spec = RecordingSpec { name: Some(name.to_owned()), ..RecordingSpec::new(RecordingSource::broker()) };
    store.begin(spec).unwrap()
}

/// Not a test by itself: the child of those below. Records until it is killed, and says what is
/// durable.
#[test]
fn child_that_records_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let store = open(Path::new(&folder));
    let name = format!("killed-{}", store.list().unwrap().len());
    let writer = begin(&store, &name);
    println!("recording {name}");
    let mut next = 1;
    loop {
        for _ in 0..500 {
            let seq = writer.append(Duration::from_micros(next), 1, kind(&name, next)).unwrap();
            assert_eq!(seq, next);
            next += 1;
        }
        println!("durable {}", writer.durable_seq());
    }
}

fn spawn(folder: &Path) -> Child {
    Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::crashes::child_that_records_until_it_is_killed", "--nocapture"])
        .env(CHILD_FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Has a child record in `folder` and kills it at a moment that is drawn; what its recording is
/// called, and the last event it said was durable.
fn kill_one(folder: &Path, draws: &mut Draws) -> (String, u64) {
    let mut child = spawn(folder);
    // The test harness prints before the first line, on the same one.
    let said = |line: &str, word: &str| line.split_once(word).map(|(_, rest)| rest.to_owned());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let name = lines.by_ref().find_map(|line| said(&line, "recording ")).expect("it begins to record");
    let mut durable = 0;
    let mut take = |line: String| {
        if let Some(seq) = said(&line, "durable ").and_then(|seq| seq.parse().ok()) {
            durable = seq;
        }
    };
    let wanted = draws.below(40) as usize;
    lines.by_ref().take(wanted).for_each(&mut take);
    // A moment of its own, in the midst of whatever it is doing.
    std::thread::sleep(Duration::from_micros(draws.below(30_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    lines.for_each(&mut take);
    (name, durable)
}

/// Reads as much as there is; panics over an event that was not recorded like that.
fn read_checked(store: &Store, name: &str) -> (u64, Option<StoreError>) {
    let (mut count, mut ended) = (0, None);
    let events = match store.events(name, 1) {
        Ok(events) => events,
        Err(error) => return (0, Some(error)),
    };
    for event in events {
        match event {
            Ok(Event { seq, at, connection, kind: found }) => {
                count += 1;
                assert_eq!((seq, connection), (count, 1), "of {name}");
                assert_eq!(at, Duration::from_micros(seq), "event {seq} of {name}");
                assert!(found == kind(name, seq), "event {seq} of {name} is a wrong one");
            }
            Err(error) => ended = Some(error),
        }
    }
    (count, ended)
}

#[test]
fn kill_costs_nothing_that_was_durable_and_hurts_no_other_recording() {
    let folder = tempfile::tempdir().unwrap();
    let mut draws = Draws::new(1);
    let mut before: Vec<RecordingInfo> = Vec::new();
    for round in 0..number("MOCKFORGE_CRASH_ROUNDS", 4) {
        let (name, durable) = kill_one(folder.path(), &mut draws);
        let store = open(folder.path());
        assert_eq!(store.moved_aside(), None, "round {round}");
        let info = store.find(&name).unwrap();
        assert_eq!(
            (info.state, info.sha256.as_ref().map(String::len)),
            (RecordingState::Interrupted, Some(64))
        );
        assert!(info.events >= durable, "round {round}: {} of at least {durable} events", info.events);
        let (count, ended) = read_checked(&store, &name);
        assert!(ended.is_none(), "round {round}: {ended:?}");
        assert_eq!((count, Duration::from_micros(count)), (info.events, info.duration));
        for earlier in &before {
            assert_eq!(&store.find(&earlier.id).unwrap(), earlier, "round {round}");
        }
        before.push(info);
        // Reading all of them each time would take longer with each round.
        let any = draws.below(before.len() as u64) as usize;
        assert_eq!(read_checked(&store, &before[any].name).0, before[any].events, "round {round}");
        // Space is used again, so the log has holes like that of any store of some age.
        if before.len() > 6 {
            let gone = before.remove(draws.below(6) as usize);
            store.delete(&gone.id).unwrap();
            begin(&store, &gone.name).finish().unwrap();
        }
        assert_eq!(fs::read_dir(folder.path().join("store").join("blobs")).unwrap().count(), 0);
    }
}

/// Copies the files of a store.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The files below `folder` that have content.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_store_whose_files_were_cut_off_opens_and_gives_no_wrong_event() {
    let mut draws = Draws::new(2);
    let whole = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(kill_one(whole.path(), &mut draws).0);
    }
    let mut moved_aside = 0;
    let rounds = number("MOCKFORGE_CRASH_ROUNDS", 4);
    for round in 0..rounds {
        let folder: TempDir = tempfile::tempdir().unwrap();
        copy(whole.path(), folder.path());
        let files = files(&folder.path().join("store"));
        // Most of the time the log, which is what grows.
        let log = files.iter().find(|path| path.ends_with("db")).unwrap();
        let path = if draws.below(4) > 0 { log } else { &files[draws.below(files.len() as u64) as usize] };
        let file = File::options().write(true).open(path).unwrap();
        let len = file.metadata().unwrap().len();
        let kept = draws.below(len);
        file.set_len(kept).unwrap();
        let is_padded = draws.below(3) == 0;
        if is_padded {
            // As a file system may leave it that had written down the length alone.
            file.set_len(len).unwrap();
        }
        drop(file);
        let what = format!("round {round}: {} cut at {kept} of {len}, padded: {is_padded}", path.display());
        println!("{what}");
        let store = open(folder.path());
        moved_aside += u64::from(store.moved_aside().is_some());
        for info in store.list().unwrap() {
            let (count, ended) = read_checked(&store, &info.name);
            println!("  {} {} {} events, {count} read, {ended:?}", info.name, info.state, info.events);
            assert!(ended.is_some() || count == info.events, "{what}: {count} of {} events", info.events);
        }
        if let Err(error) = record(&store, "next") {
            // That is found out now, and not once more.
            assert!(matches!(error, StoreError::Failed { .. } | StoreError::Corrupted(_)), "{what}: {error}");
            println!("  {error}");
            store.close();
            let store = open(folder.path());
            assert!(store.moved_aside().is_some(), "{what}");
            record(&store, "next").unwrap();
            store.close();
        } else {
            store.close();
        }
        let store = open(folder.path());
        let (count, ended) = read_checked(&store, "next");
        assert!(ended.is_none() && count == 1000, "{what}: {count}, {ended:?}");
    }
    println!("{moved_aside} of {rounds} stores were moved aside");
}
