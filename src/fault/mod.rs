//! Chaos: which packets suffer what, decided so that the same seed decides the same again.
//!
//! A rule says which packets it is for, when, and what it does to them: a [`RuleSpec`] is what people write, a [`Rule`] what
//! was checked, and [`Chaos`] all of a server. A [`Judge`] is asked about the packets of one client; an [`Effect`] is what
//! an action came to for one of them. Each decision draws from a stream of its own, found by seed, rule, client, direction,
//! packet type and a count, so nothing that happens elsewhere shifts it.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod action;
mod change;
mod chaos;
mod cutter;
mod effect;
mod fate;
mod journal;
mod judge;
mod lanes;
mod line;
mod memory;
mod profile;
mod rule;
mod script;
mod spec;
mod target;
#[cfg(test)]
mod tests;

pub use chaos::{Chaos, ChaosError, ChaosHooks, ChaosLimits, ChaosOptions, Held, RuleView};
pub use effect::{Capabilities, DisconnectMode, Effect};
pub use journal::{FaultFigure, FaultFilter, Journaled};
pub use judge::{Decision, Decisions, Judge, Seen};
pub use line::{Line, LineOutput, Splice};
pub use profile::{PROFILES, Profile, profile};
pub use rule::{Rule, settings_rules};
pub use spec::{
    ActionSpec, BandwidthSpec, BlackholeSpec, ChaosSpec, CorruptPart, CorruptSpec, CountSpec, DisconnectSpec,
    DurationSpec, LatencyDraw, LatencySpec, MatchSpec, ReasonSpec, RefuseConnectSpec, ReorderSpec, RuleSpec,
    SliceSpec, SlowSubscriberActionSpec, SlowSubscriberSpec, TruncateSpec, WhenSpec,
};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under a lock leaves what it guards half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
