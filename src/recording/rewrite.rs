//! Other names for clients and topics: the same recording as it would be of others.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use regex::Regex;

use super::{ClientNames, Connections, Direction, Event, EventKind, NamePattern, TimeShift};
use crate::packet::{
    ControlPacket, Properties, Property, ProtocolVersion, TopicFilter, TopicName, Utf8String,
};

/// What is called otherwise, and is of another time.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    topics: Vec<(Regex, String)>,
    clients: Option<NameTemplate>,
    /// Of a template that does not tell clients apart: whose it is. Empty means all.
    named: Vec<NamePattern>,
    /// Levels of topics that are one of these are called as their clients are.
    followed: Arc<ClientNames>,
    times: Option<Arc<TimeShift>>,
}

/// Why a rule of rewriting cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRewrite {
    #[error("{0:?} is not PATTERN=TOPIC")]
    NoTopic(String),
    #[error("{topic:?} {reason}")]
    Topic { topic: String, reason: String },
    #[error("{pattern:?}: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("{{{{{0}}}}} is none of client_id, run_id and i")]
    Name(String),
    #[error("{{{{ is not closed")]
    Open,
}

/// A client identifier with `{{client_id}}`, `{{run_id}}` and `{{i}}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Client,
    Run,
    Copy,
}

impl NameTemplate {
    /// # Errors
    /// [`BadRewrite`] for another name, or braces that are not closed.
    pub fn parse(text: &str) -> Result<Self, BadRewrite> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, after) = behind.split_once("}}").ok_or(BadRewrite::Open)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(match name.trim() {
                "client_id" => Piece::Client,
                "run_id" => Piece::Run,
                "i" => Piece::Copy,
                other => return Err(BadRewrite::Name(other.to_owned())),
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// `name`, whoever it is for.
    pub(in crate::recording) fn exactly(name: &str) -> Self {
        Self(vec![Piece::Text(name.to_owned())])
    }

    /// Whether it tells clients apart.
    pub fn has_client(&self) -> bool {
        self.0.contains(&Piece::Client)
    }

    /// Whether it tells copies apart.
    pub fn has_copy(&self) -> bool {
        self.0.contains(&Piece::Copy)
    }

    /// Whether a name says which copy of `run` it is of: where the number stands first or last, and no digit can be next to it.
    fn shows_copy(&self, run: &str) -> bool {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            Piece::Run => Some(run.to_owned()),
            Piece::Client | Piece::Copy => None,
        };
        let is_digit = |at: Option<char>| at.is_some_and(|at| at.is_ascii_digit());
        let is_shown = |pieces: &[&Piece], next_to: fn(&str) -> Option<char>| {
            let mut behind = pieces.iter().skip_while(|piece| text(piece).is_some());
            behind.next() == Some(&&Piece::Copy)
                && behind.next().is_none_or(|piece| {
                    text(piece).is_some_and(|text| !text.is_empty() && !is_digit(next_to(&text)))
                })
        };
        let forth: Vec<_> = self.0.iter().collect();
        let back: Vec<_> = self.0.iter().rev().collect();
        is_shown(&forth, |text| text.chars().next()) || is_shown(&back, |text| text.chars().next_back())
    }

    /// Whether `name` may be that of `client`, in any copy of any run.
    pub fn fits(&self, name: &str, client: &str) -> bool {
        // Texts with anything between them.
        let mut texts = vec![String::new()];
        for piece in &self.0 {
            let last = texts.last_mut().expect("it begins with one");
            match piece {
                Piece::Text(text) => last.push_str(text),
                Piece::Client => last.push_str(client),
                Piece::Run | Piece::Copy => texts.push(String::new()),
            }
        }
        let [first, middle @ .., last] = &texts[..] else { return name == texts[0] };
        let rest = name.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str()));
        let Some(mut rest) = rest else { return false };
        middle.iter().all(|text| match rest.split_once(text.as_str()) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        })
    }

    /// The name of `client` in copy `copy` of run `run`.
    pub fn name(&self, client: &str, run: &str, copy: u32) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Client => client.to_owned(),
            Piece::Run => run.to_owned(),
            Piece::Copy => copy.to_string(),
        };
        self.0.iter().map(piece).collect()
    }
}

