//! One step of a scenario, checked.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;

use super::{
    client::{Group, Selected, read_topic},
    expectation::Expectation,
    rendering::{ROOTS, Stream, check_roots, read_payload, read_template},
    spec::{
        DisconnectMode, HttpSpec, OnFailure, PublishSpec, RecordSpec, ReplaySpec, StateSpec, SubscribeSpec,
        UnsubscribeSpec,
    },
};
use crate::{
    fault::RuleSpec,
    field::Checks,
    mock::{Condition, MockSpec, Payload, PropertyTemplates, StateScope, Template, WhenSpec},
    packet::{
        Properties, Property, Publish, QoS, RetainHandling, Subscription, SubscriptionOptions, TopicFilter,
        TopicName,
    },
};

/// For clients to connect, and for what they are to be answered.
pub const USUAL_PATIENCE: Duration = Duration::from_secs(10);

/// Messages that one client sends in one step.
pub const MESSAGES_MAX: u64 = 10_000_000;

/// The longest payload that is written in base64.
const PAYLOAD_MAX: usize = 16 << 20;

#[derive(Debug)]
pub struct Step {
    /// From 1; of steps within steps `3.1`.
    pub number: String,
    /// What it does: `dev.publish`.
    pub kind: String,
    /// What people call it; empty: nothing else.
    pub name: String,
    /// Where it begins in the text.
    pub line: u64,
    /// Absent: as the scenario says.
    pub on_failure: Option<OnFailure>,
    pub action: Action,
}

#[derive(Debug)]
pub enum Action {
    Connect {
        clients: Selected,
        spread: Duration,
        within: Duration,
    },
    Disconnect {
        clients: Selected,
        mode: DisconnectMode,
        spread: Duration,
    },
    Subscribe {
        clients: Selected,
        subscribe: SubscribeStep,
    },
    Unsubscribe {
        clients: Selected,
        unsubscribe: UnsubscribeStep,
    },
    Publish {
        clients: Selected,
        publish: Box<PublishStep>,
    },
    /// Passes over what they have received.
    Forget {
        clients: Selected,
    },
    SetRule(Box<RuleSpec>),
    RemoveRule(String),
    ResetChaos,
    Profile(String),
    SetMock(Box<MockSpec>),
    RemoveMock(String),
    ResetMocks,
    SetState {
        scope: StateScope,
        key: String,
        value: Value,
    },
    ExpectState {
        scope: StateScope,
        test: Box<Condition>,
        within: Duration,
    },
    ResetState,
    Expect(Box<Expectation>),
    Parallel(Vec<Step>),
    Repeat {
        times: u32,
        steps: Vec<Step>,
    },
    Wait(Duration),
    Record {
        /// Absent: the scenario's, with the run's id behind it.
        name: Option<Template>,
        spec: RecordSpec,
    },
    /// Of this name; absent: all that the run records.
    StopRecording(Option<Template>),
    Replay {
        recording: Template,
        spec: Box<ReplaySpec>,
    },
    Http(Box<HttpStep>),
    Mark(String),
}

#[derive(Debug)]
pub struct SubscribeStep {
    filters: Vec<Template>,
    options: SubscriptionOptions,
    identifier: Option<u32>,
    pub within: Duration,
}

#[derive(Debug)]
pub struct UnsubscribeStep {
    filters: Vec<Template>,
    pub within: Duration,
}

#[derive(Debug)]
pub struct PublishStep {
    topic: Template,
    payload: Payload,
    qos: QoS,
    retain: bool,
    properties: PropertyTemplates,
    expiry: Option<u32>,
    /// At least 1.
    pub count: u64,
    pub every: Duration,
    pub spread: Duration,
    pub within: Duration,
    pub is_lossy: bool,
}

#[derive(Debug)]
pub struct HttpStep {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Absent: any from 200 to 299.
    pub status: Option<u16>,
    /// Of the answer's body.
    pub answer: Condition,
    /// Whether anything was said of the answer.
    pub expects: bool,
    pub within: Duration,
}

impl Step {
    /// Whether it, or one within it, expects something.
    pub fn expects(&self) -> bool {
        match &self.action {
            Action::Expect(_) | Action::ExpectState { .. } => true,
            Action::Http(http) => http.expects,
            Action::Replay { spec, .. } => spec.verify.is_some(),
            Action::Parallel(steps) | Action::Repeat { steps, .. } => steps.iter().any(Self::expects),
            _ => false,
        }
    }

    /// Itself, and all that are within it.
    pub fn walk(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        if let Action::Parallel(steps) | Action::Repeat { steps, .. } = &self.action {
            steps.iter().for_each(|step| step.walk(visit));
        }
    }

