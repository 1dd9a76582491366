//! What the clients of a trial do.

use std::time::{Duration, Instant};

use super::{
    client::{Client, Role, Step},
    draws::Draws,
    ledger::Micros,
    plan::{MessageId, Plan, payload},
    wire::Will,
};

/// Publishes what its plan says, in bursts now and then.
pub struct Publisher {
    plan: Plan,
    next: u32,
    /// Most messages in flight.
    window: usize,
    /// Mean time from one message to the next.
    pace: Duration,
    due: Instant,
    draws: Draws,
}

impl Publisher {
    pub fn new(plan: Plan, window: usize, pace: Duration) -> Self {
        let draws = Draws::new(plan.seed, 2000 + u64::from(plan.publisher));
        Self { plan, next: 1, window, pace, due: Instant::now(), draws }
    }
}

impl Role for Publisher {
    fn step(&mut self, client: &mut Client) -> Step {
        let now = Instant::now();
        while self.due <= now && !client.is_draining() {
            let burst = if self.draws.once_in(20) { self.window } else { 1 };
            for _ in 0..burst {
                if client.has_room(self.window) {
                    client.publish(self.plan.message(self.next));
                    self.next += 1;
                }
            }
            let mean = self.pace.as_micros() as u64 * burst as u64;
            // What was missed while there was no connection is not made up for.
            self.due = self.due.max(now - 2 * self.pace) + Duration::from_micros(self.draws.below(2 * mean));
        }
        Step::Stay
    }
}

pub struct Wanted {
    pub filter: &'static str,
    pub qos: u8,
    /// Subscription Identifier; 0 is none.
    pub identifier: u8,
}

/// Keeps its subscriptions, and is away for some rounds at a time if that is its way.
pub struct Subscriber {
    wanted: Vec<Wanted>,
    /// Once in so many runs; never if 0.
    leaves: u64,
    leaves_at: Option<Instant>,
    /// It stays away up to this run.
    back_in: u32,
    seen_run: u32,
    draws: Draws,
}

impl Subscriber {
    pub fn new(wanted: Vec<Wanted>, leaves: u64, draws: Draws) -> Self {
        Self { wanted, leaves, leaves_at: None, back_in: 0, seen_run: 0, draws }
    }
}

impl Role for Subscriber {
    fn is_away(&mut self, client: &Client) -> bool {
        let run = client.world.address().map_or(u32::MAX, |address| address.run);
        run < self.back_in && !client.is_draining()
    }

    fn step(&mut self, client: &mut Client) -> Step {
        for Wanted { filter, qos, identifier } in &self.wanted {
            if !client.has_wish(filter) {
                client.wish(filter, *qos, *identifier, true);
            }
        }
        let now = Instant::now();
        if client.run > self.seen_run {
            self.seen_run = client.run;
            let leaves = self.leaves > 0 && client.run > 1 && self.draws.once_in(self.leaves);
            self.leaves_at = leaves.then(|| now + Duration::from_millis(self.draws.below(200)));
        }
        if client.is_content() && self.leaves_at.is_some_and(|at| at <= now) && !client.is_draining() {
            self.leaves_at = None;
            self.back_in = client.run + 1 + self.draws.below(4) as u32;
            return Step::Cut;
        }
        Step::Stay
    }
}

/// Subscribes and unsubscribes again and again.
pub struct Wavering {
    filters: Vec<&'static str>,
    qos: u8,
    due: Instant,
    draws: Draws,
}

impl Wavering {
    pub fn new(filters: Vec<&'static str>, qos: u8, draws: Draws) -> Self {
        Self { filters, qos, due: Instant::now(), draws }
    }
}

impl Role for Wavering {
    fn step(&mut self, client: &mut Client) -> Step {
        let now = Instant::now();
        if client.is_content() && self.due <= now && !client.is_draining() {
            let filter = self.filters[self.draws.below(self.filters.len() as u64) as usize];
            client.wish(filter, self.qos, 0, !client.has_wish(filter));
            self.due = now + Duration::from_millis(self.draws.below(150));
        }
        Step::Stay
    }
}

/// Has a Will, with another message each time, and stays away until that was published.
pub struct Willer {
    publisher: u16,
    topic: &'static str,
    qos: u8,
    delay_secs: u32,
    next: u32,
    /// The Will of a connection that there was, and when its CONNACK came in which run.
    due: Option<(MessageId, (u32, Micros))>,
    leaves_at: Option<Instant>,
    draws: Draws,
}

impl Willer {
    pub fn new(publisher: u16, topic: &'static str, qos: u8, delay_secs: u32, draws: Draws) -> Self {
        Self { publisher, topic, qos, delay_secs, next: 1, due: None, leaves_at: None, draws }
    }
}

impl Willer {
    /// For a Will that has not been published, and has to be.
    fn is_waiting(&self, client: &Client) -> bool {
        let Some((will, connected)) = self.due else { return false };
        let is_seen = client.world.witness().is_some_and(|since| since < connected.1);
        is_seen && client.is_sure(connected) && !client.has_come(will)
    }
}

impl Role for Willer {
    fn is_away(&mut self, client: &Client) -> bool {
        self.is_waiting(client) || client.is_draining() || client.world.witness().is_none()
    }

    fn will(&mut self, _client: &Client) -> Option<(MessageId, Will)> {
        let id = MessageId { publisher: self.publisher, number: self.next };
        self.next += 1;
        (self.due, self.leaves_at) = (None, None);
        let (topic, qos, delay_secs) = (self.topic, self.qos, self.delay_secs);
        Some((id, Will { topic, payload: payload(id, 40), qos, delay_secs }))
    }

    fn connected(&mut self, client: &mut Client) {
        let id = MessageId { publisher: self.publisher, number: self.next - 1 };
        self.due = Some((id, (client.run, client.world.ledger.now())));
        self.leaves_at = Some(Instant::now() + Duration::from_millis(self.draws.below(600)));
    }

    fn step(&mut self, client: &mut Client) -> Step {
        let is_time = self.leaves_at.is_some_and(|at| at <= Instant::now());
        if is_time || client.is_draining() { Step::Cut } else { Step::Stay }
    }

    fn is_done(&self, client: &Client) -> bool {
        !self.is_waiting(client)
    }
}

/// Has a Will with a delay that it is always back in.
pub struct Returning {
    publisher: u16,
    topic: &'static str,
    next: u32,
}

impl Returning {
    pub fn new(publisher: u16, topic: &'static str) -> Self {
        Self { publisher, topic, next: 1 }
    }
}

impl Role for Returning {
    fn will(&mut self, _client: &Client) -> Option<(MessageId, Will)> {
        let id = MessageId { publisher: self.publisher, number: self.next };
        self.next += 1;
        Some((id, Will { topic: self.topic, payload: payload(id, 40), qos: 1, delay_secs: 3600 }))
    }

    fn step(&mut self, _client: &mut Client) -> Step {
        Step::Stay
    }
}
