//! The types generated from `proto/`, and the description of them that reflection and REST go by.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

mod generated {
    // What prost and tonic generate is theirs to style.
    #![allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}

pub use generated::{google, mockforge::mqtt::v1::*};

/// What [`DESCRIPTORS`] describe.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("build.rs wrote the descriptors"));

/// The package of our own messages and services.
pub const PACKAGE: &str = "mockforge.mqtt.v1";

pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The encoded `FileDescriptorSet` of every proto file, comments and options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
