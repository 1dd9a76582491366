//! CONNECT [section 3.1]: checks, take-over, Clean Start, CONNACK.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    packet::{
        Connack, Connect, ControlPacket, DecodeError, PacketType, Properties, Property, ProtocolVersion, QoS,
        ReasonCode, Utf8String,
    },
    session::{Inflight, Session, Standing, State},
};

use super::{
    Broker, BrokerEvent, Closing, Limits, Output, Timer,
    disconnect::{WillFate, explain, reason_in},
    figures::is_own_topic,
    will,
};

/// What no packet can exceed: a fixed header of five bytes and the largest Remaining Length.
const LARGEST_PACKET: usize = 5 + 268_435_455;

/// What a CONNECT's properties ask for.
struct Asked {
    session_expiry: u32,
    receive_maximum: u16,
    maximum_packet_size: Option<u32>,
    topic_alias_maximum: u16,
    response_information: bool,
    problem_information: bool,
}

impl Asked {
    fn by(connect: &Connect, session_expiry_max: u32) -> Self {
        let mut asked = Self {
            session_expiry: 0,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            response_information: false,
            problem_information: true,
        };
        if connect.protocol < ProtocolVersion::V5 {
            // Clean Session 0 keeps the state until a Clean Session 1 [MQTT3-3.1.2-4].
            asked.session_expiry = if connect.clean_start { 0 } else { session_expiry_max };
            return asked;
        }
        for property in connect.properties.iter() {
            match property {
                Property::SessionExpiryInterval(seconds) => asked.session_expiry = *seconds,
                Property::ReceiveMaximum(value) => asked.receive_maximum = *value,
                Property::MaximumPacketSize(value) => asked.maximum_packet_size = Some(*value),
                Property::TopicAliasMaximum(value) => asked.topic_alias_maximum = *value,
                Property::RequestResponseInformation(value) => asked.response_information = *value,
                Property::RequestProblemInformation(value) => asked.problem_information = *value,
                _ => {}
            }
        }
        asked
    }
}

/// What a client is told beside the limits.
struct Granted {
    session_present: bool,
    /// Whether it was given its client identifier.
    assigned: bool,
    proof: Option<(Utf8String, Bytes)>,
}

impl Broker {
    pub(super) fn connect(&mut self, now: Instant, index: u32, connect: Connect) {
        let asked = Asked::by(&connect, self.limits.session_expiry_max);
        let connection = &mut self.connections[index as usize];
        connection.protocol = connect.protocol;
        connection.packet_size_maximum = asked.maximum_packet_size.map_or(usize::MAX, |size| size as usize);
        if let Some(reason) = refusal(&connect, &self.limits) {
            return self.refuse(index, reason);
        }
        match self.supports_method_of(&connect) {
            None => self.log_in(now, index, connect),
            Some(true) => self.begin_authentication(now, index, connect),
            // [MQTT-4.12.0-1]
            Some(false) => self.refuse(index, ReasonCode::BAD_AUTHENTICATION_METHOD),
        }
    }

