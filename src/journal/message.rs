//! A message as it is looked at.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    mock::PayloadView,
    packet::{Properties, Property, QoS},
};

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageOrigin {
    /// A client's PUBLISH.
    Client,
    /// A client's Will.
    Will,
    /// The control plane.
    Api,
    Mock,
    /// A replay, which connects as a client that says what it is.
    Replay,
}

impl MessageOrigin {
    pub const ALL: [Self; 5] = [Self::Client, Self::Will, Self::Api, Self::Mock, Self::Replay];

    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Will => "will",
            Self::Api => "api",
            Self::Mock => "mock",
            Self::Replay => "replay",
        }
    }
}

/// An Application Message that is being looked at, by any number of [matches](super::MessageMatch).
#[derive(Debug)]
pub struct Message<'a> {
    pub topic: &'a str,
    pub payload: PayloadView<'a>,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Cow<'a, Properties>,
    /// Who published it; empty where that was no client, or nobody knows.
    pub client_identifier: &'a str,
    pub origin: MessageOrigin,
}

impl Message<'_> {
    /// Values of the User Properties called `name`.
    pub fn user(&self, name: &str) -> impl Iterator<Item = &str> {
        self.properties.iter().filter_map(move |property| match property {
            Property::UserProperty(key, value) if key.as_str() == name => Some(value.as_str()),
            _ => None,
        })
    }
}
