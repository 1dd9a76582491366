//! Our own MQTT client, for both protocol versions: replay, the command line and publishing through
//! a proxy use it.
//!
//! What is sent is written by whoever sends it, as far as the kernel takes it; one task reads, and
//! one writes what was left over and keeps the connection alive. So a [`Publisher`] can be used from
//! any thread, and a message leaves when it is sent, not when a task gets its turn.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::{Notify, futures::Notified, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tracing::debug;

use super::{dial::dial, transport::Transport, url::MqttUrl};
use crate::packet::{
    Ack, Connack, Connect, ControlPacket, DecodeError, Disconnect, EncodeError, Frame, FrameReader,
    PacketIdentifier, Properties, Property, ProtocolVersion, Publish, QoS, ReasonCode, Suback, Subscribe,
    Subscription, TopicFilter, Unsuback, Unsubscribe, Utf8String, Will,
};
use crate::{
    recording::Direction,
    session::ConnectionId,
    tap::{Tap, Way},
};

/// Received messages that wait to be taken before reading stops.
const MESSAGES_WAITING: usize = 1024;

/// Bytes that wait for the kernel before [`Publisher::try_publish`] is [`TryPublish::Full`].
const OUT_BYTES: usize = 1 << 20;

/// What MQTT can say at most: a client takes every packet that a server may send.
const PACKET_SIZE_MAX: usize = 268_435_455 + 5;

/// QoS 1 and 2 messages sent ahead of their acks to a server that names no Receive Maximum, as none
/// before MQTT 5 does.
const RECEIVE_MAXIMUM_UNSAID: u16 = 1000;

/// QoS 1 and 2 messages at most, whatever the server takes, and requests beside them: there are 65,535 identifiers.
const IN_FLIGHT_MAX: usize = 65_000;
const REQUESTS_MAX: usize = 500;

/// How long a server may take to close after our DISCONNECT.
const CLOSING_WAIT: Duration = Duration::from_secs(2);

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub url: MqttUrl,
    /// Empty asks the server for one.
    pub client_identifier: String,
    pub protocol: ProtocolVersion,
    pub clean_start: bool,
    /// Seconds; 0 turns it off.
    pub keep_alive: u16,
    /// In place of the URL's.
    pub username: Option<String>,
    pub password: Option<Bytes>,
    pub will: Option<Will>,
    /// Of the CONNECT; MQTT 5 only.
    pub properties: Properties,
    /// For name resolution, TCP and CONNACK together.
    pub connect_timeout: Duration,
}

