//! Messages on their way in: a client's PUBLISH, the control plane's, and what is retained.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use crate::{
    interceptor::{Offered, Publisher, Verdict},
    packet::{
        Ack, ControlPacket, PacketIdentifier, PropertyIdentifier, PropertyValue, ProtocolVersion, Publish,
        PublishRef, QoS, ReasonCode, TopicName,
    },
    session::{
        ApplicationMessage, ConnectionId, MessageRef, Payload, Session, State, StoredMessage, Verbatim,
        encode_forwarded,
    },
    trace::{TraceContext, Traced},
};

use super::{
    Broker, BrokerEvent, Delivered, DropReason, Output, TIMERS_PER_TURN, deliver::Routed,
    disconnect::explain, figures::is_own_topic,
};

/// What a client is told of the rules, which are not its business.
const BY_RULES: &str = "not allowed by the access rules";

/// What a PUBLISH's properties mean to the broker itself.
#[derive(Clone, Copy, Default)]
struct Own {
    expiry: Option<u32>,
    alias: Option<u16>,
    claims_utf8: bool,
    subscription_identifier: bool,
}

impl Own {
    fn note(&mut self, identifier: PropertyIdentifier, value: PropertyValue<'_>) {
        match (identifier, value) {
            (PropertyIdentifier::MESSAGE_EXPIRY_INTERVAL, PropertyValue::FourByte(seconds)) => {
                self.expiry = Some(seconds);
            }
            (PropertyIdentifier::TOPIC_ALIAS, PropertyValue::TwoByte(value)) => self.alias = Some(value),
            (PropertyIdentifier::PAYLOAD_FORMAT_INDICATOR, PropertyValue::Byte(value)) => {
                self.claims_utf8 = value == 1;
            }
            (PropertyIdentifier::SUBSCRIPTION_IDENTIFIER, _) => self.subscription_identifier = true,
            _ => {}
        }
    }

    /// Whether all the properties are forwarded unaltered.
    fn is_nothing(&self) -> bool {
        self.expiry.is_none() && self.alias.is_none() && !self.subscription_identifier
    }
}

/// A client's PUBLISH, wherever its parts lie.
#[derive(Clone, Copy)]
struct Incoming<'a> {
    qos: QoS,
    retain: bool,
    packet_identifier: Option<PacketIdentifier>,
    /// A Topic Name; empty where an alias stands for it.
    topic: &'a str,
    /// Those that are forwarded.
    properties: &'a [u8],
    own: Own,
    payload: Payload<'a>,
    packet: Option<Verbatim<'a>>,
}

impl Broker {
    /// As [`handle_packet`](Self::handle_packet) for a PUBLISH in the bytes that it came in, `frame`.
    /// Its payload is copied to each receiver, so it should be shorter than [`SHARED_PAYLOAD`].
    #[inline]
    pub fn handle_publish_in_place(
        &mut self,
        now: Instant,
        from: ConnectionId,
        publish: &PublishRef<'_>,
        frame: &[u8],
    ) {
        let Some(index) = self.find_connection(from) else { return };
        let state = self.connections[index as usize].state;
        if state == State::Closing {
            return;
        }
        let State::Connected(session) = state else {
            // What is wrong with it is said in one place.
            if let Ok(packet) = ControlPacket::decode_copied(frame, self.connections[index as usize].protocol)
            {
                self.handle_packet(now, from, packet);
            }
            return;
        };
        self.stats.packets_received += 1;
        if !self.hear(now, index) {
            return;
        }
        let mut incoming = Incoming {
            qos: publish.qos,
            retain: publish.retain,
            packet_identifier: publish.packet_identifier,
            topic: publish.topic,
            properties: publish.properties,
            own: Own::default(),
            payload: Payload::Copied(publish.payload),
            packet: None,
        };
        if !publish.properties.is_empty() {
            publish.iter_properties().for_each(|(identifier, value)| incoming.own.note(identifier, value));
            if !incoming.own.is_nothing() {
                let mut properties = BytesMut::new();
                publish.encode_forwarded(&mut properties);
                incoming.properties = &properties;
                return self.handle_incoming(now, index, session, &incoming);
            }
        }
        if !publish.dup {
            incoming.packet = Some(Verbatim {
                bytes: frame,
                v5: self.connections[index as usize].is_v5(),
                identifier_at: publish.identifier_at(frame),
            });
        }
        self.handle_incoming(now, index, session, &incoming);
    }

