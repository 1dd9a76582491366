//! Messages and their acknowledgements.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{Session, allowance::Allowance, content::Content, scope::Demand};
use crate::{
    packet::{PacketIdentifier, PacketType, Publish, QoS},
    recording::Direction,
};

/// Of an exchange, in its table.
const EXCHANGE_BYTES: usize = 128;
/// Of a count, with its key.
const COUNT_BYTES: usize = 128;

/// Exchanges that are remembered when they are completed: some 20 MiB.
const OVER_MAX: usize = 100_000;

/// The exchanges of one stream.
#[derive(Default)]
pub struct Exchanges {
    by_session: HashMap<Arc<Session>, HashMap<Key, Exchange>>,
    /// Messages so far; by QoS, because they keep their order within one.
    counts: HashMap<(Arc<Session>, Direction, Arc<str>, QoS), u32>,
    begun: u64,
    /// Those that are completed and not forgotten, the oldest first; another may have their identifier by now.
    over: VecDeque<(Arc<Session>, Key, u64)>,
}

/// Who publishes, and under which Packet Identifier.
pub type Key = (Direction, PacketIdentifier);

/// A message that waits for its acknowledgement, or has got it.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub topic: Arc<str>,
    /// Which one of its topic and QoS, from 1; `None` where that is not known.
    pub nth: Option<u32>,
    /// Of its acknowledgements.
    pub demand: Demand,
    qos: QoS,
    /// Of what is the same when it is sent again.
    digest: u64,
    /// Over which it was sent last.
    connection: u32,
    /// Which one of all that were begun.
    number: u64,
    is_over: bool,
    message: Sent,
    release: Sent,
}

/// What was sent, perhaps again, and what was answered to it.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// Over which connection last.
    over: Option<u32>,
    /// How often again.
    again: u32,
    is_answered: bool,
}

impl Sent {
    /// Whether an answer is that to what was sent again.
    fn is_answered_again(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_answered, true) || self.again == 0 {
            return false;
        }
        self.again -= 1;
        true
    }
}

impl Exchange {
    /// With `publish`, sent over `connection`.
    pub fn new(publish: &Publish, topic: Arc<str>, connection: u32, demand: Demand) -> Self {
        let digest = Content::of_message(publish).digest(None);
        let (message, release) = (Sent { over: Some(connection), ..Sent::default() }, Sent::default());
        Self {
            topic,
            nth: None,
            demand,
            qos: publish.qos,
            digest,
            connection,
            number: 0,
            is_over: false,
            message,
            release,
        }
    }

    /// `packet`, over `connection`, is part of it: whether it is there only because something was sent again.
    fn is_of_repeat(&mut self, packet: PacketType, connection: u32) -> bool {
        match packet {
            PacketType::Puback | PacketType::Pubrec => self.message.is_answered_again(),
            // Sent again when a connection was lost in between [MQTT-4.4.0-1].
            PacketType::Pubrel => match self.release.over.replace(connection) {
                Some(before) if before != connection => {
                    self.release.again += 1;
                    true
                }
                _ => false,
            },
            _ => self.release.is_answered_again(),
        }
    }
}

impl Exchanges {
    /// Numbers the next message of its topic and QoS.
    pub fn number(
        &mut self,
        session: &Arc<Session>,
        direction: Direction,
        exchange: &mut Exchange,
        allowance: &mut Allowance,
    ) {
        let key = (session.clone(), direction, exchange.topic.clone(), exchange.qos);
        let count = self.counts.entry(key).or_insert_with(|| {
            allowance.take(COUNT_BYTES);
            0
        });
        *count += 1;
        exchange.nth = Some(*count);
    }

    pub fn begin(&mut self, session: &Arc<Session>, key: Key, exchange: Exchange, allowance: &mut Allowance) {
        self.begun += 1;
        let exchange = Exchange { number: self.begun, ..exchange };
        let exchanges = self.by_session.entry(session.clone()).or_default();
        if exchanges.insert(key, exchange).is_none_or(|before| before.is_over) {
            allowance.take(EXCHANGE_BYTES);
        }
    }

    /// Whether `again`, which `is_marked` as sent again or not, is a message that is known. One of QoS 1 that was acknowledged
    /// may be: the acknowledgement was under way, or lost with its connection.
    pub fn is_repeated(
        &mut self,
        session: &Arc<Session>,
        key: Key,
        again: &Exchange,
        is_marked: bool,
    ) -> bool {
        let exchanges = self.by_session.get_mut(session);
        let Some(exchange) = exchanges.and_then(|exchanges| exchanges.get_mut(&key)) else { return false };
        let is_same =
            (&exchange.topic, exchange.qos, exchange.digest) == (&again.topic, again.qos, again.digest);
        let may_be = !exchange.is_over || is_marked && exchange.qos == QoS::AtLeastOnce;
        if is_same && may_be {
            exchange.connection = again.connection;
            exchange.message.again += 1;
        }
        is_same && may_be
    }

    /// What an acknowledgement over `connection` belongs to, which it `ends` or not; ignored if it is there only because
    /// something was sent again.
    pub fn answered(
        &mut self,
        session: &Arc<Session>,
        key: Key,
        (packet, connection): (PacketType, u32),
        ends: bool,
        allowance: &mut Allowance,
    ) -> Option<Exchange> {
        let exchange = self.by_session.get_mut(session)?.get_mut(&key)?;
        let was_over = exchange.is_over;
        let is_of_repeat = exchange.is_of_repeat(packet, connection);
        if was_over && !is_of_repeat {
            return None;
        }
        exchange.is_over |= ends;
        let mut found = exchange.clone();
        if is_of_repeat {
            found.demand = Demand::Ignored;
        }
        if ends && !was_over {
            allowance.give_back(EXCHANGE_BYTES);
            self.over.push_back((session.clone(), key, found.number));
            if self.over.len() > OVER_MAX {
                self.forget_oldest();
            }
        }
        Some(found)
    }

    fn forget_oldest(&mut self) {
        let Some((session, key, number)) = self.over.pop_front() else { return };
        let Some(exchanges) = self.by_session.get_mut(&session) else { return };
        if exchanges.get(&key).is_some_and(|known| known.number == number) {
            exchanges.remove(&key);
        }
        if exchanges.is_empty() {
            self.by_session.remove(&session);
        }
    }

    /// The server has lost the session: what was not completed over earlier connections never will be.
    pub fn lose(&mut self, session: &Arc<Session>, connection: u32, allowance: &mut Allowance) {
        let Some(exchanges) = self.by_session.get_mut(session) else { return };
        exchanges.retain(|_, exchange| {
            let is_kept = exchange.connection == connection;
            if !is_kept && !exchange.is_over {
                allowance.give_back(EXCHANGE_BYTES);
            }
            is_kept
        });
    }
}
