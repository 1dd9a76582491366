//! Events that leave in the order of the capture, and wait for what is not decided.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{
    packet::ProtocolVersion,
    recording::{Event, EventKind},
};

/// Events, and their bytes, that wait for what is not decided.
const WAITING_MAX: usize = 16 * 1024;
const WAITING_BYTES_MAX: usize = 16 << 20;

/// Events on their way out.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Of the conversations that were opened.
    numbers: HashMap<u64, u32>,
    opened: u32,
    seq: u64,
    /// Whether something may yet be said of connections that were closed.
    keeps_numbers: bool,
    is_last: bool,
}

struct Waiting {
    at: Duration,
    /// 0 for none.
    conversation: u64,
    kind: EventKind,
    undecided: Undecided,
}

/// What is not known of an OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecided {
    No,
    /// Whether it is one of MQTT.
    Kind,
    /// Which version it speaks.
    Version,
}

impl Queue {
    pub(super) fn new(keeps_numbers: bool) -> Self {
        Self { keeps_numbers, ..Self::default() }
    }

    pub(super) fn push(&mut self, at: Duration, conversation: u64, kind: EventKind) {
        self.put(at, conversation, kind, Undecided::No);
    }

    pub(super) fn put(&mut self, at: Duration, conversation: u64, kind: EventKind, undecided: Undecided) {
        self.bytes += kind.size();
        self.waiting.push_back(Waiting { at, conversation, kind, undecided });
    }

    /// Decides about the OPEN of `conversation`; `false` if it does not wait any more.
    pub(super) fn settle(&mut self, conversation: u64, protocol: Option<ProtocolVersion>) -> bool {
        let Some(position) = self.undecided(conversation) else { return false };
        let waiting = &mut self.waiting[position];
        waiting.undecided = Undecided::No;
        if let EventKind::Open(info) = &mut waiting.kind {
            info.protocol = protocol;
        }
        true
    }

    pub(super) fn withdraw(&mut self, conversation: u64) {
        if let Some(position) = self.undecided(conversation) {
            self.waiting.remove(position);
        }
    }

    fn undecided(&self, conversation: u64) -> Option<usize> {
        self.waiting
            .iter()
            .rposition(|one| one.conversation == conversation && one.undecided != Undecided::No)
    }

    /// Nothing more will come, so what is undecided stays so.
    pub(super) fn end(&mut self) {
        self.is_last = true;
    }

    /// Nothing more will come out.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// The next event, if nothing before it is undecided. An OPEN that stays so for too long goes as it
    /// is, or is left out where it may be none of MQTT.
    pub(super) fn next(&mut self) -> Option<Event> {
        loop {
            let is_full = self.waiting.len() > WAITING_MAX || self.bytes > WAITING_BYTES_MAX;
            if self.waiting.front()?.undecided != Undecided::No && !is_full && !self.is_last {
                return None;
            }
            let Waiting { at, conversation, kind, undecided } = self.waiting.pop_front()?;
            self.bytes -= kind.size();
            if undecided == Undecided::Kind {
                continue;
            }
            if matches!(kind, EventKind::Open(_)) {
                self.opened += 1;
                self.numbers.insert(conversation, self.opened);
            }
            let connection = match kind {
                EventKind::Close(_) if !self.keeps_numbers => self.numbers.remove(&conversation),
                _ => self.numbers.get(&conversation).copied(),
            };
            self.seq += 1;
            return Some(Event { seq: self.seq, at, connection: connection.unwrap_or(0), kind });
        }
    }
}
