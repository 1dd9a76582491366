//! What passed through the server: waiting for it, counting it, looking for it.

use std::{fmt, time::Duration};

use crate::{
    control::ControlError,
    field::BadField,
    journal::{
        Count, CountSpec, Expectation, ExpectationSpec, JournalEntry, MatchSpec, MessageMatch, Nearness,
        beginning,
    },
    net::Waited,
    server::running::Link,
};

/// At most so many messages are answered at a time.
const FOUND_MAX: usize = 1000;

/// Bytes of a payload that are shown.
const SHOWN_MAX: usize = 200;

/// Messages that passed through a running server: what clients published, it itself, mocks and replays.
///
/// Which ones are meant is a Topic Filter, or a [`MatchSpec`] with whatever else has to hold. A message is there before its
/// publisher is answered, so nothing that happened before a wait is missed, and nothing that happens in between.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use mockforge::{Server, journal::MatchSpec};
/// use serde_json::json;
///
/// let server = Server::builder().start().await?;
/// let messages = server.messages();
/// // … a device publishes; here it is the server itself …
/// server.publish("devices/d1/state", r#"{"on":true,"v":7}"#).await?;
///
/// let state = messages.wait_for("devices/+/state", Duration::from_secs(5)).await?;
/// assert_eq!(state.topic, "devices/d1/state");
///
/// let high = MatchSpec { payload: json!({"$.v": {"gt": 5}}), ..MatchSpec::from("devices/#") };
/// assert_eq!(messages.count(high.clone()).await?, 1);
/// messages.expect(high, 1).await?; // or an error that says what came instead
/// messages.clear()?;
/// assert!(messages.find("#").await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Messages {
    link: Link,
}

/// Why messages are not what was expected. Its `Debug` is its text, which is what a test that ends with it prints.
#[derive(thiserror::Error)]
pub enum MessagesError {
    /// What is meant makes no sense; by field.
    #[error("{}", BadField::listed(.0))]
    Bad(Vec<BadField>),
    /// For people, with what came nearest.
    #[error("{0}")]
    Unexpected(Unexpected),
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl fmt::Debug for MessagesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What came instead of what was expected.
#[derive(Clone, Debug)]
pub struct Unexpected {
    /// In words: `expected at least 1 message, found 0`.
    pub text: String,
    /// How many came that were meant.
    pub found: u64,
    /// Some of those.
    pub came: Vec<JournalEntry>,
    /// Of those that were not, the nearest, and what is otherwise with each.
    pub nearest: Vec<(Nearness, JournalEntry)>,
    /// Messages that were gone before they could be looked at: `journal.messages` is how many are kept.
    pub missed: u64,
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        for entry in &self.came {
            write!(f, "\n  came: {}", Shown(entry))?;
        }
        for (nearness, entry) in &self.nearest {
            write!(f, "\n  near: {}", Shown(entry))?;
            for difference in &nearness.differences {
                write!(f, "\n    {difference}")?;
            }
        }
        if self.missed > 0 {
            write!(f, "\n  {} messages before were not kept (journal.messages)", self.missed)?;
        }
        Ok(())
    }
}

/// `#3 alarms/3 {"level":3} from "dev-1"`, or of whom else.
struct Shown<'a>(&'a JournalEntry);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JournalEntry { sequence, topic, payload, client_identifier, origin, .. } = self.0;
        let text = String::from_utf8_lossy(payload);
        let text = beginning(&text, SHOWN_MAX);
        write!(f, "#{sequence} {topic} {text} from ")?;
        match client_identifier.as_str() {
            "" => f.write_str(origin.name()),
            client => write!(f, "{client:?}"),
        }
    }
}

impl Messages {
    pub(in crate::server) fn new(link: Link) -> Self {
        Self { link }
    }

    /// The first such message that there is, or that comes within `limit`.
    ///
    /// # Errors
    /// [`MessagesError::Unexpected`] when none came, with the nearest that did.
    pub async fn wait_for(
        &self,
        meant: impl Into<MatchSpec>,
        limit: Duration,
    ) -> Result<JournalEntry, MessagesError> {
        let found = self.wait_for_count(meant, 1, None, limit).await?;
        let first = found.into_iter().next();
        first.ok_or_else(|| ControlError::Internal("a message that came was not kept".to_owned()).into())
    }

