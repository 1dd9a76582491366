//! Recordings in from files, and out to them.

use std::{
    cell::RefCell,
    io::{BufWriter, Read, Seek, Write},
};

use jiff::Timestamp;
use ulid::Ulid;

use super::{
    RecordingWriter, Store, StoreError,
    keeper::{Start, StartName, check_name},
};
use crate::{
    amount::counted,
    recording::{
        Cut, Event, EventFilter, Excerpt, ReadOptions, RecordingFile, RecordingFormat, RecordingInfo,
        RecordingSource, RecordingState, redact::Passwords, write_recording,
    },
};

/// What a file is in the store.
#[derive(Debug)]
pub struct Imported {
    pub info: RecordingInfo,
    /// Whether it was not there before.
    pub is_new: bool,
    /// What of the file was not taken, or had to be assumed, for people.
    pub notes: Vec<String>,
}

impl From<std::io::Error> for StoreError {
    /// The only input and output that is not named where it happens is that of an export.
    fn from(error: std::io::Error) -> Self {
        Self::Io { what: "writing the recording", error }
    }
}

impl Store {
    /// Writes the events of a recording that are meant; of one that goes on, what is stored by now. What is not all of it
    /// is a recording of its own, with a new id. `went_through` is told how many of the recording's events were read.
    /// Answers what the format cannot hold.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], after as much as could be written.
    pub fn export(
        &self,
        id_or_name: &str,
        format: RecordingFormat,
        filter: EventFilter,
        out: impl Write,
        went_through: impl Fn(u64),
    ) -> Result<Vec<String>, StoreError> {
        let info = self.find(id_or_name)?;
        let mut out = BufWriter::new(out);
        let events = || -> Result<_, StoreError> {
            Ok(self.events(&info.id, 1)?.inspect(|event| {
                if let Ok(event) = event {
                    went_through(event.seq);
                }
            }))
        };
        if filter.is_everything() {
            let notes = write_recording(format, &mut out, &info, events)?;
            out.flush()?;
            return Ok(notes);
        }
        let cut = Cut::new(filter, events)?;
        let cut_info = RecordingInfo { id: Ulid::new().to_string(), ..cut.info(&info) };
        let of_excerpt = RefCell::new(Vec::new());
        let mut notes = write_recording(format, &mut out, &cut_info, || {
            Ok(Noting { excerpt: cut.of(events()?), notes: &of_excerpt })
        })?;
        out.flush()?;
        notes.extend(of_excerpt.into_inner());
        Ok(notes)
    }

    /// Reads a recording from a file and keeps it. The file's id and start are kept, and its name
    /// unless `name` is given; where they are taken, it gets a new id and a number behind its name.
    /// A file that is in the store already, same id and same events, is not kept twice: unless
    /// `name` asks for it, the one that is there is returned. Without an id in the file it is one with the same start and
    /// the same events, and with a `name` that is taken, the one that has it. Passwords are kept only if `options` say so.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when `name` is taken; [`StoreError::Import`] when the file is
    /// not a recording or damaged. Nothing is kept then.
    pub fn import(
        &self,
        input: impl Read + Seek,
        options: &ReadOptions,
        name: Option<&str>,
    ) -> Result<Imported, StoreError> {
        let file = RecordingFile::open(input, options)?;
        let head = file.head().clone();
        let taken = match name {
            Some(name) => self.list()?.into_iter().find(|info| info.name == name),
            None => None,
        };
        let twin = Twin { name: name.map(str::to_owned), id: head.id.clone(), started_at: head.started_at };
        let named = head.name.filter(|name| check_name(name).is_ok());
        let start = Start {
            name: match (name, named) {
                // Whether it is the same shows at the end, if it can be.
                (Some(name), _) if taken.as_ref().is_some_and(|info| twin.may_be(info)) => {
                    StartName::Preferably(name.to_owned())
                }
                (Some(name), _) => StartName::Exactly(name.to_owned()),
                (None, Some(name)) => StartName::Preferably(name),
                (None, None) => StartName::Made("import"),
            },
            id: head.id.as_ref().and_then(|id| Ulid::from_string(id).ok()),
            source: head.source.unwrap_or_else(RecordingSource::import),
            topics: head.topics,
            started_at: head.started_at,
            tool_version: head.tool_version,
            seed: head.seed,
            edits: head.edits,
        };
        // A file cannot be recording; one that says so was cut off.
        let state = match head.state {
            None => RecordingState::Complete,
            Some(RecordingState::Recording) => RecordingState::Interrupted,
            Some(ended) => ended,
        };
        let mut events = file.into_events()?;
        let mut passwords = (!options.keep_credentials).then(Passwords::default);
        let mut replaced: u64 = 0;
        let mut left = taken.map_or(u64::MAX, |taken| taken.events);
        let without_passwords = events.by_ref().map(|event| {
            let mut event = event?;
            let Some(fewer) = left.checked_sub(1) else {
                return Err(StoreError::AlreadyExists { name: name.unwrap_or_default().to_owned() });
            };
            left = fewer;
            if let Some(passwords) = &mut passwords {
                replaced += u64::from(passwords.redact(&mut event));
            }
            Ok(event)
        });
        let written = self.write(start, without_passwords)?;
        let mut notes = events.notes();
        if replaced > 0 {
            let events = counted(replaced, "event");
            notes.push(format!("passwords were replaced in {events} (--keep-credentials keeps them)"));
        }
        let id = written.info().id;
        let info = written.finish_unless(state, Box::new(move |all, info| twin.find(all, info)))?;
        if let Some(name) = name.filter(|name| *name != info.name) {
            // The one that had it has gone meanwhile.
            notes.push(format!("{name} was taken when the import began: this is {}", info.name));
        }
        Ok(Imported { is_new: info.id == id, info, notes })
    }

