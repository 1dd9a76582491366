//! Values by Topic Filter, found by topic: a tree whose edges are the levels of the filters.
//!
//! A lookup hashes each level of the topic once and follows, side by side, the child of that name, `+` and `#`, so it
//! costs what matches and not what there is. It allocates nothing, and walks level by level, never by recursion: a filter
//! may have 30,000 levels. Nodes that no value needs are removed. Filters come from operators; clients, who could choose
//! levels that collide, only look up.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::{SmallVec, smallvec};

use super::TopicFilter;

/// No node: nodes are numbered from 0, the root.
const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// Nodes that match so far, kept without memory of their own: `+` or not in each of three levels.
const SIDE_BY_SIDE: usize = 8;

/// Levels up to this many bytes, which most are, stand in their node.
const SHORT_LEVEL: usize = 16;

/// Values by [`TopicFilter`]; a filter may have several.
#[derive(Clone, Debug)]
pub struct FilterTree<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    /// Children that are neither `+` nor `#`, by parent and level.
    table: HashTable<u32>,
    hasher: FixedState,
    len: usize,
}

#[derive(Clone, Debug)]
struct Node<T> {
    level: SmallVec<[u8; SHORT_LEVEL]>,
    parent: u32,
    /// The child for `+`.
    single: u32,
    /// The child for `#`.
    multi: u32,
    /// Children of every kind.
    children: u32,
    values: SmallVec<[T; 1]>,
}

impl<T> Default for FilterTree<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> FilterTree<T> {
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::new(b"", NONE)],
            free: Vec::new(),
            table: HashTable::new(),
            hasher: FixedState::default(),
            len: 0,
        }
    }

    /// Values, not filters.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a value to those of `filter`. What stands before the [pattern](TopicFilter::pattern) of a shared one is
    /// left out of account.
    pub fn insert(&mut self, filter: &TopicFilter, value: T) {
        let mut node = ROOT;
        for level in levels(filter.pattern().as_bytes()) {
            node = self.child(node, level).unwrap_or_else(|| self.add_child(node, level));
        }
        self.nodes[node as usize].values.push(value);
        self.len += 1;
    }

    /// Removes the first of the values of `filter` that `is_it` says yes to.
    pub fn remove(&mut self, filter: &TopicFilter, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let mut node = ROOT;
        for level in levels(filter.pattern().as_bytes()) {
            node = self.child(node, level)?;
        }
        let values = &mut self.nodes[node as usize].values;
        let value = values.iter().position(is_it).map(|index| values.remove(index))?;
        self.len -= 1;
        self.prune(node);
        Some(value)
    }

    /// Calls `found` with each value whose filter matches `topic`, those of one filter in the order they were inserted,
    /// and filters in no order to rely on. Wildcards in the first level leave `$` topics alone [MQTT-4.7.2-1].
    #[inline]
    pub fn find(&self, topic: &[u8], found: &mut impl FnMut(&T)) {
        if !self.is_empty() {
            self.walk(topic, found);
        }
    }

    fn walk(&self, topic: &[u8], found: &mut impl FnMut(&T)) {
        let mut reached: SmallVec<[u32; SIDE_BY_SIDE]> = smallvec![ROOT];
        let mut next: SmallVec<[u32; SIDE_BY_SIDE]> = SmallVec::new();
        let mut wildcards = !topic.starts_with(b"$");
        for level in levels(topic) {
            let level_hash = self.level_hash(level);
            for &index in &reached {
                let node = &self.nodes[index as usize];
                if wildcards {
                    self.take(node.multi, found);
                    if node.single != NONE {
                        next.push(node.single);
                    }
                }
                if node.has_named_children() {
                    next.extend(self.lookup(index, level, level_hash));
                }
            }
            std::mem::swap(&mut reached, &mut next);
            if reached.is_empty() {
                return;
            }
            next.clear();
            wildcards = true;
        }
        for &index in &reached {
            self.take(index, found);
            // `a/#` matches `a` too [section 4.7.1.2].
            self.take(self.nodes[index as usize].multi, found);
        }
    }

    fn take(&self, index: u32, found: &mut impl FnMut(&T)) {
        if index != NONE {
            self.nodes[index as usize].values.iter().for_each(found);
        }
    }

    fn child(&self, parent: u32, level: &[u8]) -> Option<u32> {
        let node = &self.nodes[parent as usize];
        match level {
            b"+" => Some(node.single).filter(|&child| child != NONE),
            b"#" => Some(node.multi).filter(|&child| child != NONE),
            _ => self.lookup(parent, level, self.level_hash(level)),
        }
    }

    fn lookup(&self, parent: u32, level: &[u8], level_hash: u64) -> Option<u32> {
        let is_child = |&index: &u32| {
            let node = &self.nodes[index as usize];
            node.parent == parent && *node.level == *level
        };
        self.table.find(child_hash(parent, level_hash), is_child).copied()
    }

    fn add_child(&mut self, parent: u32, level: &[u8]) -> u32 {
        let node = Node::new(level, parent);
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index as usize] = node;
                index
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("memory ends before 4 billion nodes")
            }
        };
        self.nodes[parent as usize].children += 1;
        match level {
            b"+" => self.nodes[parent as usize].single = index,
            b"#" => self.nodes[parent as usize].multi = index,
            _ => {
                let Self { nodes, table, hasher, .. } = self;
                let hash_of = |&index: &u32| nodes[index as usize].hash(hasher);
                table.insert_unique(nodes[index as usize].hash(hasher), index, hash_of);
            }
        }
        index
    }

    /// Removes `index` and its ancestors as far as nothing needs them.
    fn prune(&mut self, mut index: u32) {
        while index != ROOT {
            let node = &self.nodes[index as usize];
            if node.children > 0 || !node.values.is_empty() {
                return;
            }
            let (parent, hash) = (node.parent, node.hash(&self.hasher));
            match &*node.level {
                b"+" => self.nodes[parent as usize].single = NONE,
                b"#" => self.nodes[parent as usize].multi = NONE,
                _ => {
                    if let Ok(entry) = self.table.find_entry(hash, |&other| other == index) {
                        entry.remove();
                    }
                }
            }
            self.nodes[index as usize] = Node::new(b"", NONE);
            self.nodes[parent as usize].children -= 1;
            self.free.push(index);
            index = parent;
        }
        if self.is_empty() {
            // Gives everything back.
            *self = Self::new();
        }
    }

    fn level_hash(&self, level: &[u8]) -> u64 {
        hash_level(&self.hasher, level)
    }
}

