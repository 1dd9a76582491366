//! The own broker, as the control plane sees it.

use std::time::{Duration, Instant};

use super::{
    ControlError, MqttServer, in_force, pb,
    server::{AtThatMoment, Outcomes},
};
use crate::{
    auth::Access,
    broker::{ClientView, SubscriptionView},
    net::{BrokerHandle, MqttUrl, Outgoing, Stopped},
    packet::ReasonCode,
    recording::RecordingSource,
    session::ApplicationMessage,
    tap::Tap,
};

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

    async fn set_access(&self, access: Access) -> Result<(), ControlError> {
        Ok(self.broker.run(move |broker, now| broker.set_access(now, access)).await?)
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
