//! `mqtt cassette`: a command with a broker that is recorded once, and played in its place from then on.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tonic::Status;

use super::{
    child::Child,
    exit::{Exit, Failure},
    file::{NewFile, is_standard_output},
    host::{self, Host},
    output::{self, Format, json},
    record,
    replay::Verify,
    report::Report,
    session_file,
    signal::{Passed, Signals},
    target::{Target, TrustArgs, parse_target},
    transfer::{export_to, format_to_write},
    transport::Transport,
};
use crate::{
    config::Config,
    control::{Control, ReplaySource, pb},
    net::{MqttUrl, reach},
    recording::{RecordingFormat, player::Speed},
};

/// For the broker that is recorded to take a connection.
const TARGET_PATIENCE: Duration = Duration::from_secs(3);
/// What a command has sent before it ended is still under way; what it left running may stay connected.
const LINGER: Duration = Duration::from_secs(2);
/// Between two looks at who is still connected.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, clap::Args)]
pub struct CassetteArgs {
    /// The cassette: a recording in a file; it is written when COMMAND has exited with 0
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Whether it is recorded or played
    #[arg(long, value_enum, default_value_t = Mode::Once)]
    mode: Mode,
    /// When it is played: what becomes of what is not on it
    #[arg(long, value_enum, default_value_t = OnMiss::Fail)]
    on_miss: OnMiss,
    /// The broker that is recorded, and that passthrough asks, mqtt://[user[:password]@]host[:port]
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883", value_parser = parse_target)]
    target: Target,
    #[command(flatten)]
    trust: TrustArgs,
    /// When it is played: factor from 0.001 to 1000; `max` or 0 does not wait
    #[arg(long, default_value = "1.0", allow_negative_numbers = true)]
    speed: Speed,
    /// When it is played: whether what COMMAND sends is compared with what is on it
    #[arg(long, value_enum, default_value_t = Verify::None)]
    verify: Verify,
    /// What may differ: a list of rules, YAML or JSON
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// When it is played: fail if something that is on it was not done again
    #[arg(long)]
    strict: bool,
    /// A command that does nothing with MQTT passes, too
    #[arg(long)]
    allow_empty: bool,
    /// Run with MQTT_HOST, MQTT_PORT and MQTT_URL, and with our terminal; its exit code is kept unless that is 0
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl CassetteArgs {
    /// Of the replay that stands in for the broker.
    fn spec(&self) -> Result<pb::ReplaySpec, Failure> {
        let (on_miss, target) = match self.on_miss {
            OnMiss::Fail => (pb::ReplayOnMiss::Fail, String::new()),
            OnMiss::Passthrough => (pb::ReplayOnMiss::Passthrough, self.target.text.clone()),
        };
        Ok(pb::ReplaySpec {
            mode: pb::ReplayMode::Server.into(),
            listen: "127.0.0.1:0".to_owned(),
            on_miss: on_miss.into(),
            target,
            speed: Some(match self.speed {
                Speed::Factor(factor) => factor,
                Speed::Max => 0.0,
            }),
            allow_empty: self.allow_empty,
            verify: self.verify.spec(self.rules.as_deref(), None)?,
            ..Default::default()
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Recorded where FILE is not there, else played
    Once,
    /// Recorded each time
    All,
    /// Played; without FILE that is exit code 2
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnMiss {
    /// The run has failed, with exit code 1
    Fail,
    /// It goes to --target
    Passthrough,
}

pub async fn run(
    mut args: CassetteArgs,
    server: Option<&str>,
    config: Config,
    format: Format,
) -> Result<Exit, Failure> {
    args.target = args.trust.apply(args.target);
    if server.is_some() {
        return Err(Failure::usage(
            "a cassette is recorded and played by this process; --server is for talking to another",
        ));
    }
    if args.rules.is_some() && args.verify == Verify::None {
        return Err(Failure::usage("--rules needs --verify"));
    }
    if is_standard_output(&args.file) {
        return Err(Failure::usage("--file: standard input and output are the command's; name a file"));
    }
    check_format(&args.file)?;
    let is_there = args.file.exists();
    match args.mode {
        Mode::All => record(args, config, format).await,
        Mode::Once if !is_there => record(args, config, format).await,
        Mode::None if !is_there => Err(Failure::usage(format!(
            "{}: it is not there, and --mode none records nothing",
            args.file.display()
        ))),
        Mode::Once | Mode::None => play(args, &config, format).await,
    }
}

/// Runs the command, which is told where its broker is; its exit code.
async fn run_at(words: &[OsString], address: &str, signals: &mut Passed) -> Result<u8, Failure> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let variables = [("MQTT_HOST", host), ("MQTT_PORT", port), ("MQTT_URL", &format!("mqtt://{address}"))];
    Child::spawn(words, &variables)?.ended(signals).await
}

/// Runs the command behind a proxy; what passed is the cassette, if the command passed.
async fn record(args: CassetteArgs, config: Config, format: Format) -> Result<Exit, Failure> {
    format_to_write(&args.file, None)?;
    NewFile::check(&args.file).map_err(|error| Failure::new(Exit::Usage, error))?;
    check_reachable(&args.target.url).await?;
    let store = tempfile::tempdir()?;
    let mut config = record::alone(config);
    (config.mqtt.host, config.mqtt.port) = ("127.0.0.1".to_owned(), 0);
    config.mqtt.upstream = Some(args.target.text.clone());
    config.store.path = store.path().join("store");
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let request = pb::StartRecordingRequest { name, ..Default::default() };
    let mut signals = Passed::install()?;
    let start = async |control: &Control| {
        // Its notes are about clients that are connected already.
        Ok(Transport::to_server(control).recordings().start_recording(request).await?.into_inner())
    };
    let (mut host, recording) = Host::start(config, start).await?;
    eprintln!("mockforge: recording {} to {}", args.target.url, args.file.display());
    let outcome = match run_at(&args.command, &host.info().mqtt_address, &mut signals).await {
        Ok(code) => {
            let written = write(&args, &mut host, recording, code, format);
            tokio::select! {
                outcome = written => outcome,
                _ = signals.recv() => Err(interrupted(&args.file)),
            }
        }
        Err(failure) => Err(failure),
    };
    host.stop().await?;
    outcome
}

/// # Errors
/// [`Exit::Unreachable`]: better than a command that fails for another reason.
async fn check_reachable(target: &MqttUrl) -> Result<(), Failure> {
    let why = match tokio::time::timeout(TARGET_PATIENCE, reach(target)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer in {} s", TARGET_PATIENCE.as_secs()),
    };
    let text = format!("{target}, which is to be recorded, cannot be reached: {why}");
    Err(Failure::new(Exit::Unreachable, anyhow::Error::msg(text)))
}

fn interrupted(file: &Path) -> Failure {
    let text = format!("ended by a signal; {} was not written", file.display());
    Failure::new(Exit::Interrupted, anyhow::Error::msg(text))
}

/// Completes the recording, and writes it if the command passed: one of a failure would be played from then on.
async fn write(
    args: &CassetteArgs,
    host: &mut Host,
    recording: pb::Recording,
    code: u8,
    format: Format,
) -> Result<Exit, Failure> {
    let not_written = format!("{} was not written", args.file.display());
    if code != 0 {
        eprintln!("mockforge: {not_written}: the command exited with {code}");
        return Ok(Exit::Command(code));
    }
    until_gone(host.transport()).await?;
    host.stop_traffic().await;
    let recording = record::stop(host.transport(), recording.id).await?;
    record::verdict(&recording, args.allow_empty).map_err(|failure| failure.context(not_written))?;
    let size = export_to(host.transport(), recording.id.clone(), &args.file, None).await?;
    match format {
        Format::Json => eprintln!("{}", json("Recording", &recording)),
        Format::Text => {
            eprintln!("mockforge: {}, {}", record::describe(&recording), output::wrote(&args.file, size))
        }
    }
    Ok(Exit::Passed)
}

/// Waits until the command's connections have been read to their ends.
async fn until_gone(transport: &Transport) -> Result<(), Failure> {
    let end = Instant::now() + LINGER;
    while Instant::now() < end {
        let stats = transport.broker().get_stats(pb::GetStatsRequest {}).await?.into_inner();
        if stats.active_connections == 0 {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// A file that cannot tell connections apart cannot be played.
fn check_format(file: &Path) -> Result<(), Failure> {
    match RecordingFormat::of_path(file) {
        Some(RecordingFormat::Csv) => Err(Failure::usage(format!(
            "{}: CSV has messages alone, of which no broker can be played: take .json, .ndjson or .mcap",
            file.display()
        ))),
        _ => Ok(()),
    }
}

/// Runs the command against the recording alone.
async fn play(args: CassetteArgs, config: &Config, format: Format) -> Result<Exit, Failure> {
    let source = session_file::open(&args.file, None, &Signals::none()).await?;
    // As long as the command runs, it may do something.
    let source = ReplaySource { until_finished: true, is_strict: args.strict, ..source };
    let control = host::alone(config);
    let outcome = play_on(&args, &control, source, format).await;
    control.close().await;
    outcome
}

async fn play_on(
    args: &CassetteArgs,
    control: &Control,
    source: ReplaySource,
    format: Format,
) -> Result<Exit, Failure> {
    let mut signals = Passed::install()?;
    let replay = control.replay_source(args.spec()?, source).await.map_err(Status::from)?;
    eprintln!("mockforge: playing {}", args.file.display());
    let code = run_at(&args.command, &replay.address, &mut signals).await?;
    let replay = tokio::select! {
        finished = control.finish_replay(&replay.id) => finished.map_err(Status::from)?,
        _ = signals.recv() => {
            return Err(Failure::new(Exit::Interrupted, anyhow::anyhow!("ended by a signal")));
        }
    };
    let mut report = Report::of_replay(&replay);
    if replay.report.as_ref().is_some_and(|report| report.verification.is_some()) {
        let [json, text] = [pb::ReportFormat::Json, pb::ReportFormat::Text].map(|format| {
            control.get_replay_report(pb::GetReplayReportRequest {
                id: replay.id.clone(),
                format: format.into(),
            })
        });
        let (json, text) = (json.await.map_err(Status::from)?, text.await.map_err(Status::from)?);
        report.set_verification(&json.report, text.report).map_err(std::io::Error::from)?;
    }
    match format {
        Format::Json => eprintln!("{}", serde_json::to_string(&report).map_err(std::io::Error::from)?),
        Format::Text => eprintln!("{}", report.text()),
    }
    match code {
        0 => report.verdict(),
        code => {
            // Its code is kept; what it failed of may well be this.
            if let Err(failure) = report.verdict() {
                eprintln!("mockforge: {:#}", failure.error);
            }
            Ok(Exit::Command(code))
        }
    }
}
