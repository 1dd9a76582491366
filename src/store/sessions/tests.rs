//! The store of sessions as its caller sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    sync::mpsc::sync_channel,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sled::IVec;
use smallvec::smallvec;

use super::*;
use crate::{
    broker::{
        DeliveryRecord, DeliveryStage, RestoredSession, RetainedRecord, SessionRecord, SubscriptionRecord,
    },
    packet::{PacketIdentifier, ProtocolVersion, QoS, RetainHandling, SubscriptionOptions},
    session::{Delivery, MessageRef, NEVER, Payload, Standing, StoredMessage, WillMessage},
};

/// Longer ones are kept once for all that need them; the broker numbers them.
const LONG: usize = 1024;

pub fn message(topic: &str, payload: &[u8], number: u64) -> Arc<StoredMessage> {
    let payload = Bytes::copy_from_slice(payload);
    let message = MessageRef {
        topic: topic.as_bytes(),
        // A user property.
        properties: b"\x26\x00\x01a\x00\x01b",
        payload: Payload::of(&payload),
        qos: QoS::ExactlyOnce,
        retain: true,
        expires_at: None,
        packet: None,
    };
    let stored = message.store();
    if stored.size() > LONG {
        stored.set_number(number);
    }
    Arc::new(stored)
}

pub fn session(client_identifier: &str) -> SessionRecord {
    SessionRecord {
        client_identifier: client_identifier.into(),
        protocol: ProtocolVersion::V5,
        username: Some("ada".into()),
        standing: Standing::Proven,
        clean_start: false,
        keep_alive: 60,
        expiry: NEVER,
        is_connected: true,
        ends_at: None,
        will_at: None,
        will: None,
    }
}

pub fn subscription(filter: &str) -> SubscriptionRecord {
    SubscriptionRecord {
        filter: filter.into(),
        options: SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::SendIfNew,
        },
        subscription_identifier: 7,
        lookup: None,
    }
}

pub fn queued(session: u64, record: u64, message: Arc<StoredMessage>) -> DeliveryRecord {
    let delivery = Delivery {
        message,
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_identifiers: smallvec![1, 268_435_455],
        share: None,
        record,
    };
    DeliveryRecord { session, share: None, stage: DeliveryStage::Queued(delivery) }
}

pub fn open(folder: &Path) -> (SessionStore, Restored) {
    SessionStore::open(folder).unwrap()
}

/// Waits until it is durable.
pub fn commit(store: &SessionStore, batch: Batch) {
    let (done, is_done) = sync_channel(1);
    store.commit(batch, move || done.send(()).unwrap());
    is_done.recv().unwrap();
}

/// What there is, a line for each record. Times are in seconds from now.
pub fn describe(restored: &Restored) -> String {
    let mut text = String::new();
    for RestoredSession { number, record, subscriptions, deliveries, received } in &restored.sessions {
        describe_session(*number, record, &mut text);
        for subscription in subscriptions {
            describe_subscription(subscription, &mut text);
        }
        for identifier in received {
            writeln!(text, "  received {identifier}").unwrap();
        }
        for (record, delivery) in deliveries {
            assert_eq!(delivery.session, *number);
            describe_delivery(*record, delivery, &mut text);
        }
    }
    for (serial, record) in &restored.retained {
        writeln!(
            text,
            "retained {serial} of {:?}: {}",
            record.publisher.as_deref(),
            describe_message(&record.message)
        )
        .unwrap();
    }
    text
}

fn describe_session(number: u64, record: &SessionRecord, text: &mut String) {
    let will = record.will.as_ref().map(|will| {
        format!(" {} expiry {:?} delay {:?}", describe_message(&will.message), will.expiry, will.delay)
    });
    writeln!(
        text,
        "session {number} {} {:?} user {:?} {:?} clean start {} keep alive {} expiry {} connected {} ends {:?} will \
         {:?}{}",
        shortened(&record.client_identifier),
        record.protocol,
        record.username.as_deref().map(shortened),
        record.standing,
        record.clean_start,
        record.keep_alive,
        record.expiry,
        record.is_connected,
        record.ends_at.map(from_now),
        record.will_at.map(from_now),
        will.unwrap_or_default(),
    )
    .unwrap();
}

