//! A recording in a file, read in place: for replays that need neither store nor server.

use std::{
    path::Path,
    sync::{Arc, Once},
};

use super::{
    exit::Failure,
    input::{Input, shown},
    signal::Signals,
    transfer::{of_file, say},
};
use crate::{
    control::ReplaySource,
    net::replay::{EventSource, Events, EventsError},
    recording::{Event, FileError, FileEvents, ReadOptions, RecordingFile, RecordingFormat, RecordingSource},
};

/// The recording in the file, which is known to be whole afterwards. `format` is what it says by
/// itself if `None`.
///
/// # Errors
/// [`Exit::Usage`](super::exit::Exit) for a file that can't be read or is of another version,
/// [`Exit::Damaged`](super::exit::Exit) for a broken one, with its place.
pub async fn open(
    path: &Path,
    format: Option<RecordingFormat>,
    signals: &Signals,
) -> Result<ReplaySource, Failure> {
    of_input(path, Input::open(path, signals).await?, format)
}

/// As [`open`], of the file at `path` that is open already.
pub fn of_input(path: &Path, file: Input, format: Option<RecordingFormat>) -> Result<ReplaySource, Failure> {
    let options = ReadOptions { format, named: RecordingFormat::of_path(path), ..ReadOptions::default() };
    let reader = RecordingFile::open(file.clone(), &options).map_err(|error| of_file(path, &error))?;
    let head = reader.head();
    // Once is enough for a file that is sniffed.
    let options = ReadOptions { format: Some(reader.format()), ..options };
    Ok(ReplaySource {
        id: String::new(),
        name: shown(path),
        events: events(file, options),
        deliveries: head.source.as_ref().is_some_and(RecordingSource::is_subscriber),
        gaps: head.gaps,
        state: head.state,
        started_at: head.started_at,
        until_finished: false,
        is_strict: true,
    })
}

/// Its events, as often as asked for.
fn events(file: Input, options: ReadOptions) -> EventSource {
    let said = Arc::new(Once::new());
    Arc::new(move || {
        let events = RecordingFile::open(file.clone(), &options)?.into_events()?;
        let noting = Noting { events, said: said.clone() };
        Ok(Box::new(noting.map(|event| event.map_err(EventsError::from))) as Events)
    })
}

/// Events whose notes are said when they have come to their end, the first time they are read.
struct Noting {
    events: FileEvents<Input>,
    said: Arc<Once>,
}

impl Iterator for Noting {
    type Item = Result<Event, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.events.next();
        if next.is_none() {
            self.said.call_once(|| say(&self.events.notes()));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{cli::exit::Exit, recording::RecordingState};

    async fn opened(path: &Path) -> Result<ReplaySource, Failure> {
        open(path, None, &Signals::install().unwrap()).await
    }

    async fn check(text: &str, exit: Exit) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let failure = opened(file.path()).await.err().unwrap();
        assert_eq!(failure.exit, exit, "{}", failure.error);
        failure.error.to_string()
    }

    #[tokio::test]
    async fn a_damaged_file_is_exit_code_5_with_its_place() {
        let text = check(r#"{"version": 1, "messages": [{"t_ms": 0, "#, Exit::Damaged).await;
        assert!(text.contains("line 1, column"), "{text}");
    }

    #[tokio::test]
    async fn a_file_of_another_version_or_none_is_exit_code_2() {
        check(r#"{"format": "mockforge.mqtt.session", "version": 99, "events": []}"#, Exit::Usage).await;
        assert_eq!(opened(Path::new("/nowhere.json")).await.err().unwrap().exit, Exit::Usage);
    }

    #[tokio::test]
    async fn gaps_and_state_are_taken_from_the_head() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(br#"{"version": 1, "gaps": 2, "state": "interrupted", "messages": []}"#).unwrap();
        let source = opened(file.path()).await.unwrap();
        assert_eq!((source.gaps, source.state), (2, Some(RecordingState::Interrupted)));
    }

    #[tokio::test]
    async fn events_can_be_read_more_than_once() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(br#"{"version": 1, "messages": [{"t_ms": 0, "topic": "a/b", "payload": "on"}]}"#)
            .unwrap();
        let input = Input::open(file.path(), &Signals::install().unwrap()).await.unwrap();
        let source = events(input, ReadOptions::default());
        let counts = [(); 2].map(|()| source().unwrap().filter(|event| event.is_ok()).count());
        assert_eq!(counts[0], counts[1]);
        assert!(counts[0] > 0);
    }
}
