//! The records of format 1: their keys, and values as bytes.
//!
//! A key is a letter for what it is, then numbers with the highest byte first:
//!
//! ```text
//! V                                  the format of all that follows, four bytes
//! C                                  how much there is of S, U, D, R, T and M, see `contents`
//! S session                          a Session, as JSON
//! U session, SHA-256 of the filter   a subscription, as JSON; 16 bytes of the hash
//! D session, record                  a delivery
//! R session, Packet Identifier       a QoS 2 message that was passed on and not released; empty
//! T serial                           a retained message
//! M number                           a long message, for all that name its number
//! J part                             changes that may not have got to the records yet, see `redo`
//! ```
//! A value begins with a varint: how many parts of it follow under the same key with the part's number,
//! four bytes, from 1. sled puts what is long aside in files that it never syncs.
//!
//! ```text
//! delivery   flags; serial if it was published or released; order if it was released, and then nothing
//!            more; Subscription Identifiers behind their number if there are any; the share's filter
//!            behind its length if there is one; then the message's number, or the message
//! retained   flags; the publisher behind its length if there is one; then as above
//! message    flags; when it expires if it does, in milliseconds since 1970; Topic Name and properties,
//!            each behind its length; the payload up to the end
//! ```
//! Numbers and lengths are varints: seven bits a byte, lowest first.

