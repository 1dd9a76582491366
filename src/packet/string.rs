//! UTF-8 Encoded Strings.

use std::hash::{Hash, Hasher};

use bytes::Bytes;

use super::DecodeError;

/// A UTF-8 Encoded String [section 1.5.4]: at most 65,535 bytes, no U+0000, no surrogates; a slice
/// of the buffer it was decoded from.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utf8String(Bytes);

/// Why bytes are no UTF-8 Encoded String.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadString {
    #[error("a string has at most 65535 bytes, this one has {0}")]
    TooLong(usize),
    #[error("U+0000 in a string")]
    Null,
    #[error("not UTF-8")]
    NotUtf8,
}

impl Utf8String {
    /// `None` for text that is too long or holds U+0000.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        Self::from_bytes(Bytes::from(text.into())).ok()
    }

    /// Checks `bytes` and keeps them, without a copy.
    ///
    /// # Errors
    /// [`BadString`] when they are too many, not UTF-8 or hold U+0000.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, BadString> {
        if bytes.len() > usize::from(u16::MAX) {
            return Err(BadString::TooLong(bytes.len()));
        }
        check(&bytes)?;
        Ok(Self(bytes))
    }

    /// `text`, which [`check`] returned of a part of `frame`.
    #[inline]
    pub(super) fn slice(frame: &Bytes, text: &str) -> Self {
        Self(frame.slice_ref(text.as_bytes()))
    }

    #[inline]
    pub fn as_str(&self) -> &str {
        // SAFETY: every constructor takes only what `check` or a `&str` proved to be UTF-8.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }

    /// The UTF-8 bytes, shared.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The text that `bytes` are, if they are UTF-8 without U+0000.
#[inline]
pub(super) fn check(bytes: &[u8]) -> Result<&str, BadString> {
    // One vectorised pass decides for ASCII, which nearly all strings are.
    if bytes.iter().fold(true, |plain, byte| plain & (1..0x80).contains(byte)) {
        // SAFETY: ASCII is UTF-8.
        return Ok(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    check_beyond_ascii(bytes)
}

#[cold]
fn check_beyond_ascii(bytes: &[u8]) -> Result<&str, BadString> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| BadString::NotUtf8)?;
    if text.contains('\0') { Err(BadString::Null) } else { Ok(text) }
}

impl BadString {
    pub(super) fn in_field(self, field: &'static str) -> DecodeError {
        match self {
            Self::Null => DecodeError::Null { field },
            // A length prefix of two bytes cannot say more than 65,535.
            Self::NotUtf8 | Self::TooLong(_) => DecodeError::NotUtf8 { field },
        }
    }
}

impl Hash for Utf8String {
    /// As `str` does, so that maps can be asked with a `&str`.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl std::borrow::Borrow<str> for Utf8String {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Utf8String {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl std::ops::Deref for Utf8String {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for Utf8String {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Utf8String {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl TryFrom<&str> for Utf8String {
    type Error = BadString;

    fn try_from(text: &str) -> Result<Self, BadString> {
        Self::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl TryFrom<String> for Utf8String {
    type Error = BadString;

    fn try_from(text: String) -> Result<Self, BadString> {
        Self::from_bytes(Bytes::from(text))
    }
}

impl TryFrom<Bytes> for Utf8String {
    type Error = BadString;

    fn try_from(bytes: Bytes) -> Result<Self, BadString> {
        Self::from_bytes(bytes)
    }
}

impl std::fmt::Debug for Utf8String {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.as_str(), f)
    }
}

impl std::fmt::Display for Utf8String {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