    /// Whether what it does draws from the seed of the server.
    pub fn uses_server_seed(&self) -> bool {
        matches!(self.action, Action::SetRule(_) | Action::Profile(_) | Action::SetMock(_))
    }
}

impl SubscribeStep {
    pub fn new(checks: &mut Checks, path: &str, spec: &SubscribeSpec, group: &Group) -> Option<Self> {
        let filters = read_filters(checks, path, &spec.filter.0);
        let qos = checks.keep(format!("{path}.qos"), QoS::try_from(spec.qos));
        let retain_handling = match spec.retain_handling {
            0 => Some(RetainHandling::Send),
            1 => Some(RetainHandling::SendIfNew),
            2 => Some(RetainHandling::DoNotSend),
            other => {
                checks.refuse(format!("{path}.retain_handling"), format_args!("is 0, 1 or 2, not {other}"));
                None
            }
        };
        let identifier = spec.subscription_identifier;
        if let Some(identifier) = identifier {
            checks.range(&format!("{path}.subscription_identifier"), identifier, 1, 268_435_455);
        }
        if !group.protocol.has_properties() {
            for (field, is_given) in [
                ("no_local", spec.no_local),
                ("retain_as_published", spec.retain_as_published),
                ("retain_handling", spec.retain_handling != 0),
                ("subscription_identifier", identifier.is_some()),
            ] {
                if is_given {
                    checks.refuse(
                        format!("{path}.{field}"),
                        format_args!("is of MQTT 5, and {} is not", group.name),
                    );
                }
            }
        }
        let options = SubscriptionOptions {
            qos: qos?,
            no_local: spec.no_local,
            retain_as_published: spec.retain_as_published,
            retain_handling: retain_handling?,
        };
        let within = spec.within.map_or(USUAL_PATIENCE, |span| span.0);
        Some(Self { filters: filters?, options, identifier, within })
    }

    /// # Errors
    /// What is no Topic Filter, for people.
    pub fn subscriptions(&self, stream: &mut Stream<'_>) -> Result<(Vec<Subscription>, Properties), String> {
        let filters = render_filters(&self.filters, stream)?;
        let options = self.options;
        let subscriptions = filters.into_iter().map(|filter| Subscription { filter, options }).collect();
        let mut properties = Properties::new();
        properties.0.extend(self.identifier.map(Property::SubscriptionIdentifier));
        Ok((subscriptions, properties))
    }
}

impl UnsubscribeStep {
    pub fn new(checks: &mut Checks, path: &str, spec: &UnsubscribeSpec) -> Option<Self> {
        let within = spec.within.map_or(USUAL_PATIENCE, |span| span.0);
        Some(Self { filters: read_filters(checks, path, &spec.filter.0)?, within })
    }

    /// # Errors
    /// What is no Topic Filter, for people.
    pub fn filters(&self, stream: &mut Stream<'_>) -> Result<Vec<TopicFilter>, String> {
        render_filters(&self.filters, stream)
    }
}

fn read_filters(checks: &mut Checks, path: &str, texts: &[String]) -> Option<Vec<Template>> {
    let path = format!("{path}.filter");
    if texts.is_empty() {
        checks.refuse(path, "is required");
        return None;
    }
    let mut filters = Vec::new();
    for text in texts {
        let template = read_template(checks, &path, text, &ROOTS)?;
        if let Some(literal) = template.as_literal() {
            checks.keep(&*path, TopicFilter::parse(literal))?;
        }
        filters.push(template);
    }
    Some(filters)
}

fn render_filters(templates: &[Template], stream: &mut Stream<'_>) -> Result<Vec<TopicFilter>, String> {
    let filters = templates.iter().map(|template| {
        let text = stream.render(template).map_err(|error| format!("filter: {error}"))?;
        TopicFilter::parse(&text).map_err(|error| format!("filter {text:?}: {error}"))
    });
    filters.collect()
}

