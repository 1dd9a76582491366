//! Messages that wait for one client: it is offline, slow, or has its Receive Maximum in flight.

use std::{collections::VecDeque, time::Instant};

use super::Delivery;

/// Deliveries in order, bounded in number and bytes.
#[derive(Debug, Default)]
pub struct Queue {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// When the first of them may expire; `None` if none does.
    first_expiry: Option<Instant>,
    /// Whether the last push was refused, so that a run of drops is reported once.
    is_dropping: bool,
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull {
    /// Whether the one before it still found room.
    pub is_first: bool,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.deliveries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Topic and payload bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends `delivery` unless the queue would exceed `messages` or `bytes`.
    pub fn push(&mut self, delivery: Delivery, messages: usize, bytes: usize) -> Result<(), QueueFull> {
        let size = delivery.message.size();
        if self.deliveries.len() >= messages || self.bytes.saturating_add(size) > bytes {
            return Err(self.refuse());
        }
        self.is_dropping = false;
        self.bytes += size;
        if let Some(at) = delivery.message.expires_at() {
            self.first_expiry = Some(self.first_expiry.map_or(at, |first| first.min(at)));
        }
        self.deliveries.push_back(delivery);
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

    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.bytes -= delivery.message.size();
        self.is_dropping = false;
        Some(delivery)
    }

    /// Deletes what has expired [MQTT-3.3.2-5]; returns how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        if self.first_expiry.is_none_or(|at| at > now) {
            return 0;
        }
        let before = self.deliveries.len();
        self.deliveries.retain(|delivery| !delivery.message.is_expired(now));
        self.bytes = self.deliveries.iter().map(|delivery| delivery.message.size()).sum();
        self.first_expiry = self.deliveries.iter().filter_map(|delivery| delivery.message.expires_at()).min();
        before - self.deliveries.len()
    }
}
