//! Fuzzes `checkpoint`; see `crates/fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forkpoint_fuzzing::checkpoint(bytes));
