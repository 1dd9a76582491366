//! A relay between two sides that send anything, observed or not, with somebody who keeps messages or not.

use std::time::Instant;

use bytes::Bytes;
use mockforge::{
    interceptor::{Interception, Interceptor, Interest, Offered, Party, Verdict},
    packet::ProtocolVersion,
    recording::Direction,
    relay::{Asked, Forward, Relay, RelayLimits, Report, Watch},
    session::ConnectionId,
};

use super::{Source, packets};

const LIMITS: RelayLimits = RelayLimits { hold: 300, record: 2_000 };

/// Answers that may wait before nothing more is read from the client, and those to one more read.
const REPLIES_MAX: usize = 128 << 10;

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let flags = source.byte();
    let interest = Interest::default();
    interest.set(Party::Webhooks, flags & 1 != 0);
    interest.set(Party::Mocks, flags & 2 != 0);
    let mut stage = Stage {
        relay: Relay::new(LIMITS),
        interception: Interception::new(Box::new(Keeper(interest.clone())), interest.clone()),
        protocol: ProtocolVersion::V311,
        is_observed: flags & 4 != 0,
        is_kept: flags & 2 != 0,
        was_observed: flags & 4 != 0,
        reports: Vec::new(),
        sides: Default::default(),
    };
    while !source.is_empty() {
        stage.act(&mut source, &interest);
        stage.check();
    }
    stage.end();
}

struct Stage {
    relay: Relay,
    interception: Interception,
    protocol: ProtocolVersion,
    is_observed: bool,
    /// Whether anybody ever could keep a message.
    is_kept: bool,
    /// Whether everything was observed.
    was_observed: bool,
    reports: Vec<Report>,
    sides: [Side; 2],
}

/// What came from one side, and what became of it.
#[derive(Default)]
struct Side {
    /// To be received.
    waiting: Vec<u8>,
    received: Vec<u8>,
    passed: Vec<u8>,
    reported: Vec<u8>,
}

const SIDES: [Direction; 2] = [Direction::ClientToServer, Direction::ServerToClient];

impl Stage {
    fn act(&mut self, source: &mut Source<'_>, interest: &Interest) {
        let op = source.byte();
        let side = usize::from(op & 1);
        match op >> 1 & 0b1111 {
            0..=8 => {
                let bytes = packets::bytes(source, &mut self.protocol);
                self.sides[side].waiting.extend_from_slice(&bytes);
                if op & 0x80 == 0 {
                    self.receive(side, usize::MAX);
                }
            }
            9 => {
                let bytes = source.bytes();
                self.sides[side].waiting.extend_from_slice(bytes);
                self.receive(side, usize::MAX);
            }
            10 | 11 => {
                let count = usize::from(source.byte());
                self.receive(side, count);
            }
            12 => {
                self.is_observed = !self.is_observed;
                self.was_observed = false;
            }
            13 => {
                self.is_kept = true;
                interest.set(Party::Mocks, source.flag());
            }
            14 => interest.set(Party::Webhooks, source.flag()),
            _ => {
                self.relay.take_counts();
                self.relay.take_granted();
                for direction in SIDES {
                    self.relay.begun(direction);
                }
            }
        }
    }

    fn receive(&mut self, side: usize, count: usize) {
        let waiting = &mut self.sides[side].waiting;
        let bytes: Vec<u8> = waiting.drain(..count.min(waiting.len())).collect();
        // An end has other words than nothing.
        if bytes.is_empty() {
            return;
        }
        self.sides[side].received.extend_from_slice(&bytes);
        let forward =
            self.watched(|relay, watch, reports| relay.receive(SIDES[side], &bytes, watch, reports));
        let passed = match forward {
            Forward::Received => bytes.into(),
            Forward::Bytes(bytes) => bytes,
        };
        self.sides[side].passed.extend_from_slice(&passed);
        if self.relay.is_resumable() {
            let passed = self.watched(Relay::resume);
            self.sides[0].passed.extend_from_slice(&passed);
        }
        if self.relay.is_between_packets(Direction::ServerToClient) {
            self.relay.take_replies();
        }
        self.relay.take_asked();
    }

    fn watched<R>(&mut self, act: impl FnOnce(&mut Relay, Watch<'_>, &mut Vec<Report>) -> R) -> R {
        let (now, connection) = (Instant::now(), ConnectionId(1));
        let is_active = self.interception.is_active();
        let asked = is_active.then_some(Asked { interception: &mut self.interception, now, connection });
        let watch = Watch { is_observed: self.is_observed, asked };
        let result = act(&mut self.relay, watch, &mut self.reports);
        self.note_reports();
        result
    }

    fn note_reports(&mut self) {
        for report in self.reports.drain(..) {
            if let Report::Packet { direction, bytes } | Report::Raw { direction, bytes } = report {
                self.sides[usize::from(direction == Direction::ServerToClient)]
                    .reported
                    .extend_from_slice(&bytes);
            }
        }
    }

    fn check(&self) {
        for (number, side) in self.sides.iter().enumerate() {
            if self.was_observed {
                assert!(side.received.starts_with(&side.reported), "what is reported is what came");
            }
            if number == 1 || !self.is_kept {
                assert!(side.received.starts_with(&side.passed), "what is passed on is what came");
                // Of a longer packet than is held, nothing but its last piece is.
                let held = side.received.len() - side.passed.len();
                assert!(held <= 2 * LIMITS.record.max(LIMITS.hold) + 9_100, "{held} bytes are held");
            }
            if self.was_observed && !self.is_kept {
                assert!(
                    side.reported.len() + self.unreported_max() >= side.passed.len(),
                    "passed on before it is told"
                );
            }
        }
    }

    /// Bytes of a packet that is passed on in pieces and reported whole.
    fn unreported_max(&self) -> usize {
        LIMITS.record
    }

    fn end(mut self) {
        for side in [1, 0] {
            self.receive(side, usize::MAX);
            let rest: Bytes = self.relay.finish(SIDES[side], self.is_observed, &mut self.reports);
            self.note_reports();
            self.sides[side].passed.extend_from_slice(&rest);
        }
        for (number, side) in self.sides.iter().enumerate() {
            if number == 1 || !self.is_kept {
                assert_eq!(side.passed, side.received, "everything is passed on");
            }
            if self.was_observed {
                assert_eq!(side.reported, side.received, "everything is reported");
            }
        }
        assert!(self.relay.take_replies().len() <= REPLIES_MAX);
    }
}

/// Keeps messages to some topics, where somebody is there who may.
struct Keeper(Interest);

impl Interceptor for Keeper {
    fn ask(&mut self, _: Instant, offered: &Offered<'_>) -> Verdict {
        if self.0.has(Party::Mocks) && offered.topic.starts_with('t') {
            Verdict::Intercept
        } else {
            Verdict::Route
        }
    }
}
