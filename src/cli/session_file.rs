//! A recording in a file, read in place: for replays that need neither store nor server.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::exit::{Exit, Failure};
use crate::{
    control::ReplaySource,
    net::replay::{EventSource, Events, EventsError},
    recording::{
        RecordingSource,
        json::{JsonError, JsonErrorKind, JsonReader},
    },
};

/// The recording in the file, which is known to be whole afterwards.
///
/// # Errors
/// [`Exit::Usage`] for a file that can't be read or is of another version, [`Exit::Damaged`] for a
/// broken one, with line and column.
pub fn open(path: &Path) -> Result<ReplaySource, Failure> {
    let file = File::open(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let reader = JsonReader::open(file).map_err(|error| failure(path, &error))?;
    let head = reader.head();
    Ok(ReplaySource {
        id: String::new(),
        name: path.display().to_string(),
        events: events(path.to_owned()),
        deliveries: head.source.as_ref().is_some_and(RecordingSource::is_subscriber),
        gaps: head.gaps,
        state: head.state,
    })
}

/// Its events, as often as asked for.
fn events(path: PathBuf) -> EventSource {
    Arc::new(move || {
        let reader = JsonReader::open(File::open(&path)?)?;
        let events = reader.into_events()?.map(|event| event.map_err(EventsError::from));
        Ok(Box::new(events) as Events)
    })
}

fn failure(path: &Path, error: &JsonError) -> Failure {
    let exit = match error.kind {
        JsonErrorKind::Io | JsonErrorKind::Unsupported => Exit::Usage,
        JsonErrorKind::Truncated | JsonErrorKind::Invalid => Exit::Damaged,
    };
    Failure::new(exit, anyhow::anyhow!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::recording::RecordingState;

    fn check(text: &str, exit: Exit) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let failure = open(file.path()).err().unwrap();
        assert_eq!(failure.exit, exit, "{}", failure.error);
        failure.error.to_string()
    }

    #[test]
    fn a_damaged_file_is_exit_code_5_with_its_place() {
        let text = check(r#"{"version": 1, "messages": [{"t_ms": 0, "#, Exit::Damaged);
        assert!(text.contains("line 1, column"), "{text}");
    }

    #[test]
    fn a_file_of_another_version_or_none_is_exit_code_2() {
        check(r#"{"format": "mockforge.mqtt.session", "version": 99, "events": []}"#, Exit::Usage);
        assert_eq!(open(Path::new("/nowhere.json")).err().unwrap().exit, Exit::Usage);
    }

    #[test]
    fn gaps_and_state_are_taken_from_the_head() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(br#"{"version": 1, "gaps": 2, "state": "interrupted", "messages": []}"#).unwrap();
        let source = open(file.path()).unwrap();
        assert_eq!((source.gaps, source.state), (2, Some(RecordingState::Interrupted)));
    }

    #[test]
    fn events_can_be_read_more_than_once() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(br#"{"version": 1, "messages": [{"t_ms": 0, "topic": "a/b", "payload": "on"}]}"#)
            .unwrap();
        let source = events(file.path().to_owned());
        let counts = [(); 2].map(|()| source().unwrap().filter(|event| event.is_ok()).count());
        assert_eq!(counts[0], counts[1]);
        assert!(counts[0] > 0);
    }
}
