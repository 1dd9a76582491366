//! A rule that was checked: what [`RuleSpec`] means.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    ActionSpec, ChaosSpec, Effect, MatchSpec, RuleSpec, Seen, SlowSubscriberActionSpec, SlowSubscriberSpec,
    WhenSpec, action::Action, profile, target::TypeSet,
};
use crate::{
    draws::Draws,
    field::{BadField, Checks},
    likeness::unknown,
    mock::check_id,
    packet::{PacketType, ProtocolVersion, QoS, TopicFilter},
    recording::{Direction, NamePattern},
};

/// As many as a rule may have of each: patterns, filters, actions.
const ENTRIES_MAX: usize = 1_000;

const DIRECTIONS: [Direction; 2] = [Direction::ClientToServer, Direction::ServerToClient];
const PROTOCOLS: [ProtocolVersion; 3] = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];

/// A rule, ready to be asked.
#[derive(Debug)]
pub struct Rule {
    spec: RuleSpec,
    id: Arc<str>,
    /// None: every client.
    clients: Vec<NamePattern>,
    /// None: every one, and the server itself.
    proxies: Vec<NamePattern>,
    /// None: every topic, and packets without.
    topics: Vec<TopicFilter>,
    /// None: every one, and packets without.
    qos: Vec<QoS>,
    /// Packets it is for, by direction and protocol version.
    types: [[TypeSet; PROTOCOLS.len()]; DIRECTIONS.len()],
    actions: Vec<Action>,
}

/// What the server's own listener is called among proxies.
const OWN_LISTENER: &str = "default";

impl Rule {
    /// # Errors
    /// Every field that is wrong.
    pub fn new(spec: RuleSpec) -> Result<Self, Vec<BadField>> {
        let mut checks = Checks::default();
        check_id(&mut checks, &spec.id);
        check_when(&mut checks, &spec.when);
        let MatchSpec { direction, client, proxy, topic, types, qos } = &spec.matches;
        let direction = direction
            .as_deref()
            .map_or(Some(None), |name| checks.keep("match.direction", read_direction(name)).map(Some));
        for (path, list) in [("match.client", client), ("match.proxy", proxy)] {
            if list.len() > ENTRIES_MAX {
                checks.refuse(path, format_args!("has at most {ENTRIES_MAX} entries"));
            }
        }
        let topics = read_list(&mut checks, "match.topic", topic, |filter| read_filter(filter));
        let qos = read_list(&mut checks, "match.qos", qos, |qos| {
            QoS::try_from(*qos).map_err(|error| error.to_string())
        });
        let types = read_list(&mut checks, "match.types", types, |name| read_type(name));
        if spec.actions.is_empty() {
            checks.refuse("actions", "has no entry: there is nothing that the rule would do");
        }
        if spec.actions.len() > ENTRIES_MAX {
            checks.refuse("actions", format_args!("has at most {ENTRIES_MAX} entries"));
        }
        let mut actions = Vec::with_capacity(spec.actions.len());
        for (index, action) in spec.actions.iter().enumerate() {
            match Action::new(action) {
                Ok(action) => actions.push(action),
                Err(bad) => checks.adopt(&format!("actions[{index}].{}", action.name()), bad),
            }
        }
        let parts = (direction, topics, qos, types);
        let (Some(direction), Some(topics), Some(qos), Some(types)) = parts else {
            return checks.done(None);
        };
        if !checks.is_empty() {
            return checks.done(None);
        }
        let types = fit(&mut checks, &spec, direction, &types, &actions);
        let made = types.map(|types| Self {
            id: spec.id.as_str().into(),
            clients: spec.matches.client.iter().map(NamePattern::new).collect(),
            proxies: spec.matches.proxy.iter().map(NamePattern::new).collect(),
            topics,
            qos,
            types,
            actions,
            spec,
        });
        checks.done(made)
    }

    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub fn spec(&self) -> &RuleSpec {
        &self.spec
    }

