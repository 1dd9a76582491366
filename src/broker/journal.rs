//! What outlives the broker, and what of it changed since it was last written down.
//!
//! A [`Journal`] is no log but a map by record: a message that is published, delivered and
//! acknowledged between two [`Batch`]es leaves nothing in it, and it is never longer than what there
//! is. Whoever drives the broker takes a batch, makes it durable as a whole, and says so by
//! [`handle_durable`](Broker::handle_durable); then what promises it to clients may leave.
//!
//! One batch is under way at a time. A promise waits for the batch with the change that it is about:
//! PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK and CONNACK, if handling the packet they answer
//! changed anything, and a PUBLISH at QoS 2, which a client is not to see twice. Later answers
//! of the same connection stand behind them, and a new connection of the same client begins with a CONNACK.
//!
//! Relaxed durability lets promises leave as long as the disk is not far behind, but for three: a PUBLISH at
//! QoS 2, PUBCOMP, and a CONNACK that ends a Session. A broker that has forgotten a moment must not meet a client that remembers a Packet
//! Identifier of that moment, or thinks one free that the broker still has: the next message with that
//! identifier would be taken for the one before, and lost, however long after.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::FixedState;

use crate::session::{Connection, ConnectionId, Delivery, Session, StoredMessage};

use super::{
    Broker, Output,
    records::{DeliveryRecord, DeliveryStage, Restored, RetainedRecord, SessionRecord, SubscriptionRecord},
};

/// Messages longer than this are kept once for all that wait for them.
const LONG: usize = 1024;

/// When what clients are promised is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Never: the broker's state ends with it.
    #[default]
    None,
    /// [`LAG`](Self::LAG) later.
    Relaxed,
    /// Before it is promised.
    Strict,
}

impl Durability {
    /// How far what is on disk may be behind what was promised; if the disk is slower, promises wait.
    pub const LAG: Duration = Duration::from_millis(250);

    /// As settings say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "relaxed" => Some(Self::Relaxed),
            "strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// Changes that become durable together, or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// From 1, in their order.
    pub number: u64,
    /// Sessions that ended, by number. Whatever else stands here of them is not to be kept.
    pub forgotten: HashSet<u64, FixedState>,
    /// Sessions that are new or have changed, by number.
    pub sessions: Vec<(u64, SessionRecord)>,
    /// By Session and Topic Filter; `None` has ended.
    pub subscriptions: Vec<(u64, Box<str>, Option<SubscriptionRecord>)>,
    pub deliveries: Deliveries,
    /// QoS 2 messages of clients by Session and Packet Identifier: whether it was passed on and is to
    /// be remembered, or was released.
    pub received: Vec<(u64, u16, bool)>,
    /// By serial number; `None` is not retained any more.
    pub retained: Vec<(u64, Option<RetainedRecord>)>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.forgotten.is_empty()
            && self.sessions.is_empty()
            && self.subscriptions.is_empty()
            && self.deliveries.is_empty()
            && self.received.is_empty()
            && self.retained.is_empty()
    }
}

/// Deliveries that changed. Their records are numbered from 1, across all Sessions.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// The number of the first of `fresh`.
    first: u64,
    /// Those that are new, by number; `None` ended meanwhile.
    fresh: VecDeque<Option<DeliveryRecord>>,
    /// How many of them there are.
    live: usize,
    /// Earlier ones, and new ones that would keep a long row of ended ones.
    others: HashMap<u64, Other, FixedState>,
}

#[derive(Debug)]
struct Other {
    /// By number.
    session: u64,
    delivery: Toggled<DeliveryRecord>,
}

/// What became of a delivery.
#[derive(Debug)]
pub struct DeliveryChange<'a> {
    pub record: u64,
    /// By number.
    pub session: u64,
    /// `None`: it has ended.
    pub now: Option<&'a DeliveryRecord>,
}

impl Deliveries {
    pub fn is_empty(&self) -> bool {
        self.live == 0 && self.others.is_empty()
    }

    /// Everything that changed, most of it in the order of the numbers.
    pub fn iter(&self) -> impl Iterator<Item = DeliveryChange<'_>> {
        let others = self.others.iter().map(|(&record, Other { session, delivery })| DeliveryChange {
            record,
            session: *session,
            now: delivery.now.as_ref(),
        });
        let fresh = (self.first..).zip(&self.fresh).filter_map(|(record, slot)| {
            let now = slot.as_ref()?;
            Some(DeliveryChange { record, session: now.session, now: Some(now) })
        });
        others.chain(fresh)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut DeliveryRecord> {
        let others = self.others.values_mut().filter_map(|other| other.delivery.now.as_mut());
        self.fresh.iter_mut().filter_map(Option::as_mut).chain(others)
    }

