//! The recorded part of the work: the simulator's workloads, each on two clients that meet on shared
//! objects, and the judgement of their histories.

use crate::check;
use crate::history::{Recorder, Statistics};
use crate::workload::{Kind, SizeMix, WorkloadPlan, final_check, run, setup};
use anyhow::{Context, Result};
use everhold_client::Client;
use everhold_env::Task;
use futures_util::future::join_all;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Clients that do the same: two meet, and more only make the histories longer.
const WORKERS_OF_A_KIND: usize = 2;
/// Guests count from here: above every worker's number, and above that of the final reads.
const FIRST_GUEST: u32 = 1000;
/// Minutes in which the operations on one object stay some 3,000, which are judged in seconds.
const MINUTES_OF_AN_OBJECT: f64 = 3.0;
/// All reads at the end together.
const FINAL_LIMIT: Duration = Duration::from_secs(300);

/// The workloads under way.
pub(crate) struct Recorded {
    plan: Arc<WorkloadPlan>,
    recorder: Recorder,
    guests: u32,
}

/// What the histories say.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Judgement {
    #[serde(rename = "recorded")]
    pub(crate) statistics: Statistics,
    /// Judged.
    #[serde(rename = "recorded_operations")]
    pub(crate) operations: usize,
    /// Judged.
    #[serde(rename = "recorded_objects")]
    pub(crate) objects: usize,
    /// The most operations that one object saw.
    pub(crate) longest_history: usize,
    /// Breaches with their shortest histories, what could not be judged, and what could not be read.
    pub(crate) violations: Vec<String>,
}

/// One more client that takes part until it is gone. Nobody ever takes its number again.
pub(crate) struct Guest {
    number: u32,
    seed: u64,
    plan: Arc<WorkloadPlan>,
    recorder: Recorder,
}

impl Recorded {
    /// Makes what all share and starts all workloads, dealt to the clients by turns.
    pub(crate) async fn start(
        clients: &[Arc<Client>],
        seed: u64,
        minutes: f64,
        stop: &watch::Receiver<bool>,
    ) -> Result<(Self, Vec<Task<()>>)> {
        let first = clients.first().context("there is a client")?;
        let (plan, env) = (Arc::new(plan(minutes)), first.env());
        setup(first, &plan).await.context("make the shared objects")?;
        let recorder = Recorder::by_clock(env.clock);
        let mut tasks = Vec::new();
        for (number, (kind, client)) in (1u32..).zip(deal(clients.len())) {
            let seed = seed ^ (u64::from(number) << 32);
            let (plan, recorder, stop) = (plan.clone(), recorder.clone(), stop.clone());
            let work = run(kind, clients[client].clone(), number, seed, plan, recorder, stop);
            tasks.push(env.tasks.spawn(work));
        }
        Ok((Recorded { plan, recorder, guests: 0 }, tasks))
    }

    /// A guest with a number of its own.
    pub(crate) fn guest(&mut self, seed: u64) -> Guest {
        let number = FIRST_GUEST + self.guests;
        self.guests += 1;
        // It is there for seconds, and is to be in the middle of something when it goes.
        let plan =
            WorkloadPlan { pause_ms: (0, 10), burst_pause_ms: (0, 50), ..(*self.plan).clone() };
        Guest { number, seed, plan: Arc::new(plan), recorder: self.recorder.clone() }
    }

    /// Reads every object once more and judges all histories. Takes seconds of one core.
    pub(crate) async fn judge(&self, client: &Arc<Client>) -> Judgement {
        let deadline = client.env().clock.now() + FINAL_LIMIT;
        let unread = final_check(client, &self.plan, &self.recorder, deadline).await;
        let verdict = check::check_all(&self.recorder);
        let mut violations: Vec<String> =
            verdict.violations.iter().map(ToString::to_string).collect();
        violations.extend(verdict.undecided.iter().map(|undecided| {
            let check::Undecided { object, operations, unknown } = undecided;
            format!("undecided: {object}, {operations} operations, {unknown} of them unknown")
        }));
        violations.extend(unread.iter().map(|object| format!("no answer about {object} at last")));
        let histories = self.recorder.histories();
        Judgement {
            statistics: self.recorder.statistics(),
            operations: verdict.operations,
            objects: verdict.objects,
            longest_history: histories.values().map(Vec::len).max().unwrap_or(0),
            violations,
        }
    }
}

