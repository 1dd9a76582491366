//! Reason Codes.

use super::PacketType;

/// A Reason Code [section 2.4]; what 0x00 to 0x02 mean depends on the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReasonCode(pub u8);

macro_rules! reason_codes {
    ($($name:ident = $value:literal $text:literal),* $(,)?) => {
        impl ReasonCode {
            $(pub const $name: Self = Self($value);)*

            /// The standard's name, in lower case; `reason code` for one it does not know.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "reason code",
                }
            }

            /// Every name that [`name`](Self::name) knows.
            pub const NAMES: &[&str] = &[$($text),*];

            const CODES: &[Self] = &[$(Self($value)),*];
        }
    };
}

reason_codes! {
    SUCCESS = 0x00 "success",
    GRANTED_QOS_1 = 0x01 "granted QoS 1",
    GRANTED_QOS_2 = 0x02 "granted QoS 2",
    DISCONNECT_WITH_WILL = 0x04 "disconnect with will message",
    NO_MATCHING_SUBSCRIBERS = 0x10 "no matching subscribers",
    NO_SUBSCRIPTION_EXISTED = 0x11 "no subscription existed",
    CONTINUE_AUTHENTICATION = 0x18 "continue authentication",
    REAUTHENTICATE = 0x19 "re-authenticate",
    UNSPECIFIED_ERROR = 0x80 "unspecified error",
    MALFORMED_PACKET = 0x81 "malformed packet",
    PROTOCOL_ERROR = 0x82 "protocol error",
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83 "implementation specific error",
    UNSUPPORTED_PROTOCOL_VERSION = 0x84 "unsupported protocol version",
    CLIENT_IDENTIFIER_NOT_VALID = 0x85 "client identifier not valid",
    BAD_USER_NAME_OR_PASSWORD = 0x86 "bad user name or password",
    NOT_AUTHORIZED = 0x87 "not authorized",
    SERVER_UNAVAILABLE = 0x88 "server unavailable",
    SERVER_BUSY = 0x89 "server busy",
    BANNED = 0x8A "banned",
    SERVER_SHUTTING_DOWN = 0x8B "server shutting down",
    BAD_AUTHENTICATION_METHOD = 0x8C "bad authentication method",
    KEEP_ALIVE_TIMEOUT = 0x8D "keep alive timeout",
    SESSION_TAKEN_OVER = 0x8E "session taken over",
    TOPIC_FILTER_INVALID = 0x8F "topic filter invalid",
    TOPIC_NAME_INVALID = 0x90 "topic name invalid",
    PACKET_IDENTIFIER_IN_USE = 0x91 "packet identifier in use",
    PACKET_IDENTIFIER_NOT_FOUND = 0x92 "packet identifier not found",
    RECEIVE_MAXIMUM_EXCEEDED = 0x93 "receive maximum exceeded",
    TOPIC_ALIAS_INVALID = 0x94 "topic alias invalid",
    PACKET_TOO_LARGE = 0x95 "packet too large",
    MESSAGE_RATE_TOO_HIGH = 0x96 "message rate too high",
    QUOTA_EXCEEDED = 0x97 "quota exceeded",
    ADMINISTRATIVE_ACTION = 0x98 "administrative action",
    PAYLOAD_FORMAT_INVALID = 0x99 "payload format invalid",
    RETAIN_NOT_SUPPORTED = 0x9A "retain not supported",
    QOS_NOT_SUPPORTED = 0x9B "QoS not supported",
    USE_ANOTHER_SERVER = 0x9C "use another server",
    SERVER_MOVED = 0x9D "server moved",
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E "shared subscriptions not supported",
    CONNECTION_RATE_EXCEEDED = 0x9F "connection rate exceeded",
    MAXIMUM_CONNECT_TIME = 0xA0 "maximum connect time",
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1 "subscription identifiers not supported",
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2 "wildcard subscriptions not supported",
}

