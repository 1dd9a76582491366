//! rumqttc, which others wrote, through its own features in both protocol versions.

use rumqttc::v5::{
    self,
    mqttbytes::v5::{
        ConnectProperties, Filter, LastWill, LastWillProperties, Packet, PublishProperties,
        SubscribeProperties,
    },
};

use super::*;

/// A client of rumqttc, with its event loop in our hands: it lives while it is polled, and its
/// connection breaks when it is dropped.
enum Guest {
    V4(rumqttc::AsyncClient, Box<rumqttc::EventLoop>),
    V5(v5::AsyncClient, Box<v5::EventLoop>),
}

/// What happens to a guest.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Connected {
        session_present: bool,
    },
    Subscribed,
    /// A QoS 0 message of its own is on its way.
    Sent,
    /// A message of its own is acknowledged, at QoS 2 in full.
    Acknowledged,
    Message(Message),
}

#[derive(Clone, Debug, PartialEq)]
struct Message {
    topic: String,
    payload: String,
    qos: u8,
    dup: bool,
    packet_identifier: u16,
    properties: Option<PublishProperties>,
}

/// How a guest connects.
#[derive(Default)]
struct Wishes {
    keeps_session: bool,
    acknowledges_by_hand: bool,
    will: Option<&'static str>,
    // Only 5.0 has these.
    receive_maximum: Option<u16>,
    topic_alias_maximum: Option<u16>,
    maximum_packet_size: Option<u32>,
}

fn qos4(qos: u8) -> rumqttc::QoS {
    rumqttc::qos(qos).expect("0 to 2")
}

fn qos5(qos: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(qos).expect("0 to 2")
}

impl Guest {
    /// Does not connect before it is polled.
    fn new(broker: &TestBroker, name: &str, version: ProtocolVersion, wishes: Wishes) -> Self {
        let port = broker.address.port();
        if version != ProtocolVersion::V5 {
            let mut options = rumqttc::MqttOptions::new(name, "127.0.0.1", port);
            options.set_clean_session(!wishes.keeps_session).set_manual_acks(wishes.acknowledges_by_hand);
            if let Some(topic) = wishes.will {
                options.set_last_will(rumqttc::LastWill::new(topic, "gone", qos4(1), false));
            }
            let (client, events) = rumqttc::AsyncClient::new(options, 100);
            return Self::V4(client, Box::new(events));
        }
        let mut options = v5::MqttOptions::new(name, "127.0.0.1", port);
        options.set_clean_start(!wishes.keeps_session).set_manual_acks(wishes.acknowledges_by_hand);
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = wishes.keeps_session.then_some(1000);
        properties.receive_maximum = wishes.receive_maximum;
        properties.topic_alias_max = wishes.topic_alias_maximum;
        properties.max_packet_size = wishes.maximum_packet_size;
        options.set_connect_properties(properties);
        if let Some(topic) = wishes.will {
            let properties = LastWillProperties {
                delay_interval: None,
                payload_format_indicator: Some(1),
                message_expiry_interval: None,
                content_type: Some("text/plain".to_owned()),
                response_topic: None,
                correlation_data: None,
                user_properties: vec![("k".to_owned(), "v".to_owned())],
            };
            options.set_last_will(LastWill::new(topic, "gone", qos5(1), false, Some(properties)));
        }
        let (client, events) = v5::AsyncClient::new(options, 100);
        Self::V5(client, Box::new(events))
    }

    /// The same once it is connected; whether the broker had its session.
    async fn connect(
        broker: &TestBroker,
        name: &str,
        version: ProtocolVersion,
        wishes: Wishes,
    ) -> (Self, bool) {
        let mut guest = Self::new(broker, name, version, wishes);
        match guest.next().await {
            Heard::Connected { session_present } => (guest, session_present),
            other => panic!("{other:?}"),
        }
    }

    /// What 5.0 alone can do, rumqttc's own client does.
    fn client(&self) -> v5::AsyncClient {
        match self {
            Self::V4(..) => panic!("not of 5.0"),
            Self::V5(client, _) => client.clone(),
        }
    }

