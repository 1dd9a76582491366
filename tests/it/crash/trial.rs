//! Rounds of a broker that is ended while clients are at work, and what is found then.

use std::{
    collections::BTreeMap,
    fmt::Write,
    io,
    sync::{Arc, atomic::Ordering::SeqCst},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    client::{self, AWAY, Address, Character, Client, Presence, Role, World},
    draws::{Draws, number},
    ledger::{ClientNumber, SERVER, What},
    plan::{Plan, Sizes, identify},
    roles::{Publisher, Returning, Subscriber, Wanted, Wavering, Willer},
    server::{Broker, Home, Server},
    verdict::{Kind, NEVER, Party, Promise, Violation, violations},
    wire::{Ack, Connect, Connection, PATIENCE, Packet, Protocol, Publish},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// kill -9
    Kill,
    /// The same, and what was not synced is there or not.
    PowerCut,
    /// That with a disk that syncs nothing, whatever it says.
    PowerCutOfLyingDisk,
    /// SIGTERM
    Terminate,
    /// The same, and after that a power cut.
    TerminateThenPowerCut,
}

impl Ending {
    fn is_kill(self) -> bool {
        !matches!(self, Self::Terminate | Self::TerminateThenPowerCut)
    }
}

pub struct Trial {
    pub broker: Broker,
    pub promise: Promise,
    pub ending: Ending,
    pub rounds: u32,
    pub seed: u64,
    /// How long after the last event messages are waited for that are due.
    pub patience: Duration,
}

impl Trial {
    /// As many rounds as the environment says, and by its seed.
    pub fn new(broker: Broker, promise: Promise, ending: Ending) -> Self {
        Self {
            broker,
            promise,
            ending,
            rounds: number("MOCKFORGE_CRASH_ROUNDS", 8) as u32,
            seed: number("MOCKFORGE_CRASH_SEED", 1),
            patience: PATIENCE,
        }
    }

    pub fn run(self) -> Outcome {
        Stage::new(self).run()
    }
}

/// What a trial found.
pub struct Outcome {
    pub violations: Vec<Violation>,
    /// Of the trial and its events, for a failure's message.
    summary: String,
    home: Home,
}

impl Outcome {
    pub fn kinds(&self) -> BTreeMap<Kind, usize> {
        let mut kinds = BTreeMap::new();
        for violation in &self.violations {
            *kinds.entry(violation.kind).or_default() += 1;
        }
        kinds
    }

    /// Without those of a kind that this broker never promised anything of.
    pub fn without(mut self, kind: Kind) -> Self {
        self.violations.retain(|violation| violation.kind != kind);
        self
    }

    /// # Panics
    /// With all there is to know, if anything was found.
    #[track_caller]
    pub fn expect_none(self) {
        println!("{}", self.summary);
        if self.violations.is_empty() {
            return;
        }
        let mut text = format!("{}\n{:?}\n", self.summary, self.kinds());
        for (kind, count) in self.kinds() {
            let of_kind = self.violations.iter().filter(|violation| violation.kind == kind);
            for violation in of_kind.take(MOST_SHOWN) {
                let _ = writeln!(text, "{violation}");
            }
            if count > MOST_SHOWN {
                let _ = writeln!(text, "… and {} more {kind:?}", count - MOST_SHOWN);
            }
        }
        let log = self.home.log();
        let lines: Vec<&str> = log.lines().collect();
        let _ = writeln!(text, "its log ends with:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        panic!("{text}its folder is kept: {}", self.home.keep().display());
    }
}

/// Violations of one kind that a failure's message has in full.
const MOST_SHOWN: usize = 5;

/// How long a server may take to end when asked to.
const END_BOUND: Duration = Duration::from_secs(20);

struct Stage {
    trial: Trial,
    home: Home,
    world: Arc<World>,
    parties: Vec<Party>,
    presences: Vec<Arc<Presence>>,
    threads: Vec<JoinHandle<()>>,
    draws: Draws,
    run: u32,
    /// How long the first start took.
    start_time: Duration,
}

/// Why a trial ends early.
struct Failed;

impl Stage {
    fn new(trial: Trial) -> Self {
        let cast = Cast::new(trial.seed);
        let world = Arc::new(World::new(trial.seed, trial.promise, cast.topics.iter().copied().collect()));
        let mut stage = Self {
            home: Home::new(trial.broker),
            draws: Draws::new(trial.seed, 1),
            world,
            parties: Vec::new(),
            presences: Vec::new(),
            threads: Vec::new(),
            run: 0,
            start_time: Duration::ZERO,
            trial,
        };
        if !matches!(stage.trial.ending, Ending::Kill | Ending::Terminate) {
            stage.home.watch_disk(stage.trial.ending == Ending::PowerCutOfLyingDisk);
        }
        for member in cast.members {
            if stage.trial.broker != Broker::Mosquitto || !member.is_only_for_us {
                stage.engage(member);
            }
        }
        let (world, topics) = (stage.world.clone(), cast.retained);
        let reader = stage.party("reader", Protocol::V5);
        stage.threads.push(std::thread::spawn(move || read_retained_until_over(&world, reader, &topics)));
        stage
    }

