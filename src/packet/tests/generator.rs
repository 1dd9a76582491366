//! Packets at random, each valid in the version it is made for.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::packet::*;

pub(super) fn any_version() -> impl Strategy<Value = ProtocolVersion> {
    select(vec![ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5])
}

pub(super) fn any_packet(protocol: ProtocolVersion) -> BoxedStrategy<ControlPacket> {
    let ack = |packet| ack(packet, protocol);
    let older = prop_oneof![
        connect(protocol).prop_map(|connect| ControlPacket::Connect(Box::new(connect))),
        connack(protocol).prop_map(ControlPacket::Connack),
        publish(protocol).prop_map(ControlPacket::Publish),
        ack(PacketType::Puback).prop_map(ControlPacket::Puback),
        ack(PacketType::Pubrec).prop_map(ControlPacket::Pubrec),
        ack(PacketType::Pubrel).prop_map(ControlPacket::Pubrel),
        ack(PacketType::Pubcomp).prop_map(ControlPacket::Pubcomp),
        subscribe(protocol).prop_map(ControlPacket::Subscribe),
        suback(protocol).prop_map(ControlPacket::Suback),
        unsubscribe(protocol).prop_map(ControlPacket::Unsubscribe),
        unsuback(protocol).prop_map(ControlPacket::Unsuback),
        Just(ControlPacket::Pingreq),
        Just(ControlPacket::Pingresp),
        reason(PacketType::Disconnect, protocol).prop_map(|(reason_code, properties)| {
            ControlPacket::Disconnect(Disconnect { reason_code, properties })
        }),
    ];
    match protocol {
        ProtocolVersion::V5 => prop_oneof![14 => older, 1 => auth().prop_map(ControlPacket::Auth)].boxed(),
        _ => older.boxed(),
    }
}

fn connect(protocol: ProtocolVersion) -> impl Strategy<Value = Connect> {
    let fields = (any::<bool>(), any::<u16>(), properties(PacketType::Connect, protocol), text());
    (fields, option::of(will(protocol)), option::of(text()), option::of(binary())).prop_map(
        move |((clean_start, keep_alive, properties, client_identifier), will, username, password)| {
            let may_be_empty = protocol == ProtocolVersion::V5;
            Connect {
                protocol,
                clean_start,
                keep_alive,
                properties,
                client_identifier: match client_identifier.is_empty() && !may_be_empty {
                    true => Utf8String::new("id").expect("a string"),
                    false => client_identifier,
                },
                will,
                password: password.filter(|_| protocol == ProtocolVersion::V5 || username.is_some()),
                username,
            }
        },
    )
}

fn will(protocol: ProtocolVersion) -> impl Strategy<Value = Will> {
    let properties = match protocol {
        ProtocolVersion::V5 => subset(will_properties()),
        _ => Just(Properties::new()).boxed(),
    };
    (qos(), any::<bool>(), properties, topic(), binary()).prop_map(
        |(qos, retain, properties, topic, payload)| Will { qos, retain, properties, topic, payload },
    )
}

fn connack(protocol: ProtocolVersion) -> impl Strategy<Value = Connack> {
    let code = match protocol {
        ProtocolVersion::V5 => reason_code(PacketType::Connack),
        _ => (0..=5_u8).prop_map(|code| ReasonCode::from_return_code(code).expect("0 to 5")).boxed(),
    };
    (any::<bool>(), code, properties(PacketType::Connack, protocol)).prop_map(
        move |(session_present, reason_code, properties)| Connack {
            session_present: session_present && !reason_code.is_error() && protocol > ProtocolVersion::V31,
            reason_code,
            properties,
        },
    )
}

pub(super) fn publish(protocol: ProtocolVersion) -> impl Strategy<Value = Publish> {
    let flags = (any::<bool>(), qos(), any::<bool>(), packet_identifier());
    let properties = properties(PacketType::Publish, protocol);
    (flags, option::of(topic()), properties, vec(any::<u8>(), 0..200)).prop_map(
        |((dup, qos, retain, packet_identifier), topic, properties, payload)| Publish {
            dup: dup && qos > QoS::AtMostOnce,
            qos,
            retain,
            topic: topic.or_else(|| match properties.topic_alias() {
                Some(_) => None,
                None => TopicName::parse("a/b").ok(),
            }),
            packet_identifier: Some(packet_identifier).filter(|_| qos > QoS::AtMostOnce),
            properties,
            payload: payload.into(),
        },
    )
}

fn ack(packet: PacketType, protocol: ProtocolVersion) -> impl Strategy<Value = Ack> {
    (packet_identifier(), reason(packet, protocol)).prop_map(
        |(packet_identifier, (reason_code, properties))| Ack { packet_identifier, reason_code, properties },
    )
}

fn subscribe(protocol: ProtocolVersion) -> impl Strategy<Value = Subscribe> {
    let properties = properties(PacketType::Subscribe, protocol);
    (packet_identifier(), properties, vec(subscription(protocol), 1..4)).prop_map(
        |(packet_identifier, properties, subscriptions)| Subscribe {
            packet_identifier,
            properties,
            subscriptions,
        },
    )
}

