//! The block store against its model.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_store::fuzzing::run_model(bytes));
