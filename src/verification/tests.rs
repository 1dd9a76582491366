//! What two streams of events differ in, and how it is told.

mod doubt;
mod loose;
mod scope;

use std::sync::Arc;

use expect_test::{Expect, expect};

use super::{
    Identity, Judged, Level, Rules, Verdict, Verifier,
    report::{self, Heading},
};
use crate::recording::sample::script as events;

fn verdict(level: Level, judged: Judged, rules: &str, expected: &str, observed: &str) -> Verdict {
    let rules = Arc::new(Rules::parse(rules).expect("good rules"));
    let mut verifier = Verifier::new(level, judged, Identity::Session, rules);
    for event in events(expected) {
        verifier.expect(&event).unwrap();
    }
    for event in events(observed) {
        verifier.observe(&event).unwrap();
    }
    verifier.finish()
}

fn told(verdict: &Verdict) -> String {
    let mut out = format!("{} of {} as expected", verdict.matched, verdict.expected);
    if verdict.repeated > 0 {
        out += &format!(", {} repeated", verdict.repeated);
    }
    for difference in &verdict.differences {
        out += &format!("\n{difference}");
    }
    assert_eq!(verdict.difference_count(), verdict.differences.len() as u64);
    out + "\n"
}

#[track_caller]
fn check(level: Level, rules: &str, expected: &str, observed: &str, wanted: Expect) {
    wanted.assert_eq(&told(&verdict(level, Judged::FromServer, rules, expected, observed)));
}

fn session(lines: &str) -> String {
    format!("1 open\n1 c2s CONNECT app v=5\n1 s2c CONNACK session_present=false\n{lines}")
}

/// Deliveries to one client.
fn deliveries(messages: &[&str]) -> String {
    session(&messages.iter().map(|message| format!("1 s2c PUBLISH {message}\n")).collect::<String>())
}

#[track_caller]
fn check_messages(expected: &[&str], observed: &[&str], wanted: Expect) {
    check(Level::Payload, "", &deliveries(expected), &deliveries(observed), wanted);
}

