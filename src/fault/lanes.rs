//! What one direction of a line holds back, and when it goes on.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::DisconnectMode;
use crate::packet::QoS;

/// So many messages wait to be overtaken at most: looked through with each packet.
const ASIDE_MAX: usize = 1_000;

/// What one that waits weighs beside its bytes.
const WEIGHT: usize = 128;

/// Three queues, each in its own order.
///
/// Nearly everything is in the main one, whose order is that of arrival: a packet that waits holds up those behind it.
/// Delayed acknowledgements, and messages for a slow subscriber, wait beside it.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    acks: Lane,
    main: Lane,
    slow: Lane,
    /// Messages in the slow lane.
    slow_messages: HashMap<Message, usize>,
    /// Messages that others are to overtake, in the order they came.
    aside: VecDeque<Aside>,
    /// Where a packet was passed on in part: the rest of it comes next.
    within: Option<Way>,
    /// Whether the last piece that came leaves its packet unfinished.
    is_open: bool,
    held: Held,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Copies that are still to be made included.
    pub packets: usize,
    /// In memory.
    pub bytes: usize,
    /// Bytes, and what it takes to keep them.
    pub weight: usize,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    /// When the last one that was put here goes on.
    last: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    release: Instant,
    item: Item,
    /// In the slow lane.
    message: Option<Message>,
}

/// What waits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Packet(Packet),
    /// See [`Step::LoseSession`].
    LoseSession {
        connect: Bytes,
    },
    Cut(Cut),
    End,
}

/// A packet, or bytes that are none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Packet {
    bytes: Bytes,
    is_packet: bool,
    /// Whether it is a piece of a packet whose rest comes as another.
    is_unfinished: bool,
    /// How often it is passed on.
    times: u32,
    /// Bytes of a piece, and the pause after it.
    slices: Option<(usize, Duration)>,
    /// Bytes that were passed on already, this time.
    passed: usize,
}

impl Packet {
    pub fn nothing() -> Self {
        Self::new(Bytes::new(), false, 1)
    }

    pub fn new(bytes: Bytes, is_packet: bool, times: u32) -> Self {
        Self { bytes, is_packet, is_unfinished: false, times, slices: None, passed: 0 }
    }

    /// Bytes that are no packet, or a piece of one.
    pub fn piece(bytes: Bytes, is_unfinished: bool) -> Self {
        Self { is_unfinished, ..Self::new(bytes, false, 1) }
    }

    /// How long it takes.
    fn duration(&self) -> Duration {
        let Some((size, pause)) = self.slices else { return Duration::ZERO };
        let pauses = self.bytes.len().div_ceil(size).saturating_sub(1);
        pause.saturating_mul(u32::try_from(pauses).unwrap_or(u32::MAX)).saturating_mul(self.times)
    }

    /// The next piece, and whether it is the last one this time.
    fn next_piece(&mut self) -> (Bytes, bool) {
        let left = self.bytes.len() - self.passed;
        let len = self.slices.map_or(left, |(size, _)| size.min(left));
        let piece = self.bytes.slice(self.passed..self.passed + len);
        let is_last = len == left;
        if is_last {
            self.passed = 0;
            self.times -= 1;
        } else {
            self.passed += len;
        }
        (piece, is_last)
    }
}

/// What is to happen, as its time has come.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// `report` is what is to be told of it, if it is the last piece of that.
    Pass { bytes: Bytes, report: Option<Passed> },
    /// The server is to forget the Session of the client that sent this CONNECT before more is passed on.
    LoseSession { connect: Bytes },
    /// Both directions are over.
    Cut(Cut),
    /// This direction is over.
    End,
}

/// What was passed on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Passed {
    pub bytes: Bytes,
    pub is_packet: bool,
}

/// How a connection is cut.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cut {
    pub mode: DisconnectMode,
    /// Of the DISCONNECT in mode `Mqtt5`.
    pub reason: u8,
    /// Whether the server is to publish the Will.
    pub will: bool,
    /// What is passed on before: the beginning of a packet, or nothing.
    pub part: Bytes,
    /// What is passed on in the place of all this if chaos ends before; `None` if it is too late for that.
    pub otherwise: Option<Packet>,
}

