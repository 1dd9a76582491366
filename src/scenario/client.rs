//! The clients of a scenario.

use bytes::Bytes;

use super::{
    rendering::{ROOTS, ROOTS_OF_IDENTIFIERS, Rendering, Speaker, read_payload, read_template},
    spec::{ClientSpec, ConnectPropertiesSpec, WillSpec},
};
use crate::{
    field::Checks,
    mock::{Payload, PropertyTemplates, Template},
    packet::{Properties, Property, ProtocolVersion, QoS, TopicName, Utf8String, Will},
};

/// Clients of one name.
#[derive(Debug)]
pub struct Group {
    pub name: String,
    /// At least 1.
    pub count: u32,
    client_id: Template,
    pub protocol: ProtocolVersion,
    pub clean_start: bool,
    /// Seconds.
    pub keep_alive: u16,
    username: Option<Template>,
    password: Option<Template>,
    will: Option<WillTemplate>,
    /// Of CONNECT, the session's expiry among them.
    properties: Properties,
    /// Connects again so long after the connection was lost.
    pub reconnect: Option<std::time::Duration>,
}

#[derive(Debug)]
struct WillTemplate {
    topic: Template,
    payload: Payload,
    qos: QoS,
    retain: bool,
    delay: Option<u32>,
    expiry: Option<u32>,
    properties: PropertyTemplates,
}

/// With what one of them connects.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Bytes>,
    pub will: Option<Will>,
    pub properties: Properties,
}

/// Which clients a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// By its place among the groups.
    pub group: usize,
    /// Which of them, from 1; absent: all.
    pub member: Option<u32>,
}

/// Clients of one scenario.
pub const CLIENTS_MAX: u32 = 10_000;

/// Short, so that a connection that has gone is noticed, and one that does nothing still says something now and then.
const KEEP_ALIVE: u16 = 5;

/// Names that begin steps of other kinds.
const TAKEN: [&str; 11] =
    ["chaos", "expect", "http", "mark", "mock", "parallel", "record", "repeat", "replay", "state", "wait"];

impl Group {
    /// `path` is what errors call it.
    pub fn new(checks: &mut Checks, path: &str, name: &str, spec: &ClientSpec) -> Option<Self> {
        let is_name = name.starts_with(|first: char| first.is_alphabetic() || first == '_')
            && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_' || letter == '-');
        if !is_name {
            checks.refuse(path, "a client's name has letters, digits, - and _, and begins with a letter");
        } else if TAKEN.contains(&name) {
            checks.refuse(path, format_args!("{name:?} begins steps of another kind"));
        }
        checks.range(&format!("{path}.count"), spec.count, 1, CLIENTS_MAX);
        let at = |field: &str| format!("{path}.{field}");
        let text = |checks: &mut Checks, field: &str, text: &Option<String>, roots: &[&str]| {
            text.as_deref().and_then(|text| read_template(checks, &at(field), text, roots))
        };
        let usual = if spec.count > 1 { format!("{name}-{{{{i}}}}") } else { name.to_owned() };
        let client_id = Some(spec.client_id.clone().unwrap_or(usual));
        let client_id = text(checks, "client_id", &client_id, &ROOTS_OF_IDENTIFIERS);
        let protocol = match &spec.protocol {
            None => Some(ProtocolVersion::V5),
            Some(version) => checks.keep(at("protocol"), version.0.parse::<ProtocolVersion>()),
        };
        let has_properties = protocol.is_none_or(ProtocolVersion::has_properties);
        let of_version_5 = |checks: &mut Checks, field: &str, is_given: bool| {
            if is_given && !has_properties {
                checks.refuse(at(field), "is of MQTT 5");
            }
        };
        of_version_5(checks, "session_expiry", spec.session_expiry.is_some());
        of_version_5(checks, "properties", spec.properties != ConnectPropertiesSpec::default());
        let keep_alive = match spec.keep_alive {
            None => Some(KEEP_ALIVE),
            Some(seconds) => checks
                .keep(at("keep_alive"), u16::try_from(seconds.0).map_err(|_| "is at most 65535 seconds")),
        };
        let username = text(checks, "username", &spec.username, &ROOTS);
        let password = text(checks, "password", &spec.password, &ROOTS);
        if spec.password.is_some() && spec.username.is_none() && !has_properties {
            checks.refuse(at("password"), "stands alone: before MQTT 5 a username goes with it");
        }
        let will =
            spec.will.as_ref().map(|will| WillTemplate::new(checks, &at("will"), will, has_properties));
        let properties = read_properties(checks, &at("properties"), spec);
        Some(Self {
            name: name.to_owned(),
            count: spec.count,
            client_id: client_id?,
            protocol: protocol?,
            clean_start: spec.clean_start,
            keep_alive: keep_alive?,
            username,
            password,
            will: will.flatten(),
            properties,
            reconnect: spec.reconnect.map(|span| span.0),
        })
    }

