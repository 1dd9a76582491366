//! Webhooks: who there are, and which messages are theirs.
//!
//! A thread that routes messages keeps a [`WebhookMatcher`] and offers it each of them, which takes no lock; those that
//! some webhook wants are put into a bounded queue of each, or it is counted that there was no room. All else happens on
//! the runtime of the control plane.

mod http;
mod line;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use bytes::BytesMut;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;
use ulid::Ulid;

pub use self::http::Http as HttpClient;
use self::{
    http::Http,
    line::{Current, Line, lock},
};
use super::asking::routed;
use crate::{
    config::{read_file, read_file_below},
    draws::Draws,
    field::BadField,
    interceptor::{Interest, Offered, Party, Publisher},
    metrics::Family,
    mock::State,
    packet::FilterTree,
    session::{ApplicationMessage, Payload, encode_forwarded},
    webhook::{
        RESPONSE_KEPT, RoutedMessage, WEBHOOKS_MAX, WebhookDelivery, WebhookEvent, WebhookSpec, free_id,
        name_webhooks,
    },
};

/// Tasks that are aborted need no more than their turn.
const ABORT_WAIT: Duration = Duration::from_millis(500);

/// What webhooks are given.
pub struct WebhookOptions {
    /// Of several threads; requests are sent from it.
    pub runtime: Handle,
    /// What `env` in templates may print.
    pub environment: BTreeMap<String, String>,
    /// Of one rendering of a template.
    pub template_steps: usize,
    /// Where relative paths of files of authorities start.
    pub folder: PathBuf,
    /// What templates and conditions read, and templates count in.
    pub state: Arc<Mutex<State>>,
    /// Of random helpers in templates, and of how long waits are.
    pub seed: u64,
    /// Of messages that wait for one webhook or are being sent, at most.
    pub queue_bytes: usize,
    /// Where they say whether messages are to be offered.
    pub interest: Interest,
    /// Told of each message that was given up; must not block.
    pub on_event: Box<dyn Fn(WebhookEvent) + Send + Sync>,
}

/// Figures of one webhook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WebhookFigures {
    /// Messages that were answered with success.
    delivered: u64,
    /// Messages that were given up.
    failed: u64,
    /// Messages that found no room in the queue.
    dropped: u64,
    /// Attempts beyond the first.
    retried: u64,
    /// Messages that wait, or are being sent.
    queued: u64,
}

/// A webhook and its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookView {
    /// Without its secret; other values that must not be shown are [masks](crate::webhook::MASK).
    pub spec: WebhookSpec,
    pub has_secret: bool,
    pub from_settings: bool,
    pub delivered: u64,
    pub failed: u64,
    pub dropped: u64,
    pub retried: u64,
    /// Messages that wait, or are being sent.
    pub queued: u64,
    /// Of the last attempt that failed.
    pub last_error: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    #[error("{}", .0.iter().map(BadField::to_string).collect::<Vec<_>>().join("; "))]
    Bad(Vec<BadField>),
    #[error("there is a webhook {0:?} already")]
    Exists(String),
    #[error("there is no webhook {0:?}")]
    NotFound(String),
    #[error("webhook {webhook:?} has no delivery {delivery:?} in its log")]
    DeliveryNotFound { webhook: String, delivery: String },
    #[error("the message of delivery {0:?} was too large to be kept")]
    NotKept(String),
    #[error("the queue of webhook {0:?} is full")]
    QueueFull(String),
    #[error("there are at most {WEBHOOKS_MAX} webhooks")]
    TooMany,
    #[error("the server is shutting down")]
    Closed,
}

/// All webhooks of a server. They end when the last handle is dropped.
#[derive(Clone)]
pub struct WebhookHandle(Arc<Registry>);

struct Registry {
    /// In the order they were made.
    lines: Mutex<Vec<Arc<Line>>>,
    shared: Arc<Shared>,
    _ended: DropGuard,
}

/// What the tasks share; they must not keep the registry alive.
struct Shared {
    runtime: Handle,
    template_steps: usize,
    environment: BTreeMap<String, String>,
    folder: PathBuf,
    state: Arc<Mutex<State>>,
    seed: AtomicU64,
    queue_bytes: usize,
    on_event: Box<dyn Fn(WebhookEvent) + Send + Sync>,
    http: Http,
    interest: Interest,
    is_closed: AtomicBool,
    generation: AtomicU64,
    table: Mutex<Arc<HookTable>>,
    /// Delivery ids count up from a random number, so that those of one millisecond are in order.
    first_id: u128,
    ids: AtomicU64,
    ended: CancellationToken,
}

