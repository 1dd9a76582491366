//! Does the steps of a run, one after the other.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{
    run::{ENDING_WAIT, Run},
    server::done,
};
use crate::{
    amount::counted,
    control::{Control, ControlError},
    mock::Template,
    net::{Crowd, HttpClient},
    scenario::{
        Action, NearestMessage, OnFailure, Rendering, RunVerdict, Scenario, Step, StepResult, StepStatus,
    },
};

const CANCELLED: &str = "the run was cancelled";

/// Bytes of an HTTP answer's body that are looked at.
const BODY_KEPT: usize = 1 << 20;

/// Does the steps of a run.
pub struct Runner {
    pub control: Control,
    pub run: Arc<Run>,
    pub scenario: Arc<Scenario>,
    pub crowd: Crowd,
    pub rendering: Rendering,
    /// In which the clients of each group begin.
    pub firsts: Vec<usize>,
    pub http: HttpClient,
    pub allow_empty: bool,
    pub begun: Mutex<Begun>,
    pub has_taken_seed: AtomicBool,
    pub was_unreachable: AtomicBool,
}

/// What a run has begun and not ended.
#[derive(Default)]
pub struct Begun {
    /// Ids and names.
    pub recordings: Vec<(String, String)>,
    pub replays: Vec<String>,
}

/// What came of a step.
pub struct Outcome {
    pub has_passed: bool,
    pub text: String,
    pub nearest: Option<NearestMessage>,
}

impl Outcome {
    pub fn passed(text: impl Into<String>) -> Self {
        Self { has_passed: true, text: text.into(), nearest: None }
    }

    pub fn failed(text: impl Into<String>) -> Self {
        Self { has_passed: false, text: text.into(), nearest: None }
    }
}

impl From<ControlError> for Outcome {
    fn from(error: ControlError) -> Self {
        Self::failed(error.to_string())
    }
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Passed,
    Failed,
    /// With the run, before its own end.
    Cancelled,
}

/// In which turns of which repetitions a step is done.
#[derive(Clone)]
pub struct Passes {
    /// `/2/1`
    pub path: String,
    pub innermost: u64,
}

impl Passes {
    /// Of a repetition within.
    fn then(&self, pass: u64) -> Self {
        Self { path: format!("{}/{pass}", self.path), innermost: pass }
    }
}

impl Runner {
    pub fn new(
        control: Control,
        run: Arc<Run>,
        crowd: Crowd,
        scenario: Arc<Scenario>,
        rendering: Rendering,
        allow_empty: bool,
    ) -> Self {
        let mut firsts = Vec::new();
        let mut first = 0;
        for group in &scenario.groups {
            firsts.push(first);
            first += group.count as usize;
        }
        Self {
            control,
            crowd,
            run,
            scenario,
            rendering,
            firsts,
            http: HttpClient::new(BODY_KEPT),
            allow_empty,
            begun: Mutex::default(),
            has_taken_seed: AtomicBool::new(false),
            was_unreachable: AtomicBool::new(false),
        }
    }

    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Does all steps, and ends the run.
    pub async fn do_all(self) {
        let mut skipped = None;
        for step in &self.scenario.steps {
            self.do_one(step, &mut skipped).await;
        }
        self.finish().await;
    }

    /// Does a step, or skips it if one before has ended the scenario.
    pub async fn do_one(&self, step: &Step, skipped: &mut Option<String>) {
        if self.run.cancel.is_cancelled() {
            *skipped = Some(CANCELLED.to_owned());
        }
        let passes = Passes { path: String::new(), innermost: 1 };
        if let Some(why) = skipped {
            return self.skip(step, &passes, why);
        }
        match self.step(step, &passes).await {
            Ended::Failed if self.on_failure(step) == OnFailure::Stop => {
                *skipped = Some(format!("step {} failed", step.number));
            }
            Ended::Cancelled => *skipped = Some(CANCELLED.to_owned()),
            Ended::Passed | Ended::Failed => {}
        }
    }

    fn on_failure(&self, step: &Step) -> OnFailure {
        step.on_failure.unwrap_or(self.scenario.on_failure)
    }

