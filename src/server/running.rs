//! A server that runs inside another program.

use std::{fmt, future::Future, io, net::SocketAddr, thread, time::Duration};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::handles::{ChaosRules, Messages, Mocks, Recordings};
use crate::{
    control::{Addresses, Control, ControlError, pb},
    metrics::BrokerStatsView,
};

/// How often the broker is asked for what is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// Why somebody who was waited for is not there. Its `Debug` is its text, which is what a test that ends with it prints.
#[derive(thiserror::Error)]
pub enum WaitError {
    /// For people, with who is there instead.
    #[error("{0}")]
    NotInTime(String),
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl fmt::Debug for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A server that [`Server::builder`](super::Server::builder) started.
///
/// It runs until [`stop`](Self::stop), or until it is dropped, which ends it just as well: clients are disconnected,
/// recordings completed, ports free when that returns. Both take a bounded time: a client that does not take notice has
/// 2 seconds, so drop clients first, or `stop().await` where they are tasks of the same thread: `abort()` alone lets no task of
/// a single-threaded runtime end before it is awaited.
#[must_use = "the server ends when it is dropped"]
pub struct RunningServer {
    link: Link,
    addresses: Addresses,
    stop: CancellationToken,
    ended: Option<oneshot::Receiver<io::Result<()>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl RunningServer {
    pub(super) fn new(
        link: Link,
        addresses: Addresses,
        stop: CancellationToken,
        ended: oneshot::Receiver<io::Result<()>>,
        thread: thread::JoinHandle<()>,
    ) -> Self {
        Self { link, addresses, stop, ended: Some(ended), thread: Some(thread) }
    }

    /// Port of the MQTT listener, the one that was taken where 0 was asked for.
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// Where MQTT clients connect.
    pub fn address(&self) -> SocketAddr {
        self.addresses.mqtt.expect("a server of the builder serves MQTT")
    }

    /// `mqtt://127.0.0.1:PORT`, as clients that take URLs want it.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address())
    }

    /// All listeners, with the ports in use: those of HTTP and gRPC, of TLS and WebSocket are `None` unless asked for.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What passed through the server: waiting for it, counting it, looking for it.
    pub fn messages(&self) -> Messages {
        Messages::new(self.link.clone())
    }

    /// What answers by itself.
    pub fn mocks(&self) -> Mocks {
        Mocks::new(self.link.clone())
    }

    /// Networks, brokers and clients that misbehave.
    pub fn chaos(&self) -> ChaosRules {
        ChaosRules::new(self.link.clone())
    }

    /// What is captured of the traffic, and played again.
    pub fn recordings(&self) -> Recordings {
        Recordings::new(self.link.clone())
    }

    /// Publishes as the broker itself (in a proxy: to the upstream) at QoS 1, and answers when it is accepted. Mocks answer to
    /// clients, and to this only if they say `trigger_on_synthetic`.
    ///
    /// # Errors
    /// A topic that is none; a proxy's upstream that cannot be reached or refuses.
    pub async fn publish(
        &self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
    ) -> Result<pb::PublishResponse, ControlError> {
        let payload: Vec<u8> = payload.into();
        self.publish_message(pb::PublishRequest {
            topic: topic.to_owned(),
            payload: payload.into(),
            qos: 1,
            ..Default::default()
        })
        .await
    }

    /// The same with all that a message may have.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); the error names the field.
    pub async fn publish_message(
        &self,
        message: pb::PublishRequest,
    ) -> Result<pb::PublishResponse, ControlError> {
        self.link.ask(|control| async move { control.publish(message).await }).await
    }

    /// Sessions, connected or not, by client identifier.
    ///
    /// # Errors
    /// When the server is stopping.
    pub async fn clients(&self) -> Result<Vec<pb::Client>, ControlError> {
        let mut clients = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListClientsRequest { page_token, page_size: 1000, ..Default::default() };
            let page = self.link.ask(|control| async move { control.list_clients(request).await }).await?;
            clients.extend(page.clients);
            if page.next_page_token.is_empty() {
                return Ok(clients);
            }
            page_token = page.next_page_token;
        }
    }

