//! Those who look at messages without being clients: they have no Session, and nothing waits for them here.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use slab::Slab;

use crate::{
    packet::{FilterTree, QoS, TopicFilter, TopicName},
    session::{Lookup, MessageRef, RetainedScan, StoredMessage, SubscriptionKey},
};

use super::{Broker, retained::Step};

/// Retained topics looked at in one go.
const LOOK_UP_BUDGET: usize = 2_048;

/// Told of each message, on the thread that routes it: must not block. Whether it is to be told of more.
pub type Observe = Box<dyn FnMut(&MessageRef<'_>, Instant) -> bool + Send>;

/// Which observer.
pub type ObserverKey = usize;

/// What was retained when an observer came, as far as it was not looked up yet.
pub struct RetainedBefore {
    filters: Vec<TopicFilter>,
    /// Each with the place of its filter.
    scans: VecDeque<(usize, RetainedScan)>,
}

struct Observer {
    filters: Vec<TopicFilter>,
    observe: Observe,
}

#[derive(Default)]
pub(super) struct Observers {
    observers: Slab<Observer>,
    by_topic: FilterTree<ObserverKey>,
    /// Of the message that is shown.
    found: Vec<ObserverKey>,
}

impl Observers {
    #[inline]
    pub fn show(&mut self, now: Instant, message: &MessageRef<'_>) {
        if !self.observers.is_empty() {
            self.show_all(now, message);
        }
    }

    fn remove(&mut self, key: ObserverKey) {
        let Some(gone) = self.observers.try_remove(key) else { return };
        for filter in &gone.filters {
            self.by_topic.remove(filter, |&other| other == key);
        }
    }

    #[cold]
    fn show_all(&mut self, now: Instant, message: &MessageRef<'_>) {
        let Self { observers, by_topic, found } = self;
        found.clear();
        by_topic.find(message.topic, &mut |&key| found.push(key));
        // One copy, however many of its filters match.
        found.sort_unstable();
        found.dedup();
        found.retain(|&key| !(observers[key].observe)(message, now));
        for key in std::mem::take(found) {
            self.remove(key);
        }
    }
}

impl Broker {
    /// Shows what is routed from now on and matches one of the filters, each message once. What mocks keep from clients is
    /// not shown, either. Returns what is retained now, apart.
    pub fn observe(&mut self, filters: Vec<TopicFilter>, observe: Observe) -> (ObserverKey, RetainedBefore) {
        let lookup = || Lookup { qos: QoS::ExactlyOnce, ..Lookup::default() };
        let scans = filters.iter().enumerate().flat_map(|(place, filter)| {
            let scans = self.look_up(SubscriptionKey::NONE, filter, lookup());
            scans.into_iter().map(move |scan| (place, scan))
        });
        let before = RetainedBefore { scans: scans.collect(), filters: filters.clone() };
        let observers = &mut self.observers;
        let place = observers.observers.vacant_entry();
        let key = place.key();
        for filter in &filters {
            observers.by_topic.insert(filter, key);
        }
        place.insert(Observer { filters, observe });
        (key, before)
    }

    pub fn stop_observing(&mut self, key: ObserverKey) {
        self.observers.remove(key);
    }

    /// The next of them, until there are no more; none twice.
    pub fn next_retained(&self, now: Instant, before: &mut RetainedBefore) -> Vec<Arc<StoredMessage>> {
        let RetainedBefore { filters, scans } = before;
        let mut found = Vec::new();
        let mut budget = LOOK_UP_BUDGET;
        while let Some((place, scan)) = scans.front_mut() {
            let retained = if scan.is_of_figures { &self.figures.retained } else { &self.retained };
            match retained.next(scan, now, &mut budget) {
                Step::Found(message) => {
                    let topic = message.as_message().topic;
                    let is_known = filters[..*place].iter().any(|filter| matches(filter, topic));
                    if !is_known {
                        found.push(message);
                    }
                }
                Step::Pause => break,
                Step::Done => drop(scans.pop_front()),
            }
        }
        found
    }
}

/// Whether what was retained on `topic` was found by this filter already.
fn matches(filter: &TopicFilter, topic: &[u8]) -> bool {
    let topic = std::str::from_utf8(topic).ok().and_then(|topic| TopicName::parse(topic).ok());
    topic.is_some_and(|topic| filter.matches(&topic))
}

impl RetainedBefore {
    pub fn is_empty(&self) -> bool {
        self.scans.is_empty()
    }
}
