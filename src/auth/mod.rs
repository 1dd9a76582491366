//! Enhanced authentication [section 4.12]: who a client is, proven by an exchange of messages.
//!
//! SCRAM-SHA-256 (RFC 5802, RFC 7677) is built in: neither side ever sends the password, and what
//! is kept of it here does not let anybody log in. Nothing here sends: callers pass on what is
//! returned.

mod random;
mod scram;
mod users;

pub use random::Random;
pub use scram::{Challenge, METHOD, Refused, Success};
pub use users::{BadUsers, UserList, Users};
