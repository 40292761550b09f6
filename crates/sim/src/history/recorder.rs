//! The recorder that all clients of a run share.

use super::input::Input;
use super::operation::{Counts, OpToken, Operation, Outcome, Statistics};
use super::output::Output;
use super::value::{ObjectId, Tag};
use crate::desk::Desks;
use crate::workload::Holdings;
use everhold_env::Clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A breach of an invariant that was seen at once, without a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Which invariant.
    pub invariant: &'static str,
    /// Of which object.
    pub object: ObjectId,
    /// What was seen.
    pub detail: String,
}

/// Records operations in the order in which they happen. Clones share one history.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<State>>, Desks, Holdings);

type NowMs = Box<dyn Fn() -> u64 + Send>;
type Observer = Box<dyn Fn(&str) + Send>;

struct State {
    now_ms: NowMs,
    observer: Option<Observer>,
    /// Events so far.
    events: u64,
    /// Tags drawn so far.
    tags: u64,
    operations: Vec<Operation>,
    statistics: Statistics,
    direct: Vec<Direct>,
}

impl Recorder {
    /// A recorder whose times for people come from `now_ms`: milliseconds since the run began.
    pub fn new(now_ms: impl Fn() -> u64 + Send + 'static) -> Self {
        let state = State {
            now_ms: Box::new(now_ms),
            observer: None,
            events: 0,
            tags: 0,
            operations: Vec::new(),
            statistics: Statistics::new(),
            direct: Vec::new(),
        };
        Recorder(Arc::new(Mutex::new(state)), Desks::default(), Holdings::default())
    }

    /// What programs do on open files.
    pub(crate) fn desks(&self) -> &Desks {
        &self.1
    }

    /// A recorder of a run that begins now, by this clock.
    pub fn by_clock(clock: Clock) -> Self {
        let started = clock.now();
        Recorder::new(move || clock.now().saturating_duration_since(started).as_millis() as u64)
    }

    /// What clients hold for long.
    pub(crate) fn holdings(&self) -> &Holdings {
        &self.2
    }

    /// Lets `observer` hear one line for each event, in order. It must not call the recorder.
    pub fn observe(&self, observer: impl Fn(&str) + Send + 'static) {
        self.0.lock().observer = Some(Box::new(observer));
    }

    /// Milliseconds since the run began.
    pub(crate) fn now_ms(&self) -> u64 {
        (self.0.lock().now_ms)()
    }

    /// A tag that no other value of the run has.
    pub fn fresh_tag(&self, client: u32) -> Tag {
        let mut state = self.0.lock();
        state.tags += 1;
        Tag::of(state.tags, client)
    }

    /// An operation begins.
    pub fn invoke(&self, client: u32, object: &ObjectId, input: Input) -> OpToken {
        self.0.lock().invoke(client, object, input, false)
    }

    /// A read after all faults begins.
    pub fn invoke_final(&self, client: u32, object: &ObjectId, input: Input) -> OpToken {
        self.0.lock().invoke(client, object, input, true)
    }

    /// It ends with a definite answer.
    pub fn returned(&self, token: OpToken, output: Output) {
        self.0.lock().end(token.0, Outcome::Returned(output));
    }

    /// It ends and had no effect.
    pub fn failed(&self, token: OpToken, why: impl Into<String>) {
        self.0.lock().end(token.0, Outcome::Failed(why.into()));
    }

    /// It ends, and nobody knows whether it has or will have an effect.
    pub fn unknown(&self, token: OpToken, why: impl Into<String>) {
        self.0.lock().end(token.0, Outcome::Unknown(why.into()));
    }

    /// A client dies: what it has open is of unknown outcome. Ends that it reports later are ignored.
    pub fn crash(&self, client: u32) {
        let mut state = self.0.lock();
        let is_open = |op: &Operation| op.client == client && op.outcome.is_none();
        let open = state.operations.iter().enumerate().filter(|(_, op)| is_open(op));
        for index in open.map(|(index, _)| index).collect::<Vec<_>>() {
            state.end(index, Outcome::Unknown("the client died".into()));
        }
    }

    /// Operations of a client that have not ended.
    pub fn open(&self, client: u32) -> usize {
        let is_open = |op: &&Operation| op.client == client && op.outcome.is_none();
        self.0.lock().operations.iter().filter(is_open).count()
    }

    /// A breach of an invariant was seen.
    pub fn violation(&self, invariant: &'static str, object: &ObjectId, detail: impl Into<String>) {
        let mut state = self.0.lock();
        let direct = Direct { invariant, object: object.clone(), detail: detail.into() };
        state.tell(&format!("violation {invariant} {object} {}", direct.detail));
        state.direct.push(direct);
    }

