//! Structures on the disk of the block store.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| everhold_fuzz::bounded(
    everhold_store::fuzzing::decode_structure,
    bytes
));
