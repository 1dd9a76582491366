//! The command line: exit codes, messages, and the whole path from recording to replay.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::running;

/// Runs `mockforge` in `folder`, away from any server and any store of the machine.
fn mockforge(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the binary runs")
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mockforge"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MOCKFORGE_")) {
        command.env_remove(name);
    }
    command
        .current_dir(folder)
        .args(arguments)
        // Nothing listens there: port 1 is reserved.
        .env("MOCKFORGE_GRPC_PORT", "1");
    command
}

/// A broker of its own without a control plane, that records as `name`, and its MQTT port.
fn serve(folder: &Path, arguments: &[&str]) -> (Child, u16) {
    let mut child =
        command(folder, &[&["serve", "--mqtt", "--mqtt-port", "0", "-o", "json"], arguments].concat())
            .env("MOCKFORGE_MQTT_HOST", "127.0.0.1")
            .env("MOCKFORGE_GRPC_ENABLED", "false")
            .env("MOCKFORGE_HTTP_ENABLED", "false")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
    let mut line = String::new();
    let out = child.stdout.as_mut().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("it says where it listens");
    let info: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let address = info["mqttAddress"].as_str().or_else(|| info["mqtt_address"].as_str()).expect("an address");
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    (child, port)
}

/// A broker with its control plane, and what it says of itself.
fn serve_with_control(folder: &Path, arguments: &[&str]) -> (Child, serde_json::Value) {
    let mut server = command(folder, &["serve", "--mqtt", "--mqtt-port", "0", "-o", "json"])
        .args(["--http-port", "0", "--grpc-port", "0"])
        .args(arguments)
        .env("MOCKFORGE_MQTT_HOST", "127.0.0.1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    let out = server.stdout.as_mut().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("it says where it listens");
    let info = serde_json::from_str(&line).expect("JSON");
    (server, info)
}

/// What a command prints that ends with `code`.
#[track_caller]
fn run(folder: &Path, command: &[&str], arguments: &[&str], code: i32) -> String {
    let output = mockforge(folder, &[command, arguments].concat());
    check(&output, code, &[]);
    String::from_utf8(output.stdout).expect("text")
}

/// As Ctrl-C or a service manager ends it.
fn terminate(child: Child) -> Output {
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    child.wait_with_output().expect("it ends")
}

/// A client of MQTT 5 that is connected, and stays so.
fn connect(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.write_all(b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c").expect("written");
    let mut connack = [0];
    stream.read_exact(&mut connack).expect("an answer");
    assert_eq!(connack, [0x20]);
    stream
}

/// Exit code and standard error.
#[track_caller]
fn check(output: &Output, code: i32, says: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    for text in says {
        assert!(errors.contains(text), "{text:?} is not in: {errors}");
    }
}

fn folder_with(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join(name);
    fs::write(&file, text).expect("a writable folder");
    (folder, file)
}

const HAND_WRITTEN: &str = r#"{"version":1,"messages":[
    {"t_ms":0,"topic":"a/b","payload":"on"},
    {"t_ms":20,"topic":"a/b","payload":{"v":1},"qos":1},
    {"t_ms":40,"topic":"a/c","payload":"off","qos":2,"retain":true}]}"#;

fn sample(name: &str) -> String {
    format!("{}/recordings/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn replay_of_nothing_exits_4_and_may_be_allowed() {
    let (folder, _) = folder_with("empty.json", r#"{"version":1,"messages":[]}"#);
    let empty = ["mqtt", "replay", "--input", "empty.json", "--target", "mqtt://127.0.0.1:1"];
    check(&mockforge(folder.path(), &empty), 4, &["nothing"]);
    let allowed = [&empty[..], &["--allow-empty"]].concat();
    check(&mockforge(folder.path(), &allowed), 0, &[]);
}

#[test]
fn rules_that_nothing_would_be_redacted_by_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let serve = ["serve", "--mqtt", "--mqtt-port", "0", "--http-port", "0", "--grpc-port", "0"];
    let serve = [&serve[..], &["--redact", "client_id=hash"]].concat();
    check(&mockforge(folder.path(), &serve), 2, &["--redact is for --record and --ring"]);
    let bad = [&serve[..], &["--ring", "1MiB", "--redact", "clientid=hash"]].concat();
    check(&mockforge(folder.path(), &bad), 2, &["--redact", "clientid"]);
}

#[test]
fn an_unreachable_target_exits_3_and_is_named() {
    let (folder, _) = folder_with("s.json", HAND_WRITTEN);
    let output =
        mockforge(folder.path(), &["mqtt", "replay", "--input", "s.json", "--target", "mqtt://127.0.0.1:1"]);
    check(&output, 3, &["127.0.0.1:1"]);
}

#[test]
fn a_damaged_file_exits_5_and_the_place_is_named() {
    let (folder, _) = folder_with("cut.json", &HAND_WRITTEN[..HAND_WRITTEN.len() - 30]);
    let output = mockforge(folder.path(), &["mqtt", "replay", "--input", "cut.json", "--dry-run"]);
    check(&output, 5, &["cut.json", "line 4"]);
}

#[test]
fn bad_flags_exit_2() {
    let (folder, _) = folder_with("s.json", HAND_WRITTEN);
    let replay = ["mqtt", "replay", "--input", "s.json"];
    for (flags, says) in [
        (&["--speed", "fast"][..], "speed"),
        (&["--speed=-1"], "speed"),
        (&["--nonsense"], "nonsense"),
        (&["--target", "ftp://x"], "ftp"),
        (&["--topic", "a/#/b"], "#"),
        (&["--mode", "server", "--listen", "here"], "here"),
        (&["--mode", "publish", "--verify", "count"], "--mode client"),
        (&["--multiply", "3", "--map-client", "dev"], "{{i}}"),
        (&["--map-client", "{{client_id}}-x"], "--map-client"),
        (&["--map-topic", "a"], "PATTERN=TOPIC"),
        (&["--map-topic", "a/(.*)=b/#"], "wildcard"),
        (&["--map-topic", "a/(.*)=b/$2"], "no such group"),
        (&["--speed", "max", "--max-lateness", "1s"], "max_lateness"),
        (&["--verify", "count", "--rules", "none.yaml"], "none.yaml"),
        (&["--duration", "-1s"], "a duration is not negative"),
        (&["--rate", "-1"], "expected a number above 0"),
        (&["--start", "5s", "--until", "1s"], "later than start"),
        (&["--start", "5s", "--until", "1s", "--dry-run"], "later than start"),
    ] {
        check(&mockforge(folder.path(), &[&replay[..], flags].concat()), 2, &[says]);
    }
    check(&mockforge(folder.path(), &["mqtt", "replay"]), 2, &["--input", "--recording"]);
    assert!(!folder.path().join("mockforge-data").exists(), "a file needs no store");
}

#[test]
fn clients_and_topics_are_selected_as_they_are_recorded_whatever_they_are_called() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = sample("sensor-fleet");
    let plan = |flags: &[&str], code: i32, says: &[&str]| {
        let replay = ["mqtt", "replay", "--input", &input, "--dry-run", "--mode", "client"];
        let mut output = mockforge(folder.path(), &[&replay[..], flags].concat());
        // What is planned is told on standard output.
        output.stderr.append(&mut output.stdout);
        check(&output, code, says);
    };
    plan(&["--map-client", "x"], 2, &["would both be called \"x\"", "dashboard"]);
    plan(&["--map-client", "x", "--client", "sensor-1"], 0, &["over 1 connection"]);
    plan(&["--multiply", "3", "--client", "sensor-1"], 0, &["over 3 connections"]);
    plan(&["--multiply", "3", "--client", "sensor-1-2"], 4, &[]);
    let same = "{{client_id}}{{ i }}";
    plan(&["--multiply", "3", "--map-client", same, "--client", "sensor-1"], 0, &["over 3 connections"]);
    plan(&["--map-topic", "sensors/(.*)=test/$1", "--topic", "sensors/s1/#"], 0, &["on 1 topic"]);
    let merged = "sensors/.*=test";
    plan(&["--map-topic", merged, "--topic", "sensors/s1/#"], 2, &["is selected", "\"test\""]);
}

