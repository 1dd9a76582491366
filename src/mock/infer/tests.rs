//! What is inferred from events made by hand, and from the sample recordings.

use std::collections::HashMap;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::{
    draws::Draws,
    packet::{Property, ProtocolVersion, Publish, QoS},
    recording::{
        CloseCause, Direction, EventKind,
        json::JsonReader,
        sample::{connect, events, from_client, from_server, identified, publish, text},
    },
};

/// Who published what, and when.
#[derive(Default)]
struct Script {
    connections: HashMap<String, u32>,
    events: Vec<(u64, u32, EventKind)>,
}

impl Script {
    fn new() -> Self {
        Self::default()
    }

    fn connection(&mut self, client: &str) -> u32 {
        let next = self.connections.len() as u32 + 1;
        let known = self.connections.get(client).copied();
        known.unwrap_or_else(|| {
            self.connections.insert(client.to_owned(), next);
            self.events.push((0, next, connect(client, ProtocolVersion::V5)));
            next
        })
    }

    fn send(&mut self, at_ms: f64, client: &str, message: Publish) -> &mut Self {
        let at = (at_ms * 1000.0) as u64;
        let connection = self.connection(client);
        self.events.push((at, connection, from_client(message)));
        self
    }

    fn say(&mut self, at_ms: f64, client: &str, topic: &str, payload: &str) -> &mut Self {
        self.send(at_ms, client, publish(Some(topic), payload.as_bytes(), Vec::new()))
    }

    /// As MQTT 5 clients ask.
    fn ask(
        &mut self,
        at_ms: f64,
        client: &str,
        topic: &str,
        reply: &str,
        id: &str,
        payload: &str,
    ) -> &mut Self {
        let properties =
            vec![Property::ResponseTopic(text(reply)), Property::CorrelationData(id.to_owned().into())];
        self.send(at_ms, client, publish(Some(topic), payload.as_bytes(), properties))
    }

    /// As they are answered.
    fn answer(&mut self, at_ms: f64, client: &str, topic: &str, id: &str, payload: &str) -> &mut Self {
        let properties = vec![Property::CorrelationData(id.to_owned().into())];
        self.send(at_ms, client, publish(Some(topic), payload.as_bytes(), properties))
    }

    fn infer_with(&mut self, options: InferenceOptions) -> Inferred {
        let mut script = std::mem::take(&mut self.events);
        script.sort_by_key(|(at, _, _)| *at);
        infer(events(script), options)
    }

    fn infer(&mut self) -> Inferred {
        self.infer_with(options())
    }
}

fn options() -> InferenceOptions {
    let started_at = Some("2026-11-22T12:00:00Z".parse().unwrap());
    InferenceOptions { started_at, ..InferenceOptions::default() }
}

fn infer(events: impl IntoIterator<Item = Event>, options: InferenceOptions) -> Inferred {
    let mut inference = Inference::new(options);
    events.into_iter().for_each(|event| inference.observe(&event));
    inference.finish()
}

/// The document, which reads back as the same mocks.
fn yaml(inferred: &Inferred) -> String {
    #[derive(Deserialize)]
    struct Document {
        mqtt: Section,
    }
    #[derive(Deserialize)]
    struct Section {
        mocks: Vec<MockSpec>,
    }
    let yaml = inferred.to_yaml("test");
    let document: Document = serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert_eq!(document.mqtt.mocks, inferred.mocks, "{yaml}");
    yaml
}

#[track_caller]
fn check(inferred: &Inferred, expected: Expect) {
    expected.assert_eq(&yaml(inferred));
}

