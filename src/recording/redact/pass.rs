//! Redacting one event.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::{
    PLACEHOLDER, Redaction, RedactionKey,
    json::{self, Replacement},
    rule::{How, What},
};
use crate::{
    packet::{
        Connect, ControlPacket, PacketType, Properties, Property, ProtocolVersion, Publish, TopicFilter,
        TopicName, Utf8String, Will,
    },
    recording::{ConnectionInfo, FaultInjected},
};

/// What is masked, or was removed from where something has to stand.
const MASK: &str = "***";
/// A packet this short has no room but for a Packet Identifier and a Reason Code.
const HARMLESS_LEN: usize = 5;

/// The rules on their way through one event.
pub(super) struct Pass<'a> {
    redaction: &'a Redaction,
    /// That each rule changed.
    pub(super) values: Vec<u64>,
    pub(super) keeps_credentials: bool,
    pub(super) passwords: u64,
    pub(super) hidden: u64,
    pub(super) not_json: u64,
}

impl<'a> Pass<'a> {
    pub(super) fn new(redaction: &'a Redaction) -> Self {
        let values = vec![0; redaction.rules.len()];
        Self { redaction, values, keeps_credentials: false, passwords: 0, hidden: 0, not_json: 0 }
    }

    /// The bytes of a packet, which have no password any more, without what must not be in them; `None` if they may stay.
    /// `packet` is what they decoded to.
    pub(super) fn whole_packet(
        &mut self,
        bytes: &Bytes,
        packet: Option<ControlPacket>,
        protocol: Option<ProtocolVersion>,
    ) -> Option<Bytes> {
        let (Some(mut packet), Some(protocol)) = (packet, protocol) else {
            return self.hide(bytes);
        };
        if let (ControlPacket::Connect(connect), true) = (&mut packet, self.passwords > 0) {
            connect.password = Some(Bytes::from_static(PLACEHOLDER));
        }
        let changes = |pass: &Self| pass.values.iter().sum::<u64>() + pass.hidden;
        let before = changes(self);
        self.packet(&mut packet);
        if changes(self) == before {
            return None;
        }
        let mut redacted = BytesMut::with_capacity(bytes.len());
        match packet.encode(protocol, &mut redacted) {
            Ok(()) => Some(redacted.freeze()),
            // A hash that made a text too long.
            Err(_) => self.hide(bytes),
        }
    }

    fn packet(&mut self, packet: &mut ControlPacket) {
        match packet {
            ControlPacket::Connect(connect) => self.connect(connect),
            ControlPacket::Connack(connack) => self.properties(&mut connack.properties),
            ControlPacket::Publish(publish) => {
                let Publish { topic, properties, payload, .. } = publish;
                if let Some(topic) = topic {
                    self.topic_name(topic);
                }
                self.properties(properties);
                self.payload(payload);
            }
            ControlPacket::Puback(ack)
            | ControlPacket::Pubrec(ack)
            | ControlPacket::Pubrel(ack)
            | ControlPacket::Pubcomp(ack) => self.properties(&mut ack.properties),
            ControlPacket::Subscribe(subscribe) => {
                for subscription in &mut subscribe.subscriptions {
                    self.topic_filter(&mut subscription.filter);
                }
                self.properties(&mut subscribe.properties);
            }
            ControlPacket::Suback(suback) => self.properties(&mut suback.properties),
            ControlPacket::Unsubscribe(unsubscribe) => {
                unsubscribe.filters.iter_mut().for_each(|filter| self.topic_filter(filter));
                self.properties(&mut unsubscribe.properties);
            }
            ControlPacket::Unsuback(unsuback) => self.properties(&mut unsuback.properties),
            ControlPacket::Pingreq | ControlPacket::Pingresp => {}
            ControlPacket::Disconnect(disconnect) => self.properties(&mut disconnect.properties),
            ControlPacket::Auth(auth) => self.properties(&mut auth.properties),
        }
    }

