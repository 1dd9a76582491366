//! QoS 1 and 2 exchanges of one Session, in both directions.
//!
//! [`Inflight`] numbers what is sent and keeps it until acknowledged; [`Received`] keeps the
//! identifiers of the client's QoS 2 messages until PUBREL, so nothing is delivered twice
//! [MQTT-4.3.3-10]. Nothing here sends: callers pass on what is returned.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, LazyLock},
};

use foldhash::fast::FixedState;

use crate::packet::{PacketIdentifier, QoS};

use super::{Delivery, Empty, StoredMessage};

/// How many Packet Identifiers there are.
const IDENTIFIERS: u64 = 65_535;

/// How far an exchange towards the client has come.
#[derive(Clone, Debug)]
pub enum Stage {
    /// PUBLISH is unacknowledged.
    Published(Delivery),
    /// PUBREC came, PUBREL is unanswered. PUBRELs are repeated in the order of `order`
    /// [MQTT-4.6.0-4].
    Released { order: u64, record: u64 },
}

impl Stage {
    fn into_message(self) -> Option<Arc<StoredMessage>> {
        match self {
            Self::Published(delivery) => Some(delivery.message),
            Self::Released { .. } => None,
        }
    }

    /// Its record in the journal; 0 if it has none.
    pub fn record(&self) -> u64 {
        match self {
            Self::Published(delivery) => delivery.record,
            Self::Released { record, .. } => *record,
        }
    }
}

#[derive(Clone, Debug)]
struct Exchange {
    stage: Stage,
    /// Whether its PUBLISH went over the present connection, where it occupies one of the
    /// client's Receive Maximum.
    sent: bool,
}

/// What an acknowledgement did.
#[derive(Debug)]
pub enum Acknowledged {
    /// The exchange is over; `freed` says whether it occupied one of the client's Receive Maximum.
    Completed { freed: bool, message: Option<Arc<StoredMessage>>, record: u64 },
    /// PUBREL is due, and the message not needed any more; whose `record` is 0 if it has been before.
    Released { message: Option<Arc<StoredMessage>>, record: u64, serial: u64, order: u64 },
    /// No exchange has this identifier.
    Unknown,
    /// The exchange waits for a different packet.
    OutOfTurn,
}

/// Exchanges towards the client, in the order in which they began.
///
/// Identifiers are taken in turn, so that a ring indexed by identifier holds them and the usual
/// acknowledgement is found at its front. An exchange that stays while thousands pass is moved to
/// `stragglers`, which keeps the ring about as long as what is in flight.
#[derive(Debug, Default)]
pub struct Inflight {
    ring: VecDeque<Option<Exchange>>,
    /// Serial number of the ring's front; serial `n` has the identifier `n % 65535 + 1`.
    first: u64,
    /// By identifier, with the serial number.
    stragglers: BTreeMap<u16, (u64, Exchange)>,
    len: usize,
    /// Of the unacknowledged messages.
    bytes: usize,
    releases: u64,
}

/// What a new connection has to repeat.
#[derive(Debug, Default)]
pub struct Repeats {
    /// PUBREL, in the order of their PUBREC.
    pub releases: Vec<PacketIdentifier>,
    /// PUBLISH, in their original order.
    pub publishes: VecDeque<PacketIdentifier>,
}

impl Empty for Inflight {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Inflight> = LazyLock::new(Inflight::default);
        &EMPTY
    }
}

impl Inflight {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Topic, property and payload bytes of what is unacknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins the exchange of a message that is sent now; `None` when all 65,535 identifiers are
    /// in use.
    pub fn begin(&mut self, delivery: Delivery) -> Option<PacketIdentifier> {
        if self.len as u64 == IDENTIFIERS {
            return None;
        }
        loop {
            self.trim();
            let serial = self.first + self.ring.len() as u64;
            let identifier = identifier_of(serial);
            if self.stragglers.contains_key(&identifier.get()) {
                self.ring.push_back(None);
                continue;
            }
            self.bytes += delivery.message.size();
            self.ring.push_back(Some(Exchange { stage: Stage::Published(delivery), sent: true }));
            self.len += 1;
            return Some(identifier);
        }
    }

    /// The serial number of the exchange that [began](Self::begin) last.
    #[inline]
    pub fn last_serial(&self) -> u64 {
        self.first + self.ring.len() as u64 - 1
    }

    /// What was in flight when another process had it, by serial number.
    pub fn restore(exchanges: impl IntoIterator<Item = (u64, Stage)>) -> Self {
        let mut inflight = Self::default();
        for (serial, stage) in exchanges {
            inflight.first = inflight.first.max(serial + 1);
            match &stage {
                Stage::Published(delivery) => inflight.bytes += delivery.message.size(),
                Stage::Released { order, .. } => inflight.releases = inflight.releases.max(order + 1),
            }
            let exchange = Exchange { stage, sent: false };
            inflight.stragglers.insert(identifier_of(serial).get(), (serial, exchange));
        }
        inflight.len = inflight.stragglers.len();
        inflight
    }

