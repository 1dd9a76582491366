//! Who is asked about messages before they are routed: mocks, which may keep one, webhooks, and the journal.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;

use crate::{
    packet::{Properties, Property, QoS},
    session::{ConnectionId, Origin, Payload},
};

/// A message that was accepted.
#[derive(Clone, Copy)]
pub struct Offered<'a> {
    pub topic: &'a str,
    pub payload: Payload<'a>,
    pub qos: QoS,
    pub retain: bool,
    /// The forwarded properties as MQTT 5 encodes them, without their length.
    pub properties: &'a [u8],
    /// Message Expiry Interval, seconds.
    pub expiry: Option<u32>,
    pub from: Publisher<'a>,
    /// Whether it is the Will of that client.
    pub is_will: bool,
    /// Not if a part of it was passed on already, or its server could do nothing with later ones without it: then it
    /// goes on whatever the [`Verdict`] is.
    pub may_be_kept: bool,
}

/// PUBLISH packets of one client, one behind the other, that were accepted as they came. None of them says what is not for
/// every receiver: no Topic Alias, no Message Expiry Interval, no DUP.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub packets: &'a [u8],
    pub count: usize,
    /// Whether they have properties.
    pub v5: bool,
    pub client_identifier: &'a str,
}

/// Who published a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher<'a> {
    Client {
        identifier: &'a str,
        username: Option<&'a str>,
    },
    /// The control plane, a mock, a webhook or a replay, and how many mocks led to it.
    Synthetic {
        depth: u8,
    },
}

impl<'a> Publisher<'a> {
    /// Of a message that no client of ours published.
    pub fn origin(origin: &'a Origin) -> Self {
        match origin {
            Origin::Client(identifier) => Self::Client { identifier, username: None },
            Origin::Synthetic { depth } => Self::Synthetic { depth: *depth },
        }
    }
}

impl Offered<'_> {
    /// The properties that subscribers see, and the expiry.
    pub fn properties(&self) -> Properties {
        let mut properties = Properties::of_publish(self.properties);
        properties.0.extend(self.expiry.map(Property::MessageExpiryInterval));
        properties
    }
}

/// Whether a message goes on to where it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Route,
    /// Its publisher is answered as if it had been routed, and nobody gets it.
    Intercept,
}

/// Is asked about every message. Called on hot paths: must not block.
pub trait Interceptor: Send {
    fn ask(&mut self, now: Instant, offered: &Offered<'_>) -> Verdict;

    /// As [`ask`](Self::ask), of a message that is not on its way before [`passed`](Self::passed) says so of its
    /// `connection`. Only relays ask ahead; a broker has routed a message before anything else happens.
    fn ask_ahead(&mut self, now: Instant, connection: ConnectionId, offered: &Offered<'_>) -> Verdict {
        let _ = connection;
        self.ask(now, offered)
    }

    /// What it was asked about ahead is on its way, or its connection has ended: what follows from that cannot overtake
    /// it any more.
    fn passed(&mut self, connection: ConnectionId) {
        let _ = connection;
    }

    /// Messages have passed that nobody but the journal wants to be told of.
    fn pass(&mut self, now: Instant, run: &Run<'_>) {
        let _ = (now, run);
    }

    /// What it was asked about so far is to be known to others before anything that follows from it is.
    fn settle(&mut self) {}
}

/// Who wants to be asked about messages at present; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interest(Arc<AtomicU8>);

/// Somebody who may want to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Party {
    Mocks = 1,
    Webhooks = 2,
    /// Of relays; a broker tells more of a message, once it has routed it.
    Traces = 4,
    Journal = 8,
}

impl Interest {
    pub fn set(&self, party: Party, is_interested: bool) {
        match is_interested {
            true => self.0.fetch_or(party as u8, Ordering::Release),
            false => self.0.fetch_and(!(party as u8), Ordering::Release),
        };
    }

    // Relaxed is enough to read: whoever must be seen after a change learnt of it by a message, and that orders the load.
    #[inline]
    pub fn has(&self, party: Party) -> bool {
        self.0.load(Ordering::Relaxed) & party as u8 != 0
    }

    #[inline]
    pub fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// An [`Interceptor`], and whether it has anything to say at all.
#[derive(Default)]
pub struct Interception {
    interceptor: Option<Box<dyn Interceptor>>,
    interest: Interest,
    /// Whose interest counts here, a bit for each [`Party`].
    parties: u8,
    passing: Passing,
}

/// Packets of one read that pass together: where they lie is all that is noted of each.
#[derive(Default)]
struct Passing {
    /// What was read; empty where messages are told of one by one.
    input: Bytes,
    /// Those that were not told of yet.
    from: usize,
    to: usize,
    count: usize,
    now: Option<Instant>,
    v5: bool,
    client_identifier: Option<Arc<str>>,
}

impl Interception {
    /// Messages pass without being offered while nobody has an `interest`.
    pub fn new(interceptor: Box<dyn Interceptor>, interest: Interest) -> Self {
        let parties = Party::Mocks as u8 | Party::Webhooks as u8 | Party::Journal as u8;
        Self { interceptor: Some(interceptor), interest, parties, passing: Passing::default() }
    }

