//! The rpcs of `Scenarios`: what many clients do, and what they are expected to see.

mod changes;
mod clients;
mod run;
mod runner;
mod server;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;

pub use self::changes::Changes;
use self::{
    clients::members,
    run::{Heard, Run, Told},
    runner::Runner,
};
use super::{
    Control, ControlError, ControlStream, blocking,
    fields::Fields,
    page::PageRequest,
    pb::{
        self, drive_scenario_request::Request as Asked, drive_scenario_response::Response as Answered,
        scenario_event::Event,
    },
    time,
};
use crate::{
    field::BadField,
    net::{Crowd, MqttUrl},
    scenario::{NearestMessage, Problem, Rendering, RunVerdict, Scenario, StepResult, StepStatus},
};

/// Runs that ended and are remembered.
const ENDED_MAX: usize = 100;

/// For a driver to take an answer, once its run is cancelled.
const DRIVER_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// For runs to end when the server does.
const RUNS_GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// The runs of this process, by id and so in the order they were begun.
#[derive(Default)]
pub struct RunList {
    by_id: Mutex<BTreeMap<String, Arc<Run>>>,
}

impl RunList {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Run>>> {
        // A map is whole between any two calls.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Run>, ControlError> {
        let found = self.lock().get(&id.to_ascii_uppercase()).cloned();
        found.ok_or_else(|| ControlError::RunNotFound { id: id.to_owned() })
    }

    fn add(&self, run: Arc<Run>, running_max: usize) -> Result<(), ControlError> {
        let mut runs = self.lock();
        let running = runs.values().filter(|run| !run.has_ended()).count();
        if running >= running_max {
            return Err(ControlError::TooManyRuns { limit: running_max });
        }
        let ended: Vec<String> =
            runs.values().filter(|run| run.has_ended()).map(|run| run.id.clone()).collect();
        for old in ended.iter().take((ended.len() + 1).saturating_sub(ENDED_MAX)) {
            runs.remove(old);
        }
        runs.insert(run.id.clone(), run);
        Ok(())
    }
}

impl Control {
    pub async fn validate_scenario(
        &self,
        request: pb::ValidateScenarioRequest,
    ) -> Result<pb::ValidateScenarioResponse, ControlError> {
        let text = text(&request.scenario)?;
        Ok(match blocking(move || Ok(Scenario::read(&text))).await? {
            Ok(scenario) => {
                let mut steps = 0;
                scenario.steps.iter().for_each(|step| step.walk(&mut |_| steps += 1));
                pb::ValidateScenarioResponse {
                    valid: true,
                    problems: Vec::new(),
                    clients: scenario.clients(),
                    steps,
                    expects: scenario.expects(),
                    name: scenario.name,
                }
            }
            Err(problems) => pb::ValidateScenarioResponse {
                problems: problems.into_iter().map(shown_problem).collect(),
                ..Default::default()
            },
        })
    }

    pub async fn run_scenario(
        &self,
        request: pb::RunScenarioRequest,
    ) -> Result<ControlStream<pb::ScenarioEvent>, ControlError> {
        let text = text(&request.scenario)?;
        let scenario = blocking(move || Scenario::read(&text).map_err(refused)).await?;
        let runner = self.runner(scenario, &request)?;
        let run = runner.run.clone();
        let heard = run.listen();
        // A task of its own, so that a listener who leaves does not end it.
        watch_over(self.clone(), run.clone(), runner.do_all());
        let started = stream::once(std::future::ready(Event::Started(shown(&run))));
        let told = heard.map(|heard| match heard {
            Heard::Told(Told::Started(step)) => {
                Event::StepStarted(pb::ScenarioStep { status: 0, took: None, ..shown_step(&step) })
            }
            Heard::Told(Told::Ended(step)) => Event::StepEnded(shown_step(&step)),
            Heard::Missed(missed) => Event::Gap(pb::Gap { missed }),
        });
        let finished = stream::once(async move { Event::Finished(shown(&run)) });
        // Not `until_stopped`: a run that the stop cancels is told to its end.
        let events = started.chain(told).chain(finished);
        Ok(Box::pin(events.map(|event| Ok(pb::ScenarioEvent { event: Some(event) }))))
    }

