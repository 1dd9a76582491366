//! Mocks at work: they are offered what happens on the threads that move messages, and answer from a task of their own.
//!
//! A message waits for the lock of [`Mocks`] alone, under which nothing is rendered but state that mocks write.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::{sync::Notify, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{asking::occasion, memo::Memo};
use crate::{
    broker::BrokerEvent,
    config::{read_file, read_given_file},
    field::BadField,
    interceptor::{Interest, Offered, Party, Publisher, Verdict},
    metrics::Family,
    mock::{
        Again, Answer, Due, Fired, Matching, Mock, MockError, MockEvent, MockFigures, MockLimits, MockSpec,
        MockView, Mocks, Occasion, Renderer, State, UnmatchedMessage, make_mocks,
    },
    packet::TopicFilter,
    session::{ApplicationMessage, ConnectionId, Payload, encode_forwarded},
};

/// Answers that are rendered before they are published, and before others have their turn.
const BATCH: usize = 256;

/// Mocks of one topic beyond which they are found anew each time.
const REMEMBERED_MAX: usize = 32;

/// What mocks are made with.
#[derive(Debug, Default)]
pub struct MockOptions {
    /// The same one makes the same draws.
    pub seed: u64,
    pub limits: MockLimits,
    /// What templates may read of the environment.
    pub environment: BTreeMap<String, String>,
    /// Where relative paths of payload files start.
    pub folder: PathBuf,
    /// What callers of the API cannot have sent, wherever it is.
    pub secret_files: Vec<PathBuf>,
    /// Where they say whether messages are to be offered.
    pub interest: Interest,
}

/// Told what mocks do, on the thread it happens on: must not block.
pub type MockSink = Box<dyn Fn(MockEvent) + Send + Sync>;

/// A message to publish, with its Message Expiry Interval in seconds.
pub type Outgoing = (ApplicationMessage, Option<u32>);

/// Mocks of the settings that were found good.
pub struct PreparedMocks {
    specs: Vec<MockSpec>,
    made: Vec<Mock>,
}

/// An answer, and the id of the proxy that what it answers came through; `None`: it came to the server itself.
pub type Reply = (Option<Arc<str>>, Outgoing);

/// The mocks of a server; clones share them.
#[derive(Clone)]
pub struct MockHandle {
    shared: Arc<Shared>,
}

struct Shared {
    mocks: Mutex<Mocks>,
    state: Arc<Mutex<State>>,
    /// Those of the settings file.
    settings: Mutex<Vec<MockSpec>>,
    folder: PathBuf,
    secret_files: Vec<PathBuf>,
    environment: BTreeMap<String, String>,
    /// Of one rendering.
    template_steps: usize,
    /// Of the mocks, readable without the lock.
    generation: AtomicU64,
    interest: Interest,
    /// Something may be due earlier than before.
    changed: Notify,
    /// Whether clients that connect and subscribe concern any mock.
    wants_clients: AtomicBool,
    on_event: MockSink,
}

impl MockHandle {
    pub fn new(options: MockOptions, on_event: MockSink) -> Self {
        let mocks = Mocks::new(options.seed, options.limits, options.environment.clone());
        let state = Arc::clone(mocks.state());
        Self {
            shared: Arc::new(Shared {
                mocks: Mutex::new(mocks),
                state,
                settings: Mutex::default(),
                folder: options.folder,
                secret_files: options.secret_files,
                template_steps: options.limits.template_steps,
                environment: options.environment,
                generation: AtomicU64::new(0),
                interest: options.interest,
                changed: Notify::new(),
                wants_clients: AtomicBool::new(false),
                on_event,
            }),
        }
    }

    /// For a thread that moves messages.
    pub(super) fn asker(&self, via: Option<Arc<str>>) -> MockAsker {
        MockAsker { shared: Arc::clone(&self.shared), via, memo: Memo::new(), holders: HashSet::new() }
    }

    /// A client has connected or subscribed, `via` a proxy or the server itself; other events concern no mock.
    pub fn handle_event(&self, event: &BrokerEvent, via: Option<&Arc<str>>) {
        if !self.shared.wants_clients.load(Ordering::Acquire) {
            return;
        }
        match event {
            BrokerEvent::ClientConnected { client_identifier, username, .. } => {
                self.shared.offer(|mocks, now, clock| {
                    let username = username.as_deref();
                    mocks.offer_connection(now, clock, client_identifier, username, via.cloned());
                });
            }
            BrokerEvent::Subscribed { client_identifier, filter, qos, .. } => {
                self.shared.offer(|mocks, now, clock| {
                    mocks.offer_subscription(now, clock, client_identifier, filter, *qos, via.cloned());
                });
            }
            _ => {}
        }
    }

