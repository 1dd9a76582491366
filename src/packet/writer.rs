//! Puts packets together, field by field, or only counts the bytes that would take.
//!
//! A body is written by one generic function, first into a [`Size`], then into the buffer: so the
//! lengths on the wire cannot differ from what follows them.

use bytes::{BufMut, BytesMut};

use super::EncodeError;

/// The largest value of a Variable Byte Integer [section 1.5.5].
pub(super) const VARIABLE_MAX: u32 = 268_435_455;

/// Takes fields in their order on the wire.
pub(super) trait Writer {
    fn put(&mut self, bytes: &[u8]);

    /// Notes why the packet cannot be sent.
    fn refuse(&mut self, error: EncodeError);

    #[inline]
    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    #[inline]
    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    #[inline]
    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// A Variable Byte Integer [section 1.5.5].
    fn variable(&mut self, field: &'static str, value: u32) {
        if value > VARIABLE_MAX {
            return self.refuse(EncodeError::ValueTooLarge { field, value });
        }
        put_variable(value as usize, |byte| self.u8(byte));
    }

    /// Binary Data or a UTF-8 Encoded String [sections 1.5.6 and 1.5.4].
    #[inline]
    fn binary(&mut self, field: &'static str, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(len) => {
                self.u16(len);
                self.put(bytes);
            }
            Err(_) => self.refuse(EncodeError::FieldTooLong { field, len: bytes.len() }),
        }
    }
}

impl Writer for BytesMut {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn refuse(&mut self, error: EncodeError) {
        unreachable!("counting before writing found no {error}");
    }
}

/// Counts instead of writing.
#[derive(Default)]
pub(super) struct Size {
    bytes: usize,
    error: Option<EncodeError>,
}

impl Size {
    /// What `write` would write.
    pub(super) fn of(write: impl FnOnce(&mut Self)) -> Result<usize, EncodeError> {
        let mut size = Self::default();
        write(&mut size);
        match size.error {
            None => Ok(size.bytes),
            Some(error) => Err(error),
        }
    }
}

impl Writer for Size {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn refuse(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }
}

/// Hands on the bytes of a Variable Byte Integer.
#[inline]
pub fn put_variable(mut value: usize, mut put: impl FnMut(u8)) {
    while value > 0x7F {
        put(value as u8 | 0x80);
        value >>= 7;
    }
    put(value as u8);
}

/// How many bytes a Variable Byte Integer takes.
#[inline]
pub(super) const fn variable_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}