fn describe_subscription(record: &SubscriptionRecord, text: &mut String) {
    let SubscriptionRecord { filter, options, subscription_identifier, lookup } = record;
    writeln!(
        text,
        "  {} QoS {} no local {} as published {} handling {:?} identifier {subscription_identifier}",
        shortened(filter),
        options.qos,
        options.no_local,
        options.retain_as_published,
        options.retain_handling
    )
    .unwrap();
    if let Some(lookup) = lookup {
        writeln!(text, "    looked up from {:?} until {}", lookup.from, lookup.until).unwrap();
    }
}

fn describe_delivery(record: u64, delivery: &DeliveryRecord, text: &mut String) {
    let stage = match &delivery.stage {
        DeliveryStage::Queued(_) => "queued".to_owned(),
        DeliveryStage::Published { serial, .. } => format!("published {serial}"),
        DeliveryStage::Released { serial, order } => format!("released {serial} order {order}"),
    };
    write!(text, "  delivery {record} {stage}").unwrap();
    if let Some(Delivery { message, qos, retain, subscription_identifiers, record: same, .. }) =
        delivery.stage.delivery()
    {
        assert_eq!(*same, record);
        write!(
            text,
            " QoS {qos} retain {retain} {subscription_identifiers:?} share {:?}: {}",
            delivery.share,
            describe_message(message)
        )
        .unwrap();
    }
    text.push('\n');
}

fn describe_message(stored: &StoredMessage) -> String {
    let message = stored.as_message();
    format!(
        "{} QoS {} retain {} properties {:?} expires {:?} number {:?} {}",
        shortened(std::str::from_utf8(message.topic).unwrap()),
        message.qos,
        message.retain,
        String::from_utf8_lossy(message.properties),
        message.expires_at.map(from_now),
        stored.number(),
        shortened(&String::from_utf8_lossy(message.payload.as_bytes()))
    )
}

/// Of long text the length, and a sum that another text would not have.
fn shortened(text: &str) -> String {
    match text.len() {
        ..=60 => text.to_owned(),
        len => format!("<{len} bytes {:08x}>", crc32fast::hash(text.as_bytes())),
    }
}

/// In hours, so that a slow test sees no other ones.
fn from_now(at: Instant) -> String {
    let now = Instant::now();
    let seconds = if at >= now { (at - now).as_secs_f64() } else { -(now - at).as_secs_f64() };
    format!("in {:.0} h", seconds / 3_600.0)
}

/// The records of a store that is closed, in the order of their keys; parts among them.
fn records(folder: &Path) -> Vec<String> {
    let folder = folder.join("sessions");
    let Ok((database, left)) = Database::open(&folder) else { panic!("the database does not open") };
    let keys = database.scan(&[], &left.writes).map(|entry| entry.unwrap().0);
    let is_record = |key: &IVec| !matches!(key[0], b'V' | b'C' | record::REDO);
    let records = keys.filter(is_record).map(|key| record::describe(&key)).collect();
    folder::close(&folder, database);
    records
}

/// Changes the database behind the store's back, which then is as if it had been made before it was written down
/// what is in one.
fn tamper(folder: &Path, change: impl FnOnce(&sled::Db)) {
    let folder = folder.join("sessions");
    let Ok(db) = folder::open(&folder) else { panic!("the database does not open") };
    change(&db);
    db.remove(record::CONTENTS).unwrap();
    db.flush().unwrap();
    folder::close(&folder, db);
    // There is none yet in a database that a test makes.
    let _ = fs::remove_file(folder.join("state"));
}

pub fn blobs(folder: &Path) -> usize {
    fs::read_dir(folder.join("sessions").join("blobs")).unwrap().count()
}

/// What a store should hold.
#[derive(Default)]
pub struct Model {
    sessions: BTreeMap<u64, ModelSession>,
    retained: BTreeMap<u64, RetainedRecord>,
}

struct ModelSession {
    record: SessionRecord,
    /// By key, as they are read.
    subscriptions: BTreeMap<IVec, SubscriptionRecord>,
    deliveries: BTreeMap<u64, DeliveryRecord>,
    received: BTreeSet<u16>,
}

