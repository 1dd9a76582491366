//! What is known of the database outside of it, in a file beside sled's.
//!
//! sled opens a file that was cut off, overwritten or removed as a database that is empty, or as it once was,
//! and says nothing. So it is written down that there is one, and at a clean end, what is in it:
//!
//! ```text
//! open
//! closed PARTS RECORDS SUM     the number of the next part, and the contents
//! ```

use std::{fs, io::Write as _, path::Path};

use super::{contents::Contents, database::sync_folder};
use crate::store::StoreError;

const FILE: &str = "state";
/// While it is being written.
const NEW_FILE: &str = "state.new";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// By a process that has not ended, or was killed.
    Open,
    Closed {
        parts: u64,
        records: u64,
        sum: u64,
    },
}

impl State {
    pub fn closed(contents: &Contents) -> Self {
        Self::Closed { parts: contents.parts.end, records: contents.records, sum: contents.sum }
    }

    /// `None` where none was written: there is no database, or it is not quite made.
    pub fn read(folder: &Path) -> Result<Option<Self>, StoreError> {
        match fs::read(folder.join(FILE)) {
            Ok(bytes) => Self::parse(&bytes).map(Some).ok_or_else(|| {
                StoreError::Corrupted(format!("its file `{FILE}` says neither open nor closed"))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("reading the state of the store")(error)),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        if line == "open" {
            return Some(Self::Open);
        }
        let mut words = line.strip_prefix("closed ")?.split(' ');
        let mut number = |radix| u64::from_str_radix(words.next()?, radix).ok();
        let (parts, records, sum) = (number(10)?, number(10)?, number(16)?);
        words.next().is_none().then_some(Self::Closed { parts, records, sum })
    }

    /// Makes it durable.
    pub fn write(&self, folder: &Path) -> Result<(), StoreError> {
        let line = match self {
            Self::Open => "open\n".to_owned(),
            Self::Closed { parts, records, sum } => format!("closed {parts} {records} {sum:016x}\n"),
        };
        let write = || {
            let new_path = folder.join(NEW_FILE);
            let mut file = fs::File::create(&new_path)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            fs::rename(new_path, folder.join(FILE))?;
            sync_folder(folder)
        };
        write().map_err(StoreError::io("writing the state of the store"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(State::read(folder.path()).unwrap(), None);
        for state in [State::Open, State::Closed { parts: 7, records: u64::MAX, sum: 0xfe }] {
            state.write(folder.path()).unwrap();
            assert_eq!(State::read(folder.path()).unwrap(), Some(state));
        }
        for text in ["", "open", "closed\n", "closed 1 2\n", "closed 1 2 3 4\n", "closed 1 x 3\n", "\u{0}\n"]
        {
            fs::write(folder.path().join(FILE), text).unwrap();
            let error = State::read(folder.path()).unwrap_err();
            assert!(matches!(error, StoreError::Corrupted(_)), "{text:?}: {error}");
        }
    }
}
