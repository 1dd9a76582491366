//! The messages that wait for one webhook, and the task that sends them.
//!
//! MQTT's threads do no more than put messages into the queue. The task looks at their `when`, renders them, sends so many
//! at the same time as the webhook says, and keeps the log.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use ulid::Ulid;

use super::{
    Shared, WebhookFigures, WebhookView,
    http::{SecureClient, trusting},
};
use crate::{
    field::BadField,
    mock::{ReadFile, Renderer, Surroundings},
    webhook::{
        BadRequest, DeliveryLog, DeliveryState, Draft, LOGGED_MAX, Rendering, RoutedMessage, Verdict,
        Webhook, WebhookDelivery, WebhookEvent, WebhookSpec, judge, masked_url, retry_wait,
    },
};

/// Messages of which `when` is looked at before others get their turn on the runtime's thread.
const SIEVED_AT_ONCE: usize = 64;

/// One webhook with what waits for it.
pub(super) struct Line {
    pub id: String,
    pub from_settings: bool,
    current: watch::Sender<Arc<Current>>,
    queue: Mutex<Queue>,
    /// Of messages that wait or are being sent, at most.
    queue_bytes: usize,
    /// There is something to send, or it is to be sent in another way.
    has_changed: Notify,
    /// Nothing waits any more.
    is_empty: Notify,
    log: Mutex<DeliveryLog>,
    renderer: Mutex<Renderer>,
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    retried: AtomicU64,
    last_error: Mutex<String>,
    /// The last attempt failed.
    is_failing: AtomicBool,
    ended: CancellationToken,
}

/// What a webhook is now.
pub(super) struct Current {
    pub hook: Webhook,
    /// For authorities of its own.
    secure: Option<SecureClient>,
}

#[derive(Default)]
struct Queue {
    /// Of which `when` was not looked at yet.
    fresh: VecDeque<Job>,
    waiting: VecDeque<Job>,
    sending: usize,
    /// Messages in both, at most.
    limit: usize,
    /// Of messages in both, and of those being sent.
    bytes: usize,
    /// Messages that all of `when` but `nth` held of, since the webhook last changed.
    held: u64,
    /// Messages that got past `when`.
    count: u64,
    is_closed: bool,
    /// Something was dropped since the queue was last empty.
    is_dropping: bool,
}

struct Job {
    id: Ulid,
    message: Arc<RoutedMessage>,
    queued_at: Timestamp,
    /// Of a delivery that is sent again.
    body: Option<Bytes>,
    /// Of the messages of this webhook.
    count: u64,
}

impl Current {
    /// # Errors
    /// All that is wrong with `spec`.
    pub fn new(spec: WebhookSpec, read_file: ReadFile<'_>) -> Result<Arc<Self>, Vec<BadField>> {
        let hook = Webhook::new(spec, read_file)?;
        let secure = hook.authorities().map(trusting);
        Ok(Arc::new(Self { hook, secure }))
    }
}

impl Line {
    /// Starts the task that sends.
    pub fn start(shared: &Arc<Shared>, current: Arc<Current>, from_settings: bool) -> Arc<Self> {
        let spec = current.hook.spec();
        let line = Arc::new(Self {
            id: spec.id.clone(),
            from_settings,
            queue: Mutex::new(Queue { limit: spec.queue as usize, ..Queue::default() }),
            queue_bytes: shared.queue_bytes,
            current: watch::Sender::new(current),
            has_changed: Notify::new(),
            is_empty: Notify::new(),
            log: Mutex::default(),
            renderer: Mutex::new(
                Renderer::new(shared.environment.clone()).limit_steps(shared.template_steps),
            ),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            last_error: Mutex::default(),
            is_failing: AtomicBool::new(false),
            ended: shared.ended.child_token(),
        });
        shared.runtime.spawn(serve(Arc::clone(shared), Arc::clone(&line)));
        line
    }

