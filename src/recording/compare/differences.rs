//! What is told of two recordings that differ.

use super::{Line, Waiting};
use crate::recording::Direction;

/// Differences that are told; others are counted.
pub(super) const TOLD_MAX: usize = 100;

/// In what two recordings differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Packets that both have.
    pub same: u64,
    /// That only the first has.
    pub missing: u64,
    /// That only the second has.
    pub unexpected: u64,
    /// That stand in the same place and are not the same.
    pub changed: u64,
    /// The first ones, in the order they were found.
    pub told: Vec<Difference>,
}

impl Differences {
    pub fn count(&self) -> u64 {
        self.missing + self.unexpected + self.changed
    }

    /// Counts what stands in one place of a line, and tells it as long as there is room.
    pub(super) fn add(&mut self, line: &Line, first: Option<Waiting>, second: Option<Waiting>) {
        match (&first, &second) {
            (Some(_), Some(_)) => self.changed += 1,
            (Some(_), None) => self.missing += 1,
            (None, Some(_)) => self.unexpected += 1,
            (None, None) => return,
        }
        if self.told.len() < TOLD_MAX {
            let told = |waiting: Option<Waiting>| waiting.map(|waiting| (waiting.seq, waiting.text));
            self.told.push(Difference {
                client_identifier: line.client_identifier.clone(),
                nth: line.nth,
                direction: match line.direction {
                    0 => Direction::ClientToServer,
                    _ => Direction::ServerToClient,
                },
                first: told(first),
                second: told(second),
            });
        }
    }
}

/// A packet that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Empty if it has none, or it is not known.
    pub client_identifier: String,
    /// Which connection of that client, from 1.
    pub nth: u32,
    pub direction: Direction,
    /// Its number in each recording, and what it says.
    pub first: Option<(u64, String)>,
    pub second: Option<(u64, String)>,
}
