//! Whether acknowledgements are those of messages that are meant.

use std::collections::{BTreeMap, HashMap};

use super::Direction;
use crate::packet::{Connect, ControlPacket, PacketIdentifier, ProtocolVersion};

/// Exchanges that are remembered: of four clients that have used all Packet Identifiers in one direction, or of as many
/// as may be away with 16 messages each. The acknowledgements of others are nobody's.
const OPEN_MAX: usize = 256 * 1024;
/// Clients whose exchanges are remembered while they are away.
const AWAY_MAX: usize = 16 * 1024;

/// QoS 1 and 2 exchanges that are not completed, each with whether its message is meant.
#[derive(Clone, Debug, Default)]
pub struct Exchanges {
    /// By connection; of one that was closed, while its client is away.
    of_connections: HashMap<u32, Open>,
    /// By client, the connection that has what its session has not completed.
    holders: HashMap<String, u32>,
    /// Connections that were closed and whose session may go on, with their clients, the longest ago first.
    away: BTreeMap<u64, (u32, String)>,
    closed: u64,
    /// Of all connections.
    len: usize,
}

/// The exchanges of one connection.
#[derive(Clone, Debug, Default)]
struct Open {
    /// By who publishes and the Packet Identifier.
    exchanges: HashMap<(Direction, u16), bool>,
    /// Whether the session ends with the connection.
    ends: bool,
    /// Its place among those that are away.
    away: Option<u64>,
}

impl Exchanges {
    /// Takes the next packet that `direction` says. Answers whether the message is meant that it belongs to: a PUBLISH
    /// if `is_meant`; `None` for what belongs to none, or to one that nobody saw.
    pub fn follow(
        &mut self,
        connection: u32,
        client: Option<&str>,
        direction: Direction,
        packet: &ControlPacket,
        is_meant: Option<bool>,
    ) -> Option<bool> {
        let other = match direction {
            Direction::ClientToServer => Direction::ServerToClient,
            Direction::ServerToClient => Direction::ClientToServer,
        };
        match packet {
            ControlPacket::Connect(connect) => {
                self.set_ends(connection, ends_with_connection(connect));
                None
            }
            ControlPacket::Connack(connack) if !connack.reason_code.is_error() => {
                self.set_expiry(connection, connack.properties.session_expiry_interval());
                if let Some(client) = client {
                    self.resume(connection, client, connack.session_present);
                }
                None
            }
            ControlPacket::Disconnect(disconnect) => {
                self.set_expiry(connection, disconnect.properties.session_expiry_interval());
                None
            }
            ControlPacket::Publish(publish) => {
                let Some(identifier) = publish.packet_identifier else { return is_meant };
                match is_meant {
                    Some(is_meant) => self.begin(connection, client, direction, identifier, is_meant),
                    None => _ = self.take(connection, (direction, identifier.get())),
                }
                is_meant
            }
            ControlPacket::Puback(ack) | ControlPacket::Pubcomp(ack) => {
                self.take(connection, (other, ack.packet_identifier.get()))
            }
            ControlPacket::Pubrec(ack) if ack.reason_code.is_error() => {
                self.take(connection, (other, ack.packet_identifier.get()))
            }
            ControlPacket::Pubrec(ack) => self.get(connection, (other, ack.packet_identifier.get())),
            ControlPacket::Pubrel(ack) => self.get(connection, (direction, ack.packet_identifier.get())),
            _ => None,
        }
    }

    /// A message begins an exchange.
    pub fn begin(
        &mut self,
        connection: u32,
        client: Option<&str>,
        direction: Direction,
        identifier: PacketIdentifier,
        is_meant: bool,
    ) {
        while self.len >= OPEN_MAX && self.forget_longest_away() {}
        let open = self.of_connections.entry(connection).or_default();
        let exchange = (direction, identifier.get());
        if self.len >= OPEN_MAX {
            self.len -= usize::from(open.exchanges.remove(&exchange).is_some());
            return;
        }
        // Another has it until the server accepts this one.
        if open.exchanges.is_empty()
            && let Some(client) = client
            && !self.holders.contains_key(client)
        {
            self.holders.insert(client.to_owned(), connection);
        }
        self.len += usize::from(open.exchanges.insert(exchange, is_meant).is_none());
    }