#[test]
fn a_file_and_a_recording_of_the_store_are_planned_alike() {
    for (name, says) in [
        ("sensor-fleet", &["connection"][..]),
        ("commands", &["connection"]),
        ("reconnects", &["over 4 connections"]),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = sample(name);
        check(&mockforge(folder.path(), &["recordings", "import", &path]), 0, &[]);
        let plan = |from: [&str; 2], more: &[&str]| {
            let dry_run = ["mqtt", "replay", from[0], from[1], "--speed", "2", "--dry-run"];
            let output = mockforge(folder.path(), &[&dry_run[..], more].concat());
            check(&output, 0, &[]);
            String::from_utf8(output.stdout).expect("text")
        };
        let text = plan(["--input", &path], &[]);
        assert_eq!(text, plan(["--recording", name], &[]));
        for says in says {
            assert!(text.contains(says), "{text}");
        }
        let as_one = plan(["--input", &path], &["--as", "one"]);
        assert!(as_one.contains("over 1 connection\n"), "{as_one}");
    }
}

#[test]
fn a_plan_names_the_busiest_topics_first_and_its_expiry_intervals() {
    let (folder, _) = folder_with(
        "s.json",
        r#"{"version":1,"messages":[{"t_ms":0,"topic":"a","payload":1},{"t_ms":0,"topic":"b","payload":1},
        {"t_ms":0,"topic":"b","payload":1,"properties":{"message_expiry_interval":60}}]}"#,
    );
    let replay = ["mqtt", "replay", "--input", "s.json", "--speed", "2"];
    let plan = mockforge(folder.path(), &[&replay[..], &["--dry-run"]].concat());
    check(&plan, 0, &[]);
    let text = String::from_utf8_lossy(&plan.stdout);
    assert!(text.contains("\n2         b\n1         a\n"), "{text}");
    assert!(text.contains("Message Expiry"), "{text}");
    // Nothing was sent, and the reason is said once.
    let unreachable = mockforge(folder.path(), &[&replay[..], &["--target", "mqtt://127.0.0.1:1"]].concat());
    check(&unreachable, 3, &[]);
    let text = String::from_utf8([unreachable.stdout, unreachable.stderr].concat()).expect("text");
    assert_eq!(text.matches("cannot reach").count(), 1, "{text}");
    assert!(!text.contains("sent 0") && !text.contains("Message Expiry"), "{text}");
    assert_eq!(text.matches("127.0.0.1:1").count(), 2, "once before and once after: {text}");
}

