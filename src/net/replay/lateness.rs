//! How late messages left, and what held them back.

use std::{sync::Arc, time::Duration};

use hdrhistogram::Histogram;

use crate::metrics::{self, Metrics};

/// What made a message late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The thread woke late, or was still busy with the message before.
    Scheduler,
    /// As many messages were unacknowledged as the target allows.
    FlowControl,
    /// The topic's message before, sent over another connection, was not confirmed yet.
    Causality,
    /// The kernel took no more: the target reads too slowly.
    Socket,
}

impl Cause {
    pub const ALL: [Self; 4] = [Self::Scheduler, Self::FlowControl, Self::Causality, Self::Socket];

    /// As printed in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::FlowControl => "flow control",
            Self::Causality => "causality",
            Self::Socket => "socket",
        }
    }
}

/// The lateness of all messages, and of each by what held it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    pub all: Quantiles,
    pub scheduler: Quantiles,
    pub flow_control: Quantiles,
    pub causality: Quantiles,
    pub socket: Quantiles,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Messages.
    pub count: u64,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// Gathers the lateness of messages, to three digits.
pub(super) struct LatenessRecorder {
    /// Nanoseconds, in the order of [`Cause::ALL`].
    by_cause: [Histogram<u64>; 4],
    /// Takes all of it, too.
    figures: Option<Arc<metrics::Histogram>>,
}

/// A day; later than that is as good as a day.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for LatenessRecorder {
    fn default() -> Self {
        let new = || {
            Histogram::new_with_max(LONGEST.as_nanos() as u64, 3)
                .expect("a maximum over 1 and 3 digits are valid")
        };
        Self { by_cause: std::array::from_fn(|_| new()), figures: None }
    }
}

impl LatenessRecorder {
    /// Has `metrics` told of what is recorded from now on.
    pub fn tell(&mut self, metrics: Option<&Arc<Metrics>>) {
        self.figures = metrics.map(|metrics| Arc::clone(metrics.replay_lateness()));
    }

    pub fn record(&mut self, cause: Cause, lateness: Duration) {
        if let Some(figures) = &self.figures {
            figures.observe(lateness, 1);
        }
        self.by_cause[cause as usize].saturating_record(lateness.min(LONGEST).as_nanos() as u64);
    }

    pub fn summary(&self) -> Lateness {
        let mut all = self.by_cause[0].clone();
        for histogram in &self.by_cause[1..] {
            all.add(histogram).expect("all have the same range");
        }
        let [scheduler, flow_control, causality, socket] = self.by_cause.each_ref().map(quantiles);
        Lateness { all: quantiles(&all), scheduler, flow_control, causality, socket }
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    if histogram.is_empty() {
        return Quantiles::default();
    }
    let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
    Quantiles {
        count: histogram.len(),
        p50: at(0.5),
        p99: at(0.99),
        max: Duration::from_nanos(histogram.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_summed_up_by_cause_and_for_all() {
        let mut recorder = LatenessRecorder::default();
        for micros in 1..=99 {
            recorder.record(Cause::Scheduler, Duration::from_micros(micros));
        }
        recorder.record(Cause::Causality, Duration::from_secs(1));
        let summary = recorder.summary();
        assert_eq!((summary.all.count, summary.scheduler.count, summary.causality.count), (100, 99, 1));
        assert!(summary.scheduler.max < Duration::from_micros(101));
        assert!(summary.all.max >= Duration::from_secs(1));
        assert_eq!(summary.socket, Quantiles::default());
    }
}
