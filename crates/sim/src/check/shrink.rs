//! From a history that has no order to the shortest part of it that a person can follow.
//!
//! **Invariant:** whatever is left out, a part without an order proves that the whole has none. So only
//! these are left out: what was invoked after the failing answer; operations on parts of the object that
//! have nothing to do with it; operations that only observe; unknown operations that would be noticed if
//! they mattered; and a beginning after which only one state was possible.

use super::model::{CallOf, Model};
use super::search::{Answer, Config, Event, Search, check_some, events};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Calls that a shortened history keeps before the failing one when its beginning is cut off, so that
/// one sees where its state came from.
const CONTEXT: usize = 6;
/// Searches spent on leaving calls out.
const TRIES_MAX: usize = 200;

/// A short history without an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minimal<S> {
    /// What the object held before these calls.
    pub start: S,
    /// The calls, by index.
    pub calls: Vec<usize>,
    /// The call whose answer cannot be explained.
    pub failing: usize,
}

struct Shrink<'a, M: Model> {
    model: &'a M,
    calls: &'a [CallOf<M>],
    failing: usize,
    bound: u64,
    tries: usize,
}

/// Shortens `calls`, of which [`super::check`] found that no order explains the answer of `failing`.
pub fn shrink<M: Model>(
    model: &M,
    calls: &[CallOf<M>],
    failing: usize,
    bound: u64,
) -> Minimal<M::State> {
    let end = calls[failing].returned_at().expect("the failing call has an answer");
    let mut shrink = Shrink { model, calls, failing, bound, tries: TRIES_MAX };
    let mut kept: Vec<usize> = (0..calls.len()).filter(|i| calls[*i].invoked < end).collect();
    let mut start = model.initial();
    kept = shrink.only_related(kept, &start);
    kept = shrink.without_observers(kept, &start);
    kept = shrink.without_forgettable(kept, &start);
    if let Some((state, rest)) = shrink.without_beginning(&kept) {
        (start, kept) = (state, rest);
        kept = shrink.without_observers(kept, &start);
        kept = shrink.without_forgettable(kept, &start);
    }
    Minimal { start, calls: kept, failing }
}

impl<M: Model> Shrink<'_, M> {
    /// Whether there is still no order.
    fn fails(&mut self, kept: &[usize], start: &M::State) -> bool {
        self.tries = self.tries.saturating_sub(1);
        let answer = check_some(self.model, self.calls, kept, start, self.bound);
        matches!(answer, Answer::Violation(_))
    }

    fn observes(&self, index: usize) -> bool {
        let call = &self.calls[index];
        self.model.only_observes(&call.input, call.output())
    }

    /// Leaves out what only observes all parts, then what is about other parts than the failing call.
    fn only_related(&mut self, kept: Vec<usize>, start: &M::State) -> Vec<usize> {
        let Some(related) = self.related(&kept) else { return kept };
        if self.fails(&related, start) { related } else { kept }
    }

    fn related(&self, kept: &[usize]) -> Option<Vec<usize>> {
        let scope = |index: usize| self.model.scope(&self.calls[index].input);
        let mut parts: BTreeSet<Arc<str>> = scope(self.failing)?.into_iter().collect();
        let mut scoped = Vec::new();
        for index in kept {
            match scope(*index) {
                Some(scope) => scoped.push((*index, scope)),
                None if self.observes(*index) => {}
                None => return None,
            }
        }
        let touches = |parts: &BTreeSet<Arc<str>>, scope: &[Arc<str>]| {
            scope.iter().any(|part| parts.contains(part))
        };
        loop {
            let before = parts.len();
            for (_, scope) in scoped.iter().filter(|(i, _)| !self.observes(*i)) {
                if touches(&parts, scope) {
                    parts.extend(scope.iter().cloned());
                }
            }
            if parts.len() == before {
                break;
            }
        }
        scoped.retain(|(_, scope)| touches(&parts, scope));
        Some(scoped.into_iter().map(|(index, _)| index).collect())
    }

    /// Leaves out what only observes and is not needed: all, else halves of it, else one by one.
    fn without_observers(&mut self, kept: Vec<usize>, start: &M::State) -> Vec<usize> {
        let observers: Vec<usize> =
            kept.iter().copied().filter(|i| *i != self.failing && self.observes(*i)).collect();
        self.without(kept, &observers, start)
    }

    fn without(&mut self, kept: Vec<usize>, candidates: &[usize], start: &M::State) -> Vec<usize> {
        if candidates.is_empty() || self.tries == 0 {
            return kept;
        }
        let is_candidate = |i: &usize| candidates.binary_search(i).is_ok();
        let rest: Vec<usize> = kept.iter().copied().filter(|i| !is_candidate(i)).collect();
        if self.fails(&rest, start) {
            return rest;
        }
        if candidates.len() == 1 {
            return kept;
        }
        // The later half is left out last: what is close to the failure explains it best.
        let (early, late) = candidates.split_at(candidates.len() / 2);
        let kept = self.without(kept, early, start);
        self.without(kept, late, start)
    }

    /// Leaves out unknown operations that would be noticed. Each stays so when others are left out.
    fn without_forgettable(&mut self, kept: Vec<usize>, start: &M::State) -> Vec<usize> {
        let is_unknown = |i: &usize| self.calls[*i].returned.is_none();
        let forgettable: Vec<usize> = kept
            .iter()
            .copied()
            .filter(|i| is_unknown(i) && self.is_forgettable(*i, &kept))
            .collect();
        self.without(kept, &forgettable, start)
    }

    fn is_forgettable(&self, index: usize, others: &[usize]) -> bool {
        let input = &self.calls[index].input;
        let mut outputs = others.iter().filter_map(|i| self.calls[*i].output());
        let is_shown = outputs.any(|output| self.model.shows(output, input));
        let inputs: Vec<&M::Input> = others.iter().map(|i| &self.calls[*i].input).collect();
        self.model.leaves(input) && !is_shown && self.model.is_forgettable(input, &inputs)
    }

    /// The latest point that leaves some context and at which only one configuration is possible: its
    /// state, and what comes after.
    fn without_beginning(&mut self, kept: &[usize]) -> Option<(M::State, Vec<usize>)> {
        let mut search = Search::new(self.model, self.calls, self.model.initial(), self.bound);
        let mut found = None;
        let mut returned = BTreeSet::new();
        for event in events(self.model, self.calls, kept) {
            if !search.advance(event) {
                break;
            }
            let Event::Returned(call) = event else { continue };
            returned.insert(call as usize);
            if kept.len() - returned.len() < CONTEXT {
                break;
            }
            if let Some(config) = search.only_one() {
                found = Some(self.after(&config, kept, &returned));
            }
        }
        let (state, rest) = found?;
        self.fails(&rest, &state).then_some((state, rest))
    }

    fn after(
        &self,
        config: &Config<M::State>,
        kept: &[usize],
        returned: &BTreeSet<usize>,
    ) -> (M::State, Vec<usize>) {
        let is_over = |i: &usize| {
            let number = *i as u32;
            let is_linearized = config.used.contains(&number) || config.spent.contains(&number);
            returned.contains(i) || is_linearized
        };
        let rest = kept.iter().copied().filter(|i| !is_over(i)).collect();
        (config.state.clone(), rest)
    }
}
