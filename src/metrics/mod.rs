//! Figures of a running server: counted by whoever moves bytes, read by `/__mockforge/metrics`.
//!
//! Counters are relaxed atomics that hot paths add to once per batch. What the broker keeps anyway
//! (retained messages, messages in flight …) is not counted twice: it is fetched when somebody asks.

mod exposition;
mod family;
mod histogram;
mod process;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

pub use self::{
    family::{Family, Kind, Label, Sample, Value},
    histogram::{Histogram, HistogramView},
};
use crate::{broker::BrokerStats, recording::Direction};

/// Seconds that [`MetricsView::messages_per_second`] looks back.
const RATE_SECONDS: u64 = 5;

/// From a packet that is alone on an idle machine to one that waited for a full disk.
const PROXY_LATENCY: &[u64] = &[
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    1_000_000_000,
];

/// From what a thread that wakes in time needs to a replay that cannot keep up.
const REPLAY_LATENESS: &[u64] = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    10_000_000_000,
];

/// What replays come to, as `outcome` says it.
pub const REPLAY_OUTCOMES: [&str; 8] =
    ["passed", "incomplete", "different", "unreachable", "nothing", "damaged", "late", "cancelled"];

/// Fetches the broker's own figures; `None` once it has stopped.
pub type BrokerFigures =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Option<BrokerStats>> + Send>> + Send + Sync>;

/// All counters of one server.
pub struct Metrics {
    started: Instant,
    started_at: SystemTime,
    connections_active: AtomicI64,
    connections_closed: AtomicU64,
    connections_refused: AtomicU64,
    published: [AtomicU64; 3],
    delivered: [AtomicU64; 3],
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    subscriptions_active: AtomicI64,
    subscriptions_total: AtomicU64,
    rate: RateWindow,
    recorder_events: AtomicU64,
    recorder_bytes: AtomicU64,
    recorder_gaps: AtomicU64,
    stores_moved_aside: AtomicU64,
    replay_sent: AtomicU64,
    replay_acked: AtomicU64,
    replay_matched: AtomicU64,
    replay_missing: AtomicU64,
    replay_unexpected: AtomicU64,
    /// In the order of [`REPLAY_OUTCOMES`].
    replays: [AtomicU64; REPLAY_OUTCOMES.len()],
    replay_lateness: Arc<Histogram>,
    /// To the server, to the client.
    proxy_latency: [Histogram; 2],
    broker: Mutex<Option<Arc<BrokerFigures>>>,
    families: Mutex<Vec<Arc<FamilySource>>>,
    refreshers: Mutex<Vec<Arc<Refresher>>>,
    /// As it was asked last.
    last_of_broker: Mutex<BrokerStats>,
}

/// Fetches metrics that others keep.
pub type FamilySource = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

/// Brings figures up to now that are counted elsewhere.
pub type Refresher = Box<dyn Fn() + Send + Sync>;

