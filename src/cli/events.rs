//! `events`: what happens in the running server, as it happens.

use super::{
    event_filter::parse_type,
    exit::{Exit, Failure},
    output::{self, Format, json, short},
    signal::Signals,
    transport::Transport,
};
use crate::{
    control::pb::{self, server_event::Event},
    likeness::unknown,
};

#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Only events of this kind, such as client_connected or packet; may be given more than once [default: all]
    #[arg(long = "kind", value_name = "KIND", value_parser = parse_kind)]
    kinds: Vec<pb::EventKind>,
    /// Of packets with a topic, faults and subscriptions, only those that match this Topic Filter; may be given more than once
    #[arg(long = "topic", value_name = "FILTER")]
    topics: Vec<String>,
    /// Of clients, only those with this client identifier; `*` stands for any characters; may be given more than once
    #[arg(long = "client", value_name = "PATTERN")]
    clients: Vec<String>,
    /// Of packets and faults, only this type, such as publish; may be given more than once
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    types: Vec<pb::PacketType>,
    /// End after this many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

fn parse_kind(text: &str) -> Result<pb::EventKind, String> {
    let found = pb::EventKind::from_str_name(&format!("EVENT_KIND_{}", text.to_ascii_uppercase()));
    found.filter(|kind| *kind != pb::EventKind::Unspecified).ok_or_else(|| {
        let known = (1..).map_while(|number| pb::EventKind::try_from(number).ok());
        let known: Vec<String> = known.map(|kind| short(kind.as_str_name(), "EVENT_KIND_")).collect();
        unknown("kind", text, known.iter().map(String::as_str))
    })
}

pub async fn run(
    args: EventsArgs,
    transport: &Transport,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let request = pb::WatchEventsRequest {
        kinds: args.kinds.into_iter().map(Into::into).collect(),
        topics: args.topics,
        clients: args.clients,
        types: args.types.into_iter().map(Into::into).collect(),
        include_raw: false,
    };
    let mut stream = transport.admin().watch_events(request).await?.into_inner();
    let mut left = args.limit;
    while left != Some(0) {
        let event = tokio::select! {
            event = stream.message() => event?,
            () = signals.asked() => return Ok(Exit::Passed),
        };
        let Some(event) = event else {
            return Err(Failure::new(Exit::Unreachable, anyhow::anyhow!("the server has stopped")));
        };
        match (format, &event.event) {
            (Format::Json, _) => output::json_line(&json("ServerEvent", &event))?,
            (Format::Text, Some(Event::Gap(gap))) => {
                output::line(format!("({} missed)", output::count(gap.missed, "event")))?;
            }
            (Format::Text, Some(what)) => {
                let (kind, text) = told(what);
                output::line(format!("{}  {kind:<19} {text}", output::time_ms(event.at.as_ref())))?;
            }
            (Format::Text, None) => {}
        }
        if !matches!(event.event, Some(Event::Gap(_))) {
            left = left.map(|left| left - 1);
        }
    }
    Ok(Exit::Passed)
}

/// Its kind, and the rest in words.
fn told(event: &Event) -> (&'static str, String) {
    match event {
        Event::ConnectionOpened(event) => {
            ("connection_opened", format!("#{} {} from {}", event.connection, event.transport, event.peer))
        }
        Event::ConnectionClosed(event) => {
            let cause = short(event.cause().as_str_name(), "CLOSE_CAUSE_");
            ("connection_closed", format!("#{} {} {cause}", event.connection, named(&event.client_id)))
        }
        Event::ClientConnected(event) => {
            let session = if event.session_present { ", back to its session" } else { "" };
            let protocol = short(event.protocol().as_str_name(), "PROTOCOL_VERSION_");
            ("client_connected", format!("{} {protocol}{session}", named(&event.client_id)))
        }
        Event::ClientDisconnected(event) => {
            ("client_disconnected", format!("{} 0x{:02x}", named(&event.client_id), event.reason_code))
        }
        Event::Subscribed(event) => {
            ("subscribed", format!("{} {} qos {}", named(&event.client_id), event.filter, event.qos))
        }
        Event::Unsubscribed(event) => {
            ("unsubscribed", format!("{} {}", named(&event.client_id), event.filter))
        }
        Event::MessageDropped(event) => {
            ("message_dropped", format!("{}: {}", named(&event.client_id), event.reason))
        }
        Event::Packet(event) => ("packet", packet(event)),
        Event::Recording(recording) => {
            let state = short(recording.state().as_str_name(), "RECORDING_STATE_");
            ("recording", format!("{} {state}", recording.name))
        }
        Event::Replay(replay) => {
            let state = short(replay.state().as_str_name(), "REPLAY_STATE_");
            ("replay", format!("{} of {} {state}", replay.id, replay.recording_name))
        }
        Event::Mock(event) if event.error.is_empty() => {
            let scheduled = output::count(event.scheduled, "answer");
            (
                "mock",
                format!("{} for {} on {}: {scheduled}", event.mock, named(&event.client_id), event.topic),
            )
        }
        Event::Mock(event) => ("mock", format!("{} on {}: {}", event.mock, event.topic, event.error)),
        Event::Webhook(event) => {
            ("webhook", format!("{} on {} given up: {}", event.webhook, event.topic, event.error))
        }
        Event::Fault(event) => {
            let packet = short(event.r#type().as_str_name(), "PACKET_TYPE_").to_uppercase();
            let detail = String::from_utf8_lossy(&event.detail);
            let text = format!(
                "{} {} of {} {packet} {} {} {detail}",
                event.rule,
                event.action,
                named(&event.client_id),
                event.nth,
                event.topic
            );
            ("fault", text)
        }
        Event::Gap(gap) => ("gap", gap.missed.to_string()),
    }
}

fn packet(event: &pb::PacketEvent) -> String {
    let way = if event.direction() == pb::Direction::ServerToClient { "to" } else { "from" };
    let kind = match event.r#type() {
        pb::PacketType::Unspecified => "no packet".to_owned(),
        kind => short(kind.as_str_name(), "PACKET_TYPE_").to_uppercase(),
    };
    let text = format!("{way} {} {kind}", named(&event.client_id));
    if event.r#type() != pb::PacketType::Publish {
        return format!("{text} {} B", event.size);
    }
    let retain = if event.retain { " retain" } else { "" };
    format!("{text} {} qos {}{retain} {} B", event.topic, event.qos, event.payload_size)
}

fn named(client_id: &str) -> &str {
    if client_id.is_empty() { "-" } else { client_id }
}