    /// The connection of `client` was closed.
    pub fn close(&mut self, connection: u32, client: Option<&str>) {
        let Some(open) = self.of_connections.get_mut(&connection) else { return };
        let holder = client.filter(|client| self.holders.get(*client) == Some(&connection));
        match holder {
            Some(client) if !open.ends && !open.exchanges.is_empty() => {
                self.closed += 1;
                open.away = Some(self.closed);
                self.away.insert(self.closed, (connection, client.to_owned()));
                if self.away.len() > AWAY_MAX {
                    self.forget_longest_away();
                }
            }
            _ => {
                self.forget(connection);
                holder.map(|client| self.holders.remove(client));
            }
        }
    }

    /// The server accepted `client`, whose earlier connection may still be open: the server, or the network, closes it
    /// when it gets round to it [MQTT-3.1.4-3].
    fn resume(&mut self, connection: u32, client: &str, session_present: bool) {
        if let Some(before) = self.holders.remove(client).filter(|before| *before != connection) {
            let is_away = self.of_connections.get(&before).is_some_and(|open| open.away.is_some());
            let before = match is_away {
                true => self.forget(before),
                false => self.of_connections.get(&before).cloned(),
            };
            if session_present && let Some(before) = before {
                let open = self.of_connections.entry(connection).or_default();
                let len = open.exchanges.len();
                for (exchange, is_meant) in before.exchanges {
                    open.exchanges.entry(exchange).or_insert(is_meant);
                }
                self.len += open.exchanges.len() - len;
            }
        }
        if self.of_connections.get(&connection).is_some_and(|open| !open.exchanges.is_empty()) {
            self.holders.insert(client.to_owned(), connection);
        }
    }

    /// Seconds; `None` leaves it as it was.
    fn set_expiry(&mut self, connection: u32, session_expiry_interval: Option<u32>) {
        if let Some(seconds) = session_expiry_interval {
            self.set_ends(connection, seconds == 0);
        }
    }

    fn set_ends(&mut self, connection: u32, ends: bool) {
        self.of_connections.entry(connection).or_default().ends = ends;
    }

    fn get(&self, connection: u32, exchange: (Direction, u16)) -> Option<bool> {
        self.of_connections.get(&connection)?.exchanges.get(&exchange).copied()
    }

    fn take(&mut self, connection: u32, exchange: (Direction, u16)) -> Option<bool> {
        let taken = self.of_connections.get_mut(&connection)?.exchanges.remove(&exchange);
        self.len -= usize::from(taken.is_some());
        taken
    }

    fn forget(&mut self, connection: u32) -> Option<Open> {
        let open = self.of_connections.remove(&connection)?;
        self.len -= open.exchanges.len();
        open.away.map(|away| self.away.remove(&away));
        Some(open)
    }

    /// `false` if nobody is away.
    fn forget_longest_away(&mut self) -> bool {
        let Some((_, (connection, client))) = self.away.pop_first() else { return false };
        self.forget(connection);
        self.holders.remove(&client);
        true
    }
}

