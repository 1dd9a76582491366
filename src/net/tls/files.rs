//! Files that are in use, and can be read again.

use std::{
    fmt,
    sync::{Arc, RwLock},
};

use super::TlsError;

/// What files configure, of a server's side or of a client's.
pub trait TlsFiles: fmt::Debug + Send + Sync {
    /// Reads the files; what they say now is for the next handshake, once it is called. Connections go on, and no session
    /// of before is resumed.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    fn read_again(&self) -> Result<PutInForce<'_>, TlsError>;
}

/// Puts what was read into force.
pub type PutInForce<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Whether [`reload`] would find them good.
///
/// # Errors
/// Those of [`reload`].
pub fn check<'a>(all: impl IntoIterator<Item = &'a dyn TlsFiles>) -> Result<(), TlsError> {
    all.into_iter().try_for_each(|files| files.read_again().map(drop))
}

/// Reads all of them again; on an error all stays as it was.
///
/// # Errors
/// The first file that is wrong, and how.
pub fn reload<'a>(all: impl IntoIterator<Item = &'a dyn TlsFiles>) -> Result<(), TlsError> {
    let read: Vec<_> = all.into_iter().map(TlsFiles::read_again).collect::<Result<_, _>>()?;
    for put_in_force in read {
        put_in_force();
    }
    Ok(())
}

/// What the next handshake goes by.
#[derive(Debug)]
pub(super) struct InForce<T>(RwLock<Arc<T>>);

impl<T: Send + Sync> InForce<T> {
    pub fn new(config: Arc<T>) -> Self {
        Self(RwLock::new(config))
    }

    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().expect("nothing panics while it is held"))
    }

    pub fn put(&self, config: Arc<T>) -> PutInForce<'_> {
        Box::new(move || *self.0.write().expect("nothing panics while it is held") = config)
    }
}
