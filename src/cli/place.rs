//! Where recordings are looked for, as texts say it.

use std::{fmt, path::PathBuf};

/// A store, or the folder of none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `store` is empty if the server does not say.
    Server {
        store: String,
    },
    Folder(PathBuf),
    /// The folder where no store is.
    Nowhere(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { store } if store.is_empty() => f.write_str("in the running server's store"),
            Self::Server { store } => write!(f, "in the running server's store, {store}"),
            Self::Folder(path) => write!(f, "in {}", path.display()),
            Self::Nowhere(path) => write!(f, "here: there is no store in {}", path.display()),
        }
    }
}
