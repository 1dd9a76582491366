//! [`Family`]s as OpenTelemetry's observable instruments: read when they are exported, and counted nowhere else.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, metrics::Meter};
use tokio::runtime::Handle;

use crate::metrics::{Family, Kind, Label, Metrics, Value};

/// The instruments are asked one after the other: for so long what was read for the first is good for all.
const ONE_READING: Duration = Duration::from_millis(50);

/// Registers an instrument for each family that there is.
///
/// They have the names that they have for Prometheus, so that a name is the same wherever it is read. No instrument takes a
/// histogram that was counted elsewhere: it is three of them, as it is for Prometheus, `_bucket` by `le`, `_sum` and `_count`.
pub async fn register(meter: &Meter, metrics: &Arc<Metrics>) {
    let families = metrics.families().await;
    let reading = Arc::new(Reading {
        metrics: Arc::clone(metrics),
        runtime: Handle::current(),
        last: Mutex::new((Instant::now(), Arc::new(Vec::new()))),
    });
    for family in &families {
        let (name, help) = (family.name, family.help);
        match family.kind {
            Kind::Counter => add(meter, &reading, name, name, help, true, Part::Whole),
            // What rises and falls is no monotonic sum.
            Kind::Gauge | Kind::Untyped => add(meter, &reading, name, name, help, false, Part::Whole),
            Kind::Histogram => {
                for (suffix, part) in [("bucket", Part::Buckets), ("sum", Part::Sum), ("count", Part::Count)]
                {
                    add(meter, &reading, name, format!("{name}_{suffix}"), help, true, part);
                }
            }
        }
    }
}

/// What of a family an instrument shows.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    Buckets,
    Sum,
    Count,
}

fn add(
    meter: &Meter,
    reading: &Arc<Reading>,
    family: &'static str,
    name: impl Into<std::borrow::Cow<'static, str>>,
    help: &'static str,
    is_counter: bool,
    part: Part,
) {
    let reading = Arc::clone(reading);
    let observe = move |tell: &mut dyn FnMut(f64, &[KeyValue])| {
        let families = reading.families();
        let samples = families.iter().filter(|found| found.name == family).flat_map(|found| &found.samples);
        for sample in samples {
            observe_part(&sample.labels, &sample.value, part, tell);
        }
    };
    match is_counter {
        true => {
            let builder = meter.f64_observable_counter(name).with_description(help).with_unit(unit(family));
            builder.with_callback(move |to| observe(&mut |value, labels| to.observe(value, labels))).build();
        }
        false => {
            let builder = meter.f64_observable_gauge(name).with_description(help).with_unit(unit(family));
            builder.with_callback(move |to| observe(&mut |value, labels| to.observe(value, labels))).build();
        }
    }
}

fn observe_part(labels: &[Label], value: &Value, part: Part, tell: &mut dyn FnMut(f64, &[KeyValue])) {
    let mut attributes: Vec<KeyValue> =
        labels.iter().map(|(name, value)| KeyValue::new(*name, value.clone())).collect();
    match (value, part) {
        (Value::Count(count), _) => tell(*count as f64, &attributes),
        (Value::Number(number), _) => tell(*number, &attributes),
        (Value::Histogram(view), Part::Sum) => tell(view.sum, &attributes),
        (Value::Histogram(view), Part::Count) => tell(view.counts.iter().sum::<u64>() as f64, &attributes),
        (Value::Histogram(view), _) => {
            let bounds = view.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            let mut up_to = 0;
            for (bound, count) in bounds.zip(&view.counts) {
                up_to += count;
                attributes.push(KeyValue::new("le", bound));
                tell(up_to as f64, &attributes);
                attributes.pop();
            }
        }
    }
}

/// All families at one moment, for the instruments that are asked then.
struct Reading {
    metrics: Arc<Metrics>,
    runtime: Handle,
    last: Mutex<(Instant, Arc<Vec<Family>>)>,
}

impl Reading {
    /// Called on the exporter's own thread, which may wait for the runtime.
    fn families(&self) -> Arc<Vec<Family>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.1.is_empty() || last.0.elapsed() > ONE_READING {
            *last = (Instant::now(), Arc::new(self.runtime.block_on(self.metrics.families())));
        }
        Arc::clone(&last.1)
    }
}

fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    fn observed(family: &Family, part: Part) -> Vec<String> {
        let mut lines = Vec::new();
        for sample in &family.samples {
            observe_part(&sample.labels, &sample.value, part, &mut |value, labels| {
                let labels: Vec<_> =
                    labels.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
                lines.push(format!("{{{}}} {value}", labels.join(",")));
            });
        }
        lines
    }

    #[test]
    fn a_histogram_is_what_it_is_for_prometheus() {
        let histogram = Histogram::new(&[1_000_000, 5_000_000]);
        histogram.observe(Duration::from_millis(1), 3);
        histogram.observe(Duration::from_secs(2), 2);
        let family = Family::histogram("c", "C.").sample(vec![("way", "up".to_owned())], histogram.view());
        let buckets = ["{way=up,le=0.001} 3", "{way=up,le=0.005} 3", "{way=up,le=+Inf} 5"];
        assert_eq!(observed(&family, Part::Buckets), buckets);
        assert_eq!(observed(&family, Part::Count), ["{way=up} 5"]);
        assert_eq!(observed(&family, Part::Sum), ["{way=up} 4.003"]);
    }

    #[test]
    fn units_are_told_by_names() {
        assert_eq!(["a_bytes_total", "b_seconds", "c_total"].map(unit), ["By", "s", ""]);
    }
}
