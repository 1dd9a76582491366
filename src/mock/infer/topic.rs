//! Topics that differ in levels, as one pattern.

use std::collections::{BTreeMap, BTreeSet};

/// A first level says what a tree is about; only where there are so many is it more likely a name.
const FIRST_LEVELS_MIN: usize = 4;

/// The levels of a topic; `None` stands for any.
pub type Pattern = Vec<Option<String>>;

pub fn matches(pattern: &Pattern, topic: &str) -> bool {
    let mut levels = topic.split('/');
    pattern
        .iter()
        .all(|wanted| levels.next().is_some_and(|level| wanted.as_ref().is_none_or(|wanted| wanted == level)))
        && levels.next().is_none()
}

/// The fewest patterns that name all of `topics` and leave a level open only where topics that agree in the others differ.
/// The last levels are opened first.
pub fn generalised<'a>(topics: impl IntoIterator<Item = &'a str>) -> Vec<Pattern> {
    let exact = |topic: &str| topic.split('/').map(|level| Some(level.to_owned())).collect::<Pattern>();
    let mut patterns: BTreeSet<Pattern> = topics.into_iter().map(exact).collect();
    let depth = patterns.iter().map(Vec::len).max().unwrap_or_default();
    for level in (0..depth).rev() {
        let mut alike: BTreeMap<Pattern, Vec<Pattern>> = BTreeMap::new();
        for pattern in patterns {
            let mut open = pattern.clone();
            if let Some(one) = open.get_mut(level) {
                *one = None;
            }
            alike.entry(open).or_default().push(pattern);
        }
        let min = if level == 0 { FIRST_LEVELS_MIN } else { 2 };
        patterns = alike
            .into_iter()
            .flat_map(|(open, members)| if members.len() >= min { vec![open] } else { members })
            .collect();
    }
    patterns.into_iter().collect()
}

/// A name for each open level: of what stands before it (`devices/+` is a `device_id`), else `level_2`, counted from 0.
pub fn names(pattern: &Pattern) -> Vec<Option<String>> {
    // What templates call something else.
    let mut taken: BTreeSet<String> = ["client_id".to_owned()].into();
    let name = |(index, level): (usize, &Option<String>)| {
        if level.is_some() {
            return None;
        }
        let before = index.checked_sub(1).and_then(|before| pattern[before].as_deref());
        let mut name = before.and_then(singular).map(|noun| format!("{noun}_id"));
        if name.as_ref().is_none_or(|name| taken.contains(name)) {
            name = Some(format!("level_{index}"));
        }
        taken.extend(name.clone());
        name
    };
    pattern.iter().enumerate().map(name).collect()
}

/// As mocks write it: `devices/{{device_id}}/cmd`.
pub fn show(pattern: &Pattern) -> String {
    let names = names(pattern);
    let levels = pattern.iter().zip(names).map(|(level, name)| match (level, name) {
        (Some(level), _) => level.clone(),
        (None, name) => format!("{{{{{}}}}}", name.unwrap_or_default()),
    });
    levels.collect::<Vec<_>>().join("/")
}

/// `devices` → `device`. `None` for what is no noun a name can be made of.
fn singular(level: &str) -> Option<String> {
    let word = level.to_lowercase().replace(['-', ' '], "_");
    // `in`, `v` and the like are no nouns.
    let is_name = word.len() >= 3
        && word.starts_with(|letter: char| letter.is_ascii_lowercase())
        && word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    if !is_name {
        return None;
    }
    Some(match word.as_str() {
        word if word.len() > 3 && word.ends_with("ies") => format!("{}y", &word[..word.len() - 3]),
        word if word.len() > 2 && word.ends_with('s') && !word.ends_with("ss") && !word.ends_with("us") => {
            word[..word.len() - 1].to_owned()
        }
        word => word.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(topics: &[&str]) -> Vec<String> {
        generalised(topics.iter().copied()).iter().map(show).collect()
    }

    #[test]
    fn levels_that_differ_are_named_by_what_is_before_them() {
        assert_eq!(shown(&["devices/d1/cmd", "devices/d2/cmd"]), ["devices/{{device_id}}/cmd"]);
        assert_eq!(
            shown(&[
                "factories/1/cells/a/do",
                "factories/1/cells/b/do",
                "factories/2/cells/a/do",
                "factories/2/cells/b/do"
            ]),
            ["factories/{{factory_id}}/cells/{{cell_id}}/do"]
        );
        assert_eq!(
            shown(&["hall/1/x/p", "hall/1/y/p", "hall/2/x/p", "hall/2/y/p"]),
            ["hall/{{hall_id}}/{{level_2}}/p"]
        );
        assert_eq!(shown(&["clients/1/x", "clients/2/x"]), ["clients/{{level_1}}/x"]);
    }

    #[test]
    fn topics_that_differ_otherwise_stay_apart() {
        assert_eq!(shown(&["d1/cmd", "d2/cmd"]), ["d1/cmd", "d2/cmd"]);
        assert_eq!(shown(&["a/b", "a/b/c"]), ["a/b", "a/b/c"]);
        assert_eq!(shown(&["1/c", "2/c", "3/c", "4/c"]), ["{{level_0}}/c"]);
        assert!(matches(&generalised(["a/b", "a/c"])[0], "a/z") && !matches(&vec![None], "a/b"));
    }
}
