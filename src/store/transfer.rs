//! Recordings in from files, and out to them.

use std::io::{BufWriter, Read, Seek, Write};

use ulid::Ulid;

use super::{
    Store, StoreError,
    keeper::{Start, StartName, check_name},
};
use crate::recording::{
    Event, RecordingInfo, RecordingSource, RecordingState,
    json::{JsonReader, JsonWriter},
};

/// What a file is in the store.
#[derive(Debug)]
pub struct Imported {
    pub info: RecordingInfo,
    /// Whether it was not there before.
    pub is_new: bool,
}

impl From<std::io::Error> for StoreError {
    /// The only input and output that is not named where it happens is that of an export.
    fn from(error: std::io::Error) -> Self {
        Self::Io { what: "writing the recording", error }
    }
}

impl Store {
    /// Writes a recording as JSON. Of one that goes on, what is stored by now.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], after as much as could be written.
    pub fn export_json(&self, id_or_name: &str, out: impl Write) -> Result<(), StoreError> {
        let info = self.find(id_or_name)?;
        let out = BufWriter::new(out);
        JsonWriter::new(out).write(&info, || self.events(&info.id, 1)).map(drop)
    }

    /// Reads a recording from JSON and keeps it. The file's id and start are kept, and its name
    /// unless `name` is given; where they are taken, it gets a new id and a number behind its name.
    /// A file that is in the store already, same id and same events, is not kept twice: unless
    /// `name` asks for it, the one that is there is returned.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when `name` is taken; [`StoreError::Import`] when the file is
    /// not a recording or damaged. Nothing is kept then.
    pub fn import_json(&self, input: impl Read + Seek, name: Option<&str>) -> Result<Imported, StoreError> {
        let mut reader = JsonReader::open(input)?;
        let head = reader.head().clone();
        let existing = match &head.id {
            Some(id) => self.ended_with_id(id)?,
            None => None,
        };
        let named = head.name.filter(|name| check_name(name).is_ok());
        let start = Start {
            name: match (name, named) {
                (Some(name), _) => StartName::Exactly(name.to_owned()),
                (None, Some(name)) => StartName::Preferably(name),
                (None, None) => StartName::Made("import"),
            },
            id: head.id.and_then(|id| Ulid::from_string(&id).ok()),
            source: head.source.unwrap_or_else(RecordingSource::import),
            topics: head.topics,
            started_at: head.started_at,
            tool_version: head.tool_version,
            seed: head.seed,
        };
        // A file cannot be recording; one that says so was cut off.
        let state = match head.state {
            None => RecordingState::Complete,
            Some(RecordingState::Recording) => RecordingState::Interrupted,
            Some(ended) => ended,
        };
        let imported = self.keep(start, state, reader.events()?)?;
        match existing {
            Some(existing) if name.is_none() && existing.sha256 == imported.sha256 => {
                self.delete(&imported.id)?;
                Ok(Imported { info: existing, is_new: false })
            }
            _ => Ok(Imported { info: imported, is_new: true }),
        }
    }

    fn ended_with_id(&self, id: &str) -> Result<Option<RecordingInfo>, StoreError> {
        // Not `find`: that would take the text for a name, too.
        let info = self.inner.database()?.info(&id.to_ascii_uppercase())?;
        Ok(info.filter(|info| info.state != RecordingState::Recording && info.sha256.is_some()))
    }

    fn keep<E: Into<StoreError>>(
        &self,
        start: Start,
        state: RecordingState,
        events: impl Iterator<Item = Result<Event, E>>,
    ) -> Result<RecordingInfo, StoreError> {
        let writer = self.begin_with(start)?;
        for event in events {
            let appended = match event {
                Ok(Event { at, connection, kind, .. }) => writer.append(at, connection, kind).map(drop),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = appended {
                // A failed writer has nothing to abandon, and the first error is the one to tell.
                let _ = writer.abandon();
                return Err(error);
            }
        }
        writer.finish_as(state)
    }
}
