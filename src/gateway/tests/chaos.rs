//! Rules of chaos and their faults over REST.

use std::ops::RangeInclusive;

use super::*;
use crate::{
    config::read_rules,
    control::rule_message,
    fault::PROFILES,
    recording::Direction::{ClientToServer, ServerToClient},
};

/// Every action, in the forms in which people write it in the settings.
const RULES: &str = r#"
- id: all
  enabled: false
  match: {direction: s2c, client: [dev-*, app], topic: a/#, types: publish, qos: [1, 2]}
  when: {probability: 0.5, first_n: 10, every_nth: 2, after_n: 1, max_count: 3}
  actions:
    - latency: 50
    - latency: {ms: 12.5}
    - latency: {min_ms: 10, max_ms: 100}
    - latency: {mean_ms: 100, sd_ms: 20}
    - latency: {median_ms: 80, sigma: 0.5}
    - duplicate
    - duplicate: {count: 2}
    - reorder: {window: 2, max_ms: 50, violate: true}
    - corrupt: {bytes: 3, part: payload}
    - truncate: {bytes: 4, reframe: true}
    - bandwidth: {bytes_per_s: 1000}
    - slice: {size: 10, delay: 5ms}
    - slow_subscriber: {delay_ms: 100}
    - blackhole: {duration: 5s}
    - disconnect: {mode: mqtt5, at_byte: 3, will: false, reason: 0x97}
- id: acks
  match: {types: [SUBACK]}
  actions: [delay_ack: 5, duplicate_ack, reason_code: quota_exceeded, withhold_ack]
- {id: code, actions: [reason_code: 0x87]}
- {id: connects, match: {client: dev-*}, actions: [lose_session, refuse_connect: {reason: "0x88"}]}
- {id: plain, match: {qos: 0}, actions: [drop: ]}
- {id: away, actions: [takeover]}
- id: small
  actions:
    - capabilities: {session_present: false, maximum_qos: 0, receive_maximum: 1, server_keep_alive: 5}
"#;

#[tokio::test]
async fn a_rule_over_rest_is_what_it_is_in_the_settings_and_can_be_written_back() {
    let server = Server::start();
    let bodies: Vec<Value> = serde_saphyr::from_str(RULES).unwrap();
    let specs = read_rules("rules.yaml", RULES).unwrap();
    assert_eq!(bodies.len(), specs.len());
    for (body, spec) in bodies.iter().zip(specs) {
        let created = server.ok("POST", "/__mockforge/chaos/rules", body.to_string()).await;
        let path = format!("/__mockforge/chaos/rules/{}", spec.id);
        let mut read = server.ok("GET", &path, "").await;
        assert_eq!(read, created);
        assert_eq!(server.ok("PUT", &path, read.to_string()).await, read);
        // What is answered can go into the settings, too, and means the same there.
        for output in ["faults", "from_settings"] {
            read.as_object_mut().unwrap().remove(output);
        }
        let again = read_rules("rule.json", &read.to_string()).unwrap();
        let normal = |rule: pb::ChaosRule| format!("{rule:?}").to_lowercase();
        assert_eq!(normal(rule_message(again[0].clone())), normal(rule_message(spec)), "{read}");
    }
    let listed = server.ok("GET", "/__mockforge/chaos/rules?page_size=2", "").await;
    assert_eq!((&listed["rules"][1]["id"], &listed["total_size"]), (&json!("acks"), &json!(bodies.len())));
    let next = format!("/__mockforge/chaos/rules?page_token={}", listed["next_page_token"].as_str().unwrap());
    assert_eq!(server.ok("GET", &next, "").await["rules"][0]["id"], "code");

    let made = server.ok("POST", "/__mockforge/chaos/rules", r#"{"actions": ["drop"]}"#).await;
    assert_eq!((&made["id"], &made["enabled"]), (&json!("added-1"), &json!(true)));
    assert_eq!((&made["faults"], &made["from_settings"]), (&json!(0), &json!(false)));
    assert_eq!(made["actions"], json!([{"drop": {}}]));
    server.ok("DELETE", "/__mockforge/chaos/rules/added-1", "").await;
    let refusal = server.refusal("GET", "/__mockforge/chaos/rules/added-1", "").await;
    assert_eq!((refusal.0, &*refusal.1), (404, "RULE_NOT_FOUND"));
}

#[tokio::test]
async fn bad_rules_name_the_fields_of_the_request() {
    let server = Server::start();
    let refusal = async |body: Value| {
        let (status, reason, message) =
            server.refusal("POST", "/__mockforge/chaos/rules", body.to_string()).await;
        (status, reason, message.replace("; rule.", "\nrule."))
    };
    let (status, reason, message) = refusal(json!({
        "match": {"qos": [1, 300]},
        "actions": [{}, {"corrupt": {"part": "tail"}}, {"disconnect": {"mode": "soft"}}],
    }))
    .await;
    assert_eq!((status, reason.as_str()), (400, "BAD_FIELD"));
    expect_test::expect![[r#"
        rule.match.qos[1]: QoS 300 is none of 0, 1 and 2
        rule.actions[0]: names no action
        rule.actions[1].corrupt.part: is body, payload or packet, not "tail"
        rule.actions[2].disconnect.mode: is rst, fin or mqtt5, not "soft""#]]
    .assert_eq(&message);
    let (.., message) = refusal(json!({
        "match": {"topic": "a/#/b", "types": ["PUBLISH", "PUB"], "qos": [1, 3]},
        "when": {"probability": 2},
        "actions": [
            {"latency": {"min_ms": 5, "max_ms": 1}},
            {"reason_code": "quota_exceded"},
            {"slice": {"size": 0, "delay": "25h"}},
            {"capabilities": {"receive_maximum": 0}},
        ],
    }))
    .await;
    expect_test::expect![[r#"
        rule.when.probability: is 0 to 1, not 2
        rule.match.topic: level 1: '#' stands alone and last
        rule.match.qos[1]: QoS 3 is none of 0, 1 and 2
        rule.match.types[1]: unknown packet type "PUB"; did you mean "PUBREL"?
        rule.actions[0].latency.min_ms: is 5, more than max_ms, which is 1
        rule.actions[1].reason_code: unknown Reason Code "quota_exceded"; did you mean "quota_exceeded"?
        rule.actions[2].slice.size: is at least 1
        rule.actions[2].slice.delay: is 0 to 86400000 milliseconds, not 90000000
        rule.actions[3].capabilities.receive_maximum: is at least 1"#]]
    .assert_eq(&message);
    assert_eq!(refusal(json!({"actions": ["explode"]})).await.2, "rule.actions[0].explode: no such field");
    let nothing = "rule.actions: has no entry: there is nothing that the rule would do";
    assert_eq!(refusal(json!({})).await.2, nothing);

    let good = json!({"id": "x", "actions": ["drop"]});
    server.ok("POST", "/__mockforge/chaos/rules", good.to_string()).await;
    let (status, reason, _) = refusal(good).await;
    assert_eq!((status, reason.as_str()), (409, "RULE_EXISTS"));
    let other = r#"{"id": "y", "actions": ["drop"]}"#;
    let (status, _, message) = server.refusal("PUT", "/__mockforge/chaos/rules/x", other).await;
    assert_eq!((status, &*message), (400, r#"rule.id: stays "x": a rule keeps its id"#));
    let alone = Server::alone();
    let (status, reason, _) = alone.refusal("GET", "/__mockforge/chaos/rules", "").await;
    assert_eq!((status, reason.as_str()), (400, "NO_SERVER"));
}

#[tokio::test]
async fn chaos_is_switched_reset_and_made_of_profiles() {
    let server = Server::start();
    let says = |status: &Value| {
        (status["enabled"] == true, status["active"] == true, status["rules"].as_u64().unwrap())
    };
    assert_eq!(says(&server.ok("GET", "/__mockforge/chaos", "").await), (true, false, 0));

    let profiles = server.ok("GET", "/__mockforge/chaos/profiles", "").await;
    assert_eq!(profiles["profiles"].as_array().unwrap().len(), PROFILES.len());
    let applied = server.ok("POST", "/__mockforge/chaos:applyProfile", r#"{"name": "3g"}"#).await;
    assert_eq!(applied["rules"], profiles["profiles"][0]["rules"]);
    let refusal = server.refusal("POST", "/__mockforge/chaos:applyProfile", r#"{"name": "4g"}"#).await;
    assert_eq!((refusal.0, &*refusal.2), (400, r#"name: unknown profile "4g"; did you mean "3g"?"#));

    assert_eq!(says(&server.ok("GET", "/__mockforge/chaos", "").await), (true, true, 3));
    assert_eq!(says(&server.ok("POST", "/__mockforge/chaos:disable", "").await), (false, false, 3));
    assert_eq!(says(&server.ok("POST", "/__mockforge/chaos:enable", "").await), (true, true, 3));
    server.chaos.count_held(2, 300);
    let reset = server.ok("POST", "/__mockforge/chaos:reset", "{}").await;
    assert_eq!(says(&reset), (true, false, 0));
    assert_eq!((&reset["held_packets"], &reset["held_bytes"]), (&json!(2), &json!(300)));
}

#[tokio::test]
async fn the_seed_is_read_and_set_and_said_by_the_server() {
    let server = Server::start();
    assert_eq!(server.ok("GET", "/__mockforge/chaos/seed", "").await, json!({"seed": 7}));
    let seed = json!({"seed": u64::MAX});
    assert_eq!(server.ok("PUT", "/__mockforge/chaos/seed", seed.to_string()).await, seed);
    for (path, name) in [("info", "seed"), ("chaos", "seed")] {
        assert_eq!(server.ok("GET", &format!("/__mockforge/{path}"), "").await[name], u64::MAX);
    }
    let refusal = server.refusal("PUT", "/__mockforge/chaos/seed", "{}").await;
    assert_eq!((refusal.0, &*refusal.2), (400, "seed: is required"));
}

/// Faults of a client's packets: latency of those that are odd, to the client, and loss of those that are even, from it.
fn note_faults(server: &Server, client: &str, numbers: RangeInclusive<u64>) {
    for nth in numbers {
        let (action, detail, direction) = match nth % 2 {
            0 => ("drop", "{}", ClientToServer),
            _ => ("latency", r#"{"ms":12.5}"#, ServerToClient),
        };
        let fault = FaultInjected {
            rule: "r".to_owned(),
            client_identifier: client.to_owned(),
            direction,
            nth,
            topic: "a/b".to_owned(),
            ..sample::fault(action, detail)
        };
        server.chaos.note(&fault, 3, jiff::Timestamp::UNIX_EPOCH);
    }
}

#[tokio::test]
async fn faults_are_listed_by_page_from_either_end() {
    let server = Server::start();
    note_faults(&server, "dev-1", 1..=5);
    note_faults(&server, "app", 6..=6);
    let list = async |query: &str| {
        let answer = server.ok("GET", &format!("/__mockforge/chaos/faults?{query}"), "").await;
        let faults = answer["faults"].as_array().unwrap();
        let numbers: Vec<u64> = faults.iter().map(|fault| fault["number"].as_u64().unwrap()).collect();
        (numbers, answer["next_page_token"].as_str().unwrap().to_owned())
    };
    let (newest, token) = list("page_size=4").await;
    assert_eq!(newest, [6, 5, 4, 3]);
    assert_eq!(list(&format!("page_size=4&page_token={token}")).await, (vec![2, 1], String::new()));
    let (oldest, token) = list("from=2&page_size=3").await;
    assert_eq!(oldest, [2, 3, 4]);
    assert_eq!(list(&format!("from=2&page_size=3&page_token={token}")).await, (vec![5, 6], String::new()));
    for (filter, numbers) in [
        ("client=dev-*", &[5, 4, 3, 2, 1][..]),
        ("rule=s", &[]),
        ("action=drop", &[6, 4, 2]),
        ("direction=DIRECTION_SERVER_TO_CLIENT", &[5, 3, 1]),
        ("type=PACKET_TYPE_PUBACK", &[]),
    ] {
        assert_eq!(list(&format!("filter.{filter}")).await.0, numbers, "{filter}");
    }
    let answer = server.ok("GET", "/__mockforge/chaos/faults?from=1", "").await;
    let expected = json!({
        "number": 1, "at": "1970-01-01T00:00:00Z", "rule": "r", "action": "latency", "detail": {"ms": 12.5},
        "client_id": "dev-1", "direction": "DIRECTION_SERVER_TO_CLIENT", "type": "PACKET_TYPE_PUBLISH",
        "nth": 1, "topic": "a/b", "connection": 3,
    });
    assert_eq!(answer["faults"][0], expected);
    let refusal = server.refusal("GET", "/__mockforge/chaos/faults?page_token=eA", "").await;
    assert_eq!((refusal.0, &*refusal.2), (400, "page_token: is no token of this list"));

    assert_eq!(server.ok("GET", "/__mockforge/chaos", "").await["faults"], 6);
    let metrics = text(server.send("GET", METRICS_PATH, "").await).await;
    for line in [
        r#"mqtt_faults_total{rule="r",action="drop"} 3"#,
        r#"mqtt_faults_total{rule="r",action="latency"} 3"#,
        "mqtt_chaos_held_packets 0",
        "mqtt_chaos_held_bytes 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line:?} in\n{metrics}");
    }
}

#[tokio::test]
async fn faults_are_watched_and_what_was_missed_is_said() {
    let server = Server::start();
    let answer = server.send("GET", "/__mockforge/chaos/faults:watch?filter.action=drop", "").await;
    let mut body = answer.into_body();
    let mut next = async || serde_json::from_str::<Value>(&soon(piece(&mut body)).await).unwrap();
    note_faults(&server, "dev-1", 1..=2);
    let first = next().await;
    assert_eq!((&first["fault"]["number"], &first["fault"]["action"]), (&json!(2), &json!("drop")));
    // More than a reader may fall behind.
    note_faults(&server, "dev-1", 3..=5_000);
    let gap = next().await;
    let missed = gap["gap"]["missed"].as_u64().unwrap_or_else(|| panic!("no gap: {gap}"));
    let after = next().await["fault"]["number"].as_u64().unwrap();
    // The first behind the gap, or the second: one of two is a drop.
    assert!(after - (2 + missed) <= 2, "{missed} missed before {after}");
}
