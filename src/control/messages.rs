//! The rpcs of `Verification`: waiting for messages, judging, counting and finding them.

use std::time::Duration;

use prost::Message;

use super::{
    Control, ControlError,
    broker::unchecked,
    fields::Fields,
    mocks::{condition, shown_condition},
    page::{Filling, NO_TOKEN, PageRequest},
    pb, properties, time,
};
use crate::{
    field::BadField,
    journal::{
        Count, CountBounds, CountSpec, Expectation, JournalEntry, MatchSpec, MessageMatch, MessageOrigin,
        Nearness, OneOrMoreTopics, Origins,
    },
    mock::WhenSpec,
    net::{ENTRIES_MAX, JournalHandle, Seen, Verified, Waited},
};

/// Of a wait that says nothing else.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whoever waits for longer can ask again, from where the answer says.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

const EXPECTATIONS_MAX: usize = 1_000;

/// Encoded bytes of all that came near, in one answer.
const NEAREST_BYTES: usize = 512 << 10;

impl Control {
    /// What passed through the server.
    ///
    /// # Errors
    /// That there is no server, or that it keeps none.
    pub fn journal(&self) -> Result<&JournalHandle, ControlError> {
        self.server()?;
        self.parts().journal.as_ref().filter(|journal| !journal.is_off()).ok_or(ControlError::NoJournal)
    }