/// Every figure at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricsView {
    pub connections_active: u64,
    pub connections_closed: u64,
    /// Turned away: too many connections, or the upstream could not be reached.
    pub connections_refused: u64,
    /// Messages published by clients and over the API, by QoS.
    pub published: [u64; 3],
    /// PUBLISH packets sent to clients, by QoS.
    pub delivered: [u64; 3],
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub subscriptions_active: u64,
    pub subscriptions_total: u64,
    /// Messages published by clients and over the API, over the last seconds.
    pub messages_per_second: f64,
    /// The broker's own figures; all 0 in a proxy.
    pub broker: BrokerStats,
    pub recorder_events: u64,
    pub recorder_bytes: u64,
    pub recorder_gaps: u64,
    pub stores_moved_aside: u64,
    pub replay_sent: u64,
    pub replay_acked: u64,
    /// Of verdicts: packets that came back as expected, that did not, and that were not expected.
    pub replay_matched: u64,
    pub replay_missing: u64,
    pub replay_unexpected: u64,
    /// Those that ended, by outcome.
    pub replays: [(&'static str, u64); REPLAY_OUTCOMES.len()],
}

/// What [`get_broker_stats`] answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BrokerStatsView {
    pub active_connections: u64,
    pub total_connections: u64,
    pub messages_per_second: f64,
    /// Messages published by clients and over the API.
    pub messages_published: u64,
    /// PUBLISH packets sent to clients.
    pub messages_delivered: u64,
    pub active_subscriptions: u64,
    pub retained_messages: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub uptime_seconds: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            connections_active: AtomicI64::new(0),
            connections_closed: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            published: Default::default(),
            delivered: Default::default(),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            subscriptions_active: AtomicI64::new(0),
            subscriptions_total: AtomicU64::new(0),
            rate: RateWindow::default(),
            recorder_events: AtomicU64::new(0),
            recorder_bytes: AtomicU64::new(0),
            recorder_gaps: AtomicU64::new(0),
            stores_moved_aside: AtomicU64::new(0),
            replay_sent: AtomicU64::new(0),
            replay_acked: AtomicU64::new(0),
            replay_matched: AtomicU64::new(0),
            replay_missing: AtomicU64::new(0),
            replay_unexpected: AtomicU64::new(0),
            replays: Default::default(),
            replay_lateness: Arc::new(Histogram::new(REPLAY_LATENESS)),
            proxy_latency: [Histogram::new(PROXY_LATENCY), Histogram::new(PROXY_LATENCY)],
            broker: Mutex::new(None),
            families: Mutex::default(),
            refreshers: Mutex::default(),
            last_of_broker: Mutex::default(),
        }
    }

    /// Makes `figures` part of every [`view`](Self::view): in force from now on, in place of the
    /// subscription and delivery counters below, which are a proxy's.
    pub fn attach_broker(&self, figures: BrokerFigures) {
        *self.broker.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(figures));
    }

    /// Has metrics printed that somebody else keeps.
    pub fn attach_families(&self, source: FamilySource) {
        self.families.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(source));
    }

    /// Has `refresher` run before all figures are read.
    pub fn before_each(&self, refresher: Refresher) {
        self.refreshers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(refresher));
    }

    pub fn connection_opened(&self) {
        self.connections_active.fetch_add(1, Relaxed);
    }

    pub fn connection_closed(&self) {
        self.connections_active.fetch_sub(1, Relaxed);
        self.connections_closed.fetch_add(1, Relaxed);
    }

    pub fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Relaxed);
    }

    /// A batch of `bytes` was read from a client at `now`, with so many PUBLISH packets by QoS.
    pub fn received(&self, now: Instant, bytes: u64, published: [u64; 3]) {
        self.bytes_received.fetch_add(bytes, Relaxed);
        let total = add_each(&self.published, published);
        if total > 0 {
            self.rate.add(now.saturating_duration_since(self.started).as_secs(), total);
        }
    }

    /// `bytes` were written to a client.
    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Relaxed);
    }

    /// PUBLISH packets that a proxy passed on to a client, by QoS.
    pub fn delivered(&self, delivered: [u64; 3]) {
        add_each(&self.delivered, delivered);
    }

    /// A proxied client's subscriptions changed: `granted` by a SUBACK, `active` more (or fewer).
    pub fn subscriptions_changed(&self, granted: u64, active: i64) {
        self.subscriptions_total.fetch_add(granted, Relaxed);
        self.subscriptions_active.fetch_add(active, Relaxed);
    }

    pub fn recorded(&self, events: u64, bytes: u64, gaps: u64) {
        self.recorder_events.fetch_add(events, Relaxed);
        self.recorder_bytes.fetch_add(bytes, Relaxed);
        self.recorder_gaps.fetch_add(gaps, Relaxed);
    }

    /// The store was found damaged; a new one is used.
    pub fn store_moved_aside(&self) {
        self.stores_moved_aside.fetch_add(1, Relaxed);
    }

    pub fn replayed(&self, sent: u64, acked: u64) {
        self.replay_sent.fetch_add(sent, Relaxed);
        self.replay_acked.fetch_add(acked, Relaxed);
    }

    /// A replay ended with `outcome`, one of [`REPLAY_OUTCOMES`], and so many packets matched, missing and unexpected.
    pub fn replay_ended(&self, outcome: &str, matched: u64, missing: u64, unexpected: u64) {
        if let Some(position) = REPLAY_OUTCOMES.iter().position(|known| *known == outcome) {
            self.replays[position].fetch_add(1, Relaxed);
        }
        self.replay_matched.fetch_add(matched, Relaxed);
        self.replay_missing.fetch_add(missing, Relaxed);
        self.replay_unexpected.fetch_add(unexpected, Relaxed);
    }

    /// Takes how late messages of replays left.
    pub fn replay_lateness(&self) -> &Arc<Histogram> {
        &self.replay_lateness
    }

    /// `messages` PUBLISH packets of a proxied client that were read together have been passed on `after` that.
    pub fn proxied(&self, direction: Direction, after: Duration, messages: u64) {
        self.proxy_latency[usize::from(direction == Direction::ServerToClient)].observe(after, messages);
    }

    /// Every figure as of now.
    pub async fn view(&self) -> MetricsView {
        let figures = self.broker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let broker = match figures {
            Some(figures) => {
                let now = figures().await;
                let mut last = self.last_of_broker.lock().unwrap_or_else(PoisonError::into_inner);
                // A broker that has stopped: what counters have counted stays.
                *last = now.unwrap_or(*last);
                Some(*last)
            }
            None => None,
        };
        let own_or = |own: u64, theirs: fn(&BrokerStats) -> u64| broker.as_ref().map_or(own, theirs);
        MetricsView {
            connections_active: at_least_zero(&self.connections_active),
            connections_closed: self.connections_closed.load(Relaxed),
            connections_refused: self.connections_refused.load(Relaxed),
            published: load_each(&self.published),
            delivered: broker.as_ref().map_or_else(|| load_each(&self.delivered), |broker| broker.delivered),
            bytes_received: self.bytes_received.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            subscriptions_active: own_or(at_least_zero(&self.subscriptions_active), |broker| {
                broker.subscriptions_active
            }),
            subscriptions_total: own_or(self.subscriptions_total.load(Relaxed), |broker| {
                broker.subscriptions_total
            }),
            messages_per_second: self.rate.per_second(self.started.elapsed().as_secs_f64()),
            broker: broker.unwrap_or_default(),
            recorder_events: self.recorder_events.load(Relaxed),
            recorder_bytes: self.recorder_bytes.load(Relaxed),
            recorder_gaps: self.recorder_gaps.load(Relaxed),
            stores_moved_aside: self.stores_moved_aside.load(Relaxed),
            replay_sent: self.replay_sent.load(Relaxed),
            replay_acked: self.replay_acked.load(Relaxed),
            replay_matched: self.replay_matched.load(Relaxed),
            replay_missing: self.replay_missing.load(Relaxed),
            replay_unexpected: self.replay_unexpected.load(Relaxed),
            replays: std::array::from_fn(|n| (REPLAY_OUTCOMES[n], self.replays[n].load(Relaxed))),
        }
    }

    /// Every metric as of now: the one source of whoever exports them.
    pub async fn families(&self) -> Vec<Family> {
        let refreshers = self.refreshers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        refreshers.iter().for_each(|refresh| refresh());
        let mut families = families(&self.view().await);
        let latency = ["client_to_server", "server_to_client"].into_iter().zip(&self.proxy_latency);
        families.extend([
            Family::histogram(
                "mqtt_replay_lateness_seconds",
                "How much later than due messages of replays left.",
            )
            .value(self.replay_lateness.view()),
            Family::histogram(
                "mqtt_proxy_latency_seconds",
                "Time from reading a PUBLISH to having passed it on.",
            )
            .each("direction", latency.map(|(direction, histogram)| (direction, histogram.view()))),
        ]);
        let sources = self.families.lock().unwrap_or_else(PoisonError::into_inner).clone();
        families.extend(sources.iter().flat_map(|source| source()));
        families.extend(process::families(self.started_at));
        families
    }

    /// The Prometheus text exposition format, version 0.0.4.
    pub async fn render(&self) -> String {
        exposition::exposition(&self.families().await)
    }

    pub async fn broker_stats(&self) -> BrokerStatsView {
        let view = self.view().await;
        BrokerStatsView {
            active_connections: view.connections_active,
            total_connections: view.connections_active + view.connections_closed,
            messages_per_second: view.messages_per_second,
            messages_published: view.published.iter().sum(),
            messages_delivered: view.delivered.iter().sum(),
            active_subscriptions: view.subscriptions_active,
            retained_messages: view.broker.retained_messages,
            bytes_received: view.bytes_received,
            bytes_sent: view.bytes_sent,
            uptime_seconds: self.started.elapsed().as_secs(),
        }
    }

    /// Makes these the figures that [`get_broker_stats`] answers with, while they live.
    pub fn make_latest(self: &Arc<Self>) {
        LATEST.set(self);
    }
}

