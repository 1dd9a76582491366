//! What is kept is what the broker believed, at any moment, and what it promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use crate::{
    broker::{DeliveryStage, Durability, Limits, Options, ResetCounts, Restored},
    packet::{ControlPacket, Publish, QoS},
};

use super::{
    properties::any_line,
    script::{Player, generous, perform},
    stage::{Bare, bare},
    transcripts::Transcripts,
};

fn with(durability: Durability, options: impl Into<Options>) -> Options {
    Options { durability, ..options.into() }
}

/// # Panics
/// When they are not the same.
fn compare(kept: Restored, there: Restored) {
    let (kept, there) = (text(kept), text(there));
    let differs = kept.lines().zip(there.lines()).enumerate().find(|(_, (kept, there))| kept != there);
    if let Some((line, (kept, there))) = differs {
        panic!("line {line} of what is kept: {kept}; of what there is: {there}");
    }
    assert_eq!(kept, there);
}

fn text(mut state: Restored) -> String {
    for (_, delivery) in state.sessions.iter_mut().flat_map(|session| &mut session.deliveries) {
        // Each process numbers shared subscriptions anew; which one it is stands beside it.
        if let DeliveryStage::Queued(delivery) | DeliveryStage::Published { delivery, .. } =
            &mut delivery.stage
        {
            delivery.share = None;
        }
    }
    format!("{state:#?}")
}

/// # Panics
/// When what is kept is not what there is.
fn check(stage: &Bare) {
    let restored = stage.kept.restored();
    assert!(stage.kept.known().into_iter().eq(restored.sessions.iter().map(|session| session.number)));
    compare(restored, stage.broker.to_be_kept());
}

/// What may change when another process goes on with it: connections have ended.
fn without_connections(mut state: Restored) -> Restored {
    for session in &mut state.sessions {
        let record = &mut session.record;
        (record.is_connected, record.ends_at, record.will_at, record.username) = (false, None, None, None);
    }
    state
}

