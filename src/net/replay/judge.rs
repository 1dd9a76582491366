//! The live recording that a replay makes of itself, judged as it goes.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    recorder::{Capture, Sink},
    recording::{Direction, Event, EventKind, RecordingSource, RecordingSpec},
    session::ConnectionId,
    tap::{Attachment, Tap},
    verification::{Identity, Judged, Level, Rules, Scope, TooDifferent, Verdict, Verifier},
};

/// Packets that may be expected before what comes back is heard first.
const AHEAD_MAX: u64 = 100_000;
/// How long nothing may come meanwhile.
const AHEAD_PATIENCE: Duration = Duration::from_millis(250);

/// How closely what comes back is compared with the recording.
#[derive(Clone, Debug)]
pub struct VerifySpec {
    pub level: Level,
    pub rules: Arc<Rules>,
    /// How long nothing may come before what is missing is missing.
    pub settle: Duration,
}

impl VerifySpec {
    pub const SETTLE: Duration = Duration::from_secs(2);

    pub fn new(level: Level) -> Self {
        Self { level, rules: Arc::default(), settle: Self::SETTLE }
    }
}

/// First byte of the packet.
const PINGRESP: u8 = 0xd0;

/// Compares what passes a tap with what is expected: the recording, or what passes another tap.
pub(super) struct Judge {
    pub tap: Tap,
    capture: Arc<Capture<Witness>>,
    court: Arc<Mutex<Court>>,
    role: Role,
    _attachment: Attachment,
}

/// Whose word is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The recording says what is to come.
    OfRecording,
    /// What comes is what is to come to the second.
    First,
    Second,
}

/// Where both sides are compared.
struct Court {
    verifier: Verifier,
    moved_at: Instant,
    too_different: Option<TooDifferent>,
    /// Judges that have not finished.
    sitting: usize,
    /// The live connections of the first that stand for a recorded one, in the order they did.
    firsts: HashMap<u32, Vec<u32>>,
    /// How many of the second did.
    seconds: HashMap<u32, usize>,
}

/// Makes events of what passed.
struct Witness {
    court: Arc<Mutex<Court>>,
    role: Role,
    /// Connections of which nothing is judged yet.
    unjudged: HashSet<u32>,
    seq: u64,
}

impl Judge {
    pub fn new(spec: &VerifySpec, judged: Judged, identity: Identity, scope: Scope, origin: Instant) -> Self {
        let verifier = Verifier::new(spec.level, judged, identity, spec.rules.clone()).scoped(scope);
        Self::sits(Court::new(verifier, origin, 1), Role::OfRecording, origin)
    }

    /// Two, of which the first expects and the second observes: of what two servers say to the same clients. The times of
    /// `scope`, which are of the recording, mean nothing to them.
    pub fn pair(spec: &VerifySpec, scope: Scope, origin: Instant) -> [Self; 2] {
        let scope = Scope { start: Duration::ZERO, end: Duration::MAX, ..scope };
        let verifier = Verifier::new(spec.level, Judged::FromServer, Identity::Session, spec.rules.clone());
        let court = Court::new(verifier.scoped(scope), origin, 2);
        [Role::First, Role::Second].map(|role| Self::sits(court.clone(), role, origin))
    }

    fn sits(court: Arc<Mutex<Court>>, role: Role, origin: Instant) -> Self {
        let witness = Witness { court: court.clone(), role, unjudged: HashSet::new(), seq: 0 };
        let spec = RecordingSpec::new(RecordingSource::proxy(""));
        let capture = Arc::new(Capture::new(origin, &spec, witness, None).keeping_numbers());
        let tap = Tap::new();
        let attachment = tap.attach(capture.clone());
        Self { tap, capture, court, role, _attachment: attachment }
    }

    fn court(&self) -> MutexGuard<'_, Court> {
        locked(&self.court)
    }

    /// What the recording has, if that is what is expected.
    pub fn expect(&self, event: &Event) {
        if self.role == Role::OfRecording {
            let mut court = self.court();
            let expected = court.verifier.expect(event);
            court.note(expected);
        }
    }

    /// The same of what need not come.
    pub fn allow(&self, event: &Event) {
        if self.role == Role::OfRecording {
            let mut court = self.court();
            let allowed = court.verifier.allow(event);
            court.note(allowed);
        }
    }

    /// `live` stands for recorded connection `recorded`. What passes over it while it `is_primed` is not judged.
    pub fn stands_for(&self, live: ConnectionId, recorded: u32, is_primed: bool) {
        let number = number_of(live);
        if is_primed {
            self.capture.with_sink(|witness| witness.unjudged.insert(number));
        }
        self.court().stands_for(self.role, number, recorded);
    }

    pub fn is_judged_from_now(&self, live: ConnectionId) {
        self.capture.with_sink(|witness| witness.unjudged.remove(&number_of(live)));
    }

    /// Whether so much is expected that what was sent is better heard of first; not if nothing has come for long.
    pub fn is_far_ahead(&self, now: Instant) -> bool {
        let court = self.court();
        court.verifier.ahead() > AHEAD_MAX && now < court.moved_at + AHEAD_PATIENCE
    }

    /// How much is still to come, and when something came last. Of two servers that is never known: as long as either says
    /// something, something may.
    pub fn outstanding(&self) -> (u64, Instant) {
        let court = self.court();
        let unknown = u64::from(self.role != Role::OfRecording);
        (court.verifier.outstanding() + unknown, court.moved_at)
    }

    /// What was found, once; `Some` beside it where it could not be followed to the end.
    pub fn finish(&self) -> (Verdict, Option<TooDifferent>) {
        let mut court = self.court();
        let fresh = Verifier::new(Level::Count, Judged::Both, Identity::Session, Arc::default());
        let verifier = std::mem::replace(&mut court.verifier, fresh);
        (verifier.finish(), court.too_different.take())
    }

    /// The same for the last of those that compare together; the others have nothing to tell.
    pub fn finish_last(&self) -> Option<(Verdict, Option<TooDifferent>)> {
        let sitting = {
            let mut court = self.court();
            court.sitting = court.sitting.saturating_sub(1);
            court.sitting
        };
        (sitting == 0).then(|| self.finish())
    }
}

