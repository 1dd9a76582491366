//! Mocks as a whole: what is offered, and what is answered when.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use bytes::Bytes;
use expect_test::{Expect, expect};
use jiff::Timestamp;

use super::*;
use crate::{
    field::BadField,
    interceptor::Verdict,
    packet::{Property, QoS, Utf8String},
};

/// Mocks, and everything that was heard of them.
struct Stage {
    mocks: Mocks,
    renderer: Renderer,
    begin: Instant,
    now: Instant,
    heard: String,
}

impl Stage {
    fn new(yaml: &str, limits: MockLimits) -> Self {
        let begin = Instant::now();
        let mut mocks = Mocks::new(7, limits, BTreeMap::new());
        let specs: Vec<MockSpec> = serde_saphyr::from_str(yaml).expect("a list of mocks");
        for spec in specs {
            mocks.create(begin, Mock::unnamed(spec, &no_files).expect("a good mock")).expect("a free id");
        }
        Self { mocks, renderer: Renderer::new(BTreeMap::new()), begin, now: begin, heard: String::new() }
    }

    fn clock(&self) -> Timestamp {
        let start: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        let since = self.now.duration_since(self.begin);
        start.checked_add(jiff::SignedDuration::try_from(since).expect("short")).expect("in range")
    }

    /// `CLIENT> TOPIC PAYLOAD [qos=N] [retain] [response=TOPIC] [data=TEXT] [user=NAME:VALUE] [depth=N]`,
    /// `CLIENT> connect`, `CLIENT> subscribe FILTER`, or `+100ms`.
    fn play(&mut self, line: &str) {
        if let Some(milliseconds) = line.strip_prefix('+') {
            let milliseconds = milliseconds.trim_end_matches("ms").parse().expect("milliseconds");
            return self.pass(Duration::from_millis(milliseconds));
        }
        let (client, rest) = line.split_once("> ").expect("a client");
        let clock = self.clock();
        match rest.split_once(' ') {
            None if rest == "connect" => self.mocks.offer_connection(self.now, clock, client, None, None),
            Some(("subscribe", filter)) => {
                self.mocks.offer_subscription(self.now, clock, client, filter, QoS::AtLeastOnce, None);
            }
            _ => self.publish(client, rest),
        }
        self.answers();
    }

    fn publish(&mut self, client: &str, text: &str) {
        let mut words = text.split(' ');
        let mut occasion = Occasion {
            topic: words.next().unwrap_or_default().to_owned(),
            payload: Bytes::copy_from_slice(words.next().unwrap_or_default().as_bytes()),
            client_identifier: client.to_owned(),
            ..Occasion::default()
        };
        let string = |text: &str| Utf8String::new(text).expect("short");
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let mut push = |property| occasion.properties.push(property);
            match name {
                "qos" => occasion.qos = QoS::try_from(value.parse::<u8>().expect("a number")).expect("a QoS"),
                "retain" => occasion.retain = true,
                "response" => push(Property::ResponseTopic(string(value))),
                "data" => push(Property::CorrelationData(Bytes::copy_from_slice(value.as_bytes()))),
                "user" => {
                    let (name, value) = value.split_once(':').expect("name and value");
                    push(Property::UserProperty(string(name), string(value)));
                }
                "depth" => occasion.synthetic = value.parse().ok(),
                _ => panic!("{word}?"),
            }
        }
        let matching = self.mocks.matching(&occasion.topic);
        let clock = self.clock();
        if matching.is_empty() {
            self.mocks.unmatched_mut().note(self.now, clock, &occasion, None);
        } else if self.mocks.offer_message(self.now, clock, &matching, occasion, None) == Verdict::Intercept {
            self.heard += "intercepted\n";
        }
    }

    /// From one answer to the next, for so long.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.mocks.next_due().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.answers();
        }
        self.now = end;
    }

    fn answers(&mut self) {
        let clock = self.clock();
        for due in self.mocks.poll(self.now, clock, usize::MAX) {
            let at = self.now.duration_since(self.begin).as_millis();
            let state = std::sync::Arc::clone(self.mocks.state());
            let outcome = due.render(clock, &state, &mut self.renderer);
            match &outcome {
                Ok(answer) => {
                    let payload = String::from_utf8_lossy(&answer.payload);
                    _ = write!(self.heard, "{at}ms {} {payload}{}", answer.topic, extras(answer));
                    self.heard += "\n";
                }
                Err(error) => _ = writeln!(self.heard, "{at}ms {}: {error}", due.mock()),
            }
            self.mocks.note(&due, outcome.map(|_| ()));
        }
        self.mocks.take_events();
    }
}