/// The only global of the program, and only a front: the server that was started last.
static LATEST: Latest = Latest(Mutex::new(Weak::new()));

/// Figures of the server that was started last in this process; all 0 when none runs.
pub async fn get_broker_stats() -> BrokerStatsView {
    LATEST.stats().await
}

struct Latest(Mutex<Weak<Metrics>>);

impl Latest {
    fn set(&self, metrics: &Arc<Metrics>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(metrics);
    }

    async fn stats(&self) -> BrokerStatsView {
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        match latest {
            Some(metrics) => metrics.broker_stats().await,
            None => BrokerStatsView::default(),
        }
    }
}

/// How many messages came in each of the last seconds.
///
/// A slot holds the second it counts in its upper half and the count in its lower; whoever first
/// counts in a new second takes the slot over from the second that is long past.
#[derive(Default)]
struct RateWindow {
    slots: [AtomicU64; 8],
}

impl RateWindow {
    fn add(&self, second: u64, count: u64) {
        let slot = &self.slots[(second % self.slots.len() as u64) as usize];
        let mut current = slot.load(Relaxed);
        loop {
            let next =
                if current >> 32 == second { current.saturating_add(count) } else { second << 32 | count };
            match slot.compare_exchange_weak(current, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) => current = other,
            }
        }
    }

    /// `now` in seconds since counting began; the second under way counts as far as it has gone.
    fn per_second(&self, now: f64) -> f64 {
        let second = now as u64;
        let first = second.saturating_sub(RATE_SECONDS - 1);
        let count: u64 = self
            .slots
            .iter()
            .map(|slot| slot.load(Relaxed))
            .filter(|slot| (first..=second).contains(&(slot >> 32)))
            .map(|slot| slot & u64::from(u32::MAX))
            .sum();
        // A server that has just started would otherwise divide by almost nothing.
        count as f64 / (now - first as f64).max(1.0)
    }
}