    /// `proxy` is the id of the one that the client came through; `None` if it came to the server itself.
    pub(super) fn concerns(&self, client_identifier: &str, proxy: Option<&str>) -> bool {
        let is_one = |patterns: &[NamePattern], name: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
        };
        is_one(&self.clients, client_identifier) && is_one(&self.proxies, proxy.unwrap_or(OWN_LISTENER))
    }

    /// Whether all but the client and the proxy, and `when`, holds of a packet.
    pub(super) fn matches(&self, seen: &Seen<'_>) -> bool {
        let protocol = seen.protocol as usize - PROTOCOLS[0] as usize;
        self.types[seen.direction as usize][protocol].contains(seen.packet)
            && (self.qos.is_empty() || seen.qos.is_some_and(|qos| self.qos.contains(&qos)))
            && (self.topics.is_empty()
                || seen.topic.is_some_and(|topic| self.topics.iter().any(|filter| filter.matches_str(topic))))
    }

    /// Whether the `count`-th packet that matches, from 1, is one of those asked for, `fired` times after it last was.
    pub(super) fn is_turn(&self, count: u64, fired: u64, draws: &Draws) -> bool {
        let WhenSpec { probability, first_n, every_nth, after_n, max_count } = self.spec.when;
        first_n.is_none_or(|first| count <= first)
            && after_n.is_none_or(|after| count > after)
            && every_nth.is_none_or(|every| count.is_multiple_of(every))
            && max_count.is_none_or(|max| fired < max)
            && probability.is_none_or(|probability| draws.of("probability").fraction() < probability)
    }

    /// What it does to a packet when it fires, up to what ends the packet or the connection.
    pub(super) fn draw(&self, seen: &Seen<'_>, draws: &Draws, mut add: impl FnMut(Effect)) {
        for (index, action) in self.actions.iter().enumerate() {
            // Each has draws of its own, so that one more or less does not shift the others.
            let Some(effect) = action.draw(seen, draws.nth(index as u64)) else { continue };
            let is_end = effect.is_end();
            add(effect);
            if is_end {
                return;
            }
        }
    }
}

fn read_direction(name: &str) -> Result<Direction, String> {
    match name.trim() {
        "c2s" | "client_to_server" => Ok(Direction::ClientToServer),
        "s2c" | "server_to_client" => Ok(Direction::ServerToClient),
        other => Err(unknown("direction", other, ["c2s", "s2c", "client_to_server", "server_to_client"])),
    }
}

fn read_type(name: &str) -> Result<PacketType, String> {
    let name = name.trim().to_uppercase();
    let unknown = || unknown("packet type", &name, PacketType::ALL.map(PacketType::name));
    PacketType::from_name(&name).ok_or_else(unknown)
}

fn read_filter(filter: &str) -> Result<TopicFilter, String> {
    match TopicFilter::parse(filter) {
        Ok(filter) if filter.is_shared() => Err("shared subscriptions are for clients".to_owned()),
        read => read.map_err(|error| error.to_string()),
    }
}

/// `None` if anything is wrong with any entry.
fn read_list<S, T>(
    checks: &mut Checks,
    path: &str,
    entries: &[S],
    read: impl Fn(&S) -> Result<T, String>,
) -> Option<Vec<T>> {
    if entries.len() > ENTRIES_MAX {
        checks.refuse(path, format_args!("has at most {ENTRIES_MAX} entries"));
        return None;
    }
    let results = entries.iter().enumerate();
    let kept: Vec<Option<T>> =
        results.map(|(index, entry)| checks.keep(place(path, index, entries.len()), read(entry))).collect();
    kept.into_iter().collect()
}

/// Of the only one, that of the list, because that is how people write it.
fn place(path: &str, index: usize, len: usize) -> String {
    if len == 1 { path.to_owned() } else { format!("{path}[{index}]") }
}

fn check_when(checks: &mut Checks, when: &WhenSpec) {
    let WhenSpec { probability, first_n, every_nth, after_n, max_count } = *when;
    if let Some(probability) = probability {
        checks.range("when.probability", probability, 0.0, 1.0);
    }
    let mut is_counted = true;
    for (path, number) in
        [("when.first_n", first_n), ("when.every_nth", every_nth), ("when.max_count", max_count)]
    {
        if number == Some(0) {
            checks.refuse(path, "is at least 1");
            is_counted = false;
        }
    }
    // Multiples of `every_nth` above `after_n` and up to `first_n`.
    let (every, after) = (every_nth.unwrap_or(1), after_n.unwrap_or(0));
    if let Some(first) = first_n
        && is_counted
        && first / every == after.min(first) / every
    {
        checks.refuse("when", "never holds: no packet is among first_n and, at once, what else is asked for");
    }
}

