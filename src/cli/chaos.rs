//! `chaos status | ls | show | add | update | rm | profiles | profile | enable | disable | reset | seed | faults`.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::{
    duration,
    exit::{Exit, Failure},
    listing::{self, PAGE},
    mocks::{read_text, said},
    output::{self, Format, json},
    signal::Signals,
    transport::Transport,
};
use crate::{
    config::read_rules,
    control::{pb, rule_message},
    fault::RuleSpec,
};

use pb::chaos_action::Action;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say whether chaos is on, and what it holds
    Status,
    /// List rules in the order they are asked
    #[command(visible_alias = "list")]
    Ls,
    /// Say what a rule is, and how often it did something
    Show {
        /// Its id
        rule: String,
    },
    /// Add the rules of a YAML or JSON file: a list of them, one alone, or a mockforge.yaml
    Add {
        #[command(flatten)]
        file: FileArgs,
        /// Put them in the place of rules that have their ids
        #[arg(long)]
        replace: bool,
    },
    /// Put the rules of a YAML or JSON file in the place of those that have their ids
    Update {
        #[command(flatten)]
        file: FileArgs,
    },
    /// Remove rules
    Rm {
        /// Their ids
        #[arg(required = true)]
        rules: Vec<String>,
    },
    /// List the profiles and their rules
    Profiles,
    /// Add the rules of a profile
    Profile {
        /// Its name
        name: String,
    },
    /// Switch chaos on, or single rules
    Enable {
        /// Ids of rules; none: chaos as a whole
        rules: Vec<String>,
    },
    /// Switch chaos off, or single rules; what is held back goes out
    Disable {
        /// Ids of rules; none: chaos as a whole
        rules: Vec<String>,
    },
    /// Remove all rules and let go what is held back; connections stay
    Reset,
    /// Print the seed, or draw from another one from now on
    Seed {
        /// The new seed
        seed: Option<u64>,
    },
    /// List the last faults, newest first
    Faults(FaultsArgs),
}