impl Model {
    pub fn restored(&self) -> Restored {
        let sessions = self.sessions.iter().map(|(&number, session)| RestoredSession {
            number,
            record: session.record.clone(),
            subscriptions: session.subscriptions.values().cloned().collect(),
            deliveries: session
                .deliveries
                .iter()
                .map(|(&record, delivery)| (record, delivery.clone()))
                .collect(),
            received: session.received.iter().filter_map(|&id| PacketIdentifier::new(id)).collect(),
        });
        let retained = self.retained.iter().map(|(&serial, record)| (serial, record.clone()));
        Restored { sessions: sessions.collect(), retained: retained.collect() }
    }
}

/// Draws that are the same for the same seed.
pub struct Draws(pub u64);

impl Draws {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}

/// A broker that does anything at all.
pub struct Changer {
    pub draws: Draws,
    pub model: Model,
    next_session: u64,
    next_record: u64,
    next_message: u64,
    /// Messages that may get more receivers.
    recent: Vec<Arc<StoredMessage>>,
}

impl Changer {
    pub fn new(seed: u64) -> Self {
        Self {
            draws: Draws(seed),
            model: Model::default(),
            next_session: 1,
            next_record: 1,
            next_message: 1,
            recent: Vec::new(),
        }
    }

    fn message(&mut self) -> Arc<StoredMessage> {
        if !self.recent.is_empty() && self.draws.below(2) == 0 {
            let any = self.draws.below(self.recent.len() as u64) as usize;
            return Arc::clone(&self.recent[any]);
        }
        let len = [3, 900, 1_100, 3_990, 4_100, 9_000, 70_000][self.draws.below(7) as usize];
        let payload: Vec<u8> = (0..len).map(|_| b'a' + self.draws.below(26) as u8).collect();
        let stored = message("sensors/a", &payload, self.next_message);
        self.next_message += 1;
        self.recent.push(Arc::clone(&stored));
        if self.recent.len() > 4 {
            self.recent.remove(0);
        }
        stored
    }

    fn any_session(&mut self) -> Option<u64> {
        let count = self.model.sessions.len() as u64;
        let any = self.draws.below(count) as usize;
        self.model.sessions.keys().nth(any).copied()
    }

    /// A batch of changes, which the model has then.
    pub fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        let mut touched = BTreeSet::new();
        let mut subscribed = BTreeMap::new();
        let mut received = BTreeMap::new();
        let mut retained = BTreeMap::new();
        for _ in 0..=self.draws.below(30) {
            match self.draws.below(12) {
                0 => {
                    let number = self.next_session;
                    self.next_session += 1;
                    self.model.sessions.insert(
                        number,
                        ModelSession {
                            record: session(&format!("client-{number}")),
                            subscriptions: BTreeMap::new(),
                            deliveries: BTreeMap::new(),
                            received: BTreeSet::new(),
                        },
                    );
                    touched.insert(number);
                }
                1 if self.draws.below(3) == 0 => {
                    let Some(number) = self.any_session() else { continue };
                    self.model.sessions.remove(&number);
                    batch.forgotten.insert(number);
                }
                1 | 2 => {
                    let Some(number) = self.any_session() else { continue };
                    let has_will = self.draws.below(2) == 0;
                    let will = has_will.then(|| WillMessage {
                        message: self.message(),
                        expiry: Some(Duration::from_secs(9)),
                        delay: Duration::from_secs(3),
                    });
                    let record = &mut self.model.sessions.get_mut(&number).unwrap().record;
                    record.will = will;
                    record.is_connected = !record.is_connected;
                    record.ends_at = Some(Instant::now() + Duration::from_secs(3_600));
                    touched.insert(number);
                }
                3 => {
                    let Some(number) = self.any_session() else { continue };
                    let len = if self.draws.below(4) == 0 { 9_000 } else { 3 };
                    let filter = format!("{}/{}", "f".repeat(len), self.draws.below(5));
                    let key = record::subscription_key(number, &filter);
                    let there = &mut self.model.sessions.get_mut(&number).unwrap().subscriptions;
                    if there.remove(&key).is_none() {
                        there.insert(key, subscription(&filter));
                    }
                    subscribed.insert((number, filter), ());
                }
                4 => {
                    let Some(number) = self.any_session() else { continue };
                    let identifier = 1 + self.draws.below(5) as u16;
                    let there = &mut self.model.sessions.get_mut(&number).unwrap().received;
                    if !there.remove(&identifier) {
                        there.insert(identifier);
                    }
                    received.insert((number, identifier), ());
                }
                5 => {
                    let serial = self.draws.below(6);
                    if self.model.retained.remove(&serial).is_none() {
                        let publisher = Some("p".into());
                        let record = RetainedRecord { message: self.message(), publisher };
                        self.model.retained.insert(serial, record);
                    }
                    retained.insert(serial, ());
                }
                6..=8 => {
                    let Some(number) = self.any_session() else { continue };
                    let record = self.next_record;
                    self.next_record += 1;
                    let delivery = queued(number, record, self.message());
                    batch.deliveries.put(record, delivery.clone());
                    self.model.sessions.get_mut(&number).unwrap().deliveries.insert(record, delivery);
                }
                _ => {
                    let Some(number) = self.any_session() else { continue };
                    let there = &mut self.model.sessions.get_mut(&number).unwrap().deliveries;
                    let Some((&record, delivery)) = there.first_key_value() else { continue };
                    let stage = match delivery.stage.clone() {
                        DeliveryStage::Queued(delivery) => {
                            DeliveryStage::Published { serial: record, delivery }
                        }
                        DeliveryStage::Published { serial, .. } => {
                            DeliveryStage::Released { serial, order: record }
                        }
                        DeliveryStage::Released { .. } => {
                            there.remove(&record);
                            batch.deliveries.end(record, number);
                            continue;
                        }
                    };
                    let share = matches!(stage, DeliveryStage::Published { .. }).then(|| "$share/g/t".into());
                    let delivery = DeliveryRecord { session: number, share, stage };
                    batch.deliveries.put(record, delivery.clone());
                    there.insert(record, delivery);
                }
            }
        }
        for number in touched {
            if let Some(session) = self.model.sessions.get(&number) {
                batch.sessions.push((number, session.record.clone()));
            }
        }
        for ((number, filter), ()) in subscribed {
            if let Some(session) = self.model.sessions.get(&number) {
                let now = session.subscriptions.get(&record::subscription_key(number, &filter)).cloned();
                batch.subscriptions.push((number, filter.into(), now));
            }
        }
        for ((number, identifier), ()) in received {
            if let Some(session) = self.model.sessions.get(&number) {
                batch.received.push((number, identifier, session.received.contains(&identifier)));
            }
        }
        batch.retained =
            retained.into_keys().map(|serial| (serial, self.model.retained.get(&serial).cloned())).collect();
        batch
    }
}

