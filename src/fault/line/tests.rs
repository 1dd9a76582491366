//! Lines without a socket: what passes, when, and what is told of it.

use std::time::Duration;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::fault::{ChaosHooks, ChaosOptions, RuleSpec};

/// Packets longer than that pass in pieces.
const LONGEST: usize = 1_000;

/// A line, and everything that was heard of it.
struct Stage {
    chaos: Chaos,
    line: Line,
    protocol: ProtocolVersion,
    begin: Instant,
    now: Instant,
    heard: String,
    /// What the client sent, and what was told of that.
    sent: [Vec<u8>; 2],
    /// What the client was sent, and what was told of that.
    delivered: [Vec<u8>; 2],
}

fn chaos(rules: &str) -> Chaos {
    let hooks = ChaosHooks { on_change: Box::new(|| {}), on_fault: Box::new(|_| {}) };
    let chaos = Chaos::new(ChaosOptions { seed: 7, ..ChaosOptions::default() }, hooks);
    add_rules(&chaos, rules);
    chaos
}

fn add_rules(chaos: &Chaos, rules: &str) {
    let rules: Vec<RuleSpec> = serde_saphyr::from_str(rules).expect("a list of rules");
    for rule in rules {
        chaos.create(rule).expect("a good rule");
    }
}

impl Stage {
    fn new(rules: &str) -> Self {
        Self::spliced(rules, Splice::default(), ProtocolVersion::V5)
    }

    fn spliced(rules: &str, splice: Splice, protocol: ProtocolVersion) -> Self {
        let chaos = chaos(rules);
        let begin = Instant::now();
        Self {
            line: Line::new(chaos.clone(), LONGEST, splice),
            chaos,
            protocol,
            begin,
            now: begin,
            heard: String::new(),
            sent: Default::default(),
            delivered: Default::default(),
        }
    }

    /// `c PACKET` or `s PACKET`: the client or the server sends; `hex:…` in place of a packet are bytes, `fin` the end.
    /// `+100ms` is time, `off` the end of chaos, `off and on` the same, and a rule for nobody.
    fn play(&mut self, line: &str) {
        if let Some(milliseconds) = line.strip_prefix('+') {
            let milliseconds = milliseconds.trim_end_matches("ms").parse().expect("milliseconds");
            return self.pass(Duration::from_millis(milliseconds));
        }
        if let "off" | "off and on" = line {
            self.chaos.reset();
            if line == "off and on" {
                add_rules(&self.chaos, "[{match: {client: nobody}, actions: [drop]}]");
            }
            return self.listen();
        }
        let (direction, what) = match line.split_once(' ').expect("who and what") {
            ("c", what) => (Direction::ClientToServer, what),
            ("s", what) => (Direction::ServerToClient, what),
            _ => panic!("{line}?"),
        };
        if what == "fin" {
            self.line.end(self.now, direction);
        } else {
            let bytes = self.bytes(what);
            self.receive(direction, &bytes);
        }
        self.listen();
    }

    fn receive(&mut self, direction: Direction, bytes: &[u8]) {
        if direction == Direction::ClientToServer {
            self.sent[0].extend_from_slice(bytes);
        }
        self.line.receive(self.now, direction, bytes);
    }

    fn bytes(&mut self, what: &str) -> Vec<u8> {
        if let Some(hex) = what.strip_prefix("hex:") {
            let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
            let byte = |pair: &[u8]| {
                let pair = std::str::from_utf8(pair).expect("digits");
                u8::from_str_radix(pair, 16).expect("hexadecimal")
            };
            return digits.chunks(2).map(byte).collect();
        }
        let packet = ControlPacket::parse_text(what, self.protocol).expect("a packet");
        if let ControlPacket::Connect(connect) = &packet {
            self.protocol = connect.protocol;
        }
        Frame::encode(packet, self.protocol).expect("it can be encoded").bytes.to_vec()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.line.next_timeout(|_| true).filter(|next| *next <= end) {
            assert!(next >= self.now, "what is due was not done");
            self.now = next;
            self.listen();
        }
        self.now = end;
        self.listen();
    }

    fn listen(&mut self) {
        while let Some(output) = self.line.poll_output(self.now, |_| true) {
            let text = match output {
                LineOutput::Identified { .. } => continue,
                LineOutput::Report { direction, bytes, .. } => {
                    match direction {
                        Direction::ClientToServer => self.sent[1].extend_from_slice(&bytes),
                        Direction::ServerToClient => self.delivered[1].extend_from_slice(&bytes),
                    }
                    continue;
                }
                LineOutput::Fault(fault) => {
                    let FaultInjected { rule, action, detail, direction, packet_type, nth, .. } = &*fault;
                    let kept = match (&fault.received, &fault.sent) {
                        (None, None) => String::new(),
                        (received, sent) => [(received, "received"), (sent, "sent")]
                            .iter()
                            .filter_map(|(bytes, how)| {
                                bytes.as_ref().map(|bytes| format!(" {how} {bytes:x}"))
                            })
                            .collect(),
                    };
                    let direction = direction.name();
                    format!("  {rule}: {action} {detail} {packet_type} {nth} {direction}{kept}")
                }
                LineOutput::Pass { direction, bytes } => {
                    let to = match direction {
                        Direction::ClientToServer => "server",
                        Direction::ServerToClient => {
                            self.delivered[0].extend_from_slice(&bytes);
                            "client"
                        }
                    };
                    format!("{to} < {}", self.shown(bytes))
                }
                LineOutput::LoseSession { .. } => "the session is lost".to_owned(),
                LineOutput::End(Direction::ClientToServer) => "server < fin".to_owned(),
                LineOutput::End(Direction::ServerToClient) => "client < fin".to_owned(),
                LineOutput::Cut { by_reset: true } => "cut by rst".to_owned(),
                LineOutput::Cut { by_reset: false } => "cut by fin".to_owned(),
            };
            let at = self.now.duration_since(self.begin).as_secs_f64() * 1000.0;
            self.heard += &format!("{at:<4.0} {text}\n");
        }
    }

