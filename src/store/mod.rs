//! What is kept on disk, in sled: the only room that names it. Recordings are kept here, the broker's
//! sessions and retained messages in [`sessions`].
//!
//! Reads run on the caller's thread. Writes go through one thread, behind a bounded channel, because
//! an insert may stall for tens of milliseconds. sled keeps its promise under four rules, measured
//! with simulated power cuts:
//!
//! 1. The cache, segment size and flush interval are the ones below (the default cache is 1 GiB).
//! 2. Values are small (see [`block`](crate::recording::block)), so that none leaves the log for
//!    the `blobs` folder, which is never synced.
//! 3. What must be durable is flushed, and then the file `db` is synced: a flush alone only starts
//!    writing back.
//! 4. Opening may panic on a damaged file. Such a store is moved aside, never deleted.
//!
//! There is a fixed set of trees: `recordings` (id → what is known, as JSON), `names` (name → id)
//! and `blocks` (id and block number → sealed block).

mod check;
mod edit;
mod error;
mod folder;
mod keeper;
mod pipe;
mod reader;
mod retention;
mod sessions;
mod transfer;
mod writer;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use jiff::Timestamp;
use tracing::{error, warn};

pub use self::{
    check::{Checked, Problem},
    edit::Edited,
    error::StoreError,
    reader::EventReader,
    retention::Retention,
    sessions::SessionStore,
    transfer::Imported,
    writer::{Backlog, RecordingWriter},
};
use self::{
    folder::{OpenError, REFUSING, RELEASE_WAIT, guard, is_released_within, last_moved_aside, move_aside},
    keeper::{Command, Keeper, Start, StartName},
    pipe::Pipe,
};
use crate::recording::{RecordingInfo, RecordingSpec};

/// Why a store that is marked so was moved aside.
const REFUSED: &str = "a recording could not be written to it";

/// Commands that wait for the store's thread; each waits for its answer, so this many callers.
const COMMANDS_MAX: usize = 256;

/// Names that are told when another is asked for.
const KNOWN_MAX: usize = 10;

/// How to open a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Folder, made if absent; the store lives in `store` under it.
    pub path: PathBuf,
    /// What a crash may cost of a recording. Zero makes everything durable before it is passed on.
    pub flush_interval: Duration,
    /// Bytes a recording may hold in memory before producers wait.
    pub recorder_memory: usize,
    pub retention: Retention,
    /// Opened for what is in it: a store that is found damaged is an error then, because an empty
    /// one in its place would pass for all there is, and none is made.
    pub for_reading: bool,
}

impl StoreOptions {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            flush_interval: Duration::from_millis(250),
            recorder_memory: 64 << 20,
            retention: Retention::default(),
            for_reading: false,
        }
    }

    /// Whether there is a store, be it one that was found damaged.
    pub fn is_there(&self) -> bool {
        let folder = self.folder();
        folder.exists() || last_moved_aside(&folder).is_some()
    }

    /// Where sled's files are.
    fn folder(&self) -> PathBuf {
        self.path.join("store")
    }
}

/// A handle on the store; clones share it. Closed when the last is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    options: StoreOptions,
    moved_aside: Option<PathBuf>,
    commands: SyncSender<Command>,
    live: Live,
    /// `None` once closed.
    database: Mutex<Option<Database>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The recordings of which more is known than is stored, by id: those being written, and those of which a
/// full disk did not take how they ended.
type Live = Arc<Mutex<HashMap<String, Arc<Pipe>>>>;

/// sled's trees.
#[derive(Clone)]
struct Database {
    db: sled::Db,
    recordings: sled::Tree,
    names: sled::Tree,
    blocks: sled::Tree,
    /// Counts the handles.
    handles: Arc<()>,
}

