//! What was promised, what was measured, and whether it was kept.

use super::options::Row;
use serde::Serialize;
use std::fmt::Write;

/// What came of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// It was kept.
    Pass,
    /// It was broken.
    Fail,
    /// It could not be measured here, and the text says why.
    NotRun,
    /// Nothing was promised: a figure beside the others.
    Told,
}

impl Verdict {
    pub(super) fn of(kept: bool) -> Self {
        if kept { Verdict::Pass } else { Verdict::Fail }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "**FAIL**",
            Verdict::NotRun => "not run",
            Verdict::Told => "",
        }
    }
}

/// One promise and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    /// Of which row.
    pub(super) row: Row,
    /// What was done.
    pub(super) fault: String,
    /// What is promised of it.
    pub(super) promised: String,
    /// What was measured.
    pub(super) measured: String,
    pub(super) verdict: Verdict,
}

/// How the cluster did before the first fault.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Healthy {
    pub(super) seconds: f64,
    pub(super) writes: u64,
    pub(super) reads: u64,
    pub(super) write_p50_ms: f64,
    pub(super) write_p99_ms: f64,
    pub(super) read_p50_ms: f64,
    pub(super) read_p99_ms: f64,
    pub(super) write_longest_ms: u64,
    pub(super) read_longest_ms: u64,
    pub(super) metadata_longest_ms: u64,
}

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(super) machine: String,
    pub(super) nodes: u32,
    pub(super) zones: u32,
    pub(super) data_bytes: u64,
    pub(super) short: bool,
    pub(super) healthy: Healthy,
    pub(super) checks: Vec<Check>,
    /// Over the whole run.
    pub(super) acknowledged_writes: u64,
    pub(super) lost: Vec<String>,
    pub(super) altered: Vec<String>,
    /// What else went wrong.
    pub(super) broken: Vec<String>,
}

/// Lines of one kind that are printed; the JSON has all of them.
const LINES: usize = 10;

impl Report {
    /// Whether every promise that could be measured was kept, and nothing was lost or altered.
    pub(crate) fn pass(&self) -> bool {
        let clean = self.lost.is_empty() && self.altered.is_empty() && self.broken.is_empty();
        clean && self.checks.iter().all(|check| check.verdict != Verdict::Fail)
    }

    /// For people, as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").expect("a string takes everything");
        let Healthy { write_p50_ms, write_p99_ms, read_p50_ms, read_p99_ms, .. } = self.healthy;
        line(format!("Machine: {}.", self.machine));
        line(format!(
            "{} nodes in {} zones, {} MiB stored first{}.",
            self.nodes,
            self.zones,
            self.data_bytes >> 20,
            if self.short { ", short form" } else { "" }
        ));
        line(format!(
            "Without a fault, {:.0} s: writes p50 {write_p50_ms:.1} ms, p99 {write_p99_ms:.1} ms, longest {} ms \
             ({}); reads p50 {read_p50_ms:.1} ms, p99 {read_p99_ms:.1} ms, longest {} ms ({}); longest change \
             of names {} ms.",
            self.healthy.seconds,
            self.healthy.write_longest_ms,
            self.healthy.writes,
            self.healthy.read_longest_ms,
            self.healthy.reads,
            self.healthy.metadata_longest_ms,
        ));
        line(String::new());
        line("| fault | promised | measured | |".into());
        line("|---|---|---|---|".into());
        for check in &self.checks {
            let verdict = check.verdict.word();
            line(format!(
                "| {} | {} | {} | {verdict} |",
                check.fault, check.promised, check.measured
            ));
        }
        line(String::new());
        line(format!(
            "{} acknowledged writes, {} lost, {} altered.",
            self.acknowledged_writes,
            self.lost.len(),
            self.altered.len()
        ));
        for (what, lines) in
            [("lost", &self.lost), ("altered", &self.altered), ("broken", &self.broken)]
        {
            lines.iter().take(LINES).for_each(|text| line(format!("{what}: {text}")));
        }
        let count = |verdict| self.checks.iter().filter(|check| check.verdict == verdict).count();
        line(format!(
            "{} of {} promises kept, {} broken, {} not run: {}",
            count(Verdict::Pass),
            self.checks.len() - count(Verdict::Told),
            count(Verdict::Fail),
            count(Verdict::NotRun),
            if self.pass() { "PASS" } else { "FAIL" }
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        let check = |verdict: &Verdict| Check {
            row: Row::Kill,
            fault: "kill".into(),
            promised: "p".into(),
            measured: "m".into(),
            verdict: *verdict,
        };
        Report {
            machine: "m".into(),
            nodes: 5,
            zones: 3,
            data_bytes: 0,
            short: true,
            healthy: Healthy::default(),
            checks: verdicts.iter().map(check).collect(),
            acknowledged_writes: 1,
            lost: vec![],
            altered: vec![],
            broken: vec![],
        }
    }

    /// One broken promise, one lost file or one ended server fails the run; what was not run does not, and says so.
    #[test]
    fn one_broken_promise_fails_the_run() {
        assert!(report(&[Verdict::Pass, Verdict::NotRun, Verdict::Told]).pass());
        assert!(
            report(&[Verdict::Pass, Verdict::NotRun, Verdict::Told]).table().contains("not run |")
        );
        assert!(!report(&[Verdict::Pass, Verdict::Fail]).pass());
        let mut lost = report(&[Verdict::Pass]);
        lost.lost.push("/f".into());
        assert!(!lost.pass() && lost.table().contains("FAIL"));
    }
}
