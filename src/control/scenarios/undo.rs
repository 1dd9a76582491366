//! What was there before a run changed it.

use serde_json::Value;

use crate::{
    fault::RuleSpec,
    mock::{MockSpec, StateScope},
};

/// What was there before the run changed it.
#[derive(Default)]
pub struct Undo {
    pub seed: Option<u64>,
    pub rules: Vec<(String, Option<RuleSpec>)>,
    pub mocks: Vec<(String, Option<MockSpec>)>,
    pub state: Vec<(StateScope, String, Option<Value>)>,
    /// Ids and names of recordings that go on.
    pub recordings: Vec<(String, String)>,
    pub replays: Vec<String>,
}

impl Undo {
    /// `before` is what there was, unless that is known already.
    pub fn note_rule(&mut self, id: &str, before: Option<RuleSpec>) {
        if !self.rules.iter().any(|(known, _)| known == id) {
            self.rules.push((id.to_owned(), before));
        }
    }

    pub fn note_mock(&mut self, id: &str, before: Option<MockSpec>) {
        if !self.mocks.iter().any(|(known, _)| known == id) {
            self.mocks.push((id.to_owned(), before));
        }
    }

    pub fn note_state(&mut self, scope: &StateScope, key: &str, before: Option<Value>) {
        if !self.state.iter().any(|(of, known, _)| of == scope && known == key) {
            self.state.push((scope.clone(), key.to_owned(), before));
        }
    }
}
