//! The TCP connections of a capture, and the events that those of them with MQTT give.
//!
//! Events leave in the order of the capture. Whether a connection is one of MQTT shows only when its
//! client speaks, and the version of one that was open before shows later still; so OPEN waits for that,
//! and what came after it waits with it, up to a limit.

mod begun;
mod conversation;
mod queue;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use self::{
    begun::Begun,
    conversation::{Conversation, Stage},
    queue::Queue,
};
use super::{MQTT_PORT, PcapOptions, notes::Notes, segment::Segment};
use crate::recording::{CloseCause, ConnectionInfo, Event, EventKind};

/// How long what the other side has acknowledged may come late: captures from several queues are a little
/// out of order.
const GRACE: Duration = Duration::from_millis(100);
/// What all connections may hold together: the longest packet there can be, and as much again.
const HELD_MAX: usize = 512 << 20;
/// Connections at once.
const CONVERSATIONS_MAX: usize = 1 << 18;
/// Of connections that have ended or are none of ours, and of those that never said anything: how many
/// are remembered.
const REMEMBERED_MAX: usize = 16 * 1024;

/// Both ends of a connection, the lower first.
type Key = [SocketAddr; 2];

/// All connections.
pub struct Conversations {
    table: HashMap<Key, Conversation>,
    next_id: u64,
    shared: Shared,
    /// In the order they are forgotten in, with the number of the conversation it was.
    ended: VecDeque<(Key, u64)>,
    silent: VecDeque<(Key, u64)>,
    /// When to look whether what is missing came.
    overdue: VecDeque<(Duration, Key, u64)>,
    held: usize,
    /// The conversation for a number that this program had written.
    written: HashMap<u32, u64>,
    /// Connections that were open before the capture began, on ports of which nothing was known.
    strangers: HashSet<Key>,
}

/// What conversations use together.
struct Shared {
    ports: Vec<u16>,
    /// Of servers that a client sent a CONNECT to.
    found_ports: BTreeSet<u16>,
    keep_credentials: bool,
    is_trusted: bool,
    now: Duration,
    queue: Queue,
    notes: Notes,
}

/// What this program had written beside a segment.
#[derive(Debug)]
pub enum Said {
    Open(u32, Box<ConnectionInfo>),
    Close(CloseCause),
    Raw,
}

impl Conversations {
    pub fn new(options: &PcapOptions, is_trusted: bool) -> Self {
        Self {
            table: HashMap::new(),
            next_id: 1,
            shared: Shared {
                ports: options.ports.clone(),
                found_ports: BTreeSet::new(),
                keep_credentials: options.keep_credentials,
                is_trusted,
                now: Duration::ZERO,
                queue: Queue::new(is_trusted),
                notes: Notes::default(),
            },
            ended: VecDeque::new(),
            silent: VecDeque::new(),
            overdue: VecDeque::new(),
            held: 0,
            written: HashMap::new(),
            strangers: HashSet::new(),
        }
    }

    pub fn notes(&mut self) -> &mut Notes {
        &mut self.shared.notes
    }

    /// Whether the file says that this program has written it.
    pub fn is_trusted(&self) -> bool {
        self.shared.is_trusted
    }

    /// Nothing more will come out.
    pub fn forget(&mut self) {
        self.table.clear();
        self.shared.queue.clear();
    }

    pub fn texts(&self) -> Vec<String> {
        self.shared.notes.texts()
    }

    /// What can leave by now.
    pub fn next_event(&mut self) -> Option<Event> {
        self.shared.queue.next()
    }

    /// The time of what comes next.
    pub fn set_now(&mut self, at: Duration) {
        let shared = &mut self.shared;
        match shared.now.checked_sub(at) {
            Some(back) if !back.is_zero() => shared.notes.went_back(back),
            _ => shared.now = at,
        }
        while self.overdue.front().is_some_and(|(deadline, ..)| *deadline <= self.shared.now) {
            let Some((_, key, id)) = self.overdue.pop_front() else { return };
            if let Some(one) = self.table.get_mut(&key).filter(|one| one.id == id) {
                let before = one.held();
                one.lose_overdue(&mut self.shared);
                self.held = self.held + one.held() - before;
                self.look_after(&key);
            }
        }
    }

    /// Something that is no traffic; `written` is the number its connection had in the file.
    pub fn event(&mut self, written: u32, kind: EventKind) {
        let id = self.written.get(&written).copied().unwrap_or(0);
        self.shared.queue.push(self.shared.now, id, kind);
    }

    pub fn segment(&mut self, segment: &Segment<'_>, said: Option<Said>) {
        let (key, from) = match segment.source <= segment.destination {
            true => ([segment.source, segment.destination], 0),
            false => ([segment.destination, segment.source], 1),
        };
        self.shared.notes.cut += u64::from(segment.cut > 0);
        if !self.is_known(&key, from, segment, said.as_ref()) {
            return;
        }
        let Some(one) = self.table.get_mut(&key) else { return };
        let before = one.held();
        if let Some(Said::Open(number, _)) = &said {
            self.written.insert(*number, one.id);
        }
        one.segment(from, segment, said, &mut self.shared);
        self.held = self.held + one.held() - before;
        self.look_after(&key);
        if self.held > HELD_MAX {
            self.give_up();
        }
    }