/// Other names of 0x00, which the standard calls differently from packet to packet.
const NAMES_OF_ZERO: [&str; 2] = ["normal disconnection", "granted QoS 0"];

impl ReasonCode {
    /// The code of that name, in any case, with spaces, `-`, `_` or nothing between its words.
    pub fn from_name(name: &str) -> Option<Self> {
        fn letters(name: &str) -> impl Iterator<Item = char> {
            name.chars().filter(|letter| !" -_".contains(*letter)).flat_map(char::to_lowercase)
        }
        let is_meant = |known: &str| letters(known).eq(letters(name));
        if NAMES_OF_ZERO.iter().any(|known| is_meant(known)) {
            return Some(Self::SUCCESS);
        }
        Self::NAMES.iter().position(|known| is_meant(known)).map(|position| Self::CODES[position])
    }

    /// 0x80 and above.
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// Whether a packet of this type may carry the code in MQTT 5, sent by whichever side
    /// [table 2-6].
    pub const fn is_allowed_in(self, packet: PacketType) -> bool {
        match packet {
            PacketType::Connack => matches!(
                self.0,
                0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            PacketType::Puback | PacketType::Pubrec => {
                matches!(self.0, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            PacketType::Pubrel | PacketType::Pubcomp => matches!(self.0, 0x00 | 0x92),
            PacketType::Suback => {
                matches!(self.0, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            PacketType::Unsuback => matches!(self.0, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            PacketType::Disconnect => matches!(
                self.0,
                0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
            ),
            PacketType::Auth => matches!(self.0, 0x00 | 0x18 | 0x19),
            _ => false,
        }
    }

    /// The CONNACK return code of MQTT 3.1 and 3.1.1 that comes nearest [section 3.2.2.3 of 3.1.1].
    pub const fn to_return_code(self) -> u8 {
        match self {
            Self::SUCCESS => 0,
            Self::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Self::CLIENT_IDENTIFIER_NOT_VALID => 2,
            Self::BAD_USER_NAME_OR_PASSWORD => 4,
            Self::NOT_AUTHORIZED | Self::BANNED | Self::BAD_AUTHENTICATION_METHOD => 5,
            // Server unavailable is the one that says nothing about the client.
            _ => 3,
        }
    }

    /// The Reason Code that succeeded a CONNACK return code; `None` above 5.
    pub const fn from_return_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::SUCCESS),
            1 => Some(Self::UNSUPPORTED_PROTOCOL_VERSION),
            2 => Some(Self::CLIENT_IDENTIFIER_NOT_VALID),
            3 => Some(Self::SERVER_UNAVAILABLE),
            4 => Some(Self::BAD_USER_NAME_OR_PASSWORD),
            5 => Some(Self::NOT_AUTHORIZED),
            _ => None,
        }
    }

    /// What SUBACK says before MQTT 5, where every refusal is 0x80.
    pub const fn to_return_code_of_suback(self) -> u8 {
        if self.is_error() { 0x80 } else { self.0 }
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

impl From<u8> for ReasonCode {
    fn from(code: u8) -> Self {
        Self(code)
    }
}

impl From<ReasonCode> for u8 {
    fn from(code: ReasonCode) -> Self {
        code.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_name() {
        assert_eq!(ReasonCode::NAMES.len(), 43);
        for (name, code) in ReasonCode::NAMES.iter().zip(ReasonCode::CODES) {
            assert_eq!(code.name(), *name);
            let spellings = [
                (*name).to_owned(),
                name.to_uppercase().replace(' ', "_"),
                name.replace(' ', "-"),
                name.replace(' ', ""),
            ];
            for spelling in spellings {
                assert_eq!(ReasonCode::from_name(&spelling), Some(*code), "{spelling}");
            }
        }
        assert_eq!(ReasonCode::from_name("Normal disconnection"), Some(ReasonCode::SUCCESS));
        assert_eq!(ReasonCode::from_name("quota_exceded"), None);
        assert_eq!(ReasonCode::from_name(""), None);
    }
}
