//! Which part is judged, and which connections stand for which.

use std::{sync::Arc, time::Duration};

use expect_test::{Expect, expect};

use super::{events, told};
use crate::{
    packet::TopicFilter,
    recording::NamePattern,
    verification::{Identity, Judged, Level, Rules, Scope, Verdict, Verifier},
};

fn clients(patterns: &[&str]) -> Scope {
    let clients = patterns.iter().map(|pattern| NamePattern::new(*pattern)).collect();
    Scope { clients, ..Scope::default() }
}

fn filters(filters: &[&str]) -> Vec<TopicFilter> {
    filters.iter().map(|filter| TopicFilter::parse(filter).unwrap()).collect()
}

/// Times are those of lines, a millisecond each, from 1.
fn between(start: u64, end: u64) -> Scope {
    Scope { start: Duration::from_millis(start), end: Duration::from_millis(end), ..Scope::default() }
}

/// `primed` is observed first, and not judged.
fn verdict(level: Level, scope: Scope, expected: &str, primed: &str, observed: &str) -> Verdict {
    let mut verifier =
        Verifier::new(level, Judged::FromServer, Identity::Session, Arc::new(Rules::default())).scoped(scope);
    for event in events(expected) {
        verifier.expect(&event).unwrap();
    }
    for event in events(primed) {
        verifier.observe_unjudged(&event);
    }
    for event in events(observed) {
        verifier.observe(&event).unwrap();
    }
    let outstanding = verifier.outstanding();
    let verdict = verifier.finish();
    assert!(outstanding + verdict.matched >= verdict.expected.min(verdict.observed), "{outstanding}");
    verdict
}

#[track_caller]
fn check(level: Level, scope: Scope, expected: &str, primed: &str, observed: &str, wanted: Expect) {
    wanted.assert_eq(&told(&verdict(level, scope, expected, primed, observed)));
}

fn connected(number: u32, client: &str) -> String {
    format!("{number} open\n{number} c2s CONNECT {client} v=5\n{number} s2c CONNACK session_present=false\n")
}

const NOTHING: &str = "";

