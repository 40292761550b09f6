//! Requests to a node, in postcard and JSON.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_fuzz::bounded(
    everhold_server::fuzzing::decode_request,
    bytes
));
