//! `everhold health`: the findings of the leader, and an exit code for scripts: 0 when there is nothing worse
//! than information, 10 for warnings, 11 when data or service is at risk, 4 when nobody answers.

use crate::args::Global;
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::{CliError, CliResult, Exit};
use crate::output::{Table, json, line};
use everhold_proto::rpc::{Finding, Severity};

/// Prints the findings.
pub(crate) async fn run(global: &Global) -> CliResult {
    let status = Admin::new(&seeds(global)?).status(LEADER_LIMIT).await?;
    let findings = &status.health;
    if global.json {
        json(&serde_json::json!({ "healthy": verdict(findings).is_ok(), "findings": findings }))?;
    } else if findings.is_empty() {
        line("healthy: every copy is where it belongs, every node answers")?;
    } else {
        let mut table = Table::new(&["SEVERITY", "WHAT", "WHAT TO DO"]);
        for Finding { severity, text, remedy } in findings {
            table.row([word(*severity).into(), text.clone(), remedy.clone()]);
        }
        table.print()?;
    }
    verdict(findings)
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// The error, and with it the exit code, that the worst finding makes.
fn verdict(findings: &[Finding]) -> CliResult {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (critical, warnings) = (count(Severity::Critical), count(Severity::Warning));
    let hint = "each finding names its remedy; `everhold events` tells how it came to this";
    let of = |exit, n: usize, what| Err(CliError::new(exit, format!("{n} {what}"), hint));
    match (critical, warnings) {
        (0, 0) => Ok(()),
        (0, n) => of(Exit::Degraded, n, "warnings"),
        (n, _) => of(Exit::AtRisk, n, "critical findings"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worst finding decides; information alone is healthy.
    #[test]
    fn the_worst_decides() {
        let finding = |severity| Finding { severity, text: "t".into(), remedy: "r".into() };
        let exit = |severities: &[Severity]| {
            let findings: Vec<Finding> = severities.iter().copied().map(finding).collect();
            verdict(&findings).map_err(|e| e.exit)
        };
        assert_eq!(exit(&[]), Ok(()));
        assert_eq!(exit(&[Severity::Info]), Ok(()));
        assert_eq!(exit(&[Severity::Info, Severity::Warning]), Err(Exit::Degraded));
        assert_eq!(exit(&[Severity::Warning, Severity::Critical]), Err(Exit::AtRisk));
    }
}
