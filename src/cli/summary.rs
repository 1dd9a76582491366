//! What is in a recording, as `recordings show` prints it: traffic over time, clients, topics, packet types, errors.

use super::{
    broker::protocol,
    duration,
    output::{self, short},
};
use crate::control::pb;

/// For people, without a last line's end.
pub fn text(summary: &pb::RecordingSummary) -> String {
    let mut parts = vec![
        traffic(summary),
        clients(summary),
        topics(summary),
        packet_types(summary),
        qos(summary),
        errors(summary),
        faults(summary),
    ];
    if summary.gaps > 0 {
        let missing = summary.missing.unwrap_or_default();
        let events = output::count(missing.events, "event");
        let gaps = output::count(summary.gaps, "gap");
        parts.push(format!(
            "{gaps}: {events} ({}) left out by the recorder, as far as it knows",
            output::bytes(missing.bytes)
        ));
    }
    if summary.unreadable > 0 {
        parts.push(format!("{} that can't be read", output::count(summary.unreadable, "packet")));
    }
    if summary.raw > 0 {
        parts.push(format!("{} that do not parse", output::count(summary.raw, "piece of bytes")));
    }
    if !summary.marks.is_empty() || summary.marks_left_out > 0 {
        let more = more(summary.marks_left_out, "mark");
        parts.push(format!("marks: {}", [summary.marks.join(", "), more].join("\n").trim()));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// Packets over time as a line of bars, and what the highest and a bar are.
fn traffic(summary: &pb::RecordingSummary) -> String {
    let Some(traffic) = &summary.traffic else { return String::new() };
    let most = traffic.packets.iter().copied().max().unwrap_or_default();
    let bar = |packets: &u64| match (*packets, most) {
        (0, _) | (_, 0) => ' ',
        // The lowest bar is more than nothing.
        (packets, most) => BARS[((packets - 1) * BARS.len() as u64 / most) as usize],
    };
    let bars: String = traffic.packets.iter().map(bar).collect();
    let step = duration::show(duration::from_proto(traffic.step.as_ref()));
    format!("traffic  |{bars}|\n         a bar is {step}, the highest {}", output::count(most, "packet"))
}

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Three digits are enough.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "-".to_owned(),
        few if few < 0.01 => "< 0.01".to_owned(),
        few if few < 10.0 => format!("{few:.2}"),
        some if some < 100.0 => format!("{some:.1}"),
        many => format!("{many:.0}"),
    }
}

fn qos(summary: &pb::RecordingSummary) -> String {
    let all: u64 = summary.qos.iter().map(|counts| counts.client_to_server + counts.server_to_client).sum();
    let rows = summary.qos.iter().map(|counts| {
        let both = counts.client_to_server + counts.server_to_client;
        vec![
            counts.qos.to_string(),
            counts.client_to_server.to_string(),
            counts.server_to_client.to_string(),
            format!("{:.0} %", both as f64 * 100.0 / all.max(1) as f64),
        ]
    });
    section(["QOS", "FROM CLIENTS", "TO CLIENTS", "SHARE"], rows, "")
}