    /// One that is subscribed.
    async fn subscriber(broker: &TestBroker, name: &str, version: ProtocolVersion, filter: &str) -> Self {
        let (mut guest, _) = Self::connect(broker, name, version, Wishes::default()).await;
        guest.subscribe(filter, 2).await;
        guest
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        match self {
            Self::V4(client, _) => client.subscribe(filter, qos4(qos)).await.expect("queued"),
            Self::V5(client, _) => client.subscribe(filter, qos5(qos)).await.expect("queued"),
        }
        assert_eq!(self.next().await, Heard::Subscribed);
    }

    /// Hands a message to the client, which sends it when it is polled.
    async fn publish(&self, topic: &str, qos: u8, payload: impl Into<String>) {
        let payload = payload.into();
        match self {
            Self::V4(client, _) => client.publish(topic, qos4(qos), false, payload).await.expect("queued"),
            Self::V5(client, _) => client.publish(topic, qos5(qos), false, payload).await.expect("queued"),
        }
    }

    /// The next thing that matters to a test.
    async fn next(&mut self) -> Heard {
        loop {
            let heard = match self {
                Self::V4(_, events) => of_v4(soon(events.poll()).await.expect("connected")),
                Self::V5(_, events) => of_v5(soon(events.poll()).await.expect("connected")),
            };
            if let Some(heard) = heard {
                return heard;
            }
        }
    }

    async fn message(&mut self) -> Message {
        loop {
            if let Heard::Message(message) = self.next().await {
                return message;
            }
        }
    }

    /// The payloads that come before `marker` does.
    async fn until(&mut self, marker: &str) -> Vec<String> {
        let mut payloads = Vec::new();
        loop {
            match self.message().await.payload {
                payload if payload == marker => return payloads,
                payload => payloads.push(payload),
            }
        }
    }

    async fn acknowledged(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            match self.next().await {
                Heard::Acknowledged => left -= 1,
                heard => assert_eq!(heard, Heard::Sent),
            }
        }
    }

    /// Says goodbye.
    async fn disconnect(mut self) {
        match &mut self {
            Self::V4(client, events) => {
                client.disconnect().await.expect("queued");
                while soon(events.poll()).await.is_ok() {}
            }
            Self::V5(client, events) => {
                client.disconnect().await.expect("queued");
                while soon(events.poll()).await.is_ok() {}
            }
        }
    }
}

fn of_v4(event: rumqttc::Event) -> Option<Heard> {
    let packet = match event {
        rumqttc::Event::Incoming(packet) => packet,
        rumqttc::Event::Outgoing(rumqttc::Outgoing::Publish(0)) => return Some(Heard::Sent),
        rumqttc::Event::Outgoing(_) => return None,
    };
    Some(match packet {
        rumqttc::Packet::ConnAck(connack) => Heard::Connected { session_present: connack.session_present },
        rumqttc::Packet::SubAck(_) => Heard::Subscribed,
        rumqttc::Packet::PubAck(_) | rumqttc::Packet::PubComp(_) => Heard::Acknowledged,
        rumqttc::Packet::Publish(publish) => Heard::Message(Message {
            topic: publish.topic,
            payload: String::from_utf8_lossy(&publish.payload).into_owned(),
            qos: publish.qos as u8,
            dup: publish.dup,
            packet_identifier: publish.pkid,
            properties: None,
        }),
        _ => return None,
    })
}

fn of_v5(event: v5::Event) -> Option<Heard> {
    let packet = match event {
        v5::Event::Incoming(packet) => packet,
        v5::Event::Outgoing(rumqttc::Outgoing::Publish(0)) => return Some(Heard::Sent),
        v5::Event::Outgoing(_) => return None,
    };
    Some(match packet {
        Packet::ConnAck(connack) => Heard::Connected { session_present: connack.session_present },
        Packet::SubAck(_) => Heard::Subscribed,
        Packet::PubAck(_) | Packet::PubComp(_) => Heard::Acknowledged,
        Packet::Publish(publish) => Heard::Message(Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: String::from_utf8_lossy(&publish.payload).into_owned(),
            qos: publish.qos as u8,
            dup: publish.dup,
            packet_identifier: publish.pkid,
            properties: publish.properties,
        }),
        _ => return None,
    })
}