#[test]
fn what_was_kept_is_there_again_whatever_changed_in_between() {
    for (seed, writes_max) in [(1, 1), (2, 30), (3, 100), (4, 400), (5, Pending::WRITES)] {
        let folder = tempfile::tempdir().unwrap();
        let mut changer = Changer::new(seed);
        for round in 0..12 {
            let (store, restored) = SessionStore::open_gathering(folder.path(), writes_max).unwrap();
            assert_eq!(store.moved_aside(), None);
            assert_eq!(
                describe(&restored),
                describe(&changer.model.restored()),
                "seed {seed}, round {round}"
            );
            for _ in 0..changer.draws.below(20) {
                commit(&store, changer.batch());
            }
            store.close().unwrap();
        }
        assert_eq!(blobs(folder.path()), 0);
    }
}

#[test]
fn the_longest_names_and_messages_are_cut_and_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let name = "n".repeat(65_535);
    let will = WillMessage { message: message(&name, b"", 1), expiry: None, delay: Duration::ZERO };
    let record = SessionRecord {
        client_identifier: name.as_str().into(),
        username: Some(name.as_str().into()),
        will: Some(will),
        ..session("")
    };
    let mut delivery = queued(1, 1, message(&name, &vec![b'x'; 3 << 20], 2));
    delivery.share = Some(name.as_str().into());
    let retained = RetainedRecord { message: message(&name, b"y", 3), publisher: Some(name.as_str().into()) };
    let filter: Box<str> = name.as_str().into();
    let mut batch = Batch {
        sessions: vec![(1, record.clone())],
        subscriptions: vec![(1, filter.clone(), Some(subscription(&name)))],
        retained: vec![(1, Some(retained.clone()))],
        ..Batch::default()
    };
    batch.deliveries.put(1, delivery.clone());
    let whole = Restored {
        sessions: vec![RestoredSession {
            number: 1,
            record,
            subscriptions: vec![subscription(&name)],
            deliveries: vec![(1, delivery)],
            received: Vec::new(),
        }],
        retained: vec![(1, retained)],
    };
    let (store, _) = open(folder.path());
    commit(&store, batch);
    store.close().unwrap();
    let (store, restored) = open(folder.path());
    assert_eq!(describe(&restored), describe(&whole));

    // All the parts go with them.
    let mut batch = Batch {
        sessions: vec![(1, session("short"))],
        subscriptions: vec![(1, filter, None)],
        retained: vec![(1, None)],
        ..Batch::default()
    };
    batch.deliveries.end(1, 1);
    commit(&store, batch);
    store.close().unwrap();
    assert_eq!(records(folder.path()), ["session 1"]);
    assert_eq!(blobs(folder.path()), 0);
}

