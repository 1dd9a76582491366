//! What clients did and saw and how the server ended, in order.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::plan::MessageId;

/// Who an event is of: an index into the names of a trial.
pub type ClientNumber = u16;

/// Stands where an event is of the server.
pub const SERVER: ClientNumber = ClientNumber::MAX;

/// Microseconds since the trial began.
pub type Micros = u64;

#[derive(Clone, Debug)]
pub struct Event {
    pub at: Micros,
    /// Which run of the server it concerns, from 1: that which the client was connected to.
    pub run: u32,
    pub client: ClientNumber,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// Before the server is killed.
    Killed,
    /// Before it is asked to end.
    Terminated,
    /// Before CONNECT is sent.
    Connecting,
    /// CONNACK was read.
    Connected { is_present: bool },
    /// The Network Connection ended, by the client itself or with that Reason Code of a DISCONNECT.
    Ended { is_own: bool, reason: Option<u8> },
    /// Before SUBSCRIBE or UNSUBSCRIBE is sent.
    Asked { filter: &'static str, qos: u8, on: bool },
    /// Its acknowledgement was read.
    Granted { filter: &'static str, on: bool },
    /// Before it is sent the first time, as a PUBLISH or as the Will of a CONNECT.
    Sent { message: MessageId, topic: &'static str, qos: u8, deletes: bool },
    /// PUBACK or PUBREC was read; of a Will, CONNACK.
    Acknowledged { message: MessageId },
    /// PUBACK or PUBCOMP was read; of a Will, CONNACK.
    Completed { message: MessageId },
    /// A PUBLISH that is no repetition.
    Delivered { message: MessageId, topic: &'static str, qos: u8 },
    /// PUBREL was read: from here on its identifier is unknown.
    Settled { message: MessageId },
    /// What is retained, as one who asked at that time was told before an answer to a later PINGREQ.
    Retained { topic: &'static str, number: Option<u32>, asked: Micros },
    /// A session was there after it had expired.
    Outlived,
    /// What a client must never see.
    Broken { text: String },
}

/// Collects the events of all threads.
pub struct Ledger {
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl Ledger {
    pub fn new() -> Self {
        Self { began: Instant::now(), events: Mutex::default() }
    }

    pub fn now(&self) -> Micros {
        self.began.elapsed().as_micros() as Micros
    }

    pub fn note(&self, run: u32, client: ClientNumber, what: What) {
        // The time is taken inside, so that it never runs backwards from one event to the next.
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.now();
        events.push(Event { at, run, client, what });
    }

    /// How many messages were delivered or acknowledged.
    pub fn progress(&self) -> usize {
        let is_progress =
            |event: &&Event| matches!(event.what, What::Delivered { .. } | What::Acknowledged { .. });
        self.look(|events| events.iter().filter(is_progress).count())
    }

    /// Runs `look` with all events so far.
    pub fn look<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        look(&self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
