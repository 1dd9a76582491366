//! When what the server says is due.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{Line, Said};
use crate::recording::player::{Due, Pace, Speed, Timeline};

/// Keeps what is to be said to all live clients, by the time it is due on one [`Timeline`], so that pausing, stepping and
/// another speed act on all of it.
pub struct Prompter {
    timeline: Timeline,
    prompts: BTreeMap<Place, Prompt>,
    next: u64,
    /// Places of what each connection is to be told, in their order.
    by_connection: HashMap<u64, VecDeque<Place>>,
}

/// Position, and the order in which it was put here.
type Place = (u128, u64);

/// A line, and for whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Of the live client.
    pub connection: u64,
    pub what: Said,
    /// When it was due; `None` where nothing has a time.
    pub deadline: Option<Instant>,
}

/// What to say now.
#[derive(Clone, Debug, PartialEq)]
pub enum Ready {
    Now(Prompt),
    /// Nothing before then.
    At(Instant),
    /// Nothing until something is put here, or it is resumed.
    Never,
}

impl Prompter {
    pub fn new(speed: Speed, now: Instant) -> Self {
        let pace = Pace { speed, ..Pace::default() };
        Self {
            timeline: Timeline::new(&pace, now),
            prompts: BTreeMap::new(),
            next: 0,
            by_connection: HashMap::new(),
        }
    }

    /// To be paused, stepped and so on.
    pub fn timeline(&mut self) -> &mut Timeline {
        &mut self.timeline
    }

    /// Puts down what follows what `connection` did just now. What was put down for it before comes before.
    pub fn follow(&mut self, connection: u64, lines: Vec<Line>, now: Instant) {
        if lines.is_empty() {
            return;
        }
        let cued_at = self.timeline.position(now);
        let places = self.by_connection.entry(connection).or_default();
        let mut last = places.back().map_or(0, |(position, _)| *position);
        for Line { delay, what } in lines {
            last = last.max(cued_at + delay.as_nanos());
            self.prompts.insert((last, self.next), Prompt { connection, what, deadline: None });
            places.push_back((last, self.next));
            self.next += 1;
        }
    }

    /// What is due at `now`, the first one first.
    pub fn poll(&mut self, now: Instant) -> Ready {
        let Some((&(position, _), _)) = self.prompts.first_key_value() else { return Ready::Never };
        match self.timeline.due(position, now) {
            Due::Paused => Ready::Never,
            Due::At(deadline) if deadline > now => Ready::At(deadline),
            Due::At(deadline) => {
                let has_time = self.timeline.speed() != Speed::Max;
                self.timeline.play(position, now);
                let (_, prompt) = self.prompts.pop_first().expect("it was just looked at");
                if let Some(places) = self.by_connection.get_mut(&prompt.connection) {
                    places.pop_front();
                }
                Ready::Now(Prompt { deadline: has_time.then_some(deadline), ..prompt })
            }
        }
    }

    /// What was still to be said to a client that has gone, in its order.
    pub fn forget(&mut self, connection: u64) -> VecDeque<Said> {
        let places = self.by_connection.remove(&connection).unwrap_or_default();
        places.iter().filter_map(|place| self.prompts.remove(place)).map(|prompt| prompt.what).collect()
    }

    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// How much of the recording's time has passed.
    pub fn position(&self, now: Instant) -> Duration {
        Duration::from_nanos(u64::try_from(self.timeline.position(now)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(millis: u64, reason: u8) -> Line {
        let what = Said::Disconnect(crate::packet::ReasonCode(reason));
        Line { delay: Duration::from_millis(millis), what }
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// What is said at each millisecond up to `until`: milliseconds, connection and Reason Code.
    fn said(prompter: &mut Prompter, start: Instant, from: u64, until: u64) -> Vec<(u64, u64, u8)> {
        let mut said = Vec::new();
        for millis in from..=until {
            while let Ready::Now(prompt) = prompter.poll(after(start, millis)) {
                let Said::Disconnect(reason) = prompt.what else { panic!("that is all it is told") };
                said.push((millis, prompt.connection, reason.0));
            }
        }
        said
    }

    #[test]
    fn lines_follow_their_cues_and_keep_the_order_of_their_client() {
        let start = Instant::now();
        let mut prompter = Prompter::new(Speed::Factor(2.0), start);
        prompter.follow(1, vec![line(20, 1), line(40, 2)], start);
        prompter.follow(2, vec![line(30, 3)], start);
        prompter.follow(1, vec![line(0, 4)], after(start, 5));
        assert_eq!(prompter.poll(start), Ready::At(after(start, 10)));
        assert_eq!(said(&mut prompter, start, 0, 50), [(10, 1, 1), (15, 2, 3), (20, 1, 2), (20, 1, 4)]);
        assert_eq!(prompter.poll(after(start, 50)), Ready::Never);
    }

    #[test]
    fn what_is_due_is_held_while_paused_and_stepped_in_order() {
        let start = Instant::now();
        let mut prompter = Prompter::new(Speed::Factor(1.0), start);
        prompter.follow(1, vec![line(10, 1), line(20, 2), line(30, 3), line(40, 4)], start);
        prompter.timeline().pause(after(start, 5));
        prompter.follow(2, vec![line(0, 5)], after(start, 7));
        assert_eq!(said(&mut prompter, start, 0, 100), []);
        prompter.timeline().burst(2);
        assert_eq!(said(&mut prompter, start, 100, 150), [(100, 2, 5), (100, 1, 1)]);
        prompter.timeline().resume(after(start, 200));
        assert_eq!(said(&mut prompter, start, 200, 215), [(210, 1, 2)]);
        prompter.timeline().set_speed(after(start, 215), Speed::Factor(5.0));
        assert_eq!(said(&mut prompter, start, 216, 300), [(216, 1, 3), (218, 1, 4)]);
    }

    #[test]
    fn without_waiting_all_is_due_at_once_and_has_no_time() {
        let start = Instant::now();
        let mut prompter = Prompter::new(Speed::Max, start);
        prompter.follow(1, vec![line(1000, 1), line(2000, 2)], start);
        let Ready::Now(prompt) = prompter.poll(start) else { panic!("it is due") };
        assert_eq!(prompt.deadline, None);
        assert_eq!(prompter.forget(1).len(), 1);
        assert!(prompter.is_empty() && prompter.forget(1).is_empty());
    }
}