#[test]
fn a_long_message_is_there_once_and_as_long_as_somebody_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let long = message("t", &[b'x'; 2_000], 9);
    let mut batch = Batch { sessions: vec![(1, session("one")), (2, session("two"))], ..Batch::default() };
    batch.retained = vec![(5, Some(RetainedRecord { message: Arc::clone(&long), publisher: None }))];
    batch.deliveries.put(1, queued(1, 1, Arc::clone(&long)));
    batch.deliveries.put(2, queued(2, 2, Arc::clone(&long)));
    let (store, _) = open(folder.path());
    commit(&store, batch);
    store.close().unwrap();
    assert_eq!(
        records(folder.path()),
        [
            "delivery 1 of session 1",
            "delivery 2 of session 2",
            "message 9",
            "session 1",
            "session 2",
            "retained message 5"
        ]
    );

    // Those that need it are known again by who opens the store.
    let (store, restored) = open(folder.path());
    let message_of = |session: usize| {
        let (_, delivery) = &restored.sessions[session].deliveries[0];
        Arc::as_ptr(&delivery.stage.delivery().unwrap().message)
    };
    assert!(message_of(0) == message_of(1) && message_of(0) == Arc::as_ptr(&restored.retained[0].1.message));
    let mut batch = Batch { retained: vec![(5, None)], ..Batch::default() };
    batch.deliveries.end(1, 1);
    commit(&store, batch);
    let mut batch = Batch::default();
    let released = DeliveryStage::Released { serial: 1, order: 1 };
    batch.deliveries.put(2, DeliveryRecord { session: 2, share: None, stage: released });
    store.close().unwrap();
    assert!(records(folder.path()).contains(&"message 9".to_owned()));
    let (store, _) = open(folder.path());
    commit(&store, batch);
    store.close().unwrap();
    assert_eq!(records(folder.path()), ["delivery 2 of session 2", "session 1", "session 2"]);
}

#[test]
fn a_session_that_is_forgotten_leaves_nothing() {
    for writes_max in [1, Pending::WRITES] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = SessionStore::open_gathering(folder.path(), writes_max).unwrap();
        let mut batch = Batch {
            sessions: vec![(1, session("one")), (2, session("two"))],
            subscriptions: vec![(1, "a/#".into(), Some(subscription("a/#")))],
            received: vec![(1, 7, true), (2, 7, true)],
            ..Batch::default()
        };
        for record in 1..=2_000 {
            let payload = if record % 100 == 0 { 5_000 } else { 5 };
            batch.deliveries.put(record, queued(1, record, message("t", &vec![b'x'; payload], record)));
        }
        commit(&store, batch);
        let mut batch = Batch { sessions: vec![(1, session("one"))], ..Batch::default() };
        batch.forgotten.insert(1);
        batch.deliveries.put(2_001, queued(1, 2_001, message("t", b"late", 0)));
        commit(&store, batch);
        store.close().unwrap();
        assert_eq!(records(folder.path()), ["packet identifier 7 of session 2", "session 2"]);
    }
}

type Spoil = fn(&sled::Db);

