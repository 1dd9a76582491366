//! Reading a recording from NDJSON.

use std::{
    collections::HashMap,
    io::{BufReader, Read, Seek},
};

use serde::{Deserialize, de::IgnoredAny};

use super::{END, mosquitto::MosquittoLines};
use crate::{
    amount::counted,
    recording::{
        ConnectionInfo, Event, FileError, FileErrorKind, FileHead, RecordingSource, RecordingState,
        json::{Elements, Shape, read_head},
        lines::Lines,
    },
};

/// A file of lines that was gone through once, so that it is known to be whole.
#[derive(Debug)]
pub struct NdjsonReader<R> {
    input: R,
    head: FileHead,
    declared: HashMap<u32, ConnectionInfo>,
    outline: Outline,
}

/// What the file consists of.
#[derive(Clone, Debug, Default)]
struct Outline {
    kind: LineKind,
    has_head: bool,
    /// Lines between head and end that are whole.
    entries: u64,
    notes: Vec<String>,
}

/// What the lines of a file stand for; all for the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LineKind {
    #[default]
    Event,
    Message,
    /// What mosquitto_sub prints.
    Mosquitto,
}

impl LineKind {
    fn name(self) -> &'static str {
        match self {
            Self::Event => "an event",
            Self::Message => "a message",
            Self::Mosquitto => "a line of mosquitto_sub",
        }
    }
}

/// What tells the kinds of lines apart.
#[derive(Default, Deserialize)]
struct Marks {
    format: Option<IgnoredAny>,
    version: Option<IgnoredAny>,
    tst: Option<IgnoredAny>,
    t_ms: Option<IgnoredAny>,
    seq: Option<IgnoredAny>,
    conn: Option<IgnoredAny>,
    dir: Option<IgnoredAny>,
    kind: Option<IgnoredAny>,
    #[serde(rename = "type")]
    packet_type: Option<IgnoredAny>,
    raw: Option<IgnoredAny>,
}

impl Marks {
    /// Of a line that is no JSON: none.
    fn of(text: &[u8]) -> Self {
        serde_json::from_slice(&String::from_utf8_lossy(text).into_owned().into_bytes()).unwrap_or_default()
    }

    fn is_head(&self) -> bool {
        self.t_ms.is_none() && self.tst.is_none() && (self.format.is_some() || self.version.is_some())
    }

    fn kind(&self) -> LineKind {
        if self.tst.is_some() && self.t_ms.is_none() {
            return LineKind::Mosquitto;
        }
        let of_event = [&self.seq, &self.conn, &self.dir, &self.kind, &self.packet_type, &self.raw];
        match of_event.into_iter().any(Option::is_some) {
            true => LineKind::Event,
            false => LineKind::Message,
        }
    }
}

/// The line at the end.
#[derive(Deserialize)]
struct End {
    kind: String,
    events: u64,
}

impl End {
    fn of(text: &[u8]) -> Option<Self> {
        // Cheaper than reading each line.
        let is_short = text.len() < 200 && text.windows(END.len()).any(|part| part == END.as_bytes());
        let end: Self = is_short.then(|| serde_json::from_slice(text).ok()).flatten()?;
        (end.kind == END).then_some(end)
    }
}

impl<R: Read + Seek> NdjsonReader<R> {
    /// Goes through the file, which begins where `input` does. Of a file that was cut off, `recover`
    /// takes the lines that are whole.
    ///
    /// # Errors
    /// [`FileError`] for a file that is not whole, that is not a recording, or whose major version is
    /// not known. The events are looked at when they are read.
    pub fn open(mut input: R, recover: bool) -> Result<Self, FileError> {
        input.rewind().map_err(FileError::io)?;
        let mut lines = Lines::new(BufReader::new(&mut input));
        let (mut head, mut declared) = (FileHead::default(), HashMap::new());
        let mut outline = Outline::default();
        let mut goes_on = lines.advance()?;
        if !goes_on {
            return Err(lines.error(FileErrorKind::Truncated, "the file has no lines"));
        }
        if Marks::of(lines.text()).is_head() {
            (head, declared) = read_head(lines.text(), lines.place())?;
            outline.has_head = true;
            goes_on = lines.advance()?;
        }
        if goes_on && End::of(lines.text()).is_none() {
            outline.kind = Marks::of(lines.text()).kind();
        }
        let mut end = None;
        while goes_on {
            let text = lines.text();
            if end.is_some() {
                return Err(
                    lines.error(FileErrorKind::Invalid, "something stands behind the line of the end")
                );
            }
            if !text.starts_with(b"{") {
                return Err(lines.error(FileErrorKind::Invalid, "each line is an object, this one is not"));
            }
            end = End::of(text);
            if !text.ends_with(b"}") {
                if lines.is_ended() {
                    return Err(lines.error(FileErrorKind::Invalid, "the object does not end with its line"));
                }
                if !recover {
                    let reason = "the file ends here, in the middle of a line";
                    return Err(lines.error(FileErrorKind::Truncated, reason));
                }
                outline.notes.push("the last line was cut off and is left out".to_owned());
                head.state = Some(RecordingState::Interrupted);
                break;
            }
            outline.entries += u64::from(end.is_none());
            goes_on = lines.advance()?;
        }
        match end {
            Some(End { events, .. }) if events != outline.entries => {
                let reason = format!(
                    "the end counts {}, there are {}: lines are missing or were added; without this line the \
                     file can be read",
                    counted(events, "event"),
                    outline.entries
                );
                return Err(lines.error(FileErrorKind::Invalid, reason));
            }
            None if outline.has_head && outline.notes.is_empty() => {
                outline
                    .notes
                    .push("the file has no line for its end: events may be missing there".to_owned());
            }
            _ => {}
        }
        if outline.kind == LineKind::Mosquitto {
            head.source.get_or_insert(RecordingSource { kind: "subscriber".to_owned(), upstream: None });
        }
        drop(lines);
        head.entries = outline.entries;
        let mut reader = Self { input, head, declared, outline };
        if reader.outline.kind == LineKind::Mosquitto && reader.head.started_at.is_none() {
            reader.head.started_at = reader.first_of_mosquitto()?;
        }
        Ok(reader)
    }

