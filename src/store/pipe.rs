//! The bounded queue between those who record and the store's thread.
//!
//! Events are encoded where they are reported, into the bytes they are stored as: what waits here
//! keeps no read buffer alive, and its size is its memory.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use ulid::Ulid;

use super::lock;
use crate::recording::{
    Counts, Event, EventKind, RecordingInfo, RecordingState,
    block::{Block, BlockBuilder},
};

/// Full blocks wait until there are about this many bytes of them, or until the next flush.
const WAKE_LEN: usize = 64 << 10;

/// Runs when the store could not write.
pub type OnFailure = Box<dyn FnOnce() + Send>;

/// One recording on its way to the store.
pub struct Pipe {
    pub id: Ulid,
    /// Queue limit in bytes.
    memory: usize,
    /// Whether every event is to be durable before it is passed on.
    durable_first: bool,
    queue: Mutex<Queue>,
    /// Of `Queue::len`, readable without the lock.
    queued: AtomicUsize,
    /// The last event that is durable.
    durable_seq: AtomicU64,
    /// Nothing more is taken: it has ended or failed.
    ended: AtomicBool,
    /// Whether the store's thread has been told that there is something to write.
    pub scheduled: AtomicBool,
    room: Condvar,
    changed: Notify,
    on_failure: Mutex<Option<OnFailure>>,
}

struct Queue {
    builder: BlockBuilder,
    full: VecDeque<Block>,
    /// Bytes in `full`.
    full_len: usize,
    info: RecordingInfo,
    counts: Counts,
    failure: Option<String>,
}

/// Whether the store's thread needs to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Quietly,
    ToSchedule,
}

impl Pipe {
    pub fn new(id: Ulid, info: RecordingInfo, memory: usize, durable_first: bool) -> Self {
        let queue = Queue {
            builder: BlockBuilder::new(),
            full: VecDeque::new(),
            full_len: 0,
            info,
            counts: Counts::default(),
            failure: None,
        };
        Self {
            id,
            memory: memory.max(1),
            durable_first,
            queue: Mutex::new(queue),
            queued: AtomicUsize::new(0),
            durable_seq: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            scheduled: AtomicBool::new(false),
            room: Condvar::new(),
            changed: Notify::new(),
            on_failure: Mutex::new(None),
        }
    }

    /// Of a recording that has ended and is not stored as such.
    pub fn ended(id: Ulid, info: RecordingInfo) -> Self {
        let pipe = Self::new(id, info, 0, false);
        pipe.end();
        pipe
    }

    /// Adds an event at the end of the total order, room or not; its number, and whether to wake
    /// the store's thread. `None` once the recording has ended.
    ///
    /// An offset before that of the last event counts as that one.
    pub fn push(&self, at: Duration, connection: u32, kind: EventKind) -> Option<(Event, Pushed)> {
        let mut queue = lock(&self.queue);
        if self.ended.load(Ordering::Relaxed) {
            return None;
        }
        let at = at.max(Duration::from_nanos(queue.builder.last_at()));
        let event = Event { seq: queue.builder.next_seq(), at, connection, kind };
        queue.counts.add(&event);
        let queue = &mut *queue;
        let already_full = queue.full.len();
        let len = queue.builder.push(&event, &mut queue.full);
        queue.full_len += queue.full.range(already_full..).map(|block| block.records.len()).sum::<usize>();
        self.queued.fetch_add(len, Ordering::Relaxed);
        let wake = self.durable_first || queue.full_len >= WAKE_LEN.min(self.memory / 4);
        let told = wake && self.scheduled.swap(true, Ordering::Relaxed);
        Some((event, if wake && !told { Pushed::ToSchedule } else { Pushed::Quietly }))
    }

    /// Takes what waits: full blocks, and with `partial` also the one being filled.
    pub fn take(&self, partial: bool) -> VecDeque<Block> {
        self.scheduled.store(false, Ordering::Relaxed);
        let mut queue = lock(&self.queue);
        queue.full_len = 0;
        let mut blocks = std::mem::take(&mut queue.full);
        if partial {
            blocks.extend(queue.builder.cut());
        }
        blocks
    }