    /// One that cannot be what it is meant to be: its steps are read all the same, for what else is wrong with them.
    pub fn unread(name: &str, spec: Option<&ClientSpec>) -> Self {
        let protocol = spec.and_then(|spec| spec.protocol.as_ref()?.0.parse().ok());
        Self {
            name: name.to_owned(),
            count: spec.map_or(CLIENTS_MAX, |spec| spec.count.clamp(1, CLIENTS_MAX)),
            client_id: Template::parse("").expect("nothing is a template"),
            // Which has all that there is.
            protocol: protocol.unwrap_or(ProtocolVersion::V5),
            clean_start: true,
            keep_alive: KEEP_ALIVE,
            username: None,
            password: None,
            will: None,
            properties: Properties::new(),
            reconnect: None,
        }
    }

    /// What one of them is called in texts: `app`, `dev[3]`.
    pub fn member(&self, i: u32) -> String {
        if self.count == 1 { self.name.clone() } else { format!("{}[{i}]", self.name) }
    }

    /// # Errors
    /// That it cannot be rendered, for people.
    pub fn client_id(&self, rendering: &Rendering, i: u32, now: jiff::Timestamp) -> Result<String, String> {
        let speaker = Speaker { client: &self.name, client_id: "", i, n: 1, pass: 1 };
        let client_id = rendering.stream("client_id", &speaker, now).render(&self.client_id);
        client_id.map_err(|error| format!("{} client_id: {error}", self.member(i)))
    }

    /// # Errors
    /// Which text cannot be, for people.
    pub fn introduce(
        &self,
        rendering: &Rendering,
        i: u32,
        now: jiff::Timestamp,
    ) -> Result<Introduction, String> {
        let client_id = self.client_id(rendering, i, now)?;
        let speaker = Speaker { client: &self.name, client_id: &client_id, i, n: 1, pass: 1 };
        let failed =
            |field: &str, error: &dyn std::fmt::Display| format!("{} {field}: {error}", self.member(i));
        let mut stream = rendering.stream("connect", &speaker, now);
        let mut text = |field: &str, template: &Option<Template>| {
            let text = template.as_ref().map(|template| stream.render(template));
            text.transpose().map_err(|error| failed(field, &error))
        };
        let username = text("username", &self.username)?;
        let password = text("password", &self.password)?.map(Bytes::from);
        let will = match &self.will {
            None => None,
            Some(will) => {
                let stream = rendering.stream("will", &speaker, now);
                Some(will.render(stream).map_err(|error| failed("will", &error))?)
            }
        };
        Ok(Introduction { username, password, will, properties: self.properties.clone(), client_id })
    }
}