    pub(super) fn handle_publish(&mut self, now: Instant, index: u32, session: u32, publish: &Publish) {
        let mut own = Own::default();
        for property in &publish.properties {
            own.note(property.identifier(), property.value());
        }
        let mut properties = BytesMut::new();
        encode_forwarded(&publish.properties, &mut properties);
        let incoming = Incoming {
            qos: publish.qos,
            retain: publish.retain,
            packet_identifier: publish.packet_identifier,
            topic: publish.topic.as_ref().map_or("", TopicName::as_str),
            properties: &properties,
            own,
            payload: Payload::of(&publish.payload),
            packet: None,
        };
        self.handle_incoming(now, index, session, &incoming);
    }

    fn handle_incoming(&mut self, now: Instant, index: u32, session: u32, publish: &Incoming<'_>) {
        let own = &publish.own;
        if own.subscription_identifier {
            // [MQTT-3.3.4-6]
            let text = "a subscription identifier in a client's PUBLISH";
            return self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
        }
        if publish.qos > self.limits.maximum_qos {
            return self.fail(now, index, ReasonCode::QOS_NOT_SUPPORTED, None); // [MQTT-3.2.2-11]
        }
        if publish.retain && !self.limits.retain_available {
            return self.fail(now, index, ReasonCode::RETAIN_NOT_SUPPORTED, None); // [MQTT-3.2.2-14]
        }
        let aliased = match own.alias {
            Some(alias) => match self.resolve_alias(index, alias, publish.topic) {
                Ok(topic) => Some(topic),
                Err((reason, text)) => return self.fail(now, index, reason, Some(text)),
            },
            None if publish.topic.is_empty() => {
                let text = "neither a topic nor a topic alias";
                return self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
            }
            None => None,
        };
        if let Some(identifier) = publish.packet_identifier {
            let is_repeated = publish.qos == QoS::ExactlyOnce
                && self.sessions[session as usize].received.contains(identifier);
            if is_repeated {
                // Before PUBREL: acknowledged again, not delivered again [MQTT-4.3.3-10].
                return self.send_pubrec(now, index, identifier, ReasonCode::SUCCESS, None);
            }
            // At QoS 1 only this one waits for its acknowledgement.
            let connection = &self.connections[index as usize];
            if connection.is_v5() && connection.receiving >= self.limits.receive_maximum {
                return self.fail(now, index, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED, None);
            }
        }
        let topic = aliased.as_ref().map_or(publish.topic, TopicName::as_str);
        let message = MessageRef {
            topic: topic.as_bytes(),
            properties: publish.properties,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires_at: own.expiry.map(|seconds| now + Duration::from_secs(seconds.into())),
            packet: publish.packet,
        };
        // Most messages are nothing that there is a rule for.
        let is_special = message.topic.first() == Some(&b'$')
            || publish.retain
            || publish.own.claims_utf8
            || publish.qos == QoS::AtLeastOnce && !self.sessions[session as usize].received.is_empty()
            || !self.access.acl.is_empty()
            || !self.limits.allow_topic(topic);
        if is_special && let Err((reason, text)) = self.judge(session, publish, topic, &message) {
            return self.refuse_publish(now, index, publish, reason, text);
        }
        self.stats.published[publish.qos as usize] += 1;
        self.stats.payload_bytes_received += publish.payload.as_bytes().len() as u64;
        let is_kept = self.interception.is_active()
            && !self.follows(now, session, &message)
            && self.intercept(now, session, topic, &message, own.expiry, false) == Verdict::Intercept;
        // To its publisher it is as if somebody had got it.
        let routed = match is_kept {
            true => Routed { matched: 1, reached: 0 },
            false => self.route(now, &message, Some(session)),
        };
        if self.tracer.is_some() {
            self.trace(now, topic, &message, Some(session), routed);
        }

        let Some(identifier) = publish.packet_identifier else { return };
        let reason = match routed.matched {
            0 if self.connections[index as usize].is_v5() => ReasonCode::NO_MATCHING_SUBSCRIBERS,
            _ => ReasonCode::SUCCESS,
        };
        if publish.qos == QoS::ExactlyOnce {
            self.note_received(now, session, identifier);
            self.connections[index as usize].receiving += 1;
            self.send_pubrec(now, index, identifier, reason, None);
        } else {
            self.send_puback(now, index, identifier, reason, None);
        }
    }

