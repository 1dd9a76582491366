//! Chaos as a whole: which packets meet what.

mod laws;
mod rates;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use expect_test::{Expect, expect};
use jiff::Timestamp;

use super::*;
use crate::{
    packet::{PacketType, ProtocolVersion, QoS},
    recording::{Direction, FaultInjected, NamePattern},
};

const UP: Direction = Direction::ClientToServer;
const DOWN: Direction = Direction::ServerToClient;

/// Chaos with the rules of a list in YAML, over the API.
fn chaos(rules: &str) -> Chaos {
    chaos_of(&specs(rules), 7)
}

fn chaos_of(rules: &[RuleSpec], seed: u64) -> Chaos {
    let chaos = Chaos::new(ChaosOptions { seed, ..ChaosOptions::default() }, ChaosHooks::default());
    for spec in rules {
        chaos.create(spec.clone()).expect("a good rule");
    }
    chaos
}

/// Lines behind the first may be indented, all of them alike.
fn specs(rules: &str) -> Vec<RuleSpec> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let common = rules.lines().skip(1).map(indent).min().unwrap_or_default();
    let rules: Vec<&str> = rules.lines().map(|line| &line[indent(line).min(common)..]).collect();
    serde_saphyr::from_str(&rules.join("\n")).expect("a list of rules")
}

/// A PUBLISH of 20 bytes, 8 of them payload.
fn publish(direction: Direction, topic: &str) -> Seen<'_> {
    Seen {
        direction,
        packet: PacketType::Publish,
        protocol: ProtocolVersion::V5,
        topic: Some(topic),
        qos: Some(QoS::AtLeastOnce),
        size: 20,
        payload_at: Some(12),
    }
}

/// Another packet, of 4 bytes.
fn other(direction: Direction, packet: PacketType) -> Seen<'static> {
    Seen {
        direction,
        packet,
        protocol: ProtocolVersion::V5,
        topic: None,
        qos: None,
        size: 4,
        payload_at: None,
    }
}

/// Connections of clients, and what was decided about their packets.
struct Stage {
    chaos: Chaos,
    judges: BTreeMap<String, Judge>,
    heard: String,
}

impl Stage {
    fn new(chaos: &Chaos) -> Self {
        Self { chaos: chaos.clone(), judges: BTreeMap::new(), heard: String::new() }
    }

    /// `CLIENT> TYPE …`, or `CLIENT< TYPE …`, with `topic=T`, `qos=N`, `v=3.1.1`, `size=N`, `payload=N` (where it begins),
    /// `*N` (so many of them); `CLIENT gone`; `delete RULE`.
    fn play(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().expect("a client"), words.next().expect("what happens"));
        let Some(client) = first.strip_suffix(['>', '<']) else {
            match (first, second) {
                ("delete", rule) => self.chaos.delete(rule).expect("the rule is there"),
                (client, "gone") => drop(self.judges.remove(client).expect("the client is there")),
                _ => panic!("{line}?"),
            }
            return;
        };
        let direction = if first.ends_with('>') { UP } else { DOWN };
        let packet = PacketType::ALL.into_iter().find(|packet| packet.name() == second).expect(second);
        let mut seen = match packet {
            PacketType::Publish => publish(direction, "t"),
            _ => other(direction, packet),
        };
        let mut times = 1;
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or(("*", &word[1..]));
            let number = || value.parse().expect("a number");
            match name {
                "topic" if value == "?" => seen.topic = None,
                "topic" => seen.topic = Some(value),
                "qos" => seen.qos = QoS::try_from(number() as u8).ok(),
                "v" => seen.protocol = value.parse().expect("a version"),
                "size" => seen.size = number(),
                "payload" => seen.payload_at = Some(number()),
                _ => times = number(),
            }
        }
        let judge = self.judges.entry(client.to_owned()).or_insert_with(|| self.chaos.judge(client));
        for _ in 0..times {
            let Decisions { nth, decisions } = judge.judge(&seen);
            if decisions.is_empty() {
                continue;
            }
            _ = write!(self.heard, "{first} {second} {nth}:");
            for Decision { rule, effect } in decisions {
                let (action, detail) = effect.to_parts();
                let detail = if detail == "{}" { String::new() } else { format!(" {detail}") };
                _ = write!(self.heard, " {rule}={action}{detail}");
            }
            self.heard += "\n";
        }
    }
}

fn play(chaos: &Chaos, packets: &str) -> String {
    let mut stage = Stage::new(chaos);
    packets.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| stage.play(line));
    stage.heard
}

fn check(rules: &str, packets: &str, decided: Expect) {
    decided.assert_eq(&play(&chaos(rules), packets));
}

