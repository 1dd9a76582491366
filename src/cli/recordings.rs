//! `recordings ls | show | tail | mocks | export | import | rm`, `snapshot | stop | mark` of a running server, and those that
//! make new ones of them (`edits`).

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    broker::state,
    compare, duration, edits,
    event_filter::EventFilterArgs,
    exit::{Exit, Failure},
    file::{NewFile, is_standard_output},
    listing::{self, PAGE},
    output::{self, Format, json},
    place::Place,
    record::describe,
    signal::Signals,
    summary,
    transfer::{
        ExportArgs, ImportArgs, export, import, say_if_nothing, say_nothing_matches, summary as summary_of,
    },
    transport::Transport,
};
use crate::control::pb;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List recordings in the order they were started
    #[command(visible_alias = "list")]
    Ls,
    /// Say what is in a recording
    Show {
        /// Id or name
        recording: String,
        /// Print every event, a line each
        #[arg(long)]
        events: bool,
        #[command(flatten)]
        filter: EventFilterArgs,
    },
    /// Write down what passed the running server last, which `serve --ring` keeps
    Snapshot {
        /// Its name [default: `flight-` and the time]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        redaction: edits::RedactionArgs,
    },
    /// End a recording that the running server makes
    Stop {
        /// Id or name
        recording: String,
    },
    /// Put a label into a recording that the running server makes, to find the place again
    Mark {
        /// Id or name
        recording: String,
        /// `recordings show` lists them
        label: String,
    },
    /// Print the events of a recording that is being made, as they come
    Tail {
        /// Id or name
        recording: String,
        #[command(flatten)]
        filter: EventFilterArgs,
    },
    /// Cut a part out of a recording, into a new one
    Trim(edits::TrimArgs),
    /// Make one recording of several
    Merge(edits::MergeArgs),
    /// Take out of a recording what must not be in it, into a new one
    Redact(edits::RedactArgs),
    /// Say whether recordings are as they were written (exit code 5 if not)
    Check(edits::CheckArgs),
    /// Say in what a recording differs from another (exit code 1 if it does)
    Compare(compare::CompareArgs),
    /// Write mocks that answer requests as they were answered in a recording
    ///
    /// Requests and answers are paired by Response Topic and Correlation Data, by a field that names the topic of the
    /// answer, or by topics and identifiers. The mocks are a section for mockforge.yaml; what was found, and what could
    /// not be explained, is said on standard error.
    Mocks {
        /// Id or name
        recording: String,
        /// The file; without it or as `-`, standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The device to mock: only clients with such an identifier answer; `*` stands for any characters
        #[arg(long, value_name = "GLOB")]
        client: Option<String>,
        /// Also send what clients publish at a steady pace
        #[arg(long)]
        telemetry: bool,
    },
    /// Write a recording to a file
    Export(ExportArgs),
    /// Add a file to the recordings
    Import(ImportArgs),
    /// Delete recordings for good
    Rm {
        /// Ids or names
        #[arg(required = true)]
        recordings: Vec<String>,
    },
}

impl Command {
    /// Whether nothing but a running server will do.
    pub fn asks_server(&self) -> bool {
        matches!(self, Self::Snapshot { .. } | Self::Stop { .. } | Self::Mark { .. })
    }

    /// Whether it has use for an empty store.
    pub fn adds(&self) -> bool {
        matches!(self, Self::Import(_))
    }
}