fn extras(answer: &Answer) -> String {
    let mut text = String::new();
    if answer.qos != QoS::AtMostOnce {
        _ = write!(text, " qos={}", answer.qos);
    }
    if answer.retain {
        text += " retain";
    }
    for property in answer.properties.iter() {
        _ = match property {
            Property::CorrelationData(data) => write!(text, " data={}", String::from_utf8_lossy(data)),
            Property::UserProperty(name, value) => write!(text, " user={name}:{value}"),
            Property::ContentType(value) => write!(text, " type={value}"),
            other => write!(text, " {other:?}"),
        };
    }
    if let Some(expiry) = answer.expiry {
        _ = write!(text, " expiry={expiry}");
    }
    text
}

fn no_files(path: &str) -> Result<Bytes, String> {
    match path {
        "there.bin" => Ok(Bytes::from_static(b"from a file")),
        _ => Err(format!("{path}: no such file")),
    }
}

#[track_caller]
fn check(yaml: &str, script: &str, heard: Expect) {
    let mut stage = Stage::new(yaml, MockLimits::default());
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        stage.play(line);
    }
    heard.assert_eq(&stage.heard);
}

/// What is wrong with a mock, a line each.
#[track_caller]
fn check_bad(yaml: &str, reasons: Expect) {
    let spec: MockSpec = serde_saphyr::from_str(yaml).expect("a mock");
    let bad = Mock::new(MockSpec { id: "it".to_owned(), ..spec }, &no_files).expect_err("it is refused");
    reasons.assert_eq(&bad.iter().map(|field: &BadField| format!("{field}\n")).collect::<String>());
}

