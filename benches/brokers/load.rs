//! The load: publishers and subscribers of one run, all on one thread over epoll, and the account of
//! every message.
//!
//! The generator shares the machine with what it measures, so it has to be cheap: publishers patch
//! numbers into batches that were encoded beforehand, subscribers read a quarter of a megabyte at a time,
//! and a message costs no allocation.

use std::{
    collections::VecDeque,
    fs,
    io::{ErrorKind, IoSlice, Read, Write},
    net::TcpStream,
    ops::Range,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

use super::{
    client::{Client, open},
    wire::{self, Session, Stamp, Template},
};

/// QoS 1 and 2 messages that a publisher may have unacknowledged.
const WINDOW: u64 = 100;

/// A run in which nothing arrives for so long has lost something.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// How long a run may need beyond its time until all has arrived.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// How long duplicates are waited for at the end.
const AFTERMATH: Duration = Duration::from_millis(20);

/// Filters in one SUBSCRIBE.
const FILTERS_PER_SUBSCRIBE: usize = 500;

/// Makes neighbouring messages match filters that are far apart; without a common divisor with their number.
const STRIDE: usize = 7_919;

#[derive(Clone, Copy)]
pub struct Plan {
    pub publishers: usize,
    pub subscribers: usize,
    pub topology: Topology,
    pub qos: u8,
    /// Payload bytes.
    pub size: usize,
    pub pace: Pace,
    /// Whether the messages are retained.
    pub retain: bool,
    pub session: Session,
}

/// Who subscribes to what.
#[derive(Clone, Copy)]
pub enum Topology {
    /// Each subscriber hears the publisher of its number.
    Pairs,
    /// Every subscriber hears every publisher, through a wildcard if there are several.
    All,
    /// So many wildcard filters, dealt out to the subscribers; each message matches exactly one.
    Filters(usize),
    /// Nobody subscribes; each publisher has its share of so many topics and goes through it over and over.
    Topics(usize),
}

#[derive(Clone, Copy)]
pub enum Pace {
    /// Closed loop: messages that a publisher may have sent and not all subscribers received, so no broker
    /// is overrun and what is lost is its own doing.
    Credit(u64),
    /// Open loop: messages per second of all publishers together, each a write of its own.
    Rate(u64),
}

/// How it went; there is none unless every message arrived once and in order.
pub struct Outcome {
    pub delivered: u64,
    pub elapsed: Duration,
    /// From when each message was due until it was delivered, sorted; empty in a closed loop.
    pub latencies: Vec<Duration>,
    /// The same until it was acknowledged; empty at QoS 0, too.
    pub waits: Vec<Duration>,
}

pub struct Load {
    port: u16,
    plan: Plan,
    template: Template,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
    /// Publishers first, then subscribers.
    connections: Vec<Connection>,
    publishers: Vec<Publisher>,
    account: Account,
    start: Instant,
}

/// One socket and what waits for it.
struct Connection {
    stream: TcpStream,
    rest: Vec<u8>,
    /// A batch of messages, patched anew for each use, and the part of it that was not written yet.
    batch: Vec<u8>,
    pending: Range<usize>,
    /// What is sent behind the batch: acknowledgements, and messages with a time.
    queue: Vec<u8>,
    is_blocked: bool,
}

#[derive(Default)]
struct Publisher {
    sent: u64,
    /// Messages that all their subscribers received.
    delivered: u64,
    unacknowledged: u64,
    /// Copies received of each message on its way, by its number modulo their limit. Empty if each has
    /// but one receiver.
    copies: Vec<usize>,
    identifier: u16,
    /// When the unacknowledged ones were due, by identifier, if that matters.
    dues: VecDeque<([u8; 2], Duration)>,
}

/// What is expected and what came.
#[derive(Default)]
struct Account {
    /// By subscriber and publisher.
    flows: Vec<Vec<Option<Flow>>>,
    delivered: u64,
    missed: u64,
    repeated: u64,
    misrouted: u64,
    latencies: Vec<Duration>,
    waits: Vec<Duration>,
}

/// The messages of one publisher that one subscriber is to receive.
#[derive(Clone, Copy)]
struct Flow {
    next: u64,
    stride: u64,
}

impl Load {
    /// Connects and subscribes everybody.
    pub fn connect(port: u16, plan: Plan) -> Result<Self> {
        let template = Template::new(plan.qos, plan.retain, plan.size);
        let mut connections = Vec::new();
        let mut publishers = Vec::new();
        for number in 0..plan.publishers {
            let client = Client::connect(port, &format!("publisher-{number}"), plan.session)?;
            let mut batch = template.repeat(plan.batch() as usize);
            for message in batch.chunks_exact_mut(template.len()) {
                template.address(message, plan.topic(number, 0));
            }
            connections.push(Connection::new(client, batch)?);
            let copies = match (plan.topology, plan.pace) {
                (Topology::All, Pace::Credit(credit)) if plan.subscribers > 1 => vec![0; credit as usize],
                _ => Vec::new(),
            };
            publishers.push(Publisher { copies, ..Publisher::default() });
        }
        for number in 0..plan.subscribers {
            let mut client = Client::connect(port, &subscriber_identifier(number), plan.session)?;
            for filters in plan.filters(number).chunks(FILTERS_PER_SUBSCRIBE) {
                client.subscribe(filters, plan.qos)?;
            }
            connections.push(Connection::new(client, Vec::new())?);
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, connection) in connections.iter().enumerate() {
            connection.watch(&epoll, index)?;
        }
        let flows = (0..plan.subscribers)
            .map(|subscriber| {
                (0..plan.publishers).map(|publisher| plan.flow(subscriber, publisher)).collect()
            })
            .collect();
        Ok(Self {
            port,
            plan,
            template,
            epoll,
            events: Vec::with_capacity(256),
            scratch: vec![0; wire::SCRATCH_BYTES],
            connections,
            publishers,
            account: Account { flows, ..Account::default() },
            start: Instant::now(),
        })
    }

    /// Publishes for so long, waits until all has arrived and checks it.
    ///
    /// # Errors
    /// Says what was lost, repeated, out of order or astray.
    pub fn run(mut self, time: Duration) -> Result<Outcome> {
        self.start = Instant::now();
        match self.plan.pace {
            Pace::Credit(credit) => self.publish_on_credit(time, credit)?,
            Pace::Rate(rate) => self.publish_on_time(time, rate)?,
        }
        self.finish(time)
    }

    /// Has the subscribers leave and publishes all credit into their queues; how many messages, and in
    /// what time they were acknowledged.
    pub fn fill(&mut self) -> Result<(u64, Duration)> {
        let Pace::Credit(credit) = self.plan.pace else { bail!("an open loop fills no queue to a level") };
        for subscriber in self.connections.drain(self.plan.publishers..) {
            subscriber.leave()?;
        }
        self.start = Instant::now();
        while self.publishers.iter().any(|publisher| publisher.sent < credit || publisher.unacknowledged > 0)
        {
            ensure!(self.start.elapsed() < DRAIN_MAX, "not all was acknowledged after {DRAIN_MAX:?}");
            self.spend(credit)?;
            self.turn(Duration::from_millis(100))?;
        }
        Ok((credit * self.publishers.len() as u64, self.start.elapsed()))
    }

    /// Has the subscribers come back, waits until all has arrived and checks it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn drain(mut self) -> Result<Outcome> {
        self.start = Instant::now();
        for number in 0..self.plan.subscribers {
            let mut stream = open(self.port)?;
            stream
                .write_all(&wire::connect(&subscriber_identifier(number), self.plan.session))
                .context("writing CONNECT")?;
            let connection = Connection::of(stream)?;
            connection.watch(&self.epoll, self.connections.len())?;
            self.connections.push(connection);
        }
        self.finish(Duration::ZERO)
    }

    /// Waits until all has arrived and checks it, after so much time of publishing.
    fn finish(mut self, time: Duration) -> Result<Outcome> {
        let (mut heard, mut heard_at) = (self.account.delivered, Instant::now());
        while !self.publishers.iter().all(Publisher::is_done) {
            self.turn(Duration::from_millis(100))?;
            if self.account.delivered > heard {
                (heard, heard_at) = (self.account.delivered, Instant::now());
            }
            if heard_at.elapsed() > SILENCE_MAX || self.start.elapsed() > time + DRAIN_MAX {
                break;
            }
        }
        let elapsed = self.start.elapsed();
        let delivered = self.account.delivered;
        let aftermath = Instant::now();
        while aftermath.elapsed() < AFTERMATH {
            self.turn(AFTERMATH)?;
        }
        self.check()?;
        let Account { mut latencies, mut waits, .. } = self.account;
        latencies.sort_unstable();
        waits.sort_unstable();
        Ok(Outcome { delivered, elapsed, latencies, waits })
    }

    fn publish_on_credit(&mut self, time: Duration, credit: u64) -> Result<()> {
        let (mut heard, mut heard_at) = (0, self.start);
        loop {
            let now = Instant::now();
            if self.account.delivered > heard {
                (heard, heard_at) = (self.account.delivered, now);
            }
            if now - self.start >= time || now - heard_at > SILENCE_MAX {
                return Ok(());
            }
            self.spend(credit)?;
            self.turn(Duration::from_millis(100))?;
        }
    }

    /// Has each publisher send a batch that may.
    fn spend(&mut self, credit: u64) -> Result<()> {
        for index in 0..self.publishers.len() {
            let publisher = &self.publishers[index];
            let mut free = credit.saturating_sub(publisher.sent.saturating_sub(publisher.delivered));
            if self.plan.qos > 0 {
                free = free.min(WINDOW - publisher.unacknowledged);
            }
            if free >= self.plan.batch() && self.connections[index].is_idle() {
                self.publish(index, self.plan.batch(), 0);
                self.flush(index)?;
            }
        }
        Ok(())
    }

    fn publish_on_time(&mut self, time: Duration, rate: u64) -> Result<()> {
        // The kernel may round timers up by 50 µs, half of what a message takes; where this is not allowed,
        // latencies are that much longer for all. Not for longer, since brokers would inherit it.
        let _ = fs::write("/proc/self/timerslack_ns", "1");
        let due = |number: u64| Duration::from_nanos(number * 1_000_000_000 / rate);
        let mut number = 0;
        while due(number) < time {
            while due(number) < time && due(number) <= self.start.elapsed() {
                let index = (number % self.plan.publishers as u64) as usize;
                self.publish(index, 1, due(number).as_nanos() as u64);
                if self.plan.qos > 0 {
                    let publisher = &mut self.publishers[index];
                    publisher.dues.push_back((publisher.identifier.to_be_bytes(), due(number)));
                }
                let connection = &mut self.connections[index];
                // Behind what a full socket may have left over: whoever is late is late, nothing waits for it.
                connection.queue.extend_from_slice(&connection.batch);
                connection.pending = 0..0;
                self.flush(index)?;
                number += 1;
            }
            self.turn(due(number).saturating_sub(self.start.elapsed()))?;
        }
        // Zero is the default.
        let _ = fs::write("/proc/self/timerslack_ns", "0");
        Ok(())
    }

    /// Patches a publisher's next `count` messages into its batch.
    fn publish(&mut self, index: usize, count: u64, due: u64) {
        let (publisher, connection) = (&mut self.publishers[index], &mut self.connections[index]);
        for message in connection.batch.chunks_exact_mut(self.template.len()) {
            // Never zero [MQTT-2.2.1-3].
            publisher.identifier = publisher.identifier.checked_add(1).unwrap_or(1);
            let stamp = Stamp { publisher: index as u32, sequence: publisher.sent, due };
            self.template.stamp(message, publisher.identifier, &stamp);
            if let Topology::Filters(_) | Topology::Topics(_) = self.plan.topology {
                self.template.address(message, self.plan.topic(index, publisher.sent));
            }
            publisher.sent += 1;
        }
        publisher.unacknowledged += if self.plan.qos > 0 { count } else { 0 };
        connection.pending = 0..connection.batch.len();
    }

    /// Waits until a socket has something, at most so long, and does what there is to do.
    fn turn(&mut self, timeout: Duration) -> Result<()> {
        let timeout = Timespec::try_from(timeout).context("a timeout in range")?;
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for sockets"),
        }
        for event in &events {
            let (flags, data) = (event.flags, event.data);
            let index = data.u64() as usize;
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                self.read(index)?;
            }
            if flags.contains(epoll::EventFlags::OUT) {
                self.flush(index)?;
            }
        }
        self.events = events;
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<()> {
        let Self { plan, connections, publishers, account, scratch, start, .. } = self;
        let Connection { stream, rest, queue, .. } = &mut connections[index];
        let mut now = None;
        wire::read_frames(stream, rest, scratch, |frame| {
            match (frame.kind(), index.checked_sub(plan.publishers)) {
                (wire::PUBLISH, Some(subscriber)) => {
                    let publish = frame.publish()?;
                    ensure!(publish.qos == plan.qos, "a message arrived at QoS {}", publish.qos);
                    ensure!(publish.payload.len() == plan.size, "a payload changed its length");
                    let stamp = Stamp::read(publish.payload)?;
                    if account.enter(subscriber, &stamp) {
                        publishers[stamp.publisher as usize].receive(stamp.sequence, plan.subscribers);
                    }
                    if matches!(plan.pace, Pace::Rate(_)) {
                        let now = *now.get_or_insert_with(|| start.elapsed());
                        account.latencies.push(now.saturating_sub(Duration::from_nanos(stamp.due)));
                    }
                    match publish.qos {
                        0 => {}
                        1 => wire::acknowledge(queue, wire::PUBACK, publish.identifier),
                        _ => wire::acknowledge(queue, wire::PUBREC, publish.identifier),
                    }
                }
                (wire::PUBREL, Some(_)) => wire::acknowledge(queue, wire::PUBCOMP, frame.identifier()?),
                (wire::PUBREC, None) => wire::acknowledge(queue, wire::PUBREL, frame.identifier()?),
                (wire::PUBACK | wire::PUBCOMP, None) => {
                    let publisher = &mut publishers[index];
                    let left = publisher.unacknowledged.checked_sub(1);
                    publisher.unacknowledged = left.context("an acknowledgement too many")?;
                    if let Some((identifier, due)) = publisher.dues.pop_front() {
                        ensure!(identifier == frame.identifier()?, "an acknowledgement out of order");
                        let now = *now.get_or_insert_with(|| start.elapsed());
                        account.waits.push(now.saturating_sub(due));
                    }
                    if plan.subscribers == 0 {
                        publisher.delivered += 1;
                        account.delivered += 1;
                    }
                }
                // Of those that come back.
                (wire::CONNACK, Some(_)) => ensure!(frame.body == [1, 0], "a Session was lost"),
                (kind, _) => bail!("a packet of type {kind} that nobody asked for"),
            }
            Ok(())
        })?;
        self.flush(index)
    }

    /// Writes what waits for a socket, and has epoll say when there is room again if it does not take all.
    fn flush(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        if !connection.is_idle() {
            connection.write()?;
        }
        let is_blocked = !connection.is_idle();
        if is_blocked != connection.is_blocked {
            connection.is_blocked = is_blocked;
            let writable = if is_blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &connection.stream, data, epoll::EventFlags::IN | writable)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let Account { missed, repeated, misrouted, .. } = self.account;
        let sent: u64 = self.publishers.iter().map(|publisher| publisher.sent).sum();
        let undelivered: u64 =
            self.publishers.iter().map(|publisher| publisher.sent.saturating_sub(publisher.delivered)).sum();
        let unacknowledged: u64 = self.publishers.iter().map(|publisher| publisher.unacknowledged).sum();
        ensure!(
            [missed, repeated, misrouted, undelivered, unacknowledged].iter().all(|&count| count == 0),
            "of {sent} messages {undelivered} were not delivered to all and {unacknowledged} not acknowledged; \
             {missed} were lost or overtaken, {repeated} repeated or late, {misrouted} astray",
        );
        ensure!(sent > 0, "nothing was sent");
        Ok(())
    }
}

