//! `mqtt record`: captures traffic into a file, of a running server or of one of its own.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::value::RawValue;
use tonic::Code;

use super::{
    broker::describe as describe_server,
    duration,
    edits::RedactionArgs,
    event_filter::{parse_share, parse_type},
    exit::{Exit, Failure},
    file::NewFile,
    host::{self, Host, name_port_flags},
    output::{self, Format, json},
    progress::Progress,
    signal::Signals,
    target::{TrustArgs, parse_target},
    transfer::{export_to, format_to_write, parse_format},
    transport::Transport,
};
use crate::{
    config::{Config, Flag},
    control::pb,
    net::{MqttUrl, reach},
    recording::{OnOverload, RecordingFormat},
};

#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// The file to write; `-` is standard output
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// json, ndjson, mcap, pcapng or csv [default: as the file's name ends, else json]
    #[arg(long = "format", value_name = "FORMAT", value_parser = parse_format)]
    file_format: Option<RecordingFormat>,
    /// Start a proxy before this broker, mqtt://host:port
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Start a broker (with --upstream: the proxy) on this address [default: mqtt.host and mqtt.port]
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_listen)]
    listen: Option<Listen>,
    /// Record what this broker delivers, mqtt://[user[:password]@]host[:port], as a subscriber
    #[arg(long, value_name = "URL", requires = "subscribe", conflicts_with_all = ["upstream", "listen"])]
    broker: Option<String>,
    /// What to subscribe to there; may be given more than once
    #[arg(long, value_name = "FILTER", requires = "broker")]
    subscribe: Vec<String>,
    /// Highest QoS of what it delivers
    #[arg(long, value_name = "QOS", requires = "broker", value_parser = clap::value_parser!(u32).range(0..=2))]
    qos: Option<u32>,
    /// End by itself after this time, such as 30s
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Name of the recording [default: `recording-` and the time]
    #[arg(long)]
    name: Option<String>,
    /// Keep the passwords of CONNECT packets
    #[arg(long)]
    keep_credentials: bool,
    /// Leave out messages of topics that match none of these filters, and their acknowledgements
    #[arg(long = "topic", value_name = "FILTER")]
    topics: Vec<String>,
    #[command(flatten)]
    redaction: RedactionArgs,
    /// Keep only clients whose identifier matches one of these; `*` stands for any characters, `?` for one
    #[arg(long = "client", value_name = "PATTERN")]
    clients: Vec<String>,
    /// Keep only packets of these types, such as PUBLISH, and what it takes to read them
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = parse_type)]
    types: Vec<pb::PacketType>,
    /// Keep only this share of all clients, each whole, the same ones each time: 0.1 is a tenth
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    sample: Option<f64>,
    /// What gives way when the disk is too slow [default: recorder.on_overload]
    #[arg(long, value_name = "WHAT", value_parser = parse_on_overload)]
    on_overload: Option<pb::OnOverload>,
    /// Folder of the recordings, for a server of its own
    #[arg(long, value_name = "FOLDER")]
    store: Option<String>,
    /// Recording nothing counts as passed
    #[arg(long)]
    allow_empty: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    host: String,
    port: String,
}

impl RecordArgs {
    /// What the flags say of settings.
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let mut say = |key, name, value: &str| flags.push(Flag { key, name, value: value.to_owned() });
        if let Some(upstream) = &self.upstream {
            say("mqtt.upstream", "--upstream", upstream);
        }
        if let Some(Listen { host, port }) = &self.listen {
            say("mqtt.host", "--listen", host);
            say("mqtt.port", "--listen", port);
        }
        if let Some(store) = &self.store {
            say("store.path", "--store", store);
        }
        flags.extend(self.trust.flags());
        flags
    }

    /// Whether a server of its own was asked for.
    fn is_alone(&self) -> bool {
        self.upstream.is_some() || self.listen.is_some() || self.store.is_some()
    }
}

