//! The rpcs of `Broker`: what is connected and subscribed, messages in and out.

use std::{sync::Arc, time::Instant};

use futures_util::StreamExt;
use tonic::Streaming;

use super::{
    Control, ControlError, ControlStream, MqttServer, fields::Fields, lossy::Entry, page::PageRequest, pb,
    properties, time,
};
use crate::{
    broker::{ClientView, SubscriptionView},
    packet::{Properties, ReasonCode, TopicFilter, TopicName},
    recording::NamePattern,
    session::{ApplicationMessage, Origin},
};

/// Messages of one PublishBatch.
const BATCH_MAX: usize = 10_000;

impl Control {
    pub async fn publish(&self, request: pb::PublishRequest) -> Result<pb::PublishResponse, ControlError> {
        let mut fields = Fields::new();
        let topic = fields.topic("topic", &request.topic);
        let qos = fields.qos("qos", request.qos);
        let (properties, expiry) = match &request.properties {
            Some(from) => properties::checked(&mut fields, "properties", from),
            None => (Properties::new(), None),
        };
        fields.finish()?;
        let (Some(topic), Some(qos)) = (topic, qos) else { return Err(unchecked()) };
        let message = ApplicationMessage {
            topic,
            payload: request.payload,
            qos,
            retain: request.retain,
            properties,
            expires_at: None,
            origin: Origin::Synthetic { depth: 0 },
        };
        let answer = self.server()?.publish(message, expiry).await?;
        // Published like a client's, without the bytes.
        let mut published = [0; 3];
        published[usize::from(u8::from(qos))] = 1;
        self.metrics().received(Instant::now(), 0, published);
        Ok(answer)
    }

    pub async fn publish_batch(
        &self,
        request: pb::PublishBatchRequest,
    ) -> Result<pb::PublishBatchResponse, ControlError> {
        match request.messages.len() {
            0 => return Err(ControlError::bad_field("messages", "is required")),
            1..=BATCH_MAX => {}
            count => {
                let what = format_args!("has at most {BATCH_MAX} messages, not {count}");
                return Err(ControlError::bad_field("messages", what));
            }
        }
        self.server()?;
        let mut results = Vec::with_capacity(request.messages.len());
        for message in request.messages {
            results.push(self.published(message).await);
        }
        Ok(pb::PublishBatchResponse { results })
    }

    pub async fn publish_stream(
        &self,
        messages: Streaming<pb::PublishRequest>,
    ) -> Result<ControlStream<pb::PublishResult>, ControlError> {
        self.server()?;
        let control = self.clone();
        let results = messages
            .take_while(|message| std::future::ready(message.is_ok()))
            .filter_map(|message| std::future::ready(message.ok()))
            .then(move |message| {
                let control = control.clone();
                async move { Ok(control.published(message).await) }
            });
        Ok(self.until_stopped(results))
    }

    /// Publishes one of several.
    async fn published(&self, message: pb::PublishRequest) -> pb::PublishResult {
        use pb::publish_result::Result;
        let result = match self.publish(message).await {
            Ok(published) => Result::Published(published),
            Err(error) => Result::Refused(pb::PublishRefused {
                code: error.code().into(),
                reason: error.reason().to_owned(),
                message: error.to_string(),
                fields: error.fields().map(|field| field.path.clone()).collect(),
            }),
        };
        pb::PublishResult { result: Some(result) }
    }

    pub async fn subscribe(
        &self,
        request: pb::SubscribeRequest,
    ) -> Result<ControlStream<pb::SubscribeResponse>, ControlError> {
        let mut fields = Fields::new();
        if request.filter.is_empty() {
            fields.refuse("filter", "is required");
        }
        let filters = fields.filters("filter", &request.filter);
        if filters.iter().any(TopicFilter::is_shared) {
            fields.refuse("filter", "a shared subscription would take messages from those who share it");
        }
        let qos = fields.qos("qos", request.qos);
        fields.finish()?;
        let Some(qos) = qos else { return Err(unchecked()) };
        let messages = self.server()?.subscribe(filters, qos, request.skip_retained).await?;
        let limit = if request.limit == 0 { u64::MAX } else { request.limit };
        let responses = messages.scan(limit, |left, entry| {
            let event = match entry {
                _ if *left == 0 => return std::future::ready(None),
                Ok(Entry::Item(message)) => {
                    *left -= 1;
                    pb::subscribe_response::Event::Message(message)
                }
                Ok(Entry::Gap(missed)) => pb::subscribe_response::Event::Gap(pb::Gap { missed }),
                Err(error) => return std::future::ready(Some((Err(error), true))),
            };
            std::future::ready(Some((Ok(pb::SubscribeResponse { event: Some(event) }), *left == 0)))
        });
        Ok(self.until_stopped(until_last(responses)))
    }

