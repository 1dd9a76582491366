//! Logging in and access rules, where no transcript shows it.

use std::time::{Duration, Instant};

use super::{
    script::{Player, generous},
    stage::Bare,
};
use crate::{
    auth::{Access, Accounts, Acl, UserSpec, tests::quick_hash},
    broker::{Broker, BrokerEvent, Checked, Closing, Options, Output},
    packet::{ControlPacket, FrameReader, Property, ProtocolVersion, ReasonCode, Utf8String},
    session::{ConnectionId, Peer},
};

fn accounts(users: &[(&str, &str)]) -> Accounts {
    let spec = |&(name, password): &(&str, &str)| UserSpec {
        username: name.to_owned(),
        password_hash: Some(quick_hash(password)),
        ..UserSpec::default()
    };
    Accounts::new(&users.iter().map(spec).collect::<Vec<_>>(), None).expect("good users")
}

fn acl(rules: &str) -> Acl {
    Acl::new(&serde_saphyr::from_str::<Vec<_>>(rules).expect("rules")).expect("good rules")
}

fn closed(users: &[(&str, &str)]) -> Access {
    Access { allow_anonymous: false, accounts: accounts(users), acl: Acl::default() }
}

/// A broker, and what a connection heard.
struct Subject {
    broker: Broker,
    now: Instant,
}

impl Subject {
    fn new(access: Access) -> Self {
        let now = Instant::now();
        let options = Options { access, ..Options::from(generous()) };
        Self { broker: Broker::new(now, options, 1), now }
    }

    fn open(&mut self, id: u64, identity: Option<&str>) {
        let peer = Peer { address: None, transport: "tcp", identity: identity.map(Into::into) };
        self.broker.handle_open(self.now, ConnectionId(id), peer);
    }

    fn send(&mut self, id: u64, packet: &str) {
        self.broker.handle_packet(self.now, ConnectionId(id), packet.parse().expect("a packet"));
    }

    /// Opens a connection and sends CONNECT; what the broker asks for, events and outboxes left out.
    fn connect(&mut self, id: u64, connect: &str) -> Vec<Output> {
        self.open(id, None);
        self.send(id, connect);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        let all = std::iter::from_fn(|| self.broker.poll_output());
        all.filter(|output| !matches!(output, Output::Emit(_) | Output::Flush(_))).collect()
    }

    fn events(&mut self) -> Vec<BrokerEvent> {
        let event = |output| if let Output::Emit(event) = output { Some(event) } else { None };
        std::iter::from_fn(|| self.broker.poll_output()).filter_map(event).collect()
    }

    fn check(&mut self, id: u64, checked: Checked) {
        self.broker.handle_checked(self.now, ConnectionId(id), checked);
    }

    /// Reason codes of what a connection was sent.
    fn heard(&mut self, id: u64) -> Vec<String> {
        let Some(outbox) = self.broker.outbox(ConnectionId(id)) else { return Vec::new() };
        let mut reader = FrameReader::new(usize::MAX);
        reader.set_protocol(ProtocolVersion::V5);
        while !outbox.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 4];
            let filled = outbox.chunks(&mut slices);
            let chunk: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
            reader.buffer().extend_from_slice(&chunk);
            outbox.advance(chunk.len());
        }
        std::iter::from_fn(|| reader.next_frame().expect("packets"))
            .map(|frame| frame.packet.to_string())
            .collect()
    }

    fn connack(&mut self, id: u64) -> ReasonCode {
        match self.heard(id)[0].parse().expect("a packet") {
            ControlPacket::Connack(connack) => connack.reason_code,
            other => panic!("{other}"),
        }
    }

    fn username(&self, client_identifier: &str) -> Option<String> {
        let clients = self.broker.clients();
        clients.into_iter().find(|client| client.client_identifier == client_identifier)?.username
    }
}

fn is_check(outputs: &[Output]) -> bool {
    matches!(outputs, [Output::Check { .. }])
}