    /// Whether a message is noted as it came, and nobody has to be asked about it.
    #[inline]
    fn follows(&mut self, now: Instant, session: u32, message: &MessageRef<'_>) -> bool {
        message.packet.is_some_and(|Verbatim { bytes, v5, .. }| {
            let client_identifier = &self.sessions[session as usize].client_identifier;
            self.interception.follow(now, bytes, v5, client_identifier)
        })
    }

    /// Asks about a client's message.
    pub(super) fn intercept(
        &mut self,
        now: Instant,
        session: u32,
        topic: &str,
        message: &MessageRef<'_>,
        expiry: Option<u32>,
        is_will: bool,
    ) -> Verdict {
        let Session { client_identifier, username, .. } = &self.sessions[session as usize];
        let offered = Offered {
            topic,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            properties: message.properties,
            expiry,
            from: Publisher::Client { identifier: client_identifier, username: username.as_deref() },
            is_will,
            may_be_kept: true,
        };
        self.interception.ask(now, &offered)
    }

    /// Finds the topic of a PUBLISH and remembers an alias that it sets [section 3.3.2.3.4].
    fn resolve_alias(
        &mut self,
        index: u32,
        alias: u16,
        topic: &str,
    ) -> Result<TopicName, (ReasonCode, &'static str)> {
        // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
        if alias == 0 || alias > self.limits.topic_alias_maximum {
            return Err((ReasonCode::TOPIC_ALIAS_INVALID, "the topic alias is out of range"));
        }
        let connection = &mut self.connections[index as usize];
        if let Ok(topic) = TopicName::parse(topic) {
            connection.set_alias(alias, topic);
        }
        let never = (ReasonCode::PROTOCOL_ERROR, "the topic alias was never set");
        connection.aliased_topic(alias).cloned().ok_or(never)
    }

    /// Whether a message is accepted, apart from the rules whose breach ends the connection.
    fn judge(
        &mut self,
        session: u32,
        publish: &Incoming<'_>,
        topic: &str,
        message: &MessageRef<'_>,
    ) -> Result<(), (ReasonCode, &'static str)> {
        if is_own_topic(message.topic) {
            return Err((ReasonCode::NOT_AUTHORIZED, "only the server publishes below $SYS"));
        }
        if !self.access.acl.is_empty() && !self.may_publish(session, topic) {
            return Err((ReasonCode::NOT_AUTHORIZED, BY_RULES));
        }
        if !self.limits.allow_topic(topic) {
            return Err((ReasonCode::TOPIC_NAME_INVALID, "the topic is longer than topics may be"));
        }
        if publish.own.claims_utf8 && simdutf8::basic::from_utf8(publish.payload.as_bytes()).is_err() {
            return Err((ReasonCode::PAYLOAD_FORMAT_INVALID, "the payload is not UTF-8"));
        }
        let state = &self.sessions[session as usize];
        // Before MQTT 5 nobody could be told, and the message would be lost.
        if let Some(identifier) = publish.packet_identifier
            && publish.qos == QoS::AtLeastOnce
            && state.protocol == ProtocolVersion::V5
            && state.received.contains(identifier)
        {
            return Err((ReasonCode::PACKET_IDENTIFIER_IN_USE, "a QoS 2 message has this identifier"));
        }
        // Where the answer cannot say so, the message is passed on without being kept.
        let is_answered =
            publish.qos != QoS::AtMostOnce && self.sessions[session as usize].protocol == ProtocolVersion::V5;
        if publish.retain && is_answered && !self.has_room_to_retain(message) {
            return Err((ReasonCode::QUOTA_EXCEEDED, "no room for another retained message"));
        }
        Ok(())
    }

