//! The own broker, as the control plane sees it.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    ControlError, MqttServer, in_force, pb,
    server::{AtThatMoment, Outcomes},
};
use crate::{
    auth::Access,
    broker::{ClientView, ResetCounts, RetainedView, SubscriptionView},
    net::{BrokerHandle, MqttUrl, Outgoing, Stopped},
    packet::{Properties, QoS, ReasonCode, TopicName},
    recording::RecordingSource,
    session::{ApplicationMessage, Origin},
    tap::Tap,
};

/// Messages and sessions that are removed in one turn of the broker, and how many turns that takes at most.
const RESET_TURN: usize = 1_000;
const RESET_TURNS: usize = 10_000;

/// The broker of this process.
pub struct BrokerServer {
    broker: BrokerHandle,
    /// Where it listens; `Subscribe` connects there like any other subscriber, but past users and rules.
    url: MqttUrl,
    /// What is published here comes in no packet.
    tap: Tap,
}

impl BrokerServer {
    pub fn new(broker: BrokerHandle, url: MqttUrl, tap: Tap) -> Self {
        Self { broker, url, tap }
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

    fn subscribe_url(&self) -> &MqttUrl {
        &self.url
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
