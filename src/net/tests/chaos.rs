//! Lines between sockets and what serves them: put in while clients are there, and what a client sees when one is cut.

use super::{proxy::TestProxy, *};
use crate::{
    packet::{ReasonCode, Will},
    recording::{CloseCause, Direction, FaultInjected},
    tap::Observed,
};

const V5: ProtocolVersion = ProtocolVersion::V5;

fn rule(yaml: &str) -> RuleSpec {
    serde_saphyr::from_str(yaml).expect("a rule")
}

async fn message(client: &mut Client) -> String {
    let message = soon(client.next_message()).await.expect("a message");
    let topic = message.topic.as_ref().map_or("", TopicName::as_str);
    format!("{topic} {}", String::from_utf8_lossy(&message.payload))
}

fn with_will(name: &str) -> ControlPacket {
    let ControlPacket::Connect(mut packet) = connect(name, V5) else { unreachable!("a CONNECT") };
    packet.will = Some(Will {
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Properties::new(),
        topic: TopicName::parse("will").expect("a topic"),
        payload: Bytes::from_static(b"gone"),
    });
    ControlPacket::Connect(packet)
}

/// The broker, and the proxy before one.
async fn servers(rules: &str) -> Vec<(&'static str, SocketAddr, Chaos, Tap, TestBroker, Option<TestProxy>)> {
    let broker = TestBroker::start_under(rules, Limits::default(), ConnectionLimits::default());
    let behind = TestBroker::new();
    let proxy = TestProxy::start_under(rules, behind.address);
    vec![
        ("broker", broker.address, broker.chaos.clone(), broker.tap.clone(), broker, None),
        ("proxy", proxy.address, proxy.chaos.clone(), proxy.tap.clone(), behind, Some(proxy)),
    ]
}

#[tokio::test]
async fn clients_that_are_connected_are_under_chaos_as_soon_as_there_is_some() {
    for (server, address, chaos, ..) in servers("[]").await {
        let mut raw = Raw::login(address, "idle", V5).await;
        let mut other = soon(Client::connect(options(address, "other"))).await.expect("connected");
        soon(other.subscribe(filters("t/#", QoS::AtMostOnce), Properties::new())).await.expect("granted");
        chaos.create(rule("{match: {client: idle, topic: t/#}, actions: [drop]}")).expect("a good rule");
        raw.send(ControlPacket::Publish(publish("t/a", QoS::AtMostOnce, "1")), V5).await;
        raw.send(ControlPacket::Pingreq, V5).await;
        assert!(matches!(raw.packet().await, Some(ControlPacket::Pingresp)));
        chaos.reset();
        raw.send(ControlPacket::Publish(publish("t/b", QoS::AtMostOnce, "2")), V5).await;
        assert_eq!(message(&mut other).await, "t/b 2", "{server}");
    }
}

#[tokio::test]
async fn a_rule_is_in_force_for_idle_clients_as_soon_as_it_was_made() {
    const IDLE: u64 = 5;
    for (server, address, chaos, ..) in servers("[]").await {
        let mut raw = Raw::login(address, "sender", V5).await;
        for round in 0..20 {
            let mut idle = Vec::new();
            for number in 0..IDLE {
                let client = soon(Client::connect(options(address, &format!("idle-{round}-{number}"))));
                let client = client.await.expect("connected");
                soon(client.subscribe(filters("t", QoS::AtMostOnce), Properties::new()))
                    .await
                    .expect("granted");
                idle.push(client);
            }
            let faults = chaos.last_fault();
            chaos
                .create(rule("{match: {client: idle-*, direction: s2c, types: PUBLISH}, actions: [drop]}"))
                .expect("a good rule");
            raw.send(ControlPacket::Publish(publish("t", QoS::AtMostOnce, "lost")), V5).await;
            until(|| (chaos.last_fault() == faults + IDLE).then_some(())).await;
            chaos.reset();
            raw.send(ControlPacket::Publish(publish("t", QoS::AtMostOnce, "kept")), V5).await;
            for client in &mut idle {
                assert_eq!(message(client).await, "t kept", "{server}");
            }
        }
    }
}

