//! The rules of ARCHITECTURE.md that a program can check: which room may use which, what a pure
//! room may not touch, what every file and every rpc carries.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::tree::{files_below, root};

/// Stands for the rooms of all rows above.
const EVERY_ROW_ABOVE: &[&str] = &["*"];

/// Each room of `src/`, from the bottom up, with the rooms it may use beside itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("amount", &[]),
    ("packet", &[]),
    ("draws", &[]),
    ("delay", &["draws"]),
    ("field", &[]),
    ("likeness", &[]),
    ("log", &["likeness"]),
    ("xml", &[]),
    ("session", &["packet"]),
    ("auth", &["field", "packet"]),
    ("trace", &["packet"]),
    ("interceptor", &["packet", "session"]),
    ("broker", &["packet", "session", "auth", "interceptor", "trace"]),
    // For `Direction`, the word for which way bytes go.
    ("relay", &["packet", "session", "interceptor", "recording"]),
    ("recording", &["amount", "likeness", "packet", "session"]),
    ("verification", &["likeness", "xml", "packet", "recording"]),
    (
        "mock",
        &["field", "likeness", "packet", "session", "draws", "delay", "interceptor", "recording", "trace"],
    ),
    ("journal", &["amount", "field", "likeness", "packet", "session", "interceptor", "recording", "mock"]),
    ("fault", &["field", "likeness", "packet", "draws", "delay", "recording", "mock"]),
    ("webhook", &["field", "likeness", "packet", "session", "draws", "mock", "trace"]),
    ("tap", &["packet", "session", "recording"]),
    ("store", &["amount", "packet", "session", "broker", "recording"]),
    ("recorder", &["amount", "field", "packet", "session", "recording", "mock", "tap", "store"]),
    ("metrics", &["packet", "session", "broker", "recording", "tap"]),
    ("event", &["packet", "session", "broker", "recording", "mock", "fault", "webhook", "tap"]),
    (
        "config",
        &[
            "field",
            "likeness",
            "log",
            "packet",
            "broker",
            "auth",
            "recording",
            "mock",
            "journal",
            "fault",
            "webhook",
            "store",
            "recorder",
        ],
    ),
    (
        "scenario",
        &["amount", "draws", "field", "likeness", "xml", "packet", "mock", "fault", "journal", "config"],
    ),
    ("net", EVERY_ROW_ABOVE),
    ("telemetry", &["trace", "metrics", "config", "net"]),
    ("control", EVERY_ROW_ABOVE),
    ("gateway", &["trace", "metrics", "auth", "config", "net", "telemetry", "control"]),
    ("server", EVERY_ROW_ABOVE),
    // `cli` and the crate roots stand on top and may use everything.
];

/// Rooms that take time, randomness and bytes as arguments.
const PURE: &[&str] = &[
    "amount",
    "packet",
    "draws",
    "delay",
    "field",
    "likeness",
    "xml",
    "session",
    "auth",
    "trace",
    "interceptor",
    "broker",
    "relay",
    "recording",
    "verification",
    "mock",
    "journal",
    "fault",
    "webhook",
    "scenario",
];

/// What would make a pure room read a clock, a socket, a disk or a random source.
const IMPURE: &[&str] = &[
    "tokio",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "Ulid::new",
    "getrandom",
    "rand::rng",
    "thread_rng",
    "OsRng",
    "SysRng",
    "RandomState",
    "std::env",
    "std::process",
    "std::thread",
];

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let room = room_of(&path);
        let Some(row) = ROOMS.iter().position(|(name, _)| *name == room) else {
            continue;
        };
        let allowed: Vec<&str> = match ROOMS[row].1 {
            EVERY_ROW_ABOVE => ROOMS[..row].iter().map(|(name, _)| *name).collect(),
            rooms => rooms.to_vec(),
        };
        for used in rooms_used(product_code(&path, &text)) {
            let known = ROOMS.iter().any(|(name, _)| *name == used) || used == "cli" || used == "pb";
            if known && used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {room} must not use {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_is_in_the_table() {
    let known: BTreeSet<&str> =
        ROOMS.iter().map(|(name, _)| *name).chain(["main", "lib", "cli", "server"]).collect();
    let rooms: BTreeSet<String> = sources().iter().map(|(path, _)| room_of(path)).collect();
    let unknown: Vec<&String> = rooms.iter().filter(|room| !known.contains(room.as_str())).collect();
    assert!(unknown.is_empty(), "rooms without a row in the table: {unknown:?}");
}

#[test]
fn pure_rooms_read_no_clock_socket_disk_or_random_source() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !PURE.contains(&room_of(&path).as_str()) {
            continue;
        }
        for (number, line) in product_code(&path, &text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                wrong.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_store_names_sled() {
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| room_of(path) != "store" && text.contains("sled::"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_file_says_what_it_is_and_is_called_after_a_noun() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            wrong.push(format!("{}: no header", path.display()));
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if ["util", "utils", "helper", "helpers", "common", "misc"].contains(&stem) {
            wrong.push(format!("{}: called after nothing", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rpc_has_its_rest_twin() {
    let mut wrong = Vec::new();
    let mut rpcs = 0;
    for path in files_below(&root().join("proto/mockforge"), "proto") {
        let text = fs::read_to_string(&path).expect("a file of the tree");
        for (at, _) in text.match_indices("\n  rpc ") {
            rpcs += 1;
            let rest = &text[at + 1..];
            let end = rest[1..].find("\n  rpc ").map_or(rest.len(), |next| next + 1);
            let head = rest.lines().next().unwrap_or_default();
            let is_both_ways = head.contains("(stream ") && head.contains("returns (stream ");
            // What is said both ways at once has no twin in a request and an answer.
            if !is_both_ways && !rest[..end].contains("(google.api.http)") {
                wrong.push(format!("{}: {}", path.display(), head.trim()));
            }
        }
    }
    assert!(rpcs > 10, "only {rpcs} rpcs were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("src");
    files_below(&src, "rs")
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a file of the tree");
            (path.strip_prefix(&src).expect("below src").to_path_buf(), text)
        })
        .collect()
}

/// `src/net/client.rs` is in `net`, `src/tap.rs` in `tap`.
fn room_of(path: &Path) -> String {
    let first = path.components().next().expect("a path has a component");
    Path::new(first.as_os_str()).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned()
}

/// The part of a file that ships: nothing of a test file, and what stands above `mod tests`.
fn product_code<'a>(path: &Path, text: &'a str) -> &'a str {
    let is_test = path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
    if is_test { "" } else { text.split("#[cfg(test)]\nmod").next().unwrap_or_default() }
}

/// The first names behind every `crate::`, those in braces included.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => {
                used.insert(identifier(rest));
            }
            Some(group) => {
                let mut depth = 0;
                let mut expects_name = true;
                for (index, letter) in group.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => expects_name = true,
                        _ if letter.is_alphabetic() && expects_name => {
                            used.insert(identifier(&group[index..]));
                            expects_name = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    used
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn imports_in_braces_are_seen() {
    let used = rooms_used("use crate::{packet::{QoS, x}, broker::Broker};\nlet x = crate::net::Client;");
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["broker", "net", "packet"]);
}