pub async fn run(
    command: Command,
    transport: &Transport,
    place: &Place,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    match command {
        Command::Ls => list(transport, place, format).await?,
        Command::Snapshot { name, redaction } => {
            let (name, redaction) = (name.unwrap_or_default(), redaction.redaction()?);
            let request = pb::SnapshotRecordingRequest { name, redaction };
            snapshot(transport, request, format).await?;
        }
        Command::Stop { recording } => {
            let request = pb::StopRecordingRequest { id: recording };
            let recording = transport.recordings().stop_recording(request).await?.into_inner();
            told(&recording, describe(&recording), format)?;
        }
        Command::Mark { recording, label } => {
            let text = format!("marked {recording} {}", output::cell(&label));
            let request = pb::MarkRecordingRequest { id: recording, label };
            let recording = transport.recordings().mark_recording(request).await?.into_inner();
            told(&recording, text, format)?;
        }
        Command::Show { recording, events: true, filter } => {
            return events(transport, recording, filter.filter(), format).await;
        }
        Command::Show { recording, events: false, filter } => {
            show(transport, recording, filter.filter(), format).await?;
        }
        Command::Tail { recording, filter } => {
            return tail(transport, recording, filter.filter(), format, signals).await;
        }
        Command::Trim(args) => return edits::trim(args, transport, format).await,
        Command::Merge(args) => return edits::merge(args, transport, format).await,
        Command::Redact(args) => return edits::redact(args, transport, format).await,
        Command::Check(args) => return edits::check(args, transport, place, format).await,
        Command::Compare(args) => return compare::compare(args, transport, format).await,
        Command::Mocks { recording, output, client, telemetry } => {
            let client = client.unwrap_or_default();
            let request = pb::InferMocksRequest { id: recording, client, telemetry };
            return mocks(transport, request, output, format).await;
        }
        Command::Export(args) => return export(transport, args, format).await,
        Command::Import(args) => import(transport, args, format, signals).await?,
        Command::Rm { recordings } => return remove(transport, recordings, format).await,
    }
    Ok(Exit::Passed)
}

#[derive(Serialize)]
struct Shown {
    recording: Box<RawValue>,
    summary: Box<RawValue>,
}

async fn snapshot(
    transport: &Transport,
    request: pb::SnapshotRecordingRequest,
    format: Format,
) -> Result<(), Failure> {
    let recording = transport.recordings().snapshot_recording(request).await?.into_inner();
    told(&recording, describe(&recording), format)
}

/// What became of a recording: its notes, and it or `text`.
fn told(recording: &pb::Recording, text: String, format: Format) -> Result<(), Failure> {
    for note in &recording.notes {
        eprintln!("{note}");
    }
    match format {
        Format::Json => output::json_line(&json("Recording", recording))?,
        Format::Text => output::line(text)?,
    }
    Ok(())
}

/// Names of all recordings.
pub async fn names(transport: &Transport, place: &Place) -> Result<Vec<String>, Failure> {
    Ok(all(transport, place).await?.into_iter().map(|recording| recording.name).collect())
}

async fn all(transport: &Transport, place: &Place) -> Result<Vec<pb::Recording>, Failure> {
    if matches!(place, Place::Nowhere(_)) {
        return Ok(Vec::new());
    }
    listing::every(async |page_token| {
        let request = pb::ListRecordingsRequest { page_size: PAGE, page_token, ..Default::default() };
        let page = transport.recordings().list_recordings(request).await?.into_inner();
        Ok((page.recordings, page.next_page_token))
    })
    .await
}

async fn list(transport: &Transport, place: &Place, format: Format) -> Result<(), Failure> {
    let heading = ["NAME", "STATE", "SOURCE", "STARTED", "SPAN", "PACKETS", "CONNECTIONS", "BYTES", "ID"];
    let shown = |recording: &pb::Recording| json("Recording", recording);
    let none = format!("no recordings {place}");
    listing::print(format, ("recordings", &none), &all(transport, place).await?, shown, heading, row)
}

fn row(recording: &pb::Recording) -> Vec<String> {
    vec![
        recording.name.clone(),
        state(recording),
        source(recording),
        output::time(recording.started_at.as_ref()),
        duration::show(duration::from_proto(recording.duration.as_ref())),
        recording.packets.to_string(),
        recording.connections.to_string(),
        output::bytes(recording.bytes),
        recording.id.clone(),
    ]
}

fn source(recording: &pb::Recording) -> String {
    let Some(source) = &recording.source else { return "-".to_owned() };
    let kind = output::short(source.kind().as_str_name(), "RECORDING_SOURCE_KIND_");
    if source.upstream.is_empty() { kind } else { format!("{kind} {}", source.upstream) }
}

