//! The packets of one bucket that have not found their like yet.

use super::{Rules, bucket::Item, finding::Finding, ordered::Ordered, unordered::Unordered};

/// Packets of both sides.
#[derive(Debug)]
pub enum Waiting {
    Ordered(Ordered),
    Unordered(Unordered),
}

impl Waiting {
    /// Of a bucket that `item` is the first of.
    pub fn of(item: &Item) -> Self {
        match item.is_unordered {
            true => Self::Unordered(Unordered::default()),
            false => Self::Ordered(Ordered::default()),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Ordered(waiting) => waiting.len(),
            Self::Unordered(waiting) => waiting.len(),
        }
    }

    /// How many more of what is expected wait than of what was observed.
    pub fn ahead(&self) -> i64 {
        match self {
            Self::Ordered(waiting) => waiting.ahead(),
            Self::Unordered(waiting) => waiting.ahead(),
        }
    }

    /// How much of what is required waits.
    pub fn required_len(&self) -> usize {
        match self {
            Self::Ordered(waiting) => waiting.required_len(),
            Self::Unordered(waiting) => waiting.required_len(),
        }
    }

    pub fn push(&mut self, is_expected: bool, item: Item, rules: &Rules, found: &mut impl FnMut(Finding)) {
        match self {
            Self::Ordered(waiting) => waiting.push(is_expected, item, rules, found),
            Self::Unordered(waiting) => waiting.push(is_expected, item, rules, found),
        }
    }

    /// What is left over has no like.
    pub fn finish(self, rules: &Rules, found: &mut impl FnMut(Finding)) {
        match self {
            Self::Ordered(waiting) => waiting.finish(rules, found),
            Self::Unordered(waiting) => waiting.finish(rules, found),
        }
    }
}