    /// A client that is connected, or connects within `limit`, by its client identifier; `*` stands for any characters, `?`
    /// for one.
    ///
    /// # Errors
    /// [`WaitError::NotInTime`] with the clients that are connected instead.
    pub async fn wait_for_client(&self, client: &str, limit: Duration) -> Result<pb::Client, WaitError> {
        let listing =
            pb::ListClientsRequest { connected_only: true, client: client.to_owned(), ..Default::default() };
        let found = self.link.ask(move |control| {
            found_within(limit, move || {
                let (control, listing) = (control.clone(), listing.clone());
                async move { Ok(control.list_clients(listing).await?.clients.into_iter().next()) }
            })
        });
        if let Some(found) = found.await? {
            return Ok(found);
        }
        let others = self.clients().await?;
        let others = others.iter().filter(|client| client.connected).map(|client| client.client_id.as_str());
        Err(not_in_time(format_args!("no client {client:?} connected within {limit:?}"), others))
    }

    /// A subscription that a message on this Topic Name is sent to, once there is one: before that, what is published there
    /// reaches nobody.
    ///
    /// # Errors
    /// [`WaitError::NotInTime`] after `limit`, with the Topic Filters that there are instead; a topic that is none.
    pub async fn wait_for_subscriber(
        &self,
        topic: &str,
        limit: Duration,
    ) -> Result<pb::Subscription, WaitError> {
        let listing = pb::ListSubscriptionsRequest { topic: topic.to_owned(), ..Default::default() };
        let found = self.link.ask(move |control| {
            found_within(limit, move || {
                let (control, listing) = (control.clone(), listing.clone());
                async move { Ok(control.list_subscriptions(listing).await?.subscriptions.into_iter().next()) }
            })
        });
        if let Some(found) = found.await? {
            return Ok(found);
        }
        let all = pb::ListSubscriptionsRequest::default();
        let others = self.link.ask(|control| async move { control.list_subscriptions(all).await }).await?;
        let others = others.subscriptions.iter().map(|subscription| subscription.filter.as_str());
        Err(not_in_time(format_args!("nobody subscribed to {topic:?} within {limit:?}"), others))
    }

    /// Figures of this server.
    pub async fn stats(&self) -> BrokerStatsView {
        self.link.control.metrics().broker_stats().await
    }

    /// Everything else: a method for each rpc of the API. What they begin may run on the caller's runtime, and ends with it.
    pub fn control(&self) -> &Control {
        &self.link.control
    }

    /// Runs `future` for code without a runtime, such as tests with a blocking client.
    ///
    /// # Panics
    /// When called by a task of an asynchronous runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.link.runtime.block_on(future)
    }

    /// Ends the server and answers when it has: clients are disconnected, recordings completed, ports free.
    ///
    /// # Errors
    /// What made it fail, such as a store that could not be written.
    pub async fn stop(mut self) -> io::Result<()> {
        self.stop.cancel();
        let ended = self.ended.take().expect("a server is stopped once");
        let outcome = ended.await;
        self.join();
        outcome.map_err(|_| io::Error::other("the server's thread panicked"))?
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.join();
    }
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningServer").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Asks until there is something, or `limit` has passed.
async fn found_within<T, F: Future<Output = Result<Option<T>, ControlError>>>(
    limit: Duration,
    ask: impl Fn() -> F,
) -> Result<Option<T>, ControlError> {
    let began = Instant::now();
    loop {
        let is_late = began.elapsed() >= limit;
        match ask().await? {
            None if !is_late => sleep(PAUSE).await,
            found => return Ok(found),
        }
    }
}

fn not_in_time<'o>(what: fmt::Arguments<'_>, others: impl Iterator<Item = &'o str>) -> WaitError {
    let others: Vec<&str> = others.collect();
    let others = if others.is_empty() { "nobody".to_owned() } else { others.join(", ") };
    WaitError::NotInTime(format!("{what}; there is {others}"))
}

/// How handles reach a running server.
#[derive(Clone)]
pub struct Link {
    control: Control,
    runtime: Handle,
}

impl Link {
    pub fn new(control: Control, runtime: Handle) -> Self {
        Self { control, runtime }
    }

    /// Runs `f` on the server's runtime, so that what it begins does not end with the caller's.
    ///
    /// # Errors
    /// Those of `f`, and [`ControlError::Stopping`] when the server has ended.
    pub async fn ask<T, F>(&self, f: impl FnOnce(Control) -> F) -> Result<T, ControlError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ControlError>> + Send + 'static,
    {
        match self.runtime.spawn(f(self.control.clone())).await {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => Err(ControlError::Internal(error.to_string())),
            Err(_) => Err(ControlError::Stopping),
        }
    }

    pub fn control(&self) -> &Control {
        &self.control
    }
}
