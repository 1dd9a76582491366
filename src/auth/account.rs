//! Users with passwords and groups, and what comes of a user name that a client gives.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{BadHash, LONGEST_PASSWORD, PasswordCheck, PasswordHash};
use crate::field::BadField;

/// A user as people write it in settings.
#[derive(Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["username"]))]
pub struct UserSpec {
    /// Required.
    pub username: String,
    /// Absent for a user who proves it otherwise: by the password file, SCRAM or a certificate.
    #[serde(deserialize_with = "hidden_text")]
    pub password_hash: Option<String>,
    /// What access rules may go by.
    pub groups: Vec<String>,
}

impl fmt::Debug for UserSpec {
    /// Without the hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, groups, .. } = self;
        f.debug_struct("UserSpec").field("username", username).field("groups", groups).finish_non_exhaustive()
    }
}

/// Text, of which an error does not show what was there instead: it may be a password.
fn hidden_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(D::Error::custom(BadHash::Plain)),
    }
}

/// Why users are refused.
#[derive(Clone, Debug, PartialEq)]
pub enum BadAccounts {
    /// The one at this position in the settings.
    User(usize, Vec<BadField>),
    /// The one on this line of the password file, from 1.
    Line(usize, String),
}

/// Everybody who has a password, or belongs to groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accounts {
    by_name: BTreeMap<Box<str>, Account>,
    /// Of all who have one, for those who are not there.
    hashes: Vec<Arc<PasswordHash>>,
    has_file: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Account {
    hash: Option<Arc<PasswordHash>>,
    groups: Box<[Box<str>]>,
}

