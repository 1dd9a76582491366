//! What becomes of a store whose files were damaged while nobody had it open.

use std::{collections::BTreeMap, fs};

use super::{
    tests::{Changer, Draws, commit, describe, open, session},
    *,
};

/// Does something to the files of a store.
type Damage = fn(&Path);

/// These leave nothing that could be read.
const RUINS: [(&str, Damage); 4] = [
    ("an empty db", |folder| cut(folder, 0.0)),
    ("no db", |folder| fs::remove_file(folder.join("db")).unwrap()),
    ("text", |folder| fs::write(folder.join("db"), "not a database\n".repeat(1_000)).unwrap()),
    ("garbage", |folder| fs::write(folder.join("db"), garbage(700_000)).unwrap()),
];

/// After these it may be that nothing is missing, where it hit what had been replaced.
const WOUNDS: [(&str, Damage); 7] = [
    ("half a db", |folder| cut(folder, 0.5)),
    ("a tenth of a db", |folder| cut(folder, 0.1)),
    ("all but the end", |folder| cut(folder, 0.97)),
    ("garbage at the beginning", |folder| overwrite(folder, 0.0)),
    ("garbage at a third", |folder| overwrite(folder, 0.33)),
    ("garbage in the middle", |folder| overwrite(folder, 0.5)),
    ("garbage at nine tenths", |folder| overwrite(folder, 0.9)),
];

fn garbage(len: usize) -> Vec<u8> {
    let mut draws = Draws(1);
    (0..len).map(|_| draws.below(256) as u8).collect()
}

/// How much of the file was ever written.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn cut(folder: &Path, part: f64) {
    let db = folder.join("db");
    let mut bytes = fs::read(&db).unwrap();
    bytes.truncate((used(&bytes) as f64 * part) as usize);
    fs::write(db, bytes).unwrap();
}

/// An eighth of what is used, from `part` of it on.
fn overwrite(folder: &Path, part: f64) {
    let db = folder.join("db");
    let mut bytes = fs::read(&db).unwrap();
    let used = used(&bytes);
    let begin = (used as f64 * part) as usize;
    let end = used.min(begin + used / 8);
    bytes[begin..end].copy_from_slice(&garbage(end - begin));
    fs::write(db, bytes).unwrap();
}

/// Copies the files of a store, as a process that is killed leaves them if it is open.
fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    fs::create_dir(to.path().join("sessions")).unwrap();
    for (name, bytes) in files(&from.join("sessions")) {
        fs::write(to.path().join("sessions").join(name), bytes).unwrap();
    }
    to
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect()
}

/// Whether it was moved aside, with its files, and there is a new one that works; what was restored otherwise.
fn opened(folder: &Path, what: &str) -> Option<String> {
    let damaged = files(&folder.join("sessions"));
    let (store, restored) = open(folder);
    let Some(aside) = store.moved_aside() else {
        store.close().unwrap();
        return Some(describe(&restored));
    };
    assert_eq!(aside, folder.join("sessions.damaged-1"), "{what}");
    let kept = files(aside);
    // sled makes a new snapshot when it opens a database.
    for name in damaged.keys().filter(|name| !name.starts_with("snap.")) {
        assert!(kept.contains_key(name), "{what}: {name} is gone");
    }
    assert!(restored.is_empty(), "{what}");
    commit(&store, Batch { sessions: vec![(1, session("new"))], ..Batch::default() });
    store.close().unwrap();
    let (store, restored) = open(folder);
    assert_eq!(restored.sessions.len(), 1, "{what}");
    store.close().unwrap();
    None
}

/// The store with some batches in it, and what was there after each of them.
fn filled(folder: &Path, writes_max: usize) -> (SessionStore, Vec<String>) {
    let (store, _) = SessionStore::open_gathering(folder, writes_max).unwrap();
    let mut changer = Changer::new(writes_max as u64);
    let mut once = vec![describe(&changer.model.restored())];
    for _ in 0..150 {
        commit(&store, changer.batch());
        once.push(describe(&changer.model.restored()));
    }
    (store, once)
}

