//! How a replay went: for people, for programs, and as a receipt.

use std::{collections::BTreeMap, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    duration,
    exit::{Exit, Failure},
    input::Input,
    output,
    replay::targets,
};
use crate::{control::pb, net::replay::ReplayOutcome};

/// Errors that the line about the verdict names.
const ERRORS_NAMED: usize = 3;

/// Topics that the contract names, at most.
const TOPICS_NAMED: usize = 1000;

/// A replay that has ended, or the plan of one. As JSON it is what `-o json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    recording: String,
    /// Empty where nothing is asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    /// 0 for `max`.
    speed: f64,
    dry_run: bool,
    /// `passed`, or what was wrong.
    verdict: String,
    exit_code: u8,
    #[serde(skip)]
    exit: Exit,
    /// Messages; of a plan, those to be sent.
    sent: u64,
    acked: u64,
    unacked: u64,
    /// By Reason Code, such as `0x87`.
    refused: BTreeMap<String, u64>,
    unsent: u64,
    /// Of mode server.
    #[serde(flatten)]
    played: Option<Played>,
    /// Messages, once through.
    planned: u64,
    passes: u32,
    /// Of any kind; of mode client.
    packets: u64,
    /// Of payload.
    bytes: u64,
    connections: Option<u64>,
    /// Most messages first.
    #[serde(serialize_with = "as_map")]
    topics: Vec<(String, u64)>,
    /// Whether all that was planned was sent, so that the time it took can be compared.
    #[serde(skip)]
    is_whole: bool,
    span: Span,
    lateness: Lateness,
    /// What may be late.
    #[serde(skip)]
    thing: &'static str,
    /// What lateness may be, if that is limited.
    #[serde(skip)]
    max_lateness: Option<Duration>,
    errors: Vec<String>,
    warnings: Vec<String>,
    /// Of a plan: what is done, or awaited.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    counts: BTreeMap<String, u64>,
    /// What was asked, with what was drawn; not of a plan.
    #[serde(skip)]
    spec: Option<pb::ReplaySpec>,
    /// Of a recording's events, in hexadecimal; empty where the store has none.
    #[serde(skip)]
    recording_sha256: String,
    /// What was compared, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<Box<RawValue>>,
    /// The same for people.
    #[serde(skip)]
    verification_text: String,
}

/// What live clients did of what was recorded.
#[derive(Debug, Serialize)]
struct Played {
    played: u64,
    unplayed: u64,
    lacking: u64,
    missed: u64,
}

#[derive(Debug, Serialize)]
struct Span {
    recorded_ms: f64,
    planned_ms: f64,
    actual_ms: f64,
}

#[derive(Debug, Default, Serialize)]
struct Lateness {
    #[serde(flatten)]
    all: Figures,
    by_cause: BTreeMap<String, Figures>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Figures {
    count: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// Enough to show later what was played, where and with what outcome.
#[derive(Serialize)]
pub struct Receipt<'a> {
    tool_version: &'static str,
    finished_at: String,
    /// Of the file that was played, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    input_sha256: Option<String>,
    /// Of the events of a stored recording, in hexadecimal.
    #[serde(skip_serializing_if = "str::is_empty")]
    recording_sha256: &'a str,
    /// What was asked, defaults filled in, with the seed of what was drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Box<RawValue>>,
    #[serde(flatten)]
    report: &'a Report,
}

impl Report {
    /// What was compared, for programs and for people.
    pub fn set_verification(&mut self, json: &str, text: String) -> serde_json::Result<()> {
        self.verification = Some(serde_json::from_str(json)?);
        self.verification_text = text.trim_end().to_owned();
        Ok(())
    }

    /// The hash that the store has of what was played.
    pub fn set_recording_sha256(&mut self, sha256: String) {
        self.recording_sha256 = sha256;
    }