fn errors(summary: &pb::RecordingSummary) -> String {
    let rows = summary.errors.iter().map(|error| {
        let name = short(error.r#type().as_str_name(), "PACKET_TYPE_").to_uppercase();
        vec![name, format!("0x{:02x}", error.reason_code), error.reason.clone(), error.count.to_string()]
    });
    section(["ERROR", "CODE", "MEANS", "TIMES"], rows, "")
}

fn clients(summary: &pb::RecordingSummary) -> String {
    let rows = summary.connections.iter().map(|connection| {
        vec![
            connection.number.to_string(),
            connection.client_id.clone().unwrap_or_else(|| "-".to_owned()),
            protocol(connection.protocol()).to_owned(),
            connection.peer.clone(),
            connection.packets.to_string(),
            match connection.close() {
                pb::CloseCause::Unspecified => String::new(),
                cause => short(cause.as_str_name(), "CLOSE_CAUSE_").replace('_', " "),
            },
        ]
    });
    let heading = ["CONNECTION", "CLIENT", "PROTOCOL", "PEER", "PACKETS", "ENDED BY"];
    section(heading, rows, &more(summary.connections_left_out, "connection"))
}

fn topics(summary: &pb::RecordingSummary) -> String {
    let rows = summary.topics.iter().map(|topic| {
        vec![
            topic.topic.clone(),
            topic.client_to_server.to_string(),
            topic.server_to_client.to_string(),
            rate(topic.messages_per_second),
            output::bytes(topic.payload_bytes),
            output::bytes(topic.payload_bytes / (topic.client_to_server + topic.server_to_client).max(1)),
            topic.qos_max.to_string(),
            topic.retained.to_string(),
        ]
    });
    let untold = match summary.untold_messages {
        0 => String::new(),
        untold => format!("and {} of further topics", output::count(untold, "message")),
    };
    let rest = [more(summary.topics_left_out, "topic"), untold].join("\n");
    let heading =
        ["TOPIC", "FROM CLIENTS", "TO CLIENTS", "PER SECOND", "PAYLOAD", "EACH", "QOS UP TO", "RETAIN"];
    section(heading, rows, rest.trim())
}

fn packet_types(summary: &pb::RecordingSummary) -> String {
    let mut rows: Vec<_> = summary
        .packet_types
        .iter()
        .map(|counts| {
            let name = short(counts.r#type().as_str_name(), "PACKET_TYPE_").to_uppercase();
            vec![name, counts.client_to_server.to_string(), counts.server_to_client.to_string()]
        })
        .collect();
    rows.sort_unstable();
    section(["PACKET", "FROM CLIENTS", "TO CLIENTS"], rows.into_iter(), "")
}

fn faults(summary: &pb::RecordingSummary) -> String {
    let rows = summary.faults.iter().map(|counts| {
        vec![counts.action.clone(), counts.client_to_server.to_string(), counts.server_to_client.to_string()]
    });
    section(["FAULT", "FROM CLIENTS", "TO CLIENTS"], rows, &more(summary.faults_left_out, "fault"))
}

/// A table and the lines below it; empty without rows and lines.
fn section<const N: usize>(
    heading: [&str; N],
    rows: impl Iterator<Item = Vec<String>>,
    below: &str,
) -> String {
    let mut table = vec![heading.map(str::to_owned).to_vec()];
    table.extend(rows);
    let table = if table.len() == 1 { String::new() } else { output::table(&table) };
    [table.as_str(), below].join("\n").trim_matches('\n').to_owned()
}

/// What a list had no room for; empty for nothing.
fn more(number: u64, noun: &str) -> String {
    if number == 0 { String::new() } else { format!("and {} more", output::count(number, noun)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> pb::RecordingSummary {
        pb::RecordingSummary {
            connections: vec![pb::ConnectionSummary {
                number: 1,
                client_id: Some("dev-1".into()),
                peer: "127.0.0.1:5000".into(),
                protocol: pb::ProtocolVersion::V50.into(),
                packets: 2,
                close: pb::CloseCause::ClientFin.into(),
            }],
            topics: vec![pb::TopicSummary {
                topic: "a/b".into(),
                client_to_server: 2,
                payload_bytes: 4,
                qos_max: 1,
                ..Default::default()
            }],
            packet_types: vec![pb::PacketTypeSummary {
                r#type: pb::PacketType::Publish.into(),
                client_to_server: 2,
                server_to_client: 0,
            }],
            qos: vec![
                pb::QosSummary { qos: 0, client_to_server: 1, server_to_client: 0 },
                pb::QosSummary { qos: 1, client_to_server: 2, server_to_client: 0 },
            ],
            errors: vec![pb::ErrorSummary {
                r#type: pb::PacketType::Suback.into(),
                reason_code: 0x87,
                reason: "not authorized".into(),
                count: 3,
            }],
            traffic: Some(pb::TrafficSummary {
                start: None,
                step: Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }),
                packets: vec![0, 1, 100, 50, 0, 0, 12, 13, 14, 99, 0],
            }),
            faults: vec![pb::FaultSummary {
                action: "latency".into(),
                client_to_server: 0,
                server_to_client: 3,
            }],
            ..Default::default()
        }
    }

    #[test]
    fn clients_topics_packet_types_and_faults_are_tables() {
        expect_test::expect![[r#"
            traffic  | ▁█▄  ▁▁▂█ |
                     a bar is 250.0 ms, the highest 100 packets

            CONNECTION  CLIENT  PROTOCOL  PEER            PACKETS  ENDED BY
            1           dev-1   5.0       127.0.0.1:5000  2        client fin

            TOPIC  FROM CLIENTS  TO CLIENTS  PER SECOND  PAYLOAD  EACH  QOS UP TO  RETAIN
            a/b    2             0           -           4 B      2 B   1          0

            PACKET   FROM CLIENTS  TO CLIENTS
            PUBLISH  2             0

            QOS  FROM CLIENTS  TO CLIENTS  SHARE
            0    1             0           33 %
            1    2             0           67 %

            ERROR   CODE  MEANS           TIMES
            SUBACK  0x87  not authorized  3

            FAULT    FROM CLIENTS  TO CLIENTS
            latency  0             3
        "#]]
        .assert_eq(&format!("{}\n", text(&summary())));
    }

    #[test]
    fn what_found_no_room_is_said() {
        let summary = pb::RecordingSummary {
            connections_left_out: 1,
            topics_left_out: 2,
            untold_messages: 30,
            packet_types: Vec::new(),
            faults: Vec::new(),
            errors: Vec::new(),
            qos: Vec::new(),
            traffic: None,
            gaps: 2,
            missing: Some(pb::CaptureGap { events: 7, bytes: 4096 }),
            unreadable: 1,
            faults_left_out: 5,
            raw: 1832,
            marks: vec!["half".into(), "end".into()],
            marks_left_out: 4,
            ..summary()
        };
        expect_test::expect![[r#"
            CONNECTION  CLIENT  PROTOCOL  PEER            PACKETS  ENDED BY
            1           dev-1   5.0       127.0.0.1:5000  2        client fin
            and 1 connection more

            TOPIC  FROM CLIENTS  TO CLIENTS  PER SECOND  PAYLOAD  EACH  QOS UP TO  RETAIN
            a/b    2             0           -           4 B      2 B   1          0
            and 2 topics more
            and 30 messages of further topics

            and 5 faults more

            2 gaps: 7 events (4.0 KiB) left out by the recorder, as far as it knows

            1 packet that can't be read

            1832 pieces of bytes that do not parse

            marks: half, end
            and 4 marks more
        "#]]
        .assert_eq(&format!("{}\n", text(&summary)));
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(text(&pb::RecordingSummary::default()), "");
    }
}
