//! `mqtt replay`: arguments, progress, report, receipt and exit code of a replay.

use std::{
    collections::VecDeque,
    future::Future,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use tonic::Status;

use super::{
    duration,
    exit::{Exit, Failure},
    file::{NewFile, is_standard_output},
    host,
    input::{Input, shown},
    keys::{self, Key, Keys},
    output::{self, Format},
    progress::Progress,
    report::Report,
    session_file,
    signal::Signals,
    target::{Target, TrustArgs, parse_target},
    transfer::parse_format,
    transport::Transport,
};
use crate::{
    config::Config,
    control::{Control, ReplaySource, pb},
    packet::TopicFilter,
    recording::{
        RecordingFormat,
        player::{Repeat, Speed},
    },
};

/// Where nothing else is said.
const TARGET: &str = "mqtt://127.0.0.1:1883";
const LISTEN: &str = "127.0.0.1:1883";

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
    /// The broker to send to, mqtt://[user[:password]@]host[:port] [default: mqtt://127.0.0.1:1883]; of mode server the one
    /// that --on-miss passthrough asks. Given twice: the same clients at both, what comes back compared
    #[arg(long = "target", value_name = "URL", value_parser = parse_target)]
    targets: Vec<Target>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Factor from 0.001 to 1000; `max` or 0 does not wait
    #[arg(long, default_value = "1.0", allow_negative_numbers = true)]
    speed: Speed,
    /// How the recording is played [default: publish, with --verify client]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Of mode client: what has to have come before a client goes on [default: session]
    #[arg(long, value_enum)]
    causality: Option<Causality>,
    /// Of mode client: divide keep alive and expiry intervals by the speed
    #[arg(long)]
    scale_intervals: bool,
    /// Of mode server: where it listens [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Of mode server: what becomes of what no recorded client did [default: ignore]
    #[arg(long, value_enum)]
    on_miss: Option<OnMiss>,
    /// Of mode server: serve at most so long [default: until all was played]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// What is compared of what comes back; with modes client and server
    #[arg(long, value_enum)]
    verify: Option<Verify>,
    /// What may differ: a list of rules, YAML or JSON
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// What has not come when nothing came for so long is missing [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    settle: Option<Duration>,
    /// Topics that match the pattern as a whole become the topic, with $1 for its first group; may be given more than once
    #[arg(long = "map-topic", value_name = "PATTERN=TOPIC")]
    map_topics: Vec<String>,
    /// What clients are called, with {{client_id}}, {{run_id}} and {{i}} for the copy's number; no two the same. For modes
    /// client and server, and with --multiply
    #[arg(long, value_name = "TEMPLATE")]
    map_client: Option<String>,
    /// Times in JSON payloads, such as $.ts, become those of now: a JSONPath; may be given more than once
    #[arg(long = "shift-time", value_name = "PATH")]
    shift_times: Vec<String>,
    /// Copies of each recorded client, called {{client_id}}-{{i}} if --map-client says nothing else
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    multiply: Option<u32>,
    /// The copies begin at times drawn over so long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    spread: Option<Duration>,
    /// Of what is drawn
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Send everything over one connection instead of one per recorded client
    #[arg(long = "as", value_enum, value_name = "one")]
    r#as: Option<As>,
    /// Only topics that match, by their recorded names; may be given more than once
    #[arg(long = "topic", value_name = "FILTER", value_parser = TopicFilter::parse)]
    topics: Vec<TopicFilter>,
    /// No topics that match, by their recorded names; may be given more than once
    #[arg(long = "exclude-topic", value_name = "FILTER", value_parser = TopicFilter::parse)]
    exclude_topics: Vec<TopicFilter>,
    /// Only messages of these client identifiers, as recorded, `*` for any characters; may be given more than once
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
    /// How many times to play it, or `forever` [default: 1]
    #[arg(long = "loop", value_name = "N|forever")]
    repeat: Option<Repeat>,
    /// Fail (exit code 6) when a message is sent later than this after its time
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = duration::parse)]
    max_lateness: Option<Duration>,
    /// Sending nothing counts as passed
    #[arg(long)]
    allow_empty: bool,
    /// Stand still until a key goes on: space, n or b
    #[arg(long, conflicts_with = "dry_run")]
    paused: bool,
    /// Say what would be sent and how long it would take
    #[arg(long)]
    dry_run: bool,
    /// Write what was played and how it went to this file, as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    #[command(flatten)]
    reports: ReportFiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Sends the messages that clients published
    Publish,
    /// Stands in for every recorded client: connects, subscribes, publishes and ends as it did
    Client,
    /// Plays the recorded broker to live clients
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Causality {
    /// What it had been answered, who is subscribed, and the topic's message before
    Session,
    /// Nothing: times alone
    None,
    /// Every answer that anybody had got
    Global,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnMiss {
    /// It is answered as any broker would
    Ignore,
    /// The same, and the replay has failed
    Fail,
    /// It goes to --target, and what that answers and sends comes back
    Passthrough,
    /// The connection is closed
    Disconnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Verify {
    None,
    /// How many messages each client got on each topic
    Count,
    /// Messages: payload, QoS, RETAIN and properties
    Payload,
    /// The same, and all other packets, and how connections ended
    Packets,
}

impl Verify {
    /// As requests say it, with the rules of a file.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn spec(
        self,
        rules: Option<&Path>,
        settle: Option<Duration>,
    ) -> Result<Option<pb::VerificationSpec>, Failure> {
        let level = match self {
            Self::None => return Ok(None),
            Self::Count => pb::VerificationLevel::Count,
            Self::Payload => pb::VerificationLevel::Payload,
            Self::Packets => pb::VerificationLevel::Packets,
        };
        let rules = match rules {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?,
        };
        Ok(Some(pb::VerificationSpec { level: level.into(), rules, settle: settle.map(duration::to_proto) }))
    }
}

const CLIENTS_SET_THE_PACE: &str = "is not for --mode server, where clients come when they do";

/// Files that say what was compared.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Reports")]
pub struct ReportFiles {
    /// Write what was compared as JUnit XML; a test case for each session
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write what was compared as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write what was compared as a page that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl ReportFiles {
    pub fn wanted(&self) -> impl Iterator<Item = (&Path, pb::ReportFormat)> {
        let files = [
            (&self.junit, pb::ReportFormat::Junit),
            (&self.json, pb::ReportFormat::Json),
            (&self.html, pb::ReportFormat::Html),
        ];
        files.into_iter().filter_map(|(path, format)| Some((path.as_deref()?, format)))
    }

    /// Takes away the files of a run before, which would be taken for this one's, that compared nothing.
    fn forget(&self) {
        for (path, _) in self.wanted().filter(|(path, _)| path.is_file()) {
            // One that stays is contradicted by the exit code.
            let _ = std::fs::remove_file(path);
        }
    }
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

    /// As `mqtt verify`, which compares unless it is told not to.
    pub fn verifying(mut self) -> Self {
        self.verify.get_or_insert(Verify::Payload);
        self
    }

    fn verify(&self) -> Verify {
        self.verify.unwrap_or(if self.targets.len() > 1 { Verify::Payload } else { Verify::None })
    }

    fn mode(&self) -> Mode {
        self.mode.unwrap_or(if self.verify() == Verify::None { Mode::Publish } else { Mode::Client })
    }

    fn check(&self) -> Result<(), Failure> {
        let mode = self.mode();
        if self.targets.len() > 2 || self.targets.len() == 2 && mode != Mode::Client {
            return Err(Failure::usage(
                "--target may be given twice, with --mode client, to compare the two",
            ));
        }
        if self.targets.len() == 2 && self.verify() == Verify::None {
            return Err(Failure::usage("two targets are compared: --verify count, payload or packets"));
        }
        if mode == Mode::Publish && self.verify() != Verify::None {
            return Err(Failure::usage("--verify needs --mode client: publishing alone receives nothing"));
        }
        let has_reports = self.reports.wanted().next().is_some();
        if self.verify() == Verify::None && (self.rules.is_some() || self.settle.is_some() || has_reports) {
            return Err(Failure::usage("--rules, --settle, --junit, --json and --html need --verify"));
        }
        if self.dry_run && has_reports {
            return Err(Failure::usage(
                "--junit, --json and --html say how it went, and --dry-run does nothing",
            ));
        }
        let asks_target = mode != Mode::Server || self.on_miss == Some(OnMiss::Passthrough);
        let copies = self.multiply.is_some_and(|copies| copies > 1);
        let (publish, client, server) = (mode == Mode::Publish, mode == Mode::Client, mode == Mode::Server);
        for (flag, is_given, has_meaning, what) in [
            ("--as", self.r#as.is_some(), publish, "is for --mode publish"),
            ("--causality", self.causality.is_some(), client, "is for --mode client"),
            ("--scale-intervals", self.scale_intervals, client, "is for --mode client"),
            ("--listen", self.listen.is_some(), server, "is for --mode server"),
            ("--on-miss", self.on_miss.is_some(), server, "is for --mode server"),
            ("--timeout", self.timeout.is_some(), server, "is for --mode server"),
            (
                "--target",
                !self.targets.is_empty(),
                asks_target,
                "is asked in mode server only with --on-miss passthrough",
            ),
            ("--max-gap", self.max_gap.is_some(), !server, CLIENTS_SET_THE_PACE),
            ("--rate", self.rate.is_some(), !server, CLIENTS_SET_THE_PACE),
            ("--loop", self.repeat.is_some(), !server, CLIENTS_SET_THE_PACE),
            ("--start", self.start.is_some(), !server, CLIENTS_SET_THE_PACE),
            ("--max-lateness", self.max_lateness.is_some(), !server, CLIENTS_SET_THE_PACE),
            ("--spread", self.spread.is_some(), copies, "is for copies, with --multiply"),
            ("--seed", self.seed.is_some(), copies, "is for copies, with --multiply"),
            (
                "--map-client",
                self.map_client.is_some(),
                !publish || copies,
                "is for --mode client and server, and for copies: --mode publish uses connections of its own",
            ),
        ] {
            if is_given && !has_meaning {
                return Err(Failure::usage(format!("{flag} {what}")));
            }
        }
        for (path, _) in self.reports.wanted() {
            NewFile::check(path).map_err(|error| Failure::new(Exit::Usage, error))?;
        }
        Ok(())
    }

    fn reads_standard_input(&self) -> bool {
        self.input.as_deref().is_some_and(is_standard_output)
    }

    /// What is played, as typed.
    fn name(&self) -> String {
        let path = self.input.as_deref().map(shown);
        path.or_else(|| self.recording.clone()).unwrap_or_default()
    }

    fn request(&self) -> Result<pb::ReplaySpec, Failure> {
        let to_proto = |duration: Option<Duration>| duration.map(duration::to_proto);
        let texts =
            |filters: &[TopicFilter]| filters.iter().map(|filter| filter.as_str().to_owned()).collect();
        Ok(pb::ReplaySpec {
            recording: self.name(),
            target: match self.targets.first() {
                Some(target) => target.text.clone(),
                None if self.mode() == Mode::Server => String::new(),
                None => TARGET.to_owned(),
            },
            mode: match self.mode() {
                Mode::Publish => pb::ReplayMode::Publish,
                Mode::Client => pb::ReplayMode::Client,
                Mode::Server => pb::ReplayMode::Server,
            }
            .into(),
            listen: match self.listen {
                Some(address) => address.to_string(),
                None if self.mode() == Mode::Server => LISTEN.to_owned(),
                None => String::new(),
            },
            on_miss: match self.on_miss {
                None => pb::ReplayOnMiss::Unspecified,
                Some(OnMiss::Ignore) => pb::ReplayOnMiss::Ignore,
                Some(OnMiss::Fail) => pb::ReplayOnMiss::Fail,
                Some(OnMiss::Passthrough) => pb::ReplayOnMiss::Passthrough,
                Some(OnMiss::Disconnect) => pb::ReplayOnMiss::Disconnect,
            }
            .into(),
            timeout: to_proto(self.timeout),
            causality: match self.causality {
                None => pb::ReplayCausality::Unspecified,
                Some(Causality::Session) => pb::ReplayCausality::Session,
                Some(Causality::None) => pb::ReplayCausality::None,
                Some(Causality::Global) => pb::ReplayCausality::Global,
            }
            .into(),
            scale_intervals: self.scale_intervals,
            verify: self.verify().spec(self.rules.as_deref(), self.settle)?,
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
            loops: self.repeat.map(|repeat| match repeat {
                Repeat::Times(times) => times,
                Repeat::Forever => 0,
            }),
            as_one: self.r#as.is_some(),
            username: None,
            password: None,
            max_lateness: to_proto(self.max_lateness),
            allow_empty: self.allow_empty,
            map_topics: self.map_topics.clone(),
            map_client: self.map_client.clone().unwrap_or_default(),
            multiply: self.multiply.unwrap_or_default(),
            spread: to_proto(self.spread),
            seed: self.seed,
            start_paused: self.paused,
            shift_times: self.shift_times.clone(),
            other_target: self.targets.get(1).map(|target| target.text.clone()).unwrap_or_default(),
        })
    }
}

pub async fn run(
    mut args: ReplayArgs,
    server: Option<&str>,
    config: &Config,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    args.check()?;
    args.targets = args.targets.into_iter().map(|target| args.trust.apply(target)).collect();
    if let Some(receipt) = &args.receipt {
        // Better now than after the replay; nothing is left behind.
        NewFile::check(receipt).map_err(|error| Failure::new(Exit::Usage, error))?;
    }
    let forget = |_: &Failure| args.reports.forget();
    let mut stage = Stage::new(&args, server, config, signals).await.inspect_err(forget)?;
    let (name, spec) = (args.name(), args.request()?);
    let speed = spec.speed();
    let outcome = if args.dry_run {
        let typed = args.targets.iter().map(|target| target.url.to_string());
        let target = match typed.collect::<Vec<_>>().join(" and ") {
            none if none.is_empty() => spec.target.clone(),
            typed => typed,
        };
        stage.plan(spec).await.map(|plan| Report::of_plan(name, target, speed, &plan))
    } else {
        // What comes from standard input is no keys.
        let keys = if args.reads_standard_input() { None } else { Keys::listen(signals) };
        match keys {
            None if args.paused => Err(Failure::usage(
                "--paused needs keys to go on: standard input, output or error is no terminal",
            )),
            keys => stage.play(spec, &args.reports, keys, signals).await,
        }
    };
    stage.transport.close().await;
    let report = outcome.inspect_err(forget)?;
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
            return Ok(control.replay_source(spec, source).await.map_err(Status::from)?);
        }
        let request = pb::CreateReplayRequest { spec: Some(spec) };
        Ok(self.transport.replays().create_replay(request).await?.into_inner())
    }

    /// To its end, or until a signal asks for that.
    async fn play(
        &mut self,
        spec: pb::ReplaySpec,
        reports: &ReportFiles,
        mut keys: Option<Keys>,
        signals: &Signals,
    ) -> Result<Report, Failure> {
        let (target, speed) = (spec.target.clone(), spec.speed.unwrap_or(1.0));
        let replay = self.create(spec).await?;
        let shown_target = replay.spec.as_ref().map_or(target, targets);
        let speed = if speed == 0.0 { Speed::Max } else { Speed::Factor(speed) };
        match replay.address.as_str() {
            "" => announce(&replay.recording_name, &shown_target, speed),
            address => eprintln!("playing the broker of {} on mqtt://{address}", replay.recording_name),
        }
        let request = pb::WatchReplayRequest { id: replay.id.clone() };
        let mut states = self.transport.replays().watch_replay(request).await?.into_inner();
        if keys.is_some() {
            eprintln!("{}", keys::HELP);
        }
        let mut shown = Shown::default();
        let mut last = replay;
        let mut steering = Steering::default();
        let mut asking: Option<Answer<'_>> = None;
        loop {
            if asking.is_none()
                && let Some(asked) = steering.next(&last)
            {
                asking = Some(Box::pin(self.ask(last.id.clone(), asked)));
            }
            let answered = async {
                match &mut asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            let pressed = async {
                match &mut keys {
                    Some(keys) => keys.next().await,
                    None => std::future::pending().await,
                }
            };
            let state = tokio::select! {
                state = states.message() => state?,
                key = pressed => match key {
                    Key::Quit => None,
                    Key::Help => {
                        shown.say(keys::HELP);
                        continue;
                    }
                    key => {
                        steering.press(key);
                        continue;
                    }
                },
                answer = answered => {
                    asking = None;
                    match answer {
                        Ok(replay) => Some(replay),
                        Err(status) => {
                            steering.sought = None;
                            shown.say(status.message());
                            continue;
                        }
                    }
                }
                () = signals.asked() => None,
            };
            // The last one has its report.
            let Some(state) = state else {
                if last.report.is_none() {
                    let request = pb::CancelReplayRequest { id: last.id.clone() };
                    last = self.transport.replays().cancel_replay(request).await?.into_inner();
                }
                break;
            };
            last = state;
            if last.state() == pb::ReplayState::Pending {
                // How many there are is not known yet.
                continue;
            }
            let now = last.progress.unwrap_or_default();
            let (position, elapsed) = (now.position.as_ref(), now.elapsed.as_ref());
            let (position, elapsed) = (duration::from_proto(position), duration::from_proto(elapsed));
            let course = course(&now, speed);
            shown.update(now.total, now.sent, now.acked, position, elapsed, &course);
        }
        // Before anything else is said: the terminal is as it was.
        drop((shown, keys));
        let mut report = Report::of_replay(&last);
        if self.input.is_none() {
            let request = pb::GetRecordingRequest { id: last.recording_id.clone() };
            // It may have been deleted meanwhile.
            if let Ok(recording) = self.transport.recordings().get_recording(request).await {
                report.set_recording_sha256(recording.into_inner().sha256);
            }
        }
        if last.report.as_ref().is_some_and(|report| report.verification.is_some()) {
            let json = self.report(&last.id, pb::ReportFormat::Json).await?;
            let text = self.report(&last.id, pb::ReportFormat::Text).await?;
            report.set_verification(&json, text).map_err(std::io::Error::from)?;
        }
        if last.report.is_none() {
            reports.forget();
            return Ok(report);
        }
        // Without a verdict, too: they say that nothing was compared.
        for (path, format) in reports.wanted() {
            let text = self.report(&last.id, format).await?;
            let mut file = NewFile::create(path)?;
            file.write_all(text.as_bytes())?;
            file.finish()?;
        }
        Ok(report)
    }

    /// Has a replay do what a key asks for.
    async fn ask(&self, id: String, asked: Asked) -> Result<pb::Replay, Status> {
        let mut replays = self.transport.replays();
        let answer = match asked {
            Asked::Pause => replays.pause_replay(pb::PauseReplayRequest { id }).await,
            Asked::Resume => replays.resume_replay(pb::ResumeReplayRequest { id }).await,
            Asked::Burst(count) => replays.burst_replay(pb::BurstReplayRequest { id, count }).await,
            Asked::SetSpeed(speed) => {
                replays.set_replay_speed(pb::SetReplaySpeedRequest { id, speed: Some(speed) }).await
            }
            Asked::Seek(position) => {
                let position = Some(duration::to_proto(position));
                replays.seek_replay(pb::SeekReplayRequest { id, position }).await
            }
        };
        Ok(answer?.into_inner())
    }

    async fn report(&self, id: &str, format: pb::ReportFormat) -> Result<String, Failure> {
        let request = pb::GetReplayReportRequest { id: id.to_owned(), format: format.into() };
        Ok(self.transport.replays().get_replay_report(request).await?.into_inner().report)
    }
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<pb::Replay, Status>> + 'a>>;

/// Keys that wait until what was asked before them is answered.
#[derive(Default)]
struct Steering {
    keys: VecDeque<Key>,
    sought: Option<Sought>,
}

/// Where the last seek went from and to, as long as the replay does not show it.
#[derive(Clone, Copy)]
struct Sought {
    from: Duration,
    to: Duration,
}

/// Those beyond are left out.
const KEYS_MAX: usize = 16;

impl Steering {
    fn press(&mut self, key: Key) {
        if self.keys.len() < KEYS_MAX {
            self.keys.push_back(key);
        }
    }

    /// What the next key asks for.
    fn next(&mut self, replay: &pb::Replay) -> Option<Asked> {
        let key = self.keys.pop_front()?;
        let now = replay.progress.unwrap_or_default();
        let shown = duration::from_proto(now.position.as_ref());
        self.sought = self.sought.filter(|sought| !sought.is_shown_at(shown));
        let position = self.sought.map_or(shown, |sought| sought.to);
        let asked = Asked::of(key, &now, position)?;
        if let Asked::Seek(to) = asked {
            self.sought = Some(Sought { from: shown, to });
        }
        Some(asked)
    }
}

impl Sought {
    /// Whether the replay has come to `position` after it.
    fn is_shown_at(self, position: Duration) -> bool {
        let between = self.from.min(self.to)..=self.from.max(self.to);
        !between.contains(&position) || position.abs_diff(self.to) <= position.abs_diff(self.from)
    }
}

/// What a key comes to, as a replay stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Pause,
    Resume,
    Burst(u64),
    /// 0 does not wait.
    SetSpeed(f64),
    Seek(Duration),
}

/// How far an arrow goes.
const SEEK: Duration = Duration::from_secs(10);
const BURST: u64 = 10;

impl Asked {
    /// `None` for keys that ask the replay for nothing.
    fn of(key: Key, now: &pb::ReplayProgress, position: Duration) -> Option<Self> {
        let faster = |factor: f64| (now.speed * factor).clamp(0.001, 1000.0);
        Some(match key {
            Key::PauseOrResume if now.paused => Self::Resume,
            Key::PauseOrResume => Self::Pause,
            Key::Step => Self::Burst(1),
            Key::Burst => Self::Burst(BURST),
            // What does not wait has no speed: it gets the recorded one.
            Key::Slower if now.speed == 0.0 => Self::SetSpeed(1.0),
            Key::Faster if now.speed == 0.0 => Self::SetSpeed(0.0),
            Key::Faster => Self::SetSpeed(faster(2.0)),
            Key::Slower => Self::SetSpeed(faster(0.5)),
            Key::Max => Self::SetSpeed(0.0),
            Key::Back => Self::Seek(position.saturating_sub(SEEK)),
            Key::Forth => {
                let end = now.end.as_ref().map_or(Duration::MAX, |end| duration::from_proto(Some(end)));
                Self::Seek((position + SEEK).min(end))
            }
            Key::Quit | Key::Help => return None,
        })
    }
}

/// What is otherwise than it was asked for at first.
fn course(now: &pb::ReplayProgress, asked: Speed) -> String {
    let speed = if now.speed == 0.0 { Speed::Max } else { Speed::Factor(now.speed) };
    let speed = match speed {
        speed if speed == asked => String::new(),
        Speed::Max => ", without waiting".to_owned(),
        Speed::Factor(factor) => format!(", at {factor}x"),
    };
    let paused = if now.paused { ", paused" } else { "" };
    format!("{speed}{paused}")
}

/// What is played to, in words.
pub fn targets(spec: &pb::ReplaySpec) -> String {
    match &*spec.other_target {
        "" => spec.target.clone(),
        other => format!("{} and {other}", spec.target),
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
    fn say(&self, text: &str) {
        match &self.progress {
            Some(progress) => progress.say(text),
            None => eprintln!("{text}"),
        }
    }

    fn update(
        &mut self,
        total: Option<u64>,
        sent: u64,
        acked: u64,
        position: Duration,
        elapsed: Duration,
        course: &str,
    ) {
        let progress = self.progress.get_or_insert_with(|| match total {
            Some(total) => Progress::bar(total),
            None => Progress::line(),
        });
        progress.update(sent, || {
            format!(
                "{} sent, {acked} acknowledged, at {} of the recording after {}{course}",
                output::count(sent, "message"),
                duration::show(position),
                duration::show(elapsed),
            )
        });
    }
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
    fn keys_ask_for_what_they_mean_where_a_replay_stands() {
        let stands = |paused, speed, position: u64| {
            let at = |seconds| Some(duration::to_proto(Duration::from_secs(seconds)));
            let progress = pb::ReplayProgress {
                paused,
                speed,
                position: at(position),
                end: at(60),
                ..Default::default()
            };
            pb::Replay { progress: Some(progress), ..Default::default() }
        };
        for (key, replay, asked) in [
            (Key::PauseOrResume, stands(false, 1.0, 0), Asked::Pause),
            (Key::PauseOrResume, stands(true, 1.0, 0), Asked::Resume),
            (Key::Faster, stands(false, 2.0, 0), Asked::SetSpeed(4.0)),
            (Key::Faster, stands(false, 900.0, 0), Asked::SetSpeed(1000.0)),
            (Key::Slower, stands(false, 2.0, 0), Asked::SetSpeed(1.0)),
            (Key::Slower, stands(false, 0.0, 0), Asked::SetSpeed(1.0)),
            (Key::Back, stands(false, 1.0, 4), Asked::Seek(Duration::ZERO)),
            (Key::Forth, stands(false, 1.0, 4), Asked::Seek(Duration::from_secs(14))),
            (Key::Forth, stands(false, 1.0, 55), Asked::Seek(Duration::from_secs(60))),
        ] {
            let mut steering = Steering::default();
            steering.press(key);
            assert_eq!(steering.next(&replay), Some(asked), "{key:?}");
        }
    }

    #[test]
    fn an_arrow_goes_on_from_where_the_one_before_went() {
        let at = |seconds| Some(duration::to_proto(Duration::from_secs(seconds)));
        let stands = |position| {
            let progress = pb::ReplayProgress { position: at(position), end: at(90), ..Default::default() };
            pb::Replay { progress: Some(progress), ..Default::default() }
        };
        let mut steering = Steering::default();
        // The key, where the replay is shown then, and where it is to go.
        for (key, shown, wanted) in [
            (Key::Forth, 5, 15),
            (Key::Forth, 5, 25),
            // It is there.
            (Key::Forth, 24, 34),
            (Key::Back, 24, 24),
            // It has played on.
            (Key::Back, 60, 50),
            (Key::Back, 60, 40),
            (Key::Back, 61, 51),
        ] {
            steering.press(key);
            let asked = steering.next(&stands(shown));
            assert_eq!(asked, Some(Asked::Seek(Duration::from_secs(wanted))), "{key:?} at {shown}");
        }
    }
}
