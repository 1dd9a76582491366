//! Who looks at messages without being a client.

use std::sync::{Arc, Mutex};

use super::{script::generous, stage::bare};
use crate::{
    broker::{Broker, Limits, Observe, Options, RetainedBefore},
    packet::TopicFilter,
    session::MessageRef,
};

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn observer(&self) -> Observe {
        let seen = self.clone();
        Box::new(move |message, _| {
            seen.lock().push(line(message));
            true
        })
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().expect("nobody panicked")
    }
}

fn line(message: &MessageRef<'_>) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{} {}", text(message.topic), text(message.payload.as_bytes()))
}

fn filters(texts: &[&str]) -> Vec<TopicFilter> {
    texts.iter().map(|text| TopicFilter::parse(text).expect("a filter")).collect()
}

fn retained(broker: &Broker, now: std::time::Instant, mut before: RetainedBefore) -> Vec<String> {
    let mut lines = Vec::new();
    while !before.is_empty() {
        lines.extend(broker.next_retained(now, &mut before).iter().map(|found| line(&found.as_message())));
    }
    lines
}

#[test]
fn each_message_is_shown_once_to_those_whose_filters_match() {
    let mut player = bare(generous());
    let (wide, narrow) = (Seen::default(), Seen::default());
    let (wide_key, _) = player.stage.broker.observe(filters(&["a/#", "a/b", "+/c"]), wide.observer());
    player.stage.broker.observe(filters(&["a/b"]), narrow.observer());
    for line in [
        "one> CONNECT one",
        "one> PUBLISH a/b qos=1 id=1 \"1\"",
        "one> PUBLISH a/c \"2\"",
        "one> PUBLISH x \"3\"",
        "one> PUBLISH a/b qos=2 id=2 \"4\"",
        // Again: it is not routed again.
        "one> PUBLISH a/b qos=2 id=2 dup=true \"4\"",
    ] {
        player.play(line);
    }
    assert_eq!(wide.take(), ["a/b 1", "a/c 2", "a/b 4"]);
    assert_eq!(narrow.take(), ["a/b 1", "a/b 4"]);

    player.stage.broker.stop_observing(wide_key);
    player.play("one> PUBLISH a/b \"5\"");
    assert_eq!((wide.take(), narrow.take()), (vec![], vec!["a/b 5".to_owned()]));
    // They are nobody's clients.
    assert_eq!(player.stage.broker.stats().sessions, 1);
    assert_eq!(player.stage.broker.subscriptions(), []);
}

#[test]
fn what_was_retained_before_is_found_and_nothing_later() {
    let mut player = bare(Limits { retained_messages: 10_000, ..generous() });
    player.play("one> CONNECT one");
    for number in 0..5_000 {
        player.play(&format!("one> PUBLISH r/{number:04} retain=true \"old\""));
    }
    let seen = Seen::default();
    let (_, before) = player.stage.broker.observe(filters(&["r/+"]), seen.observer());
    player.play("one> PUBLISH r/0001 retain=true \"new\"");
    player.play("one> PUBLISH r/x retain=true \"new\"");
    let found = retained(&player.stage.broker, player.stage.now, before);
    let (_, again) =
        player.stage.broker.observe(filters(&["r/0000", "r/+", "r/0001"]), Seen::default().observer());
    assert_eq!(retained(&player.stage.broker, player.stage.now, again).len(), 5_001);
    assert_eq!((found.len(), found[0].as_str(), found[1].as_str()), (4_999, "r/0000 old", "r/0002 old"));
    assert_eq!(seen.take(), ["r/0001 new", "r/x new"]);
}

#[test]
fn an_observer_that_wants_no_more_is_gone() {
    let mut player = bare(generous());
    player.play("one> CONNECT one");
    let seen = Seen::default();
    let told = seen.clone();
    let observe: Observe = Box::new(move |message, _| {
        told.lock().push(line(message));
        told.lock().len() < 2
    });
    player.stage.broker.observe(filters(&["a", "+"]), observe);
    for number in 1..=4 {
        player.play(&format!("one> PUBLISH a \"{number}\""));
    }
    assert_eq!(seen.take(), ["a 1", "a 2"]);
}

#[test]
fn the_brokers_own_figures_are_shown_where_they_are_asked_for() {
    let now = std::time::Instant::now();
    let options =
        Options { sys_interval: std::time::Duration::from_secs(10), ..Options::from(Limits::default()) };
    let mut broker = Broker::new(now, options, 1);
    broker.handle_timeout(now);
    let find = |broker: &mut Broker, filter| {
        let (_, before) = broker.observe(filters(&[filter]), Seen::default().observer());
        retained(broker, now, before)
    };
    assert_eq!(find(&mut broker, "#"), Vec::<String>::new());
    assert_eq!(find(&mut broker, "$SYS/broker/clients/connected"), ["$SYS/broker/clients/connected 0"]);
}
