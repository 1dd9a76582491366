//! `recordings export | import`: recordings out to files, and in from them.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;

use super::{
    duration,
    event_filter::EventFilterArgs,
    exit::{Exit, Failure},
    file::{NewFile, is_standard_output},
    input::{Input, shown},
    output::{self, Format, json},
    progress::Progress,
    record::counts,
    signal::Signals,
    transport::Transport,
};
use crate::{
    control::{export_progress, pb},
    recording::{FileError, RecordingFormat, sniff},
};

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Id or name
    recording: String,
    /// The file; without it or as `-`, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// json, ndjson, mcap, pcapng or csv [default: as the file's name ends, else json]
    #[arg(long = "format", value_name = "FORMAT", value_parser = parse_format)]
    file_format: Option<RecordingFormat>,
    #[command(flatten)]
    filter: EventFilterArgs,
}

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The file: a recording, a capture of tcpdump or Wireshark, CSV, or what `mosquitto_sub -F %J` printed; `-` is standard
    /// input
    file: PathBuf,
    /// Its name from now on; without it, the one in the file
    #[arg(long)]
    name: Option<String>,
    /// json, ndjson, mcap, pcapng or csv [default: what the file's content says]
    #[arg(long = "format", value_name = "FORMAT", value_parser = parse_format)]
    file_format: Option<RecordingFormat>,
    /// Of a capture: on this TCP port everything is MQTT, also connections that were open when it began; may be given more
    /// than once [default: 1883]
    #[arg(long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// Keep the passwords of CONNECT packets, which are removed otherwise
    #[arg(long)]
    keep_credentials: bool,
    /// Take what is whole of a file that was cut off; not for CSV
    #[arg(long)]
    recover: bool,
}

/// The format for the file at `path`: as asked for, else as its name ends, else JSON.
///
/// # Errors
/// When its name ends as that of no format.
pub fn format_to_write(path: &Path, asked: Option<RecordingFormat>) -> Result<RecordingFormat, Failure> {
    let named = asked.or_else(|| RecordingFormat::of_path(path));
    match (named, path.extension()) {
        (Some(format), _) => Ok(format),
        (None, None) => Ok(RecordingFormat::Json),
        (None, Some(extension)) => {
            let endings = RecordingFormat::ENDINGS.map(|(ending, _)| format!(".{ending}"));
            Err(Failure::usage(format!(
                "{}: no format has files that end in .{}: those of recordings end in {}; or say which with --format",
                path.display(),
                extension.to_string_lossy(),
                endings.join(", "),
            )))
        }
    }
}

/// The format called `name`.
///
/// # Errors
/// For people, with all names.
pub fn parse_format(name: &str) -> Result<RecordingFormat, String> {
    let format = RecordingFormat::from_name(&name.to_ascii_lowercase());
    format.ok_or_else(|| {
        format!("expected one of {}", RecordingFormat::ALL.map(RecordingFormat::name).join(", "))
    })
}

pub async fn export(transport: &Transport, args: ExportArgs, format: Format) -> Result<Exit, Failure> {
    let file_format = match &args.output {
        Some(path) => format_to_write(path, args.file_format)?,
        None => args.file_format.unwrap_or(RecordingFormat::Json),
    };
    let request = pb::ExportRecordingRequest {
        id: args.recording,
        format: pb::RecordingFormat::from(file_format).into(),
        filter: args.filter.filter(),
    };
    let path = args.output.unwrap_or_else(|| PathBuf::from("-"));
    let mut file = NewFile::create(&path)?;
    if let Some(filter) = &request.filter {
        let summary = summary(transport, &request.id, Some(filter.clone())).await?;
        say_if_nothing(&summary, &request.id);
    }
    let size = write_export(transport, request, &mut file).await?;
    file.finish()?;
    say_what_pcap_is(&path, args.file_format);
    match format {
        _ if is_standard_output(&path) => {}
        Format::Json => output::json_line(&serde_json::json!({"output": path, "bytes": size}))?,
        Format::Text => output::line(output::wrote(&path, size))?,
    }
    Ok(Exit::Passed)
}