#[test]
fn a_plan_of_a_recording_with_gaps_exits_5_and_one_that_was_interrupted_warns() {
    let message = r#"{"t_ms":0,"topic":"a","payload":1}"#;
    for (text, code, says) in [
        (format!(r#"{{"version":1,"gaps":2,"messages":[{message}]}}"#), 5, "2 gaps"),
        (
            format!(r#"{{"version":1,"events":[{message},{{"t_ms":1,"kind":"GAP","events":3,"bytes":9}}]}}"#),
            5,
            "3 events are missing",
        ),
        (
            format!(r#"{{"version":1,"events":[{message},{{"t_ms":1,"kind":"GAP"}}]}}"#),
            5,
            "an event is missing",
        ),
        (format!(r#"{{"version":1,"state":"interrupted","messages":[{message}]}}"#), 0, "interrupted"),
    ] {
        let (folder, _) = folder_with("s.json", &text);
        let output = mockforge(folder.path(), &["mqtt", "replay", "--input", "s.json", "--dry-run"]);
        check(&output, code, &[]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_one() {
    let (folder, _) = folder_with("mockforge.yaml", "mqtt:\n  enabled: true\n  prot: 1883\n");
    let output = mockforge(folder.path(), &["config", "check"]);
    check(&output, 2, &["mockforge.yaml:3:3", "prot", "port"]);
}

#[test]
fn status_without_a_server_exits_3() {
    let (folder, _) = folder_with("unused", "");
    check(&mockforge(folder.path(), &["mqtt", "status"]), 3, &["127.0.0.1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_written_session_is_replayed_to_the_broker() {
    let server = running::start().await;
    let target = format!("mqtt://127.0.0.1:{}", server.port());
    let (folder, _) = folder_with("s.json", HAND_WRITTEN);
    let output = tokio::task::spawn_blocking(move || {
        mockforge(
            folder.path(),
            &["mqtt", "replay", "--input", "s.json", "--speed", "max", "--target", &target, "-o", "json"],
        )
    })
    .await
    .expect("the command ran");
    check(&output, 0, &[]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    assert_eq!((&report["sent"], &report["acked"]), (&3.into(), &2.into()));
    server.stop().await.expect("the server ends as it should");
}

#[test]
fn mocks_are_inferred_from_a_recording() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&mockforge(folder.path(), &["recordings", "import", &sample("commands")]), 0, &[]);
    let mocks = ["recordings", "mocks", "commands"];
    let output = mockforge(folder.path(), &mocks);
    check(&output, 0, &["plant/press-7/commands: 20 requests answered by Response Topic"]);
    let yaml = String::from_utf8(output.stdout).expect("text");
    for says in [
        "# Inferred from the recording commands: 1 mock from 20 answered requests.\n",
        "mqtt:\n  mocks:\n    - topic: plant/press-7/commands\n      qos: 2\n      response:\n",
        r#"payload: '{"ok": true, "command": "{{payload.do}}", "took_ms": 12}'"#,
        "content_type: application/json\n",
    ] {
        assert!(yaml.contains(says), "{says:?} is not in: {yaml}");
    }

    let to_file = [&mocks[..], &["--output", "mocks.yaml", "--client", "press-*"]].concat();
    let output = mockforge(folder.path(), &to_file);
    check(&output, 0, &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "wrote mocks.yaml (1 mock)\n");
    assert_eq!(fs::read_to_string(folder.path().join("mocks.yaml")).expect("it was written"), yaml);

    let output = mockforge(folder.path(), &[&mocks[..], &["-o", "json"]].concat());
    check(&output, 0, &[]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&answer["yaml"], &answer["pairs"], &answer["mocks"]), (&yaml.into(), &20.into(), &1.into()));
}

#[test]
fn a_recording_without_answers_makes_no_mocks_and_exits_4() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["commands", "sensor-fleet"] {
        check(&mockforge(folder.path(), &["recordings", "import", &sample(name)]), 0, &[]);
    }
    let none = mockforge(folder.path(), &["recordings", "mocks", "sensor-fleet", "--output", "mocks.yaml"]);
    check(&none, 4, &["no request that was answered", "were looked at"]);
    assert!(!folder.path().join("mocks.yaml").exists() && none.stdout.is_empty());
    let nobody = mockforge(folder.path(), &["recordings", "mocks", "commands", "--client", "nobody"]);
    check(&nobody, 4, &["20 requests with a Response Topic had no answer"]);
    let telemetry = mockforge(folder.path(), &["recordings", "mocks", "sensor-fleet", "--telemetry"]);
    check(&telemetry, 0, &["publishes about every"]);
    check(&mockforge(folder.path(), &["recordings", "mocks", "absent"]), 2, &["absent"]);
}

#[test]
fn samples_survive_import_and_export_byte_for_byte() {
    for name in ["sensor-fleet", "commands", "reconnects"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = sample(name);
        check(&mockforge(folder.path(), &["recordings", "import", &path]), 0, &[]);
        let export = ["recordings", "export", name, "--output", "out.json"];
        check(&mockforge(folder.path(), &export), 0, &[]);
        let before = fs::read(&path).expect("the sample is there");
        let after = fs::read(folder.path().join("out.json")).expect("the export was written");
        assert!(before == after, "{name}: the exported file differs from the imported one");
    }
}

#[test]
fn samples_survive_every_format_that_keeps_everything() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = sample("commands");
    check(&mockforge(folder.path(), &["recordings", "import", &path]), 0, &[]);
    let before = fs::read(&path).expect("the sample is there");
    for ending in ["ndjson", "mcap", "pcapng"] {
        let file = format!("out.{ending}");
        check(&mockforge(folder.path(), &["recordings", "export", "commands", "--output", &file]), 0, &[]);
        let plan = mockforge(folder.path(), &["mqtt", "replay", "--input", &file, "--dry-run"]);
        check(&plan, 0, &[]);
        assert!(String::from_utf8_lossy(&plan.stdout).starts_with("would send  "), "{plan:?}");
        // Its name says nothing now.
        fs::rename(folder.path().join(&file), folder.path().join("out")).expect("it was written");
        let other = tempfile::tempdir().expect("a temporary folder");
        let moved = folder.path().join("out").display().to_string();
        check(&mockforge(other.path(), &["recordings", "import", &moved]), 0, &[]);
        let again = mockforge(other.path(), &["recordings", "export", "commands"]);
        check(&again, 0, &[]);
        assert!(again.stdout == before, "{ending}: the recording is not the same");
    }
}

#[test]
fn messages_leave_as_csv_and_notes_say_what_does_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&mockforge(folder.path(), &["recordings", "import", &sample("sensor-fleet")]), 0, &[]);
    let export = ["recordings", "export", "sensor-fleet", "--format", "csv", "--topic", "sensors/s1/#"];
    let exported = mockforge(folder.path(), &export);
    check(&exported, 0, &["mockforge: note: CSV has messages alone"]);
    let text = String::from_utf8(exported.stdout).expect("text");
    let mut rows = text.lines();
    assert_eq!(rows.next(), Some("timestamp,topic,payload,qos,retain"));
    assert!(rows.clone().count() > 0 && rows.all(|row| row.contains(",sensors/s1/")), "{text}");
    fs::write(folder.path().join("s1.txt"), &text).expect("it can be written");
    check(&mockforge(folder.path(), &["recordings", "import", "s1.txt", "--name", "s1"]), 0, &[]);
    let again = mockforge(folder.path(), &["recordings", "export", "s1", "--format", "csv"]);
    assert_eq!(String::from_utf8(again.stdout).expect("text"), text);
}

#[test]
fn a_file_that_cannot_be_taken_says_why_and_a_cut_one_can_be_recovered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&mockforge(folder.path(), &["recordings", "import", &sample("commands")]), 0, &[]);
    for (ending, place) in [("json", "line "), ("ndjson", "line "), ("mcap", "byte "), ("pcapng", "byte ")] {
        let (file, name) = (format!("out.{ending}"), format!("cut-{ending}"));
        check(&mockforge(folder.path(), &["recordings", "export", "commands", "--output", &file]), 0, &[]);
        let whole = fs::read(folder.path().join(&file)).expect("it was written");
        fs::write(folder.path().join(&file), &whole[..whole.len() * 2 / 3]).expect("it can be written");
        let import = ["recordings", "import", &file, "--name", &name];
        check(&mockforge(folder.path(), &import), 5, &[&file, place]);
        let recovered = mockforge(folder.path(), &[&import[..], &["--recover"]].concat());
        if ending == "mcap" {
            // Its only chunk is cut: there is nothing to take.
            check(&recovered, 5, &["no whole chunk of events stands before it"]);
            continue;
        }
        check(&recovered, 0, &["mockforge: note: "]);
        let shown = mockforge(folder.path(), &["recordings", "show", &name]);
        check(&shown, 0, &[]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains("interrupted"), "{shown:?}");
    }
    fs::write(folder.path().join("x.json"), b"\x1f\x8b\x08\0").expect("it can be written");
    check(
        &mockforge(folder.path(), &["recordings", "import", "x.json"]),
        2,
        &["gzip", "decompress it first"],
    );
    fs::write(folder.path().join("x.json"), "shopping list").expect("it can be written");
    check(
        &mockforge(folder.path(), &["recordings", "import", "x.json", "--format", "csv"]),
        5,
        &["1 fields"],
    );
    check(&mockforge(folder.path(), &["recordings", "import", "x.json", "--format", "yaml"]), 2, &["ndjson"]);
}

#[test]
fn a_file_that_is_there_already_is_not_said_to_be_imported() {
    let (folder, _) = folder_with("monday.json", HAND_WRITTEN);
    let import = |file: &str| {
        let output = mockforge(folder.path(), &["recordings", "import", file]);
        check(&output, 0, &[]);
        String::from_utf8(output.stdout).expect("text")
    };
    let first = import("monday.json");
    assert!(first.starts_with("imported monday.json as import-"), "{first}");
    assert!(
        first.contains(": 3 packets (") && first.ends_with(", 1 connection, 4 events in all\n"),
        "{first}"
    );
    let path = sample("commands");
    import(&path);
    assert_eq!(import(&path), format!("{path} is already there as commands\n"));
}

#[test]
fn the_readme_lists_every_setting_with_its_default() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(env!("CARGO_BIN_EXE_mockforge"))
        .current_dir(folder.path())
        .env_clear()
        .args(["config", "show", "-o", "json"])
        .output()
        .expect("the binary runs");
    check(&output, 0, &[]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let readme = fs::read_to_string(format!("{}/README.md", env!("CARGO_MANIFEST_DIR"))).expect("a README");
    let settings = shown["settings"].as_array().expect("a list");
    assert!(settings.len() > 20);
    for setting in settings {
        let key = setting["key"].as_str().expect("a key");
        let default = match &setting["value"] {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => format!("`{text}`"),
            value => format!("`{value}`"),
        };
        let row = format!("| `{key}` | {default} | {} |", setting["about"].as_str().expect("a text"));
        assert!(readme.contains(&row), "the README lacks: {row}");
    }
}

/// The last things that happen to a client whose server ends.
#[track_caller]
fn check_ends_with_its_traffic(folder: &Path, file: &str) {
    let text = fs::read_to_string(folder.join(file)).expect("it was written");
    assert!(text.contains(r#""type": "DISCONNECT""#), "{text}");
    assert!(text.contains(r#""kind": "CLOSE""#), "{text}");
    assert!(!text.contains("recording_ended"), "{text}");
}

#[cfg(unix)]
#[test]
fn what_serve_records_ends_with_the_end_of_its_clients() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (server, port) = serve(folder.path(), &["--record", "all"]);
    let _client = connect(port);
    check(&terminate(server), 0, &[]);
    check(&mockforge(folder.path(), &["recordings", "export", "all", "--output", "all.json"]), 0, &[]);
    check_ends_with_its_traffic(folder.path(), "all.json");
}

#[cfg(unix)]
#[test]
fn what_mqtt_record_writes_ends_with_the_end_of_its_clients() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = free.expect("a free port").port();
    let listen = format!("127.0.0.1:{port}");
    let mut recorder =
        command(folder.path(), &["mqtt", "record", "--listen", &listen, "--output", "all.json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
    let mut says = BufReader::new(recorder.stderr.take().expect("it is piped")).lines();
    while !says.next().expect("it goes on").expect("text").starts_with("recording ") {}
    let _client = connect(port);
    check(&terminate(recorder), 0, &[]);
    check_ends_with_its_traffic(folder.path(), "all.json");
}

#[test]
fn a_proxy_before_itself_exits_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let (host, upstream) =
        free.map(|free| (free.to_string(), format!("mqtt://{free}"))).expect("a free port");
    let record = ["mqtt", "record", "--output", "loop.json", "--listen", &host, "--upstream", &upstream];
    check(&mockforge(folder.path(), &record), 2, &[&upstream, "leads back to this proxy", "--listen"]);
    assert!(!folder.path().join("loop.json").exists());
}

#[test]
fn a_port_in_use_exits_2_and_the_flags_for_others_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = held.local_addr().expect("it is bound").port().to_string();
    let serve = ["serve", "--mqtt", "--mqtt-port", "0", "--http-port", &port, "--grpc-port", "0"];
    let says = ["cannot listen for HTTP", "--mqtt-port", "--http-port", "--grpc-port", "0 takes a free one"];
    check(&mockforge(folder.path(), &serve), 2, &says);
}

#[test]
fn a_name_that_is_taken_exits_2_and_both_ways_out_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&mockforge(folder.path(), &["recordings", "import", &sample("commands")]), 0, &[]);
    let record = ["mqtt", "record", "--listen", "127.0.0.1:0", "--output", "x.json", "--name", "commands"];
    let says = ["a recording called \"commands\" exists already", "another name", "recordings rm"];
    check(&mockforge(folder.path(), &record), 2, &says);
}

#[test]
fn a_record_of_nothing_leaves_the_file_and_the_store_as_they_were() {
    let (folder, file) = folder_with("d.json", "old");
    let record = ["mqtt", "record", "--listen", "127.0.0.1:0", "--output", "d.json", "--name", "d"];
    let record = [&record[..], &["--duration", "10ms"]].concat();
    // Twice: its name is free again.
    for _ in 0..2 {
        let output = mockforge(folder.path(), &record);
        check(&output, 4, &["d.json was not written: nothing was recorded"]);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("wrote"));
    }
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "old");
    let listed = run(folder.path(), &["recordings", "ls"], &[], 0);
    assert!(listed.starts_with("no recordings in /") && listed.ends_with("/.mockforge\n"), "{listed}");
    check(&mockforge(folder.path(), &[&record[..], &["--allow-empty"]].concat()), 0, &["also kept in"]);
    assert_ne!(fs::read_to_string(&file).expect("it is there"), "old");
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_packet_are_written_and_kept_all_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let listen = free.expect("a free port").to_string();
    let mut recorder =
        command(folder.path(), &["mqtt", "record", "--listen", &listen, "--output", "tls.json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
    let mut said = String::new();
    let mut says = BufReader::new(recorder.stderr.take().expect("it is piped"));
    while !said.contains("until Ctrl-C") {
        assert!(says.read_line(&mut said).expect("it is piped") > 0, "{said}");
    }
    let mut client = std::net::TcpStream::connect(&listen).expect("it listens");
    client.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03").expect("it is taken");
    let _ = client.read_to_end(&mut Vec::new());
    let output = terminate(recorder);
    says.read_to_string(&mut said).expect("text");
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("no packet was recorded: what passed is encrypted, or not MQTT"), "{said}");
    assert!(said.contains("the recording is also kept in"), "{said}");
    let text = fs::read_to_string(folder.path().join("tls.json")).expect("it was written");
    assert!(text.contains("RAW"), "{text}");
}

#[cfg(unix)]
#[test]
fn what_serve_records_has_its_notes_said_at_the_end_whoever_ends_it() {
    for is_stopped_before in [false, true] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (server, info) =
            serve_with_control(folder.path(), &["--record", "all", "--redact", "client_id=mask"]);
        let address = info["grpc_address"].as_str().expect("an address");
        if is_stopped_before {
            check(&mockforge(folder.path(), &["recordings", "--server", address, "stop", "all"]), 0, &[]);
        }
        check(&terminate(server), 0, &["note: client_id=mask changed nothing"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written_exits_2_and_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&mockforge(folder.path(), &["recordings", "import", &sample("commands")]), 0, &[]);
    let export = ["recordings", "export", "commands", "--output", "/dev/full"];
    check(&mockforge(folder.path(), &export), 2, &["/dev/full: No space left"]);
    for command in [&["ls"][..], &["show", "commands", "--events"], &["export", "commands"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let mut command = self::command(folder.path(), &[&["recordings"], command].concat());
        let output = command.stdout(full).output().expect("the binary runs");
        check(&output, 2, &["standard output: No space left"]);
    }
}

#[test]
fn who_reads_makes_no_store() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for command in [&["ls"][..], &["check"]] {
        let output = mockforge(folder.path(), &[&["recordings"], command].concat());
        check(&output, 0, &[]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with("no recordings here: there is no store in /"), "{text}");
    }
    assert_eq!(run(folder.path(), &["recordings", "ls"], &["-o", "json"], 0), "{\"recordings\":[]}\n");
    for command in [&["show", "x"][..], &["export", "x"], &["rm", "x"], &["trim", "x", "--until", "1s"]] {
        check(&mockforge(folder.path(), &[&["recordings"], command].concat()), 2, &["there is no store in"]);
    }
    let replay = ["mqtt", "replay", "--recording", "x", "--dry-run"];
    check(&mockforge(folder.path(), &replay), 2, &["there is no store in"]);
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
}

#[test]
fn a_ring_that_is_too_small_and_a_time_without_one_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let serve = ["serve", "--mqtt", "--mqtt-port", "0", "--http-port", "0", "--grpc-port", "0"];
    for (flags, says) in [
        (["--ring", "64"], &["--ring", "64 bytes are too few", "64MiB"][..]),
        (["--ring", "65535"], &["65536"]),
        (["--ring-duration", "5m"], &["--ring-duration is for --ring"]),
    ] {
        check(&mockforge(folder.path(), &[&serve[..], &flags].concat()), 2, says);
    }
}

#[test]
fn what_nothing_in_a_recording_is_asked_for_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&mockforge(folder.path(), &["recordings", "import", &sample("commands")]), 0, &[]);
    for command in [
        &["show", "commands", "--client", "nobody*"][..],
        &["show", "commands", "--events", "--topic", "nothing"],
        &["export", "commands", "--topic", "nothing", "--output", "x.json"],
    ] {
        let output = mockforge(folder.path(), &[&["recordings"], command].concat());
        check(&output, 0, &["nothing in commands is what was asked for"]);
    }
    let some = mockforge(folder.path(), &["recordings", "show", "commands", "--topic", "plant/#"]);
    check(&some, 0, &[]);
    assert_eq!(String::from_utf8_lossy(&some.stderr), "");

    let redact = ["recordings", "redact", "commands"];
    check(&mockforge(folder.path(), &redact), 2, &["--redact WHAT=HOW"]);
    let typo = [&redact[..], &["--redact", "json:$.usre=mask", "--redact", "client_id=mask"]].concat();
    let output = mockforge(folder.path(), &typo);
    check(&output, 0, &["json:$.usre=mask changed nothing"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("client_id=mask changed nothing"));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_imported_and_replayed_like_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = sample("commands");
    let piped = |arguments: &[&str]| {
        let mut reading = command(folder.path(), arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut pipe = reading.stdin.take().expect("it is piped");
        pipe.write_all(&fs::read(&path).expect("the sample is there")).expect("it is read");
        drop(pipe);
        let output = reading.wait_with_output().expect("it ends");
        check(&output, 0, &[]);
        String::from_utf8(output.stdout).expect("text")
    };
    for from in ["-", "/dev/stdin"] {
        let text = piped(&["recordings", "import", from]);
        assert!(text.contains("commands"), "{text}");
    }
    let exported = run(folder.path(), &["recordings", "export", "commands"], &[], 0);
    assert_eq!(exported, fs::read_to_string(&path).expect("text"));
    let text = piped(&["mqtt", "replay", "--input", "-", "--dry-run"]);
    assert_eq!(text, run(folder.path(), &["mqtt", "replay", "--dry-run", "--input"], &[&path], 0));
    // Nothing is left of what was read.
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("it is there").map(|entry| entry.expect("one")).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[cfg(unix)]
#[test]
fn a_pipe_that_does_not_end_is_left_on_ctrl_c() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut reading = command(folder.path(), &["recordings", "import", "-", "-v"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut pipe = reading.stdin.take().expect("it is piped");
    // More than a pipe holds: it is being read by the time that all of it is written.
    pipe.write_all(&[b' '; 1 << 18]).expect("it is read");
    let output = terminate(reading);
    drop(pipe);
    check(&output, 130, &["ended before all of it was there"]);
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
}

#[cfg(unix)]
#[test]
fn recordings_of_a_server_are_marked_and_ended() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (server, info) = serve_with_control(folder.path(), &["--record", "all", "--ring", "64KiB"]);
    let address = info["grpc_address"].as_str().expect("an address");
    let recordings = |arguments: &[&str], code| {
        let output = mockforge(folder.path(), &[&["recordings", "--server", address], arguments].concat());
        check(&output, code, &[]);
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"))
    };
    assert_eq!(recordings(&["mark", "all", "here it goes"], 0)[0], "marked all here it goes\n");
    assert!(recordings(&["rm", "all"], 2)[1].contains("recordings stop"));
    assert!(recordings(&["stop", "all"], 0)[0].starts_with("recorded all: "));
    assert!(recordings(&["stop", "all"], 2)[1].contains("is not being made"));
    assert!(recordings(&["mark", "all", "x"], 2)[1].contains("is not being made"));
    assert!(recordings(&["show", "all"], 0)[0].contains("here it goes"));
    recordings(&["rm", "all"], 0);
    let [listed, _] = recordings(&["ls"], 0);
    assert!(listed.starts_with("no recordings in the running server's store, /"), "{listed}");
    // A snapshot says why it was taken.
    recordings(&["snapshot", "--name", "why"], 0);
    assert!(recordings(&["show", "why"], 0)[0].contains("marks: snapshot"));
    check(&terminate(server), 0, &[]);
}

#[cfg(unix)]
#[test]
fn who_follows_a_recording_is_told_where_it_is_when_the_server_is_gone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut server, info) = serve_with_control(folder.path(), &["--record", "all"]);
    let address = info["grpc_address"].as_str().expect("an address");
    let recordings = ["recordings", "--server", address];
    let mut tail = command(folder.path(), &[&recordings[..], &["tail", "all"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("it is piped")).lines();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(lines.next()));
    // It follows by the time that it prints one of these.
    while told.recv_timeout(std::time::Duration::from_millis(100)).is_err() {
        check(&mockforge(folder.path(), &[&recordings[..], &["mark", "all", "x"]].concat()), 0, &[]);
    }
    server.kill().expect("it runs");
    server.wait().expect("it ends");
    let output = tail.wait_with_output().expect("it ends");
    check(&output, 3, &["the server ended; recording all is in its store"]);
}

#[test]
fn what_is_not_as_it_may_have_been_meant_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&mockforge(folder.path(), &["recordings", "import", &sample("commands")]), 0, &[]);
    let export = ["recordings", "export", "commands", "--output", "x.pcap"];
    check(&mockforge(folder.path(), &export), 0, &["x.pcap is pcapng"]);
    let record = ["mqtt", "record", "--listen", "127.0.0.1:0", "--upstream", "mqtt://127.0.0.1:1"];
    let record = [&record[..], &["--output", "x.json", "--duration", "500ms"]].concat();
    check(&mockforge(folder.path(), &record), 4, &["mqtt://127.0.0.1:1 cannot be reached yet"]);
    let subscribe =
        ["mqtt", "record", "--broker", "mqtt://127.0.0.1:1", "--subscribe", "a", "--output", "x.json"];
    let output = mockforge(folder.path(), &subscribe);
    check(&output, 3, &["mockforge: cannot reach mqtt://127.0.0.1:1: "]);
    let output = mockforge(folder.path(), &["recordings", "export", "commands", "-o", "x.json"]);
    check(&output, 2, &["--output x.json"]);
    check(&mockforge(folder.path(), &["mqtt", "recordings", "ls"]), 2, &["`mockforge recordings ls`"]);
    let twice = ["recordings", "merge", "commands", "commands"];
    check(&mockforge(folder.path(), &twice), 2, &["ids[1]: is the same recording as ids[0]"]);
}

