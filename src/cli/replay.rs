//! `mqtt replay`: arguments, progress, report, receipt and exit code of a replay.

use std::{fmt, path::PathBuf, time::Duration};

use tonic::Status;

use super::{
    duration,
    exit::{Exit, Failure},
    file::NewFile,
    host,
    input::{Input, shown},
    output::{self, Format},
    progress::Progress,
    report::Report,
    session_file,
    signal::Signals,
    transfer::parse_format,
    transport::Transport,
};
use crate::{
    config::Config,
    control::{Control, ReplaySource, pb},
    net::{BadUrl, MqttUrl},
    packet::TopicFilter,
    recording::{
        RecordingFormat,
        player::{Repeat, Speed},
    },
};

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["input", "recording"])))]
pub struct ReplayArgs {
    /// The file to play, of any format that `recordings import` takes; `-` is standard input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Of the file: json, ndjson, mcap, pcapng or csv [default: what its content says]
    #[arg(long = "format", value_name = "FORMAT", value_parser = parse_format, requires = "input")]
    file_format: Option<RecordingFormat>,
    /// Play a recording of the store (of the running server, if there is one) instead: id or name
    #[arg(long, value_name = "NAME")]
    recording: Option<String>,
    /// The broker to send to, mqtt://[user[:password]@]host[:port]
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883", value_parser = parse_target)]
    target: Target,
    /// Factor from 0.001 to 1000; `max` or 0 does not wait
    #[arg(long, default_value = "1.0", allow_negative_numbers = true)]
    speed: Speed,
    /// How the recording is played
    #[arg(long, value_enum, default_value_t = Mode::Publish)]
    mode: Mode,
    /// What is compared with the recording afterwards
    #[arg(long, value_enum, default_value_t = Verify::None)]
    verify: Verify,
    /// Send everything over one connection instead of one per recorded client
    #[arg(long = "as", value_enum, value_name = "one")]
    r#as: Option<As>,
    /// Only topics that match; may be given more than once
    #[arg(long = "topic", value_name = "FILTER", value_parser = TopicFilter::parse)]
    topics: Vec<TopicFilter>,
    /// No topics that match; may be given more than once
    #[arg(long = "exclude-topic", value_name = "FILTER", value_parser = TopicFilter::parse)]
    exclude_topics: Vec<TopicFilter>,
    /// Only messages of these client identifiers, `*` for any characters; may be given more than once
    #[arg(long = "client", value_name = "GLOB")]
    clients: Vec<String>,
    /// Leave out what came before, counted from the recording's beginning
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse)]
    start: Option<Duration>,
    /// Leave out what came after, counted from the recording's beginning
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse)]
    until: Option<Duration>,
    /// Leave out what came this long after --start
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Shorten silences to this, in recorded time
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse)]
    max_gap: Option<Duration>,
    /// At most this many messages a second
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_rate)]
    rate: Option<f64>,
    /// How many times to play it, or `forever`
    #[arg(long = "loop", value_name = "N|forever", default_value = "1")]
    repeat: Repeat,
    /// Fail (exit code 6) when a message is sent later than this after its time
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration::parse)]
    max_lateness: Option<Duration>,
    /// Sending nothing counts as passed
    #[arg(long)]
    allow_empty: bool,
    /// Say what would be sent and how long it would take
    #[arg(long)]
    dry_run: bool,
    /// Write what was played and how it went to this file, as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Sends the messages that clients published
    Publish,
    /// Impersonates the recorded clients (not supported by this version yet)
    Client,
    /// Plays the recorded broker (not supported by this version yet)
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Verify {
    None,
    /// Not supported by this version yet
    Count,
    /// Not supported by this version yet
    Payload,
    /// Not supported by this version yet
    Packets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum As {
    One,
}

impl ReplayArgs {
    /// Whether the settings file has a say: a file is played alone.
    pub fn needs_settings_file(&self) -> bool {
        self.input.is_none()
    }

    fn check(&self) -> Result<(), Failure> {
        let later = |flag: &str| Err(Failure::usage(format!("{flag} is not supported by this version yet")));
        match self.mode {
            Mode::Publish => {}
            Mode::Client => return later("--mode client"),
            Mode::Server => return later("--mode server"),
        }
        if self.verify != Verify::None {
            return later("--verify other than none");
        }
        Ok(())
    }

    /// What is played, as typed.
    fn name(&self) -> String {
        let path = self.input.as_deref().map(shown);
        path.or_else(|| self.recording.clone()).unwrap_or_default()
    }

    fn request(&self) -> pb::ReplaySpec {
        let to_proto = |duration: Option<Duration>| duration.map(duration::to_proto);
        let texts =
            |filters: &[TopicFilter]| filters.iter().map(|filter| filter.as_str().to_owned()).collect();
        pb::ReplaySpec {
            recording: self.name(),
            target: self.target.text.clone(),
            mode: pb::ReplayMode::Publish.into(),
            speed: Some(match self.speed {
                Speed::Factor(factor) => factor,
                Speed::Max => 0.0,
            }),
            selection: Some(pb::ReplaySelection {
                start: to_proto(self.start),
                until: to_proto(self.until),
                duration: to_proto(self.duration),
                topics: texts(&self.topics),
                exclude_topics: texts(&self.exclude_topics),
                clients: self.clients.clone(),
            }),
            max_gap: to_proto(self.max_gap),
            rate: self.rate.unwrap_or_default(),
            loops: Some(match self.repeat {
                Repeat::Times(times) => times,
                Repeat::Forever => 0,
            }),
            as_one: self.r#as.is_some(),
            username: None,
            password: None,
            max_lateness: to_proto(self.max_lateness),
            allow_empty: self.allow_empty,
        }
    }
}

pub async fn run(
    args: ReplayArgs,
    server: Option<&str>,
    config: &Config,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    args.check()?;
    if let Some(receipt) = &args.receipt {
        // Better now than after the replay; nothing is left behind.
        NewFile::check(receipt).map_err(|error| Failure::new(Exit::Usage, error))?;
    }
    let mut stage = Stage::new(&args, server, config, signals).await?;
    let (name, spec) = (args.name(), args.request());
    let speed = spec.speed();
    let outcome = if args.dry_run {
        let target = args.target.url.to_string();
        stage.plan(spec).await.map(|plan| Report::of_plan(name, target, speed, &plan))
    } else {
        stage.play(spec, signals).await
    };
    stage.transport.close().await;
    let report = outcome?;
    if let Some(path) = &args.receipt {
        let mut file = NewFile::create(path)?;
        let unreadable = |error| Failure::usage(format!("{}: {error}", args.name()));
        let receipt = report.receipt(stage.input).map_err(unreadable)?;
        serde_json::to_writer_pretty(&mut file, &receipt).map_err(std::io::Error::from)?;
        file.finish()?;
    }
    let text = match format {
        Format::Json => serde_json::to_string(&report).map_err(std::io::Error::from)?,
        Format::Text => report.text(),
    };
    match &args.receipt {
        _ if text.is_empty() => {}
        Some(receipt) => output::line_beside(receipt, text)?,
        None => output::line(text)?,
    }
    report.verdict()
}

/// What plays: a running server, or a `Control` of this process.
struct Stage {
    transport: Transport,
    /// A file, which only our own can play.
    file: Option<(Control, ReplaySource)>,
    /// That file.
    input: Option<Input>,
}

impl Stage {
    async fn new(
        args: &ReplayArgs,
        server: Option<&str>,
        config: &Config,
        signals: &Signals,
    ) -> Result<Self, Failure> {
        let Some(path) = &args.input else {
            let transport = match server {
                Some(server) => Transport::connect(Some(server), config).await?.0,
                None => host::find_or_store_alone(config).await?.0,
            };
            return Ok(Self { transport, file: None, input: None });
        };
        if server.is_some() {
            return Err(Failure::usage("--input is played by this process; with --server, say --recording"));
        }
        let input = Input::open(path, signals).await?;
        let source = session_file::of_input(path, input.clone(), args.file_format)?;
        let control = host::alone(config);
        let transport = Transport::alone(control.clone());
        Ok(Self { transport, file: Some((control, source)), input: Some(input) })
    }

    async fn plan(&mut self, spec: pb::ReplaySpec) -> Result<pb::ReplayPlan, Failure> {
        if let Some((control, source)) = self.file.take() {
            let name = source.name.clone();
            let planned = control.plan_source(spec, source).await.map_err(Status::from);
            return planned.map_err(|status| Failure::from(status).context(name));
        }
        let request = pb::PlanReplayRequest { spec: Some(spec) };
        Ok(self.transport.replays().plan_replay(request).await?.into_inner())
    }

    async fn create(&mut self, spec: pb::ReplaySpec) -> Result<pb::Replay, Failure> {
        if let Some((control, source)) = self.file.take() {
            return Ok(control.replay_source(spec, source).map_err(Status::from)?);
        }
        let request = pb::CreateReplayRequest { spec: Some(spec) };
        Ok(self.transport.replays().create_replay(request).await?.into_inner())
    }

    /// To its end, or until a signal asks for that.
    async fn play(&mut self, spec: pb::ReplaySpec, signals: &Signals) -> Result<Report, Failure> {
        let (target, speed) = (spec.target.clone(), spec.speed.unwrap_or(1.0));
        let replay = self.create(spec).await?;
        let shown_target = replay.spec.as_ref().map_or(target, |spec| spec.target.clone());
        let speed = if speed == 0.0 { Speed::Max } else { Speed::Factor(speed) };
        announce(&replay.recording_name, &shown_target, speed);
        let request = pb::WatchReplayRequest { id: replay.id.clone() };
        let mut states = self.transport.replays().watch_replay(request).await?.into_inner();
        let mut shown = Shown::default();
        let mut last = replay;
        loop {
            let state = tokio::select! {
                state = states.message() => state?,
                () = signals.asked() => {
                    let request = pb::CancelReplayRequest { id: last.id.clone() };
                    last = self.transport.replays().cancel_replay(request).await?.into_inner();
                    break;
                }
            };
            let Some(state) = state else { break };
            last = state;
            if last.state() == pb::ReplayState::Pending {
                // How many there are is not known yet.
                continue;
            }
            let now = last.progress.unwrap_or_default();
            let (position, elapsed) = (now.position.as_ref(), now.elapsed.as_ref());
            let (position, elapsed) = (duration::from_proto(position), duration::from_proto(elapsed));
            shown.update(now.total, now.sent, now.acked, position, elapsed);
        }
        drop(shown);
        Ok(Report::of_replay(&last))
    }
}

fn announce(recording: &str, target: &str, speed: Speed) {
    match speed {
        Speed::Max => eprintln!("replaying {recording} to {target} without waiting"),
        Speed::Factor(_) => eprintln!("replaying {recording} to {target} at {speed}x"),
    }
}

/// What people see while a replay runs.
#[derive(Default)]
struct Shown {
    progress: Option<Progress>,
}

impl Shown {
    fn update(&mut self, total: Option<u64>, sent: u64, acked: u64, position: Duration, elapsed: Duration) {
        let progress = self.progress.get_or_insert_with(|| match total {
            Some(total) => Progress::bar(total),
            None => Progress::line(),
        });
        progress.update(sent, || {
            format!(
                "{} sent, {acked} acknowledged, at {} of the recording after {}",
                output::count(sent, "message"),
                duration::show(position),
                duration::show(elapsed),
            )
        });
    }
}

/// A target as typed, credentials included, and as read.
#[derive(Clone)]
struct Target {
    text: String,
    url: MqttUrl,
}

/// Without the password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

fn parse_target(text: &str) -> Result<Target, BadUrl> {
    Ok(Target { text: text.to_owned(), url: text.parse()? })
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    rate.filter(|rate| rate.is_finite() && *rate > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_above_0() {
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        for text in ["0", "-1", "nan", "inf", "many"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_password_of_a_target_is_not_shown() {
        let target = parse_target("mqtt://me:s3cret@broker").unwrap();
        assert!(!format!("{target:?}").contains("s3cret"));
    }
}
