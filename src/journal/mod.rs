//! Messages that passed through the server, kept for a while, and which of them are meant.
//!
//! A [`MatchSpec`] is what people write, a [`MessageMatch`] what was checked: it says whether a [`Message`] is one, or what
//! differs and how near it came. A [`Count`] says how many there have to be, and a [`Judging`] whether what is expected came.
//! A [`Ring`] has the last messages, in [`Segment`]s that readers share.

mod count;
mod entry;
mod expectation;
mod match_spec;
mod message;
mod message_match;
mod nearness;
mod ring;
mod segment;
#[cfg(test)]
mod tests;

pub use count::{Count, CountBounds, CountSpec};
pub use entry::JournalEntry;
pub use expectation::{Expectation, ExpectationSpec, Judgement, Judging};
pub use match_spec::{MatchSpec, OneOrMoreTopics, Origins};
pub use message::{Message, MessageOrigin};
pub use message_match::MessageMatch;
pub use nearness::{NEAREST_MAX, Nearest, Nearness, beginning};
pub use ring::{Chunk, JournalLimits, Ring};
pub use segment::{KeptMessage, Messages, Noted, Segment};
