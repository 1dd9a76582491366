//! The proxy, as the control plane sees it: its clients are those connected through it, messages go to its upstream.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};

use super::{
    ControlError, MqttServer, in_force, pb,
    server::{AtThatMoment, Messages, Outcomes, next_client_identifier, subscribe_at},
};
use crate::{
    auth::Access,
    broker::{ClientView, ResetCounts, RetainedView, SubscriptionView},
    interceptor::Verdict,
    net::{Asking, Client, ClientError, ClientOptions, Outgoing, ProxyHandle, Publisher, Receipt},
    packet::{Property, ProtocolVersion, Publish, QoS, ReasonCode, TopicFilter, TopicName},
    recording::RecordingSource,
    session::{ApplicationMessage, Peer},
};

/// For the upstream to take a message, and again to acknowledge it: twice what it has to answer a CONNECT.
const PATIENCE: Duration = Duration::from_secs(10);

/// The proxy of this process.
pub struct ProxyServer {
    proxy: ProxyHandle,
    /// The connection that `Publish` goes over, made when first needed and kept: a message is no reason to connect anew.
    /// Locked for as long as connecting takes, and not while anything is sent.
    publisher: Mutex<Option<Client>>,
    /// What is published here does not pass the relay, which offers them all else.
    asking: Asking,
    /// Its id; `None` for the server's own.
    via: Option<Arc<str>>,
}

impl ProxyServer {
    pub fn new(proxy: ProxyHandle, asking: Asking, via: Option<Arc<str>>) -> Self {
        Self { proxy, publisher: Mutex::new(None), asking, via }
    }

    fn unavailable(&self, error: &ClientError) -> ControlError {
        match error {
            ClientError::Capability(what) => ControlError::bad_field("qos", what),
            error => self.unavailable_for(error.to_string()),
        }
    }

    fn unavailable_for(&self, what: String) -> ControlError {
        ControlError::UpstreamUnavailable { upstream: self.proxy.upstream().to_string(), what }
    }

    /// Sends a message over the connection that is kept, or a new one; `None` if a mock keeps it.
    async fn send(
        &self,
        message: ApplicationMessage,
        expiry: Option<u32>,
    ) -> Result<Option<Receipt>, ControlError> {
        if self.asking.mocks.ask(&message, expiry, self.via.as_ref()) == Verdict::Intercept {
            self.asking.journal.note(&message, Verdict::Intercept);
            return Ok(None);
        }
        let told = self.asking.interest.is_any().then(|| message.clone());
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
        let publisher = self.publisher().await?;
        let receipt = match timeout(PATIENCE, publisher.publish(publish)).await {
            Ok(receipt) => receipt.map_err(|error| self.unavailable(&error))?,
            Err(_) => {
                return Err(self.unavailable_for(format!("did not take it in {} s", PATIENCE.as_secs())));
            }
        };
        // As with clients' messages, what the upstream says of it is not waited for.
        if let Some(message) = told {
            self.asking.webhooks.offer(&message, expiry);
            self.asking.journal.note(&message, Verdict::Route);
        }
        Ok(Some(receipt))
    }

