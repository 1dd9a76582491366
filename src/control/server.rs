//! What the control plane needs of a running MQTT server, be it a broker or a proxy.

use std::{pin::Pin, time::SystemTime};

use futures_util::{Stream, future::BoxFuture, stream};
use tokio_util::sync::CancellationToken;

use super::{
    ControlError,
    lossy::{self, Entry},
    pb, properties, time,
};
use crate::{
    auth::Access,
    broker::{ClientView, ResetCounts, RetainedView, SubscriptionView},
    net::{Client, ClientOptions, MqttUrl, Outgoing},
    packet::{
        Properties, Publish, QoS, ReasonCode, RetainHandling, Subscription, SubscriptionOptions, TopicFilter,
        TopicName,
    },
    recording::{InForce, RecordingSource},
    session::ApplicationMessage,
};

/// What is done at the moment that what is in force is of.
pub type AtThatMoment = Box<dyn FnOnce(Vec<InForce>) + Send>;

/// Messages of a subscription, until the server stops.
pub type Messages = Pin<Box<dyn Stream<Item = Entry<pb::Message>> + Send>>;

/// What became of messages, in their order; the errors are for people.
pub type Outcomes = BoxFuture<'static, Vec<Result<(), String>>>;

/// A running MQTT server.
#[tonic::async_trait]
pub trait MqttServer: Send + Sync {
    /// What a recording of its traffic says of where that came from.
    fn source(&self) -> RecordingSource;

    /// Publishes `message`; an expiry in seconds still stands apart from it.
    async fn publish(
        &self,
        message: ApplicationMessage,
        expiry: Option<u32>,
    ) -> Result<pb::PublishResponse, ControlError>;

    /// Publishes what mocks answer. Returns once that is sent, with what comes of it: others need not wait for that.
    async fn publish_all(&self, messages: Vec<Outgoing>) -> Outcomes;

    /// Where a subscriber of ours connects.
    fn subscribe_url(&self) -> &MqttUrl;

    /// Sessions, connected or not.
    async fn clients(&self) -> Result<Vec<ClientView>, ControlError>;

    async fn subscriptions(&self) -> Result<Vec<SubscriptionView>, ControlError>;

    /// Calls `then` with the subscriptions and retained messages that are in force, before anything
    /// that its caller attaches to is told of what comes after. Answers with what cannot be known, for people.
    async fn in_force(&self, then: AtThatMoment) -> Result<Vec<String>, ControlError>;

    /// The first `count` retained messages behind the topic `after`, and whether there are more.
    async fn retained_after(
        &self,
        after: Option<String>,
        count: usize,
    ) -> Result<(Vec<RetainedView>, bool), ControlError>;

    /// Forgets what these topics have retained; how many had something.
    async fn forget_retained(&self, topics: Vec<TopicName>) -> Result<usize, ControlError>;

    /// Puts other users and access rules into force, where they are this server's to say.
    async fn set_access(&self, access: Access) -> Result<(), ControlError>;

    /// Removes retained messages, sessions that are not connected, and what waits for those that are.
    async fn reset(&self) -> Result<ResetCounts, ControlError>;

    /// Closes a client's connection; whether there was one.
    async fn disconnect(
        &self,
        client_identifier: String,
        reason: ReasonCode,
        with_will: bool,
    ) -> Result<bool, ControlError>;
}

/// A client identifier of our own that no device has.
pub fn next_client_identifier(purpose: &str) -> String {
    format!("mockforge-{purpose}-{}", ulid::Ulid::new())
}

/// Messages that a slow reader of a subscription may fall behind before it misses some.
const QUEUE_MESSAGES: usize = 4096;
const QUEUE_BYTES: usize = 16 << 20;

/// Subscribes at `url` with a connection of its own, which says DISCONNECT when the stream is dropped;
/// answers once the subscription is in force.
pub async fn subscribe(
    url: &MqttUrl,
    filters: Vec<TopicFilter>,
    qos: QoS,
    skip_retained: bool,
) -> Result<Messages, ControlError> {
    let upstream = url.to_string();
    let options = ClientOptions::new(url.clone(), next_client_identifier("subscribe"));
    let unavailable = |error: &dyn std::fmt::Display| ControlError::UpstreamUnavailable {
        upstream: upstream.clone(),
        what: error.to_string(),
    };
    // 3.1.1 has no Retain Handling, but every broker of today speaks 5.
    let mut client = Client::connect(options).await.map_err(|error| unavailable(&error))?;
    let retain_handling = if skip_retained { RetainHandling::DoNotSend } else { RetainHandling::Send };
    let options = SubscriptionOptions { qos, retain_handling, ..SubscriptionOptions::default() };
    let subscriptions: Vec<_> =
        filters.iter().map(|filter| Subscription { filter: filter.clone(), options }).collect();
    let suback =
        client.subscribe(subscriptions, Properties::new()).await.map_err(|error| unavailable(&error))?;
    for (index, reason) in suback.reason_codes.iter().enumerate() {
        if reason.is_error() {
            return Err(ControlError::bad_field(
                format!("filter[{index}]"),
                format_args!("the broker refuses it: {} (0x{:02x})", reason.name(), reason.0),
            ));
        }
    }
    let (sender, receiver) = lossy::channel(QUEUE_MESSAGES, QUEUE_BYTES);
    let unread = CancellationToken::new();
    let until_unread = unread.clone();
    tokio::spawn(async move {
        let reading = async {
            while let Ok(publish) = client.next_message().await {
                let size = publish.payload.len();
                sender.offer(message(publish), size);
            }
        };
        if until_unread.run_until_cancelled(reading).await.is_none() {
            // For a bounded time; whether the broker heard it makes no difference any more.
            let _ = client.disconnect(ReasonCode::SUCCESS).await;
        }
    });
    let unread = unread.drop_guard();
    Ok(Box::pin(stream::unfold((receiver, unread), |(mut receiver, unread)| async move {
        let entry = receiver.next().await?;
        Some((entry, (receiver, unread)))
    })))
}

fn message(publish: Publish) -> pb::Message {
    pb::Message {
        topic: publish.topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default(),
        qos: publish.qos as u32,
        retain: publish.retain,
        properties: properties::shown(&publish.properties),
        payload: publish.payload,
        received_at: Some(time::timestamp(SystemTime::now())),
    }
}