#[test]
fn a_damaged_store_is_moved_aside_and_a_new_one_made() {
    let spoil: [(&str, Spoil); 8] = [
        ("no format", |db| drop(db.remove(record::VERSION))),
        ("a session that is no JSON", |db| drop(db.insert(record::key(record::SESSION, 9), b"\0{]"))),
        ("a delivery of nothing", |db| drop(db.insert(record::delivery_key(1, 1), b""))),
        ("a delivery of a message that is not there", |db| {
            drop(db.insert(record::delivery_key(1, 1), b"\0\x84\x09"));
        }),
        ("a topic with a wildcard", |db| {
            drop(db.insert(record::key(record::RETAINED, 1), b"\0\0\0\x01#\0"));
        }),
        ("a value without its second part", |db| {
            drop(db.insert(record::key(record::RETAINED, 1), b"\x01\0\0\x01t\0"));
        }),
        ("a key that is too short", |db| drop(db.insert(b"Dx", b"\0"))),
        ("changes with a hole", |db| {
            for number in [1, 3] {
                db.insert(record::key(record::REDO, number), b"\0\0\0\0\0\0\0\x01").unwrap();
            }
        }),
    ];
    for (what, spoil) in spoil {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path());
        commit(&store, Batch { sessions: vec![(1, session("one"))], ..Batch::default() });
        store.close().unwrap();
        tamper(folder.path(), spoil);
        let (store, restored) = open(folder.path());
        let aside = folder.path().join("sessions.damaged-1");
        assert_eq!(store.moved_aside(), Some(aside.as_path()), "{what}");
        assert!(aside.join("db").exists() && restored.is_empty(), "{what}");
        commit(&store, Batch { sessions: vec![(1, session("new"))], ..Batch::default() });
        store.close().unwrap();
        let (store, restored) = open(folder.path());
        assert_eq!((store.moved_aside(), restored.sessions.len()), (None, 1), "{what}");
    }
}

#[test]
fn what_belongs_to_nothing_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    commit(&store, Batch { sessions: vec![(1, session("one"))], ..Batch::default() });
    store.close().unwrap();
    tamper(folder.path(), |db| {
        db.insert(record::received_key(2, 3), b"\0").unwrap();
        db.insert(record::key(record::MESSAGE, 4), b"\x01\0\x01t\0").unwrap();
        db.insert(record::part_key(&record::key(record::MESSAGE, 4), 1), b"x").unwrap();
    });
    assert_eq!(records(folder.path()).len(), 4);
    let (store, restored) = SessionStore::open_gathering(folder.path(), 1).unwrap();
    assert_eq!((store.moved_aside(), restored.sessions.len()), (None, 1));
    for number in 2..10 {
        commit(&store, Batch { sessions: vec![(number, session("more"))], ..Batch::default() });
    }
    store.close().unwrap();
    assert_eq!(records(folder.path()).len(), 9);
}

#[test]
fn what_opening_did_not_finish_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    commit(&store, Batch { sessions: vec![(1, session("one"))], ..Batch::default() });
    store.close().unwrap();
    // As a kill or a full disk leaves it.
    let unfinished = folder.path().join("sessions").join("snap.000000000019128F.generating");
    fs::write(&unfinished, b"").unwrap();
    let (store, restored) = open(folder.path());
    assert_eq!((store.moved_aside(), restored.sessions.len()), (None, 1));
    assert!(!unfinished.exists());
}

#[test]
fn a_newer_format_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    commit(&store, Batch { sessions: vec![(1, session("one"))], ..Batch::default() });
    store.close().unwrap();
    let set_format = |format: u32| {
        tamper(folder.path(), |db| drop(db.insert(record::VERSION, &format.to_be_bytes())));
    };
    set_format(record::FORMAT + 1);
    let error = SessionStore::open(folder.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the store in {}/sessions has format 2, and this version knows formats up to 1: use a newer one",
            folder.path().display()
        )
    );
    assert!(!folder.path().join("sessions.damaged-1").exists());
    set_format(record::FORMAT);
    assert_eq!(open(folder.path()).1.sessions.len(), 1);
}

#[test]
fn a_store_that_is_in_use_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let error = SessionStore::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    store.close().unwrap();
    open(folder.path());
}

#[test]
fn what_cannot_be_written_is_tried_again_until_it_works() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    commit(&store, Batch { sessions: vec![(1, session("one"))], ..Batch::default() });
    assert_eq!(store.failures(), 0);
    store.refuse_writes(true);
    let (done, is_done) = sync_channel(2);
    for number in [2, 3] {
        let done = done.clone();
        let batch = Batch { sessions: vec![(number, session("more"))], ..Batch::default() };
        store.commit(batch, move || done.send(number).unwrap());
    }
    // It fails at least once before it is told that it may.
    while store.failures() == 0 {
        std::thread::yield_now();
    }
    assert!(is_done.try_recv().is_err());
    store.refuse_writes(false);
    assert_eq!((is_done.recv().unwrap(), is_done.recv().unwrap()), (2, 3));
    store.close().unwrap();
    assert_eq!(open(folder.path()).1.sessions.len(), 3);
}

