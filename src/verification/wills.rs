//! Whose Wills messages are, to be told when they are missing.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use crate::packet::{Publish, TopicName, Will};

/// Bytes of Wills that are remembered.
const WILLS_BYTES_MAX: usize = 16 << 20;
/// Of a Will beside topic and payload.
const WILL_BYTES: usize = 128;

/// Clients by the messages of their Wills.
#[derive(Default)]
pub struct Wills {
    clients: HashMap<(TopicName, Bytes), Arc<str>>,
    bytes: usize,
}

impl Wills {
    pub fn add(&mut self, will: &Will, client: &str) {
        let size = WILL_BYTES + will.topic.as_str().len() + will.payload.len() + client.len();
        if self.bytes + size > WILLS_BYTES_MAX {
            return;
        }
        let before = self.clients.insert((will.topic.clone(), will.payload.clone()), client.into());
        if before.is_none() {
            self.bytes += size;
        }
    }

    /// Whose it is, if it is one's.
    pub fn client(&self, publish: &Publish) -> Option<Arc<str>> {
        if self.clients.is_empty() {
            return None;
        }
        self.clients.get(&(publish.topic.clone()?, publish.payload.clone())).cloned()
    }
}
