//! What happens in a server apart from its packets, told to whoever watches.
//!
//! The bus is bounded and forgets: a watcher that falls behind learns how much it missed, and nobody ever waits for one.
//! Packets go through the [`tap`](crate::tap) instead.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::broadcast;

use crate::{
    broker::BrokerEvent, fault::Journaled, mock::MockEvent, recording::RecordingInfo, webhook::WebhookEvent,
};

/// How many happenings a watcher may fall behind before it misses some; a few per client that connects.
const CAPACITY: usize = 1024;

/// The same of faults, of which there may be some for each packet.
const FAULTS: usize = 4096;

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Happening {
    pub at: SystemTime,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Broker(BrokerEvent),
    /// A recording changed its state, to what this says.
    Recording(Box<RecordingInfo>),
    /// The replay of this id changed its state.
    Replay(String),
    Mock(MockEvent),
    /// A webhook gave a message up.
    Webhook(WebhookEvent),
}

/// Passes happenings on to every watcher.
#[derive(Clone, Debug)]
pub struct EventBus {
    sender: broadcast::Sender<Happening>,
    /// Apart, so that many of them push nothing else out.
    faults: broadcast::Sender<Arc<Journaled>>,
}

/// Receives what happens from its creation on; `Lagged` counts what it missed.
pub type Watcher = broadcast::Receiver<Happening>;

/// The same of faults.
pub type FaultWatcher = broadcast::Receiver<Arc<Journaled>>;

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl EventBus {
    pub fn new() -> Self {
        Self { sender: broadcast::Sender::new(CAPACITY), faults: broadcast::Sender::new(FAULTS) }
    }

    /// Tells all watchers. Cheap when there are none; never blocks.
    pub fn emit(&self, what: What) {
        if self.sender.receiver_count() > 0 {
            // Fails when the last watcher has just left, and then nobody misses anything.
            let _ = self.sender.send(Happening { at: SystemTime::now(), what });
        }
    }

    pub fn watch(&self) -> Watcher {
        self.sender.subscribe()
    }

    /// Tells those who watch faults; like [`emit`](Self::emit).
    pub fn emit_fault(&self, fault: &Arc<Journaled>) {
        if self.faults.receiver_count() > 0 {
            // See there.
            let _ = self.faults.send(Arc::clone(fault));
        }
    }

    pub fn watch_faults(&self) -> FaultWatcher {
        self.faults.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::RecvError;

    use super::*;

    #[tokio::test]
    async fn a_watcher_that_falls_behind_learns_how_much_it_missed() {
        let bus = EventBus::new();
        bus.emit(What::Replay("before".to_owned()));
        let mut watcher = bus.watch();
        for number in 0..CAPACITY + 3 {
            bus.emit(What::Replay(number.to_string()));
        }
        assert!(matches!(watcher.recv().await, Err(RecvError::Lagged(3))));
        let Ok(Happening { what: What::Replay(id), .. }) = watcher.recv().await else {
            panic!("no replay");
        };
        assert_eq!(id, "3");
    }
}