    /// Everything in flight with its serial number, in no order.
    pub fn exchanges(&self) -> impl Iterator<Item = (u64, &Stage)> {
        let in_ring = (self.first..).zip(&self.ring);
        let in_ring = in_ring.filter_map(|(serial, slot)| Some((serial, &slot.as_ref()?.stage)));
        self.stragglers.values().map(|(serial, exchange)| (*serial, &exchange.stage)).chain(in_ring)
    }

    /// The unacknowledged message of `identifier`, about to be sent over the present connection.
    pub fn resend(&mut self, identifier: PacketIdentifier) -> Option<&Delivery> {
        let exchange = self.find(identifier)?;
        let Stage::Published(delivery) = &exchange.stage else { return None };
        exchange.sent = true;
        Some(delivery)
    }

    /// The unacknowledged message of `identifier`.
    pub fn published(&mut self, identifier: PacketIdentifier) -> Option<&Delivery> {
        match &self.find(identifier)?.stage {
            Stage::Published(delivery) => Some(delivery),
            Stage::Released { .. } => None,
        }
    }

    pub fn puback(&mut self, identifier: PacketIdentifier) -> Acknowledged {
        self.complete_if(
            identifier,
            |stage| matches!(stage, Stage::Published(delivery) if delivery.qos == QoS::AtLeastOnce),
        )
    }

    /// `refused`: the client answered with a Reason Code of 0x80 or greater, which ends the
    /// exchange [section 4.3.3].
    pub fn pubrec(&mut self, identifier: PacketIdentifier, refused: bool) -> Acknowledged {
        let order = self.releases;
        let Some((serial, exchange)) = self.find_numbered(identifier) else { return Acknowledged::Unknown };
        match &exchange.stage {
            Stage::Published(delivery) if delivery.qos == QoS::ExactlyOnce => {
                if refused {
                    return self.complete(identifier);
                }
                let record = delivery.record;
                let stage = std::mem::replace(&mut exchange.stage, Stage::Released { order, record });
                self.releases += 1;
                let message = stage.into_message();
                self.bytes -= message.as_ref().map_or(0, |message| message.size());
                Acknowledged::Released { message, record, serial, order }
            }
            Stage::Published(_) => Acknowledged::OutOfTurn,
            Stage::Released { order, .. } => {
                Acknowledged::Released { message: None, record: 0, serial, order: *order }
            }
        }
    }

    pub fn pubcomp(&mut self, identifier: PacketIdentifier) -> Acknowledged {
        self.complete_if(identifier, |stage| matches!(stage, Stage::Released { .. }))
    }

    /// Ends the exchange of `identifier` whatever it waits for.
    pub fn complete(&mut self, identifier: PacketIdentifier) -> Acknowledged {
        self.complete_if(identifier, |_| true)
    }

    /// Lists what a new connection repeats; nothing counts as sent over it yet.
    pub fn repeats(&mut self) -> Repeats {
        let first = self.first;
        let in_ring = self
            .ring
            .iter_mut()
            .enumerate()
            .filter_map(|(index, slot)| slot.as_mut().map(|exchange| (first + index as u64, exchange)));
        let stragglers = self.stragglers.values_mut().map(|(serial, exchange)| (*serial, exchange));
        let mut publishes = Vec::new();
        let mut releases = Vec::new();
        for (serial, exchange) in stragglers.chain(in_ring) {
            exchange.sent = false;
            match exchange.stage {
                Stage::Published(_) => publishes.push(serial),
                Stage::Released { order, .. } => releases.push((order, serial)),
            }
        }
        publishes.sort_unstable();
        releases.sort_unstable();
        Repeats {
            releases: releases.into_iter().map(|(_, serial)| identifier_of(serial)).collect(),
            publishes: publishes.into_iter().map(identifier_of).collect(),
        }
    }

    /// Unacknowledged messages in their original order, leaving nothing in flight.
    pub fn take_published(&mut self) -> Vec<Delivery> {
        let order = self.repeats().publishes;
        let mut taken = Vec::with_capacity(order.len());
        for identifier in order {
            if let Some(delivery) = self.published(identifier) {
                taken.push(delivery.clone());
            }
        }
        *self = Self::default();
        taken
    }