#[test]
fn every_transcript_is_heard_as_written_and_kept_as_it_was() {
    let mut failures = Vec::new();
    for file in Transcripts::all() {
        for scenario in file.scenarios() {
            for durability in [Durability::Relaxed, Durability::Strict] {
                let (heard, player) = perform(scenario.text, |options| Bare::new(with(durability, options)));
                failures.extend(scenario.compare(&heard));
                check(&player.stage);
            }
        }
    }
    assert!(failures.is_empty(), "{} differ\n\n{}", failures.len(), failures.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_is_what_there_is_and_goes_on_as_it_was(
        lines in prop::collection::vec((any_line(), 0..12_u8), 1..80),
        is_strict in any::<bool>(),
    ) {
        let limits = Limits { queue_messages: 3, inflight_max: 3, subscriptions_per_client: 4, ..generous() };
        let durability = if is_strict { Durability::Strict } else { Durability::Relaxed };
        let mut player = bare(with(durability, limits));
        for (line, then) in lines {
            if !player.knows(&line) {
                continue;
            }
            player.play(&line);
            check(&player.stage);
            if then == 0 {
                let before = player.stage.kept.restored();
                player.stage.crash();
                player.stage.broker.assert_consistent();
                let after = player.stage.broker.to_be_kept();
                compare(without_connections(before), without_connections(after));
                player.play("+0s");
                check(&player.stage);
            }
            player.stage.broker.assert_consistent();
        }
    }

    /// Whenever the process ends and however far the disk is by then.
    #[test]
    fn what_was_acknowledged_survives_and_qos_2_arrives_once(
        steps in prop::collection::vec((0..12_u8, any::<prop::sample::Index>()), 1..150),
        receive_maximum in 1..5_u16,
    ) {
        let clients = play(Durability::Strict, steps, receive_maximum)?;
        for number in 1..=clients.sent {
            clients.expect(number)?;
        }
        clients.expect_once(0)?;
    }

    /// A broker that has forgotten a moment confuses nobody later.
    #[test]
    fn relaxed_loses_and_repeats_nothing_that_came_after_the_last_crash(
        steps in prop::collection::vec((0..12_u8, any::<prop::sample::Index>()), 1..150),
        receive_maximum in 1..5_u16,
    ) {
        let clients = play(Durability::Relaxed, steps, receive_maximum)?;
        for number in clients.crashed_at + 1..=clients.sent {
            clients.expect(number)?;
        }
        clients.expect_once(clients.crashed_at)?;
    }
}

/// Two clients through crashes; in the end everything has come that will.
fn play(
    durability: Durability,
    steps: Vec<(u8, prop::sample::Index)>,
    receive_maximum: u16,
) -> Result<Clients, TestCaseError> {
    let mut player = bare(with(durability, generous()));
    let mut clients = Clients::new(receive_maximum);
    clients.reconnect(&mut player);
    player.stage.is_slow = true;
    for (step, which) in steps {
        match step {
            0..=2 => clients.publish(&mut player, which.index(2) == 0),
            3 => clients.toggle_subscriber(&mut player),
            4 | 5 => {
                player.stage.commit();
                clients.play(&mut player, "+0s");
            }
            6 => {
                player.stage.crash();
                clients.crashed_at = clients.sent;
                clients.play(&mut player, "+0s");
                clients.reconnect(&mut player);
            }
            7 => {
                clients.begins_anew |= which.index(3) == 0;
                clients.connect_publisher(&mut player);
            }
            _ => clients.answer(&mut player, which),
        }
        clients.check()?;
    }
    player.stage.is_slow = false;
    clients.play(&mut player, "+0s");
    clients.reconnect(&mut player);
    while !clients.owed.is_empty() {
        let answer = clients.owed.remove(0);
        clients.play(&mut player, &answer);
    }
    clients.check()?;
    prop_assert!(clients.unacknowledged.is_empty(), "{:?}", clients.unacknowledged);
    prop_assert_eq!((player.stage.broker.stats().inflight, player.stage.broker.stats().queued), (0, 0));
    check(&player.stage);
    Ok(clients)
}

#[test]
fn retained_messages_that_were_still_to_be_sent_are_sent_once_each() {
    let mut player = bare(with(Durability::Strict, generous()));
    player.play("pub> CONNECT pub");
    for number in 1..=4 {
        player.play(&format!("pub> PUBLISH t/{number} qos=2 id={number} retain=true \"{number}\""));
    }
    let connect = "sub> CONNECT sub clean=false session_expiry=100 receive_maximum=1";
    player.play(connect);
    let mut heard = player.play("sub> SUBSCRIBE 1 t/# qos=2");
    // Published after it was subscribed to, so not to be looked up.
    player.play("pub> PUBLISH t/3/x qos=2 id=9 retain=true \"later\"");
    heard.extend(player.play("sub> PUBREC 1"));
    heard.extend(player.play("sub> PUBCOMP 1"));
    player.stage.crash();
    player.play("+0s");
    heard.extend(player.play(connect));
    for id in 2..=6 {
        heard.extend(player.play(&format!("sub> PUBREC {id}")));
        heard.extend(player.play(&format!("sub> PUBCOMP {id}")));
    }
    let publishes: Vec<_> = heard.iter().filter(|line| line.starts_with("sub< PUBLISH")).collect();
    let topics: Vec<_> = publishes.iter().filter_map(|line| line.split_whitespace().nth(2)).collect();
    // The one that was under way is repeated.
    assert_eq!(topics, ["t/1", "t/2", "t/2", "t/3", "t/4", "t/3/x"], "{heard:#?}");
}

#[test] // Clients that find no exchange for their PUBREL take it for a failure.
fn pubrel_again_succeeds_on_the_first_connection_after_a_restart() {
    let mut player = bare(with(Durability::Strict, generous()));
    let connect = "pub> CONNECT pub clean=false session_expiry=100";
    for line in [connect, "pub> PUBLISH t qos=2 id=1 \"x\"", "pub> PUBREL 1"] {
        player.play(line);
    }
    player.stage.crash();
    player.play("+0s");
    player.play(connect);
    assert_eq!(player.play("pub> PUBREL 1"), ["pub< PUBCOMP 1"]);
    // That answer may be lost, too.
    player.play("pub!");
    player.play(connect);
    assert_eq!(player.play("pub> PUBREL 1"), ["pub< PUBCOMP 1"]);
    player.play("pub!");
    player.play("pub> CONNECT pub clean=true session_expiry=100");
    assert_eq!(player.play("pub> PUBREL 1"), ["pub< PUBCOMP 1 0x92"]);
}

#[test]
fn a_lookup_finds_nothing_that_was_published_after_it_began_whatever_was_deleted_meanwhile() {
    let mut player = bare(with(Durability::Strict, generous()));
    player.play("pub> CONNECT pub");
    for number in 1..=4 {
        player.play(&format!("pub> PUBLISH t/{number} qos=1 id={number} retain=true \"{number}\""));
    }
    let connect = "sub> CONNECT sub clean=false session_expiry=100 receive_maximum=1";
    player.play(connect);
    player.play("sub> SUBSCRIBE 1 t/# qos=1");
    for number in [4, 3] {
        player.play(&format!("pub> PUBLISH t/{number} qos=0 retain=true \"\""));
    }
    player.stage.crash();
    player.play("+0s");
    player.play("pub> CONNECT pub");
    player.play("pub> PUBLISH t/9 qos=1 id=1 retain=true \"9\"");
    let mut heard = player.play(connect);
    for id in 1..=9 {
        heard.extend(player.play(&format!("sub> PUBACK {id}")));
    }
    let topics: Vec<_> = heard.iter().skip(1).filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(topics, ["t/1", "t/2", "t/9"], "{heard:#?}");
}

#[test] // [MQTT-4.6.0-5]
fn a_lookup_stays_behind_the_messages_that_it_stood_behind() {
    let mut player = bare(with(Durability::Strict, generous()));
    let connect = "sub> CONNECT sub clean=false session_expiry=100 receive_maximum=1";
    player.play("pub> CONNECT pub");
    player.play(connect);
    player.play("sub> SUBSCRIBE 1 t qos=1");
    for number in 1..=3 {
        player.play(&format!("pub> PUBLISH t qos=1 id=1 retain=true \"{number}\""));
    }
    player.play("sub> SUBSCRIBE 1 t qos=1");
    player.play("pub> PUBLISH t qos=1 id=1 \"4\"");
    player.stage.crash();
    player.play("+0s");
    let mut heard = player.play(connect);
    for id in 1..=9 {
        heard.extend(player.play(&format!("sub> PUBACK {id}")));
    }
    let payloads: Vec<_> = heard.iter().filter_map(|line| line.split('"').nth(1)).collect();
    assert_eq!(payloads, ["1", "2", "3", "3", "4"], "{heard:#?}");
}

#[test]
fn what_begins_and_ends_while_the_disk_hangs_leaves_nothing() {
    let mut player = bare(with(Durability::Strict, generous()));
    player.stage.is_slow = true;
    player.play("pub> CONNECT pub");
    // Something that stays under way.
    player.play("pub> PUBLISH r qos=0 retain=true \"x\"");
    for round in 0..50 {
        player.play("a> CONNECT a clean=true session_expiry=100");
        player.play(&format!("a> SUBSCRIBE 1 t/{round} qos=1"));
        player.play("a!");
        player.play(&format!("pub> PUBLISH t/{round} qos=1 id=1 \"y\""));
        player.play("a> CONNECT a clean=true");
        player.play("a> PUBLISH u qos=2 id=5 \"z\"");
        player.play("a> DISCONNECT");
    }
    player.stage.commit();
    let batch = player.stage.under_way().map(|batch| format!("{batch:?}")).unwrap_or_default();
    assert_eq!(batch, "", "nothing is left to be written");
}

#[test]
fn wills_of_a_clean_end_are_kept_for_everybody_whoever_was_told_to_go_first() {
    for durability in [Durability::Relaxed, Durability::Strict] {
        let mut player = bare(with(durability, generous()));
        for line in [
            "first> CONNECT first clean=false session_expiry=100",
            "first> SUBSCRIBE 1 w/# qos=1",
            "plain> CONNECT plain will=w/plain:gone will_qos=1",
            "late> CONNECT late clean=false session_expiry=100 will=w/late:gone will_qos=1 will_delay=30",
            "last> CONNECT last clean=false session_expiry=100",
            "last> SUBSCRIBE 1 w/# qos=1",
        ] {
            player.play(line);
        }
        let heard = player.play("api> shut down");
        assert!(!heard.iter().any(|line| line.contains("PUBLISH")), "{heard:?}");
        player.stage.crash();
        player.play("+0s");
        for name in ["first", "last"] {
            let heard = player.play(&format!("{name}> CONNECT {name} clean=false session_expiry=100"));
            assert!(heard.len() == 2 && heard[1].contains("w/plain"), "{heard:?}");
        }
        let heard = player.play("+30s");
        assert_eq!(heard.iter().filter(|line| line.contains("w/late")).count(), 2, "{heard:?}");
    }
}

#[test]
fn what_fell_due_while_nobody_was_there_happens_at_the_start() {
    let mut player = bare(with(Durability::Relaxed, generous()));
    for line in [
        "watch> CONNECT watch clean=false session_expiry=1000",
        "watch> SUBSCRIBE 1 # qos=1",
        "watch> DISCONNECT",
        // Its Will comes before its end.
        "short> CONNECT short clean=false session_expiry=10 will=w/short:gone will_qos=1 will_delay=5",
        "short!",
        // Was connected, so its time begins now.
        "long> CONNECT long clean=false session_expiry=60 will=w/long:gone will_qos=1 will_delay=30",
        "plain> CONNECT plain clean=false session_expiry=60 will=w/plain:gone will_qos=1",
        "pub> CONNECT pub",
        "pub> PUBLISH r qos=1 id=1 retain=true expiry=15 \"old\"",
    ] {
        player.play(line);
    }
    player.stage.now += Duration::from_secs(20);
    player.stage.crash();
    player.play("+0s");
    let heard = player.play("watch> CONNECT watch clean=false session_expiry=1000");
    let publishes = heard.iter().filter(|line| line.starts_with("watch< PUBLISH"));
    let wills: Vec<_> = publishes.filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(wills, ["w/short", "w/plain"], "{heard:?}");
    assert_eq!(player.stage.broker.stats().retained_messages, 0);
    let heard = player.play("short> CONNECT short clean=false session_expiry=10");
    assert_eq!(heard, ["short< CONNACK session_present=false"]);
    let heard = player.play("long> CONNECT long clean=false session_expiry=60");
    assert_eq!(heard, ["long< CONNACK session_present=true"]);
    let heard = player.play("+100s");
    assert!(!heard.iter().any(|line| line.contains("w/long")), "the client was back in time: {heard:?}");
}

/// A publisher and a subscriber that keep the rules over broken connections.
struct Clients {
    receive_maximum: u16,
    sent: u32,
    /// By Packet Identifier: number, QoS, and whether PUBREC came.
    unacknowledged: BTreeMap<u16, (u32, QoS, bool)>,
    /// How often each number came.
    received: BTreeMap<u32, (QoS, usize)>,
    last: BTreeMap<QoS, u32>,
    is_reordered: bool,
    is_subscribed: bool,
    /// Whether CONNACK was heard, of publisher and subscriber.
    had_session: [bool; 2],
    has_lost_session: bool,
    /// Whether the publisher asks for a new Session until it has heard that it got one.
    begins_anew: bool,
    is_away: bool,
    /// Identifiers of QoS 2 messages that are not released.
    open: BTreeSet<u16>,
    owed: Vec<String>,
    /// What had been sent when the broker crashed for the last time.
    crashed_at: u32,
    /// What the publisher gave up with its Session.
    given_up: BTreeSet<u32>,
}

impl Clients {
    fn new(receive_maximum: u16) -> Self {
        Self {
            receive_maximum,
            sent: 0,
            unacknowledged: BTreeMap::new(),
            received: BTreeMap::new(),
            last: BTreeMap::new(),
            is_reordered: false,
            is_subscribed: false,
            had_session: [false; 2],
            has_lost_session: false,
            begins_anew: false,
            is_away: true,
            open: BTreeSet::new(),
            owed: Vec::new(),
            crashed_at: 0,
            given_up: BTreeSet::new(),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert!(!self.has_lost_session, "a Session was lost");
        prop_assert!(!self.is_reordered, "out of order");
        Ok(())
    }

    fn expect_once(&self, after: u32) -> Result<(), TestCaseError> {
        for (number, (qos, count)) in self.received.range(after + 1..) {
            prop_assert!(*qos == QoS::AtLeastOnce || *count == 1, "{number} came {count} times");
        }
        Ok(())
    }

    fn publish(&mut self, player: &mut Player<Bare>, is_qos_2: bool) {
        if self.is_subscribed && self.unacknowledged.len() < 4 {
            let id = (1..).find(|id| !self.unacknowledged.contains_key(id)).expect("4 are in use");
            self.sent += 1;
            let qos = if is_qos_2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            self.unacknowledged.insert(id, (self.sent, qos, false));
            let line = format!("pub> PUBLISH t qos={} id={id} \"{}\"", qos as u8, self.sent);
            self.play(player, &line);
        } else if !self.is_subscribed {
            self.reconnect(player);
        }
    }

    fn reconnect(&mut self, player: &mut Player<Bare>) {
        self.is_away = false;
        self.play(player, "sub!");
        self.owed.clear();
        let connect = format!(
            "sub> CONNECT sub clean=false session_expiry=1000 receive_maximum={}",
            self.receive_maximum
        );
        self.play(player, &connect);
        if !self.is_subscribed {
            self.play(player, "sub> SUBSCRIBE 1 t qos=2");
        }
        self.connect_publisher(player);
    }

    fn connect_publisher(&mut self, player: &mut Player<Bare>) {
        self.play(player, "pub!");
        if self.begins_anew {
            let before = std::mem::take(&mut self.unacknowledged);
            self.given_up.extend(before.into_values().map(|(number, _, _)| number));
        }
        self.play(player, &format!("pub> CONNECT pub clean={} session_expiry=1000", self.begins_anew));
        // In the order in which they were sent.
        let mut open: Vec<_> = self.unacknowledged.iter().map(|(id, message)| (message.0, *id)).collect();
        open.sort_unstable();
        for (number, id) in open {
            match self.unacknowledged.get(&id) {
                Some((_, _, true)) => self.play(player, &format!("pub> PUBREL {id}")),
                Some((_, qos, false)) => {
                    let line = format!("pub> PUBLISH t qos={} id={id} dup=true \"{number}\"", *qos as u8);
                    self.play(player, &line);
                }
                None => {}
            }
        }
    }

    fn expect(&self, number: u32) -> Result<(), TestCaseError> {
        let is_there = self.received.contains_key(&number) || self.given_up.contains(&number);
        prop_assert!(is_there, "{number} of {} was lost", self.sent);
        Ok(())
    }

    fn toggle_subscriber(&mut self, player: &mut Player<Bare>) {
        if self.is_away {
            return self.reconnect(player);
        }
        self.is_away = true;
        self.owed.clear();
        self.play(player, "sub!");
    }

    fn answer(&mut self, player: &mut Player<Bare>, which: prop::sample::Index) {
        if !self.owed.is_empty() {
            let answer = self.owed.remove(which.index(self.owed.len()));
            self.play(player, &answer);
        }
    }

    fn play(&mut self, player: &mut Player<Bare>, line: &str) {
        if !player.knows(line) {
            return;
        }
        if let Some(id) = line.strip_prefix("sub> PUBCOMP ") {
            self.open.remove(&id.parse().expect("an identifier"));
        }
        let mut follow_up = Vec::new();
        for heard in player.play(line) {
            let Some((name, packet)) = heard.split_once("< ") else { continue };
            let Ok(packet) = packet.parse::<ControlPacket>() else { continue };
            follow_up.extend(if name == "sub" {
                self.hear_subscriber(packet)
            } else {
                self.hear_publisher(packet)
            });
        }
        for line in follow_up {
            self.play(player, &line);
        }
    }

    fn hear_session(&mut self, client: usize, is_present: bool) {
        self.has_lost_session |= self.had_session[client] && !is_present;
        self.had_session[client] = true;
    }

    fn hear_publisher(&mut self, packet: ControlPacket) -> Option<String> {
        match packet {
            ControlPacket::Connack(connack) => {
                let begins_anew = std::mem::take(&mut self.begins_anew);
                self.hear_session(0, connack.session_present || begins_anew);
            }
            ControlPacket::Puback(ack) | ControlPacket::Pubcomp(ack) => {
                self.unacknowledged.remove(&ack.packet_identifier.get());
            }
            ControlPacket::Pubrec(ack) => {
                let id = ack.packet_identifier.get();
                if let Some((_, _, is_received)) = self.unacknowledged.get_mut(&id) {
                    *is_received = true;
                    return Some(format!("pub> PUBREL {id}"));
                }
            }
            _ => {}
        }
        None
    }

    fn hear_subscriber(&mut self, packet: ControlPacket) -> Option<String> {
        match packet {
            ControlPacket::Connack(connack) => self.hear_session(1, connack.session_present),
            ControlPacket::Suback(_) => self.is_subscribed = true,
            ControlPacket::Publish(publish) => self.receive(&publish),
            ControlPacket::Pubrel(ack) => self.owed.push(format!("sub> PUBCOMP {}", ack.packet_identifier)),
            _ => {}
        }
        None
    }

    fn receive(&mut self, publish: &Publish) {
        let id = publish.packet_identifier.expect("QoS 1 at least").get();
        let is_qos_2 = publish.qos == QoS::ExactlyOnce;
        if !is_qos_2 || self.open.insert(id) {
            let text = std::str::from_utf8(&publish.payload).expect("digits");
            let number = text.parse().expect("a number");
            let (_, count) = self.received.entry(number).or_insert((publish.qos, 0));
            *count += 1;
            if *count == 1 {
                let last = self.last.entry(publish.qos).or_default();
                self.is_reordered |= *last >= number;
                *last = number;
            }
        }
        self.owed.push(format!("sub> {} {id}", if is_qos_2 { "PUBREC" } else { "PUBACK" }));
    }
}

#[test]
fn a_reset_leaves_connections_and_their_subscriptions_and_nothing_else() {
    let mut player = bare(with(Durability::Strict, generous()));
    player.play("pub> CONNECT pub");
    player.play("sub> CONNECT sub clean=false session_expiry=100 receive_maximum=1");
    player.play("sub> SUBSCRIBE 1 t qos=1");
    player.play("sub> SUBSCRIBE 2 w qos=1");
    player.play("sub> SUBSCRIBE 3 $share/g/s qos=1");
    player.play("away> CONNECT away clean=false session_expiry=100 will=w:gone will_delay=50");
    player.play("away> SUBSCRIBE 1 t qos=1");
    player.play("away> SUBSCRIBE 2 $share/g/s qos=1");
    player.play("away!");
    for number in 1..=3 {
        player.play(&format!("pub> PUBLISH t qos=1 id=1 \"{number}\""));
        player.play(&format!("pub> PUBLISH kept/{number} qos=1 id=1 retain=true \"{number}\""));
    }
    let mut counts = ResetCounts::default();
    let now = player.stage.now;
    let mut turns = 1;
    while player.stage.broker.reset(now, 1, &mut counts) {
        turns += 1;
    }
    // One of those for `sub` is in flight.
    assert_eq!(counts, ResetCounts { retained: 3, sessions: 1, queued: 2 + 3 });
    assert!(turns >= 6, "{turns} turns");
    player.play("+60s");
    check(&player.stage);
    assert_eq!(player.stage.broker.stats().retained_messages, 0);
    // Nothing that was there before comes any more, the Will neither; what is new does.
    let mut heard = player.play("sub> PUBACK 1");
    heard.extend(player.play("pub> PUBLISH t qos=1 id=1 \"new\""));
    heard.extend(player.play("sub> PUBACK 2"));
    let to_sub: Vec<_> = heard.iter().filter(|line| line.starts_with("sub<")).collect();
    assert!(to_sub.len() == 1 && to_sub[0].contains("\"new\""), "{heard:#?}");
    let heard = player.play("away> CONNECT away clean=false session_expiry=100");
    assert!(heard[0].contains("session_present=false"), "{heard:?}");
    check(&player.stage);
}