fn sample(name: &str) -> Inferred {
    let path = format!("{}/recordings/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let mut reader = JsonReader::open(std::fs::File::open(path).unwrap()).unwrap();
    let events = reader.events().unwrap().map(Result::unwrap);
    infer(events, options())
}

#[test]
fn commands_of_the_sample_recording_are_answered() {
    check(
        &sample("commands"),
        expect![[r##"
        # Inferred from the recording test: 1 mock from 20 answered requests.
        # - plant/press-7/commands: 20 requests answered by Response Topic on plant/replies/control-room by press-7
        mqtt:
          mocks:
            - topic: plant/press-7/commands
              qos: 2
              response:
                payload: '{"ok": true, "command": "{{payload.do}}", "took_ms": 12}'
                delay_ms: 2.14
                properties:
                  content_type: application/json
                  user:
                    firmware: "2.4.1"
                    trace: ünïcode
    "##]],
    );
}

#[test]
fn sensors_that_just_talk_answer_nobody() {
    for name in ["sensor-fleet", "reconnects"] {
        let inferred = sample(name);
        assert_eq!((inferred.pairs, inferred.mocks.len()), (0, 0), "{}", inferred.to_yaml(name));
        assert!(inferred.notes[0].contains("were looked at"), "{:?}", inferred.notes);
    }
}

#[test]
fn devices_that_answer_alike_are_one_mock() {
    let mut script = Script::new();
    for n in 0..12 {
        let (at, device) = (f64::from(n) * 1000.0, format!("d{}", n % 3));
        let asked = format!(r#"{{"id":{},"cmd":"get"}}"#, 100 + n);
        let answer = format!(
            r#"{{"id":{},"device":"{device}","temp":2{}.{n},"at":"2026-11-22T12:00:{n:02}.020Z"}}"#,
            100 + n,
            n % 5
        );
        script.say(at, "app", &format!("devices/{device}/cmd"), &asked);
        script.say(at + 20.0, &device, &format!("devices/{device}/cmd/reply"), &answer);
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 1 mock from 12 answered requests.
        # - devices/{{device_id}}/cmd: 12 requests answered by topic on devices/d0/cmd/reply, devices/d1/cmd/reply,
        #   devices/d2/cmd/reply by d0, d1, d2
        mqtt:
          mocks:
            - topic: devices/{{device_id}}/cmd
              response:
                payload: '{"id":{{payload.id}},"device":"{{device_id}}","temp":{{random_float 20.0 24.9 2}},"at":"{{now}}"}'
                topic: devices/{{device_id}}/cmd/reply
                delay_ms: 20
    "##]],
    );
}

#[test]
fn devices_that_answer_differently_have_mocks_of_their_own() {
    let mut script = Script::new();
    for n in 0..12 {
        let (at, device) = (f64::from(n) * 1000.0, n % 2);
        let model = ["\"small\",\"v\":1", "\"large\",\"v\":2"][device as usize];
        script.say(at, "app", &format!("pumps/p{device}/info/req"), "{}");
        script.say(
            at + 5.0,
            &format!("p{device}"),
            &format!("pumps/p{device}/info/res"),
            &format!("{{\"model\":{model}}}"),
        );
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 2 mocks from 12 answered requests.
        # - pumps/{{pump_id}}/info/req: 12 requests answered by topic on pumps/p0/info/res, pumps/p1/info/res by p0, p1
        mqtt:
          mocks:
            - topic: pumps/p0/info/req
              response:
                payload: '{"model":"small","v":1}'
                topic: pumps/p0/info/res
                delay_ms: 5
            - topic: pumps/p1/info/req
              response:
                payload: '{"model":"large","v":2}'
                topic: pumps/p1/info/res
                delay_ms: 5
    "##]],
    );
}

#[test]
fn what_depends_on_a_field_of_the_request_is_a_condition() {
    let mut script = Script::new();
    for n in 0..9 {
        let (at, id) = (f64::from(n) * 500.0, format!("c{n}"));
        let (command, answer) = [
            ("start", r#"{"state":"running","code":0}"#),
            ("stop", r#"{"state":"stopped","code":0}"#),
            ("explode", r#"{"error":{"code":400}}"#),
        ][n as usize % 3];
        script.ask(at, "app", "motor/1", "re/app", &id, &format!(r#"{{"cmd":"{command}"}}"#));
        script.answer(at + 8.0, "motor-1", "re/app", &id, answer);
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 3 mocks from 9 answered requests.
        # - motor/1: 9 requests answered by Response Topic on re/app by motor-1
        mqtt:
          mocks:
            - topic: motor/1
              when:
                payload:
                  $.cmd: explode
              priority: 4
              response:
                payload: '{"error":{"code":400}}'
                delay_ms: 8
            - topic: motor/1
              when:
                payload:
                  $.cmd: start
              priority: 4
              response:
                payload: '{"state":"running","code":0}'
                delay_ms: 8
            - topic: motor/1
              when:
                payload:
                  $.cmd: stop
              priority: 4
              response:
                payload: '{"state":"stopped","code":0}'
                delay_ms: 8
    "##]],
    );
}

#[test]
fn answers_in_a_cycle_or_in_stages_are_sequences() {
    let mut script = Script::new();
    for n in 0..6 {
        let (at, id) = (f64::from(n) * 500.0, format!("c{n}"));
        script.ask(at, "app", "lamp/1", "re/app", &id, "toggle");
        script.answer(at + 8.0, "lamp-1", "re/app", &id, ["on", "off"][n as usize % 2]);
        script.ask(at + 100.0, "app", "job/status", "re/app", &id, "{}");
        let (state, progress) =
            [("starting", 0), ("running", 30), ("running", 60), ("done", 100)][(n as usize).min(3)];
        script.answer(
            at + 110.0,
            "job",
            "re/app",
            &id,
            &format!(r#"{{"state":"{state}","progress":{progress}}}"#),
        );
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 2 mocks from 12 answered requests.
        # - job/status: 6 requests answered by Response Topic on re/app by job
        # - lamp/1: 6 requests answered by Response Topic on re/app by lamp-1
        # - job/status: answers come in the order they were recorded in
        # - lamp/1: answers come in the order they were recorded in
        mqtt:
          mocks:
            - topic: job/status
              responses:
                - payload: '{"state":"starting","progress":0}'
                  delay_ms: 10
                - payload: '{"state":"running","progress":{{random_int 30 60}}}'
                  delay_ms: 10
                - payload: '{"state":"done","progress":100}'
                  delay_ms: 10
              mode: sequence
              then: last
            - topic: lamp/1
              responses:
                - payload: "on"
                  delay_ms: 8
                - payload: "off"
                  delay_ms: 8
              mode: sequence
    "##]],
    );
}

#[test]
fn several_answers_come_one_after_the_other() {
    let mut script = Script::new();
    for n in 0..4 {
        let (at, id) = (f64::from(n) * 5000.0, format!("c{n}"));
        script.ask(at, "app", "fw/update", "re/app", &id, &format!(r#"{{"version":"1.{n}"}}"#));
        script.answer(at + 10.0, "dev", "re/app", &id, r#"{"accepted":true}"#);
        script.answer(
            at + 2010.0,
            "dev",
            "re/app",
            &id,
            &format!(r#"{{"installed":"1.{n}","text":"now at 1.{n}!"}}"#),
        );
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 1 mock from 4 answered requests.
        # - fw/update: 4 requests answered by Response Topic on re/app by dev
        mqtt:
          mocks:
            - topic: fw/update
              responses:
                - payload: '{"accepted":true}'
                  delay_ms: 10
                - payload: '{"installed":"{{payload.version}}","text":"now at {{payload.version}}!"}'
                  delay_ms: 2000
    "##]],
    );
}

#[test]
fn a_field_may_say_where_answers_go() {
    let mut script = Script::new();
    for n in 0..4 {
        let at = f64::from(n) * 1000.0;
        let asked = format!(r#"{{"reply_to":"clients/app-{}/in","do":"ping","n":{n}}}"#, n % 2);
        script.say(at, &format!("app-{}", n % 2), "service/ping", &asked);
        script.say(at + 3.0, "service", &format!("clients/app-{}/in", n % 2), &format!(r#"{{"pong":{n}}}"#));
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 1 mock from 4 answered requests.
        # - service/ping: 4 requests answered by $.reply_to on clients/app-0/in, clients/app-1/in by service
        mqtt:
          mocks:
            - topic: service/ping
              reply_to: $.reply_to
              response:
                payload: '{"pong":{{payload.n}}}'
                delay_ms: 3
    "##]],
    );
}

#[test]
fn an_identifier_pairs_requests_that_overlap() {
    let mut script = Script::new();
    for n in 0..8 {
        let (at, answered_at) =
            (f64::from(n) * 100.0, f64::from(n) * 100.0 + if n % 2 == 0 { 250.0 } else { 50.0 });
        script.say(at, "app", &format!("rpc/in/{n}"), &format!(r#"{{"requestId":"r-{n}","x":{n}}}"#));
        script.say(
            answered_at,
            "svc",
            &format!("rpc/out/{n}"),
            &format!(r#"{{"meta":{{"request_id":"r-{n}"}},"y":{}}}"#, n * n),
        );
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 1 mock from 8 answered requests.
        # - rpc/in/{{level_2}}: 8 requests answered by topic on rpc/out/0, rpc/out/1, rpc/out/2 and 5 more by svc
        mqtt:
          mocks:
            - topic: rpc/in/{{level_2}}
              response:
                payload: '{"meta":{"request_id":"{{payload.requestId}}"},"y":{{random_int 0 49}}}'
                topic: rpc/out/{{level_2}}
                delay_ms:
                  mean: 150
                  sd: 100
    "##]],
    );
}

#[test]
fn values_of_answers_are_explained_by_what_they_look_like() {
    let mut script = Script::new();
    for n in 0..10_u32 {
        let (at, id) = (f64::from(n) * 1000.0, format!("c{n}"));
        let uuid = format!("00000000-0000-4000-8000-{n:012}");
        let answer = format!(
            r#"{{"seq": {}, "job": "{uuid}", "level": {}, "ms": {}, "s": {}, "at": "2026-11-22T12:00:{n:02}Z", "mood": "{}", "raw": "{{{{x}}}}", "quote": "a\"b"}}"#,
            41 + n,
            (n * 7) % 10,
            1_795_348_800_000_u64 + u64::from(n) * 1000 + 10,
            1_795_348_800 + n,
            ["good", "bad", "good", "good", "odd", "bad", "bad", "odd", "good", "bad"][n as usize],
        );
        script.ask(at, "app", "svc", "re/app", &id, r#"{"q": 1}"#);
        script.answer(at + 10.0, "svc", "re/app", &id, &answer);
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 1 mock from 10 answered requests.
        # - svc: 10 requests answered by Response Topic on re/app by svc
        # - svc: nothing explains $.mood; what comes is drawn from what was seen
        mqtt:
          mocks:
            - topic: svc
              response:
                payload: '{"seq": {{add (counter "svc.seq") 40}}, "job": "{{uuid}}", "level": {{random_int 0 9}}, "ms": {{timestamp_ms}}, "s": {{now "%s"}}, "at": "{{now "%Y-%m-%dT%H:%M:%SZ"}}", "mood": "{{random_choice "good" "bad" "odd"}}", "raw": "\{{x}}", "quote": "a\"b"}'
                delay_ms: 10
    "##]],
    );
}

#[test]
fn bytes_are_sent_as_they_were() {
    let mut script = Script::new();
    for n in 0..3_u8 {
        let (at, id) = (f64::from(n) * 1000.0, [n]);
        let correlation = || Property::CorrelationData(id.to_vec().into());
        let asked = vec![Property::ResponseTopic(text("re")), correlation()];
        script.send(at, "app", publish(Some("a/image"), b"", asked));
        let answer = publish(Some("re"), &[0xFF, 0xD8, n / 2], vec![correlation()]);
        script.send(at + 10.0, "cam", identified(answer, QoS::AtLeastOnce, u16::from(n) + 1, false));
    }
    check(
        &script.infer(),
        expect![[r#"
        # Inferred from the recording test: 1 mock from 3 answered requests.
        # - a/image: 3 requests answered by Response Topic on re by cam
        # - a/image: answers come in the order they were recorded in
        mqtt:
          mocks:
            - topic: a/image
              qos: 1
              responses:
                - payload_base64: /9gA
                  delay_ms: 10
                - payload_base64: /9gB
                  delay_ms: 10
              mode: sequence
              then: last
    "#]],
    );
}

#[test]
fn delays_are_fitted() {
    let mut script = Script::new();
    let mut draws = Draws::new(3);
    for n in 0..200 {
        let (at, id) = (f64::from(n) * 1000.0, format!("c{n}"));
        script.ask(at, "app", "svc", "re/app", &id, "?");
        script.answer(at + 50.0 + 100.0 * draws.fraction(), "svc", "re/app", &id, "!");
    }
    check(
        &script.infer(),
        expect![[r##"
        # Inferred from the recording test: 1 mock from 200 answered requests.
        # - svc: 200 requests answered by Response Topic on re/app by svc
        mqtt:
          mocks:
            - topic: svc
              response:
                payload: "!"
                delay_ms:
                  min: 50.6
                  max: 150
    "##]],
    );
}

#[test]
fn steady_talk_becomes_interval_mocks_when_asked_for() {
    let mut script = Script::new();
    for n in 0..8 {
        script.say(
            f64::from(n) * 1000.0 + f64::from(n % 3),
            "s1",
            "sensors/s1",
            &format!(r#"{{"t": 2{n}.5}}"#),
        );
    }
    let script_events = script.events.clone();
    assert!(script.infer().mocks.is_empty());
    script.events = script_events;
    check(
        &script.infer_with(InferenceOptions { telemetry: true, ..options() }),
        expect![[r##"
        # Inferred from the recording test: 1 mock from 0 answered requests.
        # - sensors/s1: s1 publishes about every 1001 ms
        mqtt:
          mocks:
            - on: interval
              topic: sensors/s1
              interval_ms: 1001
              response:
                payload: '{"t": {{random_float 20.5 27.5 1}}}'
    "##]],
    );
}

#[test]
fn only_the_devices_asked_for_answer() {
    let mut script = Script::new();
    for n in 0..6 {
        let (at, device) = (f64::from(n) * 1000.0, n % 2);
        script.say(at, "app", &format!("devices/d{device}/cmd"), "go");
        script.say(at + 20.0, &format!("dev-{device}"), &format!("devices/d{device}/ack"), "went");
    }
    let responders = Some(NamePattern::new("dev-1"));
    let inferred = script.infer_with(InferenceOptions { responders, ..options() });
    let topics: Vec<_> = inferred.mocks.iter().map(|mock| mock.topic.as_str()).collect();
    assert_eq!((topics, inferred.pairs), (vec!["devices/d1/cmd"], 3));
}

#[test]
fn a_message_sent_again_is_the_same_message() {
    let mut script = Script::new();
    for n in 0..3_u16 {
        let (at, id) = (f64::from(n) * 1000.0, format!("c{n}"));
        script.ask(at, "app", "svc", "re/app", &id, "?");
        let properties = vec![Property::CorrelationData(id.into())];
        let answer = publish(Some("re/app"), b"!", properties);
        for (after, dup) in [(10.0, false), (500.0, true)] {
            script.send(at + after, "svc", identified(answer.clone(), QoS::AtLeastOnce, n + 1, dup));
        }
    }
    let inferred = script.infer();
    assert!(inferred.mocks[0].responses.is_empty(), "{:?}", inferred.mocks);
    assert_eq!(inferred.mocks[0].qos, 1);
}

#[test]
fn topic_aliases_are_resolved() {
    let mut script = Script::new();
    for n in 0..3 {
        let (at, id) = (f64::from(n) * 1000.0, format!("c{n}"));
        script.ask(at, "app", "svc", "re/app", &id, "?");
        let properties = vec![Property::TopicAlias(1), Property::CorrelationData(id.into())];
        script.send(at + 9.0, "svc", publish((n == 0).then_some("re/app"), b"!", properties));
    }
    assert_eq!(script.infer().pairs, 3);
}

#[test]
fn requests_without_an_answer_are_told() {
    let mut script = Script::new();
    for n in 0..4 {
        let (at, id) = (f64::from(n) * 60_000.0, format!("c{n}"));
        script.ask(at, "app", "svc", "re/app", &id, "?");
        if n > 1 {
            script.answer(at + 9.0, "svc", "re/app", &id, "!");
        }
    }
    let inferred = script.infer();
    assert!(inferred.notes[0].ends_with("2 more had no answer"), "{:?}", inferred.notes);
    let silent = Script::new().ask(0.0, "app", "svc", "re", "1", "?").say(60_000.0, "svc", "x", "").infer();
    assert_eq!(silent.pairs, 0);
    assert!(silent.notes[0].contains("1 request with a Response Topic had no answer"), "{:?}", silent.notes);
}

#[test]
fn a_recording_that_cannot_say_anything_says_why() {
    for (inferred, says) in [
        (Script::new().infer(), "no client published anything"),
        (Script::new().say(0.0, "a", "t", "x").infer(), "only one client published"),
        (
            infer(
                events([
                    (0, 1, connect("a", ProtocolVersion::V5)),
                    (1, 1, from_server(publish(Some("t"), b"", vec![]))),
                ]),
                options(),
            ),
            "a recording of deliveries alone",
        ),
    ] {
        assert!(inferred.mocks.is_empty() && inferred.notes[0].contains(says), "{:?}", inferred.notes);
    }
}

#[test]
fn memory_is_bounded() {
    let mut inference = Inference::new(options());
    let mut observe = |n: u64, kind| {
        inference.observe(&Event { seq: n, at: std::time::Duration::from_millis(n), connection: 1, kind })
    };
    observe(0, connect("a", ProtocolVersion::V5));
    for n in 1..5000 {
        observe(n, from_client(publish(Some("busy"), &[b'x'; 10], Vec::new())));
        observe(n, from_client(publish(Some(&format!("t/{n}/{}", "l".repeat(10_000))), b"", Vec::new())));
    }
    observe(5000, from_client(publish(Some("huge"), &[0; 100_000], Vec::new())));
    let notes = inference.finish().notes.join("\n");
    for says in ["left out because their topics had 1,000", "they are its last ones"] {
        assert!(notes.contains(says), "{notes}");
    }
}

#[test]
fn sensors_of_one_plant_do_not_answer_each_other() {
    let mut script = Script::new();
    for n in 0..400 {
        for sensor in 0..60 {
            let at = f64::from(n) * 1000.0 + f64::from(sensor);
            let topic = format!("plant/{}/{sensor}", ["heat", "flow", "load"][sensor as usize % 3]);
            script.say(at, &format!("s{sensor}"), &topic, &format!(r#"{{"id":{sensor},"v":{n}}}"#));
        }
    }
    let inferred = script.infer();
    assert_eq!(inferred.pairs, 0, "{}", inferred.to_yaml("plant"));
}

/// Messages of a few clients, on a few topics, that look like requests, answers, and neither.
fn anything() -> impl Strategy<Value = (u32, EventKind)> {
    let topic = proptest::sample::select(vec![
        "d/1/cmd",
        "d/2/cmd",
        "d/1/cmd/reply",
        "d/2/cmd/reply",
        "re",
        "a/{{b}}",
        "/",
    ]);
    let payload = prop_oneof![
        (0..4_u8, "[a-c{}\"\\\\ \n|:#'-]{0,6}").prop_map(|(id, text)| {
            serde_json::json!({"id": id, "cmd": text, "reply_to": "re", "list": [text, null, 1.5e3]})
                .to_string()
                .into_bytes()
        }),
        "[a-c{}\"\\\\ \n|:#'-]{0,8}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    let properties = (any::<bool>(), any::<bool>(), 0..3_u8, "[a-c{}: |\"\\\\]{0,4}").prop_map(
        |(asks, correlates, id, user)| {
            let asks = asks.then(|| Property::ResponseTopic(text("re")));
            let correlates = correlates.then(|| Property::CorrelationData(vec![id].into()));
            let user = Property::UserProperty(text("k"), text(&user));
            asks.into_iter().chain(correlates).chain([user]).collect::<Vec<_>>()
        },
    );
    let message = (topic, payload, properties)
        .prop_map(|(topic, payload, properties)| from_client(publish(Some(topic), &payload, properties)));
    let kind = prop_oneof![
        12 => message,
        1 => proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| EventKind::Packet { direction: Direction::ClientToServer, bytes: bytes.into() }),
        1 => proptest::sample::select(vec!["x", "y", ""]).prop_map(|client| connect(client, ProtocolVersion::V5)),
        1 => Just(EventKind::Close(CloseCause::Timeout)),
        1 => Just(EventKind::Gap { events: 1, bytes: 1 }),
    ];
    (1..4_u32, kind)
}

proptest! {
    #[test]
    fn whatever_is_recorded_becomes_mocks_that_can_be_read_back(
        kinds in proptest::collection::vec((0..20_000_000_u64, anything()), 0..60), telemetry in any::<bool>(),
    ) {
        let start = (1..4).map(|number| (0, number, connect(&format!("c{number}"), ProtocolVersion::V5)));
        let mut at = 0;
        let kinds = kinds.into_iter().map(|(gap, (connection, kind))| {
            at += gap;
            (at, connection, kind)
        });
        let inferred = infer(events(start.chain(kinds)), InferenceOptions { telemetry, ..options() });
        yaml(&inferred);
    }
}
