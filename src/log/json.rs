//! The log for programs: a JSON object on each line.

use std::{error::Error, fmt};

use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

/// Spans' fields as JSON objects.
pub struct JsonFields;

/// Events as lines.
pub struct JsonLines;

#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, in UTC.
    timestamp: String,
    level: &'static str,
    /// The module.
    target: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: &'a Map<String, Value>,
    /// The outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<SpanLine<'a>>,
}

#[derive(Serialize)]
struct SpanLine<'a> {
    name: &'static str,
    fields: &'a RawValue,
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut gathered = Gathered::default();
        event.record(&mut gathered);
        let message = gathered.0.remove("message");
        let spans: Vec<_> = context.event_scope().into_iter().flat_map(|scope| scope.from_root()).collect();
        let extensions: Vec<_> = spans.iter().map(|span| (span.name(), span.extensions())).collect();
        let of_spans = extensions.iter().map(|(name, extensions)| SpanLine {
            name,
            fields: extensions
                .get::<FormattedFields<JsonFields>>()
                .and_then(|fields| serde_json::from_str(&fields.fields).ok())
                .unwrap_or(RawValue::NULL),
        });
        let line = Line {
            timestamp: format!("{:.6}", jiff::Timestamp::now()),
            level: event.metadata().level().as_str(),
            target: event.metadata().target(),
            message: message.as_ref().and_then(Value::as_str).unwrap_or_default(),
            fields: &gathered.0,
            spans: of_spans.collect(),
        };
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

impl<'writer> FormatFields<'writer> for JsonFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut gathered = Gathered::default();
        fields.record(&mut gathered);
        writer.write_str(&Value::Object(gathered.0).to_string())
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let mut gathered = Gathered(serde_json::from_str(&current.fields).unwrap_or_default());
        fields.record(&mut gathered);
        current.fields = Value::Object(gathered.0).to_string();
        Ok(())
    }
}

#[derive(Default)]
struct Gathered(Map<String, Value>);

impl Gathered {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        // What is spelled `r#type` in Rust is `type`.
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for Gathered {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{Layer, fmt::MakeWriter, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_has_what_happened_where_and_in_which_spans() {
        let written = Written::default();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(written.clone())
            .fmt_fields(JsonFields)
            .event_format(JsonLines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer.boxed()), || {
            let outer = tracing::info_span!("connection", id = 7, client = tracing::field::Empty);
            outer.record("client", "a \"b\"\n");
            let _entered = outer.entered();
            let _inner = tracing::info_span!("replay").entered();
            tracing::warn!(count = 3_u64, rate = 0.5, error = %"late\u{1b}[31m", "a queue is full");
            tracing::info!("nothing else");
        });
        let text = String::from_utf8(written.0.lock().expect("nobody panicked").clone()).expect("UTF-8");
        let mut lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for line in &mut lines {
            let time = line.as_object_mut().and_then(|line| line.remove("timestamp")).expect("a time");
            let time = time.as_str().expect("a text");
            assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == 27, "{time}");
        }
        let spans = serde_json::json!([
            {"name": "connection", "fields": {"id": 7, "client": "a \"b\"\n"}},
            {"name": "replay", "fields": {}}
        ]);
        let target = "mockforge::log::json::tests";
        let expected = [
            serde_json::json!({
                "level": "WARN", "target": target, "message": "a queue is full", "spans": spans,
                "fields": {"count": 3, "rate": 0.5, "error": "late\u{1b}[31m"},
            }),
            serde_json::json!({
                "level": "INFO", "target": target, "message": "nothing else", "spans": spans,
            }),
        ];
        assert_eq!(lines, expected);
    }
}
