//! What all live clients of one replay share.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::{Notify, mpsc, watch};

use super::{Figures, OnMiss, Session};
use crate::{
    net::{
        MqttUrl,
        replay::{judge::Judge, remote::Remote},
    },
    packet::Connect,
    recording::{
        Event,
        player::{Line, Part, Parts, Prompt, Prompter, Ready, Said},
    },
    tap::{Tap, Way},
};

pub struct Stage {
    pub parts: Mutex<Parts>,
    pub prompter: Mutex<Prompter>,
    figures: Mutex<Figures>,
    clients: Mutex<HashMap<String, Known>>,
    /// Where each connection is told what is due.
    prompted: Mutex<HashMap<u64, mpsc::UnboundedSender<Prompt>>>,
    pub judge: Option<Arc<Judge>>,
    /// Its tap.
    pub tap: Tap,
    pub way: Arc<Way>,
    pub on_miss: OnMiss,
    /// Whether clients may do less than was recorded.
    may_be_left: bool,
    pub target: MqttUrl,
    /// Of the thread that keeps the time.
    pub remote: Arc<Remote>,
    /// Raised when everybody has to go.
    pub ending: watch::Sender<bool>,
    /// Connections.
    pub open: AtomicUsize,
    /// Connections that play a part that is not done yet.
    pub playing: AtomicUsize,
    incoming: AtomicUsize,
    moved_at: Mutex<Instant>,
}

/// A client that is connected, or has a session.
#[derive(Default)]
struct Known {
    connected: Option<Connected>,
    session: Option<Session>,
}

struct Connected {
    /// Ends the connection in favour of another.
    takeover: Arc<Notify>,
    /// Is closed when it is gone.
    gone: watch::Receiver<()>,
}

/// Whoever holds it is connected as its client; nobody else is.
pub struct Seat {
    pub takeover: Arc<Notify>,
    /// What is unfinished from the connection before.
    pub session: Option<Session>,
    client_identifier: String,
    _gone: watch::Sender<()>,
}

impl Stage {
    pub fn new(
        parts: Parts,
        prompter: Prompter,
        judge: Option<Arc<Judge>>,
        (way, on_miss, target): (Way, OnMiss, MqttUrl),
        may_be_left: bool,
        remote: Arc<Remote>,
    ) -> Self {
        Self {
            parts: Mutex::new(parts),
            prompter: Mutex::new(prompter),
            figures: Mutex::default(),
            clients: Mutex::default(),
            prompted: Mutex::default(),
            tap: judge.as_ref().map_or_else(Tap::new, |judge| judge.tap.clone()),
            judge,
            way: Arc::new(way),
            on_miss,
            may_be_left,
            target,
            remote,
            ending: watch::Sender::new(false),
            open: AtomicUsize::new(0),
            playing: AtomicUsize::new(0),
            incoming: AtomicUsize::new(0),
            moved_at: Mutex::new(Instant::now()),
        }
    }

