//! The proxy, as the control plane sees it: its clients are those connected through it, messages go to its upstream.

use tokio::sync::Mutex;

use super::{ControlError, MqttServer, pb, server::next_client_identifier};
use crate::{
    broker::{ClientView, SubscriptionView},
    net::{Client, ClientError, ClientOptions, MqttUrl, ProxyHandle},
    packet::{Property, ProtocolVersion, Publish, ReasonCode},
    recording::RecordingSource,
    session::{ApplicationMessage, Peer},
};

/// The proxy of this process.
pub struct ProxyServer {
    proxy: ProxyHandle,
    /// The connection that `Publish` goes over, made when first needed and kept: a message is no reason to connect anew.
    publisher: Mutex<Option<Client>>,
}

impl ProxyServer {
    pub fn new(proxy: ProxyHandle) -> Self {
        Self { proxy, publisher: Mutex::new(None) }
    }

    fn unavailable(&self, error: &ClientError) -> ControlError {
        let upstream = self.proxy.upstream().to_string();
        match error {
            ClientError::Capability(what) => ControlError::bad_field("qos", what),
            error => ControlError::UpstreamUnavailable { upstream, what: error.to_string() },
        }
    }

    /// Connects as MQTT 5, or as 3.1.1 where the upstream knows nothing newer.
    async fn connect(&self) -> Result<Client, ControlError> {
        let options = ClientOptions::new(self.proxy.upstream().clone(), next_client_identifier("publish"));
        let older = ClientOptions { protocol: ProtocolVersion::V311, ..options.clone() };
        match Client::connect(options).await {
            Err(ClientError::Refused { reason_code: ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, .. }) => {
                Client::connect(older).await
            }
            result => result,
        }
        .map_err(|error| self.unavailable(&error))
    }
}

#[tonic::async_trait]
impl MqttServer for ProxyServer {
    fn source(&self) -> RecordingSource {
        RecordingSource::proxy(self.proxy.upstream().to_string())
    }

    async fn publish(
        &self,
        message: ApplicationMessage,
        expiry: Option<u32>,
    ) -> Result<pb::PublishResponse, ControlError> {
        let mut properties = message.properties;
        properties.0.extend(expiry.map(Property::MessageExpiryInterval));
        let publish = Publish {
            dup: false,
            qos: message.qos,
            retain: message.retain,
            topic: Some(message.topic),
            packet_identifier: None,
            properties,
            payload: message.payload,
        };
        let receipt = {
            let mut kept = self.publisher.lock().await;
            let client = match kept.take() {
                Some(client) if client.publisher().ended().is_none() => client,
                _ => self.connect().await?,
            };
            let receipt = client.publish(publish).await;
            *kept = Some(client);
            receipt.map_err(|error| self.unavailable(&error))?
        };
        let reason = receipt.acked().await.map_err(|error| self.unavailable(&error))?;
        Ok(pb::PublishResponse { receivers: None, reason_code: u32::from(reason.0) })
    }

    fn subscribe_url(&self) -> &MqttUrl {
        self.proxy.upstream()
    }

    async fn clients(&self) -> Result<Vec<ClientView>, ControlError> {
        let clients = self.proxy.clients().into_iter().filter_map(|client| {
            let identity = client.identity?;
            Some(ClientView {
                client_identifier: identity.client_identifier,
                connection: Some(client.connection),
                peer: Some(Peer { address: Some(client.peer), transport: "tcp" }),
                protocol: identity.protocol,
                username: identity.username,
                keep_alive: identity.keep_alive,
                clean_start: identity.clean_start,
                connected_at: Some(client.connected_at),
                subscriptions: client.subscriptions,
                inflight: 0,
                queued: 0,
            })
        });
        Ok(clients.collect())
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionView>, ControlError> {
        let subscriptions = self.proxy.subscriptions().into_iter().map(|one| SubscriptionView {
            client_identifier: one.client_identifier,
            filter: one.filter,
            options: one.options,
            subscription_identifier: one.subscription_identifier,
        });
        Ok(subscriptions.collect())
    }

    /// The Will is the upstream's to send: it sees the connection break, whatever is asked.
    async fn disconnect(
        &self,
        client_identifier: String,
        reason: ReasonCode,
        _with_will: bool,
    ) -> Result<bool, ControlError> {
        Ok(self.proxy.disconnect(&client_identifier, reason))
    }
}