impl PublishStep {
    pub fn new(checks: &mut Checks, path: &str, spec: &PublishSpec, group: &Group) -> Option<Self> {
        let at = |field: &str| format!("{path}.{field}");
        let topic = read_topic(checks, &at("topic"), &spec.topic);
        let payload = match (&spec.payload, &spec.payload_base64) {
            (Some(_), Some(_)) => {
                checks.refuse(at("payload"), "is said twice: payload and payload_base64 exclude each other");
                None
            }
            (_, Some(text)) => {
                let bytes = STANDARD.decode(text.trim()).map_err(|error| format!("is no base64: {error}"));
                checks.keep(at("payload_base64"), bytes).map(|bytes| Payload::Fixed(bytes.into()))
            }
            (payload, None) => read_payload(checks, &at("payload"), payload.as_ref(), &ROOTS),
        };
        if let Some(Payload::Fixed(bytes)) = &payload
            && bytes.len() > PAYLOAD_MAX
        {
            checks
                .refuse(at("payload"), format_args!("has at most {PAYLOAD_MAX} bytes, not {}", bytes.len()));
        }
        let qos = checks.keep(at("qos"), QoS::try_from(spec.qos));
        if !group.protocol.has_properties() && spec.properties != Default::default() {
            checks.refuse(at("properties"), format_args!("are of MQTT 5, and {} is not", group.name));
        }
        let properties = PropertyTemplates::new(checks, &at("properties"), &spec.properties);
        for template in properties.templates() {
            check_roots(checks, &at("properties"), template, &ROOTS);
        }
        let count = spec.count.unwrap_or(1);
        checks.range(&at("count"), count, 1, MESSAGES_MAX);
        Some(Self {
            topic: topic?,
            payload: payload?,
            qos: qos?,
            retain: spec.retain,
            properties,
            expiry: spec.properties.message_expiry_interval,
            count,
            every: spec.every.unwrap_or_default().0,
            spread: spec.spread.unwrap_or_default().0,
            within: spec.within.map_or(USUAL_PATIENCE, |span| span.0),
            is_lossy: spec.lossy,
        })
    }

    /// # Errors
    /// What cannot be, for people.
    pub fn publish(&self, stream: &mut Stream<'_>) -> Result<Publish, String> {
        let topic = stream.render(&self.topic).map_err(|error| format!("topic: {error}"))?;
        let topic = TopicName::parse(&topic).map_err(|error| format!("topic {topic:?}: {error}"))?;
        let payload = stream.payload(&self.payload).map_err(|error| format!("payload: {error}"))?;
        let mut properties = self.properties.render(|template| stream.render(template))?;
        properties.0.extend(self.expiry.map(Property::MessageExpiryInterval));
        Ok(Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: Some(topic),
            packet_identifier: None,
            properties,
            payload,
        })
    }
}

impl HttpStep {
    pub fn new(checks: &mut Checks, path: &str, spec: &HttpSpec) -> Option<Self> {
        let at = |field: &str| format!("{path}.{field}");
        let body = match &spec.body {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(Bytes::from(text.clone())),
            Some(other) => Some(Bytes::from(other.to_string())),
        };
        let method = match &spec.method {
            None if body.is_some() => Some(Method::POST),
            None => Some(Method::GET),
            Some(name) => {
                let method = Method::from_bytes(name.to_ascii_uppercase().as_bytes());
                checks.keep(at("method"), method.map_err(|_| format!("{name:?} is no method of HTTP")))
            }
        };
        let uri = spec.url.parse::<Uri>().map_err(|error| format!("{:?}: {error}", spec.url));
        let uri = checks.keep(at("url"), uri);
        if uri
            .as_ref()
            .is_some_and(|uri| !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none())
        {
            checks.refuse(
                at("url"),
                format_args!("{:?} begins neither with http:// nor with https://", spec.url),
            );
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &spec.headers {
            let path = at(&format!("headers.{name}"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is no name of a header");
            let name = checks.keep(&*path, name);
            let value = HeaderValue::from_str(value).map_err(|_| "has a value that no header can have");
            let value = checks.keep(&*path, value);
            headers.extend(name.zip(value).map(|(name, value)| (Some(name), value)));
        }
        if matches!(spec.body, Some(Value::Object(_) | Value::Array(_)))
            && !headers.contains_key("content-type")
        {
            headers.insert("content-type", HeaderValue::from_static("application/json"));
        }
        if let Some(status) = spec.expect.status {
            checks.range(&at("expect.status"), status, 100, 599);
        }
        let when = WhenSpec { payload: spec.expect.body.clone(), ..WhenSpec::default() };
        let answer = Condition::new(&when).map_err(|bad| {
            for field in bad.finish().err().unwrap_or_default() {
                let inside = field.path.strip_prefix("payload").unwrap_or(&field.path);
                checks.refuse(format!("{path}.expect.body{inside}"), field.what);
            }
        });
        Some(Self {
            method: method?,
            uri: uri?,
            headers,
            body: body.unwrap_or_default(),
            status: spec.expect.status,
            answer: answer.ok()?,
            expects: spec.expect.status.is_some() || !spec.expect.body.is_null(),
            within: spec.within.map_or(USUAL_PATIENCE, |span| span.0),
        })
    }
}

/// A scope and a key of the state store.
pub fn read_state_key(checks: &mut Checks, path: &str, spec: &StateSpec) -> Option<(StateScope, String)> {
    if spec.key.is_empty() {
        checks.refuse(format!("{path}.key"), "is required");
    }
    let scope = spec.scope.as_deref().unwrap_or("global");
    let scope = checks.keep(format!("{path}.scope"), StateScope::parse(scope));
    scope.filter(|_| !spec.key.is_empty()).map(|scope| (scope, spec.key.clone()))
}
