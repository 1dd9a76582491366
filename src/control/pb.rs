//! The types generated from `proto/`, and the description of them that reflection and REST go by.

mod generated {
    // What prost and tonic generate is theirs to style.
    #![allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}

pub use generated::{google, mockforge::mqtt::v1::*};

/// The encoded `FileDescriptorSet` of every proto file, comments and options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