fn subscription(protocol: ProtocolVersion) -> impl Strategy<Value = Subscription> {
    let retain_handling =
        select(vec![RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]);
    (filter(), qos(), any::<bool>(), any::<bool>(), retain_handling).prop_map(
        move |(filter, qos, no_local, retain_as_published, retain_handling)| {
            let options = match protocol {
                ProtocolVersion::V5 => SubscriptionOptions {
                    qos,
                    no_local: no_local && !filter.is_shared(),
                    retain_as_published,
                    retain_handling,
                },
                _ => SubscriptionOptions { qos, ..SubscriptionOptions::default() },
            };
            Subscription { filter, options }
        },
    )
}

fn suback(protocol: ProtocolVersion) -> impl Strategy<Value = Suback> {
    let code = match protocol {
        ProtocolVersion::V5 => reason_code(PacketType::Suback),
        _ => select(vec![ReasonCode(0), ReasonCode(1), ReasonCode(2), ReasonCode(0x80)]).boxed(),
    };
    (packet_identifier(), properties(PacketType::Suback, protocol), vec(code, 1..5)).prop_map(
        |(packet_identifier, properties, reason_codes)| Suback {
            packet_identifier,
            properties,
            reason_codes,
        },
    )
}

fn unsubscribe(protocol: ProtocolVersion) -> impl Strategy<Value = Unsubscribe> {
    (packet_identifier(), properties(PacketType::Unsubscribe, protocol), vec(filter(), 1..4)).prop_map(
        |(packet_identifier, properties, filters)| Unsubscribe { packet_identifier, properties, filters },
    )
}

fn unsuback(protocol: ProtocolVersion) -> impl Strategy<Value = Unsuback> {
    let codes = match protocol {
        ProtocolVersion::V5 => vec(reason_code(PacketType::Unsuback), 1..5).boxed(),
        _ => Just(Vec::new()).boxed(),
    };
    (packet_identifier(), properties(PacketType::Unsuback, protocol), codes).prop_map(
        |(packet_identifier, properties, reason_codes)| Unsuback {
            packet_identifier,
            properties,
            reason_codes,
        },
    )
}

fn auth() -> impl Strategy<Value = Auth> {
    (reason_code(PacketType::Auth), properties(PacketType::Auth, ProtocolVersion::V5)).prop_map(
        |(reason_code, mut properties)| {
            if properties.authentication_method().is_none() {
                properties.push(Property::AuthenticationMethod(Utf8String::default()));
            }
            Auth { reason_code, properties }
        },
    )
}

fn reason(packet: PacketType, protocol: ProtocolVersion) -> impl Strategy<Value = (ReasonCode, Properties)> {
    let code = match protocol {
        ProtocolVersion::V5 => reason_code(packet),
        _ => Just(ReasonCode::SUCCESS).boxed(),
    };
    (code, properties(packet, protocol))
}

fn reason_code(packet: PacketType) -> BoxedStrategy<ReasonCode> {
    let codes = (0..=u8::MAX).map(ReasonCode).filter(|code| code.is_allowed_in(packet));
    select(codes.collect::<Vec<_>>()).boxed()
}

fn properties(packet: PacketType, protocol: ProtocolVersion) -> BoxedStrategy<Properties> {
    if protocol != ProtocolVersion::V5 {
        return Just(Properties::new()).boxed();
    }
    let repeated = match packet {
        PacketType::Publish => (1..=268_435_455_u32).prop_map(Property::SubscriptionIdentifier).boxed(),
        _ => user_property(),
    };
    let properties = match packet {
        PacketType::Connect => connect_properties(),
        PacketType::Connack => connack_properties(),
        PacketType::Publish => publish_properties(),
        PacketType::Subscribe => {
            vec![(1..=268_435_455_u32).prop_map(Property::SubscriptionIdentifier).boxed()]
        }
        PacketType::Unsubscribe => vec![],
        PacketType::Disconnect => vec![
            any::<u32>().prop_map(Property::SessionExpiryInterval).boxed(),
            text().prop_map(Property::ReasonString).boxed(),
            text().prop_map(Property::ServerReference).boxed(),
        ],
        PacketType::Auth => {
            [authentication_properties(), vec![text().prop_map(Property::ReasonString).boxed()]].concat()
        }
        _ => vec![text().prop_map(Property::ReasonString).boxed()],
    };
    subset([properties, vec![user_property(), repeated.clone(), repeated]].concat())
}

/// Some of them, in any order, with Authentication Data only beside a method.
fn subset(all: Vec<BoxedStrategy<Property>>) -> BoxedStrategy<Properties> {
    let most = all.len();
    proptest::sample::subsequence(all, 0..=most)
        .prop_flat_map(|some| some)
        .prop_shuffle()
        .prop_map(|properties| {
            let mut properties = Properties(properties);
            if properties.authentication_method().is_none() {
                properties.retain(|property| !matches!(property, Property::AuthenticationData(_)));
            }
            properties
        })
        .boxed()
}

