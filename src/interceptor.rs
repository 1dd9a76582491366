//! Who is asked about messages before they are routed: mocks, which may keep one, and webhooks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

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
    /// Not if a part of it was passed on already, or its server could do nothing with later ones without it: then it
    /// goes on whatever the [`Verdict`] is.
    pub may_be_kept: bool,
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
}

impl Interception {
    /// Messages pass without being offered while nobody has an `interest`.
    pub fn new(interceptor: Box<dyn Interceptor>, interest: Interest) -> Self {
        Self { interceptor: Some(interceptor), interest }
    }

    /// Without anybody who would ask, this is all that a message costs.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.interest.is_any()
    }

    /// Whether anybody might keep a message, so that none may be on its way before the answer is there.
    #[inline]
    pub fn may_intercept(&self) -> bool {
        self.interest.has(Party::Mocks)
    }

    pub fn ask(&mut self, now: Instant, offered: &Offered<'_>) -> Verdict {
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
