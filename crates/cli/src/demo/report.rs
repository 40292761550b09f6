//! What the demo found, judged against what Everhold promises.

use crate::demo::stalls::Stalls;
use crate::exit::CliResult;
use crate::output::{Table, line, size};
use serde::Serialize;

/// Longest write stall for a killed storage node.
pub(crate) const WRITE_STALL_MAX_MS: u64 = 1000;
/// Longest read stall for a killed storage node.
pub(crate) const READ_STALL_MAX_MS: u64 = 500;
/// Longest stall of either for a killed leader.
pub(crate) const LEADER_STALL_MAX_MS: u64 = 3000;
/// Repair starts at most so long after the kill.
pub(crate) const REPAIR_START_MAX_MS: u64 = 15_000;

/// The report; the names of its fields are the JSON's.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Nothing was lost, nothing failed, and redundancy is restored.
    pub(crate) pass: bool,
    /// What does not hold.
    pub(crate) broken: Vec<String>,
    /// What took longer than it does on an idle machine. It decides nothing: `bench` and the reliability table judge
    /// figures.
    pub(crate) slow: Vec<String>,
    /// Files written and verified: those copied in and those of the probe.
    pub(crate) files: u64,
    /// Bytes of these.
    pub(crate) bytes: u64,
    /// Acknowledged files that are missing or cannot be read.
    pub(crate) files_lost: u64,
    /// Acknowledged files with other content.
    pub(crate) files_altered: u64,
    /// Operations of all kinds.
    pub(crate) operations: u64,
    /// Failed ones.
    pub(crate) operations_failed: u64,
    /// Storage node killed: longest write.
    pub(crate) longest_write_stall_ms: u64,
    /// Storage node killed: longest read.
    pub(crate) longest_read_stall_ms: u64,
    /// Leader killed: longest write.
    pub(crate) leader_longest_write_stall_ms: u64,
    /// Leader killed: longest read.
    pub(crate) leader_longest_read_stall_ms: u64,
    /// The killed storage node.
    pub(crate) storage_node: String,
    /// From its kill until the cluster called it Down.
    pub(crate) detected_after_ms: Option<u64>,
    /// From its kill until copies began to move.
    pub(crate) repair_started_after_ms: Option<u64>,
    /// The killed leader.
    pub(crate) leader: String,
    /// From its kill until another one led.
    pub(crate) new_leader_after_ms: Option<u64>,
    /// From the last kill until every copy was there again.
    pub(crate) redundancy_restored_after_ms: Option<u64>,
    /// Most copies that were missing at a time.
    pub(crate) copies_missing_max: u64,
    /// Bytes that were copied to restore redundancy.
    pub(crate) repaired_bytes: u64,
    /// Rate of copying in, both faults of that time included.
    pub(crate) copy_in_bytes_per_second: f64,
    /// Rate of reading, both faults of that time included.
    pub(crate) read_bytes_per_second: f64,
    /// Before any fault.
    pub(crate) healthy_writes: Stalls,
    /// Before any fault.
    pub(crate) healthy_reads: Stalls,
    /// After the kill of the storage node.
    pub(crate) storage_writes: Stalls,
    /// After the kill of the storage node.
    pub(crate) storage_reads: Stalls,
    /// After the kill of the leader.
    pub(crate) leader_writes: Stalls,
    /// After the kill of the leader.
    pub(crate) leader_reads: Stalls,
    /// The first failures and findings, one by one.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// Decides what holds.
    pub(crate) fn judge(mut self) -> Self {
        let mut broken = Vec::new();
        let mut none = |what: &str, n: u64| {
            if n > 0 {
                broken.push(format!("{n} {what}"));
            }
        };
        none("files lost", self.files_lost);
        none("files altered", self.files_altered);
        none("operations failed", self.operations_failed);
        if self.redundancy_restored_after_ms.is_none() {
            broken.push("redundancy restored: never".into());
        }
        let mut slow = Vec::new();
        let mut within = |what: &str, ms: Option<u64>, limit: u64| match ms {
            Some(ms) if ms <= limit => {}
            Some(ms) => slow.push(format!("{what}: {ms} ms, usually below {limit} ms")),
            None => slow.push(format!("{what}: never")),
        };
        within("longest write stall", Some(self.longest_write_stall_ms), WRITE_STALL_MAX_MS);
        within("longest read stall", Some(self.longest_read_stall_ms), READ_STALL_MAX_MS);
        let leader = self.leader_longest_write_stall_ms.max(self.leader_longest_read_stall_ms);
        within("longest stall for the leader", Some(leader), LEADER_STALL_MAX_MS);
        within("repair started", self.repair_started_after_ms, REPAIR_START_MAX_MS);
        self.pass = broken.is_empty();
        self.broken = broken;
        self.slow = slow;
        self
    }

    /// Prints it for people.
    pub(crate) fn print(&self) -> CliResult {
        let mut table = Table::new(&["WHAT", ">FOUND", "USUALLY"]);
        let mut row = |what: &str, found: String, limit: &str| {
            table.row([what.into(), found, limit.into()]);
        };
        let ms = |n: u64| format!("{n} ms");
        let maybe = |n: Option<u64>| n.map_or("never".into(), ms);
        row(
            "files written and read back",
            format!("{}, {}", self.files, size(self.bytes, false)),
            "",
        );
        row("files lost", self.files_lost.to_string(), "0");
        row("files altered", self.files_altered.to_string(), "0");
        row("operations", self.operations.to_string(), "");
        row("operations failed", self.operations_failed.to_string(), "0");
        row("copied in", format!("{}/s", size(self.copy_in_bytes_per_second as u64, false)), "");
        row("read", format!("{}/s", size(self.read_bytes_per_second as u64, false)), "");
        row("before any fault: longest write", ms(self.healthy_writes.longest_ms), "");
        row("before any fault: longest read", ms(self.healthy_reads.longest_ms), "");
        let storage = format!("{} killed", self.storage_node);
        row(&format!("{storage}: called down after"), maybe(self.detected_after_ms), "");
        row(&format!("{storage}: longest write stall"), ms(self.longest_write_stall_ms), "1000 ms");
        row(&format!("{storage}: longest read stall"), ms(self.longest_read_stall_ms), "500 ms");
        row(
            &format!("{storage}: repair started after"),
            maybe(self.repair_started_after_ms),
            "15000 ms",
        );
        let leader = format!("leader {} killed", self.leader);
        row(&format!("{leader}: next leader after"), maybe(self.new_leader_after_ms), "");
        row(
            &format!("{leader}: longest write stall"),
            ms(self.leader_longest_write_stall_ms),
            "3000 ms",
        );
        row(
            &format!("{leader}: longest read stall"),
            ms(self.leader_longest_read_stall_ms),
            "3000 ms",
        );
        row("most copies missing at a time", self.copies_missing_max.to_string(), "");
        row("copied to restore redundancy", size(self.repaired_bytes, false), "");
        row(
            "full redundancy after the last kill",
            maybe(self.redundancy_restored_after_ms),
            "restored",
        );
        line("")?;
        table.print()?;
        for failure in &self.failures {
            line(format!("  ! {failure}"))?;
        }
        for what in &self.slow {
            line(format!("  slow machine: {what}"))?;
        }
        line(if self.pass {
            "\nPASS: nothing was lost, nothing failed, redundancy is restored".to_string()
        } else {
            format!("\nFAIL: {}", self.broken.join("; "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_only_when_everything_holds() {
        let good = Report {
            repair_started_after_ms: Some(12_000),
            redundancy_restored_after_ms: Some(20_000),
            longest_write_stall_ms: 400,
            ..Report::default()
        };
        assert!(good.clone().judge().pass);
        assert!(!Report { files_lost: 1, ..good.clone() }.judge().pass);
        assert!(!Report { operations_failed: 1, ..good.clone() }.judge().pass);
        let slow = Report { longest_read_stall_ms: 501, ..good.clone() }.judge();
        assert!(slow.pass);
        assert_eq!(slow.slow, ["longest read stall: 501 ms, usually below 500 ms"]);
        let report = Report { redundancy_restored_after_ms: None, ..good }.judge();
        assert_eq!(report.broken, ["redundancy restored: never"]);
    }
}
