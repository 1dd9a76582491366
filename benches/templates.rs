//! What it costs to parse a template and to render it.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use mockforge::{
    draws::Draws,
    mock::{Renderer, Surroundings, Template},
};
use serde_json::json;

const LITERAL: &str = r#"{"status": "acknowledged"}"#;

/// From the user's guide.
const GUIDE: &str = r#"{
  "device_id": "{{topic_parts.1}}",
  "timestamp": "{{now}}",
  "value": {{random_float 0 100}}
}
"#;

/// Some twenty expressions of all kinds.
fn big() -> String {
    let mut source = String::from(
        r#"{"id":"{{uuid}}","at":"{{now "%Y-%m-%dT%H:%M:%S" offset="-5m"}}","ms":{{timestamp_ms}},"n":{{counter "n"}},
        "temp":{{walk "temp" 20 0.5 15 30 2}},"hot":{{gt payload.value 30}},"name":"{{upper (default payload.name "none")}}",
        "sum":{{round (add (mul payload.value 1.8) 32) 1}},"raw":{{json payload_raw}},"first":{{jsonpath payload "$.list[0]"}},
        {{#if (and (eq payload.unit "C") retain)}}"unit":"celsius",{{else}}"unit":"other",{{/if}}"list":["#,
    );
    source.push_str("{{#each payload.list}}{{this}}{{#unless @last}},{{/unless}}{{/each}}],");
    for level in 0..5 {
        write!(source, r#""k{level}":"{{{{topic_parts.{}}}}}-{{{{random_int 1 {level}00}}}}","#, level % 3)
            .expect("a String");
    }
    source.push_str(r#""client":"{{client_id}}"}"#);
    source.replace("random_int 1 000", "random_int 1 10")
}

fn templates(criterion: &mut Criterion) {
    let values = json!({
        "topic": "sensors/d7/data", "topic_parts": ["sensors", "d7", "data"], "device_id": "d7", "client_id": "dev-1",
        "retain": false, "payload": {"value": 21.5, "unit": "C", "list": [1, 2, 3]}, "payload_raw": "{\"value\":21.5}",
    });
    let around = Surroundings {
        draws: Draws::new(1),
        now: "2026-01-02T03:04:05.678Z".parse().expect("a timestamp"),
        state: Arc::default(),
    };
    let mut renderer = Renderer::new(BTreeMap::new());
    for (name, source) in [("a literal", LITERAL), ("the guide's", GUIDE), ("20 expressions", &big())] {
        criterion.bench_function(&format!("parse: {name}"), |bencher| {
            bencher.iter(|| Template::parse(source).expect("a template"));
        });
        let template = Template::parse(source).expect("a template");
        criterion.bench_function(&format!("render: {name}"), |bencher| {
            bencher.iter(|| renderer.render(&template, &values, around.clone()).expect("values").len());
        });
    }
}

criterion_group!(benches, templates);
criterion_main!(benches);
