//! The broker that a command was told to talk to.

use std::fmt;

use crate::net::{BadUrl, MqttUrl};

/// A target as typed, credentials included, and as read.
#[derive(Clone)]
pub struct Target {
    pub text: String,
    pub url: MqttUrl,
}

/// # Errors
/// For what is no `mqtt://` URL.
pub fn parse_target(text: &str) -> Result<Target, BadUrl> {
    Ok(Target { text: text.to_owned(), url: text.parse()? })
}

/// Without the password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_target_is_not_shown() {
        let target = parse_target("mqtt://me:s3cret@broker").unwrap();
        assert!(!format!("{target:?}").contains("s3cret"));
    }
}
