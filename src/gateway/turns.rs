//! How many calls are under way, and who may begin one more.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{auth::Role, config::ApiLimits};

/// Calls that may be under way at a time; those that stream may last, and are counted apart.
#[derive(Clone)]
pub struct Turns {
    unary: Share,
    streaming: Share,
}

/// A call that is under way, until it is dropped.
pub struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_readers: Option<OwnedSemaphorePermit>,
}

#[derive(Clone)]
struct Share {
    all: Arc<Semaphore>,
    /// Half, so that those who steer get through beside those who look.
    readers: Arc<Semaphore>,
}

impl Turns {
    pub fn new(limits: &ApiLimits) -> Self {
        Self { unary: Share::new(limits.requests), streaming: Share::new(limits.streaming_requests) }
    }

    /// `None` when too many are under way.
    pub fn begin(&self, role: Role, streams: bool) -> Option<Turn> {
        let share = if streams { &self.streaming } else { &self.unary };
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let of_readers = if role == Role::Read { Some(take(&share.readers)?) } else { None };
        Some(Turn { _of_all: take(&share.all)?, _of_readers: of_readers })
    }
}

impl Share {
    fn new(limit: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(limit)), readers: Arc::new(Semaphore::new((limit / 2).max(1))) }
    }
}
