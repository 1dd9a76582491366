//! A recording of its own, cut out of another.

mod cut;
#[cfg(test)]
mod tests;
mod told;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

pub use self::cut::Cut;
use self::told::Told;
use super::{CloseCause, Event, EventKind, Sieve, Sifted, standing::Standing};

/// Bytes of subscriptions and retained messages that are kept; what is beyond is counted.
const STANDING_MAX: usize = 64 << 20;

/// The events of an excerpt, numbered from 1, its connections from 1, offsets from its beginning.
///
/// One that begins later than its recording first says what stood then: which connections were open, the retained
/// messages, the subscriptions. A PUBLISH whose topic alias was set before has its topic spelled out. In one that ends
/// earlier, connections that were open then are closed by the recording's end.
pub struct Excerpt<I> {
    events: I,
    sieve: Sieve,
    start: Duration,
    until: Option<Duration>,
    /// What came before the start; `None` once that is reached.
    before: Option<Before>,
    /// Topic aliases; `None` where nothing came before.
    aliases: Option<Told>,
    /// New numbers of the connections that are open.
    numbers: HashMap<u32, u32>,
    connections: u32,
    queue: VecDeque<Event>,
    seq: u64,
    last_at: Duration,
    done: bool,
    notes: Notes,
}

#[derive(Debug)]
struct Before {
    standing: Standing,
    wall: Option<(Duration, Timestamp)>,
}

#[derive(Debug, Default)]
struct Notes {
    spelled_out: u64,
    left_out: u64,
}

impl<I> Excerpt<I> {
    /// Of `events`, as far as `sieve`, which is not about time, lets them through.
    fn new(events: I, sieve: Sieve, start: Option<Duration>, until: Option<Duration>) -> Self {
        Self {
            events,
            sieve,
            start: start.unwrap_or_default(),
            until,
            before: start
                .filter(|start| !start.is_zero())
                .map(|_| Before { standing: Standing::new(STANDING_MAX), wall: None }),
            aliases: start.map(|_| Told::default()),
            numbers: HashMap::new(),
            connections: 0,
            queue: VecDeque::new(),
            seq: 0,
            last_at: Duration::ZERO,
            done: false,
            notes: Notes::default(),
        }
    }
}

impl<I, E> Excerpt<I>
where
    I: Iterator<Item = Result<Event, E>>,
{
    /// What had to be changed or left out; known at the end.
    pub fn notes(&self) -> Vec<String> {
        let Notes { spelled_out, left_out } = self.notes;
        let mut notes = Vec::new();
        if spelled_out > 0 {
            let packets = if spelled_out == 1 {
                "1 PUBLISH has its topic"
            } else {
                "PUBLISH packets have their topics"
            };
            let count = if spelled_out == 1 { String::new() } else { format!("{spelled_out} ") };
            notes.push(format!(
                "{count}{packets} spelled out: the topic alias was set before the excerpt begins"
            ));
        }
        if left_out > 0 {
            notes.push(format!(
                "of retained messages and subscriptions, {left_out} found no room: more than 64 MiB"
            ));
        }
        notes
    }

    fn advance(&mut self) -> Result<Option<Event>, E> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            if self.done {
                return Ok(None);
            }
            match self.events.next().transpose()? {
                Some(event) if self.until.is_none_or(|until| event.at < until) => self.take(event),
                ended => self.end(ended.is_some()),
            }
        }
    }

    fn take(&mut self, event: Event) {
        let is_before = event.at < self.start;
        if !is_before {
            self.begin();
        }
        if let Some(before) = &mut self.before {
            before.standing.follow(&event);
            if let EventKind::Anchor(wall) = event.kind {
                before.wall = Some((event.at, wall));
            }
        }
        let seen = self.aliases.as_mut().and_then(|aliases| aliases.follow(&event));
        let spelled_out = match (&mut self.aliases, seen) {
            (Some(aliases), Some(seen)) if !is_before => aliases.spell_out(&event, seen),
            _ => None,
        };
        let closed = matches!(event.kind, EventKind::Close(_)).then_some(event.connection);
        let sifted = self.sieve.push(event);
        if !is_before {
            self.keep(sifted, spelled_out);
        }
        if let Some(closed) = closed {
            self.numbers.remove(&closed);
            if let Some(aliases) = &mut self.aliases {
                aliases.forget(closed);
            }
        }
    }

    /// Says what stands where the excerpt begins.
    fn begin(&mut self) {
        let Some(Before { standing, wall }) = self.before.take() else { return };
        self.notes.left_out += standing.left_out(self.start);
        let at = self.start;
        if let Some((then, wall)) = wall {
            self.put(Event { seq: 0, at, connection: 0, kind: EventKind::Anchor(later(wall, at - then)) });
        }
        for (connection, kind) in standing.events(at) {
            let event = Event { seq: 0, at, connection, kind };
            if self.sieve.wants_standing(&event) {
                self.put(event);
            }
        }
    }

    fn keep(&mut self, sifted: impl IntoIterator<Item = Sifted>, mut spelled_out: Option<EventKind>) {
        for (mut event, _) in sifted {
            // It is the last one: what waited came before it.
            if let (EventKind::Packet { .. }, Some(kind)) = (&event.kind, spelled_out.take()) {
                event.kind = kind;
                self.notes.spelled_out += 1;
            }
            self.put(event);
        }
    }

    fn put(&mut self, mut event: Event) {
        if event.connection != 0 {
            let next = self.connections + 1;
            let number = *self.numbers.entry(event.connection).or_insert(next);
            self.connections = self.connections.max(number);
            event.connection = number;
        }
        self.seq += 1;
        event.seq = self.seq;
        event.at = event.at.saturating_sub(self.start).max(self.last_at);
        self.last_at = event.at;
        self.queue.push_back(event);
    }

    /// Closes what is open where the excerpt ends before the recording does.
    fn end(&mut self, is_cut: bool) {
        self.done = true;
        if self.until.is_none_or(|until| until > self.start) {
            self.begin();
        }
        let rest = self.sieve.finish();
        self.keep(rest, None);
        if !is_cut {
            return;
        }
        let mut open: Vec<_> = self.numbers.iter().map(|(old, new)| (*new, *old)).collect();
        open.sort_unstable();
        for (_, connection) in open {
            let at = self.until.unwrap_or_default();
            self.put(Event { seq: 0, at, connection, kind: EventKind::Close(CloseCause::RecordingEnded) });
        }
    }
}

impl<I, E> Iterator for Excerpt<I>
where
    I: Iterator<Item = Result<Event, E>>,
{
    type Item = Result<Event, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_)) | None) {
            self.done = true;
            self.queue.clear();
        }
        next
    }
}

fn later(wall: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| wall.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}