#[test]
fn a_damaged_store_is_not_shown_as_an_empty_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&mockforge(folder.path(), &["recordings", "import", &sample("commands")]), 0, &[]);
    fs::write(folder.path().join(".mockforge/store/conf"), "not what was there").expect("writable");
    for command in [&["ls"][..], &["ls"], &["show", "commands"], &["export", "commands"]] {
        let output = mockforge(folder.path(), &[&["recordings"], command].concat());
        check(&output, 5, &["damaged", ".mockforge/store.damaged-1"]);
        assert_eq!(output.stdout, b"");
    }
    let replay = ["mqtt", "replay", "--recording", "commands", "--dry-run"];
    check(&mockforge(folder.path(), &replay), 5, &["store.damaged-1"]);
    // Who adds to it goes on, with a new one.
    check(&mockforge(folder.path(), &["recordings", "import", &sample("commands")]), 0, &[]);
    check(&mockforge(folder.path(), &["recordings", "ls"]), 0, &[]);
    assert!(folder.path().join(".mockforge/store.damaged-1/conf").exists());
}

#[cfg(unix)]
#[test]
fn a_store_in_use_is_exit_code_2_with_both_ways_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (server, _) = serve(folder.path(), &["--record", "all"]);
    let record = ["mqtt", "record", "--listen", "127.0.0.1:0", "--output", "x.json", "--duration", "10ms"];
    let output = mockforge(folder.path(), &record);
    check(&output, 2, &[".mockforge/store", "--server", "--store", "MOCKFORGE_STORE_PATH"]);
    let apart = [&record[..], &["--store", "apart", "--allow-empty"]].concat();
    check(&mockforge(folder.path(), &apart), 0, &[]);
    check(&terminate(server), 0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_on_the_servers_port_exits_3() {
    let server = running::start().await;
    let address = format!("127.0.0.1:{}", server.port());
    let output = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        mockforge(folder.path(), &["mqtt", "status", "--server", &address])
    });
    check(&output.await.expect("the command ran"), 3, &[]);
    server.stop().await.expect("the server ends as it should");
}

