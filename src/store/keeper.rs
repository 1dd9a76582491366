//! The store's thread: the only one that writes.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    hash::{BuildHasher, Hasher},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{error, info, warn};
use ulid::Ulid;

use super::{
    Database, Live, Retention, StoreError, block_key,
    folder::{guard, mark_damaged},
    lock, parse_id,
    pipe::Pipe,
    reader::read_whole,
    retention::Stored,
};
use crate::{
    packet::TopicFilter,
    recording::{
        Counts, Event, RecordingInfo, RecordingSource, RecordingSpec, RecordingState, block,
        redact::{Redaction, Redactor},
    },
};

/// Blocks removed at a time: a few milliseconds, after which recordings get their turn.
const DELETE_BATCH: usize = 256;
/// Between two looks for recordings that are too old or too many, where nothing makes one sooner.
const RETENTION_LOOK: Duration = Duration::from_secs(1);
/// Room in the queue is announced after this many bytes were written.
const RELEASE_LEN: usize = 256 << 10;
/// With everything durable at once there is nothing left to flush; this only bounds the wait after
/// a wake-up that found the channel full.
const FLUSH_INTERVAL_WHEN_DURABLE: Duration = Duration::from_millis(50);

type Reply<T> = SyncSender<Result<T, StoreError>>;

