//! A bounded queue towards a reader that may be slow: what finds no room is counted where it is missing.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// What the reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<T> {
    Item(T),
    /// So many items are missing here.
    Gap(u64),
}

/// The writing end; closes the queue when dropped.
pub struct LossySender<T> {
    shared: Arc<Shared<T>>,
}

/// The reading end.
pub struct LossyReceiver<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    items_max: usize,
    bytes_max: usize,
}

struct State<T> {
    entries: VecDeque<(Entry<T>, usize)>,
    bytes: usize,
    closed: bool,
    /// Nobody reads any more.
    is_unread: bool,
}

/// A queue of at most so many entries and bytes.
pub fn channel<T>(items_max: usize, bytes_max: usize) -> (LossySender<T>, LossyReceiver<T>) {
    let state = State { entries: VecDeque::new(), bytes: 0, closed: false, is_unread: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), items_max, bytes_max });
    (LossySender { shared: shared.clone() }, LossyReceiver { shared })
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing done under the lock leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> LossySender<T> {
    /// Whether somebody may still read what is offered.
    pub fn is_read(&self) -> bool {
        !self.shared.state().is_unread
    }

    /// Queues an item of `bytes`, or counts it as missed. Never waits.
    pub fn offer(&self, item: T, bytes: usize) {
        let mut state = self.shared.state();
        let full = state.entries.len() >= self.shared.items_max
            || (!state.entries.is_empty() && state.bytes + bytes > self.shared.bytes_max);
        match state.entries.back_mut() {
            Some((Entry::Gap(missed), _)) if full => *missed += 1,
            _ if full => state.entries.push_back((Entry::Gap(1), 0)),
            _ => {
                state.bytes += bytes;
                state.entries.push_back((Entry::Item(item), bytes));
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl<T> Drop for LossySender<T> {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_one();
    }
}

impl<T> Drop for LossyReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_unread = true;
        state.entries.clear();
    }
}

impl<T> LossyReceiver<T> {
    /// The next entry; `None` when the sender is gone and everything was read.
    pub async fn next(&mut self) -> Option<Entry<T>> {
        loop {
            {
                let mut state = self.shared.state();
                if let Some((entry, bytes)) = state.entries.pop_front() {
                    state.bytes -= bytes;
                    return Some(entry);
                }
                if state.closed {
                    return None;
                }
            }
            // Keeps a permit when it was notified since the lock was dropped.
            self.shared.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(mut receiver: LossyReceiver<u8>) -> Vec<Entry<u8>> {
        let mut entries = Vec::new();
        while let Some(entry) = receiver.next().await {
            entries.push(entry);
        }
        entries
    }

    #[tokio::test]
    async fn a_gap_stands_where_items_are_missing() {
        let (sender, mut receiver) = channel(2, 100);
        for item in 0..5 {
            sender.offer(item, 1);
        }
        assert_eq!(receiver.next().await, Some(Entry::Item(0)));
        assert_eq!(receiver.next().await, Some(Entry::Item(1)));
        sender.offer(5, 1);
        drop(sender);
        assert_eq!(read(receiver).await, [Entry::Gap(3), Entry::Item(5)]);
    }

    #[tokio::test]
    async fn bytes_are_bounded_too_but_one_item_always_fits() {
        let (sender, receiver) = channel(10, 100);
        sender.offer(0, 1000);
        sender.offer(1, 1);
        drop(sender);
        assert_eq!(read(receiver).await, [Entry::Item(0), Entry::Gap(1)]);
    }
}