/// What is in a view, as it is exported.
fn families(view: &MetricsView) -> Vec<Family> {
    let MetricsView { broker, .. } = view;
    let by_qos = |values: [u64; 3]| ["0", "1", "2"].into_iter().zip(values);
    let mut families = vec![
        Family::gauge("mockforge_build_info", "1; the version that runs.")
            .sample(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1),
        // Untyped, because "active" falls again though the guide's name ends in `_total`.
        Family::untyped("mqtt_connections_total", "Connections now open, and closed since the start.")
            .each("status", [("active", view.connections_active), ("closed", view.connections_closed)]),
        Family::counter("mqtt_messages_published_total", "Messages published by clients and over the API.")
            .each("qos", by_qos(view.published)),
        Family::counter("mqtt_messages_delivered_total", "PUBLISH packets sent to clients.")
            .each("qos", by_qos(view.delivered)),
        Family::counter(
            "mqtt_messages_dropped_total",
            "Messages a subscriber did not get, or that were not taken from a client.",
        )
        .each(
            "reason",
            [
                ("queue_full", broker.dropped_queue_full),
                ("expired", broker.dropped_expired),
                ("too_large", broker.dropped_too_large),
                ("not_authorized", broker.dropped_not_authorized),
            ],
        ),
        Family::counter("mqtt_logins_refused_total", "Clients that were not let in.").each(
            "reason",
            [
                ("bad_user_name_or_password", broker.refused_credentials),
                ("not_authorized", broker.refused_not_authorized),
                ("server_busy", broker.refused_busy),
            ],
        ),
        Family::counter("mqtt_replays_total", "Replays that ended, by what came of them.")
            .each("outcome", view.replays.iter().copied()),
    ];
    families.extend(
        [
            (
                "mqtt_connections_refused_total",
                "Connections turned away before they were served.",
                view.connections_refused,
            ),
            (
                "mqtt_subscriptions_refused_total",
                "Subscriptions that no access rule allows.",
                broker.refused_subscriptions,
            ),
            ("mqtt_subscriptions_total", "Subscriptions granted.", view.subscriptions_total),
            ("mqtt_bytes_received_total", "Bytes received from clients.", view.bytes_received),
            ("mqtt_bytes_sent_total", "Bytes sent to clients.", view.bytes_sent),
            ("mqtt_sessions_expired_total", "Sessions that expired.", broker.sessions_expired),
            (
                "mqtt_retained_dropped_total",
                "Messages passed on but not retained, for want of room.",
                broker.dropped_retained,
            ),
            ("mqtt_recorder_events_total", "Events recorded.", view.recorder_events),
            ("mqtt_recorder_bytes_total", "Bytes recorded.", view.recorder_bytes),
            ("mqtt_recorder_gaps_total", "Gaps in recordings.", view.recorder_gaps),
            ("mqtt_replay_sent_total", "Messages sent by replays.", view.replay_sent),
            ("mqtt_replay_acked_total", "Acks received by replays.", view.replay_acked),
            (
                "mqtt_replay_matched_total",
                "Packets that came back in a replay as expected.",
                view.replay_matched,
            ),
            ("mqtt_replay_missing_total", "Packets that did not come back in a replay.", view.replay_missing),
            (
                "mqtt_replay_unexpected_total",
                "Packets that came in a replay and were not expected.",
                view.replay_unexpected,
            ),
        ]
        .map(|(name, help, value)| Family::counter(name, help).value(value)),
    );
    families.extend(
        [
            ("mqtt_subscriptions_active", "Subscriptions in force.", view.subscriptions_active),
            ("mqtt_sessions", "Sessions kept, connected or not.", broker.sessions),
            ("mqtt_retained_messages", "Retained messages.", broker.retained_messages),
            ("mqtt_retained_bytes", "Bytes of retained messages.", broker.retained_bytes),
            ("mqtt_messages_inflight", "QoS 1 and 2 messages without their ack.", broker.inflight),
            ("mqtt_messages_queued", "Messages waiting for a client.", broker.queued),
            ("mqtt_store_moved_aside", "Damaged stores moved aside.", view.stores_moved_aside),
        ]
        .map(|(name, help, value)| Family::gauge(name, help).value(value)),
    );
    families
}
/// Adds and returns the sum of what was added.
fn add_each(counters: &[AtomicU64; 3], values: [u64; 3]) -> u64 {
    for (counter, value) in counters.iter().zip(values) {
        if value > 0 {
            counter.fetch_add(value, Relaxed);
        }
    }
    values.iter().sum()
}

