//! `messages wait | verify | count | find`, and `reset`.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use super::{
    broker::payload_text,
    duration,
    exit::{Exit, Failure},
    mocks::read_text,
    output::{self, Format, json, short},
    signal::Signals,
    transport::Transport,
};
use crate::{
    config::{read_expectations, read_match},
    control::{count_message, match_message, pb},
    journal::{CountBounds, CountSpec, MatchSpec, MessageOrigin, OneOrMoreTopics, Origins},
    mock::{OneOrMore, TestSpec},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Wait until messages have come, and print them
    Wait {
        #[command(flatten)]
        meant: MatchArgs,
        /// At least so many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
        count: u64,
        /// How long at most, up to 10m
        #[arg(short, long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
        timeout: Duration,
    },
    /// Say whether as many messages came as are expected
    Verify {
        #[command(flatten)]
        meant: MatchArgs,
        /// How many: 3 is exactly three, and there are '>=1', '>1', '<=5', '<5' and 2..5 [default: at least one]
        #[arg(short = 'n', long, value_name = "COUNT", value_parser = parse_count, allow_hyphen_values = true)]
        count: Option<CountSpec>,
        /// Expectations of a YAML or JSON file, instead: a list of {match, count}; `-` reads standard input
        #[arg(short = 'f', long, value_name = "FILE", conflicts_with_all = MATCH_ARGS)]
        file: Option<PathBuf>,
        /// Each has to be met behind the one before it
        #[arg(long, requires = "file")]
        ordered: bool,
    },
    /// Print how many messages came
    Count {
        #[command(flatten)]
        meant: MatchArgs,
    },
    /// Print messages that came, the first ones first
    Find {
        #[command(flatten)]
        meant: MatchArgs,
        /// The last ones first
        #[arg(long)]
        newest: bool,
        /// So many at most
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
}

/// Which messages, and from where on.
#[derive(Debug, clap::Args)]
pub struct MatchArgs {
    /// On topics that match this filter; may be given more than once
    #[arg(long, value_name = "FILTER", help_heading = MATCH)]
    topic: Vec<String>,
    /// Published by this client; `*` stands for any characters
    #[arg(long, value_name = "ID", help_heading = MATCH)]
    client: Option<String>,
    /// With exactly this payload
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = MATCH)]
    payload: Option<String>,
    /// With a payload in which this regular expression is found
    #[arg(long, value_name = "REGEX", help_heading = MATCH)]
    payload_regex: Option<String>,
    /// With a JSON payload in which this holds: a JSONPath, a comparison (== > >= < <= =~) and a value, such as
    /// '$.temp > 30'; a JSONPath alone has to find something; may be given more than once
    #[arg(long = "where", value_name = "TEST", value_parser = parse_test, help_heading = MATCH)]
    tests: Vec<(String, TestSpec)>,
    /// Published at this Quality of Service; may be given more than once
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=2), help_heading = MATCH)]
    qos: Vec<u8>,
    /// Published with the RETAIN flag, or without
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = MATCH)]
    retain: Option<bool>,
    /// With this User Property (MQTT 5); may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_user, help_heading = MATCH)]
    user: Vec<(String, String)>,
    /// From there; may be given more than once
    #[arg(long, help_heading = MATCH)]
    origin: Vec<Origin>,
    /// As this JSON text says, or this YAML or JSON file; what else is given is added
    #[arg(long = "match", id = "spec", value_name = "JSON|FILE", help_heading = MATCH)]
    spec: Option<String>,
    /// Only what came from this sequence number on: the cursor that an earlier command printed
    #[arg(long, value_name = "NUMBER")]
    since: Option<u64>,
}

const MATCH: &str = "Which messages";

/// All but `--since`.
const MATCH_ARGS: [&str; 11] = [
    "count",
    "topic",
    "client",
    "payload",
    "payload_regex",
    "tests",
    "qos",
    "retain",
    "user",
    "origin",
    "spec",
];

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Origin {
    Client,
    Will,
    Api,
    Mock,
    Replay,
}

