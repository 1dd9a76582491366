//! Which recordings go, so that a store does not grow without end.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// What a store may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// As stored; `None` is no limit.
    pub bytes: Option<u64>,
    /// Since a recording ended, or was imported; `None` is no limit.
    pub age: Option<Duration>,
}

/// What matters of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub id: String,
    pub bytes: u64,
    /// When it ended here; `None` as long as it is being made.
    pub since: Option<Timestamp>,
}

/// Why a recording goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    Age,
    Size,
}

impl Expired {
    /// The setting that says so.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Age => "store.max_age_secs",
            Self::Size => "store.max_bytes",
        }
    }
}

impl Retention {
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Which of `stored` go, the oldest first: what is too old, then as many more as there are too many bytes. Those that
    /// are being made stay, but their bytes count.
    pub fn expired(&self, mut stored: Vec<Stored>, now: Timestamp) -> Vec<(Stored, Expired)> {
        let mut bytes: u64 = stored.iter().map(|one| one.bytes).sum();
        stored.retain(|one| one.since.is_some());
        stored.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        let mut expired = Vec::new();
        for one in stored {
            let age = one.since.map(|since| now.duration_since(since)).unwrap_or_default();
            let is_old =
                self.age.and_then(|age| SignedDuration::try_from(age).ok()).is_some_and(|max| age > max);
            let why = if is_old {
                Expired::Age
            } else if self.bytes.is_some_and(|max| bytes > max) {
                Expired::Size
            } else {
                continue;
            };
            bytes -= one.bytes;
            expired.push((one, why));
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: &str, bytes: u64, since: Option<i64>) -> Stored {
        let since = since.map(|second| Timestamp::from_second(second).expect("within range"));
        Stored { id: id.to_owned(), bytes, since }
    }

    fn gone(bytes: Option<u64>, age: Option<u64>) -> Vec<(String, Expired)> {
        let retention = Retention { bytes, age: age.map(Duration::from_secs) };
        let all = vec![
            stored("new", 10, Some(100)),
            stored("running", 50, None),
            stored("old", 20, Some(10)),
            stored("middle", 5, Some(50)),
        ];
        let expired = retention.expired(all, Timestamp::from_second(110).expect("within range"));
        expired.into_iter().map(|(one, why)| (one.id, why)).collect()
    }

    #[test]
    fn the_oldest_go_and_none_that_is_being_made() {
        use Expired::{Age, Size};
        let named = |names: &[(&str, Expired)]| {
            names.iter().map(|(name, why)| ((*name).to_owned(), *why)).collect::<Vec<_>>()
        };
        assert_eq!(gone(None, None), []);
        assert_eq!(gone(Some(85), Some(100)), []);
        assert_eq!(gone(Some(84), None), named(&[("old", Size)]));
        assert_eq!(gone(Some(64), None), named(&[("old", Size), ("middle", Size)]));
        assert_eq!(gone(Some(1), None), named(&[("old", Size), ("middle", Size), ("new", Size)]));
        assert_eq!(gone(None, Some(60)), named(&[("old", Age)]));
        assert_eq!(gone(Some(60), Some(70)), named(&[("old", Age), ("middle", Size)]));
    }
}
