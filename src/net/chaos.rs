//! Word of the chaos of a server, for those that move bytes.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

use crate::fault::{Chaos, ChaosHooks, ChaosOptions, Journaled};

/// The chaos of a server, and word of its changes.
#[derive(Clone)]
pub struct ChaosWatch {
    pub(super) chaos: Chaos,
    changed: watch::Receiver<()>,
    /// Bytes that a connection may hold back in each direction.
    pub(super) held_bytes_max: usize,
}

impl ChaosWatch {
    /// Chaos without a rule, and word of its changes. A connection holds back `held_bytes_max` in each direction before no
    /// more is read; packets longer than that pass as they are. `on_fault` is called on the threads that move bytes: it
    /// must not block.
    pub fn start(
        options: ChaosOptions,
        held_bytes_max: usize,
        on_fault: impl Fn(&Arc<Journaled>) + Send + Sync + 'static,
    ) -> (Chaos, Self) {
        let (tell, changed) = watch::channel(());
        let hooks = ChaosHooks {
            on_change: Box::new(move || tell.send_modify(|()| ())),
            on_fault: Box::new(on_fault),
        };
        let chaos = Chaos::new(options, hooks);
        (chaos.clone(), Self { chaos, changed, held_bytes_max })
    }

    /// The same for connections that come through the proxy with that id.
    pub fn of_proxy(&self, id: &Arc<str>) -> Self {
        Self { chaos: self.chaos.of_proxy(id), ..self.clone() }
    }

    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.chaos.is_on()
    }

    /// Returns at the next change.
    pub(super) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // Nobody can change it any more.
            std::future::pending().await
        }
    }
}

impl fmt::Debug for ChaosWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosWatch").field("is_on", &self.is_on()).finish_non_exhaustive()
    }
}
