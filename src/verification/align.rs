//! Which elements of two sequences belong together: a longest common subsequence.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

/// Elements that two sequences may differ in for the shortest way from one to the other to be looked for; memory and time
/// grow with its square. Beyond that the n-th of equal elements stand for each other.
const DIFFERENCES_MAX: usize = 1500;

/// Pairs of indexes of equal elements, ascending in both.
pub fn common<T: Copy + Eq + std::hash::Hash>(first: &[T], second: &[T]) -> Vec<(usize, usize)> {
    let is_same = |one: usize, other: usize| first[one] == second[other];
    let ends = Ends::new((first.len(), second.len()), is_same);
    let (middle, other_middle) = ends.middle();
    let found = shortest_way(ends.middle_lens(), DIFFERENCES_MAX, ends.inner(is_same));
    ends.around(found.unwrap_or_else(|| by_rank(&first[middle], &second[other_middle])))
}

/// The same for elements of which only pairs can be asked for; `None` if more than `differences_max` of them have no like.
pub fn common_where(
    lens: (usize, usize),
    differences_max: usize,
    mut is_same: impl FnMut(usize, usize) -> bool,
) -> Option<Vec<(usize, usize)>> {
    let ends = Ends::new(lens, &mut is_same);
    let found = shortest_way(ends.middle_lens(), differences_max, ends.inner(&mut is_same))?;
    Some(ends.around(found))
}

/// How many elements are equal from the front, and of the rest from the back.
struct Ends {
    lens: (usize, usize),
    ahead: usize,
    behind: usize,
}

impl Ends {
    fn new(lens: (usize, usize), mut is_same: impl FnMut(usize, usize) -> bool) -> Self {
        let shorter = lens.0.min(lens.1);
        let ahead = (0..shorter).take_while(|&index| is_same(index, index)).count();
        let behind = (1..=shorter - ahead).take_while(|&back| is_same(lens.0 - back, lens.1 - back)).count();
        Self { lens, ahead, behind }
    }

    fn middle(&self) -> (Range<usize>, Range<usize>) {
        (self.ahead..self.lens.0 - self.behind, self.ahead..self.lens.1 - self.behind)
    }

    fn middle_lens(&self) -> (usize, usize) {
        let (first, second) = self.middle();
        (first.len(), second.len())
    }

    /// Of elements of the middle.
    fn inner(&self, mut is_same: impl FnMut(usize, usize) -> bool) -> impl FnMut(usize, usize) -> bool {
        let ahead = self.ahead;
        move |one, other| is_same(one + ahead, other + ahead)
    }

    /// All pairs, with those `found` in the middle.
    fn around(&self, found: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
        let (first, second) = self.middle();
        let mut pairs: Vec<_> = (0..self.ahead).map(|index| (index, index)).collect();
        pairs.extend(found.into_iter().map(|(one, other)| (one + self.ahead, other + self.ahead)));
        pairs.extend((0..self.behind).map(|index| (first.end + index, second.end + index)));
        pairs
    }
}

/// What lies between pairs, before the first and behind the last: the ranges of both, one of which at least is not empty.
pub fn gaps(pairs: &[(usize, usize)], lens: (usize, usize)) -> Vec<(Range<usize>, Range<usize>)> {
    let mut gaps = Vec::new();
    let mut from = (0, 0);
    for &(one, other) in pairs.iter().chain([&lens]) {
        if from.0 < one || from.1 < other {
            gaps.push((from.0..one, from.1..other));
        }
        from = (one + 1, other + 1);
    }
    gaps
}

/// E. W. Myers' greedy search for the edit script with the fewest steps; `None` if it has more than `differences_max`.
fn shortest_way(
    lens: (usize, usize),
    differences_max: usize,
    mut is_same: impl FnMut(usize, usize) -> bool,
) -> Option<Vec<(usize, usize)>> {
    if lens.0 == 0 || lens.1 == 0 {
        return Some(Vec::new());
    }
    let (len, other_len) = (lens.0 as isize, lens.1 as isize);
    let most = (lens.0 + lens.1).min(differences_max);
    // Of each diagonal, how far into the first sequence it was followed; by number of steps.
    let mut farthest = vec![0_isize; 2 * most + 3];
    let middle = (most + 1) as isize;
    let at = |diagonal: isize| (middle + diagonal) as usize;
    let mut trace: Vec<Vec<isize>> = Vec::new();
    for steps in 0..=most as isize {
        trace.push(farthest[at(-steps)..=at(steps)].to_vec());
        let mut diagonal = -steps;
        while diagonal <= steps {
            let down = diagonal == -steps
                || (diagonal != steps && farthest[at(diagonal - 1)] < farthest[at(diagonal + 1)]);
            let mut x = if down { farthest[at(diagonal + 1)] } else { farthest[at(diagonal - 1)] + 1 };
            let mut y = x - diagonal;
            while x < len && y < other_len && is_same(x as usize, y as usize) {
                (x, y) = (x + 1, y + 1);
            }
            farthest[at(diagonal)] = x;
            if x >= len && y >= other_len {
                return Some(walk_back(&trace, (len, other_len)));
            }
            diagonal += 2;
        }
    }
    None
}

