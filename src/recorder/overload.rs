//! What is left out where traffic must not wait, and how it is counted.

use std::collections::HashSet;

use crate::{packet::PacketType, recording::EventKind};

/// Of the memory: where taking packets ends, where it begins again, and where taking anything ends. What tells
/// connections apart is small and rare beside packets, so it has the room between the first and the last.
const FULL: f64 = 1.0;
const HALF: f64 = 0.5;
const OVERFULL: f64 = 2.0;

/// Decides which events a recorder that may not hold up traffic has room for.
#[derive(Debug, Default)]
pub struct Overload {
    is_dropping: bool,
    events: u64,
    bytes: u64,
    /// Connections whose beginning was left out: without it nobody could read the rest.
    lost: HashSet<u32>,
}

impl Overload {
    /// Whether there is room for an event, where `fill` of the memory is in use. If not, it is counted.
    pub fn takes(&mut self, fill: f64, connection: u32, kind: &EventKind) -> bool {
        let is_closing = matches!(kind, EventKind::Close(_));
        let is_lost = !self.lost.is_empty()
            && if is_closing { self.lost.remove(&connection) } else { self.lost.contains(&connection) };
        let limit = match (is_structure(kind), self.is_dropping) {
            (true, _) => OVERFULL,
            (false, false) => FULL,
            (false, true) => HALF,
        };
        if fill < limit && !is_lost {
            self.is_dropping &= is_structure(kind);
            return true;
        }
        if matches!(kind, EventKind::Open(_)) {
            self.lost.insert(connection);
        }
        self.is_dropping |= !is_lost;
        self.events += 1;
        self.bytes += kind.size() as u64;
        false
    }

    /// The GAP that stands for what was left out since the last one; `None` for nothing.
    pub fn take_gap(&mut self) -> Option<EventKind> {
        let Self { events, bytes, .. } = *self;
        (self.events, self.bytes) = (0, 0);
        (events > 0).then_some(EventKind::Gap { events, bytes })
    }
}

/// What a recording cannot be read without.
fn is_structure(kind: &EventKind) -> bool {
    match kind {
        EventKind::Packet { bytes, .. } => {
            let packet_type = bytes.first().and_then(|first| PacketType::of(*first));
            matches!(packet_type, Some(PacketType::Connect | PacketType::Connack))
        }
        EventKind::Raw { .. } | EventKind::Fault(_) | EventKind::Mock(_) | EventKind::State(_) => false,
        EventKind::Open(_)
        | EventKind::Close(_)
        | EventKind::Mark(_)
        | EventKind::Anchor(_)
        | EventKind::Gap { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use expect_test::expect;

    use super::*;
    use crate::recording::{CloseCause, Direction};

    fn packet(first: u8) -> EventKind {
        EventKind::Packet { direction: Direction::ClientToServer, bytes: Bytes::from(vec![first; 10]) }
    }

    #[test]
    fn packets_are_left_out_until_half_is_free_and_connections_only_if_there_is_far_too_much() {
        let mut overload = Overload::default();
        let (publish, connect) = (packet(0x30), packet(0x10));
        let open = EventKind::Open(Box::default());
        let close = EventKind::Close(CloseCause::ClientFin);
        let mut log = String::new();
        for (fill, connection, name, kind) in [
            (0.9, 1, "publish", &publish),
            (1.0, 1, "publish", &publish),
            (0.6, 1, "publish", &publish),
            (1.2, 2, "open", &open),
            (1.2, 2, "connect", &connect),
            (1.2, 2, "publish", &publish),
            (0.4, 2, "publish", &publish),
            (0.6, 2, "publish", &publish),
            (2.0, 3, "open", &open),
            (0.4, 3, "connect", &connect),
            (0.4, 3, "close", &close),
            (0.4, 3, "close", &close),
        ] {
            let taken = if overload.takes(fill, connection, kind) {
                let gap = overload.take_gap().map(|gap| format!("{gap:?}, ")).unwrap_or_default();
                format!("{gap}taken")
            } else {
                "left out".to_owned()
            };
            log += &format!("{fill} {connection} {name}: {taken}\n");
        }
        expect![[r#"
            0.9 1 publish: taken
            1 1 publish: left out
            0.6 1 publish: left out
            1.2 2 open: Gap { events: 2, bytes: 20 }, taken
            1.2 2 connect: taken
            1.2 2 publish: left out
            0.4 2 publish: Gap { events: 1, bytes: 10 }, taken
            0.6 2 publish: taken
            2 3 open: left out
            0.4 3 connect: left out
            0.4 3 close: left out
            0.4 3 close: Gap { events: 3, bytes: 10 }, taken
        "#]]
        .assert_eq(&log);
    }
}
