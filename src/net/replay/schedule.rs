//! The thread that sends every message at its time.

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream};
use tokio::{runtime::Runtime, sync::watch, time::timeout};
use tracing::debug;

use super::{
    Command, Ended, EventsError, Phase, Remote, ReplayProgress, ReplayReport, ReplaySpec, TopicCount,
    expiry_warning, gaps_error, lateness::Cause, read_ahead::ReadAhead, tally::Tally,
};
use crate::{
    net::client::{Capability, Client, ClientError, ClientOptions, Publisher, Sent, Sink, TryPublish},
    packet::{ProtocolVersion, QoS, ReasonCode},
    recording::{
        player::{ClientKey, Message, Messages, Plan, Player, Poll, Repeat, Step, plan},
        replay_client,
    },
};

/// Connections opened before the first message; further ones when they are first needed.
const CONNECTIONS_AHEAD: usize = 256;

/// Of those, how many at the same time.
const CONNECTING_AT_ONCE: usize = 32;

/// From the last connection to the first message.
pub(super) const LEAD: Duration = Duration::from_millis(5);

/// The system wakes a thread about 50 µs after the time it asked for: it asks for so much earlier,
/// and the rest is spun.
pub(super) const SPIN: Duration = Duration::from_micros(60);

/// How long nothing may move before waiting for acks, confirmations or room is given up.
const SETTLE: Duration = Duration::from_secs(10);

/// How often progress is told at most.
pub(super) const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// Keep alive of the connections: a recording may be silent for long, so ours send PINGREQ.
const KEEP_ALIVE_SECONDS: u16 = 60;

/// Errors that a report names; further ones are only counted by their consequences.
const ERRORS_NAMED: usize = 20;

/// One replay, from its plan to its report.
pub(super) struct Run {
    spec: ReplaySpec,
    runtime: Runtime,
    remote: Arc<Remote>,
    tally: Arc<Tally>,
    progress: watch::Sender<ReplayProgress>,
    told_at: Instant,
    told: (u64, u64),
    report: ReplayReport,
    incapable: HashMap<Capability, u64>,
    links: Vec<Link>,
    by_client: HashMap<ClientKey, usize>,
    topics: HashMap<Box<str>, Topic>,
    last_tag: u64,
    /// What held the schedule up since it was last in time.
    held_up_by: Cause,
    anchor: Instant,
}

/// One of our connections.
struct Link {
    protocol: ProtocolVersion,
    /// `None` until it is first needed.
    client: Option<Client>,
    publisher: Option<Publisher>,
    has_failed: bool,
}

#[derive(Default)]
struct Topic {
    count: TopicCount,
    last: Option<Last>,
}

/// The message last sent to a topic.
struct Last {
    link: usize,
    qos: QoS,
    confirmation: Confirmation,
}

/// What shows that the target has handled it.
enum Confirmation {
    /// The exchange with this tag has ended.
    Exchange(u64),
    /// The PINGREQ with this ticket, or a later one, was answered.
    Ping(u64),
}

/// Why a replay ends early.
pub(super) enum Stop {
    Cancelled,
    Events(EventsError),
    Connect(ClientError),
    /// Every connection has ended.
    Disconnected,
}

impl Run {
    pub fn new(
        spec: ReplaySpec,
        runtime: Runtime,
        remote: Arc<Remote>,
        tally: Arc<Tally>,
        progress: watch::Sender<ReplayProgress>,
        report: ReplayReport,
    ) -> Self {
        let now = Instant::now();
        Self {
            spec,
            runtime,
            remote,
            tally,
            progress,
            told_at: now,
            told: (0, 0),
            report,
            incapable: HashMap::new(),
            links: Vec::new(),
            by_client: HashMap::new(),
            topics: HashMap::new(),
            last_tag: 0,
            held_up_by: Cause::Scheduler,
            anchor: now,
        }
    }

    pub fn run(mut self) -> Ended {
        let stopped = self.try_run().err();
        match &stopped {
            Some(Stop::Events(error)) => self.error(error.to_string()),
            Some(Stop::Connect(error)) => self.error(error.to_string()),
            Some(Stop::Disconnected | Stop::Cancelled) | None => {}
        }
        self.finish();
        self.tell(Phase::Ended);
        // Connections are closed by now; a name lookup that hangs is not waited for.
        self.runtime.shutdown_background();
        Ended::new(self.report, stopped)
    }

