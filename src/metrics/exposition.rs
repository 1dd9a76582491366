//! The Prometheus text exposition format, version 0.0.4.

use std::fmt::{self, Write as _};

use super::{
    family::{Family, Label, Value},
    histogram::HistogramView,
};

/// All of `families`, those without a sample too, so that their names and types are known.
pub fn exposition(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", Shown(family));
    }
    text
}

struct Shown<'a>(&'a Family);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Family { name, kind, help, samples } = self.0;
        writeln!(f, "# HELP {name} {help}\n# TYPE {name} {}", kind.name())?;
        for sample in samples {
            let labels = Labels(&sample.labels, None);
            match &sample.value {
                Value::Count(count) => writeln!(f, "{name}{labels} {count}")?,
                Value::Number(number) => writeln!(f, "{name}{labels} {number}")?,
                Value::Histogram(view) => write_histogram(f, name, &sample.labels, view)?,
            }
        }
        Ok(())
    }
}

fn write_histogram(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    labels: &[Label],
    view: &HistogramView,
) -> fmt::Result {
    let mut count = 0;
    let bounds = view.bounds.iter().copied().chain([f64::INFINITY]);
    for (bound, in_bucket) in bounds.zip(&view.counts) {
        count += in_bucket;
        writeln!(f, "{name}_bucket{} {count}", Labels(labels, Some(bound)))?;
    }
    let labels = Labels(labels, None);
    writeln!(f, "{name}_sum{labels} {}\n{name}_count{labels} {count}", view.sum)
}

/// Labels in braces, if there are any; a bucket's end is the last.
struct Labels<'a>(&'a [Label], Option<f64>);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(labels, bound) = self;
        if labels.is_empty() && bound.is_none() {
            return Ok(());
        }
        f.write_char('{')?;
        let mut comma = "";
        for (name, value) in *labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{comma}{name}=\"{value}\"")?;
            comma = ",";
        }
        match bound {
            Some(bound) if bound.is_infinite() => write!(f, "{comma}le=\"+Inf\"}}"),
            Some(bound) => write!(f, "{comma}le=\"{bound}\"}}"),
            None => f.write_char('}'),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;

    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn families_of_every_kind_are_printed() {
        let histogram = Histogram::new(&[500_000, 1_000_000]);
        histogram.observe(Duration::from_micros(100), 2);
        histogram.observe(Duration::from_millis(250), 1);
        let families = [
            Family::counter("a_total", "A.").each("reason", [("x", 1), ("say \"\\\n\"", 2)]),
            Family::gauge("b", "B.").value(2.5),
            Family::histogram("c_seconds", "C.")
                .sample(vec![("direction", "up".to_owned())], histogram.view()),
            Family::gauge("d", "D."),
        ];
        expect![[r#"
            # HELP a_total A.
            # TYPE a_total counter
            a_total{reason="x"} 1
            a_total{reason="say \"\\\n\""} 2
            # HELP b B.
            # TYPE b gauge
            b 2.5
            # HELP c_seconds C.
            # TYPE c_seconds histogram
            c_seconds_bucket{direction="up",le="0.0005"} 2
            c_seconds_bucket{direction="up",le="0.001"} 2
            c_seconds_bucket{direction="up",le="+Inf"} 3
            c_seconds_sum{direction="up"} 0.2502
            c_seconds_count{direction="up"} 3
            # HELP d D.
            # TYPE d gauge
        "#]]
        .assert_eq(&exposition(&families));
    }
}