#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// The file; `-` reads standard input
    #[arg(value_name = "FILE", required_unless_present = "named")]
    file: Option<PathBuf>,
    /// The same
    #[arg(id = "named", short = 'f', long = "file", value_name = "FILE", conflicts_with = "file")]
    named: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct FaultsArgs {
    /// Print faults as they are injected, from now on, until Ctrl-C
    #[arg(long, conflicts_with_all = ["from", "limit"])]
    follow: bool,
    /// Begin with this number and go forward
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// So many at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Only of this client; `*` stands for any characters
    #[arg(long, value_name = "ID", default_value = "")]
    client: String,
    /// Only of this rule
    #[arg(long, value_name = "ID", default_value = "")]
    rule: String,
    /// Only this action
    #[arg(long, value_name = "NAME", default_value = "")]
    action: String,
    /// Only packets from clients, or to them
    #[arg(long)]
    direction: Option<Direction>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Direction {
    C2s,
    S2c,
}

pub async fn run(
    command: Command,
    transport: &Transport,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let mut chaos = transport.chaos();
    match command {
        Command::Status => {
            status(&chaos.get_chaos(pb::GetChaosRequest {}).await?.into_inner(), format)?;
        }
        Command::Ls => {
            list(&every(transport).await?, format)?;
            note_script(transport).await?;
        }
        Command::Show { rule } => show(transport, rule, format).await?,
        Command::Add { file, replace } => {
            add(transport, file, replace, format).await?;
            note_script(transport).await?;
        }
        Command::Update { file } => {
            update(transport, file, format).await?;
            note_script(transport).await?;
        }
        Command::Rm { rules } => {
            for id in rules {
                chaos.delete_rule(pb::DeleteRuleRequest { id: id.clone() }).await?;
                said(format, &format!("removed {id}"))?;
            }
        }
        Command::Profiles => {
            let found = listing::every(async |page_token| {
                let request = pb::ListProfilesRequest { page_size: PAGE, page_token };
                let page = transport.chaos().list_profiles(request).await?.into_inner();
                Ok((page.profiles, page.next_page_token))
            });
            profiles(&found.await?, format)?;
        }
        Command::Profile { name } => {
            let rules = chaos.apply_profile(pb::ApplyProfileRequest { name }).await?.into_inner().rules;
            list(&rules, format)?;
            note_script(transport).await?;
        }
        Command::Enable { rules } if rules.is_empty() => {
            status(&chaos.enable_chaos(pb::EnableChaosRequest {}).await?.into_inner(), format)?;
        }
        Command::Disable { rules } if rules.is_empty() => {
            status(&chaos.disable_chaos(pb::DisableChaosRequest {}).await?.into_inner(), format)?;
        }
        Command::Enable { rules } => switch(transport, rules, true, format).await?,
        Command::Disable { rules } => switch(transport, rules, false, format).await?,
        Command::Reset => {
            status(&chaos.reset_chaos(pb::ResetChaosRequest {}).await?.into_inner(), format)?;
        }
        Command::Seed { seed } => {
            let answer = match seed {
                None => chaos.get_seed(pb::GetSeedRequest {}).await?,
                seed => chaos.set_seed(pb::SetSeedRequest { seed }).await?,
            };
            let seed = answer.into_inner();
            match format {
                Format::Json => output::json_line(&json("ChaosSeed", &seed))?,
                Format::Text => output::line(seed.seed.to_string())?,
            }
        }
        Command::Faults(args) if args.follow => return follow(transport, args, format, signals).await,
        Command::Faults(args) => faults(transport, args, format).await?,
    }
    Ok(Exit::Passed)
}

fn status(status: &pb::ChaosStatus, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return Ok(output::json_line(&json("ChaosStatus", status))?);
    }
    let rules = output::count(status.rules.into(), "rule");
    let script = match status.script_faults {
        0 => None,
        faults => Some(format!("the {} of {}", output::count(faults, "fault"), status.script)),
    };
    output::line(match (status.enabled, script) {
        (true, Some(script)) => format!("chaos is on and injects {script} again; rules are not asked"),
        (false, Some(script)) => format!("chaos is off; it would inject {script} again"),
        (true, None) if status.active => format!("chaos is on, with {rules}"),
        (true, None) if status.rules == 0 => "chaos is on, but has no rules".to_owned(),
        (true, None) => format!("chaos is on, but has no rule that is enabled, of {rules}"),
        (false, None) => format!("chaos is off; it has {rules}"),
    })?;
    output::line(output::table(&[
        vec!["seed".to_owned(), status.seed.to_string()],
        vec!["faults".to_owned(), status.faults.to_string()],
        vec![
            "held back".to_owned(),
            format!("{}, {}", output::count(status.held_packets, "packet"), output::bytes(status.held_bytes)),
        ],
    ]))?;
    Ok(())
}

/// Says that rules have no say, if that is so.
async fn note_script(transport: &Transport) -> Result<(), Failure> {
    let status = transport.chaos().get_chaos(pb::GetChaosRequest {}).await?.into_inner();
    if !status.script.is_empty() {
        eprintln!(
            "mockforge: the faults of {} are injected again; until a reset, rules are not asked",
            status.script
        );
    }
    Ok(())
}

async fn every(transport: &Transport) -> Result<Vec<pb::ChaosRule>, Failure> {
    listing::every(async |page_token| {
        let request = pb::ListRulesRequest { page_size: PAGE, page_token, enabled: None };
        let page = transport.chaos().list_rules(request).await?.into_inner();
        Ok((page.rules, page.next_page_token))
    })
    .await
}

fn list(rules: &[pb::ChaosRule], format: Format) -> Result<(), Failure> {
    let heading = ["ID", "PACKETS", "WHEN", "ACTIONS", "FAULTS"];
    listing::print(
        format,
        ("rules", "no rules"),
        rules,
        |rule| json("ChaosRule", rule),
        heading,
        |rule| {
            let [id, packets, when, actions] = row(rule);
            vec![id, packets, when, actions, rule.faults.to_string()]
        },
    )
}