    /// Of a replay that a `Control` ran.
    pub fn of_replay(replay: &pb::Replay) -> Self {
        let spec = replay.spec.clone().unwrap_or_default();
        let report = replay.report.clone().unwrap_or_default();
        let outcome = outcome(replay.verdict());
        let exit = of_outcome(&outcome);
        let mut errors = report.errors;
        // It sums up the errors, where there are any.
        if errors.is_empty() && !replay.error.is_empty() {
            errors.push(replay.error.clone());
        }
        let is_whole =
            outcome != ReplayOutcome::Cancelled && report.sent == report.planned * u64::from(report.passes);
        let from = |duration: &Option<prost_types::Duration>| duration::from_proto(duration.as_ref());
        Self {
            recording: replay.recording_name.clone(),
            target: targets(&spec),
            speed: report.speed,
            dry_run: false,
            verdict: outcome.to_string(),
            exit_code: exit.code(),
            exit,
            sent: report.sent,
            acked: report.acked,
            unacked: report.unacked,
            refused: report
                .refused_by_code
                .iter()
                .map(|(code, count)| (format!("0x{code:02x}"), *count))
                .collect(),
            unsent: report.unsent,
            played: (spec.mode() == pb::ReplayMode::Server).then_some(Played {
                played: report.played,
                unplayed: report.unplayed,
                lacking: report.lacking,
                missed: report.missed,
            }),
            thing: match spec.mode() {
                pb::ReplayMode::Client | pb::ReplayMode::Server => "packet",
                pb::ReplayMode::Publish | pb::ReplayMode::Unspecified => "message",
            },
            planned: report.planned,
            passes: report.passes,
            packets: report.packets,
            bytes: report.bytes,
            connections: Some(report.connections),
            is_whole,
            topics: report.topics.into_iter().map(|topic| (topic.topic, topic.count)).collect(),
            span: Span::new(
                from(&report.span_recorded),
                from(&report.span_planned),
                from(&report.span_actual),
            ),
            lateness: report.lateness.as_ref().map(Lateness::new).unwrap_or_default(),
            max_lateness: spec.max_lateness.as_ref().map(|limit| duration::from_proto(Some(limit))),
            errors,
            warnings: report.warnings,
            counts: BTreeMap::new(),
            spec: Some(spec),
            recording_sha256: String::new(),
            verification: None,
            verification_text: String::new(),
        }
    }

    /// Of what a `Control` says it would do.
    pub fn of_plan(recording: String, target: String, speed: f64, plan: &pb::ReplayPlan) -> Self {
        let outcome = outcome(plan.verdict());
        let exit = of_outcome(&outcome);
        let (recorded, planned) = (plan.span_recorded.as_ref(), plan.span_planned.as_ref());
        let (recorded, planned) = (duration::from_proto(recorded), duration::from_proto(planned));
        Self {
            recording,
            target,
            speed,
            dry_run: true,
            verdict: match outcome {
                ReplayOutcome::Nothing => "there is nothing to send".to_owned(),
                outcome => outcome.to_string(),
            },
            exit_code: exit.code(),
            exit,
            sent: plan.messages,
            acked: 0,
            unacked: 0,
            refused: BTreeMap::new(),
            unsent: 0,
            played: None,
            thing: "message",
            planned: plan.messages,
            passes: 0,
            packets: 0,
            bytes: plan.bytes,
            connections: Some(plan.connections),
            topics: plan.topics.iter().map(|topic| (topic.topic.clone(), topic.count)).collect(),
            is_whole: false,
            span: Span::new(recorded, planned, Duration::ZERO),
            lateness: Lateness::default(),
            max_lateness: None,
            errors: plan.errors.clone(),
            warnings: plan.warnings.clone(),
            counts: plan.counts.clone().into_iter().collect(),
            spec: None,
            recording_sha256: String::new(),
            verification: None,
            verification_text: String::new(),
        }
    }

