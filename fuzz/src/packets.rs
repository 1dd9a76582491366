//! Packets of few clients and topics, so that they have to do with each other, and now and then bytes that are nearly one.

use bytes::{Bytes, BytesMut};
use mockforge::packet::{
    Ack, Auth, Connack, Connect, ControlPacket, Disconnect, PacketIdentifier, Properties, Property,
    ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling, Suback, Subscribe, Subscription,
    SubscriptionOptions, TopicFilter, TopicName, Unsuback, Unsubscribe, Utf8String, Will,
};

use super::Source;

pub const CLIENTS: [&str; 4] = ["a", "b", "c", ""];
const TOPICS: [&str; 7] = ["t", "t/u", "x/u", "t/u/v", "/", "$SYS/x", "long/topic/name/of/many/levels/é"];
const FILTERS: [&str; 14] = [
    "t",
    "t/+",
    "#",
    "t/#",
    "+/u",
    "+",
    "+/+/+",
    "$share/g/t",
    "$share/g/#",
    "$share/h/t/u",
    "$share/h/+",
    "$SYS/#",
    "$SYS/+",
    "long/#",
];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V5, ProtocolVersion::V311, ProtocolVersion::V31];

/// What either side sends next, encoded; `protocol` changes with a CONNECT.
pub fn bytes(source: &mut Source<'_>, protocol: &mut ProtocolVersion) -> Bytes {
    let kind = source.byte();
    if kind >= 0xF0 {
        return framed(source);
    }
    let packet = packet(source, kind % 20, *protocol);
    if let ControlPacket::Connect(connect) = &packet {
        *protocol = connect.protocol;
    }
    let mut out = BytesMut::new();
    // What a version lacks cannot be sent in it.
    let _ = packet.encode(*protocol, &mut out);
    if kind >= 0xC0 && !out.is_empty() {
        let at = usize::from(source.byte()) % out.len();
        out[at] ^= source.byte();
    }
    out.freeze()
}

/// Any body behind a fixed header that tells its length.
fn framed(source: &mut Source<'_>) -> Bytes {
    let first = source.byte();
    let body = source.bytes();
    let mut out = BytesMut::from(&[first][..]);
    mockforge::packet::put_variable(body.len(), |byte| out.extend_from_slice(&[byte]));
    out.extend_from_slice(body);
    out.freeze()
}

fn packet(source: &mut Source<'_>, kind: u8, protocol: ProtocolVersion) -> ControlPacket {
    match kind {
        0..=2 => ControlPacket::Connect(Box::new(connect(source))),
        3..=7 => ControlPacket::Publish(publish(source, protocol)),
        8 => ControlPacket::Puback(ack(source, protocol)),
        9 => ControlPacket::Pubrec(ack(source, protocol)),
        10 => ControlPacket::Pubrel(ack(source, protocol)),
        11 => ControlPacket::Pubcomp(ack(source, protocol)),
        12 | 13 => ControlPacket::Subscribe(subscribe(source, protocol)),
        14 => ControlPacket::Unsubscribe(Unsubscribe {
            packet_identifier: identifier(source),
            properties: Properties::new(),
            filters: (0..=source.byte() % 2).map(|_| filter(source)).collect(),
        }),
        15 => match source.flag() {
            true => ControlPacket::Pingreq,
            false => ControlPacket::Pingresp,
        },
        16 => ControlPacket::Disconnect(disconnect(source, protocol)),
        17 => ControlPacket::Auth(auth(source)),
        18 => ControlPacket::Connack(Connack {
            session_present: source.flag(),
            reason_code: if source.byte() < 0xC0 { ReasonCode::SUCCESS } else { ReasonCode::NOT_AUTHORIZED },
            properties: connack_properties(source, protocol),
        }),
        _ => granted(source, protocol),
    }
}

