//! Who a client is, and what it may do; and the same of callers of the control plane.
//!
//! A user name is proven by a password, by an exchange of messages [section 4.12] or by a certificate
//! that somebody else has looked at. Of enhanced authentication SCRAM-SHA-256 (RFC 5802, RFC 7677) is
//! built in: neither side ever sends the password, and what is kept of it here does not let anybody
//! log in. Nothing here sends: callers pass on what is returned.

mod access;
mod account;
mod acl;
mod api_token;
mod password;
mod queue;
mod random;
mod remembered;
mod scram;
#[cfg(test)]
pub(crate) mod tests;
mod users;

pub use access::{Access, Login};
pub use account::{Accounts, BadAccounts, UserSpec};
pub use acl::{Acl, AclRuleSpec, Action, Actions, Decision, Permissions, Subject};
pub use api_token::{ApiToken, ApiTokenSpec, ApiTokens, Role, check_token};
pub use password::{BadHash, LONGEST_PASSWORD, PasswordCheck, PasswordHash};
pub use queue::LoginQueue;
pub use random::Random;
pub use remembered::Remembered;
pub use scram::{Challenge, METHOD, Refused, Success};
pub use users::{BadUsers, UserList, Users};
