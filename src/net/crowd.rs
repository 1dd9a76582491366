//! The clients of a scenario: many connections to one broker, and what they receive in one inbox.
//!
//! A client has a task of its own, which reads, connects again where that is asked for, and leaves when it is told to. What a
//! client and the broker have not finished when a connection ends is for its next one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    sync::{Notify, Semaphore, futures::Notified, mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use super::{
    client::{Client, ClientError, ClientOptions, ClientSession, Publisher},
    url::MqttUrl,
};
use crate::{
    packet::{Properties, ProtocolVersion, Publish, ReasonCode},
    scenario::{DisconnectMode, Inbox, Introduction, Received},
};

/// Handshakes at the same time: as many as a listener's backlog has room for on any system.
const CONNECTING_MAX: usize = 100;

/// For one attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One of the clients, as it connects.
pub struct MemberOptions {
    /// As texts call it.
    pub name: String,
    pub introduction: Introduction,
    pub protocol: ProtocolVersion,
    pub clean_start: bool,
    pub keep_alive: u16,
    pub reconnect: Option<Duration>,
}

/// The clients; clones share them. They stay connected until they are told to leave.
#[derive(Clone)]
pub struct Crowd {
    shared: Arc<Shared>,
}

struct Shared {
    url: MqttUrl,
    members: Vec<Member>,
    inbox: Mutex<Inbox>,
    /// A message came.
    arrived: Notify,
    /// A connection came or went.
    changed: Notify,
    began: Instant,
    connecting: Semaphore,
    sent: AtomicU64,
    connections: AtomicU64,
}

struct Member {
    options: MemberOptions,
    state: Mutex<State>,
}

enum State {
    /// Was never connected.
    New,
    Connecting,
    Connected {
        publisher: Publisher,
        leave: mpsc::Sender<Leave>,
    },
    /// Is to connect again by itself.
    Waiting {
        leave: mpsc::Sender<Leave>,
        why: String,
    },
    Lost {
        session: Option<ClientSession>,
        why: String,
    },
    /// Was told to leave.
    Away {
        session: Option<ClientSession>,
    },
}

/// How to leave, and who is told that it is done.
type Leave = (DisconnectMode, oneshot::Sender<()>);

/// Why a client could not do what it was to.
#[derive(Debug, thiserror::Error)]
pub enum CrowdError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("is not connected: {0}")]
    NotConnected(String),
    #[error("did not connect within {} s", .0.as_secs_f64())]
    Late(Duration),
    #[error("was told to disconnect before")]
    Away,
}

impl CrowdError {
    /// Whether the broker is not there, or does not let in.
    pub fn is_unreachable(&self) -> bool {
        let of_client = |error: &ClientError| {
            matches!(error, ClientError::Unreachable { .. } | ClientError::Refused { .. })
        };
        match self {
            Self::Client(error) => of_client(error),
            Self::Late(_) => true,
            Self::NotConnected(_) | Self::Away => false,
        }
    }
}

impl Crowd {
    /// Nobody connects yet. `began` is when the run did.
    pub fn new(url: MqttUrl, members: Vec<MemberOptions>, inbox_bytes: usize, began: Instant) -> Self {
        let inbox = Mutex::new(Inbox::new(members.len(), inbox_bytes));
        let members =
            members.into_iter().map(|options| Member { options, state: Mutex::new(State::New) }).collect();
        Self {
            shared: Arc::new(Shared {
                url,
                members,
                inbox,
                arrived: Notify::new(),
                changed: Notify::new(),
                began,
                connecting: Semaphore::new(CONNECTING_MAX),
                sent: AtomicU64::new(0),
                connections: AtomicU64::new(0),
            }),
        }
    }

    pub fn len(&self) -> usize {
        self.shared.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shared.members.is_empty()
    }

    pub fn name(&self, member: usize) -> &str {
        &self.shared.members[member].options.name
    }

