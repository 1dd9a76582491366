//! The same scripts for mosquitto and for us: what differs has to be judged.
//!
//! Every difference that is left once what is free has been made equal belongs to a class in
//! `tests/data/differences.md`, which says whose behaviour the standard backs. One that belongs to
//! none fails the test, with the shortest script that shows it.

mod generator;
mod verdict;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use crate::{
    broker::{
        Limits,
        tests::script::{Player, Stage},
    },
    net::{
        bind,
        tests::{PATIENCE, TestBroker},
    },
    packet::{ControlPacket, Property, QoS},
};

use generator::{Step, script};
use verdict::{CLASSES, Class, Verdict, verdicts};
use wire::Wire;

/// Scripts that are played.
const SCRIPTS: u64 = 500;

/// Differences without a class that are shown with as short a script as can be.
const SHRUNK: usize = 3;

/// The version whose differences are judged; another one's are shown.
const JUDGED: &str = "2.0.11";

/// A mosquitto of its own, ended when it is dropped.
struct Mosquitto {
    version: String,
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    /// `None` where it is not installed and need not be.
    fn start() -> Option<Self> {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.exists());
        let Some(program) = program else {
            let is_required = std::env::var_os("INTEROP").is_some_and(|value| value == "required");
            assert!(!is_required, "mosquitto is not installed");
            return None;
        };
        let help = Command::new(&program).arg("-h").output().expect("it starts");
        let help = String::from_utf8_lossy(&help.stdout);
        let version = help.lines().next().and_then(|line| line.split(' ').next_back()).unwrap_or_default();
        let address = bind("127.0.0.1", 0).expect("a free port").local_addr().expect("bound");
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n\
             set_tcp_nodelay true\npersistence false\nallow_duplicate_messages false\n",
            address.port()
        );
        fs::write(&config, text).expect("a writable folder");
        let mut command = Command::new(program);
        let child = command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let (version, child) = (version.to_owned(), child.expect("it starts"));
        let mosquitto = Self { version, child, address, _folder: folder };
        let give_up = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < give_up, "mosquitto does not listen");
            std::thread::yield_now();
        }
        Some(mosquitto)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the clients were told, each line with a name in front, and with all that is free made equal.
type Told = Vec<String>;

/// The steps of a script and what each led to.
type Transcript = Vec<(String, Told)>;

/// Plays a script on a stage.
fn play(steps: &[Step], stage: impl Stage) -> Transcript {
    let mut player = Player::new(stage);
    let mut clients = BTreeMap::<String, Client>::new();
    let mut transcript = Transcript::new();
    for step in steps {
        let (label, lines) = match step {
            Step::Lines(lines) => (lines.join(" & "), lines.clone()),
            Step::Acknowledge(name) => {
                let client = clients.entry((*name).to_owned()).or_default();
                (format!("{name} acknowledges"), client.acknowledge(name))
            }
        };
        let mut told = Vec::new();
        for line in lines {
            if !player.knows(&line) {
                continue;
            }
            for heard in player.play(&line) {
                let (name, what) = heard.split_once(['<', ' ']).expect("a name in front");
                let client = clients.entry(name.to_owned()).or_default();
                told.push(format!("{name} {}", client.hear(what.trim())));
            }
        }
        // Among its packets, a server is free where an answer stands. Retained messages come in an
        // order of its own, also among the filters of a SUBSCRIBE.
        told.sort_by_key(|line| {
            let is_retained = line.contains(" retain=true");
            let (name, what) = line.split_once(' ').expect("a name in front");
            let is_message = what.starts_with("PUBLISH ");
            (name.to_owned(), is_message, is_retained, is_retained.then(|| line.clone()))
        });
        transcript.push((label, told));
    }
    transcript
}

/// What of a client's packets has to be remembered to make them comparable, and to answer them.
#[derive(Default)]
struct Client {
    /// What the server sent under its Packet Identifiers, which it chooses freely.
    sent: BTreeMap<u16, String>,
    aliases: BTreeMap<u16, String>,
    /// Acknowledgements that are due.
    owed: Vec<String>,
}

impl Client {
    fn acknowledge(&mut self, name: &str) -> Vec<String> {
        self.owed.drain(..).map(|answer| format!("{name}> {answer}")).collect()
    }

