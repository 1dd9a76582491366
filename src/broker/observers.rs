//! Those who look at messages without being clients: they have no Session, and nothing waits for them here.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use slab::Slab;

use crate::{
    packet::{FilterTree, QoS, TopicFilter},
    session::{Lookup, MessageRef, RetainedScan, StoredMessage, SubscriptionKey},
};

use super::{Broker, retained::Step};

/// Retained topics looked at in one go.
const LOOK_UP_BUDGET: usize = 2_048;

/// Told of each message, on the thread that routes it: must not block.
pub type Observe = Box<dyn FnMut(&MessageRef<'_>, Instant) + Send>;

/// Which observer.
pub type ObserverKey = usize;

/// What was retained when an observer came, as far as it was not looked up yet.
pub struct RetainedBefore(VecDeque<RetainedScan>);

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

    #[cold]
    fn show_all(&mut self, now: Instant, message: &MessageRef<'_>) {
        let Self { observers, by_topic, found } = self;
        found.clear();
        by_topic.find(message.topic, &mut |&key| found.push(key));
        // One copy, however many of its filters match.
        found.sort_unstable();
        found.dedup();
        for &key in &*found {
            (observers[key].observe)(message, now);
        }
    }
}

impl Broker {
    /// Shows what is routed from now on and matches one of the filters, each message once. What mocks keep from clients is
    /// not shown, either. Returns what is retained now, apart.
    pub fn observe(&mut self, filters: Vec<TopicFilter>, observe: Observe) -> (ObserverKey, RetainedBefore) {
        let lookup = || Lookup { qos: QoS::ExactlyOnce, ..Lookup::default() };
        let scans = filters.iter().flat_map(|filter| self.look_up(SubscriptionKey::NONE, filter, lookup()));
        let before = RetainedBefore(scans.collect());
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
        let Observers { observers, by_topic, .. } = &mut self.observers;
        let Some(gone) = observers.try_remove(key) else { return };
        for filter in &gone.filters {
            by_topic.remove(filter, |&other| other == key);
        }
    }

    /// The next of them, until there are no more; of a filter none twice.
    pub fn next_retained(&self, now: Instant, before: &mut RetainedBefore) -> Vec<Arc<StoredMessage>> {
        let mut found = Vec::new();
        let mut budget = LOOK_UP_BUDGET;
        while let Some(scan) = before.0.front_mut() {
            let retained = if scan.is_of_figures { &self.figures.retained } else { &self.retained };
            match retained.next(scan, now, &mut budget) {
                Step::Found(message) => found.push(message),
                Step::Pause => break,
                Step::Done => drop(before.0.pop_front()),
            }
        }
        found
    }
}

impl RetainedBefore {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
