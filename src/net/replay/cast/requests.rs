//! What was asked for and not answered yet, and who waits for it.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

/// Requests by their sequence number: CONNECT, messages, subscriptions.
#[derive(Default)]
pub(super) struct Requests {
    open: HashMap<u64, Request>,
    waiting: HashMap<u64, Vec<usize>>,
    /// Requests whose answers concern everybody, without those before the first that is open.
    common: VecDeque<u64>,
    /// How many those were.
    common_answered: u64,
    waiting_for_common: Vec<(u64, usize)>,
    /// Stand-ins that need not wait any more.
    woken: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Whose.
    pub number: usize,
    pub kind: Kind,
    /// Since when it can be answered; `None` of what was not sent, or not let go of.
    pub since: Option<Instant>,
    /// Whether the server has it, of a message of QoS 2.
    pub is_received: bool,
    pub is_sent: bool,
    /// Whether it may be let go of as soon as it is sent.
    pub is_released: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    Message,
    Subscription,
}

impl Requests {
    pub fn begin(&mut self, seq: u64, number: usize, kind: Kind) {
        self.open.insert(
            seq,
            Request { number, kind, since: None, is_received: false, is_sent: false, is_released: false },
        );
    }

    /// It can be answered from now on.
    pub fn may_be_answered(&mut self, seq: u64, now: Instant) {
        if let Some(request) = self.open.get_mut(&seq) {
            request.since = Some(now);
        }
    }

    /// A message may be let go of, even if it is sent later.
    pub fn release(&mut self, seq: u64, now: Instant) {
        if let Some(request) = self.open.get_mut(&seq) {
            request.is_released = true;
            request.since = request.is_sent.then_some(now);
        }
    }

    pub fn sent(&mut self, seq: u64) {
        if let Some(request) = self.open.get_mut(&seq) {
            request.is_sent = true;
        }
    }

    /// The client's connection `number` goes on with it.
    pub fn move_to(&mut self, seq: u64, number: usize, now: Instant) {
        if let Some(request) = self.open.get_mut(&seq) {
            request.number = number;
            request.since = request.since.map(|_| now);
        }
    }

    /// The server has told connection `number` that it has a message.
    pub fn received(&mut self, seq: u64, number: usize) {
        if let Some(request) = self.open.get_mut(&seq).filter(|request| request.number == number) {
            request.is_received = true;
            self.wake(seq);
        }
    }

    /// It was answered, or never will be.
    pub fn end(&mut self, seq: u64) -> Option<Request> {
        let request = self.open.remove(&seq);
        self.wake(seq);
        self.look_at_common();
        request
    }

    /// Has those look again who wait for `seq`.
    pub fn wake(&mut self, seq: u64) {
        self.woken.extend(self.waiting.remove(&seq).unwrap_or_default());
    }

    pub fn get(&self, seq: u64) -> Option<&Request> {
        self.open.get(&seq)
    }

    pub fn is_open(&self, seq: u64) -> bool {
        self.open.contains_key(&seq)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &Request)> {
        self.open.iter().map(|(seq, request)| (*seq, request))
    }

    pub fn wait(&mut self, seq: u64, number: usize) {
        self.waiting.entry(seq).or_default().push(number);
    }

    /// Answers to `requests` concern everybody.
    pub fn concern_all(&mut self, requests: Vec<u64>) {
        if !requests.is_empty() {
            self.common.extend(requests);
            self.look_at_common();
        }
    }

    /// Whether so many of the answers that concern everybody have come.
    pub fn has_common(&self, count: u64) -> bool {
        self.common_answered >= count
    }

    pub fn wait_for_common(&mut self, count: u64, number: usize) {
        self.waiting_for_common.push((count, number));
    }

    /// Those of the first `count` requests whose answers concern everybody that are not answered.
    pub fn open_common(&self, count: u64) -> Vec<u64> {
        let left = count.saturating_sub(self.common_answered) as usize;
        self.common.iter().take(left).copied().filter(|seq| self.is_open(*seq)).collect()
    }

    pub fn take_woken(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.woken)
    }

    /// Forgets all, and says what was open.
    pub fn clear(&mut self) -> Vec<(u64, Request)> {
        let open = self.open.drain().collect();
        *self = Self::default();
        open
    }

    fn look_at_common(&mut self) {
        let before = self.common_answered;
        while let Some(seq) = self.common.front()
            && !self.open.contains_key(seq)
        {
            self.common.pop_front();
            self.common_answered += 1;
        }
        if self.common_answered > before && !self.waiting_for_common.is_empty() {
            let Self { waiting_for_common, woken, common_answered, .. } = self;
            waiting_for_common.retain(|(count, number)| {
                let is_there = count <= common_answered;
                woken.extend(is_there.then_some(*number));
                !is_there
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_concern_everybody_count_in_their_order() {
        let mut requests = Requests::default();
        for seq in [10, 11, 12] {
            requests.begin(seq, 7, Kind::Subscription);
        }
        requests.concern_all(vec![10, 12]);
        assert!(!requests.has_common(1));
        requests.wait_for_common(1, 1);
        requests.wait_for_common(2, 2);
        requests.end(12);
        assert!(requests.take_woken().is_empty());
        assert_eq!(requests.open_common(2), [10]);
        requests.end(10);
        assert_eq!(requests.take_woken(), [1, 2]);
        assert!(requests.has_common(2) && requests.is_open(11));
    }

    #[test]
    fn what_was_not_let_go_of_keeps_waiting_over_another_connection() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        for seq in [1, 2] {
            requests.begin(seq, 3, Kind::Message);
        }
        requests.may_be_answered(1, now);
        for seq in [1, 2] {
            requests.move_to(seq, 4, now);
        }
        let of = |seq| requests.get(seq).map(|request| (request.number, request.since));
        assert_eq!((of(1), of(2)), (Some((4, Some(now))), Some((4, None))));
    }
}
