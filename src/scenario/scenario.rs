//! A scenario that was checked, and how it is read.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{
    Problem,
    client::{CLIENTS_MAX, Group, Selected, read_selected},
    expectation::Expectation,
    rendering::{ROOTS_OF_NAMES, Rendering, read_template},
    spec::{
        ClientSpec, ConnectSpec, DisconnectSpec, ExpectSpec, HttpSpec, OnFailure, OneOrMore, PublishSpec,
        RecordSpec, RepeatSpec, ReplaySpec, Span, StateSpec, SubscribeSpec, UnsubscribeSpec,
    },
    step::{
        Action, HttpStep, PublishStep, Step, SubscribeStep, USUAL_PATIENCE, UnsubscribeStep, read_state_key,
    },
};
use crate::{
    config::{Content, Document, parse_document},
    fault::{Rule, RuleSpec, profile},
    field::{BadField, Checks},
    likeness::{plain, unknown},
    mock::{Condition, Mock, MockSpec, Template, WhenSpec},
};

/// What is done, by whom.
#[derive(Debug)]
pub struct Scenario {
    pub name: String,
    /// Absent: drawn when it runs.
    pub seed: Option<u64>,
    pub on_failure: OnFailure,
    /// URL of the broker; absent: the server's own.
    pub target: Option<String>,
    /// Whether what it sets in the server stays when it has ended.
    pub keeps: bool,
    pub groups: Vec<Group>,
    pub steps: Vec<Step>,
}

const KEYS: [&str; 7] = ["scenario", "seed", "target", "on_failure", "keep", "clients", "steps"];
const VERBS: [&str; 6] = ["connect", "disconnect", "subscribe", "unsubscribe", "publish", "forget"];
const KINDS: [&str; 19] = [
    "chaos.profile",
    "chaos.remove",
    "chaos.reset",
    "chaos.set",
    "expect",
    "http",
    "mark",
    "mock.remove",
    "mock.reset",
    "mock.set",
    "parallel",
    "record",
    "record.stop",
    "repeat",
    "replay",
    "state.expect",
    "state.reset",
    "state.set",
    "wait",
];
/// Keys that stand beside what a step does.
const BESIDE: [&str; 2] = ["name", "on_failure"];

/// Steps, those within others counted, too.
const STEPS_MAX: usize = 10_000;
const DEPTH_MAX: usize = 8;
const TIMES_MAX: u32 = 1_000_000;
const NAME_MAX: usize = 200;

impl Scenario {
    /// Reads YAML, or JSON.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the text; of each step's shape the first thing only.
    pub fn read(text: &str) -> Result<Self, Vec<Problem>> {
        let root = document(text)?;
        let mut reader = Reader::default();
        let scenario = reader.scenario(&root, true);
        reader.finish(&root, scenario)
    }

    /// Reads one without steps, which come one by one.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_header(text: &str) -> Result<Self, Vec<Problem>> {
        let root = document(text)?;
        let mut reader = Reader::default();
        let scenario = reader.scenario(&root, false);
        reader.finish(&root, scenario)
    }

    /// Reads a step for the clients of this scenario.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_step(&self, number: u64, text: &str) -> Result<Step, Vec<Problem>> {
        let root = document(text)?;
        let mut reader = Reader::default();
        let step = reader.step(&root, &self.groups, "", number.to_string(), 0);
        reader.finish(&root, step)
    }

    pub fn clients(&self) -> u64 {
        self.groups.iter().map(|group| u64::from(group.count)).sum()
    }

    pub fn expects(&self) -> bool {
        self.steps.iter().any(Step::expects)
    }
}

fn document(text: &str) -> Result<Document, Vec<Problem>> {
    parse_document(text).map_err(|bad| {
        vec![Problem { path: bad.path, line: bad.line.max(1), column: bad.column.max(1), reason: bad.reason }]
    })
}

#[derive(Default)]
struct Reader {
    checks: Checks,
    steps: usize,
}

