//! One client: its Session State and, while there is one, its live Network Connection.

mod connection;
mod inflight;
pub mod layout;
mod message;
mod outbox;
mod queue;
mod rarely;
mod scan;
mod state;

pub use connection::{Connection, ConnectionId, Peer, State};
pub use inflight::{Acknowledged, Inflight, Received, Repeats, Stage};
pub use message::{
    ApplicationMessage, Delivery, MessageRef, Origin, Payload, SHARED_PAYLOAD, Spares, StoredMessage,
    Verbatim, encode_forwarded,
};
pub use outbox::Outbox;
pub use queue::{Next, Queue, QueueFull};
pub use rarely::{Empty, Rarely};
pub use scan::{Lookup, RetainedScan};
pub use state::{NEVER, Session, Standing, SubscriptionKey, WillMessage};