    /// The breaches seen at once.
    pub fn direct_violations(&self) -> Vec<Direct> {
        self.0.lock().direct.clone()
    }

    /// All operations, each object's by themselves, in the order of their invocation.
    pub fn histories(&self) -> BTreeMap<ObjectId, Vec<Operation>> {
        let mut histories = BTreeMap::<ObjectId, Vec<Operation>>::new();
        for operation in &self.0.lock().operations {
            histories.entry(operation.object.clone()).or_default().push(operation.clone());
        }
        histories
    }

    /// Counts by kind and outcome, with the longest time that each kind took.
    pub fn statistics(&self) -> Statistics {
        self.0.lock().statistics.clone()
    }

    /// Kinds of operations by the longest time that one took, the longest first.
    pub fn stalls(&self) -> Vec<(&'static str, u64)> {
        let statistics = self.statistics();
        let mut stalls: Vec<_> = statistics.iter().map(|(kind, s)| (*kind, s.longest_ms)).collect();
        stalls.sort_by_key(|(kind, longest_ms)| (std::cmp::Reverse(*longest_ms), *kind));
        stalls
    }

    /// Operations invoked so far.
    pub fn len(&self) -> usize {
        self.0.lock().operations.len()
    }

    /// Whether nothing was invoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn invoke(&mut self, client: u32, object: &ObjectId, input: Input, is_final: bool) -> OpToken {
        let index = self.operations.len();
        let invoked = self.tell(&format!("{index} c{client} {object} {input}"));
        self.operations.push(Operation {
            client,
            object: object.clone(),
            input,
            outcome: None,
            invoked,
            ended: None,
            invoked_ms: (self.now_ms)(),
            ended_ms: None,
            is_final,
        });
        OpToken(index)
    }

    fn end(&mut self, index: usize, outcome: Outcome<Output>) {
        let operation = &self.operations[index];
        if operation.outcome.is_some() {
            return; // a client that was declared dead reports
        }
        let line = match &outcome {
            Outcome::Returned(output) => format!("{index} returned {output}"),
            Outcome::Failed(why) => format!("{index} failed: {why}"),
            Outcome::Unknown(why) => format!("{index} unknown: {why}"),
        };
        let (ended, now_ms) = (self.tell(&line), (self.now_ms)());
        let operation = &mut self.operations[index];
        let elapsed_ms = now_ms.saturating_sub(operation.invoked_ms);
        let kept: &mut Counts = self.statistics.entry(operation.input.kind()).or_default();
        kept.count(&outcome, elapsed_ms);
        operation.outcome = Some(outcome);
        operation.ended = Some(ended);
        operation.ended_ms = Some(now_ms);
    }

    /// Numbers an event and tells the observer.
    fn tell(&mut self, line: &str) -> u64 {
        self.events += 1;
        if let Some(observer) = &self.observer {
            observer(line);
        }
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{LogInput, LogOutput};

    /// A dead client's operations are unknown, whatever it says later; the others' are not touched.
    #[test]
    fn a_crash_ends_what_is_open() {
        let recorder = Recorder::new(|| 7);
        let log = ObjectId::new("log");
        let read = || Input::Log(LogInput::Read);
        let (dead, other) = (recorder.invoke(1, &log, read()), recorder.invoke(2, &log, read()));
        recorder.crash(1);
        recorder.returned(dead, Output::Log(LogOutput::Done));
        recorder.returned(other, Output::Log(LogOutput::Records(Vec::new())));
        let history = recorder.histories().remove(&log).expect("is there");
        assert!(matches!(history[0].outcome, Some(Outcome::Unknown(_))));
        assert!(matches!(history[1].outcome, Some(Outcome::Returned(_))));
        assert_eq!((history[0].invoked, history[0].ended), (1, Some(3)));
        let counts = &recorder.statistics()["read_log"];
        assert_eq!((counts.done, counts.unknown), (1, 1));
    }

    /// Each event is one line, and tags name who drew them.
    #[test]
    fn observers_hear_each_event() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let recorder = Recorder::new(|| 0);
        let heard = lines.clone();
        recorder.observe(move |line| heard.lock().push(line.to_string()));
        let token = recorder.invoke(3, &ObjectId::new("log"), Input::Log(LogInput::Read));
        recorder.failed(token, "no answer");
        assert_eq!(*lines.lock(), ["0 c3 log read", "0 failed: no answer"]);
        assert_eq!(recorder.fresh_tag(3).owner(), 3);
        assert_eq!(recorder.fresh_tag(3).to_string(), "#2.3");
    }
}
