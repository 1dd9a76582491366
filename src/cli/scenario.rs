//! `scenario run | check | ls | show | cancel | report`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use futures_util::future::{LocalBoxFuture, OptionFuture};
use tonic::{Code, Status};

use super::{
    duration,
    exit::{Exit, Failure},
    file::NewFile,
    host::{self, Host},
    listing::{self, PAGE},
    mocks::read_text,
    output::{self, Format, json},
    record,
    signal::{HangUp, Signals},
    target::{Target, TrustArgs, parse_target},
    transport::Transport,
};
use crate::{
    config::Config,
    control::pb::{self, scenario_event::Event},
    scenario::{NearestMessage, Remembered, RunFigures, RunReport, RunVerdict, StepResult, StepStatus},
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
    let alone_here = Transport::alone(host::alone(&config));
    if args.target.is_some() {
        let exit = run_by(&alone_here, &args, &name, text, format, signals).await;
        alone_here.close().await;
        return exit;
    }
    // Before anything is started for it.
    let checked = checked(&alone_here, &name, &text).await;
    alone_here.close().await;
    checked?;
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

async fn checked(transport: &Transport, name: &str, text: &str) -> Result<(), Failure> {
    let request = pb::ValidateScenarioRequest { scenario: text.to_owned().into() };
    let checked = transport.scenarios().validate_scenario(request).await?.into_inner();
    match checked.valid {
        true => Ok(()),
        false => Err(bad_file(name, &checked.problems)),
    }
}

/// A line for each thing that is wrong.
fn bad_file(name: &str, problems: &[pb::ScenarioProblem]) -> Failure {
    let violation = |problem: &pb::ScenarioProblem| {
        let pb::ScenarioProblem { path, line, column, reason } = problem;
        (path.clone(), format!("{name}:{line}:{column}: {reason}"))
    };
    Failure::bad_fields(listed(name, problems), problems.iter().map(violation))
}

async fn run_by(
    transport: &Transport,
    args: &RunArgs,
    name: &str,
    text: String,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    checked(transport, name, &text).await?;
    let mut hang_up = HangUp::new()?;
    let target = args.target.clone().map(|target| args.trust.apply(target).text);
    let request = pb::RunScenarioRequest {
        scenario: text.into(),
        seed: args.seed,
        target: target.unwrap_or_default(),
        allow_empty: args.allow_empty,
    };
    let mut events = transport.scenarios().run_scenario(request).await?.into_inner();
    let mut watched = Watched::new();
    let mut cancelling: Option<LocalBoxFuture<'_, Result<(), Status>>> = None;
    let mut is_cancelled = false;
    let lost = loop {
        let event = tokio::select! {
            event = events.message() => event,
            () = asked(signals, &mut hang_up), if !is_cancelled && watched.begun.is_some() => {
                is_cancelled = true;
                let id = watched.begun.as_ref().map(|run| run.id.clone()).unwrap_or_default();
                let mut scenarios = transport.scenarios();
                cancelling = Some(Box::pin(async move {
                    scenarios.cancel_run(pb::CancelRunRequest { id }).await.map(drop)
                }));
                continue;
            }
            Some(cancelled) = OptionFuture::from(cancelling.as_mut()) => {
                cancelling = None;
                // A server that goes away cancels it by itself, and may tell its end all the same.
                if let Err(status) = cancelled
                    && !is_broken(&status)
                {
                    eprintln!("mockforge: the run cannot be cancelled: {}", status.message());
                }
                continue;
            }
        };
        let message = match event {
            Ok(Some(message)) => message,
            Ok(None) => break Some(gone()),
            // What the broken connection says of itself is of no use to anybody.
            Err(status) if is_broken(&status) => break Some(gone()),
            Err(status) => break Some(Failure::from(status)),
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
                watched.begun = Some(run);
            }
            Some(Event::StepEnded(step)) => {
                let step = result(step);
                if format == Format::Text {
                    output::line(step.text())?;
                }
                watched.add(step);
            }
            Some(Event::Gap(gap)) if format == Format::Text => {
                eprintln!("{} came too fast and are not shown", output::count(gap.missed, "event"));
            }
            Some(Event::Finished(run)) => {
                watched.finished = Some(run);
                break None;
            }
            _ => {}
        }
    };
    let Some(report) = watched.report() else { return Err(lost.unwrap_or_else(gone)) };
    if format == Format::Text {
        output::line(report.summary())?;
    }
    if let Some(path) = &args.junit {
        write(path, &report.junit())?;
    }
    if let Some(path) = &args.json {
        write(path, &report.json().to_string())?;
    }
    match (lost, &watched.finished) {
        (Some(failure), _) => Err(failure),
        (None, Some(run)) => Ok(exit(run)),
        (None, None) => Err(gone()),
    }
}

