//! Tests MQTT systems with real traffic: a test broker, a recording man in the middle and a replayer.

pub mod broker;
pub mod packet;
pub mod recording;
pub mod session;
