//! Reading a recording from MCAP.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{BufReader, Read, Seek},
};

use super::{
    MESSAGE_ENCODING, SCHEMA_NAME,
    walk::{Found, Walk},
};
use crate::{
    amount::counted,
    recording::{
        Event, FileError, FileErrorKind, FileHead, FilePlace, RecordingState,
        json::{Elements, FORMAT, START, Shape, read_head_member},
    },
};

/// Of an event's text, as in the formats that are text: the longest packet there is, in base64.
const EVENT_LEN_MAX: u64 = 512 << 20;
/// Channels of others that a note names.
const NAMED_MAX: usize = 5;
/// Of such a name, in characters.
const NAME_LEN_MAX: usize = 100;

/// An MCAP file that was gone through once, so that it is known how far it is whole.
#[derive(Debug)]
pub struct McapReader<R> {
    input: R,
    survey: Survey,
}

/// What going through a file found.
#[derive(Debug, Default)]
struct Survey {
    head: FileHead,
    /// Whether there is anything of a recording in it.
    is_recording: bool,
    channels: Channels,
    /// Messages of all channels.
    messages: u64,
    /// Those on channels of others.
    foreign: u64,
    foreign_names: BTreeSet<String>,
    attachments: u64,
    /// Why the file is not whole, where as much as is whole was asked for.
    damage: Option<FileError>,
    /// The byte that no event is taken from, nor from those behind it.
    end: Option<u64>,
}

/// Which channels events are on.
#[derive(Debug, Default)]
struct Channels {
    schemas: HashSet<u16>,
    ours: HashSet<u16>,
    others: HashMap<u16, String>,
}

impl<R: Read + Seek> McapReader<R> {
    /// Goes through the file, which begins where `input` does.
    ///
    /// # Errors
    /// [`FileError`] with the byte where what is wrong begins: the file is not whole, a checksum does
    /// not fit, or there is no recording in it. What events say is looked at when they are read.
    pub fn open(mut input: R) -> Result<Self, FileError> {
        let mut survey = Survey::of(&mut input)?;
        match survey.damage.take() {
            Some(damage) => Err(damage),
            None => Ok(Self { input, survey }),
        }
    }

    /// Takes of a file that was cut off or damaged what stands before the first chunk that is not
    /// whole. The recording counts as interrupted if events may be missing.
    ///
    /// # Errors
    /// When there is nothing of a recording before that, or no event of it; the file's own errors.
    pub fn recover(mut input: R) -> Result<Self, FileError> {
        let mut survey = Survey::of(&mut input)?;
        let has_none = survey.head.entries == 0 && survey.head.state == Some(RecordingState::Interrupted);
        if let Some(damage) = survey.damage.take_if(|_| has_none) {
            let reason = format!("{}; no whole chunk of events stands before it", damage.reason);
            return Err(FileError { reason, ..damage });
        }
        Ok(Self { input, survey })
    }

    pub fn head(&self) -> &FileHead {
        &self.survey.head
    }

    /// What is wrong with a file of which only the beginning is taken.
    pub fn damage(&self) -> Option<&FileError> {
        self.survey.damage.as_ref()
    }

    /// What of the file is not taken, for people.
    pub fn notes(&self) -> Vec<String> {
        self.survey.notes()
    }

    /// The events from the first one on, as often as called.
    pub fn events(&mut self) -> McapEvents<&mut R> {
        let (end, notes) = (self.survey.end, self.notes());
        McapEvents::new(&mut self.input, end, notes)
    }

    /// The events, with the file.
    pub fn into_events(self) -> McapEvents<R> {
        let (end, notes) = (self.survey.end, self.notes());
        McapEvents::new(self.input, end, notes)
    }
}

