//! How connections and Sessions end.

use std::time::{Duration, Instant};

use crate::{
    packet::{
        ControlPacket, DecodeError, Disconnect, PacketType, Properties, Property, ProtocolVersion, QoS,
        ReasonCode, Utf8String,
    },
    session::{Inflight, NEVER, Standing, State},
};

use super::{Broker, BrokerEvent, Closing, Output, Timer};

/// The Reason Codes of a DISCONNECT that a client may send [MQTT-3.14.2-1]; the others are a server's.
const CLIENTS_REASONS: [ReasonCode; 14] = [
    ReasonCode::SUCCESS,
    ReasonCode::DISCONNECT_WITH_WILL,
    ReasonCode::UNSPECIFIED_ERROR,
    ReasonCode::MALFORMED_PACKET,
    ReasonCode::PROTOCOL_ERROR,
    ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
    ReasonCode::TOPIC_NAME_INVALID,
    ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
    ReasonCode::TOPIC_ALIAS_INVALID,
    ReasonCode::PACKET_TOO_LARGE,
    ReasonCode::MESSAGE_RATE_TOO_HIGH,
    ReasonCode::QUOTA_EXCEEDED,
    ReasonCode::ADMINISTRATIVE_ACTION,
    ReasonCode::PAYLOAD_FORMAT_INVALID,
];

/// What becomes of the Will of a connection that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WillFate {
    /// Published, after its delay unless the Session ends before [MQTT-3.1.2-8].
    Publish,
    /// Deleted [MQTT-3.1.2-10].
    Discard,
}

impl Broker {
    pub(super) fn handle_disconnect(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        disconnect: Disconnect,
    ) {
        let is_servers = disconnect.properties.server_reference().is_some();
        if is_servers || !CLIENTS_REASONS.contains(&disconnect.reason_code) {
            let text = "that is for servers to say";
            return self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
        }
        let expiry = disconnect.properties.iter().find_map(|property| match property {
            Property::SessionExpiryInterval(seconds) => Some(*seconds),
            _ => None,
        });
        let state = &mut self.sessions[session as usize];
        if let Some(seconds) = expiry {
            if state.expiry == 0 && seconds != 0 {
                // [section 3.14.2.2.2] A Session that was to end with its connection cannot be kept.
                let text = "the session expiry interval was 0";
                return self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
            }
            state.expiry = seconds.min(self.limits.session_expiry_max);
        }
        let fate = match disconnect.reason_code {
            ReasonCode::SUCCESS => WillFate::Discard,
            _ => WillFate::Publish,
        };
        self.detach(now, index, session, Some(disconnect.reason_code), fate);
        self.close(index, Closing::ClientDisconnected);
    }

    /// The client broke a rule: tells it which, if its protocol can, and closes [MQTT-4.13.1-1].
    pub(super) fn fail(&mut self, now: Instant, index: u32, reason: ReasonCode, text: Option<&str>) {
        match self.connections[index as usize].state {
            State::Connected(session) => {
                self.disconnect_client(now, index, session, reason, text, WillFate::Publish);
            }
            State::AwaitingConnect | State::Authenticating | State::Checking => {
                self.close(index, Closing::Refused(reason))
            }
            State::Closing => {}
        }
    }

    pub(super) fn disconnect_client(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        reason: ReasonCode,
        text: Option<&str>,
        fate: WillFate,
    ) {
        self.say_goodbye(index, reason, text);
        self.detach(now, index, session, Some(reason), fate);
    }

    /// Has a connection closed whose Session is still to be parted from it.
    pub(super) fn say_goodbye(&mut self, index: u32, reason: ReasonCode, text: Option<&str>) {
        // A server sends DISCONNECT in MQTT 5 only.
        if self.connections[index as usize].protocol == ProtocolVersion::V5 {
            let disconnect = Disconnect { reason_code: reason, properties: explain(text) };
            self.send(index, ControlPacket::Disconnect(disconnect));
        }
        self.close(index, Closing::Refused(reason));
    }

