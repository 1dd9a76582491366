//! What looks at events until one makes a trigger fire.

use std::time::Duration;

use super::{Reason, Trigger};
use crate::{
    mock::{Occasion, Subject},
    packet::{ControlPacket, Frame, PacketType, ReasonCode, fixed_header_len},
    recording::{Connections, Direction, Event, EventKind},
};

/// All triggers of a recorder.
#[derive(Debug)]
pub struct Triggers {
    triggers: Vec<Trigger>,
    /// Between two that fire.
    cooldown: Duration,
    last: Option<Duration>,
    /// Followed only if messages are looked at.
    connections: Option<Connections>,
}

impl Triggers {
    pub fn new(triggers: Vec<Trigger>, cooldown: Duration) -> Self {
        let asks_for_messages = triggers.iter().any(|trigger| matches!(trigger, Trigger::Message { .. }));
        Self { triggers, cooldown, last: None, connections: asks_for_messages.then(Connections::new) }
    }

    /// Why `event` makes a trigger fire; `None` if it does not, and while another has just fired.
    pub fn check(&mut self, event: &Event) -> Option<Reason> {
        let why = self.why(event)?;
        if self.last.is_some_and(|last| event.at.saturating_sub(last) < self.cooldown) {
            return None;
        }
        self.last = Some(event.at);
        Some(why)
    }

    fn why(&mut self, event: &Event) -> Option<Reason> {
        if self.triggers.is_empty() {
            return None;
        }
        let seen = self.connections.as_mut().and_then(|connections| connections.follow(event));
        if matches!(event.kind, EventKind::Close(_))
            && let Some(connections) = &mut self.connections
        {
            connections.forget_client(event.connection);
        }
        let EventKind::Packet { direction, bytes } = &event.kind else { return None };
        let asks_for_errors = self.triggers.iter().any(|trigger| matches!(trigger, Trigger::Error));
        if asks_for_errors && let Some(why) = error(bytes, event.connection, *direction) {
            return Some(Reason::Said(why));
        }
        let seen = seen?;
        let (Ok(ControlPacket::Publish(publish)), Some(topic)) = (seen.packet, seen.topic) else {
            return None;
        };
        let client = self.connections.as_ref()?.get(event.connection).and_then(|one| one.client());
        let occasion = Occasion {
            topic: topic.as_str().to_owned(),
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties,
            client_identifier: client.unwrap_or_default().to_owned(),
            ..Occasion::default()
        };
        let subject = Subject::new(&occasion);
        let fires = self.triggers.iter().any(|trigger| match trigger {
            Trigger::Error => false,
            Trigger::Message { topic: filter, condition } => {
                filter.as_ref().is_none_or(|filter| filter.matches(&topic))
                    && condition.check_message(&subject).is_ok()
            }
        });
        fires.then(|| Reason::Message { topic: topic.as_str().to_owned() })
    }
}

/// What is wrong according to a DISCONNECT or CONNACK.
fn error(bytes: &[u8], connection: u32, direction: Direction) -> Option<String> {
    let packet_type = PacketType::of(*bytes.first()?)?;
    let at = match packet_type {
        PacketType::Connack if direction == Direction::ServerToClient => 1,
        PacketType::Disconnect => 0,
        _ => return None,
    };
    let whole = Frame::size(bytes).ok().flatten() == Some(bytes.len());
    // Behind the Remaining Length, whatever the version: the code is at the same place in all of them.
    let code = *bytes.get(fixed_header_len(bytes) + at).filter(|_| whole)?;
    // Before MQTT 5, what is no success is an error.
    let code = match (packet_type, code) {
        (PacketType::Connack, 1..=5) => {
            return Some(format!("CONNACK with return code {code} on connection {connection}"));
        }
        (_, code) => ReasonCode(code),
    };
    code.is_error()
        .then(|| format!("{packet_type} 0x{:02x} ({}) on connection {connection}", code.0, code.name()))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::{
        packet::ProtocolVersion,
        recorder::TriggerSpec,
        recording::sample::{connect, events, from_client, open, publish},
    };

    /// The offsets, in microseconds, at which one of the triggers fired, and why.
    fn fired(specs: &[serde_json::Value], kinds: Vec<(u64, u32, EventKind)>) -> String {
        let made = specs.iter().map(|spec| {
            let spec: TriggerSpec = serde_json::from_value(spec.clone()).expect("a good one");
            Trigger::new(&spec).expect("a good one")
        });
        let mut triggers = Triggers::new(made.collect(), Duration::from_micros(10));
        let begin = [(0, 1, open()), (0, 1, connect("dev-1", ProtocolVersion::V5))];
        let fired = events(begin.into_iter().chain(kinds)).into_iter().filter_map(|event| {
            let why = triggers.check(&event)?;
            Some(format!("{} {why}", event.at.as_micros()))
        });
        fired.collect::<Vec<_>>().join("\n")
    }

    fn message(topic: &str, payload: &str) -> EventKind {
        from_client(publish(Some(topic), payload.as_bytes(), Vec::new()))
    }

    fn from_server(bytes: &'static [u8]) -> EventKind {
        EventKind::Packet { direction: Direction::ServerToClient, bytes: bytes.into() }
    }

    #[test]
    fn errors_of_both_versions_fire_and_goodbyes_do_not() {
        let kinds = vec![
            (20, 1, from_server(b"\x20\x03\0\0\0")),
            (40, 1, from_server(b"\x20\x03\0\x87\0")),
            (60, 1, from_server(b"\x20\x02\0\x05")),
            (80, 1, from_server(b"\xe0\x01\x8e")),
            (
                100,
                1,
                EventKind::Packet { direction: Direction::ClientToServer, bytes: b"\xe0\x00"[..].into() },
            ),
            (
                120,
                1,
                EventKind::Packet { direction: Direction::ClientToServer, bytes: b"\xe0\x01\x04"[..].into() },
            ),
        ];
        expect![[r#"
            40 CONNACK 0x87 (not authorized) on connection 1
            60 CONNACK with return code 5 on connection 1
            80 DISCONNECT 0x8e (session taken over) on connection 1"#]]
        .assert_eq(&fired(&[json!({"on": "error"})], kinds));
    }

    #[test]
    fn messages_fire_by_topic_and_payload_and_not_again_while_it_cools_down() {
        let specs = [
            json!({"topic": "alarms/#", "when": {"payload": {"$.level": {"gte": 3}}}}),
            json!({"topic": "log", "when": {"payload": {"regex": "FATAL|panic"}}}),
        ];
        let kinds = vec![
            (20, 1, message("alarms/a", r#"{"level": 2}"#)),
            (30, 1, message("alarms/a", r#"{"level": 3}"#)),
            (35, 1, message("log", "FATAL: out of tea")),
            (40, 1, message("log", "FATAL: out of tea")),
            (60, 1, message("other", "FATAL")),
            (70, 1, message("log", "all is well")),
        ];
        expect![[r#"
            30 a message on alarms/a that a trigger is for
            40 a message on log that a trigger is for"#]]
        .assert_eq(&fired(&specs, kinds));
    }
}
