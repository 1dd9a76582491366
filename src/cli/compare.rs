//! `recordings compare`: in what a recording differs from another.

use std::path::PathBuf;

use serde_json::value::RawValue;

use super::{
    exit::{Exit, Failure},
    file::NewFile,
    output::{self, Format},
    replay::ReportFiles,
    transport::Transport,
};
use crate::control::pb;

#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// Id or name; what is expected
    first: String,
    /// Id or name
    second: String,
    /// What is compared
    #[arg(long, value_enum, default_value_t = Level::Packets)]
    level: Level,
    /// What may differ: a list of rules, YAML or JSON
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Having nothing to compare is no failure
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    reports: ReportFiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// How many messages each client sent and got on each topic
    Count,
    /// Messages: payload, QoS, RETAIN and properties
    Payload,
    /// The same, and all other packets, and how connections ended
    Packets,
}

impl CompareArgs {
    fn request(&self, format: pb::ReportFormat) -> Result<pb::CompareRecordingsRequest, Failure> {
        let level = match self.level {
            Level::Count => pb::VerificationLevel::Count,
            Level::Payload => pb::VerificationLevel::Payload,
            Level::Packets => pb::VerificationLevel::Packets,
        };
        let rules = self.rules.as_deref().map(|path| {
            std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
        });
        let formats = self.reports.wanted().map(|(_, format)| format);
        Ok(pb::CompareRecordingsRequest {
            first: self.first.clone(),
            second: self.second.clone(),
            level: level.into(),
            rules: rules.transpose()?.unwrap_or_default(),
            reports: formats.chain([format]).map(Into::into).collect(),
            allow_empty: self.allow_empty,
        })
    }
}

pub async fn compare(args: CompareArgs, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    for (path, _) in args.reports.wanted() {
        NewFile::check(path).map_err(|error| Failure::new(Exit::Usage, error))?;
    }
    let printed = match format {
        Format::Json => pb::ReportFormat::Json,
        Format::Text => pb::ReportFormat::Text,
    };
    let request = args.request(printed)?;
    let mut compared = transport.recordings().compare_recordings(request).await?.into_inner();
    let printed = compared.reports.pop().unwrap_or_default().report;
    for ((path, _), report) in args.reports.wanted().zip(&compared.reports) {
        let mut file = NewFile::create(path)?;
        std::io::Write::write_all(&mut file, report.report.as_bytes())?;
        file.finish()?;
    }
    match format {
        Format::Json => output::line(on_one_line(&printed)?)?,
        Format::Text => output::line(printed.trim_end())?,
    }
    outcome(&args, &compared)
}

/// As programs read it from a pipe.
fn on_one_line(json: &str) -> Result<String, Failure> {
    let value: Box<RawValue> = serde_json::from_str(json).map_err(std::io::Error::from)?;
    Ok(value.get().lines().map(str::trim_start).collect::<Vec<_>>().join(""))
}

fn outcome(args: &CompareArgs, compared: &pb::CompareRecordingsResponse) -> Result<Exit, Failure> {
    let sides = [(&args.first, compared.first_missing), (&args.second, compared.second_missing)];
    let lacks = sides.iter().filter(|(_, missing)| *missing > 0);
    let lacks: Vec<String> =
        lacks.map(|(name, missing)| format!("{name} lacks {}", output::count(*missing, "event"))).collect();
    if !lacks.is_empty() {
        return Err(Failure::new(Exit::Damaged, anyhow::Error::msg(lacks.join(", "))));
    }
    let verification = compared.verification.clone().unwrap_or_default();
    let is_empty = verification.expected == 0 && verification.observed == 0;
    match compared.passed {
        true => Ok(Exit::Passed),
        false if is_empty && verification.incomplete.is_empty() => {
            Err(Failure::new(Exit::Nothing, anyhow::anyhow!("there was nothing to compare")))
        }
        false => Ok(Exit::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(compared: pb::CompareRecordingsResponse) -> u8 {
        let args = CompareArgs {
            first: "a".to_owned(),
            second: "b".to_owned(),
            level: Level::Packets,
            rules: None,
            allow_empty: false,
            reports: ReportFiles::default(),
        };
        outcome(&args, &compared).unwrap_or_else(|failure| failure.exit).code()
    }

    #[test]
    fn the_exit_code_says_what_was_wrong() {
        let verification = pb::VerificationReport { expected: 1, observed: 1, ..Default::default() };
        let same = pb::CompareRecordingsResponse {
            passed: true,
            verification: Some(verification.clone()),
            ..Default::default()
        };
        assert_eq!(exit(same.clone()), 0);
        let different = pb::CompareRecordingsResponse { passed: false, ..same.clone() };
        assert_eq!(exit(different.clone()), 1);
        let nothing = pb::CompareRecordingsResponse {
            verification: Some(pb::VerificationReport::default()),
            ..different.clone()
        };
        assert_eq!(exit(nothing.clone()), 4);
        assert_eq!(exit(pb::CompareRecordingsResponse { passed: true, ..nothing.clone() }), 0);
        let incomplete = pb::VerificationReport { incomplete: "too much".to_owned(), ..Default::default() };
        assert_eq!(exit(pb::CompareRecordingsResponse { verification: Some(incomplete), ..nothing }), 1);
        assert_eq!(exit(pb::CompareRecordingsResponse { second_missing: 3, ..different }), 5);
    }

    #[test]
    fn json_is_one_line() {
        assert_eq!(on_one_line("{\n  \"a\": [\n    \"x  \\n y\"\n  ]\n}").unwrap(), r#"{"a": ["x  \n y"]}"#);
    }
}
