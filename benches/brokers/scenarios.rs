//! What is measured: each scenario drives one fresh broker and says what it cost.

use std::{
    collections::VecDeque,
    io::Write,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    client::{Client, open},
    load::{Load, Outcome, Pace, Plan, Topology},
    process::{self, Process},
    wire::{self, Session, Stamp, Template},
};

/// Connections of `connects`, and how many of them wait for their CONNACK at a time.
const CONNECTS: usize = 5_000;
const CONNECTS_AT_A_TIME: usize = 100;

/// How long they are held before memory is read.
const HOLD: Duration = Duration::from_secs(2);

/// Messages of `retained`, and clients that read them all: the clock of a process ticks in hundredths
/// of a second, too coarse for one.
const RETAINED: usize = 50_000;
const READERS: u32 = 10;

/// Messages that each of `persistent-away` finds in its queue.
const QUEUED: u64 = 5_000;

/// Until all that a broker writes behind its acknowledgements is in its files: those that save do so
/// each second.
const SETTLE: Duration = Duration::from_millis(1_500);

pub struct Scenario {
    pub name: &'static str,
    kind: Kind,
    pub about: &'static str,
    /// Whether it says something about a proxy.
    pub is_proxied: bool,
    /// Whether it is about what outlives the broker.
    pub is_persistent: bool,
    /// Whether it runs without being named.
    pub is_default: bool,
}

enum Kind {
    Flows(Plan),
    Away(Plan),
    Connects,
    Retained,
}

/// One measured value, with its unit in its name.
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
}

const PAIRS: Plan = Plan {
    publishers: 10,
    subscribers: 10,
    topology: Topology::Pairs,
    qos: 0,
    size: 64,
    pace: Pace::Credit(1_000),
    retain: false,
    session: Session::Clean,
};

const PERSISTENT: Plan = Plan { qos: 1, session: Session::Persistent, ..PAIRS };

pub const SCENARIOS: &[Scenario] = &[
    Scenario::flows("pairs-qos0", "10 publishers, 10 subscribers, 64 B, QoS 0", PAIRS).proxied(),
    Scenario::flows("pairs-qos1", "the same at QoS 1", Plan { qos: 1, ..PAIRS }).proxied(),
    Scenario::flows("pairs-qos2", "the same at QoS 2", Plan { qos: 2, ..PAIRS }),
    Scenario::flows(
        "fan-in",
        "50 publishers, 1 subscriber, 64 B, QoS 0",
        // All credit together fits into the `outbox_bytes` of our one subscriber.
        Plan { publishers: 50, subscribers: 1, topology: Topology::All, pace: Pace::Credit(200), ..PAIRS },
    ),
    Scenario::flows(
        "fan-out",
        "1 publisher, 200 subscribers, 64 B, QoS 0",
        Plan { publishers: 1, subscribers: 200, topology: Topology::All, pace: Pace::Credit(200), ..PAIRS },
    ),
    Scenario::flows(
        "64k",
        "2 publishers, 2 subscribers, 64 KiB, QoS 0",
        Plan { publishers: 2, subscribers: 2, size: 64 << 10, pace: Pace::Credit(50), ..PAIRS },
    )
    .proxied(),
    Scenario::flows(
        "latency-5k",
        "20 pairs, 5,000 messages/s, a write each, 64 B, QoS 0",
        Plan { publishers: 20, subscribers: 20, pace: Pace::Rate(5_000), ..PAIRS },
    )
    .proxied(),
    Scenario::flows(
        "latency-20k",
        "100 pairs, 20,000 messages/s, a write each, 64 B, QoS 0",
        Plan { publishers: 100, subscribers: 100, pace: Pace::Rate(20_000), ..PAIRS },
    )
    .proxied(),
    Scenario {
        name: "connects",
        kind: Kind::Connects,
        about: "5,000 clients connect, 100 at a time, and stay",
        is_proxied: false,
        is_persistent: false,
        is_default: true,
    },
    Scenario::flows("filters-1k", "1,000 wildcard filters, each message matches one", filters(1_000)),
    Scenario::flows("filters-100k", "100,000 wildcard filters, each message matches one", filters(100_000)),
    Scenario {
        is_default: false,
        ..Scenario::flows("filters-1m", "1,000,000, only when named", filters(1_000_000))
    },
    Scenario {
        name: "retained",
        kind: Kind::Retained,
        about: "50,000 retained messages are stored, then read by 10 clients in turn",
        is_proxied: false,
        is_persistent: false,
        is_default: true,
    },
    Scenario::flows("persistent-qos1", "10 pairs with Clean Session 0, 64 B, QoS 1", PERSISTENT).persistent(),
    Scenario::flows("persistent-qos2", "the same at QoS 2", Plan { qos: 2, ..PERSISTENT }).persistent(),
    Scenario {
        kind: Kind::Away(Plan { pace: Pace::Credit(QUEUED), ..PERSISTENT }),
        ..Scenario::flows(
            "persistent-away",
            "the same at QoS 1, 5,000 messages queued for each subscriber, which then comes back",
            PERSISTENT,
        )
        .persistent()
    },
    Scenario::flows(
        "persistent-retained",
        "10 publishers, 50,000 topics over and over, retained, 64 B, QoS 1",
        Plan { subscribers: 0, topology: Topology::Topics(RETAINED), retain: true, ..PERSISTENT },
    )
    .persistent(),
    Scenario::flows(
        "persistent-500",
        "10 pairs with Clean Session 0, 500 messages/s, a write each, QoS 1: until PUBACK, until delivered",
        Plan { pace: Pace::Rate(500), ..PERSISTENT },
    )
    .persistent(),
];

