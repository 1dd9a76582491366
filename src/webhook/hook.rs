//! A webhook that was checked.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderName, Method};
use serde_json::Value;

use super::{
    Authorities, MASK, RoutedMessage, WEBHOOKS_MAX, WebhookSpec,
    mask::{is_masked, parameters},
    name_webhooks, request,
};
use crate::{
    field::{BadField, Checks},
    mock::{Captures, Condition, Needs, Payload, ReadFile, State, Subject, Template, check_id, read_filter},
    packet::TopicFilter,
};

/// Ten minutes, an hour and a day: what takes longer is not waited for.
const TIMEOUT_MS_MAX: u64 = 600_000;
const BACKOFF_MS_MAX: u64 = 3_600_000;
const BACKOFF_MAX_MS_MAX: u64 = 86_400_000;

/// Of a mask that nothing is known for.
const NO_VALUE: &str = "stands for a value that is not shown; write the value itself";

/// What HTTP says by itself, or we do.
const OWN_HEADERS: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    request::ATTEMPT,
    request::SIGNATURE,
    request::DELIVERY,
    request::WEBHOOK,
];

/// A [`WebhookSpec`] that can be carried out.
#[derive(Debug)]
pub struct Webhook {
    spec: WebhookSpec,
    filter: TopicFilter,
    pub(super) captures: Captures,
    condition: Condition,
    pub(super) url: Template,
    pub(super) method: Method,
    pub(super) headers: Vec<(HeaderName, Template)>,
    /// `None` for the message as JSON.
    pub(super) body: Option<Payload>,
    /// What all of its templates read.
    pub(super) needs: Needs,
    authorities: Option<Authorities>,
}

impl Webhook {
    /// `read_file` reads the file of authorities.
    ///
    /// # Errors
    /// All that is wrong, with the field it is wrong in.
    pub fn new(spec: WebhookSpec, read_file: ReadFile<'_>) -> Result<Self, Vec<BadField>> {
        let mut checks = Checks::default();
        check_id(&mut checks, &spec.id);
        check_ranges(&mut checks, &spec);
        let (filter, captures) = read_filter(&mut checks, "topic", &spec.topic);
        let condition = match spec.when.as_ref().map(Condition::new) {
            None => Condition::default(),
            Some(read) => read.unwrap_or_else(|bad| {
                checks.adopt("when", bad);
                Condition::default()
            }),
        };
        let url = read_url(&mut checks, &spec.url);
        let method = read_method(&mut checks, &spec.method);
        let mut needs = Needs::default();
        let headers = read_headers(&mut checks, &spec, |template| needs.add(template, &captures));
        let body = match &spec.body {
            None => Some(None),
            Some(Value::String(text)) => checks.keep("body", Payload::parse(text)).map(Some),
            Some(value) => checks.keep("body", Payload::parse(&value.to_string())).map(Some),
        };
        if let Some(template) = &url {
            checks.keep("url", needs.add(template, &captures));
        }
        for template in body.iter().flatten().flat_map(Payload::templates) {
            checks.keep("body", needs.add(template, &captures));
        }
        match spec.secret.as_ref().map(|secret| &*secret.0) {
            Some("") => checks.refuse("secret", "is empty"),
            Some(MASK) => checks.refuse("secret", NO_VALUE),
            _ => {}
        }
        let authorities = match &*spec.ca_file {
            "" => None,
            file => checks.keep("ca_file", read_file(file).and_then(|pem| Authorities::read(file, &pem))),
        };
        let parts = filter.zip(url).zip(method).zip(body);
        let made = parts.map(|(((filter, url), method), body)| Self {
            spec,
            filter,
            captures,
            condition,
            url,
            method,
            headers,
            body,
            needs,
            authorities,
        });
        checks.done(made)
    }

    pub fn id(&self) -> &str {
        &self.spec.id
    }

    pub fn spec(&self) -> &WebhookSpec {
        &self.spec
    }

    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    pub fn is_enabled(&self) -> bool {
        self.spec.enabled
    }

