//! What becomes of the program that waits for a request, as `/proc` tells it.

use std::sync::OnceLock;

/// What becomes of a calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs on.
    Lives,
    /// A signal ends it.
    Dies,
    /// It is ending of its own accord, and closes its files.
    Exits,
    /// It cannot be looked up: it is in a PID namespace that this process does not see into, or has ended and left
    /// its process a request that no thread waits for, as programs with asynchronous I/O do.
    Unknown,
}

/// `PF_EXITING` of the kernel's thread flags.
const EXITING: u64 = 4;
/// Fields of `/proc/TID/stat` after the name in brackets, from 0: thread flags, and the exit code.
const FLAGS: usize = 6;
const EXIT_CODE: usize = 49;

/// Signals that do not end a program which leaves them alone.
const HARMLESS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGURG,
    libc::SIGWINCH,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// What becomes of the thread `caller` of a request; 0: the kernel does not say which one it is.
pub(crate) fn fate(caller: u32) -> Fate {
    if caller == 0 || !sees_threads() {
        return Fate::Unknown;
    }
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{caller}/{what}"));
    match (read("status"), read("stat")) {
        (Ok(status), Ok(stat)) => judge(&status, &stat),
        _ => Fate::Unknown,
    }
}

/// Whether `/proc` is there, and has the numbers of this process's namespace.
fn sees_threads() -> bool {
    static SEES: OnceLock<bool> = OnceLock::new();
    *SEES.get_or_init(|| {
        let own = std::fs::read_link("/proc/self");
        own.is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
    })
}

fn judge(status: &str, stat: &str) -> Fate {
    // The name may contain anything, brackets too.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let mut fields = after.split_ascii_whitespace();
    let flags: u64 = fields.nth(FLAGS).and_then(|text| text.parse().ok()).unwrap_or(0);
    let exit_code: i64 =
        fields.nth(EXIT_CODE - FLAGS - 1).and_then(|text| text.parse().ok()).unwrap_or(0);
    match flags & EXITING != 0 {
        true if exit_code & 0x7f != 0 => Fate::Dies,
        true => Fate::Exits,
        false if is_fatally_signalled(status) => Fate::Dies,
        false => Fate::Lives,
    }
}

/// Whether a signal waits for the thread or its process that ends it: SIGKILL, or one that it neither blocks nor
/// handles. Of a program under a debugger only SIGKILL counts: the debugger may keep any other from it.
fn is_fatally_signalled(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    let spared = mask("SigBlk:") | mask("SigIgn:") | mask("SigCgt:");
    let traced = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    let is_traced = traced.is_some_and(|tracer| tracer.trim() != "0");
    let harmless = HARMLESS.iter().fold(0, |all, signal| all | bit(*signal));
    let ends = if is_traced { 0 } else { !spared & !harmless };
    pending & (bit(libc::SIGKILL) | ends) != 0
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: i32, blocked: i32, ignored: i32, caught: i32) -> String {
        let mask = |signal: i32| if signal == 0 { 0 } else { bit(signal) };
        let masks = [0, pending, blocked, ignored, caught].map(mask);
        let [own, shared, blocked, ignored, caught] = masks;
        format!(
            "Name:\tx\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    fn stat(flags: u64, exit_code: i64) -> String {
        let mut fields = vec!["0".to_string(); 50];
        fields[0] = "D".into();
        fields[FLAGS] = flags.to_string();
        fields[EXIT_CODE] = exit_code.to_string();
        format!("7 (a) b) {}\n", fields.join(" "))
    }

    #[test]
    fn only_signals_that_end_the_program_are_fatal() {
        let fate = |status: &str| judge(status, &stat(0x400000, 0));
        assert_eq!(fate(&status(0, 0, 0, 0)), Fate::Lives);
        assert_eq!(fate(&status(libc::SIGKILL, 0, 0, 0)), Fate::Dies);
        assert_eq!(fate(&status(libc::SIGQUIT, 0, 0, 0)), Fate::Dies, "it dumps core");
        assert_eq!(fate(&status(libc::SIGTERM, libc::SIGTERM, 0, 0)), Fate::Lives, "blocked");
        assert_eq!(fate(&status(libc::SIGTERM, 0, libc::SIGTERM, 0)), Fate::Lives, "ignored");
        assert_eq!(fate(&status(libc::SIGALRM, 0, 0, libc::SIGALRM)), Fate::Lives, "handled");
        assert_eq!(fate(&status(libc::SIGCHLD, 0, 0, 0)), Fate::Lives);
        assert_eq!(fate(&status(64, 0, 0, 0)), Fate::Dies, "the last real-time signal");
    }

    #[test]
    fn a_debugger_may_keep_signals_away() {
        let traced = |signal| format!("TracerPid:\t7\n{}", status(signal, 0, 0, 0));
        assert_eq!(judge(&traced(libc::SIGINT), &stat(0, 0)), Fate::Lives);
        assert_eq!(judge(&traced(libc::SIGKILL), &stat(0, 0)), Fate::Dies);
        let free = format!("TracerPid:\t0\n{}", status(libc::SIGINT, 0, 0, 0));
        assert_eq!(judge(&free, &stat(0, 0)), Fate::Dies);
    }

    #[test]
    fn a_program_that_ends_was_killed_or_not() {
        let quiet = status(0, 0, 0, 0);
        assert_eq!(judge(&quiet, &stat(0x400000 | EXITING, 9)), Fate::Dies);
        assert_eq!(judge(&quiet, &stat(EXITING, 128 + 11)), Fate::Dies, "it dumped core");
        assert_eq!(judge(&quiet, &stat(EXITING, 3 << 8)), Fate::Exits);
        assert_eq!(judge("", "odd"), Fate::Lives);
    }

    #[test]
    fn threads_are_looked_up() {
        assert_eq!(fate(std::process::id()), Fate::Lives);
        assert_eq!(fate(u32::MAX), Fate::Unknown, "it has ended");
        assert_eq!(fate(0), Fate::Unknown);
    }
}