/// So many filters of 20 subscribers.
const fn filters(count: usize) -> Plan {
    Plan { publishers: 4, subscribers: 20, topology: Topology::Filters(count), ..PAIRS }
}

impl Scenario {
    const fn flows(name: &'static str, about: &'static str, plan: Plan) -> Self {
        Self {
            name,
            kind: Kind::Flows(plan),
            about,
            is_proxied: false,
            is_persistent: false,
            is_default: true,
        }
    }

    const fn proxied(self) -> Self {
        Self { is_proxied: true, ..self }
    }

    const fn persistent(self) -> Self {
        Self { is_persistent: true, ..self }
    }

    /// Drives what listens on the process's port.
    pub fn run(&self, process: &Process, time: Duration) -> Result<Vec<Figure>> {
        match self.kind {
            Kind::Flows(plan) => flows(process, plan, time),
            Kind::Away(plan) => away(process, plan),
            Kind::Connects => connects(process),
            Kind::Retained => retained(process),
        }
    }
}

fn flows(process: &Process, plan: Plan, time: Duration) -> Result<Vec<Figure>> {
    let load = Load::connect(process.port, plan)?;
    let clock = Clock::start(process)?;
    let disk = Disk::start(process)?;
    let outcome = load.run(time)?;
    if plan.session == Session::Persistent {
        sleep(SETTLE);
    }
    let cost = clock.stop(outcome.delivered, "")?;
    let Outcome { delivered, elapsed, latencies, waits } = outcome;
    let mut figures = Vec::new();
    if !waits.is_empty() {
        figures.push(Figure { name: "ack p50 µs", value: quantile(&waits, 50) });
        figures.push(Figure { name: "ack p99 µs", value: quantile(&waits, 99) });
    }
    if latencies.is_empty() {
        figures.push(Figure { name: "msg/s", value: delivered as f64 / elapsed.as_secs_f64() });
    } else {
        figures.push(Figure { name: "p50 µs", value: quantile(&latencies, 50) });
        figures.push(Figure { name: "p99 µs", value: quantile(&latencies, 99) });
    }
    figures.push(Figure { name: "CPU µs/msg", value: cost });
    figures.push(Figure { name: "peak RSS MB", value: process.peak_rss()? as f64 / 1e6 });
    if plan.session == Session::Persistent {
        figures.extend(disk.stop(delivered)?);
    }
    Ok(figures)
}