#[test]
fn equal_streams_are_equal() {
    check_messages(
        &["a 1", "b 2", "a 3"],
        &["b 2", "a 1", "a 3"],
        expect![[r#"
            3 of 3 as expected
        "#]],
    );
}

#[test]
fn what_differs_is_named_exactly() {
    check_messages(
        &[r#"t "{\"value\":23.5,\"unit\":\"C\"}""#],
        &[r#"t "{\"value\":24,\"unit\":\"C\"}""#],
        expect![[r#"
            0 of 1 as expected
            changed app s2c t: $.value: 23.5 → 24
        "#]],
    );
    check_messages(
        &["t 1", "t 2", "t 3"],
        &["t 1", "t 3"],
        expect![[r#"
            2 of 3 as expected
            missing app s2c t: PUBLISH t "2"
        "#]],
    );
    check_messages(
        &["t 1", "t 2"],
        &["t 1", "t new", "t 2"],
        expect![[r#"
            2 of 2 as expected
            unexpected app s2c t: PUBLISH t "new"
        "#]],
    );
    check_messages(
        &["t 1", "t 2", "t 3"],
        &["t 2", "t 1", "t 3"],
        expect![[r#"
            2 of 3 as expected
            moved app s2c t: PUBLISH t "1"
        "#]],
    );
    check_messages(
        &["t 1", "t 2"],
        &["t 1", "t 1", "t 2"],
        expect![[r#"
            2 of 2 as expected
            duplicate app s2c t: PUBLISH t "1"
        "#]],
    );
    check_messages(
        &["a/1 on", "a/2 off"],
        &["a/1 on", "a/3 off"],
        expect![[r#"
            1 of 2 as expected
            changed app s2c a/2: topic: a/2 → a/3
        "#]],
    );
}

#[test] // [MQTT-4.6.0-6]
fn messages_of_another_qos_may_come_in_between() {
    check_messages(
        &["t qos=2 id=1 a", "t b", "t c", "t qos=2 id=2 d"],
        &["t b", "t qos=2 id=1 a", "t qos=2 id=2 d", "t c"],
        expect![[r#"
            4 of 4 as expected
        "#]],
    );
    check_messages(
        &["t qos=2 id=1 a", "t b", "t qos=2 id=2 c"],
        &["t b", "t qos=2 id=1 c", "t qos=2 id=2 a"],
        expect![[r#"
            2 of 3 as expected
            moved app s2c t: PUBLISH t qos=2 "a"
        "#]],
    );
}

#[test]
fn fields_beside_the_payload_are_compared() {
    check_messages(
        &["t qos=1 id=1 retain=true content_type=json user=a:1 user=a:2 x", "u expiry=60 y"],
        &["t qos=1 id=9 content_type=text user=a:1 user=a:3 user=b:1 x", "u expiry=7 y"],
        expect![[r#"
            1 of 2 as expected
            changed app s2c t: retain: true → false; properties.content_type: json → text; properties.user.a[1]: 2 → 3; properties.user.b: nothing → 1
        "#]],
    );
    check_messages(
        &["t qos=1 id=1 x"],
        &["t x"],
        expect![[r#"
            0 of 1 as expected
            changed app s2c t: qos: 1 → 0
        "#]],
    );
}

#[test]
fn what_is_sent_again_at_qos_1_is_as_it_should_be() {
    check_messages(
        &["t qos=1 id=1 x", "t qos=1 id=2 y"],
        &["t qos=1 id=1 x", "t qos=1 id=1 dup=true x", "t qos=1 id=2 y", "t qos=1 id=3 y"],
        expect![[r#"
            2 of 2 as expected, 2 repeated
        "#]],
    );
    // Acknowledged too late: which of both found the place is not to be seen.
    let again = session(
        "1 s2c PUBLISH t qos=1 id=1 x\n1 c2s PUBACK 1\n1 s2c PUBLISH t qos=1 id=1 dup=true x\n1 s2c PUBLISH t y",
    );
    check(
        Level::Packets,
        "",
        &session("1 s2c PUBLISH t qos=1 id=1 x\n1 c2s PUBACK 1\n1 s2c PUBLISH t y"),
        &again,
        expect![[r#"
            3 of 3 as expected, 1 repeated
        "#]],
    );
    let once = session("1 s2c PUBLISH t qos=1 id=1 x\n1 c2s PUBACK 1");
    let twice = session("1 s2c PUBLISH t qos=1 id=1 x\n1 s2c PUBLISH t qos=1 id=1 x\n1 c2s PUBACK 1");
    check(
        Level::Packets,
        "",
        &once,
        &twice,
        expect![[r#"
            2 of 2 as expected
            duplicate app s2c t: PUBLISH t qos=1 "x"
        "#]],
    );
}

/// With and without `more` over a second connection, whichever of both is expected.
#[track_caller]
fn check_again(first: &str, more: &str, rest: &str) {
    let script = |more: &str| {
        let again = "1 close client_rst\n2 open\n2 c2s CONNECT app v=5 clean=false\n2 s2c CONNACK session_present=true";
        session(&format!("{first}\n{again}\n{more}\n{rest}"))
    };
    for level in [Level::Count, Level::Payload, Level::Packets] {
        for judged in [Judged::FromServer, Judged::FromClients, Judged::Both] {
            for (expected, observed) in [("", more), (more, "")] {
                let verdict = verdict(level, judged, "", &script(expected), &script(observed));
                assert_eq!(verdict.difference_count(), 0, "{level:?} {judged:?}: {}", told(&verdict));
                assert!(verdict.matched > 0 || judged != Judged::Both, "{level:?}");
            }
        }
    }
}

#[test]
fn what_either_side_sent_again_is_there_once() {
    let both = |first: &str, more: &str, rest: &str| {
        check_again(first, more, rest);
        let other = |text: &str| text.replace("s2c", "there").replace("c2s", "s2c").replace("there", "c2s");
        check_again(&other(first), &other(more), &other(rest));
    };
    let (sent, again) = ("1 s2c PUBLISH t qos=1 id=1 x", "2 s2c PUBLISH t qos=1 id=1 dup=true x");
    // Not acknowledged in between; acknowledged, and the acknowledgement lost.
    both(sent, again, "2 c2s PUBACK 1\n2 s2c PUBLISH t qos=1 id=2 x\n2 c2s PUBACK 2");
    both(
        &format!("{sent}\n1 c2s PUBACK 1"),
        &format!("{again}\n2 c2s PUBACK 1"),
        "2 s2c PUBLISH t qos=1 id=2 x\n2 c2s PUBACK 2",
    );
    // The first one's acknowledgement is the second's.
    both(
        sent,
        &format!("{again}\n2 c2s PUBACK 1"),
        "2 c2s PUBACK 1\n2 s2c PUBLISH t qos=1 id=1 y\n2 c2s PUBACK 1",
    );
    let sent = "1 s2c PUBLISH t qos=2 id=1 x\n1 c2s PUBREC 1";
    both(sent, "2 s2c PUBLISH t qos=2 id=1 dup=true x\n2 c2s PUBREC 1", "2 s2c PUBREL 1\n2 c2s PUBCOMP 1");
    both(
        &format!("{sent}\n1 s2c PUBREL 1\n1 c2s PUBCOMP 1"),
        "2 s2c PUBREL 1\n2 c2s PUBCOMP 1",
        "2 s2c PUBLISH t qos=2 id=1 y\n2 c2s PUBREC 1",
    );
}

#[test]
fn answers_that_nothing_was_sent_again_for_are_told() {
    let script = |more: &str| {
        session(&format!(
            "1 c2s PUBLISH t qos=2 id=1 x\n1 s2c PUBREC 1\n1 c2s PUBREL 1\n1 s2c PUBCOMP 1\n{more}"
        ))
    };
    let (once, twice) = (script(""), script("1 s2c PUBCOMP 1"));
    check(
        Level::Packets,
        "",
        &once,
        &twice,
        expect![[r#"
        3 of 3 as expected
        unexpected app s2c PUBCOMP of an unknown message: PUBCOMP 1
    "#]],
    );
}

#[test]
fn answers_are_compared_by_the_exchange_they_belong_to() {
    let publishes = |acks: &str| {
        session(&format!(
            "1 c2s PUBLISH t qos=1 id=7 x\n1 c2s PUBLISH t qos=1 id=8 x\n1 c2s PUBLISH u qos=2 id=9 y\n{acks}"
        ))
    };
    let expected =
        publishes("1 s2c PUBACK 7\n1 s2c PUBACK 8\n1 s2c PUBREC 9\n1 c2s PUBREL 9\n1 s2c PUBCOMP 9");
    check(
        Level::Packets,
        "",
        &expected,
        &publishes("1 s2c PUBREC 9\n1 s2c PUBACK 7 0x87\n1 c2s PUBREL 9"),
        expect![[r#"
            2 of 5 as expected
            changed app s2c PUBACK of t: reason_code: success (0x00) → not authorized (0x87) (of message 1)
            missing app s2c PUBACK of t: PUBACK 8 (of message 2)
            missing app s2c PUBCOMP of u: PUBCOMP 9 (of message 1)
        "#]],
    );
}

#[test]
fn connections_are_compared_by_what_the_client_was_answered() {
    let script = |connack: &str, suback: &str, end: &str| {
        format!(
            "1 open\n1 c2s CONNECT app v=5\n1 s2c CONNACK {connack}\n1 c2s SUBSCRIBE 1 t qos=1\n1 s2c SUBACK 1 {suback}\n{end}"
        )
    };
    check(
        Level::Packets,
        "",
        &script("session_present=false receive_maximum=10", "1", "1 close client_fin"),
        &script("session_present=true", "0x80", "1 s2c DISCONNECT 0x8b\n1 close server_fin"),
        expect![[r#"
            0 of 3 as expected
            changed app s2c connection: session_present: false → true
            changed app s2c subscriptions: reason_codes[0]: granted QoS 1 (0x01) → unspecified error (0x80)
            missing app s2c connection: the connection ended by the client
            unexpected app s2c connection: DISCONNECT 0x8b
        "#]],
    );
    // Who closes first behind a DISCONNECT is chance.
    check(
        Level::Packets,
        "",
        &script("session_present=false", "1", "1 c2s DISCONNECT\n1 close client_fin"),
        &script("session_present=false", "1", "1 c2s DISCONNECT\n1 close server_fin"),
        expect![[r#"
            2 of 2 as expected
        "#]],
    );
}

#[test]
fn a_session_goes_on_over_connections_and_ends_with_a_clean_start() {
    let expected = "1 open\n1 c2s CONNECT app v=5 clean=false\n1 s2c CONNACK session_present=false\n1 s2c PUBLISH t 1\n\
        1 close client_rst\n2 open\n2 c2s CONNECT app v=5 clean=false\n2 s2c CONNACK session_present=true\n2 s2c PUBLISH t 2";
    let observed = "1 open\n1 c2s CONNECT app v=5 clean=false\n1 s2c CONNACK session_present=false\n1 s2c PUBLISH t 1\n\
        1 s2c PUBLISH t 2\n1 close client_rst";
    check(
        Level::Payload,
        "",
        expected,
        observed,
        expect![[r#"
            2 of 2 as expected
        "#]],
    );
    check(
        Level::Payload,
        "",
        &expected.replace("clean=false", ""),
        &observed.replace("clean=false", ""),
        expect![[r#"
            1 of 2 as expected
            unexpected app s2c t: PUBLISH t "2"
            missing app (session 2) s2c t: PUBLISH t "2"
        "#]],
    );
}

#[test]
fn which_subscriber_of_a_group_got_it_is_no_difference() {
    let member = |number: u32, name: &str, messages: &str| {
        format!(
            "{number} open\n{number} c2s CONNECT {name} v=5\n{number} s2c CONNACK session_present=false\n\
             {number} c2s SUBSCRIBE 1 $share/g/t/# qos=1\n{number} s2c SUBACK 1 1\n{messages}\n"
        )
    };
    let expected =
        member(1, "a", "1 s2c PUBLISH t/1 1\n1 s2c PUBLISH t/1 2") + &member(2, "b", "2 s2c PUBLISH t/1 3");
    let observed =
        member(1, "a", "1 s2c PUBLISH t/1 3") + &member(2, "b", "2 s2c PUBLISH t/1 1\n2 s2c PUBLISH t/1 x");
    check(
        Level::Payload,
        "",
        &expected,
        &observed,
        expect![[r#"
            2 of 3 as expected
            changed $share/g/t/# s2c t/1: payload: "2" → "x"
        "#]],
    );
}

#[test]
fn a_missing_message_of_a_will_says_whose() {
    let expected = "1 open\n1 c2s CONNECT dev v=5 will=st/dev:offline\n2 open\n2 c2s CONNECT app v=5\n\
        1 close client_rst\n2 s2c PUBLISH st/dev offline";
    let observed = "1 open\n1 c2s CONNECT dev v=5 will=st/dev:offline\n2 open\n2 c2s CONNECT app v=5\n1 close client_rst";
    check(
        Level::Payload,
        "",
        expected,
        observed,
        expect![[r#"
            0 of 1 as expected
            missing app s2c st/dev: PUBLISH st/dev "offline" (the Will of dev)
        "#]],
    );
}

const RULES: &str = r#"
- topic: "s/#"
  ignore: ["$.ts", "retain", "properties.user"]
  type: ["$.id"]
  tolerance: {"$.v": 0.5, "$.w": 10%}
  regex: {"$.name": "^dev-[0-9]+$"}
- topic: log
  unordered: true
- topic: noise
  skip: true
"#;

#[test]
fn rules_say_what_may_differ() {
    let expected = [
        r#"s/1 retain=true user=a:1 "{\"ts\":1,\"id\":\"x\",\"v\":1.0,\"w\":100,\"name\":\"dev-1\",\"rest\":1}""#,
        "log a",
        "log b",
        "noise 1",
    ];
    let observed = [
        r#"s/1 "{\"ts\":2,\"id\":\"y\",\"v\":1.4,\"w\":109,\"name\":\"dev-2\",\"rest\":1}""#,
        "log b",
        "log a",
    ];
    check(
        Level::Payload,
        RULES,
        &deliveries(&expected),
        &deliveries(&observed),
        expect![[r#"
            3 of 3 as expected
        "#]],
    );
    let observed = [r#"s/1 "{\"id\":5,\"v\":1.6,\"w\":111,\"name\":\"app\",\"rest\":1}""#, "log b", "log c"];
    check(
        Level::Payload,
        RULES,
        &deliveries(&expected),
        &deliveries(&observed),
        expect![[r#"
            1 of 3 as expected
            changed app s2c s/1: $['id']: "x" → 5; $['v']: 1.0 → 1.6; $['w']: 100 → 111; $['name']: "dev-1" → "app"
            changed app s2c log: payload: "a" → "c"
        "#]],
    );
}

#[test]
fn bad_rules_name_the_place() {
    for (rules, wanted) in [
        ("- topic: a/#/b", "[0].topic: level"),
        ("- {topic: a}\n- {topics: b}", "line 2, column 4: unknown key \"topics\"; did you mean \"topic\"?"),
        ("- ignore: ['$.[']", "[0].ignore: \"$.[\" is no JSONPath"),
        ("- ignore: [topic]", "[0].ignore: \"topic\" is neither"),
        ("- tolerance: {'$.a': much}", "[0].tolerance.$.a: is a number, or a share such as 1%"),
        ("- regex: {'$.a': '('}", "[0].regex.$.a: regex parse error"),
        ("topic: [", "line 1"),
    ] {
        let error = Rules::parse(rules).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{rules}: {error}");
    }
    assert!(Rules::parse("").is_ok());
}

#[test]
fn counts_are_compared_by_topic() {
    check(
        Level::Count,
        "",
        &deliveries(&["a 1", "a 2", "b 1"]),
        &deliveries(&["a x", "b 1", "c 1"]),
        expect![[r#"
            2 of 3 as expected
            count app s2c a: messages: 2 → 1
            count app s2c c: messages: 0 → 1
        "#]],
    );
}

#[test]
fn the_other_direction_is_judged_where_we_were_the_server() {
    let script = |payload: &str| {
        session(&format!(
            "1 c2s SUBSCRIBE 1 cmd qos=0\n1 s2c SUBACK 1 0\n1 s2c PUBLISH cmd go\n1 c2s PUBLISH answer {payload}"
        ))
    };
    let verdict = verdict(Level::Packets, Judged::FromClients, "", &script("ok"), &script("no"));
    expect![[r#"
        2 of 3 as expected
        changed app c2s answer: payload: "ok" → "no"
    "#]]
    .assert_eq(&told(&verdict));
}

#[test]
fn nothing_is_not_a_pass() {
    let verdict = verdict(Level::Payload, Judged::FromServer, "", &session(""), &session(""));
    assert!(verdict.is_empty() && !verdict.has_passed());
}

#[test]
fn many_messages_are_compared_with_little_waiting() {
    let payloads: Vec<String> = (0..30_000).map(|n| format!("t {}", n % 7)).collect();
    let all: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let mut fewer = all.clone();
    fewer.remove(20_000);
    fewer.insert(10_000, "t new");
    check_messages(
        &all,
        &fewer,
        expect![[r#"
            29999 of 30000 as expected
            unexpected app s2c t: PUBLISH t "new"
            missing app s2c t: PUBLISH t "1"
        "#]],
    );
}

#[test]
fn nobody_makes_it_keep_more_than_it_may() {
    let rules = Arc::new(Rules::default());
    let mut verifier =
        Verifier::new(Level::Payload, Judged::FromServer, Identity::Session, rules).limited(1000, usize::MAX);
    let message = events("1 s2c PUBLISH t x").remove(0);
    for event in events(&session("")) {
        verifier.expect(&event).unwrap();
    }
    let kept = (0..2000).take_while(|_| verifier.expect(&message).is_ok()).count();
    assert_eq!(kept, 1000);
    assert_eq!(verifier.finish().difference_count(), kept as u64 + 1);
}

fn heading() -> Heading {
    Heading {
        title: "orders <&> \"x\"".to_owned(),
        sides: ["recorded".to_owned(), "replayed".to_owned()],
        failure: String::new(),
        may_be_empty: false,
        case: "verification",
        notes: vec!["a note".to_owned()],
    }
}

#[test]
fn a_replay_that_failed_is_not_green_though_nothing_differs() {
    let same = deliveries(&["t 1"]);
    let passed = verdict(Level::Payload, Judged::FromServer, "", &same, &same);
    let heading = Heading { failure: "3 messages were not acknowledged".to_owned(), ..heading() };
    let junit = report::junit(&heading, &passed, 0.0);
    assert!(junit.contains(r#"tests="2" failures="1""#) && junit.contains(&heading.failure), "{junit}");
    assert!(report::json(&heading, &passed).contains(r#""passed": false"#));
    let page = report::html(&heading, &passed);
    assert!(page.contains(r#"<span class="verdict failed">3 messages"#) && !page.contains("verdict passed"));
}

fn failed() -> Verdict {
    verdict(
        Level::Payload,
        Judged::FromServer,
        "",
        &deliveries(&["t <b>1</b>", "t 2", "u 1"]),
        &deliveries(&["t <b>2</b>", "u 1"]),
    )
}

#[test]
fn people_read_the_first_differences() {
    expect![[r#"
        1 of 3 expected messages came as they should (payload)
        a note
        differences: 1 missing, 1 changed
          changed app s2c t
            payload: "<b>1</b>" → "<b>2</b>"
            recorded       0.004 s  PUBLISH t "<b>1</b>"
            replayed       0.004 s  PUBLISH t "<b>2</b>"
          missing app s2c t
            recorded       0.005 s  PUBLISH t "2"
    "#]]
    .assert_eq(&report::text(&heading(), &failed()));
}

#[test]
fn machines_read_junit_and_json() {
    expect![[r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="mockforge" tests="1" failures="1" errors="0" time="1.500">
          <testsuite name="orders &lt;&amp;&gt; &quot;x&quot;" tests="1" failures="1" errors="0" skipped="0" time="1.500">
            <testcase name="app" classname="orders &lt;&amp;&gt; &quot;x&quot;" time="0">
              <failure type="changed" message="2 differences, first: changed app s2c t: payload: &quot;&lt;b&gt;1&lt;/b&gt;&quot; → &quot;&lt;b&gt;2&lt;/b&gt;&quot;">
        changed app s2c t: payload: &quot;&lt;b&gt;1&lt;/b&gt;&quot; → &quot;&lt;b&gt;2&lt;/b&gt;&quot;
        missing app s2c t: PUBLISH t &quot;2&quot;
        </failure>
            </testcase>
          </testsuite>
        </testsuites>
    "#]]
    .assert_eq(&report::junit(&heading(), &failed(), 1.5));
    let json: serde_json::Value = serde_json::from_str(&report::json(&heading(), &failed())).unwrap();
    assert_eq!(json["passed"], false);
    assert_eq!(json["differences"][0]["changes"][0]["path"], "payload");
    assert_eq!(json["sessions"][0]["matched"], 1);
}

#[test]
fn a_page_shows_what_peers_sent_as_text() {
    let page = report::html(&heading(), &failed());
    assert!(page.contains("&lt;b&gt;1&lt;/b&gt;") && !page.contains("<b>1"));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));
}

#[test]
fn nothing_verified_fails_in_junit() {
    let nothing = verdict(Level::Payload, Judged::FromServer, "", "", "");
    let junit = report::junit(&heading(), &nothing, 0.0);
    assert!(junit.contains("tests=\"1\" failures=\"1\"") && junit.contains("nothing was verified"));
}

#[test]
fn what_passes_without_a_comparison_is_a_case_that_says_what_was_done() {
    let notes = vec!["sent 3 of 3 messages to <x>: passed".to_owned()];
    let heading = Heading { may_be_empty: true, case: "replay", notes, ..heading() };
    let nothing = Verdict::nothing(Level::Payload);
    assert!(report::json(&heading, &nothing).contains(r#""passed": true"#));
    expect![[r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="mockforge" tests="1" failures="0" errors="0" time="0.000">
          <testsuite name="orders &lt;&amp;&gt; &quot;x&quot;" tests="1" failures="0" errors="0" skipped="0" time="0.000">
            <testcase name="replay" classname="orders &lt;&amp;&gt; &quot;x&quot;" time="0">
              <system-out>sent 3 of 3 messages to &lt;x&gt;: passed</system-out>
            </testcase>
          </testsuite>
        </testsuites>
    "#]]
    .assert_eq(&report::junit(&heading, &nothing, 0.0));
}