impl Guest {
    /// Works without end: every workload but that of locks, since nobody would ever take a lock away
    /// from a client that is gone.
    pub(crate) async fn work(self: Arc<Self>, client: Arc<Client>) {
        let (_never, stop) = watch::channel(false);
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Lockers);
        let works = kinds.map(|kind| {
            let (plan, recorder) = (self.plan.clone(), self.recorder.clone());
            let seed = self.seed ^ kind as u64;
            run(kind, client.clone(), self.number, seed, plan, recorder, stop.clone())
        });
        join_all(works).await;
    }

    /// It is gone: what it had under way is of unknown outcome.
    pub(crate) fn is_gone(&self) {
        self.recorder.crash(self.number);
    }
}

/// Kinds of work and the clients that do them: no client does the same twice as long as there are
/// enough of them.
fn deal(clients: usize) -> Vec<(Kind, usize)> {
    let turns = (0..WORKERS_OF_A_KIND).flat_map(|round| {
        Kind::ALL.into_iter().enumerate().map(move |(turn, kind)| (kind, turn + round))
    });
    turns.map(|(kind, turn)| (kind, turn % clients)).collect()
}

/// A moderate pace and small objects: the servers share the machine. The longer the run, the more objects,
/// so that each one's history stays short enough to be judged.
fn plan(minutes: f64) -> WorkloadPlan {
    let each = (minutes / MINUTES_OF_AN_OBJECT).ceil().max(1.0) as u32;
    WorkloadPlan {
        files: each,
        renames: each,
        logs: 2 * each,
        record_bytes: (16, 1500),
        records_max: 600,
        slot_bytes: [512, 12 << 10, 40 << 10].repeat(each as usize),
        slots: 4,
        trees: each,
        locks: each + 1,
        sizes: SizeMix {
            inline: (16, 8 << 10),
            block: (9 << 10, 60 << 10),
            large: (4 << 20, 5 << 20),
            block_percent: 30,
            large_percent: 1,
        },
        burst: (4, 16),
        burst_pause_ms: (500, 2000),
        pause_ms: (20, 200),
        ..WorkloadPlan::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Input, LogInput, ObjectId, Outcome};
    use std::collections::BTreeSet;

    /// Every kind is done by two different clients, whatever their number.
    #[test]
    fn every_kind_is_dealt_to_two_clients() {
        for clients in 2..20 {
            let dealt = deal(clients);
            assert_eq!(dealt.len(), WORKERS_OF_A_KIND * Kind::ALL.len());
            let different: BTreeSet<(Kind, usize)> = dealt.iter().copied().collect();
            assert_eq!(different.len(), dealt.len(), "with {clients} clients");
        }
        assert!(deal(1).iter().all(|(_, client)| *client == 0));
    }

    /// What guests leave open is unknown, and each has a number of its own.
    #[test]
    fn guests_leave_unknown_outcomes_behind() {
        let recorder = Recorder::new(|| 0);
        let plan = Arc::new(plan(1.0));
        let mut recorded = Recorded { plan, recorder: recorder.clone(), guests: 0 };
        let (first, second) = (recorded.guest(1), recorded.guest(2));
        let log = ObjectId::new("log-0");
        for guest in [&first, &second] {
            let _open = recorder.invoke(guest.number, &log, Input::Log(LogInput::Read));
        }
        first.is_gone();
        let history = recorder.histories().remove(&log).expect("is there");
        assert!(matches!(history[0].outcome, Some(Outcome::Unknown(_))));
        assert_eq!(history[1].outcome, None, "it is another client's");
    }

    /// Long runs have more objects, not longer histories.
    #[test]
    fn long_runs_have_more_objects() {
        assert_eq!((plan(0.5).files, plan(10.0).files, plan(60.0).trees), (1, 4, 20));
    }
}