impl Reader {
    fn finish<T>(self, root: &Document, made: Option<T>) -> Result<T, Vec<Problem>> {
        self.checks.done(made).map_err(|fields| {
            let place = |field: BadField| {
                let bad = root.bad(field.path, field.what);
                Problem { path: bad.path, line: bad.line, column: bad.column, reason: bad.reason }
            };
            let mut problems: Vec<Problem> = fields.into_iter().map(place).collect();
            problems.sort_by_key(|problem| (problem.line, problem.column));
            problems
        })
    }

    fn scenario(&mut self, root: &Document, has_steps: bool) -> Option<Scenario> {
        let Content::Map(entries) = &root.content else {
            self.checks.refuse("", "a scenario is keys with values: scenario, clients, steps …");
            return None;
        };
        for (key, _) in entries {
            if !KEYS.contains(&&*key.name) {
                self.checks.refuse(&*key.name, unknown("key", &key.name, KEYS));
            }
        }
        let name: Option<String> = self.value(root, "scenario");
        match &name {
            None => {
                // What is no text was refused when it was read.
                if root.get("scenario").is_none_or(|given| given.content == Content::Null) {
                    self.checks.refuse("scenario", "is required: what the scenario is called");
                }
            }
            Some(name) => {
                let is_good = (1..=NAME_MAX).contains(&name.chars().count())
                    && !name.chars().any(|letter| letter.is_control());
                if !is_good {
                    self.checks.refuse(
                        "scenario",
                        format_args!("has 1 to {NAME_MAX} characters, none a control character"),
                    );
                }
            }
        }
        let seed = self.value(root, "seed");
        let target = self.value(root, "target");
        let on_failure = self.value(root, "on_failure").unwrap_or_default();
        let keeps = self.value(root, "keep").unwrap_or_default();
        let groups = self.groups(root.get("clients"));
        let steps = match root.get("steps") {
            Some(steps) if has_steps => self.steps(steps, &groups, "steps", "", 0),
            Some(_) => {
                self.checks.refuse("steps", "come one by one behind this");
                Vec::new()
            }
            None if has_steps => {
                self.checks.refuse("steps", "is required: what is done, a list");
                Vec::new()
            }
            None => Vec::new(),
        };
        Some(Scenario { name: name?, seed, on_failure, target, keeps, groups, steps })
    }

    /// What the document has by a key of the first level.
    fn value<T: DeserializeOwned>(&mut self, root: &Document, key: &str) -> Option<T> {
        let value = root.get(key).filter(|value| value.content != Content::Null)?;
        self.deserialized(value.to_json(), key)
    }

    fn deserialized<T: DeserializeOwned>(&mut self, value: Value, path: &str) -> Option<T> {
        let read = serde_path_to_error::deserialize(value);
        read.map_err(|error| {
            let inside = error.path().to_string();
            let inside = if inside == "." { "" } else { inside.trim_start_matches('.') };
            let reason = error.into_inner().to_string();
            let mut path = join(path, inside);
            // The key itself has a place, too.
            let strange = reason.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
            if let Some((key, _)) = strange
                && path.rsplit('.').next() != Some(key)
            {
                path = join(&path, key);
            }
            self.checks.refuse(path, plain(&reason));
        })
        .ok()
    }

    /// The arguments of a step: keys with values, none, or the value of `short` alone.
    fn arguments<T: DeserializeOwned>(
        &mut self,
        given: &Document,
        path: &str,
        short: Option<&str>,
    ) -> Option<T> {
        let value = match (&given.content, short) {
            (Content::Null, _) => json!({}),
            (Content::Map(_), _) => given.to_json(),
            (_, Some(short)) => Value::Object(Map::from_iter([(short.to_owned(), given.to_json())])),
            _ => {
                self.checks.refuse(path, "expected keys with values");
                return None;
            }
        };
        self.deserialized(value, path)
    }