    pub async fn drive_scenario<E: Send + 'static>(
        &self,
        requests: impl Stream<Item = Result<pb::DriveScenarioRequest, E>> + Send + Unpin + 'static,
    ) -> Result<ControlStream<pb::DriveScenarioResponse>, ControlError> {
        let mut requests = requests;
        let first = match requests.next().await {
            Some(Ok(first)) => first.request,
            Some(Err(_)) | None => None,
        };
        let Some(Asked::Start(start)) = first else {
            return Err(ControlError::bad_field("request", "is start, first of all"));
        };
        let text = text(&start.scenario)?;
        let scenario = blocking(move || Scenario::read_header(&text).map_err(refused)).await?;
        let runner = self.runner(scenario, &start)?;
        // One answer is taken before the next step is done.
        let (answers, told) = mpsc::channel(1);
        watch_over(self.clone(), runner.run.clone(), drive(runner, requests, answers));
        Ok(Box::pin(
            ReceiverStream::new(told).map(|answer| Ok(pb::DriveScenarioResponse { response: Some(answer) })),
        ))
    }

    pub async fn get_run(&self, request: pb::GetRunRequest) -> Result<pb::ScenarioRun, ControlError> {
        Ok(shown_whole(&*self.inner.runs.find(&request.id)?))
    }

    pub async fn list_runs(
        &self,
        request: pb::ListRunsRequest,
    ) -> Result<pb::ListRunsResponse, ControlError> {
        let mut fields = Fields::new();
        let verdicts: Vec<pb::ScenarioVerdict> = fields.choices("verdicts", &request.verdicts);
        fields.finish()?;
        let page = PageRequest::new("runs", request.page_size, &request.page_token)?;
        let mut runs: Vec<_> = self.inner.runs.lock().values().map(|run| shown(run)).collect();
        runs.retain(|run| verdicts.is_empty() || verdicts.contains(&run.verdict()));
        let page = page.cut(runs, |run| run.id.clone(), |run| run);
        Ok(pb::ListRunsResponse { runs: page.items, next_page_token: page.next, total_size: page.total })
    }

    pub async fn cancel_run(&self, request: pb::CancelRunRequest) -> Result<pb::ScenarioRun, ControlError> {
        let run = self.inner.runs.find(&request.id)?;
        run.cancel.cancel();
        run.until_ended().await;
        Ok(shown_whole(&run))
    }

    pub async fn get_run_report(
        &self,
        request: pb::GetRunReportRequest,
    ) -> Result<pb::GetRunReportResponse, ControlError> {
        let mut fields = Fields::new();
        let format: Option<pb::RunReportFormat> = fields.choice("format", request.format);
        fields.finish()?;
        let run = self.inner.runs.find(&request.id)?;
        let Some((_, report)) = run.report() else {
            return Err(ControlError::RunRunning { id: run.id.clone() });
        };
        let (report, content_type) = match format.unwrap_or_default() {
            pb::RunReportFormat::Json => (report.json().to_string(), "application/json"),
            pb::RunReportFormat::Junit => (report.junit(), "application/xml"),
            pb::RunReportFormat::Text | pb::RunReportFormat::Unspecified => (report.text(), "text/plain"),
        };
        Ok(pb::GetRunReportResponse { report, content_type: content_type.to_owned() })
    }

    /// Cancels all that go on, and waits for their end.
    pub(super) async fn cancel_runs(&self) {
        let runs: Vec<_> = self.inner.runs.lock().values().cloned().collect();
        for run in &runs {
            run.cancel.cancel();
        }
        let all_ended = async {
            for run in runs {
                run.until_ended().await;
            }
        };
        if tokio::time::timeout(RUNS_GRACE, all_ended).await.is_err() {
            tracing::warn!("not all runs of scenarios ended in time");
        }
    }

    fn runner(&self, scenario: Scenario, request: &pb::RunScenarioRequest) -> Result<Runner, ControlError> {
        if self.parts().stop.is_cancelled() {
            return Err(ControlError::Stopping);
        }
        let limits = self.parts().scenarios;
        if scenario.clients() > limits.clients {
            let (clients, limit) = (scenario.clients(), limits.clients);
            let what = format!("has {clients} clients; at most {limit} are allowed here (scenarios.clients)");
            return Err(ControlError::bad_field("scenario.clients", what));
        }
        let target = self.target_of(&scenario, &request.target)?;
        // As short as those of chaos, so that every program that reads JSON keeps all of its digits.
        let seed = request.seed.or(scenario.seed).unwrap_or_else(|| ulid::Ulid::new().0 as u64 >> 11);
        let id = ulid::Ulid::new().to_string();
        let rendering = Rendering::new(&scenario.name, &id, seed);
        let members = members(&scenario, &rendering)
            .map_err(|what| ControlError::bad_field("scenario.clients", what))?;
        let began = Instant::now();
        let crowd = Crowd::new(target.clone(), members, limits.inbox_bytes, began);
        let cancel = self.parts().stop.child_token();
        let run = Arc::new(Run::new(id, &scenario, seed, target, crowd.clone(), began, cancel));
        self.inner.runs.add(run.clone(), limits.runs)?;
        tracing::info!(run = %run.id, scenario = %run.scenario, seed, "scenario begun");
        Ok(Runner::new(self.clone(), run, crowd, Arc::new(scenario), rendering, request.allow_empty))
    }

    /// Where the clients connect.
    fn target_of(&self, scenario: &Scenario, asked: &str) -> Result<MqttUrl, ControlError> {
        let (field, text) = match (asked, &scenario.target, self.parts().addresses.mqtt) {
            ("", None, Some(own)) => ("target", MqttUrl::of_listener(own).to_string()),
            ("", None, None) => {
                let what = "is required: no MQTT server runs in this process";
                return Err(ControlError::bad_field("target", what));
            }
            ("", Some(target), _) => ("scenario.target", target.clone()),
            (asked, ..) => ("target", asked.to_owned()),
        };
        let mut fields = Fields::new();
        let url = self.broker_url(&mut fields, field, &text);
        fields.finish()?;
        url.ok_or_else(|| ControlError::bad_field(field, "cannot be used"))
    }
}