impl ClientOptions {
    /// MQTT 5, a clean start, a keep alive of 60 s and 5 s to connect.
    pub fn new(url: MqttUrl, client_identifier: impl Into<String>) -> Self {
        Self {
            url,
            client_identifier: client_identifier.into(),
            protocol: ProtocolVersion::V5,
            clean_start: true,
            keep_alive: 60,
            username: None,
            password: None,
            will: None,
            properties: Properties::new(),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Why something could not be sent, or was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach {target}: {error}")]
    Unreachable { target: String, error: Arc<io::Error> },
    #[error("{target} refused the connection: {} (0x{:02x})", reason_code.name(), reason_code.0)]
    Refused { target: String, reason_code: ReasonCode },
    /// Sent by the server before it closed, MQTT 5 only.
    #[error("{target} disconnected us: {} (0x{:02x})", reason_code.name(), reason_code.0)]
    Disconnected { target: String, reason_code: ReasonCode },
    #[error("{target} closed the connection")]
    Closed { target: String },
    #[error("{target} did not answer within the keep alive of {seconds} s")]
    KeepAlive { target: String, seconds: u16 },
    #[error("{target} sent what is no MQTT: {error}")]
    Malformed { target: String, error: DecodeError },
    #[error("{target} answered with {packet}")]
    Unexpected { target: String, packet: &'static str },
    #[error("{0}")]
    Capability(#[from] Capability),
    #[error("cannot encode: {0}")]
    Encode(#[from] EncodeError),
    #[error("{field} is longer than 65535 bytes or holds U+0000")]
    Text { field: &'static str },
}

/// What the server said in CONNACK that it does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Capability {
    #[error("the server takes at most QoS {}", *.0 as u8)]
    MaximumQoS(QoS),
    #[error("the server takes no retained messages")]
    RetainNotAvailable,
    #[error("a packet of {size} bytes is over the server's maximum of {limit}")]
    PacketTooLarge { size: usize, limit: usize },
}

/// What the server said in CONNACK.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerLimits {
    pub session_present: bool,
    pub assigned_client_identifier: Option<String>,
    pub receive_maximum: u16,
    pub maximum_qos: QoS,
    pub retain_available: bool,
    /// Bytes; `None` is no limit.
    pub maximum_packet_size: Option<usize>,
    /// Seconds, as in force: the server's, or what we asked for.
    pub keep_alive: u16,
    /// All of CONNACK's.
    pub properties: Properties,
}

/// How a QoS 1 or 2 exchange ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The Reason Code of PUBACK, PUBCOMP, or of the PUBREC that refused the message.
    Acked(ReasonCode),
    /// The connection ended before.
    Lost(ClientError),
}

/// Is told what becomes of messages sent with a tag, by the tasks of the connection: must not block.
pub trait Sink: Send + Sync {
    /// A message came that was not sent before and is none that was kept for subscribers, or its PUBREL.
    fn delivered(&self) {}
    /// A PINGREQ was answered: the server has handled all that was sent before it.
    fn ping_answered(&self, _ticket: u64) {}
    /// The connection has ended, and nothing more is told.
    fn closed(&self, _error: &ClientError) {}
    /// The last byte was handed to the kernel by the connection's own task, at `at`; not called
    /// when [`Publisher::try_publish`] itself could write everything.
    fn written(&self, tag: u64, at: Instant);
    /// The connection has ended before the last byte was handed to the kernel; told before the end.
    fn unsent(&self, _tag: u64) {}
    /// The server has a message of QoS 2, and waits for its PUBREL.
    fn received(&self, _tag: u64) {}
    /// The exchange has ended; not called for QoS 0.
    fn ended(&self, tag: u64, outcome: Outcome);
}

/// Where a client reports what it sends and receives, as the point that traffic passes does.
#[derive(Clone)]
pub struct Reporting {
    pub tap: Tap,
    pub connection: ConnectionId,
}

impl Reporting {
    fn sent(&self, bytes: &[u8]) {
        if self.tap.is_observed() {
            let bytes = Bytes::copy_from_slice(bytes);
            self.tap.packet(Instant::now(), self.connection, Direction::ClientToServer, bytes);
        }
    }

    fn received(&self, bytes: Bytes) {
        self.tap.packet(Instant::now(), self.connection, Direction::ServerToClient, bytes);
    }
}

/// What a client and its server have begun and not finished, for the client's next connection.
#[derive(Default)]
pub struct ClientSession {
    exchanges: Vec<(PacketIdentifier, Exchange)>,
    received: HashSet<PacketIdentifier>,
    last_identifier: u16,
}

impl ClientSession {
    /// Tags of the messages that are not acknowledged yet.
    pub fn tags(&self) -> impl Iterator<Item = u64> {
        self.exchanges.iter().filter_map(|(_, exchange)| match exchange.waiter {
            Waiter::Tag(tag) => Some(tag),
            Waiter::Receipt(_) => None,
        })
    }

    /// Tells those who wait for a [`Receipt`] that the connection was lost. The exchanges are for the next one all the same.
    pub fn tell_lost(&mut self, error: &ClientError) {
        for (_, exchange) in &mut self.exchanges {
            if let Waiter::Receipt(receipt) = &mut exchange.waiter {
                let receipt = std::mem::replace(receipt, oneshot::channel().0);
                // Whoever published may not wait for it.
                let _ = receipt.send(Outcome::Lost(error.clone()));
            }
        }
    }
}

/// What a client is connected to beside the server.
#[derive(Default)]
struct Wiring {
    sink: Option<Arc<dyn Sink>>,
    reporting: Option<Reporting>,
    /// What is not finished when the connection ends is for the next one.
    session: Option<ClientSession>,
    /// Stands in for another client: messages are acknowledged and told, not kept, and QoS 2 messages are let go of when
    /// that is asked for.
    stands_in: bool,
}

/// A connection to a broker. Dropping it closes the connection without DISCONNECT.
pub struct Client {
    publisher: Publisher,
    messages: mpsc::Receiver<Publish>,
    tasks: [JoinHandle<()>; 2],
    introduced_at: Instant,
    is_reset: bool,
}

/// The sending half of a [`Client`], for any thread.
#[derive(Clone)]
pub struct Publisher {
    link: Arc<Link>,
}

/// Resolves when the exchange has ended; at once for QoS 0.
pub struct Receipt(Option<oneshot::Receiver<Outcome>>, Arc<Link>);

/// Whether a message has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has all of it, since the moment that is given.
    Written(Instant),
    /// Some of it waits for the kernel; [`Sink::written`] says when it has left.
    Waiting,
}

/// Why a message cannot be sent right now, or at all.
#[derive(Debug)]
pub enum TryPublish {
    /// As many QoS 1 and 2 messages are unacknowledged as the server allows.
    Busy(Publish),
    /// The server does not read fast enough.
    Full(Publish),
    Failed(ClientError),
}

struct Link {
    target: String,
    protocol: ProtocolVersion,
    limits: ServerLimits,
    stream: Transport,
    state: Mutex<State>,
    sink: Option<Arc<dyn Sink>>,
    reporting: Option<Reporting>,
    /// Whether exchanges outlive the connection.
    keeps_session: bool,
    /// Whether QoS 2 messages are let go of when that is asked for.
    stands_in: bool,
    /// There is something for the writing task to do.
    to_write: Notify,
    /// Acks came, bytes left, a ping was answered, or the connection ended.
    progress: Notify,
}

struct State {
    /// Waits for the kernel.
    out: BytesMut,
    /// Bytes ever put into, and taken out of, the stream.
    offset: u64,
    written: u64,
    /// Tags of messages that wait in `out`, by the offset of their end.
    marks: VecDeque<(u64, u64)>,
    exchanges: HashMap<PacketIdentifier, Exchange>,
    /// QoS 2 messages that are not let go of yet, by tag.
    held: HashMap<u64, PacketIdentifier>,
    requests: HashMap<PacketIdentifier, Request>,
    /// QoS 2 messages received whose PUBREL has not come.
    received: HashSet<PacketIdentifier>,
    last_identifier: u16,
    last_sent: Instant,
    /// When the oldest unanswered PINGREQ was sent.
    ping_sent_at: Option<Instant>,
    pings_sent: u64,
    pings_answered: u64,
    /// Writing failed; the reading task finds out why.
    is_broken: bool,
    /// Our half is closed as soon as all is written.
    is_closing: bool,
    ended: Option<ClientError>,
}

/// A QoS 1 or 2 message on its way to the server.
struct Exchange {
    qos: QoS,
    is_released: bool,
    /// Whether PUBREL is sent as soon as it may be; else when it is asked for.
    may_release: bool,
    is_received: bool,
    waiter: Waiter,
    /// To be sent again over another connection; `None` where exchanges end with theirs.
    publish: Option<Publish>,
    /// Which of all messages it was.
    offset: u64,
}

/// Who waits for SUBACK or UNSUBACK.
enum Request {
    Answer(oneshot::Sender<ControlPacket>),
    Tag(u64),
}

enum Waiter {
    Receipt(oneshot::Sender<Outcome>),
    Tag(u64),
}

impl Client {
    /// Connects and waits for CONNACK.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when there is no connection, or no answer, in time;
    /// [`ClientError::Refused`] with the server's Reason Code.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        Self::connect_with(options, Wiring::default()).await
    }

    /// As [`connect`](Self::connect), reporting every packet. The connection is reported as opened; whoever
    /// asked says how it ended, also where an error is the answer.
    pub async fn connect_reporting(
        options: ClientOptions,
        reporting: Reporting,
    ) -> Result<Self, ClientError> {
        Self::connect_with(options, Wiring { reporting: Some(reporting), ..Wiring::default() }).await
    }

    /// As [`connect`](Self::connect), with a sink for [`Publisher::try_publish`].
    pub async fn connect_to_publish(
        options: ClientOptions,
        sink: Arc<dyn Sink>,
    ) -> Result<Self, ClientError> {
        Self::connect_with(options, Wiring { sink: Some(sink), ..Wiring::default() }).await
    }

    /// Connects in place of another client, whose `session` goes on if the server has it, too: messages that were not
    /// acknowledged are sent again [MQTT-4.4.0-1]. If it has not, their exchanges are told to be lost. Messages that come
    /// are acknowledged and told to `sink`; they are not kept.
    pub async fn stand_in(
        options: ClientOptions,
        sink: Arc<dyn Sink>,
        reporting: Option<Reporting>,
        session: ClientSession,
    ) -> Result<Self, ClientError> {
        let wiring = Wiring { sink: Some(sink), reporting, session: Some(session), stands_in: true };
        Self::connect_with(options, wiring).await
    }

    /// As [`connect`](Self::connect), with what [`leave`](Self::leave) gave of the connection before: if the server has the
    /// session, too, messages that were not acknowledged are sent again, and their receipts go on. `session` is taken where
    /// there is a connection.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn resume(options: ClientOptions, session: &mut ClientSession) -> Result<Self, ClientError> {
        let connected = introduce(&options, None).await?;
        let wiring = Wiring { session: Some(std::mem::take(session)), ..Wiring::default() };
        Ok(connected.start(options.protocol, options.url.to_string(), wiring))
    }

