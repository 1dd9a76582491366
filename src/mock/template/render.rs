//! Rendering: our helpers as the `handlebars` crate calls them, with a limit to what they may write and do.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use handlebars::{
    Context, Handlebars, HelperDef, HelperResult, Output, PathAndJson, RenderContext, RenderError,
    RenderErrorReason, Renderable, ScopedJson,
};
use serde_json::Value;

use super::{
    Surroundings,
    library::{self, Failure, Given, Helper, Kind, OUTPUT_LEN_MAX, Slot},
    program::{PRINTED, Program, SUBJECT, Site},
};

/// Bytes of a value that count for a step.
const STEP_LEN: usize = 256;

/// What the helpers share; there is one while a template is rendered.
pub(super) type Stage = Arc<Mutex<Option<Rendering>>>;

pub(super) struct Rendering {
    pub program: Arc<Program>,
    pub environment: Arc<BTreeMap<String, String>>,
    pub around: Surroundings,
    pub steps: usize,
    /// See [`Renderer::limit_steps`](super::Renderer::limit_steps).
    pub steps_max: usize,
    /// By their sites, the calls that had no answer and what is to be said about it.
    pub missing: Vec<(usize, String)>,
}

/// The crate's registry with our helpers in place of its own, but for `each` and `with`.
pub(super) fn registry(stage: &Stage) -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    // Not even its name is taken.
    registry.unregister_helper("log");
    for helper in library::all().chain(library::conditions()) {
        registry.register_helper(helper.name, Box::new(Adapter { helper, stage: stage.clone() }));
    }
    registry.register_helper(PRINTED, Box::new(Printed { stage: stage.clone() }));
    registry.register_helper(SUBJECT, Box::new(Subject { stage: stage.clone() }));
    registry
}

/// One helper of the library.
struct Adapter {
    helper: &'static Helper,
    stage: Stage,
}

impl HelperDef for Adapter {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        call: &handlebars::Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        on(&self.stage, |rendering| {
            let slot = match rendering.run(self.helper, call) {
                Ok(slot) => slot,
                Err(Failure::Missing(reason)) => {
                    rendering.missing.push((site_number(call), reason));
                    return Ok(ScopedJson::Missing);
                }
                Err(failure) => return Err(failure),
            };
            match slot {
                Slot::Value(value) => Ok(ScopedJson::Derived(value.into_owned())),
                slot => Ok(ScopedJson::Derived(slot.value()?.into_owned())),
            }
        })
    }

    fn call<'reg: 'rc, 'rc>(
        &self,
        call: &handlebars::Helper<'rc>,
        registry: &'reg Handlebars<'reg>,
        values: &'rc Context,
        context: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        if !call.is_block() {
            return on(&self.stage, |rendering| write(out, &rendering.run(self.helper, call)?.text()?));
        }
        let holds = on(&self.stage, |rendering| match rendering.run(self.helper, call) {
            Ok(slot) => Ok(slot.get().is_some_and(|value| library::is_true(&value, false))),
            Err(Failure::Missing(_)) => Ok(false),
            Err(failure) => Err(failure),
        })?;
        let body = if holds { call.template() } else { call.inverse() };
        body.map_or(Ok(()), |body| body.render(registry, values, context, out))
    }
}

/// Prints its argument.
struct Printed {
    stage: Stage,
}

impl HelperDef for Printed {
    fn call<'reg: 'rc, 'rc>(
        &self,
        call: &handlebars::Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        on(&self.stage, |rendering| {
            rendering.step(0)?;
            let [_, value] = &call.params()[..] else { return Err(unprepared()) };
            match value.is_value_missing() {
                true => Err(Failure::Missing(rendering.reason(value, None))),
                false => write(out, &library::text_of(value.value())),
            }
        })
    }
}

/// Passes on what `each` or `with` is about, once it is known to be something for them.
struct Subject {
    stage: Stage,
}

impl HelperDef for Subject {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        call: &handlebars::Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        values: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        on(&self.stage, |rendering| {
            let program = rendering.program.clone();
            let Some((site, [subject])) = site_of(&program, call) else { return Err(unprepared()) };
            let Some(block) = &site.block else { return Err(unprepared()) };
            if subject.is_value_missing() {
                return match block.has_else {
                    true => Ok(ScopedJson::Missing),
                    false => Err(Failure::Missing(rendering.reason(subject, site.arguments[0]))),
                };
            }
            let turns = match subject.value() {
                Value::Array(items) => items.len(),
                Value::Object(members) => members.len(),
                value if block.is_loop && !block.has_else && library::is_true(value, false) => {
                    let name = subject.relative_path().map_or("the result", String::as_str);
                    let reason = format!("{name} is nothing to go through: expected a list or an object");
                    return Err(reason.into());
                }
                _ => 0,
            };
            rendering.step(0)?;
            rendering.steps_of(subject)?;
            if block.is_loop {
                rendering.steps(turns.saturating_mul(block.weight))?;
            }
            Ok(passed_on(subject, values.data()))
        })
    }
}

