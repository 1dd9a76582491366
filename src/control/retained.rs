//! The rpcs of `Broker` about topics, and what they have retained.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Control, ControlError,
    fields::Fields,
    page::{Filling, PageRequest},
    pb, properties, time,
};
use crate::{
    broker::RetainedView,
    net::TopicFigures,
    packet::{Properties, TopicFilter, TopicName},
};

/// Topics that the broker hands over between two packets, some ten microseconds.
const LOOKS: usize = 1000;

impl Control {
    pub async fn list_retained(
        &self,
        request: pb::ListRetainedRequest,
    ) -> Result<pb::ListRetainedResponse, ControlError> {
        let mut fields = Fields::new();
        let filters = fields.filters("filter", &request.filter);
        fields.finish()?;
        let page = PageRequest::new("retained", request.page_size, &request.page_token)?;
        let mut after = page.after().map(str::to_owned);
        let mut messages = page.begin::<pb::RetainedMessage>();
        let answer = |messages: Filling<_>, next_page_token| pb::ListRetainedResponse {
            messages: messages.into_items(),
            next_page_token,
        };
        loop {
            let (views, more) = self.server()?.retained_after(after.clone(), LOOKS).await?;
            let now = Instant::now();
            let Some(last) = views.last().and_then(topic) else {
                return Ok(answer(messages, String::new()));
            };
            after = Some(last.as_str().to_owned());
            let meant = views.iter().filter(|view| {
                !view.message.is_expired(now) && topic(view).is_some_and(|topic| is_meant(&filters, &topic))
            });
            for view in meant {
                if !messages.take(shown(view, request.skip_payloads, now)) {
                    let next = messages.last().map(|last| page.token(&last.topic)).unwrap_or_default();
                    return Ok(answer(messages, next));
                }
            }
            if !more {
                return Ok(answer(messages, String::new()));
            }
        }
    }

    pub async fn list_topics(
        &self,
        request: pb::ListTopicsRequest,
    ) -> Result<pb::ListTopicsResponse, ControlError> {
        let mut fields = Fields::new();
        let filters = fields.filters("filter", &request.filter);
        fields.finish()?;
        let page = PageRequest::new("topics", request.page_size, &request.page_token)?;
        let after = page.after().map(by_level);
        self.server()?;
        let (passed, missed) = match self.journal() {
            Ok(journal) => {
                let filters = filters.clone();
                journal
                    .topics(move |topic| {
                        TopicName::parse(topic).is_ok_and(|topic| is_meant(&filters, &topic))
                    })
                    .await
            }
            Err(_) => Default::default(),
        };
        let mut topics: BTreeMap<String, pb::Topic> = passed
            .into_iter()
            .map(|(topic, figures)| (by_level(&topic), passed_topic(topic, figures)))
            .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after))
            .collect();
        for (topic, payload_size) in self.retained_topics(&filters, &page).await? {
            let entry = topics.entry(by_level(&topic)).or_insert(pb::Topic {
                topic,
                payload_size,
                ..Default::default()
            });
            entry.retained = true;
        }
        let mut listed = page.begin::<pb::Topic>();
        let more = !topics.into_values().all(|topic| listed.take(topic));
        let next = listed.last().filter(|_| more).map(|last| page.token(&last.topic));
        let next_page_token = next.unwrap_or_default();
        Ok(pb::ListTopicsResponse { topics: listed.into_items(), next_page_token, missed })
    }

    /// The first topics of a page that have something retained, one more than it holds, with the sizes of payloads.
    async fn retained_topics(
        &self,
        filters: &[TopicFilter],
        page: &PageRequest,
    ) -> Result<Vec<(String, u64)>, ControlError> {
        let (mut after, mut found) = (page.after().map(str::to_owned), Vec::new());
        loop {
            let (views, more) = match self.server()?.retained_after(after, LOOKS).await {
                Err(ControlError::NoBroker(_)) => return Ok(found),
                answer => answer?,
            };
            let now = Instant::now();
            let Some(last) = views.last().and_then(topic) else { return Ok(found) };
            for view in views.iter().filter(|view| !view.message.is_expired(now)) {
                if let Some(topic) = topic(view).filter(|topic| is_meant(filters, topic)) {
                    let size = view.message.as_message().payload.as_bytes().len() as u64;
                    found.push((topic.as_str().to_owned(), size));
                }
            }
            if !more || found.len() > page.size() {
                return Ok(found);
            }
            after = Some(last.as_str().to_owned());
        }
    }

    pub async fn delete_retained(
        &self,
        request: pb::DeleteRetainedRequest,
    ) -> Result<pb::DeleteRetainedResponse, ControlError> {
        let mut fields = Fields::new();
        if request.filter.is_empty() {
            fields.refuse("filter", "is required");
        }
        let filters = fields.filters("filter", &request.filter);
        fields.finish()?;
        let (mut after, mut deleted) = (None, 0);
        loop {
            let server = self.server()?;
            let (views, more) = server.retained_after(after, LOOKS).await?;
            let topics: Vec<TopicName> = views.iter().filter_map(topic).collect();
            let Some(last) = topics.last() else { break };
            after = Some(last.as_str().to_owned());
            let meant: Vec<_> = topics.into_iter().filter(|topic| is_meant(&filters, topic)).collect();
            if !meant.is_empty() {
                deleted += server.forget_retained(meant).await? as u64;
            }
            if !more {
                break;
            }
        }
        Ok(pb::DeleteRetainedResponse { deleted })
    }
}

/// A key that sorts topics level by level, as retained messages are.
fn by_level(topic: &str) -> String {
    topic.replace('/', "\0")
}

fn passed_topic(topic: String, figures: TopicFigures) -> pb::Topic {
    pb::Topic {
        topic,
        retained: false,
        messages: figures.messages,
        payload_size: figures.payload_size,
        last_at: figures.last_at.map(time::timestamp),
        client_id: figures.client_identifier,
    }
}

fn is_meant(filters: &[TopicFilter], topic: &TopicName) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.matches(topic))
}

fn topic(view: &RetainedView) -> Option<TopicName> {
    TopicName::parse(std::str::from_utf8(view.message.as_message().topic).ok()?).ok()
}

fn shown(view: &RetainedView, skip_payload: bool, now: Instant) -> pb::RetainedMessage {
    let message = view.message.as_message();
    let payload = message.payload.as_bytes();
    let left = view.message.expires_at().map(|at| {
        let left = at.saturating_duration_since(now).as_millis().div_ceil(1000);
        time::duration(Duration::from_secs(u64::try_from(left).unwrap_or(u64::MAX)))
    });
    let mut shown = properties::shown(&Properties::of_publish(message.properties));
    if left.is_some() {
        shown.get_or_insert_default().message_expiry_interval = left;
    }
    pb::RetainedMessage {
        topic: String::from_utf8_lossy(message.topic).into_owned(),
        payload_size: payload.len() as u64,
        payload: if skip_payload { Bytes::new() } else { Bytes::copy_from_slice(payload) },
        qos: message.qos as u32,
        properties: shown,
        client_id: view.publisher.as_deref().unwrap_or_default().to_owned(),
    }
}