    /// Writes `events` as a recording that has ended in `state`; on the first error, nothing is kept.
    pub(super) fn keep<E: Into<StoreError>>(
        &self,
        start: Start,
        state: RecordingState,
        events: impl Iterator<Item = Result<Event, E>>,
    ) -> Result<RecordingInfo, StoreError> {
        self.write(start, events)?.finish_as(state)
    }

    /// Writes `events` to a recording that is not ended; on the first error, nothing is kept.
    pub(super) fn write<E: Into<StoreError>>(
        &self,
        start: Start,
        events: impl Iterator<Item = Result<Event, E>>,
    ) -> Result<RecordingWriter, StoreError> {
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
        Ok(writer)
    }
}

/// What tells that a file is in the store already.
struct Twin {
    /// That is asked for.
    name: Option<String>,
    /// Of the file, as its start.
    id: Option<String>,
    started_at: Option<Timestamp>,
}

impl Twin {
    /// Whether `there` can be what is in the file, before that is known.
    fn may_be(&self, there: &RecordingInfo) -> bool {
        let has_ended = there.state != RecordingState::Recording && there.sha256.is_some();
        has_ended && self.started_at.is_none_or(|at| at == there.started_at)
    }

    /// The recording of `all` that is the same as `imported`.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when another has the name.
    fn find(
        &self,
        mut all: Vec<RecordingInfo>,
        imported: &RecordingInfo,
    ) -> Result<Option<RecordingInfo>, StoreError> {
        all.retain(|there| there.id != imported.id);
        let is_same = |there: &RecordingInfo| {
            imported.events > 0 && self.may_be(there) && there.sha256 == imported.sha256
        };
        match (&self.name, &self.id) {
            (Some(name), _) => match all.into_iter().find(|there| there.name == *name) {
                Some(there) if !is_same(&there) => Err(StoreError::AlreadyExists { name: name.clone() }),
                there => Ok(there),
            },
            (None, Some(id)) => {
                let has_ended = |there: &RecordingInfo| there.state != RecordingState::Recording;
                let is_it = |there: &RecordingInfo| {
                    there.id.eq_ignore_ascii_case(id) && has_ended(there) && there.sha256 == imported.sha256
                };
                Ok(all.into_iter().find(is_it))
            }
            (None, None) => Ok(all.into_iter().find(is_same)),
        }
    }
}

/// An excerpt whose notes are put aside when it has ended, since whoever writes it has the excerpt.
struct Noting<'a, I> {
    excerpt: Excerpt<I>,
    notes: &'a RefCell<Vec<String>>,
}

impl<I> Iterator for Noting<'_, I>
where
    I: Iterator<Item = Result<Event, StoreError>>,
{
    type Item = Result<Event, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.excerpt.next();
        if next.is_none() {
            self.notes.replace(self.excerpt.notes());
        }
        next
    }
}
