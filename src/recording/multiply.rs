//! Many clients from one: copies of a recording, each with names of its own and a little later than the one before.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use super::{Event, EventKind, Rewrite, Rewriter};

/// Bytes of events that wait for the last copy to need them.
const WAITING_MAX: usize = 256 << 20;

/// How a recording is multiplied.
#[derive(Clone, Debug)]
pub struct Copies {
    pub count: u32,
    /// When each copy begins, after the first could; as many as there are copies.
    pub phases: Vec<Duration>,
    pub rewrite: Rewrite,
    pub run: String,
}

/// The events of all copies, in their order.
pub struct Multiplied<I> {
    events: I,
    copies: Vec<Rewriter>,
    phases: Vec<Duration>,
    /// Events that copies still need, and how many of them do; the first is number `first`.
    window: VecDeque<(Event, usize)>,
    first: usize,
    size: usize,
    has_ended: bool,
    /// When each copy's next event comes, and which it is.
    next: BinaryHeap<Reverse<(Duration, u32, usize)>>,
    seq: u64,
    last_at: Duration,
}

/// Why there cannot be so many copies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCopies {
    #[error("the copies are so far apart that over {} MiB would have to be kept: spread them less", WAITING_MAX >> 20)]
    TooFarApart,
    #[error("{copies} copies of connection {connection} have no numbers")]
    TooManyConnections { connection: u32, copies: u32 },
}

impl<I, E> Multiplied<I>
where
    I: Iterator<Item = Result<Event, E>>,
{
    pub fn new(events: I, copies: Copies) -> Self {
        let Copies { count, phases, rewrite, run } = copies;
        let rewriters = (1..=count).zip(&phases);
        let rewriters = rewriters.map(|(copy, phase)| Rewriter::new(rewrite.clone(), &run, copy, *phase));
        let next = (0..count).zip(&phases).map(|(copy, phase)| Reverse((*phase, copy, 0)));
        Self {
            events,
            copies: rewriters.collect(),
            next: next.collect(),
            phases,
            window: VecDeque::new(),
            first: 0,
            size: 0,
            has_ended: false,
            seq: 0,
            last_at: Duration::ZERO,
        }
    }

    /// Event number `index`, read if need be.
    fn event(&mut self, index: usize) -> Result<Option<&Event>, E>
    where
        E: From<BadCopies>,
    {
        while self.first + self.window.len() <= index && !self.has_ended {
            match self.events.next() {
                Some(event) => {
                    let event = event?;
                    self.size += event.kind.size() + size_of::<Event>();
                    if self.size > WAITING_MAX {
                        return Err(BadCopies::TooFarApart.into());
                    }
                    self.window.push_back((event, self.copies.len()));
                }
                None => self.has_ended = true,
            }
        }
        Ok(self.window.get(index - self.first).map(|(event, _)| event))
    }

    /// A copy has had event number `index`.
    fn had(&mut self, index: usize) {
        if let Some((_, needed_by)) = self.window.get_mut(index - self.first) {
            *needed_by -= 1;
        }
        while let Some((event, 0)) = self.window.front() {
            self.size -= event.kind.size() + size_of::<Event>();
            self.window.pop_front();
            self.first += 1;
        }
    }
}

impl<I, E> Iterator for Multiplied<I>
where
    I: Iterator<Item = Result<Event, E>>,
    E: From<BadCopies>,
{
    type Item = Result<Event, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Reverse((due, copy, index)) = self.next.pop()?;
            let phase = self.phases[copy as usize];
            let event = match self.event(index) {
                Ok(Some(event)) => event.clone(),
                // This copy is through.
                Ok(None) => continue,
                Err(error) => {
                    self.next.clear();
                    return Some(Err(error));
                }
            };
            let at = event.at + phase;
            if at > due {
                // It was not known yet when it comes.
                self.next.push(Reverse((at, copy, index)));
                continue;
            }
            self.next.push(Reverse((at, copy, index + 1)));
            self.had(index);
            let copies = self.copies.len() as u32;
            let Some(connection) = number(event.connection, copies, copy) else {
                self.next.clear();
                let bad = BadCopies::TooManyConnections { connection: event.connection, copies };
                return Some(Err(bad.into()));
            };
            let is_shared = event.connection == 0 || matches!(event.kind, EventKind::Anchor(_));
            // What is the same for all stands once.
            let shared = (is_shared && copy != 0).then(|| event.kind.clone());
            let event = self.copies[copy as usize].apply(event);
            if shared.is_some_and(|shared| shared == event.kind) {
                continue;
            }
            self.seq += 1;
            self.last_at = self.last_at.max(at);
            return Some(Ok(Event { seq: self.seq, at: self.last_at, connection, kind: event.kind }));
        }
    }
}

