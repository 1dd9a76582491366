//! What must not pass, and what must not be said to differ, though it looks like it.

use std::sync::Arc;

use expect_test::expect;

use super::{check, deliveries, events, heading, session, told, verdict};
use crate::verification::{
    Identity, Judged, Level, Rules, TooDifferent, Verifier,
    report::{self, Heading},
};

#[test]
fn another_message_under_the_identifier_of_an_open_exchange_is_no_repetition() {
    let expected = deliveries(&["t qos=1 id=1 a", "t qos=1 id=2 b"]);
    let observed = deliveries(&["t qos=1 id=1 a", "t qos=1 id=1 dup=true other", "t qos=1 id=2 b"]);
    for level in [Level::Payload, Level::Packets] {
        check(
            level,
            "",
            &expected,
            &observed,
            if level == Level::Payload {
                expect![[r#"
                    2 of 2 as expected
                    unexpected app s2c t: PUBLISH t qos=1 dup=true "other"
                "#]]
            } else {
                expect![[r#"
                    3 of 3 as expected
                    unexpected app s2c t: PUBLISH t qos=1 dup=true "other"
                "#]]
            },
        );
    }
}

#[test]
fn a_server_that_lost_the_session_begins_anew() {
    let script = |present: bool| {
        format!(
            "1 open\n1 c2s CONNECT app v=5 clean=false\n1 s2c CONNACK session_present=false\n1 s2c PUBLISH t qos=1 id=1 x\n\
             1 close client_rst\n2 open\n2 c2s CONNECT app v=5 clean=false\n2 s2c CONNACK session_present={present}\n\
             2 s2c PUBLISH t qos=1 id=1 {}x\n2 c2s PUBACK 1",
            if present { "dup=true " } else { "" }
        )
    };
    // The same message twice: once in each session, or once again in one.
    check(
        Level::Count,
        "",
        &script(false),
        &script(true),
        expect![[r#"
            1 of 2 as expected, 1 repeated
            count app s2c t: messages: 2 → 1
        "#]],
    );
}

#[test]
fn a_payload_that_is_ignored_is_not_looked_into() {
    let rules = r##"[{topic: "#", ignore: ["$.ts"]}, {topic: "log/#", ignore: [payload]}]"##;
    check(
        Level::Payload,
        rules,
        &deliveries(&[r#"log/1 "{\"ts\":1,\"v\":1}""#, r#"a "{\"ts\":1,\"v\":1}""#]),
        &deliveries(&[r#"log/1 "{\"ts\":2,\"v\":2}""#, r#"a "{\"ts\":2,\"v\":2}""#]),
        expect![[r#"
            1 of 2 as expected
            changed app s2c a: $.v: 1 → 2
        "#]],
    );
}

#[test]
fn numbers_differ_in_any_digit_where_rules_look_inside() {
    let rules = r#"[{ignore: ["$.ts"], tolerance: {"$.near": 1}}]"#;
    let message = |serial: &str, near: &str| {
        deliveries(&[&format!(r#"t "{{\"ts\":1,\"serial\":{serial},\"near\":{near}}}""#)])
    };
    check(
        Level::Payload,
        rules,
        &message("123456789012345678901", "12345678901234567890.5"),
        &message("123456789012345678902", "12345678901234567890.25"),
        expect![[r#"
            0 of 1 as expected
            changed app s2c t: $.serial: 123456789012345678901 → 123456789012345678902
        "#]],
    );
}

#[test]
fn who_stands_in_for_a_client_ends_as_it_is_told() {
    for cause in ["timeout", "fault", "proxy"] {
        let recorded = session(&format!("1 close {cause}"));
        let replayed = session("1 close client_rst");
        let from_server = verdict(Level::Packets, Judged::FromServer, "", &recorded, &replayed);
        assert_eq!(told(&from_server), "2 of 2 as expected\n");
        let both = verdict(Level::Packets, Judged::Both, "", &recorded, &replayed);
        assert_eq!(both.difference_count(), 2, "{}", told(&both));
    }
}

#[test]
fn user_properties_keep_their_order() {
    let rules = r#"[{topic: u, ignore: [properties.user.trace]}]"#;
    check(
        Level::Payload,
        rules,
        &deliveries(&[
            "t user=a:1 user=b:2 x",
            "u user=trace:1 user=a:1 user=b:1 x",
            "v user=a:1 user=b:2 x",
        ]),
        &deliveries(&["t user=b:2 user=a:1 x", "u user=a:1 user=b:1 user=trace:2 x", "v user=b:2 x"]),
        expect![[r#"
            1 of 3 as expected
            changed app s2c t: properties.user: a, b → b, a
            changed app s2c v: properties.user.a: 1 → nothing
        "#]],
    );
}

#[test]
fn what_comes_behind_a_long_hole_is_compared_with_its_like() {
    let message = |n: u32| format!("t {n}");
    let all: Vec<String> = (0..20_000).map(message).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for hole in [1000..4000, 1000..13_000] {
        let left: Vec<&str> = [&all[..hole.start], &all[hole.end..]].concat();
        let len = hole.len() as u64;
        let verdict = verdict(Level::Payload, Judged::FromServer, "", &deliveries(&all), &deliveries(&left));
        assert_eq!(
            (verdict.matched, verdict.count(crate::verification::DifferenceKind::Missing)),
            (20_000 - len, len)
        );
        assert_eq!(verdict.difference_count(), len);
    }
}

#[test]
fn many_messages_without_order_find_their_like() {
    let message = |n: u32| format!("log {n}");
    let all: Vec<String> = (0..20_000).map(message).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut turned: Vec<&str> = all.iter().rev().copied().collect();
    turned[0] = "log new";
    check(
        Level::Payload,
        "[{topic: log, unordered: true}]",
        &deliveries(&all),
        &deliveries(&turned),
        expect![[r#"
            19999 of 20000 as expected
            changed app s2c log: payload: "19999" → "new"
        "#]],
    );
}

#[test]
fn many_messages_that_swapped_places_are_told_without_looking_at_all_pairs() {
    let message = |n: u32| format!("t {n}");
    let all: Vec<String> = (0..20_000).map(message).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut swapped = all.clone();
    swapped.chunks_mut(2).for_each(|pair| pair.reverse());
    let verdict = verdict(Level::Payload, Judged::FromServer, "", &deliveries(&all), &deliveries(&swapped));
    let moved = verdict.count(crate::verification::DifferenceKind::Moved);
    assert_eq!((verdict.matched + moved, moved), (20_000, 10_000));
}

fn verifier(level: Level, waiting_max: usize, known_max: usize) -> Verifier {
    let rules = Arc::new(Rules::default());
    Verifier::new(level, Judged::FromServer, Identity::Session, rules).limited(waiting_max, known_max)
}

#[test]
fn nobody_makes_it_know_more_than_it_may() {
    let topics: String = (0..10_000).map(|n| format!("1 s2c PUBLISH t/{n} x\n")).collect();
    let clients: String = (0..10_000).map(|n| format!("{n} open\n{n} c2s CONNECT c-{n} v=5\n")).collect();
    let nameless: String = (0..10_000).map(|n| format!("{n} open\n{n} c2s CONNECT \"\" v=5\n")).collect();
    let in_flight: String =
        (0..10_000).map(|n| format!("1 s2c PUBLISH t qos=2 id={} {n}\n", n + 1)).collect();
    let groups: String =
        (0..10_000).map(|n| format!("1 c2s SUBSCRIBE 1 $share/g/{n} qos=0\n1 s2c SUBACK 1 0\n")).collect();
    for (what, script) in [
        ("topics", session(&topics)),
        ("clients", clients),
        ("nameless", nameless),
        ("in flight", session(&in_flight)),
        ("groups", session(&groups)),
    ] {
        for level in [Level::Count, Level::Packets] {
            let mut verifier = verifier(level, usize::MAX, 1 << 20);
            let told: Vec<_> = events(&script).iter().map(|event| verifier.observe(event)).collect();
            assert_eq!(told.last(), Some(&Err(TooDifferent::Known)), "{what}, {level}");
            let verdict = verifier.finish();
            assert!(!verdict.is_complete() && !verdict.has_passed());
        }
    }
}

#[test]
fn what_has_ended_is_not_kept() {
    let mut verifier = verifier(Level::Packets, usize::MAX, 64 << 10);
    let rounds: String = (0..2000)
        .map(|n| {
            format!(
                "{n} open\n{n} c2s CONNECT app v=5\n{n} s2c CONNACK session_present=false\n\
                 {n} s2c PUBLISH t qos=2 id=1 x\n{n} c2s PUBREC 1\n{n} s2c PUBREL 1\n{n} c2s PUBCOMP 1\n\
                 {n} c2s SUBSCRIBE 1 t qos=0\n{n} close client_rst\n"
            )
        })
        .collect();
    // One session, which goes on.
    let rounds = rounds.replace("app v=5", "app v=5 clean=false");
    for event in events(&rounds) {
        verifier.observe_unjudged(&event);
    }
    assert!(verifier.finish().is_complete());
}

#[test]
fn what_was_not_judged_to_the_end_has_not_passed_in_any_report() {
    let mut verifier = verifier(Level::Payload, 1, usize::MAX);
    let same = deliveries(&["t 1"]);
    events(&same).iter().for_each(|event| verifier.expect(event).unwrap());
    events(&same).iter().for_each(|event| verifier.observe(event).unwrap());
    let message = events("1 s2c PUBLISH t x").remove(0);
    verifier.expect(&message).unwrap();
    verifier.expect(&message).unwrap_err();
    assert_eq!(verifier.observe(&message), Err(TooDifferent::Waiting));
    let mut verdict = verifier.finish();
    // Whatever was found.
    verdict.counts.clear();
    verdict.sessions[0].differences = 0;
    let heading = Heading { may_be_empty: true, ..heading() };
    let text = report::text(&heading, &verdict);
    assert!(text.contains("not all was compared: the two differ too much"), "{text}");
    let junit = report::junit(&heading, &verdict, 0.0);
    assert!(junit.contains(r#"tests="2" failures="1""#) && junit.contains("not all was compared"), "{junit}");
    let json: serde_json::Value = serde_json::from_str(&report::json(&heading, &verdict)).unwrap();
    assert_eq!(json["passed"], false);
    assert!(json["incomplete"].as_str().unwrap().starts_with("the two differ too much"));
    let page = report::html(&heading, &verdict);
    assert!(page.contains("verdict failed\">not all was compared") && !page.contains("verdict passed"));
}

#[test]
fn what_peers_are_called_writes_no_lines_of_its_own() {
    let client = |payload: &str| {
        format!(
            "1 open\n1 c2s CONNECT \"x\\x0a::error::y\" v=5\n1 s2c CONNACK session_present=false\n\
             1 s2c PUBLISH \"t\\x1b[2J\" user=\"n\\x0am\":\"v\\x0d{payload}\" x"
        )
    };
    let verdict = verdict(Level::Payload, Judged::FromServer, "", &client("1"), &client("2"));
    let text =
        report::text(&heading(), &verdict) + &report::junit(&heading(), &verdict, 0.0) + &told(&verdict);
    let is_control = |letter: &char| letter.is_control() && *letter != '\n';
    assert_eq!(text.chars().find(is_control), None);
    assert!(text.lines().all(|line| !line.trim_start().starts_with("::")), "{text}");
    assert!(text.contains(r"x\n::error::y"), "{text}");
}
