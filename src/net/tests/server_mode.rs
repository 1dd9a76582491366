//! Recordings played as the server, to clients that behave and others.

use bytes::BytesMut;
use tokio::net::TcpListener;

use super::*;
use crate::{
    net::replay::{
        Command, EventSource, OnMiss, ReplayHandle, ReplayOutcome, ReplayReport, ReplaySpec, VerifySpec,
        start,
    },
    packet::Ack,
    recording::{
        player::{Pace, Speed},
        sample::script,
    },
    verification::Level,
};

/// A replay, and who comes.
struct Play {
    handle: ReplayHandle,
    address: SocketAddr,
}

impl Play {
    fn start(text: &str, adjust: impl FnOnce(&mut ReplaySpec)) -> Self {
        let events = script(text);
        let source: EventSource = Arc::new(move || Ok(Box::new(events.clone().into_iter().map(Ok))));
        let mut spec = ReplaySpec::new(source, url(SocketAddr::from(([127, 0, 0, 1], 1))));
        spec.mode = crate::net::replay::Mode::Server;
        spec.pace = Pace { speed: Speed::Max, ..Pace::default() };
        adjust(&mut spec);
        let handle = start(spec).expect("a thread");
        let address = handle.address().expect("it listens");
        Self { handle, address }
    }

    /// A client that has said its first packet.
    async fn client(&self, connect: &str) -> Raw {
        let mut raw = Raw::connect(self.address).await;
        let protocol = match connect.contains("v=4") {
            true => ProtocolVersion::V311,
            false => ProtocolVersion::V5,
        };
        raw.frames.set_protocol(protocol);
        raw.send(packet(&format!("CONNECT {connect}")), protocol).await;
        raw
    }

    /// No more clients come.
    async fn finish(self) -> Arc<ReplayReport> {
        self.handle.finish();
        self.ended().await
    }

    async fn ended(self) -> Arc<ReplayReport> {
        soon(self.handle.wait()).await
    }
}

impl Raw {
    async fn says(&mut self, text: &str) {
        self.send(packet(text), ProtocolVersion::V5).await;
    }

    /// The next packet, or that the connection has ended.
    async fn hears(&mut self) -> String {
        self.packet().await.map_or("the end".to_owned(), |packet| packet.to_string())
    }
}

