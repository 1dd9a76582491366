//! The MQTT 5 properties of a PUBLISH, as the proto says them.

use std::time::Duration;

use super::{fields::Fields, pb, time};
use crate::packet::{Properties, Property, TopicName, Utf8String};

/// Checks properties of a message to publish.
///
/// The expiry comes apart, because a broker keeps it as a point in time.
pub fn checked(fields: &mut Fields, path: &str, from: &pb::PublishProperties) -> (Properties, Option<u32>) {
    let mut properties = Properties::new();
    if let Some(value) = from.payload_format_indicator {
        match value {
            0 | 1 => properties.push(Property::PayloadFormatIndicator(value as u8)),
            _ => fields
                .refuse(format!("{path}.payload_format_indicator"), format_args!("is 0 or 1, not {value}")),
        }
    }
    if let Some(text) = &from.content_type
        && let Some(text) = string(fields, &format!("{path}.content_type"), text)
    {
        properties.push(Property::ContentType(text));
    }
    if let Some(text) = &from.response_topic {
        let path = format!("{path}.response_topic");
        if fields.keep(&*path, TopicName::parse(text)).is_some()
            && let Some(text) = string(fields, &path, text)
        {
            properties.push(Property::ResponseTopic(text));
        }
    }
    if let Some(data) = &from.correlation_data {
        if data.len() > usize::from(u16::MAX) {
            fields.refuse(
                format!("{path}.correlation_data"),
                format_args!("has at most 65535 bytes, not {}", data.len()),
            );
        }
        properties.push(Property::CorrelationData(data.clone()));
    }
    for (index, user) in from.user_properties.iter().enumerate() {
        let name = string(fields, &format!("{path}.user_properties[{index}].name"), &user.name);
        let value = string(fields, &format!("{path}.user_properties[{index}].value"), &user.value);
        if let (Some(name), Some(value)) = (name, value) {
            properties.push(Property::UserProperty(name, value));
        }
    }
    if !from.subscription_identifiers.is_empty() {
        fields.refuse(format!("{path}.subscription_identifiers"), "is set by the broker alone");
    }
    let expiry = expiry(fields, &format!("{path}.message_expiry_interval"), from);
    (properties, expiry)
}

/// Whole seconds.
fn expiry(fields: &mut Fields, path: &str, from: &pb::PublishProperties) -> Option<u32> {
    let interval = fields.duration(path, from.message_expiry_interval.as_ref())?;
    let seconds = u32::try_from(interval.as_secs()).ok().filter(|_| interval.subsec_nanos() == 0);
    if seconds.is_none() {
        fields.refuse(path, "is whole seconds up to 4294967295");
    }
    seconds
}

fn string(fields: &mut Fields, path: &str, text: &str) -> Option<Utf8String> {
    let string = Utf8String::new(text);
    if string.is_none() {
        fields.refuse(path, "has at most 65535 bytes and no U+0000");
    }
    string
}

/// What a received PUBLISH carried; `None` when that is nothing an Application Message has.
pub fn shown(properties: &Properties) -> Option<pb::PublishProperties> {
    let mut shown = pb::PublishProperties::default();
    for property in properties.iter() {
        match property {
            Property::PayloadFormatIndicator(value) => {
                shown.payload_format_indicator = Some(u32::from(*value));
            }
            Property::MessageExpiryInterval(seconds) => {
                shown.message_expiry_interval =
                    Some(time::duration(Duration::from_secs(u64::from(*seconds))));
            }
            Property::ContentType(text) => shown.content_type = Some(text.as_str().to_owned()),
            Property::ResponseTopic(text) => shown.response_topic = Some(text.as_str().to_owned()),
            Property::CorrelationData(data) => shown.correlation_data = Some(data.clone()),
            Property::UserProperty(name, value) => shown
                .user_properties
                .push(pb::UserProperty { name: name.as_str().to_owned(), value: value.as_str().to_owned() }),
            Property::SubscriptionIdentifier(value) => shown.subscription_identifiers.push(*value),
            _ => {}
        }
    }
    (shown != pb::PublishProperties::default()).then_some(shown)
}
