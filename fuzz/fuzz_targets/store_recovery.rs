//! Recovery of the block store from a forged log.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_store::fuzzing::recover(bytes));
