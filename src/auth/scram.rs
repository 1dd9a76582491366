//! The server's side of SCRAM-SHA-256 without channel binding: two messages from the client, two
//! answers.

use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::users::{Digest256, Users, Verifier, prepare, sign};

/// The Authentication Method.
pub const METHOD: &str = "SCRAM-SHA-256";

/// Bytes of a client's nonce; clients send some dozens.
const LONGEST_NONCE: usize = 1024;

/// Bytes of a client's first message, of which an exchange keeps several copies.
const LONGEST_FIRST: usize = 4096;

/// Why a client is not let in. Says nothing that would help to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the first message of SCRAM is malformed")]
    FirstMessage,
    #[error("the final message of SCRAM is malformed")]
    FinalMessage,
    #[error("channel binding is not supported")]
    ChannelBinding,
    #[error("nobody may act for another user")]
    OtherUser,
    #[error("a mandatory extension of SCRAM is not supported")]
    Extension,
    #[error("the final message of SCRAM answers another challenge")]
    OtherExchange,
    #[error("user name or password is wrong")]
    Proof,
}

/// A client that said who it is and has to prove it.
pub struct Challenge {
    user: String,
    verifier: Verifier,
    /// `n,,` or the like, which the client repeats.
    header: String,
    /// Both nonces.
    nonce: String,
    /// The first messages of both sides, with the comma behind each.
    messages: String,
    /// What to send: the server's first message.
    pub message: String,
}

/// A client that has proven who it is.
#[derive(Debug, PartialEq)]
pub struct Success {
    pub user: String,
    /// What proves to the client that we know it: the server's final message.
    pub message: String,
}

impl Challenge {
    /// Answers the client's first message.
    ///
    /// # Errors
    /// [`Refused`] for one that is malformed or asks for what is not supported. That a user is not
    /// there shows only at the end.
    pub fn new(users: &mut Users, first: &[u8]) -> Result<Self, Refused> {
        if first.len() > LONGEST_FIRST {
            return Err(Refused::FirstMessage);
        }
        let first = std::str::from_utf8(first).map_err(|_| Refused::FirstMessage)?;
        let (binding, rest) = first.split_once(',').ok_or(Refused::FirstMessage)?;
        let (identity, bare) = rest.split_once(',').ok_or(Refused::FirstMessage)?;
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(Refused::ChannelBinding),
            _ => return Err(Refused::FirstMessage),
        }
        let mut attributes = bare.split(',');
        let user = match attributes.next().and_then(|attribute| attribute.split_once('=')) {
            Some(("n", name)) => unescape(name).ok_or(Refused::FirstMessage)?,
            Some(("m", _)) => return Err(Refused::Extension),
            _ => return Err(Refused::FirstMessage),
        };
        let client_nonce = attributes
            .next()
            .and_then(|attribute| attribute.strip_prefix("r="))
            .filter(|nonce| (1..=LONGEST_NONCE).contains(&nonce.len()))
            .filter(|nonce| nonce.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or(Refused::FirstMessage)?;
        match identity.strip_prefix("a=").map(unescape) {
            None if identity.is_empty() => {}
            Some(Some(other)) if other == user => {}
            Some(Some(_)) => return Err(Refused::OtherUser),
            _ => return Err(Refused::FirstMessage),
        }
        let user = prepare(&user).ok_or(Refused::FirstMessage)?;
        let verifier = users.verifier(&user);
        let nonce = format!("{client_nonce}{}", users.nonce());
        let salt = BASE64_STANDARD.encode(&verifier.salt);
        let message = format!("r={nonce},s={salt},i={}", verifier.iterations);
        Ok(Self {
            user,
            verifier,
            header: first[..first.len() - bare.len()].to_owned(),
            nonce,
            messages: format!("{bare},{message},"),
            message,
        })
    }

