//! Why a snapshot is written.

use std::fmt;

use crate::recording::redact::Redactor;

/// Why a snapshot is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody asked, or an error was seen.
    Said(String),
    /// A trigger is for it.
    Message { topic: String },
}

impl Reason {
    /// As it may be told where `redactor` is needed.
    pub fn redacted(&self, redactor: &Redactor) -> Self {
        match self {
            Self::Said(why) => Self::Said(why.clone()),
            Self::Message { topic } => Self::Message { topic: redactor.filter(topic) },
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(why) => f.write_str(why),
            Self::Message { topic } => write!(f, "a message on {topic} that a trigger is for"),
        }
    }
}
