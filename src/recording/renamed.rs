//! What is selected of a recording by its names, where it is played under others.

use std::collections::HashMap;

use super::{ClientNames, Rewrite, TopicNames, player::Selection};
use crate::packet::TopicName;

/// Bytes of the new names.
const SIZE_MAX: usize = 64 << 20;
/// Of a name in its table.
const NAME_BYTES: usize = 48;

/// Clients and topics that are called otherwise, by what they are called, and whether they are selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renamed {
    clients: HashMap<String, bool>,
    topics: HashMap<TopicName, bool>,
    size: usize,
}

/// Names that a selection cannot be told by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNames {
    #[error("{selected:?} is selected and {other:?} is not, and both would be called {name:?}")]
    Topic { selected: String, other: String, name: String },
    #[error("is of recorded names, and what is selected would have over {} MiB of new ones, too many to hold", SIZE_MAX >> 20)]
    TooMany,
}

impl Renamed {
    /// Those that `rewrite` makes of `clients` and `topics` in `count` copies. Clients do not meet.
    ///
    /// # Errors
    /// [`BadNames`].
    pub fn new(
        clients: &ClientNames,
        topics: &TopicNames,
        rewrite: &Rewrite,
        (run, count): (&str, u32),
        selection: &Selection,
    ) -> Result<Self, BadNames> {
        let mut renamed = Self::default();
        if !selection.clients.is_empty() {
            for client in clients.sorted().into_iter().filter(|client| rewrite.names(client)) {
                let is_selected = selection.has_client(Some(client));
                for copy in 1..=count {
                    renamed.add_client(rewrite.client(client, run, copy).into_owned(), is_selected)?;
                }
            }
        }
        if selection.has_all_topics() {
            return Ok(renamed);
        }
        // By what they are called; the first recorded ones.
        let mut recorded: HashMap<TopicName, &TopicName> = HashMap::new();
        for topic in topics.iter() {
            let name = |copy| rewrite.topic(topic, run, copy).unwrap_or_else(|| topic.clone());
            // The copy's number is in it, or it is the same in all.
            let copies = if count > 1 && name(1) != name(2) { count } else { 1 };
            for name in (1..=copies).map(name) {
                let Some(before) = recorded.insert(name.clone(), topic) else {
                    renamed.add_topic(name, selection.has_topic(topic))?;
                    continue;
                };
                let [is_selected, was_selected] = [topic, before].map(|topic| selection.has_topic(topic));
                if is_selected != was_selected {
                    let (selected, other) = if is_selected { (topic, before) } else { (before, topic) };
                    let [selected, other, name] =
                        [selected, other, &name].map(|topic| topic.as_str().to_owned());
                    return Err(BadNames::Topic { selected, other, name });
                }
            }
        }
        Ok(renamed)
    }

    /// Whether the client that is called so is selected, if it is one of these.
    pub fn has_client(&self, name: &str) -> Option<bool> {
        self.clients.get(name).copied()
    }

    /// The same of a topic.
    pub fn has_topic(&self, name: &TopicName) -> Option<bool> {
        self.topics.get(name).copied()
    }

    fn add_client(&mut self, name: String, is_selected: bool) -> Result<(), BadNames> {
        self.grow(name.len())?;
        self.clients.insert(name, is_selected);
        Ok(())
    }

    fn add_topic(&mut self, name: TopicName, is_selected: bool) -> Result<(), BadNames> {
        self.grow(name.as_str().len())?;
        self.topics.insert(name, is_selected);
        Ok(())
    }

    fn grow(&mut self, len: usize) -> Result<(), BadNames> {
        self.size += len + NAME_BYTES;
        if self.size > SIZE_MAX { Err(BadNames::TooMany) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        packet::TopicFilter,
        recording::{NamePattern, NameTemplate, TooManyNames, TooManyTopics, sample::script},
    };

    fn selection(clients: &[&str], topics: &[&str]) -> Selection {
        let topics = topics.iter().map(|filter| TopicFilter::parse(filter).unwrap()).collect();
        let clients = clients.iter().copied().map(NamePattern::new).collect();
        Selection { topics, clients, ..Selection::default() }
    }

    fn renamed(rules: &[&str], count: u32, selection: &Selection) -> Result<Renamed, BadNames> {
        let events = script(
            "1 open
            1 c2s CONNECT app v=5
            2 open
            2 c2s CONNECT dev v=5
            2 c2s PUBLISH prod/dev x
            2 c2s PUBLISH prod/all x
            2 c2s PUBLISH test/all x",
        );
        let clients = ClientNames::read(events.iter().cloned().map(Ok::<_, TooManyNames>)).unwrap();
        let topics = TopicNames::read(events.into_iter().map(Ok::<_, TooManyTopics>)).unwrap();
        let rules: Vec<_> = rules.iter().copied().map(str::to_owned).collect();
        let template = NameTemplate::parse("{{client_id}}-{{i}}").unwrap();
        let rewrite = Rewrite::new(&rules, Some(template)).unwrap().following(clients.clone());
        Renamed::new(&clients, &topics, &rewrite, ("r", count), selection)
    }

    #[test]
    fn what_is_selected_by_recorded_names_is_found_by_the_new_ones() {
        let by_recorded = selection(&["dev"], &["prod/#"]);
        let renamed = renamed(&["prod/(.*)=live/$1"], 3, &by_recorded).unwrap();
        let selection = Selection { renamed: Some(Arc::new(renamed)), ..by_recorded };
        let clients = ["dev-1", "dev-3", "app-1"].map(|name| selection.has_client(Some(name)));
        assert_eq!(clients, [true, true, false]);
        let has_topic = |name| selection.has_topic(&TopicName::parse(name).unwrap());
        let topics = ["live/dev-2", "live/all", "test/all", "other"].map(has_topic);
        assert_eq!(topics, [true, true, false, false]);
    }

    #[test]
    fn a_name_of_two_of_which_one_is_selected_is_refused() {
        let error = renamed(&["prod/(.*)=test/$1"], 2, &selection(&[], &["prod/#"])).unwrap_err();
        let wanted =
            "\"prod/all\" is selected and \"test/all\" is not, and both would be called \"test/all\"";
        assert_eq!(error.to_string(), wanted);
        assert!(renamed(&["prod/(.*)=test/$1"], 2, &selection(&[], &["+/all"])).is_ok());
    }
}