    /// Whether all of `when` but `nth` holds of a message that the filter matches.
    pub fn holds(&self, message: &RoutedMessage, state: &Mutex<State>) -> bool {
        if self.spec.when.is_none() {
            return true;
        }
        let subject = Subject::new(&message.occasion);
        if self.condition.check_message(&subject).is_err() {
            return false;
        }
        // Whoever routes messages may wait for this lock: it is taken for nothing but state.
        let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
        !self.condition.reads_state() || self.condition.check_state(&subject, &lock()).is_ok()
    }

    /// Whether the `number`-th message, from 1, that all else holds of is one of those asked for.
    pub fn is_turn(&self, number: u64) -> bool {
        self.condition.is_turn(number)
    }

    /// Whom an `https` receiver's certificate has to be of, instead of those whom the system trusts.
    pub fn authorities(&self) -> Option<&Authorities> {
        self.authorities.as_ref()
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.spec.timeout_ms)
    }

    pub fn backoff(&self) -> Duration {
        Duration::from_millis(self.spec.backoff_ms)
    }

    pub fn backoff_max(&self) -> Duration {
        Duration::from_millis(self.spec.backoff_max_ms)
    }
}

/// Whether `specs` can all be carried out together.
///
/// # Errors
/// The position of the first that cannot, and all that is wrong with it.
pub fn check_webhooks(specs: &[WebhookSpec], read_file: ReadFile<'_>) -> Result<(), (usize, Vec<BadField>)> {
    let wrong = |position, path: &str, what| (position, vec![BadField { path: path.to_owned(), what }]);
    if specs.len() > WEBHOOKS_MAX {
        return Err(wrong(WEBHOOKS_MAX, "", format!("is one too many: there are at most {WEBHOOKS_MAX}")));
    }
    let mut named = specs.to_vec();
    name_webhooks(&mut named, |_| false);
    let mut ids = HashSet::new();
    for (position, spec) in named.into_iter().enumerate() {
        if !ids.insert(spec.id.clone()) {
            return Err(wrong(position, "id", format!("{:?} is the id of another webhook", spec.id)));
        }
        Webhook::new(spec, read_file).map_err(|fields| (position, fields))?;
    }
    Ok(())
}

fn check_ranges(checks: &mut Checks, spec: &WebhookSpec) {
    for (path, value, min, max) in [
        ("timeout_ms", spec.timeout_ms, 1, TIMEOUT_MS_MAX),
        ("backoff_ms", spec.backoff_ms, 0, BACKOFF_MS_MAX),
        ("backoff_max_ms", spec.backoff_max_ms, 0, BACKOFF_MAX_MS_MAX),
    ] {
        if value < min || value > max {
            checks.refuse(path, format_args!("is {min} to {max} ms, not {value}"));
        }
    }
    if spec.backoff_ms > spec.backoff_max_ms {
        checks.refuse("backoff_max_ms", format_args!("is at least the backoff, {} ms", spec.backoff_ms));
    }
    checks.range("retries", spec.retries, 0, 100);
    checks.range("queue", spec.queue, 1, 1_000_000);
    checks.range("concurrency", spec.concurrency, 1, 64);
}

/// All of a literal is checked, of a template what stands before its first expression.
fn read_url(checks: &mut Checks, text: &str) -> Option<Template> {
    if text.is_empty() {
        checks.refuse("url", "is required");
        return None;
    }
    if parameters(text).any(|(name, value)| is_masked(name, value)) {
        checks.refuse("url", format_args!("{MASK} {NO_VALUE}"));
    }
    let template = checks.keep("url", Template::parse(text))?;
    match template.as_literal() {
        Some(literal) => {
            checks.keep("url", request::parse_url(literal))?;
        }
        None => {
            let start = text.split("{{").next().unwrap_or_default().to_ascii_lowercase();
            if !start.starts_with("http://") && !start.starts_with("https://") {
                checks.refuse("url", "begins with http:// or https://");
            }
        }
    }
    Some(template)
}

fn read_method(checks: &mut Checks, text: &str) -> Option<Method> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes());
    let method = checks.keep("method", method.map_err(|_| format!("{text:?} is no HTTP method")))?;
    if method == Method::CONNECT {
        checks.refuse("method", "CONNECT is for proxies");
    }
    Some(method)
}

