//! What has to be known of the records to change them: who needs which long message, and which values
//! are cut.

use std::collections::HashMap;

use sled::IVec;

use super::{
    anchor::Anchor,
    record::{self, MESSAGE, OF_SESSION, RETAINED, SESSION},
    redo::Write,
};
use crate::{broker::Batch, session::StoredMessage};

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    /// How many records need a long message, by its number.
    references: HashMap<u64, usize>,
    /// The number of the long message that a record needs.
    holders: HashMap<IVec, u64>,
    /// How many parts follow the first of a value, if any do.
    cut: HashMap<IVec, u32>,
}

impl Index {
    /// A record was read.
    pub fn add(&mut self, key: &IVec, more: u32, message: Option<u64>) {
        if more > 0 {
            self.cut.insert(key.clone(), more);
        }
        if let Some(number) = message {
            self.holders.insert(key.clone(), number);
            *self.references.entry(number).or_default() += 1;
        }
    }

    pub fn is_needed(&self, message: u64) -> bool {
        self.references.contains_key(&message)
    }

    /// What `batch` changes in the database. `doomed` are all keys of the Sessions that it forgets.
    pub fn apply(&mut self, batch: &Batch, doomed: &[IVec], anchor: Anchor) -> Vec<Write> {
        let mut changes = Changes { index: self, writes: Vec::new(), unneeded: Vec::new(), anchor };
        for key in doomed {
            changes.remove(key.clone());
        }
        let is_kept = |session: u64| !batch.forgotten.contains(&session);
        for (session, session_record) in &batch.sessions {
            if is_kept(*session) {
                let value = record::encode_session(session_record, anchor);
                let message = session_record.will.as_ref().map(|will| &*will.message);
                changes.put(record::key(SESSION, *session), &value, message);
            }
        }
        for (session, filter, now) in &batch.subscriptions {
            if is_kept(*session) {
                let key = record::subscription_key(*session, filter);
                match now {
                    Some(now) => changes.put(key, &record::encode_subscription(now), None),
                    None => changes.remove(key),
                }
            }
        }
        let mut value = Vec::new();
        for change in batch.deliveries.iter().filter(|change| is_kept(change.session)) {
            let key = record::delivery_key(change.session, change.record);
            match change.now {
                Some(now) => {
                    value.clear();
                    record::encode_delivery(now, anchor, &mut value);
                    let message = now.stage.delivery().map(|delivery| &*delivery.message);
                    changes.put(key, &value, message);
                }
                None => changes.remove(key),
            }
        }
        for (session, identifier, is_there) in &batch.received {
            if is_kept(*session) {
                let key = record::received_key(*session, *identifier);
                if *is_there { changes.put(key, &[], None) } else { changes.remove(key) }
            }
        }
        for (serial, now) in &batch.retained {
            let key = record::key(RETAINED, *serial);
            match now {
                Some(now) => {
                    value.clear();
                    record::encode_retained(now, anchor, &mut value);
                    changes.put(key, &value, Some(&now.message));
                }
                None => changes.remove(key),
            }
        }
        changes.finish()
    }
}

struct Changes<'a> {
    index: &'a mut Index,
    writes: Vec<Write>,
    /// Long messages that a record ceased to need.
    unneeded: Vec<u64>,
    anchor: Anchor,
}

impl Changes<'_> {
    /// `message` is what the record is about, be it in the value or, if it is long, by number.
    fn put(&mut self, key: IVec, value: &[u8], message: Option<&StoredMessage>) {
        let number = message.and_then(|message| Some((message.number()?, message)));
        if let Some((number, message)) = number {
            self.need(number, message);
        }
        // After that: it may be the same.
        self.release(&key);
        if let Some((number, _)) = number {
            self.index.holders.insert(key.clone(), number);
        }
        self.write(key, value);
    }

    fn remove(&mut self, key: IVec) {
        self.release(&key);
        self.erase(key);
    }

    fn need(&mut self, number: u64, message: &StoredMessage) {
        let references = self.index.references.entry(number).or_default();
        *references += 1;
        if *references == 1 {
            let mut value = Vec::new();
            record::encode_message(message, self.anchor, &mut value);
            self.write(record::key(MESSAGE, number), &value);
        }
    }

    fn release(&mut self, key: &IVec) {
        if self.index.holders.is_empty() {
            return;
        }
        let Some(number) = self.index.holders.remove(key) else { return };
        let Some(references) = self.index.references.get_mut(&number) else { return };
        *references -= 1;
        if *references == 0 {
            self.unneeded.push(number);
        }
    }

    fn write(&mut self, key: IVec, value: &[u8]) {
        let before = self.parts(&key);
        let mut parts = record::cut(value);
        let first = parts.next().expect("a value has a first part");
        let mut more = 0;
        for part in parts {
            more += 1;
            self.writes.push((record::part_key(&key, more), Some(part)));
        }
        self.erase_parts(&key, more, before);
        if more > 0 {
            self.index.cut.insert(key.clone(), more);
        }
        self.writes.push((key, Some(first)));
    }

    fn erase(&mut self, key: IVec) {
        let before = self.parts(&key);
        self.erase_parts(&key, 0, before);
        self.writes.push((key, None));
    }

    /// How many parts followed the first up to now; that is forgotten.
    fn parts(&mut self, key: &IVec) -> u32 {
        if self.index.cut.is_empty() { 0 } else { self.index.cut.remove(key).unwrap_or(0) }
    }

    fn erase_parts(&mut self, key: &IVec, from: u32, to: u32) {
        self.writes.extend((from + 1..=to).map(|part| (record::part_key(key, part), None)));
    }

    fn finish(mut self) -> Vec<Write> {
        for number in std::mem::take(&mut self.unneeded) {
            if self.index.references.get(&number) == Some(&0) {
                self.index.references.remove(&number);
                self.erase(record::key(MESSAGE, number));
            }
        }
        self.writes
    }
}

/// What the keys of all records of a Session begin with.
pub fn prefixes(session: u64) -> impl Iterator<Item = IVec> {
    OF_SESSION.into_iter().map(move |kind| record::key(kind, session))
}
