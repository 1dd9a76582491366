//! Tests MQTT systems with real traffic: a test broker, a recording man in the middle and a replayer.
//!
//! A broker of one's own inside a test, on a free port, with a mock that answers:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use mockforge::Server;
//!
//! let server = Server::builder().port(0).start().await?;
//! server.mocks().add_yaml("{topic: 'devices/+/get', response: {payload: {on: true}}}")?;
//! // … clients connect to server.port(), or server.url() …
//! server.stop().await?; // or drop it
//! # Ok(())
//! # }
//! ```
//!
//! [`ServerBuilder`] says what else such a server can be, [`RunningServer`] what can be done with it: waiting for
//! messages, mocks, chaos, recordings and replays. [`mqtt::metrics::get_broker_stats`] has the figures of the one that was started last. Programs that
//! want everything that `mockforge serve` is make a [`Config`] and [`bind`](Server::bind) it.
//!
//! From the bottom up: [`packet`] is the codec, [`auth`] how clients prove who they are, [`session`]
//! and [`broker`] are the broker as a plain value, [`relay`] is one proxied client, [`recording`] the
//! model of what was captured and the player, [`verification`] judges one by another, [`tap`], [`recorder`] and [`store`] capture it; [`net`]
//! moves bytes, [`control`] holds the operations that [`gateway`] offers as gRPC and REST, and [`cli`]
//! as commands.

pub mod amount;
pub mod auth;
pub mod broker;
pub mod cli;
pub mod config;
pub mod control;
pub mod delay;
pub mod draws;
pub mod event;
pub mod fault;
pub mod field;
pub mod gateway;
pub mod interceptor;
pub mod journal;
pub mod likeness;
pub mod log;
pub mod metrics;
pub mod mock;
pub mod net;
pub mod packet;
pub mod recorder;
pub mod recording;
pub mod relay;
pub mod scenario;
pub mod server;
pub mod session;
pub mod store;
pub mod tap;
pub mod telemetry;
pub mod trace;
pub mod verification;
pub mod webhook;
pub mod xml;

pub use config::Config;
pub use server::{RunningServer, Server, ServerBuilder, StartError, WaitError};

/// The guide's path to the figures of a server.
pub mod mqtt {
    pub use crate::metrics;
}

#[cfg(test)]
extern crate self as mockforge;
#[cfg(test)]
#[path = "../fuzz/src/lib.rs"]
mod fuzzing;
