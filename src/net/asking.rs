//! What a thread that moves messages asks about each: mocks, which may keep it, then webhooks, which are told of what
//! is routed, and the journal, which has all.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    JournalHandle, MockHandle, WebhookHandle, WebhookMatcher, journal::JournalWriter, mocks::MockAsker,
};
use crate::{
    interceptor::{Interception, Interceptor, Interest, Offered, Party, Publisher, Run, Verdict},
    mock::Occasion,
    recording::is_replay,
    session::{ConnectionId, Payload},
    trace::{TraceContext, Traced, Tracer},
    webhook::RoutedMessage,
};

/// Makes the [`Interception`] of each thread that moves messages.
#[derive(Clone)]
pub struct Asking {
    /// What `mocks` and `webhooks` were made with.
    pub interest: Interest,
    pub mocks: MockHandle,
    pub webhooks: WebhookHandle,
    /// Makes who is told of messages that have a place in a trace.
    pub tracer: Option<Arc<TracerMaker>>,
    pub journal: JournalHandle,
}

pub type TracerMaker = dyn Fn() -> Option<Box<dyn Tracer>> + Send + Sync;

impl Asking {
    /// A thread asks this about each message that it is about to route or to pass on, as the proxy `via` or the server itself.
    pub fn interception(&self, via: Option<Arc<str>>) -> Interception {
        Interception::new(Box::new(self.asker(via, None)), self.interest.clone())
    }

    /// The same for a thread of relays, which tells of messages that have a place in a trace, too.
    pub fn of_relays(&self, via: Option<Arc<str>>) -> Interception {
        let tracer = self.tracer.as_ref().and_then(|tracer| tracer());
        Interception::new(Box::new(self.asker(via, tracer)), self.interest.clone()).with_traces()
    }

    fn asker(&self, via: Option<Arc<str>>, tracer: Option<Box<dyn Tracer>>) -> Asker {
        Asker {
            interest: self.interest.clone(),
            tracer,
            mocks: self.mocks.asker(via),
            webhooks: self.webhooks.matcher(),
            journal: (!self.journal.is_off()).then(|| self.journal.writer()),
        }
    }
}

/// One thread's.
struct Asker {
    interest: Interest,
    mocks: MockAsker,
    webhooks: WebhookMatcher,
    tracer: Option<Box<dyn Tracer>>,
    journal: Option<JournalWriter>,
}

impl Interceptor for Asker {
    fn ask(&mut self, now: Instant, offered: &Offered<'_>) -> Verdict {
        self.ask_for(now, None, offered)
    }

    fn ask_ahead(&mut self, now: Instant, connection: ConnectionId, offered: &Offered<'_>) -> Verdict {
        self.ask_for(now, Some(connection), offered)
    }

    fn passed(&mut self, connection: ConnectionId) {
        self.mocks.passed(connection);
    }

    fn pass(&mut self, now: Instant, run: &Run<'_>) {
        if let Some(journal) = &mut self.journal {
            journal.note_run(now, run);
        }
    }

    fn settle(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.settle();
        }
    }
}

impl Asker {
    fn ask_for(&mut self, now: Instant, holder: Option<ConnectionId>, offered: &Offered<'_>) -> Verdict {
        let verdict = match self.interest.has(Party::Mocks) {
            true => self.mocks.ask(now, holder, offered),
            false => Verdict::Route,
        };
        let is_routed = verdict == Verdict::Route || !offered.may_be_kept;
        if is_routed && self.interest.has(Party::Webhooks) {
            self.webhooks.offer(offered.topic, || routed(offered));
        }
        if is_routed && self.interest.has(Party::Traces) {
            self.trace(now, offered);
        }
        if let Some(journal) = &mut self.journal {
            journal.note(now, offered, verdict);
        }
        verdict
    }

    fn trace(&mut self, now: Instant, offered: &Offered<'_>) {
        let Some(tracer) = &mut self.tracer else { return };
        let Some(context) = TraceContext::of_encoded(offered.properties) else { return };
        let client_identifier = match offered.from {
            Publisher::Client { identifier, .. } => identifier,
            Publisher::Synthetic { .. } => "",
        };
        tracer.routed(&Traced {
            context,
            topic: offered.topic,
            client_identifier,
            qos: offered.qos,
            retain: offered.retain,
            payload_size: offered.payload.as_bytes().len(),
            receivers: None,
            at: now,
        });
    }
}

