//! Everything that says who is let in and who may do what.

use bytes::Bytes;

use super::{Accounts, Acl, PasswordCheck};

/// Who may do what, checked; replaced as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// Whether clients are let in that do not say who they are.
    pub allow_anonymous: bool,
    pub accounts: Accounts,
    pub acl: Acl,
}

/// What a CONNECT without an authentication method comes to.
#[derive(Debug, PartialEq)]
pub enum Login {
    /// Let in, as nobody in particular: a user name, if there is one, is anybody's.
    Anonymous,
    /// It depends on the password.
    Check(PasswordCheck),
    /// User name or password are wrong.
    Wrong,
    /// Whoever does not say who they are is not let in.
    NotAuthorized,
}

impl Default for Access {
    /// Everybody may do everything.
    fn default() -> Self {
        Self { allow_anonymous: true, accounts: Accounts::default(), acl: Acl::default() }
    }
}

impl Access {
    pub fn log_in(&self, username: Option<&str>, password: Option<&Bytes>) -> Login {
        let Some(name) = username else {
            return if self.allow_anonymous { Login::Anonymous } else { Login::NotAuthorized };
        };
        if !self.accounts.is_in_force() {
            // There is nothing to compare it with.
            return if self.allow_anonymous { Login::Anonymous } else { Login::Wrong };
        }
        self.accounts.check(name, password).map_or(Login::Wrong, Login::Check)
    }
}
