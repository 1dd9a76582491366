//! The request that a message becomes.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header,
    uri::{PathAndQuery, Scheme},
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sha2::Sha256;

use super::{RoutedMessage, Secret, Webhook, masked_url};
use crate::{
    mock::{Reading, RenderError, Renderer, Subject, Surroundings, Template},
    trace::{TRACEPARENT, TRACESTATE, TraceContext, user_property},
};

pub(super) const SIGNATURE: &str = "x-mockforge-signature";
pub(super) const DELIVERY: &str = "x-mockforge-delivery";
pub(super) const WEBHOOK: &str = "x-mockforge-webhook";
pub(super) const ATTEMPT: &str = "x-mockforge-attempt";

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("mockforge/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What no URL may hold, and topics and payloads do; what is not ASCII is encoded anyway.
const UNFIT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What rendering needs beside the message.
pub struct Rendering<'a> {
    pub renderer: &'a mut Renderer,
    pub around: Surroundings,
    /// Of the messages of this webhook, from 1.
    pub count: u64,
}

/// Why a message cannot be sent. Trying again would not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("{field}: {error}")]
    Template { field: String, error: RenderError },
    #[error("url: {0}")]
    Url(String),
    #[error("headers.{name}: {error}")]
    Header { name: String, error: &'static str },
}

