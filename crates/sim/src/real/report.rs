//! The verdict of a run, for people and as JSON.

use crate::real::faults::FaultKind;
use crate::real::ledger::Findings;
use crate::real::options::Options;
use crate::real::recorded::Judgement;
use crate::real::timeline::{Counts, Direction, Injected, Outcome, Stalls, Timeline};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Lines of one kind that are printed; the JSON has all of them.
const LINES: usize = 20;

/// What one kind of fault did to the probes.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Felt {
    pub(crate) faults: usize,
    pub(crate) write: Stalls,
    pub(crate) read: Stalls,
    /// Longest time from healing to convergence.
    pub(crate) converged_max_s: f64,
}

/// The verdict.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) pass: bool,
    pub(crate) seed: u64,
    /// Draws the same faults in the same order again; when they hit, real time decides.
    pub(crate) again: String,
    pub(crate) injected: Vec<Injected>,
    /// A fault counts from its beginning until the cluster converged.
    pub(crate) felt: BTreeMap<FaultKind, Felt>,
    /// While there was no fault.
    pub(crate) healthy: Felt,
    /// Bad copies that the nodes have met since their last start.
    pub(crate) checksum_errors: u64,
    /// Seconds that the cluster took to converge at the end.
    pub(crate) converged_s: Option<f64>,
    #[serde(flatten, serialize_with = "findings")]
    pub(crate) findings: Findings,
    #[serde(flatten)]
    pub(crate) recorded: Judgement,
    /// What else broke the run.
    pub(crate) broken: Vec<String>,
    /// What is worth a look and broke nothing.
    pub(crate) notes: Vec<String>,
}

fn findings<S: Serializer>(findings: &Findings, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Flat<'a> {
        acknowledged_writes: u64,
        lost: &'a [String],
        altered: &'a [String],
        operations: &'a Counts,
    }
    let Findings { acknowledged, lost, altered, counts } = findings;
    Flat { acknowledged_writes: *acknowledged, lost, altered, operations: counts }
        .serialize(serializer)
}

impl Report {
    /// What the probes felt of these faults.
    pub(crate) fn of(timeline: &Timeline, injected: Vec<Injected>) -> Self {
        let period =
            |fault: &Injected| (fault.started_s, fault.converged_s.unwrap_or(fault.healed_s));
        let felt = |faults: &[&Injected]| {
            let periods: Vec<(f64, f64)> = faults.iter().map(|fault| period(fault)).collect();
            let converged = faults.iter().filter_map(|f| Some(f.converged_s? - f.healed_s));
            Felt {
                faults: faults.len(),
                write: timeline.stalls(Direction::Write, &periods),
                read: timeline.stalls(Direction::Read, &periods),
                converged_max_s: converged.fold(0.0, f64::max),
            }
        };
        let mut by_kind: BTreeMap<FaultKind, Vec<&Injected>> = BTreeMap::new();
        for fault in &injected {
            by_kind.entry(fault.kind).or_default().push(fault);
        }
        let felt = by_kind.iter().map(|(kind, faults)| (*kind, felt(faults))).collect();
        let all: Vec<(f64, f64)> = injected.iter().map(period).collect();
        let healthy = Felt {
            write: timeline.stalls_outside(Direction::Write, &all),
            read: timeline.stalls_outside(Direction::Read, &all),
            ..Felt::default()
        };
        Report { injected, felt, healthy, ..Report::default() }
    }

    /// Adds the frame and judges.
    pub(crate) fn finish(mut self, options: &Options, seed: u64, converged: Option<f64>) -> Self {
        self.seed = seed;
        self.again = options.again(seed);
        self.converged_s = converged;
        self.pass = converged.is_some()
            && self.findings.lost.is_empty()
            && self.findings.altered.is_empty()
            && self.recorded.violations.is_empty()
            && self.broken.is_empty();
        self
    }

