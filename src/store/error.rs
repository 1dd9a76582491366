//! What goes wrong in the store.

use std::path::PathBuf;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
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
    #[error("no recording {what:?}{}", known_text(known))]
    NotFound {
        what: String,
        /// Names that exist, the most similar first.
        known: Vec<String>,
    },
    #[error("a recording named {name:?} exists already")]
    AlreadyExists { name: String },
    #[error("recording name {name:?}: {reason}")]
    InvalidName { name: String, reason: &'static str },
    #[error("recording {name:?} is still being recorded")]
    StillRecording { name: String },
    #[error("recording {recording:?} is damaged at event {event} (block {block}): {reason}")]
    Damaged { recording: String, block: u64, event: u64, reason: String },
    #[error("recording {name:?} failed: {reason}")]
    Failed { name: String, reason: String },
    #[error("recording {name:?} ended before all of it was written")]
    Ended { name: String },
    #[error("imported recording: {0}")]
    Import(#[from] crate::recording::json::JsonError),
    #[error("{what}: {error}")]
    Io { what: &'static str, error: std::io::Error },
    #[error("store: {0}")]
    Database(String),
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io { what, error }
    }

    /// Whether what was recorded cannot be read in full.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Import(error) => error.is_damage(),
            _ => false,
        }
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io { what: "store", error },
            other => Self::Database(other.to_string()),
        }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn known_text(known: &[String]) -> String {
    match known {
        [] => "; there are no recordings".to_owned(),
        names => format!("; there is {}", names.join(", ")),
    }
}
