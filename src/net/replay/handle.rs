//! A replay that runs, for whoever started it.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::{Command, Remote, ReplayProgress, ReplayReport};

/// A replay that runs, or has ended. Dropping every handle does not stop it.
#[derive(Clone)]
pub struct ReplayHandle {
    pub(super) progress: watch::Receiver<ReplayProgress>,
    pub(super) report: watch::Receiver<Option<Arc<ReplayReport>>>,
    pub(super) remote: Arc<Remote>,
    pub(super) address: Option<SocketAddr>,
}

impl ReplayHandle {
    /// Of mode server: where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub fn progress(&self) -> watch::Receiver<ReplayProgress> {
        self.progress.clone()
    }

    /// Ends the replay before its next message.
    pub fn cancel(&self) {
        self.remote.cancel();
    }

    /// Of mode server: no more clients come. Those that are connected may finish; then it is judged and reported as at its
    /// own end.
    pub fn finish(&self) {
        self.remote.finish();
    }

    /// Has effect before the next message. To seek is not for a replay that is verified: what is left out cannot come.
    pub fn command(&self, command: Command) {
        self.remote.command(command);
    }

    /// The report, if the replay has ended.
    pub fn report(&self) -> Option<Arc<ReplayReport>> {
        self.report.borrow().clone()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the replay's thread did.
    pub async fn wait(&self) -> Arc<ReplayReport> {
        let mut report = self.report.clone();
        let ended = report.wait_for(Option::is_some).await.expect("a replay ends with a report");
        Arc::clone(ended.as_ref().expect("it was just waited for"))
    }
}
