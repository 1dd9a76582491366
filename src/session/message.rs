//! Application Messages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::packet::{Properties, QoS, TopicName};

/// Payloads of at least this many bytes are shared between receivers, shorter ones are copied:
/// below it a copy is cheaper than a reference count and a slice of its own in the vectored write.
pub const SHARED_PAYLOAD: usize = 8 * 1024;

/// Shared payloads of at least this many bytes are kept as they are, shorter ones are copied first: they
/// may be slices of a read buffer that is many times as long, which a message that waits for hours
/// must not keep alive.
const KEPT_SHARED: usize = 128 * 1024;

/// Bytes of topic, properties and payload that need no block of their own.
const INLINE: usize = 96;

/// A message on its way from whoever published it to the subscribers.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplicationMessage {
    pub topic: TopicName,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    /// What is forwarded unaltered [section 3.3.2.3]: payload format, content type, response topic,
    /// correlation data, user properties. Never aliases, subscription identifiers or the expiry.
    pub properties: Properties,
    /// When the Message Expiry Interval has passed.
    pub expires_at: Option<Instant>,
    pub origin: Origin,
}

/// Where a message comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client's PUBLISH or Will, by client identifier.
    Client(String),
    /// The control plane, a mock, a webhook or a replay.
    Synthetic {
        /// How many mocks led to it, one after the other.
        depth: u8,
    },
}

/// An Application Message as deliveries see it, wherever it is kept.
#[derive(Clone, Copy)]
pub struct MessageRef<'a> {
    pub topic: &'a [u8],
    /// The forwarded properties as MQTT 5 encodes them, without their length.
    pub properties: &'a [u8],
    pub payload: Payload<'a>,
    pub qos: QoS,
    pub retain: bool,
    pub expires_at: Option<Instant>,
    /// The packet that brought it, if receivers may be sent the same bytes; never with a shared payload.
    pub packet: Option<Verbatim<'a>>,
}

/// A PUBLISH as it came, which says nothing that is not for every receiver: no Topic Alias, no Message
/// Expiry Interval, no DUP.
#[derive(Clone, Copy)]
pub struct Verbatim<'a> {
    pub bytes: &'a [u8],
    /// Whether it has properties.
    pub v5: bool,
    /// Where its Packet Identifier is, if it has one.
    pub identifier_at: usize,
}

/// A payload that is copied to each receiver, or one that receivers share.
#[derive(Clone, Copy)]
pub enum Payload<'a> {
    Copied(&'a [u8]),
    Shared(&'a Bytes),
}

impl<'a> Payload<'a> {
    pub fn of(bytes: &'a Bytes) -> Self {
        if bytes.len() < SHARED_PAYLOAD { Self::Copied(bytes) } else { Self::Shared(bytes) }
    }

    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl MessageRef<'_> {
    /// Topic, property and payload bytes, what queue and retained limits count.
    pub fn size(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.as_bytes().len()
    }

    /// A copy that owns what it holds, for queues and the retained store.
    pub fn store(&self) -> StoredMessage {
        let mut stored = StoredMessage {
            head: SmallVec::new(),
            topic_len: 0,
            properties_len: 0,
            shared: None,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
            number: AtomicU64::new(0),
        };
        stored.fill(self);
        stored
    }
}

/// Memory of messages that nobody keeps any more, for the next ones: allocating it for each would cost
/// more than all else that is done for a message.
#[derive(Debug, Default)]
pub struct Spares(Vec<Arc<StoredMessage>>);

impl Spares {
    /// As many as clients usually have in flight.
    const MAX: usize = 1_024;

    #[inline]
    pub fn store(&mut self, message: &MessageRef<'_>) -> Arc<StoredMessage> {
        if let Some(mut spare) = self.0.pop()
            && let Some(stored) = Arc::get_mut(&mut spare)
        {
            stored.fill(message);
            return spare;
        }
        Arc::new(message.store())
    }

    /// Takes a message that was delivered, unless somebody else keeps it, or it is a long one.
    #[inline]
    pub fn give_back(&mut self, mut message: Arc<StoredMessage>) {
        if let Some(stored) = Arc::get_mut(&mut message)
            && stored.shared.is_none()
            && !stored.head.spilled()
            && self.0.len() < Self::MAX
        {
            self.0.push(message);
        }
    }
}

/// An Application Message that waits: in a queue, in flight or retained.
///
/// Short parts are copied into one block, so that it never keeps a read buffer alive that is many
/// times its size.
#[derive(Debug)]
pub struct StoredMessage {
    /// Topic Name, encoded properties and, unless shared, the payload.
    head: SmallVec<[u8; INLINE]>,
    topic_len: u32,
    properties_len: u32,
    shared: Option<Box<Bytes>>,
    qos: QoS,
    retain: bool,
    expires_at: Option<Instant>,
    /// Where it is kept on disk apart from those that wait for it; 0 while it is not.
    number: AtomicU64,
}

impl StoredMessage {
    fn fill(&mut self, message: &MessageRef<'_>) {
        let shared = match message.payload {
            Payload::Shared(bytes) if bytes.len() >= KEPT_SHARED => Some(bytes.clone()),
            Payload::Shared(bytes) => Some(Bytes::copy_from_slice(bytes)),
            Payload::Copied(_) => None,
        };
        let copied = if shared.is_some() { &[] } else { message.payload.as_bytes() };
        let Self { head, .. } = self;
        head.clear();
        head.reserve_exact(message.topic.len() + message.properties.len() + copied.len());
        head.extend_from_slice(message.topic);
        if !message.properties.is_empty() {
            head.extend_from_slice(message.properties);
        }
        head.extend_from_slice(copied);
        self.topic_len = message.topic.len() as u32;
        self.properties_len = message.properties.len() as u32;
        self.shared = shared.map(Box::new);
        self.qos = message.qos;
        self.retain = message.retain;
        self.expires_at = message.expires_at;
        *self.number.get_mut() = 0;
    }

    #[inline]
    pub fn as_message(&self) -> MessageRef<'_> {
        let (topic, rest) = self.head.split_at(self.topic_len as usize);
        let (properties, copied) = rest.split_at(self.properties_len as usize);
        MessageRef {
            topic,
            properties,
            payload: self.shared.as_deref().map_or(Payload::Copied(copied), Payload::Shared),
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
            packet: None,
        }
    }

    pub fn size(&self) -> usize {
        self.as_message().size()
    }

    /// Where it is kept on disk, once for all that wait for it; `None` if it is kept with each of them.
    pub fn number(&self) -> Option<u64> {
        Some(self.number.load(Ordering::Relaxed)).filter(|&number| number != 0)
    }

    pub fn set_number(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    pub fn expires_at(&self) -> Option<Instant> {
        self.expires_at
    }

    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// One message for one Session, before it is sent or until it is acknowledged.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message: Arc<StoredMessage>,
    /// The lower of the message's QoS and the granted one.
    pub qos: QoS,
    /// The RETAIN flag this receiver sees.
    pub retain: bool,
    pub subscription_identifiers: SmallVec<[u32; 4]>,
    /// The shared subscription that chose this Session.
    pub share: Option<u32>,
    /// Its record in the journal; 0 if it has none.
    pub record: u64,
}

/// Appends those of `properties` that are forwarded unaltered, in their order, as MQTT 5 encodes them.
pub fn encode_forwarded(properties: &Properties, out: &mut BytesMut) {
    for property in properties.iter().filter(|property| property.identifier().is_forwarded()) {
        // Fails only for what no packet can hold; then there is nothing to forward.
        let _ = property.encode(out);
    }
}
