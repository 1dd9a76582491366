//! What redacts a recording.

use std::sync::Arc;

use super::{Passwords, Redaction, RedactionReport, RuleReport, pass::Pass};
use crate::{
    packet::{ControlPacket, ProtocolVersion},
    recording::{Connections, Event, EventKind, InForce, MockFired},
};

/// Redacts the events of a recording, in their order, all of them.
#[derive(Debug)]
pub struct Redactor {
    redaction: Arc<Redaction>,
    /// Of the events as they were.
    connections: Connections,
    /// `None` if they are kept.
    passwords: Option<Passwords>,
    report: RedactionReport,
}

impl Redactor {
    pub fn new(redaction: Redaction) -> Self {
        let rules = redaction.rules.iter();
        let rules = rules.map(|rule| RuleReport { rule: rule.to_string(), values: 0, events: 0 }).collect();
        let report = RedactionReport { rules, ..RedactionReport::default() };
        Self {
            redaction: Arc::new(redaction),
            connections: Connections::new(),
            passwords: Some(Passwords::default()),
            report,
        }
    }

    /// Whether passwords stay, which otherwise go in any case. Patterns find what they match in them all the same.
    pub fn keep_credentials(mut self, keep: bool) -> Self {
        self.passwords = (!keep).then(Passwords::default);
        self
    }

    pub fn report(&self) -> &RedactionReport {
        &self.report
    }

    /// A Topic Filter that is told beside the events.
    pub fn filter(&self, filter: &str) -> String {
        let redaction = self.redaction.clone();
        Pass::new(&redaction).filter(filter).unwrap_or_else(|| filter.to_owned())
    }

    /// The event without what must not be in it.
    pub fn redact(&mut self, mut event: Event) -> Event {
        let seen = self.connections.follow(&event);
        let protocol = self.connections.get(event.connection).and_then(|connection| connection.protocol);
        let redaction = self.redaction.clone();
        let mut pass = Pass::new(&redaction);
        match &mut self.passwords {
            Some(passwords) => pass.passwords = u64::from(passwords.redact(&mut event)),
            None => pass.keeps_credentials = true,
        }
        match &mut event.kind {
            EventKind::Packet { bytes, .. } => {
                let packet = seen.and_then(|seen| seen.packet.ok());
                if let Some(redacted) = pass.whole_packet(bytes, packet, protocol) {
                    *bytes = redacted;
                }
            }
            EventKind::Raw { bytes, .. } => {
                if let Some(hidden) = pass.hide(bytes) {
                    *bytes = hidden;
                }
            }
            EventKind::Open(info) => pass.open(info),
            EventKind::Mark(label) => pass.set(label, |pass, label| pass.words(label)),
            EventKind::Mock(fired) => {
                let MockFired { client_identifier, topic, mock: _, messages: _ } = &mut **fired;
                pass.set(client_identifier, |pass, client| pass.client(client));
                pass.set(topic, |pass, topic| pass.filter(topic));
            }
            EventKind::Fault(fault) => pass.fault(fault, protocol),
            EventKind::State(in_force) => {
                let InForce { client_identifier, packet } = &mut **in_force;
                if let Some(client) = client_identifier {
                    pass.set(client, |pass, client| pass.client(client));
                }
                let decoded = ControlPacket::decode(packet, ProtocolVersion::V5).ok();
                if let Some(redacted) = pass.whole_packet(packet, decoded, Some(ProtocolVersion::V5)) {
                    *packet = redacted;
                }
            }
            EventKind::Close(_) => self.connections.forget_client(event.connection),
            EventKind::Anchor(_) | EventKind::Gap { .. } => {}
        }
        self.report.add(&pass);
        event
    }
}