use std::{borrow::Cow, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sled::IVec;
use smallvec::SmallVec;

use super::anchor::Anchor;
use crate::{
    broker::{
        DeliveryRecord, DeliveryStage, LookupRecord, RetainedRecord, SessionRecord, SubscriptionRecord,
    },
    packet::{ProtocolVersion, QoS, RetainHandling, SubscriptionOptions, TopicName},
    session::{Delivery, MessageRef, Payload, Standing, StoredMessage, WillMessage},
};

/// The format of what this version writes.
pub const FORMAT: u32 = 1;

/// Bytes of a value, or of a part of one, under one key.
pub const PART_LEN: usize = 4_000;

pub const VERSION: &[u8] = b"V";
pub const CONTENTS: &[u8] = b"C";
pub const SESSION: u8 = b'S';
pub const SUBSCRIPTION: u8 = b'U';
pub const DELIVERY: u8 = b'D';
pub const RECEIVED: u8 = b'R';
pub const RETAINED: u8 = b'T';
pub const MESSAGE: u8 = b'M';
pub const REDO: u8 = b'J';

/// The kinds of records that a Session has, itself among them.
pub const OF_SESSION: [u8; 4] = [SESSION, SUBSCRIPTION, DELIVERY, RECEIVED];

/// Length of the number of a part that follows a key.
const PART_NUMBER_LEN: usize = 4;

// Flags of a delivery; the lowest two bits are the stage, the next two the QoS.
const QUEUED: u8 = 0;
const PUBLISHED: u8 = 1;
const RELEASED: u8 = 2;
const DELIVERY_QOS_SHIFT: u8 = 2;
const DELIVERY_RETAIN: u8 = 1 << 4;
const HAS_SUBSCRIPTION_IDENTIFIERS: u8 = 1 << 5;
const HAS_SHARE: u8 = 1 << 6;
/// Of retained messages, too.
const IS_LONG: u8 = 1 << 7;

// Flags of a retained message.
const HAS_PUBLISHER: u8 = 1;

// Flags of a message; the lowest two bits are the QoS.
const MESSAGE_RETAIN: u8 = 1 << 2;
const HAS_EXPIRY: u8 = 1 << 3;

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("it ends in its {0}")]
    Truncated(&'static str),
    #[error("its {0} is not allowed")]
    Value(&'static str),
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    #[error("{0}")]
    Json(String),
    #[error("its message, number {0}, is not there")]
    NoMessage(u64),
}

pub fn key(kind: u8, number: u64) -> IVec {
    let mut key = [0; 9];
    key[0] = kind;
    key[1..].copy_from_slice(&number.to_be_bytes());
    IVec::from(&key)
}

pub fn delivery_key(session: u64, record: u64) -> IVec {
    let mut key = [0; 17];
    key[0] = DELIVERY;
    key[1..9].copy_from_slice(&session.to_be_bytes());
    key[9..].copy_from_slice(&record.to_be_bytes());
    IVec::from(&key)
}

pub fn received_key(session: u64, identifier: u16) -> IVec {
    let mut key = [0; 11];
    key[0] = RECEIVED;
    key[1..9].copy_from_slice(&session.to_be_bytes());
    key[9..].copy_from_slice(&identifier.to_be_bytes());
    IVec::from(&key)
}

pub fn subscription_key(session: u64, filter: &str) -> IVec {
    let mut key = [0; 25];
    key[0] = SUBSCRIPTION;
    key[1..9].copy_from_slice(&session.to_be_bytes());
    key[9..].copy_from_slice(&Sha256::digest(filter)[..16]);
    IVec::from(&key)
}

pub fn part_key(key: &[u8], part: u32) -> IVec {
    IVec::from([key, &part.to_be_bytes()].concat())
}

/// How long keys of this kind are that are no part's; `None` for what is no record.
pub fn key_len(kind: u8) -> Option<usize> {
    match kind {
        SESSION | RETAINED | MESSAGE => Some(9),
        SUBSCRIPTION => Some(25),
        DELIVERY => Some(17),
        RECEIVED => Some(11),
        _ => None,
    }
}

/// A key taken apart: that of the record, and the number of the part, 0 for the first; `None` for a key that no
/// record has.
pub fn split_key(key: &[u8]) -> Option<(&[u8], u32)> {
    let len = key_len(*key.first()?)?;
    if key.len() == len {
        return Some((key, 0));
    }
    let (record, part) = key.split_at_checked(len)?;
    let part: [u8; PART_NUMBER_LEN] = part.try_into().ok()?;
    Some((record, u32::from_be_bytes(part)))
}

/// The number that stands behind the kind.
pub fn first_number(key: &[u8]) -> u64 {
    number_at(key, 1)
}

/// The number that stands behind the Session's.
pub fn second_number(key: &[u8]) -> u64 {
    number_at(key, 9)
}

/// Up to eight bytes; the callers' keys are long enough.
fn number_at(key: &[u8], at: usize) -> u64 {
    key[at..].iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What a key is of, for people.
pub fn describe(key: &[u8]) -> String {
    match split_key(key) {
        Some((key, _)) => match key[0] {
            SESSION => format!("session {}", first_number(key)),
            SUBSCRIPTION => format!("a subscription of session {}", first_number(key)),
            DELIVERY => format!("delivery {} of session {}", second_number(key), first_number(key)),
            RECEIVED => format!("packet identifier {} of session {}", second_number(key), first_number(key)),
            RETAINED => format!("retained message {}", first_number(key)),
            _ => format!("message {}", first_number(key)),
        },
        None => format!("a record with key {:?}", String::from_utf8_lossy(key)),
    }
}

/// Cuts a value in parts; the first begins with the number of those that follow it.
pub fn cut(value: &[u8]) -> impl Iterator<Item = IVec> {
    let (first, rest) = value.split_at(value.len().min(PART_LEN));
    let mut head = Vec::with_capacity(first.len() + 1);
    put_varint(rest.len().div_ceil(PART_LEN) as u64, &mut head);
    head.extend_from_slice(first);
    std::iter::once(IVec::from(head)).chain(rest.chunks(PART_LEN).map(IVec::from))
}

/// How many parts follow the first, and what of the value is in that.
pub fn split_first_part(part: &[u8]) -> Result<(u32, &[u8]), BadRecord> {
    let mut reader = Reader(part);
    let more = reader.varint("number of parts")?;
    Ok((u32::try_from(more).map_err(|_| BadRecord::Value("number of parts"))?, reader.0))
}

/// What is kept of a Session.
#[derive(Serialize, Deserialize)]
struct SessionJson<'a> {
    client_identifier: Cow<'a, str>,
    protocol: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<Cow<'a, str>>,
    standing: Cow<'a, str>,
    clean_start: bool,
    keep_alive: u16,
    expiry: u32,
    is_connected: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will: Option<WillJson>,
}

#[derive(Serialize, Deserialize)]
struct WillJson {
    /// As a record would have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Instead, if it is a long one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_number: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry_s: Option<u64>,
    delay_s: u64,
}

const STANDINGS: [(Standing, &str); 2] = [(Standing::Claimed, "claimed"), (Standing::Proven, "proven")];

pub fn encode_session(record: &SessionRecord, anchor: Anchor) -> Vec<u8> {
    let standing = STANDINGS.iter().find(|(standing, _)| *standing == record.standing);
    let will = record.will.as_ref().map(|will| {
        let number = will.message.number();
        let message = number.is_none().then(|| {
            let mut bytes = Vec::new();
            encode_message(&will.message, anchor, &mut bytes);
            BASE64_STANDARD.encode(bytes)
        });
        let (expiry_s, delay_s) = (will.expiry.map(|expiry| expiry.as_secs()), will.delay.as_secs());
        WillJson { message, message_number: number, expiry_s, delay_s }
    });
    let json = SessionJson {
        client_identifier: Cow::Borrowed(&record.client_identifier),
        protocol: record.protocol.level(),
        username: record.username.as_deref().map(Cow::Borrowed),
        standing: Cow::Borrowed(standing.expect("all are listed").1),
        clean_start: record.clean_start,
        keep_alive: record.keep_alive,
        expiry: record.expiry,
        is_connected: record.is_connected,
        ends_at_ms: record.ends_at.map(|at| anchor.to_wall(at)),
        will_at_ms: record.will_at.map(|at| anchor.to_wall(at)),
        will,
    };
    serde_json::to_vec(&json).expect("text and numbers become JSON")
}

/// `message` gives long messages by number.
pub fn decode_session(
    value: &[u8],
    anchor: Anchor,
    message: impl FnOnce(u64) -> Option<Arc<StoredMessage>>,
) -> Result<SessionRecord, BadRecord> {
    let json: SessionJson<'_> =
        serde_json::from_slice(value).map_err(|error| BadRecord::Json(error.to_string()))?;
    let standing = STANDINGS.iter().find(|(_, name)| *name == json.standing);
    let will = match json.will {
        None => None,
        Some(will) => {
            let stored = match (will.message, will.message_number) {
                (_, Some(number)) => message(number).ok_or(BadRecord::NoMessage(number))?,
                (Some(text), None) => {
                    let bytes =
                        BASE64_STANDARD.decode(text).map_err(|error| BadRecord::Json(error.to_string()))?;
                    Arc::new(decode_message(&bytes, anchor)?)
                }
                (None, None) => return Err(BadRecord::Truncated("will")),
            };
            let (expiry, delay) = (will.expiry_s.map(Duration::from_secs), Duration::from_secs(will.delay_s));
            Some(WillMessage { message: stored, expiry, delay })
        }
    };
    Ok(SessionRecord {
        client_identifier: json.client_identifier.into(),
        protocol: ProtocolVersion::from_level(json.protocol).ok_or(BadRecord::Value("protocol"))?,
        username: json.username.map(|name| name.into_owned().into_boxed_str()),
        standing: standing.ok_or(BadRecord::Value("standing"))?.0,
        clean_start: json.clean_start,
        keep_alive: json.keep_alive,
        expiry: json.expiry,
        is_connected: json.is_connected,
        ends_at: json.ends_at_ms.map(|at| anchor.to_instant(at)),
        will_at: json.will_at_ms.map(|at| anchor.to_instant(at)),
        will,
    })
}

#[derive(Serialize, Deserialize)]
struct SubscriptionJson<'a> {
    filter: Cow<'a, str>,
    qos: u8,
    #[serde(default)]
    no_local: bool,
    #[serde(default)]
    retain_as_published: bool,
    #[serde(default)]
    retain_handling: u8,
    #[serde(default)]
    subscription_identifier: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lookup: Option<LookupJson>,
}

