//! One TCP connection: whether it is one of MQTT, and what its sides say.

use bytes::{Bytes, BytesMut};

use super::{Key, Said, Shared, begun::Begun, queue::Undecided};
use crate::recording::{
    CloseCause, ConnectionInfo, Direction, EventKind,
    pcap::{
        cutter::{Cutter, Dialect, Piece, begins_with_connect},
        segment::Segment,
        stream::{Placed, Stream},
    },
    redact::{RawPasswords, redact_packet},
};

/// What may wait for a missing segment on one connection; larger than the windows of usual systems.
const AHEAD_MAX: usize = 8 << 20;

/// One connection.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) id: u64,
    key: Key,
    /// Which of the sides.
    client: Option<usize>,
    pub(super) stage: Stage,
    sides: [Side; 2],
    dialect: Dialect,
    /// What the client said before it is known to be one of MQTT.
    start: BytesMut,
    /// Of the client's SYN; `None` if it was open before the capture began.
    first_sequence: Option<u32>,
    /// Who ended it first.
    first_end: Option<CloseCause>,
    is_opened: bool,
    is_version_open: bool,
    pub(super) is_watched: bool,
    pub(super) is_retired: bool,
    /// Whether the client has been in the middle of something since before the capture began.
    is_adrift: bool,
    raw: RawPasswords,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not accepted yet.
    Handshake,
    /// Nobody knows of what.
    Unknown,
    Mqtt,
    Foreign,
    Ended,
}

#[derive(Debug)]
struct Side {
    stream: Stream,
    cutter: Cutter,
    has_ended: bool,
}

impl Conversation {
    pub(super) fn new(key: Key, client: Option<usize>, first_sequence: Option<u32>) -> Self {
        let side = |index| {
            let direction = match client == Some(index) {
                true => Direction::ClientToServer,
                false => Direction::ServerToClient,
            };
            Side { stream: Stream::default(), cutter: Cutter::new(direction), has_ended: false }
        };
        Self {
            id: 0,
            key,
            client,
            stage: Stage::Handshake,
            sides: [side(0), side(1)],
            dialect: Dialect::default(),
            start: BytesMut::new(),
            first_sequence,
            first_end: None,
            is_opened: false,
            is_version_open: false,
            is_watched: false,
            is_retired: false,
            is_adrift: false,
            raw: RawPasswords::default(),
        }
    }

    pub(super) fn held(&self) -> usize {
        let sides = self.sides.iter().map(|side| side.stream.held() + side.cutter.held());
        self.start.len() + sides.sum::<usize>()
    }

    /// Whether that is how it began.
    pub(super) fn is_begun(&self, begun: Begun) -> bool {
        self.client == Some(begun.client) && self.first_sequence == Some(begun.first_sequence)
    }

    fn direction(&self, side: usize) -> Direction {
        match self.client == Some(side) {
            true => Direction::ClientToServer,
            false => Direction::ServerToClient,
        }
    }

    pub(super) fn segment(
        &mut self,
        from: usize,
        segment: &Segment<'_>,
        said: Option<Said>,
        shared: &mut Shared,
    ) {
        if matches!(self.stage, Stage::Ended | Stage::Foreign) {
            return;
        }
        let (mut is_raw, mut closes) = (false, None);
        match said {
            Some(Said::Open(_, info)) if !self.is_opened => self.open_as(*info, from, segment, shared),
            Some(Said::Raw) => is_raw = true,
            Some(Said::Close(cause)) => closes = Some(cause),
            _ => {}
        }
        self.follow_handshake(from, segment, shared);
        if self.stage != Stage::Handshake {
            self.follow_bytes(from, segment, is_raw, shared);
        }
        if let Some(cause) = closes {
            self.end(cause, shared);
        } else if segment.is_rst {
            let cause = self.end_by(from, CloseCause::ClientRst, CloseCause::ServerRst);
            self.end(cause, shared);
        } else if segment.is_fin {
            self.infer_end(1 - from);
            let cause = self.end_by(from, CloseCause::ClientFin, CloseCause::ServerFin);
            self.first_end = Some(cause);
            self.sides[from].has_ended = true;
            self.sides[from].stream.set_end(segment.end());
        }
        self.end_if_done(shared);
    }