fn locked(court: &Mutex<Court>) -> MutexGuard<'_, Court> {
    court.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Court {
    fn new(verifier: Verifier, origin: Instant, sitting: usize) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            verifier,
            moved_at: origin,
            too_different: None,
            sitting,
            firsts: HashMap::new(),
            seconds: HashMap::new(),
        }))
    }

    /// Of two servers the n-th connections that stand for a recorded one stand for each other. Where the second's comes before
    /// the first's, it goes by its client's name. Clients without identifier are called by what they stand for: which of two
    /// servers is faster says nothing about them.
    fn stands_for(&mut self, role: Role, live: u32, recorded: u32) {
        match role {
            Role::OfRecording => self.verifier.stands_for(live, recorded),
            Role::First => {
                let firsts = self.firsts.entry(recorded).or_default();
                self.verifier.call_expected(live, stand_in(recorded, firsts.len()));
                firsts.push(live);
            }
            Role::Second => {
                let nth = self.seconds.entry(recorded).or_default();
                self.verifier.call_observed(live, stand_in(recorded, *nth));
                let first = self.firsts.get(&recorded).and_then(|firsts| firsts.get(*nth));
                *nth += 1;
                if let Some(first) = first {
                    self.verifier.stands_for(live, *first);
                }
            }
        }
    }

    fn note(&mut self, pushed: Result<(), TooDifferent>) {
        self.too_different = self.too_different.take().or(pushed.err());
    }
}

/// What the client of the connection from 0 is called that stands for `recorded`.
fn stand_in(recorded: u32, nth: usize) -> String {
    match nth {
        0 => format!("#{recorded}"),
        again => format!("#{recorded}.{}", again + 1),
    }
}

/// As [`Capture::keeping_numbers`] numbers it.
fn number_of(live: ConnectionId) -> u32 {
    u32::try_from(live.0).unwrap_or(u32::MAX)
}

impl Sink for Witness {
    fn push(&mut self, at: Duration, connection: u32, kind: EventKind) {
        self.seq += 1;
        let mut court = locked(&self.court);
        // Pings, and what we send, go on however long nothing comes.
        if let EventKind::Packet { direction: Direction::ServerToClient, bytes } = &kind
            && bytes.first() != Some(&PINGRESP)
        {
            court.moved_at = Instant::now();
        }
        if court.too_different.is_some() {
            return;
        }
        let event = Event { seq: self.seq, at, connection, kind };
        let pushed = match (self.role, self.unjudged.contains(&connection)) {
            (Role::First, true) => {
                court.verifier.expect_unjudged(&event);
                Ok(())
            }
            (Role::First, false) => court.verifier.expect(&event),
            (Role::OfRecording | Role::Second, true) => {
                court.verifier.observe_unjudged(&event);
                Ok(())
            }
            (Role::OfRecording | Role::Second, false) => court.verifier.observe(&event),
        };
        court.note(pushed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::sample::script;

    #[test]
    fn which_of_two_servers_is_faster_does_not_mix_up_clients_without_identifier() {
        let client = |number: u32| {
            script(&format!(
                "{number} open\n{number} c2s CONNECT \"\" v=5\n{number} s2c CONNACK session_present=false\n\
                 {number} s2c PUBLISH t of-{}",
                number % 10
            ))
        };
        let rules = Arc::default();
        let verifier = Verifier::new(Level::Payload, Judged::FromServer, Identity::Session, rules);
        let court = Court::new(verifier, Instant::now(), 2);
        let mut court = locked(&court);
        // Live connections 1 and 2 are of the first, 11 and 12 of the second.
        for (role, live) in [(Role::First, 1), (Role::Second, 11), (Role::Second, 12), (Role::First, 2)] {
            court.stands_for(role, live, live % 10);
            for event in client(live) {
                match role {
                    Role::First => court.verifier.expect(&event).unwrap(),
                    _ => court.verifier.observe(&event).unwrap(),
                }
            }
        }
        let fresh = Verifier::new(Level::Count, Judged::Both, Identity::Session, Arc::default());
        let verdict = std::mem::replace(&mut court.verifier, fresh).finish();
        assert_eq!((verdict.matched, verdict.difference_count()), (2, 0), "{:?}", verdict.differences);
    }
}