async fn show(
    transport: &Transport,
    id: String,
    filter: Option<pb::EventFilter>,
    format: Format,
) -> Result<(), Failure> {
    let is_filtered = filter.is_some();
    let request = pb::GetRecordingRequest { id: id.clone() };
    let recording = transport.recordings().get_recording(request).await?.into_inner();
    let summary = summary_of(transport, &id, filter).await?;
    if is_filtered {
        say_if_nothing(&summary, &id);
    }
    match format {
        Format::Json => output::json_line(&Shown {
            recording: json("Recording", &recording),
            summary: json("RecordingSummary", &summary),
        })?,
        Format::Text => {
            output::line(output::table(&facts(&recording)))?;
            if is_filtered {
                output::line("\nof this, what was asked for:")?;
            }
            let text = summary::text(&summary);
            if !text.is_empty() {
                output::line(format!("\n{text}"))?;
            }
        }
    }
    Ok(())
}

async fn events(
    transport: &Transport,
    id: String,
    filter: Option<pb::EventFilter>,
    format: Format,
) -> Result<Exit, Failure> {
    let is_filtered = filter.is_some();
    let request = pb::ReadEventsRequest { id: id.clone(), filter };
    let mut count: u64 = 0;
    let mut events = transport.recordings().read_events(request).await?.into_inner();
    let mut out = NewFile::create(Path::new("-"))?;
    while let Some(event) = events.message().await? {
        count += 1;
        match format {
            Format::Json => writeln!(out, "{}", json("RecordedEvent", &event))?,
            Format::Text => writeln!(out, "{}", event_line(&event))?,
        }
    }
    out.finish()?;
    if is_filtered && count == 0 {
        say_nothing_matches(&id);
    }
    Ok(Exit::Passed)
}

/// Says what became of a recording whose server went away while it was followed.
fn server_ended(failure: Failure, id: &str) -> Failure {
    if failure.exit != Exit::Unreachable {
        return failure;
    }
    failure.context(format!(
        "the server ended; recording {id} is in its store: COMPLETE if the server was told to end, else INTERRUPTED \
         with what had been flushed"
    ))
}

async fn tail(
    transport: &Transport,
    id: String,
    filter: Option<pb::EventFilter>,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let request = pb::TailEventsRequest { id: id.clone(), filter };
    let answer = transport.recordings().tail_events(request).await.map_err(|status| {
        let ended = status.code() == tonic::Code::FailedPrecondition;
        let failure = Failure::from(status);
        if ended {
            let error = failure.error;
            let hint = format!("`mockforge recordings show --events {id}` prints what is in it");
            Failure::new(failure.exit, anyhow::anyhow!("{error:#}; {hint}"))
        } else {
            failure
        }
    });
    let mut stream = answer?.into_inner();
    loop {
        let element = tokio::select! {
            element = stream.message() => element.map_err(|status| server_ended(status.into(), &id))?,
            () = signals.asked() => return Ok(Exit::Passed),
        };
        let Some(element) = element else { return Ok(Exit::Passed) };
        use pb::tail_events_response::Element;
        match (format, &element.element) {
            (Format::Json, _) => output::json_line(&json("TailEventsResponse", &element))?,
            (Format::Text, Some(Element::Event(event))) => output::line(event_line(event))?,
            (Format::Text, Some(Element::Gap(gap))) => {
                output::line(format!(
                    "({} not shown: too many to follow)",
                    output::count(gap.missed, "event")
                ))?;
            }
            (Format::Text, None) => {}
        }
    }
}

