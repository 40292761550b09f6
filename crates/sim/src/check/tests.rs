//! The checker against known histories, and against all orders tried one by one.

mod brute;
mod known;
mod property;

use super::model::{Call, CallOf, Model};

/// Calls of a history: interval (`None`: unknown), input, output.
pub(super) fn history<M: Model>(
    rows: Vec<(std::ops::Range<u64>, M::Input, Option<M::Output>)>,
) -> Vec<CallOf<M>> {
    let call = |(interval, input, output): (std::ops::Range<u64>, _, Option<_>)| Call {
        input,
        invoked: interval.start,
        returned: output.map(|output| (interval.end, output)),
    };
    rows.into_iter().map(call).collect()
}
