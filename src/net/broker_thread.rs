//! The broker's own thread: the one place that owns a [`Broker`], and the connections it serves.
//!
//! Everything here runs on one single-threaded runtime, so a PUBLISH goes from `read` to every
//! subscriber's `write` without a lock, a channel or a task switch of its own. A connection's task
//! reads and hands packets to the broker; the outboxes that this filled are written by one flusher
//! task, which runs after all connections that were readable together, or earlier once much has
//! gathered: one write per receiver and round. Other threads send closures ([`BrokerHandle::run`]).

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    io::{self, IoSlice},
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::{LocalSet, spawn_blocking, spawn_local, yield_now},
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    admission::{Admission, Pass},
    chaos::ChaosWatch,
    connection::{Link, Serving},
    door::{Guest, Guests},
    listener::{Gate, accept},
    local_thread,
    persistence::{Persistence, Progress},
    refusal::turn_away,
    scratch::Scratch,
    transport::Transport,
};
use crate::{
    auth::{LoginQueue, PasswordCheck},
    broker::{Broker, BrokerEvent, Checked, Closing, Durability, Options, Output},
    interceptor::Interception,
    metrics::Metrics,
    packet::{Connect, ReasonCode},
    recording::CloseCause,
    session::{ConnectionId, Peer},
    tap::{Tap, Way},
    trace::Tracer,
};

/// Bytes read before outboxes are written, even if more connections are readable: bounds what
/// gathers in them.
const ROUND_BYTES: usize = 256 << 10;

/// Bytes beyond the limit for messages that may wait for a client before nothing more is read from
/// it: acks that it does not read.
const UNREAD_ACKS: usize = 512 << 10;

/// A connection that was not written to for so long gives its buffers back.
const QUIET: Duration = Duration::from_secs(5);

/// Slices given to one vectored write.
const WRITE_SLICES: usize = 64;

/// Closures that wait for the broker before the control plane has to.
const JOBS_WAITING: usize = 1024;

/// How long clients get to take what is still to be written when the broker stops.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

/// What the broker thread is given.
pub struct BrokerOptions {
    pub broker: Options,
    /// Who else is refused: CONNACK with a Reason Code (MQTT 5) or return code 3.
    pub admission: Arc<Admission>,
    /// Makes the client identifiers that the broker assigns, and the nonces of authentication.
    pub seed: u64,
    /// Clients that were accepted elsewhere.
    pub guests: Option<Guests>,
    /// Nobody is accepted before it is open.
    pub gate: Gate,
    pub tap: Tap,
    pub metrics: Arc<Metrics>,
    /// Who is asked about messages.
    pub interception: Interception,
    /// Who is told of messages that have a place in a trace.
    pub tracer: Option<Box<dyn Tracer>>,
    /// What happens to packets on their way.
    pub chaos: ChaosWatch,
    /// Where the broker's state is kept; needed with a durability other than none, and of no use without.
    pub persistence: Option<Persistence>,
    /// Told everything an operator may want to see, on the broker's thread: must not block.
    pub on_event: EventSink,
}

pub type EventSink = Box<dyn Fn(BrokerEvent) + Send>;

/// The broker has stopped, or the closure panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker has stopped")]
pub struct Stopped;

/// Sends work to the broker's thread. The broker stops when the last handle is dropped.
#[derive(Clone)]
pub struct BrokerHandle {
    jobs: mpsc::Sender<Job>,
    stop: CancellationToken,
    stopped: watch::Receiver<bool>,
    durable: watch::Receiver<u64>,
}

/// A [`BrokerHandle`] that does not keep the broker running.
#[derive(Clone)]
pub struct WeakBrokerHandle {
    jobs: mpsc::WeakSender<Job>,
    stop: CancellationToken,
    stopped: watch::Receiver<bool>,
    durable: watch::Receiver<u64>,
}

impl WeakBrokerHandle {
    /// `None` once the broker has stopped, or nobody else holds it.
    pub fn upgrade(&self) -> Option<BrokerHandle> {
        let Self { jobs, stop, stopped, durable } = self.clone();
        Some(BrokerHandle { jobs: jobs.upgrade()?, stop, stopped, durable })
    }
}

type Job = Box<dyn FnOnce(&mut Broker, Instant) + Send>;

