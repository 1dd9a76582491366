//! A share of a recording's clients.

use sha2::{Digest, Sha256};

/// A share of all clients, the same ones each time: whether a client is among them depends on a hash of its identifier
/// alone, and those of a share are among those of every larger one. Connections without identifier are one client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientSample {
    share: f64,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("a share of clients is above 0 and at most 1, not {0}")]
pub struct BadShare(f64);

impl ClientSample {
    /// # Errors
    /// When `share` is not above 0 and at most 1.
    pub fn new(share: f64) -> Result<Self, BadShare> {
        if share > 0.0 && share <= 1.0 { Ok(Self { share }) } else { Err(BadShare(share)) }
    }

    pub fn share(self) -> f64 {
        self.share
    }

    /// By the first eight bytes of the identifier's SHA-256, as a fraction of their range.
    pub fn has(self, client_identifier: &str) -> bool {
        let digest = Sha256::digest(client_identifier.as_bytes());
        let (first, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        // The whole range has no number of its own, but `as` takes the largest for it.
        u64::from_be_bytes(*first) <= (self.share * 2_f64.powi(64)) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_share_of_clients_is_the_same_ones_each_time_and_grows() {
        let among = |share: f64| {
            let sample = ClientSample::new(share).unwrap();
            (0..10_000).filter(|n| sample.has(&format!("dev-{n}"))).collect::<HashSet<_>>()
        };
        let (tenth, half) = (among(0.1), among(0.5));
        assert!((900..1100).contains(&tenth.len()), "{}", tenth.len());
        assert!((4800..5200).contains(&half.len()), "{}", half.len());
        assert!(tenth.is_subset(&half));
        assert_eq!(among(1.0).len(), 10_000);
        // Written down, because recordings of several machines are sampled alike.
        let first: Vec<_> = (0..40).filter(|n| tenth.contains(n)).collect();
        expect_test::expect!["[1, 3, 5, 9, 14, 22, 29]"].assert_eq(&format!("{first:?}"));
        for share in [0.0, -0.5, 1.01, f64::NAN] {
            assert!(ClientSample::new(share).is_err(), "{share}");
        }
    }
}
