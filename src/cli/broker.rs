//! `mqtt status | stats | clients | disconnect | publish | subscribe` against a running server.

use std::{io::Read, path::PathBuf, time::Duration};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    duration,
    exit::{Exit, Failure},
    listing::{self, PAGE},
    mocks::said,
    output::{self, Format, json, short},
    signal::Signals,
    transport::Transport,
};
use crate::control::pb;

#[derive(Debug, clap::Args)]
pub struct PublishArgs {
    /// Topic Name
    topic: String,
    /// Payload; `-` reads standard input; without one the message is empty
    payload: Option<String>,
    /// Take the payload from a file
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    file: Option<PathBuf>,
    /// Quality of Service
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Keep the message for later subscribers
    #[arg(short, long)]
    retain: bool,
    /// Content Type (MQTT 5)
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Response Topic (MQTT 5)
    #[arg(long, value_name = "TOPIC")]
    response_topic: Option<String>,
    /// Correlation Data (MQTT 5)
    #[arg(long, value_name = "TEXT")]
    correlation_data: Option<String>,
    /// Message Expiry Interval (MQTT 5), whole seconds such as 30s
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    expiry: Option<Duration>,
    /// User Property (MQTT 5); may be given more than once
    #[arg(long = "user-property", value_name = "NAME=VALUE", value_parser = parse_user_property)]
    user_properties: Vec<pb::UserProperty>,
}

#[derive(Debug, clap::Args)]
pub struct SubscribeArgs {
    /// Topic Filters
    #[arg(required = true, value_name = "FILTER")]
    filters: Vec<String>,
    /// The most Quality of Service to be delivered with
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// End after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// Leave out messages that were retained before
    #[arg(long)]
    skip_retained: bool,
}

#[derive(Debug, clap::Args)]
pub struct DisconnectArgs {
    /// Its client identifier
    client: String,
    /// Reason Code of the DISCONNECT that it is sent (MQTT 5), 0x80 or above [default: 0x98, Administrative action]
    #[arg(long, value_name = "CODE", value_parser = parse_reason)]
    reason: Option<u32>,
    /// Have its Will published
    #[arg(long)]
    with_will: bool,
}

fn parse_reason(text: &str) -> Result<u32, String> {
    let code = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    code.map_err(|_| "expected a number such as 0x98".to_owned())
}

#[derive(Debug, clap::Args)]
pub struct ClientsArgs {
    /// Only those with a connection
    #[arg(long)]
    connected: bool,
    /// Only client identifiers that match this; `*` stands for any characters
    #[arg(long, value_name = "PATTERN", default_value = "", hide_default_value = true)]
    client: String,
}

