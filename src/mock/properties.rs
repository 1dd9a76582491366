//! MQTT 5 properties of a message that is made: texts in them are templates.

use bytes::Bytes;

use super::{
    PropertiesSpec,
    template::{RenderError, Template},
};
use crate::{
    field::Checks,
    packet::{Properties, Property, TopicName, Utf8String},
};

/// Properties that were checked. The Message Expiry Interval is not among them: a broker counts it down.
#[derive(Debug, Default)]
pub struct PropertyTemplates(Vec<PropertyTemplate>);

#[derive(Debug)]
enum PropertyTemplate {
    PayloadFormatIndicator(u8),
    ContentType(Template),
    ResponseTopic(Template),
    CorrelationData(Template),
    User(String, Template),
}

impl PropertyTemplates {
    /// `path` is what errors call the whole.
    pub fn new(checks: &mut Checks, path: &str, spec: &PropertiesSpec) -> Self {
        let mut properties = Vec::new();
        match spec.payload_format_indicator {
            None => {}
            Some(value @ (0 | 1)) => properties.push(PropertyTemplate::PayloadFormatIndicator(value)),
            Some(value) => {
                checks.refuse(
                    format!("{path}.payload_format_indicator"),
                    format_args!("is 0 or 1, not {value}"),
                );
            }
        }
        if let Some(literal) = spec.response_topic.as_deref().filter(|text| !text.contains("{{")) {
            checks.keep(format!("{path}.response_topic"), TopicName::parse(literal));
        }
        let mut add = |name: &str, text: &Option<String>, make: fn(Template) -> PropertyTemplate| {
            let template = text.as_deref().map(Template::parse);
            let template = template.and_then(|parsed| checks.keep(format!("{path}.{name}"), parsed));
            properties.extend(template.map(make));
        };
        add("content_type", &spec.content_type, PropertyTemplate::ContentType);
        add("response_topic", &spec.response_topic, PropertyTemplate::ResponseTopic);
        add("correlation_data", &spec.correlation_data, PropertyTemplate::CorrelationData);
        for (name, value) in &spec.user {
            if let Some(template) = checks.keep(format!("{path}.user.{name}"), Template::parse(value)) {
                properties.push(PropertyTemplate::User(name.clone(), template));
            }
        }
        Self(properties)
    }

    /// Every template in them.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.0.iter().filter_map(|property| match property {
            PropertyTemplate::PayloadFormatIndicator(_) => None,
            PropertyTemplate::ContentType(template)
            | PropertyTemplate::ResponseTopic(template)
            | PropertyTemplate::CorrelationData(template)
            | PropertyTemplate::User(_, template) => Some(template),
        })
    }

    /// # Errors
    /// Which of them cannot be, and why, for people.
    pub fn render(
        &self,
        mut render: impl FnMut(&Template) -> Result<String, RenderError>,
    ) -> Result<Properties, String> {
        let text = |name: &str, text: String| {
            Utf8String::new(text).ok_or_else(|| format!("{name}: has at most 65535 bytes and no U+0000"))
        };
        let mut rendered = |name: &str, template: &Template| {
            render(template).map_err(|error| format!("{name}: {error}")).and_then(|value| text(name, value))
        };
        let mut properties = Properties::new();
        for property in &self.0 {
            properties.push(match property {
                PropertyTemplate::PayloadFormatIndicator(value) => Property::PayloadFormatIndicator(*value),
                PropertyTemplate::ContentType(template) => {
                    Property::ContentType(rendered("content_type", template)?)
                }
                PropertyTemplate::ResponseTopic(template) => {
                    let topic = rendered("response_topic", template)?;
                    TopicName::parse(topic.as_str()).map_err(|error| format!("response_topic: {error}"))?;
                    Property::ResponseTopic(topic)
                }
                PropertyTemplate::CorrelationData(template) => {
                    let data = rendered("correlation_data", template)?;
                    Property::CorrelationData(Bytes::copy_from_slice(data.as_str().as_bytes()))
                }
                PropertyTemplate::User(name, template) => Property::UserProperty(
                    text("user", name.clone())?,
                    rendered(&format!("user {name}"), template)?,
                ),
            });
        }
        Ok(properties)
    }
}