    fn shown(&self, bytes: Bytes) -> String {
        match ControlPacket::decode(&bytes, self.protocol) {
            Ok(packet) => packet.to_string(),
            Err(_) if bytes.len() > 100 => format!("{} bytes", bytes.len()),
            Err(_) => format!("{bytes:x}"),
        }
    }
}

const CONNECTED: &str = "c CONNECT me\ns CONNACK\n";

/// Plays the script behind a connection of `me`, of MQTT 5, and hears what follows.
fn check(rules: &str, script: &str, heard: Expect) {
    check_parts(rules, script, heard).check_reports();
}

/// As [`check`], where the client gets parts of packets, which are not told of.
fn check_parts(rules: &str, script: &str, heard: Expect) -> Stage {
    let mut stage = Stage::new(rules);
    for line in CONNECTED.lines() {
        stage.play(line);
    }
    stage.heard.clear();
    for line in script.lines() {
        stage.play(line.trim());
    }
    heard.assert_eq(&stage.heard);
    stage
}

/// As [`check`], from the first packet on.
fn check_connect(rules: &str, script: &str, heard: Expect) {
    let mut stage = Stage::new(rules);
    for line in script.lines() {
        stage.play(line.trim());
    }
    heard.assert_eq(&stage.heard);
    stage.check_reports();
}

impl Stage {
    /// What was told is what came from the client, and what went to it.
    fn check_reports(&self) {
        let [sent, told] = &self.sent;
        assert!(sent.starts_with(told), "what the client sent is told as it came");
        let [delivered, told] = &self.delivered;
        assert_eq!(delivered, told, "what the client is sent is told as it goes out");
    }
}