impl BrokerHandle {
    /// Runs `f` on the broker's thread, between two packets, and returns what it returned.
    ///
    /// # Errors
    /// [`Stopped`] when the broker is shut down before `f` ran, or `f` panicked.
    pub async fn run<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Broker, Instant) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |broker, now| {
            let result = f(broker, now);
            // Who is answered finds in the journal what led to the answer.
            broker.settle_interception();
            // Whoever asked may have lost interest.
            let _ = answer.send(result);
        });
        self.jobs.send(job).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// As [`run`](Self::run), and waits until what `f` did is as durable as an answer to a client
    /// would have to be.
    ///
    /// # Errors
    /// As `run`.
    pub async fn run_lasting<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Broker, Instant) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let run = self.run(move |broker, now| {
            let result = f(broker, now);
            (result, broker.promised(now))
        });
        let (result, batch) = run.await?;
        if let Some(batch) = batch {
            let mut durable = self.durable.clone();
            durable.wait_for(|&durable| durable >= batch).await.map_err(|_| Stopped)?;
        }
        Ok(result)
    }

    pub fn downgrade(&self) -> WeakBrokerHandle {
        let Self { jobs, stop, stopped, durable } = self.clone();
        WeakBrokerHandle { jobs: jobs.downgrade(), stop, stopped, durable }
    }

    /// Disconnects every client with Server shutting down, writes what is left for a bounded time
    /// and returns when the thread has nothing more to do.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        self.stopped().await;
    }

    /// Returns once the broker has stopped, for whatever reason.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // An error means that the thread is gone without having said so.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Starts the broker's thread, which serves `listeners`.
///
/// # Errors
/// When the system refuses a thread, or an event queue for it.
pub fn spawn_broker(listeners: Vec<TcpListener>, options: BrokerOptions) -> io::Result<BrokerHandle> {
    let (jobs, waiting_jobs) = mpsc::channel(JOBS_WAITING);
    let stop = CancellationToken::new();
    let (stopped, watch_stopped) = watch::channel(false);
    let token = stop.clone();
    let (progress, durable) = watch::channel(0);
    local_thread::start("broker".to_owned(), listeners, move |runtime, listeners| {
        LocalSet::new().block_on(&runtime, serve(listeners, options, waiting_jobs, token, progress));
        // Nobody may be waiting for it.
        let _ = stopped.send(true);
    })?;
    Ok(BrokerHandle { jobs, stop, stopped: watch_stopped, durable })
}

async fn serve(
    listeners: Vec<tokio::net::TcpListener>,
    mut options: BrokerOptions,
    jobs: mpsc::Receiver<Job>,
    stop: CancellationToken,
    durable: watch::Sender<u64>,
) {
    let guests = options.guests.take();
    let shell = Shell::start(options, durable);
    let mut accepting: Vec<_> =
        listeners.into_iter().map(|listener| spawn_local(Rc::clone(&shell).accept_from(listener))).collect();
    accepting.extend(guests.map(|guests| spawn_local(Rc::clone(&shell).receive(guests))));
    tokio::select! {
        () = stop.cancelled() => {}
        () = shell.run_jobs(jobs) => {}
        // Without an acknowledgement for anybody, a broker is better not there.
        () = shell.progress.lost.notified() => {}
    }
    for task in accepting {
        task.abort();
    }
    let now = shell.now();
    shell.broker.borrow_mut().shut_down(now);
    shell.settle();
    // Whoever has not taken the rest by then loses it.
    let _ = timeout(SHUTDOWN_WAIT, shell.until_empty()).await;
    if !shell.until_persisted().await {
        error!("the disk did not take the last changes of the broker's state: they are lost");
    }
}

/// A client whose password is to be checked.
struct Login {
    connection: ConnectionId,
    check: PasswordCheck,
}

/// What the tasks of the broker's thread share.
pub(super) struct Shell {
    pub(super) broker: RefCell<Broker>,
    links: RefCell<HashMap<ConnectionId, Rc<Link>, foldhash::fast::RandomState>>,
    /// Connections whose outbox is to be written in this round.
    dirty: RefCell<Vec<Rc<Link>>>,
    /// Bytes read since the last round.
    unflushed: Cell<usize>,
    flusher: RefCell<Option<Waker>>,
    /// What connections are read into; shared by all, so idle ones need none.
    pub(super) scratch: RefCell<Scratch>,
    /// What the timer sleeps until.
    armed: Cell<Option<Instant>>,
    timer: Notify,
    /// Something was written after a while.
    has_written: Notify,
    emptied: Notify,
    /// Clients whose passwords are still to be checked.
    logins: RefCell<LoginQueue<Login>>,
    has_login: Notify,
    /// Whether one is being checked.
    is_checking: Cell<bool>,
    pub(super) progress: Progress,
    /// Whether what is promised to clients may have to wait for a disk.
    pub(super) keeps_state: bool,
    admission: Arc<Admission>,
    gate: Gate,
    pub(super) tap: Tap,
    pub(super) chaos: ChaosWatch,
    pub(super) metrics: Arc<Metrics>,
    on_event: EventSink,
}