    /// Ends the run: clients disconnect, what was set is as it was.
    pub async fn finish(self) {
        let is_cancelled = self.run.cancel.is_cancelled();
        // A broker that does not answer is left in the end.
        let _ = timeout(ENDING_WAIT, self.crowd.end()).await;
        if timeout(ENDING_WAIT, self.end_begun()).await.is_err() {
            tracing::warn!(run = %self.run.id, "recordings and replays of the scenario may go on");
        }
        self.control.put_back(&self.run.id);
        let figures = self.run.figures();
        let verdict = if is_cancelled {
            RunVerdict::Cancelled
        } else if figures.failed > 0 {
            let was_unreachable = self.was_unreachable.load(Ordering::Relaxed);
            match was_unreachable && self.crowd.connections() == 0 {
                true => RunVerdict::Unreachable,
                false => RunVerdict::Failed,
            }
        } else if figures.expectations == 0 && !self.allow_empty {
            RunVerdict::Nothing
        } else {
            RunVerdict::Passed
        };
        let report = self.run.report_of(verdict);
        tracing::info!(run = %report.id, verdict = report.verdict.name(), "scenario ended");
        self.run.end(report);
    }

    /// Tells of a step that is not begun, and of those within it.
    fn skip(&self, step: &Step, passes: &Passes, why: &str) {
        match &step.action {
            Action::Parallel(steps) => steps.iter().for_each(|inner| self.skip(inner, passes, why)),
            Action::Repeat { steps, .. } => {
                let first = passes.then(1);
                steps.iter().for_each(|inner| self.skip(inner, &first, why));
            }
            _ => {}
        }
        let result =
            StepResult { text: why.to_owned(), status: StepStatus::Skipped, ..self.start(step, passes) };
        self.run.end_step(result);
    }

    fn start(&self, step: &Step, passes: &Passes) -> StepResult {
        // Those within it are counted themselves.
        let is_block = matches!(step.action, Action::Parallel(_) | Action::Repeat { .. });
        StepResult {
            number: step.number.clone(),
            kind: step.kind.clone(),
            name: step.name.clone(),
            line: step.line,
            pass: passes.innermost,
            expects: !is_block && step.expects(),
            status: StepStatus::Passed,
            at: self.run.began.elapsed(),
            took: Duration::ZERO,
            text: String::new(),
            nearest: None,
        }
    }

