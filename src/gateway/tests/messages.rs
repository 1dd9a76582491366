//! Waiting for messages, judging and finding them, over REST.

use super::*;
use crate::packet::Publish;

#[tokio::test]
async fn a_test_waits_for_what_it_causes() {
    let server = Server::start();
    let client = server.client("dev-1").await;
    let publish = async |topic: &str, payload: &str| {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Some(topic.parse().unwrap()),
            packet_identifier: None,
            properties: Default::default(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        };
        client.publish(publish).await.unwrap().acked().await.unwrap();
    };
    publish("alarms/1", r#"{"level": 1}"#).await;
    let counted = server.ok("POST", "/__mockforge/messages:count", "{}").await;
    assert_eq!(counted, json!({"count": 1, "cursor": 2, "missed": 0}));

    let wait = r#"{"match": {"topic": "alarms/+", "payload": {"$.level": {"gt": 2}}}, "since": 2, "timeout": "30s"}"#;
    let waiting = server.ok("POST", "/__mockforge/messages:wait", wait);
    let (answer, ()) = tokio::join!(waiting, async {
        publish("alarms/2", r#"{"level": 2}"#).await;
        publish("alarms/3", r#"{"level":3}"#).await;
    });
    assert_eq!(
        (&answer["satisfied"], &answer["found"], &answer["missed"]),
        (&json!(true), &json!(1), &json!(0))
    );
    let message = &answer["messages"][0];
    assert_eq!(message["topic"], "alarms/3");
    assert_eq!(message["payload"], json!({"level": 3}));
    assert_eq!(
        (&message["client_id"], &message["origin"]),
        (&json!("dev-1"), &json!("MESSAGE_ORIGIN_CLIENT"))
    );
    assert_eq!((&message["sequence"], &answer["cursor"]), (&json!(3), &json!(4)));
    assert_eq!((&message["qos"], &message["intercepted"]), (&json!(1), &json!(false)));

    let over = r#"{"match": {"topic": "alarms/4"}, "timeout": 0}"#;
    let over = server.ok("POST", "/__mockforge/messages:wait", over).await;
    assert_eq!(
        (&over["satisfied"], &over["text"]),
        (&json!(false), &json!("expected at least 1 message, found 0"))
    );
    assert_eq!(over["nearest"][0]["message"]["topic"], "alarms/3");
    assert_eq!(over["nearest"][0]["differences"][0], r#"the topic is "alarms/3", not "alarms/4""#);
}

#[tokio::test]
async fn expectations_are_judged_and_messages_are_found_page_by_page() {
    let server = Server::start();
    for number in 1..=5 {
        let body = json!({"topic": format!("t/{number}"), "payload": {"n": number}, "retain": number == 1});
        server.ok("POST", "/__mockforge/mqtt/publish", body.to_string()).await;
    }
    let verify = json!({"ordered": true, "expectations": [
        {"match": {"topic": "t/2", "origin": "MESSAGE_ORIGIN_API"}, "count": {"eq": 1}},
        {"match": {"payload": {"$.n": {"gte": 4}}}, "count": {"gte": 2}},
        {"match": {"retain": true}},
    ]});
    let answer = server.ok("POST", "/__mockforge/messages:verify", verify.to_string()).await;
    let passed: Vec<_> =
        answer["verdicts"].as_array().unwrap().iter().map(|verdict| &verdict["passed"]).collect();
    assert_eq!((&answer["passed"], passed), (&json!(false), vec![&json!(true), &json!(true), &json!(false)]));
    let text = "expected at least 1 message behind those of expectation 2, found 0 of 1 there";
    assert_eq!(answer["verdicts"][2]["text"], text);

    let mut topics = Vec::new();
    let mut token = json!("");
    loop {
        let find = json!({"newest_first": true, "page_size": 2, "page_token": token});
        let page = server.ok("POST", "/__mockforge/messages:find", find.to_string()).await;
        topics.extend(page["messages"].as_array().unwrap().iter().map(|message| message["topic"].clone()));
        token = page["next_page_token"].clone();
        if token == "" {
            break;
        }
    }
    assert_eq!(topics, ["t/5", "t/4", "t/3", "t/2", "t/1"]);
}

#[tokio::test]
async fn what_cannot_be_asked_names_the_field() {
    let server = Server::start();
    let bad = |message: &str| (400, "BAD_FIELD".to_owned(), message.to_owned());
    let wait =
        r#"{"match": {"topic": "a/#/b", "qos": 3, "payload_text": {"regex": "("}}, "timeout": "601s"}"#;
    assert_eq!(
        server.refusal("POST", "/__mockforge/messages:wait", wait).await,
        bad("match.topic[0]: level 1: '#' stands alone and last; match.qos: QoS 3 is none of 0, 1 and 2; \
             match.payload_text.regex: unclosed group; timeout: is at most 600 s")
    );
    let verify = r#"{"expectations": [{"count": {"gt": 3, "lt": 2}}, {"match": {"payload": {"v": {}}}}]}"#;
    assert_eq!(
        server.refusal("POST", "/__mockforge/messages:verify", verify).await,
        bad("expectations[0].count: no number is at least 4 and at most 1; \
             expectations[1].match.payload.v: a JSONPath begins with $")
    );
    assert_eq!(
        server.refusal("POST", "/__mockforge/messages:verify", "{}").await,
        bad("expectations: has 1 to 1000 entries, not 0")
    );
    let alone = Server::alone();
    let (status, reason, _) = alone.refusal("POST", "/__mockforge/messages:count", "{}").await;
    assert_eq!((status, &*reason), (400, "NO_SERVER"));
}

#[tokio::test]
async fn a_wait_ends_with_the_server() {
    let server = Server::start();
    let wait = server.refusal("POST", "/__mockforge/messages:wait", r#"{"timeout": "600s"}"#);
    let (refusal, ()) = tokio::join!(wait, async { server.control.stop().cancel() });
    assert_eq!((refusal.0, &*refusal.1), (503, "STOPPING"));
}

#[tokio::test]
async fn a_reset_makes_a_clean_start() {
    let server = Server::start();
    let mut app = server.subscriber("app", "t").await;
    server.ok("POST", "/__mockforge/mocks", r#"{"id": "m", "topic": "never", "route": false}"#).await;
    server
        .ok("POST", "/__mockforge/chaos/rules", r#"{"actions": ["drop"], "match": {"topic": "never"}}"#)
        .await;
    server.ok("PUT", "/__mockforge/state/global/k", r#"{"value": 1}"#).await;
    server.ok("POST", "/__mockforge/mqtt/publish", r#"{"topic": "r", "payload": "x", "retain": true}"#).await;
    let journal = server.ok("POST", "/__mockforge/reset", r#"{"journal": true}"#).await;
    assert_eq!(
        (&journal["journal_messages"], &journal["cursor"], &journal["mocks"]),
        (&json!(1), &json!(2), &json!(0))
    );
    let all = server.ok("POST", "/__mockforge/reset", "{}").await;
    assert_eq!(
        all,
        json!({
            "mocks": 1, "chaos_rules": 1, "journal_messages": 0, "state_values": 1, "retained_messages": 1,
            "sessions": 0, "queued_messages": 0, "cursor": 2
        })
    );
    let mocks = server.ok("GET", "/__mockforge/mocks", "").await;
    assert_eq!(mocks["total_size"], 0);
    // Whoever was connected still is, with its subscription.
    server.ok("POST", "/__mockforge/mqtt/publish", r#"{"topic": "t", "payload": "y", "qos": 1}"#).await;
    assert_eq!(app.next_message().await.unwrap().payload, Bytes::from_static(b"y"));
    let found = server.ok("POST", "/__mockforge/messages:find", "{}").await;
    assert_eq!(found["messages"][0]["sequence"], 2);
}

#[tokio::test]
async fn long_messages_that_came_near_are_cut_so_that_the_answer_can_be_read() {
    let server = Server::start();
    let long = 990_000;
    for _ in 0..5 {
        let payload = vec![b'x'; long].into();
        let publish = pb::PublishRequest { topic: "near/one".to_owned(), payload, ..Default::default() };
        server.control.publish(publish).await.unwrap();
    }
    let meant = |topic: &str| Some(pb::MessageMatch { topic: vec![topic.to_owned()], ..Default::default() });
    let mut expectations =
        vec![pb::MessageExpectation { r#match: meant("near/oen"), ..Default::default() }; 10];
    expectations.push(pb::MessageExpectation { r#match: meant("q"), ..Default::default() });
    let request = pb::VerifyRequest { expectations, ..Default::default() };
    let mut verdicts = server.control.verify(request).await.unwrap().verdicts;
    assert_eq!(verdicts.pop().unwrap().nearest, []);
    let waited = server.control.wait_for_messages(pb::WaitForMessagesRequest {
        r#match: meant("near/oen"),
        timeout: Some(prost_types::Duration::default()),
        ..Default::default()
    });
    let lists: Vec<_> = verdicts.into_iter().map(|verdict| verdict.nearest).collect();
    for (most, nearest) in
        lists.iter().map(|list| (8 << 10, list)).chain([(64 << 10, &waited.await.unwrap().nearest)])
    {
        assert!(!nearest.is_empty());
        for near in nearest {
            let cut = near.message.as_ref().unwrap().payload.len();
            assert!((most - 1024..=most).contains(&cut), "{cut}");
            assert_eq!(
                (near.payload_size, near.score),
                (long as u64, (near.score * 1000.0).round() / 1000.0)
            );
        }
    }
}

#[tokio::test]
async fn a_page_token_is_taken_by_its_own_list_and_order_alone() {
    let server = Server::start();
    for topic in ["a", "b"] {
        server
            .ok(
                "POST",
                "/__mockforge/mqtt/publish",
                json!({"topic": topic, "retain": true, "payload": 1}).to_string(),
            )
            .await;
    }
    let find = async |newest_first: bool, token: &str| {
        let body = json!({"page_size": 1, "newest_first": newest_first, "page_token": token}).to_string();
        server.json("POST", "/__mockforge/messages:find", body).await
    };
    let (_, first) = find(false, "").await;
    let token = first["next_page_token"].as_str().unwrap();
    let (_, second) = find(false, token).await;
    assert_eq!(second["messages"][0]["topic"], "b");
    assert_eq!(find(true, token).await.0, StatusCode::BAD_REQUEST);
    let retained = server.ok("GET", "/__mockforge/mqtt/retained?page_size=1", "").await;
    let token = retained["next_page_token"].as_str().unwrap();
    let clients = format!("/__mockforge/mqtt/clients?page_token={token}");
    let (status, _, message) = server.refusal("GET", &clients, "").await;
    assert_eq!((status, message.as_str()), (400, "page_token: is no token of this list"));
}

#[tokio::test]
async fn an_empty_update_mask_counts_as_none() {
    let server = Server::start();
    server.ok("POST", "/__mockforge/mocks", r#"{"id": "m", "topic": "a", "priority": 3}"#).await;
    let patched = server.ok("PATCH", "/__mockforge/mocks/m?update_mask=", r#"{"topic": "b"}"#).await;
    assert_eq!((&patched["topic"], &patched["priority"]), (&json!("b"), &json!(3)));
    let put = server.ok("PUT", "/__mockforge/mocks/m?update_mask=", r#"{"topic": "c"}"#).await;
    assert_eq!((&put["topic"], &put["priority"]), (&json!("c"), &json!(5)));
}

#[tokio::test]
async fn parts_that_are_false_are_not_reset() {
    let server = Server::start();
    server.ok("POST", "/__mockforge/mocks", r#"{"id": "m", "topic": "never"}"#).await;
    server.ok("PUT", "/__mockforge/state/global/k", r#"{"value": 1}"#).await;
    for parts in [r#"{"mocks": false}"#, r#"{"mocks": false, "state": true}"#] {
        server.ok("POST", "/__mockforge/reset", parts).await;
        assert_eq!(server.ok("GET", "/__mockforge/mocks", "").await["total_size"], 1, "{parts}");
        let left = server.ok("GET", "/__mockforge/state", "").await["total_size"] == 1;
        assert_eq!(left, !parts.contains("true"), "{parts}");
    }
}

#[tokio::test]
async fn a_reset_of_chaos_leaves_it_as_the_server_began_with_it() {
    let server = Server::start();
    let _app = server.subscriber("app", "t").await;
    let rule = r#"{"id": "all", "match": {"types": ["publish"]}, "actions": ["drop"]}"#;
    server.ok("POST", "/__mockforge/chaos/rules", rule).await;
    let lost = r#"{"topic": "t", "payload": "x"}"#;
    server.ok("POST", "/__mockforge/mqtt/publish", lost).await;
    let faults = async || server.ok("GET", "/__mockforge/chaos/faults", "").await;
    let all = async {
        while faults().await["faults"].as_array().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon(all).await;
    server.ok("PUT", "/__mockforge/chaos/seed", r#"{"seed": 99}"#).await;
    server.ok("POST", "/__mockforge/chaos:disable", "").await;
    server.ok("POST", "/__mockforge/reset", r#"{"chaos": true}"#).await;
    let chaos = server.ok("GET", "/__mockforge/chaos", "").await;
    let parts = ["enabled", "active", "seed", "rules"].map(|part| chaos[part].clone());
    assert_eq!(parts, [json!(true), json!(false), json!(7), json!(0)], "{chaos}");
    assert_eq!(faults().await["faults"], json!([]));
    // What the settings said last counts, if they said anything.
    let settings = crate::fault::ChaosSpec { enabled: false, ..Default::default() };
    server.chaos.set(&settings).unwrap();
    server.ok("POST", "/__mockforge/chaos:enable", "").await;
    server.ok("POST", "/__mockforge/reset", r#"{"chaos": true}"#).await;
    assert_eq!(server.ok("GET", "/__mockforge/chaos", "").await["enabled"], false);
}

#[tokio::test]
async fn calls_that_wait_leave_others_their_turn() {
    let limits = ApiLimits { requests: 4, streaming_requests: 8, ..ApiLimits::default() };
    let server = Server::start_with(Access::default(), limits);
    let wait =
        || server.ok("POST", "/__mockforge/messages:wait", r#"{"match": {"topic": "go"}, "timeout": "60s"}"#);
    let go = async {
        // More than there are turns for calls that answer at once.
        server.ok("POST", "/__mockforge/mqtt/publish", r#"{"topic": "go"}"#).await;
    };
    let (one, two, three, four, five, six, ()) =
        tokio::join!(wait(), wait(), wait(), wait(), wait(), wait(), go);
    for waited in [one, two, three, four, five, six] {
        assert_eq!(waited["satisfied"], true);
    }
}
