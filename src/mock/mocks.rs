//! All mocks of a server: which one fires, and which answers are due.
//!
//! A plain value that is offered what happens and asked what is due; it sends nothing. Answers are rendered when they are
//! due, by whoever sends them, so a slow template never holds up what happens.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use slab::Slab;
use smallvec::SmallVec;

use super::{
    MockSpec, Mode, Scope, State, Then, Trigger,
    mock::{Answer, Mock, ReadFile, Reading, Response},
    subject::{Occasion, Subject},
    template::{Renderer, STEPS_MAX, Surroundings},
    unmatched::{Unmatched, UnmatchedSnapshot},
};
use crate::{
    draws::Draws,
    field::BadField,
    interceptor::Verdict,
    packet::{FilterTree, QoS},
};

/// How many mocks may have led to a message that one of them still answers.
const DEPTH_MAX: u8 = 8;

/// As much as is kept of why an answer failed, in characters: it may quote what a client sent.
const ERROR_MAX: usize = 300;

/// Clients whose place and counts a mock keeps; when there is one more, all begin anew.
const CLIENTS_MAX: usize = 100_000;

/// What mocks may do at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MockLimits {
    pub mocks: usize,
    /// Answers that wait for their time.
    pub answers: usize,
    /// What made mocks fire, as long as answers to it wait: topics, payloads and client identifiers.
    pub answer_bytes: usize,
    /// Of one rendering.
    pub template_steps: usize,
}

impl Default for MockLimits {
    fn default() -> Self {
        Self { mocks: 100_000, answers: 100_000, answer_bytes: 64 << 20, template_steps: STEPS_MAX }
    }
}

/// Why mocks stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MockError {
    #[error("{}", BadField::listed(.0))]
    Bad(Vec<BadField>),
    #[error("a mock {0:?} exists already")]
    Exists(String),
    #[error("no mock {0:?}")]
    NotFound(String),
    #[error("there are {0} mocks already")]
    TooMany(usize),
}

/// The number of a mock, as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MockKey(u32);

/// The mocks whose topic matches.
pub type Matching = SmallVec<[MockKey; 4]>;

/// A mock and what became of it.
#[derive(Clone, Debug)]
pub struct MockView {
    pub mock: Arc<Mock>,
    pub figures: MockFigures,
    /// Whether it comes from the settings file.
    pub from_settings: bool,
    /// Its place in the order in which they were made.
    serial: u64,
}

/// Figures since it was made, or all were reset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MockFigures {
    pub fired: u64,
    /// Messages.
    pub sent: u64,
    /// Answers that could not be sent.
    pub failed: u64,
    pub last_error: Option<String>,
    pub last_fired_at: Option<Timestamp>,
}

/// A mock fired; its answers were scheduled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    pub mock: String,
    pub client_identifier: String,
    pub topic: String,
    /// Messages it is going to send.
    pub scheduled: u64,
}

/// What an operator may want to see of mocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MockEvent {
    Fired(Fired),
    /// An answer could not be made or published, or state not written.
    Failed {
        mock: String,
        client_identifier: String,
        topic: String,
        error: String,
        /// Whether it is another one than the mock's last.
        is_new: bool,
    },
}

#[derive(Debug)]
struct Entry {
    mock: Arc<Mock>,
    /// Of two that are alike otherwise, the higher one goes first.
    serial: u64,
    from_settings: bool,
    figures: MockFigures,
    /// By a hash of the client identifier, which may be long; of all clients together under 0.
    places: HashMap<u64, Place, foldhash::fast::FixedState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Occasions that all conditions but `nth` held for.
    matched: u64,
    /// Times that it fired, and so its place in a sequence.
    fired: u64,
}

/// An answer that waits.
#[derive(Debug)]
struct Waiting {
    at: Instant,
    /// First come, first served.
    serial: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Answer { firing: Arc<Firing>, response: usize, sent: u64 },
    Interval { key: MockKey, mock: Arc<Mock>, interval: Duration },
}

