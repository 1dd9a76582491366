//! What the control plane needs of a running MQTT server, be it a broker or a proxy.

use std::{pin::Pin, time::SystemTime};

use futures_util::{Stream, StreamExt, future::BoxFuture, stream};
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

/// Messages of a subscription, until the server stops; an error is the last element.
pub type Messages = Pin<Box<dyn Stream<Item = Result<Entry<pb::Message>, ControlError>> + Send>>;

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

    /// The messages that match one of the filters, each once; answers once none is missed that comes from then on.
    async fn subscribe(
        &self,
        filters: Vec<TopicFilter>,
        qos: QoS,
        skip_retained: bool,
    ) -> Result<Messages, ControlError>;

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
pub const QUEUE_MESSAGES: usize = 4096;
pub const QUEUE_BYTES: usize = 16 << 20;

/// Subscribes at another broker, with a connection of its own, which says DISCONNECT when the stream is dropped; answers once
/// the subscription is in force.
pub async fn subscribe_at(
    url: &MqttUrl,
    filters: Vec<TopicFilter>,
    qos: QoS,
    skip_retained: bool,
) -> Result<Messages, ControlError> {
    let upstream = url.to_string();
    let options = ClientOptions::new(url.clone(), next_client_identifier("subscribe"));
    let unavailable = move |error: &dyn std::fmt::Display| ControlError::UpstreamUnavailable {
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
    let reading = tokio::spawn(async move {
        let reading = async {
            loop {
                match client.next_message().await {
                    Ok(publish) => {
                        let size = publish.payload.len();
                        sender.offer(message(publish), size);
                    }
                    Err(error) => return error,
                }
            }
        };
        let ended = until_unread.run_until_cancelled(reading).await;
        if ended.is_none() {
            // For a bounded time; whether the broker heard it makes no difference any more.
            let _ = client.disconnect(ReasonCode::SUCCESS).await;
        }
        ended
    });
    let unread = unread.drop_guard();
    let entries = stream::unfold((receiver, unread), |(mut receiver, unread)| async move {
        let entry = receiver.next().await?;
        Some((Ok(entry), (receiver, unread)))
    });
    // That it is over is no end that anybody asked for.
    let end = stream::once(reading).filter_map(move |ended| {
        let error = ended.ok().flatten().map(|error| Err(unavailable(&error)));
        std::future::ready(error)
    });
    Ok(Box::pin(entries.chain(end)))
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A subscription, and the connection that it came over.
    async fn subscribed() -> (Messages, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = MqttUrl::of_listener(listener.local_addr().expect("bound"));
        let broker = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut packet = [0; 1_024];
            assert!(stream.read(&mut packet).await.expect("a CONNECT") > 0);
            stream.write_all(&[0x20, 3, 0, 0, 0]).await.expect("a CONNACK is sent");
            assert!(stream.read(&mut packet).await.expect("a SUBSCRIBE") > 0);
            let [_, _, high, low, ..] = packet;
            stream.write_all(&[0x90, 4, high, low, 0, 0]).await.expect("a SUBACK is sent");
            stream
        };
        let filters = vec![TopicFilter::parse("a").expect("a filter")];
        let (messages, stream) = tokio::join!(subscribe_at(&url, filters, QoS::AtMostOnce, true), broker);
        (messages.expect("it is in force"), stream)
    }

    #[tokio::test]
    async fn whoever_reads_no_more_says_goodbye() {
        let (messages, mut stream) = subscribed().await;
        drop(messages);
        assert_eq!(stream.read_u8().await.expect("a DISCONNECT"), 0xE0);
    }

    #[tokio::test]
    async fn a_broker_that_goes_away_is_the_last_element() {
        let (mut messages, stream) = subscribed().await;
        drop(stream);
        let last = messages.next().await;
        assert!(matches!(last, Some(Err(ControlError::UpstreamUnavailable { .. }))));
        assert!(messages.next().await.is_none());
    }
}