fn away(process: &Process, plan: Plan) -> Result<Vec<Figure>> {
    let mut load = Load::connect(process.port, plan)?;
    let disk = Disk::start(process)?;
    let clock = Clock::start(process)?;
    let (count, filling) = load.fill()?;
    sleep(SETTLE);
    let fill_cost = clock.stop(count, " while filling")?;
    let full = process.occupied()?;

    let clock = Clock::start(process)?;
    let Outcome { delivered, elapsed, .. } = load.drain()?;
    sleep(SETTLE);
    let drain_cost = clock.stop(delivered, " while draining")?;
    let mut figures = vec![
        Figure { name: "queued/s", value: count as f64 / filling.as_secs_f64() },
        Figure { name: "queue CPU µs/msg", value: fill_cost },
        Figure { name: "drained/s", value: delivered as f64 / elapsed.as_secs_f64() },
        Figure { name: "drain CPU µs/msg", value: drain_cost },
        Figure { name: "peak RSS MB", value: process.peak_rss()? as f64 / 1e6 },
        Figure { name: "folder MB, queues full", value: full as f64 / 1e6 },
    ];
    figures.extend(disk.stop(delivered)?);
    Ok(figures)
}

/// That so many in a hundred stay below.
fn quantile(sorted: &[Duration], part: usize) -> f64 {
    micros(sorted[(sorted.len() - 1) * part / 100])
}

fn connects(process: &Process) -> Result<Vec<Figure>> {
    let mut scratch = vec![0; wire::SCRATCH_BYTES];
    let mut idle = Vec::new();
    let mut waiting = VecDeque::new();
    let before = process.settled_rss()?;
    let clock = Clock::start(process)?;
    let start = Instant::now();
    for number in 0..CONNECTS + CONNECTS_AT_A_TIME {
        // The oldest is awaited when a hundred wait, so the broker always has work.
        if number >= CONNECTS_AT_A_TIME {
            let mut stream = waiting.pop_front().context("one waits for each that is to come")?;
            let (mut rest, mut accepted) = (Vec::new(), false);
            while !accepted {
                let read = wire::read_frames(&mut stream, &mut rest, &mut scratch, |frame| {
                    accepted = frame.kind() == wire::CONNACK && frame.body == [0, 0];
                    ensure!(accepted, "the broker refused a client");
                    Ok(())
                })?;
                ensure!(read, "no CONNACK came");
            }
            idle.push(stream);
        }
        if number < CONNECTS {
            let mut stream = open(process.port)?;
            stream
                .write_all(&wire::connect(&format!("idle-{number}"), Session::Clean))
                .context("writing CONNECT")?;
            waiting.push_back(stream);
        }
    }
    let elapsed = start.elapsed();
    let cost = clock.stop(CONNECTS as u64, "")?;
    sleep(HOLD);
    let held = process.rss()?.saturating_sub(before);
    Ok(vec![
        Figure { name: "connects/s", value: CONNECTS as f64 / elapsed.as_secs_f64() },
        Figure { name: "CPU µs/connect", value: cost },
        Figure { name: "bytes/idle connection", value: held as f64 / CONNECTS as f64 },
    ])
}