fn connect(source: &mut Source<'_>) -> Connect {
    let protocol = source.pick(&VERSIONS);
    let flags = source.byte();
    let client = source.pick(&CLIENTS);
    let mut properties = Properties::new();
    if protocol.has_properties() {
        let which = source.byte();
        if which & 1 != 0 {
            properties.push(Property::SessionExpiryInterval(source.pick(&[0, 1, 30, 100, u32::MAX])));
        }
        if which & 2 != 0 {
            properties.push(Property::ReceiveMaximum(u16::from(source.byte() % 4) + 1));
        }
        if which & 4 != 0 {
            properties.push(Property::MaximumPacketSize(u32::from(source.byte()) + 1));
        }
        if which & 8 != 0 {
            properties.push(Property::TopicAliasMaximum(source.byte().into()));
        }
        if which & 16 != 0 {
            properties.push(Property::RequestProblemInformation(source.flag()));
        }
        if which & 32 != 0 {
            properties.push(Property::AuthenticationMethod(text("SCRAM-SHA-256")));
            if source.flag() {
                properties.push(Property::AuthenticationData(Bytes::from_static(b"n,,n=u,r=x")));
            }
        }
    }
    let will = (flags & 2 != 0).then(|| Will {
        qos: source.pick(&QOS),
        retain: source.flag(),
        properties: will_properties(source, protocol),
        topic: topic(source),
        payload: payload(source),
    });
    let username = (flags & 4 != 0).then(|| text(source.pick(&["u", "v", "a b"])));
    let may_have_password = username.is_some() || protocol.has_properties();
    Connect {
        protocol,
        clean_start: flags & 1 != 0 || (client.is_empty() && !protocol.has_properties()),
        keep_alive: source.pick(&[0, 1, 9, 60, u16::MAX]),
        properties,
        client_identifier: text(client),
        will,
        password: (flags & 8 != 0 && may_have_password).then(|| Bytes::from_static(b"p")),
        username,
    }
}

fn will_properties(source: &mut Source<'_>, protocol: ProtocolVersion) -> Properties {
    let mut properties = Properties::new();
    if protocol.has_properties() {
        let which = source.byte();
        if which & 1 != 0 {
            properties.push(Property::WillDelayInterval(source.pick(&[0, 1, 5, 50])));
        }
        if which & 2 != 0 {
            properties.push(Property::MessageExpiryInterval(source.byte().into()));
        }
    }
    properties
}

fn publish(source: &mut Source<'_>, protocol: ProtocolVersion) -> Publish {
    let flags = source.byte();
    let qos = QOS[usize::from(flags >> 1) % 3];
    let mut properties = Properties::new();
    let mut has_alias = false;
    if protocol.has_properties() {
        let which = source.byte();
        if which & 1 != 0 {
            properties.push(Property::MessageExpiryInterval(source.pick(&[0, 1, 3, 90])));
        }
        if which & 2 != 0 {
            properties.push(Property::TopicAlias(u16::from(source.byte() % 5) + 1));
            has_alias = true;
        }
        if which & 4 != 0 {
            properties.push(Property::UserProperty(text("k"), text("v")));
        }
        if which & 8 != 0 {
            properties.push(Property::ResponseTopic(text(source.pick(&TOPICS))));
            properties.push(Property::CorrelationData(payload(source)));
        }
    }
    Publish {
        dup: flags & 8 != 0 && qos > QoS::AtMostOnce,
        qos,
        retain: flags & 1 != 0,
        topic: (!has_alias || source.flag()).then(|| topic(source)),
        packet_identifier: (qos > QoS::AtMostOnce).then(|| identifier(source)),
        properties,
        payload: payload(source),
    }
}

/// Short ones, and a few that are long enough to be shared.
pub fn payload(source: &mut Source<'_>) -> Bytes {
    match source.byte() {
        0 => Bytes::new(),
        len @ 1..=0xEF => vec![b'p'; usize::from(len)].into(),
        0xF0..=0xF7 => Bytes::copy_from_slice(source.bytes()),
        _ => vec![b'P'; 9_000].into(),
    }
}

fn ack(source: &mut Source<'_>, protocol: ProtocolVersion) -> Ack {
    let mut ack = Ack::new(identifier(source));
    if protocol.has_properties() && source.byte() > 0xC0 {
        ack.reason_code =
            source.pick(&[ReasonCode::UNSPECIFIED_ERROR, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND]);
    }
    ack
}