    /// Opens it as this program had written.
    fn open_as(&mut self, info: ConnectionInfo, from: usize, segment: &Segment<'_>, shared: &mut Shared) {
        self.dialect = Dialect { protocol: info.protocol, is_joined: info.already_open, is_trusted: true };
        self.is_adrift = info.already_open;
        if !segment.is_syn {
            self.sides[from].stream.begin(segment.sequence);
            if let Some(acknowledged) = segment.acknowledged {
                self.sides[1 - from].stream.begin(acknowledged);
            }
        }
        self.stage = Stage::Mqtt;
        self.is_opened = true;
        shared.queue.push(shared.now, self.id, EventKind::Open(Box::new(info)));
    }

    fn follow_handshake(&mut self, from: usize, segment: &Segment<'_>, shared: &mut Shared) {
        let other = 1 - from;
        if segment.is_syn && !self.sides[from].stream.is_begun() {
            self.sides[from].stream.begin(segment.sequence.wrapping_add(1));
        }
        if let Some(acknowledged) = segment.acknowledged.filter(|_| !segment.is_rst) {
            match self.sides[other].stream.is_begun() {
                true => self.sides[other].stream.acknowledge(acknowledged),
                false => self.sides[other].stream.begin(acknowledged),
            }
        }
        let is_asking = segment.is_syn && segment.acknowledged.is_none();
        if self.stage != Stage::Handshake || segment.is_rst || is_asking {
            return;
        }
        match self.first_sequence {
            Some(_) => self.accepted(shared),
            None => self.join(shared),
        }
    }

    /// The server let the client in.
    fn accepted(&mut self, shared: &mut Shared) {
        let is_expected = shared.client(&self.key).is_some();
        self.stage = if is_expected { Stage::Mqtt } else { Stage::Unknown };
        let undecided = if is_expected { Undecided::No } else { Undecided::Kind };
        self.put_open(false, undecided, shared);
    }

    /// It was open before the capture began.
    fn join(&mut self, shared: &mut Shared) {
        shared.notes.joined += 1;
        self.stage = Stage::Mqtt;
        self.dialect.is_joined = true;
        self.is_adrift = true;
        self.is_version_open = true;
        for side in &mut self.sides {
            side.cutter.lose(&mut Vec::new());
        }
        self.put_open(true, Undecided::Version, shared);
    }

    fn put_open(&mut self, already_open: bool, undecided: Undecided, shared: &mut Shared) {
        let client = self.client.unwrap_or(0);
        let info = ConnectionInfo {
            peer: Some(self.key[client].to_string()),
            listener: Some(self.key[1 - client].to_string()),
            transport: "tcp".to_owned(),
            already_open,
            ..ConnectionInfo::default()
        };
        self.is_opened = true;
        shared.queue.put(shared.now, self.id, EventKind::Open(Box::new(info)), undecided);
    }

    fn follow_bytes(&mut self, from: usize, segment: &Segment<'_>, is_raw: bool, shared: &mut Shared) {
        let side = &mut self.sides[from];
        if !side.stream.is_begun() {
            side.stream.begin(segment.sequence.wrapping_add(u32::from(segment.is_syn)));
        }
        if segment.payload.is_empty() {
            return;
        }
        let sequence = segment.sequence.wrapping_add(u32::from(segment.is_syn));
        match side.stream.insert(sequence, segment.payload) {
            Placed::Next(bytes) if is_raw => {
                let direction = self.direction(from);
                self.emit(Piece::Raw(Bytes::copy_from_slice(bytes)), direction, shared);
            }
            Placed::Next(bytes) => self.take(from, bytes, shared),
            Placed::Ahead => shared.notes.ahead += 1,
            Placed::Again => shared.notes.again += 1,
            Placed::Astray => shared.notes.astray += 1,
        }
        self.take_pieces(from, shared);
        while self.sides[from].stream.held() > AHEAD_MAX && self.lose(from, shared) {}
    }

