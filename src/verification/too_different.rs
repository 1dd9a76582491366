//! Why not all was judged.

use super::allowance::Allowance;

/// Packets that may wait for their like, on both sides together.
pub const WAITING_MAX: usize = 1_000_000;
/// Their bytes.
pub const WAITING_BYTES_MAX: usize = 512 << 20;

/// More would have to be kept than may be. Nothing that comes later is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooDifferent {
    #[error(
        "the two differ too much: {WAITING_MAX} packets, or {} MiB of them, have no like yet",
        WAITING_BYTES_MAX >> 20
    )]
    Waiting,
    #[error(
        "there are too many clients, topics or unacknowledged messages to tell apart: what is known of them is more than {} MiB",
        Allowance::MIB
    )]
    Known,
}
