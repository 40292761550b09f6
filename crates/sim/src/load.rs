//! The clients of a run: they work on shared files while faults strike, and read everything once more
//! when all is over.

use crate::check;
use crate::history::Recorder;
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::trace;
use crate::workload::{Kind, WorkloadPlan, final_check, run, setup};
use crate::world::{ClientWork, World};
use everhold_client::Client;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// See the module's words.
pub(crate) struct Load(Rc<Inner>);

struct Inner {
    seed: u64,
    clients: usize,
    kinds: Vec<Kind>,
    plan: Arc<WorkloadPlan>,
    recorder: Recorder,
    /// Set when the shared objects are there.
    prepared: Cell<bool>,
    phase: watch::Sender<Phase>,
    stop: watch::Sender<bool>,
    ready: Cell<usize>,
    ended: Cell<usize>,
    unread: RefCell<Option<Vec<String>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Waiting,
    Working,
}

/// One client tries an operation so long when faults have stopped.
const CHECK_DEADLINE: Duration = Duration::from_secs(20);
/// All final reads together.
const CHECK_LIMIT: Duration = Duration::from_secs(100);
/// Starts of one client; each is a client of its own in the history.
const STARTS_MAX: u64 = 1000;

impl Load {
    pub(crate) fn new(plan: &Plan, world: &mut World) -> Self {
        let recorder = Recorder::new(trace::now_ms);
        recorder.observe(|line| crate::event!("{line}"));
        let inner = Rc::new(Inner {
            seed: plan.seed,
            clients: plan.clients,
            kinds: plan.workloads.clone(),
            plan: Arc::new(plan.work.clone()),
            recorder,
            prepared: Cell::new(false),
            phase: watch::Sender::new(Phase::Waiting),
            stop: watch::Sender::new(false),
            ready: Cell::new(0),
            ended: Cell::new(0),
            unread: RefCell::new(None),
        });
        for number in 0..plan.clients {
            let inner = inner.clone();
            let work: ClientWork = Rc::new(move |number, starts, client| {
                Box::pin(work(inner.clone(), number, starts, client))
            });
            let has = |bits: u8| bits >> number & 1 == 1;
            let (follow, behind) = (has(plan.followers), has(plan.behind));
            world.add_client(plan.deadline, (follow, behind), work);
        }
        let gone = inner.clone();
        world.when_client_dies(move |number, starts| {
            gone.recorder.crash(number_of(number, starts));
        });
        Load(inner)
    }

    /// Whether all clients wait for the work to begin.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.ready.get() >= self.0.clients
    }

    pub(crate) fn begin(&self) {
        self.0.phase.send_replace(Phase::Working);
    }

    /// No more operations begin.
    pub(crate) fn end(&self) {
        self.0.stop.send_replace(true);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.ended.get() >= self.0.clients
    }

    /// One more client reads everything.
    pub(crate) fn check(&self, world: &mut World) {
        let inner = self.0.clone();
        let work: ClientWork =
            Rc::new(move |_, _, client| Box::pin(check_all(inner.clone(), client)));
        world.add_client(CHECK_DEADLINE, (false, false), work);
    }

    pub(crate) fn has_checked(&self) -> bool {
        self.0.unread.borrow().is_some()
    }

    /// What clients saw that they should not have seen.
    pub(crate) fn verdict(&self) -> Vec<Violation> {
        let verdict = check::check_all(&self.0.recorder);
        let mut violations: Vec<Violation> = verdict
            .violations
            .into_iter()
            .map(|violation| Violation {
                invariant: violation.invariant.into(),
                detail: format!("{}: {}", violation.object, violation.detail),
                history: violation.history,
            })
            .collect();
        violations.extend(verdict.undecided.into_iter().map(|undecided| Violation {
            invariant: "undecided".into(),
            detail: format!(
                "the history of {} ({} operations, {} of unknown outcome) is too hard to judge",
                undecided.object, undecided.operations, undecided.unknown
            ),
            history: Vec::new(),
        }));
        if let Some(unread) = self.0.unread.borrow().as_ref().filter(|unread| !unread.is_empty()) {
            violations.push(Violation {
                invariant: "invariant_1_acknowledged_is_readable".into(),
                detail: format!("after all faults, no answer about {}", unread.join(", ")),
                history: Vec::new(),
            });
        }
        violations
    }

    /// How many operations of each kind ended in which way.
    pub(crate) fn operations(&self) -> BTreeMap<String, u64> {
        let mut operations = BTreeMap::new();
        for (kind, counts) in self.0.recorder.statistics() {
            let outcomes = [
                ("done", counts.done),
                ("refused", counts.refused),
                ("failed", counts.failed),
                ("unknown", counts.unknown),
            ];
            for (outcome, count) in outcomes {
                if count > 0 {
                    operations.insert(format!("{kind} {outcome}"), count);
                }
            }
        }
        operations
    }
}

fn number_of(client: usize, starts: u64) -> u32 {
    u32::try_from(client as u64 * STARTS_MAX + starts.min(STARTS_MAX - 1)).unwrap_or(u32::MAX)
}

async fn work(inner: Rc<Inner>, number: usize, starts: u64, client: Arc<Client>) {
    if starts == 1 {
        prepare(&inner, number, &client).await;
        inner.ready.set(inner.ready.get() + 1);
    }
    // Both senders live as long as the world.
    let _begun = inner.phase.subscribe().wait_for(|phase| *phase == Phase::Working).await.is_ok();
    let me = number_of(number, starts);
    let kind = inner.kinds[number % inner.kinds.len()];
    let seed = inner.seed ^ (u64::from(me) << 32);
    let (plan, recorder) = (inner.plan.clone(), inner.recorder.clone());
    run(kind, client, me, seed, plan, recorder, inner.stop.subscribe()).await;
    inner.ended.set(inner.ended.get() + 1);
}

/// The first client makes what all share; the others wait for it.
async fn prepare(inner: &Inner, number: usize, client: &Arc<Client>) {
    if number == 0 {
        match setup(client, &inner.plan).await {
            Ok(()) => inner.prepared.set(true),
            Err(e) => crate::event!("the shared objects cannot be made: {e}"),
        }
    }
    while !inner.prepared.get() {
        client.env().clock.sleep(Duration::from_millis(50)).await;
    }
}

async fn check_all(inner: Rc<Inner>, client: Arc<Client>) {
    let deadline = client.env().clock.now() + CHECK_LIMIT;
    let unread = final_check(&client, &inner.plan, &inner.recorder, deadline).await;
    let unread = unread.into_iter().map(|object| object.to_string()).collect();
    *inner.unread.borrow_mut() = Some(unread);
}