/// Where a packet goes, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct Journey {
    pub delay: Duration,
    /// How long the link is busy with it.
    pub transmission: Duration,
    /// Bytes of a piece, and the pause after it.
    pub slices: Option<(usize, Duration)>,
    pub lane: Way,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    #[default]
    Main,
    /// Among acknowledgements.
    Acks,
    /// So long after the slow message before it.
    Slow { every: Duration },
}

/// A message and what may overtake it.
#[derive(Debug)]
struct Aside {
    journey: Journey,
    items: Vec<Item>,
    key: Overtaking,
    left: u32,
    deadline: Instant,
}

/// Topic and QoS of a PUBLISH.
pub(super) type Message = (String, QoS);

/// What decides whether a packet may overtake another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Overtaking {
    /// Of a PUBLISH whose topic is known.
    pub message: Option<Message>,
    /// May be overtaken by anything.
    pub violate: bool,
}

impl Overtaking {
    /// Messages of one topic and QoS stay in order, and so does what is no message [section 4.6].
    fn may_be_overtaken_by(&self, other: &Self) -> bool {
        self.violate || matches!((&self.message, &other.message), (Some(one), Some(other)) if one != other)
    }
}

impl Lanes {
    pub fn held(&self) -> Held {
        self.held
    }

    /// Whether acknowledgements wait, so that others have to wait behind them.
    pub fn has_acks(&self, now: Instant) -> bool {
        !self.acks.waiting.is_empty() || self.acks.last.is_some_and(|last| last > now)
    }

    /// The rest of a packet that was passed on in part; empty if there is none.
    pub fn take_rest(&mut self) -> Bytes {
        let mut rest = BytesMut::new();
        let Some(way) = self.within.take() else { return rest.freeze() };
        for waiting in &self.lane(way).waiting {
            let Item::Packet(packet) = &waiting.item else { break };
            rest.extend_from_slice(&packet.bytes[packet.passed..]);
            if !packet.is_unfinished {
                break;
            }
        }
        rest.freeze()
    }

    /// Whether the last byte that was passed on ended what it belongs to.
    pub fn is_between_packets(&self) -> bool {
        self.within.is_none()
    }

    /// Where a packet that is to go `way` has to go: a message that one like it waits for waits, too.
    pub fn way(&self, way: Way, key: &Overtaking) -> Way {
        let is_like_one =
            key.message.as_ref().is_some_and(|message| self.slow_messages.contains_key(message));
        if way == Way::Main && is_like_one { SLOW } else { way }
    }

    /// Puts a packet, and what happens with it, in its place. Others that wait to be overtaken by it have their turn.
    pub fn put(&mut self, now: Instant, journey: Journey, items: Vec<Item>, key: &Overtaking) {
        match journey.lane {
            Way::Acks => {}
            Way::Main => {
                let overtaken = self.overtake(now, key);
                self.place(now, &journey, items, key);
                self.return_overtaken(now, overtaken);
                return;
            }
            Way::Slow { .. } => self.return_others(now, key),
        }
        self.place(now, &journey, items, key);
    }

    /// Puts bytes that are no whole packet behind what waits to be overtaken: nothing may come inside of a packet.
    pub fn put_piece(&mut self, now: Instant, piece: Packet) {
        self.return_all_aside(now);
        self.is_open = piece.is_unfinished;
        self.place(now, &Journey::default(), vec![Item::Packet(piece)], &Overtaking::default());
    }

