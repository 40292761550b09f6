//! The figures of a run: rates, what they cost, what they are held against.

use crate::exit::CliResult;
use crate::output::{Table, line};
use serde::Serialize;

/// Unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    /// MiB per second; cost in CPU seconds per GiB.
    #[serde(rename = "MiB/s")]
    Bytes,
    /// Files per second; cost in CPU microseconds per file.
    #[serde(rename = "files/s")]
    Files,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What was done.
    pub(crate) what: &'static str,
    /// How much of it per second, in `unit`.
    pub(crate) rate: f64,
    /// Its unit.
    pub(crate) unit: Unit,
    /// How long it took.
    pub(crate) seconds: f64,
    /// CPU of all node processes: seconds per GiB, or microseconds per file.
    pub(crate) cpu_nodes: Option<f64>,
    /// CPU of this process, likewise.
    pub(crate) cpu_client: f64,
    /// What it is held against.
    pub(crate) target: Option<Target>,
}

/// A target and whether it is met.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    /// In words.
    pub(crate) text: String,
    /// Measured, in terms of the target.
    pub(crate) measured: f64,
    /// Whether it is met.
    pub(crate) met: bool,
}

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Nodes and copies of the cluster.
    pub(crate) cluster: String,
    /// Measurements in the order in which they were made.
    pub(crate) figures: Vec<Figure>,
    /// Targets that span figures.
    pub(crate) targets: Vec<Target>,
    /// All targets are met.
    pub(crate) pass: bool,
}

impl Target {
    /// A target that `measured` must reach.
    pub(crate) fn at_least(text: impl Into<String>, measured: f64, limit: f64) -> Self {
        Target { text: text.into(), measured, met: measured >= limit }
    }

    /// A target that `measured` must not exceed.
    pub(crate) fn at_most(text: impl Into<String>, measured: f64, limit: f64) -> Self {
        Target { text: text.into(), measured, met: measured <= limit }
    }
}

impl Report {
    /// The rate of a figure, 0 when it was not measured.
    pub(crate) fn rate(&self, what: &str) -> f64 {
        self.figures.iter().find(|f| f.what == what).map_or(0.0, |f| f.rate)
    }

    /// Decides whether the run passes.
    pub(crate) fn judge(mut self) -> Self {
        let single = self.figures.iter().filter_map(|f| f.target.as_ref());
        self.pass = single.chain(&self.targets).all(|target| target.met);
        self
    }

    /// Prints it for people.
    pub(crate) fn print(&self) -> CliResult {
        line(&self.cluster)?;
        let mut table =
            Table::new(&["WHAT", ">RATE", "", ">CPU NODES", ">CPU CLIENT", "PER", "TARGET", ""]);
        for figure in &self.figures {
            let (unit, per) = match figure.unit {
                Unit::Bytes => ("MiB/s", "s/GiB"),
                Unit::Files => ("files/s", "µs/file"),
            };
            let number = |n: f64| if n < 20.0 { format!("{n:.2}") } else { format!("{n:.0}") };
            let target = figure.target.as_ref();
            table.row([
                figure.what.into(),
                format!("{:.0}", figure.rate),
                unit.into(),
                figure.cpu_nodes.map_or("-".into(), number),
                number(figure.cpu_client),
                per.into(),
                target.map_or(String::new(), |t| t.text.clone()),
                target.map_or("", |t| mark(t.met)).into(),
            ]);
        }
        table.print()?;
        for target in &self.targets {
            line(format!("{}: {:.2} {}", target.text, target.measured, mark(target.met)))?;
        }
        Ok(())
    }
}

fn mark(met: bool) -> &'static str {
    if met { "ok" } else { "MISSED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_missed_target_fails_the_run() {
        let mut report = Report::default();
        report.targets.push(Target::at_least("put", 0.6, 0.5));
        assert!(report.clone().judge().pass);
        report.targets.push(Target::at_most("cpu", 3.1, 3.0));
        assert!(!report.judge().pass);
    }
}