    /// Reads nothing more from the connection and has the shell close it.
    pub(super) fn close(&mut self, index: u32, closing: Closing) {
        self.set_connection_timer(index, None);
        let connection = &mut self.connections[index as usize];
        connection.state = State::Closing;
        self.outputs.push_back(Output::Close(connection.id, closing));
    }

    /// Parts a Session from its connection, and ends it if it does not outlive that.
    pub(super) fn detach(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        reason: Option<ReasonCode>,
        fate: WillFate,
    ) {
        self.set_connection_timer(index, None);
        self.connected -= 1;
        let connection = &mut self.connections[index as usize];
        connection.state = State::Closing;
        let id = connection.id;
        let state = &mut self.sessions[session as usize];
        state.connection = None;
        if state.standing == Standing::Claimed {
            // Anybody can say any name: it says nothing of whose Session this is.
            state.username = None;
        }
        if let Some(resend) = state.resend.changed() {
            resend.clear();
        }
        self.outputs.push_back(Output::Emit(BrokerEvent::ClientDisconnected {
            connection: id,
            client_identifier: state.client_identifier.to_string(),
            reason,
        }));
        if fate == WillFate::Discard {
            state.will = None;
        }
        if state.expiry == 0 {
            return self.end_session(now, session);
        }
        self.touch(now, session);
        let state = &mut self.sessions[session as usize];
        if state.expiry != NEVER {
            let ends_at = now + Duration::from_secs(state.expiry.into());
            self.timers.set(&mut state.ends_at, Some(ends_at), Timer::SessionExpiry(session));
        }
        match state.will.as_ref().map(|will| will.delay) {
            Some(Duration::ZERO) => self.publish_will_of(now, session),
            Some(delay) => self.timers.set(&mut state.will_at, Some(now + delay), Timer::WillDelay(session)),
            None => {}
        }
    }

    /// Forgets a Session that has no connection; a Will still waiting is published now
    /// [MQTT-3.1.2-8].
    pub(super) fn end_session(&mut self, now: Instant, index: u32) {
        self.forget(now, index);
        let state = &mut self.sessions[index as usize];
        self.timers.set(&mut state.ends_at, None, Timer::SessionExpiry(index));
        self.timers.set(&mut state.will_at, None, Timer::WillDelay(index));
        self.timers.set(&mut state.scan_at, None, Timer::RetainedScan(index));
        let mut keys: Vec<_> = state.subscriptions.keys().copied().collect();
        // In the order of the tree, so that the same run always does the same.
        keys.sort_unstable();
        for key in keys {
            self.remove_subscription(now, index, key);
        }
        self.publish_will_of(now, index);
        let mut session = self.sessions.remove(index as usize);
        self.by_client.remove(&session.client_identifier);
        self.permissions.remove(&index);
        // Shared subscriptions pass on what this member did not get; a QoS 2 message that was sent
        // stays with it [MQTT-4.8.2-5].
        let sent = session.inflight.changed().map(Inflight::take_published).into_iter().flatten();
        let sent = sent.filter(|delivery| delivery.qos == QoS::AtLeastOnce);
        let queued = std::iter::from_fn(|| session.queue.changed()?.pop());
        for delivery in sent.chain(queued).filter(|delivery| delivery.share.is_some()) {
            self.hand_on(now, delivery);
        }
    }
}

/// The Reason Code for `error`, if all of `packets` may carry it: a CONNECT, for one, is refused for
/// its version only where it comes first.
pub(super) fn reason_in(packets: &[PacketType], error: &DecodeError) -> ReasonCode {
    let code = error.reason_code();
    let is_sayable = packets.iter().all(|&packet| code.is_allowed_in(packet));
    if is_sayable { code } else { ReasonCode::PROTOCOL_ERROR }
}

/// A Reason String, for packets that may always carry one.
pub(super) fn explain(text: Option<&str>) -> Properties {
    let mut properties = Properties::new();
    if let Some(text) = text.and_then(Utf8String::new) {
        properties.push(Property::ReasonString(text));
    }
    properties
}
