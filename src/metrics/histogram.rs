//! How often something took how long.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counts of durations by size; written by any thread.
#[derive(Debug)]
pub struct Histogram {
    /// Upper ends of the buckets in nanoseconds, rising; one more bucket has what is longer.
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramView {
    /// Upper ends of the buckets in seconds.
    pub bounds: Vec<f64>,
    /// One more than `bounds`: the last is of what is beyond all of them. Not added up.
    pub counts: Vec<u64>,
    /// In seconds.
    pub sum: f64,
}

impl Histogram {
    /// `bounds` in nanoseconds, rising.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_nanos: AtomicU64::new(0),
        }
    }

    /// Counts `times` of `duration` each.
    pub fn observe(&self, duration: Duration, times: u64) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // A bound is in its bucket.
        let bucket = self.bounds.partition_point(|bound| *bound < nanos);
        self.counts[bucket].fetch_add(times, Relaxed);
        self.sum_nanos.fetch_add(nanos.saturating_mul(times), Relaxed);
    }

    pub fn view(&self) -> HistogramView {
        HistogramView {
            bounds: self.bounds.iter().map(|nanos| Duration::from_nanos(*nanos).as_secs_f64()).collect(),
            counts: self.counts.iter().map(|count| count.load(Relaxed)).collect(),
            sum: Duration::from_nanos(self.sum_nanos.load(Relaxed)).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_reaches_it() {
        let histogram = Histogram::new(&[1_000_000, 5_000_000]);
        histogram.observe(Duration::from_millis(1), 3);
        histogram.observe(Duration::from_nanos(1_000_001), 1);
        histogram.observe(Duration::from_secs(2), 2);
        let view = histogram.view();
        assert_eq!((view.bounds, view.counts), (vec![0.001, 0.005], vec![3, 1, 2]));
        assert_eq!(view.sum, 0.003 + 0.001000001 + 4.0);
    }
}
