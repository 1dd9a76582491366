//! SUBSCRIBE and UNSUBSCRIBE.

use std::{sync::Arc, time::Instant};

use smallvec::SmallVec;

use crate::{
    packet::{
        ControlPacket, Properties, Property, QoS, ReasonCode, RetainHandling, Suback, Subscribe,
        Subscription, SubscriptionOptions, TopicFilter, Unsuback, Unsubscribe,
    },
    session::{Lookup, RetainedScan, Session, SubscriptionKey},
};

use super::{
    Broker, BrokerEvent, Output,
    deliver::SCAN_BUDGET,
    figures::is_own_topic,
    records::{LookupRecord, SubscriptionRecord},
    subscriptions::{Subscriber, Subscriptions},
};

const ANSWER_TOO_LARGE: &str = "the answer is larger than the client's maximum packet size";

const TOO_MANY_FILTERS: &str = "too many topic filters in one packet";

/// Levels and bytes of a filter that count as one subscription against the limit, so that filters of
/// thousands of them cannot fill the memory that the limit is to guard.
const LEVELS_PER_UNIT: usize = 64;
const BYTES_PER_UNIT: usize = 1024;

impl Broker {
    pub(super) fn handle_subscribe(&mut self, now: Instant, index: u32, session: u32, subscribe: Subscribe) {
        let subscription_identifier = subscribe.properties.iter().find_map(|property| match property {
            Property::SubscriptionIdentifier(value) => Some(*value),
            _ => None,
        });
        let v5 = self.connections[index as usize].is_v5();
        let unavailable = match subscription_identifier {
            Some(_) if !self.limits.subscription_identifier_available => {
                Some(ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED)
            }
            _ => subscribe.subscriptions.iter().find_map(|one| self.unavailable(&one.filter)),
        };
        if let Some(reason) = unavailable.filter(|_| v5) {
            // CONNACK said so [section 3.2.2.3]; before MQTT 5 only SUBACK can.
            return self.fail(now, index, reason, None);
        }
        if subscribe.subscriptions.len() > self.limits.filters_per_packet {
            return self.fail(now, index, ReasonCode::QUOTA_EXCEEDED, Some(TOO_MANY_FILTERS));
        }
        let packet_identifier = subscribe.packet_identifier;
        let in_use = v5 && self.sessions[session as usize].received.contains(packet_identifier);
        let refused = in_use.then_some(ReasonCode::PACKET_IDENTIFIER_IN_USE);
        let reason_codes = vec![refused.unwrap_or_default(); subscribe.subscriptions.len()];
        let mut suback = Suback { packet_identifier, properties: Properties::new(), reason_codes };
        if !self.can_send(index, &ControlPacket::Suback(suback.clone())) {
            return self.fail(now, index, ReasonCode::PACKET_TOO_LARGE, Some(ANSWER_TOO_LARGE));
        }
        let mut scans = Vec::new();
        if !in_use {
            for (subscription, code) in subscribe.subscriptions.iter().zip(&mut suback.reason_codes) {
                let granted = self.subscribe(now, index, session, subscription, subscription_identifier);
                *code = match granted {
                    Ok(Granted { qos, lookups }) => {
                        scans.extend(lookups);
                        ReasonCode(qos as u8)
                    }
                    // Before MQTT 5 there is one code for every failure.
                    Err(_) if !v5 => ReasonCode::UNSPECIFIED_ERROR,
                    Err(reason) => reason,
                };
            }
        }
        self.hold_answer(now, index);
        self.send(index, ControlPacket::Suback(suback));
        // One after the other, as if each had come in a packet of its own [MQTT-3.8.4-5].
        let mut budget = SCAN_BUDGET;
        for scan in scans {
            let (key, queue) = (scan.subscription, &mut self.sessions[session as usize].queue);
            let after = queue.last_record();
            queue.push_scan(RetainedScan { after, ..scan });
            self.note_subscription(now, session, key, false);
            self.pump_within(now, session, &mut budget);
        }
    }