#[tokio::test]
async fn a_packet_that_has_begun_passes_and_the_next_one_meets_the_rules() {
    for (server, address, chaos, ..) in servers("[]").await {
        let mut other = soon(Client::connect(options(address, "other"))).await.expect("connected");
        soon(other.subscribe(filters("t/#", QoS::AtMostOnce), Properties::new())).await.expect("granted");
        let mut raw = Raw::login(address, "me", V5).await;
        let encoded = |number: &str| {
            let packet = ControlPacket::Publish(publish("t/a", QoS::AtMostOnce, number.to_owned()));
            Frame::encode(packet, V5).expect("encodes").bytes
        };
        // The ping is answered, so what comes before it has been read; of what comes behind, that is not sure.
        let (begun, next) = (encoded("1"), encoded("2"));
        let ping: &[u8] = &[0xC0, 0];
        raw.write(&[ping, &begun[..3]].concat()).await;
        assert!(matches!(raw.packet().await, Some(ControlPacket::Pingresp)));
        chaos.create(rule("{match: {client: me, topic: t/#}, actions: [drop]}")).expect("a good rule");
        raw.write(&[&begun[3..], &next, ping].concat()).await;
        assert!(matches!(raw.packet().await, Some(ControlPacket::Pingresp)));
        chaos.reset();
        raw.write(&encoded("3")).await;
        let mut heard = vec![message(&mut other).await];
        if heard[0] == "t/a 1" {
            heard.push(message(&mut other).await);
        }
        // Whether the line came before or behind the first bytes, the second message meets the rule.
        assert!(heard == ["t/a 1", "t/a 3"] || heard == ["t/a 3"], "{server}: {heard:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_cut_off_sees_rst_and_its_will_is_published() {
    let rules = "[{match: {topic: cut, client: dev}, actions: [disconnect]},
                  {match: {topic: end, client: dev}, actions: [{disconnect: {mode: mqtt5, will: false}}]}]";
    for (server, address, _, tap, ..) in servers(rules).await {
        let mut other = soon(Client::connect(options(address, "other"))).await.expect("connected");
        soon(other.subscribe(filters("#", QoS::AtMostOnce), Properties::new())).await.expect("granted");
        let log = Arc::new(Log::default());
        let attachment = tap.attach(log.clone());

        let mut raw = Raw::connect(address).await;
        raw.frames.set_protocol(V5);
        raw.send(with_will("dev"), V5).await;
        assert!(matches!(raw.packet().await, Some(ControlPacket::Connack(_))));
        raw.send(ControlPacket::Publish(publish("cut", QoS::AtMostOnce, "1")), V5).await;
        let mut rest = [0; 8];
        let end = soon(raw.stream.read(&mut rest)).await.expect_err("RST");
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "{server}");
        assert_eq!(message(&mut other).await, "cut 1", "{server}");
        assert_eq!(message(&mut other).await, "will gone", "{server}");

        let mut raw = Raw::connect(address).await;
        raw.frames.set_protocol(V5);
        raw.send(with_will("dev"), V5).await;
        assert!(matches!(raw.packet().await, Some(ControlPacket::Connack(_))));
        raw.send(ControlPacket::Publish(publish("end", QoS::AtMostOnce, "2")), V5).await;
        let Some(ControlPacket::Disconnect(disconnect)) = raw.packet().await else { panic!("DISCONNECT") };
        assert_eq!(disconnect.reason_code, ReasonCode::SERVER_SHUTTING_DOWN);
        assert!(raw.packet().await.is_none(), "{server}: FIN");
        assert_eq!(message(&mut other).await, "end 2", "{server}");
        let sender = soon(Client::connect(options(address, "sender"))).await.expect("connected");
        let receipt = soon(sender.publish(publish("last", QoS::AtLeastOnce, "3"))).await.expect("sent");
        soon(receipt.acked()).await.expect("acked");
        assert_eq!(message(&mut other).await, "last 3", "{server}: no Will before it");

        until(|| {
            let closed = |log: &Log| {
                let log = log.0.lock().expect("no panic");
                log.iter().filter(|seen| matches!(seen.what, Observed::Close(CloseCause::Fault))).count()
            };
            (closed(&log) == 2).then_some(())
        })
        .await;
        drop(attachment);
        let faults: Vec<String> = log.take().iter().filter_map(|seen| fault(&seen.what)).collect();
        assert_eq!(faults, ["disconnect PUBLISH 1 c2s", "disconnect PUBLISH 2 c2s"], "{server}");
    }
}

fn fault(what: &Observed) -> Option<String> {
    let Observed::Fault(fault) = what else { return None };
    let FaultInjected { action, packet_type, nth, direction, .. } = &**fault;
    Some(format!("{action} {packet_type} {nth} {}", direction.name()))
}