fn packet(text: &str) -> ControlPacket {
    ControlPacket::parse_text(text, ProtocolVersion::V5).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn verify(spec: &mut ReplaySpec) {
    spec.verify = Some(VerifySpec { settle: Duration::ZERO, ..VerifySpec::new(Level::Packets) });
}

/// A device with a session that is commanded over two connections.
const DEVICE: &str = "
    1 open
    1 c2s CONNECT dev v=5 clean=false session_expiry=60
    1 s2c CONNACK session_present=false
    1 c2s SUBSCRIBE 1 cmd qos=2
    1 s2c SUBACK 1 0x02
    1 s2c PUBLISH cmd qos=1 id=1 one
    1 s2c PUBLISH cmd qos=2 id=2 two
    1 s2c PUBLISH cmd qos=0 three
    1 c2s PUBACK 1
    1 c2s PUBREC 2
    1 s2c PUBREL 2
    1 c2s PUBCOMP 2
    1 c2s DISCONNECT
    1 close client_fin
    2 open
    2 c2s CONNECT dev v=5 clean=false session_expiry=60
    2 s2c CONNACK session_present=true
    2 c2s PUBLISH up qos=2 id=7 done
    2 s2c PUBREC 7 0x10
    2 c2s PUBREL 7
    2 s2c PUBCOMP 7
    2 c2s DISCONNECT
    2 close client_fin";

const SESSION: &str = "dev v=5 clean=false session_expiry=60";

#[tokio::test]
async fn what_a_client_has_not_acknowledged_goes_on_over_its_next_connection() {
    let play = Play::start(DEVICE, |_| {});
    let mut first = play.client(&format!("{SESSION} receive_maximum=1")).await;
    assert_eq!(first.hears().await, "CONNACK session_present=false");
    first.says("SUBSCRIBE 9 cmd qos=2").await;
    assert_eq!(first.hears().await, "SUBACK 9 0x02");
    assert_eq!(first.hears().await, "PUBLISH cmd qos=1 id=1 \"one\"");
    assert_eq!(first.hears().await, "PUBLISH cmd \"three\"", "of QoS 0, nothing holds it back");
    first.says("PUBACK 1").await;
    assert_eq!(first.hears().await, "PUBLISH cmd qos=2 id=2 \"two\"");
    drop(first);
    let mut second = play.client(&format!("{SESSION} receive_maximum=1")).await;
    assert_eq!(second.hears().await, "CONNACK session_present=true");
    assert_eq!(second.hears().await, "PUBLISH cmd qos=2 id=2 dup=true \"two\"");
    second.says("PUBREC 2").await;
    assert_eq!(second.hears().await, "PUBREL 2");
    // Twice, as one does that has not heard it.
    second.says("PUBREC 2").await;
    assert_eq!(second.hears().await, "PUBREL 2");
    second.says("PUBCOMP 2").await;
    second.says("PUBLISH up qos=2 id=3 done").await;
    assert_eq!(second.hears().await, "PUBREC 3 0x10");
    second.says("PUBLISH up qos=2 id=3 dup=true done").await;
    assert_eq!(second.hears().await, "PUBREC 3");
    second.says("PUBREL 3").await;
    assert_eq!(second.hears().await, "PUBCOMP 3");
    second.says("DISCONNECT").await;
    assert_eq!(second.hears().await, "the end");
    let report = play.ended().await;
    assert_eq!(report.outcome, ReplayOutcome::Passed, "{report:#?}");
    assert_eq!((report.played, report.sent, report.acked), (2, 3, 2));
}

#[tokio::test]
async fn messages_that_were_due_after_their_client_left_wait_for_it() {
    let slow = |spec: &mut ReplaySpec| spec.pace.speed = Speed::Factor(0.001);
    let play = Play::start(DEVICE, slow);
    let mut first = play.client(SESSION).await;
    first.says("SUBSCRIBE 9 cmd qos=2").await;
    for heard in ["CONNACK session_present=false", "SUBACK 9 0x02"] {
        assert_eq!(first.hears().await, heard);
    }
    first.says("DISCONNECT").await;
    assert_eq!(first.hears().await, "the end");
    let mut second = play.client(SESSION).await;
    for heard in
        ["CONNACK session_present=true", "PUBLISH cmd qos=1 id=1 \"one\"", "PUBLISH cmd qos=2 id=2 \"two\""]
    {
        assert_eq!(second.hears().await, heard);
    }
    drop(second);
    let report = play.finish().await;
    let late = "1 message came too late: its client had left".to_owned();
    assert!(report.warnings.contains(&late), "{report:#?}");
}

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    let play = Play::start(DEVICE, |_| {});
    let mut first = play.client(SESSION).await;
    first.says("SUBSCRIBE 9 cmd qos=2").await;
    for heard in [
        "CONNACK session_present=false",
        "SUBACK 9 0x02",
        "PUBLISH cmd qos=1 id=1 \"one\"",
        "PUBLISH cmd qos=2 id=2 \"two\"",
        "PUBLISH cmd \"three\"",
    ] {
        assert_eq!(first.hears().await, heard);
    }
    let mut second = play.client(SESSION).await;
    for heard in [
        "CONNACK session_present=true",
        "PUBLISH cmd qos=1 id=1 dup=true \"one\"",
        "PUBLISH cmd qos=2 id=2 dup=true \"two\"",
    ] {
        assert_eq!(second.hears().await, heard);
    }
    for heard in ["DISCONNECT 0x8e", "the end"] {
        assert_eq!(first.hears().await, heard);
    }
    drop(second);
    play.finish().await;
}