    /// Takes in what came; tells it with what is free made equal.
    fn hear(&mut self, what: &str) -> String {
        if what == "closed" {
            self.owed.clear();
            return what.to_owned();
        }
        let mut packet: ControlPacket = what.parse().expect("what was displayed");
        match &mut packet {
            ControlPacket::Connack(connack) => {
                self.aliases.clear();
                self.owed.clear();
                // Limits are each server's own.
                connack.properties.0.clear();
            }
            ControlPacket::Publish(publish) => {
                let alias = publish.properties.iter().find_map(|property| match property {
                    Property::TopicAlias(value) => Some(*value),
                    _ => None,
                });
                publish.properties.0.retain(|property| !matches!(property, Property::TopicAlias(_)));
                // Whether the server sets aliases is its own choice.
                if let Some(alias) = alias {
                    match &publish.topic {
                        Some(topic) => _ = self.aliases.insert(alias, topic.as_str().to_owned()),
                        None => publish.topic = self.aliases[&alias].parse().ok(),
                    }
                }
                for property in &mut publish.properties.0 {
                    if let Property::MessageExpiryInterval(seconds @ 900..=1000) = property {
                        *seconds = 1000;
                    }
                }
                publish.properties.0.sort_by_key(|property| property.identifier().0);
                if let Some(identifier) = publish.packet_identifier {
                    let identifier = identifier.get();
                    let answer = if publish.qos == QoS::AtLeastOnce { "PUBACK" } else { "PUBREC" };
                    self.owed.push(format!("{answer} {identifier}"));
                    let text = packet.to_string().replacen(&format!(" id={identifier}"), "", 1);
                    self.sent.insert(identifier, text.replacen(" dup=true", "", 1));
                    return text;
                }
            }
            ControlPacket::Pubrel(ack) => {
                let identifier = ack.packet_identifier.get();
                self.owed.push(format!("PUBCOMP {identifier}"));
                let sent = self.sent.get(&identifier).map_or("what was never sent", String::as_str);
                return format!("PUBREL {} of {sent}", ack.reason_code);
            }
            ControlPacket::Puback(ack) | ControlPacket::Pubrec(ack) | ControlPacket::Pubcomp(ack) => {
                ack.properties.0.clear();
            }
            ControlPacket::Suback(suback) => suback.properties.0.clear(),
            ControlPacket::Disconnect(disconnect) => disconnect.properties.0.clear(),
            _ => {}
        }
        packet.to_string()
    }
}

/// Where two transcripts part.
#[derive(Clone, Debug)]
struct Difference {
    /// Ours up to there, the step that led to it last.
    ours: Transcript,
    /// What theirs led to at that step.
    theirs: Told,
}

impl Difference {
    /// The step that led to it.
    fn step(&self) -> &(String, Told) {
        self.ours.last().expect("a step led to it")
    }

    /// Whether the same was heard, but for the names of a script.
    fn is_like(&self, other: &Self) -> bool {
        let plain = |told: &Told| told.iter().map(|line| rename(line, |_| String::new())).collect::<Vec<_>>();
        plain(&self.step().1) == plain(&other.step().1) && plain(&self.theirs) == plain(&other.theirs)
    }

    /// All that was played.
    fn script(&self) -> String {
        self.ours.iter().map(|(line, _)| format!("{line}\n")).collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, ours) = self.step();
        write!(f, "{line}\n  ours:   {}\n  theirs: {}", ours.join(" | "), self.theirs.join(" | "))
    }
}

/// The classes of what differs, up to where the two have parted for good, or to a difference that
/// belongs to none.
fn compare(ours: &Transcript, theirs: &Transcript) -> (Vec<Class>, Option<Difference>) {
    let mut classes = Vec::new();
    for (at, (one, other)) in ours.iter().zip(theirs).enumerate() {
        if one.1 == other.1 {
            continue;
        }
        let difference = Difference { ours: ours[..=at].to_vec(), theirs: other.1.clone() };
        let Some(found) = Class::all_of(&difference) else { return (classes, Some(difference)) };
        classes.extend(&found);
        if found.iter().any(|class| class.parts_for_good()) {
            break;
        }
    }
    (classes, None)
}

