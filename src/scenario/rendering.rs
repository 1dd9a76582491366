//! What templates of a scenario print: the same for the same seed, step, client and count.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    draws::Draws,
    field::Checks,
    likeness::unknown,
    mock::{Payload, RenderError, Renderer, State, Surroundings, Template},
};

/// The values that templates read.
pub const ROOTS: [&str; 7] = ["client", "client_id", "i", "n", "pass", "run_id", "scenario"];

/// Those that there are without a client.
pub const ROOTS_OF_NAMES: [&str; 3] = ["pass", "run_id", "scenario"];

/// Of one rendering: thousands of clients have theirs rendered one after the other.
const STEPS_MAX: usize = 10_000;

/// Those that there are before a client has its identifier.
pub const ROOTS_OF_IDENTIFIERS: [&str; 4] = ["client", "i", "run_id", "scenario"];

/// Who says what a template becomes.
#[derive(Clone, Debug)]
pub struct Speaker<'a> {
    /// The name in the scenario, shared by several clients.
    pub client: &'a str,
    pub client_id: &'a str,
    /// Which of them, from 1.
    pub i: u32,
    /// The how many-th message of the step, from 1.
    pub n: u64,
    /// Of the innermost `repeat`, from 1; 1 outside.
    pub pass: u64,
}

/// The templates of one run.
pub struct Rendering {
    scenario: String,
    run_id: String,
    draws: Draws,
    renderer: Mutex<Renderer>,
    /// Counters and walks of the run.
    state: Arc<Mutex<State>>,
}

/// What a template is rendered with.
pub struct Stream<'a> {
    rendering: &'a Rendering,
    values: Value,
    draws: Draws,
    now: jiff::Timestamp,
    part: u64,
}

impl Rendering {
    pub fn new(scenario: &str, run_id: &str, seed: u64) -> Self {
        Self {
            scenario: scenario.to_owned(),
            run_id: run_id.to_owned(),
            draws: Draws::new(seed).of("scenario"),
            // What the environment says is not for those who call over the network.
            renderer: Mutex::new(Renderer::new(BTreeMap::new()).limit_steps(STEPS_MAX)),
            state: Arc::default(),
        }
    }

    /// The draws of a step, or of what else is called so.
    pub fn draws(&self, step: &str) -> Draws {
        self.draws.of(step)
    }

    /// What `speaker` has templates print in a step, one after the other.
    pub fn stream(&self, step: &str, speaker: &Speaker<'_>, now: jiff::Timestamp) -> Stream<'_> {
        let values = json!({
            "scenario": self.scenario,
            "run_id": self.run_id,
            "client": speaker.client,
            "client_id": speaker.client_id,
            "i": speaker.i,
            "n": speaker.n,
            "pass": speaker.pass,
        });
        // By the name and number, as identifiers may hold the run's id.
        let draws = self.draws.of(step).of(speaker.client).nth(u64::from(speaker.i)).nth(speaker.n);
        Stream { rendering: self, values, draws, now, part: 0 }
    }

    /// What a step calls something, by a template of [`ROOTS_OF_NAMES`].
    ///
    /// # Errors
    /// As [`Stream::render`].
    pub fn name(
        &self,
        step: &str,
        pass: u64,
        template: &Template,
        now: jiff::Timestamp,
    ) -> Result<String, RenderError> {
        let speaker = Speaker { client: "", client_id: "", i: 1, n: 1, pass };
        self.stream(step, &speaker, now).render(template)
    }
}

impl Stream<'_> {
    /// # Errors
    /// Where a helper cannot do what it is asked for.
    pub fn render(&mut self, template: &Template) -> Result<String, RenderError> {
        if let Some(literal) = template.as_literal() {
            return Ok(literal.to_owned());
        }
        self.part += 1;
        let around = Surroundings {
            draws: self.draws.nth(self.part),
            now: self.now,
            state: Arc::clone(&self.rendering.state),
        };
        // A rendering that panicked has left nothing that the next one reads.
        let mut renderer = self.rendering.renderer.lock().unwrap_or_else(PoisonError::into_inner);
        renderer.render(template, &self.values, around)
    }

    /// # Errors
    /// As [`render`](Self::render).
    pub fn payload(&mut self, payload: &Payload) -> Result<Bytes, RenderError> {
        payload.render(|template| self.render(template))
    }
}

/// Reads a template that names no other values than `roots`.
pub fn read_template(checks: &mut Checks, path: &str, text: &str, roots: &[&str]) -> Option<Template> {
    let template = checks.keep(path, Template::parse(text))?;
    check_roots(checks, path, &template, roots).then_some(template)
}

/// Whether a template names no other values than `roots`; one that does is refused.
pub fn check_roots(checks: &mut Checks, path: &str, template: &Template, roots: &[&str]) -> bool {
    let strange = template.roots().find(|root| !roots.contains(root));
    if let Some(root) = strange {
        checks.refuse(path, unknown("value", root, roots.iter().copied()));
    }
    strange.is_none()
}

/// Reads a payload: a text is a template, any other value its compact JSON, in which texts are templates.
pub fn read_payload(
    checks: &mut Checks,
    path: &str,
    payload: Option<&Value>,
    roots: &[&str],
) -> Option<Payload> {
    let text = match payload {
        None | Some(Value::Null) => return Some(Payload::Fixed(Bytes::new())),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let payload = checks.keep(path, Payload::parse(&text))?;
    let all = payload.templates().all(|template| check_roots(checks, path, template, roots));
    all.then_some(payload)
}