/// Whether a topic that is made of the groups of `pattern` can be one.
fn check_topic(topic: &str, pattern: &Regex) -> Result<(), String> {
    if topic.is_empty() || topic.contains(['#', '+', '\0']) {
        return Err("is no topic: it is empty, or has a wildcard in it".to_owned());
    }
    let mut rest = topic;
    while let Some((_, behind)) = rest.split_once('$') {
        rest = behind.strip_prefix('$').unwrap_or(behind);
        if rest.len() < behind.len() {
            continue;
        }
        let name: &str = match behind.strip_prefix('{') {
            Some(inner) => inner.split('}').next().unwrap_or_default(),
            // The longest name there is, as in the replacement.
            None => {
                let end = behind.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
                &behind[..end.unwrap_or(behind.len())]
            }
        };
        let is_known = match name.parse::<usize>() {
            Ok(number) => number < pattern.captures_len(),
            Err(_) => name.is_empty() || pattern.capture_names().flatten().any(|known| known == name),
        };
        if !is_known {
            return Err(format!("has ${{{name}}}, and the pattern no such group"));
        }
    }
    Ok(())
}

impl Rewrite {
    /// Topics that match a pattern of `PATTERN=TOPIC` as a whole become the topic, in which `$1` is what the first group
    /// matched; the first pattern that matches counts. Topic Filters are taken for topics.
    ///
    /// # Errors
    /// [`BadRewrite`] for a rule without a topic or with a pattern that is none.
    pub fn new(topics: &[String], clients: Option<NameTemplate>) -> Result<Self, BadRewrite> {
        let rule = |text: &String| {
            let (pattern, topic) = text.split_once('=').ok_or_else(|| BadRewrite::NoTopic(text.clone()))?;
            let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(|error| BadRewrite::Pattern {
                pattern: pattern.to_owned(),
                reason: error.to_string(),
            })?;
            check_topic(topic, &regex)
                .map_err(|reason| BadRewrite::Topic { topic: topic.to_owned(), reason })?;
            Ok((regex, topic.to_owned()))
        };
        Ok(Self { topics: topics.iter().map(rule).collect::<Result<_, _>>()?, clients, ..Self::default() })
    }

    /// Has levels of topics that are one of `names` called as their clients are.
    #[must_use]
    pub fn following(self, names: ClientNames) -> Self {
        Self { followed: Arc::new(names), ..self }
    }

    /// Has a template that does not tell clients apart be for those that match one of `clients`.
    #[must_use]
    pub fn naming(self, clients: Vec<NamePattern>) -> Self {
        Self { named: clients, ..self }
    }

    #[must_use]
    pub fn shifting(self, times: TimeShift) -> Self {
        Self { times: Some(Arc::new(times)), ..self }
    }

    /// Of topics alone.
    pub fn without_clients(self) -> Self {
        Self { clients: None, ..self }
    }

    pub fn is_nothing(&self) -> bool {
        self.topics.is_empty() && self.clients.is_none() && self.times.is_none()
    }

    /// Whether clients or topics have other names.
    pub fn has_names(&self) -> bool {
        self.clients.is_some() || !self.topics.is_empty()
    }

    /// Whether `client` is called otherwise.
    pub(super) fn names(&self, client: &str) -> bool {
        self.clients.as_ref().is_some_and(|template| {
            template.has_client()
                || self.named.is_empty()
                || self.named.iter().any(|pattern| pattern.matches(client))
        })
    }

    /// Whether no two clients in `count` copies of run `run` can be called the same, whoever they are.
    pub(super) fn tells_clients_apart(&self, run: &str, count: u32) -> bool {
        self.clients
            .as_ref()
            .is_none_or(|template| template.has_client() && (count == 1 || template.shows_copy(run)))
    }

