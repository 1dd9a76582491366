//! The rpcs of `Mocks`: what answers by itself.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Control, ControlError, blocking,
    fields::Fields,
    mask::{self, masked},
    page::PageRequest,
    pb, properties,
    state::{json_bytes, json_or_text},
    time,
};
use crate::{
    field::BadField,
    mock::{
        DelayDraw, DelaySpec, MockError, MockFigures, MockSpec, MockView, Mode, NthAmong, NthSpec, Occasion,
        OneOrMore, PropertiesSpec, RepeatSpec, ResponseSpec, Scope, TestSpec, Then, Trigger, USUAL_PRIORITY,
        UnmatchedMessage, WhenSpec,
    },
    net::MockHandle,
    packet::{Properties, TopicFilter, TopicName},
};

impl Control {
    pub async fn create_mock(&self, request: pb::CreateMockRequest) -> Result<pb::Mock, ControlError> {
        self.add_mock(checked(request.mock)?).map(shown)
    }

    /// CreateMock for callers in this process.
    ///
    /// # Errors
    /// As CreateMock: what is wrong with which field, an id that is taken, or too many of them.
    pub fn add_mock(&self, spec: MockSpec) -> Result<MockView, ControlError> {
        self.mocks()?.create(spec).map_err(refused)
    }

