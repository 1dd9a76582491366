//! What rules let differ does not hide which message is which.

use expect_test::{Expect, expect};

use super::{Level, check, deliveries, verdict};
use crate::verification::Judged;

const NEAR: &str = r#"[{topic: t, tolerance: {"$.v": 0.5}}]"#;
const NEAR_IN_ANY_ORDER: &str = r#"[{topic: t, unordered: true, tolerance: {"$.v": 0.5}}]"#;

fn values(values: &[f64]) -> String {
    let messages: Vec<String> = values.iter().map(|value| format!(r#"t "{{\"v\":{value}}}""#)).collect();
    deliveries(&messages.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn check_values(rules: &str, expected: &[f64], observed: &[f64], wanted: Expect) {
    check(Level::Payload, rules, &values(expected), &values(observed), wanted);
}

#[test]
fn values_that_may_differ_a_little_may_come_in_any_order() {
    check_values(
        NEAR_IN_ANY_ORDER,
        &[1.0, 10.0, 1.4, 20.0],
        &[20.1, 1.2, 0.8, 10.0],
        expect![[r#"
            4 of 4 as expected
        "#]],
    );
    check_values(
        NEAR_IN_ANY_ORDER,
        &[1.0, 10.0],
        &[10.1, 2.0],
        expect![[r#"
            1 of 2 as expected
            changed app s2c t: $['v']: 1 → 2
        "#]],
    );
}

#[test]
fn many_values_may_come_in_any_order() {
    let expected: Vec<f64> = (0..200).map(f64::from).collect();
    let observed: Vec<f64> = (0..200).map(|value| f64::from((value * 7 + 3) % 200) + 0.25).collect();
    let verdict = verdict(
        Level::Payload,
        Judged::FromServer,
        NEAR_IN_ANY_ORDER,
        &values(&expected),
        &values(&observed),
    );
    assert!(verdict.has_passed(), "{:?}", verdict.differences);
}

#[test]
fn one_that_is_missing_does_not_change_those_behind_it() {
    check_values(
        NEAR,
        &[1.0, 2.0, 3.0, 4.0],
        &[2.0, 3.0, 4.0],
        expect![[r#"
            3 of 4 as expected
            missing app s2c t: PUBLISH t "{\"v\":1}"
        "#]],
    );
    check_values(
        NEAR,
        &[1.0, 2.0, 3.0, 4.0],
        &[1.1, 3.1, 4.1],
        expect![[r#"
            3 of 4 as expected
            missing app s2c t: PUBLISH t "{\"v\":2}"
        "#]],
    );
    check_values(
        NEAR,
        &[1.0, 2.0, 3.0],
        &[2.0, 1.0, 3.0],
        expect![[r#"
            2 of 3 as expected
            moved app s2c t: PUBLISH t "{\"v\":1}"
        "#]],
    );
    let expected: Vec<f64> = (0..5_000).map(f64::from).collect();
    let observed: Vec<f64> = expected[1..].iter().map(|value| value + 0.25).collect();
    let verdict = verdict(Level::Payload, Judged::FromServer, NEAR, &values(&expected), &values(&observed));
    assert_eq!((verdict.matched, verdict.difference_count()), (4_999, 1));
}

#[test]
fn another_value_did_not_come_twice() {
    check(
        Level::Payload,
        NEAR,
        &deliveries(&[r#"t qos=1 id=1 "{\"v\":1}""#]),
        &deliveries(&[r#"t qos=1 id=1 "{\"v\":1}""#, r#"t qos=1 id=2 "{\"v\":50}""#]),
        expect![[r#"
            1 of 1 as expected
            unexpected app s2c t: PUBLISH t qos=1 "{\"v\":50}"
        "#]],
    );
}
