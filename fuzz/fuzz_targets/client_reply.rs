//! Answers to a client.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_fuzz::bounded(
    everhold_client::fuzzing::decode_reply,
    bytes
));
