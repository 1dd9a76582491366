//! What chaos remembers of clients: how many packets of theirs there were.
//!
//! The connections of one client share a [`Memory`], also those that follow one another, so a decision does not depend on how
//! often the client connects.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::locked;
use crate::{draws::Draws, packet::PacketType, recording::Direction};

/// Numbers a rule as it is: one that was changed is another.
pub type RuleKey = u64;

/// All clients that are remembered.
pub struct Clients {
    /// Without a connection, at most.
    limit: usize,
    by_name: BTreeMap<ClientName, Client>,
    /// Those without a connection, by when they had their last.
    idle: BTreeMap<u64, ClientName>,
    serial: u64,
}

/// Stands for a Client Identifier, which may be long.
pub type ClientName = [u64; 2];

struct Client {
    memory: Arc<Mutex<Memory>>,
    judges: usize,
    /// Where it stands in `idle`.
    idle_since: Option<u64>,
}

/// One client.
#[derive(Debug, Default)]
pub struct Memory {
    /// Grows whenever all counts begin anew.
    epoch: u64,
    /// The rules were last looked through in this one.
    generation: u64,
    /// Packets by direction and type.
    seen: [[u64; 16]; 2],
    by_rule: HashMap<RuleKey, Counts, FixedState>,
}

/// Of one rule and client.
#[derive(Debug, Default)]
pub struct Counts {
    /// By direction and type; what never came has no entry.
    by_slot: SmallVec<[(Slot, Count); 2]>,
}

/// Of one rule, client, direction and packet type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets that matched.
    pub matched: u64,
    /// How often the rule fired.
    pub fired: u64,
}

type Slot = (Direction, PacketType);

impl Clients {
    pub fn new(limit: usize) -> Self {
        Self { limit, by_name: BTreeMap::new(), idle: BTreeMap::new(), serial: 0 }
    }

    /// Of 128 bits, so that no two clients will ever have the same.
    pub fn name(client_identifier: &str) -> ClientName {
        let mut draws = Draws::new(0).of(client_identifier);
        [draws.next_u64(), draws.next_u64()]
    }

    /// A connection of the client begins.
    pub fn enter(&mut self, name: ClientName) -> Arc<Mutex<Memory>> {
        let client = self.by_name.entry(name).or_insert_with(|| Client {
            memory: Arc::default(),
            judges: 0,
            idle_since: None,
        });
        client.judges += 1;
        if let Some(since) = client.idle_since.take() {
            self.idle.remove(&since);
        }
        Arc::clone(&client.memory)
    }

    /// It ends.
    pub fn leave(&mut self, name: ClientName) {
        let Some(client) = self.by_name.get_mut(&name) else { return };
        client.judges -= 1;
        if client.judges > 0 {
            return;
        }
        self.serial += 1;
        client.idle_since = Some(self.serial);
        self.idle.insert(self.serial, name);
        while self.idle.len() > self.limit
            && let Some((_, name)) = self.idle.pop_first()
        {
            self.by_name.remove(&name);
        }
    }

    /// Forgets those without a connection.
    pub fn forget_idle(&mut self) {
        for name in std::mem::take(&mut self.idle).into_values() {
            self.by_name.remove(&name);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_name.len()
    }
}

impl Memory {
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Begins anew if a new epoch did, and forgets rules that `is_there` does not know.
    pub fn follow(&mut self, epoch: u64, generation: u64, is_there: impl Fn(RuleKey) -> bool) {
        if self.epoch < epoch {
            *self = Self { epoch, generation, ..Self::default() };
        }
        if self.generation < generation {
            self.generation = generation;
            self.by_rule.retain(|key, _| is_there(*key));
        }
    }

    /// One more packet; says which one of its type in its direction it is, from 1.
    pub fn count_packet(&mut self, direction: Direction, packet: PacketType) -> u64 {
        let seen = &mut self.seen[direction as usize][packet as usize];
        *seen += 1;
        *seen
    }

    #[cfg(test)]
    pub fn rules(&self) -> usize {
        self.by_rule.len()
    }

    pub fn of_rule(&mut self, key: RuleKey) -> &mut Counts {
        self.by_rule.entry(key).or_default()
    }
}

impl Counts {
    /// Those of a type in its direction: how many of one type there are between others depends on more than the client.
    pub fn of(&mut self, direction: Direction, packet: PacketType) -> &mut Count {
        let slot = (direction, packet);
        let position = self.by_slot.iter().position(|(other, _)| *other == slot).unwrap_or_else(|| {
            self.by_slot.push((slot, Count::default()));
            self.by_slot.len() - 1
        });
        &mut self.by_slot[position].1
    }
}

/// Ends the connection of a client when it is dropped.
pub struct Stay {
    pub memory: Arc<Mutex<Memory>>,
    name: ClientName,
    clients: Arc<Mutex<Clients>>,
}

impl Stay {
    pub fn new(clients: &Arc<Mutex<Clients>>, client_identifier: &str) -> Self {
        let name = Clients::name(client_identifier);
        Self { memory: locked(clients).enter(name), name, clients: Arc::clone(clients) }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        locked(&self.clients).leave(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_longest_is_forgotten_first_and_nobody_who_is_there() {
        let clients = Arc::new(Mutex::new(Clients::new(2)));
        let visit = |name: &str| {
            let stay = Stay::new(&clients, name);
            let nth = locked(&stay.memory).count_packet(Direction::ClientToServer, PacketType::Publish);
            (stay, nth)
        };
        let (here, _) = visit("here");
        for name in ["a", "b", "a", "c"] {
            visit(name);
        }
        assert_eq!(locked(&clients).len(), 3, "here, a and c");
        assert_eq!(visit("a").1, 3, "a was there twice");
        assert_eq!(visit("b").1, 1, "b was forgotten, and c is now");
        assert_eq!(visit("c").1, 1);
        assert_eq!(visit("here").1, 2, "while another connection of it is there");
        drop(here);
        assert_eq!(visit("here").1, 3);
        locked(&clients).forget_idle();
        assert_eq!(locked(&clients).len(), 0);
        assert_eq!(visit("here").1, 1);
    }

    #[test]
    fn each_type_is_counted_by_itself() {
        use Direction::{ClientToServer as Up, ServerToClient as Down};
        let mut counts = Counts::default();
        for (direction, packet) in
            [(Up, PacketType::Publish), (Up, PacketType::Puback), (Down, PacketType::Publish)]
        {
            counts.of(direction, packet).matched += 1;
        }
        counts.of(Up, PacketType::Publish).matched += 1;
        counts.of(Up, PacketType::Puback).fired += 1;
        assert_eq!(*counts.of(Up, PacketType::Publish), Count { matched: 2, fired: 0 });
        assert_eq!(*counts.of(Up, PacketType::Puback), Count { matched: 1, fired: 1 });
        assert_eq!(*counts.of(Down, PacketType::Pingresp), Count::default());
    }
}
