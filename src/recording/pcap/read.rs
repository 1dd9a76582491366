//! Reading a recording from a capture.

use std::{
    io::{BufReader, Cursor, Read, Seek},
    time::Duration,
};

use super::{
    MQTT_PORT, RAW,
    capture::{Capture, Frame},
    conversations::{Conversations, Said},
    segment::segment,
};
use crate::recording::{
    Event, EventKind, FileError, FileErrorKind, FileHead, RecordingSource, RecordingState, json::JsonReader,
};

/// What to take for what in a capture.
#[derive(Clone, Debug)]
pub struct PcapOptions {
    /// Ports of servers on which everything is MQTT, also connections that were open before the capture
    /// began. On other ports it is known by a CONNECT.
    pub ports: Vec<u16>,
    /// Keeps the passwords of CONNECT packets.
    pub keep_credentials: bool,
    /// Takes what is there of a file that ends in the middle.
    pub recover: bool,
}

impl Default for PcapOptions {
    fn default() -> Self {
        Self { ports: vec![MQTT_PORT], keep_credentials: false, recover: false }
    }
}

/// A pcap or pcapng file that was gone through once, so that it is known to be whole.
#[derive(Debug)]
pub struct PcapReader<R> {
    input: R,
    options: PcapOptions,
    head: FileHead,
    /// Nanoseconds since 1970 of offset 0.
    started_at: i128,
    is_trusted: bool,
    /// Where the file was cut off, and what that is called.
    end: Option<(u64, String)>,
}

impl<R: Read + Seek> PcapReader<R> {
    /// With the usual options.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(input: R) -> Result<Self, FileError> {
        Self::open_with(input, PcapOptions::default())
    }

    /// Goes through the file, which begins where `input` does.
    ///
    /// # Errors
    /// [`FileError`] for a file that is not whole, is no capture, or of a version or link type that is
    /// not known.
    pub fn open_with(mut input: R, options: PcapOptions) -> Result<Self, FileError> {
        input.rewind().map_err(FileError::io)?;
        let mut capture = Capture::open(BufReader::with_capacity(READ_LEN, &mut input))?;
        let written = capture.comments().first().and_then(|comment| read_head(comment));
        let (mut first_at, mut end) = (None, None);
        let mut whole = capture.offset();
        loop {
            match capture.next_frame() {
                Ok(Some(frame)) => first_at = first_at.or(frame.at),
                Ok(None) => break,
                Err(error) if options.recover && error.kind == FileErrorKind::Truncated => {
                    end = Some((whole, format!("{error}: what is before byte {whole} was taken")));
                    break;
                }
                Err(error) => return Err(error),
            }
            whole = capture.offset();
        }
        drop(capture);
        let is_trusted = written.is_some();
        let mut head = written.unwrap_or_default();
        let started_at = head.started_at.map(|at| at.as_nanosecond()).or(first_at).unwrap_or(0);
        if first_at.is_some() || head.started_at.is_some() {
            head.started_at = jiff::Timestamp::from_nanosecond(started_at).ok();
        }
        head.source.get_or_insert_with(RecordingSource::import);
        if end.is_some() {
            head.state = Some(RecordingState::Interrupted);
        }
        Ok(Self { input, options, head, started_at, is_trusted, end })
    }

    pub fn head(&self) -> &FileHead {
        &self.head
    }

    /// The events from the first one on, as often as called.
    pub fn events(&mut self) -> Result<PcapEvents<&mut R>, FileError> {
        let conversations = Conversations::new(&self.options, self.is_trusted);
        PcapEvents::new(&mut self.input, conversations, self.started_at, self.end.clone())
    }

    /// The events, with the file.
    pub fn into_events(self) -> Result<PcapEvents<R>, FileError> {
        let conversations = Conversations::new(&self.options, self.is_trusted);
        PcapEvents::new(self.input, conversations, self.started_at, self.end)
    }
}

/// Of a file, at once.
const READ_LEN: usize = 256 * 1024;

