//! What of a packet is compared, as named fields.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;

use super::Rules;
use crate::{
    packet::{
        ControlPacket, Properties, Property, ProtocolVersion, Publish, QoS, ReasonCode, SubscriptionOptions,
        Will,
    },
    recording::CloseCause,
};

/// Characters of a payload that are told.
const PAYLOAD_MAX: usize = 120;

/// Something that happened on a connection and is judged.
#[derive(Clone, Debug, PartialEq)]
pub enum Thing {
    /// A PUBLISH has its topic, alias resolved.
    Packet(ControlPacket),
    /// Bytes that are no packet.
    Raw(Bytes),
    End(EndedBy),
}

/// Who ended a connection without a DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndedBy {
    Client,
    Server,
    /// Whatever lay between: chaos, a proxy, time.
    Other,
}

impl EndedBy {
    /// `None` where nobody ended it.
    pub fn of(cause: CloseCause) -> Option<Self> {
        match cause {
            CloseCause::ClientFin | CloseCause::ClientRst => Some(Self::Client),
            CloseCause::ServerFin | CloseCause::ServerRst => Some(Self::Server),
            CloseCause::Timeout | CloseCause::Proxy | CloseCause::Fault => Some(Self::Other),
            CloseCause::RecordingEnded => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Other => "neither",
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(packet) => write!(f, "{packet:.PAYLOAD_MAX$}"),
            Self::Raw(bytes) => write!(f, "{} bytes that are no packet", bytes.len()),
            Self::End(by) => write!(f, "the connection ended by the {}", by.name()),
        }
    }
}

/// A named value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    pub path: Cow<'static, str>,
    pub value: Cow<'static, str>,
}

/// What is compared of a thing.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// In a fixed order.
    pub fields: Vec<Field>,
    /// Of messages.
    pub payload: Option<Bytes>,
}

impl Content {
    /// Of a thing that is judged; `nth` is which of its like it is, where that is known, and `rules` leave fields out.
    pub fn new(thing: &Thing, nth: Option<u32>, rules: &Rules) -> Self {
        let mut content = Self::default();
        match thing {
            Thing::Packet(packet) => content.packet(packet, nth),
            Thing::Raw(bytes) => content.payload = Some(bytes.clone()),
            Thing::End(by) => content.push("ended_by", by.name()),
        }
        if let Thing::Packet(ControlPacket::Publish(Publish { topic: Some(topic), .. })) = thing {
            let before = content.fields.len();
            content.fields.retain(|field| !rules.ignores_field(topic, &field.path));
            if content.fields.len() < before {
                // The order of the others cannot be told from it.
                content.fields.retain(|field| field.path != "properties.user");
            }
            if rules.ignores_field(topic, "payload") {
                content.payload = None;
            }
        }
        content
    }

    /// Of a message, whatever the rules say.
    pub fn of_message(publish: &Publish) -> Self {
        let mut content = Self::default();
        content.publish(publish);
        content
    }

