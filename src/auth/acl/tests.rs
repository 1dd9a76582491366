//! Rules of access, by examples and by laws.

use proptest::prelude::*;

use super::*;

/// The rules of a YAML list.
fn acl(yaml: &str) -> Acl {
    Acl::new(&specs(yaml)).expect("good rules")
}

fn specs(yaml: &str) -> Vec<AclRuleSpec> {
    serde_saphyr::from_str(yaml).expect("rules")
}

fn nobody(client_identifier: &str) -> Subject<'_> {
    Subject { client_identifier, user: None, groups: &[] }
}

fn user<'a>(client_identifier: &'a str, user: &'a str) -> Subject<'a> {
    Subject { client_identifier, user: Some(user), groups: &[] }
}

fn publish(acl: &Acl, subject: &Subject<'_>, topic: &str) -> Decision {
    acl.may_publish(&mut acl.permissions(subject), topic).0
}

fn subscribe(acl: &Acl, subject: &Subject<'_>, filter: &str) -> Decision {
    acl.may_subscribe(&acl.permissions(subject), &TopicFilter::parse(filter).expect("a filter"))
}

const ALLOWED: Decision = Decision::Allowed;
const UNSAID: Decision = Decision::Denied(None);

fn by(position: usize) -> Decision {
    Decision::Denied(Some(position))
}

#[test]
fn without_rules_everything_is_allowed() {
    let acl = Acl::default();
    assert_eq!(publish(&acl, &nobody("c"), "a"), ALLOWED);
    assert_eq!(subscribe(&acl, &nobody("c"), "#"), ALLOWED);
}

