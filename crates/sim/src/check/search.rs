//! The search through configurations: depth first to judge a history, and event by event with all that
//! are possible to learn what an object may have held.
//!
//! Three things keep their number small and change no answer. An operation that only observes is linearized at
//! once where it fits. Of two configurations that differ only in the unknown operations that they have
//! used up, the one that used fewer is as good as the other. Of unknown operations that are alike it does
//! not matter which one is used.

use super::model::{CallOf, Model};
use std::collections::BTreeMap;

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is an order.
    Linearizable,
    /// There is none; no order explains the answer of this call, given all events before it.
    Violation(usize),
    /// The bound was reached first.
    Undecided,
}

/// A set of calls by index, ascending.
type Set = Vec<u32>;

/// One way in which things may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config<S> {
    pub(super) state: S,
    /// Calls that are linearized although their answer has not come yet.
    pub(super) used: Set,
    /// Calls of unknown outcome that have taken effect.
    pub(super) spent: Set,
}

/// Configurations, without those that another one makes superfluous.
#[derive(Clone, Debug)]
struct Frontier<S>(BTreeMap<(S, Set), Vec<Set>>);

/// Calls that are under way at some event.
#[derive(Clone, Debug, Default)]
struct Open {
    /// Those that may change the state.
    changing: Set,
    /// Those that only observe.
    observing: Set,
    /// Those of unknown outcome, which stay.
    unknown: Set,
}

/// All configurations that are possible after some events.
pub(super) struct Search<'a, M: Model> {
    rules: Rules<'a, M>,
    frontier: Frontier<M::State>,
    open: Open,
    /// Configurations that may still be visited.
    budget: u64,
}

/// What leads from one configuration to the next.
struct Rules<'a, M: Model> {
    model: &'a M,
    calls: &'a [CallOf<M>],
    /// Of the unknown calls only so many, the newest, may take effect.
    recent: usize,
}

/// An event of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Invoked(u32),
    Returned(u32),
}

/// In the quick passes, unknown calls that may still take effect: most do so soon or never.
const RECENT: usize = 6;

/// Searches for an order of `calls` that the model explains, visiting at most `bound` configurations in
/// each of several passes. The first ones leave out most effects that unknown operations may have,
/// because each doubles the possibilities: an order that is found without them is an order.
pub fn check<M: Model>(model: &M, calls: &[CallOf<M>], bound: u64) -> Answer {
    let shown = |call: &CallOf<M>| {
        calls.iter().filter_map(|c| c.output()).any(|output| model.shows(output, &call.input))
    };
    let is_doubtful =
        |call: &CallOf<M>| call.returned.is_none() && !(model.leaves(&call.input) && shown(call));
    let doubtful: Vec<bool> = calls.iter().map(is_doubtful).collect();
    let all: Vec<usize> = (0..calls.len()).collect();
    let only_shown: Vec<usize> = all.iter().copied().filter(|i| !doubtful[*i]).collect();
    let without_unseen = |i: &usize| !doubtful[*i] || !model.leaves(&calls[*i].input);
    let seen: Vec<usize> = all.iter().copied().filter(without_unseen).collect();
    let passes = [(&only_shown, usize::MAX), (&seen, RECENT), (&all, RECENT), (&all, usize::MAX)];
    let blurred: Vec<CallOf<M>> = calls
        .iter()
        .zip(&doubtful)
        .map(|(call, doubtful)| match *doubtful && !shown(call) {
            true => CallOf::<M> { input: model.blurred(&call.input), ..call.clone() },
            false => call.clone(),
        })
        .collect();
    let mut answer = Answer::Undecided;
    for (indices, recent) in passes {
        answer =
            explore(Rules { model, calls: &blurred, recent }, indices, &model.initial(), bound);
        let has_all = indices.len() == calls.len() && recent == usize::MAX;
        if answer == Answer::Linearizable || has_all {
            break;
        }
    }
    answer // of a pass with all calls, unless an order was found before
}

/// Searches among the calls at `indices` only, from `state`.
pub(super) fn check_some<M: Model>(
    model: &M,
    calls: &[CallOf<M>],
    indices: &[usize],
    state: &M::State,
    bound: u64,
) -> Answer {
    explore(Rules { model, calls, recent: usize::MAX }, indices, state, bound)
}