impl WillTemplate {
    fn new(checks: &mut Checks, path: &str, spec: &WillSpec, has_properties: bool) -> Option<Self> {
        let topic = read_topic(checks, &format!("{path}.topic"), &spec.topic);
        let payload = read_payload(checks, &format!("{path}.payload"), spec.payload.as_ref(), &ROOTS);
        let qos = checks.keep(format!("{path}.qos"), QoS::try_from(spec.qos));
        let properties = PropertyTemplates::new(checks, &format!("{path}.properties"), &spec.properties);
        for template in properties.templates() {
            super::rendering::check_roots(checks, &format!("{path}.properties"), template, &ROOTS);
        }
        if !has_properties && spec.delay.is_some() {
            checks.refuse(format!("{path}.delay"), "is of MQTT 5");
        }
        if !has_properties && spec.properties != Default::default() {
            checks.refuse(format!("{path}.properties"), "is of MQTT 5");
        }
        Some(Self {
            topic: topic?,
            payload: payload?,
            qos: qos?,
            retain: spec.retain,
            delay: spec.delay.map(|delay| delay.0),
            expiry: spec.properties.message_expiry_interval,
            properties,
        })
    }

    fn render(&self, mut stream: super::rendering::Stream<'_>) -> Result<Will, String> {
        let topic = stream.render(&self.topic).map_err(|error| format!("topic: {error}"))?;
        let topic = TopicName::parse(&topic).map_err(|error| format!("topic {topic:?}: {error}"))?;
        let payload = stream.payload(&self.payload).map_err(|error| format!("payload: {error}"))?;
        let mut properties = self.properties.render(|template| stream.render(template))?;
        if let Some(delay) = self.delay {
            properties.push(Property::WillDelayInterval(delay));
        }
        if let Some(expiry) = self.expiry {
            properties.push(Property::MessageExpiryInterval(expiry));
        }
        Ok(Will { qos: self.qos, retain: self.retain, properties, topic, payload })
    }
}

/// Reads a template of a Topic Name.
pub fn read_topic(checks: &mut Checks, path: &str, text: &str) -> Option<Template> {
    if text.is_empty() {
        checks.refuse(path, "is required");
        return None;
    }
    let template = read_template(checks, path, text, &ROOTS)?;
    if let Some(literal) = template.as_literal() {
        checks.keep(path, TopicName::parse(literal))?;
    }
    Some(template)
}

fn read_properties(checks: &mut Checks, path: &str, spec: &ClientSpec) -> Properties {
    let mut properties = Properties::new();
    if let Some(expiry) = spec.session_expiry {
        properties.push(Property::SessionExpiryInterval(expiry.0));
    }
    let ConnectPropertiesSpec { receive_maximum, maximum_packet_size, user } = &spec.properties;
    if let Some(maximum) = receive_maximum {
        checks.range(&format!("{path}.receive_maximum"), *maximum, 1, u16::MAX);
        properties.push(Property::ReceiveMaximum(*maximum));
    }
    if let Some(maximum) = maximum_packet_size {
        checks.range(&format!("{path}.maximum_packet_size"), *maximum, 1, u32::MAX);
        properties.push(Property::MaximumPacketSize(*maximum));
    }
    for (name, value) in user {
        let text = |text: &str| Utf8String::new(text).ok_or("has at most 65535 bytes and no U+0000");
        let path = format!("{path}.user.{name}");
        let name = checks.keep(&*path, text(name));
        let value = checks.keep(&*path, text(value));
        properties.0.extend(name.zip(value).map(|(name, value)| Property::UserProperty(name, value)));
    }
    properties
}

/// `dev`, or `dev[3]` for one of several.
pub fn read_selected(checks: &mut Checks, path: &str, text: &str, groups: &[Group]) -> Option<Selected> {
    let (name, member) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((name, member)) => (name, Some(member)),
        None => (text, None),
    };
    let Some(group) = groups.iter().position(|group| group.name == name) else {
        let names = groups.iter().map(|group| group.name.as_str());
        checks.refuse(path, crate::likeness::unknown("client", name, names));
        return None;
    };
    let Some(member) = member else { return Some(Selected { group, member: None }) };
    let count = groups[group].count;
    match member.parse::<u32>() {
        Ok(i) if (1..=count).contains(&i) => Some(Selected { group, member: Some(i) }),
        _ => {
            checks.refuse(path, format_args!("{text:?}: {name} are numbered from 1 to {count}"));
            None
        }
    }
}
