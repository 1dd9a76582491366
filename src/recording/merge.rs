//! Several recordings as one.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

use super::{Event, EventKind};

/// The events of several recordings in the order of their times, numbered from 1, connections too.
///
/// Nothing else is changed: what two recordings have of one client stays two connections.
pub struct Merge<I> {
    inputs: Vec<Input<I>>,
    is_primed: bool,
    connections: u32,
    seq: u64,
}

struct Input<I> {
    events: I,
    /// From the beginning of the whole to that of this one.
    shift: Duration,
    next: Option<Event>,
    /// New numbers of the connections that are open.
    numbers: HashMap<u32, u32>,
}

/// Where the parts of a merged recording begin, by the wall clock: when it begins, and how long after that each of them
/// does.
pub fn shifts(started_at: &[Timestamp]) -> (Timestamp, Vec<Duration>) {
    let begin = started_at.iter().min().copied().unwrap_or(Timestamp::UNIX_EPOCH);
    let shift = |wall: &Timestamp| Duration::try_from(wall.duration_since(begin)).unwrap_or_default();
    (begin, started_at.iter().map(shift).collect())
}

impl<I, E> Merge<I>
where
    I: Iterator<Item = Result<Event, E>>,
{
    /// Merges events, each of which come so much after what they say.
    pub fn new(inputs: impl IntoIterator<Item = (Duration, I)>) -> Self {
        let inputs = inputs.into_iter().map(|(shift, events)| Input {
            events,
            shift,
            next: None,
            numbers: HashMap::new(),
        });
        Self { inputs: inputs.collect(), is_primed: false, connections: 0, seq: 0 }
    }

    fn advance(&mut self) -> Result<Option<Event>, E> {
        if !std::mem::replace(&mut self.is_primed, true) {
            for input in &mut self.inputs {
                input.read()?;
            }
        }
        let ready = self.inputs.iter_mut().filter(|input| input.next.is_some());
        // Of several at the same time, the first recording's.
        let Some(first) = ready.min_by_key(|input| input.next.as_ref().map(|event| event.at)) else {
            return Ok(None);
        };
        let Some(mut event) = first.next.take() else { return Ok(None) };
        if event.connection != 0 {
            let closes = matches!(event.kind, EventKind::Close(_));
            let next = self.connections + 1;
            let number = *first.numbers.entry(event.connection).or_insert(next);
            self.connections = self.connections.max(number);
            if closes {
                first.numbers.remove(&event.connection);
            }
            event.connection = number;
        }
        self.seq += 1;
        event.seq = self.seq;
        first.read()?;
        Ok(Some(event))
    }
}

impl<I, E> Input<I>
where
    I: Iterator<Item = Result<Event, E>>,
{
    fn read(&mut self) -> Result<(), E> {
        self.next = self.events.next().transpose()?;
        if let Some(event) = &mut self.next {
            event.at = event.at.saturating_add(self.shift);
        }
        Ok(())
    }
}

impl<I, E> Iterator for Merge<I>
where
    I: Iterator<Item = Result<Event, E>>,
{
    type Item = Result<Event, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if let Some(Err(_)) = next {
            self.inputs.clear();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{
        CloseCause,
        sample::{self, open},
    };

    fn mark(text: &str) -> EventKind {
        EventKind::Mark(text.to_owned())
    }

    #[test]
    fn events_are_in_the_order_of_the_wall_clock_and_connections_stay_apart() {
        let (begin, shifts) =
            shifts(&["2026-11-26T12:00:01Z", "2026-11-26T12:00:00Z"].map(|wall| wall.parse().unwrap()));
        assert_eq!(begin.to_string(), "2026-11-26T12:00:00Z");
        assert_eq!(shifts, [Duration::from_secs(1), Duration::ZERO]);
        let close = || EventKind::Close(CloseCause::ClientFin);
        let first = sample::events([
            (0, 1, open()),
            (500_000, 0, mark("a")),
            (600_000, 1, close()),
            (700_000, 1, open()),
        ]);
        let second = sample::events([(0, 1, open()), (1_500_000, 0, mark("b")), (1_550_000, 2, open())]);
        let inputs = [first, second].map(|events| events.into_iter().map(Ok::<_, ()>));
        let merged: Vec<_> = Merge::new(shifts.into_iter().zip(inputs)).map(Result::unwrap).collect();
        let shown: Vec<_> = merged
            .iter()
            .map(|event| {
                format!("{} {} {} {}", event.seq, event.at.as_millis(), event.connection, event.kind.name())
            })
            .collect();
        assert_eq!(
            shown,
            [
                "1 0 1 OPEN",
                "2 1000 2 OPEN",
                "3 1500 0 MARK",
                "4 1500 0 MARK",
                "5 1550 3 OPEN",
                "6 1600 2 CLOSE",
                "7 1700 4 OPEN",
            ]
        );
        assert_eq!(merged[2].kind, mark("a"));
    }

    #[test]
    fn an_error_ends_it() {
        let good = sample::events([(0, 0, mark("a")), (9, 0, mark("b"))]).into_iter().map(Ok);
        let bad = sample::events([(1, 0, mark("c"))]).into_iter().map(Ok).chain([Err("damaged")]);
        let inputs: [Box<dyn Iterator<Item = _>>; 2] = [Box::new(good), Box::new(bad)];
        let merged: Vec<_> = Merge::new(inputs.map(|input| (Duration::ZERO, input))).collect();
        assert!(matches!(&merged[..], [Ok(_), Err("damaged")]), "{merged:?}");
    }
}