fn subscriber_identifier(number: usize) -> String {
    format!("subscriber-{number}")
}

impl Plan {
    /// Messages in a batch: a quarter of what may be on its way, so that there is always one to be filled.
    fn batch(&self) -> u64 {
        match self.pace {
            Pace::Credit(credit) if self.qos == 0 => (credit / 4).max(1),
            Pace::Credit(credit) => (credit.min(WINDOW) / 4).max(1),
            Pace::Rate(_) => 1,
        }
    }

    fn filters(&self, subscriber: usize) -> Vec<String> {
        match self.topology {
            Topology::Pairs => vec![wire::topic(subscriber)],
            Topology::All if self.publishers == 1 => vec![wire::topic(0)],
            Topology::All => vec!["fleet/+/value".to_owned()],
            Topology::Filters(count) => {
                (subscriber..count).step_by(self.subscribers).map(wire::wildcard).collect()
            }
            Topology::Topics(_) => Vec::new(),
        }
    }

    /// The number in a message's topic.
    fn topic(&self, publisher: usize, sequence: u64) -> usize {
        let sequence = sequence as usize;
        match self.topology {
            Topology::Pairs | Topology::All => publisher,
            Topology::Filters(count) => {
                let turn = sequence / self.subscribers + publisher;
                sequence % self.subscribers + self.subscribers * (turn * STRIDE % (count / self.subscribers))
            }
            Topology::Topics(count) => {
                publisher + self.publishers * (sequence * STRIDE % (count / self.publishers))
            }
        }
    }

