//! Commands applied to the replicated state.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_server::fuzzing::apply_commands(bytes));