    pub fn parts(&self) -> MutexGuard<'_, Parts> {
        lock(&self.parts)
    }

    pub fn prompter(&self) -> MutexGuard<'_, Prompter> {
        lock(&self.prompter)
    }

    pub fn figures(&self) -> MutexGuard<'_, Figures> {
        lock(&self.figures)
    }

    /// Whether somebody played every part, and none has anything to come.
    pub fn is_through(&self) -> bool {
        self.parts().is_empty() && self.playing.load(Relaxed) == 0
    }

    /// When something happened last that is more than staying connected.
    pub fn moved_at(&self) -> Instant {
        *lock(&self.moved_at)
    }

    pub fn moved(&self) {
        *lock(&self.moved_at) = Instant::now();
    }

    /// The same for what may belong to no part: once all are over, nobody waits for it.
    pub fn stirred(&self) {
        if !self.is_through() {
            self.moved();
        }
    }

    /// Bytes of packets that are not whole yet, of all clients, once one has `now` in place of `before`.
    pub fn count_incoming(&self, before: usize, now: usize) -> usize {
        if now >= before {
            self.incoming.fetch_add(now - before, Relaxed) + (now - before)
        } else {
            self.incoming.fetch_sub(before - now, Relaxed) - (before - now)
        }
    }

    /// Connects a client. One that is connected by its name is made to leave [MQTT-3.1.4-3].
    pub async fn seat(&self, connect: &Connect) -> Seat {
        let client = connect.client_identifier.as_str();
        loop {
            let gone = {
                let mut clients = lock(&self.clients);
                match clients.get(client).and_then(|known| known.connected.as_ref()) {
                    Some(connected) if !client.is_empty() => {
                        connected.takeover.notify_one();
                        connected.gone.clone()
                    }
                    _ => return sit(&mut clients, connect),
                }
            };
            let mut gone = gone;
            // Nothing is ever sent: it ends.
            let _ = gone.changed().await;
        }
    }

    /// Its holder is gone; its session is kept, if there is one.
    pub fn leave(&self, seat: &Seat, session: Option<Session>) {
        if seat.client_identifier.is_empty() {
            return;
        }
        if let Entry::Occupied(mut known) = lock(&self.clients).entry(seat.client_identifier.clone()) {
            known.get_mut().connected = None;
            known.get_mut().session = session;
            if known.get().session.is_none() {
                known.remove();
            }
        }
    }

    /// Has `connection` told what follows what its client did just now.
    pub fn follow(&self, connection: u64, lines: Vec<Line>) {
        if lines.is_empty() {
            return;
        }
        self.prompter().follow(connection, lines, Instant::now());
        self.remote.wake();
    }

    /// Where `connection` is told what is due.
    pub fn prompts(&self, connection: u64) -> mpsc::UnboundedReceiver<Prompt> {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.prompted).insert(connection, sender);
        receiver
    }

    /// Tells connections what is due; when to do so again, `None` until something happens.
    pub fn prompt(&self, now: Instant) -> Option<Instant> {
        // Locked throughout, so that nothing is on its way when a connection is forgotten.
        let mut prompter = self.prompter();
        loop {
            match prompter.poll(now) {
                Ready::Now(prompt) => {
                    let prompted = lock(&self.prompted);
                    if let Some(sender) = prompted.get(&prompt.connection) {
                        // It is there until it is forgotten.
                        let _ = sender.send(prompt);
                    }
                }
                Ready::At(at) => return Some(at),
                Ready::Never => return None,
            }
        }
    }

    /// `connection` is gone: what it was to be told in its order.
    pub fn forget(&self, connection: u64, mut prompts: mpsc::UnboundedReceiver<Prompt>) -> Vec<Said> {
        let mut prompter = self.prompter();
        lock(&self.prompted).remove(&connection);
        let told = std::iter::from_fn(|| prompts.try_recv().ok()).map(|prompt| prompt.what);
        let mut left: Vec<Said> = told.collect();
        left.extend(prompter.forget(connection));
        left
    }

    /// What was recorded of `part` up to where its client is, is expected.
    pub fn expect(&self, part: &mut Part) {
        if let Some(judge) = &self.judge {
            for event in part.told() {
                self.tell(judge, &event);
            }
        }
    }

    /// All that was recorded of `part` is expected.
    pub fn expect_rest(&self, part: &mut Part) {
        if let Some(judge) = &self.judge {
            while let Some(event) = part.next_event() {
                self.tell(judge, &event);
            }
        }
    }

    fn tell(&self, judge: &Judge, event: &Event) {
        match self.may_be_left {
            true => judge.allow(event),
            false => judge.expect(event),
        }
    }
}

fn sit(clients: &mut HashMap<String, Known>, connect: &Connect) -> Seat {
    let (gone, watch_gone) = watch::channel(());
    let takeover = Arc::new(Notify::new());
    let client_identifier = connect.client_identifier.as_str().to_owned();
    let mut session = None;
    if !client_identifier.is_empty() {
        let known = clients.entry(client_identifier.clone()).or_default();
        known.connected = Some(Connected { takeover: takeover.clone(), gone: watch_gone });
        session = known.session.take().filter(|_| !connect.clean_start);
    }
    Seat { takeover, session, client_identifier, _gone: gone }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
