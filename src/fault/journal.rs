//! What was done lately, and how often what was done at all.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    packet::PacketType,
    recording::{Direction, FaultInjected, NamePattern},
};

/// What the journal's texts may take together, whatever the number of faults: identifiers and topics may have 64 KiB each.
const BYTES_MAX: usize = 16 << 20;

/// Pairs of rule and action that have a figure of their own. Rules come and go, so without an end there would be none.
const FIGURES_MAX: usize = 10_000;

/// What pairs that came later are counted under.
const OTHERS: &str = "(others)";

/// A fault that was noted.
#[derive(Clone, Debug, PartialEq)]
pub struct Journaled {
    /// From 1, without gaps.
    pub number: u64,
    /// Without the bytes of packets.
    pub fault: FaultInjected,
    /// As the rest of the server numbers it.
    pub connection: u64,
    pub at: Timestamp,
}

/// Which faults; what is absent lets all pass.
#[derive(Clone, Debug, Default)]
pub struct FaultFilter {
    pub rule: Option<String>,
    pub action: Option<String>,
    pub client: Option<NamePattern>,
    pub direction: Option<Direction>,
    pub packet_type: Option<PacketType>,
}

/// How often a rule did something, since the server began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultFigure {
    pub rule: String,
    pub action: String,
    pub count: u64,
}

/// The last faults, and figures of all.
#[derive(Debug)]
pub struct Journal {
    limit: usize,
    faults: VecDeque<Arc<Journaled>>,
    /// How many there were.
    noted: u64,
    bytes: usize,
    figures: BTreeMap<String, BTreeMap<String, u64>>,
    pairs: usize,
    /// What the figures of a rule's id were when that rule was made.
    before: BTreeMap<String, u64>,
}

impl Journal {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            faults: VecDeque::new(),
            noted: 0,
            bytes: 0,
            figures: BTreeMap::new(),
            pairs: 0,
            before: BTreeMap::new(),
        }
    }

    pub fn note(&mut self, fault: &FaultInjected, connection: u64, at: Timestamp) -> Arc<Journaled> {
        self.count(&fault.rule, &fault.action);
        self.noted += 1;
        // Bytes are slices of what was read, and would keep all of that.
        let fault = FaultInjected { received: None, sent: None, ..fault.clone() };
        let journaled = Arc::new(Journaled { number: self.noted, fault, connection, at });
        self.bytes += journaled.fault.size();
        self.faults.push_back(Arc::clone(&journaled));
        while (self.faults.len() > self.limit || self.bytes > BYTES_MAX)
            && let Some(first) = self.faults.pop_front()
        {
            self.bytes -= first.fault.size();
        }
        journaled
    }

    fn count(&mut self, rule: &str, action: &str) {
        if let Some(count) = self.figures.get_mut(rule).and_then(|actions| actions.get_mut(action)) {
            *count += 1;
            return;
        }
        let (rule, action) = if self.pairs < FIGURES_MAX { (rule, action) } else { (OTHERS, OTHERS) };
        self.pairs += 1;
        *self.figures.entry(rule.to_owned()).or_default().entry(action.to_owned()).or_default() += 1;
    }

    /// Those with a higher number than `after`, oldest first.
    pub fn faults(&self, after: u64, limit: usize, filter: &FaultFilter) -> Vec<Arc<Journaled>> {
        let first = self.noted - self.faults.len() as u64;
        let skipped = usize::try_from(after.saturating_sub(first)).unwrap_or(usize::MAX);
        let faults = self.faults.iter().skip(skipped).filter(|journaled| filter.passes(&journaled.fault));
        faults.take(limit).cloned().collect()
    }

    /// Forgets the faults; numbers and figures go on.
    pub fn clear(&mut self) {
        self.faults.clear();
        self.bytes = 0;
    }

    /// The number of the last fault; 0 before the first.
    pub fn last(&self) -> u64 {
        self.noted
    }

    pub fn figures(&self) -> Vec<FaultFigure> {
        let figures = self.figures.iter().flat_map(|(rule, actions)| {
            actions.iter().map(|(action, count)| FaultFigure {
                rule: rule.clone(),
                action: action.clone(),
                count: *count,
            })
        });
        figures.collect()
    }

    /// Rules with these ids were made, which may have been those of others before.
    pub fn begin<'a>(&mut self, ids: impl Iterator<Item = &'a str>) {
        for id in ids {
            let before = self.of_id(id);
            if before > 0 {
                self.before.insert(id.to_owned(), before);
            }
        }
    }

    /// Since the rule was made that has this id.
    pub fn of_rule(&self, id: &str) -> u64 {
        self.of_id(id) - self.before.get(id).copied().unwrap_or_default()
    }

    fn of_id(&self, id: &str) -> u64 {
        self.figures.get(id).into_iter().flat_map(BTreeMap::values).sum()
    }
}

impl FaultFilter {
    pub fn passes(&self, fault: &FaultInjected) -> bool {
        self.rule.as_ref().is_none_or(|rule| *rule == fault.rule)
            && self.action.as_ref().is_none_or(|action| *action == fault.action)
            && self.client.as_ref().is_none_or(|client| client.matches(&fault.client_identifier))
            && self.direction.is_none_or(|direction| direction == fault.direction)
            && self.packet_type.is_none_or(|packet| packet == fault.packet_type)
    }
}