impl Rendering {
    /// Calls `helper` with the arguments that the crate has evaluated.
    fn run<'c>(&mut self, helper: &Helper, call: &'c handlebars::Helper<'_>) -> Result<Slot<'c>, Failure> {
        let program = self.program.clone();
        let Some((site, arguments)) = site_of(&program, call) else { return Err(unprepared()) };
        let mut slots = Vec::with_capacity(arguments.len());
        for (argument, inner) in arguments.iter().zip(&site.arguments) {
            self.steps_of(argument)?;
            slots.push(match argument.is_value_missing() {
                true => Slot::Missing(self.reason(argument, *inner)),
                false => Slot::Value(Cow::Borrowed(argument.value())),
            });
        }
        if helper.kind(1) == Kind::Query
            && let Some(argument) = arguments.first()
        {
            self.steps(size(argument.value()))?;
        }
        let named = slots.split_off(slots.len() - site.names.len());
        let named: Vec<_> = site.names.iter().copied().zip(named).collect();
        let slot = helper.run(&mut Given {
            arguments: &slots,
            named: &named,
            query: site.query.as_ref(),
            environment: &self.environment,
            around: &mut self.around,
        })?;
        let len = match &slot {
            Slot::Value(value) => value.as_str().map_or(0, str::len),
            _ => 0,
        };
        self.step(len)?;
        Ok(slot)
    }

    /// Why an argument is missing.
    fn reason(&self, argument: &PathAndJson<'_>, inner: Option<usize>) -> String {
        if let Some(path) = argument.relative_path() {
            return format!("{path} is missing");
        }
        let said = self.missing.iter().rev().find(|(site, _)| Some(*site) == inner);
        said.map_or_else(|| "a value is missing".to_owned(), |(_, reason)| reason.clone())
    }

    /// The crate has made a copy of a value that is none of the values it was given.
    fn steps_of(&mut self, argument: &PathAndJson<'_>) -> Result<(), Failure> {
        let is_copy = argument.context_path().is_none() && argument.try_get_constant_value().is_none();
        if is_copy { self.steps(size(argument.value())) } else { Ok(()) }
    }

    fn step(&mut self, len: usize) -> Result<(), Failure> {
        self.steps(1 + len / STEP_LEN)
    }

    fn steps(&mut self, steps: usize) -> Result<(), Failure> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > self.steps_max {
            return Err(format!("more than {} steps", self.steps_max).into());
        }
        Ok(())
    }
}

/// What is printed.
#[derive(Default)]
pub(super) struct Text(pub String);

impl Output for Text {
    fn write(&mut self, text: &str) -> Result<(), io::Error> {
        if self.0.len() + text.len() > OUTPUT_LEN_MAX {
            let reason = format!("the result has more than {} MiB", OUTPUT_LEN_MAX >> 20);
            return Err(io::Error::other(reason));
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// What an error says, for people.
pub(super) fn told(error: &RenderError) -> String {
    let reason = match error.reason() {
        RenderErrorReason::Other(reason) => reason.clone(),
        RenderErrorReason::IOError(error) => error.to_string(),
        RenderErrorReason::InvalidJsonIndex(name) => {
            format!("a list has no \"{name}\": expected an index from 0")
        }
        reason => reason.to_string(),
    };
    match (error.line_no, error.column_no) {
        (Some(line), Some(column)) => format!("line {line}, column {column}: {reason}"),
        _ => reason,
    }
}

fn on<T>(stage: &Stage, work: impl FnOnce(&mut Rendering) -> Result<T, Failure>) -> Result<T, RenderError> {
    // What a panic left behind is replaced by the next rendering.
    let mut rendering = stage.lock().unwrap_or_else(PoisonError::into_inner);
    let result = rendering.as_mut().map_or_else(|| Err(unprepared()), work);
    result.map_err(|(Failure::Missing(reason) | Failure::Other(reason))| {
        RenderErrorReason::Other(reason).into()
    })
}

/// Of the first argument, which the program has put there.
fn site_number(call: &handlebars::Helper<'_>) -> usize {
    let number = call.param(0).and_then(|number| number.value().as_u64());
    number.and_then(|number| usize::try_from(number).ok()).unwrap_or(usize::MAX)
}

fn site_of<'p, 'c, 'rc>(
    program: &'p Program,
    call: &'c handlebars::Helper<'rc>,
) -> Option<(&'p Site, &'c [PathAndJson<'rc>])> {
    let site = program.sites.get(site_number(call))?;
    let arguments = call.params().get(1..)?;
    (arguments.len() == site.arguments.len()).then_some((site, arguments))
}

/// Programs number all their sites; only another's template would come here.
fn unprepared() -> Failure {
    "the template was not prepared".to_owned().into()
}

/// The same value in the form in which the crate evaluated it, so that a loop need not copy the values it was given.
fn passed_on<'rc>(subject: &PathAndJson<'rc>, values: &'rc Value) -> ScopedJson<'rc> {
    if let Some(constant) = subject.try_get_constant_value() {
        return ScopedJson::Constant(constant);
    }
    let found = subject.context_path().and_then(|path| {
        let value = path.iter().try_fold(values, |value, segment| library::member(value, segment))?;
        Some(ScopedJson::Context(value, path.clone()))
    });
    found.unwrap_or_else(|| ScopedJson::Derived(subject.value().clone()))
}

/// In steps.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() / STEP_LEN,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + items.len() / 16,
        Value::Object(members) => members.values().map(size).sum::<usize>() + members.len() / 16,
        _ => 0,
    }
}

fn write(out: &mut dyn Output, text: &str) -> Result<(), Failure> {
    out.write(text).map_err(|error| error.to_string().into())
}
