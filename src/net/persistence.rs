//! Having what the broker keeps made durable, batch by batch, while it goes on.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    task::yield_now,
    time::{Instant, sleep, timeout_at},
};
use tracing::error;

use super::broker_thread::Shell;
use crate::broker::{Batch, Broker, Durability, Restored};

/// With relaxed durability, how long changes gather. The rest of [`Durability::LAG`] is for the disk.
const GATHERING: Duration = Duration::from_millis(100);

/// How long a disk may take for what is left when the broker stops.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Where the broker's state is kept.
pub struct Persistence {
    /// What there was of it.
    pub restored: Restored,
    /// Makes a batch durable, on another thread, and then says so. Dropping what is to be called says
    /// that it never will be.
    pub commit: Commit,
}

pub type Commit = Box<dyn Fn(Batch, Box<dyn FnOnce() + Send>) + Send>;

/// How far that is.
pub(super) struct Progress {
    /// The broker has changes to be made durable.
    has_changes: Notify,
    /// Somebody waits for them: an end to gathering.
    is_awaited: Notify,
    is_stopping: Cell<bool>,
    /// Nothing will be durable any more.
    pub lost: Notify,
    /// The last batch that is durable.
    durable: watch::Sender<u64>,
}

impl Progress {
    pub fn new(durable: watch::Sender<u64>) -> Self {
        Self {
            has_changes: Notify::new(),
            is_stopping: Cell::new(false),
            is_awaited: Notify::new(),
            lost: Notify::new(),
            durable,
        }
    }

    /// The broker said [`Output::Persist`](crate::broker::Output::Persist).
    pub fn note(&self, is_awaited: bool) {
        if is_awaited {
            self.is_awaited.notify_one();
        }
        self.has_changes.notify_one();
    }
}

impl Shell {
    /// Takes batches as long as there are any, one at a time.
    pub(super) async fn persist(self: Rc<Self>, durability: Durability, commit: Commit) {
        loop {
            self.progress.has_changes.notified().await;
            if durability == Durability::Relaxed && !self.progress.is_stopping.get() {
                tokio::select! {
                    () = sleep(GATHERING) => {}
                    () = self.progress.is_awaited.notified() => {}
                }
            }
            // Connections that are readable together change things together.
            yield_now().await;
            let batch = self.unharmed(Broker::take_batch).flatten();
            if let Some(batch) = batch {
                let number = batch.number;
                let (done, is_done) = oneshot::channel();
                commit(
                    batch,
                    Box::new(move || {
                        // The broker may have stopped waiting.
                        let _ = done.send(());
                    }),
                );
                if is_done.await.is_err() {
                    break;
                }
                self.unharmed(|broker| broker.handle_durable(number));
            }
            if let Some((durable, _)) = self.broker.borrow().durable() {
                self.progress.durable.send_replace(durable);
            }
            // What is told of it must not end this.
            if catch_unwind(AssertUnwindSafe(|| self.settle())).is_err() {
                error!("doing what the broker asks for panicked");
            }
        }
        // Said first: the log may be what is broken.
        self.progress.lost.notify_one();
        error!("the broker's state cannot be kept any more: the thread of its store has ended");
    }

    /// What comes of `work`, unless it panics: then this goes on all the same.
    fn unharmed<R>(&self, work: impl FnOnce(&mut Broker) -> R) -> Option<R> {
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut self.broker.borrow_mut())));
        done.inspect_err(|_| error!("keeping the broker's state panicked")).ok()
    }

    /// Waits until everything is durable; whether it is.
    pub(super) async fn until_persisted(&self) -> bool {
        self.progress.is_stopping.set(true);
        self.progress.is_awaited.notify_one();
        let deadline = Instant::now() + LAST_WAIT;
        loop {
            let Some((durable, last)) = self.broker.borrow().durable() else { return true };
            if durable >= last {
                return true;
            }
            let mut watched = self.progress.durable.subscribe();
            if timeout_at(deadline, watched.changed()).await.is_err() {
                return false;
            }
        }
    }
}