/// The packets that a rule is for: those that are asked for and that all of its actions can be done to.
fn fit(
    checks: &mut Checks,
    spec: &RuleSpec,
    direction: Option<Direction>,
    asked: &[PacketType],
    actions: &[Action],
) -> Option<[[TypeSet; PROTOCOLS.len()]; DIRECTIONS.len()]> {
    let targets = |way: Direction, protocol: ProtocolVersion| {
        let types = actions.iter().map(|action| action.target().types(way, protocol));
        types.fold(TypeSet::travelling(way, protocol), |all, types| all & types)
    };
    // What there is in MQTT 5 is all that there is.
    let both = |of: &dyn Fn(Direction) -> TypeSet| of(DIRECTIONS[0]) | of(DIRECTIONS[1]);
    let widest = |way| targets(way, ProtocolVersion::V5);
    let possible = both(&widest);
    let names: Vec<&str> = spec.actions.iter().map(ActionSpec::name).collect();
    if possible.is_empty() {
        checks.refuse("actions", format_args!("{} never act on the same packet", names.join(" and ")));
        return None;
    }
    for (index, packet) in asked.iter().enumerate().filter(|(_, packet)| !possible.contains(**packet)) {
        let one = |action: &&Action| {
            !both(&|way| action.target().types(way, ProtocolVersion::V5)).contains(*packet)
        };
        let name = actions.iter().position(|action| one(&action)).map_or("", |position| names[position]);
        checks.refuse(
            place("match.types", index, asked.len()),
            format_args!("{name} never acts on {packet}; possible here: {possible}"),
        );
    }
    if !checks.is_empty() {
        return None;
    }
    let mut wanted = if asked.is_empty() { TypeSet::ALL } else { asked.iter().copied().collect() };
    let of_publish = [
        ("match.topic", "topic", !spec.matches.topic.is_empty()),
        ("match.qos", "QoS", !spec.matches.qos.is_empty()),
    ];
    for (path, noun, _) in of_publish.into_iter().filter(|(.., is_said)| *is_said) {
        if !(wanted & possible).contains(PacketType::Publish) {
            checks.refuse(
                path,
                format_args!("only PUBLISH has a {noun}, and this rule is for {}", wanted & possible),
            );
            return None;
        }
    }
    if of_publish.iter().any(|(.., is_said)| *is_said) {
        wanted = TypeSet::of(PacketType::Publish);
    }
    if let Some(way) = direction
        && (widest(way) & wanted).is_empty()
    {
        let name = way.name();
        match widest(way).is_empty() {
            true => checks.refuse(
                "match.direction",
                format_args!("nothing that {} acts on goes {name}", names.join(" and ")),
            ),
            false => {
                checks.refuse("match.direction", format_args!("{} never goes {name}", wanted & possible))
            }
        }
        return None;
    }
    Some(DIRECTIONS.map(|way| {
        let is_meant = direction.is_none_or(|direction| direction == way);
        PROTOCOLS.map(|protocol| if is_meant { targets(way, protocol) & wanted } else { TypeSet::NONE })
    }))
}

/// Identifiers of what settings say outside of `rules`.
const OF_SETTINGS: [&str; 4] = ["packet_loss", "slow_subscriber", "latency", "disconnect_probability"];

/// Whether a rule of that id stands for a key of the settings.
pub(super) fn is_key(id: &str) -> bool {
    OF_SETTINGS.contains(&id)
}

