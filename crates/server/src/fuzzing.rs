//! What `fuzz/` and the tests drive: requests, their heads, `node.json`, and commands applied to the
//! replicated state.

mod commands;
mod heads;
mod requests;

pub use commands::{apply_commands, samples_of_commands};
pub use heads::{decode_head, samples_of_heads};
pub use requests::{decode_request, samples_of_requests};

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::fuzzing::exercise;

    #[test]
    fn foreign_requests_are_values_or_errors() {
        exercise(decode_request, &samples_of_requests(4), 4000);
        exercise(decode_head, &samples_of_heads(), 4000);
    }

    /// Whatever is committed: every replica applies it, and none panics.
    #[test]
    fn any_commands_are_applied() {
        exercise(apply_commands, &samples_of_commands(24), 600);
    }
}