    fn nothing(&mut self, given: &Document, path: &str) {
        let is_nothing = match &given.content {
            Content::Null => true,
            Content::Map(entries) => entries.is_empty(),
            _ => false,
        };
        if !is_nothing {
            self.checks.refuse(path, "takes nothing: {}");
        }
    }

    /// A text, or a number as it is spelled.
    fn text(&mut self, given: &Document, path: &str) -> Option<String> {
        match &given.content {
            Content::Text(text) if !text.is_empty() => Some(text.clone()),
            Content::Number(number) => Some(number.to_string()),
            _ => {
                self.checks.refuse(path, "expected a text");
                None
            }
        }
    }

    fn groups(&mut self, clients: Option<&Document>) -> Vec<Group> {
        let entries = match clients.map(|clients| &clients.content) {
            None | Some(Content::Null) => return Vec::new(),
            Some(Content::Map(entries)) => entries,
            Some(_) => {
                self.checks.refuse("clients", "expected names with what each client is");
                return Vec::new();
            }
        };
        let (mut groups, mut is_read) = (Vec::new(), true);
        for (key, given) in entries {
            let path = format!("clients.{}", key.name);
            let spec = self.arguments::<ClientSpec>(given, &path, None);
            let group = spec.as_ref().and_then(|spec| Group::new(&mut self.checks, &path, &key.name, spec));
            is_read &= group.is_some();
            groups.push(group.unwrap_or_else(|| Group::unread(&key.name, spec.as_ref())));
        }
        if !is_read {
            return groups;
        }
        let count: u64 = groups.iter().map(|group| u64::from(group.count)).sum();
        if count > u64::from(CLIENTS_MAX) {
            self.checks.refuse("clients", format_args!("are at most {CLIENTS_MAX} together, not {count}"));
        } else {
            self.check_identifiers(&groups);
        }
        groups
    }

    /// Clients of one identifier would end each other's connections.
    fn check_identifiers(&mut self, groups: &[Group]) {
        // What is drawn may differ when it runs, where it is checked again.
        let rendering = Rendering::new("scenario", "run", 0);
        if let Err((group, what)) = identifiers(groups, &rendering, jiff::Timestamp::UNIX_EPOCH) {
            self.checks.refuse(format!("clients.{}.client_id", groups[group].name), what);
        }
    }

