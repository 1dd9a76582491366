//! A run of a scenario: what has been told of it, and what came of it in the end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{Stream, stream};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    net::{Crowd, MqttUrl},
    scenario::{Remembered, RunFigures, RunReport, RunVerdict, Scenario, StepResult},
};

/// What is told and kept for those who are slower than the run.
const TOLD_KEPT: usize = 16_384;

/// For a client that is told to disconnect, and for what was set in the server to be undone.
pub const ENDING_WAIT: Duration = Duration::from_secs(10);

/// What a run tells.
#[derive(Clone, Debug)]
pub enum Told {
    Started(Arc<StepResult>),
    Ended(Arc<StepResult>),
}

/// What somebody who listens hears of a run.
#[derive(Clone, Debug)]
pub enum Heard {
    Told(Told),
    /// So many things were told faster than they were taken.
    Missed(u64),
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
    has_ended: watch::Sender<bool>,
    /// Cancelled when it is to end where it stands.
    pub cancel: CancellationToken,
    /// As long as it goes on: what they have received is not kept for good.
    crowd: Mutex<Option<Crowd>>,
}

struct Course {
    /// As long as the run goes on.
    told: Option<broadcast::Sender<Told>>,
    steps: Remembered,
    figures: RunFigures,
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
            course: Mutex::new(Course {
                told: Some(broadcast::Sender::new(TOLD_KEPT)),
                steps: Remembered::default(),
                figures: RunFigures::default(),
                ended: None,
            }),
            has_ended: watch::Sender::new(false),
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

    pub fn has_ended(&self) -> bool {
        *self.has_ended.borrow()
    }

    pub async fn until_ended(&self) {
        // Its sender lives as long as we do.
        let _ = self.has_ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// What is told from now on, to the end.
    pub fn listen(&self) -> impl Stream<Item = Heard> + Send + Unpin + use<> {
        let receiver = self.course().told.as_ref().map(broadcast::Sender::subscribe);
        Box::pin(stream::unfold(receiver, |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(told) => Some((Heard::Told(told), Some(receiver))),
                Err(RecvError::Lagged(missed)) => Some((Heard::Missed(missed), Some(receiver))),
                Err(RecvError::Closed) => None,
            }
        }))
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
        (course.steps.steps(), course.steps.left_out())
    }

    pub fn begin_step(&self, step: StepResult) {
        self.course().tell(Told::Started(Arc::new(step)));
    }

    pub fn end_step(&self, step: StepResult) {
        let step = Arc::new(step);
        let mut course = self.course();
        course.figures.count(&step);
        course.steps.add(step.clone());
        course.tell(Told::Ended(step));
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
        {
            let mut course = self.course();
            course.ended = Some((SystemTime::now(), Arc::new(report)));
            course.told = None;
        }
        *self.crowd.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.has_ended.send_replace(true);
    }
}

impl Course {
    fn tell(&self, told: Told) {
        if let Some(sender) = &self.told {
            // Nobody may listen.
            let _ = sender.send(told);
        }
    }
}