    pub async fn get_mock(&self, request: pb::GetMockRequest) -> Result<pb::Mock, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        self.mocks()?.get(&request.id).map(shown).map_err(refused)
    }

    pub async fn list_mocks(
        &self,
        request: pb::ListMocksRequest,
    ) -> Result<pb::ListMocksResponse, ControlError> {
        let page = PageRequest::new("mocks", request.page_size, &request.page_token)?;
        // In the order they were made, which a token cannot know of ids: so it counts.
        let mut mocks: Vec<(usize, MockView)> = self.mocks()?.list().into_iter().enumerate().collect();
        mocks.retain(|(_, mock)| request.enabled.is_none_or(|wanted| mock.mock.spec.enabled == wanted));
        let page = page.cut(mocks, |(position, _)| format!("{position:010}"), |(_, mock)| shown(mock));
        Ok(pb::ListMocksResponse { mocks: page.items, next_page_token: page.next, total_size: page.total })
    }

    pub async fn update_mock(&self, request: pb::UpdateMockRequest) -> Result<pb::Mock, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        let mocks = self.mocks()?;
        let given = request.mock.ok_or_else(|| ControlError::bad_field("mock", "is required"))?;
        let _turn = self.updating();
        let _changes = self.scenario_changes();
        let mask = mask::said(request.update_mask.as_ref());
        let mock = match mask {
            Some(_) => masked("Mock", mocks.get(&request.id).map(shown).map_err(refused)?, given, mask)?,
            None => given,
        };
        mocks.update(&request.id, checked(Some(mock))?).map(shown).map_err(refused)
    }

    pub async fn delete_mock(&self, request: pb::DeleteMockRequest) -> Result<(), ControlError> {
        Fields::require(&[("id", &request.id)])?;
        let mut changes = self.scenario_changes();
        self.mocks()?.delete(&request.id).map_err(refused)?;
        changes.mocks.remove(&request.id);
        Ok(())
    }

    pub async fn reset_mocks(&self, _: pb::ResetMocksRequest) -> Result<pb::ListMocksResponse, ControlError> {
        self.start_mocks_anew()?;
        self.list_mocks(pb::ListMocksRequest::default()).await
    }

    /// Those of the settings, whatever scenarios have changed.
    pub(super) fn start_mocks_anew(&self) -> Result<(), ControlError> {
        let mut changes = self.scenario_changes();
        self.mocks()?.reset();
        changes.mocks.clear();
        Ok(())
    }

    pub async fn fire_mock(
        &self,
        request: pb::FireMockRequest,
    ) -> Result<pb::FireMockResponse, ControlError> {
        let mut fields = Fields::new();
        fields.required("id", &request.id);
        if !request.topic.is_empty() {
            fields.keep("topic", TopicName::parse(&request.topic));
        }
        let properties = match &request.properties {
            Some(from) => properties::checked(&mut fields, "properties", from).0,
            None => Properties::new(),
        };
        fields.finish()?;
        let occasion = Occasion {
            topic: request.topic,
            payload: request.payload,
            properties,
            client_identifier: request.client_id,
            ..Occasion::default()
        };
        let scheduled = self.mocks()?.fire(&request.id, occasion).map_err(refused)?;
        Ok(pb::FireMockResponse { scheduled })
    }

    pub async fn list_unmatched(
        &self,
        request: pb::ListUnmatchedRequest,
    ) -> Result<pb::ListUnmatchedResponse, ControlError> {
        let filter = match &*request.topic {
            "" => None,
            text => Some(TopicFilter::parse(text).map_err(|error| ControlError::bad_field("topic", error))?),
        };
        let page = PageRequest::new("unmatched", request.page_size, &request.page_token)?;
        let mocks = self.mocks()?.clone();
        let unmatched = blocking(move || Ok(mocks.unmatched(filter.as_ref()))).await?;
        let page = page.cut_in_order(unmatched, shown_unmatched);
        Ok(pb::ListUnmatchedResponse {
            messages: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    /// All mocks for callers in this process, in the order in which they were made.
    pub fn mock_views(&self) -> Vec<MockView> {
        self.parts().mocks.list()
    }

    pub(super) fn mocks(&self) -> Result<&MockHandle, ControlError> {
        self.server()?;
        Ok(&self.parts().mocks)
    }
}

fn refused(error: MockError) -> ControlError {
    match error {
        MockError::Bad(fields) => {
            let in_request = |field: BadField| BadField { path: path(&field.path), ..field };
            ControlError::BadFields(fields.into_iter().map(in_request).collect())
        }
        MockError::Exists(id) => ControlError::MockExists { id },
        MockError::NotFound(id) => ControlError::MockNotFound { id },
        MockError::TooMany(count) => ControlError::TooManyMocks(count),
    }
}

/// Where in a request the field of a [`MockSpec`] is.
fn path(of_spec: &str) -> String {
    let path = match of_spec.strip_prefix("response") {
        // A single one is in the list, too.
        Some(rest) if rest.is_empty() || rest.starts_with('.') => format!("responses[0]{rest}"),
        _ => of_spec.to_owned(),
    };
    // Only of answers: keys of state and names of properties are people's own.
    let path = match path.starts_with("responses[") {
        true => path
            .replace("].delay_ms", "].delay")
            .replace("].payload_base64", "].payload_bytes")
            .replace("].repeat.count", "].repeat_count")
            .replace("].repeat.interval_ms", "].repeat_interval_ms")
            .replace("].properties.user.", "].properties.user_properties."),
        false => path,
    };
    if path.is_empty() { "mock".to_owned() } else { format!("mock.{path}") }
}

/// Only the form is checked here; what it means is the mock's to check.
fn checked(mock: Option<pb::Mock>) -> Result<MockSpec, ControlError> {
    let Some(mock) = mock else { return Err(ControlError::bad_field("mock", "is required")) };
    let mut fields = Fields::new();
    let fields_ref = &mut fields;
    let spec = MockSpec {
        id: mock.id,
        on: match fields_ref.choice("mock.on", mock.on) {
            Some(pb::MockTrigger::Subscribe) => Trigger::Subscribe,
            Some(pb::MockTrigger::Connect) => Trigger::Connect,
            Some(pb::MockTrigger::Interval) => Trigger::Interval,
            _ => Trigger::Publish,
        },
        topic: mock.topic,
        enabled: mock.enabled.unwrap_or(true),
        qos: small(fields_ref, "mock.qos", mock.qos),
        when: mock.when.map(|when| condition(fields_ref, "mock.when", when)),
        priority: mock.priority.unwrap_or(USUAL_PRIORITY),
        goes_on: mock.r#continue,
        route: mock.route.unwrap_or(true),
        reply_to: (!mock.reply_to.is_empty()).then_some(mock.reply_to),
        interval_ms: mock.interval_ms,
        response: None,
        responses: mock
            .responses
            .into_iter()
            .enumerate()
            .map(|(index, response)| answer(fields_ref, &format!("mock.responses[{index}]"), response))
            .collect(),
        mode: match fields_ref.choice("mock.mode", mock.mode) {
            Some(pb::MockMode::Sequence) => Mode::Sequence,
            Some(pb::MockMode::Random) => Mode::Random,
            Some(pb::MockMode::Weighted) => Mode::Weighted,
            _ => Mode::All,
        },
        then: match fields_ref.choice("mock.then", mock.then) {
            Some(pb::MockThen::Last) => Then::Last,
            Some(pb::MockThen::Stop) => Then::Stop,
            _ => Then::Repeat,
        },
        scope: match fields_ref.choice("mock.scope", mock.scope) {
            Some(pb::MockScope::Client) => Scope::Client,
            _ => Scope::Global,
        },
        set_state: mock
            .set_state
            .into_iter()
            .map(|(key, value)| {
                let value = text_or_json(fields_ref, &format!("mock.set_state.{key}"), &value.value);
                (key, value)
            })
            .collect(),
        trigger_on_synthetic: mock.trigger_on_synthetic,
    };
    fields.finish()?;
    Ok(spec)
}

/// The conditions of a mock or a webhook.
pub fn condition(fields: &mut Fields, path: &str, when: pb::MockCondition) -> WhenSpec {
    let mut payload: Map<String, Value> = match when.payload_text {
        Some(test) => match value_test(fields, &format!("{path}.payload_text"), test) {
            Value::Object(tests) => tests,
            _ => Map::new(),
        },
        None => Map::new(),
    };
    for (key, test) in when.payload {
        if !key.starts_with('$') {
            fields.refuse(format!("{path}.payload.{key}"), "a JSONPath begins with $");
        }
        let test = value_test(fields, &format!("{path}.payload.{key}"), test);
        payload.insert(key, test);
    }
    let mut tests =
        |name: &str, from: std::collections::HashMap<String, pb::ValueTest>| -> BTreeMap<String, Value> {
            let read = |(key, test): (String, pb::ValueTest)| {
                let test = value_test(fields, &format!("{path}.{name}.{key}"), test);
                (key, test)
            };
            from.into_iter().map(read).collect()
        };
    let user = tests("user", when.user);
    let state = tests("state", when.state);
    let qos: Vec<u8> = when.qos.iter().map(|&qos| small(fields, &format!("{path}.qos"), qos)).collect();
    WhenSpec {
        client: when.client,
        qos: (!qos.is_empty()).then_some(OneOrMore::More(qos)),
        retain: when.retain,
        payload: if payload.is_empty() { Value::Null } else { Value::Object(payload) },
        user,
        state,
        nth: when.nth.map(|nth| match nth.is {
            Some(is) if nth.first.is_none() && nth.after.is_none() && nth.every.is_none() => NthSpec::One(is),
            is => {
                if is.is_some() {
                    fields.refuse(format!("{path}.nth.is"), "stands alone");
                }
                NthSpec::Among(NthAmong { first: nth.first, after: nth.after, every: nth.every })
            }
        }),
    }
}

fn value_test(fields: &mut Fields, path: &str, test: pb::ValueTest) -> Value {
    let spec = TestSpec {
        equals: test.equals.map(|bytes| text_or_json(fields, path, &bytes)),
        regex: test.regex,
        exists: test.exists,
        gt: test.gt,
        gte: test.gte,
        lt: test.lt,
        lte: test.lte,
    };
    serde_json::to_value(&spec).unwrap_or_default()
}

fn text_or_json(fields: &mut Fields, path: &str, bytes: &[u8]) -> Value {
    json_or_text(bytes).unwrap_or_else(|error| {
        fields.refuse(path, error);
        Value::Null
    })
}

/// A number that a byte holds; what is larger is no QoS either.
fn small(fields: &mut Fields, path: &str, value: u32) -> u8 {
    u8::try_from(value).unwrap_or_else(|_| {
        fields.refuse(path, format_args!("is 0, 1 or 2, not {value}"));
        0
    })
}

fn answer(fields: &mut Fields, path: &str, response: pb::MockResponse) -> ResponseSpec {
    let payload = response.payload.map(|bytes| match std::str::from_utf8(&bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => {
            fields.refuse(format!("{path}.payload"), "is UTF-8; other bytes go into payload_bytes");
            Value::Null
        }
    });
    ResponseSpec {
        payload,
        payload_file: (!response.payload_file.is_empty()).then_some(response.payload_file),
        payload_base64: response.payload_bytes.map(|bytes| STANDARD.encode(&bytes)),
        topic: (!response.topic.is_empty()).then_some(response.topic),
        qos: response.qos.map(|qos| small(fields, &format!("{path}.qos"), qos)),
        retain: response.retain,
        delay_ms: response.delay.and_then(|delay| delay.delay).map(delay),
        properties: response.properties.map(|from| answer_properties(fields, path, from)).unwrap_or_default(),
        repeat: (response.repeat_count > 0 || response.repeat_interval_ms > 0).then(|| RepeatSpec {
            count: response.repeat_count.max(1),
            interval_ms: response.repeat_interval_ms,
        }),
        weight: response.weight,
    }
}

fn answer_properties(fields: &mut Fields, path: &str, from: pb::MockProperties) -> PropertiesSpec {
    let mut user = BTreeMap::new();
    for (index, property) in from.user_properties.into_iter().enumerate() {
        if user.insert(property.name, property.value).is_some() {
            fields.refuse(format!("{path}.properties.user_properties[{index}].name"), "is there already");
        }
    }
    PropertiesSpec {
        payload_format_indicator: from
            .payload_format_indicator
            .map(|value| small(fields, &format!("{path}.properties.payload_format_indicator"), value)),
        message_expiry_interval: from.message_expiry_interval,
        content_type: from.content_type,
        response_topic: from.response_topic,
        correlation_data: from.correlation_data,
        user,
    }
}

fn delay(delay: pb::mock_delay::Delay) -> DelaySpec {
    use pb::mock_delay::Delay;
    DelaySpec::Drawn(match delay {
        Delay::FixedMs(delay) => return DelaySpec::Fixed(delay),
        Delay::Uniform(pb::UniformDelay { min_ms, max_ms }) => {
            DelayDraw { min: Some(min_ms), max: Some(max_ms), ..DelayDraw::default() }
        }
        Delay::Normal(pb::NormalDelay { mean_ms, sd_ms }) => {
            DelayDraw { mean: Some(mean_ms), sd: Some(sd_ms), ..DelayDraw::default() }
        }
        Delay::Lognormal(pb::LognormalDelay { median_ms, sigma }) => {
            DelayDraw { median: Some(median_ms), sigma: Some(sigma), ..DelayDraw::default() }
        }
    })
}

/// A mock as the API takes it.
pub fn mock_message(spec: MockSpec) -> pb::Mock {
    shown_as(spec, MockFigures::default(), false)
}

/// A mock as the API shows it, which it also takes.
fn shown(view: MockView) -> pb::Mock {
    shown_as(view.mock.spec.clone(), view.figures, view.from_settings)
}

fn shown_as(spec: MockSpec, figures: MockFigures, from_settings: bool) -> pb::Mock {
    pb::Mock {
        id: spec.id,
        on: match spec.on {
            Trigger::Publish => pb::MockTrigger::Publish,
            Trigger::Subscribe => pb::MockTrigger::Subscribe,
            Trigger::Connect => pb::MockTrigger::Connect,
            Trigger::Interval => pb::MockTrigger::Interval,
        }
        .into(),
        topic: spec.topic,
        enabled: Some(spec.enabled),
        qos: spec.qos.into(),
        when: spec.when.map(shown_condition),
        priority: Some(spec.priority),
        r#continue: spec.goes_on,
        route: Some(spec.route),
        reply_to: spec.reply_to.unwrap_or_default(),
        interval_ms: spec.interval_ms,
        responses: spec.response.into_iter().chain(spec.responses).map(shown_answer).collect(),
        mode: match spec.mode {
            Mode::All => pb::MockMode::All,
            Mode::Sequence => pb::MockMode::Sequence,
            Mode::Random => pb::MockMode::Random,
            Mode::Weighted => pb::MockMode::Weighted,
        }
        .into(),
        then: match spec.then {
            Then::Repeat => pb::MockThen::Repeat,
            Then::Last => pb::MockThen::Last,
            Then::Stop => pb::MockThen::Stop,
        }
        .into(),
        scope: match spec.scope {
            Scope::Global => pb::MockScope::Global,
            Scope::Client => pb::MockScope::Client,
        }
        .into(),
        set_state: spec
            .set_state
            .into_iter()
            .map(|(key, value)| (key, pb::StateValue { value: json_bytes(&value) }))
            .collect(),
        trigger_on_synthetic: spec.trigger_on_synthetic,
        fired: figures.fired,
        sent: figures.sent,
        failed: figures.failed,
        last_error: figures.last_error.unwrap_or_default(),
        last_fired_at: figures.last_fired_at.map(time::timestamp_of_jiff),
        from_settings,
    }
}

/// The other way round.
pub fn shown_condition(when: WhenSpec) -> pb::MockCondition {
    let tests = |from: BTreeMap<String, Value>| {
        from.into_iter()
            .map(|(key, test)| (key, shown_test(test)))
            .collect::<std::collections::HashMap<_, _>>()
    };
    let (payload, payload_text) = match when.payload {
        Value::Null => (Map::new(), None),
        Value::Object(all) => {
            let (paths, whole): (Map<_, _>, Map<_, _>) =
                all.into_iter().partition(|(key, _)| key.starts_with('$'));
            (paths, (!whole.is_empty()).then(|| shown_test(Value::Object(whole))))
        }
        plain => (Map::new(), Some(shown_test(plain))),
    };
    pb::MockCondition {
        client: when.client,
        qos: match when.qos {
            None => Vec::new(),
            Some(OneOrMore::One(qos)) => vec![qos.into()],
            Some(OneOrMore::More(several)) => several.into_iter().map(u32::from).collect(),
        },
        retain: when.retain,
        payload: payload.into_iter().map(|(key, test)| (key, shown_test(test))).collect(),
        payload_text,
        user: tests(when.user),
        state: tests(when.state),
        nth: when.nth.map(|nth| match nth {
            NthSpec::One(is) => pb::MockNth { is: Some(is), ..Default::default() },
            NthSpec::Among(NthAmong { first, after, every }) => pb::MockNth { is: None, first, after, every },
        }),
    }
}

fn shown_test(test: Value) -> pb::ValueTest {
    let spec = match test {
        Value::Object(_) => serde_json::from_value(test).unwrap_or_default(),
        plain => TestSpec { equals: Some(plain), ..TestSpec::default() },
    };
    pb::ValueTest {
        equals: spec.equals.as_ref().map(json_bytes),
        regex: spec.regex,
        exists: spec.exists,
        gt: spec.gt,
        gte: spec.gte,
        lt: spec.lt,
        lte: spec.lte,
    }
}

fn shown_answer(response: ResponseSpec) -> pb::MockResponse {
    use pb::mock_delay::Delay;
    let bytes = response.payload_base64.and_then(|text| STANDARD.decode(text.trim()).ok()).map(Bytes::from);
    pb::MockResponse {
        payload: response.payload.map(|payload| match payload {
            // A template, whatever it looks like.
            Value::String(text) => text.into(),
            other => other.to_string().into(),
        }),
        payload_bytes: bytes,
        payload_file: response.payload_file.unwrap_or_default(),
        topic: response.topic.unwrap_or_default(),
        qos: response.qos.map(u32::from),
        retain: response.retain,
        delay: response.delay_ms.map(|delay| {
            let of = |one: Option<f64>| one.unwrap_or_default();
            let delay = match delay {
                DelaySpec::Fixed(delay) => Delay::FixedMs(delay),
                DelaySpec::Drawn(draw) if draw.mean.is_some() => {
                    Delay::Normal(pb::NormalDelay { mean_ms: of(draw.mean), sd_ms: of(draw.sd) })
                }
                DelaySpec::Drawn(draw) if draw.median.is_some() => {
                    Delay::Lognormal(pb::LognormalDelay { median_ms: of(draw.median), sigma: of(draw.sigma) })
                }
                DelaySpec::Drawn(draw) => {
                    Delay::Uniform(pb::UniformDelay { min_ms: of(draw.min), max_ms: of(draw.max) })
                }
            };
            pb::MockDelay { delay: Some(delay) }
        }),
        properties: (response.properties != PropertiesSpec::default()).then(|| pb::MockProperties {
            payload_format_indicator: response.properties.payload_format_indicator.map(u32::from),
            message_expiry_interval: response.properties.message_expiry_interval,
            content_type: response.properties.content_type,
            response_topic: response.properties.response_topic,
            correlation_data: response.properties.correlation_data,
            user_properties: response
                .properties
                .user
                .into_iter()
                .map(|(name, value)| pb::UserProperty { name, value })
                .collect(),
        }),
        repeat_count: response.repeat.map_or(0, |repeat| repeat.count),
        repeat_interval_ms: response.repeat.map_or(0, |repeat| repeat.interval_ms),
        weight: response.weight,
    }
}

fn shown_unmatched(message: UnmatchedMessage) -> pb::UnmatchedMessage {
    pb::UnmatchedMessage {
        topic: message.topic,
        client_id: message.client_identifier,
        payload: message.payload,
        qos: u8::from(message.qos).into(),
        count: message.count,
        at: Some(time::timestamp_of_jiff(message.at)),
        nearest: message.nearest,
        difference: message.difference,
    }
}
