//! The own broker, as the control plane sees it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use prost::Message;

use super::{
    ControlError, MqttServer, in_force,
    lossy::{self, Entry, LossyReceiver},
    pb, properties,
    server::{AtThatMoment, Messages, Outcomes, QUEUE_BYTES, QUEUE_MESSAGES},
    time,
};
use crate::{
    auth::Access,
    broker::{ClientView, Observe, ObserverKey, ResetCounts, RetainedBefore, RetainedView, SubscriptionView},
    net::{BrokerHandle, Outgoing, Stopped, WeakBrokerHandle},
    packet::{Properties, Property, QoS, ReasonCode, TopicFilter, TopicName},
    recording::RecordingSource,
    session::{ApplicationMessage, MessageRef, Origin, StoredMessage},
    tap::Tap,
};

/// Messages and sessions that are removed in one turn of the broker, and how many turns that takes at most.
const RESET_TURN: usize = 1_000;
const RESET_TURNS: usize = 10_000;

/// The broker of this process.
pub struct BrokerServer {
    broker: BrokerHandle,
    /// What is published here comes in no packet.
    tap: Tap,
}

impl BrokerServer {
    pub fn new(broker: BrokerHandle, tap: Tap) -> Self {
        Self { broker, tap }
    }
}

/// An observer of the broker's, which leaves when this is dropped.
struct Observing {
    broker: WeakBrokerHandle,
    key: ObserverKey,
}

impl Drop for Observing {
    fn drop(&mut self) {
        let Some(broker) = self.broker.upgrade() else { return };
        let key = self.key;
        // Else it ends with the next message, as nobody reads any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { broker.run(move |broker, _| broker.stop_observing(key)).await });
        }
    }
}

/// What was retained before, looked up as it is read.
fn retained(
    broker: WeakBrokerHandle,
    before: Option<RetainedBefore>,
    qos: QoS,
) -> impl Stream<Item = Result<Entry<pb::Message>, ControlError>> + Send {
    let found = stream::unfold((broker, before), move |(broker, before)| async move {
        let mut before = before.filter(|before| !before.is_empty())?;
        // One that stops has nothing more to say.
        let running = broker.upgrade()?;
        let look_up = running.run(move |broker, now| {
            let found = broker.next_retained(now, &mut before);
            (found, before, now)
        });
        let (found, before, now) = look_up.await.ok()?;
        let shown = move |message: Arc<StoredMessage>| shown_message(&message.as_message(), now, qos, true);
        let found = found.into_iter().map(move |message| Ok(Entry::Item(shown(message))));
        Some((stream::iter(found), (broker, Some(before))))
    });
    found.flatten()
}

fn live(
    receiver: LossyReceiver<pb::Message>,
    observing: Observing,
) -> impl Stream<Item = Result<Entry<pb::Message>, ControlError>> + Send {
    stream::unfold((receiver, observing), |(mut receiver, observing)| async move {
        let entry = receiver.next().await?;
        Some((Ok(entry), (receiver, observing)))
    })
}

/// As a subscriber with this QoS would get it.
fn shown_message(message: &MessageRef<'_>, now: Instant, qos: QoS, retain: bool) -> pb::Message {
    let mut properties = Properties::of_publish(message.properties);
    let left = message.expires_at.map(|at| at.saturating_duration_since(now).as_secs());
    properties
        .0
        .extend(left.map(|left| Property::MessageExpiryInterval(u32::try_from(left).unwrap_or(u32::MAX))));
    pb::Message {
        topic: String::from_utf8_lossy(message.topic).into_owned(),
        qos: message.qos.min(qos) as u32,
        retain,
        properties: properties::shown(&properties),
        payload: Bytes::copy_from_slice(message.payload.as_bytes()),
        received_at: Some(time::timestamp(SystemTime::now())),
    }
}

fn tell_retained(tap: &Tap, now: Instant, message: &ApplicationMessage, expiry: Option<u32>) {
    if message.retain {
        tap.in_force(now, || in_force::published(message, expiry));
    }
}

/// What would make a topic's retained message forgotten.
fn nothing_on(topic: TopicName) -> ApplicationMessage {
    ApplicationMessage {
        topic,
        payload: Bytes::new(),
        qos: QoS::AtMostOnce,
        retain: true,
        properties: Properties::new(),
        expires_at: None,
        origin: Origin::Synthetic { depth: 0 },
    }
}

impl From<Stopped> for ControlError {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopping
    }
}