#[test]
fn a_line_without_a_rule_for_it_passes_everything_at_once() {
    check(
        "[{match: {client: other}, actions: [drop]}]",
        r#"c PUBLISH a "1"
           c hex:c0
           s PUBLISH b "2"
           c hex:00
           c fin
           s fin"#,
        expect![[r#"
            0    server < PUBLISH a "1"
            0    client < PUBLISH b "2"
            0    server < PINGREQ
            0    server < fin
            0    client < fin
        "#]],
    );
}

#[test]
fn a_packet_that_waits_holds_up_those_behind_it() {
    check(
        "[{match: {types: PUBLISH, direction: s2c}, when: {first_n: 1}, actions: [{latency: 50}]}]",
        r#"s PUBLISH a "1"
           s PINGRESP
           c PUBLISH b "2"
           +20ms
           s PUBLISH a "3"
           +100ms"#,
        expect![[r#"
            0      added-1: latency {"ms":50.0} PUBLISH 1 s2c
            0    server < PUBLISH b "2"
            50   client < PUBLISH a "1"
            50   client < PINGRESP
            50   client < PUBLISH a "3"
        "#]],
    );
}

#[test]
fn a_message_that_vanishes_is_told_of() {
    check(
        "[{match: {types: PUBLISH}, when: {every_nth: 2}, actions: [drop]}]",
        r#"c PUBLISH a "1"
           c PUBLISH a "2"
           s PUBLISH b "1"
           s PUBLISH b "2""#,
        expect![[r#"
            0    server < PUBLISH a "1"
            0      added-1: drop {} PUBLISH 2 c2s
            0    client < PUBLISH b "1"
            0      added-1: drop {} PUBLISH 2 s2c received 30050001620032
        "#]],
    );
}

#[test]
fn a_copy_says_dup_where_mqtt_has_it() {
    check(
        "[{actions: [{duplicate: {count: 2}}], match: {types: PUBLISH}}]",
        r#"c PUBLISH a qos=1 id=1 "1"
           s PUBLISH b "2""#,
        expect![[r#"
            0      added-1: duplicate {"count":2} PUBLISH 1 c2s
            0    server < PUBLISH a qos=1 id=1 "1"
            0    server < PUBLISH a qos=1 id=1 dup=true "1"
            0    server < PUBLISH a qos=1 id=1 dup=true "1"
            0      added-1: duplicate {"count":2} PUBLISH 1 s2c
            0    client < PUBLISH b "2"
            0    client < PUBLISH b "2"
            0    client < PUBLISH b "2"
        "#]],
    );
}

#[test]
fn an_ack_that_waits_holds_up_acks_alone() {
    check(
        "[{match: {types: PUBACK}, when: {first_n: 1}, actions: [{delay_ack: 50}]}]",
        r#"s PUBACK 1
           s PUBACK 2
           s PUBLISH a "1"
           s SUBACK 3 0x00
           +49ms
           +10ms
           s PUBACK 4"#,
        expect![[r#"
            0      added-1: delay_ack {"ms":50.0} PUBACK 1 s2c
            0    client < PUBLISH a "1"
            50   client < PUBACK 1
            50   client < PUBACK 2
            50   client < SUBACK 3 0x00
            59   client < PUBACK 4
        "#]],
    );
}

#[test]
fn a_slow_subscriber_gets_one_message_at_a_time_and_others_pass() {
    check(
        "[{match: {topic: slow/#}, actions: [{slow_subscriber: {delay_ms: 100}}]}]",
        r#"s PUBLISH slow/a "1"
           s PUBLISH slow/a "2"
           s PUBLISH fast "3"
           +150ms
           s PUBLISH slow/a "4"
           +400ms
           s PUBLISH slow/a "5"
           +100ms"#,
        expect![[r#"
            0      added-1: slow_subscriber {"ms":100.0} PUBLISH 1 s2c
            0      added-1: slow_subscriber {"ms":100.0} PUBLISH 2 s2c
            0    client < PUBLISH fast "3"
            100  client < PUBLISH slow/a "1"
            150    added-1: slow_subscriber {"ms":100.0} PUBLISH 4 s2c
            200  client < PUBLISH slow/a "2"
            300  client < PUBLISH slow/a "4"
            550    added-1: slow_subscriber {"ms":100.0} PUBLISH 5 s2c
            650  client < PUBLISH slow/a "5"
        "#]],
    );
}

#[test]
fn others_overtake_a_message_where_mqtt_lets_them() {
    let rule = "[{match: {topic: a}, when: {first_n: 1}, actions: [{reorder: {window: 1, max_ms: 100}}]}]";
    check(
        rule,
        r#"c PUBLISH a "1"
           c PUBLISH b "2"
           c PUBLISH b "3""#,
        expect![[r#"
            0      added-1: reorder {"behind":1,"max_ms":100.0,"violate":false} PUBLISH 1 c2s
            0    server < PUBLISH b "2"
            0    server < PUBLISH a "1"
            0    server < PUBLISH b "3"
        "#]],
    );
    check(
        rule,
        r#"c PUBLISH a "1"
           c PUBLISH a "2"
           c PUBLISH b "3""#,
        expect![[r#"
            0      added-1: reorder {"behind":1,"max_ms":100.0,"violate":false} PUBLISH 1 c2s
            0    server < PUBLISH a "1"
            0    server < PUBLISH a "2"
            0    server < PUBLISH b "3"
        "#]],
    );
    check(
        rule,
        r#"c PUBLISH a "1"
           +200ms
           c PUBLISH b "2""#,
        expect![[r#"
            0      added-1: reorder {"behind":1,"max_ms":100.0,"violate":false} PUBLISH 1 c2s
            100  server < PUBLISH a "1"
            200  server < PUBLISH b "2"
        "#]],
    );
    check(
        "[{match: {topic: a}, when: {first_n: 1}, actions: [{reorder: {window: 1, violate: true}}]}]",
        r#"c PUBLISH a "1"
           c PUBLISH a "2""#,
        expect![[r#"
            0      added-1: reorder {"behind":1,"max_ms":1000.0,"violate":true} PUBLISH 1 c2s
            0    server < PUBLISH a "2"
            0    server < PUBLISH a "1"
        "#]],
    );
}

#[test]
fn a_connection_is_cut_behind_a_packet_or_within_it() {
    check(
        "[{match: {topic: a}, actions: [disconnect]}]",
        r#"c PUBLISH a "1"
           c PUBLISH a "2"
           s PINGRESP"#,
        expect![[r#"
            0      added-1: disconnect {"mode":"rst","will":true} PUBLISH 1 c2s
            0    server < PUBLISH a "1"
            0    cut by rst
        "#]],
    );
    check(
        "[{match: {topic: a}, actions: [{disconnect: {mode: fin, at_byte: 3}}]}]",
        r#"s PUBLISH a "1""#,
        expect![[r#"
            0      added-1: disconnect {"at_byte":3,"mode":"fin","will":true} PUBLISH 1 s2c received 30050001610031
            0    client < 300500
            0    cut by fin
        "#]],
    );
    check(
        "[{match: {topic: a}, actions: [{disconnect: {mode: mqtt5, at_byte: 3, will: false}}]}]",
        r#"c PUBLISH a "1""#,
        expect![[r#"
            0      added-1: disconnect {"at_byte":3,"mode":"mqtt5","reason":139,"will":false} PUBLISH 1 c2s
            0    client < DISCONNECT 0x8b
            0    server < DISCONNECT
            0    cut by fin
        "#]],
    );
    check(
        "[{match: {topic: a}, actions: [{disconnect: {mode: mqtt5, at_byte: 3}}]}]",
        r#"s PUBLISH a "1""#,
        expect![[r#"
            0      added-1: disconnect {"at_byte":3,"mode":"mqtt5","reason":139,"will":true} PUBLISH 1 s2c received 30050001610031
            0    client < 300500
            0    cut by fin
        "#]],
    );
    check(
        "[{match: {topic: a}, actions: [{disconnect: {mode: mqtt5, will: false, reason: quota_exceeded}}]}]",
        r#"c PUBLISH a "1""#,
        expect![[r#"
            0      added-1: disconnect {"mode":"mqtt5","reason":151,"will":false} PUBLISH 1 c2s
            0    server < PUBLISH a "1"
            0    client < DISCONNECT 0x97
            0    server < DISCONNECT
            0    cut by fin
        "#]],
    );
    check(
        "[{match: {types: PINGREQ}, actions: [takeover]}]",
        "c PINGREQ",
        expect![[r#"
            0      added-1: takeover {} PINGREQ 1 c2s
            0    server < PINGREQ
            0    client < DISCONNECT 0x8e
            0    cut by fin
        "#]],
    );
}

#[test]
fn nothing_follows_a_cut_though_chaos_ends_behind_it() {
    let mut stage = Stage::new("[{match: {topic: a}, actions: [disconnect]}]");
    for line in CONNECTED.lines() {
        stage.play(line);
    }
    stage.heard.clear();
    let told = stage.sent[1].len();
    let bytes = [stage.bytes("PUBLISH a \"1\""), stage.bytes("PUBLISH b \"2\"")].concat();
    stage.receive(Direction::ClientToServer, &bytes);
    stage.listen();
    stage.play("off");
    expect![[r#"
        0      added-1: disconnect {"mode":"rst","will":true} PUBLISH 1 c2s
        0    server < PUBLISH a "1"
        0    cut by rst
    "#]]
    .assert_eq(&stage.heard);
    assert_eq!(stage.sent[1].len() - told, bytes.len() / 2, "what comes behind a cut is not told");
    assert_eq!(stage.line.next_timeout(|_| true), None);
    assert_eq!(stage.chaos.held(), Default::default());
}

#[test]
fn what_comes_behind_a_cut_that_waits_is_not_looked_at() {
    check(
        "[{match: {topic: a}, actions: [{latency: 10}, disconnect]}]",
        r#"c PUBLISH a "1"
           c PUBLISH a "2"
           s PUBLISH b "3"
           +10ms"#,
        expect![[r#"
            0      added-1: latency {"ms":10.0} PUBLISH 1 c2s
            0      added-1: disconnect {"mode":"rst","will":true} PUBLISH 1 c2s
            0    client < PUBLISH b "3"
            10   server < PUBLISH a "1"
            10   cut by rst
        "#]],
    );
    check(
        "[{match: {topic: a}, actions: [{latency: 10}, disconnect]}]",
        r#"c PUBLISH a "1"
           c PUBLISH a "2"
           off
           c PUBLISH a "3""#,
        expect![[r#"
            0      added-1: latency {"ms":10.0} PUBLISH 1 c2s
            0      added-1: disconnect {"mode":"rst","will":true} PUBLISH 1 c2s
            0    server < PUBLISH a "1"
            0    server < PUBLISH a "2"
            0    server < PUBLISH a "3"
        "#]],
    );
}

#[test]
fn a_refused_client_does_not_reach_the_server() {
    check_connect(
        "[{actions: [{refuse_connect: {reason: server_busy}}]}]",
        "c CONNECT me
         c PINGREQ",
        expect![[r#"
            0      added-1: refuse_connect {"code":137} CONNECT 1 c2s
            0    client < CONNACK session_present=false 0x89
            0    cut by fin
        "#]],
    );
    check_connect(
        "[{actions: [{refuse_connect: {}}]}]",
        "c CONNECT me v=3.1.1",
        expect![[r#"
            0      added-1: refuse_connect {"code":136} CONNECT 1 c2s
            0    client < CONNACK session_present=false 0x88
            0    cut by fin
        "#]],
    );
}

#[test]
fn a_session_is_lost_before_its_client_connects() {
    check_connect(
        "[{actions: [lose_session]}]",
        "c CONNECT me
         s CONNACK",
        expect![[r#"
            0      added-1: lose_session {} CONNECT 1 c2s
            0    the session is lost
            0    server < CONNECT me v=5
            0    client < CONNACK session_present=false
        "#]],
    );
}

#[test]
fn acks_say_what_they_are_told_to() {
    check(
        "[{match: {types: PUBACK}, actions: [{reason_code: quota_exceeded}]}]",
        "s PUBACK 1",
        expect![[r#"
            0      added-1: reason_code {"code":151} PUBACK 1 s2c received 40020001
            0    client < PUBACK 1 0x97
        "#]],
    );
    check_connect(
        "[{match: {types: CONNACK}, actions: [{reason_code: 0x87}]}]",
        "c CONNECT me v=3.1.1
         s CONNACK
         s PINGRESP",
        expect![[r#"
            0    server < CONNECT me v=3.1.1
            0      added-1: reason_code {"code":135} CONNACK 1 s2c received 20020000
            0    client < CONNACK session_present=false 0x87
            0    cut by fin
        "#]],
    );
    check_connect(
        "[{actions: [{capabilities: {maximum_qos: 0, receive_maximum: 1, session_present: true}}]}]",
        "c CONNECT me
         s CONNACK",
        expect![[r#"
            0    server < CONNECT me v=5
            0      added-1: capabilities {"maximum_qos":0,"receive_maximum":1,"session_present":true} CONNACK 1 s2c received 2003000000
            0    client < CONNACK session_present=true receive_maximum=1 maximum_qos=0
        "#]],
    );
}

#[test]
fn a_black_hole_swallows_both_directions_for_its_time() {
    check(
        "[{match: {types: PINGREQ}, when: {first_n: 1}, actions: [{blackhole: {duration: 1s}}]}]",
        r#"c PINGREQ
           c PUBLISH a "1"
           s PUBLISH b "2"
           +1000ms
           c PUBLISH a "3"
           s PUBLISH b "4""#,
        expect![[r#"
            0      added-1: blackhole {"ms":1000.0} PINGREQ 1 c2s
            1000 server < PUBLISH a "3"
            1000 client < PUBLISH b "4"
        "#]],
    );
}

#[test]
fn bytes_take_their_time() {
    check(
        "[{match: {types: PUBLISH}, actions: [{bandwidth: {bytes_per_s: 1000}}]}]",
        r#"s PUBLISH a "1234"
           s PUBLISH a "5678"
           +100ms"#,
        expect![[r#"
            0      added-1: bandwidth {"bytes_per_s":1000} PUBLISH 1 s2c
            0      added-1: bandwidth {"bytes_per_s":1000} PUBLISH 2 s2c
            10   client < PUBLISH a "1234"
            20   client < PUBLISH a "5678"
        "#]],
    );
    check(
        "[{match: {types: PUBLISH}, actions: [{slice: {size: 4, delay: 10}}]}]",
        r#"s PUBLISH a "1234"
           s PINGRESP
           +100ms"#,
        expect![[r#"
            0      added-1: slice {"delay_ms":10.0,"size":4} PUBLISH 1 s2c
            0    client < 30080001
            10   client < 61003132
            20   client < 3334
            20   client < PINGRESP
        "#]],
    );
}

#[test]
fn when_chaos_is_over_nothing_waits_any_more() {
    for end in ["off", "off and on"] {
        check(
            "[{match: {topic: slow/#}, actions: [{slow_subscriber: {delay_ms: 100}}]},
              {match: {topic: late}, actions: [{latency: 5000}]}]",
            &format!(
                r#"s PUBLISH slow/a "1"
                   s PUBLISH late "2"
                   s PUBLISH fast "3"
                   {end}
                   s PUBLISH slow/a "4""#
            ),
            expect![[r#"
            0      added-1: slow_subscriber {"ms":100.0} PUBLISH 1 s2c
            0      added-2: latency {"ms":5000.0} PUBLISH 2 s2c
            0    client < PUBLISH late "2"
            0    client < PUBLISH fast "3"
            0    client < PUBLISH slow/a "1"
            0    client < PUBLISH slow/a "4"
        "#]],
        );
    }
}

#[test]
fn a_blackhole_is_over_with_chaos_though_there_is_some_again() {
    check(
        "[{match: {topic: hole}, actions: [blackhole]}]",
        r#"c PUBLISH hole "1"
           c PUBLISH a "2"
           off and on
           c PUBLISH a "3""#,
        expect![[r#"
            0      added-1: blackhole {} PUBLISH 1 c2s
            0    server < PUBLISH a "3"
        "#]],
    );
}

#[test]
fn what_is_held_back_is_counted() {
    let mut stage = Stage::new("[{match: {types: PUBLISH}, actions: [{latency: 50}]}]");
    for line in CONNECTED.lines().chain([r#"s PUBLISH a "1""#, r#"c PUBLISH a "22""#]) {
        stage.play(line);
    }
    let held = stage.chaos.held();
    assert_eq!((held.packets, held.bytes), (2, 7 + 8));
    assert!(stage.line.held(Direction::ServerToClient) > 7, "and what it takes to keep it");
    stage.play("+50ms");
    assert_eq!(stage.chaos.held().packets, 0);
    stage.play(r#"s PUBLISH a "1""#);
    assert_eq!(stage.chaos.held().packets, 1);
    drop(stage.line);
    assert_eq!(stage.chaos.held(), Default::default());
}

#[test]
fn copies_take_no_more_room_than_one() {
    let mut stage =
        Stage::new("[{match: {types: PUBLISH}, actions: [{latency: 50}, {duplicate: {count: 1000}}]}]");
    for line in CONNECTED.lines().chain([r#"s PUBLISH a "1""#]) {
        stage.play(line);
    }
    let held = stage.chaos.held();
    assert_eq!((held.packets, held.bytes), (1001, 14));
    let before = stage.delivered[0].len();
    stage.play("+50ms");
    assert_eq!(stage.chaos.held(), Default::default());
    assert_eq!(stage.delivered[0].len() - before, 1001 * 7);
}

#[test]
fn messages_overtake_one_another_where_all_are_to_be_overtaken() {
    let script: String = (1..=8).map(|n| format!("s PUBLISH r/{n} \"{n}\"\n")).collect();
    check(
        "[{match: {topic: r/#}, actions: [{reorder: {window: 3}}]}]",
        &format!("{script}+2000ms"),
        expect![[r#"
            0      added-1: reorder {"behind":3,"max_ms":1000.0,"violate":false} PUBLISH 1 s2c
            0      added-1: reorder {"behind":2,"max_ms":1000.0,"violate":false} PUBLISH 2 s2c
            0      added-1: reorder {"behind":1,"max_ms":1000.0,"violate":false} PUBLISH 3 s2c
            0      added-1: reorder {"behind":3,"max_ms":1000.0,"violate":false} PUBLISH 4 s2c
            0    client < PUBLISH r/3 "3"
            0    client < PUBLISH r/2 "2"
            0    client < PUBLISH r/1 "1"
            0      added-1: reorder {"behind":3,"max_ms":1000.0,"violate":false} PUBLISH 5 s2c
            0      added-1: reorder {"behind":2,"max_ms":1000.0,"violate":false} PUBLISH 6 s2c
            0      added-1: reorder {"behind":1,"max_ms":1000.0,"violate":false} PUBLISH 7 s2c
            0    client < PUBLISH r/4 "4"
            0      added-1: reorder {"behind":3,"max_ms":1000.0,"violate":false} PUBLISH 8 s2c
            0    client < PUBLISH r/7 "7"
            0    client < PUBLISH r/6 "6"
            0    client < PUBLISH r/5 "5"
            1000 client < PUBLISH r/8 "8"
        "#]],
    );
    let mut stage =
        Stage::new("[{match: {topic: r/#}, actions: [{reorder: {window: 1000, max_ms: 10000}}]}]");
    for line in CONNECTED.lines() {
        stage.play(line);
    }
    for n in 0..3000 {
        stage.play(&format!("s PUBLISH r/{n} \"x\""));
        assert!(stage.chaos.held().packets <= 1_000);
    }
}

#[test]
fn a_client_that_leaves_a_black_hole_is_gone() {
    check(
        "[{match: {topic: hole}, actions: [blackhole]}]",
        r#"c PUBLISH hole "1"
           s PUBLISH a "2"
           c fin
           s fin"#,
        expect![[r#"
            0      added-1: blackhole {} PUBLISH 1 c2s
            0    server < fin
            0    client < fin
        "#]],
    );
    check(
        "[{match: {topic: hole}, actions: [blackhole]}]",
        r#"c PUBLISH hole "1"
           s fin
           +60000ms
           c fin"#,
        expect![[r#"
            0      added-1: blackhole {} PUBLISH 1 c2s
            60000 server < fin
            60000 client < fin
        "#]],
    );
}

#[test]
fn a_cut_within_a_packet_that_is_called_off_leaves_the_packet_whole() {
    check(
        "[{match: {topic: a}, actions: [{latency: 3000}, {disconnect: {at_byte: 5}}]}]",
        r#"s PUBLISH a "1"
           s PUBLISH b "2"
           +100ms
           off
           s PUBLISH b "3""#,
        expect![[r#"
            0      added-1: latency {"ms":3000.0} PUBLISH 1 s2c
            0      added-1: disconnect {"at_byte":5,"mode":"rst","will":true} PUBLISH 1 s2c received 30050001610031
            100  client < PUBLISH a "1"
            100  client < PUBLISH b "2"
            100  client < PUBLISH b "3"
        "#]],
    );
}

#[test]
fn messages_of_one_topic_stay_in_order_though_not_all_are_slow() {
    check(
        "[{match: {topic: a}, when: {every_nth: 2}, actions: [{slow_subscriber: {delay_ms: 100}}]}]",
        r#"s PUBLISH a "1"
           s PUBLISH a "2"
           s PUBLISH a "3"
           s PUBLISH b "b"
           s PUBLISH a "4"
           s PUBLISH a "5"
           +1000ms
           s PUBLISH a "6"
           +1000ms
           s PUBLISH a "7""#,
        expect![[r#"
            0    client < PUBLISH a "1"
            0      added-1: slow_subscriber {"ms":100.0} PUBLISH 2 s2c
            0    client < PUBLISH b "b"
            0      added-1: slow_subscriber {"ms":100.0} PUBLISH 5 s2c
            100  client < PUBLISH a "2"
            100  client < PUBLISH a "3"
            200  client < PUBLISH a "4"
            200  client < PUBLISH a "5"
            1000   added-1: slow_subscriber {"ms":100.0} PUBLISH 7 s2c
            1100 client < PUBLISH a "6"
            2000 client < PUBLISH a "7"
        "#]],
    );
}

#[test]
fn a_cut_behind_a_slow_message_holds_up_nothing() {
    check(
        "[{match: {topic: a}, actions: [{slow_subscriber: {delay_ms: 3000}}, disconnect]}]",
        r#"s PUBLISH a "1"
           s PINGRESP
           s PUBLISH b "2"
           +3000ms"#,
        expect![[r#"
            0      added-1: slow_subscriber {"ms":3000.0} PUBLISH 1 s2c
            0      added-1: disconnect {"mode":"rst","will":true} PUBLISH 1 s2c
            0    client < PINGRESP
            0    client < PUBLISH b "2"
            3000 client < PUBLISH a "1"
            3000 cut by rst
        "#]],
    );
}

#[test]
fn how_long_a_black_hole_lasts_shifts_nothing() {
    let rules = "[{match: {topic: a, direction: c2s}, when: {after_n: 1, max_count: 1}, actions: [{blackhole: {duration: 100}}]},
                  {match: {topic: a, direction: c2s}, when: {every_nth: 3}, actions: [drop]}]";
    let dropped = |pause: &str| {
        let mut stage = Stage::new(rules);
        for line in CONNECTED.lines() {
            stage.play(line);
        }
        for n in 1..=16 {
            stage.play(&format!("c PUBLISH a \"{n}\""));
            stage.play(pause);
        }
        let is_drop = |line: &&str| line.contains("drop");
        let last = stage.heard.lines().rfind(is_drop).and_then(|line| line.split_once(": "));
        last.expect("one was dropped").1.to_owned()
    };
    assert_eq!(["+11ms", "+30ms", "+60ms"].map(dropped), ["drop {} PUBLISH 16 c2s"; 3]);
}

#[test]
fn nothing_is_put_inside_of_a_packet_that_passes_in_slices() {
    check_parts(
        "[{match: {topic: a, direction: s2c}, actions: [{slice: {size: 4, delay: 10}}]},
          {match: {topic: b, direction: c2s}, actions: [{disconnect: {mode: mqtt5}}]}]",
        r#"s PUBLISH a "12345678"
           c PUBLISH b "x""#,
        expect![[r#"
            0      added-1: slice {"delay_ms":10.0,"size":4} PUBLISH 1 s2c
            0    client < 300c0001
            0      added-2: disconnect {"mode":"mqtt5","reason":139,"will":true} PUBLISH 1 c2s
            0    server < PUBLISH b "x"
            0    cut by fin
        "#]],
    );
    check_parts(
        "[{match: {topic: a, direction: c2s}, actions: [{slice: {size: 4, delay: 10}}]},
          {match: {topic: b, direction: s2c}, actions: [{disconnect: {will: false}}]}]",
        r#"c PUBLISH a "12345678"
           s PUBLISH b "x""#,
        expect![[r#"
            0      added-1: slice {"delay_ms":10.0,"size":4} PUBLISH 1 c2s
            0    server < 300c0001
            0      added-2: disconnect {"mode":"rst","will":false} PUBLISH 1 s2c
            0    client < PUBLISH b "x"
            0    server < 61003132333435363738e000
            0    cut by rst
        "#]],
    );
    check_parts(
        "[{match: {topic: a}, actions: [{slice: {size: 4, delay: 10}}]}, {match: {types: PINGRESP}, actions: [{delay_ack: 5}]}]",
        r#"s PUBLISH a "12345678"
           s PINGRESP
           +100ms"#,
        expect![[r#"
            0      added-1: slice {"delay_ms":10.0,"size":4} PUBLISH 1 s2c
            0    client < 300c0001
            0      added-2: delay_ack {"ms":5.0} PINGRESP 1 s2c
            10   client < 61003132
            20   client < 33343536
            30   client < 3738
            30   client < PINGRESP
        "#]],
    );
}

#[test]
fn a_packet_too_long_to_be_held_passes_whole_or_not_at_all() {
    let long = format!("c PUBLISH a \"{}\"", "x".repeat(LONGEST));
    let mut stage = Stage::new("[{match: {topic: hole}, actions: [blackhole]}]");
    for line in CONNECTED.lines() {
        stage.play(line);
    }
    stage.heard.clear();
    let bytes = stage.bytes(&long[2..]);
    stage.receive(Direction::ClientToServer, &bytes[..1_001]);
    stage.listen();
    stage.play(r#"s PUBLISH hole "1""#);
    stage.receive(Direction::ClientToServer, &bytes[1_001..]);
    stage.listen();
    stage.receive(Direction::ClientToServer, &bytes[..1_001]);
    stage.play("off");
    stage.receive(Direction::ClientToServer, &bytes[1_001..]);
    stage.play(r#"c PUBLISH a "2""#);
    expect![[r#"
        0    server < 1001 bytes
        0      added-1: blackhole {} PUBLISH 1 s2c received 30080004686f6c650031
        0    server < 787878787878
        0    server < PUBLISH a "2"
    "#]]
    .assert_eq(&stage.heard);
}

#[test]
fn nothing_is_put_inside_of_a_packet_that_passes_in_pieces() {
    let rules = "[{match: {topic: slow}, actions: [{slow_subscriber: {delay_ms: 10}}]},
                  {match: {types: PUBACK}, actions: [{delay_ack: 20}]},
                  {match: {topic: aside}, actions: [{reorder: {window: 9, max_ms: 30, violate: true}}]}]";
    let heard = |meanwhile: &str| {
        let mut stage = Stage::new(rules);
        for line in CONNECTED.lines() {
            stage.play(line);
        }
        for line in ["s PUBLISH slow \"1\"", "s PUBACK 1", "s PUBLISH aside \"2\""] {
            stage.play(line);
        }
        stage.heard.clear();
        let bytes = stage.bytes(&format!("PUBLISH a \"{}\"", "x".repeat(LONGEST)));
        let (begin, rest) = bytes.split_at(501);
        stage.receive(Direction::ServerToClient, begin);
        stage.listen();
        stage.play(meanwhile);
        stage.receive(Direction::ServerToClient, rest);
        stage.listen();
        stage.check_reports();
        stage.heard
    };
    expect![[r#"
        0    client < PUBLISH aside "2"
        0    client < 501 bytes
        100  client < 506 bytes
        100  client < PUBLISH slow "1"
        100  client < PUBACK 1
    "#]]
    .assert_eq(&heard("+100ms"));
    expect![[r#"
        0    client < PUBLISH aside "2"
        0    client < 501 bytes
        0    client < 506 bytes
        0    client < PUBACK 1
        0    client < PUBLISH slow "1"
    "#]]
    .assert_eq(&heard("off"));
}

#[test]
fn what_a_connection_ends_with_waits_behind_what_waits() {
    check(
        "[{match: {topic: a}, actions: [{latency: 50}]}, {match: {topic: s}, actions: [{slow_subscriber: {delay_ms: 100}}]}]",
        r#"c PUBLISH a "1"
           c DISCONNECT
           c fin
           s PUBLISH s "2"
           s fin
           +100ms"#,
        expect![[r#"
            0      added-1: latency {"ms":50.0} PUBLISH 1 c2s
            0      added-2: slow_subscriber {"ms":100.0} PUBLISH 1 s2c
            0    client < fin
            50   server < PUBLISH a "1"
            50   server < DISCONNECT
            50   server < fin
        "#]],
    );
}

#[test]
fn an_alias_means_the_same_though_the_message_that_set_it_was_lost() {
    check(
        "[{match: {types: PUBLISH}, when: {first_n: 1}, actions: [drop]}]",
        r#"c PUBLISH a alias=1 "1"
           c PUBLISH "" alias=1 "2"
           c PUBLISH "" alias=1 "3""#,
        expect![[r#"
            0      added-1: drop {} PUBLISH 1 c2s
            0    server < PUBLISH a alias=1 "2"
            0    server < PUBLISH "" alias=1 "3"
        "#]],
    );
    check(
        "[{match: {topic: slow}, actions: [{slow_subscriber: {delay_ms: 10}}]}]",
        r#"s PUBLISH slow alias=1 "1"
           s PUBLISH "" alias=1 "2"
           s PUBLISH fast alias=1 "3"
           s PUBLISH "" alias=1 "4"
           +100ms"#,
        expect![[r#"
            0      added-1: slow_subscriber {"ms":10.0} PUBLISH 1 s2c
            0      added-1: slow_subscriber {"ms":10.0} PUBLISH 2 s2c
            0    client < PUBLISH fast alias=1 "3"
            0    client < PUBLISH "" alias=1 "4"
            10   client < PUBLISH slow "1"
            20   client < PUBLISH slow "2"
        "#]],
    );
}

#[test]
fn a_long_message_is_told_as_it_came_though_the_server_is_told_its_topic() {
    let mut stage = Stage::new("[{match: {types: PUBLISH}, when: {first_n: 1}, actions: [drop]}]");
    for line in CONNECTED.lines().chain(["c PUBLISH a alias=1 \"1\""]) {
        stage.play(line);
    }
    stage.play(&format!("c PUBLISH \"\" alias=1 \"{}\"", "x".repeat(LONGEST)));
    stage.check_reports();
    assert!(stage.heard.ends_with(&format!("server < PUBLISH a alias=1 \"{}\"\n", "x".repeat(LONGEST))));
}

#[test]
fn bytes_that_are_no_mqtt_pass() {
    check_connect(
        "[{actions: [drop]}]",
        "c hex:47455420\ns hex:4854",
        expect![[r#"
            0    server < 47455420
            0    client < 4854
        "#]],
    );
    check(
        "[{actions: [drop], match: {types: PUBLISH}}]",
        "c hex:3002ffff\nc PINGREQ",
        expect![[r#"
            0    server < 3002ffff
            0    server < PINGREQ
        "#]],
    );
}

#[test]
fn a_line_that_is_put_in_later_begins_with_the_next_packet() {
    let splice = Splice {
        identity: Some(("me".to_owned(), ProtocolVersion::V311)),
        from_client: Begun::Bytes(Bytes::from_static(&[0x30, 4])),
        from_server: Begun::Left(2),
    };
    let mut stage = Stage::spliced("[{actions: [drop]}]", splice, ProtocolVersion::V311);
    for line in ["c hex:0001", "c hex:6131c0", "c hex:00", "s hex:6131d0", "s hex:00"] {
        stage.play(line);
    }
    expect![[r#"
        0    server < 00016131
        0      added-1: drop {} PINGREQ 1 c2s
        0    client < 6131
        0      added-1: drop {} PINGRESP 1 s2c received d000
    "#]]
    .assert_eq(&stage.heard);
}

proptest! {
    #[test]
    fn whatever_is_sent_in_whatever_pieces_nothing_is_lost_without_a_rule(
        parts in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..30),
        is_mqtt in any::<bool>(),
    ) {
        let mut stage = Stage::new("[{match: {client: other}, actions: [drop]}]");
        if is_mqtt {
            stage.play("c CONNECT me");
        }
        let mut passed: [Vec<u8>; 2] = Default::default();
        let mut came: [Vec<u8>; 2] = Default::default();
        for (up, bytes) in parts {
            let direction = if up { Direction::ClientToServer } else { Direction::ServerToClient };
            came[usize::from(up)].extend_from_slice(&bytes);
            stage.line.receive(stage.now, direction, &bytes);
        }
        for direction in [Direction::ClientToServer, Direction::ServerToClient] {
            stage.line.end(stage.now, direction);
        }
        while let Some(output) = stage.line.poll_output(stage.now, |_| true) {
            if let LineOutput::Pass { direction, bytes } = output {
                passed[usize::from(direction == Direction::ClientToServer)].extend_from_slice(&bytes);
            }
        }
        prop_assert_eq!(passed, came);
    }
}
