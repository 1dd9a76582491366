//! Mocks: what answers by itself to messages, subscriptions, clients that connect, and the passing of time.
//!
//! A [`MockSpec`] is what people write, a [`Mock`] what was checked, and [`Mocks`] all of a server: it is offered what
//! happens, decides which mock fires, and says which answers are due.

mod condition;
mod delay;
pub mod infer;
#[expect(clippy::module_inception, reason = "the room and the thing in it")]
mod mock;
mod mocks;
mod payload;
mod payload_tests;
mod properties;
mod query;
mod spec;
mod state;
mod subject;
mod template;
#[cfg(test)]
mod tests;
mod unmatched;
mod value_test;

pub use condition::{Condition, adopt};
pub use mock::{Answer, Captures, Mock, Needs, ReadFile, Reading, check_id, read_filter};
pub use mocks::{
    Due, Fired, Matching, MockError, MockEvent, MockFigures, MockKey, MockLimits, MockView, Mocks, make_mocks,
};
pub use payload::Payload;
pub use payload_tests::{PayloadTests, PayloadView};
pub use properties::PropertyTemplates;
pub use spec::{
    DelayDraw, DelaySpec, MockSpec, Mode, NthAmong, NthSpec, OneOrMore, PropertiesSpec, RepeatSpec,
    ResponseSpec, Scope, TestSpec, Then, Trigger, USUAL_PRIORITY, WhenSpec,
};
pub use state::{BadStateScope, State, StateError, StateFull, StateLimits, StateScope};
pub use subject::{Occasion, Subject};
pub use template::{BadTemplate, RenderError, Renderer, STEPS_MAX, Surroundings, Template};
pub use unmatched::{Again, Unmatched, UnmatchedMessage, UnmatchedSnapshot};
pub use value_test::{ValueTest, equal, one_line, shown};