/// `mqtt retained`: what the broker keeps for later subscribers.
#[derive(Debug, clap::Subcommand)]
pub enum Retained {
    /// List retained messages
    Ls {
        /// Only topics that match one of these Topic Filters [default: all]
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// Forget retained messages; subscribers are sent nothing
    Rm {
        /// Topic Filters; a topic is one for itself alone
        #[arg(required = true, value_name = "FILTER")]
        filters: Vec<String>,
    },
}

/// `mqtt status`: who answers, and how it is.
pub async fn status(transport: &Transport, info: &pb::ServerInfo, format: Format) -> Result<Exit, Failure> {
    let stats = transport.broker().get_stats(pb::GetStatsRequest {}).await?.into_inner();
    match format {
        Format::Json => {
            let (server, stats) = (json("ServerInfo", info), json("GetStatsResponse", &stats));
            output::json_line(&Status { server, stats })?;
        }
        Format::Text => {
            output::line(describe(info))?;
            output::line(format!(
                "running for {}, {} connected, {}, {:.1} messages/s",
                duration::show(duration::from_proto(info.uptime.as_ref())),
                output::count(stats.clients_connected, "client"),
                output::count(stats.subscriptions_active, "subscription"),
                stats.messages_per_second,
            ))?;
        }
    }
    Ok(Exit::Passed)
}

#[derive(Serialize)]
struct Status {
    server: Box<RawValue>,
    stats: Box<RawValue>,
}

/// What runs, and a line for each address it listens on.
pub fn describe(info: &pb::ServerInfo) -> String {
    let what = match info.mode() {
        pb::ServerMode::Proxy => "proxy",
        _ => "broker",
    };
    let mut first = format!("mockforge {} {what}, process {}, seed {}", info.version, info.pid, info.seed);
    if !matches!(info.durability.as_str(), "" | "none") {
        first += &format!(", durability {}", info.durability);
    }
    let mut lines = vec![first];
    if !info.mqtt_address.is_empty() {
        let mut line = format!("mqtt  mqtt://{}", info.mqtt_address);
        if !info.upstream.is_empty() {
            line += &format!(" before {}", info.upstream);
        }
        lines.push(line);
    }
    let others = [("mqtts", &info.mqtts_address), ("ws", &info.ws_address), ("wss", &info.wss_address)];
    for (scheme, address) in others.into_iter().filter(|(_, address)| !address.is_empty()) {
        lines.push(format!("{scheme:<5} {scheme}://{address}"));
    }
    if !info.http_address.is_empty() {
        let scheme = if info.http_tls { "https" } else { "http" };
        lines.push(format!("{scheme:<5} {scheme}://{}/__mockforge", info.http_address));
    }
    if !info.grpc_address.is_empty() {
        let scheme = if info.grpc_tls { "https://" } else { "" };
        lines.push(format!("grpc  {scheme}{}", info.grpc_address));
    }
    lines.join("\n")
}

pub async fn stats(transport: &Transport, format: Format) -> Result<Exit, Failure> {
    let stats = transport.broker().get_stats(pb::GetStatsRequest {}).await?.into_inner();
    match format {
        Format::Json => output::json_line(&json("GetStatsResponse", &stats))?,
        Format::Text => output::line(output::table(&figures(&stats)))?,
    }
    Ok(Exit::Passed)
}

fn figures(stats: &pb::GetStatsResponse) -> Vec<Vec<String>> {
    let by_qos = |counts: Option<pb::MessageCounts>| {
        let pb::MessageCounts { qos0, qos1, qos2 } = counts.unwrap_or_default();
        format!("{} ({qos0} at QoS 0, {qos1} at QoS 1, {qos2} at QoS 2)", qos0 + qos1 + qos2)
    };
    let pb::DropCounts { queue_full, expired, too_large, not_authorized } =
        stats.messages_dropped.unwrap_or_default();
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    vec![
        row("uptime", duration::show(duration::from_proto(stats.uptime.as_ref()))),
        row("connections", format!("{} open, {} closed", stats.active_connections, stats.closed_connections)),
        row("clients", format!("{} connected", stats.clients_connected)),
        row("sessions", stats.sessions.to_string()),
        row(
            "subscriptions",
            format!(
                "{} in force, {} granted since the start",
                stats.subscriptions_active, stats.subscriptions_total
            ),
        ),
        row("published", by_qos(stats.messages_published)),
        row("delivered", by_qos(stats.messages_delivered)),
        row(
            "dropped",
            format!(
                "{queue_full} for a full queue, {expired} expired, {too_large} too large for their client, \
                 {not_authorized} not authorized"
            ),
        ),
        row("rate", format!("{:.1} messages/s", stats.messages_per_second)),
        row(
            "retained",
            format!(
                "{} of {}",
                output::count(stats.retained_messages, "message"),
                output::bytes(stats.retained_bytes)
            ),
        ),
        row("in flight", stats.inflight.to_string()),
        row("queued", stats.queued.to_string()),
        row("received", output::bytes(stats.bytes_received)),
        row("sent", output::bytes(stats.bytes_sent)),
    ]
}

pub async fn clients(transport: &Transport, args: &ClientsArgs, format: Format) -> Result<Exit, Failure> {
    let clients = listing::every(async |page_token| {
        let request = pb::ListClientsRequest {
            connected_only: args.connected,
            page_size: PAGE,
            page_token,
            client: args.client.clone(),
        };
        let page = transport.broker().list_clients(request).await?.into_inner();
        Ok((page.clients, page.next_page_token))
    });
    let heading = [
        "CLIENT",
        "STATE",
        "PEER",
        "PROTOCOL",
        "KEEP ALIVE",
        "SUBSCRIPTIONS",
        "IN FLIGHT",
        "QUEUED",
        "SINCE",
    ];
    listing::print(
        format,
        ("clients", "no clients"),
        &clients.await?,
        |client| json("Client", client),
        heading,
        row,
    )?;
    Ok(Exit::Passed)
}

pub async fn topics(transport: &Transport, filter: Vec<String>, format: Format) -> Result<Exit, Failure> {
    let mut missed = 0;
    let topics = listing::every(async |page_token| {
        let request = pb::ListTopicsRequest { filter: filter.clone(), page_size: PAGE, page_token };
        let page = transport.broker().list_topics(request).await?.into_inner();
        missed = page.missed;
        Ok((page.topics, page.next_page_token))
    });
    listing::print(
        format,
        ("topics", "no topics"),
        &topics.await?,
        |topic| json("Topic", topic),
        ["TOPIC", "RETAINED", "MESSAGES", "BYTES", "CLIENT", "LAST"],
        |topic| {
            vec![
                topic.topic.clone(),
                if topic.retained { "yes" } else { "-" }.to_owned(),
                topic.messages.to_string(),
                topic.payload_size.to_string(),
                if topic.client_id.is_empty() { "-".to_owned() } else { topic.client_id.clone() },
                output::time(topic.last_at.as_ref()),
            ]
        },
    )?;
    if missed > 0 && format == Format::Text {
        output::line(format!(
            "(the journal has no more of the {} before)",
            output::count(missed, "message")
        ))?;
    }
    Ok(Exit::Passed)
}

pub async fn retained(transport: &Transport, command: Retained, format: Format) -> Result<Exit, Failure> {
    let filters = match command {
        Retained::Ls { filters } => filters,
        Retained::Rm { filters: filter } => {
            let answer =
                transport.broker().delete_retained(pb::DeleteRetainedRequest { filter }).await?.into_inner();
            match format {
                Format::Json => output::json_line(&json("DeleteRetainedResponse", &answer))?,
                Format::Text => {
                    output::line(format!("forgot {}", output::count(answer.deleted, "retained message")))?;
                }
            }
            return Ok(Exit::Passed);
        }
    };
    let messages = listing::every(async |page_token| {
        let request = pb::ListRetainedRequest {
            filter: filters.clone(),
            skip_payloads: false,
            page_size: PAGE,
            page_token,
        };
        let page = transport.broker().list_retained(request).await?.into_inner();
        Ok((page.messages, page.next_page_token))
    });
    listing::print(
        format,
        ("messages", "no retained messages"),
        &messages.await?,
        |message| json("RetainedMessage", message),
        ["TOPIC", "QOS", "BYTES", "CLIENT", "PAYLOAD"],
        |message| {
            vec![
                message.topic.clone(),
                message.qos.to_string(),
                message.payload_size.to_string(),
                if message.client_id.is_empty() { "-".to_owned() } else { message.client_id.clone() },
                payload_text(&message.payload),
            ]
        },
    )?;
    Ok(Exit::Passed)
}

fn row(client: &pb::Client) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    vec![
        client.client_id.clone(),
        if client.connected { "connected" } else { "absent" }.to_owned(),
        or_dash(&client.peer),
        protocol(client.protocol()).to_owned(),
        duration::show(duration::from_proto(client.keep_alive.as_ref())),
        client.subscriptions.to_string(),
        client.inflight.to_string(),
        client.queued.to_string(),
        output::time(client.connected_at.as_ref()),
    ]
}