/// Of the connection that `recorded` is in `copy`, from 0, of `copies`; 0 is none.
fn number(recorded: u32, copies: u32, copy: u32) -> Option<u32> {
    match recorded {
        0 => Some(0),
        recorded => (recorded - 1).checked_mul(copies)?.checked_add(copy + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::ControlPacket,
        recording::{ClientNames, Connections, InForce, NameTemplate, TooManyNames, sample::script},
    };

    fn copies(count: u32, events: &[Event]) -> Copies {
        let names = ClientNames::read(events.iter().cloned().map(Ok::<_, TooManyNames>)).unwrap();
        let rewrite = Rewrite::new(&[], Some(NameTemplate::parse("{{client_id}}-{{i}}").unwrap())).unwrap();
        Copies {
            count,
            phases: (0..u64::from(count)).map(Duration::from_micros).collect(),
            rewrite: rewrite.following(names),
            run: String::new(),
        }
    }

    #[test]
    fn copies_have_names_times_and_connections_of_their_own() {
        let events = script(
            "1 open
            1 c2s CONNECT dev v=5
            2 open
            2 c2s CONNECT app v=5
            1 c2s PUBLISH up/dev \"x\"
            1 close client_fin",
        );
        let phases = [0, 2500, 1].map(Duration::from_micros).to_vec();
        let copies = Copies { phases, ..copies(3, &events) };
        let multiplied = Multiplied::new(events.into_iter().map(Ok::<_, BadCopies>), copies);
        let mut connections = Connections::new();
        let mut out = String::new();
        let mut last = (0, Duration::ZERO);
        for event in multiplied.map(Result::unwrap) {
            assert!(event.seq == last.0 + 1 && event.at >= last.1);
            last = (event.seq, event.at);
            let seen = connections.follow(&event);
            let what = seen.map(|seen| seen.packet.unwrap());
            let what = what.as_ref().map_or(event.kind.name().to_owned(), ControlPacket::to_string);
            out += &format!("{:?} {} {what}\n", event.at, event.connection);
        }
        expect_test::expect![[r#"
            1ms 1 OPEN
            1.001ms 3 OPEN
            2ms 1 CONNECT dev-1 v=5
            2.001ms 3 CONNECT dev-3 v=5
            3ms 4 OPEN
            3.001ms 6 OPEN
            3.5ms 2 OPEN
            4ms 4 CONNECT app-1 v=5
            4.001ms 6 CONNECT app-3 v=5
            4.5ms 2 CONNECT dev-2 v=5
            5ms 1 PUBLISH up/dev-1 "x"
            5.001ms 3 PUBLISH up/dev-3 "x"
            5.5ms 5 OPEN
            6ms 1 CLOSE
            6.001ms 3 CLOSE
            6.5ms 5 CONNECT app-2 v=5
            7.5ms 2 PUBLISH up/dev-2 "x"
            8.5ms 2 CLOSE
        "#]]
        .assert_eq(&out);
    }

    #[test]
    fn an_error_of_the_events_ends_it() {
        let copies = Copies {
            count: 2,
            phases: vec![Duration::ZERO; 2],
            rewrite: Rewrite::default(),
            run: String::new(),
        };
        let mut multiplied = Multiplied::new(std::iter::once(Err(BadCopies::TooFarApart)), copies);
        assert!(multiplied.next().is_some_and(|event| event.is_err()));
        assert!(multiplied.next().is_none());
    }

    #[test]
    fn each_copy_has_what_stands_for_its_clients_and_what_stands_for_all_is_there_once() {
        let subscribe = crate::packet::Subscription {
            filter: crate::packet::TopicFilter::parse("cmd/dev").unwrap(),
            options: crate::packet::SubscriptionOptions::default(),
        };
        let retained = |topic: &str| {
            let publish = crate::recording::sample::publish(Some(topic), b"x", vec![]);
            EventKind::State(Box::new(InForce::retained(publish).unwrap()))
        };
        let subscriptions = InForce::subscriptions("dev", vec![subscribe], None).unwrap();
        let events = crate::recording::sample::events([
            (0, 0, EventKind::State(Box::new(subscriptions))),
            (0, 0, retained("up/dev")),
            (0, 0, retained("all")),
            (0, 0, EventKind::Mark("here".to_owned())),
        ]);
        let multiplied = Multiplied::new(events.iter().cloned().map(Ok::<_, BadCopies>), copies(2, &events));
        let told = multiplied.map(|event| match event.unwrap().kind {
            EventKind::State(in_force) => {
                let client = in_force.client_identifier.clone().unwrap_or_default();
                format!("{client} {}", in_force.decode().unwrap())
            }
            kind => kind.name().to_owned(),
        });
        expect_test::expect![[r#"
            dev-1 SUBSCRIBE 1 cmd/dev-1
             PUBLISH up/dev-1 retain=true "x"
             PUBLISH all retain=true "x"
            MARK
            dev-2 SUBSCRIBE 1 cmd/dev-2
             PUBLISH up/dev-2 retain=true "x""#]]
        .assert_eq(&told.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_connection_without_a_number_is_told() {
        let mut events = script("1 open");
        events[0].connection = u32::MAX / 2;
        let multiplied = Multiplied::new(events.iter().cloned().map(Ok::<_, BadCopies>), copies(3, &events));
        let error = multiplied.last().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "3 copies of connection 2147483647 have no numbers");
    }
}
