//! What became of packets that were compared.

use std::sync::Arc;

use super::{
    Change, Rules,
    bucket::{Bucket, Item},
    change,
    scope::Demand,
};

/// What became of one packet, or of one of each side.
#[derive(Debug)]
pub enum Finding {
    /// Both have it: the bytes of both, and what was asked of it.
    Same {
        bucket: Arc<Bucket>,
        size: usize,
        demand: Demand,
    },
    Missing(Item),
    Unexpected(Item),
    Changed(Item, Item, Vec<Change>),
    /// Expected and observed in another place.
    Moved(Item, Item),
    /// Observed more often than expected.
    Duplicate(Item),
    /// A message of QoS 1 that came again.
    Repeated(Item),
}

impl Finding {
    /// Of two that are taken for the same one. Equal digests are no proof, and say nothing of what rules look at.
    pub fn of(expected: Item, observed: Item, rules: &Rules) -> Self {
        let size = expected.size + observed.size;
        let changes = match (expected.nth, &expected.thing) == (observed.nth, &observed.thing) {
            true => Vec::new(),
            false => change::of_items(&expected, &observed, rules),
        };
        match changes.is_empty() {
            true => Self::Same { bucket: expected.bucket, size, demand: expected.demand },
            false => Self::Changed(expected, observed, changes),
        }
    }

    /// Bytes that no longer wait.
    pub fn size(&self) -> usize {
        match self {
            Self::Same { size, .. } => *size,
            Self::Missing(item) | Self::Unexpected(item) | Self::Duplicate(item) | Self::Repeated(item) => {
                item.size
            }
            Self::Changed(expected, observed, _) | Self::Moved(expected, observed) => {
                expected.size + observed.size
            }
        }
    }
}
