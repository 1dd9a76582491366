//! Metrics of one name, as whoever exports them reads them.

use super::histogram::HistogramView;

/// Most values of one label that somebody else chooses, such as the ids of mocks: what is beyond is added up.
pub const LABEL_VALUES: usize = 1_000;

/// The value of a label for all beyond [`LABEL_VALUES`]; no id has a space.
const OTHERS: &str = "all others";

/// Metrics of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub samples: Vec<Sample>,
}

/// How a value changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    Gauge,
    /// Some of its samples only grow, others rise and fall.
    Untyped,
    Histogram,
}

/// A value and what distinguishes it from others of its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: Vec<Label>,
    pub value: Value,
}

/// A name and its value, which may be any text.
pub type Label = (&'static str, String);

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Count(u64),
    Number(f64),
    Histogram(HistogramView),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<HistogramView> for Value {
    fn from(view: HistogramView) -> Self {
        Self::Histogram(view)
    }
}

impl Kind {
    /// As the exposition format spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Untyped => "untyped",
            Self::Histogram => "histogram",
        }
    }
}

impl Family {
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help, samples: Vec::new() }
    }

    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { kind: Kind::Gauge, ..Self::counter(name, help) }
    }

    pub fn untyped(name: &'static str, help: &'static str) -> Self {
        Self { kind: Kind::Untyped, ..Self::counter(name, help) }
    }

    pub fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { kind: Kind::Histogram, ..Self::counter(name, help) }
    }

    /// With one value that has no labels.
    pub fn value(self, value: impl Into<Value>) -> Self {
        self.sample(Vec::new(), value)
    }

    /// With one more value.
    pub fn sample(mut self, labels: Vec<Label>, value: impl Into<Value>) -> Self {
        self.samples.push(Sample { labels, value: value.into() });
        self
    }

    /// With a value for each of a few known values of a label.
    pub fn each<V: Into<Value>>(
        self,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Self {
        let values = values.into_iter();
        values.fold(self, |family, (of, value)| family.sample(vec![(label, of.to_owned())], value))
    }

    /// With values for as many labels as others chose; beyond [`LABEL_VALUES`] they are added up under those that remain of
    /// `others`, the labels without the first.
    pub fn bounded(mut self, samples: impl IntoIterator<Item = (Vec<Label>, u64)>) -> Self {
        let mut first_values: Vec<String> = Vec::new();
        for (mut labels, count) in samples {
            if let Some((_, value)) = labels.first_mut() {
                let is_new = first_values.last() != Some(value);
                if is_new && first_values.len() >= LABEL_VALUES {
                    OTHERS.clone_into(value);
                } else if is_new {
                    first_values.push(value.clone());
                }
            }
            let is_beyond = labels.first().is_some_and(|(_, value)| value == OTHERS);
            let same = self.samples.iter_mut().rev().find(|sample| is_beyond && sample.labels == labels);
            match same.map(|sample| &mut sample.value) {
                Some(Value::Count(sum)) => *sum += count,
                _ => self.samples.push(Sample { labels, value: Value::Count(count) }),
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_most_values_of_a_label_is_added_up() {
        let labels =
            |n: usize, outcome: &str| vec![("webhook", format!("w{n}")), ("outcome", outcome.to_owned())];
        let of_one = |n| [(labels(n, "delivered"), 2), (labels(n, "failed"), 1)];
        let family = Family::counter("x_total", "X.").bounded((0..LABEL_VALUES + 10).flat_map(of_one));
        assert_eq!(family.samples.len(), 2 * LABEL_VALUES + 2);
        let [.., delivered, failed] = family.samples.as_slice() else { panic!("there are samples") };
        assert_eq!(delivered.labels, [("webhook", OTHERS.to_owned()), ("outcome", "delivered".to_owned())]);
        assert_eq!((&delivered.value, &failed.value), (&Value::Count(20), &Value::Count(10)));
    }
}
