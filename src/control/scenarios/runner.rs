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
    undo::Undo,
};
use crate::{
    amount::counted,
    control::{Control, ControlError},
    net::{Crowd, HttpClient},
    scenario::{
        Action, NearestMessage, OnFailure, Rendering, RunVerdict, Scenario, Step, StepResult, StepStatus,
    },
};

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
    pub undo: Mutex<Undo>,
    pub was_unreachable: AtomicBool,
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

/// In which turns of which repetitions a step is done.
#[derive(Clone)]
pub struct Passes {
    /// `/2/1`
    pub path: String,
    pub innermost: u64,
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
            undo: Mutex::default(),
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
            *skipped = Some("the run was cancelled".to_owned());
        }
        let passes = Passes { path: String::new(), innermost: 1 };
        if let Some(why) = skipped {
            return self.skip(step, &passes, why);
        }
        let has_passed =
            match self.run.cancel.clone().run_until_cancelled_owned(self.step(step, &passes)).await {
                Some(has_passed) => has_passed,
                None => return self.skip(step, &passes, "the run was cancelled"),
            };
        if !has_passed && self.on_failure(step) == OnFailure::Stop {
            *skipped = Some(format!("step {} failed", step.number));
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
        if timeout(ENDING_WAIT, self.undo()).await.is_err() {
            tracing::warn!(run = %self.run.id, "what the scenario has set in the server may still be there");
        }
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

    fn skip(&self, step: &Step, passes: &Passes, why: &str) {
        let result =
            StepResult { text: why.to_owned(), status: StepStatus::Skipped, ..self.begun(step, passes) };
        self.run.end_step(result, false);
    }

    fn begun(&self, step: &Step, passes: &Passes) -> StepResult {
        StepResult {
            number: step.number.clone(),
            kind: step.kind.clone(),
            name: step.name.clone(),
            line: step.line,
            pass: passes.innermost,
            status: StepStatus::Passed,
            at: self.run.began.elapsed(),
            took: Duration::ZERO,
            text: String::new(),
            nearest: None,
        }
    }

    /// Does a step and tells of it; whether it has passed.
    fn step<'a>(
        &'a self,
        step: &'a Step,
        passes: &'a Passes,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(async move {
            let began = self.begun(step, passes);
            self.run.begin_step(began.clone());
            let outcome = self.act(step, passes).await;
            let status = if outcome.has_passed { StepStatus::Passed } else { StepStatus::Failed };
            let took = self.run.began.elapsed() - began.at;
            let result = StepResult { status, took, text: outcome.text, nearest: outcome.nearest, ..began };
            // Those within it were counted themselves.
            let is_leaf = !matches!(step.action, Action::Parallel(_) | Action::Repeat { .. });
            self.run.end_step(result, is_leaf && step.expects());
            outcome.has_passed
        })
    }

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
            Action::SetState { scope, key, value } => done(self.set_state(scope, key, value).await),
            Action::ResetState => done(self.reset_state()),
            Action::ExpectState { scope, test, within } => self.expect_state(scope, test, *within).await,
            Action::Expect(expectation) => self.expect(expectation, &key, passes).await,
            Action::Parallel(steps) => self.parallel(steps, passes).await,
            Action::Repeat { times, steps } => self.repeat(*times, steps, passes).await,
            Action::Wait(time) => {
                sleep(*time).await;
                Outcome::passed("")
            }
            Action::Record(spec) => done(self.record(spec).await),
            Action::StopRecording(name) => done(self.stop_recording(name).await),
            Action::Replay(spec) => self.replay(spec).await,
            Action::Http(request) => self.request(request).await,
            Action::Mark(label) => done(self.mark(label).await),
        }
    }

    async fn parallel(&self, steps: &[Step], passes: &Passes) -> Outcome {
        let all = steps.iter().map(|step| self.step(step, passes));
        let passed = futures_util::future::join_all(all).await;
        let failed = passed.iter().filter(|has_passed| !**has_passed).count();
        match failed {
            0 => Outcome::passed(""),
            failed => Outcome::failed(format!("{failed} of {} failed", counted(steps.len() as u64, "step"))),
        }
    }

    async fn repeat(&self, times: u32, steps: &[Step], passes: &Passes) -> Outcome {
        let mut failed = 0;
        for pass in 1..=u64::from(times) {
            let passes = Passes { path: format!("{}/{pass}", passes.path), innermost: pass };
            let mut stopped: Option<String> = None;
            for step in steps {
                if let Some(why) = &stopped {
                    self.skip(step, &passes, why);
                } else if !self.step(step, &passes).await {
                    failed += 1;
                    if self.on_failure(step) == OnFailure::Stop {
                        stopped = Some(format!("step {} failed", step.number));
                    }
                }
            }
            if stopped.is_some() {
                return Outcome::failed(format!("pass {pass} of {times} failed"));
            }
            // However short they are, others get their turn.
            tokio::task::yield_now().await;
        }
        match failed {
            0 => Outcome::passed(format!("{times} times")),
            failed => Outcome::failed(format!("{} failed", counted(failed, "step"))),
        }
    }
}