    fn flow(&self, subscriber: usize, publisher: usize) -> Option<Flow> {
        match self.topology {
            Topology::Pairs => (subscriber == publisher).then_some(Flow { next: 0, stride: 1 }),
            Topology::All => Some(Flow { next: 0, stride: 1 }),
            Topology::Filters(_) => Some(Flow { next: subscriber as u64, stride: self.subscribers as u64 }),
            Topology::Topics(_) => None,
        }
    }
}

impl Connection {
    fn new(client: Client, batch: Vec<u8>) -> Result<Self> {
        let Client { stream, rest, .. } = client;
        Ok(Self { rest, batch, ..Self::of(stream)? })
    }

    fn of(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            rest: Vec::new(),
            batch: Vec::new(),
            pending: 0..0,
            queue: Vec::new(),
            is_blocked: false,
        })
    }

    fn watch(&self, epoll: &OwnedFd, index: usize) -> Result<()> {
        let data = epoll::EventData::new_u64(index as u64);
        Ok(epoll::add(epoll, &self.stream, data, epoll::EventFlags::IN)?)
    }

    /// Disconnects and waits until the broker has done so, too.
    fn leave(mut self) -> Result<()> {
        self.stream.set_nonblocking(false)?;
        self.stream.write_all(&wire::DISCONNECT).context("writing DISCONNECT")?;
        self.stream.read_to_end(&mut self.rest).context("waiting for the end of a connection")?;
        Ok(())
    }

    /// Whether all was written, so that the batch may be used again.
    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.queue.is_empty()
    }

    /// One write; the socket takes what it takes.
    fn write(&mut self) -> Result<()> {
        let slices = [IoSlice::new(&self.batch[self.pending.clone()]), IoSlice::new(&self.queue)];
        let count = match self.stream.write_vectored(&slices) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error).context("writing to the broker"),
        };
        let of_batch = count.min(self.pending.len());
        self.pending.start += of_batch;
        self.queue.drain(..count - of_batch);
        Ok(())
    }
}