    pub fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.borrow())
    }

    /// What waits is sent as the webhook is from now on; `nth` counts anew.
    pub fn change(&self, current: Arc<Current>) {
        {
            let mut queue = lock(&self.queue);
            queue.limit = current.hook.spec().queue as usize;
            queue.held = 0;
        }
        self.current.send_replace(current);
        self.has_changed.notify_one();
    }

    /// Whether there was room for the message.
    pub fn offer(&self, id: Ulid, message: Arc<RoutedMessage>) -> bool {
        let job = Job { id, queued_at: message.at, message, body: None, count: 0 };
        self.push(job, |queue, job| queue.fresh.push_back(job))
    }

    /// Whether there was room for it.
    pub fn offer_again(
        &self,
        id: Ulid,
        message: Arc<RoutedMessage>,
        body: Option<Bytes>,
    ) -> Option<WebhookDelivery> {
        let job = Job { id, queued_at: Timestamp::now(), message, body, count: 0 };
        let delivery = self.pending(&job);
        // It got past `when` before.
        self.push(job, Queue::pass).then_some(delivery)
    }

    fn push(&self, job: Job, place: impl FnOnce(&mut Queue, Job)) -> bool {
        let mut queue = lock(&self.queue);
        let bytes = queue.bytes + job.message.size();
        if queue.is_closed || queue.len() >= queue.limit || bytes > self.queue_bytes {
            let is_first = !std::mem::replace(&mut queue.is_dropping, true) && !queue.is_closed;
            drop(queue);
            self.dropped.fetch_add(1, Relaxed);
            if is_first {
                warn!(webhook = self.id, "the queue of a webhook is full, messages are dropped");
            }
            return false;
        }
        queue.bytes = bytes;
        place(&mut queue, job);
        drop(queue);
        self.has_changed.notify_one();
        true
    }

    /// Looks at `when` of some messages that came in. Returns whether there are more.
    fn sieve(&self, shared: &Shared) -> bool {
        // They stay in the queue meanwhile: there they are counted, and whoever ends it finds them.
        let messages: Vec<_> = {
            let queue = lock(&self.queue);
            queue.fresh.iter().take(SIEVED_AT_ONCE).map(|job| Arc::clone(&job.message)).collect()
        };
        let current = self.current();
        let held: Vec<bool> =
            messages.iter().map(|message| current.hook.holds(message, &shared.state)).collect();
        let mut queue = lock(&self.queue);
        for holds in held {
            // None once the queue was ended, which nothing is put into any more.
            let Some(job) = queue.fresh.pop_front() else { break };
            queue.held += u64::from(holds);
            if holds && current.hook.is_turn(queue.held) {
                queue.pass(job);
            } else {
                queue.bytes -= job.message.size();
            }
        }
        self.tell_if_empty(&mut queue);
        !queue.fresh.is_empty()
    }

    /// The next message to be sent, if one may be sent now. Its delivery is in the log before it is out of the queue.
    fn next(&self, concurrency: usize) -> Option<Job> {
        let mut queue = lock(&self.queue);
        if queue.sending >= concurrency {
            return None;
        }
        let job = queue.waiting.pop_front()?;
        queue.sending += 1;
        lock(&self.log).put(self.pending(&job), &job.message);
        Some(job)
    }

    fn is_sent(&self, bytes: usize) {
        let mut queue = lock(&self.queue);
        queue.sending -= 1;
        queue.bytes -= bytes;
        self.tell_if_empty(&mut queue);
    }

    fn tell_if_empty(&self, queue: &mut Queue) {
        if queue.len() + queue.sending == 0 {
            queue.is_dropping = false;
            self.is_empty.notify_waiters();
        }
    }

    /// Takes no more messages.
    pub fn close(&self) {
        lock(&self.queue).is_closed = true;
    }

    /// Returns once all that waited was sent or given up. Never while the webhook is disabled and something waits.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.is_empty.notified();
            let mut emptied = std::pin::pin!(emptied);
            emptied.as_mut().enable();
            if self.queued() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Ends the task and gives up what waits, at once, and what is being sent, as soon as that notices. Returns how many
    /// messages these were.
    pub fn end(&self) -> u64 {
        self.ended.cancel();
        let mut queue = lock(&self.queue);
        queue.is_closed = true;
        let (fresh, waiting) = (std::mem::take(&mut queue.fresh), std::mem::take(&mut queue.waiting));
        queue.bytes -= fresh.iter().chain(&waiting).map(|job| job.message.size()).sum::<usize>();
        let count = (fresh.len() + waiting.len()) as u64;
        self.failed.fetch_add(count, Relaxed);
        self.tell_if_empty(&mut queue);
        count + queue.sending as u64
    }

    /// Newest first.
    pub fn deliveries(&self) -> Vec<WebhookDelivery> {
        let queue = lock(&self.queue);
        let newest_waiting = queue.fresh.iter().rev().chain(queue.waiting.iter().rev()).take(LOGGED_MAX);
        let mut deliveries: Vec<_> = newest_waiting.map(|job| self.pending(job)).collect();
        deliveries.extend(lock(&self.log).iter().cloned());
        drop(queue);
        // Stable, and mostly sorted already: what is sent again stands out of its place.
        deliveries.sort_by_key(|delivery| std::cmp::Reverse(delivery.id));
        deliveries.truncate(LOGGED_MAX);
        deliveries
    }

    pub fn log(&self) -> MutexGuard<'_, DeliveryLog> {
        lock(&self.log)
    }

    fn queued(&self) -> usize {
        let queue = lock(&self.queue);
        queue.len() + queue.sending
    }

    fn pending(&self, job: &Job) -> WebhookDelivery {
        WebhookDelivery::pending(job.id, &self.id, &job.message.occasion.topic, job.queued_at)
    }

    pub fn view(&self) -> WebhookView {
        let mut spec = self.current().hook.spec().masked();
        let has_secret = spec.secret.take().is_some();
        let WebhookFigures { delivered, failed, dropped, retried, queued } = self.figures();
        WebhookView {
            spec,
            has_secret,
            from_settings: self.from_settings,
            delivered,
            failed,
            dropped,
            retried,
            queued,
            last_error: lock(&self.last_error).clone(),
        }
    }

    pub fn figures(&self) -> WebhookFigures {
        WebhookFigures {
            delivered: self.delivered.load(Relaxed),
            failed: self.failed.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            retried: self.retried.load(Relaxed),
            queued: self.queued() as u64,
        }
    }

    /// Sends one request, whatever `when` says, and tells how it went; it counts in no figure.
    pub async fn test(&self, shared: &Shared, message: RoutedMessage) -> WebhookDelivery {
        let message = Arc::new(message);
        let id = shared.next_id(Timestamp::now());
        let job = Job { id, message, queued_at: Timestamp::now(), body: None, count: 1 };
        let mut delivery = self.pending(&job);
        let current = self.current();
        let verdict = match self.draft(shared, &current, &job) {
            Ok(draft) => self.attempt(shared, &current, &draft, &mut delivery).await,
            Err(error) => Verdict::GiveUp(error.to_string()),
        };
        match verdict {
            Verdict::Delivered => self.put_ended(&mut delivery, &job, DeliveryState::Delivered),
            Verdict::Retry { why, .. } | Verdict::GiveUp(why) => {
                delivery.error = why;
                self.put_ended(&mut delivery, &job, DeliveryState::Failed);
            }
        }
        delivery
    }

    fn draft(&self, shared: &Shared, current: &Current, job: &Job) -> Result<Draft, BadRequest> {
        let around = Surroundings {
            draws: shared.draws().of(&self.id).nth(job.count),
            now: Timestamp::now(),
            state: Arc::clone(&shared.state),
        };
        let rendering = Rendering { renderer: &mut lock(&self.renderer), around, count: job.count };
        current.hook.draft(&job.message, job.body.clone(), rendering)
    }

    /// One request; what came of it is written into `delivery`.
    async fn attempt(
        &self,
        shared: &Shared,
        current: &Current,
        draft: &Draft,
        delivery: &mut WebhookDelivery,
    ) -> Verdict {
        delivery.attempts += 1;
        delivery.url = masked_url(&draft.url.to_string());
        delivery.set_request_body(&draft.body);
        let seconds = Timestamp::now().as_second();
        let request = draft.attempt(&current.hook, &delivery.id.to_string(), delivery.attempts, seconds);
        let started = Instant::now();
        let answer = shared.http.send(request, current.secure.as_ref(), current.hook.timeout()).await;
        delivery.duration = Some(started.elapsed());
        let verdict = match answer {
            Ok(answer) => {
                delivery.status = Some(answer.status.as_u16());
                delivery.response_body = answer.beginning;
                judge(answer.status, &answer.headers)
            }
            Err(why) => {
                delivery.status = None;
                delivery.response_body = Bytes::new();
                Verdict::Retry { why, after: None }
            }
        };
        delivery.error = match &verdict {
            Verdict::Delivered => String::new(),
            Verdict::Retry { why, .. } | Verdict::GiveUp(why) => why.clone(),
        };
        verdict
    }

    fn put_ended(&self, delivery: &mut WebhookDelivery, job: &Job, state: DeliveryState) {
        delivery.state = state;
        delivery.ended_at = Some(Timestamp::now());
        lock(&self.log).put(delivery.clone(), &job.message);
    }

    fn succeeded(&self, mut delivery: WebhookDelivery, job: &Job) {
        self.put_ended(&mut delivery, job, DeliveryState::Delivered);
        self.delivered.fetch_add(1, Relaxed);
        if self.is_failing.swap(false, AcqRel) {
            info!(webhook = self.id, "a webhook delivers again");
        }
    }

    /// An attempt failed. Told once, until one succeeds.
    fn note_failure(&self, why: &str) {
        why.clone_into(&mut lock(&self.last_error));
        if !self.is_failing.swap(true, AcqRel) {
            warn!(webhook = self.id, error = why, "a webhook fails");
        }
    }

    fn give_up(&self, shared: &Shared, mut delivery: WebhookDelivery, job: &Job) {
        self.put_ended(&mut delivery, job, DeliveryState::Failed);
        self.failed.fetch_add(1, Relaxed);
        (shared.on_event)(WebhookEvent {
            webhook: self.id.clone(),
            delivery: delivery.id.to_string(),
            topic: delivery.topic,
            attempts: delivery.attempts,
            error: delivery.error,
        });
    }
}

