//! What live clients are answered, and whom they stand for.

use super::*;
use crate::{
    packet::{Connect, ProtocolVersion},
    recording::{ConnectionInfo, EventKind, NameTemplate, player::Selection, sample::script},
};

const DEVICE: &str = "
    1 open
    1 c2s CONNECT dev v=5
    1 s2c CONNACK session_present=false receive_maximum=5
    1 s2c PUBLISH hello x
    1 c2s SUBSCRIBE 1 cmd qos=1
    1 s2c SUBACK 1 0x80
    1 c2s PUBLISH up qos=1 id=2 one
    1 s2c PUBLISH cmd qos=1 id=1 go
    1 s2c PUBACK 2 0x10
    1 c2s PUBACK 1
    1 c2s PUBLISH up two
    1 close server_rst";

fn parts(text: &str) -> Parts {
    selected(text, &Selection::default())
}

fn selected(text: &str, selection: &Selection) -> Parts {
    let events = script(text).into_iter().map(Ok::<_, TooLong>);
    Parts::read(events, selection, true).unwrap()
}

fn packet(text: &str) -> ControlPacket {
    ControlPacket::parse_text(text, ProtocolVersion::V5).unwrap()
}

fn connect(text: &str) -> Box<Connect> {
    match packet(&format!("CONNECT {text}")) {
        ControlPacket::Connect(connect) => connect,
        other => panic!("{other}"),
    }
}

/// The part of a client that is known by its name.
fn bound(parts: &mut Parts, text: &str) -> Part {
    match parts.bind(1, &connect(text)) {
        Binding::Part(part) => *part,
        other => panic!("{other:?}"),
    }
}

fn told(reply: &Reply) -> String {
    let answer = reply.answer.as_ref().map_or("nothing".to_owned(), ControlPacket::to_string);
    let lines: Vec<String> = reply.lines.iter().map(line).collect();
    format!("{} {answer}; {}", if reply.is_known { "known" } else { "new" }, lines.join(", "))
}

fn line(line: &Line) -> String {
    let what = match &line.what {
        Said::Message(publish) => ControlPacket::Publish((**publish).clone()).to_string(),
        Said::Disconnect(reason) => format!("disconnect {reason}"),
        Said::Close { is_reset: true } => "reset".to_owned(),
        Said::Close { is_reset: false } => "close".to_owned(),
    };
    format!("{what} after {:?}", line.delay)
}

fn replies(part: &mut Part, packets: &[&str]) -> String {
    packets.iter().map(|text| told(&part.reply(&packet(text)))).collect::<Vec<_>>().join("\n")
}