fn keeps_session() -> Wishes {
    Wishes { keeps_session: true, ..Wishes::default() }
}

fn by_hand() -> Wishes {
    Wishes { acknowledges_by_hand: true, ..keeps_session() }
}

#[tokio::test]
async fn what_a_guest_queues_before_it_connects_arrives_in_order() {
    let broker = TestBroker::new();
    for version in VERSIONS {
        let mut subscriber = Guest::subscriber(&broker, "subscriber", version, "t").await;
        let mut guest = Guest::new(&broker, "guest", version, Wishes::default());
        for number in 0..30 {
            guest.publish("t", number % 3, number.to_string()).await;
        }
        assert_eq!(guest.next().await, Heard::Connected { session_present: false });
        guest.acknowledged(20).await;
        for qos in 0..3 {
            // Between levels of QoS the standard promises no order; ours is that of PUBLISH.
            guest.publish("t", qos, "last").await;
        }
        guest.acknowledged(2).await;
        let expected: Vec<_> = (0..30).map(|number| number.to_string()).collect();
        assert_eq!(subscriber.until("last").await, expected);
    }
}

#[tokio::test] // [MQTT-3.1.2-5], [MQTT3-3.1.2-5]
async fn a_session_keeps_what_comes_while_its_guest_is_away() {
    let broker = TestBroker::new();
    for version in VERSIONS {
        let (mut guest, session_present) = Guest::connect(&broker, "guest", version, keeps_session()).await;
        assert!(!session_present);
        guest.subscribe("t/+", 2).await;
        guest.disconnect().await;
        let (mut sender, _) = Guest::connect(&broker, "sender", version, Wishes::default()).await;
        for number in 0..20 {
            sender.publish("t/a", 1 + number % 2, number.to_string()).await;
        }
        sender.acknowledged(20).await;
        let (mut guest, session_present) = Guest::connect(&broker, "guest", version, keeps_session()).await;
        assert!(session_present);
        for number in 0..20 {
            let message = guest.message().await;
            assert_eq!(
                (message.payload, message.qos, message.dup),
                (number.to_string(), 1 + number % 2, false)
            );
        }
        // The session ends with the next connection, for the next version.
        guest.disconnect().await;
        Guest::connect(&broker, "guest", version, Wishes::default()).await.0.disconnect().await;
    }
}

#[tokio::test] // [MQTT-4.4.0-1], [MQTT3-4.4.0-1]
async fn a_guest_that_drops_before_it_acknowledges_gets_the_same_again_and_then_no_more() {
    let broker = TestBroker::new();
    for version in VERSIONS {
        let (mut guest, _) = Guest::connect(&broker, "guest", version, by_hand()).await;
        guest.subscribe("t", 2).await;
        let (mut sender, _) = Guest::connect(&broker, "sender", version, Wishes::default()).await;
        for qos in [1, 2] {
            sender.publish("t", qos, format!("at {qos}")).await;
        }
        sender.acknowledged(2).await;
        let first = [guest.message().await, guest.message().await];
        drop(guest);

        let (mut guest, session_present) = Guest::connect(&broker, "guest", version, keeps_session()).await;
        assert!(session_present);
        let again = [guest.message().await, guest.message().await];
        for (before, after) in first.into_iter().zip(again) {
            assert!(!before.dup);
            assert_eq!(after, Message { dup: true, ..before });
        }
        // SUBACK comes once the broker has handled PUBACK and PUBREC, and behind its PUBREL.
        guest.subscribe("other", 0).await;
        guest.disconnect().await;

        let (mut guest, session_present) = Guest::connect(&broker, "guest", version, keeps_session()).await;
        assert!(session_present);
        sender.publish("t", 1, "last").await;
        sender.acknowledged(1).await;
        assert_eq!(guest.until("last").await, [""; 0]);
        guest.disconnect().await;
        Guest::connect(&broker, "guest", version, Wishes::default()).await.0.disconnect().await;
    }
}

