//! Whether a recording is as it was written.

use sha2::{Digest, Sha256};

use super::{Database, Store, StoreError, block_key, parse_id};
use crate::{
    amount,
    recording::{
        Counts, RecordingInfo, RecordingState,
        block::{BadBlock, Block, EventDecoder},
    },
};

/// Problems that are told; others are counted.
const TOLD_MAX: usize = 100;

/// What was found.
#[derive(Debug)]
pub struct Checked {
    pub info: RecordingInfo,
    pub blocks: u64,
    /// As stored.
    pub bytes: u64,
    /// Events that can be read.
    pub events: u64,
    /// Of the events that are there; `None` if some are not.
    pub sha256: Option<String>,
    /// The first ones.
    pub problems: Vec<Problem>,
    pub problems_left_out: u64,
}

/// Something that is not as it was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 0; `None` for the recording as a whole.
    pub block: Option<u64>,
    pub reason: String,
}

impl Checked {
    pub fn is_intact(&self) -> bool {
        self.problems.is_empty()
    }

    fn refuse(&mut self, block: Option<u64>, reason: impl ToString) {
        if self.problems.len() < TOLD_MAX {
            self.problems.push(Problem { block, reason: reason.to_string() });
        } else {
            self.problems_left_out += 1;
        }
    }
}

impl Store {
    /// Reads all of a recording and compares it with what is known of it: every block with its checksum, the order of
    /// blocks and events, counts, and the hash over all. Of one that goes on, what is stored by now.
    ///
    /// # Errors
    /// Those of the database; what is wrong with the recording is in the answer.
    pub fn check(&self, id: &str) -> Result<Checked, StoreError> {
        let info = self.find(id)?;
        Checker::new(info).run(&self.inner.database()?)
    }
}

struct Checker {
    found: Checked,
    hasher: Sha256,
    counts: Counts,
    /// Of the blocks since the last that could not be read.
    decoder: EventDecoder,
    next_block: u64,
    /// The event that comes next; told where some are missing.
    next_seq: u64,
}

impl Checker {
    fn new(info: RecordingInfo) -> Self {
        Self {
            found: Checked {
                info,
                blocks: 0,
                bytes: 0,
                events: 0,
                sha256: None,
                problems: Vec::new(),
                problems_left_out: 0,
            },
            hasher: Sha256::new(),
            counts: Counts::default(),
            decoder: EventDecoder::new(),
            next_block: 0,
            next_seq: 1,
        }
    }

    fn run(mut self, database: &Database) -> Result<Checked, StoreError> {
        let id = parse_id(&self.found.info.id)?;
        for stored in database.blocks.range(block_key(id, 0)..=block_key(id, u64::MAX)) {
            let (key, sealed) = stored?;
            let number: [u8; 8] = key[16..].try_into().expect("block keys have 24 bytes");
            self.block(u64::from_be_bytes(number), &sealed);
        }
        self.finish();
        Ok(self.found)
    }

    fn block(&mut self, number: u64, sealed: &[u8]) {
        self.found.blocks += 1;
        self.found.bytes += sealed.len() as u64;
        if number != self.next_block {
            let (first, last) = (self.next_block, number - 1);
            let others = if first == last { String::new() } else { format!(", as are those up to {last}") };
            self.found.refuse(Some(first), format!("is missing{others}"));
            self.decoder = EventDecoder::new();
        }
        self.next_block = number + 1;
        if let Err(reason) = self.read(sealed) {
            self.found.refuse(Some(number), reason);
            self.decoder = EventDecoder::new();
        }
    }

    fn read(&mut self, sealed: &[u8]) -> Result<(), BadBlock> {
        let block = Block::open(sealed)?;
        self.hasher.update(&block.records);
        if self.decoder.next_seq() == 0 && block.continues {
            // The rest of an event whose beginning is missing, which was said.
            return Ok(());
        }
        let first = block.first_seq;
        if self.decoder.next_seq() == 0 && first > self.next_seq {
            let last = first - 1;
            let what = if self.next_seq == last {
                format!("event {last} is")
            } else {
                format!("events {} to {last} are", self.next_seq)
            };
            self.found.refuse(None, format!("{what} lost"));
        }
        self.decoder.feed(block)?;
        while let Some(event) = self.decoder.next_event()? {
            self.counts.add(&event);
            self.found.events += 1;
            self.next_seq = event.seq + 1;
        }
        Ok(())
    }