#[test]
fn a_rule_is_for_what_all_of_its_match_holds_of() {
    check(
        "- {id: way, match: {direction: s2c, types: PUBLISH}, actions: [drop]}
         - {id: who, match: {client: ['sensor-*', b], types: puback}, actions: [drop]}
         - {id: what, match: {topic: [a/+, '#'], qos: [0, 2], direction: client_to_server}, actions: [drop]}
         - {id: which, match: {types: [Subscribe, UNSUBACK]}, actions: [drop]}",
        "a> PUBLISH
         a< PUBLISH
         sensor-1> PUBACK
         b< PUBACK
         c< PUBACK
         a> PUBLISH topic=a/b qos=0
         a> PUBLISH topic=$SYS/b qos=2
         a> PUBLISH topic=a/b qos=1
         a> PUBLISH topic=? qos=2
         a> SUBSCRIBE
         a< SUBACK
         a< UNSUBACK
         a> PINGREQ",
        expect![[r#"
            a< PUBLISH 1: way=drop
            sensor-1> PUBACK 1: who=drop
            b< PUBACK 1: who=drop
            a> PUBLISH 2: what=drop
            a> SUBSCRIBE 1: which=drop
            a< UNSUBACK 1: which=drop
        "#]],
    );
}

#[test]
fn without_types_a_rule_is_for_what_all_of_its_actions_can_be_done_to() {
    let each = PacketType::ALL.map(|packet| format!("a> {packet}\na< {packet}\n")).concat();
    let old = each.replace('\n', " v=3.1.1\n");
    let on_each = |action: &str| {
        let chaos = chaos(&format!("- {{id: x, actions: {action}}}"));
        let of = |heard: String| {
            let packets = heard.lines().filter_map(|line| line.split_once(" 1: ").map(|(packet, _)| packet));
            packets.collect::<Vec<_>>().join(", ")
        };
        format!("{action}\n  5.0: {}\n  3.1.1: {}\n", of(play(&chaos, &each)), {
            chaos.set_seed(7);
            of(play(&chaos, &old))
        })
    };
    let mut table = String::new();
    for action in [
        "[drop]",
        "[withhold_ack]",
        "[{reason_code: 0x97}]",
        "[{delay_ack: 5}, {reason_code: 0x97}]",
        "[lose_session]",
        "[{capabilities: {maximum_qos: 1}}]",
        "[{capabilities: {session_present: false}}]",
        "[{slow_subscriber: {delay_ms: 5}}, {duplicate: {count: 1}}]",
    ] {
        table += &on_each(action);
    }
    expect![[r#"
        [drop]
          5.0: a> CONNECT, a< CONNACK, a> PUBLISH, a< PUBLISH, a> PUBACK, a< PUBACK, a> PUBREC, a< PUBREC, a> PUBREL, a< PUBREL, a> PUBCOMP, a< PUBCOMP, a> SUBSCRIBE, a< SUBACK, a> UNSUBSCRIBE, a< UNSUBACK, a> PINGREQ, a< PINGRESP, a> DISCONNECT, a< DISCONNECT, a> AUTH, a< AUTH
          3.1.1: a> CONNECT, a< CONNACK, a> PUBLISH, a< PUBLISH, a> PUBACK, a< PUBACK, a> PUBREC, a< PUBREC, a> PUBREL, a< PUBREL, a> PUBCOMP, a< PUBCOMP, a> SUBSCRIBE, a< SUBACK, a> UNSUBSCRIBE, a< UNSUBACK, a> PINGREQ, a< PINGRESP, a> DISCONNECT
        [withhold_ack]
          5.0: a< CONNACK, a> PUBACK, a< PUBACK, a> PUBREC, a< PUBREC, a> PUBREL, a< PUBREL, a> PUBCOMP, a< PUBCOMP, a< SUBACK, a< UNSUBACK, a< PINGRESP
          3.1.1: a< CONNACK, a> PUBACK, a< PUBACK, a> PUBREC, a< PUBREC, a> PUBREL, a< PUBREL, a> PUBCOMP, a< PUBCOMP, a< SUBACK, a< UNSUBACK, a< PINGRESP
        [{reason_code: 0x97}]
          5.0: a< CONNACK, a> PUBACK, a< PUBACK, a> PUBREC, a< PUBREC, a> PUBREL, a< PUBREL, a> PUBCOMP, a< PUBCOMP, a< SUBACK, a< UNSUBACK
          3.1.1: a< CONNACK, a< SUBACK
        [{delay_ack: 5}, {reason_code: 0x97}]
          5.0: a< CONNACK, a> PUBACK, a< PUBACK, a> PUBREC, a< PUBREC, a> PUBREL, a< PUBREL, a> PUBCOMP, a< PUBCOMP, a< SUBACK, a< UNSUBACK
          3.1.1: a< CONNACK, a< SUBACK
        [lose_session]
          5.0: a> CONNECT
          3.1.1: a> CONNECT
        [{capabilities: {maximum_qos: 1}}]
          5.0: a< CONNACK
          3.1.1: 
        [{capabilities: {session_present: false}}]
          5.0: a< CONNACK
          3.1.1: a< CONNACK
        [{slow_subscriber: {delay_ms: 5}}, {duplicate: {count: 1}}]
          5.0: a< PUBLISH
          3.1.1: a< PUBLISH
    "#]].assert_eq(&table);
}

#[test]
fn counts_are_of_one_rule_client_and_direction() {
    check(
        "- {id: first, match: {types: [PUBLISH, PUBACK]}, when: {first_n: 2}, actions: [duplicate]}
         - {id: third, match: {types: PUBLISH}, when: {every_nth: 3}, actions: [duplicate]}
         - {id: late, match: {types: PUBLISH}, when: {after_n: 3, max_count: 2}, actions: [duplicate]}",
        "a> PUBLISH
         a> PUBACK
         a> PUBLISH *5
         b> PUBLISH *3
         a< PUBLISH *3
         a gone
         a> PUBLISH *2",
        expect![[r#"
            a> PUBLISH 1: first=duplicate {"count":1}
            a> PUBACK 1: first=duplicate {"count":1}
            a> PUBLISH 2: first=duplicate {"count":1}
            a> PUBLISH 3: third=duplicate {"count":1}
            a> PUBLISH 4: late=duplicate {"count":1}
            a> PUBLISH 5: late=duplicate {"count":1}
            a> PUBLISH 6: third=duplicate {"count":1}
            b> PUBLISH 1: first=duplicate {"count":1}
            b> PUBLISH 2: first=duplicate {"count":1}
            b> PUBLISH 3: third=duplicate {"count":1}
            a< PUBLISH 1: first=duplicate {"count":1}
            a< PUBLISH 2: first=duplicate {"count":1}
            a< PUBLISH 3: third=duplicate {"count":1}
        "#]],
    );
}

#[test]
fn max_count_is_of_firings_and_pings_have_their_own() {
    check(
        "- {id: few, when: {every_nth: 2, max_count: 2}, actions: [duplicate]}
         - {id: big, match: {types: PUBLISH}, when: {max_count: 1}, actions: [{corrupt: {part: payload}}]}",
        "a> PINGREQ
         a> PUBLISH payload=20
         a> PINGREQ
         a> PUBLISH *9
         a> PINGREQ *9",
        expect![[r#"
            a> PINGREQ 2: few=duplicate {"count":1}
            a> PUBLISH 2: few=duplicate {"count":1} big=corrupt {"changes":[[19,114]]}
            a> PUBLISH 4: few=duplicate {"count":1}
            a> PINGREQ 4: few=duplicate {"count":1}
        "#]],
    );
}

#[test]
fn rules_go_in_order_until_one_ends_the_packet_or_the_connection() {
    check(
        "- {id: slow, match: {types: PUBLISH}, actions: [{latency: 5}, duplicate]}
         - {id: off, enabled: false, actions: [drop]}
         - {id: lost, match: {types: PUBLISH}, when: {every_nth: 2}, actions: [drop, {latency: 9}]}
         - {id: cut, match: {types: PUBLISH}, when: {first_n: 2}, actions: [disconnect]}
         - {id: last, match: {types: PUBLISH}, when: {first_n: 2}, actions: [takeover]}",
        "a> PUBLISH *6",
        expect![[r#"
            a> PUBLISH 1: slow=latency {"ms":5.0} slow=duplicate {"count":1} cut=disconnect {"mode":"rst","will":true}
            a> PUBLISH 2: slow=latency {"ms":5.0} slow=duplicate {"count":1} lost=drop
            a> PUBLISH 3: slow=latency {"ms":5.0} slow=duplicate {"count":1} cut=disconnect {"mode":"rst","will":true}
            a> PUBLISH 4: slow=latency {"ms":5.0} slow=duplicate {"count":1} lost=drop
            a> PUBLISH 5: slow=latency {"ms":5.0} slow=duplicate {"count":1} last=takeover
            a> PUBLISH 6: slow=latency {"ms":5.0} slow=duplicate {"count":1} lost=drop
        "#]],
    );
}

#[test]
fn every_action_becomes_its_effect() {
    check(
        "- {id: a, match: {types: PUBLISH, direction: c2s}, actions: [
             {latency: {min_ms: 10, max_ms: 20}}, {duplicate: {count: 2}}, reorder, {corrupt: {bytes: 3}}, truncate,
             {bandwidth: {bytes_per_s: 100}}, {slice: {size: 3, delay: 1.5}}, {disconnect: {at_byte: 5, will: false}}]}
         - {id: b, match: {types: PUBLISH, direction: s2c}, actions: [
             {slow_subscriber: {delay_ms: 5000}}, {latency: {mean_ms: 10, sd_ms: 1}}, {blackhole: {duration: 5s}}]}
         - {id: c, match: {types: PUBACK, direction: s2c}, actions: [
             {delay_ack: {median_ms: 5, sigma: 1}}, duplicate_ack, {reason_code: Quota exceeded}, withhold_ack]}
         - {id: d, match: {types: CONNECT}, actions: [lose_session, {refuse_connect: {reason: banned}}]}
         - {id: e, match: {types: CONNACK}, actions: [{capabilities: {receive_maximum: 1}}, {disconnect: {mode: fin}}]}
         - {id: f, match: {types: PUBREL}, actions: [takeover]}
         - {id: g, match: {types: PUBCOMP}, actions: [blackhole]}",
        "a> CONNECT
         a< CONNACK
         a> PUBLISH
         a< PUBACK
         a< PUBLISH
         a> PUBREL
         a< PUBCOMP",
        expect![[r#"
            a> CONNECT 1: d=lose_session d=refuse_connect {"code":138}
            a< CONNACK 1: e=capabilities {"receive_maximum":1} e=disconnect {"mode":"fin","will":true}
            a> PUBLISH 1: a=latency {"ms":19.127344} a=duplicate {"count":2} a=reorder {"behind":2,"max_ms":1000.0,"violate":false} a=corrupt {"changes":[[9,139],[11,195],[17,108]]} a=truncate {"bytes":1,"reframe":false} a=bandwidth {"bytes_per_s":100} a=slice {"delay_ms":1.5,"size":3} a=disconnect {"at_byte":5,"mode":"rst","will":false}
            a< PUBACK 1: c=delay_ack {"ms":2.099488} c=duplicate_ack {"count":1} c=reason_code {"code":151} c=withhold_ack
            a< PUBLISH 1: b=slow_subscriber {"ms":5000.0} b=latency {"ms":9.832861} b=blackhole {"ms":5000.0}
            a> PUBREL 1: f=takeover
            a< PUBCOMP 1: g=blackhole
        "#]],
    );
}

#[test]
fn bytes_are_taken_from_where_the_packet_has_some() {
    check(
        "- {id: body, match: {types: [PINGREQ, PUBACK]}, actions: [{corrupt: {bytes: 9}}]}
         - {id: packet, match: {types: PINGREQ}, actions: [{corrupt: {bytes: 9, part: packet}}]}
         - {id: payload, match: {types: PUBLISH}, actions: [{corrupt: {bytes: 9, part: payload}}]}
         - {id: frame, match: {types: [PINGREQ, PUBACK]}, actions: [{truncate: {bytes: 9, reframe: true}}]}
         - {id: end, match: {types: [PINGREQ, PUBACK]}, actions: [{truncate: {bytes: 9}}]}",
        "a> PINGREQ size=2
         a> PUBACK size=4
         a> PUBLISH size=10 payload=8
         a> PUBLISH size=10 payload=10",
        expect![[r#"
            a> PINGREQ 1: packet=corrupt {"changes":[[0,94],[1,20]]} end=truncate {"bytes":1,"reframe":false}
            a> PUBACK 1: body=corrupt {"changes":[[2,249],[3,177]]} frame=truncate {"bytes":2,"reframe":true} end=truncate {"bytes":3,"reframe":false}
            a> PUBLISH 1: payload=corrupt {"changes":[[8,48],[9,99]]}
        "#]],
    );
    // Where the Remaining Length takes a byte more [section 2.1.4].
    for (size, header) in [
        (2, 2),
        (129, 2),
        (131, 3),
        (16_386, 3),
        (16_388, 4),
        (2_097_155, 4),
        (2_097_157, 5),
        (268_435_460, 5),
    ] {
        assert_eq!(Seen { size, ..publish(UP, "t") }.header_len(), header, "{size}");
    }
}

#[test]
fn packets_are_numbered_as_long_as_chaos_is_on() {
    let chaos = chaos("- {id: x, match: {types: PUBACK}, actions: [drop]}");
    let mut judge = chaos.judge("a");
    let mut nth = |seen: &Seen<'_>| judge.judge(seen).nth;
    assert_eq!([nth(&publish(UP, "t")), nth(&publish(UP, "u")), nth(&publish(DOWN, "t"))], [1, 2, 1]);
    assert_eq!(nth(&other(UP, PacketType::Pingreq)), 1);
    chaos.disable();
    assert!(!chaos.is_on());
    assert_eq!(nth(&publish(UP, "t")), 0);
    chaos.enable();
    assert!(chaos.is_on());
    assert_eq!(nth(&publish(UP, "t")), 3);
    assert_eq!(chaos.judge("a").judge(&publish(UP, "t")).nth, 4, "on another connection");
    assert_eq!(chaos.judge("b").judge(&publish(UP, "t")).nth, 1);
    assert_eq!(chaos.judge("").judge(&publish(UP, "t")).nth, 1);
    assert_eq!(chaos.judge("").judge(&publish(UP, "t")).nth, 2, "clients without a name are one");
}

#[test]
fn a_rule_for_a_proxy_leaves_alone_who_comes_elsewhere() {
    let chaos = chaos("- {id: x, match: {proxy: [edge-*, default]}, actions: [drop]}");
    let is_hit = |chaos: &Chaos| !chaos.judge("a").judge(&publish(UP, "t")).decisions.is_empty();
    assert!(is_hit(&chaos), "the server's own listener");
    assert!(is_hit(&chaos.of_proxy(&"edge-1".into())));
    assert!(!is_hit(&chaos.of_proxy(&"core".into())));
}

#[test]
fn overlapping_connections_of_a_client_share_counts() {
    let chaos = chaos("- {id: x, match: {types: PUBLISH}, when: {every_nth: 2}, actions: [drop]}");
    let (mut one, mut two) = (chaos.judge("a"), chaos.judge("a"));
    let mut decided = Vec::new();
    for _ in 0..2 {
        for judge in [&mut one, &mut two] {
            let Decisions { nth, decisions } = judge.judge(&publish(UP, "t"));
            decided.push((nth, decisions.len()));
        }
    }
    assert_eq!(decided, [(1, 0), (2, 1), (3, 0), (4, 1)]);
}

#[test]
fn rules_are_made_changed_and_removed_while_clients_are_there() {
    let chaos = chaos("[]");
    assert!(!chaos.is_on() && chaos.rules().is_empty());
    let mut stage = Stage::new(&chaos);
    stage.play("a> PUBLISH");
    let rule = |yaml: &str| specs(yaml).remove(0);
    let x = rule("- {id: x, match: {types: PUBLISH}, when: {first_n: 1}, actions: [duplicate]}");
    let view = chaos.create(x.clone()).expect("a good rule");
    assert_eq!((view.rule.spec(), view.from_settings, view.faults), (&x, false, 0));
    stage.play("a> PUBLISH *2");
    assert_eq!(stage.heard, "a> PUBLISH 1: x=duplicate {\"count\":1}\n");

    assert_eq!(chaos.create(x.clone()).unwrap_err(), ChaosError::Exists("x".to_owned()));
    let unnamed = rule("- {match: {types: PUBACK}, actions: [drop]}");
    assert_eq!(&**chaos.create(unnamed.clone()).expect("a good rule").rule.id(), "added-1");
    assert_eq!(&**chaos.create(unnamed.clone()).expect("a good rule").rule.id(), "added-2");
    let bad = RuleSpec { actions: Vec::new(), ..unnamed.clone() };
    assert!(matches!(chaos.create(bad.clone()), Err(ChaosError::Bad(_))));
    assert_eq!(chaos.update("y", x.clone()).unwrap_err(), ChaosError::NotFound("y".to_owned()));
    assert!(matches!(chaos.update("x", bad), Err(ChaosError::Bad(_))));
    assert_eq!(
        chaos.update("added-1", x.clone()).unwrap_err().to_string(),
        "id: stays \"added-1\": a rule keeps its id"
    );

    // As it is, and yet another: it begins anew.
    chaos.update("x", RuleSpec { id: String::new(), ..x.clone() }).expect("a good rule");
    stage.play("a> PUBLISH *2");
    assert_eq!(stage.heard.lines().last(), Some("a> PUBLISH 3: x=duplicate {\"count\":1}"));
    let ids = || chaos.rules().iter().map(|view| view.rule.id().to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(ids(), "x added-1 added-2");
    chaos.delete("x").expect("it is there");
    assert_eq!(chaos.delete("x").unwrap_err().to_string(), "no rule \"x\"");
    assert!(chaos.rule("x").is_err() && chaos.rule("added-1").is_ok());
    chaos.update("added-1", RuleSpec { enabled: false, ..unnamed.clone() }).expect("a good rule");
    assert!(chaos.is_on());
    chaos.update("added-2", RuleSpec { enabled: false, ..unnamed }).expect("a good rule");
    assert!(!chaos.is_on(), "no rule is enabled");
    chaos.reset();
    assert_eq!(ids(), "");
    assert!(chaos.is_enabled());
}

#[test]
fn reset_and_another_seed_begin_anew() {
    let rule = "- {id: x, match: {types: PUBLISH}, actions: [{latency: {min_ms: 0, max_ms: 1}}]}";
    let chaos = chaos(rule);
    let mut judge = chaos.judge("a");
    let mut draw = || judge.judge(&publish(UP, "t"));
    let first = [draw(), draw(), draw()];
    assert_ne!(first[0].decisions, first[1].decisions);
    chaos.set_seed(8);
    let others = [draw(), draw(), draw()];
    assert_eq!(others.each_ref().map(|decisions| decisions.nth), [1, 2, 3]);
    assert!((0..3).all(|n| first[n].decisions != others[n].decisions));
    assert_eq!(chaos.seed(), 8);
    chaos.set_seed(7);
    assert_eq!([draw(), draw(), draw()], first);
    chaos.disable();
    chaos.reset();
    assert!(!chaos.is_enabled(), "reset does not turn it on");
    chaos.enable();
    assert!(!chaos.is_on());
    chaos.create(specs(rule).remove(0)).expect("a good rule");
    assert_eq!([draw(), draw(), draw()], first);
}

#[test]
fn a_rule_that_was_removed_comes_back_in_its_old_place() {
    let settings = |yaml: &str| serde_saphyr::from_str::<ChaosSpec>(yaml).expect("settings");
    let chaos = Chaos::new(ChaosOptions::default(), ChaosHooks::default());
    chaos.set(&settings("rules: [{id: s1, actions: [drop]}, {id: s2, actions: [drop]}]")).expect("good");
    for id in ["a", "b", "c"] {
        chaos
            .create(serde_saphyr::from_str(&format!("{{id: {id}, actions: [drop]}}")).expect("a rule"))
            .expect("new");
    }
    let shown = || {
        let origin = |view: &RuleView| if view.from_settings { "settings" } else { "api" };
        chaos.rules().iter().map(|view| format!("{} {}", view.rule.id(), origin(view))).collect::<Vec<_>>()
    };
    let (before, seen) = (shown(), chaos.rules());
    assert_eq!(before, ["s1 settings", "s2 settings", "a api", "b api", "c api"]);
    for id in ["b", "s1"] {
        let of_id = seen.iter().find(|view| &**view.rule.id() == id).expect("it was there");
        chaos.delete(id).expect("it is there");
        chaos.restore(of_id).expect("there is room");
        assert_eq!(shown(), before);
        // Also if there is another one of its id, behind all others.
        chaos.delete(id).expect("it is there");
        chaos
            .create(
                serde_saphyr::from_str(&format!("{{id: {id}, actions: [withhold_ack]}}")).expect("a rule"),
            )
            .expect("new");
        assert_ne!(shown(), before);
        chaos.restore(of_id).expect("it is there");
        assert_eq!(shown(), before);
    }
    chaos.reset();
    seen.iter().rev().for_each(|view| chaos.restore(view).expect("there is room"));
    assert_eq!(shown(), before);
}

#[test]
fn settings_replace_what_came_from_settings_and_keep_the_rest() {
    let settings = |yaml: &str| serde_saphyr::from_str::<ChaosSpec>(yaml).expect("settings");
    let chaos = chaos("[]");
    let ids = || {
        let views = chaos.rules().into_iter();
        let shown =
            views.map(|view| format!("{}{}", view.rule.id(), if view.from_settings { "" } else { "*" }));
        shown.collect::<Vec<_>>().join(" ")
    };
    chaos
        .set(&settings(
            "packet_loss: 0.5
rules:
  - {id: x, match: {types: PUBLISH}, when: {first_n: 1}, actions: [duplicate]}
  - {id: y, match: {types: PUBACK}, when: {first_n: 1}, actions: [duplicate]}",
        ))
        .expect("good settings");
    chaos.create(specs("- {id: made, actions: [duplicate]}").remove(0)).expect("a good rule");
    assert_eq!(ids(), "packet_loss x y made*");
    let mut stage = Stage::new(&chaos);
    stage.play("a> PUBACK *2");
    // Of x and y only y is as it was, so it goes on: it has fired already.
    chaos
        .set(&settings(
            "rules:
  - {id: y, match: {types: PUBACK}, when: {first_n: 1}, actions: [duplicate]}
  - {id: x, match: {types: PUBLISH}, when: {first_n: 2}, actions: [duplicate]}",
        ))
        .expect("good settings");
    assert_eq!(ids(), "y x made*");
    chaos.delete("made").expect("it is there");
    stage.play("a> PUBACK *2");
    stage.play("a> PUBLISH *3");
    expect![[r#"
        a> PUBACK 1: y=duplicate {"count":1} made=duplicate {"count":1}
        a> PUBACK 2: made=duplicate {"count":1}
        a> PUBLISH 1: x=duplicate {"count":1}
        a> PUBLISH 2: x=duplicate {"count":1}
    "#]]
    .assert_eq(&stage.heard);

    chaos.create(specs("- {id: z, actions: [drop]}").remove(0)).expect("a good rule");
    chaos.create(specs("- {id: 3g-up, actions: [drop]}").remove(0)).expect("a good rule");
    let refused = chaos.set(&settings(
        "enabled: false\nprofile: 3g\nrules: [{id: a, actions: [drop]}, {id: z, actions: [drop]}]",
    ));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "profile: a rule \"3g-up\" was made over the API; rules[1].id: a rule \"z\" was made over the API"
    );
    let refused = chaos.set(&settings("rules: [{id: a, actions: [drop]}, {actions: [{latency: -1}]}]"));
    let Err(ChaosError::Bad(bad)) = refused else { panic!("{refused:?}") };
    assert_eq!(bad[0].path, "rules[1].actions[0].latency");
    assert_eq!((ids(), chaos.is_enabled()), ("y x z* 3g-up*".to_owned(), true));
    chaos.set(&settings("enabled: false")).expect("good settings");
    assert_eq!((ids(), chaos.is_enabled()), ("z* 3g-up*".to_owned(), false));
}

#[test]
fn a_profile_is_applied_once_however_often() {
    let chaos = chaos("- {id: 3g-up, actions: [drop]}\n- {id: x, actions: [drop]}");
    let ids = || chaos.rules().iter().map(|view| view.rule.id().to_string()).collect::<Vec<_>>().join(" ");
    let applied = chaos.apply_profile("3g").expect("a profile");
    assert_eq!(applied.len(), 3);
    assert_eq!(ids(), "3g-up x 3g-latency 3g-down");
    let up = chaos.rule("3g-up").expect("it is there");
    assert_eq!(*up.rule.spec(), profile("3g").expect("a profile").rules[2]);
    chaos.apply_profile("3g").expect("a profile");
    assert_eq!(ids(), "3g-up x 3g-latency 3g-down");
    assert!(Arc::ptr_eq(&up.rule, &chaos.rule("3g-up").expect("it is there").rule), "it stayed");
    let error = chaos.apply_profile("satelite").unwrap_err();
    assert_eq!(error.to_string(), "profile: unknown profile \"satelite\"; did you mean \"satellite\"?");
}

#[test]
fn there_are_no_more_rules_than_allowed() {
    let limits = ChaosLimits { rules: 2, ..ChaosLimits::default() };
    let chaos = Chaos::new(ChaosOptions { seed: 7, limits }, ChaosHooks::default());
    let rule = || specs("- {actions: [drop]}").remove(0);
    chaos.create(rule()).expect("the first");
    assert_eq!(chaos.apply_profile("3g").unwrap_err(), ChaosError::TooMany(2));
    let two = ChaosSpec { rules: vec![rule(), rule()], ..ChaosSpec::default() };
    assert_eq!(chaos.set(&two).unwrap_err(), ChaosError::TooMany(2));
    chaos.create(rule()).expect("the second");
    assert_eq!(chaos.create(rule()).unwrap_err().to_string(), "there may be 2 rules at most");
    assert_eq!(chaos.rules().len(), 2);
}

#[test]
fn changes_and_faults_are_told() {
    let changes = Arc::new(AtomicU64::new(0));
    let faults = Arc::new(AtomicU64::new(0));
    let hooks = ChaosHooks {
        on_change: Box::new({
            let changes = Arc::clone(&changes);
            move || _ = changes.fetch_add(1, Ordering::Relaxed)
        }),
        on_fault: Box::new({
            let faults = Arc::clone(&faults);
            move |fault| faults.store(fault.number, Ordering::Relaxed)
        }),
    };
    let chaos = Chaos::new(ChaosOptions::default(), hooks);
    let mut generation = chaos.generation();
    let mut has_changed = |told: u64| {
        let before = std::mem::replace(&mut generation, chaos.generation());
        assert_eq!((changes.load(Ordering::Relaxed), generation > before), (told, true));
    };
    chaos.create(specs("- {id: x, actions: [drop]}").remove(0)).expect("a good rule");
    has_changed(1);
    chaos.disable();
    has_changed(2);
    chaos.set_seed(1);
    has_changed(3);
    chaos.load_script([]).expect("a script without faults");
    has_changed(4);
    assert!(chaos.delete("y").is_err());
    assert_eq!(changes.load(Ordering::Relaxed), 4, "nothing has changed");
    chaos.note(&fault("x", "drop", "{}", 1), 5, Timestamp::UNIX_EPOCH);
    assert_eq!(faults.load(Ordering::Relaxed), 1);
}

fn fault(rule: &str, action: &str, detail: &str, nth: u64) -> FaultInjected {
    FaultInjected {
        rule: rule.to_owned(),
        action: action.to_owned(),
        detail: detail.to_owned(),
        client_identifier: "a".to_owned(),
        direction: UP,
        packet_type: PacketType::Publish,
        nth,
        topic: "t".to_owned(),
        received: None,
        sent: Some(bytes::Bytes::from_static(b"0\0")),
    }
}

#[test]
fn the_journal_has_the_last_faults_and_figures_have_all() {
    let limits = ChaosLimits { faults: 3, ..ChaosLimits::default() };
    let chaos = Chaos::new(ChaosOptions { seed: 7, limits }, ChaosHooks::default());
    chaos.create(specs("- {id: x, actions: [drop]}").remove(0)).expect("a good rule");
    let at = Timestamp::UNIX_EPOCH;
    for (nth, rule, action) in
        [(1, "x", "drop"), (2, "x", "latency"), (3, "y", "drop"), (4, "x", "drop"), (5, "y", "drop")]
    {
        chaos.note(&fault(rule, action, "{}", nth), nth + 10, at);
    }
    const NONE: [u64; 0] = [];
    let numbers = |after, limit, filter: &FaultFilter| {
        let faults = chaos.faults(after, limit, filter);
        faults.iter().map(|fault| fault.number).collect::<Vec<_>>()
    };
    let all = FaultFilter::default();
    assert_eq!(numbers(0, 10, &all), [3, 4, 5]);
    assert_eq!(numbers(3, 10, &all), [4, 5]);
    assert_eq!(numbers(0, 2, &all), [3, 4]);
    assert_eq!(numbers(5, 10, &all), NONE);
    assert_eq!(numbers(u64::MAX, 10, &all), NONE);
    assert_eq!(numbers(0, 10, &FaultFilter { rule: Some("y".to_owned()), ..all.clone() }), [3, 5]);
    assert_eq!(numbers(0, 10, &FaultFilter { action: Some("latency".to_owned()), ..all.clone() }), NONE);
    assert_eq!(numbers(0, 1, &FaultFilter { client: Some(NamePattern::new("a*")), ..all.clone() }), [3]);
    assert_eq!(numbers(0, 1, &FaultFilter { direction: Some(DOWN), ..all.clone() }), NONE);
    assert_eq!(numbers(0, 9, &FaultFilter { packet_type: Some(PacketType::Puback), ..all }), NONE);
    let last = chaos.faults(4, 1, &FaultFilter::default()).remove(0);
    assert_eq!((last.connection, last.fault.nth, &last.fault.sent), (15, 5, &None));
    assert_eq!(chaos.last_fault(), 5);

    let figures = chaos.figures().into_iter().map(|figure| (figure.rule, figure.action, figure.count));
    let figures: Vec<String> =
        figures.map(|(rule, action, count)| format!("{rule} {action} {count}")).collect();
    assert_eq!(figures, ["x drop 2", "x latency 1", "y drop 2"]);
    let spec = chaos.rule("x").expect("it is there");
    assert_eq!(spec.faults, 3);
    // Another one that is called the same begins anew; figures only ever grow.
    chaos.reset();
    assert_eq!(chaos.create(spec.rule.spec().clone()).map(|view| view.faults), Ok(0));
    assert_eq!(chaos.figures().len(), 3);
}

#[test]
fn a_journal_of_long_topics_is_shorter() {
    let chaos = chaos("[]");
    let long = FaultInjected { topic: "t".repeat(65_535), ..fault("x", "drop", "{}", 1) };
    for _ in 0..1_000 {
        chaos.note(&long, 1, Timestamp::UNIX_EPOCH);
    }
    let kept = chaos.faults(0, usize::MAX, &FaultFilter::default());
    assert_eq!((kept.len(), kept.last().map(|fault| fault.number)), ((16 << 20) / 65_541, Some(1_000)));
}

#[test]
fn what_lines_hold_is_counted() {
    let chaos = chaos("[]");
    chaos.count_held(3, 100);
    chaos.count_held(-1, -40);
    assert_eq!(chaos.held(), Held { packets: 2, bytes: 60 });
    chaos.count_held(-2, -60);
    assert_eq!(chaos.held(), Held::default());
}

#[test]
fn a_script_decides_what_was_recorded_and_nothing_else() {
    let chaos = chaos("- {id: rule, match: {types: PUBLISH}, when: {first_n: 3}, actions: [duplicate]}");
    let ack = FaultInjected { direction: DOWN, packet_type: PacketType::Puback, ..fault("r", "x", "{}", 2) };
    let mut stage = Stage::new(&chaos);
    stage.play("a> PUBLISH");
    chaos
        .load_script([
            fault("slow", "latency", r#"{"ms":1.5}"#, 2),
            fault("lost", "drop", "{}", 2),
            fault("moot", "duplicate", r#"{"count":1}"#, 2),
            fault("byte", "corrupt", r#"{"changes":[[3,255],[19,1],[20,1]]}"#, 3),
            fault("byte", "corrupt", r#"{"changes":[[20,1]]}"#, 4),
            fault("end", "truncate", r#"{"bytes":99,"reframe":false}"#, 5),
            FaultInjected { action: "withhold_ack".to_owned(), ..ack.clone() },
            FaultInjected {
                action: "reason_code".to_owned(),
                detail: r#"{"code":151}"#.to_owned(),
                nth: 3,
                ..ack
            },
            FaultInjected { client_identifier: "b".to_owned(), ..fault("other", "drop", "{}", 1) },
        ])
        .expect("a good script");
    assert_eq!(chaos.script_len(), Some(9));
    for line in ["a> PUBLISH *6", "b> PUBLISH *2", "c> PUBLISH *2", "a< PUBLISH *2", "a< PUBACK *3 v=3.1.1"] {
        stage.play(line);
    }
    chaos.reset();
    assert_eq!((chaos.script_len(), chaos.is_on()), (None, false));
    expect![[r#"
        a> PUBLISH 1: rule=duplicate {"count":1}
        a> PUBLISH 2: slow=latency {"ms":1.5} lost=drop
        a> PUBLISH 3: byte=corrupt {"changes":[[3,255],[19,1]]}
        a> PUBLISH 5: end=truncate {"bytes":19,"reframe":false}
        b> PUBLISH 1: other=drop
        a< PUBACK 2: r=withhold_ack
    "#]]
    .assert_eq(&stage.heard);
}

#[test]
fn a_script_keeps_no_counts_of_rules() {
    let chaos = chaos("- {id: rule, match: {types: PUBLISH}, when: {first_n: 3}, actions: [duplicate]}");
    chaos.load_script([]).expect("a script without faults");
    assert!(chaos.is_on());
    let mut stage = Stage::new(&chaos);
    stage.play("a> PUBLISH *5");
    assert_eq!(stage.heard, "");
}

#[test]
fn what_a_script_cannot_mean_is_told_by_its_fault() {
    let chaos = chaos("[]");
    let mut told = String::new();
    let connect = FaultInjected { packet_type: PacketType::Connect, ..fault("x", "", "{}", 1) };
    for wrong in [
        fault("x", "explode", "{}", 1),
        fault("x", "latency", r#"{"ms":-1}"#, 1),
        fault("x", "latency", r#"{"ms":1e9}"#, 1),
        fault("x", "drop", "{}", 0),
        fault("x", "withhold_ack", "{}", 1),
        fault("x", "slow_subscriber", r#"{"ms":1}"#, 1),
        fault("x", "duplicate", r#"{"count":1000000}"#, 1),
        fault("x", "duplicate", r#"{"count":0}"#, 1),
        fault("x", "slice", r#"{"size":0,"delay_ms":1}"#, 1),
        fault("x", "bandwidth", r#"{"bytes_per_s":0}"#, 1),
        FaultInjected {
            action: "refuse_connect".to_owned(),
            detail: r#"{"code":0}"#.to_owned(),
            ..connect.clone()
        },
        FaultInjected { action: "drop".to_owned(), direction: DOWN, ..connect },
    ] {
        let error = chaos.load_script([fault("good", "drop", "{}", 1), wrong]).unwrap_err();
        _ = writeln!(told, "{error}");
    }
    expect![[r#"
        fault 2 (rule "x", explode): unknown value "explode"; known are latency, drop, duplicate, reorder, corrupt, truncate, withhold_ack, delay_ack, duplicate_ack, reason_code, disconnect, refuse_connect, blackhole, bandwidth, slice, lose_session, takeover, capabilities, slow_subscriber
        fault 2 (rule "x", latency): is no number of milliseconds
        fault 2 (rule "x", latency): waits for a day at most, not 1000000s
        fault 2 (rule "x", drop): nth counts from 1
        fault 2 (rule "x", withhold_ack): is not done to a PUBLISH that goes c2s
        fault 2 (rule "x", slow_subscriber): is not done to a PUBLISH that goes c2s
        fault 2 (rule "x", duplicate): count is 1 to 1000, not 1000000
        fault 2 (rule "x", duplicate): count is 1 to 1000, not 0
        fault 2 (rule "x", slice): size is 1 to 4294967295, not 0
        fault 2 (rule "x", bandwidth): bytes_per_s is at least 1
        fault 2 (rule "x", refuse_connect): code is 0x80 or above, not 0x00
        fault 2 (rule "x", drop): is not done to a CONNECT that goes s2c
    "#]].assert_eq(&told);
    assert_eq!(chaos.script_len(), None);
}

#[test]
fn clients_without_a_connection_are_forgotten_beyond_the_limit() {
    let limits = ChaosLimits { clients: 1, ..ChaosLimits::default() };
    let chaos = Chaos::new(ChaosOptions { seed: 7, limits }, ChaosHooks::default());
    chaos.create(specs("- {id: x, actions: [duplicate]}").remove(0)).expect("a good rule");
    let nth = |client: &str| chaos.judge(client).judge(&publish(UP, "t")).nth;
    assert_eq!([nth("a"), nth("a"), nth("b"), nth("a")], [1, 2, 1, 1]);
}

#[test]
fn a_rule_that_is_gone_leaves_nothing_with_clients() {
    let chaos = chaos("- {id: stays, actions: [duplicate]}");
    let mut judge = chaos.judge("a");
    for n in 0..50 {
        let id = format!("r{n}");
        let rule = RuleSpec { id: id.clone(), ..specs("- {actions: [duplicate]}").remove(0) };
        chaos.create(rule).expect("a good rule");
        assert_eq!(judge.judge(&publish(UP, "t")).decisions.len(), 2);
        chaos.delete(&id).expect("it is there");
    }
    judge.judge(&publish(UP, "t"));
    assert_eq!(judge.rules_remembered(), 1);
}
