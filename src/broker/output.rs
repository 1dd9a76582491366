//! What comes out of the broker: work for the shell, and events.

use std::{net::IpAddr, sync::Arc};

use crate::{
    auth::{Action, PasswordCheck},
    packet::{ProtocolVersion, QoS, ReasonCode},
    session::ConnectionId,
};

/// What the shell has to do, in the order it was produced.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// The connection's outbox holds bytes to write. Said once until the outbox is empty again.
    Flush(ConnectionId),
    /// Write what the outbox holds, then close. The shell calls `handle_close` afterwards.
    Close(ConnectionId, Closing),
    /// Have the password checked where that may take long, and say what came of it by
    /// [`handle_checked`](super::Broker::handle_checked). Until then packets that follow the CONNECT wait.
    Check { connection: ConnectionId, address: Option<IpAddr>, check: PasswordCheck },
    /// There are changes to be made durable: [`take_batch`](super::Broker::take_batch). Said once for each
    /// batch, and again when the first client waits for it.
    Persist { is_awaited: bool },
    /// Something an operator may want to see.
    Emit(BrokerEvent),
}

/// Why the broker closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The client sent DISCONNECT.
    ClientDisconnected,
    /// The broker's own decision, with the code an MQTT 5 client was told.
    Refused(ReasonCode),
}

#[derive(Clone, Debug, PartialEq)]
pub enum BrokerEvent {
    ClientConnected {
        connection: ConnectionId,
        client_identifier: String,
        username: Option<Box<str>>,
        protocol: ProtocolVersion,
        session_present: bool,
    },
    ClientDisconnected {
        connection: ConnectionId,
        client_identifier: String,
        /// `None` when the connection was lost: nobody said DISCONNECT, and we did not end it.
        reason: Option<ReasonCode>,
    },
    /// A client was not let in.
    Refused {
        connection: ConnectionId,
        client_identifier: String,
        username: Option<String>,
        reason: ReasonCode,
    },
    /// A client may not do what it wanted to; of messages to one topic, the first of a run.
    NotAuthorized {
        client_identifier: Arc<str>,
        username: Option<Box<str>>,
        action: Action,
        /// A Topic Name, or a Topic Filter.
        topic: String,
        /// The position of the rule that says so; `None`: no rule allows it.
        rule: Option<usize>,
    },
    Subscribed {
        connection: ConnectionId,
        client_identifier: Arc<str>,
        filter: String,
        qos: QoS,
    },
    Unsubscribed {
        connection: ConnectionId,
        filter: String,
    },
    /// A message did not reach `client_identifier`, or was not taken from it.
    Dropped {
        client_identifier: String,
        reason: DropReason,
    },
}

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The first of a run: what follows is not told until there was room again.
    QueueFull,
    /// Larger than the client's Maximum Packet Size.
    TooLarge,
    /// Not accepted from its publisher, with why.
    Refused(&'static str),
}

impl DropReason {
    /// As the API says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::Refused(why) => why,
        }
    }
}
