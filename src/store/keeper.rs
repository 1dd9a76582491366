//! The store's thread: the only one that writes.

use std::{
    collections::VecDeque,
    fs::File,
    hash::{BuildHasher, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tracing::{error, info, warn};
use ulid::Ulid;

use super::{
    Database, Live, StoreError, block_key, lock, panic_text, parse_id, pipe::Pipe, reader::read_whole,
};
use crate::recording::{Counts, RecordingInfo, RecordingSource, RecordingSpec, RecordingState, block};

/// Blocks removed at a time: a few milliseconds, after which recordings get their turn.
const DELETE_BATCH: usize = 256;
/// Room in the queue is announced after this many bytes were written.
const RELEASE_LEN: usize = 256 << 10;
/// With everything durable at once there is nothing left to flush; this only bounds the wait after
/// a wake-up that found the channel full.
const FLUSH_INTERVAL_WHEN_DURABLE: Duration = Duration::from_millis(50);

type Reply<T> = SyncSender<Result<T, StoreError>>;

/// What the thread is asked to do.
pub enum Command {
    Begin {
        start: Start,
        memory: usize,
        durable: bool,
        reply: Reply<Arc<Pipe>>,
    },
    /// There is something to write.
    Drain(Arc<Pipe>),
    Finish {
        pipe: Arc<Pipe>,
        ending: Ending,
        reply: Option<Reply<RecordingInfo>>,
    },
    Delete {
        id: String,
        reply: Reply<()>,
    },
    #[cfg(test)]
    RefuseWrites,
    Stop,
}

/// What becomes of a recording at its end.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    Keep(RecordingState),
    Forget,
}

/// How a recording begins.
pub struct Start {
    pub name: StartName,
    /// Kept if no other recording has it.
    pub id: Option<Ulid>,
    pub source: RecordingSource,
    pub topics: Vec<String>,
    /// Now when `None`.
    pub started_at: Option<Timestamp>,
    /// This program's when `None`.
    pub tool_version: Option<String>,
    pub seed: Option<u64>,
}

/// What a recording is called.
pub enum StartName {
    /// This, or not at all.
    Exactly(String),
    /// This, with a number behind it if it is taken.
    Preferably(String),
    /// The word and the time.
    Made(&'static str),
}

impl Start {
    pub fn from_spec(spec: RecordingSpec) -> Self {
        Self {
            name: spec.name.map_or(StartName::Made("recording"), StartName::Exactly),
            id: None,
            source: spec.source,
            topics: spec.topics.iter().map(|filter| filter.as_str().to_owned()).collect(),
            started_at: None,
            tool_version: None,
            seed: spec.seed,
        }
    }
}

/// A recording being written.
struct Written {
    pipe: Arc<Pipe>,
    next_block: u64,
    hasher: Sha256,
    /// The last event whose end is in the database.
    seq: u64,
    /// Whether something was written since the last flush.
    dirty: bool,
}

/// Owns the writing side of the database.
pub struct Keeper {
    database: Database,
    /// sled's own file, to be synced.
    file: File,
    live: Live,
    flush_interval: Duration,
    written: Vec<Written>,
    /// Recordings whose blocks are still to be removed.
    deleting: VecDeque<Ulid>,
    sealed: Vec<u8>,
    refuse_writes: bool,
}

impl Keeper {
    pub fn new(
        database: Database,
        file: &Path,
        live: Live,
        flush_interval: Duration,
    ) -> Result<Self, StoreError> {
        let file = File::open(file).map_err(StoreError::io("opening the store's file"))?;
        let flush_interval =
            if flush_interval.is_zero() { FLUSH_INTERVAL_WHEN_DURABLE } else { flush_interval };
        let (written, deleting) = (Vec::new(), VecDeque::new());
        let sealed = Vec::with_capacity(block::SEALED_LEN_MAX * 2);
        Ok(Self { database, file, live, flush_interval, written, deleting, sealed, refuse_writes: false })
    }

    /// Ends what a dead process left in state RECORDING, and finds blocks that belong to nothing.
    pub fn recover(&mut self) -> Result<(), StoreError> {
        for info in self.database.infos()? {
            if info.state == RecordingState::Recording {
                self.interrupt(info)?;
            }
        }
        let mut from = block_key(Ulid::nil(), 0);
        while let Some((key, _)) = self.database.blocks.range(from..).next().transpose()? {
            let id: [u8; 16] = key[..16].try_into().expect("block keys have 24 bytes");
            let id = Ulid::from_bytes(id);
            if self.database.info(&id.to_string())?.is_none() {
                self.deleting.push_back(id);
            }
            from = block_key(id, u64::MAX);
            // Block numbers never get there, so this is the first key of the next recording.
        }
        Ok(())
    }

    fn interrupt(&mut self, mut info: RecordingInfo) -> Result<(), StoreError> {
        let id = parse_id(&info.id)?;
        let (mut counts, mut hasher) = (Counts::default(), Sha256::new());
        let tail =
            read_whole(&self.database, id, |event| counts.add(event), |block| hasher.update(&block.records))?;
        info.set_counts(&counts);
        info.state = RecordingState::Interrupted;
        if let Some(damage) = &tail.damage {
            error!(recording = info.name, block = tail.whole_blocks, %damage, "a block is damaged");
        } else {
            // An event of several blocks that was cut short.
            let rest = block_key(id, tail.whole_blocks)..=block_key(id, u64::MAX);
            for key in self.database.blocks.range(rest).keys() {
                self.database.blocks.remove(key?)?;
            }
            info.sha256 = Some(format!("{:x}", hasher.finalize()));
        }
        warn!(
            recording = info.name,
            events = info.events,
            "a recording was interrupted; what had been flushed is kept"
        );
        self.put_info(&info)?;
        self.flush()
    }

    /// Works until told to stop, or until nobody is left who could.
    pub fn run(mut self, commands: &Receiver<Command>) {
        let mut flush_at = Instant::now();
        loop {
            let command = if !self.deleting.is_empty() {
                commands.recv_timeout(Duration::ZERO)
            } else if !self.written.is_empty() {
                commands.recv_timeout(flush_at.saturating_duration_since(Instant::now()))
            } else {
                commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match command {
                Ok(Command::Begin { start, memory, durable, reply }) => {
                    let begun = guard(|| self.begin(start, memory, durable));
                    if self.written.len() == 1 {
                        flush_at = Instant::now() + self.flush_interval;
                    }
                    // Whoever asked may be gone; the recording then ends with its last handle.
                    let _ = reply.send(begun);
                }
                Ok(Command::Drain(pipe)) => self.drain(&pipe),
                Ok(Command::Finish { pipe, ending, reply }) => {
                    let finished = self.finish(&pipe, ending);
                    if let Some(reply) = reply {
                        let _ = reply.send(finished);
                    }
                }
                Ok(Command::Delete { id, reply }) => {
                    let _ = reply.send(guard(|| self.delete(&id)));
                }
                #[cfg(test)]
                Ok(Command::RefuseWrites) => self.refuse_writes = true,
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.delete_some(),
            }
            if !self.written.is_empty() && Instant::now() >= flush_at {
                self.flush_all();
                flush_at = Instant::now() + self.flush_interval;
            }
        }
        self.stop();
    }

    fn stop(mut self) {
        while let Some(pipe) = self.written.first().map(|written| written.pipe.clone()) {
            // A failure is logged where it happens.
            let _ = self.finish(&pipe, Ending::Keep(RecordingState::Interrupted));
        }
        if let Err(error) = guard(|| self.flush()) {
            error!(%error, "the store could not be flushed at its end");
        }
    }

    fn begin(&mut self, start: Start, memory: usize, durable: bool) -> Result<Arc<Pipe>, StoreError> {
        let started_at = start.started_at.unwrap_or_else(Timestamp::now);
        let name = match start.name {
            StartName::Exactly(name) => {
                check_name(&name)?;
                if self.database.names.contains_key(&name)? {
                    return Err(StoreError::AlreadyExists { name });
                }
                name
            }
            StartName::Preferably(name) => self.free_name(name)?,
            StartName::Made(word) => {
                self.free_name(format!("{word}-{}", started_at.strftime("%Y%m%d-%H%M%S")))?
            }
        };
        let id = self.free_id(start.id)?;
        let info = RecordingInfo {
            id: id.to_string(),
            name,
            state: RecordingState::Recording,
            source: start.source,
            started_at,
            duration: Duration::ZERO,
            events: 0,
            packets: 0,
            connections: 0,
            bytes: 0,
            gaps: 0,
            sha256: None,
            tool_version: start.tool_version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            topics: start.topics,
            seed: start.seed,
        };
        self.database.names.insert(&info.name, info.id.as_str())?;
        self.put_info(&info)?;
        self.flush()?;
        let pipe = Arc::new(Pipe::new(id, info.clone(), memory, durable));
        lock(&self.live).insert(info.id, pipe.clone());
        self.written.push(Written {
            pipe: pipe.clone(),
            next_block: 0,
            hasher: Sha256::new(),
            seq: 0,
            dirty: false,
        });
        Ok(pipe)
    }

    fn free_name(&self, name: String) -> Result<String, StoreError> {
        if !self.database.names.contains_key(&name)? {
            return Ok(name);
        }
        for number in 2_u32.. {
            let numbered = format!("{name}-{number}");
            if !self.database.names.contains_key(&numbered)? {
                return Ok(numbered);
            }
        }
        Err(StoreError::AlreadyExists { name })
    }

    fn free_id(&self, wanted: Option<Ulid>) -> Result<Ulid, StoreError> {
        let mut id = wanted.unwrap_or_else(new_id);
        // Blocks that are still being removed keep their recording's id taken.
        while self.database.recordings.contains_key(id.to_string())? || self.deleting.contains(&id) {
            id = new_id();
        }
        Ok(id)
    }

    /// Writes the blocks that are full, and all there is if it has to be durable at once.
    fn drain(&mut self, pipe: &Arc<Pipe>) {
        let Some(index) = self.index(pipe) else { return };
        let durable_first = pipe.is_durable_first();
        if let Err(error) = guard(|| self.write(index, durable_first)) {
            self.fail(index, &error);
        } else if durable_first {
            self.flush_written();
        }
    }

    /// Writes all there is of every recording, and makes it durable.
    fn flush_all(&mut self) {
        for index in (0..self.written.len()).rev() {
            if let Err(error) = guard(|| self.write(index, true)) {
                self.fail(index, &error);
            }
        }
        self.flush_written();
    }

    fn flush_written(&mut self) {
        if !self.written.iter().any(|written| written.dirty) {
            return;
        }
        match guard(|| self.flush()) {
            Ok(()) => {
                for written in &mut self.written {
                    written.dirty = false;
                    written.pipe.set_durable(written.seq);
                }
            }
            Err(error) => {
                for index in (0..self.written.len()).rev() {
                    self.fail(index, &error);
                }
            }
        }
    }

    fn write(&mut self, index: usize, partial: bool) -> Result<(), StoreError> {
        let written = &mut self.written[index];
        let mut released = 0;
        for block in written.pipe.take(partial) {
            if self.refuse_writes {
                return Err(StoreError::Database("writes are refused".to_owned()));
            }
            self.sealed.clear();
            block.seal(&mut self.sealed);
            let key = block_key(written.pipe.id, written.next_block);
            self.database.blocks.insert(key, self.sealed.as_slice())?;
            written.hasher.update(&block.records);
            written.next_block += 1;
            written.dirty = true;
            if !block.continued {
                // A block that only continues an event carries that event's number.
                written.seq = block.first_seq + u64::from(block.count.max(1)) - 1;
            }
            released += block.records.len();
            if released >= RELEASE_LEN {
                written.pipe.release(std::mem::take(&mut released));
            }
        }
        if released > 0 {
            written.pipe.release(released);
        }
        Ok(())
    }

    fn finish(&mut self, pipe: &Arc<Pipe>, ending: Ending) -> Result<RecordingInfo, StoreError> {
        pipe.end();
        let Some(index) = self.index(pipe) else {
            let name = pipe.info().name;
            return Err(match pipe.failure() {
                Some(reason) => StoreError::Failed { name, reason },
                None => StoreError::Ended { name },
            });
        };
        let finished = guard(|| match ending {
            Ending::Keep(state) => self.finish_as(index, state),
            Ending::Forget => {
                let info = pipe.info();
                self.written.remove(index);
                lock(&self.live).remove(&info.id);
                self.delete(&info.id)?;
                Ok(info)
            }
        });
        if let Err(error) = &finished
            && let Some(index) = self.index(pipe)
        {
            self.fail(index, error);
        }
        finished
    }

    fn finish_as(&mut self, index: usize, state: RecordingState) -> Result<RecordingInfo, StoreError> {
        self.write(index, true)?;
        let written = &self.written[index];
        let mut info = written.pipe.info();
        info.state = state;
        info.sha256 = Some(format!("{:x}", written.hasher.clone().finalize()));
        self.put_info(&info)?;
        self.flush()?;
        let written = self.written.remove(index);
        written.pipe.set_info(info.clone());
        written.pipe.set_durable(written.seq);
        lock(&self.live).remove(&info.id);
        info!(recording = info.name, state = %info.state, events = info.events, "recording ended");
        Ok(info)
    }

    /// Ends a recording that cannot be written: loudly, and without stopping what it observed.
    fn fail(&mut self, index: usize, error: &StoreError) {
        let pipe = self.written.remove(index).pipe;
        let mut info = pipe.info();
        error!(recording = info.name, %error, "recording failed: the store refused a write");
        // First the traffic goes on; what is left to say may take long or fail again.
        pipe.fail(error.to_string());
        info.state = RecordingState::Failed;
        let rebuilt = guard(|| {
            let mut counts = Counts::default();
            read_whole(&self.database, pipe.id, |event| counts.add(event), |_| {})?;
            info.set_counts(&counts);
            self.put_info(&info)
        });
        if let Err(error) = rebuilt {
            error!(recording = info.name, %error, "the failed recording could not be marked as such");
        }
        pipe.set_info(info.clone());
        lock(&self.live).remove(&info.id);
    }

    fn delete(&mut self, id: &str) -> Result<(), StoreError> {
        let Some(info) = self.database.info(id)? else {
            return Err(self.database.not_found(id)?);
        };
        if self.written.iter().any(|written| written.pipe.id.to_string() == id) {
            return Err(StoreError::StillRecording { name: info.name });
        }
        self.database.recordings.remove(id)?;
        self.database.names.remove(&info.name)?;
        self.flush()?;
        self.deleting.push_back(parse_id(id)?);
        Ok(())
    }

    /// Removes some blocks of what was deleted.
    fn delete_some(&mut self) {
        let Some(&id) = self.deleting.front() else { return };
        let removed = guard(|| {
            let mut batch = sled::Batch::default();
            let mut count = 0;
            let range = block_key(id, 0)..=block_key(id, u64::MAX);
            for key in self.database.blocks.range(range).keys().take(DELETE_BATCH) {
                batch.remove(key?);
                count += 1;
            }
            self.database.blocks.apply_batch(batch)?;
            Ok(count)
        });
        match removed {
            Ok(DELETE_BATCH) => return,
            Ok(_) => {}
            Err(error) => warn!(%id, %error, "deleted blocks stay until the store is opened again"),
        }
        self.deleting.pop_front();
    }

    fn put_info(&self, info: &RecordingInfo) -> Result<(), StoreError> {
        let json = serde_json::to_vec(info)
            .map_err(|error| StoreError::Database(format!("what is known of a recording: {error}")))?;
        self.database.recordings.insert(&info.id, json)?;
        Ok(())
    }

    /// Makes everything written so far durable. sled's flush alone only starts writing back.
    fn flush(&self) -> Result<(), StoreError> {
        self.database.db.flush()?;
        self.file.sync_data().map_err(StoreError::io("syncing the store"))
    }

    fn index(&self, pipe: &Arc<Pipe>) -> Option<usize> {
        self.written.iter().position(|written| Arc::ptr_eq(&written.pipe, pipe))
    }
}

/// Turns a panic inside sled into an error.
fn guard<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(StoreError::Database(panic_text(&*panic))))
}

/// # Errors
/// What could not stand in a path or on a line.
pub fn check_name(name: &str) -> Result<(), StoreError> {
    let reason = match name {
        "" => "a name has at least one character",
        _ if name.len() > 200 => "a name has at most 200 bytes",
        _ if name.contains('/') => "a name holds no '/'",
        _ if name.chars().any(char::is_control) => "a name holds no control characters",
        _ => return Ok(()),
    };
    Err(StoreError::InvalidName { name: name.to_owned(), reason })
}

fn new_id() -> Ulid {
    // The standard library's hasher keys are random, which is all that an id needs.
    let random = || u128::from(std::hash::RandomState::new().build_hasher().finish());
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    Ulid::from_parts(now, random() << 64 | random())
}