/// What the thread is asked to do.
pub enum Command {
    Begin {
        start: Box<Start>,
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
pub enum Ending {
    Keep(RecordingState),
    /// As one that is there makes it.
    Compare(RecordingState, Compare),
    Forget,
}

/// Finds what is there instead of a recording that is all there but its end; `None` keeps that one. An error is answered,
/// and nothing is kept. Called between two looks at the store's limits.
pub type Compare =
    Box<dyn FnOnce(Vec<RecordingInfo>, &RecordingInfo) -> Result<Option<RecordingInfo>, StoreError> + Send>;

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
    /// How it was made of others.
    pub edits: Vec<String>,
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
        let redacted = |redaction: &Redaction| format!("redacted while it was recorded: {redaction}");
        let edits = spec.redaction.iter().map(redacted).collect();
        let redactor = spec.redaction.map(Redactor::new);
        let topic = |filter: &TopicFilter| match &redactor {
            Some(redactor) => redactor.filter(filter.as_str()),
            None => filter.as_str().to_owned(),
        };
        Self {
            name: spec.name.map_or(StartName::Made("recording"), StartName::Exactly),
            id: None,
            source: spec.source,
            topics: spec.filter.topics.iter().map(topic).collect(),
            started_at: None,
            tool_version: None,
            seed: spec.seed,
            edits,
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
    /// Of its blocks, as they are stored.
    bytes: u64,
    /// Whether something was written since the last flush.
    dirty: bool,
}

impl Written {
    /// Of what is in the database by now.
    fn sha256(&self) -> String {
        format!("{:x}", self.hasher.clone().finalize())
    }
}

/// Owns the writing side of the database.
pub struct Keeper {
    database: Database,
    /// sled's own file, to be synced.
    file: File,
    /// Where the database is.
    folder: PathBuf,
    live: Live,
    flush_interval: Duration,
    written: Vec<Written>,
    /// Recordings whose blocks are still to be removed.
    deleting: VecDeque<Ulid>,
    sealed: Vec<u8>,
    refuse_writes: bool,
    retention: Retention,
    /// What there is, by id; those that are being made among them.
    stored: HashMap<String, Stored>,
    /// When the age of recordings is looked at again.
    look_at: Instant,
}

/// What is kept of a recording beside what everybody sees.
#[derive(Serialize, Deserialize)]
struct Kept<I> {
    #[serde(flatten)]
    info: I,
    /// Bytes of its blocks, as they are stored; older versions did not say.
    #[serde(default)]
    stored_bytes: Option<u64>,
    /// When it ended here, in milliseconds since 1970; older versions did not say.
    #[serde(default)]
    kept_at_ms: Option<i64>,
}

impl Keeper {
    pub fn new(
        database: Database,
        folder: &Path,
        live: Live,
        flush_interval: Duration,
        retention: Retention,
    ) -> Result<Self, StoreError> {
        let file = File::open(folder.join("db")).map_err(StoreError::io("opening the store's file"))?;
        let folder = folder.to_owned();
        let flush_interval =
            if flush_interval.is_zero() { FLUSH_INTERVAL_WHEN_DURABLE } else { flush_interval };
        let (written, deleting) = (Vec::new(), VecDeque::new());
        let sealed = Vec::with_capacity(block::SEALED_LEN_MAX * 2);
        let mut stored = HashMap::new();
        for json in database.recordings.iter().values() {
            let Kept { info, stored_bytes, kept_at_ms } = parse_kept(&json?)?;
            let since = match kept_at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
                Some(since) => since,
                None => info.started_at.checked_add(info.duration).unwrap_or(info.started_at),
            };
            let bytes = stored_bytes.unwrap_or(info.bytes);
            stored.insert(info.id.clone(), Stored { id: info.id, bytes, since: Some(since) });
        }
        Ok(Self {
            database,
            file,
            folder,
            live,
            flush_interval,
            written,
            deleting,
            sealed,
            refuse_writes: false,
            retention,
            stored,
            look_at: Instant::now(),
        })
    }

    /// Ends what a dead process left in state RECORDING, and finds blocks that belong to nothing.
    pub fn recover(&mut self) -> Result<(), StoreError> {
        for info in self.database.infos()? {
            if self.database.names.get(&info.name)?.is_none() {
                // Of a store that lost a part of its end.
                self.database.names.insert(&info.name, info.id.as_str())?;
            }
            if info.state == RecordingState::Recording {
                self.interrupt(info)?;
            }
        }
        for entry in self.database.names.iter() {
            let (name, id) = entry?;
            if self.database.info(&String::from_utf8_lossy(&id))?.is_none() {
                self.database.names.remove(name)?;
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
        let failed = self.failed(&info.id);
        info.state = if failed.exists() { RecordingState::Failed } else { RecordingState::Interrupted };
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
        let stored = self.put_info(&info).and_then(|()| self.flush());
        match stored {
            // A full disk is no reason not to show what is on it.
            Err(StoreError::Io { what, error }) => {
                warn!(recording = info.name, what, %error, "that it was interrupted could not be stored");
                lock(&self.live).insert(info.id.clone(), Arc::new(Pipe::ended(id, info)));
            }
            Ok(()) if failed.exists() => {
                fs::remove_file(failed)
                    .map_err(StoreError::io("removing what said that a recording failed"))?;
            }
            stored => stored?,
        }
        Ok(())
    }

    /// Works until told to stop, or until nobody is left who could.
    pub fn run(mut self, commands: &Receiver<Command>) {
        let mut flush_at = Instant::now();
        loop {
            let command = if !self.deleting.is_empty() {
                commands.recv_timeout(Duration::ZERO)
            } else if !self.written.is_empty() {
                commands.recv_timeout(flush_at.saturating_duration_since(Instant::now()))
            } else if self.retention.age.is_some() {
                commands.recv_timeout(self.look_at.saturating_duration_since(Instant::now()))
            } else {
                commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match command {
                Ok(Command::Begin { start, memory, durable, reply }) => {
                    let begun = guard(|| self.begin(*start, memory, durable));
                    begun.as_ref().err().inspect(|error| self.mark(error));
                    if self.written.len() == 1 {
                        flush_at = Instant::now() + self.flush_interval;
                    }
                    // Whoever asked may be gone; the recording then ends with its last handle.
                    let _ = reply.send(begun);
                }
                Ok(Command::Drain(pipe)) => self.drain(&pipe),
                Ok(Command::Finish { pipe, ending, reply }) => {
                    let finished = self.finish(&pipe, ending);
                    self.look_at = Instant::now();
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
            let began = Instant::now();
            if !self.written.is_empty() && began >= flush_at {
                self.flush_all();
                // From its beginning: what came meanwhile waits as long. A slow disk gets a rest all the same.
                flush_at = (began + self.flush_interval).max(Instant::now() + self.flush_interval / 4);
            }
            if !self.retention.is_unlimited() && Instant::now() >= self.look_at {
                self.look_at = Instant::now() + RETENTION_LOOK;
                self.forget_expired();
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
            edits: start.edits,
        };
        self.database.names.insert(&info.name, info.id.as_str())?;
        self.put_info(&info)?;
        self.flush()?;
        let pipe = Arc::new(Pipe::new(id, info.clone(), memory, durable));
        lock(&self.live).insert(info.id, pipe.clone());
        let id = pipe.id.to_string();
        self.stored.insert(id.clone(), Stored { id, bytes: 0, since: None });
        self.written.push(Written {
            pipe: pipe.clone(),
            next_block: 0,
            hasher: Sha256::new(),
            seq: 0,
            bytes: 0,
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
            written.bytes += self.sealed.len() as u64;
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
            Ending::Compare(state, compare) => {
                self.write(index, true)?;
                let info = RecordingInfo { sha256: Some(self.written[index].sha256()), ..pipe.info() };
                let there = compare(self.database.infos()?, &info).transpose();
                match there {
                    None => self.finish_as(index, state),
                    Some(there) => self.forget(index).and(there),
                }
            }
            Ending::Forget => self.forget(index),
        });
        if let Err(error) = &finished
            && let Some(index) = self.index(pipe)
        {
            self.fail(index, error);
        }
        finished
    }

    fn forget(&mut self, index: usize) -> Result<RecordingInfo, StoreError> {
        let info = self.written.remove(index).pipe.info();
        lock(&self.live).remove(&info.id);
        self.delete(&info.id)?;
        Ok(info)
    }

    fn finish_as(&mut self, index: usize, state: RecordingState) -> Result<RecordingInfo, StoreError> {
        self.write(index, true)?;
        let written = &self.written[index];
        if let Some(stored) = self.stored.get_mut(&written.pipe.id.to_string()) {
            stored.bytes = written.bytes;
        }
        let mut info = written.pipe.info();
        info.state = state;
        info.sha256 = Some(written.sha256());
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
        let Written { pipe, bytes, .. } = self.written.remove(index);
        if let Some(stored) = self.stored.get_mut(&pipe.id.to_string()) {
            stored.bytes = bytes;
        }
        let mut info = pipe.info();
        error!(recording = info.name, %error, "recording failed: the store refused a write");
        self.mark(error);
        // First the traffic goes on; what is left to say may take long or fail again.
        pipe.fail(error.to_string());
        info.state = RecordingState::Failed;
        let (mut all, mut durable) = (Counts::default(), Counts::default());
        let count = |event: &Event| {
            all.add(event);
            if event.seq <= pipe.durable_seq() {
                durable.add(event);
            }
        };
        match guard(|| read_whole(&self.database, pipe.id, count, |_| {})) {
            Ok(_) => info.set_counts(&all),
            Err(error) => error!(recording = info.name, %error, "what there is of it cannot be counted"),
        }
        if guard(|| self.put_info(&info)).is_ok() {
            pipe.set_info(info.clone());
            lock(&self.live).remove(&info.id);
            return;
        }
        // What was not flushed before will not be now. This process goes on to know that it failed, and the
        // next is told: on a full disk there is room for a name, if for anything.
        info.set_counts(&durable);
        pipe.set_info(info.clone());
        if let Err(error) = File::create(self.failed(&info.id)) {
            error!(recording = info.name, %error, "the failed recording could not be marked as such");
        }
    }

    /// Says that a recording has failed where the database could not be told.
    fn failed(&self, id: &str) -> PathBuf {
        self.folder.join(format!("failed-{id}"))
    }

    /// Has the store moved aside when it is opened the next time, if `error` says that it is damaged: what
    /// refused one recording would refuse the next.
    fn mark(&self, error: &StoreError) {
        if !matches!(error, StoreError::Corrupted(_)) {
            return;
        }
        warn!("the store is damaged: it is moved aside when it is opened the next time");
        if let Err(error) = mark_damaged(&self.folder) {
            error!(%error, "the damaged store could not be marked as such");
        }
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
        self.stored.remove(id);
        self.flush()?;
        lock(&self.live).remove(id);
        self.deleting.push_back(parse_id(id)?);
        Ok(())
    }

    /// Deletes what the limits leave no room for.
    fn forget_expired(&mut self) {
        for written in &self.written {
            if let Some(stored) = self.stored.get_mut(&written.pipe.id.to_string()) {
                stored.bytes = written.bytes;
            }
        }
        let expired = self.retention.expired(self.stored.values().cloned().collect(), Timestamp::now());
        for (Stored { id, bytes, .. }, why) in expired {
            let name = self.database.info(&id).ok().flatten().map(|info| info.name).unwrap_or_default();
            match guard(|| self.delete(&id)) {
                Ok(()) => {
                    info!(recording = name, bytes, limit = why.setting(), "recording deleted: over the limit")
                }
                Err(error) => {
                    // Not again each second.
                    self.stored.remove(&id);
                    error!(recording = name, %error, limit = why.setting(), "recording over the limit, and not deleted");
                }
            }
        }
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

    fn put_info(&mut self, info: &RecordingInfo) -> Result<(), StoreError> {
        let is_running = info.state == RecordingState::Recording;
        let stored = self.stored.entry(info.id.clone()).or_insert_with(|| Stored {
            id: info.id.clone(),
            bytes: info.bytes,
            since: None,
        });
        if !is_running && stored.since.is_none() {
            stored.since = Some(Timestamp::now());
        }
        let kept = Kept {
            info,
            stored_bytes: (!is_running).then_some(stored.bytes),
            kept_at_ms: stored.since.map(Timestamp::as_millisecond),
        };
        let json = serde_json::to_vec(&kept)
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

fn parse_kept(json: &[u8]) -> Result<Kept<RecordingInfo>, StoreError> {
    serde_json::from_slice(json)
        .map_err(|error| StoreError::Database(format!("what is known of a recording: {error}")))
}

/// # Errors
/// What could not stand in a path or on a line, or would be taken for the id of another recording.
pub fn check_name(name: &str) -> Result<(), StoreError> {
    let reason = match name {
        "" => "a name has at least one character",
        _ if name.len() > 200 => "a name has at most 200 bytes",
        _ if name.contains('/') => "a name must not hold '/'",
        _ if name.chars().any(char::is_control) => "a name must not hold control characters",
        _ if Ulid::from_string(name).is_ok() => {
            "a name must not read as an id, which is what 26 digits and letters other than I, L, O and U do"
        }
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
