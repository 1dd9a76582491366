//! How near a message came to one that is meant.

use crate::{likeness::most_alike, packet::TopicFilter};

/// Of several that came near, as many as are kept.
pub const NEAREST_MAX: usize = 3;

/// Levels of a topic that are compared, and bytes of a name.
const LEVELS_MAX: usize = 32;
const NAME_MAX: usize = 64;

/// How near a message came, and what differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearness {
    /// From 0, nothing is as it should, to 1, all is; in thousandths.
    pub score: f64,
    /// For people, each of one thing: `the topic is "a/b", not "a/+/c"`, `$.v is 3, not greater than 5`.
    pub differences: Vec<String>,
}

/// The few that came nearest; of two that came as near, the later one.
#[derive(Clone, Debug)]
pub struct Nearest<T>(Vec<(Nearness, T)>);

impl<T> Default for Nearest<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Nearest<T> {
    /// Whether one of this score would be kept.
    pub fn takes(&self, score: f64) -> bool {
        self.0.len() < NEAREST_MAX || self.0.last().is_some_and(|(worst, _)| worst.score <= score)
    }

    /// Keeps `what` if it came nearer than the last of those there are.
    pub fn offer(&mut self, nearness: Nearness, what: impl FnOnce() -> T) {
        if !self.takes(nearness.score) {
            return;
        }
        let place = self.0.partition_point(|(other, _)| other.score > nearness.score);
        self.0.truncate(NEAREST_MAX);
        self.0.insert(place, (nearness, what()));
        self.0.truncate(NEAREST_MAX);
    }

    /// The nearest first.
    pub fn iter(&self) -> impl Iterator<Item = &(Nearness, T)> {
        self.0.iter()
    }

    pub fn into_vec(self) -> Vec<(Nearness, T)> {
        self.0
    }
}

/// Adds up what holds, each part by its weight.
#[derive(Debug, Default)]
pub struct Tally {
    reached: f64,
    wanted: f64,
    differences: Vec<String>,
}

impl Tally {
    pub fn holds(&mut self, weight: f64) {
        self.reached += weight;
        self.wanted += weight;
    }

    /// Something differs, but is alike, from 0 to 1.
    pub fn differs(&mut self, weight: f64, likeness: f64, difference: String) {
        // What differs never counts for as much as what does not.
        self.reached += weight * likeness.clamp(0.0, 1.0) * 0.9;
        self.wanted += weight;
        if !self.differences.contains(&difference) {
            self.differences.push(difference);
        }
    }

    pub fn done(self) -> Nearness {
        let score = if self.wanted > 0.0 { self.reached / self.wanted } else { 1.0 };
        // Finer than anybody weighs it, and free of what adding up leaves behind the last digit.
        Nearness { score: (score * 1000.0).round() / 1000.0, differences: self.differences }
    }
}

/// How alike two names are, from 0 to 1, by their beginnings.
pub fn likeness(name: &str, wanted: &str) -> f64 {
    most_alike(shortened(name), [shortened(wanted)]).map_or(0.0, |(_, likeness)| likeness)
}

/// How near a topic is to being matched by a filter, from 0 to 1, level by level.
pub fn topic_likeness(topic: &str, filter: &TopicFilter) -> f64 {
    let mut levels = topic.split('/').take(LEVELS_MAX);
    let mut wanted = filter.levels().take(LEVELS_MAX);
    let (mut alike, mut count) = (0.0, 0.0);
    loop {
        match (levels.next(), wanted.next()) {
            (None, None) | (_, Some("#")) => break,
            (Some(_), Some("+")) => alike += 1.0,
            (Some(level), Some(wanted)) if level == wanted => alike += 1.0,
            (Some(level), Some(wanted)) => alike += likeness(level, wanted) * 0.8,
            (Some(_), None) | (None, Some(_)) => {}
        }
        count += 1.0;
    }
    if count > 0.0 { alike / count } else { 0.0 }
}

fn shortened(name: &str) -> &str {
    beginning(name, NAME_MAX)
}

/// As many whole characters as have at most `len` bytes.
pub fn beginning(text: &str, len: usize) -> &str {
    let mut end = len.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likeness_to(topic: &str, filter: &str) -> f64 {
        topic_likeness(topic, &TopicFilter::parse(filter).expect("a filter"))
    }

    #[test]
    fn a_slip_in_one_level_is_nearer_than_another_topic() {
        let by_nearness = ["a/sensor/c", "a/sensr/c", "a/b/c", "x/y/z"];
        let scores = by_nearness.map(|topic| likeness_to(topic, "a/sensor/+"));
        assert!(scores.is_sorted_by(|one, next| one > next), "{scores:?}");
        assert!(likeness_to("a/b", "a/b/c") > likeness_to("a", "a/b/c"));
    }

    #[test]
    fn a_topic_of_thousands_of_levels_costs_no_more_than_one_of_a_few() {
        let long = "a/".repeat(30_000);
        assert!(likeness_to(&long, &long) > 0.99);
    }

    #[test]
    fn the_nearest_are_kept_and_of_equals_the_last() {
        let mut nearest = Nearest::default();
        for (score, name) in [(0.5, "a"), (0.1, "b"), (0.9, "c"), (0.5, "d"), (0.2, "e"), (0.9, "f")] {
            nearest.offer(Nearness { score, differences: Vec::new() }, || name);
        }
        let names: Vec<&str> = nearest.iter().map(|(_, name)| *name).collect();
        assert_eq!(names, ["f", "c", "d"]);
    }
}