/// Has a run done, and ended whatever becomes of that.
fn watch_over(control: Control, run: Arc<Run>, doing: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(panic) = tokio::spawn(doing).await {
            tracing::error!(run = %run.id, %panic, "the run failed inside");
            control.put_back(&run.id);
            run.abandon().await;
        }
    });
}

/// Does steps as they come, and tells what came of each.
async fn drive<E>(
    runner: Runner,
    mut requests: impl Stream<Item = Result<pb::DriveScenarioRequest, E>> + Unpin,
    answers: mpsc::Sender<Answered>,
) {
    let run = runner.run.clone();
    let mut heard = run.listen();
    let mut number = 0;
    let mut skipped = None;
    let mut is_heard = answers.send(Answered::Started(shown(&run))).await.is_ok();
    while is_heard {
        let request = tokio::select! {
            () = run.cancel.cancelled() => break,
            request = requests.next() => request,
        };
        let step = match request {
            Some(Ok(request)) => request.request,
            // Whoever breaks off is not there any more.
            Some(Err(_)) => {
                run.cancel.cancel();
                break;
            }
            None => break,
        };
        let problems = match step {
            Some(Asked::End(())) => break,
            Some(Asked::Step(step)) => {
                number += 1;
                let read = std::str::from_utf8(&step).map_err(|_| vec![problem("", "is no UTF-8")]);
                match read.and_then(|text| runner.scenario().read_step(number, text)) {
                    Ok(step) => {
                        let mut doing = std::pin::pin!(runner.do_one(&step, &mut skipped));
                        let mut is_done = false;
                        while is_heard {
                            // First what was told: a long `repeat` waits for whoever listens.
                            let answer = tokio::select! {
                                biased;
                                Some(heard) = heard.next() => answer(heard),
                                () = std::future::ready(()), if is_done => break,
                                () = &mut doing, if !is_done => {
                                    is_done = true;
                                    continue;
                                }
                                () = answers.closed() => {
                                    is_heard = false;
                                    continue;
                                }
                            };
                            if let Some(answer) = answer {
                                is_heard = tell(&run, &answers, answer).await;
                            }
                        }
                        if !is_done {
                            // What is under way is told of, though to the report alone.
                            run.cancel.cancel();
                            doing.await;
                        }
                        continue;
                    }
                    Err(problems) => problems,
                }
            }
            Some(Asked::Start(_)) => vec![problem("start", "comes first, and once")],
            None => vec![problem("", "says none of start, step and end")],
        };
        let refused = pb::ScenarioStepRefused {
            number: number.to_string(),
            problems: problems.into_iter().map(shown_problem).collect(),
        };
        is_heard &= tell(&run, &answers, Answered::Refused(refused)).await;
    }
    if !is_heard {
        run.cancel.cancel();
    }
    runner.finish().await;
    // Nobody may be there.
    let _ = answers.send(Answered::Finished(shown(&run))).await;
}

/// Whether the driver has taken it: one that does not, once the run is cancelled, is waited for no longer.
async fn tell(run: &Run, answers: &mpsc::Sender<Answered>, answer: Answered) -> bool {
    let is_stuck = async {
        run.cancel.cancelled().await;
        tokio::time::sleep(DRIVER_WAIT).await;
    };
    tokio::select! {
        sent = answers.send(answer) => sent.is_ok(),
        () = is_stuck => false,
    }
}