#[test]
fn a_certificate_is_all_the_proof_that_is_asked_for() {
    let mut subject = Subject::new(Access {
        acl: acl("[{allow: all, topics: ['of/%u']}]"),
        ..closed(&[("alice", "secret")])
    });
    subject.open(1, Some("device-7"));
    subject.send(1, "CONNECT c username=alice password=guess");
    assert_eq!(subject.outputs(), []);
    assert_eq!(subject.connack(1), ReasonCode::SUCCESS);
    assert_eq!(subject.username("c").as_deref(), Some("device-7"));
    subject.send(1, "SUBSCRIBE 1 of/device-7, of/alice");
    assert_eq!(subject.heard(1), ["SUBACK 1 0x00 0x87"]);
    for (id, name) in [(2, ""), (3, "a\0b")] {
        subject.open(id, Some(name));
        subject.send(id, "CONNECT d");
        assert_eq!(subject.connack(id), ReasonCode::NOT_AUTHORIZED, "{name:?}");
    }
}

#[test]
fn a_password_that_was_right_is_not_checked_again_for_a_while() {
    let mut subject = Subject::new(closed(&[("alice", "secret"), ("bob", "secret")]));
    let right = "CONNECT c username=alice password=secret";
    assert!(is_check(&subject.connect(1, right)));
    assert!(subject.heard(1).is_empty());
    subject.check(1, Checked::Right);
    assert_eq!(subject.connack(1), ReasonCode::SUCCESS);
    subject.outputs();
    assert_eq!(
        subject.connect(2, right),
        [Output::Close(ConnectionId(1), Closing::Refused(ReasonCode::SESSION_TAKEN_OVER))]
    );
    assert_eq!(subject.connack(2), ReasonCode::SUCCESS);
    assert!(is_check(&subject.connect(3, "CONNECT d username=alice password=guess")));
    assert!(is_check(&subject.connect(4, "CONNECT e username=bob password=secret")));
    subject.now += Duration::from_secs(3600);
    assert!(is_check(&subject.connect(5, right)));
}

#[test]
fn a_check_that_is_not_done_in_time_or_at_all_is_answered_with_busy() {
    let mut subject = Subject::new(closed(&[("alice", "secret")]));
    let connect = "CONNECT c username=alice password=secret";
    subject.connect(1, connect);
    subject.check(1, Checked::NotDone);
    assert_eq!(subject.connack(1), ReasonCode::SERVER_BUSY);
    subject.connect(2, connect);
    assert!(subject.broker.is_checking(ConnectionId(2)));
    subject.now = subject.broker.next_timeout().expect("the time to connect");
    subject.broker.handle_timeout(subject.now);
    assert_eq!(subject.connack(2), ReasonCode::SERVER_BUSY);
    assert!(!subject.broker.is_checking(ConnectionId(2)));
    subject.check(2, Checked::Right);
    assert!(subject.heard(2).is_empty());
    // One that goes away in between.
    subject.connect(3, connect);
    subject.broker.handle_close(subject.now, ConnectionId(3));
    subject.check(3, Checked::Right);
    assert_eq!(subject.broker.clients(), []);
    let stats = subject.broker.stats();
    assert_eq!((stats.refused_busy, stats.refused_credentials, stats.clients_accepted), (2, 0, 0));
}