fn gone() -> Failure {
    Failure::new(Exit::Unreachable, anyhow::anyhow!("the server went away before the run had ended"))
}

/// Whether it is the connection's end, and no word of the server's.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.code() == Code::Unavailable
}

/// Ctrl-C, SIGTERM, or the end of the terminal.
async fn asked(signals: &Signals, hang_up: &mut HangUp) {
    tokio::select! {
        () = signals.asked() => {}
        () = hang_up.recv() => {}
    }
}

/// What is heard of a run, which is all that reports need: whoever ran it may be gone when it has ended.
struct Watched {
    since: Instant,
    begun: Option<pb::ScenarioRun>,
    steps: Remembered,
    figures: RunFigures,
    finished: Option<pb::ScenarioRun>,
}

impl Watched {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            begun: None,
            steps: Remembered::default(),
            figures: RunFigures::default(),
            finished: None,
        }
    }

    fn add(&mut self, step: StepResult) {
        self.figures.count(&step);
        self.steps.add(Arc::new(step));
    }

    /// `None` if it never began.
    fn report(&self) -> Option<RunReport> {
        let begun = self.begun.as_ref()?;
        let steps = self.steps.steps();
        let (verdict, figures, took) = match &self.finished {
            None => {
                let figures = RunFigures { clients: begun.clients, ..self.figures };
                (RunVerdict::Lost, figures, self.since.elapsed())
            }
            Some(run) => (verdict_of(run), figures_of(run), duration::from_proto(run.took.as_ref())),
        };
        let ended = figures.passed + figures.failed + figures.skipped;
        Some(RunReport {
            id: begun.id.clone(),
            scenario: begun.scenario.clone(),
            seed: begun.seed,
            verdict,
            // Those that were missed, too.
            left_out: ended.saturating_sub(steps.len() as u64),
            steps,
            figures,
            took,
        })
    }
}

fn write(path: &Path, report: &str) -> Result<(), Failure> {
    let mut file = NewFile::create(path)?;
    file.write_all(report.as_bytes())?;
    Ok(file.finish()?)
}

fn verdict_of(run: &pb::ScenarioRun) -> RunVerdict {
    match run.verdict() {
        pb::ScenarioVerdict::Passed => RunVerdict::Passed,
        pb::ScenarioVerdict::Failed | pb::ScenarioVerdict::Unspecified => RunVerdict::Failed,
        pb::ScenarioVerdict::Unreachable => RunVerdict::Unreachable,
        pb::ScenarioVerdict::Nothing => RunVerdict::Nothing,
        pb::ScenarioVerdict::Cancelled => RunVerdict::Cancelled,
    }
}

fn figures_of(run: &pb::ScenarioRun) -> RunFigures {
    RunFigures {
        passed: run.passed,
        failed: run.failed,
        skipped: run.skipped,
        expectations: run.expectations,
        clients: run.clients,
        sent: run.sent,
        received: run.received,
    }
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
        expects: step.expects,
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