    /// Compares with what is known of the recording.
    fn finish(&mut self) {
        let info = self.found.info.clone();
        if info.state == RecordingState::Recording {
            return;
        }
        if self.found.events < info.events {
            let missing = info.events - self.found.events;
            if self.next_seq <= info.events {
                let reason = format!("the recording ends at event {} of {}", self.next_seq - 1, info.events);
                self.found.refuse(None, reason);
            } else if self.found.is_intact() {
                self.found.refuse(None, format!("{} missing", amount::counted(missing, "event")));
            }
        }
        if !self.found.is_intact() {
            return;
        }
        let mut counted = info.clone();
        counted.set_counts(&self.counts);
        if counted != info {
            self.found.refuse(None, "its counts are not those of its events");
        }
        let sha256 = format!("{:x}", self.hasher.clone().finalize());
        if info.sha256.as_ref().is_some_and(|known| *known != sha256) {
            let known = info.sha256.as_deref().unwrap_or_default();
            self.found.refuse(None, format!("the SHA-256 of its events is {sha256}, and was {known}"));
        }
        self.found.sha256 = Some(sha256);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::{
        recording::{EventKind, RecordingSource, RecordingSpec},
        store::StoreOptions,
    };

    struct Bench {
        store: Store,
        info: RecordingInfo,
        _folder: TempDir,
    }

    impl Bench {
        /// A recording of several blocks, one event of which is in five of them.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(StoreOptions::new(folder.path())).unwrap();
            let spec =
                RecordingSpec { name: Some("r".to_owned()), ..RecordingSpec::new(RecordingSource::broker()) };
            let writer = store.begin(spec).unwrap();
            for n in 0..1000 {
                let long = if n == 600 { "long".repeat(20_000) } else { format!("mark {n}") };
                writer.append(Duration::from_millis(n), 0, EventKind::Mark(long)).unwrap();
            }
            Self { info: writer.finish().unwrap(), store, _folder: folder }
        }

        fn key(&self, number: u64) -> [u8; 24] {
            block_key(self.info.id.parse().unwrap(), number)
        }

        fn damage(&self, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
            let blocks = self.store.inner.database().unwrap().blocks;
            let mut sealed = blocks.get(self.key(number)).unwrap().unwrap().to_vec();
            change(&mut sealed);
            blocks.insert(self.key(number), sealed).unwrap();
        }

        fn remove(&self, number: u64) {
            self.store.inner.database().unwrap().blocks.remove(self.key(number)).unwrap();
        }

        fn found(&self) -> String {
            let checked = self.store.check("r").unwrap();
            let problem = |Problem { block, reason }: &Problem| {
                format!("{}{reason}\n", block.map(|block| format!("block {block}: ")).unwrap_or_default())
            };
            let problems: String = checked.problems.iter().map(problem).collect();
            format!("{} blocks, {} events\n{problems}", checked.blocks, checked.events)
        }
    }

    #[test]
    fn a_good_recording_is_intact_and_has_the_hash_that_is_known() {
        let bench = Bench::new();
        let checked = bench.store.check("r").unwrap();
        assert!(checked.is_intact(), "{:?}", checked.problems);
        assert_eq!((checked.events, checked.sha256), (1000, bench.info.sha256.clone()));
    }

    #[test]
    fn every_damaged_block_is_told_and_what_is_lost_by_it() {
        let bench = Bench::new();
        bench.damage(1, |sealed| sealed[20] ^= 1);
        // The long event begins in one of these.
        bench.damage(4, |sealed| sealed.truncate(9));
        expect_test::expect![[r#"
            10 blocks, 706 events
            block 1: checksum 9da1cc80 instead of 79246374
            events 302 to 594 are lost
            block 4: block of 9 bytes is too short for its header
            event 601 is lost
        "#]]
        .assert_eq(&bench.found());
    }

    #[test]
    fn missing_blocks_are_told() {
        let bench = Bench::new();
        bench.remove(0);
        bench.remove(2);
        expect_test::expect![[r#"
            8 blocks, 693 events
            block 0: is missing
            events 1 to 301 are lost
            block 2: is missing
            events 595 to 600 are lost
        "#]]
        .assert_eq(&bench.found());
        let last = bench.store.check("r").unwrap().blocks + 1;
        let bench = Bench::new();
        bench.remove(last);
        expect_test::expect![[r#"
            9 blocks, 894 events
            the recording ends at event 894 of 1000
        "#]]
        .assert_eq(&bench.found());
    }

    #[test]
    fn blocks_that_are_whole_and_not_those_that_were_written_are_told() {
        let (bench, other) = (Bench::new(), Bench::new());
        let blocks = other.store.inner.database().unwrap().blocks;
        let third = blocks.get(other.key(3)).unwrap().unwrap();
        // Good by itself, in the wrong place.
        bench.damage(1, |sealed| *sealed = third.to_vec());
        expect_test::expect![[r#"
            10 blocks, 707 events
            block 1: block starts with event 601 instead of event 302
            events 302 to 594 are lost
        "#]]
        .assert_eq(&bench.found());
        // Good by itself and in its place, and not what was hashed.
        let bench = Bench::new();
        let database = bench.store.inner.database().unwrap();
        let known = RecordingInfo { sha256: Some("0".repeat(64)), ..bench.info.clone() };
        database.recordings.insert(&known.id, serde_json::to_vec(&known).unwrap()).unwrap();
        let found = bench.found();
        assert!(found.contains("the SHA-256 of its events is") && found.contains("was 0000"), "{found}");
    }

    #[test]
    fn a_recording_that_goes_on_is_checked_as_far_as_it_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let spec =
            RecordingSpec { name: Some("live".to_owned()), ..RecordingSpec::new(RecordingSource::broker()) };
        let writer = store.begin(spec).unwrap();
        let seq = writer.append(Duration::ZERO, 0, EventKind::Mark("m".to_owned())).unwrap();
        writer.wait_durable(seq);
        let checked = store.check("live").unwrap();
        assert!(checked.is_intact());
        assert_eq!((checked.events, checked.sha256), (1, None));
    }
}
