//! Fuzzes `object_key`; see `crates/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forkpoint_fuzzing::object_key(bytes));