    fn next(&self) -> u64 {
        self.first + self.fresh.len() as u64
    }

    #[inline]
    fn slot(&mut self, record: u64) -> Option<&mut Option<DeliveryRecord>> {
        self.fresh.get_mut(usize::try_from(record.checked_sub(self.first)?).ok()?)
    }

    /// Adds the next record, or changes one.
    #[inline]
    pub fn put(&mut self, record: u64, delivery: DeliveryRecord) {
        if record == self.next() {
            self.fresh.push_back(Some(delivery));
            self.live += 1;
        } else if let Some(slot) = self.slot(record) {
            *slot = Some(delivery);
        } else {
            let session = delivery.session;
            self.other(record, session).now = Some(delivery);
        }
    }

    /// A record is not to be kept any more.
    #[inline]
    pub fn end(&mut self, record: u64, session: u64) {
        if let Some(slot) = self.slot(record) {
            self.live -= usize::from(slot.take().is_some());
            return self.trim();
        }
        let delivery = self.other(record, session);
        delivery.now = None;
        if !delivery.was_there {
            self.others.remove(&record);
        }
    }

    /// Drops a record that is removed with its Session.
    fn forget(&mut self, record: u64) {
        match self.slot(record) {
            Some(slot) => {
                self.live -= usize::from(slot.take().is_some());
                self.trim();
            }
            None => {
                self.others.remove(&record);
            }
        }
    }

    fn other(&mut self, record: u64, session: u64) -> &mut Toggled<DeliveryRecord> {
        let there = Toggled { was_there: true, now: None };
        &mut self.others.entry(record).or_insert(Other { session, delivery: there }).delivery
    }

    /// Drops ended ones from the front, and moves one that stays there out of the way.
    #[inline]
    fn trim(&mut self) {
        while let Some(front) = self.fresh.front() {
            if front.is_some() && self.fresh.len() <= 64 + 4 * self.live {
                return;
            }
            if let Some(Some(delivery)) = self.fresh.pop_front() {
                self.live -= 1;
                let (session, new) = (delivery.session, Toggled { was_there: false, now: Some(delivery) });
                self.others.insert(self.first, Other { session, delivery: new });
            }
            self.first += 1;
        }
    }

    /// Takes all of it, and goes on with the numbers.
    fn take(&mut self) -> Self {
        let first = self.next();
        std::mem::replace(self, Self { first, ..Self::default() })
    }
}

/// Something that was there, or not, when the batch began, and is there now, or not.
#[derive(Debug)]
struct Toggled<T> {
    was_there: bool,
    now: Option<T>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    is_strict: bool,
    /// The number of the batch that is being gathered.
    batch: u64,
    /// The last batch that is durable.
    durable: u64,
    /// When the first change was made of the batch that is under way, and of the one being gathered.
    since: [Option<Instant>; 2],
    /// Counts changes, whether anything of them is left or not.
    changes: u64,
    /// How many there were when the packet came that is being handled.
    before_packet: u64,
    /// Whether it ended a Session that was kept.
    has_forgotten: bool,
    /// Connections whose outboxes hold what waits for a batch.
    held: HashSet<ConnectionId, FixedState>,
    /// The last batch that somebody was said to wait for.
    awaited: u64,
    next_session: u64,
    /// The number of the first Session that no batch has had.
    first_new_session: u64,
    next_message: u64,
    /// Sessions that are new or have changed, by index.
    touched: HashSet<u32, FixedState>,
    forgotten: HashSet<u64, FixedState>,
    subscriptions: HashMap<(u64, Box<str>), Toggled<SubscriptionRecord>, FixedState>,
    deliveries: Deliveries,
    has_shares: bool,
    received: HashMap<(u64, u16), Toggled<()>, FixedState>,
    retained: HashMap<u64, Option<RetainedRecord>, FixedState>,
}