    async fn connect_with(options: ClientOptions, wiring: Wiring) -> Result<Self, ClientError> {
        let connected = introduce(&options, wiring.reporting.as_ref()).await?;
        Ok(connected.start(options.protocol, options.url.to_string(), wiring))
    }

    pub fn limits(&self) -> &ServerLimits {
        &self.publisher.link.limits
    }

    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// When CONNECT was written.
    pub fn introduced_at(&self) -> Instant {
        self.introduced_at
    }

    /// See [`Publisher::publish`].
    pub async fn publish(&self, publish: Publish) -> Result<Receipt, ClientError> {
        self.publisher.publish(publish).await
    }

    /// See [`Publisher::subscribe`].
    pub async fn subscribe(
        &self,
        subscriptions: Vec<Subscription>,
        properties: Properties,
    ) -> Result<Suback, ClientError> {
        self.publisher.subscribe(subscriptions, properties).await
    }

    /// See [`Publisher::unsubscribe`].
    pub async fn unsubscribe(&self, filters: Vec<TopicFilter>) -> Result<Unsuback, ClientError> {
        self.publisher.unsubscribe(filters).await
    }

    /// The next message, in the order of arrival; QoS 1 and 2 messages are acknowledged as they
    /// arrive, and QoS 2 messages come once.
    ///
    /// # Errors
    /// Why the connection ended, after the last message.
    pub async fn next_message(&mut self) -> Result<Publish, ClientError> {
        match self.messages.recv().await {
            Some(message) => Ok(message),
            None => Err(self.publisher.link.why_ended()),
        }
    }

    /// Sends PINGREQ and waits until the server has answered it, and so has handled all before it.
    pub async fn ping(&self) -> Result<(), ClientError> {
        let ticket = self.publisher.send_ping()?;
        self.publisher.until_answered(ticket).await
    }

    /// Writes what is left, sends DISCONNECT and waits for the server to close.
    ///
    /// # Errors
    /// When the connection had ended before, or the server does not take what is left.
    pub async fn disconnect(mut self, reason_code: ReasonCode) -> Result<(), ClientError> {
        let link = &self.publisher.link;
        let disconnect = ControlPacket::Disconnect(Disconnect { reason_code, properties: Properties::new() });
        link.send(&mut link.state(), &disconnect)?;
        let gone = timeout(CLOSING_WAIT, async {
            link.until(|state| state.out.is_empty().then_some(())).await?;
            link.stream.finish();
            while self.messages.recv().await.is_some() {}
            Ok(())
        });
        // A server that keeps its half open is not waited for.
        gone.await.unwrap_or(Ok(()))
    }

    /// Closes the connection without DISCONNECT, at once: by FIN, or by RST as a crash does. What was not finished is for
    /// the client's next connection. Sends nothing more, however many publishers there are.
    pub fn leave(mut self, is_reset: bool) -> ClientSession {
        let link = Arc::clone(&self.publisher.link);
        if is_reset {
            link.stream.reset_when_dropped();
            self.is_reset = true;
        }
        let session = link.take_session();
        drop(self);
        session
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let link = &self.publisher.link;
        // Publishers may live on; the connection does not. A FIN would come before the RST.
        if !self.is_reset {
            link.stream.close();
        }
        link.end(ClientError::Closed { target: link.target.clone() });
    }
}

impl Publisher {
    pub fn limits(&self) -> &ServerLimits {
        &self.link.limits
    }

    /// Sends a message, waiting for the server's Receive Maximum and for room to write.
    ///
    /// `publish` gets its Packet Identifier here.
    ///
    /// # Errors
    /// [`ClientError::Capability`] for what the server does not take: nothing is sent then.
    pub async fn publish(&self, publish: Publish) -> Result<Receipt, ClientError> {
        let mut publish = publish;
        loop {
            let mut progress = std::pin::pin!(self.link.progress.notified());
            progress.as_mut().enable();
            let (waiter, receipt) = match publish.qos {
                QoS::AtMostOnce => (None, None),
                QoS::AtLeastOnce | QoS::ExactlyOnce => {
                    let (sender, receiver) = oneshot::channel();
                    (Some(Waiter::Receipt(sender)), Some(receiver))
                }
            };
            match self.link.publish(publish, waiter, None) {
                Ok(_) => return Ok(Receipt(receipt, Arc::clone(&self.link))),
                Err(TryPublish::Busy(again) | TryPublish::Full(again)) => publish = again,
                Err(TryPublish::Failed(error)) => return Err(error),
            }
            progress.await;
        }
    }

    /// Subscribes and waits for SUBACK, whose Reason Codes may still refuse each filter.
    ///
    /// # Errors
    /// Why the connection ended before.
    pub async fn subscribe(
        &self,
        subscriptions: Vec<Subscription>,
        properties: Properties,
    ) -> Result<Suback, ClientError> {
        let answer = self.link.request(|packet_identifier| {
            ControlPacket::Subscribe(Subscribe { packet_identifier, properties, subscriptions })
        });
        match answer.await? {
            ControlPacket::Suback(suback) => Ok(suback),
            other => Err(self.link.unexpected(other.name())),
        }
    }

    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub async fn unsubscribe(&self, filters: Vec<TopicFilter>) -> Result<Unsuback, ClientError> {
        let answer = self.link.request(|packet_identifier| {
            let properties = Properties::new();
            ControlPacket::Unsubscribe(Unsubscribe { packet_identifier, properties, filters })
        });
        match answer.await? {
            ControlPacket::Unsuback(unsuback) => Ok(unsuback),
            other => Err(self.link.unexpected(other.name())),
        }
    }

