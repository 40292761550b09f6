//! All orders, one by one: slow, and obviously right.

use crate::check::model::{CallOf, Model};

/// Whether some order of the calls is explained by the model.
pub(super) fn is_linearizable<M: Model>(model: &M, calls: &[CallOf<M>]) -> bool {
    let open: Vec<usize> = (0..calls.len()).collect();
    explains(model, calls, &open, &model.initial())
}

fn explains<M: Model>(model: &M, calls: &[CallOf<M>], open: &[usize], state: &M::State) -> bool {
    if open.iter().all(|i| calls[*i].returned.is_none()) {
        return true;
    }
    let first_return = open.iter().filter_map(|i| calls[*i].returned_at()).min();
    let may_be_next = |i: &usize| first_return.is_none_or(|at| calls[*i].invoked < at);
    open.iter().filter(|i| may_be_next(i)).any(|index| {
        let rest: Vec<usize> = open.iter().copied().filter(|i| i != index).collect();
        let call = &calls[*index];
        let mut next = state.clone();
        let answer = model.apply(&mut next, &call.input);
        let fits = call.output().is_none_or(|output| *output == answer);
        fits && explains(model, calls, &rest, &next)
    })
}