/// What an answer answers.
#[derive(Debug)]
pub struct Firing {
    key: MockKey,
    mock: Arc<Mock>,
    occasion: Occasion,
    /// How often the mock had fired with this time.
    count: u64,
    draws: Draws,
}

/// An answer whose time has come.
#[derive(Debug)]
pub struct Due {
    firing: Arc<Firing>,
    response: usize,
    /// How often it was sent already.
    sent: u64,
}

impl Waiting {
    fn key(&self) -> MockKey {
        match &self.what {
            What::Answer { firing, .. } => firing.key,
            What::Interval { key, .. } => *key,
        }
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// Every mock, by id and by topic.
pub struct Mocks {
    limits: MockLimits,
    draws: Draws,
    entries: Slab<Entry>,
    by_id: BTreeMap<String, MockKey>,
    on_publish: FilterTree<MockKey>,
    on_subscribe: FilterTree<MockKey>,
    on_connect: Vec<MockKey>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// Answers to messages that are not on their way yet, by who holds those.
    held: BTreeMap<u64, Vec<Waiting>>,
    /// Who holds the message that is being offered.
    holder: Option<u64>,
    answers: usize,
    answer_bytes: usize,
    /// Numbers mocks and answers.
    serial: u64,
    /// Counts changes of which mocks there are.
    generation: u64,
    state: Arc<Mutex<State>>,
    /// For state that is written.
    renderer: Renderer,
    unmatched: Unmatched,
    /// Whether answers found no room since some waited last.
    is_overflowing: bool,
    events: Vec<MockEvent>,
}

impl Mocks {
    /// The same `seed` makes the same draws. `environment` is what templates may read of it.
    pub fn new(seed: u64, limits: MockLimits, environment: BTreeMap<String, String>) -> Self {
        Self {
            limits,
            draws: Draws::new(seed).of("mock"),
            entries: Slab::new(),
            by_id: BTreeMap::new(),
            on_publish: FilterTree::new(),
            on_subscribe: FilterTree::new(),
            on_connect: Vec::new(),
            waiting: BinaryHeap::new(),
            held: BTreeMap::new(),
            holder: None,
            answers: 0,
            answer_bytes: 0,
            serial: 0,
            generation: 0,
            state: Arc::default(),
            renderer: Renderer::new(environment).limit_steps(limits.template_steps),
            unmatched: Unmatched::default(),
            is_overflowing: false,
            events: Vec::new(),
        }
    }

    /// Other numbers are drawn from now on; counts go on.
    pub fn set_seed(&mut self, seed: u64) {
        self.draws = Draws::new(seed).of("mock");
    }

    pub fn limits(&self) -> &MockLimits {
        &self.limits
    }

    pub fn state(&self) -> &Arc<Mutex<State>> {
        &self.state
    }

    /// Changes whenever what [`matching`](Self::matching) answers may.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether there is any mock that messages concern.
    pub fn wants_messages(&self) -> bool {
        !self.on_publish.is_empty()
    }

    /// Whether any mock waits for clients that connect, and for subscriptions.
    pub fn wants_clients(&self) -> bool {
        !self.on_connect.is_empty() || !self.on_subscribe.is_empty()
    }

    /// Adds a mock. One that has no id of its own gets a free one: [`Mock::unnamed`].
    ///
    /// # Errors
    /// [`MockError::Exists`] or [`MockError::TooMany`]; then nothing has changed.
    pub fn create(&mut self, now: Instant, mut mock: Mock) -> Result<MockView, MockError> {
        if self.entries.len() >= self.limits.mocks {
            return Err(MockError::TooMany(self.entries.len()));
        }
        if mock.spec.id.is_empty() {
            mock.spec.id = free_id(self.entries.len() + 1, |id| self.by_id.contains_key(id));
        }
        if self.by_id.contains_key(&mock.spec.id) {
            return Err(MockError::Exists(mock.spec.id));
        }
        let key = self.add(now, mock, false);
        Ok(self.view(key))
    }

    fn add(&mut self, now: Instant, mock: Mock, from_settings: bool) -> MockKey {
        self.serial += 1;
        self.insert(now, Arc::new(mock), self.serial, from_settings)
    }

    fn insert(&mut self, now: Instant, mock: Arc<Mock>, serial: u64, from_settings: bool) -> MockKey {
        let key = MockKey(self.entries.insert(Entry {
            mock: Arc::clone(&mock),
            serial,
            from_settings,
            figures: MockFigures::default(),
            places: HashMap::default(),
        }) as u32);
        self.by_id.insert(mock.spec.id.clone(), key);
        self.link(now, key, mock);
        key
    }

    /// Puts another mock in the place of the one with its id; its figures go on.
    ///
    /// # Errors
    /// [`MockError::NotFound`]; then nothing has changed.
    pub fn update(&mut self, now: Instant, mock: Mock) -> Result<MockView, MockError> {
        let key = self.key(&mock.spec.id)?;
        self.replace(now, key, Arc::new(mock));
        Ok(self.view(key))
    }

    fn replace(&mut self, now: Instant, key: MockKey, mock: Arc<Mock>) {
        self.unlink(key);
        let entry = &mut self.entries[key.0 as usize];
        entry.mock = Arc::clone(&mock);
        entry.places.clear();
        self.link(now, key, mock);
    }

    /// Makes a mock what it was when it was seen, in the place it had then. The figures of one with its id go on; if there is
    /// none, they begin anew.
    ///
    /// # Errors
    /// [`MockError::TooMany`]; then nothing has changed.
    pub fn restore(&mut self, now: Instant, seen: &MockView) -> Result<(), MockError> {
        let mock = Arc::clone(&seen.mock);
        match self.key(&mock.spec.id) {
            Ok(key) => {
                let entry = &mut self.entries[key.0 as usize];
                (entry.serial, entry.from_settings) = (seen.serial, seen.from_settings);
                self.replace(now, key, mock);
            }
            Err(_) if self.entries.len() >= self.limits.mocks => {
                return Err(MockError::TooMany(self.entries.len()));
            }
            Err(_) => _ = self.insert(now, mock, seen.serial, seen.from_settings),
        }
        Ok(())
    }

    /// Puts the mocks of the settings in the place of all there are, with nothing waiting, and forgets what none matched.
    pub fn replace_all(&mut self, now: Instant, mocks: Vec<Mock>) {
        self.entries.clear();
        self.by_id.clear();
        self.on_publish = FilterTree::new();
        self.on_subscribe = FilterTree::new();
        self.on_connect.clear();
        self.waiting.clear();
        self.held.clear();
        (self.answers, self.answer_bytes) = (0, 0);
        self.unmatched.clear();
        self.generation += 1;
        for mock in mocks {
            self.add(now, mock, true);
        }
    }

    /// Removes a mock; answers of it that wait are not sent.
    ///
    /// # Errors
    /// [`MockError::NotFound`].
    pub fn delete(&mut self, id: &str) -> Result<(), MockError> {
        let key = self.key(id)?;
        self.unlink(key);
        self.by_id.remove(id);
        self.entries.remove(key.0 as usize);
        Ok(())
    }

    /// # Errors
    /// [`MockError::NotFound`].
    pub fn get(&self, id: &str) -> Result<MockView, MockError> {
        Ok(self.view(self.key(id)?))
    }

    /// In the order they were made.
    pub fn list(&self) -> Vec<MockView> {
        let mut keys: Vec<MockKey> = self.by_id.values().copied().collect();
        keys.sort_by_key(|key| self.entries[key.0 as usize].serial);
        keys.into_iter().map(|key| self.view(key)).collect()
    }

    fn key(&self, id: &str) -> Result<MockKey, MockError> {
        self.by_id.get(id).copied().ok_or_else(|| MockError::NotFound(id.to_owned()))
    }

    fn view(&self, key: MockKey) -> MockView {
        let entry = &self.entries[key.0 as usize];
        MockView {
            mock: Arc::clone(&entry.mock),
            figures: entry.figures.clone(),
            from_settings: entry.from_settings,
            serial: entry.serial,
        }
    }

    /// Makes a mock known to what triggers it.
    fn link(&mut self, now: Instant, key: MockKey, mock: Arc<Mock>) {
        self.generation += 1;
        if !mock.spec.enabled {
            return;
        }
        match (mock.spec.on, &mock.filter) {
            (Trigger::Publish, Some(filter)) => self.on_publish.insert(filter, key),
            (Trigger::Subscribe, Some(filter)) => self.on_subscribe.insert(filter, key),
            (Trigger::Connect, _) => self.on_connect.push(key),
            _ => {
                let interval = Duration::from_millis(mock.spec.interval_ms.unwrap_or(1).max(1));
                self.wait(now + interval, What::Interval { key, mock, interval });
            }
        }
    }

    fn unlink(&mut self, key: MockKey) {
        self.generation += 1;
        let mock = Arc::clone(&self.entries[key.0 as usize].mock);
        match (mock.spec.on, &mock.filter) {
            (Trigger::Publish, Some(filter)) => _ = self.on_publish.remove(filter, |&other| other == key),
            (Trigger::Subscribe, Some(filter)) => _ = self.on_subscribe.remove(filter, |&other| other == key),
            (Trigger::Connect, _) => self.on_connect.retain(|&other| other != key),
            _ => {}
        }
        self.drop_waiting(|waiting| waiting.key() == key);
    }

    /// Forgets answers and turns that wait.
    fn drop_waiting(&mut self, is_over: impl Fn(&Waiting) -> bool) {
        let (mut answers, mut bytes) = (0, 0);
        let mut stays = |waiting: &Waiting| {
            let stays = !is_over(waiting);
            if let (false, What::Answer { firing, .. }) = (stays, &waiting.what) {
                answers += 1;
                bytes += firing.occasion.size();
            }
            stays
        };
        self.waiting.retain(|Reverse(waiting)| stays(waiting));
        for held in self.held.values_mut() {
            held.retain(&mut stays);
        }
        self.answers -= answers;
        self.answer_bytes -= bytes;
    }

    /// The mocks that messages on `topic` concern, as long as [`generation`](Self::generation) stays; in the order they
    /// have their turn.
    pub fn matching(&self, topic: &str) -> Matching {
        let mut keys = Matching::new();
        self.on_publish.find(topic.as_bytes(), &mut |&key| keys.push(key));
        self.in_order(keys)
    }

    fn in_order(&self, mut keys: Matching) -> Matching {
        if keys.len() > 1 {
            keys.sort_by_cached_key(|key| {
                let Entry { mock, serial, .. } = &self.entries[key.0 as usize];
                (mock.spec.priority, Reverse(mock.specificity()), Reverse(*serial))
            });
        }
        keys
    }

    /// A message was accepted; `matching` is for its topic. If somebody holds it, answers wait for its
    /// [`release`](Self::release), so that none overtakes it.
    pub fn offer_message(
        &mut self,
        now: Instant,
        clock: Timestamp,
        matching: &[MockKey],
        occasion: Occasion,
        holder: Option<u64>,
    ) -> Verdict {
        self.holder = holder;
        let verdict = self.offer(now, clock, matching, occasion);
        self.holder = None;
        verdict
    }

    /// The messages that `holder` held are on their way; returns whether answers waited for that.
    pub fn release(&mut self, holder: u64) -> bool {
        let Some(held) = self.held.remove(&holder) else { return false };
        self.waiting.extend(held.into_iter().map(Reverse));
        true
    }

    /// A subscription was granted.
    pub fn offer_subscription(
        &mut self,
        now: Instant,
        clock: Timestamp,
        client_identifier: &str,
        filter: &str,
        qos: QoS,
        via: Option<Arc<str>>,
    ) {
        let mut keys = Matching::new();
        // Its pattern, without the name of a shared subscription.
        let pattern = filter
            .strip_prefix("$share/")
            .and_then(|rest| rest.split_once('/'))
            .map_or(filter, |(_, rest)| rest);
        self.on_subscribe.find(pattern.as_bytes(), &mut |&key| keys.push(key));
        if keys.is_empty() {
            return;
        }
        let occasion = Occasion {
            topic: pattern.to_owned(),
            qos,
            client_identifier: client_identifier.to_owned(),
            via,
            ..Occasion::default()
        };
        let keys = self.in_order(keys);
        self.offer(now, clock, &keys, occasion);
    }

    /// A client has connected.
    pub fn offer_connection(
        &mut self,
        now: Instant,
        clock: Timestamp,
        client_identifier: &str,
        username: Option<&str>,
        via: Option<Arc<str>>,
    ) {
        if self.on_connect.is_empty() {
            return;
        }
        let occasion = Occasion {
            client_identifier: client_identifier.to_owned(),
            username: username.map(str::to_owned),
            via,
            ..Occasion::default()
        };
        let keys = self.in_order(self.on_connect.iter().copied().collect());
        self.offer(now, clock, &keys, occasion);
    }

    fn offer(&mut self, now: Instant, clock: Timestamp, keys: &[MockKey], occasion: Occasion) -> Verdict {
        let mut verdict = Verdict::Route;
        let mut firing: SmallVec<[MockKey; 2]> = SmallVec::new();
        let mut nearest: Option<(MockKey, String)> = None;
        let client = self.draws.of("client").of(&occasion.client_identifier);
        {
            let subject = Subject::new(&occasion);
            for &key in keys {
                let Some(entry) = self.entries.get_mut(key.0 as usize) else { continue };
                match entry.judge(&subject, &client, &self.state) {
                    None => {
                        firing.push(key);
                        if !entry.mock.spec.route {
                            verdict = Verdict::Intercept;
                        }
                        if !entry.mock.spec.goes_on {
                            break;
                        }
                    }
                    Some(difference) => _ = nearest.get_or_insert((key, difference)),
                }
            }
        }
        if firing.is_empty() {
            if let Some((key, difference)) = nearest
                && occasion.synthetic.is_none()
                && self.entries[key.0 as usize].mock.spec.on == Trigger::Publish
            {
                let nearest = self.entries[key.0 as usize].mock.spec.id.clone();
                self.unmatched.note(now, clock, &occasion, Some((nearest, difference)));
            }
            return verdict;
        }
        let last = firing.len() - 1;
        let mut occasion = Some(occasion);
        for (position, key) in firing.into_iter().enumerate() {
            let its = if position == last { occasion.take() } else { occasion.clone() };
            self.fire_key(now, clock, key, its.unwrap_or_default());
        }
        verdict
    }

    /// Fires a mock by hand, whatever its conditions; returns how many messages it is going to send.
    ///
    /// # Errors
    /// [`MockError::NotFound`].
    pub fn fire(
        &mut self,
        now: Instant,
        clock: Timestamp,
        id: &str,
        mut occasion: Occasion,
    ) -> Result<u64, MockError> {
        let key = self.key(id)?;
        if occasion.topic.is_empty()
            && let Some(filter) = &self.entries[key.0 as usize].mock.filter
            && !filter.as_str().contains(['+', '#'])
        {
            occasion.topic = filter.as_str().to_owned();
        }
        occasion.synthetic = Some(0);
        Ok(self.fire_key(now, clock, key, occasion))
    }

    fn fire_key(&mut self, now: Instant, clock: Timestamp, key: MockKey, occasion: Occasion) -> u64 {
        let entry = &mut self.entries[key.0 as usize];
        let mock = Arc::clone(&entry.mock);
        entry.figures.fired += 1;
        entry.figures.last_fired_at = Some(clock);
        let count = entry.figures.fired;
        let client = self.draws.of("client").of(&occasion.client_identifier);
        let place = entry.place(&client);
        place.fired += 1;
        let turn = place.fired;
        // All that this firing draws depends on the seed, the mock and the count.
        let draws = self.draws.of(&mock.spec.id).nth(count);
        self.write_state(key, &mock, &occasion, count, clock, &draws);

        let firing = Arc::new(Firing { key, occasion, count, draws, mock });
        let responses = &firing.mock.responses;
        let one = |index: usize| index..index + 1;
        let chosen = match firing.mock.spec.mode {
            _ if responses.is_empty() => 0..0,
            Mode::All => 0..responses.len(),
            Mode::Sequence => {
                let position = (turn - 1) as usize;
                one(match firing.mock.spec.then {
                    Then::Repeat => position % responses.len(),
                    Then::Last | Then::Stop => position.min(responses.len() - 1),
                })
            }
            Mode::Random => one(firing.draws.of("choice").between(0, responses.len() as i64 - 1) as usize),
            Mode::Weighted => one(by_weight(responses, firing.draws.of("choice").fraction())),
        };
        let mut at = now;
        let mut scheduled = 0;
        let size = firing.occasion.size();
        for response in chosen {
            let Response { delay, count, .. } = &firing.mock.responses[response];
            at += delay.draw(&mut firing.draws.of("delay").nth(response as u64));
            if self.answers >= self.limits.answers || self.answer_bytes + size > self.limits.answer_bytes {
                // Told once for a run of them.
                let is_news = !std::mem::replace(&mut self.is_overflowing, true);
                let error = format!("{} answers are waiting already", self.answers);
                self.fail(key, &firing.occasion, error, is_news);
                continue;
            }
            scheduled += count;
            self.answers += 1;
            self.answer_bytes += size;
            self.wait(at, What::Answer { firing: Arc::clone(&firing), response, sent: 0 });
        }
        self.events.push(MockEvent::Fired(Fired {
            mock: firing.mock.spec.id.clone(),
            client_identifier: firing.occasion.client_identifier.clone(),
            topic: firing.occasion.topic.clone(),
            scheduled,
        }));
        scheduled
    }

    fn write_state(
        &mut self,
        key: MockKey,
        mock: &Mock,
        occasion: &Occasion,
        count: u64,
        clock: Timestamp,
        draws: &Draws,
    ) {
        if mock.set_state.is_empty() {
            return;
        }
        let subject = Subject::new(occasion);
        for (index, (name, value)) in mock.set_state.iter().enumerate() {
            let draws = draws.of("state").nth(index as u64);
            let around = Surroundings { draws, now: clock, state: Arc::clone(&self.state) };
            let reading = Reading { subject: &subject, count, around: &around };
            let value =
                mock.state_value(value, &reading, &mut self.renderer).map_err(|error| error.to_string());
            let scope = match mock.spec.scope {
                Scope::Global => super::StateScope::Global,
                // Of nobody in particular, it is everybody's.
                Scope::Client if occasion.client_identifier.is_empty() => super::StateScope::Global,
                Scope::Client => super::StateScope::Client(occasion.client_identifier.clone()),
            };
            let written = value.and_then(|value| {
                locked(&self.state).set(&scope, name, value).map_err(|error| error.to_string())
            });
            if let Err(error) = written {
                self.fail(key, occasion, format!("set_state.{name}: {error}"), true);
            }
        }
    }

    fn wait(&mut self, at: Instant, what: What) {
        self.serial += 1;
        let waiting = Waiting { at, serial: self.serial, what };
        match self.holder {
            Some(holder) => self.held.entry(holder).or_default().push(waiting),
            None => self.waiting.push(Reverse(waiting)),
        }
    }

    /// When something is due, at the earliest.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(first)| first.at)
    }

    /// Takes answers whose time has come, at most `limit` of them, in their order.
    pub fn poll(&mut self, now: Instant, clock: Timestamp, limit: usize) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < limit
            && let Some(Reverse(first)) = self.waiting.peek()
            && first.at <= now
            && let Some(Reverse(Waiting { at, what, .. })) = self.waiting.pop()
        {
            match what {
                What::Interval { key, mock, interval } => {
                    if self.is_there(key, &mock) {
                        // By the schedule, not by when we came to it; turns that were missed are left out.
                        let late = now.saturating_duration_since(at).as_nanos() / interval.as_nanos().max(1);
                        let next = at + interval * u32::try_from(late + 1).unwrap_or(u32::MAX);
                        let occasion = Occasion { topic: mock.spec.topic.clone(), ..Occasion::default() };
                        self.wait(next, What::Interval { key, mock: Arc::clone(&mock), interval });
                        let keys = [key];
                        self.offer(at, clock, &keys, occasion);
                    }
                }
                What::Answer { firing, response, sent } => {
                    let size = firing.occasion.size();
                    self.answers -= 1;
                    self.answer_bytes -= size;
                    self.is_overflowing = false;
                    if !self.is_there(firing.key, &firing.mock) {
                        continue;
                    }
                    let Response { count, interval, .. } = &firing.mock.responses[response];
                    if sent + 1 < *count {
                        self.answers += 1;
                        self.answer_bytes += size;
                        let again = What::Answer { firing: Arc::clone(&firing), response, sent: sent + 1 };
                        // One that is late already lines up behind whatever else is due.
                        self.wait((at + *interval).max(now), again);
                    }
                    due.push(Due { firing, response, sent });
                }
            }
        }
        due
    }

