//! Who may publish and subscribe to what: rules in order, of which the first that applies decides.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    field::{BadField, Checks},
    packet::TopicFilter,
};

/// A rule as people write it in settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["topics"]))]
pub struct AclRuleSpec {
    /// `publish`, `subscribe` or `all`; either this or `deny`.
    pub allow: Option<Actions>,
    /// Likewise.
    pub deny: Option<Actions>,
    /// Topic Filters in which `%c` is the client identifier and `%u` the user name. Required.
    pub topics: Vec<String>,
    /// For these, of whom one is enough; absent: for everybody.
    pub users: Option<Vec<String>>,
    /// For users of these.
    pub groups: Option<Vec<String>>,
    /// Those who did not prove to be a user.
    pub anonymous: bool,
    /// For these client identifiers alone; `*` stands for any text, as it does in users.
    pub clients: Option<Vec<String>>,
}

/// One or several.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected publish, subscribe, all or a list of them")]
pub enum Actions {
    One(#[schemars(with = "ActionName")] String),
    Several(#[schemars(with = "Vec<ActionName>")] Vec<String>),
}

/// What a text may say, for the schema of settings.
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its names are asked for")]
enum ActionName {
    Publish,
    Subscribe,
    All,
}

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Publish,
    Subscribe,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

/// Who wants to do it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub client_identifier: &'a str,
    /// Who the client has proven to be.
    pub user: Option<&'a str>,
    pub groups: &'a [Box<str>],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    /// By the rule at this position in the settings, or because none allows it.
    Denied(Option<usize>),
}

/// The rules of all; without any, everything is allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Acl(Vec<Rule>);

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    allows: bool,
    publish: bool,
    subscribe: bool,
    filters: Vec<TopicFilter>,
    /// Filters with placeholders.
    templates: Vec<String>,
    who: Option<Who>,
    clients: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Who {
    users: Vec<String>,
    groups: Vec<String>,
    anonymous: bool,
}

/// What the rules say of one client.
#[derive(Debug)]
pub struct Permissions {
    /// Of those that may apply to it, in order.
    rules: Box<[Applied]>,
    /// The topic that was published to last, and what came of it.
    last: Option<(Box<str>, Decision)>,
}

#[derive(Debug)]
struct Applied {
    position: u32,
    /// Of the rule's templates.
    filters: Box<[TopicFilter]>,
}

/// Longer topics are decided each time: clients do not make us keep them.
const REMEMBERED_MAX: usize = 256;

const CLIENT: &str = "%c";
const USER: &str = "%u";

impl Acl {
    /// # Errors
    /// The position of the first rule that is wrong, and what is.
    pub fn new(specs: &[AclRuleSpec]) -> Result<Self, (usize, Vec<BadField>)> {
        let rules = specs.iter().enumerate();
        let rules = rules.map(|(position, spec)| Rule::new(spec).map_err(|fields| (position, fields)));
        rules.collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are rules that only somebody who has proven to be a user can fulfil.
    pub fn is_about_users(&self) -> bool {
        let is_for_users = |who: &Who| !who.users.is_empty() || !who.groups.is_empty();
        self.0.iter().any(|rule| {
            rule.who.as_ref().is_some_and(is_for_users)
                || rule.templates.iter().any(|template| template.contains(USER))
        })
    }

    pub fn permissions(&self, subject: &Subject<'_>) -> Permissions {
        let applied = |(position, rule): (usize, &Rule)| {
            rule.is_for(subject).then(|| Applied {
                position: position as u32,
                filters: rule.templates.iter().flat_map(|text| rule.fill_in(text, subject)).collect(),
            })
        };
        Permissions { rules: self.0.iter().enumerate().filter_map(applied).collect(), last: None }
    }

    /// Whether a client may publish to `topic`; and whether that was asked anew, not of the same topic
    /// as the last time.
    pub fn may_publish(&self, permissions: &mut Permissions, topic: &str) -> (Decision, bool) {
        if let Some((last, decision)) = &permissions.last
            && **last == *topic
        {
            return (*decision, false);
        }
        let decision = self.decide(permissions, |rule| rule.publish, |_, filter| filter.matches_str(topic));
        permissions.last = (topic.len() <= REMEMBERED_MAX).then(|| (topic.into(), decision));
        (decision, true)
    }

    /// Whether a client may subscribe to `filter`: it may if it is allowed all that `filter` matches, so that
    /// deliveries need no look.
    pub fn may_subscribe(&self, permissions: &Permissions, filter: &TopicFilter) -> Decision {
        let applies = |allows, rule: &TopicFilter| match allows {
            true => rule.covers(filter),
            false => rule.overlaps(filter),
        };
        self.decide(permissions, |rule| rule.subscribe, applies)
    }

    /// Whether a client may be sent what was published to `topic`, whatever it had subscribed to.
    pub fn may_receive(&self, permissions: &Permissions, topic: &str) -> bool {
        self.decide(permissions, |rule| rule.subscribe, |_, filter| filter.matches_str(topic)).is_allowed()
    }

    fn decide(
        &self,
        permissions: &Permissions,
        is_about: impl Fn(&Rule) -> bool,
        applies: impl Fn(bool, &TopicFilter) -> bool,
    ) -> Decision {
        if self.is_empty() {
            return Decision::Allowed;
        }
        for Applied { position, filters } in &permissions.rules {
            let position = *position as usize;
            // Of other rules, if somebody kept it too long.
            let Some(rule) = self.0.get(position) else { break };
            if is_about(rule) && rule.filters.iter().chain(filters).any(|filter| applies(rule.allows, filter))
            {
                return if rule.allows { Decision::Allowed } else { Decision::Denied(Some(position)) };
            }
        }
        Decision::Denied(None)
    }
}

impl Rule {
    fn new(spec: &AclRuleSpec) -> Result<Self, Vec<BadField>> {
        let AclRuleSpec { allow, deny, topics, users, groups, anonymous, clients } = spec;
        let mut checks = Checks::default();
        let (field, actions) = match (allow, deny) {
            (Some(actions), None) => ("allow", Some(actions)),
            (None, Some(actions)) => ("deny", Some(actions)),
            (Some(_), Some(_)) => {
                checks.refuse("deny", "either this or allow, not both");
                ("deny", None)
            }
            (None, None) => {
                checks.refuse("allow", "is required, or deny: publish, subscribe or all");
                ("allow", None)
            }
        };
        let names: &[String] = match actions {
            Some(Actions::One(name)) => std::slice::from_ref(name),
            Some(Actions::Several(names)) => names,
            None => &[],
        };
        let (mut publish, mut subscribe) = (false, false);
        for name in names {
            match name.as_str() {
                "publish" => publish = true,
                "subscribe" => subscribe = true,
                "all" => (publish, subscribe) = (true, true),
                other => {
                    checks.refuse(field, format_args!("expected publish, subscribe or all, not {other:?}"))
                }
            }
        }
        if actions.is_some() && names.is_empty() {
            checks.refuse(field, "is empty");
        }
        if topics.is_empty() {
            checks.refuse("topics", "is required: topic filters");
        }
        let (mut filters, mut templates) = (Vec::new(), Vec::new());
        for (position, text) in topics.iter().enumerate() {
            // What it becomes for a client and a user that are called so.
            let example = text.replace(CLIENT, "c").replace(USER, "u");
            match TopicFilter::parse(&example) {
                Err(error) => checks.refuse(format!("topics[{position}]"), error),
                // Also of one that `%c` makes shared: clients are not called so, as values are checked.
                Ok(filter) if filter.is_shared() => {
                    checks.refuse(
                        format!("topics[{position}]"),
                        "goes without $share: the filter behind it counts",
                    );
                }
                Ok(_) if example != *text => templates.push(text.clone()),
                Ok(filter) => filters.push(filter),
            }
        }
        for (name, list) in [("users", users), ("groups", groups), ("clients", clients)] {
            if list.as_ref().is_some_and(Vec::is_empty) {
                checks.refuse(name, "is empty: for nobody; leave it out for everybody");
            }
        }
        let is_for_some = users.is_some() || groups.is_some() || *anonymous;
        let who = is_for_some.then(|| Who {
            users: users.clone().unwrap_or_default(),
            groups: groups.clone().unwrap_or_default(),
            anonymous: *anonymous,
        });
        checks.finish()?;
        let allows = allow.is_some();
        Ok(Self { allows, publish, subscribe, filters, templates, who, clients: clients.clone() })
    }

