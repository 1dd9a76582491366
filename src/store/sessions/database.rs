//! The database of sessions: what is in its records, and what is on its way there.

use std::{
    collections::BTreeSet,
    fs::File,
    iter::Peekable,
    ops::{Bound, Range},
    path::Path,
};

use sled::IVec;

use super::{
    contents::Contents,
    record::{self, CONTENTS, FORMAT, REDO, VERSION},
    redo::{self, Left, Write, Writes},
    state::State,
};
use crate::store::{
    StoreError,
    folder::{self, OpenError, guard},
};

// How much is written between two syncs.
//
// sled keeps what it was given whole over a power cut if less than a segment of its log (2 MiB) lies between
// them: when it is opened it looks for holes in the last two, and a segment is used again once what replaced
// its pages is a whole one back. It also writes pages anew for a change in them, and moves others to free segments,
// so nothing bounds its log for certain. With these numbers it was 1.4 MB at most, in some 48,000 writes of
// queued messages of 150 and 3,900 bytes, and mostly below 0.3; with 64 parts, 400 records and 400 parts
// removed it was up to 3.5.
const PARTS_AT_ONCE: usize = 24;
const PARTS_REMOVED_AT_ONCE: u64 = 16;
const RECORDS_AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = 32 << 10;

const NO_CONTENTS: &str = "it does not say how many records it has";

/// sled, with the file that is to be synced.
pub struct Database {
    db: sled::Db,
    file: File,
    contents: Contents,
}

impl Database {
    /// Opens the database in `folder`, or makes it, and reads what batches have left. All there was has to be there.
    pub fn open(folder: &Path) -> Result<(Self, Left), OpenError> {
        Self::open_then(folder, |database| {
            let state = State::read(folder)?;
            if database.db.is_empty() {
                if state.is_some() {
                    return Err(StoreError::Corrupted("it is empty, and has not been so before".to_owned()));
                }
                database.write(
                    &mut [
                        (VERSION.into(), Some(FORMAT.to_be_bytes()[..].into())),
                        (CONTENTS.into(), Some(database.contents.encode())),
                    ]
                    .into_iter(),
                )?;
                sync_folders(folder)?;
            }
            database.check_version(folder)?;
            database.check_contents(state.as_ref())?;
            let left = database.read_left()?;
            // Parts of a batch that failed are removed before the end of a process that says that it is closed.
            let found = State::closed(&database.contents);
            if let Some(State::Closed { .. }) = state
                && (state.as_ref() != Some(&found) || !left.torn.is_empty())
            {
                return Err(StoreError::Corrupted("it is not what it was when it was closed".to_owned()));
            }
            State::Open.write(folder)?;
            Ok(left)
        })
    }

    /// The same for one that this process had open, and has checked then.
    pub fn reopen(folder: &Path) -> Result<(Self, Left), OpenError> {
        Self::open_then(folder, |database| {
            database.check_version(folder)?;
            let kept = database.kept_contents()?;
            database.contents = kept.ok_or_else(|| StoreError::Corrupted(NO_CONTENTS.to_owned()))?;
            database.read_left()
        })
    }

    fn open_then(
        folder: &Path,
        read: impl FnOnce(&mut Self) -> Result<Left, StoreError>,
    ) -> Result<(Self, Left), OpenError> {
        // What a process that was killed had written may not be on disk yet, and sled is about to build on it.
        if let Ok(file) = File::open(folder.join("db")) {
            file.sync_data().map_err(StoreError::io("syncing the store"))?;
        }
        let db = folder::open(folder)?;
        let read = guard(|| {
            let file = File::open(folder.join("db")).map_err(StoreError::io("opening the store's file"))?;
            let mut database = Self { db: db.clone(), file, contents: Contents::default() };
            let left = read(&mut database)?;
            Ok((database, left))
        });
        read.map_err(|error| {
            folder::close(folder, db);
            error.into()
        })
    }

    /// Makes durable that the database is closed: nothing is written to it after that.
    pub fn note_closed(&self, folder: &Path) -> Result<(), StoreError> {
        State::closed(&self.contents).write(folder)
    }

    fn check_version(&self, folder: &Path) -> Result<(), StoreError> {
        let version = self.db.get(VERSION)?;
        let version = version.and_then(|version| Some(u32::from_be_bytes(version.as_ref().try_into().ok()?)));
        match version {
            Some(1..=FORMAT) => Ok(()),
            Some(found) if found > FORMAT => {
                Err(StoreError::NewerFormat { path: folder.to_owned(), found, known: FORMAT })
            }
            _ => Err(StoreError::Corrupted("it does not say which format it has".to_owned())),
        }
    }

