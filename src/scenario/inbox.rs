//! What the clients of a scenario have received, in the order it came.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use crate::packet::{Properties, Property, QoS};

/// A message that a client received.
#[derive(Clone, Debug)]
pub struct Received {
    /// The client's number, from 0 through all groups.
    pub client: u32,
    /// Since the run began.
    pub at: Duration,
    pub topic: Box<str>,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Properties,
    /// By an expectation that has passed or failed.
    pub was_counted: bool,
}

impl Received {
    /// What its memory comes to, about.
    fn size(&self) -> usize {
        let properties = self.properties.encoded_len() + self.properties.0.len() * size_of::<Property>();
        size_of::<Self>() + self.topic.len() + self.payload.len() + properties
    }
}

/// Everything received that may still be read, and how far each client's has been.
#[derive(Debug)]
pub struct Inbox {
    messages: VecDeque<Received>,
    /// Position of the first; positions count from 0 and never repeat.
    first: u64,
    /// By client, the position that an expectation reads on from.
    cursors: Vec<u64>,
    bytes: usize,
    bytes_max: usize,
    /// How many there were, by client.
    counts: Vec<u64>,
    is_full: bool,
}

impl Inbox {
    pub fn new(clients: usize, bytes_max: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            first: 0,
            cursors: vec![0; clients],
            bytes: 0,
            bytes_max,
            counts: vec![0; clients],
            is_full: false,
        }
    }

    /// Whether a message found no room: what comes is not kept any more, and nothing that is expected can be judged.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    pub fn push(&mut self, message: Received) {
        self.counts[message.client as usize] += 1;
        if self.is_full {
            return;
        }
        let size = message.size();
        if self.bytes + size > self.bytes_max {
            self.drop_read();
        }
        if self.bytes + size > self.bytes_max {
            self.is_full = true;
            return;
        }
        self.bytes += size;
        self.messages.push_back(message);
    }

    /// Drops what every expectation to come would pass over.
    fn drop_read(&mut self) {
        while let Some(message) = self.messages.front()
            && self.cursors[message.client as usize] > self.first
        {
            self.bytes -= message.size();
            self.messages.pop_front();
            self.first += 1;
        }
    }

    /// The position that the next message will have.
    pub fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    pub fn get(&self, position: u64) -> Option<&Received> {
        self.messages.get(usize::try_from(position.checked_sub(self.first)?).ok()?)
    }

    /// The position of the first message that is still here.
    pub fn start(&self) -> u64 {
        self.first
    }

    /// Where what is expected of a client next begins.
    pub fn cursor(&self, client: u32) -> u64 {
        self.cursors[client as usize]
    }

    /// Whether an expectation has counted it.
    pub fn was_counted(&self, position: u64) -> bool {
        self.get(position).is_some_and(|message| message.was_counted)
    }

    /// Has been counted: the next expectation of `client` reads on behind it.
    pub fn read(&mut self, client: u32, position: u64) {
        let index = position.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(message) = index.and_then(|index| self.messages.get_mut(index)) {
            message.was_counted = true;
        }
        let cursor = &mut self.cursors[client as usize];
        *cursor = (*cursor).max(position + 1);
    }

    /// Passes over all that `client` has received.
    pub fn forget(&mut self, client: u32) {
        self.cursors[client as usize] = self.end();
    }

    /// Messages received, those that are no longer here included.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}