/// What webhooks of the settings come to: all of them, and what has to be made or changed.
type Plan = (Vec<WebhookSpec>, Vec<(Option<Arc<Line>>, Arc<Current>)>);

/// Which webhooks want which topics.
type HookTable = FilterTree<HookRef>;

#[derive(Clone)]
struct HookRef(Arc<Line>);

/// A thread's own view of which webhooks there are.
pub struct WebhookMatcher {
    shared: Arc<Shared>,
    generation: u64,
    table: Arc<HookTable>,
    found: Vec<HookRef>,
}

impl WebhookMatcher {
    /// Puts a message of `topic` into the queue of each webhook that wants it and has room; what has none is counted.
    /// `make` makes the message if any wants it; it should hold no slice of a read buffer. Never waits for anything that
    /// a receiver does.
    #[inline]
    pub fn offer(&mut self, topic: &str, make: impl FnOnce() -> RoutedMessage) {
        if self.find(topic) > 0 {
            let message = Arc::new(make());
            for HookRef(line) in self.found.drain(..) {
                line.offer(self.shared.next_id(message.at), Arc::clone(&message));
            }
        }
    }

    /// How many want a message of `topic`, as far as that says. Takes no lock unless webhooks were changed.
    #[inline]
    pub(super) fn find(&mut self, topic: &str) -> usize {
        self.found.clear();
        if self.shared.interest.has(Party::Webhooks) {
            let generation = self.shared.generation.load(Acquire);
            if generation != self.generation {
                self.generation = generation;
                self.table = self.shared.table();
            }
            let found = &mut self.found;
            self.table.find(topic.as_bytes(), &mut |hook| found.push(hook.clone()));
        }
        self.found.len()
    }
}

impl WebhookHandle {
    /// Without any webhooks.
    pub fn start(options: WebhookOptions) -> Self {
        let WebhookOptions {
            runtime,
            environment,
            template_steps,
            folder,
            state,
            seed,
            queue_bytes,
            interest,
            on_event,
        } = options;
        let ended = CancellationToken::new();
        let shared = Shared {
            runtime,
            environment,
            template_steps,
            folder,
            state,
            seed: AtomicU64::new(seed),
            queue_bytes,
            on_event,
            http: Http::new(RESPONSE_KEPT),
            interest,
            is_closed: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            table: Mutex::default(),
            first_id: Ulid::new().random() >> 1,
            ids: AtomicU64::new(0),
            ended: ended.clone(),
        };
        Self(Arc::new(Registry {
            lines: Mutex::default(),
            shared: Arc::new(shared),
            _ended: ended.drop_guard(),
        }))
    }

    /// Draws from another seed from now on; counts go on.
    pub fn set_seed(&self, seed: u64) {
        self.0.shared.seed.store(seed, Relaxed);
    }

    /// Whether any is enabled.
    pub fn is_active(&self) -> bool {
        self.0.shared.interest.has(Party::Webhooks)
    }

    /// Offers a message of ours that passes no thread with a matcher; `expiry` is in seconds.
    pub fn offer(&self, message: &ApplicationMessage, expiry: Option<u32>) {
        let topic = message.topic.as_str();
        self.matcher().offer(topic, || {
            let mut properties = BytesMut::new();
            encode_forwarded(&message.properties, &mut properties);
            routed(&Offered {
                topic,
                payload: Payload::of(&message.payload),
                qos: message.qos,
                retain: message.retain,
                properties: &properties,
                expiry,
                from: Publisher::origin(&message.origin),
                is_will: false,
                may_be_kept: false,
            })
        });
    }

    /// For a thread that routes messages.
    pub fn matcher(&self) -> WebhookMatcher {
        WebhookMatcher {
            generation: self.0.shared.generation.load(Acquire),
            table: self.0.shared.table(),
            shared: Arc::clone(&self.0.shared),
            found: Vec::new(),
        }
    }