    /// Checks the client's final message.
    ///
    /// # Errors
    /// [`Refused`] unless it proves that the client knows the password.
    pub fn verify(self, last: &[u8]) -> Result<Success, Refused> {
        let last = std::str::from_utf8(last).map_err(|_| Refused::FinalMessage)?;
        // The proof is the last attribute, and signs those before it.
        let (signed, proof) = last.rsplit_once(",p=").ok_or(Refused::FinalMessage)?;
        let proof: Digest256 = BASE64_STANDARD
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or(Refused::FinalMessage)?;
        let mut attributes = signed.split(',');
        let binding = attributes.next().and_then(|attribute| attribute.strip_prefix("c="));
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r="));
        let (Some(binding), Some(nonce)) = (binding, nonce) else { return Err(Refused::FinalMessage) };
        if attributes.any(|attribute| attribute.starts_with("m=")) {
            return Err(Refused::Extension);
        }
        if nonce != self.nonce || binding != BASE64_STANDARD.encode(&self.header) {
            return Err(Refused::OtherExchange);
        }
        let messages = [self.messages.as_bytes(), signed.as_bytes()];
        let mut client_key = sign(&self.verifier.stored_key, &messages);
        for (byte, mask) in client_key.iter_mut().zip(proof) {
            *byte ^= mask;
        }
        if !bool::from(Sha256::digest(client_key).as_slice().ct_eq(&self.verifier.stored_key)) {
            return Err(Refused::Proof);
        }
        let signature = BASE64_STANDARD.encode(sign(&self.verifier.server_key, &messages));
        Ok(Success { user: self.user, message: format!("v={signature}") })
    }
}