#[tokio::test]
async fn a_client_that_asks_for_a_clean_start_has_no_session() {
    let play = Play::start(DEVICE, |_| {});
    let mut first = play.client(SESSION).await;
    first.says("SUBSCRIBE 9 cmd qos=2").await;
    for heard in ["CONNACK session_present=false", "SUBACK 9 0x02", "PUBLISH cmd qos=1 id=1 \"one\""] {
        assert_eq!(first.hears().await, heard);
    }
    drop(first);
    let mut second = play.client("dev v=5").await;
    assert_eq!(second.hears().await, "CONNACK session_present=false");
    second.says("PINGREQ").await;
    assert_eq!(second.hears().await, "PINGRESP");
    drop(second);
    play.finish().await;
}

/// A server that limits its client.
const LIMITS: &str = "
    1 open
    1 c2s CONNECT dev v=5 keep_alive=600
    1 s2c CONNACK session_present=false server_keep_alive=1 topic_alias_maximum=2 maximum_qos=1
    1 c2s PUBLISH up one
    1 s2c PUBLISH cmd \"a long payload of thirty-four bytes\"
    1 s2c PUBLISH cmd short
    1 c2s DISCONNECT
    1 close client_fin";

/// What a client hears after its CONNECT and `says`, to the end, and how it is judged.
async fn against(text: &str, connect: &str, says: &[&str]) -> (Vec<String>, Arc<ReplayReport>) {
    let play = Play::start(text, verify);
    let mut client = play.client(connect).await;
    for text in says {
        client.says(text).await;
    }
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "the end") {
        heard.push(client.hears().await);
    }
    (heard[1..].to_vec(), play.finish().await)
}

#[tokio::test]
async fn what_is_against_the_protocol_is_answered_with_its_reason() {
    let cases: &[(&str, &str)] = &[
        ("PUBLISH up alias=3 one", "DISCONNECT 0x94"),
        ("PUBLISH \"\" alias=1 one", "DISCONNECT 0x82"),
        ("PUBLISH up qos=2 id=1 one", "DISCONNECT 0x9b"),
        ("CONNECT dev v=5", "DISCONNECT 0x82"),
        ("SUBACK 1 0x00", "DISCONNECT 0x82"),
        ("AUTH 0x19 auth_method=x", "DISCONNECT 0x82"),
    ];
    for (says, reason) in cases {
        let (heard, report) = against(LIMITS, "dev v=5", &[says]).await;
        assert_eq!(heard, [*reason, "the end"], "{says}");
        assert_eq!(report.outcome, ReplayOutcome::Different, "{says}: {report:#?}");
    }
    let play = Play::start(LIMITS, verify);
    let mut client = play.client("dev v=5").await;
    client.write(b"\x31\x02\xff\xff").await;
    client.hears().await;
    assert_eq!(client.hears().await, "DISCONNECT 0x81");
    assert_eq!(client.hears().await, "the end");
    let report = play.finish().await;
    let verdict = report.verdict.as_ref().expect("it was asked for");
    // Not as a client that went away.
    let texts: Vec<_> = verdict.differences.iter().filter_map(|one| one.observed.as_ref()).collect();
    assert!(texts.iter().any(|told| told.text == "4 bytes that are no packet"), "{texts:#?}");
}

#[tokio::test]
async fn aliases_that_the_recorded_server_offered_are_known() {
    let play = Play::start(LIMITS, |_| {});
    let mut client = play.client("dev v=5 keep_alive=600 maximum_packet_size=30").await;
    client.hears().await;
    client.says("PUBLISH up alias=1 one").await;
    assert_eq!(client.hears().await, "PUBLISH cmd \"short\"", "the long one is over the client's maximum");
    client.says("PUBLISH \"\" alias=1 two").await;
    client.says("DISCONNECT").await;
    assert_eq!(client.hears().await, "the end");
    let report = play.ended().await;
    assert!(report.warnings.contains(&"1 message is longer than its client takes".to_owned()), "{report:#?}");
    assert_eq!(report.missed, 1, "the second is not in the recording: {report:#?}");
}

