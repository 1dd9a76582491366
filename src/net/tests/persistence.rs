//! What is promised waits for the disk, and nothing else does. The disk is the test's.

use std::collections::VecDeque;

use super::*;
use crate::{
    broker::{Batch, Durability, tests::kept::Kept},
    packet::ReasonCode,
};

/// A disk that takes its time.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Platters>>);

#[derive(Default)]
struct Platters {
    kept: Kept,
    waiting: VecDeque<(Batch, Box<dyn FnOnce() + Send>)>,
    is_fast: bool,
}

impl Platters {
    /// Takes what waits; how much that was.
    fn take(&mut self) -> usize {
        let waiting = std::mem::take(&mut self.waiting);
        let count = waiting.len();
        for (batch, done) in waiting {
            self.kept.apply(&batch);
            done();
        }
        count
    }
}

impl Disk {
    fn persistence(&self) -> Persistence {
        let restored = self.0.lock().expect("no panic").kept.restored();
        let disk = self.clone();
        let commit = Box::new(move |batch, done| {
            let mut platters = disk.0.lock().expect("no panic");
            platters.waiting.push_back((batch, done));
            if platters.is_fast {
                platters.take();
            }
        });
        Persistence { restored, commit }
    }

    fn start(&self, durability: Durability) -> TestBroker {
        let options = Options { durability, ..Options::default() };
        TestBroker::start_keeping("[]", options, ConnectionLimits::default(), Some(self.persistence()))
    }

    fn set_fast(&self, is_fast: bool) {
        let mut platters = self.0.lock().expect("no panic");
        platters.is_fast = is_fast;
        platters.take();
    }

    /// Waits for something to be written, and writes it.
    async fn turn(&self) {
        until(|| (self.0.lock().expect("no panic").take() > 0).then_some(())).await;
    }
}

fn persistent(name: &str, clean_start: bool) -> ControlPacket {
    let ControlPacket::Connect(connect) = connect(name, ProtocolVersion::V311) else { unreachable!() };
    ControlPacket::Connect(Box::new(Connect { clean_start, ..*connect }))
}

/// A client of a Session that is kept, and whether there was one.
async fn resume(broker: &TestBroker, name: &str) -> (Raw, bool) {
    let mut raw = broker.raw().await;
    raw.send(persistent(name, false), ProtocolVersion::V311).await;
    let Some(ControlPacket::Connack(connack)) = raw.packet().await else { panic!("no CONNACK") };
    (raw, connack.session_present)
}

async fn subscribe(raw: &mut Raw, filter: &str) {
    let subscribe = format!("SUBSCRIBE 1 {filter} qos=2").parse().expect("a packet");
    raw.send(subscribe, ProtocolVersion::V311).await;
    assert!(matches!(raw.packet().await, Some(ControlPacket::Suback(_))));
}

async fn send(raw: &mut Raw, text: &str) {
    raw.send(text.parse().expect("a packet"), ProtocolVersion::V311).await;
}

fn is_ack(packet: Option<ControlPacket>, id: u16) -> bool {
    matches!(packet, Some(ControlPacket::Puback(ack) | ControlPacket::Pubrec(ack)) if ack.packet_identifier.get() == id)
}

