//! What a sequential object must be able to do.

use std::fmt::{Debug, Display};
use std::sync::Arc;

/// A sequential object: a deterministic function of its state and an operation.
pub trait Model {
    /// What the object holds.
    type State: Clone + Ord + Debug;
    /// An operation.
    type Input: Clone + PartialEq + Debug + Display;
    /// A definite answer.
    type Output: Clone + PartialEq + Debug + Display;

    /// What the object holds at first.
    fn initial(&self) -> Self::State;

    /// Carries an operation out.
    fn apply(&self, state: &mut Self::State, input: &Self::Input) -> Self::Output;

    /// Whether an operation with this answer (`None`: any answer) leaves every state as it is: reads, and
    /// what was refused. Such an operation is linearized as soon as it can be.
    fn only_observes(&self, input: &Self::Input, output: Option<&Self::Output>) -> bool;

    /// Whether an answer may show what `input` leaves behind. Must be `true` in doubt.
    fn shows(&self, output: &Self::Output, input: &Self::Input) -> bool;

    /// Whether the operation leaves something behind that answers could show.
    fn leaves(&self, input: &Self::Input) -> bool;

    /// The same operation with what it leaves behind replaced by something that stands for all that no
    /// answer ever shows, so that such operations are alike.
    fn blurred(&self, input: &Self::Input) -> Self::Input;

    /// The parts of the object that the operation may touch; operations without a common part never
    /// affect each other. `None`: all parts.
    fn scope(&self, input: &Self::Input) -> Option<Vec<Arc<str>>>;

    /// Whether an operation of unknown outcome can be left out of a history of these other operations
    /// if no answer shows it: whenever there is an order with it, there is one without it.
    fn is_forgettable(&self, unknown: &Self::Input, others: &[&Self::Input]) -> bool;

    /// A state for people.
    fn describe(&self, state: &Self::State) -> String;

    /// The state after an operation that had this answer; `None` if it cannot have had it.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: &Self::Output,
    ) -> Option<Self::State> {
        let mut next = state.clone();
        (self.apply(&mut next, input) == *output).then_some(next)
    }

    /// The states that an operation of unknown outcome may lead to, but for this one.
    fn step_unknown(&self, state: &Self::State, input: &Self::Input) -> Vec<Self::State> {
        let mut next = state.clone();
        let _whatever = self.apply(&mut next, input);
        if next == *state { Vec::new() } else { vec![next] }
    }
}

/// An operation as the search sees it. One without effect and without an answer is left out before.
#[derive(Clone, Debug)]
pub struct Call<I, O> {
    /// What was asked.
    pub input: I,
    /// When.
    pub invoked: u64,
    /// When the answer came, and the answer; `None`: the outcome is unknown.
    pub returned: Option<(u64, O)>,
}

/// The calls of a model.
pub(crate) type CallOf<M> = Call<<M as Model>::Input, <M as Model>::Output>;

impl<I, O> Call<I, O> {
    /// The definite answer.
    pub fn output(&self) -> Option<&O> {
        self.returned.as_ref().map(|(_, output)| output)
    }

    /// When the answer came.
    pub fn returned_at(&self) -> Option<u64> {
        self.returned.as_ref().map(|(at, _)| *at)
    }
}