/// The version as the standards are called.
pub fn protocol(version: pb::ProtocolVersion) -> &'static str {
    match version {
        pb::ProtocolVersion::Unspecified => "-",
        pb::ProtocolVersion::V31 => "3.1",
        pb::ProtocolVersion::V311 => "3.1.1",
        pb::ProtocolVersion::V50 => "5.0",
    }
}

pub async fn publish(transport: &Transport, args: PublishArgs, format: Format) -> Result<Exit, Failure> {
    let payload = match (&args.file, args.payload.as_deref()) {
        (Some(path), _) => {
            std::fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?
        }
        (None, Some("-")) => {
            let mut payload = Vec::new();
            std::io::stdin().lock().read_to_end(&mut payload)?;
            payload
        }
        (None, payload) => payload.unwrap_or_default().as_bytes().to_vec(),
    };
    let properties = pb::PublishProperties {
        message_expiry_interval: args.expiry.map(duration::to_proto),
        content_type: args.content_type,
        response_topic: args.response_topic,
        correlation_data: args.correlation_data.map(|data| data.into_bytes().into()),
        user_properties: args.user_properties,
        ..Default::default()
    };
    let request = pb::PublishRequest {
        topic: args.topic,
        payload: payload.into(),
        qos: args.qos.into(),
        retain: args.retain,
        properties: (properties != pb::PublishProperties::default()).then_some(properties),
    };
    let answer = transport.broker().publish(request).await?.into_inner();
    match format {
        Format::Json => output::json_line(&json("PublishResponse", &answer))?,
        Format::Text => match answer.receivers {
            Some(receivers) => {
                output::line(format!("published to {}", output::count(receivers, "receiver")))?
            }
            None => output::line("published to the upstream")?,
        },
    }
    // The upstream of a proxy may refuse a message.
    Ok(if answer.reason_code >= 0x80 { Exit::Failed } else { Exit::Passed })
}

