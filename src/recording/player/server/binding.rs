//! Which recorded connection a live one stands for.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{Part, TooLong, identifier::is_drawn, part::Manner, reader::Reader};
use crate::{
    packet::{Connack, Connect, ControlPacket},
    recording::{Event, NameTemplate, player::Selection},
};

/// All recorded connections, as far as nobody plays them yet.
///
/// A live client plays the recorded one of its name; else the one of whom `names` makes its name; else, if it has none or
/// nobody was called so, one whose own name was drawn by a library or the server, or fits `names` whatever it is. The last
/// is known only by what the client does: it is [taken](Self::take) with the first packet that the recorded one sent, too.
#[derive(Debug, Default)]
pub struct Parts {
    /// In the order they were opened.
    parts: Vec<Option<Part>>,
    /// Those that nobody plays, of each recorded client.
    waiting: HashMap<String, VecDeque<usize>>,
    /// Recorded clients, in the order they came; the first part of each.
    clients: Vec<(String, usize)>,
    names: Option<NameTemplate>,
    /// What live clients were recorded as.
    cast: HashMap<String, String>,
    /// Recorded clients whom somebody plays.
    played: HashSet<String>,
    /// What those were told last who were refused.
    refused: HashMap<String, Connack>,
    /// First parts that anybody may play who connects alike.
    anybodys: BTreeSet<usize>,
    /// Those that are kept for live connections until they have done something.
    kept: HashMap<u64, usize>,
    left: usize,
    /// Of the recording.
    pub connections: usize,
    /// Messages that servers sent.
    pub deliveries: u64,
    /// From the first to the last of them.
    pub span: Duration,
}

/// Who a live client is.
#[derive(Debug)]
pub enum Binding {
    Part(Box<Part>),
    /// It may be one of several: answered so, it shows [by what it does](Parts::take).
    Open(Option<Connack>),
    /// A recorded client that comes more often than it did, and was refused in the end.
    Refused(Connack),
    Nobody,
}

impl Parts {
    /// Reads all of a recording; what was recorded is kept for whoever judges.
    ///
    /// # Errors
    /// Those of the events, and [`TooLong`].
    pub fn read<E: From<TooLong>>(
        events: impl Iterator<Item = Result<Event, E>>,
        selection: &Selection,
        is_judged: bool,
    ) -> Result<Self, E> {
        let mut reader = Reader::new(is_judged);
        for event in events {
            let event = event?;
            if event.at >= selection.end() {
                break;
            }
            reader.take(event, selection)?;
        }
        let (parts, deliveries, span) = reader.into_parts();
        Ok(Self { deliveries, span, ..Self::new(parts) })
    }

    fn new(parts: Vec<Part>) -> Self {
        let mut made = Self { left: parts.len(), connections: parts.len(), ..Self::default() };
        for (place, part) in parts.iter().enumerate() {
            let client = part.client_identifier.as_str();
            let places = made.waiting.entry(client.to_owned()).or_default();
            // Each connection without a name is a client of its own.
            if places.is_empty() || client.is_empty() {
                made.clients.push((client.to_owned(), place));
                if is_drawn(client) {
                    made.anybodys.insert(place);
                }
            }
            places.push_back(place);
        }
        made.parts = parts.into_iter().map(Some).collect();
        made
    }

    /// Live clients are called what `names` makes of recorded ones; `{{i}}` and `{{run_id}}` in it are any text, and one
    /// without `{{client_id}}` says that any recorded client may be meant.
    pub fn named(mut self, names: NameTemplate) -> Self {
        if !names.has_client() {
            self.anybodys = self.clients.iter().map(|(_, place)| *place).collect();
        }
        self.names = Some(names);
        self
    }

    /// Who `connection` is, by its CONNECT.
    pub fn bind(&mut self, connection: u64, connect: &Connect) -> Binding {
        let live = connect.client_identifier.as_str();
        if let Some(recorded) = self.recorded(live) {
            return match self.waiting.get(&recorded).and_then(VecDeque::front).copied() {
                Some(place) => Binding::Part(Box::new(self.play(place, live))),
                None => match self.refused.get(&recorded) {
                    Some(connack) => Binding::Refused(connack.clone()),
                    None => Binding::Nobody,
                },
            };
        }
        if self.names.as_ref().is_some_and(|names| !names.has_client() && !names.fits(live, "")) {
            return Binding::Nobody;
        }
        let Some(place) = self.anybody(Manner::of(connect), live.is_empty()) else { return Binding::Nobody };
        let part = self.part(place);
        // Nothing that it could do would tell.
        if part.connack.as_ref().is_none_or(|connack| connack.reason_code.is_error()) {
            return Binding::Part(Box::new(self.play(place, live)));
        }
        let connack = part.connack.clone();
        self.keep(connection, place);
        Binding::Open(connack)
    }