#[derive(Serialize, Deserialize)]
struct LookupJson {
    /// In base64.
    from: String,
    until: u64,
    after: u64,
}

pub fn encode_subscription(record: &SubscriptionRecord) -> Vec<u8> {
    let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling } = record.options;
    let json = SubscriptionJson {
        filter: Cow::Borrowed(&record.filter),
        qos: qos.into(),
        no_local,
        retain_as_published,
        retain_handling: retain_handling.into(),
        subscription_identifier: record.subscription_identifier,
        lookup: record.lookup.as_ref().map(|lookup| LookupJson {
            from: BASE64_STANDARD.encode(&lookup.from),
            until: lookup.until,
            after: lookup.after,
        }),
    };
    serde_json::to_vec(&json).expect("text and numbers become JSON")
}

pub fn decode_subscription(value: &[u8]) -> Result<SubscriptionRecord, BadRecord> {
    let json: SubscriptionJson<'_> =
        serde_json::from_slice(value).map_err(|error| BadRecord::Json(error.to_string()))?;
    let lookup = json.lookup.map(|LookupJson { from, until, after }| {
        let from = BASE64_STANDARD.decode(from).map_err(|_| BadRecord::Value("lookup"))?;
        Ok(LookupRecord { from, until, after })
    });
    Ok(SubscriptionRecord {
        filter: json.filter.into_owned().into_boxed_str(),
        options: SubscriptionOptions {
            qos: qos(json.qos)?,
            no_local: json.no_local,
            retain_as_published: json.retain_as_published,
            retain_handling: RetainHandling::try_from(json.retain_handling)
                .map_err(|_| BadRecord::Value("retain handling"))?,
        },
        subscription_identifier: json.subscription_identifier,
        lookup: lookup.transpose()?,
    })
}

