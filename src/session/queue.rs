//! What waits for one client: it is offline, slow, or has its Receive Maximum in flight.

use std::{collections::VecDeque, time::Instant};

use crate::packet::QoS;

use super::{Delivery, RetainedScan, SubscriptionKey};

/// Messages and lookups of retained messages in the order in which they came about, so that no
/// message overtakes another one of its topic [MQTT-4.6.0-5]. Messages are bounded in number and
/// bytes.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Waiting>,
    /// How many of them are lookups.
    scans: usize,
    bytes: usize,
    /// When the first message may expire; `None` if none does.
    first_expiry: Option<Instant>,
    /// Whether the last push was refused, so that a run of drops is reported once.
    is_dropping: bool,
}

#[derive(Debug)]
enum Waiting {
    Message(Delivery),
    Retained(Box<RetainedScan>),
}

/// What to go on with.
#[derive(Debug)]
pub enum Next<'a> {
    /// The message in front, no longer in the queue.
    Message(Delivery),
    /// A lookup that stays where it is until [`Queue::finish`].
    Retained(&'a mut RetainedScan),
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull {
    /// Whether the one before it still found room.
    pub is_first: bool,
}

impl Queue {
    /// Messages.
    pub fn len(&self) -> usize {
        self.entries.len() - self.scans
    }

    /// Whether there is nothing to go on with, neither a message nor a lookup.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Topic, property and payload bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends `delivery` unless the queue would exceed `messages` or `bytes`.
    pub fn push(&mut self, delivery: Delivery, messages: usize, bytes: usize) -> Result<(), QueueFull> {
        let size = delivery.message.size();
        if self.len() >= messages || self.bytes.saturating_add(size) > bytes {
            return Err(self.refuse());
        }
        self.is_dropping = false;
        self.bytes += size;
        if let Some(at) = delivery.message.expires_at() {
            self.first_expiry = Some(self.first_expiry.map_or(at, |first| first.min(at)));
        }
        self.entries.push_back(Waiting::Message(delivery));
        Ok(())
    }

    /// Notes that a message for this client was dropped; tells whether it is the first of a run.
    pub fn refuse(&mut self) -> QueueFull {
        let is_first = !self.is_dropping;
        self.is_dropping = true;
        QueueFull { is_first }
    }

    /// There is room again: the next drop begins a new run.
    pub fn recover(&mut self) {
        self.is_dropping = false;
    }

    /// The next thing to do; if nothing of QoS 1 or 2 may begin, a lookup for a QoS 0 subscription,
    /// whose messages need not wait.
    pub fn next(&mut self, may_begin: bool) -> Option<Next<'_>> {
        if may_begin && matches!(self.entries.front(), Some(Waiting::Message(_))) {
            return self.pop().map(Next::Message);
        }
        let at = self.runnable(may_begin)?;
        match self.entries.get_mut(at) {
            Some(Waiting::Retained(scan)) => Some(Next::Retained(scan)),
            _ => None,
        }
    }

    /// The lookup that [`next`](Self::next) returned has found everything.
    pub fn finish(&mut self, may_begin: bool) {
        if let Some(at) = self.runnable(may_begin) {
            self.entries.remove(at);
            self.scans -= 1;
            self.release();
        }
    }

    /// Which lookup comes next.
    fn runnable(&self, may_begin: bool) -> Option<usize> {
        if self.scans == 0 {
            return None;
        }
        let can_run = |waiting: &Waiting| match waiting {
            Waiting::Message(_) => false,
            Waiting::Retained(scan) => may_begin || scan.qos == QoS::AtMostOnce,
        };
        self.entries.iter().position(can_run)
    }

    /// Takes the first message; lookups before it are dropped.
    pub fn pop(&mut self) -> Option<Delivery> {
        loop {
            match self.entries.pop_front()? {
                Waiting::Retained(_) => self.scans -= 1,
                Waiting::Message(delivery) => {
                    self.bytes -= delivery.message.size();
                    self.is_dropping = false;
                    self.release();
                    return Some(delivery);
                }
            }
        }
    }

    /// Lets go of memory that a burst has left behind.
    fn release(&mut self) {
        if self.entries.is_empty() {
            self.entries.shrink_to(16);
        }
    }

    /// Appends a lookup.
    pub fn push_scan(&mut self, scan: RetainedScan) {
        self.entries.push_back(Waiting::Retained(Box::new(scan)));
        self.scans += 1;
    }

    /// How many lookups wait.
    pub fn scans(&self) -> usize {
        self.scans
    }

    pub fn scans_mut(&mut self) -> impl Iterator<Item = &mut RetainedScan> {
        let entries = if self.scans == 0 { self.entries.range_mut(..0) } else { self.entries.range_mut(..) };
        entries.filter_map(|waiting| match waiting {
            Waiting::Retained(scan) => Some(&mut **scan),
            Waiting::Message(_) => None,
        })
    }

    /// Drops the lookups for a subscription.
    pub fn drop_scans(&mut self, subscription: SubscriptionKey) {
        if self.scans == 0 {
            return;
        }
        self.entries.retain(|waiting| match waiting {
            Waiting::Retained(scan) => scan.subscription != subscription,
            Waiting::Message(_) => true,
        });
        self.scans = self.entries.iter().filter(|waiting| matches!(waiting, Waiting::Retained(_))).count();
    }

    /// Deletes messages that have expired [MQTT-3.3.2-5]; returns how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        if self.first_expiry.is_none_or(|at| at > now) {
            return 0;
        }
        let before = self.entries.len();
        (self.bytes, self.first_expiry) = (0, None);
        let (bytes, first_expiry) = (&mut self.bytes, &mut self.first_expiry);
        self.entries.retain(|waiting| {
            let Waiting::Message(delivery) = waiting else { return true };
            if delivery.message.is_expired(now) {
                return false;
            }
            *bytes += delivery.message.size();
            let at = delivery.message.expires_at();
            *first_expiry = first_expiry.map_or(at, |first| Some(at.map_or(first, |at| first.min(at))));
            true
        });
        before - self.entries.len()
    }
}