impl<T> Node<T> {
    fn new(level: &[u8], parent: u32) -> Self {
        Self {
            level: SmallVec::from_slice(level),
            parent,
            single: NONE,
            multi: NONE,
            children: 0,
            values: SmallVec::new(),
        }
    }

    fn has_named_children(&self) -> bool {
        self.children > u32::from(self.single != NONE) + u32::from(self.multi != NONE)
    }

    fn hash(&self, hasher: &FixedState) -> u64 {
        child_hash(self.parent, hash_level(hasher, &self.level))
    }
}

fn levels(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'/')
}

fn hash_level(hasher: &FixedState, level: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(level);
    state.finish()
}

/// The table tells entries apart by high bits and places them by low ones.
fn child_hash(parent: u32, level_hash: u64) -> u64 {
    // 2^64 divided by the golden ratio, odd.
    let stirred = (level_hash ^ u64::from(parent)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    stirred ^ stirred >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::TopicName;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).expect("a valid filter")
    }

    fn tree(filters: &[&str]) -> FilterTree<String> {
        let mut tree = FilterTree::new();
        for text in filters {
            tree.insert(&filter(text), (*text).to_owned());
        }
        tree
    }

    fn matching<T: Clone + Ord>(tree: &FilterTree<T>, topic: &str) -> Vec<T> {
        let mut values = Vec::new();
        tree.find(topic.as_bytes(), &mut |value| values.push(value.clone()));
        values.sort();
        values
    }

    #[test] // [MQTT-4.7.1-1], [MQTT-4.7.1-2]
    fn wildcards_match_as_the_standard_prints_them() {
        let tree =
            tree(&["sport/tennis/player1/#", "sport/#", "#", "sport/+", "+/+", "/+", "+", "+/tennis/#"]);
        assert_eq!(
            matching(&tree, "sport/tennis/player1"),
            ["#", "+/tennis/#", "sport/#", "sport/tennis/player1/#"]
        );
        assert_eq!(matching(&tree, "sport"), ["#", "+", "sport/#"]);
        assert_eq!(matching(&tree, "sport/"), ["#", "+/+", "sport/#", "sport/+"]);
        assert_eq!(matching(&tree, "/finance"), ["#", "+/+", "/+"]);
    }

    #[test] // [MQTT-4.7.2-1]
    fn wildcards_in_the_first_level_leave_dollar_topics_alone() {
        let tree = tree(&["#", "+/monitor/Clients", "$SYS/#", "$SYS/monitor/+", "a/+"]);
        assert_eq!(matching(&tree, "$SYS/monitor/Clients"), ["$SYS/#", "$SYS/monitor/+"]);
        assert_eq!(matching(&tree, "a/$b"), ["#", "a/+"]);
    }

    #[test]
    fn values_of_one_filter_come_in_the_order_they_were_inserted() {
        let mut tree = FilterTree::new();
        for value in [3, 1, 2] {
            tree.insert(&filter("a/+"), value);
        }
        assert_eq!(tree.remove(&filter("a/+"), |&value| value == 1), Some(1));
        assert_eq!(tree.remove(&filter("a/+"), |&value| value == 1), None);
        assert_eq!(tree.remove(&filter("a/b"), |_| true), None);
        let mut values = Vec::new();
        tree.find(b"a/b", &mut |&value: &i32| values.push(value));
        assert_eq!((values, tree.len()), (vec![3, 2], 2));
    }

    #[test]
    fn thirty_thousand_levels_need_no_recursion() {
        let deep = vec!["a"; 30_000].join("/");
        let mut tree = tree(&[&deep]);
        tree.insert(&filter(&vec!["+"; 30_000].join("/")), "+".to_owned());
        assert_eq!(matching(&tree, &deep).len(), 2);
        assert!(tree.remove(&filter(&deep), |_| true).is_some());
        assert_eq!(matching(&tree, &deep), ["+"]);
    }

    fn any_filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "+", "$x", "a level longer than a node holds"]);
        (prop::collection::vec(level, 1..5), any::<bool>()).prop_map(|(levels, multi)| {
            let text = levels.join("/");
            if multi || text.is_empty() { format!("{text}/#") } else { text }
        })
    }

    fn any_topic() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "c", "$x", "a level longer than a node holds"]);
        prop::collection::vec(level, 1..6)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("empty", |topic| !topic.is_empty())
    }

    proptest! {
        #[test]
        fn the_tree_equals_a_naive_matcher(
            operations in prop::collection::vec((prop::bool::weighted(0.7), any_filter(), 0..3_u32), 1..60),
            topics in prop::collection::vec(any_topic(), 1..10),
        ) {
            let mut tree = FilterTree::new();
            let mut model: Vec<(String, u32)> = Vec::new();
            for (inserts, text, value) in operations {
                let held = model.iter().position(|held| *held == (text.clone(), value));
                if inserts {
                    tree.insert(&filter(&text), value);
                    model.push((text, value));
                } else {
                    let removed = tree.remove(&filter(&text), |&held| held == value);
                    prop_assert_eq!(removed, held.map(|index| model.remove(index).1));
                }
                prop_assert_eq!(tree.len(), model.len());
            }
            for topic in topics {
                let name = TopicName::parse(&topic).expect("a valid topic");
                let mut expected: Vec<u32> =
                    model.iter().filter(|(text, _)| filter(text).matches(&name)).map(|held| held.1).collect();
                expected.sort_unstable();
                prop_assert_eq!(matching(&tree, &topic), expected);
            }
            for (text, value) in model {
                prop_assert_eq!(tree.remove(&filter(&text), |&held| held == value), Some(value));
            }
            prop_assert_eq!(tree.nodes.len(), 1);
            prop_assert!(tree.table.is_empty());
        }
    }
}