/// Both brokers.
struct Contest {
    ours: TestBroker,
    theirs: Mosquitto,
}

impl Contest {
    fn judge(&self, steps: &[Step]) -> (Vec<Class>, Option<Difference>) {
        let ours = play(steps, Wire::new(self.ours.address));
        let theirs = play(steps, Wire::new(self.theirs.address));
        compare(&ours, &theirs)
    }

    /// The same difference with fewer steps, for people to read.
    fn shrink(&self, mut steps: Vec<Step>, difference: Difference, run: &mut u64) -> Difference {
        let (mut shortest, mut index) = (difference, 0);
        while index < steps.len() {
            let mut fewer = steps.clone();
            fewer.remove(index);
            *run += 1;
            match self.judge(&renumbered(&fewer, *run)).1 {
                Some(found) if found.is_like(&shortest) => (steps, shortest) = (fewer, found),
                _ => index += 1,
            }
        }
        shortest
    }
}

/// The script with client identifiers and topics of its own, so that nothing is left of an earlier
/// run: `s7` becomes `s7r3`.
fn renumbered(steps: &[Step], run: u64) -> Vec<Step> {
    let rename = |line: &String| rename(line, |number| format!("{number}r{run}"));
    let renamed = steps.iter().map(|step| match step {
        Step::Lines(lines) => Step::Lines(lines.iter().map(rename).collect()),
        Step::Acknowledge(name) => Step::Acknowledge(name),
    });
    renamed.collect()
}

/// Changes the number that stands behind the `s` of each topic and client identifier.
fn rename(line: &str, change: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('s') {
        let digits = rest[at + 1..].bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'r').count();
        let number = &rest[at + 1..at + 1 + digits];
        text.push_str(&rest[..=at]);
        text.push_str(&if number.is_empty() { String::new() } else { change(number) });
        rest = &rest[at + 1 + digits..];
    }
    text + rest
}

/// A number from the environment, for those who want to see more than a test run does.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn what_mosquitto_does_otherwise_is_judged() {
    let verdicts = verdicts();
    let classes: BTreeSet<_> = CLASSES.iter().map(|class| format!("{class:?}")).collect();
    assert_eq!(verdicts.keys().cloned().collect::<BTreeSet<_>>(), classes, "tests/data/differences.md");
    let Some(theirs) = Mosquitto::start() else {
        eprintln!("mosquitto is not installed: nothing was compared");
        return;
    };
    let limits = Limits { topic_alias_maximum: 10, ..Limits::default() };
    let contest = Contest { ours: TestBroker::start(limits, 10_000), theirs };
    let scripts = number("DIFFERENTIAL_SCRIPTS", SCRIPTS);
    let first = number("DIFFERENTIAL_FIRST", 1);
    let (mut agreed, mut allowed, mut found, mut unjudged) = (0, 0, BTreeMap::<_, u64>::new(), Vec::new());
    let mut runs = 0;
    for number in first..first + scripts {
        let steps = script(number);
        let (classes, open) = contest.judge(&steps);
        let is_allowed = |class: &Class| verdicts[&format!("{class:?}")] == Verdict::Both;
        agreed += u64::from(open.is_none() && classes.is_empty());
        allowed += u64::from(open.is_none() && classes.iter().all(is_allowed));
        for class in classes {
            *found.entry(class).or_default() += 1;
        }
        let Some(open) = open else { continue };
        let is_first = unjudged.len() < SHRUNK;
        let open = if is_first { contest.shrink(steps, open, &mut runs) } else { open };
        let script = if is_first { open.script() } else { String::new() };
        unjudged.push(format!("script {number}\n{script}{open}"));
    }
    println!(
        "of {scripts} scripts, {agreed} agreed, {allowed} but for what is allowed; differences: {found:#?}"
    );
    let differ = format!("{} scripts differ:\n{}", unjudged.len(), unjudged.join("\n"));
    match contest.theirs.version.as_str() {
        JUDGED => assert!(unjudged.is_empty(), "{differ}"),
        other => println!("mosquitto {other}, of which nothing is judged: {differ}"),
    }
    // Else the scripts would show nothing.
    assert!(agreed * 5 > scripts && allowed * 2 > scripts, "{agreed} and {allowed} of {scripts} agreed");
}
