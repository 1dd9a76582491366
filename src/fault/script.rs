//! Faults of a recording, to be done again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::{ChaosError, Decision, Effect, Seen, action::COUNT_MAX, target::Target};
use crate::{
    delay::DELAY_MAX,
    likeness::plain,
    packet::{PacketType, ProtocolVersion, ReasonCode},
    recording::{Direction, FaultInjected, without_run},
};

/// As many faults as one script has: some hundred megabytes of them.
const FAULTS_MAX: usize = 1_000_000;

/// What decides in place of rules.
#[derive(Debug, Default)]
pub struct Script {
    clients: BTreeMap<String, Arc<ClientScript>>,
    len: usize,
}

/// The part of one client.
#[derive(Debug, Default)]
pub struct ClientScript {
    by_packet: HashMap<(Direction, PacketType, u64), SmallVec<[Decision; 1]>, FixedState>,
}

impl Script {
    /// # Errors
    /// [`ChaosError::BadEvent`] or [`ChaosError::LongScript`].
    pub fn new(faults: impl IntoIterator<Item = FaultInjected>) -> Result<Self, ChaosError> {
        let mut clients: BTreeMap<String, ClientScript> = BTreeMap::new();
        let mut rules: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut len = 0;
        for fault in faults {
            len += 1;
            if len > FAULTS_MAX {
                return Err(ChaosError::LongScript(FAULTS_MAX));
            }
            let effect = read(&fault).map_err(|what| ChaosError::BadEvent {
                event: len,
                rule: fault.rule.clone(),
                action: fault.action.clone(),
                what,
            })?;
            let rule = rules.get(fault.rule.as_str()).cloned().unwrap_or_else(|| {
                let rule: Arc<str> = fault.rule.into();
                rules.insert(Arc::clone(&rule));
                rule
            });
            let client = clients.entry(without_run(&fault.client_identifier).into_owned()).or_default();
            let packet = (fault.direction, fault.packet_type, fault.nth);
            client.by_packet.entry(packet).or_default().push(Decision { rule, effect });
        }
        let clients = clients.into_iter().map(|(name, client)| (name, Arc::new(client))).collect();
        Ok(Self { clients, len })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn of_client(&self, client_identifier: &str) -> Option<Arc<ClientScript>> {
        self.clients.get(&*without_run(client_identifier)).cloned()
    }
}

impl ClientScript {
    /// What was done to the packet; as much of it as fits one that is not quite the same.
    pub fn decisions(&self, seen: &Seen<'_>, nth: u64) -> SmallVec<[Decision; 1]> {
        let mut decisions = SmallVec::new();
        for Decision { rule, effect } in
            self.by_packet.get(&(seen.direction, seen.packet, nth)).into_iter().flatten()
        {
            if let Some(effect) = fit(effect.clone(), seen) {
                let is_end = effect.is_end();
                decisions.push(Decision { rule: Arc::clone(rule), effect });
                if is_end {
                    break;
                }
            }
        }
        decisions
    }
}

/// The effect of a fault, which may have been written by hand.
fn read(fault: &FaultInjected) -> Result<Effect, String> {
    let effect = Effect::from_parts(&fault.action, &fault.detail).map_err(|error| plain(&error))?;
    if fault.nth == 0 {
        return Err("nth counts from 1".to_owned());
    }
    let types = effect.target().types(fault.direction, ProtocolVersion::V5);
    if !types.contains(fault.packet_type) {
        let direction = fault.direction.name();
        return Err(format!("is not done to a {} that goes {direction}", fault.packet_type));
    }
    check(&effect)?;
    Ok(effect)
}

/// Whether a rule could have come to it.
fn check(effect: &Effect) -> Result<(), String> {
    let count = |name: &str, count: u32, max: u32| {
        if (1..=max).contains(&count) { Ok(()) } else { Err(format!("{name} is 1 to {max}, not {count}")) }
    };
    let delay = match effect {
        Effect::Duplicate { count: copies } | Effect::DuplicateAck { count: copies } => {
            return count("count", *copies, COUNT_MAX);
        }
        Effect::Truncate { bytes, .. } => return count("bytes", *bytes, u32::MAX),
        Effect::Corrupt { changes } if changes.len() > COUNT_MAX as usize => {
            return Err(format!("has at most {COUNT_MAX} changes, not {}", changes.len()));
        }
        Effect::RefuseConnect { code } if !ReasonCode(*code).is_error() => {
            return Err(format!("code is 0x80 or above, not {}", ReasonCode(*code)));
        }
        Effect::Bandwidth { bytes_per_s: 0 } => return Err("bytes_per_s is at least 1".to_owned()),
        Effect::Reorder { behind, max_wait, .. } => {
            count("behind", *behind, COUNT_MAX)?;
            *max_wait
        }
        Effect::Slice { size, delay } => {
            count("size", *size, u32::MAX)?;
            *delay
        }
        Effect::Latency { delay } | Effect::DelayAck { delay } => *delay,
        Effect::SlowSubscriber { every } => *every,
        Effect::Blackhole { duration: Some(duration) } => *duration,
        _ => return Ok(()),
    };
    if delay > DELAY_MAX { Err(format!("waits for a day at most, not {delay:?}")) } else { Ok(()) }
}

/// As it can be done to this packet.
fn fit(effect: Effect, seen: &Seen<'_>) -> Option<Effect> {
    if !effect.target().types(seen.direction, seen.protocol).contains(seen.packet) {
        return None;
    }
    match effect {
        Effect::Corrupt { mut changes } => {
            changes.retain(|(position, _)| (*position as usize) < seen.size);
            (!changes.is_empty()).then_some(Effect::Corrupt { changes })
        }
        Effect::Truncate { bytes, reframe } => {
            let bytes = bytes.min(seen.truncation_max(reframe));
            (bytes > 0).then_some(Effect::Truncate { bytes, reframe })
        }
        other => Some(other),
    }
}

impl Effect {
    fn target(&self) -> Target {
        match self {
            Self::Latency { .. }
            | Self::Drop {}
            | Self::Duplicate { .. }
            | Self::Reorder { .. }
            | Self::Corrupt { .. }
            | Self::Truncate { .. }
            | Self::Disconnect { .. }
            | Self::Blackhole { .. }
            | Self::Bandwidth { .. }
            | Self::Slice { .. } => Target::Any,
            Self::Takeover {} => Target::Connected,
            Self::WithholdAck {} | Self::DelayAck { .. } | Self::DuplicateAck { .. } => {
                Target::Acknowledgement
            }
            Self::ReasonCode { .. } => Target::ReasonCode,
            Self::RefuseConnect { .. } | Self::LoseSession {} => Target::Connect,
            Self::Capabilities(capabilities) => capabilities.target(),
            Self::SlowSubscriber { .. } => Target::Delivery,
        }
    }
}
