//! Tests MQTT systems with real traffic: a test broker, a recording man in the middle and a replayer.

pub mod broker;
pub mod config;
pub mod control;
pub mod event;
pub mod gateway;
pub mod metrics;
pub mod net;
pub mod packet;
pub mod recorder;
pub mod recording;
pub mod relay;
pub mod server;
pub mod session;
pub mod store;
pub mod tap;

pub use config::Config;
pub use server::Server;

/// The path at which users find the figures of a server.
pub mod mqtt {
    pub use crate::metrics;
}