    /// What `client` is called in copy `copy` of run `run`.
    pub(super) fn client<'a>(&self, client: &'a str, run: &str, copy: u32) -> Cow<'a, str> {
        match &self.clients {
            // Who has no name is given one by the server.
            Some(template) if !client.is_empty() && self.names(client) => {
                template.name(client, run, copy).into()
            }
            _ => client.into(),
        }
    }

    /// What `topic` is called in copy `copy` of run `run`, if otherwise.
    pub(super) fn topic(&self, topic: &TopicName, run: &str, copy: u32) -> Option<TopicName> {
        TopicName::parse(&self.levels(topic.as_str(), run, copy)?).ok()
    }

    /// The same for a Topic Filter, which keeps its Share Name.
    pub(super) fn filter(&self, filter: &TopicFilter, run: &str, copy: u32) -> Option<TopicFilter> {
        let shared = filter.share_name().map_or(String::new(), |name| format!("$share/{name}/"));
        let pattern = self.levels(filter.pattern(), run, copy)?;
        TopicFilter::parse(&format!("{shared}{pattern}")).ok()
    }

    fn levels(&self, topic: &str, run: &str, copy: u32) -> Option<String> {
        let mapped = self.topics.iter().find_map(|(pattern, topic_for)| {
            let found = pattern.captures(topic)?;
            let mut out = String::new();
            found.expand(topic_for, &mut out);
            Some(out)
        });
        // Filters that no rule is about have to find what rules have made of topics.
        let topic = mapped.as_deref().unwrap_or(topic);
        if !topic.split('/').any(|level| self.followed.has(level)) {
            return mapped;
        }
        let level = |level| match self.followed.has(level) {
            true => self.client(level, run, copy),
            false => level.into(),
        };
        Some(topic.split('/').map(level).collect::<Vec<_>>().join("/"))
    }
}

/// Rewrites the events of one copy of a recording.
#[derive(Debug)]
pub struct Rewriter {
    rewrite: Rewrite,
    run: String,
    copy: u32,
    /// When the copy begins, as recorded.
    later: Duration,
    connections: Connections,
}

impl Rewriter {
    pub fn new(rewrite: Rewrite, run: &str, copy: u32, later: Duration) -> Self {
        Self { rewrite, run: run.to_owned(), copy, later, connections: Connections::new() }
    }

    /// `event` as it is in the copy. Packets that cannot be read, or could not be written, stay as they are.
    pub fn apply(&mut self, mut event: Event) -> Event {
        let seen = self.connections.follow(&event);
        let connection = event.connection;
        match &mut event.kind {
            EventKind::Open(info) => {
                if let Some(client) = info.client_identifier.take() {
                    info.client_identifier = Some(self.name(&client));
                }
            }
            EventKind::Close(_) => self.connections.forget(connection),
            EventKind::Packet { direction, bytes } => {
                if let Some(Ok(mut packet)) = seen.map(|seen| seen.packet)
                    && self.rename(*direction, &mut packet)
                {
                    let protocol = match &packet {
                        ControlPacket::Connect(connect) => Some(connect.protocol),
                        _ => self.connections.get(connection).and_then(|known| known.protocol),
                    };
                    let mut encoded = BytesMut::new();
                    if packet.encode(protocol.unwrap_or(ProtocolVersion::V311), &mut encoded).is_ok() {
                        *bytes = encoded.freeze();
                    }
                }
            }
            EventKind::State(in_force) => {
                if let Some(client) = &in_force.client_identifier {
                    let client = client.clone();
                    in_force.client_identifier = Some(self.name(&client));
                }
                if let Some(mut packet) = in_force.decode()
                    && self.rename(Direction::ClientToServer, &mut packet)
                {
                    let mut encoded = BytesMut::new();
                    if packet.encode(ProtocolVersion::V5, &mut encoded).is_ok() {
                        in_force.packet = encoded.freeze();
                    }
                }
            }
            EventKind::Raw { .. }
            | EventKind::Mark(_)
            | EventKind::Mock(_)
            | EventKind::Fault(_)
            | EventKind::Anchor(_)
            | EventKind::Gap { .. } => {}
        }
        event
    }

    fn name(&self, client: &str) -> String {
        self.rewrite.client(client, &self.run, self.copy).into_owned()
    }

    /// `payload` with other times, if it has any.
    fn times(&self, payload: &[u8]) -> Option<Bytes> {
        self.rewrite.times.as_ref()?.apply(payload, self.later)
    }