impl Store {
    /// Opens the store under `options.path`, or makes it.
    ///
    /// Recordings that a process left in state RECORDING become INTERRUPTED, with what had been
    /// flushed. A damaged store is moved aside and a new one made; [`moved_aside`](Self::moved_aside)
    /// says where. So is one that opens, once a recording has failed over what is damaged in it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process has it open; [`StoreError::Absent`] for a reader
    /// where there is none, and [`StoreError::MovedAside`] for one of a damaged store, until a new
    /// one is made; the file system's errors.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let folder = options.folder();
        if options.for_reading
            && !folder.exists()
            && let Some(moved_to) = last_moved_aside(&folder)
        {
            return Err(StoreError::MovedAside { path: folder, moved_to, reason: String::new() });
        }
        if options.for_reading && !folder.exists() {
            return Err(StoreError::Absent { path: options.path });
        }
        folder::make(&folder)?;
        let live = Live::default();
        let open = || open_recovered(&folder, &live, options.flush_interval, options.retention);
        let is_refusing = !options.for_reading && folder.join(REFUSING).exists();
        let opened = if is_refusing { Err(OpenError::Damaged(REFUSED.to_owned())) } else { open() };
        let ((database, keeper), moved_aside) = match opened {
            Ok(opened) => (opened, None),
            Err(OpenError::Refused(error)) => return Err(error.while_opening(options.path)),
            Err(OpenError::Damaged(reason)) => {
                let aside = move_aside(&folder)?;
                if options.for_reading {
                    return Err(StoreError::MovedAside { path: folder, moved_to: aside, reason });
                }
                error!(
                    store = %folder.display(), moved_to = %aside.display(), reason,
                    "THE STORE IS DAMAGED: it was moved aside, and a new one is made without its recordings"
                );
                folder::make(&folder)?;
                let opened = open()?;
                (opened, Some(aside))
            }
        };
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || keeper.run(&receiver))
            .map_err(StoreError::io("starting the store's thread"))?;
        let (database, thread) = (Mutex::new(Some(database)), Mutex::new(Some(thread)));
        Ok(Self { inner: Arc::new(Inner { options, moved_aside, commands, live, database, thread }) })
    }

    /// Where the store that was found damaged went.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.inner.moved_aside.as_deref()
    }

    /// All recordings by start time.
    pub fn list(&self) -> Result<Vec<RecordingInfo>, StoreError> {
        let database = self.inner.database()?;
        let mut infos = guard(|| database.infos())?;
        let live = lock(&self.inner.live);
        for info in &mut infos {
            if let Some(pipe) = live.get(&info.id) {
                *info = pipe.info();
            }
        }
        infos.sort_by(|a, b| (a.started_at, &a.id).cmp(&(b.started_at, &b.id)));
        Ok(infos)
    }

    /// The recording with this id, or else with this name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] names those that exist.
    pub fn find(&self, id_or_name: &str) -> Result<RecordingInfo, StoreError> {
        let database = self.inner.database()?;
        let id = id_or_name.to_ascii_uppercase();
        let by_name = || match database.names.get(id_or_name)? {
            Some(id) => database.info(&String::from_utf8_lossy(&id)),
            None => Ok(None),
        };
        let found = guard(|| match database.info(&id)? {
            Some(info) => Ok(Some(info)),
            None => by_name(),
        })?;
        let Some(info) = found else {
            return Err(guard(|| database.not_found(id_or_name))?);
        };
        Ok(lock(&self.inner.live).get(&info.id).map_or(info, |pipe| pipe.info()))
    }

    /// Begins a recording in state RECORDING.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when the name is taken.
    pub fn begin(&self, spec: RecordingSpec) -> Result<RecordingWriter, StoreError> {
        self.begin_with(Start::from_spec(spec))
    }

    /// Begins a recording of what has happened already, from `started_at` on; without a name it is called
    /// `flight-<date-time>`, after now.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when the name is taken.
    pub fn begin_snapshot(
        &self,
        spec: RecordingSpec,
        started_at: Timestamp,
    ) -> Result<RecordingWriter, StoreError> {
        let taken_at = || format!("flight-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S"));
        let name = spec.name.clone().map_or_else(|| StartName::Preferably(taken_at()), StartName::Exactly);
        self.begin_with(Start { name, started_at: Some(started_at), ..Start::from_spec(spec) })
    }

    fn begin_with(&self, start: Start) -> Result<RecordingWriter, StoreError> {
        let options = &self.inner.options;
        let (memory, durable) = (options.recorder_memory, options.flush_interval.is_zero());
        let start = Box::new(start);
        let pipe = self.inner.ask(|reply| Command::Begin { start, memory, durable, reply })?;
        Ok(RecordingWriter::new(self.inner.clone(), pipe))
    }

    /// Deletes a recording. Its space is used again; the file does not shrink.
    ///
    /// # Errors
    /// [`StoreError::StillRecording`] while it is in state RECORDING.
    pub fn delete(&self, id: &str) -> Result<(), StoreError> {
        let info = self.find(id)?;
        self.inner.ask(|reply| Command::Delete { id: info.id, reply })
    }

    /// The events from `from_seq` on, read piece by piece. Of a recording that goes on, those that
    /// are stored by the time the reader gets there.
    pub fn events(&self, id: &str, from_seq: u64) -> Result<EventReader, StoreError> {
        let info = self.find(id)?;
        EventReader::open(&self.inner.database()?, &info, from_seq)
    }

    /// Has every write refused from now on, as on a full disk.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self) {
        self.inner.commands.send(Command::RefuseWrites).expect("the store is open");
    }

    /// Makes everything durable and stops the thread; recordings still in state RECORDING become
    /// INTERRUPTED. Everything but `close` fails afterwards.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.options.path).finish_non_exhaustive()
    }
}