    fn connect(&mut self, connect: &mut Connect) {
        self.utf8(&mut connect.client_identifier, |pass, client| pass.client(client));
        if let Some(username) = &mut connect.username {
            let redacted = self.username(username.as_str());
            match redacted {
                Some(Some(text)) => set_utf8(username, text),
                Some(None) => connect.username = None,
                None => {}
            }
        }
        if self.keeps_credentials
            && let Some(password) = &mut connect.password
            && let Some(redacted) = self.patterns(password)
        {
            *password = redacted.into();
        }
        if connect.username.is_none() && connect.protocol != ProtocolVersion::V5 {
            // [MQTT3-3.1.2-22]
            connect.password = None;
        }
        if let Some(Will { properties, topic, payload, .. }) = &mut connect.will {
            self.topic_name(topic);
            self.properties(properties);
            self.payload(payload);
        }
        self.properties(&mut connect.properties);
    }

    fn properties(&mut self, properties: &mut Properties) {
        properties.0.retain_mut(|property| match property {
            Property::UserProperty(name, value) => self.user_property(name, value),
            Property::AssignedClientIdentifier(client) => {
                self.utf8(client, |pass, client| pass.client(client));
                true
            }
            Property::ResponseTopic(topic) | Property::ResponseInformation(topic) => {
                self.utf8(topic, |pass, topic| pass.topic(topic));
                true
            }
            Property::ContentType(text) | Property::ReasonString(text) | Property::ServerReference(text) => {
                self.utf8(text, |pass, text| pass.words(text));
                true
            }
            Property::CorrelationData(data) => {
                if let Some(redacted) = self.patterns(data) {
                    *data = redacted.into();
                }
                true
            }
            Property::AuthenticationData(data) => {
                self.authentication(data);
                true
            }
            _ => true,
        });
    }

    /// Whether the property stays.
    fn user_property(&mut self, name: &mut Utf8String, value: &mut Utf8String) -> bool {
        for (index, rule) in self.redaction.rules.iter().enumerate() {
            let What::UserProperty(pattern) = &rule.what else { continue };
            if !pattern.matches(name.as_str()) {
                continue;
            }
            self.values[index] += 1;
            match replaced(&rule.how, &self.redaction.key, value.as_bytes()) {
                Some(text) => set_utf8(value, text),
                None => return false,
            }
        }
        for text in [name, value] {
            self.utf8(text, |pass, text| pass.words(text));
        }
        true
    }

    /// Names of users are in what most methods exchange.
    fn authentication(&mut self, data: &mut Bytes) {
        for (index, rule) in self.redaction.rules.iter().enumerate() {
            if matches!(rule.what, What::UserName) {
                self.values[index] += 1;
                *data = Bytes::from_static(PLACEHOLDER);
                return;
            }
        }
        if let Some(redacted) = self.patterns(data) {
            *data = redacted.into();
        }
    }

    fn payload(&mut self, payload: &mut Bytes) {
        let mut is_json = true;
        for (index, rule) in self.redaction.rules.iter().enumerate() {
            let What::Json(path) = &rule.what else { continue };
            if payload.is_empty() {
                continue;
            }
            let replace = |value: &str| json_replacement(&rule.how, &self.redaction.key, value);
            match json::redact(payload, path, &replace) {
                Some((count, text)) => {
                    self.values[index] += count;
                    if let Some(text) = text {
                        *payload = Bytes::from(text);
                    }
                }
                None => is_json = false,
            }
        }
        if !is_json && json::is_meant_as_json(payload) {
            self.hidden += 1;
            *payload = Bytes::from_static(MASK.as_bytes());
            return;
        }
        self.not_json += u64::from(!is_json);
        if let Some(redacted) = self.patterns(payload) {
            *payload = redacted.into();
        }
    }

