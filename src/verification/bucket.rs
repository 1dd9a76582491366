//! Packets whose order among each other is compared.

use std::sync::Arc;

use super::{
    Owner, Place, Rules, Subject, change,
    content::{Content, Thing},
    scope::Demand,
};
use crate::{
    packet::{ControlPacket, Publish, TopicName},
    recording::Direction,
};

/// What packets of a bucket have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    pub owner: Owner,
    /// Whether clients sent it.
    pub is_from_client: bool,
    pub subject: Subject,
}

impl Bucket {
    pub fn direction(&self) -> Direction {
        if self.is_from_client { Direction::ClientToServer } else { Direction::ServerToClient }
    }
}

/// A thing that is judged, in its bucket.
#[derive(Clone, Debug)]
pub struct Item {
    pub bucket: Arc<Bucket>,
    pub place: Place,
    pub thing: Thing,
    /// Bytes that it takes while it waits.
    pub size: usize,
    /// Which exchange about a message of its topic and QoS it is part of, from 1.
    pub nth: Option<u32>,
    /// Equal for what is the same, as far as it is compared.
    pub exact: u64,
    /// Equal for what may count as the same, too.
    pub digest: u64,
    /// Whether its order among its like says nothing; the same for all of a bucket.
    pub is_unordered: bool,
    /// Whether more of the same are as they should be: of QoS 1, and said to be sent again if packets are judged.
    pub may_repeat: bool,
    /// Whose Will the message is, if it is one.
    pub will_of: Option<Arc<str>>,
    /// Required or allowed.
    pub demand: Demand,
}

impl Item {
    pub fn is_required(&self) -> bool {
        self.demand == Demand::Required
    }

    pub fn content(&self, rules: &Rules) -> Content {
        Content::new(&self.thing, self.nth, rules)
    }

    /// A message that is judged by its topic.
    pub fn message(&self) -> Option<(&TopicName, &Publish)> {
        match &self.thing {
            Thing::Packet(ControlPacket::Publish(publish)) => Some((publish.topic.as_ref()?, publish)),
            _ => None,
        }
    }

    /// With both digests.
    pub fn digested(mut self, rules: &Rules) -> Self {
        let content = self.content(rules);
        let masked = self.message().and_then(|(topic, publish)| rules.masked(topic, &publish.payload));
        (self.exact, self.digest) = match masked {
            Some(masked) => (content.digest(Some(&masked.exact)), content.digest(Some(&masked.loose))),
            None => {
                let digest = content.digest(None);
                (digest, digest)
            }
        };
        self
    }

    /// The numbers in it that need not be the same.
    pub fn loose_numbers(&self, rules: &Rules) -> Vec<f64> {
        self.message().map_or_else(Vec::new, |(topic, publish)| rules.loose_numbers(topic, &publish.payload))
    }

    /// Whether `observed` is as this one should be.
    pub fn allows(&self, observed: &Self, rules: &Rules) -> bool {
        self.exact == observed.exact
            || self.digest == observed.digest && change::of_items(self, observed, rules).is_empty()
    }
}
