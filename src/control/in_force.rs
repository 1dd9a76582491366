//! What is in force on a server, as recordings say it.

use std::{collections::BTreeMap, time::Instant};

use crate::{
    broker::SubscriptionView,
    packet::{Properties, Property, Publish, Subscription, TopicFilter, TopicName},
    recording::InForce,
    session::{ApplicationMessage, StoredMessage},
};

/// By client identifier; those that share a Subscription Identifier together.
pub fn subscriptions(views: Vec<SubscriptionView>) -> Vec<InForce> {
    let mut together: BTreeMap<_, Vec<Subscription>> = BTreeMap::new();
    for view in views {
        let Ok(filter) = TopicFilter::parse(&view.filter) else { continue };
        let of = together.entry((view.client_identifier, view.subscription_identifier)).or_default();
        of.push(Subscription { filter, options: view.options });
    }
    let states = together.into_iter().filter_map(|((client, identifier), subscriptions)| {
        InForce::subscriptions(&client, subscriptions, identifier)
    });
    states.collect()
}

/// What is left of its expiry counts from `now`.
pub fn retained(message: &StoredMessage, now: Instant) -> Option<InForce> {
    let expires_at = message.expires_at();
    let message = message.as_message();
    let mut properties = Properties::of_publish(message.properties);
    if let Some(expires_at) = expires_at {
        let left = expires_at.saturating_duration_since(now).as_millis().div_ceil(1000);
        properties.push(Property::MessageExpiryInterval(u32::try_from(left).unwrap_or(u32::MAX)));
    }
    InForce::retained(Publish {
        dup: false,
        qos: message.qos,
        retain: true,
        topic: TopicName::parse(std::str::from_utf8(message.topic).ok()?).ok(),
        packet_identifier: None,
        properties,
        payload: bytes::Bytes::copy_from_slice(message.payload.as_bytes()),
    })
}

/// What `message` retains, or with an empty payload makes forgotten.
pub fn published(message: &ApplicationMessage, expiry: Option<u32>) -> Option<InForce> {
    let ApplicationMessage { topic, payload, qos, properties, .. } = message.clone();
    let mut properties = properties;
    properties.0.extend(expiry.map(Property::MessageExpiryInterval));
    InForce::retained(Publish {
        dup: false,
        qos,
        retain: true,
        topic: Some(topic),
        packet_identifier: None,
        properties,
        payload,
    })
}