/// Writes the recording to `path`, which appears when it is whole. Answers with its size in bytes.
///
/// # Errors
/// When the recording can't be read or the file not be written; nothing is left behind then.
pub async fn export_to(
    transport: &Transport,
    id: String,
    path: &Path,
    asked: Option<RecordingFormat>,
) -> Result<u64, Failure> {
    let format = format_to_write(path, asked)?;
    let request =
        pb::ExportRecordingRequest { id, format: pb::RecordingFormat::from(format).into(), filter: None };
    let mut file = NewFile::create(path)?;
    let size = write_export(transport, request, &mut file).await?;
    file.finish()?;
    say_what_pcap_is(path, asked);
    Ok(size)
}

/// The older format has no room for what a recording says.
fn say_what_pcap_is(path: &Path, asked: Option<RecordingFormat>) {
    let is_older = path.extension().is_some_and(|ending| !ending.eq_ignore_ascii_case("pcapng"));
    if asked.is_none() && is_older && RecordingFormat::of_path(path) == Some(RecordingFormat::Pcapng) {
        say(&[format!("{} is pcapng, the only format of captures that is written", path.display())]);
    }
}

/// What is in a recording, as far as `filter` means it.
///
/// # Errors
/// As GetSummary.
pub async fn summary(
    transport: &Transport,
    id: &str,
    filter: Option<pb::EventFilter>,
) -> Result<pb::RecordingSummary, Failure> {
    let request = pb::GetSummaryRequest { id: id.to_owned(), filter };
    Ok(transport.recordings().get_summary(request).await?.into_inner())
}

/// Says so where a filter is for nothing that is in the recording.
pub fn say_if_nothing(summary: &pb::RecordingSummary, id: &str) {
    let pb::RecordingSummary { packet_types, raw, unreadable, marks, faults, .. } = summary;
    if packet_types.is_empty() && marks.is_empty() && faults.is_empty() && raw + unreadable == 0 {
        say_nothing_matches(id);
    }
}

pub fn say_nothing_matches(id: &str) {
    say(&[format!("nothing in {id} is what was asked for (`mockforge recordings show {id}` says what is)")]);
}

async fn write_export(
    transport: &Transport,
    request: pb::ExportRecordingRequest,
    out: &mut impl Write,
) -> Result<u64, Failure> {
    let mut pieces = transport.recordings().export_recording(request).await?.into_inner();
    let mut size = 0;
    let mut shown: Option<Progress> = None;
    let mut notes = Vec::new();
    while let Some(piece) = pieces.message().await? {
        out.write_all(&piece.data)?;
        size += piece.data.len() as u64;
        if let Some(progress) = export_progress(&piece) {
            let shown = shown.get_or_insert_with(|| Progress::bar(progress.events_total));
            shown.update(progress.events, || {
                let (events, total) = (progress.events, progress.events_total);
                format!("{events} of {}, {} written", output::count(total, "event"), output::bytes(size))
            });
            notes.extend(progress.notes);
        }
    }
    out.flush()?;
    drop(shown);
    say(&notes);
    Ok(size)
}

/// What was not taken or had to be assumed.
pub fn say(notes: &[String]) {
    for note in notes {
        eprintln!("mockforge: note: {note}");
    }
}

/// Sent at a time.
const PIECE: usize = 64 << 10;

/// A file that is sent piece by piece.
struct Upload {
    file: Input,
    sent: u64,
    shown: Progress,
    /// Of the first piece, with what is asked for.
    first: Option<pb::ImportRecordingRequest>,
    told: std::sync::mpsc::Sender<std::io::Error>,
}

impl Upload {
    fn next(&mut self) -> Option<pb::ImportRecordingRequest> {
        let mut piece = vec![0; PIECE];
        match self.file.read(&mut piece) {
            // One piece at least, so that an empty file arrives.
            Ok(0) if self.first.is_none() => None,
            Ok(len) => {
                piece.truncate(len);
                self.sent += len as u64;
                let sent = self.sent;
                self.shown.update(sent, || format!("{} sent", output::bytes(sent)));
                let first = self.first.take().unwrap_or_default();
                Some(pb::ImportRecordingRequest { file: Some(body(piece)), ..first })
            }
            Err(error) => {
                // The receiver outlives the stream.
                let _ = self.told.send(error);
                None
            }
        }
    }
}

