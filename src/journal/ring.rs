//! The last messages, as many as there is room for.
//!
//! They lie in segments, which readers hold while they look at them, so nobody waits for a reader and none is copied. New
//! ones are appended to the last segment as long as nobody holds it.

use std::{collections::VecDeque, sync::Arc};

use super::{KeptMessage, Segment};

/// How much a [`Ring`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    pub messages: u64,
    /// Of topics, properties, payloads and what it takes to tell them apart.
    pub bytes: usize,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 16 << 20 }
    }
}

impl JournalLimits {
    /// Whether nothing is kept.
    pub fn is_off(&self) -> bool {
        self.messages == 0 || self.bytes == 0
    }

    /// Bytes of a segment that nothing is added to any more: what goes at once.
    pub fn segment_bytes(&self) -> usize {
        const MOST: usize = 64 << 10;
        (self.bytes / 16).clamp(1, MOST)
    }
}

/// How much more may wait for a reader that must miss nothing, in rings.
const READER_RINGS: usize = 4;

/// Messages by sequence number, the oldest of which go.
#[derive(Debug)]
pub struct Ring {
    limits: JournalLimits,
    segments: VecDeque<Arc<Segment>>,
    bytes: usize,
    /// The sequence number that the next message gets.
    next: u64,
    /// Nothing before it is there any more, though its segment may be.
    oldest: u64,
    /// What it was when it was emptied last.
    start: u64,
    /// Messages that had to go.
    evicted: u64,
    /// What somebody has yet to look at is kept a while longer.
    reader: Option<u64>,
}

/// Some messages, to be looked at for as long as it takes.
#[derive(Clone, Debug)]
pub struct Chunk {
    segment: Arc<Segment>,
    from: u64,
}

impl Chunk {
    pub fn iter(&self) -> impl Iterator<Item = KeptMessage<'_>> {
        let skipped = self.from.saturating_sub(self.segment.first()) as usize;
        self.segment.iter().skip(skipped)
    }

    /// Sequence number of the first.
    pub fn first(&self) -> u64 {
        self.from.max(self.segment.first())
    }

    /// Sequence number behind the last.
    pub fn end(&self) -> u64 {
        self.segment.end()
    }
}

impl Ring {
    pub fn new(limits: JournalLimits) -> Self {
        Self {
            limits,
            segments: VecDeque::new(),
            bytes: 0,
            next: 1,
            oldest: 1,
            start: 1,
            evicted: 0,
            reader: None,
        }
    }

    pub fn limits(&self) -> &JournalLimits {
        &self.limits
    }

    /// The sequence number that the next message gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The sequence number that no message before it is there any more.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The sequence number that the first message had since it was emptied, or made.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How many are there.
    pub fn messages(&self) -> u64 {
        let behind = |segment: &Arc<Segment>| segment.end().saturating_sub(segment.first().max(self.oldest));
        self.segments.iter().map(behind).sum()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many had to go for others.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Takes the messages of `segment`, which is empty then.
    pub fn take(&mut self, segment: &mut Segment) {
        if segment.is_empty() {
            return;
        }
        segment.set_first(self.next);
        self.next = segment.end();
        if segment.size() > self.limits.bytes {
            // One message alone; for it, all others would have to go.
            self.evicted += segment.messages() as u64;
            segment.clear();
            return self.evict();
        }
        let most = self.limits.segment_bytes();
        let last = self.segments.back_mut().filter(|last| last.end() == segment.first());
        match last.and_then(Arc::get_mut).filter(|last| last.size() + segment.size() <= most) {
            Some(last) => {
                let before = last.size();
                last.append(segment);
                self.bytes += last.size() - before;
            }
            None => {
                self.bytes += segment.size();
                self.segments.push_back(Arc::new(segment.clone()));
            }
        }
        segment.clear();
        self.evict();
    }

    fn evict(&mut self) {
        let wanted = self.next.saturating_sub(self.limits.messages).max(self.oldest);
        while let Some(segment) = self.segments.front() {
            let is_over = self.bytes > self.limits.bytes;
            if segment.end() > wanted && !is_over {
                break;
            }
            let is_unread = self.reader.is_some_and(|reader| reader < segment.end());
            if is_unread && self.bytes <= self.limits.bytes.saturating_mul(READER_RINGS) {
                break;
            }
            self.bytes -= segment.size();
            self.advance(segment.end());
            self.segments.pop_front();
        }
        self.advance(self.reader.map_or(wanted, |reader| wanted.min(reader)));
    }

    fn advance(&mut self, oldest: u64) {
        if oldest > self.oldest {
            let first = self.segments.front().map_or(oldest, |segment| segment.first());
            self.evicted += oldest.saturating_sub(first.max(self.oldest));
            self.oldest = oldest;
        }
    }

    /// The first messages from `sequence` on, of those that are there; `None` if there are none.
    pub fn read(&self, sequence: u64) -> Option<Chunk> {
        let from = sequence.max(self.oldest);
        let place = self.segments.partition_point(|segment| segment.end() <= from);
        let segment = self.segments.get(place)?;
        Some(Chunk { segment: Arc::clone(segment), from })
    }

    /// The last messages before `sequence`, of those that are there.
    pub fn read_back(&self, sequence: u64) -> Option<Chunk> {
        if sequence <= self.oldest {
            return None;
        }
        let place = self.segments.partition_point(|segment| segment.first() < sequence);
        let segment = self.segments.get(place.checked_sub(1)?)?;
        let chunk = Chunk { segment: Arc::clone(segment), from: self.oldest };
        (segment.end() > self.oldest).then_some(chunk)
    }

    /// Somebody has yet to look at what comes from `sequence` on, and more is kept until then, within a limit; `None`:
    /// nobody.
    pub fn set_reader(&mut self, sequence: Option<u64>) {
        self.reader = sequence;
        self.evict();
    }

    /// Forgets all messages; sequence numbers go on. Returns how many there were.
    pub fn clear(&mut self) -> u64 {
        let count = self.messages();
        self.segments.clear();
        self.bytes = 0;
        (self.start, self.oldest) = (self.next, self.next);
        count
    }
}
