//! What is tried with inputs that nobody thought of: a function for each, which panics over what must not be.

mod broker;
mod codec;
mod config;
#[cfg(test)]
mod corpus;
mod import;
mod line;
mod mocks;
mod packets;
mod relay;
mod rest;
mod scenario;
mod source;
mod template;
mod websocket;

use source::Source;

/// A name, and what takes an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("broker", broker::run),
    ("codec", codec::run),
    ("config", config::run),
    ("import", import::run),
    ("line", line::run),
    ("mocks", mocks::run),
    ("relay", relay::run),
    ("rest", rest::run),
    ("scenario", scenario::run),
    ("template", template::run),
    ("websocket", websocket::run),
];

/// What comes before the first byte 0, and what comes behind it.
fn split(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|&byte| byte == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}
