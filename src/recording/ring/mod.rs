//! The last events, in bounded memory, with what was in force before the first of them.
//!
//! Events are kept as they are stored (see `record.rs`), one behind the other in segments. The oldest segment goes when
//! there is no room or it is too old: its events are followed by a [`Standing`], so that what is left can become a
//! recording of its own.

mod segment;
mod window;

use std::{collections::VecDeque, time::Duration};

use bytes::{Buf, Bytes};
use jiff::{SignedDuration, Timestamp};

use self::segment::Segment;
pub use self::window::Window;
use super::{
    Event, EventKind, Standing,
    record::{self, nanoseconds},
};

/// Parts of the memory and of the time that go as a whole.
const SEGMENTS: u32 = 32;

/// What a record has beside packets and texts, most of the time: where it has more, a segment grows.
const RECORD_EXTRA: usize = 512;

/// Of a segment in bytes.
const SEGMENT_MIN: usize = 16 << 10;
const SEGMENT_MAX: usize = 1 << 20;

/// How much a ring keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// Of events; what was in force before may take as much again.
    pub bytes: usize,
    pub duration: Duration,
}

/// The last events.
#[derive(Debug)]
pub struct EventRing {
    limits: RingLimits,
    /// The oldest first.
    sealed: VecDeque<Segment<Bytes>>,
    /// What events are added to.
    open: Option<Segment<Vec<u8>>>,
    /// Bytes of all segments.
    held: usize,
    /// Offset of the last event in nanoseconds.
    last_at: u64,
    /// Behind what has gone.
    standing: Standing,
    /// What the wall clock said last at the end of what has gone.
    anchor: Option<(Duration, Timestamp)>,
}

impl EventRing {
    pub fn new(limits: RingLimits) -> Self {
        Self {
            limits,
            sealed: VecDeque::new(),
            open: None,
            held: 0,
            last_at: 0,
            standing: Standing::new(limits.bytes),
            anchor: None,
        }
    }

    /// Bytes of the events that are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Adds an event; its `seq` does not matter. An offset before that of the last event counts as that one.
    pub fn push(&mut self, event: &Event) {
        let at = nanoseconds(event.at).max(self.last_at);
        let size = event.kind.size();
        // One that would push out all others is missing instead.
        let gap;
        let event = if size > self.limits.bytes / 2 {
            let kind = EventKind::Gap { events: 1, bytes: size as u64 };
            gap = Event { seq: 0, at: event.at, connection: 0, kind };
            &gap
        } else {
            event
        };
        let len_max = size.min(self.limits.bytes / 2) + RECORD_EXTRA;
        if self.open.as_ref().is_some_and(|open| !self.takes(open, at, len_max)) {
            self.seal();
        }
        if self.open.is_none() {
            let records = Vec::with_capacity(self.segment_len().max(len_max));
            self.held += records.capacity();
            self.open = Some(Segment { base: self.last_at, first_at: at, last_at: at, records });
        }
        let open = self.open.as_mut().expect("one was there or is new");
        let before = open.records.capacity();
        record::encode(event, self.last_at, &mut open.records);
        self.held += open.records.capacity() - before;
        open.last_at = at;
        self.last_at = at;
        self.make_room(at);
    }

    /// What is left at offset `now`.
    pub fn window(&mut self, now: Duration) -> Window {
        let now = nanoseconds(now).max(self.last_at);
        self.make_room(now);
        let open = self.open.iter().map(|open| Segment {
            base: open.base,
            first_at: open.first_at,
            last_at: open.last_at,
            records: Bytes::copy_from_slice(&open.records),
        });
        let segments: Vec<_> = self.sealed.iter().cloned().chain(open).collect();
        let oldest = now.saturating_sub(nanoseconds(self.limits.duration));
        let start = match segments.first() {
            Some(first) => oldest.clamp(first.base, first.first_at),
            None => oldest.max(self.last_at),
        };
        let start = Duration::from_nanos(start);
        let anchor = self.anchor.or_else(|| first_anchor(&segments));
        let started_at = anchor.and_then(|(at, wall)| {
            let since = SignedDuration::try_from(start).ok()? - SignedDuration::try_from(at).ok()?;
            wall.checked_add(since).ok()
        });
        let (opening, left_out) = (self.standing.events(start), self.standing.left_out(start));
        Window { started_at, start, opening, left_out, segments }
    }