fn retained(process: &Process) -> Result<Vec<Figure>> {
    let template = Template::new(0, true, 64);
    let mut messages = template.repeat(RETAINED);
    for (number, message) in messages.chunks_exact_mut(template.len()).enumerate() {
        template.address(message, number);
        template.stamp(message, 0, &Stamp { publisher: 0, sequence: number as u64, due: 0 });
    }
    let mut publisher = Client::connect(process.port, "publisher", Session::Clean)?;
    let clock = Clock::start(process)?;
    let start = Instant::now();
    publisher.send(&messages)?;
    // Answered after all that came before it.
    publisher.send(&wire::PINGREQ)?;
    publisher.await_frame(|frame| {
        ensure!(frame.kind() == wire::PINGRESP, "something else than PINGRESP");
        Ok(())
    })?;
    let store_rate = RETAINED as f64 / start.elapsed().as_secs_f64();
    let store_cost = clock.stop(RETAINED as u64, " while storing")?;

    let clock = Clock::start(process)?;
    let start = Instant::now();
    for reader in 0..READERS {
        read_retained(process.port, reader)?;
    }
    let count = RETAINED as u64 * u64::from(READERS);
    let read_rate = count as f64 / start.elapsed().as_secs_f64();
    let read_cost = clock.stop(count, " while reading")?;
    Ok(vec![
        Figure { name: "stored/s", value: store_rate },
        Figure { name: "store CPU µs/msg", value: store_cost },
        Figure { name: "read/s", value: read_rate },
        Figure { name: "read CPU µs/msg", value: read_cost },
        Figure { name: "peak RSS MB", value: process.peak_rss()? as f64 / 1e6 },
    ])
}

/// One new subscriber receives every retained message once, in any order.
fn read_retained(port: u16, reader: u32) -> Result<()> {
    let mut client = Client::connect(port, &format!("reader-{reader}"), Session::Clean)?;
    let mut is_read = vec![false; RETAINED];
    let mut missing = RETAINED;
    // The messages may come before SUBACK (section 3.8.4).
    client.send(&wire::subscribe(&["fleet/#".to_owned()], 0))?;
    while missing > 0 {
        client
            .receive(|frame| {
                if frame.kind() == wire::SUBACK {
                    return Ok(());
                }
                ensure!(frame.kind() == wire::PUBLISH, "something else than PUBLISH");
                let publish = frame.publish()?;
                let number = Stamp::read(publish.payload)?.sequence as usize;
                let is_new = publish.is_retained && is_read.get(number) == Some(&false);
                ensure!(is_new, "message {number} came twice or without its retain flag");
                is_read[number] = true;
                missing -= 1;
                Ok(())
            })
            .with_context(|| format!("{missing} retained messages are missing"))?;
    }
    Ok(())
}

/// What a process writes to the disk from here on.
struct Disk<'a> {
    process: &'a Process,
    before: u64,
}

impl<'a> Disk<'a> {
    fn start(process: &'a Process) -> Result<Self> {
        Ok(Self { process, before: process.written()? })
    }

    /// Bytes for each of `count`, and the folder as it is then.
    fn stop(self, count: u64) -> Result<[Figure; 2]> {
        let written = self.process.written()?.saturating_sub(self.before);
        Ok([
            Figure { name: "bytes written/msg", value: written as f64 / count as f64 },
            Figure { name: "folder MB", value: self.process.occupied()? as f64 / 1e6 },
        ])
    }
}

/// What a process and the generator spend from here on.
struct Clock<'a> {
    process: &'a Process,
    theirs: Duration,
    own: Duration,
}

impl<'a> Clock<'a> {
    fn start(process: &'a Process) -> Result<Self> {
        Ok(Self { process, theirs: process.cpu()?, own: process::cpu_of_this()? })
    }

    /// Microseconds of the process for each of `count`; the generator's own go to stderr, with `when` that
    /// was, since they have to stay small beside them.
    fn stop(self, count: u64, when: &str) -> Result<f64> {
        let theirs = self.process.cpu()?.saturating_sub(self.theirs);
        let own = process::cpu_of_this()?.saturating_sub(self.own);
        eprint!(" [generator{when} {:.2} µs]", micros(own) / count as f64);
        Ok(micros(theirs) / count as f64)
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
