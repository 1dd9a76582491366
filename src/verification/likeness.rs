//! How alike two packets are that are not the same.

use std::collections::HashSet;

use serde_json::Value;

use super::{content::Content, json};

/// Bytes of text that are looked at.
const TEXT_MAX: usize = 200;
/// Longer payloads are looked at as text.
const JSON_MAX: usize = 16 << 10;
/// What fields count beside the payload.
const FIELDS: f64 = 0.3;

/// A packet as it is looked at.
pub struct Looks {
    content: Content,
    /// Of a payload that is an object or an array.
    value: Option<Value>,
}

/// Pairs of fields that are compared one by one.
const FEW: usize = 1024;

impl Looks {
    pub fn new(content: Content) -> Self {
        let payload = content.payload.as_ref().filter(|payload| payload.len() <= JSON_MAX);
        let value = payload.and_then(|payload| json::parse(payload));
        let value = value.filter(|value| value.is_object() || value.is_array());
        Self { content, value }
    }

    /// From 0, nothing in common, to 1.
    pub fn likeness(&self, other: &Self) -> f64 {
        let (fields, other_fields) = (&self.content.fields, &other.content.fields);
        let len = fields.len().max(other_fields.len());
        let same = match fields.len() * other_fields.len() {
            // A set is worth its making where there are many.
            FEW.. => {
                let others: HashSet<_> = other_fields.iter().collect();
                fields.iter().filter(|field| others.contains(field)).count()
            }
            _ => fields.iter().filter(|field| other_fields.contains(field)).count(),
        };
        let fields = if len == 0 { 1.0 } else { same as f64 / len as f64 };
        match (&self.content.payload, &other.content.payload) {
            (Some(first), Some(second)) => {
                FIELDS * fields + (1.0 - FIELDS) * self.of_payloads(other, first, second)
            }
            _ => fields,
        }
    }

    fn of_payloads(&self, other: &Self, first: &[u8], second: &[u8]) -> f64 {
        if first == second {
            return 1.0;
        }
        if let (Some(one), Some(other)) = (&self.value, &other.value) {
            let (same, all) = leaves(one, other);
            // The same shape is something.
            return if all == 0 { 0.5 } else { 0.1 + 0.9 * same as f64 / all as f64 };
        }
        of_texts(&first[..first.len().min(TEXT_MAX)], &second[..second.len().min(TEXT_MAX)])
    }
}

/// How much both begin and end with the same.
fn of_texts(first: &[u8], second: &[u8]) -> f64 {
    let len = first.len().max(second.len());
    if len == 0 {
        return 1.0;
    }
    let ahead = first.iter().zip(second).take_while(|(one, other)| one == other).count();
    let (rest, other_rest) = (&first[ahead..], &second[ahead..]);
    let behind =
        rest.iter().rev().zip(other_rest.iter().rev()).take_while(|(one, other)| one == other).count();
    (ahead + behind) as f64 / len as f64
}

/// How many of the values in either are in both, at the same place.
fn leaves(first: &Value, second: &Value) -> (usize, usize) {
    let sum = |one: (usize, usize), other: (usize, usize)| (one.0 + other.0, one.1 + other.1);
    match (first, second) {
        (Value::Object(one), Value::Object(other)) => {
            let added = other.keys().filter(|name| !one.contains_key(*name)).count();
            let both = one.iter().map(|(name, value)| match other.get(name) {
                Some(like) => leaves(value, like),
                None => (0, 1),
            });
            both.fold((0, added), sum)
        }
        (Value::Array(one), Value::Array(other)) => {
            let both = one.iter().zip(other).map(|(value, like)| leaves(value, like));
            both.fold((0, one.len().abs_diff(other.len())), sum)
        }
        _ => (usize::from(first == second), 1),
    }
}
