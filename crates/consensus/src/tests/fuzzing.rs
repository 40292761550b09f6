//! The functions that `fuzz/` drives, with samples, damaged samples and random bytes.

use crate::fuzzing::*;
use everhold_proto::fuzzing::exercise;

#[test]
fn foreign_messages_and_records_are_values_or_errors() {
    exercise(decode_message, &samples_of_messages(8), 4000);
    exercise(decode_record, &samples_of_records(), 4000);
}

/// Forged logs are refused or are logs.
#[test]
fn forged_logs_are_survived() {
    exercise(recover, &samples_of_logs(), 150);
}

#[test]
fn the_model_takes_any_bytes() {
    exercise(run_model, &samples_of_models(), 30);
}

/// Also when the newest segment is one that a crash left unfinished, frames that were durable once
/// must not be cut off as if they were torn.
#[test]
fn damage_before_a_half_made_segment_is_refused() {
    assert!(!crate::log::fuzzing::opens(&crate::log::fuzzing::damage_before_a_half_made_segment()));
}

/// Without logs that open, little of recovery would be tried.
#[test]
fn a_sample_log_opens() {
    let logs = samples_of_logs();
    let opened = logs.iter().filter(|log| crate::log::fuzzing::opens(log)).count();
    assert!(opened >= 3, "{opened} of {}", logs.len());
}

/// Inputs that a search found once.
#[test]
fn found_inputs_stay_fixed() {
    recover(include_bytes!("../../../../fuzz/corpus/raft_recovery/found-half-made-segment"));
    recover(include_bytes!("../../../../fuzz/corpus/raft_recovery/found-later-term"));
}
