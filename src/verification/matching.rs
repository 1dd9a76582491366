//! Which elements of two sets go together, where one may go with several: a maximum matching.

/// Pairs of indexes that are `allowed`, as many as there can be, ascending in the first; the first ones are preferred. Calls
/// itself no deeper than the shorter side is long.
pub fn matching(lens: (usize, usize), mut allowed: impl FnMut(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let mut known = vec![None; lens.0 * lens.1];
    let mut search = Search {
        allowed: |one: usize, other: usize| {
            *known[one * lens.1 + other].get_or_insert_with(|| allowed(one, other))
        },
        partners: vec![None; lens.1],
    };
    for one in 0..lens.0 {
        search.find(one, &mut vec![false; lens.1]);
    }
    let partners = search.partners.into_iter().enumerate();
    let mut pairs: Vec<_> = partners.filter_map(|(other, one)| Some((one?, other))).collect();
    pairs.sort_unstable();
    pairs
}

struct Search<F> {
    allowed: F,
    /// Of each of the second set, which of the first it goes with.
    partners: Vec<Option<usize>>,
}

impl<F: FnMut(usize, usize) -> bool> Search<F> {
    /// Finds a partner for `one`, if need be one whose own finds another: H. W. Kuhn's augmenting path.
    fn find(&mut self, one: usize, tried: &mut [bool]) -> bool {
        for other in 0..tried.len() {
            if tried[other] || !(self.allowed)(one, other) {
                continue;
            }
            tried[other] = true;
            let is_free = match self.partners[other] {
                None => true,
                Some(its) => self.find(its, tried),
            };
            if is_free {
                self.partners[other] = Some(one);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_choice_leaves_a_partner_to_who_has_none() {
        let near = |first: &[f64], second: &[f64]| {
            matching((first.len(), second.len()), |one, other| (first[one] - second[other]).abs() <= 0.5)
        };
        assert_eq!(near(&[1.0, 0.8], &[1.2, 1.4]), [(0, 1), (1, 0)]);
        assert_eq!(near(&[1.0, 10.0, 20.0], &[10.1, 1.1]), [(0, 1), (1, 0)]);
        assert_eq!(near(&[1.0], &[]), []);
    }
}