    fn complete_if(
        &mut self,
        identifier: PacketIdentifier,
        in_turn: impl FnOnce(&Stage) -> bool,
    ) -> Acknowledged {
        let Some(exchange) = self.find(identifier) else { return Acknowledged::Unknown };
        if !in_turn(&exchange.stage) {
            return Acknowledged::OutOfTurn;
        }
        let ended = match self.ring_index(identifier) {
            Some(index) if self.ring[index].is_some() => self.ring[index].take(),
            _ => self.stragglers.remove(&identifier.get()).map(|(_, exchange)| exchange),
        };
        self.len -= 1;
        self.trim();
        let freed = ended.as_ref().is_some_and(|exchange| exchange.sent);
        let record = ended.as_ref().map_or(0, |exchange| exchange.stage.record());
        let message = ended.and_then(|exchange| exchange.stage.into_message());
        self.bytes -= message.as_ref().map_or(0, |message| message.size());
        Acknowledged::Completed { freed, message, record }
    }

    fn find(&mut self, identifier: PacketIdentifier) -> Option<&mut Exchange> {
        self.find_numbered(identifier).map(|(_, exchange)| exchange)
    }

    #[inline]
    fn find_numbered(&mut self, identifier: PacketIdentifier) -> Option<(u64, &mut Exchange)> {
        match self.ring_index(identifier) {
            Some(index) if self.ring[index].is_some() => {
                let serial = self.first + index as u64;
                self.ring[index].as_mut().map(|exchange| (serial, exchange))
            }
            _ => self.stragglers.get_mut(&identifier.get()).map(|(serial, exchange)| (*serial, exchange)),
        }
    }

    fn ring_index(&self, identifier: PacketIdentifier) -> Option<usize> {
        let wanted = u64::from(identifier.get()) - 1;
        let index = (wanted + IDENTIFIERS - self.first % IDENTIFIERS) % IDENTIFIERS;
        ((index as usize) < self.ring.len()).then_some(index as usize)
    }

    /// Drops ended exchanges from the front, and moves one that stays there out of the way of a
    /// ring that has become mostly holes.
    #[inline]
    fn trim(&mut self) {
        while let Some(front) = self.ring.front() {
            let live = self.len - self.stragglers.len();
            let sparse = self.ring.len() > 64 + 4 * live || self.ring.len() as u64 == IDENTIFIERS;
            if front.is_some() && !sparse {
                return;
            }
            if let Some(Some(exchange)) = self.ring.pop_front() {
                self.stragglers.insert(identifier_of(self.first).get(), (self.first, exchange));
            }
            self.first += 1;
        }
    }
}

fn identifier_of(serial: u64) -> PacketIdentifier {
    let value = u16::try_from(serial % IDENTIFIERS + 1).expect("at most 65,535");
    PacketIdentifier::new(value).expect("at least 1")
}

/// Identifiers of the client's QoS 2 messages that were passed on and not yet released.
#[derive(Debug, Default)]
pub struct Received {
    identifiers: HashSet<u16, FixedState>,
    /// The last ones that were released over the present connection: if it breaks, the client may
    /// not have heard so.
    released: VecDeque<u16>,
    /// Those of the connection before.
    unheard: VecDeque<u16>,
}

/// How many released identifiers are remembered.
const REMEMBERED: usize = 128;

impl Empty for Received {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Received> = LazyLock::new(Received::default);
        &EMPTY
    }
}

impl Received {
    /// Whether `identifier` is new, so that its message has to be passed on.
    pub fn insert(&mut self, identifier: PacketIdentifier) -> bool {
        self.identifiers.insert(identifier.get())
    }

