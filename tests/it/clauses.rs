//! The clause report: which normative statement of MQTT 5.0 and 3.1.1 is held by which test.
//!
//! `cargo test --test it clause_report -- --nocapture` prints it; with `UPDATE_EXPECT=1` set, it is
//! written to `tests/data/clauses.md`. A test names statements as `[MQTT-3.1.4-3]`, or `[MQTT3-…]`
//! for those of 3.1.1: a transcript in its title, the packet table in the heading of a section, a
//! function behind its `#[test]`.

use std::{collections::BTreeMap, fmt::Write, fs};

use super::tree::{files_below, root};

/// Whom a statement binds.
#[derive(Clone, Copy, PartialEq)]
enum Binds {
    Server,
    Client,
    WebSocket,
    Bridge,
}

impl Binds {
    /// What is said of a statement that no test holds.
    fn without_tests(self) -> &'static str {
        match self {
            Self::Server => "NOT COVERED",
            Self::Client => "client-only",
            Self::WebSocket => "not offered: WebSocket",
            Self::Bridge => "not offered: connections to other servers",
        }
    }
}

/// The statements in the order of `tests/data/clauses.txt`.
fn statements() -> Vec<(String, Binds)> {
    let text = fs::read_to_string(root().join("tests/data/clauses.txt")).expect("the list of statements");
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|row| {
        let (id, binds) = row.split_once(' ').expect("an id and whom it binds");
        let binds = match binds {
            "server" => Binds::Server,
            "client" => Binds::Client,
            "websocket" => Binds::WebSocket,
            "bridge" => Binds::Bridge,
            other => panic!("{id} binds {other}?"),
        };
        (id.to_owned(), binds)
    })
    .collect()
}

/// The statements named in `text`.
fn ids_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('[').skip(1).filter_map(|rest| {
        let id = rest.split(']').next()?;
        let number = id.strip_prefix("MQTT-").or(id.strip_prefix("MQTT3-"))?;
        number.chars().all(|letter| letter.is_ascii_digit() || ".-".contains(letter)).then_some(id)
    })
}

/// The tests that name each statement.
fn holders() -> BTreeMap<String, Vec<String>> {
    let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut hold = |ids: &str, test: String| {
        for id in ids_in(ids) {
            holders.entry(id.to_owned()).or_default().push(test.clone());
        }
    };
    for path in files_below(&root().join("tests/data/transcripts"), "txt") {
        let file = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("UTF-8");
        for title in text.lines().filter_map(|line| line.strip_prefix("== ")) {
            let sentence = title.split(" [").next().unwrap_or_default();
            hold(title, format!("{file}: {sentence}"));
        }
    }
    let packets = fs::read_to_string(root().join("tests/data/packets.txt")).expect("the packet table");
    for heading in packets.lines().filter_map(|line| line.strip_prefix("# ")) {
        let name = heading.split(" [").next().unwrap_or_default();
        hold(heading, format!("the packet table of {name}"));
    }
    for folder in ["src", "tests"] {
        for path in files_below(&root().join(folder), "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let mut named = None;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    named = Some(line);
                } else if let (Some(ids), Some((_, function))) = (named, line.split_once("fn ")) {
                    let name = function.split('(').next().unwrap_or_default();
                    hold(ids, format!("`{name}`"));
                    named = None;
                }
            }
        }
    }
    holders
}

#[test]
fn the_clause_report_is_true_and_leaves_no_statement_that_binds_a_server_uncovered() {
    let (statements, holders) = (statements(), holders());
    let unknown: Vec<&String> =
        holders.keys().filter(|id| !statements.iter().any(|(known, _)| known == *id)).collect();
    assert!(unknown.is_empty(), "tests name statements that do not exist: {unknown:?}");

    let mut report = String::from(
        "# Clause report\n\nMade by `UPDATE_EXPECT=1 cargo test --test it clause_report`, which also checks it.\n",
    );
    let mut uncovered = Vec::new();
    for (title, prefix) in [("MQTT 5.0", "MQTT-"), ("MQTT 3.1.1", "MQTT3-")] {
        let of_version = || statements.iter().filter(|(id, _)| id.starts_with(prefix));
        let count = |is_counted: &dyn Fn(&str, Binds) -> bool| {
            of_version().filter(|(id, binds)| is_counted(id, *binds)).count()
        };
        let covered = count(&|id, binds| binds == Binds::Server && holders.contains_key(id));
        let _ = writeln!(
            report,
            "\n## {title}\n\n{} statements; {covered} of the {} that bind a server are covered.\n\n\
             | statement | held by |\n|---|---|",
            of_version().count(),
            count(&|_, binds| binds == Binds::Server),
        );
        for (id, binds) in of_version() {
            let cell = match holders.get(id) {
                Some(tests) => tests.join("; ").replace('|', "\\|"),
                None => format!("*{}*", binds.without_tests()),
            };
            let _ = writeln!(report, "| {id} | {cell} |");
            if *binds == Binds::Server && !holders.contains_key(id) {
                uncovered.push(id);
            }
        }
    }
    println!("{report}");
    let path = root().join("tests/data/clauses.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &report).expect("a writable file");
    }
    assert!(uncovered.is_empty(), "no test holds {uncovered:?}");
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == report, "tests/data/clauses.md is out of date: run this with UPDATE_EXPECT=1");
}

#[test]
fn comments_name_statements_that_exist() {
    let statements = statements();
    let mut wrong = Vec::new();
    for path in files_below(&root().join("src"), "rs") {
        let text = fs::read_to_string(&path).expect("UTF-8");
        for id in ids_in(&text).filter(|id| !statements.iter().any(|(known, _)| known == id)) {
            wrong.push(format!("{}: [{id}]", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
