//! Servers in this process, as whoever embeds one makes them.

use mockforge::{RunningServer, Server, ServerBuilder};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// `get_broker_stats` speaks for the server started last, in the whole process: a test of it keeps
/// the others from starting one.
static STARTS: RwLock<()> = RwLock::const_new(());

pub async fn start() -> RunningServer {
    start_as(Server::builder()).await
}

pub async fn start_as(builder: ServerBuilder) -> RunningServer {
    let _starts: RwLockReadGuard<'_, ()> = STARTS.read().await;
    builder.start().await.expect("the builder is good, and there are free ports")
}

/// Holds back every other test's start until it is dropped.
pub struct Alone {
    _starts: RwLockWriteGuard<'static, ()>,
}

impl Alone {
    pub async fn begin() -> Self {
        Self { _starts: STARTS.write().await }
    }

    pub async fn start(&self) -> RunningServer {
        Server::builder().start().await.expect("there are free ports")
    }
}