/// A request, the same for each attempt but for what [`attempt`](Self::attempt) adds.
#[derive(Clone, Debug)]
pub struct Draft {
    pub url: Uri,
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Webhook {
    /// `body` is that of a delivery that is sent again.
    ///
    /// # Errors
    /// [`BadRequest`] when a template cannot be rendered, or makes no URL or no header.
    pub fn draft(
        &self,
        message: &RoutedMessage,
        body: Option<Bytes>,
        rendering: Rendering<'_>,
    ) -> Result<Draft, BadRequest> {
        let Rendering { renderer, around, count } = rendering;
        let subject = Subject::new(&message.occasion);
        let values =
            self.needs.values(&Reading { subject: &subject, count, around: &around }, &self.captures);
        // Each field has a stream of draws, and each template in it a place in that.
        let mut render = |field: &str, part: u64, template: &Template| {
            let around = Surroundings { draws: around.draws.of(field).nth(part), ..around.clone() };
            renderer.render(template, &values, around)
        };
        let failed = |field: &str, error| BadRequest::Template { field: field.to_owned(), error };
        let url = render("url", 0, &self.url).map_err(|error| failed("url", error))?;
        let url = parse_url(&url).map_err(BadRequest::Url)?;
        let mut headers = HeaderMap::from_iter([(header::USER_AGENT, USER_AGENT)]);
        for (name, template) in &self.headers {
            let field = format!("headers.{name}");
            let text = render(&field, 0, template).map_err(|error| failed(&field, error))?;
            let value = header_value(&text);
            let value = value.map_err(|error| BadRequest::Header { name: name.to_string(), error })?;
            headers.insert(name, value);
        }
        // The receiver's part of the trace is a child of the message's.
        let properties = &message.occasion.properties;
        if !headers.contains_key(TRACEPARENT) && TraceContext::of(properties).is_some() {
            for name in [TRACEPARENT, TRACESTATE] {
                let value = user_property(properties, name).and_then(|text| header_value(text).ok());
                if let Some(value) = value {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
        }
        let is_bare = self.body.is_none() && [Method::GET, Method::HEAD].contains(&self.method);
        let body = match (body, &self.body) {
            (Some(body), _) => body,
            (None, Some(body)) => {
                let mut parts = 0..;
                let next = |template: &Template| render("body", parts.next().unwrap_or_default(), template);
                body.render(next).map_err(|error| failed("body", error))?
            }
            (None, None) if is_bare => Bytes::new(),
            (None, None) => message.to_json(),
        };
        if !is_bare && !headers.contains_key(header::CONTENT_TYPE) {
            let is_json =
                self.body.is_none() || serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
            headers.insert(header::CONTENT_TYPE, if is_json { JSON } else { TEXT });
        }
        Ok(Draft { url, method: self.method.clone(), headers, body })
    }
}

impl Draft {
    /// The request of one attempt, `number` counting from 1.
    pub fn attempt(
        &self,
        webhook: &Webhook,
        delivery: &str,
        number: u32,
        unix_seconds: i64,
    ) -> Request<Bytes> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.url.clone();
        let mut headers = self.headers.clone();
        let mut insert = |name: &'static str, value: &str| {
            headers.insert(name, header_value(value).expect("letters, digits and signs"));
        };
        insert(DELIVERY, delivery);
        insert(WEBHOOK, webhook.id());
        insert(ATTEMPT, &number.to_string());
        if let Some(secret) = &webhook.spec().secret {
            insert(SIGNATURE, &signature(secret, unix_seconds, &self.body));
        }
        *request.headers_mut() = headers;
        request
    }
}

/// What the header says: `t=…,v1=…`, the second being the HMAC-SHA-256 of `{unix_seconds}.{body}` in hexadecimal digits.
pub fn signature(secret: &Secret, unix_seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.0.as_bytes()).expect("a key has any length");
    mac.update(format!("{unix_seconds}.").as_bytes());
    mac.update(body);
    let mut text = format!("t={unix_seconds},v1=");
    for byte in mac.finalize().into_bytes() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// An absolute URL over http or https. Characters that none may hold are encoded.
pub(super) fn parse_url(text: &str) -> Result<Uri, String> {
    let wrong = |what: &str| format!("{:?} {what}", masked_url(text));
    let fit: String = utf8_percent_encode(text.trim(), UNFIT).collect();
    let url: Uri = fit.parse().map_err(|_| wrong("is no URL"))?;
    let mut parts = url.into_parts();
    if ![Some(Scheme::HTTP), Some(Scheme::HTTPS)].contains(&parts.scheme) {
        return Err(wrong("does not begin with http:// or https://"));
    }
    let Some(authority) = parts.authority.as_ref().filter(|authority| !authority.host().is_empty()) else {
        return Err(wrong("names no host"));
    };
    if authority.as_str().contains('@') {
        return Err("holds a user: credentials belong into the header Authorization".to_owned());
    }
    let has_port = authority.as_str().rsplit(']').next().is_some_and(|end| end.contains(':'));
    if has_port && authority.port_u16().is_none() {
        return Err(wrong("has no port from 0 to 65535"));
    }
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    Uri::from_parts(parts).map_err(|_| wrong("is no URL"))
}

pub(super) fn header_value(text: &str) -> Result<HeaderValue, &'static str> {
    HeaderValue::from_str(text).map_err(|_| "a line break or another control character in a header's value")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::{
        draws::Draws,
        mock::{Occasion, State, StateScope},
        webhook::WebhookSpec,
    };

    fn draft(fields: &str, body: Option<&'static str>) -> Result<(Webhook, Draft), BadRequest> {
        let mut spec: WebhookSpec = serde_json::from_str(fields).expect("a spec");
        spec.id = "h".to_owned();
        spec.topic = "a/{{device}}".to_owned();
        if spec.url.is_empty() {
            spec.url = "http://localhost/x".to_owned();
        }
        let webhook = Webhook::new(spec, &|_| Err("no file".to_owned())).expect("a good spec");
        let occasion = Occasion {
            topic: "a/d1".to_owned(),
            payload: Bytes::from_static(b"say \"on\""),
            ..Occasion::default()
        };
        let message = RoutedMessage { occasion, at: jiff::Timestamp::UNIX_EPOCH };
        let mut state = State::default();
        state.set(&StateScope::Global, "line", "3".into()).expect("there is room");
        let around = Surroundings {
            draws: Draws::new(1),
            now: jiff::Timestamp::UNIX_EPOCH,
            state: Arc::new(Mutex::new(state)),
        };
        let mut renderer = Renderer::new(BTreeMap::new());
        let rendering = Rendering { renderer: &mut renderer, around, count: 1 };
        let draft =
            webhook.draft(&message, body.map(|body| Bytes::from_static(body.as_bytes())), rendering)?;
        Ok((webhook, draft))
    }