/// A name in which `=2C` stands for a comma and `=3D` for `=`.
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut text = parts.next().filter(|_| !name.is_empty())?.to_owned();
    for part in parts {
        let (letter, rest) = match part.split_at_checked(2)? {
            ("2C", rest) => (',', rest),
            ("3D", rest) => ('=', rest),
            _ => return None,
        };
        text.push(letter);
        text.push_str(rest);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::UserList;

    /// The example of RFC 7677, section 3.
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const CLIENT_PROOF: &str = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_SIGNATURE: &str = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn users(text: &str) -> Users {
        Users::new(&UserList::parse(text).expect("users"), 1)
    }

    /// A client that knows `password`; its final message.
    fn answer(password: &str, first: &str, challenge: &str) -> String {
        let bare = first.splitn(3, ',').nth(2).expect("a first message");
        let header = &first[..first.len() - bare.len()];
        let field =
            |key: &str| challenge.split(',').find_map(|part| part.strip_prefix(key)).expect("a field");
        let salt = BASE64_STANDARD.decode(field("s=")).expect("Base64");
        let iterations = field("i=").parse().expect("a number");
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), &salt, iterations);
        let client_key = sign(&salted, &[b"Client Key"]);
        let signed = format!("c={},r={}", BASE64_STANDARD.encode(header), field("r="));
        let messages = format!("{bare},{challenge},{signed}");
        let signature = sign(&Sha256::digest(client_key), &[messages.as_bytes()]);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, mask)| key ^ mask).collect();
        format!("{signed},p={}", BASE64_STANDARD.encode(proof))
    }

    fn refused(users: &mut Users, first: &str) -> Option<Refused> {
        Challenge::new(users, first.as_bytes()).err()
    }

    #[test]
    fn the_example_of_the_rfc_succeeds() {
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(
            b"pencil",
            &BASE64_STANDARD.decode(SALT).expect("Base64"),
            4096,
        );
        let verifier = Verifier {
            salt: BASE64_STANDARD.decode(SALT).expect("Base64"),
            iterations: 4096,
            stored_key: Sha256::digest(sign(&salted, &[b"Client Key"])).into(),
            server_key: sign(&salted, &[b"Server Key"]),
        };
        let message = format!("r={NONCE},s={SALT},i=4096");
        let challenge = Challenge {
            user: "user".to_owned(),
            verifier,
            header: "n,,".to_owned(),
            nonce: NONCE.to_owned(),
            messages: format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{message},"),
            message: message.clone(),
        };
        let last = format!("c=biws,r={NONCE},p={CLIENT_PROOF}");
        assert_eq!(answer("pencil", CLIENT_FIRST, &message), last);
        let success = challenge.verify(last.as_bytes()).expect("the proof is right");
        assert_eq!(success.message, format!("v={SERVER_SIGNATURE}"));
    }

    #[test]
    fn the_password_decides() {
        let mut users = users("alice:secret,b=o:x,co\u{AA}:x");
        for (first, password, user) in [
            ("n,,n=alice,r=abc", "secret", Some("alice")),
            ("y,a=alice,n=alice,r=abc,ext=1", "secret", Some("alice")),
            ("n,,n=b=3Do,r=abc", "x", Some("b=o")),
            ("n,,n=coa,r=abc", "x", Some("coa")),
            ("n,,n=alice,r=abc", "Secret", None),
            ("n,,n=nobody,r=abc", "secret", None),
        ] {
            let challenge = Challenge::new(&mut users, first.as_bytes()).expect("a challenge");
            let last = answer(password, first, &challenge.message);
            let result = challenge.verify(last.as_bytes());
            let expected = user.map_or(Err(Refused::Proof), |user| Ok(user.to_owned()));
            assert_eq!(result.map(|success| success.user), expected, "{first}");
        }
    }

    #[test]
    fn malformed_first_messages_are_refused() {
        let mut users = users("alice:secret");
        for first in
            ["", "n", "n,", "x,,n=alice,r=a", "n,,n=alice", "n,,r=a,n=alice", "n,,n=,r=a", "n,,n=a=2,r=a"]
        {
            assert_eq!(refused(&mut users, first), Some(Refused::FirstMessage), "{first}");
        }
        for first in ["n,,n=a=2X,r=a", "n,,n=alice,r=", "n,,n=alice,r=\u{e4}", "n,b=x,n=alice,r=a"] {
            assert_eq!(refused(&mut users, first), Some(Refused::FirstMessage), "{first}");
        }
        let long = "a".repeat(LONGEST_FIRST);
        assert_eq!(refused(&mut users, &format!("n,,n={long},r=a")), Some(Refused::FirstMessage));
        assert_eq!(Challenge::new(&mut users, b"n,,n=\xff,r=a").err(), Some(Refused::FirstMessage));
        assert_eq!(refused(&mut users, "p=tls-unique,,n=alice,r=a"), Some(Refused::ChannelBinding));
        assert_eq!(refused(&mut users, "n,a=bob,n=alice,r=a"), Some(Refused::OtherUser));
        assert_eq!(refused(&mut users, "n,,m=x,n=alice,r=a"), Some(Refused::Extension));
    }

    #[test]
    fn final_messages_that_do_not_fit_are_refused() {
        let mut users = users("alice:secret");
        let first = "n,,n=alice,r=abc";
        let mut try_with = |change: &dyn Fn(String) -> String| {
            let challenge = Challenge::new(&mut users, first.as_bytes()).expect("a challenge");
            let last = change(answer("secret", first, &challenge.message));
            challenge.verify(last.as_bytes()).err()
        };
        assert_eq!(try_with(&|last| last), None);
        assert_eq!(try_with(&|_| String::new()), Some(Refused::FinalMessage));
        assert_eq!(try_with(&|last| last.replace(",p=", ",q=")), Some(Refused::FinalMessage));
        assert_eq!(try_with(&|last| last + "="), Some(Refused::FinalMessage));
        assert_eq!(try_with(&|last| last.replace("c=", "b=")), Some(Refused::FinalMessage));
        assert_eq!(try_with(&|last| last.replace("biws", "eSws")), Some(Refused::OtherExchange));
        assert_eq!(try_with(&|last| last.replace("r=abc", "r=abd")), Some(Refused::OtherExchange));
        assert_eq!(try_with(&|last| last.replace(",p=", ",m=x,p=")), Some(Refused::Extension));
        assert_eq!(try_with(&|last| last.replace(",p=", ",x=y,p=")), Some(Refused::Proof));
    }

    #[test]
    fn a_nonce_is_never_given_twice() {
        let mut users = users("alice:secret");
        let mut message = || Challenge::new(&mut users, b"n,,n=alice,r=abc").expect("a challenge").message;
        assert_ne!(message(), message());
    }
}
