//! SUBSCRIBE and UNSUBSCRIBE.

use std::time::Instant;

use crate::{
    packet::{
        ControlPacket, PacketIdentifier, Properties, Property, ReasonCode, RetainHandling, Suback, Subscribe,
        Subscription, SubscriptionOptions, TopicFilter, Unsuback, Unsubscribe,
    },
    session::{RetainedScan, SubscriptionKey},
};

use super::{Broker, BrokerEvent, Output, subscriptions::Subscriber};

const ANSWER_TOO_LARGE: &str = "the answer is larger than the client's maximum packet size";

/// Levels of a filter that count as one subscription against the limit, so that filters of
/// thousands of levels cannot fill the memory that the limit is to guard.
const LEVELS_PER_UNIT: usize = 64;

impl Broker {
    pub(super) fn handle_subscribe(&mut self, now: Instant, index: u32, session: u32, subscribe: Subscribe) {
        let shared_no_local = |subscription: &Subscription| {
            subscription.options.no_local && subscription.filter.share_name().is_some()
        };
        if subscribe.subscriptions.iter().any(shared_no_local) {
            // [MQTT-3.8.3-4]
            let text = "no local on a shared subscription";
            return self.fail(now, index, ReasonCode::PROTOCOL_ERROR, Some(text));
        }
        let subscription_identifier = subscribe.properties.iter().find_map(|property| match property {
            Property::SubscriptionIdentifier(value) => Some(*value),
            _ => None,
        });
        let packet_identifier = subscribe.packet_identifier;
        let v5 = self.connections[index as usize].is_v5();
        let unavailable = subscribe.subscriptions.iter().find_map(|one| self.unavailable(&one.filter));
        let unavailable = match subscription_identifier {
            Some(_) if !self.limits.subscription_identifier_available => {
                Some(ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED)
            }
            _ => unavailable,
        };
        if let Some(reason) = unavailable.filter(|_| v5) {
            // CONNACK said so [section 3.2.2.3]; before MQTT 5 only SUBACK can.
            return self.fail(now, index, reason, None);
        }
        if !self.can_answer(index, subscribe.subscriptions.len()) {
            return self.fail(now, index, ReasonCode::PACKET_TOO_LARGE, Some(ANSWER_TOO_LARGE));
        }
        let in_use = v5 && self.sessions[session as usize].received.contains(packet_identifier);
        let waiting = self.sessions[session as usize].queue.scans();
        let mut reason_codes = Vec::with_capacity(subscribe.subscriptions.len());
        for subscription in &subscribe.subscriptions {
            let reason = if in_use {
                ReasonCode::PACKET_IDENTIFIER_IN_USE
            } else {
                self.subscribe(index, session, subscription, subscription_identifier, waiting)
            };
            // Before MQTT 5 there is one code for every failure.
            let reason = if reason.is_error() && !v5 { ReasonCode::UNSPECIFIED_ERROR } else { reason };
            reason_codes.push(reason);
        }
        let suback = Suback { packet_identifier, properties: Properties::new(), reason_codes };
        self.send(index, ControlPacket::Suback(suback));
        if !self.sessions[session as usize].is_caught_up() {
            self.pump(now, session);
        }
    }

