//! A violation in lines for people.

use super::model::Model;
use super::shrink::Minimal;
use crate::history::{Operation, Outcome};

/// One line for each operation of a short history, with what the object held before it.
pub(super) fn lines<M: Model>(
    model: &M,
    minimal: &Minimal<M::State>,
    operations: &[&Operation],
) -> Vec<String> {
    let left_out = operations.len() - minimal.calls.len();
    let mut lines = vec![format!(
        "before: {} ({left_out} operations on the object are not needed to see it)",
        model.describe(&minimal.start)
    )];
    for index in &minimal.calls {
        let mark = if *index == minimal.failing { "   <- no order explains this" } else { "" };
        lines.push(format!("{}{mark}", line(operations[*index])));
    }
    lines
}

/// Client, interval, operation, outcome.
pub(super) fn line(operation: &Operation) -> String {
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let end = match (operation.ended, operation.ended_ms, &operation.outcome) {
        (Some(at), Some(ms), Some(Outcome::Returned(_))) => format!("{at}@{}s", seconds(ms)),
        _ => "...".to_string(),
    };
    let outcome = match &operation.outcome {
        Some(Outcome::Returned(output)) => output.to_string(),
        Some(Outcome::Failed(why)) => format!("failed without effect ({why})"),
        Some(Outcome::Unknown(why)) => format!("unknown ({why})"),
        None => "unknown (still open)".to_string(),
    };
    let began = format!("{}@{}s", operation.invoked, seconds(operation.invoked_ms));
    let interval = format!("[{began} .. {end}]");
    let client = format!("c{}", operation.client);
    format!("{client:<4} {interval:<28} {} -> {outcome}", operation.input)
}