impl Inner {
    fn database(&self) -> Result<Database, StoreError> {
        lock(&self.database).clone().ok_or(StoreError::Closed)
    }

    /// Sends a command to the store's thread and waits for the answer.
    fn ask<T>(
        &self,
        command: impl FnOnce(SyncSender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = sync_channel(1);
        self.commands.send(command(reply)).map_err(|_| StoreError::Closed)?;
        answer.recv().map_err(|_| StoreError::Closed)?
    }

    fn close(&self) {
        let Some(thread) = lock(&self.thread).take() else { return };
        // Fails when the thread is gone already, which is what is wanted.
        let _ = self.commands.send(Command::Stop);
        // The last handle may go with an observer that the thread itself detaches.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        if thread.join().is_err() {
            error!("the store's thread panicked");
        }
        let Some(database) = lock(&self.database).take() else { return };
        // A reader that goes on keeps the database open.
        let is_last = Arc::strong_count(&database.handles) == 1;
        drop(database);
        if is_last && !is_released_within(&self.options.folder().join("db"), RELEASE_WAIT) {
            warn!("the store is closed, and its file still in use");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens the database, ends what a dead process left and so finds out what of it can be read.
fn open_recovered(
    folder: &Path,
    live: &Live,
    flush_interval: Duration,
    retention: Retention,
) -> Result<(Database, Keeper), OpenError> {
    let database = Database::open(folder)?;
    let recovered = guard(|| {
        let mut keeper = Keeper::new(database.clone(), folder, live.clone(), flush_interval, retention)?;
        keeper.recover()?;
        Ok(keeper)
    });
    match recovered {
        Ok(keeper) => Ok((database, keeper)),
        Err(error) => {
            folder::close(folder, database);
            Err(error.into())
        }
    }
}

impl Database {
    fn open(folder: &Path) -> Result<Self, OpenError> {
        let db = folder::open(folder)?;
        guard(|| {
            let (recordings, names) = (db.open_tree("recordings")?, db.open_tree("names")?);
            let blocks = db.open_tree("blocks")?;
            Ok(Self { db, recordings, names, blocks, handles: Arc::default() })
        })
        .map_err(OpenError::from)
    }

    fn info(&self, id: &str) -> Result<Option<RecordingInfo>, StoreError> {
        self.recordings.get(id)?.map(|json| parse_info(&json)).transpose()
    }

    fn infos(&self) -> Result<Vec<RecordingInfo>, StoreError> {
        self.recordings.iter().values().map(|json| parse_info(&json?)).collect()
    }

    fn not_found(&self, what: &str) -> Result<StoreError, StoreError> {
        let mut known: Vec<String> = self.infos()?.into_iter().map(|info| info.name).collect();
        let unlikeness = |name: &String| (strsim::jaro_winkler(name, what) * -1e6) as i64;
        known.sort_by_key(unlikeness);
        let more = known.len().saturating_sub(KNOWN_MAX);
        known.truncate(KNOWN_MAX);
        Ok(StoreError::NotFound { what: what.to_owned(), known, more })
    }
}

fn parse_info(json: &[u8]) -> Result<RecordingInfo, StoreError> {
    serde_json::from_slice(json)
        .map_err(|error| StoreError::Database(format!("what is known of a recording: {error}")))
}

/// The key of a recording's block: its id as 16 bytes, then the block's number from 0.
fn block_key(id: ulid::Ulid, block: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&id.to_bytes());
    key[16..].copy_from_slice(&block.to_be_bytes());
    key
}

fn parse_id(id: &str) -> Result<ulid::Ulid, StoreError> {
    ulid::Ulid::from_string(id).map_err(|error| StoreError::Database(format!("recording id {id:?}: {error}")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Panics are possible inside sled only, and no lock is held while it runs.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod tests;