fn subscribe(source: &mut Source<'_>, protocol: ProtocolVersion) -> Subscribe {
    let packet_identifier = identifier(source);
    let mut properties = Properties::new();
    if protocol.has_properties() && source.flag() {
        properties.push(Property::SubscriptionIdentifier(u32::from(source.byte() % 3) + 1));
    }
    let subscriptions = (0..=source.byte() % 3)
        .map(|_| {
            let filter = filter(source);
            let flags = if protocol.has_properties() { source.byte() } else { 0 };
            let options = SubscriptionOptions {
                qos: source.pick(&QOS),
                no_local: flags & 1 != 0 && !filter.is_shared(),
                retain_as_published: flags & 2 != 0,
                retain_handling: RetainHandling::try_from((flags >> 2) % 3).expect("there are three"),
            };
            Subscription { filter, options }
        })
        .collect();
    Subscribe { packet_identifier, properties, subscriptions }
}

fn granted(source: &mut Source<'_>, protocol: ProtocolVersion) -> ControlPacket {
    let (packet_identifier, properties) = (identifier(source), Properties::new());
    match source.flag() {
        true => {
            let codes = [ReasonCode(0), ReasonCode(1), ReasonCode(2), ReasonCode::UNSPECIFIED_ERROR];
            let reason_codes = (0..=source.byte() % 3).map(|_| source.pick(&codes)).collect();
            ControlPacket::Suback(Suback { packet_identifier, properties, reason_codes })
        }
        false => {
            let count = if protocol.has_properties() { source.byte() % 3 } else { 0 };
            let reason_codes = (0..count).map(|_| ReasonCode::SUCCESS).collect();
            ControlPacket::Unsuback(Unsuback { packet_identifier, properties, reason_codes })
        }
    }
}

fn disconnect(source: &mut Source<'_>, protocol: ProtocolVersion) -> Disconnect {
    let mut disconnect = Disconnect::new(ReasonCode::SUCCESS);
    if protocol.has_properties() {
        disconnect.reason_code =
            source.pick(&[ReasonCode::SUCCESS, ReasonCode(0x04), ReasonCode::UNSPECIFIED_ERROR]);
        if source.flag() {
            let expiry = Property::SessionExpiryInterval(source.pick(&[0, 5, u32::MAX]));
            disconnect.properties.push(expiry);
        }
    }
    disconnect
}

fn auth(source: &mut Source<'_>) -> Auth {
    let mut properties = Properties::new();
    properties.push(Property::AuthenticationMethod(text(source.pick(&["SCRAM-SHA-256", "other"]))));
    let data = source.pick(&["n,,n=u,r=x", "c=biws,r=x,p=AAAA", ""]);
    properties.push(Property::AuthenticationData(Bytes::from_static(data.as_bytes())));
    Auth { reason_code: ReasonCode(source.pick(&[0x18, 0x19])), properties }
}

fn connack_properties(source: &mut Source<'_>, protocol: ProtocolVersion) -> Properties {
    let mut properties = Properties::new();
    if protocol.has_properties() {
        let which = source.byte();
        if which & 1 != 0 {
            properties.push(Property::AssignedClientIdentifier(text("assigned")));
        }
        if which & 2 != 0 {
            properties.push(Property::TopicAliasMaximum(source.byte().into()));
        }
        if which & 4 != 0 {
            properties.push(Property::ReceiveMaximum(u16::from(source.byte()) + 1));
        }
    }
    properties
}

/// Few, so that they are met again.
fn identifier(source: &mut Source<'_>) -> PacketIdentifier {
    PacketIdentifier::new(u16::from(source.byte() % 5) + 1).expect("not zero")
}

pub fn topic(source: &mut Source<'_>) -> TopicName {
    TopicName::parse(source.pick(&TOPICS)).expect("a topic")
}

fn filter(source: &mut Source<'_>) -> TopicFilter {
    TopicFilter::parse(source.pick(&FILTERS)).expect("a filter")
}

fn text(text: &'static str) -> Utf8String {
    Utf8String::new(text).expect("short, without U+0000")
}
