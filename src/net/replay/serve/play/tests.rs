//! What is kept of what passes, and what cannot pass.

use tokio::net::TcpListener;

use super::*;
use crate::{
    net::{
        MqttUrl,
        replay::{VerifySpec, judge::Judge, remote::Remote},
    },
    recording::player::{Parts, Prompter, Speed},
    tap::Way,
    verification::{Identity, Judged, Level, Scope},
};

fn packet(text: &str) -> ControlPacket {
    ControlPacket::parse_text(text, ProtocolVersion::V5).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A stage on which whatever is not recorded is passed on, and that is everything.
fn stage() -> Stage {
    let now = Instant::now();
    let spec = VerifySpec::new(Level::Packets);
    let judge = Judge::new(&spec, Judged::FromClients, Identity::Session, Scope::default(), now);
    let way = Way { listener: None, transport: "tcp", upstream: None };
    let target: MqttUrl = "mqtt://127.0.0.1:1".parse().expect("it is one");
    Stage::new(
        Parts::default(),
        Prompter::new(Speed::Max, now),
        Some(Arc::new(judge)),
        (way, OnMiss::Passthrough, target),
        false,
        Arc::new(Remote::new(Arc::default())),
    )
}

async fn stranger(stage: &Stage) -> Play<'_> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let stream = TcpStream::connect(address).await.expect("it listens");
    let ControlPacket::Connect(connect) = packet("CONNECT stranger v=5") else { panic!("it is one") };
    let seat = stage.seat(&connect).await;
    Play::new(stage, Wire::new(stage, stream), (ConnectionId(1), address), connect, seat)
}

#[tokio::test]
async fn what_the_target_sends_is_not_kept_for_whoever_judges() {
    let stage = stage();
    let mut play = stranger(&stage).await;
    for text in ["PUBLISH t x", "PUBLISH t qos=1 id=1 x", "PUBLISH t qos=2 id=1 x"] {
        let ControlPacket::Publish(publish) = packet(text) else { panic!("it is one") };
        let waiting = Waiting { publish: Box::new(publish), deadline: None, is_passed: true };
        play.deliver(waiting).expect("it is written later");
    }
    for text in ["PUBACK 1", "PUBREC 2", "PUBCOMP 2"] {
        play.hear(Frame { packet: packet(text), bytes: Bytes::new() }).expect("it goes on");
    }
    assert!(play.session.is_idle());
    assert!(play.unreported.is_some_and(|unreported| unreported.is_empty()));
}

#[tokio::test]
async fn an_answer_that_cannot_be_given_ends_the_connection_and_is_a_failure() {
    let stage = stage();
    let mut play = stranger(&stage).await;
    // Before its CONNECT is heard, a client is one of MQTT 3.1.1.
    let ending = play.put(&packet("AUTH 0x19 auth_method=x")).expect_err("it has no AUTH");
    assert_eq!(ending.cause, CloseCause::ServerFin);
    let figures = stage.figures();
    assert!(figures.fell_short && figures.errors.len() == 1, "{:?}", figures.errors);
}
