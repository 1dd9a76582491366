//! Packets that wait for their like in order.

use std::collections::{HashMap, VecDeque};

use super::{
    Rules,
    align::{common, common_where, gaps},
    bucket::Item,
    finding::Finding,
    pairing::{Known, judge_rest},
    places::Places,
};

/// Packets of one side that wait before they are aligned with as many of the other.
const WINDOW: usize = 4096;
/// The same where none of them has a like: so many may be missing in a row, and those behind are found again.
const WINDOW_MAX: usize = 128 * 1024;
/// Where rules look closer, packets that two sequences may differ in for each pair to be looked at; their number grows with
/// its square.
const DIFFERENCES_MAX: usize = 64;
/// Packets that may count as the same, of which one that does is looked for.
const LOOK_MAX: usize = 64;

/// Packets of both sides, in order.
#[derive(Debug, Default)]
pub struct Ordered {
    expected: VecDeque<Item>,
    observed: VecDeque<Item>,
    required: usize,
    /// What was observed last in its place: what comes again is told from what is new by it.
    last_same: Option<u64>,
    /// What is waited for at least.
    window: usize,
    /// Whether what waits in front is known not to be the same.
    are_fronts_apart: bool,
}

impl Ordered {
    pub fn len(&self) -> usize {
        self.expected.len() + self.observed.len()
    }

    pub fn ahead(&self) -> i64 {
        self.expected.len() as i64 - self.observed.len() as i64
    }

    pub fn required_len(&self) -> usize {
        self.required
    }

    pub fn push(&mut self, is_expected: bool, item: Item, rules: &Rules, found: &mut impl FnMut(Finding)) {
        if is_expected {
            self.required += usize::from(item.is_required());
            self.expected.push_back(item);
        } else {
            self.observed.push_back(item);
        }
        self.take_equal_fronts(rules, found);
        while self.expected.len().min(self.observed.len()) >= self.window.max(WINDOW) {
            self.align_window(rules, found);
            self.take_equal_fronts(rules, found);
        }
    }

    pub fn finish(mut self, rules: &Rules, found: &mut impl FnMut(Finding)) {
        let lens = (self.expected.len(), self.observed.len());
        let pairs = self.aligned(lens, rules);
        self.judge(&pairs, lens, rules, found);
    }

    fn take_equal_fronts(&mut self, rules: &Rules, found: &mut impl FnMut(Finding)) {
        while !self.are_fronts_apart
            && let (Some(expected), Some(observed)) = (self.expected.front(), self.observed.front())
        {
            self.are_fronts_apart = !expected.allows(observed, rules);
            if self.are_fronts_apart {
                return;
            }
            if let (Some(expected), Some(observed)) = (self.expected.pop_front(), self.observed.pop_front()) {
                self.required -= usize::from(expected.is_required());
                self.last_same = Some(observed.exact);
                found(Finding::of(expected, observed, rules));
            }
        }
    }

    /// Aligns what waits, and judges what stands so far from the end of a window that what is to come would not change it.
    fn align_window(&mut self, rules: &Rules, found: &mut impl FnMut(Finding)) {
        let window = self.window.max(WINDOW);
        let lens = (self.expected.len().min(window), self.observed.len().min(window));
        let mut pairs = self.aligned(lens, rules);
        let first = pairs.first().copied();
        let half = window / 2;
        pairs.retain(|&(one, other)| one < half && other < half);
        let ends = match (pairs.last(), first) {
            (Some(&(one, other)), _) => (one + 1, other + 1),
            // Many in a row have no like.
            (None, Some(ends)) => ends,
            (None, None) if window < WINDOW_MAX => {
                self.window = 2 * window;
                return;
            }
            (None, None) => (half, half),
        };
        self.window = WINDOW;
        self.judge(&pairs, ends, rules, found);
    }

