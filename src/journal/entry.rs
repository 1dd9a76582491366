//! A copy of a message that was kept.

use std::time::Duration;

use bytes::Bytes;

use super::{KeptMessage, MessageOrigin};
use crate::packet::{Properties, QoS};

/// A message that passed through the server.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// From 1, in the order they came; never twice.
    pub sequence: u64,
    /// Since the journal began.
    pub at: Duration,
    pub topic: String,
    /// Of one that came near, its beginning.
    pub payload: Bytes,
    /// Bytes of the whole payload.
    pub payload_len: usize,
    pub qos: QoS,
    pub retain: bool,
    /// What subscribers see; not the expiry.
    pub properties: Properties,
    /// Who published it; empty where that was no client.
    pub client_identifier: String,
    pub origin: MessageOrigin,
    /// Whether a mock kept it, so that nobody got it.
    pub is_kept: bool,
}

impl From<&KeptMessage<'_>> for JournalEntry {
    fn from(message: &KeptMessage<'_>) -> Self {
        Self::beginning(message, usize::MAX)
    }
}

impl JournalEntry {
    /// With as many bytes of the payload.
    pub fn beginning(message: &KeptMessage<'_>, payload_max: usize) -> Self {
        Self {
            sequence: message.sequence,
            at: message.at,
            topic: message.topic.to_owned(),
            payload: Bytes::copy_from_slice(&message.payload[..payload_max.min(message.payload.len())]),
            payload_len: message.payload.len(),
            qos: message.qos,
            retain: message.retain,
            properties: Properties::of_publish(message.properties),
            client_identifier: message.client_identifier.to_owned(),
            origin: message.origin,
            is_kept: message.is_kept,
        }
    }
}