impl Shell {
    /// With the tasks that every connection needs.
    pub(super) fn start(mut options: BrokerOptions, durable: watch::Sender<u64>) -> Rc<Self> {
        let (durability, persistence) = (options.broker.durability, options.persistence.take());
        let shell = Rc::new(Self::new(options, durable));
        if let Some(Persistence { restored, commit }) = persistence {
            let now = shell.now();
            shell.broker.borrow_mut().restore(now, restored);
            spawn_local(Rc::clone(&shell).persist(durability, commit));
            shell.settle();
        }
        spawn_local(Rc::clone(&shell).flush_rounds());
        spawn_local(Rc::clone(&shell).keep_time());
        spawn_local(Rc::clone(&shell).release_buffers());
        spawn_local(Rc::clone(&shell).watch_chaos());
        spawn_local(Rc::clone(&shell).check_passwords());
        shell
    }

    fn new(options: BrokerOptions, durable: watch::Sender<u64>) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let keeps_state = options.broker.durability != Durability::None;
        let mut broker = Broker::new(now, options.broker, options.seed);
        broker.set_interception(options.interception);
        broker.set_tracer(options.tracer);
        Self {
            broker: RefCell::new(broker),
            links: RefCell::default(),
            dirty: RefCell::default(),
            unflushed: Cell::new(0),
            flusher: RefCell::default(),
            scratch: RefCell::default(),
            armed: Cell::new(None),
            timer: Notify::new(),
            has_written: Notify::new(),
            emptied: Notify::new(),
            logins: RefCell::default(),
            has_login: Notify::new(),
            is_checking: Cell::new(false),
            progress: Progress::new(durable),
            keeps_state,
            admission: options.admission,
            gate: options.gate,
            tap: options.tap,
            chaos: options.chaos,
            metrics: options.metrics,
            on_event: options.on_event,
        }
    }

    /// The runtime's clock, so that a paused one is followed.
    pub(super) fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    async fn run_jobs(&self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            let now = self.now();
            // A closure that panics is its sender's failure, not the clients'.
            if catch_unwind(AssertUnwindSafe(|| job(&mut self.broker.borrow_mut(), now))).is_err() {
                error!("a request to the broker panicked");
            }
            self.settle();
        }
    }

    async fn accept_from(self: Rc<Self>, listener: tokio::net::TcpListener) {
        let way = Arc::new(Way { listener: listener.local_addr().ok(), transport: "tcp", upstream: None });
        self.gate.opened().await;
        loop {
            let (stream, peer) = accept(&listener).await;
            match self.admission.admit(peer) {
                Ok(pass) => self.open(stream.into(), peer, Arc::clone(&way), pass),
                Err(refused) => turn_away(&self.metrics, stream, peer, refused),
            }
        }
    }

    /// Serves clients that come through the door.
    async fn receive(self: Rc<Self>, mut guests: Guests) {
        while let Some(guest) = guests.recv().await {
            let Guest { socket, peer, way, identity, accepted_at, pass } = guest;
            match socket.into_transport() {
                Ok(transport) => self.open_as(transport, peer, identity, accepted_at, way, pass),
                Err(error) => warn!(%peer, %error, "cannot serve a connection"),
            }
        }
    }

    /// A pass for a connection that was made in memory.
    #[cfg(test)]
    pub(super) fn admit(&self, peer: SocketAddr) -> Pass {
        self.admission.admit(peer).ok().expect("there is room")
    }

    /// Serves a connection that was admitted.
    pub(super) fn open(self: &Rc<Self>, transport: Transport, peer: SocketAddr, way: Arc<Way>, pass: Pass) {
        self.open_as(transport, peer, None, self.now(), way, pass);
    }

    /// The same of a client whose certificate says who it is.
    fn open_as(
        self: &Rc<Self>,
        transport: Transport,
        peer: SocketAddr,
        identity: Option<Box<str>>,
        accepted_at: Instant,
        way: Arc<Way>,
        pass: Pass,
    ) {
        let now = self.now();
        let id = self.tap.open_next(now, Some(peer), way);
        self.metrics.connection_opened();
        let peer = Peer { address: Some(peer), transport: transport.name(), identity };
        self.broker.borrow_mut().handle_open(accepted_at, id, peer);
        let (read, write) = transport.split();
        let link = Rc::new(Link::new(id, write));
        self.links.borrow_mut().insert(id, Rc::clone(&link));
        spawn_local(Serving::new(Rc::clone(self), link, read, pass));
        self.settle();
    }

    /// Forgets a connection that has ended. Called by its task, last.
    pub(super) fn close(&self, id: ConnectionId, cause: CloseCause) {
        let now = self.now();
        self.links.borrow_mut().remove(&id);
        self.tap.close(now, id, cause);
        self.metrics.connection_closed();
        if self.links.borrow().is_empty() {
            self.emptied.notify_one();
        }
    }

    async fn until_empty(&self) {
        while !self.links.borrow().is_empty() {
            self.emptied.notified().await;
        }
    }

    /// `bytes` were read and handed to the broker.
    pub(super) fn has_read(&self, bytes: usize) {
        self.broker.borrow_mut().count_bytes(bytes, 0);
        self.settle();
        self.unflushed.set(self.unflushed.get() + bytes);
        if self.unflushed.get() >= ROUND_BYTES {
            self.flush_all();
        }
    }

    /// Does what the broker asks for, in order, after anything was done to it.
    pub(super) fn settle(&self) {
        let mut broker = self.broker.borrow_mut();
        broker.settle_interception();
        while let Some(output) = broker.poll_output() {
            match output {
                Output::Flush(id) => self.make_dirty(id),
                Output::Close(id, closing) => self.start_closing(id, closing),
                Output::Check { connection, address, check } => {
                    let login = Login { connection, check };
                    match self.logins.borrow_mut().push(address, login) {
                        None => self.has_login.notify_one(),
                        Some(Login { connection, .. }) => {
                            broker.handle_checked(self.now(), connection, Checked::NotDone);
                        }
                    }
                }
                Output::Persist { is_awaited } => self.progress.note(is_awaited),
                Output::Emit(event) => (self.on_event)(event),
            }
        }
        if let Some(next) = broker.next_timeout()
            && self.armed.get().is_none_or(|armed| next < armed)
        {
            self.timer.notify_one();
        }
    }

    fn make_dirty(&self, id: ConnectionId) {
        if let Some(link) = self.links.borrow().get(&id)
            && link.make_dirty()
        {
            let mut dirty = self.dirty.borrow_mut();
            dirty.push(Rc::clone(link));
            if dirty.len() == 1
                && let Some(flusher) = &*self.flusher.borrow()
            {
                flusher.wake_by_ref();
            }
        }
    }

    fn start_closing(&self, id: ConnectionId, closing: Closing) {
        if let Some(link) = self.links.borrow().get(&id) {
            link.end(match closing {
                Closing::ClientDisconnected => CloseCause::ClientFin,
                Closing::Refused(ReasonCode::KEEP_ALIVE_TIMEOUT) => CloseCause::Timeout,
                Closing::Refused(_) => CloseCause::ServerFin,
            });
        }
    }

    /// Writes outboxes, once for everything that became ready together.
    async fn flush_rounds(self: Rc<Self>) {
        poll_fn(|context| {
            {
                let mut flusher = self.flusher.borrow_mut();
                if !flusher.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    *flusher = Some(context.waker().clone());
                }
            }
            self.flush_all();
            Poll::<()>::Pending
        })
        .await;
    }

    fn flush_all(&self) {
        self.unflushed.set(0);
        // Writing makes room for messages that waited, and so more to write: until all is written
        // or blocked.
        loop {
            let round = std::mem::take(&mut *self.dirty.borrow_mut());
            if round.is_empty() {
                return;
            }
            for link in round {
                link.leave_round();
                if link.lacks_line(self) {
                    // Its task puts the line in, and writes.
                    link.wake();
                    continue;
                }
                if catch_unwind(AssertUnwindSafe(|| self.flush(&link))).is_err() {
                    error!(connection = %link.id, "writing to a connection panicked");
                    link.end(CloseCause::ServerRst);
                }
            }
        }
    }

    /// Writes what the outbox of `link` holds, as far as the kernel takes it.
    pub(super) fn flush(&self, link: &Link) {
        let (mut written, mut is_gone) = (0, false);
        let now = self.now();
        let mut broker = self.broker.borrow_mut();
        {
            let Some(outbox) = broker.outbox(link.id) else { return };
            while outbox.writable() > 0 {
                let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
                let filled = outbox.chunks(&mut slices);
                match link.write(&slices[..filled]) {
                    Ok(count) => {
                        let is_emptied = count == outbox.len();
                        link.has_written(&self.tap, now, &slices[..filled], count, is_emptied);
                        outbox.advance(count);
                        written += count;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        link.wait_for_room();
                        break;
                    }
                    Err(_) => {
                        // The peer is gone; what it sent before is still read, to its end. Messages
                        // that waited go on waiting: they were never sent.
                        outbox.advance(outbox.len());
                        is_gone = true;
                    }
                }
            }
        }
        if link.note_busy() {
            self.has_written.notify_one();
        }
        if written > 0 {
            self.metrics.sent(written as u64);
            broker.count_bytes(0, written);
        }
        if written > 0 && !is_gone {
            broker.handle_flushed(now, link.id);
        }
        link.go_on();
        drop(broker);
        self.settle();
    }

    pub(super) fn has_unwritten(&self, id: ConnectionId) -> bool {
        self.broker.borrow_mut().outbox(id).is_some_and(|outbox| !outbox.is_empty())
    }

    /// Whether something waits for `id` until what it promises is durable.
    pub(super) fn holds_back(&self, id: ConnectionId) -> bool {
        self.broker.borrow_mut().outbox(id).is_some_and(|outbox| outbox.writable() < outbox.len())
    }

    /// Whether more waits for `id` than messages alone may make it: a client that doesn't read its
    /// acks.
    pub(super) fn owes_too_much(&self, id: ConnectionId) -> bool {
        let mut broker = self.broker.borrow_mut();
        let limit = broker.limits().outbox_bytes + UNREAD_ACKS;
        broker.outbox(id).is_some_and(|outbox| outbox.len() > limit)
    }

    /// Wakes at the broker's next deadline.
    async fn keep_time(self: Rc<Self>) {
        loop {
            let next = self.broker.borrow().next_timeout();
            self.armed.set(next);
            match next {
                None => self.timer.notified().await,
                Some(deadline) => {
                    tokio::select! {
                        () = sleep_until(deadline.into()) => {}
                        () = self.timer.notified() => continue,
                    }
                    let turn = || self.broker.borrow_mut().handle_timeout(self.now());
                    if catch_unwind(AssertUnwindSafe(turn)).is_err() {
                        error!("a timer of the broker panicked");
                    }
                    self.settle();
                    // More may be due at once.
                    yield_now().await;
                }
            }
        }
    }

    /// Has passwords checked one after the other, on a thread of its own: however many clients guess, this
    /// costs one core at most, and none of the broker's time.
    async fn check_passwords(self: Rc<Self>) {
        loop {
            let login = self.logins.borrow_mut().pop();
            let Some(Login { connection: id, check }) = login else {
                self.has_login.notified().await;
                continue;
            };
            // The client may be gone.
            if !self.broker.borrow_mut().is_checking(id) {
                continue;
            }
            self.is_checking.set(true);
            let checked = match spawn_blocking(move || check.run()).await {
                Ok(true) => Checked::Right,
                Ok(false) => Checked::Wrong,
                Err(error) => {
                    error!(connection = %id, %error, "checking a password failed");
                    Checked::NotDone
                }
            };
            let now = self.now();
            let tell = || self.broker.borrow_mut().handle_checked(now, id, checked);
            if catch_unwind(AssertUnwindSafe(tell)).is_err() {
                error!(connection = %id, "letting a client in panicked");
            }
            self.settle();
            self.is_checking.set(false);
            if !self.broker.borrow_mut().is_checking(id)
                && let Some(link) = self.links.borrow().get(&id)
            {
                link.release();
            }
        }
    }

    /// Whether nobody's password is waiting to be checked.
    #[cfg(test)]
    pub(super) fn has_checked_all(&self) -> bool {
        !self.is_checking.get() && self.logins.borrow().is_empty()
    }

    /// Has connections that are idle notice that there is chaos.
    async fn watch_chaos(self: Rc<Self>) {
        let mut watch = self.chaos.clone();
        loop {
            watch.changed().await;
            if watch.is_on() {
                for link in self.links.borrow().values() {
                    link.wake();
                }
            }
        }
    }

    /// Forgets the Session of the client that sent `connect`.
    pub(super) fn lose_session(&self, connect: &Bytes) {
        if let Some(connect) = Connect::read(connect) {
            let client_identifier = connect.client_identifier.as_str();
            self.broker.borrow_mut().discard_session(self.now(), client_identifier);
            self.settle();
        }
    }

    /// Gives back the buffers of connections that have been quiet, as long as any was not.
    async fn release_buffers(self: Rc<Self>) {
        loop {
            self.has_written.notified().await;
            loop {
                sleep(QUIET).await;
                let mut is_any_busy = false;
                let mut broker = self.broker.borrow_mut();
                for link in self.links.borrow().values() {
                    if link.was_busy() {
                        is_any_busy = true;
                    } else if let Some(outbox) = broker.outbox(link.id) {
                        outbox.shrink();
                    }
                }
                if !is_any_busy {
                    break;
                }
            }
        }
    }
}
