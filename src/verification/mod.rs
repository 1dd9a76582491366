//! Judging: what came back now against what came back then.
//!
//! A [`Verifier`] is told two streams of events, what is expected and what was observed, in any interleaving, and answers
//! with a [`Verdict`]. It does not care where they come from: a recording and the live recording of its replay, two
//! recordings, or the live recordings of one replay on two targets.
//!
//! Packets are compared in buckets: what one session was sent (or sent) on one topic, in order; between buckets order is
//! free. Within a bucket equal packets are aligned first, then what is left over by likeness, so that a changed field is
//! said to have changed.

mod align;
mod allowance;
mod bucket;
mod change;
mod content;
mod difference;
mod exchanges;
mod finding;
mod groups;
mod json;
mod level;
mod likeness;
mod lines;
mod matching;
mod ordered;
mod outcome;
mod pairing;
mod places;
mod plain;
pub mod report;
mod requests;
mod rules;
mod scope;
mod side;
#[cfg(test)]
mod tests;
mod too_different;
mod unordered;
mod verdict;
mod verifier;
mod waiting;
mod wills;

pub use change::Change;
pub use difference::{Difference, DifferenceKind, Owner, Place, Session, Subject, Told};
pub use level::{Identity, Judged, Level};
pub use rules::{BadRules, Rules};
pub use scope::Scope;
pub use too_different::TooDifferent;
pub use verdict::{SessionVerdict, Verdict};
pub use verifier::Verifier;
