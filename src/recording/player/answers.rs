//! How the recorded server answered, for whoever judges how another one does.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use crate::packet::{Connack, Properties, Property, ProtocolVersion, QoS, ReasonCode};

/// Answers of a recorded server, as far as they matter for how clients go on.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    accepted: HashMap<u32, Offer>,
    /// Connections that the server refused.
    turned_away: HashSet<u32>,
    /// The errors that requests were answered with, by sequence number.
    refused: HashMap<u64, ReasonCode>,
    /// Requests that were not answered.
    unanswered: HashSet<u64>,
    newest: Option<ProtocolVersion>,
}

/// What a server says in CONNACK that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    maximum_qos: u8,
    retains: bool,
    wildcards: bool,
    shares: bool,
    identifies: bool,
    receive_maximum: u16,
    maximum_packet_size: u32,
}

impl Answers {
    pub(super) fn connects(&mut self, protocol: ProtocolVersion) {
        self.newest = self.newest.max(Some(protocol));
    }

    pub(super) fn connected(&mut self, connection: u32, connack: &Connack) {
        if connack.reason_code.is_error() {
            self.turned_away.insert(connection);
        } else {
            self.accepted.insert(connection, Offer::of(&connack.properties));
        }
    }

    pub(super) fn is_asked(&mut self, seq: u64) {
        self.unanswered.insert(seq);
    }

    pub(super) fn answers(&mut self, seq: u64, reason_code: ReasonCode) {
        self.unanswered.remove(&seq);
        if reason_code.is_error() {
            self.refused.insert(seq, reason_code);
        }
    }

    /// Whether the server refused a connection.
    pub fn was_turned_away(&self, connection: u32) -> bool {
        self.turned_away.contains(&connection)
    }

    /// The newest version that a client spoke.
    pub fn newest(&self) -> Option<ProtocolVersion> {
        self.newest
    }

    /// What the server offered over a connection; `None` if it did not accept it, or that was not recorded.
    pub fn offer(&self, connection: u32) -> Option<Offer> {
        self.accepted.get(&connection).copied()
    }

    /// Whether the request with this sequence number was answered, as all are that are not known not to be.
    pub fn has_answer(&self, seq: u64) -> bool {
        !self.unanswered.contains(&seq)
    }

    /// Whether the request with this sequence number was answered with just this error.
    pub fn was_refused(&self, seq: u64, reason_code: ReasonCode) -> bool {
        self.refused.get(&seq) == Some(&reason_code)
    }
}

impl Offer {
    pub fn of(properties: &Properties) -> Self {
        let mut offer = Self {
            maximum_qos: QoS::ExactlyOnce as u8,
            retains: true,
            wildcards: true,
            shares: true,
            identifies: true,
            receive_maximum: u16::MAX,
            maximum_packet_size: u32::MAX,
        };
        for property in &properties.0 {
            match *property {
                Property::MaximumQoS(qos) => offer.maximum_qos = qos,
                Property::RetainAvailable(is) => offer.retains = is,
                Property::WildcardSubscriptionAvailable(is) => offer.wildcards = is,
                Property::SharedSubscriptionAvailable(is) => offer.shares = is,
                Property::SubscriptionIdentifierAvailable(is) => offer.identifies = is,
                Property::ReceiveMaximum(maximum) => offer.receive_maximum = maximum,
                Property::MaximumPacketSize(size) => offer.maximum_packet_size = size,
                _ => {}
            }
        }
        offer
    }

    /// What `other` takes less of, for people.
    pub fn lacks(&self, other: &Self) -> Vec<String> {
        let mut lacks = Vec::new();
        let mut less = |what: &str, then: &dyn fmt::Display, now: &dyn fmt::Display, is_less: bool| {
            if is_less {
                lacks.push(format!("the target's {what} is {now}, the recorded server's was {then}"));
            }
        };
        let shown = |maximum: u32| match maximum {
            u32::MAX => "without limit".to_owned(),
            maximum => maximum.to_string(),
        };
        less("Maximum QoS", &self.maximum_qos, &other.maximum_qos, other.maximum_qos < self.maximum_qos);
        less(
            "Receive Maximum",
            &self.receive_maximum,
            &other.receive_maximum,
            other.receive_maximum < self.receive_maximum,
        );
        less(
            "Maximum Packet Size",
            &shown(self.maximum_packet_size),
            &shown(other.maximum_packet_size),
            other.maximum_packet_size < self.maximum_packet_size,
        );
        let flags = [
            ("retained messages", self.retains, other.retains),
            ("wildcard subscriptions", self.wildcards, other.wildcards),
            ("shared subscriptions", self.shares, other.shares),
            ("Subscription Identifiers", self.identifies, other.identifies),
        ];
        for (what, then, now) in flags {
            if then && !now {
                lacks.push(format!("the target takes no {what}, the recorded server did"));
            }
        }
        lacks
    }
}
