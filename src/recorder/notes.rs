//! What whoever uses a recording would miss, in words.

use crate::{amount::counted, recording::in_pieces};

/// Of messages that are in RAW pieces.
pub fn long_messages(count: u64) -> Option<String> {
    (count > 0).then(|| format!("{}: replays and CSV leave such messages out", in_pieces(count)))
}

/// Of pieces of RAW that something was overwritten in.
pub fn overwritten(count: u64) -> Option<String> {
    let pieces = counted(count, "piece");
    (count > 0).then(|| {
        format!(
            "in {pieces} of bytes that do not parse and may hold a password, it was overwritten \
             (--keep-credentials keeps it)"
        )
    })
}