#[tokio::test] // [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT3-3.1.2-8], [MQTT3-3.1.2-10]
async fn the_will_of_a_guest_is_published_when_it_drops_and_not_when_it_says_goodbye() {
    let broker = TestBroker::new();
    for version in VERSIONS {
        let mut watcher = Guest::subscriber(&broker, "watcher", version, "will/#").await;
        for (name, drops) in [("polite", false), ("gone", true)] {
            let topic = if drops { "will/gone" } else { "will/polite" };
            let wishes = Wishes { will: Some(topic), ..Wishes::default() };
            let (guest, _) = Guest::connect(&broker, name, version, wishes).await;
            if drops { drop(guest) } else { guest.disconnect().await }
        }
        let will = watcher.message().await;
        assert_eq!((will.topic.as_str(), will.payload.as_str(), will.qos), ("will/gone", "gone", 1));
        if let Some(properties) = will.properties {
            assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
            assert_eq!(properties.payload_format_indicator, Some(1));
            assert_eq!(properties.user_properties, [("k".to_owned(), "v".to_owned())]);
        }
        watcher.disconnect().await;
    }
}

#[tokio::test] // [MQTT-4.8.2-4]
async fn guests_that_share_a_subscription_take_turns() {
    let broker = TestBroker::new();
    for version in VERSIONS {
        let mut members = Vec::new();
        for name in ["one", "two", "three"] {
            let mut member = Guest::subscriber(&broker, name, version, "$share/group/t").await;
            member.subscribe("last", 0).await;
            members.push(member);
        }
        let (mut sender, _) = Guest::connect(&broker, "sender", version, Wishes::default()).await;
        for number in 0..30 {
            sender.publish("t", 1, number.to_string()).await;
        }
        sender.acknowledged(30).await;
        sender.publish("last", 1, "last").await;
        sender.acknowledged(1).await;
        let mut all = Vec::new();
        for mut member in members {
            let numbers = member.until("last").await;
            assert_eq!(numbers.len(), 10);
            all.extend(numbers.iter().map(|number| number.parse::<u8>().expect("a number")));
        }
        all.sort_unstable();
        assert!(all.into_iter().eq(0..30));
    }
}

#[tokio::test] // [MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-20], [MQTT-3.3.4-3]
async fn every_property_of_a_guest_arrives() {
    let broker = TestBroker::new();
    let (mut guest, _) = Guest::connect(&broker, "guest", ProtocolVersion::V5, Wishes::default()).await;
    let client = guest.client();
    let own = SubscribeProperties { id: Some(268_435_455), user_properties: Vec::new() };
    client.subscribe_with_properties("t/#", qos5(2), own).await.expect("queued");
    assert_eq!(guest.next().await, Heard::Subscribed);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(u32::MAX),
        topic_alias: None,
        response_topic: Some("answers".to_owned()),
        correlation_data: Some(Bytes::from_static(b"\x00\xff")),
        user_properties: vec![pair("b", "1"), pair("a", "2"), pair("b", "1"), pair("", "")],
        subscription_identifiers: Vec::new(),
        content_type: Some("text/plain".to_owned()),
    };
    for qos in 0..3 {
        let topic = format!("t/{qos}");
        client.publish_with_properties(topic, qos5(qos), false, "x", sent.clone()).await.expect("queued");
        let mut heard = guest.message().await.properties.expect("properties");
        assert_eq!(std::mem::take(&mut heard.subscription_identifiers), [268_435_455]);
        assert_eq!(heard, sent);
    }
}

#[tokio::test] // [MQTT-3.3.2-12], [MQTT-3.1.2-27]
async fn topic_aliases_of_a_guest_and_towards_it_stand_for_their_topics() {
    let broker = TestBroker::new();
    let wishes = Wishes { topic_alias_maximum: Some(1), ..Wishes::default() };
    let (mut guest, _) = Guest::connect(&broker, "guest", ProtocolVersion::V5, wishes).await;
    guest.subscribe("#", 1).await;
    let client = guest.client();
    let alias = |topic_alias| PublishProperties { topic_alias, ..PublishProperties::default() };
    for (topic, value) in [("long/topic", 7), ("", 7), ("other", 7), ("", 7)] {
        client.publish_with_properties(topic, qos5(1), false, "x", alias(Some(value))).await.expect("queued");
    }
    // Ours is for the first topic that came; what is seen is what was on the wire.
    for (topic, value) in [("long/topic", Some(1)), ("", Some(1)), ("other", None), ("other", None)] {
        let message = guest.message().await;
        assert_eq!(message.topic, topic);
        assert_eq!(message.properties.and_then(|properties| properties.topic_alias), value);
    }
}