#[tokio::test]
async fn what_is_observed_is_what_the_client_sent_and_what_it_got() {
    let rules = "[{match: {topic: lost}, when: {first_n: 1}, actions: [drop]}]";
    for (server, address, _, tap, ..) in servers(rules).await {
        let log = Arc::new(Log::default());
        let attachment = tap.attach(log.clone());
        let mut client = soon(Client::connect(options(address, "me"))).await.expect("connected");
        soon(client.subscribe(filters("#", QoS::AtMostOnce), Properties::new())).await.expect("granted");
        for (topic, payload) in [("lost", "1"), ("lost", "2"), ("last", "3")] {
            _ = soon(client.publish(publish(topic, QoS::AtMostOnce, payload))).await.expect("sent");
        }
        // Of two that get through to the broker, one does not come back.
        assert_eq!(message(&mut client).await, "last 3", "{server}");
        soon(client.disconnect(ReasonCode::SUCCESS)).await.expect("disconnected");
        until(|| {
            let log = log.0.lock().expect("no panic");
            log.iter().any(|seen| matches!(seen.what, Observed::Close(_))).then_some(())
        })
        .await;
        drop(attachment);
        let seen: Vec<String> = log
            .take()
            .iter()
            .filter_map(|seen| match &seen.what {
                Observed::Packet { direction, bytes } => {
                    let packet = ControlPacket::decode(bytes, V5).expect("a packet");
                    let name = packet.name();
                    let payload = match &packet {
                        ControlPacket::Publish(publish) => {
                            String::from_utf8_lossy(&publish.payload).into_owned()
                        }
                        _ => String::new(),
                    };
                    Some(format!("{} {name} {payload}", direction.name()).trim().to_owned())
                }
                Observed::Close(cause) => Some(cause.name().to_owned()),
                what => fault(what),
            })
            .collect();
        let from_client: Vec<&String> =
            seen.iter().filter(|line| line.starts_with("c2s") || line.ends_with("c2s")).collect();
        assert_eq!(
            from_client,
            [
                "c2s CONNECT",
                "c2s SUBSCRIBE",
                "c2s PUBLISH 1",
                "drop PUBLISH 1 c2s",
                "c2s PUBLISH 2",
                "c2s PUBLISH 3",
                "c2s DISCONNECT"
            ],
            "{server}"
        );
        let to_client: Vec<&String> =
            seen.iter().filter(|line| line.starts_with("s2c") || line.ends_with("s2c")).collect();
        assert_eq!(
            to_client,
            ["s2c CONNACK", "s2c SUBACK", "drop PUBLISH 1 s2c", "s2c PUBLISH 3"],
            "{server}"
        );
        // Who is first to say so after a DISCONNECT is a matter of time.
        assert!(seen.last().is_some_and(|last| last.ends_with("_fin")), "{server}: {seen:?}");
    }
}

#[tokio::test]
async fn the_server_loses_a_session() {
    for (server, address, chaos, ..) in servers("[]").await {
        let keeps = || {
            let ControlPacket::Connect(mut packet) = connect("dev", V5) else { unreachable!("a CONNECT") };
            packet.clean_start = false;
            packet.properties.push(crate::packet::Property::SessionExpiryInterval(1000));
            ControlPacket::Connect(packet)
        };
        let session_present = async |chaos: Option<&str>| {
            let mut raw = Raw::connect(address).await;
            raw.frames.set_protocol(V5);
            raw.send(keeps(), V5).await;
            let Some(ControlPacket::Connack(connack)) = raw.packet().await else {
                panic!("{chaos:?}: CONNACK")
            };
            raw.send(ControlPacket::Disconnect(crate::packet::Disconnect::new(ReasonCode::SUCCESS)), V5)
                .await;
            assert!(raw.packet().await.is_none());
            connack.session_present
        };
        assert!(!session_present(None).await, "{server}");
        assert!(session_present(None).await, "{server}");
        chaos.create(rule("{id: lose, when: {first_n: 1}, actions: [lose_session]}")).expect("a good rule");
        assert!(!session_present(Some("lost")).await, "{server}");
        assert!(session_present(Some("kept")).await, "{server}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_held_back_by_its_own_line_alone() {
    let rules = "[{match: {client: slow, direction: s2c, types: PUBLISH}, actions: [{latency: 3600000}]}]";
    for (server, address, chaos, ..) in servers(rules).await {
        let mut slow = soon(Client::connect(options(address, "slow"))).await.expect("connected");
        let mut fast = soon(Client::connect(options(address, "fast"))).await.expect("connected");
        for client in [&mut slow, &mut fast] {
            soon(client.subscribe(filters("#", QoS::AtMostOnce), Properties::new())).await.expect("granted");
        }
        let sender = soon(Client::connect(options(address, "sender"))).await.expect("connected");
        for number in 0..500 {
            let payload = vec![b'x'; 10_000];
            _ = soon(sender.publish(publish("t", QoS::AtMostOnce, payload))).await.expect("sent");
            if number % 100 == 99 {
                // Messages that a client is too slow for may be lost; this one keeps up.
                for _ in 0..100 {
                    soon(fast.next_message()).await.expect("a message");
                }
            }
        }
        let held = chaos.held();
        let most = (HELD_BYTES + 128 * 1024) as u64;
        assert!((1..=most).contains(&held.bytes), "{server}: {held:?}");
        chaos.reset();
        soon(slow.next_message()).await.expect("what was held back is let go");
        until(|| (chaos.held().bytes == 0).then_some(())).await;
    }
}

#[tokio::test]
async fn directions_are_the_clients() {
    let rules = "[{match: {direction: c2s, types: PUBLISH}, actions: [duplicate]}]";
    for (server, address, chaos, ..) in servers(rules).await {
        let mut client = soon(Client::connect(options(address, "me"))).await.expect("connected");
        soon(client.subscribe(filters("#", QoS::AtMostOnce), Properties::new())).await.expect("granted");
        _ = soon(client.publish(publish("t", QoS::AtMostOnce, "1"))).await.expect("sent");
        _ = soon(client.publish(publish("last", QoS::AtMostOnce, "2"))).await.expect("sent");
        let heard = [message(&mut client).await, message(&mut client).await, message(&mut client).await];
        assert_eq!(heard, ["t 1", "t 1", "last 2"], "{server}");
        let faults = chaos.faults(0, 10, &Default::default());
        assert!(faults.iter().all(|fault| fault.fault.direction == Direction::ClientToServer), "{server}");
    }
}
