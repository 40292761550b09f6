//! Paths, ranges and headers of requests; node.json.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_fuzz::bounded(
    everhold_server::fuzzing::decode_head,
    bytes
));