    #[track_caller]
    fn content(fields: &str) -> (Option<String>, Bytes) {
        let draft = draft(fields, None).expect("it renders").1;
        let content_type = draft.headers.get(header::CONTENT_TYPE);
        (content_type.map(|value| value.to_str().expect("text").to_owned()), draft.body)
    }

    #[test]
    fn content_types_fit_the_body_unless_a_header_says_another() {
        let (json, text) =
            (Some("application/json".to_owned()), Some("text/plain; charset=utf-8".to_owned()));
        assert_eq!(content("{}").0, json);
        assert_eq!(content(r#"{"body":{"a":[1]}}"#), (json, Bytes::from_static(b"{\"a\":[1]}")));
        assert_eq!(content(r#"{"body":"a = 1"}"#), (text, Bytes::from_static(b"a = 1")));
        assert_eq!(
            content(r#"{"body":"a=1","headers":{"content-type":"application/x-www-form-urlencoded"}}"#).0,
            Some("application/x-www-form-urlencoded".to_owned())
        );
    }

    #[test]
    fn templates_read_message_state_and_count_and_json_stays_json() {
        let body = r#"{"body":{"device":"{{device}}","was":"{{payload_raw}}","line":"{{state.line}}","n":"{{count}}"}}"#;
        assert_eq!(content(body).1, r#"{"device":"d1","line":"3","n":"1","was":"say \"on\""}"#);
        let fields = r#"{"url":"http://h/{{device}}","headers":{"X-A":"{{topic}}"},"body":{"a":"{{uuid}}","b":"{{uuid}}"}}"#;
        let draft = draft(fields, None).expect("it renders").1;
        assert_eq!((draft.url.path(), &draft.headers["x-a"]), ("/d1", &HeaderValue::from_static("a/d1")));
        let body: std::collections::HashMap<String, String> =
            serde_json::from_slice(&draft.body).expect("JSON");
        assert_ne!(body["a"], body["b"]);
    }

    #[test]
    fn a_get_has_no_body_unless_it_is_given_one() {
        assert_eq!(content(r#"{"method":"get"}"#), (None, Bytes::new()));
        assert_eq!(content(r#"{"method":"GET","body":"x"}"#).1, "x");
    }

    #[test]
    fn an_attempt_says_which_it_is_and_is_signed() {
        let (webhook, draft) =
            draft(r#"{"secret":"key","headers":{"X-Source":"mqtt"}}"#, Some("{}")).expect("it renders");
        let request = draft.attempt(&webhook, "01J", 3, 1700000000);
        let header = |name: &str| request.headers()[name].to_str().expect("text");
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/x"));
        assert_eq!(header("x-source"), "mqtt");
        assert_eq!(header("user-agent"), concat!("mockforge/", env!("CARGO_PKG_VERSION")));
        assert_eq!([header(DELIVERY), header(WEBHOOK), header(ATTEMPT)], ["01J", "h", "3"]);
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        assert_eq!(
            header(SIGNATURE),
            "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
        );
        assert_ne!(header(SIGNATURE), signature(&Secret("key".to_owned()), 1700000001, b"{}"));
    }

    #[test]
    fn urls_take_what_topics_hold() {
        let url = |text: &str| parse_url(text).map(|url| url.to_string());
        assert_eq!(url("http://h").as_deref(), Ok("http://h/"));
        assert_eq!(url("http://h/a b/é?x={\"y\"}").as_deref(), Ok("http://h/a%20b/%C3%A9?x=%7B%22y%22%7D"));
        assert_eq!(url("https://[::1]:8443/a%20b").as_deref(), Ok("https://[::1]:8443/a%20b"));
        assert!(
            url("http://a b/").is_err() && url("http:///x").is_err() && url("http://h\r\nX: y/").is_err()
        );
    }
}
