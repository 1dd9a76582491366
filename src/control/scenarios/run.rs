//! A run of a scenario: what has been told of it, and what came of it in the end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    net::{Crowd, MqttUrl},
    scenario::{RunFigures, RunReport, RunVerdict, Scenario, StepResult, StepStatus},
};

/// Steps that passed and are remembered, and others beside them.
const STEPS_MAX: usize = 2_000;

/// For a client that is told to disconnect, and for what was set in the server to be undone.
pub const ENDING_WAIT: Duration = Duration::from_secs(10);

/// What a run tells.
#[derive(Clone, Debug)]
pub enum Told {
    Started(StepResult),
    Ended(StepResult),
}

/// A run, going on or ended.
pub struct Run {
    pub id: String,
    pub scenario: String,
    pub seed: u64,
    pub target: MqttUrl,
    pub clients: u64,
    pub started_at: SystemTime,
    pub began: Instant,
    course: Mutex<Course>,
    /// How many things were told, and whether the run has ended.
    progress: watch::Sender<(usize, bool)>,
    /// Cancelled when it is to end where it stands.
    pub cancel: CancellationToken,
    /// As long as it goes on: what they have received is not kept for good.
    crowd: Mutex<Option<Crowd>>,
}

#[derive(Default)]
struct Course {
    told: Vec<Told>,
    /// Of those that ended.
    kept: usize,
    left_out: u64,
    figures: RunFigures,
    /// The step that ended last, remembered or not.
    last: Option<StepResult>,
    ended: Option<(SystemTime, Arc<RunReport>)>,
}

impl Run {
    pub fn new(
        id: String,
        scenario: &Scenario,
        seed: u64,
        target: MqttUrl,
        crowd: Crowd,
        began: Instant,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            id,
            scenario: scenario.name.clone(),
            seed,
            target,
            clients: scenario.clients(),
            started_at: SystemTime::now(),
            began,
            course: Mutex::default(),
            progress: watch::Sender::new((0, false)),
            cancel,
            crowd: Mutex::new(Some(crowd)),
        }
    }

    pub fn crowd(&self) -> Option<Crowd> {
        // Whole between any two calls.
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        // What is told is whole between any two calls.
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn progress(&self) -> watch::Receiver<(usize, bool)> {
        self.progress.subscribe()
    }

    pub fn has_ended(&self) -> bool {
        self.course().ended.is_some()
    }

    pub async fn until_ended(&self) {
        // Its sender lives as long as we do.
        let _ = self.progress().wait_for(|(_, ended)| *ended).await;
    }

    /// What was told from the `position`-th thing on.
    pub fn told(&self, position: usize) -> Vec<Told> {
        self.course().told.get(position..).map(<[Told]>::to_vec).unwrap_or_default()
    }

    pub fn report(&self) -> Option<(SystemTime, Arc<RunReport>)> {
        self.course().ended.clone()
    }

    pub fn figures(&self) -> RunFigures {
        if let Some((_, report)) = self.report() {
            return report.figures;
        }
        let crowd = self.crowd();
        let (sent, received) = crowd.map_or((0, 0), |crowd| (crowd.sent(), crowd.inbox().count()));
        RunFigures { clients: self.clients, sent, received, ..self.course().figures }
    }

    pub fn took(&self) -> Duration {
        self.report().map_or_else(|| self.began.elapsed(), |(_, report)| report.took)
    }

    /// Steps that have ended, as far as they are remembered, and how many more there are.
    pub fn steps(&self) -> (Vec<StepResult>, u64) {
        let course = self.course();
        let ended = course.told.iter().filter_map(|told| match told {
            Told::Ended(result) => Some(result.clone()),
            Told::Started(_) => None,
        });
        (ended.collect(), course.left_out)
    }

    pub fn last_ended(&self) -> Option<StepResult> {
        self.course().last.clone()
    }

    pub fn tell(&self, told: Told, expects: bool) {
        let length = {
            let mut course = self.course();
            if let Told::Ended(result) = &told {
                let figures = &mut course.figures;
                match result.status {
                    StepStatus::Passed => figures.passed += 1,
                    StepStatus::Failed => figures.failed += 1,
                    StepStatus::Skipped => figures.skipped += 1,
                }
                figures.expectations += u64::from(expects && result.status != StepStatus::Skipped);
                course.last = Some(result.clone());
            }
            let limit = match &told {
                Told::Ended(result) if result.status != StepStatus::Passed => 2 * STEPS_MAX,
                _ => STEPS_MAX,
            };
            let is_end = matches!(told, Told::Ended(_));
            if course.kept >= limit {
                course.left_out += u64::from(is_end);
                return;
            }
            course.kept += usize::from(is_end);
            course.told.push(told);
            course.told.len()
        };
        self.progress.send_replace((length, false));
    }

    /// Ends it because what does its steps has failed inside.
    pub async fn abandon(&self) {
        if self.has_ended() {
            return;
        }
        if let Some(crowd) = self.crowd() {
            let _ = timeout(ENDING_WAIT, crowd.end()).await;
        }
        self.end(self.report_of(RunVerdict::Failed));
    }

    pub fn report_of(&self, verdict: RunVerdict) -> RunReport {
        let (steps, left_out) = self.steps();
        RunReport {
            id: self.id.clone(),
            scenario: self.scenario.clone(),
            seed: self.seed,
            verdict,
            steps,
            left_out,
            figures: self.figures(),
            took: self.began.elapsed(),
        }
    }

    pub fn end(&self, report: RunReport) {
        *self.crowd.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let length = {
            let mut course = self.course();
            course.ended = Some((SystemTime::now(), Arc::new(report)));
            course.told.len()
        };
        self.progress.send_replace((length, true));
    }
}

/// What has been told of a run and what will be, to its end.
pub fn follow(run: Arc<Run>) -> impl Stream<Item = Told> + Send {
    let progress = run.progress();
    stream::unfold(
        (run, progress, 0, Vec::new().into_iter()),
        |(run, mut progress, mut position, mut waiting)| async move {
            loop {
                if let Some(told) = waiting.next() {
                    return Some((told, (run, progress, position, waiting)));
                }
                let (_, has_ended) = *progress.borrow_and_update();
                let told = run.told(position);
                position += told.len();
                if told.is_empty() {
                    if has_ended {
                        return None;
                    }
                    // Its sender lives as long as the run.
                    let _ = progress.changed().await;
                }
                waiting = told.into_iter();
            }
        },
    )
}
