//! What connections tell the thread that keeps the schedule.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, Thread},
    time::Instant,
};

use crate::net::client::{Client, ClientError, Outcome, Sink};

/// What happened on a connection of ours.
pub(super) enum Told {
    Connected(Result<Client, ClientError>),
    /// The last byte of what has this tag was handed to the kernel.
    Written(u64, Instant),
    /// It will never be: the connection has ended.
    Unsent(u64),
    /// The server has the message of QoS 2 with this tag.
    Received(u64),
    /// The exchange, or request, with this tag has ended.
    Ended(u64, Outcome),
    /// Messages came, as many as are counted here since it was last looked.
    Delivered(Arc<AtomicU64>),
    PingAnswered(u64),
    Closed(ClientError),
}

/// Holds what was told until the schedule's thread looks.
#[derive(Default)]
pub(super) struct Mailbox {
    told: Mutex<Vec<(usize, Told)>>,
    has_mail: AtomicBool,
    reader: OnceLock<Thread>,
}

impl Mailbox {
    /// Whoever calls this reads.
    pub fn new() -> Arc<Self> {
        let mailbox = Self::default();
        // Set once, here.
        let _ = mailbox.reader.set(thread::current());
        Arc::new(mailbox)
    }

    pub fn put(&self, from: usize, told: Told) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push((from, told));
        self.has_mail.store(true, Relaxed);
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }

    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Relaxed)
    }

    /// In the order it was told.
    pub fn take(&self) -> Vec<(usize, Told)> {
        if !self.has_mail() {
            return Vec::new();
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_mail.store(false, Relaxed);
        std::mem::take(&mut told)
    }
}

/// One connection's slot.
pub(super) struct Slot {
    mailbox: Arc<Mailbox>,
    from: usize,
    /// However many messages a server sends, there is one letter about them.
    delivered: Arc<AtomicU64>,
}

impl Slot {
    pub fn new(mailbox: Arc<Mailbox>, from: usize) -> Self {
        Self { mailbox, from, delivered: Arc::default() }
    }
}

impl Sink for Slot {
    fn written(&self, tag: u64, at: Instant) {
        self.mailbox.put(self.from, Told::Written(tag, at));
    }

    fn unsent(&self, tag: u64) {
        self.mailbox.put(self.from, Told::Unsent(tag));
    }

    fn received(&self, tag: u64) {
        self.mailbox.put(self.from, Told::Received(tag));
    }

    fn ended(&self, tag: u64, outcome: Outcome) {
        self.mailbox.put(self.from, Told::Ended(tag, outcome));
    }

    fn delivered(&self) {
        if self.delivered.fetch_add(1, Relaxed) == 0 {
            self.mailbox.put(self.from, Told::Delivered(self.delivered.clone()));
        }
    }

    fn ping_answered(&self, ticket: u64) {
        self.mailbox.put(self.from, Told::PingAnswered(ticket));
    }

    fn closed(&self, error: &ClientError) {
        self.mailbox.put(self.from, Told::Closed(error.clone()));
    }
}
