//! Every management action, once: a method per rpc, which gRPC, REST and the command line all call.
//!
//! This is the only place that decides anything for an operator. Requests are checked field by field; errors carry a
//! reason and the path of each bad field. Without a server the calls about recordings and replays work all the same.

mod admin;
mod broker;
mod broker_server;
mod broker_url;
mod casting;
mod chaos;
mod comparison;
mod edits;
mod error;
mod event_filter;
mod event_text;
mod fields;
mod in_force;
mod lossy;
mod mask;
mod messages;
mod mocks;
mod page;
pub mod pb;
mod properties;
mod proxies;
mod proxy_server;
mod recorded_event;
mod recordings;
mod replays;
mod reset;
mod retained;
mod scenarios;
mod server;
mod settings;
mod state;
mod steering;
mod summary;
mod time;
mod tokens_in_force;
mod verification;
mod watch;
mod webhooks;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{Stream, StreamExt};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub use broker_server::BrokerServer;
pub use chaos::{fault_families, rule_message};
pub use edits::changed_nothing;
pub use error::{ControlError, ERROR_DOMAIN};
pub use lossy::Entry;
pub use messages::{count_message, match_message};
pub use mocks::mock_message;
pub use proxies::{Proxies, ProxyParts, SpawnProxy};
pub use proxy_server::ProxyServer;
pub use recordings::export_progress;
pub use replays::ReplaySource;
pub use server::{Messages, MqttServer};
pub use settings::{ReadAgain, SettingsInForce};
pub use tokens_in_force::TokensInForce;
pub use webhooks::webhook_message;

use self::{
    recordings::Recorders,
    replays::ReplayList,
    scenarios::{Changes, RunList},
};
use crate::{
    broker::Durability,
    config::ScenarioLimits,
    event::EventBus,
    fault::{Chaos, ChaosHooks, ChaosOptions},
    metrics::Metrics,
    net::{JournalHandle, MockHandle, MockOptions, WebhookHandle, tls::TlsFiles},
    recorder::FlightRecorder,
    recording::OnOverload,
    store::{Store, StoreOptions},
    tap::Tap,
    telemetry::Telemetry,
};

/// What one request or answer may have in bytes, over gRPC and as JSON in a request.
pub const MESSAGE_MAX: usize = 16 << 20;

/// For webhooks to be sent when the server ends; a service manager waits five times as long before it kills.
const WEBHOOKS_WAIT: Duration = Duration::from_secs(2);

/// What a stream of answers is.
pub type ControlStream<T> = Pin<Box<dyn Stream<Item = Result<T, ControlError>> + Send>>;

/// What the control plane works on.
pub struct ControlParts {
    /// The MQTT server of this process, if there is one.
    pub server: Option<Arc<dyn MqttServer>>,
    /// The point that all of its traffic passes.
    pub tap: Tap,
    pub metrics: Arc<Metrics>,
    pub events: EventBus,
    /// Where files lie that callers may name in URLs of brokers; `None`: anywhere, as callers are who started the process.
    pub folder: Option<std::path::PathBuf>,
    /// Opened when first needed.
    pub store: StoreOptions,
    /// Where a request says nothing else.
    pub on_overload: OnOverload,
    /// Of files that are being imported, at most.
    pub import_bytes: u64,
    /// Of the server.
    pub settings: Option<SettingsInForce>,
    pub scenarios: ScenarioLimits,
    /// Who may call.
    pub tokens: TokensInForce,
    /// Keeps the last minutes, if asked to.
    pub flight: Option<Arc<FlightRecorder>>,
    /// Of a broker.
    pub durability: Option<Durability>,
    pub addresses: Addresses,
    /// What listeners with TLS show, and what an upstream is believed by and shown.
    pub certificates: Vec<Arc<dyn TlsFiles>>,
    pub mocks: MockHandle,
    /// Those of the server, beside its own listener.
    pub proxies: Option<Proxies>,
    /// Of the server.
    pub webhooks: Option<WebhookHandle>,
    /// Of the server.
    pub journal: Option<JournalHandle>,
    /// Its seed is what random values of others are drawn from, too.
    pub chaos: Chaos,
    /// Takes spans of what is done here.
    pub telemetry: Telemetry,
    /// Cancelled by `Shutdown`, and by whoever stops the server: streams end then.
    pub stop: CancellationToken,
}

/// Where this process listens, with the ports in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub mqtt: Option<SocketAddr>,
    /// With TLS.
    pub mqtts: Option<SocketAddr>,
    /// Over WebSocket.
    pub ws: Option<SocketAddr>,
    /// Over WebSocket with TLS.
    pub wss: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub grpc: Option<SocketAddr>,
    /// Whether nothing else is spoken there.
    pub http_tls: bool,
    pub grpc_tls: bool,
}

impl Addresses {
    /// Those where MQTT clients come in.
    pub fn of_mqtt(&self) -> impl Iterator<Item = SocketAddr> {
        [self.mqtt, self.mqtts, self.ws, self.wss].into_iter().flatten()
    }
}