fn load_each(counters: &[AtomicU64; 3]) -> [u64; 3] {
    [counters[0].load(Relaxed), counters[1].load(Relaxed), counters[2].load(Relaxed)]
}

/// Gauges are raised and lowered by different threads: a reader between the two may see less than
/// nothing.
fn at_least_zero(gauge: &AtomicI64) -> u64 {
    gauge.load(Relaxed).max(0).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_guides_metrics_are_printed_with_its_names_and_labels() {
        let metrics = Metrics::new();
        for _ in 0..3 {
            metrics.connection_opened();
        }
        metrics.connection_closed();
        metrics.received(Instant::now(), 1048576, [1234, 567, 89]);
        metrics.sent(2097152);
        metrics.subscriptions_changed(256, 128);
        let text = metrics.render().await;
        for line in [
            "mqtt_connections_total{status=\"active\"} 2",
            "mqtt_connections_total{status=\"closed\"} 1",
            "mqtt_messages_published_total{qos=\"0\"} 1234",
            "mqtt_messages_published_total{qos=\"1\"} 567",
            "mqtt_messages_published_total{qos=\"2\"} 89",
            "mqtt_subscriptions_active 128",
            "mqtt_subscriptions_total 256",
            "mqtt_bytes_received_total 1048576",
            "mqtt_bytes_sent_total 2097152",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
    }

    #[tokio::test]
    async fn every_family_is_declared_once_and_every_sample_belongs_to_the_one_above() {
        let text = Metrics::new().render().await;
        let mut declared = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().expect("a split has a first part");
                assert!(!declared.contains(&name), "{name} twice");
                declared.push(name);
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("a split has a first part");
                let of_family = declared.last().and_then(|family| name.strip_prefix(family));
                assert!(matches!(of_family, Some("" | "_bucket" | "_sum" | "_count")), "{line}");
                let value = line.rsplit(' ').next().expect("a split has a last part");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    #[tokio::test]
    async fn a_brokers_figures_take_the_place_of_the_proxys() {
        let metrics = Metrics::new();
        metrics.attach_broker(Box::new(|| {
            Box::pin(async {
                Some(BrokerStats { subscriptions_active: 7, retained_messages: 2, ..Default::default() })
            })
        }));
        let view = metrics.view().await;
        assert_eq!((view.subscriptions_active, view.broker.retained_messages), (7, 2));
    }

    #[test]
    fn the_rate_counts_the_last_seconds_and_forgets_the_ones_before() {
        let rate = RateWindow::default();
        rate.add(0, 1000);
        assert_eq!(rate.per_second(0.5), 1000.0);
        for second in 1..=20 {
            rate.add(second, 40);
            rate.add(second, 60);
        }
        assert_eq!(rate.per_second(21.0), 100.0);
        assert_eq!(rate.per_second(40.0), 0.0);
    }

    #[tokio::test]
    async fn the_front_answers_for_the_server_started_last_and_with_nothing_when_it_is_gone() {
        let metrics = Arc::new(Metrics::new());
        metrics.connection_opened();
        metrics.received(Instant::now() + Duration::from_millis(1), 10, [5, 0, 0]);
        // Of its own: other tests start servers.
        let latest = Latest(Mutex::new(Weak::new()));
        latest.set(&Arc::new(Metrics::new()));
        latest.set(&metrics);
        let stats = latest.stats().await;
        assert_eq!(stats.active_connections, 1);
        assert!(stats.messages_per_second > 0.0);
        drop(metrics);
        assert_eq!(latest.stats().await, BrokerStatsView::default());
    }
}
