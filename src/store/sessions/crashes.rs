//! What becomes of the sessions' store of a process that is killed, or whose file is cut off.
//!
//! Each test has a few rounds; `MOCKFORGE_CRASH_ROUNDS=100` asks for more, and
//! `MOCKFORGE_CRASH_SEED` for other ones.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Command as Process, Stdio},
};

use super::{
    tests::{Changer, Draws, blobs, commit, describe},
    *,
};

/// Set for a child process: the folder of its store, and how many batches have become durable there.
const CHILD_FOLDER: &str = "MOCKFORGE_TEST_SESSIONS";
const CHILD_BATCHES: &str = "MOCKFORGE_TEST_BATCHES";
/// So that most of what is gathered gets to the records.
const WRITES_MAX: usize = 300;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

fn seed() -> u64 {
    number("MOCKFORGE_CRASH_SEED", 1)
}

fn open(folder: &Path) -> (SessionStore, Restored) {
    SessionStore::open_gathering(folder, WRITES_MAX).unwrap()
}

/// Not a test by itself: the child of those below. Commits batches until it is killed, and says which are durable.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let mut changer = Changer::new(seed());
    let before = number(CHILD_BATCHES, 0);
    for _ in 0..before {
        changer.batch();
    }
    let (store, _) = open(Path::new(&folder));
    println!("begins");
    for batch in before + 1.. {
        commit(&store, changer.batch());
        println!("durable {batch}");
    }
}

/// Has a child commit batches in `folder`, after as many that have been there before, and kills it at a moment that is
/// drawn; how many it said are durable.
fn kill_one(folder: &Path, batches: u64, draws: &mut Draws) -> u64 {
    let mut child = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::sessions::crashes::child_that_commits_until_it_is_killed", "--nocapture"])
        .env(CHILD_FOLDER, folder)
        .env(CHILD_BATCHES, batches.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The test harness prints before the first line, on the same one.
    lines.by_ref().find(|line| line.ends_with("begins")).expect("it begins to commit");
    let mut durable = batches;
    let mut take = |line: String| {
        if let Some(batch) = line.strip_prefix("durable ").and_then(|batch| batch.parse().ok()) {
            durable = batch;
        }
    };
    let wanted = draws.below(30) as usize;
    lines.by_ref().take(wanted).for_each(&mut take);
    // A moment of its own, in the midst of whatever it is doing.
    std::thread::sleep(std::time::Duration::from_micros(draws.below(20_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    lines.for_each(&mut take);
    durable
}

#[test]
fn kill_costs_nothing_that_was_durable_and_leaves_batches_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut draws = Draws(seed() ^ 0x5e55);
    let mut changer = Changer::new(seed());
    let mut batches = 0;
    for round in 0..number("MOCKFORGE_CRASH_ROUNDS", 5) {
        let durable = kill_one(folder.path(), batches, &mut draws);
        while batches < durable {
            changer.batch();
            batches += 1;
        }
        let (store, restored) = open(folder.path());
        assert_eq!(store.moved_aside(), None, "round {round}");
        store.close().unwrap();
        let there = describe(&restored);
        // The batch that was under way may be there as well, as a whole.
        if there != describe(&changer.model.restored()) {
            changer.batch();
            batches += 1;
        }
        assert_eq!(there, describe(&changer.model.restored()), "round {round}: after batch {durable}");
        assert_eq!(blobs(folder.path()), 0);
    }
}

#[test]
fn a_store_whose_file_was_cut_off_is_as_it_once_was_or_is_moved_aside() {
    let mut draws = Draws(seed() ^ 0xc07);
    let whole = tempfile::tempdir().unwrap();
    let durable = kill_one(whole.path(), 0, &mut draws);
    let durable = kill_one(whole.path(), durable, &mut draws);
    let mut changer = Changer::new(seed());
    let mut once = vec![describe(&changer.model.restored())];
    for _ in 0..=durable {
        changer.batch();
        once.push(describe(&changer.model.restored()));
    }
    let db = whole.path().join("sessions").join("db");
    let len = fs::metadata(&db).unwrap().len();
    let (mut moved_aside, rounds) = (0, number("MOCKFORGE_CRASH_ROUNDS", 5));
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        let sessions = folder.path().join("sessions");
        fs::create_dir(&sessions).unwrap();
        for entry in fs::read_dir(whole.path().join("sessions")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), sessions.join(entry.file_name())).unwrap();
            }
        }
        let kept = draws.below(len);
        let file = File::options().write(true).open(sessions.join("db")).unwrap();
        file.set_len(kept).unwrap();
        let is_padded = draws.below(3) == 0;
        if is_padded {
            // As a file system may leave it that had written down the length alone.
            file.set_len(len).unwrap();
        }
        drop(file);
        let what = format!("round {round}: cut at {kept} of {len}, padded: {is_padded}");
        println!("{what}");
        let (store, restored) = open(folder.path());
        moved_aside += u64::from(store.moved_aside().is_some());
        assert!(once.contains(&describe(&restored)), "{what}");
        let mut next = Changer::new(seed() + 1);
        if !restored.is_empty() {
            continue;
        }
        for _ in 0..20 {
            commit(&store, next.batch());
        }
        store.close().unwrap();
        assert_eq!(describe(&open(folder.path()).1), describe(&next.model.restored()), "{what}");
    }
    println!("{moved_aside} of {rounds} stores were moved aside");
}
