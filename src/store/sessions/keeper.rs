//! The thread of the sessions' store: the only one that writes.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    anchor::Anchor,
    database::{Database, Pending},
    index::{Index, prefixes},
    redo,
};
use crate::{
    broker::Batch,
    store::{
        StoreError,
        folder::{self, guard, mark_damaged, unmark_damaged},
    },
};

/// Between two attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// How long such attempts go on once the store is to be closed.
const PATIENCE: Duration = Duration::from_secs(3);
/// After so long without a batch, what there is is brought to the records.
const IDLE: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
pub enum Command {
    Commit {
        batch: Box<Batch>,
        on_done: Box<dyn FnOnce() + Send>,
    },
    #[cfg(test)]
    RefuseWrites(bool),
    Close,
}

/// Owns the database.
pub struct Keeper {
    pub folder: PathBuf,
    /// `None` after something failed, until it is opened again.
    pub database: Option<Database>,
    pub index: Index,
    pub pending: Pending,
    pub commands: Receiver<Command>,
    /// Commands that came while something could not be written.
    pub waiting: VecDeque<Command>,
    /// Writes that failed.
    pub failures: Arc<AtomicU64>,
    /// Whether the last attempt to write failed.
    pub is_failing: bool,
    /// When to give up what cannot be written, once the store is to be closed.
    pub gives_up_at: Option<Instant>,
    #[cfg(test)]
    pub refuses_writes: bool,
}

/// The store is to be closed, and something cannot be written.
struct GivenUp;

impl Keeper {
    /// Runs until the store is closed; what could not be written by then.
    pub fn run(mut self) -> Result<(), StoreError> {
        let result = self.work().map_err(|GivenUp| {
            // The batch that was under way, and those that wait behind it.
            let commits = |command: &Command| matches!(command, Command::Commit { .. });
            let batches = 1
                + self.waiting.iter().filter(|command| commits(command)).count()
                + self.commands.try_iter().filter(commits).count();
            error!(batches, "the last changes of sessions and retained messages could not be kept");
            StoreError::NotKept { batches }
        });
        if let Some(database) = self.database.take() {
            if result.is_ok()
                && let Err(error) = database.note_closed(&self.folder)
            {
                warn!(%error, "sessions and retained messages are kept, but not how many there are");
            }
            folder::close(&self.folder, database);
        }
        result
    }

    fn work(&mut self) -> Result<(), GivenUp> {
        loop {
            let command = match self.next_command() {
                Next::Command(command) => command,
                Next::Nothing if self.pending.is_moving() => {
                    self.move_piece()?;
                    continue;
                }
                Next::Nothing => {
                    if !self.pending.is_empty() {
                        self.pending.begin_to_move();
                    }
                    continue;
                }
                Next::End => return Ok(()),
            };
            match command {
                Command::Commit { batch, on_done } => {
                    self.commit(&batch)?;
                    on_done();
                    self.make_room()?;
                }
                #[cfg(test)]
                Command::RefuseWrites(refuses) => self.refuses_writes = refuses,
                Command::Close => return Ok(()),
            }
        }
    }

    fn next_command(&mut self) -> Next {
        if let Some(command) = self.waiting.pop_front() {
            return Next::Command(command);
        }
        if self.gives_up_at.is_some() {
            return Next::End;
        }
        if self.pending.is_moving() {
            return match self.commands.try_recv() {
                Ok(command) => Next::Command(command),
                Err(TryRecvError::Empty) => Next::Nothing,
                Err(TryRecvError::Disconnected) => Next::End,
            };
        }
        match self.commands.recv_timeout(IDLE) {
            Ok(command) => Next::Command(command),
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), GivenUp> {
        let doomed = self.attempt(|database, pending| {
            let mut keys = Vec::new();
            for prefix in batch.forgotten.iter().flat_map(|session| prefixes(*session)) {
                keys.extend(pending.keys(database, &prefix)?);
            }
            Ok(keys)
        })?;
        let writes = self.index.apply(batch, &doomed, Anchor::now());
        if writes.is_empty() {
            return Ok(());
        }
        let parts = redo::encode(&writes);
        self.attempt(|database, _| database.write_parts(&parts))?;
        self.pending.add(writes, parts.len());
        Ok(())
    }

    /// Keeps what is gathered within bounds.
    fn make_room(&mut self) -> Result<(), GivenUp> {
        while self.pending.is_behind() {
            if !self.pending.is_moving() {
                self.pending.begin_to_move();
            }
            self.move_piece()?;
        }
        Ok(())
    }

    fn move_piece(&mut self) -> Result<(), GivenUp> {
        let piece = self.pending.next_piece();
        if !piece.is_empty() {
            return self.attempt(|database, _| database.write_records(&piece));
        }
        let parts = self.pending.next_parts();
        self.attempt(|database, _| database.remove_moved_parts(parts.clone()))
    }

    /// Does something with the database, again and again until it works.
    fn attempt<T>(
        &mut self,
        work: impl Fn(&mut Database, &Pending) -> Result<T, StoreError>,
    ) -> Result<T, GivenUp> {
        loop {
            let result = self.try_once(&work);
            match result {
                Ok(value) => {
                    if std::mem::take(&mut self.is_failing) {
                        unmark_damaged(&self.folder);
                        info!("sessions and retained messages are kept again");
                    }
                    return Ok(value);
                }
                Err(error) => self.fail(&error),
            }
            self.wait()?;
        }
    }

    fn try_once<T>(
        &mut self,
        work: impl Fn(&mut Database, &Pending) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        #[cfg(test)]
        if self.refuses_writes {
            return Err(StoreError::Database("writes are refused".to_owned()));
        }
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        let database = self.database.insert(database);
        guard(|| work(database, &self.pending))
    }

    fn reopen(&self) -> Result<Database, StoreError> {
        let (mut database, left) = Database::reopen(&self.folder)?;
        let (next, end) = (self.pending.next_part(), left.torn.end);
        if end < next {
            return Err(StoreError::Corrupted("changes that were durable are missing".to_owned()));
        }
        // They are of the batch that failed, which is written again.
        guard(|| database.remove_torn_parts(next..end))?;
        Ok(database)
    }

    fn fail(&mut self, error: &StoreError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.is_failing, true) {
            error!(
                store = %self.folder.display(), %error,
                "SESSIONS AND RETAINED MESSAGES CANNOT BE KEPT: acknowledgements wait until it works again"
            );
        }
        if matches!(error, StoreError::Corrupted(_))
            && let Err(error) = mark_damaged(&self.folder)
        {
            error!(%error, "the damaged store could not be marked as such");
        }
        // After an error sled does nothing more.
        if let Some(database) = self.database.take() {
            folder::close(&self.folder, database);
        }
    }

    /// Waits for the next attempt.
    fn wait(&mut self) -> Result<(), GivenUp> {
        let attempt_at = Instant::now() + RETRY;
        loop {
            if self.gives_up_at.is_some_and(|at| at <= Instant::now()) {
                return Err(GivenUp);
            }
            let left = attempt_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            match self.commands.recv_timeout(left) {
                Ok(Command::Close) | Err(RecvTimeoutError::Disconnected) => {
                    self.gives_up_at.get_or_insert_with(|| Instant::now() + PATIENCE);
                    // Nothing more comes, and a disconnected channel would not wait.
                    std::thread::sleep(attempt_at.saturating_duration_since(Instant::now()));
                }
                #[cfg(test)]
                Ok(Command::RefuseWrites(refuses)) => self.refuses_writes = refuses,
                Ok(command) => self.waiting.push_back(command),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

enum Next {
    Command(Command),
    Nothing,
    End,
}
