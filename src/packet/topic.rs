//! Topic Names and Topic Filters, and which match which.

use bytes::Bytes;

use super::Utf8String;

/// A Topic Name [section 4.7]: at least one byte [MQTT-4.7.3-1], no wildcards [MQTT-3.3.2-2].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Utf8String);

/// Why text is no Topic Name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    #[error("a topic name has at least one character")]
    Empty,
    #[error("a topic name has at most 65535 bytes, this one has {0}")]
    TooLong(usize),
    #[error("U+0000 in a topic name")]
    Null,
    #[error("wildcard {0:?} in a topic name")]
    Wildcard(char),
}

impl TopicName {
    /// Checks `text` and copies it.
    ///
    /// # Errors
    /// [`BadTopic`] when it is empty, too long, or holds a wildcard or U+0000.
    pub fn parse(text: &str) -> Result<Self, BadTopic> {
        check_name(text)?;
        Ok(Self(own(text)))
    }

    /// `text` is a part of `frame` and a Topic Name.
    #[inline]
    pub(super) fn slice(frame: &Bytes, text: &str) -> Self {
        Self(Utf8String::slice(frame, text))
    }

    #[inline]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn as_utf8_string(&self) -> &Utf8String {
        &self.0
    }

    /// The levels between the slashes; `/a` has an empty one first.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.as_str().split('/')
    }
}

impl TryFrom<Utf8String> for TopicName {
    type Error = BadTopic;

    fn try_from(text: Utf8String) -> Result<Self, BadTopic> {
        check_name(&text)?;
        Ok(Self(text))
    }
}

/// A Topic Filter [section 4.7], shared ones (`$share/{group}/{filter}`) included.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Utf8String);

/// Why text is no Topic Filter; levels count from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    #[error("a topic filter has at least one character")]
    Empty,
    #[error("a topic filter has at most 65535 bytes, this one has {0}")]
    TooLong(usize),
    #[error("U+0000 in a topic filter")]
    Null,
    #[error("level {level}: '#' stands alone and last")]
    MultiLevel { level: usize },
    #[error("level {level}: '+' stands alone in its level")]
    SingleLevel { level: usize },
    #[error("a share name is not empty and holds no '/', '+' or '#', and a filter follows it")]
    Share,
}

impl TopicFilter {
    /// Checks `text` against the wildcard rules of section 4.7.1 and the form of section 4.8.2, and
    /// copies it.
    ///
    /// # Errors
    /// [`BadFilter`] names the first level that breaks a rule.
    pub fn parse(text: &str) -> Result<Self, BadFilter> {
        check_filter(text)?;
        Ok(Self(own(text)))
    }

    /// `text` is a part of `frame` and a Topic Filter.
    pub(super) fn slice(frame: &Bytes, text: &str) -> Self {
        Self(Utf8String::slice(frame, text))
    }

