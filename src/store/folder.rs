//! A folder that is a sled database: how it is opened, and what becomes of it when it is damaged.

use std::{
    fs::{self, File, TryLockError},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::StoreError;

/// For sled to end what it has under way when a database is closed: writes of megabytes, on a disk that is busy.
pub const RELEASE_WAIT: Duration = Duration::from_secs(10);

/// A file in the folder of a database that can be read as far as that goes, but writes come upon what is damaged.
pub const REFUSING: &str = "damaged";

/// Why a database was not opened.
pub enum OpenError {
    Refused(StoreError),
    Damaged(String),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupted(reason) | StoreError::Database(reason) => Self::Damaged(reason),
            other => Self::Refused(other),
        }
    }
}

impl From<OpenError> for StoreError {
    /// Of a database that is not to be replaced, or has been already.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(error) => error,
            OpenError::Damaged(reason) => Self::Corrupted(reason),
        }
    }
}

impl From<sled::Error> for OpenError {
    fn from(error: sled::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// Makes the folder of a database, and those above it.
pub fn make(folder: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(folder).map_err(|error| StoreError::Folder { path: folder.to_owned(), error })
}

/// Opens the database in `folder`, or makes it.
pub fn open(folder: &Path) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(64 << 20)
        .segment_size(2 << 20)
        .flush_every_ms(Some(100));
    remove_unfinished(folder);
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
        .map_err(|panic| OpenError::Damaged(panic_text(&*panic)))?;
    match opened {
        // sled has no error of its own for this.
        Err(sled::Error::Io(error)) if error.to_string().starts_with("could not acquire lock") => {
            Err(OpenError::Refused(StoreError::Locked { path: folder.to_owned() }))
        }
        opened => Ok(opened?),
    }
}

/// Removes snapshots that a process began to write while it opened the database, and did not finish, be it that it was
/// killed or that the disk was full: sled would take them for damaged ones. The one before is still there, or there was
/// none, which only takes longer to read.
fn remove_unfinished(folder: &Path) {
    // Another process may be about to finish one.
    if !is_released_within(&folder.join("db"), Duration::ZERO) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            // If it stays, sled says what is wrong.
            let _ = fs::remove_file(path);
        }
    }
}

/// Closes a database that may be damaged: it flushes at its end, and may panic over what is damaged once more.
pub fn close<T>(folder: &Path, database: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    is_released_within(&folder.join("db"), RELEASE_WAIT);
}

/// Waits until nobody holds the lock on sled's file, or until so much time has passed; whether it is free.
///
/// When the last handle is dropped, sled's threads may still write or cut the file. They hold the lock as long, and who
/// opens the store meanwhile, this process or another, would be told that it is in use.
pub fn is_released_within(file: &Path, patience: Duration) -> bool {
    // A file that is gone is nobody's.
    let Ok(file) = File::open(file) else { return true };
    let patience_ends = Instant::now() + patience;
    loop {
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) if Instant::now() < patience_ends => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(TryLockError::WouldBlock) => return false,
            // On a file system without locks, sled had none either.
            Ok(()) | Err(TryLockError::Error(_)) => return true,
        }
    }
}

/// Has the database moved aside when it is opened the next time.
pub fn mark_damaged(folder: &Path) -> std::io::Result<()> {
    File::create(folder.join(REFUSING)).map(drop)
}

/// Takes that back.
pub fn unmark_damaged(folder: &Path) {
    // Mostly there is no such file.
    let _ = fs::remove_file(folder.join(REFUSING));
}

/// Renames the folder to `….damaged-1`, or the first such name that is free.
pub fn move_aside(folder: &Path) -> Result<PathBuf, StoreError> {
    let aside = asides(folder).find(|path| !path.exists()).expect("numbers outlast folders");
    fs::rename(folder, &aside).map_err(StoreError::io("moving the damaged store aside"))?;
    Ok(aside)
}

pub fn last_moved_aside(folder: &Path) -> Option<PathBuf> {
    asides(folder).take_while(|path| path.exists()).last()
}

/// Where damaged stores go, in that order.
fn asides(folder: &Path) -> impl Iterator<Item = PathBuf> {
    (1_u32..).map(|number| folder.with_extension(format!("damaged-{number}")))
}

/// Turns a panic inside sled into an error: that happens on a damaged file.
pub fn guard<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(StoreError::Database(panic_text(&*panic))))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic").to_owned()
}