    /// Adds or replaces one subscription [MQTT-3.8.4-3].
    ///
    /// # Errors
    /// The Reason Code of why it is not granted.
    fn subscribe(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        subscription: &Subscription,
        subscription_identifier: Option<u32>,
    ) -> Result<Granted, ReasonCode> {
        let Subscription { filter, options } = subscription;
        if let Some(reason) = self.unavailable(filter) {
            return Err(reason);
        }
        if !self.access.acl.is_empty() && !self.may_subscribe(session, filter) {
            return Err(ReasonCode::NOT_AUTHORIZED);
        }
        if !self.limits.allow_topic(filter.pattern()) {
            return Err(ReasonCode::TOPIC_FILTER_INVALID);
        }
        let options = SubscriptionOptions { qos: options.qos.min(self.limits.maximum_qos), ..*options };
        let subscriber =
            Subscriber { session, options, subscription_identifier: subscription_identifier.unwrap_or(0) };
        let state = &mut self.sessions[session as usize];
        let held = self
            .subscriptions
            .find(filter)
            .and_then(|key| state.subscriptions.get(&key).map(|&position| (key, position)));
        let key = match held {
            Some((key, position)) => {
                if let Some(existing) = self.subscriptions.get_mut(key, position) {
                    *existing = subscriber;
                }
                key
            }
            None => {
                let cost = cost(filter.pattern().split('/').count(), filter.pattern().len());
                if state.subscription_cost + cost > self.limits.subscriptions_per_client
                    || self.subscription_cost + cost > self.limits.subscriptions
                {
                    return Err(ReasonCode::QUOTA_EXCEEDED);
                }
                self.add_subscription(session, filter, subscriber)
            }
        };
        let state = &mut self.sessions[session as usize];
        let wants_retained = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => held.is_none(),
            RetainHandling::DoNotSend => false,
        };
        let not_from = options.no_local.then(|| state.client_identifier.clone()); // [MQTT-3.8.3-3]
        let lookup = Lookup { qos: options.qos, subscription_identifier, not_from };
        if held.is_some() {
            // What it is still to be sent is sent as it is now subscribed to.
            if let Some(queue) = state.queue.changed() {
                queue.replace_scans(key, &lookup);
            }
        }
        self.note_subscription(now, session, key, held.is_none());
        self.stats.subscriptions_total += 1;
        self.outputs.push_back(Output::Emit(BrokerEvent::Subscribed {
            connection: self.connections[index as usize].id,
            client_identifier: Arc::clone(&self.sessions[session as usize].client_identifier),
            filter: filter.as_str().to_owned(),
            qos: options.qos,
        }));
        // Never to a shared subscription [section 4.8.2].
        let lookups = match wants_retained && filter.share_name().is_none() {
            true => self.look_up(key, filter, lookup),
            false => SmallVec::new(),
        };
        Ok(Granted { qos: options.qos, lookups })
    }

    /// Adds a subscription that its Session does not have; returns where it stands.
    pub(super) fn add_subscription(
        &mut self,
        session: u32,
        filter: &TopicFilter,
        subscriber: Subscriber,
    ) -> SubscriptionKey {
        let cost = cost(filter.pattern().split('/').count(), filter.pattern().len());
        self.subscription_cost += cost;
        let (key, position) = self.subscriptions.add(filter, subscriber);
        let state = &mut self.sessions[session as usize];
        state.subscription_cost += cost;
        state.subscriptions.insert(key, position);
        key
    }

    /// Notes a subscription as it is now, if its Session is kept.
    pub(super) fn note_subscription(
        &mut self,
        now: Instant,
        session: u32,
        key: SubscriptionKey,
        is_new: bool,
    ) {
        let Some(journal) = self.journal.as_deref_mut() else { return };
        let state = &self.sessions[session as usize];
        if state.number != 0
            && let Some(record) = subscription_record(state, &self.subscriptions, key)
        {
            journal.subscribe(now, state.number, is_new, record, &mut self.outputs);
        }
    }

    /// What is to be looked up for a new subscription: among the clients' retained messages, and
    /// among the broker's own.
    pub(super) fn look_up(
        &self,
        key: SubscriptionKey,
        filter: &TopicFilter,
        lookup: Lookup,
    ) -> SmallVec<[RetainedScan; 1]> {
        let mut scans = SmallVec::new();
        if self.limits.retain_available
            && self.figures.retained.len() > 0
            && is_own_topic(filter.pattern().as_bytes())
        {
            let scan = self.figures.retained.scan(key, filter, lookup.clone());
            scans.push(RetainedScan { is_of_figures: true, ..scan });
        }
        if self.retained.len() > 0 {
            scans.push(self.retained.scan(key, filter, lookup));
        }
        scans
    }

    /// Why `filter` is not one that the server's features allow.
    fn unavailable(&self, filter: &TopicFilter) -> Option<ReasonCode> {
        if filter.share_name().is_some() && !self.limits.shared_subscription_available {
            return Some(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        (!self.limits.wildcard_subscription_available && filter.pattern().contains(['+', '#']))
            .then_some(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED)
    }

    /// Whether the client takes a packet of that size. Without its answer, it would wait for ever
    /// [MQTT-3.8.4-1], [MQTT-3.10.4-4].
    fn can_send(&self, index: u32, packet: &ControlPacket) -> bool {
        let connection = &self.connections[index as usize];
        packet.encoded_len(connection.protocol) <= connection.packet_size_maximum
    }

    pub(super) fn handle_unsubscribe(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        unsubscribe: Unsubscribe,
    ) {
        if unsubscribe.filters.len() > self.limits.filters_per_packet {
            return self.fail(now, index, ReasonCode::QUOTA_EXCEEDED, Some(TOO_MANY_FILTERS));
        }
        let packet_identifier = unsubscribe.packet_identifier;
        let v5 = self.connections[index as usize].is_v5();
        let in_use = v5 && self.sessions[session as usize].received.contains(packet_identifier);
        let refused = in_use.then_some(ReasonCode::PACKET_IDENTIFIER_IN_USE);
        // Before MQTT 5 there are none.
        let count = if v5 { unsubscribe.filters.len() } else { 0 };
        let reason_codes = vec![refused.unwrap_or_default(); count];
        let mut unsuback = Unsuback { packet_identifier, properties: Properties::new(), reason_codes };
        if !self.can_send(index, &ControlPacket::Unsuback(unsuback.clone())) {
            return self.fail(now, index, ReasonCode::PACKET_TOO_LARGE, Some(ANSWER_TOO_LARGE));
        }
        if !in_use {
            for (position, filter) in unsubscribe.filters.iter().enumerate() {
                let reason = self.unsubscribe(now, index, session, filter);
                if let Some(code) = unsuback.reason_codes.get_mut(position) {
                    *code = reason;
                }
            }
        }
        self.hold_answer(now, index);
        self.send(index, ControlPacket::Unsuback(unsuback));
    }

    fn unsubscribe(&mut self, now: Instant, index: u32, session: u32, filter: &TopicFilter) -> ReasonCode {
        let Some(key) = self.subscriptions.find(filter) else { return ReasonCode::NO_SUBSCRIPTION_EXISTED };
        if !self.sessions[session as usize].subscriptions.contains_key(&key) {
            return ReasonCode::NO_SUBSCRIPTION_EXISTED;
        }
        self.remove_subscription(now, session, key);
        // Nothing more is sent for it [MQTT-3.10.4-2].
        if let Some(queue) = self.sessions[session as usize].queue.changed() {
            queue.drop_scans(key);
        }
        self.outputs.push_back(Output::Emit(BrokerEvent::Unsubscribed {
            connection: self.connections[index as usize].id,
            filter: filter.as_str().to_owned(),
        }));
        ReasonCode::SUCCESS
    }

    /// Takes a subscription out of its Session and out of the tree.
    pub(super) fn remove_subscription(&mut self, now: Instant, session: u32, key: SubscriptionKey) {
        let state = &mut self.sessions[session as usize];
        let Some(position) = state.subscriptions.remove(&key) else { return };
        if let Some(journal) = self.journal.as_deref_mut().filter(|_| state.number != 0) {
            let filter = self.subscriptions.filter(key).into();
            journal.unsubscribe(now, state.number, filter, &mut self.outputs);
        }
        let (levels, bytes) = self.subscriptions.size(key);
        let cost = cost(levels, bytes);
        state.subscription_cost -= cost;
        self.subscription_cost -= cost;
        if let Some(moved) = self.subscriptions.remove(key, position) {
            self.sessions[moved.session as usize].subscriptions.insert(key, moved.position);
        }
    }
}

/// What a subscription leads to.
struct Granted {
    qos: QoS,
    lookups: SmallVec<[RetainedScan; 1]>,
}

/// What is kept of a subscription, if its Session has it.
pub(super) fn subscription_record(
    session: &Session,
    subscriptions: &Subscriptions,
    key: SubscriptionKey,
) -> Option<SubscriptionRecord> {
    let &position = session.subscriptions.get(&key)?;
    let subscriber = subscriptions.get(key, position)?;
    let scan = session.queue.scan(key);
    Some(SubscriptionRecord {
        filter: subscriptions.filter(key).into(),
        options: subscriber.options,
        subscription_identifier: subscriber.subscription_identifier,
        lookup: scan.map(|scan| LookupRecord {
            from: scan.from.clone(),
            until: scan.until[1],
            after: scan.after,
        }),
    })
}

/// What a filter of so many levels and bytes counts against the limit.
fn cost(levels: usize, bytes: usize) -> usize {
    1 + levels / LEVELS_PER_UNIT + bytes / BYTES_PER_UNIT
}