#[test]
fn closing_gives_up_what_cannot_be_written_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    commit(&store, Batch { sessions: vec![(1, session("one"))], ..Batch::default() });
    store.refuse_writes(true);
    let (done, is_done) = sync_channel::<()>(2);
    for number in [2, 3] {
        let done = done.clone();
        let batch = Batch { sessions: vec![(number, session("more"))], ..Batch::default() };
        store.commit(batch, move || done.send(()).unwrap());
    }
    drop(done);
    let error = store.close().unwrap_err();
    assert!(matches!(error, StoreError::NotKept { batches: 2 }), "{error:?}");
    assert!(is_done.recv().is_err(), "nobody is told that it was kept");
    drop(store);
    assert_eq!(open(folder.path()).1.sessions.len(), 1);
}

#[test]
fn a_batch_counts_once_all_its_parts_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    commit(&store, Batch { sessions: vec![(1, session("one"))], ..Batch::default() });
    let mut batch = Batch { sessions: vec![(2, session("two"))], ..Batch::default() };
    for record in 1..=5 {
        batch.deliveries.put(record, queued(1, record, message("t", &[b'x'; 5_000], record)));
    }
    commit(&store, batch);
    store.close().unwrap();
    let parts = |db: &sled::Db| db.scan_prefix([record::REDO]).keys().map(Result::unwrap).collect::<Vec<_>>();
    tamper(folder.path(), |db| {
        let last = parts(db).pop().unwrap();
        db.remove(last).unwrap();
    });
    let (store, restored) = open(folder.path());
    assert_eq!((restored.sessions.len(), restored.sessions[0].deliveries.len()), (1, 0));
    commit(&store, Batch { sessions: vec![(3, session("three"))], ..Batch::default() });
    store.close().unwrap();
    let (store, restored) = open(folder.path());
    assert_eq!((store.moved_aside(), restored.sessions.len()), (None, 2));
}

const GOLDEN: &str = "../../../tests/data/sessions-1.txt";

/// Of all there is something.
fn sample(anchor: Anchor) -> [Batch; 2] {
    let at = |millis: u64| anchor.to_instant(1_700_000_000_000 + millis);
    let with_expiry = |topic: &str| {
        let message = MessageRef {
            topic: topic.as_bytes(),
            properties: &[],
            payload: Payload::Copied(b"soon"),
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: Some(at(7_200_000)),
            packet: None,
        };
        Arc::new(message.store())
    };
    let long = message("long", &[b'l'; 5_000], 3);
    let will = |message: &Arc<StoredMessage>| WillMessage {
        message: Arc::clone(message),
        expiry: Some(Duration::from_secs(30)),
        delay: Duration::from_secs(10),
    };
    let away = SessionRecord {
        protocol: ProtocolVersion::V311,
        username: None,
        standing: Standing::Claimed,
        expiry: 86_400,
        is_connected: false,
        ends_at: Some(at(86_400_000)),
        will_at: Some(at(10_000_000)),
        will: Some(will(&with_expiry("will"))),
        ..session("away")
    };
    let long_will = SessionRecord { will: Some(will(&long)), ..session("long will") };
    let mut first = Batch {
        sessions: vec![(1, session("ada's")), (2, away), (3, long_will), (4, session("gone"))],
        subscriptions: vec![
            (1, "sensors/+".into(), Some(subscription("sensors/+"))),
            (1, "$share/g/#".into(), Some(subscription("$share/g/#"))),
        ],
        received: vec![(1, 1, true), (2, 65_535, true)],
        retained: vec![
            (1, Some(RetainedRecord { message: message("r", b"on", 0), publisher: Some("ada's".into()) })),
            (2, Some(RetainedRecord { message: Arc::clone(&long), publisher: None })),
        ],
        ..Batch::default()
    };
    first.deliveries.put(1, queued(1, 1, with_expiry("sensors/a")));
    first.deliveries.put(2, queued(2, 2, Arc::clone(&long)));
    let mut second = Batch { received: vec![(1, 1, false)], ..Batch::default() };
    let DeliveryStage::Queued(delivery) = queued(1, 3, with_expiry("sensors/b")).stage else {
        unreachable!("it is queued")
    };
    let share = Some("$share/g/#".into());
    let stage = DeliveryStage::Published { serial: 70_000, delivery };
    second.deliveries.put(3, DeliveryRecord { session: 1, share, stage });
    let stage = DeliveryStage::Released { serial: 70_001, order: 5 };
    second.deliveries.put(4, DeliveryRecord { session: 2, share: None, stage });
    [first, second]
}

