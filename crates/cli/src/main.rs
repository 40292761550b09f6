//! The `everhold` binary.
fn main() {}