    pub fn client_id(&self, member: usize) -> &str {
        &self.shared.members[member].options.introduction.client_id
    }

    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        locked(&self.shared.inbox)
    }

    /// Returns when the next message comes. To be created before the inbox is looked at.
    pub fn arrived(&self) -> Notified<'_> {
        self.shared.arrived.notified()
    }

    /// Since the run began.
    pub fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Messages that were sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Connections that were ever made.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connects a client that is not connected; whether there was anything to do.
    ///
    /// # Errors
    /// Why it is not connected; one that connects again by itself goes on trying until `deadline`.
    pub async fn connect(&self, member: usize, deadline: Instant) -> Result<bool, CrowdError> {
        let one = &self.shared.members[member];
        let before = {
            let mut state = locked(&one.state);
            match &*state {
                State::Connected { .. } => return Ok(false),
                State::Connecting | State::Waiting { .. } => None,
                State::New | State::Lost { .. } | State::Away { .. } => {
                    Some(std::mem::replace(&mut *state, State::Connecting))
                }
            }
        };
        let Some(before) = before else {
            self.connected(member, deadline).await?;
            return Ok(true);
        };
        let mut session = match before {
            State::Lost { session, .. } | State::Away { session } => session.unwrap_or_default(),
            _ => ClientSession::default(),
        };
        loop {
            let error = match self.shared.connect(member, &mut session, deadline).await {
                Ok(client) => {
                    self.shared.settle(member, client);
                    return Ok(true);
                }
                Err(error) => error,
            };
            let may_try = one.options.reconnect.filter(|pause| Instant::now() + *pause < deadline);
            match may_try {
                Some(pause) => sleep(pause).await,
                None => {
                    let (session, why) = (Some(session), error.to_string());
                    self.shared.set(member, State::Lost { session, why });
                    return Err(error);
                }
            }
        }
    }

    /// The way to send for a client, which is connected first if it never was.
    ///
    /// # Errors
    /// Why there is none until `deadline`.
    pub async fn publisher(&self, member: usize, deadline: Instant) -> Result<Publisher, CrowdError> {
        let is_new = matches!(&*locked(&self.shared.members[member].state), State::New);
        if is_new {
            self.connect(member, deadline).await?;
        }
        self.connected(member, deadline).await
    }

    /// Waits for a client that connects, by itself or because another asked for it.
    async fn connected(&self, member: usize, deadline: Instant) -> Result<Publisher, CrowdError> {
        let began = Instant::now();
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            match &*locked(&self.shared.members[member].state) {
                State::Connected { publisher, .. } if publisher.ended().is_none() => {
                    return Ok(publisher.clone());
                }
                // Its task is about to say what becomes of it.
                State::Connected { .. } | State::Connecting | State::Waiting { .. } => {}
                State::Lost { why, .. } => return Err(CrowdError::NotConnected(why.clone())),
                State::Away { .. } => return Err(CrowdError::Away),
                State::New => return Err(CrowdError::NotConnected("it never was".to_owned())),
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(match &*locked(&self.shared.members[member].state) {
                    State::Waiting { why, .. } => CrowdError::NotConnected(why.clone()),
                    _ => CrowdError::Late(began.elapsed()),
                });
            }
        }
    }

    /// Counts messages that were sent.
    pub fn count_sent(&self, messages: u64) {
        self.shared.sent.fetch_add(messages, Ordering::Relaxed);
    }

    /// Ends a client's connection; whether there was one.
    pub async fn disconnect(&self, member: usize, mode: DisconnectMode) -> bool {
        let (leave, was_connected) = {
            let mut state = locked(&self.shared.members[member].state);
            match &mut *state {
                State::Connected { leave, .. } => (leave.clone(), true),
                State::Waiting { leave, .. } => (leave.clone(), false),
                State::Lost { session, .. } => {
                    let session = session.take();
                    *state = State::Away { session };
                    return false;
                }
                State::New | State::Connecting | State::Away { .. } => return false,
            }
        };
        let (done, is_done) = oneshot::channel();
        // Where its task has ended meanwhile, there is no connection either.
        if leave.send((mode, done)).await.is_ok() {
            let _ = is_done.await;
        }
        was_connected
    }

    /// How many clients are connected.
    pub fn connected_count(&self) -> usize {
        let is_connected = |member: &&Member| matches!(&*locked(&member.state), State::Connected { .. });
        self.shared.members.iter().filter(is_connected).count()
    }

    /// Disconnects all clients, many at the same time.
    pub async fn end(&self) {
        let all = (0..self.len()).map(|member| self.disconnect(member, DisconnectMode::Normal));
        futures_util::future::join_all(all).await;
    }
}

impl Shared {
    fn set(&self, member: usize, state: State) {
        *locked(&self.members[member].state) = state;
        self.changed.notify_waiters();
    }

    async fn connect(
        &self,
        member: usize,
        session: &mut ClientSession,
        deadline: Instant,
    ) -> Result<Client, CrowdError> {
        let MemberOptions { introduction, protocol, clean_start, keep_alive, .. } =
            &self.members[member].options;
        let began = Instant::now();
        let permit = timeout_at(deadline, self.connecting.acquire()).await;
        let _permit = permit.map_err(|_| CrowdError::Late(began.elapsed()))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let options = ClientOptions {
            protocol: *protocol,
            clean_start: *clean_start,
            keep_alive: *keep_alive,
            username: introduction.username.clone(),
            password: introduction.password.clone(),
            will: introduction.will.clone(),
            properties: introduction.properties.clone(),
            connect_timeout: left.min(CONNECT_TIMEOUT),
            ..ClientOptions::new(self.url.clone(), introduction.client_id.clone())
        };
        let client = Client::resume(options, session).await?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(client)
    }

