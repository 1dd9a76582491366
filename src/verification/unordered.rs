//! Packets that wait for their like in whatever order.

use std::{
    cmp::Ordering,
    collections::{HashMap, VecDeque},
};

use super::{
    Rules,
    bucket::Item,
    finding::Finding,
    matching::matching,
    pairing::{Known, judge_rest},
};

/// Packets that were as they should be, of which it is known that they came.
const KNOWN_MAX: usize = 64;
/// Packets that may count as the same and wait, of each side, before those that do are looked for; and at least one for so
/// many on the other side.
const WINDOW: usize = 1024;
const SHARE: usize = 4;
/// Of so many pairs of those that are left, each is looked at.
const PAIRS_MAX: usize = 1024;
/// Packets of which one that is exactly the same is looked for at once.
const LOOK_MAX: usize = 32;

/// Packets of both sides.
#[derive(Debug, Default)]
pub struct Unordered {
    /// Those of one digest, which may count as the same.
    alike: HashMap<u64, Alike>,
    len: usize,
    ahead: i64,
    required: usize,
    /// The last ones that were as they should be, and whether they may have come more than once.
    known: VecDeque<(u64, bool)>,
}

#[derive(Debug, Default)]
struct Alike {
    expected: VecDeque<Item>,
    observed: VecDeque<Item>,
    /// Those of which a window had no like.
    apart: (Vec<Item>, Vec<Item>),
    /// How many of what waits are required.
    required: usize,
}

impl Unordered {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn ahead(&self) -> i64 {
        self.ahead
    }

    pub fn required_len(&self) -> usize {
        self.required
    }

    pub fn push(&mut self, is_expected: bool, item: Item, rules: &Rules, found: &mut impl FnMut(Finding)) {
        // As many more wait here, or as many fewer there.
        self.ahead += if is_expected { 1 } else { -1 };
        let digest = item.digest;
        let mut alike = self.alike.remove(&digest).unwrap_or_default();
        let (len, lacking) = (alike.len(), alike.lacking());
        for (expected, observed) in alike.push(is_expected, item, rules) {
            if self.known.len() == KNOWN_MAX {
                self.known.pop_front();
            }
            self.known.push_back((observed.exact, observed.may_repeat));
            found(Finding::of(expected, observed, rules));
        }
        self.len = self.len + alike.len() - len;
        self.required = self.required + alike.lacking() - lacking;
        if alike.len() > 0 {
            self.alike.insert(digest, alike);
        }
    }

    pub fn finish(self, rules: &Rules, found: &mut impl FnMut(Finding)) {
        let mut known = Known::new();
        for (digest, may_repeat) in self.known {
            *known.entry(digest).or_default() |= may_repeat;
        }
        let (mut expected, mut observed) = (Vec::new(), Vec::new());
        for mut alike in self.alike.into_values() {
            for (one, other) in alike.finish(rules) {
                *known.entry(other.exact).or_default() |= other.may_repeat;
                found(Finding::of(one, other, rules));
            }
            expected.extend(alike.apart.0);
            observed.extend(alike.apart.1);
        }
        let sorted = |mut items: Vec<Item>| {
            items.sort_unstable_by_key(|item| item.place.seq);
            items
        };
        judge_rest(sorted(expected), sorted(observed), &known, rules, found);
    }
}

impl Alike {
    fn len(&self) -> usize {
        self.expected.len() + self.observed.len() + self.apart.0.len() + self.apart.1.len()
    }

    /// How much of what is required cannot be among what was observed.
    fn lacking(&self) -> usize {
        self.required.saturating_sub(self.observed.len() + self.apart.1.len())
    }

    /// Adds an item; those that belong together are not here any more.
    fn push(&mut self, is_expected: bool, item: Item, rules: &Rules) -> Vec<(Item, Item)> {
        let (own, others) = match is_expected {
            true => (&mut self.expected, &mut self.observed),
            false => (&mut self.observed, &mut self.expected),
        };
        let exact = others.iter().take(LOOK_MAX).position(|other| other.exact == item.exact);
        if let Some(other) = exact.and_then(|place| others.remove(place)) {
            let (expected, observed) = if is_expected { (item, other) } else { (other, item) };
            self.required -= usize::from(!is_expected && expected.is_required());
            return vec![(expected, observed)];
        }
        self.required += usize::from(is_expected && item.is_required());
        own.push_back(item);
        let (len, other_len) = (self.expected.len(), self.observed.len());
        if len.min(other_len) < WINDOW.max(len.max(other_len) / SHARE) {
            return Vec::new();
        }
        self.take_same(rules)
    }

    /// What belongs together of what waits; the others are apart.
    fn take_same(&mut self, rules: &Rules) -> Vec<(Item, Item)> {
        // By what need not be the same: where that is one number, the next one of the other side is the nearest.
        let sorted = |items: &mut VecDeque<Item>| -> Vec<Option<Item>> {
            let mut items: Vec<_> = items.drain(..).map(|item| (item.loose_numbers(rules), item)).collect();
            items.sort_by(|one, other| compare(&one.0, &other.0));
            items.into_iter().map(|(_, item)| Some(item)).collect()
        };
        let (mut expected, mut observed) = (sorted(&mut self.expected), sorted(&mut self.observed));
        let mut taken = Vec::new();
        let (mut one, mut other) = (0, 0);
        while let (Some(Some(first)), Some(Some(second))) = (expected.get(one), observed.get(other)) {
            if first.allows(second, rules) {
                taken.extend(expected[one].take().zip(observed[other].take()));
                (one, other) = (one + 1, other + 1);
            } else if compare(&first.loose_numbers(rules), &second.loose_numbers(rules)).is_lt() {
                one += 1;
            } else {
                other += 1;
            }
        }
        let rest = |items: Vec<Option<Item>>| items.into_iter().flatten().map(Some).collect::<Vec<_>>();
        let (mut expected, mut observed) = (rest(expected), rest(observed));
        if expected.len().saturating_mul(observed.len()) <= PAIRS_MAX {
            let pairs = matching((expected.len(), observed.len()), |one, other| {
                let both = expected[one].as_ref().zip(observed[other].as_ref());
                both.is_some_and(|(one, other)| one.allows(other, rules))
            });
            taken.extend(
                pairs.into_iter().filter_map(|(one, other)| expected[one].take().zip(observed[other].take())),
            );
        }
        self.required -= taken.iter().filter(|(expected, _)| expected.is_required()).count();
        self.apart.0.extend(expected.into_iter().flatten());
        self.apart.1.extend(observed.into_iter().flatten());
        taken
    }

    /// What belongs together of all that waits; the others are apart.
    fn finish(&mut self, rules: &Rules) -> Vec<(Item, Item)> {
        self.expected.extend(self.apart.0.drain(..));
        self.observed.extend(self.apart.1.drain(..));
        self.take_same(rules)
    }
}

fn compare(first: &[f64], second: &[f64]) -> Ordering {
    let by_number = first.iter().zip(second).map(|(one, other)| one.total_cmp(other));
    by_number.reduce(Ordering::then).unwrap_or(Ordering::Equal).then(first.len().cmp(&second.len()))
}