    /// # Errors
    /// With the reason, if it did not pass.
    pub fn verdict(&self) -> Result<Exit, Failure> {
        let mut text = match self.exit {
            Exit::Passed => return Ok(Exit::Passed),
            Exit::Damaged => format!("{}: {}", self.recording, self.verdict),
            // They name it themselves.
            Exit::Unreachable if self.errors.iter().any(|error| error.contains(&self.target)) => {
                String::new()
            }
            Exit::Unreachable => format!("{}: {}", self.target, self.verdict),
            Exit::Late => format!("{}{}", self.verdict, self.excess()),
            Exit::Nothing => format!("{} (--allow-empty permits that)", self.verdict),
            _ => self.verdict.clone(),
        };
        // The first few say what kind; the text report has them where there are more.
        if !self.errors.is_empty() {
            let few = &self.errors[..self.errors.len().min(ERRORS_NAMED)];
            let separator = if text.is_empty() { "" } else { ": " };
            text += &format!("{separator}{}", few.join("; "));
        }
        Err(Failure::new(self.exit, anyhow::Error::msg(text)))
    }

    /// `input` is the file that was played, if it was one.
    ///
    /// # Errors
    /// If that file can't be read again.
    pub fn receipt(&self, input: Option<Input>) -> std::io::Result<Receipt<'_>> {
        Ok(Receipt {
            tool_version: env!("CARGO_PKG_VERSION"),
            finished_at: jiff::Timestamp::now().to_string(),
            input_sha256: input.map(sha256).transpose()?,
            recording_sha256: &self.recording_sha256,
            spec: self.spec.as_ref().map(|spec| output::json("ReplaySpec", spec)),
            report: self,
        })
    }

    /// By how much the lateness that is allowed was exceeded.
    fn excess(&self) -> String {
        let worst = duration::show(Duration::from_secs_f64(self.lateness.all.max_ms / 1e3));
        let limit = self
            .max_lateness
            .map_or_else(String::new, |limit| format!(", --max-lateness allows {}", duration::show(limit)));
        format!(": one {} left {worst} after its time{limit}", self.thing)
    }

    /// Several lines; empty where nothing went out that could be told of.
    pub fn text(&self) -> String {
        if self.exit == Exit::Unreachable && self.sent == 0 && self.errors.len() <= ERRORS_NAMED {
            return String::new();
        }
        let mut rows = vec![row(if self.dry_run { "would send" } else { "sent" }, self.messages())];
        if !self.counts.is_empty() {
            let counts = self.counts.iter().map(|(what, count)| format!("{what} {count}"));
            rows.push(row("in all", counts.collect::<Vec<_>>().join(", ")));
        }
        if !self.dry_run {
            rows.push(row("acknowledged", format!("{} of {}", self.acked, self.acked + self.unacked)));
        }
        if self.sent > 0 {
            rows.push(row("span", self.span.text(self.dry_run, self.is_whole)));
        }
        if self.lateness.all.count > 0 {
            rows.push(row("lateness", self.lateness.all.text()));
        }
        for (cause, figures) in self.lateness.by_cause.iter().filter(|(_, figures)| figures.count > 0) {
            let of = output::count(figures.count, self.thing);
            rows.push(row(&format!("  {}", cause.replace('_', " ")), format!("{}, of {of}", figures.text())));
        }
        if let Some(seed) = self.spec.as_ref().and_then(|spec| spec.seed) {
            rows.push(row("seed", seed.to_string()));
        }
        let mut lines = vec![output::table(&rows)];
        if self.dry_run && !self.topics.is_empty() {
            // A table of its own: topics are longer than what stands before the other figures.
            let topics = self.topics.iter().map(|(topic, count)| row(&count.to_string(), topic.clone()));
            let heading = row("MESSAGES", "TOPIC".to_owned());
            lines.push(format!(
                "\n{}",
                output::table(&std::iter::once(heading).chain(topics).collect::<Vec<_>>())
            ));
        }
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        // The line about the verdict names a few, and is read together with this.
        if self.exit == Exit::Passed || self.errors.len() > ERRORS_NAMED {
            lines.extend(self.errors.iter().map(|error| format!("error: {error}")));
        }
        if !self.verification_text.is_empty() {
            lines.push(self.verification_text.clone());
        }
        // Any other verdict is the error that follows.
        if !self.dry_run && self.exit == Exit::Passed {
            lines.push(self.verdict.clone());
        }
        lines.join("\n")
    }