    /// A client is connected: from now on a task of its own looks after it.
    fn settle(self: &Arc<Self>, member: usize, client: Client) {
        let (leave, asked) = mpsc::channel(1);
        self.set(member, State::Connected { publisher: client.publisher(), leave: leave.clone() });
        tokio::spawn(Arc::clone(self).look_after(member, client, leave, asked));
    }

    async fn look_after(
        self: Arc<Self>,
        member: usize,
        mut client: Client,
        leave: mpsc::Sender<Leave>,
        mut asked: mpsc::Receiver<Leave>,
    ) {
        loop {
            let error = loop {
                tokio::select! {
                    biased;
                    message = client.next_message() => match message {
                        Ok(message) => self.receive(member, message),
                        Err(error) => break error,
                    },
                    asked = asked.recv() => {
                        // `leave` is ours, too, so it is never closed.
                        let Some((mode, done)) = asked else { return };
                        let session = self.say_goodbye(member, client, mode).await;
                        self.set(member, State::Away { session });
                        let _ = done.send(());
                        return;
                    }
                }
            };
            let mut session = client.leave(false);
            let why = error.to_string();
            let Some(pause) = self.members[member].options.reconnect else {
                session.tell_lost(&error);
                self.set(member, State::Lost { session: Some(session), why });
                return;
            };
            self.set(member, State::Waiting { leave: leave.clone(), why });
            let again = self.connect_again(member, session, pause, &leave);
            tokio::select! {
                again = again => client = again,
                asked = asked.recv() => {
                    self.set(member, State::Away { session: None });
                    if let Some((_, done)) = asked {
                        let _ = done.send(());
                    }
                    return;
                }
            }
            self.set(member, State::Connected { publisher: client.publisher(), leave: leave.clone() });
        }
    }

    async fn connect_again(
        &self,
        member: usize,
        mut session: ClientSession,
        pause: Duration,
        leave: &mpsc::Sender<Leave>,
    ) -> Client {
        loop {
            sleep(pause).await;
            let deadline = Instant::now() + CONNECT_TIMEOUT;
            match self.connect(member, &mut session, deadline).await {
                Ok(client) => return client,
                Err(error) => {
                    self.set(member, State::Waiting { leave: leave.clone(), why: error.to_string() });
                }
            }
        }
    }

    /// What is not finished, for the client's next connection.
    async fn say_goodbye(
        &self,
        member: usize,
        client: Client,
        mode: DisconnectMode,
    ) -> Option<ClientSession> {
        let has_reasons = self.members[member].options.protocol.has_properties();
        let is_reset = mode == DisconnectMode::Rst;
        let reason = match mode {
            DisconnectMode::Normal => ReasonCode::SUCCESS,
            DisconnectMode::WithWill if has_reasons => ReasonCode::DISCONNECT_WITH_WILL,
            DisconnectMode::WithWill | DisconnectMode::Fin | DisconnectMode::Rst => {
                return Some(client.leave(is_reset));
            }
        };
        let mut session = client.publisher().take_session();
        session.tell_lost(&ClientError::Closed { target: self.url.to_string() });
        // Where the connection is gone, the broker has heard nothing of it.
        let _ = client.disconnect(reason).await;
        Some(session)
    }

    fn receive(&self, member: usize, message: Publish) {
        let Publish { qos, retain, topic, properties, payload, .. } = message;
        let received = Received {
            client: u32::try_from(member).unwrap_or(u32::MAX),
            at: self.began.elapsed(),
            topic: topic.map(|topic| topic.as_str().into()).unwrap_or_default(),
            // Of its own: else it would keep all that was read together with it.
            payload: bytes::Bytes::copy_from_slice(&payload),
            qos,
            retain,
            properties: copied(&properties),
            was_counted: false,
        };
        locked(&self.inbox).push(received);
        self.arrived.notify_waiters();
    }
}

fn copied(properties: &Properties) -> Properties {
    let mut bytes = BytesMut::new();
    match properties.is_empty() || properties.encode(&mut bytes).is_err() {
        true => Properties::new(),
        false => Properties::of_publish(&bytes),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under a lock leaves what it guards half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
