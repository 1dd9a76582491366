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
    exit::{Exit, Failure},
    file::NewFile,
    host::{Host, name_port_flags},
    output::{self, Format, json},
    progress::Progress,
    recordings::export_to,
    signal::Signals,
    transport::Transport,
};
use crate::{
    config::{Config, Flag},
    control::pb,
};

#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Start a proxy before this broker, mqtt://host:port
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Start a broker (with --upstream: the proxy) on this address [default: mqtt.host and mqtt.port]
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_listen)]
    listen: Option<Listen>,
    /// End by itself after this time, such as 30s
    #[arg(long, allow_hyphen_values = true, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Name of the recording [default: `recording-` and the time]
    #[arg(long)]
    name: Option<String>,
    /// Keep the passwords of CONNECT packets
    #[arg(long)]
    keep_credentials: bool,
    /// Leave out PUBLISH packets of topics that match none of these filters
    #[arg(long = "topic", value_name = "FILTER")]
    topics: Vec<String>,
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
    drop(NewFile::create(&args.output).map_err(|error| Failure::new(Exit::Usage, error))?);

    let found = match server {
        Some(server) => Some(Transport::connect(Some(server), &config).await?),
        None if args.is_alone() => None,
        None => Transport::find(&config).await?,
    };
    match found {
        Some((transport, info)) => {
            eprintln!("recording what passes the running server\n{}", describe_server(&info));
            let recording = start(&transport, request(&args)).await?;
            watch_until_end(&args, &transport, &recording, std::future::pending(), signals)
                .await
                .map_err(|failure| kept_by_server(failure, &recording, &info, &args.output))?;
            write(&args, &transport, &recording, format).await
        }
        None => {
            let store = config.store.path.clone();
            let started = Host::start_recording(alone(config), request(&args)).await;
            let (mut host, recording) =
                started.map_err(|failure| name_port_flags(failure, "--listen HOST:PORT"))?;
            eprintln!("{}", describe_server(host.info()));
            let watched = watch_until_end(&args, host.transport(), &recording, host.ended(), signals).await;
            // Traffic first, so that the recording holds all of it.
            host.stop_traffic().await;
            let exit = match watched {
                Ok(()) => write(&args, host.transport(), &recording, format).await,
                Err(failure) => Err(failure),
            };
            host.stop().await?;
            if exit.is_ok() && format == Format::Text {
                eprintln!("the recording is also kept in {}", store.display());
            }
            exit
        }
    }
}

/// A server for one recording: no control plane, so that it runs beside any other.
fn alone(mut config: Config) -> Config {
    config.mqtt.enabled = true;
    config.http.enabled = false;
    config.grpc.enabled = false;
    config
}

#[derive(Serialize)]
struct Recorded<'a> {
    recording: Box<RawValue>,
    output: &'a Path,
    bytes: u64,
}

fn request(args: &RecordArgs) -> pb::StartRecordingRequest {
    pb::StartRecordingRequest {
        name: args.name.clone().unwrap_or_default(),
        topics: args.topics.clone(),
        keep_credentials: args.keep_credentials,
    }
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
    transport: &Transport,
    recording: &pb::Recording,
    ended: impl Future<Output = ()>,
    signals: &Signals,
) -> Result<(), Failure> {
    let until = match args.duration {
        Some(duration) => format!("for {}", duration::show(duration)),
        None => "until Ctrl-C".to_owned(),
    };
    eprintln!("recording {} {until}", recording.name);
    tokio::select! {
        () = signals.asked() => {}
        () = ended => {}
        () = elapsed(args.duration) => {}
        outcome = watch(transport, recording) => outcome?,
    }
    Ok(())
}

/// Completes a recording and writes the file.
async fn write(
    args: &RecordArgs,
    transport: &Transport,
    recording: &pb::Recording,
    format: Format,
) -> Result<Exit, Failure> {
    let recording = stop(transport, recording.id.clone())
        .await
        .map_err(|failure| failure.context(format!("recording {}", recording.name)))?;
    let bytes = export_to(transport, recording.id.clone(), &args.output).await?;
    match format {
        Format::Json => output::json_line(&Recorded {
            recording: json("Recording", &recording),
            output: &args.output,
            bytes,
        })?,
        Format::Text => {
            output::line(describe(&recording))?;
            output::line(format!("wrote {} ({})", args.output.display(), output::bytes(bytes)))?;
        }
    }
    verdict(&recording, args.allow_empty)
}

fn verdict(recording: &pb::Recording, allow_empty: bool) -> Result<Exit, Failure> {
    let damaged = |why: &str| Err(Failure::new(Exit::Damaged, anyhow::Error::msg(why.to_owned())));
    if recording.state() == pb::RecordingState::Failed {
        return damaged("the store refused a write: the recording ends there, the log says why");
    }
    if recording.gaps > 0 {
        return damaged("the recording has gaps");
    }
    if recording.packets == 0 && !allow_empty {
        return Err(Failure::new(
            Exit::Nothing,
            anyhow::anyhow!("nothing was recorded: no packet passed (--allow-empty permits that)"),
        ));
    }
    Ok(Exit::Passed)
}

async fn elapsed(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

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
    Ok(transport.recordings().start_recording(request).await?.into_inner())
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