    /// Goes on with what had come ahead.
    fn take_pieces(&mut self, from: usize, shared: &mut Shared) {
        while let Some(piece) = self.sides[from].stream.next_piece() {
            self.take(from, &piece, shared);
        }
    }

    /// Takes what `from` said next.
    fn take(&mut self, from: usize, mut bytes: &[u8], shared: &mut Shared) {
        match self.stage {
            Stage::Unknown if self.client == Some(from) => {
                self.start.extend_from_slice(bytes);
                match begins_with_connect(&self.start) {
                    None => {}
                    Some(false) => self.reject(shared),
                    Some(true) => {
                        self.stage = Stage::Mqtt;
                        shared.found_ports.insert(self.key[1 - from].port());
                        if !shared.queue.settle(self.id, None) {
                            self.put_open(false, Undecided::No, shared);
                        }
                        let start = self.start.split();
                        self.take(from, &start, shared);
                    }
                }
            }
            // Servers of MQTT wait to be spoken to.
            Stage::Unknown => self.reject(shared),
            Stage::Mqtt => {
                let direction = self.direction(from);
                if direction == Direction::ClientToServer {
                    let (masked, rest) = self.raw.split(bytes);
                    if !masked.is_empty() {
                        shared.notes.overwritten += 1;
                        shared.queue.push(shared.now, self.id, EventKind::Raw { direction, bytes: masked });
                    }
                    bytes = rest;
                }
                let mut pieces = Vec::new();
                if !bytes.is_empty() {
                    self.sides[from].cutter.push(bytes, &mut self.dialect, &mut pieces);
                }
                self.emit_all(pieces, direction, shared);
                if self.is_version_open && self.dialect.protocol.is_some() {
                    self.is_version_open = false;
                    shared.queue.settle(self.id, self.dialect.protocol);
                }
            }
            Stage::Handshake | Stage::Foreign | Stage::Ended => {}
        }
    }

    fn emit_all(&mut self, pieces: Vec<Piece>, direction: Direction, shared: &mut Shared) {
        for piece in pieces {
            self.emit(piece, direction, shared);
        }
    }

    fn emit(&mut self, piece: Piece, direction: Direction, shared: &mut Shared) {
        let may_hold_password = direction == Direction::ClientToServer && !shared.keep_credentials;
        let kind = match piece {
            Piece::Packet(mut bytes) => {
                if direction == Direction::ClientToServer {
                    self.is_adrift = false;
                    self.raw.packet();
                }
                if may_hold_password && let Some(redacted) = redact_packet(&bytes) {
                    shared.notes.passwords += u64::from(redacted != bytes);
                    bytes = redacted;
                }
                EventKind::Packet { direction, bytes }
            }
            Piece::Raw(mut bytes) => {
                if may_hold_password
                    && !self.is_adrift
                    && let Some(redacted) = self.raw.redact(&bytes)
                {
                    shared.notes.overwritten += u64::from(redacted != bytes);
                    bytes = redacted;
                }
                EventKind::Raw { direction, bytes }
            }
        };
        shared.queue.push(shared.now, self.id, kind);
    }

    /// It is none of MQTT.
    fn reject(&mut self, shared: &mut Shared) {
        shared.notes.foreign(&self.start);
        shared.queue.withdraw(self.id);
        *self = Self {
            id: self.id,
            stage: Stage::Foreign,
            is_retired: self.is_retired,
            ..Self::new(self.key, self.client, self.first_sequence)
        };
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.stage == Stage::Mqtt && self.sides.iter().any(|side| side.stream.lacks_acknowledged())
    }

    /// Gives up what the other side has received and the capture has not.
    pub(super) fn lose_overdue(&mut self, shared: &mut Shared) {
        self.is_watched = false;
        for side in 0..2 {
            while self.stage == Stage::Mqtt
                && self.sides[side].stream.lacks_acknowledged()
                && self.lose(side, shared)
            {}
        }
        self.end_if_done(shared);
    }