    fn try_run(&mut self) -> Result<(), Stop> {
        let plan = self.plan()?;
        self.report.planned = plan.messages;
        self.report.recorded_span = plan.recorded_span;
        self.report.planned_span = plan.planned_span;
        self.report.missing = plan.missing;
        if let Some(text) = gaps_error(self.spec.gaps, plan.missing) {
            self.error(text);
        }
        let expiry = expiry_warning(plan.has_expiry, self.spec.mode, self.spec.pace.speed);
        self.report.warnings.extend(plan.left_out_warning());
        self.report.skipped = plan.skipped;
        let passes = match self.spec.pace.repeat {
            Repeat::Times(times) => Some(u64::from(times)),
            Repeat::Forever => None,
        };
        let planned_span = (passes == Some(1)).then_some(plan.planned_span);
        let total = passes.map(|passes| plan.messages * passes);
        self.progress.send_modify(|progress| {
            progress.total = total;
            progress.planned_span = planned_span;
            progress.end = Some(plan.end);
        });
        self.set_links(plan.clients);
        if plan.messages == 0 {
            return Ok(());
        }
        self.tell(Phase::Connecting);
        self.connect_ahead()?;
        // Where nothing can be sent it surprises nobody.
        self.report.warnings.extend(expiry);
        self.play()
    }

    /// Reads the recording once, at no speed.
    fn plan(&self) -> Result<Plan, Stop> {
        let events = (self.spec.events)().map_err(Stop::Events)?.map(|event| {
            if self.remote.is_cancelled() { Err(Stop::Cancelled) } else { event.map_err(Stop::Events) }
        });
        plan(events, self.spec.selection.clone(), self.spec.pace.clone(), Instant::now())
    }

    fn set_links(&mut self, clients: Vec<ClientKey>) {
        if self.spec.as_one {
            // The version that can say most.
            let protocol = clients.iter().map(|key| key.protocol).max();
            self.links.extend(protocol.map(Link::new));
            self.by_client.extend(clients.into_iter().map(|key| (key, 0)));
        } else {
            for key in clients {
                self.by_client.insert(key.clone(), self.links.len());
                self.links.push(Link::new(key.protocol));
            }
        }
    }

