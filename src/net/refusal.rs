//! Turning a client away in its own protocol version.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::{io::AsyncReadExt, net::TcpStream, task::spawn_local, time::timeout};
use tracing::debug;

use super::{
    admission::Refused,
    transport::{LINGER, ReadHalf, Transport},
};
use crate::{
    metrics::Metrics,
    packet::{Connack, Connect, ControlPacket, Frame, FrameReader, Properties, ProtocolVersion, ReasonCode},
    recording::Direction,
};

/// Clients send CONNECT at once; one that does not is not worth a socket.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Larger than any CONNECT of a client that means well: five fields of 64 KiB at the very most.
const CONNECT_SIZE_MAX: usize = 512 << 10;

/// Turns a connection away that was not admitted: tells the client why, or closes without a word.
pub(super) fn turn_away(metrics: &Metrics, stream: TcpStream, peer: SocketAddr, refused: Refused) {
    metrics.connection_refused();
    let Refused { reason, telling } = refused;
    debug!(%peer, reason = reason.name(), "a connection is refused");
    if let Some(telling) = telling {
        spawn_local(async move {
            let _telling = telling;
            refuse(stream.into(), reason, |_| {}).await;
        });
    }
}

/// Waits for the client's CONNECT, answers it with `reason` and closes.
///
/// Before MQTT 5 `reason` is sent as return code 3, Server unavailable, unless 3.1.1 has it too.
/// What passes is shown to `seen`; a client that sends no CONNECT in time just loses its connection.
pub(super) async fn refuse(transport: Transport, reason: ReasonCode, mut seen: impl FnMut(Seen)) {
    let (mut read, write) = transport.split();
    let connect = match timeout(CONNECT_WAIT, read_connect(&mut read, &mut seen)).await {
        Ok(Ok(Some(connect))) => connect,
        Ok(Ok(None)) | Ok(Err(_)) | Err(_) => return,
    };
    let reason_code = match connect.protocol {
        ProtocolVersion::V5 => reason,
        ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::SERVER_UNAVAILABLE,
    };
    let connack = ControlPacket::Connack(Connack {
        session_present: false,
        reason_code,
        properties: Properties::new(),
    });
    let Ok(frame) = Frame::encode(connack, connect.protocol) else { return };
    seen(Seen::Bytes { direction: Direction::ServerToClient, is_packet: true, bytes: frame.bytes.clone() });
    // The client may be gone already; then nobody is left to tell.
    let _ = timeout(LINGER, write.write_all(&frame.bytes)).await;
    if write.finish() {
        read.drain().await;
    }
}

/// What [`refuse`] came across.
pub enum Seen {
    Connect(Box<Connect>),
    Bytes { direction: Direction, is_packet: bool, bytes: Bytes },
}

async fn read_connect(half: &mut ReadHalf, seen: &mut impl FnMut(Seen)) -> io::Result<Option<Box<Connect>>> {
    let direction = Direction::ClientToServer;
    let mut reader = FrameReader::new(CONNECT_SIZE_MAX);
    loop {
        match reader.next_frame() {
            Ok(None) => {}
            Ok(Some(Frame { bytes, packet: ControlPacket::Connect(connect) })) => {
                seen(Seen::Connect(connect.clone()));
                seen(Seen::Bytes { direction, is_packet: true, bytes });
                return Ok(Some(connect));
            }
            Ok(Some(Frame { bytes, .. })) => {
                seen(Seen::Bytes { direction, is_packet: false, bytes });
                return Ok(None);
            }
            Err(_) => {
                seen(Seen::Bytes { direction, is_packet: false, bytes: reader.take_rest() });
                return Ok(None);
            }
        }
        if half.read_buf(reader.buffer()).await? == 0 {
            return Ok(None);
        }
    }
}
