//! The rpcs of `Webhooks`: HTTP requests for messages.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Control, ControlError,
    fields::Fields,
    mask::{self, masked},
    mocks::{condition, shown_condition},
    page::PageRequest,
    pb, time,
};
use crate::{
    field::BadField,
    mock::Occasion,
    net::{WebhookError, WebhookHandle, WebhookView},
    packet::TopicName,
    webhook::{DeliveryState, RoutedMessage, Secret, WEBHOOKS_MAX, WebhookDelivery, WebhookSpec},
};

impl Control {
    pub async fn create_webhook(
        &self,
        request: pb::CreateWebhookRequest,
    ) -> Result<pb::Webhook, ControlError> {
        let spec = checked(request.webhook)?;
        self.webhooks()?.create(spec).map(shown).map_err(refused)
    }

    pub async fn get_webhook(&self, request: pb::GetWebhookRequest) -> Result<pb::Webhook, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        self.webhooks()?.get(&request.id).map(shown).map_err(refused)
    }

    pub async fn list_webhooks(
        &self,
        request: pb::ListWebhooksRequest,
    ) -> Result<pb::ListWebhooksResponse, ControlError> {
        let page = PageRequest::new("webhooks", request.page_size, &request.page_token)?;
        // In the order they were made, which a token cannot know of ids: so it counts.
        let mut webhooks: Vec<(usize, WebhookView)> =
            self.webhooks()?.list().into_iter().enumerate().collect();
        webhooks.retain(|(_, webhook)| request.enabled.is_none_or(|wanted| webhook.spec.enabled == wanted));
        let page =
            page.cut(webhooks, |(position, _)| format!("{position:010}"), |(_, webhook)| shown(webhook));
        Ok(pb::ListWebhooksResponse {
            webhooks: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn update_webhook(
        &self,
        request: pb::UpdateWebhookRequest,
    ) -> Result<pb::Webhook, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        let webhooks = self.webhooks()?;
        let given = request.webhook.ok_or_else(|| ControlError::bad_field("webhook", "is required"))?;
        let _turn = self.updating();
        let mask = mask::said(request.update_mask.as_ref());
        let webhook = match mask {
            Some(_) => {
                masked("Webhook", webhooks.get(&request.id).map(shown).map_err(refused)?, given, mask)?
            }
            None => given,
        };
        webhooks.update(&request.id, checked(Some(webhook))?).map(shown).map_err(refused)
    }

    pub async fn delete_webhook(&self, request: pb::DeleteWebhookRequest) -> Result<(), ControlError> {
        Fields::require(&[("id", &request.id)])?;
        self.webhooks()?.delete(&request.id).map_err(refused)
    }

    pub async fn list_deliveries(
        &self,
        request: pb::ListDeliveriesRequest,
    ) -> Result<pb::ListDeliveriesResponse, ControlError> {
        let mut fields = Fields::new();
        fields.required("id", &request.id);
        let states: Vec<pb::DeliveryState> = fields.choices("states", &request.states);
        fields.finish()?;
        let page = PageRequest::new("deliveries", request.page_size, &request.page_token)?;
        let mut deliveries = self.webhooks()?.deliveries(&request.id).map_err(refused)?;
        deliveries.retain(|delivery| states.is_empty() || states.contains(&shown_state(delivery.state)));
        // Newest first.
        let page =
            page.cut(deliveries, |delivery| format!("{:032x}", u128::MAX - delivery.id.0), shown_delivery);
        Ok(pb::ListDeliveriesResponse {
            deliveries: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn redeliver(
        &self,
        request: pb::RedeliverRequest,
    ) -> Result<pb::WebhookDelivery, ControlError> {
        Fields::require(&[("id", &request.id), ("delivery", &request.delivery)])?;
        self.webhooks()?.redeliver(&request.id, &request.delivery).map(shown_delivery).map_err(refused)
    }

    pub async fn test_webhook(
        &self,
        request: pb::TestWebhookRequest,
    ) -> Result<pb::WebhookDelivery, ControlError> {
        let mut fields = Fields::new();
        fields.required("id", &request.id);
        if !request.topic.is_empty() {
            fields.topic("topic", &request.topic);
        }
        fields.finish()?;
        let webhooks = self.webhooks()?;
        let topic = match &*request.topic {
            "" => test_topic(&webhooks.get(&request.id).map_err(refused)?.spec.topic),
            topic => topic.to_owned(),
        };
        let occasion =
            Occasion { topic, payload: request.payload, synthetic: Some(0), ..Occasion::default() };
        let message = RoutedMessage { occasion, at: Timestamp::now() };
        webhooks.test(&request.id, message).await.map(shown_delivery).map_err(refused)
    }

    pub(super) fn webhooks(&self) -> Result<&WebhookHandle, ControlError> {
        self.server()?;
        self.parts().webhooks.as_ref().ok_or(ControlError::NoServer)
    }
}

/// The filter itself, if it has no wildcards.
fn test_topic(filter: &str) -> String {
    let is_topic = TopicName::parse(filter).is_ok() && !filter.contains("{{");
    if is_topic { filter.to_owned() } else { "test".to_owned() }
}

fn refused(error: WebhookError) -> ControlError {
    match error {
        WebhookError::Bad(fields) => {
            let in_request = |field: BadField| BadField { path: path(&field.path), ..field };
            ControlError::BadFields(fields.into_iter().map(in_request).collect())
        }
        WebhookError::Exists(id) => ControlError::WebhookExists { id },
        WebhookError::NotFound(id) => ControlError::WebhookNotFound { id },
        WebhookError::DeliveryNotFound { webhook, delivery } => {
            ControlError::DeliveryNotFound { webhook, delivery }
        }
        WebhookError::NotKept(delivery) => ControlError::DeliveryNotKept { delivery },
        WebhookError::QueueFull(id) => ControlError::WebhookQueueFull { id },
        WebhookError::TooMany => ControlError::TooManyWebhooks(WEBHOOKS_MAX),
        WebhookError::Closed => ControlError::Stopping,
    }
}

/// Where in a request the field of a [`WebhookSpec`] is.
fn path(of_spec: &str) -> String {
    match of_spec {
        "" => "webhook".to_owned(),
        // As times, there.
        "timeout_ms" | "backoff_ms" | "backoff_max_ms" => {
            format!("webhook.{}", &of_spec[..of_spec.len() - 3])
        }
        other => format!("webhook.{other}"),
    }
}

/// Only the form is checked here; what it means is the webhook's to check.
fn checked(webhook: Option<pb::Webhook>) -> Result<WebhookSpec, ControlError> {
    let Some(webhook) = webhook else { return Err(ControlError::bad_field("webhook", "is required")) };
    let mut fields = Fields::new();
    let usual = WebhookSpec::default();
    let when = webhook.when.map(|when| condition(&mut fields, "webhook.when", when));
    let mut milliseconds = |path: &str, value: Option<prost_types::Duration>, usual: u64| {
        let duration = fields.duration(path, value.as_ref());
        duration.map_or(usual, |duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    let spec = WebhookSpec {
        timeout_ms: milliseconds("webhook.timeout", webhook.timeout, usual.timeout_ms),
        backoff_ms: milliseconds("webhook.backoff", webhook.backoff, usual.backoff_ms),
        backoff_max_ms: milliseconds("webhook.backoff_max", webhook.backoff_max, usual.backoff_max_ms),
        id: webhook.id,
        topic: webhook.topic,
        url: webhook.url,
        method: if webhook.method.is_empty() { usual.method } else { webhook.method },
        headers: webhook.headers.into_iter().collect(),
        body: webhook.body.map(Value::String),
        enabled: webhook.enabled.unwrap_or(true),
        when,
        retries: webhook.retries.unwrap_or(usual.retries),
        queue: webhook.queue.unwrap_or(usual.queue),
        concurrency: webhook.concurrency.unwrap_or(usual.concurrency),
        secret: webhook.secret.map(Secret),
        ca_file: webhook.ca_file,
    };
    fields.finish()?;
    Ok(spec)
}

/// A webhook as the API takes it, with its secret.
pub fn webhook_message(spec: WebhookSpec) -> pb::Webhook {
    let milliseconds = |value: u64| Some(time::duration(std::time::Duration::from_millis(value)));
    pb::Webhook {
        id: spec.id,
        topic: spec.topic,
        url: spec.url,
        method: spec.method,
        headers: spec.headers.into_iter().collect(),
        body: spec.body.map(|body| match body {
            Value::String(text) => text,
            other => other.to_string(),
        }),
        enabled: Some(spec.enabled),
        when: spec.when.map(shown_condition),
        timeout: milliseconds(spec.timeout_ms),
        retries: Some(spec.retries),
        backoff: milliseconds(spec.backoff_ms),
        backoff_max: milliseconds(spec.backoff_max_ms),
        queue: Some(spec.queue),
        concurrency: Some(spec.concurrency),
        secret: spec.secret.map(|Secret(text)| text),
        ca_file: spec.ca_file,
        ..pb::Webhook::default()
    }
}

/// A webhook as the API shows it: the view has no secret.
fn shown(view: WebhookView) -> pb::Webhook {
    pb::Webhook {
        delivered: view.delivered,
        failed: view.failed,
        dropped: view.dropped,
        retried: view.retried,
        queued: view.queued,
        last_error: view.last_error,
        from_settings: view.from_settings,
        ..webhook_message(view.spec)
    }
}

fn shown_delivery(delivery: WebhookDelivery) -> pb::WebhookDelivery {
    pb::WebhookDelivery {
        id: delivery.id.to_string(),
        webhook: delivery.webhook,
        topic: delivery.topic,
        state: shown_state(delivery.state).into(),
        attempts: delivery.attempts,
        status: delivery.status.map(u32::from),
        error: delivery.error,
        queued_at: Some(time::timestamp_of_jiff(delivery.queued_at)),
        ended_at: delivery.ended_at.map(time::timestamp_of_jiff),
        duration: delivery.duration.map(time::duration),
        url: delivery.url,
        request_body: delivery.request_body,
        response_body: delivery.response_body,
    }
}

fn shown_state(state: DeliveryState) -> pb::DeliveryState {
    match state {
        DeliveryState::Pending => pb::DeliveryState::Pending,
        DeliveryState::Delivered => pb::DeliveryState::Delivered,
        DeliveryState::Failed => pb::DeliveryState::Failed,
    }
}