    fn steps(
        &mut self,
        given: &Document,
        groups: &[Group],
        path: &str,
        within: &str,
        depth: usize,
    ) -> Vec<Step> {
        let Content::List(entries) = &given.content else {
            self.checks.refuse(path, "expected a list of steps");
            return Vec::new();
        };
        if entries.is_empty() {
            self.checks.refuse(path, "has no step");
        }
        if depth > DEPTH_MAX {
            self.checks.refuse(path, format_args!("steps stand at most {DEPTH_MAX} deep within each other"));
            return Vec::new();
        }
        let mut steps = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let dot = if within.is_empty() { "" } else { "." };
            let number = format!("{within}{dot}{}", index + 1);
            steps.extend(self.step(entry, groups, &format!("{path}[{index}]"), number, depth));
        }
        steps
    }

    fn step(
        &mut self,
        given: &Document,
        groups: &[Group],
        path: &str,
        number: String,
        depth: usize,
    ) -> Option<Step> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            if self.steps == STEPS_MAX + 1 {
                self.checks.refuse(path, format_args!("there are at most {STEPS_MAX} steps"));
            }
            return None;
        }
        let entries = match &given.content {
            Content::Map(entries) => entries,
            Content::Text(kind) if !kind.is_empty() && !kind.contains(char::is_whitespace) => {
                let nothing = Document { content: Content::Null, ..given.clone() };
                let action = self.action(kind, &nothing, groups, path, &number, depth)?;
                let (kind, name, line) = (kind.clone(), String::new(), given.line);
                return Some(Step { number, kind, name, line, on_failure: None, action });
            }
            _ => {
                self.checks.refuse(
                    path,
                    "expected a step, such as `wait: 2s` or `app.subscribe: {filter: \"a/#\"}`",
                );
                return None;
            }
        };
        let name = given.get("name").and_then(|name| self.text(name, &join(path, "name")));
        let on_failure = given.get("on_failure").filter(|value| value.content != Content::Null);
        let on_failure =
            on_failure.and_then(|value| self.deserialized(value.to_json(), &join(path, "on_failure")));
        let mut doing = entries.iter().filter(|(key, _)| !BESIDE.contains(&&*key.name));
        let Some((key, arguments)) = doing.next() else {
            self.checks.refuse(path, "says nothing that is to be done");
            return None;
        };
        for (other, _) in doing {
            let what = format_args!("stands beside {}: a step does one thing", key.name);
            self.checks.refuse(join(path, &other.name), what);
        }
        let action = self.action(&key.name, arguments, groups, &join(path, &key.name), &number, depth)?;
        let name = name.unwrap_or_default();
        Some(Step { number, kind: key.name.clone(), name, line: key.line, on_failure, action })
    }

    fn action(
        &mut self,
        kind: &str,
        given: &Document,
        groups: &[Group],
        path: &str,
        number: &str,
        depth: usize,
    ) -> Option<Action> {
        Some(match kind {
            "chaos.set" => Action::SetRule(self.rule(given, path)?),
            "chaos.remove" => Action::RemoveRule(self.text(given, path)?),
            "chaos.reset" => {
                self.nothing(given, path);
                Action::ResetChaos
            }
            "chaos.profile" => {
                let name = self.text(given, path)?;
                self.checks.keep(path, profile(&name))?;
                Action::Profile(name)
            }
            "mock.set" => Action::SetMock(self.mock(given, path)?),
            "mock.remove" => Action::RemoveMock(self.text(given, path)?),
            "mock.reset" => {
                self.nothing(given, path);
                Action::ResetMocks
            }
            "state.set" => {
                let spec: StateSpec = self.arguments(given, path, None)?;
                let (scope, key) = read_state_key(&mut self.checks, path, &spec)?;
                Action::SetState { scope, key, value: spec.value }
            }
            "state.expect" => self.expect_state(given, path)?,
            "state.reset" => {
                self.nothing(given, path);
                Action::ResetState
            }
            "expect" => Action::Expect(Box::new(self.expectation(given, groups, path)?)),
            "parallel" => Action::Parallel(match &given.content {
                Content::Map(entries) => {
                    for (key, _) in entries.iter().filter(|(key, _)| key.name != "steps") {
                        self.checks.refuse(join(path, &key.name), unknown("key", &key.name, ["steps"]));
                    }
                    self.steps_within(given, groups, path, number, depth)?
                }
                _ => self.steps(given, groups, path, number, depth + 1),
            }),
            "repeat" => {
                // For the shape alone: the steps have to keep their places.
                let spec: RepeatSpec = self.arguments(given, path, None)?;
                self.checks.range(&join(path, "times"), spec.times, 1, TIMES_MAX);
                let steps = self.steps_within(given, groups, path, number, depth)?;
                Action::Repeat { times: spec.times, steps }
            }
            "wait" => Action::Wait(self.deserialized::<Span>(given.to_json(), path)?.0),
            "record" => {
                let spec: RecordSpec = self.arguments(given, path, Some("name"))?;
                let name = match &spec.name {
                    Some(name) => Some(self.name_of_recording(name, &join(path, "name"))?),
                    None => None,
                };
                Action::Record { name, spec }
            }
            "record.stop" => match &given.content {
                Content::Text(name) => Action::StopRecording(Some(self.name_of_recording(name, path)?)),
                _ => {
                    self.nothing(given, path);
                    Action::StopRecording(None)
                }
            },
            "replay" => {
                let spec: ReplaySpec = self.arguments(given, path, Some("recording"))?;
                if spec.recording.is_empty() {
                    self.checks.refuse(join(path, "recording"), "is required");
                }
                let recording = self.name_of_recording(&spec.recording, &join(path, "recording"))?;
                Action::Replay { recording, spec: Box::new(spec) }
            }
            "http" => {
                let spec: HttpSpec = self.arguments(given, path, Some("url"))?;
                Action::Http(Box::new(HttpStep::new(&mut self.checks, path, &spec)?))
            }
            "mark" => Action::Mark(self.text(given, path)?),
            _ => return self.of_clients(kind, given, groups, path),
        })
    }

    /// The steps of a step that is made of others.
    fn steps_within(
        &mut self,
        given: &Document,
        groups: &[Group],
        path: &str,
        number: &str,
        depth: usize,
    ) -> Option<Vec<Step>> {
        let path = join(path, "steps");
        let Some(steps) = given.get("steps") else {
            self.checks.refuse(path, "is required: what is done, a list");
            return None;
        };
        Some(self.steps(steps, groups, &path, number, depth + 1))
    }

    fn name_of_recording(&mut self, name: &str, path: &str) -> Option<Template> {
        read_template(&mut self.checks, path, name, &ROOTS_OF_NAMES)
    }

    /// `dev.publish`, `dev[3].disconnect`.
    fn of_clients(&mut self, kind: &str, given: &Document, groups: &[Group], path: &str) -> Option<Action> {
        let Some((who, verb)) = kind.rsplit_once('.').filter(|(_, verb)| VERBS.contains(verb)) else {
            self.checks.refuse(path, unknown_kind(kind, groups));
            return None;
        };
        let clients = read_selected(&mut self.checks, path, who, groups)?;
        let group = &groups[clients.group];
        Some(match verb {
            "connect" => {
                let spec: ConnectSpec = self.arguments(given, path, None)?;
                let within = spec.within.map_or(USUAL_PATIENCE, |span| span.0);
                Action::Connect { clients, spread: spec.spread.unwrap_or_default().0, within }
            }
            "disconnect" => {
                let spec: DisconnectSpec = self.arguments(given, path, Some("mode"))?;
                Action::Disconnect { clients, mode: spec.mode, spread: spec.spread.unwrap_or_default().0 }
            }
            "subscribe" => {
                let spec: SubscribeSpec = self.arguments(given, path, Some("filter"))?;
                let subscribe = SubscribeStep::new(&mut self.checks, path, &spec, group)?;
                Action::Subscribe { clients, subscribe }
            }
            "unsubscribe" => {
                let spec: UnsubscribeSpec = self.arguments(given, path, Some("filter"))?;
                let unsubscribe = UnsubscribeStep::new(&mut self.checks, path, &spec)?;
                Action::Unsubscribe { clients, unsubscribe }
            }
            "publish" => {
                let spec: PublishSpec = self.arguments(given, path, None)?;
                let publish = PublishStep::new(&mut self.checks, path, &spec, group)?;
                Action::Publish { clients, publish: Box::new(publish) }
            }
            _ => {
                self.nothing(given, path);
                Action::Forget { clients }
            }
        })
    }

    fn rule(&mut self, given: &Document, path: &str) -> Option<Box<RuleSpec>> {
        let spec: RuleSpec = self.arguments(given, path, None)?;
        if spec.id.is_empty() {
            self.checks.refuse(join(path, "id"), "is required: what the rule is called");
            return None;
        }
        if let Err(bad) = Rule::new(spec.clone()) {
            self.checks.adopt(path, bad.into());
            return None;
        }
        Some(Box::new(spec))
    }

    fn mock(&mut self, given: &Document, path: &str) -> Option<Box<MockSpec>> {
        let spec: MockSpec = self.arguments(given, path, None)?;
        if spec.id.is_empty() {
            self.checks.refuse(join(path, "id"), "is required: what the mock is called");
            return None;
        }
        // They are on the server's machine, which says so when it sets the mock.
        if let Err(bad) = Mock::new(spec.clone(), &|_| Ok(bytes::Bytes::new())) {
            self.checks.adopt(path, bad.into());
            return None;
        }
        Some(Box::new(spec))
    }

    fn expect_state(&mut self, given: &Document, path: &str) -> Option<Action> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields, expecting = "keys with values")]
        struct Expected {
            scope: Option<String>,
            #[serde(default)]
            key: String,
            value: Value,
            within: Option<Span>,
        }
        let spec: Expected = self.arguments(given, path, None)?;
        let Expected { scope, key, value, within } = spec;
        let (scope, key) =
            read_state_key(&mut self.checks, path, &StateSpec { scope, key, value: Value::Null })?;
        let when = WhenSpec { state: [(key.clone(), value)].into(), ..WhenSpec::default() };
        match Condition::new(&when) {
            Ok(test) => {
                let within = within.unwrap_or_default().0;
                Some(Action::ExpectState { scope, test: Box::new(test), within })
            }
            Err(bad) => {
                for field in bad.finish().err().unwrap_or_default() {
                    self.checks.refuse(join(path, "value"), field.what);
                }
                None
            }
        }
    }

    fn expectation(&mut self, given: &Document, groups: &[Group], path: &str) -> Option<Expectation> {
        let Value::Object(values) = given.to_json() else {
            self.checks.refuse(path, "expected keys with values");
            return None;
        };
        let is_own = |(key, _): &(String, Value)| ExpectSpec::KEYS.contains(&key.as_str());
        let (own, of_messages): (Map<_, _>, Map<_, _>) = {
            let (own, others): (Vec<_>, Vec<_>) = values.into_iter().partition(is_own);
            (own.into_iter().collect(), others.into_iter().collect())
        };
        let spec: ExpectSpec = self.deserialized(Value::Object(own), path)?;
        let of: Vec<Selected> = self.selected(&spec.client, groups, &join(path, "client"));
        if of.is_empty() {
            return None;
        }
        Expectation::new(&mut self.checks, path, &spec, of, Value::Object(of_messages))
    }

    fn selected(&mut self, texts: &OneOrMore, groups: &[Group], path: &str) -> Vec<Selected> {
        if texts.0.is_empty() {
            self.checks.refuse(path, "is required: who receives the messages");
        }
        let read = texts.0.iter().filter_map(|text| read_selected(&mut self.checks, path, text, groups));
        read.collect()
    }
}