impl Journal {
    /// `None` if nothing is kept.
    pub fn new(durability: Durability) -> Option<Self> {
        let is_strict = match durability {
            Durability::None => return None,
            Durability::Relaxed => false,
            Durability::Strict => true,
        };
        Some(Self {
            is_strict,
            batch: 1,
            durable: 0,
            since: [None; 2],
            changes: 0,
            before_packet: 0,
            has_forgotten: false,
            held: HashSet::default(),
            awaited: 0,
            next_session: 1,
            first_new_session: 1,
            next_message: 1,
            touched: HashSet::default(),
            forgotten: HashSet::default(),
            subscriptions: HashMap::default(),
            deliveries: Deliveries { first: 1, ..Deliveries::default() },
            has_shares: false,
            received: HashMap::default(),
            retained: HashMap::default(),
        })
    }

    /// Numbers that are in use are not given again.
    pub fn go_on_after(&mut self, restored: &Restored) {
        let numbers = restored.sessions.iter().map(|session| session.number);
        self.next_session = numbers.max().unwrap_or(0) + 1;
        self.first_new_session = self.next_session;
        let deliveries = || restored.sessions.iter().flat_map(|session| &session.deliveries);
        self.deliveries.first = deliveries().map(|(record, _)| *record).max().unwrap_or(0) + 1;
        let messages = deliveries().filter_map(|(_, record)| Some(&record.stage.delivery()?.message));
        let wills = restored.sessions.iter().filter_map(|session| session.record.will.as_ref());
        let messages = messages
            .chain(wills.map(|will| &will.message))
            .chain(restored.retained.iter().map(|(_, retained)| &retained.message));
        self.next_message = messages.filter_map(|message| message.number()).max().unwrap_or(0) + 1;
    }

    fn is_empty(&self) -> bool {
        self.touched.is_empty()
            && self.forgotten.is_empty()
            && self.subscriptions.is_empty()
            && self.deliveries.is_empty()
            && self.received.is_empty()
            && self.retained.is_empty()
    }

    /// A packet is about to be handled.
    #[inline]
    pub fn begin_packet(&mut self) {
        self.before_packet = self.changes;
        self.has_forgotten = false;
    }

    /// Notes that something changes; whether it is the first change of the batch.
    #[inline]
    fn note(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        self.changes += 1;
        if self.since[1].is_none() {
            self.since[1] = Some(now);
            outputs.push_back(Output::Persist { is_awaited: false });
        }
    }

    /// The batch that what has changed is durable with; `None` if it is already.
    #[inline]
    fn undurable(&self) -> Option<u64> {
        match self.since {
            [_, Some(_)] => Some(self.batch),
            [Some(_), None] => Some(self.batch - 1),
            [None, None] => None,
        }
    }

    /// The batch that a promise about what has changed has to wait for.
    #[inline]
    fn awaited(&self, now: Instant) -> Option<u64> {
        let [under_way, gathered] = self.since;
        let oldest = under_way.or(gathered)?;
        let is_due = self.is_strict || now.saturating_duration_since(oldest) > Durability::LAG;
        self.undurable().filter(|_| is_due)
    }

    /// Has what is appended to the outbox from here on wait until all that has changed is durable.
    #[inline]
    pub fn hold(&mut self, connection: &mut Connection, outputs: &mut VecDeque<Output>) {
        if let Some(batch) = self.undurable() {
            self.hold_for(batch, connection, outputs);
        }
    }

    fn hold_for(&mut self, batch: u64, connection: &mut Connection, outputs: &mut VecDeque<Output>) {
        if connection.outbox.hold(batch) {
            self.held.insert(connection.id);
            if batch == self.batch && self.awaited < batch {
                self.awaited = batch;
                outputs.push_back(Output::Persist { is_awaited: true });
            }
        }
    }

    /// Has an answer wait for what its packet changed, if it changed anything and has to wait.
    #[inline]
    pub fn hold_answer(&mut self, now: Instant, connection: &mut Connection, outputs: &mut VecDeque<Output>) {
        if self.changes == self.before_packet {
            return;
        }
        // An end frees all identifiers of both sides.
        let batch = if self.has_forgotten { self.undurable() } else { self.awaited(now) };
        if let Some(batch) = batch {
            self.hold_for(batch, connection, outputs);
        }
    }

    pub fn add_session(&mut self) -> u64 {
        self.next_session += 1;
        self.next_session - 1
    }

    /// What is known of a Session itself has changed.
    pub fn touch(&mut self, now: Instant, index: u32, outputs: &mut VecDeque<Output>) {
        self.note(now, outputs);
        self.touched.insert(index);
    }