impl Accounts {
    /// `file` is a password file: `name:hash` on each line that is neither empty nor begins with `#`.
    ///
    /// # Errors
    /// [`BadAccounts`]; its text shows neither passwords nor hashes.
    pub fn new(specs: &[UserSpec], file: Option<&str>) -> Result<Self, BadAccounts> {
        let mut accounts = Self { has_file: file.is_some(), ..Self::default() };
        for (position, spec) in specs.iter().enumerate() {
            let refused = |path: &str, what: String| {
                BadAccounts::User(position, vec![BadField { path: path.to_owned(), what }])
            };
            if spec.username.is_empty() {
                return Err(refused("username", "is required".to_owned()));
            }
            if accounts.by_name.contains_key(spec.username.as_str()) {
                return Err(refused("username", format!("{:?} is there twice", spec.username)));
            }
            if let Some(position) = spec.groups.iter().position(String::is_empty) {
                return Err(refused(&format!("groups[{position}]"), "is empty".to_owned()));
            }
            let hash = spec.password_hash.as_deref().map(PasswordHash::parse).transpose();
            let hash = hash.map_err(|error: BadHash| refused("password_hash", error.to_string()))?;
            let groups = spec.groups.iter().map(|group| group.as_str().into()).collect();
            accounts.add(&spec.username, hash, groups);
        }
        let lines = (1..).zip(file.unwrap_or_default().lines().map(str::trim));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            accounts.add_line(line).map_err(|what| BadAccounts::Line(number, what))?;
        }
        Ok(accounts)
    }

    fn add_line(&mut self, line: &str) -> Result<(), String> {
        let (name, hash) = line.split_once(':').ok_or("expected name:hash")?;
        if name.is_empty() {
            return Err("the name is missing".to_owned());
        }
        let hash = PasswordHash::parse(hash).map_err(|error| format!("user {name:?}: {error}"))?;
        match self.by_name.get_mut(name) {
            // Whoever is in the settings for the groups alone has the password here.
            Some(account) if account.hash.is_none() => {
                let groups = std::mem::take(&mut account.groups);
                self.add(name, Some(hash), groups);
                Ok(())
            }
            Some(_) => Err(format!("user {name:?} is there twice")),
            None => {
                self.add(name, Some(hash), Box::default());
                Ok(())
            }
        }
    }

    fn add(&mut self, name: &str, hash: Option<PasswordHash>, groups: Box<[Box<str>]>) {
        let hash = hash.map(Arc::new);
        self.hashes.extend(hash.clone());
        self.by_name.insert(name.into(), Account { hash, groups });
    }

    /// Whether a user name has to be right, if one is given.
    pub fn is_in_force(&self) -> bool {
        self.has_file || !self.by_name.is_empty()
    }

    pub fn groups(&self, name: &str) -> &[Box<str>] {
        self.by_name.get(name).map_or(&[], |account| &account.groups)
    }

    /// What there is to be checked of a user name and password; `None` if they are wrong without a look.
    ///
    /// That takes as long for a user who is not there as for one who is: the hash of somebody, always of
    /// the same one.
    pub fn check(&self, name: &str, password: Option<&Bytes>) -> Option<PasswordCheck> {
        let own = self.by_name.get(name).and_then(|account| account.hash.as_ref());
        let hash = match own {
            Some(own) => own,
            None => {
                let digest = Sha256::digest(name);
                let number = u64::from_be_bytes(*digest.first_chunk().expect("32 bytes"));
                self.hashes.get((number % self.hashes.len().max(1) as u64) as usize)?
            }
        };
        let password = password.filter(|password| password.len() <= LONGEST_PASSWORD);
        Some(PasswordCheck {
            hash: Arc::clone(hash),
            // A copy: it may have to wait, and a part of a packet would keep all of it.
            password: Bytes::copy_from_slice(password.map_or(&[], |password| password)),
            is_in_vain: own.is_none() || password.is_none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests::quick_hash;

    fn user(username: &str, password: Option<&str>, groups: &[&str]) -> UserSpec {
        UserSpec {
            username: username.to_owned(),
            password_hash: password.map(quick_hash),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        }
    }

    fn is_right(accounts: &Accounts, name: &str, password: Option<&str>) -> Option<bool> {
        let password = password.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        accounts.check(name, password.as_ref()).map(|check| check.run())
    }

    #[test]
    fn users_come_from_settings_and_a_file() {
        let file = format!("# ours\n\nbob:{}\n  carol:{} \n", quick_hash("b"), quick_hash("c"));
        let users = [user("alice", Some("a"), &["ops", "dev"]), user("bob", None, &["dev"])];
        let accounts = Accounts::new(&users, Some(&file)).expect("good users");
        for (name, password, right) in [
            ("alice", Some("a"), true),
            ("alice", Some("b"), false),
            ("bob", Some("b"), true),
            ("carol", Some("c"), true),
            ("carol", None, false),
            ("nobody", Some("a"), false),
            ("", Some("a"), false),
        ] {
            assert_eq!(is_right(&accounts, name, password), Some(right), "{name} {password:?}");
        }
        assert_eq!(accounts.groups("alice"), ["ops".into(), "dev".into()]);
        assert_eq!(accounts.groups("bob"), ["dev".into()]);
        assert!(accounts.groups("nobody").is_empty());
    }

    #[test]
    fn who_is_not_there_costs_what_somebody_costs_and_is_wrong_even_with_a_password_of_theirs() {
        let accounts = Accounts::new(&[user("alice", Some("a"), &[])], None).expect("good users");
        let check = accounts.check("nobody", Some(&Bytes::from_static(b"a"))).expect("a check");
        assert_eq!(check.hash, accounts.check("alice", None).expect("a check").hash);
        assert!(!check.run());
    }

    #[test]
    fn names_have_to_be_right_as_soon_as_there_are_users_or_a_file() {
        assert!(!Accounts::default().is_in_force());
        let empty = Accounts::new(&[], Some("")).expect("nobody");
        assert!(empty.is_in_force());
        assert_eq!(is_right(&empty, "alice", Some("a")), None);
        let grouped = Accounts::new(&[user("alice", None, &["ops"])], None).expect("good users");
        assert!(grouped.is_in_force());
        assert_eq!(is_right(&grouped, "alice", Some("a")), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_without_the_password() {
        let wrong = |users: &[UserSpec], file: Option<&str>| Accounts::new(users, file).expect_err("wrong");
        let field = |position, path: &str, what: &str| {
            BadAccounts::User(position, vec![BadField { path: path.to_owned(), what: what.to_owned() }])
        };
        let line = |number, what: &str| BadAccounts::Line(number, what.to_owned());
        let plain = "expected the hash of a password, which `mockforge passwd --hash` makes";
        let mut hunter = user("alice", None, &[]);
        hunter.password_hash = Some("hunter2".to_owned());
        assert_eq!(wrong(&[hunter], None), field(0, "password_hash", plain));
        assert_eq!(wrong(&[user("", None, &[])], None), field(0, "username", "is required"));
        let twice = [user("alice", None, &[]), user("alice", None, &[])];
        assert_eq!(wrong(&twice, None), field(1, "username", "\"alice\" is there twice"));
        assert_eq!(wrong(&[user("alice", None, &["a", ""])], None), field(0, "groups[1]", "is empty"));
        assert_eq!(wrong(&[], Some("\nalice:hunter2")), line(2, &format!("user \"alice\": {plain}")));
        assert_eq!(wrong(&[], Some("hunter2")), line(1, "expected name:hash"));
        assert_eq!(wrong(&[], Some(&format!(":{}", quick_hash("a")))), line(1, "the name is missing"));
        let twice = format!("a:{0}\na:{0}", quick_hash("a"));
        assert_eq!(wrong(&[], Some(&twice)), line(2, "user \"a\" is there twice"));
        let both = format!("alice:{}", quick_hash("a"));
        let error = wrong(&[user("alice", Some("a"), &[])], Some(&both));
        assert_eq!(error, line(1, "user \"alice\" is there twice"));
    }
}