impl From<Origin> for MessageOrigin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Client => Self::Client,
            Origin::Will => Self::Will,
            Origin::Api => Self::Api,
            Origin::Mock => Self::Mock,
            Origin::Replay => Self::Replay,
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct ResetArgs {
    /// What is to begin anew [default: all of it]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Those of the settings are there, with counts at zero
    Mocks,
    /// No rules, nothing held back
    Chaos,
    /// No messages to wait for, count or find
    Journal,
    /// No values that mocks remember
    State,
    /// No retained messages, no sessions of clients that are away, nothing queued
    Broker,
}

impl MatchArgs {
    /// # Errors
    /// What is wrong with the file.
    fn spec(self) -> Result<MatchSpec, Failure> {
        let mut spec = match self.spec {
            None => MatchSpec::default(),
            Some(text) if text.trim_start().starts_with('{') => read_match("--match", &text)?,
            Some(file) => {
                let (name, text) = read_text(file.into())?;
                read_match(&name, &text)?
            }
        };
        if !self.topic.is_empty() {
            spec.topic = Some(OneOrMoreTopics::More(self.topic));
        }
        spec.client = self.client.or(spec.client);
        if let Some(payload) = self.payload {
            add_test(&mut spec, "equals", Value::String(payload))?;
        }
        for (path, test) in self.tests {
            add_test(&mut spec, &path, serde_json::to_value(test).map_err(anyhow::Error::from)?)?;
        }
        spec.payload_regex = self.payload_regex.or(spec.payload_regex);
        if !self.qos.is_empty() {
            spec.qos = Some(OneOrMore::More(self.qos));
        }
        spec.retain = self.retain.or(spec.retain);
        spec.user.extend(self.user.into_iter().map(|(name, value)| (name, Value::String(value))));
        if !self.origin.is_empty() {
            spec.origin = Some(Origins::More(self.origin.into_iter().map(MessageOrigin::from).collect()));
        }
        Ok(spec)
    }
}

/// Adds a test to those of the payload; two of one path have to hold both.
fn add_test(spec: &mut MatchSpec, key: &str, test: Value) -> Result<(), Failure> {
    if !spec.payload.is_object() {
        let whole = std::mem::take(&mut spec.payload);
        spec.payload = match whole {
            Value::Null => Value::Object(Default::default()),
            plain => serde_json::json!({ "equals": plain }),
        };
    }
    let Value::Object(tests) = &mut spec.payload else { unreachable!("it is one by now") };
    match (tests.get_mut(key), test) {
        (Some(Value::Object(before)), Value::Object(more)) => {
            if let Some(name) = more.keys().find(|name| before.contains_key(*name)) {
                return Err(Failure::usage(format!("--where: {key} has two tests with {name}")));
            }
            before.extend(more);
        }
        (Some(_), _) => return Err(Failure::usage(format!("the payload has two tests of {key}"))),
        (None, test) => _ = tests.insert(key.to_owned(), test),
    }
    Ok(())
}

/// `$.a.b > 5`, `$.a == "on"`, `$.a =~ ^o`, `$.a`. The comparison stands between spaces, outside brackets and quotes.
fn parse_test(text: &str) -> Result<(String, TestSpec), String> {
    let text = text.trim();
    if !text.starts_with('$') {
        return Err("expected a JSONPath, which begins with $".to_owned());
    }
    let mut test = TestSpec::default();
    let Some((path, comparison, value)) = split_test(text) else {
        test.exists = Some(true);
        return Ok((text.to_owned(), test));
    };
    let number =
        || value.parse::<f64>().map_err(|_| format!("{value:?} is no number to compare with {comparison}"));
    match comparison {
        "==" | "=" => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            test.equals = Some(value);
        }
        "=~" => test.regex = Some(value.to_owned()),
        ">" => test.gt = Some(number()?),
        ">=" => test.gte = Some(number()?),
        "<" => test.lt = Some(number()?),
        _ => test.lte = Some(number()?),
    }
    Ok((path.to_owned(), test))
}

fn split_test(text: &str) -> Option<(&str, &str, &str)> {
    let (mut depth, mut quote) = (0, None);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth -= 1,
            (None, ' ') if depth == 0 => {
                let rest = text[at..].trim_start();
                let end = rest.find(' ').unwrap_or(rest.len());
                let (comparison, value) = rest.split_at(end);
                if ["==", "=", "=~", ">", ">=", "<", "<="].contains(&comparison) {
                    return Some((text[..at].trim_end(), comparison, value.trim()));
                }
            }
            _ => {}
        }
    }
    None
}