pub async fn run(
    args: RecordArgs,
    server: Option<&str>,
    config: Config,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    if server.is_some() && args.is_alone() {
        return Err(Failure::usage(
            "--server records a running server; --upstream, --listen and --store start one: say one or the other",
        ));
    }
    // Better now than after an hour of traffic; nothing is left behind.
    format_to_write(&args.output, args.file_format)?;
    NewFile::check(&args.output).map_err(|error| Failure::new(Exit::Usage, error))?;

    let found = match server {
        Some(server) => Some(Transport::connect(Some(server), &config).await?),
        None if args.is_alone() => None,
        None => Transport::find(&config).await?,
    };
    match found {
        None if args.broker.is_some() => {
            let transport = Transport::alone(host::alone(&config));
            let keeper = Keeper::Us(&config.store.path);
            let exit = subscribe(&args, &transport, keeper, format, signals).await;
            transport.close().await;
            exit
        }
        Some((transport, info)) => {
            if args.broker.is_none() {
                eprintln!("recording what passes the running server\n{}", describe_server(&info));
            }
            let recording = start(&transport, request(&args)?).await?;
            let watch = watch(&transport, &recording);
            watch_until_end(&args, watch, &recording, std::future::pending(), signals)
                .await
                .map_err(|failure| kept_by_server(failure, &recording, &info, &args.output))?;
            write(&args, &transport, &recording, Keeper::Server, format).await
        }
        None => {
            let store = config.store.path.clone();
            let started = Host::start_recording(alone(config), request(&args)?).await;
            let (mut host, recording) =
                started.map_err(|failure| name_port_flags(failure, "--listen HOST:PORT"))?;
            eprintln!("{}", describe_server(host.info()));
            tokio::spawn(say_if_unreachable(args.upstream.clone()));
            let watch = carry_on(&args, host.transport(), &recording);
            let watched = watch_until_end(&args, watch, &recording, host.ended(), signals).await;
            // Traffic first, so that the recording holds all of it.
            host.stop_traffic().await;
            let exit = match watched {
                Ok(()) => write(&args, host.transport(), &recording, Keeper::Us(&store), format).await,
                Err(failure) => Err(failure),
            };
            host.stop().await?;
            exit
        }
    }
}

/// Records what another broker delivers, without a server.
async fn subscribe(
    args: &RecordArgs,
    transport: &Transport,
    keeper: Keeper<'_>,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let recording = start(transport, request(args)?).await?;
    let watch = watch(transport, &recording);
    watch_until_end(args, watch, &recording, std::future::pending(), signals).await?;
    write(args, transport, &recording, keeper, format).await
}

/// A proxy waits for its broker, and nothing else says so before the first client comes.
async fn say_if_unreachable(upstream: Option<String>) {
    let Some(url) = upstream.and_then(|upstream| upstream.parse::<MqttUrl>().ok()) else { return };
    let why = match tokio::time::timeout(UPSTREAM_PATIENCE, reach(&url)).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer in {} s", UPSTREAM_PATIENCE.as_secs()),
    };
    eprintln!("mockforge: warning: {url} cannot be reached yet: {why}");
}

/// A server for one recording: no control plane, so that it runs beside any other.
pub fn alone(mut config: Config) -> Config {
    config.mqtt.enabled = true;
    config.http.enabled = false;
    config.grpc.enabled = false;
    config
}

/// Whose store the recording is in.
#[derive(Clone, Copy)]
enum Keeper<'a> {
    Server,
    /// The store's folder.
    Us(&'a Path),
}

#[derive(Serialize)]
struct Recorded<'a> {
    recording: Box<RawValue>,
    /// `None` where nothing was written.
    output: Option<&'a Path>,
    bytes: u64,
}

/// # Errors
/// When the key of hashes can't be read.
fn request(args: &RecordArgs) -> Result<pb::StartRecordingRequest, Failure> {
    Ok(pb::StartRecordingRequest {
        redaction: args.redaction.redaction()?,
        name: args.name.clone().unwrap_or_default(),
        topics: args.topics.clone(),
        keep_credentials: args.keep_credentials,
        filter: Some(pb::EventFilter {
            clients: args.clients.clone(),
            types: args.types.iter().map(|kind| (*kind).into()).collect(),
            sample: args.sample.unwrap_or_default(),
            ..Default::default()
        }),
        on_overload: args.on_overload.unwrap_or_default().into(),
        subscriber: args.broker.as_ref().map(|url| pb::SubscriberSource {
            // What is wrong with the URL is told by whoever is to go by it.
            url: parse_target(url).map_or_else(|_| url.clone(), |target| args.trust.apply(target).text),
            filters: args.subscribe.clone(),
            qos: args.qos,
            client_id: String::new(),
        }),
    })
}

