//! Plays `tests/data/transcripts/*.txt`; with `UPDATE_EXPECT=1` set, writes down what was heard.
//!
//! A file holds scenarios. Each begins with `== ` and the sentence it proves, with the clauses;
//! [`script`](super::script) explains the lines of its script. What is heard follows each line,
//! indented. The bare broker decides what is right; other stages must make the same of it.

use std::{fs, path::PathBuf};

use super::{script::perform, stage::Bare};

/// A file of scenarios.
pub struct Transcripts {
    path: PathBuf,
    text: String,
}

/// One of them.
pub struct Scenario<'a> {
    pub file: &'a str,
    pub title: &'a str,
    /// Script and what is heard.
    pub text: &'a str,
}

impl Transcripts {
    pub fn all() -> Vec<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/transcripts");
        let mut files: Vec<_> = fs::read_dir(&folder)
            .expect("the folder of transcripts")
            .map(|entry| entry.expect("a file").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .map(|path| Self { text: fs::read_to_string(&path).expect("UTF-8"), path })
            .collect();
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files
    }

    /// What stands before the first scenario.
    fn head(&self) -> &str {
        self.text.split("\n== ").next().unwrap_or_default()
    }

    pub fn scenarios(&self) -> impl Iterator<Item = Scenario<'_>> {
        let file = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.text.split("\n== ").skip(1).map(move |scenario| {
            let (title, text) = scenario.split_once('\n').unwrap_or((scenario, ""));
            Scenario { file, title, text }
        })
    }
}

impl Scenario<'_> {
    /// What differs in `heard`, if anything does.
    pub fn compare(&self, heard: &str) -> Option<String> {
        let is_same = heard.trim_end() == self.text.trim_end();
        (!is_same).then(|| format!("{}: {}\n{}", self.file, self.title, differences(self.text, heard)))
    }
}

#[test]
fn every_transcript_is_heard_as_written() {
    let (mut scenarios, mut failures) = (0, Vec::new());
    for file in Transcripts::all() {
        let mut written = file.head().to_owned();
        for scenario in file.scenarios() {
            let (heard, _) = perform(scenario.text, Bare::new);
            scenarios += 1;
            failures.extend(scenario.compare(&heard));
            written += &format!("\n== {}\n{}\n", scenario.title, heard.trim_end());
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() && written != file.text {
            fs::write(&file.path, written).expect("a writable file");
        }
    }
    assert!(failures.is_empty(), "{} of {scenarios} differ\n\n{}", failures.len(), failures.join("\n"));
    assert!(scenarios >= 100, "only {scenarios} scenarios were found");
}

/// The transcript heard, with `!` before each line that is not as written.
fn differences(written: &str, heard: &str) -> String {
    let mut expected = written.lines().filter(|line| !line.trim().is_empty());
    let mark = |line: &str| {
        if expected.next() == Some(line) { format!("  {line}\n") } else { format!("! {line}\n") }
    };
    heard.lines().map(mark).collect()
}
