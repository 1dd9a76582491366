//! What is in a recording, as `recordings show` prints it: clients, topics, packet types, faults.

use super::{
    broker::protocol,
    output::{self, short},
};
use crate::control::pb;

/// For people, without a last line's end.
pub fn text(summary: &pb::RecordingSummary) -> String {
    let mut parts = vec![clients(summary), topics(summary), packet_types(summary), faults(summary)];
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
            output::bytes(topic.payload_bytes),
            topic.qos_max.to_string(),
            topic.retained.to_string(),
        ]
    });
    let untold = match summary.untold_messages {
        0 => String::new(),
        untold => format!("and {} of further topics", output::count(untold, "message")),
    };
    let rest = [more(summary.topics_left_out, "topic"), untold].join("\n");
    section(["TOPIC", "FROM CLIENTS", "TO CLIENTS", "PAYLOAD", "QOS UP TO", "RETAIN"], rows, rest.trim())
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
            CONNECTION  CLIENT  PROTOCOL  PEER            PACKETS  ENDED BY
            1           dev-1   5.0       127.0.0.1:5000  2        client fin

            TOPIC  FROM CLIENTS  TO CLIENTS  PAYLOAD  QOS UP TO  RETAIN
            a/b    2             0           4 B      1          0

            PACKET   FROM CLIENTS  TO CLIENTS
            PUBLISH  2             0

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
            faults_left_out: 5,
            raw: 1,
            marks: vec!["half".into(), "end".into()],
            marks_left_out: 4,
            ..summary()
        };
        expect_test::expect![[r#"
            CONNECTION  CLIENT  PROTOCOL  PEER            PACKETS  ENDED BY
            1           dev-1   5.0       127.0.0.1:5000  2        client fin
            and 1 connection more

            TOPIC  FROM CLIENTS  TO CLIENTS  PAYLOAD  QOS UP TO  RETAIN
            a/b    2             0           4 B      1          0
            and 2 topics more
            and 30 messages of further topics

            and 5 faults more

            1 piece of bytes that do not parse

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