impl Queue {
    fn len(&self) -> usize {
        self.fresh.len() + self.waiting.len()
    }

    fn pass(&mut self, mut job: Job) {
        self.count += 1;
        job.count = self.count;
        self.waiting.push_back(job);
    }
}

async fn serve(shared: Arc<Shared>, line: Arc<Line>) {
    let mut sending = JoinSet::new();
    loop {
        let has_more = line.sieve(&shared);
        let current = line.current();
        // What waits for a disabled one waits until it is enabled.
        while current.hook.is_enabled()
            && let Some(job) = line.next(current.hook.spec().concurrency as usize)
        {
            // Made here, as a task that is aborted early never begins.
            let place = Place { line: Arc::clone(&line), bytes: job.message.size(), is_ended: false };
            sending.spawn(send(Arc::clone(&shared), place, job));
        }
        tokio::select! {
            () = line.ended.cancelled() => return,
            () = tokio::task::yield_now(), if has_more => {}
            () = line.has_changed.notified(), if !has_more => {}
            Some(sent) = sending.join_next(), if !sending.is_empty() => {
                if let Err(broken) = sent {
                    error!(webhook = line.id, error = %broken, "sending a message to a webhook panicked");
                }
            }
        }
    }
}

async fn send(shared: Arc<Shared>, mut place: Place, job: Job) {
    deliver(&shared, &place.line, &job).await;
    place.is_ended = true;
}

