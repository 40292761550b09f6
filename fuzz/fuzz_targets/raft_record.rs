//! Frames, records and the identity of the Raft log.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_fuzz::bounded(
    everhold_consensus::fuzzing::decode_record,
    bytes
));