/// Whether the session that `connect` asks for does not outlive its connection [section 3.1.2.11.2].
fn ends_with_connection(connect: &Connect) -> bool {
    match connect.protocol {
        ProtocolVersion::V5 => connect.properties.session_expiry_interval().unwrap_or(0) == 0,
        _ => connect.clean_start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Ack, Connack, Properties, Property, ReasonCode, Utf8String};

    const SENT: Direction = Direction::ClientToServer;

    fn identifier(number: usize) -> PacketIdentifier {
        PacketIdentifier::new(u16::try_from(number).unwrap()).unwrap()
    }

    fn connect(exchanges: &mut Exchanges, connection: u32, client: &str, properties: Vec<Property>) {
        let connect = Connect {
            protocol: ProtocolVersion::V5,
            clean_start: false,
            keep_alive: 0,
            properties: Properties(properties),
            client_identifier: Utf8String::new(client).unwrap(),
            will: None,
            username: None,
            password: None,
        };
        let connect = ControlPacket::Connect(Box::new(connect));
        exchanges.follow(connection, Some(client), SENT, &connect, None);
    }

    fn connack(exchanges: &mut Exchanges, connection: u32, client: &str, session_present: bool) {
        let connack =
            Connack { session_present, reason_code: ReasonCode::SUCCESS, properties: Properties::new() };
        let connack = ControlPacket::Connack(connack);
        exchanges.follow(connection, Some(client), Direction::ServerToClient, &connack, None);
    }

    fn puback(exchanges: &mut Exchanges, connection: u32, number: usize) -> Option<bool> {
        let ack = ControlPacket::Puback(Ack::new(identifier(number)));
        exchanges.follow(connection, None, Direction::ServerToClient, &ack, None)
    }

    #[test]
    fn who_takes_over_takes_the_exchanges_along() {
        for session_present in [true, false] {
            let mut exchanges = Exchanges::default();
            for number in 1..=2 {
                exchanges.begin(1, Some("dev"), SENT, identifier(number), false);
            }
            // A client may publish before the server has answered.
            exchanges.begin(2, Some("dev"), SENT, identifier(3), true);
            connack(&mut exchanges, 2, "dev", session_present);
            assert_eq!(puback(&mut exchanges, 1, 1), Some(false));
            exchanges.close(1, Some("dev"));
            assert_eq!(puback(&mut exchanges, 2, 2), session_present.then_some(false));
            exchanges.close(2, Some("dev"));
            connack(&mut exchanges, 3, "dev", true);
            assert_eq!(puback(&mut exchanges, 3, 3), Some(true));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_longest_away_go_first() {
        let mut exchanges = Exchanges::default();
        for client in 1..=5 {
            for number in 1..=65_535 {
                exchanges.begin(client, Some(&client.to_string()), SENT, identifier(number), true);
            }
            assert!(exchanges.len <= OPEN_MAX);
            exchanges.close(client, Some(&client.to_string()));
        }
        for client in 1..=5 {
            connack(&mut exchanges, 10 + client, &client.to_string(), true);
            assert_eq!(puback(&mut exchanges, 10 + client, 1).is_some(), client > 1, "{client}");
        }
        // Nobody is away.
        for number in 1..=65_535 {
            exchanges.begin(20, None, SENT, identifier(number), true);
        }
        assert_eq!(exchanges.len, OPEN_MAX);
        let all: usize = exchanges.of_connections.values().map(|open| open.exchanges.len()).sum();
        assert_eq!(all, OPEN_MAX);
    }

    #[test]
    fn only_so_many_clients_that_are_away_are_remembered() {
        let mut exchanges = Exchanges::default();
        for number in 0..=AWAY_MAX as u32 {
            exchanges.begin(number, Some(&number.to_string()), SENT, identifier(1), true);
            exchanges.close(number, Some(&number.to_string()));
        }
        assert_eq!((exchanges.away.len(), exchanges.holders.len()), (AWAY_MAX, AWAY_MAX));
        assert_eq!((exchanges.of_connections.len(), exchanges.len), (AWAY_MAX, AWAY_MAX));
        assert!(!exchanges.holders.contains_key("0"));
    }

    #[test]
    fn a_session_that_ends_with_its_connection_is_not_remembered() {
        let interval = |seconds| vec![Property::SessionExpiryInterval(seconds)];
        for (properties, is_kept) in [(vec![], false), (interval(0), false), (interval(60), true)] {
            let mut exchanges = Exchanges::default();
            connect(&mut exchanges, 1, "dev", properties);
            connack(&mut exchanges, 1, "dev", false);
            exchanges.begin(1, Some("dev"), SENT, identifier(1), true);
            exchanges.close(1, Some("dev"));
            assert_eq!(exchanges.len, usize::from(is_kept));
            assert_eq!(
                (exchanges.holders.len(), exchanges.of_connections.len()),
                (exchanges.len, exchanges.len)
            );
        }
    }
}
