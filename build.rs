//! Compiles the control contract in `proto/` with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: &[&str] = &[
    "mockforge/mqtt/v1/admin.proto",
    "mockforge/mqtt/v1/broker.proto",
    "mockforge/mqtt/v1/chaos.proto",
    "mockforge/mqtt/v1/mocks.proto",
    "mockforge/mqtt/v1/proxies.proto",
    "mockforge/mqtt/v1/recordings.proto",
    "mockforge/mqtt/v1/replays.proto",
    "mockforge/mqtt/v1/scenarios.proto",
    "mockforge/mqtt/v1/state.proto",
    "mockforge/mqtt/v1/verification.proto",
    "mockforge/mqtt/v1/webhooks.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;
    // The encoded set keeps the google.api.http options; `file_descriptor_set()` drops them.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut files = compiler.file_descriptor_set();
    for file in files.file.iter_mut().filter(|file| !file.name().starts_with("mockforge/")) {
        // Google's comments have indented text, which would be taken for Rust examples.
        file.source_code_info = None;
    }
    tonic_prost_build::configure().bytes(".").include_file("pb.rs").compile_fds(files)?;
    Ok(())
}
