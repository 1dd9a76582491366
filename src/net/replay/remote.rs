//! What is said to a replay while it runs.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use super::tally::Tally;
use crate::recording::player::{Speed, Timeline};

/// What a running replay is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    Pause,
    Resume,
    /// Plays so many of what comes next at once; where it is paused, it stays so.
    Burst(u64),
    SetSpeed(Speed),
    /// Goes on with what was recorded from this offset on.
    Seek(Duration),
}

impl Command {
    pub(super) fn apply(self, timeline: &mut Timeline, now: Instant) {
        match self {
            Self::Pause => timeline.pause(now),
            Self::Resume => timeline.resume(now),
            Self::Burst(count) => timeline.burst(count),
            Self::SetSpeed(speed) => timeline.set_speed(now, speed),
            // That takes more than a timeline.
            Self::Seek(_) => {}
        }
    }
}

/// Says to the schedule's thread, wherever it waits, what was asked for.
#[derive(Default)]
pub(super) struct Remote {
    is_cancelled: AtomicBool,
    is_finishing: AtomicBool,
    commands: Mutex<VecDeque<Command>>,
    has_commands: AtomicBool,
    pub thread: OnceLock<Thread>,
    /// Is told the same.
    pub twin: OnceLock<Arc<Remote>>,
    tally: Arc<Tally>,
}

impl Remote {
    pub fn new(tally: Arc<Tally>) -> Self {
        Self { tally, ..Self::default() }
    }

    pub fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
        self.wake();
        if let Some(twin) = self.twin.get() {
            twin.cancel();
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Relaxed)
    }

    pub fn finish(&self) {
        self.is_finishing.store(true, Relaxed);
        self.wake();
    }

    /// Whether nobody comes any more.
    pub fn is_finishing(&self) -> bool {
        self.is_finishing.load(Relaxed)
    }

    pub fn command(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
        self.has_commands.store(true, Relaxed);
        self.wake();
        if let Some(twin) = self.twin.get() {
            twin.command(command);
        }
    }

    /// Whether there is anything to obey.
    pub fn has_word(&self) -> bool {
        self.is_cancelled() || self.has_commands.load(Relaxed)
    }

    pub fn take_commands(&self) -> VecDeque<Command> {
        if !self.has_commands.load(Relaxed) {
            return VecDeque::new();
        }
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_commands.store(false, Relaxed);
        std::mem::take(&mut commands)
    }

    /// Has the schedule's thread look again.
    pub fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
        self.tally.wake();
    }
}
