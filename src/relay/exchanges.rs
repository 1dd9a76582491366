//! QoS 2 messages of a client between PUBLISH and PUBREL that somebody was asked about.

use std::collections::HashMap;

use crate::{interceptor::Verdict, packet::PacketIdentifier};

#[derive(Default)]
pub(super) struct Exchanges {
    verdicts: HashMap<PacketIdentifier, Verdict>,
    intercepted: usize,
}

impl Exchanges {
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }

    /// Whether the server does not know of some.
    pub fn is_any_intercepted(&self) -> bool {
        self.intercepted > 0
    }

    pub fn get(&self, identifier: PacketIdentifier) -> Option<Verdict> {
        self.verdicts.get(&identifier).copied()
    }

    pub fn insert(&mut self, identifier: PacketIdentifier, verdict: Verdict) {
        self.remove(identifier);
        self.verdicts.insert(identifier, verdict);
        self.intercepted += usize::from(verdict == Verdict::Intercept);
    }

    pub fn remove(&mut self, identifier: PacketIdentifier) -> Option<Verdict> {
        let verdict = self.verdicts.remove(&identifier);
        self.intercepted -= usize::from(verdict == Some(Verdict::Intercept));
        verdict
    }
}