#[test]
fn who_is_being_checked_while_users_change_is_checked_by_what_is_new() {
    let mut subject = Subject::new(closed(&[("alice", "old"), ("bob", "b")]));
    subject.connect(1, "CONNECT c username=alice password=old");
    subject.connect(2, "CONNECT d username=bob password=b");
    subject.check(2, Checked::Right);
    subject.outputs();
    subject.broker.set_access(subject.now, closed(&[("alice", "new"), ("bob", "b")]));
    subject.check(1, Checked::Right);
    let outputs = subject.outputs();
    let [Output::Check { check, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(!check.run());
    assert!(subject.broker.is_checking(ConnectionId(1)));
    subject.check(1, Checked::Wrong);
    assert_eq!(subject.connack(1), ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    subject.outputs();
    // And nothing is remembered of the old ones.
    assert!(is_check(&subject.connect(3, "CONNECT e username=bob password=b")));
}

#[test]
fn a_packet_that_is_not_held_back_while_the_password_is_checked_is_refused() {
    let mut subject = Subject::new(closed(&[("alice", "secret")]));
    subject.connect(1, "CONNECT c username=alice password=secret");
    subject.send(1, "PINGREQ");
    assert_eq!(subject.connack(1), ReasonCode::PROTOCOL_ERROR);
    subject.check(1, Checked::Right);
    assert_eq!(subject.broker.clients(), []);
}

#[test]
fn subscriptions_that_new_rules_do_not_allow_end_in_turns() {
    let mut subject = Subject::new(Access::default());
    for id in 1..=3 {
        subject.connect(id, &format!("CONNECT c{id}"));
        for number in 0..200 {
            subject.send(id, &format!("SUBSCRIBE 1 keep/{number}, end/{number}, $share/g/end/{number}"));
        }
    }
    subject.outputs();
    let access = Access { acl: acl("[{allow: all, topics: [keep/#]}]"), ..Access::default() };
    subject.broker.set_access(subject.now, access.clone());
    // The same again is nothing new.
    subject.broker.set_access(subject.now, access);
    let mut turns = 0;
    while subject.broker.next_timeout() == Some(subject.now) {
        // A client that ends in between is no hindrance.
        if turns == 2 {
            subject.broker.handle_close(subject.now, ConnectionId(3));
        }
        subject.broker.handle_timeout(subject.now);
        turns += 1;
        assert!(turns < 100, "it ends");
    }
    assert!(turns > 3, "{turns} turns");
    let left = subject.broker.subscriptions();
    assert!(left.iter().all(|left| left.filter.starts_with("keep/")));
    assert_eq!(left.len(), 400);
    subject.send(1, "PUBLISH end/1 \"1\"");
    assert_eq!(subject.broker.stats().dropped_not_authorized, 1);
}

#[test]
fn of_messages_to_one_topic_the_first_of_a_run_is_told_and_all_are_counted() {
    let mut subject = Subject::new(Access {
        acl: acl("[{deny: publish, topics: [a]}, {allow: publish, topics: [b]}]"),
        ..Access::default()
    });
    subject.connect(1, "CONNECT c username=alice");
    subject.events();
    for topic in ["a", "a", "a", "b", "a", "x", "x"] {
        subject.send(1, &format!("PUBLISH {topic} \"1\""));
    }
    let told: Vec<_> = subject
        .events()
        .into_iter()
        .map(|event| match event {
            BrokerEvent::NotAuthorized { client_identifier, username, topic, rule, .. } => {
                assert_eq!((&*client_identifier, username), ("c", None));
                (topic, rule)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let told: Vec<_> = told.iter().map(|(topic, rule)| (topic.as_str(), *rule)).collect();
    assert_eq!(told, [("a", Some(0)), ("a", Some(0)), ("x", None)]);
    assert_eq!(subject.broker.stats().dropped_not_authorized, 6);
}

#[test]
fn who_is_not_let_in_is_told_of_without_the_password() {
    let mut player = Player::new(Bare::new(Options {
        access: closed(&[("alice", "secret")]),
        ..Options::from(generous())
    }));
    player.play("one> CONNECT c username=alice password=hunter2");
    player.play("two> CONNECT d");
    let refused = |id, client: &str, username: Option<&str>, reason| BrokerEvent::Refused {
        connection: ConnectionId(id),
        client_identifier: client.to_owned(),
        username: username.map(str::to_owned),
        reason,
    };
    assert_eq!(
        player.stage.events,
        [
            refused(1, "c", Some("alice"), ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            refused(2, "d", None, ReasonCode::NOT_AUTHORIZED)
        ]
    );
    let stats = player.stage.broker.stats();
    assert_eq!((stats.refused_credentials, stats.refused_not_authorized), (1, 1));
}

#[test]
fn what_waits_for_a_password_takes_little_room() {
    let mut subject = Subject::new(closed(&[("alice", "secret")]));
    let mut big: ControlPacket =
        "CONNECT c username=alice password=guess will=t:x".parse().expect("a packet");
    let ControlPacket::Connect(connect) = &mut big else { panic!("{big}") };
    let text = |text: &str| Utf8String::new(text).expect("text");
    let property = Property::UserProperty(text("n"), text("v"));
    connect.properties.0.extend(std::iter::repeat_n(property, 10_000));
    let payload = vec![0; 50_000];
    connect.will.as_mut().expect("a will").payload = payload.into();
    for id in 1..=1000 {
        subject.open(id, None);
        subject.broker.handle_packet(subject.now, ConnectionId(id), big.clone());
    }
    assert!(subject.broker.held.bytes() < 20 << 20);
    assert_eq!(subject.connack(1000), ReasonCode::SERVER_BUSY);
    subject.outputs();
    assert!(is_check(&subject.connect(2000, "CONNECT d username=alice password=secret")));
    for id in 1..=2000 {
        subject.broker.handle_close(subject.now, ConnectionId(id));
    }
    assert_eq!((subject.broker.held.bytes(), subject.broker.checking.len()), (0, 0));
}

const KEPT: &str = "clean=false session_expiry=1000";

fn only(filter: &str) -> Access {
    Access { acl: acl(&format!("[{{allow: all, topics: ['{filter}']}}]")), ..Access::default() }
}

#[test]
fn what_waits_for_a_client_that_may_not_have_it_any_more_is_dropped() {
    let mut subject = Subject::new(Access::default());
    subject.connect(1, &format!("CONNECT c {KEPT} receive_maximum=2"));
    subject.send(1, "SUBSCRIBE 1 # qos=2");
    subject.connect(2, "CONNECT p");
    // Sent and not acknowledged, then some that wait while there is a connection, then some that find none.
    subject.send(2, "PUBLISH secret/0 qos=1 id=1 \"0\"");
    subject.send(2, "PUBLISH secret/1 qos=2 id=2 \"1\"");
    subject.send(2, "PUBLISH secret/2 qos=1 id=3 \"2\"");
    assert_eq!(subject.heard(1)[2..].len(), 2);
    subject.broker.handle_close(subject.now, ConnectionId(1));
    for number in 3..700 {
        let topic = if number % 3 == 0 { "public" } else { "secret" };
        subject.send(2, &format!("PUBLISH {topic}/{number} qos=1 id=3 \"x\""));
    }
    subject.broker.set_access(subject.now, only("public/#"));
    let mut turns = 0;
    while subject.broker.next_timeout() == Some(subject.now) {
        subject.broker.handle_timeout(subject.now);
        turns += 1;
        assert!(turns < 100, "it ends");
    }
    assert!(turns >= 3, "{turns} turns");
    assert_eq!(subject.broker.clients()[0].queued, 233);
    subject.connect(3, &format!("CONNECT c {KEPT} receive_maximum=1000"));
    let heard = subject.heard(3);
    // Who has the second one frees its identifier so.
    assert_eq!(heard[1], "PUBREL 2");
    assert_eq!(heard.len(), 2 + 233);
    assert!(heard[2..].iter().all(|packet| packet.starts_with("PUBLISH public/")), "{heard:?}");
    assert_eq!(subject.broker.stats().dropped_not_authorized, 700 - 233);
}

#[test]
fn what_waits_for_a_member_of_a_group_that_may_not_have_it_is_for_another() {
    let mut subject = Subject::new(Access::default());
    subject.connect(1, &format!("CONNECT c {KEPT}"));
    subject.send(1, "SUBSCRIBE 1 $share/g/t qos=1");
    subject.broker.handle_close(subject.now, ConnectionId(1));
    subject.connect(2, "CONNECT p");
    subject.send(2, "PUBLISH t qos=1 id=1 \"1\"");
    subject.connect(3, "CONNECT d");
    subject.send(3, "SUBSCRIBE 1 $share/g/t qos=1");
    subject.heard(3);
    let acl = acl("[{allow: all, topics: [t], clients: [d]}]");
    subject.broker.set_access(subject.now, Access { acl, ..Access::default() });
    subject.broker.handle_timeout(subject.now);
    assert_eq!(subject.heard(3), ["PUBLISH t qos=1 id=1 \"1\""]);
    assert_eq!(subject.broker.stats().dropped_not_authorized, 0);
}

#[test]
fn a_name_that_nobody_proved_is_kept_no_longer_than_the_connection() {
    let mut subject =
        Subject::new(Access { accounts: accounts(&[("alice", "secret")]), ..Access::default() });
    subject.connect(1, &format!("CONNECT c {KEPT} username=alice password=secret"));
    subject.check(1, Checked::Right);
    subject.broker.handle_close(subject.now, ConnectionId(1));
    assert_eq!(subject.username("c").as_deref(), Some("alice"));
    let mut subject = Subject::new(Access::default());
    subject.connect(1, &format!("CONNECT c {KEPT} username=mallory"));
    assert_eq!(subject.username("c").as_deref(), Some("mallory"));
    subject.broker.handle_close(subject.now, ConnectionId(1));
    assert_eq!((subject.username("c"), subject.broker.clients().len()), (None, 1));
}
