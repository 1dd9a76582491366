//! Any text as a template, with a client's payload among its values.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;
use mockforge::{
    draws::Draws,
    mock::{Renderer, Surroundings, Template},
};
use serde_json::{Value, json};

use super::{Source, split};

/// What a rendering may print, and what one step may add before that is looked at.
const OUTPUT_MAX: usize = 33 << 20;

pub fn run(input: &[u8]) {
    let (template, payload) = split(Source::new(input).rest());
    let (Ok(text), raw) = (std::str::from_utf8(template), String::from_utf8_lossy(payload)) else { return };
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(error) => {
            assert!(error.line > 0 && error.column > 0 && !error.reason.is_empty(), "{error:?}");
            return;
        }
    };
    assert_eq!(template.source(), text);
    let values = json!({
        "topic": "sensors/d7/data",
        "topic_parts": ["sensors", "d7", "data"],
        "payload": serde_json::from_slice(payload).unwrap_or(Value::Null),
        "payload_raw": raw,
        "client_id": "dev-1",
        "qos": 1,
        "retain": false,
        "properties": {"content_type": "text/plain"},
        "user": {"k": "v"},
        "state": {"mode": "day"},
        "count": 3,
    });
    let print = || {
        let around = Surroundings { draws: Draws::new(7), now: *NOW, state: Arc::default() };
        Renderer::new(BTreeMap::from([("STAGE".to_owned(), "test".to_owned())]))
            .render(&template, &values, around)
    };
    let printed = print();
    assert_eq!(print(), printed, "it is drawn from a seed");
    if let Ok(printed) = printed {
        assert!(printed.len() <= OUTPUT_MAX, "{} bytes", printed.len());
    }
}

static NOW: LazyLock<Timestamp> = LazyLock::new(|| "2026-01-02T03:04:05.678901Z".parse().expect("a time"));
