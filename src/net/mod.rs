//! The shell: everything that touches a socket or a clock, around the cores that touch neither.

mod admission;
mod asking;
mod broker_thread;
mod chaos;
mod client;
mod connection;
mod crowd;
mod descriptors;
mod dial;
mod door;
mod journal;
mod line;
mod listener;
mod local_thread;
mod memo;
mod mocks;
mod persistence;
mod pipe;
mod proxy;
mod refusal;
pub mod replay;
mod scratch;
mod subscriber;
pub mod tls;
mod transport;
mod url;
mod webhooks;

pub use crate::relay::RelayLimits;
pub use admission::{Admission, Pass, Refused, Telling};
pub use asking::Asking;
pub use broker_thread::{BrokerHandle, BrokerOptions, EventSink, Stopped, WeakBrokerHandle, spawn_broker};
pub use chaos::ChaosWatch;
pub use client::{
    Capability, Client, ClientError, ClientOptions, Outcome, Publisher, Receipt, Sent, ServerLimits, Sink,
    TryPublish,
};
pub use crowd::{Crowd, CrowdError, MemberOptions};
pub use descriptors::reserve_descriptors;
pub use dial::{prepare, reach};
pub use door::{DoorOptions, Entrance, Guest, Guests, spawn_door};
pub use journal::{
    ENTRIES_MAX, Found, JournalHandle, Seen, TooManyWaiters, TopicFigures, Verified, WAITERS_MAX, Waited,
};
pub use listener::{Gate, bind, leads_to, watch_peers};
pub use mocks::{MockHandle, MockOptions, MockSink, Outgoing, PreparedMocks, Reply};
pub use persistence::{Commit, Persistence};
pub use proxy::{
    Ending, ProxiedClient, ProxiedSubscription, ProxyEvent, ProxyHandle, ProxyOptions, ProxyStats,
    spawn_proxy,
};
pub use subscriber::{Subscriber, SubscriberError, SubscriberOptions};
pub use transport::WebSocketOptions;
#[cfg(any(test, fuzzing))]
pub use transport::receive_pieces;
pub use url::{BadUrl, MqttUrl, Scheme, Trust};
pub use webhooks::{HttpClient, WebhookError, WebhookHandle, WebhookMatcher, WebhookOptions, WebhookView};

#[cfg(test)]
pub(crate) mod tests;
