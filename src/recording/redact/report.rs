//! What was redacted.

use super::pass::Pass;

/// What was changed, how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedactionReport {
    /// In the order of the rules.
    pub rules: Vec<RuleReport>,
    /// Passwords of CONNECT packets.
    pub passwords: u64,
    /// Packets, payloads meant as JSON and other bytes that could not be read, and so were hidden as a whole.
    pub hidden: u64,
    /// Payloads that are no JSON, where rules are about JSON.
    pub not_json: u64,
    /// Events that are not as they were.
    pub events: u64,
}

/// What one rule changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReport {
    pub rule: String,
    pub values: u64,
    pub events: u64,
}

impl RedactionReport {
    /// Counts what one event was changed by.
    pub(super) fn add(&mut self, pass: &Pass<'_>) {
        for (report, values) in self.rules.iter_mut().zip(&pass.values) {
            report.values += values;
            report.events += u64::from(*values > 0);
        }
        self.passwords += pass.passwords;
        self.hidden += pass.hidden;
        self.not_json += pass.not_json;
        let changed = pass.values.iter().sum::<u64>() + pass.passwords + pass.hidden;
        self.events += u64::from(changed > 0);
    }
}