#[test]
fn what_other_clients_did_and_got_is_not_expected() {
    let recorded = connected(1, "dev-1")
        + &connected(2, "app")
        + "1 c2s PUBLISH up/1 mine\n2 s2c PUBLISH up/1 mine\n1 s2c PUBLISH up/1 mine\n\
           2 c2s PUBLISH cmd/1 of-app\n1 s2c PUBLISH cmd/1 of-app\n1 s2c PUBLISH cmd/1 of-nobody-known";
    // Nobody sends what app had sent.
    let observed = connected(1, "dev-1")
        + "1 c2s PUBLISH up/1 mine\n1 s2c PUBLISH up/1 mine\n1 s2c PUBLISH cmd/1 of-nobody-known";
    check(
        Level::Payload,
        clients(&["dev-*"]),
        &recorded,
        NOTHING,
        &observed,
        expect![[r#"
            2 of 2 as expected
        "#]],
    );
    // But somebody may.
    let observed = observed + "\n1 s2c PUBLISH cmd/1 of-app\n1 s2c PUBLISH cmd/1 new";
    check(
        Level::Payload,
        clients(&["dev-*"]),
        &recorded,
        NOTHING,
        &observed,
        expect![[r#"
            3 of 3 as expected
            unexpected dev-1 s2c cmd/1: PUBLISH cmd/1 "new"
        "#]],
    );
    check(
        Level::Payload,
        clients(&["nobody"]),
        &recorded,
        NOTHING,
        &observed,
        expect![[r#"
            0 of 0 as expected
        "#]],
    );
}

#[test]
fn a_will_of_another_client_need_not_come() {
    let will = "1 open\n1 c2s CONNECT dev v=5 will=st/dev:offline\n1 s2c CONNACK session_present=false\n";
    let recorded =
        will.to_owned() + &connected(2, "app") + "1 close client_rst\n2 s2c PUBLISH st/dev offline";
    let observed = connected(2, "app");
    check(
        Level::Payload,
        clients(&["app"]),
        &recorded,
        NOTHING,
        &observed,
        expect![[r#"
            0 of 0 as expected
        "#]],
    );
}

#[test]
fn topics_outside_are_not_judged_on_either_side() {
    let scope =
        || Scope { topics: filters(&["a/#"]), exclude_topics: filters(&["a/private"]), ..Scope::default() };
    let script = |others: &str| {
        connected(1, "app")
            + "1 c2s PUBLISH a/1 qos=2 id=1 x\n1 s2c PUBREC 1\n1 c2s PUBREL 1\n1 s2c PUBCOMP 1\n1 s2c PUBLISH a/1 x\n"
            + others
    };
    let expected = script(
        "1 c2s PUBLISH b qos=1 id=2 y\n1 s2c PUBACK 2\n1 s2c PUBLISH b y\n1 s2c PUBLISH a/private qos=2 id=7 z\n1 s2c PUBREL 7",
    );
    let observed = script("1 s2c PUBLISH b other\n1 c2s PUBLISH b qos=1 id=9 y\n1 s2c PUBACK 9 0x87");
    check(
        Level::Packets,
        scope(),
        &expected,
        NOTHING,
        &observed,
        expect![[r#"
            4 of 4 as expected
        "#]],
    );
    let observed = observed.replace("PUBCOMP 1", "PUBCOMP 1 0x92");
    check(
        Level::Packets,
        scope(),
        &expected,
        NOTHING,
        &observed,
        expect![[r#"
            3 of 4 as expected
            changed app s2c PUBCOMP of a/1: reason_code: success (0x00) → packet identifier not found (0x92) (of message 1)
        "#]],
    );
}

#[test]
fn what_was_before_the_start_is_followed_and_not_expected() {
    let before = connected(1, "app") + "1 c2s SUBSCRIBE 1 t qos=1\n1 s2c SUBACK 1 1\n";
    // The second is published before the start, and acknowledged and delivered behind it.
    let recorded = before.clone()
        + "1 c2s PUBLISH t qos=1 id=1 a\n1 s2c PUBACK 1\n1 c2s PUBLISH t qos=1 id=2 b\n1 s2c PUBACK 2\n\
           1 s2c PUBLISH t qos=1 id=2 b\n1 c2s PUBLISH t qos=1 id=3 c\n1 s2c PUBACK 3\n1 s2c PUBLISH t qos=1 id=3 c";
    let observed = "1 c2s PUBLISH t qos=1 id=1 c\n1 s2c PUBACK 1\n1 s2c PUBLISH t qos=1 id=1 c";
    let primed = before.clone() + "1 s2c PUBLISH t retain=true old";
    check(
        Level::Packets,
        between(9, u64::MAX),
        &recorded,
        &primed,
        observed,
        expect![[r#"
            2 of 2 as expected
        "#]],
    );
    check(
        Level::Packets,
        between(9, u64::MAX),
        &recorded,
        &primed,
        &observed.replace("PUBACK 1", "PUBACK 1 0x87"),
        expect![[r#"
            1 of 2 as expected
            changed app s2c PUBACK of t: reason_code: success (0x00) → not authorized (0x87) (of message 1)
        "#]],
    );
}

#[test]
fn answers_to_what_was_done_to_get_there_are_not_judged_whenever_they_come() {
    let recorded = connected(1, "app") + "1 c2s SUBSCRIBE 1 t qos=0\n1 s2c SUBACK 1 0\n1 s2c PUBLISH t x";
    let primed = "1 open\n1 c2s CONNECT app v=5\n1 c2s SUBSCRIBE 9 t qos=0";
    check(
        Level::Packets,
        between(6, u64::MAX),
        &recorded,
        primed,
        "1 s2c CONNACK session_present=true\n1 s2c SUBACK 9 0x80\n1 s2c PUBLISH t x",
        expect![[r#"
            1 of 1 as expected
        "#]],
    );
}

#[test]
fn what_came_behind_the_end_may_come_and_need_not() {
    // The end is at 6 ms: one message before, one behind.
    let recorded = connected(1, "app")
        + "1 c2s PUBLISH t qos=1 id=1 a\n1 s2c PUBLISH t a\n1 s2c PUBACK 1\n\
           1 s2c PUBLISH u a\n1 c2s PUBLISH t qos=1 id=2 b\n1 s2c PUBACK 2\n1 s2c PUBLISH t b\n1 close client_fin";
    let observed = connected(1, "app") + "1 c2s PUBLISH t qos=1 id=1 a\n1 s2c PUBLISH t a\n1 s2c PUBACK 1\n";
    for (level, wanted) in [
        (Level::Packets, expect!["3 of 3 as expected\n"]),
        (Level::Payload, expect!["1 of 1 as expected\n"]),
        (Level::Count, expect!["1 of 1 as expected\n"]),
    ] {
        check(level, between(0, 6), &recorded, NOTHING, &observed, wanted);
    }
    let more = observed.clone() + "1 s2c PUBLISH u a";
    for (level, wanted) in [
        (Level::Packets, expect!["4 of 4 as expected\n"]),
        (Level::Payload, expect!["2 of 2 as expected\n"]),
        (Level::Count, expect!["2 of 2 as expected\n"]),
    ] {
        check(level, between(0, 6), &recorded, NOTHING, &more, wanted);
    }
    // The acknowledgement of what was sent before the end is no matter of choice.
    check(
        Level::Packets,
        between(0, 6),
        &recorded,
        NOTHING,
        &more.replace("1 s2c PUBACK 1\n", ""),
        expect![[r#"
            3 of 4 as expected
            missing app s2c PUBACK of t: PUBACK 1 (of message 1)
        "#]],
    );
    check(
        Level::Payload,
        between(0, 6),
        &recorded,
        NOTHING,
        &(more + "\n1 s2c PUBLISH u c\n1 s2c PUBLISH v c"),
        expect![[r#"
            2 of 2 as expected
            unexpected app s2c u: PUBLISH u "c"
            unexpected app s2c v: PUBLISH v "c"
        "#]],
    );
}

#[test]
fn what_subscribers_outside_got_of_a_shared_subscription_is_expected_of_those_inside() {
    let member = |number: u32, name: &str| {
        connected(number, name)
            + &format!("{number} c2s SUBSCRIBE 1 $share/g/t qos=0\n{number} s2c SUBACK 1 0\n")
    };
    let recorded = member(1, "in") + &member(2, "out") + "1 s2c PUBLISH t 1\n2 s2c PUBLISH t 2";
    let observed = member(1, "in") + "1 s2c PUBLISH t 2\n1 s2c PUBLISH t 1";
    check(
        Level::Payload,
        clients(&["in"]),
        &recorded,
        NOTHING,
        &observed,
        expect![[r#"
            2 of 2 as expected
        "#]],
    );
}

/// Observed connection 1 stands for the expected 2 and the other way round; both are told what `order` says.
fn crossed(expected: &str, observed: &str, is_expected_first: bool) -> Verdict {
    let mut verifier =
        Verifier::new(Level::Payload, Judged::FromServer, Identity::Session, Arc::new(Rules::default()));
    let expect = |verifier: &mut Verifier| {
        events(expected).iter().for_each(|event| verifier.expect(event).unwrap());
    };
    if is_expected_first {
        expect(&mut verifier);
    }
    verifier.stands_for(1, 2);
    verifier.stands_for(2, 1);
    events(observed).iter().for_each(|event| verifier.observe(event).unwrap());
    if !is_expected_first {
        expect(&mut verifier);
    }
    verifier.finish()
}

#[test]
fn clients_without_identifier_are_matched_by_the_connection_they_stand_for() {
    let nameless = |number: u32, payload: &str, end: &str| {
        format!(
            "{number} open\n{number} c2s CONNECT \"\" v=5\n{number} s2c CONNACK session_present=false\n\
             {number} s2c PUBLISH t {payload}\n{end}\n"
        )
    };
    let (one, other) = ("1 close client_fin", "2 close client_fin");
    let expected = nameless(1, "a", one) + &nameless(2, "b", other);
    let observed = nameless(1, "b", one) + &nameless(2, "a", other);
    for is_expected_first in [true, false] {
        let verdict = crossed(&expected, &observed, is_expected_first);
        assert_eq!(told(&verdict), "2 of 2 as expected\n", "{is_expected_first}");
        let swapped = crossed(&expected, &expected, is_expected_first);
        assert_eq!(swapped.difference_count(), 2);
    }
}

#[test]
fn who_stands_for_a_client_is_of_its_session_whatever_it_is_called() {
    let client = |number: u32, name: &str, payload: &str| {
        connected(number, name) + &format!("{number} s2c PUBLISH t {payload}\n{number} close client_fin\n")
    };
    // The second session of dev is observed first, from a client of another name.
    let expected = client(1, "dev", "a") + &client(2, "dev", "b");
    let observed = client(1, "live", "b") + &client(2, "dev", "a");
    assert_eq!(told(&crossed(&expected, &observed, true)), "2 of 2 as expected\n");
}

#[test]
fn that_nobody_got_a_message_is_no_difference_where_others_are_not_there() {
    let recorded = connected(1, "dev-1") + "1 c2s PUBLISH up qos=1 id=1 x\n1 s2c PUBACK 1";
    let observed = recorded.clone() + " 0x10";
    for (scope, differences) in [(clients(&["dev-1"]), 0), (Scope::default(), 1)] {
        let verdict = verdict(Level::Packets, scope, &recorded, NOTHING, &observed);
        assert_eq!(verdict.difference_count(), differences, "{verdict:?}");
    }
}

#[test]
fn a_look_at_whether_anybody_listens_is_no_client() {
    let nameless = |number: u32| {
        format!(
            "{number} open\n{number} c2s CONNECT \"\" v=5\n{number} s2c CONNACK session_present=false\n\
             {number} s2c PUBLISH t x\n{number} close client_fin\n"
        )
    };
    let expected = "1 open\n1 close client_fin\n".to_owned() + &nameless(2);
    for level in [Level::Payload, Level::Packets] {
        let verdict = verdict(level, Scope::default(), &expected, NOTHING, &nameless(1));
        assert!(verdict.has_passed(), "{:?}", verdict.differences);
    }
}