fn row(rule: &pb::ChaosRule) -> [String; 4] {
    let off = if rule.enabled.unwrap_or(true) { "" } else { " (off)" };
    let actions: Vec<&Action> = rule.actions.iter().filter_map(|action| action.action.as_ref()).collect();
    [
        format!("{}{off}", rule.id),
        packets(&rule.r#match.clone().unwrap_or_default(), &actions),
        when(&rule.when.unwrap_or_default()),
        actions.into_iter().map(action).collect::<Vec<_>>().join("; "),
    ]
}

/// `PUBLISH to dev-*, topic a/#`.
fn packets(matches: &pb::ChaosMatch, actions: &[&Action]) -> String {
    let of_publish = !matches.topic.is_empty() || !matches.qos.is_empty();
    let mut text = match &matches.types[..] {
        [] if of_publish => "PUBLISH".to_owned(),
        [] => fitting(actions).to_owned(),
        types => types.join(" ").to_uppercase(),
    };
    text += match matches.direction() {
        "" => "",
        "s2c" | "server_to_client" => " to",
        _ => " from",
    };
    match (&matches.client[..], matches.direction()) {
        ([], "") => {}
        ([], _) => text += " clients",
        (clients, "") => text += &format!(" of {}", clients.join(" ")),
        (clients, _) => text += &format!(" {}", clients.join(" ")),
    }
    if !matches.proxy.is_empty() {
        text += &format!(" through {}", matches.proxy.join(" "));
    }
    if !matches.topic.is_empty() {
        text += &format!(", topic {}", matches.topic.join(" "));
    }
    if !matches.qos.is_empty() {
        let qos: Vec<String> = matches.qos.iter().map(u32::to_string).collect();
        text += &format!(", QoS {}", qos.join(" "));
    }
    text
}

/// What the packets are called that all of the actions can be done to.
fn fitting(actions: &[&Action]) -> &'static str {
    let is_any = |test: fn(&Action) -> bool| actions.iter().any(|action| test(action));
    let is_of_acks = |action: &Action| {
        matches!(
            action,
            Action::WithholdAck(()) | Action::DelayAck(_) | Action::DuplicateAck(_) | Action::ReasonCode(_)
        )
    };
    if is_any(|action| matches!(action, Action::RefuseConnect(_) | Action::LoseSession(()))) {
        "CONNECT"
    } else if is_any(|action| matches!(action, Action::Capabilities(_))) {
        "CONNACK"
    } else if is_any(|action| matches!(action, Action::SlowSubscriber(_))) {
        "PUBLISH"
    } else if is_any(is_of_acks) {
        "acks"
    } else {
        "all"
    }
}