#[tokio::test] // [MQTT-3.3.4-9]
async fn a_guest_has_no_more_in_flight_than_its_receive_maximum() {
    let broker = TestBroker::new();
    let wishes = Wishes { acknowledges_by_hand: true, receive_maximum: Some(2), ..Wishes::default() };
    let (mut guest, _) = Guest::connect(&broker, "guest", ProtocolVersion::V5, wishes).await;
    guest.subscribe("t", 1).await;
    let (mut sender, _) = Guest::connect(&broker, "sender", ProtocolVersion::V5, Wishes::default()).await;
    for number in 0..5 {
        sender.publish("t", 1, number.to_string()).await;
    }
    sender.acknowledged(5).await;
    // QoS 0 passes what waits, and shows that nothing else came before it.
    sender.publish("t", 0, "marker").await;
    assert_eq!(sender.next().await, Heard::Sent);
    assert_eq!(guest.until("marker").await, ["0", "1"]);
    let client = guest.client();
    let mut acknowledge = v5::mqttbytes::v5::Publish::new("t", qos5(1), "", None);
    acknowledge.pkid = 1;
    client.ack(&acknowledge).await.expect("queued");
    assert_eq!(guest.message().await.payload, "2");
}

#[tokio::test] // [MQTT-3.1.2-24], [MQTT-3.1.2-25]
async fn a_guest_gets_no_packet_above_its_maximum_and_those_behind_it() {
    let broker = TestBroker::new();
    let wishes = Wishes { maximum_packet_size: Some(100), ..Wishes::default() };
    let (mut guest, _) = Guest::connect(&broker, "guest", ProtocolVersion::V5, wishes).await;
    guest.subscribe("t", 1).await;
    let (mut sender, _) = Guest::connect(&broker, "sender", ProtocolVersion::V5, Wishes::default()).await;
    for payload in ["small", &"x".repeat(101), "last"] {
        sender.publish("t", 1, payload).await;
    }
    sender.acknowledged(3).await;
    assert_eq!(guest.until("last").await, ["small"]);
}

#[tokio::test] // [MQTT-3.8.3-3], section 3.8.3.1
async fn the_options_of_a_guests_subscription_are_kept() {
    let broker = TestBroker::new();
    let (mut guest, _) = Guest::connect(&broker, "guest", ProtocolVersion::V5, Wishes::default()).await;
    let client = guest.client();
    let filter = |path: &str, nolocal, rule| Filter {
        path: path.to_owned(),
        qos: qos5(1),
        nolocal,
        preserve_retain: false,
        retain_forward_rule: rule,
    };
    use v5::mqttbytes::v5::RetainForwardRule;
    client.publish("kept/1", qos5(1), true, "retained").await.expect("queued");
    guest.acknowledged(1).await;
    let subscriptions = [
        filter("kept/#", false, RetainForwardRule::Never),
        filter("own", true, RetainForwardRule::OnEverySubscribe),
        filter("kept/+", false, RetainForwardRule::OnNewSubscribe),
    ];
    for subscription in subscriptions {
        client.subscribe_many([subscription]).await.expect("queued");
        assert_eq!(guest.next().await, Heard::Subscribed);
    }
    client
        .subscribe_many([filter("kept/+", false, RetainForwardRule::OnNewSubscribe)])
        .await
        .expect("queued");
    client.publish("own", qos5(1), false, "not for myself").await.expect("queued");
    client.publish("kept/2", qos5(0), false, "last").await.expect("queued");
    assert_eq!(guest.until("last").await, ["retained"]);
}