    /// Has all records counted and summed up, and compares that with what is kept of it.
    fn check_contents(&mut self, state: Option<&State>) -> Result<(), StoreError> {
        let mut found = Contents::default();
        for entry in self.db.iter() {
            let (key, value) = entry?;
            if !matches!(&key[..], VERSION | CONTENTS) && key.first() != Some(&REDO) {
                found.add(&key, &value);
            }
        }
        match self.kept_contents()? {
            Some(kept) if (kept.records, kept.sum) == (found.records, found.sum) => self.contents = kept,
            Some(kept) => {
                return Err(StoreError::Corrupted(format!("{found} are there, and there were {kept}")));
            }
            None if state.is_some() => return Err(StoreError::Corrupted(NO_CONTENTS.to_owned())),
            // Made before there was this record.
            None => {
                let first = self.db.scan_prefix([REDO]).next().transpose()?;
                let first = first.map_or(0, |(key, _)| record::first_number(&key));
                self.contents = Contents { parts: first..first, ..found };
                self.write(&mut [(CONTENTS.into(), Some(self.contents.encode()))].into_iter())?;
            }
        }
        Ok(())
    }

    fn kept_contents(&self) -> Result<Option<Contents>, StoreError> {
        let Some(value) = self.db.get(CONTENTS)? else { return Ok(None) };
        Contents::decode(&value).map(Some).ok_or_else(|| StoreError::Corrupted(NO_CONTENTS.to_owned()))
    }

    /// Reads the parts, of which those have to be there that are known of.
    fn read_left(&mut self) -> Result<Left, StoreError> {
        let left = redo::read(&self.db, self.contents.parts.start)?;
        if left.parts.start != self.contents.parts.start || left.parts.end < self.contents.parts.end {
            return Err(StoreError::Corrupted("changes are missing".to_owned()));
        }
        self.contents.parts.end = left.parts.end;
        Ok(left)
    }

    /// Makes writes durable, all of them or none.
    fn write(&self, writes: &mut dyn Iterator<Item = Write>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch)?;
        // sled's flush alone only starts writing back.
        self.db.flush()?;
        self.file.sync_data().map_err(StoreError::io("syncing the store"))
    }

    /// Makes the parts of a batch durable: none of it counts before the last.
    pub fn write_parts(&mut self, parts: &[IVec]) -> Result<(), StoreError> {
        let mut numbers = self.contents.parts.end..;
        for parts in parts.chunks(PARTS_AT_ONCE) {
            let keys = numbers.by_ref().map(|number| record::key(REDO, number));
            self.write(&mut parts.iter().cloned().zip(keys).map(|(part, key)| (key, Some(part))))?;
        }
        self.contents.parts.end += parts.len() as u64;
        Ok(())
    }

    /// Removes parts of which everything has got to the records.
    pub fn remove_moved_parts(&mut self, parts: Range<u64>) -> Result<(), StoreError> {
        let contents = Contents { parts: parts.end..self.contents.parts.end, ..self.contents.clone() };
        let removals = parts.map(|number| (record::key(REDO, number), None));
        self.write(&mut removals.chain([(CONTENTS.into(), Some(contents.encode()))]))?;
        self.contents = contents;
        Ok(())
    }

    /// Removes the last parts, which are of a batch that was not written as a whole.
    pub fn remove_torn_parts(&mut self, parts: Range<u64>) -> Result<(), StoreError> {
        // The last first, so that there never is a hole.
        let mut end = parts.end;
        while parts.start < end {
            let start = parts.start.max(end.saturating_sub(PARTS_REMOVED_AT_ONCE));
            self.write(&mut (start..end).map(|number| (record::key(REDO, number), None)))?;
            end = start;
        }
        self.contents.parts.end = self.contents.parts.end.min(parts.start);
        Ok(())
    }

    /// Brings some writes to the records, each of another one. What is to be removed is often not there.
    pub fn write_records(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut contents = self.contents.clone();
        let mut needed = Vec::with_capacity(writes.len() + 1);
        for (key, value) in writes {
            let before = self.db.get(key)?;
            if before == *value {
                continue;
            }
            if let Some(before) = before {
                contents.remove(key, &before);
            }
            if let Some(value) = value {
                contents.add(key, value);
            }
            needed.push((key.clone(), value.clone()));
        }
        if needed.is_empty() {
            return Ok(());
        }
        needed.push((CONTENTS.into(), Some(contents.encode())));
        self.write(&mut needed.into_iter())?;
        self.contents = contents;
        Ok(())
    }

    /// What is there under keys that begin with `prefix`, once `pending` has got to the records.
    pub fn scan<'a>(
        &self,
        prefix: &'a [u8],
        pending: &'a Writes,
    ) -> impl Iterator<Item = Result<(IVec, IVec), StoreError>> + use<'a> {
        let newer = from(pending, prefix);
        Merged { older: self.db.scan_prefix(prefix).peekable(), newer: newer.peekable() }
    }
}

/// Makes durable that there are the database and the folders that were made for it.
fn sync_folders(folder: &Path) -> Result<(), StoreError> {
    for folder in folder.ancestors().take(2) {
        sync_folder(folder).map_err(StoreError::io("syncing the folder of the store"))?;
    }
    if let Some(above) = folder.ancestors().nth(2) {
        // It need not be ours to read, and has mostly been there for long.
        let _ = sync_folder(above);
    }
    Ok(())
}

/// Makes durable which files are in it.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Those whose keys begin with `prefix`.
fn from<'a>(writes: &'a Writes, prefix: &'a [u8]) -> impl Iterator<Item = (&'a IVec, &'a Option<IVec>)> {
    let range = writes.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
    range.take_while(move |(key, _)| key.starts_with(prefix))
}

