//! What goes wrong in the store.

use std::path::PathBuf;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Only for who opens the store to read what is there.
    #[error("there is no store in {}", path.display())]
    Absent { path: PathBuf },
    #[error("the store in {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    /// Only for who opens the store to read what is there.
    #[error(
        "the store {} was damaged; it was moved to {}, with all that was in it, and nothing was deleted{}",
        path.display(), moved_to.display(), because(reason)
    )]
    MovedAside {
        path: PathBuf,
        moved_to: PathBuf,
        /// What was wrong; empty if it was found out before.
        reason: String,
    },
    #[error("no recording {what:?}{}", known_text(known, *more))]
    NotFound {
        what: String,
        /// Names that exist, the most similar first.
        known: Vec<String>,
        /// Names that are not among those.
        more: usize,
    },
    #[error("a recording named {name:?} exists already")]
    AlreadyExists { name: String },
    #[error("recording name {name:?}: {reason}")]
    InvalidName { name: String, reason: &'static str },
    #[error("nothing of recording {name:?} is meant by: {filter}")]
    NothingMeant { name: String, filter: String },
    #[error("recording {name:?} is still being recorded")]
    StillRecording { name: String },
    #[error("recording {recording:?} is damaged at event {event} (block {block}): {reason}")]
    Damaged { recording: String, block: u64, event: u64, reason: String },
    #[error("recording {name:?} failed: {reason}")]
    Failed { name: String, reason: String },
    #[error("recording {name:?} ended before all of it was written")]
    Ended { name: String },
    #[error("imported recording: {0}")]
    Import(#[from] crate::recording::FileError),
    #[error(
        "no space is left where {} is: free some first, the store has to write a little to be opened",
        path.display()
    )]
    NoRoom { path: PathBuf },
    #[error("making the folder {}: {error}", path.display())]
    Folder { path: PathBuf, error: std::io::Error },
    #[error("{what}: {error}")]
    Io { what: &'static str, error: std::io::Error },
    /// Not what was recorded, but what it is kept in, cannot be read.
    #[error("the store is damaged: {0}")]
    Corrupted(String),
    #[error(
        "the store in {} has format {found}, and this version knows formats up to {known}: use a newer one",
        path.display()
    )]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    /// Of what was handed over before the store was closed.
    #[error("the last changes of sessions and retained messages could not be kept")]
    NotKept { batches: usize },
    #[error("store: {0}")]
    Database(String),
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io { what, error }
    }

    /// What it means where the store at `path` was to be opened.
    pub(super) fn while_opening(self, path: PathBuf) -> Self {
        match self {
            Self::Io { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => {
                Self::NoRoom { path }
            }
            other => other,
        }
    }

    /// Whether what was recorded cannot be read in full.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Corrupted(_) => true,
            Self::Import(error) => error.is_damage(),
            _ => false,
        }
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            // Its file ends before what is said to stand in it.
            sled::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Corrupted("its file is cut off".to_owned())
            }
            // An error that sled says again has lost its text, and has another's debug output.
            sled::Error::Io(error) if error.raw_os_error().is_none() => {
                Self::Io { what: "store", error: error.kind().into() }
            }
            sled::Error::Io(error) => Self::Io { what: "store", error },
            corruption @ sled::Error::Corruption { .. } => {
                let text = corruption.to_string();
                Self::Corrupted(text.trim_end_matches(" backtrace ()").to_owned())
            }
            other => Self::Database(other.to_string()),
        }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn known_text(known: &[String], more: usize) -> String {
    match (known, more) {
        ([], _) => "; there are no recordings".to_owned(),
        (names, 0) => format!("; there is {}", names.join(", ")),
        (names, more) => format!("; there is {} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_disk_says_what_helps() {
        let full = StoreError::Io { what: "store", error: io::Error::from_raw_os_error(28) };
        let text = full.while_opening("x".into()).to_string();
        assert_eq!(
            text,
            "no space is left where x is: free some first, the store has to write a little to be opened"
        );
    }
}