    /// Adds or replaces one subscription [MQTT-3.8.4-3] and has its retained messages sent; `waiting`
    /// lookups are left over from earlier packets.
    fn subscribe(
        &mut self,
        index: u32,
        session: u32,
        subscription: &Subscription,
        subscription_identifier: Option<u32>,
        waiting: usize,
    ) -> ReasonCode {
        let Subscription { filter, options } = subscription;
        if let Some(reason) = self.unavailable(filter) {
            return reason;
        }
        let options = SubscriptionOptions { qos: options.qos.min(self.limits.maximum_qos), ..*options };
        let subscriber =
            Subscriber { session, options, subscription_identifier: subscription_identifier.unwrap_or(0) };
        let state = &mut self.sessions[session as usize];
        if state.queue.scans() >= self.limits.subscriptions_per_client {
            return ReasonCode::QUOTA_EXCEEDED;
        }
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
                let cost = cost(filter.pattern().split('/').count());
                if state.subscription_cost + cost > self.limits.subscriptions_per_client {
                    return ReasonCode::QUOTA_EXCEEDED;
                }
                state.subscription_cost += cost;
                let (key, position) = self.subscriptions.add(filter, subscriber);
                state.subscriptions.insert(key, position);
                key
            }
        };
        let wants_retained = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => held.is_none(),
            RetainHandling::DoNotSend => false,
        };
        let scan = RetainedScan {
            qos: options.qos,
            subscription_identifier,
            not_from: options.no_local.then(|| state.client_identifier.clone()), // [MQTT-3.8.3-3]
            ..self.retained.scan(key, filter)
        };
        if held.is_some() {
            // What it is still to be sent is sent as it is now subscribed to. Within a packet, each
            // subscription has its own answer [MQTT-3.8.4-5].
            let earlier = state.queue.scans_mut().take(waiting);
            earlier
                .filter(|waiting| waiting.subscription == key)
                .for_each(|waiting| waiting.subscribe_as(&scan));
        }
        // Never to a shared subscription [section 4.8.2].
        if wants_retained && filter.share_name().is_none() {
            if self.figures.retained.len() > 0 && filter.pattern().starts_with("$SYS/") {
                state.queue.push_scan(RetainedScan { is_of_figures: true, until: u64::MAX, ..scan.clone() });
            }
            if self.retained.len() > 0 {
                state.queue.push_scan(scan);
            }
        }
        self.stats.subscriptions_total += 1;
        self.outputs.push_back(Output::Emit(BrokerEvent::Subscribed {
            connection: self.connections[index as usize].id,
            filter: filter.as_str().to_owned(),
            qos: options.qos,
        }));
        ReasonCode(options.qos as u8)
    }

    /// Why `filter` is not one that the server's features allow.
    fn unavailable(&self, filter: &TopicFilter) -> Option<ReasonCode> {
        if filter.share_name().is_some() && !self.limits.shared_subscription_available {
            return Some(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        (!self.limits.wildcard_subscription_available && filter.pattern().contains(['+', '#']))
            .then_some(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED)
    }

    /// Whether the client takes a SUBACK or UNSUBACK of so many Reason Codes. Without it, the client
    /// would wait for an answer for ever [MQTT-3.8.4-1], [MQTT-3.10.4-4].
    fn can_answer(&self, index: u32, reason_codes: usize) -> bool {
        let answer = ControlPacket::Suback(Suback {
            packet_identifier: PacketIdentifier::MIN,
            properties: Properties::new(),
            reason_codes: vec![ReasonCode::SUCCESS; reason_codes],
        });
        let connection = &self.connections[index as usize];
        answer.encoded_len(connection.protocol) <= connection.packet_size_maximum
    }

    pub(super) fn handle_unsubscribe(
        &mut self,
        now: Instant,
        index: u32,
        session: u32,
        unsubscribe: Unsubscribe,
    ) {
        let packet_identifier = unsubscribe.packet_identifier;
        let v5 = self.connections[index as usize].is_v5();
        if !self.can_answer(index, unsubscribe.filters.len()) {
            return self.fail(now, index, ReasonCode::PACKET_TOO_LARGE, Some(ANSWER_TOO_LARGE));
        }
        let in_use = v5 && self.sessions[session as usize].received.contains(packet_identifier);
        let mut reason_codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            reason_codes.push(if in_use {
                ReasonCode::PACKET_IDENTIFIER_IN_USE
            } else {
                self.unsubscribe(index, session, filter)
            });
        }
        if !v5 {
            reason_codes.clear();
        }
        let unsuback = Unsuback { packet_identifier, properties: Properties::new(), reason_codes };
        self.send(index, ControlPacket::Unsuback(unsuback));
    }

    fn unsubscribe(&mut self, index: u32, session: u32, filter: &TopicFilter) -> ReasonCode {
        let Some(key) = self.subscriptions.find(filter) else { return ReasonCode::NO_SUBSCRIPTION_EXISTED };
        if !self.sessions[session as usize].subscriptions.contains_key(&key) {
            return ReasonCode::NO_SUBSCRIPTION_EXISTED;
        }
        self.remove_subscription(session, key);
        // Nothing more is sent for it [MQTT-3.10.4-2].
        self.sessions[session as usize].queue.drop_scans(key);
        self.outputs.push_back(Output::Emit(BrokerEvent::Unsubscribed {
            connection: self.connections[index as usize].id,
            filter: filter.as_str().to_owned(),
        }));
        ReasonCode::SUCCESS
    }

    /// Takes a subscription out of its Session and out of the tree.
    pub(super) fn remove_subscription(&mut self, session: u32, key: SubscriptionKey) {
        let state = &mut self.sessions[session as usize];
        let Some(position) = state.subscriptions.remove(&key) else { return };
        state.subscription_cost -= cost(self.subscriptions.levels(key));
        if let Some(moved) = self.subscriptions.remove(key, position) {
            self.sessions[moved.session as usize].subscriptions.insert(key, moved.position);
        }
    }
}

/// What a filter of so many levels counts against the limit.
fn cost(levels: usize) -> usize {
    1 + levels / LEVELS_PER_UNIT
}
