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