/// The head that this program has written as a comment.
fn read_head(comment: &str) -> Option<FileHead> {
    let reader = JsonReader::open(Cursor::new(comment)).ok()?;
    reader.head().id.is_some().then(|| reader.head().clone())
}

/// The event that this program has written as a comment, with the number of its connection.
fn read_event(comment: &str) -> Option<Event> {
    let file = format!("{{\"version\":1,\"events\":[{comment}]}}");
    let events = JsonReader::open(Cursor::new(file)).ok()?.into_events().ok()?;
    // An OPEN may have been put before it.
    events.last()?.ok()
}

/// The events of a capture in order. Memory is bounded by the connections that are open, and 512 MiB
/// that wait for missing segments and the ends of packets. Ends after the first error.
pub struct PcapEvents<R> {
    capture: Capture<BufReader<R>>,
    conversations: Conversations,
    started_at: i128,
    is_trusted: bool,
    end: Option<(u64, String)>,
    /// Whether the file goes on.
    goes_on: bool,
}

impl<R: Read + Seek> PcapEvents<R> {
    fn new(
        mut input: R,
        mut conversations: Conversations,
        started_at: i128,
        end: Option<(u64, String)>,
    ) -> Result<Self, FileError> {
        input.rewind().map_err(FileError::io)?;
        let capture = Capture::open(BufReader::with_capacity(READ_LEN, input))?;
        conversations.notes().truncated = end.as_ref().map(|(_, note)| note.clone());
        let is_trusted = conversations.is_trusted();
        Ok(Self { capture, conversations, started_at, is_trusted, end, goes_on: true })
    }

    /// What was left out, lost or assumed; all of it once the last event is out.
    pub fn notes(&self) -> Vec<String> {
        self.conversations.texts()
    }

    fn advance(&mut self) -> Result<Option<Event>, FileError> {
        loop {
            if let Some(event) = self.conversations.next_event() {
                return Ok(Some(event));
            }
            if !self.goes_on {
                return Ok(None);
            }
            let is_cut_here = self.end.as_ref().is_some_and(|(end, _)| self.capture.offset() >= *end);
            match if is_cut_here { None } else { self.capture.next_frame()? } {
                Some(frame) => take(frame, self.started_at, self.is_trusted, &mut self.conversations),
                None => {
                    self.goes_on = false;
                    self.conversations.end();
                }
            }
        }
    }
}

fn take(frame: Frame<'_>, started_at: i128, is_trusted: bool, to: &mut Conversations) {
    to.notes().frames += 1;
    if let Some(at) = frame.at {
        // Before the first one is as the first one.
        let nanos = u64::try_from((at - started_at).max(0)).unwrap_or(u64::MAX);
        to.set_now(Duration::from_nanos(nanos));
    }
    let mut said = None;
    for comment in frame.comments {
        let event = if is_trusted { read_event(comment) } else { None };
        let Some(Event { connection, kind, .. }) = event else {
            let is_raw = is_trusted && comment == RAW;
            match is_raw {
                true => said = Some(Said::Raw),
                false => to.event(0, EventKind::Mark(comment.clone())),
            }
            continue;
        };
        match kind {
            EventKind::Open(info) => said = Some(Said::Open(connection, info)),
            EventKind::Close(cause) => said = Some(Said::Close(cause)),
            // Their bytes are those of the segment.
            EventKind::Packet { .. } | EventKind::Raw { .. } => {}
            kind => to.event(connection, kind),
        }
    }
    let Some(link) = frame.link else { return to.notes().unknown_link(frame.link_number) };
    match segment(link, frame.bytes, frame.original_len) {
        Ok(segment) => to.segment(&segment, said),
        // Only there for its comment.
        Err(_) if is_trusted && !frame.comments.is_empty() => {}
        Err(why) => to.notes().no_segment(why),
    }
}

impl<R: Read + Seek> Iterator for PcapEvents<R> {
    type Item = Result<Event, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            self.goes_on = false;
            self.conversations.forget();
        }
        next
    }
}