/// The rules of the settings in their order; those without an id are named by their position.
///
/// # Errors
/// Every field that is wrong, its path from `mqtt.chaos` on: `rules[1].actions[0].latency.min_ms`.
pub fn settings_rules(spec: &ChaosSpec) -> Result<Vec<Rule>, Vec<BadField>> {
    let mut checks = Checks::default();
    let mut rules = Vec::new();
    for (short, paths) in short_rules(spec) {
        match Rule::new(short) {
            Ok(rule) => rules.push(rule),
            Err(bad) => {
                for BadField { path, what } in bad {
                    let rest = |(from, to): &(&str, &str)| Some(format!("{to}{}", path.strip_prefix(from)?));
                    checks.refuse(paths.iter().find_map(rest).unwrap_or(path.clone()), what);
                }
            }
        }
    }
    let mut taken: BTreeSet<String> = BTreeSet::new();
    if let Some(name) = &spec.profile {
        match profile(name) {
            Ok(profile) => {
                taken.extend(profile.rules.iter().map(|rule| rule.id.clone()));
                let made = profile.rules.into_iter().map(Rule::new);
                rules.extend(made.map(|rule| rule.expect("profiles are good, which a test says")));
            }
            Err(error) => checks.refuse("profile", error),
        }
    }
    let said: BTreeSet<&str> = spec.rules.iter().map(|rule| rule.id.as_str()).collect();
    for (position, rule) in spec.rules.iter().enumerate() {
        let path = format!("rules[{position}]");
        let mut rule = rule.clone();
        if rule.id.is_empty() {
            rule.id = free_id("rule", position + 1, |id| said.contains(id) || taken.contains(id));
        } else if is_key(&rule.id) {
            checks.refuse(
                format!("{path}.id"),
                format_args!("{:?} is the rule that the key {} makes", rule.id, rule.id),
            );
        } else if taken.contains(&rule.id) {
            checks.refuse(format!("{path}.id"), format_args!("{:?} is the id of another rule", rule.id));
        }
        taken.insert(rule.id.clone());
        match Rule::new(rule) {
            Ok(rule) => rules.push(rule),
            Err(bad) => checks.adopt(&path, bad.into()),
        }
    }
    checks.done(Some(rules))
}

/// The rules that keys of the settings are short for, with what takes the place of the beginning of which path.
fn short_rules(spec: &ChaosSpec) -> Vec<(RuleSpec, Vec<(&'static str, &'static str)>)> {
    let publish = || vec![PacketType::Publish.name().to_owned()];
    let to_client = || Some(Direction::ServerToClient.name().to_owned());
    let of_each = |probability| WhenSpec { probability: Some(probability), ..WhenSpec::default() };
    let rule = |position: usize| RuleSpec { id: OF_SETTINGS[position].to_owned(), ..RuleSpec::default() };
    let mut rules = Vec::new();
    if spec.packet_loss != 0.0 {
        let rule = RuleSpec {
            matches: MatchSpec { types: publish(), ..MatchSpec::default() },
            when: of_each(spec.packet_loss),
            actions: vec![ActionSpec::Drop],
            ..rule(0)
        };
        rules.push((rule, vec![("when.probability", OF_SETTINGS[0])]));
    }
    if let Some(SlowSubscriberSpec { enabled: true, delay_ms, affected_topics }) = &spec.slow_subscriber {
        let rule = RuleSpec {
            matches: MatchSpec {
                direction: to_client(),
                topic: affected_topics.clone(),
                types: publish(),
                ..MatchSpec::default()
            },
            actions: vec![ActionSpec::SlowSubscriber(SlowSubscriberActionSpec { delay_ms: *delay_ms })],
            ..rule(1)
        };
        let paths = vec![
            ("match.topic", "slow_subscriber.affected_topics"),
            ("actions[0].slow_subscriber", OF_SETTINGS[1]),
        ];
        rules.push((rule, paths));
    }
    if let Some(latency) = spec.latency {
        let rule = RuleSpec {
            matches: MatchSpec { direction: to_client(), types: publish(), ..MatchSpec::default() },
            actions: vec![ActionSpec::Latency(latency)],
            ..rule(2)
        };
        rules.push((rule, vec![("actions[0].latency", OF_SETTINGS[2])]));
    }
    if spec.disconnect_probability != 0.0 {
        let rule = RuleSpec {
            matches: MatchSpec { types: publish(), ..MatchSpec::default() },
            when: of_each(spec.disconnect_probability),
            actions: vec![ActionSpec::Disconnect(Default::default())],
            ..rule(3)
        };
        rules.push((rule, vec![("when.probability", OF_SETTINGS[3])]));
    }
    rules
}

