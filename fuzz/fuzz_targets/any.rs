//! The target that `TARGET` names. One binary for all, because it takes long to link and little to choose.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    let target = targets::TARGETS.iter().find(|(known, _)| *known == name);
    let names = targets::TARGETS.map(|(name, _)| name).join(", ");
    target.unwrap_or_else(|| panic!("TARGET is one of {names}")).1
});

fuzz_target!(|input: &[u8]| RUN(input));