#[test]
fn recordings_rm_goes_on_after_one_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["commands", "reconnects"] {
        check(&mockforge(folder.path(), &["recordings", "import", &sample(name)]), 0, &[]);
    }
    let output = mockforge(folder.path(), &["recordings", "rm", "commands", "none", "reconnects"]);
    check(&output, 2, &["none is not deleted"]);
    assert_eq!(output.stdout, b"deleted commands\ndeleted reconnects\n");
}

/// A receiver of webhooks that answers `/good` with success and everything else with 404.
fn receiver() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.expect("a connection"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|len| len > 0) {}
            let mut lines = head.lines().map(str::to_ascii_lowercase);
            let len = lines.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            // As much as there is; the client may be gone by now.
            let _ = reader.read_exact(&mut vec![0; len.unwrap_or(0)]);
            let status = if head.starts_with("POST /good ") { "200 OK" } else { "404 Not Found" };
            let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi");
            let _ = reader.into_inner().write_all(answer.as_bytes());
        }
    });
    address
}

#[cfg(unix)]
#[test]
fn webhooks_are_managed_and_tried_from_the_command_line() {
    let receiver = receiver();
    let yaml = format!(
        "mqtt:\n  webhooks:\n    - {{id: good, topic: a/b, url: 'http://{receiver}/good', secret: s3cret}}\n    \
         - {{id: bad, topic: 'a/#', url: 'http://{receiver}/bad'}}\n"
    );
    let (folder, _) = folder_with("hooks.yaml", &yaml);
    let (server, info) = serve_with_control(folder.path(), &[]);
    let address = info["grpc_address"].as_str().expect("an address");
    let run =
        |arguments: &[&str], code| run(folder.path(), &["webhooks", "--server", address], arguments, code);

    let added = run(&["add", "hooks.yaml"], 0);
    assert!(added.contains("good") && !added.contains("s3cret"), "{added}");
    run(&["add", "hooks.yaml"], 2);
    run(&["add", "hooks.yaml", "--replace"], 0);
    assert_eq!(run(&["disable", "good"], 0), "good is off\n");
    assert!(run(&["ls"], 0).contains("/good (off)"));
    assert_eq!(run(&["enable", "good"], 0), "good is on\n");
    let shown = run(&["show", "good"], 0);
    assert!(shown.contains("\"topic\": \"a/b\"") && !shown.contains("s3cret"), "{shown}");

    assert_eq!(
        run(&["test", "good", "--payload", "x"], 0),
        format!("http://{receiver}/good: answered 200\nhi\n")
    );
    let failed = run(&["test", "bad", "--topic", "a/c"], 1);
    assert_eq!(failed, format!("http://{receiver}/bad: answered 404 Not Found\nhi\n"));
    let log = run(&["deliveries", "bad", "--failed", "-o", "json"], 0);
    let log: serde_json::Value = serde_json::from_str(&log).expect("JSON");
    let delivery = &log["deliveries"][0];
    assert_eq!((&delivery["topic"], &delivery["status"]), (&"a/c".into(), &404.into()));
    assert!(run(&["redeliver", "bad", delivery["id"].as_str().expect("text")], 0).starts_with("queued as "));
    assert!(run(&["deliveries", "good"], 0).contains("delivered"));
    run(&["redeliver", "bad", "none"], 2);
    assert_eq!(run(&["rm", "good", "bad"], 0), "removed good\nremoved bad\n");
    assert_eq!(run(&["ls"], 0), "no webhooks\n");
    check(&terminate(server), 0, &[]);
}