    /// Whether anything in `packet` is otherwise now.
    fn rename(&self, direction: Direction, packet: &mut ControlPacket) -> bool {
        let (rewrite, run, copy) = (&self.rewrite, &*self.run, self.copy);
        let mut has_changed = false;
        if let (ControlPacket::Connect(connect), Direction::ClientToServer) = (&mut *packet, direction) {
            let name = self.name(connect.client_identifier.as_str());
            if name != connect.client_identifier.as_str()
                && let Some(name) = Utf8String::new(name)
            {
                connect.client_identifier = name;
                has_changed = true;
            }
        }
        match packet {
            ControlPacket::Connect(connect) => {
                if let Some(will) = &mut connect.will {
                    if let Some(renamed) = rewrite.topic(&will.topic, run, copy) {
                        will.topic = renamed;
                        has_changed = true;
                    }
                    if let Some(shifted) = self.times(&will.payload) {
                        will.payload = shifted;
                        has_changed = true;
                    }
                    has_changed |= self.rename_responses(&mut will.properties);
                }
            }
            ControlPacket::Publish(publish) => {
                let renamed = publish.topic.as_ref().and_then(|topic| rewrite.topic(topic, run, copy));
                if renamed.is_some() {
                    publish.topic = renamed;
                    has_changed = true;
                }
                if let Some(shifted) = self.times(&publish.payload) {
                    publish.payload = shifted;
                    has_changed = true;
                }
                has_changed |= self.rename_responses(&mut publish.properties);
            }
            ControlPacket::Subscribe(subscribe) => {
                for subscription in &mut subscribe.subscriptions {
                    if let Some(renamed) = rewrite.filter(&subscription.filter, run, copy) {
                        subscription.filter = renamed;
                        has_changed = true;
                    }
                }
            }
            ControlPacket::Unsubscribe(unsubscribe) => {
                for known in &mut unsubscribe.filters {
                    if let Some(renamed) = rewrite.filter(known, run, copy) {
                        *known = renamed;
                        has_changed = true;
                    }
                }
            }
            _ => {}
        }
        has_changed
    }