/// Says what became of a recording whose server went away, and how to get at it.
fn kept_by_server(
    failure: Failure,
    recording: &pb::Recording,
    server: &pb::ServerInfo,
    output: &Path,
) -> Failure {
    if failure.exit != Exit::Unreachable {
        return failure;
    }
    failure.context(format!(
        "the server ended before {output} was written; recording {name} is in its store, {store}: COMPLETE if \
         the server was told to end, else INTERRUPTED with what had been flushed. Where the server was started, \
         `MOCKFORGE_STORE_PATH={store} mockforge recordings export {name} --output {output}` writes it",
        output = output.display(),
        name = recording.name,
        store = server.store_path,
    ))
}

/// Follows a recording until a signal, the duration or `ended`.
async fn watch_until_end(
    args: &RecordArgs,
    watch: impl Future<Output = Result<(), Failure>>,
    recording: &pb::Recording,
    ended: impl Future<Output = ()>,
    signals: &Signals,
) -> Result<(), Failure> {
    eprintln!("recording {} {}", recording.name, until(args));
    tokio::select! {
        () = signals.asked() => {}
        () = ended => {}
        () = elapsed(args.duration) => {}
        outcome = watch => outcome?,
    }
    Ok(())
}

fn until(args: &RecordArgs) -> String {
    match args.duration {
        Some(duration) => format!("for {}", duration::show(duration)),
        None => "until Ctrl-C".to_owned(),
    }
}

/// Watches a recording of our own traffic, which goes on when the recording fails.
async fn carry_on(
    args: &RecordArgs,
    transport: &Transport,
    recording: &pb::Recording,
) -> Result<(), Failure> {
    watch(transport, recording).await?;
    eprintln!("recording {} has failed; traffic goes on {}", recording.name, until(args));
    std::future::pending().await
}

/// Completes a recording and writes the file, unless there is nothing to write.
async fn write(
    args: &RecordArgs,
    transport: &Transport,
    recording: &pb::Recording,
    keeper: Keeper<'_>,
    format: Format,
) -> Result<Exit, Failure> {
    let recording = stop(transport, recording.id.clone())
        .await
        .map_err(|failure| failure.context(format!("recording {}", recording.name)))?;
    let verdict = verdict(&recording, args.allow_empty);
    let bytes = match &verdict {
        // What is there may be worth more. Bytes that are no packet may be what somebody looks for.
        Err(failure) if failure.exit == Exit::Nothing && recording.bytes == 0 => None,
        _ => Some(export_to(transport, recording.id.clone(), &args.output, args.file_format).await?),
    };
    let text = match format {
        Format::Json => serde_json::to_string(&Recorded {
            recording: json("Recording", &recording),
            output: bytes.map(|_| &*args.output),
            bytes: bytes.unwrap_or_default(),
        })
        .map_err(std::io::Error::from)?,
        Format::Text => {
            let wrote = bytes.map(|bytes| output::wrote(&args.output, bytes));
            let lines = [vec![describe(&recording)], recording.notes.clone(), wrote.into_iter().collect()];
            lines.concat().join("\n")
        }
    };
    output::line_beside(&args.output, text)?;
    match (keeper, bytes) {
        (Keeper::Us(_), None) => {
            let request = pb::DeleteRecordingRequest { id: recording.id.clone() };
            transport.recordings().delete_recording(request).await?;
        }
        (Keeper::Us(store), Some(_)) if format == Format::Text => {
            eprintln!("the recording is also kept in {}", store.display());
        }
        _ => {}
    }
    verdict.map_err(|failure| match bytes {
        None => failure.context(format!("{} was not written", args.output.display())),
        Some(_) => failure,
    })
}

/// What a recording is worth.
///
/// # Errors
/// With the exit code, for one that is damaged, has gaps or is empty.
pub fn verdict(recording: &pb::Recording, allow_empty: bool) -> Result<Exit, Failure> {
    let damaged = |why: &str| Err(Failure::new(Exit::Damaged, anyhow::Error::msg(why.to_owned())));
    if recording.state() == pb::RecordingState::Failed {
        return damaged("the store refused a write: the recording ends there, the log says why");
    }
    if recording.gaps > 0 {
        return damaged("the recording has gaps");
    }
    if recording.packets == 0 && !allow_empty {
        let what = match recording.bytes {
            0 => "nothing was recorded: no packet passed",
            _ => "no packet was recorded: what passed is encrypted, or not MQTT",
        };
        return Err(Failure::new(Exit::Nothing, anyhow::anyhow!("{what} (--allow-empty permits that)")));
    }
    Ok(Exit::Passed)
}

