//! Which of the packets that are left over on both sides belong together.

use std::collections::HashMap;

use super::{Rules, bucket::Item, content::Thing, finding::Finding, likeness::Looks};

/// With more pairs than this, packets are paired in order instead of by likeness.
const PAIRS_MAX: usize = 4096;
/// How alike two packets have to be to be taken for the same one, changed, where others might be meant as well.
const ALIKE: f64 = 0.25;

/// Digests of what was as it should be, and whether it may have come more than once.
pub type Known = HashMap<u64, bool>;

/// What became of what is left over on both sides of one gap. What was observed as well as one that is `known` to be as it
/// should be came twice.
pub fn judge_rest(
    expected: Vec<Item>,
    observed: Vec<Item>,
    known: &Known,
    rules: &Rules,
    found: &mut impl FnMut(Finding),
) {
    let pairs = pairs(&expected, &observed, rules);
    let mut expected: Vec<Option<Item>> = expected.into_iter().map(Some).collect();
    let mut observed: Vec<Option<Item>> = observed.into_iter().map(Some).collect();
    for (one, other) in pairs {
        if let (Some(first), Some(second)) = (expected[one].take(), observed[other].take()) {
            found(Finding::of(first, second, rules));
        }
    }
    expected.into_iter().flatten().for_each(|item| found(Finding::Missing(item)));
    for item in observed.into_iter().flatten() {
        found(match known.get(&item.exact) {
            Some(may_repeat) if *may_repeat || item.may_repeat => Finding::Repeated(item),
            Some(_) => Finding::Duplicate(item),
            None => Finding::Unexpected(item),
        });
    }
}

/// Pairs of indexes, ascending in the first: by likeness where there are few, else in order.
fn pairs(expected: &[Item], observed: &[Item], rules: &Rules) -> Vec<(usize, usize)> {
    let (len, other_len) = (expected.len(), observed.len());
    if len == 0 || other_len == 0 {
        return Vec::new();
    }
    if len.saturating_mul(other_len) > PAIRS_MAX {
        return (0..len.min(other_len)).map(|index| (index, index)).collect();
    }
    let looks = |item: &Item| (kind(item), Looks::new(item.content(rules)));
    let first: Vec<_> = expected.iter().map(looks).collect();
    let second: Vec<_> = observed.iter().map(looks).collect();
    let mut scores = Vec::new();
    for (one, (kind, expected)) in first.iter().enumerate() {
        for (other, (_, observed)) in second.iter().enumerate().filter(|(_, (other, _))| other == kind) {
            let likeness = expected.likeness(observed);
            // Where there is one of each, which it became is no question.
            if likeness >= ALIKE || (len, other_len) == (1, 1) {
                scores.push((likeness, one, other));
            }
        }
    }
    scores.sort_by(|one, other| {
        let apart = |score: &(f64, usize, usize)| score.1.abs_diff(score.2);
        other.0.total_cmp(&one.0).then_with(|| apart(one).cmp(&apart(other))).then(one.1.cmp(&other.1))
    });
    let (mut taken, mut other_taken) = (vec![false; len], vec![false; other_len]);
    let mut pairs = Vec::new();
    for (_, one, other) in scores {
        if !taken[one] && !other_taken[other] {
            (taken[one], other_taken[other]) = (true, true);
            pairs.push((one, other));
        }
    }
    pairs.sort_unstable();
    pairs
}

/// Only packets of one type can become each other; exchanges only the same one.
fn kind(item: &Item) -> (u8, Option<u32>) {
    match &item.thing {
        Thing::Packet(packet) => (packet.packet_type() as u8, item.nth),
        Thing::Raw(_) => (0, None),
        Thing::End(_) => (u8::MAX, None),
    }
}
