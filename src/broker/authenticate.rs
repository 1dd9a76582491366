//! Enhanced authentication [section 4.12]: AUTH exchanges before CONNACK, and again later.

use std::time::Instant;

use bytes::Bytes;

use crate::{
    auth::{Challenge, METHOD, Refused, Success},
    packet::{Auth, Connect, ControlPacket, Properties, Property, ReasonCode, Utf8String},
    session::{Standing, State},
};

use super::{Broker, access::BUSY};

/// How a connection authenticates, from its CONNECT on.
pub(super) struct Authentication {
    /// As in CONNECT, and then in every packet that names one [MQTT-4.12.0-5].
    pub method: Utf8String,
    step: Step,
    /// Who it turned out to be.
    user: Option<String>,
}

enum Step {
    /// The client is to begin.
    First,
    /// The client is to answer.
    Final(Box<Challenge>),
    /// Nothing is under way.
    Done,
}

/// What a client's message led to.
enum Answer {
    Continue(Bytes),
    Success(Success),
}

impl Authentication {
    fn new(method: Utf8String) -> Self {
        Self { method, step: Step::First, user: None }
    }
}

/// The method and the data that a packet carries.
fn fields(properties: &Properties) -> (Option<&Utf8String>, Option<&Bytes>) {
    let (mut method, mut data) = (None, None);
    for property in properties {
        match property {
            Property::AuthenticationMethod(value) => method = Some(value),
            Property::AuthenticationData(value) => data = Some(value),
            _ => {}
        }
    }
    (method, data)
}

impl Broker {
    /// Whether the method that CONNECT names is one of ours; `None` if it names none. Data without a
    /// method is an error of the packet itself, which the decoder finds.
    pub(super) fn supports_method_of(&self, connect: &Connect) -> Option<bool> {
        let (method, _) = fields(&connect.properties);
        method.map(|method| method == METHOD && !self.users.is_empty())
    }

    /// Begins the exchange that a CONNECT asks for.
    pub(super) fn begin_authentication(&mut self, now: Instant, index: u32, connect: Connect) {
        let (Some(method), data) = fields(&connect.properties) else { return };
        // A copy: the packet is not to be kept for it.
        let Some(method) = Utf8String::new(method.as_str()) else { return };
        let data = data.cloned();
        if let Err(connect) = self.held.hold(index, Box::new(connect)) {
            return self.refuse_login(index, &connect, ReasonCode::SERVER_BUSY, BUSY);
        }
        self.connections[index as usize].state = State::Authenticating;
        self.authentications.insert(index, Authentication::new(method));
        match data {
            Some(data) => self.authenticate(now, index, &data),
            // Some methods, and some clients, leave the first word to the server.
            None => self.send_auth(now, index, ReasonCode::CONTINUE_AUTHENTICATION, Bytes::new()),
        }
    }

    /// AUTH before CONNACK.
    pub(super) fn continue_authentication(&mut self, now: Instant, index: u32, auth: &Auth) {
        let (method, data) = fields(&auth.properties);
        let is_in_turn = auth.reason_code == ReasonCode::CONTINUE_AUTHENTICATION // [MQTT-4.12.0-3]
            && self.authentications.get(&index).is_some_and(|current| Some(&current.method) == method);
        if !is_in_turn {
            return self.refuse(index, ReasonCode::PROTOCOL_ERROR);
        }
        let data = data.cloned().unwrap_or_default();
        self.authenticate(now, index, &data);
    }