    pub fn head(&self) -> &FileHead {
        &self.head
    }

    /// The events, with the file.
    ///
    /// # Errors
    /// [`FileError`] if the file can no longer be read.
    pub fn into_events(self) -> Result<NdjsonEvents<R>, FileError> {
        NdjsonEvents::new(self.input, self.outline, self.declared)
    }

    fn first_of_mosquitto(&mut self) -> Result<Option<jiff::Timestamp>, FileError> {
        self.input.rewind().map_err(FileError::io)?;
        let mut lines = Lines::new(BufReader::new(&mut self.input));
        for _ in 0..=u8::from(self.outline.has_head) {
            lines.advance()?;
        }
        MosquittoLines::started_at(lines.text(), lines.place())
    }
}

/// The events of a file in order; memory does not grow with their number. Ends after the first
/// error.
pub struct NdjsonEvents<R> {
    lines: Lines<BufReader<R>>,
    outline: Outline,
    /// Lines that are still to be read.
    left: u64,
    failed: bool,
    maker: Maker,
}

/// Makes events of lines.
enum Maker {
    Elements(Box<Elements>),
    Mosquitto(Box<MosquittoLines>),
}

impl<R: Read + Seek> NdjsonEvents<R> {
    fn new(
        mut input: R,
        outline: Outline,
        declared: HashMap<u32, ConnectionInfo>,
    ) -> Result<Self, FileError> {
        input.rewind().map_err(FileError::io)?;
        let mut lines = Lines::new(BufReader::new(input));
        if outline.has_head {
            lines.advance()?;
        }
        let maker = match outline.kind {
            LineKind::Event | LineKind::Message => Maker::Elements(Box::new(Elements::new(declared))),
            LineKind::Mosquitto => Maker::Mosquitto(Box::default()),
        };
        Ok(Self { lines, left: outline.entries, failed: false, outline, maker })
    }

    /// What was not taken or had to be assumed; complete once the events are.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.outline.notes.clone();
        if let Maker::Mosquitto(lines) = &self.maker {
            notes.extend(lines.notes());
        }
        notes
    }

    fn advance(&mut self) -> Result<Option<Event>, FileError> {
        loop {
            let ready = match &mut self.maker {
                Maker::Elements(elements) => elements.next_ready(),
                Maker::Mosquitto(lines) => lines.next_ready(),
            };
            if ready.is_some() || self.left == 0 {
                return Ok(ready);
            }
            self.left -= 1;
            if !self.lines.advance()? {
                return Err(self.lines.error(FileErrorKind::Truncated, "the file ends here, it was longer"));
            }
            self.add()?;
        }
    }

    fn add(&mut self) -> Result<(), FileError> {
        let (text, place) = (self.lines.text(), self.lines.place());
        // An event may look like a message, which would lose what it says of connections.
        if self.outline.kind == LineKind::Message {
            self.check_kind()?;
        }
        let added = match (&mut self.maker, self.outline.kind) {
            (Maker::Elements(elements), LineKind::Message) => elements.add(Shape::Message, text, place, ""),
            (Maker::Elements(elements), _) => elements.add(Shape::Event, text, place, ""),
            (Maker::Mosquitto(lines), _) => lines.add(text, place),
        };
        // What is no line of the kind may be one of another.
        added.map_err(|error| self.check_kind().err().unwrap_or(error))
    }

    fn check_kind(&self) -> Result<(), FileError> {
        let (kind, first) = (Marks::of(self.lines.text()).kind(), self.outline.kind);
        // Few members make an event, so what is none is told as such.
        if kind == first || (first == LineKind::Event && kind == LineKind::Message) {
            return Ok(());
        }
        let reason = format!(
            "{} among lines of which the first is {}: a file has one kind",
            kind.name(),
            first.name()
        );
        Err(self.lines.error(FileErrorKind::Invalid, reason))
    }
}

impl<R: Read + Seek> Iterator for NdjsonEvents<R> {
    type Item = Result<Event, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}