fn when(when: &pb::ChaosWhen) -> String {
    let said = [
        when.after_n.map(|n| format!("after {n}")),
        when.first_n.map(|n| format!("first {n}")),
        when.every_nth.map(|n| format!("every {}", ordinal(n))),
        // To six digits, and none too many.
        when.probability.map(|p| format!("{} %", (p * 1e8).round() / 1e6)),
        when.max_count.map(|n| format!("at most {n}")),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    if said.is_empty() { "always".to_owned() } else { said.join(", ") }
}

/// `1st`, `2nd`, `13th`.
fn ordinal(number: u64) -> String {
    let ending = match (number % 10, number % 100) {
        (1, rest) if rest != 11 => "st",
        (2, rest) if rest != 12 => "nd",
        (3, rest) if rest != 13 => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

fn action(action: &Action) -> String {
    let copies = |name: &str, from: &pb::ChaosDuplicate| match from.count.unwrap_or(1) {
        1 => name.to_owned(),
        count => format!("{name} {count} times"),
    };
    let with = |name: &str, details: &str| match details {
        "" => name.to_owned(),
        details => format!("{name} {details}"),
    };
    let shown = |duration: &prost_types::Duration| match duration::from_proto(Some(duration)).as_secs_f64() {
        seconds if seconds < 1.0 => format!("{} ms", seconds * 1e3),
        seconds => format!("{seconds} s"),
    };
    match action {
        Action::Latency(from) => format!("latency {}", delay(from)),
        Action::Drop(()) => "drop".to_owned(),
        Action::Duplicate(from) => copies("duplicate", from),
        Action::Reorder(from) => {
            let violate = if from.violate() { ", against MQTT's order" } else { "" };
            format!("reorder by up to {}{violate}", from.window.unwrap_or(3))
        }
        Action::Corrupt(from) => {
            let bytes = output::count(from.bytes.unwrap_or(1).into(), "byte");
            format!("corrupt {bytes} of {}", if from.part.is_empty() { "body" } else { &from.part })
        }
        Action::Truncate(from) => {
            let bytes = output::count(from.bytes.unwrap_or(1).into(), "byte");
            format!("truncate by {bytes}{}", if from.reframe() { ", reframed" } else { "" })
        }
        Action::WithholdAck(()) => "withhold_ack".to_owned(),
        Action::DelayAck(from) => format!("delay_ack {}", delay(from)),
        Action::DuplicateAck(from) => copies("duplicate_ack", from),
        Action::ReasonCode(text) => with("reason_code", &reason(text)),
        Action::Disconnect(from) => {
            let mode = if from.mode.is_empty() { "rst" } else { &from.mode };
            let at = from.at_byte.map(|at| format!(" at byte {at}")).unwrap_or_default();
            let will = if from.will.unwrap_or(true) { "" } else { ", no Will" };
            with(&format!("disconnect {mode}{at}{will}"), &reason(from.reason()))
        }
        Action::RefuseConnect(from) => with("refuse_connect", &reason(from.reason())),
        Action::Blackhole(from) => with("blackhole", &from.duration.as_ref().map(shown).unwrap_or_default()),
        Action::Bandwidth(from) => format!("bandwidth {} B/s", from.bytes_per_s),
        Action::Slice(from) => {
            let delay = from.delay.as_ref().map(|delay| format!(", {} apart", shown(delay)));
            format!("slice into {}{}", output::bytes(from.size.into()), delay.unwrap_or_default())
        }
        Action::LoseSession(()) => "lose_session".to_owned(),
        Action::Takeover(()) => "takeover".to_owned(),
        Action::Capabilities(from) => with("capabilities", &details(json("ChaosCapabilities", from).get())),
        Action::SlowSubscriber(from) => format!("slow_subscriber {} ms", from.delay_ms),
    }
}

/// A number as the standard writes it, a name as it is.
fn reason(text: &str) -> String {
    text.parse::<u8>().map_or_else(|_| text.to_owned(), |code| format!("0x{code:02x}"))
}

fn delay(delay: &pb::ChaosDelay) -> String {
    let pb::ChaosDelay { ms, min_ms, max_ms, mean_ms, sd_ms, median_ms, sigma } = *delay;
    match (ms, min_ms.zip(max_ms), mean_ms.zip(sd_ms), median_ms.zip(sigma)) {
        (Some(ms), ..) => format!("{ms} ms"),
        (_, Some((min, max)), ..) => format!("{min} to {max} ms"),
        (_, _, Some((mean, sd)), _) => format!("{mean} ms (sd {sd})"),
        (_, _, _, Some((median, sigma))) => format!("{median} ms (sigma {sigma})"),
        _ => String::new(),
    }
}

/// The members of a JSON object, `ms=12.5 will=true`.
fn details(object: &str) -> String {
    let Ok(Value::Object(members)) = serde_json::from_str(object) else { return object.to_owned() };
    let members = members.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        value => format!("{name}={value}"),
    });
    members.collect::<Vec<_>>().join(" ")
}

async fn show(transport: &Transport, id: String, format: Format) -> Result<(), Failure> {
    let rule = transport.chaos().get_rule(pb::GetRuleRequest { id }).await?.into_inner();
    let text = json("ChaosRule", &rule);
    match format {
        Format::Json => output::json_line(&text)?,
        Format::Text => {
            list(std::slice::from_ref(&rule), format)?;
            let value: Value = serde_json::from_str(text.get()).map_err(anyhow::Error::from)?;
            output::line(serde_json::to_string_pretty(&value).map_err(anyhow::Error::from)?)?;
        }
    }
    Ok(())
}

impl FileArgs {
    /// What errors call the file, and the rules in it, of which there is one at least.
    fn read(self) -> Result<Vec<RuleSpec>, Failure> {
        let file = self.file.or(self.named).expect("one of them is required");
        let (name, text) = read_text(file)?;
        let rules = read_rules(&name, &text)?;
        if rules.is_empty() {
            return Err(Failure::usage(format!("{name} has no rules")));
        }
        Ok(rules)
    }
}

async fn add(transport: &Transport, file: FileArgs, replace: bool, format: Format) -> Result<(), Failure> {
    let specs = file.read()?;
    if !replace {
        let there = every(transport).await?;
        if let Some(taken) = specs.iter().find(|spec| there.iter().any(|rule| rule.id == spec.id)) {
            return Err(Failure::usage(format!(
                "a rule {:?} exists already; --replace puts another in its place",
                taken.id
            )));
        }
    }
    let mut added = Vec::new();
    for spec in specs {
        let rule = rule_message(spec);
        let id = rule.id.clone();
        let created = transport.chaos().create_rule(pb::CreateRuleRequest { rule: Some(rule.clone()) }).await;
        let answer = match created {
            Err(status) if replace && status.code() == tonic::Code::AlreadyExists => {
                transport
                    .chaos()
                    .update_rule(pb::UpdateRuleRequest { id, rule: Some(rule), update_mask: None })
                    .await?
            }
            created => created?,
        };
        added.push(answer.into_inner());
    }
    list(&added, format)
}

async fn update(transport: &Transport, file: FileArgs, format: Format) -> Result<(), Failure> {
    let mut updated = Vec::new();
    for spec in file.read()? {
        let rule = rule_message(spec);
        let request = pb::UpdateRuleRequest { id: rule.id.clone(), rule: Some(rule), update_mask: None };
        updated.push(transport.chaos().update_rule(request).await?.into_inner());
    }
    list(&updated, format)
}

fn profiles(profiles: &[pb::ChaosProfile], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        let profiles: Vec<_> = profiles.iter().map(|profile| json("ChaosProfile", profile)).collect();
        return Ok(output::json_line(&BTreeMap::from([("profiles", profiles)]))?);
    }
    for (position, profile) in profiles.iter().enumerate() {
        if position > 0 {
            output::line("")?;
        }
        output::line(format!("{}: {}", profile.name, profile.description))?;
        let rows: Vec<Vec<String>> = profile
            .rules
            .iter()
            .map(|rule| {
                let [id, packets, when, actions] = row(rule);
                vec![format!("  {id}"), packets, when, actions]
            })
            .collect();
        output::line(output::table(&rows))?;
    }
    Ok(())
}