    /// Whether a Response Topic is otherwise now.
    fn rename_responses(&self, properties: &mut Properties) -> bool {
        let mut has_changed = false;
        for property in &mut properties.0 {
            if let Property::ResponseTopic(text) = property
                && let Some(renamed) = self.rewrite.levels(text.as_str(), &self.run, self.copy)
                && let Some(renamed) = Utf8String::new(renamed)
            {
                *text = renamed;
                has_changed = true;
            }
        }
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{TooManyNames, player::Speed, sample::script};

    fn told(rewriter: &mut Rewriter, text: &str) -> String {
        let events = script(text).into_iter().map(|event| rewriter.apply(event));
        let mut connections = Connections::new();
        let mut out = String::new();
        for event in events {
            if let Some(seen) = connections.follow(&event) {
                out += &format!("{}\n", seen.packet.unwrap());
            }
        }
        out
    }

    #[test]
    fn clients_and_topics_have_other_names_wherever_they_stand() {
        let topics = ["prod/(.*)=test/$1".to_owned(), "old=new/$0".to_owned()];
        let clients = NameTemplate::parse("{{client_id}}-{{ run_id }}/{{i}}").unwrap();
        let rewrite = Rewrite::new(&topics, Some(clients)).unwrap();
        let text = "1 open
            1 c2s CONNECT dev v=5 will=prod/gone:x
            1 s2c CONNACK session_present=false
            1 c2s SUBSCRIBE 1 prod/# qos=1, $share/g/prod/+ qos=0, other qos=0
            1 c2s PUBLISH prod/a qos=1 id=3 alias=1 response_topic=prod/b \"x\"
            1 c2s PUBLISH \"\" alias=1 \"y\"
            1 s2c PUBLISH old \"z\"
            1 c2s UNSUBSCRIBE 2 prod/#";
        expect_test::expect![[r#"
            CONNECT dev-r1/7 v=5 will=test/gone:x
            CONNACK session_present=false
            SUBSCRIBE 1 test/# qos=1, $share/g/test/+, other
            PUBLISH test/a qos=1 id=3 alias=1 response_topic=test/b "x"
            PUBLISH "" alias=1 "y"
            PUBLISH new/old "z"
            UNSUBSCRIBE 2 test/#
        "#]]
        .assert_eq(&told(&mut Rewriter::new(rewrite, "r1", 7, Duration::ZERO), text));
    }

    #[test]
    fn topics_of_a_copy_go_with_their_client_also_before_it_comes() {
        let rewrite = Rewrite::new(&[], Some(NameTemplate::parse("{{client_id}}-{{i}}").unwrap())).unwrap();
        let text = "1 open
            1 c2s CONNECT app v=5
            1 s2c CONNACK session_present=false
            1 c2s SUBSCRIBE 1 cmd/dev/+ qos=1
            2 open
            2 c2s CONNECT dev v=5
            2 c2s PUBLISH up/dev \"x\"
            2 c2s PUBLISH up/developer \"x\"";
        let names = ClientNames::read(script(text).into_iter().map(Ok::<_, TooManyNames>)).unwrap();
        expect_test::expect![[r#"
            CONNECT app-3 v=5
            CONNACK session_present=false
            SUBSCRIBE 1 cmd/dev-3/+ qos=1
            CONNECT dev-3 v=5
            PUBLISH up/dev-3 "x"
            PUBLISH up/developer "x"
        "#]]
        .assert_eq(&told(&mut Rewriter::new(rewrite.following(names), "r1", 3, Duration::ZERO), text));
    }

    #[test]
    fn topics_that_rules_made_go_with_their_client_as_filters_do() {
        let rules = ["prod/(.*)=test/$1".to_owned()];
        let template = NameTemplate::parse("{{client_id}}-{{i}}").unwrap();
        let rewrite = Rewrite::new(&rules, Some(template)).unwrap();
        let text = "1 open
            1 c2s CONNECT app v=5
            1 c2s SUBSCRIBE 1 +/dev/state qos=1, prod/dev/# qos=1
            2 open
            2 c2s CONNECT dev v=5 will=prod/dev/gone:x will_response_topic=prod/app
            2 c2s PUBLISH prod/dev/state response_topic=prod/app \"x\"
            2 c2s PUBLISH other/dev/state \"x\"";
        let names = ClientNames::read(script(text).into_iter().map(Ok::<_, TooManyNames>)).unwrap();
        expect_test::expect![[r#"
            CONNECT app-3 v=5
            SUBSCRIBE 1 +/dev-3/state qos=1, test/dev-3/# qos=1
            CONNECT dev-3 v=5 will=test/dev-3/gone:x will_response_topic=test/app-3
            PUBLISH test/dev-3/state response_topic=test/app-3 "x"
            PUBLISH other/dev-3/state "x"
        "#]]
        .assert_eq(&told(&mut Rewriter::new(rewrite.following(names), "r1", 3, Duration::ZERO), text));
    }

    #[test]
    fn times_in_messages_and_wills_are_moved() {
        let recorded_at: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let times = TimeShift {
            paths: vec![serde_json_path::JsonPath::parse("$.ts").unwrap()],
            recorded_at,
            played_at: recorded_at + Duration::from_secs(100),
            speed: Speed::Factor(1.0),
        };
        let rewrite = Rewrite::default().shifting(times);
        let text = "1 open
            1 c2s CONNECT dev v=5 will=gone:{\"ts\":1767225600}
            1 s2c CONNACK session_present=false
            1 c2s PUBLISH a \"{\\\"ts\\\":1767225601}\"
            1 s2c PUBLISH a \"{\\\"ts\\\":1767225601}\"
            1 c2s PUBLISH a \"{}\"";
        expect_test::expect![[r#"
            CONNECT dev v=5 will=gone:"{\"ts\":1767225705}"
            CONNACK session_present=false
            PUBLISH a "{\"ts\":1767225706}"
            PUBLISH a "{\"ts\":1767225706}"
            PUBLISH a "{}"
        "#]]
        .assert_eq(&told(&mut Rewriter::new(rewrite, "r1", 1, Duration::from_secs(5)), text));
    }

    #[test]
    fn a_name_is_known_by_its_template() {
        let fits = |template: &str, name: &str| NameTemplate::parse(template).unwrap().fits(name, "dev");
        assert!(
            fits("{{client_id}}", "dev") && fits("{{client_id}}-{{i}}", "dev-12") && fits("{{i}}", "any")
        );
        assert!(fits("x-{{run_id}}-{{client_id}}-{{i}}!", "x-1-dev-2!") && fits("a{{i}}b{{i}}c", "a1b2c"));
        assert!(!fits("{{client_id}}", "dev-1") && !fits("{{client_id}}-{{i}}", "dev"));
        assert!(!fits("a{{i}}a", "a") && !fits("x{{i}}-{{client_id}}-{{i}}", "x1-other-2"));
        let template = NameTemplate::exactly("{{i}}");
        assert!(template.fits("{{i}}", "dev") && !template.has_client());
    }

    #[test]
    fn bad_rules_say_what_is_wrong() {
        let bad = |text: &str| Rewrite::new(&[text.to_owned()], None).unwrap_err().to_string();
        assert_eq!(bad("prod"), "\"prod\" is not PATTERN=TOPIC");
        assert!(bad("(=x").starts_with("\"(\": regex parse error"));
        let bad = |text: &str| NameTemplate::parse(text).unwrap_err().to_string();
        assert_eq!(bad("{{client}}"), "{{client}} is none of client_id, run_id and i");
        assert_eq!(bad("a{{i"), "{{ is not closed");
    }
}
