//! The Raft log against its model.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_consensus::fuzzing::run_model(bytes));
