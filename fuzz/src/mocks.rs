//! A mock that anybody wrote, and messages that it may be for: conditions, JSONPath, regexes, captures, answers.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use mockforge::{
    mock::{Mock, MockLimits, MockSpec, Mocks, Occasion, Renderer},
    packet::{QoS, TopicName},
};

use super::{Source, split};

/// Answers that are rendered of one input.
const ANSWERS_MAX: usize = 50;

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let qos = source.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let (yaml, rest) = split(source.rest());
    let (topic, payload) = split(rest);
    let (Ok(yaml), Ok(topic)) = (std::str::from_utf8(yaml), std::str::from_utf8(topic)) else { return };
    let Ok(spec) = serde_saphyr::from_str::<MockSpec>(yaml) else { return };
    let no_files = |_: &str| Err("there are no files".to_owned());
    let mock = match Mock::unnamed(spec, &no_files) {
        Ok(mock) => mock,
        Err(bad) => {
            assert!(!bad.is_empty());
            return;
        }
    };
    let (now, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let limits = MockLimits { mocks: 10, answers: 100, answer_bytes: 100_000, ..MockLimits::default() };
    let mut mocks = Mocks::new(7, limits, BTreeMap::new());
    mocks.create(now, mock).expect("there is no other");
    if TopicName::parse(topic).is_ok() {
        let occasion = Occasion {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload),
            qos,
            client_identifier: "dev-1".to_owned(),
            ..Occasion::default()
        };
        for _ in 0..2 {
            let matching = mocks.matching(topic);
            mocks.offer_message(now, clock, &matching, occasion.clone(), None);
        }
        mocks.offer_subscription(now, clock, "dev-1", topic, qos, None);
    }
    mocks.offer_connection(now, clock, "dev-1", Some("u"), None);
    let mut renderer = Renderer::new(BTreeMap::new());
    let state = Arc::clone(mocks.state());
    let mut rendered = 0;
    for step in 0..4 {
        let due = mocks.poll(now + Duration::from_secs(step * 10), clock, ANSWERS_MAX);
        assert!(due.len() <= ANSWERS_MAX && mocks.waiting() <= mocks.limits().answers);
        for due in due {
            rendered += 1;
            if rendered <= ANSWERS_MAX {
                let outcome = due.render(clock, &state, &mut renderer);
                mocks.note(&due, outcome.map(drop));
            }
        }
        mocks.take_events();
    }
}