    fn messages(&self) -> String {
        let mut text = format!(
            "{} ({}) on {}",
            output::count(self.sent, "message"),
            output::bytes(self.bytes),
            number_of_topics(self.topics.len())
        );
        if let Some(connections) = self.connections {
            text += &format!(" over {}", output::count(connections, "connection"));
        }
        text
    }
}

impl Span {
    fn new(recorded: Duration, planned: Duration, actual: Duration) -> Self {
        Self { recorded_ms: millis(recorded), planned_ms: millis(planned), actual_ms: millis(actual) }
    }

    fn text(&self, dry_run: bool, is_whole: bool) -> String {
        let show = |millis: f64| duration::show(Duration::from_secs_f64(millis / 1e3));
        let mut text = format!("{} recorded, {} planned", show(self.recorded_ms), show(self.planned_ms));
        if !dry_run {
            text += &format!(", {} actual", show(self.actual_ms));
        }
        if is_whole && self.planned_ms > 0.0 {
            text += &format!(" ({:+.2} %)", (self.actual_ms / self.planned_ms - 1.0) * 100.0);
        }
        text
    }
}

impl Lateness {
    fn new(lateness: &pb::ReplayLateness) -> Self {
        Self {
            all: lateness.overall.as_ref().map(Figures::from).unwrap_or_default(),
            by_cause: lateness
                .by_cause
                .iter()
                .map(|(cause, figures)| (cause.clone(), figures.into()))
                .collect(),
        }
    }
}

impl Figures {
    fn text(self) -> String {
        let show = |millis: f64| duration::show(Duration::from_secs_f64(millis / 1e3));
        format!("p50 {}, p99 {}, max {}", show(self.p50_ms), show(self.p99_ms), show(self.max_ms))
    }
}

impl From<&pb::LatenessFigures> for Figures {
    fn from(figures: &pb::LatenessFigures) -> Self {
        let from = |duration: Option<&prost_types::Duration>| millis(duration::from_proto(duration));
        Self {
            count: figures.count,
            p50_ms: from(figures.p50.as_ref()),
            p99_ms: from(figures.p99.as_ref()),
            max_ms: from(figures.max.as_ref()),
        }
    }
}

fn of_outcome(outcome: &ReplayOutcome) -> Exit {
    match outcome {
        ReplayOutcome::Passed => Exit::Passed,
        ReplayOutcome::Incomplete | ReplayOutcome::Different => Exit::Failed,
        ReplayOutcome::Unreachable => Exit::Unreachable,
        ReplayOutcome::Nothing => Exit::Nothing,
        ReplayOutcome::Damaged => Exit::Damaged,
        ReplayOutcome::Late => Exit::Late,
        ReplayOutcome::Cancelled => Exit::Interrupted,
    }
}

fn outcome(verdict: pb::ReplayVerdict) -> ReplayOutcome {
    match verdict {
        pb::ReplayVerdict::Passed => ReplayOutcome::Passed,
        pb::ReplayVerdict::Unspecified | pb::ReplayVerdict::Failed => ReplayOutcome::Incomplete,
        pb::ReplayVerdict::Different => ReplayOutcome::Different,
        pb::ReplayVerdict::Unreachable => ReplayOutcome::Unreachable,
        pb::ReplayVerdict::NothingSent => ReplayOutcome::Nothing,
        pb::ReplayVerdict::Damaged => ReplayOutcome::Damaged,
        pb::ReplayVerdict::Late => ReplayOutcome::Late,
        pb::ReplayVerdict::Cancelled => ReplayOutcome::Cancelled,
    }
}

