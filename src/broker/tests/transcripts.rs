//! Plays `tests/data/transcripts/*.txt`; with `UPDATE_EXPECT=1` set, writes down what was heard.
//!
//! A file holds scenarios. Each begins with `== ` and the sentence it proves, with the clauses;
//! [`stage`](super::stage) explains the lines of its script. What is heard follows each line,
//! indented.

use std::{fs, path::Path};

use super::stage::perform;

#[test]
fn every_transcript_is_heard_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/transcripts");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the folder of transcripts")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    let (mut scenarios, mut failures) = (0, Vec::new());
    for path in files {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let mut parts = text.split("\n== ");
        let mut written = parts.next().unwrap_or_default().to_owned();
        for scenario in parts {
            let (title, script) = scenario.split_once('\n').unwrap_or((scenario, ""));
            let heard = perform(script);
            scenarios += 1;
            if heard.trim_end() != script.trim_end() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                failures.push(format!("{name}: {title}\n{}", differences(script, &heard)));
            }
            written += &format!("\n== {title}\n{}\n", heard.trim_end());
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() && written != text {
            fs::write(&path, written).expect("a writable file");
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
