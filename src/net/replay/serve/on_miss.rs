//! What becomes of what no recorded client did.

/// What becomes of what no recorded client did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMiss {
    /// It is answered as any server would; the verdict tells of it.
    #[default]
    Ignore,
    /// The same, and the replay has failed.
    Fail,
    /// It goes to the target, and what that answers and sends comes back; the verdict does not tell of it.
    Passthrough,
    /// The connection is closed.
    Disconnect,
}
