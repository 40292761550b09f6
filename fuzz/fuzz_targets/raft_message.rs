//! Raft messages, snapshots and their answers.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_fuzz::bounded(
    everhold_consensus::fuzzing::decode_message,
    bytes
));
