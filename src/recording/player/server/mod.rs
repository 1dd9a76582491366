//! The server's part in a recording, for whoever plays it to live clients.
//!
//! [`Parts`] are read off a recording, one for each connection; a live connection is bound to one and asks its [`Part`]
//! what to answer. Answers come from what the recorded server answered to the same; what it said besides follows what the
//! client did before it, as long after it as it did then: a [`Prompter`] says when.

mod binding;
mod identifier;
mod part;
mod prompter;
mod reader;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::packet::{ControlPacket, Publish, ReasonCode};

pub use binding::{Binding, Parts};
pub use part::Part;
pub use prompter::{Prompt, Prompter, Ready};
pub use reader::TooLong;

/// What the server says after something that a client did.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// After that.
    pub delay: Duration,
    pub what: Said,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A message, without a Packet Identifier.
    Message(Box<Publish>),
    Disconnect(ReasonCode),
    /// The connection ends without a word.
    Close {
        is_reset: bool,
    },
}

/// What becomes of what a live client does.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Whether the recorded client did it, too.
    pub is_known: bool,
    /// As recorded, or as any server would.
    pub answer: Option<ControlPacket>,
    /// Of a message of QoS 2: the Reason Code of its PUBCOMP.
    pub completion: ReasonCode,
    /// What follows.
    pub lines: Vec<Line>,
}
