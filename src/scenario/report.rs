//! What came of a run, step by step, as people and programs read it.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use serde_json::{Value, json};

use super::judge::NearestMessage;
use crate::{amount::counted, xml::Escaped};

/// What came of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepResult {
    /// As [`Step::number`](super::Step::number).
    pub number: String,
    /// As [`Step::kind`](super::Step::kind).
    pub kind: String,
    /// What people call it; empty: nothing else.
    pub name: String,
    /// Where it begins in the text.
    pub line: u64,
    /// Of the innermost `repeat`, from 1; 1 outside.
    pub pass: u64,
    /// Whether it expects something by itself.
    pub expects: bool,
    pub status: StepStatus,
    /// When it began, since the run did.
    pub at: Duration,
    pub took: Duration,
    /// What it came to, or why it failed or was skipped, for people.
    pub text: String,
    /// Of an expectation that failed.
    pub nearest: Option<NearestMessage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepStatus {
    Passed,
    Failed,
    Skipped,
}

impl StepStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunVerdict {
    Passed,
    /// A step failed.
    Failed,
    /// No client could ever connect.
    Unreachable,
    /// Whoever ran it went away before it ended.
    Lost,
    /// Nothing failed, and nothing was expected.
    Nothing,
    Cancelled,
}

impl RunVerdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::Nothing => "nothing was expected",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Unreachable | Self::Lost => 3,
            Self::Nothing => 4,
            Self::Cancelled => 130,
        }
    }
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunReport {
    pub id: String,
    pub scenario: String,
    pub seed: u64,
    pub verdict: RunVerdict,
    /// In the order they ended, as far as they are [`Remembered`](super::Remembered).
    pub steps: Vec<StepResult>,
    /// Steps that are not among them.
    pub left_out: u64,
    pub figures: RunFigures,
    pub took: Duration,
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunFigures {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// Steps that expect something, and were judged.
    pub expectations: u64,
    /// Clients in the scenario.
    pub clients: u64,
    /// Messages.
    pub sent: u64,
    pub received: u64,
}

impl RunFigures {
    /// Counts a step that has ended.
    pub fn count(&mut self, step: &StepResult) {
        match step.status {
            StepStatus::Passed => self.passed += 1,
            StepStatus::Failed => self.failed += 1,
            StepStatus::Skipped => self.skipped += 1,
        }
        self.expectations += u64::from(step.expects && step.status != StepStatus::Skipped);
    }
}

impl StepResult {
    /// Whether it is made of others.
    pub fn is_block(&self) -> bool {
        matches!(&*self.kind, "parallel" | "repeat")
    }

    /// `3 dev.publish`, `4.1 expect "all are there" (pass 2)`
    pub fn title(&self) -> String {
        let mut title = format!("{} {}", self.number, self.kind);
        if !self.name.is_empty() {
            _ = write!(title, " {:?}", self.name);
        }
        if self.pass > 1 {
            _ = write!(title, " (pass {})", self.pass);
        }
        title
    }

    /// A line, and if it failed another with the nearest message.
    pub fn text(&self) -> String {
        let sign = match self.status {
            StepStatus::Passed => "ok",
            StepStatus::Failed => "FAILED",
            StepStatus::Skipped => "skipped",
        };
        let mut text = format!("{:>9.3} s  {sign:<7}  {}", self.at.as_secs_f64(), self.title());
        if !self.text.is_empty() {
            _ = write!(text, ": {}", self.text);
        }
        if self.status != StepStatus::Skipped {
            _ = write!(text, " ({:.3} s)", self.took.as_secs_f64());
        }
        if self.status == StepStatus::Failed && self.line > 0 {
            _ = write!(text, "\n{:21}line {}", "", self.line);
        }
        if let Some(nearest) = &self.nearest {
            _ = write!(text, "\n{:21}nearest: {nearest}", "");
        }
        text
    }

    pub fn json(&self) -> Value {
        json!({
            "number": self.number,
            "kind": self.kind,
            "name": self.name,
            "line": self.line,
            "pass": self.pass,
            "status": self.status.name(),
            "at_ms": self.at.as_secs_f64() * 1e3,
            "took_ms": self.took.as_secs_f64() * 1e3,
            "text": self.text,
            "nearest": self.nearest.as_ref().map(|nearest| json!({
                "client": nearest.client,
                "at_ms": nearest.at.as_secs_f64() * 1e3,
                "topic": nearest.topic,
                "payload": nearest.payload,
                "qos": nearest.qos,
                "retain": nearest.retain,
                "differences": nearest.differences,
            })),
        })
    }
}

impl RunReport {
    /// `scenario "x" passed: 7 steps passed, 2 expectations (seed 42, 3.204 s)`
    pub fn summary(&self) -> String {
        let RunFigures { passed, failed, skipped, expectations, .. } = self.figures;
        let mut text = format!("scenario {:?} ", self.scenario);
        text.push_str(match self.verdict {
            RunVerdict::Passed => "passed",
            RunVerdict::Failed => "FAILED",
            RunVerdict::Unreachable => "FAILED: no client could connect",
            RunVerdict::Lost => "was lost: the server that ran it went away",
            RunVerdict::Nothing => "came to nothing: no step expects anything",
            RunVerdict::Cancelled => "was cancelled",
        });
        _ = write!(text, ": {} passed", counted(passed, "step"));
        for (count, what) in [(failed, "failed"), (skipped, "skipped")] {
            if count > 0 {
                _ = write!(text, ", {count} {what}");
            }
        }
        let (expectations, took) = (counted(expectations, "expectation"), self.took.as_secs_f64());
        _ = write!(text, ", {expectations} (seed {}, {took:.3} s)", self.seed);
        text
    }

    pub fn text(&self) -> String {
        let mut lines: Vec<String> = self.steps.iter().map(StepResult::text).collect();
        if self.left_out > 0 {
            lines.push(format!("{} are not listed", counted(self.left_out, "step")));
        }
        lines.push(self.summary());
        lines.join("\n") + "\n"
    }

    pub fn json(&self) -> Value {
        let RunFigures { passed, failed, skipped, expectations, clients, sent, received } = self.figures;
        json!({
            "id": self.id,
            "scenario": self.scenario,
            "seed": self.seed,
            "verdict": self.verdict.name(),
            "exit_code": self.verdict.exit_code(),
            "took_ms": self.took.as_secs_f64() * 1e3,
            "passed": passed,
            "failed": failed,
            "skipped": skipped,
            "expectations": expectations,
            "clients": clients,
            "sent": sent,
            "received": received,
            "left_out": self.left_out,
            "steps": self.steps.iter().map(StepResult::json).collect::<Vec<_>>(),
        })
    }

    /// XML for CI servers: a test case for each step.
    pub fn junit(&self) -> String {
        let mut out = String::new();
        self.write_junit(&mut out).expect("a String takes everything");
        out
    }

    fn write_junit(&self, out: &mut String) -> fmt::Result {
        let count = |status| self.steps.iter().filter(|step| step.status == status).count();
        let (failed, skipped) = (count(StepStatus::Failed), count(StepStatus::Skipped));
        // CI must not be green for another reason than that all is as it should be.
        let why = match self.verdict {
            RunVerdict::Passed => None,
            RunVerdict::Failed | RunVerdict::Unreachable if failed > 0 => None,
            _ => Some(self.summary()),
        };
        let (tests, failures) =
            (self.steps.len() + usize::from(why.is_some()), failed + usize::from(why.is_some()));
        let (name, seconds) = (Escaped(&self.scenario), self.took.as_secs_f64());
        writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(
            out,
            r#"<testsuites name="mockforge" tests="{tests}" failures="{failures}" errors="0" time="{seconds:.3}">"#
        )?;
        writeln!(
            out,
            r#"  <testsuite name="{name}" tests="{tests}" failures="{failures}" errors="0" skipped="{skipped}" time="{seconds:.3}">"#
        )?;
        writeln!(out, "    <properties>")?;
        writeln!(out, r#"      <property name="seed" value="{}"/>"#, self.seed)?;
        writeln!(out, r#"      <property name="run" value="{}"/>"#, Escaped(&self.id))?;
        if self.left_out > 0 {
            writeln!(out, r#"      <property name="steps left out" value="{}"/>"#, self.left_out)?;
        }
        writeln!(out, "    </properties>")?;
        for step in &self.steps {
            let title = step.title();
            let case = format!(
                r#"testcase name="{}" classname="{name}" time="{:.3}""#,
                Escaped(&title),
                step.took.as_secs_f64()
            );
            match step.status {
                StepStatus::Passed => writeln!(out, "    <{case}/>")?,
                StepStatus::Skipped => {
                    writeln!(out, "    <{case}>")?;
                    writeln!(out, r#"      <skipped message="{}"/>"#, Escaped(&step.text))?;
                    writeln!(out, "    </testcase>")?;
                }
                StepStatus::Failed => {
                    let nearest = step.nearest.as_ref().map(|nearest| format!("nearest: {nearest}"));
                    writeln!(out, "    <{case}>")?;
                    write!(out, r#"      <failure type="failed" message="{}">"#, Escaped(&step.text))?;
                    write!(out, "{}", Escaped(&nearest.unwrap_or_default()))?;
                    writeln!(out, "</failure>")?;
                    writeln!(out, "    </testcase>")?;
                }
            }
        }
        if let Some(why) = why {
            writeln!(out, r#"    <testcase name="scenario" classname="{name}" time="0">"#)?;
            writeln!(out, r#"      <failure type="failed" message="{}"/>"#, Escaped(&why))?;
            writeln!(out, "    </testcase>")?;
        }
        writeln!(out, "  </testsuite>")?;
        writeln!(out, "</testsuites>")
    }
}