    pub async fn list_subscriptions(
        &self,
        request: pb::ListSubscriptionsRequest,
    ) -> Result<pb::ListSubscriptionsResponse, ControlError> {
        let page = PageRequest::new("subscriptions", request.page_size, &request.page_token)?;
        let mut subscriptions = self.server()?.subscriptions().await?;
        if let Some(client) = &request.client_id {
            subscriptions.retain(|subscription| subscription.client_identifier == *client);
        }
        if !request.topic.is_empty() {
            let parsed = TopicName::parse(&request.topic);
            let topic = parsed.map_err(|error| ControlError::bad_field("topic", error))?;
            subscriptions.retain(|subscription| {
                TopicFilter::parse(&subscription.filter).is_ok_and(|filter| filter.matches(&topic))
            });
        }
        // U+0000 is in neither, and sorts before everything that may follow a client identifier.
        let page =
            page.cut(subscriptions, |one| format!("{}\0{}", one.client_identifier, one.filter), subscription);
        Ok(pb::ListSubscriptionsResponse {
            subscriptions: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn get_stats(&self, _: pb::GetStatsRequest) -> Result<pb::GetStatsResponse, ControlError> {
        let server = self.server()?;
        let view = self.metrics().view().await;
        let clients = server.clients().await?;
        let clients_connected = clients.iter().filter(|client| client.connection.is_some()).count() as u64;
        let by_qos = |[qos0, qos1, qos2]: [u64; 3]| Some(pb::MessageCounts { qos0, qos1, qos2 });
        Ok(pb::GetStatsResponse {
            active_connections: view.connections_active,
            closed_connections: view.connections_closed,
            clients_connected,
            sessions: view.broker.sessions,
            subscriptions_active: view.subscriptions_active,
            subscriptions_total: view.subscriptions_total,
            messages_published: by_qos(view.published),
            messages_delivered: by_qos(view.delivered),
            messages_dropped: Some(pb::DropCounts {
                queue_full: view.broker.dropped_queue_full,
                expired: view.broker.dropped_expired,
                too_large: view.broker.dropped_too_large,
                not_authorized: view.broker.dropped_not_authorized,
            }),
            messages_per_second: view.messages_per_second,
            retained_messages: view.broker.retained_messages,
            retained_bytes: view.broker.retained_bytes,
            inflight: view.broker.inflight,
            queued: view.broker.queued,
            bytes_received: view.bytes_received,
            bytes_sent: view.bytes_sent,
            uptime: Some(time::duration(self.uptime())),
        })
    }

    pub async fn list_clients(
        &self,
        request: pb::ListClientsRequest,
    ) -> Result<pb::ListClientsResponse, ControlError> {
        let page = PageRequest::new("clients", request.page_size, &request.page_token)?;
        let mut clients = self.server()?.clients().await?;
        if request.connected_only {
            clients.retain(|client| client.connection.is_some());
        }
        if !request.client.is_empty() {
            let wanted = NamePattern::new(request.client);
            clients.retain(|client| wanted.matches(&client.client_identifier));
        }
        let page = page.cut(clients, |client| client.client_identifier.clone(), client);
        Ok(pb::ListClientsResponse {
            clients: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn get_client(&self, request: pb::GetClientRequest) -> Result<pb::Client, ControlError> {
        let mut fields = Fields::new();
        fields.required("client_id", &request.client_id);
        fields.finish()?;
        let clients = self.server()?.clients().await?;
        let found = clients.into_iter().find(|client| client.client_identifier == request.client_id);
        found
            .map(client)
            .ok_or(ControlError::ClientNotFound { client_id: request.client_id, what: "has a session" })
    }

    pub async fn disconnect_client(
        &self,
        request: pb::DisconnectClientRequest,
    ) -> Result<pb::DisconnectClientResponse, ControlError> {
        let mut fields = Fields::new();
        fields.required("client_id", &request.client_id);
        let reason = match request.reason_code {
            None => ReasonCode::ADMINISTRATIVE_ACTION,
            Some(code @ 0x80..=0xA2) => ReasonCode(code as u8),
            Some(code) => {
                let what = format_args!("is a code from 128 to 162 that a server may send, not {code}");
                fields.refuse("reason_code", what);
                ReasonCode::ADMINISTRATIVE_ACTION
            }
        };
        fields.finish()?;
        let client_id = request.client_id;
        if self.server()?.disconnect(client_id.clone(), reason, request.with_will).await? {
            Ok(pb::DisconnectClientResponse {})
        } else {
            Err(ControlError::ClientNotFound { client_id, what: "is connected" })
        }
    }

    pub(super) fn server(&self) -> Result<&Arc<dyn MqttServer>, ControlError> {
        self.parts().server.as_ref().ok_or(ControlError::NoServer)
    }
}

/// Ends the stream behind the item that is marked as the last.
fn until_last<T: Send + 'static>(
    items: impl futures_util::Stream<Item = (T, bool)> + Send + 'static,
) -> impl futures_util::Stream<Item = T> + Send + 'static {
    let items = Box::pin(items);
    futures_util::stream::unfold(Some(items), |items| async move {
        let mut items = items?;
        let (item, last) = items.next().await?;
        Some((item, (!last).then_some(items)))
    })
}

/// Fields said all was well and yet a value is missing: our own mistake.
pub fn unchecked() -> ControlError {
    ControlError::Internal("a checked field has no value".to_owned())
}

fn subscription(view: SubscriptionView) -> pb::Subscription {
    pb::Subscription {
        client_id: view.client_identifier,
        filter: view.filter,
        qos: view.options.qos as u32,
        no_local: view.options.no_local,
        retain_as_published: view.options.retain_as_published,
        retain_handling: view.options.retain_handling as u32,
        subscription_identifier: view.subscription_identifier,
    }
}

fn client(view: ClientView) -> pb::Client {
    let peer = view.peer.as_ref();
    pb::Client {
        client_id: view.client_identifier,
        connected: view.connection.is_some(),
        connection: view.connection.map_or(0, |connection| connection.0),
        peer: peer.and_then(|peer| peer.address).map(|address| address.to_string()).unwrap_or_default(),
        transport: peer.map(|peer| peer.transport.to_owned()).unwrap_or_default(),
        protocol: view.protocol as i32,
        username: view.username,
        keep_alive: Some(time::duration(std::time::Duration::from_secs(u64::from(view.keep_alive)))),
        clean_start: view.clean_start,
        connected_at: view.connected_at.map(time::timestamp_of_instant),
        subscriptions: view.subscriptions as u64,
        inflight: view.inflight as u64,
        queued: view.queued as u64,
    }
}
