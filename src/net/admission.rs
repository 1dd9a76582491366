//! Who may connect: so many at a time and so many a second, in all and from one address.
//!
//! Whoever accepts a connection asks before anything else is done for it, on any thread. Only those
//! who are admitted count, so an address that tries without end takes nothing from others but the
//! accepting.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{config::ConnectionLimits, packet::ReasonCode};

/// Clients that are told at the same time that they are refused. Each costs a socket and a CONNECT;
/// when that many wait already, the next ones are closed without a word.
const TOLD_AT_ONCE: usize = 64;

/// What a rate allows at once: all of one period, after one in which nobody came.
const PERIOD: Duration = Duration::from_secs(1);

/// Addresses that are kept before those that mean nothing any more are looked for.
const SWEPT_FROM: usize = 1024;

/// Counts the connections of one server, whichever of its threads accept them.
pub struct Admission {
    limits: ConnectionLimits,
    state: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: usize,
    told: usize,
    pace: Pace,
    /// Only if there is a limit for each.
    addresses: HashMap<IpAddr, Address>,
    /// With so many addresses the next sweep is due.
    sweep_at: usize,
}

#[derive(Default)]
struct Address {
    connections: usize,
    pace: Pace,
}

/// How far connections are ahead of their rate: a bucket of tokens, as the time when it is full.
#[derive(Default)]
struct Pace {
    full_at: Option<Instant>,
}

/// The right to be connected, until it is dropped.
pub struct Pass {
    admission: Arc<Admission>,
    /// Only where addresses are counted; apart, because connections that idle are many.
    address: Option<Box<IpAddr>>,
}

/// A connection that has to be turned away.
pub struct Refused {
    pub reason: ReasonCode,
    /// For as long as the client is being told so; `None` when too many are already.
    pub telling: Option<Telling>,
}

/// Counts as a client that is told that it is refused, until it is dropped.
pub struct Telling(Arc<Admission>);

impl Admission {
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// Asks for a connection from `peer`, which was just accepted.
    ///
    /// # Errors
    /// Connection rate exceeded, or Quota exceeded when it is one too many.
    pub fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<Pass, Refused> {
        // The runtime's clock, so that a paused one is followed.
        self.admit_at(tokio::time::Instant::now().into_std(), peer)
    }

    fn admit_at(self: &Arc<Self>, now: Instant, peer: SocketAddr) -> Result<Pass, Refused> {
        let limits = &self.limits;
        let mut counts = self.counts();
        let refused = |mut counts: MutexGuard<'_, Counts>, reason| {
            let may_tell = counts.told < TOLD_AT_ONCE;
            counts.told += usize::from(may_tell);
            Err(Refused { reason, telling: may_tell.then(|| Telling(Arc::clone(self))) })
        };
        if counts.connections >= limits.total {
            return refused(counts, ReasonCode::QUOTA_EXCEEDED);
        }
        let Some(pace) = counts.pace.after_one(now, limits.rate) else {
            return refused(counts, ReasonCode::CONNECTION_RATE_EXCEEDED);
        };
        let address = limits.is_by_address().then(|| client_address(peer.ip()));
        if let Some(address) = address {
            counts.sweep(now);
            let (per_address, rate) = (limits.per_address, limits.rate_per_address);
            let known = counts.addresses.get(&address);
            if per_address > 0 && known.is_some_and(|known| known.connections >= per_address) {
                return refused(counts, ReasonCode::QUOTA_EXCEEDED);
            }
            let Some(pace) = known.map_or(&Pace::default(), |known| &known.pace).after_one(now, rate) else {
                return refused(counts, ReasonCode::CONNECTION_RATE_EXCEEDED);
            };
            let known = counts.addresses.entry(address).or_default();
            known.connections += 1;
            known.pace = pace;
        }
        counts.connections += 1;
        counts.pace = pace;
        Ok(Pass { admission: Arc::clone(self), address: address.map(Box::new) })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Forgets addresses that nothing is left of. They are as many as have connections or came within
    /// a [`PERIOD`], or twice that until the next sweep.
    fn sweep(&mut self, now: Instant) {
        if self.addresses.len() < self.sweep_at.max(SWEPT_FROM) {
            return;
        }
        self.addresses.retain(|_, address| address.connections > 0 || address.pace.is_ahead(now));
        self.sweep_at = self.addresses.len() * 2;
    }
}

impl Pace {
    /// What it is after one more connection, of `rate` a second; `None` if that is one too many.
    fn after_one(&self, now: Instant, rate: usize) -> Option<Self> {
        if rate == 0 {
            return Some(Self::default());
        }
        let share = PERIOD / u32::try_from(rate).unwrap_or(u32::MAX);
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + share;
        (full_at <= now + PERIOD).then_some(Self { full_at: Some(full_at) })
    }