/// The equal elements on the way to `end`, from what each step had reached.
fn walk_back(trace: &[Vec<isize>], end: (isize, isize)) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let (mut x, mut y) = end;
    for (steps, reached) in trace.iter().enumerate().rev() {
        let steps = steps as isize;
        let farthest = |diagonal: isize| reached[(diagonal + steps) as usize];
        let diagonal = x - y;
        let (from_x, from_y) = if steps == 0 {
            (0, 0)
        } else {
            let down =
                diagonal == -steps || (diagonal != steps && farthest(diagonal - 1) < farthest(diagonal + 1));
            let before = if down { diagonal + 1 } else { diagonal - 1 };
            (farthest(before), farthest(before) - before)
        };
        let (step_x, step_y) = match steps {
            0 => (0, 0),
            _ if x - y == from_x - from_y + 1 => (from_x + 1, from_y),
            _ => (from_x, from_y + 1),
        };
        while x > step_x && y > step_y {
            (x, y) = (x - 1, y - 1);
            pairs.push((x as usize, y as usize));
        }
        (x, y) = (from_x, from_y);
    }
    pairs.reverse();
    pairs
}

/// The n-th of equal elements belongs to the n-th; of such pairs as many as ascend in both.
fn by_rank<T: Copy + Eq + std::hash::Hash>(first: &[T], second: &[T]) -> Vec<(usize, usize)> {
    let mut places: HashMap<T, VecDeque<usize>> = HashMap::new();
    for (place, element) in second.iter().enumerate() {
        places.entry(*element).or_default().push_back(place);
    }
    let pairs: Vec<(usize, usize)> = first
        .iter()
        .enumerate()
        .filter_map(|(index, element)| Some((index, places.get_mut(element)?.pop_front()?)))
        .collect();
    longest_ascent(&pairs)
}

/// The longest subsequence whose second members ascend.
fn longest_ascent(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // Of each length, the pair that ends such a subsequence lowest; and before each pair, the one before it.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![None; pairs.len()];
    for (index, (_, place)) in pairs.iter().enumerate() {
        let len = ends.partition_point(|&end| pairs[end].1 < *place);
        before[index] = len.checked_sub(1).map(|shorter| ends[shorter]);
        match ends.get_mut(len) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    let mut found: Vec<_> = std::iter::successors(ends.last().copied(), |&index| before[index])
        .map(|index| pairs[index])
        .collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(first: &str, second: &str) -> String {
        let (one, other): (Vec<char>, Vec<char>) = (first.chars().collect(), second.chars().collect());
        common(&one, &other).into_iter().map(|(index, _)| one[index]).collect()
    }

    #[test]
    fn the_longest_common_subsequence_is_found() {
        for (first, second, wanted) in [
            ("", "", 0),
            ("abc", "", 0),
            ("abc", "abc", 3),
            ("abc", "xbz", 1),
            ("abcabba", "cbabac", 4),
            ("aaaa", "aaa", 3),
            ("onoffonoff", "offonoff", 8),
            ("ab", "ba", 1),
        ] {
            assert_eq!(text(first, second).len(), wanted, "{first} {second}");
        }
    }

    #[test]
    fn gaps_are_what_no_pair_covers() {
        assert_eq!(gaps(&[(0, 0), (2, 1)], (4, 2)), [(1..2, 1..1), (3..4, 2..2)]);
        assert_eq!(gaps(&[], (0, 0)), []);
        assert_eq!(gaps(&[(0, 0)], (1, 1)), []);
        assert_eq!(gaps(&[(1, 1)], (2, 2)), [(0..1, 0..1)]);
    }

    fn quadratic(first: &[u8], second: &[u8]) -> usize {
        let mut row = vec![0; second.len() + 1];
        for one in first {
            let mut diagonal = 0;
            for (index, other) in second.iter().enumerate() {
                let above = row[index + 1];
                row[index + 1] = if one == other { diagonal + 1 } else { above.max(row[index]) };
                diagonal = above;
            }
        }
        row[second.len()]
    }

    fn check(first: &[u8], second: &[u8], pairs: &[(usize, usize)]) {
        assert!(pairs.iter().all(|&(one, other)| first[one] == second[other]));
        assert!(pairs.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1));
    }

    proptest! {
        #[test]
        fn it_is_as_long_as_the_textbook_says(
            first in prop::collection::vec(0_u8..4, 0..40),
            second in prop::collection::vec(0_u8..4, 0..40),
        ) {
            let pairs = common(&first, &second);
            check(&first, &second, &pairs);
            prop_assert_eq!(pairs.len(), quadratic(&first, &second));
            let ranked = by_rank(&first, &second);
            check(&first, &second, &ranked);
            prop_assert!(ranked.len() <= pairs.len());
        }
    }

    #[test]
    fn sequences_that_differ_much_are_aligned_all_the_same() {
        let first: Vec<u32> = (0..20_000).collect();
        let second: Vec<u32> = (0..20_000).map(|n| if n % 2 == 0 { n } else { n + 100_000 }).collect();
        let pairs = common(&first, &second);
        assert_eq!(pairs.len(), 10_000);
        assert!(pairs.iter().all(|(one, other)| one == other));
    }
}