    /// A Session that is kept ends, or goes on without being kept, with all that belongs to it.
    pub fn forget(
        &mut self,
        now: Instant,
        index: u32,
        session: &Session,
        filters: impl Iterator<Item = Box<str>>,
        outputs: &mut VecDeque<Output>,
    ) {
        self.note(now, outputs);
        self.has_forgotten = true;
        self.touched.remove(&index);
        let number = session.number;
        for filter in filters {
            self.subscriptions.remove(&(number, filter));
        }
        for identifier in session.received.identifiers() {
            self.received.remove(&(number, identifier));
        }
        let sent = session.inflight.exchanges().map(|(_, stage)| stage.record());
        for record in session.queue.messages().map(|delivery| delivery.record).chain(sent) {
            self.deliveries.forget(record);
        }
        // Nothing is left of one that was never written.
        if number < self.first_new_session {
            self.forgotten.insert(number);
        }
    }

    pub fn subscribe(
        &mut self,
        now: Instant,
        session: u64,
        is_new: bool,
        record: SubscriptionRecord,
        outputs: &mut VecDeque<Output>,
    ) {
        self.note(now, outputs);
        let key = (session, record.filter.clone());
        let toggled = self.subscriptions.entry(key).or_insert(Toggled { was_there: !is_new, now: None });
        toggled.now = Some(record);
    }

    pub fn unsubscribe(
        &mut self,
        now: Instant,
        session: u64,
        filter: Box<str>,
        outputs: &mut VecDeque<Output>,
    ) {
        self.note(now, outputs);
        let toggled = self
            .subscriptions
            .entry((session, filter.clone()))
            .or_insert(Toggled { was_there: true, now: None });
        toggled.now = None;
        if !toggled.was_there {
            self.subscriptions.remove(&(session, filter));
        }
    }

    pub fn receive(&mut self, now: Instant, session: u64, identifier: u16, outputs: &mut VecDeque<Output>) {
        self.note(now, outputs);
        let toggled =
            self.received.entry((session, identifier)).or_insert(Toggled { was_there: false, now: None });
        toggled.now = Some(());
    }

    pub fn release(&mut self, now: Instant, session: u64, identifier: u16, outputs: &mut VecDeque<Output>) {
        self.note(now, outputs);
        let toggled =
            self.received.entry((session, identifier)).or_insert(Toggled { was_there: true, now: None });
        toggled.now = None;
        if !toggled.was_there {
            self.received.remove(&(session, identifier));
        }
    }

    /// Gives a long message a number of its own.
    #[inline]
    pub fn number(&mut self, message: &StoredMessage) {
        if message.size() > LONG && message.number().is_none() {
            message.set_number(self.next_message);
            self.next_message += 1;
        }
    }

    /// The number for the record of the next delivery.
    #[inline]
    pub fn next_record(&self) -> u64 {
        self.deliveries.next()
    }

    /// A message is on its way to a Session: it waits in the queue, or was sent with `serial`. Its
    /// record is the next one, or that of a message which waited.
    #[inline]
    pub fn deliver(
        &mut self,
        now: Instant,
        session: u64,
        delivery: Delivery,
        serial: Option<u64>,
        outputs: &mut VecDeque<Output>,
    ) {
        self.note(now, outputs);
        self.number(&delivery.message);
        self.has_shares |= delivery.share.is_some();
        let record = delivery.record;
        let stage = match serial {
            Some(serial) => DeliveryStage::Published { serial, delivery },
            None => DeliveryStage::Queued(delivery),
        };
        self.deliveries.put(record, DeliveryRecord { session, share: None, stage });
    }

    /// PUBREC came for a message that was sent with `serial`; it is the `order`th.
    #[inline]
    pub fn release_delivery(
        &mut self,
        now: Instant,
        session: u64,
        record: u64,
        (serial, order): (u64, u64),
        outputs: &mut VecDeque<Output>,
    ) {
        self.note(now, outputs);
        let stage = DeliveryStage::Released { serial, order };
        self.deliveries.put(record, DeliveryRecord { session, share: None, stage });
    }

    /// A delivery has ended.
    #[inline]
    pub fn end(&mut self, now: Instant, session: u64, record: u64, outputs: &mut VecDeque<Output>) {
        self.note(now, outputs);
        self.deliveries.end(record, session);
    }

    pub fn retain(
        &mut self,
        now: Instant,
        serial: u64,
        message: &Arc<StoredMessage>,
        publisher: Option<Arc<str>>,
        outputs: &mut VecDeque<Output>,
    ) {
        self.note(now, outputs);
        self.number(message);
        self.retained.insert(serial, Some(RetainedRecord { message: Arc::clone(message), publisher }));
    }

