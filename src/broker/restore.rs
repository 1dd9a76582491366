//! A broker that goes on where another process ended.

use std::time::{Duration, Instant};

use crate::{
    packet::TopicFilter,
    session::{Inflight, Lookup, NEVER, RetainedScan, Stage, Standing},
};

use super::{
    Broker, Timer,
    records::{DeliveryRecord, DeliveryStage, LookupRecord, Restored, RestoredSession, SubscriptionRecord},
    subscriptions::Subscriber,
};

impl Broker {
    /// Takes over what was kept of a broker before, whatever the limits are now. To be called before
    /// anything else; what is due by `now`, a Will or the end of a Session, is for the timers.
    pub fn restore(&mut self, now: Instant, restored: Restored) {
        if let Some(journal) = &mut self.journal {
            journal.go_on_after(&restored);
        }
        let Restored { sessions, retained } = restored;
        for (serial, record) in retained {
            self.retained.restore(serial, record.message, record.publisher);
        }
        let mut restored = Vec::with_capacity(sessions.len());
        for session in sessions {
            let (index, scans) = self.restore_session(now, &session);
            restored.push((index, scans, session));
        }
        // Shared subscriptions, which deliveries name, are all there now.
        for (index, scans, session) in restored {
            self.restore_deliveries(index, scans, session);
        }
        self.set_retained_timer();
        if !self.access.acl.is_empty() {
            // The rules may be others now.
            self.timers.set(&mut self.recheck.due, Some(now), Timer::Recheck);
        }
    }

    /// Its index, and the lookups that are to go on.
    fn restore_session(&mut self, now: Instant, session: &RestoredSession) -> (u32, Vec<RetainedScan>) {
        let RestoredSession { number, record, subscriptions, received, .. } = session;
        let index = self.add_session(&record.client_identifier);
        let state = &mut self.sessions[index as usize];
        (state.number, state.is_restored) = (*number, true);
        state.protocol = record.protocol;
        state.username = record.username.clone();
        state.standing = record.standing;
        state.clean_start = record.clean_start;
        state.keep_alive = record.keep_alive;
        state.expiry = record.expiry;
        state.will = record.will.clone().map(Box::new);
        for &identifier in received {
            state.received.insert(identifier);
        }
        let (mut ends_at, mut will_at) = (record.ends_at, record.will_at);
        if record.is_connected {
            // The connection ended with the process, nobody knows when.
            if state.standing == Standing::Claimed {
                state.username = None;
            }
            ends_at = (record.expiry != NEVER).then(|| now + Duration::from_secs(record.expiry.into()));
            will_at = record.will.as_ref().map(|will| now + will.delay);
        }
        self.timers.set(&mut state.ends_at, ends_at, Timer::SessionExpiry(index));
        self.timers.set(&mut state.will_at, will_at, Timer::WillDelay(index));
        let scans = subscriptions.iter().filter_map(|record| self.restore_subscription(index, record));
        let mut scans: Vec<_> = scans.collect();
        scans.sort_by_key(|scan| scan.after);
        if record.is_connected {
            self.touch(now, index);
        }
        (index, scans)
    }

    /// The lookup that is left for it.
    fn restore_subscription(&mut self, index: u32, record: &SubscriptionRecord) -> Option<RetainedScan> {
        // One that is not good any more could not match anything.
        let filter = TopicFilter::parse(&record.filter).ok()?;
        let SubscriptionRecord { options, subscription_identifier, .. } = *record;
        let subscriber = Subscriber { session: index, options, subscription_identifier };
        let key = self.add_subscription(index, &filter, subscriber);
        let LookupRecord { from, until, after } = record.lookup.clone()?;
        self.retained.go_on_after(until);
        let state = &self.sessions[index as usize];
        let lookup = Lookup {
            qos: options.qos,
            subscription_identifier: Some(subscription_identifier).filter(|&value| value != 0),
            not_from: options.no_local.then(|| state.client_identifier.clone()),
        };
        let scan = self.retained.scan(key, &filter, lookup);
        Some(RetainedScan { from, until: [until; 2], after, ..scan })
    }

    fn restore_deliveries(&mut self, index: u32, scans: Vec<RetainedScan>, session: RestoredSession) {
        let mut exchanges = Vec::new();
        let mut scans = scans.into_iter().peekable();
        for (record, DeliveryRecord { share, stage, .. }) in session.deliveries {
            let share = share.and_then(|filter| {
                let filter = TopicFilter::parse(&filter).ok()?;
                self.subscriptions.find(&filter)?.share
            });
            match stage {
                DeliveryStage::Queued(mut delivery) => {
                    (delivery.share, delivery.record) = (share, record);
                    let queue = &mut self.sessions[index as usize].queue;
                    while let Some(scan) = scans.next_if(|scan| scan.after < record) {
                        queue.push_scan(scan);
                    }
                    queue.restore(delivery);
                }
                DeliveryStage::Published { serial, mut delivery } => {
                    (delivery.share, delivery.record) = (share, record);
                    exchanges.push((serial, Stage::Published(delivery)));
                }
                DeliveryStage::Released { serial, order } => {
                    exchanges.push((serial, Stage::Released { order, record }));
                }
            }
        }
        let state = &mut self.sessions[index as usize];
        for scan in scans {
            state.queue.push_scan(scan);
        }
        if !exchanges.is_empty() {
            *state.inflight = Inflight::restore(exchanges);
        }
        self.pressure.added += state.queue.bytes() + state.inflight.bytes();
    }
}