/// `add_needs` says what is wrong with the values that a template reads.
fn read_headers(
    checks: &mut Checks,
    spec: &WebhookSpec,
    mut add_needs: impl FnMut(&Template) -> Result<(), String>,
) -> Vec<(HeaderName, Template)> {
    let mut headers: Vec<(HeaderName, Template)> = Vec::new();
    for (text, value) in &spec.headers {
        let path = format!("headers.{text}");
        let parsed = HeaderName::from_bytes(text.as_bytes()).map_err(|_| "is no name of a header");
        let Some(name) = checks.keep(&path, parsed) else { continue };
        if OWN_HEADERS.contains(&name.as_str()) {
            checks.refuse(&path, "is set by the server itself");
        }
        if headers.iter().any(|(other, _)| *other == name) {
            checks.refuse(&path, "stands twice: case makes no difference");
        }
        if is_masked(text, value) {
            checks.refuse(&path, NO_VALUE);
        }
        let Some(template) = checks.keep(&path, Template::parse(value)) else { continue };
        if let Some(literal) = template.as_literal() {
            checks.keep(&path, request::header_value(literal));
        }
        checks.keep(&path, add_needs(&template));
        headers.push((name, template));
    }
    headers
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;
    use crate::mock::{Occasion, StateScope};

    fn spec(fields: Value) -> WebhookSpec {
        let mut all = json!({"id": "h", "topic": "a/+", "url": "http://localhost:8080/x"});
        let Value::Object(fields) = fields else { panic!("fields of a spec") };
        all.as_object_mut().expect("an object").extend(fields);
        serde_json::from_value(all).expect("a spec")
    }

    fn no_file(path: &str) -> Result<Bytes, String> {
        Err(format!("{path}: there are no files here"))
    }

    #[track_caller]
    fn refused(fields: Value, expected: Expect) {
        let bad = Webhook::new(spec(fields), &no_file).expect_err("it is refused");
        let lines: Vec<String> = bad.iter().map(BadField::to_string).collect();
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn the_guides_webhook_is_good() {
        let fields = json!({
            "topic": "orders/+/created",
            "url": "http://localhost:8080/webhook/order",
            "method": "POST",
            "headers": {"X-Source": "mqtt"},
        });
        let webhook = Webhook::new(spec(fields), &no_file).expect("it is good");
        assert_eq!(webhook.filter().as_str(), "orders/+/created");
        assert_eq!(webhook.timeout(), Duration::from_secs(5));
        assert!(webhook.is_enabled() && webhook.body.is_none());
    }

    #[test]
    fn named_levels_are_single_level_wildcards() {
        let webhook = Webhook::new(spec(json!({"topic": "{{ site }}/x/{{device_id}}/#"})), &no_file)
            .expect("it is good");
        assert_eq!(webhook.filter().as_str(), "+/x/+/#");
    }

    #[test]
    fn every_error_is_told_with_its_field() {
        refused(
            json!({
                "id": "a b", "topic": "a/#/b", "url": "ftp://h", "method": "G T", "secret": "",
                "headers": {"Host": "x", "x y": "1", "X-A": "a\nb", "x-a": "c"},
                "timeout_ms": 0, "retries": 101, "queue": 0, "concurrency": 65, "backoff_ms": 31000,
            }),
            expect![[r#"
                id: has 1 to 128 letters, digits and -_.:@+, unlike "a b"
                timeout_ms: is 1 to 600000 ms, not 0
                backoff_max_ms: is at least the backoff, 31000 ms
                retries: is 0 to 100, not 101
                queue: is 1 to 1000000, not 0
                concurrency: is 1 to 64, not 65
                topic: level 1: '#' stands alone and last
                url: "ftp://h" does not begin with http:// or https://
                method: "G T" is no HTTP method
                headers.Host: is set by the server itself
                headers.X-A: a line break or another control character in a header's value
                headers.x y: is no name of a header
                headers.x-a: stands twice: case makes no difference
                secret: is empty"#]],
        );
        refused(
            json!({"topic": "", "url": ""}),
            expect![[r#"
            topic: is required
            url: is required"#]],
        );
    }

    #[test]
    fn a_mask_is_no_value() {
        refused(
            json!({"url": "http://h/?token=********", "headers": {"X-Key": "********"}, "secret": "********"}),
            expect![[r#"
                url: ******** stands for a value that is not shown; write the value itself
                headers.X-Key: stands for a value that is not shown; write the value itself
                secret: stands for a value that is not shown; write the value itself"#]],
        );
    }

    #[test]
    fn topics_and_urls_that_cannot_be() {
        for topic in ["a/x{{b}}", "{{1}}", "{{topic}}", "{{a}}/{{a}}", "$share/g/a"] {
            let bad = Webhook::new(spec(json!({"topic": topic})), &no_file).expect_err(topic);
            assert!(bad.iter().all(|bad| bad.path == "topic"), "{topic}: {bad:?}");
        }
        for url in ["http://", "h", "http://user:word@h/", "http://h:99999/", "{{payload.url}}", "/path"] {
            let bad = Webhook::new(spec(json!({"url": url})), &no_file).expect_err(url);
            assert!(bad.iter().all(|bad| bad.path == "url"), "{url}: {bad:?}");
        }
        for url in ["https://h", "http://[::1]:80/a?b=c d", "http://{{payload.host}}/x", "HTTP://h/é"] {
            Webhook::new(spec(json!({"url": url})), &no_file).expect(url);
        }
    }

    #[test]
    fn names_that_nothing_is_called_are_refused_in_every_template() {
        refused(
            json!({
                "topic": "a/{{device}}",
                "url": "http://h/{{devise}}",
                "headers": {"X-A": "{{topik}}", "X-B": "{{state.x}} {{device}}"},
                "body": {"a": ["{{payload.x}}", "{{ qso }}"]},
                "when": {"payload": {"$.a[": 1}, "nth": 0},
                "ca_file": "ca.pem",
            }),
            expect![[r#"
                when.payload.$.a[: "$.a[" is no JSONPath: it cannot be read from column 4 on
                when.nth: counts from 1
                headers.X-A: unknown value "topik"; did you mean "topic"?
                url: unknown value "devise"; did you mean "device"?
                body: unknown value "qso"; did you mean "qos"?
                ca_file: ca.pem: there are no files here"#]],
        );
    }

    #[test]
    fn a_condition_looks_at_message_and_state() {
        let when =
            json!({"client": "dev-*", "payload": {"$.v": {"gt": 3}}, "state": {"mode": "on"}, "nth": 2});
        let webhook = Webhook::new(spec(json!({"when": when})), &no_file).expect("it is good");
        let state = Mutex::new(State::default());
        let holds = |client: &str, payload: &'static str| {
            let occasion = Occasion {
                payload: Bytes::from_static(payload.as_bytes()),
                client_identifier: client.to_owned(),
                ..Occasion::default()
            };
            let at = jiff::Timestamp::UNIX_EPOCH;
            webhook.holds(&RoutedMessage { occasion, at }, &state)
        };
        assert!(!holds("dev-1", r#"{"v":4}"#));
        let mode = |value: &str| {
            state.lock().expect("no panic").set(&StateScope::Global, "mode", value.into()).expect("room")
        };
        mode("on");
        assert!(holds("dev-1", r#"{"v":4}"#));
        assert!(!holds("dev-1", r#"{"v":3}"#) && !holds("app", r#"{"v":4}"#) && !holds("dev-1", "x"));
        assert!(webhook.is_turn(2) && !webhook.is_turn(1) && !webhook.is_turn(3));
    }

    #[test]
    fn all_of_a_file_are_named_and_checked_together() {
        let of = |id: &str| spec(json!({"id": id}));
        assert_eq!(check_webhooks(&[of(""), of("webhook-1"), of("x")], &no_file), Ok(()));
        let twice = check_webhooks(&[of("x"), of(""), of("x")], &no_file).expect_err("an id stands twice");
        assert_eq!((twice.0, &*twice.1[0].path), (2, "id"));
        assert_eq!(check_webhooks(&vec![of(""); 1001], &no_file).expect_err("too many").0, 1000);
    }
}
