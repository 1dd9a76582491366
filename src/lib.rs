//! Tests MQTT systems with real traffic: a test broker, a recording man in the middle and a replayer.
//!
//! A [`Server`] of one's own, on free ports, inside a test:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use mockforge::{Config, Server, config::Sources};
//!
//! let mut config = Config::load(Sources::default())?;
//! config.mqtt.enabled = true;
//! config.mqtt.port = 0;
//! config.http.enabled = false;
//! config.grpc.enabled = false;
//! let server = Server::bind(config).await?;
//! let port = server.addresses().mqtt.expect("MQTT is enabled").port();
//! let running = tokio::spawn(server.run(std::future::pending()));
//! // … clients connect to `port` …
//! # assert_ne!(port, 0);
//! running.abort();
//! # Ok(())
//! # }
//! ```
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
pub mod likeness;
pub mod metrics;
pub mod mock;
pub mod net;
pub mod packet;
pub mod recorder;
pub mod recording;
pub mod relay;
pub mod server;
pub mod session;
pub mod store;
pub mod tap;
pub mod verification;
pub mod webhook;

pub use config::Config;
pub use server::Server;

/// The guide's path to the figures of a server.
pub mod mqtt {
    pub use crate::metrics;
}

#[cfg(test)]
extern crate self as mockforge;
#[cfg(test)]
#[path = "../fuzz/src/lib.rs"]
mod fuzzing;
