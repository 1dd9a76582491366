//! Events read before they are needed, by a thread of their own: a slow disk or a long packet to
//! decode does not make messages late.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{Events, EventsError};
use crate::recording::{Event, EventKind};

/// Bytes of packets read ahead.
const BYTES_AHEAD: usize = 8 << 20;

/// Events read ahead.
const EVENTS_AHEAD: usize = 4096;

/// The events of one pass.
pub(super) struct ReadAhead(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to take, or nothing more will come.
    filled: Condvar,
    /// There is room again, or nobody takes any more.
    emptied: Condvar,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Result<Event, EventsError>>,
    bytes: usize,
    has_ended: bool,
    is_abandoned: bool,
    /// The reader waits for room.
    is_full: bool,
}

impl ReadAhead {
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(events: Events) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let reader = Arc::clone(&shared);
        thread::Builder::new().name("replay-read".to_owned()).spawn(move || reader.read(events))?;
        Ok(Self(shared))
    }

    /// Waits until as much was read ahead as ever is.
    pub fn fill(&self) {
        let mut queue = self.0.queue();
        while !queue.is_full && !queue.has_ended {
            queue = self.0.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Iterator for ReadAhead {
    type Item = Result<Event, EventsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut queue = self.0.queue();
        while queue.events.is_empty() && !queue.has_ended {
            queue = self.0.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let event = queue.events.pop_front()?;
        queue.bytes -= size(&event);
        if queue.is_full && queue.is_half_empty() {
            queue.is_full = false;
            self.0.emptied.notify_one();
        }
        Some(event)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.is_abandoned = true;
        queue.is_full = false;
        self.0.emptied.notify_one();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, mut events: Events) {
        loop {
            // A reader that is gone without a word would look like the end of the recording.
            let next = catch_unwind(AssertUnwindSafe(|| events.next()))
                .unwrap_or_else(|_| Some(Err("reading the recording panicked".into())));
            let mut queue = self.queue();
            if let Some(event) = next {
                queue.bytes += size(&event);
                // Nothing follows an error.
                queue.has_ended = event.is_err();
                queue.events.push_back(event);
            } else {
                queue.has_ended = true;
            }
            queue.is_full = queue.bytes >= BYTES_AHEAD || queue.events.len() >= EVENTS_AHEAD;
            self.filled.notify_one();
            // Until it is half empty: not a switch of threads for each event.
            while queue.is_full && !queue.has_ended {
                queue = self.emptied.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.has_ended || queue.is_abandoned {
                return;
            }
        }
    }
}

impl Queue {
    fn is_half_empty(&self) -> bool {
        self.bytes <= BYTES_AHEAD / 2 && self.events.len() <= EVENTS_AHEAD / 2
    }
}

fn size(event: &Result<Event, EventsError>) -> usize {
    match event.as_ref().map(|event| &event.kind) {
        Ok(EventKind::Packet { bytes, .. } | EventKind::Raw { bytes, .. }) => bytes.len(),
        Ok(EventKind::Fault(fault)) => fault.size(),
        Ok(EventKind::State(in_force)) => in_force.packet.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::recording::Direction;

    fn event(seq: u64, len: usize) -> Event {
        let kind = EventKind::Raw { direction: Direction::ClientToServer, bytes: vec![0; len].into() };
        Event { seq, at: Duration::ZERO, connection: 1, kind }
    }

    #[test]
    fn all_events_come_in_order_however_many_and_however_long() {
        for (count, len) in
            [(0, 0), (3 * EVENTS_AHEAD as u64, 1), (20, BYTES_AHEAD / 3), (3, 2 * BYTES_AHEAD)]
        {
            let events =
                ReadAhead::new(Box::new((1..=count).map(move |seq| Ok(event(seq, len))))).expect("a thread");
            events.fill();
            let seen: Vec<_> = events.map(|event| event.expect("no error").seq).collect();
            assert_eq!(seen, (1..=count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_and_a_panic_are_the_last_word() {
        let broken: [Events; 2] = [
            Box::new([Ok(event(1, 1)), Err("damaged".into()), Ok(event(2, 1))].into_iter()),
            Box::new((1..3).map(|seq| if seq == 1 { Ok(event(seq, 1)) } else { panic!("on purpose") })),
        ];
        for events in broken {
            let seen: Vec<_> = ReadAhead::new(events).expect("a thread").map(|event| event.is_ok()).collect();
            assert_eq!(seen, [true, false]);
        }
    }

    #[test]
    fn a_reader_that_nobody_listens_to_ends() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let endless = std::iter::repeat_with(move || {
            let _ = &held;
            Ok(event(1, 1000))
        });
        let events = ReadAhead::new(Box::new(endless)).expect("a thread");
        events.fill();
        drop(events);
        while Arc::strong_count(&alive) > 1 {
            thread::yield_now();
        }
    }
}
