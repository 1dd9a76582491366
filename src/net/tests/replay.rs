//! Replays of recordings made up here, to our own broker and to ones that misbehave.

use tokio::net::TcpListener;

use super::*;
use crate::{
    net::replay::{EventSource, ReplayOutcome, ReplayReport, ReplaySpec, start},
    packet::{Connack, Property, ReasonCode},
    recording::{
        Direction, Event, EventKind,
        player::{Pace, Speed},
    },
};

/// A recording as it grows.
#[derive(Clone, Default)]
struct Script {
    events: Vec<Event>,
}

impl Script {
    fn push(mut self, at_ms: u64, connection: u32, kind: EventKind) -> Self {
        let seq = self.events.len() as u64 + 1;
        self.events.push(Event { seq, at: Duration::from_millis(at_ms), connection, kind });
        self
    }

    fn packet(self, at_ms: u64, connection: u32, packet: ControlPacket, protocol: ProtocolVersion) -> Self {
        let bytes = Frame::encode(packet, protocol).expect("encodes").bytes;
        let direction = match bytes[0] >> 4 {
            2 => Direction::ServerToClient,
            _ => Direction::ClientToServer,
        };
        self.push(at_ms, connection, EventKind::Packet { direction, bytes })
    }

    /// A client comes.
    fn client(self, connection: u32, name: &str, protocol: ProtocolVersion) -> Self {
        let connack = Connack {
            session_present: false,
            reason_code: ReasonCode::SUCCESS,
            properties: Properties::new(),
        };
        self.push(0, connection, EventKind::Open(Box::default()))
            .packet(0, connection, connect(name, protocol), protocol)
            .packet(0, connection, ControlPacket::Connack(connack), protocol)
    }

    /// A client publishes.
    fn message(self, at_ms: u64, connection: u32, mut message: Publish) -> Self {
        if message.qos != QoS::AtMostOnce {
            message.packet_identifier = crate::packet::PacketIdentifier::new(self.events.len() as u16);
        }
        let protocol = match connection % 2 {
            0 => ProtocolVersion::V311,
            _ => ProtocolVersion::V5,
        };
        self.packet(at_ms, connection, ControlPacket::Publish(message), protocol)
    }

    /// Two clients, one of each version.
    fn two() -> Self {
        Self::default().client(1, "one", ProtocolVersion::V5).client(2, "two", ProtocolVersion::V311)
    }

    fn source(self) -> EventSource {
        Arc::new(move || Ok(Box::new(self.events.clone().into_iter().map(Ok))))
    }
}

async fn replay(spec: ReplaySpec) -> Arc<ReplayReport> {
    soon(start(spec).expect("a thread").wait()).await
}

fn at_speed(source: EventSource, target: SocketAddr, speed: Speed) -> ReplaySpec {
    ReplaySpec { pace: Pace { speed, ..Pace::default() }, ..ReplaySpec::new(source, url(target)) }
}

#[tokio::test]
async fn messages_arrive_as_recorded_in_the_order_of_each_topic_across_connections() {
    let broker = TestBroker::new();
    let mut watcher = broker.client("watcher", ProtocolVersion::V5).await;
    soon(watcher.subscribe(filters("#", QoS::ExactlyOnce), Properties::new())).await.expect("granted");
    let levels = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    let mut script = Script::two();
    for number in 0..300_usize {
        // Alternating between the connections, in runs of different length.
        let connection = 1 + (number / (1 + number % 3)) as u32 % 2;
        let topic = ["a", "b"][number % 2];
        let mut message = publish(topic, levels[number % 3], format!("{number}"));
        message.retain = number % 10 == 0;
        if connection == 1 {
            message.properties.push(Property::ContentType(Utf8String::new("text").expect("short")));
        }
        script = script.message(number as u64, connection, message);
    }
    let report = replay(at_speed(script.source(), broker.address, Speed::Max)).await;
    assert_eq!(report.outcome, ReplayOutcome::Passed, "{report:#?}");
    assert_eq!((report.planned, report.sent, report.acked, report.unacked), (300, 300, 200, 0));
    assert_eq!((report.connections, report.topics["a"].messages, report.topics["b"].messages), (2, 150, 150));
    let mut next = [0, 1];
    for _ in 0..300 {
        let message = soon(watcher.next_message()).await.expect("a message");
        let topic = message.topic.expect("no alias");
        let index = usize::from(topic.as_str() == "b");
        let number: usize = std::str::from_utf8(&message.payload).expect("text").parse().expect("a number");
        assert_eq!((number, message.qos), (next[index], levels[number % 3]), "on {topic:?}");
        next[index] += 2;
    }
    let retained = broker.handle.run(|broker, _| broker.stats().retained_messages).await.expect("runs");
    assert_eq!(retained, 1, "every tenth message, all to topic a");
}