    /// Adds a webhook; without an id it gets a free one. Files of authorities have to be below the folder.
    ///
    /// # Errors
    /// [`Bad`](WebhookError::Bad), [`Exists`](WebhookError::Exists), [`TooMany`](WebhookError::TooMany) or
    /// [`Closed`](WebhookError::Closed).
    pub fn create(&self, mut spec: WebhookSpec) -> Result<WebhookView, WebhookError> {
        self.check_open()?;
        let mut lines = lock(&self.0.lines);
        if spec.id.is_empty() {
            spec.id = free_id(1, |id| lines.iter().any(|line| line.id == id));
        }
        if lines.iter().any(|line| line.id == spec.id) {
            return Err(WebhookError::Exists(spec.id));
        }
        if lines.len() >= WEBHOOKS_MAX {
            return Err(WebhookError::TooMany);
        }
        let read = |path: &str| read_file_below(&self.0.shared.folder, path);
        let current = Current::new(spec, &read).map_err(WebhookError::Bad)?;
        let line = Line::start(&self.0.shared, current, false);
        lines.push(Arc::clone(&line));
        self.0.shared.publish(&lines);
        Ok(line.view())
    }

    /// Replaces a webhook; what waits for it is sent as it is then. Without a secret, the one it has stays; so does each
    /// value that `spec` has a mask for.
    ///
    /// # Errors
    /// [`NotFound`](WebhookError::NotFound), [`Bad`](WebhookError::Bad) or [`Closed`](WebhookError::Closed).
    pub fn update(&self, id: &str, mut spec: WebhookSpec) -> Result<WebhookView, WebhookError> {
        self.check_open()?;
        let lines = lock(&self.0.lines);
        let line = find(&lines, id)?;
        if spec.id.is_empty() {
            id.clone_into(&mut spec.id);
        }
        if spec.id != id {
            let what = format!("is {id:?} or empty, not {:?}: an id stays", spec.id);
            return Err(WebhookError::Bad(vec![BadField { path: "id".to_owned(), what }]));
        }
        let before = line.current();
        let before = before.hook.spec();
        spec.unmask(before);
        let folder = &self.0.shared.folder;
        // What the settings named may stay, wherever it is.
        let read = |path: &str| match path == before.ca_file {
            true => read_file(folder, path),
            false => read_file_below(folder, path),
        };
        line.change(Current::new(spec, &read).map_err(WebhookError::Bad)?);
        self.0.shared.publish(&lines);
        Ok(line.view())
    }

    /// Removes a webhook with what waits for it.
    ///
    /// # Errors
    /// [`NotFound`](WebhookError::NotFound).
    pub fn delete(&self, id: &str) -> Result<(), WebhookError> {
        let mut lines = lock(&self.0.lines);
        find(&lines, id)?.end();
        lines.retain(|line| line.id != id);
        self.0.shared.publish(&lines);
        Ok(())
    }

    /// # Errors
    /// [`NotFound`](WebhookError::NotFound).
    pub fn get(&self, id: &str) -> Result<WebhookView, WebhookError> {
        self.line(id).map(|line| line.view())
    }

    /// In the order they were made.
    pub fn list(&self) -> Vec<WebhookView> {
        lock(&self.0.lines).iter().map(|line| line.view()).collect()
    }

    /// Makes `specs` the webhooks of the settings file. Those that are as they were go on undisturbed, those that changed keep
    /// what waits for them, those that are gone are removed. Webhooks made over the API stay.
    ///
    /// # Errors
    /// [`Bad`](WebhookError::Bad) with paths that begin with `[n]`, [`TooMany`](WebhookError::TooMany) or
    /// [`Closed`](WebhookError::Closed); nothing is changed then.
    pub fn replace_all(&self, specs: Vec<WebhookSpec>) -> Result<(), WebhookError> {
        let mut lines = lock(&self.0.lines);
        let (specs, planned) = self.plan(&lines, specs)?;
        lines.retain(|line| {
            let stays = !line.from_settings || specs.iter().any(|spec| spec.id == line.id);
            if !stays {
                line.end();
            }
            stays
        });
        for (line, current) in planned {
            match line {
                Some(line) => line.change(current),
                None => lines.push(Line::start(&self.0.shared, current, true)),
            }
        }
        self.0.shared.publish(&lines);
        Ok(())
    }