/// What format 1 writes: a line for each key and its value. The second batch has not got to the records.
#[test]
fn format_1_is_written_as_ever() {
    let anchor = Anchor::new(Instant::now() + Duration::from_secs(1 << 20), 1_700_000_000_000);
    let [first, second] = sample(anchor);
    let mut index = Index::default();
    let mut written: BTreeMap<IVec, IVec> = BTreeMap::new();
    written.insert(record::VERSION.into(), record::FORMAT.to_be_bytes()[..].into());
    for (key, value) in index.apply(&first, &[], anchor) {
        written.insert(key, value.expect("nothing is removed"));
    }
    let mut writes = index.apply(&second, &[], anchor);
    // Changes of earlier records come in any order.
    writes.sort();
    for (number, part) in (40..).zip(redo::encode(&writes)) {
        written.insert(record::key(record::REDO, number), part);
    }
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let lines: String = written.iter().map(|(key, value)| format!("{} {}\n", hex(key), hex(value))).collect();
    expect_test::expect_file![GOLDEN].assert_eq(&lines);
}

#[test]
fn format_1_loads() {
    let folder = tempfile::tempdir().unwrap();
    let unhex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    };
    fs::create_dir(folder.path().join("sessions")).unwrap();
    tamper(folder.path(), |db| {
        for line in include_str!("../../../tests/data/sessions-1.txt").lines() {
            let (key, value) = line.split_once(' ').unwrap();
            db.insert(unhex(key), unhex(value)).unwrap();
        }
    });
    let Ok((database, left)) = Database::open(&folder.path().join("sessions")) else {
        panic!("it does not open")
    };
    let anchor = Anchor::new(Instant::now(), 1_700_000_000_000);
    let loaded = loader::load(&database, &left.writes, anchor).unwrap();
    assert_eq!(loaded.stray.len(), 0);
    expect_test::expect![[r#"
        session 1 ada's V5 user Some("ada") Proven clean start false keep alive 60 expiry 4294967295 connected true ends None will None
          sensors/+ QoS 1 no local true as published true handling SendIfNew identifier 7
          $share/g/# QoS 1 no local true as published true handling SendIfNew identifier 7
          delivery 1 queued QoS 1 retain false [1, 268435455] share None: sensors/a QoS 1 retain false properties "" expires Some("in 2 h") number None soon
          delivery 3 published 70000 QoS 1 retain false [1, 268435455] share Some("$share/g/#"): sensors/b QoS 1 retain false properties "" expires Some("in 2 h") number None soon
        session 2 away V311 user None Claimed clean start false keep alive 60 expiry 86400 connected false ends Some("in 24 h") will Some("in 3 h") will QoS 1 retain false properties "" expires Some("in 2 h") number None soon expiry Some(30s) delay 10s
          received 65535
          delivery 2 queued QoS 1 retain false [1, 268435455] share None: long QoS 2 retain true properties "&\0\u{1}a\0\u{1}b" expires None number Some(3) <5000 bytes 24d1251b>
          delivery 4 released 70001 order 5
        session 3 long will V5 user Some("ada") Proven clean start false keep alive 60 expiry 4294967295 connected true ends None will None long QoS 2 retain true properties "&\0\u{1}a\0\u{1}b" expires None number Some(3) <5000 bytes 24d1251b> expiry Some(30s) delay 10s
        session 4 gone V5 user Some("ada") Proven clean start false keep alive 60 expiry 4294967295 connected true ends None will None
        retained 1 of Some("ada's"): r QoS 2 retain true properties "&\0\u{1}a\0\u{1}b" expires None number None on
        retained 2 of None: long QoS 2 retain true properties "&\0\u{1}a\0\u{1}b" expires None number Some(3) <5000 bytes 24d1251b>
    "#]].assert_eq(&describe(&loaded.restored));
}