/// Looks for an order among the calls at `indices`, from `state`, depth first: quick if there is one. If
/// there is none, the event that no attempt got past is the end of the shortest failing prefix.
fn explore<M: Model>(
    rules: Rules<'_, M>,
    indices: &[usize],
    state: &M::State,
    bound: u64,
) -> Answer {
    let steps = rules.steps(events(rules.model, rules.calls, indices));
    let first = Config { state: state.clone(), used: Set::new(), spent: Set::new() };
    let mut seen = BTreeMap::<usize, Frontier<M::State>>::new();
    let (mut stack, mut visited, mut deepest) = (vec![(0, first)], 0, 0);
    while let Some((at, mut config)) = stack.pop() {
        let Some((event, open)) = steps.get(at) else { return Answer::Linearizable };
        (visited, deepest) = (visited + 1, deepest.max(at));
        if visited > bound {
            return Answer::Undecided;
        }
        let Event::Returned(number) = event else {
            stack.push((at + 1, rules.observed(open, config)));
            continue;
        };
        if let Ok(place) = config.used.binary_search(number) {
            config.used.remove(place);
            stack.push((at + 1, config));
            continue;
        }
        let seen = seen.entry(at).or_insert_with(|| Frontier(BTreeMap::new()));
        let next = rules.successors(open, &config, *number);
        // The first successor is the most likely one, and the last pushed is tried first.
        let fresh: Vec<_> = next.into_iter().filter(|config| seen.insert(config.clone())).collect();
        stack.extend(fresh.into_iter().rev().map(|config| (at, config)));
    }
    match steps[deepest].0 {
        Event::Returned(call) => Answer::Violation(call as usize),
        Event::Invoked(_) => unreachable!("an invocation excludes nothing"),
    }
}

/// The events of some calls in order. Calls that neither change nor answer anything have none.
pub(super) fn events<M: Model>(model: &M, calls: &[CallOf<M>], indices: &[usize]) -> Vec<Event> {
    let mut events = Vec::with_capacity(2 * indices.len());
    for index in indices {
        let (call, number) = (&calls[*index], *index as u32);
        match call.returned_at() {
            Some(at) => {
                assert!(call.invoked < at, "a call ends after it was invoked");
                events.extend([
                    (call.invoked, Event::Invoked(number)),
                    (at, Event::Returned(number)),
                ]);
            }
            None if model.only_observes(&call.input, None) => {}
            None => events.push((call.invoked, Event::Invoked(number))),
        }
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(_, event)| event).collect()
}

impl<'a, M: Model> Search<'a, M> {
    pub(super) fn new(model: &'a M, calls: &'a [CallOf<M>], state: M::State, bound: u64) -> Self {
        let mut frontier = Frontier(BTreeMap::new());
        frontier.insert(Config { state, used: Set::new(), spent: Set::new() });
        Search {
            rules: Rules { model, calls, recent: usize::MAX },
            frontier,
            open: Open::default(),
            budget: bound,
        }
    }

    /// Takes the next event in; `false` when the bound is reached.
    pub(super) fn advance(&mut self, event: Event) -> bool {
        self.rules.take_in(&mut self.open, event);
        let before = std::mem::replace(&mut self.frontier, Frontier(BTreeMap::new()));
        let within = match event {
            Event::Invoked(_) => {
                for config in before.into_configs() {
                    self.frontier.insert(self.rules.observed(&self.open, config));
                }
                true
            }
            Event::Returned(number) => self.returned(before, number),
        };
        self.rules.take_out(&mut self.open, event);
        within
    }

    /// The configuration, if only one is possible.
    pub(super) fn only_one(&self) -> Option<Config<M::State>> {
        let mut all = self.frontier.0.iter();
        let (((state, used), spents), None) = (all.next()?, all.next()) else { return None };
        let [spent] = &spents[..] else { return None };
        Some(Config { state: state.clone(), used: used.clone(), spent: spent.clone() })
    }

    /// The call's answer is there: it must be linearized by now, with what has to come before it.
    fn returned(&mut self, before: Frontier<M::State>, number: u32) -> bool {
        let mut seen = before.clone();
        let mut stack: Vec<_> = before.into_configs().collect();
        while let Some(mut config) = stack.pop() {
            if self.budget == 0 {
                return false;
            }
            self.budget -= 1;
            if let Ok(at) = config.used.binary_search(&number) {
                config.used.remove(at);
                self.frontier.insert(config);
                continue;
            }
            let next = self.rules.successors(&self.open, &config, number);
            stack.extend(next.into_iter().filter(|config| seen.insert(config.clone())));
        }
        true
    }
}