fn user_property() -> BoxedStrategy<Property> {
    (text(), text()).prop_map(|(name, value)| Property::UserProperty(name, value)).boxed()
}

fn authentication_properties() -> Vec<BoxedStrategy<Property>> {
    vec![
        text().prop_map(Property::AuthenticationMethod).boxed(),
        binary().prop_map(Property::AuthenticationData).boxed(),
    ]
}

/// What CONNECT and CONNACK share.
fn session_properties() -> Vec<BoxedStrategy<Property>> {
    let others = vec![
        any::<u32>().prop_map(Property::SessionExpiryInterval).boxed(),
        (1..=u16::MAX).prop_map(Property::ReceiveMaximum).boxed(),
        (1..=u32::MAX).prop_map(Property::MaximumPacketSize).boxed(),
        any::<u16>().prop_map(Property::TopicAliasMaximum).boxed(),
    ];
    [others, authentication_properties()].concat()
}

fn connect_properties() -> Vec<BoxedStrategy<Property>> {
    let others = vec![
        any::<bool>().prop_map(Property::RequestProblemInformation).boxed(),
        any::<bool>().prop_map(Property::RequestResponseInformation).boxed(),
    ];
    [others, session_properties()].concat()
}

fn connack_properties() -> Vec<BoxedStrategy<Property>> {
    let others = vec![
        text().prop_map(Property::AssignedClientIdentifier).boxed(),
        any::<u16>().prop_map(Property::ServerKeepAlive).boxed(),
        text().prop_map(Property::ResponseInformation).boxed(),
        text().prop_map(Property::ServerReference).boxed(),
        text().prop_map(Property::ReasonString).boxed(),
        (0..=1_u8).prop_map(Property::MaximumQoS).boxed(),
        any::<bool>().prop_map(Property::RetainAvailable).boxed(),
        any::<bool>().prop_map(Property::WildcardSubscriptionAvailable).boxed(),
        any::<bool>().prop_map(Property::SubscriptionIdentifierAvailable).boxed(),
        any::<bool>().prop_map(Property::SharedSubscriptionAvailable).boxed(),
    ];
    [others, session_properties()].concat()
}

/// What PUBLISH and Will share.
fn message_properties() -> Vec<BoxedStrategy<Property>> {
    vec![
        (0..=1_u8).prop_map(Property::PayloadFormatIndicator).boxed(),
        any::<u32>().prop_map(Property::MessageExpiryInterval).boxed(),
        text().prop_map(Property::ContentType).boxed(),
        topic().prop_map(|topic| Property::ResponseTopic(topic.into())).boxed(),
        binary().prop_map(Property::CorrelationData).boxed(),
    ]
}

fn publish_properties() -> Vec<BoxedStrategy<Property>> {
    [message_properties(), vec![(1..=u16::MAX).prop_map(Property::TopicAlias).boxed()]].concat()
}

fn will_properties() -> Vec<BoxedStrategy<Property>> {
    let others = vec![any::<u32>().prop_map(Property::WillDelayInterval).boxed(), user_property()];
    [others, message_properties()].concat()
}

fn packet_identifier() -> impl Strategy<Value = PacketIdentifier> {
    (1..=u16::MAX).prop_map(|value| PacketIdentifier::new(value).expect("not zero"))
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

/// Text of characters that mean something somewhere, and any others.
fn string(meaningful: &'static str, len: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let meaningful: Vec<char> = meaningful.chars().collect();
    let other = any::<char>().prop_filter("U+0000 and wildcards", |c| !matches!(c, '\0' | '+' | '#'));
    vec(prop_oneof![3 => select(meaningful), 1 => other], len).prop_map(String::from_iter)
}

fn text() -> impl Strategy<Value = Utf8String> + Clone {
    let string = string("ab \"\\,:=\n\u{FEFF}ü*", 0..12);
    string.prop_map(|text| Utf8String::new(text).expect("a string")).boxed()
}

fn topic() -> impl Strategy<Value = TopicName> {
    string("ab//$ \",:=ü", 1..12).prop_map(|text| TopicName::parse(&text).expect("a topic name"))
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    let wildcard =
        (topic(), select(vec!["", "/+", "/#", "/+/#"])).prop_map(|(topic, end)| format!("{topic}{end}"));
    let shared = topic().prop_map(|topic| format!("$share/g/{topic}"));
    prop_oneof![3 => wildcard, 1 => shared, 1 => Just("#".to_owned()), 1 => Just("+/a".to_owned())]
        .prop_map(|text| TopicFilter::parse(&text).expect("a topic filter"))
}

fn binary() -> impl Strategy<Value = Bytes> + Clone {
    vec(any::<u8>(), 0..12).prop_map(Bytes::from).boxed()
}