    async fn publisher(&self) -> Result<Publisher, ControlError> {
        let mut kept = self.publisher.lock().await;
        if let Some(publisher) = kept.as_ref().map(Client::publisher)
            && publisher.ended().is_none()
        {
            return Ok(publisher);
        }
        Ok(kept.insert(self.connect().await?).publisher())
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

/// What the upstream says of a message; the error is for people.
async fn settled(receipt: Result<Option<Receipt>, String>, deadline: Instant) -> Result<(), String> {
    let Some(receipt) = receipt? else { return Ok(()) };
    match timeout_at(deadline, receipt.acked()).await {
        Ok(Ok(reason)) if reason.is_error() => Err(format!("the upstream refused it: {}", reason.name())),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the upstream did not acknowledge it in {} s", PATIENCE.as_secs())),
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
        let Some(receipt) = self.send(message, expiry).await? else {
            return Ok(pb::PublishResponse { receivers: None, reason_code: 0 });
        };
        let reason = match timeout(PATIENCE, receipt.acked()).await {
            Ok(reason) => reason.map_err(|error| self.unavailable(&error))?,
            Err(_) => {
                return Err(
                    self.unavailable_for(format!("did not acknowledge it in {} s", PATIENCE.as_secs()))
                );
            }
        };
        Ok(pb::PublishResponse { receivers: None, reason_code: u32::from(reason.0) })
    }

    async fn publish_all(&self, messages: Vec<Outgoing>) -> Outcomes {
        let mut receipts = Vec::with_capacity(messages.len());
        // An upstream that is down or stuck is so for the rest, too, and each of them would wait for it.
        let mut unavailable = None;
        for (message, expiry) in messages {
            receipts.push(match &unavailable {
                Some(why) => Err(String::clone(why)),
                None => self.send(message, expiry).await.map_err(|error| {
                    let why = error.to_string();
                    if matches!(error, ControlError::UpstreamUnavailable { .. }) {
                        unavailable = Some(why.clone());
                    }
                    why
                }),
            });
        }
        let deadline = Instant::now() + PATIENCE;
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(receipts.len());
            for receipt in receipts {
                outcomes.push(settled(receipt, deadline).await);
            }
            outcomes
        })
    }

    async fn subscribe(
        &self,
        filters: Vec<TopicFilter>,
        qos: QoS,
        skip_retained: bool,
    ) -> Result<Messages, ControlError> {
        subscribe_at(self.proxy.upstream(), filters, qos, skip_retained).await
    }

    async fn clients(&self) -> Result<Vec<ClientView>, ControlError> {
        let clients = self.proxy.clients().into_iter().filter_map(|client| {
            let identity = client.identity?;
            Some(ClientView {
                client_identifier: identity.client_identifier,
                connection: Some(client.connection),
                peer: Some(Peer { address: Some(client.peer), transport: "tcp", identity: None }),
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

    /// A relay passes messages on and keeps none, and sees subscriptions of those alone who are connected.
    async fn in_force(&self, then: AtThatMoment) -> Result<Vec<String>, ControlError> {
        then(in_force::subscriptions(self.subscriptions().await?));
        Ok(vec![
            "a proxy knows the subscriptions of connected clients; what the broker behind it has retained, and the \
             subscriptions of clients that are away, are not in the recording's STATE"
                .to_owned(),
        ])
    }

    /// The Will is the upstream's to send: it sees the connection break, whatever is asked.
    async fn retained_after(
        &self,
        _: Option<String>,
        _: usize,
    ) -> Result<(Vec<RetainedView>, bool), ControlError> {
        Err(ControlError::NoBroker("retained messages"))
    }

    async fn forget_retained(&self, _: Vec<TopicName>) -> Result<usize, ControlError> {
        Err(ControlError::NoBroker("retained messages"))
    }

    async fn set_access(&self, _: Access) -> Result<(), ControlError> {
        // The broker behind decides.
        Ok(())
    }

    async fn reset(&self) -> Result<ResetCounts, ControlError> {
        Err(ControlError::WrongMode("what the broker behind a proxy keeps is not this server's to reset"))
    }

    async fn disconnect(
        &self,
        client_identifier: String,
        reason: ReasonCode,
        _with_will: bool,
    ) -> Result<bool, ControlError> {
        Ok(self.proxy.disconnect(&client_identifier, reason))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{net::MqttUrl, packet::Properties};

    #[tokio::test]
    async fn an_acknowledgement_is_waited_for_so_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = MqttUrl::of_listener(listener.local_addr().expect("bound"));
        let upstream = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.read_u8().await.expect("a CONNECT");
            stream.write_all(&[0x20, 3, 0, 0, 0]).await.expect("a CONNACK is sent");
            stream
        });
        let client = Client::connect(ClientOptions::new(url, "publisher")).await.expect("connected");
        let _stream = upstream.await.expect("no panic");
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Some(TopicName::parse("a").expect("a topic")),
            packet_identifier: None,
            properties: Properties::new(),
            payload: "x".into(),
        };
        let receipt = client.publish(publish).await.expect("sent");
        tokio::time::pause();
        let outcome = settled(Ok(Some(receipt)), Instant::now() + PATIENCE).await;
        assert_eq!(outcome, Err("the upstream did not acknowledge it in 10 s".to_owned()));
    }
}
