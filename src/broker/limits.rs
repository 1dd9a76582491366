//! The broker's limits and features.

use std::time::Duration;

use crate::packet::QoS;

/// What the broker allows; every one is a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How long a client may take from being accepted to its whole CONNECT [section 3.1.4].
    pub connect_timeout: Duration,
    /// Bytes, fixed header included; also advertised as Maximum Packet Size.
    pub max_packet_size: usize,
    /// The same of packets other than PUBLISH, and of what a PUBLISH has beside its payload.
    pub control_packet_bytes: usize,
    /// Of a client identifier.
    pub client_id_bytes: usize,
    /// Levels of a client's Topic Names and Topic Filters.
    pub topic_levels: usize,
    /// Their bytes.
    pub topic_bytes: usize,
    /// Of one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet: usize,
    /// QoS 1 and 2 messages a client may have unacknowledged towards us; advertised.
    pub receive_maximum: u16,
    /// The highest QoS of a client's messages and of what is granted to subscriptions; advertised.
    pub maximum_qos: QoS,
    /// Whether clients may publish retained messages; advertised, like the three that follow.
    pub retain_available: bool,
    pub wildcard_subscription_available: bool,
    pub subscription_identifier_available: bool,
    pub shared_subscription_available: bool,
    /// Topic aliases a client may use; advertised. 0 forbids them.
    pub topic_alias_maximum: u16,
    /// Seconds. MQTT 5 clients that ask for more are told this one with Server Keep Alive. 0 leaves
    /// every client its own.
    pub keep_alive_max: u16,
    /// QoS 1 and 2 messages in flight towards one client, if the client allows as many.
    pub inflight_max: u16,
    /// Messages that wait for one client, offline or slow.
    pub queue_messages: usize,
    /// Topic, property and payload bytes of the same; as many may be in flight.
    pub queue_bytes: usize,
    /// Bytes that may wait for all clients together, in outboxes, in queues and in flight; beyond, each has a
    /// small share.
    pub waiting_bytes: usize,
    /// Bytes waiting on a socket above which QoS 0 messages to that client are dropped.
    pub outbox_bytes: usize,
    pub retained_messages: usize,
    pub retained_bytes: usize,
    pub subscriptions_per_client: usize,
    /// Of all Sessions.
    pub subscriptions: usize,
    /// Sessions kept, connected or not.
    pub sessions: usize,
    /// Longest Session Expiry Interval granted, seconds; `u32::MAX` is no limit.
    pub session_expiry_max: u32,
}

impl Default for Limits {
    /// What a test broker on one machine needs; the settings' defaults.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            max_packet_size: 65_536,
            control_packet_bytes: 512 << 10,
            client_id_bytes: 1_024,
            topic_levels: 200,
            topic_bytes: 65_535,
            filters_per_packet: 10_000,
            receive_maximum: 1_000,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_identifier_available: true,
            shared_subscription_available: true,
            topic_alias_maximum: 64,
            keep_alive_max: 0,
            inflight_max: 1_000,
            queue_messages: 10_000,
            queue_bytes: 16 << 20,
            waiting_bytes: 512 << 20,
            outbox_bytes: 1 << 20,
            retained_messages: 100_000,
            retained_bytes: 64 << 20,
            subscriptions_per_client: 10_000,
            subscriptions: 2_000_000,
            sessions: 100_000,
            session_expiry_max: u32::MAX,
        }
    }
}

impl Limits {
    /// Whether `topic`, a client's Topic Name or Topic Filter, is one that is served.
    #[inline]
    pub fn allow_topic(&self, topic: &str) -> bool {
        // One that is short cannot have many levels.
        topic.len() < self.topic_levels.min(self.topic_bytes) || self.allow_long_topic(topic)
    }

    fn allow_long_topic(&self, topic: &str) -> bool {
        topic.len() <= self.topic_bytes && topic.split('/').count() <= self.topic_levels
    }
}