    /// Whether [`replace_all`](Self::replace_all) would take that over now.
    ///
    /// # Errors
    /// Those of [`replace_all`](Self::replace_all).
    pub fn check_all(&self, specs: Vec<WebhookSpec>) -> Result<(), WebhookError> {
        self.plan(&lock(&self.0.lines), specs).map(drop)
    }

    /// `specs` with their ids, and those of them that are new or changed, with the lines that have their ids.
    fn plan(&self, lines: &[Arc<Line>], mut specs: Vec<WebhookSpec>) -> Result<Plan, WebhookError> {
        self.check_open()?;
        let foreign: Vec<_> = lines.iter().filter(|line| !line.from_settings).map(Arc::clone).collect();
        if foreign.len() + specs.len() > WEBHOOKS_MAX {
            return Err(WebhookError::TooMany);
        }
        name_webhooks(&mut specs, |id| foreign.iter().any(|line| line.id == id));
        let read = |path: &str| read_file(&self.0.shared.folder, path);
        let mut bad = Vec::new();
        let mut planned = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let mut refuse = |what| bad.push(BadField { path: format!("[{index}].id"), what });
            if specs[..index].iter().any(|other| other.id == spec.id) {
                refuse(format!("{:?} is the id of another webhook", spec.id));
            } else if foreign.iter().any(|line| line.id == spec.id) {
                refuse(format!("{:?} is the id of a webhook that was made over the API", spec.id));
            }
            let line = lines.iter().find(|line| line.id == spec.id);
            if line.is_some_and(|line| line.current().hook.spec() == spec) {
                continue;
            }
            match Current::new(spec.clone(), &read) {
                Ok(current) => planned.push((line.map(Arc::clone), current)),
                Err(fields) => {
                    bad.extend(fields.into_iter().map(|field| BadField {
                        path: format!("[{index}].{}", field.path),
                        what: field.what,
                    }))
                }
            }
        }
        if !bad.is_empty() {
            return Err(WebhookError::Bad(bad));
        }
        Ok((specs, planned))
    }

    /// Newest first; at most [`LOGGED_MAX`](crate::webhook::LOGGED_MAX).
    ///
    /// # Errors
    /// [`NotFound`](WebhookError::NotFound).
    pub fn deliveries(&self, id: &str) -> Result<Vec<WebhookDelivery>, WebhookError> {
        self.line(id).map(|line| line.deliveries())
    }

    /// Sends a delivery of the log again, as a new one: with the same body, and else as the webhook is now. Returns when it
    /// is queued.
    ///
    /// # Errors
    /// [`NotFound`](WebhookError::NotFound), [`DeliveryNotFound`](WebhookError::DeliveryNotFound) also while it still waits
    /// for its first attempt, [`NotKept`](WebhookError::NotKept) or [`QueueFull`](WebhookError::QueueFull).
    pub fn redeliver(&self, id: &str, delivery: &str) -> Result<WebhookDelivery, WebhookError> {
        self.check_open()?;
        let line = self.line(id)?;
        let not_found =
            || WebhookError::DeliveryNotFound { webhook: id.to_owned(), delivery: delivery.to_owned() };
        let parsed = Ulid::from_string(delivery).map_err(|_| not_found())?;
        let kept = {
            let log = line.log();
            log.get(parsed).ok_or_else(not_found)?;
            log.resendable(parsed)
        };
        let (message, body) = kept.ok_or_else(|| WebhookError::NotKept(delivery.to_owned()))?;
        let new_id = self.0.shared.next_id(Timestamp::now());
        line.offer_again(new_id, message, body).ok_or_else(|| WebhookError::QueueFull(id.to_owned()))
    }

    /// Sends one request as for `message`, whatever filter and `when` say and also if the webhook is disabled, and returns how
    /// it went. It stands in the log, and counts in no figure.
    ///
    /// # Errors
    /// [`NotFound`](WebhookError::NotFound) or [`Closed`](WebhookError::Closed).
    pub async fn test(&self, id: &str, message: RoutedMessage) -> Result<WebhookDelivery, WebhookError> {
        self.check_open()?;
        let (line, shared) = (self.line(id)?, Arc::clone(&self.0.shared));
        let sent = shared.runtime.clone().spawn(async move { line.test(&shared, message).await });
        // It ends early with its runtime, and panics never.
        sent.await.map_err(|_| WebhookError::Closed)
    }

    /// What became of the messages of each webhook, for `/__mockforge/metrics`.
    pub fn families(&self) -> Vec<Family> {
        let lines: Vec<_> =
            lock(&self.0.lines).iter().map(|line| (("webhook", line.id.clone()), line.figures())).collect();
        let each = |value: fn(&WebhookFigures) -> u64| {
            lines.iter().map(move |(label, figures)| (vec![label.clone()], value(figures)))
        };
        let by_outcome = lines.iter().flat_map(|(webhook, figures)| {
            let WebhookFigures { delivered, failed, dropped, .. } = *figures;
            [("delivered", delivered), ("failed", failed), ("dropped", dropped)]
                .map(|(outcome, count)| (vec![webhook.clone(), ("outcome", outcome.to_owned())], count))
        });
        vec![
            Family::counter(
                "mqtt_webhook_deliveries_total",
                "Messages for webhooks, by what became of them.",
            )
            .bounded(by_outcome),
            Family::counter("mqtt_webhook_retries_total", "Attempts of webhooks beyond the first.")
                .bounded(each(|figures| figures.retried)),
            Family::gauge("mqtt_webhook_queued", "Messages that wait for a webhook, or are being sent.")
                .bounded(each(|figures| figures.queued)),
        ]
    }

    /// Takes no more messages, gives those that wait so much time, and gives up the rest.
    pub async fn close(&self, wait: Duration) {
        self.0.shared.is_closed.store(true, Release);
        let lines = lock(&self.0.lines).clone();
        lines.iter().for_each(|line| line.close());
        let all_emptied = async {
            for line in lines.iter().filter(|line| line.current().hook.is_enabled()) {
                line.emptied().await;
            }
        };
        // What is left then is counted.
        let _ = tokio::time::timeout(wait, all_emptied).await;
        let given_up: u64 = lines.iter().map(|line| line.end()).sum();
        let all_ended = async {
            for line in &lines {
                line.emptied().await;
            }
        };
        let _ = tokio::time::timeout(ABORT_WAIT, all_ended).await;
        if given_up > 0 {
            warn!(messages = given_up, "the server stops before all webhooks were sent");
        }
    }

    /// Returns once nothing waits for a webhook, and all that it sent was answered or given up.
    #[cfg(test)]
    pub(super) async fn emptied(&self, id: &str) {
        self.line(id).expect("the webhook is there").emptied().await;
    }

    fn line(&self, id: &str) -> Result<Arc<Line>, WebhookError> {
        find(&lock(&self.0.lines), id)
    }

    fn check_open(&self) -> Result<(), WebhookError> {
        if self.0.shared.is_closed.load(Acquire) { Err(WebhookError::Closed) } else { Ok(()) }
    }
}

