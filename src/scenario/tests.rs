//! What scenarios mean, and what is wrong with them.

use std::time::Duration;

use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::packet::{Properties, QoS};

/// The example of the documentation, word for word.
const EXAMPLE: &str = include_str!("../../tests/data/scenarios/reconnect-storm.yaml");

/// What is wrong with a scenario, or what it comes to.
fn check(text: &str, expected: Expect) {
    let shown = match Scenario::read(text) {
        Ok(scenario) => {
            let mut lines = vec![format!("{}: {} clients", scenario.name, scenario.clients())];
            for step in &scenario.steps {
                step.walk(&mut |step| {
                    lines.push(format!("{} {} (line {})", step.number, step.kind, step.line))
                });
            }
            lines.join("\n")
        }
        Err(problems) => problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"),
    };
    expected.assert_eq(&shown);
}

#[test]
fn the_documented_example_is_read() {
    check(
        EXAMPLE,
        expect![[r#"
            reconnect-storm: 21 clients
            1 app.subscribe (line 7)
            2 dev.connect (line 8)
            3 dev.publish (line 9)
            4 chaos.set (line 10)
            5 expect (line 11)
            6 chaos.reset (line 12)
            7 expect (line 13)"#]],
    );
    let scenario = Scenario::read(EXAMPLE).unwrap();
    assert_eq!((scenario.seed, scenario.on_failure), (Some(42), OnFailure::Stop));
    assert!(scenario.expects());
}

#[test]
fn every_kind_of_step_is_read_in_its_short_and_its_long_form() {
    check(
        r#"
scenario: all of them
clients: {dev: {count: 3}, app: {}}
steps:
  - app.connect:
  - dev[2].subscribe: a/#
  - dev.subscribe: {filter: [a, "b/{{client_id}}"], retain_handling: 2}
  - dev[2].unsubscribe: a/#
  - app.publish: {topic: a, payload: {v: "{{n}}"}, properties: {user: {a: b}}}
    name: a message
    on_failure: continue
  - dev.forget:
  - dev.disconnect: rst
  - dev.disconnect: {mode: with_will, spread: 1s}
  - chaos.set: {id: x, actions: [drop]}
  - chaos.remove: x
  - chaos.profile: 3g
  - chaos.reset:
  - mock.set: {id: m, topic: "q/{{id}}", response: {payload: "{{id}}"}}
  - mock.remove: m
  - mock.reset: {}
  - state.set: {key: k, value: {a: 1}}
  - state.expect: {scope: "client:dev-1", key: k, value: {gt: 1}, within: 1s}
  - state.reset: {}
  - parallel: [{wait: 1s}, {mark: here}]
  - repeat: {times: 2, steps: [{wait: 1ms}, {parallel: [{wait: 0s}]}]}
  - record: r
  - record.stop:
  - replay: {recording: r, speed: 2, verify: payload}
  - http: http://localhost/x
  - http: {method: put, url: "https://localhost/x", body: {a: 1}, expect: {status: 201, body: {$.a: 1}}}
  - expect: {client: [app, "dev[1]"], topic: "t/{{client_id}}", each: true}
"#,
        expect![[r#"
            all of them: 4 clients
            1 app.connect (line 5)
            2 dev[2].subscribe (line 6)
            3 dev.subscribe (line 7)
            4 dev[2].unsubscribe (line 8)
            5 app.publish (line 9)
            6 dev.forget (line 12)
            7 dev.disconnect (line 13)
            8 dev.disconnect (line 14)
            9 chaos.set (line 15)
            10 chaos.remove (line 16)
            11 chaos.profile (line 17)
            12 chaos.reset (line 18)
            13 mock.set (line 19)
            14 mock.remove (line 20)
            15 mock.reset (line 21)
            16 state.set (line 22)
            17 state.expect (line 23)
            18 state.reset (line 24)
            19 parallel (line 25)
            19.1 wait (line 25)
            19.2 mark (line 25)
            20 repeat (line 26)
            20.1 wait (line 26)
            20.2 parallel (line 26)
            20.2.1 wait (line 26)
            21 record (line 27)
            22 record.stop (line 28)
            23 replay (line 29)
            24 http (line 30)
            25 http (line 31)
            26 expect (line 32)"#]],
    );
}

#[test]
fn what_people_write_instead_is_understood() {
    check(
        r#"
scenario: other words
clients: {app: {clean_session: false, protocol: 3.1.1}}
steps:
  - app.connect
  - app.subscribe: {filters: [a, b]}
  - app.unsubscribe: {filters: a}
  - repeat: {count: 3, steps: [mock.reset]}
  - parallel: {steps: [{wait: 1s}, {mark: here}]}
  - http: {url: "http://localhost/x", expect: 404}
  - record: "r-{{run_id}}"
  - record.stop: "r-{{run_id}}"
  - replay: {recording: "r-{{run_id}}", speed: max}
"#,
        expect![[r#"
            other words: 1 clients
            1 app.connect (line 5)
            2 app.subscribe (line 6)
            3 app.unsubscribe (line 7)
            4 repeat (line 8)
            4.1 mock.reset (line 8)
            5 parallel (line 9)
            5.1 wait (line 9)
            5.2 mark (line 9)
            6 http (line 10)
            7 record (line 11)
            8 record.stop (line 12)
            9 replay (line 13)"#]],
    );
    let speed = |speed: &str| {
        let text = format!("scenario: x\nsteps: [{{replay: {{recording: r, speed: {speed}}}}}]");
        match Scenario::read(&text).map(|mut scenario| scenario.steps.remove(0).action) {
            Ok(Action::Replay { spec, .. }) => spec.speed.expect("it was said").0.to_string(),
            Ok(other) => panic!("{other:?}"),
            Err(problems) => problems[0].reason.clone(),
        }
    };
    assert_eq!((speed("MAX"), speed("0"), speed("2.5")), ("0".to_owned(), "0".to_owned(), "2.5".to_owned()));
    assert_eq!(speed("fast"), "is a number from 0.001 to 1000, or max (or 0), not \"fast\"");
}

#[test]
fn what_is_wrong_with_a_client_hides_nothing_of_its_steps() {
    check(
        r#"scenario: bad
clients:
  d: {count: 2, qos: 1}
  e: {client_id: "{{nope}}", count: 2}
steps:
  - d[2].connect
  - e[3].connect
  - d.publish: {topic: a/#}
  - parallel: {step: []}
  - app.connect
  - expect: {client: d, count: -1}
"#,
        expect![[r#"
            3:22: clients.d.qos: unknown key "qos"; known are count, client_id, protocol, clean_session, clean_start, session_expiry, keep_alive, username, password, will, properties, reconnect
            4:18: clients.e.client_id: unknown value "nope"; known are client, i, run_id, scenario
            7:5: steps[1]: "e[3]": e are numbered from 1 to 2
            8:24: steps[2].d.publish.topic: wildcard '#' in a topic name
            9:15: steps[3].parallel.steps: is required: what is done, a list
            9:22: steps[3].parallel.step: unknown key "step"; did you mean "steps"?
            10:5: steps[4]: unknown client "app"; known are d, e
            11:32: steps[5].expect.count: expected a number, or bounds: {gte, gt, lte, lt, eq}"#]],
    );
}

#[test]
fn everything_that_is_wrong_is_told_with_its_place() {
    check(
        r##"scenario: bad
sed: 3
clients:
  dev: {count: 3, client_id: dev}
  app: {protocol: 3.1.1, session_expiry: 3, will: {topic: a/+, payload: x, qos: 3}}
  wait: {}
steps:
  - app.subscribe: {filter: "st/#/x", qos: 3, no_local: true}
  - app.publsh: {topic: a}
  - app.publish: {topic: "a/{{nope}}", payload: "{{", count: 0}
  - app.publish: {topic: a, every: 100}
  - dev[4].connect:
  - expect: {client: ap, topic: x}
  - expect: {client: app, topc: x, count: {gte: 3, lt: 2}}
  - expect: {client: app, topic: "{{nope}}", origin: api}
  - chaos.set: {id: x, actions: [{disconnect: {mode: rstt}}]}
  - mock.set: {topic: a}
  - wait: 3
  - repeat: {times: 0, steps: []}
  - {wait: 1s, mark: x}
  - {name: nothing}
  - nothing
  - http: {url: "ftp://x", expect: {status: 99}}
"##,
        expect![[r#"
            2:6: sed: unknown key "sed"; did you mean "seed"?
            4:30: clients.dev.client_id: "dev" would be the identifier of two clients; {{i}} is the number of each
            5:42: clients.app.session_expiry: is of MQTT 5
            5:59: clients.app.will.topic: wildcard '+' in a topic name
            5:81: clients.app.will.qos: QoS 3 is none of 0, 1 and 2
            6:9: clients.wait: "wait" begins steps of another kind
            8:29: steps[0].app.subscribe.filter: level 1: '#' stands alone and last
            8:44: steps[0].app.subscribe.qos: QoS 3 is none of 0, 1 and 2
            8:57: steps[0].app.subscribe.no_local: is of MQTT 5, and app is not
            9:17: steps[1].app.publsh: unknown step "app.publsh"; did you mean "app.publish"?
            10:26: steps[2].app.publish.topic: unknown value "nope"; known are client, client_id, i, n, pass, run_id, scenario
            10:49: steps[2].app.publish.payload: line 1, column 1: the tag is never closed
            10:62: steps[2].app.publish.count: is 1 to 10000000, not 0
            11:36: steps[3].app.publish.every: has no unit: 100ms, 100s or 100m
            12:19: steps[4].dev[4].connect: "dev[4]": dev are numbered from 1 to 3
            13:22: steps[5].expect.client: unknown client "ap"; did you mean "app"?
            14:33: steps[6].expect.topc: unknown key "topc"; did you mean "topic"?
            14:43: steps[6].expect.count: no number is at least 3 and at most 1
            15:34: steps[7].expect.topic: unknown value "nope"; known are client, client_id, i, n, pass, run_id, scenario
            15:54: steps[7].expect.origin: is not known of what a client receives
            16:54: steps[8].chaos.set.actions[0].disconnect.mode: unknown value "rstt"; did you mean "rst"?
            17:15: steps[9].mock.set.id: is required: what the mock is called
            18:11: steps[10].wait: has no unit: 3ms, 3s or 3m
            19:21: steps[11].repeat.times: is 1 to 1000000, not 0
            19:31: steps[11].repeat.steps: has no step
            20:22: steps[12].mark: stands beside wait: a step does one thing
            21:5: steps[13]: says nothing that is to be done
            22:5: steps[14]: unknown step "nothing"; known are chaos.profile, chaos.remove, chaos.reset, chaos.set, expect, http, mark, mock.remove, mock.reset, mock.set, parallel, record, record.stop, repeat, replay, state.expect, state.reset, state.set, wait, dev.connect, dev.disconnect, dev.subscribe, dev.unsubscribe, dev.publish, dev.forget, app.connect, app.disconnect, app.subscribe, app.unsubscribe, app.publish, app.forget, wait.connect, wait.disconnect, wait.subscribe, wait.unsubscribe, wait.publish, wait.forget
            23:17: steps[15].http.url: "ftp://x" begins neither with http:// nor with https://
            23:45: steps[15].http.expect.status: is 100 to 599, not 99"#]],
    );
}

#[test]
fn what_is_no_scenario_is_told_so() {
    check("", expect!["1:1: a scenario is keys with values: scenario, clients, steps …"]);
    check("[1]", expect!["1:1: a scenario is keys with values: scenario, clients, steps …"]);
    check("scenario: a", expect!["1:1: steps: is required: what is done, a list"]);
    check(
        "scenario:\nsteps:\n  - wait: 1s",
        expect!["1:9: scenario: is required: what the scenario is called"],
    );
    check("scenario: a\nsteps: [", expect!["2:8: unclosed bracket '['"]);
    check(
        "scenario: \"\"\nsteps: []\non_failure: go on",
        expect![[r#"
        1:11: scenario: has 1 to 200 characters, none a control character
        2:8: steps: has no step
        3:13: on_failure: unknown value "go on"; known are stop, continue"#]],
    );
}

#[test]
fn a_step_by_itself_is_read_for_the_clients_of_a_header() {
    let header = Scenario::read_header(r#"{"scenario": "x", "clients": {"app": {}}}"#).unwrap();
    let step = header.read_step(3, r#"{"app.subscribe": {"filter": "a/#"}}"#).unwrap();
    assert_eq!((step.number.as_str(), step.kind.as_str()), ("3", "app.subscribe"));
    let problems = header.read_step(4, r#"{"dev.subscribe": "a"}"#).unwrap_err();
    assert_eq!(problems[0].to_string(), "1:19: dev.subscribe: unknown client \"dev\"; known are app");
}

#[test]
fn the_same_seed_draws_the_same_for_each_client_and_message() {
    let scenario = Scenario::read(EXAMPLE).unwrap();
    let Action::Publish { publish, .. } = &scenario.steps[2].action else { panic!("no publish") };
    let payloads = |seed: u64, i: u32| {
        // The id of a run is another each time.
        let rendering = Rendering::new("x", &seed.to_string(), seed);
        let client_id = format!("dev-{i}");
        let sent: Vec<String> = (1..=20)
            .map(|n| {
                let speaker = Speaker { client: "dev", client_id: &client_id, i, n, pass: 1 };
                let mut stream = rendering.stream("3", &speaker, jiff::Timestamp::UNIX_EPOCH);
                let message = publish.publish(&mut stream).unwrap();
                format!("{} {}", message.topic.unwrap().as_str(), message.payload.escape_ascii())
            })
            .collect();
        sent.join(" ")
    };
    assert_eq!(payloads(42, 1), payloads(42, 1));
    assert_ne!(payloads(42, 1), payloads(43, 1));
    assert_ne!(payloads(42, 1).replace("dev-1", ""), payloads(42, 2).replace("dev-2", ""));
    assert!(payloads(42, 7).starts_with("t/dev-7 {\\\"v\\\":"));
}

/// Judges the expectations of `steps` one after the other. Lines of `course` are `MS CLIENT TOPIC PAYLOAD` for a message that
/// a client receives, `MS` for time that passes; each is told with what is known then.
fn judge(steps: &str, course: &str, expected: Expect) {
    let text = format!("scenario: x\nclients: {{app: {{}}, dev: {{count: 2}}}}\nsteps:\n{steps}");
    let scenario = Scenario::read(&text).unwrap_or_else(|problems| panic!("{problems:?}"));
    let names = ["app", "dev[1]", "dev[2]"];
    let mut inbox = Inbox::new(names.len(), 1 << 20);
    let mut shown = Vec::new();
    let judge_of = |place: usize, now, inbox: &Inbox| {
        let step = scenario.steps.get(place)?;
        let Action::Expect(expectation) = &step.action else { panic!("{} expects nothing", step.kind) };
        Some(started(expectation, &scenario, &names, inbox, now))
    };
    let mut place = 0;
    let mut judge = judge_of(place, Duration::ZERO, &inbox);
    for line in course.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let now = Duration::from_millis(words.next().unwrap().parse().unwrap());
        if let Some(client) = words.next() {
            let client = names.iter().position(|name| *name == client).expect("a client");
            inbox.push(Received {
                client: u32::try_from(client).unwrap(),
                at: now,
                topic: words.next().unwrap().into(),
                payload: Bytes::copy_from_slice(words.next().unwrap_or_default().as_bytes()),
                qos: QoS::AtMostOnce,
                retain: false,
                properties: Properties::new(),
                was_counted: false,
            });
        }
        while let Some(judging) = &mut judge
            && let Some(judgement) = judging.judge(&inbox, now)
        {
            for (client, position) in judging.taken() {
                inbox.read(client, position);
            }
            let nearest = judgement.nearest.map(|nearest| format!("\n    {nearest}")).unwrap_or_default();
            shown.push(match judgement.has_passed {
                true => format!("{}: passed with {}", now.as_millis(), judgement.counted),
                false => format!("{}: {}{nearest}", now.as_millis(), judgement.failure),
            });
            place += 1;
            judge = judge_of(place, now, &inbox);
        }
    }
    if judge.is_some() {
        shown.push("not known".to_owned());
    }
    expected.assert_eq(&shown.join("\n"));
}

fn started<'e>(
    expectation: &'e Expectation,
    scenario: &Scenario,
    names: &[&str],
    inbox: &Inbox,
    now: Duration,
) -> Judge<'e> {
    let mut matchers: Vec<_> =
        expectation.shared().map(|(matcher, said)| (matcher.clone(), said.to_owned())).into_iter().collect();
    let mut listeners = Vec::new();
    for selected in &expectation.of {
        let first = if selected.group == 0 { 0 } else { 1 };
        let group = &scenario.groups[selected.group];
        for i in (1..=group.count).filter(|i| selected.member.is_none_or(|member| member == *i)) {
            let client = first + i - 1;
            let mut matcher = 0;
            if expectation.shared().is_none() {
                let rendering = Rendering::new("x", "run", 1);
                let client_id = format!("{}-{i}", group.name);
                let speaker = Speaker { client: &group.name, client_id: &client_id, i, n: 1, pass: 1 };
                let mut stream = rendering.stream("1", &speaker, jiff::Timestamp::UNIX_EPOCH);
                matchers.push(expectation.rendered(&mut stream).unwrap());
                matcher = matchers.len() - 1;
            }
            listeners.push(Listener { client, name: names[client as usize].to_owned(), matcher });
        }
    }
    Judge::new(expectation, matchers, listeners, inbox, now)
}

#[test]
fn enough_is_enough_and_the_rest_is_for_what_is_expected_next() {
    judge(
        "  - expect: {client: app, topic: a, count: {gte: 2}}
  - expect: {client: app, topic: a, count: 1}
  - expect: {client: app, topic: a, count: 0, for: 100ms}",
        "10 app a
         20 app a
         30 app a
         131",
        expect![[r#"
            20: passed with 2
            30: passed with 1
            131: passed with 0"#]],
    );
}

#[test]
fn nothing_is_counted_twice_and_what_came_before_is_passed_over() {
    judge(
        "  - expect: {client: app, topic: b, within: 1s}
  - expect: {client: app, topic: a, within: 1s}",
        "10 app a 1
         20 app b 2
         1021",
        expect![[r#"
            20: passed with 1
            1021: expected at least 1 message (topic a) within 1 s; got 0, and no other message; 1 such message came before what earlier steps have read (what comes in any order is expected in `parallel`)"#]],
    );
}

#[test]
fn an_exact_count_fails_where_there_are_more() {
    judge(
        "  - expect: {client: app, topic: a/#, count: 0, for: 20ms}
  - expect: {client: dev, topic: a, count: 1}",
        "10 dev[1] a 1
         10 dev[2] a 2
         20",
        expect![[r#"
            20: passed with 0
            20: expected exactly 1 message (topic a) within 5 s; got 2
                dev[2] got "a" with payload "2" at 0.010 s"#]],
    );
}

#[test]
fn what_lasts_has_to_hold_throughout() {
    judge(
        "  - expect: {client: app, count: 0, for: 1s}
  - expect: {client: app, topic: x, count: {lte: 1}, for: 1s}
  - expect: {client: app, topic: x, count: {gte: 1}, for: 1s}",
        "10 dev[1] x
         999 app x early
         1500 app x one
         2500",
        expect![[r#"
            999: expected no message for 1 s; got 1
                app got "x" with payload "early" at 0.999 s
            2500: passed with 1
            2500: expected at least 1 message (topic x) for 1 s; got 0, and no other message"#]],
    );
    judge(
        "  - expect: {client: app, topic: x, count: 2, within: 1s, for: 500ms}",
        "100 app x
         900 app x
         1399
         1400",
        expect!["1400: passed with 2"],
    );
    judge(
        "  - expect: {client: app, topic: x, count: 2, within: 1s, for: 500ms}",
        "100 app x
         900 app x
         1399 app x third
         1400",
        expect![[r#"
            1399: expected exactly 2 messages (topic x) within 1 s, and for 0.5 s from then on; got 3
                app got "x" with payload "third" at 1.399 s"#]],
    );
}

#[test]
fn what_came_in_time_counts_though_it_is_judged_later() {
    judge(
        "  - expect: {client: app, topic: x, within: 1s}
  - expect: {client: app, topic: x, within: 1s}",
        "1000 app x
         3000 app x",
        expect![[r#"
            1000: passed with 1
            3000: expected at least 1 message (topic x) within 1 s; got 0, and no other message"#]],
    );
}

#[test]
fn each_of_several_gets_its_own() {
    judge(
        r#"  - expect: {client: dev, topic: "cmd/{{client_id}}", each: true, within: 1s}
  - expect: {client: dev, topic: "cmd/{{client_id}}", each: true, within: 1s}"#,
        "10 dev[1] cmd/dev-1
         10 dev[1] cmd/dev-1
         20 dev[2] cmd/dev-1
         30 dev[2] cmd/dev-2
         40 dev[2] cmd/dev-1
         1030",
        expect![[r#"
            30: passed with 2
            1030: expected at least 1 message (topic cmd/dev-2) for each within 1 s; dev[2] got 0
                dev[2] got "cmd/dev-1" with payload "" at 0.040 s: the topic is "cmd/dev-1", not "cmd/dev-2""#]],
    );
}

#[test]
fn the_nearest_message_is_told() {
    judge(
        r#"  - expect: {client: app, topic: st/+, payload: offline, within: 1s}"#,
        "10 app st/dev-1 online
         20 app t/dev-1 offline
         30 app other
         1000",
        expect![[r#"
            1000: expected at least 1 message (topic st/+, payload "offline") within 1 s; got 0
                app got "st/dev-1" with payload "online" at 0.010 s: the payload is "online", not "offline""#]],
    );
}

#[test]
fn an_inbox_keeps_what_was_not_read_and_says_when_it_is_full() {
    let mut inbox = Inbox::new(2, 10_000);
    let message = |client| Received {
        client,
        at: Duration::ZERO,
        topic: "a".into(),
        payload: Bytes::from_static(&[0; 1000]),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Properties::new(),
        was_counted: false,
    };
    for _ in 0..20 {
        inbox.push(message(0));
        inbox.read(0, inbox.end() - 1);
    }
    assert!(!inbox.is_full() && inbox.start() > 0 && inbox.end() == 20);
    for _ in 0..20 {
        inbox.push(message(1));
    }
    assert!(inbox.is_full());
    assert_eq!(inbox.count(), 40);
}

fn report() -> RunReport {
    let step = |number: &str, status, text: &str| StepResult {
        expects: false,
        number: number.to_owned(),
        kind: "expect".to_owned(),
        name: String::new(),
        line: 3,
        pass: 1,
        status,
        at: Duration::from_millis(1500),
        took: Duration::from_millis(20),
        text: text.to_owned(),
        nearest: None,
    };
    let nearest = NearestMessage {
        client: "app".to_owned(),
        at: Duration::from_millis(1510),
        topic: "a<b".to_owned(),
        payload: "\"1\" & 2".to_owned(),
        qos: 1,
        retain: false,
        differences: vec!["the topic is \"a<b\", not \"b\"".to_owned()],
    };
    RunReport {
        id: "01J".to_owned(),
        scenario: "x & y".to_owned(),
        seed: 7,
        verdict: RunVerdict::Failed,
        steps: vec![
            step("1", StepStatus::Passed, "1 message"),
            StepResult { nearest: Some(nearest), ..step("2", StepStatus::Failed, "expected <1>") },
            step("3", StepStatus::Skipped, "step 2 failed"),
        ],
        left_out: 0,
        figures: RunFigures { passed: 1, failed: 1, skipped: 1, expectations: 2, ..RunFigures::default() },
        took: Duration::from_secs(2),
    }
}

#[test]
fn reports_name_the_step_and_the_nearest_message() {
    expect![[r#"
            1.500 s  ok       1 expect: 1 message (0.020 s)
            1.500 s  FAILED   2 expect: expected <1> (0.020 s)
                             line 3
                             nearest: app got "a<b" with payload "\"1\" & 2" at 1.510 s: the topic is "a<b", not "b"
            1.500 s  skipped  3 expect: step 2 failed
        scenario "x & y" FAILED: 1 step passed, 1 failed, 1 skipped, 2 expectations (seed 7, 2.000 s)
    "#]].assert_eq(&report().text());
    expect![[r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="mockforge" tests="3" failures="1" errors="0" time="2.000">
          <testsuite name="x &amp; y" tests="3" failures="1" errors="0" skipped="1" time="2.000">
            <properties>
              <property name="seed" value="7"/>
              <property name="run" value="01J"/>
            </properties>
            <testcase name="1 expect" classname="x &amp; y" time="0.020"/>
            <testcase name="2 expect" classname="x &amp; y" time="0.020">
              <failure type="failed" message="expected &lt;1&gt;">nearest: app got &quot;a&lt;b&quot; with payload &quot;\&quot;1\&quot; &amp; 2&quot; at 1.510 s: the topic is &quot;a&lt;b&quot;, not &quot;b&quot;</failure>
            </testcase>
            <testcase name="3 expect" classname="x &amp; y" time="0.020">
              <skipped message="step 2 failed"/>
            </testcase>
          </testsuite>
        </testsuites>
    "#]].assert_eq(&report().junit());
    assert_eq!(report().json()["steps"][1]["nearest"]["payload"], "\"1\" & 2");
    let long = RunReport { left_out: 3, ..report() };
    assert!(long.junit().contains(r#"<property name="steps left out" value="3"/>"#), "{}", long.junit());
    assert!(!report().junit().contains("left out"));
}

#[test]
fn a_run_that_expects_nothing_is_no_green_report() {
    let nothing = RunReport { verdict: RunVerdict::Nothing, steps: Vec::new(), ..report() };
    assert!(nothing.junit().contains(r#"tests="1" failures="1""#), "{}", nothing.junit());
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_or_refused_with_a_place(text in "(?s)[-a-z{}\\[\\]:, \"#0-9.\n]{0,200}") {
        if let Err(problems) = Scenario::read(&text) {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.iter().all(|problem| problem.line > 0 && problem.column > 0), "{problems:?}");
        }
    }
}
