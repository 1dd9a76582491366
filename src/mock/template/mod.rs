//! Handlebars templates.
//!
//! The `handlebars` crate reads and renders them; which helpers there are, and what they may cost, is ours. Before the
//! crate sees a text, [`guard`] makes sure that it cannot exhaust the stack; once it has read it, [`program`] checks every
//! name and argument, so that a mistake is told when a template is loaded and not when it is used; and what a rendering
//! does passes by [`render`], which counts its steps.
//!
//! `{{x}}` prints as it is, without HTML escaping; lists and objects print as JSON, `null` as nothing. Names are strict:
//! a missing value is an error, but for conditions and `default`, to which it is like `null`. Nothing that a client sent
//! is taken for a template or for the name of a helper.

mod guard;
mod library;
mod program;
mod render;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use handlebars::{Context, Handlebars, RenderContext, Renderable as _};
use serde_json::Value;

use self::{
    program::Program,
    render::{Rendering, Stage, Text},
};
use super::State;
use crate::draws::Draws;

/// A template that was parsed and checked. Clones share it.
#[derive(Clone, Debug)]
pub struct Template {
    source: Arc<str>,
    program: Arc<Program>,
}

/// Why a text is no template. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct BadTemplate {
    pub line: usize,
    pub column: usize,
    pub reason: String,
}

/// Why a template could not be rendered, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RenderError(pub String);

/// What a rendering may read beside its values.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Every random helper draws from here: in the order of the text, but named arguments in that of their names.
    pub draws: Draws,
    /// What `now` says.
    pub now: jiff::Timestamp,
    /// Counters and walks. A rendering locks it for a moment at a time.
    pub state: Arc<Mutex<State>>,
}

/// Calls, turns of loops and what stands in them, in one rendering: a second or so. Lists within lists within lists come
/// from clients.
pub const STEPS_MAX: usize = 1_000_000;

/// Renders templates.
pub struct Renderer {
    environment: Arc<BTreeMap<String, String>>,
    registry: Handlebars<'static>,
    stage: Stage,
    steps_max: usize,
}

impl Template {
    /// # Errors
    /// [`BadTemplate`], also for a helper that there is none of and for literal arguments that it cannot use.
    pub fn parse(source: &str) -> Result<Self, BadTemplate> {
        Ok(Self { source: source.into(), program: Arc::new(Program::of(source)?) })
    }

    /// What it prints, if there is no expression in it.
    pub fn as_literal(&self) -> Option<&str> {
        self.program.literal.as_deref()
    }

    /// The names of the values it reads (`payload` of `payload.a.b`), sorted; of those within `each` and `with`, the
    /// values that these go through. Not complete if it [uses everything](Self::uses_everything).
    pub fn roots(&self) -> impl Iterator<Item = &str> {
        self.program.uses.roots.iter().map(String::as_str)
    }

    /// Whether the template reads the value `root`.
    pub fn uses(&self, root: &str) -> bool {
        self.program.uses.everything || self.program.uses.roots.contains(root)
    }

    /// Whether the object of all values stands somewhere as a whole: `{{json @root}}`.
    pub fn uses_everything(&self) -> bool {
        self.program.uses.everything
    }

    /// Sorted, the `k` of each `state.k`; nothing at all if `state` stands somewhere as a whole.
    pub fn state_keys(&self) -> Option<impl Iterator<Item = &str>> {
        let uses = &self.program.uses;
        (!uses.everything && !uses.whole_state).then(|| uses.state_keys.iter().map(String::as_str))
    }

    /// Whether `name` is taken by a helper, so that `{{name}}` can never be a value.
    pub fn is_helper(name: &str) -> bool {
        library::find(name).is_some()
    }

    pub fn source(&self) -> &str {
        &self.source
    }
}

impl Renderer {
    /// `environment` is what `env` may print.
    pub fn new(environment: BTreeMap<String, String>) -> Self {
        let stage = Stage::default();
        let environment = Arc::new(environment);
        Self { environment, registry: render::registry(&stage), stage, steps_max: STEPS_MAX }
    }

    /// Calls, turns of loops and what stands in them, in one rendering.
    pub fn limit_steps(mut self, steps: usize) -> Self {
        self.steps_max = steps;
        self
    }

    /// `values` is an object by the names that templates use.
    ///
    /// # Errors
    /// [`RenderError`] where a value is missing or a helper cannot do what it is asked for.
    pub fn render(
        &mut self,
        template: &Template,
        values: &Value,
        around: Surroundings,
    ) -> Result<String, RenderError> {
        if let Some(literal) = template.as_literal() {
            return Ok(literal.to_owned());
        }
        let program = &template.program;
        // The crate wants values of its own, so it gets no more than are read.
        let values = match values {
            Value::Object(members) if !program.uses.everything => {
                let read = program.uses.roots.iter().filter_map(|root| members.get_key_value(root));
                read.map(|(name, value)| (name.clone(), value.clone())).collect()
            }
            values => values.clone(),
        };
        self.occupy(Some(Rendering {
            program: program.clone(),
            environment: self.environment.clone(),
            around,
            steps: 0,
            steps_max: self.steps_max,
            missing: Vec::new(),
        }));
        let mut text = Text::default();
        let rendered = program.template.render(
            &self.registry,
            &Context::from(values),
            &mut RenderContext::new(None),
            &mut text,
        );
        self.occupy(None);
        rendered.map(|()| text.0).map_err(|error| RenderError(render::told(&error)))
    }

    fn occupy(&self, rendering: Option<Rendering>) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = rendering;
    }
}
