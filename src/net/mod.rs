//! The shell: everything that touches a socket or a clock, around the cores that touch neither.

mod broker_thread;
mod client;
mod connection;
mod descriptors;
mod listener;
mod local_thread;
mod proxy;
mod refusal;
pub mod replay;
mod scratch;
mod transport;
mod url;

pub use crate::relay::RelayLimits;
pub use broker_thread::{BrokerHandle, BrokerOptions, EventSink, Stopped, WeakBrokerHandle, spawn_broker};
pub use client::{
    Capability, Client, ClientError, ClientOptions, Outcome, Publisher, Receipt, Sent, ServerLimits, Sink,
    TryPublish,
};
pub use descriptors::reserve_descriptors;
pub use listener::{Gate, bind, leads_to};
pub use proxy::{
    ProxiedClient, ProxiedSubscription, ProxyEvent, ProxyHandle, ProxyOptions, ProxyStats, spawn_proxy,
};
pub use url::{BadUrl, MqttUrl};

#[cfg(test)]
mod tests;
