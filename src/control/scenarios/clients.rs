//! Steps that clients do: connect, subscribe, publish, and see what is expected.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::atomic::Ordering,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::runner::{Outcome, Passes, Runner};
use crate::{
    amount::counted,
    net::{ClientError, CrowdError, MemberOptions, Receipt},
    scenario::{
        DisconnectMode, Expectation, Judge, Listener, PublishStep, Rendering, Scenario, Selected, Speaker,
        SubscribeStep, UnsubscribeStep, identifiers,
    },
};

/// Clients that are told of by name where something went wrong with several.
const NAMED_MAX: usize = 3;

/// Acknowledgements of one client that are waited for later.
const RECEIPTS_MAX: usize = 1_000;

impl Runner {
    fn members(&self, clients: Selected) -> Range<usize> {
        let first = self.firsts[clients.group];
        match clients.member {
            Some(i) => {
                let one = first + i as usize - 1;
                one..one + 1
            }
            None => first..first + self.scenario.groups[clients.group].count as usize,
        }
    }

    fn speaker(&self, clients: Selected, member: usize, n: u64, pass: u64) -> Speaker<'_> {
        let group = &self.scenario.groups[clients.group];
        Speaker {
            client: &group.name,
            client_id: self.crowd.client_id(member),
            i: u32::try_from(member - self.firsts[clients.group] + 1).unwrap_or(u32::MAX),
            n,
            pass,
        }
    }

    /// When a client begins, of those that begin spread over a time.
    fn begins(&self, clients: Selected, member: usize, key: &str, spread: Duration) -> Instant {
        let draws = self.rendering.draws(key).of("spread").of(&self.scenario.groups[clients.group].name);
        let mut draws = draws.nth((member - self.firsts[clients.group]) as u64);
        Instant::now() + spread.mul_f64(draws.fraction())
    }

    /// Has each of the clients do something; what went wrong with which.
    async fn each<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        clients: Selected,
        act: impl Fn(usize) -> F,
    ) -> Each<T> {
        let mut each = Each { done: Vec::new(), clients: 0, troubles: Vec::new(), troubled: 0 };
        let mut going: FuturesUnordered<_> = self
            .members(clients)
            .map(|member| {
                let act = act(member);
                async move { (member, act.await) }
            })
            .collect();
        while let Some((member, outcome)) = going.next().await {
            each.clients += 1;
            match outcome {
                Ok(done) => each.done.push(done),
                Err(trouble) => {
                    if trouble.is_unreachable {
                        self.was_unreachable.store(true, Ordering::Relaxed);
                    }
                    each.troubled += 1;
                    if each.troubles.len() < NAMED_MAX {
                        let name = self.crowd.name(member);
                        each.troubles.push(format!("{name}: {}", trouble.text));
                    }
                }
            }
        }
        each
    }

    pub async fn connect(&self, clients: Selected, key: &str, spread: Duration, within: Duration) -> Outcome {
        let each = self.each(clients, |member| {
            let begins = self.begins(clients, member, key, spread);
            async move {
                sleep_until(begins).await;
                Ok(self.crowd.connect(member, begins + within).await?)
            }
        });
        let each = each.await;
        let connected = each.done.iter().filter(|is_new| **is_new).count() as u64;
        each.outcome(|| format!("{} connected", counted(connected, "client")))
    }

    pub async fn disconnect(
        &self,
        clients: Selected,
        key: &str,
        mode: DisconnectMode,
        spread: Duration,
    ) -> Outcome {
        let each = self.each(clients, |member| {
            let begins = self.begins(clients, member, key, spread);
            async move {
                sleep_until(begins).await;
                Ok(self.crowd.disconnect(member, mode).await)
            }
        });
        let each = each.await;
        let left = each.done.iter().filter(|was_connected| **was_connected).count() as u64;
        each.outcome(|| format!("{} disconnected", counted(left, "client")))
    }

    pub async fn subscribe(
        &self,
        clients: Selected,
        key: &str,
        passes: &Passes,
        step: &SubscribeStep,
    ) -> Outcome {
        let each = self.each(clients, |member| async move {
            let deadline = Instant::now() + step.within;
            let speaker = self.speaker(clients, member, 1, passes.innermost);
            let mut stream = self.rendering.stream(key, &speaker, jiff::Timestamp::now());
            let (subscriptions, properties) = step.subscriptions(&mut stream)?;
            let filters: Vec<String> =
                subscriptions.iter().map(|one| one.filter.as_str().to_owned()).collect();
            let publisher = self.crowd.publisher(member, deadline).await?;
            let answer = timeout_at(deadline, publisher.subscribe(subscriptions, properties)).await;
            let suback = answer.map_err(|_| no_answer(step.within))?.map_err(CrowdError::from)?;
            let refused = suback.reason_codes.iter().zip(&filters).find(|(reason, _)| reason.is_error());
            match refused {
                None => Ok(()),
                Some((reason, filter)) => {
                    Err(format!("{filter:?} is refused: {} (0x{:02x})", reason.name(), reason.0).into())
                }
            }
        });
        each.await.outcome(String::new)
    }

    pub async fn unsubscribe(
        &self,
        clients: Selected,
        key: &str,
        passes: &Passes,
        step: &UnsubscribeStep,
    ) -> Outcome {
        let each = self.each(clients, |member| async move {
            let deadline = Instant::now() + step.within;
            let speaker = self.speaker(clients, member, 1, passes.innermost);
            let mut stream = self.rendering.stream(key, &speaker, jiff::Timestamp::now());
            let filters = step.filters(&mut stream)?;
            let publisher = self.crowd.publisher(member, deadline).await?;
            let answer = timeout_at(deadline, publisher.unsubscribe(filters)).await;
            let unsuback = answer.map_err(|_| no_answer(step.within))?.map_err(CrowdError::from)?;
            match unsuback.reason_codes.iter().find(|reason| reason.is_error()) {
                None => Ok(()),
                Some(reason) => Err(format!("it is refused: {} (0x{:02x})", reason.name(), reason.0).into()),
            }
        });
        each.await.outcome(String::new)
    }

    pub async fn publish(
        &self,
        clients: Selected,
        key: &str,
        passes: &Passes,
        step: &PublishStep,
    ) -> Outcome {
        let each = self.each(clients, |member| {
            let begins = self.begins(clients, member, key, step.spread);
            async move {
                sleep_until(begins).await;
                let mut sending = Sending { runner: self, clients, member, step, sent: 0, unacknowledged: 0 };
                let outcome = sending.send(key, passes, begins).await;
                self.crowd.count_sent(sending.sent);
                match outcome {
                    Ok(()) => Ok((sending.sent, sending.unacknowledged)),
                    Err(trouble) if step.is_lossy && trouble.is_lost => {
                        Ok((sending.sent, step.count - sending.sent))
                    }
                    Err(trouble) => Err(trouble),
                }
            }
        });
        let each = each.await;
        let (sent, lost) = each.done.iter().fold((0, 0), |(sent, lost), one| (sent + one.0, lost + one.1));
        each.outcome(|| match lost {
            0 => format!("{} sent", counted(sent, "message")),
            lost => format!("{} sent, {lost} not, or not acknowledged", counted(sent, "message")),
        })
    }

    pub fn forget(&self, clients: Selected) -> Outcome {
        let mut inbox = self.crowd.inbox();
        for member in self.members(clients) {
            inbox.forget(u32::try_from(member).unwrap_or(u32::MAX));
        }
        Outcome::passed("")
    }

    pub async fn expect(&self, expectation: &Expectation, key: &str, passes: &Passes) -> Outcome {
        let mut matchers = Vec::new();
        if let Some((matcher, said)) = expectation.shared() {
            matchers.push((matcher.clone(), said.to_owned()));
        }
        let mut listeners: HashMap<u32, Listener> = HashMap::new();
        for clients in &expectation.of {
            for member in self.members(*clients) {
                let client = u32::try_from(member).unwrap_or(u32::MAX);
                if listeners.contains_key(&client) {
                    continue;
                }
                let mut matcher = 0;
                if expectation.shared().is_none() {
                    let speaker = self.speaker(*clients, member, 1, passes.innermost);
                    let mut stream = self.rendering.stream(key, &speaker, jiff::Timestamp::now());
                    match expectation.rendered(&mut stream) {
                        Ok(rendered) => matchers.push(rendered),
                        Err(what) => return Outcome::failed(format!("{}: {what}", self.crowd.name(member))),
                    }
                    matcher = matchers.len() - 1;
                }
                let name = self.crowd.name(member).to_owned();
                listeners.insert(client, Listener { client, name, matcher });
            }
        }
        let mut listeners: Vec<Listener> = listeners.into_values().collect();
        listeners.sort_unstable_by_key(|listener| listener.client);
        let mut judge = {
            let inbox = self.crowd.inbox();
            Judge::new(expectation, matchers, listeners, &inbox, self.crowd.now())
        };
        loop {
            let mut arrived = std::pin::pin!(self.crowd.arrived());
            arrived.as_mut().enable();
            let judgement = {
                let mut inbox = self.crowd.inbox();
                let judgement = judge.judge(&inbox, self.crowd.now());
                if judgement.is_some() {
                    for (client, position) in judge.taken() {
                        inbox.read(client, position);
                    }
                }
                judgement
            };
            if judgement.is_none() && judge.is_behind() {
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(judgement) = judgement {
                let text = match judgement.has_passed {
                    true => counted(judgement.counted, "message"),
                    false => judgement.failure,
                };
                return Outcome { has_passed: judgement.has_passed, text, nearest: judgement.nearest };
            }
            let left = judge.deadline().saturating_sub(self.crowd.now());
            // Timers count in milliseconds: a little later is not too early again.
            let _ = timeout(left + Duration::from_millis(1), arrived).await;
        }
    }
}