pub fn encode_delivery(record: &DeliveryRecord, anchor: Anchor, out: &mut Vec<u8>) {
    let (stage, serial, delivery) = match &record.stage {
        DeliveryStage::Queued(delivery) => (QUEUED, None, delivery),
        DeliveryStage::Published { serial, delivery } => (PUBLISHED, Some(*serial), delivery),
        DeliveryStage::Released { serial, order } => {
            out.push(RELEASED);
            put_varint(*serial, out);
            put_varint(*order, out);
            return;
        }
    };
    let identifiers = &delivery.subscription_identifiers;
    let number = delivery.message.number();
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    out.push(
        stage
            | u8::from(delivery.qos) << DELIVERY_QOS_SHIFT
            | flag(delivery.retain, DELIVERY_RETAIN)
            | flag(!identifiers.is_empty(), HAS_SUBSCRIPTION_IDENTIFIERS)
            | flag(record.share.is_some(), HAS_SHARE)
            | flag(number.is_some(), IS_LONG),
    );
    if let Some(serial) = serial {
        put_varint(serial, out);
    }
    if !identifiers.is_empty() {
        put_varint(identifiers.len() as u64, out);
        identifiers.iter().for_each(|identifier| put_varint(u64::from(*identifier), out));
    }
    if let Some(share) = &record.share {
        put_bytes(share.as_bytes(), out);
    }
    match number {
        Some(number) => put_varint(number, out),
        None => encode_message(&delivery.message, anchor, out),
    }
}