    fn connect_ahead(&mut self) -> Result<(), Stop> {
        let count = self.links.len().min(CONNECTIONS_AHEAD);
        let connecting: Vec<_> = (0..count).map(|link| self.connect(link)).collect();
        let connected: Vec<_> =
            self.runtime.block_on(stream::iter(connecting).buffered(CONNECTING_AT_ONCE).collect());
        let mut failed = None;
        for (link, client) in connected.into_iter().enumerate() {
            match client {
                Ok(client) => self.opened(link, client),
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        if let Some(error) = failed {
            return Err(Stop::Connect(error));
        }
        if self.remote.is_cancelled() { Err(Stop::Cancelled) } else { Ok(()) }
    }

    fn opened(&mut self, link: usize, client: Client) {
        self.report.connections += 1;
        self.links[link].set(client);
    }

    fn connect(&self, link: usize) -> impl Future<Output = Result<Client, ClientError>> + use<> {
        let name = replay_client(&self.report.run, link);
        let options = ClientOptions {
            protocol: self.links[link].protocol,
            keep_alive: KEEP_ALIVE_SECONDS,
            ..ClientOptions::new(self.spec.target.clone(), name)
        };
        let sink: Arc<dyn Sink> = Arc::clone(&self.tally) as _;
        Client::connect_to_publish(options, sink)
    }

    fn play(&mut self) -> Result<(), Stop> {
        let events = self.read_ahead()?;
        events.fill();
        self.anchor = Instant::now() + LEAD;
        let (selection, pace) = (self.spec.selection.clone(), self.spec.pace.clone());
        let mut player = Player::new(events, Messages::new(selection), &pace, self.anchor);
        self.report.passes = 1;
        self.tell(Phase::Playing);
        let mut now = Instant::now();
        let mut first_sent = None;
        let played = loop {
            if self.remote.is_cancelled() {
                break Err(Stop::Cancelled);
            }
            if let Err(stop) = self.obey(&mut player, now) {
                break Err(stop);
            }
            match player.poll(now) {
                Ok(Poll::Due(step)) => {
                    first_sent.get_or_insert_with(Instant::now);
                    if let Err(stop) = self.send(step) {
                        break Err(stop);
                    }
                    now = Instant::now();
                    if now >= self.told_at + TELL_INTERVAL {
                        self.tell(Phase::Playing);
                    }
                }
                Ok(Poll::Wait(deadline)) => {
                    self.held_up_by = Cause::Scheduler;
                    self.wait_until(deadline);
                    now = Instant::now();
                }
                Ok(Poll::Paused) => {
                    self.tell(Phase::Playing);
                    self.wait_until(now + TELL_INTERVAL);
                    now = Instant::now();
                }
                Ok(Poll::Rewind) => match self.read_ahead() {
                    Ok(events) => {
                        player.rewind(events);
                        self.report.passes += 1;
                    }
                    Err(stop) => break Err(stop),
                },
                Ok(Poll::Done) => break Ok(()),
                Err(error) => break Err(Stop::Events(error)),
            }
        };
        // Of all passes now; of those that were not played to their end, nothing was planned.
        if played.is_ok() {
            self.report.planned_span = player.planned_span();
        }
        self.settle();
        if let (Some(first), Some(last)) = (first_sent, self.tally.state().last_written) {
            self.report.actual_span = last.saturating_duration_since(first);
        }
        played
    }

    fn obey(&self, player: &mut Player<ReadAhead, Messages>, now: Instant) -> Result<(), Stop> {
        for command in self.remote.take_commands() {
            match command {
                Command::Seek(to) => player.seek(self.read_ahead()?, self.spec.selection.clamp(to), now),
                command => command.apply(player.timeline(), now),
            }
        }
        Ok(())
    }

    fn read_ahead(&self) -> Result<ReadAhead, Stop> {
        let events = (self.spec.events)().map_err(Stop::Events)?;
        ReadAhead::new(events).map_err(|error| Stop::Events(error.into()))
    }

    /// Sleeps, and spins for the last moment.
    fn wait_until(&mut self, deadline: Instant) {
        while !self.remote.has_word() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left > TELL_INTERVAL {
                self.tell(Phase::Playing);
            }
            match left.checked_sub(SPIN) {
                _ if left.is_zero() => return,
                Some(sleep) => thread::park_timeout(sleep.min(TELL_INTERVAL * 2)),
                None => std::hint::spin_loop(),
            }
        }
    }

    /// Sends one message that is due.
    fn send(&mut self, step: Step<Message>) -> Result<(), Stop> {
        let deadline = step.deadline;
        let link = self.by_client.get(&ClientKey::of(&step)).copied().ok_or_else(has_changed)?;
        let publisher = self.publisher(link)?;
        let Message { mut publish, protocol, .. } = step.item;
        if protocol != ProtocolVersion::V5 {
            publish.properties = Default::default();
        }
        let (qos, bytes) = (publish.qos, publish.payload.len() as u64);
        let topic: Box<str> = publish.topic.as_ref().map_or("", |topic| topic.as_str()).into();
        self.last_tag += 1;
        let tag = self.last_tag;
        self.await_the_one_before(link, qos, &topic)?;
        if self.links[link].has_failed {
            self.report.unsent += 1;
            return Ok(());
        }
        if qos != QoS::AtMostOnce {
            self.tally.open(tag);
        }
        let pings_before = publisher.pings_sent();
        let give_up_at = Instant::now() + SETTLE;
        let sent = loop {
            let steps = self.tally.state().steps;
            let (again, cause) = match publisher.try_publish(publish, tag) {
                Ok(sent) => break Ok(sent),
                Err(TryPublish::Busy(again)) => (again, Cause::FlowControl),
                Err(TryPublish::Full(again)) => (again, Cause::Socket),
                Err(TryPublish::Failed(error)) => break Err(error),
            };
            self.held_up_by = cause;
            publish = again;
            let moved = self.tally.wait(give_up_at, |state| (state.steps != steps).then_some(()));
            if self.remote.is_cancelled() {
                self.tally.withdraw(tag);
                return Err(Stop::Cancelled);
            }
            if moved.is_none() && self.tally.state().steps == steps {
                break Err(publisher.ended().unwrap_or_else(|| stuck(&self.report.target)));
            }
        };
        match sent {
            Ok(Sent::Written(at)) => self.tally.written(at, deadline, self.held_up_by),
            Ok(Sent::Waiting) => self.tally.waits(tag, deadline),
            Err(error) => {
                self.tally.withdraw(tag);
                return self.refuse(link, error);
            }
        }
        self.report.sent += 1;
        self.report.bytes += bytes;
        let entry = self.topics.entry(topic).or_default();
        entry.count.messages += 1;
        entry.count.bytes += bytes;
        let confirmation = match qos {
            QoS::AtMostOnce => Confirmation::Ping(pings_before + 1),
            QoS::AtLeastOnce | QoS::ExactlyOnce => Confirmation::Exchange(tag),
        };
        entry.last = Some(Last { link, qos, confirmation });
        self.progress.send_if_modified(|progress| {
            progress.position = step.at;
            false
        });
        Ok(())
    }

    fn publisher(&mut self, link: usize) -> Result<Publisher, Stop> {
        if self.links[link].publisher.is_none() {
            self.held_up_by = Cause::Scheduler;
            let client = self.runtime.block_on(self.connect(link)).map_err(Stop::Connect)?;
            self.opened(link, client);
        }
        Ok(self.links[link].publisher.clone().expect("it was just connected"))
    }

    /// Subscribers see a topic's messages in the recorded order only if the target has handled the
    /// one before, when that went over another connection, or when it was of QoS 2 and this one is
    /// not: many brokers pass a QoS 2 message on at its PUBREL, others at their PUBLISH.
    fn await_the_one_before(&mut self, link: usize, qos: QoS, topic: &str) -> Result<(), Stop> {
        let Some(last) = self.topics.get_mut(topic).and_then(|topic| topic.last.take()) else {
            return Ok(());
        };
        let overtakes = last.qos == QoS::ExactlyOnce && qos != QoS::ExactlyOnce;
        if last.link == link && !overtakes || self.links[last.link].has_failed {
            return Ok(());
        }
        let before = Instant::now();
        match last.confirmation {
            Confirmation::Exchange(tag) => {
                let remote = Arc::clone(&self.remote);
                let ended = |state: &super::tally::TallyState| {
                    (!state.open.contains(&tag) || remote.is_cancelled()).then_some(())
                };
                if self.tally.wait(before + SETTLE, ended).is_none() {
                    self.error(format!(
                        "no ack within {SETTLE:?} of a message to {topic}: order is not certain"
                    ));
                }
            }
            Confirmation::Ping(ticket) => {
                let other = self.links[last.link].publisher.clone().expect("it has sent");
                if other.pings_sent() < ticket && other.send_ping().is_err() {
                    return Ok(());
                }
                if other.is_answered(ticket) {
                    return Ok(());
                }
                // Made inside: a timer needs its runtime from the start.
                let answered =
                    self.runtime.block_on(async { timeout(SETTLE, other.until_answered(ticket)).await });
                if answered.is_err() {
                    self.error(format!("no PINGRESP within {SETTLE:?} after a message to {topic}"));
                }
            }
        }
        if before.elapsed() > Duration::from_micros(1) {
            self.held_up_by = Cause::Causality;
        }
        if self.remote.is_cancelled() { Err(Stop::Cancelled) } else { Ok(()) }
    }

    /// A message could not be sent.
    fn refuse(&mut self, link: usize, error: ClientError) -> Result<(), Stop> {
        if let ClientError::Capability(capability) = error {
            *self.incapable.entry(capability).or_default() += 1;
            return Ok(());
        }
        self.report.unsent += 1;
        if !std::mem::replace(&mut self.links[link].has_failed, true) {
            self.error(format!("connection {link}: {error}"));
        }
        let is_any_left = self.links.iter().any(|link| !link.has_failed);
        if is_any_left { Ok(()) } else { Err(Stop::Disconnected) }
    }

    /// Waits for what is still to be written and acknowledged, as long as anything moves.
    fn settle(&mut self) {
        self.tell(Phase::Settling);
        let mut steps = self.tally.state().steps;
        let mut give_up_at = Instant::now() + SETTLE;
        while !self.remote.is_cancelled() {
            let until = give_up_at.min(Instant::now() + TELL_INTERVAL);
            let settled = self.tally.wait(until, |state| {
                (state.open.is_empty() && !state.is_waiting_to_be_written()).then_some(())
            });
            if settled.is_some() {
                break;
            }
            self.tell(Phase::Settling);
            let seen = self.tally.state().steps;
            if seen != steps {
                (steps, give_up_at) = (seen, Instant::now() + SETTLE);
            } else if Instant::now() >= give_up_at {
                let open = self.tally.state().open.len();
                self.error(format!("{open} messages were not acknowledged within {SETTLE:?}"));
                break;
            }
        }
    }

    /// Closes the connections, once the target has read all of them, and sums up.
    fn finish(&mut self) {
        let is_cancelled = self.remote.is_cancelled();
        let clients: Vec<_> = self.links.iter_mut().filter_map(|link| link.client.take()).collect();
        let closing = clients.into_iter().map(|client| async move {
            let pinged = match is_cancelled {
                true => Ok(Ok(())),
                false => timeout(SETTLE, client.ping()).await,
            };
            let result = match pinged {
                Ok(Ok(())) => client.disconnect(ReasonCode::SUCCESS).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(ClientError::Closed { target: "a target that answers no PINGREQ".to_owned() }),
            };
            if let Err(error) = &result {
                debug!(%error, "a connection did not end well");
            }
            result.err()
        });
        let mut ended_badly: Vec<_> =
            self.runtime.block_on(join_all(closing)).into_iter().flatten().collect();
        // The first says enough; unacknowledged messages are counted anyway.
        if let Some(error) = ended_badly.pop()
            && self.report.errors.is_empty()
        {
            self.error(error.to_string());
            self.report.unsent += u64::from(self.report.sent == 0);
        }
        let state = self.tally.state();
        self.report.acked = state.acked;
        self.report.unacked = state.unacked();
        self.report.unsent += state.unsent;
        self.report.sent -= state.unsent;
        self.report.refused = state.refused.clone();
        self.report.lateness = state.lateness.summary();
        drop(state);
        self.report.incapable = self.incapable.drain().collect();
        self.report.topics =
            self.topics.drain().map(|(topic, state)| (topic.into_string(), state.count)).collect();
        for text in self.report.shortfalls() {
            self.error(text);
        }
    }

    fn error(&mut self, text: String) {
        if self.report.errors.len() < ERRORS_NAMED {
            self.report.errors.push(text);
        }
    }

    fn tell(&mut self, phase: Phase) {
        let now = Instant::now();
        self.told_at = now;
        let (sent, acked) = (self.report.sent, self.tally.state().acked);
        if let Some(metrics) = &self.spec.metrics {
            metrics.replayed(sent - self.told.0, acked - self.told.1);
            self.told = (sent, acked);
        }
        let elapsed = match phase {
            Phase::Planning | Phase::Connecting => Duration::ZERO,
            Phase::Playing | Phase::Settling | Phase::Ended => now.saturating_duration_since(self.anchor),
        };
        self.progress.send_modify(|progress| {
            (progress.phase, progress.sent, progress.acked, progress.elapsed) = (phase, sent, acked, elapsed);
        });
    }
}

impl Link {
    fn new(protocol: ProtocolVersion) -> Self {
        Self { protocol, client: None, publisher: None, has_failed: false }
    }

    fn set(&mut self, client: Client) {
        self.publisher = Some(client.publisher());
        self.client = Some(client);
    }
}

fn has_changed() -> Stop {
    Stop::Events("the recording has changed while it was played: it has clients that it had not".into())
}

fn stuck(target: &str) -> ClientError {
    ClientError::Unreachable {
        target: target.to_owned(),
        error: Arc::new(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "it takes and acknowledges nothing",
        )),
    }
}