/// Why a client could not do its part.
struct Trouble {
    text: String,
    is_unreachable: bool,
    /// For want of a connection.
    is_lost: bool,
}

impl From<CrowdError> for Trouble {
    fn from(error: CrowdError) -> Self {
        Self { text: error.to_string(), is_unreachable: error.is_unreachable(), is_lost: true }
    }
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self { text, is_unreachable: false, is_lost: false }
    }
}

fn no_answer(within: Duration) -> Trouble {
    Trouble {
        text: format!("no answer within {} s", within.as_secs_f64()),
        is_unreachable: false,
        is_lost: true,
    }
}

/// What came of something that each client did.
struct Each<T> {
    done: Vec<T>,
    clients: u64,
    /// Of the first few that could not.
    troubles: Vec<String>,
    troubled: u64,
}

impl<T> Each<T> {
    fn outcome(self, text: impl FnOnce() -> String) -> Outcome {
        if self.troubled == 0 {
            return Outcome::passed(text());
        }
        let mut text = match self.clients {
            1 => String::new(),
            clients => format!("{} of {}: ", self.troubled, counted(clients, "client")),
        };
        text.push_str(&self.troubles.join("; "));
        if self.troubled > self.troubles.len() as u64 {
            text.push_str("; …");
        }
        Outcome::failed(text)
    }
}

