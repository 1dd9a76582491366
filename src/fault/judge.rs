//! Who decides about the packets of one client.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    Chaos, Effect, Rule,
    chaos::Plan,
    locked,
    memory::{Memory, RuleKey, Stay},
    script::ClientScript,
};
use crate::{
    draws::Draws,
    packet::{PacketType, ProtocolVersion, QoS},
    recording::{Direction, without_run},
};

/// A packet as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub direction: Direction,
    pub packet: PacketType,
    pub protocol: ProtocolVersion,
    /// Of a PUBLISH, its alias resolved; `None` if that is unknown, and of other packets.
    pub topic: Option<&'a str>,
    /// Of a PUBLISH.
    pub qos: Option<QoS>,
    /// Of the whole packet, bytes.
    pub size: usize,
    /// Of a PUBLISH, where in the packet its payload begins.
    pub payload_at: Option<usize>,
}

/// What one rule does to a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Its id.
    pub rule: Arc<str>,
    pub effect: Effect,
}

/// What is decided for one packet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// Which one of its type it is in its direction, from 1, over all connections of the client; 0 while chaos is off.
    pub nth: u64,
    /// In the order in which it is to be done. Only the last one may end the packet, or the connection.
    pub decisions: SmallVec<[Decision; 1]>,
}

/// Decides for the packets of one client, on one connection.
pub struct Judge {
    chaos: Chaos,
    client_identifier: Arc<str>,
    stay: Stay,
    plan: Arc<Plan>,
    /// Of the plan's rules, those for the client.
    rules: Vec<Asked>,
    script: Option<Arc<ClientScript>>,
}

/// A rule as it is for one client.
struct Asked {
    key: RuleKey,
    rule: Arc<Rule>,
    /// What is drawn for this client.
    draws: Draws,
}

impl Judge {
    pub(super) fn new(chaos: Chaos, client_identifier: &str, stay: Stay) -> Self {
        let plan = chaos.plan();
        let mut judge = Self {
            chaos,
            client_identifier: client_identifier.into(),
            stay,
            plan,
            rules: Vec::new(),
            script: None,
        };
        judge.prepare();
        judge
    }

    /// To be asked about each packet once, in the order in which they come.
    pub fn judge(&mut self, seen: &Seen<'_>) -> Decisions {
        if self.plan.generation != self.chaos.generation() {
            self.plan = self.chaos.plan();
            self.prepare();
        }
        let memory = Arc::clone(&self.stay.memory);
        let mut memory = locked(&memory);
        while memory.epoch() > self.plan.epoch {
            // Another connection of the client has seen a change that came since the lines above.
            self.plan = self.chaos.plan();
            self.prepare();
        }
        if !self.plan.is_on {
            return Decisions::default();
        }
        memory.follow(self.plan.epoch, self.plan.generation, |key| self.plan.has(key));
        let nth = memory.count_packet(seen.direction, seen.packet);
        let decisions = match (&self.script, &self.plan.script) {
            (Some(script), _) => script.decisions(seen, nth),
            (None, Some(_)) => SmallVec::new(),
            (None, None) => self.ask(seen, &mut memory),
        };
        Decisions { nth, decisions }
    }

    /// Looks for what of the plan concerns the client.
    fn prepare(&mut self) {
        let client = &*self.client_identifier;
        self.script = self.plan.script.as_ref().and_then(|script| script.of_client(client));
        let rules = self.plan.rules.iter().filter(|(_, rule)| rule.concerns(client, self.chaos.proxy()));
        let asked = rules.map(|(key, rule)| Asked {
            key: *key,
            rule: Arc::clone(rule),
            draws: self.plan.draws.of(&**rule.id()).of(&*without_run(client)),
        });
        self.rules = asked.collect();
    }

    fn ask(&self, seen: &Seen<'_>, memory: &mut Memory) -> SmallVec<[Decision; 1]> {
        let Seen { direction, packet, .. } = *seen;
        let mut decisions = SmallVec::<[Decision; 1]>::new();
        for Asked { key, rule, draws } in &self.rules {
            if !rule.matches(seen) {
                continue;
            }
            let count = memory.of_rule(*key).of(direction, packet);
            count.matched += 1;
            let draws = draws.of([direction as u8, packet as u8]).nth(count.matched);
            if !rule.is_turn(count.matched, count.fired, &draws) {
                continue;
            }
            let before = decisions.len();
            rule.draw(seen, &draws, |effect| {
                decisions.push(Decision { rule: Arc::clone(rule.id()), effect })
            });
            if decisions.len() > before {
                count.fired += 1;
            }
            if decisions.last().is_some_and(|last| last.effect.is_end()) {
                break;
            }
        }
        decisions
    }
}

impl Seen<'_> {
    /// Bytes of the fixed header.
    pub(super) fn header_len(&self) -> usize {
        // One byte for the type, and one for each 7 bits of the Remaining Length.
        (2..5).find(|len| self.size < len + (1 << (7 * (len - 1)))).unwrap_or(5)
    }

    /// As many bytes as can be taken from its end.
    pub(super) fn truncation_max(&self, reframe: bool) -> u32 {
        let stays = if reframe { self.header_len() } else { 1 };
        u32::try_from(self.size.saturating_sub(stays)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
impl Judge {
    /// Rules that counts of the client are kept for.
    pub(super) fn rules_remembered(&self) -> usize {
        locked(&self.stay.memory).rules()
    }
}