    /// As given, `$share/…` included.
    #[inline]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn as_utf8_string(&self) -> &Utf8String {
        &self.0
    }

    /// Whether this is a shared subscription [section 4.8.2].
    pub fn is_shared(&self) -> bool {
        self.as_str().starts_with(SHARE)
    }

    /// The Share Name of a shared subscription.
    pub fn share_name(&self) -> Option<&str> {
        split_share(self.as_str()).map(|(name, _)| name)
    }

    /// The filter that topics are matched with: without `$share/{group}/`.
    pub fn pattern(&self) -> &str {
        split_share(self.as_str()).map_or(self.as_str(), |(_, pattern)| pattern)
    }

    /// The levels of [`pattern`](Self::pattern).
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.pattern().split('/')
    }

    /// Whether [`pattern`](Self::pattern) matches `topic`; wildcards in the first level never match
    /// a topic that starts with `$` [MQTT-4.7.2-1].
    pub fn matches(&self, topic: &TopicName) -> bool {
        self.matches_str(topic.as_str())
    }

    /// As [`matches`](Self::matches), of a topic that nobody has checked.
    pub fn matches_str(&self, topic: &str) -> bool {
        let (pattern, topic) = (self.pattern().as_bytes(), topic.as_bytes());
        if topic.starts_with(b"$") && matches!(pattern, [b'+' | b'#', ..]) {
            return false;
        }
        let mut levels = topic.split(|byte| *byte == b'/');
        for wanted in pattern.split(|byte| *byte == b'/') {
            match (wanted, levels.next()) {
                // Also what stands above it: `sport/#` matches `sport`.
                (b"#", _) => return true,
                (b"+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// Whether every topic that `other` matches is one that this filter matches. Of shared ones the
    /// [pattern](Self::pattern) counts.
    pub fn covers(&self, other: &Self) -> bool {
        let (wide, narrow) = (self.pattern(), other.pattern());
        if wide.starts_with(['+', '#']) && narrow.starts_with('$') {
            return false; // [MQTT-4.7.2-1]
        }
        let mut wide = wide.split('/');
        // No topic is empty, so `#` has one level at least, and `/#` two.
        let mut narrow = match narrow {
            "#" => "+/#",
            "/#" => "/+/#",
            narrow => narrow,
        }
        .split('/');
        loop {
            match (wide.next(), narrow.next()) {
                (Some("#"), _) | (None, None) => return true,
                // `a/#` matches `a`, too.
                (_, Some("#")) => return false,
                (Some("+"), Some(_)) => {}
                (Some(wide), Some(narrow)) if wide == narrow => {}
                _ => return false,
            }
        }
    }

    /// Whether there is a topic that both filters match. Of shared ones the
    /// [pattern](Self::pattern) counts.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (one, other) = (self.pattern(), other.pattern());
        let is_wild = |filter: &str| filter.starts_with(['+', '#']);
        if is_wild(one) && other.starts_with('$') || one.starts_with('$') && is_wild(other) {
            return false; // [MQTT-4.7.2-1]
        }
        if matches!((one, other), ("/#", "+") | ("+", "/#")) {
            return false; // They have nothing in common but the empty topic, which is none.
        }
        let (mut one, mut other) = (one.split('/'), other.split('/'));
        loop {
            match (one.next(), other.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    }
}

impl TryFrom<Utf8String> for TopicFilter {
    type Error = BadFilter;

    fn try_from(text: Utf8String) -> Result<Self, BadFilter> {
        check_filter(&text)?;
        Ok(Self(text))
    }
}

macro_rules! text_type {
    ($type:ident, $error:ident) => {
        impl std::str::FromStr for $type {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                Self::parse(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = $error;

            fn try_from(text: &str) -> Result<Self, $error> {
                Self::parse(text)
            }
        }

        impl From<$type> for Utf8String {
            fn from(text: $type) -> Self {
                text.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

text_type!(TopicName, BadTopic);
text_type!(TopicFilter, BadFilter);

const SHARE: &str = "$share/";

/// The Share Name and the filter behind it.
fn split_share(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix(SHARE)?.split_once('/')
}

/// Whether `topic` is ASCII, without wildcards and U+0000: a Topic Name unless it is empty.
#[inline]
pub(super) fn is_plain(topic: &[u8]) -> bool {
    // Without an early exit, so that it is vectorised.
    topic
        .iter()
        .fold(true, |plain, &byte| plain & (1..0x80).contains(&byte) & (byte != b'+') & (byte != b'#'))
}

pub(super) fn check_name(text: &str) -> Result<(), BadTopic> {
    match text.len() {
        0 => return Err(BadTopic::Empty),
        len if len > usize::from(u16::MAX) => return Err(BadTopic::TooLong(len)),
        _ => {}
    }
    match text.chars().find(|c| matches!(c, '\0' | '+' | '#')) {
        None => Ok(()),
        Some('\0') => Err(BadTopic::Null),
        Some(wildcard) => Err(BadTopic::Wildcard(wildcard)),
    }
}

pub(super) fn check_filter(text: &str) -> Result<(), BadFilter> {
    match text.len() {
        0 => return Err(BadFilter::Empty),
        len if len > usize::from(u16::MAX) => return Err(BadFilter::TooLong(len)),
        _ if text.contains('\0') => return Err(BadFilter::Null),
        _ => {}
    }
    if text.starts_with(SHARE) {
        match split_share(text) {
            Some((name, pattern)) if name.is_empty() || name.contains(['+', '#']) || pattern.is_empty() => {
                return Err(BadFilter::Share);
            }
            None => return Err(BadFilter::Share),
            Some(_) => {}
        }
    }
    let mut levels = text.split('/').enumerate().peekable();
    while let Some((level, name)) = levels.next() {
        if name.contains('#') && (name != "#" || levels.peek().is_some()) {
            return Err(BadFilter::MultiLevel { level }); // [MQTT-4.7.1-1]
        }
        if name.contains('+') && name != "+" {
            return Err(BadFilter::SingleLevel { level }); // [MQTT-4.7.1-2]
        }
    }
    Ok(())
}

fn own(checked: &str) -> Utf8String {
    Utf8String::try_from(checked).expect("neither too long nor with U+0000, as was checked")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).expect("a valid filter")
    }

    #[test]
    fn a_filter_covers_another_if_it_matches_all_that_the_other_does() {
        for (wide, narrow, covers) in [
            ("a/#", "a", true),
            ("a/#", "a/+/b", true),
            ("a/+", "a/#", false),
            ("a/+/#", "a/#", false),
            ("+/#", "#", true),
            ("#", "$SYS/#", false),
            ("$SYS/#", "$SYS/broker/+", true),
            ("+/b", "$share/group/a/b", true),
            ("$share/group/a/#", "a/b", true),
            ("a/b", "a/+", false),
        ] {
            assert_eq!(filter(wide).covers(&filter(narrow)), covers, "{wide} {narrow}");
        }
    }

    #[test]
    fn filters_overlap_if_a_topic_matches_both() {
        for (one, other, overlap) in [
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/#", "a/+", true),
            ("a/+", "a", false),
            ("#", "$SYS/#", false),
            ("+", "/#", false),
            ("$share/group/a/+", "a/b", true),
            ("a/+/c", "a/b/d", false),
        ] {
            assert_eq!(filter(one).overlaps(&filter(other)), overlap, "{one} {other}");
            assert_eq!(filter(other).overlaps(&filter(one)), overlap, "{other} {one}");
        }
    }

    fn any_filter() -> impl Strategy<Value = TopicFilter> {
        let level = prop::sample::select(vec!["a", "b", "", "+", "$x"]);
        (prop::collection::vec(level, 0..4), any::<bool>())
            .prop_map(|(mut levels, multi)| {
                if multi {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter_map("empty", |text| TopicFilter::parse(&text).ok())
    }

    /// Every topic of up to five levels out of those that filters name, and one more.
    fn topics() -> Vec<String> {
        let mut topics = vec![String::new()];
        let mut longest: Vec<String> = vec![String::new()];
        for depth in 0..5 {
            let slash = if depth == 0 { "" } else { "/" };
            let longer =
                |topic: &String| ["a", "b", "", "$x", "c"].map(|level| format!("{topic}{slash}{level}"));
            longest = longest.iter().flat_map(longer).collect();
            topics.extend(longest.iter().cloned());
        }
        topics.retain(|topic| !topic.is_empty());
        topics
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn covering_and_overlapping_equal_what_trying_all_topics_says(one in any_filter(), other in any_filter()) {
            let topics = topics();
            let matched = |filter: &TopicFilter| -> Vec<bool> {
                topics.iter().map(|topic| filter.matches_str(topic)).collect()
            };
            let (one_matches, other_matches) = (matched(&one), matched(&other));
            let mut pairs = one_matches.iter().zip(&other_matches);
            prop_assert_eq!(one.overlaps(&other), pairs.any(|(&one, &other)| one && other));
            let mut pairs = one_matches.iter().zip(&other_matches);
            prop_assert_eq!(one.covers(&other), pairs.all(|(&one, &other)| one || !other));
        }
    }
}
