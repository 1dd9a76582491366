//! Who is subscribed to what: a tree of topic levels.
//!
//! Nodes stand in an arena and are found through one table keyed by the hash of their path, so
//! matching a topic allocates nothing. Everything walks level by level, never by recursion: a filter may
//! have 30,000 levels. Nodes that no subscription needs are removed.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher},
};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::{
    packet::{SubscriptionOptions, TopicFilter},
    session::SubscriptionKey,
};

/// No node: nodes are numbered from 0, the root.
const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// The hash of no path.
const ROOT_HASH: u32 = 0;

/// In place of the hash of `+`, which need not be looked up.
const SINGLE_HASH: u64 = 1;

const STIR: u64 = 0x9E37_79B9_7F4A_7C15;

/// One Session's subscription to the filter of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// Index of the Session.
    pub session: u32,
    pub options: SubscriptionOptions,
    /// 0 for none.
    pub subscription_identifier: u32,
}

/// A Session of which another subscription moved in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub session: u32,
    pub position: u32,
}

/// With a million of them, what counts is how much memory has to be fetched: a node is one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Node {
    level: Level,
    /// In the table; found from the path alone, so that looking up one level does not wait for the
    /// node of the level above.
    path_hash: u32,
    parent: u32,
    /// Children of every kind.
    children: u32,
    /// The child for `+`, which the table does not hold.
    single: u32,
    /// The child for `#`, likewise.
    multi: u32,
    subscribers: SmallVec<[Subscriber; 1]>,
    /// Whether shared subscriptions have this filter, too.
    is_shared: bool,
}

/// One level of a Topic Filter; in place if it is as short as most.
#[derive(Debug)]
enum Level {
    Short { len: u8, bytes: [u8; Level::SHORT] },
    Long(Box<Box<[u8]>>),
}

const _: () = assert!(size_of::<Node>() == 64);

impl Level {
    const SHORT: usize = 14;