#[tokio::test]
async fn the_speed_divides_the_recorded_time_and_nothing_is_sent_early() {
    let broker = TestBroker::new();
    let mut script = Script::two();
    for number in 0..=20_u64 {
        script = script.message(500 + number * 10, 1, publish("t", QoS::AtLeastOnce, "x"));
    }
    let report = replay(at_speed(script.source(), broker.address, Speed::Factor(2.0))).await;
    assert_eq!(report.outcome, ReplayOutcome::Passed, "{report:#?}");
    assert_eq!(report.recorded_span, Duration::from_millis(200));
    assert_eq!(report.planned_span, Duration::from_millis(100));
    // The first may be late; the last is never early.
    assert!(report.actual_span + report.lateness.all.max >= Duration::from_millis(100), "{report:#?}");
    assert_eq!(report.lateness.all.count, 21);
}

#[tokio::test]
async fn as_one_sends_everything_over_one_connection() {
    let broker = TestBroker::new();
    let script = Script::two().message(0, 1, publish("t", QoS::AtMostOnce, "1")).message(
        1,
        2,
        publish("t", QoS::AtMostOnce, "2"),
    );
    let spec = at_speed(script.source(), broker.address, Speed::Max);
    let report = replay(ReplaySpec { as_one: true, ..spec }).await;
    assert_eq!((report.connections, report.sent, report.exit_code()), (1, 2, 0), "{report:#?}");
    let view = broker.metrics.view().await;
    assert_eq!(view.connections_active + view.connections_closed, 1);
}

#[tokio::test]
async fn nothing_to_send_is_its_own_exit_code_unless_allowed() {
    let broker = TestBroker::new();
    let spec = ReplaySpec::new(Script::two().source(), url(broker.address));
    assert_eq!(replay(spec.clone()).await.exit_code(), 4);
    assert_eq!(replay(ReplaySpec { allow_empty: true, ..spec }).await.exit_code(), 0);
}

#[tokio::test]
async fn what_is_warned_of_is_what_is_sent() {
    let broker = TestBroker::new();
    let free = bind("127.0.0.1", 0).expect("a free port").local_addr().expect("bound");
    let mut message = publish("t", QoS::AtMostOnce, "1");
    message.properties.push(Property::MessageExpiryInterval(60));
    let script = Script::two().message(0, 1, message);
    let warnings = async |target| {
        let report = replay(at_speed(script.clone().source(), target, Speed::Max)).await;
        report.warnings.len()
    };
    assert_eq!((warnings(free).await, warnings(broker.address).await), (0, 1));
}

#[tokio::test]
async fn an_unreachable_target_is_named() {
    let free = bind("127.0.0.1", 0).expect("a free port").local_addr().expect("bound");
    let script = Script::two().message(0, 1, publish("t", QoS::AtMostOnce, "1"));
    let report = replay(ReplaySpec::new(script.source(), url(free))).await;
    assert_eq!((report.exit_code(), report.connections, report.errors.len()), (3, 0, 1), "{report:#?}");
    assert!(report.errors[0].starts_with(&format!("cannot reach mqtt://{free}: ")), "{:?}", report.errors);
}

#[tokio::test]
async fn a_target_that_refuses_is_told_from_one_that_is_not_there() {
    let broker = TestBroker::start(Limits::default(), 0);
    let script = Script::two().message(0, 1, publish("t", QoS::AtMostOnce, "1"));
    let report = replay(ReplaySpec::new(script.source(), url(broker.address))).await;
    assert_eq!(report.exit_code(), 3);
    assert!(report.errors[0].contains("quota exceeded (0x97)"), "{:?}", report.errors);
}