    pub async fn wait_for_messages(
        &self,
        request: pb::WaitForMessagesRequest,
    ) -> Result<pb::WaitForMessagesResponse, ControlError> {
        let mut fields = Fields::new();
        let meant = meant(&mut fields, "match", request.r#match);
        let limit = fields.duration("timeout", request.timeout.as_ref()).unwrap_or(TIMEOUT);
        if limit > TIMEOUT_MAX {
            fields.refuse("timeout", format_args!("is at most {} s", TIMEOUT_MAX.as_secs()));
        }
        fields.finish()?;
        let meant = meant.ok_or_else(unchecked)?;
        let count = Count::at_least(request.count.unwrap_or(1));
        let journal = self.journal()?;
        let waited = tokio::select! {
            waited = journal.wait(&meant, count, limit, request.since) => waited?,
            () = self.stop().cancelled() => return Err(ControlError::Stopping),
        };
        let Waited { is_satisfied, found, entries, nearest, seen: Seen { cursor, missed } } = waited;
        let (mut messages, mut nearest_bytes) = (Filling::new(ENTRIES_MAX), NEAREST_BYTES);
        entries.into_iter().all(|entry| messages.take(shown_entry(journal, entry)));
        Ok(pb::WaitForMessagesResponse {
            satisfied: is_satisfied,
            found,
            messages: messages.into_items(),
            nearest: shown_nearest(journal, nearest, &mut nearest_bytes),
            cursor,
            missed,
            text: format!("expected {count}, found {found}"),
        })
    }

    pub async fn verify(&self, request: pb::VerifyRequest) -> Result<pb::VerifyResponse, ControlError> {
        let mut fields = Fields::new();
        let given = request.expectations.len();
        if !(1..=EXPECTATIONS_MAX).contains(&given) {
            fields.refuse("expectations", format_args!("has 1 to {EXPECTATIONS_MAX} entries, not {given}"));
            fields.finish()?;
            return Err(unchecked());
        }
        let mut expectations = Vec::with_capacity(given);
        for (index, expectation) in request.expectations.into_iter().enumerate() {
            let path = format!("expectations[{index}]");
            let meant = meant(&mut fields, &format!("{path}.match"), expectation.r#match);
            let count = count(&mut fields, &format!("{path}.count"), expectation.count);
            expectations.extend(meant.zip(count).map(|(meant, count)| Expectation { meant, count }));
        }
        fields.finish()?;
        let journal = self.journal()?;
        let (verified, Seen { cursor, missed }) =
            journal.verify(expectations, request.ordered, request.since).await;
        let mut nearest_bytes = NEAREST_BYTES;
        let shown = |Verified { judgement, entries, nearest }: Verified| pb::MessageVerdict {
            passed: judgement.has_passed,
            found: judgement.found,
            text: judgement.text,
            messages: entries.into_iter().map(|entry| shown_entry(journal, entry)).collect(),
            nearest: shown_nearest(journal, nearest, &mut nearest_bytes),
        };
        let verdicts: Vec<_> = verified.into_iter().map(shown).collect();
        let passed = verdicts.iter().all(|verdict| verdict.passed);
        Ok(pb::VerifyResponse { passed, verdicts, cursor, missed })
    }

    pub async fn count(&self, request: pb::CountRequest) -> Result<pb::CountResponse, ControlError> {
        let mut fields = Fields::new();
        let meant = meant(&mut fields, "match", request.r#match);
        fields.finish()?;
        let meant = meant.ok_or_else(unchecked)?;
        let (count, Seen { cursor, missed }) = self.journal()?.count(meant, request.since).await;
        Ok(pb::CountResponse { count, cursor, missed })
    }

    pub async fn find(&self, request: pb::FindRequest) -> Result<pb::FindResponse, ControlError> {
        let list = if request.newest_first { "newest messages" } else { "messages" };
        let page = PageRequest::new(list, request.page_size, &request.page_token)?;
        let mut fields = Fields::new();
        let meant = meant(&mut fields, "match", request.r#match);
        let place = page.after().map(|token| fields.keep("page_token", token.parse().map_err(|_| NO_TOKEN)));
        fields.finish()?;
        let (meant, place) = (meant.ok_or_else(unchecked)?, place.flatten());
        let journal = self.journal()?;
        // The token says where to go on: behind what was sent, or before it.
        let (since, until) = match request.newest_first {
            true => (request.since, place),
            false => (place.or(request.since), None),
        };
        let found = journal.find(meant, since, until, page.size(), request.newest_first).await;
        let (mut messages, mut next) = (page.begin(), found.next);
        for entry in found.entries {
            let behind = if request.newest_first { entry.sequence + 1 } else { entry.sequence };
            if !messages.take(shown_entry(journal, entry)) {
                next = Some(behind);
                break;
            }
        }
        Ok(pb::FindResponse {
            messages: messages.into_items(),
            next_page_token: next.map(|next| page.token(&next.to_string())).unwrap_or_default(),
            cursor: found.seen.cursor,
            missed: found.seen.missed,
        })
    }
}

/// Checks which messages are meant; absent: all.
pub fn meant(fields: &mut Fields, path: &str, from: Option<pb::MessageMatch>) -> Option<MessageMatch> {
    let from = from.unwrap_or_default();
    let origins = fields.choices::<pb::MessageOrigin>(&format!("{path}.origin"), &from.origin);
    let no_paths: Vec<String> = from.payload.keys().filter(|key| !key.starts_with('$')).cloned().collect();
    let WhenSpec { client, qos, retain, mut payload, user, .. } = condition(
        fields,
        path,
        pb::MockCondition {
            client: from.client,
            qos: from.qos,
            retain: from.retain,
            payload: from.payload,
            payload_text: from.payload_text,
            user: from.user,
            ..Default::default()
        },
    );
    if let serde_json::Value::Object(tests) = &mut payload {
        // It was told of them already.
        tests.retain(|key, _| !no_paths.contains(key));
    }
    let spec = MatchSpec {
        topic: (!from.topic.is_empty()).then_some(OneOrMoreTopics::More(from.topic)),
        client,
        qos,
        retain,
        payload,
        payload_regex: from.payload_regex,
        user,
        origin: (!origins.is_empty()).then(|| Origins::More(origins.into_iter().map(origin).collect())),
    };
    match MessageMatch::new(&spec) {
        Ok(meant) => Some(meant),
        Err(bad) => {
            for BadField { path: part, what } in bad {
                // Here the tests of the whole have a field of their own.
                let part = match part.strip_prefix("payload.") {
                    Some(test) if !test.starts_with('$') => format!("payload_text.{test}"),
                    _ => part,
                };
                fields.refuse(format!("{path}.{part}"), what);
            }
            None
        }
    }
}

/// Which messages are meant, as the proto says it.
pub fn match_message(spec: MatchSpec) -> pb::MessageMatch {
    let MatchSpec { topic, client, qos, retain, payload, payload_regex, user, origin } = spec;
    let shown = shown_condition(WhenSpec { client, qos, retain, payload, user, ..WhenSpec::default() });
    pb::MessageMatch {
        topic: topic.map(|topics| topics.as_slice().to_vec()).unwrap_or_default(),
        client: shown.client,
        qos: shown.qos,
        retain: shown.retain,
        payload: shown.payload,
        payload_text: shown.payload_text,
        payload_regex,
        user: shown.user,
        origin: origin
            .iter()
            .flat_map(Origins::as_slice)
            .map(|&origin| shown_origin(origin).into())
            .collect(),
    }
}

/// Checks how many there have to be; absent: at least one.
pub fn count(fields: &mut Fields, path: &str, from: Option<pb::CountBounds>) -> Option<Count> {
    let spec = from.map_or_else(CountSpec::default, |pb::CountBounds { eq, gte, gt, lte, lt }| {
        CountSpec::Within(CountBounds { eq, gte, gt, lte, lt })
    });
    match Count::new(spec) {
        Ok(count) => Some(count),
        Err(bad) => {
            for BadField { path: part, what } in bad {
                let dot = if part.is_empty() { "" } else { "." };
                fields.refuse(format!("{path}{dot}{part}"), what);
            }
            None
        }
    }
}

/// The same, as the proto says it.
pub fn count_message(spec: CountSpec) -> pb::CountBounds {
    match spec {
        CountSpec::Exactly(number) => pb::CountBounds { eq: Some(number), ..Default::default() },
        CountSpec::Within(CountBounds { eq, gte, gt, lte, lt }) => pb::CountBounds { eq, gte, gt, lte, lt },
    }
}

fn origin(origin: pb::MessageOrigin) -> MessageOrigin {
    match origin {
        pb::MessageOrigin::Unspecified | pb::MessageOrigin::Client => MessageOrigin::Client,
        pb::MessageOrigin::Will => MessageOrigin::Will,
        pb::MessageOrigin::Api => MessageOrigin::Api,
        pb::MessageOrigin::Mock => MessageOrigin::Mock,
        pb::MessageOrigin::Replay => MessageOrigin::Replay,
    }
}

fn shown_origin(origin: MessageOrigin) -> pb::MessageOrigin {
    match origin {
        MessageOrigin::Client => pb::MessageOrigin::Client,
        MessageOrigin::Will => pb::MessageOrigin::Will,
        MessageOrigin::Api => pb::MessageOrigin::Api,
        MessageOrigin::Mock => pb::MessageOrigin::Mock,
        MessageOrigin::Replay => pb::MessageOrigin::Replay,
    }
}

fn shown_entry(journal: &JournalHandle, entry: JournalEntry) -> pb::JournalMessage {
    pb::JournalMessage {
        sequence: entry.sequence,
        at: Some(time::timestamp(journal.time_of(&entry))),
        topic: entry.topic,
        payload: entry.payload,
        qos: u8::from(entry.qos).into(),
        retain: entry.retain,
        properties: properties::shown(&entry.properties),
        client_id: entry.client_identifier,
        origin: shown_origin(entry.origin).into(),
        intercepted: entry.is_kept,
    }
}

/// As many as the answer has bytes left for.
fn shown_nearest(
    journal: &JournalHandle,
    nearest: Vec<(Nearness, JournalEntry)>,
    bytes_left: &mut usize,
) -> Vec<pb::NearMiss> {
    let shown = nearest.into_iter().map(|(Nearness { score, differences }, entry)| pb::NearMiss {
        payload_size: entry.payload_len as u64,
        message: Some(shown_entry(journal, entry)),
        differences,
        score,
    });
    shown
        .take_while(|near| match bytes_left.checked_sub(near.encoded_len()) {
            Some(left) => {
                *bytes_left = left;
                true
            }
            None => false,
        })
        .collect()
}