    /// Sends a message if that is possible at once, from any thread; `tag` comes back in
    /// the connection's [`Sink`].
    ///
    /// # Errors
    /// [`TryPublish`] gives the message back where trying again may help.
    pub fn try_publish(&self, publish: Publish, tag: u64) -> Result<Sent, TryPublish> {
        self.link.publish(publish, Some(Waiter::Tag(tag)), Some(tag))
    }

    /// Sends SUBSCRIBE or UNSUBSCRIBE with an identifier of ours, from any thread; its answer comes as the end of an
    /// exchange with `tag`, with the worst of its Reason Codes.
    ///
    /// # Errors
    /// Why the connection has ended.
    pub fn try_request(&self, mut packet: ControlPacket, tag: u64) -> Result<Sent, ClientError> {
        let mut state = self.link.state();
        let identifier = state.next_identifier();
        match &mut packet {
            ControlPacket::Subscribe(subscribe) => subscribe.packet_identifier = identifier,
            ControlPacket::Unsubscribe(unsubscribe) => unsubscribe.packet_identifier = identifier,
            _ => return Err(self.link.unexpected(packet.name())),
        }
        let sent = self.link.send_tagged(&mut state, &packet, tag)?;
        state.requests.insert(identifier, Request::Tag(tag));
        Ok(sent)
    }

    /// Lets go of the QoS 2 message that was sent with `tag`: its PUBREL is sent now, or when its PUBREC comes. Of those
    /// that stand in for another client; others do so by themselves.
    ///
    /// # Errors
    /// Why the connection has ended.
    pub fn try_release(&self, tag: u64) -> Result<(), ClientError> {
        let mut state = self.link.state();
        let Some(identifier) = state.held.remove(&tag) else { return Ok(()) };
        let Some(exchange) = state.exchanges.get_mut(&identifier) else { return Ok(()) };
        exchange.may_release = true;
        if !exchange.is_received || exchange.is_released {
            return Ok(());
        }
        exchange.is_released = true;
        let pubrel = ControlPacket::Pubrel(Ack::new(identifier));
        self.link.send(&mut state, &pubrel).map(|_| ())
    }

    /// Lets go of all QoS 2 messages; answers with their tags.
    ///
    /// # Errors
    /// Why the connection has ended.
    pub fn try_release_all(&self) -> Result<Vec<u64>, ClientError> {
        let mut tags: Vec<u64> = self.link.state().held.keys().copied().collect();
        // In the order they were sent.
        tags.sort_unstable();
        tags.iter().try_for_each(|tag| self.try_release(*tag))?;
        Ok(tags)
    }

    /// Sends DISCONNECT, and closes our half of the connection behind it.
    ///
    /// # Errors
    /// Why the connection has ended.
    pub fn try_disconnect(&self, disconnect: Disconnect, tag: u64) -> Result<Sent, ClientError> {
        let mut state = self.link.state();
        let sent = self.link.send_tagged(&mut state, &ControlPacket::Disconnect(disconnect), tag)?;
        self.link.close_half(&mut state);
        Ok(sent)
    }

    /// Closes our half of the connection as soon as all is written; what the server still sends is heard, and at last
    /// that it closes, too.
    pub fn close_half(&self) {
        self.link.close_half(&mut self.link.state());
    }

    /// Whether another SUBSCRIBE or UNSUBSCRIBE may be sent before one is answered.
    pub fn may_request(&self) -> bool {
        self.link.state().requests.len() < REQUESTS_MAX
    }

    /// Sends bytes, whatever they are.
    ///
    /// # Errors
    /// Why the connection has ended.
    pub fn try_send_raw(&self, bytes: &[u8], tag: u64) -> Result<Sent, ClientError> {
        let mut state = self.link.state();
        let sent = self.link.send_bytes(&mut state, |out| {
            out.extend_from_slice(bytes);
            Ok(())
        })?;
        state.mark(sent, tag);
        Ok(sent)
    }

    /// Sends PINGREQ; the ticket is for [`until_answered`](Self::until_answered).
    pub fn send_ping(&self) -> Result<u64, ClientError> {
        let mut state = self.link.state();
        self.link.send_ping(&mut state)
    }

    pub fn protocol(&self) -> ProtocolVersion {
        self.link.protocol
    }

    /// What was not finished, for the client's next connection: this one is being taken over.
    pub fn take_session(&self) -> ClientSession {
        self.link.take_session()
    }

    /// PINGREQs sent so far: one sent after this is `ticket + 1`.
    pub fn pings_sent(&self) -> u64 {
        self.link.state().pings_sent
    }

    /// Whether the PINGREQ with this ticket was answered.
    pub fn is_answered(&self, ticket: u64) -> bool {
        self.link.state().pings_answered >= ticket
    }

    pub async fn until_answered(&self, ticket: u64) -> Result<(), ClientError> {
        self.link.until(|state| (state.pings_answered >= ticket).then_some(())).await
    }

    /// QoS 1 and 2 messages without their last ack.
    pub fn unacknowledged(&self) -> usize {
        self.link.state().exchanges.len()
    }

    /// Bytes that the kernel has taken so far.
    pub fn written(&self) -> u64 {
        self.link.state().written
    }

    /// Bytes that wait for the kernel.
    pub fn unwritten(&self) -> usize {
        self.link.state().out.len()
    }

    /// Returns when something moves next: an ack, bytes written, a ping answered, the end. To be
    /// created before the condition is checked that it waits for.
    pub fn progress(&self) -> Notified<'_> {
        self.link.progress.notified()
    }

    /// Why the connection has ended, if it has.
    pub fn ended(&self) -> Option<ClientError> {
        self.link.state().ended.clone()
    }
}