    fn is_there(&self, key: MockKey, mock: &Arc<Mock>) -> bool {
        self.entries.get(key.0 as usize).is_some_and(|entry| Arc::ptr_eq(&entry.mock, mock))
    }

    /// What became of an answer that was due.
    pub fn note(&mut self, due: &Due, outcome: Result<(), String>) {
        let key = due.firing.key;
        if !self.is_there(key, &due.firing.mock) {
            return;
        }
        match outcome {
            Ok(()) => self.entries[key.0 as usize].figures.sent += 1,
            Err(error) => self.fail(key, &due.firing.occasion, error, true),
        }
    }

    fn fail(&mut self, key: MockKey, occasion: &Occasion, mut error: String, is_news: bool) {
        if let Some((end, _)) = error.char_indices().nth(ERROR_MAX) {
            error.truncate(end);
            error.push('…');
        }
        let Entry { mock, figures, .. } = &mut self.entries[key.0 as usize];
        figures.failed += 1;
        if is_news {
            self.events.push(MockEvent::Failed {
                mock: mock.spec.id.clone(),
                client_identifier: occasion.client_identifier.clone(),
                topic: occasion.topic.clone(),
                error: error.clone(),
                is_new: figures.last_error.as_ref() != Some(&error),
            });
        }
        figures.last_error = Some(error);
    }

