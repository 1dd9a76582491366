//! Passwords that are checked while the broker goes on.

use super::*;
use crate::auth::{Access, Accounts, UserSpec, tests::quick_hash};

/// A broker that lets in nobody but `alice`, whose password is `secret`.
fn broker() -> TestBroker {
    let alice = UserSpec {
        username: "alice".to_owned(),
        password_hash: Some(quick_hash("secret")),
        ..UserSpec::default()
    };
    let accounts = Accounts::new(&[alice], None).expect("good users");
    let access = Access { allow_anonymous: false, accounts, ..Access::default() };
    let options = Options { access, ..Options::from(Limits::default()) };
    TestBroker::start_under("[]", options, ConnectionLimits::default())
}

/// CONNECT of `alice`, with what is sent behind it at once.
fn stream(name: &str, password: &str) -> Vec<u8> {
    let packets = [
        format!("CONNECT {name} username=alice password={password}"),
        "SUBSCRIBE 1 t".to_owned(),
        "PUBLISH t qos=1 id=2 \"x\"".to_owned(),
        "PINGREQ".to_owned(),
    ];
    let mut stream = Vec::new();
    for text in packets {
        let packet = text.parse().expect("a packet");
        stream.extend_from_slice(&Frame::encode(packet, ProtocolVersion::V5).expect("encodes").bytes);
    }
    stream
}

/// An observer that has to be waited for.
struct Strict(Log);

impl Observer for Strict {
    fn observe(&self, observation: &Observation) {
        self.0.observe(observation);
    }

    fn is_strict(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn what_is_sent_behind_a_connect_waits_for_the_password_however_it_is_cut_and_observed() {
    for is_observed in [false, true] {
        let broker = broker();
        let log = Arc::new(Strict(Log::default()));
        let _attachment = is_observed.then(|| broker.tap.attach(log.clone()));
        let stream = stream("one", "secret");
        for piece in [1, 7, 20, 40, stream.len()] {
            let mut raw = broker.raw().await;
            raw.frames.set_protocol(ProtocolVersion::V5);
            for piece in stream.chunks(piece) {
                raw.write(piece).await;
            }
            let mut heard = Vec::new();
            for _ in 0..5 {
                heard.push(raw.packet().await.expect("an answer").name());
            }
            assert_eq!(
                heard,
                ["CONNACK", "SUBACK", "PUBLISH", "PUBACK", "PINGRESP"],
                "{piece} {is_observed}"
            );
        }
        // Nothing of it is done for somebody who is not let in.
        let mut raw = broker.raw().await;
        raw.frames.set_protocol(ProtocolVersion::V5);
        raw.write(&self::stream("two", "guess")).await;
        let Some(ControlPacket::Connack(connack)) = raw.packet().await else { panic!("no CONNACK") };
        assert_eq!(connack.reason_code, crate::packet::ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        assert_eq!(raw.packet().await, None);
        let stats = broker.handle.run(|broker, _| broker.stats()).await.expect("it runs");
        assert_eq!(stats.published, [0, 5, 0]);
    }
}

#[tokio::test]
async fn more_logins_than_may_wait_are_told_so_and_all_others_are_answered() {
    let broker = broker();
    let mut guessing = Vec::new();
    for number in 0..400 {
        let mut raw = broker.raw().await;
        raw.frames.set_protocol(ProtocolVersion::V5);
        raw.write(&stream(&format!("guess-{number}"), "guess")).await;
        guessing.push(raw);
    }
    for mut raw in guessing {
        let Some(ControlPacket::Connack(connack)) = raw.packet().await else { panic!("no CONNACK") };
        assert!(matches!(connack.reason_code.0, 0x86 | 0x89), "{}", connack.reason_code.name());
    }
    let stats = broker.handle.run(|broker, _| broker.stats()).await.expect("it runs");
    assert_eq!(stats.refused_credentials + stats.refused_busy, 400);
    assert_eq!(stats.clients_accepted, 0);
}