    /// Answers a PUBLISH that is not accepted. Before MQTT 5 an acknowledgement cannot say so
    /// [MQTT3-3.3.5-2].
    fn refuse_publish(
        &mut self,
        now: Instant,
        index: u32,
        publish: &Incoming<'_>,
        reason: ReasonCode,
        text: &'static str,
    ) {
        if publish.qos == QoS::AtMostOnce && reason == ReasonCode::PAYLOAD_FORMAT_INVALID {
            // There is no acknowledgement to say it in [section 3.3.2.3.2].
            return self.fail(now, index, reason, Some(text));
        }
        if text != BY_RULES {
            self.report_refused(index, text);
        }
        let Some(identifier) = publish.packet_identifier else { return };
        let v5 = self.connections[index as usize].is_v5();
        match publish.qos {
            QoS::ExactlyOnce if v5 => self.send_pubrec(now, index, identifier, reason, Some(text)),
            QoS::ExactlyOnce => {
                if let State::Connected(session) = self.connections[index as usize].state {
                    self.note_received(now, session, identifier);
                }
                self.send_pubrec(now, index, identifier, ReasonCode::SUCCESS, None);
            }
            _ if v5 => self.send_puback(now, index, identifier, reason, Some(text)),
            _ => self.send_puback(now, index, identifier, ReasonCode::SUCCESS, None),
        }
    }

    /// Remembers a QoS 2 message until it is released.
    fn note_received(&mut self, now: Instant, session: u32, identifier: PacketIdentifier) {
        let session = &mut self.sessions[session as usize];
        session.received.insert(identifier);
        if let Some(journal) = self.journal.as_deref_mut().filter(|_| session.number != 0) {
            journal.receive(now, session.number, identifier.get(), &mut self.outputs);
        }
    }

    fn report_refused(&mut self, index: u32, why: &'static str) {
        if let State::Connected(session) = self.connections[index as usize].state {
            let client_identifier = self.sessions[session as usize].client_identifier.to_string();
            let reason = DropReason::Refused(why);
            self.outputs.push_back(Output::Emit(BrokerEvent::Dropped { client_identifier, reason }));
        }
    }

    pub(super) fn publish_message(&mut self, now: Instant, message: &ApplicationMessage) -> Delivered {
        let mut properties = BytesMut::new();
        encode_forwarded(&message.properties, &mut properties);
        let reference = MessageRef {
            topic: message.topic.as_str().as_bytes(),
            properties: &properties,
            payload: Payload::of(&message.payload),
            qos: message.qos,
            retain: message.retain,
            expires_at: message.expires_at,
            packet: None,
        };
        if self.interception.is_active() {
            let offered = Offered {
                topic: message.topic.as_str(),
                payload: reference.payload,
                qos: message.qos,
                retain: message.retain,
                properties: &properties,
                expiry: message.expires_at.map(|at| at.saturating_duration_since(now).as_secs() as u32),
                from: Publisher::origin(&message.origin),
                is_will: false,
                may_be_kept: true,
            };
            if self.interception.ask(now, &offered) == Verdict::Intercept {
                return Delivered::default();
            }
        }
        let routed = self.route(now, &reference, None);
        if self.tracer.is_some() {
            self.trace(now, message.topic.as_str(), &reference, None, routed);
        }
        Delivered { receivers: routed.reached }
    }

    /// Tells of a message that was routed, if it has a place in a trace.
    #[cold]
    fn trace(
        &mut self,
        now: Instant,
        topic: &str,
        message: &MessageRef<'_>,
        session: Option<u32>,
        routed: Routed,
    ) {
        let Self { tracer: Some(tracer), sessions, .. } = self else { return };
        let Some(context) = TraceContext::of_encoded(message.properties) else { return };
        let client_identifier = session.map_or("", |session| &*sessions[session as usize].client_identifier);
        tracer.routed(&Traced {
            context,
            topic,
            client_identifier,
            qos: message.qos,
            retain: message.retain,
            payload_size: message.payload.as_bytes().len(),
            receivers: Some(routed.reached),
            at: now,
        });
    }