#[tokio::test]
async fn an_acknowledgement_waits_for_the_disk_and_other_traffic_does_not() {
    let disk = Disk::default();
    disk.set_fast(true);
    let broker = disk.start(Durability::Strict);
    let (mut away, was_there) = resume(&broker, "away").await;
    assert!(!was_there);
    subscribe(&mut away, "kept/#").await;
    drop(away);
    let mut publisher = Raw::login(broker.address, "publisher", ProtocolVersion::V311).await;
    let mut live = broker.client("live", ProtocolVersion::V5).await;
    soon(live.subscribe(filters("#", QoS::AtLeastOnce), Properties::new())).await.expect("granted");
    disk.set_fast(false);
    send(&mut publisher, r#"PUBLISH kept/a qos=1 id=1 "one""#).await;
    // Nobody who is kept gets these: nothing waits for them but what is behind the first.
    send(&mut publisher, r#"PUBLISH other qos=1 id=2 "two""#).await;
    send(&mut publisher, "PINGREQ").await;
    let second = Raw::login(broker.address, "second", ProtocolVersion::V311);
    let mut second = second.await;
    send(&mut second, r#"PUBLISH other qos=1 id=9 "three""#).await;
    assert!(is_ack(second.packet().await, 9), "it promises nothing that is not there");
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(soon(live.next_message()).await.expect("a message").payload);
    }
    // Of two publishers in any order.
    heard.sort();
    assert_eq!(heard, ["one", "three", "two"]);
    // All of that came, and no acknowledgement.
    let mut byte = [0];
    let early = publisher.stream.try_read(&mut byte);
    assert!(early.is_err(), "an acknowledgement came before the disk had its message");
    disk.turn().await;
    assert!(is_ack(publisher.packet().await, 1));
    assert!(is_ack(publisher.packet().await, 2));
    assert_eq!(publisher.packet().await, Some(ControlPacket::Pingresp));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_for_the_next_process() {
    for durability in [Durability::Relaxed, Durability::Strict] {
        let disk = Disk::default();
        disk.set_fast(true);
        let broker = disk.start(durability);
        let (mut away, _) = resume(&broker, "away").await;
        subscribe(&mut away, "t/#").await;
        drop(away);
        let (mut publisher, _) = resume(&broker, "publisher").await;
        send(&mut publisher, r#"PUBLISH t/a qos=1 id=1 retain=true "one""#).await;
        send(&mut publisher, r#"PUBLISH t/b qos=2 id=2 "two""#).await;
        assert!(is_ack(publisher.packet().await, 1) && is_ack(publisher.packet().await, 2));
        // Ends with everything on disk.
        soon(broker.handle.shut_down()).await;
        let broker = disk.start(durability);
        let (mut publisher, was_there) = resume(&broker, "publisher").await;
        assert!(was_there);
        // Not delivered again: it was not released.
        send(&mut publisher, r#"PUBLISH t/b qos=2 id=2 dup=true "two""#).await;
        assert!(is_ack(publisher.packet().await, 2));
        let (mut away, was_there) = resume(&broker, "away").await;
        assert!(was_there);
        for (topic, qos) in [("t/a", QoS::AtLeastOnce), ("t/b", QoS::ExactlyOnce)] {
            let Some(ControlPacket::Publish(publish)) = away.packet().await else { panic!("no message") };
            assert_eq!((publish.topic.expect("a topic").as_str(), publish.qos), (topic, qos));
        }
        send(&mut away, "PINGREQ").await;
        assert_eq!(away.packet().await, Some(ControlPacket::Pingresp));
        let stats = broker.handle.run(|broker, _| broker.stats()).await.expect("it runs");
        assert_eq!((stats.retained_messages, stats.sessions), (1, 2));
    }
}

#[tokio::test]
async fn a_client_that_has_closed_its_half_is_still_told_what_it_was_promised() {
    let disk = Disk::default();
    let broker = disk.start(Durability::Strict);
    let mut raw = broker.raw().await;
    raw.send(persistent("half", false), ProtocolVersion::V311).await;
    send(&mut raw, r#"PUBLISH t qos=2 id=7 retain=true "x""#).await;
    soon(raw.stream.shutdown()).await.expect("half of it");
    disk.turn().await;
    assert!(matches!(raw.packet().await, Some(ControlPacket::Connack(_))));
    disk.set_fast(true);
    assert!(is_ack(raw.packet().await, 7));
    assert_eq!(raw.packet().await, None);
}

#[tokio::test]
async fn a_client_whose_answers_wait_for_the_disk_is_not_read_from_without_end() {
    let disk = Disk::default();
    let options = Options {
        durability: Durability::Strict,
        limits: Limits { outbox_bytes: 1024, queue_messages: 1, ..Limits::default() },
        ..Options::default()
    };
    let connections = ConnectionLimits::default();
    let broker = TestBroker::start_keeping("[]", options, connections, Some(disk.persistence()));
    let mut raw = broker.raw().await;
    raw.send(persistent("fast", false), ProtocolVersion::V311).await;
    // Half a megabyte of answers is what may wait, and each has eight bytes or more to answer.
    let publish = Frame::encode(
        r#"PUBLISH t qos=1 id=1 retain=true "x""#.parse().expect("a packet"),
        ProtocolVersion::V311,
    );
    let many = publish.expect("encodes").bytes.repeat(5_000);
    let mut sent = 0;
    let stuck = tokio::time::timeout(Duration::from_millis(500), async {
        while sent < 800 {
            raw.stream.write_all(&many).await.expect("written");
            sent += 1;
        }
    });
    assert!(stuck.await.is_err(), "{sent} times five thousand messages were read");
    disk.set_fast(true);
    let mut answers = 0;
    assert!(matches!(raw.packet().await, Some(ControlPacket::Connack(_))));
    while answers < sent * 5_000 {
        assert!(is_ack(raw.packet().await, 1));
        answers += 1;
    }
}

#[tokio::test]
async fn what_the_control_plane_publishes_is_answered_when_it_is_durable() {
    let disk = Disk::default();
    let broker = disk.start(Durability::Strict);
    let message = crate::session::ApplicationMessage {
        topic: TopicName::parse("t").expect("a topic"),
        payload: Bytes::from_static(b"x"),
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: Properties::new(),
        expires_at: None,
        origin: crate::session::Origin::Synthetic { depth: 0 },
    };
    let handle = broker.handle.clone();
    let publishing = tokio::spawn(async move {
        handle.run_lasting(|broker, now| broker.publish(now, message)).await.expect("it runs")
    });
    until(|| (!disk.0.lock().expect("no panic").waiting.is_empty()).then_some(())).await;
    assert!(!publishing.is_finished());
    disk.turn().await;
    soon(publishing).await.expect("published");
    assert_eq!(disk.0.lock().expect("no panic").kept.restored().retained.len(), 1);
}

#[tokio::test]
async fn clients_are_told_that_the_server_shuts_down_behind_what_they_are_promised() {
    let disk = Disk::default();
    disk.set_fast(true);
    let broker = disk.start(Durability::Strict);
    let mut raw = broker.raw().await;
    raw.frames.set_protocol(ProtocolVersion::V5);
    let connect = "CONNECT v5 session_expiry=100 clean=false".parse().expect("a packet");
    raw.send(connect, ProtocolVersion::V5).await;
    assert!(matches!(raw.packet().await, Some(ControlPacket::Connack(_))));
    disk.set_fast(false);
    let publish = r#"PUBLISH t qos=1 id=1 retain=true "x""#.parse().expect("a packet");
    raw.send(publish, ProtocolVersion::V5).await;
    until(|| (!disk.0.lock().expect("no panic").waiting.is_empty()).then_some(())).await;
    let handle = broker.handle.clone();
    let stopping = tokio::spawn(async move { handle.shut_down().await });
    disk.turn().await;
    assert!(is_ack(raw.packet().await, 1));
    let Some(ControlPacket::Disconnect(disconnect)) = raw.packet().await else { panic!("no DISCONNECT") };
    assert_eq!(disconnect.reason_code, ReasonCode::SERVER_SHUTTING_DOWN);
    disk.set_fast(true);
    soon(stopping).await.expect("it stops");
    let kept = disk.0.lock().expect("no panic").kept.restored();
    assert!(!kept.sessions[0].record.is_connected, "how it ended is known");
}
