//! What became of the last messages on their way to one webhook.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use ulid::Ulid;

use super::RoutedMessage;

/// Deliveries kept per webhook.
pub const LOGGED_MAX: usize = 1000;

/// Bytes kept of a request's body.
pub const BODY_KEPT: usize = 64 << 10;

/// Bytes kept of the body of an answer.
pub const RESPONSE_KEPT: usize = 1 << 10;

/// Bytes of all deliveries kept per webhook, messages included; the oldest make room.
const LOG_BYTES: usize = 16 << 20;

/// One message on its way to one webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookDelivery {
    /// Grows with time.
    pub id: Ulid,
    pub webhook: String,
    pub topic: String,
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// Of the last answer.
    pub status: Option<u16>,
    /// Why the last attempt failed; empty when it didn't.
    pub error: String,
    pub queued_at: Timestamp,
    /// When it was delivered or given up.
    pub ended_at: Option<Timestamp>,
    /// Of the last attempt.
    pub duration: Option<Duration>,
    /// Of the last attempt.
    pub url: String,
    /// At most [`BODY_KEPT`] bytes.
    pub request_body: Bytes,
    /// At most [`RESPONSE_KEPT`] bytes.
    pub response_body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Waits for its turn, or for the next attempt.
    Pending,
    Delivered,
    /// Was given up.
    Failed,
}

/// A message was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEvent {
    pub webhook: String,
    /// Id of the delivery.
    pub delivery: String,
    pub topic: String,
    pub attempts: u32,
    pub error: String,
}

impl WebhookDelivery {
    pub fn pending(id: Ulid, webhook: &str, topic: &str, queued_at: Timestamp) -> Self {
        Self {
            id,
            webhook: webhook.to_owned(),
            topic: topic.to_owned(),
            state: DeliveryState::Pending,
            attempts: 0,
            status: None,
            error: String::new(),
            queued_at,
            ended_at: None,
            duration: None,
            url: String::new(),
            request_body: Bytes::new(),
            response_body: Bytes::new(),
        }
    }

    /// Keeps what there is room for of a request's body.
    pub fn set_request_body(&mut self, body: &Bytes) {
        self.request_body =
            if body.len() > BODY_KEPT { Bytes::copy_from_slice(&body[..BODY_KEPT]) } else { body.clone() };
    }

    fn size(&self) -> usize {
        size_of::<Self>()
            + self.webhook.len()
            + self.topic.len()
            + self.error.len()
            + self.url.len()
            + self.request_body.len()
            + self.response_body.len()
    }
}

/// The last deliveries of one webhook.
#[derive(Debug, Default)]
pub struct DeliveryLog {
    entries: BTreeMap<Ulid, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    delivery: WebhookDelivery,
    message: Option<Arc<RoutedMessage>>,
}

impl DeliveryLog {
    /// Adds a delivery, or what became of it since. `message` is kept if it and its body are small enough to be sent
    /// again as they are.
    pub fn put(&mut self, delivery: WebhookDelivery, message: &Arc<RoutedMessage>) {
        self.remove(delivery.id);
        let is_kept = delivery.request_body.len() < BODY_KEPT && message.size() <= BODY_KEPT;
        let entry = Entry { delivery, message: is_kept.then(|| Arc::clone(message)) };
        self.bytes += entry.size();
        self.entries.insert(entry.delivery.id, entry);
        while self.entries.len() > LOGGED_MAX || self.bytes > LOG_BYTES {
            let Some(&oldest) = self.entries.keys().next() else { return };
            self.remove(oldest);
        }
    }

    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = &WebhookDelivery> {
        self.entries.values().rev().map(|entry| &entry.delivery)
    }

    pub fn get(&self, id: Ulid) -> Option<&WebhookDelivery> {
        self.entries.get(&id).map(|entry| &entry.delivery)
    }

    /// The message of a delivery, with the body that it was sent with, if it was; `None` if either was too large to be
    /// kept.
    pub fn resendable(&self, id: Ulid) -> Option<(Arc<RoutedMessage>, Option<Bytes>)> {
        let Entry { delivery, message } = self.entries.get(&id)?;
        let body = (delivery.attempts > 0).then(|| delivery.request_body.clone());
        Some((Arc::clone(message.as_ref()?), body))
    }

    fn remove(&mut self, id: Ulid) {
        if let Some(entry) = self.entries.remove(&id) {
            self.bytes -= entry.size();
        }
    }
}

impl Entry {
    fn size(&self) -> usize {
        self.delivery.size() + self.message.as_ref().map_or(0, |message| message.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Occasion;

    fn message(payload: usize) -> Arc<RoutedMessage> {
        let occasion =
            Occasion { topic: "a".to_owned(), payload: vec![0; payload].into(), ..Occasion::default() };
        Arc::new(RoutedMessage { occasion, at: Timestamp::UNIX_EPOCH })
    }

    fn delivery(number: u128, body: usize) -> WebhookDelivery {
        let mut delivery = WebhookDelivery::pending(Ulid(number), "h", "a", Timestamp::UNIX_EPOCH);
        delivery.set_request_body(&vec![b'x'; body].into());
        delivery
    }

    #[test]
    fn the_newest_thousand_are_kept_and_a_delivery_is_kept_once() {
        let mut log = DeliveryLog::default();
        for number in 0..1100 {
            log.put(delivery(number, 10), &message(10));
            log.put(WebhookDelivery { attempts: 1, ..delivery(number, 10) }, &message(10));
        }
        let kept: Vec<_> = log.iter().map(|delivery| (delivery.id.0, delivery.attempts)).collect();
        assert_eq!((kept.len(), kept[0], kept[999]), (LOGGED_MAX, (1099, 1), (100, 1)));
        let body = log.resendable(Ulid(1099)).expect("it is small").1;
        assert_eq!(body.map(|body| body.len()), Some(10));
        assert!(log.resendable(Ulid(3)).is_none());
    }

    #[test]
    fn memory_is_bounded_and_large_messages_are_not_kept() {
        let mut log = DeliveryLog::default();
        for number in 0..600 {
            log.put(delivery(number, 200 << 10), &message(100 << 10));
        }
        assert!(log.bytes <= LOG_BYTES && log.entries.len() > 200, "{} bytes", log.bytes);
        assert!(log.iter().all(|delivery| delivery.request_body.len() == BODY_KEPT));
        assert!(log.resendable(Ulid(599)).is_none() && log.get(Ulid(599)).is_some());
    }
}