impl<M: Model> Rules<'_, M> {
    /// Events, each with the calls that are open when it happens.
    fn steps(&self, events: Vec<Event>) -> Vec<(Event, Open)> {
        let mut open = Open::default();
        let mut steps = Vec::with_capacity(events.len());
        for event in events {
            self.take_in(&mut open, event);
            steps.push((event, open.clone()));
            self.take_out(&mut open, event);
        }
        steps
    }

    /// Before an event: what was invoked is open.
    fn take_in(&self, open: &mut Open, event: Event) {
        let Event::Invoked(number) = event else { return };
        let call = &self.calls[number as usize];
        match &call.returned {
            None => open.unknown.push(number),
            Some((_, output)) if self.model.only_observes(&call.input, Some(output)) => {
                open.observing.push(number);
            }
            Some(_) => open.changing.push(number),
        }
    }

    /// After an event: what has returned is not.
    fn take_out(&self, open: &mut Open, event: Event) {
        let Event::Returned(number) = event else { return };
        open.changing.retain(|call| *call != number);
        open.observing.retain(|call| *call != number);
    }

    /// The configurations after one more call is linearized, the `wanted` one first.
    fn successors(
        &self,
        open: &Open,
        config: &Config<M::State>,
        wanted: u32,
    ) -> Vec<Config<M::State>> {
        let mut next = Vec::new();
        let others = open.changing.iter().copied().filter(|n| *n != wanted);
        let wanted = open.changing.iter().copied().filter(|n| *n == wanted);
        for number in wanted.chain(others) {
            let call = &self.calls[number as usize];
            let output = call.output().expect("only calls with an answer are kept as changing");
            if config.used.binary_search(&number).is_ok() {
                continue;
            }
            if let Some(state) = self.model.step(&config.state, &call.input, output) {
                let (used, spent) = (with(&config.used, number), config.spent.clone());
                next.push(self.observed(open, Config { state, used, spent }));
            }
        }
        for number in self.unspent(open, config) {
            let call = &self.calls[number as usize];
            for state in self.model.step_unknown(&config.state, &call.input) {
                let (used, spent) = (config.used.clone(), with(&config.spent, number));
                next.push(self.observed(open, Config { state, used, spent }));
            }
        }
        next
    }

    /// Unknown calls that may take effect now, the newest first; of several that are alike only one.
    fn unspent(&self, open: &Open, config: &Config<M::State>) -> Vec<u32> {
        let mut unspent: Vec<u32> = Vec::new();
        let input = |number: u32| &self.calls[number as usize].input;
        for number in open.unknown.iter().rev().take(self.recent) {
            let is_spent = config.spent.binary_search(number).is_ok();
            if !is_spent && !unspent.iter().any(|other| input(*other) == input(*number)) {
                unspent.push(*number);
            }
        }
        unspent
    }

    /// Linearizes what only observes and fits.
    fn observed(&self, open: &Open, mut config: Config<M::State>) -> Config<M::State> {
        for number in &open.observing {
            let Err(at) = config.used.binary_search(number) else { continue };
            let call = &self.calls[*number as usize];
            let output = call.output().expect("only calls with an answer are kept as observing");
            if self.model.step(&config.state, &call.input, output).is_some() {
                config.used.insert(at, *number);
            }
        }
        config
    }
}

impl<S: Clone + Ord> Frontier<S> {
    /// Adds a configuration, unless one is there that is as good.
    fn insert(&mut self, config: Config<S>) -> bool {
        let spents = self.0.entry((config.state, config.used)).or_default();
        if spents.iter().any(|spent| is_subset(spent, &config.spent)) {
            return false;
        }
        spents.retain(|spent| !is_subset(&config.spent, spent));
        spents.push(config.spent);
        true
    }

    fn into_configs(self) -> impl Iterator<Item = Config<S>> {
        self.0.into_iter().flat_map(|((state, used), spents)| {
            spents.into_iter().map(move |spent| {
                let (state, used) = (state.clone(), used.clone());
                Config { state, used, spent }
            })
        })
    }
}

fn with(set: &Set, number: u32) -> Set {
    let mut set = set.clone();
    let at = set.binary_search(&number).expect_err("a call is linearized once");
    set.insert(at, number);
    set
}

/// Whether all of `a` (ascending) are in `b` (ascending).
fn is_subset(a: &Set, b: &Set) -> bool {
    a.len() <= b.len() && a.iter().all(|number| b.binary_search(number).is_ok())
}
