//! What is wrong with a scenario, and where.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From the whole: `steps[3].dev.publish.qos`; empty for the whole.
    pub path: String,
    /// Both from 1.
    pub line: u64,
    pub column: u64,
    pub reason: String,
}

/// `7:14: steps[3].dev.publish.qos: QoS 3 is none of 0, 1 and 2`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        match &*self.path {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}