/// The identifiers of all clients, in their order.
///
/// # Errors
/// Whose cannot be, by the group's place, and why.
pub fn identifiers(
    groups: &[Group],
    rendering: &Rendering,
    now: jiff::Timestamp,
) -> Result<Vec<String>, (usize, String)> {
    let mut known = std::collections::HashSet::new();
    let mut identifiers = Vec::new();
    for (place, group) in groups.iter().enumerate() {
        for i in 1..=group.count {
            let identifier = group.client_id(rendering, i, now).map_err(|what| (place, what))?;
            // The server gives each that has none one of its own.
            if !identifier.is_empty() && !known.insert(identifier.clone()) {
                let what = format!(
                    "{identifier:?} would be the identifier of two clients; {{{{i}}}} is the number of each"
                );
                return Err((place, what));
            }
            identifiers.push(identifier);
        }
    }
    Ok(identifiers)
}

fn unknown_kind(kind: &str, groups: &[Group]) -> String {
    let of_clients =
        groups.iter().flat_map(|group| VERBS.iter().map(|verb| format!("{}.{verb}", group.name)));
    let known: Vec<String> = KINDS.iter().map(|&kind| kind.to_owned()).chain(of_clients).collect();
    unknown("step", kind, known.iter().map(String::as_str))
}

/// `a` and `b` are `a.b`.
fn join(first: &str, second: &str) -> String {
    let dot = if first.is_empty() || second.is_empty() || second.starts_with('[') { "" } else { "." };
    format!("{first}{dot}{second}")
}
