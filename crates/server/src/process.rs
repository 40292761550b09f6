//! What the operating system says of this process.
//!
//! In the simulator, where one process is many nodes, all of it is zero: it would differ from run to run.

use everhold_env::Env;
use rustix::time::{ClockId, clock_gettime};

/// Its number.
pub(crate) fn id(env: &Env) -> u32 {
    if env.tasks.is_simulated() { 0 } else { std::process::id() }
}

/// CPU seconds used, user and system.
pub(crate) fn cpu_seconds(env: &Env) -> f64 {
    if env.tasks.is_simulated() {
        return 0.0;
    }
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Resident memory in bytes; 0 where there is no `/proc`.
pub(crate) fn resident_bytes(env: &Env) -> u64 {
    if env.tasks.is_simulated() {
        return 0;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_uses_memory_and_time() {
        let env = Env::real();
        assert!(resident_bytes(&env) > 1 << 18);
        assert!(cpu_seconds(&env) > 0.0);
    }
}
