//! What templates print, and what people are told about bad ones.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Each template, one to a line, with what it prints; with `!`, what is wrong with it (`!!` once it is rendered).
fn check(templates: &str, expected: Expect) {
    let mut printed = String::new();
    let mut stage = Stage::new(7);
    for template in templates.lines().map(str::trim).filter(|line| !line.is_empty()) {
        writeln!(printed, "{template}\n  {}", stage.print(template)).expect("a String");
    }
    expected.assert_eq(&printed);
}

/// A renderer with some values, a clock that stands and a store of its own.
struct Stage {
    renderer: Renderer,
    values: Value,
    around: Surroundings,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let environment = BTreeMap::from([("STAGE".to_owned(), "test".to_owned())]);
        Self {
            renderer: Renderer::new(environment),
            values: json!({
                "topic": "sensors/d7/data",
                "topic_parts": ["sensors", "d7", "data"],
                "device_id": "d7",
                "payload": {
                    "value": 21.5, "unit": "C", "ok": true, "none": null, "zero": 0, "empty": [], "big": 1e300,
                    "list": [3, 4.5, "x"], "rows": [{"id": 1, "min": 0}, {"id": 2, "min": 5}],
                    "map": {"a": 1, "b": {"c": [2]}}, "text": "<b>\"é\"</b>", "evil": "{{uuid}}", "call": "uuid",
                    "odd key": "o", "tiny": 1e-7,
                },
                "payload_raw": "raw {{now}}",
                "client_id": "dev-1",
                "qos": 1,
                "retain": false,
                "properties": {"content_type": "text/plain"},
                "user": {"k": "v"},
                "state": {"mode": "day"},
                "count": 3,
            }),
            around: Surroundings {
                draws: Draws::new(seed),
                now: "2026-01-02T03:04:05.678901Z".parse().expect("a timestamp"),
                state: Arc::default(),
            },
        }
    }

    fn print(&mut self, source: &str) -> String {
        match Template::parse(source) {
            Ok(template) => self
                .renderer
                .render(&template, &self.values, self.around.clone())
                .unwrap_or_else(|error| format!("!! {error}")),
            Err(error) => format!("! {error}"),
        }
    }
}

fn print(source: &str) -> String {
    Stage::new(7).print(source)
}

#[test]
fn the_guides_template_makes_the_json_it_promises() {
    let source = r#"{
  "device_id": "{{topic_parts.1}}",
  "timestamp": "{{now}}",
  "value": {{random_float 0 100}}
}
"#;
    expect![[r#"
        {
          "device_id": "d7",
          "timestamp": "2026-01-02T03:04:05.678Z",
          "value": 49.0536849486921
        }
    "#]]
    .assert_eq(&print(source));
}

#[test]
fn values_are_found_by_path() {
    check(
        r#"
        {{topic}} {{topic_parts.1}} {{device_id}} {{client_id}} {{qos}} {{retain}} {{count}}
        {{payload.value}} {{payload.map.b.c.0}} {{payload/list/1}} {{payload.[odd key]}} {{payload.list.[0]}}
        {{properties.content_type}} {{user.k}} {{state.mode}} {{this.topic}} {{./topic}} {{@root.topic}}
        {{payload.list}} {{payload.map}} [{{payload.none}}] {{payload.big}} {{payload.tiny}}
        {{payload.text}} {{{payload.text}}} {{&payload.text}} {{{{raw}}}}{{topic}}{{{{/raw}}}}
        {{payload_raw}} {{payload.evil}}
        {"v":{{random_int 1 9}}} {"v":{"w":{{{payload.value}}}}} {"a":{{payload.map}}}
        \{{topic}} \\{{topic}} \\\{{topic}} {{! a comment }}{{!-- with }} in it --}}.
    "#,
        expect![[r#"
            {{topic}} {{topic_parts.1}} {{device_id}} {{client_id}} {{qos}} {{retain}} {{count}}
              sensors/d7/data d7 d7 dev-1 1 false 3
            {{payload.value}} {{payload.map.b.c.0}} {{payload/list/1}} {{payload.[odd key]}} {{payload.list.[0]}}
              21.5 2 4.5 o 3
            {{properties.content_type}} {{user.k}} {{state.mode}} {{this.topic}} {{./topic}} {{@root.topic}}
              text/plain v day sensors/d7/data sensors/d7/data sensors/d7/data
            {{payload.list}} {{payload.map}} [{{payload.none}}] {{payload.big}} {{payload.tiny}}
              [3,4.5,"x"] {"a":1,"b":{"c":[2]}} [] 1e+300 0.0000001
            {{payload.text}} {{{payload.text}}} {{&payload.text}} {{{{raw}}}}{{topic}}{{{{/raw}}}}
              <b>"é"</b> <b>"é"</b> <b>"é"</b> {{topic}}
            {{payload_raw}} {{payload.evil}}
              raw {{now}} {{uuid}}
            {"v":{{random_int 1 9}}} {"v":{"w":{{{payload.value}}}}} {"a":{{payload.map}}}
              {"v":5} {"v":{"w":21.5}} {"a":{"a":1,"b":{"c":[2]}}}
            \{{topic}} \\{{topic}} \\\{{topic}} {{! a comment }}{{!-- with }} in it --}}.
              {{topic}} \sensors/d7/data \\sensors/d7/data .
        "#]],
    );
}

