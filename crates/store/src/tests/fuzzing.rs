//! The functions that `fuzz/` drives, with samples, damaged samples and random bytes.

use crate::fuzzing::{
    decode_structure, recover, run_model, samples_of_logs, samples_of_models, samples_of_structures,
};
use everhold_proto::fuzzing::exercise;

#[test]
fn foreign_structures_are_values_or_errors() {
    exercise(decode_structure, &samples_of_structures(), 4000);
}

/// A forged log opens or is refused; what it returns was put.
#[test]
fn forged_logs_are_survived() {
    exercise(recover, &samples_of_logs(), 60);
}

#[test]
fn the_model_takes_any_bytes() {
    exercise(run_model, &samples_of_models(), 20);
}