async fn elapsed(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// For a broker to take a connection.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at the counts.
const LOOK: Duration = Duration::from_millis(500);

/// Shows the counts; returns when the recording has ended without us.
async fn watch(transport: &Transport, recording: &pb::Recording) -> Result<(), Failure> {
    let began = Instant::now();
    let mut progress = Progress::line();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let request = pb::GetRecordingRequest { id: recording.id.clone() };
        let now = transport.recordings().get_recording(request).await?.into_inner();
        if now.state() != pb::RecordingState::Recording {
            return Ok(());
        }
        progress.update(now.events, || {
            format!("{}: {}, {}", now.name, duration::show(began.elapsed()), counts(&now))
        });
    }
}

/// `5 packets (1.2 KiB), 1 connection`.
pub fn counts(recording: &pb::Recording) -> String {
    format!(
        "{} ({}), {}",
        output::count(recording.packets, "packet"),
        output::bytes(recording.bytes),
        output::count(recording.connections, "connection"),
    )
}

/// What was captured, on one line.
pub fn describe(recording: &pb::Recording) -> String {
    format!(
        "recorded {}: {}, {}, span {}",
        recording.name,
        output::count(recording.events, "event"),
        counts(recording),
        duration::show(duration::from_proto(recording.duration.as_ref())),
    )
}

/// # Errors
/// As StartRecording.
pub async fn start(
    transport: &Transport,
    request: pb::StartRecordingRequest,
) -> Result<pb::Recording, Failure> {
    let recording = transport.recordings().start_recording(request).await?.into_inner();
    for note in &recording.notes {
        eprintln!("{note}");
    }
    Ok(recording)
}

/// Ends a recording; one that has ended already is answered as it is.
///
/// # Errors
/// As StopRecording and GetRecording.
pub async fn stop(transport: &Transport, id: String) -> Result<pb::Recording, Failure> {
    let request = pb::StopRecordingRequest { id: id.clone() };
    match transport.recordings().stop_recording(request).await {
        Ok(recording) => Ok(recording.into_inner()),
        Err(status) if status.code() == Code::FailedPrecondition => {
            Ok(transport.recordings().get_recording(pb::GetRecordingRequest { id }).await?.into_inner())
        }
        Err(status) => Err(status.into()),
    }
}

fn parse_on_overload(text: &str) -> Result<pb::OnOverload, String> {
    match OnOverload::from_name(text) {
        Some(OnOverload::Block) => Ok(pb::OnOverload::Block),
        Some(OnOverload::Drop) => Ok(pb::OnOverload::Drop),
        None => Err("expected block or drop".to_owned()),
    }
}

/// `127.0.0.1:1883`, `[::1]:1883`, `:1883` (all addresses) or `1883` alone.
fn parse_listen(text: &str) -> Result<Listen, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    if port.parse::<u16>().is_err() {
        return Err("expected HOST:PORT".to_owned());
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(Listen { host: if host.is_empty() { "0.0.0.0" } else { host }.to_owned(), port: port.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read() {
        for (text, host, port) in [
            ("127.0.0.1:1884", "127.0.0.1", "1884"),
            ("[::1]:1884", "::1", "1884"),
            (":1884", "0.0.0.0", "1884"),
            ("1884", "0.0.0.0", "1884"),
        ] {
            assert_eq!(parse_listen(text), Ok(Listen { host: host.into(), port: port.into() }), "{text}");
        }
        assert!(parse_listen("localhost").is_err());
    }

    #[test]
    fn an_empty_recording_is_exit_code_4_unless_allowed() {
        let empty = pb::Recording::default();
        assert_eq!(verdict(&empty, false).unwrap_err().exit, Exit::Nothing);
        assert_eq!(verdict(&empty, true).unwrap(), Exit::Passed);
    }

    #[test]
    fn a_failed_recording_and_one_with_gaps_are_exit_code_5() {
        let failed =
            pb::Recording { state: pb::RecordingState::Failed.into(), packets: 1, ..Default::default() };
        assert_eq!(verdict(&failed, false).unwrap_err().exit, Exit::Damaged);
        let gaps = pb::Recording { gaps: 1, packets: 1, ..Default::default() };
        assert_eq!(verdict(&gaps, true).unwrap_err().exit, Exit::Damaged);
    }
}