    /// Ends what `from` says if the other side has acknowledged a FIN that the capture lacks.
    fn infer_end(&mut self, from: usize) -> bool {
        let is_missing = self.sides[from].stream.lacks_end_only();
        if is_missing {
            let side = &mut self.sides[from];
            side.has_ended = true;
            side.stream.end_here();
            self.first_end = Some(self.end_by(from, CloseCause::ClientFin, CloseCause::ServerFin));
        }
        is_missing
    }

    /// Gives up what is missing next; `false` if nothing is.
    fn lose(&mut self, from: usize, shared: &mut Shared) -> bool {
        if self.infer_end(from) {
            return false;
        }
        let Some(missing) = self.sides[from].stream.skip() else { return false };
        match self.stage {
            Stage::Mqtt => {
                let direction = self.direction(from);
                let mut pieces = Vec::new();
                self.sides[from].cutter.lose(&mut pieces);
                self.emit_all(pieces, direction, shared);
                // Perhaps it was the CONNECT.
                self.dialect.is_joined |= self.dialect.protocol.is_none();
                if direction == Direction::ClientToServer {
                    self.raw.skip(missing);
                }
                shared.notes.holes += 1;
                shared.notes.missing += missing;
                // At least one packet was in there.
                shared.queue.push(shared.now, self.id, EventKind::Gap { events: 1, bytes: missing });
            }
            _ => self.reject(shared),
        }
        self.take_pieces(from, shared);
        true
    }

    /// Holds too much: what has begun is bytes.
    pub(super) fn give_up(&mut self, shared: &mut Shared) {
        shared.notes.too_large += 1;
        for side in 0..2 {
            while self.sides[side].stream.held() > 0 && self.lose(side, shared) {}
            let mut pieces = Vec::new();
            self.sides[side].cutter.lose(&mut pieces);
            let direction = self.direction(side);
            self.emit_all(pieces, direction, shared);
        }
    }

    fn end_by(&self, from: usize, client: CloseCause, server: CloseCause) -> CloseCause {
        let cause = if self.client == Some(from) { client } else { server };
        self.first_end.unwrap_or(cause)
    }

    /// Ends it once both sides have said so and nothing is missing.
    fn end_if_done(&mut self, shared: &mut Shared) {
        let is_done = self.sides.iter().all(|side| side.has_ended && side.stream.is_at_end());
        if let (true, Some(cause)) = (is_done, self.first_end) {
            self.end(cause, shared);
        }
    }

    /// The client's port is used again, so it had ended, whether that was seen or not.
    pub(super) fn replace(&mut self, shared: &mut Shared) {
        shared.notes.ends_unseen += u64::from(self.stage == Stage::Mqtt && self.first_end.is_none());
        self.end(CloseCause::Timeout, shared);
    }

    pub(super) fn end(&mut self, cause: CloseCause, shared: &mut Shared) {
        self.end_as(Some(cause), shared);
    }

    /// With a CLOSE if there is a cause for it.
    pub(super) fn end_as(&mut self, cause: Option<CloseCause>, shared: &mut Shared) {
        match self.stage {
            Stage::Handshake => {}
            Stage::Unknown => return self.reject(shared),
            Stage::Foreign | Stage::Ended => return,
            Stage::Mqtt => {
                for side in [self.client.unwrap_or(0), 1 - self.client.unwrap_or(0)] {
                    while self.lose(side, shared) {}
                    let mut pieces = Vec::new();
                    self.sides[side].cutter.flush(&mut pieces);
                    let direction = self.direction(side);
                    self.emit_all(pieces, direction, shared);
                }
                let cause = cause.map(|cause| match cause {
                    CloseCause::RecordingEnded | CloseCause::Timeout => self.first_end.unwrap_or(cause),
                    cause => cause,
                });
                if self.is_version_open {
                    shared.queue.settle(self.id, None);
                }
                if let Some(cause) = cause {
                    shared.queue.push(shared.now, self.id, EventKind::Close(cause));
                }
            }
        }
        *self = Self {
            id: self.id,
            stage: Stage::Ended,
            is_retired: self.is_retired,
            ..Self::new(self.key, self.client, self.first_sequence)
        };
    }
}
