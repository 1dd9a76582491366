//! Which packets an action can be done to.

use std::fmt;

use crate::{
    packet::{PacketType, ProtocolVersion},
    recording::Direction,
};

/// What an action is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Any,
    /// All but CONNECT and CONNACK: of a client that is connected.
    Connected,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP and CONNACK.
    Acknowledgement,
    /// Those of them that carry a Reason Code, which before MQTT 5 are CONNACK and SUBACK.
    ReasonCode,
    Connect,
    /// CONNACK, as far as its protocol version has anything to change: from 3.1.1 on Session Present, in MQTT 5 the rest.
    Connack {
        since: ProtocolVersion,
    },
    /// PUBLISH to a client.
    Delivery,
}

impl Target {
    /// Only those that travel in that direction at all.
    pub fn types(self, direction: Direction, protocol: ProtocolVersion) -> TypeSet {
        use PacketType::*;
        let types = match self {
            Self::Any => return TypeSet::travelling(direction, protocol),
            Self::Connected => &[
                Publish,
                Puback,
                Pubrec,
                Pubrel,
                Pubcomp,
                Subscribe,
                Suback,
                Unsubscribe,
                Unsuback,
                Pingreq,
                Pingresp,
                Disconnect,
                Auth,
            ][..],
            Self::Acknowledgement => &[Connack, Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback, Pingresp],
            Self::ReasonCode if protocol.has_properties() => {
                &[Connack, Puback, Pubrec, Pubrel, Pubcomp, Suback, Unsuback]
            }
            Self::ReasonCode => &[Connack, Suback],
            Self::Connect => &[Connect],
            Self::Connack { since } if protocol >= since => &[Connack],
            Self::Connack { .. } => &[],
            Self::Delivery if direction == Direction::ServerToClient => &[Publish],
            Self::Delivery => &[],
        };
        types.iter().copied().collect::<TypeSet>() & TypeSet::travelling(direction, protocol)
    }
}

/// A set of packet types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeSet(u16);

impl TypeSet {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(0xFFFE);

    /// Those that a client, or a server, sends.
    pub fn travelling(direction: Direction, protocol: ProtocolVersion) -> Self {
        use PacketType::*;
        let goes = |packet: &PacketType| match packet {
            Connect | Subscribe | Unsubscribe | Pingreq => direction == Direction::ClientToServer,
            Connack | Suback | Unsuback | Pingresp => direction == Direction::ServerToClient,
            Publish | Puback | Pubrec | Pubrel | Pubcomp => true,
            // Before MQTT 5 a server just closes.
            Disconnect => protocol.has_properties() || direction == Direction::ClientToServer,
            Auth => protocol.has_properties(),
        };
        PacketType::ALL.into_iter().filter(goes).collect()
    }

    pub fn of(packet: PacketType) -> Self {
        Self(1 << packet as u16)
    }

    pub fn contains(self, packet: PacketType) -> bool {
        self.0 & Self::of(packet).0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitAnd for TypeSet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl std::ops::BitOr for TypeSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<PacketType> for TypeSet {
    fn from_iter<T: IntoIterator<Item = PacketType>>(types: T) -> Self {
        types.into_iter().fold(Self::NONE, |set, packet| set | Self::of(packet))
    }
}

impl fmt::Display for TypeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = PacketType::ALL.into_iter().filter(|packet| self.contains(*packet)).map(PacketType::name);
        f.write_str(&names.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect;

    use super::*;

    #[test]
    fn targets_are_what_travels_in_the_version() {
        let targets = [
            Target::Any,
            Target::Acknowledgement,
            Target::ReasonCode,
            Target::Connect,
            Target::Connack { since: ProtocolVersion::V311 },
            Target::Delivery,
        ];
        let mut table = String::new();
        for target in targets {
            for protocol in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
                for direction in [Direction::ClientToServer, Direction::ServerToClient] {
                    let types = target.types(direction, protocol);
                    _ = writeln!(table, "{target:?} {protocol} {} [{types}]", direction.name());
                }
            }
        }
        expect![[r#"
            Any 3.1 c2s [CONNECT, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT]
            Any 3.1 s2c [CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP]
            Any 3.1.1 c2s [CONNECT, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT]
            Any 3.1.1 s2c [CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP]
            Any 5.0 c2s [CONNECT, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT, AUTH]
            Any 5.0 s2c [CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP, DISCONNECT, AUTH]
            Acknowledgement 3.1 c2s [PUBACK, PUBREC, PUBREL, PUBCOMP]
            Acknowledgement 3.1 s2c [CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP]
            Acknowledgement 3.1.1 c2s [PUBACK, PUBREC, PUBREL, PUBCOMP]
            Acknowledgement 3.1.1 s2c [CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP]
            Acknowledgement 5.0 c2s [PUBACK, PUBREC, PUBREL, PUBCOMP]
            Acknowledgement 5.0 s2c [CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP]
            ReasonCode 3.1 c2s []
            ReasonCode 3.1 s2c [CONNACK, SUBACK]
            ReasonCode 3.1.1 c2s []
            ReasonCode 3.1.1 s2c [CONNACK, SUBACK]
            ReasonCode 5.0 c2s [PUBACK, PUBREC, PUBREL, PUBCOMP]
            ReasonCode 5.0 s2c [CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK]
            Connect 3.1 c2s [CONNECT]
            Connect 3.1 s2c []
            Connect 3.1.1 c2s [CONNECT]
            Connect 3.1.1 s2c []
            Connect 5.0 c2s [CONNECT]
            Connect 5.0 s2c []
            Connack { since: V311 } 3.1 c2s []
            Connack { since: V311 } 3.1 s2c []
            Connack { since: V311 } 3.1.1 c2s []
            Connack { since: V311 } 3.1.1 s2c [CONNACK]
            Connack { since: V311 } 5.0 c2s []
            Connack { since: V311 } 5.0 s2c [CONNACK]
            Delivery 3.1 c2s []
            Delivery 3.1 s2c [PUBLISH]
            Delivery 3.1.1 c2s []
            Delivery 3.1.1 s2c [PUBLISH]
            Delivery 5.0 c2s []
            Delivery 5.0 s2c [PUBLISH]
        "#]].assert_eq(&table);
    }
}