impl Receipt {
    /// Waits for the last ack: its Reason Code, which may be an error. Success at once for QoS 0.
    ///
    /// # Errors
    /// Why the connection ended before.
    pub async fn acked(self) -> Result<ReasonCode, ClientError> {
        let Self(receiver, link) = self;
        match receiver {
            None => Ok(ReasonCode::SUCCESS),
            Some(receiver) => match receiver.await {
                Ok(Outcome::Acked(reason)) => Ok(reason),
                Ok(Outcome::Lost(error)) => Err(error),
                Err(_) => Err(link.why_ended()),
            },
        }
    }
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_ended(&self) -> ClientError {
        let ended = self.state().ended.clone();
        ended.unwrap_or_else(|| ClientError::Closed { target: self.target.clone() })
    }

    fn publish(
        &self,
        mut publish: Publish,
        waiter: Option<Waiter>,
        tag: Option<u64>,
    ) -> Result<Sent, TryPublish> {
        let mut state = self.state();
        if let Some(error) = &state.ended {
            return Err(TryPublish::Failed(error.clone()));
        }
        if state.out.len() >= OUT_BYTES {
            return Err(TryPublish::Full(publish));
        }
        if publish.qos != QoS::AtMostOnce
            && state.exchanges.len() >= usize::from(self.limits.receive_maximum).min(IN_FLIGHT_MAX)
        {
            return Err(TryPublish::Busy(publish));
        }
        let qos = publish.qos;
        let identifier = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(state.next_identifier()),
        };
        publish.packet_identifier = identifier;
        let kept = (self.keeps_session && identifier.is_some()).then(|| publish.clone());
        let packet = ControlPacket::Publish(publish);
        if let ControlPacket::Publish(publish) = &packet {
            self.check(publish, &packet).map_err(|error| TryPublish::Failed(error.into()))?;
        }
        let sent = self.send(&mut state, &packet).map_err(TryPublish::Failed)?;
        if let (Some(identifier), Some(waiter)) = (identifier, waiter) {
            let offset = state.offset;
            if let (true, QoS::ExactlyOnce, Waiter::Tag(tag)) = (self.stands_in, qos, &waiter) {
                state.held.insert(*tag, identifier);
            }
            let exchange = Exchange {
                qos,
                is_released: false,
                may_release: !self.stands_in,
                is_received: false,
                waiter,
                publish: kept,
                offset,
            };
            state.exchanges.insert(identifier, exchange);
        }
        if let Some(tag) = tag {
            state.mark(sent, tag);
        }
        Ok(sent)
    }

    fn send_tagged(&self, state: &mut State, packet: &ControlPacket, tag: u64) -> Result<Sent, ClientError> {
        let sent = self.send(state, packet)?;
        state.mark(sent, tag);
        Ok(sent)
    }

    fn close_half(&self, state: &mut State) {
        state.is_closing = true;
        if state.out.is_empty() {
            self.stream.finish();
        }
    }

    /// Whether the server takes this message at all.
    fn check(&self, publish: &Publish, packet: &ControlPacket) -> Result<(), Capability> {
        if publish.qos > self.limits.maximum_qos {
            return Err(Capability::MaximumQoS(self.limits.maximum_qos));
        }
        if publish.retain && !self.limits.retain_available {
            return Err(Capability::RetainNotAvailable);
        }
        match self.limits.maximum_packet_size {
            Some(limit) if packet.encoded_len(self.protocol) > limit => {
                Err(Capability::PacketTooLarge { size: packet.encoded_len(self.protocol), limit })
            }
            _ => Ok(()),
        }
    }

    /// Sends what gets a Packet Identifier and one answer.
    async fn request(
        &self,
        packet: impl FnOnce(PacketIdentifier) -> ControlPacket,
    ) -> Result<ControlPacket, ClientError> {
        let answer = {
            let mut state = self.state();
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            let identifier = state.next_identifier();
            let (sender, answer) = oneshot::channel();
            self.send(&mut state, &packet(identifier))?;
            state.requests.insert(identifier, Request::Answer(sender));
            answer
        };
        answer.await.map_err(|_| self.why_ended())
    }

    fn send_ping(&self, state: &mut State) -> Result<u64, ClientError> {
        self.send(state, &ControlPacket::Pingreq)?;
        state.pings_sent += 1;
        state.ping_sent_at.get_or_insert_with(Instant::now);
        Ok(state.pings_sent)
    }

    /// Writes `packet`, or as much of it as the kernel takes; the writing task does the rest.
    fn send(&self, state: &mut State, packet: &ControlPacket) -> Result<Sent, ClientError> {
        self.send_bytes(state, |out| packet.encode(self.protocol, out))
    }

    fn send_bytes(
        &self,
        state: &mut State,
        write: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
    ) -> Result<Sent, ClientError> {
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let had_waiting = !state.out.is_empty();
        let before = state.out.len();
        write(&mut state.out)?;
        if let Some(reporting) = &self.reporting {
            reporting.sent(&state.out[before..]);
        }
        state.offset += (state.out.len() - before) as u64;
        if had_waiting {
            return Ok(Sent::Waiting);
        }
        self.write_out(state);
        if state.is_broken {
            return Err(ClientError::Closed { target: self.target.clone() });
        }
        if state.out.is_empty() {
            return Ok(Sent::Written(state.last_sent));
        }
        self.to_write.notify_one();
        Ok(Sent::Waiting)
    }

    /// Writes as much of `out` as the kernel takes.
    fn write_out(&self, state: &mut State) {
        while !state.out.is_empty() {
            match self.stream.try_write(&state.out) {
                Ok(count) => {
                    let _ = state.out.split_to(count);
                    state.written += count as u64;
                    state.last_sent = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // The reading task finds out what the server said last, and ends the connection.
                    debug!(target_url = %self.target, %error, "cannot write");
                    state.is_broken = true;
                    state.out.clear();
                }
            }
        }
        if state.is_closing {
            self.stream.finish();
        }
        // One long message must not keep its memory for good.
        if state.out.capacity() > OUT_BYTES {
            state.out = BytesMut::new();
        }
    }

    async fn until<R>(&self, mut found: impl FnMut(&State) -> Option<R>) -> Result<R, ClientError> {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            {
                let state = self.state();
                if let Some(found) = found(&state) {
                    return Ok(found);
                }
                if let Some(error) = &state.ended {
                    return Err(error.clone());
                }
            }
            progress.await;
        }
    }

    fn end(&self, error: ClientError) {
        let (exchanges, requests, error, is_first) = {
            let mut state = self.state();
            let is_first = state.ended.is_none();
            self.tell_written(&mut state);
            for (_, tag) in std::mem::take(&mut state.marks) {
                if let Some(sink) = &self.sink {
                    sink.unsent(tag);
                }
            }
            let error = state.ended.get_or_insert(error).clone();
            let exchanges = match self.keeps_session {
                true => HashMap::new(),
                false => std::mem::take(&mut state.exchanges),
            };
            (exchanges, std::mem::take(&mut state.requests), error, is_first)
        };
        for exchange in exchanges.into_values() {
            self.tell(exchange.waiter, Outcome::Lost(error.clone()));
        }
        for request in requests.into_values() {
            // The other kind hears of it by its sender's end.
            if let Request::Tag(tag) = request {
                self.tell(Waiter::Tag(tag), Outcome::Lost(error.clone()));
            }
        }
        if let (true, Some(sink)) = (is_first, &self.sink) {
            sink.closed(&error);
        }
        self.progress.notify_waiters();
        self.to_write.notify_one();
    }

    fn tell(&self, waiter: Waiter, outcome: Outcome) {
        match (waiter, &self.sink) {
            // Whoever published may not wait for it.
            (Waiter::Receipt(receipt), _) => _ = receipt.send(outcome),
            (Waiter::Tag(tag), Some(sink)) => sink.ended(tag, outcome),
            (Waiter::Tag(_), None) => {}
        }
    }

    /// Writes what others could not, and sends PINGREQ when nothing else was sent.
    async fn keep_writing(self: Arc<Self>) {
        let keep_alive = Duration::from_secs(self.limits.keep_alive.into());
        loop {
            let (is_waiting, next_look) = {
                let mut state = self.state();
                if state.ended.is_some() {
                    return;
                }
                self.write_out(&mut state);
                self.tell_written(&mut state);
                let next_look = match state.ping_sent_at {
                    Some(sent_at) => sent_at + keep_alive,
                    None => state.last_sent + keep_alive / 2,
                };
                (!state.out.is_empty(), next_look)
            };
            self.progress.notify_waiters();
            let room = async {
                match is_waiting {
                    // An error is found by the reading task.
                    true => _ = self.stream.writable().await,
                    false => self.to_write.notified().await,
                }
            };
            if keep_alive.is_zero() {
                room.await;
                continue;
            }
            if timeout(next_look.saturating_duration_since(Instant::now()), room).await.is_err() {
                self.keep_alive(keep_alive);
            }
        }
    }

    fn keep_alive(&self, keep_alive: Duration) {
        let mut state = self.state();
        if state.ping_sent_at.is_some_and(|sent_at| sent_at.elapsed() >= keep_alive) {
            drop(state);
            let seconds = self.limits.keep_alive;
            self.end(ClientError::KeepAlive { target: self.target.clone(), seconds });
            self.stream.close();
        } else if state.ping_sent_at.is_none() && state.last_sent.elapsed() >= keep_alive / 2 {
            // Fails when the connection has just ended, which the loop sees.
            let _ = self.send_ping(&mut state);
        }
    }

    fn tell_written(&self, state: &mut State) {
        let now = Instant::now();
        while let Some((end, tag)) = state.marks.front().copied()
            && end <= state.written
        {
            state.marks.pop_front();
            if let Some(sink) = &self.sink {
                sink.written(tag, now);
            }
        }
    }

    async fn keep_reading(self: Arc<Self>, mut frames: FrameReader, messages: Option<mpsc::Sender<Publish>>) {
        let error = loop {
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    if let Some(reporting) = &self.reporting {
                        reporting.received(frame.bytes);
                        reporting.tap.ready().await;
                    }
                    match self.receive(frame.packet, messages.as_ref()).await {
                        Ok(()) => continue,
                        Err(error) => break error,
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    if let Some(Reporting { tap, connection }) = &self.reporting {
                        let rest = frames.take_rest();
                        tap.raw(Instant::now(), *connection, Direction::ServerToClient, rest);
                    }
                    break ClientError::Malformed { target: self.target.clone(), error };
                }
            }
            // A server that does not read is not answered without end.
            if let Err(error) = self.until(|state| (state.out.len() < 2 * OUT_BYTES).then_some(())).await {
                break error;
            }
            match self.stream.read_buf(frames.buffer()).await {
                Ok(0) | Err(_) => break ClientError::Closed { target: self.target.clone() },
                Ok(_) => {}
            }
        };
        self.end(error);
    }

    async fn receive(
        &self,
        packet: ControlPacket,
        messages: Option<&mpsc::Sender<Publish>>,
    ) -> Result<(), ClientError> {
        match packet {
            ControlPacket::Publish(publish) => self.take(publish, messages).await?,
            ControlPacket::Puback(ack) => self.conclude(ack, QoS::AtLeastOnce),
            ControlPacket::Pubrec(ack) => self.release(ack)?,
            ControlPacket::Pubcomp(ack) => self.conclude(ack, QoS::ExactlyOnce),
            ControlPacket::Pubrel(ack) => {
                let mut state = self.state();
                let reason_code = match state.received.remove(&ack.packet_identifier) {
                    true => ReasonCode::SUCCESS,
                    false => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                };
                if let (ReasonCode::SUCCESS, Some(sink)) = (reason_code, &self.sink) {
                    sink.delivered();
                }
                let packet_identifier = ack.packet_identifier;
                let properties = Properties::new();
                self.send(
                    &mut state,
                    &ControlPacket::Pubcomp(Ack { packet_identifier, reason_code, properties }),
                )?;
            }
            ControlPacket::Suback(Suback { packet_identifier, ref reason_codes, .. })
            | ControlPacket::Unsuback(Unsuback { packet_identifier, ref reason_codes, .. }) => {
                let request = self.state().requests.remove(&packet_identifier);
                match request {
                    // Whoever asked may not wait any more.
                    Some(Request::Answer(sender)) => _ = sender.send(packet),
                    Some(Request::Tag(tag)) => {
                        let worst = reason_codes.iter().copied().max().unwrap_or(ReasonCode::SUCCESS);
                        self.tell(Waiter::Tag(tag), Outcome::Acked(worst));
                    }
                    None => {}
                }
            }
            ControlPacket::Pingresp => {
                let mut state = self.state();
                state.pings_answered += 1;
                if state.pings_answered >= state.pings_sent {
                    state.ping_sent_at = None;
                }
                let answered = state.pings_answered;
                drop(state);
                if let Some(sink) = &self.sink {
                    sink.ping_answered(answered);
                }
                self.progress.notify_waiters();
            }
            ControlPacket::Disconnect(disconnect) => {
                let reason_code = disconnect.reason_code;
                return Err(ClientError::Disconnected { target: self.target.clone(), reason_code });
            }
            other => return Err(self.unexpected(other.name())),
        }
        Ok(())
    }

    async fn take(
        &self,
        publish: Publish,
        messages: Option<&mpsc::Sender<Publish>>,
    ) -> Result<(), ClientError> {
        let (qos, identifier) = (publish.qos, publish.packet_identifier);
        let is_new = match (qos, identifier) {
            (QoS::ExactlyOnce, Some(identifier)) => self.state().received.insert(identifier),
            _ => true,
        };
        if let (true, Some(sink)) = (is_new && !publish.dup && !publish.retain, &self.sink) {
            sink.delivered();
        }
        if let (true, Some(messages)) = (is_new, messages) {
            // Nobody may want messages any more; the server still gets its acks.
            let _ = messages.send(publish).await;
        }
        let Some(packet_identifier) = identifier else { return Ok(()) };
        let ack = Ack { packet_identifier, reason_code: ReasonCode::SUCCESS, properties: Properties::new() };
        let packet = match qos {
            QoS::AtMostOnce => return Ok(()),
            QoS::AtLeastOnce => ControlPacket::Puback(ack),
            QoS::ExactlyOnce => ControlPacket::Pubrec(ack),
        };
        self.send(&mut self.state(), &packet).map(|_| ())
    }

    fn unexpected(&self, packet: &'static str) -> ClientError {
        ClientError::Unexpected { target: self.target.clone(), packet }
    }

    /// What the next connection goes on with.
    fn take_session(&self) -> ClientSession {
        let mut state = self.state();
        let mut exchanges: Vec<_> = std::mem::take(&mut state.exchanges).into_iter().collect();
        exchanges.sort_unstable_by_key(|(_, exchange)| exchange.offset);
        let received = std::mem::take(&mut state.received);
        ClientSession { exchanges, received, last_identifier: state.last_identifier }
    }

    /// Goes on with what the connection before has left, if the server does.
    fn resume(&self, session: ClientSession) {
        let ClientSession { exchanges, received, last_identifier } = session;
        let mut state = self.state();
        state.last_identifier = last_identifier;
        if !self.limits.session_present {
            drop(state);
            let lost = ClientError::Closed { target: self.target.clone() };
            exchanges.into_iter().for_each(|(_, exchange)| {
                self.tell(exchange.waiter, Outcome::Lost(lost.clone()));
            });
            return;
        }
        state.received = received;
        for (packet_identifier, mut exchange) in exchanges {
            let packet = match &exchange.publish {
                // Its PUBREL is still to be asked for.
                Some(_) if exchange.is_received && !exchange.may_release => None,
                Some(publish) if !exchange.is_received => {
                    let packet_identifier = Some(packet_identifier);
                    let publish = Publish { dup: true, packet_identifier, ..publish.clone() };
                    Some(ControlPacket::Publish(publish))
                }
                _ => Some(ControlPacket::Pubrel(Ack::new(packet_identifier))),
            };
            if let Some(packet) = packet {
                // Whether the connection lasts is found out by its tasks.
                let _ = self.send(&mut state, &packet);
            }
            exchange.is_released |= exchange.is_received && exchange.may_release;
            exchange.offset = state.offset;
            if let (QoS::ExactlyOnce, false, Waiter::Tag(tag)) =
                (exchange.qos, exchange.may_release, &exchange.waiter)
            {
                state.held.insert(*tag, packet_identifier);
            }
            state.exchanges.insert(packet_identifier, exchange);
        }
    }

    /// PUBREC: the message is the server's; PUBREL lets it forget the identifier.
    fn release(&self, ack: Ack) -> Result<(), ClientError> {
        let packet_identifier = ack.packet_identifier;
        let mut state = self.state();
        let reason_code = match state.exchanges.get_mut(&packet_identifier) {
            Some(exchange) if exchange.qos == QoS::ExactlyOnce => {
                if ack.reason_code.is_error() {
                    // Refused: the exchange ends here [MQTT-4.3.3-4].
                    drop(state);
                    self.conclude(ack, QoS::ExactlyOnce);
                    return Ok(());
                }
                exchange.is_received = true;
                if let (Waiter::Tag(tag), Some(sink)) = (&exchange.waiter, &self.sink) {
                    sink.received(*tag);
                }
                if !exchange.may_release {
                    return Ok(());
                }
                exchange.is_released = true;
                ReasonCode::SUCCESS
            }
            _ => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        let properties = Properties::new();
        let pubrel = ControlPacket::Pubrel(Ack { packet_identifier, reason_code, properties });
        self.send(&mut state, &pubrel).map(|_| ())
    }

    /// The last ack of an exchange.
    fn conclude(&self, ack: Ack, qos: QoS) {
        let mut state = self.state();
        let is_expected = state.exchanges.get(&ack.packet_identifier).is_some_and(|exchange| {
            exchange.qos == qos
                && (qos == QoS::AtLeastOnce || exchange.is_released || ack.reason_code.is_error())
        });
        let ended = if is_expected { state.exchanges.remove(&ack.packet_identifier) } else { None };
        drop(state);
        match ended {
            Some(exchange) => {
                self.tell(exchange.waiter, Outcome::Acked(ack.reason_code));
                self.progress.notify_waiters();
            }
            None => debug!(identifier = ack.packet_identifier.get(), "ack of nothing we sent"),
        }
    }
}

