//! How a broker behaves beyond its limits.

use std::time::Duration;

use crate::auth::{Access, UserList};

use super::{Limits, journal::Durability};

/// Everything about a broker that is a setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub limits: Limits,
    /// How often the figures below `$SYS/broker/` are published; zero is never.
    pub sys_interval: Duration,
    /// Who may authenticate with SCRAM-SHA-256; with nobody in it the method is not supported.
    pub scram_users: UserList,
    /// Who else is let in, and who may do what.
    pub access: Access,
    /// Whether, and how soon, changes of what outlives the broker are told by
    /// [`Output::Persist`](super::Output::Persist).
    pub durability: Durability,
}

impl From<Limits> for Options {
    fn from(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }
}
