//! Who is told of messages that have a place in a trace.

use std::sync::{Arc, Mutex};

use super::{script::generous, stage::bare};
use crate::trace::{Traced, Tracer};

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Tracer for Told {
    fn routed(&mut self, message: &Traced<'_>) {
        let Traced { context, topic, client_identifier, qos, payload_size, receivers, .. } = message;
        let line = format!("{topic} {client_identifier} {qos:?} {payload_size} {receivers:?} {context}");
        self.0.lock().expect("nobody panicked").push(line);
    }
}

#[test]
fn messages_with_a_traceparent_are_told_of_once_they_are_routed() {
    let mut player = bare(generous());
    let told = Told::default();
    player.stage.broker.set_tracer(Some(Box::new(told.clone())));
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for line in [
        "one> CONNECT one".to_owned(),
        "one> SUBSCRIBE 1 a/# qos=1".to_owned(),
        "two> CONNECT two".to_owned(),
        "two> SUBSCRIBE 1 a/b qos=0".to_owned(),
        "two> PUBLISH a/b \"none\"".to_owned(),
        format!("two> PUBLISH a/b qos=1 id=1 user=traceparent:{context} \"12345\""),
        format!("two> PUBLISH a/b qos=2 id=2 user=traceparent:{context} \"1\""),
        // Again: it is not routed again.
        format!("two> PUBLISH a/b qos=2 id=2 dup=true user=traceparent:{context} \"1\""),
        format!("two> PUBLISH x user=traceparent:{context} expiry=9 \"1\""),
        format!("two> PUBLISH x user=traceparent:{} \"1\"", &context[1..]),
    ] {
        player.play(&line);
    }
    let expected = [
        format!("a/b two AtLeastOnce 5 Some(2) {context}"),
        format!("a/b two ExactlyOnce 1 Some(2) {context}"),
        format!("x two AtMostOnce 1 Some(0) {context}"),
    ];
    assert_eq!(*told.0.lock().expect("nobody panicked"), expected);
}