impl State {
    /// What was sent just now and waits has this tag.
    fn mark(&mut self, sent: Sent, tag: u64) {
        if sent == Sent::Waiting {
            let end = self.offset;
            self.marks.push_back((end, tag));
        }
    }

    fn new() -> Self {
        Self {
            out: BytesMut::new(),
            offset: 0,
            written: 0,
            marks: VecDeque::new(),
            exchanges: HashMap::new(),
            held: HashMap::new(),
            requests: HashMap::new(),
            received: HashSet::new(),
            last_identifier: 0,
            last_sent: Instant::now(),
            ping_sent_at: None,
            pings_sent: 0,
            pings_answered: 0,
            is_broken: false,
            is_closing: false,
            ended: None,
        }
    }

    /// One that is not in use: at most Receive Maximum exchanges and a few requests are.
    fn next_identifier(&mut self) -> PacketIdentifier {
        loop {
            self.last_identifier = self.last_identifier.wrapping_add(1);
            if let Some(identifier) = PacketIdentifier::new(self.last_identifier)
                && !self.exchanges.contains_key(&identifier)
                && !self.requests.contains_key(&identifier)
            {
                return identifier;
            }
        }
    }
}

/// A connection after CONNACK.
struct Connected {
    stream: Transport,
    frames: FrameReader,
    limits: ServerLimits,
    introduced_at: Instant,
}