impl ControlParts {
    /// Parts of a process without a server: recordings and replays work, the rest answers so.
    pub fn alone(store: StoreOptions) -> Self {
        Self {
            server: None,
            tap: Tap::new(),
            metrics: Arc::new(Metrics::new()),
            events: EventBus::new(),
            folder: None,
            store,
            on_overload: OnOverload::Block,
            import_bytes: u64::MAX,
            settings: None,
            scenarios: ScenarioLimits::default(),
            tokens: TokensInForce::default(),
            flight: None,
            durability: None,
            addresses: Addresses::default(),
            certificates: Vec::new(),
            mocks: MockHandle::new(MockOptions::default(), Box::new(|_| {})),
            proxies: None,
            webhooks: None,
            journal: None,
            chaos: Chaos::new(ChaosOptions::default(), ChaosHooks::default()),
            telemetry: Telemetry::default(),
            stop: CancellationToken::new(),
        }
    }
}

/// The control plane of this process; clones share it.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    parts: ControlParts,
    store: OnceCell<Store>,
    recorders: Recorders,
    replays: ReplayList,
    runs: RunList,
    /// By scenarios. Locked before anything that it is about.
    changes: Mutex<Changes>,
    /// Bytes of files that are being imported.
    spooled: Arc<AtomicU64>,
    /// Name of the recording whose faults are injected again.
    script: Mutex<String>,
    /// Whoever replaces parts of something reads it first: one after the other.
    updates: Mutex<()>,
    started: Instant,
    started_at: SystemTime,
}

impl Control {
    pub fn new(parts: ControlParts) -> Self {
        let metrics = Arc::clone(&parts.metrics);
        let control = Self {
            inner: Arc::new(Inner {
                parts,
                store: OnceCell::new(),
                recorders: Recorders::default(),
                replays: ReplayList::default(),
                runs: RunList::default(),
                changes: Mutex::default(),
                spooled: Arc::default(),
                script: Mutex::default(),
                updates: Mutex::default(),
                started: Instant::now(),
                started_at: SystemTime::now(),
            }),
        };
        let asked = Arc::downgrade(&control.inner);
        metrics.before_each(Box::new(move || {
            if let Some(inner) = asked.upgrade() {
                inner.recorders.count(&inner.parts.metrics);
            }
        }));
        control
    }

    /// Ends what was begun: replays are cancelled, recordings completed, webhooks sent for a bounded time, the store is
    /// closed.
    ///
    /// To be awaited when the traffic has ended and before the process does.
    pub async fn close(&self) {
        self.parts().stop.cancel();
        // Before what they set going.
        self.cancel_runs().await;
        self.cancel_replays().await;
        let webhooks = async {
            if let Some(webhooks) = &self.parts().webhooks {
                webhooks.close(WEBHOOKS_WAIT).await;
            }
        };
        tokio::join!(self.complete_recordings(), webhooks);
        if let Some(store) = self.inner.store.get().cloned() {
            // Fails only when the store's own code panicked, which was reported where it did.
            let _ = tokio::task::spawn_blocking(move || store.close()).await;
        }
    }

    /// Cancelled when somebody asked for a shutdown.
    pub fn stop(&self) -> &CancellationToken {
        &self.parts().stop
    }

    /// Whether an MQTT server runs in this process.
    pub fn has_server(&self) -> bool {
        self.parts().server.is_some()
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.parts().metrics
    }

    pub fn telemetry(&self) -> &Telemetry {
        &self.parts().telemetry
    }

    /// All figures as Prometheus text.
    pub async fn metrics_text(&self) -> String {
        self.metrics().render().await
    }

    fn parts(&self) -> &ControlParts {
        &self.inner.parts
    }

    fn uptime(&self) -> Duration {
        self.inner.started.elapsed()
    }

    fn started_at(&self) -> SystemTime {
        self.inner.started_at
    }

    /// Held by whoever updates something that others may be updating.
    fn updating(&self) -> MutexGuard<'_, ()> {
        self.inner.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` with the store, where it may block.
    async fn with_store<R: Send + 'static>(
        &self,
        f: impl FnOnce(&Store) -> Result<R, ControlError> + Send + 'static,
    ) -> Result<R, ControlError> {
        let open = || async {
            let options = self.parts().store.clone();
            let store = blocking(move || Ok(Store::open(options)?)).await?;
            if store.moved_aside().is_some() {
                self.metrics().store_moved_aside();
            }
            Ok::<_, ControlError>(store)
        };
        let store = self.inner.store.get_or_try_init(open).await?.clone();
        blocking(move || f(&store)).await
    }

    /// Ends a stream when the server stops.
    fn until_stopped<T: 'static>(
        &self,
        stream: impl Stream<Item = Result<T, ControlError>> + Send + 'static,
    ) -> ControlStream<T> {
        let stop = self.parts().stop.clone();
        Box::pin(stream.take_until(stop.cancelled_owned()))
    }
}

/// Runs `f` on a thread that may block.
async fn blocking<R: Send + 'static>(
    f: impl FnOnce() -> Result<R, ControlError> + Send + 'static,
) -> Result<R, ControlError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(error) => Err(ControlError::Internal(format!("a task failed: {error}"))),
    }
}
