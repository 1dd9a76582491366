//! Protocol versions.

/// The protocol version that a CONNECT asks for; its number is the Protocol Level byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// `MQIsdp`, level 3.
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

impl ProtocolVersion {
    /// The Protocol Level byte.
    pub const fn level(self) -> u8 {
        self as u8
    }

    /// The version with that Protocol Level; `None` for others than 3, 4 and 5.
    pub const fn from_level(level: u8) -> Option<Self> {
        match level {
            3 => Some(Self::V31),
            4 => Some(Self::V311),
            5 => Some(Self::V5),
            _ => None,
        }
    }

    /// Whether packets of this version have properties and reason codes.
    #[inline]
    pub const fn has_properties(self) -> bool {
        matches!(self, Self::V5)
    }

    pub(super) const fn protocol_name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }

    /// The number people write: `3.1`, `3.1.1` or `5.0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

impl std::fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why text names no protocol version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no protocol version: 3.1, 3.1.1 (also 311, 4) or 5.0 (also 5)")]
pub struct BadVersion;

impl std::str::FromStr for ProtocolVersion {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        match text {
            "3.1" | "31" | "3" => Ok(Self::V31),
            "3.1.1" | "311" | "4" => Ok(Self::V311),
            "5.0" | "50" | "5" => Ok(Self::V5),
            _ => Err(BadVersion),
        }
    }
}