#[test]
fn a_missing_value_is_an_error_that_names_it() {
    check(
        r#"
        {{payload.volume}}
        text {{upper payload.volume}}
        {{payload.list.7}} {{topic_parts.x}}
        {{payload.value.deeper}}
        {{#each payload.volumes}}{{/each}}
        {{#with payload.volumes}}{{/with}}
        {{#each payload.rows}}{{topic}}{{/each}}
        {{lookup payload "volume"}} 
        {{jsonpath payload "$.volume"}}
        {{default payload.volume payload.loudness}}
    "#,
        expect![[r#"
            {{payload.volume}}
              !! line 1, column 1: payload.volume is missing
            text {{upper payload.volume}}
              !! line 1, column 6: payload.volume is missing
            {{payload.list.7}} {{topic_parts.x}}
              !! line 1, column 1: payload.list.7 is missing
            {{payload.value.deeper}}
              !! line 1, column 1: payload.value.deeper is missing
            {{#each payload.volumes}}{{/each}}
              !! line 1, column 1: payload.volumes is missing
            {{#with payload.volumes}}{{/with}}
              !! line 1, column 1: payload.volumes is missing
            {{#each payload.rows}}{{topic}}{{/each}}
              !! line 1, column 23: topic is missing
            {{lookup payload "volume"}}
              !! line 1, column 1: there is no "volume"
            {{jsonpath payload "$.volume"}}
              !! line 1, column 1: nothing is at "$.volume"
            {{default payload.volume payload.loudness}}
              !! line 1, column 1: payload.loudness is missing
        "#]],
    );
}

#[test]
fn conditions_and_default_forgive_what_is_missing() {
    check(
        r#"
        {{#if payload.volume}}yes{{else}}no{{/if}} {{#if payload.value.name.x}}yes{{else}}no{{/if}}
        {{#if payload.list.name}}yes{{else}}no{{/if}}
        {{#unless payload.volume}}no{{/unless}} {{#if (upper payload.volume)}}yes{{else}}no{{/if}}
        {{#if payload.zero}}yes{{else}}no{{/if}} {{#if payload.zero includeZero=true}}yes{{/if}} {{#if payload.ok}}yes{{/if}}
        {{#if payload.volume}}1{{else if payload.value}}2{{else}}3{{/if}}
        {{default payload.volume "none"}} {{default payload.none 7}} {{default payload.zero 7}} {{default payload.a.b payload.c topic}}
        {{default (jsonpath payload "$.volume") "no"}} {{default (upper payload.volume) "no"}} {{default (lookup payload "x") "no"}}
        {{and payload.volume true}} {{or payload.volume payload.ok}} {{not payload.volume}} {{eq payload.volume null}} {{eq payload.volume 1}} {{lt payload.volume 1}}
        {{#each payload.volumes}}x{{else}}none{{/each}} {{#each payload.empty}}x{{/each}} {{#with payload.none}}x{{else}}none{{/with}}
    "#,
        expect![[r#"
            {{#if payload.volume}}yes{{else}}no{{/if}} {{#if payload.value.name.x}}yes{{else}}no{{/if}}
              no no
            {{#if payload.list.name}}yes{{else}}no{{/if}}
              !! line 1, column 1: a list has no "name": expected an index from 0
            {{#unless payload.volume}}no{{/unless}} {{#if (upper payload.volume)}}yes{{else}}no{{/if}}
              no no
            {{#if payload.zero}}yes{{else}}no{{/if}} {{#if payload.zero includeZero=true}}yes{{/if}} {{#if payload.ok}}yes{{/if}}
              no yes yes
            {{#if payload.volume}}1{{else if payload.value}}2{{else}}3{{/if}}
              2
            {{default payload.volume "none"}} {{default payload.none 7}} {{default payload.zero 7}} {{default payload.a.b payload.c topic}}
              none 7 0 sensors/d7/data
            {{default (jsonpath payload "$.volume") "no"}} {{default (upper payload.volume) "no"}} {{default (lookup payload "x") "no"}}
              no no no
            {{and payload.volume true}} {{or payload.volume payload.ok}} {{not payload.volume}} {{eq payload.volume null}} {{eq payload.volume 1}} {{lt payload.volume 1}}
              false true true true false false
            {{#each payload.volumes}}x{{else}}none{{/each}} {{#each payload.empty}}x{{/each}} {{#with payload.none}}x{{else}}none{{/with}}
              none  none
        "#]],
    );
}

#[test]
fn blocks_change_what_names_mean() {
    check(
        r#"
        {{#each payload.list}}{{@index}}={{this}}{{#unless @last}}, {{/unless}}{{/each}}
        {{#each payload.map}}{{@key}}:{{this}}{{#if @first}};{{/if}}{{/each}}
        {{#each payload.rows}}{{id}} {{this.min}} {{../topic}} {{@root.qos}};{{/each}}
        {{#each payload.rows as |row i|}}{{i}}{{row.id}}{{topic_of}}{{/each}}
        {{#each payload.rows as |row i|}}{{i}}{{row.id}} {{#each @root.topic_parts as |part|}}{{part}}{{i}}{{@../index}}{{/each}};{{/each}}
        {{#each payload.map as |v k|}}{{k}}={{v}} {{/each}}
        {{#with payload.map}}{{a}}{{#with b}}{{c.0}}{{../a}}{{../../qos}}{{/with}}{{/with}}
        {{#with payload.map.b as |m|}}{{m.c.0}}{{/with}} {{#with qos}}{{#with @root.topic}}{{../this}} {{./this}}{{/with}}{{/with}}
        {{#each (split "a,b" ",")}}<{{this}}>{{/each}}
        {{#each payload.rows}}{{#if (gt min 1)}}{{id}}{{/if}}{{/each}}
        {{#eq qos 1}}one{{else}}other{{/eq}} {{#gt qos 1}}more{{else eq qos 1}}one{{/gt}} {{#random_bool 1}}always{{/random_bool}}
        {{@index}}
        {{../@index}}
        {{../topic}}
        {{#each topic}}{{/each}}
    "#,
        expect![[r#"
            {{#each payload.list}}{{@index}}={{this}}{{#unless @last}}, {{/unless}}{{/each}}
              0=3, 1=4.5, 2=x
            {{#each payload.map}}{{@key}}:{{this}}{{#if @first}};{{/if}}{{/each}}
              a:1;b:{"c":[2]}
            {{#each payload.rows}}{{id}} {{this.min}} {{../topic}} {{@root.qos}};{{/each}}
              1 0 sensors/d7/data 1;2 5 sensors/d7/data 1;
            {{#each payload.rows as |row i|}}{{i}}{{row.id}}{{topic_of}}{{/each}}
              !! line 1, column 49: topic_of is missing
            {{#each payload.rows as |row i|}}{{i}}{{row.id}} {{#each @root.topic_parts as |part|}}{{part}}{{i}}{{@../index}}{{/each}};{{/each}}
              01 sensors00d700data00;12 sensors11d711data11;
            {{#each payload.map as |v k|}}{{k}}={{v}} {{/each}}
              a=1 b={"c":[2]} 
            {{#with payload.map}}{{a}}{{#with b}}{{c.0}}{{../a}}{{../../qos}}{{/with}}{{/with}}
              1211
            {{#with payload.map.b as |m|}}{{m.c.0}}{{/with}} {{#with qos}}{{#with @root.topic}}{{../this}} {{./this}}{{/with}}{{/with}}
              2 1 sensors/d7/data
            {{#each (split "a,b" ",")}}<{{this}}>{{/each}}
              <a><b>
            {{#each payload.rows}}{{#if (gt min 1)}}{{id}}{{/if}}{{/each}}
              ! line 1, column 23: as an argument, min is written (min)
            {{#eq qos 1}}one{{else}}other{{/eq}} {{#gt qos 1}}more{{else eq qos 1}}one{{/gt}} {{#random_bool 1}}always{{/random_bool}}
              one one always
            {{@index}}
              ! line 1, column 1: @index stands outside of {{#each}}
            {{../@index}}
              ! line 1, column 6: unexpected @index}}
            {{../topic}}
              ! line 1, column 1: "../topic" reaches beyond the outermost block
            {{#each topic}}{{/each}}
              !! line 1, column 1: topic is nothing to go through: expected a list or an object
        "#]],
    );
}

#[test]
fn lines_with_nothing_but_a_block_tag_leave_no_line() {
    let source = "[\n{{#each payload.rows}}\n  {{id}}{{#unless @last}},{{/unless}}\n{{/each}}\n  {{! gone }}\n]\n a {{~ qos ~}} b\n";
    assert_eq!(print(source), "[\n  1,\n  2\n]\n a1b\n");
}

#[test]
fn time_is_told_as_it_is_asked_for() {
    check(
        r#"
        {{now}} {{now "epoch"}} {{now "unix"}} {{now "epoch_ms"}} {{now "rfc3339"}} {{timestamp_ms}}
        {{now "%Y-%m-%d %H:%M:%S"}} {{now "%a %d %b %Y %T %Z"}} {{now format="%j"}} {{now "%Y%%"}}
        {{now offset="-5m"}} {{now "%T" offset="+1h30m"}} {{now "epoch" offset="90s"}} {{now "%F" offset="2d"}} {{now offset="250ms"}} {{now offset="-1w"}}
        {{timestamp_ms offset="-1s"}} {{add (timestamp_ms) 1}} {{eq (now "epoch") 1767323045}}
        {{now "yyyy"}}
        {{now "%Q"}}
        {{now offset="5"}}
        {{now offset="-"}}
        {{now offset="5 m"}}
        {{now offset="99999999999999999999s"}}
        {{now offset="9999999d"}}
        {{now ofset="5m"}}
        {{now "%T" "%F"}}
        {{timestamp_ms offset=payload.unit}}
    "#,
        expect![[r#"
            {{now}} {{now "epoch"}} {{now "unix"}} {{now "epoch_ms"}} {{now "rfc3339"}} {{timestamp_ms}}
              2026-01-02T03:04:05.678Z 1767323045 1767323045 1767323045678 2026-01-02T03:04:05.678Z 1767323045678
            {{now "%Y-%m-%d %H:%M:%S"}} {{now "%a %d %b %Y %T %Z"}} {{now format="%j"}} {{now "%Y%%"}}
              2026-01-02 03:04:05 Fri 02 Jan 2026 03:04:05 UTC 002 2026%
            {{now offset="-5m"}} {{now "%T" offset="+1h30m"}} {{now "epoch" offset="90s"}} {{now "%F" offset="2d"}} {{now offset="250ms"}} {{now offset="-1w"}}
              2026-01-02T02:59:05.678Z 04:34:05 1767323135 2026-01-04 2026-01-02T03:04:05.928Z 2025-12-26T03:04:05.678Z
            {{timestamp_ms offset="-1s"}} {{add (timestamp_ms) 1}} {{eq (now "epoch") 1767323045}}
              1767323044678 1767323045679 true
            {{now "yyyy"}}
              ! line 1, column 1: now: "yyyy" is no time format: expected one like "%Y-%m-%d %H:%M:%S", or epoch, epoch_ms or rfc3339
            {{now "%Q"}}
              UTC
            {{now offset="5"}}
              ! line 1, column 1: now: "5" is no offset: expected one like -5m, +1h30m, 90s, 2d or 250ms
            {{now offset="-"}}
              ! line 1, column 1: now: "-" is no offset: expected one like -5m, +1h30m, 90s, 2d or 250ms
            {{now offset="5 m"}}
              ! line 1, column 1: now: "5 m" is no offset: expected one like -5m, +1h30m, 90s, 2d or 250ms
            {{now offset="99999999999999999999s"}}
              ! line 1, column 1: now: "99999999999999999999s" is no offset: expected one like -5m, +1h30m, 90s, 2d or 250ms
            {{now offset="9999999d"}}
              ! line 1, column 1: now: no calendar reaches 9999999d from now
            {{now ofset="5m"}}
              ! line 1, column 1: now: unknown option "ofset"; did you mean "offset"?
            {{now "%T" "%F"}}
              ! line 1, column 1: expected `now [format] [offset="-5m"]`, got 2 values
            {{timestamp_ms offset=payload.unit}}
              !! line 1, column 1: timestamp_ms: "C" is no offset: expected one like -5m, +1h30m, 90s, 2d or 250ms
        "#]],
    );
}

#[test]
fn random_values_have_the_shape_that_was_asked_for() {
    check(
        r#"
        {{uuid}} {{uuid}}
        {{random_int 1 6}} {{random_int -3 -3}} {{random_int -9223372036854775808 9223372036854775807}} {{random_int "2" 2.0}}
        {{random_float 0 100}} {{random_float 5 5}} {{random_float -1 1 3}} {{random_float 0 10 0}} {{random_float 0 0.0000001}}
        {{random_choice "a" "b" "c"}} {{random_choice payload.list}} {{random_choice [1,2,3]}}
        {{random_string 12}} [{{random_string 0}}] {{length (random_string 40)}}
        {{random_bool}} {{random_bool 0}} {{random_bool 1}}
        {{gauss 20 0.5}} {{gauss 20 0.5 2}} {{gauss 0 0 1}}
        {{add (random_int 5 5) 1}} {{lt (random_float 0 1) 1}} {{concat "=" (random_float 3 3 2)}} {{add (round 2.456 1) 1}}
        {{random_int 6 1}}
        {{random_int 1.5 2}}
        {{random_int "a" 2}}
        {{random_int 1}}
        {{random_float 2 1}}
        {{random_float 0 1 99}}
        {{random_choice "only" }}
        {{random_choice []}}
        {{random_choice}}
        {{random_string 99999999999}}
        {{random_string -1}}
        {{random_bool 2}}
        {{gauss 1 -1}}
        {{random_int payload.unit 5}}
    "#,
        expect![[r#"
            {{uuid}} {{uuid}}
              16ab7907-aed2-437d-942f-0696fe2e6475 f6d830e7-50cf-45dd-9b7b-d80f62c6da51
            {{random_int 1 6}} {{random_int -3 -3}} {{random_int -9223372036854775808 9223372036854775807}} {{random_int "2" 2.0}}
              3 -3 6739020363812886774 2
            {{random_float 0 100}} {{random_float 5 5}} {{random_float -1 1 3}} {{random_float 0 10 0}} {{random_float 0 0.0000001}}
              49.0536849486921 5.0 0.731 3 0.0000000173673967373963
            {{random_choice "a" "b" "c"}} {{random_choice payload.list}} {{random_choice [1,2,3]}}
              b 4.5 3
            {{random_string 12}} [{{random_string 0}}] {{length (random_string 40)}}
              ec1TKciF9R9n [] 40
            {{random_bool}} {{random_bool 0}} {{random_bool 1}}
              true false true
            {{gauss 20 0.5}} {{gauss 20 0.5 2}} {{gauss 0 0 1}}
              19.438884783523466 19.58 0.0
            {{add (random_int 5 5) 1}} {{lt (random_float 0 1) 1}} {{concat "=" (random_float 3 3 2)}} {{add (round 2.456 1) 1}}
              6 true =3.0 3.5
            {{random_int 6 1}}
              ! line 1, column 1: random_int: min 6 is above max 1
            {{random_int 1.5 2}}
              ! line 1, column 1: random_int: 1.5 is no whole number
            {{random_int "a" 2}}
              ! line 1, column 1: random_int: "a" is no number
            {{random_int 1}}
              ! line 1, column 1: expected `random_int min max`, got 1 value
            {{random_float 2 1}}
              ! line 1, column 1: random_float: min 2 is above max 1
            {{random_float 0 1 99}}
              ! line 1, column 1: random_float: expected 0 to 17 digits, not 99
            {{random_choice "only" }}
              ! line 1, column 1: random_choice: "only" is nothing to choose from: expected a list, or more values
            {{random_choice []}}
              ! line 1, column 1: random_choice: the list is empty
            {{random_choice}}
              ! line 1, column 1: expected `random_choice a b … (or a list)`, got nothing; a value of this name is written this.random_choice
            {{random_string 99999999999}}
              ! line 1, column 1: random_string: expected a length from 0 to 1048576, not 99999999999
            {{random_string -1}}
              ! line 1, column 1: random_string: expected a length from 0 to 1048576, not -1
            {{random_bool 2}}
              ! line 1, column 1: random_bool: expected a probability from 0 to 1, not 2
            {{gauss 1 -1}}
              ! line 1, column 1: gauss: a deviation of -1 is negative
            {{random_int payload.unit 5}}
              !! line 1, column 1: random_int: "C" is no number
        "#]],
    );
}

#[test]
fn walks_and_counters_go_on_from_rendering_to_rendering() {
    check(
        r#"
        {{counter "a"}} {{counter "a"}} {{counter "b" start=10 step=-5}} {{counter "b" start=10 step=-5}}
        {{counter "a"}} {{counter (concat "of-" client_id) start=0}}
        {{walk "t" 20 0.5 15 25}} {{walk "t" 20 0.5 15 25 2}} {{walk "t" 20 0.5 15 25 2}} {{walk "u" 99 1 0 10}}
        {{counter ""}}
        {{counter "a" start="x"}}
        {{walk "t" 20 0.5 25 15}}
        {{walk "t" 20 0.5}}
    "#,
        expect![[r#"
            {{counter "a"}} {{counter "a"}} {{counter "b" start=10 step=-5}} {{counter "b" start=10 step=-5}}
              1 2 10 5
            {{counter "a"}} {{counter (concat "of-" client_id) start=0}}
              3 0
            {{walk "t" 20 0.5 15 25}} {{walk "t" 20 0.5 15 25 2}} {{walk "t" 20 0.5 15 25 2}} {{walk "u" 99 1 0 10}}
              20.0 19.96 20.32 10.0
            {{counter ""}}
              ! line 1, column 1: counter: a key of the state store has 1 to 256 bytes, not 0
            {{counter "a" start="x"}}
              ! line 1, column 1: counter: "x" is no number
            {{walk "t" 20 0.5 25 15}}
              ! line 1, column 1: walk: min 25 is above max 15
            {{walk "t" 20 0.5}}
              ! line 1, column 1: expected `walk key start step min max [digits]`, got 3 values
        "#]],
    );
}

#[test]
fn made_up_data_is_asked_for_by_name() {
    check(
        r#"
        {{faker "name"}}; {{faker "email"}}; {{faker "city"}}; {{faker "latitude"}}; {{faker "phone"}}; {{faker "iban"}}
        {{faker "emial"}}
        {{faker "zzz"}}
        {{faker payload.unit}}
    "#,
        expect![[r#"
            {{faker "name"}}; {{faker "email"}}; {{faker "city"}}; {{faker "latitude"}}; {{faker "phone"}}; {{faker "iban"}}
              Jennings Koch; samara@example.com; South Kelvin Bogisichshire; -39.224291; 655.246.3303; DE85729488735175399720
            {{faker "emial"}}
              ! line 1, column 1: faker: unknown name "emial"; did you mean "email"?
            {{faker "zzz"}}
              ! line 1, column 1: faker: unknown name "zzz"
            {{faker payload.unit}}
              !! line 1, column 1: faker: unknown name "C"
        "#]],
    );
}

#[test]
fn numbers_are_calculated_with() {
    check(
        r#"
        {{add 1 2}} {{add 1 2.5}} {{add 1 "2" 3}} {{sub 1 3}} {{mul 2 3 4}} {{div 6 3}} {{div 7 2}} {{mod 7 3}} {{mod -1 5}} {{mod 7.5 2}}
        {{add 9223372036854775807 1}} {{round 2.5}} {{round 2.456 2}} {{round 2 2}} {{round -0.001 2}} {{floor 2.9}} {{ceil 2.1}} {{abs -3}} {{abs -2.5}}
        {{min 3 1 2}} {{max 3 1.5}} {{min [4,2]}} {{max payload.value 30}}
        {{add topic_parts.1 1}}
        {{div 1 0}}
        {{div payload.value payload.zero}}
        {{mod 1 0}}
        {{max payload.list}}
        {{max payload.empty}}
        {{add 1 "x"}}
        {{add 1}}
        {{mul 1E308 10}}
        {{mul 1e308 10}}
    "#,
        expect![[r#"
            {{add 1 2}} {{add 1 2.5}} {{add 1 "2" 3}} {{sub 1 3}} {{mul 2 3 4}} {{div 6 3}} {{div 7 2}} {{mod 7 3}} {{mod -1 5}} {{mod 7.5 2}}
              3 3.5 6 -2 24 2 3.5 1 4 1.5
            {{add 9223372036854775807 1}} {{round 2.5}} {{round 2.456 2}} {{round 2 2}} {{round -0.001 2}} {{floor 2.9}} {{ceil 2.1}} {{abs -3}} {{abs -2.5}}
              9223372036854776000 3 2.46 2.00 0.00 2 3 3 2.5
            {{min 3 1 2}} {{max 3 1.5}} {{min [4,2]}} {{max payload.value 30}}
              1 3 2 30
            {{add topic_parts.1 1}}
              !! line 1, column 1: add: "d7" is no number
            {{div 1 0}}
              ! line 1, column 1: div: division by zero
            {{div payload.value payload.zero}}
              !! line 1, column 1: div: division by zero
            {{mod 1 0}}
              ! line 1, column 1: mod: division by zero
            {{max payload.list}}
              !! line 1, column 1: max: "x" is no number
            {{max payload.empty}}
              !! line 1, column 1: max: the list is empty
            {{add 1 "x"}}
              ! line 1, column 1: add: "x" is no number
            {{add 1}}
              ! line 1, column 1: expected `add a b …`, got 1 value
            {{mul 1E308 10}}
              ! line 1, column 1: mul: the result is no number
            {{mul 1e308 10}}
              !! line 1, column 1: 1e308 is missing
        "#]],
    );
}

#[test]
fn values_are_compared_by_what_they_mean() {
    check(
        r#"
        {{eq 1 1.0}} {{eq payload.value 21.5}} {{eq "a" "a"}} {{eq "1" 1}} {{ne 1 2}} {{eq [1,{"a":2}] [1.0,{"a":2.0}]}} {{eq payload.ok true}}
        {{lt 2 10}} {{lt "2" "10"}} {{lt "2" 10}} {{gt 10 "2"}} {{lte 2 2.0}} {{gte 2 2.5}} {{gt 18446744073709551615 -1}} {{lt "b" 1}}
        {{lt 9007199254740992 9007199254740993}} {{and 1 "a" true}} {{and 1 0}} {{or 0 "" payload.empty}} {{not 0}}
        {{#if (and (gt payload.value 20) (eq payload.unit "C"))}}hot{{/if}}
        {{eq 1}}
    "#,
        expect![[r#"
            {{eq 1 1.0}} {{eq payload.value 21.5}} {{eq "a" "a"}} {{eq "1" 1}} {{ne 1 2}} {{eq [1,{"a":2}] [1.0,{"a":2.0}]}} {{eq payload.ok true}}
              true true true false true true true
            {{lt 2 10}} {{lt "2" "10"}} {{lt "2" 10}} {{gt 10 "2"}} {{lte 2 2.0}} {{gte 2 2.5}} {{gt 18446744073709551615 -1}} {{lt "b" 1}}
              true false true true true false true false
            {{lt 9007199254740992 9007199254740993}} {{and 1 "a" true}} {{and 1 0}} {{or 0 "" payload.empty}} {{not 0}}
              true true false false true
            {{#if (and (gt payload.value 20) (eq payload.unit "C"))}}hot{{/if}}
              hot
            {{eq 1}}
              ! line 1, column 1: expected `eq a b`, got 1 value
        "#]],
    );
}

#[test]
fn text_is_worked_on() {
    check(
        r#"
        {{upper "aé"}} {{lower "AÉ"}} [{{trim " a "}}] {{length "aé"}} {{len payload.list}} {{length payload.map}} {{concat "a" 1 true payload.list}}
        {{substr "hello" 1}} {{substr "hello" 1 3}} {{substr "hello" -3}} {{substr "héllo" 1 1}} [{{substr "a" 5}}] {{replace "a-b-c" "-" "+"}} {{split "a,b" ","}} {{join payload.list}} {{join (split "a b" " ") "/"}}
        {{base64 "hé"}} {{base64_decode "aMOp"}} {{hex "hé"}} {{hex_decode "68c3a9"}} {{base64 payload.map}}
        {{json payload.text}} {{json payload.none}} {{json payload.map}} {{jsonpath payload "$.map.a"}} {{jsonpath payload "$.rows[*].id"}} {{add (jsonpath payload "$.map.a") 1}} {{jsonpath payload "$.rows[?@.min>1].id"}}
        {{lookup payload "unit"}} {{lookup payload.list 1}} {{lookup topic_parts (sub 3 1)}} {{lookup (split "a b" " ") 0}} {{env "STAGE"}}
        {{'single "quoted" \' text'}}
        {{upper 'it"s \'fine\''}} {{upper "a\tb\u00e4"}}
        {{upper [1]}}
        {{join "a"}}
        {{replace "a" "" "b"}}
        {{split "a" ""}}
        {{base64_decode "???"}}
        {{base64_decode "/w=="}}
        {{hex_decode "abc"}}
        {{jsonpath payload "$["}}
        {{jsonpath payload payload.unit}}
        {{jsonpath payload 3}}
        {{env "HOME"}}
    "#,
        expect![[r#"
            {{upper "aé"}} {{lower "AÉ"}} [{{trim " a "}}] {{length "aé"}} {{len payload.list}} {{length payload.map}} {{concat "a" 1 true payload.list}}
              AÉ aé [a] 2 3 2 a1true[3,4.5,"x"]
            {{substr "hello" 1}} {{substr "hello" 1 3}} {{substr "hello" -3}} {{substr "héllo" 1 1}} [{{substr "a" 5}}] {{replace "a-b-c" "-" "+"}} {{split "a,b" ","}} {{join payload.list}} {{join (split "a b" " ") "/"}}
              ello ell llo é [] a+b+c ["a","b"] 3,4.5,x a/b
            {{base64 "hé"}} {{base64_decode "aMOp"}} {{hex "hé"}} {{hex_decode "68c3a9"}} {{base64 payload.map}}
              aMOp hé 68c3a9 hé eyJhIjoxLCJiIjp7ImMiOlsyXX19
            {{json payload.text}} {{json payload.none}} {{json payload.map}} {{jsonpath payload "$.map.a"}} {{jsonpath payload "$.rows[*].id"}} {{add (jsonpath payload "$.map.a") 1}} {{jsonpath payload "$.rows[?@.min>1].id"}}
              "<b>\"é\"</b>" null {"a":1,"b":{"c":[2]}} 1 [1,2] 2 2
            {{lookup payload "unit"}} {{lookup payload.list 1}} {{lookup topic_parts (sub 3 1)}} {{lookup (split "a b" " ") 0}} {{env "STAGE"}}
              C 4.5 data a test
            {{'single "quoted" \' text'}}
              ! line 1, column 3: unexpected 'single "quo; braces that are no tag are written \{{
            {{upper 'it"s \'fine\''}} {{upper "a\tb\u00e4"}}
              IT"S 'FINE' A	BÄ
            {{upper [1]}}
              ! line 1, column 1: upper: [1] is no text
            {{join "a"}}
              ! line 1, column 1: join: "a" is no list
            {{replace "a" "" "b"}}
              ! line 1, column 1: replace: what is to be replaced is empty
            {{split "a" ""}}
              ! line 1, column 1: split: the separator is empty
            {{base64_decode "???"}}
              ! line 1, column 1: base64_decode: the text is no base64
            {{base64_decode "/w=="}}
              ! line 1, column 1: base64_decode: the bytes are no UTF-8
            {{hex_decode "abc"}}
              ! line 1, column 1: hex_decode: the text is no hexadecimal
            {{jsonpath payload "$["}}
              ! line 1, column 1: jsonpath: "$[" is no JSONPath from character 2 on
            {{jsonpath payload payload.unit}}
              !! line 1, column 1: jsonpath: "C" is no JSONPath from character 1 on
            {{jsonpath payload 3}}
              ! line 1, column 1: jsonpath: 3 is no JSONPath
            {{env "HOME"}}
              !! line 1, column 1: env: HOME may not be read: `mqtt.mock_env` lists the variables that templates may read
        "#]],
    );
}

#[test]
fn what_nobody_knows_is_refused_with_the_nearest_name() {
    check(
        r#"
        {{random_itn 1 2}}
        {{upper (random_itn 1 2)}}
        {{#eech payload.list}}{{/eech}}
        {{#now}}{{/now}}
        {{if payload.ok}}
        {{zzz 1}}
        {{payload.value 1}}
        {{upper now}}
        {{#each payload.rows}}{{min}}{{/each}}
        {{#each payload.list as |now|}}{{now}}{{upper now}}{{/each}}
        {{counter "a" strat=1}}
        {{#if}}{{/if}}
        {{#if a b}}{{/if}}
        {{#if a as |x|}}{{/if}}
        {{#with a as |x y|}}{{/with}}
        {{#each a b=1}}{{/each}}
        {{@indx}}
        {{payload.this}}
        {{(upper "a")}}
        {{upper (payload.call)}}
        {{lookup (lookup payload "call")}}
        {{log "x"}}
        {{#raw}}{{topic}}{{/raw}}
        {{upper "{{x}}"}}
    "#,
        expect![[r#"
            {{random_itn 1 2}}
              ! line 1, column 1: unknown helper "random_itn"; did you mean "random_int"?
            {{upper (random_itn 1 2)}}
              ! line 1, column 1: unknown helper "random_itn"; did you mean "random_int"?
            {{#eech payload.list}}{{/eech}}
              ! line 1, column 1: unknown block "eech"; did you mean "each"?
            {{#now}}{{/now}}
              ! line 1, column 1: now opens no block: write {{now …}}
            {{if payload.ok}}
              ! line 1, column 1: if opens a block: write {{#if …}}
            {{zzz 1}}
              ! line 1, column 1: unknown helper "zzz"
            {{payload.value 1}}
              ! line 1, column 17: unexpected 1}}
            {{upper now}}
              ! line 1, column 1: as an argument, now is written (now)
            {{#each payload.rows}}{{min}}{{/each}}
              ! line 1, column 23: expected `min a b … (or a list)`, got nothing; a value of this name is written this.min
            {{#each payload.list as |now|}}{{now}}{{upper now}}{{/each}}
              ! line 1, column 1: now is the name of a helper and no other's
            {{counter "a" strat=1}}
              ! line 1, column 1: counter: unknown option "strat"; did you mean "start"?
            {{#if}}{{/if}}
              ! line 1, column 1: expected `if value [includeZero=true]`, got nothing
            {{#if a b}}{{/if}}
              ! line 1, column 1: expected `if value [includeZero=true]`, got 2 values
            {{#if a as |x|}}{{/if}}
              ! line 1, column 1: {{#if}} gives no names: "as" is for each and with
            {{#with a as |x y|}}{{/with}}
              ! line 1, column 1: {{#with}} gives one name, not 2
            {{#each a b=1}}{{/each}}
              ! line 1, column 1: {{#each}} takes no b=
            {{@indx}}
              ! line 1, column 1: there is no @indx: only @index, @key, @first, @last and @root
            {{payload.this}}
              ! line 1, column 1: payload.this: no value is called this; write (lookup … "this")
            {{(upper "a")}}
              ! line 1, column 1: a tag begins with a name: (…) stands behind one
            {{upper (payload.call)}}
              ! line 1, column 1: unknown helper "payload.call"
            {{lookup (lookup payload "call")}}
              ! line 1, column 1: expected `lookup value key`, got 1 value
            {{log "x"}}
              ! line 1, column 1: unknown helper "log"
            {{#raw}}{{topic}}{{/raw}}
              ! line 1, column 1: raw is written {{{{raw}}}} … {{{{/raw}}}}
            {{upper "{{x}}"}}
              ! line 1, column 10: {{ within a tag: either }} is missing before it, or it belongs to a text and is written {\u007b
        "#]],
    );
}

#[test]
fn broken_syntax_is_told_in_plain_words() {
    check(
        r#"
        {{#if payload.ok}}yes
        {{#if a}}{{#each b}}{{/if}}
        {{/if}}
        {{else}}
        {{elsewhere}}
        {{#if a}}{{else}}{{else}}{{/if}}
        {{topic
        {{topic}
        {{}}
        {"a":{{"b":1}}}
        {{topic $%}}
        {{upper "a}}
        {{upper (lower "a"}}
        {{upper "\q"}}
        {{upper [1,}}
        {{upper {"a" 1}}}
        {{upper -}}
        {{payload.}}
        {{payload.[a}}
        {{payload..a}}
        {{{topic}}
        {{#each a as x}}{{/each}}
        {{#each a as |x}}{{/each}}
        {{#each a as |x y z|}}{{/each}}
        {{! open
        {{!-- open }}
        {{> partial}}
        {{#> layout}}{{/layout}}
        {{#*inline "x"}}{{/inline}}
        {{* decorator}}
        {{{{raw}}}} open
        {{{{other}}}}{{{{/other}}}}
        {{counter "a" start=}}
        {{(upper "a") 1}}
        {{upper 1.2.3}}
        {{é~b}}
    "#,
        expect![[r#"
            {{#if payload.ok}}yes
              ! line 1, column 1: the block is never closed
            {{#if a}}{{#each b}}{{/if}}
              ! line 1, column 1: the block is never closed
            {{/if}}
              ! line 1, column 1: there is no open block to be closed
            {{else}}
              ! line 1, column 1: {{else}} stands in no block; a name that begins so is written {{this.else…}}
            {{elsewhere}}
              ! line 1, column 1: {{else}} stands in no block; a name that begins so is written {{this.else…}}
            {{#if a}}{{else}}{{else}}{{/if}}
              ! line 1, column 20: unexpected else}}{{/if}; braces that are no tag are written \{{
            {{topic
              ! line 1, column 1: the tag is never closed
            {{topic}
              ! line 1, column 1: the tag is never closed
            {{}}
              ! line 1, column 3: unexpected }}; braces that are no tag are written \{{
            {"a":{{"b":1}}}
              ! line 1, column 8: unexpected "b":1}}}; braces that are no tag are written \{{
            {{topic $%}}
              ! line 1, column 10: unexpected %}}
            {{upper "a}}
              ! line 1, column 9: the text is never closed
            {{upper (lower "a"}}
              ! line 1, column 19: unexpected }}
            {{upper "\q"}}
              ! line 1, column 9: unexpected "\q"}}
            {{upper [1,}}
              ! line 1, column 9: the bracket is never closed
            {{upper {"a" 1}}}
              ! line 1, column 9: unexpected {"a" 1}}}
            {{upper -}}
              !! line 1, column 1: - is missing
            {{payload.}}
              ! line 1, column 11: unexpected }}
            {{payload.[a}}
              ! line 1, column 11: the bracket is never closed
            {{payload..a}}
              ! line 1, column 11: unexpected .a}}
            {{{topic}}
              ! line 1, column 1: the tag is never closed
            {{#each a as x}}{{/each}}
              ! line 1, column 1: {{#each}} takes one value, not 3
            {{#each a as |x}}{{/each}}
              ! line 1, column 16: unexpected }}{{/each}}
            {{#each a as |x y z|}}{{/each}}
              ! line 1, column 11: unexpected as |x y z|}}
            {{! open
              ! line 1, column 1: the comment is never closed
            {{!-- open }}
              ! line 1, column 1: the comment is never closed
            {{> partial}}
              ! line 1, column 1: partials ({{> …}}) are not supported
            {{#> layout}}{{/layout}}
              ! line 1, column 1: partials ({{#> …}}) are not supported
            {{#*inline "x"}}{{/inline}}
              ! line 1, column 1: inline partials ({{#* …}}) are not supported
            {{* decorator}}
              ! line 1, column 1: decorators ({{* …}}) are not supported
            {{{{raw}}}} open
              ! line 1, column 1: the block is never closed
            {{{{other}}}}{{{{/other}}}}
              ! line 1, column 1: unknown block "other"
            {{counter "a" start=}}
              ! line 1, column 21: unexpected }}
            {{(upper "a") 1}}
              ! line 1, column 15: unexpected 1}}
            {{upper 1.2.3}}
              ! line 1, column 12: unexpected .3}}
            {{é~b}}
              ! line 1, column 4: unexpected ~b}}
        "#]],
    );
}

#[test]
fn places_count_lines_and_characters() {
    let at = |source: &str| Template::parse(source).map(|_| ()).expect_err("bad").to_string();
    assert_eq!(at("a\nbé {{zzz 1}}"), "line 2, column 4: unknown helper \"zzz\"");
    assert_eq!(at("a\r\nbé {{#if a}}"), "line 2, column 4: the block is never closed");
    let error = print("ü\n\n  {{upper (lower payload.x)}}");
    assert_eq!(error, "!! line 3, column 3: payload.x is missing");
}

#[test]
fn what_a_template_reads_is_known() {
    let uses = |source: &str| {
        let template = Template::parse(source).expect("a template");
        let roots: Vec<_> = template.roots().collect();
        let keys = template.state_keys().map(|keys| keys.collect::<Vec<_>>().join(","));
        let all = if template.uses_everything() { " and everything" } else { "" };
        format!("{}{all}; state {}", roots.join(","), keys.as_deref().unwrap_or("as a whole"))
    };
    let templates = [
        "plain",
        "{{now}} {{topic}} {{device_id}}",
        "{{payload.a.b}} {{upper (lower user.k)}} {{counter \"x\" start=count}}",
        "{{#each payload.list as |item i|}}{{item}}{{i}}{{name}}{{../topic}}{{@root.qos}}{{@index}}{{/each}}",
        "{{#with user}}{{topic}}{{/with}}{{#if client_id}}{{else}}{{username}}{{/if}}",
        "{{state.a}} {{#if (eq state.b.c 1)}}{{/if}}",
        "{{lookup state device_id}}",
        "{{json @root}}",
        "{{#with this}}{{topic}}{{/with}}",
        "{{#each state}}{{this}}{{/each}}",
    ];
    let printed: String = templates.iter().map(|source| format!("{source}\n  {}\n", uses(source))).collect();
    expect![[r#"
        plain
          ; state 
        {{now}} {{topic}} {{device_id}}
          device_id,topic; state 
        {{payload.a.b}} {{upper (lower user.k)}} {{counter "x" start=count}}
          count,payload,user; state 
        {{#each payload.list as |item i|}}{{item}}{{i}}{{name}}{{../topic}}{{@root.qos}}{{@index}}{{/each}}
          payload,qos,topic; state 
        {{#with user}}{{topic}}{{/with}}{{#if client_id}}{{else}}{{username}}{{/if}}
          client_id,user,username; state 
        {{state.a}} {{#if (eq state.b.c 1)}}{{/if}}
          state; state a,b
        {{lookup state device_id}}
          device_id,state; state as a whole
        {{json @root}}
           and everything; state as a whole
        {{#with this}}{{topic}}{{/with}}
           and everything; state as a whole
        {{#each state}}{{this}}{{/each}}
          state; state as a whole
    "#]]
    .assert_eq(&printed);
    let template = Template::parse("{{payloads}}").expect("a template");
    assert!(template.uses("payloads") && !template.uses("payload"));
    assert!(Template::is_helper("now") && !Template::is_helper("device_id"));
}

#[test]
fn a_text_without_expressions_is_a_literal() {
    let literal = |source| Template::parse(source).expect("a template").as_literal().map(str::to_owned);
    assert_eq!(literal(""), Some(String::new()));
    assert_eq!(literal("{\"a\":{\"b\":1}}"), Some("{\"a\":{\"b\":1}}".to_owned()));
    assert_eq!(literal("\\{{x}}"), Some("{{x}}".to_owned()));
    assert_eq!(literal("a{{! gone }}b{{{{raw}}}}{{c}}{{{{/raw}}}}"), Some("ab{{c}}".to_owned()));
    assert_eq!(literal("{{topic}}"), None);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let source = r#"{{uuid}} {{random_int 1 1000}} {{counter "c" step=(random_int 1 9) start=(random_int 1 9)}}
        {{faker "name"}} {{gauss 0 1}} {{walk "w" 1 (random_float 0 1) 0 9}} {{random_string 9}}"#;
    let print = |seed| Stage::new(seed).print(source);
    assert_eq!(print(1), print(1));
    assert_ne!(print(1), print(2));
    // What stands before does not change with what comes behind.
    assert!(print(1).starts_with(&Stage::new(1).print("{{uuid}} {{random_int 1 1000}} ")));
}

#[test]
fn neither_output_nor_time_nor_stack_is_endless() {
    let mut stage = Stage::new(7);
    stage.values["many"] = json!(vec![0; 2000]);
    let error = stage.print("{{#each many}}{{#each ../many}}{{#each ../../many}}{{/each}}{{/each}}{{/each}}");
    assert_eq!(error, "!! line 1, column 32: more than 1000000 steps");
    let error = stage.print("{{#each many}}{{random_string 10000}}{{/each}}");
    assert_eq!(error, "!! line 1, column 15: the result has more than 16 MiB");
    let grown = (0..3)
        .fold("payload.x".to_owned(), |text, _| format!("(replace {text} \"x\" \"{}\")", "x".repeat(4096)));
    stage.values["payload"]["x"] = json!("x");
    let error = stage.print(&format!("{{{{length {grown}}}}}"));
    assert!(error.ends_with("replace: the result has more than 16 MiB"), "{error}");
    let whole = stage
        .print("{{#with (jsonpath payload \"$\")}}{{#each @root.many}}{{length ../rows}}{{/each}}{{/with}}");
    assert_eq!(whole, "2".repeat(2000));
    stage.values["payload"]["rows"] = json!(vec!["x"; 20_000]);
    let error = stage
        .print("{{#with (jsonpath payload \"$\")}}{{#each @root.many}}{{length ../rows}}{{/each}}{{/with}}");
    assert_eq!(error, "!! line 1, column 53: more than 1000000 steps");
    let query = format!("$[?{}@.a{}]", "(".repeat(300), ")".repeat(300));
    let error = stage.print(&format!("{{{{jsonpath payload \"{query}\"}}}}"));
    assert!(error.ends_with("a JSONPath has at most 1024 bytes and 8 levels of brackets"), "{error}");
}

#[test]
fn what_goes_deep_never_reaches_the_parser() {
    let print = |open: &str, close: &str| print(&format!("{}1{}", open.repeat(20_000), close.repeat(20_000)));
    let levels = "more than 32 levels of nesting";
    let blocks = "more than 64 blocks within each other";
    for (open, close, reason) in [
        ("{{upper (", ")", levels),
        ("{{#if a}}", "{{/if}}", blocks),
        ("{{ ~ # if a}}", "{{/if}}", blocks),
        ("{{#if a}}{{else}}", "{{/if}}", blocks),
        // What looks like the end of a block and is none.
        ("{{#if a}}\\{{/if}}", "", blocks),
        ("{{#if a}}{{!-- }}{{/if}} --}}", "", blocks),
        ("{{#if a}}{{! -- }}{{/if}} --}}", "", blocks),
        ("{{#if a}}{{!--}}{{/if}} --}}", "", blocks),
        ("{{#if a}}{{{{raw}}}}{{/if}}\\{{{{/raw}}}}{{/if}}{{{{/raw}}}}", "", blocks),
        ("{{#if (eq a \"{{/if}}\")}}", "", "{{ within a tag"),
        ("{{#if (eq a '\"') }}{{eq \"' }}{{/if}}\" a}}", "", "{{ within a tag"),
        ("{{#if a.[\"] }}{{eq \"\" [}}{{/if}}] a}}", "", "{{ within a tag"),
        ("{{#if 1.[\"]\", \"}}{{/if}}\"]}}", "", "a space is missing before the list"),
        ("{{#if [1,\"]}}{{/if}}\"]}}", "", "{{ within a tag"),
    ] {
        let error = print(open, close);
        assert!(error.starts_with("! ") && error.contains(reason), "{open}: {error}");
    }
    let inside = |open: &str, close: &str| {
        let (open, close) = (open.repeat(20_000), close.repeat(20_000));
        self::print(&format!("{{{{upper {open}1{close}}}}}"))
    };
    for (open, close) in [
        ("(upper ", ")"),
        ("a=(upper ", ")"),
        ("[", "]"),
        ("[1,", "]"),
        ("{\"a\":", "}"),
        ("(upper [\")\"] a.[)] ')' ", ")"),
    ] {
        let error = inside(open, close);
        assert!(error.ends_with(levels), "{open}: {error}");
    }
    let chain = "{{else if a}}".repeat(20_000);
    assert!(self::print(&format!("{{{{#if a}}}}{chain}{{{{/if}}}}")).ends_with(blocks));
    // As deep as it may be.
    let deepest = format!("{}{}1{}{}", "{{#if qos}}".repeat(63), "{{upper ", "}}", "{{/if}}".repeat(63));
    assert_eq!(self::print(&deepest), "1");
    let deepest = format!("{{{{upper {}1{}}}}}", "(upper ".repeat(31), ")".repeat(31));
    assert_eq!(self::print(&deepest), "1");
    let wide = "{{#if (eq topic \"sensors/d7/data\")}}{{random_choice [[1],[1]]}}{{/if}}".repeat(100);
    assert_eq!(self::print(&wide), "[1]".repeat(100));
}

#[test]
fn a_text_that_would_take_long_to_parse_is_refused() {
    let tags = |count: usize, len: usize| format!("{}{}", "{{topic}}".repeat(count), "x".repeat(len));
    assert!(Template::parse(&tags(100, 1 << 20)).is_ok());
    let error = |source: String| Template::parse(&source).expect_err("too long").reason;
    assert_eq!(error(tags(10_000, 1 << 20)), "10000 tags are too many for a template of 1138576 bytes");
    assert_eq!(error(tags(1, 5 << 20)), "a template has at most 4 MiB");
    assert!(Template::parse(&tags(0, 5 << 20)).is_ok());
}

#[test]
fn what_is_put_into_templates_changes_nothing_that_they_print() {
    let mut oracle = handlebars::Handlebars::new();
    oracle.register_escape_fn(handlebars::no_escape);
    let values = Stage::new(7).values;
    for source in [
        "{{topic}} {{payload.list.0}} {{payload/value}} {{payload.[odd key]}} {{{payload.text}}} {{&topic}}",
        "{{#each payload.list}}{{@index}}{{this}}{{@first}}{{@last}},{{/each}}",
        "{{#each payload.map}}{{@key}}{{#if @first}}!{{/if}}{{/each}}",
        "{{#each payload.rows as |row i|}}{{i}}{{row.id}}{{../topic}}{{@root.qos}}{{/each}}",
        "{{#each payload.rows}}{{#each @root.topic_parts}}{{this}}{{@../index}}{{../id}}{{/each}}{{/each}}",
        "{{#with payload.map}}{{a}}{{#with b}}{{c.0}}{{../a}}{{../../qos}}{{/with}}{{/with}}",
        "{{#with payload.none}}a{{else}}b{{/with}}{{#each payload.empty}}a{{else}}b{{/each}}",
        "{{#if payload.ok}}a{{else if payload.zero}}b{{else}}c{{/if}}{{#unless payload.zero}}d{{/unless}}",
        "{{#if payload.none}}a{{else if payload.zero}}b{{else if qos}}c{{else}}d{{/if}}",
        "{{lookup payload.list 1}} {{lookup payload \"unit\"}} {{eq qos 1}} {{#gt 2 1}}x{{/gt}} {{and 1 0}}",
        "a\n{{#if qos}}\n  b\n{{else}}\n  c\n{{/if}}\nd\n",
        "a  {{~#if qos~}}  b  {{~else~}}  c  {{~/if~}}  d",
        "  {{#each payload.list}}\n    {{this}}\n  {{/each}}\nend",
        "\r\n{{#if qos}}\r\nx\r\n{{/if}}\r\ny",
        "\\{{a}} \\\\{{topic}} {{! c }}x{{!-- }} --}}y {{~topic~}} z {{{~topic}}}",
        "{\"a\":{{qos}},\"b\":{\"c\":{{{qos}}}}}",
        "{{{{raw}}}}{{x}} {{{{/raw}}}}",
        "{{#if (or payload.zero (eq payload.unit 'C'))}}yes{{/if}} {{len payload.list}}",
    ] {
        let expected = oracle.render_template(source, &values).expect("a template");
        assert_eq!(print(source), expected, "{source}");
    }
}

/// Well-formed templates, a tag or a text to a line.
fn documents() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "x y\n",
        "  indented\r\n",
        "{ \\{{ }\n",
        "a {{@root.topic}}, {{{@root.payload.value}}}\n",
        "b{{~@root.topic_parts.1~}}c\n",
        "  {{lookup @root.topic_parts 2}}\n",
        "{{#each @root.topic_parts}}{{@index}}{{this}}{{#if @last}}.{{/if}}{{/each}}\n",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(3, 40, 8, |inner| {
        let open = prop::sample::select(vec![
            ("{{#if @root.qos}}", "{{/if}}"),
            ("{{#if @root.retain}}", "{{/if}}"),
            ("  {{#unless (eq @root.qos 1)}}", "  {{/unless}}"),
            ("{{#each @root.payload.rows as |row i|}}\n{{i}}{{row.id}}", "{{/each}}"),
            ("{{#each @root.payload.empty}}", "\t{{/each}}"),
            ("{{#with @root.user}}\n{{k}}", "{{/with}}"),
            ("{{#with @root.payload.none}}", "{{/with}}"),
        ]);
        let turn = prop::sample::select(vec!["{{else}}", "  {{^}}", "{{else if @root.count}}"]);
        let inner = prop::collection::vec(inner, 1..5).prop_map(|inner| inner.concat());
        (open, inner.clone(), turn, inner.clone(), inner).prop_map(
            |((open, close), body, turn, other, behind)| {
                format!("{open}\n{body}{turn}\n{other}{close}\n{behind}")
            },
        )
    })
}

/// Bits of templates that make sense together now and then.
fn fragments() -> impl Strategy<Value = String> {
    let bits = prop::sample::select(vec![
        "{{",
        "}}",
        "{{{",
        "}}}",
        "{{#",
        "{{/",
        "{{#if ",
        "{{/if}}",
        "{{else}}",
        "{{#each ",
        "{{/each}}",
        "{{#with ",
        "{{/with}}",
        "{{~",
        "~}}",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        " ",
        "\n",
        "as |a b|",
        "payload",
        "this",
        "../",
        "@index",
        "@root",
        ".",
        "/",
        "a",
        "0",
        "-1",
        "1.5",
        "=",
        ",",
        ":",
        "\\",
        "{{!",
        "--",
        "random_int 1 9",
        "now",
        "uuid",
        "upper ",
        "default ",
        "jsonpath payload \"$.a\"",
        "lookup ",
        "{{{{raw}}}}",
        "{{{{/raw}}}}",
        "é",
        "substr ",
        "split ",
        "join ",
        "div ",
        "round ",
        "eq ",
        "walk ",
        "counter ",
        "|",
        "true",
        "null",
    ]);
    prop::collection::vec(bits, 0..24).prop_map(|bits| bits.concat())
}

/// Bits of which the one may hide the other from whoever counts blocks.
fn tags() -> impl Strategy<Value = String> {
    let bits = prop::sample::select(vec![
        "{{#if a}}",
        "{{#if ",
        "{{~ #if (a b",
        "{{/if}}",
        "{{ ~/if}}",
        "{{else}}",
        "{{else if a}}",
        "{{^if a",
        "{{a ",
        "{{{a ",
        "}}",
        "}}}",
        " ~}}",
        "{{!",
        "{{!--",
        "--}}",
        " -- ",
        "{{{{raw}}}}",
        "{{{{",
        "{{{{/raw}}}}",
        "\\",
        "\"",
        "'",
        "[",
        "]",
        ".[",
        "1.[",
        "(a ",
        "(",
        ")",
        "{\"a\":",
        "}",
        ",",
        " 1 ",
        " b=",
        " x ",
    ]);
    prop::collection::vec(bits, 0..7).prop_map(|bits| bits.concat())
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[ab0]|payload", inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A template that parses: a call of some helper with arguments of all kinds.
fn calls() -> impl Strategy<Value = String> {
    let argument = prop::sample::select(vec![
        "payload",
        "payload.a",
        "payload.0",
        "1",
        "-2.5",
        "0",
        "\"a,b\"",
        "[1,\"x\"]",
        "null",
        "true",
        "(uuid)",
        "(default payload.a 3)",
        "(split payload.a \",\")",
        "(random_int 1 3)",
        "9223372036854775807",
        "1e300",
        "\"%Y %s\"",
        "payload.b.a",
    ]);
    let name = prop::sample::select(library::names().collect::<Vec<_>>());
    (name, prop::collection::vec(argument, 0..6))
        .prop_map(|(name, arguments)| format!("{{{{{name} {}}}}}", arguments.join(" ")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_the_parser_panic(source in "\\PC{0,40}|[{}# /a.~!\"'()\\[\\]|@\\\\]{0,30}") {
        let _ = Template::parse(&source);
    }

    #[test]
    fn no_repetition_overflows_the_stack(unit in tags(), begin in tags(), end in tags()) {
        let _ = Template::parse(&format!("{begin}{}{end}", unit.repeat(1_500)));
    }

    #[test]
    fn no_template_makes_the_renderer_panic(source in fragments(), values in json_values()) {
        let mut stage = Stage::new(1);
        stage.values["payload"] = values;
        stage.print(&source);
    }

    #[test]
    fn no_value_makes_a_helper_panic(source in calls(), values in json_values(), seed: u64) {
        let mut stage = Stage::new(seed);
        stage.values["payload"] = values;
        stage.print(&source);
    }

    #[test]
    fn what_the_crate_takes_is_never_taken_for_unclosed(source in fragments()) {
        if handlebars::Template::compile(&source).is_ok()
            && let Err(error) = Template::parse(&source)
        {
            let is_bad = error.reason.contains("closed") && !error.reason.contains("comment");
            prop_assert!(!is_bad, "{}: {}", source, error);
        }
    }

    #[test]
    fn a_text_without_braces_prints_as_it_is(source in "[^{]{0,40}") {
        prop_assert_eq!(print(&source), source);
    }

    #[test]
    fn a_value_is_never_taken_for_a_template(text in "\\PC{0,20}") {
        let mut stage = Stage::new(1);
        let evil = format!("{{{{uuid}}}}{text}");
        stage.values["payload"] = json!({ "text": evil });
        prop_assert_eq!(stage.print("{{payload.text}}"), evil);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn documents_are_laid_out_as_the_crate_does_it(source in documents()) {
        let mut oracle = handlebars::Handlebars::new();
        oracle.register_escape_fn(handlebars::no_escape);
        let mut stage = Stage::new(1);
        let expected = oracle.render_template(&source, &stage.values).expect("a template");
        let printed = stage.print(&source);
        prop_assert_eq!(printed, expected, "{}", source);
    }
}
