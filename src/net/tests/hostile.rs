//! Every row of the packet table that is refused, from a client's socket.

use super::*;
use crate::packet::{
    PacketType, ReasonCode,
    tests::{Row, rows},
};

/// The code that a packet of this type says for a row's: its own, where it can.
fn code_in(packet: PacketType, expected: &str) -> ReasonCode {
    let code = expected.strip_prefix("0x").and_then(|text| text.get(..2)).expect(expected);
    let code = ReasonCode(u8::from_str_radix(code, 16).expect(expected));
    if code.is_allowed_in(packet) { code } else { ReasonCode::PROTOCOL_ERROR }
}

/// Sends what the row has; the reason that was heard before the end, if any.
async fn play(broker: &TestBroker, row: &Row) -> Option<ReasonCode> {
    let mut raw = match is_connect(row) {
        true => broker.raw().await,
        false => Raw::login(broker.address, "hostile", row.protocol).await,
    };
    raw.write(&row.bytes).await;
    // Part of a packet is no error before its end.
    raw.stream.shutdown().await.expect("a socket");
    match raw.read_to_end().await.as_slice() {
        [] => None,
        // A CONNACK of the versions before 5.
        [0x20, 2, 0, code] => ReasonCode::from_return_code(*code),
        [0x20, _, 0, code, ..] | [0xE0, _, code, ..] => Some(ReasonCode(*code)),
        other => panic!("line {}: {other:02x?}", row.line),
    }
}

fn is_connect(row: &Row) -> bool {
    row.bytes[0] >> 4 == PacketType::Connect as u8
}

/// What should be heard.
fn wanted(row: &Row, expected: &str) -> Option<ReasonCode> {
    let of_connect = code_in(PacketType::Connack, expected);
    match (row.protocol, is_connect(row)) {
        // In which version, nobody knows.
        _ if expected.contains("protocol name") || expected.contains("protocol version runs") => None,
        (ProtocolVersion::V5, true) => Some(of_connect),
        (ProtocolVersion::V5, false) => Some(code_in(PacketType::Disconnect, expected)),
        // Only one error of a CONNECT has a return code.
        (_, true) => Some(of_connect).filter(|code| *code == ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (_, false) => None,
    }
}

#[tokio::test] // [MQTT-4.13.1-1], [MQTT3-4.8.0-1]
async fn what_is_refused_is_answered_with_its_reason_and_the_next_client_is_served() {
    let broker = TestBroker::new();
    let witness = broker.client("witness", ProtocolVersion::V311).await;
    let (mut count, mut wrong) = (0, Vec::new());
    for row in rows() {
        let Err(expected) = row.expected else { continue };
        count += 1;
        let heard = play(&broker, &row).await;
        let wanted = wanted(&row, expected);
        if heard != wanted {
            wrong.push(format!("line {}: {heard:?}, not {wanted:?}", row.line));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 300, "{count} rows are refused");
    soon(witness.subscribe(filters("t", QoS::AtMostOnce), Properties::new())).await.expect("still served");
}
