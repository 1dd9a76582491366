//! What is tested of a payload.

use std::{borrow::Cow, cell::OnceCell};

use serde_json::Value;

use super::{condition::adopt, query::Query, value_test::ValueTest};
use crate::field::Checks;

/// Bytes of a payload that is read as JSON, where messages are moved: some hundredths of a second.
const JSON_MAX: usize = 4 << 20;

/// A payload that is being looked at, by any number of tests.
#[derive(Debug)]
pub struct PayloadView<'a> {
    bytes: &'a [u8],
    json: OnceCell<Option<Value>>,
}

impl<'a> PayloadView<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, json: OnceCell::new() }
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// It, if it is JSON of no more than 4 MiB.
    pub fn json(&self) -> Option<&Value> {
        let read =
            || if self.bytes.len() > JSON_MAX { None } else { serde_json::from_slice(self.bytes).ok() };
        self.json.get_or_init(read).as_ref()
    }

    /// It as text; what is no UTF-8 in it is replaced.
    pub fn text(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.bytes)
    }
}

/// Tests of the values that JSONPaths select, and of the payload as a whole.
#[derive(Clone, Debug, Default)]
pub struct PayloadTests {
    whole: Option<ValueTest>,
    paths: Vec<(Query, ValueTest)>,
}

impl PayloadTests {
    /// By JSONPath (`$.a.b`) the test of what it selects; what stands beside them by its own name, or instead of them, is
    /// of the whole. `null`: none.
    ///
    /// # Errors
    /// What is wrong with it, by field.
    pub fn new(spec: &Value) -> Result<Self, Checks> {
        let mut checks = Checks::default();
        let mut made = Self::default();
        match spec {
            Value::Null => {}
            Value::Object(tests) => {
                let (paths, whole): (Vec<_>, Vec<_>) =
                    tests.iter().partition(|(key, _)| key.starts_with('$'));
                for (path, test) in paths {
                    let query = checks.keep(path, Query::parse(path));
                    let test = adopt(&mut checks, path, ValueTest::new(test));
                    made.paths.extend(query.zip(test));
                }
                if !whole.is_empty() {
                    let whole = whole.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                    made.whole = adopt(&mut checks, "", ValueTest::new(&Value::Object(whole)));
                }
            }
            plain => made.whole = adopt(&mut checks, "", ValueTest::new(plain)),
        }
        if checks.is_empty() { Ok(made) } else { Err(checks) }
    }

    pub fn is_empty(&self) -> bool {
        self.whole.is_none() && self.paths.is_empty()
    }

    /// The test of the payload as a whole.
    pub fn whole(&self) -> Option<&ValueTest> {
        self.whole.as_ref()
    }

    /// # Errors
    /// The first that does not hold, for people.
    pub fn check(&self, payload: &PayloadView<'_>) -> Result<(), String> {
        self.outcomes(payload).collect()
    }

    /// What became of each test, in words if it does not hold; that of the whole comes first. Each is made when it is
    /// asked for.
    pub fn outcomes<'t>(
        &'t self,
        payload: &'t PayloadView<'_>,
    ) -> impl Iterator<Item = Result<(), String>> + 't {
        let whole = self.whole.iter().map(|test| check_whole(test, payload));
        whole.chain(self.paths.iter().map(|(query, test)| check_path(query, test, payload)))
    }
}

/// As the text it is, or as the JSON that it may be.
fn check_whole(test: &ValueTest, payload: &PayloadView<'_>) -> Result<(), String> {
    let text = Value::String(payload.text().into_owned());
    test.check(Some(&text))
        .or_else(|difference| match payload.json() {
            Some(json) => test.check(Some(json)).map_err(|_| difference),
            None => Err(difference),
        })
        .map_err(|difference| format!("the payload {difference}"))
}

fn check_path(query: &Query, test: &ValueTest, payload: &PayloadView<'_>) -> Result<(), String> {
    match payload.json() {
        Some(json) => {
            let found = query.find(json, payload.bytes().len())?;
            test.check_any(found.into_iter()).map_err(|difference| format!("{query} {difference}"))
        }
        None if test.holds(None) => Ok(()),
        None => Err("the payload is no JSON".to_owned()),
    }
}