    fn new(level: &[u8]) -> Self {
        let mut bytes = [0; Self::SHORT];
        match bytes.get_mut(..level.len()) {
            Some(short) => {
                short.copy_from_slice(level);
                Self::Short { len: level.len() as u8, bytes }
            }
            None => Self::Long(Box::new(level.into())),
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

/// The Sessions of one shared subscription.
#[derive(Debug)]
struct Group {
    node: u32,
    name: Box<str>,
    members: Vec<Subscriber>,
    /// Whose turn it is.
    next: usize,
}

/// What a topic matched; kept by the caller, so that its memory is used again.
#[derive(Debug, Default)]
pub struct Matches {
    /// Subscriptions that are not shared; a Session may stand here more than once.
    pub subscribers: Vec<Subscriber>,
    /// Shared subscriptions.
    pub groups: Vec<u32>,
    /// Nodes with their path hashes.
    level: Vec<(u32, u32)>,
    next_level: Vec<(u32, u32)>,
}

/// The subscriptions of all Sessions.
#[derive(Debug)]
pub struct Subscriptions {
    nodes: Vec<Node>,
    free: Vec<u32>,
    table: HashTable<u32>,
    groups: HashMap<u32, Group, FixedState>,
    /// Groups of a node by Share Name: apart, as few nodes have any.
    shares: HashMap<u32, BTreeMap<Box<str>, u32>, FixedState>,
    next_group: u32,
    hasher: FixedState,
    len: usize,
    /// Counts changes.
    generation: u64,
}

impl Subscriptions {
    /// `seed` keeps clients from choosing levels that collide.
    pub fn new(seed: u64) -> Self {
        Self {
            nodes: vec![Node::new(b"", NONE, ROOT_HASH)],
            free: Vec::new(),
            table: HashTable::new(),
            groups: HashMap::with_hasher(FixedState::default()),
            shares: HashMap::with_hasher(FixedState::default()),
            next_group: 0,
            hasher: FixedState::with_seed(seed),
            len: 0,
            // What was never found in any is of none.
            generation: 1,
        }
    }

    /// Subscriptions, each Session's counted.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Another one after every change: as long as it is the same, topics match what they did.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// For telling topics apart fast.
    #[inline]
    pub fn topic_hash(&self, topic: &[u8]) -> u64 {
        hash_level(&self.hasher, topic)
    }

    /// Those of [`len`](Self::len) that are shared.
    pub fn shared_len(&self) -> usize {
        self.groups.values().map(|group| group.members.len()).sum()
    }

    /// Where subscriptions to `filter` stand, if there are any.
    pub fn find(&self, filter: &TopicFilter) -> Option<SubscriptionKey> {
        let mut node = ROOT;
        for level in filter.pattern().as_bytes().split(|&byte| byte == b'/') {
            node = self.child(node, level)?;
        }
        let share = match filter.share_name() {
            Some(name) => Some(*self.shares.get(&node)?.get(name)?),
            None => None,
        };
        Some(SubscriptionKey { node, share })
    }

    /// Adds a subscription of a Session that has none to `filter`; returns where it stands.
    pub fn add(&mut self, filter: &TopicFilter, subscriber: Subscriber) -> (SubscriptionKey, u32) {
        let mut node = ROOT;
        for level in filter.pattern().as_bytes().split(|&byte| byte == b'/') {
            node = self.child(node, level).unwrap_or_else(|| self.add_child(node, level));
        }
        self.len += 1;
        self.generation += 1;
        let Some(name) = filter.share_name() else {
            let subscribers = &mut self.nodes[node as usize].subscribers;
            subscribers.push(subscriber);
            return (SubscriptionKey { node, share: None }, subscribers.len() as u32 - 1);
        };
        self.nodes[node as usize].is_shared = true;
        let shares = self.shares.entry(node).or_default();
        let share = match shares.get(name) {
            Some(&share) => share,
            None => {
                while self.groups.contains_key(&self.next_group) {
                    self.next_group = self.next_group.wrapping_add(1);
                }
                let group = Group { node, name: name.into(), members: Vec::new(), next: 0 };
                self.groups.insert(self.next_group, group);
                shares.insert(name.into(), self.next_group);
                self.next_group = self.next_group.wrapping_add(1);
                self.next_group.wrapping_sub(1)
            }
        };
        let members = &mut self.groups.get_mut(&share).expect("found or inserted above").members;
        members.push(subscriber);
        (SubscriptionKey { node, share: Some(share) }, members.len() as u32 - 1)
    }

    /// The subscription at `position` of `key`.
    pub fn get_mut(&mut self, key: SubscriptionKey, position: u32) -> Option<&mut Subscriber> {
        self.generation += 1;
        match key.share {
            Some(share) => self.groups.get_mut(&share)?.members.get_mut(position as usize),
            None => self.nodes.get_mut(key.node as usize)?.subscribers.get_mut(position as usize),
        }
    }

    pub fn get(&self, key: SubscriptionKey, position: u32) -> Option<&Subscriber> {
        match key.share {
            Some(share) => self.groups.get(&share)?.members.get(position as usize),
            None => self.nodes.get(key.node as usize)?.subscribers.get(position as usize),
        }
    }

    /// Removes the subscription at `position` of `key`, which must exist; another one may take its
    /// place.
    pub fn remove(&mut self, key: SubscriptionKey, position: u32) -> Option<Moved> {
        let index = position as usize;
        self.len -= 1;
        self.generation += 1;
        let moved = match key.share {
            None => {
                let subscribers = &mut self.nodes[key.node as usize].subscribers;
                subscribers.swap_remove(index);
                let moved = subscribers.get(index).map(|subscriber| subscriber.session);
                if subscribers.is_empty() {
                    // Gives memory back that a crowd needed.
                    subscribers.shrink_to_fit();
                }
                moved
            }
            Some(share) => {
                let group = self.groups.get_mut(&share).expect("a key names an existing group");
                group.members.swap_remove(index);
                let moved = group.members.get(index).map(|subscriber| subscriber.session);
                if group.members.is_empty() {
                    let group = self.groups.remove(&share).expect("it was there just now");
                    let shares = self.shares.get_mut(&group.node).expect("the group's own entry");
                    shares.remove(&group.name);
                    if shares.is_empty() {
                        self.shares.remove(&group.node);
                        self.nodes[group.node as usize].is_shared = false;
                    }
                }
                moved
            }
        };
        self.prune(key.node);
        moved.map(|session| Moved { session, position })
    }

    /// The Topic Filter of `key`, as it was subscribed to.
    pub fn filter(&self, key: SubscriptionKey) -> String {
        let mut levels = Vec::new();
        let mut node = key.node;
        while node != ROOT {
            levels.push(self.nodes[node as usize].level.as_bytes());
            node = self.nodes[node as usize].parent;
        }
        levels.reverse();
        let pattern = String::from_utf8(levels.join(&b'/')).expect("levels come from Topic Filters");
        match key.share.and_then(|share| self.groups.get(&share)) {
            Some(group) => format!("$share/{}/{pattern}", group.name),
            None => pattern,
        }
    }

    /// The same of a shared subscription by its number, if there is one.
    pub fn filter_of_share(&self, share: u32) -> Option<Box<str>> {
        let node = self.groups.get(&share)?.node;
        Some(self.filter(SubscriptionKey { node, share: Some(share) }).into())
    }

    /// How many levels and bytes the filter of `key` has, a share name not counted.
    pub fn size(&self, key: SubscriptionKey) -> (usize, usize) {
        let (mut levels, mut bytes) = (0, 0);
        let mut node = key.node;
        while node != ROOT {
            levels += 1;
            bytes += self.nodes[node as usize].level.as_bytes().len() + 1;
            node = self.nodes[node as usize].parent;
        }
        // One separator less than levels.
        (levels, bytes - 1)
    }

    /// Fills `matches` with everything that `topic` matches.
    pub fn matches(&self, topic: &[u8], matches: &mut Matches) {
        let Matches { subscribers, groups, level, next_level } = matches;
        subscribers.clear();
        groups.clear();
        level.clear();
        level.push((ROOT, ROOT_HASH));
        // Wildcards in the first level leave `$` topics alone [MQTT-4.7.2-1].
        let mut wildcards = !topic.starts_with(b"$");
        for text in topic.split(|&byte| byte == b'/') {
            let hash = self.level_hash(text);
            next_level.clear();
            for &(index, path) in &*level {
                let path_hash = join_hash(path, hash);
                let child = self.lookup(index, text, path_hash);
                let node = &self.nodes[index as usize];
                if wildcards {
                    if node.multi != NONE {
                        self.take(node.multi, subscribers, groups);
                    }
                    if node.single != NONE {
                        next_level.push((node.single, join_hash(path, SINGLE_HASH)));
                    }
                }
                next_level.extend(child.map(|child| (child, path_hash)));
            }
            std::mem::swap(level, next_level);
            if level.is_empty() {
                return;
            }
            wildcards = true;
        }
        for &(index, _) in &*level {
            self.take(index, subscribers, groups);
            // `a/#` matches `a` too [section 4.7.1.2].
            let multi = self.nodes[index as usize].multi;
            if multi != NONE {
                self.take(multi, subscribers, groups);
            }
        }
    }

    /// The member of `share` whose turn it is: the next one for which `is_preferred`, or the next one
    /// if there is none.
    pub fn choose(&mut self, share: u32, is_preferred: impl Fn(u32) -> bool) -> Option<Subscriber> {
        let group = self.groups.get_mut(&share)?;
        let count = group.members.len();
        let start = group.next % count.max(1);
        let mut turns = (start..count).chain(0..start);
        let chosen = turns.find(|&turn| is_preferred(group.members[turn].session)).unwrap_or(start);
        group.next = chosen + 1;
        group.members.get(chosen).copied()
    }

    fn take(&self, index: u32, subscribers: &mut Vec<Subscriber>, groups: &mut Vec<u32>) {
        let node = &self.nodes[index as usize];
        subscribers.extend_from_slice(&node.subscribers);
        if node.is_shared {
            groups.extend(self.shares.get(&index).into_iter().flat_map(BTreeMap::values));
        }
    }

    fn child(&self, parent: u32, level: &[u8]) -> Option<u32> {
        let node = &self.nodes[parent as usize];
        match level {
            b"+" => Some(node.single).filter(|&child| child != NONE),
            b"#" => Some(node.multi).filter(|&child| child != NONE),
            _ => self.lookup(parent, level, join_hash(node.path_hash, self.level_hash(level))),
        }
    }

    #[inline]
    fn lookup(&self, parent: u32, level: &[u8], path_hash: u32) -> Option<u32> {
        let is_child = |&index: &u32| {
            let node = &self.nodes[index as usize];
            node.parent == parent && node.level.as_bytes() == level
        };
        self.table.find(table_hash(path_hash), is_child).copied()
    }

    fn add_child(&mut self, parent: u32, level: &[u8]) -> u32 {
        let level_hash = match level {
            b"+" => SINGLE_HASH,
            level => self.level_hash(level),
        };
        let path_hash = join_hash(self.nodes[parent as usize].path_hash, level_hash);
        let node = Node::new(level, parent, path_hash);
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
                let Self { nodes, table, .. } = self;
                let hash_of = |&index: &u32| table_hash(nodes[index as usize].path_hash);
                table.insert_unique(table_hash(path_hash), index, hash_of);
            }
        }
        index
    }

    /// Removes `index` and its ancestors as far as nothing needs them.
    fn prune(&mut self, mut index: u32) {
        while index != ROOT {
            let node = &self.nodes[index as usize];
            if node.children > 0 || !node.subscribers.is_empty() || node.is_shared {
                return;
            }
            let parent = node.parent;
            let hash = table_hash(node.path_hash);
            match node.level.as_bytes() {
                b"+" => self.nodes[parent as usize].single = NONE,
                b"#" => self.nodes[parent as usize].multi = NONE,
                _ => {
                    if let Ok(entry) = self.table.find_entry(hash, |&other| other == index) {
                        entry.remove();
                    }
                }
            }
            self.nodes[index as usize] = Node::new(b"", NONE, ROOT_HASH);
            self.nodes[parent as usize].children -= 1;
            self.free.push(index);
            index = parent;
        }
        if self.free.len() + 1 == self.nodes.len() {
            // Nothing is left: give everything back.
            self.nodes.truncate(1);
            self.nodes.shrink_to_fit();
            self.free = Vec::new();
            self.table = HashTable::new();
        }
    }

    #[inline]
    fn level_hash(&self, level: &[u8]) -> u64 {
        hash_level(&self.hasher, level)
    }

    #[cfg(test)]
    fn node_count(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

impl Node {
    fn new(level: &[u8], parent: u32, path_hash: u32) -> Self {
        Self {
            level: Level::new(level),
            path_hash,
            parent,
            children: 0,
            single: NONE,
            multi: NONE,
            subscribers: SmallVec::new(),
            is_shared: false,
        }
    }
}

#[inline]
fn hash_level(hasher: &FixedState, level: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(level);
    state.finish()
}

/// The hash of a path with one more level: the path's, stirred with the level's.
#[inline]
fn join_hash(path: u32, level_hash: u64) -> u32 {
    let stirred = (level_hash ^ u64::from(path)).wrapping_mul(STIR);
    (stirred >> 32) as u32
}

/// The table's hash: it tells entries apart by high bits and places them by low ones.
#[inline]
fn table_hash(path_hash: u32) -> u64 {
    let stirred = u64::from(path_hash).wrapping_mul(STIR);
    stirred ^ stirred >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{QoS, TopicName};

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).expect("a valid filter")
    }

    fn subscriber(session: u32) -> Subscriber {
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
        Subscriber { session, options, subscription_identifier: 0 }
    }

    fn matching(tree: &Subscriptions, topic: &str) -> Vec<u32> {
        let mut matches = Matches::default();
        tree.matches(topic.as_bytes(), &mut matches);
        let mut sessions: Vec<u32> = matches.subscribers.iter().map(|found| found.session).collect();
        sessions.sort_unstable();
        sessions
    }

    #[test] // [MQTT-4.7.1-1], [MQTT-4.7.1-2]
    fn wildcards_match_as_the_standard_prints_them() {
        let mut tree = Subscriptions::new(1);
        let filters = [
            "sport/tennis/player1/#",
            "sport/#",
            "#",
            "sport/+",
            "+/+",
            "/+",
            "+",
            "sport/tennis/+",
            "+/tennis/#",
        ];
        for (session, text) in filters.iter().enumerate() {
            tree.add(&filter(text), subscriber(session as u32));
        }
        assert_eq!(matching(&tree, "sport/tennis/player1"), [0, 1, 2, 5 + 2, 8]);
        assert_eq!(matching(&tree, "sport"), [1, 2, 6]);
        assert_eq!(matching(&tree, "sport/"), [1, 2, 3, 4]);
        assert_eq!(matching(&tree, "/finance"), [2, 4, 5]);
    }

    #[test] // [MQTT-4.7.2-1]
    fn wildcards_in_the_first_level_leave_dollar_topics_alone() {
        let mut tree = Subscriptions::new(1);
        for (session, text) in ["#", "+/monitor/Clients", "$SYS/#", "$SYS/monitor/+"].iter().enumerate() {
            tree.add(&filter(text), subscriber(session as u32));
        }
        assert_eq!(matching(&tree, "$SYS/monitor/Clients"), [2, 3]);
    }

    #[test]
    fn thirty_thousand_levels_need_no_recursion() {
        let mut tree = Subscriptions::new(1);
        let deep = vec!["a"; 30_000].join("/");
        let (key, position) = tree.add(&filter(&deep), subscriber(1));
        tree.add(&filter(&vec!["+"; 30_000].join("/")), subscriber(2));
        assert_eq!(matching(&tree, &deep), [1, 2]);
        assert_eq!(tree.filter(key), deep);
        tree.remove(key, position);
        assert_eq!(matching(&tree, &deep), [2]);
    }

    #[test]
    fn an_empty_tree_holds_no_nodes_but_the_root() {
        let mut tree = Subscriptions::new(1);
        let mut keys = Vec::new();
        for text in ["a/b/c", "a/b/+", "a/#", "$share/g/a/b", "$share/h/a/b"] {
            keys.push(tree.add(&filter(text), subscriber(1)));
        }
        assert_eq!(tree.node_count(), 6);
        for (key, position) in keys {
            tree.remove(key, position);
        }
        assert_eq!(tree.node_count(), 1);
        assert_eq!(tree.len(), 0);
    }

    fn any_filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "+", "$x"]);
        (prop::collection::vec(level, 1..5), any::<bool>(), any::<bool>()).prop_map(
            |(levels, multi, shared)| {
                let mut text = levels.join("/");
                if multi {
                    text.push_str("/#");
                }
                if text.is_empty() {
                    text.push('#');
                }
                if shared { format!("$share/g/{text}") } else { text }
            },
        )
    }

    fn any_topic() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "c", "$x"]);
        prop::collection::vec(level, 1..6)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("empty", |t| !t.is_empty())
    }

    proptest! {
        #[test]
        fn the_tree_equals_a_naive_matcher(
            operations in prop::collection::vec((any::<bool>(), any_filter(), 0..4_u32), 1..60),
            topics in prop::collection::vec(any_topic(), 1..10),
        ) {
            let mut tree = Subscriptions::new(7);
            // Session and filter, with where the tree says it stands.
            let mut model: BTreeMap<(u32, String), (SubscriptionKey, u32)> = BTreeMap::new();
            for (subscribes, text, session) in operations {
                let parsed = filter(&text);
                let held = model.get(&(session, text.clone())).copied();
                match (subscribes, held) {
                    (true, None) => {
                        let placed = tree.add(&parsed, subscriber(session));
                        prop_assert_eq!(tree.find(&parsed), Some(placed.0));
                        prop_assert_eq!(tree.filter(placed.0), text.clone());
                        model.insert((session, text), placed);
                    }
                    (false, Some((key, position))) => {
                        model.remove(&(session, text));
                        if let Some(moved) = tree.remove(key, position) {
                            let entry = model.iter_mut().find(|((session, _), (other, _))| {
                                *session == moved.session && *other == key
                            });
                            entry.expect("the moved one exists").1.1 = moved.position;
                        }
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(tree.len(), model.len());
            for ((session, _), (key, position)) in &model {
                prop_assert_eq!(tree.get(*key, *position).map(|found| found.session), Some(*session));
            }
            for topic in topics {
                let name = TopicName::parse(&topic).expect("a valid topic");
                let mut expected: Vec<u32> = model
                    .keys()
                    .filter(|(_, text)| !text.starts_with("$share") && filter(text).matches(&name))
                    .map(|(session, _)| *session)
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(matching(&tree, &topic), expected);
                let mut matches = Matches::default();
                tree.matches(topic.as_bytes(), &mut matches);
                let shared: std::collections::BTreeSet<&String> = model
                    .keys()
                    .filter(|(_, text)| text.starts_with("$share") && filter(text).matches(&name))
                    .map(|(_, text)| text)
                    .collect();
                prop_assert_eq!(matches.groups.len(), shared.len());
            }
            for (key, _) in model.values().map(|placed| (placed.0, ())).collect::<Vec<_>>() {
                while tree.get(key, 0).is_some() {
                    tree.remove(key, 0);
                }
            }
            prop_assert_eq!(tree.node_count(), 1);
        }
    }
}