    /// What patterns match in `bytes` is replaced; `None` if nothing does.
    fn patterns(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut redacted: Option<Vec<u8>> = None;
        for (index, rule) in self.redaction.rules.iter().enumerate() {
            let What::Text(pattern) = &rule.what else { continue };
            let mut count = 0;
            let text = redacted.as_deref().unwrap_or(bytes);
            let replace = |found: &regex::bytes::Captures<'_>| {
                count += 1;
                replaced(&rule.how, &self.redaction.key, &found[0]).unwrap_or_default().into_bytes()
            };
            if let Cow::Owned(changed) = pattern.replace_all(text, replace) {
                redacted = Some(changed);
            }
            self.values[index] += count;
        }
        redacted
    }

    /// The same in text.
    pub(super) fn words(&mut self, text: &str) -> Option<String> {
        let redacted = self.patterns(text.as_bytes())?;
        // A pattern may have cut a character in two.
        Some(String::from_utf8_lossy(&redacted).into_owned())
    }

    pub(super) fn client(&mut self, client: &str) -> Option<String> {
        if client.is_empty() {
            return None;
        }
        let whole = self.whole(client, |what| matches!(what, What::ClientIdentifier));
        let whole = whole.map(|whole| whole.unwrap_or_else(|| MASK.to_owned()));
        let words = self.words(whole.as_deref().unwrap_or(client));
        words.or(whole).map(|client| if client.is_empty() { MASK.to_owned() } else { client })
    }

    /// The inner `None` if it is removed.
    fn username(&mut self, username: &str) -> Option<Option<String>> {
        match self.whole(username, |what| matches!(what, What::UserName)) {
            Some(None) => Some(None),
            whole => {
                let whole = whole.flatten();
                self.words(whole.as_deref().unwrap_or(username)).or(whole).map(Some)
            }
        }
    }

    /// A value that some rules are about as a whole; the inner `None` if it is removed.
    fn whole(&mut self, value: &str, is_about: impl Fn(&What) -> bool) -> Option<Option<String>> {
        let mut redacted: Option<String> = None;
        for (index, rule) in self.redaction.rules.iter().enumerate() {
            if is_about(&rule.what) {
                self.values[index] += 1;
                let value = redacted.as_deref().unwrap_or(value);
                match replaced(&rule.how, &self.redaction.key, value.as_bytes()) {
                    Some(text) => redacted = Some(text),
                    None => return Some(None),
                }
            }
        }
        redacted.map(Some)
    }

    fn topic(&mut self, topic: &str) -> Option<String> {
        let redacted = self.levels(topic, topic)?;
        Some(if TopicName::parse(&redacted).is_ok() { redacted } else { MASK.to_owned() })
    }

    /// A Topic Filter, or a Topic Name.
    pub(super) fn filter(&mut self, filter: &str) -> Option<String> {
        let pattern = TopicFilter::parse(filter).map_or(filter.len(), |parsed| parsed.pattern().len());
        let redacted = self.levels(filter, &filter[filter.len() - pattern..])?;
        Some(if TopicFilter::parse(&redacted).is_ok() { redacted } else { MASK.to_owned() })
    }

    /// `pattern` is the end of `whole`, which may have a share's name before it.
    fn levels(&mut self, whole: &str, pattern: &str) -> Option<String> {
        let share = &whole[..whole.len() - pattern.len()];
        let mut levels: Vec<Cow<'_, str>> = pattern.split('/').map(Cow::Borrowed).collect();
        let mut is_changed = false;
        for (index, rule) in self.redaction.rules.iter().enumerate() {
            let What::TopicLevels(filter) = &rule.what else { continue };
            for at in levels_of(filter, &levels) {
                let redacted = replaced(&rule.how, &self.redaction.key, levels[at].as_bytes());
                levels[at] = Cow::Owned(redacted.unwrap_or_else(|| MASK.to_owned()));
                self.values[index] += 1;
                is_changed = true;
            }
        }
        let redacted = format!("{share}{}", levels.join("/"));
        self.words(&redacted).or(is_changed.then_some(redacted))
    }

    fn topic_name(&mut self, topic: &mut TopicName) {
        if let Some(redacted) = self.topic(topic.as_str())
            && let Ok(redacted) = TopicName::parse(&redacted)
        {
            *topic = redacted;
        }
    }

    fn topic_filter(&mut self, filter: &mut TopicFilter) {
        if let Some(redacted) = self.filter(filter.as_str())
            && let Ok(redacted) = TopicFilter::parse(&redacted)
        {
            *filter = redacted;
        }
    }

    pub(super) fn open(&mut self, info: &mut ConnectionInfo) {
        if let Some(client) = &mut info.client_identifier {
            self.set(client, |pass, client| pass.client(client));
        }
        if let Some(peer) = &info.peer
            && let Some(redacted) = self.whole(peer, |what| matches!(what, What::Peer))
        {
            info.peer = redacted;
        }
    }

    pub(super) fn fault(&mut self, fault: &mut FaultInjected, protocol: Option<ProtocolVersion>) {
        self.set(&mut fault.client_identifier, |pass, client| pass.client(client));
        self.set(&mut fault.topic, |pass, topic| pass.topic(topic));
        self.set(&mut fault.detail, |pass, detail| {
            let redacted = pass.words(detail)?;
            let is_json = serde_json::from_str::<serde_json::Value>(&redacted).is_ok();
            Some(if is_json { redacted } else { "{}".to_owned() })
        });
        for bytes in [&mut fault.received, &mut fault.sent].into_iter().flatten() {
            let protocol = match fault.packet_type {
                PacketType::Connect => Some(protocol.unwrap_or(ProtocolVersion::V5)),
                _ => protocol,
            };
            let packet = protocol.and_then(|protocol| ControlPacket::decode(bytes, protocol).ok());
            if let Some(redacted) = self.whole_packet(bytes, packet, protocol) {
                *bytes = redacted;
            }
        }
    }

    /// All but the first byte, which says what it was meant to be; `None` for what can hold nothing, and without rules.
    pub(super) fn hide(&mut self, bytes: &Bytes) -> Option<Bytes> {
        if self.redaction.rules.is_empty() || bytes.len() <= HARMLESS_LEN {
            return None;
        }
        self.hidden += 1;
        let mut hidden = BytesMut::from(&bytes[..]);
        hidden[1..].fill(b'*');
        Some(hidden.freeze())
    }

    pub(super) fn set(&mut self, text: &mut String, redact: impl FnOnce(&mut Self, &str) -> Option<String>) {
        if let Some(redacted) = redact(self, text) {
            *text = redacted;
        }
    }

    fn utf8(&mut self, text: &mut Utf8String, redact: impl FnOnce(&mut Self, &str) -> Option<String>) {
        if let Some(redacted) = redact(self, text.as_str()) {
            set_utf8(text, redacted);
        }
    }
}