    fn segment_len(&self) -> usize {
        (self.limits.bytes / SEGMENTS as usize).clamp(SEGMENT_MIN, SEGMENT_MAX)
    }

    /// Whether an event at `at` still goes into `open`.
    fn takes(&self, open: &Segment<Vec<u8>>, at: u64, len_max: usize) -> bool {
        let age = Duration::from_nanos(at - open.first_at);
        age < self.limits.duration / SEGMENTS && open.records.len() + len_max <= open.records.capacity()
    }

    fn seal(&mut self) {
        let Some(Segment { base, first_at, last_at, records }) = self.open.take() else { return };
        self.held -= records.capacity();
        // Whatever is not in use is given back.
        let records = Bytes::from(records.into_boxed_slice());
        self.held += records.len();
        self.sealed.push_back(Segment { base, first_at, last_at, records });
    }

    fn make_room(&mut self, now: u64) {
        let oldest = now.saturating_sub(nanoseconds(self.limits.duration));
        while self.sealed.front().is_some_and(|first| self.held > self.limits.bytes || first.last_at < oldest)
        {
            self.forget_first();
        }
        if self.sealed.is_empty() && self.open.as_ref().is_some_and(|open| open.last_at < oldest) {
            self.seal();
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(segment) = self.sealed.pop_front() else { return };
        self.held -= segment.records.len();
        // Most events are packets that say nothing of what is in force: those are not taken apart.
        let mut records = segment.events();
        while let Ok(outline) = record::outline(&records.records) {
            let is_idle = outline.packet.is_some_and(|(direction, bytes)| {
                !self.standing.may_learn(outline.connection as u32, direction, bytes)
            });
            if is_idle {
                records.before += outline.delta;
                let len = outline.len;
                records.records.advance(len);
                continue;
            }
            let Some(event) = records.next() else { return };
            if let EventKind::Anchor(wall) = event.kind {
                self.anchor = Some((event.at, wall));
            }
            self.standing.follow(&event);
        }
    }
}

fn first_anchor(segments: &[Segment<Bytes>]) -> Option<(Duration, Timestamp)> {
    let mut events = segments.iter().cloned().flat_map(Segment::events);
    events.find_map(|event| match event.kind {
        EventKind::Anchor(wall) => Some((event.at, wall)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        packet::{ProtocolVersion, Publish},
        recording::{
            CloseCause, Direction,
            sample::{connack, connect, from_client, open, publish},
        },
    };

    const V5: ProtocolVersion = ProtocolVersion::V5;

    fn ring(bytes: usize, seconds: u64) -> EventRing {
        EventRing::new(RingLimits { bytes, duration: Duration::from_secs(seconds) })
    }

    fn push(ring: &mut EventRing, seconds: u64, connection: u32, kind: EventKind) {
        ring.push(&Event { seq: 0, at: Duration::from_secs(seconds), connection, kind });
    }

    fn retained(topic: &str, payload: &[u8]) -> EventKind {
        from_client(Publish { retain: true, ..publish(Some(topic), payload, Vec::new()) })
    }

    fn shown(window: Window) -> String {
        let mut text = format!("from {:?} on\n", window.start);
        for (connection, kind) in &window.opening {
            let what = match kind {
                EventKind::Open(info) => info.client_identifier.clone().unwrap_or_default(),
                EventKind::State(state) => state.packet.escape_ascii().to_string(),
                _ => String::new(),
            };
            text += &format!("{connection} {} {what}\n", kind.name());
        }
        for event in window.into_events() {
            text += &format!("{:?} {} {}\n", event.at, event.connection, event.kind.name());
        }
        text
    }

    #[test]
    fn a_window_begins_with_who_was_connected_and_what_was_retained() {
        let mut ring = ring(1 << 20, 60);
        push(&mut ring, 0, 1, open());
        push(&mut ring, 0, 1, connect("one", V5));
        push(&mut ring, 1, 1, connack(false, V5));
        push(&mut ring, 2, 2, open());
        push(&mut ring, 2, 2, connect("two", V5));
        push(&mut ring, 2, 2, connack(false, V5));
        push(&mut ring, 3, 1, retained("a", b"old"));
        push(&mut ring, 4, 1, retained("a", b"new"));
        push(&mut ring, 5, 2, EventKind::Close(CloseCause::ClientFin));
        push(&mut ring, 50, 1, retained("a", b"newest"));
        expect![[r#"
            from 30s on
            1 OPEN one
            0 STATE 1\x07\x00\x01a\x00new
            50s 1 PACKET
        "#]]
        .assert_eq(&shown(ring.window(Duration::from_secs(90))));
        expect![[r#"
            from 940s on
            1 OPEN one
            0 STATE 1\n\x00\x01a\x00newest
        "#]]
        .assert_eq(&shown(ring.window(Duration::from_secs(1000))));
    }

    #[test]
    fn an_event_that_would_push_out_all_others_is_missing_instead() {
        let mut ring = ring(64 << 10, 60);
        push(&mut ring, 0, 1, open());
        push(&mut ring, 1, 1, from_client(publish(Some("a"), &[0; 60 << 10], Vec::new())));
        expect![[r#"
            from 0ns on
            0ns 1 OPEN
            1s 0 GAP
        "#]]
        .assert_eq(&shown(ring.window(Duration::from_secs(2))));
    }

    #[test]
    fn the_wall_clock_at_the_windows_start_is_known() {
        let mut ring = ring(1 << 20, 10);
        let wall: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        push(&mut ring, 0, 0, EventKind::Anchor(wall));
        push(&mut ring, 5, 0, EventKind::Mark("a".to_owned()));
        let window = ring.window(Duration::from_secs(6));
        assert_eq!(window.started_at, Some(wall));
        push(&mut ring, 30, 0, EventKind::Mark("b".to_owned()));
        let window = ring.window(Duration::from_secs(32));
        assert_eq!(window.start, Duration::from_secs(22));
        assert_eq!(window.started_at, "2026-11-22T12:00:22Z".parse().ok());
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_what_is_left_is_the_end(
            sizes in proptest::collection::vec((0_usize..40_000, 0_u64..3), 1..200),
        ) {
            let mut ring = ring(256 << 10, 60);
            let mut pushed = Vec::new();
            let mut at = 0;
            for (size, step) in sizes {
                at += step;
                let bytes = Bytes::from(vec![0x30; size]);
                let kind = EventKind::Packet { direction: Direction::ServerToClient, bytes };
                push(&mut ring, at, 1, kind.clone());
                pushed.push((Duration::from_secs(at), kind));
                prop_assert!(ring.held() <= 256 << 10);
            }
            let left: Vec<_> =
                ring.window(Duration::from_secs(at)).into_events().map(|event| (event.at, event.kind)).collect();
            prop_assert!(pushed.ends_with(&left));
            prop_assert!(left.iter().all(|(event, _)| event.as_secs() + 64 > at));
            let recent: usize = pushed.iter().rev().map(|(_, kind)| kind.size() + 64)
                .scan(0, |sum, size| { *sum += size; Some(*sum) }).take_while(|sum| *sum < 150 << 10).count();
            let young = pushed.iter().rev().take(recent).filter(|(event, _)| event.as_secs() + 60 > at).count();
            prop_assert!(left.len() >= young, "{} of {young}", left.len());
        }
    }
}
