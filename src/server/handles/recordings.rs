//! What is captured of the traffic, and played again.

use std::{io, path::Path};

use futures_util::StreamExt;
use tokio::{fs::File, io::AsyncWriteExt};

use crate::{
    control::{ControlError, pb},
    recording::RecordingFormat,
    server::running::Link,
};

/// Recordings of a running server.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mockforge::Server;
///
/// let server = Server::builder().start().await?;
/// let recording = server.recordings().start("hello").await?;
/// // … clients talk …
/// recording.mark("after warm-up").await?;
/// let recording = recording.stop().await?;
/// assert_eq!(recording.name, "hello");
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("hello.json");
/// server.recordings().export("hello", &path).await?; // the format by the name: .json, .ndjson, .mcap, .pcapng, .csv
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Recordings {
    link: Link,
}

impl Recordings {
    pub(in crate::server) fn new(link: Link) -> Self {
        Self { link }
    }

    /// Records from here on all that passes the server, under a name that is not taken.
    ///
    /// # Errors
    /// A name that is taken or none; a store that cannot be used.
    pub async fn start(&self, name: &str) -> Result<ActiveRecording, ControlError> {
        self.start_with(pb::StartRecordingRequest { name: name.to_owned(), ..Default::default() }).await
    }

    /// The same with filters, redaction and what else can be said.
    ///
    /// # Errors
    /// As [`start`](Self::start); the error names the field.
    pub async fn start_with(
        &self,
        request: pb::StartRecordingRequest,
    ) -> Result<ActiveRecording, ControlError> {
        let begun = self.link.ask(|control| async move { control.start_recording(request).await }).await?;
        Ok(ActiveRecording { link: self.link.clone(), id: begun.id, name: begun.name })
    }

    /// # Errors
    /// If there is none of that name or id.
    pub async fn get(&self, recording: &str) -> Result<pb::Recording, ControlError> {
        let request = pb::GetRecordingRequest { id: recording.to_owned() };
        self.link.ask(|control| async move { control.get_recording(request).await }).await
    }

    /// Its first events, up to 1,000 and 3 MiB: all of what a test records. [`export`](Self::export) has everything.
    ///
    /// # Errors
    /// As [`get`](Self::get); a recording that is damaged.
    pub async fn events(&self, recording: &str) -> Result<Vec<pb::RecordedEvent>, ControlError> {
        let request =
            pb::ListEventsRequest { id: recording.to_owned(), page_size: 1000, ..Default::default() };
        let page = self.link.ask(|control| async move { control.list_events(request).await }).await?;
        Ok(page.events)
    }

    /// Writes it to a new file, or over an old one; the format is that of the name, else JSON.
    ///
    /// # Errors
    /// As [`get`](Self::get); a file that cannot be written, of which nothing is left then.
    pub async fn export(&self, recording: &str, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref().to_owned();
        let format = RecordingFormat::of_path(&path).unwrap_or(RecordingFormat::Json);
        let request = pb::ExportRecordingRequest {
            id: recording.to_owned(),
            format: pb::RecordingFormat::from(format).into(),
            ..Default::default()
        };
        let mut pieces = self
            .link
            .ask(|control| async move { control.export_recording(request).await })
            .await
            .map_err(io::Error::other)?;
        let temporary = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        let mut file = File::from_std(temporary.reopen()?);
        while let Some(piece) = pieces.next().await {
            file.write_all(&piece.map_err(io::Error::other)?.data).await?;
        }
        file.flush().await?;
        temporary.persist(&path)?;
        Ok(())
    }

    /// Plays a recording and answers when that has ended, with the verdict. Without a target it is played to this server.
    ///
    /// # Errors
    /// As [`get`](Self::get); a field that is not good, by its name; a target that cannot be reached is a verdict.
    pub async fn replay(&self, spec: pb::ReplaySpec) -> Result<pb::Replay, ControlError> {
        self.link
            .ask(|control| async move {
                let begun = control.create_replay(pb::CreateReplayRequest { spec: Some(spec) }).await?;
                let mut course =
                    control.watch_replay(pb::WatchReplayRequest { id: begun.id.clone() }).await?;
                let mut last = begun;
                while let Some(replay) = course.next().await {
                    last = replay?;
                }
                Ok(last)
            })
            .await
    }
}

/// A recording that is being made. Dropped, it goes on until the server ends.
#[must_use = "`stop` completes it"]
pub struct ActiveRecording {
    link: Link,
    id: String,
    name: String,
}

impl ActiveRecording {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// A label at this moment of it.
    ///
    /// # Errors
    /// If it has ended, by whoever else can.
    pub async fn mark(&self, label: &str) -> Result<(), ControlError> {
        let request = pb::MarkRecordingRequest { id: self.id.clone(), label: label.to_owned() };
        self.link.ask(|control| async move { control.mark_recording(request).await }).await?;
        Ok(())
    }

    /// Completes it, and answers when all of it is on disk.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub async fn stop(self) -> Result<pb::Recording, ControlError> {
        let request = pb::StopRecordingRequest { id: self.id.clone() };
        self.link.ask(|control| async move { control.stop_recording(request).await }).await
    }
}
