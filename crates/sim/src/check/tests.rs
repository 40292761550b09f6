//! The checker against known histories, and against all orders tried one by one.

mod brute;
mod known;
mod property;

use super::model::{Call, CallOf, Model};

/// A call: its interval, what was asked, the answer (`None`: unknown).
type Row<M> = (std::ops::Range<u64>, <M as Model>::Input, Option<<M as Model>::Output>);

/// Calls of a history.
pub(super) fn history<M: Model>(rows: Vec<Row<M>>) -> Vec<CallOf<M>> {
    let call = |(interval, input, output): Row<M>| Call {
        input,
        invoked: interval.start,
        returned: output.map(|output| (interval.end, output)),
    };
    rows.into_iter().map(call).collect()
}