    /// The part of an open `connection` whose recorded client sent `packet`, too, if there is one.
    pub fn take(&mut self, connection: u64, connect: &Connect, packet: &ControlPacket) -> Option<Part> {
        let own = *self.kept.get(&connection)?;
        let live = connect.client_identifier.as_str();
        let manner = Some(Manner::of(connect));
        let is_alike = |part: &Part| part.manner == manner;
        let place = if self.knows(own, packet, live) {
            own
        } else {
            let others = self.kept.values().chain(&self.anybodys).copied();
            let mut others: Vec<usize> = others.filter(|place| is_alike(self.part(*place))).collect();
            others.sort_unstable();
            others.into_iter().find(|place| self.knows(*place, packet, live))?
        };
        self.release(connection);
        let other = self.kept.iter().find(|(_, kept)| **kept == place).map(|(other, _)| *other);
        if let Some(other) = other {
            // Whoever it was kept for has ours instead.
            self.release(other);
            self.keep(other, own);
        }
        Some(self.play(place, live))
    }

    /// An open `connection` ends: its part, if all that the recorded client did was to connect.
    pub fn leave(&mut self, connection: u64, connect: &Connect) -> Option<Part> {
        let place = self.release(connection)?;
        let is_silent = self.part(place).is_silent();
        is_silent.then(|| self.play(place, connect.client_identifier.as_str()))
    }

    /// Those that nobody played.
    pub fn into_left(self) -> impl Iterator<Item = Part> {
        self.parts.into_iter().flatten()
    }

    /// Names of the recorded clients of the parts that nobody plays.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flatten().map(|part| part.client_identifier.as_str())
    }

    /// How many nobody plays yet.
    pub fn len(&self) -> usize {
        self.left
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Which recorded client a live one is by its name.
    fn recorded(&self, live: &str) -> Option<String> {
        if live.is_empty() {
            return None;
        }
        if let Some(recorded) = self.cast.get(live) {
            return Some(recorded.clone());
        }
        if self.waiting.contains_key(live) {
            return Some(live.to_owned());
        }
        let names = self.names.as_ref().filter(|names| names.has_client())?;
        let is_free = |client: &str| !client.is_empty() && !self.played.contains(client);
        let fits = |client: &str| is_free(client) && names.fits(live, client);
        self.clients.iter().find(|(client, _)| fits(client)).map(|(client, _)| client.clone())
    }

    /// The first part that anybody may play who connects in this manner, sooner one of a client without a name for one
    /// that has none, too.
    fn anybody(&self, manner: Manner, is_nameless: bool) -> Option<usize> {
        let alike = || self.anybodys.iter().copied().filter(|place| self.part(*place).manner == Some(manner));
        let equal = alike().find(|place| self.part(*place).client_identifier.is_empty() == is_nameless);
        equal.or_else(|| alike().next())
    }

    fn part(&self, place: usize) -> &Part {
        self.parts[place].as_ref().expect("places that are listed are of parts that are there")
    }

    fn knows(&mut self, place: usize, packet: &ControlPacket, live: &str) -> bool {
        self.parts[place].as_mut().is_some_and(|part| part.knows(packet, live))
    }

    fn keep(&mut self, connection: u64, place: usize) {
        self.anybodys.remove(&place);
        self.kept.insert(connection, place);
    }

    fn release(&mut self, connection: u64) -> Option<usize> {
        let place = self.kept.remove(&connection)?;
        self.anybodys.insert(place);
        Some(place)
    }

    fn play(&mut self, place: usize, live: &str) -> Part {
        let mut part = self.parts[place].take().expect("places that are listed are of parts that are there");
        self.left -= 1;
        self.anybodys.remove(&place);
        let recorded = part.client_identifier.clone();
        if let Some(waiting) = self.waiting.get_mut(&recorded) {
            match waiting.front() {
                Some(first) if *first == place => _ = waiting.pop_front(),
                _ => waiting.retain(|other| *other != place),
            }
        }
        match &part.connack {
            Some(connack) if connack.reason_code.is_error() => {
                self.refused.insert(recorded.clone(), connack.clone());
            }
            _ => _ = self.refused.remove(&recorded),
        }
        if !live.is_empty() && !recorded.is_empty() {
            self.cast.insert(live.to_owned(), recorded.clone());
            self.played.insert(recorded);
        }
        part.rename(live);
        part
    }
}