/// One client's part of a `publish`.
struct Sending<'a> {
    runner: &'a Runner,
    clients: Selected,
    member: usize,
    step: &'a PublishStep,
    sent: u64,
    unacknowledged: u64,
}

impl Sending<'_> {
    async fn send(&mut self, key: &str, passes: &Passes, begins: Instant) -> Result<(), Trouble> {
        let (runner, step) = (self.runner, self.step);
        let mut receipts: VecDeque<Receipt> = VecDeque::new();
        for n in 1..=step.count {
            // From the beginning, so that what is late does not add up.
            let due = begins + step.every.saturating_mul(u32::try_from(n - 1).unwrap_or(u32::MAX));
            if due > Instant::now() {
                sleep_until(due).await;
            }
            let speaker = runner.speaker(self.clients, self.member, n, passes.innermost);
            let mut stream = runner.rendering.stream(key, &speaker, jiff::Timestamp::now());
            let message = step.publish(&mut stream)?;
            let deadline = Instant::now() + step.within;
            let receipt = loop {
                let publisher = runner.crowd.publisher(self.member, deadline).await?;
                match timeout_at(deadline, publisher.publish(message.clone())).await {
                    Ok(Ok(receipt)) => break receipt,
                    Ok(Err(
                        error @ (ClientError::Capability(_)
                        | ClientError::Encode(_)
                        | ClientError::Text { .. }),
                    )) => return Err(CrowdError::from(error).into()),
                    // The connection has just ended, or is about to; what becomes of it is known soon.
                    Ok(Err(_)) => {
                        let mut progress = std::pin::pin!(publisher.progress());
                        progress.as_mut().enable();
                        if publisher.ended().is_none() {
                            let _ = timeout_at(deadline, progress).await;
                        }
                        if Instant::now() >= deadline {
                            return Err(no_answer(step.within));
                        }
                        tokio::task::yield_now().await;
                    }
                    Err(_) => return Err(no_answer(step.within)),
                }
            };
            self.sent += 1;
            receipts.push_back(receipt);
            if receipts.len() > RECEIPTS_MAX
                && let Some(oldest) = receipts.pop_front()
            {
                self.take(oldest, Instant::now() + step.within).await?;
            }
        }
        let deadline = Instant::now() + step.within;
        for receipt in receipts {
            self.take(receipt, deadline).await?;
        }
        Ok(())
    }

    async fn take(&mut self, receipt: Receipt, deadline: Instant) -> Result<(), Trouble> {
        match timeout_at(deadline, receipt.acked()).await {
            Ok(Ok(reason)) if reason.is_error() => {
                Err(format!("the message is refused: {} (0x{:02x})", reason.name(), reason.0).into())
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) if self.step.is_lossy => {
                self.unacknowledged += 1;
                Ok(())
            }
            Ok(Err(error)) => Err(Trouble {
                text: format!("not acknowledged: {error}"),
                is_unreachable: false,
                is_lost: true,
            }),
            Err(_) => Err(Trouble {
                text: format!("not acknowledged within {} s", self.step.within.as_secs_f64()),
                is_unreachable: false,
                is_lost: true,
            }),
        }
    }
}

/// Clients of a run, as they connect.
///
/// # Errors
/// Whose texts cannot be, for people.
pub fn members(scenario: &Scenario, rendering: &Rendering) -> Result<Vec<MemberOptions>, String> {
    let now = jiff::Timestamp::now();
    identifiers(&scenario.groups, rendering, now).map_err(|(_, what)| what)?;
    let mut members = Vec::new();
    for group in &scenario.groups {
        for i in 1..=group.count {
            members.push(MemberOptions {
                name: group.member(i),
                introduction: group.introduce(rendering, i, now)?,
                protocol: group.protocol,
                clean_start: group.clean_start,
                keep_alive: group.keep_alive,
                reconnect: group.reconnect,
            });
        }
    }
    Ok(members)
}