/// Their number, topics being named up to the contract's limit.
fn number_of_topics(topics: usize) -> String {
    let text = output::count(topics as u64, "topic");
    if topics < TOPICS_NAMED { text } else { format!("at least {text}") }
}

/// In their order, where a map would sort them.
fn as_map<S: Serializer>(topics: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(topics.iter().map(|(topic, count)| (topic, count)))
}

fn sha256(mut file: Input) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: pb::ReplayVerdict) -> Report {
        let millis = |millis| Some(duration::to_proto(Duration::from_millis(millis)));
        let figures = pb::LatenessFigures { count: 3, p50: millis(1), p99: millis(2), max: millis(3) };
        Report::of_replay(&pb::Replay {
            verdict: verdict.into(),
            report: Some(pb::ReplayReport {
                sent: 3,
                acked: 2,
                bytes: 12,
                topics: vec![pb::TopicCount { topic: "a".into(), count: 3 }],
                span_recorded: millis(2000),
                span_planned: millis(1000),
                span_actual: millis(1001),
                speed: 2.0,
                planned: 3,
                passes: 1,
                connections: 1,
                lateness: Some(pb::ReplayLateness {
                    overall: Some(figures),
                    by_cause: [("flow_control".to_owned(), figures)].into(),
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn a_report_is_readable() {
        expect_test::expect![[r#"
            sent            3 messages (12 B) on 1 topic over 1 connection
            acknowledged    2 of 2
            span            2.000 s recorded, 1.000 s planned, 1.001 s actual (+0.10 %)
            lateness        p50 1.0 ms, p99 2.0 ms, max 3.0 ms
              flow control  p50 1.0 ms, p99 2.0 ms, max 3.0 ms, of 3 messages
            passed"#]]
        .assert_eq(&report(pb::ReplayVerdict::Passed).text());
    }

    #[test]
    fn a_plan_is_readable() {
        let plan = pb::ReplayPlan {
            messages: 2,
            bytes: 5,
            connections: 1,
            topics: vec![pb::TopicCount { topic: "a/b".into(), count: 2 }],
            span_recorded: Some(duration::to_proto(Duration::from_secs(10))),
            span_planned: Some(duration::to_proto(Duration::from_secs(5))),
            verdict: pb::ReplayVerdict::Passed.into(),
            ..Default::default()
        };
        let report = Report::of_plan("orders".into(), "mqtt://broker".into(), 2.0, &plan);
        expect_test::expect![[r#"
            would send  2 messages (5 B) on 1 topic over 1 connection
            span        10.000 s recorded, 5.000 s planned

            MESSAGES  TOPIC
            2         a/b"#]]
        .assert_eq(&report.text());
    }

    #[test]
    fn verdicts_have_the_exit_codes_of_the_contract() {
        for (verdict, code) in [
            (pb::ReplayVerdict::Passed, 0),
            (pb::ReplayVerdict::Failed, 1),
            (pb::ReplayVerdict::Unreachable, 3),
            (pb::ReplayVerdict::NothingSent, 4),
            (pb::ReplayVerdict::Damaged, 5),
            (pb::ReplayVerdict::Late, 6),
            (pb::ReplayVerdict::Cancelled, 130),
        ] {
            let report = report(verdict);
            assert_eq!(report.exit_code, code, "{verdict:?}");
            assert_eq!(report.verdict().unwrap_or_else(|failure| failure.exit).code(), code);
        }
    }

    #[test]
    fn outcomes_have_the_exit_codes_of_the_contract() {
        for outcome in [
            ReplayOutcome::Passed,
            ReplayOutcome::Incomplete,
            ReplayOutcome::Unreachable,
            ReplayOutcome::Nothing,
            ReplayOutcome::Damaged,
            ReplayOutcome::Late,
            ReplayOutcome::Cancelled,
        ] {
            assert_eq!(of_outcome(&outcome).code(), outcome.exit_code(), "{outcome}");
        }
    }

    #[test]
    fn errors_are_said_once() {
        let one = |errors: Vec<String>| Report { errors, ..report(pb::ReplayVerdict::Unreachable) };
        let few = one(vec!["no route".into()]);
        assert!(!few.text().contains("no route"), "{}", few.text());
        assert_eq!(few.verdict().unwrap_err().error.to_string().matches("no route").count(), 1);
        let many = one((0..4).map(|number| format!("error {number}")).collect());
        assert!(many.text().contains("error: error 3"), "{}", many.text());
        let replay = pb::Replay {
            error: "a; b".into(),
            report: Some(pb::ReplayReport { errors: vec!["a".into(), "b".into()], ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(Report::of_replay(&replay).errors, ["a", "b"]);
    }

    #[test]
    fn an_unreachable_target_is_named_once() {
        let target = "mqtt://broker:1883".to_owned();
        let errors = vec![format!("cannot reach {target}: refused")];
        let report = Report { target, errors, sent: 0, ..report(pb::ReplayVerdict::Unreachable) };
        assert_eq!(report.text(), "");
        let text = report.verdict().unwrap_err().error.to_string();
        assert_eq!(text, "cannot reach mqtt://broker:1883: refused");
    }

    #[test]
    fn a_late_replay_says_how_late_and_what_was_allowed() {
        let max_lateness = Some(Duration::from_micros(1));
        let report = Report { max_lateness, ..report(pb::ReplayVerdict::Late) };
        let text = report.verdict().unwrap_err().error.to_string();
        assert_eq!(text, "too late: one message left 3.0 ms after its time, --max-lateness allows 1 µs");
    }

    #[test]
    fn only_a_whole_replay_is_compared_with_its_plan() {
        let whole = report(pb::ReplayVerdict::Passed);
        assert!(whole.text().contains("%"), "{}", whole.text());
        let part = Report { is_whole: false, ..whole };
        assert!(!part.text().contains("%"), "{}", part.text());
    }

    #[test]
    fn a_receipt_has_the_hash_of_the_file_and_the_report() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let report = report(pb::ReplayVerdict::Passed);
        let receipt =
            serde_json::to_value(report.receipt(Some(Input::new(file.reopen().unwrap()))).unwrap()).unwrap();
        // SHA-256 of nothing.
        assert_eq!(
            receipt["input_sha256"],
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(receipt["sent"], 3);
        assert!(receipt.get("recording_sha256").is_none());
        assert_eq!(receipt["lateness"]["p99_ms"], 2.0);
    }

    #[test]
    fn a_receipt_has_what_makes_a_run_repeatable() {
        let spec = pb::ReplaySpec {
            mode: pb::ReplayMode::Client.into(),
            map_topics: vec!["a=b".into()],
            multiply: 3,
            seed: Some(7),
            ..Default::default()
        };
        let counts = pb::ReplayReport { planned: 4, packets: 9, unsent: 2, ..Default::default() };
        let replay = pb::Replay { spec: Some(spec), report: Some(counts), ..Default::default() };
        let mut report = Report::of_replay(&replay);
        report.set_recording_sha256("ab12".to_owned());
        let receipt = serde_json::to_value(report.receipt(None).unwrap()).unwrap();
        assert_eq!(receipt["recording_sha256"], "ab12");
        let spec = &receipt["spec"];
        assert_eq!(
            (&spec["mode"], &spec["map_topics"][0], &spec["multiply"], &spec["seed"]),
            (&"REPLAY_MODE_CLIENT".into(), &"a=b".into(), &3.into(), &7.into()),
        );
        for (count, value) in [("planned", 4), ("packets", 9), ("unsent", 2)] {
            assert_eq!(receipt[count], value, "{count}");
        }
        assert!(report.text().contains("seed          7"), "{}", report.text());
    }
}
