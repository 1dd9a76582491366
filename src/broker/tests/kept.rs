//! A disk for tests: what batches come to, record by record.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    broker::{
        Batch, DeliveryRecord, Restored, RestoredSession, RetainedRecord, SessionRecord, SubscriptionRecord,
    },
    packet::PacketIdentifier,
};

/// What is durable of a broker's state.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    sessions: BTreeMap<u64, SessionRecord>,
    subscriptions: BTreeMap<(u64, Box<str>), SubscriptionRecord>,
    deliveries: BTreeMap<(u64, u64), DeliveryRecord>,
    received: BTreeSet<(u64, u16)>,
    retained: BTreeMap<u64, RetainedRecord>,
}

impl Kept {
    /// # Panics
    /// Over a batch that removes what is not there, or says something twice.
    pub fn apply(&mut self, batch: &Batch) {
        assert!(!batch.is_empty(), "a batch for nothing");
        let is_forgotten = |session: &u64| batch.forgotten.contains(session);
        self.sessions.retain(|session, _| !is_forgotten(session));
        self.subscriptions.retain(|(session, _), _| !is_forgotten(session));
        self.deliveries.retain(|(session, _), _| !is_forgotten(session));
        self.received.retain(|(session, _)| !is_forgotten(session));
        for (session, record) in batch.sessions.iter().filter(|(session, _)| !is_forgotten(session)) {
            self.sessions.insert(*session, record.clone());
        }
        for (session, filter, now) in &batch.subscriptions {
            if is_forgotten(session) {
                continue;
            }
            let key = (*session, filter.clone());
            let before = match now {
                Some(record) => self.subscriptions.insert(key, record.clone()),
                None => self.subscriptions.remove(&key),
            };
            assert!(before.is_some() || now.is_some(), "{filter} was not there");
        }
        for change in batch.deliveries.iter().filter(|change| !is_forgotten(&change.session)) {
            let key = (change.session, change.record);
            let before = match change.now {
                Some(record) => self.deliveries.insert(key, record.clone()),
                None => self.deliveries.remove(&key),
            };
            assert!(before.is_some() || change.now.is_some(), "delivery {key:?} was not there");
        }
        for &(session, identifier, is_there) in &batch.received {
            if !is_forgotten(&session) {
                let has_changed = match is_there {
                    true => self.received.insert((session, identifier)),
                    false => self.received.remove(&(session, identifier)),
                };
                assert!(has_changed, "received {identifier} of {session} was so already");
            }
        }
        for (serial, now) in &batch.retained {
            let before = match now {
                Some(record) => self.retained.insert(*serial, record.clone()),
                None => self.retained.remove(serial),
            };
            assert_eq!(before.is_some(), now.is_none(), "retained {serial}");
        }
    }

    pub fn restored(&self) -> Restored {
        let of = |number| (number, u64::MIN)..=(number, u64::MAX);
        let sessions = self.sessions.iter().map(|(&number, record)| RestoredSession {
            number,
            record: record.clone(),
            subscriptions: (self.subscriptions.iter())
                .filter(|((session, _), _)| *session == number)
                .map(|(_, record)| record.clone())
                .collect(),
            deliveries: (self.deliveries.range(of(number)))
                .map(|(&(_, record), delivery)| (record, delivery.clone()))
                .collect(),
            received: (self.received.iter())
                .filter(|(session, _)| *session == number)
                .filter_map(|&(_, identifier)| PacketIdentifier::new(identifier))
                .collect(),
        });
        let retained = self.retained.iter().map(|(&serial, record)| (serial, record.clone()));
        Restored { sessions: sessions.collect(), retained: retained.collect() }
    }

    /// Session numbers that something is there of.
    pub fn known(&self) -> BTreeSet<u64> {
        let subscriptions = self.subscriptions.keys().map(|(session, _)| *session);
        let deliveries = self.deliveries.keys().map(|(session, _)| *session);
        let received = self.received.iter().map(|(session, _)| *session);
        self.sessions.keys().copied().chain(subscriptions).chain(deliveries).chain(received).collect()
    }
}
