//! A subscription at a broker of others, whose deliveries a tap is told of.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Client, ClientError, ClientOptions, MqttUrl, client::Reporting};
use crate::{
    packet::{Properties, ProtocolVersion, QoS, ReasonCode, Subscription, SubscriptionOptions, TopicFilter},
    recording::CloseCause,
    session::ConnectionId,
    tap::Tap,
};

/// Between two attempts to connect again: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// What is subscribed to, and where.
#[derive(Clone, Debug)]
pub struct SubscriberOptions {
    pub url: MqttUrl,
    pub filters: Vec<TopicFilter>,
    /// The highest of deliveries.
    pub qos: QoS,
    pub client_identifier: String,
}

/// Why a subscription is not there.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubscriberError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{target} refuses the subscription to {filter}: {} (0x{:02x})", reason_code.name(), reason_code.0)]
    Refused { target: String, index: usize, filter: String, reason_code: ReasonCode },
}

/// A client that subscribes and reports every packet of its connections; it connects again for as long as it takes.
pub struct Subscriber {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Connects as MQTT 5, or as 3.1.1 where the broker knows nothing newer, and subscribes. `on_loss` is called each
    /// time the connection is lost, when its end has been reported.
    ///
    /// # Errors
    /// When the first attempt fails.
    pub async fn start(
        options: SubscriberOptions,
        tap: Tap,
        on_loss: impl Fn() + Send + 'static,
    ) -> Result<Self, SubscriberError> {
        let line = Line { options, tap, last_connection: AtomicU64::new(0) };
        let (client, connection, protocol) = line.connect_as_either().await?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(line.keep(client, connection, protocol, stopped, on_loss));
        Ok(Self { stop, task })
    }

    /// Says DISCONNECT and returns when nothing more is reported.
    pub async fn stop(self) {
        self.stop.cancel();
        if self.task.await.is_err() {
            warn!("the subscriber panicked");
        }
    }
}

struct Line {
    options: SubscriberOptions,
    tap: Tap,
    last_connection: AtomicU64,
}

impl Line {
    async fn keep(
        self,
        mut client: Client,
        mut connection: ConnectionId,
        protocol: ProtocolVersion,
        stop: CancellationToken,
        on_loss: impl Fn(),
    ) {
        loop {
            let Some(error) = stop.run_until_cancelled(drain(&mut client)).await else {
                // For a bounded time; whether the broker heard it makes no difference any more.
                let _ = client.disconnect(ReasonCode::SUCCESS).await;
                self.tap.close(Instant::now(), connection, CloseCause::ClientFin);
                return;
            };
            warn!(broker = %self.options.url, %error, "the subscription is lost; connecting again");
            self.tap.close(Instant::now(), connection, cause(&error));
            on_loss();
            let again = self.connect_again(protocol);
            let Some(connected) = stop.run_until_cancelled(again).await else { return };
            (client, connection) = connected;
            info!(broker = %self.options.url, "subscribed again");
        }
    }

    async fn connect_again(&self, protocol: ProtocolVersion) -> (Client, ConnectionId) {
        let mut pause = PAUSE_MIN;
        loop {
            sleep(pause).await;
            match self.connect(protocol).await {
                Ok(connected) => return connected,
                Err(error) => debug!(broker = %self.options.url, %error, "not connected"),
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    async fn connect_as_either(&self) -> Result<(Client, ConnectionId, ProtocolVersion), SubscriberError> {
        let newest = self.connect(ProtocolVersion::V5).await;
        let (client, connection) = match newest {
            Ok(connected) => connected,
            // Brokers from before MQTT 5 answer in their own version, or not at all.
            Err(SubscriberError::Client(
                error @ (ClientError::Refused {
                    reason_code: ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, ..
                }
                | ClientError::Malformed { .. }
                | ClientError::Closed { .. }),
            )) => {
                let older = self.connect(ProtocolVersion::V311).await.map_err(|_| error)?;
                return Ok((older.0, older.1, ProtocolVersion::V311));
            }
            Err(error) => return Err(error),
        };
        Ok((client, connection, ProtocolVersion::V5))
    }

    async fn connect(&self, protocol: ProtocolVersion) -> Result<(Client, ConnectionId), SubscriberError> {
        let connection = ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1);
        let SubscriberOptions { url, client_identifier, .. } = &self.options;
        let options = ClientOptions { protocol, ..ClientOptions::new(url.clone(), client_identifier) };
        let reporting = Reporting { tap: self.tap.clone(), connection };
        let connected = async {
            let client = Client::connect_reporting(options, reporting).await?;
            self.subscribe(&client).await?;
            Ok::<_, SubscriberError>(client)
        };
        match connected.await {
            Ok(client) => Ok((client, connection)),
            Err(error) => {
                // If it was there at all.
                if self.tap.identity(connection).is_some() {
                    self.tap.close(Instant::now(), connection, CloseCause::ServerFin);
                }
                Err(error)
            }
        }
    }

    async fn subscribe(&self, client: &Client) -> Result<(), SubscriberError> {
        let SubscriberOptions { url, filters, qos, .. } = &self.options;
        // A recording is to say which messages were published as retained ones.
        let options =
            SubscriptionOptions { qos: *qos, retain_as_published: true, ..SubscriptionOptions::default() };
        let subscriptions =
            filters.iter().map(|filter| Subscription { filter: filter.clone(), options }).collect();
        let suback = client.subscribe(subscriptions, Properties::new()).await?;
        let refused = suback.reason_codes.iter().position(|code| code.is_error());
        match refused {
            None => Ok(()),
            Some(index) => Err(SubscriberError::Refused {
                target: url.to_string(),
                index,
                filter: filters.get(index).map(|filter| filter.as_str().to_owned()).unwrap_or_default(),
                reason_code: suback.reason_codes[index],
            }),
        }
    }
}

/// Takes what comes, until the connection ends: it has been reported.
async fn drain(client: &mut Client) -> ClientError {
    loop {
        if let Err(error) = client.next_message().await {
            return error;
        }
    }
}

fn cause(error: &ClientError) -> CloseCause {
    match error {
        ClientError::KeepAlive { .. } => CloseCause::Timeout,
        ClientError::Malformed { .. } | ClientError::Unexpected { .. } => CloseCause::ClientFin,
        _ => CloseCause::ServerFin,
    }
}