impl Shared {
    /// What webhooks draw from.
    fn draws(&self) -> Draws {
        Draws::new(self.seed.load(Relaxed)).of("webhook")
    }

    fn table(&self) -> Arc<HookTable> {
        Arc::clone(&lock(&self.table))
    }

    /// Makes `lines` what matchers see.
    fn publish(&self, lines: &[Arc<Line>]) {
        let mut table = HookTable::new();
        let mut is_active = false;
        for line in lines {
            let current = line.current();
            if current.hook.is_enabled() {
                is_active = true;
                table.insert(current.hook.filter(), HookRef(Arc::clone(line)));
            }
        }
        *lock(&self.table) = Arc::new(table);
        self.generation.fetch_add(1, Release);
        self.interest.set(Party::Webhooks, is_active);
    }

    fn next_id(&self, at: Timestamp) -> Ulid {
        let count = self.ids.fetch_add(1, Relaxed);
        let millis = u64::try_from(at.as_millisecond()).unwrap_or_default();
        Ulid::from_parts(millis, self.first_id + u128::from(count))
    }
}

fn find(lines: &[Arc<Line>], id: &str) -> Result<Arc<Line>, WebhookError> {
    let line = lines.iter().find(|line| line.id == id);
    line.map(Arc::clone).ok_or_else(|| WebhookError::NotFound(id.to_owned()))
}
