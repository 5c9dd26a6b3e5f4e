//! Fuzzes `index`; see `crates/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forkpoint_fuzzing::index(bytes));