    /// Sees to what became of a conversation: something may be missing now, or it has ended.
    fn look_after(&mut self, key: &Key) {
        let Some(one) = self.table.get_mut(key) else { return };
        if one.is_overdue() && !one.is_watched {
            one.is_watched = true;
            self.overdue.push_back((self.shared.now + GRACE, *key, one.id));
        }
        if matches!(one.stage, Stage::Ended | Stage::Foreign) && !one.is_retired {
            one.is_retired = true;
            self.ended.push_back((*key, one.id));
            self.forget_ended();
        }
    }

    /// Makes room: conversations that hold more than half of an equal share hold nothing any more.
    fn give_up(&mut self) {
        let share = HELD_MAX / 2 / self.table.len().max(1);
        let large = self.table.iter().filter(|(_, one)| one.held() > share);
        let mut large: Vec<(u64, Key)> = large.map(|(key, one)| (one.id, *key)).collect();
        large.sort_unstable();
        for (_, key) in large {
            let Some(one) = self.table.get_mut(&key) else { continue };
            let before = one.held();
            one.give_up(&mut self.shared);
            self.held = self.held + one.held() - before;
            self.look_after(&key);
        }
    }

    /// The end of the capture.
    pub fn end(&mut self) {
        let mut left: Vec<(u64, Key)> = self.table.iter().map(|(key, one)| (one.id, *key)).collect();
        left.sort_unstable();
        for (_, key) in left {
            if let Some(one) = self.table.get_mut(&key) {
                // What this program has written says itself how connections ended, if they did.
                let cause = (!self.shared.is_trusted).then_some(CloseCause::RecordingEnded);
                one.end_as(cause, &mut self.shared);
            }
        }
        self.table.clear();
        let Shared { found_ports, notes, .. } = &mut self.shared;
        for key in self.strangers.drain() {
            if let Some(port) = key.map(|end| end.port()).into_iter().find(|port| found_ports.contains(port))
            {
                notes.left_out_of_port(port);
            }
        }
        self.shared.queue.end();
    }

    /// Whether the segment belongs to a connection that is followed, which it may begin.
    fn is_known(&mut self, key: &Key, from: usize, segment: &Segment<'_>, said: Option<&Said>) -> bool {
        let begun = Begun::by(from, segment);
        if let Some(one) = self.table.get_mut(key) {
            let is_another = match (one.stage, said) {
                (Stage::Ended, Some(Said::Open(..))) => true,
                (Stage::Ended | Stage::Foreign, _) => begun.is_some_and(|begun| !one.is_begun(begun)),
                _ => begun.is_some_and(|begun| segment.is_syn && !one.is_begun(begun)),
            };
            if !is_another {
                return true;
            }
            // The port is used again.
            let held = one.held();
            one.replace(&mut self.shared);
            self.held -= held;
            self.table.remove(key);
        }
        let mut one = match (begun, said) {
            (Some(Begun { client, first_sequence }), _) => {
                Conversation::new(*key, Some(client), Some(first_sequence))
            }
            (None, Some(Said::Open(..))) => {
                // Written by this program, so the server's port is known.
                let client = if key[from].port() == MQTT_PORT { 1 - from } else { from };
                Conversation::new(*key, Some(client), None)
            }
            (None, _) if segment.payload.is_empty() || segment.is_rst => return false,
            (None, _) => match self.shared.client(key) {
                Some(client) => Conversation::new(*key, Some(client), None),
                None => {
                    if self.strangers.len() < REMEMBERED_MAX {
                        self.strangers.insert(*key);
                    }
                    return false;
                }
            },
        };
        if self.table.len() >= CONVERSATIONS_MAX {
            self.shared.notes.too_many += 1;
            return false;
        }
        let id = self.next_id;
        self.next_id += 1;
        one.id = id;
        self.table.insert(*key, one);
        self.silent.push_back((*key, id));
        self.forget_silent();
        true
    }

    fn forget_ended(&mut self) {
        while self.ended.len() > REMEMBERED_MAX {
            let Some((key, id)) = self.ended.pop_front() else { return };
            if self.table.get(&key).is_some_and(|one| one.id == id) {
                self.table.remove(&key);
            }
        }
    }

    fn forget_silent(&mut self) {
        while self.silent.len() > REMEMBERED_MAX {
            let Some((key, id)) = self.silent.pop_front() else { return };
            let Some(one) = self.table.get_mut(&key).filter(|one| one.id == id) else { continue };
            if matches!(one.stage, Stage::Handshake | Stage::Unknown) {
                self.held -= one.held();
                one.end(CloseCause::RecordingEnded, &mut self.shared);
                self.table.remove(&key);
            }
        }
    }
}

impl Shared {
    /// Which side is the client by the ports that are known to be MQTT.
    fn client(&self, key: &Key) -> Option<usize> {
        let [low, high] = key.map(|end| self.ports.contains(&end.port()));
        match (low, high) {
            (false, false) => None,
            (true, false) => Some(1),
            (false, true) => Some(0),
            // Clients' ports are the high ones.
            (true, true) => Some(usize::from(key[1].port() > key[0].port())),
        }
    }
}
