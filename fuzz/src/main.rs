//! Feeds one target with the inputs that libFuzzer makes up. `FUZZ_TARGET` names the target.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outrider_codec::fuzz;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = fuzz::TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = found.unwrap_or_else(|| {
        let names: Vec<&str> = fuzz::TARGETS.iter().map(|(target, _)| *target).collect();
        panic!("FUZZ_TARGET is one of {names:?}")
    });
    *target
});

fuzz_target!(|data: &[u8]| TARGET(data));