    /// Keeps `message` as its topic's, or with an empty payload removes what was kept
    /// [MQTT-3.3.1-5], [MQTT-3.3.1-6]. One that exceeds the limits is not kept.
    pub(super) fn retain(
        &mut self,
        now: Instant,
        message: &MessageRef<'_>,
        publisher: Option<u32>,
        stored: &mut Option<Arc<StoredMessage>>,
    ) {
        let payload = message.payload.as_bytes();
        if self.figures.owns(message.topic) {
            return;
        }
        if payload.is_empty() {
            let before = self.retained.remove(message.topic);
            self.note_dropped_retained(now, before);
        } else if self.has_room_to_retain(message) {
            let stored = stored.get_or_insert_with(|| Arc::new(message.store()));
            let publisher =
                publisher.map(|session| self.sessions[session as usize].client_identifier.clone());
            let (serial, before) = self.retained.store(stored.clone(), publisher.clone());
            self.note_dropped_retained(now, before);
            if let Some(journal) = self.journal.as_deref_mut() {
                journal.retain(now, serial, stored, publisher, &mut self.outputs);
            }
        } else {
            self.stats.dropped_retained += 1;
        }
        self.set_retained_timer();
    }

    /// Deletes retained messages that have expired, as many as a turn takes.
    pub(super) fn expire_retained(&mut self, now: Instant) {
        for _ in 0..TIMERS_PER_TURN {
            let Some(serial) = self.retained.expire(now) else { break };
            self.stats.dropped_expired += 1;
            self.note_dropped_retained(now, Some(serial));
        }
        self.set_retained_timer();
    }

    /// Forgets what the topics have retained, without a word to anybody; which of them had something.
    pub fn forget_retained(&mut self, now: Instant, topics: Vec<TopicName>) -> Vec<TopicName> {
        let mut forgotten = topics;
        forgotten.retain(|topic| {
            let before = self.retained.remove(topic.as_str().as_bytes());
            self.note_dropped_retained(now, before);
            before.is_some()
        });
        self.set_retained_timer();
        forgotten
    }

    pub(super) fn note_dropped_retained(&mut self, now: Instant, serial: Option<u64>) {
        if let (Some(journal), Some(serial)) = (self.journal.as_deref_mut(), serial) {
            journal.drop_retained(now, serial, &mut self.outputs);
        }
    }

    fn has_room_to_retain(&mut self, message: &MessageRef<'_>) -> bool {
        let size = message.size();
        let has_room = |messages, bytes| {
            messages <= self.limits.retained_messages && bytes <= self.limits.retained_bytes
        };
        // Far from the limits, what it replaces makes no difference.
        if message.payload.as_bytes().is_empty()
            || has_room(self.retained.len() + 1, self.retained.bytes() + size)
        {
            return true;
        }
        let before = self.retained.get(message.topic).map(StoredMessage::size);
        has_room(
            self.retained.len() + usize::from(before.is_none()),
            self.retained.bytes() - before.unwrap_or(0) + size,
        )
    }

    pub(super) fn send_puback(
        &mut self,
        now: Instant,
        index: u32,
        identifier: PacketIdentifier,
        reason: ReasonCode,
        text: Option<&str>,
    ) {
        if let Some(ack) = self.send_ack(now, index, 0x40, identifier, reason, text) {
            self.send(index, ControlPacket::Puback(ack));
        }
    }

    pub(super) fn send_pubrec(
        &mut self,
        now: Instant,
        index: u32,
        identifier: PacketIdentifier,
        reason: ReasonCode,
        text: Option<&str>,
    ) {
        if let Some(ack) = self.send_ack(now, index, 0x50, identifier, reason, text) {
            self.send(index, ControlPacket::Pubrec(ack));
        }
    }

    /// Sends an acknowledgement in its short form, or returns the one with a Reason String.
    pub(super) fn send_ack(
        &mut self,
        now: Instant,
        index: u32,
        first: u8,
        packet_identifier: PacketIdentifier,
        reason_code: ReasonCode,
        text: Option<&str>,
    ) -> Option<Ack> {
        self.hold_answer(now, index);
        if let Some(text) = text.filter(|_| self.connections[index as usize].problem_information) {
            return Some(Ack { packet_identifier, reason_code, properties: explain(Some(text)) });
        }
        let [high, low] = packet_identifier.get().to_be_bytes();
        match reason_code {
            ReasonCode::SUCCESS => self.send_bytes(index, &[first, 2, high, low]),
            ReasonCode(code) => self.send_bytes(index, &[first, 3, high, low, code]),
        }
        None
    }
}