#[tokio::test]
async fn a_damaged_recording_sends_nothing_and_a_gap_is_not_passed_over() {
    let broker = TestBroker::new();
    let script = Script::two().message(0, 1, publish("t", QoS::AtMostOnce, "1"));
    let events = script.clone();
    let source: EventSource = Arc::new(move || {
        let damage = std::iter::once_with(|| Err("block 7 is damaged".into()));
        Ok(Box::new(events.events.clone().into_iter().map(Ok).chain(damage)))
    });
    let report = replay(ReplaySpec::new(source, url(broker.address))).await;
    assert_eq!((report.exit_code(), report.sent), (5, 0));
    assert_eq!(report.errors, ["block 7 is damaged"]);
    let whole = script.clone();
    let gap = script.push(1, 0, EventKind::Gap { events: 3, bytes: 100 });
    let report = replay(ReplaySpec::new(gap.source(), url(broker.address))).await;
    assert_eq!((report.exit_code(), report.sent, report.missing), (5, 1, 3));
    let known = ReplaySpec { gaps: 2, ..ReplaySpec::new(whole.source(), url(broker.address)) };
    let report = replay(known).await;
    assert_eq!((report.exit_code(), report.sent), (5, 1));
    assert_eq!(report.errors, ["2 gaps are known in the recording"]);
}

#[tokio::test]
async fn too_late_is_a_verdict() {
    let broker = TestBroker::new();
    let script = Script::two().message(0, 1, publish("t", QoS::AtMostOnce, "1"));
    let spec = ReplaySpec::new(script.source(), url(broker.address));
    assert_eq!(
        replay(ReplaySpec { max_lateness: Some(Duration::ZERO), ..spec.clone() }).await.exit_code(),
        6
    );
    assert_eq!(replay(ReplaySpec { max_lateness: Some(PATIENCE), ..spec }).await.exit_code(), 0);
}

#[tokio::test]
async fn cancelling_ends_a_replay_that_waits_for_its_next_message() {
    let broker = TestBroker::new();
    let script = Script::two().message(0, 1, publish("t", QoS::AtMostOnce, "1")).message(
        3_600_000,
        1,
        publish("t", QoS::AtMostOnce, "2"),
    );
    let handle = start(ReplaySpec::new(script.source(), url(broker.address))).expect("a thread");
    let mut progress = handle.progress();
    soon(progress.wait_for(|progress| progress.sent == 1)).await.expect("it runs");
    handle.cancel();
    let report = soon(handle.wait()).await;
    assert_eq!((report.exit_code(), report.sent), (130, 1));
    let hour = Duration::from_secs(3600);
    assert_eq!((report.recorded_span, report.planned_span), (hour, hour));
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_messages_unsent_or_unacknowledged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut server = Raw::new(stream);
        server.frames.set_protocol(ProtocolVersion::V5);
        assert!(matches!(server.packet().await, Some(ControlPacket::Connect(_))));
        server.write(b"\x20\x03\x00\x00\x00").await;
        assert!(matches!(server.packet().await, Some(ControlPacket::Publish(_))));
    });
    let script = Script::default()
        .client(1, "one", ProtocolVersion::V5)
        .message(0, 1, publish("t", QoS::AtLeastOnce, "1"))
        .message(50, 1, publish("t", QoS::AtLeastOnce, "2"));
    let report = replay(ReplaySpec::new(script.source(), url(target))).await;
    soon(server).await.expect("no panic");
    assert_eq!(report.exit_code(), 1, "{report:#?}");
    assert_eq!(report.unacked + report.unsent, 2, "{report:#?}");
    assert!(!report.errors.is_empty());
}

#[tokio::test]
async fn what_the_target_does_not_take_is_reported_and_not_sent() {
    let broker = TestBroker::start(Limits { max_packet_size: 100, ..Limits::default() }, 10);
    let script = Script::two().message(0, 1, publish("t", QoS::AtLeastOnce, vec![0; 200])).message(
        1,
        1,
        publish("t", QoS::AtLeastOnce, "fits"),
    );
    let report = replay(ReplaySpec::new(script.source(), url(broker.address))).await;
    assert_eq!((report.exit_code(), report.sent, report.acked), (1, 1, 1), "{report:#?}");
    assert_eq!(report.incapable.len(), 1);
    assert!(report.errors[0].starts_with("1 message was not sent: a packet of "), "{:?}", report.errors);
}