pub fn decode_delivery(
    (session, record): (u64, u64),
    value: &[u8],
    anchor: Anchor,
    message: impl FnOnce(u64) -> Option<Arc<StoredMessage>>,
) -> Result<DeliveryRecord, BadRecord> {
    let mut reader = Reader(value);
    let flags = reader.u8("flags")?;
    let stage = flags & 0b11;
    let serial = if stage == QUEUED { 0 } else { reader.varint("serial number")? };
    if stage == RELEASED {
        let order = reader.varint("order")?;
        reader.finish()?;
        let stage = DeliveryStage::Released { serial, order };
        return Ok(DeliveryRecord { session, share: None, stage });
    }
    let mut subscription_identifiers = SmallVec::new();
    if flags & HAS_SUBSCRIPTION_IDENTIFIERS != 0 {
        for _ in 0..reader.varint("number of subscription identifiers")? {
            let identifier = reader.varint("subscription identifier")?;
            let identifier =
                u32::try_from(identifier).map_err(|_| BadRecord::Value("subscription identifier"))?;
            subscription_identifiers.push(identifier);
        }
    }
    let share = if flags & HAS_SHARE == 0 { None } else { Some(reader.text("shared subscription")?.into()) };
    let delivery = Delivery {
        message: decode_kept(reader, flags, anchor, message)?,
        qos: qos(flags >> DELIVERY_QOS_SHIFT & 0b11)?,
        retain: flags & DELIVERY_RETAIN != 0,
        subscription_identifiers,
        share: None,
        record,
    };
    let stage = match stage {
        QUEUED => DeliveryStage::Queued(delivery),
        PUBLISHED => DeliveryStage::Published { serial, delivery },
        _ => return Err(BadRecord::Value("stage")),
    };
    Ok(DeliveryRecord { session, share, stage })
}

pub fn encode_retained(record: &RetainedRecord, anchor: Anchor, out: &mut Vec<u8>) {
    let number = record.message.number();
    let publisher = record.publisher.as_deref();
    out.push(
        if number.is_some() { IS_LONG } else { 0 } | if publisher.is_some() { HAS_PUBLISHER } else { 0 },
    );
    if let Some(publisher) = publisher {
        put_bytes(publisher.as_bytes(), out);
    }
    match number {
        Some(number) => put_varint(number, out),
        None => encode_message(&record.message, anchor, out),
    }
}

pub fn decode_retained(
    value: &[u8],
    anchor: Anchor,
    message: impl FnOnce(u64) -> Option<Arc<StoredMessage>>,
) -> Result<RetainedRecord, BadRecord> {
    let mut reader = Reader(value);
    let flags = reader.u8("flags")?;
    let publisher =
        if flags & HAS_PUBLISHER == 0 { None } else { Some(Arc::from(reader.text("publisher")?)) };
    Ok(RetainedRecord { message: decode_kept(reader, flags, anchor, message)?, publisher })
}

/// The message at the end of a record, or the long one whose number stands there.
fn decode_kept(
    mut reader: Reader<'_>,
    flags: u8,
    anchor: Anchor,
    message: impl FnOnce(u64) -> Option<Arc<StoredMessage>>,
) -> Result<Arc<StoredMessage>, BadRecord> {
    if flags & IS_LONG == 0 {
        return Ok(Arc::new(decode_message(reader.0, anchor)?));
    }
    let number = reader.varint("message number")?;
    reader.finish()?;
    message(number).ok_or(BadRecord::NoMessage(number))
}

pub fn encode_message(message: &StoredMessage, anchor: Anchor, out: &mut Vec<u8>) {
    let message = message.as_message();
    let payload = message.payload.as_bytes();
    out.reserve(message.topic.len() + message.properties.len() + payload.len() + 16);
    let retain = if message.retain { MESSAGE_RETAIN } else { 0 };
    let has_expiry = if message.expires_at.is_some() { HAS_EXPIRY } else { 0 };
    out.push(u8::from(message.qos) | retain | has_expiry);
    if let Some(at) = message.expires_at {
        put_varint(anchor.to_wall(at), out);
    }
    put_bytes(message.topic, out);
    put_bytes(message.properties, out);
    out.extend_from_slice(payload);
}

