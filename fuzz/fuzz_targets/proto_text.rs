//! Texts that stand for ids and sizes.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_fuzz::bounded(
    everhold_proto::fuzzing::decode_text,
    bytes
));