    /// Messages are offered for their traces, too.
    pub fn with_traces(self) -> Self {
        Self { parties: self.parties | Party::Traces as u8, ..self }
    }

    /// Without anybody who would ask, this is all that a message costs.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.interest.0.load(Ordering::Relaxed) & self.parties != 0
    }

    /// Whether anybody might keep a message, so that none may be on its way before the answer is there.
    #[inline]
    pub fn may_intercept(&self) -> bool {
        self.interest.has(Party::Mocks)
    }

    /// What is handled from now on lies in `input`, and is of one client.
    #[inline]
    pub fn begin_input(&mut self, input: &Bytes) {
        if self.interest.0.load(Ordering::Relaxed) & self.parties == Party::Journal as u8 {
            self.passing.input = input.clone();
        }
    }

    /// Nothing of it is handled any more.
    #[inline]
    pub fn end_input(&mut self) {
        if !self.passing.input.is_empty() {
            self.tell_passing();
            self.passing = Passing::default();
        }
    }

    /// Notes a packet as one of a [`Run`]; whether that was all, and nobody has to be asked.
    #[inline]
    pub fn follow(&mut self, now: Instant, packet: &[u8], v5: bool, client_identifier: &Arc<str>) -> bool {
        let passing = &mut self.passing;
        let at = (packet.as_ptr() as usize).wrapping_sub(passing.input.as_ptr() as usize);
        let end = at.wrapping_add(packet.len());
        if at >= end || end > passing.input.len() {
            return false;
        }
        if at == passing.to && passing.count > 0 {
            passing.to = end;
            passing.count += 1;
            return true;
        }
        self.begin_run(now, at, end, v5, client_identifier)
    }

    #[inline(never)]
    fn begin_run(
        &mut self,
        now: Instant,
        from: usize,
        to: usize,
        v5: bool,
        client_identifier: &Arc<str>,
    ) -> bool {
        self.tell_passing();
        let passing = &mut self.passing;
        (passing.from, passing.to, passing.count) = (from, to, 1);
        (passing.now, passing.v5) = (Some(now), v5);
        passing.client_identifier = Some(Arc::clone(client_identifier));
        true
    }

    /// Tells of the packets that have passed, before anything else is told of.
    fn tell_passing(&mut self) {
        let Passing { input, from, to, count, now, v5, client_identifier } = &mut self.passing;
        if let (Some(now), Some(client_identifier)) = (*now, client_identifier.take())
            && *count > 0
            && let Some(interceptor) = &mut self.interceptor
        {
            let packets = &input[*from..*to];
            let run = Run { packets, count: *count, v5: *v5, client_identifier: &client_identifier };
            interceptor.pass(now, &run);
        }
        *count = 0;
    }

    pub fn ask(&mut self, now: Instant, offered: &Offered<'_>) -> Verdict {
        self.tell_passing();
        match &mut self.interceptor {
            Some(interceptor) => interceptor.ask(now, offered),
            None => Verdict::Route,
        }
    }

    /// See [`Interceptor::ask_ahead`].
    pub fn ask_ahead(&mut self, now: Instant, connection: ConnectionId, offered: &Offered<'_>) -> Verdict {
        match &mut self.interceptor {
            Some(interceptor) => interceptor.ask_ahead(now, connection, offered),
            None => Verdict::Route,
        }
    }

    /// See [`Interceptor::passed`].
    pub fn passed(&mut self, connection: ConnectionId) {
        if let Some(interceptor) = &mut self.interceptor {
            interceptor.passed(connection);
        }
    }

    /// See [`Interceptor::settle`].
    #[inline]
    pub fn settle(&mut self) {
        if self.is_active()
            && let Some(interceptor) = &mut self.interceptor
        {
            interceptor.settle();
        }
    }
}

impl fmt::Debug for Interception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interception").field("is_active", &self.is_active()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_comes_and_goes_without_the_other() {
        let interest = Interest::default();
        let shared = interest.clone();
        let seen = || (shared.is_any(), shared.has(Party::Mocks), shared.has(Party::Webhooks));
        assert_eq!(seen(), (false, false, false));
        interest.set(Party::Webhooks, true);
        interest.set(Party::Mocks, true);
        interest.set(Party::Webhooks, false);
        assert_eq!(seen(), (true, true, false));
        interest.set(Party::Webhooks, true);
        interest.set(Party::Mocks, false);
        assert_eq!(seen(), (true, false, true));
    }
}