impl Connected {
    fn start(self, protocol: ProtocolVersion, target: String, wiring: Wiring) -> Client {
        let Wiring { sink, reporting, session, stands_in } = wiring;
        let keeps_session = session.is_some();
        let link = Arc::new(Link {
            target,
            protocol,
            limits: self.limits,
            stream: self.stream,
            keeps_session,
            stands_in,
            state: Mutex::new(State::new()),
            sink,
            reporting,
            to_write: Notify::new(),
            progress: Notify::new(),
        });
        if let Some(session) = session {
            link.resume(session);
        }
        let (sender, messages) = mpsc::channel(MESSAGES_WAITING);
        let sender = (!stands_in).then_some(sender);
        let reading = tokio::spawn(Arc::clone(&link).keep_reading(self.frames, sender));
        let writing = tokio::spawn(Arc::clone(&link).keep_writing());
        let (tasks, introduced_at) = ([reading, writing], self.introduced_at);
        Client { publisher: Publisher { link }, messages, tasks, introduced_at, is_reset: false }
    }
}

/// Connects and waits for CONNACK, both in time.
async fn introduce(options: &ClientOptions, reporting: Option<&Reporting>) -> Result<Connected, ClientError> {
    let target = options.url.to_string();
    match timeout(options.connect_timeout, handshake(options, &target, reporting)).await {
        Ok(connected) => connected,
        Err(_) => {
            let error = Arc::new(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            Err(ClientError::Unreachable { target, error })
        }
    }
}

async fn handshake(
    options: &ClientOptions,
    target: &str,
    reporting: Option<&Reporting>,
) -> Result<Connected, ClientError> {
    let unreachable = |error| ClientError::Unreachable { target: target.to_owned(), error: Arc::new(error) };
    let closed = || ClientError::Closed { target: target.to_owned() };
    let connect = connect_packet(options)?;
    let url = &options.url;
    let stream = dial(url).await.map_err(unreachable)?;
    let mut out = BytesMut::new();
    connect.encode(options.protocol, &mut out)?;
    if let Some(reporting) = reporting {
        let (Reporting { tap, connection }, peer) = (reporting, stream.local_addr());
        let way = Way { listener: None, transport: stream.name(), upstream: Some(target.to_owned()) };
        tap.open(Instant::now(), *connection, peer, Arc::new(way));
        tap.identify(*connection, &options.client_identifier, options.protocol);
        reporting.sent(&out);
    }
    stream.write_all(&out).await.map_err(|_| closed())?;
    let introduced_at = Instant::now();
    let mut frames = FrameReader::new(PACKET_SIZE_MAX);
    frames.set_protocol(options.protocol);
    loop {
        match frames.next_frame() {
            Ok(Some(Frame { packet: ControlPacket::Connack(connack), bytes })) => {
                if let Some(reporting) = reporting {
                    reporting.received(bytes);
                }
                if connack.reason_code != ReasonCode::SUCCESS {
                    let (target, reason_code) = (target.to_owned(), connack.reason_code);
                    return Err(ClientError::Refused { target, reason_code });
                }
                let limits = server_limits(options, &connack);
                return Ok(Connected { stream, frames, limits, introduced_at });
            }
            Ok(Some(frame)) => {
                let (target, packet) = (target.to_owned(), frame.packet.name());
                return Err(ClientError::Unexpected { target, packet });
            }
            Ok(None) => {}
            Err(error) => return Err(ClientError::Malformed { target: target.to_owned(), error }),
        }
        if stream.read_buf(frames.buffer()).await.map_err(|_| closed())? == 0 {
            return Err(closed());
        }
    }
}

fn connect_packet(options: &ClientOptions) -> Result<ControlPacket, ClientError> {
    let text = |field, value: &str| Utf8String::new(value).ok_or(ClientError::Text { field });
    let username = options.username.as_ref().or(options.url.username.as_ref());
    let password = options.password.clone().or_else(|| options.url.password.clone().map(Bytes::from));
    Ok(ControlPacket::Connect(Box::new(Connect {
        protocol: options.protocol,
        clean_start: options.clean_start,
        keep_alive: options.keep_alive,
        properties: options.properties.clone(),
        client_identifier: text("the client identifier", &options.client_identifier)?,
        will: options.will.clone(),
        username: username.map(|name| text("the user name", name)).transpose()?,
        password,
    })))
}

fn server_limits(options: &ClientOptions, connack: &Connack) -> ServerLimits {
    let mut limits = ServerLimits {
        session_present: connack.session_present,
        assigned_client_identifier: None,
        receive_maximum: RECEIVE_MAXIMUM_UNSAID,
        maximum_qos: QoS::ExactlyOnce,
        retain_available: true,
        maximum_packet_size: None,
        keep_alive: options.keep_alive,
        properties: connack.properties.clone(),
    };
    for property in connack.properties.iter() {
        match property {
            Property::AssignedClientIdentifier(name) => {
                limits.assigned_client_identifier = Some(name.as_str().to_owned());
            }
            Property::ReceiveMaximum(count) => limits.receive_maximum = (*count).max(1),
            Property::MaximumQoS(0) => limits.maximum_qos = QoS::AtMostOnce,
            Property::MaximumQoS(1) => limits.maximum_qos = QoS::AtLeastOnce,
            Property::RetainAvailable(is_available) => limits.retain_available = *is_available,
            Property::MaximumPacketSize(bytes) => limits.maximum_packet_size = Some(*bytes as usize),
            Property::ServerKeepAlive(seconds) => limits.keep_alive = *seconds,
            _ => {}
        }
    }
    limits
}