/// The first of `NAME-1`, `NAME-2` … from `number` on that is free.
pub(super) fn free_id(name: &str, number: usize, is_taken: impl Fn(&str) -> bool) -> String {
    let ids = (number..).map(|number| format!("{name}-{number}"));
    ids.into_iter().find(|id| !is_taken(id)).expect("there are fewer rules than numbers")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// What is wrong with a rule that YAML says.
    fn refused(yaml: &str) -> String {
        let spec: RuleSpec = serde_saphyr::from_str(yaml).expect(yaml);
        let id = if spec.id.is_empty() { "x".to_owned() } else { spec.id };
        match Rule::new(RuleSpec { id, ..spec }) {
            Ok(_) => format!("{yaml} is good"),
            Err(bad) => bad.iter().map(BadField::to_string).collect::<Vec<_>>().join("\n"),
        }
    }

    fn check(yaml: &str, wrong: Expect) {
        wrong.assert_eq(&refused(yaml));
    }

    fn check_settings(yaml: &str, expected: Expect) {
        let spec: ChaosSpec = serde_saphyr::from_str(yaml).expect(yaml);
        let told = match settings_rules(&spec) {
            Ok(rules) => {
                let written = rules.iter().map(|rule| serde_json::to_string(rule.spec()));
                written.map(|rule| rule.expect("it can be written")).collect::<Vec<_>>()
            }
            Err(bad) => bad.iter().map(BadField::to_string).collect(),
        };
        expected.assert_eq(&told.join("\n"));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        check(
            "id: a b
match: {direction: c2, topic: [a, 'b/#/c', $share/g/t], types: [PUBLSH, puback], qos: [1, 3]}
when: {probability: 1.5, first_n: 0, every_nth: 0, max_count: 0}
actions:
  - latency
  - latency: {min_ms: 20, max_ms: 10}
  - duplicate: {count: 0}",
            expect![[r#"
                id: has 1 to 128 letters, digits and -_.:@+, unlike "a b"
                when.probability: is 0 to 1, not 1.5
                when.first_n: is at least 1
                when.every_nth: is at least 1
                when.max_count: is at least 1
                match.direction: unknown direction "c2"; did you mean "c2s"?
                match.topic[1]: level 1: '#' stands alone and last
                match.topic[2]: shared subscriptions are for clients
                match.qos[1]: QoS 3 is none of 0, 1 and 2
                match.types[0]: unknown packet type "PUBLSH"; did you mean "PUBLISH"?
                actions[0].latency: is a number of milliseconds, or one of {ms}, {min_ms, max_ms}, {mean_ms, sd_ms} and {median_ms, sigma}
                actions[1].latency.min_ms: is 20, more than max_ms, which is 10
                actions[2].duplicate.count: is 1 to 1000, not 0"#]],
        );
    }

    #[test]
    fn details_of_actions_are_checked() {
        for (actions, wrong) in [
            ("latency: -1", expect!["actions[0].latency: is 0 to 86400000, not -1"]),
            (
                "latency: {min_ms: 1, max_ms: 90000000}",
                expect!["actions[0].latency.max_ms: is 0 to 86400000, not 90000000"],
            ),
            ("latency: {min_ms: 1}", expect!["actions[0].latency.max_ms: is missing beside min_ms"]),
            (
                "latency: {min_ms: 1, mean_ms: 2}",
                expect![
                    "actions[0].latency: is a number of milliseconds, or one of {ms}, {min_ms, max_ms}, {mean_ms, sd_ms} and {median_ms, sigma}"
                ],
            ),
            (
                "latency: {ms: 1, sigma: 2}",
                expect![
                    "actions[0].latency: is a number of milliseconds, or one of {ms}, {min_ms, max_ms}, {mean_ms, sd_ms} and {median_ms, sigma}"
                ],
            ),
            (
                "delay_ack: {median_ms: 1, sigma: 11}",
                expect!["actions[0].delay_ack.sigma: is 0 to 10, not 11"],
            ),
            ("duplicate: {count: 1001}", expect!["actions[0].duplicate.count: is 1 to 1000, not 1001"]),
            (
                "reorder: {window: 0, max_ms: 0}",
                expect![[r#"
                actions[0].reorder.window: is 1 to 1000, not 0
                actions[0].reorder.max_ms: is above 0, at most 86400000, not 0"#]],
            ),
            ("corrupt: {bytes: 0}", expect!["actions[0].corrupt.bytes: is 1 to 1000, not 0"]),
            ("truncate: {bytes: 0}", expect!["actions[0].truncate.bytes: is at least 1"]),
            (
                "reason_code: quota_exceded",
                expect![[
                    r#"actions[0].reason_code: unknown Reason Code "quota_exceded"; did you mean "quota_exceeded"?"#
                ]],
            ),
            (
                "reason_code: ''",
                expect![
                    "actions[0].reason_code: is a number from 0 to 255 or the name of a Reason Code, such as quota_exceeded, not \"\""
                ],
            ),
            (
                "reason_code: '0x100'",
                expect![[
                    r#"actions[0].reason_code: is a number from 0 to 255 or the name of a Reason Code, such as quota_exceeded, not "0x100""#
                ]],
            ),
            (
                "disconnect: {reason: server_busy}",
                expect!["actions[0].disconnect.reason: is for mode: mqtt5 alone"],
            ),
            (
                "disconnect: {mode: mqtt5, reason: nonsense}",
                expect![[
                    r#"actions[0].disconnect.reason: is a number from 0 to 255 or the name of a Reason Code, such as quota_exceeded, not "nonsense""#
                ]],
            ),
            (
                "refuse_connect: {reason: success}",
                expect![
                    "actions[0].refuse_connect.reason: is 0x80 or above, not 0x00; clients before MQTT 5 are told the return code that comes nearest"
                ],
            ),
            ("blackhole: {duration: 0}", expect!["actions[0].blackhole.duration: is above 0"]),
            (
                "blackhole: {duration: soon}",
                expect![[
                    r#"actions[0].blackhole.duration: "soon" is no duration such as 250ms, 5s or 1m30s"#
                ]],
            ),
            (
                "blackhole: {duration: 25h}",
                expect!["actions[0].blackhole.duration: is a day at most, not 90000s"],
            ),
            ("bandwidth:", expect!["actions[0].bandwidth.bytes_per_s: is at least 1"]),
            (
                "slice: {size: 0, delay: -1}",
                expect![[r#"
                actions[0].slice.size: is at least 1
                actions[0].slice.delay: is 0 to 86400000 milliseconds, not -1"#]],
            ),
            (
                "capabilities:",
                expect!["actions[0].capabilities: says nothing, so a CONNACK would stay as it is"],
            ),
            (
                "capabilities: {maximum_qos: 3, receive_maximum: 0, maximum_packet_size: 0}",
                expect![[r#"
                actions[0].capabilities.maximum_qos: is 0 to 2, not 3
                actions[0].capabilities.receive_maximum: is at least 1
                actions[0].capabilities.maximum_packet_size: is at least 1"#]],
            ),
            (
                "slow_subscriber:",
                expect!["actions[0].slow_subscriber.delay_ms: is above 0, at most 86400000, not 0"],
            ),
        ] {
            check(&format!("actions: [{{{actions}}}]"), wrong);
        }
    }

    #[test]
    fn what_no_packet_meets_is_refused() {
        for (rule, wrong) in [
            ("{}", expect!["actions: has no entry: there is nothing that the rule would do"]),
            (
                "actions: [withhold_ack, refuse_connect]",
                expect!["actions: withhold_ack and refuse_connect never act on the same packet"],
            ),
            (
                "{match: {types: [PUBLISH, PUBACK, CONNECT]}, actions: [drop, withhold_ack]}",
                expect![[r#"
                    match.types[0]: withhold_ack never acts on PUBLISH; possible here: CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP
                    match.types[2]: withhold_ack never acts on CONNECT; possible here: CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP"#]],
            ),
            (
                "{match: {types: pingresp}, actions: [{reason_code: 0x97}]}",
                expect![
                    "match.types: reason_code never acts on PINGRESP; possible here: CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK"
                ],
            ),
            (
                "{match: {topic: a}, actions: [withhold_ack]}",
                expect![
                    "match.topic: only PUBLISH has a topic, and this rule is for CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP"
                ],
            ),
            (
                "{match: {qos: 1, types: puback}, actions: [drop]}",
                expect!["match.qos: only PUBLISH has a QoS, and this rule is for PUBACK"],
            ),
            (
                "{match: {direction: s2c}, actions: [lose_session]}",
                expect!["match.direction: nothing that lose_session acts on goes s2c"],
            ),
            (
                "{match: {direction: s2c, types: [CONNECT, SUBSCRIBE]}, actions: [drop]}",
                expect!["match.direction: CONNECT, SUBSCRIBE never goes s2c"],
            ),
            (
                "{match: {direction: c2s}, actions: [{slow_subscriber: {delay_ms: 1}}]}",
                expect!["match.direction: nothing that slow_subscriber acts on goes c2s"],
            ),
            (
                "{when: {first_n: 5, after_n: 5}, actions: [drop]}",
                expect!["when: never holds: no packet is among first_n and, at once, what else is asked for"],
            ),
            (
                "{when: {first_n: 9, after_n: 5, every_nth: 5}, actions: [drop]}",
                expect!["when: never holds: no packet is among first_n and, at once, what else is asked for"],
            ),
        ] {
            check(rule, wrong);
        }
        // The tenth is one.
        check(
            "{when: {first_n: 10, after_n: 9, every_nth: 5}, actions: [drop]}",
            expect!["{when: {first_n: 10, after_n: 9, every_nth: 5}, actions: [drop]} is good"],
        );
    }

    #[test]
    fn keys_of_the_settings_are_rules() {
        check_settings(
            "packet_loss: 0.01
disconnect_probability: 0.05
latency: {min_ms: 10, max_ms: 100}
slow_subscriber: {delay_ms: 5000, affected_topics: [slow/#]}
profile: 3g
rules:
  - {actions: [drop]}
  - {id: rule-1, actions: [drop]}
  - {actions: [drop]}",
            expect![[r#"
                {"id":"packet_loss","match":{"types":"PUBLISH"},"when":{"probability":0.01},"actions":["drop"]}
                {"id":"slow_subscriber","match":{"direction":"s2c","topic":"slow/#","types":"PUBLISH"},"actions":[{"slow_subscriber":{"delay_ms":5000.0}}]}
                {"id":"latency","match":{"direction":"s2c","types":"PUBLISH"},"actions":[{"latency":{"min_ms":10.0,"max_ms":100.0}}]}
                {"id":"disconnect_probability","match":{"types":"PUBLISH"},"when":{"probability":0.05},"actions":["disconnect"]}
                {"id":"3g-latency","actions":[{"latency":{"median_ms":150.0,"sigma":0.35}}]}
                {"id":"3g-down","match":{"direction":"s2c"},"actions":[{"bandwidth":{"bytes_per_s":200000}}]}
                {"id":"3g-up","match":{"direction":"c2s"},"actions":[{"bandwidth":{"bytes_per_s":96000}}]}
                {"id":"rule-2","actions":["drop"]}
                {"id":"rule-1","actions":["drop"]}
                {"id":"rule-3","actions":["drop"]}"#]],
        );
        check_settings("{}", expect![[""]]);
        check_settings("slow_subscriber: {enabled: false}", expect![[""]]);
    }

    #[test]
    fn what_is_wrong_with_settings_is_told_by_key() {
        check_settings(
            "packet_loss: 2
disconnect_probability: -0.5
latency: {min_ms: 10, max_ms: 1}
slow_subscriber: {delay_ms: 0, affected_topics: [a, 'b#']}
profile: 4g
rules:
  - {id: latency, actions: [drop]}
  - {id: x, actions: [drop]}
  - {id: x, match: {types: pblish}, actions: [drop]}",
            expect![[r#"
                packet_loss: is 0 to 1, not 2
                slow_subscriber.affected_topics[1]: level 0: '#' stands alone and last
                slow_subscriber.delay_ms: is above 0, at most 86400000, not 0
                latency.min_ms: is 10, more than max_ms, which is 1
                disconnect_probability: is 0 to 1, not -0.5
                profile: unknown profile "4g"; did you mean "3g"?
                rules[0].id: "latency" is the rule that the key latency makes
                rules[2].id: "x" is the id of another rule
                rules[2].match.types: unknown packet type "PBLISH"; did you mean "PUBLISH"?"#]],
        );
        check_settings("latency: {min_ms: 10}", expect!["latency.max_ms: is missing beside min_ms"]);
        check_settings(
            "profile: 3g\nrules: [{id: 3g-up, actions: [drop]}]",
            expect![[r#"rules[0].id: "3g-up" is the id of another rule"#]],
        );
        check_settings(
            "slow_subscriber: {}",
            expect!["slow_subscriber.delay_ms: is above 0, at most 86400000, not 0"],
        );
    }
}