    /// The report for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        self.write_felt(&mut text);
        self.write_operations(&mut text);
        self.write_recorded(&mut text);
        self.write_verdict(&mut text);
        text
    }

    fn write_felt(&self, text: &mut String) {
        let mut line = |cells: [&str; 7]| {
            let [kind, rest @ ..] = cells;
            let rest = rest.map(|cell| format!("{cell:>14}")).concat();
            line_into(text, format_args!("{kind:<14}{rest}"));
        };
        line([
            "fault",
            "times",
            "write stall",
            "read stall",
            "writes failed",
            "reads failed",
            "converged",
        ]);
        let kinds = self.felt.iter().map(|(kind, felt)| (kind.to_string(), felt));
        for (kind, felt) in kinds.chain([("(none)".to_string(), &self.healthy)]) {
            line([
                &kind,
                &felt.faults.to_string(),
                &format!("{} ms", felt.write.longest_ms),
                &format!("{} ms", felt.read.longest_ms),
                &format!("{}/{}", felt.write.failed, felt.write.operations),
                &format!("{}/{}", felt.read.failed, felt.read.operations),
                &format!("{:.1} s", felt.converged_max_s),
            ]);
        }
    }

    fn write_operations(&self, text: &mut String) {
        line_into(
            text,
            format_args!("\n{:<24}{:>10}{:>10}{:>10}", "operation", "done", "failed", "unknown"),
        );
        for (name, outcomes) in &self.findings.counts {
            let of = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
            let (done, failed) = (of(Outcome::Done), of(Outcome::Failed));
            let unknown = of(Outcome::Unknown);
            line_into(text, format_args!("{name:<24}{done:>10}{failed:>10}{unknown:>10}"));
        }
    }

    fn write_recorded(&self, text: &mut String) {
        let mut line = |cells: [&str; 6]| {
            let [kind, rest @ ..] = cells;
            let rest = rest.map(|cell| format!("{cell:>10}")).concat();
            let row = format!("{kind:<24}{rest}");
            line_into(text, format_args!("{}", row.trim_end()));
        };
        line(["", "", "", "", "", ""]);
        line(["recorded operation", "done", "refused", "failed", "unknown", "longest"]);
        for (kind, counts) in &self.recorded.statistics {
            line([
                kind,
                &counts.done.to_string(),
                &counts.refused.to_string(),
                &counts.failed.to_string(),
                &counts.unknown.to_string(),
                &format!("{} ms", counts.longest_ms),
            ]);
        }
        let Judgement { operations, objects, longest_history, .. } = &self.recorded;
        line_into(
            text,
            format_args!(
                "{operations} recorded operations on {objects} objects judged, at most \
                 {longest_history} on one"
            ),
        );
    }

    fn write_verdict(&self, text: &mut String) {
        let found = &self.findings;
        let converged = match self.converged_s {
            Some(seconds) => format!("converged in {seconds:.1} s at the end"),
            None => "NOT converged at the end".into(),
        };
        line_into(
            text,
            format_args!(
                "\n{} faults; {} acknowledged writes, {} lost, {} altered; {} violations; {} bad \
                 copies met; {converged}",
                self.injected.len(),
                found.acknowledged,
                found.lost.len(),
                found.altered.len(),
                self.recorded.violations.len(),
                self.checksum_errors,
            ),
        );
        let lists = [
            ("lost", &found.lost),
            ("altered", &found.altered),
            ("violation", &self.recorded.violations),
            ("broken", &self.broken),
            ("note", &self.notes),
        ];
        for (what, lines) in lists {
            for line in lines.iter().take(LINES) {
                line_into(text, format_args!("{what}: {line}"));
            }
        }
        if self.pass {
            line_into(text, format_args!("PASS (seed {})", self.seed));
        } else {
            line_into(
                text,
                format_args!(
                    "FAIL (seed {}). The same faults in the same order: {}\nReal time is not \
                     deterministic: what they meet may differ.",
                    self.seed, self.again
                ),
            );
        }
    }
}

fn line_into(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes everything");
}
