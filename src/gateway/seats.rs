//! Who holds the connections of the control plane, and who goes when another comes.
//!
//! Whoever knows no token can take seats from nobody but others that showed none, and whoever may only look
//! from nobody but others of his kind: so those that steer the server always get in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use crate::auth::Role;

/// What was shown on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    Nothing,
    /// That its holder may look.
    Reader,
    /// That he may do more, or nobody asks.
    Enough,
}

impl From<Role> for Shown {
    fn from(role: Role) -> Self {
        if role == Role::Read { Self::Reader } else { Self::Enough }
    }
}

/// Connections there may be at a time.
pub struct Seats {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// Of the seat taken next.
    number: u64,
    /// Those of [`Shown::Nothing`] and of [`Shown::Reader`], the oldest first.
    lesser: [BTreeMap<u64, CancellationToken>; 2],
    others: usize,
}

/// One of them, until it is dropped.
pub struct Seat {
    seats: Arc<Seats>,
    number: u64,
    shown: AtomicU8,
    lost: CancellationToken,
}

impl Seats {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// A seat, for which one that matters less may be lost; `None` when there is none such.
    pub fn take(self: &Arc<Self>, shown: Shown) -> Option<Seat> {
        let mut taken = self.lock();
        if !taken.make_way(shown, self.share()) && taken.len() >= self.limit && !taken.lose_any() {
            return None;
        }
        taken.number += 1;
        let (number, lost) = (taken.number, CancellationToken::new());
        taken.add(number, shown, &lost);
        Some(Seat { seats: Arc::clone(self), number, shown: AtomicU8::new(shown as u8), lost })
    }

    /// Of one lesser kind.
    fn share(&self) -> usize {
        (self.limit / 2).max(1)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn len(&self) -> usize {
        self.lesser.iter().map(BTreeMap::len).sum::<usize>() + self.others
    }

    /// Takes the oldest seat of a kind that has its share.
    fn make_way(&mut self, shown: Shown, share: usize) -> bool {
        self.lesser.get_mut(shown as usize).is_some_and(|kind| kind.len() >= share && lose_oldest(kind))
    }

    fn lose_any(&mut self) -> bool {
        self.lesser.iter_mut().any(lose_oldest)
    }

    fn add(&mut self, number: u64, shown: Shown, lost: &CancellationToken) {
        match self.lesser.get_mut(shown as usize) {
            Some(kind) => drop(kind.insert(number, lost.clone())),
            None => self.others += 1,
        }
    }

    /// Whether it was still there.
    fn remove(&mut self, number: u64, shown: u8) -> bool {
        match self.lesser.get_mut(usize::from(shown)) {
            Some(kind) => kind.remove(&number).is_some(),
            None => {
                self.others -= 1;
                true
            }
        }
    }
}

fn lose_oldest(kind: &mut BTreeMap<u64, CancellationToken>) -> bool {
    kind.pop_first().is_some_and(|(_, lost)| {
        lost.cancel();
        true
    })
}

impl Seat {
    /// Remembers the most that was shown.
    pub fn show(&self, shown: Shown) {
        if self.shown.load(Ordering::Relaxed) >= shown as u8 {
            return;
        }
        let mut taken = self.seats.lock();
        let before = self.shown.load(Ordering::Relaxed);
        if before >= shown as u8 || !taken.remove(self.number, before) {
            return;
        }
        taken.make_way(shown, self.seats.share());
        taken.add(self.number, shown, &self.lost);
        self.shown.store(shown as u8, Ordering::Relaxed);
    }

    pub fn is_strangers(&self) -> bool {
        self.shown.load(Ordering::Relaxed) == Shown::Nothing as u8
    }

    /// Completes when another needed it more.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.remove(self.number, self.shown.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_take_seats_from_strangers_alone() {
        let seats = Seats::new(4);
        let trusted = seats.take(Shown::Enough).unwrap();
        let strangers: Vec<_> = (0..5).map(|_| seats.take(Shown::Nothing).unwrap()).collect();
        let lost: Vec<_> = strangers.iter().map(|seat| seat.lost.is_cancelled()).collect();
        assert_eq!(lost, [true, true, true, false, false]);
        assert!(!trusted.lost.is_cancelled());
        assert_eq!(seats.lock().len(), 3);
        drop((strangers, trusted));
        assert_eq!(seats.lock().len(), 0);
    }

    #[test]
    fn whoever_shows_enough_keeps_his_seat() {
        let seats = Seats::new(4);
        let known = seats.take(Shown::Nothing).unwrap();
        known.show(Role::Control.into());
        // What is shown later counts for nothing less.
        known.show(Role::Read.into());
        let strangers: Vec<_> = (0..10).map(|_| seats.take(Shown::Nothing).unwrap()).collect();
        assert!(!known.lost.is_cancelled() && !known.is_strangers());
        assert_eq!(seats.lock().len(), 3);
        drop(strangers);
        assert_eq!(seats.lock().len(), 1);
    }

    #[test]
    fn readers_have_half_and_make_room_after_strangers() {
        let seats = Seats::new(4);
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let seat = seats.take(Shown::Nothing).unwrap();
                seat.show(Role::Read.into());
                seat
            })
            .collect();
        let lost = |seats: &[Seat]| seats.iter().map(|seat| seat.lost.is_cancelled()).collect::<Vec<_>>();
        assert_eq!(lost(&readers), [true, false, false]);
        let stranger = seats.take(Shown::Nothing).unwrap();
        let two: Vec<_> = (0..2).map(|_| seats.take(Shown::Enough).unwrap()).collect();
        assert!(stranger.lost.is_cancelled());
        assert_eq!(lost(&readers), [true, false, false]);
        let third = seats.take(Shown::Enough).unwrap();
        assert_eq!(lost(&readers), [true, true, false]);
        let fourth = seats.take(Shown::Enough).unwrap();
        assert_eq!(lost(&readers), [true, true, true]);
        assert!(seats.take(Shown::Enough).is_none() && seats.take(Shown::Nothing).is_none());
        drop((two, third, fourth, readers, stranger));
        assert_eq!(seats.lock().len(), 0);
    }
}