    /// Whether every message was released.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.identifiers.is_empty()
    }

    #[inline]
    pub fn contains(&self, identifier: PacketIdentifier) -> bool {
        !self.is_empty() && self.identifiers.contains(&identifier.get())
    }

    /// Whether `identifier` was there, or has been until the connection before broke.
    pub fn release(&mut self, identifier: PacketIdentifier) -> bool {
        let identifier = identifier.get();
        if !self.identifiers.remove(&identifier) {
            let unheard = self.unheard.iter().position(|&one| one == identifier);
            return unheard.and_then(|at| self.unheard.remove(at)).is_some();
        }
        if self.released.len() == REMEMBERED {
            self.released.pop_front();
        }
        self.released.push_back(identifier);
        true
    }

    /// All that are there, in no order.
    pub fn identifiers(&self) -> impl Iterator<Item = u16> {
        self.identifiers.iter().copied()
    }

    /// The client is back and repeats PUBREL where it has not heard PUBCOMP.
    pub fn resume(&mut self) {
        self.unheard = std::mem::take(&mut self.released);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::session::{MessageRef, Payload};

    fn delivery(qos: QoS) -> Delivery {
        let message = MessageRef {
            topic: b"t",
            properties: &[],
            payload: Payload::Copied(&[]),
            qos,
            retain: false,
            expires_at: None,
            packet: None,
        };
        Delivery {
            message: Arc::new(message.store()),
            qos,
            retain: false,
            subscription_identifiers: Default::default(),
            share: None,
            record: 0,
        }
    }

    fn identifier(value: u16) -> PacketIdentifier {
        PacketIdentifier::new(value).expect("not zero")
    }

    #[test] // [MQTT-2.2.1-4]
    fn identifiers_are_unique_and_can_all_be_used() {
        let mut inflight = Inflight::default();
        let mut seen = HashSet::new();
        while let Some(identifier) = inflight.begin(delivery(QoS::AtLeastOnce)) {
            assert!(seen.insert(identifier));
        }
        assert_eq!(seen.len(), 65_535);
        assert!(matches!(inflight.puback(identifier(4711)), Acknowledged::Completed { freed: true, .. }));
        assert_eq!(inflight.begin(delivery(QoS::AtLeastOnce)), Some(identifier(4711)));
        assert_eq!(inflight.begin(delivery(QoS::AtLeastOnce)), None);
    }

    #[test]
    fn an_exchange_that_stays_keeps_its_identifier_while_others_wrap_around_it() {
        let mut inflight = Inflight::default();
        let stays = inflight.begin(delivery(QoS::ExactlyOnce)).expect("free");
        for _ in 0..200_000 {
            let next = inflight.begin(delivery(QoS::AtLeastOnce)).expect("free");
            assert_ne!(next, stays);
            assert!(matches!(inflight.puback(next), Acknowledged::Completed { .. }));
        }
        assert!(inflight.ring.len() < 100, "the ring stays short: {}", inflight.ring.len());
        assert!(matches!(inflight.pubrec(stays, false), Acknowledged::Released { .. }));
        assert!(matches!(inflight.pubcomp(stays), Acknowledged::Completed { .. }));
        assert!(inflight.is_empty());
    }

    #[test]
    fn what_was_restored_goes_on_with_its_identifiers_and_in_its_order() {
        let mut before = Inflight::default();
        for _ in 0..70_000 {
            let identifier = before.begin(delivery(QoS::ExactlyOnce)).expect("free");
            // A few stay, one of them while the others go round.
            if !matches!(before.last_serial(), 7 | 69_990..) {
                before.complete(identifier);
            }
        }
        before.pubrec(identifier_of(69_995), false);
        before.pubrec(identifier_of(69_993), false);
        let last = before.last_serial();
        let kept: Vec<_> = before.exchanges().map(|(serial, stage)| (serial, stage.clone())).collect();
        let mut after = Inflight::restore(kept);
        assert_eq!((after.len(), after.bytes()), (before.len(), before.bytes()));
        let (before, repeats) = (before.repeats(), after.repeats());
        assert_eq!((&repeats.releases, &repeats.publishes), (&before.releases, &before.publishes));
        assert_eq!(repeats.publishes[0], identifier(8));
        assert_eq!(after.begin(delivery(QoS::AtLeastOnce)), Some(identifier_of(last + 1)));
        after.pubrec(identifier(8), false);
        assert_eq!(after.repeats().releases.last(), Some(&identifier(8)));
    }

    #[test] // [MQTT-4.6.0-1], [MQTT-4.6.0-4]
    fn repeats_keep_the_order_of_publish_and_of_pubrec() {
        let mut inflight = Inflight::default();
        for _ in 0..5 {
            inflight.begin(delivery(QoS::ExactlyOnce));
        }
        inflight.pubrec(identifier(4), false);
        inflight.pubrec(identifier(2), false);
        let repeats = inflight.repeats();
        assert_eq!(repeats.releases, [identifier(4), identifier(2)]);
        assert_eq!(repeats.publishes, [identifier(1), identifier(3), identifier(5)]);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_of_identifiers(
            operations in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 1..400)
        ) {
            let mut inflight = Inflight::default();
            let mut model: BTreeMap<u16, u64> = BTreeMap::new();
            for (step, (operation, which)) in operations.into_iter().enumerate() {
                if operation < 2 || model.is_empty() {
                    let new = inflight.begin(delivery(QoS::AtLeastOnce)).expect("free");
                    prop_assert!(model.insert(new.get(), step as u64).is_none());
                } else {
                    let keys: Vec<u16> = model.keys().copied().collect();
                    let key = *which.get(&keys);
                    let is_completed =
                        matches!(inflight.puback(identifier(key)), Acknowledged::Completed { .. });
                    prop_assert!(is_completed);
                    model.remove(&key);
                }
                prop_assert_eq!(inflight.len(), model.len());
            }
            let mut expected: Vec<(u64, u16)> = model.iter().map(|(id, step)| (*step, *id)).collect();
            expected.sort_unstable();
            let repeats: Vec<u16> = inflight.repeats().publishes.into_iter().map(|id| id.get()).collect();
            prop_assert_eq!(repeats, expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        }
    }
}