/// With most in the records, with all in the parts of batches, and with both.
const GATHERED: [usize; 3] = [1, 300, Pending::WRITES];

#[test]
fn what_was_closed_is_whole_or_is_moved_aside() {
    for writes_max in GATHERED {
        let whole = tempfile::tempdir().unwrap();
        let (store, once) = filled(whole.path(), writes_max);
        store.close().unwrap();
        let mut moved_aside = 0;
        for (what, damage) in RUINS.iter().chain(&WOUNDS) {
            let folder = copied(whole.path());
            damage(&folder.path().join("sessions"));
            let restored = opened(folder.path(), what);
            moved_aside += usize::from(restored.is_none());
            if let Some(restored) = restored {
                assert!(WOUNDS.iter().any(|(wound, _)| wound == what), "{what} is not damage");
                assert!(Some(&restored) == once.last(), "{what}, {writes_max} gathered: some is missing");
            }
        }
        assert!(moved_aside > RUINS.len(), "no wound was found");
    }
}

#[test]
fn what_was_killed_is_as_it_once_was_or_is_moved_aside() {
    for writes_max in GATHERED {
        let whole = tempfile::tempdir().unwrap();
        let (_store, once) = filled(whole.path(), writes_max);
        assert!(
            opened(copied(whole.path()).path(), "a copy").as_ref() == once.last(),
            "it is no damage by itself"
        );
        for (what, damage) in RUINS.iter().chain(&WOUNDS) {
            let folder = copied(whole.path());
            damage(&folder.path().join("sessions"));
            if let Some(restored) = opened(folder.path(), what) {
                assert!(WOUNDS.iter().any(|(wound, _)| wound == what), "{what} is not damage");
                assert!(once[1..].contains(&restored), "{what}, {writes_max} gathered: some is missing");
            }
        }
    }
}

#[test]
fn a_store_that_is_put_back_as_it_was_is_damaged_where_it_was_closed() {
    for writes_max in GATHERED {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = filled(folder.path(), writes_max);
        store.close().unwrap();
        let earlier = copied(folder.path());
        let (store, _) = open(folder.path());
        commit(&store, Batch { sessions: vec![(1_000_000, session("later"))], ..Batch::default() });
        store.close().unwrap();
        let (sessions, earlier) = (folder.path().join("sessions"), earlier.path().join("sessions"));
        let state = fs::read(sessions.join("state")).unwrap();
        fs::remove_dir_all(&sessions).unwrap();
        fs::rename(&earlier, &sessions).unwrap();
        fs::write(sessions.join("state"), state).unwrap();
        assert_eq!(opened(folder.path(), "an earlier db"), None);
    }
}

#[test]
fn a_store_of_before_is_taken_and_guarded_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let (store, once) = filled(folder.path(), 300);
    store.close().unwrap();
    let sessions = folder.path().join("sessions");
    let Ok(db) = folder::open(&sessions) else { panic!("the database does not open") };
    db.remove(record::CONTENTS).unwrap();
    folder::close(&sessions, db);
    fs::remove_file(sessions.join("state")).unwrap();
    assert_eq!(opened(folder.path(), "a store of before").as_ref(), once.last());
    // As if there had been no word of it, but for what is written down now.
    let Ok(db) = folder::open(&sessions) else { panic!("the database does not open") };
    let (key, _) = db.scan_prefix([record::SESSION]).next().unwrap().unwrap();
    db.remove(key).unwrap();
    folder::close(&sessions, db);
    assert_eq!(opened(folder.path(), "a store without one of its sessions"), None);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sessions"), b"").unwrap();
    let error = SessionStore::open(folder.path()).unwrap_err();
    let expected = format!("making the folder {}: ", folder.path().join("sessions").display());
    assert!(error.to_string().starts_with(&expected), "{error}");
}