/// `     7     1.203412  1 dev-1         → PUBLISH a/b "on"`: number, seconds, connection and client, which way, what.
fn event_line(event: &pb::RecordedEvent) -> String {
    use pb::recorded_event::Kind;
    let direction = match &event.kind {
        Some(Kind::Packet(packet)) => packet.direction(),
        Some(Kind::Raw(raw)) => raw.direction(),
        Some(Kind::Fault(fault)) => fault.direction(),
        _ => pb::Direction::Unspecified,
    };
    let arrow = match direction {
        pb::Direction::ClientToServer => "→",
        pb::Direction::ServerToClient => "←",
        pb::Direction::Unspecified => " ",
    };
    let whose = match (event.connection, event.client_id.as_str()) {
        (0, _) => String::new(),
        (number, "") => number.to_string(),
        (number, client) => format!("{number} {}", output::cell(client)),
    };
    let seconds = duration::from_proto(event.at.as_ref()).as_secs_f64();
    format!("{:>7} {seconds:>12.6}  {whose:<20} {arrow} {}", event.seq, event.text)
}

fn facts(recording: &pb::Recording) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let gaps = match recording.gaps {
        0 => "none".to_owned(),
        gaps => format!("{gaps}: SOMETHING IS MISSING"),
    };
    let mut rows = vec![
        row("name", recording.name.clone()),
        row("id", recording.id.clone()),
        row("state", state(recording)),
        row("source", source(recording)),
        row("started", output::time(recording.started_at.as_ref())),
        row("span", duration::show(duration::from_proto(recording.duration.as_ref()))),
        row("events", recording.events.to_string()),
        row("packets", format!("{} ({})", recording.packets, output::bytes(recording.bytes))),
        row("connections", recording.connections.to_string()),
        row("gaps", gaps),
        row("sha256", if recording.sha256.is_empty() { "-".to_owned() } else { recording.sha256.clone() }),
        row("seed", recording.seed.map_or_else(|| "-".to_owned(), |seed| seed.to_string())),
        row("made by", format!("mockforge {}", recording.tool_version)),
    ];
    rows.extend(recording.edits.iter().map(|edit| row("edited", edit.clone())));
    rows
}

async fn mocks(
    transport: &Transport,
    request: pb::InferMocksRequest,
    output: Option<PathBuf>,
    format: Format,
) -> Result<Exit, Failure> {
    let inferred = transport.recordings().infer_mocks(request).await?.into_inner();
    if inferred.mocks == 0 {
        if format == Format::Json {
            output::json_line(&json("InferMocksResponse", &inferred))?;
        }
        let reasons = inferred.notes.join("; ");
        return Err(Failure::new(Exit::Nothing, anyhow::anyhow!("no request that was answered: {reasons}")));
    }
    for note in &inferred.notes {
        eprintln!("{note}");
    }
    let output = output.filter(|path| !is_standard_output(path));
    if let Some(path) = &output {
        let mut file = NewFile::create(path)?;
        file.write_all(inferred.yaml.as_bytes())?;
        file.finish()?;
    }
    match (format, output) {
        (Format::Json, _) => output::json_line(&json("InferMocksResponse", &inferred))?,
        (Format::Text, None) => output::line(inferred.yaml.strip_suffix('\n').unwrap_or(&inferred.yaml))?,
        (Format::Text, Some(path)) => {
            let mocks = output::count(u64::from(inferred.mocks), "mock");
            output::line(format!("wrote {} ({mocks})", path.display()))?;
        }
    }
    Ok(Exit::Passed)
}

/// Goes on after one that can't be deleted, and ends as the worst did.
async fn remove(transport: &Transport, recordings: Vec<String>, format: Format) -> Result<Exit, Failure> {
    let mut exit = Exit::Passed;
    let mut deleted = Vec::new();
    for id in recordings {
        let request = pb::DeleteRecordingRequest { id: id.clone() };
        match transport.recordings().delete_recording(request).await {
            Ok(_) => {
                if format == Format::Text {
                    output::line(format!("deleted {id}"))?;
                }
                deleted.push(id);
            }
            Err(status) => {
                let failure = Failure::from(status);
                eprintln!("mockforge: {id} is not deleted: {:#}", failure.error);
                exit = std::cmp::max_by_key(exit, failure.exit, |exit| exit.code());
            }
        }
    }
    if format == Format::Json {
        output::json_line(&serde_json::json!({ "deleted": deleted }))?;
    }
    Ok(exit)
}