    fn is_ahead(&self, now: Instant) -> bool {
        self.full_at.is_some_and(|full_at| full_at > now)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.connections -= 1;
        if let Some(address) = self.address.as_deref()
            && let Some(known) = counts.addresses.get_mut(address)
        {
            known.connections -= 1;
            // One with a pace stays until the next sweep.
            if known.connections == 0 && known.pace.full_at.is_none() {
                counts.addresses.remove(address);
            }
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.counts().told -= 1;
    }
}

/// What counts as one address: of IPv6 the first 64 bits, because a host has all of the others.
fn client_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().expect(address), 1)
    }

    fn refusal(result: Result<Pass, Refused>) -> Option<ReasonCode> {
        result.err().map(|refused| refused.reason)
    }

    #[test]
    fn a_connection_beyond_the_limit_is_refused_until_one_has_ended() {
        let admission = Admission::new(ConnectionLimits { total: 2, ..Default::default() });
        let now = Instant::now();
        let first = admission.admit_at(now, peer("10.0.0.1")).ok().expect("room");
        let _second = admission.admit_at(now, peer("10.0.0.2")).ok().expect("room");
        assert_eq!(refusal(admission.admit_at(now, peer("10.0.0.3"))), Some(ReasonCode::QUOTA_EXCEEDED));
        drop(first);
        assert_eq!(refusal(admission.admit_at(now, peer("10.0.0.3"))), None);
    }

    #[test]
    fn an_address_has_its_own_limit_and_takes_nothing_from_others() {
        let admission = Admission::new(ConnectionLimits { total: 3, per_address: 2, ..Default::default() });
        let now = Instant::now();
        let admit = |address| admission.admit_at(now, peer(address));
        let _kept = [admit("10.0.0.1"), admit("::ffff:10.0.0.1")];
        for _ in 0..10 {
            assert_eq!(refusal(admit("10.0.0.1")), Some(ReasonCode::QUOTA_EXCEEDED));
        }
        let other = admit("10.0.0.2");
        assert_eq!(refusal(admit("10.0.0.3")), Some(ReasonCode::QUOTA_EXCEEDED), "all are taken");
        drop(other);
        assert_eq!(admission.counts().addresses.len(), 1, "who is gone is forgotten");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        let limits = ConnectionLimits { per_address: 1, ..Default::default() };
        let admission = Admission::new(limits);
        let admit = |address| admission.admit_at(Instant::now(), peer(address));
        let _kept = admit("2001:db8:0:1::1");
        assert_eq!(refusal(admit("2001:db8:0:1:ffff::2")), Some(ReasonCode::QUOTA_EXCEEDED));
        assert_eq!(refusal(admit("2001:db8:0:2::1")), None);
    }

    #[test]
    fn a_rate_allows_one_second_at_once_and_then_its_share() {
        let admission = Admission::new(ConnectionLimits { rate: 4, ..Default::default() });
        let began = Instant::now();
        let admit = |after_ms| {
            let now = began + Duration::from_millis(after_ms);
            refusal(admission.admit_at(now, peer("10.0.0.1"))).is_none()
        };
        assert_eq!([0; 5].map(admit), [true, true, true, true, false]);
        assert_eq!([249, 250, 250, 500].map(admit), [false, true, false, true]);
        // What was not used gathers, up to one second's.
        assert_eq!([60_000; 5].map(admit), [true, true, true, true, false]);
    }

    #[test]
    fn one_address_beyond_its_rate_leaves_the_rate_of_all_alone() {
        let admission =
            Admission::new(ConnectionLimits { rate: 3, rate_per_address: 1, ..Default::default() });
        let now = Instant::now();
        let admit = |address| refusal(admission.admit_at(now, peer(address)));
        assert_eq!(admit("10.0.0.1"), None);
        for _ in 0..100 {
            assert_eq!(admit("10.0.0.1"), Some(ReasonCode::CONNECTION_RATE_EXCEEDED));
        }
        assert_eq!((admit("10.0.0.2"), admit("10.0.0.3")), (None, None));
        assert_eq!(admit("10.0.0.4"), Some(ReasonCode::CONNECTION_RATE_EXCEEDED));
    }

    #[test]
    fn addresses_that_came_and_went_are_forgotten() {
        let limits = ConnectionLimits { rate_per_address: 1, ..Default::default() };
        let admission = Admission::new(limits);
        let began = Instant::now();
        for number in 0..100_000_u32 {
            // A thousand within a second.
            let now = began + Duration::from_millis(number.into());
            let address = SocketAddr::new(IpAddr::V4(number.into()), 1);
            assert!(admission.admit_at(now, address).is_ok());
        }
        let kept = admission.counts().addresses.len();
        assert!(kept <= 2 * SWEPT_FROM, "{kept}");
    }

    #[test]
    fn few_are_told_that_they_are_refused_at_the_same_time() {
        let admission = Admission::new(ConnectionLimits { total: 0, ..Default::default() });
        let refuse = || match admission.admit_at(Instant::now(), peer("10.0.0.1")) {
            Ok(_) => unreachable!("there is no room"),
            Err(refused) => refused.telling,
        };
        let mut told: Vec<_> = std::iter::from_fn(refuse).take(TOLD_AT_ONCE + 1).collect();
        assert_eq!(told.len(), TOLD_AT_ONCE);
        told.pop();
        assert!(refuse().is_some());
    }
}