    /// Which of the first ones on both sides belong together.
    fn aligned(&mut self, lens: (usize, usize), rules: &Rules) -> Vec<(usize, usize)> {
        let (expected, observed) = (self.expected.make_contiguous(), self.observed.make_contiguous());
        let (expected, observed) = (&expected[..lens.0], &observed[..lens.1]);
        let exact = |items: &[Item]| items.iter().map(|item| item.exact).collect::<Vec<_>>();
        let digests = |items: &[Item]| items.iter().map(|item| item.digest).collect::<Vec<_>>();
        if expected.iter().chain(observed).all(|item| item.exact == item.digest) {
            return common(&exact(expected), &exact(observed));
        }
        let allows = |one: usize, other: usize| expected[one].allows(&observed[other], rules);
        if let Some(pairs) = common_where(lens, DIFFERENCES_MAX, allows) {
            return pairs;
        }
        let mut pairs = common(&exact(expected), &exact(observed));
        for (first, second) in gaps(&pairs, lens) {
            let between = common(&digests(&expected[first.clone()]), &digests(&observed[second.clone()]));
            let between = between.into_iter().map(|(one, other)| (first.start + one, second.start + other));
            pairs.extend(between.filter(|&(one, other)| allows(one, other)));
        }
        pairs.sort_unstable();
        pairs
    }

    /// Judges all before `ends`, of which `pairs` are equal and in order.
    fn judge(
        &mut self,
        pairs: &[(usize, usize)],
        ends: (usize, usize),
        rules: &Rules,
        found: &mut impl FnMut(Finding),
    ) {
        self.are_fronts_apart = false;
        let mut expected: Vec<Option<Item>> = self.expected.drain(..ends.0).map(Some).collect();
        let mut observed: Vec<Option<Item>> = self.observed.drain(..ends.1).map(Some).collect();
        self.required -= expected.iter().flatten().filter(|item| item.is_required()).count();
        let mut known: Known = self.last_same.into_iter().map(|digest| (digest, false)).collect();
        let mut places = Places::default();
        for &(one, other) in pairs {
            let (Some(first), Some(second)) = (expected[one].take(), observed[other].take()) else {
                continue;
            };
            // Which of two equal ones was sent again is not to be seen: either may have found the place.
            *known.entry(second.exact).or_default() |= second.may_repeat;
            places.add(&first, one, other);
            self.last_same = Some(second.exact);
            found(Finding::of(first, second, rules));
        }
        moved(&mut expected, &mut observed, places, rules, found);
        for (first, second) in gaps(pairs, ends) {
            let rest = |items: &mut [Option<Item>]| items.iter_mut().filter_map(Option::take).collect();
            judge_rest(rest(&mut expected[first]), rest(&mut observed[second]), &known, rules, found);
        }
    }
}

/// What stands on both sides and not in order; `places` are those that do.
fn moved(
    expected: &mut [Option<Item>],
    observed: &mut [Option<Item>],
    mut places: Places,
    rules: &Rules,
    found: &mut impl FnMut(Finding),
) {
    // The n-th of equal ones for the n-th.
    let mut by_digest: HashMap<u64, VecDeque<usize>> = HashMap::new();
    for (place, item) in observed.iter().enumerate() {
        if let Some(item) = item {
            by_digest.entry(item.digest).or_default().push_back(place);
        }
    }
    let mut pairs = Vec::new();
    for (one, item) in expected.iter().enumerate() {
        if let Some(item) = item
            && let Some(alike) = by_digest.get_mut(&item.digest)
            && let Some(other) = take_same(alike, item, observed, rules)
        {
            places.add(item, one, other);
            pairs.push((one, other));
        }
    }
    if pairs.is_empty() {
        return;
    }
    let places = places.sorted();
    for (one, other) in pairs {
        if let (Some(expected), Some(observed)) = (expected[one].take(), observed[other].take()) {
            let is_overtaken = places.is_overtaken(&expected, one, other);
            match Finding::of(expected.clone(), observed.clone(), rules) {
                Finding::Same { .. } if is_overtaken => found(Finding::Moved(expected, observed)),
                finding => found(finding),
            }
        }
    }
}

/// Takes out of the places of packets that are `alike` that of one which is as `expected` should be.
fn take_same(
    alike: &mut VecDeque<usize>,
    expected: &Item,
    observed: &[Option<Item>],
    rules: &Rules,
) -> Option<usize> {
    let looked_at = || alike.iter().take(LOOK_MAX).map(|&place| observed[place].as_ref());
    let exact = looked_at().position(|item| item.is_some_and(|item| item.exact == expected.exact));
    let same = || looked_at().position(|item| item.is_some_and(|item| expected.allows(item, rules)));
    alike.remove(exact.or_else(same)?)
}