fn lines(lines: &[Line]) -> String {
    lines.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_client_is_answered_as_it_was() {
    let mut parts = parts(DEVICE);
    let mut part = bound(&mut parts, "dev v=5");
    assert!(parts.is_empty());
    assert_eq!(part.lacking(), 4);
    let mut out = format!("{}\n", ControlPacket::Connack(part.connack.clone().unwrap()));
    out += &lines(&part.connected());
    out += "\n";
    out += &replies(
        &mut part,
        &["SUBSCRIBE 9 cmd qos=1", "PUBLISH up qos=1 id=7 one", "PUBLISH up two", "PINGREQ"],
    );
    assert_eq!(part.lacking(), 0);
    expect_test::expect![[r#"
        CONNACK session_present=false receive_maximum=5
        PUBLISH hello "x" after 2ms
        known SUBACK 9 0x80; 
        known PUBACK 7 0x10; PUBLISH cmd qos=1 "go" after 1ms
        known nothing; reset after 1ms
        known PINGRESP; "#]]
    .assert_eq(&out);
}

#[test]
fn what_was_never_done_is_answered_as_any_server_would() {
    let mut part = bound(&mut parts(DEVICE), "dev v=5");
    expect_test::expect![[r#"
        new SUBACK 9 0x02; 
        new UNSUBACK 3 0x00; 
        new PUBREC 4; "#]]
    .assert_eq(&replies(
        &mut part,
        &["SUBSCRIBE 9 other qos=2", "UNSUBSCRIBE 3 cmd", "PUBLISH down qos=2 id=4 x"],
    ));
}

#[test]
fn order_and_payload_may_differ() {
    let mut part = bound(&mut parts(DEVICE), "dev v=5");
    expect_test::expect![[r#"
        known nothing; reset after 1ms
        known PUBACK 1 0x10; PUBLISH cmd qos=1 "go" after 1ms
        new PUBACK 1; "#]]
    .assert_eq(&replies(
        &mut part,
        &["PUBLISH up two", "PUBLISH up qos=1 id=1 other", "PUBLISH up qos=1 id=1 third"],
    ));
    assert_eq!(part.lacking(), 2, "to connect and to subscribe");
}

#[test]
fn each_part_is_played_once() {
    let mut parts = parts(DEVICE);
    bound(&mut parts, "dev v=5");
    assert!(matches!(parts.bind(2, &connect("dev v=5")), Binding::Nobody));
    assert_eq!((parts.connections, parts.deliveries, parts.span.as_millis()), (1, 2, 4));
}

#[test]
fn what_is_sent_again_is_up_to_the_live_session() {
    let mut parts = parts(
        "1 open
         1 c2s CONNECT dev v=5 clean=false session_expiry=60
         1 s2c CONNACK session_present=false
         1 c2s PUBLISH up qos=1 id=2 one
         1 s2c PUBLISH cmd qos=1 id=1 go
         1 close client_rst
         2 open
         2 c2s CONNECT dev v=5 clean=false session_expiry=60
         2 s2c CONNACK session_present=true
         2 s2c PUBLISH cmd qos=1 dup=true id=1 go
         2 s2c PUBLISH cmd qos=1 dup=true id=9 \"sent before the recording\"
         2 c2s PUBLISH up qos=1 dup=true id=2 one
         2 s2c PUBACK 2
         2 c2s PUBLISH up qos=2 id=3 two
         2 s2c PUBREC 3
         2 c2s PUBLISH up qos=2 dup=true id=3 two
         2 c2s PUBREL 3
         2 s2c PUBCOMP 3 0x92
         2 c2s DISCONNECT
         2 close client_fin",
    );
    let mut first = bound(&mut parts, "dev v=5 clean=false");
    assert_eq!(lines(&first.connected()), "");
    assert_eq!(
        replies(&mut first, &["PUBLISH up qos=1 id=2 one"]),
        "known PUBACK 2; PUBLISH cmd qos=1 \"go\" after 1ms"
    );
    let mut second = bound(&mut parts, "dev v=5 clean=false");
    assert_eq!(lines(&second.connected()), "PUBLISH cmd qos=1 \"sent before the recording\" after 3ms");
    let reply = second.reply(&packet("PUBLISH up qos=2 id=1 two"));
    assert_eq!((reply.is_known, reply.completion.0), (true, 0x92));
    assert_eq!(second.lacking(), 0, "what was acknowledged now is not sent again");
}

#[test]
fn taking_over_is_up_to_the_live_client() {
    let mut parts = parts(
        "1 open
         1 c2s CONNECT dev v=4
         1 s2c CONNACK session_present=false
         2 open
         2 c2s CONNECT dev v=4
         1 close server_fin
         2 s2c CONNACK session_present=false
         2 close server_fin",
    );
    assert_eq!(lines(&bound(&mut parts, "dev v=4").connected()), "");
    assert_eq!(lines(&bound(&mut parts, "dev v=4").connected()), "close after 3ms");
}

#[test]
fn a_client_that_was_connected_before_has_a_part() {
    let info = ConnectionInfo {
        already_open: true,
        client_identifier: Some("dev".to_owned()),
        protocol: Some(ProtocolVersion::V5),
        ..ConnectionInfo::default()
    };
    let mut events = script("1 open\n1 c2s PUBLISH up one");
    events[0].kind = EventKind::Open(Box::new(info));
    let events = events.into_iter().map(Ok::<_, TooLong>);
    let mut parts = Parts::read(events, &Selection::default(), true).unwrap();
    let part = bound(&mut parts, "dev v=5");
    assert!(part.lacks_connect() && !part.ends);
    assert!(part.connack.is_some_and(|connack| !connack.reason_code.is_error()));
}

#[test]
fn what_is_not_selected_may_be_left_out() {
    let topics = vec![crate::packet::TopicFilter::parse("cmd").unwrap()];
    let mut parts = selected(DEVICE, &Selection { topics, ..Selection::default() });
    let mut part = bound(&mut parts, "dev v=5");
    assert_eq!(lines(&part.connected()), "");
    assert_eq!(part.lacking(), 1, "to subscribe");
    assert!(part.reply(&packet("PUBLISH up two")).is_known);
}

/// Two clients whose names were drawn, and one with a name.
const DRAWN: &str = "
    1 open
    1 c2s CONNECT mqttjs_1a2b3c4d v=5
    1 s2c CONNACK session_present=false
    2 open
    2 c2s CONNECT mqttjs_5e6f7a8b v=5
    2 s2c CONNACK session_present=false
    3 open
    3 c2s CONNECT press-7 v=5
    3 s2c CONNACK session_present=false
    1 c2s SUBSCRIBE 1 cmd/mqttjs_1a2b3c4d qos=1
    1 s2c SUBACK 1 0x01
    1 s2c PUBLISH cmd/mqttjs_1a2b3c4d go
    2 c2s PUBLISH up/mqttjs_5e6f7a8b one
    1 c2s DISCONNECT
    1 close client_fin
    4 open
    4 c2s CONNECT mqttjs_1a2b3c4d v=5
    4 s2c CONNACK session_present=false";

fn is_open(binding: &Binding) -> bool {
    matches!(binding, Binding::Open(Some(_)))
}

#[test]
fn a_client_with_a_drawn_name_is_known_by_what_it_does() {
    let mut parts = parts(DRAWN);
    let (one, two) = (connect("mqttjs_aaaa1111 v=5"), connect("mqttjs_bbbb2222 v=5"));
    assert!(is_open(&parts.bind(1, &one)) && is_open(&parts.bind(2, &two)));
    // Nobody is left whom a third one could be.
    assert!(matches!(parts.bind(3, &connect("mqttjs_cccc3333 v=5")), Binding::Nobody));
    assert!(parts.take(1, &one, &packet("PUBLISH other one")).is_none());
    // In another order than they came.
    let mut part = parts.take(1, &one, &packet("PUBLISH up/mqttjs_aaaa1111 one")).unwrap();
    assert_eq!(part.client_identifier, "mqttjs_5e6f7a8b");
    assert!(part.reply(&packet("PUBLISH up/mqttjs_aaaa1111 one")).is_known);
    let subscribe = packet("SUBSCRIBE 7 cmd/mqttjs_bbbb2222 qos=1");
    let mut part = parts.take(2, &two, &subscribe).unwrap();
    expect_test::expect![[r#"known SUBACK 7 0x01; PUBLISH cmd/mqttjs_bbbb2222 "go" after 2ms"#]]
        .assert_eq(&told(&part.reply(&subscribe)));
    // Its next connection is that of the same.
    assert_eq!(bound(&mut parts, "mqttjs_bbbb2222 v=5").connection(), 4);
    assert_eq!(parts.left().collect::<Vec<_>>(), ["press-7"]);
}

#[test]
fn who_only_connects_plays_nobody_that_did_more() {
    let mut parts = parts(DRAWN);
    let check = connect("health-check v=5");
    assert!(is_open(&parts.bind(1, &check)));
    assert!(parts.leave(1, &check).is_none());
    assert_eq!(parts.len(), 4);
    // Nor does one that connects otherwise, or by a name that is nobody's.
    for other in ["mqttjs_aaaa1111 v=4", "mqttjs_aaaa1111 v=5 clean=false", "mqttjs_aaaa1111 v=5 username=me"]
    {
        assert!(matches!(parts.bind(2, &connect(other)), Binding::Nobody), "{other}");
    }
}

#[test]
fn a_client_that_only_connected_is_played_by_one_that_does() {
    let mut parts = parts(
        "1 open
         1 c2s CONNECT \"\" v=5
         1 s2c CONNACK session_present=false
         1 c2s DISCONNECT
         1 close client_fin",
    );
    let live = connect("\"\" v=5");
    assert!(is_open(&parts.bind(1, &live)));
    assert_eq!(parts.leave(1, &live).unwrap().connection(), 1);
}

#[test]
fn a_refusal_is_given_to_whoever_comes() {
    let mut parts = parts(
        "1 open
         1 c2s CONNECT mqttjs_1a2b3c4d v=5
         1 s2c CONNACK session_present=false 0x87
         1 close server_fin",
    );
    let part = bound(&mut parts, "mqttjs_aaaa1111 v=5");
    assert_eq!(part.connack.unwrap().reason_code.0, 0x87);
}

#[test]
fn a_pattern_says_who_is_who() {
    let names = |template: &str| parts(DRAWN).named(NameTemplate::parse(template).unwrap());
    let mut parts = names("{{client_id}}-{{run_id}}");
    assert_eq!(bound(&mut parts, "press-7-42 v=5").connection(), 3);
    assert_eq!(bound(&mut parts, "mqttjs_5e6f7a8b-x v=5").connection(), 2);
    // Another one may still be somebody by what it does.
    assert!(is_open(&parts.bind(1, &connect("other v=5"))));

    let mut parts = names("dev-{{i}}");
    assert!(matches!(parts.bind(1, &connect("other v=5")), Binding::Nobody));
    let live = connect("dev-1 v=5");
    assert!(is_open(&parts.bind(2, &live)));
    assert!(parts.take(2, &live, &packet("PUBLISH up/dev-1 one")).is_some());
}

#[test]
fn what_is_expected_is_what_was_recorded_up_to_there_by_the_name_of_now() {
    let mut parts = parts(DRAWN);
    let live = connect("\"\" v=5");
    assert!(is_open(&parts.bind(1, &live)));
    let subscribe = packet("SUBSCRIBE 7 cmd/mqttjs_1a2b3c4d qos=1");
    let mut part = parts.take(1, &live, &subscribe).unwrap();
    part.connected();
    let expected = |part: &mut Part| {
        let mut connections = crate::recording::Connections::new();
        let told = part.told();
        let packets = told.iter().filter_map(|event| Some(connections.follow(event)?.packet));
        packets.map(|packet| packet.map_or("?".to_owned(), |packet| packet.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(expected(&mut part), ["CONNECT \"\" v=5"]);
    assert!(expected(&mut part).is_empty());
    part.reply(&subscribe);
    assert_eq!(part.told().len(), 2, "CONNACK and SUBSCRIBE");
    assert_eq!(std::iter::from_fn(|| part.next_event()).count(), 4, "up to the end of its connection");
}

#[test]
fn a_hundred_thousand_messages_that_never_match_are_answered_in_no_time() {
    let mut text = "1 open\n1 c2s CONNECT dev v=5\n1 s2c CONNACK session_present=false\n".to_owned();
    const COUNT: usize = 100_000;
    for number in 0..COUNT {
        text += &format!("1 c2s PUBLISH up {number}\n");
    }
    let mut parts = parts(&text);
    let mut part = bound(&mut parts, "dev v=5");
    // With a scan of what is left, these were 5,000,000,000 comparisons.
    for number in 0..COUNT {
        let reply = part.reply(&packet(&format!("PUBLISH up other-{number}")));
        assert!(reply.is_known);
    }
    assert_eq!(part.lacking(), 1, "to connect");
}
