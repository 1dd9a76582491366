//! What is recorded of what the tap reports.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use expect_test::expect;

use super::*;
use crate::{
    packet::{PacketType, QoS, Subscription, SubscriptionOptions, TopicFilter},
    recording::{
        CloseCause, Direction, FaultInjected, InForce, NamePattern, OnOverload, RecordingSource,
        RecordingState, RingLimits,
        redact::{Redaction, RedactionKey},
        sample::{self, publish},
    },
    session::ConnectionId,
    store::StoreOptions,
};

const ONE: ConnectionId = ConnectionId(11);
const TWO: ConnectionId = ConnectionId(12);
const CONNECT: &[u8] = b"\x10\x1a\0\x04MQTT\x04\xc2\0\x3c\0\x01c\0\x03bob\0\x06secret";
const PINGREQ: &[u8] = b"\xc0\0";

struct Bench {
    _folder: tempfile::TempDir,
    store: Store,
    tap: Tap,
}

impl Bench {
    fn new(change: impl FnOnce(&mut StoreOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = StoreOptions::new(folder.path());
        change(&mut options);
        Self { store: Store::open(options).unwrap(), _folder: folder, tap: Tap::new() }
    }

    fn start(&self, change: impl FnOnce(&mut RecordingSpec)) -> Recorder {
        let mut spec = RecordingSpec::new(RecordingSource::broker());
        change(&mut spec);
        Recorder::start(&self.store, &self.tap, spec).unwrap()
    }

    fn sent(&self, connection: ConnectionId, bytes: &'static [u8]) {
        self.tap.packet(Instant::now(), connection, Direction::ClientToServer, Bytes::from_static(bytes));
    }

    fn events(&self, info: &RecordingInfo) -> Vec<Event> {
        self.store.events(&info.id, 1).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

fn shown(event: &Event) -> String {
    let what = match &event.kind {
        EventKind::Open(info) if info.already_open => "already open".to_owned(),
        EventKind::Packet { bytes, .. } | EventKind::Raw { bytes, .. } => bytes.escape_ascii().to_string(),
        EventKind::Close(cause) => cause.name().to_owned(),
        EventKind::Mark(label) => label.clone(),
        EventKind::Mock(fired) => fired.mock.clone(),
        EventKind::Fault(fault) => {
            let sent = fault.sent.as_ref().map(|sent| sent.escape_ascii().to_string());
            format!("{} {}", fault.action, sent.unwrap_or_default())
        }
        EventKind::State(in_force) => in_force.packet.escape_ascii().to_string(),
        EventKind::Open(_) | EventKind::Anchor(_) | EventKind::Gap { .. } => String::new(),
    };
    format!("{} {} {} {what}", event.seq, event.connection, event.kind.name())
}

#[tokio::test]
async fn what_the_tap_reports_is_recorded_in_one_order() {
    let bench = Bench::new(|_| {});
    let now = Instant::now();
    bench.tap.open(now, ONE, None, Arc::default());
    let recorder = bench.start(|spec| spec.name = Some("orders".to_owned()));
    let mut tail = recorder.tail();
    bench.tap.open(now, TWO, None, Arc::default());
    bench.sent(TWO, PINGREQ);
    bench.sent(ONE, b"\xd0\0");
    recorder.mark("half way");
    bench.tap.raw(now, TWO, Direction::ServerToClient, Bytes::from_static(b"?"));
    bench.tap.close(now, TWO, CloseCause::ServerRst);
    assert_eq!(recorder.info().events, 8);
    assert_eq!(recorder.info().state, RecordingState::Recording);
    let info = recorder.stop().await.unwrap();
    bench.sent(ONE, PINGREQ);
    let events = bench.events(&info);
    assert_eq!(
        events.iter().map(shown).collect::<Vec<_>>(),
        [
            "1 0 ANCHOR ",
            "2 1 OPEN already open",
            "3 2 OPEN ",
            "4 2 PACKET \\xc0\\x00",
            "5 1 PACKET \\xd0\\x00",
            "6 0 MARK half way",
            "7 2 RAW ?",
            "8 2 CLOSE server_rst",
            "9 1 CLOSE recording_ended",
        ]
    );
    assert!(events.is_sorted_by_key(|event| event.at));
    assert_eq!((info.state, info.connections, info.packets), (RecordingState::Complete, 2, 2));
    let mut live = Vec::new();
    while let Ok(event) = tail.try_recv() {
        live.push(shown(&event));
    }
    assert_eq!(live, events[2..].iter().map(shown).collect::<Vec<_>>());
}

#[tokio::test]
async fn passwords_are_kept_only_if_asked_for() {
    for keep in [false, true] {
        let bench = Bench::new(|_| {});
        let recorder = bench.start(|spec| spec.keep_credentials = keep);
        let now = Instant::now();
        for connection in [ONE, TWO] {
            bench.tap.open(now, connection, None, Arc::default());
        }
        bench.sent(ONE, CONNECT);
        // The same with a reserved flag set, so that it does not parse, and in two pieces.
        let raw = |bytes| bench.tap.raw(now, TWO, Direction::ClientToServer, bytes);
        let mut malformed = BytesMut::from(CONNECT);
        malformed[9] |= 1;
        let malformed = malformed.freeze();
        raw(malformed.slice(..22));
        raw(malformed.slice(22..));
        raw(Bytes::from_static(b"open secret"));
        let info = recorder.stop().await.unwrap();
        let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
        assert_eq!(shown.iter().filter(|line| line.contains("secret")).count(), if keep { 3 } else { 1 });
        assert!(shown.iter().any(|line| line.contains("open secret")));
        assert_eq!(shown.iter().any(|line| line.contains("redacted")), !keep, "{shown:?}");
    }
}

#[tokio::test]
async fn a_connect_that_does_not_parse_gives_its_password_away_in_no_piece_and_at_no_time() {
    let bench = Bench::new(|_| {});
    let recorder = bench.start(|_| {});
    let raw = |connection, bytes: &[u8]| {
        let bytes = Bytes::copy_from_slice(bytes);
        bench.tap.raw(Instant::now(), connection, Direction::ClientToServer, bytes);
    };
    bench.tap.open(Instant::now(), ONE, None, Arc::default());
    bench.tap.open(Instant::now(), TWO, None, Arc::default());
    // Its length never ends.
    raw(ONE, b"\x10\xff\xff\xff\xff");
    raw(ONE, &CONNECT[2..]);
    // A second one, behind one that was good; and the first of its bytes says nothing of its length.
    bench.sent(TWO, CONNECT);
    raw(TWO, &CONNECT[..1]);
    raw(TWO, &CONNECT[1..]);
    let info = recorder.stop().await.unwrap();
    let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
    assert!(!shown.iter().any(|line| line.contains("secret")), "{shown:?}");
}

#[tokio::test]
async fn what_rules_name_gets_neither_onto_the_disk_nor_to_a_tail() {
    let bench = Bench::new(|_| {});
    let rules = ["client_id=hash", "text:bob=mask"].map(|rule| rule.parse().unwrap()).to_vec();
    let redaction = Redaction { rules, key: RedactionKey::new("key") };
    let recorder = bench.start(|spec| {
        spec.filter.clients = vec![NamePattern::new("c")];
        spec.redaction = Some(redaction);
    });
    let mut tail = recorder.tail();
    bench.tap.open(Instant::now(), ONE, None, Arc::default());
    bench.sent(ONE, CONNECT);
    bench.sent(ONE, b"\x30\x08\0\x03a/bbob");
    recorder.mark("bob called");
    let report = recorder.redaction_report().unwrap();
    let info = recorder.stop().await.unwrap();
    let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
    let packets: Vec<&String> = shown.iter().filter(|line| line.contains("PACKET")).collect();
    // The filter is about what clients are called, not about what is written.
    assert!(packets[0].contains("h-") && packets[1].ends_with("a/b***"), "{shown:?}");
    assert!(!shown.iter().any(|line| line.contains("bob")), "{shown:?}");
    assert_eq!(report.rules.iter().map(|rule| rule.values).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(info.edits, ["redacted while it was recorded: client_id=hash, text:…=mask"]);
    let mut live = Vec::new();
    while let Ok(event) = tail.try_recv() {
        live.push(super::tests::shown(&event));
    }
    assert!(live.iter().all(|line| shown.contains(line)), "{live:?}");
}

#[tokio::test]
async fn passwords_that_are_asked_for_stay_beside_rules_but_for_what_patterns_match() {
    for (rules, kept) in [(vec!["client_id=hash"], true), (vec!["client_id=hash", "text:cre=mask"], false)] {
        let bench = Bench::new(|_| {});
        let recorder = bench.start(|spec| {
            spec.keep_credentials = true;
            let rules = rules.into_iter().map(|rule| rule.parse().unwrap()).collect();
            spec.redaction = Some(Redaction { rules, key: RedactionKey::new("key") });
        });
        bench.sent(ONE, CONNECT);
        let info = recorder.stop().await.unwrap();
        let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
        assert!(shown[2].contains("h-"), "{shown:?}");
        assert!(shown[2].ends_with(if kept { "secret" } else { "se***t" }), "{shown:?}");
    }
}

#[tokio::test]
async fn snapshots_are_redacted_by_the_rules_of_all_and_their_own_whoever_asks() {
    let bench = Bench::new(|_| {});
    let spec = || RecordingSpec::new(RecordingSource::broker());
    let limits = RingLimits { bytes: 1 << 20, duration: Duration::from_secs(60) };
    let options = FlightOptions { limits, triggers: Vec::new(), cooldown: Duration::ZERO };
    let flight = FlightRecorder::start(&bench.tap, &spec(), options);
    let redaction =
        |rule: &str| Redaction { rules: vec![rule.parse().unwrap()], key: RedactionKey::new("key") };
    flight.redact_snapshots(redaction("topic:devices/+=mask"));
    bench.tap.open(Instant::now(), ONE, None, Arc::default());
    bench.sent(ONE, CONNECT);
    bench.sent(ONE, b"\x30\x10\0\x0bdevices/eveall");
    let why = Reason::Message { topic: "devices/eve".to_owned() };
    let mine = RecordingSpec { redaction: Some(redaction("text:bob=mask")), ..spec() };
    for (spec, tells_of_bob) in [(spec(), true), (mine, false)] {
        let info = flight.snapshot(&bench.store, spec, &why).unwrap().info;
        let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
        assert!(!shown.iter().any(|line| line.contains("eve")), "{shown:?}");
        assert_eq!(shown.iter().any(|line| line.contains("bob")), tells_of_bob, "{shown:?}");
        let mark = shown.iter().find(|line| line.contains("MARK")).unwrap();
        assert!(mark.ends_with("MARK a message on devices/*** that a trigger is for"), "{mark}");
    }
}

#[tokio::test]
async fn a_snapshot_says_what_is_in_pieces_or_overwritten() {
    let bench = Bench::new(|_| {});
    let spec = || RecordingSpec::new(RecordingSource::broker());
    let limits = RingLimits { bytes: 1 << 20, duration: Duration::from_secs(60) };
    let options = FlightOptions { limits, triggers: Vec::new(), cooldown: Duration::ZERO };
    let flight = FlightRecorder::start(&bench.tap, &spec(), options);
    let now = Instant::now();
    let raw = |bytes: &'static [u8]| {
        bench.tap.raw(now, ONE, Direction::ClientToServer, Bytes::from_static(bytes));
    };
    let notes = || flight.snapshot(&bench.store, spec(), &Reason::Said("test".to_owned())).unwrap().notes;
    bench.tap.open(now, ONE, None, Arc::default());
    bench.sent(ONE, CONNECT);
    raw(b"\x30\x0a\0\x04huge");
    assert_eq!(notes(), Vec::<String>::new());
    raw(b"rest");
    let in_pieces = "1 message longer than recorder.packet_bytes is in raw pieces: replays and CSV leave such messages out";
    assert_eq!(notes(), [in_pieces]);
    raw(CONNECT);
    let notes = notes();
    assert!(notes[0] == in_pieces && notes[1].starts_with("since the server began, in 1 piece"), "{notes:?}");
}

#[tokio::test]
async fn faults_are_recorded_where_they_happened() {
    let bench = Bench::new(|_| {});
    let recorder = bench.start(|spec| spec.filter.topics = vec![TopicFilter::parse("a/#").unwrap()]);
    let mut tail = recorder.tail();
    let now = Instant::now();
    let fault = |change: fn(&mut FaultInjected)| {
        let mut fault = sample::fault("drop", "{}");
        change(&mut fault);
        bench.tap.fault(now, TWO, || fault);
    };
    bench.sent(ONE, PINGREQ);
    fault(|_| {});
    fault(|fault| fault.topic = "b".to_owned());
    // An alias that nobody can tell.
    fault(|fault| fault.topic.clear());
    fault(|fault| {
        fault.packet_type = PacketType::Puback;
        fault.topic.clear();
        fault.sent = Some(Bytes::from_static(b"\x40"));
    });
    let info = recorder.stop().await.unwrap();
    let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
    assert_eq!(
        shown[3..7],
        ["4 2 OPEN already open", "5 2 FAULT drop ", "6 2 FAULT drop ", "7 2 FAULT drop @"]
    );
    let mut live = Vec::new();
    while let Ok(event) = tail.try_recv() {
        live.push(self::shown(&event));
    }
    assert_eq!(live, shown[1..]);
}

#[tokio::test]
async fn a_changed_connect_gives_its_password_away_only_if_asked_to() {
    for keep in [false, true] {
        let bench = Bench::new(|_| {});
        let recorder = bench.start(|spec| spec.keep_credentials = keep);
        bench.tap.fault(Instant::now(), ONE, || FaultInjected {
            packet_type: PacketType::Connect,
            // The flag that says that there is a password is gone, and so is its type.
            sent: Some([b"\x00\x1a\0\x04MQTT\x04\x82", &CONNECT[10..]].concat().into()),
            ..sample::fault("corrupt", "{}")
        });
        let info = recorder.stop().await.unwrap();
        let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
        assert_eq!(shown[2].contains("secret"), keep, "{shown:?}");
        assert!(shown[2].contains("MQTT"), "{shown:?}");
    }
}

#[tokio::test]
async fn only_wanted_topics_are_recorded_aliases_resolved() {
    let bench = Bench::new(|_| {});
    let recorder = bench.start(|spec| spec.filter.topics = vec![TopicFilter::parse("a/#").unwrap()]);
    bench.tap.open(Instant::now(), ONE, None, Arc::default());
    bench.sent(ONE, b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c");
    bench.sent(ONE, b"\x30\x0a\0\x03a/b\x03\x23\0\x01x");
    bench.sent(ONE, b"\x30\x0a\0\x03b/b\x03\x23\0\x02y");
    bench.sent(ONE, b"\x30\x07\0\0\x03\x23\0\x01X");
    bench.sent(ONE, b"\x30\x07\0\0\x03\x23\0\x02Y");
    // An alias that nobody can tell.
    bench.sent(ONE, b"\x30\x07\0\0\x03\x23\0\x09?");
    bench.sent(ONE, PINGREQ);
    let info = recorder.stop().await.unwrap();
    let last: Vec<u8> = bench
        .events(&info)
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Packet { bytes, .. } => bytes.last().copied(),
            _ => None,
        })
        .collect();
    assert_eq!(last, b"cxX?\0");
    assert_eq!(info.topics, ["a/#"]);
}

#[tokio::test]
async fn with_a_flush_interval_of_zero_everything_is_durable_before_it_is_passed_on() {
    let bench = Bench::new(|options| options.flush_interval = Duration::ZERO);
    let recorder = bench.start(|_| {});
    for _ in 0..5 {
        bench.sent(ONE, PINGREQ);
        bench.tap.ready().await;
        let (durable, events) = recorder.capture.with_sink(|sink| {
            let writer = sink.writer.as_ref().unwrap();
            (writer.durable_seq(), writer.info().events)
        });
        assert_eq!(durable, events);
    }
    recorder.stop().await.unwrap();
}

#[tokio::test]
async fn producers_wait_while_the_recorder_holds_as_much_as_it_may() {
    let bench = Bench::new(|options| options.recorder_memory = 20_000);
    let recorder = bench.start(|_| {});
    static LONG: [u8; 4000] = [0x30; 4000];
    let mut waited = false;
    for _ in 0..200 {
        bench.sent(ONE, &LONG);
        waited |= bench.tap.is_full();
        bench.tap.ready().await;
        assert!(!bench.tap.is_full());
    }
    assert!(waited, "the store was never behind");
    waited = false;
    for _ in 0..200 {
        let received = Some(Bytes::from_static(&LONG));
        let fault = FaultInjected { received, ..sample::fault("drop", "{}") };
        bench.tap.fault(Instant::now(), ONE, || fault);
        waited |= bench.tap.is_full();
        bench.tap.ready().await;
    }
    assert!(waited, "the bytes of faults are not counted");
    let info = recorder.stop().await.unwrap();
    assert_eq!(info.packets, 200);
    assert_eq!(bench.events(&info).len(), 403);
}

#[tokio::test]
async fn a_refused_write_fails_the_recording_and_lets_the_traffic_go_on() {
    let bench = Bench::new(|options| options.flush_interval = Duration::ZERO);
    let recorder = bench.start(|spec| spec.name = Some("full disk".to_owned()));
    bench.sent(ONE, PINGREQ);
    bench.tap.ready().await;
    bench.store.refuse_writes();
    bench.sent(ONE, PINGREQ);
    bench.tap.ready().await;
    recorder.failed().await;
    assert!(!bench.tap.is_observed());
    assert!(matches!(recorder.stop().await, Err(StoreError::Failed { .. })));
    let info = bench.store.find("full disk").unwrap();
    assert_eq!((info.state, info.events), (RecordingState::Failed, 3));
    assert_eq!(bench.events(&info).len(), 3);
}

#[tokio::test]
async fn a_recorder_that_is_dropped_leaves_an_interrupted_recording() {
    let bench = Bench::new(|_| {});
    let recorder = bench.start(|spec| spec.name = Some("gone".to_owned()));
    bench.sent(ONE, PINGREQ);
    drop(recorder);
    assert!(!bench.tap.is_observed());
    // Commands are answered in order, so the end was dealt with once this is.
    bench.start(|_| {}).stop().await.unwrap();
    let info = bench.store.find("gone").unwrap();
    assert_eq!((info.state, info.events), (RecordingState::Interrupted, 3));
}

#[tokio::test]
async fn what_was_in_force_comes_behind_who_was_connected_and_before_all_else() {
    let bench = Bench::new(|_| {});
    bench.tap.open(Instant::now(), ONE, None, Arc::default());
    let mut spec = RecordingSpec::new(RecordingSource::broker());
    spec.filter.topics = vec![TopicFilter::parse("a/#").unwrap()];
    let subscription = Subscription {
        filter: TopicFilter::parse("b/+").unwrap(),
        options: SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() },
    };
    let in_force = [
        InForce::subscriptions("c", vec![subscription], Some(7)),
        InForce::retained(publish(Some("a/b"), b"on", Vec::new())),
        InForce::retained(publish(Some("b/b"), b"off", Vec::new())),
    ];
    let recorder =
        Prepared::begin(&bench.store, spec).unwrap().attach(&bench.tap, in_force.into_iter().flatten());
    bench.sent(ONE, PINGREQ);
    let info = recorder.stop().await.unwrap();
    let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
    expect![[r#"
        1 0 ANCHOR 
        2 1 OPEN already open
        3 0 STATE \x82\x0b\x00\x01\x02\x0b\x07\x00\x03b/+\x01
        4 0 STATE 1\x08\x00\x03a/b\x00on
        5 1 PACKET \xc0\x00
        6 1 CLOSE recording_ended"#]]
    .assert_eq(&shown.join("\n"));
}

#[tokio::test]
async fn one_that_may_drop_counts_what_it_left_out_and_holds_up_nothing() {
    let bench = Bench::new(|options| {
        options.recorder_memory = 20_000;
        options.flush_interval = Duration::from_secs(60);
    });
    let recorder = bench.start(|spec| spec.on_overload = OnOverload::Drop);
    static LONG: [u8; 4000] = [0x30; 4000];
    bench.tap.open(Instant::now(), ONE, None, Arc::default());
    let mut sent = 0;
    // The store's thread writes meanwhile, so how many find room is not known.
    while recorder.info().packets == sent {
        bench.sent(ONE, &LONG);
        sent += 1;
        assert!(!bench.tap.is_full());
        bench.tap.ready().await;
    }
    let info = recorder.stop().await.unwrap();
    let events = bench.events(&info);
    let missing: u64 = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Gap { events, bytes } => {
                assert_eq!(bytes, events * LONG.len() as u64);
                Some(events)
            }
            _ => None,
        })
        .sum();
    assert!(missing > 0);
    assert_eq!((info.packets + missing, info.gaps), (sent, 1));
    let [.., gap, close] = &events[..] else { panic!("{} events", events.len()) };
    assert!(matches!((&gap.kind, &close.kind), (EventKind::Gap { .. }, EventKind::Close(_))));
}

#[tokio::test]
async fn only_wanted_clients_are_recorded_whole_and_numbered_without_holes() {
    let bench = Bench::new(|_| {});
    let recorder = bench.start(|spec| spec.filter.clients = vec![NamePattern::new("dev-*")]);
    let now = Instant::now();
    for (connection, connect) in [
        (ONE, b"\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05other"),
        (TWO, b"\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05dev-1"),
    ] {
        bench.tap.open(now, connection, None, Arc::default());
        bench.sent(connection, connect);
        bench.sent(connection, PINGREQ);
        bench.tap.close(now, connection, CloseCause::ClientFin);
    }
    let info = recorder.stop().await.unwrap();
    let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
    expect![[r#"
        1 0 ANCHOR 
        2 1 OPEN 
        3 1 PACKET \x10\x11\x00\x04MQTT\x04\x02\x00<\x00\x05dev-1
        4 1 PACKET \xc0\x00
        5 1 CLOSE client_fin"#]]
    .assert_eq(&shown.join("\n"));
}

#[tokio::test]
async fn a_long_message_stays_as_it_is_and_the_notes_say_that_it_is_in_pieces() {
    let bench = Bench::new(|_| {});
    let now = Instant::now();
    let raw = |bytes: &[u8]| {
        bench.tap.raw(now, ONE, Direction::ClientToServer, Bytes::copy_from_slice(bytes));
    };
    let topics = vec![TopicFilter::parse("small/#").unwrap()];
    let filter = crate::recording::EventFilter { topics, ..Default::default() };
    let (all, small) = (bench.start(|_| {}), bench.start(|spec| spec.filter = filter));
    bench.tap.open(now, ONE, None, Arc::default());
    bench.sent(ONE, CONNECT);
    // Every other piece looks like the beginning of a CONNECT.
    raw(b"\x30\x60\0\x04huge");
    for _ in 0..4 {
        raw(&[0x10; 20]);
    }
    raw(&[0x11; 10]);
    assert_eq!(
        all.notes(),
        [
            "1 message longer than recorder.packet_bytes is in raw pieces: replays and CSV leave such messages out"
        ]
    );
    assert_eq!(small.notes(), Vec::<String>::new());
    raw(CONNECT);
    expect!["in 1 piece of bytes that do not parse and may hold a password, it was overwritten (--keep-credentials keeps it)"]
        .assert_eq(&all.notes()[1]);
    let of_raw = |info: &RecordingInfo| -> Vec<u8> {
        let raw = bench.events(info).into_iter().filter_map(|event| match event.kind {
            EventKind::Raw { bytes, .. } => Some(bytes),
            _ => None,
        });
        raw.collect::<Vec<_>>().concat()
    };
    let bytes = of_raw(&all.stop().await.unwrap());
    assert_eq!(bytes[8..98], [[0x10; 80].as_slice(), &[0x11; 10]].concat());
    assert!(bytes.ends_with(b"redacted"));
    let bytes = of_raw(&small.stop().await.unwrap());
    assert!(bytes.starts_with(b"\x10") && bytes.len() == 30, "{bytes:?}");
}

#[tokio::test]
async fn a_gap_ends_a_long_message() {
    let bench = Bench::new(|_| {});
    let now = Instant::now();
    let raw = |bytes: &[u8]| {
        bench.tap.raw(now, ONE, Direction::ClientToServer, Bytes::copy_from_slice(bytes));
    };
    let recorder = bench.start(|_| {});
    bench.tap.open(now, ONE, None, Arc::default());
    bench.sent(ONE, CONNECT);
    raw(b"\x30\x60\0\x04huge");
    recorder.gap(0, 0);
    raw(CONNECT);
    let info = recorder.stop().await.unwrap();
    let last = bench.events(&info).into_iter().filter_map(|event| match event.kind {
        EventKind::Raw { bytes, .. } => Some(bytes),
        _ => None,
    });
    assert!(last.last().unwrap().ends_with(b"redacted"));
}