impl Publisher {
    /// Notes one copy of a message.
    fn receive(&mut self, sequence: u64, receivers: usize) {
        if self.copies.is_empty() {
            self.delivered += 1;
            return;
        }
        let at = sequence as usize % self.copies.len();
        self.copies[at] += 1;
        if self.copies[at] == receivers {
            self.copies[at] = 0;
            self.delivered += 1;
        }
    }

    fn is_done(&self) -> bool {
        self.delivered == self.sent && self.unacknowledged == 0
    }
}

impl Account {
    /// Whether the message was one that the subscriber was still to receive.
    fn enter(&mut self, subscriber: usize, stamp: &Stamp) -> bool {
        let flow = self.flows[subscriber].get_mut(stamp.publisher as usize).and_then(Option::as_mut);
        let Some(flow) = flow else {
            self.misrouted += 1;
            return false;
        };
        // Two divisions that a message in its place is spared.
        if stamp.sequence != flow.next {
            if stamp.sequence % flow.stride != flow.next % flow.stride {
                self.misrouted += 1;
                return false;
            }
            if stamp.sequence < flow.next {
                self.repeated += 1;
                return false;
            }
            self.missed += (stamp.sequence - flow.next) / flow.stride;
        }
        flow.next = stamp.sequence + flow.stride;
        self.delivered += 1;
        true
    }
}
