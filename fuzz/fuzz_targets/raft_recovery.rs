//! Recovery of the Raft log from forged frames.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_consensus::fuzzing::recover(bytes));