    fn party(&mut self, name: &str, protocol: Protocol) -> ClientNumber {
        self.parties.push(Party { name: name.to_owned(), protocol });
        (self.parties.len() - 1) as ClientNumber
    }

    fn engage(&mut self, member: Member) {
        let number = self.party(&member.name, member.protocol);
        let character = Character {
            name: member.name,
            number,
            protocol: member.protocol,
            receive_maximum: member.receive_maximum,
            takes_ids_in_turn: number % 2 == 1,
            lateness: member.lateness,
            is_cutting: member.is_cutting,
        };
        let presence = Arc::new(Presence::default());
        self.presences.push(presence.clone());
        let client = Client::new(character, self.world.clone(), presence);
        self.threads.push(std::thread::spawn(move || client.live(member.role)));
    }

    fn run(mut self) -> Outcome {
        let began = Instant::now();
        let mut ended = Ok(());
        for _ in 0..self.trial.rounds {
            ended = self.round();
            if ended.is_err() || self.world.is_failed.load(SeqCst) {
                break;
            }
        }
        let last = ended.and_then(|()| self.drain());
        self.world.is_over.store(true, SeqCst);
        for thread in std::mem::take(&mut self.threads) {
            if thread.join().is_err() {
                self.broken("a client's thread panicked");
            }
        }
        if let Ok(server) = last {
            self.terminate(server);
            if !self.home.is_accounted_for() {
                self.broken("what is in its folder is not what it was seen to write");
            }
        }
        self.look_through_log();
        let found = self.world.ledger.look(|events| violations(self.trial.promise, &self.parties, events));
        let count = |is_it: fn(&What) -> bool| {
            self.world.ledger.look(|events| events.iter().filter(|event| is_it(&event.what)).count())
        };
        let summary = format!(
            "{:?} {:?}, {:?}: {} of {} rounds by seed {} in {:?}, {} messages, {} acknowledged, {} deliveries",
            self.trial.broker,
            self.trial.promise,
            self.trial.ending,
            self.run,
            self.trial.rounds,
            self.trial.seed,
            began.elapsed(),
            count(|what| matches!(what, What::Sent { .. })),
            count(|what| matches!(what, What::Acknowledged { .. })),
            count(|what| matches!(what, What::Delivered { .. })),
        );
        Outcome { violations: found, summary, home: self.home }
    }

    /// Something that is the server's fault whatever clients saw.
    fn broken(&self, text: impl Into<String>) {
        self.world.ledger.note(self.run, SERVER, What::Broken { text: text.into() });
    }

    fn start(&mut self) -> Server {
        self.run += 1;
        self.home.start(self.run)
    }

    fn listen(&mut self, server: &mut Server) -> Result<(), Failed> {
        let began = Instant::now();
        match server.port() {
            Ok(port) => {
                if self.start_time.is_zero() {
                    self.start_time = began.elapsed();
                }
                self.world.set_server(Some(Address { run: self.run, port }));
                Ok(())
            }
            Err(text) => {
                self.broken(text);
                Err(Failed)
            }
        }
    }

    fn round(&mut self) -> Result<(), Failed> {
        let mut server = self.start();
        let is_first = self.run == 1;
        if !is_first && self.trial.ending.is_kill() && self.draws.once_in(8) {
            // While it starts.
            let micros = self.draws.below(self.start_time.as_micros() as u64);
            std::thread::sleep(Duration::from_micros(micros));
            return self.end(server);
        }
        self.listen(&mut server)?;
        let is_hasty = !is_first && self.draws.once_in(6);
        if is_hasty {
            // While clients come back.
            std::thread::sleep(Duration::from_micros(self.draws.below(40_000)));
        } else {
            self.await_all(&mut server)?;
            let most =
                if let Promise::Relaxed(interval) = self.trial.promise { 3 * interval } else { 400_000 };
            std::thread::sleep(Duration::from_micros(self.draws.below(most)));
        }
        if self.run % 20 == 4 && self.trial.broker != Broker::Mosquitto {
            return self.outlast(server);
        }
        self.end(server)
    }

