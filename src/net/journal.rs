//! The journal at work: threads that move messages write into it, and whoever waits is told.
//!
//! A thread gathers what it moves in a [`Segment`] of its own and hands that over before anything that follows from it is
//! written, so a message costs no lock, and is in the journal before its publisher is answered or a subscriber has it.
//!
//! Who waits is first on a list, and then looks at what was there before: each message is either there by then, or comes
//! when the list is known. A thread of its own looks at new messages for all of them, and is there as long as anybody
//! waits; how many wait makes no difference to those who write.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant, SystemTime},
};

use bytes::BytesMut;
use slab::Slab;
use tokio::{
    sync::{Notify, Semaphore},
    task::spawn_blocking,
    time::{sleep_until, timeout},
};
use tracing::error;

use crate::{
    interceptor::{Interest, Offered, Party, Publisher, Run, Verdict},
    journal::{
        Chunk, Count, Expectation, JournalEntry, JournalLimits, Judgement, Judging, KeptMessage,
        MessageMatch, MessageOrigin, NEAREST_MAX, Nearest, Nearness, Noted, Ring, Segment,
    },
    metrics::Family,
    packet::{FilterTree, Frame},
    session::{ApplicationMessage, Payload, encode_forwarded},
};

/// Calls that wait at a time.
pub const WAITERS_MAX: usize = 10_000;

/// Messages that a wait is answered with; more are counted.
pub const ENTRIES_MAX: usize = 1_000;

/// Bytes of messages that all waits together keep for their answers.
const KEPT_BYTES: usize = 64 << 20;

/// Bytes of messages that one answer holds: many clients take no more than 4 MiB, and there is more in it than those.
const ANSWER_BYTES: usize = 3 << 20;

/// Bytes of payloads of messages that came near, in one answer, and of one of them.
const NEAR_BYTES: usize = 256 << 10;
const NEAR_PAYLOAD: usize = 64 << 10;

/// The last messages, among which those are looked for that came near.
const NEAREST_AMONG: u64 = 1_000;

/// For near ones to be looked for, while others have theirs looked for.
const NEAREST_WAIT: Duration = Duration::from_secs(2);

/// Messages of an outcome that are shown.
const SHOWN: usize = 5;

/// The thread that looks at new messages sleeps so long between two looks where there is much to see, so that it is woken
/// less often than messages come.
const BREATH: Duration = Duration::from_millis(1);

/// It stays so long after the last wait, for the next one.
const LINGER: Duration = Duration::from_secs(1);

/// Nobody waits longer: a year.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// Too many calls wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{WAITERS_MAX} calls are waiting for messages already")]
pub struct TooManyWaiters;

/// What a wait came to.
#[derive(Clone, Debug)]
pub struct Waited {
    pub is_satisfied: bool,
    /// How many came.
    pub found: u64,
    /// The first of them.
    pub entries: Vec<JournalEntry>,
    /// Of those that are none, the nearest; if too few came.
    pub nearest: Vec<(Nearness, JournalEntry)>,
    pub seen: Seen,
}

/// What of the journal was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What comes after has this sequence number, or a higher one.
    pub cursor: u64,
    /// Messages that were gone before they could be looked at.
    pub missed: u64,
}

/// What became of an expectation.
#[derive(Clone, Debug)]
pub struct Verified {
    pub judgement: Judgement,
    /// Some of those that came.
    pub entries: Vec<JournalEntry>,
    /// Of those that are none, the nearest; if too few came.
    pub nearest: Vec<(Nearness, JournalEntry)>,
}

/// A part of those that were found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub entries: Vec<JournalEntry>,
    /// Where to go on; `None` if there are no more.
    pub next: Option<u64>,
    pub seen: Seen,
}

/// The journal of a server; clones share it.
#[derive(Clone)]
pub struct JournalHandle {
    shared: Arc<Shared>,
}

struct Shared {
    ring: Mutex<Ring>,
    started: Instant,
    started_at: SystemTime,
    waiting: Mutex<Waiting>,
    /// Whether anybody waits.
    is_waited_for: AtomicBool,
    /// The thread that looks at new messages, while it is there. Locked for no longer than it takes to wake it.
    thread: Mutex<Option<Thread>>,
    /// Whether it was woken and has not looked yet.
    is_woken: AtomicBool,
    /// Bytes of messages that waits keep.
    kept: Arc<AtomicUsize>,
    /// One search for near messages at a time: many waits may end together.
    searches: Semaphore,
}