fn set_utf8(text: &mut Utf8String, redacted: String) {
    *text = Utf8String::new(redacted).or_else(|| Utf8String::new(MASK)).expect("the mask is short");
}

/// What stands in the place of `value`; `None` if nothing does.
fn replaced(how: &How, key: &RedactionKey, value: &[u8]) -> Option<String> {
    match how {
        How::Remove => None,
        How::Hash => Some(key.hash(value)),
        How::Mask => Some(MASK.to_owned()),
        How::Constant(text) => Some(text.clone()),
    }
}

/// `value` is JSON. Text is hashed without its quotes, so that it is the same wherever it stands.
fn json_replacement(how: &How, key: &RedactionKey, value: &str) -> Replacement {
    let quoted = |text: &str| Replacement::Text(serde_json::to_string(text).expect("text into memory"));
    match how {
        How::Remove => Replacement::Removed,
        How::Mask => quoted(MASK),
        How::Hash => match serde_json::from_str::<String>(value) {
            Ok(text) => quoted(&key.hash(text.as_bytes())),
            Err(_) => quoted(&key.hash(value.as_bytes())),
        },
        How::Constant(text) => match serde_json::from_str::<&serde_json::value::RawValue>(text) {
            Ok(json) => Replacement::Text(json.get().to_owned()),
            Err(_) => quoted(text),
        },
    }
}

/// Which of `levels`, of a topic or a filter, stand where `rule` has `+`; none if the rule is not about it.
fn levels_of(rule: &TopicFilter, levels: &[Cow<'_, str>]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut len = 0;
    for (at, wanted) in rule.levels().enumerate() {
        len = at + 1;
        match (wanted, levels.get(at).map(|level| &**level)) {
            // Whoever subscribes to all that is below names nothing there.
            ("#", _) | (_, Some("#")) => return found,
            (_, None) => return Vec::new(),
            // Wildcards in the first level are not about topics of the server [MQTT-4.7.2-1].
            ("+", Some(level)) if at == 0 && level.starts_with('$') => return Vec::new(),
            ("+", Some("+" | "")) => {}
            ("+", Some(_)) => found.push(at),
            (_, Some("+")) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return Vec::new(),
        }
    }
    match levels.get(len..) {
        // All that is below is meant, too, and with it the topic itself [MQTT-4.7.1-2].
        Some([]) => found,
        Some([last]) if last == "#" => found,
        _ => Vec::new(),
    }
}