    fn end(&mut self, mut server: Server) -> Result<(), Failed> {
        if let Some(status) = server.ended() {
            self.broken(format!("it ended by itself with {status}"));
            return Err(Failed);
        }
        self.world.set_server(None);
        if self.trial.ending.is_kill() {
            self.world.set_killed(self.run, self.world.ledger.now());
            self.world.ledger.note(self.run, SERVER, What::Killed);
            server.kill();
        } else {
            self.terminate(server);
        }
        self.home.cut_power(&mut self.draws);
        Ok(())
    }

    fn terminate(&self, mut server: Server) {
        self.world.ledger.note(self.run, SERVER, What::Terminated);
        match server.terminate(END_BOUND) {
            Ok(status) if status.success() => {}
            Ok(status) => self.broken(format!("asked to end, it did so with {status}")),
            Err(text) => self.broken(text),
        }
    }

    /// Until every client is connected that wants to be.
    fn await_all(&mut self, server: &mut Server) -> Result<(), Failed> {
        let deadline = Instant::now() + PATIENCE;
        let is_settled = |presence: &Arc<Presence>| [self.run, AWAY].contains(&presence.run.load(SeqCst));
        while !self.presences.iter().all(is_settled) {
            let missing = self.presences.iter().position(|presence| !is_settled(presence));
            if let Some(status) = server.ended() {
                self.broken(format!("it ended by itself with {status}"));
                return Err(Failed);
            }
            if self.world.is_failed.load(SeqCst) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let name = missing.map(|index| &self.parties[index].name);
                self.broken(format!("{name:?} could not connect within {PATIENCE:?}"));
                return Err(Failed);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Lets a session expire while the server is down.
    fn outlast(&mut self, mut server: Server) -> Result<(), Failed> {
        let Some(Address { port, .. }) = self.world.address() else { return self.end(server) };
        let left = match leave_a_short_session(port) {
            Ok(()) => Instant::now(),
            Err(error) => {
                self.broken(format!("a client with a short expiry: {error}"));
                return Err(Failed);
            }
        };
        if let Promise::Relaxed(interval) = self.trial.promise {
            std::thread::sleep(Duration::from_micros(interval));
        }
        self.end(server)?;
        std::thread::sleep((SHORT_EXPIRY + Duration::from_millis(200)).saturating_sub(left.elapsed()));
        server = self.start();
        self.listen(&mut server)?;
        let Some(Address { port, .. }) = self.world.address() else { return self.end(server) };
        match connect(port, "short", false, 0) {
            Ok((_, false)) => {}
            Ok((_, true)) => self.world.ledger.note(self.run, SERVER, What::Outlived),
            Err(error) => self.broken(format!("a client with a short expiry: {error}")),
        }
        self.await_all(&mut server)?;
        self.end(server)
    }

    /// Has everything come that is due; the server runs on.
    fn drain(&mut self) -> Result<Server, Failed> {
        self.world.is_draining.store(true, SeqCst);
        let mut server = self.start();
        self.listen(&mut server)?;
        self.await_all(&mut server)?;
        let (mut seen, mut since) = (0, Instant::now());
        let mut is_looked_through = false;
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let progress = self.world.ledger.progress();
            if progress != seen {
                (seen, since, is_looked_through) = (progress, Instant::now(), false);
            }
            let is_idle = self.presences.iter().all(|presence| presence.is_idle.load(SeqCst));
            if is_idle && !is_looked_through && since.elapsed() > Duration::from_millis(500) {
                is_looked_through = true;
                let found =
                    self.world.ledger.look(|events| violations(self.trial.promise, &self.parties, events));
                if found.iter().all(|violation| violation.kind != Kind::Lost) {
                    break;
                }
            }
            if since.elapsed() > self.trial.patience {
                let busy = self.presences.iter().position(|presence| !presence.is_idle.load(SeqCst));
                if let Some(index) = busy {
                    self.broken(format!("{} waits for something still", self.parties[index].name));
                }
                break;
            }
        }
        Ok(server)
    }

    fn look_through_log(&self) {
        if self.trial.broker == Broker::Mosquitto {
            return;
        }
        let mut run = "";
        for line in self.home.log().lines() {
            if line.starts_with("--- run") {
                run = line;
            } else if line.contains(" ERROR ") || line.contains("panicked") {
                self.broken(format!("its log says in {run}: {line}"));
            }
        }
    }
}

/// A Session Expiry Interval, as short as they can be.
const SHORT_EXPIRY: Duration = Duration::from_secs(1);

fn connect(port: u16, client_id: &str, is_clean: bool, expiry: u32) -> io::Result<(Connection, bool)> {
    let mut connection = Connection::open(port, Protocol::V5)?;
    let session_expiry_secs = expiry;
    connection.connect(&Connect { client_id, is_clean, session_expiry_secs, receive_maximum: 0, will: None });
    connection.flush()?;
    match connection.await_packet()? {
        Packet::Connack { is_present, reason: 0, .. } => Ok((connection, is_present)),
        other => Err(io::Error::other(format!("{other:?} in answer to CONNECT"))),
    }
}

/// Makes a session with a short expiry, has it begin to pass, and makes sure that this is as durable as
/// anything that was acknowledged.
fn leave_a_short_session(port: u16) -> io::Result<()> {
    let (mut connection, _) = connect(port, "short", true, SHORT_EXPIRY.as_secs() as u32)?;
    connection.subscribe(1, "t/#", 1, 0);
    connection.flush()?;
    while !matches!(connection.await_packet()?, Packet::Suback { .. }) {}
    connection.disconnect();
    connection.flush()?;
    while connection.await_packet().is_ok() {}
    let (mut connection, _) = connect(port, "later", true, 0)?;
    connection.publish(&Publish {
        topic: "b/later",
        payload: b"whatever came before this is durable with it",
        qos: 1,
        is_retained: true,
        is_dup: false,
        id: 1,
    });
    connection.flush()?;
    while !matches!(connection.await_packet()?, Packet::Ack { ack: Ack::Puback, .. }) {}
    Ok(())
}

fn read_retained_until_over(world: &World, reader: ClientNumber, topics: &[&'static str]) {
    while let Some(address) = world.server() {
        if let Err(error) = read_retained(world, address, reader, topics)
            && error.kind() == io::ErrorKind::InvalidData
        {
            world.ledger.note(address.run, reader, What::Broken { text: error.to_string() });
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Asks for all that is retained on `topics`, which begin with `r/`.
fn read_retained(
    world: &World,
    address: Address,
    reader: ClientNumber,
    topics: &[&'static str],
) -> io::Result<()> {
    let (mut connection, _) = connect(address.port, "reader", true, 0)?;
    if world.address().is_none_or(|now| now.run != address.run) {
        return Ok(());
    }
    let asked = world.ledger.now();
    connection.subscribe(1, "r/#", 0, 0);
    connection.pingreq();
    connection.flush()?;
    let mut found = BTreeMap::new();
    loop {
        match connection.await_packet()? {
            Packet::Publish { topic, payload, is_retained: true, .. } => {
                let message =
                    identify(&payload).map_err(|wrong| io::Error::new(io::ErrorKind::InvalidData, wrong))?;
                found.insert(topic, message.number);
            }
            Packet::Pingresp => break,
            _ => {}
        }
    }
    for topic in topics {
        let number = found.get(*topic).copied();
        world.ledger.note(address.run, reader, What::Retained { topic, number, asked });
    }
    connection.disconnect();
    connection.flush()
}

/// Who takes part in every trial.
struct Cast {
    topics: Vec<&'static str>,
    retained: Vec<&'static str>,
    members: Vec<Member>,
    seed: u64,
}

struct Member {
    name: String,
    protocol: Protocol,
    receive_maximum: u16,
    lateness: Duration,
    is_cutting: bool,
    /// Its promise is one of ours, not of every broker's.
    is_only_for_us: bool,
    role: Box<dyn Role>,
}

/// Publishers of Wills have numbers from here on.
const WILLS: u16 = 100;

impl Cast {
    fn new(seed: u64) -> Self {
        let mut cast = Self { topics: Vec::new(), retained: Vec::new(), members: Vec::new(), seed };
        cast.publishers();
        cast.subscribers();
        cast.wills();
        cast
    }

    fn add(&mut self, name: impl Into<String>, protocol: Protocol, role: impl Role + 'static) -> &mut Member {
        self.members.push(Member {
            name: name.into(),
            protocol,
            receive_maximum: 0,
            lateness: Duration::ZERO,
            is_cutting: true,
            is_only_for_us: false,
            role: Box::new(role),
        });
        self.members.last_mut().expect("it was added")
    }

    fn topic(&mut self, topic: String) -> &'static str {
        let topic: &'static str = topic.leak();
        self.topics.push(topic);
        topic
    }

    fn draws(&self) -> Draws {
        Draws::new(self.seed, 3000 + self.members.len() as u64)
    }

    fn publishers(&mut self) {
        let characters: [(Protocol, &'static [u8], usize, Sizes); 5] = [
            (Protocol::V311, &[1], 10, Sizes::Short),
            (Protocol::V5, &[1], 50, Sizes::Short),
            (Protocol::V311, &[2], 5, Sizes::Short),
            (Protocol::V5, &[2], 20, Sizes::Short),
            (Protocol::V5, &[1, 2], 8, Sizes::Mixed),
        ];
        for (publisher, (protocol, qos, window, sizes)) in (0..).zip(characters) {
            let mut topics = Vec::new();
            for level in 0..4 {
                topics.push(self.topic(format!("t/{publisher}/{level}")));
            }
            for level in 0..2 {
                topics.push(self.topic(format!("u/{publisher}/{level}")));
            }
            topics.push(self.topic(format!("s/{publisher}")));
            let plan = Plan { seed: self.seed, publisher, topics, qos, sizes, is_retained: false };
            self.add(format!("publisher-{publisher}"), protocol, Publisher::new(plan, window, PACE));
        }
        let retaining: [(Protocol, &'static [u8], usize, Sizes); 2] =
            [(Protocol::V5, &[1], 6, Sizes::Mixed), (Protocol::V311, &[2], 3, Sizes::Short)];
        for (publisher, (protocol, qos, window, sizes)) in (5..).zip(retaining) {
            let topics: Vec<_> = (0..6).map(|level| self.topic(format!("r/{publisher}/{level}"))).collect();
            self.retained.extend(&topics);
            let plan = Plan { seed: self.seed, publisher, topics, qos, sizes, is_retained: true };
            self.add(format!("retaining-{publisher}"), protocol, Publisher::new(plan, window, PACE));
        }
    }

    fn subscribers(&mut self) {
        let wanted = |filters: &[(&'static str, u8, u8)]| -> Vec<Wanted> {
            filters.iter().map(|&(filter, qos, identifier)| Wanted { filter, qos, identifier }).collect()
        };
        let always = |filters| Subscriber::new(wanted(filters), 0, Draws::new(0, 0));
        self.add("all-at-1", Protocol::V311, always(&[("t/#", 1, 0)]));
        self.add("all-at-2", Protocol::V5, always(&[("t/#", 2, 0)]));
        self.add("some-at-2", Protocol::V311, always(&[("t/+/0", 2, 0)]));
        self.add(
            "overlapping",
            Protocol::V5,
            always(&[("t/2/#", 1, 1), ("t/+/1", 2, 2), ("t/3/+", 2, 3), ("t/4/#", 2, 0)]),
        )
        .is_only_for_us = true;
        let filters = wanted(&[("t/0/#", 1, 0), ("t/3/#", 1, 0)]);
        let leaving = Subscriber::new(filters, 3, self.draws());
        self.add("leaving-at-1", Protocol::V5, leaving);
        let leaving = Subscriber::new(wanted(&[("t/+/2", 2, 0)]), 2, self.draws());
        self.add("leaving-at-2", Protocol::V311, leaving);
        let late = self.add("late-at-1", Protocol::V311, always(&[("t/+/3", 1, 0)]));
        late.lateness = Duration::from_millis(40);
        let late = self.add("late-at-2", Protocol::V5, always(&[("t/+/3", 2, 0)]));
        (late.lateness, late.receive_maximum) = (Duration::from_millis(60), 20);
        for (name, protocol, qos) in
            [("wavering-at-1", Protocol::V311, 1), ("wavering-at-2", Protocol::V5, 2)]
        {
            let wavering = Wavering::new(vec!["u/+/0", "u/+/1"], qos, self.draws());
            self.add(name, protocol, wavering);
        }
        for name in ["sharing-a", "sharing-b"] {
            // Mosquitto 2.0.11 forgets those, or they share with nobody.
            self.add(name, Protocol::V5, always(&[("$share/group/s/#", 2, 0)])).is_only_for_us = true;
        }
    }

    fn wills(&mut self) {
        let topics = ["w/soon", "w/now", NEVER].map(|topic| self.topic(topic.to_owned()));
        let witness =
            Subscriber::new(vec![Wanted { filter: client::WILLS, qos: 2, identifier: 0 }], 0, self.draws());
        self.add("witness", Protocol::V5, witness).is_only_for_us = true;
        for (index, qos, delay) in [(0, 2, 1), (1, 1, 0)] {
            let willer = Willer::new(WILLS + index, topics[usize::from(index)], qos, delay, self.draws());
            let member = self.add(format!("willer-{index}"), Protocol::V5, willer);
            (member.is_only_for_us, member.is_cutting) = (true, false);
        }
        let returning = Returning::new(WILLS + 2, topics[2]);
        self.add("returning", Protocol::V5, returning).is_only_for_us = true;
    }
}

/// Mean time from one message of a publisher to the next.
const PACE: Duration = Duration::from_millis(4);