pub async fn import(
    transport: &Transport,
    args: ImportArgs,
    format: Format,
    signals: &Signals,
) -> Result<(), Failure> {
    let path = &*args.file;
    let name = shown(path);
    let unreadable = |error: std::io::Error| Failure::usage(format!("{name}: {error}"));
    let mut file = Input::open(path, signals).await?;
    let file_format = match args.file_format {
        Some(format) => format,
        None => sniff(&mut file, RecordingFormat::of_path(path)).map_err(|error| of_file(path, &error))?,
    };
    std::io::Seek::rewind(&mut file).map_err(unreadable)?;
    let len = file.size().map_err(unreadable)?;
    // A file that can't be read to its end must not become a recording of its beginning.
    let (told, trouble) = std::sync::mpsc::channel();
    let first = pb::ImportRecordingRequest {
        name: args.name.unwrap_or_default(),
        format: pb::RecordingFormat::from(file_format).into(),
        file: None,
        ports: args.ports.into_iter().map(u32::from).collect(),
        keep_credentials: args.keep_credentials,
        recover: args.recover,
    };
    let upload = Upload { file, sent: 0, shown: Progress::bar(len), first: Some(first), told };
    let pieces =
        stream::unfold(upload, |mut upload| async move { upload.next().map(|piece| (piece, upload)) });
    let mut recordings = transport.recordings();
    let answer = waiting(&name, recordings.import_recording(pieces)).await;
    if let Ok(error) = trouble.try_recv() {
        return Err(unreadable(error));
    }
    let recording = answer.map_err(|status| Failure::from(status).context(name.clone()))?.into_inner();
    say(&recording.notes);
    if args.recover && recording.events == 0 {
        let reason = format!("{name}: nothing could be recovered; {} is empty", recording.name);
        return Err(Failure::new(Exit::Nothing, anyhow::Error::msg(reason)));
    }
    match format {
        Format::Json => output::json_line(&json("Recording", &recording))?,
        Format::Text if recording.already_there() => {
            output::line(format!("{name} is already there as {}", recording.name))?;
        }
        Format::Text => output::line(format!(
            "imported {name} as {}: {}, {} in all",
            recording.name,
            counts(&recording),
            output::count(recording.events, "event"),
        ))?,
    }
    Ok(())
}

/// Between two signs of life.
const SIGN: Duration = Duration::from_secs(1);

/// Says now and then how long `answer` takes, once the file is sent.
async fn waiting<T>(name: &str, answer: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let mut shown = None;
    let mut sign = tokio::time::interval(SIGN);
    sign.tick().await;
    tokio::pin!(answer);
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            _ = sign.tick() => {
                let elapsed = began.elapsed();
                let text = || format!("importing {name} for {}", duration::show(elapsed));
                shown.get_or_insert_with(Progress::line).update(elapsed.as_secs(), text);
            }
        }
    }
}

/// What is wrong with the file at `path`, with the exit code.
pub fn of_file(path: &Path, error: &FileError) -> Failure {
    let exit = if error.is_damage() { Exit::Damaged } else { Exit::Usage };
    Failure::new(exit, anyhow::anyhow!("{}: {error}", shown(path)))
}

fn body(piece: Vec<u8>) -> pb::google::api::HttpBody {
    pb::google::api::HttpBody {
        content_type: "application/octet-stream".to_owned(),
        data: Bytes::from(piece),
        extensions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_file_is_written_as_asked_for_or_as_its_name_ends() {
        let format = |path, asked| {
            format_to_write(Path::new(path), asked).map_err(|failure| failure.error.to_string())
        };
        assert_eq!(format("x.mcap", None), Ok(RecordingFormat::Mcap));
        assert_eq!(format("x.JSONL", None), Ok(RecordingFormat::Ndjson));
        assert_eq!(format("x.mcap", Some(RecordingFormat::Csv)), Ok(RecordingFormat::Csv));
        assert_eq!(format("x.weird", Some(RecordingFormat::Csv)), Ok(RecordingFormat::Csv));
        for path in ["x", "-", "/dev/null"] {
            assert_eq!(format(path, None), Ok(RecordingFormat::Json), "{path}");
        }
        expect![[r#"x.weird: no format has files that end in .weird: those of recordings end in .json, .ndjson, .jsonl, .mcap, .pcapng, .pcap, .cap, .csv; or say which with --format"#]]
            .assert_eq(&format("x.weird", None).unwrap_err());
    }
}
