//! The broker's own figures, published below `$SYS/broker/` under the names that mosquitto gave them.
//!
//! They are published retained, each when it has changed, once in an interval. What they retain is
//! kept apart from clients' retained messages and counts against no limit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    packet::QoS,
    session::{MessageRef, Payload},
};

use super::{Broker, BrokerStats, Timer, retained::Retained};

const VERSION: &str = concat!("mockforge version ", env!("CARGO_PKG_VERSION"));

/// Minutes that loads are averaged over.
const WINDOWS: [(u64, &str); 3] = [(1, "1min"), (5, "5min"), (15, "15min")];

/// What was published, and what it takes to publish again.
#[derive(Debug)]
pub(super) struct Figures {
    began: Instant,
    /// Zero publishes nothing.
    interval: Duration,
    updated_at: Instant,
    pub due: Option<Instant>,
    pub retained: Retained,
    loads: Vec<Load>,
}

/// A rate per minute, as an exponentially weighted average over each window.
#[derive(Debug)]
struct Load {
    name: &'static str,
    total: u64,
    averages: [f64; WINDOWS.len()],
}

impl Load {
    fn update(&mut self, total: u64, elapsed: f64) {
        // The first time nothing has passed yet, and what came counts for the second.
        if elapsed > 0.0 {
            let rate = (total - self.total) as f64 * 60.0 / elapsed;
            for (average, (minutes, _)) in self.averages.iter_mut().zip(WINDOWS) {
                let kept = (-elapsed / (minutes as f64 * 60.0)).exp();
                *average = rate + kept * (*average - rate);
            }
            self.total = total;
        }
    }
}

/// Whether a topic is below `$SYS`, where clients do not publish [section 4.7.2]; of a filter, whether
/// it may match such topics.
pub(super) fn is_own_topic(topic: &[u8]) -> bool {
    topic.starts_with(b"$SYS/")
}

impl Figures {
    pub fn new(now: Instant, interval: Duration) -> Self {
        Self {
            began: now,
            interval,
            updated_at: now,
            due: None,
            retained: Retained::default(),
            loads: Vec::new(),
        }
    }

    /// Whether `topic` is one of theirs, which nobody else's message is retained for.
    pub fn owns(&mut self, topic: &[u8]) -> bool {
        is_own_topic(topic) && self.retained.get(topic).is_some()
    }

    fn update_loads(&mut self, now: Instant, totals: &[(&'static str, u64)]) {
        let elapsed = now.saturating_duration_since(self.updated_at).as_secs_f64();
        self.updated_at = now;
        if self.loads.is_empty() {
            self.loads =
                totals.iter().map(|&(name, _)| Load { name, total: 0, averages: [0.0; 3] }).collect();
        }
        for (load, &(_, total)) in self.loads.iter_mut().zip(totals) {
            load.update(total, elapsed);
        }
    }
}

impl Broker {
    /// Publishes the figures for the first time, if they are to be published at all.
    pub(super) fn start_figures(&mut self) {
        if !self.figures.interval.is_zero() {
            let at = Some(self.figures.began);
            self.timers.set(&mut self.figures.due, at, Timer::Figures);
        }
    }

    /// Publishes the figures that have changed, and has this called again.
    pub(super) fn publish_figures(&mut self, now: Instant) {
        let next = now + self.figures.interval;
        self.timers.set(&mut self.figures.due, Some(next), Timer::Figures);
        for (name, value) in self.take_figures(now) {
            let topic = format!("$SYS/broker/{name}");
            let message = MessageRef {
                topic: topic.as_bytes(),
                properties: &[],
                payload: Payload::Copied(value.as_bytes()),
                qos: QoS::ExactlyOnce,
                retain: self.limits.retain_available,
                expires_at: None,
                packet: None,
            };
            let before = self.figures.retained.get(topic.as_bytes());
            if before.is_some_and(|before| before.as_message().payload.as_bytes() == value.as_bytes()) {
                continue;
            }
            self.figures.retained.store(Arc::new(message.store()), None);
            self.route(now, &message, None);
        }
    }

    fn take_figures(&mut self, now: Instant) -> Vec<(String, String)> {
        let stats = self.stats();
        let BrokerStats { clients_connected: connected, sessions, .. } = stats;
        let dropped = stats.dropped_queue_full + stats.dropped_expired + stats.dropped_too_large;
        let (published, delivered): (u64, u64) = (stats.published.iter().sum(), stats.delivered.iter().sum());
        let queued_bytes: usize = self.sessions.iter().map(|(_, session)| session.queue.bytes()).sum();
        self.figures.update_loads(
            now,
            &[
                ("messages/received", stats.packets_received),
                ("messages/sent", stats.packets_sent),
                ("publish/dropped", dropped),
                ("publish/received", published),
                ("publish/sent", delivered),
                ("bytes/received", stats.bytes_received),
                ("bytes/sent", stats.bytes_sent),
                ("sockets", stats.connections_accepted),
                ("connections", stats.clients_accepted),
            ],
        );
        let uptime = now.saturating_duration_since(self.figures.began).as_secs();
        let mut figures = vec![
            ("version".to_owned(), VERSION.to_owned()),
            ("uptime".to_owned(), format!("{uptime} seconds")),
        ];
        let mut count = |name: &str, value: u64| figures.push((name.to_owned(), value.to_string()));
        count("clients/total", sessions);
        count("clients/connected", connected);
        count("clients/active", connected);
        count("clients/disconnected", sessions - connected);
        count("clients/inactive", sessions - connected);
        count("clients/maximum", stats.clients_maximum);
        count("clients/expired", stats.sessions_expired);
        count("messages/received", stats.packets_received);
        count("messages/sent", stats.packets_sent);
        count("messages/inflight", stats.inflight);
        count("messages/stored", stats.retained_messages + stats.queued);
        count("store/messages/count", stats.retained_messages + stats.queued);
        count("store/messages/bytes", stats.retained_bytes + queued_bytes as u64);
        count("publish/messages/dropped", dropped);
        count("publish/messages/received", published);
        count("publish/messages/sent", delivered);
        count("publish/bytes/received", stats.payload_bytes_received);
        count("publish/bytes/sent", stats.payload_bytes_sent);
        count("bytes/received", stats.bytes_received);
        count("bytes/sent", stats.bytes_sent);
        count("retained messages/count", stats.retained_messages);
        count("subscriptions/count", stats.subscriptions_active);
        count("shared_subscriptions/count", self.subscriptions.shared_len() as u64);
        for load in &self.figures.loads {
            for (average, (_, window)) in load.averages.iter().zip(WINDOWS) {
                figures.push((format!("load/{}/{window}", load.name), format!("{average:.2}")));
            }
        }
        figures
    }

    /// The shell read from a client, or wrote to one.
    pub fn count_bytes(&mut self, received: usize, sent: usize) {
        self.stats.bytes_received += received as u64;
        self.stats.bytes_sent += sent as u64;
    }
}