    /// Sends answers as they fall due, until it is told to stop. `publish` sends messages to where what they answer came from;
    /// what that gives says of each what came of it, which the next ones do not wait for.
    pub async fn answer<F, O>(self, stop: CancellationToken, publish: impl Fn(Vec<Reply>) -> F)
    where
        F: Future<Output = O>,
        O: Future<Output = Vec<Result<(), String>>> + Send + 'static,
    {
        _ = stop.run_until_cancelled(self.keep_answering(publish)).await;
    }

    async fn keep_answering<F, O>(self, publish: impl Fn(Vec<Reply>) -> F)
    where
        F: Future<Output = O>,
        O: Future<Output = Vec<Result<(), String>>> + Send + 'static,
    {
        let mut renderer =
            Renderer::new(self.shared.environment.clone()).limit_steps(self.shared.template_steps);
        loop {
            let (now, clock) = (now(), Timestamp::now());
            let (due, next) = {
                let mut mocks = self.shared.mocks();
                let due = mocks.poll(now, clock, BATCH);
                // An interval's turn is a firing, too.
                self.shared.tell(&mut mocks);
                (due, mocks.next_due())
            };
            if due.is_empty() {
                match next {
                    None => self.shared.changed.notified().await,
                    Some(at) => tokio::select! {
                        () = sleep_until(at.into()) => {}
                        () = self.shared.changed.notified() => {}
                    },
                }
                continue;
            }
            let mut sent = Vec::with_capacity(due.len());
            let mut messages = Vec::with_capacity(due.len());
            for due in due {
                match due.render(clock, &self.shared.state, &mut renderer) {
                    Ok(answer) => {
                        messages.push((due.via(), outgoing(answer)));
                        sent.push(due);
                    }
                    Err(error) => self.shared.note(&due, Err(error)),
                }
            }
            let (outcomes, shared) = (publish(messages).await, Arc::clone(&self.shared));
            tokio::spawn(async move {
                for (due, outcome) in sent.iter().zip(outcomes.await) {
                    shared.note(due, outcome);
                }
            });
            // A mock that is always due leaves others their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Adds a mock; without an id it gets a free one.
    ///
    /// # Errors
    /// [`MockError`]; then nothing has changed.
    pub fn create(&self, spec: MockSpec) -> Result<MockView, MockError> {
        let mock = Mock::unnamed(spec, &|path| self.read_given_file(path)).map_err(MockError::Bad)?;
        self.shared.change(|mocks, now| mocks.create(now, mock))
    }

    /// Puts another mock in the place of `id`. A file that the one before has may stay, wherever it is.
    ///
    /// # Errors
    /// [`MockError`]; then nothing has changed.
    pub fn update(&self, id: &str, mut spec: MockSpec) -> Result<MockView, MockError> {
        let before = self.get(id)?;
        if spec.id.is_empty() {
            id.clone_into(&mut spec.id);
        }
        if spec.id != id {
            let what = format!("is {:?}, the mock's is {id:?}", spec.id);
            return Err(MockError::Bad(vec![BadField { path: "id".to_owned(), what }]));
        }
        let read = |path: &str| match before.mock.spec.payload_files().any(|before| before == path) {
            true => read_file(&self.shared.folder, path),
            false => self.read_given_file(path),
        };
        let mock = Mock::new(spec, &read).map_err(MockError::Bad)?;
        self.shared.change(|mocks, now| mocks.update(now, mock))
    }

    /// Makes a mock what it was when it was seen, in the place it had then.
    ///
    /// # Errors
    /// [`MockError::TooMany`]; then nothing has changed.
    pub fn restore(&self, seen: &MockView) -> Result<(), MockError> {
        self.shared.change(|mocks, now| mocks.restore(now, seen))
    }

    /// # Errors
    /// [`MockError::NotFound`].
    pub fn delete(&self, id: &str) -> Result<(), MockError> {
        self.shared.change(|mocks, _| mocks.delete(id))
    }

    /// # Errors
    /// [`MockError::NotFound`].
    pub fn get(&self, id: &str) -> Result<MockView, MockError> {
        self.shared.mocks().get(id)
    }

    /// In the order they were made.
    pub fn list(&self) -> Vec<MockView> {
        self.shared.mocks().list()
    }

    /// Puts the mocks of the settings in the place of all there are, as they were at the start.
    pub fn reset(&self) {
        let specs = lock(&self.shared.settings).clone();
        // They were good when they were set.
        let _ = self.set(specs);
    }

    /// Takes `specs` for those of the settings, in the place of all mocks there are.
    ///
    /// # Errors
    /// The position of the first that is not good, and why; then nothing has changed.
    pub fn set(&self, specs: Vec<MockSpec>) -> Result<(), (usize, MockError)> {
        self.put(self.prepare(specs)?);
        Ok(())
    }

    /// What [`put`](Self::put) takes, made before anybody has to wait for it.
    ///
    /// # Errors
    /// Those of [`set`](Self::set).
    pub fn prepare(&self, specs: Vec<MockSpec>) -> Result<PreparedMocks, (usize, MockError)> {
        let limits = *self.shared.mocks().limits();
        let made = make_mocks(&specs, limits, &|path| read_file(&self.shared.folder, path))?;
        Ok(PreparedMocks { specs, made })
    }

    /// What [`set`](Self::set) does with them.
    pub fn put(&self, PreparedMocks { specs, made }: PreparedMocks) {
        self.shared.change(|mocks, now| mocks.replace_all(now, made));
        *lock(&self.shared.settings) = specs;
    }

    /// Draws from another seed from now on; counts go on.
    pub fn set_seed(&self, seed: u64) {
        self.shared.mocks().set_seed(seed);
    }

    /// Asks about a message of our own that passes no thread that moves messages, but goes to the upstream of `via`; with its
    /// Message Expiry Interval.
    pub fn ask(&self, message: &ApplicationMessage, expiry: Option<u32>, via: Option<&Arc<str>>) -> Verdict {
        if !self.shared.interest.has(Party::Mocks) {
            return Verdict::Route;
        }
        let mut properties = BytesMut::new();
        encode_forwarded(&message.properties, &mut properties);
        let offered = Offered {
            topic: message.topic.as_str(),
            payload: Payload::of(&message.payload),
            qos: message.qos,
            retain: message.retain,
            properties: &properties,
            expiry,
            from: Publisher::origin(&message.origin),
            is_will: false,
            may_be_kept: true,
        };
        self.shared.offer(|mocks, now, clock| {
            let matching = mocks.matching(offered.topic);
            match matching.is_empty() {
                true => Verdict::Route,
                false => {
                    let occasion = Occasion { via: via.cloned(), ..occasion(&offered) };
                    mocks.offer_message(now, clock, &matching, occasion, None)
                }
            }
        })
    }

    /// Fires a mock by hand; how many messages it is going to send.
    ///
    /// # Errors
    /// [`MockError::NotFound`].
    pub fn fire(&self, id: &str, occasion: Occasion) -> Result<u64, MockError> {
        self.shared.offer(|mocks, now, clock| mocks.fire(now, clock, id, occasion))
    }

    /// Messages that no mock matched, on topics that `filter` matches if there is one, newest first. Takes a while with many
    /// mocks.
    pub fn unmatched(&self, filter: Option<&TopicFilter>) -> Vec<UnmatchedMessage> {
        let snapshot = self.shared.mocks().unmatched();
        snapshot.list(filter)
    }

    /// What mocks read and write.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// The same, for others that read and write it.
    pub fn shared_state(&self) -> Arc<Mutex<State>> {
        Arc::clone(&self.shared.state)
    }

    /// What became of each mock that fired, for `/__mockforge/metrics`.
    pub fn families(&self) -> Vec<Family> {
        let fired: Vec<MockView> = self
            .list()
            .into_iter()
            .filter(|mock| mock.figures.fired > 0 || mock.figures.failed > 0)
            .collect();
        let family = |name, help, value: fn(&MockFigures) -> u64| {
            let of_one = |mock: &MockView| (vec![("mock", mock.mock.spec.id.clone())], value(&mock.figures));
            Family::counter(name, help).bounded(fired.iter().map(of_one))
        };
        let waiting = self.shared.mocks().waiting() as u64;
        vec![
            family("mqtt_mocks_fired_total", "How often each mock fired.", |figures| figures.fired),
            family("mqtt_mock_messages_total", "Messages sent by mocks.", |figures| figures.sent),
            family("mqtt_mock_failures_total", "Answers that could not be sent.", |figures| figures.failed),
            Family::gauge("mqtt_mock_answers_waiting", "Answers that wait for their time.").value(waiting),
        ]
    }

    fn read_given_file(&self, path: &str) -> Result<Bytes, String> {
        read_given_file(&self.shared.folder, &self.shared.secret_files, path)
    }
}

fn outgoing(answer: Answer) -> Outgoing {
    let Answer { topic, payload, qos, retain, properties, expiry, origin } = answer;
    (ApplicationMessage { topic, payload, qos, retain, properties, expires_at: None, origin }, expiry)
}

impl Shared {
    fn mocks(&self) -> MutexGuard<'_, Mocks> {
        lock(&self.mocks)
    }

    /// Changes which mocks there are.
    fn change<R>(&self, f: impl FnOnce(&mut Mocks, Instant) -> R) -> R {
        let mut mocks = self.mocks();
        let result = f(&mut mocks, now());
        self.generation.store(mocks.generation(), Ordering::Release);
        self.interest.set(Party::Mocks, mocks.wants_messages());
        self.wants_clients.store(mocks.wants_clients(), Ordering::Release);
        drop(mocks);
        // Intervals may have come.
        self.changed.notify_one();
        result
    }

    /// Lets something happen that mocks may fire for.
    fn offer<R>(&self, f: impl FnOnce(&mut Mocks, Instant, Timestamp) -> R) -> R {
        let mut mocks = self.mocks();
        let result = f(&mut mocks, now(), Timestamp::now());
        self.tell(&mut mocks);
        result
    }

    /// Tells what happened, and whoever sends answers.
    fn tell(&self, mocks: &mut Mocks) {
        let events = mocks.take_events();
        if events.is_empty() {
            return;
        }
        self.changed.notify_one();
        for event in events {
            match &event {
                MockEvent::Fired(Fired { mock, client_identifier, topic, .. }) => {
                    debug!(mock, client = client_identifier, topic, "a mock fired");
                }
                // The same again and again is one matter.
                MockEvent::Failed { mock, client_identifier, error, is_new: true, .. } => {
                    warn!(mock, client = client_identifier, error, "a mock could not do what it should");
                }
                MockEvent::Failed { mock, error, .. } => debug!(mock, error, "a mock failed again"),
            }
            (self.on_event)(event);
        }
    }

    fn note(&self, due: &Due, outcome: Result<(), String>) {
        let mut mocks = self.mocks();
        mocks.note(due, outcome);
        self.tell(&mut mocks);
    }
}

/// What a thread that moves messages has of the mocks.
pub(super) struct MockAsker {
    shared: Arc<Shared>,
    via: Option<Arc<str>>,
    memo: Memo<Remembered>,
    /// Connections with messages that are not on their way yet, for which answers may wait.
    holders: HashSet<ConnectionId>,
}

/// The mocks that a topic matches.
struct Remembered {
    matching: Matching,
    /// Where messages are counted that nobody matches, and a hash of the client that they are of.
    again: Option<(u64, Arc<Again>)>,
}

impl MockAsker {
    /// If there is a `holder`, answers wait until what it holds has [`passed`](Self::passed).
    pub fn ask(&mut self, now: Instant, holder: Option<ConnectionId>, offered: &Offered<'_>) -> Verdict {
        let shared = &self.shared;
        let generation = shared.generation.load(Ordering::Acquire);
        let find = || Remembered { matching: shared.mocks().matching(offered.topic), again: None };
        let is_small = |found: &Remembered| found.matching.len() <= REMEMBERED_MAX;
        let remembered = self.memo.get(offered.topic, generation, find, is_small);
        if remembered.matching.is_empty() {
            note_unmatched(shared, now, remembered, offered);
            return Verdict::Route;
        }
        let occasion = Occasion { via: self.via.clone(), ..occasion(offered) };
        let mut mocks = shared.mocks();
        // A key means nothing any more once mocks were changed.
        if mocks.generation() != generation {
            remembered.matching = mocks.matching(offered.topic);
        }
        let clock = Timestamp::now();
        let verdict =
            mocks.offer_message(now, clock, &remembered.matching, occasion, holder.map(|holder| holder.0));
        self.holders.extend(holder);
        shared.tell(&mut mocks);
        verdict
    }

    /// What `holder` held is on its way.
    pub fn passed(&mut self, holder: ConnectionId) {
        if self.holders.remove(&holder) && self.shared.mocks().release(holder.0) {
            self.shared.changed.notify_one();
        }
    }
}

fn note_unmatched(shared: &Shared, now: Instant, remembered: &mut Remembered, offered: &Offered<'_>) {
    let Publisher::Client { identifier, .. } = offered.from else { return };
    let mut hasher = DefaultHasher::new();
    identifier.hash(&mut hasher);
    let client = hasher.finish();
    match &remembered.again {
        Some((of, again)) if *of == client && again.is_listed() => again.count(now),
        _ => {
            let occasion = occasion(offered);
            let again = shared.mocks().unmatched_mut().note(now, Timestamp::now(), &occasion, None);
            remembered.again = Some((client, again));
        }
    }
}

/// The runtime's clock, so that a paused one is followed.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks leaves them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