#[tonic::async_trait]
impl MqttServer for BrokerServer {
    fn source(&self) -> RecordingSource {
        RecordingSource::broker()
    }

    async fn publish(
        &self,
        mut message: ApplicationMessage,
        expiry: Option<u32>,
    ) -> Result<pb::PublishResponse, ControlError> {
        let tap = self.tap.clone();
        let run = self.broker.run_lasting(move |broker, now| {
            tell_retained(&tap, now, &message, expiry);
            message.expires_at = expiry.map(|seconds| now + Duration::from_secs(u64::from(seconds)));
            broker.publish(now, message)
        });
        Ok(pb::PublishResponse { receivers: Some(run.await?.receivers as u64), reason_code: 0 })
    }

    async fn publish_all(&self, messages: Vec<Outgoing>) -> Outcomes {
        let count = messages.len();
        let tap = self.tap.clone();
        let run = self.broker.run(move |broker, now| {
            for (mut message, expiry) in messages {
                tell_retained(&tap, now, &message, expiry);
                message.expires_at = expiry.map(|seconds| now + Duration::from_secs(u64::from(seconds)));
                broker.publish(now, message);
            }
        });
        let outcomes = vec![run.await.map_err(|stopped| stopped.to_string()); count];
        Box::pin(std::future::ready(outcomes))
    }

    async fn subscribe(
        &self,
        filters: Vec<TopicFilter>,
        qos: QoS,
        skip_retained: bool,
    ) -> Result<Messages, ControlError> {
        let (sender, receiver) = lossy::channel(QUEUE_MESSAGES, QUEUE_BYTES);
        let observe: Observe = Box::new(move |message, now| {
            let shown = shown_message(message, now, qos, false);
            let size = shown.encoded_len();
            sender.offer(shown, size);
            sender.is_read()
        });
        let (key, before) = self.broker.run(move |broker, _| broker.observe(filters, observe)).await?;
        let observing = Observing { broker: self.broker.downgrade(), key };
        let before = if skip_retained { None } else { Some(before) };
        Ok(Box::pin(retained(self.broker.downgrade(), before, qos).chain(live(receiver, observing))))
    }

    async fn clients(&self) -> Result<Vec<ClientView>, ControlError> {
        Ok(self.broker.run(|broker, _| broker.clients()).await?)
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionView>, ControlError> {
        Ok(self.broker.run(|broker, _| broker.subscriptions()).await?)
    }

    async fn in_force(&self, then: AtThatMoment) -> Result<Vec<String>, ControlError> {
        let run = self.broker.run(|broker, now| {
            let mut states = in_force::subscriptions(broker.subscriptions());
            states.extend(
                broker.retained_messages(now).filter_map(|message| in_force::retained(&message, now)),
            );
            then(states);
        });
        run.await?;
        Ok(Vec::new())
    }

    async fn retained_after(
        &self,
        after: Option<String>,
        count: usize,
    ) -> Result<(Vec<RetainedView>, bool), ControlError> {
        let run = self.broker.run(move |broker, _| broker.retained_after(after.as_deref(), count));
        Ok(run.await?)
    }

    async fn forget_retained(&self, topics: Vec<TopicName>) -> Result<usize, ControlError> {
        let tap = self.tap.clone();
        let run = self.broker.run_lasting(move |broker, now| {
            let forgotten = broker.forget_retained(now, topics);
            for topic in &forgotten {
                tell_retained(&tap, now, &nothing_on(topic.clone()), None);
            }
            forgotten.len()
        });
        Ok(run.await?)
    }

    async fn set_access(&self, access: Access) -> Result<(), ControlError> {
        Ok(self.broker.run(move |broker, now| broker.set_access(now, access)).await?)
    }

    async fn reset(&self) -> Result<ResetCounts, ControlError> {
        let mut counts = ResetCounts::default();
        // In turns, so that the traffic has its own in between; what comes meanwhile does not keep it going for ever.
        for _ in 0..RESET_TURNS {
            let run = self.broker.run_lasting(move |broker, now| {
                let is_over = !broker.reset(now, RESET_TURN, &mut counts);
                (counts, is_over)
            });
            let is_over;
            (counts, is_over) = run.await?;
            if is_over {
                break;
            }
        }
        Ok(counts)
    }

    async fn disconnect(
        &self,
        client_identifier: String,
        reason: ReasonCode,
        with_will: bool,
    ) -> Result<bool, ControlError> {
        let run =
            self.broker.run(move |broker, now| broker.disconnect(now, &client_identifier, reason, with_will));
        Ok(run.await?)
    }
}