/// Who waits. Locked before the ring, where both are.
#[derive(Default)]
struct Waiting {
    waiters: Slab<Arc<Waiter>>,
    by_topic: FilterTree<usize>,
    /// Counts changes of who waits.
    generation: u64,
    /// Where the thread goes on.
    cursor: u64,
}

struct Waiter {
    meant: MessageMatch,
    /// What comes before is not the thread's to look at.
    from: u64,
    state: Mutex<WaiterState>,
    done: Notify,
}

#[derive(Default)]
struct WaiterState {
    /// So many that come from now on are enough.
    wanted: u64,
    found: u64,
    kept: Kept,
    missed: u64,
    /// Behind the last that was found.
    end: u64,
}

/// The messages of a topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicFigures {
    pub messages: u64,
    /// Of the last one.
    pub payload_size: u64,
    pub last_at: Option<SystemTime>,
    /// Empty where that was no client.
    pub client_identifier: String,
}

/// Messages for an answer.
#[derive(Default)]
struct Kept {
    entries: Vec<JournalEntry>,
    bytes: usize,
    /// Where their bytes are counted, until they are answered or given up.
    counted_in: Option<Arc<AtomicUsize>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(counter) = &self.counted_in {
            counter.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl JournalHandle {
    /// Says in `interest` whether messages are to be offered.
    pub fn new(limits: JournalLimits, interest: &Interest) -> Self {
        interest.set(Party::Journal, !limits.is_off());
        Self {
            shared: Arc::new(Shared {
                thread: Mutex::new(None),
                ring: Mutex::new(Ring::new(limits)),
                started: tokio::time::Instant::now().into_std(),
                started_at: SystemTime::now(),
                waiting: Mutex::default(),
                is_waited_for: AtomicBool::new(false),
                is_woken: AtomicBool::new(false),
                kept: Arc::default(),
                searches: Semaphore::new(1),
            }),
        }
    }

    /// One that keeps nothing.
    pub fn off() -> Self {
        Self::new(JournalLimits { messages: 0, bytes: 0 }, &Interest::default())
    }

    /// Whether it keeps nothing.
    pub fn is_off(&self) -> bool {
        self.shared.ring().limits().is_off()
    }

    /// For a thread that moves messages.
    pub(super) fn writer(&self) -> JournalWriter {
        let segment_bytes = self.shared.ring().limits().segment_bytes();
        let (shared, gathered) = (Arc::clone(&self.shared), Segment::default());
        JournalWriter { last: (shared.started, Duration::ZERO), shared, gathered, segment_bytes }
    }

    /// Puts in a message of ours that passes no thread with a writer.
    pub fn note(&self, message: &ApplicationMessage, verdict: Verdict) {
        if self.is_off() {
            return;
        }
        let mut properties = BytesMut::new();
        encode_forwarded(&message.properties, &mut properties);
        let offered = Offered {
            topic: message.topic.as_str(),
            payload: Payload::of(&message.payload),
            qos: message.qos,
            retain: message.retain,
            properties: &properties,
            expiry: None,
            from: Publisher::origin(&message.origin),
            is_will: false,
            may_be_kept: true,
        };
        self.writer().note(tokio::time::Instant::now().into_std(), &offered, verdict);
    }

    /// When an entry came.
    pub fn time_of(&self, entry: &JournalEntry) -> SystemTime {
        self.shared.started_at + entry.at
    }

    /// The sequence number that the next message gets.
    pub fn cursor(&self) -> u64 {
        self.shared.ring().next()
    }

    /// Waits for as many messages as `count` wants at least, at most until `limit` has passed. Those from `since` on that
    /// are in the journal count; without it all that are there.
    ///
    /// # Errors
    /// [`TooManyWaiters`].
    pub async fn wait(
        &self,
        meant: &MessageMatch,
        count: Count,
        limit: Duration,
        since: Option<u64>,
    ) -> Result<Waited, TooManyWaiters> {
        let deadline = tokio::time::Instant::now() + limit.min(LONGEST_WAIT);
        let place = Place::enter(&self.shared, meant, count, since)?;
        let since = since.unwrap_or_else(|| self.shared.ring().start());
        let before = self.look_back(meant, since, place.waiter.from).await;
        let is_enough = {
            let mut state = lock(&place.waiter.state);
            state.wanted = count.min().saturating_sub(before.found);
            state.found >= state.wanted
        };
        if !is_enough {
            tokio::select! {
                () = place.waiter.done.notified() => {}
                () = sleep_until(deadline) => {}
            }
        }
        let (state, looked_at) = place.leave();
        let found = before.found + state.found;
        let is_reached = count.is_reached(found);
        let [mut before_kept, mut kept] = [before.kept, state.kept];
        let mut entries = std::mem::take(&mut before_kept.entries);
        entries.append(&mut kept.entries);
        entries.truncate(ENTRIES_MAX);
        let nearest = match is_reached {
            true => Vec::new(),
            false => self.nearest(meant.clone(), since, 1).await,
        };
        let counted_to = state.end.max(before.end);
        let cursor = if is_reached { counted_to } else { looked_at.max(counted_to) };
        let seen = Seen { cursor, missed: before.missed + state.missed };
        Ok(Waited { is_satisfied: count.contains(found), found, entries, nearest, seen })
    }

    /// What is there before `end`.
    async fn look_back(&self, meant: &MessageMatch, since: u64, end: u64) -> WaiterState {
        let mut before = WaiterState { end, ..WaiterState::default() };
        if since >= end {
            return before;
        }
        let (shared, meant) = (Arc::clone(&self.shared), meant.clone());
        let look = move || {
            before.missed = shared.walk(since, end, |message| {
                if meant.matches(&message.view()) {
                    before.found += 1;
                    shared.keep(message, &mut before.kept);
                }
                ControlFlow::Continue(())
            });
            before
        };
        unpanicked(spawn_blocking(look).await)
    }

    /// How many there are from `since` on.
    pub async fn count(&self, meant: MessageMatch, since: Option<u64>) -> (u64, Seen) {
        let shared = Arc::clone(&self.shared);
        let count = move || {
            let (since, end) = shared.span(since);
            let mut found = 0;
            let missed = shared.walk(since, end, |message| {
                found += u64::from(meant.matches(&message.view()));
                ControlFlow::Continue(())
            });
            (found, Seen { cursor: end, missed })
        };
        unpanicked(spawn_blocking(count).await)
    }

    /// At most `most` of those from `since` on: the first ones, or with `is_newest_first` the last ones that come before
    /// `until`, backwards. `cursor` is that of the journal.
    pub async fn find(
        &self,
        meant: MessageMatch,
        since: Option<u64>,
        until: Option<u64>,
        most: usize,
        is_newest_first: bool,
    ) -> Found {
        let shared = Arc::clone(&self.shared);
        let find = move || {
            let (since, end) = shared.span(since);
            let mut found = Found { seen: Seen { cursor: end, missed: 0 }, ..Found::default() };
            let mut bytes = 0;
            let mut take = |message: &KeptMessage<'_>| {
                if !meant.matches(&message.view()) {
                    return ControlFlow::Continue(());
                }
                // One is always taken, or nobody would get on.
                let is_full = found.entries.len() >= most
                    || !found.entries.is_empty() && bytes + message.size() > ANSWER_BYTES;
                if is_full {
                    let behind = if is_newest_first { message.sequence + 1 } else { message.sequence };
                    found.next = Some(behind);
                    return ControlFlow::Break(());
                }
                bytes += message.size();
                found.entries.push(message.into());
                ControlFlow::Continue(())
            };
            let end = until.map_or(end, |until| until.min(end));
            found.seen.missed = match is_newest_first {
                true => shared.walk_back(since, end, take),
                false => shared.walk(since, end, &mut take),
            };
            found
        };
        unpanicked(spawn_blocking(find).await)
    }

    /// Judges what came from `since` on.
    pub async fn verify(
        &self,
        expectations: Vec<Expectation>,
        is_ordered: bool,
        since: Option<u64>,
    ) -> (Vec<Verified>, Seen) {
        let shared = Arc::clone(&self.shared);
        let judge = move || {
            let (since, end) = shared.span(since);
            let mut judging = Judging::new(&expectations, is_ordered);
            let mut entries = vec![Vec::new(); expectations.len()];
            let mut bytes = 0;
            let missed = shared.walk(since, end, |message| {
                judging.see(&message.view(), |position| {
                    let entries = &mut entries[position];
                    if entries.len() < SHOWN && bytes + message.size() <= ANSWER_BYTES {
                        bytes += message.size();
                        entries.push(JournalEntry::from(message));
                    }
                });
                ControlFlow::Continue(())
            });
            let judgements = judging.judgements();
            (since, end, expectations, judgements, entries, missed)
        };
        let (since, end, expectations, judgements, entries, missed) = unpanicked(spawn_blocking(judge).await);
        let mut verified = Vec::with_capacity(expectations.len());
        let short = judgements.iter().filter(|judgement| judgement.is_short).count();
        for ((judgement, entries), expectation) in judgements.into_iter().zip(entries).zip(expectations) {
            let nearest = match judgement.is_short {
                true => self.nearest(expectation.meant, since, short).await,
                false => Vec::new(),
            };
            verified.push(Verified { judgement, entries, nearest });
        }
        (verified, Seen { cursor: end, missed })
    }

    /// Of the last messages from `since` on that are none of those meant, the nearest, with the beginnings of their
    /// payloads where the answer has so many such `lists`; none if it takes too long.
    async fn nearest(&self, meant: MessageMatch, since: u64, lists: usize) -> Vec<(Nearness, JournalEntry)> {
        let payload_max = (NEAR_BYTES / (lists * NEAREST_MAX).max(1)).min(NEAR_PAYLOAD);
        let Ok(Ok(_turn)) = timeout(NEAREST_WAIT, self.shared.searches.acquire()).await else {
            return Vec::new();
        };
        let shared = Arc::clone(&self.shared);
        let search = move || {
            let end = shared.ring().next();
            let mut nearest = Nearest::default();
            let mut bytes = 0;
            shared.walk(since.max(end.saturating_sub(NEAREST_AMONG)), end, |message| {
                let view = message.view();
                if !meant.matches(&view) {
                    let nearness = meant.differences(&view);
                    if nearness.score > 0.0 {
                        nearest.offer(nearness, || JournalEntry::beginning(message, payload_max));
                    }
                    bytes += message.size();
                }
                if bytes > ANSWER_BYTES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            nearest.into_vec()
        };
        unpanicked(spawn_blocking(search).await)
    }

    /// The topics of all messages that are there and that `is_meant`, and how many messages have gone.
    pub async fn topics(
        &self,
        is_meant: impl Fn(&str) -> bool + Send + 'static,
    ) -> (BTreeMap<String, TopicFigures>, u64) {
        let shared = Arc::clone(&self.shared);
        let count = move || {
            let (since, end) = shared.span(None);
            let mut topics = BTreeMap::<String, TopicFigures>::new();
            let missed = shared.walk(since, end, |message| {
                // Most topics come again: a name is only copied once.
                if !topics.contains_key(message.topic) {
                    if !is_meant(message.topic) {
                        return ControlFlow::Continue(());
                    }
                    topics.insert(message.topic.to_owned(), TopicFigures::default());
                }
                if let Some(figures) = topics.get_mut(message.topic) {
                    figures.messages += 1;
                    figures.payload_size = message.payload.len() as u64;
                    figures.last_at = Some(shared.started_at + message.at);
                    figures.client_identifier.clear();
                    figures.client_identifier.push_str(message.client_identifier);
                }
                ControlFlow::Continue(())
            });
            (topics, missed)
        };
        unpanicked(spawn_blocking(count).await)
    }

    /// Forgets all messages; sequence numbers go on. Returns how many there were.
    pub fn reset(&self) -> u64 {
        self.shared.ring().clear()
    }

    /// How much is in it, for `/__mockforge/metrics`.
    pub fn families(&self) -> Vec<Family> {
        let (messages, bytes, evicted) = {
            let ring = self.shared.ring();
            (ring.messages(), ring.bytes() as u64, ring.evicted())
        };
        let waiting = self.shared.waiting().waiters.len() as u64;
        vec![
            Family::gauge("mqtt_journal_messages", "Messages in the journal.").value(messages),
            Family::gauge("mqtt_journal_bytes", "Bytes of the messages in the journal.").value(bytes),
            Family::counter("mqtt_journal_evicted_total", "Messages that left the journal for newer ones.")
                .value(evicted),
            Family::gauge("mqtt_journal_waiters", "Calls that wait for messages.").value(waiting),
        ]
    }
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        lock(&self.ring)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    /// From where to where there is something now.
    fn span(&self, since: Option<u64>) -> (u64, u64) {
        let ring = self.ring();
        (since.unwrap_or_else(|| ring.start()), ring.next())
    }

    /// Shows the messages from `since` on and before `end`; returns how many are not there any more.
    fn walk(&self, since: u64, end: u64, mut see: impl FnMut(&KeptMessage<'_>) -> ControlFlow<()>) -> u64 {
        let (mut cursor, mut missed) = (since, 0);
        while cursor < end {
            let Some(chunk) = self.ring().read(cursor) else { break };
            missed += chunk.first().min(end) - cursor;
            cursor = chunk.end();
            for message in chunk.iter().take_while(|message| message.sequence < end) {
                if see(&message).is_break() {
                    return missed;
                }
            }
        }
        missed + end.saturating_sub(cursor)
    }

    /// The same backwards.
    fn walk_back(
        &self,
        since: u64,
        end: u64,
        mut see: impl FnMut(&KeptMessage<'_>) -> ControlFlow<()>,
    ) -> u64 {
        let (mut cursor, mut missed) = (end, 0);
        while cursor > since {
            let Some(chunk) = self.ring().read_back(cursor) else { break };
            missed += cursor.saturating_sub(chunk.end().max(since));
            let within = |message: &KeptMessage<'_>| (since..cursor).contains(&message.sequence);
            let messages: Vec<_> = chunk.iter().filter(within).collect();
            cursor = cursor.min(chunk.first());
            for message in messages.iter().rev() {
                if see(message).is_break() {
                    return missed;
                }
            }
        }
        missed + cursor.saturating_sub(since)
    }

    /// Copies a message for an answer, if there is room.
    fn keep(&self, message: &KeptMessage<'_>, kept: &mut Kept) {
        let size = message.size();
        // One always has room, or a wait for it would come to nothing.
        let is_first = kept.entries.is_empty();
        if kept.entries.len() >= ENTRIES_MAX || !is_first && kept.bytes + size > ANSWER_BYTES {
            return;
        }
        if self.kept.fetch_add(size, Ordering::Relaxed) + size > KEPT_BYTES && !is_first {
            self.kept.fetch_sub(size, Ordering::Relaxed);
            return;
        }
        kept.counted_in.get_or_insert_with(|| Arc::clone(&self.kept));
        kept.bytes += size;
        kept.entries.push(message.into());
    }

    /// Something is new.
    fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel)
            && let Some(thread) = &*lock(&self.thread)
        {
            thread.unpark();
        }
    }

    /// Has a thread look at what is new from now on.
    fn start_looking(self: &Arc<Self>) {
        let mut thread = lock(&self.thread);
        if thread.is_some() {
            return;
        }
        let shared = Arc::clone(self);
        match thread::Builder::new().name("journal".to_owned()).spawn(move || shared.keep_looking()) {
            Ok(started) => *thread = Some(started.thread().clone()),
            // Waits end by their limits then, and say what they missed.
            Err(error) => error!(%error, "cannot start the thread that looks at new messages"),
        }
    }

    /// Looks at new messages as long as anybody waits for some.
    fn keep_looking(&self) {
        loop {
            self.is_woken.swap(false, Ordering::AcqRel);
            let mut has_seen = false;
            while self.look_on() {
                has_seen = true;
            }
            if has_seen {
                thread::sleep(BREATH);
                continue;
            }
            thread::park_timeout(LINGER);
            if self.is_waited_for.load(Ordering::Acquire) || self.is_woken.load(Ordering::Acquire) {
                continue;
            }
            // Whoever comes now finds the thread, or starts another.
            let mut thread = lock(&self.thread);
            if !self.is_waited_for.load(Ordering::Acquire) {
                *thread = None;
                return;
            }
        }
    }

    /// Looks at the next messages; whether there were any.
    fn look_on(&self) -> bool {
        let (chunk, missed) = {
            let waiting = self.waiting();
            if waiting.waiters.is_empty() {
                return false;
            }
            let Some(chunk) = self.ring().read(waiting.cursor) else { return false };
            let missed = waiting.cursor..chunk.first();
            (chunk, missed)
        };
        if !missed.is_empty() {
            for (_, waiter) in &self.waiting().waiters {
                lock(&waiter.state).missed += missed.end.saturating_sub(missed.start.max(waiter.from));
            }
        }
        self.look(&chunk);
        let mut waiting = self.waiting();
        waiting.cursor = waiting.cursor.max(chunk.end());
        if !waiting.waiters.is_empty() {
            self.ring().set_reader(Some(waiting.cursor));
        }
        true
    }

    /// Shows messages to those who wait for such.
    fn look(&self, chunk: &Chunk) {
        // Of messages on one topic, one behind the other, the same ones are asked.
        let (mut topic, mut generation) = (String::new(), None);
        let mut asked: Vec<usize> = Vec::new();
        for message in chunk.iter() {
            // Not for all of them: who comes and goes must not wait long.
            let mut waiting = self.waiting();
            if generation != Some(waiting.generation) || topic != message.topic {
                asked.clear();
                waiting.by_topic.find(message.topic.as_bytes(), &mut |&key| asked.push(key));
                asked.sort_unstable();
                asked.dedup();
                message.topic.clone_into(&mut topic);
                generation = Some(waiting.generation);
            }
            if asked.is_empty() {
                continue;
            }
            let view = message.view();
            for &key in &asked {
                let Some(waiter) = waiting.waiters.get(key) else { continue };
                if message.sequence < waiter.from || !waiter.meant.matches_rest(&view) {
                    continue;
                }
                let waiter = Arc::clone(waiter);
                if waiter.take(self, &message) {
                    waiting.remove(self, key);
                    waiter.done.notify_one();
                }
            }
        }
    }
}

impl Waiter {
    /// Counts a message that was waited for; whether there are enough.
    fn take(&self, shared: &Shared, message: &KeptMessage<'_>) -> bool {
        let mut state = lock(&self.state);
        state.found += 1;
        state.end = message.sequence + 1;
        shared.keep(message, &mut state.kept);
        state.found >= state.wanted
    }
}

impl Waiting {
    /// Nobody by this key waits any more; who it was may have been taken off the list already.
    fn remove(&mut self, shared: &Shared, key: usize) {
        let Some(waiter) = self.waiters.try_remove(key) else { return };
        for filter in waiter.meant.topics() {
            self.by_topic.remove(filter, |&other| other == key);
        }
        self.generation += 1;
        if self.waiters.is_empty() {
            shared.is_waited_for.store(false, Ordering::Release);
            shared.ring().set_reader(None);
        }
    }
}

/// A place on the list of those who wait, given up when it is dropped.
struct Place {
    shared: Arc<Shared>,
    waiter: Arc<Waiter>,
    key: usize,
}

impl Place {
    fn enter(
        shared: &Arc<Shared>,
        meant: &MessageMatch,
        count: Count,
        since: Option<u64>,
    ) -> Result<Self, TooManyWaiters> {
        let mut waiting = shared.waiting();
        if waiting.waiters.len() >= WAITERS_MAX {
            return Err(TooManyWaiters);
        }
        // Before it is known where to begin: whoever writes behind that sees it.
        shared.is_waited_for.store(true, Ordering::Release);
        let from = {
            let mut ring = shared.ring();
            if waiting.waiters.is_empty() {
                waiting.cursor = ring.next();
                ring.set_reader(Some(waiting.cursor));
            }
            // It may begin ahead of what there is.
            ring.next().max(since.unwrap_or(0))
        };
        let state = WaiterState { wanted: count.min(), end: from, ..WaiterState::default() };
        let waiter =
            Arc::new(Waiter { meant: meant.clone(), from, state: Mutex::new(state), done: Notify::new() });
        let key = waiting.waiters.insert(Arc::clone(&waiter));
        for filter in meant.topics() {
            waiting.by_topic.insert(filter, key);
        }
        waiting.generation += 1;
        drop(waiting);
        shared.start_looking();
        Ok(Self { shared: Arc::clone(shared), waiter, key })
    }

    /// What has come, and up to where messages were looked at.
    fn leave(self) -> (WaiterState, u64) {
        let mut waiting = self.shared.waiting();
        let looked_at = waiting.cursor.max(self.waiter.from);
        self.give_up(&mut waiting);
        drop(waiting);
        let state = std::mem::take(&mut *lock(&self.waiter.state));
        (state, looked_at)
    }

    fn give_up(&self, waiting: &mut Waiting) {
        // Another one may have come to where a satisfied one stood.
        if waiting.waiters.get(self.key).is_some_and(|there| Arc::ptr_eq(there, &self.waiter)) {
            waiting.remove(&self.shared, self.key);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        self.give_up(&mut waiting);
        drop(waiting);
        // The thread that looks may have it a moment longer; what it keeps for nobody goes now.
        drop(std::mem::take(&mut lock(&self.waiter.state).kept));
    }
}

/// What a thread that moves messages has of the journal.
pub(super) struct JournalWriter {
    shared: Arc<Shared>,
    /// What is not in the journal yet.
    gathered: Segment,
    segment_bytes: usize,
    /// When the last message came, by the clock and since the journal began.
    last: (Instant, Duration),
}

impl JournalWriter {
    /// The same of packets that lie one behind the other.
    pub fn note_run(&mut self, now: Instant, run: &Run<'_>) {
        if self.last.0 != now {
            self.last = (now, now.saturating_duration_since(self.shared.started));
        }
        let mut rest = *run;
        while let Some(part) = first_part(&mut rest, self.segment_bytes) {
            if self.gathered.size() + part.packets.len() > self.segment_bytes {
                self.settle();
            }
            self.gathered.push_run(self.last.1, &part);
        }
    }

    #[inline]
    pub fn note(&mut self, now: Instant, offered: &Offered<'_>, verdict: Verdict) {
        if self.last.0 != now {
            self.last = (now, now.saturating_duration_since(self.shared.started));
        }
        let (client_identifier, origin) = match offered.from {
            Publisher::Client { identifier, .. } if offered.is_will => (identifier, MessageOrigin::Will),
            Publisher::Client { identifier, .. } => (identifier, MessageOrigin::Client),
            Publisher::Synthetic { depth: 0 } => ("", MessageOrigin::Api),
            Publisher::Synthetic { .. } => ("", MessageOrigin::Mock),
        };
        let noted = Noted {
            topic: offered.topic,
            properties: offered.properties,
            payload: offered.payload.as_bytes(),
            shared: match offered.payload {
                Payload::Shared(bytes) => Some(bytes),
                Payload::Copied(_) => None,
            },
            qos: offered.qos,
            retain: offered.retain,
            client_identifier,
            origin,
            is_kept: verdict == Verdict::Intercept && offered.may_be_kept,
        };
        // A long one goes alone, so that it takes no others with it.
        let len = noted.topic.len() + noted.properties.len() + noted.payload.len();
        if len >= self.segment_bytes {
            self.hand_over();
        }
        self.gathered.push(self.last.1, &noted);
        if self.gathered.size() >= self.segment_bytes {
            self.hand_over();
        }
    }

    /// Puts what was noted into the journal.
    #[inline]
    pub fn settle(&mut self) {
        if !self.gathered.is_empty() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        self.shared.ring().take(&mut self.gathered);
        if self.shared.is_waited_for.load(Ordering::Acquire) {
            self.shared.wake();
        }
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.settle();
    }
}

/// As much of a run as has at most `most` bytes, one packet at least; `None` if there is nothing left.
fn first_part<'a>(run: &mut Run<'a>, most: usize) -> Option<Run<'a>> {
    let (mut count, mut len) = (run.count, run.packets.len());
    if len > most {
        (count, len) = (0, 0);
        while count < run.count
            && let Ok(Some(size)) = Frame::size(&run.packets[len..])
            && (count == 0 || len + size <= most)
        {
            (count, len) = (count + 1, len + size);
        }
    }
    let (packets, rest) = run.packets.split_at(len);
    let part = Run { packets, count, ..*run };
    (run.packets, run.count) = (rest, run.count - count);
    (count > 0).then_some(part)
}

/// What a search came to.
fn unpanicked<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks leaves them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
