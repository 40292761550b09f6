//! The edge where errors become exit codes and hints: the only table of both. Every error ends with
//! a line that says what to do.

use everhold_client::ClientError;
use everhold_proto::{Error, Kind, fs::FsError};
use std::fmt;
use std::process::ExitCode;

/// What the shell learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Something went wrong that no other code names.
    Failed = 1,
    /// The command line is wrong (clap uses the same).
    Usage = 2,
    /// No such file, node or cluster directory.
    NotFound = 3,
    /// No node of the cluster answers, or none leads.
    Unreachable = 4,
    /// Overloaded, timed out, or the outcome is unknown.
    Busy = 5,
    /// Data failed its checksum everywhere, or was lost or altered.
    Corrupt = 6,
    /// No space left in the cluster.
    Full = 7,
    /// It exists already, or changed meanwhile.
    Conflict = 8,
    /// Another cluster or another format version.
    Foreign = 9,
    /// `health` found warnings: redundancy or service is reduced.
    Degraded = 10,
    /// `health` found that data or service is at risk now.
    AtRisk = 11,
    /// Ended by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error as a person sees it: what happened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CliError {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What happened, one line.
    pub(crate) message: String,
    /// What to do, one line.
    pub(crate) hint: String,
}

/// Result of a command.
pub(crate) type CliResult<T = ()> = Result<T, CliError>;

impl CliError {
    /// An error with its hint.
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        CliError { exit, message: message.into(), hint: hint.into() }
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, hint)
    }

    /// The same error with what it was about in front.
    pub(crate) fn about(mut self, subject: impl fmt::Display) -> Self {
        self.message = format!("{subject}: {}", self.message);
        self
    }

    /// A local file or directory that cannot be used.
    pub(crate) fn local(path: impl AsRef<std::path::Path>, error: &std::io::Error) -> Self {
        let (exit, hint) = match error.kind() {
            std::io::ErrorKind::NotFound => (
                Exit::NotFound,
                "check the local path; relative ones start at the current directory",
            ),
            std::io::ErrorKind::PermissionDenied => {
                (Exit::Failed, "check the permissions of the local path, or choose another one")
            }
            std::io::ErrorKind::StorageFull => {
                (Exit::Full, "free space on the local disk, then try again")
            }
            _ => (Exit::Failed, "look at the local file system, then try again"),
        };
        Self::new(exit, format!("{}: {error}", path.as_ref().display()), hint)
    }

    /// As one JSON object.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": self.message, "hint": self.hint, "exit_code": self.exit as u8,
        })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "everhold: {}\nhint: {}", self.message, self.hint)
    }
}

impl std::error::Error for CliError {}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        let (exit, hint) = of_kind(error.kind);
        CliError::new(exit, error.message, hint)
    }
}

impl From<FsError> for CliError {
    fn from(error: FsError) -> Self {
        let (exit, hint) = of_fs(&error);
        CliError::new(exit, error.to_string(), hint)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let (exit, hint) = match &error {
            ClientError::Local { source, path } => return CliError::local(path, source),
            other => other.fs().map_or_else(|| of_kind(other.kind()), of_fs),
        };
        CliError::new(exit, error.to_string(), hint)
    }
}

/// Exit code and hint of each kind.
pub(crate) fn of_kind(kind: Kind) -> (Exit, &'static str) {
    match kind {
        Kind::Retry | Kind::NotLeader => (
            Exit::Unreachable,
            "check that the nodes run (`everhold up`, `everhold node ls`) or name others with --cluster HOST:PORT",
        ),
        Kind::Fenced => (Exit::Busy, "the cluster changed meanwhile; run the command again"),
        Kind::NotFound => {
            (Exit::NotFound, "look at what there is with `everhold fs ls` or `everhold status`")
        }
        Kind::Conflict => (Exit::Conflict, "look at the present state, then decide again"),
        Kind::Invalid => {
            (Exit::Usage, "correct the request; `everhold help` lists what is possible")
        }
        Kind::Corrupt => (
            Exit::Corrupt,
            "look at `everhold repair ls` and `everhold events`; bring back any node that was lost",
        ),
        Kind::Busy => {
            (Exit::Busy, "the cluster is overloaded; wait a little, then run the command again")
        }
        Kind::Full => (
            Exit::Full,
            "remove files (`everhold fs rm`) or add nodes; `everhold fs df` shows the space",
        ),
        Kind::MaybeApplied => (
            Exit::Busy,
            "the outcome is unknown: look whether it took effect before you run the command again",
        ),
        Kind::Foreign => (
            Exit::Foreign,
            "use the addresses of one cluster, and programs of one version, on both sides",
        ),
        Kind::Internal => {
            (Exit::Failed, "look at the node's log (DIR/nodeN/log) and at `everhold events`")
        }
    }
}

/// Exit code and hint of each failure of the tree.
pub(crate) fn of_fs(error: &FsError) -> (Exit, &'static str) {
    match error {
        FsError::NotFound => (Exit::NotFound, "see what there is with `everhold fs ls`"),
        FsError::Exists => (Exit::Conflict, "remove it first, or choose another name"),
        FsError::NotDirectory => {
            (Exit::Failed, "a part of the path is a file; check it with `everhold fs stat`")
        }
        FsError::IsDirectory => (Exit::Failed, "use -r for directories, or name a file in it"),
        FsError::NotEmpty => {
            (Exit::Conflict, "use `everhold fs rm -r` to remove a directory with all it holds")
        }
        FsError::Invalid | FsError::NameTooLong | FsError::Loop => (
            Exit::Usage,
            "check the path: absolute, names of 1 to 255 bytes, not . or .., no loop of links",
        ),
        FsError::Locked => {
            (Exit::Conflict, "another program has locked it; try again when it is done")
        }
        FsError::NoSpace => of_kind(Kind::Full),
        FsError::Stale { .. } => of_kind(Kind::Conflict),
        FsError::NoSession
        | FsError::Fenced
        | FsError::Skipped
        | FsError::Delegated { .. }
        | FsError::WindowExceeded
        | FsError::BlocksRefused(_) => of_kind(Kind::Busy),
        FsError::MaybeApplied => of_kind(Kind::MaybeApplied),
        FsError::TooManyLinks
        | FsError::TooLarge
        | FsError::NoLocks
        | FsError::NotPermitted
        | FsError::NoAttribute => (
            Exit::Failed,
            "this cannot be done with this file; see its attributes with `everhold fs stat`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_and_a_hint() {
        for kind in [
            Kind::Retry,
            Kind::NotLeader,
            Kind::Fenced,
            Kind::NotFound,
            Kind::Conflict,
            Kind::Invalid,
            Kind::Corrupt,
            Kind::Busy,
            Kind::Full,
            Kind::MaybeApplied,
            Kind::Foreign,
            Kind::Internal,
        ] {
            assert!(!of_kind(kind).1.is_empty(), "{kind:?}");
        }
        let error = CliError::from(FsError::NotFound).about("/a");
        assert_eq!(error.exit, Exit::NotFound);
        assert_eq!(
            error.to_string(),
            "everhold: /a: no such file or directory\nhint: see what there is with `everhold fs ls`"
        );
    }
}
