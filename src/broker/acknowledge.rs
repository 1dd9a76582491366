//! PUBACK, PUBREC, PUBREL and PUBCOMP from clients, and sending what is not a PUBLISH.

use std::{sync::Arc, time::Instant};

use crate::{
    packet::{ControlPacket, PacketIdentifier, PacketType, PlainAck, Properties, ReasonCode},
    session::{Acknowledged, ConnectionId, State, StoredMessage},
};

use super::{Broker, Output};

impl Broker {
    /// As [`handle_packet`](Self::handle_packet) for an acknowledgement that says just Success.
    #[inline]
    pub fn handle_plain_ack(&mut self, now: Instant, from: ConnectionId, ack: PlainAck) {
        let Some(index) = self.find_connection(from) else { return };
        let State::Connected(session) = self.connections[index as usize].state else {
            return self.handle_packet(now, from, ack.into());
        };
        let PlainAck { packet, packet_identifier } = ack;
        self.stats.packets_received += 1;
        if !self.hear(now, index) {
            return;
        }
        match packet {
            PacketType::Pubrec => self.handle_pubrec(now, index, session, packet_identifier, false),
            PacketType::Pubrel => self.handle_pubrel(now, index, session, packet_identifier),
            PacketType::Pubcomp => self.handle_pubcomp(now, index, session, packet_identifier),
            _ => self.handle_puback(now, index, session, packet_identifier),
        }
    }

    #[inline]
    pub(super) fn handle_puback(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        identifier: PacketIdentifier,
    ) {
        let inflight = self.sessions[session as usize].inflight.changed();
        let done = inflight.map_or(Acknowledged::Unknown, |inflight| inflight.puback(identifier));
        self.completed(now, index, session, done);
    }

    /// `refused`: the client answered with a Reason Code of 0x80 or greater.
    pub(super) fn handle_pubrec(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        identifier: PacketIdentifier,
        refused: bool,
    ) {
        let inflight = self.sessions[session as usize].inflight.changed();
        match inflight.map_or(Acknowledged::Unknown, |inflight| inflight.pubrec(identifier, refused)) {
            Acknowledged::Released { message, record, serial, order } => {
                let number = self.sessions[session as usize].number;
                if let Some(journal) = self.journal.as_deref_mut().filter(|_| number != 0 && record != 0) {
                    let place = (serial, order);
                    journal.release_delivery(now, number, record, place, &mut self.outputs);
                }
                self.spare(message);
                self.send_pubrel(now, index, identifier, ReasonCode::SUCCESS);
            }
            // Lets the client finish what we no longer know of.
            Acknowledged::Unknown if !refused => {
                self.send_pubrel(now, index, identifier, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
            }
            other => self.completed(now, index, session, other),
        }
    }

    pub(super) fn handle_pubcomp(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        identifier: PacketIdentifier,
    ) {
        let inflight = self.sessions[session as usize].inflight.changed();
        let done = inflight.map_or(Acknowledged::Unknown, |inflight| inflight.pubcomp(identifier));
        self.completed(now, index, session, done);
    }

    pub(super) fn handle_pubrel(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        identifier: PacketIdentifier,
    ) {
        let state = &mut self.sessions[session as usize];
        let was_there = state.received.contains(identifier);
        if let Some(journal) = self.journal.as_deref_mut().filter(|_| was_there && state.number != 0) {
            journal.release(now, state.number, identifier.get(), &mut self.outputs);
        }
        let received = state.received.changed();
        let reason = if received.is_some_and(|received| received.release(identifier)) {
            let connection = &mut self.connections[index as usize];
            connection.receiving = connection.receiving.saturating_sub(1);
            ReasonCode::SUCCESS
        } else if state.is_restored {
            // Its PUBCOMP may have been lost with the process before.
            ReasonCode::SUCCESS
        } else {
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
        };
        self.hold_completion(index, session);
        self.send_short(now, index, 0x70, identifier, reason);
    }

    pub(super) fn send_pubrel(
        &mut self,
        now: Instant,
        index: u32,
        identifier: PacketIdentifier,
        reason: ReasonCode,
    ) {
        self.send_short(now, index, 0x62, identifier, reason);
    }

    /// Sends an acknowledgement whose Reason Code only MQTT 5 knows.
    fn send_short(
        &mut self,
        now: Instant,
        index: u32,
        first: u8,
        identifier: PacketIdentifier,
        reason: ReasonCode,
    ) {
        let reason = if self.connections[index as usize].is_v5() { reason } else { ReasonCode::SUCCESS };
        self.send_ack(now, index, first, identifier, reason, None);
    }

    /// Goes on after an acknowledgement that asks for no answer.
    #[inline]
    fn completed(&mut self, now: Instant, index: u32, session: u32, done: Acknowledged) {
        match done {
            Acknowledged::Completed { freed, message, record } => {
                self.end_delivery(now, session, record);
                self.spare(message);
                let connection = &mut self.connections[index as usize];
                connection.send_used -= u16::from(freed);
                if !self.sessions[session as usize].is_caught_up() {
                    self.pump(now, session);
                }
            }
            Acknowledged::OutOfTurn => {
                let text = "an acknowledgement that the exchange does not wait for";
                self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
            }
            // Left over from a Session that one side has lost; harmless.
            Acknowledged::Unknown | Acknowledged::Released { .. } => {}
        }
    }

    #[inline]
    fn spare(&mut self, message: Option<Arc<StoredMessage>>) {
        if let Some(message) = message {
            self.fan_out.spares.give_back(message);
        }
    }

    /// Appends bytes of ours to the outbox of a connection.
    pub(super) fn send_bytes(&mut self, index: u32, bytes: &[u8]) {
        let connection = &mut self.connections[index as usize];
        if bytes.len() > connection.packet_size_maximum {
            return;
        }
        if connection.outbox.is_empty() {
            self.outputs.push_back(Output::Flush(connection.id));
        }
        connection.outbox.extend(bytes);
        self.stats.packets_sent += 1;
    }

    /// Sends `packet`, without its properties if the client takes no packet of that size
    /// [MQTT-3.1.2-24], [MQTT-3.14.2-3], [MQTT-3.2.2-19]; whether it was sent.
    pub(super) fn send(&mut self, index: u32, mut packet: ControlPacket) -> bool {
        let connection = &mut self.connections[index as usize];
        if packet.encoded_len(connection.protocol) > connection.packet_size_maximum {
            match &mut packet {
                ControlPacket::Puback(ack) | ControlPacket::Pubrec(ack) => ack.properties = Properties::new(),
                ControlPacket::Disconnect(disconnect) => disconnect.properties = Properties::new(),
                // One that accepts says what the client has to know.
                ControlPacket::Connack(connack) if connack.reason_code.is_error() => {
                    connack.properties = Properties::new();
                }
                _ => return false,
            }
            if packet.encoded_len(connection.protocol) > connection.packet_size_maximum {
                return false;
            }
        }
        let (protocol, was_empty) = (connection.protocol, connection.outbox.is_empty());
        if connection.outbox.append(|buffer| packet.encode(protocol, buffer)).is_err() {
            return false;
        }
        if was_empty {
            self.outputs.push_back(Output::Flush(connection.id));
        }
        self.stats.packets_sent += 1;
        true
    }
}