    /// AUTH of a client that has connected: it proves again who it is [section 4.12.1].
    pub(super) fn handle_auth(&mut self, now: Instant, index: u32, auth: &Auth) {
        let (method, data) = fields(&auth.properties);
        let Some(current) = self.authentications.get_mut(&index) else {
            // [MQTT-4.12.0-7]
            let text = "AUTH without an authentication method";
            return self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
        };
        if method != Some(&current.method) {
            // [MQTT-4.12.1-1]
            let text = "another authentication method than that of CONNECT";
            return self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
        }
        match (auth.reason_code, &current.step) {
            (ReasonCode::REAUTHENTICATE, Step::Done) => current.step = Step::First,
            (ReasonCode::CONTINUE_AUTHENTICATION, Step::First | Step::Final(_)) => {}
            _ => {
                let text = "AUTH out of turn";
                return self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
            }
        }
        match data.cloned() {
            Some(data) => self.authenticate(now, index, &data),
            None if auth.reason_code == ReasonCode::REAUTHENTICATE => {
                self.send_auth(now, index, ReasonCode::CONTINUE_AUTHENTICATION, Bytes::new());
            }
            None => self.authenticate(now, index, &[]),
        }
    }

    /// Goes on with the client's next message.
    fn authenticate(&mut self, now: Instant, index: u32, message: &[u8]) {
        let Some(current) = self.authentications.get_mut(&index) else { return };
        let answer = match std::mem::replace(&mut current.step, Step::Done) {
            Step::First => Challenge::new(&mut self.users, message).map(|challenge| {
                let message = Bytes::from(challenge.message.clone());
                current.step = Step::Final(Box::new(challenge));
                Answer::Continue(message)
            }),
            Step::Final(challenge) => challenge.verify(message).map(Answer::Success),
            Step::Done => return,
        };
        match answer {
            Ok(Answer::Continue(data)) => {
                self.send_auth(now, index, ReasonCode::CONTINUE_AUTHENTICATION, data);
            }
            Ok(Answer::Success(success)) => self.authenticated(now, index, success),
            Err(refused) => self.refuse_authentication(now, index, refused),
        }
    }

    fn authenticated(&mut self, now: Instant, index: u32, success: Success) {
        let Some(current) = self.authentications.get_mut(&index) else { return };
        let data = Bytes::from(success.message);
        match (self.held.take(index), &current.user) {
            // Who has a certificate proves nothing else.
            (Some(_), _) if self.identities.get(&index).is_some_and(|name| **name != *success.user) => {
                self.refuse_authentication(now, index, Refused::OtherUser);
            }
            (Some(mut connect), _) => {
                connect.username = Utf8String::new(success.user.as_str());
                current.user = Some(success.user);
                let method = current.method.clone();
                self.accept(now, index, *connect, Standing::Proven, Some((method, data)));
            }
            (None, Some(before)) if *before == success.user => {
                self.send_auth(now, index, ReasonCode::SUCCESS, data);
            }
            (None, _) => self.refuse_authentication(now, index, Refused::OtherUser),
        }
    }

    /// Before CONNACK that says it, after it DISCONNECT [MQTT-4.12.0-4], [MQTT-4.12.1-2].
    fn refuse_authentication(&mut self, now: Instant, index: u32, refused: Refused) {
        let reason = ReasonCode::NOT_AUTHORIZED;
        match self.connections[index as usize].state {
            State::Authenticating => {
                let text = refused.to_string();
                match self.held.take(index) {
                    Some(connect) => self.refuse_login(index, &connect, reason, &text),
                    None => self.refuse_with(index, reason, Some(&text)),
                }
            }
            _ => self.fail(now, index, reason, Some(&refused.to_string())),
        }
    }

    /// Sends AUTH; a client that takes no packet of that size cannot go on.
    fn send_auth(&mut self, now: Instant, index: u32, reason_code: ReasonCode, data: Bytes) {
        let Some(current) = self.authentications.get(&index) else { return };
        let mut properties = Properties::new();
        properties.push(Property::AuthenticationMethod(current.method.clone()));
        if !data.is_empty() {
            properties.push(Property::AuthenticationData(data));
        }
        if !self.send(index, ControlPacket::Auth(Auth { reason_code, properties })) {
            match self.connections[index as usize].state {
                State::Authenticating => self.refuse(index, ReasonCode::PACKET_TOO_LARGE),
                _ => self.fail(now, index, ReasonCode::PACKET_TOO_LARGE, None),
            }
        }
    }
}