    /// Answers that wait for their time.
    pub fn waiting(&self) -> usize {
        self.answers
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<MockEvent> {
        std::mem::take(&mut self.events)
    }

    /// Messages that no mock's topic matched are told here.
    pub fn unmatched_mut(&mut self) -> &mut Unmatched {
        &mut self.unmatched
    }

    /// What is needed to tell which messages none matched, and which came nearest; comparing takes long with many mocks.
    pub fn unmatched(&self) -> UnmatchedSnapshot {
        let specs = self.entries.iter().map(|(_, entry)| &entry.mock);
        let mocks =
            specs.filter(|mock| mock.spec.enabled && mock.spec.on == Trigger::Publish).cloned().collect();
        self.unmatched.snapshot(mocks)
    }
}

impl Entry {
    fn place(&mut self, client: &Draws) -> &mut Place {
        let name = match self.mock.spec.scope {
            Scope::Global => 0,
            Scope::Client => client.clone().next_u64(),
        };
        if self.places.len() >= CLIENTS_MAX && !self.places.contains_key(&name) {
            self.places.clear();
        }
        self.places.entry(name).or_default()
    }

    /// Why the mock does not fire; counts the occasion.
    fn judge(&mut self, subject: &Subject<'_>, client: &Draws, state: &Mutex<State>) -> Option<String> {
        let mock = Arc::clone(&self.mock);
        if let Some(depth) = subject.occasion.synthetic {
            if !mock.spec.trigger_on_synthetic {
                return Some("no client sent it, and trigger_on_synthetic is not set".to_owned());
            }
            if depth >= DEPTH_MAX {
                return Some(format!("{depth} mocks led to it, as many as may"));
            }
        }
        if let Err(difference) = mock.condition.check_message(subject) {
            return Some(difference);
        }
        if mock.condition.reads_state()
            && let Err(difference) = mock.condition.check_state(subject, &locked(state))
        {
            return Some(difference);
        }
        let place = self.place(client);
        place.matched += 1;
        let Place { matched, fired } = *place;
        if !mock.condition.is_turn(matched) {
            return Some(format!("it is number {matched} of its kind, which nth leaves out"));
        }
        let is_over = mock.spec.mode == Mode::Sequence
            && mock.spec.then == Then::Stop
            && fired >= mock.responses.len() as u64;
        is_over.then(|| "its sequence is over".to_owned())
    }
}

/// The first of `mock-1`, `mock-2` … from `number` on that is free.
fn free_id(number: usize, is_taken: impl Fn(&str) -> bool) -> String {
    let ids = (number..).map(|number| format!("mock-{number}"));
    ids.into_iter().find(|id| !is_taken(id)).expect("there are fewer mocks than numbers")
}

/// The mocks of a settings file; those without an id are named by their position.
///
/// # Errors
/// The position of the first that is not good, and why.
pub fn make_mocks(
    specs: &[MockSpec],
    limits: MockLimits,
    read_file: ReadFile<'_>,
) -> Result<Vec<Mock>, (usize, MockError)> {
    if specs.len() > limits.mocks {
        return Err((limits.mocks, MockError::TooMany(limits.mocks)));
    }
    let said: BTreeSet<&str> = specs.iter().map(|spec| spec.id.as_str()).collect();
    let mut taken = BTreeSet::new();
    let mut mocks = Vec::with_capacity(specs.len());
    for (position, spec) in specs.iter().enumerate() {
        let mut spec = spec.clone();
        if spec.id.is_empty() {
            spec.id = free_id(position + 1, |id| said.contains(id) || taken.contains(id));
        }
        if !taken.insert(spec.id.clone()) {
            return Err((position, MockError::Exists(spec.id)));
        }
        mocks.push(Mock::new(spec, read_file).map_err(|bad| (position, MockError::Bad(bad)))?);
    }
    Ok(mocks)
}

/// The place of `fraction`, from 0 to 1, among the weights.
fn by_weight(responses: &[Response], fraction: f64) -> usize {
    let total: f64 = responses.iter().map(|response| response.weight).sum();
    let mut left = fraction * total;
    for (index, response) in responses.iter().enumerate() {
        left -= response.weight;
        if left < 0.0 {
            return index;
        }
    }
    // Rounding may leave a rest.
    responses.iter().rposition(|response| response.weight > 0.0).unwrap_or(0)
}

impl Due {
    pub fn mock(&self) -> &str {
        &self.firing.mock.spec.id
    }

    pub fn client_identifier(&self) -> &str {
        &self.firing.occasion.client_identifier
    }

    /// As of the [`Occasion`] that it answers.
    pub fn via(&self) -> Option<Arc<str>> {
        self.firing.occasion.via.clone()
    }

    /// Makes the message.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn render(
        &self,
        clock: Timestamp,
        state: &Arc<Mutex<State>>,
        renderer: &mut Renderer,
    ) -> Result<Answer, String> {
        let Firing { mock, occasion, count, draws, .. } = &*self.firing;
        let draws = draws.of("answer").nth(self.response as u64).nth(self.sent);
        let around = Surroundings { draws, now: clock, state: Arc::clone(state) };
        let subject = Subject::new(occasion);
        let reading = Reading { subject: &subject, count: *count, around: &around };
        let response = &mock.responses[self.response];
        mock.answer(response, &reading, renderer).map_err(|error| match mock.responses.len() {
            1 => error,
            _ => format!("responses[{}].{error}", self.response),
        })
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing that is done under the lock leaves it half changed.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