    /// Says that `len` bytes of what was taken are written and need no memory any more.
    pub fn release(&self, len: usize) {
        self.queued.fetch_sub(len, Ordering::Relaxed);
        self.announce();
    }

    pub fn set_durable(&self, seq: u64) {
        self.durable_seq.store(seq, Ordering::Release);
        self.announce();
    }

    pub fn durable_seq(&self) -> u64 {
        self.durable_seq.load(Ordering::Acquire)
    }

    pub fn is_durable_first(&self) -> bool {
        self.durable_first
    }

    /// The number of the last event.
    pub fn last_seq(&self) -> u64 {
        lock(&self.queue).builder.next_seq() - 1
    }

    pub fn is_full(&self) -> bool {
        self.queued.load(Ordering::Relaxed) >= self.memory && !self.has_ended()
    }

    /// How much of the memory is in use; above 1 if more was pushed than there is room for.
    pub fn fill(&self) -> f64 {
        self.queued.load(Ordering::Relaxed) as f64 / self.memory as f64
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// What is known so far, queued events included.
    pub fn info(&self) -> RecordingInfo {
        let queue = lock(&self.queue);
        let mut info = queue.info.clone();
        if info.state == RecordingState::Recording {
            info.set_counts(&queue.counts);
        }
        info
    }

    /// Takes nothing more; what was queued can still be taken.
    pub fn end(&self) {
        let queue = lock(&self.queue);
        self.ended.store(true, Ordering::Release);
        drop(queue);
        self.announce();
    }

    pub fn set_info(&self, info: RecordingInfo) {
        lock(&self.queue).info = info;
    }

    /// Ends the recording because the store refused a write. What waits is forgotten.
    pub fn fail(&self, reason: String) {
        let mut queue = lock(&self.queue);
        self.ended.store(true, Ordering::Release);
        queue.full.clear();
        queue.builder.cut();
        queue.failure = Some(reason);
        self.queued.store(0, Ordering::Relaxed);
        drop(queue);
        self.announce();
        let on_failure = lock(&self.on_failure).take();
        if let Some(on_failure) = on_failure {
            on_failure();
        }
    }

    pub fn failure(&self) -> Option<String> {
        lock(&self.queue).failure.clone()
    }

    /// Has `run` called when the recording fails; at once if it has.
    pub fn on_failure(&self, run: OnFailure) {
        // Whoever takes it, this or `fail`, takes it once; one of them comes second and sees both.
        *lock(&self.on_failure) = Some(run);
        if self.failure().is_some()
            && let Some(run) = lock(&self.on_failure).take()
        {
            run();
        }
    }

    /// Blocks while the queue is full.
    pub fn wait_for_room(&self) {
        let queue = lock(&self.queue);
        drop(self.room.wait_while(queue, |_| self.is_full()).unwrap_or_else(PoisonError::into_inner));
    }

    /// Blocks until `seq` is durable or never will be.
    pub fn wait_durable(&self, seq: u64) {
        let queue = lock(&self.queue);
        let waiting = |_: &mut Queue| self.durable_seq() < seq && !self.has_ended();
        drop(self.room.wait_while(queue, waiting).unwrap_or_else(PoisonError::into_inner));
    }

    /// What producers wait for before they pass on what was pushed so far; 0 asks only for room.
    /// `None` when there is nothing to wait for.
    pub fn awaited_seq(&self) -> Option<u64> {
        let seq = if self.durable_first { self.last_seq() } else { 0 };
        (!self.is_settled(seq)).then_some(seq)
    }

    /// Waits until there is room and `seq` is durable, or the recording has ended.
    pub async fn settle(&self, seq: u64) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_settled(seq) {
                return;
            }
            changed.await;
        }
    }

    fn is_settled(&self, seq: u64) -> bool {
        self.has_ended() || (!self.is_full() && self.durable_seq() >= seq)
    }

    fn announce(&self) {
        // Taken so that nobody is between looking and waiting.
        drop(lock(&self.queue));
        self.room.notify_all();
        self.changed.notify_waiters();
    }
}
