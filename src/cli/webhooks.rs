//! `webhooks ls | show | add | rm | enable | disable | deliveries | redeliver | test`.

use std::path::PathBuf;

use super::{
    broker::payload_text,
    exit::{Exit, Failure},
    listing::{self, PAGE},
    mocks::{read_text, said},
    output::{self, Format, json, short},
    transport::Transport,
};
use crate::{
    config::read_webhooks,
    control::{pb, webhook_message},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List webhooks in the order they were made
    #[command(visible_alias = "list")]
    Ls,
    /// Say what a webhook is, and what became of its messages
    Show {
        /// Its id
        webhook: String,
    },
    /// Add the webhooks of a YAML file: a list of them, one alone, or a mockforge.yaml
    Add {
        /// The file; `-` reads standard input
        file: PathBuf,
        /// Put them in the place of webhooks that have their ids
        #[arg(long)]
        replace: bool,
    },
    /// Remove webhooks, and what waits for them
    Rm {
        /// Their ids
        #[arg(required = true)]
        webhooks: Vec<String>,
    },
    /// Switch webhooks on
    Enable {
        /// Their ids
        #[arg(required = true)]
        webhooks: Vec<String>,
    },
    /// Switch webhooks off; what waits for them goes on waiting
    Disable {
        /// Their ids
        #[arg(required = true)]
        webhooks: Vec<String>,
    },
    /// List the last deliveries of a webhook, newest first
    Deliveries {
        /// Its id
        webhook: String,
        /// Only those that were given up
        #[arg(long)]
        failed: bool,
    },
    /// Send a delivery again, as a new one
    Redeliver {
        /// Id of the webhook
        webhook: String,
        /// Id of the delivery
        delivery: String,
    },
    /// Send one request as if a message had come, and say how it went
    Test {
        /// Its id
        webhook: String,
        /// Topic of the message; without one, the webhook's own if it has no wildcards
        #[arg(long, default_value = "")]
        topic: String,
        /// Payload of the message
        #[arg(long, default_value = "")]
        payload: String,
    },
}

pub async fn run(command: Command, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    match command {
        Command::Ls => list(&every(transport).await?, format)?,
        Command::Show { webhook } => show(transport, webhook, format).await?,
        Command::Add { file, replace } => add(transport, file, replace, format).await?,
        Command::Rm { webhooks } => {
            for id in webhooks {
                transport.webhooks().delete_webhook(pb::DeleteWebhookRequest { id: id.clone() }).await?;
                said(format, &format!("removed {id}"))?;
            }
        }
        Command::Enable { webhooks } => switch(transport, webhooks, true, format).await?,
        Command::Disable { webhooks } => switch(transport, webhooks, false, format).await?,
        Command::Deliveries { webhook, failed } => deliveries(transport, webhook, failed, format).await?,
        Command::Redeliver { webhook, delivery } => {
            let request = pb::RedeliverRequest { id: webhook, delivery };
            let again = transport.webhooks().redeliver(request).await?.into_inner();
            match format {
                Format::Json => output::json_line(&json("WebhookDelivery", &again))?,
                Format::Text => output::line(format!("queued as {}", again.id))?,
            }
        }
        Command::Test { webhook, topic, payload } => {
            return test(
                transport,
                pb::TestWebhookRequest { id: webhook, topic, payload: payload.into() },
                format,
            )
            .await;
        }
    }
    Ok(Exit::Passed)
}

async fn every(transport: &Transport) -> Result<Vec<pb::Webhook>, Failure> {
    listing::every(async |page_token| {
        let request = pb::ListWebhooksRequest { page_size: PAGE, page_token, enabled: None };
        let page = transport.webhooks().list_webhooks(request).await?.into_inner();
        Ok((page.webhooks, page.next_page_token))
    })
    .await
}

fn list(webhooks: &[pb::Webhook], format: Format) -> Result<(), Failure> {
    let heading = ["ID", "TOPIC", "REQUEST", "DELIVERED", "FAILED", "DROPPED", "QUEUED"];
    listing::print(
        format,
        ("webhooks", "no webhooks"),
        webhooks,
        |webhook| json("Webhook", webhook),
        heading,
        row,
    )
}

fn row(webhook: &pb::Webhook) -> Vec<String> {
    let off = if webhook.enabled() { "" } else { " (off)" };
    vec![
        webhook.id.clone(),
        webhook.topic.clone(),
        format!("{} {}{off}", webhook.method, webhook.url),
        webhook.delivered.to_string(),
        webhook.failed.to_string(),
        webhook.dropped.to_string(),
        webhook.queued.to_string(),
    ]
}