/// `3`, `>=1`, `<5`, `2..5`.
fn parse_count(text: &str) -> Result<CountSpec, String> {
    let text = text.trim();
    let number = |text: &str| {
        text.trim().parse::<u64>().map_err(|_| "expected a number, or >=N, >N, <=N, <N or N..M".to_owned())
    };
    let bounds = |bounds: CountBounds| Ok(CountSpec::Within(bounds));
    let none = CountBounds::default();
    if let Some((least, most)) = text.split_once("..") {
        return bounds(CountBounds { gte: Some(number(least)?), lte: Some(number(most)?), ..none });
    }
    if let Some(rest) = text.strip_prefix(">=") {
        bounds(CountBounds { gte: Some(number(rest)?), ..none })
    } else if let Some(rest) = text.strip_prefix("<=") {
        bounds(CountBounds { lte: Some(number(rest)?), ..none })
    } else if let Some(rest) = text.strip_prefix('>') {
        bounds(CountBounds { gt: Some(number(rest)?), ..none })
    } else if let Some(rest) = text.strip_prefix('<') {
        bounds(CountBounds { lt: Some(number(rest)?), ..none })
    } else {
        Ok(CountSpec::Exactly(number(text)?))
    }
}

fn parse_user(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub async fn run(
    command: Command,
    transport: &Transport,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    match command {
        Command::Wait { meant, count, timeout } => {
            let since = meant.since;
            let request = pb::WaitForMessagesRequest {
                r#match: Some(match_message(meant.spec()?)),
                count: Some(count),
                timeout: Some(duration::to_proto(timeout)),
                since,
            };
            let mut verification = transport.verification();
            tokio::select! {
                answer = verification.wait_for_messages(request) => waited(&answer?.into_inner(), timeout, format),
                () = signals.asked() => Ok(Exit::Interrupted),
            }
        }
        Command::Verify { meant, count, file, ordered } => {
            let since = meant.since;
            let expectation = |meant, count| pb::MessageExpectation {
                r#match: Some(match_message(meant)),
                count: Some(count_message(count)),
            };
            let expectations = match file {
                None => vec![expectation(meant.spec()?, count.unwrap_or_default())],
                Some(file) => {
                    let (name, text) = read_text(file)?;
                    let specs = read_expectations(&name, &text)?;
                    specs.into_iter().map(|spec| expectation(spec.meant, spec.count)).collect()
                }
            };
            let request = pb::VerifyRequest { expectations, ordered, since };
            verified(&transport.verification().verify(request).await?.into_inner(), format)
        }
        Command::Count { meant } => {
            let since = meant.since;
            let request = pb::CountRequest { r#match: Some(match_message(meant.spec()?)), since };
            let answer = transport.verification().count(request).await?.into_inner();
            match format {
                Format::Json => output::json_line(&json("CountResponse", &answer))?,
                Format::Text => {
                    output::line(answer.count.to_string())?;
                    note_rest(answer.missed, answer.cursor);
                }
            }
            Ok(Exit::Passed)
        }
        Command::Find { meant, newest, limit } => find(transport, meant, newest, limit, format).await,
    }
}

pub async fn reset(args: ResetArgs, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    let has = |part| args.parts.contains(&part).then_some(true);
    let request = pb::ResetRequest {
        mocks: has(Part::Mocks),
        chaos: has(Part::Chaos),
        journal: has(Part::Journal),
        state: has(Part::State),
        broker: has(Part::Broker),
    };
    let answer = transport.admin().reset(request).await?.into_inner();
    if format == Format::Json {
        output::json_line(&json("ResetResponse", &answer))?;
        return Ok(Exit::Passed);
    }
    let counts = [
        (answer.mocks, "mock"),
        (answer.chaos_rules, "rule of chaos"),
        (answer.journal_messages, "message of the journal"),
        (answer.state_values, "value of state"),
        (answer.retained_messages, "retained message"),
        (answer.sessions, "session"),
        (answer.queued_messages, "queued message"),
    ];
    let counts = counts.into_iter().filter(|(number, _)| *number > 0);
    let texts: Vec<String> = counts.map(|(number, noun)| output::count(number, noun)).collect();
    output::line(match texts.is_empty() {
        true => "there was nothing to reset".to_owned(),
        false => format!("reset {}", texts.join(", ")),
    })?;
    Ok(Exit::Passed)
}

fn waited(answer: &pb::WaitForMessagesResponse, timeout: Duration, format: Format) -> Result<Exit, Failure> {
    let exit = if answer.satisfied { Exit::Passed } else { Exit::Failed };
    if format == Format::Json {
        output::json_line(&json("WaitForMessagesResponse", answer))?;
        return Ok(exit);
    }
    list(&answer.messages)?;
    if !answer.satisfied {
        eprintln!("{} within {}", answer.text, duration::show(timeout));
        tell_near(&answer.nearest);
    }
    note_rest(answer.missed, answer.cursor);
    Ok(exit)
}

fn verified(answer: &pb::VerifyResponse, format: Format) -> Result<Exit, Failure> {
    let exit = if answer.passed { Exit::Passed } else { Exit::Failed };
    if format == Format::Json {
        output::json_line(&json("VerifyResponse", answer))?;
        return Ok(exit);
    }
    for (index, verdict) in answer.verdicts.iter().enumerate() {
        let outcome = if verdict.passed { "passed" } else { "failed" };
        let number = if answer.verdicts.len() > 1 { format!(" {}", index + 1) } else { String::new() };
        output::line(format!("{outcome}{number}: {}", verdict.text))?;
        if !verdict.passed {
            for message in &verdict.messages {
                eprintln!("  found {}", told(message));
            }
            tell_near(&verdict.nearest);
        }
    }
    note_rest(answer.missed, answer.cursor);
    Ok(exit)
}

async fn find(
    transport: &Transport,
    meant: MatchArgs,
    newest_first: bool,
    limit: usize,
    format: Format,
) -> Result<Exit, Failure> {
    let since = meant.since;
    let mut request = pb::FindRequest {
        r#match: Some(match_message(meant.spec()?)),
        since,
        newest_first,
        ..Default::default()
    };
    let mut answer = pb::FindResponse::default();
    while answer.messages.len() < limit {
        request.page_size = (limit - answer.messages.len()).min(1_000) as u32;
        let page = transport.verification().find(request.clone()).await?.into_inner();
        answer.messages.extend(page.messages);
        answer.missed += page.missed;
        answer.cursor = page.cursor;
        request.page_token.clone_from(&page.next_page_token);
        answer.next_page_token = page.next_page_token;
        if answer.next_page_token.is_empty() {
            break;
        }
    }
    match format {
        Format::Json => output::json_line(&json("FindResponse", &answer))?,
        Format::Text if answer.messages.is_empty() => output::line("no messages")?,
        Format::Text => list(&answer.messages)?,
    }
    if format == Format::Text {
        let has_more = !answer.next_page_token.is_empty();
        let cursor = match answer.messages.last() {
            Some(last) if has_more && !newest_first => last.sequence + 1,
            _ => answer.cursor,
        };
        if has_more {
            eprintln!("there are more than these {}: say a larger --limit", answer.messages.len());
        }
        note_rest(answer.missed, cursor);
    }
    Ok(Exit::Passed)
}

fn list(messages: &[pb::JournalMessage]) -> Result<(), Failure> {
    if messages.is_empty() {
        return Ok(());
    }
    let heading = ["NUMBER", "TIME", "TOPIC", "QOS", "FROM", "PAYLOAD"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(messages.iter().map(|message| {
        let qos = if message.retain { format!("{} retain", message.qos) } else { message.qos.to_string() };
        vec![
            message.sequence.to_string(),
            output::time_ms(message.at.as_ref()),
            message.topic.clone(),
            qos,
            from(message),
            payload_text(&message.payload),
        ]
    }));
    Ok(output::line(output::table(&rows))?)
}

/// Who published it: a client by its identifier.
fn from(message: &pb::JournalMessage) -> String {
    let origin = short(message.origin().as_str_name(), "MESSAGE_ORIGIN_");
    let who = match message.origin() {
        pb::MessageOrigin::Client | pb::MessageOrigin::Replay => message.client_id.clone(),
        pb::MessageOrigin::Will => format!("{} (will)", message.client_id),
        _ => origin,
    };
    if message.intercepted { format!("{who}, kept by a mock") } else { who }
}

fn told(message: &pb::JournalMessage) -> String {
    let pb::JournalMessage { sequence, topic, payload, .. } = message;
    output::cell(&format!("#{sequence} {topic} {} ({})", payload_text(payload), from(message)))
}

/// What came near goes where errors go: it says why.
fn tell_near(nearest: &[pb::NearMiss]) {
    for near in nearest {
        let message = near.message.as_ref().map(told).unwrap_or_default();
        eprintln!("  near: {message}");
        for difference in &near.differences {
            eprintln!("        {}", output::cell(difference));
        }
    }
}

fn note_rest(missed: u64, cursor: u64) {
    if missed > 0 {
        eprintln!(
            "{} had left the journal already, and may have matched (journal.messages, journal.bytes)",
            output::count(missed, "message")
        );
    }
    eprintln!("what comes next is --since {cursor}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Typed {
        #[command(subcommand)]
        command: Command,
    }

    fn spec(words: &str) -> Result<Value, String> {
        let words = ["messages", "count"].into_iter().chain(words.split('|').filter(|word| !word.is_empty()));
        let typed = <Typed as clap::Parser>::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Count { meant } = typed.command else { unreachable!("it was typed") };
        let spec = meant.spec().map_err(|failure| failure.error.to_string())?;
        Ok(serde_json::to_value(spec).expect("a spec is JSON"))
    }

    #[test]
    fn flags_say_which_messages_are_meant() {
        assert_eq!(spec(""), Ok(json!({})));
        assert_eq!(
            spec("--topic|a/+|--topic|b|--client|dev-*|--qos|1|--retain|--user|k=v=w|--origin|will"),
            Ok(json!({
                "topic": ["a/+", "b"], "client": "dev-*", "qos": [1], "retain": true, "user": {"k": "v=w"},
                "origin": ["will"],
            }))
        );
        assert_eq!(spec("--payload|on"), Ok(json!({"payload": {"equals": "on"}})));
        assert_eq!(
            spec(
                "--where|$.v > 5|--where|$.v <= 9|--where|$.unit == c|--where|$.list[?@.a > 1 && @.b == 2].c =~ ^x y|--where|$.n"
            ),
            Ok(json!({"payload": {
                "$.v": {"gt": 5.0, "lte": 9.0},
                "$.unit": {"equals": "c"},
                "$.list[?@.a > 1 && @.b == 2].c": {"regex": "^x y"},
                "$.n": {"exists": true},
            }}))
        );
        assert_eq!(
            spec(r#"--match|{"topic": "a", "payload": "on", "retain": false}|--topic|b|--where|$.v == "1""#),
            Ok(json!({"topic": ["b"], "retain": false, "payload": {"equals": "on", "$.v": {"equals": "1"}}}))
        );
    }

    #[test]
    fn wrong_flags_are_told() {
        for (words, why) in [
            ("--where|v > 5", "expected a JSONPath, which begins with $"),
            ("--where|$.v > x", "\"x\" is no number to compare with >"),
            ("--where|$.v > 1|--where|$.v > 2", "--where: $.v has two tests with gt"),
            (r#"--match|{"topics": "a"}"#, "unknown key \"topics\"; did you mean \"topic\"?"),
            (r#"--match|{"qos": 7}"#, "QoS 7 is none of 0, 1 and 2"),
        ] {
            let error = spec(words).expect_err(words);
            assert!(error.contains(why), "{words}: {error}");
        }
    }

    #[test]
    fn counts_are_numbers_or_bounds() {
        let shown = |text| parse_count(text).map(|count| serde_json::to_value(count).expect("JSON"));
        assert_eq!(shown("3"), Ok(json!(3)));
        assert_eq!(shown(">=1"), Ok(json!({"gte": 1})));
        assert_eq!(shown("> 1"), Ok(json!({"gt": 1})));
        assert_eq!(shown("<5"), Ok(json!({"lt": 5})));
        assert_eq!(shown("2..5"), Ok(json!({"gte": 2, "lte": 5})));
        assert!(shown("some").is_err() && shown("-1").is_err() && shown("1..").is_err());
    }
}