async fn switch(
    transport: &Transport,
    ids: Vec<String>,
    enabled: bool,
    format: Format,
) -> Result<(), Failure> {
    for id in ids {
        let rule = Some(pb::ChaosRule { enabled: Some(enabled), ..Default::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["enabled".to_owned()] });
        transport.chaos().update_rule(pb::UpdateRuleRequest { id: id.clone(), rule, update_mask }).await?;
        said(format, &format!("{id} is {}", if enabled { "on" } else { "off" }))?;
    }
    Ok(())
}

impl FaultsArgs {
    fn filter(&self) -> pb::FaultFilter {
        pb::FaultFilter {
            client: self.client.clone(),
            rule: self.rule.clone(),
            action: self.action.clone(),
            direction: match self.direction {
                None => pb::Direction::Unspecified,
                Some(Direction::C2s) => pb::Direction::ClientToServer,
                Some(Direction::S2c) => pb::Direction::ServerToClient,
            }
            .into(),
            r#type: pb::PacketType::Unspecified.into(),
        }
    }
}

async fn faults(transport: &Transport, args: FaultsArgs, format: Format) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let mut page_token = String::new();
    while faults.len() < args.limit {
        let request = pb::ListFaultsRequest {
            filter: Some(args.filter()),
            from: args.from.unwrap_or_default(),
            page_size: PAGE.min(u32::try_from(args.limit - faults.len()).unwrap_or(PAGE)),
            page_token,
        };
        let page = transport.chaos().list_faults(request).await?.into_inner();
        faults.extend(page.faults);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let heading = ["NUMBER", "TIME", "CLIENT", "PACKET", "TOPIC", "RULE", "ACTION"];
    let shown = |fault: &pb::Fault| json("Fault", fault);
    listing::print(format, ("faults", "no faults"), &faults, shown, heading, |fault| cells(fault).to_vec())
}

fn cells(fault: &pb::Fault) -> [String; 7] {
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let from = if fault.direction() == pb::Direction::ServerToClient { "to" } else { "from" };
    let packet = fault.r#type().as_str_name().trim_start_matches("PACKET_TYPE_");
    let detail = details(&String::from_utf8_lossy(&fault.detail));
    [
        fault.number.to_string(),
        output::time_ms(fault.at.as_ref()),
        format!("{from} {}", or_none(&fault.client_id)),
        format!("{packet} {}", fault.nth),
        or_none(&fault.topic),
        fault.rule.clone(),
        format!("{} {detail}", fault.action).trim_end().to_owned(),
    ]
}

