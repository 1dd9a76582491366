//! Whether copies of a recording would get each other's messages.

use std::collections::BTreeSet;

use super::{Connections, Direction, Event, EventKind, Rewrite, TooManyTopics, player::Selection};
use crate::packet::{ControlPacket, FilterTree, TopicFilter, TopicName};

/// Bytes of the topics that are looked at.
const SIZE_MAX: usize = 64 << 20;

/// A subscription of one copy that a message of another goes to, both as they are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    pub filter: String,
    pub topic: String,
}

/// The first crossing there is among what `selection` means, by recorded names.
///
/// # Errors
/// Those of the events, and [`TooManyTopics`].
pub fn crossing<E: From<TooManyTopics>>(
    events: impl Iterator<Item = Result<Event, E>>,
    rewrite: &Rewrite,
    run: &str,
    selection: &Selection,
) -> Result<Option<Crossing>, E> {
    let mut connections = Connections::new();
    let (mut filters, mut topics, mut size) = (BTreeSet::new(), BTreeSet::new(), 0);
    for event in events {
        let event = event?;
        let seen = connections.follow(&event);
        let (packet, topic, client) = match &event.kind {
            EventKind::Packet { direction: Direction::ClientToServer, .. } => {
                let known = connections.get(event.connection).and_then(|known| known.client());
                let Some(seen) = seen else { continue };
                let Ok(packet) = seen.packet else { continue };
                (packet, seen.topic, known.map(str::to_owned))
            }
            EventKind::State(in_force) => {
                let Some(packet) = in_force.decode() else { continue };
                (packet, in_force.topic(), in_force.client_identifier.clone())
            }
            EventKind::Close(_) => {
                connections.forget(event.connection);
                continue;
            }
            _ => continue,
        };
        // What is retained belongs to nobody.
        let is_selected = client.is_none() || selection.has_client(client.as_deref());
        let topic = match packet {
            ControlPacket::Subscribe(subscribe) if is_selected => {
                for one in subscribe.subscriptions {
                    let len = one.filter.as_str().len() + size_of::<TopicFilter>();
                    size += if filters.insert(one.filter) { len } else { 0 };
                }
                None
            }
            ControlPacket::Connect(connect) => connect.will.map(|will| will.topic),
            ControlPacket::Publish(_) => topic,
            _ => None,
        };
        if let Some(topic) = topic.filter(|topic| is_selected && selection.has_topic(topic)) {
            let len = topic.as_str().len() + size_of::<TopicName>();
            size += if topics.insert(topic) { len } else { 0 };
        }
        if size > SIZE_MAX {
            return Err(TooManyTopics.into());
        }
    }
    let mut tree = FilterTree::new();
    for filter in filters {
        let of_first = rewrite.filter(&filter, run, 1).unwrap_or_else(|| filter.clone());
        tree.insert(&of_first, filter);
    }
    let crossing = topics.into_iter().find_map(|topic| {
        let of_second = rewrite.topic(&topic, run, 2).unwrap_or_else(|| topic.clone());
        let mut found: Option<TopicFilter> = None;
        tree.find(of_second.as_str().as_bytes(), &mut |filter: &TopicFilter| {
            found.get_or_insert_with(|| filter.clone());
        });
        let filter = found?;
        Some(Crossing { filter: filter.as_str().to_owned(), topic: topic.as_str().to_owned() })
    });
    Ok(crossing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{ClientNames, NameTemplate, TooManyNames, sample::script};

    #[derive(Debug)]
    struct TooMany;

    impl From<TooManyTopics> for TooMany {
        fn from(_: TooManyTopics) -> Self {
            Self
        }
    }

    #[track_caller]
    fn check(subscribe: &str, excluded: &[&str], wanted: Option<(&str, &str)>) {
        let events = script(&format!(
            "1 open
            1 c2s CONNECT app v=5 will=gone/app:x
            1 c2s SUBSCRIBE 1 {subscribe}
            2 open
            2 c2s CONNECT dev v=5
            2 c2s PUBLISH up/dev x
            2 c2s PUBLISH all x"
        ));
        let names = ClientNames::read(events.iter().cloned().map(Ok::<_, TooManyNames>)).unwrap();
        let rewrite = Rewrite::new(&[], Some(NameTemplate::parse("{{client_id}}-{{i}}").unwrap())).unwrap();
        let exclude_topics = excluded.iter().map(|filter| TopicFilter::parse(filter).unwrap()).collect();
        let selection = Selection { exclude_topics, ..Selection::default() };
        let events = events.into_iter().map(Ok::<_, TooMany>);
        let found = crossing(events, &rewrite.following(names), "r", &selection).unwrap();
        let found = found.as_ref().map(|found| (found.filter.as_str(), found.topic.as_str()));
        assert_eq!(found, wanted);
    }

    #[test]
    fn copies_get_each_others_messages_where_topics_do_not_tell_them_apart() {
        check("up/dev", &[], None);
        check("up/dev/#", &[], None);
        check("$share/g/up/dev", &[], None);
        check("up/+", &[], Some(("up/+", "up/dev")));
        check("$share/g/up/#", &[], Some(("$share/g/up/#", "up/dev")));
        check("all", &[], Some(("all", "all")));
        check("gone/+", &[], Some(("gone/+", "gone/app")));
    }

    #[test]
    fn what_is_not_selected_goes_nowhere() {
        check("#", &["up/#", "all", "gone/#"], None);
        check("all", &["all"], None);
    }
}