/// Tries until the message is delivered, or given up.
async fn deliver(shared: &Shared, line: &Line, job: &Job) {
    let mut delivery = line.pending(job);
    let mut jitter = shared.draws().of("backoff").of(&line.id).nth(job.count);
    let mut drafted: Option<(Arc<Current>, Draft)> = None;
    let mut changes = line.current.subscribe();
    loop {
        // One that was disabled meanwhile goes on once it is enabled.
        let enabled = changes.wait_for(|current| current.hook.is_enabled()).await;
        let current = Arc::clone(&enabled.expect("the line has the sender"));
        // The same for every attempt, unless the webhook has changed since.
        let is_same = drafted.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, &current));
        if !is_same {
            match line.draft(shared, &current, job) {
                Ok(draft) => drafted = Some((Arc::clone(&current), draft)),
                Err(error) => {
                    delivery.error = error.to_string();
                    line.note_failure(&delivery.error);
                    return line.give_up(shared, delivery, job);
                }
            }
        }
        let (_, draft) = drafted.as_ref().expect("made just above, at the latest");
        let wait = match line.attempt(shared, &current, draft, &mut delivery).await {
            Verdict::Delivered => return line.succeeded(delivery, job),
            Verdict::Retry { why, after } if delivery.attempts <= current.hook.spec().retries => {
                line.note_failure(&why);
                retry_wait(&current.hook, delivery.attempts, after, &mut jitter)
            }
            Verdict::Retry { why, .. } | Verdict::GiveUp(why) => {
                line.note_failure(&why);
                return line.give_up(shared, delivery, job);
            }
        };
        lock(&line.log).put(delivery.clone(), &job.message);
        line.retried.fetch_add(1, Relaxed);
        sleep(wait).await;
    }
}

/// A message's room in the queue, given back however its sending ends; if that was before its time, the message failed.
struct Place {
    line: Arc<Line>,
    bytes: usize,
    is_ended: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_ended {
            self.line.failed.fetch_add(1, Relaxed);
        }
        self.line.is_sent(self.bytes);
    }
}

/// Nothing that is done under these locks leaves half a change behind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
