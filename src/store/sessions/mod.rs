//! Sessions and retained messages on disk, in a sled database of their own.
//!
//! A batch of what the broker changed is durable before its caller is told; how, is said in
//! [`database`] and [`redo`]. Everything is read once, when the store is opened, and what is in memory after
//! that is what has to be known to change it. One thread does all that, and may wait for the disk as
//! long as that takes: the broker takes one batch at a time.

mod anchor;
mod contents;
mod database;
mod index;
mod keeper;
mod loader;
mod record;
mod redo;
mod state;

use std::{
    collections::VecDeque,
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracing::error;

use self::{
    anchor::Anchor,
    database::{Database, Pending},
    index::Index,
    keeper::{Command, Keeper},
};
use super::{
    StoreError,
    folder::{self, OpenError, REFUSING, guard, is_released_within, move_aside},
    lock,
};
use crate::broker::{Batch, Restored};

/// Why a store that is marked so was moved aside.
const REFUSED: &str = "changes could not be written to it";

/// How long the thread may take to end: longer than it goes on with what cannot be written.
const CLOSE_WAIT: Duration = Duration::from_secs(15);

/// A handle on the store. Closed when it is dropped.
pub struct SessionStore {
    moved_aside: Option<PathBuf>,
    commands: Sender<Command>,
    failures: Arc<AtomicU64>,
    /// `None` once closed.
    thread: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
}

impl SessionStore {
    /// Opens the store in `sessions` under `path`, or makes it, and reads all there is.
    ///
    /// A damaged store is moved aside and a new one made; [`moved_aside`](Self::moved_aside) says where.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process has it open, [`StoreError::NewerFormat`] for one of a
    /// later version of this program; the file system's errors.
    pub fn open(path: &Path) -> Result<(Self, Restored), StoreError> {
        Self::open_gathering(path, Pending::WRITES)
    }

    /// `writes_max` are gathered before they are brought to the records.
    fn open_gathering(path: &Path, writes_max: usize) -> Result<(Self, Restored), StoreError> {
        let folder = path.join("sessions");
        make(&folder)?;
        let is_refusing = folder.join(REFUSING).exists();
        let open = || open(&folder, writes_max);
        let opened = if is_refusing { Err(OpenError::Damaged(REFUSED.to_owned())) } else { open() };
        let (opened, moved_aside) = match opened {
            Ok(opened) => (opened, None),
            Err(OpenError::Refused(error)) => return Err(error.while_opening(path.to_owned())),
            // Found damaged by a server that goes on with it.
            Err(OpenError::Damaged(_)) if !is_released_within(&folder.join("db"), Duration::ZERO) => {
                return Err(StoreError::Locked { path: folder });
            }
            Err(OpenError::Damaged(reason)) => {
                let aside = move_aside(&folder)?;
                error!(
                    store = %folder.display(), moved_to = %aside.display(), reason,
                    "THE STORE OF SESSIONS IS DAMAGED: it was moved aside, and a new one is made without its sessions \
                     and retained messages"
                );
                make(&folder)?;
                let opened = open()?;
                (opened, Some(aside))
            }
        };
        let Opened { database, index, pending, restored } = opened;
        let (commands, receiver) = channel();
        let failures = Arc::new(AtomicU64::new(0));
        let keeper = Keeper {
            folder,
            database: Some(database),
            index,
            pending,
            commands: receiver,
            waiting: VecDeque::new(),
            failures: Arc::clone(&failures),
            is_failing: false,
            gives_up_at: None,
            #[cfg(test)]
            refuses_writes: false,
        };
        let thread = std::thread::Builder::new()
            .name("sessions".to_owned())
            .spawn(move || keeper.run())
            .map_err(StoreError::io("starting the store's thread"))?;
        Ok((Self { moved_aside, commands, failures, thread: Mutex::new(Some(thread)) }, restored))
    }

    /// Whether there is a store under `path`.
    pub fn is_there(path: &Path) -> bool {
        path.join("sessions").exists()
    }

    /// Where the store that was found damaged went.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.moved_aside.as_deref()
    }

    /// Makes a batch durable, and then calls `on_done` on the store's thread. What cannot be written is tried
    /// again until it works; `on_done` is dropped without a call if the store is closed before.
    pub fn commit(&self, batch: Batch, on_done: impl FnOnce() + Send + 'static) {
        // Fails once the thread is gone, and drops what it was given.
        let _ = self.commands.send(Command::Commit { batch: Box::new(batch), on_done: Box::new(on_done) });
    }

    /// How many writes have failed since the store was opened.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Makes durable what was handed over, and stops the thread.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] if that did not work for some seconds, [`StoreError::Closed`] if the disk did not answer.
    pub fn close(&self) -> Result<(), StoreError> {
        let Some(thread) = lock(&self.thread).take() else { return Ok(()) };
        // Fails when the thread is gone already, which is what is wanted.
        let _ = self.commands.send(Command::Close);
        let patience_ends = Instant::now() + CLOSE_WAIT;
        while !thread.is_finished() {
            if Instant::now() >= patience_ends {
                error!(
                    "the disk does not answer: the last changes of sessions and retained messages may not be on it"
                );
                return Err(StoreError::Closed);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        thread.join().unwrap_or_else(|_| {
            error!("the thread of the sessions' store panicked");
            Err(StoreError::Closed)
        })
    }

    /// Has every write refused, as on a full disk, or not any more.
    #[cfg(test)]
    fn refuse_writes(&self, refuses: bool) {
        self.commands.send(Command::RefuseWrites(refuses)).expect("the store is open");
    }
}

impl Drop for SessionStore {
    fn drop(&mut self) {
        // It has been said in the log.
        let _ = self.close();
    }
}

impl fmt::Debug for SessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionStore").field("moved_aside", &self.moved_aside).finish_non_exhaustive()
    }
}

struct Opened {
    database: Database,
    index: Index,
    pending: Pending,
    restored: Restored,
}

/// Makes `folder` with a database in it that says what it is, unless it is there: a power cut on the way
/// leaves nothing of that name. sled does not sync all it writes when it makes one.
fn make(folder: &Path) -> Result<(), StoreError> {
    if folder.exists() {
        // Which is not to be a file.
        return folder::make(folder);
    }
    let begun = folder.with_extension("new");
    if !is_released_within(&begun.join("db"), Duration::ZERO) {
        return Err(StoreError::Locked { path: begun });
    }
    let failed = || StoreError::io("making the folder of the store");
    if begun.exists() {
        fs::remove_dir_all(&begun).map_err(failed())?;
    }
    folder::make(&begun)?;
    let (database, _) = Database::open(&begun)?;
    folder::close(&begun, database);
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(failed());
    for entry in fs::read_dir(&begun).map_err(failed())? {
        sync(&entry.map_err(failed())?.path())?;
    }
    sync(&begun)?;
    fs::rename(&begun, folder).map_err(failed())?;
    folder.parent().map_or(Ok(()), sync)
}

/// Opens the database in `folder` and reads it.
fn open(folder: &Path, writes_max: usize) -> Result<Opened, OpenError> {
    let (mut database, left) = Database::open(folder)?;
    let read = guard(|| {
        database.remove_torn_parts(left.torn.clone())?;
        loader::load(&database, &left.writes, Anchor::now())
    });
    match read {
        Ok(loaded) => {
            let mut pending = Pending::new(left, writes_max);
            pending.erase(loaded.stray);
            Ok(Opened { database, index: loaded.index, pending, restored: loaded.restored })
        }
        Err(error) => {
            folder::close(folder, database);
            Err(error.into())
        }
    }
}

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod tests;