    /// Equal for what counts as equal; `masked` is the payload as it is compared, if not as it is.
    pub fn digest(&self, masked: Option<&[u8]>) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.fields.hash(&mut hasher);
        masked.or(self.payload.as_deref()).hash(&mut hasher);
        hasher.finish()
    }

    fn push(&mut self, path: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) {
        self.fields.push(Field { path: path.into(), value: value.into() });
    }

    fn packet(&mut self, packet: &ControlPacket, nth: Option<u32>) {
        if let Some(nth) = nth {
            self.push("exchange", nth.to_string());
        }
        match packet {
            ControlPacket::Publish(publish) => self.publish(publish),
            ControlPacket::Connect(connect) => {
                self.push("client_id", connect.client_identifier.as_str().to_owned());
                self.push("protocol", connect.protocol.name());
                self.push("clean_start", flag(connect.clean_start));
                self.push("keep_alive", connect.keep_alive.to_string());
                self.optional("username", connect.username.as_ref().map(|name| name.as_str().to_owned()));
                self.properties("properties", &connect.properties, connect.protocol);
                if let Some(will) = &connect.will {
                    self.will(will, connect.protocol);
                }
            }
            // What it says of the server's abilities is not what the client was answered.
            ControlPacket::Connack(connack) => {
                self.push("session_present", flag(connack.session_present));
                self.reason(connack.reason_code);
                self.said(&connack.properties, false);
            }
            ControlPacket::Puback(ack)
            | ControlPacket::Pubrec(ack)
            | ControlPacket::Pubrel(ack)
            | ControlPacket::Pubcomp(ack) => {
                self.reason(ack.reason_code);
                self.said(&ack.properties, false);
            }
            ControlPacket::Subscribe(subscribe) => {
                for (index, subscription) in subscribe.subscriptions.iter().enumerate() {
                    self.push(
                        format!("subscriptions[{index}].filter"),
                        subscription.filter.as_str().to_owned(),
                    );
                    self.options(index, subscription.options);
                }
                self.properties("properties", &subscribe.properties, ProtocolVersion::V5);
            }
            ControlPacket::Suback(suback) => {
                self.reasons(&suback.reason_codes);
                self.said(&suback.properties, false);
            }
            ControlPacket::Unsubscribe(unsubscribe) => {
                for (index, filter) in unsubscribe.filters.iter().enumerate() {
                    self.push(format!("filters[{index}]"), filter.as_str().to_owned());
                }
                self.said(&unsubscribe.properties, false);
            }
            ControlPacket::Unsuback(unsuback) => {
                self.reasons(&unsuback.reason_codes);
                self.said(&unsuback.properties, false);
            }
            ControlPacket::Pingreq | ControlPacket::Pingresp => {}
            ControlPacket::Disconnect(disconnect) => {
                self.reason(disconnect.reason_code);
                self.said(&disconnect.properties, true);
            }
            ControlPacket::Auth(auth) => {
                self.reason(auth.reason_code);
                self.said(&auth.properties, false);
            }
        }
    }

    fn publish(&mut self, publish: &Publish) {
        self.push("qos", qos(publish.qos));
        self.push("retain", flag(publish.retain));
        self.properties("properties", &publish.properties, ProtocolVersion::V5);
        self.payload = Some(publish.payload.clone());
    }

    fn options(&mut self, index: usize, options: SubscriptionOptions) {
        self.push(format!("subscriptions[{index}].qos"), qos(options.qos));
        let named = [("no_local", options.no_local), ("retain_as_published", options.retain_as_published)];
        for (name, value) in named {
            self.push(format!("subscriptions[{index}].{name}"), flag(value));
        }
        let handling = u8::from(options.retain_handling);
        self.push(format!("subscriptions[{index}].retain_handling"), handling.to_string());
    }

    fn will(&mut self, will: &Will, protocol: ProtocolVersion) {
        self.push("will.topic", will.topic.as_str().to_owned());
        self.push("will.qos", qos(will.qos));
        self.push("will.retain", flag(will.retain));
        self.push("will.payload", text_or_bytes(&will.payload));
        self.properties("will.properties", &will.properties, protocol);
    }

    /// What is said to the other side, without what a server is able to do, texts for people and data of the moment.
    fn said(&mut self, properties: &Properties, says_expiry: bool) {
        let is_said = |property: &&Property| match property {
            Property::UserProperty(..) | Property::ServerReference(_) | Property::AuthenticationMethod(_) => {
                true
            }
            Property::SessionExpiryInterval(_) => says_expiry,
            _ => false,
        };
        if properties.iter().any(|property| is_said(&property)) {
            let said = Properties(properties.iter().filter(is_said).cloned().collect());
            self.properties("properties", &said, ProtocolVersion::V5);
        }
    }

    /// Without those that depend on the moment. The order of Subscription Identifiers says nothing, that of User Properties
    /// does [MQTT-3.3.2-17].
    fn properties(&mut self, at: &str, properties: &Properties, protocol: ProtocolVersion) {
        if properties.is_empty() || !protocol.has_properties() {
            return;
        }
        let mut subscriptions = Vec::new();
        let mut named = Vec::new();
        let mut users: HashMap<&str, usize> = HashMap::new();
        let mut order: Vec<&str> = Vec::new();
        for property in properties.iter() {
            let (name, value) = match property {
                Property::TopicAlias(_) => continue,
                // What is left of it.
                Property::MessageExpiryInterval(_) => ("message_expiry_interval".into(), "set".into()),
                Property::SubscriptionIdentifier(identifier) => {
                    subscriptions.push(*identifier);
                    continue;
                }
                Property::UserProperty(name, value) => {
                    let name = name.as_str();
                    let nth = users.entry(name).or_insert(0_usize);
                    let place = match (*nth, name.contains(['[', ' '])) {
                        (0, false) => format!("user.{name}"),
                        (nth, false) => format!("user.{name}[{nth}]"),
                        (nth, true) => format!("user.{name:?}[{nth}]"),
                    };
                    *nth += 1;
                    order.push(name);
                    (Cow::Owned(place), Cow::Owned(value.as_str().to_owned()))
                }
                other => (spelt(other.identifier().name()), shown(other)),
            };
            named.push(Field { path: format!("{at}.{name}").into(), value });
        }
        named.sort_by(|one, other| one.path.cmp(&other.path));
        self.fields.append(&mut named);
        if users.len() > 1 {
            self.push(format!("{at}.user"), order.join(", "));
        }
        if !subscriptions.is_empty() {
            subscriptions.sort_unstable();
            let value = subscriptions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            self.push(format!("{at}.subscription_identifier"), value);
        }
    }

    fn optional(&mut self, path: &'static str, value: Option<String>) {
        if let Some(value) = value {
            self.push(path, value);
        }
    }

    fn reason(&mut self, reason: ReasonCode) {
        self.push("reason_code", shown_reason(reason));
    }

    fn reasons(&mut self, reasons: &[ReasonCode]) {
        for (index, reason) in reasons.iter().enumerate() {
            self.push(format!("reason_codes[{index}]"), shown_reason(*reason));
        }
    }
}

fn shown_reason(reason: ReasonCode) -> String {
    format!("{} (0x{:02x})", reason.name(), reason.0)
}

fn flag(on: bool) -> &'static str {
    if on { "true" } else { "false" }
}

fn qos(qos: QoS) -> &'static str {
    match qos {
        QoS::AtMostOnce => "0",
        QoS::AtLeastOnce => "1",
        QoS::ExactlyOnce => "2",
    }
}

/// `Content Type` is `content_type`.
fn spelt(name: &str) -> Cow<'static, str> {
    name.to_ascii_lowercase().replace(' ', "_").into()
}

fn shown(property: &Property) -> Cow<'static, str> {
    use crate::packet::PropertyValue::{Binary, Byte, FourByte, Pair, Text, TwoByte, Variable};
    match property.value() {
        Byte(value) => value.to_string().into(),
        TwoByte(value) => value.to_string().into(),
        FourByte(value) | Variable(value) => value.to_string().into(),
        Text(text) => text.to_owned().into(),
        Binary(bytes) => text_or_bytes(bytes),
        Pair(name, value) => format!("{name}={value}").into(),
    }
}

fn text_or_bytes(bytes: &[u8]) -> Cow<'static, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned().into(),
        Err(_) => format!("{bytes:02x?}").into(),
    }
}