async fn show(transport: &Transport, id: String, format: Format) -> Result<(), Failure> {
    let webhook = transport.webhooks().get_webhook(pb::GetWebhookRequest { id }).await?.into_inner();
    let text = json("Webhook", &webhook);
    match format {
        Format::Json => output::json_line(&text)?,
        Format::Text => {
            list(std::slice::from_ref(&webhook), format)?;
            if !webhook.last_error.is_empty() {
                output::line(format!("last error: {}", webhook.last_error))?;
            }
            let value: serde_json::Value = serde_json::from_str(text.get()).map_err(anyhow::Error::from)?;
            output::line(serde_json::to_string_pretty(&value).map_err(anyhow::Error::from)?)?;
        }
    }
    Ok(())
}

async fn add(transport: &Transport, file: PathBuf, replace: bool, format: Format) -> Result<(), Failure> {
    let (name, text) = read_text(file)?;
    let mut added = Vec::new();
    for spec in read_webhooks(&name, &text)? {
        let webhook = webhook_message(spec);
        let id = webhook.id.clone();
        let request = pb::CreateWebhookRequest { webhook: Some(webhook.clone()) };
        let answer = match transport.webhooks().create_webhook(request).await {
            Err(status) if replace && status.code() == tonic::Code::AlreadyExists => {
                let request = pb::UpdateWebhookRequest { id, webhook: Some(webhook), update_mask: None };
                transport.webhooks().update_webhook(request).await?
            }
            created => created?,
        };
        added.push(answer.into_inner());
    }
    if format == Format::Text && added.is_empty() {
        return Err(Failure::usage(format!("{name} has no webhooks")));
    }
    list(&added, format)
}

async fn switch(
    transport: &Transport,
    ids: Vec<String>,
    enabled: bool,
    format: Format,
) -> Result<(), Failure> {
    for id in ids {
        let webhook = Some(pb::Webhook { enabled: Some(enabled), ..Default::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["enabled".to_owned()] });
        let request = pb::UpdateWebhookRequest { id: id.clone(), webhook, update_mask };
        transport.webhooks().update_webhook(request).await?;
        said(format, &format!("{id} is {}", if enabled { "on" } else { "off" }))?;
    }
    Ok(())
}

async fn deliveries(transport: &Transport, id: String, failed: bool, format: Format) -> Result<(), Failure> {
    let states: Vec<i32> = failed.then_some(pb::DeliveryState::Failed.into()).into_iter().collect();
    let deliveries = listing::every(async |page_token| {
        let (id, states) = (id.clone(), states.clone());
        let request = pb::ListDeliveriesRequest { id, states, page_size: PAGE, page_token };
        let page = transport.webhooks().list_deliveries(request).await?.into_inner();
        Ok((page.deliveries, page.next_page_token))
    })
    .await?;
    let heading = ["ID", "QUEUED", "TOPIC", "STATE", "ATTEMPTS", "STATUS", "ERROR"];
    let shown = |delivery: &pb::WebhookDelivery| json("WebhookDelivery", delivery);
    listing::print(format, ("deliveries", "no deliveries"), &deliveries, shown, heading, |delivery| {
        vec![
            delivery.id.clone(),
            output::time(delivery.queued_at.as_ref()),
            delivery.topic.clone(),
            short(delivery.state().as_str_name(), "DELIVERY_STATE_"),
            delivery.attempts.to_string(),
            delivery.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            delivery.error.clone(),
        ]
    })
}

async fn test(
    transport: &Transport,
    request: pb::TestWebhookRequest,
    format: Format,
) -> Result<Exit, Failure> {
    let delivery = transport.webhooks().test_webhook(request).await?.into_inner();
    match format {
        Format::Json => output::json_line(&json("WebhookDelivery", &delivery))?,
        Format::Text => {
            let outcome = match (delivery.status, delivery.error.as_str()) {
                (Some(status), "") => format!("answered {status}"),
                (_, error) => error.to_owned(),
            };
            output::line(format!(
                "{}: {outcome}",
                if delivery.url.is_empty() { "not sent" } else { &delivery.url }
            ))?;
            if !delivery.response_body.is_empty() {
                output::line(payload_text(&delivery.response_body))?;
            }
        }
    }
    Ok(if delivery.state() == pb::DeliveryState::Delivered { Exit::Passed } else { Exit::Failed })
}