#[test]
fn every_answer_of_a_list_is_sent_each_so_long_after_the_one_before() {
    check(
        "- topic: sensors/+/temperature
  qos: 1
  responses:
    - {payload: '{\"value\": 23.5}', delay_ms: 100}
    - {payload: '{\"value\": 24.1}', delay_ms: 100, qos: 0}",
        "dev> sensors/a/temperature x
         +1000ms",
        expect![[r#"
            100ms sensors/a/temperature {"value": 23.5} qos=1
            200ms sensors/a/temperature {"value": 24.1}
        "#]],
    );
}

#[test]
fn captures_and_parts_of_the_topic_are_values() {
    check(
        "- topic: 'sensors/{{device_id}}/data/#'
  response: {topic: 'r/{{device_id}}', payload: '{{topic_parts.1}} {{topic}} {{client_id}} {{qos}} {{count}}'}",
        "dev> sensors/d7/data/x y qos=2
         dev> sensors/d8/data y",
        expect![[r#"
            0ms r/d7 d7 sensors/d7/data/x dev 2 1
            0ms r/d8 d8 sensors/d8/data dev 0 2
        "#]],
    );
}

#[test]
fn an_answer_goes_to_its_topic_else_where_the_client_says_else_back() {
    check(
        "- {topic: a, response: {topic: own, payload: x}}
- {topic: b, reply_to: $.reply, response: {payload: x}}
- {topic: c, response: {topic: '{{properties.response_topic}}', payload: x}}",
        r#"dev> a q response=r data=1
           dev> b q response=r data=1
           dev> b {"reply":"there"}
           dev> b {"other":1}
           dev> b {"reply":5}
           dev> b {"reply":"a/#"}
           dev> c q response=r data=1"#,
        expect![[r#"
            0ms own x
            0ms r x data=1
            0ms there x
            0ms b x
            0ms mock-2: reply_to is 5, no topic
            0ms mock-2: reply_to "a/#": wildcard '#' in a topic name
            0ms r x data=1
        "#]],
    );
}

#[test]
fn what_a_client_sends_is_never_expanded() {
    check(
        "- topic: a
  responses:
    - {payload: '{{payload_raw}}'}
    - {payload: {echo: '{{payload_raw}}'}}",
        r#"dev> a {{env"HOME"}}{{uuid}}"#,
        expect![[r#"
            0ms a {{env"HOME"}}{{uuid}}
            0ms a {"echo":"{{env\"HOME\"}}{{uuid}}"}
        "#]],
    );
}

#[test]
fn the_lowest_priority_number_goes_first_then_the_more_specific_topic_then_the_newest() {
    check(
        "- {id: wide, topic: 'a/#', response: {payload: wide}}
- {id: older, topic: a/b, response: {payload: older}}
- {id: newer, topic: a/b, response: {payload: newer}}
- {id: plus, topic: a/+, response: {payload: plus}}
- {id: first, topic: 'c/#', priority: 1, response: {payload: first}}
- {id: exact, topic: c/d, response: {payload: exact}}",
        "dev> a/b x
         dev> a/c x
         dev> a/c/d x
         dev> c/d x",
        expect![[r#"
            0ms a/b newer
            0ms a/c plus
            0ms a/c/d wide
            0ms c/d first
        "#]],
    );
}

#[test]
fn a_mock_that_was_removed_comes_back_in_its_old_place() {
    let mut stage = Stage::new(
        "- {id: older, topic: a, response: {payload: older}}
- {id: newer, topic: a, response: {payload: newer}}",
        MockLimits::default(),
    );
    let seen = stage.mocks.get("older").expect("it is there");
    stage.mocks.delete("older").expect("it is there");
    stage.mocks.restore(stage.now, &seen).expect("there is room");
    stage.play("dev> a x");
    assert_eq!(stage.heard, "0ms a newer\n");
    // One that was made anew meanwhile goes back there, too.
    stage.mocks.delete("older").expect("it is there");
    let spec = MockSpec { id: "older".to_owned(), topic: "b".to_owned(), ..seen.mock.spec.clone() };
    stage.mocks.create(stage.now, Mock::new(spec, &no_files).expect("a good mock")).expect("a free id");
    stage.mocks.restore(stage.now, &seen).expect("it is there");
    stage.play("dev> a x");
    stage.play("dev> b x");
    assert_eq!(stage.heard, "0ms a newer\n0ms a newer\n");
    let order: Vec<_> = stage.mocks.list().iter().map(|view| view.mock.spec.id.clone()).collect();
    assert_eq!(order, ["older", "newer"]);
}

#[test]
fn only_the_first_fires_unless_it_goes_on() {
    check(
        "- {topic: a, priority: 1, continue: true, response: {payload: one}}
- {topic: a, priority: 2, response: {payload: two}}
- {topic: a, priority: 3, response: {payload: three}}",
        "dev> a x",
        expect![[r#"
            0ms a one
            0ms a two
        "#]],
    );
}

#[test]
fn conditions_look_at_client_flags_payload_properties_and_state() {
    check(
        "- topic: a
  when: {client: 'dev-*', qos: [1, 2], retain: false, payload: {$.cmd: start, $.level: {gt: 3, lte: 5}}, user: {k: {regex: '^v'}}}
  set_state: {last: '{{payload.level}}', seen: true}
  response: {payload: all}
- topic: a
  when: {state: {last: {gte: 5}}, payload: {regex: again}}
  response: {payload: 'state {{state.last}}'}
- topic: a
  when: {payload: {$.cmd: {exists: false}}}
  response: {payload: no command}",
        r#"dev-1> a {"cmd":"start","level":5} qos=1 user=k:v1
           dev-1> a {"cmd":"start","level":6} qos=1 user=k:v1
           dev-1> a {"cmd":"start","level":5} user=k:v1
           other> a {"cmd":"start","level":5} qos=1 user=k:v1
           dev-1> a {"cmd":"start","level":5} qos=1 user=k:w
           dev-1> a "again"
           dev-1> a {}
           dev-1> a no-json"#,
        expect![[r#"
            0ms a all
            0ms a no command
            0ms a no command
            0ms a no command
        "#]],
    );
}

#[test]
fn nth_counts_what_all_else_holds_for() {
    check(
        "- {topic: a, when: {nth: 2, payload: x}, response: {payload: second}}
- {topic: b, when: {nth: {after: 1, every: 2, first: 4}}, response: {payload: 'number {{count}}'}}
- {topic: c, scope: client, when: {nth: {first: 1}}, response: {payload: 'first of {{client_id}}'}}",
        "d> a x
         d> a y
         d> a x
         d> a x
         d> b x
         d> b x
         d> b x
         d> b x
         d> b x
         d> c x
         e> c x
         d> c x",
        expect![[r#"
            0ms a second
            0ms b number 1
            0ms b number 2
            0ms c first of d
            0ms c first of e
        "#]],
    );
}

#[test]
fn a_sequence_gives_one_answer_each_time() {
    let mock = |more: &str| {
        format!(
            "- {{topic: a, mode: sequence, {more} responses: [{{payload: one}}, {{payload: two}}]}}\n- {{topic: a, priority: 9, response: {{payload: other}}}}"
        )
    };
    let script = "d> a x\nd> a x\nd> a x\ne> a x";
    check(
        &mock(""),
        script,
        expect![[r#"
        0ms a one
        0ms a two
        0ms a one
        0ms a two
    "#]],
    );
    check(
        &mock("then: last,"),
        script,
        expect![[r#"
        0ms a one
        0ms a two
        0ms a two
        0ms a two
    "#]],
    );
    check(
        &mock("then: stop,"),
        script,
        expect![[r#"
        0ms a one
        0ms a two
        0ms a other
        0ms a other
    "#]],
    );
    check(
        &mock("scope: client,"),
        script,
        expect![[r#"
        0ms a one
        0ms a two
        0ms a one
        0ms a one
    "#]],
    );
}

/// How often each payload was answered, of 2,000.
fn tally(yaml: &str) -> BTreeMap<String, usize> {
    let mut stage = Stage::new(yaml, MockLimits::default());
    for _ in 0..2_000 {
        stage.play("d> a x");
    }
    let mut counts = BTreeMap::new();
    for line in stage.heard.lines() {
        *counts.entry(line.rsplit(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn a_random_choice_is_even_and_a_weighted_one_by_its_weights() {
    let even = tally("- {topic: a, mode: random, responses: [{payload: p}, {payload: q}]}");
    // Four standard deviations of 2,000 trials are 90.
    assert!(even["p"].abs_diff(1_000) < 90 && even["p"] + even["q"] == 2_000, "{even:?}");
    let weighted = tally(
        "- {topic: a, mode: weighted, responses: [{payload: p, weight: 3}, {payload: q}, {payload: r, weight: 0}]}",
    );
    assert!(weighted["p"].abs_diff(1_500) < 80 && !weighted.contains_key("r"), "{weighted:?}");
}

#[test]
fn the_same_seed_draws_the_same_whatever_other_mocks_do() {
    let mock = "- {id: it, topic: a, mode: random, responses: [{payload: '{{random_int 1 1000000}} {{uuid}}', delay_ms: {min: 1, max: 900}}, {payload: '{{random_string 9}}'}]}";
    let other =
        format!("- {{id: before, topic: b, response: {{payload: '{{{{random_int 1 9}}}}'}}}}\n{mock}");
    let heard = |yaml: &str, script: &str| {
        let mut stage = Stage::new(yaml, MockLimits::default());
        script.lines().for_each(|line| stage.play(line));
        stage.heard.lines().filter(|line| line.contains(" a ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let alone = heard(mock, "d> a x\nd> a x\nd> a x\n+1000ms");
    assert_eq!(alone.len(), 3);
    assert_eq!(alone, heard(&other, "d> b x\nd> a x\nd> b y\ne> a x\nd> a x\nd> b x\n+1000ms"));
}

#[test]
fn answers_repeat_and_intervals_keep_their_schedule() {
    check(
        "- {topic: a, response: {payload: '{{now}}', repeat: {count: 3, interval_ms: 250}, delay_ms: 50}}
- {on: interval, topic: tick, interval_ms: 400, response: {payload: '{{count}}'}}",
        "d> a x
         +1000ms",
        expect![[r#"
            50ms a 2026-01-02T03:04:05.050Z
            300ms a 2026-01-02T03:04:05.300Z
            400ms tick 1
            550ms a 2026-01-02T03:04:05.550Z
            800ms tick 2
        "#]],
    );
}

#[test]
fn a_mock_that_repeats_without_end_leaves_others_their_turn() {
    let yaml = "- {id: endless, topic: a, response: {payload: x, repeat: {count: 1000000000}}}
- {id: other, topic: b, response: {payload: y}}";
    let mut stage = Stage::new(yaml, MockLimits::default());
    let mut polled = Vec::new();
    for topic in ["a", "b"] {
        let occasion = Occasion { topic: topic.to_owned(), ..Occasion::default() };
        let (matching, clock) = (stage.mocks.matching(topic), stage.clock());
        stage.mocks.offer_message(stage.now, clock, &matching, occasion, None);
        let due = stage.mocks.poll(stage.now, clock, 3);
        polled.extend(due.iter().map(|due| due.mock().to_owned()));
        stage.now += Duration::from_millis(5);
    }
    assert_eq!(polled, ["endless", "endless", "endless", "endless", "other", "endless"]);
    assert_eq!(stage.mocks.waiting(), 1);
}

#[test]
fn mocks_without_a_name_are_called_after_their_place_unless_that_is_taken() {
    let specs: Vec<MockSpec> =
        serde_saphyr::from_str("[{topic: a}, {id: mock-1, topic: b}, {topic: c}]").expect("mocks");
    let made = make_mocks(&specs, MockLimits::default(), &no_files).expect("good mocks");
    let ids: Vec<&str> = made.iter().map(|mock| mock.spec.id.as_str()).collect();
    assert_eq!(ids, ["mock-2", "mock-1", "mock-3"]);
    let twice: Vec<MockSpec> =
        serde_saphyr::from_str("[{id: x, topic: a}, {id: x, topic: b}]").expect("mocks");
    let refused = make_mocks(&twice, MockLimits::default(), &no_files).map(drop);
    assert_eq!(refused, Err((1, MockError::Exists("x".to_owned()))));
}

#[test]
fn turns_of_an_interval_that_were_missed_are_left_out() {
    let mut stage = Stage::new(
        "- {on: interval, topic: t, interval_ms: 100, response: {payload: '{{count}}'}}",
        MockLimits::default(),
    );
    stage.now += Duration::from_millis(1_050);
    stage.answers();
    stage.play("+100ms");
    assert_eq!(stage.heard, "1050ms t 1\n1100ms t 2\n");
}

#[test]
fn subscribing_and_connecting_trigger_too() {
    check(
        "- {on: connect, when: {client: 'd*'}, response: {topic: 'hello/{{client_id}}', payload: hi, retain: true}}
- {on: subscribe, topic: 'config/{{device}}', response: {payload: 'for {{device}}'}}
- {on: subscribe, topic: 'any/#', response: {payload: x}}",
        "d1> connect
         e1> connect
         d1> subscribe config/d1
         d1> subscribe $share/g/config/d2
         d1> subscribe config/#
         d1> subscribe any/+",
        expect![[r#"
            0ms hello/d1 hi retain
            0ms config/d1 for d1
            0ms config/d2 for d2
            0ms mock-2: nothing says where the answer goes, and "config/#" cannot be: wildcard '#' in a topic name
            0ms mock-3: nothing says where the answer goes, and "any/+" cannot be: wildcard '+' in a topic name
        "#]],
    );
}

#[test]
fn messages_that_mocks_made_trigger_none_unless_asked_and_at_most_eight_deep() {
    check(
        "- {topic: a, response: {payload: x}}
- {topic: b, trigger_on_synthetic: true, response: {payload: x}}",
        "d> a y depth=1
         d> b y depth=7
         d> b y depth=8",
        expect![[r#"
            0ms b x
        "#]],
    );
}

#[test]
fn a_message_can_be_intercepted() {
    check(
        "- {topic: a, route: false, when: {payload: secret}, response: {topic: b, payload: kept}}
- {topic: c, route: false}",
        "d> a secret
         d> a open
         d> c x",
        expect![[r#"
            intercepted
            0ms b kept
            intercepted
        "#]],
    );
}

#[test]
fn properties_and_payloads_of_every_kind_are_sent() {
    check(
        "- topic: a
  responses:
    - payload: {list: [1, 'two {{payload.v}}'], n: null}
      properties: {content_type: application/json, user: {id: '{{payload.v}}'}, message_expiry_interval: 30}
    - {payload_base64: aGk=}
    - {payload_file: there.bin}
    - {payload: 42}
    - {}",
        r#"d> a {"v":"\"q\""}"#,
        expect![[r#"
            0ms a {"list":[1,"two \"q\""],"n":null} type=application/json user=id:"q" expiry=30
            0ms a hi
            0ms a from a file
            0ms a 42
            0ms a 
        "#]],
    );
}

#[test]
fn a_template_that_fails_sends_nothing_and_says_so() {
    let mut stage = Stage::new(
        "- {id: it, topic: a, responses: [{payload: '{{payload.v}}'}, {payload: ok}]}",
        MockLimits::default(),
    );
    stage.play("d> a {}");
    expect![[r#"
        0ms it: responses[0].payload: line 1, column 1: payload.v is missing
        0ms a ok
    "#]]
    .assert_eq(&stage.heard);
    let view = stage.mocks.get("it").expect("it is there");
    assert_eq!((view.figures.fired, view.figures.sent, view.figures.failed), (1, 1, 1));
}

#[test]
fn answers_that_wait_are_bounded() {
    let limits = MockLimits { answers: 3, answer_bytes: 2_000, ..MockLimits::default() };
    let mut stage = Stage::new("- {id: it, topic: a, response: {payload: x, delay_ms: 10}}", limits);
    for _ in 0..5 {
        stage.play("d> a x");
    }
    assert_eq!(stage.mocks.waiting(), 3);
    stage.play("+10ms");
    assert_eq!((stage.mocks.waiting(), stage.heard.lines().count()), (0, 3));
    stage.play(&format!("d> a {}", "x".repeat(2_000)));
    let view = stage.mocks.get("it").expect("it is there");
    assert_eq!(view.figures.failed, 3);
    assert_eq!(view.figures.last_error.as_deref(), Some("0 answers are waiting already"));
}

#[test]
fn answers_of_a_mock_that_is_gone_or_another_one_now_are_not_sent() {
    let mut stage = Stage::new(
        "- {id: one, topic: a, response: {payload: old, delay_ms: 10}}\n- {id: two, topic: b, response: {payload: x, delay_ms: 10}}",
        MockLimits::default(),
    );
    stage.play("d> a x");
    stage.play("d> b x");
    let changed: MockSpec =
        serde_saphyr::from_str("{id: one, topic: a, response: {payload: new}}").expect("a mock");
    let changed = Mock::new(changed, &no_files).expect("a good mock");
    let generation = stage.mocks.generation();
    stage.mocks.update(stage.now, changed).expect("it is there");
    assert_eq!(stage.mocks.waiting(), 1);
    stage.mocks.delete("two").expect("it is there");
    assert_eq!(stage.mocks.waiting(), 0);
    assert_ne!(stage.mocks.generation(), generation);
    stage.play("+100ms");
    stage.play("d> a x");
    stage.play("d> b x");
    assert_eq!(stage.heard, "100ms a new\n");
    assert_eq!(stage.mocks.delete("two"), Err(MockError::NotFound("two".to_owned())));
}

#[test]
fn what_matched_nothing_is_told_with_what_came_nearest() {
    let mut stage = Stage::new(
        "- {id: data, topic: 'sensors/{{id}}/data', response: {}}\n- {id: cmd, topic: cmd, when: {payload: {$.go: true}}, response: {}}",
        MockLimits::default(),
    );
    for line in [
        "d> sensor/a/data 1",
        "d> sensor/a/data 2",
        "+1ms",
        "d> sensors/a 3",
        "+1ms",
        "d> sensors/a/data/x 3",
        "+1ms",
        "d> cmd {\"go\":false}",
        "+1ms",
        "d> else 4",
    ] {
        stage.play(line);
    }
    let told: String = stage
        .mocks
        .unmatched()
        .list(None)
        .iter()
        .map(|one| format!("{} ×{} {:?} {}\n", one.topic, one.count, one.nearest, one.difference))
        .collect();
    expect![[r#"
        else ×1 "" no mock has a topic like it
        cmd ×1 "cmd" $.go is false, not true
        sensors/a/data/x ×1 "data" the topic does not match sensors/{{id}}/data: it has a level 3 more: "x"
        sensors/a ×1 "data" the topic does not match sensors/{{id}}/data: it ends before level 2, "data"
        sensor/a/data ×2 "data" the topic does not match sensors/{{id}}/data: level 0 is "sensor", not "sensors"
    "#]]
    .assert_eq(&told);
}

#[test]
fn a_mock_fires_by_hand_whatever_its_conditions() {
    let mut stage = Stage::new(
        "- {id: it, topic: a, when: {client: nobody}, response: {payload: '{{payload_raw}}'}}",
        MockLimits::default(),
    );
    let occasion = Occasion { payload: Bytes::from_static(b"by hand"), ..Occasion::default() };
    let clock = stage.clock();
    assert_eq!(stage.mocks.fire(stage.now, clock, "it", occasion), Ok(1));
    stage.answers();
    assert_eq!(stage.heard, "0ms a by hand\n");
}

#[test]
fn everything_that_is_wrong_is_told_with_its_field() {
    check_bad(
        "topic: 'a/{{b}}c'
qos: 3
when: {payload: {'$.a[': 1, regex: '('}, nth: 0, user: {k: {like: x}}}
reply_to: a.b
responses:
  - {payload: '{{random_itn 1 2}}', topic: 'a/#', delay_ms: {min: 1}}
  - {payload: '{{nme}}', payload_base64: '%', repeat: {count: 0}}
  - {payload_file: missing.txt, weight: -1, qos: 7}",
        expect![[r#"
            topic: level 1: {{name}} stands alone in its level
            when.payload.$.a[: "$.a[" is no JSONPath: it cannot be read from column 4 on
            when.payload.regex: unclosed group
            when.user.k: unknown key "like"; did you mean "lte"?
            when.nth: counts from 1
            reply_to: "a.b" is no JSONPath: one begins with $
            qos: QoS 3 is none of 0, 1 and 2
            responses[0].payload: line 1, column 1: unknown helper "random_itn"; did you mean "random_int"?
            responses[0].topic: wildcard '#' in a topic name
            responses[0].delay_ms: is a number, or one of {min, max}, {mean, sd} and {median, sigma}
            responses[1].payload: is said more than once: payload, payload_file and payload_base64 exclude each other
            responses[1].repeat.count: is at least 1
            responses[2].payload_file: missing.txt: no such file
            responses[2].qos: QoS 7 is none of 0, 1 and 2
            responses[2].weight: is from 0 to 1e9, not -1
        "#]],
    );
    check_bad(
        "topic: 'a/{{payload}}/{{x y}}'
on: subscribe
route: false
interval_ms: 5
then: last
response: {payload: '{{devic_id}}'}
responses: [{}]",
        expect![[r#"
            topic: level 1: "payload" is what templates call something else
            topic: level 2: "x y" is no name: letters, digits and _
            route: is for on: publish alone
            interval_ms: is for on: interval alone
            responses: stands beside response; say one or the other
            then: is for mode: sequence alone
        "#]],
    );
    check_bad(
        "{on: interval, response: {}}",
        expect![[r#"
        interval_ms: is required with on: interval
        response.topic: is required: nothing else says where the answer goes
    "#]],
    );
    check_bad(
        "{on: connect, topic: a, response: {}}",
        expect![[r#"
        topic: has no meaning with on: connect; say where answers go in responses[0].topic
        response.topic: is required: nothing else says where the answer goes
    "#]],
    );
}

#[test]
fn a_spec_is_written_as_it_is_read() {
    let yaml = "
- id: it
  topic: 'a/{{b}}'
  when: {client: 'd*', nth: {every: 2}, payload: {$.a: 1}}
  responses:
  - {payload: {a: 1}, delay_ms: {median: 5.0, sigma: 0.5}, repeat: {count: 2, interval_ms: 5}}
";
    let specs: Vec<MockSpec> = serde_saphyr::from_str(yaml).expect("mocks");
    let json = serde_json::to_string(&specs).expect("JSON");
    let again: Vec<MockSpec> = serde_json::from_str(&json).expect("mocks");
    assert_eq!(specs, again);
}
