//! What was found for topics that messages came on lately.

use std::hash::BuildHasher;

/// As many topics as are remembered; of two that fall into one place, the later one stays.
const SLOTS: usize = 1 << 10;

/// Longer topics are looked up each time.
const TOPIC_MAX: usize = 256;

/// Values by topic, as long as a generation lasts. It costs a hash and a comparison to find one again.
pub(super) struct Memo<V> {
    slots: Box<[Option<Slot<V>>]>,
    hasher: foldhash::fast::RandomState,
    /// Of a topic that is too long, or what is too large.
    passing: Option<V>,
}

struct Slot<V> {
    topic: Box<str>,
    generation: u64,
    value: V,
}

impl<V> Memo<V> {
    pub(super) fn new() -> Self {
        let slots = std::iter::repeat_with(|| None).take(SLOTS).collect();
        Self { slots, hasher: foldhash::fast::RandomState::default(), passing: None }
    }

    /// What was found for `topic` in this `generation`, or what `find` finds, which is remembered if it is `small`.
    pub(super) fn get(
        &mut self,
        topic: &str,
        generation: u64,
        find: impl FnOnce() -> V,
        is_small: impl FnOnce(&V) -> bool,
    ) -> &mut V {
        let slot = &mut self.slots[self.hasher.hash_one(topic) as usize % SLOTS];
        let is_known =
            slot.as_ref().is_some_and(|slot| slot.generation == generation && *slot.topic == *topic);
        if !is_known {
            let value = find();
            if topic.len() > TOPIC_MAX || !is_small(&value) {
                return self.passing.insert(value);
            }
            *slot = Some(Slot { topic: topic.into(), generation, value });
        }
        &mut slot.as_mut().expect("it is known, or was just put there").value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_looked_up_once_in_each_generation() {
        let mut memo = Memo::new();
        let mut found = Vec::new();
        for (topic, generation) in [("a", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 2)] {
            memo.get(topic, generation, || found.push((topic, generation)), |()| true);
        }
        let long = "x".repeat(TOPIC_MAX + 1);
        for _ in 0..2 {
            memo.get(&long, 2, || found.push(("long", 2)), |()| true);
            memo.get("large", 2, || found.push(("large", 2)), |()| false);
        }
        let distinct: std::collections::BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(distinct.len(), 5, "{found:?}");
        assert_eq!(found.iter().filter(|(topic, _)| *topic == "long").count(), 2);
        assert_eq!(found.iter().filter(|(topic, _)| *topic == "large").count(), 2);
        // `a` and `b` may share a place; then `a` is looked up no more often for it.
        assert_eq!(found.len(), 7, "{found:?}");
    }
}
