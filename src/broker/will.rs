//! Will Messages [section 3.1.2.5].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use crate::{
    interceptor::Verdict,
    packet::{Property, Will},
    session::{MessageRef, Payload, WillMessage, encode_forwarded},
};

use super::Broker;

/// What a CONNECT's Will becomes while it waits.
pub(super) fn keep(will: &Will) -> WillMessage {
    let mut properties = BytesMut::new();
    encode_forwarded(&will.properties, &mut properties);
    let (mut delay, mut expiry) = (0, None);
    for property in will.properties.iter() {
        match property {
            Property::WillDelayInterval(seconds) => delay = *seconds,
            Property::MessageExpiryInterval(seconds) => expiry = Some(*seconds),
            _ => {}
        }
    }
    let message = MessageRef {
        topic: will.topic.as_str().as_bytes(),
        properties: &properties,
        payload: Payload::of(&will.payload),
        qos: will.qos,
        retain: will.retain,
        expires_at: None,
        packet: None,
    };
    WillMessage {
        message: Arc::new(message.store()),
        expiry: expiry.map(|seconds| Duration::from_secs(seconds.into())),
        delay: Duration::from_secs(delay.into()),
    }
}

impl Broker {
    /// Publishes the Will of a Session that has no connection any more; it is then gone
    /// [MQTT-3.1.2-10].
    pub(super) fn publish_will_of(&mut self, now: Instant, session: u32) {
        let Some(will) = self.sessions[session as usize].will.take() else { return };
        self.touch(now, session);
        let mut message = will.message.as_message();
        // The interval is the published message's, whatever the delay was [section 3.1.3.2.4].
        message.expires_at = will.expiry.map(|interval| now + interval);
        if self.interception.is_active() {
            let expiry = will.expiry.map(|interval| interval.as_secs() as u32);
            let topic = std::str::from_utf8(message.topic).expect("a CONNECT's Will Topic is UTF-8");
            if self.intercept(now, session, topic, &message, expiry, true) == Verdict::Intercept {
                return;
            }
        }
        self.route(now, &message, Some(session));
    }
}