#[test]
fn the_first_rule_that_applies_decides_and_what_none_allows_is_denied() {
    let acl = acl("
        - {deny: publish, topics: [a/secret]}
        - {allow: all, topics: [a/#]}
        - {deny: [subscribe], topics: [a/b, b/#]}
        - {allow: [publish, subscribe], topics: ['b/+']}
    ");
    let client = nobody("c");
    assert_eq!(publish(&acl, &client, "a/secret"), by(0));
    assert_eq!(publish(&acl, &client, "a/b"), ALLOWED);
    assert_eq!(publish(&acl, &client, "b/c"), ALLOWED);
    assert_eq!(publish(&acl, &client, "c"), UNSAID);
    assert_eq!(subscribe(&acl, &client, "a/b"), ALLOWED);
    assert_eq!(subscribe(&acl, &client, "b/c"), by(2));
}

#[test]
fn a_subscription_is_allowed_as_a_whole_or_not_at_all() {
    let acl = acl("
        - {deny: subscribe, topics: [plant/secret/#]}
        - {allow: subscribe, topics: ['plant/+/state', '$SYS/broker/#']}
        - {allow: subscribe, topics: [plant/#], users: [alice]}
    ");
    let client = nobody("c");
    assert_eq!(subscribe(&acl, &client, "plant/1/state"), ALLOWED);
    // The door is not in the room: `secret` is a plant, too.
    assert_eq!(subscribe(&acl, &client, "plant/+/state"), by(0));
    assert_eq!(subscribe(&acl, &client, "$share/g/plant/1/state"), ALLOWED);
    assert_eq!(subscribe(&acl, &client, "$share/g/plant/1/+"), UNSAID);
    assert_eq!(subscribe(&acl, &client, "$SYS/broker/uptime"), ALLOWED);
    assert_eq!(subscribe(&acl, &client, "#"), by(0));
    assert_eq!(subscribe(&acl, &user("c", "alice"), "plant/1/#"), ALLOWED);
    assert_eq!(subscribe(&acl, &user("c", "alice"), "plant/#"), by(0));
}

#[test]
fn wildcards_do_not_reach_dollar_topics() {
    let acl = acl("[{allow: all, topics: ['#']}]");
    assert_eq!(subscribe(&acl, &nobody("c"), "$SYS/#"), UNSAID);
    assert_eq!(subscribe(&acl, &nobody("c"), "$share/g/#"), ALLOWED);
    assert_eq!(publish(&acl, &nobody("c"), "$x"), UNSAID);
}

#[test]
fn rules_are_for_users_groups_clients_or_those_who_are_nobody() {
    let acl = acl("
        - {allow: publish, topics: [all]}
        - {allow: publish, topics: [users], users: [alice, 'b*']}
        - {allow: publish, topics: [groups], groups: [ops]}
        - {allow: publish, topics: [either], users: [carol], groups: [ops], anonymous: true}
        - {allow: publish, topics: [clients], clients: ['dev-*-x', tool]}
        - {allow: publish, topics: [both], clients: [tool], users: [alice]}
        - {allow: publish, topics: [anonymous], anonymous: true}
    ");
    let groups: [Box<str>; 2] = ["dev".into(), "ops".into()];
    let carol = Subject { client_identifier: "dev-1-x", user: Some("carol"), groups: &groups[..1] };
    let dave = Subject { user: Some("dave"), groups: &groups, ..carol };
    for (subject, allowed) in [
        (nobody("other"), vec!["all", "either", "anonymous"]),
        (nobody("tool"), vec!["all", "either", "clients", "anonymous"]),
        (user("other", "alice"), vec!["all", "users"]),
        (user("tool", "alice"), vec!["all", "users", "clients", "both"]),
        (user("other", "bob"), vec!["all", "users"]),
        (user("other", "eve"), vec!["all"]),
        (carol, vec!["all", "either", "clients"]),
        (dave, vec!["all", "groups", "either", "clients"]),
    ] {
        let topics = ["all", "users", "groups", "either", "clients", "both", "anonymous"];
        let is_allowed = |topic: &&str| publish(&acl, &subject, topic).is_allowed();
        assert_eq!(topics.into_iter().filter(is_allowed).collect::<Vec<_>>(), allowed, "{subject:?}");
    }
}

#[test]
fn placeholders_are_the_client_and_the_user_it_has_proven() {
    let acl = acl("
        - {allow: all, topics: ['devices/%c/#', 'home/%u/of-%c', '%u/#', '100%/%%c/%x', 'fixed']}
    ");
    assert_eq!(publish(&acl, &nobody("one"), "devices/one/state"), ALLOWED);
    assert_eq!(publish(&acl, &nobody("one"), "devices/two/state"), UNSAID);
    assert_eq!(subscribe(&acl, &nobody("one"), "devices/one/#"), ALLOWED);
    assert_eq!(subscribe(&acl, &nobody("one"), "devices/+/#"), UNSAID);
    assert_eq!(publish(&acl, &user("one", "alice"), "home/alice/of-one"), ALLOWED);
    assert_eq!(publish(&acl, &user("%u", "alice"), "devices/%u/x"), ALLOWED);
    assert_eq!(publish(&acl, &user("%u", "alice"), "devices/alice/x"), UNSAID);
    assert_eq!(publish(&acl, &nobody("one"), "100%/%one/%x"), ALLOWED);
    // Nobody has no name.
    for topic in ["home//of-one", "home/%u/of-one", "/x", "%u/x"] {
        assert_eq!(publish(&acl, &nobody("one"), topic), UNSAID, "{topic}");
    }
    assert_eq!(publish(&acl, &nobody("one"), "fixed"), ALLOWED);
}

#[test]
fn no_value_widens_a_filter() {
    let acl = acl("[{allow: all, topics: ['%c', '%c/#', 'a/%c', 'a/%c/#', '%u/%c/#']}]");
    for client in ["+", "#", "a/#", "+/+", "x/y", "/", "$SYS", "$share", "$share/g"] {
        let subject = user(client, "$share");
        for filter in ["#", "+", "+/#", "a/+", "a/b", "a/#", "$SYS/#", "$share/g/#", "$share/g/+/#"] {
            assert!(!subscribe(&acl, &subject, filter).is_allowed(), "{client} {filter}");
        }
        for topic in ["x/y", "b", "$SYS/x", "a/x/y"] {
            assert!(!publish(&acl, &subject, topic).is_allowed(), "{client} {topic}");
        }
    }
    assert_eq!(publish(&acl, &user("one", "$share"), "one/x"), ALLOWED);
    assert_eq!(publish(&acl, &nobody("$SYS"), "a/$SYS"), ALLOWED);
}

#[test]
fn the_last_topic_is_decided_once() {
    let acl = acl("[{allow: publish, topics: [a]}]");
    let mut permissions = acl.permissions(&nobody("c"));
    for (topic, expected) in
        [("a", (ALLOWED, true)), ("a", (ALLOWED, false)), ("b", (UNSAID, true)), ("b", (UNSAID, false))]
    {
        assert_eq!(acl.may_publish(&mut permissions, topic), expected, "{topic}");
    }
    assert_eq!(acl.may_publish(&mut permissions, "a"), (ALLOWED, true));
}

#[test]
fn what_is_wrong_with_a_rule_is_said() {
    let wrong = |yaml: &str| {
        let (position, fields) = Acl::new(&specs(yaml)).expect_err(yaml);
        format!("{position}: {}", BadField::listed(&fields))
    };
    assert_eq!(wrong("[{allow: all, topics: [a]}, {topics: [a]}]").split(':').next(), Some("1"));
    assert_eq!(wrong("[{topics: [a]}]"), "0: allow: is required, or deny: publish, subscribe or all");
    assert_eq!(wrong("[{allow: all, deny: all, topics: [a]}]"), "0: deny: either this or allow, not both");
    assert_eq!(
        wrong("[{allow: read, topics: [a]}]"),
        "0: allow: expected publish, subscribe or all, not \"read\""
    );
    assert_eq!(wrong("[{deny: [], topics: [a]}]"), "0: deny: is empty");
    assert_eq!(wrong("[{deny: all}]"), "0: topics: is required: topic filters");
    assert_eq!(
        wrong("[{deny: all, topics: [a, 'b#', 'x%c+']}]"),
        "0: topics[1]: level 0: '#' stands alone and last; topics[2]: level 0: '+' stands alone in its level"
    );
    assert_eq!(
        wrong("[{deny: all, topics: [$share/g/a]}]"),
        "0: topics[0]: goes without $share: the filter behind it counts"
    );
    assert_eq!(
        wrong("[{deny: all, topics: [a], users: [], clients: []}]"),
        "0: users: is empty: for nobody; leave it out for everybody; clients: is empty: for nobody; leave it out for \
         everybody"
    );
}

/// What `matches_glob` does, tried in every way.
fn naive(glob: &[char], text: &[char]) -> bool {
    match (glob, text) {
        ([], text) => text.is_empty(),
        (['*', rest @ ..], text) => (0..=text.len()).any(|at| naive(rest, &text[at..])),
        ([first, rest @ ..], [other, text @ ..]) => first == other && naive(rest, text),
        _ => false,
    }
}

proptest! {
    #[test]
    fn globs_match_as_a_naive_matcher_says(glob in "[ab*é]{0,8}", text in "[abé]{0,8}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(matches_glob(&glob, &text), naive(&chars(&glob), &chars(&text)));
    }

    #[test]
    fn what_may_be_subscribed_to_holds_only_topics_that_single_subscriptions_may(
        rules in prop::collection::vec((any::<bool>(), "[ab+]/[ab+](/[ab+#])?"), 1..5),
        filter in "[ab+]/[ab+](/[ab+#])?",
    ) {
        let spec = |(allows, topic): (bool, String)| {
            let actions = Some(Actions::One("subscribe".to_owned()));
            let (allow, deny) = if allows { (actions, None) } else { (None, actions) };
            AclRuleSpec { allow, deny, topics: vec![topic], ..AclRuleSpec::default() }
        };
        let acl = Acl::new(&rules.into_iter().map(spec).collect::<Vec<_>>()).expect("good rules");
        if subscribe(&acl, &nobody("c"), &filter).is_allowed() {
            let filter = TopicFilter::parse(&filter).expect("a filter");
            let levels = ["a", "b", "c"];
            for (one, two, three) in levels.iter().flat_map(|one| levels.iter().flat_map(move |two| {
                ["", "/a", "/b", "/c", "/a/b"].iter().map(move |three| (one, two, three))
            })) {
                let topic = format!("{one}/{two}{three}");
                if filter.matches_str(&topic) {
                    prop_assert_eq!(subscribe(&acl, &nobody("c"), &topic), ALLOWED, "{}", topic);
                }
            }
        }
    }
}

#[test]
fn no_value_gets_around_a_deny_rule() {
    let acl = acl("
        - {deny: all, topics: ['dev/%c/secret', '%u/of-%c/x']}
        - {allow: all, topics: ['#']}
    ");
    assert_eq!(subscribe(&acl, &user("ab", "al"), "dev/ab/secret"), by(0));
    assert_eq!(subscribe(&acl, &user("ab", "al"), "dev/cd/secret"), ALLOWED);
    assert_eq!(publish(&acl, &user("ab", "al"), "al/of-cd/x"), ALLOWED);
    for filter in ["dev/+/secret", "dev/#", "dev/ab/secret"] {
        assert_eq!(subscribe(&acl, &user("+", "al"), filter), by(0), "{filter}");
        assert_eq!(subscribe(&acl, &user("#", "al"), filter), by(0), "{filter}");
    }
    assert_eq!(subscribe(&acl, &user("+", "al"), "dev/ab/other"), ALLOWED);
    for topic in ["dev/a/b/secret", "dev/x", "dev", "al/of-a/b/x"] {
        assert_eq!(publish(&acl, &user("a/b", "al"), topic), by(0), "{topic}");
    }
    assert_eq!(publish(&acl, &user("a/b", "al"), "home"), ALLOWED);
    // Who is nobody is not somebody else, either.
    assert_eq!(publish(&acl, &nobody("c"), "bob/of-c/x"), by(0));
    assert_eq!(publish(&acl, &nobody("c"), "bob/of-d/x"), ALLOWED);
}

proptest! {
    #[test]
    fn a_deny_rule_holds_of_what_its_template_says_literally(
        template in prop::sample::select(vec!["%c", "%c/s", "dev/%c/s", "dev/x%c-%u/#", "%u%c/+", "$d%c/s", "$d/%c/%u"]),
        client in "[ab$+#/%cu]{1,4}",
        name in prop::option::of("[ab$+#/%cu]{1,4}"),
    ) {
        let rules = format!("[{{deny: all, topics: ['{template}']}}, {{allow: all, topics: ['#', '$a/#', '$b/#', '$d/#', '$da/#']}}]");
        let (acl, subject) = (acl(&rules), Subject { client_identifier: &client, user: name.as_deref(), groups: &[] });
        let named = Subject { user: subject.user.or(Some("somebody")), ..subject };
        let own = replace(template, &named, |_| {});
        if let Ok(filter) = TopicFilter::parse(&own) && !filter.is_shared() {
            prop_assert!(!subscribe(&acl, &subject, &own).is_allowed(), "{own}");
            if !own.contains(['+', '#']) {
                prop_assert!(!publish(&acl, &subject, &own).is_allowed(), "{own}");
            }
        }
    }
}