    /// As [`put`](Self::put), behind everything but what waits for a slow subscriber.
    pub fn put_last(&mut self, now: Instant, mut journey: Journey, items: Vec<Item>) {
        self.return_all_aside(now);
        let acks = self.acks.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(now));
        journey.lane = Way::Main;
        journey.delay = journey.delay.max(acks);
        self.place(now, &journey, items, &Overtaking::default());
    }

    /// As [`put`](Self::put), once `behind` others have come that may overtake it, or `max_wait` has passed.
    pub fn put_aside(
        &mut self,
        now: Instant,
        journey: Journey,
        items: Vec<Item>,
        key: Overtaking,
        (behind, max_wait): (u32, Duration),
    ) {
        let overtaken = self.overtake(now, &key);
        self.return_overtaken(now, overtaken);
        if self.aside.len() >= ASIDE_MAX
            && let Some(first) = self.aside.pop_front()
        {
            self.return_aside(now, first);
        }
        self.count(&items, true);
        let deadline = now + max_wait;
        self.aside.push_back(Aside { journey, items, key, left: behind.max(1), deadline });
    }

    /// The direction ends: behind everything but what waits for a slow subscriber, which is lost.
    pub fn end(&mut self, now: Instant) {
        self.return_all_aside(now);
        let release = self.main.release(now).max(self.acks.last.unwrap_or(now));
        self.push(Way::Main, release, Item::End, None);
    }

    /// What is due by now, in the order of its time.
    pub fn next_due(&mut self, now: Instant) -> Option<Step> {
        if self.aside.iter().any(|aside| aside.deadline <= now) {
            let (due, left): (VecDeque<_>, _) =
                std::mem::take(&mut self.aside).into_iter().partition(|aside| aside.deadline <= now);
            self.aside = left;
            for aside in due {
                self.return_aside(now, aside);
            }
        }
        let way = self.next_lane().filter(|(release, _)| *release <= now)?.1;
        let front = self.lane(way).waiting.front_mut()?;
        let Item::Packet(packet) = &mut front.item else {
            return self.pop(way).map(|item| match item {
                Item::LoseSession { connect } => Step::LoseSession { connect },
                Item::Cut(cut) => Step::Cut(cut),
                Item::Packet(_) | Item::End => {
                    // A slow subscriber loses what it has not had.
                    self.clear();
                    Step::End
                }
            });
        };
        let (bytes, is_last) = packet.next_piece();
        let report = is_last.then(|| Passed { bytes: packet.bytes.clone(), is_packet: packet.is_packet });
        if let (false, Some((_, pause))) = (is_last, packet.slices) {
            front.release += pause;
        }
        let is_over = packet.times == 0;
        self.within = (!is_last || packet.is_unfinished).then_some(way);
        if is_last {
            self.held.packets -= 1;
        }
        if is_over {
            self.pop(way);
        }
        Some(Step::Pass { bytes, report })
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        let next = self.next_lane().map(|(release, _)| release);
        self.aside.iter().map(|aside| aside.deadline).chain(next).min()
    }

    /// The lane that goes on next, and when.
    fn next_lane(&self) -> Option<(Instant, Way)> {
        let lanes = [(&self.acks, Way::Acks), (&self.main, Way::Main), (&self.slow, SLOW)];
        lanes
            .into_iter()
            .filter(|(_, way)| self.within.is_none_or(|within| within == *way))
            .filter_map(|(lane, way)| Some((lane.waiting.front()?.release, way)))
            .min_by_key(|(release, _)| *release)
    }

    /// Nothing waits any more; cuts that were to come do not, if it is not too late.
    pub fn release(&mut self, now: Instant) {
        self.return_all_aside(now);
        let mut lanes = [
            (Way::Acks, std::mem::take(&mut self.acks)),
            (Way::Main, std::mem::take(&mut self.main)),
            (SLOW, std::mem::take(&mut self.slow)),
        ];
        let within = self.within.take();
        (self.held, self.slow_messages) = (Held::default(), HashMap::new());
        // The rest of a packet comes before all else.
        lanes.sort_by_key(|(way, _)| within != Some(*way));
        let mut has_open = false;
        for (way, lane) in lanes {
            // Where the rest of the last packet is still to come, what waits beside it is not to come in between.
            let to = if has_open { way } else { Way::Main };
            for Waiting { release, item, message } in lane.waiting {
                let item = match item {
                    Item::Packet(packet) => Item::Packet(Packet { slices: None, ..packet }),
                    Item::Cut(Cut { otherwise: Some(packet), .. }) if packet.bytes.is_empty() => continue,
                    Item::Cut(Cut { otherwise: Some(packet), .. }) => Item::Packet(packet),
                    other => other,
                };
                self.push(to, now.min(release), item, message.as_ref());
            }
            has_open |= way == Way::Main && self.is_open;
        }
        self.within = within.map(|_| Way::Main);
        self.main.last = None;
    }

    /// Forgets all that waits.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Those that have been overtaken by one more, and so by as many as they were to be, leave; those that it may not
    /// overtake go on at once.
    fn overtake(&mut self, now: Instant, key: &Overtaking) -> VecDeque<Aside> {
        self.return_others(now, key);
        for aside in &mut self.aside {
            aside.left -= 1;
        }
        let (kept, overtaken) = std::mem::take(&mut self.aside).into_iter().partition(|aside| aside.left > 0);
        self.aside = kept;
        overtaken
    }

    /// Those that one like `key` may not overtake go on.
    fn return_others(&mut self, now: Instant, key: &Overtaking) {
        if self.aside.is_empty() {
            return;
        }
        let (kept, first): (_, VecDeque<_>) =
            std::mem::take(&mut self.aside).into_iter().partition(|aside| aside.key.may_be_overtaken_by(key));
        self.aside = kept;
        for aside in first {
            self.return_aside(now, aside);
        }
    }

    /// Where they have waited for the same one, later ones were to overtake earlier ones, too.
    fn return_overtaken(&mut self, now: Instant, overtaken: VecDeque<Aside>) {
        for aside in overtaken.into_iter().rev() {
            self.return_aside(now, aside);
        }
    }

    fn return_all_aside(&mut self, now: Instant) {
        for aside in std::mem::take(&mut self.aside) {
            self.return_aside(now, aside);
        }
    }

    fn return_aside(&mut self, now: Instant, aside: Aside) {
        self.count(&aside.items, false);
        self.place(now, &aside.journey, aside.items, &aside.key);
    }

    fn place(&mut self, now: Instant, journey: &Journey, items: Vec<Item>, key: &Overtaking) {
        let ready = now + journey.delay;
        let free = self.lane(journey.lane).release(ready) + journey.transmission;
        let mut release = match journey.lane {
            Way::Main | Way::Acks => free,
            Way::Slow { every } => free + every,
        };
        for mut item in items {
            let mut duration = Duration::ZERO;
            if let Item::Packet(packet) = &mut item {
                packet.slices = journey.slices.filter(|(size, _)| packet.bytes.len() > *size);
                duration = packet.duration();
            }
            self.push(journey.lane, release, item, key.message.as_ref());
            release += duration;
            self.lane(journey.lane).last = Some(release);
        }
    }

    fn push(&mut self, way: Way, release: Instant, item: Item, message: Option<&Message>) {
        self.count(std::slice::from_ref(&item), true);
        let message = message.filter(|_| matches!(way, Way::Slow { .. })).cloned();
        if let Some(message) = &message {
            *self.slow_messages.entry(message.clone()).or_default() += 1;
            self.held.weight += message.0.len();
        }
        let lane = self.lane(way);
        lane.last = Some(release);
        lane.waiting.push_back(Waiting { release, item, message });
    }

    fn pop(&mut self, way: Way) -> Option<Item> {
        let Waiting { item, message, .. } = self.lane(way).waiting.pop_front()?;
        self.count(std::slice::from_ref(&item), false);
        if let Some(message) = message {
            self.held.weight -= message.0.len();
            if let Some(count) = self.slow_messages.get_mut(&message) {
                *count -= 1;
                if *count == 0 {
                    self.slow_messages.remove(&message);
                }
            }
        }
        Some(item)
    }

    fn lane(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::Main => &mut self.main,
            Way::Acks => &mut self.acks,
            Way::Slow { .. } => &mut self.slow,
        }
    }

    fn count(&mut self, items: &[Item], comes: bool) {
        for item in items {
            let (packets, bytes) = match item {
                Item::Packet(packet) => (packet.times as usize, packet.bytes.len()),
                Item::Cut(cut) => {
                    (0, cut.part.len().max(cut.otherwise.as_ref().map_or(0, |packet| packet.bytes.len())))
                }
                Item::LoseSession { .. } | Item::End => (0, 0),
            };
            let Held { packets: all, bytes: held, weight } = &mut self.held;
            if comes {
                *all += packets;
                *held += bytes;
                *weight += bytes + WEIGHT;
            } else {
                *all -= packets;
                *held -= bytes;
                *weight -= bytes + WEIGHT;
            }
        }
    }
}

/// The slow lane, however slow.
const SLOW: Way = Way::Slow { every: Duration::ZERO };

impl Lane {
    /// When something that is ready at `ready` can go on: not before the one before it.
    fn release(&self, ready: Instant) -> Instant {
        self.last.map_or(ready, |last| last.max(ready))
    }
}
