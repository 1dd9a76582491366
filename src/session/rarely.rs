//! Parts of a Session that most Sessions never need.

use std::ops::{Deref, DerefMut};

/// A value that takes one word until it is changed for the first time, and reads as empty until then.
#[derive(Clone, Debug, Default)]
pub struct Rarely<T>(Option<Box<T>>);

/// Has a value to show where there is none yet.
pub trait Empty: Default + 'static {
    fn empty() -> &'static Self;
}

impl<T: Empty> Rarely<T> {
    /// The value, unless it was never changed.
    #[inline]
    pub fn changed(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T: Empty> Deref for Rarely<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => T::empty(),
        }
    }
}

impl<T: Empty> DerefMut for Rarely<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Empty for Vec<u8> {
        fn empty() -> &'static Self {
            static EMPTY: Vec<u8> = Vec::new();
            &EMPTY
        }
    }

    #[test]
    fn reading_leaves_it_as_it_is_and_changing_makes_it() {
        let mut value = Rarely::<Vec<u8>>::default();
        assert!(value.is_empty() && value.changed().is_none());
        assert_eq!(size_of_val(&value), size_of::<usize>());
        value.push(1);
        assert_eq!(*value, [1]);
        assert!(value.changed().is_some());
    }
}
