//! Rows of the replicated state.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_fuzz::bounded(
    everhold_proto::fuzzing::decode_row,
    bytes
));
