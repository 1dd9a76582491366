//! `scenario run | check | ls | show | cancel | report`.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    duration,
    exit::{Exit, Failure},
    file::NewFile,
    host::{self, Host},
    listing::{self, PAGE},
    mocks::read_text,
    output::{self, Format, json},
    record,
    signal::Signals,
    target::{Target, TrustArgs, parse_target},
    transport::Transport,
};
use crate::{
    config::Config,
    control::pb::{self, scenario_event::Event},
    scenario::{NearestMessage, StepResult, StepStatus},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a scenario: in the running server, else with a broker of its own
    Run(Box<RunArgs>),
    /// Say what is wrong with scenarios, without running them
    Check {
        /// YAML or JSON; `-` reads standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the running server's runs
    #[command(visible_alias = "list")]
    Ls,
    /// Say how a run went, step by step
    Show {
        /// Its id
        run: String,
    },
    /// End a run where it stands
    Cancel {
        /// Its id
        run: String,
    },
    /// Print the report of a run that has ended
    Report {
        /// Its id
        run: String,
        /// What it is written in
        #[arg(long = "format", value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Text)]
        written: ReportFormat,
    },
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// YAML or JSON; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Draw everything from this, in place of the scenario's
    #[arg(long)]
    seed: Option<u64>,
    /// The broker that clients connect to, mqtt://[user[:password]@]host[:port] [default: the scenario's, else the server's]
    #[arg(long, value_name = "URL", value_parser = parse_target)]
    target: Option<Target>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Write a report for CI servers, a test case for each step
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write a report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Expecting nothing counts as passed
    #[arg(long)]
    allow_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportFormat {
    Text,
    Json,
    Junit,
}

impl From<ReportFormat> for pb::RunReportFormat {
    fn from(format: ReportFormat) -> Self {
        match format {
            ReportFormat::Text => Self::Text,
            ReportFormat::Json => Self::Json,
            ReportFormat::Junit => Self::Junit,
        }
    }
}

pub async fn run(
    command: Command,
    server: Option<&str>,
    config: Config,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => return run_file(*args, server, config, format, signals).await,
        Command::Check { files } => {
            let transport = Transport::alone(host::alone(&config));
            let exit = check(&transport, files, format).await;
            transport.close().await;
            return exit;
        }
        Command::Ls | Command::Show { .. } | Command::Cancel { .. } | Command::Report { .. } => {}
    }
    let (transport, _) = Transport::connect(server, &config).await?;
    let mut scenarios = transport.scenarios();
    match command {
        Command::Ls => list(&transport, format).await?,
        Command::Show { run: id } => {
            show(&scenarios.get_run(pb::GetRunRequest { id }).await?.into_inner(), format)?
        }
        Command::Cancel { run: id } => {
            let run = scenarios.cancel_run(pb::CancelRunRequest { id }).await?.into_inner();
            show(&run, format)?;
        }
        Command::Report { run: id, written } => {
            let format = pb::RunReportFormat::from(written).into();
            let report = scenarios.get_run_report(pb::GetRunReportRequest { id, format }).await?.into_inner();
            output::line(report.report.trim_end())?;
        }
        Command::Run(_) | Command::Check { .. } => unreachable!("they were done above"),
    }
    Ok(Exit::Passed)
}

async fn run_file(
    args: RunArgs,
    server: Option<&str>,
    config: Config,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let (name, text) = read_text(args.file.clone())?;
    for path in [&args.junit, &args.json].into_iter().flatten() {
        // Better now than after the run.
        NewFile::check(path).map_err(|error| Failure::new(Exit::Usage, error))?;
    }
    let found = match (server, &args.target) {
        (Some(_), _) => Some(Transport::connect(server, &config).await?.0),
        // Whoever names a broker needs no server.
        (None, Some(_)) => None,
        (None, None) => Transport::find(&config).await?.map(|(transport, _)| transport),
    };
    if let Some(transport) = found {
        return run_by(&transport, &args, &name, text, format, signals).await;
    }
    if args.target.is_some() {
        let transport = Transport::alone(host::alone(&config));
        let exit = run_by(&transport, &args, &name, text, format, signals).await;
        transport.close().await;
        return exit;
    }
    let (host, ()) = Host::start(alone(config), async |_| Ok(())).await?;
    eprintln!("no server runs here: the scenario has a broker of its own, on {}", host.info().mqtt_address);
    let exit = run_by(host.transport(), &args, &name, text, format, signals).await;
    host.stop().await?;
    exit
}

/// A broker for one run, which is in nobody's way.
fn alone(config: Config) -> Config {
    let mut config = record::alone(config);
    config.mqtt.host = "127.0.0.1".to_owned();
    config.mqtt.port = 0;
    config.mqtt.upstream = None;
    config
}

async fn run_by(
    transport: &Transport,
    args: &RunArgs,
    name: &str,
    text: String,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let mut scenarios = transport.scenarios();
    let scenario = bytes::Bytes::from(text);
    let checked = scenarios.validate_scenario(pb::ValidateScenarioRequest { scenario: scenario.clone() });
    let checked = checked.await?.into_inner();
    if !checked.valid {
        return Err(Failure::usage(listed(name, &checked.problems)));
    }
    let target = args.target.clone().map(|target| args.trust.apply(target).text);
    let request = pb::RunScenarioRequest {
        scenario,
        seed: args.seed,
        target: target.unwrap_or_default(),
        allow_empty: args.allow_empty,
    };
    let mut events = scenarios.run_scenario(request).await?.into_inner();
    let mut id = String::new();
    let mut is_cancelled = false;
    let finished = loop {
        let event = tokio::select! {
            event = events.message() => event?,
            () = signals.asked(), if !is_cancelled && !id.is_empty() => {
                is_cancelled = true;
                scenarios.cancel_run(pb::CancelRunRequest { id: id.clone() }).await?;
                continue;
            }
        };
        let Some(message) = event else {
            return Err(Failure::new(
                Exit::Unreachable,
                anyhow::anyhow!("the server ended before the run did"),
            ));
        };
        if format == Format::Json {
            output::json_line(&json("ScenarioEvent", &message))?;
        }
        match message.event {
            Some(Event::Started(run)) => {
                if format == Format::Text {
                    eprintln!(
                        "scenario {:?} on {}, seed {}, run {}",
                        run.scenario, run.target, run.seed, run.id
                    );
                }
                id = run.id;
            }
            Some(Event::StepEnded(step)) if format == Format::Text => output::line(result(step).text())?,
            Some(Event::Gap(gap)) if format == Format::Text => {
                eprintln!("{} came too fast and are not shown", output::count(gap.missed, "event"));
            }
            Some(Event::Finished(run)) => break run,
            _ => {}
        }
    };
    if format == Format::Text {
        output::line(&finished.summary)?;
    }
    for (path, format) in [(&args.junit, pb::RunReportFormat::Junit), (&args.json, pb::RunReportFormat::Json)]
    {
        if let Some(path) = path {
            let request = pb::GetRunReportRequest { id: finished.id.clone(), format: format.into() };
            write(path, &scenarios.get_run_report(request).await?.into_inner().report)?;
        }
    }
    Ok(exit(&finished))
}

fn write(path: &Path, report: &str) -> Result<(), Failure> {
    let mut file = NewFile::create(path)?;
    file.write_all(report.as_bytes())?;
    Ok(file.finish()?)
}

fn exit(run: &pb::ScenarioRun) -> Exit {
    match run.verdict() {
        pb::ScenarioVerdict::Passed => Exit::Passed,
        pb::ScenarioVerdict::Failed | pb::ScenarioVerdict::Unspecified => Exit::Failed,
        pb::ScenarioVerdict::Unreachable => Exit::Unreachable,
        pb::ScenarioVerdict::Nothing => Exit::Nothing,
        pb::ScenarioVerdict::Cancelled => Exit::Interrupted,
    }
}

async fn check(transport: &Transport, files: Vec<PathBuf>, format: Format) -> Result<Exit, Failure> {
    let mut exit = Exit::Passed;
    for file in files {
        let (name, text) = read_text(file)?;
        let request = pb::ValidateScenarioRequest { scenario: text.into() };
        let checked = transport.scenarios().validate_scenario(request).await?.into_inner();
        if !checked.valid {
            exit = Exit::Usage;
        }
        match (format, checked.valid) {
            (Format::Json, _) => output::json_line(&json("ValidateScenarioResponse", &checked))?,
            (Format::Text, false) => output::line(listed(&name, &checked.problems))?,
            (Format::Text, true) => {
                let (clients, steps) =
                    (output::count(checked.clients, "client"), output::count(checked.steps, "step"));
                let note = if checked.expects { "" } else { ", and none expects anything" };
                output::line(format!(
                    "{name}: scenario {:?} is good: {clients}, {steps}{note}",
                    checked.name
                ))?;
            }
        }
    }
    Ok(exit)
}

/// A line each.
fn listed(file: &str, problems: &[pb::ScenarioProblem]) -> String {
    let line = |problem: &pb::ScenarioProblem| {
        let pb::ScenarioProblem { path, line, column, reason } = problem;
        let colon = if path.is_empty() { "" } else { ": " };
        format!("{file}:{line}:{column}: {path}{colon}{reason}")
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

async fn list(transport: &Transport, format: Format) -> Result<(), Failure> {
    let runs = listing::every(async |page_token| {
        let request = pb::ListRunsRequest { page_size: PAGE, page_token, ..Default::default() };
        let page = transport.scenarios().list_runs(request).await?.into_inner();
        Ok((page.runs, page.next_page_token))
    });
    listing::print(
        format,
        ("runs", "no scenario was run"),
        &runs.await?,
        |run| json("ScenarioRun", run),
        ["ID", "SCENARIO", "VERDICT", "PASSED", "FAILED", "TOOK", "SEED", "STARTED"],
        |run| {
            vec![
                run.id.clone(),
                run.scenario.clone(),
                verdict(run),
                run.passed.to_string(),
                run.failed.to_string(),
                duration::show(duration::from_proto(run.took.as_ref())),
                run.seed.to_string(),
                output::time(run.started_at.as_ref()),
            ]
        },
    )
}

fn verdict(run: &pb::ScenarioRun) -> String {
    match run.verdict() {
        pb::ScenarioVerdict::Unspecified => "running".to_owned(),
        other => output::short(other.as_str_name(), "SCENARIO_VERDICT_"),
    }
}

fn show(run: &pb::ScenarioRun, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return Ok(output::json_line(&json("ScenarioRun", run))?);
    }
    output::line(format!(
        "scenario {:?} on {}, seed {}, run {}",
        run.scenario, run.target, run.seed, run.id
    ))?;
    for step in &run.steps {
        output::line(result(step.clone()).text())?;
    }
    if run.left_out > 0 {
        output::line(format!("{} are not listed", output::count(run.left_out, "step")))?;
    }
    Ok(output::line(match run.summary.is_empty() {
        true => "it goes on",
        false => &run.summary,
    })?)
}

/// As the run has it.
fn result(step: pb::ScenarioStep) -> StepResult {
    StepResult {
        status: match step.status() {
            pb::ScenarioStepStatus::Passed => StepStatus::Passed,
            pb::ScenarioStepStatus::Failed => StepStatus::Failed,
            pb::ScenarioStepStatus::Skipped | pb::ScenarioStepStatus::Unspecified => StepStatus::Skipped,
        },
        at: duration::from_proto(step.at.as_ref()),
        took: duration::from_proto(step.took.as_ref()),
        number: step.number,
        kind: step.kind,
        name: step.name,
        line: step.line,
        pass: step.pass,
        text: step.text,
        nearest: step.nearest.map(|nearest| NearestMessage {
            client: nearest.client,
            at: duration::from_proto(nearest.at.as_ref()),
            topic: nearest.topic,
            payload: nearest.payload,
            qos: u8::try_from(nearest.qos).unwrap_or(u8::MAX),
            retain: nearest.retain,
            differences: nearest.differences,
        }),
    }
}