/// Two sources in the order of their keys; the newer one decides.
struct Merged<O: Iterator, N: Iterator> {
    older: Peekable<O>,
    newer: Peekable<N>,
}

impl<'a, O, N> Iterator for Merged<O, N>
where
    O: Iterator<Item = sled::Result<(IVec, IVec)>>,
    N: Iterator<Item = (&'a IVec, &'a Option<IVec>)>,
{
    type Item = Result<(IVec, IVec), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let order = match (self.older.peek(), self.newer.peek()) {
                (Some(Ok((older, _))), Some((newer, _))) => older.cmp(newer),
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (_, None) | (Some(Err(_)), _) => std::cmp::Ordering::Less,
            };
            if order.is_lt() {
                return Some(self.older.next()?.map_err(StoreError::from));
            }
            if order.is_eq() {
                self.older.next();
            }
            if let (key, Some(value)) = self.newer.next()? {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}

/// What batches have changed that is not in the records yet.
///
/// It is gathered, so that what is soon gone again never gets there; when that is enough, it is brought to the
/// records piece by piece while more is gathered, and then the parts that said so are removed.
#[derive(Default)]
pub struct Pending {
    gathered: Writes,
    gathered_bytes: usize,
    /// How many writes are gathered.
    writes_max: usize,
    /// What is being brought to the records.
    moving: Writes,
    /// Parts that say so, and are removed then.
    moving_parts: Range<u64>,
    /// How much of both there was at first.
    work: u64,
    /// Parts that say what is gathered.
    parts: Range<u64>,
}

impl Pending {
    /// What is gathered before it is brought to the records: so many bytes of parts, or so many writes.
    const BYTES: usize = 8 << 20;
    pub const WRITES: usize = 50_000;

    pub fn new(left: Left, writes_max: usize) -> Self {
        let parts = left.parts.end - left.parts.start;
        let gathered_bytes = usize::try_from(parts).unwrap_or(usize::MAX).saturating_mul(record::PART_LEN);
        Self { gathered_bytes, gathered: left.writes, parts: left.parts, writes_max, ..Self::default() }
    }

    /// The number of the next part.
    pub fn next_part(&self) -> u64 {
        self.parts.end
    }

    /// A batch has become durable, in as many parts.
    pub fn add(&mut self, writes: Vec<Write>, parts: usize) {
        self.gathered_bytes += parts * record::PART_LEN;
        self.parts.end += parts as u64;
        self.gathered.extend(writes);
    }

    /// Removes what no record should be.
    pub fn erase(&mut self, keys: Vec<IVec>) {
        self.gathered.extend(keys.into_iter().map(|key| (key, None)));
    }

    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.parts.is_empty() && !self.is_moving()
    }

    pub fn is_moving(&self) -> bool {
        self.work_left() > 0
    }

    /// How full what is gathered is, of one.
    fn fullness(&self) -> f64 {
        let bytes = self.gathered_bytes as f64 / Self::BYTES as f64;
        bytes.max(self.gathered.len() as f64 / self.writes_max as f64)
    }

    /// Whether some is to be moved before more is gathered: all is moved when the room is full.
    pub fn is_behind(&self) -> bool {
        if !self.is_moving() {
            return self.fullness() >= 1.0;
        }
        let done = 1.0 - self.work_left() as f64 / self.work as f64;
        done < self.fullness()
    }

    fn work_left(&self) -> u64 {
        self.moving.len() as u64 + self.moving_parts.end - self.moving_parts.start
    }

    /// Has what is gathered be brought to the records.
    pub fn begin_to_move(&mut self) {
        debug_assert!(!self.is_moving(), "one after the other");
        self.moving = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let next = self.parts.end;
        self.moving_parts = std::mem::replace(&mut self.parts, next..next);
        self.work = self.work_left();
    }

    /// The next piece of what is to be brought to the records.
    pub fn next_piece(&mut self) -> Vec<Write> {
        let mut piece = Vec::new();
        let mut bytes = 0;
        while piece.len() < RECORDS_AT_ONCE && bytes < BYTES_AT_ONCE {
            let Some((key, value)) = self.moving.pop_first() else { break };
            bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
            piece.push((key, value));
        }
        piece
    }

    /// The parts that have got to the records, and are not needed any more, once everything has.
    pub fn next_parts(&mut self) -> Range<u64> {
        let end = self.moving_parts.end.min(self.moving_parts.start + PARTS_REMOVED_AT_ONCE);
        let parts = self.moving_parts.start..end;
        self.moving_parts.start = end;
        parts
    }

    /// The keys that begin with `prefix`.
    pub fn keys(&self, database: &Database, prefix: &[u8]) -> Result<Vec<IVec>, StoreError> {
        let mut keys = BTreeSet::new();
        for entry in database.scan(prefix, &self.moving) {
            keys.insert(entry?.0);
        }
        for (key, value) in from(&self.gathered, prefix) {
            if value.is_some() {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        Ok(keys.into_iter().collect())
    }
}
