//! A clean start for those who stay connected.

use std::{sync::Arc, time::Instant};

use super::Broker;
use crate::session::StoredMessage;

/// What a reset took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetCounts {
    pub retained: u64,
    /// Of clients that were not connected.
    pub sessions: u64,
    /// Messages that waited to be sent.
    pub queued: u64,
}

impl Broker {
    /// Removes retained messages, Sessions without a connection, Wills and all, and messages that wait for a client to be
    /// sent: `most` of them in one call. Returns whether there may be more.
    pub fn reset(&mut self, now: Instant, most: usize, counts: &mut ResetCounts) -> bool {
        let mut left = most;
        self.drop_retained(now, &mut left, counts);
        self.drop_absent(now, &mut left, counts);
        self.drop_queued(now, &mut left, counts);
        left == 0
    }

    fn drop_retained(&mut self, now: Instant, left: &mut usize, counts: &mut ResetCounts) {
        let topic = |message: &Arc<StoredMessage>| message.as_message().topic.to_vec();
        let topics: Vec<Vec<u8>> = self.retained.iter().take(*left).map(topic).collect();
        for topic in topics {
            let serial = self.retained.remove(&topic);
            self.note_dropped_retained(now, serial);
            counts.retained += 1;
            *left -= 1;
        }
        self.set_retained_timer();
    }

    fn drop_absent(&mut self, now: Instant, left: &mut usize, counts: &mut ResetCounts) {
        let absent = self.sessions.iter().filter(|(_, session)| session.connection.is_none());
        let absent: Vec<u32> = absent.map(|(index, _)| index as u32).take(*left).collect();
        for index in absent {
            // On disk, all of it goes at once.
            self.forget(now, index);
            let session = &mut self.sessions[index as usize];
            counts.queued += session.queue.len() as u64;
            counts.sessions += 1;
            // Nobody gets what it did not.
            session.queue = Default::default();
            session.inflight = Default::default();
            session.will = None;
            self.end_session(now, index);
            *left -= 1;
        }
    }

    fn drop_queued(&mut self, now: Instant, left: &mut usize, counts: &mut ResetCounts) {
        let waiting = self.sessions.iter().filter(|(_, session)| session.queue.messages().next().is_some());
        let waiting: Vec<u32> = waiting.map(|(index, _)| index as u32).collect();
        for index in waiting {
            while *left > 0
                && let Some(delivery) =
                    self.sessions[index as usize].queue.changed().and_then(|queue| queue.pop())
            {
                self.end_delivery(now, index, delivery.record);
                counts.queued += 1;
                *left -= 1;
            }
        }
    }
}