    /// Lets a client in that has the right to; `proof` is the method it authenticated with, and what
    /// proves to it that we know it.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        index: u32,
        mut connect: Connect,
        standing: Standing,
        proof: Option<(Utf8String, Bytes)>,
    ) {
        if let Some(journal) = &mut self.journal {
            journal.begin_packet();
        }
        let asked = Asked::by(&connect, self.limits.session_expiry_max);
        let assigned = connect.client_identifier.is_empty();
        if assigned {
            connect.client_identifier = self.assign_client_identifier();
        }
        let existing = self.by_client.get(connect.client_identifier.as_str()).copied();
        let user =
            connect.username.as_ref().filter(|_| standing != Standing::Claimed).map(Utf8String::as_str);
        let owner = existing.map(|session| &self.sessions[session as usize]);
        let is_anothers = owner.is_some_and(|owner| owner.proven_user() != user);
        if is_anothers && owner.is_some_and(Session::is_reserved) {
            let text = "another user has a session with this client identifier";
            return self.refuse_login(index, &connect, ReasonCode::NOT_AUTHORIZED, text);
        }
        if !self.may_have_will(&connect, standing) {
            let text = "the access rules do not allow the will";
            return self.refuse_login(index, &connect, ReasonCode::NOT_AUTHORIZED, text);
        }
        if existing.is_none() && self.sessions.len() >= self.limits.sessions {
            let v5 = connect.protocol == ProtocolVersion::V5;
            return self
                .refuse(index, if v5 { ReasonCode::QUOTA_EXCEEDED } else { ReasonCode::SERVER_UNAVAILABLE });
        }

        // What another one left is not for this one.
        let clean_start = connect.clean_start || is_anothers;
        let resumed = existing.and_then(|session| self.reclaim(now, session, clean_start));
        let session_present = resumed.is_some();
        let session = resumed.unwrap_or_else(|| self.add_session(connect.client_identifier.as_str()));
        self.attach(now, index, session, &connect, &asked);
        self.sessions[session as usize].standing = standing;
        self.permissions.remove(&session);
        self.keep(now, session);
        self.hold_answer(now, index);
        let granted = Granted { session_present, assigned, proof };
        if !self.send_connack(index, session, granted, &connect, &asked) {
            // Not even CONNACK fits into the client's Maximum Packet Size.
            self.close(index, Closing::Refused(ReasonCode::PACKET_TOO_LARGE));
            return self.detach(now, index, session, Some(ReasonCode::PACKET_TOO_LARGE), WillFate::Discard);
        }
        self.stats.clients_accepted += 1;
        self.stats.clients_maximum = self.stats.clients_maximum.max(self.connected as u64);
        self.outputs.push_back(Output::Emit(BrokerEvent::ClientConnected {
            connection: self.connections[index as usize].id,
            client_identifier: self.sessions[session as usize].client_identifier.to_string(),
            username: self.sessions[session as usize].username.clone(),
            protocol: connect.protocol,
            session_present,
        }));
        if session_present {
            self.resume(now, index, session);
        }
    }

    /// Ends what a Session is in the middle of; returns it if it goes on for a new connection.
    fn reclaim(&mut self, now: Instant, session: u32, clean_start: bool) -> Option<u32> {
        let state = &self.sessions[session as usize];
        // A Session that ends with its connection ends with one that is taken over, too.
        let goes_on = !clean_start && state.expiry != 0;
        if let Some(connection) = state.connection {
            let delayed = state.will.as_ref().is_some_and(|will| !will.delay.is_zero());
            // A delayed Will is not sent once the client is back [MQTT-3.1.3-9].
            let fate = if goes_on && delayed { WillFate::Discard } else { WillFate::Publish };
            let ends = state.expiry == 0;
            let reason = ReasonCode::SESSION_TAKEN_OVER; // [MQTT-3.1.4-3]
            self.disconnect_client(now, connection, session, reason, None, fate);
            if ends {
                return None;
            }
        }
        if !goes_on {
            self.end_session(now, session);
            return None;
        }
        let state = &mut self.sessions[session as usize];
        self.timers.set(&mut state.ends_at, None, Timer::SessionExpiry(session));
        self.timers.set(&mut state.will_at, None, Timer::WillDelay(session));
        Some(session)
    }

    pub(super) fn add_session(&mut self, client_identifier: &str) -> u32 {
        let client_identifier: Arc<str> = client_identifier.into();
        let index = self.sessions.insert(Session::new(client_identifier.clone())) as u32;
        self.by_client.insert(client_identifier, index);
        index
    }

    /// Joins a Session and its new connection.
    fn attach(&mut self, now: Instant, index: u32, session: u32, connect: &Connect, asked: &Asked) {
        let connection = &mut self.connections[index as usize];
        let v5 = connect.protocol == ProtocolVersion::V5;
        let longest = self.limits.keep_alive_max;
        let overridden = v5 && longest > 0 && connect.keep_alive > longest;
        connection.state = State::Connected(session);
        self.connected += 1;
        connection.keep_alive = if overridden { longest } else { connect.keep_alive };
        connection.last_heard = now;
        connection.send_maximum = asked.receive_maximum.min(self.limits.inflight_max).max(1);
        connection.problem_information = asked.problem_information;
        connection.allow_aliases(asked.topic_alias_maximum);
        let state = &mut self.sessions[session as usize];
        state.connection = Some(index);
        state.protocol = connect.protocol;
        state.username = connect.username.as_ref().map(|name| name.as_str().into());
        state.clean_start = connect.clean_start;
        state.keep_alive = connection.keep_alive;
        state.expiry = asked.session_expiry.min(self.limits.session_expiry_max);
        state.will = connect.will.as_ref().map(|will| Box::new(will::keep(will)));
        let deadline = connection.keep_alive_deadline();
        self.set_connection_timer(index, deadline);
    }

    /// Repeats what is unacknowledged [MQTT-4.4.0-1] and goes on with what waited.
    fn resume(&mut self, now: Instant, index: u32, session: u32) {
        let state = &mut self.sessions[session as usize];
        if let Some(received) = state.received.changed() {
            received.resume();
        }
        state.queue.miss();
        let mut repeats = state.inflight.changed().map(Inflight::repeats).unwrap_or_default();
        self.recheck_repeats(now, session, &mut repeats);
        for identifier in repeats.releases {
            self.send_pubrel(now, index, identifier, ReasonCode::SUCCESS);
        }
        if !repeats.publishes.is_empty() || !self.sessions[session as usize].resend.is_empty() {
            *self.sessions[session as usize].resend = repeats.publishes;
        }
        self.pump(now, session);
    }

    /// Answers a CONNECT that is not accepted and closes [MQTT-3.1.4-2].
    pub(super) fn refuse(&mut self, index: u32, reason_code: ReasonCode) {
        self.refuse_with(index, reason_code, None);
    }

    pub(super) fn refuse_with(&mut self, index: u32, reason_code: ReasonCode, text: Option<&str>) {
        // Before MQTT 5 some reasons have no return code, and then there is no CONNACK
        // [MQTT3-3.2.2-6].
        let is_sayable = !matches!(
            reason_code,
            ReasonCode::QOS_NOT_SUPPORTED | ReasonCode::RETAIN_NOT_SUPPORTED | ReasonCode::TOPIC_NAME_INVALID
        );
        if is_sayable || self.connections[index as usize].is_v5() {
            let connack = Connack { session_present: false, reason_code, properties: explain(text) };
            self.send(index, ControlPacket::Connack(connack));
        }
        self.close(index, Closing::Refused(reason_code));
    }

    /// Answers a CONNECT that is no packet, where the client's version has an answer to give
    /// [MQTT-3.1.4-2], [MQTT3-3.1.2-2].
    pub(super) fn refuse_malformed(&mut self, index: u32, error: &DecodeError) {
        let protocol = &mut self.connections[index as usize].protocol;
        match error {
            DecodeError::UnsupportedVersion(level) => {
                // A bridge sets the highest bit of the level, and asks again without it.
                let v5 = ProtocolVersion::V5;
                *protocol = if level & 0x7F < v5 as u8 { ProtocolVersion::V311 } else { v5 };
                self.refuse(index, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
            }
            // Only before MQTT 5 is this an error [MQTT3-3.1.3-8].
            DecodeError::ClientIdentifier => {
                *protocol = ProtocolVersion::V311;
                self.refuse(index, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
            }
            _ if *protocol == ProtocolVersion::V5 => {
                self.refuse(index, reason_in(&[PacketType::Connack], error));
            }
            _ => self.close(index, Closing::Refused(error.reason_code())),
        }
    }

    fn send_connack(
        &mut self,
        index: u32,
        session: u32,
        granted: Granted,
        connect: &Connect,
        asked: &Asked,
    ) -> bool {
        // 3.1 has no such flag: its byte is reserved.
        let session_present = granted.session_present && connect.protocol != ProtocolVersion::V31;
        let properties = match connect.protocol {
            ProtocolVersion::V5 => self.advertise(index, session, granted, connect, asked),
            _ => Properties::new(),
        };
        let connack = Connack { session_present, reason_code: ReasonCode::SUCCESS, properties };
        self.send(index, ControlPacket::Connack(connack))
    }

    /// Lists what the server allows where it differs from what a client has to assume.
    fn advertise(
        &self,
        index: u32,
        session: u32,
        granted: Granted,
        connect: &Connect,
        asked: &Asked,
    ) -> Properties {
        let mut properties = Properties::new();
        let limits = &self.limits;
        let state = &self.sessions[session as usize];
        if state.expiry != asked.session_expiry {
            properties.push(Property::SessionExpiryInterval(state.expiry));
        }
        if limits.receive_maximum != u16::MAX {
            properties.push(Property::ReceiveMaximum(limits.receive_maximum));
        }
        if limits.maximum_qos < QoS::ExactlyOnce {
            properties.push(Property::MaximumQoS(limits.maximum_qos as u8));
        }
        if !limits.retain_available {
            properties.push(Property::RetainAvailable(false));
        }
        if let Ok(size) = u32::try_from(limits.max_packet_size)
            && limits.max_packet_size < LARGEST_PACKET
        {
            properties.push(Property::MaximumPacketSize(size));
        }
        if granted.assigned {
            properties.push(Property::AssignedClientIdentifier(connect.client_identifier.clone()));
        }
        if limits.topic_alias_maximum > 0 {
            properties.push(Property::TopicAliasMaximum(limits.topic_alias_maximum));
        }
        if !limits.wildcard_subscription_available {
            properties.push(Property::WildcardSubscriptionAvailable(false));
        }
        if !limits.subscription_identifier_available {
            properties.push(Property::SubscriptionIdentifierAvailable(false));
        }
        if !limits.shared_subscription_available {
            properties.push(Property::SharedSubscriptionAvailable(false));
        }
        let keep_alive = self.connections[index as usize].keep_alive;
        if keep_alive != connect.keep_alive {
            properties.push(Property::ServerKeepAlive(keep_alive));
        }
        let name = connect.client_identifier.as_str();
        // A client identifier that cannot be a level gives no topic of its own.
        if asked.response_information
            && !name.contains(['/', '+', '#'])
            && let Some(topic) = Utf8String::new(format!("response/{name}"))
        {
            properties.push(Property::ResponseInformation(topic));
        }
        if let Some((method, data)) = granted.proof {
            properties.push(Property::AuthenticationMethod(method));
            properties.push(Property::AuthenticationData(data));
        }
        properties
    }

    /// A client identifier that no Session has [MQTT-3.1.3-6].
    fn assign_client_identifier(&mut self) -> Utf8String {
        loop {
            let drawn = self.random.draw("client identifier");
            let number = u64::from_be_bytes(*drawn.first_chunk().expect("32 bytes"));
            let name = format!("auto-{number:016x}");
            if !self.by_client.contains_key(name.as_str()) {
                return Utf8String::new(name).expect("21 letters and digits");
            }
        }
    }
}

/// Why a CONNECT is not accepted.
fn refusal(connect: &Connect, limits: &Limits) -> Option<ReasonCode> {
    if connect.client_identifier.len() > limits.client_id_bytes {
        return Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID); // [MQTT-3.1.3-8]
    }
    let will = connect.will.as_ref()?;
    if will.qos > limits.maximum_qos {
        return Some(ReasonCode::QOS_NOT_SUPPORTED); // [MQTT-3.2.2-12]
    }
    if will.retain && !limits.retain_available {
        return Some(ReasonCode::RETAIN_NOT_SUPPORTED); // [MQTT-3.2.2-13]
    }
    if !limits.allow_topic(will.topic.as_str()) {
        return Some(ReasonCode::TOPIC_NAME_INVALID);
    }
    let claims_utf8 = will.properties.iter().any(|property| *property == Property::PayloadFormatIndicator(1));
    if claims_utf8 && simdutf8::basic::from_utf8(&will.payload).is_err() {
        return Some(ReasonCode::PAYLOAD_FORMAT_INVALID);
    }
    // Clients do not publish below $SYS, not even at their end.
    is_own_topic(will.topic.as_str().as_bytes()).then_some(ReasonCode::NOT_AUTHORIZED)
}