pub fn decode_message(value: &[u8], anchor: Anchor) -> Result<StoredMessage, BadRecord> {
    let mut reader = Reader(value);
    let flags = reader.u8("flags")?;
    let expires_at = match flags & HAS_EXPIRY {
        0 => None,
        _ => Some(anchor.to_instant(reader.varint("expiry")?)),
    };
    let topic = reader.text("topic")?;
    TopicName::parse(topic).map_err(|_| BadRecord::Value("topic"))?;
    let properties = reader.bytes("properties")?;
    let payload = Bytes::copy_from_slice(reader.0);
    let message = MessageRef {
        topic: topic.as_bytes(),
        properties,
        payload: Payload::of(&payload),
        qos: qos(flags & 0b11)?,
        retain: flags & MESSAGE_RETAIN != 0,
        expires_at,
        packet: None,
    };
    Ok(message.store())
}

fn qos(value: u8) -> Result<QoS, BadRecord> {
    QoS::try_from(value).map_err(|_| BadRecord::Value("QoS"))
}

pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7F {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// What is left of a value; every method takes one field from its front.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn u8(&mut self, field: &'static str) -> Result<u8, BadRecord> {
        let (byte, rest) = self.0.split_first().ok_or(BadRecord::Truncated(field))?;
        self.0 = rest;
        Ok(*byte)
    }

    pub fn varint(&mut self, field: &'static str) -> Result<u64, BadRecord> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(field)?;
            let bits = u64::from(byte & 0x7F);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadRecord::Value(field))
    }

    pub fn take(&mut self, len: u64, field: &'static str) -> Result<&'a [u8], BadRecord> {
        let len = usize::try_from(len).map_err(|_| BadRecord::Truncated(field))?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BadRecord::Truncated(field))?;
        self.0 = rest;
        Ok(taken)
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], BadRecord> {
        let len = self.varint(field)?;
        self.take(len, field)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, BadRecord> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| BadRecord::Value(field))
    }

    pub fn finish(&self) -> Result<(), BadRecord> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(BadRecord::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn stored(topic: &str, payload: Vec<u8>, expiry: Option<u64>, anchor: Anchor) -> Arc<StoredMessage> {
        let payload = Bytes::from(payload);
        let message = MessageRef {
            topic: topic.as_bytes(),
            properties: b"\x01\x01",
            payload: Payload::of(&payload),
            qos: QoS::AtLeastOnce,
            retain: topic.len().is_multiple_of(2),
            expires_at: expiry.map(|at| anchor.to_instant(at)),
            packet: None,
        };
        Arc::new(message.store())
    }

    fn assert_same(one: &StoredMessage, other: &StoredMessage) {
        let (one, other) = (one.as_message(), other.as_message());
        assert_eq!((one.topic, one.properties), (other.topic, other.properties));
        assert_eq!(one.payload.as_bytes(), other.payload.as_bytes());
        assert_eq!((one.qos, one.retain, one.expires_at), (other.qos, other.retain, other.expires_at));
    }

    fn anchor() -> Anchor {
        Anchor::new(Instant::now(), 1_700_000_000_000)
    }

    proptest! {
        #[test]
        fn a_delivery_is_read_as_it_was_written(
            topic in "[a-z/]{1,40}",
            payload in vec(any::<u8>(), 0..20_000),
            expiry in option::of(1_700_000_000_000_u64..1_900_000_000_000),
            identifiers in vec(1_u32..268_435_456, 0..6),
            share in option::of("[a-z/]{0,200}"),
            (serial, order) in (any::<u64>(), any::<u64>()),
            (stage, qos, is_long) in (0..3, 0_u8..3, any::<bool>()),
        ) {
            let anchor = anchor();
            let message = stored(&topic, payload, expiry, anchor);
            if is_long {
                message.set_number(9);
            }
            let delivery = Delivery {
                message: Arc::clone(&message),
                qos: QoS::try_from(qos).unwrap(),
                retain: serial % 2 == 0,
                subscription_identifiers: identifiers.into(),
                share: None,
                record: 5,
            };
            let stage = match stage {
                0 => DeliveryStage::Queued(delivery),
                1 => DeliveryStage::Published { serial, delivery },
                _ => DeliveryStage::Released { serial, order },
            };
            let share = share.filter(|_| stage.delivery().is_some()).map(String::into_boxed_str);
            let written = DeliveryRecord { session: 3, share, stage };
            let mut value = Vec::new();
            encode_delivery(&written, anchor, &mut value);
            let message = |number| (number == 9).then(|| Arc::clone(&message));
            let read = decode_delivery((3, 5), &value, anchor, message).unwrap();
            prop_assert_eq!((read.session, &read.share), (3, &written.share));
            let serials = |stage: &DeliveryStage| match stage {
                DeliveryStage::Queued(_) => (0, 0, 0),
                DeliveryStage::Published { serial, .. } => (1, *serial, 0),
                DeliveryStage::Released { serial, order } => (2, *serial, *order),
            };
            prop_assert_eq!(serials(&read.stage), serials(&written.stage));
            if let (Some(read), Some(written)) = (read.stage.delivery(), written.stage.delivery()) {
                prop_assert_eq!((read.qos, read.retain, read.record), (written.qos, written.retain, 5));
                prop_assert_eq!(&read.subscription_identifiers, &written.subscription_identifiers);
                assert_same(&read.message, &written.message);
            }
            // Whatever is cut off, it is an error or less of a payload, and never a panic.
            for len in 0..value.len().min(300) {
                let _ = decode_delivery((3, 5), &value[..len], anchor, |_| None);
            }
        }

        #[test]
        fn a_retained_message_is_read_as_it_was_written(
            publisher in option::of("\\PC{0,60}"),
            payload in vec(any::<u8>(), 0..2_000),
        ) {
            let anchor = anchor();
            let message = stored("a/b", payload, None, anchor);
            let publisher = publisher.map(Arc::from);
            let written = RetainedRecord { message, publisher };
            let mut value = Vec::new();
            encode_retained(&written, anchor, &mut value);
            let read = decode_retained(&value, anchor, |_| None).unwrap();
            prop_assert_eq!(read.publisher, written.publisher);
            assert_same(&read.message, &written.message);
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(value in vec(any::<u8>(), 0..200)) {
            let anchor = anchor();
            let _ = decode_delivery((1, 1), &value, anchor, |_| None);
            let _ = decode_retained(&value, anchor, |_| None);
            let _ = decode_message(&value, anchor);
            let _ = decode_session(&value, anchor, |_| None);
            let _ = decode_subscription(&value);
            let _ = split_first_part(&value);
            let _ = describe(&value);
        }

        #[test]
        fn a_value_that_was_cut_is_put_together(value in vec(any::<u8>(), 0..20_000)) {
            let mut parts = cut(&value);
            let first = parts.next().unwrap();
            let (more, head) = split_first_part(&first).unwrap();
            let rest: Vec<IVec> = parts.collect();
            prop_assert_eq!(rest.len(), more as usize);
            prop_assert!(first.len() <= PART_LEN + 2 && rest.iter().all(|part| part.len() <= PART_LEN));
            prop_assert_eq!([head, &rest.concat()].concat(), value);
        }

        #[test]
        fn a_varint_is_read_as_it_was_written(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(value, &mut bytes);
            let mut reader = Reader(&bytes);
            prop_assert_eq!((reader.varint("number"), reader.finish()), (Ok(value), Ok(())));
        }
    }

    #[test]
    fn numbers_past_64_bits_are_refused() {
        let mut bytes = [0xFF; 10];
        bytes[9] = 0x02;
        assert_eq!(Reader(&bytes).varint("number"), Err(BadRecord::Value("number")));
    }

    #[test]
    fn keys_are_in_the_order_of_their_numbers_with_parts_behind_the_first() {
        let keys = [
            delivery_key(1, 255),
            part_key(&delivery_key(1, 255), 1),
            part_key(&delivery_key(1, 255), 256),
            delivery_key(1, 256),
            delivery_key(256, 1),
        ];
        assert!(keys.is_sorted());
        assert_eq!(split_key(&keys[2]), Some((&*keys[0], 256)));
        assert_eq!((first_number(&keys[4]), second_number(&keys[3])), (256, 256));
    }
}