#[tokio::test]
async fn a_silent_client_is_cut_by_the_keep_alive_of_the_server() {
    let (heard, _) = against(LIMITS, "dev v=5 keep_alive=600", &[]).await;
    assert_eq!(heard, ["DISCONNECT 0x8d", "the end"]);
}

#[tokio::test]
async fn a_port_that_is_tried_out_is_no_client() {
    let play = Play::start(LIMITS, verify);
    drop(Raw::connect(play.address).await);
    let mut noise = Raw::connect(play.address).await;
    noise.write(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(noise.read_to_end().await, b"");
    let mut client = play.client("dev v=5 keep_alive=600").await;
    client.says("PUBLISH up one").await;
    for _ in 0..3 {
        client.hears().await;
    }
    client.says("DISCONNECT").await;
    assert_eq!(client.hears().await, "the end");
    let report = play.ended().await;
    assert_eq!(report.outcome, ReplayOutcome::Passed, "{report:#?}");
    assert_eq!(report.warnings, ["2 connections came without a CONNECT"]);
}

/// Two subscribers, one of whom gets the Will of the other.
const WILL: &str = "
    1 open
    1 c2s CONNECT app v=5
    1 s2c CONNACK session_present=false
    1 c2s SUBSCRIBE 1 status/# qos=0
    1 s2c SUBACK 1 0x00
    2 open
    2 c2s CONNECT dev v=5 will=status/dev:gone
    2 s2c CONNACK session_present=false
    2 close client_rst
    1 s2c PUBLISH status/dev gone
    1 c2s DISCONNECT
    1 close client_fin";

#[tokio::test]
async fn a_will_is_delivered_after_what_its_receiver_did() {
    let play = Play::start(WILL, verify);
    let mut app = play.client("app v=5").await;
    app.says("SUBSCRIBE 5 status/# qos=0").await;
    for heard in ["CONNACK session_present=false", "SUBACK 5 0x00", "PUBLISH status/dev \"gone\""] {
        assert_eq!(app.hears().await, heard);
    }
    let mut dev = play.client("dev v=5 will=status/dev:gone").await;
    dev.hears().await;
    drop(dev);
    app.says("DISCONNECT").await;
    assert_eq!(app.hears().await, "the end");
    let report = play.ended().await;
    assert_eq!(report.outcome, ReplayOutcome::Passed, "{report:#?}");
}

#[tokio::test]
async fn deliveries_are_held_stepped_and_let_go() {
    let play = Play::start(WILL, |_| {});
    play.handle.command(Command::Pause);
    let mut app = play.client("app v=5").await;
    app.says("SUBSCRIBE 5 status/# qos=0").await;
    for heard in ["CONNACK session_present=false", "SUBACK 5 0x00"] {
        assert_eq!(app.hears().await, heard);
    }
    app.says("PINGREQ").await;
    assert_eq!(app.hears().await, "PINGRESP", "the delivery is held");
    play.handle.command(Command::Burst(1));
    assert_eq!(app.hears().await, "PUBLISH status/dev \"gone\"");
    drop(app);
    assert_eq!(play.finish().await.outcome, ReplayOutcome::Incomplete);
}

#[tokio::test]
async fn who_plays_nothing_passes_nothing() {
    let play = Play::start(LIMITS, verify);
    let mut stranger = play.client("other v=5").await;
    assert_eq!(stranger.hears().await, "CONNACK session_present=false");
    stranger.says("PUBLISH up qos=1 id=1 one").await;
    assert_eq!(stranger.hears().await, "PUBACK 1");
    drop(stranger);
    let report = play.finish().await;
    assert_eq!((report.outcome.clone(), report.played), (ReplayOutcome::Nothing, 0), "{report:#?}");
    let empty = Play::start("", |_| {}).ended().await;
    assert_eq!(empty.outcome, ReplayOutcome::Nothing);
}

#[tokio::test]
async fn where_nothing_may_be_played_something_else_still_differs() {
    let lenient = |spec: &mut ReplaySpec| {
        verify(spec);
        spec.allow_empty = true;
    };
    let report = Play::start(LIMITS, lenient).finish().await;
    assert_eq!((&report.outcome, report.errors.len()), (&ReplayOutcome::Passed, 0), "{report:#?}");
    let play = Play::start(LIMITS, lenient);
    let mut stranger = play.client("other v=5").await;
    stranger.hears().await;
    stranger.says("PUBLISH up qos=1 id=1 one").await;
    assert_eq!(stranger.hears().await, "PUBACK 1");
    drop(stranger);
    let report = play.finish().await;
    assert_eq!((&report.outcome, report.played), (&ReplayOutcome::Different, 0), "{report:#?}");
}

#[tokio::test]
async fn what_is_cut_before_its_end_fails() {
    // A message is due after minutes, and the client's own end does not come.
    let commanded = "
        1 open
        1 c2s CONNECT dev v=5
        1 s2c CONNACK session_present=false
        1 c2s SUBSCRIBE 1 cmd qos=1
        1 s2c SUBACK 1 0x01
        1 s2c PUBLISH cmd qos=1 id=1 x";
    let ending = format!("{commanded}\n1 c2s PUBACK 1\n1 c2s DISCONNECT\n1 close client_fin");
    let cases = [
        (commanded, 0.00001, "recorded connection was not made to its end: 1 message was not sent"),
        (ending.as_str(), 1.0, "recorded connection was not made to its end"),
    ];
    for (text, speed, error) in cases {
        for level in [None, Some(Level::Payload)] {
            let play = Play::start(text, |spec| {
                spec.pace.speed = Speed::Factor(speed);
                spec.verify =
                    level.map(|level| VerifySpec { settle: Duration::ZERO, ..VerifySpec::new(level) });
            });
            let mut client = play.client("dev v=5").await;
            client.says("SUBSCRIBE 1 cmd qos=1").await;
            client.hears().await;
            assert_eq!(client.hears().await, "SUBACK 1 0x01");
            if speed == 1.0 {
                assert_eq!(client.hears().await, "PUBLISH cmd qos=1 id=1 \"x\"");
                client.says("PUBACK 1").await;
            }
            let report = play.finish().await;
            assert_eq!((&report.outcome, report.cut_short), (&ReplayOutcome::Incomplete, 1), "{report:#?}");
            assert_eq!(report.errors, [format!("1 {error}")], "{report:#?}");
            assert_eq!(report.warnings, [""; 0], "{report:#?}");
        }
    }
}

#[tokio::test]
async fn who_was_refused_is_refused_as_often_as_it_comes() {
    let text = "
        1 open
        1 c2s CONNECT dev v=5
        1 s2c CONNACK 0x87
        1 close server_fin
        2 open
        2 c2s CONNECT app v=5
        2 s2c CONNACK session_present=false
        2 c2s DISCONNECT
        2 close client_fin";
    for adjust in [|_: &mut ReplaySpec| {}, verify] {
        let play = Play::start(text, adjust);
        for _ in 0..2 {
            let mut client = play.client("dev v=5").await;
            assert_eq!(client.hears().await, "CONNACK session_present=false 0x87");
            assert_eq!(client.hears().await, "the end");
        }
        let mut app = play.client("app v=5").await;
        app.hears().await;
        app.says("DISCONNECT").await;
        assert_eq!(app.hears().await, "the end");
        let report = play.ended().await;
        assert_eq!((&report.outcome, report.lacking), (&ReplayOutcome::Passed, 0), "{report:#?}");
        assert_eq!((&report.errors[..], &report.warnings[..]), (&[][..], &[][..]), "{report:#?}");
    }
}

#[tokio::test]
async fn what_is_done_after_the_end_of_the_recording_neither_fails_nor_goes_on() {
    let text = "
        1 open
        1 c2s CONNECT dev v=5
        1 s2c CONNACK session_present=false
        1 c2s PUBLISH up qos=1 id=1 one
        1 s2c PUBACK 1
        1 s2c PUBLISH cmd qos=1 id=1 x
        1 c2s PUBACK 1";
    for on_miss in [OnMiss::Ignore, OnMiss::Fail, OnMiss::Disconnect] {
        let play = Play::start(text, |spec| {
            verify(spec);
            spec.verify.as_mut().expect("it was asked for").settle = Duration::from_millis(300);
            spec.on_miss = on_miss;
        });
        let mut client = play.client("dev v=5").await;
        client.hears().await;
        client.says("PUBLISH up qos=1 id=1 one").await;
        assert_eq!(client.hears().await, "PUBACK 1");
        assert_eq!(client.hears().await, "PUBLISH cmd qos=1 id=1 \"x\"");
        client.says("PUBACK 1").await;
        // It never stops, one answer after the other.
        loop {
            client.says("PUBLISH up qos=2 id=2 more").await;
            match client.hears().await.as_str() {
                "PUBREC 2" => client.says("PUBREL 2").await,
                other => break assert_eq!(other, "DISCONNECT 0x8b"),
            }
            match client.hears().await.as_str() {
                "PUBCOMP 2" => tokio::time::sleep(Duration::from_millis(10)).await,
                other => break assert_eq!(other, "DISCONNECT 0x8b"),
            }
        }
        let report = play.ended().await;
        assert_eq!((&report.outcome, report.missed), (&ReplayOutcome::Passed, 0), "{on_miss:?}: {report:#?}");
    }
    let play = Play::start(text, verify);
    let mut client = play.client("dev v=5").await;
    client.says("PUBLISH up qos=1 id=1 one").await;
    for heard in ["CONNACK session_present=false", "PUBACK 1", "PUBLISH cmd qos=1 id=1 \"x\""] {
        assert_eq!(client.hears().await, heard);
    }
    client.says("PUBACK 1").await;
    client.says("DISCONNECT").await;
    assert_eq!(client.hears().await, "the end");
    assert_eq!(play.ended().await.outcome, ReplayOutcome::Passed, "it may go, too");
}

/// A target that answers its CONNECT and nothing else.
async fn silent_target() -> (SocketAddr, tokio::task::JoinHandle<Vec<ControlPacket>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let target = tokio::spawn(async move {
        let (stream, _) = soon(listener.accept()).await.expect("somebody comes");
        let mut target = Raw::new(stream);
        target.frames.set_protocol(ProtocolVersion::V5);
        target.packet().await;
        target.write(b"\x20\x03\x00\x00\x00").await;
        let mut heard = Vec::new();
        while let Some(packet) = target.packet().await {
            let is_last = matches!(&packet, ControlPacket::Publish(publish) if publish.payload == "last");
            heard.push(packet);
            if is_last {
                break;
            }
        }
        heard
    });
    (address, target)
}

#[tokio::test]
async fn a_target_that_does_not_answer_holds_nothing_up() {
    let (address, target) = silent_target().await;
    let play = Play::start(LIMITS, |spec| {
        verify(spec);
        (spec.on_miss, spec.target) = (OnMiss::Passthrough, url(address));
    });
    let mut client = play.client("dev v=5 keep_alive=600").await;
    client.hears().await;
    // More than may wait: the target is asked as they come, and pings are answered meanwhile.
    client.says("PUBLISH other alias=1 qos=1 id=1 first").await;
    client.says("PUBLISH other last").await;
    client.says("PINGREQ").await;
    assert_eq!(client.hears().await, "PINGRESP");
    client.says("PUBLISH up one").await;
    let heard: Vec<String> =
        soon(target).await.expect("no panic").iter().map(ControlPacket::to_string).collect();
    assert_eq!(heard, ["PUBLISH other qos=1 id=1 \"first\"", "PUBLISH other \"last\""], "without the alias");
    // The target is gone as soon as it has heard the last: what it was asked is not answered as if it had said so.
    let said = [client.hears().await, client.hears().await, client.hears().await];
    for wanted in ["PUBACK 1 0x80", "PUBLISH cmd \"a long payload of thirty-four bytes\""] {
        assert!(said.iter().any(|said| said == wanted), "{wanted} is not in {said:?}");
    }
    client.says("DISCONNECT").await;
    assert_eq!(client.hears().await, "the end");
    let report = play.ended().await;
    assert_eq!((report.missed, report.unsent), (2, 1), "{report:#?}");
    let verdict = report.verdict.as_ref().expect("it was asked for");
    assert_eq!(verdict.difference_count(), 0, "what was passed on is not judged: {verdict:#?}");
}

#[tokio::test]
async fn a_target_that_goes_away_ends_who_has_subscribed_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let play = Play::start(LIMITS, |spec| {
        (spec.on_miss, spec.target) = (OnMiss::Passthrough, url(address));
    });
    let mut client = play.client("dev v=5 keep_alive=600").await;
    client.hears().await;
    client.says("SUBSCRIBE 1 other qos=1").await;
    let (stream, _) = soon(listener.accept()).await.expect("somebody comes");
    let mut target = Raw::new(stream);
    target.frames.set_protocol(ProtocolVersion::V5);
    target.packet().await;
    target.says("CONNACK session_present=false").await;
    assert!(matches!(target.packet().await, Some(ControlPacket::Subscribe(_))));
    target.says("SUBACK 1 0x01").await;
    assert_eq!(client.hears().await, "SUBACK 1 0x01");
    drop(target);
    assert_eq!(client.hears().await, "the end");
    let report = play.finish().await;
    assert_eq!((&report.outcome, report.errors.len()), (&ReplayOutcome::Incomplete, 1), "{report:#?}");
}