/// What a driver is told of it.
fn answer(heard: Heard) -> Option<Answered> {
    match heard {
        Heard::Told(Told::Started(_)) => None,
        Heard::Told(Told::Ended(step)) => Some(Answered::StepEnded(shown_step(&step))),
        Heard::Missed(missed) => Some(Answered::Gap(pb::Gap { missed })),
    }
}

fn problem(path: &str, reason: &str) -> Problem {
    Problem { path: path.to_owned(), line: 1, column: 1, reason: reason.to_owned() }
}

fn text(scenario: &[u8]) -> Result<String, ControlError> {
    if scenario.is_empty() {
        return Err(ControlError::bad_field("scenario", "is required"));
    }
    std::str::from_utf8(scenario)
        .map(str::to_owned)
        .map_err(|error| ControlError::bad_field("scenario", format!("is no UTF-8: {error}")))
}

fn refused(problems: Vec<Problem>) -> ControlError {
    let field = |problem: Problem| {
        let dot = if problem.path.is_empty() || problem.path.starts_with('[') { "" } else { "." };
        BadField {
            path: format!("scenario{dot}{}", problem.path),
            what: format!("{} (line {}, column {})", problem.reason, problem.line, problem.column),
        }
    };
    ControlError::BadFields(problems.into_iter().map(field).collect())
}

// ---- what is shown

fn shown_problem(problem: Problem) -> pb::ScenarioProblem {
    let Problem { path, line, column, reason } = problem;
    pb::ScenarioProblem { path, line, column, reason }
}

fn shown(run: &Run) -> pb::ScenarioRun {
    // Before the rest, so that an end is never shown without what led to it.
    let report = run.report();
    let figures = run.figures();
    let verdict = report.as_ref().map(|(_, report)| report.verdict);
    pb::ScenarioRun {
        id: run.id.clone(),
        scenario: run.scenario.clone(),
        seed: run.seed,
        target: run.target.to_string(),
        verdict: match verdict {
            None => pb::ScenarioVerdict::Unspecified,
            Some(RunVerdict::Passed) => pb::ScenarioVerdict::Passed,
            Some(RunVerdict::Failed) => pb::ScenarioVerdict::Failed,
            Some(RunVerdict::Unreachable | RunVerdict::Lost) => pb::ScenarioVerdict::Unreachable,
            Some(RunVerdict::Nothing) => pb::ScenarioVerdict::Nothing,
            Some(RunVerdict::Cancelled) => pb::ScenarioVerdict::Cancelled,
        }
        .into(),
        exit_code: verdict.map(|verdict| verdict.exit_code().into()),
        started_at: Some(time::timestamp(run.started_at)),
        ended_at: report.as_ref().map(|(at, _)| time::timestamp(*at)),
        took: Some(time::duration(run.took())),
        clients: figures.clients,
        sent: figures.sent,
        received: figures.received,
        passed: figures.passed,
        failed: figures.failed,
        skipped: figures.skipped,
        expectations: figures.expectations,
        steps: Vec::new(),
        left_out: 0,
        summary: report.map(|(_, report)| report.summary()).unwrap_or_default(),
    }
}

fn shown_whole(run: &Run) -> pb::ScenarioRun {
    let shown = shown(run);
    let (steps, left_out) = run.steps();
    pb::ScenarioRun { steps: steps.iter().map(shown_step).collect(), left_out, ..shown }
}

fn shown_step(step: &StepResult) -> pb::ScenarioStep {
    pb::ScenarioStep {
        number: step.number.clone(),
        kind: step.kind.clone(),
        name: step.name.clone(),
        line: step.line,
        pass: step.pass,
        expects: step.expects,
        status: match step.status {
            StepStatus::Passed => pb::ScenarioStepStatus::Passed,
            StepStatus::Failed => pb::ScenarioStepStatus::Failed,
            StepStatus::Skipped => pb::ScenarioStepStatus::Skipped,
        }
        .into(),
        at: Some(time::duration(step.at)),
        took: Some(time::duration(step.took)),
        text: step.text.clone(),
        nearest: step.nearest.clone().map(shown_message),
    }
}

fn shown_message(message: NearestMessage) -> pb::ScenarioMessage {
    pb::ScenarioMessage {
        client: message.client,
        at: Some(time::duration(message.at)),
        topic: message.topic,
        payload: message.payload,
        qos: message.qos.into(),
        retain: message.retain,
        differences: message.differences,
    }
}
