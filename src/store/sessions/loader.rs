//! Reads everything there is.

use std::{collections::HashMap, sync::Arc};

use sled::IVec;
use tracing::warn;

use super::{
    anchor::Anchor,
    database::Database,
    index::Index,
    record::{self, BadRecord, DELIVERY, MESSAGE, RECEIVED, RETAINED, SESSION, SUBSCRIPTION},
    redo::Writes,
};
use crate::{
    broker::{Restored, RestoredSession},
    packet::PacketIdentifier,
    session::StoredMessage,
    store::StoreError,
};

/// What was read.
pub struct Loaded {
    pub restored: Restored,
    pub index: Index,
    /// Records that belong to nothing, and their parts.
    pub stray: Vec<IVec>,
}

/// Reads the records, with `pending` on top of them.
///
/// # Errors
/// [`StoreError::Corrupted`] names the record that does not decode.
pub fn load(database: &Database, pending: &Writes, anchor: Anchor) -> Result<Loaded, StoreError> {
    let mut messages: HashMap<u64, Arc<StoredMessage>> = HashMap::new();
    let mut more_of_messages: HashMap<u64, u32> = HashMap::new();
    let mut loaded = Loaded { restored: Restored::default(), index: Index::default(), stray: Vec::new() };
    let Loaded { restored, index, stray } = &mut loaded;
    for_each(database, pending, MESSAGE, |key, value, more| {
        let message = record::decode_message(value, anchor)?;
        let number = record::first_number(key);
        message.set_number(number);
        messages.insert(number, Arc::new(message));
        more_of_messages.insert(number, more);
        Ok(())
    })?;
    let long = |number: u64| messages.get(&number).cloned();

    let mut places = HashMap::new();
    for_each(database, pending, SESSION, |key, value, more| {
        let number = record::first_number(key);
        let session = record::decode_session(value, anchor, long)?;
        index.add(key, more, session.will.as_ref().and_then(|will| will.message.number()));
        places.insert(number, restored.sessions.len());
        restored.sessions.push(RestoredSession {
            number,
            record: session,
            subscriptions: Vec::new(),
            deliveries: Vec::new(),
            received: Vec::new(),
        });
        Ok(())
    })?;
    let Restored { sessions, retained } = restored;
    let mut of_session = |kind, mut take: Take<'_>| {
        for_each(database, pending, kind, |key, value, more| {
            let place = places.get(&record::first_number(key));
            let Some(&place) = place else {
                stray.push(key.clone());
                stray.extend((1..=more).map(|part| record::part_key(key, part)));
                return Ok(());
            };
            let message = take(&mut sessions[place], key, value)?;
            index.add(key, more, message);
            Ok(())
        })
    };
    of_session(
        SUBSCRIPTION,
        Box::new(|session, _, value| {
            session.subscriptions.push(record::decode_subscription(value)?);
            Ok(None)
        }),
    )?;
    of_session(
        RECEIVED,
        Box::new(|session, key, _| {
            let identifier = u16::try_from(record::second_number(key)).ok().and_then(PacketIdentifier::new);
            session.received.push(identifier.ok_or(BadRecord::Value("packet identifier"))?);
            Ok(None)
        }),
    )?;
    of_session(
        DELIVERY,
        Box::new(|session, key, value| {
            let number = record::second_number(key);
            let delivery = record::decode_delivery((session.number, number), value, anchor, long)?;
            let message = delivery.stage.delivery().and_then(|delivery| delivery.message.number());
            session.deliveries.push((number, delivery));
            Ok(message)
        }),
    )?;
    for_each(database, pending, RETAINED, |key, value, more| {
        let message = record::decode_retained(value, anchor, long)?;
        index.add(key, more, message.message.number());
        retained.push((record::first_number(key), message));
        Ok(())
    })?;

    for (number, more) in more_of_messages {
        let key = record::key(MESSAGE, number);
        if index.is_needed(number) {
            index.add(&key, more, None);
        } else {
            stray.extend((1..=more).map(|part| record::part_key(&key, part)));
            stray.push(key);
        }
    }
    if !stray.is_empty() {
        let example = record::describe(&stray[0]);
        warn!(records = stray.len(), example, "records of sessions that belong to nothing are removed");
    }
    Ok(loaded)
}

/// Takes a record of a Session; the number of the long message that it needs.
type Take<'a> = Box<dyn FnMut(&mut RestoredSession, &IVec, &[u8]) -> Result<Option<u64>, BadRecord> + 'a>;

/// Calls `take` with each record of a kind, in the order of keys: its key, its value put together, and how many parts
/// followed the first.
fn for_each(
    database: &Database,
    pending: &Writes,
    kind: u8,
    mut take: impl FnMut(&IVec, &[u8], u32) -> Result<(), BadRecord>,
) -> Result<(), StoreError> {
    let prefix = [kind];
    let mut entries = database.scan(&prefix, pending);
    while let Some(entry) = entries.next() {
        let (key, first) = entry?;
        let damaged = |bad: BadRecord| StoreError::Corrupted(format!("{}: {bad}", record::describe(&key)));
        if record::split_key(&key).is_none_or(|(_, part)| part > 0) {
            return Err(damaged(BadRecord::Value("key")));
        }
        let (more, head) = record::split_first_part(&first).map_err(damaged)?;
        if more == 0 {
            take(&key, head, 0).map_err(damaged)?;
            continue;
        }
        let mut value = head.to_vec();
        for part in 1..=more {
            let (part_key, bytes) = match entries.next() {
                Some(entry) => entry?,
                None => return Err(damaged(BadRecord::Truncated("parts"))),
            };
            if part_key != record::part_key(&key, part) {
                return Err(damaged(BadRecord::Truncated("parts")));
            }
            value.extend_from_slice(&bytes);
        }
        take(&key, &value, more).map_err(damaged)?;
    }
    Ok(())
}
