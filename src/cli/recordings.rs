//! `recordings ls | show | mocks | export | import | rm`.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    broker::state,
    duration,
    exit::{Exit, Failure},
    file::NewFile,
    listing::{self, PAGE},
    output::{self, Format, json},
    record::counts,
    summary,
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
    },
    /// Write mocks that answer requests as they were answered in a recording
    ///
    /// Requests and answers are paired by Response Topic and Correlation Data, by a field that names the topic of the
    /// answer, or by topics and identifiers. The mocks are a section for mockforge.yaml; what was found, and what could
    /// not be explained, is said on standard error.
    Mocks {
        /// Id or name
        recording: String,
        /// The file; without it, standard output
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
    Export {
        /// Id or name
        recording: String,
        /// The file; without it, standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Add a file to the recordings
    Import {
        /// The file, as `mqtt record` or `recordings export` write it
        file: PathBuf,
        /// Its name from now on; without it, the one in the file
        #[arg(long)]
        name: Option<String>,
    },
    /// Delete recordings for good
    Rm {
        /// Ids or names
        #[arg(required = true)]
        recordings: Vec<String>,
    },
}

impl Command {
    /// Whether it has use for an empty store.
    pub fn adds(&self) -> bool {
        matches!(self, Self::Import { .. })
    }
}

pub async fn run(command: Command, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    match command {
        Command::Ls => list(transport, format).await?,
        Command::Show { recording } => show(transport, recording, format).await?,
        Command::Mocks { recording, output, client, telemetry } => {
            let client = client.unwrap_or_default();
            let request = pb::InferMocksRequest { id: recording, client, telemetry };
            return mocks(transport, request, output, format).await;
        }
        Command::Export { recording, output } => return export(transport, recording, output, format).await,
        Command::Import { file, name } => import(transport, &file, name, format).await?,
        Command::Rm { recordings } => return remove(transport, recordings, format).await,
    }
    Ok(Exit::Passed)
}

#[derive(Serialize)]
struct Shown {
    recording: Box<RawValue>,
    summary: Box<RawValue>,
}

async fn list(transport: &Transport, format: Format) -> Result<(), Failure> {
    let recordings = listing::every(async |page_token| {
        let request = pb::ListRecordingsRequest { page_size: PAGE, page_token, ..Default::default() };
        let page = transport.recordings().list_recordings(request).await?.into_inner();
        Ok((page.recordings, page.next_page_token))
    });
    let heading = ["NAME", "STATE", "SOURCE", "STARTED", "SPAN", "PACKETS", "CONNECTIONS", "BYTES", "ID"];
    let shown = |recording: &pb::Recording| json("Recording", recording);
    listing::print(format, ("recordings", "no recordings"), &recordings.await?, shown, heading, row)
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

async fn show(transport: &Transport, id: String, format: Format) -> Result<(), Failure> {
    let request = pb::GetRecordingRequest { id: id.clone() };
    let recording = transport.recordings().get_recording(request).await?.into_inner();
    let summary = transport.recordings().get_summary(pb::GetSummaryRequest { id }).await?.into_inner();
    match format {
        Format::Json => output::json_line(&Shown {
            recording: json("Recording", &recording),
            summary: json("RecordingSummary", &summary),
        })?,
        Format::Text => {
            output::line(output::table(&facts(&recording)))?;
            let text = summary::text(&summary);
            if !text.is_empty() {
                output::line(format!("\n{text}"))?;
            }
        }
    }
    Ok(())
}

fn facts(recording: &pb::Recording) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    vec![
        row("name", recording.name.clone()),
        row("id", recording.id.clone()),
        row("state", state(recording)),
        row("source", source(recording)),
        row("started", output::time(recording.started_at.as_ref())),
        row("span", duration::show(duration::from_proto(recording.duration.as_ref()))),
        row("events", recording.events.to_string()),
        row("packets", format!("{} ({})", recording.packets, output::bytes(recording.bytes))),
        row("gaps", recording.gaps.to_string()),
        row("sha256", if recording.sha256.is_empty() { "-".to_owned() } else { recording.sha256.clone() }),
        row("seed", recording.seed.map_or_else(|| "-".to_owned(), |seed| seed.to_string())),
        row("made by", format!("mockforge {}", recording.tool_version)),
    ]
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

async fn export(
    transport: &Transport,
    id: String,
    output: Option<PathBuf>,
    format: Format,
) -> Result<Exit, Failure> {
    let Some(path) = output else {
        write_export(transport, id, &mut std::io::stdout().lock()).await?;
        return Ok(Exit::Passed);
    };
    let size = export_to(transport, id, &path).await?;
    match format {
        Format::Json => output::json_line(&serde_json::json!({"output": path, "bytes": size}))?,
        Format::Text => output::line(format!("wrote {} ({})", path.display(), output::bytes(size)))?,
    }
    Ok(Exit::Passed)
}

/// Writes the recording to `path`, which appears when it is whole. Answers with its size in bytes.
///
/// # Errors
/// When the recording can't be read or the file not be written; nothing is left behind then.
pub async fn export_to(transport: &Transport, id: String, path: &Path) -> Result<u64, Failure> {
    let mut file = NewFile::create(path).map_err(|error| Failure::new(Exit::Usage, error))?;
    let size = write_export(transport, id, &mut file).await?;
    file.finish()?;
    Ok(size)
}

async fn write_export(transport: &Transport, id: String, out: &mut impl Write) -> Result<u64, Failure> {
    let request = pb::ExportRecordingRequest { id, format: pb::RecordingFormat::Json.into() };
    let mut pieces = transport.recordings().export_recording(request).await?.into_inner();
    let mut size = 0;
    while let Some(piece) = pieces.message().await? {
        out.write_all(&piece.data)?;
        size += piece.data.len() as u64;
    }
    out.flush()?;
    Ok(size)
}

/// Sent at a time.
const PIECE: usize = 64 << 10;

async fn import(
    transport: &Transport,
    path: &Path,
    name: Option<String>,
    format: Format,
) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // A file that can't be read to its end must not become a recording of its beginning.
    let (told, trouble) = std::sync::mpsc::channel();
    let pieces = stream::unfold((file, told, name), |(mut file, told, name)| async move {
        let mut piece = vec![0; PIECE];
        match std::io::Read::read(&mut file, &mut piece) {
            Ok(0) => None,
            Ok(len) => {
                piece.truncate(len);
                let request = pb::ImportRecordingRequest {
                    name: name.unwrap_or_default(),
                    format: pb::RecordingFormat::Json.into(),
                    file: Some(body(piece)),
                };
                Some((request, (file, told, None)))
            }
            Err(error) => {
                // The receiver outlives the stream.
                let _ = told.send(error);
                None
            }
        }
    });
    let answer = transport.recordings().import_recording(pieces).await;
    if let Ok(error) = trouble.try_recv() {
        return Err(unreadable(error));
    }
    let recording =
        answer.map_err(|status| Failure::from(status).context(path.display().to_string()))?.into_inner();
    match format {
        Format::Json => output::json_line(&json("Recording", &recording))?,
        Format::Text if recording.already_there() => {
            output::line(format!("{} is already there as {}", path.display(), recording.name))?;
        }
        Format::Text => output::line(format!(
            "imported {} as {}: {}, {} in all",
            path.display(),
            recording.name,
            counts(&recording),
            output::count(recording.events, "event"),
        ))?,
    }
    Ok(())
}

fn body(piece: Vec<u8>) -> pb::google::api::HttpBody {
    pb::google::api::HttpBody {
        content_type: "application/json".to_owned(),
        data: Bytes::from(piece),
        extensions: Vec::new(),
    }
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