#[tokio::test]
async fn what_need_not_be_asked_need_not_be_done() {
    for level in [Level::Count, Level::Payload, Level::Packets] {
        for (payload, outcome) in [("done", ReplayOutcome::Passed), ("other", ReplayOutcome::Different)] {
            let play = Play::start(DEVICE, |spec| {
                spec.verify = Some(VerifySpec { settle: Duration::ZERO, ..VerifySpec::new(level) });
                spec.on_miss = OnMiss::Passthrough;
            });
            // Of the first connection only the CONNECT, and all of the second.
            let mut first = play.client(SESSION).await;
            first.hears().await;
            first.says("DISCONNECT").await;
            assert_eq!(first.hears().await, "the end");
            let mut second = play.client(SESSION).await;
            assert_eq!(second.hears().await, "CONNACK session_present=true");
            second.says(&format!("PUBLISH up qos=2 id=3 {payload}")).await;
            assert_eq!(second.hears().await, "PUBREC 3 0x10");
            second.says("PUBREL 3").await;
            assert_eq!(second.hears().await, "PUBCOMP 3");
            second.says("DISCONNECT").await;
            assert_eq!(second.hears().await, "the end");
            let report = play.finish().await;
            let outcome = if level == Level::Count { ReplayOutcome::Passed } else { outcome.clone() };
            assert_eq!((&report.outcome, report.lacking), (&outcome, 1), "{level:?} {payload}: {report:#?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_is_faster_than_the_target_waits() {
    let broker = TestBroker::new();
    let text = "
        1 open
        1 c2s CONNECT dev v=4
        1 s2c CONNACK session_present=false
        1 c2s PUBLISH up one";
    let play = Play::start(text, |spec| {
        (spec.on_miss, spec.target) = (OnMiss::Passthrough, url(broker.address));
    });
    let mut client = play.client("dev v=4").await;
    assert_eq!(client.hears().await, "CONNACK session_present=false");
    // All of them at once, and to nobody else: each comes back.
    let mut packets = vec!["SUBSCRIBE 1 other qos=1".to_owned()];
    packets.extend((2..=400).map(|number| format!("PUBLISH other qos=1 id={number} x")));
    let mut bytes = BytesMut::new();
    for text in packets {
        packet(&text).encode(ProtocolVersion::V311, &mut bytes).expect("it is a packet");
    }
    client.write(&bytes).await;
    let (mut acks, mut messages) = (0, 0);
    while acks + messages < 2 * 399 {
        match client.packet().await.expect("it stays connected") {
            ControlPacket::Puback(_) => acks += 1,
            ControlPacket::Publish(publish) => {
                messages += 1;
                let ack = ControlPacket::Puback(Ack::new(publish.packet_identifier.expect("of QoS 1")));
                client.send(ack, ProtocolVersion::V311).await;
            }
            other => assert_eq!(other.to_string(), "SUBACK 1 0x01"),
        }
    }
    client.send(packet("DISCONNECT"), ProtocolVersion::V311).await;
    let report = play.finish().await;
    assert_eq!((acks, messages, report.unsent, report.missed), (399, 399, 0, 400), "{report:#?}");
}

#[tokio::test]
async fn what_the_target_answers_and_sends_comes_back() {
    let broker = TestBroker::new();
    let play = Play::start(LIMITS, |spec| {
        verify(spec);
        (spec.on_miss, spec.target) = (OnMiss::Passthrough, url(broker.address));
    });
    let mut client = play.client("dev v=5 keep_alive=600").await;
    client.hears().await;
    client.says("SUBSCRIBE 3 other qos=1").await;
    assert_eq!(client.hears().await, "SUBACK 3 0x01");
    client.says("PUBLISH other qos=1 id=4 x").await;
    let mut heard = [client.hears().await, client.hears().await];
    heard.sort();
    assert_eq!(heard, ["PUBACK 4", "PUBLISH other qos=1 id=1 \"x\""]);
    client.says("PUBACK 1").await;
    client.says("UNSUBSCRIBE 5 other").await;
    assert_eq!(client.hears().await, "UNSUBACK 5 0x00");
    client.says("PUBLISH up one").await;
    for _ in 0..2 {
        client.hears().await;
    }
    client.says("DISCONNECT").await;
    assert_eq!(client.hears().await, "the end");
    let report = play.ended().await;
    assert_eq!((&report.outcome, report.missed), (&ReplayOutcome::Passed, 3), "{report:#?}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_nobody_up() {
    let mut text = "1 open\n1 c2s CONNECT slow v=5\n1 s2c CONNACK session_present=false\n".to_owned();
    // More than all buffers on the way.
    let payload = "x".repeat(1 << 20);
    for _ in 0..32 {
        text += &format!("1 s2c PUBLISH cmd {payload}\n");
    }
    text += "2 open\n2 c2s CONNECT dev v=5\n2 s2c CONNACK session_present=false\n2 s2c PUBLISH cmd x\n";
    let play = Play::start(&text, |_| {});
    let slow = play.client("slow v=5").await;
    let mut dev = play.client("dev v=5").await;
    assert_eq!(dev.hears().await, "CONNACK session_present=false");
    assert_eq!(dev.hears().await, "PUBLISH cmd \"x\"");
    drop((slow, dev));
    let report = play.finish().await;
    assert!(report.warnings.iter().any(|text| text.ends_with("their clients had left")), "{report:#?}");
}

#[tokio::test]
async fn a_recording_that_began_with_the_client_connected_takes_any_connect() {
    let play = Play::start("", |spec| {
        verify(spec);
        let mut events = script(
            "1 open
             1 c2s PUBLISH up one
             1 s2c PUBLISH cmd x
             1 c2s DISCONNECT
             1 close client_fin",
        );
        events[0].kind = crate::recording::EventKind::Open(Box::new(crate::recording::ConnectionInfo {
            already_open: true,
            client_identifier: Some("dev".to_owned()),
            protocol: Some(ProtocolVersion::V5),
            ..Default::default()
        }));
        spec.events = Arc::new(move || Ok(Box::new(events.clone().into_iter().map(Ok))));
    });
    let mut client = play.client("dev v=5 keep_alive=7").await;
    assert_eq!(client.hears().await, "CONNACK session_present=false");
    client.says("PUBLISH up one").await;
    assert_eq!(client.hears().await, "PUBLISH cmd \"x\"");
    client.says("DISCONNECT").await;
    assert_eq!(client.hears().await, "the end");
    let report = play.ended().await;
    assert_eq!(report.outcome, ReplayOutcome::Passed, "{report:#?}");
    assert_eq!(report.verdict.as_ref().expect("it was asked for").matched, 2);
}
