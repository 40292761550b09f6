//! Errors of the client as `errno`.

use everhold_client::ClientError;
use everhold_proto::Kind;
use everhold_proto::fs::FsError;
use fuser::Errno;

/// Why an operation of the mount failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Known here.
    Errno(Errno),
    /// From the client.
    Client(ClientError),
}

/// Result of an operation.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        Failure::Client(e)
    }
}

impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        Failure::Errno(e)
    }
}

impl From<FsError> for Failure {
    fn from(e: FsError) -> Self {
        Failure::Client(e.into())
    }
}

impl Failure {
    /// The number that the program gets.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Failure::Errno(errno) => *errno,
            Failure::Client(e) => match e.fs() {
                Some(e) => of_tree(e),
                None => of_cluster(e.kind()),
            },
        }
    }

    /// Whether the cluster says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Failure::Client(e) if e.is_not_found())
    }

    /// Whether it is the cluster's failure and not the program's mistake.
    pub(crate) fn is_of_cluster(&self) -> bool {
        matches!(self, Failure::Client(e) if e.fs().is_none())
    }
}

fn of_tree(e: &FsError) -> Errno {
    match e {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Invalid => Errno::EINVAL,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::Loop => Errno::ELOOP,
        FsError::TooLarge => Errno::EFBIG,
        FsError::NotPermitted => Errno::EPERM,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::NoAttribute => Errno::ENODATA,
        FsError::Stale { .. } => Errno::ESTALE,
        FsError::Locked => Errno::EAGAIN,
        FsError::NoLocks => Errno::ENOLCK,
        FsError::BlocksRefused(_)
        | FsError::Delegated { .. }
        | FsError::Fenced
        | FsError::NoSession
        | FsError::MaybeApplied
        | FsError::Skipped
        | FsError::WindowExceeded => Errno::EIO,
    }
}

fn of_cluster(kind: Kind) -> Errno {
    match kind {
        Kind::Full => Errno::ENOSPC,
        Kind::NotFound => Errno::ENOENT,
        Kind::Invalid => Errno::EINVAL,
        _ => Errno::EIO,
    }
}
