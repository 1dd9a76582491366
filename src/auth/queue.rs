//! Logins that wait for their turn, fair to addresses.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
};

/// At 20 ms for each check they take 5 s of the 10 s that a client has until it must be connected.
const WAITING_MAX_PER_ADDRESS: usize = 256;

const WAITING_MAX: usize = 1024;

/// What waits, by where it came from. Addresses take turns, so one that sends many logins delays its own.
#[derive(Debug)]
pub struct LoginQueue<T> {
    by_origin: BTreeMap<Option<IpAddr>, VecDeque<T>>,
    /// Everybody who has something waiting, once, in the order of their turns.
    turns: VecDeque<Option<IpAddr>>,
    len: usize,
}

impl<T> Default for LoginQueue<T> {
    fn default() -> Self {
        Self { by_origin: BTreeMap::new(), turns: VecDeque::new(), len: 0 }
    }
}

impl<T> LoginQueue<T> {
    /// Adds a login; returns the one that there is no room for: this one, or where others have fewer
    /// waiting, the last of whoever has most.
    pub fn push(&mut self, address: Option<IpAddr>, login: T) -> Option<T> {
        let origin = address.map(origin);
        let own = self.by_origin.get(&origin).map_or(0, VecDeque::len);
        if own >= WAITING_MAX_PER_ADDRESS {
            return Some(login);
        }
        let mut removed = None;
        if self.len >= WAITING_MAX {
            let most = self.by_origin.iter_mut().max_by_key(|(_, waiting)| waiting.len());
            match most {
                Some((_, waiting)) if waiting.len() > own + 1 => removed = waiting.pop_back(),
                _ => return Some(login),
            }
            self.len -= 1;
        }
        let waiting = self.by_origin.entry(origin).or_default();
        if waiting.is_empty() {
            self.turns.push_back(origin);
        }
        waiting.push_back(login);
        self.len += 1;
        removed
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next one to be checked.
    pub fn pop(&mut self) -> Option<T> {
        let origin = self.turns.pop_front()?;
        let waiting = self.by_origin.get_mut(&origin)?;
        let login = waiting.pop_front()?;
        self.len -= 1;
        match waiting.is_empty() {
            true => drop(self.by_origin.remove(&origin)),
            false => self.turns.push_back(origin),
        }
        Some(login)
    }
}

/// Who has one address of IPv6 has its whole network of 64 bits.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    #[test]
    fn addresses_take_turns() {
        let mut queue = LoginQueue::default();
        for login in ["a1", "a2", "a3"] {
            assert_eq!(queue.push(address(1), login), None);
        }
        assert_eq!(queue.push(address(2), "b1"), None);
        assert_eq!(queue.push(None, "c1"), None);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "a3"]);
        assert!(queue.len == 0 && queue.by_origin.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut queue = LoginQueue::default();
        for (login, text) in
            ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1", "::ffff:10.0.0.1"].into_iter().enumerate()
        {
            queue.push(Some(text.parse().expect("an address")), login);
        }
        queue.push(address(1), 4);
        assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), [0, 2, 3, 1, 4]);
    }

    #[test]
    fn who_fills_the_queue_makes_room_for_others() {
        let mut queue = LoginQueue::default();
        for number in 0..WAITING_MAX_PER_ADDRESS {
            assert_eq!(queue.push(address(1), number), None);
        }
        assert_eq!(queue.push(address(1), 9999), Some(9999));
        let rest = WAITING_MAX - WAITING_MAX_PER_ADDRESS;
        for number in 0..rest {
            assert_eq!(queue.push(address(2 + (number % 100) as u8), number), None);
        }
        assert_eq!(queue.push(address(200), 1), Some(WAITING_MAX_PER_ADDRESS - 1));
        assert_eq!((queue.len, queue.by_origin.len()), (WAITING_MAX, 102));
    }

    #[test]
    fn among_equals_the_last_one_is_turned_away() {
        let mut queue = LoginQueue::default();
        for number in 0..WAITING_MAX {
            let address = IpAddr::from((number as u32).to_be_bytes());
            assert_eq!(queue.push(Some(address), number), None);
        }
        assert_eq!(queue.push(address(1), 9999), Some(9999));
    }
}