impl Survey {
    fn of<R: Read + Seek>(input: &mut R) -> Result<Self, FileError> {
        let mut walk = Walk::new(input)?;
        let mut survey = Self::default();
        // Of a chunk that turns out to be broken, nothing counts.
        let (mut sound, mut place) = (0, 0);
        let ended = loop {
            let found = walk.next();
            if walk.place() != place {
                (sound, place) = (survey.head.entries, walk.place());
            }
            match found {
                Ok(Some(found)) => {
                    if let Err(error) = survey.take(found) {
                        break Err(FileError { place: FilePlace::Byte(walk.place()), ..error });
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(damage) = ended {
            if !damage.is_damage() || !survey.is_recording {
                return Err(damage);
            }
            let has_all_events = walk.is_past_data() && damage.kind == FileErrorKind::Truncated;
            if !has_all_events {
                survey.head.state = Some(RecordingState::Interrupted);
            }
            survey.head.entries = sound;
            survey.end = Some(walk.place());
            survey.damage = Some(damage);
        } else if !survey.is_recording {
            let reason = format!("there is no recording in it: no channel has the schema {SCHEMA_NAME:?}");
            let (kind, place) = (FileErrorKind::Unsupported, FilePlace::Unknown);
            return Err(FileError { kind, place, path: String::new(), reason });
        }
        Ok(survey)
    }

    /// The error has no place yet.
    fn take(&mut self, found: Found) -> Result<(), FileError> {
        let is_channel = self.channels.take(&found);
        match found {
            Found::Metadata { name, members } if name == FORMAT => {
                self.is_recording = true;
                self.head = FileHead { entries: self.head.entries, ..FileHead::default() };
                for (name, value) in members {
                    take_head_member(&name, &value, &mut self.head)?;
                }
            }
            Found::Message { channel } => {
                self.messages += 1;
                if self.channels.ours.contains(&channel) {
                    self.is_recording = true;
                    self.head.entries += 1;
                } else {
                    self.foreign += 1;
                    if self.foreign_names.len() < NAMED_MAX
                        && let Some(name) = self.channels.others.get(&channel)
                    {
                        self.foreign_names.insert(name.clone());
                    }
                }
            }
            Found::Channel { .. } => self.is_recording |= is_channel,
            Found::Attachment => self.attachments += 1,
            Found::Statistics { messages } if messages != self.messages => {
                let reason = format!("there should be {messages} messages, and there are {}", self.messages);
                let (kind, place) = (FileErrorKind::Invalid, FilePlace::Unknown);
                return Err(FileError { kind, place, path: "statistics".to_owned(), reason });
            }
            Found::Metadata { .. } | Found::Schema { .. } | Found::Statistics { .. } => {}
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(damage) = &self.damage {
            notes.push(format!("the file is damaged, and events were taken up to there: {damage}"));
        }
        if self.foreign > 0 {
            let names: Vec<&str> = self.foreign_names.iter().map(String::as_str).collect();
            notes.push(format!(
                "left out: {} on channels without the schema {SCHEMA_NAME} ({}{})",
                counted(self.foreign, "message"),
                names.join(", "),
                if names.len() == NAMED_MAX { ", …" } else { "" }
            ));
        }
        if self.attachments > 0 {
            notes.push(format!("left out: {}", counted(self.attachments, "attachment")));
        }
        notes
    }
}

impl Channels {
    /// Whether it was a channel with events.
    fn take(&mut self, found: &Found) -> bool {
        match found {
            Found::Schema { id, name } => {
                if name == SCHEMA_NAME {
                    self.schemas.insert(*id);
                } else {
                    self.schemas.remove(id);
                }
                false
            }
            Found::Channel { id, schema, encoding, .. }
                if self.schemas.contains(schema) && encoding == MESSAGE_ENCODING =>
            {
                self.others.remove(id);
                self.ours.insert(*id);
                true
            }
            Found::Channel { id, topic, .. } => {
                self.ours.remove(id);
                self.others.insert(*id, topic.chars().take(NAME_LEN_MAX).collect());
                false
            }
            _ => false,
        }
    }
}

/// Members whose values are texts stand without quotes, and which those are only their types know.
fn take_head_member(name: &str, value: &str, head: &mut FileHead) -> Result<(), FileError> {
    let quoted = serde_json::to_string(value).expect("text into memory");
    let as_text = read_head_member(name, &quoted, head);
    let is_json = || serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
    match as_text {
        Err(error) if error.kind == FileErrorKind::Invalid && is_json() => {
            read_head_member(name, value, head)
        }
        other => other,
    }
}

/// The events of a file in order; memory does not grow with their number. Ends after the first
/// error.
pub struct McapEvents<R: Read> {
    state: State<R>,
    end: Option<u64>,
    channels: Channels,
    index: u64,
    text: Vec<u8>,
    elements: Elements,
    notes: Vec<String>,
}

enum State<R: Read> {
    ToBegin(R),
    Under(Box<Walk<BufReader<R>>>),
    Ended,
}

impl<R: Read + Seek> McapEvents<R> {
    fn new(input: R, end: Option<u64>, notes: Vec<String>) -> Self {
        Self {
            state: State::ToBegin(input),
            end,
            channels: Channels::default(),
            index: 0,
            text: Vec::new(),
            elements: Elements::default(),
            notes,
        }
    }

    /// What of the file is not taken, for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn advance(&mut self) -> Result<Option<Event>, FileError> {
        loop {
            if let Some(event) = self.elements.next_ready() {
                return Ok(Some(event));
            }
            let walk = match &mut self.state {
                State::Ended => return Ok(None),
                State::Under(walk) => walk,
                State::ToBegin(_) => {
                    if let State::ToBegin(input) = std::mem::replace(&mut self.state, State::Ended) {
                        self.state = State::Under(Box::new(Walk::new(input)?));
                    }
                    continue;
                }
            };
            let found = walk.next();
            if self.end.is_some_and(|end| walk.place() >= end) {
                return Ok(None);
            }
            let Some(found) = found? else { return Ok(None) };
            self.channels.take(&found);
            let Found::Message { channel } = found else { continue };
            if !self.channels.ours.contains(&channel) {
                continue;
            }
            walk.message(EVENT_LEN_MAX, &mut self.text)?;
            let path = format!("events[{}]", self.index);
            self.index += 1;
            let added = self.elements.add(Shape::Event, &self.text, START, &path);
            // The line is of a text that is in no file.
            added.map_err(|error| FileError { place: FilePlace::Byte(walk.place()), ..error })?;
        }
    }
}

impl<R: Read + Seek> Iterator for McapEvents<R> {
    type Item = Result<Event, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.state, State::Ended) {
            return None;
        }
        let next = self.advance().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.state = State::Ended;
        }
        next
    }
}