    /// A message is not retained any more.
    pub fn drop_retained(&mut self, now: Instant, serial: u64, outputs: &mut VecDeque<Output>) {
        self.note(now, outputs);
        // One that came with this batch never was there.
        if !matches!(self.retained.remove(&serial), Some(Some(_))) {
            self.retained.insert(serial, None);
        }
    }
}

impl Broker {
    /// Takes what changed since the last batch, which has to be durable by then; `None` if nothing
    /// did, or the broker's state is not kept at all.
    pub fn take_batch(&mut self) -> Option<Batch> {
        let journal = self.journal.as_deref_mut()?;
        journal.since = [journal.since[1].take(), None];
        journal.first_new_session = journal.next_session;
        if journal.is_empty() {
            // What came is gone again: promises about it are kept.
            let number = journal.batch;
            journal.batch += 1;
            self.handle_durable(number);
            return None;
        }
        let mut deliveries = journal.deliveries.take();
        if std::mem::take(&mut journal.has_shares) {
            for record in deliveries.iter_mut() {
                let share = record.stage.delivery().and_then(|delivery| delivery.share);
                record.share = share.and_then(|share| self.subscriptions.filter_of_share(share));
            }
        }
        let touched = std::mem::take(&mut journal.touched);
        let sessions = touched.into_iter().filter_map(|index| {
            let session = self.sessions.get(index as usize)?;
            if let Some(will) = &session.will {
                journal.number(&will.message);
            }
            Some((session.number, record_of(session)))
        });
        let sessions = sessions.collect();
        let subscriptions = std::mem::take(&mut journal.subscriptions).into_iter();
        let subscriptions = subscriptions
            .filter(|(_, toggled)| toggled.was_there || toggled.now.is_some())
            .map(|((session, filter), toggled)| (session, filter, toggled.now));
        let received = std::mem::take(&mut journal.received).into_iter();
        let received = received
            .filter(|(_, toggled)| toggled.was_there != toggled.now.is_some())
            .map(|((session, identifier), toggled)| (session, identifier, toggled.now.is_some()));
        let batch = Batch {
            number: journal.batch,
            forgotten: std::mem::take(&mut journal.forgotten),
            sessions,
            subscriptions: subscriptions.collect(),
            deliveries,
            received: received.collect(),
            retained: std::mem::take(&mut journal.retained).into_iter().collect(),
        };
        journal.batch += 1;
        Some(batch)
    }

    /// The batch with this number, and all before it, are durable: what waited for them can leave.
    pub fn handle_durable(&mut self, number: u64) {
        let Some(journal) = self.journal.as_deref_mut() else { return };
        journal.durable = number;
        journal.since[0] = None;
        let Self { connections, by_id, outputs, .. } = self;
        journal.held.retain(|id| {
            // It may be gone.
            let Some(&index) = by_id.get(id) else { return false };
            let outbox = &mut connections[index as usize].outbox;
            outbox.release(number);
            if outbox.writable() > 0 {
                outputs.push_back(Output::Flush(*id));
            }
            outbox.has_holds()
        });
    }

    /// A connection is gone.
    pub(super) fn forget_connection(&mut self, id: ConnectionId) {
        if let Some(journal) = self.journal.as_deref_mut() {
            journal.held.remove(&id);
        }
    }

    /// The batch that whoever is told of what was done up to now has to wait for; `None` if nobody has to.
    pub fn promised(&self, now: Instant) -> Option<u64> {
        self.journal.as_deref()?.awaited(now)
    }

    /// The number of the last batch that is durable, and of the last one with changes: a promise about
    /// what was done up to now is kept once the first reaches the second. `None` if nothing is kept.
    pub fn durable(&self) -> Option<(u64, u64)> {
        let journal = self.journal.as_deref()?;
        let last = journal.undurable().unwrap_or(journal.durable);
        Some((journal.durable, last))
    }

    /// Begins or stops to keep a Session, as its expiry asks, and notes what is known of it.
    pub(super) fn keep(&mut self, now: Instant, index: u32) {
        let Some(journal) = self.journal.as_deref_mut() else { return };
        let session = &mut self.sessions[index as usize];
        if session.expiry != 0 {
            if session.number == 0 {
                session.number = journal.add_session();
            }
            journal.touch(now, index, &mut self.outputs);
        } else if session.number != 0 {
            self.forget(now, index);
        }
    }