    fn fill_in(&self, template: &str, subject: &Subject<'_>) -> Vec<TopicFilter> {
        match self.allows {
            true => fill_in_exactly(template, subject).into_iter().collect(),
            false => fill_in_widely(template, subject),
        }
    }

    fn is_for(&self, subject: &Subject<'_>) -> bool {
        let is_for_client =
            |globs: &Vec<String>| globs.iter().any(|glob| matches_glob(glob, subject.client_identifier));
        self.clients.as_ref().is_none_or(is_for_client)
            && self.who.as_ref().is_none_or(|who| match subject.user {
                Some(user) => {
                    let is_in = |group: &String| subject.groups.iter().any(|own| **own == **group);
                    who.users.iter().any(|glob| matches_glob(glob, user)) || who.groups.iter().any(is_in)
                }
                None => who.anonymous,
            })
    }
}

impl Decision {
    pub fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

/// What a level of a template is for a client.
enum Level {
    Filled(String),
    /// A value fits no level: it holds a wildcard, or there is none.
    Misfit,
    /// A value holds more than one.
    Several,
}

fn fill_in_level(template: &str, subject: &Subject<'_>) -> Level {
    let (mut fits, mut is_several) = (true, false);
    let filled = replace(template, subject, |value| {
        fits &= !value.is_empty() && !value.contains(['+', '#', '/']);
        is_several |= value.contains('/');
    });
    match fits {
        true => Level::Filled(filled),
        false if is_several => Level::Several,
        false => Level::Misfit,
    }
}

/// `template` with values in place of placeholders; shows each value.
fn replace(template: &str, subject: &Subject<'_>, mut show: impl FnMut(&str)) -> String {
    let mut filled = String::new();
    let mut rest = template;
    // From left to right, so that no value is taken for a placeholder.
    while let Some(at) = rest.find('%') {
        let value = match &rest[at..] {
            text if text.starts_with(CLIENT) => Some(subject.client_identifier),
            text if text.starts_with(USER) => Some(subject.user.unwrap_or_default()),
            _ => None,
        };
        filled += &rest[..at];
        match value {
            Some(value) => {
                show(value);
                filled += value;
                rest = &rest[at + CLIENT.len()..];
            }
            None => {
                filled.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    filled + rest
}

/// The filter that a template of an allow rule is for a client; `None` if it is none, or could match other
/// topics than its writer meant.
fn fill_in_exactly(template: &str, subject: &Subject<'_>) -> Option<TopicFilter> {
    let levels = template.split('/').map(|level| match fill_in_level(level, subject) {
        Level::Filled(level) => Some(level),
        Level::Misfit | Level::Several => None,
    });
    let filled = levels.collect::<Option<Vec<_>>>()?.join("/");
    // A value is no level of the server's.
    if filled.starts_with('$') && !template.starts_with('$') {
        return None;
    }
    TopicFilter::parse(&filled).ok().filter(|filter| !filter.is_shared())
}

/// The filters that a template of a deny rule is for a client: clients choose their identifiers, and must find
/// none that a rule doesn't apply to, so a level that a value does not fit is any level.
fn fill_in_widely(template: &str, subject: &Subject<'_>) -> Vec<TopicFilter> {
    let mut levels = Vec::new();
    for level in template.split('/') {
        match fill_in_level(level, subject) {
            Level::Filled(level) => levels.push(level),
            Level::Misfit => levels.push("+".to_owned()),
            Level::Several => {
                levels.push("#".to_owned());
                break;
            }
        }
    }
    let mut texts = vec![levels.join("/")];
    // No wildcard in front matches what begins with `$`.
    let literally = replace(template, subject, |_| {});
    let first = literally.split('/').next().unwrap_or_default();
    if first.starts_with('$') && levels[0] != first {
        texts.push(format!("{first}/#"));
    }
    let filters = texts.iter().filter_map(|text| TopicFilter::parse(text).ok());
    filters.filter(|filter| !filter.is_shared()).collect()
}

/// Whether `text` is what `glob` says, where `*` stands for any text.
fn matches_glob(glob: &str, text: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        // The first place is as good as any.
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests;