const RULES: &str = "- {id: lost, match: {client: 'dev-*'}, when: {every_nth: 3}, actions: [drop]}\n\
                     - {id: late, match: {direction: s2c, topic: 'a/#'}, actions: [latency: {min_ms: 10, max_ms: 100}]}\n";

#[cfg(unix)]
#[test]
fn chaos_is_managed_from_the_command_line() {
    let (folder, _) = folder_with("rules.yaml", RULES);
    fs::write(folder.path().join("one.json"), r#"{"id": "lost", "actions": ["withhold_ack"]}"#)
        .expect("writable");
    fs::write(folder.path().join("bad.yaml"), "actions:\n  - dorp\n").expect("writable");
    let (server, info) = serve_with_control(folder.path(), &["--seed", "42"]);
    assert_eq!(info["seed"], 42);
    let address = info["grpc_address"].as_str().expect("an address");
    let run = |arguments: &[&str], code| run(folder.path(), &["chaos", "--server", address], arguments, code);

    let status = run(&["status"], 0);
    assert!(status.starts_with("chaos is on, but has no rules\nseed       42\n"), "{status}");
    let added = run(&["add", "rules.yaml"], 0);
    assert_eq!(
        added,
        "ID    PACKETS                        WHEN       ACTIONS               FAULTS\n\
         lost  all of dev-*                   every 3rd  drop                  0\n\
         late  PUBLISH to clients, topic a/#  always     latency 10 to 100 ms  0\n"
    );
    run(&["add", "-f", "rules.yaml"], 2);
    run(&["add", "one.json", "--replace"], 0);
    assert!(run(&["show", "lost"], 0).contains("withhold_ack"));
    assert!(run(&["update", "-f", "rules.yaml"], 0).contains("every 3rd"));
    let bad = mockforge(folder.path(), &["chaos", "--server", address, "add", "bad.yaml"]);
    check(&bad, 2, &["bad.yaml:2:5: ", "did you mean \"drop\"?"]);
    assert_eq!(run(&["disable", "lost"], 0), "lost is off\n");
    assert!(run(&["ls"], 0).contains("lost (off)"));
    assert!(run(&["disable"], 0).starts_with("chaos is off; it has 2 rules\n"));
    assert!(run(&["enable"], 0).starts_with("chaos is on, with 2 rules\n"));
    assert_eq!(run(&["rm", "lost"], 0), "removed lost\n");
    run(&["rm", "lost"], 2);

    assert!(run(&["profiles"], 0).contains("flaky-broker: "));
    assert!(run(&["profile", "3g"], 0).contains("3g-latency"));
    run(&["profile", "4g"], 2);
    assert_eq!(run(&["seed"], 0), "42\n");
    assert_eq!(run(&["seed", "7", "-o", "json"], 0), "{\"seed\":7}\n");
    assert_eq!(run(&["faults", "--client", "dev-*", "--direction", "c2s", "-n", "5"], 0), "no faults\n");
    assert!(run(&["reset"], 0).starts_with("chaos is on, but has no rules\nseed       7\n"));
    let json: serde_json::Value = serde_json::from_str(&run(&["ls", "-o", "json"], 0)).expect("JSON");
    assert_eq!(json, serde_json::json!({"rules": []}));
    check(&terminate(server), 0, &[]);
}

#[cfg(unix)]
#[test]
fn chaos_of_the_settings_is_read_again_on_sighup_and_a_bad_file_changes_nothing() {
    let settings = |chaos: &str| format!("mqtt:\n  chaos: {chaos}\n");
    let (folder, file) = folder_with("mockforge.yaml", &settings("{packet_loss: 0.1}"));
    let (mut server, info) = serve_with_control(folder.path(), &[]);
    let address = info["grpc_address"].as_str().expect("an address");
    let mut log = BufReader::new(server.stderr.take().expect("it is piped")).lines();
    // Where the file is, commands would refuse it as well.
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let chaos = ["chaos", "--server", address];
    let ids = || {
        let listed = run(elsewhere.path(), &chaos, &["ls", "-o", "json"], 0);
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let rules = listed["rules"].as_array().expect("a list").clone();
        rules.iter().map(|rule| rule["id"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    let mut hang_up = |chaos: &str| {
        fs::write(&file, settings(chaos)).expect("writable");
        let killed = Command::new("kill").args(["-HUP", &server.id().to_string()]).status();
        assert!(killed.expect("kill runs").success());
        log.find(|line| line.as_ref().expect("text").contains("the settings were read again"))
            .expect("it goes on")
            .expect("text")
    };
    assert_eq!(ids(), ["packet_loss"]);
    run(elsewhere.path(), &chaos, &["profile", "edge"], 0);
    hang_up("{latency: {max_ms: 5}, rules: [{id: mine, actions: [drop]}]}");
    let added = ["edge-latency", "edge-stall", "edge-down", "edge-up"];
    let second = [&["latency", "mine"], &added[..]].concat();
    assert_eq!(ids(), second);
    let refused = hang_up("{packet_loss: 2}");
    assert!(refused.contains("mqtt.chaos.packet_loss: expected a number from 0 to 1, found 2"), "{refused}");
    let refused = hang_up("{rules: [{id: other, actions: [drop]}, {actions: [dorp]}]}");
    assert!(refused.contains("mockforge.yaml:2:"), "{refused}");
    let refused = hang_up("{rules: [{id: other, actions: [drop]}, {id: edge-up, actions: [drop]}]}");
    let says = "mqtt.chaos.rules[1].id: a rule \"edge-up\" was made over the API";
    assert!(refused.contains(says), "{refused}");
    assert_eq!(ids(), second);
    hang_up("{enabled: false, rules: [{id: last, actions: [drop]}]}");
    assert_eq!(ids(), [&["last"], &added[..]].concat());
    let status = run(elsewhere.path(), &chaos, &["status"], 0);
    assert!(status.starts_with("chaos is off; it has 5 rules\n"), "{status}");
    check(&terminate(server), 0, &[]);
}

/// A session in which chaos did something.
const WITH_FAULTS: &str = r#"{"format": "mockforge.mqtt.session", "version": 1, "name": "faulty", "events": [
    {"t_ms": 1, "conn": 1, "kind": "FAULT", "rule": "lost", "action": "drop", "client_id": "c", "dir": "c2s",
     "type": "PUBLISH", "nth": 2, "topic": "a"},
    {"t_ms": 2, "conn": 1, "kind": "FAULT", "rule": "late", "action": "latency", "detail": {"ms": 5}, "client_id": "c",
     "dir": "s2c", "type": "PUBLISH", "nth": 1, "topic": "a"}]}"#;

#[cfg(unix)]
#[test]
fn serve_injects_the_faults_of_a_recording_again() {
    let (folder, _) = folder_with("faulty.json", WITH_FAULTS);
    check(&mockforge(folder.path(), &["recordings", "import", "faulty.json"]), 0, &[]);
    for from in ["faulty.json", "faulty"] {
        let (server, info) = serve_with_control(folder.path(), &["--chaos-from", from]);
        let address = info["grpc_address"].as_str().expect("an address");
        let status = run(folder.path(), &["chaos", "--server", address], &["status"], 0);
        let says = format!("chaos is on and injects the 2 faults of {from} again; rules are not asked\n");
        assert!(status.starts_with(&says), "{status}");
        check(&terminate(server), 0, &[]);
    }
}

#[test]
fn a_recording_that_is_no_script_is_refused_before_anything_is_served() {
    let (folder, _) = folder_with("plain.json", HAND_WRITTEN);
    fs::write(folder.path().join("cut.json"), &WITH_FAULTS[..WITH_FAULTS.len() - 30]).expect("writable");
    fs::write(folder.path().join("odd.json"), WITH_FAULTS.replace("latency", "lateness")).expect("writable");
    for (from, code, says) in [
        ("plain.json", 2, "plain.json has no faults to inject again"),
        ("cut.json", 5, "cut.json: "),
        ("odd.json", 5, "lateness"),
        ("absent.json", 2, "absent.json: No such file"),
        ("absent", 2, "absent"),
    ] {
        let serve = [
            "serve",
            "--mqtt",
            "--mqtt-port",
            "0",
            "--http-port",
            "0",
            "--grpc-port",
            "0",
            "--chaos-from",
            from,
        ];
        let output = mockforge(folder.path(), &serve);
        check(&output, code, &[says]);
        assert_eq!(output.stdout, b"", "{from}");
    }
    let seed = mockforge(folder.path(), &["serve", "--mqtt", "--seed", "many"]);
    check(
        &seed,
        2,
        &["--seed: mqtt.seed: expected a whole number from 0 to 18446744073709551615, found \"many\""],
    );
}
