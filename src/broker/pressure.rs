//! What waits for all clients together, and what each may have waiting because of that.

use std::time::{Duration, Instant};

use super::{Broker, Limits};

/// What a client may have waiting in each place however much waits for others: who reads gets its messages
/// though thousands do not.
const SHARE: usize = 64 << 10;

/// Part of the limit that may gather before what waits is added up anew.
const STEPS: usize = 16;

/// How often it is added up while it is too much.
const PERIOD: Duration = Duration::from_millis(100);

/// Bytes that may wait for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// In its outbox; more there, and it gets no further message.
    pub outbox: usize,
    /// In its queue, and as much in flight.
    pub queue: usize,
}

/// Knows whether too much waits, as of the last count, and when it has to be counted again.
#[derive(Debug)]
pub(super) struct Pressure {
    /// Bytes of messages that were sent, queued or began since the last count.
    pub added: usize,
    counted_at: Instant,
    room: Room,
    is_high: bool,
}

impl Pressure {
    pub fn new(now: Instant, limits: &Limits) -> Self {
        Self { added: 0, counted_at: now, room: Room::by(limits), is_high: false }
    }

    #[inline]
    pub fn room(&self) -> Room {
        self.room
    }

    #[inline]
    fn is_due(&self, now: Instant, limits: &Limits) -> bool {
        self.added > limits.waiting_bytes / STEPS || (self.is_high && now >= self.counted_at + PERIOD)
    }
}

impl Room {
    fn by(limits: &Limits) -> Self {
        Self { outbox: limits.outbox_bytes, queue: limits.queue_bytes }
    }

    fn least(limits: &Limits) -> Self {
        let most = Self::by(limits);
        Self { outbox: most.outbox.min(SHARE), queue: most.queue.min(SHARE) }
    }
}

impl Broker {
    /// Bytes that wait for all clients: in outboxes, in queues and in flight.
    pub(super) fn waiting_bytes(&self) -> usize {
        let outboxes: usize = self.connections.iter().map(|(_, connection)| connection.outbox.len()).sum();
        let kept = self.sessions.iter().map(|(_, session)| session.queue.bytes() + session.inflight.bytes());
        outboxes + kept.sum::<usize>()
    }

    /// Adds up what waits, when it may have become too much, or little enough again.
    #[inline]
    pub(super) fn watch_pressure(&mut self, now: Instant) {
        if self.pressure.is_due(now, &self.limits) {
            self.take_pressure(now);
        }
    }

    #[cold]
    fn take_pressure(&mut self, now: Instant) {
        let limits = &self.limits;
        let counted = self.waiting_bytes();
        // What may gather before the next count would be beyond the limit.
        let is_high = counted > limits.waiting_bytes - limits.waiting_bytes / STEPS;
        let room = if is_high { Room::least(limits) } else { Room::by(limits) };
        self.pressure = Pressure { added: 0, counted_at: now, room, is_high };
    }
}