    /// Does a step and tells of it.
    fn step<'a>(
        &'a self,
        step: &'a Step,
        passes: &'a Passes,
    ) -> Pin<Box<dyn Future<Output = Ended> + Send + 'a>> {
        Box::pin(async move {
            let start = self.start(step, passes);
            self.run.begin_step(start.clone());
            let outcome = match &step.action {
                Action::Parallel(steps) => self.parallel(steps, passes).await,
                Action::Repeat { times, steps } => self.repeat(*times, steps, passes).await,
                _ => self.run.cancel.run_until_cancelled(self.act(step, passes)).await,
            };
            let (ended, status) = match &outcome {
                Some(outcome) if outcome.has_passed => (Ended::Passed, StepStatus::Passed),
                Some(_) => (Ended::Failed, StepStatus::Failed),
                None => (Ended::Cancelled, StepStatus::Skipped),
            };
            let Outcome { text, nearest, .. } =
                outcome.unwrap_or_else(|| Outcome::failed("it was under way when the run was cancelled"));
            let took = self.run.began.elapsed() - start.at;
            self.run.end_step(StepResult { status, took, text, nearest, ..start });
            ended
        })
    }

    /// What a step does that is not made of others.
    async fn act(&self, step: &Step, passes: &Passes) -> Outcome {
        let key = format!("{}{}", step.number, passes.path);
        match &step.action {
            Action::Connect { clients, spread, within } => {
                self.connect(*clients, &key, *spread, *within).await
            }
            Action::Disconnect { clients, mode, spread } => {
                self.disconnect(*clients, &key, *mode, *spread).await
            }
            Action::Subscribe { clients, subscribe } => {
                self.subscribe(*clients, &key, passes, subscribe).await
            }
            Action::Unsubscribe { clients, unsubscribe } => {
                self.unsubscribe(*clients, &key, passes, unsubscribe).await
            }
            Action::Publish { clients, publish } => self.publish(*clients, &key, passes, publish).await,
            Action::Forget { clients } => self.forget(*clients),
            Action::SetRule(spec) => done(self.set_rule(spec)),
            Action::RemoveRule(id) => done(self.remove_rule(id)),
            Action::ResetChaos => done(self.reset_chaos().await),
            Action::Profile(name) => done(self.apply_profile(name)),
            Action::SetMock(spec) => done(self.set_mock(spec)),
            Action::RemoveMock(id) => done(self.remove_mock(id)),
            Action::ResetMocks => done(self.reset_mocks()),
            Action::SetState { scope, key, value } => done(self.set_state(scope, key, value)),
            Action::ResetState => done(self.reset_state()),
            Action::ExpectState { scope, test, within } => self.expect_state(scope, test, *within).await,
            Action::Expect(expectation) => self.expect(expectation, &key, passes).await,
            Action::Parallel(_) | Action::Repeat { .. } => unreachable!("they have been told apart"),
            Action::Wait(time) => {
                sleep(*time).await;
                Outcome::passed("")
            }
            Action::Record { name, spec } => {
                let name = name.as_ref().map(|name| self.name(name, &key, passes));
                match name.transpose() {
                    Ok(name) => done(self.record(name, spec).await),
                    Err(why) => Outcome::failed(why),
                }
            }
            Action::StopRecording(name) => {
                let name = name.as_ref().map(|name| self.name(name, &key, passes));
                match name.transpose() {
                    Ok(name) => done(self.stop_recording(name.as_deref()).await),
                    Err(why) => Outcome::failed(why),
                }
            }
            Action::Replay { recording, spec } => match self.name(recording, &key, passes) {
                Ok(recording) => self.replay(recording, spec).await,
                Err(why) => Outcome::failed(why),
            },
            Action::Http(request) => self.request(request).await,
            Action::Mark(label) => done(self.mark(label).await),
        }
    }

    fn name(&self, template: &Template, key: &str, passes: &Passes) -> Result<String, String> {
        let name = self.rendering.name(key, passes.innermost, template, jiff::Timestamp::now());
        name.map_err(|error| format!("the recording's name: {error}"))
    }

    /// `None`: the run was cancelled.
    async fn parallel(&self, steps: &[Step], passes: &Passes) -> Option<Outcome> {
        let all = steps.iter().map(|step| self.step(step, passes));
        let ended = futures_util::future::join_all(all).await;
        if ended.contains(&Ended::Cancelled) {
            return None;
        }
        let failed = ended.iter().filter(|ended| **ended == Ended::Failed).count();
        Some(match failed {
            0 => Outcome::passed(""),
            failed => Outcome::failed(format!("{failed} of {} failed", counted(steps.len() as u64, "step"))),
        })
    }

    /// `None`: the run was cancelled.
    async fn repeat(&self, times: u32, steps: &[Step], passes: &Passes) -> Option<Outcome> {
        let mut failed = 0;
        for pass in 1..=u64::from(times) {
            let passes = passes.then(pass);
            let mut stopped: Option<String> = None;
            for step in steps {
                if stopped.is_none() && self.run.cancel.is_cancelled() {
                    stopped = Some(CANCELLED.to_owned());
                }
                if let Some(why) = &stopped {
                    self.skip(step, &passes, why);
                    continue;
                }
                match self.step(step, &passes).await {
                    Ended::Passed => {}
                    Ended::Cancelled => stopped = Some(CANCELLED.to_owned()),
                    Ended::Failed => {
                        failed += 1;
                        if self.on_failure(step) == OnFailure::Stop {
                            stopped = Some(format!("step {} failed", step.number));
                        }
                    }
                }
            }
            if self.run.cancel.is_cancelled() {
                return None;
            }
            if stopped.is_some() {
                return Some(Outcome::failed(format!("pass {pass} of {times} failed")));
            }
            // However short they are, others get their turn.
            tokio::task::yield_now().await;
        }
        Some(match failed {
            0 => Outcome::passed(format!("{times} times")),
            failed => Outcome::failed(format!("{} failed", counted(failed, "step"))),
        })
    }
}