async fn follow(
    transport: &Transport,
    args: FaultsArgs,
    format: Format,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let request = pb::WatchFaultsRequest { filter: Some(args.filter()) };
    let mut stream = transport.chaos().watch_faults(request).await?.into_inner();
    // Columns grow, so that most lines are below each other.
    let mut widths = [0; 7];
    loop {
        let element = tokio::select! {
            element = stream.message() => element?,
            () = signals.asked() => return Ok(Exit::Passed),
        };
        let Some(element) = element else { break };
        match (format, &element.element) {
            (Format::Json, _) => output::json_line(&json("WatchFaultsResponse", &element))?,
            (Format::Text, Some(pb::watch_faults_response::Element::Fault(fault))) => {
                let mut cells = cells(fault);
                for (cell, width) in cells.iter_mut().zip(&mut widths) {
                    *width = cell.chars().count().max(*width);
                    *cell = format!("{cell:0$}", *width);
                }
                output::line(output::table(&[cells.to_vec()]))?;
            }
            (Format::Text, Some(pb::watch_faults_response::Element::Gap(gap))) => {
                output::line(format!("({} missed)", output::count(gap.missed, "fault")))?;
            }
            (Format::Text, None) => {}
        }
    }
    Err(Failure::new(Exit::Unreachable, anyhow::anyhow!("the server has stopped")))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn rules_are_shown_in_words() {
        let rules = read_rules(
            "rules.yaml",
            r#"
            - {id: "1", actions: [drop]}
            - {id: "2", match: {direction: c2s}, when: {probability: 0.005}, actions: [latency: {min_ms: 10, max_ms: 100}]}
            - {id: "3", match: {client: [dev-*, app], types: publish}, when: {every_nth: 2}, actions: [duplicate, reorder]}
            - {id: "4", match: {topic: a/#, qos: [1, 2], direction: s2c, client: x}, when: {after_n: 5, max_count: 1}, actions: [corrupt]}
            - {id: "5", enabled: false, actions: [delay_ack: {mean_ms: 5, sd_ms: 1}, reason_code: 0x97]}
            - {id: "6", actions: [lose_session, refuse_connect, disconnect: {at_byte: 3, will: false}]}
            - {id: "7", actions: [capabilities: {maximum_qos: 0, receive_maximum: 1}]}
            - {id: "8", actions: [slow_subscriber: {delay_ms: 100}]}
            - {id: "9", when: {first_n: 3}, actions: [blackhole: {duration: 90s}, slice: {size: 10, delay: 5ms}, truncate]}
            "#,
        )
        .unwrap();
        let rows: Vec<Vec<String>> =
            rules.into_iter().map(|rule| row(&rule_message(rule)).to_vec()).collect();
        expect![[r#"
            1        all                               always              drop
            2        all from clients                  0.5 %               latency 10 to 100 ms
            3        PUBLISH of dev-* app              every 2nd           duplicate; reorder by up to 3
            4        PUBLISH to x, topic a/#, QoS 1 2  after 5, at most 1  corrupt 1 byte of body
            5 (off)  acks                              always              delay_ack 5 ms (sd 1); reason_code 0x97
            6        CONNECT                           always              lose_session; refuse_connect; disconnect rst at byte 3, no Will
            7        CONNACK                           always              capabilities maximum_qos=0 receive_maximum=1
            8        PUBLISH                           always              slow_subscriber 100 ms
            9        all                               first 3             blackhole 90 s; slice into 10 B, 5 ms apart; truncate by 1 byte"#]].assert_eq(&output::table(&rows));
    }

    #[test]
    fn faults_are_shown_in_words() {
        let fault = pb::Fault {
            number: 12,
            at: Some(prost_types::Timestamp { seconds: 1, nanos: 250_000_000 }),
            rule: "net".to_owned(),
            action: "latency".to_owned(),
            detail: r#"{"ms":23.4}"#.into(),
            client_id: "dev-1".to_owned(),
            direction: pb::Direction::ServerToClient.into(),
            r#type: pb::PacketType::Publish.into(),
            nth: 7,
            topic: "a/b".to_owned(),
            connection: 3,
        };
        let connect = pb::Fault {
            number: 13,
            action: "drop".to_owned(),
            detail: "{}".into(),
            direction: pb::Direction::ClientToServer.into(),
            r#type: pb::PacketType::Connect.into(),
            ..pb::Fault { client_id: String::new(), topic: String::new(), ..fault.clone() }
        };
        expect![[r#"
            12  1970-01-01T00:00:01.250Z  to dev-1  PUBLISH 7  a/b  net  latency ms=23.4
            13  1970-01-01T00:00:01.250Z  from -    CONNECT 7  -    net  drop"#]]
        .assert_eq(&output::table(&[cells(&fault).to_vec(), cells(&connect).to_vec()]));
    }
}