/// What webhooks see of a message. Nothing of it is a slice of a read buffer, which one that waits must not keep alive.
pub(super) fn routed(offered: &Offered<'_>) -> RoutedMessage {
    let mut occasion = occasion(offered);
    if let Payload::Shared(bytes) = offered.payload {
        occasion.payload = Bytes::copy_from_slice(bytes);
    }
    RoutedMessage { occasion, at: Timestamp::now() }
}

/// What mocks see of a message.
pub(super) fn occasion(offered: &Offered<'_>) -> Occasion {
    let payload = match offered.payload {
        Payload::Copied(bytes) => Bytes::copy_from_slice(bytes),
        Payload::Shared(bytes) => bytes.clone(),
    };
    let (client_identifier, username, synthetic) = match offered.from {
        Publisher::Client { identifier, username } => {
            (identifier, username, is_replay(identifier).then_some(0))
        }
        Publisher::Synthetic { depth } => ("", None, Some(depth)),
    };
    Occasion {
        topic: offered.topic.to_owned(),
        payload,
        qos: offered.qos,
        retain: offered.retain,
        properties: offered.properties(),
        client_identifier: client_identifier.to_owned(),
        username: username.map(str::to_owned),
        synthetic,
        via: None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::{
        net::{MockOptions, WebhookOptions},
        packet::QoS,
    };

    fn asking() -> Asking {
        let interest = Interest::default();
        let mocks = MockOptions { interest: interest.clone(), ..MockOptions::default() };
        let mocks = MockHandle::new(mocks, Box::new(|_| {}));
        let webhooks = WebhookHandle::start(WebhookOptions {
            template_steps: 1_000_000,
            runtime: Handle::current(),
            environment: Default::default(),
            folder: Default::default(),
            state: mocks.shared_state(),
            seed: 1,
            queue_bytes: 16 << 20,
            interest: interest.clone(),
            on_event: Box::new(|_| {}),
        });
        Asking { interest, mocks, webhooks, journal: JournalHandle::off(), tracer: None }
    }

    fn spec<T: serde::de::DeserializeOwned>(json: &str) -> T {
        serde_json::from_str(json).expect("a spec")
    }

    /// Nothing is sent, as nothing is awaited: what waits is what was offered.
    #[tokio::test]
    async fn webhooks_are_offered_what_goes_on_and_nobody_is_asked_unless_somebody_wants_to_be() {
        let asking = asking();
        let mut interception = asking.interception(None);
        let mut ask = |topic: &str, may_be_kept| {
            interception.is_active().then(|| {
                let offered = Offered {
                    topic,
                    payload: Payload::Copied(b"x"),
                    qos: QoS::AtMostOnce,
                    retain: false,
                    properties: &[],
                    expiry: None,
                    from: Publisher::Client { identifier: "dev", username: None },
                    is_will: false,
                    may_be_kept,
                };
                interception.ask(Instant::now(), &offered)
            })
        };
        let queued = || asking.webhooks.get("h").expect("it is there").queued;
        assert_eq!(ask("a", true), None);
        let webhook = r#"{"id":"h","topic":"a","url":"http://127.0.0.1:9/"}"#;
        asking.webhooks.create(spec(webhook)).expect("a good spec");
        assert_eq!(
            (ask("a", true), ask("b", true), queued()),
            (Some(Verdict::Route), Some(Verdict::Route), 1)
        );
        // With webhooks alone, nobody looks for mocks that nearly matched.
        assert!(asking.mocks.unmatched(None).is_empty());

        asking.mocks.create(spec(r#"{"topic":"a","route":false}"#)).expect("a good spec");
        assert_eq!((ask("a", true), queued()), (Some(Verdict::Intercept), 1));
        assert_eq!((ask("a", false), queued()), (Some(Verdict::Intercept), 2));

        let disabled = r#"{"topic":"a","url":"http://127.0.0.1:9/","enabled":false}"#;
        asking.webhooks.update("h", spec(disabled)).expect("a good spec");
        assert_eq!((ask("a", false), queued()), (Some(Verdict::Intercept), 2));
        asking.mocks.delete("mock-1").expect("it is there");
        assert_eq!(ask("a", true), None);
    }
}
