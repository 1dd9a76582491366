//! The topics of a recording.

use std::collections::HashSet;

use super::{Connections, Event, EventKind};
use crate::packet::{ControlPacket, TopicName};

/// Bytes of all of them.
const SIZE_MAX: usize = 64 << 20;

/// All topics that messages have, Wills and what was retained among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicNames {
    topics: HashSet<TopicName>,
    size: usize,
}

/// They cannot be held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recording has over {} MiB of topics, too many to tell what becomes of them", SIZE_MAX >> 20)]
pub struct TooManyTopics;

impl TopicNames {
    /// Those of all `events`.
    ///
    /// # Errors
    /// Those of the events, and [`TooManyTopics`].
    pub fn read<E: From<TooManyTopics>>(events: impl Iterator<Item = Result<Event, E>>) -> Result<Self, E> {
        let (mut topics, mut connections) = (Self::default(), Connections::new());
        for event in events {
            let event = event?;
            let seen = connections.follow(&event);
            match &event.kind {
                EventKind::Packet { .. } => {
                    let Some(seen) = seen else { continue };
                    if let Ok(ControlPacket::Connect(connect)) = seen.packet {
                        topics.add(connect.will.map(|will| will.topic))?;
                    }
                    topics.add(seen.topic)?;
                }
                EventKind::State(in_force) => topics.add(in_force.topic())?,
                EventKind::Close(_) => connections.forget(event.connection),
                _ => {}
            }
        }
        Ok(topics)
    }

    pub(in crate::recording) fn iter(&self) -> impl Iterator<Item = &TopicName> {
        self.topics.iter()
    }

    /// # Errors
    /// If there is no room for it.
    pub(in crate::recording) fn add(&mut self, topic: Option<TopicName>) -> Result<(), TooManyTopics> {
        let Some(topic) = topic.filter(|topic| !self.topics.contains(topic)) else { return Ok(()) };
        self.size += topic.as_str().len() + size_of::<TopicName>();
        if self.size > SIZE_MAX {
            return Err(TooManyTopics);
        }
        self.topics.insert(topic);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::sample::script;

    #[test]
    fn topics_are_those_of_messages_either_way_and_of_wills() {
        let events = script(
            "1 open
            1 c2s CONNECT app v=5 will=gone:x
            1 s2c CONNACK session_present=false
            1 c2s SUBSCRIBE 1 up/+
            1 c2s PUBLISH a alias=1 x
            1 c2s PUBLISH \"\" alias=1 y
            1 s2c PUBLISH up/dev x",
        );
        let topics = TopicNames::read(events.into_iter().map(Ok::<_, TooManyTopics>)).unwrap();
        let mut topics: Vec<_> = topics.iter().map(TopicName::as_str).collect();
        topics.sort_unstable();
        assert_eq!(topics, ["a", "gone", "up/dev"]);
    }
}