    /// Keeps nothing more of a Session.
    pub(super) fn forget(&mut self, now: Instant, index: u32) {
        let Some(journal) = self.journal.as_deref_mut() else { return };
        let session = &mut self.sessions[index as usize];
        if session.number != 0 {
            let filters = session.subscriptions.keys().map(|&key| self.subscriptions.filter(key).into());
            journal.forget(now, index, session, filters, &mut self.outputs);
            session.number = 0;
        }
    }

    /// What is known of a Session itself has changed.
    pub(super) fn touch(&mut self, now: Instant, index: u32) {
        if let Some(journal) = self.journal.as_deref_mut()
            && self.sessions[index as usize].number != 0
        {
            journal.touch(now, index, &mut self.outputs);
        }
    }

    /// A delivery to a Session has ended.
    #[inline]
    pub(super) fn end_delivery(&mut self, now: Instant, index: u32, record: u64) {
        if let Some(journal) = self.journal.as_deref_mut() {
            let number = self.sessions[index as usize].number;
            if number != 0 && record != 0 {
                journal.end(now, number, record, &mut self.outputs);
            }
        }
    }

    /// Has an answer of the packet that is being handled wait for what it changed.
    #[inline]
    pub(super) fn hold_answer(&mut self, now: Instant, index: u32) {
        if let Some(journal) = self.journal.as_deref_mut() {
            journal.hold_answer(now, &mut self.connections[index as usize], &mut self.outputs);
        }
    }

    /// Has a PUBCOMP to a Session that is kept wait until all that has changed is durable, as the release that it
    /// answers may have been over a connection before.
    #[inline]
    pub(super) fn hold_completion(&mut self, index: u32, session: u32) {
        if let Some(journal) =
            self.journal.as_deref_mut().filter(|_| self.sessions[session as usize].number != 0)
        {
            journal.hold(&mut self.connections[index as usize], &mut self.outputs);
        }
    }
}

/// What is kept of a Session itself.
pub(super) fn record_of(session: &Session) -> SessionRecord {
    SessionRecord {
        client_identifier: Arc::clone(&session.client_identifier),
        protocol: session.protocol,
        username: session.username.clone(),
        standing: session.standing,
        clean_start: session.clean_start,
        keep_alive: session.keep_alive,
        expiry: session.expiry,
        is_connected: session.connection.is_some(),
        ends_at: session.ends_at,
        will_at: session.will_at,
        will: session.will.as_deref().cloned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn released(order: u64) -> DeliveryRecord {
        let stage = DeliveryStage::Released { serial: 0, order };
        DeliveryRecord { session: 1, share: None, stage }
    }

    fn order(record: &DeliveryRecord) -> u64 {
        let DeliveryStage::Released { order, .. } = record.stage else { unreachable!("made above") };
        order
    }

    proptest! {
        #[test]
        fn batches_of_deliveries_come_to_what_there_is(
            operations in prop::collection::vec((0..40_u8, any::<prop::sample::Index>()), 1..600),
        ) {
            let mut deliveries = Deliveries { first: 1, ..Deliveries::default() };
            let (mut there, mut kept) = (BTreeMap::new(), BTreeMap::new());
            for (step, (operation, which)) in operations.into_iter().enumerate() {
                let step = step as u64;
                let any = (!there.is_empty()).then(|| *which.get(&there.keys().copied().collect::<Vec<u64>>()));
                match (operation, any) {
                    (0..20, _) | (_, None) => {
                        let record = deliveries.next();
                        deliveries.put(record, released(step));
                        prop_assert!(there.insert(record, step).is_none());
                        // Most end at once; the first one never does.
                        if operation > 3 && record > 1 {
                            deliveries.end(record, 1);
                            there.remove(&record);
                        }
                    }
                    (20..25, Some(record)) => {
                        deliveries.put(record, released(step));
                        there.insert(record, step);
                    }
                    (25..39, Some(record)) if record > 1 => {
                        deliveries.end(record, 1);
                        there.remove(&record);
                    }
                    (39, _) => {
                        for change in deliveries.take().iter() {
                            let before = match change.now {
                                Some(record) => kept.insert(change.record, order(record)),
                                None => kept.remove(&change.record),
                            };
                            prop_assert!(change.now.is_some() || before.is_some(), "it never was there");
                        }
                        prop_assert!(deliveries.is_empty());
                        prop_assert_eq!(&kept, &there);
                    }
                    _ => {}
                }
                prop_assert!(deliveries.fresh.len() <= 65 + 4 * deliveries.live, "a long row of nothing");
            }
        }
    }
}