    /// The first such messages, `count` of them or more, from those that have the sequence number `since` on; without it all
    /// that there are. [`cursor`](Self::cursor) is what to say before something that is to lead to them.
    ///
    /// # Errors
    /// [`MessagesError::Unexpected`] when fewer came within `limit`, with the nearest that did.
    pub async fn wait_for_count(
        &self,
        meant: impl Into<MatchSpec>,
        count: u64,
        since: Option<u64>,
        limit: Duration,
    ) -> Result<Vec<JournalEntry>, MessagesError> {
        let meant = meant_by(meant)?;
        let topics: Vec<String> = meant.topics().iter().map(ToString::to_string).collect();
        let count = Count::at_least(count.max(1));
        let waited = self
            .link
            .ask(move |control| async move {
                let stop = control.stop().clone();
                tokio::select! {
                    waited = control.journal()?.wait(&meant, count, limit, since) => Ok(waited?),
                    () = stop.cancelled() => Err(ControlError::Stopping),
                }
            })
            .await?;
        let Waited { is_satisfied, found, entries, nearest, seen } = waited;
        if is_satisfied {
            return Ok(entries);
        }
        let on = if topics.is_empty() { String::new() } else { format!(" on {}", topics.join(", ")) };
        let text = format!("expected {count}{on} within {limit:?}, found {found}");
        Err(MessagesError::Unexpected(Unexpected {
            text,
            found,
            came: entries,
            nearest,
            missed: seen.missed,
        }))
    }

    /// Whether so many such messages came up to now: a number, or bounds.
    ///
    /// # Errors
    /// [`MessagesError::Unexpected`] when it were fewer, or more.
    pub async fn expect(
        &self,
        meant: impl Into<MatchSpec>,
        count: impl Into<CountSpec>,
    ) -> Result<(), MessagesError> {
        let spec = ExpectationSpec { meant: meant.into(), count: count.into() };
        let expectation = Expectation::new(&spec)
            .map_err(|checks| MessagesError::Bad(checks.finish().err().unwrap_or_default()))?;
        let (mut verified, seen) =
            self.link
                .ask(move |control| async move {
                    Ok(control.journal()?.verify(vec![expectation], false, None).await)
                })
                .await?;
        let verified = verified.swap_remove(0);
        if verified.judgement.has_passed {
            return Ok(());
        }
        Err(MessagesError::Unexpected(Unexpected {
            text: verified.judgement.text,
            found: verified.judgement.found,
            came: verified.entries,
            nearest: verified.nearest,
            missed: seen.missed,
        }))
    }

    /// How many such messages there are.
    ///
    /// # Errors
    /// What is meant makes no sense.
    pub async fn count(&self, meant: impl Into<MatchSpec>) -> Result<u64, MessagesError> {
        let meant = meant_by(meant)?;
        let counted =
            self.link.ask(|control| async move { Ok(control.journal()?.count(meant, None).await.0) });
        Ok(counted.await?)
    }

    /// Such messages in the order they came, up to 1,000.
    ///
    /// # Errors
    /// What is meant makes no sense.
    pub async fn find(&self, meant: impl Into<MatchSpec>) -> Result<Vec<JournalEntry>, MessagesError> {
        let meant = meant_by(meant)?;
        let found = self.link.ask(|control| async move {
            Ok(control.journal()?.find(meant, None, None, FOUND_MAX, false).await.entries)
        });
        Ok(found.await?)
    }

    /// The sequence number that the next message gets.
    ///
    /// # Errors
    /// When the server keeps no messages (`journal.messages` is 0).
    pub fn cursor(&self) -> Result<u64, ControlError> {
        Ok(self.link.control().journal()?.cursor())
    }

    /// Forgets all messages; how many there were.
    ///
    /// # Errors
    /// As [`cursor`](Self::cursor).
    pub fn clear(&self) -> Result<u64, ControlError> {
        Ok(self.link.control().journal()?.reset())
    }
}

fn meant_by(spec: impl Into<MatchSpec>) -> Result<MessageMatch, MessagesError> {
    MessageMatch::new(&spec.into()).map_err(MessagesError::Bad)
}
