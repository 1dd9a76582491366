//! Where equal packets stand on both sides.

use std::collections::HashMap;

use super::{bucket::Item, content::Thing};
use crate::packet::{ControlPacket, QoS};

/// Places of equal packets, by what keeps its order: messages of one QoS do [MQTT-4.6.0-6], those of another may come in
/// between anywhere.
#[derive(Default)]
pub struct Places(HashMap<Option<QoS>, Vec<(usize, usize)>>);

/// The same, in the order of the first side.
pub struct SortedPlaces(HashMap<Option<QoS>, Vec<Place>>);

#[derive(Clone, Copy)]
struct Place {
    expected: usize,
    /// Where the farthest of those up to here stands on the other side.
    farthest_so_far: usize,
    /// Where the nearest of those from here on does.
    nearest_to_come: usize,
}

impl Places {
    /// What need not come has no place of its own.
    pub fn add(&mut self, item: &Item, expected: usize, observed: usize) {
        if item.is_required() {
            self.0.entry(qos_of(item)).or_default().push((expected, observed));
        }
    }

    pub fn sorted(self) -> SortedPlaces {
        let sorted = self.0.into_iter().map(|(qos, mut places)| {
            places.sort_unstable();
            let mut farthest_so_far = 0;
            let mut sorted: Vec<Place> = places
                .into_iter()
                .map(|(expected, observed)| {
                    farthest_so_far = observed.max(farthest_so_far);
                    Place { expected, farthest_so_far, nearest_to_come: observed }
                })
                .collect();
            let mut nearest_to_come = usize::MAX;
            for place in sorted.iter_mut().rev() {
                nearest_to_come = place.nearest_to_come.min(nearest_to_come);
                place.nearest_to_come = nearest_to_come;
            }
            (qos, sorted)
        });
        SortedPlaces(sorted.collect())
    }
}

impl SortedPlaces {
    /// Whether one before it came behind it, or the other way round.
    pub fn is_overtaken(&self, item: &Item, expected: usize, observed: usize) -> bool {
        let Some(alike) = self.0.get(&qos_of(item)).filter(|_| item.is_required()) else { return false };
        let before = alike.partition_point(|place| place.expected < expected);
        let behind = alike.partition_point(|place| place.expected <= expected);
        before.checked_sub(1).is_some_and(|last| alike[last].farthest_so_far > observed)
            || alike.get(behind).is_some_and(|next| next.nearest_to_come < observed)
    }
}

fn qos_of(item: &Item) -> Option<QoS> {
    match &item.thing {
        Thing::Packet(ControlPacket::Publish(publish)) => Some(publish.qos),
        _ => None,
    }
}