pub async fn disconnect(
    transport: &Transport,
    args: DisconnectArgs,
    format: Format,
) -> Result<Exit, Failure> {
    let DisconnectArgs { client, reason, with_will } = args;
    let request = pb::DisconnectClientRequest { client_id: client.clone(), reason_code: reason, with_will };
    transport.broker().disconnect_client(request).await?;
    said(format, &format!("disconnected {client}"))?;
    Ok(Exit::Passed)
}

pub async fn subscribe(
    transport: &Transport,
    args: SubscribeArgs,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let request = pb::SubscribeRequest {
        filter: args.filters,
        qos: args.qos.into(),
        skip_retained: args.skip_retained,
        limit: args.limit.unwrap_or_default(),
    };
    let mut stream = transport.broker().subscribe(request).await?.into_inner();
    loop {
        let element = tokio::select! {
            element = stream.message() => element?,
            () = signals.asked() => return Ok(Exit::Passed),
        };
        let Some(element) = element else { break };
        match (format, &element.event) {
            (Format::Json, _) => output::json_line(&json("SubscribeResponse", &element))?,
            (Format::Text, Some(pb::subscribe_response::Event::Message(message))) => {
                output::line(format!("{} {}", message.topic, payload_text(&message.payload)))?;
            }
            (Format::Text, Some(pb::subscribe_response::Event::Gap(gap))) => {
                output::line(format!("({} missed)", output::count(gap.missed, "message")))?;
            }
            (Format::Text, None) => {}
        }
    }
    // Without a limit only the server's end is one.
    if args.limit.is_none() {
        return Err(Failure::new(Exit::Unreachable, anyhow::anyhow!("the server has stopped")));
    }
    Ok(Exit::Passed)
}

/// Text as it is, other bytes as a note of their number.
pub fn payload_text(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("({})", output::count(payload.len() as u64, "byte")),
    }
}

fn parse_user_property(text: &str) -> Result<pb::UserProperty, String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok(pb::UserProperty { name: name.to_owned(), value: value.to_owned() })
}

/// `RECORDING_STATE_COMPLETE` as `complete`.
pub fn state(recording: &pb::Recording) -> String {
    short(recording.state().as_str_name(), "RECORDING_STATE_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_described_with_its_addresses() {
        let info = pb::ServerInfo {
            version: "0.1.0".into(),
            mode: pb::ServerMode::Proxy.into(),
            upstream: "mqtt://broker:1883".into(),
            mqtt_address: "127.0.0.1:1884".into(),
            http_address: "127.0.0.1:3000".into(),
            pid: 7,
            seed: 42,
            ..Default::default()
        };
        expect_test::expect![[r#"
            mockforge 0.1.0 proxy, process 7, seed 42
            mqtt  mqtt://127.0.0.1:1884 before mqtt://broker:1883
            http  http://127.0.0.1:3000/__mockforge"#]]
        .assert_eq(&describe(&info));
        let (grpc_address, durability) = ("127.0.0.1:50051".into(), "strict".into());
        let behind_tls = pb::ServerInfo { http_tls: true, grpc_tls: true, grpc_address, durability, ..info };
        let described = describe(&behind_tls);
        assert!(described.starts_with("mockforge 0.1.0 proxy, process 7, seed 42, durability strict\n"));
        let addresses: Vec<_> = described.lines().skip(2).collect();
        assert_eq!(addresses, ["https https://127.0.0.1:3000/__mockforge", "grpc  https://127.0.0.1:50051"]);
    }

    #[test]
    fn a_user_property_is_a_name_and_a_value() {
        let property = parse_user_property("a=b=c").unwrap();
        assert_eq!((property.name.as_str(), property.value.as_str()), ("a", "b=c"));
        assert!(parse_user_property("a").is_err());
    }
}
